"""AdaCache: a clock on a diffusers video transformer.

Kahatapitiya et al. 2024, "Adaptive Caching for Faster Video Generation with Diffusion Transformers", arXiv 2411.02397.

`apply_adacache` hangs hooks on the blocks of a transformer. A clock (`schedules.py`) says at every denoiser call whether
the blocks are computed. At a computed call they are, what they add to the hidden state (the residuals) is stored, and one
of these residuals, the probe, is shown to the clock. At a skipped call the blocks are left out and the stored residuals
are added again.

Read from top to bottom: 1. what the caller holds (`AdaCacheHandle`, `apply_adacache`), 2. the blocks and the probe of a
model. The decision for every call and what is stored stand in `_runs.py`, the hooks, which are thin, in `_hooks.py`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ._arguments import _flag, _got, _option
from ._hooks import _BlockHook, _no_copy, _ProbeHook, _RootHook
from ._library import HookRegistry, _bare, _hang, _metadata, _other_caches, _unhang
from ._runs import Report, _Cache
from .schedules import REUSES, CachingClock, Codebook

__all__ = ["apply_adacache"]


# ---------------------------------------------------------------------------------------------------------------------
# 1. What the caller holds
# ---------------------------------------------------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------------------------------
# 2. The blocks and the probe of a model
# ---------------------------------------------------------------------------------------------------------------------


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
