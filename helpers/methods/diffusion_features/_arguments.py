"""What comes in, checked: each function converts one argument, before any work, and refuses in one sentence that names it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_LABELS = MOST_PIXELS = 2**16  # what a mask of 16 bits holds; along a side


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
    if isinstance(value, Tensor | np.ndarray):
        place = f" on {value.device.type}" if isinstance(value, Tensor) and value.device.type != "cpu" else ""
        return f"{str(value.dtype).removeprefix('torch.')} {'tensor' if isinstance(value, Tensor) else 'array'} of shape {tuple(value.shape)}{place}"
    if isinstance(value, list | tuple | dict | set) and len(repr(value)) > 60:
        return f"a {type(value).__name__} of {len(value)}"
    plain = value is None or isinstance(value, str | bytes | Real | complex | list | tuple | dict | set)
    return repr(value) if plain else f"a {type(value).__name__}"


def _hollow(value: Any) -> bool:
    """A shape without numbers, on the meta device; a subclass of Tensor that names this device holds numbers of its own."""
    return isinstance(value, Tensor) and value.is_meta and type(value) in (Tensor, nn.Parameter)


def _option(name: str, value: Any, options: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(options)}, got {_got(value)}")
    return _choice(name, value, options)


def _rng(name: str, value: Any) -> np.random.Generator:
    if isinstance(value, np.random.Generator):
        return value
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer >= 0, the seed, or a numpy Generator, got {_got(value)}")
    return np.random.default_rng(_integer(name, value, 0))


def _several(name: str, values: Any) -> tuple:
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence, got {_got(values)}")
    if isinstance(values, Tensor | np.ndarray) and (not values.ndim or _hollow(values)):
        raise TypeError(f"{name} must be a sequence, got {_got(values)}")
    flat = hasattr(values, "tolist") and getattr(values, "ndim", 1) == 1
    if not (found := tuple(values.tolist() if flat else values)):
        raise ValueError(f"{name} must be a sequence that is not empty, got {_got(values)}")
    return found


def _size(name: str, size: Any, smallest: int = 2) -> tuple[int, int]:
    if len(found := _several(name, size)) != 2:
        raise ValueError(f"{name} must be (height, width), got {_got(size)}")
    return _integer(name, found[0], smallest, MOST_PIXELS), _integer(name, found[1], smallest, MOST_PIXELS)


def _hidden(value: Any) -> int:
    """How many entries of a numpy masked array, or of those in a list, are masked: numpy would show what lies behind the mask."""
    parts = value if isinstance(value, list | tuple) else [value]
    return sum(int(np.ma.getmaskarray(part).sum()) for part in parts if isinstance(part, np.ma.MaskedArray))


def _numbers(name: str, value: Any, *layouts: str, note: str = "", masks: bool = False, finite: bool = True) -> Tensor:
    """Any array-like of numbers as a tensor, on the device it came on; numpy, lists and pandas (by position) land on the CPU.

    layouts: of its axes, as "K, 2": a number fixes its size. masks: takes booleans, too. The result keeps its dtype and its gradient.
    """
    expected = f"numbers ({') or ('.join(layouts)}){note}"
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or _hollow(value):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if value.is_floating_point() and value.element_size() == 1:
            raise TypeError(f"{name} must be {expected} of 16 bits or more, got {_got(value)}")
        tensor = value
        if value.dtype in (torch.uint16, torch.uint32, torch.uint64):  # with which torch can hardly compute
            signed = value.to(torch.int64)
            tensor = value.double() if value.dtype == torch.uint64 and (signed < 0).any() else signed
    else:
        if isinstance(value, Mapping) or not (isinstance(value, list | tuple) or hasattr(value, "__array__")):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if hidden := _hidden(value):
            raise ValueError(f"{name} must be {expected}, got an array with {hidden} masked entries: fill them, or leave their rows out")
        try:
            if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
                value = torch.stack([torch.as_tensor(one) for one in value]).detach().cpu()
            array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        except Exception as error:  # whatever numpy makes of a ragged list or of what only looks like an array
            raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be {expected}, got {_got(value if array.dtype == object else array)}")
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.float64 if array.dtype.itemsize == 8 and array.size and array.max() >= 2**63 else np.int64)
        array = array.astype(np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("="), copy=False)
        tensor = torch.from_numpy(array if array.flags.writeable and all(step >= 0 for step in array.strides) else array.copy())
    if tensor.is_complex() or (tensor.dtype == torch.bool and not masks):
        raise TypeError(f"{name} must be {expected}, got {_got(tensor)}")
    axes = [layout.split(", ") for layout in layouts]
    if not any(len(words) == tensor.ndim and all(not w.isdigit() or int(w) == n for w, n in zip(words, tensor.shape)) for words in axes):
        raise ValueError(f"{name} must be {expected}, got shape {tuple(tensor.shape)}")
    if not tensor.numel():
        raise ValueError(f"{name} must be {expected} and not empty, got shape {tuple(tensor.shape)}")
    if finite and not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite {expected}, got {'NaN' if tensor.isnan().any() else 'an infinity'} in it")
    return tensor


def _floats(name: str, value: Any, *layouts: str, masks: bool = False) -> Tensor:
    """As `_numbers`, in a floating-point dtype and without a gradient."""
    found = _numbers(name, value, *layouts, masks=masks).detach()
    return found if found.is_floating_point() else found.to(torch.get_default_dtype())


def _pictures(name: str, value: Any, layout: str, low: float = 0) -> Tensor:
    """Floating-point numbers in [low, 1]: bytes would be taken for pictures that are nearly white."""
    found = _numbers(name, value, layout, note=f" in [{low:g}, 1]").detach()
    if not found.is_floating_point():
        raise TypeError(f"{name} must be floating-point numbers ({layout}) in [{low:g}, 1], got {_got(value)}")
    least, most = float(found.min()), float(found.max())
    if least < low or most > 1:
        raise ValueError(f"{name} must be numbers ({layout}) in [{low:g}, 1], got values from {least:.3g} to {most:.3g}")
    return found


def _points(name: str, points: Any, size: tuple[int, int] | None = None) -> Tensor:
    named = [str(column).strip().lower() for column in getattr(points, "columns", ())]
    if named in (["y", "x"], ["row", "column"], ["row", "col"], ["rows", "columns"], ["r", "c"], ["i", "j"]):
        raise ValueError(f"{name} must be (K, 2) as x, y, got columns {', '.join(map(str, points.columns))}: swap them")
    found = _numbers(name, points, "K, 2", note=" as x, y").detach()
    if size is not None and not _inside(found, size):
        swapped = "; as row, column they would: swap them" if _inside(found.flip(1), size) else ""
        raise ValueError(f"{name} must lie in the image of height {size[0]} and width {size[1]}, got x, y up to {found.amax(0).tolist()}"
                         f" and down to {found.amin(0).tolist()}{swapped}")  # fmt: skip
    return found


def _inside(points: Tensor, size: tuple[int, int]) -> bool:
    points = points.cpu().double()
    return bool(((points >= -0.5) & (points <= torch.tensor([size[1] - 0.5, size[0] - 0.5]))).all())


def _like(given: Any, found: Tensor) -> Any:
    """`found` as the kind that `given` is: a tensor on its device; numpy for all else."""
    if isinstance(given, Tensor):
        return found.float().to(given.device) if given.device.type == "mps" and found.dtype == torch.float64 else found.to(given.device)
    found = found.detach().cpu()
    return (found.float() if found.dtype == torch.bfloat16 else found).numpy()
