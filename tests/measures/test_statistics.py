"""Intervals against closed forms, slow loops and simulations with known truth; what is invariant; refusals."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from helpers.measures import statistics
from helpers.measures.statistics import Crossings, Estimate, between_share, correlation, crossing, interval, paired, plateau, ratio, share, slope
from helpers.page import ledger
from tests.accelerator import DEVICE, Accelerator


def ends(estimate):
    return estimate.low, estimate.high


# --- one mean ---


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_units_have_students_interval(n):
    x = np.random.default_rng(n).normal(3, 2, n)
    found = interval(x, of="seeds")
    assert ends(found) == pytest.approx(tuple(stats.ttest_1samp(x, 0).confidence_interval(0.95)))
    assert (found.value, found.spread, found.n, found.method) == (pytest.approx(x.mean()), pytest.approx(x.std(ddof=1)), n, "Student's t over seeds")


@pytest.mark.parametrize("n", [8, 15, 60])
def test_many_normal_units_have_nearly_students_interval(n):
    x = stats.norm.ppf((np.arange(n) + 0.5) / n)  # as normal as n values can be
    low, high = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert ends(interval(x)) == pytest.approx((low, high), rel=0.08) and interval(x, of="clips").method == "bootstrap over clips"


def test_bootstrap_against_a_slow_loop():
    """Own resampling, one unit at a time, and the quantiles of the expanded interval written out."""
    x = np.random.default_rng(5).exponential(2, 9)
    rng = np.random.default_rng(6)
    means = sorted(sum(x[rng.integers(9)] for _ in range(9)) / 9 for _ in range(4000))
    tail = stats.norm.cdf(-stats.t.ppf(0.975, 8) * math.sqrt(9 / 8))
    assert tail < 0.025
    expected = means[round(tail * 4000)], means[round((1 - tail) * 4000) - 1]
    assert ends(interval(x)) == pytest.approx(expected, abs=0.12 * (expected[1] - expected[0]))


@pytest.mark.parametrize("n, draws", [(3, 800), (12, 200)])
def test_coverage_of_the_truth(n, draws):
    rng = np.random.default_rng(n)
    hits = [low <= 1 <= high for low, high in (ends(interval(rng.normal(1, 2, n))) for _ in range(draws))]
    assert 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / draws) < np.mean(hits) < 0.995


def test_coverage_where_rows_of_a_unit_belong_together():
    """Five rows share their unit's luck: by unit the truth is held as promised, by row it is missed far too often."""
    rng, by_unit, by_row = np.random.default_rng(0), 0, 0
    labels = np.repeat(np.arange(6), 5)
    for _ in range(150):
        x = rng.normal(0, 1, 6)[labels] + 0.2 * rng.normal(size=30)
        by_unit += np.prod(ends(interval(x, units=labels))) <= 0
        low, high = stats.ttest_1samp(x, 0).confidence_interval(0.95)
        by_row += low * high <= 0
    assert by_unit / 150 > 0.89 and by_row / 150 < 0.75


def test_units_by_label_by_row_and_by_hand_agree():
    table = np.random.default_rng(1).normal(size=(10, 3))
    labels = np.repeat([f"prompt {i}" for i in range(10)], 3)
    order = np.random.default_rng(2).permutation(30)
    assert interval(table) == interval(table.mean(1))
    shuffled = interval(table.ravel()[order], units=labels[order])
    assert (shuffled.value, shuffled.low, shuffled.n) == (pytest.approx(interval(table).value), pytest.approx(interval(table).low), 10)


def test_every_unit_weighs_the_same():
    assert interval([1.0, 1.0, 1.0, 5.0], units=["a", "a", "a", "b"]).value == pytest.approx(3)


