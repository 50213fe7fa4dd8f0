"""How well toy-judge reads renders that it never saw, as they are and passed through toy-sd's autoencoder: rows of its card, measured again by samples.

A row is a block of 50 of the card's 1000 held-out pictures: how many are read right, and the mean margins (the probability of the true answer less
that of the likeliest other one). Summed over the blocks, the counts are the card's columns of photos and sketches together. The card's columns of
reconstructed pictures are older than toy-sd's autoencoder as it is shipped: through this one, textures are read 1.2 points better. The categories'
shares of right facings, the judges alone and the seconds are not among the rows.
"""

from functools import lru_cache

import torch
from diffusers import AutoencoderKL

from ..models import judges, zoo
from ..recipes import toy_judge as recipe
from ..toyworld import creatures as world
from .runner import Study

__all__ = ["STUDY"]

BLOCK = 50
COUNTS = ("category", "facing", "texture", "colour", "all")
# of fifty pictures, one may lie so near the threshold that another machine's rounding carries it over
TOLERANCE = {"facing_judged": 0} | dict.fromkeys(COUNTS, 1) | {f"{name}_margin": 0.002 for name in judges.CLASSES} | {"overlap": 0.002}


def cases() -> list[dict]:
    return [{"view": view, "first": first} for view in ("clean", "reconstructed") for first in range(0, recipe.HELD_OUT, BLOCK)]


@lru_cache(maxsize=1)
def pair() -> judges.Judges:
    return judges.load()


@lru_cache(maxsize=1)
def autoencoder() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(zoo.folder("toy-sd") / "vae", torch_dtype=torch.float32).eval()


def measure(case: dict) -> dict:
    drawn = world.creatures(recipe.HELD_OUT_SEED, range(case["first"], case["first"] + BLOCK), size=judges.SIZE)
    images = recipe.to_bytes(drawn.image)
    if case["view"] == "reconstructed":
        images = recipe.reconstruct(autoencoder(), images)
    reading = pair().read(images / 255)
    said = {name: getattr(drawn, name) for name in (*recipe.LABELS, "mask")}
    found = recipe.measure(reading, said, torch.ones(BLOCK, dtype=torch.bool), pair().unjudged_facings)
    out = {"facing_judged": found["facing"][1]} | {name: round(found[name][0] / 100 * found[name][1]) for name in COUNTS}
    for name in judges.CLASSES:
        shares, own = getattr(reading, name), said[name][:, None]
        out[f"{name}_margin"] = (shares.gather(1, own)[:, 0] - shares.scatter(1, own, -1.0).amax(1)).mean().item()
    return out | {"overlap": found["mask, intersection over union"][0] / 100}


STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, models=("toy-judge", "toy-sd"), sample_seconds=6)
