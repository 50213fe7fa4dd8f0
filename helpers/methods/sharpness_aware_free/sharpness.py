"""How sharp a minimum is, in four ways, and what the loss looks like around it.

Every measure takes `loss`, a function without arguments that gives one number (`loss_on` makes it of a model and a batch), and `parameters`: a model, of which
those that learn are meant, or tensors by their names. Numbers depend on the batch, on the mode of the model and on how its weights are scaled: keep all three
the same when comparing. Weights come back exactly.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ._arguments import _flag, _function, _generator, _got, _instance, _integer, _like, _number, _numbers, _option
from ._nearby import TINY, adaptive_scales, ascent, moved, still_statistics
from .training import _cross_entropy, _images, _labels, _logits

__all__ = [
    "Curvature", "adaptive_sharpness", "filter_normalised", "hessian_eigenvalue", "landscape", "loss_on", "random_sharpness", "sam_sharpness",
]  # fmt: skip


@torch.inference_mode(False)
def loss_on(model: nn.Module, batch, *, label_smoothing: float = 0.0, mode: str = "eval") -> Callable[[], Tensor]:
    """A function that gives the mean cross-entropy of a batch, as the model then is.

    batch: (images, labels) or (images, labels, indices), as for a step of training. mode: "eval", or "train": batch norm by the batch and dropout; running
    statistics and the modes of all modules stay as they are.
    """
    _instance("model", model, nn.Module, "a torch.nn.Module")
    smoothing, training = _number("label_smoothing", label_smoothing, 0, 1), _option("mode", mode, ("eval", "train")) == "train"
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise (ValueError if isinstance(batch, (tuple, list)) else TypeError)(f"batch must be (images, labels) or with indices, got {_got(batch)}")
    images = _images(batch[0], model)
    labels = _labels(batch[1], len(images))

    def loss() -> Tensor:
        with _mode(model, training):
            return _cross_entropy(_logits(model, images), labels, smoothing)

    return loss


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    with still_statistics(model):
        try:
            model.train(training)
            yield
        finally:
            for module, mode in before:
                module.training = mode


# ------------------------------------------------------------------------------------------------------------------------ what comes in


def _named(parameters: Any) -> dict[str, Tensor]:
    expected = "a torch.nn.Module, or floating-point tensors that require a gradient, by their names"
    if not isinstance(parameters, (nn.Module, Mapping)):
        raise TypeError(f"parameters must be {expected}, got {_got(parameters)}")
    named = {name: p for name, p in parameters.named_parameters() if p.requires_grad} if isinstance(parameters, nn.Module) else dict(parameters)
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not value.is_floating_point() or not value.requires_grad or not value.is_leaf:
            raise TypeError(f"parameters must be {expected}, got {_got(value)} for {name!r}")
    if not named:
        raise ValueError(f"parameters must be {expected}, got none")
    return named


def _value(loss: Callable[[], Any]) -> Tensor:
    """(): what `loss` gives now."""
    found = loss()
    if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
        raise TypeError(f"loss must give a tensor with one floating-point number, got {_got(found)}")
    if not torch.isfinite(found).all():
        raise ValueError(f"loss must give a finite number, got {found.item()}")
    return found.reshape(())


@torch.inference_mode(False)
@torch.enable_grad()
def _slope(loss: Callable[[], Any], parameters: list[Tensor], *, twice: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss and its gradient; twice: which can be differentiated again."""
    value = _value(loss)
    if not value.requires_grad:
        raise ValueError("loss must depend on parameters, got a number without a gradient")
    return value.detach(), torch.autograd.grad(value, parameters, create_graph=twice, materialize_grads=True)


def _radii(rho: Any) -> tuple[list[float], Callable[[Tensor], Any]]:
    """Distances as a list, and what turns results (..., R) into the form of what came: a number makes (...,)."""
    if isinstance(rho, Real) and not isinstance(rho, bool):
        return [_number("rho", rho)], lambda found: found[..., 0]
    if not isinstance(rho, Tensor) and isinstance(rho, (list, tuple)) and all(isinstance(one, int) for one in rho):
        rho = [float(_number("rho", one)) for one in rho]
    given = _numbers("rho", rho, (None,), "(R,), or one number")
    return given.tolist(), lambda found: _like(rho, found)


@torch.no_grad()
def _rises(loss: Callable[[], Any], parameters: list[Tensor], base: Tensor, direction: list[Tensor], radii: list[float]) -> Tensor:
    """(R,): L(theta + rho d) - L(theta)."""
    found = []
    for rho in radii:
        with moved(parameters, [rho * part for part in direction]):
            found.append(_value(loss) - base)
    return torch.stack(found)


