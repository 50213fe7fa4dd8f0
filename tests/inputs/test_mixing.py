"""Odd and wrong inputs for the measures of mixing, one argument at a time."""

import numpy as np
import pytest
import torch

from helpers.measures import mixing, statistics
from helpers.models.judges import Judges, Reading
from helpers.toyworld.creatures import creatures_of
from tests.inputs.harness import Trial, array, check, choice, coverage, fixed, function, instance, integer, optional, real, text, texts

torch.set_num_threads(1)
CASES = mixing.cases(["a photo of a red cat", "a photo of a car"], [["rabbit", "teapot"], ["lamp"]], seed=5)
RNG = np.random.default_rng(0)
READING = Reading(torch.full((3, 9), 1 / 9), torch.full((3, 2), 0.5), torch.full((3, 4), 0.25), torch.full((3, 8), 0.125), CASES.mask.float(),
                  torch.zeros(3, 3))  # fmt: skip
LAYOUT, CONTENT, FIRST, SECOND = (np.sort(RNG.random((4, 12)), 0)[::-1].copy() for _ in range(4))
LEVELS, SHARES = np.linspace(0, 1, 4), RNG.random((3, 12))
CURVES = dict(first=array(FIRST), second=array(SECOND))


class Nobody(Judges):
    def read(self, images, batch=64):
        return READING


def one_gain(layout, content, other, points=5, of="sources"):
    return mixing.gain((layout, content), (other, CONTENT), points=points, of=of)


TRIALS = [
    Trial(lambda captions, contents, seed: mixing.cases(captions, contents, seed=seed), public="cases", trial_id="cases",
          captions=texts(["a photo of a cat", "a sketch of a dog"], fixed_length=True),
          contents=instance(lambda: [["dog"], ["fox", "car"]], wrong=[[["dog"], ["cow"]], [["dog"]], [["dog"], [3]], [["dog"], "fox"], ["dog",
                "fox"], [[], []]]), seed=integer(4, low=0),
          names={"captions": ("contents",)}, after=lambda found: (found.image, found.noise, found.words)),
    Trial(lambda rows: CASES.take(rows), public="Cases.take", trial_id="take", rows=instance(lambda: [2, 0], wrong=[[3], [0.5], [], ["a"], 1]),
          after=lambda some: some.image),
    Trial(mixing.other_words, category=choice("cat"), turn=integer(2, low=0)),
    Trial(mixing.measure, judges=fixed(None), images=array(CASES.image, low=-0.4, high=1.4, tolerance=1e-4), todo=instance(lambda: CASES),
          reading=optional(instance(lambda: READING))),
    Trial(mixing.measure, trial_id="measure by judges", judges=instance(lambda: Nobody(())), images=fixed(CASES.image), todo=fixed(CASES)),
    Trial(lambda reading, words: mixing.probability(reading, words), public="probability", trial_id="probability", reading=instance(lambda: READING),
          words=texts(["cat", "dog", "fox"], fixed_length=True, options=True), names={"words": ("names",), "reading": ("names",)}),
    Trial(mixing.halves, first=instance(lambda: creatures_of(["a photo of a cat"], 1)), second=instance(lambda: creatures_of(["a photo of a car"], 1),
          wrong=[creatures_of(["a cat"] * 2, 1)]), names={"first": ("second",)}),
    Trial(mixing.luminance_correlation, images=array(RNG.random((2, 3, 8, 9))), others=array(RNG.random((2, 3, 8, 9))), blur=real(1.0, low=0),
          names={"images": ("others",)}),
    Trial(mixing.sketched, images=array(CASES.image, low=-0.4, high=1.4), masks=array(CASES.mask.float(), low=0, high=1, masks=True),
          tolerance=real(0.25, low=0), names={"images": ("masks",)}),
    Trial(one_gain, public="gain", trial_id="gain", layout=array(LAYOUT), content=array(CONTENT), other=array(SECOND), points=integer(5, low=1),
          of=text("sources"),
          names={"layout": ("ours", "rival"), "content": ("ours",), "other": ("rival", "ours")}),
    Trial(mixing.survives, levels=array(LEVELS), curve=array(FIRST, free=(1,), grow=(1,)), names={"curve": ("levels",), "levels": ("curve",)}),
    Trial(mixing.survives_longer, levels=array(LEVELS), scale=real(100.0), of=text("sources"), names={"first": ("second",), "levels": ("first",)},
          **CURVES),
    Trial(mixing.mixed_share, seen=array(SHARES[0]), none=array(SHARES[1] * 0.1), halves=array(SHARES[2] + 1), of=text("sources"),
          names={"seen": ("none",)}),
    Trial(lambda function, tables, of: statistics.of_means(function, [tables], of=of), public="of_means", trial_id="of_means", of=text("sources"),
          function=function(lambda means: float(means[0].sum())), tables=array(SHARES, free=(0, 1), grow=(0, 1), masks=True)),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(mixing, TRIALS) == set()
