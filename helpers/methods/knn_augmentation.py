"""k-NN augmentation of a classifier: neighbours re-weight its training loss and are mixed into its predictions.

Jia, Chen, Wu, Cardie, Belongie and Lim, "Rethinking Nearest Neighbors for Visual Classification", 2021, arXiv 2112.08459. Where the paper and the official
code differ, this follows the code's functions, with one exception: the released leave-one-out search labels neighbours wrongly (`slipped_labels` shows
how), and ours does not.

    store = Datastore(train_features, train_labels)
    mixed = interpolate(classifier_probabilities, store.distribution(features, k=20, temperature=0.1), 0.3)

or, around any scikit-learn classifier, `KNNAugmentedClassifier(LogisticRegression()).fit(X, y)`. Features are (N, D), labels (N,) whole numbers 0 .. C - 1:
tensors, arrays, lists, pandas (by position). A result is of the kind of the first argument, tensor or array, and lies where that lies; only `search` gives
tensors always, since the store holds tensors. Bad arguments raise ValueError or TypeError that names the argument, before any work is done.
"""

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

try:
    import faiss
except ImportError:  # everything but `build_index` works without it
    faiss = None

__all__ = [
    "Datastore", "KNNAugmentedClassifier", "Neighbours", "Tuned", "build_index", "focal_like_loss", "interpolate", "knn_distribution", "knn_loss",
    "normalise", "reweighted_loss", "sharded_index", "slipped_labels", "tune",
]  # fmt: skip

NORMS = ("centre", "l2", "none")  # the code's L2NC, L2 and None
SIMILARITIES = ("l2", "cosine")
K_GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TEMPERATURE_GRID = (1e-4, 1e-3, 1e-2, *(round(0.01 * i, 2) for i in range(2, 10)), *(round(0.1 * i, 1) for i in range(1, 10)), 1.0, 10.0)
WEIGHT_GRID = tuple(round(0.05 * i, 2) for i in range(21))  # 0 and 1, which the code leaves out, are in it: the mixture cannot be made to lose
_LOG_FLOOR = -100.0
_CHUNK = 2**24  # distances that are held at once
_GROUP = 128  # distances whose minimum is taken first
_SPARE = 8  # more neighbours are found by products than are asked for; differences then tell which are nearest
_SPLIT = 2**16  # rows that are worked on in double precision at once
_LARGEST = 1e150  # its square is still a number
_MOST_CLASSES = 2**20
_EXACT_UP_TO = 100_000  # rows that `build_index` searches exactly by itself


# ------------------------------------------------------------------------------------------------------------------------- arguments


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


def _store(value: Any) -> "Datastore":
    if not isinstance(value, Datastore):
        raise TypeError(f"store must be a Datastore, got {_got(value)}")
    return value


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


# ------------------------------------------------------------------------------------------------------------------- the neighbours


def _directions(name: str, rows: Tensor, mean: Tensor | None, norm: str, stacklevel: int) -> Tensor:
    """Rows in double precision, less the mean, over their lengths; as they are where norm is "none"."""
    if norm == "none":
        return rows
    parts, short = [], 0
    for some in rows.split(_SPLIT):
        some = some.double() if mean is None else some.double() - mean
        length = some.norm(dim=1, keepdim=True)
        short += int((length < 1e-12).sum())
        parts.append(some / length.clamp_min(1e-12))
    if short:
        message = f"{name}: {short} rows are all zero{' after centring' if norm == 'centre' else ''}; every neighbour is equally near to them"
        warnings.warn(message, stacklevel=stacklevel + 1)
    return torch.cat(parts)


def normalise(features, *, mean=None, norm: str = "centre"):
    """Features (N, D) as the neighbours are searched in, and the mean (D,) that was taken off (section 3.1; the code's NORM_TYPE).

    norm: "centre" takes the mean off, then divides by the length; "l2" only divides; "none" leaves them. mean: of the *training* features, for queries;
    None takes the features' own. Warns where a row has no length to divide by.
    """
    norm = _option("norm", norm, NORMS)
    rows = _features("features", features)
    if mean is not None:
        taken = _tensor("mean", mean, expected := f"numbers ({rows.shape[1]},), one for each column of features")
        if taken.shape != rows.shape[1:]:
            raise ValueError(f"mean must be {expected}, got shape {tuple(taken.shape)}")
        taken = _features("mean", taken[None])[0].to(rows.device, torch.float64)
    elif norm == "centre":
        if len(rows) == 0:
            raise ValueError("features must hold an example or more where they are centred by their own mean, got none")
        taken = rows.mean(0, dtype=torch.float64)
    else:
        taken = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    directions = _directions("features", rows, taken, norm, 2)
    return _like(features, directions.to(rows.dtype)), _like(features, taken.to(rows.dtype))