def test_pairing_removes_what_the_units_share():
    rng = np.random.default_rng(3)
    luck = rng.normal(0, 10, 20)
    a, b = luck + 1 + 0.1 * rng.normal(size=20), luck + 0.1 * rng.normal(size=20)
    found = paired(a, b, of="prompts")
    assert found == interval(a - b, of="prompts") and found.high - found.low < 0.3 and found.says(0.5) == "gain"
    assert paired(b, a).says(0.5) == "loss" and ends(paired(b, a)) == pytest.approx((-found.high, -found.low), abs=0.02)


def test_invariances():
    x = np.random.default_rng(4).exponential(size=11)
    plain = interval(x)
    assert interval(x) == plain  # the seed is fixed
    assert ends(interval(5 + 3 * x)) == pytest.approx((5 + 3 * plain.low, 5 + 3 * plain.high))
    assert ends(interval(np.full(9, 2.5))) == ends(interval([2.5] * 3)) == (2.5, 2.5)
    assert statistics.interval(np.r_[x, x, x, x]).high < plain.high


@pytest.mark.parametrize(
    "make", [list, tuple, np.float32, torch.tensor, lambda x: pd.Series(x, index=range(50, 50 + len(x))), lambda x: torch.tensor(x, requires_grad=True)]
)
def test_any_array_is_read_by_position(make):
    x = [float(v) for v in range(10)]
    assert interval(make(x), units=np.arange(10)) == interval(np.array(x))
    assert paired(make(x), np.zeros(10)).value == pytest.approx(4.5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_every_kind_are_read(kind):
    x = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0, 1]).to(kind)
    assert interval(x) == interval(x.tolist()) and interval(torch.arange(9), units=x) == interval(range(9), units=x.tolist())


def test_numbers_that_differ_by_rounding_alone_are_equal():
    a, b = np.full((9, 1), 0.1 + 0.2), np.full((9, 1), 0.3)
    assert (a != b).all() and paired(a, b).says() == "no difference seen"
    assert plateau(["a", "b"], np.hstack([a, b])).members == ("a", "b")
    assert crossing([1, 2], np.hstack([a, b + 1]), np.hstack([b, b])).says == "cannot be told"
    rows = np.repeat(np.arange(8), range(1, 9))  # units of 1 to 8 rows, every row 0.1: means that differ by rounding
    with pytest.raises(ValueError, match="b needs .* not all equal"):
        correlation(rows, np.full(len(rows), 0.1), units=rows)


def test_another_statistic():
    x = np.r_[np.arange(11.0), 1000]
    found = interval(x, statistic=np.median)
    assert found.value == 5.5 and found.high < 20 < interval(x).value
    with pytest.raises(ValueError, match="statistic"):
        interval([1.0, 2.0, 3.0], statistic=np.median)


def test_ratio_against_a_slow_loop():
    rng = np.random.default_rng(8)
    b = rng.uniform(1, 9, 14)
    a = 0.7 * b + rng.normal(0, 0.8, 14)
    found = ratio(a, b, of="clips")
    pairs = [sorted(rng.integers(14, size=14)) for _ in range(4000)]
    drawn = [sum(a[i] for i in rows) / sum(b[i] for i in rows) for rows in pairs]
    tail = stats.norm.cdf(-stats.t.ppf(0.975, 13) * math.sqrt(14 / 13))
    assert found.value == pytest.approx(sum(a) / sum(b))
    assert ends(found) == pytest.approx(np.quantile(drawn, [tail, 1 - tail]), abs=0.1 * (found.high - found.low))
    assert ends(ratio(3 * a, 2 * b)) == pytest.approx((1.5 * found.low, 1.5 * found.high)) and ends(ratio(2 * b, b)) == pytest.approx((2, 2))


def test_a_bootstrap_in_batches_draws_the_same():
    x = np.random.default_rng(0).normal(size=500)  # two batches
    low, high = statistics._bootstrap((x,), np.mean)
    rows = np.random.default_rng(0).integers(0, 500, (statistics.RESAMPLES, 500))
    assert (low, high) == pytest.approx(np.quantile(x[rows].mean(1), statistics._tails(500)), abs=1e-9)


