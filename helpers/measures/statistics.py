"""How sure a number is: 95 % intervals over independent units, paired differences, where curves cross, which settings cannot be told from the best.

The independent unit (prompt, picture, clip, task, seed) is what could have been drawn anew; rows of one unit are averaged first, so every unit weighs
the same however many rows it has, and only units are resampled. For a table of prompts x seeds the units are its rows, the prompts.

From 8 units on an interval is a percentile bootstrap (scipy, fixed seed), expanded so that for normal values it is as wide as Student's t (Hesterberg
2015, doi:10.1080/00031305.2015.1089789). BCa is not used: it is undefined where all values are equal, as shares often are, and it is too narrow for few
units as well. Below 8 units there are too few different resamples, and Student's t stands in: right for means that are about normal. In simulations with
known truth 95 to 97 % of the intervals of normal values hold it for 5 to 48 units, and 89 to 93 % for exponential ones; for True and False near none or
all both fail, which is what `share` is for.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..arguments import flag, got, instance, integer, real
from ..arguments import function as a_function

__all__ = [
    "FEW", "Crossings", "Estimate", "Plateau", "between_share", "correlation", "crossing", "interval", "of_means", "paired", "plateau", "ratio", "share",
    "slope",
]  # fmt: skip

FEW = 8  # units; below it a bootstrap interval is too narrow
RESAMPLES = 9999


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval [low, high] over n independent units; `spread` is the standard deviation (ddof = 1) over them.

    `method` says how the interval was made ("bootstrap over prompts"); `ledger.over(estimate, "dB")` takes it as it is.
    """

    value: float
    low: float
    high: float
    n: int
    spread: float
    method: str

    def __str__(self) -> str:
        # two digits of the interval's width decide how many decimals are shown
        form = f".{max(0, 1 - math.floor(math.log10(self.high - self.low)))}f" if self.high > self.low else ".3g"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"

    def says(self, smallest: float = 0.0) -> str:
        """What may be said of a difference: "gain", "loss" or "no difference seen".

        A gain when the whole interval lies above `smallest`, the smallest effect that matters (>= 0), a loss when it lies below -smallest. The third
        answer covers a difference too small to matter as well as one that these units cannot show.
        """
        smallest = real("smallest", smallest, low=0)
        return "gain" if self.low > smallest else "loss" if self.high < -smallest else "no difference seen"


@dataclass(frozen=True)
class Crossings:
    """Where the mean of a - b changes its sign: one estimate for each change that the units support, in the order of xs.

    `says` is "they cross", "a is above everywhere", "b is above everywhere" or "cannot be told".
    """

    says: str
    at: tuple[Estimate, ...] = ()

    def __str__(self) -> str:
        return self.says + (f" at {', '.join(map(str, self.at))}" if self.at else "")


@dataclass(frozen=True)
class Plateau:
    """The setting with the best mean, and all `members` that cannot be told from it (itself included), in the order of the settings.

    `behind` maps every other setting to how far it lies behind the best (>= 0), with its own 95 % interval.
    """

    best: object
    members: tuple
    behind: dict

    def __str__(self) -> str:
        others = [member for member in self.members if member != self.best]
        return f"{self.best} ({', '.join(map(str, others))} cannot be told from it)" if others else f"{self.best} (all others are behind)"


# --- one mean ---


def interval(values, *, units=None, of: str = "units", statistic: Callable = np.mean) -> Estimate:
    """The mean of values over independent units with its 95 % interval.

    values: (n,) one a unit, or (n, ...) with a unit in each row; with `units` (n,) the rows of one label belong to one unit. `of` names the units in the
    plural. `statistic`: another one than the mean over units (np.median; takes `axis`), from 8 units on. Raises TypeError for what are no numbers,
    ValueError for other shapes, NaN or infinite values, fewer than two units, and another statistic of fewer than 8.
    """
    _plural(of)
    a_function("statistic", statistic, "a function of an array and its axis, such as np.median")
    x = _by_unit(_numbers(values, "values"), units)
    return _estimate(x, of, statistic)


