"""MoReg against worked numbers, closed forms, symmetries, a slow loop, and inside the clock and the transformers that use it."""

import math
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.methods.caching_schedules import FAST_30, CachingClock, Codebook, apply_adacache, distance
from helpers.methods.motion_regularization import (
    WINDOW_30,
    WINDOW_100,
    Layout,
    MotionRegulariser,
    layout_of,
    middle_window,
    motion_score,
    sharpen,
    split_frames,
)
from helpers.models import small as small_models
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
TWO = Layout(frames=2, tokens=1)
EVERY_CALL = Codebook((), (1,))


def values(*frames):
    """Frames of one value each, as a probe [1, T, 1]."""
    return torch.tensor(frames).reshape(1, -1, 1)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clock_at(call, rate, old, regulariser=None, num_calls=30):
    """A fast-30 clock that waits for the probe of computed call `call`, `rate` being in force and `old` the last probe."""
    clock = CachingClock(FAST_30, num_calls, regulariser=regulariser)
    clock.call, clock.rate, clock._previous, clock._probe = call - 1, rate, call - rate, old
    clock.trace = [None] * (call - 1)
    assert clock.tick()
    return clock


def mu(frames, **options):
    return float(motion_score(frames, **options))


# --------------------------------------------------------------------------------------------------------- the score


def test_the_score_lies_between_equal_and_opposite():
    p = noise(2, 5, 3, 4)
    assert 0 < mu(p) < 1
    assert mu(p[:, :1].expand(-1, 5, -1, -1)) == 0
    sign = torch.tensor([1.0, -1, 1, -1, 1])[None, :, None, None]
    assert mu(p[:, :1] * sign) == pytest.approx(1)
    assert mu(p * torch.tensor([1.0, 0, 1, 0, 1])[None, :, None, None]) == pytest.approx(1)  # one of the two is zero
    spoilt = p[:, :1] * sign
    spoilt[0, 1, 0, 0] = spoilt[0, 0, 0, 0]  # one position with equal signs is enough to fall below 1
    assert mu(spoilt) < 1


def test_the_score_against_a_slow_loop():
    p = noise(2, 5, 3, 4).double()
    for i in (1, 2, 4):
        top = sum(abs(p[b, t + i, s, c] - p[b, t, s, c]) for b in range(2) for t in range(5 - i) for s in range(3) for c in range(4))
        bottom = sum(abs(p[b, t + i, s, c]) + abs(p[b, t, s, c]) for b in range(2) for t in range(5 - i) for s in range(3) for c in range(4))
        assert mu(p, strides=(i,)) == pytest.approx(float(top / bottom), rel=1e-12)


def test_the_score_knows_no_scale_direction_or_order():
    p = noise(2, 5, 3, 4).double()
    for same in (-2.5 * p, 1e-3 * p, p.flip(1), p[:, :, [2, 0, 1]], p[..., [3, 1, 0, 2]], p.flip(0)):
        assert mu(same) == pytest.approx(mu(p), rel=1e-12)
    assert mu(p[:, [1, 0, 2, 3, 4]]) != pytest.approx(mu(p), rel=1e-3)  # the order of time does count


def test_an_offset_changes_the_ratio_but_not_the_correlation():
    p = noise(2, 5, 3, 4).double()
    offset = torch.tensor([3.0, -1, 40, 7])
    assert mu(p + offset) < 0.5 * mu(p)
    assert mu(p + 1e6) < 1e-5
    assert mu(p + offset, score="correlation") == pytest.approx(mu(p, score="correlation"), rel=1e-9)


def test_both_scores_agree_on_zero_mean_gaussian_frames():
    for rho in (0.0, 0.3, 0.70355, 0.95):
        common, own = noise(1, 1, 200_000, 1), noise(1, 2, 200_000, 1, seed=1)
        frames = math.sqrt(rho) * common + math.sqrt(1 - rho) * own
        expected = math.sqrt((1 - rho) / 2)
        assert mu(frames) == pytest.approx(expected, abs=0.004)
        assert mu(frames, score="correlation") == pytest.approx(expected, abs=0.004)


def test_the_pivot_is_a_correlation():
    """Must hold: correlation 0.70355 gives s near 1; independent frames give mu = 0.7071."""
    common, own = noise(1, 1, 1, 500_000), noise(1, 2, 1, 500_000, seed=1)
    frames = math.sqrt(0.70355) * common + math.sqrt(1 - 0.70355) * own
    assert sharpen(mu(frames)) == pytest.approx(1, rel=0.05)
    assert mu(own) == pytest.approx(0.7071, abs=0.01)
    assert sharpen(math.sqrt(0.5)) == pytest.approx(129.5, rel=1e-3)


@pytest.mark.parametrize(
    ("score", "s"),
    [(0.1, 2.07e-5), (0.2, 0.0053), (0.3, 0.136), (0.385, 1), (0.42, 2.006), (0.45, 3.483), (0.5, 8.092), (0.6, 34.80), (1.0, 2071.6)],
)
def test_the_power_is_nearly_a_switch(score, s):
    assert sharpen(score) == pytest.approx(s, rel=5e-3)