@pytest.mark.parametrize("k, n", [(0, 5), (3, 12), (20, 20), (1, 1)])
def test_share_is_wilsons(k, n):
    """Against the closed form (Wilson 1927)."""
    z, p = stats.norm.ppf(0.975), k / n
    middle, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = share([True] * k + [False] * (n - k), of="clips")
    assert ends(found) == pytest.approx((middle - half, middle + half), abs=1e-12) and found.value == p and found.n == n


@pytest.mark.parametrize("low, high, smallest, says", [
    (0.1, 0.9, 0, "gain"), (0.1, 0.9, 0.5, "no difference seen"), (0.6, 0.9, 0.5, "gain"), (-0.1, 0.9, 0, "no difference seen"), (-0.9, -0.1, 0, "loss"),
    (-0.9, -0.6, 0.5, "loss"), (-0.9, -0.1, 0.5, "no difference seen"), (0.0, 0.5, 0, "no difference seen"),
])  # fmt: skip
def test_three_things_may_be_said(low, high, smallest, says):
    assert Estimate((low + high) / 2, low, high, 9, 1.0, "m").says(smallest) == says


@pytest.mark.parametrize("numbers, text", [
    ((0.4587, 0.3121, 0.6188), "0.46 [0.31, 0.62]"), ((81.66, 78.21, 84.97), "81.7 [78.2, 85.0]"),
    ((-1140.2, -1320, -950), "-1140 [-1320, -950]"), ((2.5, 2.5, 2.5), "2.5 [2.5, 2.5]"),
    ((25.131, 25.11, 25.15), "25.131 [25.110, 25.150]"),
])  # fmt: skip
def test_an_estimate_is_printed_as_in_the_ledger(numbers, text):
    assert str(Estimate(*numbers, 9, 1.0, "m")) == text == ledger._with_interval(*numbers)


@pytest.mark.parametrize("n", [2, 7, 8, 30])
def test_the_ledger_computes_the_same_interval(n):
    """`page` and `measures` may not import each other; this holds the two together."""
    x = np.random.default_rng(n).exponential(size=n)
    assert ledger.over(x, "dB", "note", of="prompts") == ledger.over(interval(x, of="prompts"), "dB", "note")
    assert ledger.FEW == statistics.FEW


# --- curves ---

XS = [2, 4, 6, 10, 15]


def curves(gap, n=12, noise=0.05, seed=0):
    """(n, K) twice: the units share a level, and a lies above b by `gap`."""
    rng = np.random.default_rng(seed)
    b = rng.normal(0, 5, (n, 1)) + np.linspace(0, 3, len(gap))
    return b + np.asarray(gap) + noise * rng.normal(size=b.shape), b


@pytest.mark.parametrize("n", [5, 12])
def test_curves_cross_where_they_were_made_to(n):
    a, b = curves([-2, -1, 1, 2, 3], n)
    found = crossing(XS, a, b, of="prompts")
    assert found.says == "they cross" and len(found.at) == 1
    at = found.at[0]
    assert at.value == pytest.approx(5, abs=0.1) and 4 <= at.low < 5 < at.high <= 6 and at.n == n
    if n == 12:
        assert at.high - at.low < 0.3
    mirrored = crossing(XS, b, a).at[0]
    assert (mirrored.value, mirrored.low, mirrored.high) == (pytest.approx(at.value), pytest.approx(at.low), pytest.approx(at.high))
    assert crossing(XS, a[::-1], b[::-1]).at[0].value == pytest.approx(at.value)


def test_crossings_found_by_a_slow_loop():
    """Own resampling of whole units; each resampled difference is searched by hand for its change of sign."""
    a, b = curves([-2, -1, 0.3, 1, 2], 10, noise=0.6)
    at = crossing(XS, a, b).at
    rng, d, places = np.random.default_rng(1), a - b, []
    for _ in range(2000):
        mean = sum(d[rng.integers(10)] for _ in range(10)) / 10
        k = next(k for k in range(4) if mean[k] < 0 <= mean[k + 1])
        places.append(np.interp(0, mean[k : k + 2], XS[k : k + 2]))
    assert len(at) == 1 and (at[0].low, at[0].high) == pytest.approx(np.quantile(places, [0.013, 0.987]), abs=0.2)


