"""Odd and wrong inputs of adaptive caching's public functions, one argument at a time."""

import numpy as np
import pytest
import torch

from helpers.methods import caching_schedules as ada
from helpers.models import small as small_models
from tests.inputs.harness import Trial, array, check, choice, coverage, flag, instance, integer, optional, real

torch.set_num_threads(1)

N = 8
generator = np.random.default_rng(0)
RESIDUALS = 1 + generator.random((N, 5)).cumsum(axis=0)
MATRIX = ada.pairwise_distances(RESIDUALS)
STEPS = np.concatenate([[0.0], np.diagonal(MATRIX, 1)])
RUNS = np.stack([ada.pairwise_distances(1 + generator.random((N, 5)).cumsum(axis=0)) for _ in range(3)])
BOOK = ada.Codebook((0.1, 0.3), (4, 2, 1))


class Regulariser:
    def factor(self, probe, call, rate):
        return 1.0

    def reset(self):
        pass


def clock_run(residuals=RESIDUALS, num_calls=N, **options):
    clock = ada.CachingClock(BOOK, num_calls, **options)
    for row in residuals:
        if clock.tick():
            clock.observe(row)
    return [tuple(call) for call in clock.trace]


def observed(probe):
    clock = ada.CachingClock(BOOK, N)
    for residual in (np.ones_like(probe) if isinstance(probe, np.ndarray) else probe, probe):
        clock.tick()
        clock.observe(residual)
    return []


def fixed_run(computed_calls, num_calls):
    clock = ada.FixedClock(computed_calls, num_calls)
    return [clock.tick() for _ in range(num_calls)]


REAL = object()


def applied(model=REAL, **options):
    """Apply to a small model, and take the cache off again."""
    net = small_models.video_transformer("Wan", 4)
    model = net.model if model is REAL else model
    options = {"codebook": BOOK, "num_calls": 4, **options}
    with ada.apply_adacache(model, **options) as handle:
        net.sample()
    return handle.last and handle.last.computed


