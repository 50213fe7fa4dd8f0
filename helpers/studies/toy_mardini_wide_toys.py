"""What the finished toy-mardini-wide still knows of the toy world: toy-mardini's rows for two tasks, over batches of the same held-out clips."""

from ..recipes import toy_mardini as toy
from ..recipes import toy_mardini_wide as recipe
from .runner import Study
from .toy_mardini import BATCH, ONE_CLIP
from .toy_mardini_wide import pipeline

__all__ = ["STUDY"]


def cases() -> list[dict]:
    """answer: the task; first: number of the first of BATCH held-out clips."""
    return [dict(answer=task, first=first) for task in recipe.TOY_ROWS for first in range(0, toy.HELD_OUT, BATCH)]


def measure(case: dict) -> dict[str, float]:
    """`toy_mardini.quality_of` the batch: error (px), masked frames, and percent of the clips kept, plausible and set out right."""
    return toy.quality_of(toy.answer(pipeline(), case["answer"], "own plan", case["first"], BATCH), case["answer"], case["first"])


STUDY = Study(
    cases=cases, measure=measure, tolerance={"error": (0.05, 0.02), "masked": 0} | dict.fromkeys(("kept", "plausible", "direction"), ONE_CLIP),
    models=(recipe.NAME,), sample_seconds=8,
)  # fmt: skip
