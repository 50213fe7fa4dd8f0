"""Prompts in the picture itself: more channels, or a border."""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _got
from ._starts import _pixels
from .frozen import Attached, _first_conv, _image_size, _is
from .prompts import init_bound

__all__ = ["PixelPrompts"]


class PixelPrompts(Attached):
    """Prompts in the picture: channels beside the three ("concat-channel"), or a border around it ("pad"). `add_prompts` makes them; any network that begins
    with a convolution over `pixel_values` can have them, a ConvNet too.

    concat-channel: values (1, p, H, W); the patch convolution gets p more input channels, and its weight and bias, the pre-trained ones included, are trained.
    pad: rows (1, 3, 2 p, W + 2 p) above and below, columns (1, 3, H, 2 p) left and right; the picture grows to H + 2 p, position embeddings are interpolated.
    Both take pictures (B, 3, H, W) of the model's own size alone; others raise a ValueError.
    """

    def __init__(self, model, owner, *, num_prompts, location, init, generator):
        super().__init__(model)
        conv, embedding = _first_conv(model)
        self.location, self.num_prompts, self._conv = location, num_prompts, (conv,)
        (height, width), p, channels = _image_size(model, embedding), num_prompts, conv.in_channels
        self.size, bound = (height, width), init_bound(conv.kernel_size[0], conv.out_channels)
        if location == "concat-channel":
            if conv.groups > 1:
                raise ValueError(f"model must begin with a convolution of one group for location 'concat-channel', got one of {conv.groups} groups")
            self.values = nn.Parameter(_pixels(init, (1, p, height, width), bound, generator))
            fresh = torch.empty(conv.out_channels, p, *conv.kernel_size)
            reach = 1 / math.sqrt((channels + p) * math.prod(conv.kernel_size))  # as a new Conv2d of 3 + p channels starts
            fresh.uniform_(-reach, reach, generator=generator)
            self.weight = nn.Parameter(torch.cat([conv.weight.detach(), fresh.to(conv.weight)], 1))
            self.bias = nn.Parameter(conv.bias.detach().clone()) if conv.bias is not None else None
        else:
            side, vit = conv.kernel_size[0], conv.kernel_size == conv.stride
            if any(_is(part, ("HieraPreTrainedModel",)) for part in model.modules()):
                raise ValueError(f"model must take pictures of other sizes for location 'pad', got {type(model).__name__}, whose stages fit one size")
            resizing = [part for part in model.modules() if "interpolate_pos_encoding" in inspect.signature(part.forward).parameters]
            if resizing and height != width:
                raise ValueError(f"model must read square pictures for location 'pad', as its positions are interpolated, got {height} x {width}")
            if vit and any((length + 2 * p) % side for length in self.size):
                raise ValueError(f"num_prompts must make H + 2 p a multiple of the patch size {side}, got {p} for pictures of {height} x {width}")
            if not isinstance(init, str):
                raise TypeError(f"init must be a name for location 'pad', got {_got(init)}")
            self.rows = nn.Parameter(_pixels(init, (1, channels, 2 * p, width + 2 * p), bound, generator))
            self.columns = nn.Parameter(_pixels(init, (1, channels, height, 2 * p), bound, generator))
        self.to(conv.weight)
        self._freeze(model, owner)
        if location == "concat-channel":
            self._handles.append(conv.register_forward_hook(self._wider, prepend=True))  # other hooks see what it gives
        else:
            self._handles.append(model.register_forward_pre_hook(self._bordered, with_kwargs=True))
            self._handles += [part.register_forward_pre_hook(self._resized, with_kwargs=True) for part in resizing]

    def _wider(self, conv: nn.Conv2d, args: tuple, output: Tensor) -> Tensor:
        self._fits(args[0])
        picture = torch.cat([args[0], self.values.to(args[0]).expand(len(args[0]), -1, -1, -1)], 1)
        bias = None if self.bias is None else self.bias.to(picture)
        return conv._conv_forward(picture, self.weight.to(picture), bias)  # with the padding of its own

    def _fits(self, picture: Any) -> None:
        if not isinstance(picture, Tensor) or picture.ndim != 4 or tuple(picture.shape[-2:]) != self.size:
            shape = f"shape {tuple(picture.shape)}" if isinstance(picture, Tensor) else _got(picture)
            raise ValueError(f"pixel_values must be (B, {self._conv[0].in_channels}, {self.size[0]}, {self.size[1]}), got {shape}")

    def _resized(self, part: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "interpolate_pos_encoding": True}

    def _bordered(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        kwargs, name = dict(kwargs), "pixel_values"
        picture, args = (kwargs.pop(name), args) if name in kwargs else (args[0] if args else None, args[1:])
        self._fits(picture)
        p, (rows, columns) = self.num_prompts, (part.to(picture).expand(len(picture), -1, -1, -1) for part in (self.rows, self.columns))
        middle = torch.cat([columns[..., :p], picture, columns[..., p:]], -1)
        return (torch.cat([rows[..., :p, :], middle, rows[..., p:, :]], -2), *args), kwargs
