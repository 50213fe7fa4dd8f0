"""The family *rebounds*: clips of one object that flies straight and bounces off the picture's edges, with a white tail that shows where it comes from.

One frame tells where the object is and where it is going, but not how fast; two frames do not tell how often it bounced in between. What happened is
known exactly. Shapes, colours and grounds are those of the family *shapes*, so that its autoencoders and analysers serve here too.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arguments import integer, like, numbers
from .draws import Draws
from .render import PRIMITIVES, Parts, plain_background, render
from .shapes import COLOUR_TABLE, COLOURS, SHAPES, positions, shape_parts

__all__ = ["RADIUS_RANGE", "SPEED_RANGE", "ReboundRendering", "Rebounds", "rebounds", "reflect"]

SPEED_RANGE = (1.6, 2.8)  # px a frame at 32 px
RADIUS_RANGE = (4.9, 6.0)  # px at 32 px
_TAIL_SIZE, _TAIL_PLACE = 0.65, 0.95  # radius of the tail and its distance behind the centre, in radii of the object


@dataclass
class Rebounds:
    """What B clips of T frames show: shape, colour (B,) indices into SHAPES, COLOURS; position (B, T, 2) x, y of the centre in px; heading (B, T, 2),
    unit vectors; bounces (B, T): how often an edge was met up to a frame; speed (B,) px a frame; radius, angle (B,); grey (B,); size in px."""

    shape: Tensor
    colour: Tensor
    position: Tensor
    heading: Tensor
    bounces: Tensor
    speed: Tensor
    radius: Tensor
    angle: Tensor
    grey: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.shape)

    def render(self) -> "ReboundRendering":
        """Paint the frames; exact masks come with them."""
        b, t = self.position.shape[:2]

        def every_frame(value: Tensor) -> Tensor:
            return value[:, None].expand(b, t).reshape(b * t, 1)

        x, y = (self.position[..., k].reshape(b * t, 1) for k in (0, 1))
        radius = every_frame(self.radius)
        colour = COLOUR_TABLE[self.colour][:, None].expand(b, t, 3).reshape(b * t, 1, 3)
        body = shape_parts(every_frame(self.shape), x, y, radius, every_frame(self.angle), colour)
        behind = _TAIL_PLACE * radius
        tail_x, tail_y = (c - behind * self.heading[..., k].reshape(b * t, 1) for k, c in enumerate((x, y)))
        one = torch.ones_like(radius)
        tail = Parts(
            kind=torch.full_like(body.kind, PRIMITIVES.index("ellipse")), cx=tail_x, cy=tail_y, a=_TAIL_SIZE * radius, b=_TAIL_SIZE * radius, angle=0 * one,
            shape=0 * one, texture=torch.zeros_like(body.texture), period=one, colour=torch.full_like(colour, 0.97), second=torch.full_like(colour, 0.97),
            label=torch.full_like(body.label, 2), owner=torch.full_like(body.owner, 2),
        )  # fmt: skip
        both = Parts(**{
            name: None if value is None else torch.cat([getattr(tail, name), value], 1) for name, value in vars(body).items()
        })  # fmt: skip
        ground = plain_background(self.grey[:, None, None].expand(b, t, 3).reshape(b * t, 3), self.size)
        out = render(both, ground)
        side = (self.size, self.size)
        return ReboundRendering(out.image.reshape(b, t, 3, *side), out.object_id.reshape(b, t, *side) == 1)


@dataclass
class ReboundRendering:
    """video (B, T, 3, S, S) in [0, 1]; mask (B, T, S, S) bool, the object without its tail."""

    video: Tensor
    mask: Tensor


def reflect(place, low, high) -> tuple[Tensor, Tensor]:
    """Where a point that would be at `place` in an endless hall of mirrors is between walls at `low` and `high`, and how many walls it has met.

    Numbers of any shape, one wall of each kind for each; tensors for tensors, numpy arrays for all else.
    Raises ValueError where the walls are not low < high, or fit no shape of `place`.
    """
    came, place, low, high = place, numbers("place", place, "..."), numbers("low", low, "..."), numbers("high", high, "...")
    for name, wall in (("low", low), ("high", high)):
        try:
            fits = torch.broadcast_shapes(place.shape, wall.shape) == place.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"{name} must be one wall for each place {tuple(place.shape)}, got shape {tuple(wall.shape)}")
    if not bool((low < high).all()):
        raise ValueError("low must lie below high")
    width = high - low
    turns = ((place - low) / width).floor()
    inside = place - low - turns * width
    return like(came, low + torch.where(turns % 2 == 0, inside, width - inside)), like(came, turns.abs())


def rebounds(seed: int, indices, *, size: int = 32, frames: int = 9, shapes=SHAPES, colours=tuple(COLOURS)) -> Rebounds:
    """Clips `indices` of the seed's endless list.

    size: side in px (>= 24). frames: T >= 2. shapes, colours: names to choose among. Raises ValueError or TypeError for anything else.
    """
    size, frames = integer("size", size, low=24), integer("frames", frames, low=2)
    kinds, hues = torch.tensor(positions("shapes", shapes, SHAPES)), torch.tensor(positions("colours", colours, COLOURS))
    d, scale = Draws(seed, indices), size / 32
    shape, colour = kinds[d.integer(len(kinds))], hues[d.integer(len(hues))]
    radius, speed = d.uniform(*RADIUS_RANGE) * scale, d.uniform(*SPEED_RANGE) * scale
    course = d.uniform(-np.pi, np.pi)
    velocity = speed[:, None] * torch.stack([course.cos(), course.sin()], 1)
    low = (1.15 * radius)[:, None]
    high = size - low
    start = low + (high - low) * torch.stack([d.uniform(), d.uniform()], 1)
    time = torch.arange(frames, dtype=torch.float64)
    free = start[:, None] + velocity[:, None] * time[:, None]
    position, met = reflect(free, low[:, None], high[:, None])
    heading = velocity[:, None] * torch.where(met % 2 == 0, 1.0, -1.0) / speed[:, None, None]
    return Rebounds(shape, colour, position, heading, met.sum(2).long(), speed, radius, d.uniform(-0.3, 0.3), d.uniform(0.10, 0.26), size)
