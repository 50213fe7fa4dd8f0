"""What comes in, checked: each function converts one argument, before any work, and refuses in one sentence that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

# --- checks of arguments: the same text in every method that checks so, since a method is copied alone ---


def _integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    expected = "an integer" + (f" in {least}..{most}" if None not in (least, most) else "" if least is None else f" >= {least}")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return int(value)


def _number(name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> float:
    expected = "a finite number" + (f" in [{least:g}, {most:g}]" if most < math.inf else f" >= {least:g}" if least > -math.inf else "")
    expected += f" > {above:g}" if above > -math.inf else ""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if not (math.isfinite(value) and least <= value <= most and value > above):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return float(value)


def _choice(name: str, value: Any, choices: Sequence) -> Any:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    return value


# --- end of the checks ---


def _got(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)} on {value.device}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _option(name: str, value: Any, options: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(options)}, got {_got(value)}")
    return _choice(name, value, options)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_got(value)}")
    return bool(value)


def _plain(name: str, value: Any) -> float:
    """A number that may also be NaN or infinite: a distance, 0/0 among them."""
    if isinstance(value, (Tensor, np.ndarray)) and not value.ndim and value.dtype not in (torch.bool, bool):
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {_got(value)}")
    return float(value)


def _refuse_unread(name: str, value: Any, expected: str) -> None:
    """What would be read otherwise than it is meant: entries behind a mask, and floats of a byte, with which torch cannot compute."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() == 1:
        raise TypeError(f"{name} must be {expected} of 16 bits or more, got {_got(value)}")
    if np.ma.isMaskedArray(value) and (hidden := int(np.ma.getmaskarray(value).sum())):
        raise ValueError(f"{name} must be {expected}, got an array with {hidden} masked entries: fill them, or leave their rows out")


def _items(name: str, value: Any, expected: str, *, ordered: bool = True) -> list:
    """What can be walked through once, as a list of its entries; arrays as Python's numbers."""
    _refuse_unread(name, value, expected)
    if (
        isinstance(value, (str, bytes, Mapping))
        or (ordered and isinstance(value, (set, frozenset)))
        or (isinstance(value, Tensor) and value.device == torch.device("meta"))
    ):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    try:
        value = value.to_numpy() if hasattr(value, "to_numpy") else value
        return value.tolist() if isinstance(value, (Tensor, np.ndarray)) and value.ndim else list(value)
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {_got(value)}") from None


def _tensor(name: str, value: Any, expected: str = "numbers", *, finite: bool = True) -> Tensor:
    """Any array-like as a tensor without gradient, on the device it came on; not empty, and without NaN and infinities unless these are lawful."""
    if isinstance(value, Tensor):
        tensor = value.detach()
        if tensor.layout != torch.strided or tensor.device == torch.device("meta") or tensor.is_quantized:
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        _refuse_unread(name, value, expected)
        if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):  # with which torch can hardly compute
            tensor = tensor.to(torch.int64)
            if value.dtype == torch.uint64 and bool((tensor < 0).any()):
                raise ValueError(f"{name} must be {expected} below 2**63, got {_got(value)} with more in it")
    else:
        _refuse_unread(name, value, expected)
        if isinstance(value, (str, bytes, Mapping, set, frozenset)) or value is None or callable(value):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        try:
            if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
                value = torch.stack([torch.as_tensor(v).detach().cpu() for v in value])
            array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        except Exception as error:  # ragged lists and what only looks like an array
            raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if array.dtype.kind == "u" or array.dtype == np.longdouble:
            array = array.astype(np.float64)
        tensor = torch.from_numpy(np.array(array.astype(array.dtype.newbyteorder("="), copy=False)))
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    if not tensor.numel():
        raise ValueError(f"{name} must be {expected} and not empty, got {_got(value)}")
    if finite and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite {expected}, got {'NaN' if bool(tensor.isnan().any()) else 'an infinity'} in it")
    return tensor


def _kind(t: Tensor) -> str:
    return f"{tuple(t.shape)} {t.dtype} on {t.device}"
