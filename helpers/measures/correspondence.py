"""Correspondence tasks with exact answers, and the descriptors that learnt features are compared with.

Four tasks: the same part of two creatures (as SPair-71k asks), two views of one scene (HPatches), the two eyes of a stereo camera (Middlebury), objects
carried through a clip (DAVIS). Then the peers: raw patches, VAE latents and vision transformers as maps (B, C, h, w) that one matcher serves, and SIFT,
which brings points of its own.

Points are (N, 2), x then y, in px, and pixel centres are whole numbers, as in the papers' data: the top left pixel's centre is (0, 0) and a picture spans
[-0.5, W - 0.5] x [-0.5, H - 0.5]. (The toy world counts from the corner; its points are half a pixel less here.) Cell (row i, column j) of a map with
stride s is centred on ((j + 0.5) s - 0.5, (i + 0.5) s - 0.5). Everything is looked up by (seed, item number): an item is the same alone and among many.
Bad arguments raise ValueError or TypeError that names the argument. Pictures and points may be any array-like: of numpy come numpy arrays.
"""

import inspect
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color import rgb2gray
from skimage.feature import SIFT, corner_harris, corner_peaks, match_descriptors
from skimage.transform import resize
from torch import Tensor, nn

from ..arguments import choice, flag, got, instance, integer, like, numbers, real, texts
from ..datasets.real import StereoPair, marked_heads, photo_clips, photographs
from ..toyworld.creatures import STYLES, CreatureClips, creature_clips, creatures
from ..toyworld.draws import Draws
from ..toyworld.render import TEXTURES, waved_background
from ..toyworld.shapes import clips, shapes
from ..toyworld.skeletons import CATEGORIES, KEYPOINTS

__all__ = [
    "HomographyPairs", "LabelClips", "PointPairs", "SemanticPairs", "confusion", "head_pairs", "homography_pairs", "interest_points", "label_clips",
    "raw_patches", "semantic_pairs", "sift_matches", "sift_transfer", "stereo_points", "stereo_view", "vae_latents", "vit_features", "warp_points",
]  # fmt: skip

TEXTURED_PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "coins", "gravel")
KINDS = ("viewpoint", "illumination")
# where in a seed's endless lists each kind of number is looked up: far behind any training list 0, 1, 2, ..., and each from a place of its own
_PICTURES, _CHOICES, _PLACES, _GROUNDS, _VIEWS = (k * 10**10 for k in range(1, 6))
_MANY, _TRIES = 10**6, 64  # pairs of a category, scenes of a seed; redraws of what does not fit


@dataclass
class PointPairs:
    """source, target (N, 2) float32: row i of one is the same point as row i of the other (px of the two pictures)."""

    source: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.source)


def _pictures(argument: str, images, shape: str) -> Tensor:
    """`images` as a float tensor, (B, 3, H, W) or (3, H, W), in [0, 1] up to rounding; bytes are refused: they would all be white."""
    found = numbers(argument, images, shape)
    if not found.is_floating_point():
        raise TypeError(f"{argument} must be floating-point numbers in [0, 1], got {got(images)}")
    low, high = found.min().item(), found.max().item()
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ValueError(f"{argument} must lie in [0, 1], got values from {low:.3g} to {high:.3g}")
    return found


def _points(argument: str, points, rows: int | str = "N", size: tuple[int, int] | None = None, finite: bool = True) -> Tensor:
    """(N, 2) float64, inside a picture of `size` (height, width) where it is given. finite=False: rows of NaN may be among them."""
    found = numbers(argument, points, f"{rows} 2", finite=finite).double()
    if not finite and found.isinf().any():
        raise ValueError(f"{argument} must be points or NaN, got an infinity in it")
    if size is not None:
        inside = [(points >= -0.5).all() and (points <= points.new_tensor(size[::-1]) - 0.5).all() for points in (found, found.flip(1))]
        if not inside[0]:
            hint = "; as row, column they would: swap them" if inside[1] else ""
            raise ValueError(f"{argument} must lie in the picture of height {size[0]} and width {size[1]}{hint}")
    return found


def _each(argument: str, values, count: int, of: str) -> list:
    """The entries of a list, tuple or array, one for each of `count`."""
    if not isinstance(values, list | tuple) and not (isinstance(values, Tensor | np.ndarray) and values.ndim):
        raise TypeError(f"{argument} must be a list, one entry for each {of}, got {got(values)}")
    if len(values) != count:
        raise ValueError(f"{argument} must hold one entry for each of the {count} {of}s, got {len(values)}")
    return list(values)


def _seed(seed) -> int:
    if integer("seed", seed, low=0) >= 2**63:
        raise ValueError(f"seed must be below 2**63, got {got(seed)}")
    return int(seed)


