"""What comes in, checked: each function converts one argument, before any work, and refuses in one sentence that names it."""

import math
from collections.abc import Mapping, Sequence
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


def _generator(value: Any) -> torch.Generator | None:
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {_got(value)}")
    return value


def _instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    return value


def _integers(name: str, value: Any, least: int, count: int | None = None, expected: str | None = None) -> tuple[int, ...]:
    """A tuple of whole numbers; `count`: how many."""
    expected = expected or f"{'one or more' if count is None else count} integers >= {least}"
    if not isinstance(value, (tuple, list)) or any(not isinstance(one, Integral) or isinstance(one, bool) for one in value):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    if not value or (count is not None and len(value) != count) or min(value) < least:
        raise ValueError(f"{name} must be {expected}, got {_got(value)}")
    return tuple(map(int, value))


def _grid(name: str, value: Any) -> tuple[int, int]:
    return _integers(name, value, 1, 2, "(rows, columns), two integers >= 1")


def _hollow(value: Tensor) -> bool:
    """A shape without numbers, on the meta device; a subclass of Tensor that names this device holds numbers of its own."""
    return value.is_meta and type(value) in (Tensor, nn.Parameter)


def _numbers(
    name: str, value: Any, shape: str, *, like: str = "", low: float | None = None, high: float | None = None, whole: bool | None = False, detach: bool = True,
) -> Tensor:  # fmt: skip
    """Any array-like as a tensor, on the device it came on. shape: one word an axis, a number fixes its size, "..." in front stands for any axes more;
    like: the argument that such sizes come from; low, high: a closed range; whole: integers only, None: both kinds, otherwise floating-point numbers only, all
    finite."""
    words = shape.split()
    kind = {None: "numbers", True: "whole numbers", False: "floating-point numbers"}[whole]
    expected = f"{kind} ({', '.join(words)}{',' if len(words) == 1 else ''})"
    expected += f", as {like} has them" if like else ""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or _hollow(value):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        tensor = value.detach() if detach else value
        if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):  # with which torch can hardly compute
            tensor = tensor.long()
    else:
        if value is None or isinstance(value, (str, bytes, Mapping, set, frozenset)) or np.ma.is_masked(value):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        try:
            if isinstance(value, (list, tuple)) and any(isinstance(one, Tensor) for one in value):
                value = torch.stack([torch.as_tensor(one) for one in value]).detach().cpu().numpy()
            array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        except Exception as error:  # ragged lists, what only looks like an array: whatever numpy makes of it, the argument is named
            raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{name} must be {expected}, got {_got(value if array.dtype == object else array)}")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        array = array.astype(np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("="))  # a copy: views may be read-only or run backwards
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.is_floating_point() == whole:
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    if tensor.is_floating_point() and tensor.element_size() == 1:
        raise TypeError(f"{name} must be {expected} of 16 bits or more, got {_got(value)}")
    fixed = words[1:] if words[0] == "..." else words
    found = tensor.shape[max(tensor.ndim - len(fixed), 0) :] if words[0] == "..." else tensor.shape
    if len(found) != len(fixed) or any(word.isdigit() and int(word) != size for word, size in zip(fixed, found)):
        raise ValueError(f"{name} must be {expected}, got shape {tuple(tensor.shape)}")
    if not tensor.numel():
        raise ValueError(f"{name} must be {expected} and not empty, got shape {tuple(tensor.shape)}")
    if not whole and not torch.isfinite(tensor).all():
        raise ValueError(f"{name} must be finite {expected}, got {'NaN' if tensor.isnan().any() else 'an infinity'} in it")
    least, most = (float(tensor.min()), float(tensor.max())) if low is not None or high is not None else (0.0, 0.0)
    if (low is not None and least < low) or (high is not None and most > high):
        bounds = f">= {low:g}" if high is None else f"<= {high:g}" if low is None else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be {expected} {bounds}, got {least:g} to {most:g}")
    return tensor


def _like(value: Any, result: Tensor) -> Any:
    """`result` as the kind that `value` is: a tensor on its device; for numpy, lists and pandas an array."""
    if isinstance(value, Tensor):
        return (result.float() if value.device.type == "mps" and result.dtype == torch.float64 else result).to(value.device)
    return (result.float() if result.dtype == torch.bfloat16 else result).detach().cpu().numpy()  # numpy has no bfloat16


def _pictures(value: Any, weight: Tensor) -> Tensor:
    """A batch for a model with such weights: a floating-point tensor (B, 3, H, W) of their device, in their dtype; its numbers are not looked at."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"pictures must be a floating-point tensor (B, 3, H, W), got {_got(value)}")
    if value.ndim != 4 or value.shape[1] != 3 or not value.numel():
        raise ValueError(f"pictures must be a floating-point tensor (B, 3, H, W), got shape {tuple(value.shape)}")
    if value.device != weight.device:
        raise ValueError(f"pictures must lie where the model does, on {weight.device}, got {value.device}")
    return value.to(weight.dtype)
