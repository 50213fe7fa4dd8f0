"""Page 04's search: which noise and which layer each task wants, on pictures that nothing is tested on. What the other descriptors want, too.

A case is one unit (a pair of pictures, a scene, a clip) described at one timestep by one kind of descriptor; its results are the scores of all that the
one pass can be read at: the eleven layers of the decoder, or the setting of a descriptor without a timestep (t = -1) in the order of `READINGS`.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import Dinov2Model

from ..measures import correspondence as tasks
from ..measures import matching as bench
from ..methods import diffusion_features as dift
from ..models import zoo
from ..recipes import toy_sd
from ..toyworld.skeletons import CATEGORIES
from .runner import TABLES, Study, has_columns, known

__all__ = ["BLOCKS", "CARRY", "CLIP_KINDS", "FRAMES", "LAYERS", "STUDY", "TIMES", "chosen", "chosen_block", "clips", "grid", "layer_maps", "one_pair"]

DIFT, UNTRAINED, CONTRAST, PATCHES = "DIFT", "untrained U-Net", "toy-contrast", "raw patches"
TIMES, FEW, CLIP_TIMES = (0, 15, 60, 120, 261, 401, 601), (0, 60, 261), (0, 15, 60, 120, 261)
LAYERS = 11  # of toy-sd's decoder
BLOCKS = {2: 0, 5: 1, 8: 2, 10: 3}  # the layers that an up-block ends with, and the block
READINGS = {CONTRAST: {"semantic": (3, 4, 5, 6), "geometric": (3, 4, 5, 6), "temporal": (4, 6)},
            PATCHES: {"semantic": (6, 10, 14), "geometric": (5, 7, 9), "temporal": (8, 12, 16)}}  # fmt: skip
STRIDES = {"semantic": 2, "geometric": 1, "temporal": 4}  # of raw patches, px
SEED, PAIRS, SCENES, CLIPS = 0, 10, 10, 3  # pairs of a category, scenes with two views each, clips of a kind; for TIMES
CLIP_KINDS = ("creatures", "twins", "photographs")
CARRY = dict(context=8, top_k=15, temperature=0.2)  # and a window of a quarter of the map
SMALL, LARGE, FRAMES = 64, 128, 8  # px of pictures of one thing, px of scenes and clips; frames
NOISES = {"semantic": 4, "geometric": 2, "temporal": 2}


# ---------------------------------------------------------------------------------------------------------- descriptors


@lru_cache(maxsize=2)
def pipeline(trained: bool):
    """toy-sd, or the same pipeline with a U-Net and a text encoder of random weights."""
    pipe = zoo.load("toy-sd")
    if trained:
        return pipe
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        fresh = toy_sd.TextToImage(len(pipe.tokenizer)).eval()
    return type(pipe)(**{**pipe.components, "unet": fresh.unet, "text_encoder": fresh.text_encoder}, requires_safety_checker=False)


@lru_cache(maxsize=1)
def contrast() -> Dinov2Model:
    return Dinov2Model.from_pretrained(zoo.folder("toy-contrast"), local_files_only=True).eval()


def told(pipe, actual: int | None):
    """The pipeline with the noise of timestep `actual` (None: no noise) at whatever timestep its network is told."""
    kept = 1.0 if actual is None else float(pipe.scheduler.alphas_cumprod[actual])
    return SimpleNamespace(unet=pipe.unet, vae=pipe.vae, encode_prompt=pipe.encode_prompt,
                           scheduler=SimpleNamespace(alphas_cumprod=torch.full((1000,), kept), config={}))  # fmt: skip


def layer_maps(t: int, layers, *, unit: int, ensemble: int, pipe=None) -> Callable:
    """DIFT as a descriptor, {layer: (B, C, h, w)}. Noise comes from the unit's number and asks for the pictures in order: no two share it."""
    options = dict(t=t, layers=list(layers), ensemble=ensemble, generator=torch.Generator().manual_seed(unit), batch=16)
    return lambda images, captions: dift.dift_layers(pipeline(True) if pipe is None else pipe, 2 * images - 1, captions, **options)


