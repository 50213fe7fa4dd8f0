"""How well toy-sd draws what a prompt says, and how faithful its autoencoder is: rows of its card, measured again by samples.

A picture is a row: the card's first 40 held-out prompts of 450 and first 15 of 90 of pairs never trained, each with the card's own noise (prompt i has
seed i). Its columns are margins by toy-judge: the probability of what the prompt says less that of the likeliest other answer, so that a picture is
right where its margin is above 0; NaN where the prompt does not say it. The autoencoder's rows are blocks of 32 pictures, all 256 of the card: the
mean of their squared errors gives the card's decibels. The card's seconds are not among them.
"""

from functools import lru_cache

import torch
from diffusers import StableDiffusionPipeline

from ..models import judges, zoo
from ..recipes import toy_sd as recipe
from ..toyworld import CATEGORIES
from ..toyworld.creatures import parse_creature_caption
from .runner import Study

__all__ = ["STUDY"]

SAYS = ("category", "facing", "texture", "colour")
BLOCK, BLOCKS = 32, 8


def cases() -> list[dict]:
    prompts = {"held-out prompts": recipe.held_out_prompts(40), "pairs never trained": recipe.unseen_pairs(90)[:15]}
    pictures = [{"kind": kind, "prompt": prompt, "seed": seed} for kind, some in prompts.items() for seed, prompt in enumerate(some)]
    return pictures + [{"kind": "autoencoder", "prompt": "", "seed": block} for block in range(BLOCKS)]


@lru_cache(maxsize=1)
def pipeline() -> StableDiffusionPipeline:
    return zoo.load("toy-sd")


@lru_cache(maxsize=1)
def pair() -> judges.Judges:
    return judges.load()


def margin(shares: torch.Tensor, said: int) -> float:
    """The probability (of (C,) that sum to 1) of the answer `said`, less that of the likeliest other one: above 0 where it is the answer given."""
    others = shares.clone()
    others[said] = -1
    return (shares[said] - others.max()).item()


@torch.no_grad()
def squared_error(block: int) -> float:
    """Mean squared error of the autoencoder on one block of held-out pictures, pixels in [0, 1]."""
    vae, images = pipeline().vae, recipe.sample(recipe.HELD_OUT_SEED, range(BLOCK * block, BLOCK * (block + 1))).image
    out = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample
    return (images - (out / 2 + 0.5).clamp(0, 1)).square().mean().item()


def measure(case: dict) -> dict:
    margins = dict.fromkeys(SAYS, float("nan"))
    if case["kind"] == "autoencoder":
        return margins | {"squared_error": squared_error(case["seed"])}
    made = recipe.pictures(pipeline(), [case["prompt"]], case["seed"], **zoo.entry("toy-sd").call)
    reading, said = pair().read(made), parse_creature_caption(case["prompt"])
    hidden = CATEGORIES[said["category"]] in pair().unjudged_facings
    for name in SAYS:
        if said[name] is not None and not (name == "facing" and hidden):
            margins[name] = margin(getattr(reading, name)[0], said[name])
    return margins | {"squared_error": float("nan")}


STUDY = Study(
    cases=cases, measure=measure, tolerance=dict.fromkeys(SAYS, 0.05) | {"squared_error": (0.0, 0.01)}, models=("toy-sd", "toy-judge"), sample_seconds=8,
)  # fmt: skip