def test_sixteen_bits_are_not_enough_for_the_power():
    p = noise(2, 8, 6, 32) + 0.9 * noise(2, 1, 6, 32, seed=1)
    exact = sharpen(mu(p))
    assert sharpen(mu(p.bfloat16())) == pytest.approx(exact, rel=2e-3)  # only the rounding of the input is left
    half = p.bfloat16()
    coarse = (half[:, 1:] - half[:, :-1]).abs().sum() / (half[:, 1:].abs().sum() + half[:, :-1].abs().sum())
    assert abs(sharpen(float(coarse)) / exact - 1) > 2e-3


# ------------------------------------------------------------------------------------------------- the worked numbers


def test_two_frames_by_hand():
    """Frames (1, 3) after (1, 2): everything by hand, at rates 1 and 2, with MoReg and without."""
    old, new = values(1.0, 2.0), values(1.0, 3.0)
    assert distance(old, new) == pytest.approx(1 / 3)
    for rate, g, factor, scaled in ((1, 70.9234, 79.0157, 26.3386), (2, 35.4617, 43.5540, 7.2590)):
        moreg = MotionRegulariser(TWO, window=WINDOW_30)
        clock = clock_at(10, rate, old, moreg)
        clock.observe(new)
        seen = moreg.trace[-1]
        assert seen.mu == 0.5 and seen.score == pytest.approx(8.09234, rel=1e-5)
        assert seen.gradient == pytest.approx(g, rel=1e-5) and seen.factor == pytest.approx(factor, rel=1e-5)
        assert clock.trace[-1].factor == seen.factor
        assert clock.trace[-1].distance * seen.factor == pytest.approx(scaled, rel=1e-4) and clock.rate == 1
    plain = clock_at(10, 1, old)
    plain.observe(new)
    assert plain.rate == 2


def test_still_frames_by_hand():
    old, new = values(2.0, 1.9), values(2.0, 2.0)
    moreg = MotionRegulariser(TWO, window=WINDOW_30)
    clock = clock_at(10, 6, old, moreg)
    clock.observe(new)
    assert clock.trace[-1].distance == pytest.approx(0.0042735, rel=1e-4)
    assert moreg.trace[-1].score == 0 and moreg.trace[-1].gradient == pytest.approx(-1.66667, rel=1e-5)
    assert clock.trace[-1].distance * clock.trace[-1].factor == pytest.approx(0.0071225, rel=1e-4) and clock.rate == 6
    assert moreg.factor(new, 16, 6) == 0  # now s_prev is 0
    silent = clock_at(16, 6, old, MotionRegulariser(TWO, window=WINDOW_30))
    silent.regulariser.previous = 0.0
    silent.observe(new)
    assert silent.trace[-1].factor == 0 and silent.rate == 6


def test_leaving_the_window_is_a_jump():
    moreg = MotionRegulariser(TWO, window=WINDOW_30)
    clock = clock_at(27, 3, values(1.0, 2.0), moreg)
    moreg.previous = 0.1
    clock.observe(values(1.0, 3.0))
    assert clock.trace[-1].distance == pytest.approx(1 / 9)
    assert moreg.trace[-1][2:] == pytest.approx((1, 3, 4)) and clock.rate == 1
    before = MotionRegulariser(TWO, window=WINDOW_30)
    assert before.factor(values(1.0, 3.0), 3, 1) == 1.0


def test_opposite_frames_by_hand():
    moreg = MotionRegulariser(TWO, window=WINDOW_30)
    moreg.previous = 2000.0
    factor = moreg.factor(values(1.0, -1.0), 10, 4)
    assert moreg.trace[-1].mu == 1 and moreg.trace[-1].score == pytest.approx(2071.64, rel=1e-5)
    assert moreg.trace[-1].gradient == pytest.approx(179.10, rel=1e-4) and factor == pytest.approx(2250.74, rel=1e-5)


def test_the_window_counts_calls_from_one_and_holds_both_ends():
    moreg = MotionRegulariser(TWO, window=(3, 5), mograd_mul=0)
    p = values(1.0, 3.0)
    assert [moreg.factor(p, n, 1) != 1.0 for n in range(1, 8)] == [False, False, True, True, True, False, False]
    assert middle_window(100) == WINDOW_100 and middle_window(30) == (3, 27) and middle_window(1)[0] == 1
    assert MotionRegulariser(TWO).factor(p, 1, 1) != 1.0  # no window: always


# --------------------------------------------------------------------------------------------------------- the options


def test_without_gradient_the_factor_is_the_score():
    moreg = MotionRegulariser(TWO, mograd_mul=0)
    for frames in ((1.0, 3.0), (2.0, 2.5), (1.0, -1.0)):
        assert moreg.factor(values(*frames), 5, 3) == moreg.trace[-1].score


def test_several_strides_are_averaged_before_the_power():
    p = noise(2, 3 * 5, 4)  # two samples of five frames of three tokens
    layout = Layout(5, 3)
    ratios = [mu(split_frames(p, layout), strides=(i,)) for i in (1, 2)]
    moreg = MotionRegulariser(layout, strides=(1, 2))
    moreg.factor(p, 5, 1)
    assert moreg.trace[-1].mu == pytest.approx(np.mean(ratios))
    assert moreg.trace[-1].score == pytest.approx(sharpen(np.mean(ratios)))
    assert moreg.trace[-1].score != pytest.approx(np.mean([sharpen(r) for r in ratios]), rel=1e-4)


