"""The question "which creature?" asked of scenes: one creature among up to two shapes, each thing of a size of its own.

Everything is looked up by (seed, item number): an item is the same alone and among many, and looks alike at every picture size.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..arguments import integer, real
from .creatures import BACKGROUNDS, _assemble, _Cast, _develop, _extents, _grounds, _muted, _rounded, _waves
from .draws import Draws
from .render import TEXTURES, Parts, render
from .shapes import COLOUR_TABLE, COLOURS, SHAPES, mask_boxes, positions, shape_parts
from .skeletons import CATEGORIES, TRAITS, Pose

__all__ = ["THINGS", "Gatherings", "gatherings"]

THINGS = 3
GROUNDS = tuple(name for name in BACKGROUNDS if name != "paper")  # which is what sketches are drawn on
_LAYOUTS = 8  # placements tried; the one that keeps the things farthest apart is taken
_SHAPE_SIDE = 2.3  # of the square that holds a shape, in radii


@dataclass
class Gatherings:
    """image (B, 3, S, S) in [0, 1]; object_id (B, S, S): 0 background, 1 the creature, 2 and 3 the shapes, whichever is on top; category (B,): the creature's,
    an index into CATEGORIES; count (B,): things, 1 to 3; side (B, 3): the longer side in px of the square around each thing, creature first, 0 where there is
    none; box (B, 3, 4): x0, y0, x1, y1 in px of what is seen of each; shape (B, 2): indices into SHAPES, -1 where there is none."""

    image: Tensor
    object_id: Tensor
    category: Tensor
    count: Tensor
    side: Tensor
    box: Tensor
    shape: Tensor

    def __len__(self) -> int:
        return len(self.image)


def gatherings(
    seed: int, indices, *, size: int = 32, smallest: float = 0.2, largest: float = 0.65, categories=CATEGORIES, textures=TEXTURES,
    backgrounds=GROUNDS,
) -> Gatherings:  # fmt: skip
    """Pictures `indices` of the seed's endless list: one creature, in front, and none, one or two shapes.

    size: side in px (>= 16). smallest, largest: of a thing's longer side, as shares of the picture's; between them sizes are uniform in their logarithm, so
    that every doubling is as frequent. categories, textures: of the creature, names to choose among; shapes are plain. backgrounds: names
    of GROUNDS. Raises ValueError or TypeError for anything else.
    """
    size, smallest = integer("size", size, low=16), real("smallest", smallest, low=0.02, high=0.8)
    largest = real("largest", largest, low=smallest, high=0.8)
    kinds, patterns = torch.tensor(positions("categories", categories, CATEGORIES)), torch.tensor(positions("textures", textures, TEXTURES))
    grounds = torch.tensor(positions("backgrounds", backgrounds, GROUNDS))
    d = Draws(seed, indices)
    count = 1 + d.integer(THINGS)
    category, texture = kinds[d.integer(len(kinds))], patterns[d.integer(len(patterns))]
    colour, facing, background = d.integer(len(COLOURS)), d.integer(2), grounds[d.integer(len(grounds))]
    angle = d.uniform(-np.pi * 25 / 180, np.pi * 25 / 180)
    side = torch.stack([size * smallest * (largest / smallest) ** d.uniform() for _ in range(THINGS)], 1)
    traits = torch.stack([d.uniform() for _ in TRAITS], 1)
    tone, period = d.uniform(0.36, 0.52), d.uniform(0.27, 0.38)
    low, high, waves = _muted(d), _muted(d), _waves(d, size)
    slope = torch.stack([d.uniform(-1, 1), d.uniform(-1, 1)], 1)
    gain, curve = d.uniform(0.86, 1.10), d.uniform(-0.30, 0.30)
    shape = torch.stack([torch.where(count > k, d.integer(len(SHAPES)), -1) for k in (1, 2)], 1)
    hue, turn = (torch.stack([draw() for _ in range(2)], 1) for draw in (lambda: d.integer(len(COLOURS)), lambda: d.uniform(-np.pi, np.pi)))
    side = torch.where(torch.arange(THINGS) < count[:, None], side, 0.0)
    middle = _layout(d, side, size)

    still, mirror = torch.zeros_like(angle), 1.0 - 2.0 * facing.double()
    pose = Pose(*traits.unbind(1), still, still, still)
    extent = _extents(category, pose, angle, mirror)
    unit = side[:, 0] / (extent[:, 2:] - extent[:, :2]).amax(1)
    origin = middle[:, 0] - (extent[:, :2] + extent[:, 2:]) / 2 * unit[:, None]
    photo = torch.zeros(len(d), dtype=torch.bool)
    creature, _ = _assemble(_Cast(category, colour, texture, photo, pose, *origin.unbind(1), unit, angle, mirror, tone, period), 1, size)
    radius = (side[:, 1:] / _SHAPE_SIDE).clamp_min(1e-3)
    owner = torch.tensor([2, 3]).expand(len(d), 2)
    others = shape_parts(shape, middle[:, 1:, 0], middle[:, 1:, 1], radius, turn, COLOUR_TABLE[hue], owner=owner)
    out = render(_behind(others, creature), _grounds(background, low, high, slope, waves, size), uv=True)
    image = _develop(_rounded(out.image, out.uv, out.object_id > 0), gain, curve)
    box = torch.stack([mask_boxes(out.object_id == k + 1) for k in range(THINGS)], 1)
    return Gatherings(image, out.object_id, category, count, side, box, shape)


def _layout(d: Draws, side: Tensor, size: int) -> Tensor:
    """(B, 3, 2): x, y of the middles of the things, inside the picture, of several draws the one with the widest gap between any two."""
    room = (size - side).clamp_min(0)[..., None]
    layouts = [side[..., None] / 2 + room * torch.stack([torch.stack([d.uniform(), d.uniform()], 1) for _ in range(THINGS)], 1) for _ in range(_LAYOUTS)]
    tried = torch.stack(layouts, 1)  # (B, layouts, 3, 2)
    gaps = []
    for first, second in ((0, 1), (0, 2), (1, 2)):
        gap = (tried[:, :, first] - tried[:, :, second]).abs().amax(-1) - (side[:, first] + side[:, second])[:, None] / 2
        gaps.append(torch.where((side[:, second] > 0)[:, None], gap, torch.inf))
    best = torch.stack(gaps).amin(0).argmax(1)
    return tried[torch.arange(len(tried)), best]


def _behind(back: Parts, front: Parts) -> Parts:
    """Both in one picture; the front ones know mirrors and pen lines, the back ones have none."""
    flat = torch.ones_like(back.cx)
    plain = dict(mirror=flat, outline=torch.zeros_like(flat), ink=torch.zeros_like(back.colour))
    parts = {field.name: (getattr(back, field.name), getattr(front, field.name)) for field in fields(Parts)}
    return Parts(**{name: torch.cat([plain[name] if first is None else first, second], 1) for name, (first, second) in parts.items()})
