"""Labels of a training crop: the score map of an annotator, pooled over the box of the crop, one soft label for each token and one for the class token.

Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers", NeurIPS 2021, arXiv 2104.10858. Score maps are (B, K, h, w): K
class scores (logits) on h x w cells of the whole picture. Boxes are (left, top, right, bottom). From top to bottom: RoIAlign, boxes, labels of a crop, what
is made of labels.
"""

import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._arguments import _flag, _generator, _got, _integer, _integers, _like, _number, _numbers
from .storage import StoredMaps, _dense, _stored

__all__ = ["Labels", "blend_truth", "crop", "crop_labels", "image_labels", "random_crops", "roi_align", "smooth"]

ROUNDING = 1e-9  # in cells: 0.8 - 0.5 of ten cells are 3 cells, although not to the last digit


class Labels(NamedTuple):
    """Soft labels of B pictures: class_labels (B, K) for the class token, token_labels (B, N, K) for the N patches, row by row."""

    class_labels: Any
    token_labels: Any


# --------------------------------------------------------------------------------------------------------------------------- RoIAlign


def roi_align(maps, boxes, size: int | tuple[int, int]):
    """RoIAlign of one axis-aligned box a map (He et al. 2017), in the form that token labeling uses (torchvision's with aligned=False).

    maps (B, C, h, w); boxes (B, 4): left, top, right, bottom in cells, where whole numbers are the middles of cells, at most the map's own size outside of it;
    size: S or (rows, columns). A box is taken to be 1 cell wide and high at least; each of its bins averages ceil(width / columns) x ceil(height / rows)
    bilinear samples at the middles of equal parts. Samples below 0 are read at 0, those below -1 or beyond w (or h) count as 0.
    Returns (B, C, rows, columns), like maps. Raises ValueError or TypeError.
    """
    given = _numbers("maps", maps, "B C h w", detach=False)
    rows, columns = _size(size)
    corners = _boxes(boxes, len(given))
    for side, (low, high) in zip(given.shape[2:], (corners[:, 1::2].T, corners[:, ::2].T)):
        if low.min() < -side or high.max() > 2 * side:
            raise ValueError(f"boxes must lie within the map's own size around it, {-side} to {2 * side}, got {float(low.min()):g} to {float(high.max()):g}")
    return _like(maps, _roi_align(given, corners, rows, columns))


def _roi_align(maps: Tensor, boxes: Tensor, rows: int, columns: int) -> Tensor:
    """A bilinear sample is a product of two, one for each axis, and so is their mean: pooling is a matrix from the left and one from the right."""
    left, top, right, bottom = boxes.unbind(1)
    down, across = _weights(top, bottom, rows, maps.shape[2]), _weights(left, right, columns, maps.shape[3])
    kind = maps.device.type  # within autocast products would be of 16 bits
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return down.to(maps)[:, None] @ maps @ across.to(maps).transpose(1, 2)[:, None]


def _weights(start: Tensor, stop: Tensor, bins: int, cells: int) -> Tensor:
    """How much of each cell each bin of a box takes along one axis: (B, bins, cells)."""
    extent = (stop - start).clamp_min(1)
    count = (extent / bins - ROUNDING).ceil()
    sample = torch.arange(int(count.max()), dtype=extent.dtype, device="cpu")
    place = torch.arange(bins, dtype=extent.dtype, device="cpu")[:, None] + (sample + 0.5) / count[:, None, None]  # in bins: (B, bins, samples)
    at = start[:, None, None] + place * (extent / bins)[:, None, None]
    counts = (sample < count[:, None, None]) & (at >= -1 - ROUNDING) & (at <= cells + ROUNDING)
    hat = (1 - (at.clamp(0, cells - 1)[..., None] - torch.arange(cells, device="cpu")).abs()).clamp_min(0)  # the two nearest cells share 1
    return (hat * counts[..., None]).sum(2) / count[:, None, None]


def _size(size: Any) -> tuple[int, int]:
    if isinstance(size, (tuple, list)):
        return _integers("size", size, 1, 2, "an integer >= 1 or (rows, columns)")
    return (_integer("size", size, 1),) * 2


def _boxes(boxes: Any, count: int) -> Tensor:
    """(B, 4) in float64 on the CPU: half precision would move a box."""
    given = _numbers("boxes", boxes, f"{count} 4", like="maps", whole=None).cpu().double()
    if (given[:, :2] > given[:, 2:]).any():
        raise ValueError("boxes must be (left, top, right, bottom) with left <= right and top <= bottom, got one that is not")
    return given


# ------------------------------------------------------------------------------------------------------------------------------ boxes


