"""DIFT: what feature maps match. Tensors in, tensors and numbers out (numpy in, numpy out); nothing here needs a model or diffusers.

Tang et al. 2023, "Emergent Correspondence from Image Diffusion", NeurIPS 2023, arXiv 2306.03881.

The same part of two objects has nearby vectors in the features of a diffusion model (`features.py` takes them out of a
pipeline; maps of any other network, (C, h, w), serve as well). Read from top to bottom: 1. descriptors and matches, 2. the
three scores called PCK, 3. homographies, 4. label propagation in videos, 5. carrying an edit over, and features as colours:

    found = match(source, target, points, source_size=(512, 512), target_size=(512, 512))

Notation: F, a feature map (C, h, w); a point is (x, y) in pixels whose centres are whole numbers, the top left pixel being
(0, 0); a size is (height, width). Where paper and official code differ the code is followed. Wherever a tensor is asked for,
any array-like serves: the first argument decides whether tensors, on its device, or numpy arrays come back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from skimage.measure import ransac
from skimage.morphology import disk
from skimage.transform import ProjectiveTransform, warp
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from ._arguments import MOST_LABELS, _floats, _got, _integer, _like, _number, _numbers, _option, _pictures, _points, _rng, _several, _size

__all__ = [
    "Pair", "boundary_accuracy", "corner_error", "describe", "feature_colours", "first_mask_to_labels", "fit_homography", "homography_accuracy",
    "labels_to_masks", "match", "mutual_matches", "nearest", "pck", "pck_table", "propagate_edit", "propagate_labels", "region_similarity",
    "similarity_map",
]  # fmt: skip

CONVENTIONS = ("paper", "consistent", "official")
ROUNDING = 1 + 1e-9  # "at most" allows for the rounding of the bound
MOST_TRIALS = 10**6

# ---------------------------------------------------------------------------------------------------------------------
# 1. Descriptors and matches
# ---------------------------------------------------------------------------------------------------------------------


class Matches(NamedTuple):
    points: Tensor  # (K, 2) or (B, K, 2) integers, the pixels (x, y) found
    similarity: Tensor  # (K,) or (B, K), their cosines


def _full(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _tame(*values: Tensor) -> list[Tensor]:
    """In float32 or better, and all divided by the largest of their numbers where its square could leave the range."""
    full = [_full(value) for value in values]
    largest = max(float(value.abs().max()) for value in full)
    return full if largest == 0 or 1e-12 < largest < 1e12 else [value / largest for value in full]


def describe(maps: Tensor, points: Tensor, *, size: tuple[int, int], convention: str = "paper") -> Tensor:
    """Descriptors of the pixels `points` (K, 2) of an image of `size`: bilinear samples of its map, not normalised.

    maps: (C, h, w) -> (K, C), or (B, C, h, w) -> (B, K, C), in float32 or better.
    convention="paper": what upsampling the map to the image (align_corners=False) holds at the pixel. "consistent": corner pixels lie on
    corner cells (align_corners=True). "official": the HPatches code, (x - c) / c with align_corners=False and zero padding, which is up to
    half a cell off at the borders. Raises ValueError for an empty list of points and points outside the image.
    """
    stack, size = _numbers("maps", maps, "C, h, w", "B, C, h, w"), _size("size", size)
    stack = stack if stack.is_floating_point() else stack.to(torch.get_default_dtype())
    return _like(maps, _sampled(stack, _points("points", points, size), size, _option("convention", convention, CONVENTIONS)))


def _sampled(maps: Tensor, points: Tensor, size: tuple[int, int], convention: str) -> Tensor:
    points = points.to(maps.device, _full(maps).dtype)
    edge = points.new_tensor([size[1], size[0]])
    grid = (2 * points + 1) / edge - 1 if convention == "paper" else 2 * points / (edge - 1) - 1
    stack = _full(maps if maps.ndim == 4 else maps[None])
    grid = grid.expand(len(stack), 1, *grid.shape)
    padding = "zeros" if convention == "official" else "border"
    found = F.grid_sample(stack, grid, padding_mode=padding, align_corners=convention == "consistent")[:, :, 0].mT
    return found if maps.ndim == 4 else found[0]


def match(
    source_map: Tensor,
    target_map: Tensor,
    points: Tensor,
    *,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    convention: str = "paper",
    memory_mb: float = 256,
) -> Matches:
    """The pixel of the target whose descriptor has the largest cosine with that of each source point, over all target pixels.

    source_map: (C, h, w); target_map: (C, h', w') or several (B, C, h', w'), of images of one size; points: (K, 2) in the source image.
    Never holds a map at the size of an image: see `_cosines`. memory_mb bounds its working memory. The first pixel wins a tie; a descriptor
    of zeros has the cosine 0 with all.
    """
    targets, one, count, (_, width), bands = _prepare(source_map, target_map, "points", points, source_size, target_size, convention, memory_mb)
    best, place = targets.new_full((len(targets), count), -math.inf), torch.zeros(len(targets), count, dtype=torch.long, device=targets.device)
    for b, some, row, cosines in bands:
        value, where = cosines.flatten(1).max(1).values, cosines.flatten(1).argmax(1)
        better = value > best[b, some]
        best[b, some] = torch.where(better, value, best[b, some])
        place[b, some] = torch.where(better, where + row * width, place[b, some])
    found = torch.stack([place % width, place // width], -1), best
    return Matches(*(_like(source_map, part[0] if one else part) for part in found))


def nearest(
    source_map: Tensor,
    target_map: Tensor,
    points: Tensor,
    *,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    convention: str = "consistent",
    memory_mb: float = 256,
) -> Matches:
    """What the official code for edits does: cells are brought to length 1, then sampled, and the target pixel at the least distance (L2) is taken.

    Between cells that differ a sample is shorter than 1, so this is not the largest cosine of `match`. source_map: (C, h, w); target_map: (C, h', w');
    points: (K, 2) in the source image. `similarity` is the negative distance. The first pixel wins a tie. memory_mb bounds the working memory.
    """
    (source,), (target,) = _tame(_floats("source_map", source_map, "C, h, w")), _tame(_floats("target_map", target_map, "C, h, w"))
    if len(source) != len(target):
        raise ValueError(f"target_map must have the {len(source)} channels of source_map, got {len(target)}")
    (height, width), memory = _size("target_size", target_size), _number("memory_mb", memory_mb, above=0)
    size, convention = _size("source_size", source_size), _option("convention", convention, CONVENTIONS)
    wanted = _sampled(F.normalize(source, dim=0), _points("points", points, size), size, convention).to(target)
    target, best, place = F.normalize(target, dim=0), None, None
    rows = max(1, int(memory * 2**20 / target.element_size() / (width * (len(target) + 2 * len(wanted)))))
    for row in range(0, height, rows):
        y, x = torch.meshgrid(torch.arange(row, min(row + rows, height)), torch.arange(width), indexing="ij")
        pixels = _sampled(target, torch.stack([x.flatten(), y.flatten()], 1), (height, width), convention)
        value, where = torch.cdist(wanted, pixels, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        better = torch.ones_like(value, dtype=torch.bool) if best is None else value < best
        best = value if best is None else torch.where(better, value, best)
        place = where if place is None else torch.where(better, where + row * width, place)
    return Matches(*(_like(source_map, part) for part in (torch.stack([place % width, place // width], -1), -best)))


def similarity_map(
    source_map: Tensor, target_map: Tensor, point: Sequence[float], *, source_size: tuple[int, int], target_size: tuple[int, int], convention: str = "paper"
) -> Tensor:
    """Cosine of one source point (x, y) with every pixel of the target: (H, W), or (B, H, W) for several target maps."""
    point = _numbers("point", point, "2", note=" as x, y")[None]
    targets, one, _, size, bands = _prepare(source_map, target_map, "point", point, source_size, target_size, convention, 256)
    out = targets.new_empty(len(targets), *size)
    for b, _, row, cosines in bands:
        out[b, row : row + cosines.shape[1]] = cosines[0]
    return _like(source_map, out[0] if one else out)


def _prepare(source_map, target_map, name, points, source_size, target_size, convention, memory_mb) -> tuple:
    """Target maps (B, C, h', w'), whether one came without its axis, the number of points, the target's size, and bands of cosines."""
    (source,), (targets,) = _tame(_floats("source_map", source_map, "C, h, w")), _tame(_floats("target_map", target_map, "C, h, w", "B, C, h, w"))
    if source.shape[0] != targets.shape[-3]:
        raise ValueError(f"target_map must have the {source.shape[0]} channels of source_map, got {targets.shape[-3]}")
    size, from_size, memory = _size("target_size", target_size), _size("source_size", source_size), _number("memory_mb", memory_mb, above=0)
    points, convention = _points(name, points, from_size), _option("convention", convention, CONVENTIONS)
    wanted = F.normalize(_sampled(source, points, from_size, convention), dim=-1)
    one, targets = targets.ndim == 3, targets if targets.ndim == 4 else targets[None]
    bands = ((b, *band) for b, target in enumerate(targets) for band in _cosines(wanted.to(targets), target, size, convention, memory))
    return targets, one, len(points), size, bands


