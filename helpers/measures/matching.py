"""One matcher and one score for every descriptor: the tasks of `correspondence`, run on any feature maps.

A descriptor is a function maps(images, captions) -> (B, C, h, w) of pictures (B, 3, H, W) in [0, 1] and B captions, which only models with a text read.
It may also return a dict of such maps, one for each setting; then dicts with the same keys come back:

    source, target = pair_maps(maps, pairs)                 # semantic pairs
    score = pck_table(results(find(source, target, pairs), pairs))

    source, target = view_maps(maps, views)                 # two views of a flat scene
    score = score_views(match_views(source, target, views, view_points(views)), views)

    masks, region, boundary = carry(maps(clip, captions), labels, window=8)      # labels through a clip

Points are (x, y) in px with whole numbers at the pixels' centres. Maps, points, masks and labels may be any array-like: of numpy come numpy arrays.
Bad arguments raise ValueError or TypeError that names the argument.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import choice, function, got, instance, integer, like, numbers, real
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

__all__ = [
    "CAPTION", "Carried", "Maps", "ViewScores", "carry", "find", "match_views", "pair_maps", "results", "score_masks", "score_views", "view_maps",
    "view_points",
]  # fmt: skip

Maps = Callable[[Tensor, Sequence[str]], Tensor | dict]
CAPTION = "a photo of a {}"  # the caption of a picture of a known category
_NOWHERE = -1e6  # px; where a point without an answer is put: wrong at any threshold


def _call(maps: Maps, images: Tensor, captions: Sequence[str]) -> Tensor | dict:
    found = maps(images, captions)
    for one in found.values() if isinstance(found, dict) else [found]:
        shape = tuple(one.shape) if isinstance(one, Tensor | np.ndarray) else None
        if shape is None or len(shape) != 4 or shape[0] != len(images):
            raise ValueError(f"maps must return (B, C, h, w) with B = {len(images)}, got {got(one) if shape is None else shape}")
    return found


def _rows(name: str, value, count: int) -> list:
    if not isinstance(value, list | tuple) and not (isinstance(value, Tensor | np.ndarray) and value.ndim):
        raise TypeError(f"{name} must be a list, one entry for each pair, got {got(value)}")
    if len(value) != count:
        raise ValueError(f"{name} must hold one entry for each of the {count} pairs, got {len(value)}")
    return list(value)


def _both_maps(source_maps, target_maps, count: int) -> list[list[Tensor]]:
    """The maps of sources and targets, one a pair; as tensors, on the devices that they came on."""
    both = []
    for name, maps in (("source_maps", source_maps), ("target_maps", target_maps)):
        if isinstance(maps, list | tuple) and not isinstance(maps[0] if maps else None, list | tuple):  # maps of several sizes or kinds
            both.append([numbers(name, one, "C h w") for one in _rows(name, maps, count)])
        else:
            both.append(list(numbers(name, maps, f"{count} C h w")))
    for a, b in zip(*both, strict=True):
        if len(a) != len(b):
            raise ValueError(f"target_maps must have the {len(a)} channels of source_maps, got {len(b)}")
    return both


# ------------------------------------------------------------------------------------------------------------------- semantic pairs


def pair_maps(maps: Maps, pairs: SemanticPairs, *, caption: str = CAPTION) -> tuple[Tensor | dict, Tensor | dict]:
    """Maps of the sources and of the targets of semantic pairs, (B, C, h, w) each; `{}` in the caption becomes the picture's category."""
    function("maps", maps), instance("pairs", pairs, SemanticPairs, "SemanticPairs"), instance("caption", caption, str, "a text")
    try:
        captions = [[caption.format(c) for c in side] for side in (pairs.source_category, pairs.target_category)]
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(f"caption must be a text with {{}} where the category belongs, got {caption!r}") from error
    return _call(maps, pairs.source, captions[0]), _call(maps, pairs.target, captions[1])


def _as(maps, found: Tensor):
    """As the kind that maps are, or the first of a list of them."""
    return like(maps[0] if isinstance(maps, list | tuple) else maps, found)


