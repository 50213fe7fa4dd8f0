"""Masked planning: the pipeline that fills the missing frames of a clip, and clips longer than a window.

Liu, Liu, Zhou et al., "MarDini: Masked Autoregressive Diffusion for Video Generation at Scale", 2024, arXiv 2410.20280. What the text leaves open and is
decided here says "(ours)".
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

from ._arguments import _clip, _finite, _flag, _got, _instance, _integer, _known, _like, _number, _place, _random
from .networks import Generator, Planner
from .planning import chosen, low_resolution, spread

__all__ = ["MarDiniOutput", "MarDiniPipeline", "roll_forward", "slow_motion"]


@dataclass
class MarDiniOutput(BaseOutput):
    """frames (B, K, C, H, W), references bit for bit as given; plan (B, K, plan_tokens, plan_dim)."""

    frames: Tensor
    plan: Tensor


class MarDiniPipeline(DiffusionPipeline):
    """Fills the masked frames of a clip: the planner runs once, the generator once a denoising step (twice with guidance); section 3.4.

    vae: where given, clips are pixels in [-1, 1] and both networks work on its latents, standardised by its own scaling; otherwise on the pixels.
    """

    _optional_components = ["vae"]
    model_cpu_offload_seq = "planner->generator->vae"

    def __init__(self, planner: Planner, generator: Generator, scheduler: DDIMScheduler, vae: AutoencoderKL | None = None):
        super().__init__()
        _fitting(planner, generator, vae)
        _velocities(scheduler)
        self.register_modules(planner=planner, generator=generator, scheduler=scheduler, vae=vae)

    @contextmanager
    def _run(self) -> Iterator[None]:
        """Around the work of a call: however it ends, under offloading the last part goes back too, as pipelines end."""
        try:
            yield
        finally:
            self.maybe_free_model_hooks()

    def _check_parts(self) -> None:
        """Parts can be replaced in a pipeline that is made: each call asks again whether they fit."""
        _fitting(self.planner, self.generator, self.vae)

    @property
    def scale(self) -> int:
        """Pixels of a frame's side for one of the generator's."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixels (B, K, 3, H, W) in [-1, 1] -> what the networks work on (B, K, C, h, w)."""
        self._check_parts()
        shown = self._shown("video", video)
        with self._run():
            return video if self.vae is None else _like(video, self._encode(shown.to(self._execution_device)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, as far as the autoencoder is one."""
        self._check_parts()
        c = self.generator.config
        found = _finite("latents", _clip("latents", latents, c.in_channels, c.height, c.width))
        with self._run():
            return latents if self.vae is None else _like(latents, self._decode(found.to(self._execution_device)))

    @torch.no_grad()
    def make_plan(self, video: Tensor, is_ref: Tensor) -> Tensor:
        """The plan of a clip, from its references alone: (B, K, plan_tokens, plan_dim)."""
        self._check_parts()
        _, shown, is_ref = self._checked(video, is_ref)
        with self._run():
            return _like(video, self._plan(self._encode(shown), is_ref))

    def _encode(self, video: Tensor) -> Tensor:
        if self.vae is None:
            return video
        latents = self.vae.encode(video.flatten(0, 1).to(self.vae.dtype)).latent_dist.mean
        return (latents * self.vae.config.scaling_factor).unflatten(0, video.shape[:2]).to(self.generator.dtype)

    def _decode(self, latents: Tensor) -> Tensor:
        if self.vae is None:
            return latents
        video = self.vae.decode(latents.flatten(0, 1).to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return video.unflatten(0, latents.shape[:2]).to(latents.dtype).clamp(-1, 1)

    def _plan(self, clean: Tensor, is_ref: Tensor) -> Tensor:
        return self.planner(low_resolution(clean, self.generator.config.height // self.planner.config.height), is_ref).to(clean.device)

    def _shown(self, name: str, video: Any, where: Tensor | None = None) -> Tensor:
        """Frames that the networks may look at; where: (B, K) bool, which those are (the others become 0); all by default."""
        c = self.generator.config
        channels = c.in_channels if self.vae is None else self.vae.config.in_channels
        video = _clip(name, video, channels, c.height * self.scale, c.width * self.scale)
        video = video if where is None else torch.where(where.to(video.device)[:, :, None, None, None], video, 0)
        _finite(name, video, "" if where is None else " in its reference frames")
        if self.vae is not None and video.abs().max() > 1 + 1e-3:  # less is rounding
            raise ValueError(f"{name} must lie in [-1, 1], got {float(video.min()):.3g} to {float(video.max()):.3g}")
        return video

    def _checked(self, video: Any, is_ref: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The clip as a tensor; and, where the networks will run, its references among zeros and which they are."""
        given = _clip("video", video, None, None, None, frames=min(self.planner.config.frames, self.generator.config.frames))
        is_ref, device, dtype = _known(is_ref, *given.shape[:2], "video"), self._execution_device, self.generator.dtype
        shown = _finite("video", self._shown("video", given, is_ref).to(device, dtype), f" in its reference frames as {dtype}")
        return given, shown, is_ref.to(device)

    @torch.no_grad()
    def __call__(
        self, video: Tensor, is_ref: Tensor, num_inference_steps: int = 25, guidance_scale: float = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None, noise: Tensor | None = None, plan: Tensor | None = None,
        trace: list | None = None,
    ) -> MarDiniOutput:  # fmt: skip
        """Masked frames of `video` (B, K, C, H, W) are generated, whatever they hold; references stay.

        guidance_scale s: v = v_without_plan + s (v_with - v_without); 1 is none, 0 is without a plan (2.5 in the paper where one image is given, none for
        interpolation). generator (one, or a list of one a clip) draws the noise unless `noise` (B, K, C, h, w) is given. plan: another clip's, instead of
        the clip's own. trace: a list that gets the generator's guess of the clean clip, (B, K, C, h, w), after every step.
        """
        self._check_parts()
        _velocities(self.scheduler)
        c = self.generator.config
        steps = _integer("num_inference_steps", num_inference_steps, 1, self.scheduler.config.num_train_timesteps)
        scale = _number("guidance_scale", guidance_scale, 0)
        given, shown, is_ref = self._checked(video, is_ref)
        _random("generator", generator, len(given))
        if noise is not None:
            noise = _clip("noise", noise, c.in_channels, c.height, c.width, like=given, of="video").to(shown)
            _finite("noise", noise)
        if plan is not None:
            plan = self.generator._checked_plan(plan, given, "video")
        if trace is not None and not isinstance(trace, list):
            raise TypeError(f"trace must be a list, got {_got(trace)}")

        with self._run():
            clean = self._encode(shown)
            if noise is None:
                noise = self._draw(clean, generator)
            plan = self._plan(clean, is_ref) if plan is None else plan.to(clean.device)
            with_plan, without = self.generator.read_plan(plan), None if scale == 1 else self.generator.read_plan(None)
            keep = is_ref[:, :, None, None, None]
            x = torch.where(keep, clean, noise.to(clean))
            self.scheduler.set_timesteps(steps)
            for t in self.scheduler.timesteps[:steps]:  # rounding makes the scheduler add one more, -1, to some numbers of steps
                v = self.generator(x, t, is_ref, with_plan).to(x.device)
                if without is not None:
                    v_without = self.generator(x, t, is_ref, without).to(x.device)
                    v = v_without + scale * (v - v_without)
                stepped = self.scheduler.step(v, t, x)
                x = torch.where(keep, clean, stepped.prev_sample)
                if trace is not None:
                    trace.append(_like(video, torch.where(keep, clean, stepped.pred_original_sample)))
            frames = torch.where(keep.to(given.device), given, self._decode(x).to(given))
            return MarDiniOutput(_like(video, frames), _like(video, plan))

    @staticmethod
    def _draw(clean: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
        if isinstance(generator, (list, tuple)):
            return torch.cat([MarDiniPipeline._draw(clip[None], one) for clip, one in zip(clean, generator, strict=True)])
        return torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=_place(generator)).to(clean.device)


def _velocities(scheduler: Any) -> None:
    """Refuse schedulers that take what the generator says for something else, or change it."""
    config = _instance("scheduler", scheduler, DDIMScheduler).config
    if config.prediction_type != "v_prediction":
        raise ValueError(f"scheduler must predict velocities (prediction_type 'v_prediction'), got {config.prediction_type!r}")
    if cut := [name for name in ("clip_sample", "thresholding") if config.get(name)]:
        raise ValueError(f"scheduler must not cut what it guesses of the clean clip (clip_sample=False, thresholding=False), got {cut[0]}=True")


def _fitting(planner: Any, generator: Any, vae: Any) -> None:
    """Refuse networks that are not what they stand for, or do not fit together."""
    low, high = _instance("planner", planner, Planner).config, _instance("generator", generator, Generator).config
    if high.height % low.height or high.height // low.height * low.width != high.width:
        raise ValueError(f"generator's frames must be a whole multiple of planner's, got {high.height} x {high.width} and {low.height} x {low.width}")
    if high.in_channels != low.in_channels:
        raise ValueError(f"generator must have the planner's in_channels, got {high.in_channels} and {low.in_channels}")
    if (high.plan_dim, high.plan_tokens) != (low.dim, low.height * low.width // low.patch**2):
        raise ValueError(f"generator must expect the planner's plan, got plan_dim {high.plan_dim} and plan_tokens {high.plan_tokens}")
    if vae is not None and _instance("vae", vae, AutoencoderKL).config.latent_channels != high.in_channels:
        raise ValueError(f"vae must have latents of the generator's {high.in_channels} channels, got {vae.config.latent_channels}")


def _fill(pipe: MarDiniPipeline, known: Tensor, places: list[int], frames: int, **call) -> Tensor:
    window = known.new_zeros(len(known), frames, *known.shape[2:])
    window[:, places] = known
    return pipe(window, chosen(places, frames), **call).frames


def _window(pipe: Any, name: str, clip: Any, frames: int | None) -> tuple[Tensor, int]:
    """Frames to be spread over windows, and how many a window has."""
    if isinstance(pipe, MarDiniPipeline):
        pipe._check_parts()
    longest = getattr(getattr(getattr(pipe, "generator", None), "config", None), "frames", None)
    if not callable(pipe) or longest is None:
        raise TypeError(f"pipe must be a MarDiniPipeline, got {_got(pipe)}")
    frames = longest if frames is None else _integer("frames", frames, 2, longest)
    clip = pipe._shown(name, clip) if isinstance(pipe, MarDiniPipeline) else _finite(name, _clip(name, clip, None, None, None))
    if clip.shape[1] >= frames:
        raise ValueError(f"{name} must have 1 to {frames - 1} frames, fewer than a window, got {clip.shape[1]}")
    return clip, frames


def roll_forward(pipe: MarDiniPipeline, start: Tensor, windows: int, keep: int, frames: int | None = None, **call) -> Tensor:
    """A clip longer than a window: `start` (B, m, C, H, W) opens the first window, and the last `keep` frames of each open the next.

    Returns (B, K + (windows - 1)(K - keep), C, H, W) with K = frames (the generator's longest clip by default). call: `MarDiniPipeline`'s options.
    """
    first, frames = _window(pipe, "start", start, frames)
    windows, keep = _integer("windows", windows, 1), _integer("keep", keep, 1, frames - 1)
    clip = _fill(pipe, first, list(range(first.shape[1])), frames, **call)
    for _ in range(windows - 1):
        clip = torch.cat([clip, _fill(pipe, clip[:, -keep:], list(range(keep)), frames, **call)[:, keep:]], 1)
    return _like(start, clip)


def slow_motion(pipe: MarDiniPipeline, images: Tensor, segment: int, rounds: int = 2, *, overlap: bool = False, frames: int | None = None, **call) -> Tensor:
    """Images to a clip, the clip to a slower one, and so on (section 3.4, fig. 11).

    Round one spreads `images` (B, n, C, H, W) over a window of K frames; every further round cuts the clip into segments of `segment` frames and spreads
    each over a window. overlap False: n -> K -> (K / segment) K, as 4 -> 32 -> 128 with segments of 8. overlap True (ours): neighbouring segments share
    a frame, so that no time is missing between them, and frames grow as 3 -> 9 -> 33 with segments of 3.
    """
    first, frames = _window(pipe, "images", images, frames)
    segment, rounds, shared = _integer("segment", segment, 2, frames - 1), _integer("rounds", rounds, 1), int(_flag("overlap", overlap))
    length = frames
    for _ in range(rounds - 1):
        if (length - shared) % (segment - shared):
            raise ValueError(f"segment must divide the clip's {length} frames{' less one' if overlap else ''}, got {segment}")
        length = (length - shared) // (segment - shared) * (frames - shared) + shared
    clip, places = _fill(pipe, first, spread(first.shape[1], frames), frames, **call), spread(segment, frames)
    for _ in range(rounds - 1):
        starts = range(0, clip.shape[1] - shared, segment - shared)
        parts = [_fill(pipe, clip[:, s : s + segment], places, frames, **call) for s in starts]
        clip = torch.cat([part[:, shared if i else 0 :] for i, part in enumerate(parts)], 1)
    return _like(images, clip)
