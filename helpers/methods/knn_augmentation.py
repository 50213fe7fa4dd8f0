"""k-NN augmentation of a classifier: neighbours re-weight its training loss and are mixed into its predictions.

Jia, Chen, Wu, Cardie, Belongie and Lim, "Rethinking Nearest Neighbors for Visual Classification", 2021, arXiv 2112.08459. Where the paper and the official
code differ, this follows the code's functions, with one exception: the released leave-one-out search labels neighbours wrongly (`slipped_labels` shows
how), and ours does not.

    store = Datastore(train_features, train_labels)
    mixed = interpolate(classifier_probabilities, store.distribution(features, k=20, temperature=0.1), 0.3)

or, around any scikit-learn classifier, `KNNAugmentedClassifier(LogisticRegression()).fit(X, y)`. Features are (N, D) tensors or arrays, labels (N,) whole
numbers 0 .. C - 1. Bad arguments raise ValueError or TypeError that names the argument, before any work is done.
"""

import math
import warnings
from collections.abc import Sequence
from itertools import product
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

try:
    import faiss
except ImportError:  # everything but `build_index` works without it
    faiss = None

NORMS = ("centre", "l2", "none")  # the code's L2NC, L2 and None
SIMILARITIES = ("l2", "cosine")
K_GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TEMPERATURE_GRID = (1e-4, 1e-3, 1e-2, *(round(0.01 * i, 2) for i in range(2, 10)), *(round(0.1 * i, 1) for i in range(1, 10)), 1.0, 10.0)
WEIGHT_GRID = tuple(round(0.05 * i, 2) for i in range(21))  # 0 and 1, which the code leaves out, are in it: the mixture cannot be made to lose
_LOG_FLOOR = -100.0
_CHUNK = 2**24  # distances that are held at once
_GROUP = 128  # distances whose minimum is taken first


# ------------------------------------------------------------------------------------------------------------------------- arguments


def _features(name: str, value, width: int | None = None) -> Tensor:
    try:
        rows = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array or tensor of numbers, got {type(value).__name__}") from error
    if rows.is_complex() or rows.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] == 0 or width not in (None, rows.shape[1]):
        raise ValueError(f"{name} must be (N, {'D' if width is None else width}), got {tuple(rows.shape)}")
    rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    if not torch.isfinite(rows).all():
        raise ValueError(f"{name} must be finite; row {int((~torch.isfinite(rows)).any(1).nonzero()[0])} is not")
    return rows


def _labels(name: str, value, rows: int, classes: int | None = None) -> Tensor:
    labels = torch.as_tensor(value)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must be whole numbers, got {labels.dtype}")
    if labels.shape != (rows,):
        raise ValueError(f"{name} must be ({rows},), got {tuple(labels.shape)}")
    if rows and (labels.min() < 0 or (classes is not None and labels.max() >= classes)):
        raise ValueError(f"{name} must be in 0 .. {'C' if classes is None else classes} - 1, got {int(labels.min())} to {int(labels.max())}")
    return labels.long()


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


def normalise(features, *, mean: Tensor | None = None, norm: str = "centre") -> tuple[Tensor, Tensor]:
    """Features (N, D) as the neighbours are searched in, and the mean (D,) that was taken off (section 3.1; the code's NORM_TYPE).

    norm: "centre" takes the mean off, then divides by the length; "l2" only divides; "none" leaves them. mean: of the *training* features, for queries;
    None takes the features' own. Warns where a row has no length to divide by.
    """
    rows = _features("features", features)
    norm = _choice("norm", norm, NORMS)
    if mean is None:
        mean = rows.mean(0) if norm == "centre" else torch.zeros(rows.shape[1], dtype=rows.dtype)
    if norm == "none":
        return rows, mean
    rows = rows - mean.to(rows.dtype)
    length = rows.norm(dim=1, keepdim=True)
    if (length < 1e-12).any():
        warnings.warn(f"features: {int((length < 1e-12).sum())} rows are all zero after centring; every neighbour is equally near to them", stacklevel=2)
    return rows / length.clamp_min(1e-12), mean


