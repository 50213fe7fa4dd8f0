"""MagicMix on a diffusers pipeline: put the content of a prompt into the layout of an image.

Liew et al. 2022, "MagicMix: Semantic Mixing with Diffusion Models", arXiv 2210.16056 (abstract and method figure). No
official code exists. Text-text mixing and the weighting of words rest on reading notes of the paper only.

Denoising is coarse to fine. So start from the noised layout image, denoise towards the content prompt, and during a window
of steps pull the state back to the layout image, noised to the same level:

    result = mix(pipe, image, "coffee machine", k_min=0.3, k_max=0.6, nu=0.5, generator=torch.Generator().manual_seed(0))

Read from top to bottom: 1. layout states, 2. the sampling loop that everything shares, 3. words with weights, 4. latents and
prompts, 5. `mix`, `mix_text` and their plain relatives `img2img` and `generate`, 6. checks. Levels, mixing itself and what
weights do to a map of attention are in `mixing.py`.

Notation: N, sampling steps; k, steps LEFT, so k = N is noise and k = 0 the image; t_k = scheduler.timesteps[N - k];
x_k, layout state; x-hat_k, state of the mix; nu, share of the denoised content, 1 - nu of the layout (1: img2img).
Images are (B, 3, H, W) in [-1, 1], latents (B, C, H/f, W/f) with the factor f of the pipeline's own VAE.

Tensors, numpy arrays and lists all serve. Results are tensors where the pipeline executes (offloaded or not) and of its dtype, or
numpy arrays where the image (the noise, the first latents) was no tensor. Bad arguments raise ValueError or TypeError that names the
argument, before any work.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ._arguments import _batch, _finite, _flag, _function, _got, _integers, _integral, _mapping, _nu, _numbers, _option, _texts
from .mixing import VARIANTS, Levels, Result, Step, WordWeights, _blend, _like, _removal, _token_weights, _word_tables, levels

__all__ = [
    "blend_prompts", "decode", "denoise", "embed", "encode", "generate", "img2img", "mix", "mix_text", "noised_layout", "reweight_words",
]  # fmt: skip

ADVICE = "try pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
ONE_STEP = (DDIMScheduler, diffusers.EulerDiscreteScheduler)
MULTISTEP = tuple(getattr(diffusers, f"{name}Scheduler") for name in ("DEISMultistep", "DPMSolverMultistep", "LMSDiscrete", "UniPCMultistep"))
MORE = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "num_class_embeds", "time_cond_proj_dim")  # what else a U-Net may want
PLAIN_ATTENTION = (AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)
Nu = float | Tensor | Callable[[int], float | Tensor]
Texts = str | Sequence[str]
Prompt = Texts | Tensor
Generators = torch.Generator | Sequence[torch.Generator] | None
Words = Mapping[str, float] | Sequence[Mapping[str, float]] | None

# ---------------------------------------------------------------------------------------------------------------------
# 1. Layout states
# ---------------------------------------------------------------------------------------------------------------------


def noised_layout(scheduler: Any, x0: Tensor, noise: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    """{k: x_k}, x_k = sqrt(abar) x_0 + sqrt(1 - abar) eps, with the abar of level k and ONE eps for all levels: x0 and noise (B, C, h, w).

    scheduler: fresh, with its N timesteps set; wanted: levels 1 .. N. Samplers in sigma units (Euler, LMS) keep their own, unscaled
    states. Raises ValueError for a scheduler that cannot be used here.
    """
    N, given = len(_noise_to_signal(_known(scheduler))), x0
    x0 = _numbers("x0", x0, "B C h w")
    noise = _numbers("noise", noise, " ".join(map(str, x0.shape))).to(x0)
    return _like(given, _noised(scheduler, x0, noise, _integers("wanted", wanted, low=1, high=N)))


def _noised(scheduler: Any, x0: Tensor, noise: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    N, scheduler, states = len(scheduler.timesteps), copy.copy(scheduler), {}
    precise = torch.promote_types(x0.dtype, torch.float32)  # half precision would lose the noise of the last levels
    for k in wanted:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(N - k)  # the place decides: rounded timesteps can stand twice in a schedule
        t = scheduler.timesteps[N - k].expand(len(x0))
        states[k] = scheduler.add_noise(x0.to(precise), noise.to(precise), t).to(x0.dtype)
    return states


@torch.no_grad()
def _invert(unet: Any, scheduler: DDIMScheduler, x0: Tensor, embeds: Tensor, *, level: int) -> dict[int, Tensor]:
    """{k: x_k} for k = 1 .. level by DDIM inversion without guidance: x_0 (B, C, h, w), embeds (B, L, D).

    As in diffusers, the noise that leads to t_k is predicted from x_{k-1} at t_k. scheduler: with its N timesteps set.
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
    _function("unet", unet)
    N, given = len(_noise_to_signal(_known(scheduler))), start
    sizes = getattr(unet, "config", {})  # of diffusers' U-Nets; any function of these arguments will do
    _plain("unet", sizes, sizes.get("out_channels"))
    start = _numbers("start", start, f"B {sizes.get('in_channels') or 'C'} h w")
    start = start.to(getattr(unet, "dtype", start.dtype))
    g = _finite("guidance_scale", guidance_scale, low=0)
    embeds = _numbers("embeds", embeds, f"{len(start) * (1 if g == 1 else 2)} L {sizes.get('cross_attention_dim') or 'D'}").to(start)
    level = _integral("level", level, low=1, high=N)
    _begins(scheduler, level)
    _option("variant", variant, VARIANTS)
    layout, nu = (_mapping(name, {} if value is None else value) for name, value in (("layout", layout), ("nu", nu)))
    layout = {k: _numbers(f"layout[{k}]", layout[k], " ".join(map(str, start.shape))).to(start) for k in _integers("layout", layout, low=1, high=N, empty=True)}
    for k in _integers("nu", nu, low=1, high=level, empty=True):
        if k not in layout:
            raise ValueError(f"layout must have a state for every level of nu, got none for {k}")
    nu = {k: _nu(f"nu[{k}]", value, start.shape) for k, value in nu.items()}
    if words is not None and not isinstance(words, WordWeights):
        raise TypeError(f"words must be WordWeights or None, got {_got(words)}")
    tell = None if callback is None else _function("callback", callback)
    options = dict(level=level, guidance_scale=g, layout=layout, nu=nu, variant=variant, words=words)
    return _like(given, _denoise(unet, scheduler, start, embeds, callback=tell and (lambda step: tell(_like(given, step))), **options))


