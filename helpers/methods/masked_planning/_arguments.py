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
    return repr(value) if value is None or isinstance(value, (str, bytes, Real)) else f"a {type(value).__name__}"


def _option(name: str, value: Any, options: Sequence) -> Any:
    if not isinstance(value, str) and not (value is None and None in options):
        raise TypeError(f"{name} must be one of {', '.join(map(str, options))}, got {_got(value)}")
    return _choice(name, value, options)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_got(value)}")
    return bool(value)


def _instance(name: str, value: Any, kind: type) -> Any:
    if not isinstance(getattr(value, "_orig_mod", value), kind):  # what torch.compile wraps is there under this name
        inner = "module" if isinstance(getattr(value, "module", None), kind) else "get_base_model()" if hasattr(value, "get_base_model") else None
        raise TypeError(f"{name} must be a {kind.__name__}, got {_got(value)}{'' if inner is None else f'; give what it wraps, its .{inner}'}")
    return value


def _items(name: str, value: Any, expected: str) -> list:
    """The entries of a list, tuple, range, array, Series or tensor of one axis; each is still to be checked."""
    found = value.tolist() if hasattr(value, "tolist") and not (isinstance(value, Tensor) and _hollow(value)) else value
    if not isinstance(found, (list, tuple, range)):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    return list(found)


def _hollow(value: Tensor) -> bool:
    """A shape without numbers, on the meta device; a subclass of Tensor that names this device holds numbers of its own."""
    return value.is_meta and type(value) in (Tensor, nn.Parameter)


def _hidden(value: Any) -> int:
    """How many entries of a numpy masked array, or of those in a list, are masked: numpy would show what lies behind the mask."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    return sum(int(np.ma.getmaskarray(part).sum()) for part in parts if isinstance(part, np.ma.MaskedArray))


def _signed(name: str, value: Tensor, expected: str) -> Tensor:
    """Whole numbers without a sign and wider than a byte, with which torch can hardly compute, as int64."""
    if value.dtype not in (torch.uint16, torch.uint32, torch.uint64):
        return value
    signed = value.to(torch.int64)
    if value.dtype == torch.uint64 and (signed < 0).any():
        raise ValueError(f"{name} must be {expected} below 2**63, got {_got(value)} with more in it")
    return signed


def _tensor(name: str, value: Any, expected: str, kinds: str = "f") -> Tensor:
    """Any array-like of floating-point numbers ("b": of booleans, "i": of whole numbers) as a tensor, on the device it came on, with its gradient."""
    if isinstance(value, Tensor):
        found = "f" if value.is_floating_point() else "b" if value.dtype == torch.bool else "c" if value.is_complex() else "i"
        if found not in kinds or value.layout != torch.strided or _hollow(value):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if value.is_floating_point() and value.element_size() == 1:
            raise TypeError(f"{name} must be {expected} of 16 bits or more, got {_got(value)}")
        return _signed(name, value, expected)
    if value is None or isinstance(value, (str, bytes, Mapping, Set)) or not (isinstance(value, (list, tuple, int, float)) or hasattr(value, "__array__")):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    if hidden := _hidden(value):
        raise ValueError(f"{name} must be {expected}, got an array with {hidden} masked entries: fill them, or leave their rows out")
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
            value = torch.stack(list(value)).detach().cpu()
        array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
    except Exception as error:  # ragged lists, what only looks like an array: whatever numpy makes of it, the argument is named
        raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
    if array.dtype.kind.replace("u", "i") not in kinds:
        raise TypeError(f"{name} must be {expected}, got {_got(array)}")
    wanted = np.int64 if array.dtype.kind in "iu" and array.dtype != np.uint64 else np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    array = array.astype(wanted, copy=False)
    return _signed(name, torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()), expected)


def _like(given: Any, result: Tensor):
    """`result` as the kind that `given` is: a tensor on its device; for numpy, lists and pandas a numpy array."""
    if isinstance(given, Tensor):
        return result.to(given.device)
    return (result.float() if result.dtype == torch.bfloat16 else result).detach().cpu().numpy()  # numpy has no bfloat16


def _finite(name: str, values: Tensor, where: str = "") -> Tensor:
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} must be finite{where}, got NaN or infinity")
    return values


def _clip(name: str, value: Any, *shape: int | None, frames: int | None = None, like: Tensor | None = None, of: str = "clip") -> Tensor:
    """Floating-point numbers (B, K, *shape), K at most `frames`; sizes that are None may be anything. like: a clip, named `of`, of as many clips and frames."""
    wanted = f"(clips, frames, {' x '.join('any' if s is None else str(s) for s in shape)})"
    wanted += "" if like is None else f" as {of} has them"
    value = _tensor(name, value, f"floating-point numbers {wanted}")
    if value.ndim != 2 + len(shape) or any(s not in (None, found) for s, found in zip(shape, value.shape[2:], strict=False)) or 0 in value.shape:
        raise ValueError(f"{name} must be {wanted}, got {tuple(value.shape)}")
    if frames is not None and value.shape[1] > frames:
        raise ValueError(f"{name} must have at most {frames} frames, got {value.shape[1]}")
    if like is not None and value.shape[:2] != like.shape[:2]:
        raise ValueError(f"{name} must be for {like.shape[0]} clips of {like.shape[1]} frames, got {value.shape[0]} of {value.shape[1]} (unlike {of})")
    return value


def _known(is_ref: Any, clips: int, frames: int, of: str = "clip") -> Tensor:
    """`is_ref` as (clips, frames) bool, with a reference and a masked frame in every row. of: whose clips and frames they are."""
    wanted = f"({frames},) or ({clips}, {frames}), as {of} has frames and clips"
    is_ref = _tensor("is_ref", is_ref, f"booleans {wanted}", "b")
    if is_ref.shape not in ((frames,), (clips, frames)):
        raise ValueError(f"is_ref must be {wanted}; got {tuple(is_ref.shape)}")
    is_ref = is_ref.expand(clips, frames)
    if not is_ref.any(1).all():
        raise ValueError("is_ref must have a reference frame in every clip, got a clip with none")
    if is_ref.all(1).any():
        raise ValueError("is_ref must have a masked frame in every clip, got a clip with none")
    return is_ref


def _timestep(timestep: Any, clips: int, count: int | None = None) -> Tensor:
    """One number >= 0 or one for each clip; count: whole numbers below it."""
    expected = f"{'a number' if count is None else 'a whole number'} {'>= 0' if count is None else f'in 0..{count - 1}'}, or one for each of {clips} clips"
    timestep = _tensor("timestep", timestep, expected, "if" if count is None else "i")
    if timestep.shape not in ((), (clips,)):
        raise ValueError(f"timestep must be {expected}, got shape {tuple(timestep.shape)}")
    if not (torch.isfinite(timestep) & (timestep >= 0) & (timestep < (math.inf if count is None else count))).all():
        raise ValueError(f"timestep must be {expected}, got {timestep.tolist()}")
    return timestep


def _random(name: str, generator: Any, count: int | None = None) -> Any:
    """None, a torch.Generator, or a list or tuple of `count` of them."""
    expected = "a torch.Generator" + ("" if count is None else f" or a list of {count}, one a clip")
    if isinstance(generator, (list, tuple)) and count is not None and all(isinstance(g, torch.Generator) for g in generator):
        if len(generator) != count:
            raise ValueError(f"{name} must be {expected}, got {len(generator)}")
    elif generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"{name} must be {expected}, got {_got(generator)}")
    return generator


def _place(generator: torch.Generator | None) -> torch.device:
    """Where a generator draws."""
    return torch.device("cpu") if generator is None else generator.device