def test_an_empty_window_is_plain_adacache():
    probes = [noise(1, 6, 4, seed=n) * 0.2 + n for n in range(30)]

    def schedule(regulariser):
        clock, computed = CachingClock(FAST_30, 30, regulariser=regulariser), []
        for n in range(30):
            if clock.tick():
                computed.append(n + 1)
                clock.observe(probes[n])
        return computed

    assert schedule(MotionRegulariser(Layout(3, 2), window=(5, 4))) == schedule(None)
    assert schedule(MotionRegulariser(Layout(3, 2), window=WINDOW_30)) != schedule(None)


def test_the_gradient_counts_falls_too_unless_signed():
    rising, falling = values(1.0, 3.0), values(2.0, 2.5)
    plain, signed = MotionRegulariser(TWO), MotionRegulariser(TWO, signed_gradient=True)
    for moreg in (plain, signed):
        moreg.factor(rising, 5, 1)
        moreg.factor(falling, 7, 2)
    s0, s1 = (seen.score for seen in plain.trace)
    assert plain.trace[-1].factor == pytest.approx(s1 + 10 * (s0 - s1) / 2)
    assert signed.trace[-1].factor == pytest.approx(s1 - 10 * (s0 - s1) / 2) and signed.trace[-1].factor < 0


def test_the_papers_form():
    moreg = MotionRegulariser(Layout(3, 1), form="paper")
    first, second = values(1.0, 3.0, 2.0), values(1.0, 2.0, 2.5)
    assert moreg.factor(first, 2, 1) == 3.0  # |3 - 1| + |2 - 3|, nothing to compare with
    assert moreg.factor(second, 5, 3) == pytest.approx(1.5 + (1.5 - 3.0) / 3)  # signed, weight 1
    mean = MotionRegulariser(Layout(3, 1), form="paper", mean=True)
    assert mean.factor(first, 2, 1) == 1.5
    strides = MotionRegulariser(Layout(3, 1), form="paper", strides=(1, 2))
    assert strides.factor(first, 2, 1) == pytest.approx((3 + 1) / 2)
    steep = MotionRegulariser(Layout(3, 1), form="paper", mograd_mul=10, signed_gradient=False)
    steep.factor(first, 2, 1)
    assert steep.factor(second, 5, 3) == pytest.approx(1.5 + 10 * 1.5 / 3)


def test_given_frames_are_left_out():
    clean, noisy = torch.full((2, 1, 3, 5), 9.0), noise(2, 4, 3, 5)
    probe = torch.cat([clean, noisy], 1).flatten(1, 2)
    all_frames, without = MotionRegulariser(Layout(5, 3)), MotionRegulariser(Layout(5, 3), given=1)
    alone = MotionRegulariser(Layout(4, 3))
    assert without.factor(probe, 2, 1) == alone.factor(noisy.flatten(1, 2), 2, 1) != all_frames.factor(probe, 2, 1)
    two = MotionRegulariser(Layout(5, 3), given=2, strides=(1, 2), form="paper")
    assert two.factor(probe, 2, 1) == pytest.approx(float(((noisy[:, 2:] - noisy[:, 1:-1]).abs().sum() + (noisy[:, 3:] - noisy[:, 1:-2]).abs().sum()) / 2))


def test_a_still_clip_with_a_given_frame_would_count_as_motion():
    still = noise(1, 1, 3, 5).expand(1, 4, 3, 5)
    probe = torch.cat([torch.zeros(1, 1, 3, 5), still], 1).flatten(1, 2)
    assert MotionRegulariser(Layout(5, 3), mograd_mul=0).factor(probe, 2, 1) > 0
    assert MotionRegulariser(Layout(5, 3), mograd_mul=0, given=1).factor(probe, 2, 1) == 0


def test_factors_are_finite_not_negative_and_forget_at_reset():
    moreg = MotionRegulariser(Layout(4, 3), window=(2, 9))

    def run():
        factors = [moreg.factor(noise(2, 12, 5, seed=n) * 10.0 ** (n - 5), n, 1 + n % 3) for n in range(1, 12)]
        moreg.reset()
        return factors

    first, stale = run(), MotionRegulariser(Layout(4, 3), window=(2, 9))
    assert first == run() and all(math.isfinite(f) and f >= 0 for f in first)
    assert moreg.trace == []
    stale.factor(noise(2, 12, 5, seed=99), 9, 1)  # an interrupted video
    assert stale.factor(noise(2, 12, 5, seed=2), 2, 2) != first[1]
    stale.reset()
    stale.factor(noise(2, 12, 5, seed=1) * 10.0**-4, 1, 2)
    assert stale.factor(noise(2, 12, 5, seed=2) * 10.0**-3, 2, 3) == first[1]


