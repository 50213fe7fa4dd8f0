"""Odd and wrong inputs for every public function of vtab."""

from unittest import mock

import numpy as np
import pytest
from PIL import Image

from helpers.datasets import vtab
from tests.inputs.harness import Trial, check, choice, coverage, instance, integer, text

PICTURES = [Image.fromarray(np.full((5, 6, 3), 40 * i, np.uint8)) for i in range(3)]


def refused(**arguments):
    """There is nothing on this machine: what is lawful ends in one sentence."""
    with mock.patch.object(vtab, "missing", lambda *_: "It is not here."), pytest.raises(RuntimeError, match="not here") as found:
        vtab.load(**arguments)
    return str(found.value)


TRIALS = [
    Trial(vtab.missing, task=choice("svhn"), pictures=text("nowhere", wrong=["", " ", "a\0b"], either=["elsewhere"])),
    Trial(refused, task=choice("svhn"), pictures=text("nowhere", wrong=["", " ", "a\0b"], either=["elsewhere"]), public="load"),
    Trial(vtab.pixels, images=instance(lambda: PICTURES, wrong=[[3], PICTURES[0], (None,)]), size=integer(4, low=1)),
]


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(vtab, TRIALS) == set()