def _cosines(wanted: Tensor, target: Tensor, size: tuple[int, int], convention: str, memory_mb: float) -> Iterator[tuple[slice, int, Tensor]]:
    """Yields (which descriptors, first row, their cosines (k, rows, W)) of descriptors (K, C) with the target map at every pixel.

    Bilinear interpolation is linear, F(y, x) = sum_ab R[y, a] S[x, b] f[a, b], so scores are taken on the map and then interpolated. The
    norm is not linear, but |F|^2 needs only the products of each cell with itself and its neighbours, interpolated with squared weights.
    """
    _, height, width = target.shape
    R, S = (_weights(length, cells, convention).to(target) for length, cells in zip(size, target.shape[1:], strict=True))
    norm = _norms(target, R, S)
    floats = memory_mb * 2**20 / target.element_size() / 2
    count = max(1, min(len(wanted), int(floats / (size[1] * height))))
    rows = max(1, int(floats / (size[1] * count)))
    for start in range(0, len(wanted), count):
        some = slice(start, min(start + count, len(wanted)))
        scores = (wanted[some] @ target.flatten(1)).view(-1, height, width) @ S.T
        for row in range(0, size[0], rows):
            yield some, row, (R[row : row + rows] @ scores) / norm[row : row + rows]


def _weights(length: int, cells: int, convention: str) -> Tensor:
    """(length, cells): how much each cell of one axis counts for each pixel; at most two neighbouring cells do."""
    x = torch.arange(length, dtype=torch.float64)
    cell = {"paper": (x + 0.5) * cells / length - 0.5, "consistent": x * (cells - 1) / (length - 1), "official": x * cells / (length - 1) - 0.5}[convention]
    if convention != "official":  # which pads with zeros
        cell = cell.clamp(0, cells - 1)
    return (1 - (cell[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def _norms(f: Tensor, R: Tensor, S: Tensor) -> Tensor:
    """|F(y, x)| at every pixel, (H, W), from the map f (C, h, w)."""
    same, right, below = f.square().sum(0), (f[:, :, 1:] * f[:, :, :-1]).sum(0), (f[:, 1:] * f[:, :-1]).sum(0)
    across = (f[:, 1:, 1:] * f[:, :-1, :-1]).sum(0) + (f[:, 1:, :-1] * f[:, :-1, 1:]).sum(0)
    RR, SS = R[:, 1:] * R[:, :-1], S[:, 1:] * S[:, :-1]
    square = R**2 @ (same @ S.T**2 + 2 * right @ SS.T) + 2 * RR @ (below @ S.T**2 + across @ SS.T)
    rounding = 8 * torch.finfo(f.dtype).eps * (R @ same @ S.T)  # neighbours that cancel leave nothing but this
    return torch.maximum(square, rounding).clamp_min(torch.finfo(f.dtype).tiny).sqrt()


def mutual_matches(a: Tensor, b: Tensor, *, similarity: str = "cosine") -> Tensor:
    """Pairs (i, j), (M, 2), that choose each other: b_j is the nearest of all b to a_i, and a_i the nearest of all a to b_j.

    a: (N, C), b: (N', C). similarity: "cosine" (Stable Diffusion), or "l2", the negative squared distance (ADM). No ratio test. M may be 0.
    """
    given, a, b = a, _floats("a", a, "N, C"), _floats("b", b, "N, C")
    _option("similarity", similarity, ("cosine", "l2"))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"b must have the {a.shape[1]} channels of a, got {b.shape[1]}")
    a, b = _tame(a, b) if similarity == "l2" else (_tame(a)[0], _tame(b)[0])  # distances need one scale for both
    b = b.to(a)
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T if similarity == "cosine" else -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    forth, back = scores.argmax(1), scores.argmax(0)
    i = (back[forth] == torch.arange(len(a), device=a.device)).nonzero()[:, 0]
    return _like(given, torch.stack([i, forth[i]], 1))


# ---------------------------------------------------------------------------------------------------------------------
# 2. PCK: the percentage of correct keypoints
# ---------------------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """What was found in one target image. predicted, truth: (K, 2); box: x0, y0, x1, y1 of the target object."""

    predicted: Tensor
    truth: Tensor
    box: Sequence[float]
    category: str = ""


class Pck(NamedTuple):
    """In percent. per_point: of all points; per_image: mean over pairs; macro: mean over categories of the per-point value; by_category: those."""

    per_point: float
    per_image: float
    macro: float
    by_category: dict[str, float]


def pck(predicted: Tensor, truth: Tensor, box: Sequence[float], *, alpha: float = 0.1) -> Tensor:
    """(K,) bool: which points are at most alpha * max(height, width) of the target's box away from the truth.

    Raises ValueError for no points, a box without area and alpha <= 0.
    """
    error, side = _errors("", predicted, truth, box)
    return _like(predicted, error <= _number("alpha", alpha, above=0) * side * ROUNDING)


def _errors(where: str, predicted: Any, truth: Any, box: Any) -> tuple[Tensor, float]:
    """(K,) distances in px, and the box's longer side. where: what stands before the arguments' names in an error's text."""
    predicted, truth = (_points(f"{where}{name}", one).cpu().double() for name, one in (("predicted", predicted), ("truth", truth)))
    if predicted.shape != truth.shape:
        raise ValueError(f"{where}predicted {tuple(predicted.shape)} must have the shape of {where}truth {tuple(truth.shape)}")
    box = _numbers(f"{where}box", box, "4").detach().cpu().double()
    if not (box[2:] > box[:2]).all():
        raise ValueError(f"{where}box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {box.tolist()}")
    return (predicted - truth).norm(dim=1), float((box[2:] - box[:2]).max())


def pck_table(pairs: Sequence[Pair], *, alphas: Sequence[float] = (0.05, 0.1)) -> dict[float, Pck]:
    """The three ways to sum up many pairs, at each alpha. They differ by points on the same predictions: never compare across them."""
    pairs, table = [_pair(pair) for pair in _several("pairs", pairs)], {}
    alphas = [_number("alphas", alpha, above=0) for alpha in _several("alphas", alphas)]
    errors = [_errors(f"pairs[{i}].", *pair[:3]) for i, pair in enumerate(pairs)]
    for alpha in alphas:
        correct = [(error <= alpha * side * ROUNDING).double() for error, side in errors]
        names = dict.fromkeys(pair.category for pair in pairs)
        of = {name: 100 * float(torch.cat([c for c, pair in zip(correct, pairs) if pair.category == name]).mean()) for name in names}
        per_image = 100 * float(torch.stack([c.mean() for c in correct]).mean())
        table[alpha] = Pck(100 * float(torch.cat(correct).mean()), per_image, sum(of.values()) / len(of), of)
    return table


def _pair(pair: Any) -> Pair:
    if not isinstance(pair, list | tuple) or len(pair) not in (3, 4):
        raise TypeError(f"pairs must hold Pair(predicted, truth, box, category), got {_got(pair)} in it")
    pair = Pair(*pair)
    if not isinstance(pair.category, str):
        raise TypeError(f"pairs must have categories that are texts, got {_got(pair.category)}")
    return pair


# ---------------------------------------------------------------------------------------------------------------------
# 3. Homographies
# ---------------------------------------------------------------------------------------------------------------------


class Fit(NamedTuple):
    matrix: Tensor  # (3, 3) float64, source to target, last entry 1
    inliers: Tensor  # (M,) bool


def fit_homography(
    source: Tensor, target: Tensor, *, method: str = "lmeds", threshold: float = 3.0, trials: int = 1000, rng: int | np.random.Generator = 0
) -> Fit:
    """The homography that most matches agree on. source, target: (M, 2) points; matches given twice count once.

    method="lmeds" (Stable Diffusion): of `trials` random samples of four, the one with the least median of squared errors, then a fit to all
    matches within 2.5 robust standard deviations. "ransac" (ADM): the one with most matches within `threshold` px. rng: seed or generator.
    Raises ValueError for fewer than four different matches and when no sample gives a homography (all points on a line).
    """
    given, source, target = source, *(_points(name, one).cpu().double().numpy() for name, one in (("source", source), ("target", target)))
    _option("method", method, ("lmeds", "ransac"))
    threshold, trials, rng = _number("threshold", threshold, above=0), _integer("trials", trials, 1, MOST_TRIALS), _rng("rng", rng)
    if source.shape != target.shape:
        raise ValueError(f"source {source.shape} must have the shape of target {target.shape}")
    once, back = np.unique(np.hstack([source, target]), axis=0, return_inverse=True)
    p, q = once[:, :2], once[:, 2:]
    if len(once) < 4:
        raise ValueError(f"source and target must hold at least 4 different matches, got {len(once)}")
    model, inside = None, np.ones(len(once), dtype=bool)
    if not any(_on_a_line(one) for one in (p, q)):
        if method == "ransac" and len(once) > 4:
            model, inside = ransac((p, q), ProjectiveTransform, 4, threshold, max_trials=trials, rng=rng)
        elif len(once) > 4:
            inside = _least_median(p, q, trials, rng)
        model = model or (inside is not None and inside.sum() >= 4 and ProjectiveTransform.from_estimate(p[inside], q[inside]))
    if not model or not np.isfinite(model.params).all():
        raise ValueError("source and target fit no homography: are all points on a line?")
    return Fit(*(_like(given, torch.from_numpy(found)) for found in (model.params, inside[back.ravel()])))


def _on_a_line(points: np.ndarray) -> bool:
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return spread[1] <= 1e-9 * spread[0]


def _least_median(p: np.ndarray, q: np.ndarray, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Which matches lie within 2.5 robust standard deviations of the sample with the least median (Rousseeuw 1984)."""
    some = rng.random((trials, len(p))).argpartition(3)[:, :4]
    moved = torch.from_numpy(np.pad(p, ((0, 0), (0, 1)), constant_values=1)) @ _through_four(*map(torch.from_numpy, (p[some], q[some]))).mT
    errors = (moved[..., :2] / moved[..., 2:] - torch.from_numpy(q)).square().sum(-1).nan_to_num(math.inf)  # (trials, M)
    least, best = errors.median(1).values.min(0)
    sigma = 1.4826 * (1 + 5 / (len(p) - 4)) * math.sqrt(least)
    return (errors[best].sqrt() <= max(2.5 * sigma, 1e-3)).numpy()


def _through_four(p: Tensor, q: Tensor) -> Tensor:
    """Homographies (T, 3, 3) that take four points (T, 4, 2) exactly to four others; not finite where three lie on a line."""
    bases = []
    for points in (p, q):  # columns: three points, scaled so that they add up to the fourth
        columns = F.pad(points, (0, 1), value=1.0).mT
        bases.append(columns[..., :3] * (torch.linalg.inv_ex(columns[..., :3]).inverse @ columns[..., 3:]).mT)
    return bases[1] @ torch.linalg.inv_ex(bases[0]).inverse


def corner_error(matrix: Tensor, truth: Tensor, size: tuple[int, int]) -> float:
    """Mean distance (px) of the four corners of an image of `size`, warped by two homographies (3, 3)."""
    height, width = _size("size", size)
    corners = torch.tensor([[0, 0, 1], [0, height - 1, 1], [width - 1, 0, 1], [width - 1, height - 1, 1]], dtype=torch.float64)
    warped = []
    for name, one in (("matrix", matrix), ("truth", truth)):
        moved = corners @ _numbers(name, one, "3, 3").detach().cpu().double().T
        warped.append(moved[:, :2] / moved[:, 2:])
    if not warped[1].isfinite().all():
        raise ValueError("truth must be a homography that keeps the corners at a finite distance, got one that does not")
    return float((warped[0] - warped[1]).norm(dim=1).mean().nan_to_num(math.inf, math.inf))


def homography_accuracy(errors: Sequence[float], thresholds: Sequence[float] = (1, 3, 5)) -> dict[float, float]:
    """Percent of image pairs whose corner error is at most each threshold (px). errors may hold inf for a pair without a homography."""
    errors = _numbers("errors", errors, "M", finite=False).detach().cpu().double()
    if errors.isnan().any() or (errors < 0).any():
        raise ValueError(f"errors must be >= 0 or inf, got {'NaN' if errors.isnan().any() else float(errors.min())} in it")
    return {eps: 100 * float((errors <= _number("thresholds", eps, above=0) * ROUNDING).double().mean()) for eps in _several("thresholds", thresholds)}


# ---------------------------------------------------------------------------------------------------------------------
# 4. Labels through a video
# ---------------------------------------------------------------------------------------------------------------------


def _contexts(t: int, context: int) -> list[int]:
    """Frames that frame t (from 0, which is given) is matched to: the first, and up to `context` before t. min(t, context + 1) of them."""
    return [0, *range(max(1, t - context), t)]


@torch.no_grad()
def propagate_labels(
    features: Tensor, first_labels: Tensor, *, window: int = 15, context: int = 28, top_k: int = 15, temperature: float = 0.2, memory_mb: float = 256
) -> Tensor:
    """Soft labels of every frame, carried on from the first (Fig. 8; the protocol of DINO).

    features: (T, C, h, w); first_labels: (K, h, w) -> (T, K, h, w). Each cell of frame t takes the mean of the labels of its context frames'
    cells, weighted by exp(cosine / temperature); cells more than `window` rows or columns away weigh nothing (0: no window), and of all only
    the `top_k` largest weights are kept, with all that tie with the last. Soft labels, not decisions, are carried on.

    Frames are cut into tiles, each compared with the cells its window reaches: time and memory grow with the number of cells, not its square.
    Raises ValueError for labels of another size than the features and top_k larger than the number of cells.
    """
    given, (features,) = features, _tame(_floats("features", features, "T, C, h, w"))
    first = _full(_floats("first_labels", first_labels, "K, h, w", masks=True))
    count, _, h, w = features.shape
    window, context = _integer("window", window, 0), _integer("context", context, 0)
    top_k, temperature, memory = _integer("top_k", top_k, 1), _number("temperature", temperature, above=0), _number("memory_mb", memory_mb, above=0)
    if first.shape[1:] != (h, w):
        raise ValueError(f"first_labels must be {(h, w)}, the size of features, got {tuple(first.shape[1:])}")
    if top_k > h * w:
        raise ValueError(f"top_k must be at most the {h * w} cells of the one context of the second frame, got {top_k}")
    reach = window or max(h, w)
    units = F.normalize(features, dim=1)
    labels = [first.to(features)]
    for t in range(1, count):
        sources = _contexts(t, context)
        known, values = (torch.stack([one[s] for s in sources]) for one in (units, labels))
        out = torch.empty_like(labels[0])
        for tile, near in _tiles(h, w, reach, len(sources), memory):
            out[(..., *tile)] = _carry(units[(t, ..., *tile)], known[(..., *near)], values[(..., *near)], _mask(tile, near, reach), top_k, temperature)
        labels.append(out)
    return _like(given, torch.stack(labels))


def _tiles(h: int, w: int, reach: int, sources: int, memory_mb: float) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Cuts a frame into tiles: (rows, columns) of a tile, and of the cells that it can see."""
    side = min(max(reach, 8), 16)
    while side > 1 and 16 * sources * side**2 * min(h, side + 2 * reach) * min(w, side + 2 * reach) > memory_mb * 2**20:  # four float32 arrays
        side //= 2
    for y in range(0, h, side):
        for x in range(0, w, side):
            tile = slice(y, min(y + side, h)), slice(x, min(x + side, w))
            yield tile, tuple(slice(max(0, s.start - reach), min(end, s.stop + reach)) for s, end in zip(tile, (h, w)))


def _mask(tile: tuple[slice, slice], near: tuple[slice, slice], reach: int) -> Tensor:
    """(cells of the tile, cells nearby) bool: at most `reach` rows and columns away."""
    rows, columns = ((torch.arange(a.start, a.stop)[:, None] - torch.arange(b.start, b.stop)).abs() <= reach for a, b in zip(tile, near))
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1).flatten(1)


def _carry(g: Tensor, f: Tensor, labels: Tensor, mask: Tensor, top_k: int, temperature: float) -> Tensor:
    """Labels (K, y, x) of target cells g (C, y, x) from sources f (contexts, C, v, u) with labels (contexts, K, v, u)."""
    mask = mask.to(g.device).repeat(1, len(f))
    scores = g.flatten(1).T @ f.transpose(0, 1).flatten(1)  # (targets, contexts * cells)
    scores.masked_fill_(~mask, -math.inf)  # exp gives the factor 0 of the window
    weights = ((scores - scores.amax(1, keepdim=True)) / temperature).exp()  # the shift cancels below
    if top_k < weights.shape[1]:
        weights = weights * (weights >= weights.topk(top_k, dim=1).values[:, -1:])
    weights = weights / weights.sum(1, keepdim=True)
    return (labels.transpose(0, 1).flatten(1) @ weights.T).unflatten(1, g.shape[1:])


def first_mask_to_labels(mask: Tensor, size: tuple[int, int], *, num_labels: int | None = None) -> Tensor:
    """One-hot labels (K, h, w), channel 0 the background, of a mask (H, W) of integers >= 0, resized by nearest pixel to `size` (image // stride)."""
    size, found = _size("size", size, 1), _numbers("mask", mask, "H, W", masks=True)
    if found.is_floating_point():
        raise TypeError(f"mask must be integers (H, W), got {_got(mask)}")
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= MOST_LABELS:
        raise ValueError(f"mask must hold integers in 0..{MOST_LABELS - 1}, got {low if low < 0 else high} in it")
    num_labels = high + 1 if num_labels is None else _integer("num_labels", num_labels, high + 1, MOST_LABELS)
    small = F.interpolate(found[None, None].double(), size=size, mode="nearest-exact")[0, 0].long()
    return _like(mask, (small == torch.arange(num_labels, device=small.device)[:, None, None]).float())


def _min_max(labels: Tensor) -> Tensor:
    """Every channel (..., h, w) stretched to [0, 1]; channels that are nowhere positive are left, constant ones become 0."""
    low, high = labels.amin((-2, -1), keepdim=True), labels.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(high > 0, (labels - low) / torch.where(span > 0, span, 1), labels)


def labels_to_masks(labels: Tensor, size: tuple[int, int], *, stride: int) -> Tensor:
    """Masks (..., H, W) of integers from soft labels (K, h, w) or (T, K, h, w): bilinear times `stride`, `_min_max`, argmax, nearest pixel of `size`."""
    given, labels = labels, _full(_floats("labels", labels, "K, h, w", "T, K, h, w", masks=True))
    size, stride = _size("size", size, 1), _integer("stride", stride, 1, 1024)
    stack = labels if labels.ndim == 4 else labels[None]
    large = F.interpolate(stack, scale_factor=stride, mode="bilinear", align_corners=False)
    masks = F.interpolate(_min_max(large).argmax(1, keepdim=True).double(), size=size, mode="nearest-exact")[:, 0].long()
    return _like(given, masks if labels.ndim == 4 else masks[0])


def _two_masks(mask: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for name, one in (("mask", mask), ("truth", truth)):
        found.append(_numbers(name, one, "H, W", masks=True))
        if found[-1].dtype != torch.bool:
            raise TypeError(f"{name} must be booleans (H, W), got {_got(one)}")
    if found[0].shape != found[1].shape:
        raise ValueError(f"mask {tuple(found[0].shape)} must have the shape of truth {tuple(found[1].shape)}")
    return found[0].cpu().numpy(), found[1].cpu().numpy()


def region_similarity(mask: Tensor, truth: Tensor) -> float:
    """J of DAVIS: intersection over union of two bool masks (H, W), in [0, 1]; 1 when both are empty."""
    mask, truth = _two_masks(mask, truth)
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def boundary_accuracy(mask: Tensor, truth: Tensor, *, width: float = 0.008) -> float:
    """F of DAVIS: the F-measure of the boundary pixels of two bool masks (H, W), in [0, 1]; 1 when neither has any.

    A boundary pixel is found when one of the other mask is at most ceil(width * diagonal) px away.
    """
    mask, truth = _two_masks(mask, truth)
    radius = math.ceil(_number("width", width, above=0) * math.hypot(*mask.shape))
    a, b = _boundary(mask), _boundary(truth)
    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    precision, recall = (float((one & binary_dilation(other, disk(radius))).sum() / one.sum()) for one, other in ((a, b), (b, a)))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or right below."""
    more = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ more[:-1, 1:]) | (mask ^ more[1:, :-1]) | (mask ^ more[1:, 1:])


# ---------------------------------------------------------------------------------------------------------------------
# 5. Edits and colours
# ---------------------------------------------------------------------------------------------------------------------


class Edit(NamedTuple):
    image: Tensor  # (3, H, W), the target with the sticker on it
    sticker: Tensor  # (4, H, W), the warped sticker
    source: Tensor  # (M, 2), sticker pixels that were matched
    matches: Matches  # what they were matched to
    fit: Fit


def propagate_edit(
    source_map: Tensor,
    target_map: Tensor,
    sticker: Tensor,
    target_image: Tensor,
    *,
    max_points: int = 1000,
    threshold: float = 5.0,
    rng: int | np.random.Generator = 0,
    convention: str = "consistent",
    similarity: str = "l2",
) -> Edit:
    """A sticker drawn on the source image, put on the same part of the target (Fig. 6).

    source_map, target_map: (C, h, w). sticker: (4, H, W), RGB and opacity in [0, 1], as large as the source image. target_image: (3, H', W')
    in [0, 1]. At most max_points random pixels that are not transparent are matched, a homography is fitted by RANSAC (threshold, px), and
    the warped sticker is laid over the target. similarity: "l2", the `nearest` of sampled unit-length features (the official code), or "cosine", as in
    `match`. Raises ValueError for fewer than four such pixels, and when the matches fit no homography.
    """
    find = {"l2": nearest, "cosine": match}[_option("similarity", similarity, ("l2", "cosine"))]
    sticker, target_image = _pictures("sticker", sticker, "4, H, W"), _pictures("target_image", target_image, "3, H, W")
    source_map, given = _floats("source_map", source_map, "C, h, w"), source_map
    target_map, max_points = _floats("target_map", target_map, "C, h, w"), _integer("max_points", max_points, 4)
    _option("convention", convention, CONVENTIONS), _number("threshold", threshold, above=0)
    y, x = sticker[3].cpu().nonzero().T
    if len(x) < 4:
        raise ValueError(f"sticker must have at least 4 pixels that are not transparent, got {len(x)}")
    rng = _rng("rng", rng)
    some = torch.from_numpy(rng.choice(len(x), min(len(x), max_points), replace=False))
    source, size = torch.stack([x, y], 1)[some], tuple(target_image.shape[1:])
    found = find(source_map, target_map, source, source_size=tuple(sticker.shape[1:]), target_size=size, convention=convention)
    fit = fit_homography(source, found.points, method="ransac", threshold=threshold, rng=rng)
    colour, opacity = sticker[:3] * sticker[3:], sticker[3:]  # opacity first, or the border would take colour from transparent pixels
    layers = torch.cat([colour, opacity]).permute(1, 2, 0).cpu().double().numpy()
    warped = torch.from_numpy(warp(layers, np.linalg.inv(fit.matrix.numpy()), output_shape=size, order=1)).permute(2, 0, 1).to(target_image)
    image = warped[:3] + (1 - warped[3:]) * target_image
    pasted = torch.cat([warped[:3] / warped[3:].clamp_min(1e-6), warped[3:]])
    image, pasted = (one if isinstance(given, Tensor) else _like(given, one) for one in (image, pasted))
    return Edit(image, pasted, _like(given, source), Matches(*(_like(given, one) for one in found)), Fit(*(_like(given, one) for one in fit)))


def feature_colours(maps: Sequence[Tensor]) -> list[Tensor]:
    """Feature maps (C, h, w), sizes may differ, as pictures (3, h, w) in [0, 1]: their first three principal components, fitted jointly (Fig. 14).

    Each component is stretched to [0, 1] over all maps together; its largest weight is positive, which fixes the sign.
    """
    given = _several("maps", maps)
    maps = [_floats("maps", one, "C, h, w") for one in given]
    if len({len(one) for one in maps}) > 1 or len(maps[0]) < 3 or sum(one[0].numel() for one in maps) < 3:
        raise ValueError(f"maps must have the same channels, at least three, and three cells in all, got {[tuple(one.shape) for one in maps]}")
    cells = torch.cat([one.flatten(1).T.cpu() for one in maps]).double().numpy()
    if not np.ptp(cells, axis=0).any():
        raise ValueError("maps must not be constant: there are no components")
    found = PCA(3, svd_solver="full").fit(cells)
    largest = np.abs(found.components_).argmax(1)
    scores = found.transform(cells) * np.sign(found.components_[range(3), largest])
    low, span = scores.min(0), np.ptp(scores, axis=0)
    colours = torch.from_numpy((scores - low) / np.where(span > 0, span, 1))
    parts = colours.split([one[0].numel() for one in maps])
    return [_like(came, part.T.reshape(3, *one.shape[1:]).to(one)) for part, one, came in zip(parts, maps, given)]
