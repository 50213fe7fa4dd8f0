"""MagicMix: the window of levels, mixing itself, and words with weights. Nothing here needs diffusers.

Liew et al. 2022, "MagicMix: Semantic Mixing with Diffusion Models", arXiv 2210.16056 (abstract and method figure). No
official code exists. The weighting of words rests on reading notes of the paper only.

Read from top to bottom: 1. levels, 2. mixing, 3. words with weights, 4. what the caller holds. `attach.py` runs a
pipeline with these, and has the notation in full: k, steps LEFT, so k = N is noise and k = 0 the image; x_k, layout state;
x-hat_k, state of the mix; nu, share of the denoised content.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._arguments import _batch, _finite, _flag, _got, _integers, _integral, _nu, _numbers, _option

__all__ = ["VARIANTS", "WordWeights", "blend", "levels"]

VARIANTS = ("paper", "community")

# ---------------------------------------------------------------------------------------------------------------------
# 1. Levels
# ---------------------------------------------------------------------------------------------------------------------


class Levels(NamedTuple):
    """The window in steps left. We start at K_max; below and at K_min the content is denoised freely."""

    K_min: int
    K_max: int

    @property
    def mixed(self) -> tuple[int, ...]:
        """K_max - 1, ..., K_min + 1: the levels at which layout and content are mixed (method figure)."""
        return tuple(range(self.K_max - 1, self.K_min, -1))

    @property
    def needed(self) -> tuple[int, ...]:
        """The levels whose layout state is used: K_max, where we start, and the mixed ones."""
        return (self.K_max, *self.mixed)


def levels(num_inference_steps: int, k_min: float, k_max: float, variant: str = "paper") -> Levels:
    """Fractions of the sampling steps as counts: (50, 0.3, 0.6) -> Levels(15, 30), with 14 mixed levels.

    variant="paper" rounds (halves to even), "community" truncates as the public code does: int(0.29 * 100) = 28.
    Raises ValueError unless 0 <= k_min <= k_max <= 1 and at least one step is left.
    """
    N = _integral("num_inference_steps", num_inference_steps, low=1)
    k_min, k_max = _finite("k_min", k_min, low=0, high=1), _finite("k_max", k_max, low=0, high=1)
    _option("variant", variant, VARIANTS)
    if k_min > k_max:
        raise ValueError(f"k_min must be at most k_max, got k_min={k_min} and k_max={k_max}")
    count = round if variant == "paper" else int
    window = Levels(count(k_min * N), count(k_max * N))
    if window.K_max < 1:
        raise ValueError(f"k_max={k_max} of num_inference_steps={N} leaves no step, expected at least one")
    return window


# ---------------------------------------------------------------------------------------------------------------------
# 2. Mixing
# ---------------------------------------------------------------------------------------------------------------------


def blend(content: Tensor, layout: Tensor, nu: float | Tensor) -> Tensor:
    """nu * content + (1 - nu) * layout, exact for nu = 0, nu = 1 and equal inputs. Two arrays of one shape; nu in [0, 1], a number or
    what broadcasts to them."""
    given, content = content, _numbers("content", content, "...")
    layout = _numbers("layout", layout, "...").to(content)
    if layout.shape != content.shape:
        raise ValueError(f"layout must have the shape of content, {tuple(content.shape)}, got {tuple(layout.shape)}")
    return _like(given, _blend(content, layout, _nu("nu", nu, content.shape)))


def _blend(content: Tensor, layout: Tensor, nu: float | Tensor) -> Tensor:
    return torch.lerp(layout, content, nu.to(layout) if isinstance(nu, Tensor) else nu)


# ---------------------------------------------------------------------------------------------------------------------
# 3. Words with weights
# ---------------------------------------------------------------------------------------------------------------------


class WordWeights:
    """A cross-attention processor that multiplies the column of token j by its weight s_j, without renormalising (notes only;
    the re-weighting of Hertz et al. 2022, Prompt-to-Prompt).

    weights: (n, L), one row for each prompt of the batch (or one for all). guided: the batch is [unconditional, conditional]
    and only the second half is weighted. levels: the levels k to work at, None: all; `level` is the current one. `told`, where
    it is set, is given `guided` at every call and returns what holds there.
    """

    def __init__(self, weights: Tensor, *, guided: bool = True, levels: Collection[int] | None = None) -> None:
        self.weights, self.guided, self.level = _numbers("weights", weights, "n L", whole=True), _flag("guided", guided), None
        self.levels = None if levels is None else _integers("levels", levels, low=1)
        self.told: Callable[[bool], bool] | None = None

    def reweight(self, attention: Tensor, heads: int) -> Tensor:
        """attention: (B * heads, queries, L), or 2B with guidance; returns the weighted map of the same shape."""
        if self.levels is not None and self.level not in self.levels:
            return attention
        self.guided = self.guided if self.told is None else self.told(self.guided)
        batch = len(attention) // heads
        if self.guided and batch % 2:
            raise ValueError(f"guided must be False where the batch has no unconditional half, got True with {batch} rows")
        rows = batch // (2 if self.guided else 1)
        if rows % len(self.weights) or attention.shape[-1] != self.weights.shape[-1]:
            raise ValueError(f"weights are {tuple(self.weights.shape)}, expected (a divisor of {rows} prompts, {attention.shape[-1]} tokens)")
        s = self.weights.to(attention).repeat_interleave(rows * heads // len(self.weights), dim=0).unsqueeze(1)
        return attention * (torch.cat([torch.ones_like(s), s]) if self.guided else s)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs) -> Tensor:
        """diffusers' AttnProcessor, in its order, with `reweight` between softmax and values."""
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, h*w, C)
        text = encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, (hidden_states if text is None else text).shape[1], len(hidden_states))
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        query = attn.to_q(hidden_states)
        if text is not None and attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        source = hidden_states if text is None else text
        query, key, value = (attn.head_to_batch_dim(x) for x in (query, attn.to_k(source), attn.to_v(source)))
        attention = attn.get_attention_scores(query, key, mask)
        if text is not None:
            attention = self.reweight(attention, attn.heads)
        hidden_states = attn.batch_to_head_dim(torch.bmm(attention, value))
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))  # projection, dropout
        if len(shape) == 4:
            hidden_states = hidden_states.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor


