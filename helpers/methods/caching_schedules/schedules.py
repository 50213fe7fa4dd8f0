"""AdaCache: how many denoiser calls does this particular video need? The schedules, which need no model.

Kahatapitiya et al. 2024, "Adaptive Caching for Faster Video Generation with Diffusion Transformers", arXiv 2411.02397.

A video diffusion transformer is called N times to denoise one video, and what its blocks add to the hidden state (the
residuals) changes little from call to call. AdaCache stores the residuals and adds them again instead of computing them.
For how many calls they are kept is decided while the video is made: after every computed call the relative change of one
probe residual goes through a small table, the codebook, which answers with the next caching rate.

Read from top to bottom: 1. codebook, 2. distance, 3. clocks (which calls are computed), 4. schedules from recorded runs
(prediction, calibration, oracle). Nothing here needs a model or diffusers; `apply_adacache` in `attach.py` puts a clock on
a diffusers transformer.

Calls are numbered n = 1..N in sampling order. `rate` is the number of calls from one computation to the next: rate 1
computes every call, rate 6 computes one and reuses five times. Where paper and official code differ the code is followed;
`form="paper"` gives the paper's distance.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._arguments import _flag, _got, _integer, _items, _kind, _number, _option, _plain, _tensor

__all__ = [
    "FAST_30", "FAST_100", "SLOW_30", "CachingClock", "Codebook", "FixedClock", "best_fixed_calls", "calibrate", "distance", "oracle_calls",
    "pairwise_distances", "predict_calls", "replay_calls", "uniform_calls",
]  # fmt: skip


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
        rates = tuple(_integer("rates", rate, 1) for rate in _items("rates", self.rates, "a list of integers >= 1"))
        thresholds = tuple(_number("thresholds", threshold) for threshold in _items("thresholds", self.thresholds, "a list of finite numbers"))
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
        rows = _items("pairs", pairs.items() if hasattr(pairs, "items") else pairs, "pairs (threshold, rate)")
        if not rows:
            raise ValueError("pairs is empty, expected at least one threshold with its rate")
        rows = [_items("pairs", row, "pairs (threshold, rate)") for row in rows]
        if any(len(row) != 2 for row in rows):
            raise ValueError(f"pairs must be pairs (threshold, rate), got {_got(pairs)}")
        thresholds, rates = zip(*rows, strict=True)
        last = _number("thresholds", thresholds[-1])
        if len(thresholds) > 1 and last <= thresholds[-2]:
            raise ValueError(f"thresholds must rise strictly, got {thresholds}")
        return cls(thresholds[:-1], rates)

    def rate(self, distance: float) -> int:
        """The rate for a distance; a distance equal to a threshold takes the next entry, NaN the last one."""
        distance = _plain("distance", distance)
        return next((r for threshold, r in zip(self.thresholds, self.rates, strict=False) if distance < threshold), self.rates[-1])

    def scaled(self, multiplier: float) -> Codebook:
        """The same rates with all thresholds times `multiplier` (> 0): larger means more reuse."""
        if _number("multiplier", multiplier) <= 0:
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
    Returns a float >= 0. Raises ValueError for unequal shapes, values that are not finite, an all-zero residual that would be divided by, unknown
    names and rate < 1; TypeError for what are no numbers.
    """
    _option("metric", metric, METRICS)
    _option("form", form, FORMS)
    rate = _integer("rate", rate, 1)
    old, new = _tensor("old", old), _tensor("new", new)
    if old.shape != new.shape or old.device != new.device:
        raise ValueError(f"old {_kind(old)} and new {_kind(new)} must have the same shape and device")
    for name, residual in (("old", old), ("new", new))[: 2 if metric == "cosine" else form == "code"]:
        if not residual.any():
            raise ValueError(f"{name} is all zero: there is no change relative to it")
    return _change(old, new, rate, metric, form).item()


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
            if regulariser is not None and (isinstance(regulariser, type) or not callable(getattr(regulariser, name, None))):
                raise TypeError(f"regulariser must be an object with a method {name}, got {_got(regulariser)}")
        self.codebook, self.regulariser = codebook, regulariser
        self.num_calls = _integer("num_calls", num_calls, 1)
        self.first, self.last, self.start = _integer("first", first, 1), _integer("last", last, 0), _integer("start", start, 1)
        self.metric, self.form = _option("metric", metric, METRICS), _option("form", form, FORMS)
        self.expect = _option("expect", expect, REUSES)
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
        probe, old = _tensor("probe", probe, finite=False), self._probe
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
        self._probe, self._waiting = probe.clone(), False  # the model may write into its own

    def update(self, distance: float, factor: float = 1.0) -> None:
        """Set the rate from a distance that is already divided by the rate: `observe` for those who have no tensors."""
        _check_observable(self)
        distance, factor = _plain("distance", distance), _plain("factor", factor)
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
        calls = sorted({_integer("computed_calls", call, 1) for call in _items("computed_calls", computed_calls, "a list of calls", ordered=False)})
        if not calls or calls[0] != 1 or calls[-1] > self.num_calls:
            raise ValueError(f"computed_calls must contain 1 and lie in 1..{self.num_calls} (num_calls={self.num_calls}), got {calls}")
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
        raise ValueError(f"budget must lie in {1 + len(tail)}..{num_calls} (num_calls={num_calls}, last={last}), got {budget}")
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
    order = {"l1": 1, "l2": 2}[_option("metric", metric, ("l1", "l2"))]
    relative = _flag("relative", relative)
    calls = _every_call("residuals", residuals)
    parts = [call if isinstance(call, tuple) else (call,) for call in calls]
    flat = torch.stack([torch.cat([t.double().flatten() for t in p]) for p in parts])
    moved = torch.stack([torch.linalg.vector_norm(flat - row, order, dim=1) for row in flat])
    if relative:
        sizes = torch.linalg.vector_norm(flat, order, dim=1)
        if not sizes.all():
            raise ValueError(f"residuals of call {int(sizes.argmin()) + 1} are all zero: nothing is relative to them (relative=False: the plain change)")
        moved = moved / sizes[:, None]
    return moved.cpu().numpy()