@pytest.mark.parametrize("gap, says", [
    ([1, 2, 1, 2, 1], "a is above everywhere"), ([-1, -2, -1, -2, -1], "b is above everywhere"), ([0, 0, 0, 0, 0], "cannot be told"),
    ([0, 0, 0, 1, 1], "cannot be told"),
])  # fmt: skip
def test_curves_that_do_not_cross_or_cannot_be_told(gap, says):
    assert crossing(XS, *curves(gap)) == Crossings(says)


def test_two_crossings_and_an_undecided_middle():
    found = crossing(XS, *curves([-1, 1, 1, -1, -1]))
    assert [round(at.value) for at in found.at] == [3, 8] and str(found).startswith("they cross at 2.987 [2.961, 3.013], 7.99")
    wide = crossing(XS, *curves([-1, 0, 0, 0, 1], noise=0.2))
    assert len(wide.at) == 1 and wide.at[0].high - wide.at[0].low > 2


def test_coverage_of_a_crossing_and_of_no_difference():
    rng, held, seen, false = np.random.default_rng(2), 0, 0, 0
    for _ in range(60):
        noise = rng.normal(size=(12, 5)) * 0.5 + rng.normal(size=(12, 1)) * 0.3
        found = crossing(XS, noise + [-2, -1, 1, 2, 3], np.zeros((12, 5)))
        seen += len(found.at) == 1
        held += any(at.low <= 5 <= at.high for at in found.at)
        false += crossing(XS, noise, np.zeros((12, 5))).says != "cannot be told"
    assert seen >= 58 and held >= 52 and false <= 3


def test_a_plateau_holds_what_cannot_be_told_from_the_best():
    rng = np.random.default_rng(0)
    table = rng.normal(0, 5, (20, 1)) + np.array([0.0, 3.0, 3.02, 3.0, 1.0]) + 0.3 * rng.normal(size=(20, 5))
    found = plateau(XS, table, of="pictures")
    assert set(found.members) == {4, 6, 10} and found.best in found.members and set(found.behind) == set(XS) - {found.best}
    assert found.behind[2] == paired(table[:, XS.index(found.best)], table[:, 0], of="pictures") and found.behind[15].says(1.5) == "gain"
    same = plateau(XS, -table, lower_is_better=True)
    assert (same.best, same.members) == (found.best, found.members) and str(found).count("cannot be told") == 1
    names = plateau(["a", "b"], table[:, [0, 1]])
    assert names.members == ("b",) and str(names) == "b (all others are behind)"


@pytest.mark.parametrize("n", [4, 10])
def test_the_truly_best_setting_is_a_member(n):
    rng = np.random.default_rng(n)
    inside = [0 in plateau(range(5), rng.normal(size=(n, 5)) + [0.3, 0.29, 0.2, 0, 0]).members for _ in range(60)]
    assert np.mean(inside) >= 0.9


# --- agreement of ranks, and where variance lies ---


def test_rank_correlation_against_scipy_and_its_invariances():
    rng = np.random.default_rng(1)
    a = rng.normal(size=30)
    b = a + rng.normal(size=30)
    found = correlation(a, b, of="prompts")
    assert found.value == pytest.approx(stats.spearmanr(a, b).statistic) and found.low < found.value < found.high
    assert (found.n, found.method) == (30, "bootstrap over prompts")
    assert correlation(np.exp(a), b**3) == correlation(a, b) and correlation(a, -b).value == pytest.approx(-found.value)
    assert ends(correlation(a, a)) == pytest.approx((1, 1)) and correlation(np.round(a), b).value == pytest.approx(stats.spearmanr(np.round(a), b).statistic)
    both = [np.stack([x - 1, x + 1], 1) for x in (a, b)]  # two rows a unit, whose means are a and b
    assert correlation(*both).value == pytest.approx(found.value)


