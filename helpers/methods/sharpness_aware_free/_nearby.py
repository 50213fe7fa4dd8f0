"""Weights near the weights of a model: where to go, going there and coming back. Lists run over parameters; None stands for one that a loss does not touch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

TINY = 1e-12  # beside a norm that may be 0


def norm(parts: Sequence[Tensor | None]) -> Tensor:
    """(): the length of all parts together, in float32 at least, where TINY is not 0."""
    length = get_total_norm([part for part in parts if part is not None])
    return length.to(torch.promote_types(length.dtype, torch.float32))


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
    if not both:
        return list(parts)
    along, length = sum(_dot(v, u) for v, u in both), sum(_dot(u, u) for _, u in both)
    share = torch.where(length > 0, along / length, 0.0)  # whole: a rest of v along u, however small, would be all there is across where v is u
    return [v if v is None or u is None else v - share * u for v, u in zip(parts, to, strict=True)]


def _dot(v: Tensor, u: Tensor) -> Tensor:
    """In float32 at least: squares of small gradients are 0 in half precision."""
    wide = torch.promote_types(v.dtype, torch.float32)
    return (v.to(wide) * u.to(wide)).sum()


def _times(parts: Sequence[Tensor | None], factor: Tensor) -> list[Tensor | None]:
    return [None if part is None else part * factor.to(part.device) for part in parts]


@contextmanager
def moved(parameters: Sequence[Tensor], by: Sequence[Tensor | None]) -> Iterator[None]:
    """Parameters at a distance, and afterwards the very numbers that they had: copies are put back, since x + e - e is not x.

    Autocast keeps what it made of the weights, and would go on with that: it has to forget.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, step in zip(parameters, by, strict=True):
                if step is not None:
                    parameter.add_(step)
        torch.clear_autocast_cache()
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
        torch.clear_autocast_cache()


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Norms go by the batch as before; what a model notes as it runs, running statistics and other buffers, it notes in copies that are dropped."""
    buffers = _buffers(model)
    copies = {id(buffer): buffer.clone() for _, _, buffer in buffers}
    for module, name, buffer in buffers:
        module._buffers[name] = copies[id(buffer)]
    try:
        yield
    finally:
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


@contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """Where something is refused, a model's buffers are as they were: a batch with NaN in it would stay in the running statistics for good."""
    kept = [(module, name, buffer, buffer.clone()) for module, name, buffer in _buffers(model)]
    try:
        yield
    except Exception:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                module._buffers[name] = buffer.copy_(value)
        raise


def _buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    return [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items() if buffer is not None]
