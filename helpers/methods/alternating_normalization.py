"""Classification with alternating normalization (CAN): undecided predictions, adjusted with the help of the decided ones.

Jia, Reiter, Lim, Artzi and Cardie, "When in Doubt: Improving Classification Performance with Alternating Normalization", Findings of EMNLP 2021,
arXiv 2109.13449. Where the paper and the official code differ, this follows the code. Probabilities in, probabilities out; nothing is trained:

    adjusted = alternating_normalization(test, prior, reference=validation).probabilities

or, in the manner of scikit-learn, `AlternatingNormalizer().fit(validation, labels).transform(test)`. Probabilities are (N, C) whose rows sum to 1 up to the
rounding of their dtype: tensors, arrays, lists, tables of pandas. A result is of the kind and dtype of the first argument, tensor or array, and lies where
that lies; no gradient flows through. Work is done in float64, and in logarithms wherever powers are taken, so that large exponents and many classes are
safe. Bad arguments raise ValueError or TypeError that names the argument, before any work is done.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

__all__ = [
    "Adjusted", "AlternatingNormalizer", "Setting", "Tuned", "alternating_normalization", "binary_threshold", "choose_reference", "is_ambiguous",
    "iterate", "one_step", "top_k_entropy", "tune",
]  # fmt: skip

_SUM_TOLERANCE = 1e-4  # or eight roundings of the dtype, where these are more
_CHUNK = 2**22  # numbers that a batch of stacked matrices may hold
_STRONGEST = 1e300  # an exponent by which the logarithm of any number can be multiplied


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


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_got(value)}")
    return bool(value)


def _probabilities(name: str, value: Any, classes: int | None = None) -> Tensor:
    """`value` as float64 (N, C), once it is seen to hold probabilities; rows of half precision are divided by their sums."""
    expected = f"probabilities (N, {'C' if classes is None else classes})"
    given = _tensor(name, value, expected)
    if not given.is_floating_point():
        raise TypeError(f"{name} must be floating-point {expected}, got {_got(given)}")
    if given.ndim != 2 or given.shape[1] < 2 or classes not in (None, given.shape[1]):
        raise ValueError(f"{name} must be {expected} with two classes or more, got shape {tuple(given.shape)}")
    rows = (given.cpu() if given.device.type == "mps" else given).double()  # mps has no float64
    sums, slack = rows.sum(1), max(_SUM_TOLERANCE, 8 * torch.finfo(given.dtype).eps)
    wrong = ~((sums - 1).abs() <= slack) | ((rows.amin(1) < 0) if len(rows) else False)  # NaN is wrong too
    if wrong.any():
        i = int(wrong.nonzero()[0])
        if not torch.isfinite(rows[i]).all():
            raise ValueError(f"{name} must be finite {expected}; row {i} is not")
        raise ValueError(
            f"{name} must be {expected} whose rows sum to 1; row {i} sums to {float(sums[i]):.4g} with the smallest entry {float(rows[i].min()):.4g}. "
            "For logits, apply softmax first; where rounding is to blame, divide each row by its sum."
        )
    return rows if given.dtype in (torch.float32, torch.float64) else rows / sums[:, None]


def _columns(value: Any) -> list | None:
    """The names of a table's columns, None where it has none."""
    return list(value.columns) if hasattr(value, "to_numpy") and hasattr(value, "columns") else None


def _same_order(name: str, value: Any, of: str, first: Any) -> None:
    """Refuse a table whose columns are those of the first one in another order: they would be mixed up by their places."""
    ours, theirs = _columns(first), _columns(value)
    if ours is not None and theirs is not None and ours != theirs and set(ours) == set(theirs):
        raise ValueError(f"{name} must have the columns of {of} in their order, {_got(ours)}, got {_got(theirs)}")


def _prior(value: Any, rows: Tensor, names: Sequence | None = None) -> Tensor:
    """The prior (C,) of the classes of `rows`, summing to 1, where those lie."""
    classes = rows.shape[1]
    prior = _tensor("prior", _by_class("prior", value, names), f"{classes} positive numbers").to(rows.device).double()
    if prior.shape != (classes,) or not torch.isfinite(prior.sum()) or not (prior > 0).all():
        raise ValueError(
            f"prior must hold {classes} positive numbers, one for each class, got {_got(value if prior.ndim != 1 else prior.cpu().numpy().tolist())}"
        )
    return prior / prior.sum()


