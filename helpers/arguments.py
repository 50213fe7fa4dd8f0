"""The doors through which arguments come in: each converts and checks one, before any work, and refuses in one sentence that names it.

Every room may import this file, but the methods: each of those can be copied alone, and carries the little that it needs of it.

    sizes = {}
    rows = numbers("features", features, "N d", sizes)         # any array-like: a tensor (N, d), at home where it came from
    labels = numbers("labels", labels, "N", sizes, whole=True)  # as many rows, or a sentence that says so
    k = integer("k", k, low=1, high=len(rows))
    return like(features, result)                               # the same kind as came in

A call costs microseconds; sizes, dtypes and ranges stand where the function begins and can be read as its documentation.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor

__all__ = ["by_class", "choice", "flag", "function", "generators", "got", "instance", "integer", "like", "numbers", "real", "texts"]


def got(value) -> str:
    """What came, in a few words: "float64 array of shape (3, 4)", "'nearst'", "a generator"."""
    if isinstance(value, Tensor):
        kind = "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        place = "" if value.device.type == "cpu" else f" on {value.device.type}"
        return f"{kind}{str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}{place}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    if value is None or isinstance(value, (bool, str, bytes, Real, complex, np.generic)):
        if isinstance(value, int) and abs(value) >= 10**50:
            return "a whole number of more than fifty digits"
        return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    if hasattr(value, "to_numpy") and hasattr(value, "shape"):
        return f"{type(value).__name__} of shape {value.shape}"
    if isinstance(value, (list, tuple, set, frozenset, dict, range)):
        return repr(value) if len(repr(value)) <= 60 else f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _hollow(value: Tensor) -> bool:
    """A shape without numbers, on the meta device; a subclass of Tensor that names this device holds numbers of its own."""
    return value.is_meta and type(value) in (Tensor, torch.nn.Parameter)


def _array(name: str, value, expected: str) -> np.ndarray:
    """`value` as a numeric array in this machine's byte order; pandas by position."""
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or value is None:
        raise TypeError(f"{name} must be {expected}, got {got(value)}")
    if np.ma.isMaskedArray(value) and (hidden := int(np.ma.getmaskarray(value).sum())):
        raise ValueError(f"{name} must be {expected}, got an array with {hidden} masked entries: fill them, or leave their rows out")
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            value = torch.stack([torch.as_tensor(v) for v in value]).detach().cpu()
        array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
    except Exception as error:  # ragged lists, what only looks like an array: whatever numpy makes of it, the argument is named
        raise ValueError(f"{name} must be {expected}, got {got(value)}, which makes no array") from error
    if array.dtype == object and array.size and all(isinstance(v, Real) and not isinstance(v, bool) for v in array.flat):
        array = np.array(array.tolist())  # of pandas' own kinds of numbers, nothing missing
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be {expected}, got {got(value) if array.dtype == object else got(array)}")
    return array


