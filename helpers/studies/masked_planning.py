"""Page 03: one pair of planner and generator, clip by clip: every task, whose plan it is given, how many steps, and the simple ways beside it.

The clips are the first `CLIPS` of the card's held-out ones.
"""

from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from ..measures import filling
from ..methods import masked_planning as mp
from ..models import zoo
from ..recipes import toy_mardini as recipe
from ..toyworld import analysers
from ..toyworld.rebounds import SPEED_RANGE, Rebounds, reflect
from .runner import Study, has_columns, known

__all__ = ["BOTH", "COUNTS", "DRAWS", "SOME", "STEPS", "STUDY", "TASKS", "column", "guidance", "ways"]

CLIPS, SOME, BATCH = 100, 50, 10  # toy clips, and those of the rows that decide nothing; how many are made at a time, always the same
STEPS, COUNTS, DRAWS = 10, (1, 3, 10, 50), range(100, 103)  # denoising steps where nothing else is said, the others, further draws of noise
WINDOW = 7  # frames of a window that training never had
PLANS = "own plan", "another clip's plan", "no plan"
PICTURES = {"nearest": filling.nearest, "cross-fade": filling.cross_fade, "optical flow": filling.along_flow}  # ways that need no training
BOTH = "interpolation", "image-to-video"
MEAN_SPEED = sum(SPEED_RANGE) / 2
TASKS = (*recipe.TASKS, "random masks", f"window of {WINDOW}")


def known_frames(task: str, first: int, count: int) -> Tensor:
    """The references (count, T) bool of clips in a task."""
    return mp.references("interpolation", WINDOW).expand(count, -1) if task == TASKS[-1] else recipe.masks_of(task, first, count)


def guidance(task: str) -> float:
    """The recipe's: where one frame is known, and none elsewhere."""
    return recipe.GUIDANCE.get(int(recipe.TASKS[task].sum()), 1.0) if task in recipe.TASKS else 1.0


def ways(task: str) -> tuple[str, ...]:
    """What fills in toy clips without the pair: a single known frame can only be held."""
    one = task in recipe.TASKS and int(recipe.TASKS[task].sum()) == 1
    return ("nearest", "rules known") if one else (*PICTURES, "straight line")


def cases() -> list[dict]:
    """task; way: a plan of `PLANS`, or what fills in without the pair; steps, scale of the guidance and seed of the noise, 0 without the pair;
    number of the clip."""
    found = []

    def add(task, way, clips, steps=STEPS, scale=None, seed=recipe.SEED):
        asked = (steps, guidance(task) if scale is None else scale, seed) if way in PLANS else (0, 0.0, 0)
        found.extend(dict(task=task, way=way, steps=asked[0], scale=asked[1], seed=asked[2], clip=clip) for clip in range(clips))

    for task in TASKS:
        for way in ("own plan", *ways(task)):
            add(task, way, CLIPS)
    for task in BOTH:
        for way in PLANS[1:]:
            add(task, way, CLIPS)
    for seed in DRAWS:
        add("image-to-video", "own plan", SOME, seed=seed)
    for seed in (recipe.SEED, *DRAWS):
        add("image-to-video", "own plan", SOME, scale=1.0, seed=seed)
    for steps in sorted({*COUNTS} - {STEPS}):
        for task in BOTH:
            add(task, "own plan", CLIPS, steps=steps)
    return found


@cache
def pair() -> mp.MarDiniPipeline:
    return mp.MarDiniPipeline.from_pretrained(zoo.folder(recipe.NAME), local_files_only=True)


@torch.no_grad()
def made_by_pair(case: dict, video: Tensor, others: Tensor, is_ref: Tensor, first: int) -> Tensor:
    """Clips `video` (N, T, 3, S, S) in [0, 1] with their missing frames generated, by their own plans, those of the clips `others`, or the stand-in."""
    plan = None
    if case["way"] == "another clip's plan":
        plan = pair().make_plan(2 * others - 1, is_ref)
    elif case["way"] == "no plan":
        plan = pair().generator.without_plan(*video.shape[:2])
    return recipe.filled(pair(), video, is_ref, plan, case["steps"], case["scale"], case["seed"], first=first).clamp(0, 1)


def rules_known(clips: Rebounds, is_ref: Tensor) -> Tensor:
    """Where whoever reads place and heading in the one known frame without error, and knows the walls, puts the objects (N, T, 2) at the mean speed."""
    known, low = int(is_ref[0].nonzero()[0, 0]), (1.15 * clips.radius)[:, None, None]
    ahead = MEAN_SPEED * clips.size / 32 * (torch.arange(is_ref.shape[1]) - known)[:, None]
    return reflect(clips.position[:, known, None] + clips.heading[:, known, None] * ahead, low, clips.size - low)[0]


