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
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
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


def _got(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        place = f" on {value.device.type}" if isinstance(value, Tensor) and value.device.type != "cpu" else ""
        return f"{str(value.dtype).removeprefix('torch.')} {'tensor' if isinstance(value, Tensor) else 'array'} of shape {tuple(value.shape)}{place}"
    return repr(value) if value is None or isinstance(value, (str, bytes, Real)) else f"a {type(value).__name__}"


def _option(name: str, value: Any, options: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(options)}, got {_got(value)}")
    return _choice(name, value, options)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_got(value)}")
    return bool(value)


def _integers(name: str, value: Any, expected: str) -> list:
    """The entries of a list, tuple, range, array, Series, tensor or generator; each is still to be checked."""
    hollow = isinstance(value, Tensor) and value.device == torch.device("meta")
    entries = value if hollow or not hasattr(value, "tolist") else value.tolist()
    if hollow or isinstance(entries, (str, bytes, Mapping, Set)) or not isinstance(entries, Iterable):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    return list(entries)


def _strides(strides: Any, frames: int) -> tuple[int, ...]:
    checked = tuple(_integer("strides", stride, 1) for stride in _integers("strides", strides, "a sequence of integers"))
    if not checked:
        raise ValueError("strides is empty, expected at least one frame distance")
    if max(checked) >= frames:
        raise ValueError(f"strides must be smaller than the number of frames, got {checked} for {frames} frames: nothing would be compared")
    return checked


