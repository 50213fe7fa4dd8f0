"""The worked numbers, limits and refusals of adaptive caching's schedules: codebook, distance, clocks, prediction, calibration, oracle."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from helpers.methods.caching_schedules import (
    FAST_30,
    FAST_100,
    SLOW_30,
    CachingClock,
    Codebook,
    FixedClock,
    best_fixed_calls,
    calibrate,
    distance,
    oracle_calls,
    pairwise_distances,
    predict_calls,
    replay_calls,
    uniform_calls,
)

torch.set_num_threads(1)

N = 12
RATE_3 = Codebook((), (3,))
EVERY_3RD = [1, 2, 5, 8, 11, 12]  # what RATE_3 computes of 12 calls


def run_clock(clock, residual):
    """Drive a clock with residual(n); return the computed calls and all distances."""
    for n in range(1, clock.num_calls + 1):
        if clock.tick():
            clock.observe(torch.as_tensor(residual(n), dtype=torch.float64))
    calls = [n for n, call in enumerate(clock.trace, 1) if call.computed]
    return calls, [call.distance for call in clock.trace]


def schedule(codebook, num_calls, residual, **options):
    return run_clock(CachingClock(codebook, num_calls, **options), residual)[0]


# -- codebook and distance ---------------------------------------------------------------------------------------------


def test_codebook_takes_the_first_threshold_above_the_distance():
    book = Codebook.from_pairs({0.125: 6, 0.25: 5, 0.5: 4, 1.0: 1})
    assert [book.rate(d) for d in (-1.0, 0.0, 0.1249, 0.125, 0.25, 0.4, 0.5, 0.99, 1.0, 7.0)] == [6, 6, 6, 5, 4, 4, 1, 1, 1, 1]
    assert book.rate(math.nan) == book.rate(math.inf) == 1
    assert book == Codebook((0.125, 0.25, 0.5), (6, 5, 4, 1)) == Codebook.from_pairs([(0.125, 6), (0.25, 5), (0.5, 4), (9, 1)])
    assert book.scaled(2).thresholds == (0.25, 0.5, 1.0) and book.scaled(2).rates == book.rates
    assert Codebook.from_pairs({1.0: 2}).rate(0.0) == 2
    assert "0.125" in str(book) and "always 3" in str(RATE_3)


def test_reach_of_the_published_codebooks():
    assert FAST_30.reach(30) == (8, 30)
    assert SLOW_30.reach(30) == (12, 30)
    assert FAST_100.reach(100) == (12, 36)
    assert Codebook((1, 2, 3, 4), (8, 6, 4, 2, 1)).reach(100) == (16, 100)
    assert Codebook((0.1,), (2, 1)).reach(100) == (52, 100)
    assert Codebook((0.1,), (2, 1)).reach(9, first=3, last=0) == (6, 9)  # 1, 2, 3, 5, 7, 9


def test_reach_bounds_every_schedule():
    generator = np.random.default_rng(0)
    for book, n in ((FAST_30, 30), (SLOW_30, 30), (FAST_100, 100)):
        low, high = book.reach(n)
        for _ in range(40):
            scale = generator.choice([0.3, 1.0, 3.0]) * book.thresholds[2]
            calls = predict_calls(generator.exponential(scale, n), book)
            assert low <= len(calls) <= high
            assert {1, 2, n - 1, n} <= set(calls)


@pytest.mark.parametrize(
    "thresholds, rates, message",
    [
        ((), (), "empty"),
        ((0.2, 0.1), (3, 2, 1), "rise"),
        ((0.1, 0.1), (3, 2, 1), "rise"),
        ((math.nan,), (2, 1), "finite"),
        ((math.inf,), (2, 1), "finite"),
        ((0.1,), (1, 2), "never rise"),
        ((0.1,), (2, 0), "rates"),
        ((0.1,), (2, 1.5), "rates"),
        ((0.1,), (2, True), "rates"),
        ((0.1, 0.2), (2, 1), "from_pairs"),
        (("0.1",), (2, 1), "thresholds"),
    ],
)
def test_codebook_refusals(thresholds, rates, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Codebook(thresholds, rates)


def test_pairs_and_scale_refusals():
    with pytest.raises(ValueError, match="empty"):
        Codebook.from_pairs({})
    with pytest.raises(ValueError, match="rise"):
        Codebook.from_pairs([(0.1, 3), (0.2, 2), (0.15, 1)])
    with pytest.raises(ValueError, match="finite"):
        Codebook.from_pairs({0.1: 3, math.inf: 1})
    for multiplier in (0, -1, math.nan):
        with pytest.raises(ValueError, match="multiplier"):
            FAST_30.scaled(multiplier)


def test_distance_by_hand():
    old, new = torch.tensor([[3.0, -4.0, 0.0]]), torch.tensor([[3.0, 0.0, 3.0]])
    assert distance(old, new) == pytest.approx(7 / 7)
    assert distance(old, new, rate=2) == pytest.approx(0.5)
    assert distance(old, new, metric="l2") == pytest.approx(5 / 5)
    assert distance(old, new, metric="l2", rate=4, form="paper") == pytest.approx(5 / 4)
    assert distance(old, new, form="paper", rate=7) == pytest.approx(1)
    assert distance(old, new, metric="cosine") == pytest.approx(1 - 9 / (5 * 18**0.5))


@pytest.mark.parametrize("metric", ["l1", "l2", "cosine"])
def test_distance_properties(metric):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        old, new = torch.randn(2, 2, 5, 3, generator=generator, dtype=torch.float64)
        d = distance(old, new, metric=metric)
        assert d > 0
        for alpha in (-2.5, 1e-3, 40.0):
            assert distance(alpha * old, alpha * new, metric=metric) == pytest.approx(d)
        assert distance(old, old, metric=metric) == pytest.approx(0, abs=1e-12)
        assert distance(old, new, metric=metric, rate=6) == pytest.approx(d / 6)
    assert distance(old, 3 * old, metric="cosine") == pytest.approx(0, abs=1e-12)


def test_distance_works_in_float32_for_half_precision():
    old = torch.full((1000,), 300.0, dtype=torch.float16)  # the sum does not fit float16
    assert distance(old, old * 1.5) == pytest.approx(0.5)


def test_distance_refusals():
    a = torch.ones(2, 3)
    for options in ({"metric": "l3"}, {"form": "both"}, {"rate": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            distance(a, a, **options)
    with pytest.raises(ValueError, match="same shape"):
        distance(a, torch.ones(3, 2))
    for zero in ({}, {"metric": "l2"}, {"metric": "cosine", "form": "paper"}):
        with pytest.raises(ValueError, match="old is all zero"):
            distance(torch.zeros(2), torch.ones(2), **zero)
    with pytest.raises(ValueError, match="new is all zero"):
        distance(torch.ones(2), torch.zeros(2), metric="cosine")
    assert distance(torch.zeros(2), torch.ones(2), form="paper") == 2 and distance([1.0], np.array([2.0])) == 1
    with pytest.raises(ValueError, match="new must be finite numbers, got NaN"):
        distance([1.0], [math.nan])


# -- clocks ------------------------------------------------------------------------------------------------------------


def test_constant_residuals():
    assert schedule(FAST_30, 30, lambda n: [1.0]) == [1, 2, 8, 14, 20, 26, 29, 30]
    assert schedule(FAST_100, 100, lambda n: [1.0]) == [1, 2, 14, 26, 38, 50, 62, 74, 86, 98, 99, 100]
    assert schedule(SLOW_30, 30, lambda n: [1.0]) == [1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 30]


def test_growing_residuals():
    assert schedule(FAST_30, 30, lambda n: [2.0**n]) == list(range(1, 31))
    calls = schedule(FAST_100, 100, lambda n: [1.5**n])
    assert calls == [1, *range(2, 99, 3), 99, 100] and len(calls) == 36


def test_a_residual_that_drifts():
    def drift(n):
        return [1 + 0.2 * (n - 1)]

    calls, distances = run_clock(CachingClock(FAST_30, 30), drift)
    assert calls == [1, 2, 6, 10, 15, 21, 27, 29, 30]
    measured = [distances[n - 1] for n in calls[1:]]
    assert measured == pytest.approx([0.2, 0.8 / 1.2 / 4, 0.8 / 2 / 4, 1 / 2.8 / 5, 1.2 / 3.8 / 6, 0.04, 0.4 / 6.2 / 6, 0.2 / 6.6 / 6])
    assert schedule(SLOW_30, 30, drift) == [1, 2, 3, 4, 6, 8, 10, 12, 15, 18, 21, 24, 27, 29, 30]
    # the paper divides by the true gap: 2 and 1 calls at the forced end, and not by the size of the residual
    clock = CachingClock(FAST_30, 30, form="paper")
    assert run_clock(clock, drift)[1][-1] == pytest.approx(0.2 / 1)
    assert [call.distance for call in clock.trace if call.distance is not None] == pytest.approx([0.2] * 9)


def test_few_calls_and_forced_calls():
    for n, expected in ((1, [1]), (2, [1, 2]), (3, [1, 2, 3])):
        assert schedule(FAST_30, n, lambda n: [1.0]) == expected
    assert schedule(RATE_3, 12, lambda n: [1.0]) == EVERY_3RD
    assert schedule(RATE_3, 12, lambda n: [1.0], first=4, last=0) == [1, 2, 3, 4, 7, 10]
    assert schedule(RATE_3, 6, lambda n: [1.0], first=9, last=9) == [1, 2, 3, 4, 5, 6]


def test_a_tie_takes_the_next_entry():
    clock = CachingClock(Codebook.from_pairs({0.125: 6, 0.25: 5, 0.5: 4, 1.0: 1}), 9)
    assert clock.tick() and clock.rate == 1
    clock.observe(torch.tensor([4.0]))
    assert clock.tick()
    clock.observe(torch.tensor([5.0]))
    assert clock.trace[-1].distance == 0.25 and clock.rate == 4


def test_the_new_rate_holds_from_the_next_call():
    clock = CachingClock(RATE_3, 9)
    rates = []
    for n in range(1, 7):
        if clock.tick():
            clock.observe(torch.ones(2))
        rates.append(clock.rate)
        assert clock.call == n and clock.trace[-1].rate == clock.rate
    assert rates == [1, 3, 3, 3, 3, 3]


def test_more_reuse_for_constant_distances_only():
    """With one constant distance, lower thresholds never compute less. (With varying distances they may.)"""
    generator = np.random.default_rng(1)
    for _ in range(50):
        thresholds = np.sort(generator.uniform(0.01, 1, 4))
        rates = np.sort(generator.integers(1, 9, 5))[::-1]
        book = Codebook(tuple(thresholds), tuple(rates))
        matrix = np.full((30, 30), 0.0)
        d = generator.uniform(0, 1)
        gap = np.arange(30)[None] - np.arange(30)[:, None]
        matrix = d * gap  # constant distance per call
        n = len(predict_calls(matrix, book))
        assert len(predict_calls(matrix, book.scaled(0.5))) >= n
        assert len(predict_calls(matrix, Codebook(tuple(thresholds), tuple(np.maximum(rates - 1, 1))))) >= n


def test_distances_that_are_not_finite_warn_once_and_take_the_last_entry():
    clock = CachingClock(Codebook((0.5,), (4, 2)), 10)
    with pytest.warns(UserWarning, match="not finite") as caught:
        calls, distances = run_clock(clock, lambda n: [0.0, 0.0])  # 0/0
    assert calls == [1, 2, 4, 6, 8, 9, 10] and math.isnan(distances[1])
    assert len(caught) == 1
    clock.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_clock(clock, lambda n: [0.0, 0.0])  # once per clock
    with pytest.warns(UserWarning, match="not finite"):  # x/0
        assert schedule(Codebook((0.5,), (4, 1)), 4, lambda n: [float(n > 1)]) == [1, 2, 3, 4]


def test_reset_repeats_the_run():
    clock = CachingClock(FAST_30, 30)
    first = run_clock(clock, lambda n: [n**0.7, 1.0])
    trace = list(clock.trace)
    with pytest.raises(ValueError, match="num_calls=30"):
        clock.tick()
    clock.reset()
    assert (clock.call, clock.rate, clock.trace) == (0, 1, [])
    assert run_clock(clock, lambda n: [n**0.7, 1.0]) == first and clock.trace == trace


def test_clock_refusals():
    for options, kind in (
        ({"num_calls": 0}, ValueError),
        ({"num_calls": 3.0}, TypeError),
        ({"first": 0}, ValueError),
        ({"last": -1}, ValueError),
        ({"metric": "l0"}, ValueError),
        ({"form": "other"}, ValueError),
        ({"regulariser": 3}, TypeError),
    ):
        with pytest.raises(kind, match=next(iter(options))):
            CachingClock(**{"codebook": FAST_30, "num_calls": 9, **options})
    with pytest.raises(TypeError, match="codebook"):
        CachingClock({0.1: 2}, 9)
    clock = CachingClock(RATE_3, 9)
    with pytest.raises(ValueError, match="not waiting"):
        clock.observe(torch.ones(1))
    clock.tick()
    clock.observe(torch.ones(2))
    with pytest.raises(ValueError, match="not waiting"):
        clock.observe(torch.ones(2))
    clock.tick()
    with pytest.raises(TypeError, match="probe"):
        clock.observe(None)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        clock.observe(torch.ones(3))
    with pytest.raises(ValueError, match="float64"):
        clock.observe(torch.ones(2, dtype=torch.float64))


class Factor:
    """A regulariser that notes how it was called."""

    def __init__(self, answer=lambda call: 1.0):
        self.answer, self.seen, self.resets = answer, [], 0

    def factor(self, probe, call, rate):
        self.seen.append((call, rate, tuple(probe.shape)))
        return self.answer(call)

    def reset(self):
        self.resets += 1
        self.seen = []


def test_the_regulariser_multiplies_the_distance():
    regulariser = Factor(lambda call: 100.0 if call >= 10 else 1.0)
    clock = CachingClock(FAST_30, 30, regulariser=regulariser)
    calls, distances = run_clock(clock, lambda n: [1 + 0.2 * (n - 1)])
    assert calls == [1, 2, 6, *range(10, 31)]  # from call 10 on every distance is large
    assert regulariser.seen[:3] == [(2, 1, (1,)), (6, 4, (1,)), (10, 4, (1,))]  # not at call 1; the rate in force
    assert distances[9] == pytest.approx(0.1) and clock.trace[9].factor == 100
    on_device = CachingClock(FAST_30, 30, regulariser=Factor(lambda call: torch.tensor(100.0 if call >= 10 else 1.0)))
    assert run_clock(on_device, lambda n: [1 + 0.2 * (n - 1)])[0] == calls
    before = regulariser.resets
    clock.reset()
    assert regulariser.resets == before + 1
    ignored = CachingClock(FAST_30, 30, regulariser=Factor())
    assert run_clock(ignored, lambda n: [1 + 0.2 * (n - 1)])[0] == [1, 2, 6, 10, 15, 21, 27, 29, 30]
    paper = Factor()
    run_clock(CachingClock(RATE_3, 9, form="paper", regulariser=paper), lambda n: [1.0])
    assert [(call, rate) for call, rate, _ in paper.seen] == [(2, 1), (5, 3), (8, 3), (9, 1)]


def test_one_read_per_computed_call(monkeypatch):
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, _f=original: reads.append(1) or _f(self, *a))
    for regulariser in (None, Factor(lambda call: torch.tensor(1.0))):
        reads.clear()
        calls = schedule(FAST_30, 30, lambda n: [1 + 0.2 * (n - 1)], regulariser=regulariser)
        assert len(reads) == len(calls) - 1  # nothing to compare at call 1


def test_a_clock_that_expects_a_line_sees_only_what_leaves_it():
    """A residual that drifts in a line is foreseen from call 3 on: the longest reuse; a bend is not."""
    straight = schedule(FAST_30, 30, lambda n: [1 + 0.2 * (n - 1)], expect="linear")
    assert straight == [1, 2, 6, 12, 18, 24, 29, 30]  # d = 0.2 at call 2, where there is no line yet, and 0 afterwards
    clock = CachingClock(FAST_30, 30, expect="linear")
    calls, distances = run_clock(clock, lambda n: [float(n * n)])
    assert calls[:2] == [1, 2] and distances[1] == pytest.approx(3)
    assert distances[2] == pytest.approx((9 - (4 + 3)) / 4)  # expected 4 + 3 at call 3, found 9; over the last residual, at rate 1
    clock.reset()
    assert run_clock(clock, lambda n: [float(n * n)])[0] == calls  # no line is left over from the last run
    for metric in ("l2", "cosine"):
        assert schedule(FAST_30, 12, lambda n: [1.0 + n, 2.0], metric=metric, expect="linear")[0] == 1


def test_a_clock_may_start_at_another_rate():
    still = lambda n: [1.0]  # noqa: E731
    assert schedule(FAST_30, 30, still, start=3) == [1, 4, 10, 16, 22, 28, 29, 30]
    assert schedule(FAST_30, 30, still, start=1) == schedule(FAST_30, 30, still)
    clock = CachingClock(Codebook((), (2,)), 9, start=4, last=0, expect="linear")
    calls, distances = run_clock(clock, lambda n: [float(n)])
    assert calls == [1, 5, 7, 9] and distances[4] == pytest.approx(4 / 1 / 4) and distances[6] == 0  # the line through calls 1 and 5
    clock.reset()
    assert clock.rate == 4
    assert Codebook((), (3,)).reach(9, last=0, start=3) == (3, 3)
    with pytest.raises(ValueError, match="start must be an integer >= 1, got 0"):
        CachingClock(FAST_30, 30, start=0)


def test_replaying_a_recorded_run():
    probes = list(recorded(3))
    clock = CachingClock(FAST_30, 30)
    calls = replay_calls(probes, clock)
    assert calls == predict_calls(pairwise_distances(probes), FAST_30) == replay_calls(probes, clock)
    assert [n for n, call in enumerate(clock.trace, 1) if call.computed] == calls
    assert replay_calls(probes, FixedClock([1, 4], 30)) == [1, 4]
    for broken in (probes[:-1], [None, *probes[1:]]):
        with pytest.raises(ValueError, match="probes must hold all num_calls=30 calls"):
            replay_calls(broken, clock)


def test_calibration_on_probes_serves_every_clock():
    runs = [list(recorded(seed)) for seed in range(6)]
    same = calibrate(runs, 30, 15), calibrate([pairwise_distances(torch.stack(r)) for r in runs], 30, 15)
    assert same[0].thresholds == pytest.approx(same[1].thresholds, rel=1e-5)
    for options in (dict(expect="linear"), dict(metric="cosine"), dict(regulariser=Factor(lambda call: 1 + call % 3))):
        book = calibrate(runs, 30, 15, **options)
        assert np.mean([len(replay_calls(r, CachingClock(book, 30, **options))) for r in runs]) == pytest.approx(15, abs=1)
    with pytest.raises(ValueError, match="distances must be recorded probes"):
        calibrate([pairwise_distances(torch.stack(r)) for r in runs], 30, 15, expect="linear")


def test_a_fixed_schedule_of_one_call_and_what_it_observes():
    clock = FixedClock([1], 1)
    assert clock.tick() and clock.rate == 1
    clock.observe(torch.ones(2))
    with pytest.raises(ValueError, match="observe"):
        clock.observe(torch.ones(2))


def test_calibrating_on_a_probe_of_zeros_says_nothing_on_the_way():
    """A clock warns of it once a video; a search tries forty codebooks."""
    runs = [list(torch.randn(30, 6, generator=torch.Generator().manual_seed(seed))) for seed in range(3)]
    runs[0][4] = torch.zeros(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(runs, 30, 15, metric="cosine")


def test_fixed_clock_and_uniform_calls():
    clock = FixedClock([5, 1, 2], 7)
    computed = [clock.tick() for _ in range(7)]
    assert computed == [True, True, False, False, True, False, False]
    assert [call.rate for call in clock.trace] == [1, 3, 3, 3, 3, 3, 3]
    with pytest.raises(ValueError, match="num_calls=7"):
        clock.tick()
    with pytest.raises(ValueError, match="not waiting"):
        clock.observe(torch.ones(1))
    clock.reset()
    assert clock.call == 0 and clock.tick()
    for calls in ([], [2, 3], [1, 8], [0, 1]):
        with pytest.raises(ValueError, match="computed_calls"):
            FixedClock(calls, 7)
    assert uniform_calls(10, every=3) == [1, 4, 7, 10]
    assert uniform_calls(10, every=4, last=2) == [1, 5, 9, 10]
    assert uniform_calls(10, budget=5) == [1, 3, 5, 7, 9]
    for n, last in itertools.product((1, 2, 7, 30), (0, 2)):
        for budget in range(1 + min(last, n - 1), n + 1):
            calls = uniform_calls(n, budget=budget, last=last)
            assert len(calls) == budget and calls[0] == 1 and set(range(n - last + 1, n + 1)) & {*range(2, n + 1)} <= set(calls)
    for options in ({}, {"every": 2, "budget": 3}, {"every": 0}, {"budget": 0}, {"budget": 11}):
        with pytest.raises(ValueError, match="every|budget"):
            uniform_calls(10, **options)


# -- schedules from recorded runs --------------------------------------------------------------------------------------


def recorded(seed, n=30, dim=40):
    """A random residual curve, busy at both ends, with its matrix of distances."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    speed = (0.02 + 0.15 * x**2) * (0.5 + torch.rand(1, generator=generator, dtype=torch.float64))
    steps = speed[:, None] * (torch.randn(n, dim, generator=generator, dtype=torch.float64) + 0.5)
    return 1 + steps.cumsum(0)