def _labels(name: str, value: Any, rows: Tensor) -> Tensor:
    """Class numbers (N,), one for each of the rows, where those lie."""
    count, classes = rows.shape
    labels = _tensor(name, value, f"whole numbers ({count},)")
    if labels.is_floating_point():
        raise TypeError(f"{name} must be whole numbers ({count},), got {_got(labels)}")
    if labels.shape != (count,):
        raise ValueError(f"{name} must be {count} class numbers, one for each row, got shape {tuple(labels.shape)}")
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"{name} must be in 0 .. {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    return labels.long().to(rows.device)


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


def _ranks(k: Any, classes: int) -> tuple[int, ...]:
    """The k's of top-k entropy: those given that the classes allow, or all."""
    if k is None:
        return tuple(range(2, classes + 1))
    k = list(k) if isinstance(k, (set, frozenset)) else k
    checked = [_integer("k", k, 2)] if isinstance(k, Integral) else _grid("k", k, lambda name, value: _integer(name, value, 2))
    kept = tuple(value for value in checked if value <= classes)
    if not kept:
        raise ValueError(f"k must hold a number in 2 .. {classes}, the number of classes, got {_got(k)}")
    return kept


def _exponent(name: str, value: Any) -> float:
    if (alpha := _number(name, value, above=0)) > _STRONGEST:
        raise ValueError(f"{name} must be a finite number > 0, at most {_STRONGEST:g}, got {alpha}")
    return alpha


# ---------------------------------------------------------------------------------------------------------------- who is undecided?


def top_k_entropy(probabilities, k: int, *, renormalise: bool = True):
    """How undecided each row (N, C) is among its k largest probabilities: (N,) in [0, 1].

    As the official code has it: the k largest are made to sum to 1 and the logarithm has base k. renormalise=False gives the paper's form, the sum over
    the k largest as they are, with base C. k: 2 .. C.
    """
    rows = _probabilities("probabilities", probabilities)
    return _like(probabilities, _entropy(rows, _integer("k", k, 2, rows.shape[1]), _flag("renormalise", renormalise)))


def _entropy(rows: Tensor, k: int, renormalise: bool = True) -> Tensor:
    top = rows.topk(k, dim=1).values
    if renormalise:
        top = top / top.sum(1, keepdim=True)
    entropy = -torch.special.xlogy(top, top).sum(1) / np.log(k if renormalise else rows.shape[1])
    return entropy.clamp(0, 1)


def is_ambiguous(probabilities, *, threshold: float = 0.75, k: int | Iterable[int] | None = (2, 3)):
    """Which rows (N, C) are undecided: (N,) bool, top-k entropy of `threshold` or more for any of the k. None stands for all of 2 .. C, as in the code.

    Several small k see what the full entropy does not: (.5, .5, 0) is more undecided than (.5, .25, .25). A k above C is left out.
    """
    threshold, rows = _number("threshold", threshold, 0, 1), _probabilities("probabilities", probabilities)
    return _like(probabilities, _undecided(rows, threshold, _ranks(k, rows.shape[1])))


def _undecided(rows: Tensor, threshold: float, ranks: Sequence[int]) -> Tensor:
    return torch.stack([_entropy(rows, one) >= threshold for one in ranks]).any(0)


def choose_reference(probabilities, *, cap: int | None = None, seed: int = 0):
    """At most `cap` of the rows (N, C) of decided predictions, drawn in proportion to the predicted classes: (n, C) in float64, in the order in which they
    came.

    cap: None stands for max(5 C, 1000), as in the code. A class with fewer than two rows keeps all of them.
    """
    cap, seed = cap if cap is None else _integer("cap", cap, 1), _integer("seed", seed, 0)
    return _like(probabilities, _chosen(_probabilities("probabilities", probabilities), cap, seed).clone())


