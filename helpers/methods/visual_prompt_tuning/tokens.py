"""Prompts as tokens: hooks put them in front of the patches of each block, and take them out again behind the last one."""

import math
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._arguments import _got, _integer, _module, _number, _numbers, _option
from ._starts import _pixels, _rows
from .frozen import VIT_BLOCKS, Attached, _blocks, _image_size, _patch_conv
from .prompts import init_bound, pooled

__all__ = ["Attention", "Prompts", "class_attention", "class_tokens"]


class Prompts(Attached):
    """Prompts of a vision transformer, in the sequence [CLS, prompts, patches] that every block sees. `add_prompts` makes them. Whatever reads tokens behind
    the blocks, last_hidden_state and hidden_states of every block, finds them without prompts. DeiT's distillation token stands between prompts and patches.

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
        self._others = _specials(model) - 1
        rows = {"add": math.prod(side // patch for side in _image_size(model, embedding)) + _specials(model) if location == "add" else 0, "add-1": 1}.get(
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
        self._final, self._inside, self._lengths = None, False, [0] * n
        self._freeze(model, owner)
        for index, block in enumerate(blocks):
            self._handles.append(block.register_forward_pre_hook(partial(self._before, index), with_kwargs=True))
        self._handles.append(owner.register_forward_hook(self._at_the_end))
        for part in reversed([part for part in model.modules() if any(inner is owner for inner in part.modules())]):
            self._handles.append(part.register_forward_hook(self._states))
            if hasattr(part, "set_attn_implementation"):  # a model of transformers, which collects what its own blocks give out
                break
        if pooling is not None:
            self._handles += [model.register_forward_pre_hook(self._enter), model.register_forward_hook(self._leave, always_call=True)]
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
            values = self.values.new_zeros(0, conv.out_channels)
            if self.num_prompts:
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
            own = self.tokens(index).to(hidden)
            if own.shape[1] not in (1, hidden.shape[1]):
                raise ValueError(f"pixel_values must make the {own.shape[1]} tokens of location 'add', got pictures of another size, with {hidden.shape[1]}")
            hidden = hidden + own
        elif fresh:
            replaced = p if index > self.start or self.at_first == "replace" else 0
            hidden = torch.cat([hidden[:, :1], self.tokens(index, len(hidden)).to(hidden), hidden[:, 1 + replaced :]], 1)
        elif index == self.stop and self.after == "drop":
            hidden = torch.cat([hidden[:, :1], hidden[:, 1 + p :]], 1)
        self._lengths[index] = hidden.shape[1]
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
        if self._inside:
            read = torch.cat([tokens[:, : 1 + p], tokens[:, 1 + p + self._others :]], 1) if self._others else tokens
            self._final = pooled(read, p, self.pooling)
        if not p:
            return output
        tokens = _without(tokens, p)
        if isinstance(output, Tensor):
            return tokens
        if isinstance(output, tuple):
            return (tokens, *output[1:])
        output.last_hidden_state = tokens
        return output

    def _states(self, part: nn.Module, args: tuple, output: Any) -> Any:
        """The tokens behind each block, where they were asked for, without prompts too."""
        if isinstance(output, tuple):
            return tuple(self._cut(one) if isinstance(one, tuple) else one for one in output)
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = self._cut(output.hidden_states)
        return output

    def _cut(self, states: tuple) -> tuple:
        before = [0, *range(len(self.blocks[0]))]  # which block's tokens each is: the first one is what block 0 reads, the others what a block gives
        if not self.num_prompts or len(states) != len(before):  # attentions
            return states
        cut = [isinstance(one, Tensor) and self._there(index) and one.shape[1] == self._lengths[index] for one, index in zip(states, before)]
        return tuple(_without(one, self.num_prompts) if is_long else one for one, is_long in zip(states, cut))

    def _enter(self, model: nn.Module, args: tuple) -> None:
        self._final, self._inside = None, True

    def _leave(self, model: nn.Module, args: tuple, output: Any) -> None:
        self._final, self._inside = None, False

    def _pool(self, head: nn.Module, args: tuple) -> tuple:
        final, self._final = self._final, None
        return args if final is None else (final, *args[1:])  # None: somebody asks the head alone


def _without(tokens: Tensor, p: int) -> Tensor:
    return torch.cat([tokens[:, :1], tokens[:, 1 + p :]], 1)


def _specials(model: nn.Module) -> int:
    """How many tokens are no patches: the class token, and the distillation token of a DeiT."""
    return 1 + any(hasattr(part, "distillation_token") for part in model.modules())


@contextmanager
def _eval(model: nn.Module):
    """The model in eval mode, and then each of its parts in the mode that it had."""
    kept = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in kept:
            part.training = training


def _configs(config: Any) -> list:
    """A config and those inside of it, from outside to inside."""
    inner = [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
    return [config, *(found for one in inner if one is not None for found in _configs(one))]


class Attention(NamedTuple):
    """What the class token attends to in each of N blocks, mean over heads: to_cls (B, N), to_prompts (B, N, p), to_patches (B, N, m); together 1, but for
    a DeiT, whose distillation token has what is missing to 1."""

    to_cls: Tensor
    to_prompts: Tensor
    to_patches: Tensor


@torch.no_grad()
def class_attention(model: nn.Module, prompts: Prompts, pixel_values: Tensor) -> Attention:
    """The class token's attention in every block of a model with prompts, for pictures (B, 3, H, W) as the model takes them; zeros where no prompts are, and
    for patches that at_first="replace" has deleted. Without dropout, whatever mode the model is in. ValueError for prompts of another model, or removed ones.
    """
    _transformer("model", model), _pictures(pixel_values)
    if not isinstance(prompts, Prompts) or prompts._model[0] is not model or not prompts._handles:
        raise ValueError(f"prompts must be what add_prompts gave for this model, and still on it, got {_got(prompts)}")
    configs = [config for part in model.modules() if hasattr(part, "set_attn_implementation") for config in _configs(part.config)]
    kept = [(config, config._attn_implementation) for config in configs]
    model.set_attn_implementation("eager")  # the only one that gives its weights out
    try:
        with _eval(model):
            maps = model(pixel_values, output_attentions=True).attentions
    finally:
        for config, name in kept:  # from outside to inside: setting one sets those inside of it
            config._attn_implementation = name
    rows = [one[:, :, 0].float().mean(1) for one in maps]  # (B, tokens) each
    p, there = prompts.num_prompts, [prompts._there(index) for index in range(len(maps))]
    to_prompts = [row[:, 1 : 1 + p] if is_there else row.new_zeros(len(row), p) for row, is_there in zip(rows, there)]
    to_patches = [row[:, 1 + p * is_there + prompts._others :] for row, is_there in zip(rows, there)]
    most = max(one.shape[1] for one in to_patches)
    to_patches = [F.pad(one, (most - one.shape[1], 0)) for one in to_patches]  # the first ones are those that are deleted
    return Attention(torch.stack([row[:, 0] for row in rows], 1), torch.stack(to_prompts, 1), torch.stack(to_patches, 1))


@torch.no_grad()
def class_tokens(model: nn.Module, pixel_values: Tensor, *, which: str = "final") -> Tensor:
    """Class tokens of pictures (B, 3, H, W), to start prompts from (`class_rows` makes a row for each class of them).

    which: "final", (B, d), after the last norm ("final-cls" in the official code, for all blocks); "inputs" or "outputs" of every block, (N, B, d)
    ("cls-nolastl", "cls-nofirstl"). In the paper's ablation prompts that start at random do better. Without dropout, whatever mode the model is in.
    ValueError for a model whose blocks have no class token in front: a Swin, a ConvNet, a SigLIP.
    """
    _transformer("model", model), _pictures(pixel_values), _option("which", which, ("final", "inputs", "outputs"))
    _blocks(model, VIT_BLOCKS)
    norms = [getattr(part, name, None) for part in model.modules() for name in ("post_layernorm", "layernorm")]
    norm = next((norm for norm in norms if isinstance(norm, nn.Module)), None)
    if norm is None:
        raise ValueError(f"model must have a last norm, .layernorm or .post_layernorm, got {type(model).__name__} without one")
    with _eval(model):
        states = model(pixel_values, output_hidden_states=True).hidden_states
    if which == "final":
        return norm(states[-1])[:, 0]
    tokens = torch.stack([hidden[:, 0] for hidden in states])
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
