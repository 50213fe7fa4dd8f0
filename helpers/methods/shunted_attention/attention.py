"""Shunted attention: groups of heads whose keys and values are read at several rates, and a feed-forward layer that sees detail.

Ren, Zhou, He, Feng and Wang, "Shunted Self-Attention via Multi-Scale Token Aggregation", CVPR 2022, arXiv 2111.15193. Where the paper's text and the official
code differ, this follows the code. Tokens are (B, N, C) on a grid of N = H * W places, row by row. From top to bottom: tokens and maps, aggregation, the local
term, attention, one group, the layer, the feed-forward layer, what a layer costs.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._arguments import _flag, _got, _grid, _instance, _integer, _integers, _like, _numbers, _option

__all__ = ["FeedForward", "ShuntedAttention", "aggregate", "attend", "attention_macs", "depthwise", "reduced_grid"]

BORDERS, LOCALS = ("pad", "drop"), ("official", "value", "output", "none")
DETAILS, RATE_ONE = ("added", "alone", "none"), ("official", "conv", "tokens")
INNER_EPS, EPS = 1e-5, 1e-6  # of the norm of aggregated tokens, and of all others


# ------------------------------------------------------------------------------------------------------------------- tokens and maps


def _to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def _to_tokens(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)


def _fitting(tokens: Tensor, grid: Any, least: int = 1) -> tuple[int, int]:
    """The grid, once it is seen to be that of the tokens (B, N, C) and to have `least` rows and columns."""
    rows, columns = _grid("grid", grid)
    if tokens.ndim != 3 or tokens.shape[1] != rows * columns:
        raise ValueError(f"tokens must be (B, {rows * columns}, C) on a grid of {rows} x {columns}, got shape {tuple(tokens.shape)}")
    if min(rows, columns) < least:
        raise ValueError(f"grid must have {least} rows and columns or more, the largest rate, got {rows} x {columns}")
    return rows, columns


# ----------------------------------------------------------------------------------------------------------------------- aggregation


def reduced_grid(grid: tuple[int, int], rate: int, *, border: str = "pad") -> tuple[int, int]:
    """How many rows and columns of keys a grid (H, W) gives at a rate: H / r and W / r, rounded up ("pad") or down ("drop", as the official code does)."""
    grid, rate = _grid("grid", grid), _integer("rate", rate, 1)
    if rate > min(grid):
        raise ValueError(f"rate must be at most the smaller side of the grid, {min(grid)}, got {rate}")
    return _reduced(grid, rate, _option("border", border, BORDERS))


def _reduced(grid: tuple[int, int], rate: int, border: str) -> tuple[int, int]:
    return tuple(-(-side // rate) if border == "pad" else side // rate for side in grid)


def aggregate(tokens, weight, bias=None, *, grid: tuple[int, int], border: str = "pad"):
    """Multi-scale token aggregation before its norm: a dense convolution whose kernel is its stride, the rate r.

    tokens (B, H * W, C); weight (D, C, r, r), bias (D,) or None; grid (H, W). border "pad": zeros complete the last cells; "drop": the last H mod r rows and
    W mod r columns enter no key, as in the official code, with a UserWarning. Returns (B, M, D) for the M places of `reduced_grid`, like tokens.
    """
    given, kernel = _numbers("tokens", tokens, "B N C", detach=False), _numbers("weight", weight, "D C r r", detach=False)
    grid, border = _fitting(given, grid), _option("border", border, BORDERS)
    if kernel.shape[2] != kernel.shape[3] or kernel.shape[1] != given.shape[2]:
        raise ValueError(f"weight must be (D, {given.shape[2]}, r, r), got shape {tuple(kernel.shape)}")
    if kernel.shape[2] > min(grid):
        raise ValueError(f"weight must have a rate of at most {min(grid)}, the smaller side of the grid, got {kernel.shape[2]}")
    offset = None if bias is None else _numbers("bias", bias, f"{len(kernel)}", detach=False).to(given)
    return _like(tokens, _aggregated(given, grid, kernel.to(given), offset, border))


def _aggregated(tokens: Tensor, grid: tuple[int, int], weight: Tensor, bias: Tensor | None, border: str) -> Tensor:
    rate, maps = weight.shape[-1], _to_map(tokens, grid)
    left = [side % rate for side in grid]
    if any(left) and border == "pad":
        maps = F.pad(maps, (0, -grid[1] % rate, 0, -grid[0] % rate))
    elif any(left):
        text = f"the last {left[0]} of {grid[0]} rows and {left[1]} of {grid[1]} columns enter no key at rate {rate}; border='pad' keeps them"
        warnings.warn(text, UserWarning, stacklevel=3)
    return _to_tokens(F.conv2d(maps, weight, bias, stride=rate))


# -------------------------------------------------------------------------------------------------------------------- the local term


def depthwise(tokens, weight, bias=None, *, grid: tuple[int, int]):
    """The 3 x 3 depthwise convolution of tokens on their grid, zeros around: DW(U), to be added to values or hidden units.

    tokens (B, H * W, C); weight (C, 1, 3, 3), bias (C,) or None; grid (H, W). Returns (B, H * W, C), like tokens.
    """
    given = _numbers("tokens", tokens, "B N C", detach=False)
    grid, channels = _fitting(given, grid), given.shape[2]
    kernel = _numbers("weight", weight, f"{channels} 1 3 3", detach=False).to(given)
    offset = None if bias is None else _numbers("bias", bias, f"{channels}", detach=False).to(given)
    return _like(tokens, _to_tokens(F.conv2d(_to_map(given, grid), kernel, offset, padding=1, groups=channels)))


class Depthwise(nn.Conv2d):
    """`depthwise` as a layer: forward(tokens, grid)."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return _to_tokens(super().forward(_to_map(tokens, grid)))