def _sides(argument: str, value: int) -> int:
    if integer(argument, value, low=32) % 32:
        raise ValueError(f"{argument} must be a multiple of 32, got {value}")
    return int(value)


# ------------------------------------------------------------------------------------------------------------------- semantic pairs


@dataclass
class SemanticPairs:
    """B pairs of pictures that show two creatures with the same part names.

    source, target (B, 3, S, S) in [0, 1]; source_category, target_category: B names. names[i]: the keypoints visible in both pictures of pair i;
    source_points[i], target_points[i] (n_i, 2): where they lie. seen_names[i], seen_points[i] (m_i, 2): all that the target shows, those that the source
    hides included (what a matcher may confuse a keypoint with). source_box, target_box (B, 4): x0, y0, x1, y1, the outer edges of the
    creatures' masks, in px.
    """

    source: Tensor
    target: Tensor
    source_category: list[str]
    target_category: list[str]
    names: list[tuple[str, ...]]
    source_points: list[Tensor]
    target_points: list[Tensor]
    seen_names: list[tuple[str, ...]]
    seen_points: list[Tensor]
    source_box: Tensor
    target_box: Tensor

    def __len__(self) -> int:
        return len(self.source)


def relatives(category: str) -> tuple[str, ...]:
    """The other categories whose keypoints have the same names: quadrupeds of quadrupeds, the bird of the fish; a thing has none."""
    choice("category", category, CATEGORIES)
    return tuple(c for c in CATEGORIES if c != category and KEYPOINTS[c] == KEYPOINTS[category])


def _each_side(styles) -> tuple:
    """Styles of source and target, each None (85 % photos) or one name."""
    if styles is None or isinstance(styles, str):
        styles = (styles, styles)
    if not isinstance(styles, list | tuple) or len(styles) != 2:
        raise ValueError(f"styles must be None, one of {STYLES} or a pair (source's, target's), got {got(styles)}")
    return tuple(style if style is None else choice("styles", style, STYLES) for style in styles)


def semantic_pairs(
    seed: int, pairs_per_category: int, *, categories=CATEGORIES, across: bool = False, size: int = 64, styles=None, facing: str | None = None,
    textures=TEXTURES, exclude=(),
) -> SemanticPairs:  # fmt: skip
    """Pairs of creatures with the keypoints that both pictures show, `pairs_per_category` for each category (the source's), in the order of `categories`.

    across: the target is another category of the source's family, drawn among `categories`; those without such a relative give no pair.
    styles: None (85 % photos), a name of STYLES for both sides, or a pair such as ("photo", "sketch") or ("photo", None).
    facing: None, "same" or "opposite" (a mirrored creature keeps its part names). textures, exclude: as in `creatures`. A pair that shows no common
    keypoint, or faces another way than asked, is drawn again. Pair k of a category does not depend on how many pairs or categories are asked for
    (across: it depends on which relatives are allowed).
    """
    seed, count, size = _seed(seed), integer("pairs_per_category", pairs_per_category, low=1, high=_MANY), integer("size", size, low=32)
    across, sides, textures = flag("across", across), _each_side(styles), texts("textures", textures, options=TEXTURES)
    if facing is not None:
        choice("facing", facing, ("same", "opposite"))
    chosen = texts("categories", categories, options=CATEGORIES)
    partners = {c: [r for r in relatives(c) if r in chosen] if across else [c] for c in dict.fromkeys(chosen)}
    if not any(partners.values()):
        raise ValueError(f"categories must hold two relatives where across is asked for, got {chosen}")
    rows = []
    for source, targets in partners.items():
        if not targets:
            continue
        numbers = CATEGORIES.index(source) * _MANY + np.arange(count)
        which = Draws(seed, _CHOICES + numbers).integer(len(targets)).numpy()
        found = {}
        for k, target in enumerate(targets):
            options = [{"categories": c, "styles": s, "size": size, "textures": textures, "exclude": exclude}
                       for c, s in zip((source, target), sides, strict=True)]  # fmt: skip
            found |= _drawn(seed, numbers[which == k], source, target, options, facing)
        rows += [found[n] for n in numbers.tolist()]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return SemanticPairs(*(torch.stack(column) if i in (0, 1, 9, 10) else column for i, column in enumerate(columns)))


