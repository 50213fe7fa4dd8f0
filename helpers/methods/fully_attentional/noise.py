"""How far noise comes, layer by layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._arguments import _generator, _got, _like, _number, _numbers, _wide

__all__ = ["noise_decay"]


@torch.no_grad()
def noise_decay(features: Callable[[Tensor], Sequence[Tensor]], images, *, sigma: float = 0.1, generator: torch.Generator | None = None):
    """How far noise comes: |F_l(x + noise) - F_l(x)| / |F_l(x)| for every layer and picture, (layers, B) (fig. 3).

    features: a function of pictures (B, ...), a tensor, that gives a list of layers, each (B, ...): `lambda x: model.features(x, every=True)`, of a network in
    eval mode. The noise is normal with standard deviation sigma (ours), drawn by `generator`, on its device, in float32.
    """
    if not callable(features):
        raise TypeError(f"features must be a function of pictures, got {_got(features)}")
    pictures, sigma, generator = _numbers("images", images, "..."), _number("sigma", sigma, above=0), _generator(generator)
    if pictures.ndim < 2:
        raise ValueError(f"images must be pictures (B, ...), got shape {tuple(pictures.shape)}")
    place = pictures.device if generator is None else generator.device
    noise = sigma * torch.randn(pictures.shape, generator=generator, device=place, dtype=torch.float32).to(pictures)
    layers = [features(pictures.clone()), features(pictures + noise)]  # features may write into what it is given
    if not all(isinstance(one, (list, tuple)) and one and all(isinstance(x, Tensor) and len(x) == len(pictures) for x in one) for one in layers):
        raise TypeError(f"features must give a list of tensors, each of {len(pictures)} pictures, got {_got(layers[0])}")
    if len(layers[0]) != len(layers[1]):
        raise ValueError(f"features must give as many layers each time, got {len(layers[0])} and {len(layers[1])}")
    ratios = []
    for clean, noisy in zip(*layers, strict=True):
        size = _wide(clean).flatten(1).norm(dim=1)
        if (size == 0).any():
            raise ValueError(f"features must give layers that are not all zeros, got zeros in layer {len(ratios)}")
        ratios.append((_wide(noisy) - _wide(clean)).flatten(1).norm(dim=1) / size)
    return _like(images, torch.stack(ratios).to(torch.promote_types(pictures.dtype, torch.float32)))
