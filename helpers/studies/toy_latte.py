"""How well toy-latte draws what a prompt says, and how faithful its autoencoder is: rows of its card, measured again by samples.

A clip is a row: the card's first 60 held-out prompts of 300, first 20 of 90 of pairs never trained, first 20 of 60 of two objects, each with the
card's own noise (prompt i has seed i). Its columns say whether the clip shows what the prompt says (1, 0, NaN where the prompt does not say it), as
`analysers.judge` finds. The autoencoder's rows are blocks of 16 clips, all 64 of the card: the mean of their squared errors gives the card's decibels.
The card's seconds are not among them.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from diffusers import LattePipeline
from torch import Tensor

from ..models import zoo
from ..recipes import toy_latte as recipe
from ..toyworld import analysers
from .runner import Study

__all__ = ["STUDY"]

SAYS = ("colour", "shape", "direction", "speed", "motion", "all")
READ = (*SAYS, "found", "colour_confidence", "speed_px", "growth")
BLOCK, BLOCKS = 16, 4
# Right and wrong have a threshold, over which another machine's rounding might carry a clip. It would have to lie within about 1e-6 of it: by so much
# did kernels for AVX-512 and for AVX2 differ in what the thresholds are laid on, in the nine clips of both models that were compared.
TOLERANCE = dict.fromkeys(SAYS, 0) | {"found": 0.13, "colour_confidence": 0.02, "speed_px": 0.02, "growth": 0.005}


def prompts() -> dict[str, list[str]]:
    """The card's prompts by column, as many of each as are measured."""
    return {"held-out prompts": recipe.held_out_prompts(300)[:60], "pairs never trained": recipe.unseen_pairs(90)[:20],
            "two objects, held out": recipe.held_out_prompts(60, objects=2)[:20]}  # fmt: skip


def cases() -> list[dict]:
    clips = [{"kind": kind, "prompt": prompt, "seed": seed} for kind, some in prompts().items() for seed, prompt in enumerate(some)]
    return clips + [{"kind": "autoencoder", "prompt": "", "seed": block} for block in range(BLOCKS)]


@lru_cache(maxsize=1)
def pipeline() -> LattePipeline:
    return zoo.load("toy-latte")


def read(make: Callable[[str, int], Tensor], prompt: str, seed: int) -> dict:
    """What a clip (T, 3, H, W) of `make(prompt, seed)` shows, and whether the prompt says it. Speed in px a frame, growth as a share a frame."""
    clip = make(prompt, seed)[None]
    verdict, seen = analysers.judge(clip, [prompt]), analysers.analyse_clips(clip)
    return {name: getattr(verdict, name).item() for name in SAYS} | {
        "found": seen.found.item(), "colour_confidence": seen.colour_confidence.item(), "speed_px": seen.velocity.norm().item(),
        "growth": seen.growth.item(),
    }  # fmt: skip


@torch.no_grad()
def squared_error(block: int) -> float:
    """Mean squared error of the autoencoder on one block of held-out clips, pixels in [0, 1]."""
    vae, frames = pipeline().vae, recipe.sample(recipe.HELD_OUT_SEED, range(BLOCK * block, BLOCK * (block + 1))).render().video.flatten(0, 1)
    out = vae.decode(vae.encode(frames * 2 - 1).latent_dist.mean).sample
    return (frames - (out / 2 + 0.5).clamp(0, 1)).square().mean().item()


def measure(case: dict) -> dict:
    if case["kind"] == "autoencoder":
        return dict.fromkeys(READ, float("nan")) | {"squared_error": squared_error(case["seed"])}
    call = zoo.entry("toy-latte").call
    return read(lambda prompt, seed: zoo.clip(pipeline(), prompt, seed, **call), case["prompt"], case["seed"]) | {"squared_error": float("nan")}


STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE | {"squared_error": (0.0, 0.01)}, models=("toy-latte",), sample_seconds=7)
