"""What is left under noise and corruption: layer by layer, and as the numbers of ImageNet-C."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._arguments import _generator, _got, _hollow, _integer, _like, _number, _numbers, _wide

__all__ = ["ALEXNET_ERRORS", "CorruptionError", "mean_corruption_error", "noise_decay", "retention"]

# AlexNet's mean error over the five severities of each corruption of ImageNet-C, at 224 px
ALEXNET_ERRORS = {
    "gaussian noise": 0.886428, "shot noise": 0.894468, "impulse noise": 0.922640, "defocus blur": 0.819880, "glass blur": 0.826268,
    "motion blur": 0.785948, "zoom blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204,
    "elastic transform": 0.646056, "pixelate": 0.717840, "jpeg compression": 0.606500,
}  # fmt: skip
SEVERITIES = (1, 2, 3, 4, 5)


class CorruptionError(NamedTuple):
    """mce: mean corruption error, lower is better; by_corruption: the error of each corruption over the reference's."""

    mce: float
    by_corruption: dict[str, float]


def mean_corruption_error(errors: Mapping[str, Any], reference: Mapping[str, Any]) -> CorruptionError:
    """mCE = mean over the corruptions c of (sum over the severities of E_sc) / (the same sum of the reference) (Hendrycks and Dietterich 2019).

    errors: corruption -> five error rates in [0, 1] for severities 1 .. 5, in this order or as {severity: error}. reference: corruption -> the same of the
    model that is divided by, or its mean error: ALEXNET_ERRORS for ImageNet-C, and only for it; another set of pictures needs a reference of its own, and has
    no mCE of ImageNet-C. Both must name the same corruptions: speckle noise, gaussian blur, spatter and saturate of ImageNet-C do not enter.
    """
    for name, table in (("errors", errors), ("reference", reference)):
        if not isinstance(table, Mapping) or not all(isinstance(key, str) for key in table):
            raise TypeError(f"{name} must be a mapping from names of corruptions to errors, got {_got(table)}")
    if not reference:
        raise ValueError("reference must name a corruption or more, got none")
    base = {name: _mean_error("reference", name, value, alone=True) for name, value in reference.items()}
    if none := [name for name, value in base.items() if value == 0]:
        raise ValueError(f"reference must have errors above 0, which are divided by, got 0 for {none[0]!r}")
    if unknown := [name for name in errors if name not in reference]:
        raise ValueError(f"errors must be of corruptions that reference has ({', '.join(reference)}), got {unknown[0]!r}")
    if missing := [name for name in reference if name not in errors]:
        raise ValueError(f"errors must have every corruption of reference, got none of {missing[0]!r}")
    found = {name: _mean_error("errors", name, errors[name]) / base[name] for name in reference}
    return CorruptionError(sum(found.values()) / len(found), found)


def _mean_error(table: str, corruption: str, value: Any, alone: bool = False) -> float:
    """The mean error over the severities; alone: it may be given itself."""
    where = f"{table}[{corruption!r}]"
    if isinstance(value, Mapping):
        if sorted(_integer(f"a severity of {where}", severity, 1, 5) for severity in value) != list(SEVERITIES):
            raise ValueError(f"{where} must have severities 1 to 5, got {list(value)}")
        value = [value[severity] for severity in sorted(value)]
    found = value.tolist() if hasattr(value, "tolist") and not (isinstance(value, Tensor) and _hollow(value)) else value
    if alone and not isinstance(found, (list, tuple)):
        return _number(where, found, 0, 1)
    if not isinstance(found, (list, tuple)):
        raise TypeError(f"{where} must be five errors, for severities 1 to 5, got {_got(value)}")
    if len(found) != 5:
        raise ValueError(f"{where} must be five errors, for severities 1 to 5, got {len(found)}")
    return sum(_number(f"{where} at severity {severity}", error, 0, 1) for severity, error in zip(SEVERITIES, found)) / 5


def retention(clean: float, corrupted) -> float:
    """What is left of the accuracy: mean of `corrupted` (any axes, accuracies in [0, 1]) over `clean`, in (0, 1].

    The official README's "IN-C" is such a mean accuracy under corruption, no mCE.
    """
    clean = _number("clean", clean, 0, 1, above=0)
    return float(_wide(_numbers("corrupted", corrupted, "...", low=0, high=1)).mean()) / clean


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
    layers = [features(pictures), features(pictures + noise)]
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
