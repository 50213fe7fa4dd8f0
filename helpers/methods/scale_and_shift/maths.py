"""The arithmetic of gains and offsets on arrays."""

import torch
from torch import Tensor

from ._arguments import _channels, _floats, _got, _integer, _like, _number, _option

__all__ = ["compose", "interpolate", "merge_weights", "scale_and_shift", "unmerge_weights", "vit_scalars"]


def scale_and_shift(x, scale, shift, *, channel_dim: int | str):
    """y = scale * x + shift, channel by channel (paper, section 3).

    x: any shape; scale, shift: (C,) for the C channels of axis `channel_dim` (-1 for tokens (B, N, C), 1 for maps (B, C, H, W)). "guess" does as the official
    code: the last axis where it has C entries, else axis 1, which scales the wrong axis of a map as wide as it has channels. Returns y like x.
    """
    values = _floats("x", x, "numbers with a channel axis")
    gain = _channels("scale", scale)
    offset = _channels("shift", shift, gain, "scale").to(values.device)
    if isinstance(channel_dim, str):
        _option("channel_dim", channel_dim, ("guess", "an axis of x"))
        fitting = [axis for axis in (-1, 1) if -values.ndim <= axis < values.ndim and values.shape[axis] == len(gain)]
        if channel_dim != "guess" or not fitting:
            raise ValueError(f"channel_dim must be an axis with the {len(gain)} channels of scale, got {channel_dim!r} for x of shape {tuple(values.shape)}")
        axis = fitting[0]
    else:
        axis = _integer("channel_dim", channel_dim)
        if not -values.ndim <= axis < values.ndim:
            raise ValueError(f"channel_dim must be an axis of x, which has {values.ndim}, got {axis}")
        if values.shape[axis] != len(gain):
            raise ValueError(f"x must have the {len(gain)} channels of scale along channel_dim {axis}, got shape {tuple(values.shape)}")
    return _like(x, _scaled(values, gain, offset, axis))


def _scaled(x: Tensor, scale: Tensor, shift: Tensor, axis: int) -> Tensor:
    shape = [1] * x.ndim
    shape[axis] = -1
    return (x * scale.to(x.device).view(shape) + shift.to(x.device).view(shape)).to(x.dtype)


def merge_weights(weight, bias, scale, shift) -> tuple:
    """The weights of a layer that does what layer and pair did: W' = diag(scale) W, b' = scale * b + shift (paper, section 3).

    weight: (C, ...) with the output channels first: of a linear layer, a convolution of any groups, stride and padding, or a normalisation, where None
    stands for ones; bias: (C,) or None for zeros; scale, shift: (C,). Worked out in float32 at least, then of the dtype of the weight.
    """
    gain, offset, weight_, bias_ = _layer(weight, bias, scale, shift)
    like = scale if weight is None else weight
    return tuple(_like(like, part) for part in _merged(weight_, bias_, gain, offset))


def unmerge_weights(weight, bias, scale, shift) -> tuple:
    """The weights before `merge_weights`: W = W' / scale, b = (b' - shift) / scale. No entry of scale may be 0, which leaves nothing of the weights."""
    gain, offset, weight_, bias_ = _layer(weight, bias, scale, shift)
    _nonzero("scale", gain)
    like = scale if weight is None else weight
    return tuple(_like(like, part) for part in _merged(weight_, bias_, 1 / gain.double(), -offset.double() / gain.double()))


def _layer(weight, bias, scale, shift) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    gain = _channels("scale", scale)
    weight_ = None if weight is None else _floats("weight", weight, "numbers (C, ...) or None")
    if weight_ is not None and (weight_.ndim == 0 or len(weight_) != len(gain)):
        raise ValueError(f"weight must have the {len(gain)} channels of scale along its first axis, got {_got(weight_)}")
    if weight_ is not None and not torch.isfinite(weight_).all():
        raise ValueError("weight must be finite numbers (C, ...), got some that are not")
    bias_ = None if bias is None else _channels("bias", bias, gain, "scale")
    offset = _channels("shift", shift, gain, "scale")
    device = gain.device if weight_ is None else weight_.device
    return gain.to(device), offset.to(device), weight_, None if bias_ is None else bias_.to(device)


def _merged(weight: Tensor | None, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    dtype = scale.dtype if weight is None else weight.dtype
    wide = torch.promote_types(torch.promote_types(dtype, scale.dtype), torch.float32)
    wide = torch.float32 if scale.device.type == "mps" else wide
    gain, offset = scale.to(wide), shift.to(wide)
    rows = gain if weight is None else gain.view(-1, *[1] * (weight.ndim - 1)) * weight.to(wide)
    return rows.to(dtype), (offset if bias is None else gain * bias.to(wide) + offset).to(dtype)


def _nonzero(name: str, scale: Tensor) -> None:
    if (gone := (scale == 0).nonzero()).numel():
        raise ValueError(f"{name} must not be 0 anywhere: what was multiplied by it cannot be had back; channel {int(gone[0])} is 0")


def compose(scale_1, shift_1, scale_2, shift_2) -> tuple:
    """The one pair that does what two do in a row, the first one first: (scale_2 scale_1, scale_2 shift_1 + shift_2), each (C,)."""
    gain = _channels("scale_1", scale_1)
    rest = [_channels(name, value, gain, "scale_1") for name, value in (("shift_1", shift_1), ("scale_2", scale_2), ("shift_2", shift_2))]
    return _like(scale_1, (rest[1] * gain).to(gain.dtype)), _like(scale_1, (rest[1] * rest[0] + rest[2]).to(gain.dtype))


def interpolate(scale, shift, t: float) -> tuple:
    """The pair at strength t, each (C,): (1 + t (scale - 1), t shift). t = 0: the frozen network, 1: the tuned one; beyond, over-driven."""
    gain = _channels("scale", scale)
    t, offset = _number("t", t), _channels("shift", shift, gain, "scale")
    return _like(scale, (1 + t * (gain - 1)).to(gain.dtype)), _like(scale, (t * offset).to(gain.dtype))


def vit_scalars(*, width: int, depth: int, mlp_ratio: int = 4) -> int:
    """How many numbers the pairs of a ViT hold: 2 (L d (7 + r) + 2 d) for L blocks of width d and MLPs of width r d; 205,824 for ViT-B/16."""
    width, depth, mlp_ratio = (_integer(n, v, 1) for n, v in (("width", width), ("depth", depth), ("mlp_ratio", mlp_ratio)))
    return 2 * (depth * width * (7 + mlp_ratio) + 2 * width)
