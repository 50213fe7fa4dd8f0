"""The pairs of a model: put on, trained, merged into the weights, divided out again, taken off."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import torch
from torch import nn
from torch.nn.utils import parametrize

from ._arguments import _got, _module, _number, _option
from .layers import _AFFINE, Pair, _Behind, _Bias, _earlier_hook, _ensure, _generator, _odd, _pairs_of, _shared, _unmake, _Weight, _width
from .maths import _merged, _nonzero
from .places import Point, _heads, _selected, insertion_points

__all__ = ["ScaleShift", "add_scale_shift", "parameter_groups"]

_MARK = "_merged_scale_shift"  # on a model: what was merged into it, and which weights it had not before


class _FrozenTrain:
    """In place of a frozen model's `train`: dropout and batch norm stay as at inference, only the heads follow, and the flag of the model itself. It keeps
    what there was before. An object of a class of its own, so that a model with pairs is copied and pickled."""

    def __init__(self, model: nn.Module, heads: tuple[str, ...]):
        self.model, self.heads, self.before, self.training = model, heads, vars(model).get("train"), model.training
        self.wanted = [(name, parameter, parameter.requires_grad) for name, parameter in model.named_parameters()]

    def __call__(self, mode: bool = True) -> nn.Module:
        nn.Module.train(self.model, False)
        self.model.training = bool(mode)
        for name in self.heads:
            self.model.get_submodule(name).train(mode)
        return self.model

    def undo(self) -> None:
        """Give the model its `train`, its mode and its gradients back; where later pairs are on it, these do it when they go."""
        above, held = None, vars(self.model).get("train")
        while isinstance(held, _FrozenTrain) and held is not self:
            above, held = held, held.before
        if held is self and above is not None:
            above.before, above.training, above.wanted = self.before, self.training, self.wanted
            return
        known = {name: wanted for name, _, wanted in self.wanted}
        for _, parameter, wanted in self.wanted:  # of layers too that are gone from the model
            parameter.requires_grad_(wanted)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(known.get(name, True))
        if held is self:
            del vars(self.model)["train"]
            if self.before is not None:
                vars(self.model)["train"] = self.before
        self.model.train(self.training)


class ScaleShift(nn.Module):
    """The pairs of a model, as `add_scale_shift` leaves them. `parameters()` are the pairs', `state_dict()` what one task stores beside its head."""

    def __init__(self, model: nn.Module, points: list[Point], heads: tuple[str, ...], style: str, what: str, init: str, generator):
        super().__init__()
        vars(self).update(model=model, points=points, heads=heads, style=style, _id=uuid4().hex, _made=[])  # the model is no part of this module
        vars(self).update(_layers={point.module: model.get_submodule(point.module) for point in points}, _removed=False)
        self.pairs = nn.Module()
        for point in points:
            layer, at = self._layers[point.module], self.pairs
            weight = next(layer.parameters(), next(model.parameters(), torch.zeros(())))
            *path, last = point.name.split(".")
            for part in path:
                if part not in at._modules:
                    at.add_module(part, nn.Module())
                at = at._modules[part]
            dtype = torch.promote_types(weight.dtype, torch.float32)
            at.add_module(last, Pair(point.channels, channel_dim=point.channel_dim, what=what, init=init, generator=generator,
                                     device=weight.device, dtype=dtype))  # fmt: skip
        vars(self)["_frozen"] = _FrozenTrain(model, heads)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(name.startswith(f"{head}.") for head in heads))
        vars(model)["train"] = self._frozen
        try:
            model.train(model.training)
            self._attach()
        except Exception:
            self.remove()
            raise

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
        if self._id in vars(self.model).get(_MARK, {}):
            raise ValueError("set_strength() must find the pairs on the model, got pairs that are merged into its weights; unmerge() first")
        for point in _selected("layers", layers, self.points):
            self.pairs.get_submodule(point.name).strength = t

    @torch.no_grad()
    def merge(self, model: nn.Module | None = None) -> nn.Module:
        """Put the pairs, at their strengths, into the weights of their layers, and take them off. Returns the model, whose outputs stay as they were; the
        own model stays frozen but for its head, until `remove`.

        model: another model of the same architecture, without pairs, to be merged into; this one then stays as it is. A layer without bias gets one (and a
        normalisation without weights gets both), as new keys of the state dict; `unmerge` takes them away. ValueError, before any work, for pairs behind no
        plain affine layer or behind somebody's forward hook, which may change the output, for layers in training mode, weights that several layers share,
        gains and offsets that are not finite, a model with other layers or other pairs, merging twice, and the own model after `remove`.
        """
        target = self._target("merge", model)
        if self._id in vars(target).get(_MARK, {}):
            raise ValueError("merge() must be called once for a model, got one whose weights hold these pairs already; unmerge() first")
        layers = self._found(target)
        for point, layer in layers:
            if point.module != point.name:
                raise ValueError(f"merge() must find an affine layer before each pair, got the pair at {point.name}, which follows a residual sum")
            if odd := _odd(layer):
                raise ValueError(f"merge() must find a plain affine layer before each pair, got {odd} at {point.module}")
            if (target is not self.model or self.style == "hooks") and _earlier_hook(layer):
                raise ValueError(f"merge() must find no forward hook between a layer and its pair, got one at {point.module}; remove it first")
            if layer.training:
                kind = type(layer).__name__
                raise ValueError(f"merge() must find the model in eval mode, got {kind} at {point.module} in training mode; call model.eval()")
        merged = {point.name: tuple(v.detach().clone() for v in self.pairs.get_submodule(point.name).values()) for point in self.points}
        for name, pair in merged.items():
            if not all(torch.isfinite(v).all() for v in pair if not v.is_meta):
                raise ValueError(f"the pair at {name} must be finite numbers to be merged, got some that are not")
        if target is self.model:
            self._detach()
        made = [name for point, layer in layers for name in _ensure(point.module, layer, target)]
        for point, layer in layers:
            weight, bias = _merged(layer.weight, layer.bias, *(v.to(layer.weight.device) for v in merged[point.name]))
            layer.weight.copy_(weight), layer.bias.copy_(bias)
        vars(target).setdefault(_MARK, {})[self._id] = made, merged
        return target

    @torch.no_grad()
    def unmerge(self, model: nn.Module | None = None) -> nn.Module:
        """Divide what `merge` put into the weights out again, up to rounding, and (for the own model) put the pairs back, as they are now. What is divided
        out is what was merged, also where another task was loaded into the pairs since. No gain that was merged may be 0. ValueError as for `merge`."""
        target = self._target("unmerge", model)
        marks = vars(target).get(_MARK, {})
        if list(marks)[-1:] != [self._id]:
            later = "pairs that were merged later" if self._id in marks else "none"
            raise ValueError(f"unmerge() must find these pairs merged last into the model's weights, got {later}")
        made, merged = marks[self._id]
        layers = self._found(target)
        for point, layer in layers:
            _nonzero(f"the scale at {point.name}", merged[point.name][0])
            if odd := _odd(layer):
                raise ValueError(f"unmerge() must find a plain affine layer where pairs are merged, got {odd} at {point.module}")
        for point, layer in layers:
            scale, shift = (v.to(layer.weight.device) for v in merged[point.name])
            gain = scale.double() if scale.device.type != "mps" else scale
            weight, bias = _merged(layer.weight, layer.bias, 1 / gain, -shift.to(gain) / gain)
            layer.weight.copy_(weight), layer.bias.copy_(bias)
        _unmake({point.module: layer for point, layer in layers}, made)
        _unmark(target, self._id)
        if target is self.model:
            self._attach(first=True)
        return target

    def remove(self) -> None:
        """Take the pairs off: the model is as it was before them, trained head aside. What is merged stays merged, for good. A second call does nothing."""
        if self._removed:
            return
        if self._id not in vars(self.model).get(_MARK, {}):
            self._detach()
        _unmark(self.model, self._id)
        vars(self)["_removed"] = True
        self._frozen.undo()

    def __enter__(self) -> "ScaleShift":
        return self

    def __exit__(self, *_) -> None:
        self.remove()

    def _target(self, call: str, model: Any) -> nn.Module:
        target = self.model if model is None else _module("model", model)
        if target is self.model and self._removed:
            raise ValueError(f"{call}() must find the pairs on the model, got pairs that were removed; put them on by add_scale_shift and load their state")
        return target

    def _found(self, target: nn.Module) -> list[tuple[Point, nn.Module]]:
        """The layers of the points in a model, once they are seen to fit and to carry no pairs but, live on the own model, these."""
        known, found = dict(target.named_modules()), []
        live = target is self.model and self._id not in vars(target).get(_MARK, {})
        for point in self.points:
            layer = known.get(point.module)
            if layer is None or (point.module == point.name and (not isinstance(layer, _AFFINE) or _width(layer) != point.channels)):
                raise ValueError(f"model must have a layer of {point.channels} channels at {point.module}, got {'none' if layer is None else layer}")
            if target is self.model and layer is not self._layers[point.module]:
                raise ValueError(f"model must keep the layers that pairs were put behind, got another one at {point.module}")
            if [id(pair) for pair in _pairs_of(layer)] != ([id(self.pairs.get_submodule(point.name))] if live else []):
                wanted = "carry these pairs alone" if live else "carry no pairs of its own"
                raise ValueError(f"model must {wanted}, got {'others or none' if live else 'one'} at {point.module}")
            found.append((point, layer))
        if target is not self.model and (others := sorted(_affine(target, self.heads) ^ _affine(self.model, self.heads))):
            raise ValueError(f"model must have the layers of the pairs' own model and no others, got a difference at {others[0]}")
        if shared := _shared(target, [point.module for point in self.points if point.module == point.name]):
            raise ValueError(f"model must not share the weights that a pair is merged into, got one that is used at {shared}")
        return found

    def _attach(self, first: bool = False) -> None:
        """first: before the hooks that were put there after the pairs."""
        for point in self.points:
            layer, pair = self._layers[point.module], self.pairs.get_submodule(point.name)
            if self.style == "hooks":
                layer.register_forward_hook(_Behind(pair), prepend=first)
                continue
            with torch.no_grad():
                self._made.extend(_ensure(point.module, layer, self.model))
            parametrize.register_parametrization(layer, "weight", _Weight(pair), unsafe=True)
            parametrize.register_parametrization(layer, "bias", _Bias(pair), unsafe=True)

    def _detach(self) -> None:
        """Take off what is of these pairs, and nothing else."""
        own = {id(pair) for _, pair in self.named_pairs()}
        for layer in self._layers.values():
            for key, hook in list(layer._forward_hooks.items()):
                if isinstance(hook, _Behind) and id(hook.pair) in own:
                    del layer._forward_hooks[key]
            for name in ("weight", "bias"):
                parts = layer.parametrizations[name] if parametrize.is_parametrized(layer, name) else ()
                ours = [i for i, part in enumerate(parts) if isinstance(part, _Weight) and id(part.pair) in own]
                if ours and len(ours) == len(parts):
                    parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
                elif ours:
                    del parts[ours[0]]
        _unmake(self._layers, self._made)
        self._made.clear()


