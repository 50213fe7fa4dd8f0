"""What comes in, checked: each function converts one argument, before any work, and refuses in one sentence that names it."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _got(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    shown = repr(value) if isinstance(value, str | bytes | Real | complex | np.generic | list | tuple | set | frozenset | dict | range | None) else ""
    return shown if 0 < len(shown) <= 60 else f"a {type(value).__name__}"


def _hidden(value: Any) -> int:
    """How many entries of a numpy masked array, or of those in a list, are masked: numpy would show what lies behind the mask."""
    parts = value if isinstance(value, list | tuple) else [value]
    return sum(int(np.ma.getmaskarray(part).sum()) for part in parts if isinstance(part, np.ma.MaskedArray))


def _numbers(name: str, value: Any, shape: str, *, low: float | None = None, high: float | None = None, whole: bool = False) -> Tensor:
    """Any array-like of floating-point numbers as a tensor without gradient, on the device it came on. shape: one word an axis, a number
    fixes its size, "..." stands for any axes; low, high: the closed range; whole: integers too."""
    axes = f"({', '.join(shape.split())})"
    expected = f"{'numbers' if whole else 'floating-point numbers'} {axes}"
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized:
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        tensor = value.detach()
    else:
        if value is None or isinstance(value, str | bytes | Mapping | set | frozenset):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if hidden := _hidden(value):
            raise ValueError(f"{name} must be {expected}, got an array with {hidden} masked entries: fill them, or leave their rows out")
        try:
            if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
                value = torch.stack([torch.as_tensor(one) for one in value]).detach().cpu().numpy()
            array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        except Exception as error:  # ragged lists, what only looks like an array
            raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be {expected}, got {_got(value if array.dtype == object else array)}")
        array = array.astype(np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("="))  # a copy: views may be read-only or run backwards
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.is_complex() or tensor.dtype == torch.bool or not (whole or tensor.is_floating_point()):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    if tensor.is_floating_point() and tensor.element_size() == 1:
        raise TypeError(f"{name} must be {expected} of 16 bits or more, got {_got(value)}")
    huge = tensor.dtype == torch.uint64
    tensor = tensor.to(torch.int64) if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor  # with which torch can hardly compute
    words = shape.split()
    if words != ["..."] and (len(words) != tensor.ndim or any(word.isdigit() and int(word) != size for word, size in zip(words, tensor.shape))):
        raise ValueError(f"{name} must be {expected}, got shape {tuple(tensor.shape)}")
    if not tensor.numel():
        raise ValueError(f"{name} must be {expected} and not empty, got shape {tuple(tensor.shape)}")
    try:
        least, most = (float(x) for x in tensor.aminmax())
    except (RuntimeError, NotImplementedError):  # on the meta device there is nothing to read
        raise TypeError(f"{name} must be {expected}, got {_got(value)} without numbers") from None
    if huge and least < 0:
        raise ValueError(f"{name} must be {expected} below 2**63, got {_got(value)} with more in it")
    if not (abs(least) < float("inf") and abs(most) < float("inf")):
        raise ValueError(f"{name} must be finite {expected}, got {'NaN' if least != least else 'an infinity'} in it")
    if (low is not None and least < low) or (high is not None and most > high):
        raise ValueError(f"{name} must be {expected} {_range(low, high)}, got values from {least:.4g} to {most:.4g}")
    return tensor


def _range(low: float | None, high: float | None) -> str:
    return f"in [{low:g}, {high:g}]" if None not in (low, high) else f">= {low:g}" if high is None and low is not None else ""


def _scalar(value: Any) -> Any:
    """The Python number in what may be a numpy number or an array without axes; None where it is none."""
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim or np.ma.is_masked(value):
            return None
        try:
            value = value.item()
        except RuntimeError:  # on the meta device
            return None
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, bool) or not isinstance(value, Real) else value


def _integral(name: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    expected = f"a whole number {_range(low, high)}".rstrip()
    try:
        found = operator.index(_scalar(value))
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {_got(value)}") from None
    if (low is not None and found < low) or (high is not None and found > high):
        raise ValueError(f"{name} must be {expected}, got {_got(found)}")
    return found


def _integers(name: str, value: Any, *, low: int, high: int | None = None, empty: bool = False) -> tuple[int, ...]:
    """A collection of whole numbers: list, tuple, set, range, the keys of a mapping, array, pandas."""
    expected = f"whole numbers {_range(low, high)}"
    value = value.tolist() if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1 else value
    if isinstance(value, str | bytes) or not isinstance(value, Collection) or getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{name} must be a collection of {expected}, got {_got(value)}")
    if not value and not empty:
        raise ValueError(f"{name} must be a collection of {expected}, got {_got(value)}")
    return tuple(_integral(name, one, low=low, high=high) for one in value)


def _finite(name: str, value: Any, *, low: float | None = None, high: float | None = None) -> float:
    expected = f"a number {_range(low, high)}".rstrip()
    found = _scalar(value)
    if found is None:
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    if not abs(found) < float("inf") or (low is not None and found < low) or (high is not None and found > high):
        raise ValueError(f"{name} must be {expected}, got {_got(value)}")
    return float(found)


def _option(name: str, value: Any, options: Sequence[str]) -> str:
    listed = ", ".join(map(repr, options))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}, got {_got(value)}")
    if value not in options:
        raise ValueError(f"{name} must be one of {listed}, got {_got(value)}")
    return value


def _texts(name: str, value: Any) -> list[str]:
    expected = "a text or a list of texts"
    found = [value] if isinstance(value, str) else value.tolist() if hasattr(value, "tolist") and not isinstance(value, Tensor) else value
    if not isinstance(found, list | tuple):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    for one in found:
        if not isinstance(one, str):
            raise TypeError(f"{name} must be {expected}, got {_got(one)} in it")
    if not found:
        raise ValueError(f"{name} must be {expected}, got 0")
    return [str(one) for one in found]


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {_got(value)}")
    return bool(value)


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {_got(value)}")
    return value


def _mapping(name: str, value: Any) -> Mapping:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping from levels, got {_got(value)}")
    return value


def _nu(name: str, value: Any, shape: Sequence[int]) -> float | Tensor:
    if not (isinstance(value, list | tuple) or getattr(value, "ndim", 0)):
        return _finite(name, value, low=0, high=1)
    value = _numbers(name, value, "...", low=0, high=1)
    if value.ndim > len(shape) or any(own not in (1, side) for own, side in zip(reversed(value.shape), reversed(shape))):
        raise ValueError(f"{name} must broadcast to {tuple(shape)}, got {tuple(value.shape)}")
    return value


def _batch(**counts: int) -> int:
    batch = max(counts.values())
    if any(count not in (1, batch) for count in counts.values()):
        raise ValueError(f"batch sizes must be 1 or equal, got {', '.join(f'{count} for {name}' for name, count in counts.items())}")
    return batch