def find(source_maps: Tensor, target_maps: Tensor, pairs: SemanticPairs) -> list[Tensor]:
    """For each pair the target pixels (n_i, 2) whose descriptors have the largest cosine with those of the source's keypoints."""
    instance("pairs", pairs, SemanticPairs, "SemanticPairs")
    both, size = _both_maps(source_maps, target_maps, len(pairs)), tuple(pairs.source.shape[-2:])
    found = [match(a, b, p, source_size=size, target_size=size).points for a, b, p in zip(*both, pairs.source_points, strict=True)]
    return [_as(source_maps, one) for one in found]


def results(found: Sequence[Tensor], pairs: SemanticPairs) -> list[Pair]:
    """What `pck_table` takes: found points (n_i, 2) with the truth, the target's box and the source's category. NaN, no answer, counts as wrong."""
    instance("pairs", pairs, SemanticPairs, "SemanticPairs")
    rows = []
    for i, points in enumerate(_rows("found", found, len(pairs))):
        places = numbers(f"found[{i}]", points, f"{len(pairs.names[i])} 2", finite=False).double()
        if places.isinf().any():
            raise ValueError(f"found[{i}] must be points or NaN, got an infinity in it")
        places = like(points, torch.nan_to_num(places, nan=_NOWHERE))
        rows.append(Pair(places, pairs.target_points[i], pairs.target_box[i].tolist(), pairs.source_category[i]))
    return rows


# ------------------------------------------------------------------------------------------------------------------ views of a scene


class ViewScores(NamedTuple):
    """Of B pairs of views: correct, found (B,) int64: mutual matches that are right, and all; corner_error (B,) float64, px, inf without a homography."""

    correct: Tensor
    found: Tensor
    corner_error: Tensor


def _scenes(pairs: HomographyPairs) -> tuple[list[int], list[int]]:
    """The first pair of each scene, and for each pair the number of its scene: the pairs of a scene share one source."""
    names = list(dict.fromkeys(instance("pairs", pairs, HomographyPairs, "HomographyPairs").scene))
    return [pairs.scene.index(name) for name in names], [names.index(name) for name in pairs.scene]


def view_maps(maps: Maps, pairs: HomographyPairs) -> tuple[Tensor | dict, Tensor | dict]:
    """Maps of the sources and of the targets of views, (B, C, h, w) each, captions empty; each scene's source is described once."""
    function("maps", maps)
    first, scene = _scenes(pairs)
    sources = _call(maps, pairs.source[first], [""] * len(first))
    sources = {key: one[scene] for key, one in sources.items()} if isinstance(sources, dict) else sources[scene]
    return sources, _call(maps, pairs.target, [""] * len(pairs))


def view_points(pairs: HomographyPairs, count: int = 200) -> tuple[list[Tensor], list[Tensor]]:
    """At most `count` Harris corners (K, 2) of each source and of each target."""
    count, (first, scene) = integer("count", count, low=1), _scenes(pairs)
    sources = [interest_points(image, count) for image in pairs.source[first]]
    return [sources[k] for k in scene], [interest_points(image, count) for image in pairs.target]


def match_views(
    source_maps: Tensor, target_maps: Tensor, pairs: HomographyPairs, points: tuple[list[Tensor], list[Tensor]], *, convention: str = "consistent"
) -> list[PointPairs]:
    """For each pair of views the corners that are each other's nearest descriptor; `points`: what `view_points` returns."""
    instance("pairs", pairs, HomographyPairs, "HomographyPairs"), choice("convention", convention, ("paper", "consistent", "official"))
    both, size, found = _both_maps(source_maps, target_maps, len(pairs)), tuple(pairs.source.shape[-2:]), []
    if not isinstance(points, list | tuple) or len(points) != 2:
        raise TypeError(f"points must be what view_points returns, the corners of the sources and those of the targets, got {got(points)}")
    places = [[numbers(f"points[{k}][{i}]", p, "K 2", empty=True) for i, p in enumerate(_rows(f"points[{k}]", side, len(pairs)))]
              for k, side in enumerate(points)]  # fmt: skip
    for a, b, here, there in zip(*both, *places, strict=True):
        if len(here) and len(there):
            i, j = mutual_matches(*(describe(m, p, size=size, convention=convention) for m, p in ((a, here), (b, there)))).cpu().unbind(1)
            here, there = here[i], there[j]
        else:
            here, there = here[:0], there[:0]
        found.append(PointPairs(_as(source_maps, here), _as(source_maps, there)))
    return found