def test_rank_correlation_of_independent_values_covers_zero():
    rng = np.random.default_rng(2)
    held = [(e := correlation(*rng.normal(size=(2, 24)))).low <= 0 <= e.high for _ in range(40)]
    assert np.mean(held) >= 0.85


def test_a_slope_against_scipy_its_invariances_and_an_outlier():
    rng = np.random.default_rng(5)
    a = rng.normal(size=20)
    b = 2 * a + 0.3 * rng.normal(size=20)
    found = slope(a, b, of="tasks")
    assert found.value == pytest.approx(stats.theilslopes(b, a).slope) and found.low < 2 < found.high and found.method == "bootstrap over tasks"
    assert slope(10 * a + 3, b - 7).value == pytest.approx(found.value / 10)
    outlier = b.copy()
    outlier[a.argmax()] -= 1000
    assert abs(slope(a, outlier).value - found.value) < 0.3 < abs(np.polyfit(a, outlier, 1)[0] - found.value)
    tied = np.round(a)  # pairs of equal a have no slope
    assert slope(tied, b).value == pytest.approx(stats.theilslopes(b, tied).slope) and slope(a, 3 * a).spread == pytest.approx(0, abs=1e-12)


def test_repeats_of_a_slope_are_kept_apart():
    rng = np.random.default_rng(7)
    truth = rng.normal(size=(12, 1))
    a, b = truth + rng.normal(size=(12, 2)), truth + 100 * np.arange(2)  # the second repeat lies higher, which is no slope
    within = [(b[j, k] - b[i, k]) / (a[j, k] - a[i, k]) for k in range(2) for i in range(12) for j in range(i)]
    assert slope(a, b).value == pytest.approx(np.median(within))
    assert slope(a[:, :1], b[:, :1]) == slope(a[:, 0], b[:, 0])


def test_a_slope_has_the_interval_of_a_slow_bootstrap():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 12))
    rows = np.random.default_rng(1).integers(12, size=(2000, 12))
    tail = statistics._tails(12)
    low, high = np.quantile([stats.theilslopes(b[r], a[r]).slope for r in rows], tail)
    found = slope(a, b)
    assert found.low == pytest.approx(low, abs=0.15) and found.high == pytest.approx(high, abs=0.15)
    held = [(e := slope(*rng.normal(size=(2, 16)))).low <= 0 <= e.high for _ in range(40)]
    assert sum(held) >= 34


def test_share_between_units_against_an_analysis_of_variance():
    rng = np.random.default_rng(3)
    table = rng.normal(size=(12, 1)) * 2 + rng.normal(size=(12, 4))
    f = stats.f_oneway(*table).statistic  # F = between / within mean square
    assert between_share(table).value == pytest.approx((f - 1) / (f - 1 + 4))
    assert between_share(5 - 3 * table).value == pytest.approx(between_share(table).value)
    assert between_share(np.repeat(rng.normal(size=(9, 1)), 3, axis=1)).value == pytest.approx(1)
    alone = between_share([[1.0, -1.0]] * 7 + [[2.0, -2.0]])  # all means are zero
    assert alone.value == pytest.approx(-1) and alone.spread == 0


@pytest.mark.parametrize("share_between", [0.0, 0.5, 0.8])
def test_share_between_units_covers_the_truth(share_between):
    rng = np.random.default_rng(4)
    parts = [math.sqrt(s) for s in (share_between, 1 - share_between)]
    found = [between_share(parts[0] * rng.normal(size=(48, 1)) + parts[1] * rng.normal(size=(48, 8))) for _ in range(40)]
    assert np.mean([e.low <= share_between <= e.high for e in found]) >= 0.85


# --- refusals ---


