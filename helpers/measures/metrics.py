"""How close two pictures or clips are, and how far confidence may be trusted. Values in (tensors, arrays, lists), plain numbers out."""

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from ..arguments import got, integer, numbers

__all__ = ["calibration_error", "psnr", "ssim"]


def _pictures(name: str, value, sizes: dict) -> Tensor:
    """Pictures in [0, 1] as float64 on the CPU; rounding may carry an entry over the ends, by what it can be in the dtype that came."""
    x = numbers(name, value, "... C H W", sizes)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating-point pictures in [0, 1], got {got(value)} (bytes: divide by 255)")
    if x.shape[-3] not in (1, 3):
        raise ValueError(f"{name} must be (..., 1 or 3, H, W), got shape {tuple(x.shape)}")
    over = max(1e-6, 4 * torch.finfo(x.dtype).eps)
    x = x.cpu().double()
    if x.min() < -over or x.max() > 1 + over:
        raise ValueError(f"{name} must be pictures in [0, 1], got values from {x.min():.4g} to {x.max():.4g}")
    return x


def _pair(a, b) -> tuple[Tensor, Tensor]:
    sizes = {}
    a, b = _pictures("a", a, sizes), _pictures("b", b, sizes)
    if a.shape != b.shape:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)} must have one shape")
    return a, b


def psnr(a, b) -> float:
    """Peak signal-to-noise ratio in dB of pictures or clips (..., C, H, W) in [0, 1]; one mean squared error over everything, infinite when equal.

    Raises ValueError for other shapes, other ranges and NaN, TypeError for bytes and what are no numbers.
    """
    a, b = _pair(a, b)
    error = (a - b).square().mean().item()
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(a, b) -> float:
    """Structural similarity (Wang et al. 2004) of pictures or clips (..., C, H, W) in [0, 1], H and W >= 7: mean over frames. Errors as in `psnr`."""
    a, b = _pair(a, b)
    if min(a.shape[-2:]) < 7:
        raise ValueError(f"a must be at least 7x7 pixels for SSIM's window, got {tuple(a.shape[-2:])}")
    frames = zip(a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:]), strict=True)
    return float(np.mean([structural_similarity(x.numpy(), y.numpy(), channel_axis=0, data_range=1.0) for x, y in frames]))


def calibration_error(probabilities, labels, *, bins: int = 10) -> float:
    """Expected calibration error in [0, 1]: |confidence - accuracy| over `bins` equal bins of the confidence, weighed by their rows (Guo et al. 2017, eq. 3).

    probabilities (N, C), rows that sum to 1, C >= 2; labels (N,), whole numbers in 0..C-1. Raises ValueError for other shapes, rows that are no probabilities
    (logits, percent), labels without a column and fewer than one bin; TypeError for labels that are names.
    """
    sizes = {}
    given = numbers("probabilities", probabilities, "N C", sizes)
    rows = given.cpu().double()
    if rows.shape[1] < 2:
        raise ValueError(f"probabilities must be (N, C) with at least two classes, got shape {tuple(rows.shape)}")
    off = max(1e-4, 8 * torch.finfo(given.dtype).eps) if given.is_floating_point() else 0
    if rows.min() < -off or rows.max() > 1 + off:
        raise ValueError(f"probabilities must be rows in [0, 1], got values from {rows.min():.4g} to {rows.max():.4g}")
    sums = rows.sum(1)
    worst = int((sums - 1).abs().argmax())
    if abs(sums[worst] - 1) > off:
        raise ValueError(f"probabilities must be rows that sum to 1, got {sums[worst]:.6g} in row {worst}")
    labels = numbers("labels", labels, "N", sizes, low=0, high=rows.shape[1] - 1, whole=True).cpu().numpy()
    bins = integer("bins", bins, low=1)
    rows = rows.numpy()
    confidence, right = rows.max(1), rows.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in np.unique(place)]
    return float(sum(gaps))
