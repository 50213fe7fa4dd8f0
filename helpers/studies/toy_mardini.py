"""How good the finished toy-mardini is: the rows of its card, over batches of its held-out clips; rows that no test sets a bar to, on the first of them."""

from functools import cache

from ..methods import masked_planning as mp
from ..models import zoo
from ..recipes import toy_mardini as recipe
from .runner import Study

__all__ = ["STUDY"]

BATCH, FEW = 8, 48
WHOLE = "interpolation", "interpolation, cross-fade", "image-to-video"  # on all the card's clips; the other rows on FEW


def cases() -> list[dict]:
    """answer: a row of the card; first: number of the first of BATCH held-out clips."""
    return [dict(answer=name, first=first) for name in recipe.ANSWERS for first in range(0, recipe.HELD_OUT if name in WHOLE else FEW, BATCH)]


@cache
def pipeline() -> mp.MarDiniPipeline:
    return mp.MarDiniPipeline.from_pretrained(zoo.folder(recipe.NAME), local_files_only=True)


def measure(case: dict) -> dict[str, float]:
    """`recipe.quality_of` the batch: error (px), masked frames, and percent of the clips kept, plausible and set out right."""
    asked = recipe.ANSWERS[case["answer"]]
    return recipe.quality_of(recipe.answer(pipeline(), *asked, case["first"], BATCH), asked[0], case["first"])


ONE_CLIP = 100 / BATCH + 0.1  # what is right or wrong in a clip may turn over where it is a close thing
STUDY = Study(
    cases=cases, measure=measure, tolerance={"error": (0.05, 0.02), "masked": 0} | dict.fromkeys(("kept", "plausible", "direction"), ONE_CLIP),
    models=(recipe.NAME,), sample_seconds=8,
)  # fmt: skip
