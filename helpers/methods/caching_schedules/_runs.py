"""The decision for every denoiser call, and what is stored: which run and which guidance branch a call belongs to, whether it is computed, what it adds."""

from __future__ import annotations

import copy
import inspect
import re
import threading
import warnings
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ._library import BaseState, CacheContext, StateManager, _other_caches
from .schedules import CachingClock

_REPLACED = "which may have been replaced since: call transformer.disable_cache() and apply_adacache(..., num_calls=pipe.scheduler) anew"
_BRANCH = "inference"  # name of the first guidance branch where the pipeline opens no context


@dataclass(frozen=True)
class Report:
    """One run of one clock: what was computed, and why."""

    context: str  # the cache context whose clock this is; where the pipeline opens none, "inference", and "inference 2" for a second guidance branch
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


class _State(BaseState):
    """What belongs to one cache context, or one guidance branch, within one run."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.clock: Any = None  # None: another context decides
        self.calls = 0
        self.signature: list | None = None  # shapes and dtypes of the inputs
        self.timesteps: list[Any] = []  # of the first and the latest call
        self.given: list[_Seen] = []  # the text and what else tells guidance branches apart, at the latest call
        self.steady = 0  # calls in a row, up to the latest, that brought the very same tensors
        self.latents: _Seen | None = None
        # key: (name of block list, None or number of block)
        self.running: dict[tuple, Any] = {}  # of the call in progress
        self.residuals: dict[tuple, tuple] = {}  # (hidden, text) of the last computed call
        self.slopes: dict[tuple, tuple] = {}  # with reuse="linear": their change per call between the last two computed ones
        self.computed_at = 0
        self.computations = 0  # how many the deciding branch had made by then
        self.probes: list[Tensor | None] = []
        self.totals: list[tuple[Tensor, ...]] = []
        self.filed = False


class _Seen:
    """A tensor of an earlier call, or another argument. Two tensors are told apart as objects first, which nobody has to wait for."""

    def __init__(self, value: Any, rewritten: bool = False) -> None:
        self.ref = weakref.ref(value) if isinstance(value, Tensor) else None
        self.value = value.detach() if isinstance(value, Tensor) else value
        self.version = _versions(value)
        self.copied = rewritten and isinstance(value, Tensor) and value.is_inference()  # torch does not say whether that was written into
        if self.copied:
            self.value = self.value.clone()

    def is_(self, value: Any) -> bool:
        """The same object, and nobody has written into it since."""
        return not self.copied and (self.ref() if self.ref is not None else self.value) is value and self.version == _versions(value)

    def equals(self, value: Any) -> bool:
        old = self.value
        if not isinstance(old, Tensor) or not isinstance(value, Tensor):
            return type(old) is type(value) and old == value
        return (old.shape, old.dtype, old.device) == (value.shape, value.dtype, value.device) and torch.equal(old, value)

    def alive(self) -> bool:
        return self.ref is not None and self.ref() is not None


def _same(seen: _Seen | None, value: Any) -> bool:
    """Are these the latents of that call? What was written into since is not, though it be the same object."""
    if seen is None:
        return False
    return seen.is_(value) if seen.ref is not None and seen.ref() is value and not seen.copied else seen.equals(value)


def _unlike(seen: _Seen | None, value: Any) -> bool:
    """Latents that have little in common, as those of two clips; a sampler's two estimates of one clip are nearly the same."""
    if seen is None or not isinstance(value, Tensor) or seen.value.shape != value.shape:
        return False
    a, b = seen.value.to(value.device).float().flatten(), value.float().flatten()
    return bool(a @ b < 0.5 * a.norm() * b.norm())


