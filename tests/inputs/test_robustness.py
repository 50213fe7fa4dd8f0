"""Odd and wrong inputs for every public function of robustness."""

import numpy as np
import pytest

from helpers.measures import robustness
from helpers.measures.robustness import Errors
from tests.inputs.harness import Trial, array, check, coverage, fixed, flag, function, instance, integer, optional, text, texts

RNG = np.random.default_rng(0)
CLEAN, NOISE, FOG = RNG.uniform(0, 0.1, 3), RNG.uniform(0.2, 1, (3, 4)), RNG.uniform(0.2, 1, (3, 4))
IMAGES, LABELS = RNG.random((6, 3, 8, 8)).astype(np.float32), np.arange(6) % 2


def errors(shift: float = 0.0) -> Errors:
    return Errors(CLEAN, {"noise": NOISE - shift, "fog": FOG - shift / 2})


def made(clean, noise, fog):
    return Errors(clean, {"noise": noise, "fog": fog})


def predict(pictures):
    return (pictures[:, :, :4].mean((1, 2, 3)) > pictures[:, :, 4:].mean((1, 2, 3))).long()


MODEL = instance(errors, wrong=(NOISE, {"noise": NOISE}, (CLEAN, {"noise": NOISE})))
REFERENCE = instance(lambda: errors(0.1), wrong=({"noise": 0.9},))
CELLS = "corrupted"
TRIALS = [
    Trial(made, trial_id="Errors", slow=0.5, clean=array(CLEAN, low=0, high=1), noise=array(NOISE, low=0, high=1), fog=array(FOG, low=0, high=1),
          names={"clean": (CELLS,), "noise": (CELLS,), "fog": (CELLS,)}),
    Trial(robustness.errors_under, slow=0.4, predict=function(predict), images=array(IMAGES, low=0, high=1, free=(1, 2, 3), grow=(1, 2, 3)),
          labels=array(LABELS, low=0),
          kinds=texts(["impulse", "occlusion"], options=True), seed=integer(1, low=0, high=4293), batch=integer(4, low=1),
          names={"images": ("labels",), "labels": ("images",)}),
    Trial(robustness.stack, runs=instance(lambda: [errors(), errors(0.1)], wrong=([errors(), None], {"a": errors()}, errors()))),
    Trial(robustness.corruption_errors, model=MODEL, reference=REFERENCE, relative=flag(True)),
    Trial(robustness.mean_corruption_error, model=MODEL, reference=REFERENCE, relative=flag(False)),
    Trial(robustness.retention, model=MODEL),
    Trial(robustness.summary, model=MODEL, reference=REFERENCE, rival=optional(instance(lambda: errors(0.05))), of=text("seeds")),
    Trial(robustness.summary, trial_id="summary alone", model=MODEL, reference=REFERENCE, rival=fixed(None), of=text("seeds")),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(robustness, TRIALS) == set()
