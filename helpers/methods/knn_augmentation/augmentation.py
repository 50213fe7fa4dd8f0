"""k-NN augmentation: the two steps, which are losses that neighbours re-weight and predictions that they are mixed into.

Jia, Chen, Wu, Cardie, Belongie and Lim, "Rethinking Nearest Neighbors for Visual Classification", 2021, arXiv 2112.08459. Where the paper and the official
code differ, this follows the code's functions. The neighbours come from `neighbours.py`.
"""

from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._arguments import _class_weights, _features, _grid, _integer, _labels, _like, _logits, _number, _probabilities, _same_order, _tensor
from .neighbours import Datastore, _store, _votes

__all__ = ["Tuned", "focal_like_loss", "interpolate", "knn_loss", "reweighted_loss", "tune"]

K_GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TEMPERATURE_GRID = (1e-4, 1e-3, 1e-2, *(round(0.01 * i, 2) for i in range(2, 10)), *(round(0.1 * i, 1) for i in range(1, 10)), 1.0, 10.0)
WEIGHT_GRID = tuple(round(0.05 * i, 2) for i in range(21))  # 0 and 1, which the code leaves out, are in it: the mixture cannot be made to lose
_LOG_FLOOR = -100.0


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
