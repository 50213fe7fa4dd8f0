"""Odd and wrong inputs for corrupted pictures."""

import numpy as np
import pytest

from helpers.datasets import corruptions
from tests.inputs.harness import Trial, array, check, choice, coverage, integer

PICTURES = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
images = array(PICTURES, low=0, high=1, free=(0, 1, 2, 3), grow=(0, 1, 2, 3))
MORE = dict(severity=integer(3, low=0, high=5), seed=integer(1, low=0, high=4293), first=integer(0, low=0, high=10**6 - 1))
TRIALS = [  # the door is one for all kinds: it is tried hardest with the first
    Trial(corruptions.corrupt, trial_id=kind, slow=1.0 if kind == "noise" else 0.3, images=images, kind=choice(kind), **MORE, follows="images")
    for kind in corruptions.KINDS
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(corruptions, TRIALS) == set()