def test_prediction_from_the_matrix_is_what_the_clock_does():
    for seed in range(8):
        curve = recorded(seed)
        for metric, book in (("l1", FAST_30), ("l2", SLOW_30), ("l1", FAST_30.scaled(0.3))):
            live = schedule(book, 30, lambda n: curve[n - 1], metric=metric)  # noqa: B023
            assert predict_calls(pairwise_distances(curve, metric=metric), book, 30) == live
    drift = [None] + [0.2] * 29
    assert predict_calls(drift, FAST_30, 30) == schedule(FAST_30, 30, lambda n: [0.2 * n], form="paper")
    assert predict_calls(drift, FAST_30, first=5, last=1)[:6] == [1, 2, 3, 4, 5, 11]  # 0.2 / 4, the rate in force


def test_pairwise_distances():
    d = pairwise_distances([torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0])])
    assert d == pytest.approx(np.array([[0, 1], [0.5, 0]]))
    parts = [(torch.tensor([[1.0]]), torch.tensor([1.0, 0.0])), (torch.tensor([[4.0]]), torch.tensor([1.0, 4.0]))]
    assert pairwise_distances(parts, metric="l2", relative=False) == pytest.approx(np.array([[0, 5], [5, 0]]))
    with pytest.raises(ValueError, match=r"\[2\]"):
        pairwise_distances([torch.ones(1), None])
    with pytest.raises(ValueError, match="distances"):
        predict_calls(np.ones((3, 4)), FAST_30)
    with pytest.raises(ValueError, match="num_calls=5"):
        predict_calls(np.ones(4), FAST_30, 5)


