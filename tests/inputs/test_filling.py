"""Odd and wrong inputs for every public function of filling."""

import numpy as np
import pytest

from helpers.measures import filling
from tests.inputs.harness import Trial, array, check, coverage, flag

CLIP = np.random.default_rng(0).random((5, 2, 16, 17)).astype(np.float32)
KNOWN = np.array([False, True, False, True, False])
WRONG = [np.array([0, 1, 0, 1, 0]), np.zeros(5, bool), [True] * 4, np.ones((5, 1), bool)]

BROKEN = CLIP.copy()
BROKEN[3, 1, 5, 5] = np.inf

# channels, height and width are free, and what missing frames hold; a mask of another length is told of either
clip = dict(
    clip=array(CLIP, free=(1, 2, 3), grow=(1, 2, 3), finite=False, wrong=[BROKEN, BROKEN.tolist()]),
    is_ref=array(KNOWN, masks=True, wrong=WRONG),
    follows="clip",
    names={"clip": ("is_ref",)},
)
TRIALS = [
    Trial(filling.nearest, **clip), Trial(filling.cross_fade, **clip), Trial(filling.along_flow, **clip, carry_on=flag(True), slow=0.3),
    Trial(filling.straight_line, places=array(CLIP[:, 0, 0, :2].copy(), free=(1,), grow=(1,), finite=False), is_ref=clip["is_ref"], follows="places",
          names={"places": ("is_ref",)}),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(filling, TRIALS) == set()
