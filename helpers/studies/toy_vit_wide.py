"""What toy-vit-wide's features tell of tasks of the bench, beside those of an untrained twin and bare pixels: the linear probes of its card.

A case is a task and a seed, which draws the pictures and the twin's weights; the three numbers are percent of the test pictures right.
"""

from functools import cache

import torch
from transformers import ViTForImageClassification

from ..models import zoo
from ..recipes import toy_vit_wide as recipe
from .runner import Study

__all__ = ["STUDY"]


def cases() -> list[dict]:
    return [{"task": name, "seed": seed} for name in recipe.PROBES for seed in range(recipe.PROBE_SEEDS)]


@cache
def model() -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(zoo.folder(recipe.NAME), dtype=torch.float32, local_files_only=True).eval()


def measure(case: dict) -> dict[str, float]:
    return recipe.probe(model(), case["task"], case["seed"])


# another machine's rounding moves few test pictures, but may choose a neighbouring strength of the penalty
STUDY = Study(cases=cases, measure=measure, models=(recipe.NAME,), tolerance={"trained": 2.5, "untrained": 2.5, "pixels": 2.5}, sample_seconds=10)