def knn_distribution(distances: Tensor, labels: Tensor, num_classes: int, *, temperature: float = 1.0) -> Tensor:
    """Class probabilities (B, C) of squared distances (B, k) to neighbours with labels (B, k), in log space: exact for any temperature.

        p(c) = sum over neighbours with label c of exp(-d^2 / T), divided by the sum over all          (section 3.2)
    """  # fmt: skip
    temperature = _number("temperature", temperature, above=0)
    if distances.shape != labels.shape or distances.ndim != 2 or distances.shape[1] == 0:
        raise ValueError(f"distances and labels must both be (B, k), got {tuple(distances.shape)} and {tuple(labels.shape)}")
    weights = (-distances / temperature).softmax(1)
    return torch.zeros(len(distances), num_classes, dtype=weights.dtype).scatter_add_(1, labels, weights)


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
    places = torch.cat([(best[..., None] * _GROUP + torch.arange(_GROUP)).flatten(1), torch.arange(whole, values.shape[1]).expand(len(values), -1)], 1)
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

    features (N, D), labels (N,); num_classes: None takes the largest label; ids (N,): None numbers them 0 .. N - 1; norm: of `normalise`.
    index: None searches exactly with torch; "faiss" with faiss's exact index; or a factory string such as "IVF256,Flat" (see `build_index`).
    """

    def __init__(self, features, labels, *, num_classes: int | None = None, ids=None, norm: str = "centre", index: str | None = None):
        rows = _features("features", features)
        if len(rows) == 0:
            raise ValueError("features must hold an example or more, got none")
        self.labels = _labels("labels", labels, len(rows), num_classes)
        self.num_classes = int(self.labels.max()) + 1 if num_classes is None else num_classes
        self.ids = torch.arange(len(rows)) if ids is None else _labels("ids", ids, len(rows))
        if len(self.ids.unique()) < len(rows):
            raise ValueError(f"ids must all differ, got {len(self.ids.unique())} different ones for {len(rows)} examples")
        self.norm, self.index = norm, None
        self.features, self.mean = normalise(rows, norm=norm)
        self._squares = self.features.square().sum(1)
        if index is not None:
            self.index = build_index(self.features, "Flat" if index == "faiss" else index)

    def __len__(self) -> int:
        return len(self.features)

    def search(self, queries, k: int, *, exclude=None) -> Neighbours:
        """The k nearest of each query (B, D), by squared distance between normalised features; of equally near ones the earlier stored
        (faiss breaks ties in an order of its own).

        exclude (B,): for each query the id of the stored example that is itself and must not answer (leave-one-out); every id must be in the store.
        """
        k = _integer("k", k, 1, len(self) - (exclude is not None))
        queries, _ = normalise(_features("queries", queries, self.features.shape[1]), mean=self.mean, norm=self.norm)
        own = None if exclude is None else self._rows_of(exclude, len(queries))
        if self.index is not None:
            return self._searched(queries, k, own)
        queries, found = queries.to(self.features.dtype), []
        for start in range(0, len(queries), max(1, _CHUNK // len(self))):
            some = queries[start : start + max(1, _CHUNK // len(self))]
            distances = torch.addmm(self._squares, some, self.features.T, alpha=-2)  # less the query's own square, which changes no order
            if own is not None:
                distances.scatter_(1, own[start : start + len(some), None], torch.inf)
            values, rows = _smallest(distances, k)
            found.append(((values + some.square().sum(1, keepdim=True)).clamp_min_(0), rows))
        rows = torch.cat([rows for _, rows in found]) if found else torch.zeros(0, k, dtype=torch.long)
        distances = torch.cat([values for values, _ in found]) if found else torch.zeros(0, k)
        return Neighbours(distances, rows, self.labels[rows])

    def _rows_of(self, exclude, count: int) -> Tensor:
        ids = _labels("exclude", exclude, count)
        order = self.ids.argsort()
        place = torch.searchsorted(self.ids[order], ids).clamp(max=len(order) - 1)
        rows = order[place]
        if (missing := self.ids[rows] != ids).any():
            raise ValueError(f"exclude must hold ids of stored examples; {int(ids[missing][0])} is not stored")
        return rows

    def _searched(self, queries: Tensor, k: int, own: Tensor | None) -> Neighbours:
        """The same through faiss: one neighbour more is asked for, and the own row dropped wherever it stands (a duplicate may come first)."""
        distances, rows = (torch.from_numpy(v) for v in self.index.search(queries.float().contiguous().numpy(), k + (own is not None)))
        if own is not None:
            mine = rows == own[:, None]
            mine[~mine.any(1), -1] = True  # the own row is not among them: drop the last
            distances, rows = distances[~mine].view(-1, k), rows[~mine].view(-1, k)
        distances = torch.where(rows < 0, torch.inf, distances.clamp_min(0))  # an approximate index may find fewer
        return Neighbours(distances, rows, self.labels[rows.clamp_min(0)])

    def distribution(self, queries, *, k: int = 20, temperature: float = 1.0, similarity: str = "l2", exclude=None) -> Tensor:
        """Class probabilities (B, C) of the k nearest. similarity: "cosine" weighs by exp(s / T) with the product s of normalised features, which is "l2"
        at 2 T where these have length 1. exclude: as in `search`."""
        scale = 2.0 if _choice("similarity", similarity, SIMILARITIES) == "cosine" else 1.0
        if scale == 2.0 and self.norm == "none":
            raise ValueError('similarity "cosine" needs features of length 1; make the store with norm "centre" or "l2"')
        found = self.search(queries, k, exclude=exclude)
        return knn_distribution(found.distances, found.labels, self.num_classes, temperature=scale * _number("temperature", temperature, above=0))


def build_index(features: Tensor, kind: str = "auto"):
    """A faiss index over features (N, D) by squared distance. kind: a factory string, or "auto": exact up to 100 000 rows, then inverted lists
    (4 sqrt(N) of them, an eighth searched). Raises ImportError where faiss is missing."""
    if faiss is None:
        raise ImportError("build_index needs faiss: pip install faiss-cpu")
    rows = _features("features", features).float().contiguous().numpy()
    lists = int(4 * len(rows) ** 0.5)
    if kind == "auto":
        kind = "Flat" if len(rows) <= 100_000 else f"IVF{lists},Flat"
    index = faiss.index_factory(rows.shape[1], kind)
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
    if kind.startswith("IVF"):
        index.nprobe = max(1, index.nlist // 8)
    return index


def sharded_index(features: Tensor, shards: int, kind: str = "Flat"):
    """One faiss index that asks `shards` of them and joins their answers; rows are numbered as in `features`. Each shard may live where its memory is."""
    if faiss is None:
        raise ImportError("sharded_index needs faiss: pip install faiss-cpu")
    rows = _features("features", features).float().contiguous().numpy()
    shards = _integer("shards", shards, 1, len(rows))
    whole = faiss.IndexShards(rows.shape[1], False, True)  # not threaded; shard i continues the numbers of shard i - 1
    for part in np.array_split(rows, shards):
        whole.add_shard(build_index(torch.from_numpy(part.copy()), kind))
    return whole


def slipped_labels(store: Datastore, queries, k: int, exclude) -> Neighbours:
    """Leave-one-out as the official code does it, to see what one line can do: the own column is removed, and positions in the *shortened* list are used
    as rows of the full one, so that every neighbour stored after the query gets the label of the row before it."""
    found = store.search(queries, k, exclude=exclude)
    own = store._rows_of(exclude, len(found.rows))[:, None]
    rows = found.rows - (found.rows > own).long()
    return Neighbours(found.distances, rows, store.labels[rows])


# ------------------------------------------------------------------------------------------------------- step 1: easy and hard examples


def knn_loss(probabilities: Tensor, labels) -> Tensor:
    """How hard the neighbours find each example: -log p_knn(y), at most 100; (N, C) and (N,) -> (N,). No gradient flows back (section 3.4)."""
    labels = _labels("labels", labels, len(probabilities), probabilities.shape[1])
    chosen = probabilities.detach().gather(1, labels[:, None])[:, 0]
    return -chosen.log().clamp_min(_LOG_FLOOR)


def reweighted_loss(logits: Tensor, labels, hardness: Tensor, *, alpha: float = 0.01, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, each example's multiplied by 1 + alpha * hardness (section 3.4, the paper's equation 4): a learning rate of its own.

    logits (B, C), labels (B,), hardness (B,): of `knn_loss`. The mean is over B. class_weights (C,) weigh both factors, as in the code, so that a class
    with weight w counts w + alpha w^2 hardness.
    """
    alpha = _number("alpha", alpha, 0)
    labels = _labels("labels", labels, len(logits), logits.shape[1])
    if hardness.shape != labels.shape:
        raise ValueError(f"hardness must be {tuple(labels.shape)}, got {tuple(hardness.shape)}")
    weights = torch.ones(logits.shape[1], dtype=logits.dtype) if class_weights is None else class_weights.to(logits.dtype)
    if weights.shape != (logits.shape[1],):
        raise ValueError(f"class_weights must be ({logits.shape[1]},), got {tuple(weights.shape)}")
    plain = weights[labels] * F.cross_entropy(logits, labels, reduction="none")
    return (plain if alpha == 0 else (1 + alpha * weights[labels] * hardness.detach()) * plain).mean()