def test_a_zero_residual_has_no_score():
    moreg = MotionRegulariser(TWO)
    with pytest.warns(UserWarning, match="zero everywhere at call 4"):
        assert moreg.factor(values(0.0, 0.0), 4, 1) == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert moreg.factor(values(0.0, 0.0), 5, 1) == 1.0
    assert MotionRegulariser(Layout(3, 1), strides=(2,), mograd_mul=0).factor(values(0.0, 1.0, 0.0), 4, 1) == 0  # the compared frames are equal


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [dict(), dict(score="correlation"), dict(form="paper"), dict(form="paper", mean=True)], ids=str)
def test_a_broken_residual_is_refused_and_leaves_nothing_behind(options, broken):
    moreg = MotionRegulariser(Layout(3, 1), strides=(2,), **options)
    moreg.factor(values(1.0, 3.0, 2.0), 3, 1)
    before = moreg.previous, list(moreg.trace)
    for place in range(3):  # the middle frame is in none of the compared pairs
        frames = [1.0, 3.0, 2.0]
        frames[place] = broken
        with pytest.raises(ValueError, match="probe must be finite"):
            moreg.factor(values(*frames), 4, 1)
        assert (moreg.previous, moreg.trace) == before
        if "form" not in options:
            with pytest.raises(ValueError, match=f"frames must be finite, got {'NaN' if math.isnan(broken) else 'an infinity'} in it"):
                motion_score(torch.tensor(frames).reshape(1, 3, 1, 1), strides=(2,), **options)


def test_the_score_at_the_ends_of_the_floats():
    """Sums and squares of very large and very small numbers leave the range of float32; the score knows no scale."""
    p = noise(2, 5, 3, 4)
    for score in ("ratio", "correlation"):
        for scale in (1e38 / float(p.abs().max()), 1e25, 1e-21, 1e-25, 1e-35):
            assert mu(p * scale, score=score) == pytest.approx(mu(p, score=score), rel=1e-5)
    assert mu(p.double() * 1e300) == pytest.approx(mu(p), rel=1e-5)
    assert mu(p.half()) == pytest.approx(mu(p), rel=1e-3)  # whose squares and sums would leave the range of float16
    assert mu(p.half() * 1e4) == pytest.approx(mu(p), rel=1e-3)
    rounded = torch.full((1, 2, 50, 100), 0.1)
    rounded[:, 1].neg_()
    assert mu(rounded) == 1  # and not a little more


def test_what_does_not_vary_has_no_score():
    flat = torch.full((1, 3 * 2, 4), 3.0)
    assert math.isnan(mu(torch.zeros(1, 2, 2, 3))) and math.isnan(mu(flat.unflatten(1, (3, 2)), score="correlation"))
    moreg = MotionRegulariser(Layout(3, 2), score="correlation")
    with pytest.warns(UserWarning, match="constant in every channel at call 4"):
        assert moreg.factor(flat, 4, 1) == 1.0
    assert MotionRegulariser(Layout(3, 2)).factor(flat, 4, 1) == 10  # its frames are equal: s = 0, |g| = 10


def test_the_start_score_is_that_of_the_call_before():
    """The worked numbers of frames (1, 3) with another s_prev, and the official code, which goes on with the last video's score."""
    p = values(1.0, 3.0)
    for start in (0, 2.5, 8.09234):
        moreg = MotionRegulariser(TWO, start_score=start)
        for _ in range(2):
            assert moreg.factor(p, 10, 2) == pytest.approx(8.09234 + 10 * abs(8.09234 - start) / 2, rel=1e-5)
            moreg.factor(values(2.0, 2.0), 12, 2)
            moreg.reset()
    first = MotionRegulariser(TWO)
    assert first.factor(p, 10, 1) == MotionRegulariser(TWO, start_score=1).factor(p, 10, 1)
    going_on = MotionRegulariser(TWO, start_score=first.previous)
    assert going_on.factor(p, 10, 1) == first.factor(p, 11, 1)
    assert MotionRegulariser(TWO, form="paper", start_score=0.5).factor(p, 2, 1) == 2 + (2 - 0.5)
    assert MotionRegulariser(TWO, form="paper").factor(p, 2, 1) == 2


# ------------------------------------------------------------------------------------------------ arrays of any kind


def test_any_array_of_floats_goes_in_and_its_kind_comes_out():
    p = noise(2, 5, 3, 4).numpy()
    right, layout = mu(torch.from_numpy(p)), Layout(5, 3)
    frozen = p.copy()
    frozen.flags.writeable = False
    turned = [p[::-1].copy()[::-1], p[..., ::-1].copy()[..., ::-1], np.asfortranarray(p), np.repeat(p, 2, 0)[::2], p.astype(">f4"), frozen]
    same = [p, *turned, p.tolist(), tuple(p.tolist()), p.astype(np.float64), p.astype(np.longdouble), [torch.from_numpy(x) for x in p]]
    for form in same:
        found = motion_score(form)
        assert isinstance(found, np.ndarray) and float(found) == pytest.approx(right, rel=1e-6)
        cut = split_frames([x.reshape(15, 4) for x in np.asarray(form)], layout)
        assert isinstance(cut, np.ndarray) and np.array_equal(cut, p)
    probe = torch.from_numpy(p.reshape(2, 15, 4)).requires_grad_()
    assert MotionRegulariser(layout).factor(probe, 2, 1) == MotionRegulariser(layout).factor(p.reshape(2, 15, 4), 2, 1)
    score = motion_score(split_frames(probe, layout))
    score.backward()
    assert float(score.detach()) == pytest.approx(right) and torch.isfinite(probe.grad).all()
    tables = pd.DataFrame(p[:, 0, 0], index=[7, 9])
    assert np.array_equal(sharpen(tables.abs() / 9), sharpen(np.abs(p[:, 0, 0]) / 9))


