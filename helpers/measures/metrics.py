"""How close two pictures or clips are, and how far confidence may be trusted. Values in, numbers out."""

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor


def _check_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, x in (("a", a), ("b", b)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}")
        if x.ndim < 3 or x.shape[-3] not in (1, 3) or x.numel() == 0:
            raise ValueError(f"{name} must be (..., 1 or 3, H, W) and not empty, got {tuple(x.shape)}")
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} holds NaN or infinite values")
    if a.shape != b.shape:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)} must have one shape")
    return a.detach().double().cpu(), b.detach().double().cpu()


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures or clips (..., C, H, W) in [0, 1]; one mean squared error over everything, infinite when equal."""
    a, b = _check_pair(a, b)
    error = (a - b).square().mean().item()
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of pictures or clips (..., C, H, W) in [0, 1], H and W >= 7: mean over frames."""
    a, b = _check_pair(a, b)
    if min(a.shape[-2:]) < 7:
        raise ValueError(f"a must be at least 7x7 pixels for SSIM's window, got {tuple(a.shape[-2:])}")
    frames = zip(a.flatten(0, -4) if a.ndim > 3 else a[None], b.flatten(0, -4) if b.ndim > 3 else b[None], strict=True)
    return float(np.mean([structural_similarity(x.numpy(), y.numpy(), channel_axis=0, data_range=1.0) for x, y in frames]))


def calibration_error(probabilities, labels, *, bins: int = 10) -> float:
    """Expected calibration error in [0, 1]: |confidence - accuracy| over `bins` equal bins of the confidence, weighed by their rows (Guo et al. 2017, eq. 3).

    probabilities (N, C), labels (N,). Raises ValueError for other shapes or fewer than one bin.
    """
    rows, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"probabilities must be (N, C), got {rows.shape}")
    if labels.shape != (len(rows),):
        raise ValueError(f"labels must be ({len(rows)},), got {labels.shape}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, right = rows.max(1), rows.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in range(bins) if (place == b).any()]
    return float(sum(gaps))
