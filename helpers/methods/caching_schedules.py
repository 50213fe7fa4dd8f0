"""AdaCache: how many denoiser calls does this particular video need?

Kahatapitiya et al. 2024, "Adaptive Caching for Faster Video Generation with Diffusion Transformers", arXiv 2411.02397.

A video diffusion transformer is called N times to denoise one video, and what its blocks add to the hidden state (the
residuals) changes little from call to call. AdaCache stores the residuals and adds them again instead of computing them.
For how many calls they are kept is decided while the video is made: after every computed call the relative change of one
probe residual goes through a small table, the codebook, which answers with the next caching rate.

Read from top to bottom: 1. codebook, 2. distance, 3. clocks (which calls are computed), 4. schedules from recorded runs
(prediction, calibration, oracle), 5. `apply_adacache`, which attaches a clock to a diffusers transformer. Parts 1 to 4
need no model.

Calls are numbered n = 1..N in sampling order. `rate` is the number of calls from one computation to the next: rate 1
computes every call, rate 6 computes one and reuses five times. Where paper and official code differ the code is followed;
`form="paper"` gives the paper's distance.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

try:  # everything here that diffusers does not promise to keep: one place, so that a move is seen at once
    from diffusers.hooks import HookRegistry, ModelHook
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
    from diffusers.hooks.hooks import BaseState, CacheContext, StateManager
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "caching_schedules needs the hook classes of diffusers (written for 0.42.1): diffusers.hooks.{HookRegistry, "
        "ModelHook}, diffusers.hooks._helpers.{TransformerBlockMetadata, TransformerBlockRegistry} and diffusers.hooks."
        f"hooks.{{BaseState, CacheContext, StateManager}}. This diffusers has moved one of them: {error}"
    ) from error

__all__ = [
    "FAST_30", "FAST_100", "SLOW_30", "AdaCacheHandle", "CachingClock", "Call", "Codebook", "FixedClock", "Report",
    "apply_adacache", "best_fixed_calls", "calibrate", "distance", "oracle_calls", "pairwise_distances", "predict_calls",
    "replay_calls", "uniform_calls",
]  # fmt: skip


def _integer(name: str, value: Any, smallest: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer >= {smallest}, got {value!r}")
    if value < smallest:
        raise ValueError(f"{name} must be an integer >= {smallest}, got {value}")
    return int(value)


def _real(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a finite number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _choice(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def _kind(t: Tensor) -> str:
    return f"{tuple(t.shape)} {t.dtype} on {t.device}"


# ---------------------------------------------------------------------------------------------------------------------
# 1. The codebook
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Codebook:
    """The table that turns a distance into the next caching rate (section 4.2; any number m >= 1 of rates).

    rates: m integers >= 1, never rising. thresholds: the m - 1 borders between them, finite and strictly rising.
    A distance d gets the rate of the first threshold with d < threshold, and the last rate when there is none.

    Published tables pair every rate with a threshold, and the last threshold (1.00) is never compared: write those with
    `Codebook.from_pairs`. Raises ValueError for an empty, unsorted or non-finite table, TypeError for rates that are not
    integers.
    """

    thresholds: tuple[float, ...]
    rates: tuple[int, ...]

    def __post_init__(self) -> None:
        rates = tuple(_integer("rates", rate, 1) for rate in self.rates)
        thresholds = tuple(_real("thresholds", threshold) for threshold in self.thresholds)
        if not rates:
            raise ValueError("rates is empty, expected at least one rate")
        if len(thresholds) != len(rates) - 1:
            raise ValueError(
                f"thresholds has {len(thresholds)} entries for {len(rates)} rates, expected {len(rates) - 1}: the borders "
                "between the rates (tables with a last threshold that is never compared: Codebook.from_pairs)"
            )
        if any(b <= a for a, b in pairwise(thresholds)):
            raise ValueError(f"thresholds must rise strictly, got {thresholds}")
        if any(b > a for a, b in pairwise(rates)):
            raise ValueError(f"rates must never rise (a larger distance never earns a longer reuse), got {rates}")
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "rates", rates)

    @classmethod
    def from_pairs(cls, pairs: Mapping[float, int] | Iterable[tuple[float, int]]) -> Codebook:
        """A table as published, `{0.08: 6, 0.16: 5, ..., 1.00: 1}`; its last threshold is checked, never compared."""
        rows = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
        if not rows:
            raise ValueError("pairs is empty, expected at least one threshold with its rate")
        thresholds, rates = zip(*rows, strict=True)
        last = _real("thresholds", thresholds[-1])
        if len(thresholds) > 1 and last <= thresholds[-2]:
            raise ValueError(f"thresholds must rise strictly, got {thresholds}")
        return cls(thresholds[:-1], rates)

    def rate(self, distance: float) -> int:
        """The rate for a distance; a distance equal to a threshold takes the next entry, NaN the last one."""
        return next((r for threshold, r in zip(self.thresholds, self.rates, strict=False) if distance < threshold), self.rates[-1])

    def scaled(self, multiplier: float) -> Codebook:
        """The same rates with all thresholds times `multiplier` (> 0): larger means more reuse."""
        if _real("multiplier", multiplier) <= 0:
            raise ValueError(f"multiplier must be > 0, got {multiplier}")
        return Codebook(tuple(threshold * multiplier for threshold in self.thresholds), self.rates)

    def reach(self, num_calls: int, first: int = 1, last: int = 2, start: int = 1) -> tuple[int, int]:
        """(smallest, largest) number of computed calls that this table can lead to, whatever the video shows."""
        counts = []
        for rate in (self.rates[0], self.rates[-1]):
            clock = CachingClock(Codebook((), (rate,)), num_calls, first=first, last=last, start=start)
            counts.append(len(_calls_of(clock, lambda old, new: 0.0)))
        return counts[0], counts[1]

    def __str__(self) -> str:
        rows = [f"d < {threshold:.3g}: {rate}" for threshold, rate in zip(self.thresholds, self.rates, strict=False)]
        return ", ".join([*rows, f"else {self.rates[-1]}" if rows else f"always {self.rates[-1]}"])


FAST_30 = Codebook.from_pairs({0.08: 6, 0.16: 5, 0.24: 4, 0.32: 3, 0.40: 2, 1.00: 1})
"""Open-Sora v1.2, 30 sampling steps, fast."""
SLOW_30 = Codebook.from_pairs({0.08: 3, 0.16: 2, 0.24: 1, 0.32: 1, 0.40: 1, 1.00: 1})
"""Open-Sora v1.2, 30 sampling steps, slow."""
FAST_100 = Codebook.from_pairs({0.03: 12, 0.05: 10, 0.07: 8, 0.09: 6, 0.11: 4, 1.00: 3})
"""Open-Sora v1.2, 100 sampling steps, fast: it computes 12 to 36 of 100 calls whatever the video shows."""


# ---------------------------------------------------------------------------------------------------------------------
# 2. The distance between two probe residuals
# ---------------------------------------------------------------------------------------------------------------------


def distance(old: Tensor, new: Tensor, *, rate: int = 1, metric: str = "l1", form: str = "code") -> float:
    """How much the probe residual changed, per call (section 4.2; Table 3c for the metrics).

    form="code": ||old - new|| / ||old|| / rate, with 1-norms ("l1") or 2-norms ("l2") over all axes at once, so that a
    whole batch and both guidance halves share one number. form="paper": ||old - new|| / rate, not relative.
    metric="cosine" is (1 - cos(old, new)) / rate in both forms; it cannot see a pure change of scale.

    old, new: residuals of equal shape, any number of axes, computed in float32 or better. rate: calls from old to new.
    Returns a float >= 0; 0/0 gives NaN and x/0 gives infinity. Raises ValueError for unequal shapes, unknown names and
    rate < 1.
    """
    _choice("metric", metric, METRICS)
    _choice("form", form, FORMS)
    if not (isinstance(old, Tensor) and isinstance(new, Tensor)):
        raise TypeError(f"old and new must be tensors, got {type(old).__name__} and {type(new).__name__}")
    if old.shape != new.shape:
        raise ValueError(f"old {tuple(old.shape)} and new {tuple(new.shape)} must have the same shape")
    return _change(old, new, _integer("rate", rate, 1), metric, form).item()


METRICS = ("l1", "l2", "cosine")
FORMS = ("code", "paper")
REUSES = ("hold", "linear")


def _change(old: Tensor, new: Tensor, rate: int, metric: str, form: str, expected: Tensor | None = None) -> Tensor:
    """`distance` as a 0-d tensor on the device of the residuals; `expected`: what new is compared with, where not old."""
    expected = old if expected is None else expected
    old, new, expected = (p if p.dtype in (torch.float32, torch.float64) else p.float() for p in (old, new, expected))
    norm = torch.linalg.vector_norm
    if metric == "cosine":
        cosine = (expected * new).sum() / (norm(expected) * norm(new))
        return (1 - cosine).clamp(min=0) / rate
    if metric == "l1":  # abs().sum() is several times faster than torch's general norm on a CPU
        moved, size = (expected - new).abs_().sum(), old.abs().sum
    else:
        moved, size = norm(expected - new), lambda: norm(old)
    return (moved if form == "paper" else moved / size()) / rate


# ---------------------------------------------------------------------------------------------------------------------
# 3. Clocks: which calls are computed
# ---------------------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """What a clock did at one call."""

    computed: bool
    distance: float | None  # None where nothing was compared: skipped calls and the first computed one
    factor: float  # of the regulariser; the codebook was asked with distance * factor
    rate: int  # in force after this call


class CachingClock:
    """AdaCache's schedule as a state machine: which denoiser calls are computed (section 4.2).

    Use it once per call of the denoiser: `computed = clock.tick()`, and when that is True hand the fresh probe residual
    to `clock.observe(probe)`. A call is computed when `rate` calls have passed since the last computed one, and always
    among the first `first` and the last `last` calls. The distance to the last computed call's probe sets the rate that
    holds from the next call on. The rate starts at `start`, 1 in the official code, so that call 2 is computed too.

    codebook: a Codebook. num_calls: N, the number of denoiser calls of one video (not always the number of steps: second
    order samplers call twice). first >= 1 and last >= 0: calls that are always computed. start >= 1: rate after call 1; where
    few calls are computed in all, 1 spends two of them side by side. metric, form: see `distance`.
    With form="code" the distance is divided by the rate in force; at a forced call that is more than the true gap.
    form="paper" divides by the true gap. expect: what the probe is compared with. "hold": the last computed call's probe,
    as in the paper. "linear" (ours): the line through the probes of the last two computed calls, the right question where
    skipped calls add `reuse="linear"`: not "did it change?" but "did it change otherwise than foreseen?" (its norm is still
    divided by the last probe's). Thresholds of the two do not compare. regulariser: an object with `factor(probe, call, rate)`, a float or 0-d tensor
    that multiplies the distance, and `reset()`; it is asked at computed calls from the second one on, with the divisor of
    the distance as `rate`.

    Attributes: call (n so far), rate, trace (one `Call` per call). A distance that is not finite takes the last entry of
    the codebook and warns once. One device synchronisation per computed call.
    """

    def __init__(
        self,
        codebook: Codebook,
        num_calls: int,
        *,
        first: int = 1,
        last: int = 2,
        start: int = 1,
        metric: str = "l1",
        form: str = "code",
        expect: str = "hold",
        regulariser: Any = None,
    ) -> None:
        if not isinstance(codebook, Codebook):
            raise TypeError(f"codebook must be a Codebook, got {type(codebook).__name__}")
        for name in ("factor", "reset"):
            if regulariser is not None and not callable(getattr(regulariser, name, None)):
                raise TypeError(f"regulariser must have a method {name}, got {type(regulariser).__name__}")
        self.codebook, self.regulariser = codebook, regulariser
        self.num_calls = _integer("num_calls", num_calls, 1)
        self.first, self.last, self.start = _integer("first", first, 1), _integer("last", last, 0), _integer("start", start, 1)
        self.metric, self.form = _choice("metric", metric, METRICS), _choice("form", form, FORMS)
        self.expect = _choice("expect", expect, REUSES)
        self._warned = False
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next tick is call 1 of a new video."""
        self.call, self.rate, self.trace = 0, self.start, []
        self._previous = self._gap = 0  # last computed call, and how far it was from the one before
        self._probe: Tensor | None = None
        self._slope: Tensor | None = None  # with expect="linear": the probe's change per call
        self._waiting = False  # a computed call whose probe has not been observed yet
        if self.regulariser is not None:
            self.regulariser.reset()

    def tick(self) -> bool:
        """Begin the next call; True when it must be computed. Raises ValueError after num_calls calls without reset."""
        _check_not_over(self)
        self.call += 1
        forced = self.call <= self.first or self.call > self.num_calls - self.last
        computed = forced or self.call == self._previous + self.rate
        if computed:
            self._gap, self._previous = self.call - self._previous, self.call
        self._waiting = computed
        self.trace.append(Call(computed, None, 1.0, self.rate))
        return computed

    def observe(self, probe: Tensor) -> None:
        """Compare the probe residual of this computed call with the last one and set the rate from the next call on.

        probe: any shape, the same at every call. Raises ValueError on a skipped or already observed call, and when the
        shape, dtype or device changes.
        """
        _check_observable(self)
        if not isinstance(probe, Tensor):
            raise TypeError(f"probe must be a tensor, got {type(probe).__name__}")
        probe, old = probe.detach(), self._probe
        if old is not None:
            if (probe.shape, probe.dtype, probe.device) != (old.shape, old.dtype, old.device):
                raise ValueError(f"probe changed from {_kind(old)} to {_kind(probe)} inside a run; reset() first")
            divisor = self._divisor()
            expected = None if self._slope is None else torch.add(old, self._slope, alpha=self._gap)
            change, factor = _change(old, probe, divisor, self.metric, self.form, expected), 1.0
            if self.regulariser is not None:
                factor = self.regulariser.factor(probe, self.call, divisor)
            if isinstance(factor, Tensor):  # one transfer for both numbers
                self.update(*torch.stack((change, factor.to(change))).tolist())
            else:
                self.update(change.item(), float(factor))
            if self.expect == "linear":
                self._slope = (probe - old) / self._gap
        self._probe, self._waiting = probe, False

    def update(self, distance: float, factor: float = 1.0) -> None:
        """Set the rate from a distance that is already divided by the rate: `observe` for those who have no tensors."""
        _check_observable(self)
        scaled = distance * factor
        if not math.isfinite(scaled) and not self._warned:
            self._warned = True
            warnings.warn(
                f"distance {distance} x factor {factor} at call {self.call} is not finite (an all-zero probe residual?); "
                f"taking the last codebook entry, rate {self.codebook.rates[-1]}",
                stacklevel=2,
            )
        self.rate = self.codebook.rate(scaled)
        self.trace[-1] = Call(True, distance, factor, self.rate)
        self._waiting = False

    def _divisor(self) -> int:
        return self.rate if self.form == "code" else self._gap


class FixedClock:
    """A schedule that was fixed beforehand, with the interface of `CachingClock`: it looks at nothing.

    computed_calls: the calls to compute, from 1 to num_calls; call 1 must be among them. Serves uniform caching, the best
    fixed schedule and the oracle. Raises ValueError for calls out of range or a missing call 1.
    """

    def __init__(self, computed_calls: Iterable[int], num_calls: int) -> None:
        self.num_calls = _integer("num_calls", num_calls, 1)
        calls = sorted({_integer("computed_calls", call, 1) for call in computed_calls})
        if not calls or calls[0] != 1 or calls[-1] > self.num_calls:
            raise ValueError(f"computed_calls must contain 1 and lie in 1..{self.num_calls}, got {calls}")
        self.computed_calls = tuple(calls)
        self._computed = frozenset(calls)
        self.reset()

    def reset(self) -> None:
        """The next tick is call 1 of a new video."""
        self.call, self.rate, self.trace, self._waiting = 0, 1, [], False

    def tick(self) -> bool:
        """Begin the next call; True when it must be computed. Raises ValueError after num_calls calls without reset."""
        _check_not_over(self)
        self.call += 1
        self._waiting = self.call in self._computed
        if self._waiting:
            later = (n for n in self.computed_calls if n > self.call)
            self.rate = next(later, self.num_calls + 1) - self.call
        self.trace.append(Call(self._waiting, None, 1.0, self.rate))
        return self._waiting

    def observe(self, probe: Tensor) -> None:
        """Accepts the probe of a computed call and ignores it."""
        _check_observable(self)
        self._waiting = False


def uniform_calls(num_calls: int, *, every: int | None = None, budget: int | None = None, last: int = 0) -> list[int]:
    """Evenly spaced calls to compute: calls 1, 1 + every, ... or `budget` calls in all, plus the last `last` calls.

    The last calls count towards the budget. Exactly one of every (>= 1) and budget must be given. For `FixedClock`.
    """
    num_calls, last = _integer("num_calls", num_calls, 1), _integer("last", last, 0)
    if (every is None) == (budget is None):
        raise ValueError(f"give exactly one of every and budget, got every={every}, budget={budget}")
    tail = set(range(max(num_calls - last, 1) + 1, num_calls + 1))
    if every is not None:
        return sorted({*range(1, num_calls + 1, _integer("every", every, 1)), *tail})
    if not 1 + len(tail) <= _integer("budget", budget, 1) <= num_calls:
        raise ValueError(f"budget must lie in {1 + len(tail)}..{num_calls}, got {budget}")
    spread, room = budget - len(tail), num_calls - len(tail)
    return sorted({*(1 + i * room // spread for i in range(spread)), *tail})


def _check_not_over(clock: Any) -> None:
    if clock.call >= clock.num_calls:
        raise ValueError(
            f"call {clock.call + 1} of a clock made for num_calls={clock.num_calls}: num_calls counts denoiser calls, not "
            "steps; call reset() before the next video"
        )


def _check_observable(clock: Any) -> None:
    if not clock._waiting:
        raise ValueError(f"call {clock.call} is not waiting for a probe: tick() first, and observe once per computed call")


# ---------------------------------------------------------------------------------------------------------------------
# 4. Schedules from recorded runs
# ---------------------------------------------------------------------------------------------------------------------


def pairwise_distances(residuals: Sequence[Any], *, metric: str = "l1", relative: bool = True) -> np.ndarray:
    """All distances of a recorded run: d[i, j] = ||p_j - p_i|| / ||p_i||, not divided by any rate.

    residuals: one tensor per call, or one tuple of tensors per call (a residual with several parts); all calls of a run
    must have been computed. metric: "l1" or "l2". relative=False leaves out the division. Returns [N, N] float64.
    """
    order = {"l1": 1, "l2": 2}[_choice("metric", metric, ("l1", "l2"))]
    missing = [n for n, p in enumerate(residuals, 1) if p is None]
    if missing or not len(residuals):
        raise ValueError(f"residuals must hold every call, got {len(residuals)} calls without {missing}: record at rate 1")
    parts = [p if isinstance(p, (tuple, list)) else (p,) for p in residuals]
    flat = torch.stack([torch.cat([t.detach().double().flatten() for t in p]) for p in parts])
    moved = torch.stack([torch.linalg.vector_norm(flat - row, order, dim=1) for row in flat])
    if relative:
        moved = moved / torch.linalg.vector_norm(flat, order, dim=1)[:, None]
    return moved.cpu().numpy()


def predict_calls(distances: Any, codebook: Codebook, num_calls: int | None = None, *, first: int = 1, last: int = 2) -> list[int]:
    """The calls that a codebook would compute along a recorded, uncached run (open loop).

    distances: either [N], entry n-1 being the distance that was recorded at call n with rate 1 (the first entry is
    ignored), or [N, N] from `pairwise_distances`. With the matrix the answer is exact for the recorded trajectory. With
    the vector the distance over a gap is taken to be the sum of the single ones inside it: exact for a residual that
    drifts in a straight line, too large otherwise. Either way a real cached run leaves the recorded trajectory, so that
    its schedule may differ.
    Returns the computed calls, 1-based. Raises ValueError for a wrong shape.
    """
    d = _recorded(distances, num_calls)
    clock = CachingClock(codebook, len(d), first=first, last=last)
    clock._warned = True  # a gap in a recorded curve takes the last entry, silently
    if d.ndim == 2:
        return _calls_of(clock, lambda old, new: float(d[old - 1, new - 1]))
    return _calls_of(clock, lambda old, new: float(d[old:new].sum()))


def replay_calls(probes: Sequence[Tensor], clock: Any) -> list[int]:
    """The calls that any clock would compute along a recorded, uncached run (open loop), by showing it the probes.

    probes: one tensor per call, as in `Report.probes` of a run at rate 1. clock: made for that many calls; it is reset
    before, and afterwards its trace (and its regulariser's) can be read. Returns the computed calls, 1-based.
    """
    if len(probes) != clock.num_calls or any(p is None for p in probes):
        raise ValueError(f"probes must hold all num_calls={clock.num_calls} calls, got {sum(p is not None for p in probes)}: record at rate 1")
    clock.reset()
    computed = []
    for n, probe in enumerate(probes, 1):
        if clock.tick():
            computed.append(n)
            clock.observe(probe)
    return computed


def calibrate(
    distances: Sequence[Any],
    num_calls: int,
    target_calls: float,
    *,
    rates: Sequence[int] = FAST_30.rates,
    first: int = 1,
    last: int = 2,
    trim: float = 0.1,
    **options: Any,
) -> Codebook:
    """A codebook for a wanted budget, from uncached runs of a few calibration videos (8 to 16 are plenty).

    The paper sets thresholds by hand; this is a recipe of ours. The thresholds begin as the equally spaced quantiles of
    the recorded distances, without the first and last share `trim` of the calls; then one multiplier on all of them is
    bisected until `predict_calls` computes target_calls on average.

    distances: one [N] or [N, N] per video, as in `predict_calls` (matrices predict better), or the probes themselves, as in
    `replay_calls`; these also serve clocks with other `options` (start, metric, form, expect, regulariser of `CachingClock`).
    rates: of the codebook. trim: in [0, 0.5). Returns the codebook. Raises ValueError when target_calls is outside the reach of the rates, or
    when the distances are too alike to set thresholds.
    Thresholds belong to a model, a sampler and a number of steps: never carry them over silently.
    """
    num_calls = _integer("num_calls", num_calls, 1)
    if not len(distances):
        raise ValueError("distances is empty, expected at least one recorded run")
    replayed = isinstance(distances[0], (tuple, list)) and isinstance(distances[0][0], Tensor)
    if options and not replayed:
        raise ValueError(f"distances must be recorded probes where a clock has options, got {type(distances[0]).__name__} for {sorted(options)}")

    def clock_for(book: Codebook) -> CachingClock:
        clock = CachingClock(book, num_calls, first=first, last=last, **options)
        clock._warned = True
        return clock

    def single_distances(probes: Sequence[Tensor]) -> np.ndarray:
        clock = clock_for(Codebook((), (1,)))
        replay_calls(probes, clock)
        return np.array([np.nan if call.distance is None else call.distance * call.factor for call in clock.trace])

    runs = distances if replayed else [_recorded(d, num_calls) for d in distances]
    if not 0 <= _real("trim", trim) < 0.5:
        raise ValueError(f"trim must lie in [0, 0.5), got {trim}")
    low, high = Codebook(range(len(rates) - 1), rates).reach(num_calls, first, last, options.get("start", 1))
    if not low <= _real("target_calls", target_calls) <= high:
        raise ValueError(f"target_calls={target_calls} is out of reach: rates {tuple(rates)} compute between {low} and {high} of {num_calls} calls")
    if len(rates) == 1:
        return Codebook((), rates)

    edge = max(1, math.ceil(trim * num_calls))  # call 1 never has a distance
    curves = map(single_distances if replayed else _single_steps, runs)
    singles = np.concatenate([d[edge : num_calls - int(trim * num_calls)] for d in curves])
    singles = singles[np.isfinite(singles)]
    quantiles = np.quantile(singles, np.arange(1, len(rates)) / len(rates)) if len(singles) else []
    if not len(singles) or quantiles[0] <= 0 or (np.diff(quantiles) <= 0).any():
        raise ValueError(f"distances are too few or too alike for {len(rates)} rates: quantiles {list(quantiles)}")
    base = Codebook(tuple(quantiles.tolist()), rates)

    def miss(exponent: float) -> float:
        book = base.scaled(2.0**exponent)
        if replayed:
            return np.mean([len(replay_calls(probes, clock_for(book))) for probes in runs]) - target_calls
        return np.mean([len(predict_calls(d, book, first=first, last=last)) for d in runs]) - target_calls

    left, right = -30.0, 30.0  # tiny thresholds compute most, huge ones least
    tried = {left: miss(left), right: miss(right)}
    for _ in range(40):
        middle = (left + right) / 2
        tried[middle] = miss(middle)
        if tried[middle] == 0:
            break
        left, right = (middle, right) if tried[middle] > 0 else (left, middle)
    return base.scaled(2.0 ** min(tried, key=lambda e: (abs(tried[e]), abs(e))))


def oracle_calls(errors: Any, num_computed: int, *, first: int = 1, last: int = 2) -> list[int]:
    """The best schedule for one video, known only afterwards: exact, by dynamic programming. Not in the paper.

    errors: [N, N]; errors[i, j] (i < j) is the cost at call j + 1 of reusing what call i + 1 computed. num_computed: how
    many calls are computed, among them the first `first` and the last `last` ones. Returns the calls, 1-based, that
    minimise the summed cost of all reused calls. Raises ValueError when that many calls cannot be computed.
    """
    e = np.asarray(errors, dtype=np.float64)
    if e.ndim != 2 or e.shape[0] != e.shape[1] or not len(e):
        raise ValueError(f"errors must be [N, N], got {e.shape}")
    if not np.isfinite(e[np.triu_indices(len(e), 1)]).all():
        raise ValueError("errors must be finite above the diagonal")
    n = len(e)
    first, last = _integer("first", first, 1), _integer("last", last, 0)
    forced = {*range(min(first, n)), *range(max(n - last, 0), n)}
    if not len(forced) <= _integer("num_computed", num_computed, 1) <= n:
        raise ValueError(f"num_computed must lie in {len(forced)}..{n}, got {num_computed}")

    # span[i, k]: cost of computing i and then nothing before k; k = n is the end of the video
    span = np.full((n, n + 1), np.inf)
    for i in range(n):
        stop = next((f for f in sorted(forced) if f > i), n)
        costs = np.concatenate([[0.0], np.cumsum(e[i, i + 1 : stop])])
        span[i, i + 1 : stop + 1] = costs
    best = np.where(np.arange(n) == 0, 0.0, np.inf)  # best[k]: cheapest way to have k as the newest computed call
    back = []
    for _ in range(num_computed - 1):
        total = best[:, None] + span[:, :n]
        back.append(total.argmin(axis=0))
        best = total.min(axis=0)
    calls = [int((best + span[:, n]).argmin())]
    for previous in reversed(back):
        calls.append(int(previous[calls[-1]]))
    return [call + 1 for call in reversed(calls)]


def best_fixed_calls(errors: Sequence[Any], num_computed: int, *, first: int = 1, last: int = 2) -> list[int]:
    """The one schedule that is best on average over several videos: `oracle_calls` on their mean error matrix.

    errors: one [N, N] per video, as in `oracle_calls`. Choose it on calibration videos, judge it on others.
    """
    matrices = [np.asarray(e, dtype=np.float64) for e in errors]
    shapes = {m.shape for m in matrices}
    if len(shapes) != 1:
        raise ValueError(f"errors must hold matrices of one shape, got {sorted(shapes)}")
    return oracle_calls(np.mean(matrices, axis=0), num_computed, first=first, last=last)


def _calls_of(clock: CachingClock, lookup: Any) -> list[int]:
    """Run a clock with distances from `lookup(old_call, new_call)`, not divided by a rate; return the computed calls."""
    computed: list[int] = []
    for n in range(1, clock.num_calls + 1):
        if clock.tick():
            if computed:
                clock.update(lookup(computed[-1], n) / clock._divisor())
            computed.append(n)
    return computed


def _recorded(distances: Any, num_calls: int | None) -> np.ndarray:
    d = np.asarray(distances, dtype=np.float64)  # None becomes NaN
    n = len(d) if d.ndim else 0
    if d.ndim not in (1, 2) or not n or (d.ndim == 2 and d.shape[1] != n):
        raise ValueError(f"distances must be [N] or [N, N], got shape {d.shape}")
    if num_calls is not None and n != _integer("num_calls", num_calls, 1):
        raise ValueError(f"distances hold {n} calls, expected num_calls={num_calls}")
    return d


def _single_steps(d: np.ndarray) -> np.ndarray:
    return d if d.ndim == 1 else np.concatenate([[np.nan], np.diagonal(d, 1)])


# ---------------------------------------------------------------------------------------------------------------------
# 5. A clock on a diffusers transformer
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """One run of one clock: what was computed, and why."""

    context: str  # the cache context whose clock this is ("inference" where the pipeline opens none)
    num_calls: int  # N, as planned
    computed: tuple[int, ...]  # calls that were computed, 1-based
    distances: tuple[float | None, ...]  # one entry per call, None where nothing was compared
    factors: tuple[float, ...]  # of the regulariser, 1 without one
    rates: tuple[int, ...]  # in force after each call
    complete: bool  # False for a run that was stopped before call N
    probes: tuple[Tensor | None, ...] = field(default=(), repr=False)  # with record=True; None at skipped calls
    residuals: tuple[tuple[Tensor, ...], ...] = field(default=(), repr=False)  # with record=True; one part per block list

    def __str__(self) -> str:
        raster = "".join("#" if n in self.computed else "." for n in range(1, len(self.rates) + 1))
        end = "" if self.complete else f", stopped after call {len(self.rates)}"
        return f"{self.context}: {len(self.computed)} of {self.num_calls} calls computed{end} {raster}"


class AdaCacheHandle:
    """What `apply_adacache` returns; also a context manager that removes the hooks at the end.

    report: list of `Report`, one per run (and per context with decide="each"), oldest first; it survives the reset that
    pipelines do when they end. last: the newest of them, None before the first. groups: {name of block list: number of
    blocks}. probe: name of the probed module. clock: the clock (with decide="each" that of the first context).
    """

    def __init__(self, transformer: nn.Module, cache: _Cache, groups: dict[str, int], probe: str) -> None:
        self.transformer, self.groups, self.probe = transformer, groups, probe
        self._cache = cache

    @property
    def report(self) -> list[Report]:
        return self._cache.reports

    @property
    def last(self) -> Report | None:
        return self.report[-1] if self.report else None

    @property
    def clock(self) -> Any:
        return self._cache.clock

    def reset(self) -> None:
        """Forget the current run; its calls so far go to `report` as an incomplete run."""
        self._cache.reset()

    def remove(self) -> None:
        """Take all hooks off again. Afterwards the transformer computes every call; the reports stay."""
        self.reset()
        registry = HookRegistry.check_if_exists_or_initialize(self.transformer)
        if registry.get_hook(_ROOT) is self._cache.root:
            for name in (_ROOT, _BLOCK, _PROBE):
                registry.remove_hook(name, recurse=True)
            vars(self.transformer).pop("enable_cache", None)
            registry.invalidate_child_registries_cache()

    def __enter__(self) -> AdaCacheHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def apply_adacache(
    transformer: nn.Module,
    codebook: Codebook | None = None,
    num_calls: int | None = None,
    *,
    clock: Any = None,
    probe: str = "attention",
    storage: str = "group",
    reuse: str = "hold",
    decide: str = "shared",
    metric: str = "l1",
    form: str = "code",
    expect: str = "hold",
    first: int = 1,
    last: int = 2,
    start: int = 1,
    regulariser: Any = None,
    record: bool = False,
) -> AdaCacheHandle:
    """Let a clock decide at which calls a diffusers video transformer computes its blocks (arXiv 2411.02397, section 4).

    On a skipped call all blocks are left out and the residuals of the last computed call are added instead; embedders,
    timestep MLP and the final layers always run. Works on LatteTransformer3DModel, CogVideoX, Wan, LTX, Mochi and
    HunyuanVideo, inside their pipelines and in a plain sampling loop under torch.no_grad(); on other models once their
    block class is registered in diffusers' `TransformerBlockRegistry`.

    transformer: the model; its own parameters are never touched. codebook, num_calls (N, counted in denoiser calls),
    metric, form, expect, first, last, start, regulariser: see `CachingClock`; or give a finished clock instead (`FixedClock`).
    probe: which residual is watched. "attention": self-attention of the middle block (of the temporal blocks where there
    are some), times its gate in adaLN-single blocks (Latte), as in the paper. "block": all that the middle block adds.
    Otherwise the name of a submodule, as "transformer_blocks.0.ff".
    storage: "group" keeps one sum of residuals per block list and stream, "block" one residual per block. Both give the
    same numbers up to rounding wherever nothing but reshapes and constants happens between blocks; long skip connections
    across blocks need "block".
    reuse: what a skipped call adds. "hold": the residuals of the last computed call b, as in the paper. "linear": those
    carried on in a straight line from the computed call a before it, R_b + (n - b) / (b - a) * (R_b - R_a) at call n (the
    first order of TaylorSeer, Liu et al. 2025, arXiv 2503.06923, on the sum of all blocks); one more tensor is kept.
    decide: for pipelines that call the model once per guidance branch (Wan, HunyuanVideo). "shared": the first context
    of a run decides for all. "each": every context has a clock (and regulariser) of its own. Residuals are never shared.
    record: also keep every probe and every summed hidden-state residual, as CPU tensors in the report.

    A run ends with call N, with a pipeline's end, with an exception inside the model, or when the timesteps turn back
    (they may fall or rise, Mochi's rise): a run that was interrupted leaves nothing behind. On an accelerator the
    timesteps are only looked at where the text embedding is another tensor than at the call before, as in every new
    pipeline run from a prompt, so that skipped calls never wait for the device; a loop or a pipeline that is stopped half-way
    there, and started again with the same embedding tensor, needs `handle.reset()`.

    Returns an AdaCacheHandle. Raises TypeError or ValueError for bad options, a model without a known block list, a
    model that already caches or is given another cache later, and, at a call: more than N calls in one run, a changed
    resolution or dtype inside a run, a probe that did not run, hidden states that change between blocks of a list
    (storage="group"). Raises RuntimeError for calls with gradients enabled: stored residuals carry none.
    """
    _choice("storage", storage, ("group", "block"))
    _choice("reuse", reuse, REUSES)
    _choice("decide", decide, ("shared", "each"))
    if not isinstance(transformer, nn.Module):
        raise TypeError(f"transformer must be a torch module, got {type(transformer).__name__}")
    if getattr(transformer, "is_cache_enabled", False) or _other_caches(transformer):
        raise ValueError("transformer already has a diffusers cache enabled; call transformer.disable_cache() first")
    registry = getattr(transformer, "_diffusers_hook", None)
    if registry is not None and registry.get_hook(_ROOT) is not None:
        raise ValueError("transformer already has AdaCache applied; call remove() of that handle first")
    if clock is None:
        if codebook is None or num_calls is None:
            raise ValueError("codebook and num_calls are needed where no clock is given")
        options = dict(first=first, last=last, start=start, metric=metric, form=form, expect=expect, regulariser=regulariser)
        clock = CachingClock(codebook, num_calls, **options)
    else:
        if (codebook, num_calls, metric, form, expect, first, last, start, regulariser) != (None, None, "l1", "code", "hold", 1, 2, 1, None):
            raise ValueError("clock already holds codebook, num_calls, metric, form, expect, first, last, start and regulariser: give one")
        absent = [a for a in ("tick", "observe", "reset", "call", "num_calls", "trace") if not hasattr(clock, a)]
        if absent:
            raise TypeError(f"clock must be a CachingClock, a FixedClock or alike, {type(clock).__name__} has no {absent}")
        clock.reset()

    groups = _block_lists(transformer)
    probe_block, probe_module, probe_name, gate_chunk = _find_probe(transformer, groups, probe)
    cache = _Cache(transformer, clock, storage == "group", reuse == "linear", decide == "shared", record)
    cache.root = _RootHook(cache, groups)
    HookRegistry.check_if_exists_or_initialize(transformer).register_hook(cache.root, _ROOT)
    for name, blocks in groups.items():
        for i, block in enumerate(blocks):
            hook = _BlockHook(cache, name, None if storage == "group" else i, last=i == len(blocks) - 1)
            if block is probe_block:
                hook.gate_chunk, hook.is_probe = gate_chunk, probe_module is block
            HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, _BLOCK)
    if probe_module is not probe_block:
        HookRegistry.check_if_exists_or_initialize(probe_module).register_hook(_ProbeHook(cache), _PROBE)
    if hasattr(transformer, "enable_cache"):
        transformer.enable_cache = _refuse_second_cache  # hides the method of the class until remove()
    # contexts are handed down a cached list of hooked modules: have it made anew
    HookRegistry.check_if_exists_or_initialize(transformer).invalidate_child_registries_cache()
    return AdaCacheHandle(transformer, cache, {name: len(blocks) for name, blocks in groups.items()}, probe_name)


_ROOT, _BLOCK, _PROBE = "adacache_root", "adacache_block", "adacache_probe"
_INPUTS = ("hidden_states", "encoder_hidden_states", "timestep")
_INFERENCE = CacheContext("inference")  # where the pipeline opens no context


def _refuse_second_cache(config: Any) -> None:
    raise ValueError("transformer has AdaCache applied; call remove() of its handle before enable_cache()")


def _other_caches(transformer: nn.Module) -> set[str]:
    """Names of the classes of diffusers' own cache hooks on a model, also of those that `apply_..._cache` put there."""
    hooks = (hook for module in transformer.modules() if hasattr(module, "_diffusers_hook") for hook in module._diffusers_hook.hooks.values())
    return {type(hook).__name__ for hook in hooks if type(hook).__module__.rpartition(".")[2] in _CACHES}


_CACHES = ("faster_cache", "first_block_cache", "mag_cache", "pyramid_attention_broadcast", "sea_cache", "taylorseer_cache", "text_kv_cache")


def _metadata(block: nn.Module) -> TransformerBlockMetadata | None:
    try:
        return TransformerBlockRegistry.get(type(block))
    except ValueError:
        return None


def _block_lists(transformer: nn.Module) -> dict[str, nn.ModuleList]:
    lists = {name: child for name, child in transformer.named_children() if isinstance(child, nn.ModuleList) and len(child)}
    groups = {name: blocks for name, blocks in lists.items() if all(_metadata(block) is not None for block in blocks)}
    if not groups:
        classes = {name: type(blocks[0]).__name__ for name, blocks in lists.items()}
        raise ValueError(
            f"{type(transformer).__name__} has no list of transformer blocks that diffusers knows (found {classes}); "
            "register the block class with TransformerBlockRegistry.register(cls, TransformerBlockMetadata(...))"
        )
    return groups


def _find_probe(transformer: nn.Module, groups: dict[str, nn.ModuleList], probe: str) -> tuple[nn.Module, nn.Module, str, int | None]:
    """(block that holds the probe, probed module, its name, number of its gate among the six of adaLN-single)."""
    if probe in ("attention", "block"):
        group = next((name for name in groups if "temporal" in name), next(iter(groups)))
        middle = (len(groups[group]) - 1) // 2  # as in the official code: block 13 of 28
        name = f"{group}.{middle}"
        if probe == "attention":
            block = groups[group][middle]
            attention = next((a for a in ("attn1", "attn", "self_attn") if isinstance(getattr(block, a, None), nn.Module)), None)
            if attention is None:
                raise ValueError(f'probe="attention" finds no attn1, attn or self_attn in {type(block).__name__}: use "block"')
            name += f".{attention}"
    else:
        name = probe
    modules = dict(transformer.named_modules())
    path = name.split(".") if isinstance(name, str) else [""]
    if path[0] not in groups or len(path) < 2 or name not in modules:
        raise ValueError(f'probe must be "attention", "block" or the name of a block or submodule in {list(groups)}, got {probe!r}')
    block = groups[path[0]][int(path[1])]
    gated = len(path) == 3 and getattr(block, "norm_type", None) == "ada_norm_single"
    return block, modules[name], name, {"attn1": 2, "ff": 5}.get(path[2]) if gated else None


class _State(BaseState):
    """What belongs to one cache context within one run."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.clock: Any = None  # None: another context decides
        self.calls = 0
        self.signature: list | None = None  # shapes and dtypes of the inputs
        self.timesteps: list[Any] = []  # of the first and the latest call
        self.text: Any = None  # weak reference to the latest text embedding
        # key: (name of block list, None or number of block)
        self.running: dict[tuple, Any] = {}  # of the call in progress
        self.residuals: dict[tuple, tuple] = {}  # (hidden, text) of the last computed call
        self.slopes: dict[tuple, tuple] = {}  # with reuse="linear": their change per call between the last two computed ones
        self.computed_at = 0
        self.probes: list[Tensor | None] = []
        self.totals: list[tuple[Tensor, ...]] = []
        self.filed = False


class _Cache:
    """The decision for every call, shared by all hooks of one model."""

    def __init__(self, transformer: nn.Module, clock: Any, group: bool, linear: bool, shared: bool, record: bool) -> None:
        self.clock, self.group, self.linear, self.shared, self.record = clock, group, linear, shared, record
        self.transformer, self.states = transformer, StateManager(_State)
        self.reports: list[Report] = []
        self.state: _State | None = None  # of the call in progress
        self.active = True
        self.decision = True  # of the deciding context
        self.decider: str | None = None
        self.gate: Tensor | None = None
        self.newest = self.latest = None  # the block list that began last, the one that ran last
        names = list(inspect.signature(transformer.forward).parameters)
        self.position = {name: i for i, name in enumerate(names)}
        self.root: _RootHook

    # -- one call ------------------------------------------------------------------------------------------------------

    @torch.compiler.disable
    def begin(self, args: tuple, kwargs: dict) -> None:
        self.own_context = False
        if torch.is_grad_enabled():
            raise RuntimeError(
                "AdaCache stores residuals without gradients: call the transformer under torch.no_grad() or "
                "torch.inference_mode(), or remove() the cache to train"
            )
        self.own_context = self.states._context is None  # LattePipeline and plain loops open none
        if self.own_context:
            self.states.set_context(_INFERENCE)
        hidden, text, timestep = (self._argument(name, args, kwargs) for name in _INPUTS)
        index = getattr(self.states.context, "step_index", None)
        if index is not None:  # the pipeline says how far it is (Wan): nothing needs to be read from the device
            timestep = index
        elif isinstance(timestep, Tensor) and timestep.device.type == "cpu":
            timestep = _value(timestep)
        state = self.states.get_state()
        if self._is_new_run(state, timestep, text):
            context = self.states.context
            self.reset()
            self.states.set_context(context)
            state = self.states.get_state()
        if not state.calls and (others := _other_caches(self.transformer)):
            raise ValueError(f"transformer got another cache after AdaCache ({', '.join(sorted(others))}): remove one of them")
        self._check_inputs(state, hidden, text)
        state.timesteps = [*state.timesteps[:1], timestep.detach().max() if isinstance(timestep, Tensor) else timestep]
        state.text = weakref.ref(text) if isinstance(text, Tensor) else None
        state.calls += 1

        name = self.states.context.name
        if state.clock is None and (self.decider is None or not self.shared):
            state.clock = self.clock if self.decider is None else copy.deepcopy(self.clock)
            if state.clock is not self.clock:
                state.clock.reset()
            self.decider = self.decider or name
        if state.clock is not None:
            self.decision = state.clock.tick()
        self.state, self.active = state, self.decision or not state.residuals
        self.observed = not (self.active and state.clock is not None)

    def _argument(self, name: str, args: tuple, kwargs: dict) -> Any:
        if name in kwargs:
            return kwargs[name]
        position = self.position.get(name, len(args))
        return args[position] if position < len(args) else None

    def _is_new_run(self, state: _State, timestep: Any, text: Any) -> bool:
        """Did the timesteps turn back? Timesteps may fall or rise, but not change their mind within one run."""
        if not state.calls:
            return False
        same_text = state.text is not None and state.text() is text
        finished = state.clock is not None and state.clock.call >= state.clock.num_calls
        if timestep is None or state.timesteps[0] is None:
            return finished
        if isinstance(timestep, Tensor) and same_text and not finished:
            return False  # reading it would make the host wait for the device
        start, before, now = (_value(t) for t in (*(state.timesteps * 2)[:2], timestep))
        direction, step = before - start, now - before
        if finished and direction and direction * step >= 0:  # second-order samplers repeat a timestep
            clock = state.clock
            raise ValueError(
                f"call {clock.call + 1} of a run planned with num_calls={clock.num_calls}: num_calls counts denoiser calls, "
                "not steps; use handle.reset() if this is a new video"
            )
        return finished or direction * step < 0 or (state.calls == 1 and step == 0)

    def _check_inputs(self, state: _State, *inputs: Any) -> None:
        signature = [(t.shape, t.dtype) for t in inputs if isinstance(t, Tensor)]
        if state.signature is not None and state.signature != signature:
            raise ValueError(
                f"inputs changed inside a run: hidden_states, encoder_hidden_states were {state.signature}, now {signature}; "
                "use handle.reset() before another resolution, batch size or dtype"
            )
        state.signature = signature

    def add(self, key: tuple, inputs: tuple, outputs: tuple) -> None:
        """Note what a block made of (hidden, text).

        Per block that is a difference to keep. Per list, the sum of the differences telescopes: a list's stretch reaches
        from its first input to its last output before the next list begins, and the last list's stretch to the end of the
        stack, with everything that earlier lists do in between (Latte alternates: one spatial block, then the rest).
        """
        running, before, self.latest = self.state.running, self.latest, key
        if not self.group:
            running[key] = _difference(inputs, outputs)
        elif key not in running:
            running[key], self.newest = [inputs, outputs], key
        elif key == self.newest:
            if before == key and any(new is not old for new, old in zip(inputs, running[key][1]) if old is not None):
                raise ValueError(f"the model works on its hidden states between the blocks of {key[0]!r}: use storage='block'")
            running[key][1] = outputs

    @torch.compiler.disable
    def observe(self, probe: Any) -> None:
        state = self.state
        if state is None or state.clock is None:
            return
        probe = (probe[0] if isinstance(probe, tuple) else probe).detach()
        if self.gate is not None:
            probe = probe * self.gate
        state.clock.observe(probe)
        self.observed = True
        if self.record:
            state.probes.append(probe.cpu().clone())

    @torch.compiler.disable
    def end(self) -> None:
        state = self.state
        if not self.observed:
            raise ValueError("probe never ran in a computed call: choose a module that this call of the model uses")
        if self.active:
            if self.group and self.latest != self.newest:
                raise ValueError(f"blocks of {self.latest[0]!r} end the stack but began before {self.newest[0]!r}: use storage='block'")
            new = {key: _difference(*ends) for key, ends in state.running.items()} if self.group else state.running
            if self.linear and state.residuals:
                gap = state.calls - state.computed_at
                state.slopes = {key: _difference(state.residuals[key], parts, gap) for key, parts in new.items()}
            state.residuals, state.running, state.computed_at = new, {}, state.calls
        clock = state.clock
        if clock is not None and self.record:
            state.totals.append(self._totals(state) if self.active or state.slopes else state.totals[-1])
            if not self.active:
                state.probes.append(None)
        if clock is not None and clock.call >= clock.num_calls:
            self._file(state)
        if (clock or self.clock).call >= self.clock.num_calls:
            state.residuals, state.slopes = {}, {}  # nothing is reused beyond call N
        self.leave()

    def leave(self) -> None:
        self.state = self.gate = None
        if self.own_context:
            self.states.set_context(None)

    def _totals(self, state: _State) -> tuple[Tensor, ...]:
        totals: dict[str, Tensor] = {}
        for (group, index), (hidden, _) in state.residuals.items():
            hidden = _carried_on(hidden, 0, state, (group, index))
            totals[group] = totals[group] + hidden if group in totals else hidden
        return tuple(t.cpu().clone() for t in totals.values())

    # -- one run -------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        for state in list(self.states._state_cache.values()):
            self._file(state)
        self.states.reset()
        self.clock.reset()
        self.state = self.gate = self.decider = None
        self.decision = True

    def _file(self, state: _State) -> None:
        clock = state.clock
        if clock is None or state.filed or not clock.call:
            return
        state.filed = True
        name = next(name for name, other in self.states._state_cache.items() if other is state)
        self.reports.append(
            Report(
                context=name,
                num_calls=clock.num_calls,
                computed=tuple(n for n, call in enumerate(clock.trace, 1) if call.computed),
                distances=tuple(call.distance for call in clock.trace),
                factors=tuple(call.factor for call in clock.trace),
                rates=tuple(call.rate for call in clock.trace),
                complete=clock.call >= clock.num_calls,
                probes=tuple(state.probes),
                residuals=tuple(state.totals),
            )
        )


def _difference(inputs: tuple, outputs: tuple, gap: int = 1) -> tuple:
    return tuple(None if o is None else o - i if gap == 1 else (o - i) / gap for i, o in zip(inputs, outputs, strict=True))


def _carried_on(hidden: Tensor, part: int, state: _State, key: tuple) -> Tensor:
    """With reuse="linear": add the slope of one part (0 hidden, 1 text) for the calls since the last computed one."""
    slope = state.slopes.get(key)
    return hidden if slope is None else torch.add(hidden, slope[part], alpha=state.calls - state.computed_at)


def _value(timestep: Any) -> float | None:
    if not isinstance(timestep, Tensor):
        return timestep
    # image-conditioned tokens have timestep 0; a list is the fastest way to read the few others
    return float(timestep.max() if timestep.numel() > 64 else max(timestep.flatten().tolist()))


class _OnlyLast(nn.ModuleList):
    """A list of blocks of which a loop sees only the last one; length and indices are those of the whole list."""

    def __iter__(self):
        return iter((self[-1],))


class _RootHook(ModelHook):
    """On the transformer: decides before the call, files the report after it.

    With group storage only one block of a list has anything to do at a skipped call, and the list is one block long while
    the call lasts: the sum is added where its stretch begins, and nobody walks through blocks that do nothing.
    """

    _is_stateful = True

    def __init__(self, cache: _Cache, groups: dict[str, nn.ModuleList]) -> None:
        super().__init__()
        self.cache = cache
        self.lists = dict(groups) if cache.group else {}
        self.shortcuts = {name: _OnlyLast(blocks) for name, blocks in self.lists.items()}
        self.state_manager = cache.states  # found here by `transformer.cache_context(...)`

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        try:
            self.cache.begin(args, kwargs)
        except BaseException:  # a refused call did not happen
            self.cache.leave()
            raise
        try:
            if self.cache.active:
                output = self.fn_ref.original_forward(*args, **kwargs)
            else:
                module._modules.update(self.shortcuts)
                try:
                    output = self.fn_ref.original_forward(*args, **kwargs)
                finally:
                    module._modules.update(self.lists)
            self.cache.end()
        except BaseException:  # KeyboardInterrupt too: half a run must not leak into the next one
            self.cache.reset()
            raise
        return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        self.cache.reset()
        return module


class _BlockHook(ModelHook):
    """On every block: computes and stores, or leaves the block out and adds what was stored."""

    def __init__(self, cache: _Cache, group: str, index: int | None, last: bool) -> None:
        super().__init__()
        self.cache, self.key, self.adds = cache, (group, index), last or index is not None
        self.gate_chunk: int | None = None
        self.is_probe = False

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self.metadata = _metadata(module)
        self.hidden_index = self.metadata.return_hidden_states_index or 0
        self.text_index = self.metadata.return_encoder_hidden_states_index
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        cache, read = self.cache, self.metadata._get_parameter_from_args_kwargs
        if cache.state is None:  # a block called on its own
            return self.fn_ref.original_forward(*args, **kwargs)
        hidden = read(self.metadata.hidden_states_argument_name, args, kwargs)
        text = None
        if self.text_index is not None:
            text = read(self.metadata.encoder_hidden_states_argument_name, args, kwargs)
        if not cache.active:
            return self._skip(hidden, text)

        if self.gate_chunk is not None:  # adaLN-single: six vectors per sample, the attention's gate is the third
            k = self.gate_chunk
            cache.gate = module.scale_shift_table[k] + read("timestep", args, kwargs).reshape(len(hidden), 6, -1)[:, k : k + 1]
        output = self.fn_ref.original_forward(*args, **kwargs)
        if not isinstance(output, tuple):
            new, new_text = output, None
        else:
            new, new_text = output[self.hidden_index], None if self.text_index is None else output[self.text_index]
        cache.add(self.key, (hidden, text), (new, new_text))
        if self.is_probe:
            cache.observe(new - hidden)
        return output

    def _skip(self, hidden: Tensor, text: Tensor | None) -> Any:
        if self.adds:
            stored = self.cache.state.residuals.get(self.key)
            if stored is None or stored[0].shape != hidden.shape or stored[0].dtype != hidden.dtype:
                kind = "nothing" if stored is None else _kind(stored[0])
                raise ValueError(f"blocks {self.key[0]!r} hold {kind} for hidden states {_kind(hidden)}; use handle.reset()")
            state = self.cache.state
            hidden = _carried_on(hidden + stored[0], 0, state, self.key)
            text = text if stored[1] is None else _carried_on(text + stored[1], 1, state, self.key)
        if self.text_index is None:
            return hidden
        return (hidden, text) if self.hidden_index < self.text_index else (text, hidden)


class _ProbeHook(ModelHook):
    """On the probed module: shows its output to the clock."""

    def __init__(self, cache: _Cache) -> None:
        super().__init__()
        self.cache = cache

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        self.cache.observe(output)
        return output
