"""Correspondence tasks with exact answers, and the descriptors that learnt features are compared with.

Four tasks: the same part of two creatures (as SPair-71k asks), two views of one scene (HPatches), the two eyes of a stereo camera (Middlebury), objects
carried through a clip (DAVIS). Then the peers: raw patches, VAE latents and vision transformers as maps (B, C, h, w) that one matcher serves, and SIFT,
which brings points of its own.

Points are (N, 2), x then y, in px, and pixel centres are whole numbers, as in the papers' data: the top left pixel's centre is (0, 0) and a picture spans
[-0.5, W - 0.5] x [-0.5, H - 0.5]. (The toy world counts from the corner; its points are half a pixel less here.) Cell (row i, column j) of a map with
stride s is centred on ((j + 0.5) s - 0.5, (i + 0.5) s - 0.5). Everything is looked up by (seed, item number): an item is the same alone and among many.
Bad arguments raise ValueError or TypeError that names the argument.
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

from ..datasets.real import StereoPair, marked_heads, photo_clips, photographs
from ..toyworld.creatures import STYLES, CreatureClips, creature_clips, creatures
from ..toyworld.draws import Draws
from ..toyworld.render import TEXTURES, waved_background
from ..toyworld.shapes import check_names, check_size, clips, shapes
from ..toyworld.skeletons import CATEGORIES, KEYPOINTS

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


def _check_images(argument: str, images, ndim: int) -> Tensor:
    """`images` as it came, if it is a float tensor (B, 3, H, W) or (3, H, W) in [0, 1]."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        what = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{argument} must be a float tensor, got {what}")
    if images.ndim != ndim or images.shape[-3] != 3 or images.numel() == 0:
        raise ValueError(f"{argument} must be {'(B, 3, H, W)' if ndim == 4 else '(3, H, W)'}, got {tuple(images.shape)}")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ValueError(f"{argument} must lie in [0, 1], got values from {low:.3g} to {high:.3g}")
    return images


def _check_points(argument: str, points, rows: int | None = None) -> Tensor:
    points = torch.as_tensor(points)
    if points.ndim != 2 or points.shape[1] != 2 or rows not in (None, len(points)):
        raise ValueError(f"{argument} must be ({'N' if rows is None else rows}, 2), got {tuple(points.shape)}")
    return points.double()


def _sides(argument: str, value: int) -> int:
    if check_size(argument, value, 32) % 32:
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
    check_names("category", category, CATEGORIES)
    return tuple(c for c in CATEGORIES if c != category and KEYPOINTS[c] == KEYPOINTS[category])


def _each_side(styles) -> tuple:
    """Styles of source and target, each None (85 % photos) or one name."""
    pair = (styles, styles) if styles is None or isinstance(styles, str) else tuple(styles)
    if len(pair) != 2:
        raise ValueError(f"styles must be None, one of {STYLES} or a pair (source's, target's), got {styles!r}")
    for style in pair:
        if style is not None:
            check_names("styles", style, STYLES)
    return pair


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
    count, size, sides = check_size("pairs_per_category", pairs_per_category, 1), check_size("size", size, 32), _each_side(styles)
    if facing not in (None, "same", "opposite"):
        raise ValueError(f"facing must be None, 'same' or 'opposite', got {facing!r}")
    if count > _MANY:
        raise ValueError(f"pairs_per_category must be at most {_MANY}, got {count}")
    chosen = [CATEGORIES[i] for i in check_names("categories", categories, CATEGORIES)]
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
    heads, rows = marked_heads(size), []
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
    if len(predicted) != len(pairs):
        raise ValueError(f"predicted must hold one tensor for each of the {len(pairs)} pairs, got {len(predicted)}")
    names = tuple(dict.fromkeys(name for c in pairs.source_category for name in KEYPOINTS[c]))
    matrix = torch.zeros(len(names), len(names), dtype=torch.long)
    for i, points in enumerate(predicted):
        points = _check_points(f"predicted[{i}]", points, len(pairs.names[i]))
        nearest = torch.cdist(points, pairs.seen_points[i].double()).argmin(1).tolist()
        for name, k, answered in zip(pairs.names[i], nearest, (~points.isnan().any(1)).tolist(), strict=True):
            matrix[names.index(name), names.index(pairs.seen_names[i][k])] += answered
    return names, matrix


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
    """Points (N, 2) through one homography (3, 3), in float64."""
    if homography.shape != (3, 3):
        raise ValueError(f"homography must be (3, 3), got {tuple(homography.shape)}")
    points = _check_points("points", points)
    moved = torch.cat([points, torch.ones_like(points[:, :1])], 1) @ homography.double().T
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
    place = (warp_points(back, grid) + 0.5 + size / 4) / (0.75 * size) - 1  # canvas edges at -1 and 1
    seen = F.grid_sample(canvas[None], place.float().view(1, 4 * size, 4 * size, 2), padding_mode="border", align_corners=False)
    centre = torch.arange(size, dtype=torch.float64)
    here = warp_points(back, torch.stack([centre.repeat(size), centre.repeat_interleave(size)], 1))
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
    if source not in ("toy", "photographs"):
        raise ValueError(f"source must be 'toy' or 'photographs', got {source!r}")
    most = _MANY if source == "toy" else len(TEXTURED_PHOTOGRAPHS)
    scenes = check_size("scenes", min(8, most) if scenes is None else scenes, 1)
    size, per_scene, kinds = _sides("size", size), check_size("per_scene", per_scene, 1), [KINDS[i] for i in check_names("kinds", kinds, KINDS)]
    if scenes > most or per_scene > 1000:
        raise ValueError(f"scenes must be at most {most} and per_scene at most 1000, got {scenes} and {per_scene}")
    if not 0 < jitter <= 0.25:
        raise ValueError(f"jitter must be in (0, 0.25], got {jitter}")
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
    grey = rgb2gray(_check_images("image", image, 3).permute(1, 2, 0).double().cpu().numpy())
    count, min_distance = check_size("count", count, 1), check_size("min_distance", min_distance, 1)
    strength = corner_harris(grey)
    if not strength.max() > 1e-12:
        return torch.zeros(0, 2)
    peaks = corner_peaks(strength, min_distance=min_distance, threshold_rel=1e-4)
    order = np.argsort(-strength[tuple(peaks.T)], kind="stable")[:count]
    return torch.from_numpy(peaks[order][:, ::-1].copy()).float()


