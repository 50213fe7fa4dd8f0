"""What one layer looks at: attention maps of each group of heads laid back onto the picture, and the receptive field of each head as a map of gradients."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._arguments import _got, _grid, _instance, _integer, _like, _number, _numbers, _option
from .attention import ShuntedAttention
from .models import Shunted, _fit

__all__ = ["GroupMaps", "attention_maps", "effective_area", "lay_back", "mean_distance", "receptive_field"]

FIELDS = ("output", "key", "value")


class GroupMaps(NamedTuple):
    """Attention of one group of heads: its rate; maps (B, heads of the group, N, M), rows sum to 1; the grid (H, W) of the N queries and that of the M keys;
    cell: the side in px of the square that a key was aggregated from."""

    rate: int
    maps: Tensor
    grid: tuple[int, int]
    key_grid: tuple[int, int]
    cell: int


def attention_maps(model: Shunted, pictures: Tensor, *, stage: int = 0, block: int = 0) -> list[GroupMaps]:
    """The attention maps of one layer, one entry for each group of heads; stage and block count from 0. The model must be in eval mode."""
    attention, stride = _layer(model, stage, block)
    with torch.no_grad():
        tokens, grid = _read(model, pictures, stage, block)
        found, keys = attention.maps(tokens, grid), attention.keys_values(tokens, grid)
    return [GroupMaps(rate, maps, grid, reduced, rate * stride) for rate, maps, (*_, reduced) in zip(attention.rates, found, keys)]


def lay_back(maps, *, key_grid: tuple[int, int], cell: int, size: tuple[int, int]):
    """Attention (..., M) onto the picture: each key's share spread evenly over the px of its cell, so that sums stay what they are.

    key_grid (rows, columns) of the M keys; cell: side of a key's square in px; size (H, W) of the picture. What of a cell lies beyond the picture gets
    nothing. Returns (..., H, W) in shares a px, like maps.
    """
    rows, columns = _grid("key_grid", key_grid)
    given, cell, size = _numbers("maps", maps, f"... {rows * columns}", detach=False), _integer("cell", cell, 1), _grid("size", size)
    within = [torch.tensor([min(cell, side - k * cell) for k in range(count)]) for count, side in zip((rows, columns), size)]
    if min(int(pixels.min()) for pixels in within) < 1:
        raise ValueError(f"size must reach into every cell, {rows} x {columns} of {cell} px, got {size}")
    shares = given.unflatten(-1, (rows, columns)) / (within[0][:, None] * within[1]).to(given)
    spread = shares.repeat_interleave(cell, -2).repeat_interleave(cell, -1)[..., : size[0], : size[1]]
    over = (size[0] - spread.shape[-2], size[1] - spread.shape[-1])  # px that the keys leave out (border="drop")
    return _like(maps, torch.nn.functional.pad(spread, (0, over[1], 0, over[0])))


def receptive_field(model: Shunted, pictures: Tensor, place: tuple[int, int], *, stage: int = 0, block: int = 0, of: str = "output") -> Tensor:
    """How strongly each px moves each head of a layer at one place: the norm of the Jacobian, by gradients. (B, heads, H, W), >= 0.

    place (row, column): on the grid of the stage. of "output": what the head gives there, before the projection; "key", "value": the key or the value of the
    cell that holds the place, which shows the scale that the head reads. As many backward passes as the layer has channels. The model must be in eval mode.
    """
    attention, _ = _layer(model, stage, block)
    row, column = (_integer("place", one, 0) for one in _pair("place", place, "(row, column)"))
    _option("of", of, FIELDS)
    with torch.enable_grad():
        pixels = _fit(pictures, model).detach().clone().requires_grad_()
        tokens, grid = _read(model, pixels, stage, block)
        if row >= grid[0] or column >= grid[1]:
            raise ValueError(f"place must be on the grid of the stage, {grid[0]} x {grid[1]}, got {_got(tuple(place))}")
        heads = _values(attention, tokens, grid, row, column, of)
        return torch.stack([_jacobian_norm(head, pixels) for head in heads], 1)


def _values(attention: ShuntedAttention, tokens: Tensor, grid: tuple[int, int], row: int, column: int, of: str) -> list[Tensor]:
    """What each head has at a place, (B, d) each."""
    if of == "output":
        return list(attention.mix(tokens, grid)[:, row * grid[1] + column].unflatten(1, (attention.heads, -1)).unbind(1))
    found = []
    for rate, (k, v, reduced) in zip(attention.rates, attention.keys_values(tokens, grid)):
        if row // rate >= reduced[0] or column // rate >= reduced[1]:
            raise ValueError(f"place must lie in a key's cell, {reduced[0]} x {reduced[1]} of side {rate}, got ({row}, {column})")
        found += (k if of == "key" else v)[:, :, row // rate * reduced[1] + column // rate].unbind(1)
    return found


def _jacobian_norm(values: Tensor, pixels: Tensor) -> Tensor:
    """values (B, d) of pixels (B, 3, H, W) -> (B, H, W)."""
    squares = sum(torch.autograd.grad(one.sum(), pixels, retain_graph=True)[0].square().sum(1) for one in values.unbind(1))
    return squares.sqrt()


def effective_area(maps):
    """Over how many px a map (..., H, W) of shares or gradients is spread: (sum m)^2 / sum m^2, 1 for one px, H W for an even one. (...), like maps."""
    given = _weights(maps)
    return _like(maps, given.sum((-2, -1)).square() / given.square().sum((-2, -1)))


def mean_distance(maps, point: tuple[float, float]):
    """Mean distance in px of a map (..., H, W) from a point (y, x), weighted by the map; the middle of px (0, 0) is (0.5, 0.5). (...), like maps."""
    given = _weights(maps)
    y, x = (_number("point", one) for one in _pair("point", point, "(y, x)"))
    rows, columns = (torch.arange(side, dtype=given.dtype, device=given.device) + 0.5 for side in given.shape[-2:])
    distance = torch.hypot(rows[:, None] - y, columns - x)
    return _like(maps, (given * distance).sum((-2, -1)) / given.sum((-2, -1)))


def _weights(maps: Any) -> Tensor:
    given = _numbers("maps", maps, "... H W", detach=False)
    if given.min() < 0 or not (given.sum((-2, -1)) > 0).all():
        raise ValueError(f"maps must be >= 0 with a positive sum each, got {float(given.detach().min()):.4g} as the smallest entry")
    return given


def _pair(name: str, value: Any, expected: str) -> tuple:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    if len(value) != 2:
        raise ValueError(f"{name} must be {expected}, got {_got(value)}")
    return tuple(value)


def _layer(model: Any, stage: Any, block: Any) -> tuple[ShuntedAttention, int]:
    """The attention of a layer, and how many px a place of its grid is wide."""
    if _instance("model", model, Shunted, "a Shunted or a Pyramid").training:
        raise ValueError("model must be in eval mode, got it in training mode; call model.eval()")
    stage = _integer("stage", stage, 0, len(model.stages) - 1)
    block = _integer("block", block, 0, len(model.stages[stage].blocks) - 1)
    return model.stages[stage].blocks[block].attention, model.stem_stride * 2**stage


def _read(model: Shunted, pictures: Tensor, stage: int, block: int) -> tuple[Tensor, tuple[int, int]]:
    """The normalised tokens that an attention layer is given, and their grid."""
    maps = _fit(pictures, model)
    for before in model.stages[:stage]:
        maps = before(maps)
    tokens, grid = model.stages[stage].embedding(maps)
    blocks = model.stages[stage].blocks
    for earlier in blocks[:block]:
        tokens = earlier(tokens, grid)
    return blocks[block].norm1(tokens), grid
