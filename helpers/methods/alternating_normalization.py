"""Classification with alternating normalization (CAN): undecided predictions, adjusted with the help of the decided ones.

Jia, Reiter, Lim, Artzi and Cardie, "When in Doubt: Improving Classification Performance with Alternating Normalization", Findings of EMNLP 2021,
arXiv 2109.13449. Where the paper and the official code differ, this follows the code. Probabilities in, probabilities out; nothing is trained:

    adjusted = alternating_normalization(test, prior, reference=validation).probabilities

or, in the manner of scikit-learn, `AlternatingNormalizer().fit(validation, labels).transform(test)`. Probabilities are (N, C) tensors or arrays whose rows
sum to 1. Work is done in float64, and in logarithms wherever powers are taken, so that large exponents and many classes are safe; results are tensors of
the input's dtype. Bad arguments raise ValueError or TypeError that names the argument, before any work is done.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import product
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

_SUM_TOLERANCE = 1e-4
_CHUNK = 2**22  # numbers that a batch of stacked matrices may hold


# ------------------------------------------------------------------------------------------------------------------------- arguments


def _probabilities(name: str, value, classes: int | None = None) -> Tensor:
    """`value` as float64 (N, C), once it is seen to hold probabilities."""
    try:
        rows = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array or tensor of probabilities, got {type(value).__name__}") from error
    if not rows.is_floating_point():
        raise TypeError(f"{name} must hold floating-point probabilities, got {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] < 2 or classes not in (None, rows.shape[1]):
        raise ValueError(f"{name} must be (N, {'C' if classes is None else classes}) with two classes or more, got {tuple(rows.shape)}")
    rows = rows.double()
    sums = rows.sum(1)
    wrong = ~((sums - 1).abs() <= _SUM_TOLERANCE) | ((rows.amin(1) < 0) if len(rows) else False)  # NaN is wrong too
    if wrong.any():
        i = int(wrong.nonzero()[0])
        if not torch.isfinite(rows[i]).all():
            raise ValueError(f"{name} must be finite; row {i} is not")
        raise ValueError(
            f"{name} must have rows of probabilities that sum to 1; row {i} sums to {sums[i]:.4g} with the smallest entry {rows[i].min():.4g}. "
            "For logits, apply softmax first."
        )
    return rows


def _prior(value, classes: int) -> Tensor:
    prior = torch.as_tensor(value, dtype=torch.float64)
    if prior.shape != (classes,) or not torch.isfinite(prior).all() or not (prior > 0).all():
        raise ValueError(f"prior must hold {classes} positive numbers, one for each class, got {prior.tolist()}")
    return prior / prior.sum()


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


def _ranks(k, classes: int) -> tuple[int, ...]:
    """The k's of top-k entropy: those given that the classes allow, or all."""
    if k is None:
        return tuple(range(2, classes + 1))
    given = (k,) if isinstance(k, Integral) else tuple(k)
    checked = [_integer("k", value, 2) for value in given]
    kept = tuple(value for value in checked if value <= classes)
    if not kept:
        raise ValueError(f"k must hold a number in 2 .. {classes}, the number of classes, got {k!r}")
    return kept


# ---------------------------------------------------------------------------------------------------------------- who is undecided?


def top_k_entropy(probabilities, k: int, *, renormalise: bool = True) -> Tensor:
    """How undecided each row (N, C) is among its k largest probabilities: (N,) in [0, 1].

    As the official code has it: the k largest are made to sum to 1 and the logarithm has base k. renormalise=False gives the paper's form, the sum over
    the k largest as they are, with base C. k: 2 .. C.
    """
    rows = _probabilities("probabilities", probabilities)
    k = _integer("k", k, 2, rows.shape[1])
    top = rows.topk(k, dim=1).values
    if renormalise:
        top = top / top.sum(1, keepdim=True)
    entropy = -torch.special.xlogy(top, top).sum(1) / np.log(k if renormalise else rows.shape[1])
    return entropy.clamp(0, 1)


def is_ambiguous(probabilities, *, threshold: float = 0.75, k: int | Iterable[int] | None = (2, 3)) -> Tensor:
    """Which rows (N, C) are undecided: (N,) bool, top-k entropy of `threshold` or more for any of the k. None stands for all of 2 .. C, as in the code.

    Several small k see what the full entropy does not: (.5, .5, 0) is more undecided than (.5, .25, .25). A k above C is left out.
    """
    rows = _probabilities("probabilities", probabilities)
    threshold = _number("threshold", threshold, 0, 1)
    return torch.stack([top_k_entropy(rows, one) >= threshold for one in _ranks(k, rows.shape[1])]).any(0)