class _Cache:
    """The decision for every call, shared by all hooks of one model."""

    def __init__(self, transformer: nn.Module, clock: Any, group: bool, linear: bool, shared: bool, record: bool) -> None:
        self.clock, self.group, self.linear, self.shared, self.record = clock, group, linear, shared, record
        self.transformer, self.states = transformer, StateManager(_State)
        self.scheduler: Any = None  # asked for the number of calls, where there is one
        self.times: Any = None  # its timesteps in this run
        self.reports: list[Report] = []
        self.state: _State | None = None  # of the call in progress
        self.active = True
        self.decision = True  # of the deciding context
        self.computations = 0
        self.decider: str | None = None
        self.branches = 0  # how many were told apart in this run, where the pipeline opens no context
        self.step: set[str] = set()  # those of them that were called in this step
        self.step_times: list[Any] = []  # timesteps of the first and the latest call of all branches
        self.latents: _Seen | None = None  # of the latest call of all branches
        self.gate: Any = None
        self.newest = self.latest = None  # the block list that began last, the one that ran last
        self.own_context = self.warned = False
        self.kinds: set[bool] = set()  # of this run's calls: did the pipeline open no context?
        self.raw: Any = None  # the timestep of the latest call, as it came
        self.again = self.turned = False  # this call, this run began where a run was left after one call at the same timestep, with the same text
        self.left: list[_Seen] | None = None  # the text of that run, where text and no latents had changed
        self.busy = threading.Lock()
        names = list(inspect.signature(transformer.forward).parameters)
        self.position = {name: i for i, name in enumerate(names)}
        self.telling = [name for name in names if _TELLING.match(name)]
        self.root: Any  # the hook on the transformer

    # -- one call ------------------------------------------------------------------------------------------------------

    @torch.compiler.disable
    def begin(self, args: tuple, kwargs: dict) -> None:
        self.own_context = False
        if torch.is_grad_enabled():
            raise RuntimeError(
                "AdaCache stores residuals without gradients: call the transformer under torch.no_grad() or "
                "torch.inference_mode(), or remove() the cache to train"
            )
        hidden, text, timestep = (self._argument(name, args, kwargs) for name in ("hidden_states", "encoder_hidden_states", "timestep"))
        given = _leaves([self._argument(name, args, kwargs) for name in self.telling])
        self.own_context = self.states._context is None  # LattePipeline and plain loops open none
        index = None if self.own_context else getattr(self.states.context, "step_index", None)
        if self._is_set_anew(timestep):
            self._start_anew()
        raw = timestep
        if index is not None:  # the pipeline says how far it is (Wan): nothing needs to be read from the device
            timestep = index
        elif isinstance(timestep, Tensor) and timestep.device.type == "cpu":
            timestep = _value(timestep)
        state = self._of_branch(hidden, timestep, given) if self.own_context else self._of_context(hidden, text, timestep, given)
        if not state.calls and (others := _other_caches(self.transformer)):
            raise ValueError(f"transformer got another cache after AdaCache ({', '.join(sorted(others))}): remove one of them")
        self._check_inputs(state, hidden, text)
        if isinstance(timestep, Tensor):
            timestep = timestep.detach().max()
        state.timesteps = [*state.timesteps[:1], timestep]
        self.step_times, self.raw = [*self.step_times[:1], timestep], raw
        self.kinds.add(self.own_context)
        state.steady = state.steady + 1 if self._same_text(state, given) else 1
        if state.steady == 1:
            state.given = [_Seen(value) for value in given]
        if self.latents is None or not self.latents.is_(hidden):
            self.latents = _Seen(hidden, rewritten=True)
        state.latents = self.latents
        state.calls += 1
        if state.calls > 1:
            self.left, self.turned = None, self.turned and state.calls == 2

        name = self.states.context.name
        if state.clock is None and (self.decider is None or not self.shared):
            if self.decider is None and self.scheduler is not None:
                self._check_goes_on()
                self.times, self.clock.num_calls = self.scheduler.timesteps, _calls_left(self.scheduler, raw)
            state.clock = self.clock if self.decider is None else copy.deepcopy(self.clock)
            if state.clock is not self.clock:
                state.clock.reset()
            self.decider = self.decider or name
        if state.clock is not None:
            self.decision = state.clock.tick()
            self.computations += self.decision
        stale = self.shared and state.computations < self.computations  # a branch that was left out when the others were computed
        self.state, self.active = state, self.decision or not state.residuals or stale
        self.observed = not (self.decision and state.clock is not None)

    def _argument(self, name: str, args: tuple, kwargs: dict) -> Any:
        if name in kwargs:
            return kwargs[name]
        position = self.position.get(name, len(args))
        return args[position] if position < len(args) else None

    def _is_set_anew(self, timestep: Any) -> bool:
        """Did the scheduler get new timesteps since the run began, or does a pipeline without contexts follow one that opens them?"""
        if self.times is not None and self.scheduler.timesteps is not self.times:
            return True
        return bool(self.kinds) and self.own_context not in self.kinds and _value(self.raw) != _value(timestep)

    def _start_anew(self) -> None:
        """Forget the current run: this call is the first one of the next."""
        context, again = self.states._context, self.again
        self.reset()
        self.states.set_context(context)
        self.turned = again

    def _same_text(self, state: _State, given: list) -> bool:
        return len(state.given) == len(given) and all(map(_Seen.is_, state.given, given))

    def _replaced(self, state: _State, given: list) -> bool:
        """Did tensors that came call after call give way to others? A new run brings its own, with equal numbers if the prompt is the same."""
        return state.steady > 1 and not all(seen.is_(value) for seen, value in zip(state.given, given, strict=True) if isinstance(value, Tensor))

    def _of_context(self, hidden: Any, text: Any, timestep: Any, given: list) -> _State:
        """The state of the cache context that the pipeline has opened; a fresh one where this call begins a new run: another text does."""
        state, name = self.states.get_state(), self.states.context.name
        same_text = self._same_text(state, given)
        new = self._is_new_run(state, timestep, same_text, hidden)
        if not state.calls and len(self.step_times) > 1:  # a branch that begins late, or the run of another pipeline
            start, before, now = (_value(t) for t in (*(self.step_times * 2)[:2], timestep))
            new = None not in (start, before, now) and (before - start) * (now - before) < 0
        left = None
        if state.calls and not same_text and state.signature == _signature(hidden, text):
            if state.calls == 1 and self.left is not None and _equal(self.left, given):
                raise ValueError(
                    f"the model was called with two texts in turn within the cache context {name!r}: guidance branches. Open a cache context around "
                    "the calls of each branch: with transformer.cache_context('cond'): ..., with transformer.cache_context('uncond'): ..."
                )
            first = self.decider in (None, name) or name in self.step  # a branch that follows in its step may bring another text at every call
            other = first and not _equal(state.given, given)
            left = state.given if other and new and state.calls == 1 and _same(state.latents, hidden) else None
            new = new or other or self._replaced(state, given)
        if new:
            self._start_anew()
            self.left = left
        elif self.shared and name in self.step and self.decider not in (None, name):  # the deciding branch was left out of the last step
            self._hand_over(self.states.get_state(), name)
        if self.decider in (None, name):
            self.step = set()
        self.step.add(name)
        return self.states.get_state()

    def _hand_over(self, state: _State, name: str) -> None:
        """The clock, and with it the decision, to another branch."""
        old, self.decider = self.states._state_cache[self.decider], name
        state.clock, state.probes, state.totals, old.clock = old.clock, old.probes, old.totals, None

    def _of_branch(self, hidden: Any, timestep: Any, given: list) -> _State:
        """The state of a guidance branch, where the pipeline opens no context: branches are told apart by their text.

        The first branch of a step decides for all of them; one that was already called in this step begins the next one.
        """
        branches = self.states._state_cache
        name = next((name for name, state in branches.items() if state.calls and self._same_text(state, given)), None)
        name = name or next((name for name, state in branches.items() if self._is_of(state, timestep, given)), None)
        if name is not None:
            state = branches[name]
            same_text = self._same_text(state, given)
            if self._is_new_run(state, timestep, same_text, hidden) or (not same_text and self._replaced(state, given)):
                self._start_anew()
                name = None
        elif branches:  # a text that is new to this run, or a new run
            timestep = _value(timestep)
            start, before = (_value(t) for t in (self.step_times * 2)[:2])
            if timestep is None or before is None:
                over = self._finished() and not _same(self.latents, hidden)
            else:
                direction, move = before - start, timestep - before
                over = direction * move < 0 or (direction == move == 0 and not _same(self.latents, hidden))
            if over:
                self._start_anew()
        if name is None:
            self.branches += 1
            name = _BRANCH if self.branches == 1 else f"{_BRANCH} {self.branches}"
        self.states.set_context(CacheContext(name))
        state = self.states.get_state()
        if name in self.step or not self.step or not self._same_step(hidden, timestep):
            if self.shared and self.decider not in (None, name):
                self._hand_over(state, name)
            if self.shared:  # what a branch stored before the last step is out of date
                for gone in set(branches) - self.step - {name}:
                    del branches[gone]
            self.step = set()
        self.step.add(name)
        if state.clock is not None and state.clock.call >= state.clock.num_calls:
            raise self._too_many(state.clock)
        return state

    def _is_of(self, state: _State, timestep: Any, given: list) -> bool:
        """Is this the text of that branch? A tensor with equal numbers is, unless the branch has had its turn and still holds its own."""
        known = not isinstance(timestep, Tensor) and timestep is not None
        moved = known and [timestep] != state.timesteps[-1:]
        return len(state.given) == len(given) and all(
            seen.is_(value) or ((moved or not seen.alive()) and seen.equals(value)) for seen, value in zip(state.given, given, strict=True)
        )

    def _same_step(self, hidden: Any, timestep: Any) -> bool:
        if isinstance(timestep, Tensor):  # a known text in its turn: nothing is read from the device
            return True
        return _same(self.latents, hidden) if timestep is None else timestep == _value(self.step_times[-1])

    def _finished(self) -> bool:
        state = self.states._state_cache.get(self.decider)
        return state is not None and state.clock is not None and state.clock.call >= state.clock.num_calls

    def _too_many(self, clock: Any) -> ValueError:
        if self.scheduler is not None:
            return ValueError(
                f"call {clock.call + 1} of a run for which {type(self.scheduler).__name__}, given as num_calls, has planned {clock.num_calls}: it is not the "
                f"scheduler of this run, {_REPLACED}, or the model is called more than once a timestep and guidance branch: give the number of calls; "
                "use handle.reset() if this is a new video"
            )
        return ValueError(
            f"call {clock.call + 1} of a run planned with num_calls={clock.num_calls}: num_calls counts denoiser calls, not steps, of one guidance "
            "branch: give their number, or num_calls=pipe.scheduler, which follows it; use handle.reset() if this is a new video. (A pipeline "
            "whose guidance branches have equal texts must open transformer.cache_context(name) around the calls of each branch.)"
        )

    def _check_goes_on(self) -> None:
        """A scheduler that has come to its end counts no run that begins."""
        if (getattr(self.scheduler, "step_index", None) or 0) >= len(self.scheduler.timesteps):
            self.reset()
            raise ValueError(
                f"{type(self.scheduler).__name__}, given as num_calls, has made its {len(self.scheduler.timesteps)} steps and was not set anew for this run: "
                f"it is not its scheduler, {_REPLACED}"
            )

    def _is_new_run(self, state: _State, timestep: Any, same_text: bool, hidden: Any) -> bool:
        """Did the timesteps turn back? Timesteps may fall or rise, but not change their mind within one run."""
        self.again = False
        if not state.calls:
            return False
        finished = state.clock is not None and state.clock.call >= state.clock.num_calls
        if timestep is None or state.timesteps[0] is None:
            return finished
        # reading a timestep from the device would make the host wait; a clock that looks at its second probe does so anyway
        reads = self.turned or (state.calls == 1 and isinstance(self.clock, CachingClock))
        if isinstance(timestep, Tensor) and same_text and not finished and not reads:
            return False
        start, before, now = (_value(t) for t in (*(state.timesteps * 2)[:2], timestep))
        direction, step = before - start, now - before
        if finished and direction and direction * step >= 0:  # second-order samplers repeat a timestep
            raise self._too_many(state.clock)
        if direction and step == 0 and _same(state.latents, hidden):
            raise ValueError(
                f"the model was called again with the same latents at timestep {now:g}: guidance branches that their text does not tell apart. Open a "
                "cache context around the calls of each branch: with transformer.cache_context('cond'): ..., with transformer.cache_context('uncond'): ..."
            )
        if direction and step == 0 and self.turned and same_text and _unlike(state.latents, hidden):
            raise ValueError(
                f"the model was called again with other latents at timestep {now:g}, as at {start:g}: windows or clips that take turns and share a text. "
                "Open a cache context around the calls of each, with transformer.cache_context('window 1'): ..., or finish one before the next"
            )
        self.again = state.calls == 1 and step == 0 and same_text
        return finished or direction * step < 0 or (state.calls == 1 and step == 0)

    def _check_inputs(self, state: _State, *inputs: Any) -> None:
        signature = _signature(*inputs)
        if state.signature is not None and state.signature != signature:
            raise ValueError(
                f"inputs changed inside a run: hidden_states, encoder_hidden_states were {state.signature}, now {signature}; "
                "use handle.reset() before another resolution, batch size or dtype"
            )
        state.signature = signature

    def enter(self, key: tuple, hidden: Tensor, text: Tensor | None) -> tuple:
        """What a block is about to work on: copies where they are kept, since a block may write into its input."""
        running = self.state.running
        if not self.group:
            return _copies(hidden, text)
        if key not in running:
            if self.newest in running:  # its stretch is over, and a block of the next list may write into its output
                running[self.newest].settle()
            running[key], self.newest = _Stretch(_copies(hidden, text)), key
        elif key == self.newest == self.latest and not running[key].goes_on_with(hidden, text):
            raise ValueError(f"the model works on its hidden states between the blocks of {key[0]!r}: use storage='block'")
        return hidden, text

    def add(self, key: tuple, inputs: tuple, outputs: tuple, last: bool) -> None:
        """Note what a block made of (hidden, text).

        Per block that is a difference to keep. Per list, the sum of the differences telescopes: a list's stretch reaches
        from its first input to its last output before the next list begins, and the last list's stretch to the end of the
        stack, with everything that earlier lists do in between (Latte alternates: one spatial block, then the rest).
        """
        self.latest = key
        if not self.group:
            self.state.running[key] = _difference(inputs, outputs)
        elif key == self.newest:
            self.state.running[key].reach(outputs)
            if last:
                self.state.running[key].settle()

    @torch.compiler.disable
    def observe(self, probe: Any) -> None:
        state = self.state
        if state is None or state.clock is None or not self.decision:
            return
        probe = (probe[0] if isinstance(probe, tuple) else probe).detach()
        if self.gate is not None:
            probe = probe * self.gate()
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
            new = {key: stretch.settle() for key, stretch in state.running.items()} if self.group else state.running
            if self.linear and state.residuals:
                gap = state.calls - state.computed_at
                state.slopes = {key: _difference(state.residuals[key], parts, gap) for key, parts in new.items()}
            state.residuals, state.running, state.computed_at, state.computations = new, {}, state.calls, self.computations
        clock = state.clock
        if clock is not None and self.record:
            state.totals.append(self._totals(state) if self.active or state.slopes else state.totals[-1])
            if not self.decision:
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

    def reset(self, ended: bool = False) -> Exception | None:
        """Forget the current run. ended: it came to its end by itself, so that a clock with more calls to come was made for a longer one.

        Returns what is to be said then: a UserWarning, or a ValueError where the calls of all guidance branches were counted.
        """
        states = dict(self.states._state_cache)
        for state in states.values():
            self._file(state)
        said = self._ended_early(states) if ended else None
        self.states.reset()
        self.clock.reset()
        self.state = self.gate = self.decider = self.latents = self.times = self.raw = self.left = None
        self.again, self.turned, self.kinds = False, False, set()
        self.decision, self.computations, self.branches, self.step, self.step_times = True, 0, 0, set(), []
        return said

    def _ended_early(self, states: dict[str, _State]) -> Exception | None:
        clock = next((state.clock for state in states.values() if state.clock is not None), None)
        if clock is None or not 0 < clock.call < clock.num_calls:
            return None
        if self.branches > 1 and sum(state.calls for state in states.values()) == clock.num_calls:
            return ValueError(
                f"num_calls={clock.num_calls} is the number of calls of all {self.branches} guidance branches together, and each has made "
                f"{clock.call}: give num_calls={clock.call}, the calls of one branch (or open transformer.cache_context(name) around the calls of each)"
            )
        if self.scheduler is not None:
            name, steps = type(self.scheduler).__name__, len(self.scheduler.timesteps)
            if (getattr(self.scheduler, "step_index", None) or 0) >= steps:
                return UserWarning(
                    f"{name} has made its {steps} steps, and this transformer was called in {clock.call} of them, as the first of Wan 2.2's two is: what its "
                    f"clock planned for the calls at the end never came. Give the number of its own calls, num_calls={clock.call}"
                )
            return UserWarning(
                f"the run ended after call {clock.call} of the {clock.num_calls} that {name}, given as num_calls, has planned: what the clock planned for the "
                f"calls at the end never came. The run was stopped early, or {name} is not the scheduler of this run, {_REPLACED}"
            )
        return UserWarning(
            f"the run ended after call {clock.call} of the {clock.num_calls} that its clock was made for (num_calls={clock.num_calls}): what the clock "
            "planned for the calls at the end never came. num_calls counts the denoiser calls of one guidance branch: give their number, or "
            "num_calls=pipe.scheduler, which follows the scheduler's number of steps. (Of two transformers that share the steps, as Wan 2.2's, each has "
            "calls of its own)"
        )

    def warn(self, said: Exception | None) -> None:
        """Once: a handle that is used again and again says it no more."""
        if said is not None and not self.warned:
            self.warned = True
            warnings.warn(str(said), stacklevel=3)

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


