"""k-NN augmentation: the store of training examples, its search, and what the neighbours say.

Jia, Chen, Wu, Cardie, Belongie and Lim, "Rethinking Nearest Neighbors for Visual Classification", 2021, arXiv 2112.08459. Where the paper and the official
code differ, this follows the code's functions, with one exception: the released leave-one-out search labels neighbours wrongly (`slipped_labels` shows
how), and ours does not.
"""

import contextlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._arguments import _MOST_CLASSES, _features, _got, _integer, _labels, _like, _number, _option, _tensor, _whole_numbers

try:
    import faiss
except ImportError:  # everything but `build_index` works without it
    faiss = None

__all__ = ["Datastore", "Neighbours", "build_index", "knn_distribution", "normalise", "sharded_index", "slipped_labels"]

NORMS = ("centre", "l2", "none")  # the code's L2NC, L2 and None
SIMILARITIES = ("l2", "cosine")
_CHUNK = 2**24  # distances that are held at once
_GROUP = 128  # distances whose minimum is taken first
_SPARE = 8  # more neighbours are found by products than are asked for; differences then tell which are nearest
_SPLIT = 2**16  # rows that are worked on in double precision at once
_EXACT_UP_TO = 100_000  # rows that `build_index` searches exactly by itself


def _store(value: Any) -> "Datastore":
    if not isinstance(value, Datastore):
        raise TypeError(f"store must be a Datastore, got {_got(value)}")
    return value


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
