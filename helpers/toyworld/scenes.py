"""Still pictures with up to four shapes, for questions about several things at once: how many, do they touch, which is larger.

Everything is looked up by (seed, item number): an item is the same alone and among many.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arguments import integer
from .draws import Draws
from .render import plain_background, render
from .shapes import COLOUR_TABLE, COLOURS, SHAPES, positions, shape_parts

__all__ = ["MOST", "Scenes", "crowds", "pairs"]

MOST = 4


@dataclass
class Scenes:
    """image (B, 3, S, S) in [0, 1]; object_id (B, S, S): 0 background, 1 .. 4 the object on top; count (B,): objects; touching (B,) bool: the two objects of
    a pair overlap (always false otherwise). shape, colour (B, 4): indices into SHAPES and COLOURS, -1 where there is no object; position (B, 4, 2): x, y of
    the centres in px; radius, angle (B, 4): px and radians."""

    image: Tensor
    object_id: Tensor
    count: Tensor
    touching: Tensor
    shape: Tensor
    colour: Tensor
    position: Tensor
    radius: Tensor
    angle: Tensor

    def __len__(self) -> int:
        return len(self.image)


def crowds(seed: int, indices, *, size: int = 64, shapes=SHAPES, colours=tuple(COLOURS)) -> Scenes:
    """One to four shapes each, no two of which touch: every object keeps to a quarter of the picture of its own."""
    size, kinds, hues = _chosen(size, shapes, colours)
    d = Draws(seed, indices)
    count = 1 + d.integer(MOST)
    place = torch.stack([d.uniform() for _ in range(MOST)], 1).argsort(1)  # which quarter the k-th object takes
    columns = []
    for k in range(MOST):
        there = count > k
        radius = d.uniform(0.10, 0.17) * size
        slack = size / 4 - 1.15 * radius
        x = size * (0.25 + 0.5 * (place[:, k] % 2)) + slack * d.uniform(-1, 1)
        y = size * (0.25 + 0.5 * (place[:, k] // 2)) + slack * d.uniform(-1, 1)
        shape, colour = kinds[d.integer(len(kinds))], hues[d.integer(len(hues))]
        angle = d.uniform(-np.pi, np.pi)
        columns.append((torch.where(there, shape, -1), torch.where(there, colour, -1), torch.stack([x, y], 1), radius, angle))
    return _paint(d, count, torch.zeros(len(d), dtype=torch.bool), [torch.stack(column, 1) for column in zip(*columns, strict=True)], size)


def pairs(seed: int, indices, *, size: int = 64, shapes=SHAPES, colours=tuple(COLOURS)) -> Scenes:
    """Two shapes each, of different size (by a quarter or more); in every other picture, by chance, they overlap. Half of the pairs share their shape,
    half their colour."""
    size, kinds, hues = _chosen(size, shapes, colours)
    d = Draws(seed, indices)
    touching, same_shape, same_colour, first_larger = (d.chance(0.5) for _ in range(4))
    small = d.uniform(0.10, 0.13) * size
    large = small * d.uniform(1.25, 1.55)
    radius = torch.stack([torch.where(first_larger, large, small), torch.where(first_larger, small, large)], 1)
    gap = torch.where(touching, d.uniform(0.45, 0.75), d.uniform(1.25, 1.45)) * radius.sum(1)
    turn = d.uniform(-np.pi, np.pi)
    apart = torch.stack([turn.cos(), turn.sin()], 1) * gap[:, None] / 2
    room = size / 2 - apart.abs() - 1.1 * radius.amax(1, keepdim=True)
    middle = size / 2 + room.clamp_min(0) * torch.stack([d.uniform(-1, 1), d.uniform(-1, 1)], 1)
    position = torch.stack([middle - apart, middle + apart], 1)
    shape, colour = [], []
    for names, chosen, same in ((kinds, shape, same_shape), (hues, colour, same_colour)):
        first = d.integer(len(names))
        step = 1 + d.integer(max(1, len(names) - 1))
        second = torch.where(same | torch.tensor(len(names) == 1), first, (first + step) % len(names))
        chosen += [names[first], names[second]]
    angle = torch.stack([d.uniform(-np.pi, np.pi) for _ in range(2)], 1)
    empty = torch.full((len(d), MOST - 2), -1)
    nothing = torch.ones(len(d), MOST - 2, dtype=torch.float64)
    columns = [
        torch.cat([torch.stack(shape, 1), empty], 1), torch.cat([torch.stack(colour, 1), empty], 1),
        torch.cat([position, nothing[..., None].expand(-1, -1, 2)], 1), torch.cat([radius, nothing], 1), torch.cat([angle, nothing], 1),
    ]  # fmt: skip
    return _paint(d, torch.full((len(d),), 2), touching, columns, size)


def _chosen(size, shapes, colours) -> tuple[int, Tensor, Tensor]:
    size = integer("size", size, low=24)
    return size, torch.tensor(positions("shapes", shapes, SHAPES)), torch.tensor(positions("colours", colours, COLOURS))


def _paint(d: Draws, count: Tensor, touching: Tensor, columns: list[Tensor], size: int) -> Scenes:
    shape, colour, position, radius, angle = columns
    parts = shape_parts(shape, position[..., 0], position[..., 1], radius, angle, COLOUR_TABLE[colour.clamp_min(0)])
    out = render(parts, plain_background(d.uniform(0.08, 0.45)[:, None].expand(-1, 3), size))
    return Scenes(out.image, out.object_id, count, touching, shape, colour, position, radius, angle)