# ---------------------------------------------------------------------------------------------------------------------------- stereo


def stereo_view(pair: StereoPair, *, window: tuple[int, int, int, int], size: tuple[int, int], shift: int = 0) -> StereoPair:
    """The same window of both pictures at a working size, its disparity in px of that size.

    window: left, top, width, height in px of the left picture; the right picture's window begins `shift` px further left, which takes `shift` from
    every disparity. size: height, width of the result, multiples of 32. Pictures are averaged; the disparity is that of the pixel under each new
    pixel's centre, so that nothing is mixed across an edge.
    """
    left, top, width, height = (check_size("window", v, low) for v, low in zip(window, (0, 0, 1, 1), strict=True))
    out = tuple(_sides("size", s) for s in size)
    whole_height, whole_width = pair.disparity.shape
    if left + width > whole_width or top + height > whole_height or not 0 <= left - shift <= whole_width - width:
        raise ValueError(f"window {window} with shift {shift} must lie inside both pictures of {whole_width} x {whole_height} px")

    def cut(picture: Tensor, x: int) -> Tensor:
        part = picture[:, top : top + height, x : x + width].permute(1, 2, 0).double().numpy()
        return torch.from_numpy(resize(part, out, anti_aliasing=True)).permute(2, 0, 1).float().clamp(0, 1).contiguous()

    rows, columns = (((torch.arange(n) + 0.5) * full / n).long() for n, full in zip(out, (height, width), strict=True))
    disparity = (pair.disparity[top + rows][:, left + columns] - shift) * (out[1] / width)
    return StereoPair(cut(pair.left, left), cut(pair.right, left - shift), disparity)