def _hidden(value: Any) -> int:
    """How many entries of a numpy masked array, or of those in a list, are masked: numpy would show what lies behind the mask."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    return sum(int(np.ma.getmaskarray(part).sum()) for part in parts if isinstance(part, np.ma.MaskedArray))


def _numbers(name: str, value: Any, ndim: int | None, shape: str) -> Tensor:
    """Any array-like of floating-point numbers as a tensor, on the device it came on; numpy, lists and pandas share memory where they can."""
    expected = f"floating-point numbers {shape}"
    if isinstance(value, Tensor):
        if value.layout != torch.strided or not value.is_floating_point() or value.device == torch.device("meta"):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if value.element_size() == 1:
            raise TypeError(f"{name} must be {expected} of 16 bits or more, got {_got(value)}")
        tensor = value
    else:
        if not isinstance(value, (list, tuple)) and not hasattr(value, "__array__"):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if hidden := _hidden(value):
            raise ValueError(f"{name} must be {expected}, got an array with {hidden} masked entries: fill them, or leave their rows out")
        try:
            if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
                value = torch.stack(list(value)).detach().cpu()
            array = np.asarray(value)
        except Exception as error:  # whatever numpy makes of a ragged list or of what only looks like an array
            raise TypeError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
        if array.dtype.kind != "f":
            raise TypeError(f"{name} must be {expected}, got {_got(array if array.dtype != object else value)}")
        array = array.astype(np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("="), copy=False)
        tensor = torch.from_numpy(array if array.flags.writeable and all(step >= 0 for step in array.strides) else array.copy())
    if ndim is not None and (tensor.ndim != ndim or not tensor.numel()):
        raise ValueError(f"{name} must be {expected} and not empty, got shape {tuple(tensor.shape)}")
    return tensor


def _like(value: Any, result: Tensor) -> Any:
    """`result` as a tensor where `value` is one, and as numpy where it is numpy, a list or pandas."""
    return result if isinstance(value, Tensor) else result.detach().numpy()


# ---------------------------------------------------------------------------------------------------------------------
# 1. Frames out of a transformer's tokens
# ---------------------------------------------------------------------------------------------------------------------


ORDERS = ("joint", "temporal", "spatial")


@dataclass(frozen=True)
class Layout:
    """Where the frames are in a probe residual of shape (batch, tokens, channels).

    frames: T >= 2, latent frames after patching. tokens: S >= 1, tokens of one frame after patching. order: how the
    two are laid out. "joint": [B, T*S, C], frame after frame. "temporal": [B*S, T, C], as in the temporal blocks of
    Latte. "spatial": [B*T, S, C], as in its spatial blocks. before, after: other tokens (text) that the probe holds in
    front of or behind the video's; they are dropped.

    Raises ValueError for fewer than two frames (an image does not move), negative numbers and unknown orders, TypeError for
    what are no integers.
    """

    frames: int
    tokens: int
    order: str = "joint"
    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        least = {"frames": 1, "tokens": 1, "before": 0, "after": 0}
        for name, smallest in least.items():
            object.__setattr__(self, name, _integer(name, getattr(self, name), smallest))
        if self.frames < 2:
            raise ValueError("frames must be >= 2, got 1: a single image has no motion")
        _option("order", self.order, ORDERS)
        if (self.before or self.after) and self.order != "joint":
            raise ValueError(f"before and after belong to order='joint', got order={self.order!r} with before={self.before}, after={self.after}")


def split_frames(probe: Any, layout: Layout) -> Any:
    """A probe residual as frames: a view [B, T, S, C] of `probe`, a tensor; of numpy and lists as numpy.

    Raises ValueError when the number of tokens (or, for "temporal" and "spatial", the batch) does not fit the layout: a
    wrong number of tokens a frame would silently compare misaligned tokens.
    """
    if not isinstance(layout, Layout):
        raise TypeError(f"layout must be a Layout, got {_got(layout)}")
    return _like(probe, _split(_numbers("probe", probe, 3, "(batch, tokens, channels)"), layout))


def _split(probe: Tensor, layout: Layout) -> Tensor:
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

    Raises ValueError when a size is not a multiple of the patch size and for a probe that the model does not have, TypeError
    for a model without a configuration. Wrappers (torch.compile, data-parallel, peft) are looked through.
    """
    sizes = [_integer(name, value, 1) for name, value in (("num_frames", num_frames), ("height", height), ("width", width))]
    inner = _unwrapped(transformer)
    config = getattr(inner, "config", None)
    patch = getattr(config, "patch_size", None)
    if patch is None or not isinstance(inner, nn.Module):
        raise TypeError(f"transformer must be a diffusers transformer whose config has a patch_size, got {_got(transformer)}")
    if not isinstance(probe, str):
        raise TypeError(f'probe must be "attention", "block" or the name of a block or submodule of the transformer, got {_got(probe)}')
    lists = {name: child for name, child in inner.named_children() if isinstance(child, nn.ModuleList)}
    if probe not in ("attention", "block") and not (probe.split(".")[0] in lists and "." in probe and probe in dict(inner.named_modules())):
        raise ValueError(f'probe must be "attention", "block" or the name of a block or submodule in {list(lists)}, got {probe!r}')
    if not isinstance(patch, Sequence):
        patch = (getattr(config, "patch_size_t", None) or 1, patch, patch)
    for name, size, step in zip(("num_frames", "height", "width"), sizes, patch, strict=True):
        if size % step:
            raise ValueError(f"{name} must be a multiple of the patch size {step}, got {size}")
    frames, rows, columns = (size // step for size, step in zip(sizes, patch, strict=True))
    if frames < 2:
        raise ValueError(f"num_frames must be >= {2 * patch[0]}, got {num_frames}: a single image has no motion")
    order = "joint"
    if "temporal_transformer_blocks" in lists:
        order = "temporal" if probe in ("attention", "block") or probe.startswith("temporal") else "spatial"
    return Layout(frames, rows * columns, order)


def _unwrapped(model: Any) -> Any:
    """The model inside torch.compile, DataParallel, DistributedDataParallel and peft, which all put it behind an attribute."""
    while isinstance(model, nn.Module):
        if "_orig_mod" in model._modules:
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "peft_config") and callable(getattr(model, "get_base_model", None)):
            model = model.get_base_model()
        else:
            break
    return model


# ---------------------------------------------------------------------------------------------------------------------
# 2. The score
# ---------------------------------------------------------------------------------------------------------------------

SCORES = ("ratio", "correlation")
FORMS = ("code", "paper")
PIVOT, POWER, SCALE = 0.385, 8, 1  # of the official configuration, Open-Sora v1.2


def motion_score(frames: Any, *, strides: Sequence[int] = (1,), score: str = "ratio") -> Any:
    """How different the frames of a residual are: mu, a 0-d tensor in [0, 1] (section 4.3, as in the official code).

    score="ratio": ||p[i:T] - p[0:T-i]|| / (||p[i:T]|| + ||p[0:T-i]||), 1-norms over batch, frames, tokens and channels at
    once, mean over the strides i. 0: all compared frames equal. 1: everywhere opposite signs, or one of the two zero.
    score="correlation" (not in the paper): sqrt((1 - rho) / 2) with the correlation rho between the compared frames after
    the mean of every channel is taken away. The same number for zero-mean Gaussian frames, but blind to an offset that all
    frames share, which pulls the ratio to 0.

    frames: [B, T, S, C], floating point, computed in float32 or better; numpy and lists give a numpy number. strides: frame
    distances, 1 <= i < T. NaN where all frames are zero (for "correlation", constant in every channel).
    Raises ValueError for a wrong shape, NaN or infinite frames and strides that compare nothing, TypeError for integers.
    """
    p = _frames(frames)
    return _like(frames, _score(p, _strides(strides, p.shape[1]), _option("score", score, SCORES), "frames"))


