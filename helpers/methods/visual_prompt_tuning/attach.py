"""Prompts on a model: found blocks, a frozen backbone, hooks that put tokens in and take them out again."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._arguments import _choice, _flag, _generator, _got, _integer, _module, _number, _numbers, _option
from .prompts import MODES, POOLINGS, init_bound, pooled

# classes of blocks that take (B, tokens, d) with the class token first
VIT_BLOCKS = ("ViTLayer", "CLIPEncoderLayer", "DeiTLayer", "Dinov2Layer", "ViTMSNLayer")
SWIN_BLOCKS = ("SwinLayer",)
LOCATIONS = ("prepend", "add", "add-1", "prepend-pixel", "concat-channel", "pad")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# ----------------------------------------------------------------------------------------------------------------- finding things


def _is(module: nn.Module, names: tuple[str, ...]) -> bool:
    return any(cls.__name__ in names for cls in type(module).__mro__)


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a vision transformer in their order, found by their class, wherever they lie.

    Raises ValueError for a model without any, and for one with two towers (of which the one that sees must be given alone).
    """
    return _blocks(model)[0]


def _blocks(model: nn.Module, names: tuple[str, ...] = VIT_BLOCKS + SWIN_BLOCKS) -> tuple[list[nn.Module], nn.Module]:
    """The blocks and the module that owns the list of them."""
    _module("model", model)
    owners, found = [], []
    for owner in model.modules():
        for child in owner.children():
            if isinstance(child, nn.ModuleList) and len(child) and all(_is(block, names) for block in child):
                owners.append(owner)
                found += child
    if not found:
        raise ValueError(f"model must have transformer blocks ({', '.join(names)}), got {type(model).__name__}, which has none of these")
    if len(owners) > 1 and not all(_is(block, SWIN_BLOCKS) for block in found):
        raise ValueError(f"model must have one list of blocks, got {type(model).__name__} with {len(owners)}: give the tower that sees, such as .vision_model")
    return found, owners[0]


