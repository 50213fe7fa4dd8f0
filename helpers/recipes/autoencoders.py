"""Autoencoders of the small latent models: how they are trained, how their latents get zero mean and unit variance, how good they are."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..measures import metrics
from . import training

KEEP = 0.05  # weight of the pull to another autoencoder's latents


def train(
    vae: AutoencoderKL, pictures: Callable[[int, torch.Generator, slice], Tensor], *, seed: int, steps: int, checkpoint: Path, device: torch.device,
    stop_at: int | None = None, keep: AutoencoderKL | None = None,
) -> AutoencoderKL:  # fmt: skip
    """Train `vae` on `pictures(step, generator, mine)`: the slice `mine`, this process's own, of a batch (B, 3, H, W) in [0, 1].

    Loss: absolute and squared error, and a light pull towards a normal posterior. keep: pulls the latents of the batch's first half to where this
    autoencoder puts them.
    """
    rank, world_size = training.join_processes()
    vae = vae.to(device, memory_format=training.memory_format(device))
    if keep is not None:
        keep = keep.to(device, memory_format=training.memory_format(device)).eval()

    def loss_of(model: AutoencoderKL, step: int) -> Tensor:
        generator = training.step_generator(seed, step)
        x = pictures(step, generator, slice(rank, None, world_size)).to(device, memory_format=training.memory_format(device)) * 2 - 1
        with training.autocast(device):
            posterior = model.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            out = model.decode(posterior.mean + posterior.std * noise).sample
        error = out.float() - x
        loss = error.abs().mean() + 2 * error.square().mean() + 2e-6 * posterior.kl().mean()
        if keep is not None:
            half = len(x) // 2
            loss = loss + KEEP * (posterior.mean[:half].float() - encode(keep, x[:half] / 2 + 0.5)).square().mean()
        return loss

    return training.train(vae, loss_of, steps=steps, checkpoint=checkpoint, learning_rate=2e-3, warmup=100, decay=0.995, weight_decay=1e-4,
                          label="autoencoder", stop_at=stop_at)  # fmt: skip


def tune_decoder(
    vae: AutoencoderKL, pictures: Callable[[int, torch.Generator, slice], Tensor], *, seed: int, steps: int, checkpoint: Path, device: torch.device,
    stop_at: int | None = None,
) -> AutoencoderKL:  # fmt: skip
    """Go on with the decoder alone, by squared error alone: fewer decibels lost at edges, and the latents stay where they are. `pictures` as in `train`."""
    rank, world_size = training.join_processes()
    vae = vae.to(device, memory_format=training.memory_format(device))

    def loss_of(parts: nn.ModuleDict, step: int) -> Tensor:
        generator = training.step_generator(seed, step)
        x = pictures(step, generator, slice(rank, None, world_size)).to(device, memory_format=training.memory_format(device)) * 2 - 1
        with training.autocast(device):
            with torch.no_grad():
                posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            out = parts["decoder"](parts["post_quant_conv"](posterior.mean + posterior.std * noise))
        return (out.float() - x).square().mean()

    parts = nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder}).requires_grad_(True)
    tuned = training.train(parts, loss_of, steps=steps, checkpoint=checkpoint, learning_rate=1e-3, warmup=100, decay=0.995, weight_decay=1e-4,
                           label="decoder", stop_at=stop_at)  # fmt: skip
    vae.post_quant_conv, vae.decoder = tuned["post_quant_conv"], tuned["decoder"]
    vae.seconds = getattr(vae, "seconds", 0.0) + tuned.seconds
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> latent means (B, 4, h, w)."""
    device = next(vae.parameters()).device
    with training.autocast(device):
        z = vae.encode(pictures.to(device, memory_format=training.memory_format(device)) * 2 - 1).latent_dist.mean
    return z.float()


@torch.no_grad()
def standardise(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold (z - mean) / std per channel into the 1x1 convolutions around the latents: the folder then needs no code of ours."""
    quant, post = vae.quant_conv, vae.post_quant_conv
    scale = torch.cat([1 / std, torch.ones_like(std)])
    shift = torch.cat([-mean / std, -2 * std.log()])
    quant.weight.mul_(scale[:, None, None, None])
    quant.bias.mul_(scale).add_(shift)
    post.bias.add_(post.weight[:, :, 0, 0] @ mean)
    post.weight.mul_(std[None, :, None, None])


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """dB between pictures (B, 3, H, W) in [0, 1] and what the autoencoder makes of them."""
    out = vae.decode(vae.encode(pictures * 2 - 1).latent_dist.mean).sample
    return metrics.psnr(pictures, (out / 2 + 0.5).clamp(0, 1))
