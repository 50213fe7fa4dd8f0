"""Pictures made worse: twelve kinds in five severities, after ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261).

    worse = corrupt(images, "blur", 3)               # images (N, C, H, W) in [0, 1]; severity 0 leaves them as they are
    worse = corrupt(images, "noise", 5, seed=1)      # other noise; picture i has the same one alone or in a crowd, if it is told that it is number i

Noise and contrast have the levels of ImageNet-C. Blur has levels of its own, in 32nds of the width, since those of pictures of 224 px would leave nothing
of one of 32; darkness, which ImageNet-C has not, stands beside its brightness.

Of the other eight, shot, impulse and brightness have the levels of ImageNet-C, and occlusion, a grey square, is not in it. Defocus, pixelate, fog and
occlusion go with the picture's width: a scene looks alike at 32 and at 64 px. Noises are drawn pixel by pixel and JPEG works on blocks of 8 px, whatever the
size, as in ImageNet-C. Contrast goes towards one mean of all channels, where ImageNet-C has one a channel. Brightness takes every channel for colour: leave
an alpha channel out. Numbers that are measured with these kinds are none of ImageNet-C.

What is drawn for a picture (noise, clouds, the place of the square) follows the seed and its number alone, and no kind makes one picture depend on another,
but for the last bits of two: blur of a single channel, and contrast of large pictures on several threads, are summed in another order in a crowd. Severities
are made for pictures of 32 px and more: on smaller ones the lower ones of blur, defocus and pixelate may change nothing, two of occlusion be the same, and a
coarser grid of pixelate change less than the one before.
"""

import io
import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..arguments import choice, integer, like, numbers

__all__ = ["KINDS", "LAST_SEED", "LEVELS", "PICTURES", "SEVERITIES", "corrupt"]

SEVERITIES = (0, 1, 2, 3, 4, 5)
LEVELS = {
    "noise": (0.0, 0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, normal, each channel its own
    "blur": (0.0, 0.5, 0.75, 1.0, 1.5, 2.0),  # standard deviation of a Gaussian, in 32nds of the width
    "contrast": (1.0, 0.4, 0.3, 0.2, 0.1, 0.05),  # what is left of the distance from the picture's mean
    "darkness": (1.0, 0.7, 0.5, 0.35, 0.25, 0.15),  # what is left of the light
    "shot": (math.inf, 60.0, 25.0, 12.0, 5.0, 3.0),  # photons that a full entry stands for: their number is Poisson's, each channel its own
    "impulse": (0.0, 0.03, 0.06, 0.09, 0.17, 0.27),  # share of entries that become 0 or 1, as many of each
    "defocus": (0.0, 1.0, 1.5, 2.0, 3.0, 4.0),  # radius of a disc, in 32nds of the width: as wide as the blur of that severity, twice its deviation
    "brightness": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),  # added to the largest channel, whose ratio to the others stays: the value of HSV
    "pixelate": (math.inf, 20.0, 14.0, 10.0, 7.0, 5.0),  # cells across the width
    "jpeg": (100, 60, 36, 20, 11, 6),  # Pillow's quality
    "fog": (0.0, 0.3, 0.4, 0.5, 0.6, 0.75),  # what clouds take of the picture; c of ImageNet-C's (x + c clouds) / (1 + c) is this over what is left
    "occlusion": (0.0, 6.0, 9.0, 12.0, 15.0, 18.0),  # side of a grey square, in 32nds of the width
}
KINDS = tuple(LEVELS)
PICTURES = 10**6  # that a seed tells apart
LAST_SEED = 4293  # of the seed of torch's generator on the CPU, 32 bits count: no two pictures of any two seeds have the same
_DRAWN = dict(dtype=torch.float32, device="cpu")  # whatever torch's defaults are


def _generators(images: Tensor, seed: int, first: int) -> list[torch.Generator]:
    """One a picture: what is drawn for it follows the seed and its number alone."""
    return [torch.Generator("cpu").manual_seed(seed * 1_000_003 + first + i) for i in range(len(images))]


def _noise(images: Tensor, sigma: float, seed: int, first: int) -> Tensor:
    drawn = [torch.randn(images.shape[1:], generator=generator, **_DRAWN) for generator in _generators(images, seed, first)]
    return images + sigma * torch.stack(drawn).to(images)


def _blur(images: Tensor, level: float, seed: int, first: int) -> Tensor:
    sigma = level * images.shape[3] / 32
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    for axes in ((reach, reach, 0, 0), (0, 0, reach, reach)):
        window = kernel if axes[0] else kernel.transpose(2, 3)
        images = F.conv2d(F.pad(images, axes, mode="replicate"), window, groups=images.shape[1])
    return images


def _contrast(images: Tensor, left: float, seed: int, first: int) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + left * (images - mean)


def _darkness(images: Tensor, left: float, seed: int, first: int) -> Tensor:
    return left * images


def _shot(images: Tensor, photons: float, seed: int, first: int) -> Tensor:
    rates = images.cpu().double() * photons
    drawn = [torch.poisson(rate, generator=generator) for rate, generator in zip(rates, _generators(images, seed, first), strict=True)]
    return (torch.stack(drawn) / photons).to(images)