def score_views(matches: Sequence[PointPairs], pairs: HomographyPairs, *, within: float = 3.0, method: str | None = "lmeds") -> ViewScores:
    """Matches against the true homography, and the corner error of the homography that they agree on (`fit_homography`, seed 0).

    within: px up to which a match is right. method: None fits no homography, which is faster; all corner errors are inf then.
    """
    instance("pairs", pairs, HomographyPairs, "HomographyPairs")
    within, every, size, rows = real("within", within, low=0), _rows("matches", matches, len(pairs)), tuple(pairs.source.shape[-2:]), []
    if method is not None:
        choice("method", method, ("lmeds", "ransac"))
    for i, (found, truth) in enumerate(zip(every, pairs.homography, strict=True)):
        instance(f"matches[{i}]", found, PointPairs, "PointPairs")
        sizes = {}
        here, there = (numbers(f"matches[{i}].{side}", getattr(found, side), "M 2", sizes, empty=True).cpu() for side in ("source", "target"))
        right = (warp_points(truth, here) - there).norm(dim=1) <= within if len(here) else torch.zeros(0)
        error = float("inf")
        if method and len(here) >= 4:
            with suppress(ValueError):  # all on a line, or fewer than four different matches
                error = corner_error(fit_homography(here, there, method=method).matrix, truth, size)
        rows.append((int(right.sum()), len(here), error))
    correct, count, errors = zip(*rows, strict=True)
    scores = torch.tensor(correct), torch.tensor(count), torch.tensor(errors, dtype=torch.float64)
    return ViewScores(*(like(every[0].source, one) for one in scores))


# ----------------------------------------------------------------------------------------------------------------------------- clips


class Carried(NamedTuple):
    """masks (T, S, S) int64; region, boundary (T - 1, objects): DAVIS's J and F in every frame after the first."""

    masks: Tensor
    region: Tensor
    boundary: Tensor


def score_masks(masks: Tensor, labels: Tensor) -> Carried:
    """Score masks (T, S, S) int64 against labels (T, S, S), frame 0 left out. An object that frame 0 of the labels does not show counts nowhere."""
    came, masks, labels = masks, numbers("masks", masks, "T S S2", whole=True).cpu(), numbers("labels", labels, "T S S2", whole=True, low=0).cpu()
    if masks.shape != labels.shape:
        raise ValueError(f"labels must have the shape of masks, {tuple(masks.shape)}, got {tuple(labels.shape)}")
    objects = [int(k) for k in labels[0].unique() if k > 0]
    if not objects or len(labels) < 2:
        raise ValueError("labels must show an object in frame 0 and have another frame")
    scores = [[[score(mask == k, truth == k) for k in objects] for mask, truth in zip(masks[1:], labels[1:], strict=True)]
              for score in (region_similarity, boundary_accuracy)]  # fmt: skip
    return Carried(like(came, masks), *(like(came, torch.tensor(one, dtype=torch.float64)) for one in scores))


def carry(features: Tensor, labels: Tensor, **options) -> Carried:
    """Carry the objects of a clip's first frame through it by `propagate_labels`, which the options go to, and score them.

    features (T, C, h, w); labels (T, S, S) int64, 0 the background; S is one multiple of h and w. Of the labels only frame 0 is used for carrying.
    """
    came, features, labels = features, numbers("features", features, "T C h w"), numbers("labels", labels, "T S S2", whole=True, low=0)
    if len(features) != len(labels):
        raise ValueError(f"labels must have the {len(features)} frames of features, got {len(labels)}")
    cells, size = tuple(features.shape[-2:]), tuple(labels.shape[-2:])
    stride = size[0] // cells[0]
    if tuple(n * stride for n in cells) != size:
        raise ValueError(f"labels must have sides that are one multiple of those of features, {cells}, got {size}")
    soft = propagate_labels(features, first_mask_to_labels(labels[0], cells), **options)
    found = score_masks(labels_to_masks(soft, size, stride=stride), labels)
    return Carried(*(like(came, one) for one in found))
