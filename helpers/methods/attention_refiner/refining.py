"""Refining attention maps: more maps by mixing heads, a small convolution over each, and back to as many maps as heads.

Zhou, Shi, Kang, Yu, Jiang, Li, Jin, Hou and Feng, "Refiner: Refining Self-attention for Vision Transformers", 2021, arXiv 2106.03714. A map has a row for each
query and a column for each key: (..., H, N, M) for H heads, N queries and M keys. From top to bottom: mixing heads, convolving maps, all three steps, the same
by averaging values locally, and the layer that learns it.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._arguments import _batch, _flag, _generator, _got, _grid, _integer, _like, _number, _numbers, _option

__all__ = ["MapRefiner", "Steps", "aggregate_values", "attend_locally", "convolve", "mix_heads", "refine"]

OVER, REFINE, STARTS = ("raster", "grid"), ("linear", "inverted_residual"), ("random", "identity")


class Steps(NamedTuple):
    """Maps after each step: expanded and convolved (..., H', N, M), refined (..., H, N, M). They may be negative, and rows need not sum to 1."""

    expanded: Tensor
    convolved: Tensor
    refined: Tensor


# ---------------------------------------------------------------------------------------------------------------------- mixing heads


def mix_heads(maps, weight):
    """Each new map a weighted sum of the old ones, sum_i weight[m, i] A^i: the paper's expansion (H' > H) and its reduction (H' < H).

    maps (..., H, N, M), weight (H', H). Returns (..., H', N, M), like maps.
    """
    given = _numbers("maps", maps, "... H N M", detach=False)
    return _like(maps, _mixed(given, _within("weight", _numbers("weight", weight, f"H' {given.shape[-3]}", detach=False), given)))


def _mixed(maps: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("mh,...hij->...mij", weight, maps)


def _within(name: str, value: Tensor, other: Tensor) -> Tensor:
    """In the dtype and on the device of another tensor, where it must not become infinite; a copy."""
    found = value.to(other, copy=True)
    if not found.is_meta and not found.isfinite().all():
        raise ValueError(f"{name} must be finite as {str(other.dtype).removeprefix('torch.')}, in which it is used, got {value.abs().max():g}")
    return found


# ------------------------------------------------------------------------------------------------------------------- convolving maps


def convolve(maps, kernels, *, over: str = "raster", grid: tuple[int, int] | None = None):
    """Distributed local attention: a k x k kernel slides over each map, zeros around it, not mirrored (a cross-correlation), k odd.

    maps (..., N, M) with one kernel (k, k), or (..., H, N, M) with one for each map, (H, k, k). over="raster", the paper's: the map is an image of N x M
    pixels, sum_ab w[a, b] A[i + a, j + b]. Its neighbours are neighbours in the order of the tokens: left and right ones of a picture, but also the last patch
    of a row with the first of the next, and the class token with the first patch; those above and below are out of reach. over="grid": each row of the
    map is an image of its own, of its last rows * columns keys on `grid` (rows, columns), and the kernel slides there; tokens before them (the class token)
    have no place on the grid and keep their entries. Returns maps like maps.
    """
    grid, given = _grid_of(over, grid), _numbers("maps", maps, "... N M", detach=False)
    weight = _kernels(kernels, given, "maps")
    _fit("maps", given.shape[-1], grid)
    return _like(maps, _convolved(given, weight, grid))


def _kernels(value: Any, maps: Tensor, of: str) -> Tensor:
    """One odd square kernel, or as many as there are maps."""
    kernels = _numbers("kernels", value, "... k k", detach=False)
    rows, columns = kernels.shape[-2:]
    if rows != columns or rows % 2 == 0 or kernels.ndim > 3:
        raise ValueError(f"kernels must be (k, k) or (H, k, k) with an odd k, got shape {tuple(kernels.shape)}")
    if kernels.ndim == 3 and (maps.ndim < 3 or maps.shape[-3] != len(kernels)):
        raise ValueError(f"kernels must be one, (k, k), or as many as there are {of}, whose shape is {tuple(maps.shape)}, got shape {tuple(kernels.shape)}")
    return _within("kernels", kernels, maps)


def _grid_of(over: Any, grid: Any) -> tuple[int, int] | None:
    """The grid, or None where neighbours are those in the order of the tokens."""
    if _option("over", over, OVER) == "grid":
        return _grid("grid", grid)
    if grid is not None:
        raise ValueError(f"grid must be None over the raster, got {_got(grid)}")
    return None


def _fit(name: str, tokens: int, grid: tuple[int, int] | None) -> None:
    if grid is not None and math.prod(grid) > tokens:
        raise ValueError(f"{name} must have the {math.prod(grid)} keys of grid {grid[0]} x {grid[1]} or more, got {tokens}")


def _convolved(maps: Tensor, kernels: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """maps (..., H, N, M) with kernels (H, k, k), or (..., N, M) with (k, k); grid None: over the raster."""
    kernels = kernels if kernels.ndim == 3 else kernels[None]
    count, side = len(kernels), kernels.shape[-1]
    images = maps.reshape(-1, count, *maps.shape[-2:])
    if grid is None:
        return F.conv2d(images, kernels[:, None], padding=side // 2, groups=count).reshape(maps.shape)
    apart, placed = images.tensor_split([maps.shape[-1] - math.prod(grid)], -1)
    rows = F.conv3d(placed.unflatten(-1, grid), kernels[:, None, None], padding=(0, side // 2, side // 2), groups=count)
    return torch.cat([apart, rows.flatten(-2)], -1).reshape(maps.shape)


# -------------------------------------------------------------------------------------------------------------------- the three steps


def refine(maps, expansion, kernels, reduction, *, over: str = "raster", grid: tuple[int, int] | None = None) -> Steps:
    """Expand, convolve, reduce: the paper's refiner, which is linear.

    maps (..., H, N, M); expansion (H', H); kernels (H', k, k), or (k, k) for all; reduction (H, H'); over, grid: of `convolve`. Returns Steps, like maps;
    their last times the values is what each head gives.
    """
    grid, given = _grid_of(over, grid), _numbers("maps", maps, "... H N M", detach=False)
    heads = given.shape[-3]
    _fit("maps", given.shape[-1], grid)
    first = _within("expansion", _numbers("expansion", expansion, f"H' {heads}", detach=False), given)
    last = _within("reduction", _numbers("reduction", reduction, f"{heads} {len(first)}", detach=False), given)
    expanded = _mixed(given, first)
    weight = _kernels(kernels, expanded, "expanded maps").expand(len(first), -1, -1)
    convolved = _convolved(expanded, weight, grid)
    return Steps(*(_like(maps, found) for found in (expanded, convolved, _mixed(convolved, last))))


# ------------------------------------------------------------------------------------------------------- the same by averaging values


def aggregate_values(values, kernels, *, over: str = "raster", grid: tuple[int, int] | None = None):
    """Values averaged locally, before any attention, with the mirrored kernel.

    values (..., M, d) with one kernel (k, k), or (..., H, M, d) with (H, k, k); over, grid: of `convolve`. Over the raster each row a of the kernel gives
    values of its own, (U_a)_j = sum_b w[a, b] V_{j - b}, and the result is (..., k, M, d), a from -(k // 2) up. Over the grid it is (..., M, d), the sum over
    both axes of the grid, and tokens without a place on it keep their values. Like values.
    """
    grid, given = _grid_of(over, grid), _numbers("values", values, "... M d", detach=False)
    weight = _kernels(kernels, given, "values")
    _fit("values", given.shape[-2], grid)
    return _like(values, _aggregated(given, weight, grid))


def attend_locally(maps, values, kernels, *, over: str = "raster", grid: tuple[int, int] | None = None):
    """What convolved maps do to values, without convolving a map: sum_a [A U_a]_{i + a}, where what lies beyond the first and last query is zero.

    It averages values locally (`aggregate_values`), attends globally with the plain maps, and sums over shifted queries: equal to `convolve(maps, kernels) @
    values`, borders included. maps (..., N, M), values (..., M, d) with the same axes in front; kernels, over, grid: of `convolve`. Over the grid the
    kernel does not reach other queries, and A U is all. Returns (..., N, d), like maps.
    """
    grid, given = _grid_of(over, grid), _numbers("maps", maps, "... N M", detach=False)
    carried = _numbers("values", values, "... M d", detach=False)
    if carried.shape[:-1] != (*given.shape[:-2], given.shape[-1]):
        raise ValueError(f"values must be (..., M, d) with a row for each key of maps, {tuple(given.shape)}, got shape {tuple(carried.shape)}")
    weight = _kernels(kernels, given, "maps")
    _fit("maps", given.shape[-1], grid)
    local = _aggregated(_within("values", carried, given), weight, grid)
    if grid is not None:
        return _like(maps, given @ local)
    reach = weight.shape[-1] // 2
    return _like(maps, sum(_shifted(given @ local[..., a + reach, :, :], a, -2) for a in range(-reach, reach + 1)))


def _aggregated(values: Tensor, kernels: Tensor, grid: tuple[int, int] | None) -> Tensor:
    kernels, reach = kernels.to(values), kernels.shape[-1] // 2
    offsets = range(-reach, reach + 1)
    if grid is None:
        near = {b: _shifted(values, -b, -2) for b in offsets}  # V_{j - b}
        return torch.stack([sum(kernels[..., a, b + reach, None, None] * near[b] for b in offsets) for a in range(len(offsets))], -3)
    apart, placed = values.tensor_split([values.shape[-2] - math.prod(grid)], -2)
    placed = placed.unflatten(-2, grid)
    weight = lambda a, b: kernels[..., a + reach, b + reach, None, None, None]  # noqa: E731
    local = sum(weight(a, b) * _shifted(_shifted(placed, -a, -3), -b, -2) for a in offsets for b in offsets)
    return torch.cat([apart, local.flatten(-3, -2)], -2)


def _shifted(x: Tensor, by: int, axis: int) -> Tensor:
    """y_i = x_{i + by} along an axis, zeros beyond its ends."""
    size = x.shape[axis]
    by = max(-size, min(size, by))
    kept = x.narrow(axis, max(by, 0), size - abs(by))
    zeros = torch.zeros_like(x.narrow(axis, 0, abs(by)))
    return torch.cat([kept, zeros] if by > 0 else [zeros, kept], axis)


# ------------------------------------------------------------------------------------------------------------------------- the layer


class MapRefiner(nn.Module):
    """The refiner as a layer: forward(maps (B, H, N, M)) -> (B, H, N, M).

    heads: H; kappa: H' = round(kappa H) maps in between (the paper's 3); kernel: its odd side k, 1 is a re-attention that only mixes heads; over, grid: of
    `convolve`. refine="linear" is the paper's formula; "inverted_residual" what the official code does: BatchNorm behind each of the three steps, ReLU6 behind
    the first two, and the maps that came in are added. norm, activation and residual switch these one by one, None as `refine` says. start: "random" as torch
    starts convolutions, drawn from `generator`, or where there is none from torch's own; "identity" gives back what comes in, and yet no two of the H' maps are
    alike: the first H copy the heads, or with a residual all are random, and what ends the branch is zero. Without a residual it takes H' >= H and no norm, and
    with an activation gives back entries in [0, 6] only. Weights: `expand` (H', H, 1, 1), `local` (H', 1, k, k), `reduce` (H, H', 1, 1).
    """

    def __init__(
        self, heads: int, *, kappa: float = 3, kernel: int = 3, refine: str = "linear", norm: bool | None = None, activation: bool | None = None,
        residual: bool | None = None, over: str = "raster", grid: tuple[int, int] | None = None, start: str = "random",
        generator: torch.Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        options = dict(norm=norm, activation=activation, residual=residual)
        self.heads, self.expanded, side, options = _layout(heads, kappa, kernel, refine, options)
        self.kernel, self.grid, self.residual = side, _grid_of(over, grid), options["residual"]
        start, _ = _option("start", start, STARTS), _generator(generator)
        if start == "identity" and not self.residual and (options["norm"] or self.expanded < self.heads):
            got = "a norm" if options["norm"] else f"{self.expanded} for {self.heads} heads"
            raise ValueError(f"start must be random where there is no residual but a norm, or fewer maps than heads, got 'identity' with {got}")
        with _left_alone(generator):
            self.expand = nn.Conv2d(self.heads, self.expanded, 1, bias=False)
            # of `local` the weight alone is used, since over a grid its convolution is another
            self.local = nn.Conv2d(self.expanded, self.expanded, side, padding=side // 2, groups=self.expanded, bias=False)
            self.reduce = nn.Conv2d(self.expanded, self.heads, 1, bias=False)
        widths = (self.expanded, self.expanded, self.heads)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if options["norm"] else nn.Identity() for width in widths)
        self.activation = nn.ReLU6() if options["activation"] else nn.Identity()  # not in place: the maps are used again
        self._start(start, generator)

    def forward(self, maps: Tensor) -> Tensor:
        return self.steps(maps).refined

    def steps(self, maps: Tensor) -> Steps:
        """Maps behind each step, with its norm and activation."""
        maps = _batch("maps", maps, f"B {self.heads} N M", self.expand.weight)
        _fit("maps", maps.shape[-1], self.grid)
        expanded = self.activation(self.norms[0](self.expand(maps)))
        convolved = self.activation(self.norms[1](_convolved(expanded, self.local.weight[:, 0], self.grid)))
        refined = self.norms[2](self.reduce(convolved))
        return Steps(expanded, convolved, maps + refined if self.residual else refined)

    @torch.no_grad()
    def set_weights(self, *, expansion=None, kernels=None, reduction=None) -> "MapRefiner":
        """Put numbers in: expansion (H', H), kernels (H', k, k) or one (k, k) for all, reduction (H, H'); what is None stays. Returns the layer."""
        found = {}
        for name, value, layer in (("expansion", expansion, self.expand), ("reduction", reduction, self.reduce)):
            if value is not None:
                found[name] = layer, _numbers(name, value, f"{layer.out_channels} {layer.in_channels}")[..., None, None]
        if kernels is not None:
            given = _numbers("kernels", kernels, f"... {self.kernel} {self.kernel}")
            if given.shape[:-2] not in ((), (self.expanded,)):
                raise ValueError(f"kernels must be ({self.expanded}, {self.kernel}, {self.kernel}) or one of these, got shape {tuple(given.shape)}")
            found["kernels"] = self.local, given.expand(self.expanded, -1, -1)[:, None]
        # copies, since what comes may be a view of another of these weights
        for layer, value in [(layer, _within(name, value, layer.weight)) for name, (layer, value) in found.items()]:
            layer.weight.copy_(value)
        return self

    @torch.no_grad()
    def _start(self, start: str, generator: torch.Generator | None) -> None:
        for layer in (self.expand, self.local, self.reduce):
            _drawn(layer, generator)
        if start == "identity" and self.residual:
            last = self.norms[2] if isinstance(self.norms[2], nn.BatchNorm2d) else self.reduce
            nn.init.zeros_(last.weight)
        elif start == "identity":
            heads, centre, same = slice(self.heads), self.kernel // 2, torch.eye(self.heads)[..., None, None]
            self.expand.weight[heads] = same
            self.local.weight[heads] = F.pad(torch.ones(1, 1, 1, 1), [centre] * 4)
            self.reduce.weight[:] = 0
            self.reduce.weight[:, heads] = same


def _left_alone(generator: torch.Generator | None):
    """What layers draw when they are made does not move torch's own generator where another one is given, from which they are drawn anew."""
    return torch.random.fork_rng(devices=[], enabled=generator is not None)


def _drawn(layer: nn.Module, generator: torch.Generator | None) -> None:
    """Torch's own start of a linear map or a convolution, from this generator."""
    bound = layer.weight[0].numel() ** -0.5
    for parameter in layer.parameters():
        parameter.uniform_(-bound, bound, generator=generator)


def _layout(heads: Any, kappa: Any, kernel: Any, refine: Any, switches: dict[str, Any]) -> tuple[int, int, int, dict[str, bool]]:
    """Heads, expanded heads, side of the kernel and switches, checked."""
    heads, kappa, kernel = _integer("heads", heads, 1), _number("kappa", kappa, above=0), _integer("kernel", kernel, 1)
    if round(kappa * heads) < 1:
        raise ValueError(f"kappa must leave a map or more, round(kappa * heads) >= 1, got {kappa:g} for {heads} heads")
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, got {kernel}")
    official = _option("refine", refine, REFINE) == "inverted_residual"
    return heads, round(kappa * heads), kernel, {name: official if value is None else _flag(name, value) for name, value in switches.items()}
