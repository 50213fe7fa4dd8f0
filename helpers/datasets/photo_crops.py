"""Short clips of small windows that move over photographs: what widens a model of the toy world to real pictures, and photographs kept out of its training.

`real.photo_clips` shows much of a photograph at once; a window here shows a fifth of its shorter side, so that an edge is a few pixels wide.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import skimage.data
import torch
from skimage.transform import resize
from sklearn.datasets import load_sample_image
from torch import Tensor

from ..arguments import flag, integer, texts
from ..toyworld.draws import check_indices
from . import real

__all__ = ["KEPT_OUT", "MOVES", "SPEEDS", "TRAINED", "Crops", "crops"]

TRAINED = ("astronaut", "camera", "rocket", "coins", "brick", "grass", "gravel", "tissue", "china", "motorcycle")
KEPT_OUT = ("cat", "coffee", "flower")  # no training sees any part of them
MOVES = ("pan", "zoom in", "zoom out", "shake")
SPEEDS = ("slow", "fast")  # of a pan
WINDOWS = 5.0  # how often the window goes into the photograph's shorter side
VARIED_WINDOWS = (3.5, 4.25, 5.0, 6.0)  # with `vary`


@dataclass
class Crops:
    """video (B, T, 3, S, S) float32 in [0, 1]; photograph (B,) index into `names`; move (B,) index into MOVES; shift (B, T-1, 2): x, y of the camera's way
    from frame to frame in px of the clip."""

    video: Tensor
    photograph: Tensor
    move: Tensor
    shift: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.video)


@cache
def _photograph(name: str, side: int) -> Tensor:
    """The whole photograph, its shorter side brought to `side` px, (3, H, W) float32."""
    if name in ("china", "flower"):
        picture = real._as_picture(load_sample_image(f"{name}.jpg"))
    elif name == "motorcycle":
        picture = real._as_picture(skimage.data.stereo_motorcycle()[0])
    else:
        picture = real._photograph(name)
    factor = side / min(picture.shape[:2])
    shape = [max(side, round(n * factor)) for n in picture.shape[:2]]
    return torch.from_numpy(resize(picture, shape, anti_aliasing=True).transpose(2, 0, 1).copy()).float().clamp(0, 1)


def crops(seed: int, indices, *, size: int = 32, frames: int = 9, names=KEPT_OUT, moves=MOVES, speeds=SPEEDS, vary: bool = False) -> Crops:
    """Clips `indices` of the seed's endless list: a window of a photograph seen by a camera that pans, zooms or shakes, at `real.photo_clips`' speeds.

    size: side in px (>= 16), a fifth of the photograph's shorter side. frames: T >= 2. names: of TRAINED and KEPT_OUT; moves: of MOVES; speeds of a pan:
    of SPEEDS. vary: windows of other shares, mirrored and turned clips, and colours shifted and exchanged as well, to learn from. Clip i of a seed is the
    same alone and in any batch. Raises ValueError or TypeError for anything else.
    """
    seed, size, frames, vary = integer("seed", seed, low=0), integer("size", size, low=16), integer("frames", frames, low=2), flag("vary", vary)
    names, moves = texts("names", names, options=TRAINED + KEPT_OUT), texts("moves", moves, options=MOVES)
    speeds, items = texts("speeds", speeds, options=SPEEDS), check_indices(indices).tolist()
    line = torch.arange(size, dtype=torch.float64) + 0.5 - size / 2
    px, py = line.repeat(size, 1), line[:, None].repeat(1, size)
    rows = []
    for item in items:
        rng = np.random.default_rng([seed, item])
        photograph, move, direction, speed = (int(rng.integers(n)) for n in (len(names), len(moves), 8, len(speeds)))
        windows = float(rng.choice(VARIED_WINDOWS)) if vary else WINDOWS
        photo = _photograph(names[photograph], round(windows * size))
        centre, zoom = real._camera(rng, moves[move], direction, speeds[speed], photo, size, frames)
        middle, scale = torch.from_numpy(centre)[:, :, None, None], torch.from_numpy(zoom)[:, None, None]
        video = real._bilinear(photo, middle[:, 0] + px * scale, middle[:, 1] + py * scale).permute(0, 3, 1, 2)
        shift = torch.from_numpy((centre[1:] - centre[:-1]) / zoom[:-1, None]).float()
        if vary:
            video, shift = _varied(video, shift, rng)
        rows.append((video, torch.tensor(photograph), torch.tensor(MOVES.index(moves[move])), shift))
    return Crops(*(torch.stack(column) for column in zip(*rows, strict=True)), tuple(names))


def _varied(video: Tensor, shift: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A clip (T, 3, S, S) and its camera's way mirrored, turned by a quarter, and with other colours, as chance has it."""
    if rng.random() < 0.5:
        video, shift = video.flip(-1), shift * torch.tensor([-1.0, 1.0])
    if rng.random() < 0.5:
        video, shift = video.transpose(-1, -2), shift.flip(-1)
    video = video[:, torch.from_numpy(rng.permutation(3))]
    gain, offset = (torch.from_numpy(rng.uniform(low, high, (3, 1, 1))).float() for low, high in ((0.7, 1.2), (-0.12, 0.12)))
    if rng.random() < 0.15:  # a negative
        video = 1 - video
    return (video * gain + offset).clamp(0, 1).contiguous(), shift