def knn_distribution(distances, labels, num_classes: int, *, temperature: float = 1.0):
    """Class probabilities (B, C) of squared distances (B, k) to neighbours with labels (B, k), in log space: exact for any temperature.

        p(c) = sum over neighbours with label c of exp(-d^2 / T), divided by the sum over all          (section 3.2)

    A distance may be infinite where a neighbour is missing, but not all of a row.
    """  # fmt: skip
    temperature, num_classes = _number("temperature", temperature, above=0), _integer("num_classes", num_classes, 1, _MOST_CLASSES)
    far = _tensor("distances", distances, "squared distances (B, k)", detach=False)
    if far.ndim != 2 or far.shape[1] == 0:
        raise ValueError(f"distances must be squared distances (B, k), got shape {tuple(far.shape)}")
    far = far if far.dtype in (torch.float32, torch.float64) else far.to(torch.float32 if far.is_floating_point() else torch.float64)
    seen = far.detach()
    if len(far) and not ((seen >= -1e-4).all() and (seen.amin(1) < torch.inf).all()):  # rounding below zero does no harm: only differences count
        raise ValueError(f"distances must be squared distances (B, k) >= 0, in each row a finite one, got {_worst(seen)}")
    near = _tensor("labels", labels, f"whole numbers {tuple(far.shape)}")
    if near.shape != far.shape:
        raise ValueError(f"distances and labels must both be (B, k), got {tuple(far.shape)} and {tuple(near.shape)}")
    near = _labels("labels", near.flatten(), near.numel(), num_classes, "distances", "num_classes").view(far.shape).to(far.device)
    return _like(distances, _votes(far, near, num_classes, temperature))


def _worst(distances: Tensor) -> str:
    if distances.isnan().any():
        return "NaN in them"
    return f"{float(distances.min()):.4g} in them" if distances.min() < 0 else "nothing but infinities in a row"


