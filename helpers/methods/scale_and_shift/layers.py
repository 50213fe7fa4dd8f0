"""One pair, how it is put behind a layer, and what a layer must be for a pair to go into its weights."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ._arguments import _got, _integer, _option
from .maths import _merged, _scaled

__all__ = ["Pair"]

SIGMA = 0.02  # of the official start
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_AFFINE = (nn.Linear, *_CONVS, *_NORMS)
_PLAIN = {getattr(kind, name) for kind in (*_AFFINE, nn.SyncBatchNorm) for name in ("forward", "_conv_forward") if hasattr(kind, name)}


class Pair(nn.Module):
    """One gain and one offset for each of C channels (the official code's SSF-ADA). x -> scale * x + shift along axis `channel_dim`, at `strength` 1.

    init: "identity" (ones, zeros) or "official" (normal around these, deviation 0.02). what: "both", or only one of "scale" and "shift" is trained and
    the other stays as it is without the pair. x: a floating-point tensor (TypeError) with C channels there (ValueError). dtype: a floating one.
    """

    def __init__(self, channels: int, *, channel_dim: int, what: str = "both", init: str = "identity", generator: torch.Generator | None = None,
                 device=None, dtype: torch.dtype = torch.float32):  # fmt: skip
        super().__init__()
        channels, self.channel_dim, self.strength = _integer("channels", channels, 1), _integer("channel_dim", channel_dim), 1.0
        _option("what", what, ("both", "scale", "shift")), _option("init", init, ("identity", "official")), _generator(generator)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point dtype of torch, got {dtype!r}")
        try:
            torch.empty(0, device=device)
        except Exception as error:  # no device's name, or one that is not in this machine: torch has a kind of error for each
            raise ValueError(f"device must be a device of this machine, got {device!r}") from error
        for name, centre in (("scale", 1.0), ("shift", 0.0)):
            values = torch.full((channels,), centre, device=device, dtype=dtype)
            if what not in ("both", name):
                self.register_buffer(name, values, persistent=False)
                continue
            if init == "official" and not values.is_meta:
                values += SIGMA * torch.randn(channels, generator=generator, device=generator.device if generator else device).to(values)
            self.register_parameter(name, nn.Parameter(values))

    def values(self) -> tuple[Tensor, Tensor]:
        """The pair at its strength t: (1 + t (scale - 1), t shift)."""
        t = self.strength
        return (self.scale, self.shift) if t == 1 else (1 + t * (self.scale - 1), t * self.shift)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x must be a floating-point tensor, got {_got(x)}")
        if not (-x.ndim <= self.channel_dim < x.ndim and x.shape[self.channel_dim] == len(self.scale)):
            raise ValueError(f"x must have {len(self.scale)} channels along axis {self.channel_dim}, got shape {tuple(x.shape)}")
        return _scaled(x, *self.values(), self.channel_dim)

    def extra_repr(self) -> str:
        return f"{len(self.scale)}, channel_dim={self.channel_dim}"


class _Behind:
    """The hook: a pair behind a layer. An object and no closure, so that a copy of the model has pairs of its own."""

    def __init__(self, pair: Pair):
        self.pair = pair

    def __call__(self, layer, args, output):
        return self.pair(output)


class _Weight(nn.Module):
    """The parametrisation of a weight: W -> diag(scale) W."""

    def __init__(self, pair: Pair):
        super().__init__()
        self.pair = pair

    def forward(self, weight: Tensor) -> Tensor:
        return _merged(weight, None, *self.pair.values())[0]


class _Bias(_Weight):
    """The parametrisation of a bias: b -> scale * b + shift."""

    def forward(self, bias: Tensor) -> Tensor:
        return _merged(bias, bias, *self.pair.values())[1]


def _generator(generator: Any) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {_got(generator)}")


def _pairs_of(layer: nn.Module) -> list[Pair]:
    """The pairs that a layer carries."""
    found = [hook.pair for hook in layer._forward_hooks.values() if isinstance(hook, _Behind)]
    if parametrize.is_parametrized(layer):
        found += [part.pair for several in layer.parametrizations.values() for part in several if isinstance(part, _Weight)]
    return list(dict.fromkeys(found))


def _odd(layer: nn.Module) -> str:
    """Why a gain on weight and bias of an affine layer is no gain on what it gives; "" where it is one."""
    kind = parametrize.type_before_parametrizations(layer)
    listed = isinstance(layer, nn.LayerNorm) and kind.__module__.startswith("transformers.") and hasattr(layer, "data_format")  # ConvNeXt's: turns axes
    if "forward" in vars(layer) or not (listed or {kind.forward, getattr(kind, "_conv_forward", kind.forward)} <= _PLAIN):
        return f"a {kind.__name__} with a forward of its own"
    for name in ("weight", "bias"):
        parts = layer.parametrizations[name] if parametrize.is_parametrized(layer, name) else None
        if not (name in layer._parameters if parts is None else all(isinstance(part, _Weight) for part in parts)):
            return f"a {kind.__name__} whose {name} is made from others (weight or spectral norm, pruning)"
    return ""


def _earlier_hook(layer: nn.Module) -> bool:
    """Whether somebody's forward hook, which may change the output, stands before the layer's pair, or alone."""
    return bool(layer._forward_hooks) and not isinstance(next(iter(layer._forward_hooks.values())), _Behind)


def _width(layer: nn.Module) -> int:
    names = ("out_features", "out_channels", "num_channels", "num_features")
    return layer.normalized_shape[-1] if isinstance(layer, nn.LayerNorm) else next(getattr(layer, name) for name in names if hasattr(layer, name))


def _ensure(name: str, layer: nn.Module, model: nn.Module) -> list[tuple[str, str]]:
    """Give a layer the weight (ones, of a normalisation) and the bias (zeros) that it lacks; returns the names of what was made."""
    like, made = next(layer.parameters(), next(model.parameters(), torch.zeros(()))), []
    for part, value in (("weight", 1.0), ("bias", 0.0)):
        if getattr(layer, part) is None:
            values = torch.full((_width(layer),), value, device=like.device, dtype=like.dtype)
            layer.register_parameter(part, nn.Parameter(values, requires_grad=False))
            made.append((name, part))
    return made


def _unmake(layers: dict[str, nn.Module], made: Sequence[tuple[str, str]]) -> None:
    for name, part in made:
        if part in layers[name]._parameters:
            setattr(layers[name], part, None)


def _span(parameter: Tensor) -> tuple[str, int, int]:
    """The device and the bytes that a parameter lies in; without numbers, the parameter itself."""
    if nn.parameter.is_lazy(parameter) or parameter.is_meta or not parameter.numel():
        return "meta", id(parameter), id(parameter) + 1
    reach = 1 + sum((size - 1) * step for size, step in zip(parameter.shape, parameter.stride()))
    return str(parameter.device), parameter.data_ptr(), parameter.data_ptr() + reach * parameter.element_size()


def _shared(model: nn.Module, names: Collection[str]) -> str | None:
    """Where a weight of one of the named layers is used beside this layer, or lies in the same memory as another, as "a and b"."""
    parts = [(name.partition(".parametrizations")[0], parameter) for name, module in model.named_modules() for parameter in module.parameters(recurse=False)]
    spans = sorted((*_span(parameter), name) for name, parameter in parts)
    users: list[set[str]] = []
    device, reached = "", 0
    for where, begin, end, name in spans:
        if where == device and begin < reached:
            users[-1].add(name)
        else:
            device, reached = where, 0
            users.append({name})
        reached = max(reached, end)
    found = next((sorted(several) for several in users if len(several) > 1 and several & set(names)), None)
    return found and " and ".join(found)
