"""AdaCache: a clock on a diffusers video transformer.

Kahatapitiya et al. 2024, "Adaptive Caching for Faster Video Generation with Diffusion Transformers", arXiv 2411.02397.

`apply_adacache` hangs hooks on the blocks of a transformer. A clock (`schedules.py`) says at every denoiser call whether
the blocks are computed. At a computed call they are, what they add to the hidden state (the residuals) is stored, and one
of these residuals, the probe, is shown to the clock. At a skipped call the blocks are left out and the stored residuals
are added again.

Read from top to bottom: 1. what the caller holds (`Report`, `AdaCacheHandle`, `apply_adacache`), 2. the blocks and the
probe of a model, 3. the decision for every call and what is stored, 4. the hooks, which are thin.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .schedules import REUSES, CachingClock, Codebook, _choice, _kind

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

__all__ = ["AdaCacheHandle", "Report", "apply_adacache"]


# ---------------------------------------------------------------------------------------------------------------------
# 1. What the caller holds
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


# ---------------------------------------------------------------------------------------------------------------------
# 2. The blocks and the probe of a model
# ---------------------------------------------------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------------------------------
# 3. The decision for every call, and what is stored
# ---------------------------------------------------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------------------------------
# 4. The hooks
# ---------------------------------------------------------------------------------------------------------------------


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