def _chosen(rows: Tensor, cap: int | None, seed: int) -> Tensor:
    classes = rows.shape[1]
    cap = max(5 * classes, 1000) if cap is None else cap
    if len(rows) <= cap:
        return rows
    predicted, generator = rows.argmax(1).cpu(), np.random.default_rng(seed)
    kept = []
    for c in range(classes):
        members = (predicted == c).nonzero()[:, 0].numpy()
        count = len(members) if len(members) < 2 else max(1, round(cap * len(members) / len(rows)))
        kept += generator.permutation(members)[:count].tolist()
    return rows[torch.tensor(sorted(kept), device=rows.device)]


# --------------------------------------------------------------------------------------------------------------- alternating normalization


def one_step(rows, reference, prior, *, alpha: float = 1.0):
    """One round for every row alone, in closed form: rows (u, C) -> (u, C).

        b'_c  is proportional to  q_c b_c^alpha / (a_c + b_c^alpha),     a_c = sum_i A_ic^alpha

    with the reference A (n, C) and the prior q (C,). Section 3 of the paper with d = 1, where nothing has to be iterated.
    """
    return iterate(rows, reference, prior, alpha=alpha)


def iterate(rows, reference, prior, *, alpha: float = 1.0, depth: int = 1, trace: bool | str = False):
    """`depth` rounds for every row alone, each starting from the same reference: rows (u, C) -> (u, C).

    A round divides each column (a class) of the stacked matrix, reference above and row below, by its sum over the examples, all raised to the power
    alpha; multiplies by the prior; and divides each line by its sum over the classes. depth = 0 returns the rows. trace=True returns
    (depth + 1, u, n + 1, C): the whole stack before the first round and after each; trace="half" (2 depth + 1, u, n + 1, C): also half-way through each
    round, when the columns are divided and neither the prior nor the lines have had their turn.
    """
    alpha, depth = _exponent("alpha", alpha), _integer("depth", depth, 0)
    if trace != "half" if isinstance(trace, str) else not isinstance(trace, (bool, np.bool_)):
        raise (ValueError if isinstance(trace, str) else TypeError)(f'trace must be False, True or "half", got {_got(trace)}')
    b = _probabilities("rows", rows)
    _same_order("reference", reference, "rows", rows)
    known = _probabilities("reference", reference, b.shape[1]).to(b.device)
    if len(known) == 0:
        raise ValueError('reference must hold a row or more, got none; pass torch.eye(C) for "no evidence about any class"')
    q = _prior(prior, b, _columns(rows))
    found = _traced(b, known, q, alpha, depth, trace == "half") if trace else _rounds(b, known, q, alpha, depth)
    return _as_given(rows, found)


def _rounds(b: Tensor, known: Tensor, q: Tensor, alpha: float, depth: int) -> Tensor:
    """`iterate` of checked arguments, without a trace."""
    if depth == 0:
        return b.clone()
    if depth == 1:
        return _closed_form(b, known, q, alpha)
    log_a, log_q = known.log(), q.log()
    done = [_round(_stacked(log_a, some), log_q, alpha, depth)[-1][:, -1] for some in b.log().split(_batch(known))]
    return torch.cat(done).exp()


def _traced(b: Tensor, known: Tensor, q: Tensor, alpha: float, depth: int, halves: bool) -> Tensor:
    log_a, log_q = known.log(), q.log()
    done = [torch.stack(_round(_stacked(log_a, some), log_q, alpha, depth, halves)) for some in b.log().split(_batch(known))]
    return torch.cat(done, 1).exp()