@pytest.mark.parametrize("options", [dict(), dict(score="correlation"), dict(form="paper")], ids=str)
def test_residuals_stay_on_their_device(options):
    layout, p = Layout(5, 3), noise(2, 15, 4)
    right = MotionRegulariser(layout, **options).factor(p, 2, 1)
    with Accelerator():
        far = p.to(DEVICE)
        assert MotionRegulariser(layout, **options).factor(far, 2, 1) == right
        if "form" not in options:
            score = motion_score(split_frames(far, layout), strides=(1, 2), **options)
            assert score.device == DEVICE and sharpen(score).device == DEVICE
            assert near(score) == motion_score(split_frames(p, layout), strides=(1, 2), **options)
        with pytest.raises(ValueError, match="probe must be finite"):
            MotionRegulariser(layout, **options).factor(far * math.nan, 2, 1)


def test_a_split_is_a_view():
    probe = np.zeros((1, 6, 2))
    split_frames(probe, Layout(3, 2))[0, 2, 1, 1] = 5
    assert probe[0, 5, 1] == 5
    probe = torch.zeros(6, 3, 2)
    split_frames(probe, Layout(3, 2, "temporal"))[0, 2, 1, 0] = 5
    assert probe[1, 2, 0] == 5 and probe.sum() == 5