def _drawn(seed: int, numbers: np.ndarray, source: str, target: str, options: list[dict], facing: str | None) -> dict[int, tuple]:
    """For each pair number the fields of `SemanticPairs`, in order; pairs that do not fit are drawn again."""
    found, every = {}, KEYPOINTS[source]
    for attempt in range(_TRIES):
        if len(numbers) == 0:
            return found
        items = _PICTURES + 2 * (numbers * _TRIES + attempt)
        a, b = creatures(seed, items, **options[0]), creatures(seed, items + 1, **options[1])
        both = a.visible & b.visible
        fits = both.any(1) & ((a.facing == b.facing) == (facing == "same") if facing else True)
        for i in fits.nonzero()[:, 0].tolist():
            names, seen = (tuple(every[k] for k in row.nonzero()[:, 0].tolist()) for row in (both[i], b.visible[i]))
            found[int(numbers[i])] = (a.image[i], b.image[i], source, target, names, a.keypoints[i][both[i]] - 0.5, b.keypoints[i][both[i]] - 0.5,
                                      seen, b.keypoints[i][b.visible[i]] - 0.5, a.box[i] - 0.5, b.box[i] - 0.5)  # fmt: skip
        numbers = numbers[~fits.numpy()]
    raise RuntimeError(f"{len(numbers)} pairs of {source} and {target} still do not fit after {_TRIES} tries")


def head_pairs(size: int = 64) -> SemanticPairs:
    """All ordered pairs of the photographed heads of `real.marked_heads` that share two names of points or more, marked by hand.

    A head has no mask; its box is the whole picture's middle, half as wide and as high, about as large as the face. Its category is its name.
    """
    heads, rows = marked_heads(integer("size", size, low=16)), []
    box = torch.tensor([0.25, 0.25, 0.75, 0.75]) * size - 0.5
    for i, here in enumerate(heads.points):
        for j, there in enumerate(heads.points):
            names = tuple(name for name in here if name in there)
            if i != j and len(names) >= 2:
                here_at, there_at, seen = (torch.tensor([side[name] for name in some]) for side, some in ((here, names), (there, names), (there, tuple(there))))
                rows.append((heads.images[i], heads.images[j], heads.names[i], heads.names[j], names, here_at, there_at, tuple(there), seen, box, box))
    columns = [list(column) for column in zip(*rows, strict=True)]
    return SemanticPairs(*(torch.stack(column) if k in (0, 1, 9, 10) else column for k, column in enumerate(columns)))


def confusion(predicted, pairs: SemanticPairs) -> tuple[tuple[str, ...], Tensor]:
    """Which keypoint was taken instead: (names, matrix (K, K) int64), rows the keypoint asked for, columns the visible keypoint of the target nearest
    to the prediction. predicted: for each pair (n_i, 2) px in the target, in the order of pairs.names[i]; a row with NaN (no answer) counts nowhere."""
    instance("pairs", pairs, SemanticPairs, "SemanticPairs")
    predicted = _each("predicted", predicted, len(pairs), "pair")
    places = [_points(f"predicted[{i}]", points, len(pairs.names[i]), finite=False).cpu() for i, points in enumerate(predicted)]
    names = tuple(dict.fromkeys(name for c in pairs.source_category for name in KEYPOINTS[c]))
    matrix = torch.zeros(len(names), len(names), dtype=torch.long)
    for i, points in enumerate(places):
        nearest = torch.cdist(points, pairs.seen_points[i].double()).argmin(1).tolist()
        for name, k, answered in zip(pairs.names[i], nearest, (~points.isnan().any(1)).tolist(), strict=True):
            matrix[names.index(name), names.index(pairs.seen_names[i][k])] += answered
    return names, like(predicted[0], matrix)


# ----------------------------------------------------------------------------------------------------------------- homography pairs


@dataclass
class HomographyPairs:
    """B pairs of views of flat scenes. source, target (B, 3, S, S) in [0, 1]; homography (B, 3, 3) float64: (x, y, 1) in px of the source to the
    target, last entry 1; valid (B, S, S) bool: the target's pixel shows a point that the source shows too; kind: B names of KINDS; scene: B names."""

    source: Tensor
    target: Tensor
    homography: Tensor
    valid: Tensor
    kind: list[str]
    scene: list[str]

    def __len__(self) -> int:
        return len(self.source)


def warp_points(homography: Tensor, points: Tensor) -> Tensor:
    """Points (N, 2) through one homography (3, 3), in float64. Raises ValueError for a matrix that has no inverse, and where a point goes to infinity."""
    matrix, came = numbers("homography", homography, "3 3").double().cpu(), points
    points = _points("points", points).cpu()
    if torch.linalg.matrix_rank(matrix) < 3:
        raise ValueError(f"homography must have an inverse, got {matrix.tolist()}")
    moved = _warped(matrix, points)
    if not moved.isfinite().all():
        raise ValueError("homography must keep the points at a finite distance, got one that does not")
    return like(came, moved)


def _warped(matrix: Tensor, points: Tensor) -> Tensor:
    moved = torch.cat([points, torch.ones_like(points[:, :1])], 1) @ matrix.T
    return moved[:, :2] / moved[:, 2:]


