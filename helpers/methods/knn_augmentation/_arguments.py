"""What comes in, checked: each function converts one argument, before any work, and refuses in one sentence that names it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LARGEST = 1e150  # its square is still a number
_MOST_CLASSES = 2**20


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
        if value.is_floating_point() and value.element_size() == 1:
            raise TypeError(f"{name} must be {expected} of 16 bits or more, got {_got(value)}")
        if value.dtype in (torch.uint16, torch.uint32, torch.uint64):  # with which torch can hardly compute
            signed = value.to(torch.int64)
            if value.dtype == torch.uint64 and (signed < 0).any():
                raise ValueError(f"{name} must be {expected} below 2**63, got {_got(value)} with more in it")
            return signed
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


def _grid(name: str, values: Any, check: Callable) -> list:
    """The numbers to try, each checked; read once, so that a generator serves, and in their order, which a set has not."""
    if isinstance(values, (str, bytes, Mapping, set, frozenset)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of numbers, got {_got(values)}")
    try:
        found = [check(name, value) for value in (values.cpu().tolist() if isinstance(values, Tensor) else values)]
    except NotImplementedError as error:  # a meta tensor
        raise TypeError(f"{name} must be a sequence of numbers, got {_got(values)}") from error
    if not found:
        raise ValueError(f"{name} must hold a number or more, got none")
    return found


def _by_class(name: str, value: Any, names: Sequence | None = None) -> Any:
    """One value for each class in the order of the classes. A Series or dict says which class by its names: those of a table's columns (`names`), or the
    numbers 0 .. C - 1; other names must be in ascending order, as those of a scikit-learn classifier are."""
    if isinstance(value, Mapping):
        keys, held = list(value), list(value.values())
    elif hasattr(value, "to_numpy") and hasattr(value, "index"):
        keys, held = list(value.index), value.to_numpy()
    else:
        return value
    for order in (names, range(len(keys))):
        if order is not None and len(order) == len(set(keys)) == len(keys) and set(order) == set(keys):
            return [held[keys.index(one)] for one in order]
    named = names is not None and all(isinstance(one, str) for one in (*names, *keys))
    if isinstance(value, Mapping) or named or not all(type(a) is type(b) and a < b for a, b in zip(keys, keys[1:], strict=False)):
        wanted = ", ".join(map(str, names)) if named else "0 .. C - 1, or ascending ones in a Series"
        raise TypeError(f"{name} must be plain numbers in the order of the classes, or named {wanted}, got the names {_got(keys)}")
    return held


def _features(name: str, value: Any, width: int | None = None) -> Tensor:
    """Rows (N, D) in single or double precision, whichever holds the numbers that came and their squares."""
    expected = f"numbers (N, {'D' if width is None else width})"
    rows = _tensor(name, value, expected)
    if rows.ndim != 2 or rows.shape[1] == 0 or width not in (None, rows.shape[1]):
        raise ValueError(f"{name} must be {expected}, got shape {tuple(rows.shape)}")
    rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no double precision
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.to(torch.float64 if rows.dtype in (torch.int32, torch.int64) else torch.float32)
    largest = float(rows.abs().amax()) if len(rows) else 0.0
    if not math.isfinite(largest):
        wrong = ~torch.isfinite(rows)
        row = int(wrong.any(1).nonzero()[0])
        raise ValueError(f"{name} must be finite {expected}, got {float(rows[row][wrong[row]][0])} in row {row}")
    if largest > _LARGEST:
        raise ValueError(f"{name} must be {expected} of at most {_LARGEST:g} in size, got {largest:g}: divide them")
    return rows.double() if largest > 1e15 else rows


def _whole_numbers(name: str, value: Any, rows: int, of: str) -> Tensor:
    """Whole numbers, one for each of the rows of another argument."""
    expected = f"whole numbers ({rows},), one for each row of {of}"
    found = _tensor(name, value, expected)
    if found.is_floating_point():
        raise TypeError(f"{name} must be {expected}, got {_got(found)}")
    if found.shape != (rows,):
        raise ValueError(f"{name} must be {expected}, got shape {tuple(found.shape)}")
    return found.long()


def _labels(name: str, value: Any, rows: int, classes: int, of: str, said_by: str | None = None) -> Tensor:
    found = _whole_numbers(name, value, rows, of)
    if rows and (found.min() < 0 or found.max() >= classes):
        why = f"the columns of {of}" if said_by is None else said_by
        raise ValueError(f"{name} must be in 0 .. {classes} - 1 ({why}), got {int(found.min())} to {int(found.max())}")
    return found


def _probabilities(name: str, value: Any, shape: tuple[int, int] | None = None, *, of: str = "", sums: str = "to 1", detach: bool = True) -> Tensor:
    """Rows (N, C) of probabilities that sum "to 1", "to 1 at most" or to "any" number. What comes in half precision goes on in single precision."""
    expected = "probabilities " + ("(N, C)" if shape is None else f"({shape[0]}, {shape[1]}) as {of} are")
    given = _tensor(name, value, expected, detach=detach)
    if given.ndim != 2 or given.shape[1] == 0 or shape not in (None, tuple(given.shape)):
        raise ValueError(f"{name} must be {expected}, got shape {tuple(given.shape)}")
    rows = given if given.dtype in (torch.float32, torch.float64) else given.to(torch.float32 if given.is_floating_point() else torch.float64)
    seen, slack = rows.detach(), max(1e-4, 8 * torch.finfo(given.dtype).eps) if given.is_floating_point() else 0.0
    total = seen.sum(1)
    good = ((seen >= 0) & (seen <= 1 + slack)).all(1)
    if sums != "any":
        good &= (total <= 1 + slack) & ((total >= 1 - slack) | (sums == "to 1 at most"))
    if not good.all():
        row = int((~good).nonzero()[0])
        about = f"sums to {float(total[row]):.4g} with the smallest entry {float(seen[row].amin()):.4g}"
        raise ValueError(
            f"{name} must be {expected}{' in [0, 1]' if sums == 'any' else f' whose rows sum {sums}'}; row {row} {about}. "
            "For logits, apply softmax first; where rounding is to blame, divide each row by its sum."
        )
    return rows


def _columns(value: Any) -> list | None:
    """The names of a table's columns, None where it has none."""
    return list(value.columns) if hasattr(value, "to_numpy") and hasattr(value, "columns") else None