def test_sharpen_of_arrays():
    scores = [0.0, 0.2, 0.385, 1.0]
    s = [sharpen(one) for one in scores]
    assert s[2] == 1 and isinstance(s[0], float) and sharpen(np.float32(0.5)) == pytest.approx(8.09234, rel=1e-5)
    assert sharpen(np.array(scores)).tolist() == pytest.approx(s) and sharpen(scores).tolist() == pytest.approx(s)
    assert sharpen(torch.tensor(scores)).tolist() == pytest.approx(s, rel=1e-5) and sharpen(torch.tensor(0.5)).shape == ()
    assert sharpen(torch.tensor([0.5], dtype=torch.float16)).dtype == torch.float32  # 16 bits are not enough for the power
    assert sharpen(0.5, pivot=0.25, power=2, scale=8) == 0.5
    for wrong, error, message in (
        (1.01, ValueError, r"mu must be a finite number in \[0, 1\], got 1.01"), (-0.1, ValueError, "mu must be"), (math.nan, ValueError, "mu must be"),
        ([0.5, 1.01], ValueError, r"mu must be floating-point numbers in \[0, 1\], got values from 0.5 to 1.01"), ([0.5, math.nan], ValueError, "mu must be"),
        (np.array([]), ValueError, "mu must be .* not empty"), ("0.5", TypeError, "mu must be"), (True, TypeError, "mu must be"),
        (np.array([1, 0]), TypeError, "mu must be"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            sharpen(wrong)
    for shape in (dict(pivot=1e-300, power=8), dict(pivot=1e-320, power=0.1), dict(scale=1e-320), dict(power=1e6)):
        with pytest.raises(ValueError, match="pivot, power and scale must keep"):
            sharpen(0.5, **shape)
    with pytest.raises(ValueError, match="pivot, power and scale must keep mu's scores below 3e"):
        sharpen(torch.tensor([1.0]), pivot=1e-10)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_integers_are_no_residuals(dtype):
    whole = torch.ones(1, 2, 2, 3, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    for wrong in (whole, whole.numpy(), whole.tolist()):
        with pytest.raises(TypeError, match="frames must be floating-point numbers .*, got"):
            motion_score(wrong)
    with pytest.raises(TypeError, match=f"probe must be floating-point numbers .*, got {name} tensor of shape"):
        split_frames(whole[0], Layout(2, 2))


def test_floats_of_a_byte_and_masked_entries_are_refused_by_name():
    frames = noise(1, 3, 2, 4)
    with pytest.raises(TypeError, match="frames must be floating-point numbers .* of 16 bits or more, got float8_e5m2 tensor of shape"):
        motion_score(frames.to(torch.float8_e5m2))
    hidden = np.ma.masked_less(frames.numpy(), 0)
    for given in (hidden, list(hidden)):
        with pytest.raises(ValueError, match=rf"^frames must be .*, got an array with {int((frames < 0).sum())} masked entries: fill them, or leave"):
            motion_score(given)
    assert motion_score(np.ma.masked_array(frames.numpy())) == motion_score(frames.numpy())  # nothing is masked


NO_ARRAYS = [None, "text", b"1", {}, {1.0}, len, iter(()), [[1.0], [1.0, 2.0]], [None], np.array([["a"]]), torch.zeros(1, 6, 2, device="meta")]


@pytest.mark.parametrize("wrong", [*NO_ARRAYS, torch.zeros(1, 6, 2).to_sparse()], ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_array_is_refused(wrong):
    layout = Layout(3, 2)
    calls = {"frames": motion_score, "probe": lambda p: split_frames(p, layout), "mu": sharpen}
    for name, call in [*calls.items(), ("probe", lambda p: MotionRegulariser(layout).factor(p, 2, 1))]:
        with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
            call(wrong)


# -------------------------------------------------------------------------------------------------- tokens and frames


def test_frames_come_out_of_every_order():
    frames = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)  # B, T, S, C
    assert torch.equal(split_frames(frames.flatten(1, 2), Layout(3, 4)), frames)
    assert torch.equal(split_frames(frames.transpose(1, 2).flatten(0, 1), Layout(3, 4, "temporal")), frames)
    assert torch.equal(split_frames(frames.flatten(0, 1), Layout(3, 4, "spatial")), frames)
    text = torch.full((2, 6, 5), -1.0)
    both = torch.cat([text, frames.flatten(1, 2), text[:, :2]], dim=1)
    assert torch.equal(split_frames(both, Layout(3, 4, before=6, after=2)), frames)


def test_misaligned_tokens_would_go_unnoticed_without_the_check():
    frames = noise(1, 1, 6, 5).expand(1, 4, 6, 5)  # a still clip
    probe = frames.flatten(1, 2)
    assert mu(split_frames(probe, Layout(4, 6))) == 0
    assert mu(split_frames(probe, Layout(6, 4))) > 0.5  # the number of tokens fits, the frames do not: what a hard-coded S does
    with pytest.raises(ValueError, match="probe has 24 tokens, expected 4 frames x 5 tokens"):
        split_frames(probe, Layout(4, 5))


@pytest.mark.parametrize("name", small_models.VIDEO_TRANSFORMERS)
def test_every_architecture_hands_over_its_frames(name):
    """The factor inside a run is the one computed outside, from frames that are cut by hand; a still clip scores lowest."""
    net = small_models.video_transformer(name)
    frames, height, width = (3, 2, 3) if name == "LTX" else (3, 4, 6)
    layout = layout_of(net.model, num_frames=frames, height=height, width=width)
    assert (layout.frames, layout.tokens) == (3, 6)
    moreg = MotionRegulariser(layout, window=(3, 10))
    with apply_adacache(net.model, EVERY_CALL, net.calls, regulariser=moreg, record=True) as handle:
        net.sample()
    factors, previous = [], 1.0
    for n, probe in enumerate(handle.last.probes, 1):
        if n == 1:
            continue
        if name == "Latte":  # [B*S, T, C]
            cut = probe.reshape(2, 6, 3, -1).permute(0, 2, 1, 3)
        else:
            assert probe.shape[:2] == (2, 18)
            cut = torch.stack([probe[:, t * 6 : (t + 1) * 6] for t in range(3)], dim=1)
        ratio = (cut[:, 1:] - cut[:, :-1]).abs().sum() / (cut[:, 1:].abs().sum() + cut[:, :-1].abs().sum())
        s = (float(ratio) / 0.385) ** 8 if 3 <= n <= 10 else 1.0
        factors.append(s + abs(10 * (s - previous)))
        previous = s
    assert handle.last.factors[0] == 1.0
    assert handle.last.factors[1:] == pytest.approx(factors, rel=1e-4)


@pytest.mark.parametrize("name", ["CogVideoX", "Wan", "LTX", "Mochi", "HunyuanVideo"])
def test_the_token_order_is_frame_after_frame(name):
    """Change one latent frame: before anything mixes the frames, only that frame's tokens change."""
    net = small_models.video_transformer(name)
    layout = layout_of(net.model, num_frames=3, height=2 if name == "LTX" else 4, width=3 if name == "LTX" else 6)
    seen = []
    blocks = net.model.blocks if name == "Wan" else net.model.transformer_blocks

    def look(module, args, kwargs):
        hidden = kwargs.get("hidden_states", args[0] if args else None)
        seen.append(split_frames(hidden.clone(), layout))

    remover = blocks[0].register_forward_pre_hook(look, with_kwargs=True)
    changed = net.start.clone()
    axis = 1 if name in ("CogVideoX", "LTX") else 2
    where = slice(6, 12) if name == "LTX" else slice(1, 2)
    changed.narrow(axis, where.start, where.stop - where.start).add_(1.0)
    with torch.no_grad():
        net.call(net.start, 1)
        net.call(changed, 1)
    remover.remove()
    moved = (seen[0] - seen[1]).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [False, True, False]


def test_layouts_from_sizes():
    latte = small_models.video_transformer("Latte").model
    assert layout_of(latte, num_frames=3, height=4, width=6) == Layout(3, 6, "temporal")
    assert layout_of(latte, num_frames=3, height=4, width=6, probe="transformer_blocks.0.attn1") == Layout(3, 6, "spatial")
    assert layout_of(latte, num_frames=3, height=4, width=6, probe="temporal_transformer_blocks.0.ff") == Layout(3, 6, "temporal")
    with pytest.raises(ValueError, match="height must be a multiple of the patch size 2, got 5"):
        layout_of(latte, num_frames=3, height=5, width=6)
    with pytest.raises(ValueError, match="frames must be >= 2"):
        layout_of(latte, num_frames=1, height=4, width=6)
    with pytest.raises(TypeError, match="patch_size"):
        layout_of(torch.nn.Linear(2, 3), num_frames=3, height=4, width=6)
    with pytest.raises(TypeError, match="num_frames must be an integer"):
        layout_of(latte, num_frames="3", height=4, width=6)
    for wrong in ("atention", "transformer_blocks", "transformer_blocks.9.attn1", "transformer_blocks.0.attn3", "proj_out", "pos_embed.proj", "", "temporal"):
        with pytest.raises(ValueError, match=f'probe must be "attention", "block" or the name of a block .*, got {wrong!r}'):
            layout_of(latte, num_frames=3, height=4, width=6, probe=wrong)
    with pytest.raises(TypeError, match='probe must be "attention", "block" or the name of a block .*, got None'):
        layout_of(latte, num_frames=3, height=4, width=6, probe=None)
    with pytest.raises(TypeError, match="transformer must be a diffusers transformer"):
        layout_of(SimpleNamespace(config=latte.config), num_frames=3, height=4, width=6)


def test_layouts_of_wrapped_models():
    latte, sizes = small_models.video_transformer("Latte").model, dict(num_frames=3, height=4, width=6)

    class Peft(torch.nn.Module):  # what a model is put into by peft
        def __init__(self, model):
            super().__init__()
            self.base_model, self.peft_config = model, {}

        def get_base_model(self):
            return self.base_model

    for wrapped in (torch.compile(latte), torch.nn.DataParallel(latte), torch.compile(torch.nn.DataParallel(latte)), Peft(latte)):
        assert layout_of(wrapped, **sizes) == Layout(3, 6, "temporal")
        assert layout_of(wrapped, **sizes, probe="transformer_blocks.0.attn1") == Layout(3, 6, "spatial")
    latte.peft_config = {}  # what diffusers leaves on a model of its own that has an adapter
    assert layout_of(latte, **sizes) == layout_of(latte, **sizes, probe="block") == Layout(3, 6, "temporal")
    cog = small_models.video_transformer("CogVideoX").model
    assert layout_of(cog, **sizes, probe="transformer_blocks.1") == layout_of(cog, **sizes, probe="block") == Layout(3, 6)
    cog.register_to_config(patch_size_t=2)
    assert layout_of(cog, num_frames=6, height=4, width=6) == Layout(3, 6)
    with pytest.raises(ValueError, match="num_frames must be a multiple of the patch size 2, got 3"):
        layout_of(cog, **sizes)


def test_a_cached_run_with_motion_repeats_itself_and_copies_keep_their_own_state():
    net = small_models.video_transformer("Wan")
    moreg = MotionRegulariser(layout_of(net.model, num_frames=3, height=4, width=6), window=(2, 11), pivot=0.6)
    with apply_adacache(net.model, FAST_30.scaled(3), net.calls, regulariser=moreg, decide="each") as handle, torch.no_grad():
        for _ in range(2):
            latents = [net.start, net.start]
            for n in range(1, net.calls + 1):
                for i, (context, text) in enumerate((("cond", net.text), ("uncond", 0 * net.text))):
                    with net.model.cache_context(context):
                        latents[i] = latents[i] - 0.1 * net.call(latents[i], n, text)
            net.model._reset_stateful_cache()
    cond, uncond, again, uncond_again = handle.report
    assert cond.factors == again.factors and uncond.factors == uncond_again.factors
    assert cond.factors != uncond.factors and min(len(cond.computed), len(uncond.computed)) < net.calls


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(strides=(0,)), ValueError, "strides must be an integer >= 1, got 0"),
        (dict(strides=(-1,)), ValueError, "strides must be an integer >= 1, got -1"),
        (dict(strides=(1, 4)), ValueError, "strides must be smaller than the number of frames"),
        (dict(strides=()), ValueError, "strides is empty"),
        (dict(strides=(1.0,)), TypeError, "strides must be an integer"),
        (dict(strides="1"), TypeError, "strides must be a sequence"),
        (dict(strides=1), TypeError, "strides must be a sequence"),
        (dict(pivot=0), ValueError, "pivot must be a finite number > 0, got 0"),
        (dict(pivot=math.nan), ValueError, "pivot must be a finite number > 0, got nan"),
        (dict(pivot="0.385"), TypeError, "pivot must be a finite number > 0, got '0.385'"),
        (dict(scale=0), ValueError, "scale must be a finite number > 0"),
        (dict(scale=-1), ValueError, "scale must be a finite number > 0"),
        (dict(power=0), ValueError, "power must be a finite number > 0"),
        (dict(power=True), TypeError, "power must be a finite number > 0, got True"),
        (dict(mograd_mul=-1), ValueError, "mograd_mul must be a finite number >= 0, got -1"),
        (dict(given=-1), ValueError, "given must be an integer >= 0, got -1"),
        (dict(given=True), TypeError, "given must be an integer >= 0, got True"),
        (dict(given=3), ValueError, "given must leave at least two of 4 frames, got 3"),
        (dict(given=1, strides=(3,)), ValueError, "strides must be smaller than the number of frames"),
        (dict(window=4), TypeError, "window must be a pair of integers or None, got 4"),
        (dict(window=(1, 2, 3)), ValueError, "window must be a pair of integers"),
        (dict(window="12"), TypeError, "window must be a pair of integers"),
        (dict(window={4, 26}), TypeError, "window must be a pair of integers"),
        (dict(window={4: 26}), TypeError, "window must be a pair of integers"),
        (dict(window=np.array([4.0, 26.0])), TypeError, "window must be an integer, got 4.0"),
        (dict(mean="no"), TypeError, "mean must be True or False, got 'no'"),
        (dict(mean=1), TypeError, "mean must be True or False, got 1"),
        (dict(signed_gradient="yes"), TypeError, "signed_gradient must be True or False"),
        (dict(start_score=-1), ValueError, "start_score must be a finite number >= 0, got -1"),
        (dict(start_score=math.nan), ValueError, "start_score must be a finite number >= 0, got nan"),
        (dict(start_score="1"), TypeError, "start_score must be a finite number >= 0, got '1'"),
        (dict(mograd_mul=math.inf), ValueError, "mograd_mul must be a finite number >= 0, got inf"),
        (dict(pivot=1e-300), ValueError, "pivot, power and scale must keep"),
        (dict(strides=iter(())), ValueError, "strides is empty"),
        (dict(strides={1: 1}), TypeError, "strides must be a sequence"),
        (dict(form=np.zeros(2)), TypeError, "form must be one of code, paper, got float64 array of shape (2,)"),
        (dict(form=None), TypeError, "form must be one of code, paper, got None"),
        (dict(score=["ratio"]), TypeError, "score must be one of ratio, correlation, got a list"),
        (dict(window=(1.5, 4)), TypeError, "window must be an integer"),
        (dict(form="Paper"), ValueError, "form must be one of code, paper, got 'Paper'"),
        (dict(score="l2"), ValueError, "score must be one of ratio, correlation"),
        (dict(form="paper", score="correlation"), ValueError, "score='correlation' belongs to form='code'"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MotionRegulariser(Layout(4, 2), **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(1, 8, 3), 2, 0), ValueError, "rate must be an integer >= 1, got 0"),
        ((torch.zeros(1, 8, 3), 0, 1), ValueError, "call must be an integer >= 1, got 0"),
        ((torch.zeros(1, 8, 3), 2, 1.5), TypeError, "rate must be an integer"),
        ((torch.zeros(1, 7, 3), 2, 1), ValueError, "probe has 7 tokens, expected 4 frames x 2 tokens"),
        ((torch.zeros(0, 8, 3), 2, 1), ValueError, "not empty"),
        ((torch.zeros(8, 3), 2, 1), ValueError, r"\(batch, tokens, channels\)"),
        ((torch.zeros(1, 8, 3, dtype=torch.long), 2, 1), TypeError, "floating-point numbers .*, got int64 tensor"),
        (("probe", 2, 1), TypeError, "floating-point numbers .*, got 'probe'"),
    ],
)
def test_bad_calls_are_refused_and_leave_nothing_behind(arguments, error, message):
    moreg = MotionRegulariser(Layout(4, 2))
    with pytest.raises(error, match=message):
        moreg.factor(*arguments)
    assert moreg.trace == [] and moreg.previous == 1.0