class _Stretch:
    """What a list of blocks makes of (hidden, text): from its first input to its latest output."""

    def __init__(self, inputs: tuple) -> None:
        self.inputs, self.outputs, self.difference = inputs, inputs, None
        self.versions: tuple = ()

    def reach(self, outputs: tuple) -> None:
        self.outputs, self.difference, self.versions = outputs, None, _versions(*outputs)

    def goes_on_with(self, *inputs: Any) -> bool:
        """Are these the latest outputs, as they were left?"""
        same = all(new is old for new, old in zip(inputs, self.outputs, strict=True) if old is not None)
        return same and _versions(*self.outputs) == self.versions

    def settle(self) -> tuple:
        """The sum of the residuals, taken before anybody writes into the output."""
        if self.difference is None:
            self.difference = _difference(self.inputs, self.outputs)
        return self.difference


def _signature(*inputs: Any) -> list:
    return [(t.shape, t.dtype) for t in inputs if isinstance(t, Tensor)]


def _equal(seen: list[_Seen], given: list) -> bool:
    """Are these the same texts, by their numbers?"""
    return len(seen) == len(given) and all(s.is_(g) or s.equals(g) for s, g in zip(seen, given, strict=True) if isinstance(g, Tensor))


def _versions(*tensors: Any) -> tuple:
    """How often each was written into (which torch does not count in inference mode)."""
    return tuple(t._version if isinstance(t, Tensor) and not t.is_inference() else None for t in tensors)