def measure(case: dict) -> dict[str, float]:
    """Of missing frames: off (px), mean distance of the object's centre from the true one, half a picture where nothing is found; off_other: from
    that of the clip before; kept, like_other: 1 where shape and colour are the clip's own, those of the clip before, and the object is in every frame;
    step (px a frame): median length of the object's steps. Ways that paint no picture leave all but the first empty."""
    number = case["clip"]
    rows = measured_together(*((name, value) for name, value in case.items() if name != "clip"), first=number - number % BATCH)
    return dict.fromkeys(STUDY.tolerance, float("nan")) | rows[number % BATCH]


@lru_cache(maxsize=1)
def measured_together(*asked: tuple, first: int) -> list[dict[str, float]]:
    """The rows of a case and of its neighbours: `BATCH` clips from number `first` on, the same company for a clip whichever case of theirs comes first."""
    case = dict(asked)
    is_ref, way, numbers = known_frames(case["task"], first, BATCH), case["way"], range(first, first + BATCH)
    own, other = (recipe.sample(recipe.HELD_OUT_SEED, some) for some in (numbers, [(i - 1) % CLIPS for i in numbers]))
    video, others = (clips.render().video[:, : is_ref.shape[1]] for clips in (own, other))
    true, missing = analysers.analyse_clips(video).position, ~is_ref
    if way in ("straight line", "rules known"):
        lines = [filling.straight_line(*pair).clamp(0, recipe.SIZE) for pair in zip(true, is_ref, strict=True)]
        places = rules_known(own, is_ref) if way == "rules known" else torch.stack(lines)
        return [dict(off=float((place - there).norm(dim=1)[where].mean())) for place, there, where in zip(places, true, missing, strict=True)]
    if way in PICTURES:
        made = torch.stack([PICTURES[way](clip, known) for clip, known in zip(video, is_ref, strict=True)])
    else:
        made = made_by_pair(case, video, others, is_ref, first)
    read, there = analysers.analyse_clips(made.clamp(0, 1)), analysers.analyse_clips(others).position
    off, off_other = ((read.position - wanted).norm(dim=2).nan_to_num(recipe.SIZE / 2) for wanted in (true, there))
    steps = (read.position[:, 1:] - read.position[:, :-1]).norm(dim=2).nan_to_num(0).median(1).values
    return [
        dict(off=float(off[i][missing[i]].mean()), off_other=float(off_other[i][missing[i]].mean()), kept=int(recipe.kept(read, own)[i]),
             like_other=int(recipe.kept(read, other)[i]), step=float(steps[i]))
        for i in range(BATCH)
    ]  # fmt: skip


STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={"off": (0.05, 0.01), "off_other": (0.05, 0.01), "kept": 0, "like_other": 0, "step": (0.05, 0.01)},
    models=(recipe.NAME,),
    reaches=(PICTURES,),
    sample_seconds=0.5,  # of recorded time; a case that is measured alone again takes its neighbours along
)


def column(table, task: str, way: str = "own plan", result: str = "off", *, clips: int | None = None, **wanted) -> np.ndarray:
    """A result of the table, one number a clip in the order of their numbers: (clips,).

    wanted: steps, scale, seed; for the pair `STEPS`, the task's own guidance and the recipe's seed by default. clips: only the first so many. Raises
    ValueError where a clip has no row or more than one.
    """
    has_columns(table, ("task", "way", "steps", "scale", "seed", "clip", result))
    known("task", task, table.task)
    known("way", way, table.way)
    rows = table[(table.task == task) & (table.way == way)]
    if way in PLANS:
        rows = rows[(rows.steps == wanted.get("steps", STEPS)) & (rows.seed == wanted.get("seed", recipe.SEED))]
        rows = rows[rows.scale == wanted.get("scale", guidance(task))]
    rows = rows.sort_values("clip")
    if clips is not None:
        rows = rows[rows["clip"] < clips]
    if rows.empty or list(rows["clip"]) != list(range(len(rows))) or (clips is not None and len(rows) != clips) or set(wanted) - {"steps", "scale", "seed"}:
        raise ValueError(f"task={task!r}, way={way!r}, {wanted} must be one row for each clip from 0 on, got {len(rows)} rows")
    return rows[result].to_numpy(float)