def choose_reference(probabilities, *, cap: int | None = None, seed: int = 0) -> Tensor:
    """At most `cap` of the rows (N, C) of decided predictions, drawn in proportion to the predicted classes: (n, C), in the order in which they came.

    cap: None stands for max(5 C, 1000), as in the code. A class with fewer than two rows keeps all of them.
    """
    rows = _probabilities("probabilities", probabilities)
    classes = rows.shape[1]
    cap = max(5 * classes, 1000) if cap is None else _integer("cap", cap, 1)
    if len(rows) <= cap:
        return rows
    predicted, generator = rows.argmax(1), np.random.default_rng(_integer("seed", seed, 0))
    kept = []
    for c in range(classes):
        members = (predicted == c).nonzero()[:, 0].numpy()
        count = len(members) if len(members) < 2 else max(1, round(cap * len(members) / len(rows)))
        kept += generator.permutation(members)[:count].tolist()
    return rows[sorted(kept)]


# --------------------------------------------------------------------------------------------------------------- alternating normalization


def one_step(rows, reference, prior, *, alpha: float = 1.0) -> Tensor:
    """One round for every row alone, in closed form: rows (u, C) -> (u, C).

        b'_c  is proportional to  q_c b_c^alpha / (a_c + b_c^alpha),     a_c = sum_i A_ic^alpha

    with the reference A (n, C) and the prior q (C,). Section 3 of the paper with d = 1, where nothing has to be iterated.
    """
    return iterate(rows, reference, prior, alpha=alpha)