def _score(p: Tensor, strides: tuple[int, ...], score: str, name: str) -> Tensor:
    """mu of checked frames; name: of the argument that they came in, should they not be finite."""
    mu = _compared(p, strides, score)
    if math.isfinite(mu.detach()):
        return mu
    peak = p.detach().abs().amax()
    if not math.isfinite(peak):
        raise ValueError(f"{name} must be finite, got {'NaN' if math.isnan(peak) else 'an infinity'} in it")
    return _compared(p / peak, strides, score)  # mu knows no scale; sums of very large or small numbers leave the range of floats


def _compared(p: Tensor, strides: tuple[int, ...], score: str) -> Tensor:
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
        scores.append(torch.where(bound > 0, moved / bound, 0.0))  # two zero frames are equal: 0
    mu = torch.stack(scores).mean()
    mu = torch.where((total > TINY) & (total < math.inf), mu, math.nan)  # NaN or infinity in any frame, compared or not
    # 1 - rho = ||a - b||^2 / (||a||^2 + ||b||^2) for equal variances
    return (mu / 2).clamp(max=1).sqrt() if score == "correlation" else mu.clamp(max=1)


TINY = 1e-30  # of a sum; below it squares have lost their digits


def sharpen(mu: Any, *, pivot: float = PIVOT, power: float = POWER, scale: float = SCALE) -> Any:
    """s = (mu / pivot)^power / scale: below the pivot next to nothing, above it large. All three > 0, mu in [0, 1].

    mu: a number gives a float; a tensor of any shape a tensor, in float32 or better; an array or list an array. Raises ValueError
    out of the ranges, for NaN, and where the score of mu = 1 would be larger than any number.
    """
    pivot, power, scale = _checked_shape(pivot, power, scale)
    if isinstance(mu, Real) and not isinstance(mu, bool):
        return _sharpened(_number("mu", mu, 0, 1), pivot, power, scale)
    values = _precise(_numbers("mu", mu, None, "in [0, 1]"))
    if not values.numel():
        raise ValueError(f"mu must be floating-point numbers in [0, 1] and not empty, got shape {tuple(values.shape)}")
    low, high = (float(end) for end in values.detach().aminmax())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"mu must be floating-point numbers in [0, 1], got values from {low:.4g} to {high:.4g}")
    s = _sharpened(values, pivot, power, scale)
    if not torch.isfinite(s.detach()).all():
        raise ValueError(f"pivot, power and scale must keep mu's scores below {torch.finfo(s.dtype).max:.0e}, got pivot={pivot}, power={power}, scale={scale}")
    return _like(mu, s)


def _sharpened(mu: Any, pivot: float, power: float, scale: float) -> Any:
    return (mu / pivot) ** power / scale


def _checked_shape(pivot: Any, power: Any, scale: Any) -> tuple[float, float, float]:
    """pivot, power and scale, each alone and together: the largest score, that of mu = 1, must be a number."""
    pivot, power, scale = (_number(name, value, above=0) for name, value in (("pivot", pivot), ("power", power), ("scale", scale)))
    try:
        largest = _sharpened(1.0, pivot, power, scale)
    except OverflowError:
        largest = math.inf
    if not largest < math.inf:
        raise ValueError(f"pivot, power and scale must keep (1 / pivot)^power / scale below 1e308, got pivot={pivot}, power={power}, scale={scale}")
    return pivot, power, scale


def _precise(p: Tensor) -> Tensor:
    return p if p.dtype in (torch.float32, torch.float64) else p.float()  # the power amplifies rounding


def _frames(frames: Any) -> Tensor:
    p = _numbers("frames", frames, 4, "(B, T, S, C)")
    if p.shape[1] < 2:
        raise ValueError("frames must hold at least two frames, got 1: a single image has no motion")
    return _precise(p)


# ---------------------------------------------------------------------------------------------------------------------
# 3. The factor
# ---------------------------------------------------------------------------------------------------------------------

WINDOW_30, WINDOW_100 = (4, 26), (10, 90)
"""The official windows for 30 and 100 sampling steps."""