def _token_weights(tokenizer: Any, prompts: list[str], tables: list[Mapping[str, float]], name: str = "word_weights") -> Tensor:
    """The weight of every token, (n, L), 1 where the tables say nothing. Raises ValueError for a word that is not in its prompt."""
    n = _batch(**{"prompt": len(prompts), name: len(tables)})
    table = torch.ones(n, tokenizer.model_max_length)
    for row in range(n):
        text, wanted = prompts[row % len(prompts)], tables[row % len(tables)]
        for word, weight in wanted.items():
            places = _places(tokenizer, text, word)
            if not places:
                raise ValueError(f"{name} names {word!r}, which is not a word of the first {tokenizer.model_max_length} tokens of prompt {text!r}")
            table[row, places] = _finite(f"{name}[{word!r}]", weight)
    return table


def _word_tables(name: str, weights: Any) -> list[Mapping[str, float]]:
    tables = [weights] if isinstance(weights, Mapping) else weights
    if not isinstance(tables, list | tuple) or not all(isinstance(row, Mapping) for row in tables):
        raise TypeError(f"{name} must be {{word: weight}} or a list of these, got {_got(weights)}")
    if not tables:
        raise ValueError(f"{name} must be {{word: weight}} or a list of these, got none")
    for word in (word for row in tables for word in row):
        if not isinstance(word, str):
            raise TypeError(f"{name} must have words as text, got {_got(word)}")
    return list(tables)


def _places(tokenizer: Any, text: str, word: str) -> list[int]:
    """Positions of the tokens of a word in a tokenized text, the start token being 0; whole words only ("cat" is not in "bobcat")."""
    ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
    wanted = tokenizer(word, add_special_tokens=False).input_ids
    starts = [0, *(i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token.endswith("</w>"))]  # of a word, less one
    found = [i + 1 for i in starts if wanted and ids[i + 1 : i + 1 + len(wanted)] == wanted]
    return [i + j for i in found for j in range(len(wanted))]


def _removal(tokenizer, texts, tables, removed) -> tuple[list[str], list[dict]]:
    """Concept removal: the word gets weight -1, and is put at the end of a prompt that lacks it (abstract, `- "cat"`; weight from notes)."""
    n = _batch(prompt=len(texts), word_weights=len(tables), remove=len(removed))
    texts, tables, removed = ([many[row % len(many)] for row in range(n)] for many in (texts, tables, removed))
    for row, (text, table, word) in enumerate(zip(texts, tables, removed)):
        if not word.strip():
            raise ValueError(f"remove must name a word, got {word!r}")
        if word in table:
            raise ValueError(f"remove={word!r} is a word that word_weights weights too, expected one of the two")
        texts[row] = text if _places(tokenizer, text, word) else f"{text} {word}".strip()
        tables[row] = {**table, word: -1.0}
        if not _places(tokenizer, texts[row], word):
            raise ValueError(f"remove={word!r} has no place among the {tokenizer.model_max_length} tokens of prompt {text!r}")
    return texts, tables


# ---------------------------------------------------------------------------------------------------------------------
# 4. What the caller holds
# ---------------------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What happened at one level. Latents (B, C, h, w), as the sampler holds them."""

    level: int  # k
    timestep: float  # t_k
    layout: Tensor | None  # x_k, None where the layout has no part
    content: Tensor  # x-hat'_k, where the sampler had arrived
    state: Tensor  # x-hat_k, from which the sampler steps on
    seen: Tensor  # what the U-Net was given (before scale_model_input); differs from `state` in variant="community" only
    estimate: Tensor | None  # one-step estimate of x_0; None for samplers that do not tell


class Result(NamedTuple):
    images: Tensor  # (B, 3, H, W) in [-1, 1]
    latents: Tensor  # (B, C, h, w), x-hat_0
    layout: Tensor | None  # (B, C, h, w), clean latents of the layout; see them by `decode`
    levels: Levels
    trace: list[Step] | None  # levels K_max .. 1, for trace=True


def _like(value: Any, result: Any) -> Any:
    """`result` in the kind of `value`: tensors, or numpy arrays for what is no tensor. Results in containers too."""
    if value is None or isinstance(value, Tensor):
        return result
    if isinstance(result, Tensor):
        return (result.float() if result.dtype == torch.bfloat16 else result).detach().cpu().numpy()
    if isinstance(result, dict):
        return {key: _like(value, part) for key, part in result.items()}
    if isinstance(result, list):
        return [_like(value, part) for part in result]
    return type(result)(*(_like(value, part) for part in result)) if isinstance(result, Result | Step) else result