def _unmark(model: nn.Module, identity: str) -> None:
    marks = vars(model).get(_MARK, {})
    marks.pop(identity, None)
    if not marks:
        vars(model).pop(_MARK, None)


def _affine(model: nn.Module, heads: tuple[str, ...]) -> set[str]:
    """The names of the affine layers outside the heads."""
    return {name for name, layer in model.named_modules() if isinstance(layer, _AFFINE) and not any(f"{name}.".startswith(f"{head}.") for head in heads)}


def add_scale_shift(
    model: nn.Module, *, where="all", what: str = "both", style: str = "hooks", init: str = "identity", layout: str = "paper", head="auto",
    generator: torch.Generator | None = None,
) -> ScaleShift:  # fmt: skip
    """Put a pair behind the affine layers of a model and freeze the rest but the head; the model stays in eval mode, also under `model.train()`.

    where, layout, head: see `insertion_points`; what, init: see `Pair` ("official" draws from `generator`). style: "hooks" scale outputs, and the model's
    state dict stays as it is; "parametrizations" scale weights and biases (torch.nn.utils.parametrize), which costs less the more tokens there are, but
    torch lets copies of a parametrised model share a class, and does not pickle it: copy before. Both give the same numbers. Raises ValueError, before any
    work, for a model that carries pairs already, for parametrised layers, and with "parametrizations" for a place behind no plain affine layer (see
    `insertion_points`) or with somebody's forward hook on it, and for weights that several layers share or that lie in the same memory.
    """
    points = insertion_points(model, where=where, layout=layout, head=head)
    _option("what", what, ("both", "scale", "shift")), _option("init", init, ("identity", "official")), _generator(generator)
    _option("style", style, ("hooks", "parametrizations"))
    for name, layer in model.named_modules():
        if _pairs_of(layer):
            raise ValueError(f"model must carry no pairs yet, got one at {name}; call remove() or merge() of these first")
    for point in points:
        layer = model.get_submodule(point.module)
        if parametrize.is_parametrized(layer):
            raise ValueError(f"model must have plain weights where pairs go, got a parametrised layer at {point.module}")
        if style == "hooks":
            continue
        if point.module != point.name:
            raise ValueError(f"style must be hooks for the pair at {point.name}, which follows a residual sum and no affine layer, got 'parametrizations'")
        if odd := _odd(layer) or ("a forward hook" if _earlier_hook(layer) else ""):
            raise ValueError(f"style must be hooks for the pair at {point.name}, which follows {odd}, got 'parametrizations'")
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
