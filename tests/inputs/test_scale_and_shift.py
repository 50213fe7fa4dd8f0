"""Odd and wrong inputs for scales and shifts."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.methods import scale_and_shift as ssf
from tests.inputs.harness import Trial, array, check, choice, coverage, generator, instance, integer, optional, real, text

RNG = np.random.default_rng(0)
TOKENS, WEIGHT = RNG.normal(size=(2, 5, 3)), RNG.normal(size=(3, 4))
GAIN, OFFSET, BIAS, MORE = RNG.normal(size=(4, 3))
NUMBERS = torch.tensor([[0.5, -1.0]])
NOTHING = ("nothing in it",)  # no tokens in, none out


def channels(value):
    return array(value, either=(float(value[0]),))


def fresh():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 4)).eval()
    return made


def numbers(model, **options):
    """What a model with pairs gives after the pairs were moved, live and merged."""
    pairs = ssf.add_scale_shift(model, **options)
    with torch.no_grad():
        for parameter in pairs.parameters():
            parameter.mul_(1.5).add_(0.25)
    return model(NUMBERS).detach(), pairs.merge()(NUMBERS).detach()


def places(**options):
    return [point._asdict() for point in ssf.insertion_points(**options)]


def pair(**options):
    return ssf.Pair(**options)(torch.ones(2, 3, 4)).detach()


def grouped(pairs, weight_decay):
    return [(group["params"], group["weight_decay"]) for group in ssf.parameter_groups(pairs, weight_decay=weight_decay)]


def strengthened(t, layers):
    network = fresh()
    pairs = ssf.add_scale_shift(network)
    pairs.set_strength(t, layers=layers)
    return [one.strength for _, one in pairs.named_pairs()]


def merged(model):
    return ssf.add_scale_shift(fresh()).merge(model)(NUMBERS).detach()


WHERE = text("mlp", wrong=("", "mpl", [], ["mlp", ""], {"mlp": 1}, b"mlp", 1.5), either=(("mlp", "norm"), {"all"}, np.array(["0"]), "0", "1"))
HEAD = optional(text("2", wrong=("", "classifier", [], ["2", "5"]), either=("auto", ("1",))))
OPTIONS = dict(what=choice("both", either=("scale", "shift")), init=choice("identity", either=("official",)))
TRIALS = [
    Trial(ssf.scale_and_shift, x=array(TOKENS, free=(0, 1), grow=(0, 1), finite=False, broadcast=True, skip=NOTHING), scale=channels(GAIN),
          shift=channels(OFFSET), channel_dim=integer(-1, low=-3, high=2, wrong=(0, 1), either=("guess",)), follows="x"),
    Trial(ssf.merge_weights, weight=optional(array(WEIGHT, free=(1,), grow=(1,), broadcast=True)), bias=optional(channels(BIAS)), scale=channels(GAIN),
          shift=channels(OFFSET), follows="weight"),
    Trial(ssf.unmerge_weights, weight=optional(array(WEIGHT, free=(1,), grow=(1,), broadcast=True)), bias=optional(channels(BIAS)),
          scale=array(GAIN, wrong=([0.0, 1.0, 2.0],), either=(1.0,)), shift=channels(OFFSET), follows="weight"),
    Trial(ssf.compose, scale_1=channels(GAIN), shift_1=channels(OFFSET), scale_2=channels(BIAS), shift_2=channels(MORE), follows="scale_1"),
    Trial(ssf.interpolate, scale=channels(GAIN), shift=channels(OFFSET), t=real(0.5), follows="scale"),
    Trial(ssf.vit_scalars, width=integer(8, low=1), depth=integer(2, low=1), mlp_ratio=integer(4, low=1)),
    Trial(places, public="insertion_points", model=instance(fresh, wrong=(nn.ReLU(), nn.Sequential())), where=WHERE, layout=choice("paper"), head=HEAD),
    Trial(numbers, public="add_scale_shift", slow=0.5, model=instance(fresh, wrong=(nn.ReLU(),)), where=WHERE,
          style=choice("hooks", either=("parametrizations",)), layout=choice("paper", either=("official",)), head=HEAD, generator=generator(), **OPTIONS),
    Trial(pair, public="Pair", channels=integer(3, low=1, wrong=(4,)), channel_dim=integer(1, wrong=(0, 2), either=(-2,)), generator=generator(), **OPTIONS,
          names={"channels": ("x",), "channel_dim": ("x",)}),
    Trial(grouped, public="parameter_groups", pairs=instance(lambda: ssf.add_scale_shift(fresh(), init="official", generator=torch.Generator().manual_seed(0))),
          weight_decay=real(0.05, low=0)),
    Trial(strengthened, public="ScaleShift.set_strength", t=real(0.5), layers=WHERE),
    Trial(merged, public="ScaleShift.merge", model=optional(instance(fresh, wrong=(nn.ReLU(), nn.Linear(2, 3))))),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(ssf, TRIALS) == set()