@torch.no_grad()
def _denoise(unet, scheduler, start, embeds, *, level, guidance_scale, layout=None, nu=None, variant="paper", words=None, callback=None) -> Tensor:
    N, layout, nu = len(scheduler.timesteps), layout or {}, nu or {}
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(N - level)
    state = start
    for k in range(level, 0, -1):
        t = scheduler.timesteps[N - k]
        content = seen = state
        if k in nu:
            seen = _blend(content, layout[k], nu[k])
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


def reweight_words(pipe: Any, prompt: Texts, weights: Words, *, guided: bool | None = None) -> Any:
    """Context manager: inside it, `pipe` attends to the words of `prompt` with other weights; restores the processors, always.

        with reweight_words(pipe, "a photo of a cat", {"cat": -1.0}):
            pipe("a photo of a cat", ...)

    weights: {word: s}, or one such mapping for each prompt; s > 1 strengthens, 0 silences, < 0 pushes away (usual: [-2, 2]). A
    word may be a phrase; all its tokens and all its places are weighted. guided: guidance is on, which doubles the batch; None:
    as the pipeline's own call has it, and on in a loop of yours. Raises ValueError for a word that is not in its prompt, and
    when the pipeline's call contradicts `guided`. `mix` and its relatives do this by `word_weights`.
    """
    table = _token_weights(_pipe(pipe).tokenizer, _texts("prompt", prompt), _word_tables("weights", weights), "weights")
    return _around_the_pipeline(pipe, WordWeights(table, guided=guided is None or _flag("guided", guided)), guided)


