"""What page 03 prints of toy-mardini-variants, the models that toy-mardini is compared with there, clip by clip. Their weights are not kept; their rows are."""

from functools import cache

import torch
from torch import Tensor

from ..methods import masked_planning as mp
from ..models import zoo
from ..recipes import toy_mardini as recipe
from ..recipes import toy_mardini_variants as variants
from ..toyworld import analysers
from .runner import Study

CLIPS, FEW, STEPS, DRAWS = 60, 20, 10, 3  # held-out clips, fewer where there are three models to average; denoising steps; draws of noise for the plain model
BOTH = "interpolation", "image-to-video"


def cases() -> list[dict]:
    """variant; task; plan: "own plan", "another clip's plan" or "no plan"; seed of the noise; number of the held-out clip."""
    asked = [(f"generator-{width}", "image-to-video", plan, recipe.SEED) for width in variants.WIDTHS for plan in ("own plan", "another clip's plan")]
    asked += [(f"alone-{width}", "image-to-video", "no plan", recipe.SEED) for width in variants.WIDTHS]
    asked += [("alone-80", "interpolation", "no plan", recipe.SEED)]
    asked += [(f"{kind}-{seed}", task, "own plan", recipe.SEED) for kind in ("curriculum", "hard") for seed in range(variants.SEEDS) for task in BOTH]
    asked += [("plain", "interpolation", "no plan", 100 + draw) for draw in range(DRAWS)]
    return [dict(variant=variant, task=task, plan=plan, seed=seed, clip=clip) for variant, task, plan, seed in asked
            for clip in range(FEW if variant.startswith(("curriculum", "hard")) else CLIPS)]  # fmt: skip


@cache
def pair() -> mp.MarDiniPipeline:
    return mp.MarDiniPipeline.from_pretrained(zoo.folder(recipe.NAME), local_files_only=True)


@cache
def variant(name: str) -> mp.MarDiniPipeline | mp.Generator:
    """The pipeline of a variant, with toy-mardini's planner where it has none of its own; the plain model, which reads no plan, as it is."""
    folder = zoo.MODELS / variants.NAME / name
    generator = mp.Generator.from_pretrained(folder / "generator", local_files_only=True).eval()
    if name == "plain":
        return generator
    planner = mp.Planner.from_pretrained(folder / "planner", local_files_only=True) if (folder / "planner").exists() else pair().planner
    return mp.MarDiniPipeline(planner.eval(), generator, mp.make_scheduler(), pair().vae)


@torch.no_grad()
def filled_plainly(generator: mp.Generator, video: Tensor, is_ref: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Clips (B, K, 3, S, S) in [0, 1] filled in by a generator that was trained without a planner: the pipeline's loop, no plan, no guidance."""
    scheduler, clean, keep = mp.make_scheduler(), pair().encode(2 * video - 1), is_ref[None, :, None, None, None]
    x = torch.where(keep, clean, noise)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = torch.where(keep, clean, scheduler.step(generator(x, t, is_ref), t, x).prev_sample)
    return torch.where(keep, video, pair().decode(x) / 2 + 0.5)


def measure(case: dict) -> dict[str, float]:
    """off: mean distance (px) of the object's centre from the true one over the missing frames, half a picture where nothing is found. kept: 1 where shape
    and colour are the clip's own and the object is in every frame. x0, y0, x1, ...: the centre in each frame (px), empty where nothing is found."""
    model, task, clip = variant(case["variant"]), case["task"], case["clip"]
    clips, is_ref = recipe.sample(recipe.HELD_OUT_SEED, [clip]), recipe.TASKS[task]
    video = clips.render().video
    if case["variant"] == "plain":
        made = filled_plainly(model, video, is_ref, recipe.noise_of(clip, 1, recipe.FRAMES, case["seed"]), STEPS)
    else:
        made = recipe.answer(model, task, case["plan"], clip, 1, STEPS, case["seed"], held_out=CLIPS)
    read = analysers.analyse_clips(made.clamp(0, 1))
    off = recipe.centre_error(read, analysers.analyse_clips(video), ~is_ref[None])
    places = {f"{axis}{frame}": place for frame, centre in enumerate(read.position[0].tolist()) for axis, place in zip("xy", centre, strict=True)}
    return {"off": off, "kept": int(recipe.kept(read, clips))} | places


PLACES = [f"{axis}{frame}" for frame in range(recipe.FRAMES) for axis in "xy"]
STUDY = Study(
    cases=cases, measure=measure, tolerance={"off": (0.05, 0.01), "kept": 0} | dict.fromkeys(PLACES, 0.1), models=(recipe.NAME,), absent=(variants.NAME,)
)
