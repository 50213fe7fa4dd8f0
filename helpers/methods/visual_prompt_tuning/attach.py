"""The door: prompts on a model, wherever they go."""

from typing import Any

import torch
from torch import nn

from ._arguments import _generator, _got, _integer, _number, _option
from .frozen import SWIN_BLOCKS, Attached, _attached, _blocks, _first_conv, _is, _patch_conv, _unwrapped
from .pixels import PixelPrompts
from .prompts import MODES, POOLINGS
from .swin import SwinPrompts
from .tokens import Prompts, _specials

__all__ = ["add_prompts"]

LOCATIONS = ("prepend", "add", "add-1", "prepend-pixel", "concat-channel", "pad")


def add_prompts(
    model: nn.Module, *, num_prompts: int | None = None, mode: str = "deep", location: str = "prepend", first: int | None = None, last: int | None = None,
    after: str = "flow", at_first: str = "insert", dropout: float = 0.0, projection: int | None = None, init: Any = None, pooling: str | None = None,
    window_order: str = "image", generator: torch.Generator | None = None,
) -> Attached:  # fmt: skip
    """Freeze a vision transformer and give it p prompts (the paper's section 3): what trains are the prompts and `model.classifier`, where there is one; a
    head that was frozen before stays so, and a head of another name is frozen with the rest.

    model: a ViT, DeiT, DINOv2 (without registers), MSN or CLIP's vision tower of transformers, with a head or without, a Swin (version 1), or, for prompts in
    the picture, whatever begins with a Conv2d, a ConvNet too; others, BEiT, Data2Vec, DINOv2 with registers, DINOv3, SigLIP, MAE, I-JEPA, Swin v2, Hiera, are
    refused for prompts that are tokens. Of DataParallel and DistributedDataParallel the model inside is taken, but prompts are no part of what these copy to
    other devices or keep alike there: they are for one device. A compiled model (compile it afterwards) and a wrapper around a model with a head are refused.
    On the meta device prompts can be counted, not used later. It computes with prompts from now on, until `.remove()`. Order in every block:
    [CLS, prompts, patches]; prompts carry no position.
    num_prompts: p >= 0, by default 10; 0 is the frozen model. mode: "shallow" (put in before the first block, they evolve), "deep" (each block gets its own,
    what the block before made of its prompts is thrown away) or "shared" (deep with one set for all blocks).
    location: "prepend"; "add" (an own vector is added to each token, also deep) and "add-1" (the same one to all tokens, also deep), which have no p;
    "prepend-pixel" (s x s p pixels that the frozen patch embedding turns into p tokens, shallow); "concat-channel" and "pad" (in the picture, shallow).
    "add", "concat-channel" and "pad" are for pictures of the model's own size alone.
    first, last: prompts in the first or the last k blocks only (deep and shared). after: what happens behind the first k: the prompts "flow" on as tokens, or
    one does "drop" them. at_first="replace" is the official code's slip for the last k: p patch tokens are deleted where prompts come in.
    dropout: on the prompts, other entries for each image. projection: prompts of this width d', which pass one shared linear layer to d.
    init: "uniform" in [-v, v] (`init_bound`), "zeros", or rows (>= p, d') for all blocks, or (blocks that get any, >= p, d');
    pixels also "gaussian" and, of 3 channels, "imagenet". None: "imagenet" for "pad", else "uniform".
    pooling: what the head reads, one of `pooled`'s; None, what the model itself reads, without prompts (but a Swin's mean, which has them).
    window_order: Swin only, "official" is the released code's slip (see `into_windows`). generator: of torch, for the start.
    Returns Prompts, PixelPrompts or SwinPrompts. ValueError or TypeError, before anything is changed, for what does not go together.
    """
    model = _unwrapped(model)
    _option("mode", mode, MODES), _option("location", location, LOCATIONS), _option("after", after, ("flow", "drop"))
    _option("at_first", at_first, ("insert", "replace")), _option("window_order", window_order, ("image", "official")), _generator(generator)
    where, dropout = f"location {location!r}", _number("dropout", dropout, 0, 1)
    projection = projection if projection is None else _integer("projection", projection, 1)
    pooling = pooling if pooling is None else _option("pooling", pooling, POOLINGS)
    first, last = (k if k is None else _integer(name, k, 1) for name, k in (("first", first), ("last", last)))
    if location in ("add", "add-1"):
        _only("num_prompts", num_prompts, None, f"{where}, which itself says how many vectors there are")
        p = 1
    else:
        p = 10 if num_prompts is None else _integer("num_prompts", num_prompts, 0)
    init = ("imagenet" if location == "pad" else "uniform") if init is None else init
    if location in ("prepend-pixel", "concat-channel", "pad"):
        _only("mode", mode, "shallow", f"{where}: pixels come in once")
        _only("projection", projection, None, where)
    if mode == "shallow":
        _only("first", first, None, "shallow prompts, which come in once"), _only("last", last, None, "shallow prompts, which come in once")
    if first is None or location.startswith("add"):
        _only("after", after, "flow", where if first else "prompts that are not in the first blocks only")
    if last is None or location != "prepend":
        _only("at_first", at_first, "insert", where if last else "prompts that are not in the last blocks only")
    if first is not None:
        _only("last", last, None, "prompts in the first blocks only")
    if location in ("concat-channel", "pad"):
        _only("dropout", dropout, 0.0, where), _only("pooling", pooling, None, where), _only("window_order", window_order, "image", where)
        owner = _first_conv(model)[1]
        _refuse_a_second(model)
        return PixelPrompts(model, owner, num_prompts=p, location=location, init=init, generator=generator)
    blocks, owner = _blocks(model)
    if _is(blocks[0], SWIN_BLOCKS):
        _only("location", location, "prepend", "a Swin")
        for name, value in (("first", first), ("last", last), ("projection", projection), ("pooling", pooling)):
            _only(name, value, None, "a Swin")
        if mode == "shared":
            raise ValueError("mode must be 'shallow' or 'deep' for a Swin, whose blocks differ in width, got 'shared'")
        _refuse_a_second(model)
        return SwinPrompts(model, blocks, owner, num_prompts=p, mode=mode, dropout=dropout, init=init, generator=generator, order=window_order)
    _only("window_order", window_order, "image", "a model without windows")
    first, last = (k if k is None else _integer(name, k, 1, len(blocks)) for name, k in (("first", first), ("last", last)))
    if pooling is not None and not isinstance(getattr(model, "classifier", None), nn.Module):
        raise ValueError(f"pooling must be None for a model without .classifier, got {pooling!r} for {type(model).__name__}")
    head, width = getattr(model, "classifier", None), _patch_conv(model)[0].out_channels
    if pooling is not None and getattr(head, "in_features", width) != width:
        raise ValueError(f"pooling must be None for a head that reads {head.in_features} numbers, not the width {width}, got {pooling!r}")
    if pooling in ("prompts", "all") and (location.startswith("add") or p == 0 or after == "drop"):
        raise ValueError(f"pooling must be 'cls', 'patches' or None where no prompts are among the final tokens, got {pooling!r}")
    if pooling is not None and owner is model:
        raise ValueError(f"pooling must be None for a model that holds its blocks itself, got {pooling!r} for {type(model).__name__}")
    if at_first == "replace" and _specials(model) > 1:
        raise ValueError(f"at_first must be 'insert' for a model with a distillation token, which would go first, got 'replace' for {type(model).__name__}")
    _refuse_a_second(model)
    return Prompts(
        model, blocks, owner, num_prompts=p, mode=mode, location=location, first=first, last=last, after=after, at_first=at_first, dropout=dropout,
        projection=projection, init=init, pooling=pooling, generator=generator,
    )  # fmt: skip


def _only(name: str, value: Any, allowed: Any, where: str) -> None:
    """Refuse an option that has no meaning there."""
    if value != allowed:
        raise ValueError(f"{name} must be {allowed!r} for {where}, got {_got(value)}")


def _refuse_a_second(model: nn.Module) -> None:
    for kind in (Prompts, PixelPrompts, SwinPrompts):
        if _attached(model, kind):
            raise ValueError("model must be without prompts, got one that has some: remove() those first")
