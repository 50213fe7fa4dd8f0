"""Frames between two known ones without a trained model: what an interpolating model is compared with."""

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from skimage.registration import optical_flow_tvl1
from torch import Tensor


def nearest(video: Tensor) -> Tensor:
    """Clips (B, T, C, H, W): every frame the first or the last one, whichever is nearer in time; the middle one the first."""
    frames = _checked(video).shape[1]
    return video[:, [0 if 2 * t <= frames - 1 else frames - 1 for t in range(frames)]]


def cross_fade(video: Tensor) -> Tensor:
    """Clips (B, T, C, H, W): every frame a weighted mean of the first and the last one."""
    share = torch.linspace(0, 1, _checked(video).shape[1])[:, None, None, None]
    return (1 - share) * video[:, :1] + share * video[:, -1:]


def flow(video: Tensor) -> Tensor:
    """Clips (B, T, C, H, W) in [0, 1]: both ends moved along scikit-image's TV-L1 optical flow between them (Zach et al. 2007) and faded into one another.

    The flow from a frame to an end is mixed from the flows of the ends as in Super SloMo (Jiang et al. 2018, eq. 4); where one end would be read outside
    the picture, the other alone counts.
    """
    frames = _checked(video).shape[1]
    out = video.clone()
    for b in range(len(video)):
        ends = [video[b, t].double().numpy() for t in (0, frames - 1)]
        grey = [end.mean(0) for end in ends]
        there, back = optical_flow_tvl1(*grey), optical_flow_tvl1(*grey[::-1])
        for t in range(1, frames - 1):
            u = t / (frames - 1)
            to_first, to_last = u * u * back - u * (1 - u) * there, (1 - u) ** 2 * there - u * (1 - u) * back
            (first, seen), (last, also) = (_moved(end, way) for end, way in zip(ends, (to_first, to_last), strict=True))
            weights = (1 - u) * (seen + 1e-6), u * (also + 1e-6)
            out[b, t] = torch.from_numpy((weights[0] * first + weights[1] * last) / (weights[0] + weights[1])).clamp(0, 1).to(video)
    return out


def _checked(video: Tensor) -> Tensor:
    if not isinstance(video, Tensor):
        raise TypeError(f"video must be a torch tensor, got {type(video).__name__}")
    if video.ndim != 5 or video.shape[1] < 2 or video.numel() == 0:
        raise ValueError(f"video must be (B, T, C, H, W) with at least two frames, got {tuple(video.shape)}")
    if not torch.isfinite(video).all():
        raise ValueError("video holds NaN or infinite values")
    return video


def _moved(picture: np.ndarray, way: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture (C, H, W) read at every place plus `way` (2, H, W), rows first; and where that lies inside it, (H, W) 0 or 1."""
    height, width = picture.shape[1:]
    y, x = np.mgrid[:height, :width] + way
    inside = (y >= -0.5) & (y <= height - 0.5) & (x >= -0.5) & (x <= width - 0.5)
    return np.stack([map_coordinates(channel, [y, x], order=1, mode="nearest") for channel in picture]), inside.astype(float)
