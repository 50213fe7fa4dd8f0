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
import re
import threading
import warnings
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _flag, _got, _kind, _option
from .schedules import REUSES, CachingClock, Codebook

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

__all__ = ["apply_adacache"]


# ---------------------------------------------------------------------------------------------------------------------
# 1. What the caller holds
# ---------------------------------------------------------------------------------------------------------------------


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
        """Take all hooks off again, as `transformer.disable_cache()` does too. Afterwards every call is computed; the reports stay."""
        said = self._cache.reset(ended=True)
        self._take_off()
        self._cache.warn(said)

    def _take_off(self) -> None:
        registry = HookRegistry.check_if_exists_or_initialize(self.transformer)
        if registry.get_hook(_ROOT) is self._cache.root:
            for module, name in self._cache.root.hung:
                _unhang(module, name, self._cache)
            for name in ("disable_cache", "_cache_config", "_replicate_for_data_parallel"):
                vars(self.transformer).pop(name, None)
            registry.invalidate_child_registries_cache()

    def __enter__(self) -> AdaCacheHandle:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        said = self._cache.reset(ended=error is None)
        self._take_off()
        self._cache.warn(said)


def apply_adacache(
    transformer: nn.Module,
    codebook: Codebook | None = None,
    num_calls: Any = None,
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

    transformer: the model, also inside torch.compile, DistributedDataParallel or a peft wrapper; its own parameters are never touched.
    num_calls: N, counted in denoiser calls of one guidance branch; or the pipeline's scheduler, whose timesteps are then counted anew at every
    run, so that another number of steps, `strength` < 1 and second-order samplers need no other clock; of two transformers that share the steps
    (Wan 2.2) the first needs the number of its own calls. codebook, metric, form, expect, first,
    last, start, regulariser: see `CachingClock`; or give a finished clock instead (`FixedClock`).
    probe: which residual is watched. "attention": self-attention of the middle block (of the temporal blocks where there
    are some), times its gate in adaLN-single blocks (Latte), as in the paper. "block": all that the middle block adds.
    Otherwise the name of a submodule, as "transformer_blocks.0.ff".
    storage: "group" keeps one sum of residuals per block list and stream, "block" one residual per block. Both give the
    same numbers up to rounding wherever nothing but reshapes and constants happens between blocks; long skip connections
    across blocks need "block".
    reuse: what a skipped call adds. "hold": the residuals of the last computed call b, as in the paper. "linear": those
    carried on in a straight line from the computed call a before it, R_b + (n - b) / (b - a) * (R_b - R_a) at call n (the
    first order of TaylorSeer, Liu et al. 2025, arXiv 2503.06923, on the sum of all blocks); one more tensor is kept.
    decide: for pipelines that call the model once per guidance branch (Wan, HunyuanVideo). "shared": the first branch
    of a run decides for all. "each": every branch has a clock (and regulariser) of its own. Residuals are never shared: the branches are those
    of the pipeline's cache contexts, and where it opens none (Wan video-to-video, image-to-image) they are told apart by their text.
    record: also keep every probe and every summed hidden-state residual, as CPU tensors in the report.

    A run ends with call N, with a pipeline's end, with an exception inside the model, or when the timesteps turn back
    (they may fall or rise, Mochi's rise): a run that was interrupted leaves nothing behind. One that begins where the timesteps need not turn
    back (leading spacing, strength < 1) is seen by its text tensors, which are others than those of the calls before, or by the timesteps
    of the scheduler, where num_calls is one; with the same tensors and an integer it needs `handle.reset()`. On an accelerator the
    timesteps are only looked at where the text embedding is another tensor than at the call before, as in every new
    pipeline run from a prompt, so that skipped calls never wait for the device; a loop or a pipeline that is stopped half-way
    there, and started again with the same embedding tensor, needs `handle.reset()` unless num_calls is its scheduler.
    The model is not to be copied or pickled while the cache is on it.

    Returns an AdaCacheHandle. Raises TypeError or ValueError for bad options, a model without a known block list, a
    model that already caches or is given another cache later, and, at a call: more than N calls in one run, guidance branches that cannot be
    told apart, windows of a clip that take turns without contexts of their own, a changed resolution or dtype inside a run, a probe that did not run,
    blocks that are no longer those it was applied to, hidden states that change between blocks of a list (storage="group"). Raises RuntimeError
    for calls with gradients enabled (stored residuals carry none) and for calls at the same time, TypeError for a copy. Warns once when a run ends
    before call N.
    """
    _option("storage", storage, ("group", "block"))
    _option("reuse", reuse, REUSES)
    _option("decide", decide, ("shared", "each"))
    record = _flag("record", record)
    transformer = _unwrapped(transformer)
    registry = getattr(transformer, "_diffusers_hook", None)
    if registry is not None and registry.get_hook(_ROOT) is not None:
        raise ValueError("transformer already has AdaCache applied; call transformer.disable_cache(), or remove() of its handle, first")
    if getattr(transformer, "is_cache_enabled", False) or _other_caches(transformer):
        raise ValueError("transformer already has a diffusers cache enabled; call transformer.disable_cache() first")
    scheduler = num_calls if hasattr(num_calls, "set_timesteps") else None
    if hasattr(num_calls, "scheduler"):
        raise TypeError(f"num_calls must be an integer or a scheduler, got {type(num_calls).__name__} (give pipe.scheduler)")
    if clock is None:
        if codebook is None or num_calls is None:
            raise ValueError("codebook and num_calls are needed where no clock is given (num_calls: an integer, or the pipeline's scheduler)")
        options = dict(first=first, last=last, start=start, metric=metric, form=form, expect=expect, regulariser=regulariser)
        clock = CachingClock(codebook, num_calls if scheduler is None else 1, **options)  # a scheduler is asked when a run begins
    else:
        if (codebook, num_calls, metric, form, expect, first, last, start, regulariser) != (None, None, "l1", "code", "hold", 1, 2, 1, None):
            raise ValueError("clock already holds codebook, num_calls, metric, form, expect, first, last, start and regulariser: give one")
        absent = [a for a in ("tick", "observe", "reset", "call", "num_calls", "trace") if not hasattr(clock, a)]
        if absent or isinstance(clock, type):
            raise TypeError(f"clock must be a CachingClock, a FixedClock or alike, got {_got(clock)} without {absent}")
        clock.reset()

    groups = _block_lists(transformer)
    probe_block, probe_module, probe_name, gate_chunk = _find_probe(groups, probe)
    cache = _Cache(transformer, clock, storage == "group", reuse == "linear", decide == "shared", record)
    cache.scheduler, cache.root = scheduler, _RootHook(cache, groups)
    hooks: list[tuple[nn.Module, str, Any]] = [(transformer, _ROOT, cache.root)]
    for name, blocks in groups.items():
        for i, block in enumerate(blocks):
            hook = _BlockHook(cache, name, None if storage == "group" else i, last=i == len(blocks) - 1)
            if block is probe_block:
                hook.gate_chunk, hook.is_probe = gate_chunk, probe_module is block
            hooks.append((block, _BLOCK, hook))
    if probe_module is not probe_block:
        hooks.append((probe_module, _PROBE, _ProbeHook(cache)))
    for module, name, hook in hooks:
        _hang(module, hook, name)
    cache.root.hung = [(module, name) for module, name, _ in hooks]
    # contexts are handed down a cached list of hooked modules: have it made anew
    HookRegistry.check_if_exists_or_initialize(transformer).invalidate_child_registries_cache()
    handle = AdaCacheHandle(transformer, cache, {name: len(blocks) for name, blocks in groups.items()}, probe_name)
    transformer._replicate_for_data_parallel = _no_copy  # of a DataParallel that is put around it later
    transformer.disable_cache = handle.remove  # hides the method of the class until remove(): a handle that was lost is no trap
    if hasattr(transformer, "_cache_config"):
        transformer._cache_config = handle  # is_cache_enabled says so, and enable_cache() refuses a second one
    return handle


_ROOT, _BLOCK, _PROBE = "adacache_root", "adacache_block", "adacache_probe"
_REPLACED = "which may have been replaced since: call transformer.disable_cache() and apply_adacache(..., num_calls=pipe.scheduler) anew"
_BRANCH = "inference"  # name of the first guidance branch where the pipeline opens no context


def _unwrapped(model: Any) -> nn.Module:
    """The model inside torch.compile, data-parallel and peft wrappers: modules that hold one other module and no list of blocks."""
    if not isinstance(model, nn.Module):
        inside = " (give pipe.transformer)" if hasattr(model, "transformer") else ""
        raise TypeError(f"transformer must be a torch module, got {type(model).__name__}{inside}")
    while True:
        children = list(model.children())
        if len(children) != 1 or isinstance(children[0], nn.ModuleList):
            return model
        if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
            raise ValueError(
                "transformer is a DataParallel over several devices, which copies the model at every call: give each process its own with "
                "DistributedDataParallel, or call transformer.module on one device"
            )
        model = children[0]


def _hang(module: nn.Module, hook: ModelHook, name: str) -> None:
    """Put a hook on, below accelerate's wrapper of `forward` where there is one: pipelines take that off, with all above it, when a run ends."""
    outer, below = module.forward, vars(module).get("_old_forward")
    if below is not None:
        module.forward = below
    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)
    hook.outermost = module.forward
    if below is not None:
        module._old_forward, module.forward = module.forward, outer


def _unhang(module: nn.Module, name: str, cache: _Cache) -> None:
    """Take a hook of this cache off, also from below another library that has wrapped `forward` (accelerate's offload): its wrapper stays where it is."""
    registry = getattr(module, "_diffusers_hook", None)
    hook = registry.get_hook(name) if registry is not None else None
    if hook is None or hook.cache is not cache:
        return
    newest, outer = registry._hook_order[-1] == name, module.forward
    registry.remove_hook(name, recurse=False)
    if newest and outer is not hook.outermost:
        if vars(module).get("_old_forward") is hook.outermost:
            module._old_forward = module.forward
        else:  # what the wrapper calls does from now on only what was there before
            hook.fn_ref.forward, hook.fn_ref.post_forward = module.forward, lambda module, output: output
        module.forward = outer


def _other_caches(transformer: nn.Module) -> set[str]:
    """Names of the classes of diffusers' own cache hooks on a model, also of those that `apply_..._cache` put there."""
    hooks = (hook for module in transformer.modules() if hasattr(module, "_diffusers_hook") for hook in module._diffusers_hook.hooks.values())
    return {type(hook).__name__ for hook in hooks if type(hook).__module__.rpartition(".")[2] in _CACHES}


_CACHES = ("faster_cache", "first_block_cache", "mag_cache", "pyramid_attention_broadcast", "sea_cache", "taylorseer_cache", "text_kv_cache")


# ---------------------------------------------------------------------------------------------------------------------
# 2. The blocks and the probe of a model
# ---------------------------------------------------------------------------------------------------------------------


def _bare(block: nn.Module) -> nn.Module:
    """The block itself, where `torch.compile(block)` stands in the list."""
    return getattr(block, "_orig_mod", block)


def _metadata(block: nn.Module) -> TransformerBlockMetadata | None:
    try:
        return TransformerBlockRegistry.get(type(block))
    except ValueError:
        return None


def _block_lists(transformer: nn.Module) -> dict[str, list[nn.Module]]:
    lists = {name: [*map(_bare, child)] for name, child in transformer.named_children() if isinstance(child, nn.ModuleList) and len(child)}
    groups = {name: blocks for name, blocks in lists.items() if all(_metadata(block) is not None for block in blocks)}
    if not groups:
        classes = {name: type(blocks[0]).__name__ for name, blocks in lists.items()}
        raise ValueError(
            f"{type(transformer).__name__} has no list of transformer blocks that diffusers knows (found {classes}); "
            "register the block class with TransformerBlockRegistry.register(cls, TransformerBlockMetadata(...))"
        )
    return groups


def _find_probe(groups: dict[str, list[nn.Module]], probe: str) -> tuple[nn.Module, nn.Module, str, int | None]:
    """(block that holds the probe, probed module, its name, number of its gate among the six of adaLN-single)."""
    if isinstance(probe, str) and probe in ("attention", "block"):
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
    path = name.split(".") if isinstance(name, str) else [""]
    block = {str(i): block for i, block in enumerate(groups.get(path[0], ()))}.get(path[1]) if len(path) > 1 else None
    module = None if block is None else dict(block.named_modules()).get(".".join(path[2:]))
    if block is None or module is None:
        raise ValueError(f'probe must be "attention", "block" or the name of a block or submodule in {list(groups)}, got {probe!r}')
    gated = len(path) == 3 and getattr(block, "norm_type", None) == "ada_norm_single"
    return block, module, name, {"attn1": 2, "ff": 5}.get(path[2]) if gated else None


# ---------------------------------------------------------------------------------------------------------------------
# 3. The decision for every call, and what is stored
# ---------------------------------------------------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------------------------------
# 4. The hooks
# ---------------------------------------------------------------------------------------------------------------------


class _OnlyLast(nn.ModuleList):
    """A list of blocks of which a loop sees only the last one; length and indices are those of the whole list."""

    def __iter__(self):
        return iter((self[-1],))


def _no_copy(*_: Any) -> Any:
    raise TypeError(
        "the model has AdaCache applied, whose hooks would go on with the original's weights in a copy: call transformer.disable_cache(), or remove() of its "
        "handle, before the model is copied or pickled, and apply it again to each (state_dict() and save_pretrained() may be used as they are)"
    )


class _Hook(ModelHook):
    """Belongs to one model: diffusers binds `forward` to it, and a copy would bring that along."""

    cache: _Cache
    __deepcopy__ = __reduce_ex__ = _no_copy


class _RootHook(_Hook):
    """On the transformer: decides before the call, files the report after it.

    With group storage only one block of a list has anything to do at a skipped call, and the list is one block long while
    the call lasts: the sum is added where its stretch begins, and nobody walks through blocks that do nothing.
    """

    _is_stateful = True

    def __init__(self, cache: _Cache, groups: dict[str, list[nn.Module]]) -> None:
        super().__init__()
        self.cache, self.groups = cache, groups
        self.shortcuts = {name: _OnlyLast(blocks) for name, blocks in groups.items()} if cache.group else {}
        self.hung: list[tuple[nn.Module, str]] = []  # modules with the names of their hooks
        self.state_manager = cache.states  # found here by `transformer.cache_context(...)`

    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.cache.busy.acquire(blocking=False):
            raise RuntimeError(
                "the model was called while another of its calls was under way: a cache follows one run at a time, so let threads take turns with whole runs, "
                "or give each a model and a cache of its own"
            )
        try:
            return self._call(module, args, kwargs)
        finally:
            self.cache.busy.release()

    def _call(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        try:
            lists = self._lists(module)
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
                    module._modules.update(lists)
            self.cache.end()
        except BaseException:  # KeyboardInterrupt too: half a run must not leak into the next one
            self.cache.reset()
            raise
        return output

    def _lists(self, module: nn.Module) -> dict[str, nn.ModuleList]:
        """The lists of blocks as they are now, once it is clear that they hold the blocks that have the hooks."""
        lists = {name: module._modules.get(name) for name in self.groups}
        for name, blocks in self.groups.items():
            now = [*map(_bare, lists[name] or ())]
            if len(now) != len(blocks) or any(new is not old for new, old in zip(now, blocks, strict=True)):
                count = f"{len(blocks)} then, {len(now)} now" if len(now) != len(blocks) else "some were replaced"
                raise ValueError(
                    f"the blocks of {name!r} are not those that AdaCache was applied to ({count}): call transformer.disable_cache() and apply_adacache again"
                )
        return {name: lists[name] for name in self.shortcuts}

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Called by a pipeline that ends."""
        said = self.cache.reset(ended=True)
        if isinstance(said, ValueError):
            raise said
        self.cache.warn(said)
        return module


class _BlockHook(_Hook):
    """On every block: computes and stores, or leaves the block out and adds what was stored."""

    def __init__(self, cache: _Cache, group: str, index: int | None, last: bool) -> None:
        super().__init__()
        self.cache, self.key, self.last, self.adds = cache, (group, index), last, last or index is not None
        self.gate_chunk: int | None = None
        self.is_probe = False

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self.metadata = _metadata(module)
        self.hidden_index = self.metadata.return_hidden_states_index or 0
        self.text_index = self.metadata.return_encoder_hidden_states_index
        return module

    @torch.compiler.disable(recursive=False)
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

        if self.gate_chunk is not None:
            cache.gate = partial(_gate, module, read("timestep", args, kwargs), self.gate_chunk, len(hidden))
        inputs = cache.enter(self.key, hidden, text)
        before = hidden.clone() if self.is_probe else None
        output = self.fn_ref.original_forward(*args, **kwargs)
        if not isinstance(output, tuple):
            new, new_text = output, None
        else:
            new, new_text = output[self.hidden_index], None if self.text_index is None else output[self.text_index]
        cache.add(self.key, inputs, (new, new_text), self.last)
        if before is not None:
            cache.observe(new - before)
        return output

    def _skip(self, hidden: Tensor, text: Tensor | None) -> Any:
        if self.adds:
            stored = self.cache.state.residuals.get(self.key)
            if stored is None or stored[0].shape != hidden.shape or stored[0].dtype != hidden.dtype:
                kind = "nothing" if stored is None else _kind(stored[0])
                raise ValueError(f"blocks {self.key[0]!r} hold {kind} for hidden states {_kind(hidden)}; use handle.reset()")
            state = self.cache.state
            hidden = _carried_on(hidden.to(stored[0].device) + stored[0], 0, state, self.key)
            text = text if stored[1] is None else _carried_on(text.to(stored[1].device) + stored[1], 1, state, self.key)
        if self.text_index is None:
            return hidden
        return (hidden, text) if self.hidden_index < self.text_index else (text, hidden)


def _gate(block: nn.Module, timestep: Tensor, chunk: int, batch: int) -> Tensor:
    """Of adaLN-single: six vectors per sample, the attention's gate is the third. Read while the block runs: offloading brings its table for that time."""
    return block.scale_shift_table[chunk] + timestep.reshape(batch, 6, -1)[:, chunk : chunk + 1]


class _ProbeHook(_Hook):
    """On the probed module: shows its output to the clock."""

    def __init__(self, cache: _Cache) -> None:
        super().__init__()
        self.cache = cache

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        self.cache.observe(output)
        return output
