"""Odd and wrong inputs for the small models."""

import pytest

from helpers.models import small
from tests.inputs.harness import Trial, check, choice, coverage, integer, optional, texts


def called(name, num_calls, seed):
    return small.SmallVideoPipeline(name, num_calls).call(seed, num_inference_steps=1)


TRIALS = [
    Trial(small.video_transformer, name=choice("Wan"), calls=integer(3, low=1), after=lambda net: net.times, slow=0.3),
    Trial(lambda name, calls: small.SmallVideoTransformer(name).sample(calls).detach(), name=choice("CogVideoX"), calls=optional(integer(2, low=1, high=12)),
          slow=0.3, public="SmallVideoTransformer"),
    Trial(small.video_pipeline, name=choice("Latte"), num_calls=integer(3, low=1), after=lambda made: made.latent, slow=0.3),
    Trial(called, name=choice("Wan"), num_calls=integer(2, low=1), seed=integer(0, wrong=[2**63, -(2**63) - 1]), slow=0.3, public="SmallVideoPipeline"),
    Trial(small.image_pipeline, seed=integer(0, wrong=[2**63, -(2**63) - 1]), after=lambda pipe: pipe.unet.conv_in.weight, slow=0.3),
    Trial(small.pixel_pipeline, seed=integer(0, wrong=[2**63, -(2**63) - 1]), after=lambda pipe: pipe.unet.conv_in.weight, slow=0.3),
    Trial(small.clip_tokenizer, words=texts(["cat", "dog"], wrong=[["Cat"], ["a b"], [""], {"cat"}]), length=integer(9, low=3),
          after=lambda made: made("cat dog").input_ids),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(small, TRIALS) == set()
