"""How well toy-cogvideox draws what a prompt says: rows of its card, measured again by samples.

A clip is a row: the card's first 80 held-out prompts of 200 and first 30 of 60 of pairs never trained, each with the card's own noise (prompt i has
seed i). Columns as in the study `toy_latte`. The card's seconds are not among them.
"""

from functools import lru_cache

from ..measures import caches
from ..recipes import toy_latte as recipe
from . import toy_latte
from .runner import Study

__all__ = ["STUDY"]


def cases() -> list[dict]:
    prompts = {"held-out prompts": recipe.held_out_prompts(200)[:80], "pairs never trained": recipe.unseen_pairs(60)[:30]}
    return [{"kind": kind, "prompt": prompt, "seed": seed} for kind, some in prompts.items() for seed, prompt in enumerate(some)]


@lru_cache(maxsize=1)
def bench() -> caches.Bench:
    return caches.load("toy-cogvideox")


def measure(case: dict) -> dict:
    return toy_latte.read(bench().sample, case["prompt"], case["seed"])


STUDY = Study(cases=cases, measure=measure, tolerance=toy_latte.TOLERANCE, models=("toy-latte", "toy-cogvideox"), sample_seconds=6)