def paired(a, b, *, units=None, of: str = "units") -> Estimate:
    """The mean of a - b with its 95 % interval, row by row: same prompt, same seed. Shapes, `units` and errors as in `interval`."""
    _plural(of)
    a, b = _pair(a, b)
    return _estimate(_by_unit(_difference(a, b), units, "a and b"), of, np.mean)


def ratio(a, b, *, units=None, of: str = "units") -> Estimate:
    """The mean of a over the mean of b, row by row the same case, with its 95 % interval; at least 8 units.

    Not the mean of ratios, which a few small b rule. `spread` is that of a unit's share in it, (a - ratio x b) / mean(b). Shapes, `units` and errors as in
    `interval`; ValueError also where the mean of b cannot be told from zero: such a ratio says nothing.
    """
    _plural(of)
    a, b = _pair(a, b)
    a, b = (_by_unit(x, units, "a and b") for x in (a, b))
    if len(a) < FEW:
        raise ValueError(f"a and b need at least {FEW} units for a ratio, got {len(a)}")
    # of skewed units the one interval can leave out zero where the other does not, and the resampled ratio then has no ends
    ends = np.array([_student(b, 0.95), _bootstrap((b,), np.mean)])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    if low <= 0 <= high:
        raise ValueError(f"the mean of b cannot be told from zero ({b.mean():.3g} [{low:.3g}, {high:.3g}]), so the ratio says nothing")
    value = float(a.mean() / b.mean())
    low, high = _bootstrap((a, b), lambda a, b, axis: a.mean(axis) / b.mean(axis))
    spread = float(((a - value * b) / b.mean()).std(ddof=1))
    return Estimate(value, min(low, value), max(high, value), len(a), spread, f"bootstrap over {of}")


def share(hits, *, of: str = "units") -> Estimate:
    """The share of True among independent units, in [0, 1], with Wilson's 95 % score interval, which is right for none and for all as well.

    hits (n,): True and False, or 1 and 0, one a unit (several rows a unit: `interval` of the units' shares). Raises TypeError for what are no numbers,
    ValueError for other values and shapes.
    """
    _plural(of)
    x = _numbers(hits, "hits")
    if x.ndim != 1 or len(x) == 0 or not np.isin(x, (0, 1)).all():
        raise ValueError(f"hits must be (n,) of True and False, got shape {x.shape} with values from {x.min(initial=0):g} to {x.max(initial=0):g}")
    ends = stats.binomtest(int(x.sum()), len(x)).proportion_ci(0.95, method="wilson")
    return Estimate(float(x.mean()), float(ends.low), float(ends.high), len(x), float(x.std(ddof=1)) if len(x) > 1 else 0.0, f"Wilson over {of}")


def correlation(a, b, *, units=None, of: str = "units") -> Estimate:
    """Spearman's rank correlation of a and b over units, in [-1, 1], with its 95 % interval; at least 8 units.

    Shapes, `units` and errors as in `interval`; ValueError also where all of a or all of b are equal. `spread` is that of the units' own terms, the
    products of standardised ranks.
    """
    _plural(of)
    a, b = _pair(a, b)
    a, b = (_means_to_rank(x, units) for x in (a, b))
    for name, x in (("a", a), ("b", b)):
        if len(x) < FEW or (x == x[0]).all():
            raise ValueError(
                f"{name} needs at least {FEW} units that are not all equal for a correlation, got {len(x)} units from {x.min():.14g} to {x.max():.14g}"
            )

    def terms(a, b, axis):
        ranks = [stats.rankdata(x, axis=axis) for x in (a, b)]
        ranks = [r - r.mean(axis, keepdims=True) for r in ranks]
        sizes = np.sqrt(np.square(ranks[0]).mean(axis, keepdims=True) * np.square(ranks[1]).mean(axis, keepdims=True))
        return np.divide(ranks[0] * ranks[1], sizes, out=np.zeros_like(sizes * ranks[0]), where=sizes > 0)

    products = terms(a, b, 0)
    low, high = _bootstrap((a, b), lambda a, b, axis: terms(a, b, axis).mean(axis))
    value = float(products.mean())
    return Estimate(value, max(-1.0, min(low, value)), min(1.0, max(high, value)), len(a), float(products.std(ddof=1)), f"bootstrap over {of}")