@pytest.mark.parametrize("call, error, message", [
    (lambda: interval(["a", "b"]), TypeError, "values must be real numbers"), (lambda: interval([1.0, math.nan]), ValueError, "values must be finite"),
    (lambda: interval([1.0, math.inf]), ValueError, "values must be finite"), (lambda: interval(3.0), ValueError, r"values must be \(n,\)"),
    (lambda: interval([]), ValueError, "not empty"), (lambda: interval([1.0]), ValueError, "values must have at least two units"),
    (lambda: interval([1j, 2j]), TypeError, "values"),
    (lambda: interval([1.0, 2.0], units=["a", "a"]), ValueError, "two units"), (lambda: interval([1.0, 2.0], units=["a"]), ValueError, r"units must be \(2,\)"),
    (lambda: interval([1.0, 2.0], units=[math.nan, 1.0]), ValueError, "units must not hold NaN"),
    (lambda: paired([1.0, 2.0], [1.0]), ValueError, r"a \(2,\) and b \(1,\)"), (lambda: paired([1.0, 2.0], [1.0, None]), ValueError, "b must be finite"),
    (lambda: ratio([1.0] * 7, [1.0] * 7), ValueError, "a and b need at least 8"), (lambda: ratio(np.ones(9), np.arange(9) - 4.0), ValueError, "mean of b"),
    (lambda: share([0, 2]), ValueError, "hits"), (lambda: share([]), ValueError, "hits"), (lambda: share("yes"), TypeError, "hits"),
    (lambda: crossing([2, 1], np.zeros((3, 2)), np.zeros((3, 2))), ValueError, "xs must be"),
    (lambda: crossing([1, 2], np.zeros((3, 3)), np.zeros((3, 3))), ValueError, r"\(units, 2\)"),
    (lambda: crossing([1, 2], np.zeros((1, 2)), np.zeros((1, 2))), ValueError, "two units"),
    (lambda: plateau([1, 1], np.zeros((3, 2))), ValueError, "different"),
    (lambda: correlation(range(7), range(7)), ValueError, "a needs at least 8"),
    (lambda: correlation(range(9), [2] * 9), ValueError, "b needs .* not all equal"),
    (lambda: slope(range(7), range(7)), ValueError, r"a must be .* at least 8 units .* got shape \(7,\) from 0 to 6"),
    (lambda: slope([2] * 9, range(9)), ValueError, "a must be .* not all equal, .* from 2 to 2"),
    (lambda: between_share(np.zeros(9)), ValueError, r"table must be \(n, m\)"), (lambda: between_share(np.zeros((7, 2))), ValueError, "at least 8"),
    (lambda: between_share(np.ones((9, 2))), ValueError, "one value, 1, everywhere"),
    (lambda: paired([], []), ValueError, "a and b must be"), (lambda: ratio(1, 2), ValueError, "a and b must be"),
    (lambda: interval(np.ma.array([1.0, 2.0, 1e9], mask=[0, 0, 1])), ValueError, "values must not hold masked"),
    (lambda: interval(np.array(["1", "2"], object)), TypeError, "values must be real"), (lambda: interval([10**400, 1]), TypeError, "values must be real"),
    (lambda: interval(torch.tensor([1j, 2j])), TypeError, "values must be real"), (lambda: interval([1e200, 1.0]), ValueError, "values must lie below 1e150"),
    (lambda: interval([torch.ones((), requires_grad=True)] * 3), TypeError, "values must be real"),
    (lambda: interval([1, 2, 3], units=["a", 1, "1"]), ValueError, "units must be all"), (lambda: interval([1, 2], units=["a", None]), ValueError, "None"),
    (lambda: interval([1, 2, 3], units=np.array(["a", 1, "1"], object)), ValueError, "units must be all"),
    (lambda: interval([1, 2], units=pd.array(["a", None], dtype="string")), ValueError, "units must not hold"),
    (lambda: interval(range(9), statistic="median"), TypeError, "statistic must be a function"),
    (lambda: interval(range(9), statistic=lambda x, axis: np.full(x.shape[1:], np.nan)), ValueError, "statistic must give one finite number"),
    # the mean of b lies above zero by Student's t, and one resample in a hundred has the mean zero
    (lambda: ratio(np.ones(8), [-3.0] + [3.0] * 7), ValueError, "mean of b cannot be told from zero"),
    (lambda: plateau([1, 2], np.zeros((3, 2)), lower_is_better="no"), TypeError, "lower_is_better must be"),
    (lambda: plateau([[1], [2]], np.zeros((3, 2))), TypeError, "xs must be numbers or names"),
    (lambda: plateau(None, np.zeros((3, 2))), TypeError, "xs must be numbers or names"),
    (lambda: Estimate(0, 0, 0, 2, 0, "").says("a lot"), TypeError, "smallest must be a number >= 0, got 'a lot'"),
    (lambda: Estimate(0, 0, 0, 2, 0, "").says(math.inf), ValueError, "smallest must be a number >= 0, got inf"),
    (lambda: Estimate(0, 0, 0, 2, 0, "").says(math.nan), ValueError, "smallest must be a number >= 0, got nan"),
    (lambda: interval([1, 2], units=[[1], [1, 2]]), TypeError, "units must be names or numbers"),
    (lambda: interval([1, 2], units="ab"), TypeError, "units must"),
    (lambda: interval([1, 2], units={1: 2, 3: 4}), TypeError, "units must be"), (lambda: interval([1, 2], units={1, 2}), TypeError, "units must be"),
    (lambda: interval([1, 2], units=iter([1, 2])), ValueError, "units must be"), (lambda: interval([1, 2], units=3), ValueError, "units must be"),
    (lambda: interval([1, 2], units=[object(), object()]), TypeError, "units must be"),
    (lambda: interval([1, 2], units=torch.ones(2, device="meta")), TypeError, "units must be names or numbers"),
    (lambda: paired([1.0], [2.0]), ValueError, "a and b must have at least two units for an interval, got 1"),
    (lambda: interval(range(9), statistic=len), TypeError, "statistic must be a function of an array and its axis"),
    (lambda: interval(range(9), statistic=lambda x, axis: "much"), TypeError, "statistic must be a function of an array and its axis"),
    (lambda: plateau("ab", np.zeros((3, 2))), TypeError, "xs must be numbers or names"), (lambda: plateau({1, 2}, np.zeros((3, 2))), TypeError, "xs must be"),
    (lambda: plateau([1, math.nan], np.zeros((3, 2))), ValueError, "xs must be at least two different"),
    *((lambda call=call, data=data: call(*data, of=3), TypeError, "of must be the name of the units in the plural, got 3") for call, data in (
        (interval, [[1, 2]]), (paired, [[1, 2], [1, 2]]), (ratio, [range(9)] * 2), (share, [[0, 1]]), (correlation, [range(9)] * 2), (slope, [range(9)] * 2),
        (between_share, [np.eye(9)]), (crossing, [[1, 2], np.eye(2), np.eye(2)]), (plateau, [[1, 2], np.eye(2)]))),
    *((lambda call=call, wrong=wrong: call(wrong), error, f"{name} must") for call, name in ((interval, "values"), (share, "hits"), (between_share, "table"))
      for wrong, error in (("text", TypeError), (None, (TypeError, ValueError)), ({}, TypeError), ({1.0}, TypeError), (iter([1.0]), TypeError),
                           ([[1, 2], [3]], TypeError),
                           (torch.ones(2, device="meta"), TypeError), (np.array([1j, 2]), TypeError), ([math.nan, 1], ValueError), (np.array([]), ValueError))),

    (lambda: plateau([1, 2], np.zeros(2)), ValueError, "table must be"), (lambda: Estimate(0, 0, 0, 2, 0, "").says(-1), ValueError, "smallest"),
])  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_and_units_of_any_device():
    x, units = torch.arange(9.0) ** 2, torch.arange(9) // 2
    right = interval(x, units=units)
    with Accelerator():
        assert interval(x.to(DEVICE), units=units.to(DEVICE)) == paired(x.to(DEVICE), 0 * x, units=units) == right


