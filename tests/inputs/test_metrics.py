"""Odd and wrong inputs for every public function of metrics."""

import numpy as np
import pytest
import torch

from helpers.measures import metrics
from tests.inputs.harness import Trial, array, check, coverage, integer

RNG = np.random.default_rng(0)
CLIP, OTHER = RNG.random((2, 2, 3, 8, 9)).astype(np.float32)
ROWS, LABELS = RNG.dirichlet(np.ones(4), 12), RNG.integers(0, 4, 12)
BYTES = (np.full(CLIP.shape, 200, np.uint8), torch.full(CLIP.shape, 200.0), 255 * CLIP)
both = dict(names={"a": ("b",), "b": ("a",)})  # shapes that differ are told of both

TRIALS = [
    *(Trial(metric, a=array(CLIP, low=0, high=1, wrong=BYTES), b=array(OTHER, low=0, high=1, wrong=BYTES), **both) for metric in (metrics.psnr, metrics.ssim)),
    Trial(metrics.calibration_error, probabilities=array(ROWS, low=0, high=1, wrong=[np.log(ROWS), 100 * ROWS, 0.9 * ROWS]),
          labels=array(LABELS, low=0, high=3, wrong=[["cat", "dog"] * 6, np.eye(4)[LABELS]]), bins=integer(5, low=1), names={"probabilities": ("labels",)}),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(metrics, TRIALS) == set()