def random_crops(
    count: int, *, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3), generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Boxes of the usual random resized crop of square pictures: (count, 4), left, top, right, bottom as shares of the side, float64.

    scale: least and largest share of the area, uniform; ratio: of width to height, uniform in its logarithm. Of ten draws the first that fits into the
    picture is taken, else the whole picture.
    """
    count, _ = _integer("count", count, 1), _generator(generator)
    (least, most), (narrow, wide) = _range("scale", scale, 1), _range("ratio", ratio, math.inf)
    place = "cpu" if generator is None else generator.device
    area, slant, x, y = torch.rand(4, count, 10, dtype=torch.float64, generator=generator, device=place).cpu()
    area, slant = least + (most - least) * area, torch.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * slant)
    width, height = (area * slant).sqrt(), (area / slant).sqrt()
    boxes = torch.stack([x * (1 - width), y * (1 - height), x * (1 - width) + width, y * (1 - height) + height], -1)
    fits = (width <= 1) & (height <= 1)
    first = boxes[range(count), fits.int().argmax(1)].clamp(0, 1)
    return torch.where(fits.any(1)[:, None], first, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64, device="cpu"))


def _range(name: str, value: Any, most: float) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be (least, largest), got {_got(value)}")
    if len(value) != 2:
        raise ValueError(f"{name} must be (least, largest), got {_got(value)}")
    least, largest = (_number(name, one, most=most, above=0) for one in value)
    if least > largest:
        raise ValueError(f"{name} must be (least, largest), got {_got(value)}")
    return least, largest


def crop(maps, boxes, size: int | tuple[int, int]):
    """Cut a box out of each map or picture (B, C, h, w) and bring it to `size`, by `roi_align`: (B, C, rows, columns), like maps.

    boxes (B, 4): left, top, right, bottom as shares of the width and height, in [0, 1]. The whole picture at its own size is the picture itself; mirrored maps
    (`maps.flip(-1)`) go with mirrored boxes (1 - right, top, 1 - left, bottom). Narrower boxes than a cell grow to the right and downwards, where beyond the
    last cell there may be zeros.
    """
    given, (rows, columns) = _numbers("maps", maps, "B C h w", detach=False), _size(size)
    return _like(maps, _crop(given, _shares(boxes, len(given)), rows, columns))


def _crop(maps: Tensor, boxes: Tensor, rows: int, columns: int) -> Tensor:
    sides = torch.tensor([maps.shape[3], maps.shape[2]] * 2, device="cpu")
    return _roi_align(maps, boxes * sides - 0.5, rows, columns)  # share 0 is the left edge of the cell whose middle is 0


def _shares(boxes: Any, count: int) -> Tensor:
    given = _boxes(boxes, count)
    if given.min() < 0 or given.max() > 1:
        raise ValueError(f"boxes must be shares of the sides in [0, 1], got {float(given.min()):g} to {float(given.max()):g}")
    return given


# ------------------------------------------------------------------------------------------------------------------- labels of a crop


def crop_labels(maps, boxes, size: int | tuple[int, int] = 14, *, official_box_order: bool = False) -> Labels:
    """Labels of crops: the score map is pooled over the box to one score for each token, and once more to a single one for the class token; then softmax.

    maps: (B, K, h, w), h and w 2 or more, or `StoredMaps`, whose missing scores are 0 ("absent" is no score at all, but 0 is what the method takes, and below 0
    the missing classes win). boxes: (B, 4) as `crop` takes them. size: the grid of tokens, 14 at 224 px, 24 at 384.
    official_box_order: what the released code does instead: it stores (top, left, height, width) and reads (left, top, right, bottom), so that labels come
    from the place with x and y exchanged. Returns `Labels` (B, K) and (B, rows * columns, K), rows that sum to 1, like maps.
    """
    stored = isinstance(maps, StoredMaps)
    given = _dense(_stored(maps)) if stored else _wide(_numbers("maps", maps, "B K h w", detach=False))
    if min(given.shape[2:]) < 2:
        raise ValueError(f"maps must be 2 cells wide and high or more, got {given.shape[2]} x {given.shape[3]}")
    (rows, columns), shares = _size(size), _shares(boxes, len(given))
    if _flag("official_box_order", official_box_order):
        shares = shares[:, [1, 0, 3, 2]]
    of_class, of_tokens = (_crop(given, shares, *grid).flatten(2).transpose(1, 2).softmax(2) for grid in ((1, 1), (rows, columns)))
    like = maps.scores if stored else maps
    return Labels(_like(like, of_class[:, 0]), _like(like, of_tokens))


def _wide(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()


# -------------------------------------------------------------------------------------------------------------- what is made of labels


def smooth(labels, smoothing: float = 0.1, *, official: bool = False):
    """Label smoothing of labels (..., K): (1 - s) y + s / K, which keeps sums at 1. Like labels.

    official: y (1 - s + s / K) + s / K, as the released code has it, whose rows sum to 1 + s / K.
    """
    given, s = _numbers("labels", labels, "... K", low=0), _number("smoothing", smoothing, 0, 1)
    off = s / given.shape[-1]
    return _like(labels, given * (1 - s + (off if _flag("official", official) else 0)) + off)


def blend_truth(class_labels, truth, *, right: float = 0.5, wrong: float = 0.9):
    """Labels of the class token, mixed with the true classes: r y + (1 - r) y_true. (B, K), like class_labels.

    truth: (B,) class numbers. r is `right` where the annotator's arg max is the true class and `wrong` where it is not; the official values keep more of a
    wrong label than of a right one.
    """
    given = _numbers("class_labels", class_labels, "B K", low=0)
    classes = _numbers("truth", truth, f"{len(given)}", like="class_labels", whole=True, low=0, high=given.shape[1] - 1).to(given.device).long()
    right, wrong = _number("right", right, 0, 1), _number("wrong", wrong, 0, 1)
    keep = wrong + (right - wrong) * (given.argmax(1) == classes).to(given.dtype)[:, None]
    return _like(class_labels, keep * given + (1 - keep) * torch.eye(given.shape[1], dtype=given.dtype, device=given.device)[classes])


def image_labels(class_labels, tokens: int) -> Labels:
    """Where there is no map: every one of so many tokens has the label (B, K) of its picture. `Labels`, like class_labels."""
    given, tokens = _numbers("class_labels", class_labels, "B K", low=0), _integer("tokens", tokens, 1)
    return Labels(_like(class_labels, given.clone()), _like(class_labels, given[:, None].repeat(1, tokens, 1)))
