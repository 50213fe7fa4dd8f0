"""How well the finished toy-mardini-wide fills in between two frames of photographs that nothing was trained on, and what needs no training beside it."""

from functools import cache

from ..methods import masked_planning as mp
from ..models import zoo
from ..recipes import toy_mardini_wide as recipe
from .runner import Study

__all__ = ["STUDY"]


def cases() -> list[dict]:
    """move: of the camera; clip: its number among the held-out clips of the move."""
    return [dict(move=move, clip=clip) for move, count in recipe.HELD_OUT.items() for clip in range(count)]


@cache
def pipeline() -> mp.MarDiniPipeline:
    return mp.MarDiniPipeline.from_pretrained(zoo.folder(recipe.NAME), local_files_only=True)


def measure(case: dict) -> dict[str, float]:
    """`recipe.quality_of` a clip: PSNR (dB) and SSIM of the frames between, for each way of filling them in."""
    return recipe.quality_of(pipeline(), case["move"], case["clip"])


STUDY = Study(
    cases=cases, measure=measure, models=(recipe.NAME,), sample_seconds=8,
    tolerance={f"{score}, {way}": slack for score, slack in (("PSNR", 0.05), ("SSIM", 0.005)) for way in recipe.WAYS},
)  # fmt: skip
