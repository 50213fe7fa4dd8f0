"""MagicMix: put the content of a prompt into the layout of an image.

Liew et al. 2022, "MagicMix: Semantic Mixing with Diffusion Models", arXiv 2210.16056 (abstract and method figure). No
official code exists. Text-text mixing and the weighting of words rest on reading notes of the paper only.

Denoising is coarse to fine. So start from the noised layout image, denoise towards the content prompt, and during a window
of steps pull the state back to the layout image, noised to the same level:

    result = mix(pipe, image, "coffee machine", k_min=0.3, k_max=0.6, nu=0.5, generator=torch.Generator().manual_seed(0))

Read from top to bottom: 1. levels and layout states, 2. the sampling loop that everything shares, 3. words with weights,
4. latents and prompts, 5. `mix`, `mix_text` and their plain relatives `img2img` and `generate`, 6. checks.

Notation: N, sampling steps; k, steps LEFT, so k = N is noise and k = 0 the image; t_k = scheduler.timesteps[N - k];
x_k, layout state; x-hat_k, state of the mix; nu, share of the denoised content, 1 - nu of the layout (1: img2img).
Images are (B, 3, H, W) in [-1, 1], latents (B, C, H/f, W/f) with the factor f of the pipeline's own VAE.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

__all__ = [
    "Levels", "Result", "Step", "WordWeights", "blend", "blend_prompts", "decode", "denoise", "embed", "encode", "generate", "img2img", "invert",
    "levels", "mix", "mix_text", "noised_layout", "reweight_words", "token_weights",
]  # fmt: skip

VARIANTS = ("paper", "community")
ONE_STEP = (DDIMScheduler, diffusers.EulerDiscreteScheduler)
MULTISTEP = tuple(getattr(diffusers, f"{name}Scheduler") for name in ("DEISMultistep", "DPMSolverMultistep", "LMSDiscrete", "UniPCMultistep"))
PLAIN_ATTENTION = (AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)
Nu = float | Tensor | Callable[[int], float | Tensor]
Texts = str | Sequence[str]
Prompt = Texts | Tensor
Generators = torch.Generator | Sequence[torch.Generator] | None
Words = Mapping[str, float] | Sequence[Mapping[str, float]] | None

# ---------------------------------------------------------------------------------------------------------------------
# 1. Levels and layout states
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
    N = _integer("num_inference_steps", num_inference_steps, 1)
    k_min, k_max = _number("k_min", k_min, 0, 1), _number("k_max", k_max, 0, 1)
    _choice("variant", variant, VARIANTS)
    if k_min > k_max:
        raise ValueError(f"k_min must be at most k_max, got k_min={k_min} and k_max={k_max}")
    count = round if variant == "paper" else int
    window = Levels(count(k_min * N), count(k_max * N))
    if window.K_max < 1:
        raise ValueError(f"k_max={k_max} of num_inference_steps={N} leaves no step, expected at least one")
    return window


def blend(content: Tensor, layout: Tensor, nu: float | Tensor) -> Tensor:
    """nu * content + (1 - nu) * layout, exact for nu = 0, nu = 1 and equal inputs. content, layout: (B, C, h, w); nu in [0, 1]."""
    return torch.lerp(layout, content, nu.to(layout) if isinstance(nu, Tensor) else nu)


def noised_layout(scheduler: Any, x0: Tensor, noise: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    """{k: x_k}, x_k = sqrt(abar) x_0 + sqrt(1 - abar) eps at t_k, with ONE eps for all levels: x0 and noise (B, C, h, w).

    scheduler: with its N timesteps set; samplers in sigma units (Euler, LMS) keep their own, unscaled states.
    """
    N = len(scheduler.timesteps)
    return {k: scheduler.add_noise(x0, noise, scheduler.timesteps[N - k].expand(len(x0))) for k in wanted}


@torch.no_grad()
def invert(unet: Any, scheduler: DDIMScheduler, x0: Tensor, embeds: Tensor, *, level: int) -> dict[int, Tensor]:
    """{k: x_k} for k = 1 .. level by DDIM inversion without guidance: x_0 (B, C, h, w), embeds (B, L, D).

    As in diffusers, the noise that leads to t_k is predicted from x_{k-1} at t_k. scheduler: with its N timesteps set.
    Raises ValueError where the inverse timesteps are not the scheduler's (spacing "linspace").
    """
    inverse = _inverse(scheduler)
    states, state = {}, x0
    for k in range(1, level + 1):
        t = inverse.timesteps[k - 1]
        state = inverse.step(unet(state, t, encoder_hidden_states=embeds, return_dict=False)[0], t, state).prev_sample
        states[k] = state
    return states


def _inverse(scheduler: Any) -> DDIMInverseScheduler:
    if not isinstance(scheduler, DDIMScheduler) or scheduler.config.timestep_spacing == "linspace":
        given = f"{type(scheduler).__name__} with timestep_spacing={scheduler.config.get('timestep_spacing')!r}"
        raise ValueError(f"scheduler must be a DDIMScheduler with timestep_spacing 'leading' or 'trailing' for DDIM inversion, got {given}")
    inverse = DDIMInverseScheduler.from_config(scheduler.config)
    inverse.set_timesteps(len(scheduler.timesteps), device=scheduler.timesteps.device)
    return inverse


# ---------------------------------------------------------------------------------------------------------------------
# 2. The sampling loop
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


@torch.no_grad()
def denoise(
    unet: Any, scheduler: Any, start: Tensor, embeds: Tensor, *, level: int, guidance_scale: float = 7.5,
    layout: Mapping[int, Tensor] | None = None, nu: Mapping[int, float | Tensor] | None = None, variant: str = "paper",
    words: WordWeights | None = None, callback: Callable[[Step], None] | None = None,
) -> Tensor:  # fmt: skip
    """From x-hat_K at level K to x-hat_0: steps 2 and 3 of the method, and all of img2img and text-to-image (nu=None).

    unet(x, t, encoder_hidden_states=embeds, return_dict=False)[0] predicts; scheduler: fresh, with its N timesteps set;
    start: (B, C, h, w); embeds: (2B, L, D), unconditional half first, and (B, L, D) for guidance_scale=1, which skips it.
    layout, nu: {k: x_k} and {k: nu_k}; the state is mixed at every level of nu. variant="community" mixes what the U-Net
    sees only, and steps from the unmixed state. Guidance: eps_0 + g (eps_y - eps_0).
    """
    N, layout, nu = len(scheduler.timesteps), layout or {}, nu or {}
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(N - level)
    state = start
    for k in range(level, 0, -1):
        t = scheduler.timesteps[N - k]
        content = seen = state
        if k in nu:
            seen = blend(content, layout[k], nu[k])
            state = seen if variant == "paper" else content
        if words is not None:
            words.level = k
        x = scheduler.scale_model_input(seen, t)
        if guidance_scale == 1:
            prediction = unet(x, t, encoder_hidden_states=embeds, return_dict=False)[0]
        else:
            without, with_prompt = unet(torch.cat([x, x]), t, encoder_hidden_states=embeds, return_dict=False)[0].chunk(2)
            prediction = without + guidance_scale * (with_prompt - without)
        order = {"order": min(4, level - k + 1)} if isinstance(scheduler, diffusers.LMSDiscreteScheduler) else {}  # its own count starts at level N
        out = scheduler.step(prediction, t, state, **order)
        if callback is not None:
            callback(Step(k, t.item(), layout.get(k), content, state, seen, getattr(out, "pred_original_sample", None)))
        state = out.prev_sample
    return state


# ---------------------------------------------------------------------------------------------------------------------
# 3. Words with weights
# ---------------------------------------------------------------------------------------------------------------------


class WordWeights:
    """A cross-attention processor that multiplies the column of token j by its weight s_j, without renormalising (notes only;
    the re-weighting of Hertz et al. 2022, Prompt-to-Prompt).

    weights: (n, L), one row for each prompt of the batch (or one for all). guided: the batch is [unconditional, conditional]
    and only the second half is weighted. levels: the levels k to work at, None: all; `level` is the current one.
    """

    def __init__(self, weights: Tensor, *, guided: bool = True, levels: Collection[int] | None = None) -> None:
        self.weights, self.guided, self.levels, self.level = weights, guided, levels, None

    def reweight(self, attention: Tensor, heads: int) -> Tensor:
        """attention: (B * heads, queries, L), or 2B with guidance; returns the weighted map of the same shape."""
        if self.levels is not None and self.level not in self.levels:
            return attention
        rows = len(attention) // heads // (2 if self.guided else 1)
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


@contextmanager
def _in_cross_attention(unet: Any, words: WordWeights) -> Iterator[WordWeights]:
    before = dict(unet.attn_processors)
    places = [name for name in before if name.endswith("attn2.processor")]
    if not places:
        raise ValueError("unet must have cross-attention (attn2) for words to have weights, got none")
    for name in places:
        if not isinstance(before[name], PLAIN_ATTENTION):
            raise TypeError(f"unet must have plain cross-attention for words to have weights, got {type(before[name]).__name__} at {name}")
    try:
        unet.set_attn_processor({**before, **dict.fromkeys(places, words)})
        yield words
    finally:
        unet.set_attn_processor(before)


def reweight_words(pipe: Any, prompt: Texts, weights: Words, *, guided: bool = True) -> Any:
    """Context manager: inside it, `pipe` attends to the words of `prompt` with other weights; restores the processors, always.

        with reweight_words(pipe, "a photo of a cat", {"cat": -1.0}):
            pipe("a photo of a cat", ...)

    weights: {word: s}, or one such mapping for each prompt; s > 1 strengthens, 0 silences, < 0 pushes away (usual: [-2, 2]). A
    word may be a phrase; all its tokens and all its places are weighted. guided: guidance is on, which doubles the batch.
    Raises ValueError for a word that is not in its prompt. `mix` and its relatives do this by `word_weights`.
    """
    table = token_weights(_pipe(pipe).tokenizer, prompt, weights)
    return _in_cross_attention(pipe.unet, WordWeights(table, guided=guided))


def token_weights(tokenizer: Any, prompt: Texts, weights: Words) -> Tensor:
    """The weight of every token, (n, L), 1 where `weights` says nothing. Raises ValueError for a word that is not in its prompt."""
    prompts, tables = _texts("prompt", prompt), _word_tables(weights)
    n = _batch(prompt=len(prompts), word_weights=len(tables))
    table = torch.ones(n, tokenizer.model_max_length)
    for row in range(n):
        text, wanted = prompts[row % len(prompts)], tables[row % len(tables)]
        for word, weight in wanted.items():
            places = _places(tokenizer, text, word)
            if not places:
                raise ValueError(f"word_weights names {word!r}, which is not a word of the first {tokenizer.model_max_length} tokens of prompt {text!r}")
            table[row, places] = _number(f"word_weights[{word!r}]", weight)
    return table


def _word_tables(weights: Any) -> list[Mapping[str, float]]:
    tables = [weights] if isinstance(weights, Mapping) else weights
    if not isinstance(tables, Sequence) or not all(isinstance(row, Mapping) for row in tables):
        raise TypeError(f"word_weights must be {{word: weight}} or a list of these, got {weights!r}")
    return list(tables)


def _places(tokenizer: Any, text: str, word: str) -> list[int]:
    """Positions of the tokens of a word in a tokenized text, the start token being 0; whole words only ("cat" is not in "bobcat")."""
    if not isinstance(word, str):
        raise TypeError(f"word_weights and remove take words as text, got {word!r}")
    ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
    wanted = tokenizer(word, add_special_tokens=False).input_ids
    starts = [0, *(i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token.endswith("</w>"))]  # of a word, less one
    found = [i + 1 for i in starts if wanted and ids[i + 1 : i + 1 + len(wanted)] == wanted]
    return [i + j for i in found for j in range(len(wanted))]


# ---------------------------------------------------------------------------------------------------------------------
# 4. Latents and prompts
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def encode(pipe: Any, image: Tensor, *, latent: str = "mean", generator: Generators = None) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, H/f, W/f), times the VAE's scaling factor: the mean, or one sample of the posterior.

    Raises ValueError for values outside [-1, 1], sides that the U-Net cannot halve often enough, and latent="sample" without generator.
    """
    _image(pipe, image)
    _choice("latent", latent, ("mean", "sample"))
    _randomness(generator, None, image.shape, needed=latent == "sample", name="latent='sample'")
    posterior = pipe.vae.encode(image.to(pipe.vae.device, pipe.vae.dtype)).latent_dist
    z = posterior.mean if latent == "mean" else posterior.sample(generator)
    return z.to(pipe.unet.dtype) * pipe.vae.config.scaling_factor


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> images (B, 3, H, W). What a VAE draws beyond [-1, 1] is cut, as pipelines do before they save."""
    _floats("latents", latents)
    if latents.ndim != 4 or latents.shape[1] != pipe.unet.config.in_channels:
        raise ValueError(f"latents must be (B, {pipe.unet.config.in_channels}, h, w), got {tuple(latents.shape)}")
    return pipe.vae.decode(latents.to(pipe.vae.device, pipe.vae.dtype) / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)


@torch.no_grad()
def embed(pipe: Any, prompt: Texts) -> Tensor:
    """Text embeddings (n, L, D) of n prompts. Warns when a prompt is too long for the tokenizer, and says what is cut."""
    texts = _texts("prompt", prompt)
    _warn_of_cuts(_pipe(pipe).tokenizer, texts)
    return pipe.encode_prompt(texts, pipe.device, 1, False)[0]


def blend_prompts(pipe: Any, first: Texts, second: Texts, *, weight: float = 0.5) -> Tensor:
    """A rival of mixing: (1 - weight) first + weight second in text embeddings, (n, L, D), to be passed as a `prompt`. weight in [0, 1]."""
    weight = _number("weight", weight, 0, 1)
    _batch(first=len(_texts("first", first)), second=len(_texts("second", second)))
    return blend(*torch.broadcast_tensors(embed(pipe, second), embed(pipe, first)), weight)


@dataclass(frozen=True)
class _Prompt:
    """The text side of a run, checked and not yet encoded: `rows` prompts, or their embeddings."""

    prompt: list[str] | Tensor
    negative: list[str]
    guidance_scale: float
    words: WordWeights | None

    @property
    def rows(self) -> int:
        return max(len(self.prompt), len(self.negative), 1 if self.words is None else len(self.words.weights))

    @torch.no_grad()
    def embeds(self, pipe: Any, batch: int) -> Tensor:
        """(B, L, D) for guidance_scale=1, else (2B, L, D)."""
        texts = [self.prompt] if self.guidance_scale == 1 else [self.negative, self.prompt]
        parts = [text.to(pipe.device, pipe.unet.dtype) if isinstance(text, Tensor) else pipe.encode_prompt(text, pipe.device, 1, False)[0] for text in texts]
        return torch.cat([part.expand(batch, -1, -1) for part in parts])


def _prompt(pipe, prompt, guidance_scale, negative_prompt="", word_weights=None, word_levels=None, remove=None) -> _Prompt:
    _pipe(pipe)
    g = _number("guidance_scale", guidance_scale, 0)
    negative = _texts("negative_prompt", negative_prompt)
    words = None
    if isinstance(prompt, Tensor):
        _floats("prompt", prompt)
        if prompt.ndim != 3 or prompt.shape[1:] != (pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim):
            expected = f"(n, {pipe.tokenizer.model_max_length}, {pipe.unet.config.cross_attention_dim})"
            raise ValueError(f"prompt as an embedding must be {expected}, got {tuple(prompt.shape)}")
        if word_weights is not None or remove is not None:
            raise ValueError("word_weights and remove need a prompt in words, got an embedding")
        texts = prompt
    else:
        texts = _texts("prompt", prompt)
        if remove is not None:
            texts, word_weights = _removal(pipe.tokenizer, texts, word_weights, _texts("remove", remove))
        _warn_of_cuts(pipe.tokenizer, texts)
        if word_weights is not None:
            words = WordWeights(token_weights(pipe.tokenizer, texts, word_weights), guided=g != 1, levels=word_levels)
    if word_levels is not None and (words is None or isinstance(word_levels, str) or not isinstance(word_levels, Collection)):
        raise ValueError(f"word_levels must be a collection of levels, together with word_weights or remove, got {word_levels!r}")
    _warn_of_cuts(pipe.tokenizer, negative)
    _batch(prompt=len(texts), negative_prompt=len(negative), word_weights=1 if words is None else len(words.weights))
    return _Prompt(texts, negative, g, words)


def _removal(tokenizer, texts, word_weights, removed) -> tuple[list[str], list[dict]]:
    """Concept removal: the word gets weight -1, and is put at the end of a prompt that lacks it (abstract, `- "cat"`; weight from notes)."""
    tables = _word_tables({} if word_weights is None else word_weights)
    n = _batch(prompt=len(texts), word_weights=len(tables), remove=len(removed))
    texts, tables, removed = ([many[row % len(many)] for row in range(n)] for many in (texts, tables, removed))
    for row, (text, table, word) in enumerate(zip(texts, tables, removed)):
        if word in table:
            raise ValueError(f"remove={word!r} is a word that word_weights weights too, expected one of the two")
        texts[row] = text if _places(tokenizer, text, word) else f"{text} {word}".strip()
        tables[row] = {**table, word: -1.0}
    return texts, tables


# ---------------------------------------------------------------------------------------------------------------------
# 5. The methods
# ---------------------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    images: Tensor  # (B, 3, H, W) in [-1, 1]
    latents: Tensor  # (B, C, h, w), x-hat_0
    layout: Tensor | None  # (B, C, h, w), clean latents of the layout; see them by `decode`
    levels: Levels
    trace: list[Step] | None  # levels K_max .. 1, for trace=True


def mix(
    pipe: diffusers.StableDiffusionPipeline, image: Tensor, prompt: Prompt, *,
    k_min: float = 0.3, k_max: float = 0.6, nu: Nu = 0.5, num_inference_steps: int = 50, guidance_scale: float = 7.5,
    variant: str = "paper", layout: str = "noise", latent: str = "mean", negative_prompt: Texts = "", inversion_prompt: Prompt = "",
    word_weights: Words = None, word_levels: Collection[int] | None = None, remove: Texts | None = None,
    generator: Generators = None, noise: Tensor | None = None, allow_multistep: bool = False, trace: bool = False,
) -> Result:  # fmt: skip
    """Image-text mixing (method figure): the layout of `image`, the content of `prompt`.

    image: (B, 3, H, W) in [-1, 1], sides multiples of f * 2^(U-Net levels - 1). prompt: the bare content ("rabbit"), a text,
    B texts, or embeddings (1 or B, L, D). One image with B prompts is B mixes. The defaults are those of the public code for
    Stable Diffusion at 512 pixels; small latents lose their layout at lower levels.

    k_min, k_max, variant: see `levels` and `denoise`. nu in [0, 1], the weight of the content: a number, a function of the
    level k, or a tensor that broadcasts to the latents (a map, or one number an image: (B, 1, 1, 1)).
    layout: "noise", one eps for all levels (`noised_layout`), or "ddim_inversion" under `inversion_prompt` (`invert`; it draws
    no noise). latent: see `encode`. word_weights: see `reweight_words`; at `word_levels` (steps left) only, None: at all.
    remove: a word to push away (weight -1), with prompt="" or any other prompt.
    generator, or a list of B generators, or noise (B or 1, C, h, w): one of them must be given. 1: the same for all images.
    Samplers with memory are refused in variant="paper" (their history is of unmixed states) unless allow_multistep.

    U-Net calls: K_max, on B latents, or 2B with guidance; inversion: K_max more. The pipeline is left as it was found.
    Raises ValueError or TypeError for bad input, before any work is done.
    """
    window = levels(num_inference_steps, k_min, k_max, variant)
    text = _prompt(pipe, prompt, guidance_scale, negative_prompt, word_weights, word_levels, remove)
    inversion = _prompt(pipe, inversion_prompt, 1)
    _image(pipe, image)
    _choice("layout", layout, ("noise", "ddim_inversion"))
    _choice("latent", latent, ("mean", "sample"))
    forward, sampler = (_scheduler(pipe, num_inference_steps, variant == "community" or allow_multistep) for _ in range(2))
    batch = _batch(image=len(image), prompt=text.rows, inversion_prompt=inversion.rows)
    shape = (batch, pipe.unet.config.in_channels, *(side // pipe.vae_scale_factor for side in image.shape[2:]))
    inverted = layout == "ddim_inversion"
    if inverted:
        _inverse(forward)
        if noise is not None:
            raise ValueError("noise has no part in layout='ddim_inversion', got both")
    _randomness(generator, noise, shape, needed=not inverted)
    _randomness(generator, None, shape, needed=latent == "sample", name="latent='sample'")
    table = _nu_table(nu, window, shape)

    x0 = encode(pipe, image.expand(batch, -1, -1, -1) if latent == "sample" else image, latent=latent, generator=generator).expand(shape)
    if inverted:
        states = invert(pipe.unet, forward, x0, inversion.embeds(pipe, batch), level=window.K_max)
    else:
        states = noised_layout(forward, x0, _draw(pipe, shape, generator, noise), window.needed)
    return _run(pipe, sampler, states, text, window, x0, table, variant, trace)


def img2img(
    pipe: diffusers.StableDiffusionPipeline, image: Tensor, prompt: Prompt, *,
    level: int | None = None, strength: float | None = None, num_inference_steps: int = 50, **options: Any,
) -> Result:  # fmt: skip
    """The plain rival (SDEdit, Meng et al. 2022): noise the image to one level and denoise it: `mix` with nothing to mix.

    Either `level`, 1 .. N steps left, or `strength` in (0, 1], round(strength * N) of them. options: of `mix`, but for k_min,
    k_max, nu, variant and allow_multistep. layout="ddim_inversion": inversion, then the new prompt.
    """
    N = _integer("num_inference_steps", num_inference_steps, 1)
    if (level is None) == (strength is None):
        raise ValueError(f"expected one of level and strength, got level={level!r} and strength={strength!r}")
    K = round(_number("strength", strength, 0, 1) * N) if level is None else _integer("level", level, 1, N)
    if K < 1:
        raise ValueError(f"strength={strength} of num_inference_steps={N} leaves no step, expected at least one")
    return mix(pipe, image, prompt, k_min=K / N, k_max=K / N, nu=1, num_inference_steps=N, variant="paper", allow_multistep=True, **options)


def generate(
    pipe: diffusers.StableDiffusionPipeline, prompt: Prompt, *,
    num_inference_steps: int = 50, guidance_scale: float = 7.5, negative_prompt: Texts = "",
    word_weights: Words = None, word_levels: Collection[int] | None = None, remove: Texts | None = None,
    generator: Generators = None, noise: Tensor | None = None, trace: bool = False,
) -> Result:  # fmt: skip
    """Text-to-image on the same loop, all N levels. noise: (B, C, h, w) says size and number of the images; without it they have
    the U-Net's own size and there is one for each prompt. All other options as in `mix`."""
    text = _prompt(pipe, prompt, guidance_scale, negative_prompt, word_weights, word_levels, remove)
    sampler = _scheduler(pipe, num_inference_steps, True)
    shape = _latent_shape(pipe, noise, prompt=text.rows)
    _randomness(generator, noise, shape)
    start = _draw(pipe, shape, generator, noise) * sampler.init_noise_sigma
    return _run(pipe, sampler, {num_inference_steps: start}, text, Levels(num_inference_steps, num_inference_steps), trace=trace)


