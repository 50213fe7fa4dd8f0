"""Page 03: frames between the two ends of moving views of photographs, by toy-mardini-wide and by what needs no training, clip by clip."""

from functools import cache, lru_cache

import torch
from torch import Tensor

from ..datasets import photo_crops
from ..measures import filling, metrics
from ..methods import masked_planning as mp
from ..models import zoo
from ..recipes import toy_mardini as recipe
from .runner import Study, known

__all__ = ["MODEL", "PLANS", "STEPS", "STUDY", "VIEWS", "views"]

MODEL, SEED, BATCH, STEPS, SOME = "toy-mardini-wide", 41, 10, 10, 50  # seed of the crops; clips made at a time, always the same; denoising steps; fewer clips
PLANS = "own plan", "another clip's plan", "no plan"
PICTURES = {"nearest": filling.nearest, "cross-fade": filling.cross_fade, "optical flow": filling.along_flow}
VIEWS = {  # photographs, the camera's moves, a pan's speed, clips
    "fast pan": (photo_crops.KEPT_OUT, "pan", "fast", 100),
    "slow pan": (photo_crops.KEPT_OUT, "pan", "slow", SOME),
    "zoom": (photo_crops.KEPT_OUT, ("zoom in", "zoom out"), "slow", SOME),
    "shake": (photo_crops.KEPT_OUT, "shake", "slow", SOME),
    "fast pan, trained on": (photo_crops.TRAINED, "pan", "fast", SOME),
}
ENDS = recipe.TASKS["interpolation"]


def views(name: str, clips) -> photo_crops.Crops:
    """Clips (N, 9, 3, 32, 32) of one of `VIEWS`."""
    names, moves, speed, _ = VIEWS[known("name", name, VIEWS)]
    return photo_crops.crops(SEED, clips, size=recipe.SIZE, frames=recipe.FRAMES, names=names, moves=moves, speeds=speed)


def cases() -> list[dict]:
    """view; way: a plan of `PLANS`, what fills in without the pair, or the autoencoder, which is shown the true frames; steps, 0 without the pair; number of
    the clip."""
    found = []
    for view, (*_, clips) in VIEWS.items():
        asked = {("own plan", STEPS): clips, ("own plan", 1): clips} | {(way, 0): clips for way in (*PICTURES, "autoencoder")}
        if view == "fast pan":
            asked |= {(way, STEPS): SOME for way in PLANS[1:]}
        found.extend(dict(view=view, way=way, steps=steps, clip=clip) for (way, steps), count in asked.items() for clip in range(count))
    return found


@cache
def pair() -> mp.MarDiniPipeline:
    return mp.MarDiniPipeline.from_pretrained(zoo.folder(MODEL), local_files_only=True)


def measure(case: dict) -> dict[str, float]:
    """psnr (dB) and ssim of the seven frames between the ends."""
    number = case["clip"]
    return measured_together(case["view"], case["way"], case["steps"], number - number % BATCH)[number % BATCH]


@lru_cache(maxsize=1)
def measured_together(view: str, way: str, steps: int, first: int) -> list[dict[str, float]]:
    """The rows of `BATCH` clips from number `first` on: the same company for a clip whichever of them is asked for."""
    numbers = range(first, first + BATCH)
    video = views(view, numbers).video
    made = torch.stack([PICTURES[way](clip, ENDS) for clip in video]) if way in PICTURES else made_by_pair(view, way, steps, first, video)
    between = zip(made[:, ~ENDS].clamp(0, 1), video[:, ~ENDS], strict=True)
    return [dict(psnr=metrics.psnr(*both), ssim=metrics.ssim(*both)) for both in between]


@torch.no_grad()
def made_by_pair(view: str, way: str, steps: int, first: int, video: Tensor) -> Tensor:
    """Clips (N, 9, 3, 32, 32), filled in by their own plans, those of the clips before, or the stand-in; or once through the autoencoder."""
    plan, known = None, ENDS.expand(len(video), -1)
    if way == "autoencoder":
        return pair().decode(pair().encode(2 * video - 1)) / 2 + 0.5
    if way == "another clip's plan":
        plan = pair().make_plan(2 * views(view, [(first + i - 1) % SOME for i in range(len(video))]).video - 1, known)
    elif way == "no plan":
        plan = pair().generator.without_plan(*video.shape[:2])
    return recipe.filled(pair(), video, known, plan, steps, 1.0, first=first)


STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={"psnr": 0.1, "ssim": 0.005},
    models=(MODEL,),
    reaches=(PICTURES,),
    sample_seconds=0.5,  # of recorded time; a case that is measured alone again takes its neighbours along
)