def _means_to_rank(x, units) -> np.ndarray:
    """A mean for each unit. Equal means of different rows differ by rounding, which must not rank them: nor those that are 0 but for it."""
    means, sizes = (_by_unit(rows, units, "a and b") for rows in (x, np.abs(x)))
    return np.array([float(f"{mean:.14g}") if abs(mean) > 1e-14 * size else 0.0 for mean, size in zip(means, sizes, strict=True)])


def slope(a, b, *, of: str = "units") -> Estimate:
    """The slope of b over a, with its 95 % interval: the median slope of the lines through two units (Theil-Sen), which a few outliers do not move.

    a, b: (n,), one a unit, or (n, m): m repeats that are kept apart, so that only lines within a repeat count (where a comes from other pictures than b,
    chance in one set of pictures makes no slope). At least 8 units; pairs of equal a have no slope and do not count. `spread` is that of the units' own
    slopes, each the median of the lines through it. Raises TypeError for what are no numbers, ValueError for other shapes and where all of a are equal.
    """
    _plural(of)
    a, b = _pair(a, b)
    if a.ndim not in (1, 2) or len(a) < FEW or (a == a[0]).all():
        low, high = (a.min(), a.max()) if a.size else (np.nan, np.nan)
        raise ValueError(f"a must be (n,) or (n, m) with at least {FEW} units that are not all equal, got shape {a.shape} from {low:g} to {high:g}")
    columns = [*a.reshape(len(a), -1).T, *b.reshape(len(b), -1).T]
    repeats, (first, second) = len(columns) // 2, np.triu_indices(len(a), 1)

    def median(slopes):
        slopes.sort(axis=-1)  # NaN come last
        count = np.isfinite(slopes).sum(-1, keepdims=True)
        middle = [np.take_along_axis(slopes, place.clip(0), -1) for place in ((count - 1) // 2, count // 2)]
        return np.where(count > 0, (middle[0] + middle[1]) / 2, 0.0)[..., 0]

    def lines(x, y, i, j):
        run = x[..., j] - x[..., i]
        return np.divide(y[..., j] - y[..., i], run, out=np.full_like(run, np.nan), where=run != 0)

    def theil_sen(*columns, axis):
        columns = [np.moveaxis(x, axis, -1) for x in columns]
        if columns[0].ndim > 1 and len(columns[0]) > 500:  # all pairs of all resamples would not fit
            return np.concatenate([theil_sen(*(x[i : i + 500] for x in columns), axis=-1) for i in range(0, len(columns[0]), 500)])
        return median(np.concatenate([lines(x, y, first, second) for x, y in zip(columns[:repeats], columns[repeats:], strict=True)], -1))

    every = np.arange(len(a))
    own = [median(np.concatenate([lines(x, y, i, every) for x, y in zip(columns[:repeats], columns[repeats:], strict=True)])) for i in every]
    low, high = _bootstrap(tuple(columns), theil_sen)
    value = float(theil_sen(*columns, axis=0))
    return Estimate(value, min(low, value), max(high, value), len(a), float(np.std(own, ddof=1)), f"bootstrap over {of}")


def between_share(table, *, of: str = "units") -> Estimate:
    """The share of the variance that lies between units: the intraclass correlation ICC(1) (Shrout and Fleiss 1979), at most 1, with its 95 % interval.

    table (n, m): n >= 8 units, m >= 2 repeats of each (prompts x seeds). 1: repeats of a unit are alike; 0: units differ no more than their repeats do;
    below 0: less. `spread` is the standard deviation of the units' means. In simulations of normal values 88 to 91 % of the intervals of 8 to 12 units
    hold the truth, and 92 to 94 % of those of 24: read those of few units as too narrow. Raises TypeError for what are no numbers, ValueError for other
    shapes, NaN, and a table of equal values.
    """
    _plural(of)
    x = _numbers(table, "table")
    if x.ndim != 2 or len(x) < FEW or x.shape[1] < 2:
        raise ValueError(f"table must be (n, m) with at least {FEW} units and two repeats, got {x.shape}")
    if (x == x[0, 0]).all():
        raise ValueError(f"table holds one value, {x[0, 0]:g}, everywhere: there is no variance to share")
    repeats, means, inside = x.shape[1], x.mean(1), x.var(1, ddof=1)

    def icc(means, inside, axis):
        between, within = repeats * means.var(axis, ddof=1), inside.mean(axis)
        total = between + (repeats - 1) * within
        return np.divide(between - within, total, out=np.zeros_like(total), where=total > 0)

    value = float(icc(means, inside, 0))
    low, high = _bootstrap((means, inside), icc)
    return Estimate(value, min(low, value), max(high, value), len(x), float(means.std(ddof=1)), f"bootstrap over {of}")


def of_means(function: Callable, tables: Sequence, *, of: str = "units", draws: int = 2000) -> Estimate:
    """One number of several tables' means over their units, with its 95 % interval: bootstrap, the same units drawn for all tables; at least 8 units.

    tables: (settings, n) each, a unit a column; function: takes the list of their means, (settings,) each. `spread` is that of the drawn values times the
    root of n. Raises TypeError for what are no numbers or no function, ValueError for NaN, other shapes and fewer units.
    """
    a_function("function", function, "a function of a list of means")
    _plural(of)
    draws = integer("draws", draws, low=100)
    if not isinstance(tables, (list, tuple)):
        raise TypeError(f"tables must be a list of tables (settings, n), got {got(tables)}")
    tables = [_numbers(table, f"tables[{i}]") for i, table in enumerate(tables)]
    if not tables or any(x.ndim != 2 or not len(x) or x.shape[1] != tables[0].shape[1] for x in tables):
        raise ValueError(f"tables must be (settings, n) each, of one n, got {[x.shape for x in tables]}")
    n = tables[0].shape[1]
    if n < FEW:
        raise ValueError(f"at least {FEW} {of} are needed for an interval, got {n}")

    def one(means: list) -> float:
        found = np.asarray(function(means))
        if found.shape or found.dtype.kind not in "iuf" or not np.isfinite(found):
            raise ValueError(f"function must give one finite number of the means, got {got(found)}")
        return float(found)

    value = one([x.mean(1) for x in tables])
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws)
    drawn = np.array([one([x @ c / n for x in tables]) for c in counts])
    low, high = np.quantile(drawn, _tails(n))
    return Estimate(value, min(float(low), value), max(float(high), value), n, float(drawn.std(ddof=1) * np.sqrt(n)), f"bootstrap over {of}")


# --- curves over settings ---


def crossing(xs, a, b, *, of: str = "units") -> Crossings:
    """Where two curves cross: at which x the mean of a - b over units changes its sign, with a 95 % interval.

    xs (K,): rising settings (budgets, steps); a, b (n, K): each unit's two curves, paired. At every x the sign of the mean difference is decided by
    Student's t with Bonferroni's correction for K looks. Between two neighbouring decided signs that differ lies a crossing: found by linear
    interpolation of the mean difference (give log(x) for a logarithmic axis) and resampled over units between the two, the second included; below 8 units
    the two settings themselves are the interval. `spread` is that of the units' own crossings there. Raises ValueError for other shapes, settings that do
    not rise, and fewer than two units.
    """
    _plural(of)
    a, b = _pair(a, b)
    xs = _numbers(xs, "xs")
    if xs.ndim != 1 or len(xs) < 2 or not (np.diff(xs) > 0).all():
        raise ValueError(f"xs must be (K,) with at least two rising settings, got {xs}")
    if a.ndim != 2 or a.shape[1] != len(xs) or len(a) < 2:
        raise ValueError(f"a and b must be (units, {len(xs)}) with at least two units, got {a.shape}")
    d = _difference(a, b)
    low, high = _student(d, 1 - 0.05 / len(xs))
    sign = np.where(low > 0, 1, np.where(high < 0, -1, 0))
    decided = np.flatnonzero(sign)
    brackets = [(i, j) for i, j in zip(decided, decided[1:], strict=False) if sign[i] != sign[j]]
    if not brackets:
        return Crossings("cannot be told" if (sign == 0).any() else f"{'a' if sign[0] > 0 else 'b'} is above everywhere")
    found = []
    for i, j in brackets:
        inside, rising = xs[i : j + 1], sign[j] * d[:, i : j + 1]
        value, spread = float(_turns(inside, rising.mean(0)[None])[0]), float(_turns(inside, rising).std(ddof=1))
        if len(d) < FEW:
            low, high, method = float(xs[i]), float(xs[j]), f"decided signs over {of}"
        else:
            low, high = map(float, np.quantile(_turns(inside, _resampled_means(rising)), _tails(len(d))))
            method = f"bootstrap over {of}"
        found.append(Estimate(value, min(low, value), max(high, value), len(d), spread, method))
    return Crossings("they cross", tuple(found))


def plateau(xs: Sequence, table, *, lower_is_better: bool = False, of: str = "units") -> Plateau:
    """The settings that cannot be told from the best one.

    xs: K different settings (numbers or names); table (n, K): each unit's score at each setting. A setting is told from the one with the best mean where
    the paired difference lies above zero by Student's t with Bonferroni's correction for K - 1 looks, so the truly best setting is a member in at
    least 95 % of all experiments. Raises TypeError for what are no numbers, ValueError for other shapes, repeated settings and fewer than two units.
    """
    _plural(of)
    lower_is_better, scores = flag("lower_is_better", lower_is_better), _numbers(table, "table")
    try:
        if isinstance(xs, (str, bytes, Mapping, Set)):
            raise TypeError
        xs = [x.item() if hasattr(x, "item") else x for x in xs]
        if any(x is None or isinstance(x, complex) for x in xs):
            raise TypeError
        different = len(set(xs)) == len(xs) and all(x == x for x in xs)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"xs must be numbers or names, one a setting, got {got(xs)}") from None
    if len(xs) < 2 or not different:
        raise ValueError(f"xs must be at least two different settings, got {xs}")
    if scores.ndim != 2 or scores.shape[1] != len(xs) or len(scores) < 2:
        raise ValueError(f"table must be (units, {len(xs)}) with at least two units, got {scores.shape}")
    scores = -scores if lower_is_better else scores
    best = int(scores.mean(0).argmax())
    behind = _difference(scores[:, [best]], scores)
    low, _ = _student(behind, 1 - 0.05 / (len(xs) - 1))
    return Plateau(
        xs[best],
        tuple(x for k, x in enumerate(xs) if k == best or low[k] <= 0),
        {x: _estimate(behind[:, k], of, np.mean) for k, x in enumerate(xs) if k != best},
    )


