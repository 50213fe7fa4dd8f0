"""MixToken: CutMix after patch embedding, so that each token is of one picture and keeps that picture's label.

The batch is paired with itself in reverse order, picture b with B - 1 - b; the middle one of an odd batch is its own partner. A box (r0, c0, r1, c1) holds the
rows r0 to r1 - 1 and the columns c0 to c1 - 1 of the grid, and is the same for the whole batch.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _generator, _got, _grid, _instance, _integer, _integers, _like, _number, _numbers

__all__ = ["draw_box", "impure_patches", "kept_share", "mix_box", "mix_class_labels", "mix_tokens", "mixing_patches"]

BOX = "(r0, c0, r1, c1), four integers >= 0"


def mix_box(grid: tuple[int, int], kept: float, centre: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of CutMix: sides floor(H sqrt(1 - kept)) and floor(W sqrt(1 - kept)) around a centre, their halves rounded down and cut at the border.

    grid (H, W); kept: lambda, the share that is to stay, in [0, 1]; centre (row, column). What stays in fact is `kept_share`, which is more.
    """
    grid, kept = _grid("grid", grid), _number("kept", kept, 0, 1)
    middle = _integers("centre", centre, 0, 2, "(row, column), two integers >= 0")
    if any(at >= side for at, side in zip(middle, grid)):
        raise ValueError(f"centre must be on the grid, {grid[0]} x {grid[1]}, got {_got(centre)}")
    halves = [int(side * math.sqrt(1 - kept)) // 2 for side in grid]
    first, last = zip(*((max(at - half, 0), min(at + half, side)) for at, half, side in zip(middle, halves, grid)))
    return (*first, *last)


def draw_box(grid: tuple[int, int], *, generator: torch.Generator | None = None) -> tuple[int, int, int, int]:
    """`mix_box` with lambda uniform in [0, 1), which is Beta(1, 1), around a uniform centre."""
    grid, _ = _grid("grid", grid), _generator(generator)
    place = "cpu" if generator is None else generator.device
    kept = torch.rand((), generator=generator, device=place).item()
    return mix_box(grid, kept, tuple(int(torch.randint(side, (), generator=generator, device=place)) for side in grid))


def _box(box: Any, grid: tuple[int, int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = _integers("box", box, 0, 4, BOX)
    if not (top <= bottom <= grid[0] and left <= right <= grid[1]):
        raise ValueError(f"box must be {BOX}, inside a grid of {grid[0]} x {grid[1]}, got {_got(box)}")
    return top, left, bottom, right


def _mask(box: tuple[int, int, int, int], grid: tuple[int, int]) -> Tensor:
    """(H, W), true inside."""
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[box[0] : box[2], box[1] : box[3]] = True
    return inside


def kept_share(box: tuple[int, int, int, int], *, grid: tuple[int, int]) -> float:
    """lambda' = 1 - area of the box / area of the grid."""
    grid = _grid("grid", grid)
    top, left, bottom, right = _box(box, grid)
    return 1 - (bottom - top) * (right - left) / math.prod(grid)


def mix_tokens(tokens, box: tuple[int, int, int, int], *, grid: tuple[int, int]):
    """Tokens (B, N, C) on a grid (H, W), N = H W, those inside the box taken from the partner. B >= 2. Like tokens.

    Mixing twice is no mixing: the same call puts the token logits of the mixed pictures back to the pictures that the tokens are of. Positions are added
    after mixing.
    """
    grid = _grid("grid", grid)
    given = _numbers("tokens", tokens, f"B {math.prod(grid)} C", detach=False)
    return _like(tokens, _mixed(given, _box(box, grid), grid))


def _mixed(tokens: Tensor, box: tuple[int, int, int, int], grid: tuple[int, int]) -> Tensor:
    if len(tokens) < 2:
        raise ValueError("tokens must be of 2 pictures or more, since each is mixed with another one, got 1")
    return torch.where(_mask(box, grid).to(tokens.device).view(-1, 1), tokens.flip(0), tokens)


def mix_class_labels(class_labels, kept: float):
    """lambda' y_b + (1 - lambda') y_(B - 1 - b) for labels (B, K) of the class token, lambda' of `kept_share`. Like class_labels."""
    given, kept = _numbers("class_labels", class_labels, "B K", low=0), _number("kept", kept, 0, 1)
    if len(given) < 2:
        raise ValueError("class_labels must be of 2 pictures or more, since each is mixed with another one, got 1")
    return _like(class_labels, kept * given + (1 - kept) * given.flip(0))


@contextmanager
def mixing_patches(patches: nn.Module, box: tuple[int, int, int, int], *, grid: tuple[int, int]) -> Iterator[None]:
    """While it is open, what the module `patches` of any model gives is mixed: a patch embedding that gives tokens (B, N, C) or maps (B, C, H, W).

    The module must come before positions are added. Token logits are to be put back by `mix_tokens` with the same box. ValueError at the end where the module
    was not called; in a compiled model it may not be.
    """
    _instance("patches", patches, nn.Module, "a torch.nn.Module")
    grid = _grid("grid", grid)
    with _mixing(patches, _box(box, grid), grid) as seen:
        yield
    if not seen:
        raise ValueError("patches must be a module that is called while it is mixed, got one that was not called (a compiled model may pass over it)")


@contextmanager
def _mixing(patches: nn.Module, box: tuple[int, int, int, int], grid: tuple[int, int]) -> Iterator[list[int]]:
    """Of how many pictures it was, each time that the module was called."""
    seen = []

    def hook(_, __, found):
        if not isinstance(found, Tensor) or (found.ndim, tuple(found.shape[2:])) != (4, grid) and (found.ndim != 3 or found.shape[1] != math.prod(grid)):
            expected = f"tokens (B, {math.prod(grid)}, C) or maps (B, C, {grid[0]}, {grid[1]})"
            raise ValueError(f"patches must be a module that gives {expected}, got {_got(found)}")
        seen.append(len(found))
        return _mixed(found, box, grid) if found.ndim == 3 else _mixed(found.flatten(2).transpose(1, 2), box, grid).transpose(1, 2).unflatten(2, grid)

    handle = patches.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def impure_patches(box: tuple[int, int, int, int], *, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Which patches CutMix's box of pixels cuts through, so that a token sees two pictures: (H, W) bool, for a grid (H, W) of square patches.

    box (r0, c0, r1, c1) in px; patch_size: the side of a patch in px.
    """
    grid, patch_size = _grid("grid", grid), _integer("patch_size", patch_size, 1)
    pixels = (grid[0] * patch_size, grid[1] * patch_size)
    inside = _mask(_box(box, pixels), pixels).view(grid[0], patch_size, grid[1], patch_size).sum((1, 3))
    return (inside > 0) & (inside < patch_size**2)