def contrast_maps(layer: int) -> Callable:
    return lambda images, captions: tasks.vit_features(contrast(), images, layer, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def patch_maps(patch: int, stride: int) -> Callable:
    return lambda images, captions: tasks.raw_patches(images, patch, stride)


def several(makers: dict) -> Callable:
    """Descriptors as one, {key: (B, C, h, w)}."""
    return lambda images, captions: {key: maps(images, captions) for key, maps in makers.items()}


# ---------------------------------------------------------------------------------------------------------- units and scores


@lru_cache(maxsize=4)
def pairs(seed: int, count: int, facing: str | None = None) -> tasks.SemanticPairs:
    return tasks.semantic_pairs(seed, count, size=SMALL, facing=facing)


def one_pair(pairs: tasks.SemanticPairs, i: int) -> tasks.SemanticPairs:
    return tasks.SemanticPairs(*(value[i : i + 1] for value in vars(pairs).values()))


def pck(source: Tensor, target: Tensor, pair: tasks.SemanticPairs) -> tuple[float, float]:
    """Percent of one pair's points that are found at 0.1 and at 0.2 of the box."""
    return found_at(bench.find(source, target, pair), pair)


def found_at(points: list[Tensor], pair: tasks.SemanticPairs) -> tuple[float, float]:
    scores = dift.pck_table(bench.results(points, pair), alphas=(0.1, 0.2))
    return scores[0.1].per_point, scores[0.2].per_point


@lru_cache(maxsize=4)
def scene_views(seed: int, number: int, source: str = "toy"):
    """One viewpoint and one relit view of a scene, with the corners of all pictures."""
    every = tasks.homography_pairs(seed, source=source, scenes=number + 1, per_scene=1, size=LARGE)
    views = tasks.HomographyPairs(*(value[2 * number :] for value in vars(every).values()))
    return views, bench.view_points(views)


def right_corners(source: Tensor, target: Tensor, views, points) -> np.ndarray:
    """Percent of each source's corners that are matched mutually and to within 3 px."""
    scores = bench.score_views(bench.match_views(source, target, views, points), views, method=None)
    return np.array([100 * int(right) / len(some) for right, some in zip(scores.correct, points[0], strict=True)])


@lru_cache(maxsize=4)
def clips(seed: int, kind: str, count: int) -> tasks.LabelClips:
    return tasks.label_clips(seed, kind, count=count, frames=FRAMES, size=LARGE)


def carried(features: Tensor, labels: Tensor) -> float:
    """J & F (%) of one clip, mean over its objects and frames."""
    side = features.shape[-1]
    found = bench.carry(features, labels, window=side // 4, **CARRY | dict(top_k=min(CARRY["top_k"], side**2)))
    return 50 * float((found.region + found.boundary).mean())


# ---------------------------------------------------------------------------------------------------------- the study


def cases() -> list[dict]:
    units = {"semantic": 6 * len(CATEGORIES), "geometric": 8, "temporal": 2 * len(CLIP_KINDS)}  # of those that are drawn, the first
    some = {"semantic": 3 * len(CATEGORIES), "geometric": 4, "temporal": len(CLIP_KINDS)}
    rows = []
    for task, count in units.items():
        rows += [(task, PATCHES, -1, u) for u in range(count)] + [(task, CONTRAST, -1, u) for u in range(count)]
        rows += [(task, UNTRAINED, t, u) for t in FEW for u in range(some[task])]
        rows += [(task, DIFT, t, u) for t in (CLIP_TIMES if task == "temporal" else TIMES) for u in range(count)]
    return [dict(zip(("task", "descriptor", "t", "unit"), row, strict=True)) for row in rows]


def unit_number(task: str, unit: int) -> int:
    """Of a pair's place: one pair of each category comes before the second of any, so that the first units are a fair sample."""
    return unit % len(CATEGORIES) * PAIRS + unit // len(CATEGORIES) if task == "semantic" else unit


def descriptor(case: dict) -> tuple[list, Callable]:
    """What the case is read at, and the descriptor that gives a map for each."""
    task, name = case["task"], case["descriptor"]
    if name == CONTRAST:
        return list(READINGS[name][task]), several({k: contrast_maps(k) for k in READINGS[name][task]})
    if name == PATCHES:
        return list(READINGS[name][task]), several({p: patch_maps(p, STRIDES[task]) for p in READINGS[name][task]})
    layers = list(BLOCKS) if task == "temporal" else list(range(LAYERS))
    return layers, layer_maps(case["t"], layers, unit=case["unit"], ensemble=NOISES[task], pipe=pipeline(name == DIFT))


def measure(case: dict) -> dict:
    """at_0 ...: the score (%) of each reading, NaN where there is none. Semantic: points found at 0.1 of the box, of one pair, and loose_0 ... at 0.2;
    geometric: right corners, mean of a scene's two views; temporal: J & F of one clip."""
    readings, maps = descriptor(case)
    places = readings if case["descriptor"] in (DIFT, UNTRAINED) else range(len(readings))
    if case["task"] == "semantic":
        pair = one_pair(pairs(SEED, PAIRS), unit_number("semantic", case["unit"]))
        source, target = bench.pair_maps(maps, pair)
        scores = [pck(source[k], target[k], pair) for k in readings]
    elif case["task"] == "geometric":
        views, points = scene_views(SEED, case["unit"])
        source, target = bench.view_maps(maps, views)
        scores = [(float(right_corners(source[k], target[k], views, points).mean()), np.nan) for k in readings]
    else:
        film, number = clips(SEED, CLIP_KINDS[case["unit"] % len(CLIP_KINDS)], CLIPS), case["unit"] // len(CLIP_KINDS)
        found = maps(film.video[number], [""] * FRAMES)
        scores = [(carried(found[k], film.labels[number]), np.nan) for k in readings]
    row = {f"{which}_{k}": np.nan for which in ("at", "loose") for k in range(LAYERS)}
    return row | {f"{which}_{k}": s[i] for i, which in enumerate(("at", "loose")) for k, s in zip(places, scores, strict=True)}


# the score of a unit moves in steps of one point of some ten, one corner of 200; another machine's rounding may turn one match that is nearly a tie
STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={f"{which}_{k}": 13.0 for which in ("at", "loose") for k in range(LAYERS)},
    models=("toy-sd", "toy-contrast"),
    reaches=(toy_sd.TextToImage,),
    sample_seconds=3,
)


def table() -> pd.DataFrame:
    return pd.read_csv(TABLES / "diffusion_features_grids.csv")


def grid(rows: pd.DataFrame, task: str, name: str = DIFT, which: str = "at") -> tuple[list[tuple[int, int]], np.ndarray]:
    """Settings (t, reading) and the scores (units, settings) of a descriptor."""
    known("which", which, ("at", "loose"))
    has_columns(rows, ("task", "descriptor", "unit", "t"))
    known("task", task, rows.task)
    known("name", name, rows.descriptor)
    rows = rows[(rows.task == task) & (rows.descriptor == name)]
    columns = [f"{which}_{k}" for k in range(LAYERS)]
    wide = rows.pivot(index="unit", columns="t", values=columns)
    keys = [(t, k) for t in sorted(rows.t.unique().tolist()) for k in range(LAYERS) if not wide[f"{which}_{k}", t].isna().all()]
    return keys, wide[[(f"{which}_{k}", t) for t, k in keys]].to_numpy(float)


@lru_cache
def chosen(task: str, name: str = DIFT, layers: tuple[int, ...] | None = None) -> tuple[int, int]:
    """(t, reading) of the best mean, among some layers where they are given; a reading of a descriptor without timesteps is its own setting."""
    keys, scores = grid(table(), task, name)
    allowed = [i for i, (_, k) in enumerate(keys) if layers is None or k in layers]
    t, k = keys[allowed[int(scores[:, allowed].mean(0).argmax())]]
    return t, READINGS[name][task][k] if name in READINGS else k


chosen_block = partial(chosen, layers=tuple(BLOCKS))  # as the paper reads: at the ends of blocks