def focal_like_loss(logits: Tensor, labels, probabilities: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Cross-entropy, each example's multiplied by (1 - p_knn(y))^gamma (section 3.5, `knn_focalstar` in the code). probabilities (B, C) of the neighbours."""
    gamma = _number("gamma", gamma, 0)
    labels = _labels("labels", labels, len(logits), logits.shape[1])
    if probabilities.shape != logits.shape:
        raise ValueError(f"probabilities must be {tuple(logits.shape)}, got {tuple(probabilities.shape)}")
    doubt = (1 - probabilities.detach().gather(1, labels[:, None])[:, 0]).clamp(0, 1)
    return (doubt.pow(gamma) * F.cross_entropy(logits, labels, reduction="none")).mean()


# ------------------------------------------------------------------------------------------------------------- step 2: interpolation


def interpolate(classifier: Tensor, neighbours: Tensor, weight: float) -> Tensor:
    """weight * neighbours + (1 - weight) * classifier: two (N, C) of probabilities -> (N, C) (section 3.6). 0 and 1 give either, to the last bit."""
    weight = _number("weight", weight, 0, 1)
    if classifier.shape != neighbours.shape:
        raise ValueError(f"classifier and neighbours must have one shape, got {tuple(classifier.shape)} and {tuple(neighbours.shape)}")
    if weight in (0, 1):
        return (neighbours if weight else classifier).clone()
    return weight * neighbours + (1 - weight) * classifier


class Tuned(NamedTuple):
    """The chosen k, temperature and weight, with the accuracy on the validation rows: of the mixture, the neighbours alone and the classifier alone."""

    k: int
    temperature: float
    weight: float
    accuracy: float
    knn_accuracy: float
    classifier_accuracy: float


def tune(
    store: Datastore, features, classifier: Tensor, labels, *, ks: Sequence[int] | None = None, temperatures: Sequence[float] = TEMPERATURE_GRID,
    weights: Sequence[float] = WEIGHT_GRID, exclude=None,
) -> Tuned:  # fmt: skip
    """Choose (k, T, weight) by the mixture's accuracy on validation rows; of equals the one with the better neighbours alone, then the earlier in the grid.

    features (N, D), classifier (N, C): its probabilities, labels (N,). ks: None stands for 1, 2, 4 .. 512, N / C and C, as far as the store reaches. (The code
    skips every k above the number of classes, so that a two-class task only ever tries 1 and 2; ours does not.)
    """
    truth = _labels("labels", labels, len(classifier), classifier.shape[1])
    if len(truth) == 0:
        raise ValueError("labels must hold a validation row or more, got none")
    if classifier.shape[1] != store.num_classes:
        raise ValueError(f"classifier must have the store's {store.num_classes} classes, got {classifier.shape[1]}")
    limit = len(store) - (exclude is not None)
    if ks is None:
        ks = sorted({k for k in (*K_GRID, len(store) // store.num_classes, store.num_classes) if 1 <= k <= limit})
    ks = [_integer("ks", k, 1, limit) for k in ks]
    found = store.search(features, max(ks), exclude=exclude)

    def right(p: Tensor) -> float:
        return float((p.argmax(1) == truth).double().mean())

    base, best, best_key = right(classifier), None, None
    for k, temperature in product(ks, temperatures):
        near = knn_distribution(found.distances[:, :k], found.labels[:, :k], store.num_classes, temperature=temperature).to(classifier.dtype)
        alone = right(near)
        for weight in weights:
            mixed = right(interpolate(classifier, near, weight))
            if best is None or (mixed, alone) > best_key:
                best, best_key = Tuned(k, float(temperature), float(weight), mixed, alone, base), (mixed, alone)
    return best


class KNNAugmentedClassifier(ClassifierMixin, BaseEstimator):
    """Any scikit-learn classifier with `predict_proba`, its probabilities mixed with those of the k nearest training examples.

    fit holds `validation` of the examples back (stratified where every class allows it), chooses k, temperature and weight on them, then fits the
    classifier and the store on everything. k, temperature, weight: numbers are taken as they are instead of being chosen.
    """

    def __init__(self, estimator=None, *, k=None, temperature=None, weight=None, norm="centre", validation=0.25, random_state=0):
        self.estimator, self.k, self.temperature, self.weight = estimator, k, temperature, weight
        self.norm, self.validation, self.random_state = norm, validation, random_state

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold two classes or more, got one class: {self.classes_[0]}")
        given = (self.k, self.temperature, self.weight)
        self.k_, self.temperature_, self.weight_ = given if None not in given else self._choose(X, codes)
        self.estimator_ = self._new().fit(X, codes)
        self.store_ = self._store(X, codes)
        self.k_ = min(self.k_, len(X))
        return self

    def _new(self):
        return clone(self.estimator) if self.estimator is not None else LogisticRegression(max_iter=1000)

    def _store(self, X, codes) -> Datastore:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a row at the very mean is no mistake of the caller's
            return Datastore(X, codes, num_classes=len(self.classes_), norm=self.norm)

    def _choose(self, X, codes) -> tuple[int, float, float]:
        counts = np.bincount(codes)
        stratify = codes if counts.min() >= 2 and self.validation * len(codes) >= len(counts) else None
        parts = train_test_split(X, codes, test_size=self.validation, random_state=self.random_state, stratify=stratify)
        kept, held, kept_codes, held_codes = parts
        if len(np.unique(kept_codes)) < len(self.classes_):
            return self.k or 1, self.temperature or 1.0, 0.5 if self.weight is None else self.weight  # too few examples to choose on
        probabilities = torch.from_numpy(np.asarray(self._new().fit(kept, kept_codes).predict_proba(held), dtype=np.float64))
        grids = {name: [value] for name, value in (("ks", self.k), ("temperatures", self.temperature), ("weights", self.weight)) if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            best = tune(self._store(kept, kept_codes), held, probabilities, held_codes, **grids)
        return best.k, best.temperature, best.weight

    def predict_proba(self, X) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            near = self.store_.distribution(X, k=self.k_, temperature=self.temperature_)
        return interpolate(torch.from_numpy(np.asarray(self.estimator_.predict_proba(X), dtype=np.float64)), near.double(), self.weight_).numpy()

    def predict(self, X) -> np.ndarray:
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]