def mix_text(
    pipe: diffusers.StableDiffusionPipeline, layout_prompt: Prompt, prompt: Prompt, *, layout_states: str = "trajectory",
    k_min: float = 0.3, k_max: float = 0.6, nu: Nu = 0.5, num_inference_steps: int = 50, guidance_scale: float = 7.5,
    variant: str = "paper", negative_prompt: Texts = "",
    word_weights: Words = None, word_levels: Collection[int] | None = None, remove: Texts | None = None,
    generator: Generators = None, noise: Tensor | None = None, renoise: Tensor | None = None, allow_multistep: bool = False, trace: bool = False,
) -> Result:  # fmt: skip
    """Text-text mixing (notes only): the layout of one prompt, the content of another.

    layout_states="trajectory": x_k are the states that the sampler passed while it drew `layout_prompt` from `noise`; "renoise":
    that picture is finished and its latents are noised again, with eps = `renoise` or a second draw of the generator.
    Only the content's run has weighted words. U-Net calls: N + K_max. All other options as in `mix` and `generate`.
    """
    window = levels(num_inference_steps, k_min, k_max, variant)
    text = _prompt(pipe, prompt, guidance_scale, negative_prompt, word_weights, word_levels, remove)
    source = _prompt(pipe, layout_prompt, guidance_scale, negative_prompt)
    _choice("layout_states", layout_states, ("trajectory", "renoise"))
    first, forward, sampler = (_scheduler(pipe, num_inference_steps, variant == "community" or allow_multistep) for _ in range(3))
    shape = _latent_shape(pipe, noise, layout_prompt=source.rows, prompt=text.rows)
    _randomness(generator, noise, shape)
    if renoise is not None and layout_states == "trajectory":
        raise ValueError("renoise belongs to layout_states='renoise', got it with 'trajectory'")
    _randomness(generator, renoise, shape, needed=layout_states == "renoise", name="renoise")
    table = _nu_table(nu, window, shape)

    start = _draw(pipe, shape, generator, noise) * first.init_noise_sigma
    states: dict[int, Tensor] = {}
    x0 = denoise(
        pipe.unet, first, start, source.embeds(pipe, len(start)), level=num_inference_steps, guidance_scale=source.guidance_scale,
        callback=lambda step: states.update({step.level: step.state}),
    )  # fmt: skip
    if layout_states == "renoise":
        states = noised_layout(forward, x0, _draw(pipe, shape, generator, renoise), window.needed)
    return _run(pipe, sampler, states, text, window, x0, table, variant, trace)