# ------------------------------------------------------------------------------------------------------------------------- four measures


def sam_sharpness(loss: Callable[[], Tensor], parameters, rho):
    """L(theta + rho g / ||g||) - L(theta), SAM's estimate of the worst rise at a distance rho.

    rho: a number, which gives a tensor (), or distances (R,), which give (R,) of their kind: a curve. For small rho it is rho ||g||.
    """
    loss, named, (radii, shaped) = _function("loss", loss, "a function without arguments"), _named(parameters), _radii(rho)
    weights = list(named.values())
    base, slope = _slope(loss, weights)
    return shaped(_rises(loss, weights, base, ascent(slope, 1.0), radii))


def adaptive_sharpness(loss: Callable[[], Tensor], parameters, rho, *, eta: float = 0.01):
    """L(theta + rho T^2 g / ||T g||) - L(theta), the radius of ASAM: T = |theta| + eta for names with "weight" in them, 1 for others.

    With eta = 0 it stays as it is where a weight is multiplied and the next one divided by the same number, without a change of what the network does. rho: as
    for `sam_sharpness`.
    """
    loss, named, (radii, shaped) = _function("loss", loss, "a function without arguments"), _named(parameters), _radii(rho)
    names, weights, eta = list(named), list(named.values()), _number("eta", eta, 0)
    base, slope = _slope(loss, weights)
    return shaped(_rises(loss, weights, base, ascent(slope, 1.0, adaptive_scales(names, weights, eta)), radii))


def random_sharpness(
    loss: Callable[[], Tensor], parameters, rho, *, directions: int = 10, each: bool = False, generator: torch.Generator | None = None,
):  # fmt: skip
    """The mean of L(theta + rho d) - L(theta) over random unit directions d, near rho^2 tr(H) / (2 P) for small rho at a minimum of P parameters.

    each: the rises of all directions, (directions,) or (directions, R). rho: as for `sam_sharpness`; directions are the same for all distances.
    """
    loss, named, (radii, shaped) = _function("loss", loss, "a function without arguments"), _named(parameters), _radii(rho)
    directions, each, _ = _integer("directions", directions, 1), _flag("each", each), _generator(generator)
    weights = list(named.values())
    with torch.no_grad():
        base = _value(loss)
    rises = torch.stack([_rises(loss, weights, base, ascent(_normal(weights, generator), 1.0), radii) for _ in range(directions)])
    return shaped(rises if each else rises.mean(0))


def _normal(like: list[Tensor], generator: torch.Generator | None) -> list[Tensor]:
    """Standard normal numbers of these shapes, drawn where the generator lies, the same ones for all devices."""
    place = "cpu" if generator is None else generator.device
    return [torch.randn(p.shape, generator=generator, device=place, dtype=torch.promote_types(p.dtype, torch.float32)).to(p) for p in like]


class Curvature(NamedTuple):
    """An eigenvalue of the Hessian, and how it was found."""

    value: float
    iterations: int  # products of the Hessian with a vector
    converged: bool
    trace: tuple[float, ...]  # the estimate after each of them


def hessian_eigenvalue(
    loss: Callable[[], Tensor], parameters, *, method: str = "power", iterations: int = 30, tolerance: float = 1e-3, generator: torch.Generator | None = None,
) -> Curvature:  # fmt: skip
    """The top eigenvalue of the Hessian of the loss, by products Hv = d/dtheta (g . v), at most `iterations` of them.

    method: "power" finds the eigenvalue of largest magnitude, which may be negative; "lanczos" the largest, with fewer products, and keeps a vector for each.
    It ends once the estimate (power: the Rayleigh quotient q) changes by at most `tolerance` times its size (power: and ||Hv - q v||^2 is at most `tolerance`
    times q^2, which between eigenvalues of one size and both signs it never becomes), or where the vectors that the start leads to end.
    """
    loss, named, method = _function("loss", loss, "a function without arguments"), _named(parameters), _option("method", method, ("power", "lanczos"))
    iterations, tolerance, _ = _integer("iterations", iterations, 1), _number("tolerance", tolerance, 0), _generator(generator)
    weights = list(named.values())
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated twice
        slope = torch.cat([part.reshape(-1) for part in _slope(loss, weights, twice=True)[1]])

        def product(v: Tensor) -> Tensor:
            if not slope.requires_grad:  # a loss without curvature
                return torch.zeros_like(v)
            parts = torch.autograd.grad(slope @ v, weights, retain_graph=True, materialize_grads=True)
            found = torch.cat([part.reshape(-1) for part in parts])
            if not torch.isfinite(found).all():
                raise ValueError("loss must have finite second derivatives, got others")
            return found

        start = torch.cat([part.reshape(-1) for part in _normal(weights, generator)])
        estimates, trace = (_power if method == "power" else _lanczos)(product, start / start.norm()), []
        for estimate, left in estimates:
            trace.append(estimate)
            if len(trace) > 1 and abs(trace[-1] - trace[-2]) <= tolerance * abs(trace[-1]) and left <= tolerance * trace[-1] ** 2:
                return Curvature(trace[-1], len(trace), True, tuple(trace))
            if len(trace) == iterations:
                break
        else:  # no vector is left
            return Curvature(trace[-1], len(trace), True, tuple(trace))
    return Curvature(trace[-1], len(trace), False, tuple(trace))