def test_every_resample_of_three_units():
    """The exact bootstrap of three units has 27 resamples: too coarse for 95 %, hence Student's t."""
    x = np.array([0.0, 1.0, 5.0])
    means = [np.mean(draw) for draw in itertools.product(x, repeat=3)]
    assert interval(x).low < min(means) and interval(x).high > max(means)


def test_a_number_of_several_means_against_a_slow_loop():
    rng = np.random.default_rng(4)
    a, b = rng.normal(2, 1, (2, 30)), rng.normal(1, 1, (3, 30))
    found = statistics.of_means(lambda means: float(means[0].sum() - means[1].max()), [a, b], of="sources", draws=400)
    drawn = []
    for counts in np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=400):
        rows = np.repeat(np.arange(30), counts)  # the same units for both tables
        drawn.append(a[:, rows].mean(1).sum() - b[:, rows].mean(1).max())
    tail = stats.norm.sf(stats.t.ppf(0.975, 29) * np.sqrt(30 / 29))
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [tail, 1 - tail])) and found.spread == pytest.approx(np.std(drawn, ddof=1) * np.sqrt(30))
    assert found.value == pytest.approx(a.mean(1).sum() - b.mean(1).max()) and (found.n, found.method) == (30, "bootstrap over sources")
    mean, known = statistics.of_means(lambda means: float(means[0][0]), [a[:1]]), statistics.interval(a[0])
    assert (mean.value, mean.low, mean.high, mean.spread) == pytest.approx((known.value, known.low, known.high, known.spread), abs=0.05)


