"""Simple ways to fill in the missing frames of a clip, which learn nothing: what a model that fills them in is measured against.

A clip is floating-point numbers (K, C, H, W), `is_ref` a mask (K,), True where a frame is known; known frames come back bit for bit, and what missing frames
hold is not looked at. `straight_line` does the same for places alone. Tensors give tensors, on their device; arrays and lists give arrays. Bad arguments raise
ValueError or TypeError before any work.
"""

import numpy as np
import torch
from skimage.registration import optical_flow_ilk
from skimage.transform import warp
from torch import Tensor

from ..arguments import flag, got, like, numbers

__all__ = ["along_flow", "cross_fade", "nearest", "straight_line"]

RADIUS = 7  # px; of the window in which Lucas-Kanade looks for motion, the best of 3, 5, 7 and 9 on crops of photographs


def _checked(name: str, value, shape: str, is_ref) -> tuple[Tensor, list[bool], list[int]]:
    """(values, mask, numbers of the known frames)."""
    sizes = {}
    x = numbers(name, value, shape, sizes, finite=False)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating-point numbers ({', '.join(shape.split())}), got {got(value)}")
    mask = numbers("is_ref", is_ref, "K", sizes, masks=True)
    if mask.dtype != torch.bool:
        raise TypeError(f"is_ref must be True and False ({len(x)},), got {got(is_ref)}")
    mask = mask.tolist()
    known = [k for k, there in enumerate(mask) if there]
    if not known:
        raise ValueError(f"is_ref must hold a known frame, got {len(mask)} times False")
    if not torch.isfinite(x[torch.tensor(known)]).all():
        raise ValueError(f"{name} must be finite in its known frames, got NaN or infinity")
    return x, mask, known


def nearest(clip, is_ref):
    """Every missing frame is the nearest known one, the earlier of two that are as near."""
    x, _, known = _checked("clip", clip, "K C H W", is_ref)
    return like(clip, _nearest(x, known))


def _nearest(clip: Tensor, known: list[int]) -> Tensor:
    return clip[torch.tensor([min(known, key=lambda k: (abs(t - k), k)) for t in range(len(clip))])]


def cross_fade(clip, is_ref):
    """Between two known frames one fades linearly into the other; outside of them the nearest is held."""
    x, _, known = _checked("clip", clip, "K C H W", is_ref)
    out = _nearest(x, known)
    for a, b in zip(known, known[1:], strict=False):
        share = torch.linspace(0, 1, b - a + 1, dtype=x.dtype)[1:-1, None, None, None].to(x.device)
        out[a + 1 : b] = (1 - share) * x[a] + share * x[b]
    return like(clip, out)


def along_flow(clip, is_ref, *, carry_on: bool = True):
    """Missing frames are warped along the optical flow (iterative Lucas-Kanade, Le Besnerais and Champagnat 2005) of the known ones.

    Between two known frames both are warped towards the time that is asked for, and faded. Before the first and after the last two, the flow of those two
    is carried on at constant velocity (`carry_on`), or the nearest frame is held; it is held, too, where a single frame is known. H, W >= 16.
    """
    x, _, known = _checked("clip", clip, "K C H W", is_ref)
    carry_on = flag("carry_on", carry_on)
    if min(x.shape[-2:]) < 16:
        raise ValueError(f"clip must be at least 16 x 16 px for optical flow, got {tuple(x.shape[-2:])}")
    out = _nearest(x, known)
    frames = {k: x[k].cpu().double() for k in known}

    def moved(frame: int, flow: np.ndarray, share: float) -> Tensor:
        place = np.mgrid[: x.shape[2], : x.shape[3]].astype(np.float32) + share * flow
        return torch.from_numpy(np.stack([warp(channel.numpy(), place, mode="edge") for channel in frames[frame]])).to(x)

    def flow(a: int, b: int) -> np.ndarray:
        """Where each place of frame a lies in frame b, minus where it lies in a."""
        return optical_flow_ilk(*(frames[k].mean(0).numpy() for k in (a, b)), radius=RADIUS)

    for a, b in zip(known, known[1:], strict=False):
        if b - a > 1:
            there, back = flow(a, b), flow(b, a)
        for t in range(a + 1, b):
            share = (t - a) / (b - a)
            # frame t at a place p shows what b shows at p + (1 - share) there(p), and what a shows at p + share back(p)
            out[t] = (1 - share) * moved(a, back, share) + share * moved(b, there, 1 - share)
    if carry_on and len(known) > 1:
        for (a, b), times in ((known[-2:], range(known[-1] + 1, len(x))), (known[1::-1], range(known[0]))):
            back = flow(b, a) if times else None
            for t in times:
                out[t] = moved(b, back, (t - b) / (b - a))
    return like(clip, out)


def straight_line(places, is_ref):
    """Places (K, D) at constant velocity: on a line between two known ones, carried on beyond the first and the last two; a single one is held."""
    x, mask, known = _checked("places", places, "K D", is_ref)
    out = x.clone()
    for t in (t for t, there in enumerate(mask) if not there):
        later = sum(k < t for k in known)
        if len(known) == 1:
            out[t] = x[known[0]]
            continue
        a, b = known[min(max(later, 1), len(known) - 1) - 1 :][:2]
        out[t] = x[a] + (x[b] - x[a]) * (t - a) / (b - a)
    return like(places, out)
