"""Where prompts start: at random, at zero, or at rows that are given."""

from typing import Any

import torch
from torch import Tensor

from ._arguments import _choice, _numbers

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of the pictures' channels


def _rows(init: Any, sets: int, rows: int, width: int, bound: float, generator: torch.Generator | None) -> Tensor:
    """Where prompts start (sets, rows, width): uniform in [-bound, bound], zeros, or the first of given rows."""
    if isinstance(init, str):
        if _choice("init", init, ("uniform", "zeros")) == "zeros":
            return torch.zeros(sets, rows, width)
        return torch.empty(sets, rows, width).uniform_(-bound, bound, generator=generator)
    layered = getattr(init, "ndim", 2) == 3 or (isinstance(init, (list, tuple)) and len(init) and getattr(init[0], "ndim", 1) == 2)
    given = _numbers("init", init, f"{sets} rows {width}" if layered else f"rows {width}")
    if given.shape[-2] < rows:
        raise ValueError(f"init must have a row for each of num_prompts = {rows}, got {given.shape[-2]} rows")
    return given[..., :rows, :].expand(sets, -1, -1).clone().float()


def _pixels(init: Any, shape: tuple[int, ...], bound: float, generator: torch.Generator | None) -> Tensor:
    """Where prompts that are pixels start: uniform in [-bound, bound], standard normal, or uniform in [0, 1] and then normalised as ImageNet's pictures are."""
    if not isinstance(init, str):
        return _numbers("init", init, " ".join(map(str, shape))).clone().float()
    _choice("init", init, ("uniform", "zeros", "gaussian", "imagenet"))
    if init == "imagenet" and shape[1] != len(IMAGENET[0]):
        raise ValueError(f"init must be 'uniform', 'zeros' or 'gaussian' for {shape[1]} channels, got 'imagenet', which is known for 3")
    values = torch.zeros(shape)
    if init == "gaussian":
        values.normal_(generator=generator)
    elif init == "uniform":
        values.uniform_(-bound, bound, generator=generator)
    elif init == "imagenet":
        mean, deviation = (torch.tensor(of)[:, None, None] for of in IMAGENET)
        values = (values.uniform_(0, 1, generator=generator) - mean) / deviation
    return values
