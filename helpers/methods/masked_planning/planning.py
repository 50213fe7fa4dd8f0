"""Masked planning: which frames are known, who attends to whom, and the error of the missing ones. Nothing here needs a model or diffusers.

Liu, Liu, Zhou et al., "MarDini: Masked Autoregressive Diffusion for Video Generation at Scale", 2024, arXiv 2410.20280. What the text leaves open and is
decided here says "(ours)". The networks are in `networks.py`; `pipeline.py` fills a clip with them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ._arguments import _clip, _finite, _integer, _items, _known, _like, _number, _option, _place, _random, _tensor

__all__ = [
    "CURRICULUM", "TASKS", "chosen", "draw_references", "identity_mask", "low_resolution", "masked_error", "references", "token_pairs",
]  # fmt: skip

IDENTITIES = ("token", "frame", None)  # what a reference token attends to: itself, its frame, everything
TASKS = ("interpolation", "image-to-video", "last frame", "middle frame", "expansion")


# ------------------------------------------------------------------------------------------------------------------- references, curriculum


def references(task: str, frames: int, count: int = 1) -> Tensor:
    """Which frames are known in a task, (frames,) bool (section 3.4).

    "interpolation": the first and the last; "image-to-video": the first; "last frame"; "middle frame": frame frames // 2; "expansion": the first `count`.
    """
    _option("task", task, TASKS)
    frames = _integer("frames", frames, 2)
    known = {"interpolation": [0, frames - 1], "image-to-video": [0], "last frame": [frames - 1], "middle frame": [frames // 2],
             "expansion": range(_integer("count", count, 1, frames - 1))}[task]  # fmt: skip
    return chosen(known, frames)


def chosen(known, frames: int) -> Tensor:
    """(frames,) bool, True at the frames of `known`. Raises ValueError for a frame outside 0 .. frames - 1, one named twice, none, or all of them."""
    frames = _integer("frames", frames, 2)
    places = [_integer("known", k) for k in _items("known", known, f"a list of frames in 0..{frames - 1}")]
    for place in places:
        if not 0 <= place < frames:
            raise ValueError(f"known must be an integer in 0..{frames - 1}, got {place} where frames is {frames}")
    if len(set(places)) != len(places) or not 0 < len(places) < frames:
        raise ValueError(f"known must hold 1 to {frames - 1} different frames, got {places}")
    is_ref = torch.zeros(frames, dtype=torch.bool)
    is_ref[places] = True
    return is_ref


def reference_count(ratio: float, frames: int) -> int:
    """How many of the frames are references at a share `ratio` in [0, 1]: rounded, at least one and not all (ours; section 3.3 names shares only).

    The paper calls this share the "mask ratio", though it is the share that is *kept*; in MAR a mask ratio is the share that is hidden."""
    return min(max(round(_number("ratio", ratio, 0, 1) * frames), 1), _integer("frames", frames, 2) - 1)


def draw_references(clips: int, frames: int, ratios: tuple[float, float], generator: torch.Generator | None = None) -> Tensor:
    """Random references for training, (clips, frames) bool: a share uniform in `ratios` for each clip, places uniform."""
    clips, frames = _integer("clips", clips, 1), _integer("frames", frames, 2)
    bounds = [_number("ratios", r, 0, 1) for r in _items("ratios", ratios, "(lowest, highest)")]
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"ratios must be (lowest, highest), got {ratios}")
    (low, high), device = bounds, _place(_random("generator", generator))
    shares = low + (high - low) * torch.rand(clips, generator=generator, dtype=torch.float64, device=device).cpu()
    counts = torch.tensor([reference_count(s, frames) for s in shares.tolist()])
    order = torch.rand(clips, frames, generator=generator, device=device).cpu().argsort(1).argsort(1)
    return order < counts[:, None]


def spread(count: int, frames: int) -> list[int]:
    """Where `count` images stand in a window of `frames`: evenly, the first and the last at its ends (ours)."""
    count, frames = _integer("count", count, 1), _integer("frames", frames, 2)
    if count >= frames:
        raise ValueError(f"count must be below frames, got {count} and {frames}")
    return [0] if count == 1 else [round(i * (frames - 1) / (count - 1)) for i in range(count)]


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum (fig. 4): the range of the share of reference frames, frames, how frames are mixed, what is trained, clips seen."""

    ratios: tuple[float, float]
    frames: int
    mixer: str
    trained: str
    clips: float


