"""Scaling and shifting your features (SSF): one gain and one offset for each channel behind every affine layer of a frozen network, and no trace of them after.

Lian, Zhou, Feng and Wang, "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022, arXiv 2210.08823. Where the paper and
the official code differ, options show both. For transformers' ViT (and what is built like it: CLIP's vision tower), Swin and ConvNeXt, for MLPs and CNNs:

    pairs = add_scale_shift(model)                            # freezes the model; pairs.parameters() and the head are what is trained
    optimiser = torch.optim.AdamW(parameter_groups(pairs), lr=1e-2)
    ...
    pairs.merge()                                             # the plain model again, with other weights

Layers are found by their class. `style="hooks"` scales what a layer gives (to read); `style="parametrizations"` scales the layer's weight and bias on the fly
(to ship). The functions on arrays take tensors, arrays and lists; a result is of the kind and dtype of the first argument and lies where that lies. Bad
arguments raise ValueError or TypeError that names the argument, before any work is done.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from numbers import Integral, Real
from types import MethodType
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = [
    "GROUPS", "Pair", "Point", "ScaleShift", "add_scale_shift", "compose", "insertion_points", "interpolate", "merge_weights", "parameter_groups",
    "scale_and_shift", "unmerge_weights", "vit_scalars",
]  # fmt: skip

GROUPS = ("patch", "norm", "qkv", "proj", "mlp", "conv")  # what insertion points are called by, beside their own names
SIGMA = 0.02  # of the official start
_MARK = "_merged_scale_shift"  # on a model: what was merged into it, and which weights it had not before
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HEADS = ("classifier", "head", "fc")  # found at the model's root; the official code trains what is called head
_QUERIES = ("q_proj", "k_proj", "v_proj", "query", "key", "value", "qkv", "in_proj", "to_q", "to_k", "to_v")


# ------------------------------------------------------------------------------------------------------------------------- arguments


def _masked(value: Any) -> bool:
    """Whether something of a numpy masked array, or of a list of them, is masked: numpy would show what lies behind the mask."""
    return np.ma.is_masked(value) or (isinstance(value, (list, tuple)) and any(isinstance(v, np.ma.MaskedArray) and np.ma.is_masked(v) for v in value))


def _got(value: Any) -> str:
    """What came, in a few words: "float64 array of shape (3, 4)", "'nearst'", "a generator"."""
    if _masked(value):
        return "masked entries: leave their rows out, or put numbers in their place with .filled(value)"
    if isinstance(value, (Tensor, np.ndarray)):
        place = f" on {value.device.type}" if isinstance(value, Tensor) and value.device.type != "cpu" else ""
        return f"{str(value.dtype).removeprefix('torch.')} {'tensor' if isinstance(value, Tensor) else 'array'} of shape {tuple(value.shape)}{place}"
    if value is None or isinstance(value, (bool, str, bytes, Real, complex, np.generic, list, tuple, set, dict)):
        return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    return f"a {type(value).__name__}"


def _tensor(name: str, value: Any, expected: str, *, detach: bool = True) -> Tensor:
    """Any array-like of real numbers as a tensor, on the device it came on; numpy, lists and pandas (by position) land on the CPU."""
    if isinstance(value, Tensor):
        hollow = value.is_meta and type(value) in (Tensor, torch.nn.Parameter)  # a shape without numbers
        if hollow or value.layout != torch.strided or value.is_complex() or value.is_quantized or value.dtype == torch.bool:
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        return value.detach() if detach else value
    if value is None or isinstance(value, (str, bytes, Mapping, set, frozenset)):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            return _tensor(name, torch.stack([torch.as_tensor(v) for v in value]), expected, detach=detach)
        array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        array = np.asarray(array.tolist()) if array.dtype == object else array  # columns of several dtypes
    except Exception as error:  # ragged lists, what only looks like an array: whatever numpy makes of it, the argument is named
        raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
    if array.dtype.kind not in "iuf" or _masked(value):
        raise TypeError(f"{name} must be {expected}, got {_got(value if array.dtype == object or _masked(value) else array)}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.dtype.itemsize == 8 and array.size and array.max() >= 2**63:
            raise ValueError(f"{name} must be {expected} below 2**63, got {array.max()}")
        array = array.astype(np.int64)
    array = array.astype(np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def _like(value: Any, result: Tensor) -> Any:
    """`result` as the kind that `value` is: a tensor on its device; for numpy, lists and pandas an array."""
    if isinstance(value, Tensor):
        return (result.float() if value.device.type == "mps" and result.dtype == torch.float64 else result).to(value.device)  # mps has no float64
    return (result.float() if result.dtype == torch.bfloat16 else result).detach().cpu().numpy()


def _option(name: str, value: Any, options: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in options:
        raise (ValueError if isinstance(value, str) else TypeError)(f"{name} must be one of {', '.join(map(repr, options))}, got {_got(value)}")
    return str(value)


# --- checks of arguments: the same text in every method that checks so, since a method is copied alone ---


def _integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    expected = "an integer" + (f" in {least}..{most}" if None not in (least, most) else "" if least is None else f" >= {least}")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return int(value)


def _number(name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> float:
    expected = "a finite number" + (f" in [{least:g}, {most:g}]" if most < math.inf else f" >= {least:g}" if least > -math.inf else "")
    expected += f" > {above:g}" if above > -math.inf else ""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if not (math.isfinite(value) and least <= value <= most and value > above):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return float(value)


def _choice(name: str, value: Any, choices: Sequence) -> Any:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    return value


# --- end of the checks ---


def _floats(name: str, value: Any, expected: str) -> Tensor:
    """Any array-like of real numbers as a tensor of a floating dtype; gradients flow."""
    given = _tensor(name, value, expected, detach=False)
    return given if given.is_floating_point() else given.to(torch.get_default_dtype())


def _channels(name: str, value: Any, like: Tensor | None = None, of: str = "") -> Tensor:
    """A gain or an offset: finite numbers (C,), as many as `like` has."""
    given = _floats(name, value, "finite numbers (C,)")
    if given.ndim != 1 or not len(given) or not torch.isfinite(given).all():
        raise ValueError(f"{name} must be finite numbers (C,), got {_got(given) if given.ndim != 1 or not len(given) else 'some that are not'}")
    if like is not None and len(given) != len(like):
        raise ValueError(f"{name} must have the {len(like)} channels of {of}, got {len(given)}")
    return given if like is None else given.to(like.device)


def _module(name: str, value: Any) -> nn.Module:
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {_got(value)}")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    """One name or several."""
    several = (value,) if isinstance(value, str) else value
    if not isinstance(several, Collection) or isinstance(several, (bytes, Mapping, Tensor, np.ndarray)) or not all(isinstance(v, str) for v in several):
        raise TypeError(f"{name} must be a name or a collection of names, got {_got(value)}")
    if not len(several) or "" in several:
        raise ValueError(f"{name} must hold a name or more, got {_got(value)}")
    return tuple(map(str, several))


# ------------------------------------------------------------------------------------------------------------------------ the maths


def scale_and_shift(x, scale, shift, *, channel_dim: int | str):
    """y = scale * x + shift, channel by channel (paper, eq. 3).

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
    """The weights of a layer that does what layer and pair did: W' = diag(scale) W, b' = scale * b + shift (paper, eq. 5).

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


# -------------------------------------------------------------------------------------------------------------------- where pairs go


class Point(NamedTuple):
    """A place for a pair: behind the output of `module`, a name in the model; `block`: the transformer block or stage that it lies in, "" outside."""

    name: str
    module: str
    group: str
    block: str
    channels: int
    channel_dim: int
    mergeable: bool = True


def insertion_points(model: nn.Module, *, where="all", layout: str = "paper", head="auto") -> list[Point]:
    """The places for pairs in a model, in the order of its modules: behind every linear layer, convolution and normalisation that is not of the head.

    where: "all", or a group of GROUPS, the name of a module (with all that lies in it), or several of these: first convolution ("patch"), normalisations,
    projections to queries, keys and values, the attention's output, other linear layers ("mlp"), other convolutions. layout: "paper" has a pair behind the
    normalisation of Swin's patch merging and ConvNeXt's downsampling; "official" does as the code, which skips these, and whose ConvNeXt has a last pair
    behind the last residual sum (not to be merged) in place of one behind the last normalisation. head: names of the modules that are left out and
    trained whole; "auto" takes `classifier`, `head` or `fc` of the model, None nothing. Poolers and CLIP's projection are left out and stay frozen.
    """
    _module("model", model)
    official = _option("layout", layout, ("paper", "official")) == "official"
    heads, modules = _heads(model, head), dict(model.named_modules())
    points, patched, last_stage = [], False, None
    for name, layer in modules.items():
        parents = [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]  # the nearest first
        if not name or any(part in heads for part in (name, *parents)) or name.rsplit(".", 1)[-1] == "visual_projection":
            continue
        kinds = [type(modules[parent]).__name__ for parent in (*parents, "")]
        near = next((kind for kind in kinds if kind not in ("ModuleList", "Sequential")), "")
        if isinstance(layer, nn.MultiheadAttention):
            raise ValueError(f"model must compute its attention with linear layers of its own, got a torch.nn.MultiheadAttention at {name}, which calls none")
        if type(layer).__name__ == "ConvNextStage":
            last_stage = name
        if not isinstance(layer, (nn.Linear, *_CONVS, *_NORMS)) or any(kind.endswith("Pooler") for kind in kinds):
            continue
        if near.endswith("PatchMerging") and (official or isinstance(layer, nn.Linear)):
            continue  # the linear layer has no bias, and no pair in the paper either
        if official and near in ("ConvNextStage", "ConvNextModel"):
            continue
        lists = [parent for parent in parents if isinstance(modules[parent.rpartition(".")[0]], (nn.ModuleList, nn.Sequential))]
        points.append(_point(name, layer, "patch" if not patched else "conv", lists[0] if lists else "", any("Attention" in kind for kind in kinds)))
        patched = patched or isinstance(layer, _CONVS)
    if official and last_stage is not None:
        width = points[-1].channels
        points.append(Point(f"{last_stage}.output", last_stage, "conv", last_stage, width, 1, mergeable=False))
    return _selected("where", where, points)


def _point(name: str, layer: nn.Module, conv: str, block: str, attention: bool) -> Point:
    if isinstance(layer, nn.LayerNorm):
        if len(layer.normalized_shape) != 1:
            raise ValueError(f"model must normalise one axis, got a LayerNorm over {tuple(layer.normalized_shape)} at {name}")
        first = getattr(layer, "data_format", "") == "channels_first"
        return Point(name, name, "norm", block, layer.normalized_shape[0], 1 if first else -1)
    if isinstance(layer, _NORMS):
        return Point(name, name, "norm", block, layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features, 1)
    if isinstance(layer, nn.Linear):
        group = "mlp" if not attention else "qkv" if name.rpartition(".")[2] in _QUERIES else "proj"
        return Point(name, name, group, block, layer.out_features, -1)
    return Point(name, name, conv, block, layer.out_channels, 1 - layer.weight.ndim)


def _heads(model: nn.Module, head: Any) -> tuple[str, ...]:
    if head is None:
        return ()
    if isinstance(head, str) and head == "auto":
        return tuple(name for name in _HEADS if isinstance(getattr(model, name, None), nn.Module))
    known = {name for name, _ in model.named_modules()}
    for name in (names := _names("head", head)):
        if name not in known:
            raise ValueError(f"head must name modules of the model, got {name!r}")
    return names


def _selected(argument: str, wanted: Any, points: list[Point]) -> list[Point]:
    """Those of the points that are of a wanted group, have a wanted name or lie in a module of that name."""
    if not points:
        raise ValueError("model must have linear layers, convolutions or normalisations that are not of its head, got none")
    names = _names(argument, wanted)
    chosen = set()
    for name in names:
        found = [p for p in points if name in ("all", p.group) or f"{p.name}.".startswith(f"{name}.")]
        if not found:
            groups = ", ".join(group for group in GROUPS if any(p.group == group for p in points))
            raise ValueError(f"{argument} must be 'all', a group of this model ({groups}) or the name of a layer such as {points[0].name!r}, got {name!r}")
        chosen.update(found)
    return [point for point in points if point in chosen]


# --------------------------------------------------------------------------------------------------------------------------- modules


class Pair(nn.Module):
    """One gain and one offset for each of C channels (the official code's SSF-ADA). x -> scale * x + shift along axis `channel_dim`, at `strength` 1.

    init: "identity" (ones, zeros) or "official" (normal around these, deviation 0.02). what: "both", or only one of "scale" and "shift" is trained and
    the other stays as it is without the pair.
    """

    def __init__(self, channels: int, *, channel_dim: int, what: str = "both", init: str = "identity", generator: torch.Generator | None = None,
                 device=None, dtype: torch.dtype = torch.float32):  # fmt: skip
        super().__init__()
        channels, self.channel_dim, self.strength = _integer("channels", channels, 1), _integer("channel_dim", channel_dim), 1.0
        _option("what", what, ("both", "scale", "shift")), _option("init", init, ("identity", "official")), _generator(generator)
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


def _pair_of(layer: nn.Module) -> Pair | None:
    """The pair that a layer carries."""
    hooks = [hook.pair for hook in layer._forward_hooks.values() if isinstance(hook, _Behind)]
    if hooks or not parametrize.is_parametrized(layer):
        return hooks[0] if hooks else None
    return next((p.pair for several in layer.parametrizations.values() for p in several if isinstance(p, _Weight)), None)


def _frozen_train(self: nn.Module, mode: bool = True) -> nn.Module:
    """In place of a frozen model's `train`: dropout and batch norm stay as at inference, only the heads follow, and the flag of the model itself."""
    nn.Module.train(self, False)
    self.training = bool(mode)
    for name in vars(self)["_scale_shift_heads"]:
        self.get_submodule(name).train(mode)
    return self


class ScaleShift(nn.Module):
    """The pairs of a model, as `add_scale_shift` leaves them. `parameters()` are the pairs', `state_dict()` what one task stores beside its head."""

    def __init__(self, model: nn.Module, points: list[Point], heads: tuple[str, ...], style: str, what: str, init: str, generator):
        super().__init__()
        vars(self).update(model=model, points=points, heads=heads, style=style, _id=uuid4().hex, _made=[])  # the model is no part of this module
        self.pairs = nn.Module()
        for point in points:
            layer, at = model.get_submodule(point.module), self.pairs
            weight = next(layer.parameters(), next(model.parameters(), torch.zeros(())))
            *path, last = point.name.split(".")
            for part in path:
                if part not in at._modules:
                    at.add_module(part, nn.Module())
                at = at._modules[part]
            dtype = torch.promote_types(weight.dtype, torch.float32)
            at.add_module(last, Pair(point.channels, channel_dim=point.channel_dim, what=what, init=init, generator=generator,
                                     device=weight.device, dtype=dtype))  # fmt: skip
        vars(self)["_wanted"] = {name: p.requires_grad for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(name.startswith(f"{head}.") for head in heads))
        vars(self).update(_training=model.training, _trained_by=vars(model).get("train"))
        vars(model).update(_scale_shift_heads=heads, train=MethodType(_frozen_train, model))
        model.train(model.training)
        self._attach()

    def named_pairs(self) -> Iterator[tuple[str, Pair]]:
        """(name of the place, pair), in the order of the model."""
        for point in self.points:
            yield point.name, self.pairs.get_submodule(point.name)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The pairs' parameters and the heads'."""
        return [*self.parameters(), *(p for head in self.heads for p in self.model.get_submodule(head).parameters())]

    def set_strength(self, t: float, *, layers="all") -> None:
        """The strength t of pairs, 1 to begin with: gains 1 + t (scale - 1) and offsets t shift. t = 0 switches off; layers: as `where`, block names too."""
        t = _number("t", t)
        self._not_merged("set_strength")
        for point in _selected("layers", layers, self.points):
            self.pairs.get_submodule(point.name).strength = t

    @torch.no_grad()
    def merge(self, model: nn.Module | None = None) -> nn.Module:
        """Put the pairs, at their strengths, into the weights of their layers, and take them off. Returns the model, whose outputs stay as they were.

        model: another model of the same architecture, without pairs, to be merged into; this one then stays as it is. A layer without bias gets one (and a
        normalisation without weights gets both), as new keys of the state dict; `unmerge` takes them away. Refused: pairs behind no affine layer, layers
        in training mode, weights that several layers share, and merging twice.
        """
        target = self._target(model)
        if self._id in vars(target).get(_MARK, {}):
            raise ValueError("merge() must be called once for a model, got one whose weights hold these pairs already; unmerge() first")
        layers = self._layers(target)
        for point, layer in layers:
            if not point.mergeable:
                raise ValueError(f"merge() must find an affine layer before each pair, got the pair at {point.name}, which follows a residual sum")
            _mergeable(point, layer)
        if target is self.model:
            self._detach()
        made = [name for point, _ in layers for name in _ensure(point.module, target)]
        for point, layer in layers:
            weight, bias = _merged(layer.weight, layer.bias, *(v.to(layer.weight.device) for v in self.pairs.get_submodule(point.name).values()))
            layer.weight.copy_(weight), layer.bias.copy_(bias)
        vars(target).setdefault(_MARK, {})[self._id] = made
        return target

    @torch.no_grad()
    def unmerge(self, model: nn.Module | None = None) -> nn.Module:
        """Divide what `merge` put into the weights out again, up to rounding, and (for the own model) put the pairs back. No gain may be 0."""
        target = self._target(model)
        merged = vars(target).get(_MARK, {})
        if list(merged)[-1:] != [self._id]:
            later = "pairs that were merged later" if self._id in merged else "none"
            raise ValueError(f"unmerge() must find these pairs merged last into the model's weights, got {later}")
        layers = [(layer, self.pairs.get_submodule(point.name).values(), point) for point, layer in self._layers(target)]
        for _, (scale, _), point in layers:
            _nonzero(f"the scale at {point.name}", scale)
        for layer, (scale, shift), _ in layers:
            gain = scale.double() if scale.device.type != "mps" else scale
            weight, bias = _merged(layer.weight, layer.bias, 1 / gain, -shift.to(gain) / gain)
            layer.weight.copy_(weight), layer.bias.copy_(bias)
        _unmake(target, merged.pop(self._id))
        if target is self.model:
            self._attach()
        return target

    def remove(self) -> None:
        """Take the pairs off: the model is as it was before them, trained head aside. What is merged stays merged."""
        if self._id not in vars(self.model).get(_MARK, {}):
            self._detach()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._wanted.get(name, True))
        held = vars(self.model)
        if getattr(held.get("train"), "__func__", None) is _frozen_train:
            del held["train"], held["_scale_shift_heads"]
            if self._trained_by is not None:
                held["train"] = self._trained_by
        self.model.train(self._training)

    def __enter__(self) -> "ScaleShift":
        return self

    def __exit__(self, *_) -> None:
        self.remove()

    def _not_merged(self, call: str) -> None:
        if self._id in vars(self.model).get(_MARK, {}):
            raise ValueError(f"{call}() must find the pairs on the model, got pairs that are merged into its weights; unmerge() first")

    def _target(self, model: Any) -> nn.Module:
        return self.model if model is None else _module("model", model)

    def _layers(self, target: nn.Module) -> list[tuple[Point, nn.Module]]:
        """The layers of the points in a model, once they are seen to fit and, in another model, to be free of pairs."""
        known, found = dict(target.named_modules()), []
        for point in self.points:
            layer = known.get(point.module)
            if layer is None or (point.mergeable and (not isinstance(layer, (nn.Linear, *_CONVS, *_NORMS)) or _width(layer) != point.channels)):
                raise ValueError(f"model must have a layer of {point.channels} channels at {point.module}, got {'none' if layer is None else layer}")
            if target is not self.model and _pair_of(layer) is not None:
                raise ValueError(f"model must carry no pairs of its own, got one at {point.module}")
            found.append((point, layer))
        if shared := _shared(target, [point.module for point in self.points if point.mergeable]):
            raise ValueError(f"model must not share the weights that a pair is merged into, got one that is used at {shared}")
        return found

    def _attach(self) -> None:
        for point in self.points:
            layer, pair = self.model.get_submodule(point.module), self.pairs.get_submodule(point.name)
            if self.style == "hooks":
                layer.register_forward_hook(_Behind(pair))
                continue
            with torch.no_grad():
                self._made.extend(_ensure(point.module, self.model))
            parametrize.register_parametrization(layer, "weight", _Weight(pair), unsafe=True)
            parametrize.register_parametrization(layer, "bias", _Bias(pair), unsafe=True)

    def _detach(self) -> None:
        own = {id(pair) for _, pair in self.named_pairs()}
        for point in self.points:
            layer = self.model.get_submodule(point.module)
            for key, hook in list(layer._forward_hooks.items()):
                if isinstance(hook, _Behind) and id(hook.pair) in own:
                    del layer._forward_hooks[key]
            if self.style == "parametrizations" and parametrize.is_parametrized(layer):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
                parametrize.remove_parametrizations(layer, "bias", leave_parametrized=False)
        _unmake(self.model, self._made)
        self._made.clear()


def _width(layer: nn.Module) -> int:
    return _point("", layer, "conv", "", False).channels


def _mergeable(point: Point, layer: nn.Module) -> None:
    if layer.training:
        raise ValueError(f"merge() must find the model in eval mode, got {type(layer).__name__} at {point.module} in training mode; call model.eval()")


def _ensure(name: str, model: nn.Module) -> list[tuple[str, str]]:
    """Give a layer the weight (ones, of a normalisation) and the bias (zeros) that it lacks; returns the names of what was made."""
    layer, made = model.get_submodule(name), []
    like = next(layer.parameters(), next(model.parameters(), torch.zeros(())))
    for part, value in (("weight", 1.0), ("bias", 0.0)):
        if getattr(layer, part) is None:
            values = torch.full((_width(layer),), value, device=like.device, dtype=like.dtype)
            layer.register_parameter(part, nn.Parameter(values, requires_grad=False))
            made.append((name, part))
    return made


def _unmake(model: nn.Module, made: Sequence[tuple[str, str]]) -> None:
    for name, part in made:
        setattr(model.get_submodule(name), part, None)


def _shared(model: nn.Module, names: Collection[str]) -> str | None:
    """Where a weight of one of the named layers is used beside this layer, as "a and b"."""
    users: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(name)
    found = next((sorted(several) for several in users.values() if len(several) > 1 and several & set(names)), None)
    return found and " and ".join(found)


def add_scale_shift(
    model: nn.Module, *, where="all", what: str = "both", style: str = "hooks", init: str = "identity", layout: str = "paper", head="auto",
    generator: torch.Generator | None = None,
) -> ScaleShift:  # fmt: skip
    """Put a pair behind every affine layer of a model and freeze the rest but the head; the model stays in eval mode, also under `model.train()`.

    where, layout, head: see `insertion_points`; what, init: see `Pair` ("official" draws from `generator`). style: "hooks" scale outputs, and the model's
    state dict stays as it is; "parametrizations" scale weights and biases (torch.nn.utils.parametrize), which costs less the more tokens there are, but
    torch lets copies of a parametrised model share a class: copy before. Both give the same numbers. Refused: a model that carries pairs already,
    parametrised layers, and with "parametrizations" a place behind no affine layer and weights that several layers share.
    """
    points = insertion_points(model, where=where, layout=layout, head=head)
    _option("what", what, ("both", "scale", "shift")), _option("init", init, ("identity", "official")), _generator(generator)
    _option("style", style, ("hooks", "parametrizations"))
    for point in points:
        layer = model.get_submodule(point.module)
        if _pair_of(layer) is not None:
            raise ValueError(f"model must carry no pairs yet, got one at {point.module}; call remove() or merge() of these first")
        if parametrize.is_parametrized(layer):
            raise ValueError(f"model must have plain weights where pairs go, got a parametrised layer at {point.module}")
        if style == "parametrizations" and not point.mergeable:
            raise ValueError(f"style must be hooks for the pair at {point.name}, which follows a residual sum and no affine layer, got 'parametrizations'")
    if style == "parametrizations" and (shared := _shared(model, [point.module for point in points])):
        raise ValueError(f"model must not share the weights that a pair scales, got one that is used at {shared}")
    return ScaleShift(model, points, _heads(model, head), style, what, init, generator)


def parameter_groups(pairs: ScaleShift, *, weight_decay: float = 0.05) -> list[dict]:
    """Groups for AdamW: the head's matrices decay, vectors do not: neither gains (decay would pull them to 0, not to 1) nor offsets (official code)."""
    if not isinstance(pairs, ScaleShift):
        raise TypeError(f"pairs must be what add_scale_shift gave, got {_got(pairs)}")
    weight_decay = _number("weight_decay", weight_decay, 0)
    parameters = [p for p in pairs.trainable_parameters() if p.requires_grad]
    groups = [([p for p in parameters if p.ndim > 1], weight_decay), ([p for p in parameters if p.ndim <= 1], 0.0)]
    return [{"params": several, "weight_decay": decay} for several, decay in groups if several]
