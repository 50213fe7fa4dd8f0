"""Prompts as tokens: hooks put them in front of the patches of each block, and take them out again behind the last one."""

import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._arguments import _got, _integer, _module, _number, _numbers, _option
from .frozen import Attached, _image_size, _patch_conv
from .prompts import init_bound, pooled

__all__ = ["Attention", "Prompts", "class_attention", "class_tokens"]
from ._starts import _pixels, _rows


class Prompts(Attached):
    """Prompts of a vision transformer, in the sequence [CLS, prompts, patches] that every block sees. `add_prompts` makes them.

    values: what is trained, (N, p, d) for deep prompts, (1, p, d) for shallow and shared ones; project and dropout, where asked for, act on them in this order.
    strength: tau >= 0, the factor on what the prompts' keys weigh in every softmax (ln tau is added to their logits): 0 is the frozen model, 1 the prompts
    as they were trained.
    """

    def __init__(self, model, blocks, owner, *, num_prompts, mode, location, first, last, after, at_first, dropout, projection, init, pooling, generator):
        super().__init__(model)
        self.blocks, conv, embedding = (tuple(blocks),), *_patch_conv(model)
        self._conv = (conv,)
        patch, width, n = conv.kernel_size[0], conv.out_channels, len(blocks)
        self.mode, self.location, self.pooling, self.after, self.at_first = mode, location, pooling, after, at_first
        self.start, self.stop = (n - last if last is not None else 0), (first if first is not None else n)
        self.num_prompts = num_prompts if location.startswith("prepend") else 0  # tokens that are put in
        rows = {"add": math.prod(side // patch for side in _image_size(model, embedding)) + 1 if location == "add" else 0, "add-1": 1}.get(
            location, num_prompts
        )
        inner = width if projection is None else projection
        self.project = nn.Linear(inner, width) if projection is not None else nn.Identity()
        if projection is not None:
            nn.init.kaiming_normal_(self.project.weight, mode="fan_out", generator=generator)
        self.dropout, self.strength = nn.Dropout(dropout), 1.0
        sets = self.stop - self.start if mode == "deep" else 1
        v = init_bound(patch, inner)
        if location == "prepend-pixel":
            start = _pixels(init, (1, conv.in_channels, patch, patch * rows), v, generator)
        else:
            start = _rows(init, sets, rows, inner, v, generator)
        self.values = nn.Parameter(start)
        self.to(conv.weight)
        self._final = None
        self._freeze(model, owner)
        for index, block in enumerate(blocks):
            self._handles.append(block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True))
        self._handles.append(owner.register_forward_hook(self._at_the_end))
        if pooling is not None:
            self._handles.append(self._head().register_forward_pre_hook(self._pool))

    @property
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, tau: float) -> None:
        self._strength = _number("strength", tau, 0)

    def tokens(self, index: int, batch: int = 1) -> Tensor:
        """The prompts that block `index` gets (batch, p, d), projected and, in training, with dropout, another mask for each image."""
        values = self.values[_integer("index", index, self.start, self.stop - 1) - self.start if self.mode == "deep" else 0]
        if self.location == "prepend-pixel":
            conv = self._conv[0]
            values = F.conv2d(self.values.to(conv.weight), conv.weight, conv.bias, conv.stride).flatten(2).transpose(1, 2)[0]
        return self.dropout(self.project(values).expand(_integer("batch", batch, 1), -1, -1))

    def _there(self, index: int) -> bool:
        """Whether prompts are among the tokens of this block."""
        return self.start <= index and (index < self.stop or self.after == "flow")

    def _before(self, index: int, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        kwargs, name = dict(kwargs), "hidden_states"
        hidden, args = (kwargs.pop(name), args) if name in kwargs else (args[0], args[1:])
        p = self.num_prompts
        fresh = self.start <= index < self.stop and (self.mode != "shallow" or index == 0)
        if fresh and not self.location.startswith("prepend"):
            hidden = hidden + self.tokens(index).to(hidden)
        elif fresh:
            replaced = p if index > self.start or self.at_first == "replace" else 0
            hidden = torch.cat([hidden[:, :1], self.tokens(index, len(hidden)).to(hidden), hidden[:, 1 + replaced :]], 1)
        elif index == self.stop and self.after == "drop":
            hidden = torch.cat([hidden[:, :1], hidden[:, 1 + p :]], 1)
        if p and self._there(index):
            args, kwargs = self._masked(block, hidden, args, kwargs)
        return (hidden, *args), kwargs

    def _masked(self, block: nn.Module, hidden: Tensor, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The attention mask, wider by the prompts, with ln tau on their columns."""
        p, name = self.num_prompts, "attention_mask"
        mask = kwargs.get(name, args[0] if args and name not in kwargs else None)
        if mask is None and self.strength == 1:
            return args, kwargs
        if mask is not None:
            mask = hidden.new_zeros(mask.shape).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
            if mask.shape[-1] == hidden.shape[1] - p:  # prompts may be seen by all
                mask = torch.cat([mask[..., :1], mask.new_zeros(*mask.shape[:-1], p), mask[..., 1:]], -1)
            if mask.shape[-2] == hidden.shape[1] - p:  # and see what the class token sees
                mask = torch.cat([mask[..., :1, :], mask[..., :1, :].expand(*mask.shape[:-2], p, -1), mask[..., 1:, :]], -2)
        logs = hidden.new_zeros(hidden.shape[1])
        logs[1 : 1 + p] = math.log(self.strength) if self.strength else -math.inf
        mask = logs.expand(1, 1, len(logs), -1) if mask is None else mask + logs
        return ((mask, *args[1:]), kwargs) if args and name not in kwargs else (args, {**kwargs, name: mask})

    def _at_the_end(self, owner: nn.Module, args: tuple, output: Any) -> Any:
        """Whatever reads the tokens after the blocks, a mean of patches or a dense head, finds its own and no prompts."""
        tokens = output if isinstance(output, Tensor) else output[0]
        p = self.num_prompts if self._there(len(self.blocks[0]) - 1) else 0
        self._final = pooled(tokens, p, self.pooling) if self.pooling is not None else None
        if not p:
            return output
        tokens = torch.cat([tokens[:, :1], tokens[:, 1 + p :]], 1)
        if isinstance(output, Tensor):
            return tokens
        if isinstance(output, tuple):
            return (tokens, *output[1:])
        output.last_hidden_state = tokens
        return output

    def _pool(self, head: nn.Module, args: tuple) -> tuple:
        final, self._final = self._final, None
        return args if final is None else (final, *args[1:])  # None: somebody asks the head alone


class Attention(NamedTuple):
    """What the class token attends to in each of N blocks, mean over heads: to_cls (B, N), to_prompts (B, N, p), to_patches (B, N, m); together 1."""

    to_cls: Tensor
    to_prompts: Tensor
    to_patches: Tensor


@torch.no_grad()
def class_attention(model: nn.Module, prompts: Prompts, pixel_values: Tensor) -> Attention:
    """The class token's attention in every block of a model with prompts, for pictures (B, 3, H, W) as the model takes them; zeros where no prompts are."""
    _transformer("model", model), _pictures(pixel_values)
    if not isinstance(prompts, Prompts) or prompts._model[0] is not model or not prompts._handles:
        raise ValueError(f"prompts must be what add_prompts gave for this model, and still on it, got {_got(prompts)}")
    kept = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the only one that gives its weights out
    try:
        maps = model(pixel_values, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(kept)
    rows = [one[:, :, 0].float().mean(1) for one in maps]  # (B, tokens) each
    p, there = prompts.num_prompts, [prompts._there(index) for index in range(len(maps))]
    to_prompts = [row[:, 1 : 1 + p] if is_there else row.new_zeros(len(row), p) for row, is_there in zip(rows, there)]
    to_patches = [row[:, 1 + p * is_there :] for row, is_there in zip(rows, there)]
    return Attention(torch.stack([row[:, 0] for row in rows], 1), torch.stack(to_prompts, 1), torch.stack(to_patches, 1))


@torch.no_grad()
def class_tokens(model: nn.Module, pixel_values: Tensor, *, which: str = "final") -> Tensor:
    """Class tokens of pictures (B, 3, H, W), to start prompts from (`class_rows` makes a row for each class of them).

    which: "final", (B, d), after the last norm ("final-cls" in the official code, for all blocks); "inputs" or "outputs" of every block, (N, B, d)
    ("cls-nolastl", "cls-nofirstl"). In the paper's ablation prompts that start at random do better.
    """
    _transformer("model", model), _pictures(pixel_values), _option("which", which, ("final", "inputs", "outputs"))
    found = model(pixel_values, output_hidden_states=True)
    if which == "final":
        return (found if hasattr(found, "last_hidden_state") else model.base_model(pixel_values)).last_hidden_state[:, 0]
    tokens = torch.stack([hidden[:, 0] for hidden in found.hidden_states])
    return tokens[:-1] if which == "inputs" else tokens[1:]


def _transformer(name: str, value: Any) -> None:
    _module(name, value, "a vision transformer of transformers")
    if not hasattr(value, "set_attn_implementation"):
        raise TypeError(f"{name} must be a vision transformer of transformers, got {_got(value)}")


def _pictures(value: Any) -> None:
    """Pictures for a model must be a tensor: their device and dtype are the caller's."""
    if not isinstance(value, Tensor):
        raise TypeError(f"pixel_values must be a tensor (B, 3, H, W), got {_got(value)}")
    _numbers("pixel_values", value, "B 3 H W")