@contextmanager
def _around_the_pipeline(pipe: Any, words: WordWeights, guided: bool | None) -> Iterator[WordWeights]:
    """Words in the cross-attention of a pipeline, which says from the start of its call on whether guidance is on."""
    before = vars(pipe).pop("_guidance_scale", None)  # of a call that is over

    def told(last: bool) -> bool:
        if "_guidance_scale" not in vars(pipe):
            return last
        if guided not in (None, pipe.do_classifier_free_guidance):
            raise ValueError(f"guided must be {not guided} (or None) for this call of the pipeline, at guidance_scale={pipe.guidance_scale}, got {guided}")
        return pipe.do_classifier_free_guidance

    words.told = told
    try:
        with _in_cross_attention(pipe.unet, words):
            yield words
    finally:
        if before is not None:
            vars(pipe).setdefault("_guidance_scale", before)


# ---------------------------------------------------------------------------------------------------------------------
# 4. Latents and prompts
# ---------------------------------------------------------------------------------------------------------------------


def encode(pipe: Any, image: Tensor, *, latent: str = "mean", generator: Generators = None) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, H/f, W/f), times the VAE's scaling factor: the mean, or one sample of the posterior.

    Raises ValueError for values outside [-1, 1], sides that the U-Net cannot halve often enough, and latent="sample" without generator.
    """
    given, image = image, _image(pipe, image)
    _option("latent", latent, ("mean", "sample"))
    generator = _generators(pipe, generator, len(image))
    if latent == "sample" and generator is None:
        raise ValueError("latent='sample' needs a generator, got none")
    with _tidied(pipe):
        return _like(given, _encode(pipe, image, latent, generator))


@contextmanager
def _tidied(pipe: Any) -> Iterator[None]:
    """As pipelines end, and however this ends: under offloading the last model goes back too."""
    try:
        yield
    finally:
        pipe.maybe_free_model_hooks()


@torch.no_grad()
def _encode(pipe: Any, image: Tensor, latent: str, generator: Any) -> Tensor:
    posterior = pipe.vae.encode(image.to(pipe._execution_device, pipe.vae.dtype)).latent_dist
    z = posterior.mean if latent == "mean" else posterior.sample(generator)
    return z.to(pipe.unet.dtype) * pipe.vae.config.scaling_factor


def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> images (B, 3, H, W). What a VAE draws beyond [-1, 1] is cut, as pipelines do before they save."""
    given, latents = latents, _numbers("latents", latents, f"B {_pipe(pipe).vae.config.latent_channels} h w")
    with _tidied(pipe):
        return _like(given, _decode(pipe, latents))


@torch.no_grad()
def _decode(pipe: Any, latents: Tensor) -> Tensor:
    return pipe.vae.decode(latents.to(pipe._execution_device, pipe.vae.dtype) / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)


def embed(pipe: Any, prompt: Texts) -> Tensor:
    """Text embeddings (n, L, D) of n prompts. Warns when a prompt is too long for the tokenizer, and says what is cut."""
    _pipe(pipe)
    texts = _texts("prompt", prompt)
    _warn_of_cuts(pipe.tokenizer, texts)
    with _tidied(pipe):
        return _embed(pipe, texts)


@torch.no_grad()
def _embed(pipe: Any, texts: list[str]) -> Tensor:
    return pipe.encode_prompt(texts, pipe._execution_device, 1, False)[0]


