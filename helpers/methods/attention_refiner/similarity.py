"""How alike maps are, of the heads of a layer and of neighbouring layers, and how fast tokens turn into what they are in the end."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._arguments import _got, _like, _number, _numbers, _option

__all__ = ["Evolution", "feature_evolution", "head_similarity", "layer_similarity", "linear_cka", "neighbour_loss", "similarity_by_layer"]

ALONG, OF = ("maps", "heads"), ("heads", "neighbours")


class Evolution(NamedTuple):
    """For each layer: the mean cosine of its tokens with what they are in the last one, and linear CKA between the two; (L,) each."""

    cosine: Tensor
    cka: Tensor


def head_similarity(maps):
    """The mean over all pairs of heads of the cosine between their maps as long vectors: 1 where all heads look alike. maps (..., H, N, M) with H >= 2.

    Returns (...), in [-1, 1], and [0, 1] for maps without negative entries; a map of zeros has cosine 0 with any other. Like maps.
    """
    given = _numbers("maps", maps, "... H N M", detach=False)
    if given.shape[-3] < 2:
        raise ValueError(f"maps must have two heads or more, got shape {tuple(given.shape)}")
    return _like(maps, _between_heads(given))


def _between_heads(maps: Tensor) -> Tensor:
    units, heads = _unit(maps.flatten(-2), -1), maps.shape[-3]
    one, other = torch.triu_indices(heads, heads, 1, device=maps.device)
    return (units @ units.mT)[..., one, other].mean(-1).clamp(-1, 1)  # rounding goes a little beyond


def layer_similarity(one, other, *, along: str = "maps"):
    """How alike two layers look, head by head. one, other: maps (..., H, N, M). Returns (...), like one.

    along="maps": the cosine between two maps as long vectors, its mean over heads. "heads": for each query and key the cosine between the H entries of one and
    those of the other, its mean over both axes; so does the official code, whose dimension 1 is that of heads.
    """
    first, along = _numbers("one", one, "... H N M", detach=False), _option("along", along, ALONG)
    second = _numbers("other", other, "... H N M", detach=False)
    if second.shape != first.shape:
        raise ValueError(f"other must have the shape of one, {tuple(first.shape)}, got {tuple(second.shape)}")
    found = _between_layers(first, second.to(first.device), along)  # each in its own dtype, in which it is no zero and no infinity
    return _like(one, found.to(torch.promote_types(first.dtype, torch.float32)))


def _between_layers(one: Tensor, other: Tensor, along: str) -> Tensor:
    if along == "maps":
        return (_unit(one.flatten(-2), -1) * _unit(other.flatten(-2), -1)).sum(-1).mean(-1)
    return (_unit(one, -3) * _unit(other, -3)).sum(-3).mean((-2, -1))


def _unit(x: Tensor, axis: int) -> Tensor:
    """Vectors along an axis at length 1, or 0 where they are 0; in float32 at least. Scaled first, so that no square underflows."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    x = x / x.abs().amax(axis, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x / x.norm(dim=axis, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def similarity_by_layer(maps, *, of: str = "heads"):
    """One number a layer, the mean over pictures. maps: a list of (B, H, N, M), or (L, B, H, N, M).

    of="heads": `head_similarity` of each layer, (L,); "neighbours": `layer_similarity` of each layer with the one before, (L - 1,). Like the maps.
    """
    of, layers = _option("of", of, OF), _layers("maps", maps, "B H N M", 1 if of == "heads" else 2)
    if of == "heads" and min(layer.shape[1] for layer in layers) < 2:
        raise ValueError("maps must have two heads or more in each layer, got one with a single head")
    if of == "neighbours":
        _alike("maps", layers)
    found = [_between_heads(layer) for layer in layers] if of == "heads" else [_between_layers(a, b, "maps") for a, b in zip(layers, layers[1:])]
    return _like(maps[0], torch.stack([value.mean() for value in found]))


def neighbour_loss(maps, *, weight: float = 0.1, along: str = "heads"):
    """The authors' auxiliary loss, which they leave off: weight times the mean `layer_similarity` of neighbouring layers (and of pictures). To be minimised.

    maps: a list of two or more layers (B, H, N, M); three make the two pairs of the official code. Returns a number with a gradient to the maps, like them.
    """
    weight, along = _number("weight", weight), _option("along", along, ALONG)
    layers = _layers("maps", maps, "B H N M", 2)
    _alike("maps", layers)
    return _like(maps[0], weight * torch.stack([_between_layers(a, b, along).mean() for a, b in zip(layers, layers[1:])]).mean())


def _layers(name: str, value: Any, shape: str, least: int) -> list[Tensor]:
    """Each layer as a tensor of the first one's device."""
    if not isinstance(value, (list, tuple)) and getattr(value, "ndim", 0) != len(shape.split()) + 1:
        raise TypeError(f"{name} must be a list of layers ({', '.join(shape.split())}), got {_got(value)}")
    if len(value) < least:
        raise ValueError(f"{name} must have {least} layers or more, got {len(value)}")
    layers = [_numbers(f"{name}[{i}]", layer, shape, detach=False) for i, layer in enumerate(value)]
    return [layer.to(layers[0].device) for layer in layers]


def _alike(name: str, layers: list[Tensor]) -> None:
    if len(shapes := {tuple(layer.shape) for layer in layers}) > 1:
        raise ValueError(f"{name} must have one shape in all layers, got {sorted(shapes)}")


def linear_cka(x, y) -> float:
    """Linear centred kernel alignment of two descriptions of the same n things, x (n, p) and y (n, q) (Kornblith et al. 2019, equation 3).

    ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of columns without their means: in [0, 1], 1 for descriptions that differ by a turn, a scale and a shift. ValueError
    where all rows are alike.
    """
    first, second = _numbers("x", x, "n p"), _numbers("y", y, "n q")
    if len(first) != len(second):
        raise ValueError(f"y must have the {len(first)} rows of x, got {len(second)}")
    return float(_cka(_centred("x", first), _centred("y", second)))


def _centred(name: str, x: Tensor) -> Tensor:
    """Columns without their means and with the largest entry 1, in float64 on the CPU."""
    x = x.cpu().double()
    apart = x - x.mean(0)
    if (largest := apart.abs().max()) <= 1e-12 * x.abs().max():
        raise ValueError(f"{name} must have rows that differ, got rows that are all alike")
    return apart / largest


def _cka(x: Tensor, y: Tensor) -> Tensor:
    return ((y.mT @ x).square().sum() / ((x.mT @ x).norm() * (y.mT @ y).norm())).clamp_max(1)  # rounding goes a little beyond


def feature_evolution(tokens) -> Evolution:
    """How near each layer's tokens are to those of the last, which tells how fast features evolve (the paper's motivation).

    tokens: a list of (B, N, C), behind each layer, or (L, B, N, C). Returns Evolution, like the tokens; the last entry of both is 1 to rounding, unless
    a token there is zero, whose cosine is 0.
    """
    layers = _layers("tokens", tokens, "B N C", 2)
    _alike("tokens", layers)
    last = layers[-1]
    cosine = torch.stack([(_unit(layer, -1) * _unit(last, -1)).sum(-1).mean() for layer in layers])
    rows = [_centred(f"tokens[{i}]", layer.detach().flatten(0, 1)) for i, layer in enumerate(layers)]
    cka = torch.stack([_cka(row, rows[-1]) for row in rows])
    return Evolution(_like(tokens[0], cosine), _like(tokens[0], cka.to(cosine.dtype)))