def _votes(distances: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """`knn_distribution` of checked arguments; distances may be the negative of any score. Of scores that are large for their precision the smallest is taken
    off before anything is divided."""
    weights = -distances / temperature
    if distances.dtype == torch.float32 or (len(weights) and not bool((weights.detach().abs() < 2**20).all())):
        apart = distances.double()
        weights = (apart.amin(1, keepdim=True) - apart) / temperature
    weights = weights.softmax(1).to(distances.dtype)
    return torch.zeros(len(distances), classes, dtype=weights.dtype, device=weights.device).scatter_add(1, labels, weights)


class Neighbours(NamedTuple):
    """distances (B, k): squared, rising; rows (B, k): which stored examples; labels (B, k)."""

    distances: Tensor
    rows: Tensor
    labels: Tensor


def _smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest numbers of each row of (B, N), rising, and where they stand; of equal ones the first.

    Rows are cut into groups. The k groups of the smallest minima hold the k smallest numbers, so that a minimum over groups, which is fast, leaves
    little to sort.
    """
    whole = values.shape[1] // _GROUP * _GROUP
    groups = values[:, :whole].unflatten(1, (-1, _GROUP))
    lowest = groups.amin(2)
    best = lowest.topk(min(k, lowest.shape[1]), largest=False).indices
    near = torch.cat([groups.gather(1, best[..., None].expand(-1, -1, _GROUP)).flatten(1), values[:, whole:]], 1)
    inside, rest = torch.arange(_GROUP, device=values.device), torch.arange(whole, values.shape[1], device=values.device)
    places = torch.cat([(best[..., None] * _GROUP + inside).flatten(1), rest.expand(len(values), -1)], 1)
    last = near.topk(k, largest=False)
    rows = places.gather(1, last.indices)
    limit = last.values[:, -1:]
    tied = ((near <= limit).sum(1) > k) | ((lowest <= limit).sum(1) > best.shape[1])  # more than k are as near as the last: take the first of them
    rows[tied] = values[tied].sort(stable=True).indices[:, :k]
    rows = rows.sort(1).values
    found, order = values.gather(1, rows).sort(dim=1, stable=True)
    return found, rows.gather(1, order)


class Datastore:
    """Every training example: normalised features, labels and ids, searched exactly by default, or by a faiss index.

    features (N, D), labels (N,); num_classes: None takes the largest label; ids (N,), any whole numbers: None numbers them 0 .. N - 1; norm: of `normalise`.
    index: None searches exactly with torch; "faiss" with faiss's exact index; or a factory string such as "IVF256,Flat" (see `build_index`).
    The store lies where the features lie; queries may lie elsewhere, and are answered there.

    Candidates are found by products, |q|^2 - 2 q z + |z|^2, which is fast and cancels where features lie far from zero for their spread, or nearly on one
    another; wherever that can be seen, and always in single precision, distances are then taken as differences, in double precision.
    """

    def __init__(self, features, labels, *, num_classes: int | None = None, ids=None, norm: str = "centre", index: str | None = None):
        rows = _features("features", features)
        if len(rows) == 0:
            raise ValueError("features must hold an example or more, got none")
        limit = _MOST_CLASSES if num_classes is None else _integer("num_classes", num_classes, 1, _MOST_CLASSES)
        labels = _whole_numbers("labels", labels, len(rows), "features")
        if num_classes is None and labels.max() >= limit:
            raise ValueError(
                f"labels must number the classes from 0 on, at most {limit} of them, got {int(labels.max())}: "
                "renumber them with numpy.unique(labels, return_inverse=True)"
            )
        self.labels = _labels("labels", labels, len(rows), limit, "features", "num_classes").to(rows.device, copy=True)
        self.num_classes = int(self.labels.max()) + 1 if num_classes is None else limit
        self.ids = torch.arange(len(rows), device=rows.device) if ids is None else _whole_numbers("ids", ids, len(rows), "features").to(rows.device, copy=True)
        if len(self.ids.unique()) < len(rows):
            raise ValueError(f"ids must all differ, got {len(self.ids.unique())} different ones for {len(rows)} examples")
        self.norm, self.index = _option("norm", norm, NORMS), None
        if index is not None and not isinstance(index, str):
            raise TypeError(f'index must be None, "faiss" or a factory string of faiss, got {_got(index)}')
        self.mean = rows.mean(0, dtype=torch.float64) if norm == "centre" else torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
        directions = _directions("features", rows, self.mean, norm, 2)
        coarse = rows.dtype == torch.float32 and (norm == "none" or _spread(directions) > 1e-4)  # nearly parallel ones need their double precision
        self.features = directions.to(torch.float32 if coarse else torch.float64, copy=directions is rows)
        self._squares, self._shift, self._moved = self.features.square().sum(1), None, self.features
        if _spread(self.features) < 1 / 16:
            self._shift = self.features.mean(0, dtype=torch.float64)
            self._moved = (self.features.double() - self._shift).to(self.features.dtype)
            self._squares = self._moved.square().sum(1)
        if index is not None:
            self.index = _built(_for_faiss(self._moved), "Flat" if index == "faiss" else index, "index")

    def __len__(self) -> int:
        return len(self.features)

    def search(self, queries, k: int, *, exclude=None) -> Neighbours:
        """The k nearest of each query (B, D), by squared distance between normalised features; of equally near ones the earlier stored
        (faiss breaks ties in an order of its own). Tensors, where the queries lie.

        exclude (B,): for each query the id of the stored example that is itself and must not answer (leave-one-out); every id must be in the store.
        """
        found = self._search(*self._checked(queries, k, exclude))
        return Neighbours(*(_like(queries, part) for part in found)) if isinstance(queries, Tensor) else Neighbours(*(part.cpu() for part in found))

    def _checked(self, queries, k: int, exclude) -> tuple[Tensor, int, Tensor | None]:
        """Queries as the store holds its features, k, and the rows that must not answer."""
        k = _integer("k", k, 1, len(self) - (exclude is not None))
        rows = _features("queries", queries, self.features.shape[1]).to(self.features.device)
        own = None if exclude is None else self._rows_of(exclude, len(rows))
        return _directions("queries", rows, self.mean, self.norm, 4), k, own

    @torch.no_grad()
    def _search(self, queries: Tensor, k: int, own: Tensor | None) -> Neighbours:
        distances = torch.zeros(len(queries), k, dtype=self.features.dtype, device=queries.device)
        rows = torch.zeros(len(queries), k, dtype=torch.long, device=queries.device)
        step = max(1, _CHUNK // len(self))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            mine = None if own is None else own[part, None]
            distances[part], rows[part] = (self._exactly if self.index is None else self._through_index)(queries[part], k, mine)
        distances = distances if self.index is None else distances.float()
        return Neighbours(distances, rows, self.labels[rows])

    def _exactly(self, queries: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
        stored = self.features if self._shift is None else self._moved
        near = (queries if self._shift is None else queries.double() - self._shift).to(stored.dtype)
        with _full_precision(near.device.type):
            values = torch.addmm(self._squares, near, stored.T, alpha=-2)  # less the query's own square, which changes no order
        if own is not None:
            values.scatter_(1, own, torch.inf)
        close, rows = _smallest(values, min(k + _SPARE, len(self)))
        squares = near.square().sum(1, keepdim=True)
        distances = (close[:, :k] + squares).clamp_min_(0)
        error = self._error(squares)
        doubtful = (close.diff(dim=1)[:, :k] <= 2 * error).any(1) | (distances[:, 0] < 1e4 * error[:, 0]) | (stored.dtype == torch.float32)
        if not doubtful.any():
            return distances, rows[:, :k]
        rows = rows.contiguous()
        which = doubtful.nonzero()[:, 0]
        apart, order = self._told_apart(queries[which], rows[which], close[which] == torch.inf)
        sure = close[which, -1] - close[which, k - 1] > 2 * error[which, 0] if close.shape[1] < len(self) else torch.ones_like(which, dtype=torch.bool)
        distances[which], rows[which, :k] = apart[:, :k].to(distances.dtype), order[:, :k]
        for i in which[~sure].cpu().tolist():  # more than the spare ones may be as near: ask all that may be
            some = (values[i] <= close[i, k - 1] + 2 * error[i]).nonzero()[:, 0]
            far = torch.cat([self._differences(queries[i, None], part[None])[0] for part in some.split(_SPLIT)]).sort(stable=True)
            distances[i], rows[i, :k] = far.values[:k].to(distances.dtype), some[far.indices[:k]]
        return distances, rows[:, :k]

    def _error(self, squares: Tensor) -> Tensor:
        """How far a distance by products can be off, for queries with these squares (B, 1)."""
        kind = torch.finfo(self._squares.dtype).eps
        if self._squares.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
            kind = 2**-7  # tensor cores may round the factors to eight bits
        return (self.features.shape[1] + 4) * kind * (squares.sqrt() + self._squares.max().sqrt()).square()

    def _differences(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Squared distances of queries (B, D) to stored rows (B, n), as differences in double precision."""
        step = max(1, 2**22 // (rows.shape[1] * queries.shape[1]))
        parts = [(self.features[some].double() - q[:, None].double()).square().sum(2) for q, some in zip(queries.split(step), rows.split(step))]
        return torch.cat(parts)

    def _told_apart(self, queries: Tensor, rows: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Distances of candidate rows (B, n), rising, and the rows in that order, of equal ones the earlier first; infinite where `missing`."""
        rows, order = rows.sort(1)
        far = self._differences(queries, rows).masked_fill(missing.gather(1, order), torch.inf)
        far, order = far.sort(dim=1, stable=True)
        return far, rows.gather(1, order)

    def _through_index(self, queries: Tensor, k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same through faiss, which works in single precision: more neighbours than needed are asked for and told apart by differences. Queries that an
        approximate index finds too few for are searched exactly, as are those for which an exact one may be wrong."""
        near = (queries if self._shift is None else queries.double() - self._shift).float()
        count = min(k + (own is not None) + _SPARE, len(self))
        said, rows = (torch.from_numpy(part).to(queries.device) for part in self.index.search(np.ascontiguousarray(near.cpu().numpy()), count))
        missing = (rows < 0) if own is None else (rows < 0) | (rows == own)
        distances, found = self._told_apart(queries, rows.clamp_min(0), missing)
        distances, found = distances[:, :k].to(self.features.dtype), found[:, :k]
        again = distances[:, -1] == torch.inf
        if count < len(self) and type(self.index) in (faiss.IndexFlat, faiss.IndexFlatL2):
            scale = (near.norm(dim=1) + self._squares.max().sqrt()).double().square()
            again |= said[:, -1] - distances[:, -1] <= 2 * (self.features.shape[1] + 4) * torch.finfo(torch.float32).eps * scale
        if again.any():
            distances[again], found[again] = self._exactly(queries[again], k, None if own is None else own[again])
        return distances, found

    def _rows_of(self, exclude, count: int) -> Tensor:
        ids = _whole_numbers("exclude", exclude, count, "queries").to(self.ids.device)
        order = self.ids.argsort()
        place = torch.searchsorted(self.ids[order], ids).clamp(max=len(order) - 1)
        rows = order[place]
        if (missing := self.ids[rows] != ids).any():
            raise ValueError(f"exclude must hold ids of stored examples; {int(ids[missing][0])} is not stored")
        return rows

    @torch.no_grad()
    def _most_alike(self, queries: Tensor, k: int, own: Tensor | None) -> Neighbours:
        """The k stored examples with the largest product, and the products' negatives as distances."""
        stored, found = self.features.double(), []
        for start in range(0, len(queries), max(1, _CHUNK // len(self))):
            values = -(queries[start : start + max(1, _CHUNK // len(self))].double() @ stored.T)
            if own is not None:
                values.scatter_(1, own[start : start + len(values), None], torch.inf)
            found.append(_smallest(values, k))
        empty = [(stored.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long, device=stored.device))]
        distances, rows = (torch.cat(part) for part in zip(*(found or empty), strict=True))
        return Neighbours(distances, rows, self.labels[rows])

    def distribution(self, queries, *, k: int = 20, temperature: float = 1.0, similarity: str = "l2", exclude=None):
        """Class probabilities (B, C) of the k nearest. similarity: "cosine" takes the k with the largest product s of (normalised) features and weighs by
        exp(s / T), which is "l2" at 2 T where these have length 1; with norm "none" s is the product of the features as they are, as in the code.
        exclude: as in `search`."""
        temperature, similarity = _number("temperature", temperature, above=0), _option("similarity", similarity, SIMILARITIES)
        checked = self._checked(queries, k, exclude)
        if similarity == "cosine" and self.norm == "none":
            found = self._most_alike(*checked)
            votes = _votes(found.distances, found.labels, self.num_classes, temperature).to(self.features.dtype)
        else:
            found = self._search(*checked)
            votes = _votes(found.distances, found.labels, self.num_classes, (2.0 if similarity == "cosine" else 1.0) * temperature)
        return _like(queries, votes)


def _spread(rows: Tensor) -> float:
    """The share of the rows' mean square that is not their mean's; near 0 they lie far from zero for their spread."""
    whole = float(rows.square().sum(1, dtype=torch.float64).mean())
    return 1.0 if whole == 0 else max(0.0, 1 - float(rows.mean(0, dtype=torch.float64).square().sum()) / whole)


def _full_precision(device: str):
    """Products inside a reader's autocast keep the precision of their factors."""
    return torch.autocast(device, enabled=False) if device in ("cpu", "cuda", "xpu") else contextlib.nullcontext()


def _for_faiss(features) -> np.ndarray:
    if faiss is None:
        raise ImportError("an index needs faiss: pip install faiss-cpu")
    rows = _features("features", features)
    if len(rows) == 0:
        raise ValueError("features must hold an example or more, got none")
    if float(rows.abs().amax()) > 1e15:
        raise ValueError(f"features must be at most 1e15 in size for faiss, which works in single precision, got {float(rows.abs().amax()):g}: divide them")
    if _spread(rows) < 1e-3:
        warnings.warn(
            "features lie far from zero for their spread, and faiss works in single precision: take their mean off, and off the queries", stacklevel=3
        )
    return np.ascontiguousarray(rows.float().cpu().numpy())


def build_index(features, kind: str = "auto"):
    """A faiss index over features (N, D) by squared distance. kind: a factory string, or "auto": exact up to 100 000 rows, then inverted lists
    (4 sqrt(N) of them, an eighth searched). Raises ImportError where faiss is missing. Warns where single precision, in which faiss works, is too coarse."""
    if not isinstance(kind, str):
        raise TypeError(f"kind must be a factory string of faiss, got {_got(kind)}")
    rows = _for_faiss(features)
    return _built(rows, kind)


def _built(rows: np.ndarray, kind: str, name: str = "kind"):
    if kind == "auto":
        kind = "Flat" if len(rows) <= _EXACT_UP_TO else f"IVF{int(4 * len(rows) ** 0.5)},Flat"
    try:
        index = faiss.index_factory(rows.shape[1], kind)
        if not index.is_trained:
            index.train(rows)
        index.add(rows)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f'{name} must be "auto" or a factory string of faiss that {len(rows)} rows of {rows.shape[1]} allow, got {kind!r}: {reason}'
        ) from error
    if (lists := faiss.try_extract_index_ivf(index)) is not None:
        lists.nprobe = max(1, lists.nlist // 8)
    return index


def sharded_index(features, shards: int, kind: str = "Flat"):
    """One faiss index that asks `shards` of them and joins their answers; rows are numbered as in `features`. Each shard may live where its memory is."""
    if not isinstance(kind, str):
        raise TypeError(f"kind must be a factory string of faiss, got {_got(kind)}")
    rows = _for_faiss(features)
    shards = _integer("shards", shards, 1, len(rows))
    whole = faiss.IndexShards(rows.shape[1], False, True)  # not threaded; shard i continues the numbers of shard i - 1
    for part in np.array_split(rows, shards):
        whole.add_shard(_built(part.copy(), kind))
    return whole


def slipped_labels(store: Datastore, queries, k: int, exclude) -> Neighbours:
    """Leave-one-out as the official code does it, to see what one line can do: the own column is removed, and positions in the *shortened* list are used
    as rows of the full one, so that every neighbour stored after the query gets the label of the row before it."""
    if exclude is None:
        raise TypeError("exclude must be ids of stored examples, one for each query, got None")
    found = _store(store).search(queries, k, exclude=exclude)
    own = store._rows_of(exclude, len(found.rows))[:, None].to(found.rows.device)
    rows = found.rows - (found.rows > own).long()
    return Neighbours(found.distances, rows, store.labels.to(rows.device)[rows])


# ------------------------------------------------------------------------------------------------------- step 1: easy and hard examples


def knn_loss(probabilities, labels):
    """How hard the neighbours find each example: -log p_knn(y), at most 100; (N, C) and (N,) -> (N,). No gradient flows back (section 3.4)."""
    rows = _probabilities("probabilities", probabilities, sums="to 1 at most")
    labels = _labels("labels", labels, *rows.shape, "probabilities").to(rows.device)
    chosen = rows.gather(1, labels[:, None])[:, 0]
    return _like(probabilities, -chosen.log().clamp_min(_LOG_FLOOR))


def reweighted_loss(logits, labels, hardness, *, alpha: float = 0.01, class_weights=None):
    """Cross-entropy, each example's multiplied by 1 + alpha * hardness (section 3.4, the paper's equation 4): a learning rate of its own.

    logits (B, C), labels (B,), hardness (B,): of `knn_loss`. The mean is over B. class_weights (C,), a Series or dict by class number too, weigh both
    factors, as in the code, so that a class with weight w counts w + alpha w^2 hardness.
    """
    alpha, scores = _number("alpha", alpha, 0), _logits(logits)
    labels = _labels("labels", labels, *scores.shape, "logits").to(scores.device)
    hard = _tensor("hardness", hardness, f"numbers ({len(labels)},) >= 0")
    if hard.shape != labels.shape:
        raise ValueError(f"hardness must be {tuple(labels.shape)}, got {tuple(hard.shape)}")
    hard = (hard if hard.dtype in (torch.float32, torch.float64) else hard.to(scores.dtype)).to(scores.device)
    if not (torch.isfinite(hard) & (hard >= -1e-3)).all():  # a probability a rounding above 1 is a little less than easy
        raise ValueError(f"hardness must be finite numbers ({len(labels)},) >= 0, got values from {float(hard.min()):.4g} to {float(hard.max()):.4g}")
    weights = _class_weights(class_weights, scores)
    plain = weights[labels] * F.cross_entropy(scores, labels, reduction="none")
    return _like(logits, (plain if alpha == 0 else (1 + alpha * weights[labels] * hard) * plain).mean())


def focal_like_loss(logits, labels, probabilities, *, gamma: float = 2.0, class_weights=None):
    """Cross-entropy, each example's multiplied by (1 - p_knn(y))^gamma (section 3.5, `knn_focalstar` in the code). probabilities (B, C) of the neighbours.

    class_weights (C,): multiply the cross-entropy of their class, once, as in the code; the mean is over B, not over the weights.
    """
    gamma, scores = _number("gamma", gamma, 0), _logits(logits)
    labels = _labels("labels", labels, *scores.shape, "logits").to(scores.device)
    near = _probabilities("probabilities", probabilities, tuple(scores.shape), sums="any", of="logits").to(scores.device)
    _same_order("probabilities", probabilities, "logits", logits)
    weights = _class_weights(class_weights, scores)
    doubt = (1 - near.gather(1, labels[:, None])[:, 0]).clamp(0, 1)
    plain = F.cross_entropy(scores, labels, reduction="none")
    return _like(logits, (doubt.pow(gamma) * (plain if class_weights is None else weights[labels] * plain)).mean())


# ------------------------------------------------------------------------------------------------------------- step 2: interpolation


def interpolate(classifier, neighbours, weight: float):
    """weight * neighbours + (1 - weight) * classifier: two (N, C) of probabilities -> (N, C) (section 3.6). 0 and 1 give either, to the last bit."""
    weight = _number("weight", weight, 0, 1)
    parts = [_tensor(name, value, "probabilities (N, C)", detach=False) for name, value in (("classifier", classifier), ("neighbours", neighbours))]
    if parts[0].shape != parts[1].shape:
        raise ValueError(f"classifier and neighbours must have one shape, got {tuple(parts[0].shape)} and {tuple(parts[1].shape)}")
    for name, part in zip(("classifier", "neighbours"), parts, strict=True):
        _probabilities(name, part)
    _same_order("neighbours", neighbours, "classifier", classifier)
    said, near = (part if part.is_floating_point() else part.double() for part in parts)
    return _like(classifier, _mixed(said, near.to(said.device), weight))


def _mixed(said: Tensor, near: Tensor, weight: float) -> Tensor:
    if weight in (0, 1):
        return (near if weight else said).clone()
    return weight * near + (1 - weight) * said


class Tuned(NamedTuple):
    """The chosen k, temperature and weight, with the accuracy on the validation rows: of the mixture, the neighbours alone and the classifier alone."""

    k: int
    temperature: float
    weight: float
    accuracy: float
    knn_accuracy: float
    classifier_accuracy: float


def tune(
    store: Datastore, features, classifier, labels, *, ks: Iterable[int] | None = None, temperatures: Iterable[float] = TEMPERATURE_GRID,
    weights: Iterable[float] = WEIGHT_GRID, exclude=None,
) -> Tuned:  # fmt: skip
    """Choose (k, T, weight) by the mixture's accuracy on validation rows; of equals the one with the better neighbours alone, then the earlier in the grid.

    features (N, D), classifier (N, C): its probabilities, labels (N,). ks: None stands for 1, 2, 4 .. 512, N / C and C, as far as the store reaches. (The code
    skips every k above the number of classes, so that a two-class task only ever tries 1 and 2; ours does not.) exclude: as in `Datastore.search`.
    """
    said = _probabilities("classifier", classifier)
    truth = _labels("labels", labels, *said.shape, "classifier")
    if len(truth) == 0:
        raise ValueError("labels must hold a validation row or more, got none")
    if said.shape[1] != _store(store).num_classes:
        raise ValueError(f"classifier must have the store's {store.num_classes} classes, got {said.shape[1]}")
    limit = len(store) - (exclude is not None)
    if ks is None:
        ks = sorted({k for k in (*K_GRID, len(store) // store.num_classes, store.num_classes) if 1 <= k <= limit})
    ks = _grid("ks", ks, lambda name, k: _integer(name, k, 1, limit))
    temperatures = _grid("temperatures", temperatures, lambda name, t: _number(name, t, above=0))
    weights = _grid("weights", weights, lambda name, w: _number(name, w, 0, 1))
    rows = _features("features", features, store.features.shape[1])
    if len(rows) != len(truth):
        raise ValueError(f"features must be ({len(truth)}, {rows.shape[1]}), a row for each of classifier and labels, got {tuple(rows.shape)}")
    found = store.search(rows, max(ks), exclude=exclude)
    said, truth = said.to(found.distances.device), truth.to(found.distances.device)

    def right(p: Tensor) -> float:
        return float((p.argmax(1) == truth).double().mean())

    base, best, best_key = right(said), None, None
    for k, temperature in product(ks, temperatures):
        near = _votes(found.distances[:, :k], found.labels[:, :k], store.num_classes, temperature).to(said.dtype)
        alone = right(near)
        for weight in weights:
            mixed = right(_mixed(said, near, weight))
            if best is None or (mixed, alone) > best_key:
                best, best_key = Tuned(k, temperature, weight, mixed, alone, base), (mixed, alone)
    return best


def _plain(value: Any) -> Any:
    """What scikit-learn reads: a tensor as an array, wherever it lies; everything else as it is."""
    if not isinstance(value, Tensor):
        return value
    found = _tensor("X and y", value, "arrays or tensors of numbers")
    return (found.float() if found.dtype == torch.bfloat16 else found).cpu().numpy()


def _missing(value: Any) -> bool:
    try:
        return value is None or not value == value
    except (TypeError, ValueError):  # pandas.NA is neither
        return True


def _comparable(y: Any) -> None:
    """Refuse labels some of which are missing, or which are of several kinds and have no order."""
    try:
        found = np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else y) if y is not None and not isinstance(y, Tensor) else np.empty(0)
    except Exception:  # no array: scikit-learn says what it is
        return
    if found.dtype != object:
        return
    found = found.ravel().tolist()
    for row, label in enumerate(found):
        if _missing(label):
            raise ValueError(f"y must be labels (N,), none of them missing, got {label!r} in row {row}: leave such rows out")
        if isinstance(label, str) != isinstance(found[0], str):
            raise TypeError(f"y must be labels (N,), all numbers or all texts, got {_got(found[0])} in row 0 and {_got(label)} in row {row}")


class KNNAugmentedClassifier(ClassifierMixin, BaseEstimator):
    """Any scikit-learn classifier with `predict_proba`, its probabilities mixed with those of the k nearest training examples.

    fit holds `validation` of the examples back (a share, or how many; stratified where every class allows it; the row of a class that has no other stays
    in training), chooses k, temperature and weight on them, then fits the classifier, on the labels as they are, and the store on everything. It warns
    where there is too little to choose on. k, temperature, weight: numbers are taken as they are instead of being chosen. Labels may be numbers or texts.
    Where X is a pandas table whose columns have texts for names, the estimator gets a table too, in double precision. Whatever predict would
    fail at is refused by fit.
    """

    def __init__(self, estimator=None, *, k=None, temperature=None, weight=None, norm="centre", validation=0.25, random_state=0):
        self.estimator, self.k, self.temperature, self.weight = estimator, k, temperature, weight
        self.norm, self.validation, self.random_state = norm, validation, random_state

    def fit(self, X, y):
        made = copy.copy(self)  # a refusal leaves the model as it was
        made._fit(X, y)
        self.__dict__ = vars(made)
        return self

    def _fit(self, X, y):
        self._check_parameters()
        frame = type(X) if hasattr(X, "iloc") else None
        X, y = self._validated(X, y)
        self._frame = frame if hasattr(self, "feature_names_in_") else None
        try:
            check_classification_targets(y)
        except ValueError as error:
            raise ValueError(f"y must be labels (N,), whole numbers or texts: {error}") from error
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold two classes or more, got one class: {self.classes_[0]}")
        if self.k is not None:
            _integer("k", self.k, 1, len(X))
        if isinstance(self.validation, Integral):
            _integer("validation", self.validation, 1, len(X) - 1)
        given = (self.k, self.temperature, self.weight)
        self.k_, self.temperature_, self.weight_ = given if None not in given else self._choose(X, codes)
        self.estimator_ = self._new().fit(self._handed(X), y)
        self._probabilities_of(self.estimator_, X[:1])
        self.store_ = self._store(X, codes)

    def _check_parameters(self):
        if self.k is not None:
            _integer("k", self.k, 1)
        if self.temperature is not None:
            _number("temperature", self.temperature, above=0)
        if self.weight is not None:
            _number("weight", self.weight, 0, 1)
        _option("norm", self.norm, NORMS)
        if isinstance(self.validation, Integral):
            _integer("validation", self.validation, 1)
        elif _number("validation", self.validation, 0, 1, above=0) == 1:
            raise ValueError(f"validation must be a share in (0, 1) or a whole number of examples, got {self.validation}")
        try:
            check_random_state(self.random_state)
        except ValueError as error:
            raise ValueError(f"random_state must be None, a whole number or a numpy RandomState, got {_got(self.random_state)}") from error
        estimator = self.estimator
        if estimator is not None and (isinstance(estimator, type) or not hasattr(estimator, "fit") or not hasattr(type(estimator), "predict_proba")):
            raise TypeError(f"estimator must be a classifier, made, with fit and predict_proba, got {_named(estimator)}")

    def _validated(self, *rows, reset: bool = True):
        """X, or X and y, as scikit-learn checks them; what it says gets the arguments' names."""
        for name, value, expected in zip("Xy", rows, ("finite numbers (N, D)", "labels (N,)"), strict=False):
            if _masked(value):
                raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if reset:
            _comparable(rows[1])
        try:
            return validate_data(self, *map(_plain, rows), dtype=np.float64, reset=reset)
        except (TypeError, ValueError) as error:
            sentence = f"X must be finite numbers (N, D){', y labels (N,)' if reset else ''}: {error}"
            raise (TypeError if isinstance(error, TypeError) else ValueError)(sentence) from error

    def _new(self):
        return clone(self.estimator) if self.estimator is not None else LogisticRegression(max_iter=1000)

    def _store(self, X, codes) -> Datastore:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a row at the very mean is no mistake of the caller's
            return Datastore(X, codes, num_classes=len(self.classes_), norm=self.norm)

    def _choose(self, X, codes) -> tuple[int, float, float]:
        alone = np.bincount(codes)[codes] == 1  # the only rows of their classes: they stay in training
        rest = codes[~alone]
        held_back = self.validation if isinstance(self.validation, Integral) else math.ceil(self.validation * len(rest))
        classes, left = len(np.unique(rest)), len(rest) - held_back
        if left < max(classes, 1):
            return self._without_choice(f"{held_back} of the {len(rest)} rows that could be held back leave too few for {classes} classes")
        stratify = rest if min(held_back, left) >= classes else None
        parts = train_test_split(X[~alone] if alone.any() else X, rest, test_size=self.validation, random_state=self.random_state, stratify=stratify)
        kept, held, kept_codes, held_codes = parts
        if alone.any():
            kept, kept_codes = np.concatenate([kept, X[alone]]), np.concatenate([kept_codes, codes[alone]])
        if len(np.unique(kept_codes)) < len(self.classes_):
            return self._without_choice("classes are so small that all of their rows are held back")
        probabilities = self._probabilities_of(self._new().fit(self._handed(kept), self.classes_[kept_codes]), held)
        k = None if self.k is None else min(self.k, len(kept))
        grids = {name: [value] for name, value in (("ks", k), ("temperatures", self.temperature), ("weights", self.weight)) if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            best = tune(self._store(kept, kept_codes), held, probabilities, held_codes, **grids)
        return best.k if self.k is None else self.k, best.temperature, best.weight

    def _handed(self, rows: np.ndarray) -> Any:
        """Rows as the estimator gets them: in a table with the names of the columns where fit was given one."""
        return rows if self._frame is None else self._frame(rows, columns=self.feature_names_in_, copy=False)

    def _without_choice(self, why: str) -> tuple[int, float, float]:
        taken = self.k or 1, self.temperature or 1.0, 0.5 if self.weight is None else self.weight
        warnings.warn(f"nothing to choose on: {why}; taken are k, temperature, weight = {taken}", stacklevel=5)
        return taken

    def _probabilities_of(self, fitted, X) -> Tensor:
        if not hasattr(fitted, "predict_proba"):
            raise TypeError(f"estimator must have predict_proba, got {_named(self.estimator)}, which has none as it was made")
        said = np.asarray(fitted.predict_proba(self._handed(X)), dtype=np.float64)
        if said.shape != (len(X), len(self.classes_)):
            raise ValueError(f"estimator must give probabilities ({len(X)}, {len(self.classes_)}), got {said.shape} from {_named(self.estimator)}")
        if (named := getattr(fitted, "classes_", None)) is not None and (order := list(named)) != (ours := list(self.classes_)):
            if set(order) != set(ours):
                raise ValueError(f"estimator must know the classes {_got(ours)}, got {_got(order)} from {_named(self.estimator)}")
            said = said[:, [order.index(one) for one in ours]]
        return torch.from_numpy(said)

    def predict_proba(self, X) -> np.ndarray:
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            near = self.store_.distribution(X, k=self.k_, temperature=self.temperature_)
        return _mixed(self._probabilities_of(self.estimator_, X), torch.from_numpy(near).double(), self.weight_).numpy()

    def predict(self, X) -> np.ndarray:
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]


def _named(estimator: Any) -> str:
    return f"the class {estimator.__name__}" if isinstance(estimator, type) else type(estimator).__name__