def numbers(
    name: str, value, shape: str, sizes: dict | None = None, *, low: float | None = None, high: float | None = None, whole: bool = False,
    finite: bool = True, masks: bool = False, empty: bool = False, detach: bool = True, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Any array-like as a tensor, on the device it came on; numpy, lists and pandas land on the CPU, sharing memory where they can.

    shape: one word an axis: a number fixes its size, a letter must agree with `sizes` (which is filled, {"N": 60, ...}) and within the shape, "..." first
    stands for any axes before. low, high: the closed range. whole: integers only (floats that are whole are refused: labels are no measurements).
    finite: refuse NaN and infinities. masks: take booleans too. empty: take no entries. detach: False keeps the gradient. dtype: converted to it.
    ValueError (shape, range, NaN) or TypeError (kind, dtype).
    """
    axes = f"({', '.join(shape.split())}{',' if len(shape.split()) == 1 else ''})"
    expected = f"{'whole numbers' if whole else 'numbers'} {axes}"
    if isinstance(value, Tensor):
        if value.layout != torch.strided or _hollow(value) or value.is_complex() or value.is_quantized:
            raise TypeError(f"{name} must be {expected}, got {got(value)}")
        tensor = value.detach() if detach else value
        if value.dtype in (torch.uint16, torch.uint32, torch.uint64):  # with which torch can hardly compute
            tensor = tensor.to(torch.int64)
            if value.dtype == torch.uint64 and (tensor < 0).any():
                raise ValueError(f"{name} must be {expected} below 2**63, got {got(value)} with more in it")
        elif value.is_floating_point() and value.element_size() == 1:
            raise TypeError(f"{name} must be {expected} of 16 bits or more, got {got(value)}")
    else:
        array = _array(name, value, expected)
        if array.dtype.kind == "u" and array.dtype != np.uint8:
            if array.dtype.itemsize == 8 and array.size and array.max() >= 2**63:
                raise ValueError(f"{name} must be {expected} below 2**63, got {array.max()}")
            array = array.astype(np.int64)
        wanted = np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
        array = array.astype(wanted, copy=False)
        if not array.flags.writeable or any(step < 0 for step in array.strides):
            array = array.copy()
        tensor = torch.from_numpy(array)
    if tensor.dtype == torch.bool and not masks:
        raise TypeError(f"{name} must be {expected}, got {got(value)}")
    if whole and tensor.is_floating_point():
        raise TypeError(f"{name} must be {expected}, got {got(value)}")
    words, have = shape.split(), list(tensor.shape)
    if words and words[0] == "...":
        words, have = words[1:], have[max(0, len(have) - len(words) + 1) :]
    if len(words) != len(have):
        raise ValueError(f"{name} must be {expected}, got shape {tuple(tensor.shape)}")
    sizes = {} if sizes is None else sizes
    for word, size in zip(words, have):
        known = int(word) if word.isdigit() else sizes.setdefault(word, size)
        if size != known:
            where = "" if word.isdigit() else f" with {word} = {known}"
            raise ValueError(f"{name} must be {expected}{where}, got shape {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        if not empty:
            raise ValueError(f"{name} must be {expected} and not empty, got shape {tuple(tensor.shape)}")
    elif tensor.dtype != torch.bool:
        least, most = (float(x) for x in tensor.detach().aminmax())
        if finite and not (abs(least) < float("inf") and abs(most) < float("inf")):
            raise ValueError(f"{name} must be finite {expected}, got {'NaN' if least != least else 'an infinity'} in it")
        if (low is not None and least < low) or (high is not None and most > high):
            raise ValueError(f"{name} must be {expected} {_range(low, high)}, got values from {least:.4g} to {most:.4g}")
    return tensor if dtype is None else tensor.to(dtype)


def by_class(name: str, value, names: Sequence | None = None):
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
        raise TypeError(f"{name} must be plain numbers in the order of the classes, or named {wanted}, got the names {got(keys)}")
    return held


def like(value, result: Tensor):
    """`result` as the kind that `value` is: a tensor on its device; for numpy, lists and pandas a numpy array."""
    if isinstance(value, Tensor):
        return result.to(value.device)
    return (result.float() if result.dtype == torch.bfloat16 else result).detach().cpu().numpy()  # numpy has no bfloat16


def _range(low, high, above: bool = False, below: bool = False) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f"{'>' if above else '>='} {low:g}"
    if low is None:
        return f"{'<' if below else '<='} {high:g}"
    return f"in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"


def _scalar(value):
    """The Python number in what may be a numpy number or an array of one entry and no axes; None where it is none, or masked."""
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim or np.ma.is_masked(value) or (isinstance(value, Tensor) and _hollow(value)):
            return None
        value = value.item()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, bool) or not isinstance(value, Real) else value


def integer(name: str, value, *, low: int | None = None, high: int | None = None) -> int:
    """A whole number in the closed range; no bool, no float. ValueError or TypeError."""
    expected = f"a whole number {_range(low, high)}".rstrip()
    plain = _scalar(value)
    try:
        found = operator.index(plain)
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {got(value)}") from None
    if (low is not None and found < low) or (high is not None and found > high):
        raise ValueError(f"{name} must be {expected}, got {got(found)}")
    return found


def real(name: str, value, *, low: float | None = None, high: float | None = None, above: bool = False, below: bool = False) -> float:
    """A finite number in the range; above, below: the bound itself is out. ValueError or TypeError."""
    expected = f"a number {_range(low, high, above, below)}".rstrip()
    plain = _scalar(value)
    if plain is None:
        raise TypeError(f"{name} must be {expected}, got {got(value)}")
    try:
        found = float(plain)
    except OverflowError:
        found = float("inf")
    outside = (low is not None and (found < low or (above and found == low))) or (high is not None and (found > high or (below and found == high)))
    if not abs(found) < float("inf") or outside:
        raise ValueError(f"{name} must be {expected}, got {got(value)}")
    return found


def choice(name: str, value, options: Iterable[str]) -> str:
    """One of the options. ValueError that lists them, TypeError for what is no text."""
    options = list(options)
    listed = ", ".join(repr(option) for option in options)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}, got {got(value)}")
    if value not in options:
        raise ValueError(f"{name} must be one of {listed}, got {got(value)}")
    return str(value)


def texts(name: str, value, *, count: int | None = None, options: Iterable[str] | None = None) -> list[str]:
    """A text or several as a list; one alone stands for all `count`. ValueError or TypeError."""
    expected = "a text or a list of texts"
    if isinstance(value, str):
        found = [value] * (count or 1)
    elif isinstance(value, (list, tuple)) or (hasattr(value, "tolist") and not isinstance(value, Tensor)):
        found = list(value.tolist() if hasattr(value, "tolist") else value)
    else:
        raise TypeError(f"{name} must be {expected}, got {got(value)}")
    wrong = [v for v in found if not isinstance(v, str)]
    if wrong:
        raise TypeError(f"{name} must be {expected}, got {got(wrong[0])} in it")
    if not found or (count is not None and len(found) != count):
        raise ValueError(f"{name} must be {expected}{'' if count is None else f', {count} of them'}, got {len(found)}")
    return [choice(name, v, options) for v in found] if options is not None else [str(v) for v in found]


def flag(name: str, value) -> bool:
    """True or False; 0, 1, "no" and None are refused with TypeError."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {got(value)}")
    return bool(value)


def instance(name: str, value, kinds, expected: str):
    """`value` itself if it is one of the kinds; TypeError that says what is expected ("a torch.nn.Module")."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {expected}, got {got(value)}")
    return value


def function(name: str, value, expected: str = "a function"):
    """`value` itself if it can be called; TypeError."""
    if not callable(value):
        raise TypeError(f"{name} must be {expected}, got {got(value)}")
    return value


def generators(name: str, value, count: int | None = None):
    """None, one torch.Generator, or a list or tuple of them, one a picture: as diffusers takes them (a list). ValueError or TypeError."""
    if value is None or isinstance(value, torch.Generator):
        return value
    expected = f"a torch.Generator or a list of {'them, one a picture' if count is None else count}"
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, torch.Generator) for v in value):
        raise TypeError(f"{name} must be {expected}, got {got(value)}")
    if not value or (count is not None and len(value) != count):
        raise ValueError(f"{name} must be {expected}, got {len(value)}")
    return list(value)