def test_bad_layouts_and_frames_are_refused():
    for arguments, message in (((1, 4), "frames must be >= 2"), ((0, 4), "frames must be an integer >= 1"), ((3, 0), "tokens must be"),
                               ((3, 4, "rows"), "order must be one of joint, temporal, spatial, got 'rows'"), ((3, 4, "spatial", 2), "before and after"),
                               ((3, 4, "temporal", 0, 1), "before and after"), ((3, 4, "joint", 2, -5), "after must be an integer >= 0, got -5"),
                               ((3, 4, "joint", -2), "before must be an integer >= 0, got -2")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Layout(*arguments)
    for wrong in ((3, 4), None):
        with pytest.raises(TypeError, match="layout must be a Layout, got"):
            MotionRegulariser(wrong)
        with pytest.raises(TypeError, match="layout must be a Layout, got"):
            split_frames(torch.zeros(1, 12, 2), wrong)
    for arguments, message in (
        ((3.0, 4), "frames"),
        ((3, True), "tokens"),
        ((3, 4, None), "order"),
        ((3, 4, "joint", 0, "2"), "after"),
        ((3, 4, "joint", None), "before"),
    ):
        with pytest.raises(TypeError, match=f"{message} must be"):
            Layout(*arguments)
    assert Layout(np.int64(3), np.uint8(4)) == Layout(3, 4) and type(Layout(np.int64(3), 4).frames) is int
    for probe in (torch.zeros(7, 3, 2), torch.zeros(8, 4, 2)):
        with pytest.raises(ValueError, match="expected \\(a multiple of 4, 3, channels\\)"):
            split_frames(probe, Layout(3, 4, "temporal"))
    with pytest.raises(ValueError, match="expected \\(a multiple of 4, 3, channels\\)"):
        split_frames(torch.zeros(8, 5, 2), Layout(3, 4, "temporal"))
    with pytest.raises(ValueError, match="a single image has no motion"):
        motion_score(torch.zeros(1, 1, 2, 3))
    with pytest.raises(ValueError, match="frames must be .* \\(B, T, S, C\\) and not empty"):
        motion_score(torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match="strides must be smaller"):
        motion_score(torch.zeros(1, 2, 2, 3), strides=(2,))
    for share in (0, -0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="share must be a finite number in"):
            middle_window(30, share)
    assert middle_window(30, 1) == (1, 30) and middle_window(1, 1e-9) == (1, 1) and middle_window(10, 0.2) == (4, 6)
