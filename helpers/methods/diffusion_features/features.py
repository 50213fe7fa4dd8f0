"""DIFT: features of a frozen image diffusion model, taken out of a diffusers pipeline.

Tang et al. 2023, "Emergent Correspondence from Image Diffusion", NeurIPS 2023, arXiv 2306.03881.

Add the noise of timestep t to an image, run the U-Net once and keep what comes out of decoder block n. The same part of two
objects gets nearby vectors; larger t and earlier blocks are about what things are, smaller t and later blocks about where:

    source, target = dift(pipe, images, "a photo of a cat", t=261, n=1, generator=generator)

What the maps match is in `matches.py`. Notation: x_t, the noised latent; abar_t, the share of signal variance kept at t; a map
is (C, h, w). Where paper and official code differ the code is followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from ._arguments import _floats, _got, _integer, _like, _option, _pictures, _several
from .matches import _full

__all__ = ["block_layers", "dift", "dift_blocks", "dift_grid", "dift_layers", "layer_names", "noise_to_signal"]


UNETS = UNet2DConditionModel | UNet2DModel
MORE = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type", "num_class_embeds", "time_cond_proj_dim")  # what else a U-Net may want


def _alpha_bar(scheduler: Any, t: Any, name: str = "t") -> float:
    kept, config = getattr(scheduler, "alphas_cumprod", None), getattr(scheduler, "config", {})
    if kept is None or abs(float(getattr(scheduler, "init_noise_sigma", 1)) - 1) > 1e-6 or config.get("use_flow_sigmas"):
        raise ValueError(f"scheduler must keep the variance (DDIM, DDPM, PNDM), got {type(scheduler).__name__}, which adds noise in units of sigma")
    return float(kept[_integer(name, t, 0, len(kept) - 1)])


def noise_to_signal(scheduler: Any, t: int) -> float:
    """sqrt(1 - abar_t) / sqrt(abar_t): the noise a signal of size 1 carries at timestep t. 0.029 at t=0 of Stable Diffusion, so never clean.

    Raises ValueError for t outside 0..num_train_timesteps - 1 and for schedulers in units of sigma (Euler, LMS, Heun, flows).
    """
    kept = _alpha_bar(scheduler, t)
    return math.sqrt((1 - kept) / kept) if kept else math.inf


def layer_names(unet: nn.Module, *, merged: bool | None = None) -> list[str]:
    """Names of the decoder's layers in the order in which they run; the place in this list is the layer index i (Fig. 13).

    A layer is a resnet with the attention behind it, or an upsampler. merged=True counts as ADM does: the upsampler belongs to the last
    layer of its block. Default: apart for a UNet2DConditionModel (Stable Diffusion), merged for a UNet2DModel.
    """
    unet = _check_unet(unet)
    if not isinstance(merged, bool | np.bool_ | None):
        raise TypeError(f"merged must be True, False or None, got {_got(merged)}")
    merged = not isinstance(unet, UNet2DConditionModel) if merged is None else merged
    names = []
    for n, block in enumerate(unet.up_blocks):
        attentions = getattr(block, "attentions", None) or ()
        if len(attentions) not in (0, len(block.resnets)):
            raise ValueError(f"unet has {len(attentions)} attentions and {len(block.resnets)} resnets in up-block {n}, its layers cannot be counted")
        layers = [f"up_blocks.{n}.{'attentions' if attentions else 'resnets'}.{j}" for j in range(len(block.resnets))]
        if block.upsamplers is not None:
            layers = [*(layers[:-1] if merged else layers), f"up_blocks.{n}.upsamplers.{len(block.upsamplers) - 1}"]
        names += layers
    return names


def _encoder_names(unet: nn.Module) -> list[str]:
    """Names of the encoder's layers whose outputs the decoder is given: resnets, or the attention behind each, and downsamplers."""
    names = []
    for n, block in enumerate(unet.down_blocks):
        kind = "attentions" if getattr(block, "attentions", None) else "resnets"
        names += [f"down_blocks.{n}.{kind}.{j}" for j in range(len(block.resnets))]
        names += [f"down_blocks.{n}.downsamplers.{j}" for j in range(len(block.downsamplers or ()))]
    return names