# ------------------------------------------------------------------------------------------------------------------------- attention


def attend(q, k, v) -> tuple:
    """softmax(Q K^T / sqrt(d)) V, written out. q (..., N, d), k (..., M, d), v (..., M, e) -> output (..., N, e), maps (..., N, M)."""
    queries, keys, values = (_numbers(name, value, "... n d", detach=False) for name, value in (("q", q), ("k", k), ("v", v)))
    if keys.shape[:-2] != queries.shape[:-2] or keys.shape[-1] != queries.shape[-1]:
        raise ValueError(f"k must be (..., M, d) with the axes and the width of q, {tuple(queries.shape)}, got shape {tuple(keys.shape)}")
    if values.shape[:-1] != keys.shape[:-1]:
        raise ValueError(f"v must be (..., M, e) with a row for each of k, {tuple(keys.shape)}, got shape {tuple(values.shape)}")
    maps = _attention(queries, keys.to(queries))
    return _like(q, maps @ values.to(queries)), _like(q, maps)


def _attention(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


class Group(nn.Module):
    """Keys and values of some heads at one rate: A = GELU(LN(Conv(X))), then one linear map to K and V, and the local term of V.

    dim: C; width: the channels of K and of V that the group owns; tokens: whether it reads X itself and no A. forward(X, grid) -> K, V (B, M, width each),
    the reduced grid, and DW(V) or None.
    """

    def __init__(self, dim: int, width: int, rate: int, *, tokens: bool, norm: bool, activation: bool, bias: bool, local: bool, border: str):
        super().__init__()
        self.rate, self.border = rate, border
        self.conv = None if tokens else nn.Conv2d(dim, dim, rate, rate)
        self.norm = nn.LayerNorm(dim, eps=INNER_EPS) if norm and not tokens else nn.Identity()
        self.activation = nn.GELU() if activation and not tokens else nn.Identity()
        self.kv = nn.Linear(dim, 2 * width, bias=bias)
        self.local = Depthwise(width) if local else None

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[int, int], Tensor | None]:
        if self.conv is not None:
            tokens = self.activation(self.norm(_aggregated(tokens, grid, self.conv.weight, self.conv.bias, self.border)))
        grid = _reduced(grid, self.rate, self.border)
        k, v = self.kv(tokens).chunk(2, -1)  # channels in the order (head, d)
        return k, v, grid, None if self.local is None else self.local(v, grid)


