"""Refined maps in a vision transformer of transformers, whose own weights stay as they are: to try kernels without training, or to train the refiners alone."""

from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _got, _instance, _integers
from .refining import MapRefiner, Steps

__all__ = ["Refinement", "refine_vit"]

# attention layers of one form: linear maps q_proj, k_proj, v_proj, o_proj, softmax(Q K^T scaling), no mask and no positions inside
KINDS = ("ViTAttention", "DeiTAttention", "Dinov2Attention", "Dinov2WithRegistersAttention", "ViTMSNAttention", "IJepaAttention", "ViTMAEAttention")
REFINER = "refiner"  # what the new part of an attention layer is called


class _Forward:
    """In place of an attention layer's `forward`: what it does with attn_implementation="eager", and its refiner between softmax and values. An object of a
    class of its own, so that a model that has it is copied and pickled."""

    def __init__(self, attention: nn.Module):
        self.attention, self.seen = attention, None

    def __call__(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, Tensor]:
        if attention_mask is not None:
            raise ValueError(f"attention_mask must be None where maps are refined, got {_got(attention_mask)}")
        layer = self.attention
        q, k, v = (project(hidden_states).unflatten(-1, (-1, layer.head_dim)).transpose(1, 2) for project in (layer.q_proj, layer.k_proj, layer.v_proj))
        maps = torch.matmul(q, k.transpose(2, 3)) * layer.scaling
        maps = maps.softmax(-1, dtype=torch.float32).to(q.dtype)
        steps = layer.get_submodule(REFINER).steps(maps)
        if self.seen is not None:
            self.seen.append((maps, steps))
        refined = nn.functional.dropout(steps.refined, layer.attention_dropout, layer.training)
        return layer.o_proj(torch.matmul(refined, v).transpose(1, 2).flatten(2)), refined


class Refinement:
    """The refiners of a model, as `refine_vit` leaves them: `refiners`, a ModuleList of MapRefiner, one for each of `layers`."""

    def __init__(self, model: nn.Module, layers: tuple[int, ...], attentions: list[nn.Module]):
        self.model, self.layers, self._attentions = model, layers, attentions
        self.refiners = nn.ModuleList(attention.get_submodule(REFINER) for attention in attentions)
        self._forwards = [vars(attention)["forward"] for attention in attentions]

    def maps(self, pixel_values: Tensor) -> list[tuple[Tensor, Steps]]:
        """Of each refined layer: its softmax maps (B, H, N, N), and what each step makes of them. The model must be in eval mode."""
        if _instance("pixel_values", pixel_values, Tensor, "a tensor (B, 3, S, S)").ndim != 4 or not pixel_values.numel():
            raise ValueError(f"pixel_values must be a tensor (B, 3, S, S), got shape {tuple(pixel_values.shape)}")
        if self.model.training:
            raise ValueError("model must be in eval mode, got one in training mode")
        forwards = self._forwards
        if not all(vars(attention).get("forward") is forward for attention, forward in zip(self._attentions, forwards)):
            raise ValueError("model must have its refiners, got one from which they were removed")
        try:
            for forward in forwards:
                forward.seen = []
            with torch.no_grad():
                self.model(pixel_values)
            return [forward.seen[-1] for forward in forwards]
        finally:
            for forward in forwards:
                forward.seen = None

    def remove(self) -> None:
        """The model as it was. `refiners` stay, with what they have learnt. Others that it was given since are left in it."""
        for attention, forward in zip(self._attentions, self._forwards):
            if vars(attention).get("forward") is forward:
                del vars(attention)["forward"], attention._modules[REFINER]


def refine_vit(
    model: nn.Module, *, layers: Any = "all", kappa: float = 1, kernel: int = 3, refine: str = "linear", norm: bool | None = None,
    activation: bool | None = None, residual: bool | None = None, over: str = "raster", grid: tuple[int, int] | None = None, start: str = "identity",
    generator: torch.Generator | None = None,
) -> Refinement:  # fmt: skip
    """Give attention layers of a vision transformer a refiner each, between softmax and values.

    model: a ViT, DeiT, DINOv2, MSN, MAE (its encoder) or I-JEPA of transformers, with a head or without, on one device. layers: "all", or numbers from 0
    (attention that several layers share counts once); the other options are those of `MapRefiner`. With start="identity" the model computes what it did, to the
    bit where it has attn_implementation="eager"; `refinement.refiners[0].set_weights(kernels=...)` then changes maps without any training. The refiners are
    part of the model (of parameters() and state_dict(), as `...attention.refiner`), which is not frozen: model.requires_grad_(False) before this leaves only
    them to be trained. Attention is written out, since fused kernels have no maps; attention_mask is refused; the maps of output_attentions are the refined
    ones. ValueError or TypeError before anything is changed, also where a layer has a refiner already.
    """
    attentions = _attentions(model)
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f"layers must be 'all' or numbers of layers, got {layers!r}")
        layers = range(len(attentions))
    expected = f"'all' or different numbers of layers in 0..{len(attentions) - 1}"
    chosen = tuple(layers) if isinstance(layers, range) else _integers("layers", layers, 0, expected=expected)
    if len(set(chosen)) < len(chosen) or not chosen or max(chosen) >= len(attentions) or min(chosen) < 0:
        raise ValueError(f"layers must be {expected}, got {_got(layers)}")
    for i in chosen:
        if REFINER in attentions[i]._modules or "forward" in vars(attentions[i]):
            raise ValueError(f"model must have plain attention in the chosen layers, got a refiner or another forward in layer {i}")
    options = dict(kappa=kappa, kernel=kernel, refine=refine, norm=norm, activation=activation, residual=residual, over=over, grid=grid, start=start)
    made = [MapRefiner(attentions[i].num_attention_heads, generator=generator, **options) for i in chosen]
    for i, refiner in zip(chosen, made):
        attention, weight = attentions[i], attentions[i].v_proj.weight
        attention.add_module(REFINER, refiner.to(device=weight.device, dtype=weight.dtype).train(attention.training))
        vars(attention)["forward"] = _Forward(attention)
    return Refinement(model, chosen, [attentions[i] for i in chosen])


def _attentions(model: Any) -> list[nn.Module]:
    _instance("model", model, nn.Module, "a vision transformer of transformers")
    # of a masked autoencoder the decoder is left out
    found = [module for name, module in model.named_modules() if type(module).__name__ in KINDS and "decoder_layers" not in name.split(".")]
    if not found:
        names = ", ".join(kind.removesuffix("Attention") for kind in KINDS)
        raise ValueError(f"model must have attention layers of {names} as transformers builds them, got a {type(model).__name__} with none")
    return found
