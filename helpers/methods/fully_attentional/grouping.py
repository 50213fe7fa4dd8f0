"""Which tokens belong together, and how much that has to do with what is to be seen: spectral clustering against true masks, and eigenvalues."""

import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from ._arguments import _grid, _integer, _like, _number, _numbers, _wide

__all__ = ["Agreement", "Spectrum", "attention_affinity", "group_scores", "group_tokens", "paint", "significant_eigenvalues", "token_affinity"]


class Spectrum(NamedTuple):
    """count (...,): eigenvalues above the threshold; eigenvalues (..., N), the largest first; they sum to 1."""

    count: Any
    eigenvalues: Any


class Agreement(NamedTuple):
    """ari: adjusted Rand index, 1 for the same groups and 0 on average for groups at random; purity (K,): share of the commonest true group in each of the
    groups found, in ascending order of their labels."""

    ari: float
    purity: Any


def _unit(features: Any) -> tuple[Tensor, torch.dtype]:
    """Rows of length 1, in float64, and the dtype that they came in."""
    given = _numbers("features", features, "... N C")
    rows = _wide(given)
    if (lost := (rows.norm(dim=-1) == 0)).any():
        raise ValueError(f"features must have no token of zeros, which has no direction, got {int(lost.sum())} of them")
    return F.normalize(rows, dim=-1), given.dtype


def token_affinity(features):
    """How alike tokens are: features (..., N, C) -> (..., N, N) in [0, 1], the cosine, or 0 where that is negative. Of the dtype of the features."""
    rows, dtype = _unit(features)
    affinity = (rows @ rows.mT).clamp(0, 1)
    return _like(features, ((affinity + affinity.mT) / 2).to(dtype))


def attention_affinity(attention):
    """Attention maps (..., heads, N, N) as an affinity (..., N, N): their mean over the heads, and the mean of that and its transpose."""
    maps = _numbers("attention", attention, "... h N N", low=0)
    if maps.shape[-1] != maps.shape[-2]:
        raise ValueError(f"attention must be (..., heads, N, N), got shape {tuple(maps.shape)}")
    mean = maps.mean(-3)
    return _like(attention, (mean + mean.mT) / 2)


def group_tokens(affinity, groups: int, *, seed: int = 0):
    """Spectral clustering (scikit-learn's): affinity (N, N), symmetric and >= 0 -> labels (N,) in 0 .. groups - 1.

    groups: 2 .. N - 1. Blocks without any affinity between them are found as they are.
    """
    given = _numbers("affinity", affinity, "N N", low=0)
    count = len(given)
    if given.shape != (count, count) or not torch.allclose(given, given.T, rtol=1e-3, atol=1e-3 * float(given.max())):
        raise ValueError(
            f"affinity must be symmetric numbers (N, N) >= 0, got {'some that are not symmetric' if given.shape[1] == count else tuple(given.shape)}"
        )
    groups, seed = _integer("groups", groups, 2, max(count - 1, 2)), _integer("seed", seed, 0, 2**32 - 1)
    if groups >= count:
        raise ValueError(f"affinity must be of more tokens than there are groups, {groups}, got {count}")
    model = SpectralClustering(n_clusters=groups, affinity="precomputed", random_state=seed)
    wide = _wide(given).cpu()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Graph is not fully connected")  # blocks apart are what is looked for
        labels = model.fit_predict(((wide + wide.T) / 2).numpy())
    return _like(affinity, torch.from_numpy(labels).long())


def paint(labels, grid: tuple[int, int], patch_size: int):
    """Labels (..., N) of tokens as pictures (..., H * patch_size, W * patch_size); grid: (H, W)."""
    given, patch = _numbers("labels", labels, "... N", whole=True), _integer("patch_size", patch_size, 1)
    grid = _grid(grid, given.shape[-1], "labels")
    return _like(labels, given.unflatten(-1, grid).repeat_interleave(patch, -2).repeat_interleave(patch, -1))


def group_scores(labels, masks) -> Agreement:
    """How well groups agree with true ones: labels and masks, whole numbers of one shape (names of groups, in any order) -> Agreement."""
    found = _numbers("labels", labels, "...", whole=True)
    true = _numbers("masks", masks, " ".join(map(str, found.shape)) or "...", like="labels", whole=True).to(found.device)
    purity = [float(true[members].flatten().unique(return_counts=True)[1].max() / members.sum()) for members in (found == k for k in found.unique())]
    return Agreement(float(adjusted_rand_score(true.flatten().cpu().numpy(), found.flatten().cpu().numpy())), _like(labels, torch.tensor(purity)))


def significant_eigenvalues(features, *, threshold: float = 1e-2) -> Spectrum:
    """How many directions tokens take: features (..., N, C) -> Spectrum of F F^T / N, with the rows of F divided by their lengths and not centred (fig. 3).

    threshold: what counts, as a share > 0 of the largest eigenvalue (the paper's is not known; ours). 1 where all tokens are alike, at most min(N, C).
    """
    threshold, (rows, _) = _number("threshold", threshold, 0, 1, above=0), _unit(features)
    values = torch.linalg.eigvalsh(rows @ rows.mT / rows.shape[-2]).flip(-1).clamp(min=0)
    return Spectrum(_like(features, (values >= threshold * values[..., :1]).sum(-1)), _like(features, values))
