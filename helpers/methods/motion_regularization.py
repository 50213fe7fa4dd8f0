"""MoReg: spend more denoiser calls on videos that move.

Kahatapitiya et al. 2024, "Adaptive Caching for Faster Video Generation with Diffusion Transformers", arXiv 2411.02397,
section 4.3 (motion regularization).

AdaCache turns the change of one probe residual into a caching rate. MoReg multiplies that change by a factor read from the
same residual: how different are its frames (motion score), and how does that number move from one computed call to the
next (motion gradient)? Much motion makes the change look larger, and the codebook answers with a shorter reuse.

Read from top to bottom: 1. frames out of a transformer's tokens, 2. the score, 3. the factor as an object that a caching
clock takes as its regulariser:

    layout = layout_of(pipe.transformer, num_frames=8, height=8, width=8)  # of the latents
    moreg = MotionRegulariser(layout, window=(4, 26))
    apply_adacache(pipe.transformer, codebook, num_calls=30, regulariser=moreg)

Notation: p, the probe residual as frames [B, T, S, C] (T latent frames, S tokens a frame); mu, the motion score; s, the
score after pivot and power; g, the gradient; F, the factor. Where paper and official code differ the code is followed;
`form="paper"` gives the paper's formula.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "WINDOW_30", "WINDOW_100", "Layout", "Motion", "MotionRegulariser", "layout_of", "middle_window", "motion_score",
    "sharpen", "split_frames",
]  # fmt: skip


# --- checks of arguments: the same text in every method that checks so, since a method is copied alone ---


def _integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    expected = "an integer" + (f" in {least}..{most}" if None not in (least, most) else "" if least is None else f" >= {least}")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return int(value)


def _number(name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> float:
    expected = "a finite number" + (f" in [{least:g}, {most:g}]" if most < math.inf else f" >= {least:g}" if least > -math.inf else "")
    expected += f" > {above:g}" if above > -math.inf else ""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if not (math.isfinite(value) and least <= value <= most and value > above):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return float(value)


def _choice(name: str, value: Any, choices: Sequence) -> Any:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    return value


# --- end of the checks ---


def _strides(strides: Any, frames: int | None = None) -> tuple[int, ...]:
    if isinstance(strides, str) or not isinstance(strides, Iterable):
        raise TypeError(f"strides must be a sequence of integers, got {strides!r}")
    checked = tuple(_integer("strides", stride, 1) for stride in strides)
    if not checked:
        raise ValueError("strides is empty, expected at least one frame distance")
    if frames is not None and max(checked) >= frames:
        raise ValueError(f"strides must be smaller than the number of frames, got {checked} for {frames} frames: nothing would be compared")
    return checked


# ---------------------------------------------------------------------------------------------------------------------
# 1. Frames out of a transformer's tokens
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where the frames are in a probe residual of shape (batch, tokens, channels).

    frames: T >= 2, latent frames after patching. tokens: S >= 1, tokens of one frame after patching. order: how the
    two are laid out. "joint": [B, T*S, C], frame after frame. "temporal": [B*S, T, C], as in the temporal blocks of
    Latte. "spatial": [B*T, S, C], as in its spatial blocks. before, after: other tokens (text) that the probe holds in
    front of or behind the video's; they are dropped.

    Raises ValueError for fewer than two frames (an image does not move) and unknown orders.
    """

    frames: int
    tokens: int
    order: str = "joint"
    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        if _integer("frames", self.frames, 1) < 2:
            raise ValueError("frames must be >= 2, got 1: a single image has no motion")
        _integer("tokens", self.tokens, 1)
        if self.order not in ("joint", "temporal", "spatial"):
            raise ValueError(f"order must be one of joint, temporal, spatial, got {self.order!r}")
        if (_integer("before", self.before, 0) or _integer("after", self.after, 0)) and self.order != "joint":
            raise ValueError(f"before and after belong to order='joint', got order={self.order!r}")