CALLS = dict(first=integer(1, low=1), last=integer(2, low=0))
MATRICES = dict(finite=False)  # what is on and below the diagonal is never looked at; what is above it has a test of its own
TRIALS = [
    Trial(lambda thresholds, rates: str(ada.Codebook(thresholds, rates)), public="Codebook", thresholds=array(np.array([0.1, 0.3])),
          rates=array(np.array([4, 2, 1]), low=1, skip=("2-d",))),
    Trial(lambda pairs: str(ada.Codebook.from_pairs(pairs)), public="Codebook.from_pairs", pairs=instance(lambda: {0.1: 2, 1.0: 1})),
    Trial(lambda multiplier: BOOK.scaled(multiplier).thresholds, public="Codebook.scaled", multiplier=real(2.0, low=0, above=True)),
    Trial(lambda **given: BOOK.reach(**given), public="Codebook.reach", num_calls=integer(N, low=1), start=integer(1, low=1), **CALLS),
    Trial(ada.distance, old=array(RESIDUALS[0]), new=array(RESIDUALS[1]), rate=integer(2, low=1), metric=choice("l2"), form=choice("paper")),
    Trial(clock_run, public="CachingClock", num_calls=integer(N, low=N), start=integer(1, low=1), metric=choice("l2"), form=choice("paper"),
          expect=choice("linear"), regulariser=optional(instance(Regulariser, wrong=(Regulariser,))), **CALLS),
    Trial(observed, public="CachingClock.observe", probe=array(RESIDUALS[0], finite=False, free=(0,), grow=(0,), skip=("two axes more",))),
    Trial(lambda codebook: ada.CachingClock(codebook, N).tick(), public="CachingClock", trial_id="CachingClock codebook", codebook=instance(lambda: BOOK)),
    Trial(fixed_run, public="FixedClock", computed_calls=array(np.array([1, 3, 6]), low=1, high=N, free=(0,), grow=(0,), skip=("a set",)),
          num_calls=integer(N, low=6)),
    Trial(ada.uniform_calls, num_calls=integer(N, low=1), every=integer(3, low=1), last=integer(1, low=0)),
    Trial(ada.uniform_calls, trial_id="uniform_calls budget", num_calls=integer(N, low=4), budget=integer(4, low=2, high=N), last=integer(1, low=0)),
    Trial(ada.pairwise_distances, residuals=array(RESIDUALS, free=(0, 1), grow=(0, 1), broadcast=True, skip=("two axes more",)),
          metric=choice("l2"), relative=flag(True)),
    Trial(ada.predict_calls, trial_id="predict_calls", distances=array(MATRIX, broadcast=True, **MATRICES), codebook=instance(lambda: BOOK),
          num_calls=optional(integer(N, low=N, high=N)), **CALLS),
    Trial(ada.predict_calls, trial_id="predict_calls curve", distances=array(STEPS, low=0, finite=False), codebook=instance(lambda: BOOK),
          num_calls=optional(integer(N, low=N, high=N))),
    Trial(ada.replay_calls, probes=array(RESIDUALS, free=(1,), grow=(1,)), clock=instance(lambda: ada.CachingClock(BOOK, N))),
    Trial(lambda **given: str(ada.calibrate(**given)), public="calibrate", distances=array(RUNS, free=(0,), grow=(0,), broadcast=True, **MATRICES),
          num_calls=integer(N, low=N, high=N), target_calls=real(5.0, low=4, high=8), rates=array(np.array([4, 2, 1]), low=1, free=(0,), grow=(0,)),
          trim=real(0.1, low=0, high=0.5, below=True), slow=0.5, **CALLS),
    Trial(ada.oracle_calls, errors=array(MATRIX, **MATRICES), num_computed=integer(5, low=3, high=N), **CALLS),
    Trial(ada.best_fixed_calls, errors=array(RUNS, free=(0,), grow=(0,), **MATRICES), num_computed=integer(5, low=3, high=N), **CALLS),
    Trial(applied, public="apply_adacache", slow=0.2, num_calls=integer(4, low=1), probe=choice("block"), storage=choice("group"), reuse=choice("linear"),
          decide=choice("each"), metric=choice("l2"), form=choice("paper"), expect=choice("linear"), start=integer(1, low=1), record=flag(True),
          regulariser=optional(instance(Regulariser, wrong=(Regulariser,))), codebook=instance(lambda: BOOK), **CALLS),
    Trial(lambda transformer: applied(transformer), public="apply_adacache", trial_id="apply_adacache transformer", slow=0.2,
          transformer=instance(lambda: small_models.video_transformer("Wan", 4).model)),
    Trial(lambda clock: applied(clock=clock, codebook=None, num_calls=None), public="apply_adacache", trial_id="apply_adacache clock", slow=0.2,
          clock=optional(instance(lambda: ada.FixedClock([1, 3], 4), wrong=(ada.FixedClock,)))),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(ada, TRIALS) == set()


@pytest.mark.parametrize("at, value", [((0, 1), np.nan), ((2, 5), np.inf), ((6, 7), -0.1), ((0, 7), -np.inf)])
def test_what_is_above_the_diagonal_is_looked_at(at, value):
    wrong = MATRIX.copy()
    wrong[at] = value
    for call in (
        lambda: ada.predict_calls(wrong, BOOK),
        lambda: ada.calibrate([*RUNS, wrong], N, 5, rates=(4, 2, 1)),
        lambda: ada.predict_calls(np.concatenate([[np.nan], [value] * (N - 1)]), BOOK),
    ):
        with pytest.raises(ValueError, match="distances must be finite and >= 0 from call 2 on"):
            call()
    if value != -0.1:  # a cost may be negative
        for call in (lambda: ada.oracle_calls(wrong, 5), lambda: ada.best_fixed_calls([MATRIX, wrong], 5)):
            with pytest.raises(ValueError, match="errors must be finite above the diagonal"):
                call()


def test_a_recording_that_is_all_nan_sets_no_thresholds():
    probes = [torch.as_tensor(row) for row in RESIDUALS]
    for runs in ([*RUNS, np.full((N, N), np.nan)], [STEPS, np.full(N, np.nan)], [probes, [torch.full((5,), torch.nan)] * N]):
        with pytest.raises(ValueError, match="distances must be finite"):
            ada.calibrate(runs, N, 5, rates=(4, 2, 1))
    with pytest.raises(ValueError, match="distances hold runs of .*num_calls=8"):
        ada.calibrate([probes, probes[:-1]], N, 5, rates=(4, 2, 1))


def test_residuals_without_any_size_have_no_relative_distance():
    with pytest.raises(ValueError, match="residuals of call 2 are all zero"):
        ada.pairwise_distances([torch.ones(2), torch.zeros(2), torch.ones(2)])
    assert ada.pairwise_distances([torch.ones(2), torch.zeros(2)], relative=False).tolist() == [[0, 2], [2, 0]]
    for residuals, said in (([torch.ones(2), torch.ones(3)], "same shape"), ([torch.ones(2), None], r"without \[2\]"), ([], "every call")):
        with pytest.raises(ValueError, match=f"residuals must.*{said}"):
            ada.pairwise_distances(residuals)


def test_numbers_that_are_none_have_no_rate():
    clock = ada.CachingClock(BOOK, N)
    clock.tick()
    for wrong in ("0.1", None, 1j, True, [0.1]):
        with pytest.raises(TypeError, match="distance must be a number"):
            BOOK.rate(wrong)
        with pytest.raises(TypeError, match="factor must be a number"):
            clock.update(0.2, wrong)
