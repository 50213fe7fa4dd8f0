"""The hooks of adaptive caching, which are thin: on the transformer, on its blocks and on the probe."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _kind
from ._library import ModelHook, _bare, _metadata
from ._runs import _Cache, _carried_on


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
