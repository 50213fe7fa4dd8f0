"""Pictures of surfaces: invented materials, each a random texture with a grain, a direction, a kind of relief and two colours of its own.

    p = surfaces(seed, range(64))                   # material p.material[i], another piece of it in every picture, under another light

A texture is the sum of sixteen waves whose frequencies a material chooses and whose phases are the picture's own. Everything is looked up by
(seed, item number): an item is the same alone and among many.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arguments import integer
from .draws import Draws
from .render import waved_background

__all__ = ["RELIEFS", "Surfaces", "surfaces"]

RELIEFS = ("smooth", "ridges", "grains", "pits")
_WAVES, _SPREAD = 16, 0.075  # waves of a texture, and the standard deviation of their mean


@dataclass
class Surfaces:
    """image (B, 3, S, S) in [0, 1]; material (B,); relief (B,): index into RELIEFS; period (B,): px of the material's mean wave in this picture;
    angle (B,): which way its waves run, radians clockwise on the screen, in [0, pi); spread (B,): radians to either side, pi / 2 where there is no grain."""

    image: Tensor
    material: Tensor
    relief: Tensor
    period: Tensor
    angle: Tensor
    spread: Tensor

    def __len__(self) -> int:
        return len(self.image)


def surfaces(seed: int, indices, *, world: int = 0, count: int = 200, size: int = 32) -> Surfaces:
    """Pieces `indices` of the seed's endless list, size x size px (>= 16), each of one of the `count` (>= 1) materials of a `world`."""
    size, count = integer("size", size, low=16), integer("count", count, low=1)
    d = Draws(seed, indices)
    material = d.integer(count)
    m = Draws(integer("world", world, low=0), material)
    relief, isotropic = m.integer(len(RELIEFS)), m.chance(0.5)
    period, band = 2.5 * (8 ** m.uniform()), m.uniform(0.05, 0.8)
    angle, spread = m.uniform(0, np.pi), torch.where(isotropic, np.pi / 2, m.uniform(0.05, 0.5))
    base, tint = m.uniform(0.25, 0.75), 0.5 * m.uniform() ** 2
    colour = base[:, None] + tint[:, None] * torch.stack([m.uniform(-1, 1) for _ in range(3)], 1)
    contrast = (m.uniform(0.06, 0.3)[:, None] * (1 + tint[:, None] * torch.stack([m.uniform(-1, 1) for _ in range(3)], 1))) * (1 - 2 * m.integer(2))[:, None]
    angle = (angle + d.uniform(-0.25, 0.25)).remainder(np.pi)
    period = period * d.uniform(0.8, 1.25) * size / 32
    waves = []
    for _ in range(_WAVES):
        towards, far = angle + spread * d.uniform(-1, 1), (band * d.uniform(-1, 1)).exp() / period
        waves.append(torch.stack([towards.cos() * far, towards.sin() * far, d.uniform()], 1))
    zero = torch.zeros(len(d), 3)
    height = (waved_background(zero, zero + 1, torch.stack(waves, 1), size)[:, :1] - 0.5) / _SPREAD
    kind = relief[:, None, None, None]
    height = torch.where(kind == 1, 1.6 - 2 * height.abs(), torch.where(kind == 2, (3 * height - 1).clamp(-1.2, 1.2),
                         torch.where(kind == 3, height.clamp_max(0.3) * 1.4 + 0.4, height)))  # fmt: skip
    light, gain = d.uniform(-0.12, 0.12), d.uniform(0.75, 1.25)
    colour, contrast = (colour + light[:, None]).float()[:, :, None, None], (contrast * gain[:, None]).float()[:, :, None, None]
    return Surfaces((colour + contrast * height).clamp(0, 1), material, relief, period, angle, spread)
