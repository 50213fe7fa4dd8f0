"""Arguments as they come in: converted, checked and refused in one sentence."""

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def _masked(value: Any) -> bool:
    """Whether something of a numpy masked array, or of a list of them, is masked: numpy would show what lies behind the mask."""
    return np.ma.is_masked(value) or (isinstance(value, (list, tuple)) and any(isinstance(v, np.ma.MaskedArray) and np.ma.is_masked(v) for v in value))


def _got(value: Any) -> str:
    """What came, in a few words: "float64 array of shape (3, 4)", "'nearst'", "a generator"."""
    if _masked(value):
        return "masked entries: leave their rows out, or put numbers in their place with .filled(value)"
    if isinstance(value, (Tensor, np.ndarray)):
        place = f" on {value.device.type}" if isinstance(value, Tensor) and value.device.type != "cpu" else ""
        return f"{str(value.dtype).removeprefix('torch.')} {'tensor' if isinstance(value, Tensor) else 'array'} of shape {tuple(value.shape)}{place}"
    if value is None or isinstance(value, (bool, str, bytes, Real, complex, np.generic, list, tuple, set, dict)):
        return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    return f"a {type(value).__name__}"


def _tensor(name: str, value: Any, expected: str, *, detach: bool = True) -> Tensor:
    """Any array-like of real numbers as a tensor, on the device it came on; numpy, lists and pandas (by position) land on the CPU."""
    if isinstance(value, Tensor):
        hollow = value.is_meta and type(value) in (Tensor, torch.nn.Parameter)  # a shape without numbers
        if hollow or value.layout != torch.strided or value.is_complex() or value.is_quantized or value.dtype == torch.bool:
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        return value.detach() if detach else value
    if value is None or isinstance(value, (str, bytes, Mapping, set, frozenset)):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            return _tensor(name, torch.stack([torch.as_tensor(v) for v in value]), expected, detach=detach)
        array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        array = np.asarray(array.tolist()) if array.dtype == object else array  # columns of several dtypes
    except Exception as error:  # ragged lists, what only looks like an array: whatever numpy makes of it, the argument is named
        raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
    if array.dtype.kind not in "iuf" or _masked(value):
        raise TypeError(f"{name} must be {expected}, got {_got(value if array.dtype == object or _masked(value) else array)}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.dtype.itemsize == 8 and array.size and array.max() >= 2**63:
            raise ValueError(f"{name} must be {expected} below 2**63, got {array.max()}")
        array = array.astype(np.int64)
    array = array.astype(np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def _like(value: Any, result: Tensor) -> Any:
    """`result` as the kind that `value` is: a tensor on its device; for numpy, lists and pandas an array."""
    if isinstance(value, Tensor):
        return (result.float() if value.device.type == "mps" and result.dtype == torch.float64 else result).to(value.device)  # mps has no float64
    return (result.float() if result.dtype == torch.bfloat16 else result).detach().cpu().numpy()


def _option(name: str, value: Any, options: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in options:
        raise (ValueError if isinstance(value, str) else TypeError)(f"{name} must be one of {', '.join(map(repr, options))}, got {_got(value)}")
    return str(value)


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


def _floats(name: str, value: Any, expected: str) -> Tensor:
    """Any array-like of real numbers as a tensor of a floating dtype; gradients flow."""
    given = _tensor(name, value, expected, detach=False)
    return given if given.is_floating_point() else given.to(torch.get_default_dtype())


def _channels(name: str, value: Any, like: Tensor | None = None, of: str = "") -> Tensor:
    """A gain or an offset: finite numbers (C,), as many as `like` has."""
    given = _floats(name, value, "finite numbers (C,)")
    if given.ndim != 1 or not len(given) or not torch.isfinite(given).all():
        raise ValueError(f"{name} must be finite numbers (C,), got {_got(given) if given.ndim != 1 or not len(given) else 'some that are not'}")
    if like is not None and len(given) != len(like):
        raise ValueError(f"{name} must have the {len(like)} channels of {of}, got {len(given)}")
    return given if like is None else given.to(like.device)


def _module(name: str, value: Any) -> nn.Module:
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {_got(value)}")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    """One name or several."""
    several = (value,) if isinstance(value, str) else value
    if not isinstance(several, Collection) or isinstance(several, (bytes, Mapping, Tensor, np.ndarray)) or not all(isinstance(v, str) for v in several):
        raise TypeError(f"{name} must be a name or a collection of names, got {_got(value)}")
    if not len(several) or "" in several:
        raise ValueError(f"{name} must hold a name or more, got {_got(value)}")
    return tuple(map(str, several))
