"""What a network said before and what it says now: the pull between two outputs, and where earlier outputs are kept.

Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", NeurIPS 2022, arXiv 2205.14083.
"""

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from ._arguments import _dtype, _flag, _got, _integer, _like, _number, _numbers, _option, _rows

__all__ = ["IndexedDataset", "OutputStore", "store_bytes", "trajectory_loss"]

NEVER = -1  # the stamp of a row that was not written yet


def trajectory_loss(now, past, *, temperature: float = 5.0, scale_tau2: bool = True, reduction: str = "mean"):
    """tau^2 / B * sum over samples of KL(softmax(past / tau) || softmax(now / tau)) (paper, eq. 8, as the official code has it).

    now, past: logits (B, C); gradients reach `now` only. The paper's equation has no factor tau^2: scale_tau2=False. reduction="none" gives one number a
    sample, (B,), not divided by B. Worked out in float32 at least, so that half-precision logits do not underflow. Returns like `now`.
    """
    given = _numbers("now", now, (None, None), "(B, C)")
    before = _numbers("past", past, given.shape, f"{tuple(given.shape)}, the shape of now")
    tau, squared = _number("temperature", temperature, above=0), _flag("scale_tau2", scale_tau2)
    each = _pull(given, before.to(given.device), tau, squared)
    return _like(now, each.mean() if _option("reduction", reduction, ("mean", "none")) == "mean" else each)


def _pull(now: Tensor, past: Tensor, tau: float, squared: bool) -> Tensor:
    """(B,): the divergence of each sample."""
    wide = torch.promote_types(now.dtype, torch.float32)
    log_now, log_past = ((logits.to(wide) / tau).log_softmax(1) for logits in (now, past.detach()))
    shares, apart = log_past.exp(), log_now - log_past
    # shares * apart adds up to what is of second order only, which the rounding of its parts would drown where both are close (a high temperature); as
    # the shares of both sum to 1, each class may have its first order taken out. Parts are then >= 0.
    near = apart.clamp(-1, 1)
    parts = torch.where(apart.abs() < 1, shares * (near.expm1() - near), log_now.exp() - shares - shares * apart)
    return parts.sum(1) * (tau**2 if squared else 1)


class OutputStore(nn.Module):
    """A ring of lag + 1 slots that keeps each sample's logits until `lag` epochs later, with the epoch in which each row was written.

    samples: n, how many indices there are; classes: C; lag: epochs between writing and reading, E~ >= 1. dtype: float32 or, at half the memory, float16 or
    bfloat16. Its buffers `logits` (lag + 1, n, C) and `stamps` (lag + 1, n) travel with `to`, `state_dict` and `share_memory()`: where several processes
    train, give all of them one store in shared memory, since samplers hand a sample to another process in every epoch.
    """

    logits: Tensor
    stamps: Tensor

    def __init__(self, samples: int, classes: int, *, lag: int = 3, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.samples, self.classes, self.lag = _integer("samples", samples, 1), _integer("classes", classes, 1), _integer("lag", lag, 1)
        self.register_buffer("logits", torch.zeros(self.lag + 1, self.samples, self.classes, dtype=_dtype("dtype", dtype)))
        self.register_buffer("stamps", torch.full((self.lag + 1, self.samples), NEVER, dtype=torch.int32))

    def write(self, indices, logits, epoch: int) -> None:
        """Keep the logits (B, C) of samples `indices` (B,), of this epoch. Of a sample that comes twice in an epoch one output is kept.

        ValueError for logits of other classes, NaN and infinities, also those that arise in the store's dtype.
        """
        rows = _rows("indices", indices, self.samples)
        given = _numbers("logits", logits, (len(rows), self.classes), f"({len(rows)}, {self.classes}), the classes of the store")
        self._put(rows, given, _integer("epoch", epoch, 0))

    def read(self, indices, epoch: int, *, missing: str = "refuse") -> tuple[Tensor, Tensor]:
        """The logits (B, C) that samples `indices` (B,) had `lag` epochs before `epoch`, and (B,) booleans: which of them were written then.

        missing: "refuse" raises ValueError where a sample was not written in that very epoch (its row is empty or older); "skip" only says so.
        """
        rows, epoch = _rows("indices", indices, self.samples), _integer("epoch", epoch, 0)
        return self._get(rows, epoch, _option("missing", missing, ("refuse", "skip")))

    def _put(self, rows: Tensor, logits: Tensor, epoch: int) -> None:
        """`write` of what is checked, but for NaN."""
        slot, rows = epoch % (self.lag + 1), rows.to(self.logits.device)
        kept = logits.detach().to(self.logits)
        if not torch.isfinite(kept).all():
            raise ValueError(f"logits must be finite numbers in {str(kept.dtype).removeprefix('torch.')}, got {_flaw(kept)} in it at epoch {epoch}")
        self.logits[slot, rows] = kept
        self.stamps[slot, rows] = epoch

    def _get(self, rows: Tensor, epoch: int, missing: str) -> tuple[Tensor, Tensor]:
        then, rows = epoch - self.lag, rows.to(self.logits.device)
        slot = then % (self.lag + 1)
        found = (self.stamps[slot, rows] == then) & (then >= 0)
        if missing == "refuse" and not found.all():
            first = int((~found).nonzero()[0])
            stamp = int(self.stamps[slot, rows[first]])
            raise ValueError(
                f"indices must be samples whose outputs were kept in epoch {then}, {self.lag} before epoch {epoch}, got {int((~found).sum())} of {len(rows)} "
                f"that were not, first sample {int(rows[first])}, {'never' if stamp == NEVER else f'last in epoch {stamp}'}; a loader that leaves samples "
                "out (drop_last) wants missing='skip', several processes want one store in shared memory"
            )
        return self.logits[slot, rows].to(torch.promote_types(self.logits.dtype, torch.float32)), found

    def extra_repr(self) -> str:
        return f"{self.samples}, {self.classes}, lag={self.lag}"


def _flaw(values: Tensor) -> str:
    return "NaN" if values.isnan().any() else "an infinity"


def store_bytes(samples: int, classes: int, *, lag: int = 3, dtype: torch.dtype = torch.float32) -> int:
    """Memory of a store's logits and stamps: n (lag + 1) (4 C + 4) bytes in float32. The paper counts the logits of `lag` slots."""
    samples, classes, lag = _integer("samples", samples, 1), _integer("classes", classes, 1), _integer("lag", lag, 1)
    return samples * (lag + 1) * (_dtype("dtype", dtype).itemsize * classes + torch.int32.itemsize)


class IndexedDataset(Dataset):
    """A dataset of (image, label) as one of (image, label, index), so that a loader's batches are (images, labels, indices), however it shuffles.

    dataset: has a length and is read by position. The index is the position in `dataset`, 0..len - 1: wrap what the loader gets, after any Subset.
    """

    def __init__(self, dataset):
        streamed = isinstance(dataset, IterableDataset) or isinstance(dataset, (dict, str, bytes))
        if streamed or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise TypeError(f"dataset must have a length and give (image, label) by position, got {_got(dataset)}")
        if not len(dataset):
            raise ValueError("dataset must have an item or more, got none")
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        place = range(len(self.dataset))[operator.index(index)]
        item = self.dataset[place]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(f"dataset must give (image, label), got {_got(item)} at {place}")
        return item[0], item[1], place