def _run(pipe, sampler, states, text, window, x0=None, nu=None, variant="paper", trace=False) -> Result:  # fmt: skip
    """Denoise from x-hat_{K_max} = states[K_max], mixing with the states at the levels of nu."""
    steps: list[Step] = []
    start = states[window.K_max]
    layout = {} if x0 is None else {k: states[k] for k in window.needed}
    embeds = text.embeds(pipe, len(start))
    with nullcontext() if text.words is None else _in_cross_attention(pipe.unet, text.words):
        latents = denoise(
            pipe.unet, sampler, start, embeds, level=window.K_max, guidance_scale=text.guidance_scale, layout=layout, nu=nu, variant=variant,
            words=text.words, callback=steps.append if trace else None,
        )  # fmt: skip
    return Result(decode(pipe, latents), latents, x0, window, steps if trace else None)


# ---------------------------------------------------------------------------------------------------------------------
# 6. Checks
# ---------------------------------------------------------------------------------------------------------------------


# --- checks of arguments: the same text in every method that checks so, since a method is copied alone ---


def _integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    expected = "an integer" + (f" in {least}..{most}" if None not in (least, most) else "" if least is None else f" >= {least}")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return int(value)


def _number(name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> float:
    expected = "a finite number" + (f" in [{least:g}, {most:g}]" if most < math.inf else f" >= {least:g}" if least > -math.inf else "")
    expected += f" > {above:g}" if above > -math.inf else ""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if not (math.isfinite(value) and least <= value <= most and value > above):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return float(value)


def _choice(name: str, value: Any, choices: Sequence) -> Any:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    return value


# --- end of the checks ---


def _texts(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must be a text or a list of texts, got {value!r}")
    if not texts:
        raise ValueError(f"{name} is an empty list, expected at least one text")
    return list(texts)


def _floats(name: str, value: Any) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype if isinstance(value, Tensor) else type(value).__name__}")
    if not value.numel() or not torch.isfinite(value).all():
        raise ValueError(f"{name} must be finite and not empty, got {tuple(value.shape)} with {int((~torch.isfinite(value)).sum())} NaN or infinite values")


def _batch(**counts: int) -> int:
    batch = max(counts.values())
    if any(count not in (1, batch) for count in counts.values()):
        raise ValueError(f"batch sizes must be 1 or equal, got {', '.join(f'{count} for {name}' for name, count in counts.items())}")
    return batch


def _pipe(pipe: Any) -> Any:
    if not isinstance(pipe, diffusers.StableDiffusionPipeline | diffusers.StableDiffusionImg2ImgPipeline):
        raise TypeError(f"pipe must be a StableDiffusionPipeline, got {type(pipe).__name__}")
    return pipe


def _scheduler(pipe: Any, num_inference_steps: int, memory_allowed: bool) -> Any:
    """A fresh copy of the pipeline's scheduler with its timesteps set."""
    N, name, config = _integer("num_inference_steps", num_inference_steps, 1), type(pipe.scheduler).__name__, pipe.scheduler.config
    advice = "try pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
    if isinstance(pipe.scheduler, MULTISTEP) and not memory_allowed:
        raise ValueError(f"scheduler must have no memory of earlier states, which are mixed here, got {name}: pass allow_multistep=True, or {advice}")
    if not isinstance(pipe.scheduler, ONE_STEP + MULTISTEP) or "sde" in config.get("algorithm_type", ""):
        known = ", ".join(kind.__name__ for kind in ONE_STEP + MULTISTEP)
        raise ValueError(f"scheduler must add noise by itself, draw none in a step and have one timestep a step ({known}), got {name}: {advice}")
    if N > config.num_train_timesteps:
        raise ValueError(f"num_inference_steps must be at most the scheduler's {config.num_train_timesteps} timesteps, got {N}")
    scheduler = type(pipe.scheduler).from_config(config)
    scheduler.set_timesteps(N, device=pipe.device)
    if len(scheduler.timesteps) != N:
        raise ValueError(f"scheduler must have one timestep a step, got {len(scheduler.timesteps)} for {N} steps of {name}: {advice}")
    return scheduler


def _sides(pipe: Any, height: int, width: int) -> None:
    multiple = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if height % multiple or width % multiple:
        raise ValueError(f"height and width must be multiples of {multiple} pixels (VAE and U-Net halve them), got {height} x {width}")


def _image(pipe: Any, image: Any) -> None:
    _pipe(pipe)
    _floats("image", image)
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image must be (B, 3, H, W), got {tuple(image.shape)}")
    if image.abs().max() > 1:
        raise ValueError(f"image must lie in [-1, 1], got {image.min():.3g} .. {image.max():.3g}")
    _sides(pipe, *image.shape[2:])


def _latent_shape(pipe: Any, noise: Any, **rows: int) -> tuple[int, ...]:
    """(B, C, h, w) for runs from noise alone: its own, or one U-Net size for each prompt."""
    C, size = pipe.unet.config.in_channels, pipe.unet.config.sample_size
    if noise is None:
        return (_batch(**rows), C, *((size, size) if isinstance(size, int) else size))
    _floats("noise", noise)
    if noise.ndim != 4:
        raise ValueError(f"noise must be (B, {C}, h, w), got {tuple(noise.shape)}")
    _sides(pipe, *(side * pipe.vae_scale_factor for side in noise.shape[2:]))
    return (_batch(**rows, noise=len(noise)), C, *noise.shape[2:])


def _randomness(generator: Any, noise: Any, shape: Sequence[int], *, needed: bool = True, name: str = "noise") -> None:
    generators = generator if isinstance(generator, Sequence) else [] if generator is None else [generator]
    if not all(isinstance(one, torch.Generator) for one in generators):
        raise TypeError(f"generator must be a torch.Generator or a list of them, got {generator!r}")
    if isinstance(generator, Sequence) and len(generator) != shape[0]:
        raise ValueError(f"generator must be one torch.Generator or {shape[0]} of them, got {len(generator)}")
    if needed and generator is None and noise is None:
        raise ValueError(f"{name} needs a generator (or must be given as a tensor), got neither")
    if noise is not None:
        _floats(name, noise)
        if tuple(noise.shape) not in (tuple(shape), (1, *shape[1:])):
            raise ValueError(f"{name} must be {tuple(shape)}, or one for all images, got {tuple(noise.shape)}")


def _draw(pipe: Any, shape: tuple[int, ...], generator: Any, noise: Tensor | None) -> Tensor:
    if noise is not None:
        return noise.to(pipe.device, pipe.unet.dtype).expand(shape)
    return randn_tensor(shape, generator=generator, device=pipe.device, dtype=pipe.unet.dtype)


def _nu_table(nu: Any, window: Levels, shape: tuple[int, ...]) -> dict[int, float | Tensor]:
    """{k: nu_k} for the mixed levels."""
    if not callable(nu) or isinstance(nu, Tensor):
        value = _nu("nu", nu, shape)
        return {k: value for k in window.mixed}
    return {k: _nu(f"nu({k})", nu(k), shape) for k in window.mixed}


def _nu(name: str, value: Any, shape: tuple[int, ...]) -> float | Tensor:
    if not isinstance(value, Tensor):
        return _number(name, value, 0, 1)
    _floats(name, value)
    if value.min() < 0 or value.max() > 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value.min():.3g} .. {value.max():.3g}")
    if value.ndim > 4 or any(own not in (1, side) for own, side in zip(reversed(value.shape), reversed(shape))):
        raise ValueError(f"{name} must broadcast to the latents {shape}, got {tuple(value.shape)}")
    return value


def _warn_of_cuts(tokenizer: Any, texts: list[str]) -> None:
    for text in texts:
        cut = tokenizer(text).input_ids[tokenizer.model_max_length - 1 : -1]
        if cut:
            warnings.warn(f"prompt {text!r} is longer than {tokenizer.model_max_length} tokens, cut off: {tokenizer.decode(cut)!r}", stacklevel=4)