def iterate(rows, reference, prior, *, alpha: float = 1.0, depth: int = 1, trace: bool = False) -> Tensor:
    """`depth` rounds for every row alone, each starting from the same reference: rows (u, C) -> (u, C).

    A round divides each column (a class) of the stacked matrix, reference above and row below, by its sum over the examples, all raised to the power
    alpha; multiplies by the prior; and divides each line by its sum over the classes. depth = 0 returns the rows. trace=True returns
    (depth + 1, u, n + 1, C): the whole stack before the first round and after each.
    """
    b, known, q = _checked(rows, reference, prior)
    alpha, depth = _number("alpha", alpha, above=0), _integer("depth", depth, 0)
    if not trace and depth <= 1:
        return _like(rows, _closed_form(b, known, q, alpha) if depth else b)
    log_a, log_q = known.log(), q.log()
    batch = max(1, _CHUNK // ((len(known) + 1) * known.shape[1]))
    done = []
    for some in b.log().split(batch):
        stack = torch.cat([log_a.expand(len(some), -1, -1), some[:, None]], 1)  # (batch, n + 1, C)
        stages = [stack]
        for _ in range(depth):
            powered = alpha * stack
            over_examples = powered.logsumexp(1, keepdim=True)
            stack = torch.where(over_examples.isfinite(), powered - over_examples, -torch.inf) + log_q  # a class that nobody uses stays empty
            stack = stack.log_softmax(2)
            stages.append(stack)
        done.append(torch.stack(stages) if trace else stack[:, -1])
    return torch.cat(done, 1).exp() if trace else _like(rows, torch.cat(done).exp())


def _closed_form(b: Tensor, known: Tensor, q: Tensor, alpha: float) -> Tensor:
    """`one_step` of checked arguments."""
    if alpha == 1:  # no power to take, nothing to underflow: no logarithms
        out = (known.sum(0) + b).clamp_min_(1e-300).reciprocal_().mul_(b).mul_(q)
        return out.div_(out.sum(1, keepdim=True))
    powered, log_sums = alpha * b.log(), (alpha * known.log()).logsumexp(0)
    return torch.where(powered.isfinite(), q.log() + powered - torch.logaddexp(log_sums, powered), -torch.inf).softmax(1)


def _checked(rows, reference, prior) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, reference and prior in float64."""
    checked = _probabilities("rows", rows)
    known = _probabilities("reference", reference, checked.shape[1])
    if len(known) == 0:
        raise ValueError('reference must hold a row or more, got none; pass torch.eye(C) for "no evidence about any class"')
    return checked, known, _prior(prior, checked.shape[1])


def _like(rows, result: Tensor) -> Tensor:
    return result.to(torch.as_tensor(rows).dtype)


class Adjusted(NamedTuple):
    """probabilities (N, C): adjusted where `ambiguous` (N,) bool says so, the input's own bits elsewhere; reference (n, C): the rows that helped."""

    probabilities: Tensor
    ambiguous: Tensor
    reference: Tensor


def alternating_normalization(
    probabilities, prior, *, reference=None, threshold: float = 0.75, k: int | Iterable[int] | None = (2, 3), alpha: float = 1.0, depth: int = 1,
    cap: int | None = None, seed: int = 0, identity: bool = False,
) -> Adjusted:  # fmt: skip
    """Adjust the undecided rows of `probabilities` (N, C) with the help of decided ones.

    prior (C,): how often each class occurs *among the rows to adjust*; any scale. reference (M, C): predictions whose decided rows serve as reference,
    best those on validation data of the same kind; None takes the decided rows of `probabilities` themselves (as the code's image experiment does).
    threshold, k: what counts as undecided (`is_ambiguous`). alpha, depth: exponent and number of rounds. cap, seed: of `choose_reference`.
    identity: where no row is decided, use the C x C identity, as the code does, instead of raising ValueError.
    """
    rows = _probabilities("probabilities", probabilities)
    classes = rows.shape[1]
    prior = _prior(prior, classes)
    known = rows if reference is None else _probabilities("reference", reference, classes)
    undecided = is_ambiguous(rows, threshold=threshold, k=k)
    decided = known[~is_ambiguous(known, threshold=threshold, k=k)]
    if len(decided) == 0 and not identity:
        raise ValueError("reference must hold a decided row, got none; raise threshold, or pass identity=True for the C x C identity")
    helpers = choose_reference(decided, cap=cap, seed=seed) if len(decided) else torch.eye(classes, dtype=torch.float64)
    adjusted = iterate(rows[undecided], helpers, prior, alpha=alpha, depth=depth)
    out = torch.as_tensor(probabilities).clone()
    if depth > 0:
        out[undecided] = adjusted.to(out.dtype)
    return Adjusted(out, undecided, helpers)


def binary_threshold(reference, prior, *, alpha: float = 1.0) -> float:
    """Two classes, one round: the probability of class 0 above which class 0 is chosen.

    The adjusted probability rises strictly with the given one, so that for two classes the whole method is a moved threshold: the p with
    q_0 p^alpha (a_1 + (1 - p)^alpha) = q_1 (1 - p)^alpha (a_0 + p^alpha). With equal priors and alpha = 1 it is a_0 / (a_0 + a_1).
    """
    known = _probabilities("reference", reference, 2)
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        first = one_step(torch.tensor([[p, 1 - p]], dtype=torch.float64), known, prior, alpha=alpha)[0, 0]
        low, high = (low, p) if first > 0.5 else (p, high)
    return (low + high) / 2


# ----------------------------------------------------------------------------------------------------------------------------- tuning


class Setting(NamedTuple):
    threshold: float
    alpha: float
    depth: int


class Tuned(NamedTuple):
    """The best setting, and {setting: accuracy} of all."""

    best: Setting
    accuracy: dict[Setting, float]


def tune(
    probabilities, labels, prior, *, reference=None, thresholds: Sequence[float] = (0.25, 0.5, 0.75, 0.9), alphas: Sequence[float] = (0.3, 0.5, 1.0, 2.0),
    depths: Sequence[int] = (0, 1, 2, 3), k: int | Iterable[int] | None = (2, 3), cap: int | None = None, seed: int = 0,
) -> Tuned:  # fmt: skip
    """Choose threshold, exponent and depth by accuracy on validation rows (N, C) with labels (N,); of equals the one with fewest rounds, then the first.

    Depth 0, "leave them alone", belongs to the grid: without it the choice could only do harm where nothing helps.
    """
    rows = _probabilities("probabilities", probabilities)
    truth = torch.as_tensor(labels)
    if truth.shape != (len(rows),) or truth.is_floating_point() or len(rows) == 0:
        raise ValueError(f"labels must be {len(rows)} class numbers, one for each row, got {tuple(truth.shape)} of {truth.dtype}")
    if not ((truth >= 0) & (truth < rows.shape[1])).all():
        raise ValueError(f"labels must be in 0 .. {rows.shape[1] - 1}, got {int(truth.min())} to {int(truth.max())}")
    accuracy = {}
    for depth, threshold, alpha in product(sorted(depths), thresholds, alphas):
        setting = Setting(float(threshold), float(alpha), int(depth))
        options = dict(threshold=threshold, k=k, alpha=alpha, depth=depth, cap=cap, seed=seed, identity=True)
        found = alternating_normalization(rows, prior, reference=reference, **options)
        accuracy[setting] = float((found.probabilities.argmax(1) == truth).double().mean())
    return Tuned(max(accuracy, key=accuracy.get), accuracy)


class AlternatingNormalizer(TransformerMixin, BaseEstimator):
    """`alternating_normalization` with scikit-learn's face: X is predicted probabilities (N, C), whatever classifier they come from.

    fit(X, y): validation probabilities and their labels 0 .. C - 1; keeps the decided rows as reference and the labels' frequencies (plus one each, so that
    none is zero) as prior, unless `prior` is given. transform(X) -> (N, C); predict(X) -> (N,) class numbers.
    """

    def __init__(self, prior=None, *, threshold=0.75, k=(2, 3), alpha=1.0, depth=1, cap=None, seed=0, identity=True):
        self.prior, self.threshold, self.k, self.alpha, self.depth = prior, threshold, k, alpha, depth
        self.cap, self.seed, self.identity = cap, seed, identity

    def fit(self, X, y=None):
        rows = _probabilities("X", X)
        if self.prior is None and y is None:
            raise ValueError("y must be the labels of X where no prior is given, got None")
        counts = None if self.prior is not None else torch.bincount(torch.as_tensor(y), minlength=rows.shape[1]).double() + 1
        prior = _prior(self.prior if counts is None else counts, rows.shape[1])
        self.reference_, self.prior_, self.n_features_in_ = rows, prior, rows.shape[1]
        return self

    def transform(self, X) -> np.ndarray:
        check_is_fitted(self)
        options = {name: value for name, value in self.get_params(deep=False).items() if name != "prior"}
        return alternating_normalization(X, self.prior_, reference=self.reference_, **options).probabilities.numpy()

    def predict(self, X) -> np.ndarray:
        return self.transform(X).argmax(1)