def _every_call(name: str, residuals: Any) -> list:
    """A recorded run as one tensor per call, or one tuple of tensors: all there, finite and of one shape."""
    expected = "one tensor of numbers per call"
    if isinstance(residuals, (Tensor, np.ndarray)) or hasattr(residuals, "to_numpy"):
        rows = list(torch.atleast_1d(_tensor(name, residuals, expected)))
    else:
        rows = _items(name, residuals, expected)
    missing = [n for n, row in enumerate(rows, 1) if row is None]
    if missing or not len(rows):
        raise ValueError(f"{name} must hold every call, got {len(rows)} calls without {missing}: record at rate 1")
    calls = [
        tuple(_tensor(name, part, expected) for part in row)
        if isinstance(row, (tuple, list)) and row and isinstance(row[0], (Tensor, np.ndarray))
        else _tensor(name, row, expected)
        for row in rows
    ]
    shapes = {str([part.shape for part in call] if isinstance(call, tuple) else call.shape) for call in calls}
    if len(shapes) > 1:
        raise ValueError(f"{name} must have the same shape at every call, got {sorted(shapes)}")
    return calls


def predict_calls(distances: Any, codebook: Codebook, num_calls: int | None = None, *, first: int = 1, last: int = 2) -> list[int]:
    """The calls that a codebook would compute along a recorded, uncached run (open loop).

    distances: either [N], entry n-1 being the distance that was recorded at call n with rate 1 (the first entry is
    ignored), or [N, N] from `pairwise_distances`. With the matrix the answer is exact for the recorded trajectory. With
    the vector the distance over a gap is taken to be the sum of the single ones inside it: exact for a residual that
    drifts in a straight line, too large otherwise. Either way a real cached run leaves the recorded trajectory, so that
    its schedule may differ.
    Returns the computed calls, 1-based. Raises ValueError for a wrong shape.
    """
    d = _recorded("distances", distances, num_calls)
    return _predicted(d, codebook, first, last)


def _predicted(d: np.ndarray, codebook: Codebook, first: int, last: int) -> list[int]:
    clock = CachingClock(codebook, len(d), first=first, last=last)
    if d.ndim == 2:
        return _calls_of(clock, lambda old, new: float(d[old - 1, new - 1]))
    return _calls_of(clock, lambda old, new: float(d[old:new].sum()))


def replay_calls(probes: Sequence[Tensor], clock: Any) -> list[int]:
    """The calls that any clock would compute along a recorded, uncached run (open loop), by showing it the probes.

    probes: one tensor per call, as in `Report.probes` of a run at rate 1. clock: made for that many calls; it is reset
    before, and afterwards its trace (and its regulariser's) can be read. Returns the computed calls, 1-based.
    """
    absent = [a for a in ("tick", "observe", "reset", "num_calls") if not hasattr(clock, a)]
    if absent or isinstance(clock, type):
        raise TypeError(f"clock must be a CachingClock, a FixedClock or alike, got {_got(clock)} without {absent}")
    if hasattr(probes, "__len__") and (len(probes) != clock.num_calls or any(p is None for p in probes)):
        raise ValueError(f"probes must hold all num_calls={clock.num_calls} calls, got {sum(p is not None for p in probes)}: record at rate 1")
    probes = _every_call("probes", probes)
    if len(probes) != clock.num_calls:
        raise ValueError(f"probes must hold all num_calls={clock.num_calls} calls, got {len(probes)}")
    return _replayed(probes, clock)