def split_frames(probe: Tensor, layout: Layout) -> Tensor:
    """A probe residual as frames: a view [B, T, S, C] of `probe`.

    Raises ValueError when the number of tokens (or, for "temporal" and "spatial", the batch) does not fit the layout: a
    wrong number of tokens a frame would silently compare misaligned tokens.
    """
    if not isinstance(probe, Tensor) or not probe.is_floating_point():
        kind = probe.dtype if isinstance(probe, Tensor) else type(probe).__name__
        raise TypeError(f"probe must be a floating-point tensor, got {kind}")
    if not isinstance(layout, Layout):
        raise TypeError(f"layout must be a Layout, got {type(layout).__name__}")
    if probe.ndim != 3 or not probe.numel():
        raise ValueError(f"probe must be (batch, tokens, channels) and not empty, got {tuple(probe.shape)}")
    batch, length, _ = probe.shape
    frames, tokens = layout.frames, layout.tokens
    if layout.order == "joint":
        if length != layout.before + frames * tokens + layout.after:
            others = f" + {layout.before + layout.after} others" if layout.before + layout.after else ""
            raise ValueError(f"probe has {length} tokens, expected {frames} frames x {tokens} tokens{others}")
        return probe[:, layout.before : length - layout.after].unflatten(1, (frames, tokens))
    outer, inner = (tokens, frames) if layout.order == "temporal" else (frames, tokens)
    if length != inner or batch % outer:
        raise ValueError(f"probe is {tuple(probe.shape)}, expected (a multiple of {outer}, {inner}, channels) in order {layout.order!r}")
    split = probe.unflatten(0, (batch // outer, outer))
    return split.transpose(1, 2) if layout.order == "temporal" else split


def layout_of(transformer: nn.Module, *, num_frames: int, height: int, width: int, probe: str = "attention") -> Layout:
    """The layout of the probe residual of a diffusers video transformer, from the size of its latents.

    num_frames, height, width: of the latents that the transformer is given, before it cuts them into patches. (LTX is
    given tokens already: pass the `num_frames`, `height` and `width` of its call.) probe: as in `apply_adacache`, or the
    handle's `.probe`. Serves Latte, CogVideoX, Wan, LTX, Mochi and HunyuanVideo, and other classes whose configuration
    has a `patch_size` and whose blocks see all frames at once.

    Raises ValueError when a size is not a multiple of the patch size, TypeError for a model without a configuration.
    """
    sizes = [_integer(name, value, 1) for name, value in (("num_frames", num_frames), ("height", height), ("width", width))]
    config = getattr(transformer, "config", None)
    patch = getattr(config, "patch_size", None)
    if patch is None:
        raise TypeError(f"transformer must be a diffusers transformer whose config has a patch_size, got {type(transformer).__name__}")
    if not isinstance(patch, Sequence):
        patch = (getattr(config, "patch_size_t", None) or 1, patch, patch)
    for name, size, step in zip(("num_frames", "height", "width"), sizes, patch, strict=True):
        if size % step:
            raise ValueError(f"{name} must be a multiple of the patch size {step}, got {size}")
    frames, rows, columns = (size // step for size, step in zip(sizes, patch, strict=True))
    order = "joint"
    if hasattr(transformer, "temporal_transformer_blocks"):
        order = "temporal" if probe in ("attention", "block") or probe.startswith("temporal") else "spatial"
    return Layout(frames, rows * columns, order)


# ---------------------------------------------------------------------------------------------------------------------
# 2. The score
# ---------------------------------------------------------------------------------------------------------------------

SCORES = ("ratio", "correlation")
FORMS = ("code", "paper")
PIVOT, POWER, SCALE = 0.385, 8, 1  # of the official configuration, Open-Sora v1.2


def motion_score(frames: Tensor, *, strides: Sequence[int] = (1,), score: str = "ratio") -> Tensor:
    """How different the frames of a residual are: mu, a 0-d tensor in [0, 1] (section 4.3, as in the official code).

    score="ratio": ||p[i:T] - p[0:T-i]|| / (||p[i:T]|| + ||p[0:T-i]||), 1-norms over batch, frames, tokens and channels at
    once, mean over the strides i. 0: all compared frames equal. 1: everywhere opposite signs, or one of the two zero.
    score="correlation" (not in the paper): sqrt((1 - rho) / 2) with the correlation rho between the compared frames after
    the mean of every channel is taken away. The same number for zero-mean Gaussian frames, but blind to an offset that all
    frames share, which pulls the ratio to 0.

    frames: [B, T, S, C], computed in float32 or better. strides: frame distances, 1 <= i < T.
    NaN where all frames are zero. Raises ValueError for a wrong shape and strides that compare nothing.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    p = _frames(frames)
    strides = _strides(strides, p.shape[1])
    if score == "correlation":
        p = p - p.mean((1, 2), keepdim=True)
    size = p.square() if score == "correlation" else p.abs()
    size = size.sum((0, 2, 3))  # of each frame
    total = size.sum()
    scores = []
    for i in strides:
        later, earlier = p[:, i:], p[:, :-i]
        bound = size[i:].sum() + size[:-i].sum()
        moved = (later - earlier).square().sum() if score == "correlation" else (later - earlier).abs_().sum()
        scores.append(torch.where(bound > 0, moved / bound, bound / total))  # two zero frames are equal: 0
    mu = torch.stack(scores).mean()
    # 1 - rho = ||a - b||^2 / (||a||^2 + ||b||^2) for equal variances
    return (mu / 2).clamp(max=1).sqrt() if score == "correlation" else mu


def sharpen(mu: float, *, pivot: float = PIVOT, power: float = POWER, scale: float = SCALE) -> float:
    """s = (mu / pivot)^power / scale: below the pivot next to nothing, above it large. All three > 0, mu >= 0 or NaN."""
    pivot, power, scale = (_number(name, value, above=0) for name, value in (("pivot", pivot), ("power", power), ("scale", scale)))
    return (mu / pivot) ** power / scale


def _frames(frames: Any) -> Tensor:
    if not isinstance(frames, Tensor) or not frames.is_floating_point():
        kind = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
        raise TypeError(f"frames must be a floating-point tensor, got {kind}")
    if frames.ndim != 4 or not frames.numel():
        raise ValueError(f"frames must be (B, T, S, C) and not empty, got {tuple(frames.shape)}")
    if frames.shape[1] < 2:
        raise ValueError("frames must hold at least two frames, got 1: a single image has no motion")
    return frames if frames.dtype in (torch.float32, torch.float64) else frames.float()  # the power amplifies rounding


# ---------------------------------------------------------------------------------------------------------------------
# 3. The factor
# ---------------------------------------------------------------------------------------------------------------------

WINDOW_30, WINDOW_100 = (4, 26), (10, 90)
"""The official windows for 30 and 100 sampling steps."""


def middle_window(num_calls: int, share: float = 0.8) -> tuple[int, int]:
    """(w0, w1), the middle `share` of the calls, for numbers of steps without an official window: (10, 90) of 100."""
    num_calls, share = _integer("num_calls", num_calls, 1), _number("share", share, above=0)
    if share > 1:
        raise ValueError(f"share must be at most 1, got {share}")
    edge = (1 - share) / 2
    return max(1, round(edge * num_calls)), round((1 - edge) * num_calls)


class Motion(NamedTuple):
    """What a regulariser saw at one computed call."""

    call: int
    mu: float  # motion score (form="paper": m)
    score: float  # s, which is 1 outside the window (form="paper": m)
    gradient: float  # g, signed
    factor: float  # F


class MotionRegulariser:
    """The factor F that AdaCache's distance is multiplied by; a `regulariser` for CachingClock and apply_adacache.

    form="code" (the official code): s = (mu / pivot)^power / scale inside the window and 1 outside it,
    g = mograd_mul * (s - s_prev) / rate, F = s + |g|, with s_prev the s of the call before, 1 at the start. Any change of
    the score, also a fall, asks for more compute; entering or leaving the window is such a change.
    form="paper" (section 4.3): F = m + (m - m_prev) / rate with m = ||p[i:T] - p[0:T-i]||_1, as a mean over elements with
    mean=True; pivot, power and scale have no part in it, and the first call has no gradient.

    layout: a Layout. window: (w0, w1), calls counted from 1, both ends included; None: all calls; w0 > w1: never, which
    leaves the plain clock. strides, score: see `motion_score`. mograd_mul >= 0: weight of the gradient, 10 in the code and
    1 in the paper; 0 leaves s alone. signed_gradient: F = s + g instead (default in form="paper"); F may then be negative,
    which a codebook answers with its longest reuse. given: latent frames at the start that the user gave (image-to-video):
    they hold no noise, differ from all others whatever moves, and are left out of the score.

    Attributes: trace, one `Motion` per asked call. A residual that is zero everywhere (a fresh zero-initialised layer)
    has no score: s = 1 (m = 0), with one warning. Costs two passes over the probe and one device synchronisation, at
    computed calls only. Raises TypeError or ValueError for bad options.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        window: tuple[int, int] | None = None,
        strides: Sequence[int] = (1,),
        pivot: float = PIVOT,
        power: float = POWER,
        scale: float = SCALE,
        mograd_mul: float | None = None,
        signed_gradient: bool | None = None,
        form: str = "code",
        score: str = "ratio",
        mean: bool = False,
        given: int = 0,
    ) -> None:
        if not isinstance(layout, Layout):
            raise TypeError(f"layout must be a Layout, got {type(layout).__name__}")
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
        if form == "paper" and score != "ratio":
            raise ValueError(f"score={score!r} belongs to form='code'; form='paper' takes the norm of the frame differences")
        if window is not None:
            if isinstance(window, str) or not isinstance(window, Sequence) or len(window) != 2:
                raise ValueError(f"window must be a pair of integers or None, got {window!r}")
            window = tuple(_integer("window", edge) for edge in window)
        paper = form == "paper"
        self.layout, self.window, self.form, self.score, self.mean = layout, window, form, score, mean
        self.given = _integer("given", given, 0)
        if layout.frames - self.given < 2:
            raise ValueError(f"given must leave at least two of {layout.frames} frames, got {given}")
        self.strides = _strides(strides, layout.frames - self.given)
        self.pivot, self.power, self.scale = (_number(n, v, above=0) for n, v in (("pivot", pivot), ("power", power), ("scale", scale)))
        self.mograd_mul = _number("mograd_mul", (1 if paper else 10) if mograd_mul is None else mograd_mul, 0)
        self.signed_gradient = paper if signed_gradient is None else bool(signed_gradient)
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Forget the last video: s_prev is 1 again (form="paper": there is no m_prev)."""
        self.previous: float | None = None if self.form == "paper" else 1.0
        self.trace: list[Motion] = []

    def factor(self, probe: Tensor, call: int, rate: int) -> float:
        """F for the probe residual of computed call `call` (from 1), `rate` calls after the last computed one.

        probe: laid out as in `layout`. Raises ValueError for call < 1, rate < 1 and a probe that does not fit.
        """
        call, rate = _integer("call", call, 1), _integer("rate", rate, 1)
        frames = split_frames(probe, self.layout)[:, self.given :]
        mu = self._difference(frames) if self.form == "paper" else float(motion_score(frames, strides=self.strides, score=self.score))
        inside = self.window is None or self.window[0] <= call <= self.window[1]
        if self.form == "paper":
            s = mu if inside else 1.0
        elif math.isnan(mu) and not frames.any():
            self._warn(call)
            s = 1.0
        else:
            s = sharpen(mu, pivot=self.pivot, power=self.power, scale=self.scale) if inside else 1.0
        gradient = 0.0 if self.previous is None else self.mograd_mul * (s - self.previous) / rate
        factor = s + (gradient if self.signed_gradient else abs(gradient))
        if math.isfinite(s):
            self.previous = s
        self.trace.append(Motion(call, mu, s, gradient, factor))
        return factor

    def _difference(self, frames: Tensor) -> float:
        p = _frames(frames)
        differences = [(p[:, i:] - p[:, :-i]).abs_() for i in self.strides]
        return float(torch.stack([d.mean() if self.mean else d.sum() for d in differences]).mean())

    def _warn(self, call: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"probe is zero everywhere at call {call} (a zero-initialised layer?): no motion score, taking s = 1", stacklevel=3)
