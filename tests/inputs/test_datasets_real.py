"""Odd and wrong inputs for the real data and the clips cut from photographs."""

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from helpers.datasets import photo_crops, real
from tests.inputs.harness import SAME, WRONG, Kind, Odd, Trial, array, check, coverage, flag, integer, optional, texts

ITEMS = array(np.array([3, 1]), low=0, free=(0,), grow=(0,))


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    for k in range(4):
        Image.new("RGB", (12, 12), (60 * k,) * 3).save(folder / f"{k}.png")
    wrong = [(3, "3"), (None, "None"), (b"clip", "bytes"), ([str(folder)], "a list of it"), (np.zeros(2), "an array"), ({}, "a dict"), (1.5, "1.5")]
    odd = [Odd(value, words, WRONG) for value, words in wrong] + [Odd(str(folder), "a text", SAME), Odd(np.str_(folder), "numpy text", SAME)]
    return [
        *TRIALS,
        Trial(real.read_clip, path=Kind(lambda: folder, lambda: st.sampled_from(odd)), size=integer(8, low=8), frames=optional(integer(3, low=2, high=4)),
              names={"frames": ("path",)}),
    ]  # fmt: skip


def of_names(function):
    """`function` with its argument `names` called `chosen`: a trial has a word of that name."""

    def call(chosen, **others):
        return function(names=chosen, **others)

    return call, {"public": function.__name__, "names": {"chosen": ("names",)}}


photographs, of_photographs = of_names(real.photographs)
photo_clips, of_clips = of_names(real.photo_clips)
crops, of_crops = of_names(photo_crops.crops)
TRIALS = [
    Trial(real.digits, seed=integer(3, low=0), slow=0.3),
    Trial(real.mnist, seed=integer(3, low=0), slow=0.3),
    Trial(real.faces, seed=integer(3, low=0), slow=0.3),
    Trial(photographs, **of_photographs, chosen=optional(texts(["camera", "coins"], options=True)), size=optional(integer(8, low=8)), slow=0.3),
    Trial(real.stereo_pair),
    Trial(real.marked_heads, size=integer(16, low=16), slow=0.3),
    Trial(photo_clips, **of_clips, seed=integer(3, low=0), indices=ITEMS, size=integer(16, low=16), frames=integer(3, low=2),
          chosen=texts(["camera", "coins"], options=True), moves=texts(["pan", "shake"], options=True)),
    Trial(crops, **of_crops, seed=integer(3, low=0), indices=ITEMS, size=integer(16, low=16), frames=integer(3, low=2),
          chosen=texts(["cat", "coffee"], options=True), moves=texts(["pan", "shake"], options=True), speeds=texts(["slow", "fast"], options=True),
          vary=flag(False)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(TRIALS) + 1))
def test_wrong_inputs_are_refused_and_odd_ones_taken(trials, number):
    check(trials[number])


def test_every_public_function_has_a_trial(trials):
    assert coverage(real, trials) == set() and coverage(photo_crops, trials) == set()
