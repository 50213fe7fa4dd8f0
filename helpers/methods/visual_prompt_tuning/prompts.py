"""The arithmetic of visual prompts: how many numbers, how they start, what one prompt does to attention, how its training is scheduled."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _generator, _integer, _like, _number, _numbers, _option

__all__ = ["class_rows", "init_bound", "new_head", "pooled", "scaled_rate", "trainable_numbers", "warmup_cosine", "with_one_prompt"]

MODES = ("shallow", "deep", "shared")
POOLINGS = ("cls", "patches", "prompts", "all")
HEAD_BIAS = -math.log(99)  # a prior of 0.01 for each class, as for sigmoid losses; under softmax a constant that changes nothing


def init_bound(patch_size: int, width: int) -> float:
    """v of the uniform distribution on [-v, v] that prompts start from: sqrt(6 / (3 s^2 + d')) (official code).

    It is Xavier's bound for a patch embedding: patch_size s gives 3 s^2 inputs, width d' (of a prompt, before any projection) the outputs.
    ViT-B/16: 0.0625.
    """
    return math.sqrt(6 / (3 * _integer("patch_size", patch_size, 1) ** 2 + _integer("width", width, 1)))


def trainable_numbers(layers: int, num_prompts: int, width: int, *, mode: str = "deep", classes: int = 0) -> int:
    """How many numbers a task trains: N p d (deep) or p d (shallow, shared) for the prompts, C (d + 1) for a linear head (the paper's section 3.2).

    ViT-B/16 (N = 12, d = 768) with 50 prompts: 460 800 deep, 38 400 shallow.
    """
    layers, num_prompts, width = _integer("layers", layers, 1), _integer("num_prompts", num_prompts, 0), _integer("width", width, 1)
    sets = layers if _option("mode", mode, MODES) == "deep" else 1
    return sets * num_prompts * width + _integer("classes", classes, 0) * (width + 1)


def with_one_prompt(scores: Any, values: Any, prompt_score: float, prompt_value: Any) -> Any:
    """What a query reads when one prompt is added to its n keys: a point on the straight line from what it read before to the prompt's value.

    scores: (n,), logits of the keys; values: (n, d); prompt_score s: a number or -inf; prompt_value v: (d,). With Z the sum of exp(scores) and a the softmax of
    the scores, returns Z / (Z + e^s) sum_j a_j v_j + e^s / (Z + e^s) v, of shape (d,) and of the kind of `values`.
    """
    scores = _numbers("scores", scores, "n")
    rows = _numbers("values", values, f"{len(scores)} d", detach=False)
    prompt = _numbers("prompt_value", prompt_value, str(rows.shape[1]), detach=False).to(rows)
    s = -math.inf if isinstance(prompt_score, float) and prompt_score == -math.inf else _number("prompt_score", prompt_score)
    before = scores.to(rows).softmax(0) @ rows
    share = torch.sigmoid(s - scores.to(rows).logsumexp(0))  # e^s / (Z + e^s)
    return _like(values, (1 - share) * before + share * prompt)


def pooled(tokens: Any, num_prompts: int, pooling: str = "cls") -> Any:
    """One vector an image from its final tokens (B, 1 + p + m, d) in the order [CLS, prompts, patches]: (B, d).

    pooling: the class token ("cls"), or the mean of "patches", of "prompts" or of "all" but the class token (the paper's ablation of the output).
    """
    found = _numbers("tokens", tokens, "B T d", detach=False)
    p = _integer("num_prompts", num_prompts, 0, found.shape[1] - 1)
    parts = {"cls": found[:, :1], "patches": found[:, 1 + p :], "prompts": found[:, 1 : 1 + p], "all": found[:, 1:]}
    part = parts[_option("pooling", pooling, POOLINGS)]
    if not part.shape[1]:
        raise ValueError(f"pooling must be of tokens that are there, got {pooling!r} for {found.shape[1]} tokens of which {p} are prompts")
    return _like(tokens, part.mean(1))


def new_head(width: int, classes: int, *, generator: torch.Generator | None = None) -> nn.Linear:
    """The head that the official code trains beside prompts: one linear layer (d -> C), weight Kaiming normal over the outputs, bias -ln 99."""
    head = nn.Linear(_integer("width", width, 1), _integer("classes", classes, 1))
    nn.init.kaiming_normal_(head.weight, mode="fan_out", generator=_generator(generator))
    nn.init.constant_(head.bias, HEAD_BIAS)
    return head


def warmup_cosine(epoch: float, *, warmup: float = 10, epochs: float = 100) -> float:
    """The factor on the learning rate in an epoch, counted from 0: straight up to 1 at `warmup`, half a cosine down to 0 at `epochs`.

    In epoch 0 it is 0 exactly, so that the first epoch trains nothing. The factor is set once an epoch.
    """
    epochs = _number("epochs", epochs, above=0)
    warmup = _number("warmup", warmup, 0, epochs)
    epoch = _number("epoch", epoch, 0, epochs)
    if epoch < warmup:
        return epoch / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) if epochs > warmup else 1.0


def scaled_rate(base: float, batch: int) -> float:
    """The learning rate that is used: base * batch / 256. The published grid of bases for prompts goes from 0.05 to 50, with SGD."""
    return _number("base", base, 0) * _integer("batch", batch, 1) / 256


def class_rows(tokens: Any, labels: Any) -> Tensor:
    """Rows to start prompts from: the mean class token of each class, (B, d) or (N, B, d) with labels (B,) -> (C, d) or (N, C, d), classes ascending."""
    found = _numbers("tokens", tokens, "..." if getattr(tokens, "ndim", 2) == 3 else "B d")
    labels = _numbers("labels", labels, str(found.shape[-2]), whole=True).to(found.device)
    return torch.stack([found[..., labels == one, :].mean(-2) for one in labels.unique()], -2)
