"""Prompts for Swin (the paper's section 3 and appendix): every window of a picture sees that picture's prompts.

The prompts do not lie in the sequence, which a Swin block folds into a plane, but walk beside it: they enter the windows of each attention, come out as the
mean over the windows, pass the residuals, norm and MLP of the block, are merged as patches are between stages, and count in the final mean.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _integer, _like, _numbers, _option
from ._starts import _rows
from .frozen import Attached, _is, _patch_conv
from .prompts import init_bound

__all__ = ["SwinPrompts", "into_windows", "out_of_windows"]

ORDERS = ("image", "official")


def into_windows(prompts: Any, windows: int, order: str = "image") -> Any:
    """A copy of the prompts (B, p, d) for each of a picture's windows: (B * windows, p, d), all windows of the first image first, as Swin lays them out.

    order="official" lays the copies out window by window, as the released code does: with B > 1 an image's windows then get other images' prompts. Deep
    prompts are the same for all images where they enter, but what the last block makes of them is mixed too, and counts in the final mean.
    """
    found, windows = _numbers("prompts", prompts, "B p d", detach=False), _integer("windows", windows, 1)
    return _like(prompts, _into(found, windows, _option("order", order, ORDERS)))


def out_of_windows(prompts: Any, windows: int, order: str = "image") -> Any:
    """What the windows made of the prompts (B * windows, p, d), averaged over the windows of each image: (B, p, d)."""
    found, windows = _numbers("prompts", prompts, "R p d", detach=False), _integer("windows", windows, 1)
    if len(found) % windows:
        raise ValueError(f"windows must divide the {len(found)} copies of the prompts, got {windows}")
    return _like(prompts, _out_of(found, windows, _option("order", order, ORDERS)))


def _into(prompts: Tensor, windows: int, order: str) -> Tensor:
    return prompts.repeat_interleave(windows, 0) if order == "image" else prompts.repeat(windows, 1, 1)


def _out_of(prompts: Tensor, windows: int, order: str) -> Tensor:
    batch, shape = len(prompts) // windows, prompts.shape[1:]
    return prompts.reshape(batch, windows, *shape).mean(1) if order == "image" else prompts.reshape(windows, batch, *shape).mean(0)


class SwinPrompts(Attached):
    """Prompts of a Swin transformer. values: a list, one entry (p, d_i) for each block (deep) or the first block's alone (shallow)."""

    def __init__(self, model, blocks, owner, *, num_prompts, mode, dropout, init, generator, order):
        super().__init__(model)
        conv, _ = _patch_conv(model)
        widths = [block.layernorm_before.normalized_shape[0] for block in blocks]
        self.num_prompts, self.mode, self.order, self.dropout = num_prompts, mode, order, nn.Dropout(dropout)
        self.values = nn.ParameterList(
            nn.Parameter(_rows(init, 1, num_prompts, width, init_bound(conv.kernel_size[0], width), generator)[0])
            for width in (widths if mode == "deep" else widths[:1])
        )  # fmt: skip
        self.to(conv.weight)
        self._now, self._batch, self._windows = None, 0, 0
        self._freeze(model, owner)
        for index, block in enumerate(blocks if num_prompts else ()):
            attention = block.attention
            self._handles += [
                block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True),
                attention.register_forward_pre_hook(partial(self._windows_get, block), with_kwargs=True),
                attention.relative_position_bias.register_forward_hook(self._no_bias),
                attention.register_forward_hook(self._windows_give), block.register_forward_hook(self._after),
            ]  # fmt: skip
        for part in model.modules() if num_prompts else ():
            if _is(part, ("SwinPatchMerging",)):
                self._handles.append(part.register_forward_hook(self._merge))
            elif _is(part, ("SwinModel",)):
                self._handles += [part.layernorm.register_forward_pre_hook(self._join), part.register_forward_hook(self._part)]

    def _before(self, index: int, block: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self._batch = len(hidden)
        if index == 0 or self.mode == "deep":
            self._now = self.dropout(self.values[index].to(hidden).expand(self._batch, -1, -1))

    def _windows_get(self, block: nn.Module, attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden, mask = args[0], args[1] if len(args) > 1 else kwargs.get("attention_mask")
        self._windows, p = len(hidden) // self._batch, self.num_prompts
        prompts = _into(block.layernorm_before(self._now), self._windows, self.order)
        if mask is not None:  # the shift keeps patches apart, never prompts
            mask = nn.functional.pad(mask, (p, 0, p, 0))
        rest = {name: value for name, value in kwargs.items() if name != "attention_mask"}
        return (torch.cat([prompts, hidden], 1), mask, *args[2:]), rest

    def _no_bias(self, bias: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return nn.functional.pad(output, (self.num_prompts, 0, self.num_prompts, 0))

    def _windows_give(self, attention: nn.Module, args: tuple, output: tuple) -> tuple:
        hidden, p = output[0], self.num_prompts
        self._now = self._now + _out_of(hidden[:, :p], self._windows, self.order)
        return (hidden[:, p:], *output[1:])

    def _after(self, block: nn.Module, args: tuple, output: Any) -> None:
        self._now = self._now + block.mlp(block.layernorm_after(self._now))

    def _merge(self, merging: nn.Module, args: tuple, output: Tensor) -> None:
        self._now = merging.reduction(merging.norm(self._now.repeat(1, 1, 4)))

    def _join(self, norm: nn.Module, args: tuple) -> tuple:
        now, self._now = self._now, None
        return (torch.cat([now, args[0]], 1),)  # what follows, the mean that the head reads, is over all tokens

    def _part(self, swin: nn.Module, args: tuple, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0][:, self.num_prompts :], *output[1:])
        output.last_hidden_state = output.last_hidden_state[:, self.num_prompts :]
        return output