def _copies(*tensors: Any) -> tuple:
    return tuple(None if t is None else t.clone() for t in tensors)


# arguments that tell guidance branches apart: the text, and what leaves layers out
_TELLING = re.compile(r"encoder_hidden_states(?!.*mask)|pooled|cap_feats|text_bth|class_labels|image_embeds|skip_layers|.*guidance_blocks|perturb")


def _leaves(values: list) -> list:
    """Lists of tensors as tensors."""
    return [leaf for value in values for leaf in (value if isinstance(value, (tuple, list)) else (value,))]


def _calls_left(scheduler: Any, timestep: Any) -> int:
    """From this call to the end of the scheduler's timesteps, of which strength < 1 leaves out the first."""
    times, index = [float(t) for t in scheduler.timesteps], getattr(scheduler, "step_index", None)
    if index is None:
        index = getattr(scheduler, "begin_index", None)
    if index is None:  # by the timestep itself, which models get as it is, as a share, or counted upwards, and in half precision rounded
        now, whole = _value(timestep), getattr(getattr(scheduler, "config", None), "num_train_timesteps", 1000)
        off = [(abs(form - now) / max(abs(form), 1e-3), i) for i, t in enumerate(times) for form in (t, t / whole, 1 - t / whole) if now is not None]
        index = next((i for far, i in sorted((round(far, 6), i) for far, i in off) if far < 5e-3), 0)
    return max(len(times) - index, 1)


def _difference(inputs: tuple, outputs: tuple, gap: int = 1) -> tuple:
    ends = ((o, i if o is None else i.to(o.device)) for i, o in zip(inputs, outputs, strict=True))
    return tuple(None if o is None else o - i if gap == 1 else (o - i) / gap for o, i in ends)


def _carried_on(hidden: Tensor, part: int, state: _State, key: tuple) -> Tensor:
    """With reuse="linear": add the slope of one part (0 hidden, 1 text) for the calls since the last computed one."""
    slope = state.slopes.get(key)
    return hidden if slope is None else torch.add(hidden, slope[part], alpha=state.calls - state.computed_at)


def _value(timestep: Any) -> float | None:
    if not isinstance(timestep, Tensor):
        return timestep
    # image-conditioned tokens have timestep 0; a list is the fastest way to read the few others
    return float(timestep.max() if timestep.numel() > 64 else max(timestep.flatten().tolist()))
