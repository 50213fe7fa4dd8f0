"""The loss of token labeling, and the logits at inference; both take class logits and token logits of any model."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._arguments import _like, _number, _numbers, _option

__all__ = ["Losses", "combine", "token_labeling_loss"]

POOLS = ("max", "mean", "logsumexp")


class Losses(NamedTuple):
    """In nats: total = class_weight * of_class + beta * of_tokens, and the two terms before they are weighted, means over the pictures."""

    total: Any
    of_class: Any
    of_tokens: Any


def token_labeling_loss(class_logits, token_logits, class_labels, token_labels, *, beta: float = 0.5, class_weight: float = 1.0) -> Losses:
    """H(X_cls, y_cls) + beta / N sum_i H(X_i, y_i), H(p, y) = -sum_k y_k log softmax(p)_k (Jiang et al. 2021; beta is 1 in the official script).

    class_logits, class_labels (B, K); token_logits, token_labels (B, N, K). Labels are >= 0 with rows that sum to 1 + 1 / K at most, which official smoothing
    reaches; a row of zeros adds nothing, but is one of the N. Returns `Losses` of no axes, like class_logits, in float32 or wider. Raises ValueError or
    TypeError.
    """
    classes = _numbers("class_logits", class_logits, "B K", detach=False)
    count, width = classes.shape
    tokens = _numbers("token_logits", token_logits, f"{count} N {width}", like="class_logits", detach=False)
    of_class = _labels("class_labels", class_labels, classes, "class_logits")
    of_tokens = _labels("token_labels", token_labels, tokens, "token_logits")
    beta, class_weight = _number("beta", beta, 0), _number("class_weight", class_weight, 0)
    parts = _cross_entropy(classes, of_class), _cross_entropy(tokens, of_tokens)
    return Losses(*(_like(class_logits, one) for one in (class_weight * parts[0] + beta * parts[1], *parts)))


def _labels(name: str, value: Any, logits: Tensor, of: str) -> Tensor:
    given = _numbers(name, value, " ".join(map(str, logits.shape)), like=of, low=0, whole=None)
    if (most := float(given.float().sum(-1).max())) > (1 + 1 / given.shape[-1]) * 1.01:
        raise ValueError(f"{name} must have rows that sum to 1, or with official smoothing to at most 1 + 1 / K, got {most:.4g}")
    return given


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return -(labels.to(wide) * wide.log_softmax(-1)).sum(-1).mean()


def combine(class_logits, token_logits, *, weight: float = 0.5, pool: str = "max"):
    """Logits at inference: class logits + weight * the token logits pooled over the tokens, class by class. (B, K), like class_logits.

    class_logits (B, K), token_logits (B, N, K). weight 0 is the class head alone. pool: "max", the method's; "mean"; or "logsumexp", the smooth maximum.
    """
    classes = _numbers("class_logits", class_logits, "B K", detach=False)
    tokens = _numbers("token_logits", token_logits, f"{len(classes)} N {classes.shape[1]}", like="class_logits", detach=False)
    return _like(class_logits, _combine(classes, tokens.to(classes), _number("weight", weight, 0), _option("pool", pool, POOLS)))


def _combine(class_logits: Tensor, token_logits: Tensor, weight: float, pool: str) -> Tensor:
    pooled = {"max": lambda x: x.amax(1), "mean": lambda x: x.mean(1), "logsumexp": lambda x: x.logsumexp(1)}[pool](token_logits)
    return class_logits + weight * pooled