def middle_window(num_calls: int, share: float = 0.8) -> tuple[int, int]:
    """(w0, w1), the middle `share` (in (0, 1]) of the calls, for numbers of steps without an official window: (10, 90) of 100."""
    num_calls, share = _integer("num_calls", num_calls, 1), _number("share", share, 0, 1, above=0)
    edge = (1 - share) / 2
    first = max(1, round(edge * num_calls))
    return first, max(first, round((1 - edge) * num_calls))


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
    they hold no noise, differ from all others whatever moves, and are left out of the score. start_score >= 0: s_prev (m_prev)
    at the first call of a video; None is 1, as in the official code (form="paper": none). The official code sets it once and
    then goes on with the last score of the video before: pass that one to do as it does.

    Attributes: trace, one `Motion` per asked call. A residual without a score, zero everywhere (a fresh zero-initialised
    layer) or with score="correlation" constant in every channel, counts as s = 1, with one warning. Costs two passes over the
    probe and one device synchronisation, at computed calls only. Raises TypeError or ValueError for bad options.
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
        start_score: float | None = None,
    ) -> None:
        if not isinstance(layout, Layout):
            raise TypeError(f"layout must be a Layout, got {_got(layout)}")
        self.layout, self.form, self.score, self.mean = layout, _option("form", form, FORMS), _option("score", score, SCORES), _flag("mean", mean)
        paper = form == "paper"
        if paper and score != "ratio":
            raise ValueError(f"score={score!r} belongs to form='code'; form='paper' takes the norm of the frame differences")
        self.window: tuple[int, int] | None = None
        if window is not None:
            edges = _integers("window", window, "a pair of integers or None")
            if len(edges) != 2:
                raise ValueError(f"window must be a pair of integers or None, got {edges!r}")
            self.window = (_integer("window", edges[0]), _integer("window", edges[1]))
        self.given = _integer("given", given, 0)
        if layout.frames - self.given < 2:
            raise ValueError(f"given must leave at least two of {layout.frames} frames, got {given}")
        self.strides = _strides(strides, layout.frames - self.given)
        self.pivot, self.power, self.scale = _checked_shape(pivot, power, scale)
        self.mograd_mul = _number("mograd_mul", (1 if paper else 10) if mograd_mul is None else mograd_mul, 0)
        self.signed_gradient = paper if signed_gradient is None else _flag("signed_gradient", signed_gradient)
        self.start_score: float | None = (None if paper else 1.0) if start_score is None else _number("start_score", start_score, 0)
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Forget the last video: s_prev is `start_score` again (form="paper": there is no m_prev unless one was given)."""
        self.previous: float | None = self.start_score
        self.trace: list[Motion] = []

    def factor(self, probe: Any, call: int, rate: int) -> float:
        """F for the probe residual of computed call `call` (from 1), `rate` calls after the last computed one.

        probe: laid out as in `layout`. Raises ValueError for call < 1, rate < 1, a probe that does not fit and one that is not
        finite; a refused call leaves no trace.
        """
        call, rate = _integer("call", call, 1), _integer("rate", rate, 1)
        frames = _precise(_split(_numbers("probe", probe, 3, "(batch, tokens, channels)").detach(), self.layout)[:, self.given :])
        mu = self._difference(frames) if self.form == "paper" else float(_score(frames, self.strides, self.score, "probe"))
        inside = self.window is None or self.window[0] <= call <= self.window[1]
        if self.form == "paper":
            s = mu if inside else 1.0
        elif math.isnan(mu):
            self._warn(call)
            s = 1.0
        else:
            s = _sharpened(mu, self.pivot, self.power, self.scale) if inside else 1.0
        gradient = 0.0 if self.previous is None else self.mograd_mul * (s - self.previous) / rate
        factor = s + (gradient if self.signed_gradient else abs(gradient))
        if not math.isfinite(factor):
            raise ValueError(f"mograd_mul must keep the factor a number, got mograd_mul={self.mograd_mul} for a score of {s:.3g} after {self.previous:.3g}")
        self.previous = s
        self.trace.append(Motion(call, mu, s, gradient, factor))
        return factor

    def _difference(self, frames: Tensor) -> float:
        differences = [(frames[:, i:] - frames[:, :-i]).abs_() for i in self.strides]
        m = float(torch.stack([d.mean() if self.mean else d.sum() for d in differences]).mean())
        if not math.isfinite(m + 0 * float(frames.sum())):
            raise ValueError("probe must be finite, and so must the sum of its frame differences, got NaN or infinity")
        return m

    def _warn(self, call: int) -> None:
        if not self._warned:
            self._warned = True
            what = "zero everywhere" if self.score == "ratio" else "constant in every channel"
            warnings.warn(f"probe is {what} at call {call} (a zero-initialised layer?): no motion score, taking s = 1", stacklevel=3)
