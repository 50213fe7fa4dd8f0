"""One matcher and one score for every descriptor: the tasks of `correspondence`, run on any feature maps.

A descriptor is a function maps(images, captions) -> (B, C, h, w) of pictures (B, 3, H, W) in [0, 1] and B captions, which only models with a text read.
It may also return a dict of such maps, one for each setting; then dicts with the same keys come back:

    source, target = pair_maps(maps, pairs)                 # semantic pairs
    score = pck_table(results(find(source, target, pairs), pairs))

    source, target = view_maps(maps, views)                 # two views of a flat scene
    score = score_views(match_views(source, target, views, view_points(views)), views)

    masks, region, boundary = carry(maps(clip, captions), labels, window=8)      # labels through a clip

Points are (x, y) in px with whole numbers at the pixels' centres. Bad arguments raise ValueError that names the argument.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from ..methods.diffusion_features import (
    Pair,
    boundary_accuracy,
    corner_error,
    describe,
    first_mask_to_labels,
    fit_homography,
    labels_to_masks,
    match,
    mutual_matches,
    propagate_labels,
    region_similarity,
)
from .correspondence import HomographyPairs, PointPairs, SemanticPairs, interest_points, warp_points

Maps = Callable[[Tensor, Sequence[str]], Tensor | dict]
CAPTION = "a photo of a {}"  # the caption of a picture of a known category
_NOWHERE = -1e6  # px; where a point without an answer is put: wrong at any threshold


def _call(maps: Maps, images: Tensor, captions: Sequence[str]) -> Tensor | dict:
    found = maps(images, captions)
    for one in found.values() if isinstance(found, dict) else [found]:
        if not isinstance(one, Tensor) or one.ndim != 4 or len(one) != len(images):
            what = tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__
            raise ValueError(f"maps must return (B, C, h, w) with B = {len(images)}, got {what}")
    return found


def _rows(name: str, value: Sequence, count: int) -> None:
    if len(value) != count:
        raise ValueError(f"{name} must hold one entry for each of the {count} pairs, got {len(value)}")


# ------------------------------------------------------------------------------------------------------------------- semantic pairs


def pair_maps(maps: Maps, pairs: SemanticPairs, *, caption: str = CAPTION) -> tuple[Tensor | dict, Tensor | dict]:
    """Maps of the sources and of the targets of semantic pairs, (B, C, h, w) each; `{}` in the caption becomes the picture's category."""
    captions = [[caption.format(c) for c in side] for side in (pairs.source_category, pairs.target_category)]
    return _call(maps, pairs.source, captions[0]), _call(maps, pairs.target, captions[1])


def find(source_maps: Tensor, target_maps: Tensor, pairs: SemanticPairs) -> list[Tensor]:
    """For each pair the target pixels (n_i, 2) whose descriptors have the largest cosine with those of the source's keypoints."""
    _rows("source_maps", source_maps, len(pairs))
    _rows("target_maps", target_maps, len(pairs))
    size = tuple(pairs.source.shape[-2:])
    return [match(a, b, p, source_size=size, target_size=size).points for a, b, p in zip(source_maps, target_maps, pairs.source_points, strict=True)]


def results(found: Sequence[Tensor], pairs: SemanticPairs) -> list[Pair]:
    """What `pck_table` takes: found points (n_i, 2) with the truth, the target's box and the source's category. NaN, no answer, counts as wrong."""
    _rows("found", found, len(pairs))
    rows = zip(found, pairs.target_points, pairs.target_box.tolist(), pairs.source_category, strict=True)
    return [Pair(torch.nan_to_num(points.double(), nan=_NOWHERE), truth, box, category) for points, truth, box, category in rows]


# ------------------------------------------------------------------------------------------------------------------ views of a scene


class ViewScores(NamedTuple):
    """Of B pairs of views: correct, found (B,) int64: mutual matches that are right, and all; corner_error (B,) float64, px, inf without a homography."""

    correct: Tensor
    found: Tensor
    corner_error: Tensor


def _scenes(pairs: HomographyPairs) -> tuple[list[int], list[int]]:
    """The first pair of each scene, and for each pair the number of its scene: the pairs of a scene share one source."""
    names = list(dict.fromkeys(pairs.scene))
    return [pairs.scene.index(name) for name in names], [names.index(name) for name in pairs.scene]


def view_maps(maps: Maps, pairs: HomographyPairs) -> tuple[Tensor | dict, Tensor | dict]:
    """Maps of the sources and of the targets of views, (B, C, h, w) each, captions empty; each scene's source is described once."""
    first, scene = _scenes(pairs)
    sources = _call(maps, pairs.source[first], [""] * len(first))
    sources = {key: one[scene] for key, one in sources.items()} if isinstance(sources, dict) else sources[scene]
    return sources, _call(maps, pairs.target, [""] * len(pairs))