@pytest.mark.parametrize("matrices", [True, False])
def test_calibration_meets_its_target(matrices):
    runs = [pairwise_distances(recorded(seed)) for seed in range(12)]
    if not matrices:
        runs = [np.concatenate([[np.nan], np.diagonal(d, 1)]) for d in runs]
    for target, rates in ((15, (6, 5, 4, 3, 2, 1)), (10, (6, 5, 4, 3, 2, 1)), (20, (3, 1)), (12.5, (6, 4, 2, 1))):
        book = calibrate(runs, 30, target, rates=rates)
        assert book.rates == rates
        mean = np.mean([len(predict_calls(d, book)) for d in runs])
        assert mean == pytest.approx(target, abs=0.5)
    assert calibrate(runs, 30, 8, rates=(6,)) == Codebook((), (6,))


def test_calibration_refusals():
    runs = [pairwise_distances(recorded(seed)) for seed in range(3)]
    for target in (7, 31):
        with pytest.raises(ValueError, match="between 8 and 30"):
            calibrate(runs, 30, target)
    with pytest.raises(ValueError, match="num_calls=29"):
        calibrate(runs, 29, 15)
    with pytest.raises(ValueError, match="alike"):
        calibrate([np.full(30, 0.1)], 30, 15)
    with pytest.raises(ValueError, match="trim"):
        calibrate(runs, 30, 15, trim=0.5)
    with pytest.raises(ValueError, match="never rise"):
        calibrate(runs, 30, 15, rates=(1, 2))
    with pytest.raises(ValueError, match="empty"):
        calibrate([], 30, 15)