def _replayed(probes: Sequence[Tensor], clock: Any) -> list[int]:
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
    expected = "a list of recorded runs"
    runs = list(distances) if isinstance(distances, (Tensor, np.ndarray)) and distances.ndim else _items("distances", distances, expected)
    if not runs:
        raise ValueError("distances is empty, expected at least one recorded run")
    replayed = isinstance(runs[0], (tuple, list)) and len(runs[0]) > 0 and isinstance(runs[0][0], Tensor)
    if options and not replayed:
        raise ValueError(f"distances must be recorded probes where a clock has options, got {type(runs[0]).__name__} for {sorted(options)}")

    def clock_for(book: Codebook) -> CachingClock:
        clock = CachingClock(book, num_calls, first=first, last=last, **options)
        clock._warned = True
        return clock

    def single_distances(probes: Sequence[Tensor]) -> np.ndarray:
        clock = clock_for(Codebook((), (1,)))
        _replayed(probes, clock)
        return np.array([np.nan if call.distance is None else call.distance * call.factor for call in clock.trace])

    runs = [_every_call("distances", run) if replayed else _recorded("distances", run, num_calls) for run in runs]
    if any(len(run) != num_calls for run in runs):
        raise ValueError(f"distances hold runs of {sorted({len(run) for run in runs})} calls, expected num_calls={num_calls}")
    rates = _items("rates", rates, "a list of integers >= 1")
    Codebook(range(len(rates) - 1), rates)
    if not 0 <= _number("trim", trim) < 0.5:
        raise ValueError(f"trim must lie in [0, 0.5), got {trim}")
    low, high = Codebook(range(len(rates) - 1), rates).reach(num_calls, first, last, options.get("start", 1))
    if not low <= _number("target_calls", target_calls) <= high:
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
            return np.mean([len(_replayed(probes, clock_for(book))) for probes in runs]) - target_calls
        return np.mean([len(_predicted(d, book, first, last)) for d in runs]) - target_calls

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
    e = _matrix("errors", errors)
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
    whole = isinstance(errors, (Tensor, np.ndarray)) and errors.ndim
    matrices = [_matrix("errors", e) for e in (errors if whole else _items("errors", errors, "a list of matrices [N, N]"))]
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


def _matrix(name: str, value: Any) -> np.ndarray:
    """[N, N] as float64; what is on and below the diagonal is never looked at."""
    e = _tensor(name, value, "numbers [N, N]", finite=False).double().cpu().numpy()
    if e.ndim != 2 or e.shape[0] != e.shape[1]:
        raise ValueError(f"{name} must be [N, N], got {e.shape}")
    if not np.isfinite(e[np.triu_indices(len(e), 1)]).all():
        raise ValueError(f"{name} must be finite above the diagonal")
    return e


def _recorded(name: str, value: Any, num_calls: int | None) -> np.ndarray:
    """Distances of an uncached run, [N] or [N, N], as float64. The first of a vector may be NaN: nothing was compared at call 1."""
    if isinstance(value, (list, tuple)) and any(v is None for v in value):
        value = [math.nan if v is None else v for v in value]
    d = _tensor(name, value, "numbers [N] or [N, N]", finite=False).double().cpu().numpy()
    if d.ndim not in (1, 2) or (d.ndim == 2 and d.shape[1] != len(d)):
        raise ValueError(f"{name} must be [N] or [N, N], got shape {d.shape}")
    if num_calls is not None and len(d) != _integer("num_calls", num_calls, 1):
        raise ValueError(f"{name} hold {len(d)} calls, expected num_calls={num_calls}")
    used = d[int(np.isnan(d[0])) :] if d.ndim == 1 else d[np.triu_indices(len(d), 1)]
    if not np.isfinite(used).all() or (used < 0).any():
        raise ValueError(f"{name} must be finite and >= 0 from call 2 on, got {used[~(np.isfinite(used) & (used >= 0))][0]}: record every call, at rate 1")
    return d


def _single_steps(d: np.ndarray) -> np.ndarray:
    return d if d.ndim == 1 else np.concatenate([[np.nan], np.diagonal(d, 1)])
