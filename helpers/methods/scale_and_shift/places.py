"""The places for pairs in a model."""

from typing import Any, NamedTuple

from torch import nn

from ._arguments import _module, _names, _option
from .layers import _AFFINE, _CONVS, _NORMS, _odd

__all__ = ["GROUPS", "Point", "insertion_points"]

GROUPS = ("patch", "norm", "qkv", "proj", "mlp", "conv")  # what insertion points are called by, beside their own names
_HEADS = ("classifier", "head", "fc", "cls_classifier", "distillation_classifier")  # at the model's root; the official code trains what is called head
_WRAPPED = ("module", "_orig_mod", "base_model", "model")  # what the only child of a wrapper is called: of DataParallel, torch.compile, peft
_QUERIES = ("q_proj", "k_proj", "v_proj", "query", "key", "value", "qkv", "in_proj", "to_q", "to_k", "to_v")


class Point(NamedTuple):
    """A place for a pair: behind the output of `module`, a name in the model; `block`: the transformer block or stage that it lies in, "" outside;
    `mergeable`: whether the pair can go into the weights of the module."""

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
    trained whole; "auto" takes `classifier`, `head` or `fc` (DeiT's two) of the model or of what a wrapper holds (DataParallel, torch.compile, peft), None
    nothing. Poolers, attention poolers among them, and CLIP's projection are left out and stay frozen.

    Layers are found by the classes nn.Linear, Conv1d to 3d, LayerNorm, GroupNorm and BatchNorm. No others get a pair: InstanceNorm, RMSNorm, transposed
    convolutions, nn.Bilinear and GPT-2's Conv1D among them. A layer with a forward of its own, or with a weight that is made from others, gets one that
    cannot be merged. Raises ValueError for unknown names, no layers, lazy layers before their first call, a LayerNorm over several axes, and a
    torch.nn.MultiheadAttention that is neither in a pooler nor in `head`; TypeError for other kinds.
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
        pooler = any(kind.endswith("Pooler") or "Pooling" in kind for kind in kinds)
        if isinstance(layer, nn.MultiheadAttention) and not pooler:
            raise ValueError(f"model must compute its attention with linear layers of its own, got a torch.nn.MultiheadAttention at {name}, which calls none; "
                             f"head=[{name!r}] leaves it out, and it is trained whole")  # fmt: skip
        if type(layer).__name__ == "ConvNextStage":
            last_stage = name
        if not isinstance(layer, _AFFINE) or pooler:
            continue
        if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
            raise ValueError(f"model must have weights, got a lazy layer at {name}, which has some after the model's first call")
        if near.endswith("PatchMerging") and (official or isinstance(layer, nn.Linear)):
            continue  # the linear layer has no bias, and no pair in the paper either
        if official and near in ("ConvNextStage", "ConvNextModel"):
            continue
        lists = [parent for parent in parents if isinstance(modules[parent.rpartition(".")[0]], (nn.ModuleList, nn.Sequential))]
        point = _point(name, layer, "patch" if not patched else "conv", lists[0] if lists else "", any("Attention" in kind for kind in kinds))
        points.append(point._replace(mergeable=not _odd(layer)))
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
        path, inner = "", model
        while len(inner._modules) == 1 and not inner._parameters and (name := next(iter(inner._modules))) in _WRAPPED:
            path, inner = f"{path}{name}.", inner._modules[name]
        return tuple(f"{path}{name}" for name in _HEADS if isinstance(found := inner._modules.get(name), nn.Module) and not _pools(found))
    known = {name for name, _ in model.named_modules()}
    for name in (names := _names("head", head)):
        if name not in known:
            raise ValueError(f"head must name modules of the model, got {name!r}")
    return names


def _pools(module: nn.Module) -> bool:
    """Whether what is called a head is part of what was trained before: it pools by attention."""
    return "Pooling" in type(module).__name__ or any(isinstance(part, nn.MultiheadAttention) for part in module.modules())


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