def block_layers(unet: nn.Module, *, merged: bool | None = None) -> dict[int, int]:
    """n -> i: the layer index that each up-block ends with; 3, 7, 11, 14 for four blocks of three layers, upsamplers apart."""
    return {int(name.split(".")[1]): i for i, name in enumerate(layer_names(unet, merged=merged))}


def dift(
    pipe: Any,
    images: Tensor,
    prompt: str | Sequence[str] = "",
    *,
    t: int,
    n: int,
    ensemble: int = 8,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    noise: Tensor | None = None,
    latent: str = "sample",
    batch: int = 8,
) -> Tensor:
    """The feature map of every image: output of up-block n, one U-Net pass at timestep t, mean over `ensemble` noises.

    pipe: a diffusers pipeline with a U-Net, in latents (StableDiffusionPipeline, its Img2Img) or in pixels without text (DDPMPipeline).
    images: (B, 3, H, W) in [-1, 1]. prompt: one for all, or one an image. n counts from the coarsest block.
    generator: one, which is asked for image after image, or a list of one an image, which makes an image's noise its own; it may be of another
    device. noise: standard normal instead, (e, c, h, w) of latents for all images or (B, e, c, h, w). latent: "sample" of the VAE's posterior
    for every member (the official code; asks the generator, too), or its "mean". batch: pairs (image, noise) that run together, which changes
    the speed only.
    Returns (B, C, h, w) in the U-Net's dtype, on the device that the pipeline executes on (numpy for images that are no tensor). Without
    gradients; later blocks never run (they do where hooks of diffusers, as those of group offloading, tidy up behind them).

    Raises ValueError for t and n out of range, images outside [-1, 1] or with sides that VAE and U-Net cannot halve, ensemble < 1, neither
    noise nor generator, schedulers in units of sigma, and U-Nets that want more than image, t and text; TypeError for a pipeline without U-Net.
    """
    options = dict(ensemble=ensemble, generator=generator, noise=noise, latent=latent, batch=batch)
    return next(iter(_features(pipe, images, prompt, "t", (t,), _blocks(pipe, "n", (n,)), **options).values()))


def dift_blocks(
    pipe: Any, images: Tensor, prompt: str | Sequence[str] = "", *, t: int, blocks: Sequence[int] = (0, 1, 2, 3), **options: Any
) -> dict[int, Tensor]:
    """Maps of several up-blocks from one pass, {n: (B, C, h, w)}; options as in `dift`."""
    return {n: found for (_, n), found in _features(pipe, images, prompt, "t", (t,), _blocks(pipe, "blocks", blocks), **options).items()}


def dift_layers(
    pipe: Any, images: Tensor, prompt: str | Sequence[str] = "", *, t: int, layers: Sequence[int | str] | None = None, **options: Any
) -> dict[int | str, Tensor]:
    """Maps of several decoder layers from one pass (Fig. 13), by index or name in `layer_names`, default all; options as in `dift`.

    A layer of the encoder, which hands its map on to a layer of the decoder, can be named as well: "down_blocks.1.attentions.0".
    """
    unet = _check_pipe(pipe)[0]
    names = layer_names(unet)
    layers = range(len(names)) if layers is None else _several("layers", layers)
    chosen = {i: i if isinstance(i, str) else names[_integer("layers", i, 0, len(names) - 1)] for i in layers}
    known = names + layer_names(unet, merged=True) + _encoder_names(unet)
    if unknown := [name for name in chosen.values() if name not in known]:
        raise ValueError(f"layers must be in 0..{len(names) - 1} or names of layer_names(unet), got {unknown[0]!r}")
    modules = {i: unet.get_submodule(name) for i, name in chosen.items()}
    return {i: found for (_, i), found in _features(pipe, images, prompt, "t", (t,), modules, **options).items()}


def dift_grid(
    pipe: Any, images: Tensor, prompt: str | Sequence[str] = "", *, times: Sequence[int], blocks: Sequence[int] = (0, 1, 2, 3), **options: Any
) -> dict[tuple[int, int], Tensor]:
    """Maps of several timesteps and up-blocks, {(t, n): (B, C, h, w)}: encodes once, one pass a timestep, all with the same noise."""
    return _features(pipe, images, prompt, "times", times, _blocks(pipe, "blocks", blocks), **options)


def _blocks(pipe: Any, name: str, blocks: Any) -> dict[int, nn.Module]:
    up_blocks = _check_pipe(pipe)[0].up_blocks
    return {n: up_blocks[n] for n in (_integer(name, n, 0, len(up_blocks) - 1) for n in _several(name, blocks))}


