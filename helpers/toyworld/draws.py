"""Random numbers by counter: item i of seed s is the same alone and in any batch.

A generator that is asked for a batch gives item 7 another number in a batch of 8 than in a batch of 1000. Here a number is a hash of
(seed, index, slot) instead: nothing is drawn, everything is looked up.
"""

import numpy as np
import torch
from torch import Tensor

from ..arguments import got, integer, numbers

__all__ = ["Draws"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _splitmix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): uint64 in, well mixed uint64 out."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def check_indices(indices) -> np.ndarray:
    """Item numbers as a one-dimensional int64 array; ValueError or TypeError for anything else."""
    if isinstance(indices, (list, tuple)) and not indices:  # to numpy an empty list is one of floats
        raise ValueError(f"indices must be whole numbers (N,) and not empty, got {indices}")
    return numbers("indices", indices, "N", low=0, whole=True).cpu().numpy().astype(np.int64)


class Draws:
    """Looked-up random numbers for the items `indices` of `seed`; each call takes a new slot.

    The order of the calls is part of the world: a new draw goes at the end, or every picture changes.
    """

    def __init__(self, seed: int, indices):
        seed, items = integer("seed", seed, low=0), check_indices(indices).astype(np.uint64)
        if seed >= 2**64:
            raise ValueError(f"seed must be a whole number below 2**64, got {got(seed)}")
        stream = _splitmix(np.array([seed], dtype=np.uint64))
        self._key = _splitmix(items ^ stream)
        self._slot = 0

    def __len__(self) -> int:
        return len(self._key)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B,) float64, uniform in [low, high)."""
        self._slot += 1
        with np.errstate(over="ignore"):
            bits = _splitmix(self._key + np.uint64(self._slot) * _GOLDEN)
        unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return torch.from_numpy(low + (high - low) * unit)

    def integer(self, count: int) -> Tensor:
        """(B,) int64, uniform in 0 .. count - 1."""
        return (self.uniform() * count).floor().long().clamp_(max=count - 1)

    def choice(self, values) -> Tensor:
        """(B,) one of `values` (numbers) for each item."""
        return torch.as_tensor(values)[self.integer(len(values))]

    def chance(self, p: float) -> Tensor:
        """(B,) bool, true with probability p."""
        return self.uniform() < p