def _patch_conv(model: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """The convolution that cuts a picture into patches, and its owner: the first one whose stride is its kernel."""
    for owner in model.modules():
        for child in owner.children():
            if isinstance(child, nn.Conv2d) and child.kernel_size == child.stride:
                return child, owner
    raise ValueError(f"model must have a patch embedding (a Conv2d whose stride is its kernel), got {type(model).__name__} without one")


def _image_size(model: nn.Module, owner: nn.Module) -> tuple[int, int]:
    size = getattr(owner, "image_size", None) or getattr(getattr(model, "config", None), "image_size", None)
    if size is None:
        raise ValueError(f"model must say its image_size, in its patch embedding or its config, got {type(model).__name__} without one")
    return (size, size) if isinstance(size, int) else tuple(size)


# -------------------------------------------------------------------------------------------------------------- what all share


class Attached(nn.Module):
    """Something small that is trained on a frozen model. Its parameters() are what it trains beside the model's own head, its state_dict() what a task
    stores beside that head; remove() gives the model back as it came.

    It is not a part of the model (`model.parameters()` does not show it), follows `model.train()` and `model.eval()` from the next call on, and is moved to
    the device and dtype of what it meets.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._model, self._handles, self._thawed = (model,), [], ()

    def _freeze(self, model: nn.Module, owner: nn.Module) -> None:
        """No gradient and no dropout in the backbone; the head stays free, and what a parametrisation adds to a weight stays as it is."""
        head = {id(p) for p in self._head().parameters()} if self._head() is not None else set()
        added = lambda name: ".parametrizations." in f".{name}" and not name.endswith(".original")  # noqa: E731
        self._thawed = tuple(p for n, p in model.named_parameters() if p.requires_grad and id(p) not in head and not added(n))
        for parameter in self._thawed:
            parameter.requires_grad_(False)
        inside = set() if self._head() is None else set(self._head().modules())
        self._backbone = tuple(m for m in model.modules() if m is not model and m not in inside)
        for module in {model, owner}:
            self._handles.append(module.register_forward_pre_hook(self._follow, prepend=True))

    def _head(self) -> nn.Module | None:
        head = getattr(self._model[0], "classifier", None)
        return head if isinstance(head, nn.Module) else None

    def _follow(self, module: nn.Module, args: tuple) -> None:
        if module is self._model[0]:
            self.train(module.training)
        for part in self._backbone:
            part.training = False

    def remove(self) -> None:
        """Take the hooks away and let the model's parameters ask for gradients again as they did before. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        for parameter in self._thawed:
            parameter.requires_grad_(True)
        self._handles, self._thawed = [], ()


def _refuse_second(module: nn.Module, kind: type) -> None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(getattr(getattr(hook, "func", hook), "__self__", None), kind):
            raise ValueError("model must be without prompts, got one that has some: remove() those first")


# ------------------------------------------------------------------------------------------------------------------ prompts as tokens


class Prompts(Attached):
    """Prompts of a vision transformer, in the sequence [CLS, prompts, patches] that every block sees. `add_prompts` makes them.

    values: what is trained, (N, p, d) for deep prompts, (1, p, d) for shallow and shared ones; project and dropout, where asked for, act on them in this order.
    strength: the factor tau on what the prompts' keys weigh in every softmax (ln tau is added to their logits): 0 is the frozen model, 1 the prompts as trained.
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
        return (final, *args[1:])


def _rows(init: Any, sets: int, rows: int, width: int, bound: float, generator: torch.Generator | None) -> Tensor:
    """Where prompts start (sets, rows, width): uniform in [-bound, bound], zeros, or the first of given rows."""
    if isinstance(init, str):
        if _choice("init", init, ("uniform", "zeros")) == "zeros":
            return torch.zeros(sets, rows, width)
        return torch.empty(sets, rows, width).uniform_(-bound, bound, generator=generator)
    layered = getattr(init, "ndim", 2) == 3 or (isinstance(init, (list, tuple)) and len(init) and getattr(init[0], "ndim", 1) == 2)
    given = _numbers("init", init, f"{sets} rows {width}" if layered else f"rows {width}")
    if given.shape[-2] < rows:
        raise ValueError(f"init must have a row for each of num_prompts = {rows}, got {given.shape[-2]} rows")
    return given[..., :rows, :].expand(sets, -1, -1).clone().float()


def _pixels(init: Any, shape: tuple[int, ...], bound: float, generator: torch.Generator | None) -> Tensor:
    """Where prompts that are pixels start: uniform in [-bound, bound], standard normal, or uniform in [0, 1] and then normalised as ImageNet's pictures are."""
    if not isinstance(init, str):
        return _numbers("init", init, " ".join(map(str, shape))).clone().float()
    _choice("init", init, ("uniform", "zeros", "gaussian", "imagenet"))
    values = torch.zeros(shape)
    if init == "gaussian":
        values.normal_(generator=generator)
    elif init == "uniform":
        values.uniform_(-bound, bound, generator=generator)
    elif init == "imagenet":
        mean, deviation = (torch.tensor(of)[:, None, None] for of in IMAGENET)
        values = (values.uniform_(0, 1, generator=generator) - mean) / deviation
    return values


# ----------------------------------------------------------------------------------------------------------------- prompts as pixels


class PixelPrompts(Attached):
    """Prompts in the picture: channels beside the three ("concat-channel"), or a border around it ("pad"). `add_prompts` makes them; any network that begins
    with a convolution over `pixel_values` can have them, a ConvNet too.

    concat-channel: values (1, p, H, W); the patch convolution gets p more input channels, and its weight and bias, the pre-trained ones included, are trained.
    pad: rows (1, 3, 2 p, W + 2 p) above and below, columns (1, 3, H, 2 p) left and right; the picture grows to H + 2 p, position embeddings are interpolated.
    """

    def __init__(self, model, owner, *, num_prompts, location, init, generator):
        super().__init__(model)
        conv, embedding = _first_conv(model)
        self.location, self.num_prompts, self._conv = location, num_prompts, (conv,)
        (height, width), p, channels = _image_size(model, embedding), num_prompts, conv.in_channels
        self.size = (height, width)
        if location == "concat-channel":
            self.values = nn.Parameter(_pixels(init, (1, p, height, width), init_bound(conv.kernel_size[0], conv.out_channels), generator))
            fresh = torch.empty(conv.out_channels, p, *conv.kernel_size)
            reach = 1 / math.sqrt((channels + p) * math.prod(conv.kernel_size))  # as a new Conv2d of 3 + p channels starts
            fresh.uniform_(-reach, reach, generator=generator)
            self.weight = nn.Parameter(torch.cat([conv.weight.detach(), fresh.to(conv.weight)], 1))
            self.bias = nn.Parameter(conv.bias.detach().clone()) if conv.bias is not None else None
        else:
            side, vit = conv.kernel_size[0], conv.kernel_size == conv.stride
            if vit and any((length + 2 * p) % side for length in self.size):
                raise ValueError(f"num_prompts must make H + 2 p a multiple of the patch size {side}, got {p} for pictures of {height} x {width}")
            init = "imagenet" if isinstance(init, str) and init == "uniform" else init
            if not isinstance(init, str):
                raise TypeError(f"init must be a name for location 'pad', got {_got(init)}")
            self.rows = nn.Parameter(_pixels(init, (1, channels, 2 * p, width + 2 * p), 0.0, generator))
            self.columns = nn.Parameter(_pixels(init, (1, channels, height, 2 * p), 0.0, generator))
        self.to(conv.weight)
        self._freeze(model, owner)
        if location == "concat-channel":
            self._handles.append(conv.register_forward_hook(self._wider))
        else:
            self._resizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
            self._handles.append(model.register_forward_pre_hook(self._bordered, with_kwargs=True))

    def _wider(self, conv: nn.Conv2d, args: tuple, output: Tensor) -> Tensor:
        picture = torch.cat([args[0], self.values.to(args[0]).expand(len(args[0]), -1, -1, -1)], 1)
        bias = None if self.bias is None else self.bias.to(picture)
        return F.conv2d(picture, self.weight.to(picture), bias, conv.stride, conv.padding, conv.dilation)

    def _bordered(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        kwargs, name = dict(kwargs), "pixel_values"
        picture, args = (kwargs.pop(name), args) if name in kwargs else (args[0], args[1:])
        if tuple(picture.shape[-2:]) != self.size:
            raise ValueError(f"pixel_values must be (B, {picture.shape[1]}, {self.size[0]}, {self.size[1]}), got shape {tuple(picture.shape)}")
        p, (rows, columns) = self.num_prompts, (part.to(picture).expand(len(picture), -1, -1, -1) for part in (self.rows, self.columns))
        middle = torch.cat([columns[..., :p], picture, columns[..., p:]], -1)
        kwargs |= {"interpolate_pos_encoding": True} if self._resizes else {}
        return (torch.cat([rows[..., :p, :], middle, rows[..., p:, :]], -2), *args), kwargs


def _first_conv(model: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    for owner in model.modules():
        for child in owner.children():
            if isinstance(child, nn.Conv2d):
                return child, owner
    raise ValueError(f"model must begin with a convolution over pictures, got {type(model).__name__} without one")


# -------------------------------------------------------------------------------------------------------------------------- the door


def add_prompts(
    model: nn.Module, *, num_prompts: int | None = None, mode: str = "deep", location: str = "prepend", first: int | None = None, last: int | None = None,
    after: str = "flow", at_first: str = "insert", dropout: float = 0.0, projection: int | None = None, init: Any = "uniform", pooling: str | None = None,
    generator: torch.Generator | None = None,
) -> Attached:  # fmt: skip
    """Freeze a vision transformer and give it p prompts (the paper's section 3): what trains are the prompts and `model.classifier`, where there is one.

    model: any vision transformer of transformers (ViT, DeiT, DINOv2, MSN, CLIP's vision tower, with a head or without), a Swin, or, for prompts in the picture,
    a ConvNet; it computes with prompts from now on, until `.remove()`. Order in every block: [CLS, prompts, patches]; prompts carry no position.
    num_prompts: p >= 0, by default 10; 0 is the frozen model. mode: "shallow" (put in before the first block, they evolve), "deep" (each block gets its own,
    what the block before made of its prompts is thrown away) or "shared" (deep with one set for all blocks).
    location: "prepend"; "add" (an own vector is added to each token, also deep) and "add-1" (the same one to all tokens, also deep), which have no p;
    "prepend-pixel" (s x s p pixels that the frozen patch embedding turns into p tokens, shallow); "concat-channel" and "pad" (in the picture, shallow).
    first, last: prompts in the first or the last k blocks only (deep and shared). after: what happens behind the first k: the prompts "flow" on as tokens, or
    one does "drop" them. at_first="replace" is the official code's slip for the last k: p patch tokens are deleted where prompts come in.
    dropout: on the prompts, other entries for each image. projection: prompts of this width d', which pass one shared linear layer to d.
    init: "uniform" in [-v, v] (`init_bound`), "zeros", or rows (>= p, d') for all blocks, or (blocks, >= p, d'); pixels also "gaussian", "imagenet".
    pooling: what the head reads, one of `pooled`'s; None, what the model itself reads, without prompts. generator: of torch, for the start.
    Returns Prompts, PixelPrompts or SwinPrompts. ValueError or TypeError, before anything is changed, for what does not go together.
    """
    _module("model", model)
    _option("mode", mode, MODES), _option("location", location, LOCATIONS), _option("after", after, ("flow", "drop"))
    _option("at_first", at_first, ("insert", "replace")), _generator(generator)
    if location in ("add", "add-1"):
        if num_prompts is not None:
            raise ValueError(f"num_prompts must be None for location {location!r}, which says itself how many vectors there are, got {_got(num_prompts)}")
        p = 1
    else:
        p = 10 if num_prompts is None else _integer("num_prompts", num_prompts, 0)
    dropout = _number("dropout", dropout, 0, 1)
    projection = projection if projection is None else _integer("projection", projection, 1)
    pooling = pooling if pooling is None else _option("pooling", pooling, POOLINGS)
    if pooling is not None and not isinstance(getattr(model, "classifier", None), nn.Module):
        raise ValueError(f"pooling must be None for a model without .classifier, got {pooling!r} for {type(model).__name__}")
    tokens_only = {"projection": projection, "first": first, "last": last, "pooling": pooling}
    if location in ("concat-channel", "pad"):
        if mode == "deep" and p:
            raise ValueError(f"mode must be 'shallow' for location {location!r}: pixels come in once, got 'deep'")
        _nothing_of(tokens_only, f"location {location!r}")
        if dropout:
            raise ValueError(f"dropout must be 0 for location {location!r}, got {dropout:g}")
        owner = _first_conv(model)[1]
        _refuse_second(model, Attached)
        return PixelPrompts(model, owner, num_prompts=p, location=location, init=init, generator=generator)
    blocks, owner = _blocks(model)
    if location == "prepend-pixel" and mode != "shallow":
        raise ValueError(f"mode must be 'shallow' for location 'prepend-pixel': pixels come in once, got {mode!r}")
    if location == "prepend-pixel" and projection is not None:
        raise ValueError(f"projection must be None for location 'prepend-pixel', whose prompts pass the patch embedding, got {projection}")
    if location.startswith("add") and after == "drop":
        raise ValueError(f"after must be 'flow' for location {location!r}, which puts no tokens in, got 'drop'")
    if location.startswith("add") and pooling in ("prompts", "all"):
        raise ValueError(f"pooling must be 'cls', 'patches' or None for location {location!r}, which puts no tokens in, got {pooling!r}")
    for name, k in (("first", first), ("last", last)):
        if k is not None:
            _integer(name, k, 1, len(blocks))
            if mode == "shallow":
                raise ValueError(f"{name} must be None for shallow prompts, which come in once, got {k}")
    if first is not None and last is not None:
        raise ValueError(f"last must be None where first is given, got {last}")
    _refuse_second(blocks[0], Attached)
    if _is(blocks[0], SWIN_BLOCKS):
        raise NotImplementedError
    return Prompts(
        model, blocks, owner, num_prompts=p, mode=mode, location=location, first=first, last=last, after=after, at_first=at_first, dropout=dropout,
        projection=projection, init=init, pooling=pooling, generator=generator,
    )  # fmt: skip


def _nothing_of(options: dict, where: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} must be None for {where}, got {_got(value)}")


# ---------------------------------------------------------------------------------------------------------------------- looking at it


class Attention(NamedTuple):
    """What the class token attends to in each of N blocks, mean over heads: to_cls (B, N), to_prompts (B, N, p), to_patches (B, N, m); together 1."""

    to_cls: Tensor
    to_prompts: Tensor
    to_patches: Tensor


@torch.no_grad()
def class_attention(model: nn.Module, prompts: Prompts, pixel_values: Tensor) -> Attention:
    """The class token's attention in every block of a model with prompts, for pictures (B, 3, H, W) as the model takes them; zeros where no prompts are."""
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