class ShuntedAttention(nn.Module):
    """Multi-head attention whose heads are split into as many equal groups as there are rates, each with keys and values of its own rate.

    dim: C, a multiple of heads, which is a multiple of the number of rates; rates: (8, 4) is the paper's first stage, (1,) its last, (r,) a pyramid's.
    local: where the 3 x 3 depthwise term of the values goes: "value" adds it before attention, on the reduced grid; "output" after attention, which takes
    rates of 1; "none"; "official" is "output" for rates (1,) and "value" elsewhere. rate_one: what a group of rate 1 reads, a 1 x 1 "conv" with norm and GELU,
    or the "tokens" themselves; "official" is tokens for rates (1,) and conv in company. norm, activation: LN and GELU of aggregated tokens; bias: of queries,
    keys and values; border: of `aggregate`. forward(tokens (B, H * W, C), grid (H, W)) -> (B, H * W, C).
    """

    def __init__(
        self, dim: int, heads: int, rates: tuple[int, ...] = (8, 4), *, local: str = "official", rate_one: str = "official", norm: bool = True,
        activation: bool = True, bias: bool = True, border: str = "pad",
    ):  # fmt: skip
        super().__init__()
        dim, heads, self.rates = _integer("dim", dim, 1), _integer("heads", heads, 1), _integers("rates", rates, 1)
        _layout("dim", dim, "heads", heads, self.rates)
        alone = self.rates == (1,)
        self.local, rate_one = _placed("local", local, self.rates), _option("rate_one", rate_one, RATE_ONE)
        reads = ("tokens" if alone else "conv") if rate_one == "official" else rate_one
        options = dict(norm=_flag("norm", norm), activation=_flag("activation", activation), bias=_flag("bias", bias), local=self.local != "none")
        self.dim, self.heads, border = dim, heads, _option("border", border, BORDERS)
        self.q, self.proj = nn.Linear(dim, dim, bias=options["bias"]), nn.Linear(dim, dim)
        self.groups = nn.ModuleList(
            Group(dim, dim // len(self.rates), rate, tokens=rate == 1 and reads == "tokens", border=border, **options) for rate in self.rates
        )

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.proj(self.mix(tokens, grid))

    def mix(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """What the heads give before the projection, head after head: (B, H * W, C)."""
        found = []
        for q, k, v, _, local in self._read(tokens, grid):
            out = F.scaled_dot_product_attention(q, k, v)
            found.append(out + local if self.local == "output" else out)
        return torch.cat(found, 1).transpose(1, 2).flatten(2)

    def keys_values(self, tokens: Tensor, grid: tuple[int, int]) -> list[tuple[Tensor, Tensor, tuple[int, int]]]:
        """Of each group: keys and values (B, heads of the group, M, d), the latter with a local term that goes there, and the reduced grid."""
        return [(k, v, reduced) for _, k, v, reduced, _ in self._read(tokens, grid)]

    def maps(self, tokens: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Of each group: its softmax rows (B, heads of the group, H * W, M)."""
        return [_attention(q, k) for q, k, *_ in self._read(tokens, grid)]

    def _read(self, tokens: Tensor, grid: tuple[int, int]) -> list[tuple]:
        """Of each group: queries, keys, values by heads, the reduced grid, and the local term by heads or None."""
        _instance("tokens", tokens, Tensor, "a tensor (B, N, C)")
        grid = _fitting(tokens, grid, max(self.rates))
        if tokens.shape[2] != self.dim:
            raise ValueError(f"tokens must have {self.dim} channels, got shape {tuple(tokens.shape)}")
        split = lambda x: x.unflatten(-1, (self.heads // len(self.groups), -1)).transpose(1, 2)  # noqa: E731
        found = []
        for q, group in zip(self.q(tokens).chunk(len(self.groups), -1), self.groups):
            k, v, reduced, local = group(tokens, grid)
            v = v + local if self.local == "value" else v
            found.append((split(q), split(k), split(v), reduced, None if local is None else split(local)))
        return found


def _layout(dim_name: str, dim: int, heads_name: str, heads: int, rates: tuple[int, ...]) -> None:
    if heads % len(rates):
        raise ValueError(f"{heads_name} must be a multiple of the number of rates, {len(rates)}, got {heads}")
    if dim % heads:
        raise ValueError(f"{dim_name} must be a multiple of the number of heads, {heads}, got {dim}")


def _placed(name: str, local: Any, rates: tuple[int, ...]) -> str:
    """Where the local term goes: "value", "output" or "none"."""
    if _option(name, local, LOCALS) == "official":
        return "output" if rates == (1,) else "value"
    if local == "output" and max(rates) > 1:
        raise ValueError(f"{name} must be value or none where a rate is above 1, since keys then have fewer places than the output, got 'output' for {rates}")
    return str(local)


# ------------------------------------------------------------------------------------------------------------------------ feed-forward


class FeedForward(nn.Module):
    """The detail-specific feed-forward layer: W2 GELU(U + DW(U)) with U = W1 X, DW a 3 x 3 depthwise convolution on the grid.

    detail "added" is that; "alone" is PVTv2's W2 GELU(DW(U)); "none" the plain W2 GELU(U). forward(tokens (B, H * W, dim), grid (H, W)), like tokens.
    """

    def __init__(self, dim: int, hidden: int, *, detail: str = "added"):
        super().__init__()
        dim, hidden, self.detail = _integer("dim", dim, 1), _integer("hidden", hidden, 1), _option("detail", detail, DETAILS)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.local = None if self.detail == "none" else Depthwise(hidden)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        _instance("tokens", tokens, Tensor, "a tensor (B, N, C)")
        if tokens.ndim != 3 or tokens.shape[-1] != self.fc1.in_features:
            raise ValueError(f"tokens must be (B, N, {self.fc1.in_features}), got {_got(tokens)}")
        hidden, grid = self.fc1(tokens), _fitting(tokens, grid)
        if self.local is not None:
            local = self.local(hidden, grid)
            hidden = hidden + local if self.detail == "added" else local
        return self.fc2(F.gelu(hidden))


# ----------------------------------------------------------------------------------------------------------------- what a layer costs


def attention_macs(dim: int, grid: tuple[int, int], rates: tuple[int, ...] = (8, 4), *, local: str = "official") -> dict[str, int]:
    """Multiply-adds of one `ShuntedAttention` with the official rate_one and border="pad", for one picture, by its parts.

    A dense convolution costs N C^2 whatever its rate (N rounded up to whole cells); only keys, values and scores become cheaper with the rate.
    """
    dim, (rows, columns), rates = _integer("dim", dim, 1), _grid("grid", grid), _integers("rates", rates, 1)
    if max(rates) > min(rows, columns):
        raise ValueError(f"rates must be at most the smaller side of the grid, {min(rows, columns)}, got {rates}")
    if dim % len(rates):
        raise ValueError(f"dim must be a multiple of the number of rates, {len(rates)}, got {dim}")
    places, width, placed = rows * columns, dim // len(rates), _placed("local", local, rates)
    keys = [a * b for a, b in (_reduced((rows, columns), rate, "pad") for rate in rates)]
    return {
        "queries": places * dim**2,
        "aggregation": 0 if rates == (1,) else sum(m * rate**2 * dim**2 for m, rate in zip(keys, rates)),
        "keys and values": sum(m * dim * 2 * width for m in keys),
        "local term": 0 if placed == "none" else sum(9 * m * width for m in keys),
        "scores and sums": sum(2 * places * m * width for m in keys),
        "projection": places * dim**2,
    }