def blend_prompts(pipe: Any, first: Texts, second: Texts, *, weight: float = 0.5) -> Tensor:
    """A rival of mixing: (1 - weight) first + weight second in text embeddings, (n, L, D), to be passed as a `prompt`. weight in [0, 1]."""
    _pipe(pipe)
    first, second, weight = _texts("first", first), _texts("second", second), _finite("weight", weight, low=0, high=1)
    _batch(first=len(first), second=len(second))
    return _blend(*torch.broadcast_tensors(embed(pipe, second), embed(pipe, first)), weight)


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
        parts = [text.to(pipe._execution_device, pipe.unet.dtype) if isinstance(text, Tensor) else _embed(pipe, text) for text in texts]
        return torch.cat([part.expand(batch, -1, -1) for part in parts])


def _prompt(
    pipe, prompt, guidance_scale, negative_prompt="", word_weights=None, word_levels=None, remove=None, *, name="prompt", level=0,
) -> _Prompt:  # fmt: skip
    """name: the argument that `prompt` came as; level: the first one that is run."""
    _plain("pipe", _pipe(pipe).unet.config, pipe.vae.config.latent_channels)
    g = _finite("guidance_scale", guidance_scale, low=0)
    negative = _texts("negative_prompt", negative_prompt)
    words = None
    if _is_embedding(prompt):
        texts = _numbers(name, prompt, f"n {pipe.tokenizer.model_max_length} {pipe.unet.config.cross_attention_dim}")
        if word_weights is not None or remove is not None:
            raise ValueError(f"word_weights and remove need a {name} in words, got an embedding")
    else:
        texts = _texts(name, prompt)
        tables = None if word_weights is None else _word_tables("word_weights", word_weights)
        if remove is not None:
            texts, tables = _removal(pipe.tokenizer, texts, [{}] if tables is None else tables, _texts("remove", remove))
        _warn_of_cuts(pipe.tokenizer, texts)
        if tables is not None:
            words = WordWeights(_token_weights(pipe.tokenizer, texts, tables), guided=g != 1)
    if word_levels is not None:
        if words is None:
            raise ValueError(f"word_levels must come together with word_weights or remove, got {_got(word_levels)} alone")
        words.levels = _integers("word_levels", word_levels, low=1)
        if not any(k <= level for k in words.levels):
            raise ValueError(f"word_levels must hold a level that is run, 1 to {level}, got {_got(word_levels)}")
    if name != "inversion_prompt":
        _agrees(pipe, g != 1)
    _warn_of_cuts(pipe.tokenizer, negative)
    _batch(**{name: len(texts), "negative_prompt": len(negative), "word_weights": 1 if words is None else len(words.weights)})
    return _Prompt(texts, negative, g, words)


def _is_embedding(prompt: Any) -> bool:
    """Whether a prompt is no text: a tensor, an array of numbers, or rows of them."""
    if isinstance(prompt, list | tuple):
        return bool(prompt) and isinstance(prompt[0], Tensor | np.ndarray | list | tuple)
    return isinstance(prompt, Tensor) or (isinstance(prompt, np.ndarray) and prompt.dtype.kind not in "USTO")