def test_tables_of_other_shapes_are_refused():
    for tables, message in (
        ([], "tables must be"),
        ([np.ones((2, 9)), np.ones((2, 8))], "of one n"),
        ([np.ones(9)], "tables must be"),
        ([np.ones((2, 7))], "at least 8 units"),
    ):
        with pytest.raises(ValueError, match=message):
            statistics.of_means(lambda means: 0.0, tables)
    with pytest.raises(TypeError, match="function must be a function of a list of means"):
        statistics.of_means("mean", [np.ones((2, 9))])
    with pytest.raises(TypeError, match=r"tables\[0\] must be real numbers"):
        statistics.of_means(lambda means: 0.0, [[["a"] * 9]])


def test_small_differences_of_large_numbers_count():
    start = 1.764e9 + 3.0 * np.arange(20)
    took = np.random.default_rng(0).uniform(0.0008, 0.0012, 20)
    found = statistics.paired(start + took, start)
    assert found.low > 0 and abs(found.value - took.mean()) < 1e-5
    assert statistics.correlation(1.764e9 + 1e-3 * np.arange(20), np.arange(20)).value == 1
    equal = np.full(20, 0.1) + 0.2
    assert statistics.paired(equal, np.full(20, 0.3)).value == 0  # 0.1 + 0.2 is 0.3, rounded on another way


@pytest.mark.parametrize(
    "change, named",
    [({"draws": 0}, "draws"), ({"draws": "many"}, "draws"), ({"tables": None}, "tables"), ({"function": 3}, "function"),
     ({"function": lambda means: float("nan")}, "function"), ({"function": lambda means: means[0]}, "function"), ({"of": 3}, "of")],
)  # fmt: skip
def test_means_of_tables_are_refused_by_name(change, named):
    tables = [np.random.default_rng(0).random((2, 9))]
    with pytest.raises((ValueError, TypeError), match=f"^{named}"):
        statistics.of_means(**{"function": lambda means: means[0].mean(), "tables": tables} | change)


def test_means_that_are_zero_but_for_rounding_have_no_ranks():
    draws = np.random.default_rng(0).normal(size=(2, 8, 5))
    centred = [(x - x.mean(1, keepdims=True)).ravel() for x in draws]
    with pytest.raises(ValueError, match="not all equal"):
        statistics.correlation(*centred, units=np.repeat(range(8), 5), of="networks")
