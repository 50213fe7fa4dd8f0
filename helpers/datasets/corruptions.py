"""Pictures made worse: four kinds in five severities, after ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261).

    worse = corrupt(images, "blur", 3)               # images (N, C, H, W) in [0, 1]; severity 0 leaves them as they are
    worse = corrupt(images, "noise", 5, seed=1)      # other noise; picture i has the same one alone or in a crowd, if it is told that it is number i

Noise and contrast have the levels of ImageNet-C. Blur has levels of its own, in 32nds of the width, since those of pictures of 224 px would leave nothing
of one of 32; darkness, which ImageNet-C has not, stands in for its brightness.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import choice, integer, like, numbers

__all__ = ["KINDS", "LEVELS", "SEVERITIES", "corrupt"]

SEVERITIES = (0, 1, 2, 3, 4, 5)
LEVELS = {
    "noise": (0.0, 0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, normal, each channel its own
    "blur": (0.0, 0.5, 0.75, 1.0, 1.5, 2.0),  # standard deviation of a Gaussian, in 32nds of the width
    "contrast": (1.0, 0.4, 0.3, 0.2, 0.1, 0.05),  # what is left of the distance from the picture's mean
    "darkness": (1.0, 0.7, 0.5, 0.35, 0.25, 0.15),  # what is left of the light
}
KINDS = tuple(LEVELS)
_LAST_SEED = 10**11  # noise is drawn by a million times the seed, and 64 bits must hold that


def _noise(images: Tensor, sigma: float, seed: int, first: int) -> Tensor:
    drawn = [torch.randn(image.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + first + i)) for i, image in enumerate(images)]
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


_WAYS: dict[str, Callable] = {"noise": _noise, "blur": _blur, "contrast": _contrast, "darkness": _darkness}


def corrupt(images, kind: str, severity: int, *, seed: int = 0, first: int = 0):
    """Pictures (N, C, H, W) in [0, 1] with one of KINDS at a severity of 0 (as they are) to 5, in [0, 1] again; tensor or array, as they came.

    seed, from 0 to 10**11, and first, from 0 to 10**6: the noise of picture i is drawn by the seed and by first + i, so that a batch of a larger set is told
    where it begins. Work is done in float32 at least; no gradient goes through. Raises ValueError for other shapes, values, kinds, severities, seeds and
    first pictures, TypeError for what are no floating-point numbers (bytes from 0 to 255 too).
    """
    given = numbers("images", images, "N C H W")
    if not given.is_floating_point():
        raise TypeError(f"images must be floating-point numbers (N, C, H, W) in [0, 1], got whole numbers of dtype {str(given.dtype).removeprefix('torch.')}")
    given = numbers("images", given, "N C H W", low=0, high=1)
    way, severity = _WAYS[choice("kind", kind, KINDS)], integer("severity", severity, low=0, high=5)
    seed, first = integer("seed", seed, low=0, high=_LAST_SEED), integer("first", first, low=0, high=10**6)
    if severity == 0:
        return like(images, given.clone())
    wide = given.to(torch.promote_types(given.dtype, torch.float32))
    return like(images, way(wide, LEVELS[kind][severity], seed, first).clamp(0, 1).to(given.dtype))