def _same_order(name: str, value: Any, of: str, first: Any) -> None:
    """Refuse a table whose columns are those of the first one in another order: they would be mixed up by their places."""
    ours, theirs = _columns(first), _columns(value)
    if ours is not None and theirs is not None and ours != theirs and set(ours) == set(theirs):
        raise ValueError(f"{name} must have the columns of {of} in their order, {_got(ours)}, got {_got(theirs)}")


def _logits(value: Any) -> Tensor:
    given = _tensor("logits", value, "numbers (B, C)", detach=False)
    if given.ndim != 2 or 0 in given.shape:
        raise ValueError(f"logits must be numbers (B, C) and not empty, got shape {tuple(given.shape)}")
    if not torch.isfinite(given.detach()).all():
        raise ValueError("logits must be finite numbers (B, C), got NaN or an infinity in them")
    return given if given.dtype in (torch.float32, torch.float64) else given.float()


def _class_weights(value: Any, logits: Tensor) -> Tensor:
    classes = logits.shape[1]
    if value is None:
        return torch.ones(classes, dtype=logits.dtype, device=logits.device)
    weights = _tensor("class_weights", _by_class("class_weights", value), f"numbers ({classes},) >= 0")
    if weights.shape != (classes,):
        raise ValueError(f"class_weights must be ({classes},), one for each column of logits, got {tuple(weights.shape)}")
    weights = weights.to(logits)
    if not (torch.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"class_weights must be finite numbers ({classes},) >= 0, got values from {float(weights.min()):.4g} to {float(weights.max()):.4g}")
    return weights
