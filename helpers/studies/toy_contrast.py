"""What toy-contrast learned, beside an untrained transformer and bare pixels: rows of its card, measured again by samples.

A row of `keypoints` is all the card's pairs of one category: how many points are found within 0.1 and within 0.2 of the longer side of the box. Summed
over the categories, they are the card's PCK. A row of `category` is a block of 25 pictures: how many have the category of most of their 20 nearest.
These are nearest of 250 pictures and not of the card's 1700, and their share is lower than the card's.
"""

from functools import lru_cache

import torch
from torch import Tensor
from transformers import Dinov2Model

from ..measures import correspondence, matching
from ..methods.diffusion_features import pck
from ..models import zoo
from ..recipes import toy_contrast as recipe
from ..recipes import toy_sd
from ..toyworld import CATEGORIES
from .runner import Study

__all__ = ["STUDY"]

WAYS = (recipe.NAME, "untrained", "pixels")
BANK, BLOCK, BLOCKS = 250, 25, 5


def cases() -> list[dict]:
    keypoints = [{"way": way, "asked": "keypoints", "of": category} for way in WAYS for category in CATEGORIES]
    return keypoints + [{"way": way, "asked": "category", "of": f"block {block}"} for way in WAYS for block in range(BLOCKS)]


@lru_cache(maxsize=1)
def ways() -> dict:
    vit = Dinov2Model.from_pretrained(zoo.folder(recipe.NAME), local_files_only=True)
    with torch.random.fork_rng():
        return recipe.ways_of(vit)


@lru_cache(maxsize=1)
def drawn_bank() -> tuple[Tensor, Tensor]:
    """Training pictures (250, 3, 64, 64) and their categories."""
    drawn = toy_sd.sample(toy_sd.TRAIN_SEED, range(BANK))
    return drawn.image, drawn.category


@lru_cache(maxsize=len(WAYS))
def known(way: str) -> Tensor:
    """The training pictures, described."""
    return ways()[way][1](drawn_bank()[0])


def measure(case: dict) -> dict:
    maps, whole = ways()[case["way"]]
    if case["asked"] == "keypoints":
        pairs = correspondence.semantic_pairs(toy_sd.HELD_OUT_SEED, recipe.PAIRS, categories=(case["of"],))
        found = matching.results(matching.find(*matching.pair_maps(maps, pairs), pairs), pairs)
        within = {alpha: torch.cat([pck(one.predicted, one.truth, one.box, alpha=alpha) for one in found]) for alpha in (0.1, 0.2)}
        return {"asked_of": len(within[0.1]), "within_0.1": int(within[0.1].sum()), "within_0.2": int(within[0.2].sum()), "right": 0}
    block = int(case["of"].removeprefix("block "))
    fresh = toy_sd.sample(toy_sd.HELD_OUT_SEED, range(BLOCK * block, BLOCK * (block + 1)))
    near = recipe.category_accuracy(known(case["way"]), drawn_bank()[1], whole(fresh.image), fresh.category)
    return {"asked_of": BLOCK, "within_0.1": 0, "within_0.2": 0, "right": round(near / 100 * BLOCK)}


# a match is the best of 4096 places and a vote the most of nine counts: another machine's rounding may turn one that is nearly a tie
STUDY = Study(cases=cases, measure=measure, tolerance={"asked_of": 0, "within_0.1": 1, "within_0.2": 1, "right": 1}, models=(recipe.NAME,), sample_seconds=6)
