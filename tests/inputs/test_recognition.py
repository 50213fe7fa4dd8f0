"""Odd and wrong inputs for the recognition bench and its networks."""

import functools

import numpy as np
import pytest
import torch

from helpers.measures import recognition
from helpers.models import backbones
from tests.inputs.harness import Trial, array, check, choice, coverage, fixed, instance, integer, optional, real

IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASKS = torch.zeros(6, 32, 32, dtype=torch.int64)
MASKS[:, 4:20, 8:24] = 1
SIDES = torch.tensor([9.0, 12.0, 8.0, 20.0, 30.0, 16.0])


@functools.cache
def network() -> backbones.Backbone:
    return backbones.make("CNN", size=32, classes=3, seed=0).eval()


@functools.cache
def data() -> recognition.Data:
    examples = recognition.Examples(IMAGES, torch.arange(6) % 3, MASKS, SIDES)
    return recognition.Data("digits", ("a", "b", "c"), examples, examples)


def drawn(**arguments):
    """Few pictures, since what comes in does not depend on how many there are."""
    held = {name: dict(made) for name, made in recognition.DATA.items()}
    try:
        for made in recognition.DATA.values():
            made |= dict(train=2, test=2)
        return recognition.pictures(**arguments).train.images
    finally:
        recognition.DATA.update(held)


def trained(model, data, **arguments):
    return recognition.fit(backbones.make("CNN", size=32, classes=3, seed=0) if model is network() else model, data, **arguments)(IMAGES)


def tokens(images):
    return network().tokens(images)


MODEL = instance(network, wrong=(torch.nn.Linear(2, 2),))
TRIALS = [
    Trial(backbones.make, name=choice("CNN"), size=integer(32, wrong=[16, 33, 224]), classes=integer(3, low=2), seed=integer(1, low=0, wrong=[2**63]),
          slow=0.3, after=lambda made: made.body.head.weight, names={"size": ("name",)}),
    Trial(backbones.file_of, name=choice("FAN"), data=choice("scenes 32")),
    Trial(backbones.load, name=choice("CNN"), data=choice("scenes 32"), folder=fixed(backbones.FOLDER),
          slow=0.3, after=lambda made: made.body.head.weight),
    Trial(tokens, public="Backbone.tokens", trial_id="tokens", images=array(IMAGES, torch_only=True, free=(0,), grow=(0,), finite=False), slow=0.3),
    Trial(drawn, public="pictures", trial_id="pictures", name=choice("scenes 32"), seed=integer(1, low=0, high=10**6 - 1), slow=0.3),
    Trial(recognition.order, examples=integer(7, low=1), steps=integer(3, low=0), batch=integer(4, low=1), seed=integer(1, low=0)),
    Trial(recognition.moved, images=array(IMAGES, free=(1, 2, 3), grow=(1, 2, 3)), by=array(np.array([[0, 1], [2, -1], [0, 0], [1, 1], [3, 3], [-2, 0]])),
          follows="images", names={"images": ("by",)}),
    Trial(recognition.learning_rates, steps=integer(9, low=0), rate=real(0.1, low=0), warm_up=real(0.2, low=0, high=1)),
    Trial(trained, public="fit", trial_id="fit", model=MODEL, data=instance(data), seed=integer(1, low=0), steps=optional(integer(2, low=0)),
          recipe=choice("plain"), slow=0.3),
    Trial(recognition.predict, model=instance(network), images=array(IMAGES, free=(0,), grow=(0,)), batch=integer(4, low=1), follows="images", slow=0.5),
    Trial(recognition.by_size, right=array(torch.tensor([1, 0, 1, 1, 0, 1]), low=0, high=1, masks=True), sides=array(SIDES, low=0), follows="right",
          names={"right": ("sides",), "sides": ("right",)}),
    Trial(recognition.grouping, model=MODEL, images=array(IMAGES), masks=array(MASKS, low=0), seed=integer(1, low=0, high=2**32 - 1), slow=0.3,
          names={"masks": ("images",), "images": ("masks",)}),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    for module in (backbones, recognition):
        assert coverage(module, TRIALS) == set(), module.__name__
