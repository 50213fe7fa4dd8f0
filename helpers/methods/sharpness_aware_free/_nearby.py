"""Weights near the weights of a model: where to go, going there and coming back. Lists run over parameters; None stands for one that a loss does not touch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm

TINY = 1e-12  # beside a norm that may be 0


def norm(parts: Sequence[Tensor | None]) -> Tensor:
    """(): the length of all parts together."""
    return get_total_norm([part for part in parts if part is not None])


def ascent(gradients: Sequence[Tensor | None], rho: float, scales: Sequence[Tensor] | None = None) -> list[Tensor | None]:
    """e = rho T^2 g / ||T g||; scales: T, None is 1 everywhere, which is SAM's rho g / ||g||."""
    if scales is not None:
        gradients = [None if g is None else g * t for g, t in zip(gradients, scales, strict=True)]
    steps = _times(gradients, rho / (norm(gradients) + TINY))
    return steps if scales is None else [None if e is None else e * t for e, t in zip(steps, scales, strict=True)]


def adaptive_scales(names: Sequence[str], parameters: Sequence[Tensor], eta: float) -> list[Tensor]:
    """T: |theta| + eta for parameters with "weight" in their names, 1 for others."""
    return [p.detach().abs() + eta if "weight" in name else torch.ones_like(p) for name, p in zip(names, parameters, strict=True)]


def orthogonal(parts: Sequence[Tensor | None], to: Sequence[Tensor | None]) -> list[Tensor | None]:
    """What is left of a vector across another one: v - (v . u) u / ||u||^2."""
    both = [(v, u) for v, u in zip(parts, to, strict=True) if v is not None and u is not None]
    share = sum((v * u).sum() for v, u in both) / (sum(u.square().sum() for _, u in both) + TINY)
    return [v if v is None or u is None else v - share * u for v, u in zip(parts, to, strict=True)]


def _times(parts: Sequence[Tensor | None], factor: Tensor) -> list[Tensor | None]:
    return [None if part is None else part * factor.to(part) for part in parts]


@contextmanager
def moved(parameters: Sequence[Tensor], by: Sequence[Tensor | None]) -> Iterator[None]:
    """Parameters at a distance, and afterwards the very numbers that they had: copies are put back, since x + e - e is not x."""
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, step in zip(parameters, by, strict=True):
                if step is not None:
                    parameter.add_(step)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm goes by the batch as before, and leaves its running statistics alone."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for one in norms:
        one.track_running_stats = False
    try:
        yield
    finally:
        for one in norms:
            one.track_running_stats = True