def _length(v: Tensor) -> Tensor:
    """The norm, also of numbers whose squares are too large or too small for their precision."""
    largest = v.abs().max()
    return largest if largest == 0 else largest * (v / largest).norm()


def _power(product: Callable[[Tensor], Tensor], v: Tensor) -> Iterator[tuple[float, float]]:
    """The Rayleigh quotient q, and ||Hv - q v||^2."""
    while True:
        hv = product(v)
        quotient = v @ hv
        yield float(quotient), float(_length(hv - quotient * v)) ** 2
        length = _length(hv)
        if length == 0:
            return
        v = hv / length


def _lanczos(product: Callable[[Tensor], Tensor], v: Tensor) -> Iterator[tuple[float, float]]:
    """The largest eigenvalue of the tridiagonal matrix, with vectors made orthogonal to all before them, twice; and 0."""
    basis, diagonal, beside = [v], [], []
    while True:
        w = product(basis[-1])
        diagonal.append(float(basis[-1] @ w))
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
        values = torch.linalg.eigvalsh(matrix)
        yield float(values[-1]), 0.0
        for _ in range(2):
            known = torch.stack(basis)
            w = w - known.T @ (known @ w)
        length = float(_length(w))
        if length <= 10 * torch.finfo(w.dtype).eps * float(values.abs().max()) or len(basis) == len(v):
            return
        basis.append(w / length)
        beside.append(length)


# -------------------------------------------------------------------------------------------------------------------------- the landscape


def filter_normalised(parameters, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """A random direction in which every filter is as long as the same filter of the weights (Li et al., NeurIPS 2018, arXiv 1712.09913).

    A filter is what one output channel (first axis) of a tensor of two axes or more reads; tensors of fewer axes, biases and norms, do not move. Returns the
    direction by the names of the parameters.
    """
    named, _ = _named(parameters), _generator(generator)
    drawn = _normal(list(named.values()), generator)
    return {name: _per_filter(d, p.detach()) if p.ndim > 1 else torch.zeros_like(d) for d, (name, p) in zip(drawn, named.items(), strict=True)}


def _per_filter(direction: Tensor, weight: Tensor) -> Tensor:
    lengths = weight.flatten(1).norm(dim=1) / (direction.flatten(1).norm(dim=1) + TINY)
    return direction * lengths.view(-1, *[1] * (weight.ndim - 1))


@torch.no_grad()
def landscape(loss: Callable[[], Tensor], parameters, first, second, a, b):
    """L(theta + a first + b second) on a grid: (A, B), of the kind of `a`.

    first, second: directions as `filter_normalised` gives them, with a tensor for the name of each parameter; a: (A,), b: (B,), [-1, 1] in the paper's plots.
    """
    loss, named = _function("loss", loss, "a function without arguments"), _named(parameters)
    ways = [_direction(name, way, named) for name, way in (("first", first), ("second", second))]
    rows, columns = (_numbers(name, value, (None,), f"({name.upper()},)") for name, value in (("a", a), ("b", b)))
    weights, found = list(named.values()), []
    for i in rows.tolist():
        for j in columns.tolist():
            with moved(weights, [i * d1 + j * d2 for d1, d2 in zip(*ways, strict=True)]):
                found.append(_value(loss))
    return _like(a, torch.stack(found).view(len(rows), len(columns)))


def _direction(name: str, value: Any, named: Mapping[str, Tensor]) -> list[Tensor]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be tensors by the names of the parameters, got {_got(value)}")
    if value.keys() != named.keys():
        odd = sorted(map(str, value.keys() ^ named.keys()))
        raise ValueError(f"{name} must have a tensor for each of the {len(named)} parameters and no others, got a difference at {odd[0]}")
    return [_numbers(f"{name}[{key!r}]", value[key], p.shape, f"{tuple(p.shape)}").to(p) for key, p in named.items()]