def _through_corners(source: Tensor, target: Tensor) -> Tensor:
    """The (3, 3) float64 homography, its last entry 1, that takes four points (4, 2) to four others, no three of them on one line."""
    rows = []
    for (x, y), (u, v) in zip(source.tolist(), target.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    solved = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), target.flatten())
    return torch.cat([solved, torch.ones(1, dtype=torch.float64)]).reshape(3, 3)


def _paste(canvas: Tensor, picture: Tensor, mask: Tensor, left: int, top: int) -> None:
    """Lay the masked pixels of a square picture on the canvas; what hangs over its edges is cut off."""
    side, whole = mask.shape[0], canvas.shape[-1]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, whole), min(top + side, whole)
    part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    place = canvas[:, y0:y1, x0:x1]
    canvas[:, y0:y1, x0:x1] = torch.where(mask[part], picture[:, part[0], part[1]], place)


def _toy_canvas(seed: int, scene: int, side: int) -> Tensor:
    """(3, side, side): 49 textured shapes and 49 creatures, each on its own cell of a 7 x 7 grid and jittered, on a waved ground."""
    d = Draws(seed, [_GROUNDS + scene])
    low, high = (torch.stack([d.uniform(a, a + 0.3) for _ in range(3)], 1).float() for a in (0.1, 0.5))
    fine = torch.stack([torch.stack([d.uniform(-20, 20), d.uniform(-20, 20), d.uniform()], 1) for _ in range(4)], 1)
    canvas = waved_background(low, high, fine / torch.tensor([side, side, 1]), side)[0].clone()
    things = scene * 49 + np.arange(49)
    for order, (kind, widths) in enumerate(((shapes, (0.12, 0.16)), (creatures, (0.17, 0.21, 0.26)))):
        at = Draws(seed, _PLACES + 2 * things + order)
        sizes, dx, dy = at.choice([max(32, round(w * side)) for w in widths]), at.uniform(-0.6, 0.6), at.uniform(-0.6, 0.6)
        for size in sizes.unique().tolist():
            rows = (sizes == size).nonzero()[:, 0].tolist()
            drawn = kind(seed, _PICTURES + things[rows], size=size)
            for k, image, mask in zip(rows, drawn.image, drawn.mask, strict=True):
                _paste(canvas, image, mask, *(int(side * (cell + 0.5 + shift) / 7 - size / 2) for cell, shift in ((k % 7, dx[k]), (k // 7, dy[k]))))
    return canvas


def _view(canvas: Tensor, homography: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What a camera sees of a canvas (3, 3S, 3S) whose middle (2S, 2S) is the source's S px: picture (3, S, S) and validity (S, S).

    Each pixel is the mean of 4 x 4 bilinear samples, which the canvas, twice as fine as the source, holds in full.
    """
    back = torch.linalg.inv(homography)
    line = (torch.arange(4 * size, dtype=torch.float64) + 0.5) / 4 - 0.5
    grid = torch.stack([line.repeat(4 * size), line.repeat_interleave(4 * size)], 1)
    place = (_warped(back, grid) + 0.5 + size / 4) / (0.75 * size) - 1  # canvas edges at -1 and 1
    seen = F.grid_sample(canvas[None], place.float().view(1, 4 * size, 4 * size, 2), padding_mode="border", align_corners=False)
    centre = torch.arange(size, dtype=torch.float64)
    here = _warped(back, torch.stack([centre.repeat(size), centre.repeat_interleave(size)], 1))
    return F.avg_pool2d(seen, 4)[0].clamp(0, 1), ((here >= -0.5) & (here <= size - 0.5)).all(1).view(size, size)


def _random_homography(d: Draws, size: int, jitter: float) -> Tensor:
    """The target's four corners lie within jitter * size (each axis) of the source's; nearly flat quadrilaterals are drawn again."""
    corners = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64) * size - 0.5
    for _ in range(_TRIES):
        seen = corners + size * torch.stack([d.uniform(-jitter, jitter) for _ in range(8)]).view(4, 2)
        before, after = seen - seen.roll(1, 0), seen.roll(-1, 0) - seen
        if (before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]).min() > 0.3 * size * size:  # 1 for the square itself
            return _through_corners(seen, corners)
    raise RuntimeError("no homography found")


def _relit(picture: Tensor, d: Draws) -> Tensor:
    """Gain, gamma, contrast about the mean, a slight blur and noise."""
    gain, gamma, contrast, sigma, noise = (d.uniform(*r).item() for r in ((0.65, 1.35), (0.6, 1.6), (0.6, 1.3), (0.2, 0.7), (0.0, 0.02)))
    out = (picture * gain).clamp(0, 1) ** gamma
    out = out.mean() + (out - out.mean()) * contrast
    tap = torch.exp(-torch.arange(-3.0, 4.0).square() / (2 * sigma * sigma))
    tap = (tap / tap.sum()).expand(3, 1, -1)
    out = F.conv2d(F.pad(out[None], (3, 3, 3, 3), mode="replicate"), tap[:, :, None], groups=3)
    out = F.conv2d(out, tap[..., None], groups=3)[0]
    generator = torch.Generator().manual_seed(int(d.uniform() * 2**53))
    return (out + noise * torch.randn(out.shape, generator=generator)).clamp(0, 1)


def homography_pairs(
    seed: int, *, source: str = "toy", kinds=KINDS, scenes: int | None = None, per_scene: int = 5, size: int = 128, jitter: float = 0.25,
) -> HomographyPairs:  # fmt: skip
    """Each scene's source against `per_scene` targets of each kind: scene by scene, within a scene kind by kind.

    source: "toy" (crowded scenes; 8 unless `scenes` says otherwise) or "photographs" (TEXTURED_PHOTOGRAPHS, at most 6). viewpoint: the target's corners
    lie up to `jitter` (in (0, 0.25]) of the side from the source's, both axes, and the scene goes on beyond the source's borders. illumination: the
    same view relit, homography = identity. size: side in px, a multiple of 32. A pair does not depend on the other scenes, kinds or numbers.
    """
    seed, kinds = _seed(seed), texts("kinds", kinds, options=KINDS)
    most = _MANY if choice("source", source, ("toy", "photographs")) == "toy" else len(TEXTURED_PHOTOGRAPHS)
    scenes = integer("scenes", min(8, most) if scenes is None else scenes, low=1, high=most)
    size, per_scene = _sides("size", size), integer("per_scene", per_scene, low=1, high=1000)
    jitter = real("jitter", jitter, low=0, high=0.25, above=True)
    rows, still = [], torch.eye(3, dtype=torch.float64)
    for scene in range(scenes):
        name = f"toy {scene}" if source == "toy" else TEXTURED_PHOTOGRAPHS[scene]
        canvas = _toy_canvas(seed, scene, 3 * size) if source == "toy" else photographs(name, size=3 * size)[name]
        first = _view(canvas, still, size)[0]
        for kind in kinds:
            for number in range(per_scene):
                d = Draws(seed, [_VIEWS + (scene * 1000 + number) * len(KINDS) + KINDS.index(kind)])
                matrix = _random_homography(d, size, jitter) if kind == "viewpoint" else still
                target, valid = _view(canvas, matrix, size) if kind == "viewpoint" else (_relit(first, d), torch.ones(size, size, dtype=torch.bool))
                rows.append((first, target, matrix, valid, kind, name))
    *tensors, kind, name = zip(*rows, strict=True)
    return HomographyPairs(*map(torch.stack, tensors), list(kind), list(name))


def interest_points(image: Tensor, count: int, *, min_distance: int = 2) -> Tensor:
    """At most `count` Harris corners (K, 2) of one picture (3, H, W) in [0, 1], strongest first, at pixel centres; none where the picture is flat.

    No two are within `min_distance` px of each other (the larger of the two axes), none that near to the border.
    """
    count, min_distance = integer("count", count, low=1), integer("min_distance", min_distance, low=1, high=10**6)
    grey = rgb2gray(_pictures("image", image, "3 H W").permute(1, 2, 0).double().cpu().numpy())
    strength = corner_harris(grey)
    if not strength.max() > 1e-12:
        return like(image, torch.zeros(0, 2))
    peaks = corner_peaks(strength, min_distance=min_distance, threshold_rel=1e-4)
    order = np.argsort(-strength[tuple(peaks.T)], kind="stable")[:count]
    return like(image, torch.from_numpy(peaks[order][:, ::-1].copy()).float())


# ---------------------------------------------------------------------------------------------------------------------------- stereo


def stereo_view(pair: StereoPair, *, window: tuple[int, int, int, int], size: tuple[int, int], shift: int = 0) -> StereoPair:
    """The same window of both pictures at a working size, its disparity in px of that size.

    window: left, top, width, height in px of the left picture; the right picture's window begins `shift` px further left, which takes `shift` from
    every disparity. size: height, width of the result, multiples of 32. Pictures are averaged; the disparity is that of the pixel under each new
    pixel's centre, so that nothing is mixed across an edge.
    """
    left_picture, right_picture, disparity = _eyes(pair)
    window, size, shift = _whole("window", window, 4), _whole("size", size, 2), integer("shift", shift)
    left, top, width, height = (integer("window", v, low=low) for v, low in zip(window, (0, 0, 1, 1), strict=True))
    out = tuple(_sides("size", s) for s in size)
    whole_height, whole_width = disparity.shape
    if left + width > whole_width or top + height > whole_height or not 0 <= left - shift <= whole_width - width:
        raise ValueError(f"window {tuple(window)} with shift {shift} must lie inside both pictures of {whole_width} x {whole_height} px")

    def cut(picture: Tensor, x: int) -> Tensor:
        part = picture[:, top : top + height, x : x + width].permute(1, 2, 0).double().cpu().numpy()
        return like(pair.left, torch.from_numpy(resize(part, out, anti_aliasing=True)).permute(2, 0, 1).float().clamp(0, 1).contiguous())

    rows, columns = (((torch.arange(n) + 0.5) * full / n).long() for n, full in zip(out, (height, width), strict=True))
    disparity = (disparity[top + rows][:, left + columns] - shift) * (out[1] / width)
    return StereoPair(cut(left_picture, left), cut(right_picture, left - shift), like(pair.left, disparity))


def _whole(argument: str, values, count: int) -> list[int]:
    return numbers(argument, values, str(count), whole=True).tolist()


def _eyes(pair) -> tuple[Tensor, Tensor, Tensor]:
    """Both pictures and the disparity (on the CPU), of one size."""
    instance("pair", pair, StereoPair, "a StereoPair")
    sizes = {}
    left, right = (_pictures(f"pair.{side}", getattr(pair, side), "3 H W") for side in ("left", "right"))
    disparity = numbers("pair.disparity", pair.disparity, "H W", sizes, finite=False).cpu()
    if left.shape[1:] != disparity.shape or right.shape[1:] != disparity.shape:
        shapes = ", ".join(str(tuple(one.shape)) for one in (left, right, disparity))
        raise ValueError(f"pair must have pictures and a disparity of one size, got {shapes}")
    return left, right, disparity


def stereo_points(pair: StereoPair, count: int, seed: int) -> PointPairs:
    """At most `count` points of the left picture, at pixel centres, whose disparity is measured and whose match (x - disparity, y) lies inside the
    right picture. One disparity map cannot tell whether the match is hidden behind something nearer: a few of the points have none to be seen.
    A larger `count` only adds points at the end.
    """
    count, seed, (_, right, disparity) = integer("count", count, low=1), _seed(seed), _eyes(pair)
    rows, columns = disparity.isfinite().nonzero().unbind(1)
    source = torch.stack([columns, rows], 1).double()
    moved = source[:, 0] - disparity[rows, columns].double()
    inside = (moved >= -0.5) & (moved <= right.shape[-1] - 0.5)
    if not bool(inside.any()):
        raise ValueError("pair must have a measured disparity whose match lies inside the right picture, got none")
    source, moved = source[inside], moved[inside]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(source))[:count])
    target = torch.stack([moved, source[:, 1]], 1)
    return PointPairs(*(like(pair.left, one[order].float()) for one in (source, target)))


# ----------------------------------------------------------------------------------------------------------------------------- clips


@dataclass
class LabelClips:
    """video (B, T, 3, S, S) in [0, 1]; labels (B, T, S, S) int64: 0 background, 1 and 2 the two objects, exact in every frame; captions: B texts."""

    video: Tensor
    labels: Tensor
    captions: list[str]

    def __len__(self) -> int:
        return len(self.video)


def _twinned(drawn: CreatureClips) -> CreatureClips:
    """Both creatures of each clip the same but for their steps, walking towards each other, past each other in the middle of the clip, and on."""
    same = {name: getattr(drawn, name)[:, :1].expand_as(getattr(drawn, name)).clone() for name in ("category", "colour", "texture", "traits", "tone", "period",
            "middle")}  # fmt: skip
    unit = drawn.unit[..., :1].expand_as(drawn.unit).clone()
    frames, size = drawn.position.shape[1], drawn.size
    across = torch.linspace(-0.22, 0.22, frames, dtype=torch.float64) * size  # from the middle of the picture
    beside = 0.04 * size  # the paths lie this far above and below it
    x = size / 2 + torch.stack([across, -across], 1)
    y = size / 2 + torch.tensor([-beside, beside], dtype=torch.float64).expand(frames, 2)
    position = torch.stack([x, y], -1).expand_as(drawn.position).clone()
    facing = torch.tensor([0, 1]).expand_as(drawn.facing).clone()
    speed, direction = torch.ones_like(drawn.speed), 4 * facing  # what the captions say: slowly to the right and to the left
    return replace(drawn, **same, unit=unit, position=position, facing=facing, speed=speed, direction=direction)


def label_clips(seed: int, kind: str = "creatures", *, count: int = 8, frames: int = 24, size: int = 64) -> LabelClips:
    """Clips 0 to count - 1 with two labelled objects each, to be carried from frame 0 on.

    kind: "shapes" or "creatures" (two of them, at least one of which moves; the second is painted over the first); "twins", two creatures that look
    alike in everything and walk through each other; or "photographs": the camera pans, zooms or shakes over a photograph, and the objects are two
    discs of what frame 0 shows. They are carried by the camera's own path, so their edges are exact to a fraction of a pixel; what leaves the canvas
    is gone and comes back with the camera. size: side in px (>= 32).
    """
    seed, kind = _seed(seed), choice("kind", kind, ("shapes", "creatures", "twins", "photographs"))
    items = _PICTURES + np.arange(integer("count", count, low=1, high=_MANY))
    frames, size = integer("frames", frames, low=2, high=10**4), integer("size", size, low=32)
    if kind != "photographs":
        drawn = (clips if kind == "shapes" else creature_clips)(seed, items, size=size, frames=frames, motions=("two",))
        drawn = _twinned(drawn) if kind == "twins" else drawn
        out = drawn.render()
        return LabelClips(out.video, out.object_id, drawn.captions)
    film = photo_clips(seed, items, size=size, frames=frames, moves=("pan", "zoom in", "zoom out", "shake"))
    d = Draws(seed, items)
    turn, radii = d.uniform(0, 2 * np.pi), [d.uniform(0.11, 0.17) * size for _ in range(2)]
    line = torch.arange(size, dtype=torch.float64) + 0.5 - size / 2  # from the middle of the window
    scale = (film.zoom / film.zoom[:, :1])[..., None, None]
    move = ((film.centre - film.centre[:, :1]) / film.zoom[:, :1, None])[..., None, None]
    x, y = line * scale + move[:, :, 0], line[:, None] * scale + move[:, :, 1]  # (B, T, 1, S), (B, T, S, 1): the same point in frame 0
    labels = torch.zeros(film.video.shape[:2] + (size, size), dtype=torch.long)
    for label, side, radius in ((1, 0.2, radii[0]), (2, -0.2, radii[1])):
        away = (x - (side * size * turn.cos()).view(-1, 1, 1, 1)).square() + (y - (side * size * turn.sin()).view(-1, 1, 1, 1)).square()
        labels[away < radius.square().view(-1, 1, 1, 1)] = label
    return LabelClips(film.video, labels, film.captions)


# ----------------------------------------------------------------------------------------------------------------------------- peers


def raw_patches(images: Tensor, patch: int = 7, stride: int = 1) -> Tensor:
    """The colours around each cell, (B, 3 * patch * patch, H / stride, W / stride): mean taken off, length 1 (0 where flat); pixels (B, 3, H, W) in [0, 1].

    Cosines between them are normalised cross-correlations. Each patch is centred on its cell, so patch - stride must be even and >= 0, and the sides
    multiples of the stride; beyond the border the edge pixels go on. Channels are ordered colour, row, column.
    """
    patch, stride, came = integer("patch", patch, low=1), integer("stride", stride, low=1), images
    images = _pictures("images", images, "B 3 H W")
    height, width = images.shape[-2:]
    if patch < stride or (patch - stride) % 2:
        raise ValueError(f"patch must be stride plus an even number >= 0, got patch {patch} and stride {stride}")
    if height % stride or width % stride:
        raise ValueError(f"images must have sides that are multiples of stride {stride}, got {height} x {width}")
    if patch > 2 * max(height, width) + stride:
        raise ValueError(f"patch must be at most twice the picture's longer side and the stride, {2 * max(height, width) + stride}, got {patch}")
    full = images if images.dtype == torch.float64 else images.float()
    out = F.unfold(F.pad(full, [(patch - stride) // 2] * 4, mode="replicate"), patch, stride=stride)
    out = out - out.mean(1, keepdim=True)
    norm = out.norm(dim=1, keepdim=True)
    out = torch.where(norm > 1e-5, out / norm.clamp_min(1e-5), 0.0)
    return like(came, out.unflatten(2, (height // stride, width // stride)).to(images.dtype))


def _runs_on(model: nn.Module) -> torch.device:
    """The device that a model executes on: under offloading its weights lie elsewhere until it is called."""
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values():
            if hasattr(hook, "group"):
                return hook.group.onload_device
    return next(model.parameters()).device


@torch.no_grad()
def vae_latents(vae: nn.Module, images: Tensor) -> Tensor:
    """Mean latents (B, c, h, w), scaled as the U-Net sees them, of pixels (B, 3, H, W) in [0, 1]; `vae` is diffusers' AutoencoderKL."""
    instance("vae", vae, nn.Module, "an AutoencoderKL of diffusers")
    if not hasattr(vae, "encode") or not hasattr(getattr(vae, "config", None), "scaling_factor"):
        raise TypeError(f"vae must be an AutoencoderKL of diffusers, got {got(vae)}")
    pixels = _pictures("images", images, "B 3 H W")
    step = 2 ** (len(vae.config.block_out_channels) - 1)
    if any(side % step for side in pixels.shape[2:]):
        raise ValueError(f"images must have sides that are multiples of {step}, got {tuple(pixels.shape[2:])}")
    found = vae.encode((pixels * 2 - 1).to(_runs_on(vae), vae.dtype)).latent_dist.mode() * vae.config.scaling_factor
    return like(images, found.to(pixels.dtype))


@torch.no_grad()
def vit_features(model: nn.Module, images: Tensor, layer: int = -1, *, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)) -> Tensor:
    """Patch tokens (B, D, H / patch, W / patch) of a transformers vision transformer (ViT, Dinov2, with registers or without) for pixels in [0, 1].

    layer: index into `hidden_states` (0: the embedding; -1: the last block's output, before the model's final norm). The class token and registers come
    first and are dropped. mean, std: the checkpoint's normalisation (ImageNet's by default). Sides must be multiples of the patch.
    """
    while isinstance(model, nn.Module) and (hasattr(model, "_orig_mod") or isinstance(model, nn.DataParallel)):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    if not isinstance(model, nn.Module) or not hasattr(getattr(model, "config", None), "patch_size"):
        raise TypeError(f"model must be a vision transformer of transformers, got {got(model)}")
    layers, patch, pixels = model.config.num_hidden_layers, model.config.patch_size, _pictures("images", images, "B 3 H W")
    layer = integer("layer", layer, low=-layers - 1, high=layers)
    mean, std = (numbers(name, value, "3").to(pixels).view(3, 1, 1) for name, value in (("mean", mean), ("std", std)))
    if not (std > 0).all():
        raise ValueError(f"std must be > 0, got {std.flatten().tolist()}")
    height, width = pixels.shape[-2:]
    down, right = (patch, patch) if isinstance(patch, int) else patch
    rows, columns = height // down, width // right
    if height % down or width % right:
        raise ValueError(f"images must have sides that are multiples of the patch {patch}, got {height} x {width}")
    more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters else {}
    pixels_in = ((pixels - mean) / std).to(_runs_on(model), model.dtype)
    states = model(pixel_values=pixels_in, output_hidden_states=True, **more).hidden_states
    return like(images, states[layer][:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns)).to(pixels.dtype))


def sift_features(image: Tensor, argument: str = "image") -> tuple[Tensor, np.ndarray]:
    """SIFT keypoints (K, 2) and descriptors (K, 128) of one picture (3, H, W) in [0, 1]; K may be 0.

    Small pictures are enlarged by a whole factor until their shorter side has 256 px, since SIFT finds next to nothing below.
    """
    array = _pictures(argument, image, "3 H W").permute(1, 2, 0).double().cpu().numpy()
    factor = -(-256 // min(array.shape[:2]))
    grey = rgb2gray(array)
    sift = SIFT()
    try:
        sift.detect_and_extract(resize(grey, [n * factor for n in grey.shape], order=3) if factor > 1 else grey)
    except RuntimeError:  # scikit-image's word for "none found"
        return torch.zeros(0, 2), np.zeros((0, 128), np.uint8)
    return torch.from_numpy((sift.positions[:, ::-1] + 0.5) / factor - 0.5).float(), sift.descriptors


def sift_matches(a: Tensor, b: Tensor) -> PointPairs:
    """SIFT keypoints of pictures a and b (3, H, W) that are each other's nearest descriptor; empty where either picture has none."""
    _pictures("b", b, "3 H W")
    (here, left), (there, right) = sift_features(a, "a"), sift_features(b, "b")
    if not len(here) or not len(there):
        return PointPairs(*(like(a, torch.zeros(0, 2)) for _ in range(2)))
    i, j = torch.from_numpy(match_descriptors(left, right, cross_check=True)).long().unbind(1)
    return PointPairs(like(a, here[i]), like(a, there[j]))


def sift_transfer(a: Tensor, b: Tensor, points: Tensor) -> Tensor:
    """Where points (N, 2) of picture a lie in picture b, as far as SIFT can say: (N, 2), NaN where either picture has no keypoint.

    scikit-image describes only the keypoints it detects, so a point borrows the descriptor of the nearest one and keeps its offset from it.
    """
    size = tuple(_pictures("a", a, "3 H W").shape[1:])
    _pictures("b", b, "3 H W")
    points = _points("points", points, size=size).float().cpu()
    (here, left), (there, right) = sift_features(a, "a"), sift_features(b, "b")
    if not len(here) or not len(there):
        return like(a, torch.full_like(points, torch.nan))
    near = torch.cdist(points, here).argmin(1)
    left, right = (torch.from_numpy(d.astype(np.float32)) for d in (left[near.numpy()], right))
    return like(a, there[torch.cdist(left, right).argmin(1)] + points - here[near])