# --- the parts ---


def _plural(of):
    instance("of", of, str, "the name of the units in the plural")


def _numbers(x, name):
    try:
        if hasattr(x, "detach"):
            x = x.detach().cpu()
            array = np.asarray(x if x.is_complex() else x.double())
        else:
            array = np.asarray(x)
        if array.dtype.kind not in "biufO" or (array.dtype.kind == "O" and any(isinstance(one, (str, bytes)) for one in array.flat)):
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{name} must be real numbers, got {got(x)}") from None
    if np.ma.is_masked(x):
        raise ValueError(f"{name} must not hold masked values")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    if array.size and np.abs(array).max() >= 1e150:  # its square is no number any more
        raise ValueError(f"{name} must lie below 1e150, got {np.abs(array).max():g}")
    return array


def _pair(a, b):
    a, b = _numbers(a, "a"), _numbers(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a {a.shape} and b {b.shape} must have one shape, row by row the same case")
    return a, b


def _difference(a, b):
    """a - b; equal numbers that were rounded on different ways are equal, and no gain that every unit shows."""
    return np.where(np.abs(a - b) <= 64 * np.finfo(float).eps * np.maximum(np.abs(a), np.abs(b)), 0.0, a - b)


def _by_unit(x, units, name="values"):
    """(n,): the mean of each unit's rows."""
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"{name} must be (n,) or (n, ...) and not empty, got {x.shape}")
    rows = x.reshape(len(x), -1).mean(1)
    if units is not None:
        place, counts = _places(units, len(x))
        rows = np.bincount(place, weights=rows) / counts
    if len(rows) < 2:
        raise ValueError(f"{name} must have at least two units for an interval, got {len(rows)}")
    return rows


