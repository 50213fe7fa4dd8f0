"""Odd and wrong inputs for every public function of motion_regularization."""

import numpy as np
import pytest

from helpers.methods import motion_regularization as moreg
from helpers.models import small
from tests.inputs.harness import Trial, array, check, choice, coverage, fixed, flag, instance, integer, optional, real

RNG = np.random.default_rng(0)
FRAMES = RNG.normal(size=(2, 4, 3, 5)).astype(np.float32)
PROBE = FRAMES.reshape(2, 12, 5)
LAYOUT = moreg.Layout(4, 3)
LATTE = small.video_transformer("Latte").model
STRIDES = fixed([1, 2])


def a_factor(probe, call, rate, **options):
    regulariser = moreg.MotionRegulariser(LAYOUT, **options)
    return regulariser.factor(probe, call, rate), regulariser.trace


TRIALS = [
    Trial(moreg.motion_score, frames=array(FRAMES, free=(0, 1, 2, 3), grow=(0, 1, 2, 3)), strides=array(np.array([1, 2]), low=1, high=3, free=(0,), grow=(0,)),
          score=choice("ratio"), follows="frames"),
    Trial(moreg.motion_score, frames=array(FRAMES, free=(0, 1, 2, 3), grow=(0, 1, 2, 3)), strides=STRIDES, score=choice("correlation"), trial_id="correlation"),
    Trial(moreg.sharpen, mu=array(np.array([0.1, 0.4, 0.9], np.float32), low=0, high=1, free=(0,), grow=(0,), broadcast=True),
          pivot=real(0.5, low=0, above=True),
          power=real(4, low=0, above=True), scale=real(2, low=0, above=True), follows="mu"),
    Trial(moreg.split_frames, probe=array(PROBE, free=(0, 2), grow=(0, 2), finite=False), layout=instance(lambda: LAYOUT), follows="probe"),
    Trial(moreg.layout_of, transformer=instance(lambda: LATTE), num_frames=integer(3, low=2), height=integer(4, low=1), width=integer(6, low=1),
          probe=choice("block", wrong=["proj_out", "transformer_blocks", "transformer_blocks.7"])),
    Trial(lambda frames, tokens, order, before, behind: moreg.Layout(frames, tokens, order, before, behind), frames=integer(4, low=2), tokens=integer(3, low=1),
          order=choice("joint"), before=integer(2, low=0), behind=integer(1, low=0), names={"behind": ("after",)}, trial_id="Layout"),
    Trial(moreg.middle_window, num_calls=integer(30, low=1), share=real(0.8, low=0, high=1, above=True)),
    Trial(a_factor, probe=array(PROBE, free=(0, 2), grow=(0, 2)), call=integer(5, low=1), rate=integer(2, low=1), window=optional(array(np.array([2, 9]))),
          strides=array(np.array([1, 2]), low=1, high=3, free=(0,), grow=(0,)), pivot=real(0.5, low=0, above=True), power=real(4, low=0, above=True),
          scale=real(2, low=0, above=True), mograd_mul=optional(real(10, low=0)), signed_gradient=optional(flag(False)),
          form=choice("code"), score=choice("ratio"),
          mean=flag(False), given=integer(0, low=0, high=2), start_score=optional(real(1.5, low=0)), public="MotionRegulariser"),
    Trial(a_factor, probe=array(PROBE, free=(0, 2), grow=(0, 2)), call=integer(5, low=1), rate=integer(2, low=1), form=choice("paper"), mean=flag(True),
          start_score=optional(real(1.5, low=0)), public="MotionRegulariser", trial_id="the paper's form"),
    Trial(lambda layout: moreg.MotionRegulariser(layout).layout, layout=instance(lambda: LAYOUT), public="MotionRegulariser", trial_id="the layout"),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(moreg, TRIALS) == set()