def _impulse(images: Tensor, share: float, seed: int, first: int) -> Tensor:
    drawn = torch.stack([torch.rand(images.shape[1:], generator=generator, **_DRAWN) for generator in _generators(images, seed, first)]).to(images.device)
    return images.masked_fill(drawn < share / 2, 0).masked_fill(drawn > 1 - share / 2, 1)


def _defocus(images: Tensor, level: float, seed: int, first: int) -> Tensor:
    radius = level * images.shape[3] / 32
    reach = math.ceil(radius)
    at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    disc = (radius + 0.5 - torch.hypot(at[:, None], at)).clamp(0, 1)  # its edge a pixel wide
    window = (disc / disc.sum()).expand(images.shape[1], 1, -1, -1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    return torch.cat([F.conv2d(one, window, groups=len(window)) for one in padded.split(1)])  # a crowd of grey pictures is rounded in another way


def _brightness(images: Tensor, more: float, seed: int, first: int) -> Tensor:
    value = images.amax(1, keepdim=True)
    colour = torch.where(value > 0, images / value.clamp_min(torch.finfo(images.dtype).tiny), 1.0)
    return colour * (value + more).clamp(max=1)


def _pixelate(images: Tensor, cells: float, seed: int, first: int) -> Tensor:
    height, width = images.shape[2:]
    coarse = [max(1, round(side * min(cells, width) / width)) for side in (height, width)]
    return F.interpolate(F.interpolate(images, size=coarse, mode="area"), size=(height, width), mode="nearest-exact")


def _jpeg(images: Tensor, quality: int, seed: int, first: int) -> Tensor:
    """Pictures of three channels in colour; all others channel by channel, each a grey picture."""
    bytes_ = (images.cpu().double() * 255).round().to(torch.uint8)
    if images.shape[1] == 3:
        stored = [_stored(picture, quality) for picture in bytes_.permute(0, 2, 3, 1).numpy()]
        return (torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2).double() / 255).to(images)
    stored = [_stored(channel, quality) for channel in bytes_.flatten(0, 1).numpy()]
    return (torch.from_numpy(np.stack(stored)).reshape(images.shape).double() / 255).to(images)


def _stored(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _clouds(height: int, width: int, generator: torch.Generator) -> Tensor:
    """(1, height, width) from 0 to 1: random grids of 2, 4, 8 and 16 cells a side, smoothed, each half as strong as the one before."""
    grids = [torch.rand(1, 1, cells + 1, cells + 1, generator=generator, **_DRAWN) for cells in (2, 4, 8, 16)]
    total = sum(F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=True) / 2**i for i, grid in enumerate(grids))[0]
    return (total - total.min()) / (total.max() - total.min()).clamp_min(1e-6)


def _fog(images: Tensor, share: float, seed: int, first: int) -> Tensor:
    clouds = torch.stack([_clouds(*images.shape[2:], generator) for generator in _generators(images, seed, first)]).to(images)
    return images + share * (clouds - images)


def _occlusion(images: Tensor, level: float, seed: int, first: int) -> Tensor:
    images, (height, width) = images.clone(), images.shape[2:]
    side = min(max(1, round(level * width / 32)), height, width)
    for image, generator in zip(images, _generators(images, seed, first), strict=True):
        down, right = torch.rand(2, generator=generator, **_DRAWN).tolist()
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        image[:, top : top + side, left : left + side] = 0.5
    return images


_WAYS: dict[str, Callable] = {
    "noise": _noise, "blur": _blur, "contrast": _contrast, "darkness": _darkness, "shot": _shot, "impulse": _impulse, "defocus": _defocus,
    "brightness": _brightness, "pixelate": _pixelate, "jpeg": _jpeg, "fog": _fog, "occlusion": _occlusion,
}  # fmt: skip


def corrupt(images, kind: str, severity: int, *, seed: int = 0, first: int = 0):
    """Pictures (N, C, H, W) in [0, 1] with one of KINDS at a severity of 0 (as they are) to 5, in [0, 1] again; tensor or array, as they came.

    seed, from 0 to LAST_SEED, and first, below 10**6 with all pictures: the noise of picture i is drawn by the seed and by first + i, so that a batch of a
    larger set is told where it begins. Work is done in float32 at least, under autocast too; no gradient goes through. Raises ValueError for other shapes,
    values, kinds, severities, seeds and first pictures, TypeError for what are no floating-point numbers (bytes from 0 to 255 too).
    """
    given = numbers("images", images, "N C H W")
    if not given.is_floating_point():
        raise TypeError(f"images must be floating-point numbers (N, C, H, W) in [0, 1], got whole numbers of dtype {str(given.dtype).removeprefix('torch.')}")
    given = numbers("images", given, "N C H W", low=0, high=1)
    way, severity = _WAYS[choice("kind", kind, KINDS)], integer("severity", severity, low=0, high=5)
    seed, first = integer("seed", seed, low=0, high=LAST_SEED), integer("first", first, low=0, high=PICTURES - 1)
    if first + len(given) > PICTURES:
        raise ValueError(f"first must be at most {PICTURES - len(given)} with {len(given)} images, got {first}")
    if severity == 0:
        return like(images, given.clone())
    wide = given.to(torch.promote_types(given.dtype, torch.float32))
    place = wide.device.type
    with torch.autocast(place, enabled=False) if torch.amp.is_autocast_available(place) else nullcontext():
        worse = way(wide, LEVELS[kind][severity], seed, first)
    return like(images, worse.clamp(0, 1).to(given.dtype))