def _places(units, rows):
    """The unit's number of each row, and how many rows each unit has."""
    refusal = TypeError(f"units must be names or numbers, a label for each row, got {got(units)}")
    if isinstance(units, (str, bytes, Mapping, Set)):
        raise refusal
    try:
        units = units.detach().cpu().tolist() if hasattr(units, "detach") else units
        labels = np.asarray(units)
    except (ValueError, RuntimeError):  # ragged lists, tensors without numbers
        raise refusal from None
    if labels.dtype.kind == "c":
        raise refusal
    if labels.shape != (rows,):
        raise ValueError(f"units must be ({rows},), a label for each row, got {labels.shape}")
    try:
        missing = any(label is None or label != label for label in labels)
    except TypeError:  # pandas' NA, which is neither equal to itself nor not
        missing = True
    if missing:
        raise ValueError("units must not hold NaN or None")
    if len({isinstance(label, str) for label in units}) > 1:  # numpy takes 1 and "1" for one label
        raise ValueError("units must be all names or all numbers, got both")
    try:
        return np.unique(labels, return_inverse=True, return_counts=True)[1:]
    except TypeError:  # what has no order
        raise refusal from None


def _tails(n):
    """The two quantiles of the expanded percentile interval: for normal values it is as wide as Student's t."""
    tail = stats.norm.sf(stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1)))
    return tail, 1 - tail