@torch.no_grad()
def _features(pipe, images, prompt, name, times, modules, *, ensemble=8, generator=None, noise=None, latent="sample", batch=8) -> dict[tuple, Tensor]:
    unet, vae = _check_pipe(pipe)
    kept = {t: _alpha_bar(pipe.scheduler, t, name) for t in _several(name, times)}
    ensemble, batch = _integer("ensemble", ensemble, 1), _integer("batch", batch, 1)
    _option("latent", latent, ("sample", "mean"))
    given, (images, factor) = images, _check_images(images, unet, vae)
    prompts = _check_prompt(prompt, len(images), unet)
    shape = (unet.config.in_channels, images.shape[2] // factor, images.shape[3] // factor)
    # under offloading the weights lie elsewhere until their module is called: what the pipeline executes on is its own to say
    device = torch.device(getattr(pipe, "_execution_device", None) or unet.device)
    noise, other = _draws(len(images), ensemble, shape, generator, noise, vae is not None, latent, device)
    sums: dict[tuple, Tensor] = {}
    try:
        x0, spread = (images, None) if vae is None else _encode(vae, images.to(device, vae.dtype), batch)
        x0 = x0.to(device, unet.dtype)
        text = {p: pipe.encode_prompt([p], device, 1, False)[0].to(x0) for p in dict.fromkeys(prompts)}
        for t, rows in ((t, rows) for t in kept for rows in torch.arange(len(images) * ensemble).split(batch)):
            i, member = rows // ensemble, rows % ensemble
            x = x0[i] if other is None else x0[i] + spread[i].to(x0) * other[i, member].to(x0)
            x = math.sqrt(kept[t]) * x + math.sqrt(1 - kept[t]) * noise[i, member].to(x0)  # x_t
            words = {"encoder_hidden_states": torch.cat([text[prompts[j]] for j in i.tolist()])} if text else {}
            for key, found in _outputs(unet, modules, sample=x, timestep=t, **words).items():
                total = sums.setdefault((t, key), _full(found).new_zeros(len(images), *found.shape[1:]))
                total.index_add_(0, i.to(found.device), _full(found))
    finally:
        if hasattr(pipe, "maybe_free_model_hooks"):
            pipe.maybe_free_model_hooks()  # as a pipeline ends its own call: what was brought to the accelerator goes back
    found = {key: (total / ensemble).to(unet.dtype) for key, total in sums.items()}
    return found if isinstance(given, Tensor) else {key: _like(given, one) for key, one in found.items()}


class _Enough(Exception):
    """Everything wanted has been seen; thrown out of the U-Net to skip the rest of it."""


def _outputs(unet: nn.Module, modules: dict, **inputs: Any) -> dict:
    """Outputs of some of the U-Net's modules in one forward pass, which ends with the last of them.

    Hooks of diffusers (group offloading, casts of layers) tidy up behind a forward pass: with these it runs to its end.
    """
    seen, handles = {}, []
    whole = any(hasattr(module, "_diffusers_hook") for module in unet.modules())
    compiled = any(module._compiled_call_impl is not None for module in unet.modules())

    def keep(key):
        def hook(module, args, output):
            seen[key] = output[0] if isinstance(output, tuple) else output
            if len(seen) == len(modules) and not whole:
                raise _Enough

        return hook

    try:
        handles += [module.register_forward_hook(keep(key)) for key, module in modules.items()]
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():  # compiled code would not see the hooks
            unet(**inputs)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _encode(vae: nn.Module, images: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the scaled latents."""
    found = [vae.encode(some).latent_dist for some in images.split(batch)]
    mean, std = torch.cat([f.mean for f in found]), torch.cat([f.std for f in found])
    scale, shift = vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0
    return (mean - shift) * scale, std * scale


def _draws(count, ensemble, shape, generator, noise, posterior, latent, device) -> tuple[Tensor, Tensor | None]:
    """Noise and posterior draws, (B, e, c, h, w) both, drawn image by image and member by member: no number depends on what comes later."""
    if noise is not None:
        noise = _floats("noise", noise, "e, c, h, w", "B, e, c, h, w")
        noise = noise.expand(count, *noise.shape) if noise.ndim == 4 else noise
        if noise.shape != (count, ensemble, *shape):
            raise ValueError(f"noise must be {(ensemble, *shape)} or {(count, ensemble, *shape)}, got {tuple(noise.shape)}")
    asked = noise is None or (posterior and latent == "sample")
    if asked and generator is None:
        wanted = "noise or a generator" if noise is None else "a generator as well as noise with latent='sample'"
        raise ValueError(f"generator is None: give {wanted}, or nobody can repeat the result")
    generators = [generator] * count if isinstance(generator, torch.Generator | None) else generator
    if not isinstance(generators, list | tuple) or (asked and not all(isinstance(g, torch.Generator) for g in generators)):
        raise TypeError(f"generator must be a torch.Generator or a list of them, got {_got(generator)}")
    if len(generators) != count:
        raise ValueError(f"generator must be one torch.Generator or {count}, one an image, got {len(generators)}")
    if not asked:
        return noise, None
    drawn = [torch.stack([torch.randn(shape, generator=g, device=g.device) for _ in range((1 + posterior) * ensemble)]) for g in generators]
    drawn = torch.stack([some.to(device) for some in drawn])  # a member's noise, its posterior draw, the next member's noise...
    other = drawn[:, 1::2] if posterior and latent == "sample" else None
    return drawn[:, :: 1 + posterior] if noise is None else noise, other


def _bare(module: Any, kinds: Any = UNETS) -> Any:
    """A module without what torch.compile, data parallelism or peft have put around it."""
    while isinstance(module, nn.Module) and not isinstance(module, kinds):
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif hasattr(module, "get_base_model"):
            module = module.get_base_model()
        else:
            break
    return module


def _check_unet(unet: Any) -> nn.Module:
    if not isinstance(_bare(unet), UNETS):
        raise TypeError(f"unet must be a UNet2DConditionModel or UNet2DModel, got {type(unet).__name__}")
    return _bare(unet)


def _check_pipe(pipe: Any) -> tuple[nn.Module, nn.Module | None]:
    unet, vae = _bare(getattr(pipe, "unet", None)), _bare(getattr(pipe, "vae", None), AutoencoderKL)
    if not isinstance(unet, UNETS):
        raise TypeError(f"pipe must be a pipeline with a UNet2DConditionModel or UNet2DModel, got {type(pipe).__name__}")
    if not isinstance(vae, AutoencoderKL | None):
        raise TypeError(f"pipe must have an AutoencoderKL or no VAE, got one with {_got(vae)}")
    more = [name for name in MORE if getattr(unet.config, name, None)]
    channels = vae.config.latent_channels if vae is not None else 3
    if more or unet.config.in_channels != channels:
        what = more[0] if more else f"in_channels={unet.config.in_channels} instead of {channels}"
        raise ValueError(f"pipe must have a U-Net that takes an image, a timestep and a text, got one with {what}")
    return unet, vae


def _check_images(images: Any, unet: nn.Module, vae: nn.Module | None) -> tuple[Tensor, int]:
    """The images as a tensor, and the VAE's factor."""
    images = _pictures("images", images, "B, 3, H, W", -1)
    factor = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    # a UNet2DConditionModel fits its upsamplers to odd maps, a UNet2DModel does not
    step = factor if isinstance(unet, UNet2DConditionModel) else factor * 2 ** sum(block.upsamplers is not None for block in unet.up_blocks)
    if images.shape[2] % step or images.shape[3] % step:
        raise ValueError(f"images must have sides that are multiples of {step}, got {tuple(images.shape[2:])}")
    return images, factor


def _check_prompt(prompt: Any, count: int, unet: nn.Module) -> list[str]:
    several = prompt.tolist() if hasattr(prompt, "tolist") and not isinstance(prompt, Tensor) else prompt
    prompts = [prompt] * count if isinstance(prompt, str) else several
    if not isinstance(prompts, list | tuple) or not all(isinstance(p, str) for p in prompts):
        raise TypeError(f"prompt must be a text or a list of texts, got {_got(prompt)}")
    if len(prompts) != count:
        raise ValueError(f"prompt must be one text or {count}, one an image, got {len(prompts)}")
    if not isinstance(unet, UNet2DConditionModel):
        if any(prompts):
            raise ValueError(f"prompt must be empty for a model without text, got {_got(prompt)}")
        return []
    return [str(p) for p in prompts]
