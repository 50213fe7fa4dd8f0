"""Odd and wrong inputs for the bench of caches; clips of two calls, which take a quarter of a second."""

import pytest
import torch

from helpers.measures import caches
from helpers.models import zoo
from tests.inputs.harness import Trial, array, check, choice, coverage, flag, instance, integer, optional, real, text, texts

BENCH = caches.Bench("toy-latte", zoo.load("toy-latte"), num_calls=4)
PROMPT = "a red ring moves up fast"
caches.calibrate(BENCH, [PROMPT])
RUN = caches.Run("uniform caching", 2, torch.zeros(8, 3, 32, 32), [1.0, 0.0], [True, False], 2, 1.0)
bench, prompt, seed = instance(lambda: BENCH), text(PROMPT, wrong=["", " "]), integer(0, low=0)
short = dict(after=lambda run: run.work, slow=0.1)


def entered(context):
    with context:
        return BENCH.steps


def a_bench(name, pipe, num_calls, guidance_scale):
    return caches.Bench(name, pipe, num_calls=num_calls, guidance_scale=guidance_scale).latent_shape


TRIALS = [
    Trial(a_bench, name=choice("toy-latte"), pipe=instance(lambda: BENCH.pipe), num_calls=integer(4, low=1), guidance_scale=real(3), slow=0.3, public="Bench"),
    Trial(caches.load, name=choice("toy-latte"), after=lambda made: made.name, slow=0.1),
    Trial(caches.fewer_steps, bench=bench, num_steps=integer(2, low=1, high=4), after=entered),
    Trial(caches.record, bench=bench, prompt=prompt, seed=seed, method=text("uncached"), knob=optional(real(1)), **short),
    Trial(caches.measure, bench=bench, method=instance(lambda: caches.METHODS["uniform caching"]), knob=integer(2, low=2, high=4, wrong=[4]),
          prompt=prompt, seed=seed, **short),
    Trial(caches.check_skipped, run=instance(lambda: RUN), after=lambda run: run.work),
    Trial(caches.calibrate, bench=bench, prompts=texts([PROMPT], wrong=[["", PROMPT], PROMPT]), seed=seed, after=lambda found: found.pivot, slow=0.1),
    Trial(caches.codebook, bench=bench, target_calls=real(3.0, low=1, high=4), motion=flag(True), expect=choice("hold"), slow=0.3),
    Trial(caches.methods_for, model=choice("toy-latte"), after=len),
    Trial(caches.diffusers_cache, bench=bench, config=instance(lambda: caches.diffusers.TaylorSeerCacheConfig()), after=entered),
    Trial(lambda text, seed: BENCH.denoise(text, seed), text=array(BENCH.encode(PROMPT), grow=(1,), free=(1,), tolerance=1e-3), seed=seed, slow=0.1,
          public="Bench"),
    Trial(lambda: type(caches.count_flops()).__name__, public="count_flops"),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(caches, TRIALS) == set()
