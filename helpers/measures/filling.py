"""Simple ways to fill in the missing frames of a clip, which learn nothing: what a model that fills them in is measured against.

A clip is a tensor (K, C, H, W) in [0, 1], `is_ref` a bool tensor (K,), True where a frame is known; known frames come back bit for bit, and what missing
frames hold is not looked at. `straight_line` does the same for places alone. Bad arguments raise ValueError or TypeError before any work.
"""

import numpy as np
import torch
from skimage.registration import optical_flow_ilk
from skimage.transform import warp
from torch import Tensor

RADIUS = 7  # px; of the window in which Lucas-Kanade looks for motion, the best of 3, 5, 7 and 9 on crops of photographs


def _checked(name: str, value: Tensor, ndim: int, shape: str, is_ref: Tensor) -> list[int]:
    """The numbers of the known frames."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {value.dtype if isinstance(value, Tensor) else type(value).__name__}")
    if value.ndim != ndim or 0 in value.shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")
    if not isinstance(is_ref, Tensor) or is_ref.dtype != torch.bool:
        raise TypeError(f"is_ref must be a bool tensor, got {is_ref.dtype if isinstance(is_ref, Tensor) else type(is_ref).__name__}")
    if is_ref.shape != value.shape[:1] or not is_ref.any():
        raise ValueError(f"is_ref must be ({len(value)},) with a known frame, got {tuple(is_ref.shape)} with {int(is_ref.sum())}")
    if not torch.isfinite(value[is_ref]).all():
        raise ValueError(f"{name} must be finite in its known frames, got NaN or infinity")
    return is_ref.nonzero()[:, 0].tolist()


def nearest(clip: Tensor, is_ref: Tensor) -> Tensor:
    """Every missing frame is the nearest known one, the earlier of two that are as near."""
    known = torch.tensor(_checked("clip", clip, 4, "(frames, channels, height, width)", is_ref))
    return clip[known[(torch.arange(len(clip))[:, None] - known).abs().argmin(1)]]


def cross_fade(clip: Tensor, is_ref: Tensor) -> Tensor:
    """Between two known frames one fades linearly into the other; outside of them the nearest is held."""
    known, out = _checked("clip", clip, 4, "(frames, channels, height, width)", is_ref), nearest(clip, is_ref).clone()
    for a, b in zip(known, known[1:], strict=False):
        share = torch.linspace(0, 1, b - a + 1, dtype=clip.dtype)[1:-1, None, None, None]
        out[a + 1 : b] = (1 - share) * clip[a] + share * clip[b]
    return out


def along_flow(clip: Tensor, is_ref: Tensor, *, carry_on: bool = True) -> Tensor:
    """Missing frames are warped along the optical flow (iterative Lucas-Kanade, Le Besnerais and Champagnat 2005) of the known ones.

    Between two known frames both are warped towards the time that is asked for, and faded. Before the first and after the last two, the flow of those two
    is carried on at constant velocity (`carry_on`), or the nearest frame is held; it is held, too, where a single frame is known. H, W >= 16.
    """
    known = _checked("clip", clip, 4, "(frames, channels, height, width)", is_ref)
    if min(clip.shape[-2:]) < 16:
        raise ValueError(f"clip must be at least 16 x 16 px for optical flow, got {tuple(clip.shape[-2:])}")
    out = nearest(clip, is_ref).clone()

    def moved(frame: int, flow: np.ndarray, share: float) -> Tensor:
        place = np.mgrid[: clip.shape[2], : clip.shape[3]].astype(np.float32) + share * flow
        return torch.from_numpy(np.stack([warp(channel.double().numpy(), place, mode="edge") for channel in clip[frame]])).to(clip.dtype)

    def flow(a: int, b: int) -> np.ndarray:
        """Where each place of frame a lies in frame b, minus where it lies in a."""
        return optical_flow_ilk(*(clip[k].double().mean(0).numpy() for k in (a, b)), radius=RADIUS)

    for a, b in zip(known, known[1:], strict=False):
        if b - a > 1:
            there, back = flow(a, b), flow(b, a)
        for t in range(a + 1, b):
            share = (t - a) / (b - a)
            # frame t at a place p shows what b shows at p + (1 - share) there(p), and what a shows at p + share back(p)
            out[t] = (1 - share) * moved(a, back, share) + share * moved(b, there, 1 - share)
    if carry_on and len(known) > 1:
        for (a, b), times in ((known[-2:], range(known[-1] + 1, len(clip))), (known[1::-1], range(known[0]))):
            back = flow(b, a) if times else None
            for t in times:
                out[t] = moved(b, back, (t - b) / (b - a))
    return out


def straight_line(places: Tensor, is_ref: Tensor) -> Tensor:
    """Places (K, D) at constant velocity: on a line between two known ones, carried on beyond the first and the last two; a single one is held."""
    known, out = _checked("places", places, 2, "(frames, coordinates)", is_ref), places.clone()
    for t in (~is_ref).nonzero()[:, 0].tolist():
        later = sum(k < t for k in known)
        if len(known) == 1:
            out[t] = places[known[0]]
            continue
        a, b = known[min(max(later, 1), len(known) - 1) - 1 :][:2]
        out[t] = places[a] + (places[b] - places[a]) * (t - a) / (b - a)
    return out