CURRICULUM = {
    "planner alone": Stage((0.65, 1.0), 4, "space-time", "planner", 200e6),
    "generator alone, 4 frames, 8 fps": Stage((0.45, 1.0), 4, "space-time", "generator", 20e6),
    "generator alone, 4 frames, 4 fps": Stage((0.35, 1.0), 4, "space-time", "generator", 80e6),
    "generator alone, 9 frames": Stage((0.35, 1.0), 9, "space-time", "generator", 40e6),
    "joint model": Stage((0.35, 1.0), 9, "space-time", "both", 75e6),
    "joint task, ST": Stage((0.15, 0.6), 9, "space-time", "both", 40e6),
    "joint task, T": Stage((0.06, 0.3), 17, "temporal", "both", 40e6),
}


# -------------------------------------------------------------------------------------------------------------------------------- attention


def identity_mask(is_ref: Tensor, tokens: int = 1, identity: str | None = "token") -> Tensor | None:
    """Who may attend to whom (section 3.2, fig. 3): (B, K * tokens, K * tokens) bool, rows ask, columns answer; None where everyone may.

    A masked frame's token attends to all. A reference frame's token attends to itself ("token"), to its own frame ("frame"), or to all (None). The paper
    draws frames; "token" follows its words "identity projection". With one token a frame, as in temporal attention, both are the same.
    """
    found = _tensor("is_ref", is_ref, "booleans (clips, frames)", "b")
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"is_ref must be booleans (clips, frames), got shape {tuple(found.shape)}")
    mask = _attended(found, _integer("tokens", tokens, 1), _option("identity", identity, IDENTITIES))
    return None if mask is None else _like(is_ref, mask)


def _attended(is_ref: Tensor, tokens: int, identity: str | None) -> Tensor | None:
    if identity is None:
        return None
    is_ref = is_ref.repeat_interleave(tokens, 1)
    count = is_ref.shape[1]
    own = torch.arange(count, device=is_ref.device) // (tokens if identity == "frame" else 1)
    return ~is_ref[:, :, None] | (own[:, None] == own)


def token_pairs(frames: int, tokens: int, mixer: str) -> int:
    """Pairs of tokens that one layer compares: "spatial" K N^2, "temporal" N K^2, "space-time" (K N)^2."""
    k, n = _integer("frames", frames, 1), _integer("tokens", tokens, 1)
    pairs = {"spatial": k * n * n, "temporal": n * k * k, "space-time": (k * n) ** 2}
    return pairs[_option("mixer", mixer, tuple(pairs))]


# ----------------------------------------------------------------------------------------------------------------------------------- frames


def low_resolution(clip: Tensor, factor: int) -> Tensor:
    """Frames averaged over squares of `factor`: (B, K, C, H, W) -> (B, K, C, H / factor, W / factor). Averages, since decimation loses small things."""
    factor = _integer("factor", factor, 1)
    found = _finite("clip", _clip("clip", clip, None, None, None))
    if found.shape[-1] % factor or found.shape[-2] % factor:
        raise ValueError(f"clip must have sides that are multiples of factor {factor}, got {tuple(found.shape[-2:])}")
    return _like(clip, F.avg_pool2d(found.flatten(0, 1), factor).unflatten(0, found.shape[:2]))


def masked_error(prediction: Tensor, target: Tensor, is_ref: Tensor, per: str = "element") -> Tensor:
    """Mean squared error over the masked frames (section 3.3 prints a sum; ours: a mean, so that the number of masked frames does not scale it).

    per: "element" gives every masked frame the same weight, "clip" every clip.
    """
    _option("per", per, ("element", "clip"))
    found = _clip("prediction", prediction, None, None, None)
    target = _clip("target", target, *found.shape[2:], like=found, of="prediction").to(found.device)
    is_ref = _known(is_ref, *found.shape[:2], "prediction").to(found.device)
    for name, frames in (("prediction", found), ("target", target)):
        _finite(name, torch.where(is_ref[:, :, None, None, None], 0, frames), " in its masked frames")
    return _like(prediction, _masked_error(found, target, is_ref, per))


def _masked_error(prediction: Tensor, target: Tensor, is_ref: Tensor, per: str = "element") -> Tensor:
    errors = (prediction - target).square().flatten(2).mean(2)
    masked = ~is_ref
    errors = torch.where(masked, errors, 0)
    return errors.sum() / masked.sum() if per == "element" else (errors.sum(1) / masked.sum(1)).mean()