def cost(errors, calls):
    total, source = 0.0, None
    for n in range(1, len(errors) + 1):
        if n in calls:
            source = n
        else:
            total += errors[source - 1, n - 1]
    return total


def test_oracle_against_brute_force():
    generator = np.random.default_rng(2)
    for n, first, last in itertools.product((1, 2, 5, 9), (1, 2), (0, 2)):
        errors = generator.random((n, n)) * (1 + np.arange(n))
        errors[np.tril_indices(n)] = np.nan  # never looked at
        forced = {*range(1, min(first, n) + 1), *range(max(n - last, 0) + 1, n + 1)}
        for num in range(len(forced), n + 1):
            options = [forced | set(c) for c in itertools.combinations(sorted({*range(1, n + 1)} - forced), num - len(forced))]
            calls = oracle_calls(errors, num, first=first, last=last)
            assert len(calls) == num and forced <= set(calls) and calls == sorted(calls)
            assert cost(errors, calls) == pytest.approx(min(cost(errors, o) for o in options))


def test_oracle_by_hand_and_mean():
    # reuse costs nothing except across the jump between calls 4 and 5: compute call 5
    errors = np.zeros((8, 8))
    errors[:4, 4:] = 1
    assert oracle_calls(errors, 4) == [1, 5, 7, 8]
    other = np.zeros((8, 8))
    other[:2, 2:] = 10
    assert best_fixed_calls([errors, other], 4) == [1, 3, 7, 8]
    assert best_fixed_calls([errors, other], 5) == [1, 3, 5, 7, 8]
    for num in (2, 9):
        with pytest.raises(ValueError, match="3..8"):
            oracle_calls(errors, num)
    with pytest.raises(ValueError, match="N, N"):
        oracle_calls(np.ones((3, 4)), 3)
    with pytest.raises(ValueError, match="finite"):
        oracle_calls(np.full((4, 4), np.nan), 3)
    with pytest.raises(ValueError, match="one shape"):
        best_fixed_calls([errors, errors[:7, :7]], 4)
