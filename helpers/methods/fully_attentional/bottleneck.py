"""Attention as clustering: the information-bottleneck view of the paper (proposition 2.1), on points in the plane or anywhere.

The paper compresses noisy tokens into clusters that keep what is clean, min I(X, Z) - I(Z, X'), and finds a step of the solution to look like attention:
points are values, centres are queries, and who belongs to whom is a softmax. It runs over the centres for each point, as in slot attention; ordinary attention
has it over the points for each centre. The paper's factor in front of a new centre is no mean; "mean" here is soft k-means.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._arguments import _flag, _integer, _like, _numbers, _option, _wide

__all__ = ["Clustering", "soft_assignment", "soft_clusters", "updated_centres"]

OVER = ("centres", "points")
FORMS = ("mean", "printed")


class Clustering(NamedTuple):
    """centres (K, D) at the end, the assignment (N, K) that they have then, trace (steps + 1, K, D): the centres before the first step and after each."""

    centres: Any
    assignment: Any
    trace: Any


def _clouds(points: Any, centres: Any, covariance: Any) -> tuple[Tensor, Tensor, Tensor, torch.dtype]:
    """Points, centres and covariance in float64, and the dtype that the points came in."""
    given = _numbers("points", points, "N D")
    x = _wide(given)
    z = _wide(_numbers("centres", centres, f"K {x.shape[1]}", like="points")).to(x.device)
    return x, z, _covariance(covariance, x), given.dtype


def _covariance(covariance: Any, x: Tensor) -> Tensor:
    axes = x.shape[1]
    if covariance is None:
        return torch.eye(axes, dtype=x.dtype, device=x.device)
    s = _wide(_numbers("covariance", covariance, f"{axes} {axes}", like="points")).to(x.device)
    if not torch.allclose(s, s.T, atol=1e-6 * float(s.abs().max())) or not (torch.linalg.eigvalsh(s) > 0).all():
        raise ValueError(f"covariance must be symmetric and positive definite, got {s.tolist()}")
    return s


def soft_assignment(points, centres, *, covariance=None, over: str = "centres", norms: bool = False):
    """How much of each point belongs to each centre: points (N, D), centres (K, D) -> (N, K), a softmax of 2 mu_c^T S^-1 x_i.

    covariance: S (D, D), shared by all clusters, None for the identity. over="centres": a point is shared out, rows sum to 1 (the paper's, slot attention);
    over="points": a centre takes its fill, columns sum to 1 (ordinary attention with centres as queries). norms=True subtracts mu_c^T S^-1 mu_c, which the
    paper takes for equal: without it, a centre far from the origin draws more than its share. Returns (N, K) like points.
    """
    over, norms = _option("over", over, OVER), _flag("norms", norms)
    x, z, s, dtype = _clouds(points, centres, covariance)
    return _like(points, _assigned(x, z, s, over, norms).to(dtype))


def _assigned(x: Tensor, z: Tensor, s: Tensor, over: str, norms: bool) -> Tensor:
    towards = torch.linalg.solve(s, z.T)  # S^-1 mu, (D, K)
    scores = 2 * x @ towards - ((z.T * towards).sum(0) if norms else 0)
    return scores.softmax(1 if over == "centres" else 0)


def updated_centres(points, assignment, *, form: str = "mean", covariance=None):
    """New centres (K, D) from points (N, D) and their assignment (N, K) >= 0.

    form="mean": the points' mean with the assignment as weights, sum_i p_ic x_i / sum_i p_ic, soft k-means. "printed": sum_i log(n_c / n) / (n det S) p_ic x_i
    with n_c = sum_i p_ic, as the paper has it; that factor is 0 or less, so it shows where the sum comes from and is no step to repeat. covariance: S of it.
    A centre without any point (all of its column 0) has no mean and is refused.
    """
    form = _option("form", form, FORMS)
    given = _numbers("points", points, "N D")
    x = _wide(given)
    p = _wide(_numbers("assignment", assignment, f"{len(x)} K", like="points", low=0)).to(x.device)
    if (empty := (p.sum(0) == 0)).any():
        raise ValueError(f"assignment must give each centre something, got a column of zeros, {int(empty.nonzero()[0])}")
    s = _covariance(covariance, x)
    if form == "mean":
        made = (p.T @ x) / p.sum(0)[:, None]
    else:
        made = (p.sum(0) / len(x)).log()[:, None] / (len(x) * torch.linalg.det(s)) * (p.T @ x)
    return _like(points, made.to(given.dtype))


def soft_clusters(points, centres, *, covariance=None, over: str = "centres", norms: bool = False, steps: int = 10) -> Clustering:
    """`soft_assignment` and `updated_centres` (form "mean") in turns, `steps` times, from the given centres (K, D): Clustering, in arrays like points.

    A centre that no point is assigned to (it happens where numbers underflow) stays where it is.
    """
    over, norms, steps = _option("over", over, OVER), _flag("norms", norms), _integer("steps", steps, 0)
    x, z, s, dtype = _clouds(points, centres, covariance)
    trace = [z]
    for _ in range(steps):
        p = _assigned(x, trace[-1], s, over, norms)
        mass = p.sum(0)[:, None]
        trace.append(torch.where(mass > 0, p.T @ x / mass.clamp(min=torch.finfo(x.dtype).tiny), trace[-1]))
    found = (trace[-1], _assigned(x, trace[-1], s, over, norms), torch.stack(trace))
    return Clustering(*(_like(points, one.to(dtype)) for one in found))
