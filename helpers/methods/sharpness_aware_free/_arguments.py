"""What comes in, checked: each function converts one argument, before any work, and refuses in one sentence that names it."""

import math
from collections.abc import Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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
    if isinstance(value, (Tensor, np.ndarray)):
        place = f" on {value.device.type}" if isinstance(value, Tensor) and value.device.type != "cpu" else ""
        return f"{str(value.dtype).removeprefix('torch.')} {'tensor' if isinstance(value, Tensor) else 'array'} of shape {tuple(value.shape)}{place}"
    shown = repr(value) if value is None or isinstance(value, (str, bytes, Real, complex, list, tuple, dict)) else f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _option(name: str, value: Any, options: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(options)}, got {_got(value)}")
    return str(_choice(name, value, options))


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_got(value)}")
    return bool(value)


def _instance(name: str, value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    return value


def _function(name: str, value: Any, expected: str) -> Any:
    if not callable(value):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    return value


def _generator(value: Any) -> torch.Generator | None:
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {_got(value)}")
    return value


def _dtype(name: str, value: Any) -> torch.dtype:
    if not isinstance(value, torch.dtype):
        raise TypeError(f"{name} must be torch.float32, torch.float16 or torch.bfloat16, got {_got(value)}")
    return _choice(name, value, (torch.float32, torch.float16, torch.bfloat16))


def _hollow(value: Tensor) -> bool:
    """A shape without numbers, on the meta device; a subclass of Tensor that names this device holds numbers of its own."""
    return value.is_meta and type(value) in (Tensor, nn.Parameter)


def _tensor(name: str, value: Any, expected: str, kinds: str) -> Tensor:
    """Any array-like of floating-point ("f") or whole ("i") numbers as a tensor, on the device it came on, with its gradient."""
    if isinstance(value, Tensor):
        found = "f" if value.is_floating_point() else "i" if not value.is_complex() and value.dtype != torch.bool else "c"
        if found not in kinds or value.layout != torch.strided or value.is_quantized or _hollow(value):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        value = value.clone() if value.is_inference() else value  # gradients cannot go through what was made in inference mode
        return value.to(torch.int64) if value.dtype in (torch.uint16, torch.uint32, torch.uint64) else value
    if value is None or isinstance(value, (str, bytes, Mapping, Set)) or np.ma.is_masked(value):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(one, Tensor) for one in value):
            value = torch.stack([torch.as_tensor(one) for one in value]).detach().cpu().numpy()
        array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
    except Exception as error:  # ragged lists, what only looks like an array
        raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
    if array.dtype.kind.replace("u", "i") not in kinds:
        raise TypeError(f"{name} must be {expected}, got {_got(value if array.dtype == object else array)}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    array = array.astype(np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("="))  # a copy: views may be read-only or run backwards
    return torch.from_numpy(np.ascontiguousarray(array))


def _numbers(name: str, value: Any, shape: Sequence[int | None], words: str) -> Tensor:
    """Finite floating-point numbers of a shape, None for any size of an axis; words: what they are, "(B, C)"."""
    expected = f"floating-point numbers {words}"
    found = _tensor(name, value, expected, "f")
    if found.ndim != len(shape) or any(size not in (None, own) for size, own in zip(shape, found.shape)) or not found.numel():
        raise ValueError(f"{name} must be {expected}{' and not empty' if not found.numel() else ''}, got shape {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise ValueError(f"{name} must be finite {expected}, got {'NaN' if found.isnan().any() else 'an infinity'} in it")
    return found


def _rows(name: str, value: Any, below: int | None = None, count: int | None = None) -> Tensor:
    """Whole numbers (B,) from 0 on, as int64; count: how many, below: what each must stay under."""
    expected = f"whole numbers ({'B' if count is None else count},) " + (">= 0" if below is None else f"in 0..{below - 1}")
    found = _tensor(name, value, expected, "i")
    if found.ndim != 1 or not len(found) or count not in (None, len(found)):
        raise ValueError(f"{name} must be {expected}, got shape {tuple(found.shape)}")
    low, high = (int(end) for end in found.aminmax())
    if low < 0 or (below is not None and high >= below):
        raise ValueError(f"{name} must be {expected}, got {low if low < 0 else high}")
    return found.long()


def _like(value: Any, result: Tensor) -> Any:
    """`result` as the kind that `value` is: a tensor on its device; for numpy, lists and pandas an array."""
    if isinstance(value, Tensor):
        return result.to(value.device)
    return (result.float() if result.dtype == torch.bfloat16 else result).detach().cpu().numpy()