def view_points(pairs: HomographyPairs, count: int = 200) -> tuple[list[Tensor], list[Tensor]]:
    """At most `count` Harris corners (K, 2) of each source and of each target."""
    first, scene = _scenes(pairs)
    sources = [interest_points(image, count) for image in pairs.source[first]]
    return [sources[k] for k in scene], [interest_points(image, count) for image in pairs.target]


def match_views(
    source_maps: Tensor, target_maps: Tensor, pairs: HomographyPairs, points: tuple[list[Tensor], list[Tensor]], *, convention: str = "consistent"
) -> list[PointPairs]:
    """For each pair of views the corners that are each other's nearest descriptor; `points`: what `view_points` returns."""
    for name, value in (("source_maps", source_maps), ("target_maps", target_maps), ("points[0]", points[0]), ("points[1]", points[1])):
        _rows(name, value, len(pairs))
    size, found = tuple(pairs.source.shape[-2:]), []
    for a, b, here, there in zip(source_maps, target_maps, *points, strict=True):
        if len(here) and len(there):
            i, j = mutual_matches(*(describe(m, p, size=size, convention=convention) for m, p in ((a, here), (b, there)))).unbind(1)
            here, there = here[i], there[j]
        else:
            here, there = torch.zeros(0, 2), torch.zeros(0, 2)
        found.append(PointPairs(here, there))
    return found


def score_views(matches: Sequence[PointPairs], pairs: HomographyPairs, *, within: float = 3.0, method: str | None = "lmeds") -> ViewScores:
    """Matches against the true homography, and the corner error of the homography that they agree on (`fit_homography`, seed 0).

    within: px up to which a match is right. method: None fits no homography, which is faster; all corner errors are inf then.
    """
    _rows("matches", matches, len(pairs))
    size, rows = tuple(pairs.source.shape[-2:]), []
    for found, truth in zip(matches, pairs.homography, strict=True):
        right = (warp_points(truth, found.source) - found.target).norm(dim=1) <= within if len(found) else torch.zeros(0)
        error = float("inf")
        if method and len(found) >= 4:
            with suppress(ValueError):  # all on a line, or fewer than four different matches
                error = corner_error(fit_homography(found.source, found.target, method=method).matrix, truth, size)
        rows.append((int(right.sum()), len(found), error))
    correct, count, errors = zip(*rows, strict=True)
    return ViewScores(torch.tensor(correct), torch.tensor(count), torch.tensor(errors, dtype=torch.float64))


# ----------------------------------------------------------------------------------------------------------------------------- clips


class Carried(NamedTuple):
    """masks (T, S, S) int64; region, boundary (T - 1, objects): DAVIS's J and F in every frame after the first."""

    masks: Tensor
    region: Tensor
    boundary: Tensor


def score_masks(masks: Tensor, labels: Tensor) -> Carried:
    """Score masks (T, S, S) int64 against labels (T, S, S), frame 0 left out. An object that frame 0 of the labels does not show counts nowhere."""
    if masks.ndim != 3 or masks.shape != labels.shape:
        raise ValueError(f"masks must be (T, S, S) like labels {tuple(labels.shape)}, got {tuple(masks.shape)}")
    objects = [int(k) for k in labels[0].unique() if k > 0]
    if not objects or len(labels) < 2:
        raise ValueError("labels must show an object in frame 0 and have another frame")
    scores = [[[score(mask == k, truth == k) for k in objects] for mask, truth in zip(masks[1:], labels[1:], strict=True)]
              for score in (region_similarity, boundary_accuracy)]  # fmt: skip
    return Carried(masks, *(torch.tensor(one, dtype=torch.float64) for one in scores))


def carry(features: Tensor, labels: Tensor, **options) -> Carried:
    """Carry the objects of a clip's first frame through it by `propagate_labels`, which the options go to, and score them.

    features (T, C, h, w); labels (T, S, S) int64, 0 the background; S is one multiple of h and w. Of the labels only frame 0 is used for carrying.
    """
    if features.ndim != 4 or labels.ndim != 3 or len(features) != len(labels):
        raise ValueError(f"features must be (T, C, h, w) and labels (T, S, S) with one T, got {tuple(features.shape)} and {tuple(labels.shape)}")
    cells, size = tuple(features.shape[-2:]), tuple(labels.shape[-2:])
    stride = size[0] // cells[0]
    if tuple(n * stride for n in cells) != size:
        raise ValueError(f"labels must have sides that are one multiple of the map's {cells}, got {size}")
    soft = propagate_labels(features, first_mask_to_labels(labels[0], cells), **options)
    return score_masks(labels_to_masks(soft, size, stride=stride), labels)