def _student(x, level):
    """Ends (low, high) of Student's interval of the means over the first axis."""
    half = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(0, ddof=1) / math.sqrt(len(x))
    return x.mean(0) - half, x.mean(0) + half


def _estimate(x, of, statistic):
    n, spread = len(x), float(x.std(ddof=1))
    try:
        value = statistic(x, axis=0)
        wrong = np.ndim(value) or not np.isfinite(value)
    except Exception as error:  # whatever a function says that takes no axis, or gives no number
        raise TypeError(f"statistic must be a function of an array and its axis, such as np.median, got {got(statistic)}") from error
    if wrong:
        raise ValueError(f"statistic must give one finite number over axis 0, got {value!r}")
    value = float(value)
    if n < FEW:
        if statistic is not np.mean:
            raise ValueError(f"statistic other than the mean needs at least {FEW} units, got {n}")
        low, high = map(float, _student(x, 0.95))
        return Estimate(value, low, high, n, spread, f"Student's t over {of}")
    low, high = _bootstrap((x,), statistic)
    # rounding can leave the mean of equal values just outside
    return Estimate(value, min(low, value), max(high, value), n, spread, f"bootstrap over {of}")


def _bootstrap(data, statistic):
    """Ends (low, high) for statistic(*data, axis=), the same units drawn for all of data."""
    n = len(data[0])
    drawn = stats.bootstrap(
        data,
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, 2**22 // n),  # bounds the memory, changes no draw
        vectorized=True,
        paired=len(data) > 1,
        confidence_level=1 - 2 * _tails(n)[0],
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return tuple(map(float, drawn.confidence_interval))


def _resampled_means(x):
    """(RESAMPLES, K): means over units drawn with replacement, the same units for all columns."""
    counts = np.random.default_rng(0).multinomial(len(x), np.full(len(x), 1 / len(x)), size=RESAMPLES)
    return counts @ x / len(x)


def _turns(xs, curves):
    """(N,): the first x at which each of curves (N, K), that begin below zero, rises through it; the ends where it begins above or never does."""
    above = curves >= 0
    k = above.argmax(1).clip(1)
    rows = np.arange(len(curves))
    before, after = curves[rows, k - 1], curves[rows, k]
    with np.errstate(divide="ignore", invalid="ignore"):
        x = xs[k - 1] + (xs[k] - xs[k - 1]) * before / (before - after)
    return np.where(above[:, 0], xs[0], np.where(above.any(1), x, xs[-1]))