# ---------------------------------------------------------------------------------------------------------------------
# 5. The methods
# ---------------------------------------------------------------------------------------------------------------------


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
    text = _prompt(pipe, prompt, guidance_scale, negative_prompt, word_weights, word_levels, remove, level=window.K_max)
    inversion = _prompt(pipe, inversion_prompt, 1, name="inversion_prompt")
    given, image = image, _image(pipe, image)
    _option("layout", layout, ("noise", "ddim_inversion"))
    _option("latent", latent, ("mean", "sample"))
    memory, trace = _flag("allow_multistep", allow_multistep) or variant == "community", _flag("trace", trace)
    forward, sampler = (_scheduler(pipe, num_inference_steps, window.K_max, memory) for _ in range(2))
    batch = _batch(image=len(image), prompt=text.rows, inversion_prompt=inversion.rows)
    shape = (batch, pipe.unet.config.in_channels, *(side // pipe.vae_scale_factor for side in image.shape[2:]))
    inverted = layout == "ddim_inversion"
    if inverted:
        _inverse(forward)
        _agrees(pipe, False)
        if noise is not None:
            raise ValueError("noise has no part in layout='ddim_inversion', got both")
    generator = _generators(pipe, generator, batch)
    noise = _given_noise("noise", noise, generator, shape, needed=not inverted)
    if latent == "sample" and generator is None:
        raise ValueError("latent='sample' needs a generator, got none")
    table = _nu_table(nu, window, shape)

    with _tidied(pipe):
        x0 = _encode(pipe, image.expand(batch, -1, -1, -1) if latent == "sample" else image, latent, generator).expand(shape)
        if inverted:
            states = _invert(pipe.unet, forward, x0, inversion.embeds(pipe, batch), level=window.K_max)
        else:
            states = _noised(forward, x0, _draw(pipe, shape, generator, noise), window.needed)
        return _like(given, _run(pipe, sampler, states, text, window, x0, table, variant, trace))


def img2img(
    pipe: diffusers.StableDiffusionPipeline, image: Tensor, prompt: Prompt, *,
    level: int | None = None, strength: float | None = None, num_inference_steps: int = 50, **options: Any,
) -> Result:  # fmt: skip
    """The plain rival (SDEdit, Meng et al. 2022): noise the image to one level and denoise it: `mix` with nothing to mix.

    Either `level`, 1 .. N steps left, or `strength` in (0, 1], round(strength * N) of them. options: of `mix`, but for k_min,
    k_max, nu, variant and allow_multistep. layout="ddim_inversion": inversion, then the new prompt.
    """
    N = _integral("num_inference_steps", num_inference_steps, low=1)
    if (level is None) == (strength is None):
        raise ValueError(f"expected one of level and strength, got level={_got(level)} and strength={_got(strength)}")
    K = round(_finite("strength", strength, low=0, high=1) * N) if level is None else _integral("level", level, low=1, high=N)
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
    N, trace = _integral("num_inference_steps", num_inference_steps, low=1), _flag("trace", trace)
    text = _prompt(pipe, prompt, guidance_scale, negative_prompt, word_weights, word_levels, remove, level=N)
    sampler = _scheduler(pipe, N, N, True)
    given, noise = prompt if _is_embedding(prompt) else noise, _free_noise(pipe, noise)
    shape = _latent_shape(pipe, noise, prompt=text.rows)
    generator = _generators(pipe, generator, shape[0])
    noise = _given_noise("noise", noise, generator, shape)
    start = _draw(pipe, shape, generator, noise) * sampler.init_noise_sigma
    with _tidied(pipe):
        return _like(given, _run(pipe, sampler, {N: start}, text, Levels(N, N), trace=trace))


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
    window, N = levels(num_inference_steps, k_min, k_max, variant), int(num_inference_steps)
    source = _prompt(pipe, layout_prompt, guidance_scale, negative_prompt, name="layout_prompt")
    text = _prompt(pipe, prompt, guidance_scale, negative_prompt, word_weights, word_levels, remove, level=window.K_max)
    _option("layout_states", layout_states, ("trajectory", "renoise"))
    memory, trace = _flag("allow_multistep", allow_multistep) or variant == "community", _flag("trace", trace)
    first, forward, sampler = (_scheduler(pipe, N, N, memory) for _ in range(3))
    given = next((one for one in (layout_prompt, prompt) if _is_embedding(one)), noise)
    noise = _free_noise(pipe, noise)
    shape = _latent_shape(pipe, noise, layout_prompt=source.rows, prompt=text.rows)
    generator = _generators(pipe, generator, shape[0])
    noise = _given_noise("noise", noise, generator, shape)
    if renoise is not None and layout_states == "trajectory":
        raise ValueError("renoise belongs to layout_states='renoise', got it with 'trajectory'")
    renoise = _given_noise("renoise", renoise, generator, shape, needed=layout_states == "renoise")
    table = _nu_table(nu, window, shape)

    start = _draw(pipe, shape, generator, noise) * first.init_noise_sigma
    states: dict[int, Tensor] = {}
    with _tidied(pipe):
        x0 = _denoise(
            pipe.unet, first, start, source.embeds(pipe, len(start)), level=N, guidance_scale=source.guidance_scale,
            callback=lambda step: states.update({step.level: step.state}),
        )  # fmt: skip
        if layout_states == "renoise":
            states = _noised(forward, x0, _draw(pipe, shape, generator, renoise), window.needed)
        return _like(given, _run(pipe, sampler, states, text, window, x0, table, variant, trace))


def _run(pipe, sampler, states, text, window, x0=None, nu=None, variant="paper", trace=False) -> Result:  # fmt: skip
    """Denoise from x-hat_{K_max} = states[K_max], mixing with the states at the levels of nu."""
    steps: list[Step] = []
    start = states[window.K_max]
    layout = {} if x0 is None else {k: states[k] for k in window.needed}
    embeds = text.embeds(pipe, len(start))
    with nullcontext() if text.words is None else _in_cross_attention(pipe.unet, text.words):
        latents = _denoise(
            pipe.unet, sampler, start, embeds, level=window.K_max, guidance_scale=text.guidance_scale, layout=layout, nu=nu, variant=variant,
            words=text.words, callback=steps.append if trace else None,
        )  # fmt: skip
    images = _decode(pipe, _numbers("latents", latents, "B C h w"))  # half precision can overflow on the way
    return Result(images, latents, x0, window, steps if trace else None)


# ---------------------------------------------------------------------------------------------------------------------
# 6. Checks
# ---------------------------------------------------------------------------------------------------------------------


def _pipe(pipe: Any) -> Any:
    if not isinstance(pipe, diffusers.StableDiffusionPipeline | diffusers.StableDiffusionImg2ImgPipeline):
        raise TypeError(f"pipe must be a StableDiffusionPipeline, got {_got(pipe)}")
    for name in ("unet", "vae", "text_encoder"):
        if isinstance(part := getattr(pipe, name), nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise TypeError(f"pipe must have its {name} without {type(part).__name__}; give what it wraps: pipe.{name} = pipe.{name}.module")
    return pipe


def _plain(name: str, config: Mapping, channels: int | None) -> None:
    """Refuse a U-Net that wants more than latents, a timestep and a text, which would run without it or fail on the way."""
    more = [key for key in MORE if config.get(key)]
    if more or config.get("in_channels") != channels:
        what = more[0] if more else f"in_channels={config.get('in_channels')} instead of {channels}"
        raise ValueError(f"{name} must {'be' if name == 'unet' else 'have'} a U-Net that takes latents, a timestep and a text, got one with {what}")


def _agrees(pipe: Any, guided: bool) -> None:
    """Refuse a run of ours inside `reweight_words` that would take another part of the batch for the conditional one."""
    for words in pipe.unet.attn_processors.values():
        if isinstance(words, WordWeights) and words.guided != guided:
            runs = "with guidance" if guided else "without guidance"
            raise ValueError(f"guided of reweight_words must be {guided} around a run {runs}, got {words.guided}: weight words by word_weights instead")


def _known(scheduler: Any) -> Any:
    """A sampler that noises by itself, draws no noise in a step, and counts noise as Stable Diffusion does."""
    if not hasattr(scheduler, "config") or not hasattr(scheduler, "set_timesteps"):
        raise TypeError(f"scheduler must be one of diffusers, got {_got(scheduler)}")
    name, config = type(scheduler).__name__, scheduler.config
    if not isinstance(scheduler, ONE_STEP + MULTISTEP) or "sde" in config.get("algorithm_type", ""):
        known = ", ".join(kind.__name__ for kind in ONE_STEP + MULTISTEP)
        raise ValueError(f"scheduler must add noise by itself, draw none in a step and have one timestep a step ({known}), got {name}: {ADVICE}")
    odd = [f"{key}={value}" for key, value in config.items() if key in ("use_flow_sigmas", "use_dynamic_shifting") and value]
    if config.get("prediction_type") not in ("epsilon", "v_prediction", "sample")[: 2 if name == "LMSDiscreteScheduler" else 3]:
        odd.append(f"prediction_type={config.get('prediction_type')!r}")
    if config.get("predict_x0") is False and config.get("final_sigmas_type") == "zero":
        odd.append("predict_x0=False and final_sigmas_type='zero', which divides by zero")
    if odd:
        raise ValueError(f"scheduler must count noise as Stable Diffusion does, without flow matching, got {name} with {', '.join(odd)}: {ADVICE}")
    return scheduler


def _noise_to_signal(scheduler: Any) -> Tensor:
    """(N,) of the places of a fresh scheduler whose timesteps are set; refused where the noise does not fall from step to step."""
    N, kind, config = scheduler.num_inference_steps, type(scheduler).__name__, scheduler.config
    if N is None:
        raise ValueError(f"scheduler must have its timesteps set, got a {kind} before set_timesteps")
    if getattr(scheduler, "step_index", None) is not None:
        raise ValueError(f"scheduler must be fresh, got a {kind} that has taken steps: set its timesteps again")
    times, most = scheduler.timesteps.cpu().double(), config.num_train_timesteps - 1
    if times.max() > most:
        raise ValueError(f"num_inference_steps={N} takes the scheduler to timestep {times.max():g}, beyond its last, {most}: take fewer ({kind})")
    if isinstance(scheduler, DDIMScheduler):
        kept = scheduler.alphas_cumprod.cpu()[times.long()].double()
        sigmas = ((1 - kept) / kept).sqrt()
    else:
        sigmas = scheduler.sigmas.cpu().double()[:-1]
    if len(sigmas) != N or not (sigmas[:-1] > sigmas[1:]).all():
        raise ValueError(f"num_inference_steps={N} gives the scheduler steps of equal noise: take fewer, or another spacing ({kind})")
    return sigmas


def _begins(scheduler: Any, level: int) -> None:
    if _noise_to_signal(scheduler)[-level].isinf() and scheduler.config.prediction_type == "epsilon":
        raise ValueError("scheduler begins with nothing but noise (rescale_betas_zero_snr), which needs prediction_type 'v_prediction' or 'sample'")


def _scheduler(pipe: Any, num_inference_steps: int, level: int, memory_allowed: bool) -> Any:
    """A fresh copy of the pipeline's scheduler with its timesteps set; level: where it begins."""
    N, config = _integral("num_inference_steps", num_inference_steps, low=1), pipe.scheduler.config
    if isinstance(pipe.scheduler, MULTISTEP) and not memory_allowed:
        name = type(pipe.scheduler).__name__
        raise ValueError(f"scheduler must have no memory of earlier states, which are mixed here, got {name}: pass allow_multistep=True, or {ADVICE}")
    _known(pipe.scheduler)
    if N > config.num_train_timesteps:
        raise ValueError(f"num_inference_steps must be at most the scheduler's {config.num_train_timesteps} timesteps, got {N}")
    scheduler = type(pipe.scheduler).from_config(config)
    scheduler.set_timesteps(N, device=pipe._execution_device)
    if len(scheduler.timesteps) != N:
        given = f"{len(scheduler.timesteps)} for num_inference_steps={N} of {type(scheduler).__name__}"
        raise ValueError(f"scheduler must have one timestep a step, got {given}: {ADVICE}")
    _begins(scheduler, level)
    return scheduler


def _sides(pipe: Any, name: str, height: int, width: int) -> None:
    multiple = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if height % multiple or width % multiple:
        raise ValueError(f"{name} must have a height and a width in multiples of {multiple} pixels (VAE and U-Net halve them), got {height} x {width}")


def _image(pipe: Any, image: Any) -> Tensor:
    _pipe(pipe)
    image = _numbers("image", image, "B 3 H W", low=-1, high=1)
    _sides(pipe, "image", *image.shape[2:])
    return image


def _free_noise(pipe: Any, noise: Any) -> Tensor | None:
    """Noise that says the size of the images."""
    if noise is not None:
        noise = _numbers("noise", noise, f"B {pipe.unet.config.in_channels} h w")
        _sides(pipe, "noise", *(side * pipe.vae_scale_factor for side in noise.shape[2:]))
    return noise


def _latent_shape(pipe: Any, noise: Tensor | None, **rows: int) -> tuple[int, ...]:
    """(B, C, h, w) for runs from noise alone: its own, or one U-Net size for each prompt."""
    C, size = pipe.unet.config.in_channels, pipe.unet.config.sample_size
    if noise is None:
        return (_batch(**rows), C, *((size, size) if isinstance(size, int) else size))
    return (_batch(**rows, noise=len(noise)), C, *noise.shape[2:])


def _given_noise(name: str, noise: Any, generator: Any, shape: tuple[int, ...], needed: bool = True) -> Tensor | None:
    """Noise of `shape`, or one for all images; None where a generator is to draw it."""
    if noise is None:
        if needed and generator is None:
            raise ValueError(f"{name} needs a generator (or must be given as a tensor), got neither")
        return None
    noise = _numbers(name, noise, "B C h w")
    if tuple(noise.shape) not in (shape, (1, *shape[1:])):
        raise ValueError(f"{name} must be {shape}, or one for all images, got {tuple(noise.shape)}")
    return noise


def _generators(pipe: Any, generator: Any, count: int) -> Any:
    """None, one generator, or a list of one an image, as diffusers takes them; they must lie where it can draw."""
    many = list(generator) if isinstance(generator, list | tuple) else [] if generator is None else [generator]
    if not all(isinstance(one, torch.Generator) for one in many):
        raise TypeError(f"generator must be a torch.Generator or a list of {count}, got {_got(generator)}")
    if isinstance(generator, list | tuple) and len(many) != count:
        raise ValueError(f"generator must be one torch.Generator or {count} of them, one an image, got {len(many)}")
    places, here = {one.device.type for one in many}, pipe._execution_device.type
    if len(places) > 1 or not places <= {"cpu", here}:
        raise ValueError(f"generator must lie on the CPU or where the pipeline executes ({here}), got {' and '.join(sorted(places))}")
    return many if isinstance(generator, list | tuple) else generator


def _draw(pipe: Any, shape: tuple[int, ...], generator: Any, noise: Tensor | None) -> Tensor:
    if noise is not None:
        return noise.to(pipe._execution_device, pipe.unet.dtype).expand(shape)
    return randn_tensor(shape, generator=generator, device=pipe._execution_device, dtype=pipe.unet.dtype)


def _nu_table(nu: Any, window: Levels, shape: tuple[int, ...]) -> dict[int, float | Tensor]:
    """{k: nu_k} for the mixed levels."""
    if not callable(nu) or isinstance(nu, Tensor):
        value = _nu("nu", nu, shape)
        return {k: value for k in window.mixed}
    try:
        return {k: _nu(f"nu({k})", nu(k), shape) for k in window.mixed}
    except TypeError as error:
        raise TypeError(f"nu must be a number, a map or a function of the level that gives one: {error}") from error


def _warn_of_cuts(tokenizer: Any, texts: list[str]) -> None:
    for text in texts:
        cut = tokenizer(text).input_ids[tokenizer.model_max_length - 1 : -1]
        if cut:
            warnings.warn(f"prompt {text!r} is longer than {tokenizer.model_max_length} tokens, cut off: {tokenizer.decode(cut)!r}", stacklevel=4)