def stereo_points(pair: StereoPair, count: int, seed: int) -> PointPairs:
    """At most `count` points of the left picture, at pixel centres, whose disparity is measured and whose match (x - disparity, y) lies inside the
    right picture. One disparity map cannot tell whether the match is hidden behind something nearer: a few of the points have none to be seen.
    A larger `count` only adds points at the end.
    """
    count, seed = check_size("count", count, 1), check_size("seed", seed, 0)
    rows, columns = pair.disparity.isfinite().nonzero().unbind(1)
    source = torch.stack([columns, rows], 1).double()
    moved = source[:, 0] - pair.disparity[rows, columns].double()
    inside = (moved >= -0.5) & (moved <= pair.right.shape[-1] - 0.5)
    if not bool(inside.any()):
        raise ValueError("pair must have a measured disparity whose match lies inside the right picture, got none")
    source, moved = source[inside], moved[inside]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(source))[:count])
    return PointPairs(source[order].float(), torch.stack([moved, source[:, 1]], 1)[order].float())


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
    items = _PICTURES + np.arange(check_size("count", count, 1))
    frames, size = check_size("frames", frames, 2), check_size("size", size, 32)
    if kind in ("shapes", "creatures", "twins"):
        drawn = (clips if kind == "shapes" else creature_clips)(seed, items, size=size, frames=frames, motions=("two",))
        drawn = _twinned(drawn) if kind == "twins" else drawn
        out = drawn.render()
        return LabelClips(out.video, out.object_id, drawn.captions)
    if kind != "photographs":
        raise ValueError(f"kind must be 'shapes', 'creatures', 'twins' or 'photographs', got {kind!r}")
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
    height, width = _check_images("images", images, 4).shape[-2:]
    patch, stride = check_size("patch", patch, 1), check_size("stride", stride, 1)
    if patch < stride or (patch - stride) % 2:
        raise ValueError(f"patch must be stride plus an even number >= 0, got patch {patch} and stride {stride}")
    if height % stride or width % stride:
        raise ValueError(f"images must have sides that are multiples of stride {stride}, got {height} x {width}")
    out = F.unfold(F.pad(images, [(patch - stride) // 2] * 4, mode="replicate"), patch, stride=stride)
    out = out - out.mean(1, keepdim=True)
    norm = out.norm(dim=1, keepdim=True)
    out = torch.where(norm > 1e-5, out / norm.clamp_min(1e-5), 0.0)
    return out.unflatten(2, (height // stride, width // stride))


@torch.no_grad()
def vae_latents(vae: nn.Module, images: Tensor) -> Tensor:
    """Mean latents (B, c, h, w), scaled as the U-Net sees them, of pixels (B, 3, H, W) in [0, 1]; `vae` is diffusers' AutoencoderKL."""
    return vae.encode(_check_images("images", images, 4) * 2 - 1).latent_dist.mode() * vae.config.scaling_factor


@torch.no_grad()
def vit_features(model: nn.Module, images: Tensor, layer: int = -1, *, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)) -> Tensor:
    """Patch tokens (B, D, H / patch, W / patch) of a transformers vision transformer (ViT, Dinov2, with registers or without) for pixels in [0, 1].

    layer: index into `hidden_states` (0: the embedding; -1: the last block's output, before the model's final norm). The class token and registers come
    first and are dropped. mean, std: the checkpoint's normalisation (ImageNet's by default). Sides must be multiples of the patch.
    """
    height, width = _check_images("images", images, 4).shape[-2:]
    patch = model.config.patch_size
    down, right = (patch, patch) if isinstance(patch, int) else patch
    rows, columns = height // down, width // right
    if height % down or width % right:
        raise ValueError(f"images must have sides that are multiples of the patch {patch}, got {height} x {width}")
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device).view(3, 1, 1) for v in (mean, std))
    more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters else {}
    states = model(pixel_values=(images - mean) / std, output_hidden_states=True, **more).hidden_states
    if not -len(states) <= layer < len(states):
        raise ValueError(f"layer must be in {-len(states)} .. {len(states) - 1}, got {layer}")
    return states[layer][:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def sift_features(image: Tensor) -> tuple[Tensor, np.ndarray]:
    """SIFT keypoints (K, 2) and descriptors (K, 128) of one picture (3, H, W) in [0, 1]; K may be 0.

    Small pictures are enlarged by a whole factor until their shorter side has 256 px, since SIFT finds next to nothing below.
    """
    array = _check_images("image", image, 3).permute(1, 2, 0).double().cpu().numpy()
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
    (here, left), (there, right) = sift_features(a), sift_features(b)
    if not len(here) or not len(there):
        return PointPairs(torch.zeros(0, 2), torch.zeros(0, 2))
    i, j = torch.from_numpy(match_descriptors(left, right, cross_check=True)).long().unbind(1)
    return PointPairs(here[i], there[j])


def sift_transfer(a: Tensor, b: Tensor, points: Tensor) -> Tensor:
    """Where points (N, 2) of picture a lie in picture b, as far as SIFT can say: (N, 2), NaN where either picture has no keypoint.

    scikit-image describes only the keypoints it detects, so a point borrows the descriptor of the nearest one and keeps its offset from it.
    """
    points = _check_points("points", points).float()
    (here, left), (there, right) = sift_features(a), sift_features(b)
    if not len(here) or not len(there):
        return torch.full_like(points, torch.nan)
    near = torch.cdist(points, here).argmin(1)
    left, right = (torch.from_numpy(d.astype(np.float32)) for d in (left[near.numpy()], right))
    return there[torch.cdist(left, right).argmin(1)] + points - here[near]
