"""How well toy-vit tells the toy world's classes apart: rows of its card, measured again by samples.

A row is a block of 50 of the card's 2000 held-out pictures, 1600 photos and 400 sketches: how many are right, and the mean margin of the class (the
probability of the true class less that of the likeliest other one). Summed over the blocks, the counts are the card's first table. Linear probes and
milliseconds are not among them.
"""

from functools import lru_cache

import torch
from transformers import ViTForImageClassification

from ..models import zoo
from ..recipes import toy_vit as recipe
from ..toyworld import TEXTURES
from ..toyworld import creatures as world
from .runner import Study

__all__ = ["STUDY"]

BLOCK, FIRST_SKETCH = 50, 10**7  # of the seed's endless list: sketches stand apart
PHOTOS = len(TEXTURES) * len(world.CATEGORIES)  # classes of photos; those of sketches follow
# of fifty pictures, one may lie so near the threshold that another machine's rounding carries it over
TOLERANCE = {"right": 1, "category": 1, "texture": 1, "texture_judged": 1, "margin": 0.002}


def cases() -> list[dict]:
    sketches = round(recipe.SKETCHES * recipe.HELD_OUT)
    return [{"style": style, "first": first} for style, count in (("photo", recipe.HELD_OUT - sketches), ("sketch", sketches))
            for first in range(0, count, BLOCK)]  # fmt: skip


@lru_cache(maxsize=1)
def model() -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(zoo.folder("toy-vit"), dtype=torch.float32, local_files_only=True).eval()


@torch.no_grad()
def measure(case: dict) -> dict:
    photo = case["style"] == "photo"
    first = case["first"] + (0 if photo else FIRST_SKETCH)
    drawn = world.creatures(recipe.HELD_OUT_SEED, range(first, first + BLOCK), size=recipe.SIZE, styles=(case["style"],))
    own = drawn.category * len(TEXTURES) + drawn.texture if photo else PHOTOS + drawn.category
    images = (drawn.image * 255).round().to(torch.uint8) / 255
    shares = model()(recipe.pixel_values(images)).logits.softmax(1)
    said = shares.argmax(1)
    category = torch.where(said < PHOTOS, said // len(TEXTURES), said - PHOTOS)
    both = (said < PHOTOS) & photo
    margin = shares.gather(1, own[:, None])[:, 0] - shares.scatter(1, own[:, None], -1.0).amax(1)
    return {"right": int((said == own).sum()), "category": int((category == drawn.category).sum()),
            "texture": int((said % len(TEXTURES) == drawn.texture)[both].sum()), "texture_judged": int(both.sum()),
            "margin": margin.mean().item()}  # fmt: skip


STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, models=("toy-vit",), sample_seconds=6)