def _batch(known: Tensor) -> int:
    return max(1, _CHUNK // ((len(known) + 1) * known.shape[1]))


def _stacked(log_a: Tensor, some: Tensor) -> Tensor:
    return torch.cat([log_a.expand(len(some), -1, -1), some[:, None]], 1)  # (batch, n + 1, C)


def _round(stack: Tensor, log_q: Tensor, alpha: float, depth: int, halves: bool = True) -> list[Tensor]:
    """The stacks, in logarithms, before and after each of `depth` rounds; halves: after the columns too."""
    stages = [stack]
    for _ in range(depth):
        powered = alpha * stack
        over_examples = powered.logsumexp(1, keepdim=True)
        columns = torch.where(over_examples.isfinite(), powered - over_examples, -torch.inf)  # a class that nobody uses stays empty
        stack = (columns + log_q).log_softmax(2)
        stages += [columns, stack] if halves else [stack]
    return stages


def _closed_form(b: Tensor, known: Tensor, q: Tensor, alpha: float) -> Tensor:
    """`one_step` of checked arguments."""
    if alpha == 1 and q.min() > 1e-100:  # no power to take, nothing to underflow: no logarithms
        out = (known.sum(0) + b).clamp_min_(1e-300).reciprocal_().mul_(b).mul_(q)
        return out.div_(out.sum(1, keepdim=True))
    powered, log_sums = alpha * b.log(), (alpha * known.log()).logsumexp(0)
    return torch.where(powered.isfinite(), q.log() + powered - torch.logaddexp(log_sums, powered), -torch.inf).softmax(1)


def _as_given(value: Any, result: Tensor) -> Any:
    """`result` as the kind and dtype that `value` is."""
    return _like(value, result.to(_tensor("rows", value, "probabilities (N, C)").dtype))


class Adjusted(NamedTuple):
    """probabilities (N, C): adjusted where `ambiguous` (N,) bool says so, the input's own bits elsewhere; reference (n, C): the rows that helped."""

    probabilities: Any
    ambiguous: Any
    reference: Any


def alternating_normalization(
    probabilities, prior, *, reference=None, threshold: float = 0.75, k: int | Iterable[int] | None = (2, 3), alpha: float = 1.0, depth: int = 1,
    cap: int | None = None, seed: int = 0, identity: bool = False,
) -> Adjusted:  # fmt: skip
    """Adjust the undecided rows of `probabilities` (N, C) with the help of decided ones.

    prior (C,): how often each class occurs *among the rows to adjust*; any scale; a Series or dict by the names of the columns or the class numbers.
    reference (M, C): predictions whose decided rows serve as reference, best those on validation data of the same kind; None takes the decided rows of
    `probabilities` themselves (as the code's image experiment does). threshold, k: what counts as undecided (`is_ambiguous`). alpha, depth: exponent and
    number of rounds. cap, seed: of `choose_reference`. identity: where no row is decided, use the C x C identity, as the code does, instead of raising
    ValueError.
    """
    rows = _probabilities("probabilities", probabilities)
    options = _options(rows.shape[1], threshold, k, alpha, depth, cap, seed, identity)
    known, q = _known(rows, probabilities, reference), _prior(prior, rows, _columns(probabilities))
    adjusted, undecided, helpers = _adjusted(rows, q, known, *options)
    out = _tensor("probabilities", probabilities, "probabilities (N, C)").clone().to(rows.device)
    if adjusted is not None:
        out[undecided] = adjusted.to(out.dtype)
    return Adjusted(*(_like(probabilities, part) for part in (out, undecided, helpers.clone())))


def _options(classes: int, threshold, k, alpha, depth, cap, seed, identity) -> tuple:
    return (
        _number("threshold", threshold, 0, 1), _ranks(k, classes), _exponent("alpha", alpha), _integer("depth", depth, 0),
        cap if cap is None else _integer("cap", cap, 1), _integer("seed", seed, 0), _flag("identity", identity),
    )  # fmt: skip


def _known(rows: Tensor, probabilities: Any, reference: Any) -> Tensor:
    """The rows among which the decided ones are looked for, where `rows` lie."""
    if reference is None:
        return rows
    _same_order("reference", reference, "probabilities", probabilities)
    known = _probabilities("reference", reference, rows.shape[1]).to(rows.device)
    if len(known) == 0:
        raise ValueError("reference must hold a row or more, got none")
    return known


def _adjusted(rows: Tensor, q: Tensor, known: Tensor, threshold, ranks, alpha, depth, cap, seed, identity) -> tuple[Tensor | None, Tensor, Tensor]:
    """(the undecided rows adjusted, None for no rounds; which they are; the reference) of checked arguments."""
    undecided = _undecided(rows, threshold, ranks)
    decided = known[~_undecided(known, threshold, ranks)]
    if len(decided) == 0 and not identity:
        raise ValueError("reference must hold a decided row, got none; raise threshold, or pass identity=True for the C x C identity")
    helpers = _chosen(decided, cap, seed) if len(decided) else torch.eye(rows.shape[1], dtype=torch.float64, device=rows.device)
    return _rounds(rows[undecided], helpers, q / q.sum(), alpha, depth) if depth else None, undecided, helpers


def binary_threshold(reference, prior, *, alpha: float = 1.0) -> float:
    """Two classes, one round: the probability of class 0 above which class 0 is chosen.

    The adjusted probability rises strictly with the given one, so that for two classes the whole method is a moved threshold: the p with
    q_0 p^alpha (a_1 + (1 - p)^alpha) = q_1 (1 - p)^alpha (a_0 + p^alpha). With equal priors and alpha = 1 it is a_0 / (a_0 + a_1).
    """
    alpha, known = _exponent("alpha", alpha), _probabilities("reference", reference, 2).cpu()
    if len(known) == 0:
        raise ValueError("reference must hold a row or more, got none")
    q = _prior(prior, known, _columns(reference))
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        first = _closed_form(torch.tensor([[p, 1 - p]], dtype=torch.float64), known, q, alpha)[0, 0]
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
    probabilities, labels, prior, *, reference=None, thresholds: Iterable[float] = (0.25, 0.5, 0.75, 0.9), alphas: Iterable[float] = (0.3, 0.5, 1.0, 2.0),
    depths: Iterable[int] = (0, 1, 2, 3), k: int | Iterable[int] | None = (2, 3), cap: int | None = None, seed: int = 0,
) -> Tuned:  # fmt: skip
    """Choose threshold, exponent and depth by accuracy on validation rows (N, C) with labels (N,); of equals the one with fewest rounds, then the first.

    Depth 0, "leave them alone", belongs to the grid: without it the choice could only do harm where nothing helps.
    """
    rows = _probabilities("probabilities", probabilities)
    if len(rows) == 0:
        raise ValueError("probabilities must hold a validation row or more, got none")
    truth, q, known = _labels("labels", labels, rows), _prior(prior, rows, _columns(probabilities)), _known(rows, probabilities, reference)
    thresholds = _grid("thresholds", thresholds, lambda name, value: _number(name, value, 0, 1))
    alphas, depths = _grid("alphas", alphas, _exponent), _grid("depths", depths, lambda name, value: _integer(name, value, 0))
    _, ranks, _, _, cap, seed, _ = _options(rows.shape[1], 0, k, 1, 0, cap, seed, True)
    accuracy = {}
    for depth, threshold, alpha in product(sorted(depths), thresholds, alphas):
        adjusted, undecided, _ = _adjusted(rows, q, known, threshold, ranks, alpha, depth, cap, seed, True)
        said = rows.argmax(1)
        if adjusted is not None:
            said[undecided] = adjusted.argmax(1)
        accuracy[Setting(threshold, alpha, depth)] = float((said == truth).double().mean())
    return Tuned(max(accuracy, key=accuracy.get), accuracy)


class AlternatingNormalizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """`alternating_normalization` with scikit-learn's face: X is predicted probabilities (N, C), whatever classifier they come from.

    fit(X, y): validation probabilities and their labels; keeps the decided rows as reference and the labels' frequencies (plus one each, so that none is
    zero) as prior, unless `prior` is given. transform(X) -> (N, C); predict(X) -> (N,) classes; both arrays. Labels are the names of X's columns (texts or
    whole numbers), class numbers 0 .. C - 1, or any C different whole numbers, texts or booleans, whose ascending order is then that of the columns, as in
    scikit-learn's classifiers (`classes_`).
    """

    def __init__(self, prior=None, *, threshold=0.75, k=(2, 3), alpha=1.0, depth=1, cap=None, seed=0, identity=True):
        self.prior, self.threshold, self.k, self.alpha, self.depth = prior, threshold, k, alpha, depth
        self.cap, self.seed, self.identity = cap, seed, identity

    def fit(self, X, y=None):
        rows = _probabilities("X", X).cpu()
        if len(rows) == 0:
            raise ValueError("X must hold a row or more, got none")
        if self.prior is None and y is None:
            raise ValueError("y must be the labels of X where no prior is given, got None")
        options = _options(rows.shape[1], self.threshold, self.k, self.alpha, self.depth, self.cap, self.seed, self.identity)
        classes, codes = (np.arange(rows.shape[1]), None) if y is None else self._coded(y, rows, _columns(X))
        prior = torch.bincount(codes, minlength=rows.shape[1]).double() + 1 if self.prior is None else self.prior
        by_column = _columns(X) is not None and (codes is None or isinstance(classes[0], np.integer))
        prior = _prior(prior, rows, _columns(X) if by_column else classes.tolist())
        if not options[-1] and _undecided(rows, *options[:2]).all():
            raise ValueError("X must hold a decided row where identity is False, got none; raise threshold")
        validate_data(self, X, reset=True, skip_check_array=True)  # n_features_in_, and the names of the columns
        self.reference_, self.prior_, self.classes_, self._names = rows.clone().numpy(), prior.numpy(), classes, _columns(X)
        return self

    @staticmethod
    def _coded(y: Any, rows: Tensor, columns: list | None) -> tuple[np.ndarray, Tensor]:
        """The classes in the order of the columns, and each label's place among them (N,)."""
        count, classes = rows.shape
        if _masked(y):
            raise TypeError(f"y must be labels ({count},), got {_got(y)}")
        try:
            found = np.asarray(_like(None, y) if isinstance(y, Tensor) else y.to_numpy() if hasattr(y, "to_numpy") else y)
        except Exception:  # no array: `_labels` says what it is
            found = np.empty(())
        if found.ndim == 1 and found.dtype == object and len(found) and all(isinstance(one, Integral) and not isinstance(one, bool) for one in found):
            found = np.array(found.tolist())
        booleans = found.dtype == bool and classes == len(np.unique(found)) == 2  # two different labels as any others
        if found.ndim != 1 or found.dtype.kind not in "iuUTO" and not booleans:
            return np.arange(classes), _labels("y", y, rows)
        if len(found) != count:
            raise ValueError(f"y must be {count} labels, one for each row of X, got shape {found.shape}")
        texts = all(isinstance(label, str) for label in found)
        if found.dtype.kind not in "iub" and not texts:
            raise TypeError(f"y must be whole numbers or texts ({count},), got {_got(y)}")
        named = columns is not None and not booleans and len(set(columns)) == classes and all(isinstance(one, str if texts else Integral) for one in columns)
        if named and not texts:  # numbers name the columns only where all of y are among them
            named = set(found.tolist()) <= set(columns) and not any(isinstance(one, bool) for one in columns)
        names = np.array(columns) if named else np.unique(found)
        if texts or named or booleans or (len(names) == classes and (found.max() >= classes or found.min() < 0)):
            places = {name: place for place, name in enumerate(names.tolist())}
            if len(names) != classes or not set(found.tolist()) <= set(places):
                raise ValueError(f"y must hold the classes of X's {classes} columns, got {_got(sorted(set(found.tolist())))}")
            return names, torch.tensor([places[label] for label in found.tolist()])
        return np.arange(classes), _labels("y", found, rows)

    def transform(self, X) -> np.ndarray:
        check_is_fitted(self)
        rows = _probabilities("X", X)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features as input")
        validate_data(self, X, reset=False, skip_check_array=True)  # names that are texts
        if (came := _columns(X)) is not None and self._names is not None and came != self._names and set(came) == set(self._names):
            raise ValueError(f"X must have the columns that fit saw in their order, {_got(self._names)}, got {_got(came)}")
        options = {name: value for name, value in self.get_params(deep=False).items() if name != "prior"}
        found = alternating_normalization(X, self.prior_, reference=self.reference_, **options).probabilities
        return _like(None, found) if isinstance(found, Tensor) else found

    def predict(self, X) -> np.ndarray:
        return self.classes_[np.asarray(self.transform(X)).argmax(1)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags._skip_test = True  # scikit-learn's generated checks feed rows that are no probabilities
        return tags
