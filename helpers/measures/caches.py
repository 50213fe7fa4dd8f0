"""One bench for caches: AdaCache and every cache that diffusers ships, on the same small model, behind one interface.

    bench = caches.load("toy-cogvideox")
    caches.calibrate(bench, prompts)                      # some caches set their thresholds from a few uncached clips
    run = caches.measure(bench, caches.METHODS["AdaCache"], 12, "a red ring moves up fast", seed=0)
    run.work, run.computed_calls, run.clip

Each peer is switched on in the way that was found to work on these two models; where a method cannot serve one, `Method.refuses` says why.
That a cache skips something is never taken from its configuration: floating-point operations are counted, and `measure` raises
`NothingSkipped` when a cache left the work as it was. Several of them do that by default, without a word.
"""

import ast
import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel, LattePipeline, LatteTransformer3DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .. import checkout
from ..arguments import choice, flag, got, instance, integer, numbers, real, texts
from ..methods import caching_schedules, motion_regularization
from ..methods.caching_schedules import Codebook, FixedClock, apply_adacache
from ..models import zoo

__all__ = [
    "ADACACHE", "METHODS", "MODELS", "Bench", "Calibration", "Method", "NothingSkipped", "Run", "calibrate", "check_skipped", "codebook", "count_flops",
    "diffusers_cache", "fewer_steps", "load", "measure", "methods_for", "record",
]  # fmt: skip

MODELS = ("toy-latte", "toy-cogvideox")
CLASSES = {"toy-latte": LatteTransformer3DModel, "toy-cogvideox": CogVideoXTransformer3DModel}
CONTEXT = "cond_uncond"
TEXT_LENGTH = 18  # tokens that toy-cogvideox was trained with
SPARSE = 2.5  # mean gap from one computed call to the next from which on a schedule counts as sparse
FORCED_LAST = 1  # calls at the end that AdaCache's clock must compute; the official code forces two, which is dear where nine are computed in all


class NothingSkipped(RuntimeError):
    """A cache was switched on and the model did all of its work all the same."""


# ---------------------------------------------------------------------------------------------------------------------
# 1. The bench: one denoising loop for both models
# ---------------------------------------------------------------------------------------------------------------------


class Bench:
    """A small text-to-video model, taken apart far enough for every cache.

    name: "toy-latte" or "toy-cogvideox". pipe: the LattePipeline whose text encoder, scheduler and autoencoder are used. transformer: the
    pipeline's own, or a CogVideoXTransformer3DModel on the same latents. num_calls: N, calls of the transformer for one clip.

    It computes where the pipeline does (offloaded ones included), in the precision of its parts; noise is drawn on the CPU, so that a seed is one clip
    everywhere. Bad arguments raise ValueError or TypeError before any work.

    Both guidance halves go through in one batch, [without text, with text], as keyword arguments; every call opens a cache context.
    Attributes: timestep, the current one within the loop (some caches ask for it), None outside. steps: calls of the loop, N unless a method
    takes fewer. executed: for each call of the latest clip, whether the middle block really ran. calibration: see `calibrate`.
    """

    def __init__(self, name: str, pipe: LattePipeline, transformer: nn.Module | None = None, *, num_calls: int = 30, guidance_scale: float = 3.0) -> None:
        name, num_calls = choice("name", name, MODELS), integer("num_calls", num_calls, low=1)
        self.name, self.pipe, self.guidance_scale = name, instance("pipe", pipe, LattePipeline, "a LattePipeline"), real("guidance_scale", guidance_scale)
        kind = CLASSES[name]
        self.transformer = instance("transformer", pipe.transformer if transformer is None else transformer, kind, f"a {kind.__name__}").eval()
        self.num_calls = self.steps = num_calls
        self.frames_first = isinstance(self.transformer, CogVideoXTransformer3DModel)  # (B, T, C, H, W) where Latte has (B, C, T, H, W)
        config = self.transformer.config
        frames, side = (config.sample_frames, config.sample_height) if self.frames_first else (config.video_length, config.sample_size)
        self.latent_shape = (config.in_channels, frames, side, side)
        self.timestep: int | None = None
        self.executed: list[bool] = []
        self.calibration: Calibration | None = None
        self._full: dict[torch.Size, float] = {}
        with torch.device("meta"):
            self._shadow = kind.from_config(config).eval()  # no weights: counts what a call costs without any cache
        blocks = self.transformer.transformer_blocks
        blocks[len(blocks) // 2].ff.register_forward_pre_hook(self._middle_block_ran)

    def _middle_block_ran(self, *_: Any) -> None:
        if self.executed:
            self.executed[-1] = True

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """Text embeddings (2, L, D) of the empty prompt and this one, as the model was trained with them."""
        prompt = _sentence("prompt", prompt)
        if not self.frames_first:
            with_text, without = self.pipe.encode_prompt(prompt, negative_prompt="", clean_caption=False)
            return torch.cat([without, with_text])
        tokens = self.pipe.tokenizer(["", prompt], padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.pipe._execution_device)
        out = self.pipe.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return out * tokens.attention_mask[..., None]

    @property
    def device(self) -> torch.device:
        """Where the transformer computes; under offload not where its weights rest."""
        if self.transformer is self.pipe.transformer:
            return self.pipe._execution_device
        return getattr(getattr(self.transformer, "_hf_hook", None), "execution_device", None) or next(self.transformer.parameters()).device

    def _text(self, text: Any) -> Tensor:
        width = self.transformer.config["text_embed_dim" if self.frames_first else "caption_channels"]
        text = numbers("text", text, f"2 L {width}")
        if not text.is_floating_point():
            raise TypeError(f"text must be embeddings (2, L, {width}), got {got(text)}")
        return text.to(self.device, self.transformer.dtype)

    @torch.no_grad()
    def denoise(self, text: Tensor, seed: int, *, flops: list[float] | None = None) -> Tensor:
        """The denoising loop alone: text (2, L, D) and a seed for the noise -> latents (1, C, T, H, W). Operations of each call go to `flops`."""
        text, seed, flops = self._text(text), _seed(seed), flops if flops is None else instance("flops", flops, list, "a list or None")
        scheduler, model = self.pipe.scheduler, self.transformer
        scheduler.set_timesteps(self.steps, device=self.device)
        x = torch.randn((1, *self.latent_shape), generator=torch.Generator().manual_seed(seed)).to(self.device) * scheduler.init_noise_sigma
        self.executed = []
        try:
            for i, t in enumerate(scheduler.timesteps):
                self.timestep = int(t)
                self.executed.append(False)
                pair = scheduler.scale_model_input(torch.cat([x, x]), t)
                pair = (pair.transpose(1, 2) if self.frames_first else pair).to(text.dtype)
                counter = contextlib.nullcontext() if flops is None else count_flops()
                with model.cache_context(CONTEXT, step_index=i, sigma=self.sigma(t), num_inference_steps=self.steps), counter:
                    out = model(hidden_states=pair, encoder_hidden_states=text, timestep=t.expand(2), return_dict=False)[0]
                if flops is not None:
                    flops.append(float(counter.get_total_flops()))
                out = (out.transpose(1, 2) if self.frames_first else out).to(x.dtype)
                without, with_text = out[:, : self.latent_shape[0]].chunk(2)  # Latte also predicts a variance, which nobody uses
                x = scheduler.step(without + self.guidance_scale * (with_text - without), t, x, return_dict=False)[0]
        finally:
            self.timestep = None
            model._reset_stateful_cache()
        return x

    def sigma(self, t: Tensor) -> float:
        """Share of noise s / (s + a) in x_t = a x_0 + s noise: the noise level of the straight path with the same signal-to-noise ratio."""
        kept = float(self.pipe.scheduler.alphas_cumprod[integer("t", t, low=0, high=len(self.pipe.scheduler.alphas_cumprod) - 1)])
        return math.sqrt(1 - kept) / (math.sqrt(kept) + math.sqrt(1 - kept))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (1, C, T, H, W) -> clip (T, 3, H, W) in [0, 1]."""
        latents = numbers("latents", latents, " ".join(map(str, (1, *self.latent_shape)))).to(self.pipe._execution_device, self.pipe.vae.dtype)
        video = self.pipe.decode_latents(latents, latents.shape[2])
        return self.pipe.video_processor.postprocess_video(video=video, output_type="pt")[0].float()

    def sample(self, prompt: str, seed: int, num_steps: int | None = None) -> Tensor:
        """One clip (T, 3, H, W) in [0, 1], with whatever cache is switched on. num_steps: fewer calls than N."""
        prompt, seed = _sentence("prompt", prompt), _seed(seed)
        with contextlib.nullcontext() if num_steps is None else fewer_steps(self, num_steps):
            return self.decode(self.denoise(self.encode(prompt), seed))

    def full_flops(self, text: Tensor) -> float:
        """Floating-point operations of one call without any cache, for a text of this length (counted on a copy without weights)."""
        text = self._text(text)
        if text.shape not in self._full:
            channels, frames, height, width = self.latent_shape
            shape = (2, frames, channels, height, width) if self.frames_first else (2, channels, frames, height, width)
            with torch.no_grad(), count_flops() as counter:
                inputs = dict(hidden_states=torch.empty(shape, device="meta"), encoder_hidden_states=torch.empty(text.shape, device="meta"))
                self._shadow(**inputs, timestep=torch.ones(2, dtype=torch.long, device="meta"))
            self._full[text.shape] = float(counter.get_total_flops())
        return self._full[text.shape]


def _sentence(name: str, value: Any) -> str:
    expected = "a sentence such as 'a red ring moves up fast'"
    if not instance(name, value, str, expected).strip():
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return value


def _seed(value: Any) -> int:
    return integer("seed", value, low=0, high=2**63 - 1)


def load(name: str) -> Bench:
    """The bench of "toy-latte" or "toy-cogvideox". Raises ValueError for another name, FileNotFoundError when the model is not there."""
    name = choice("name", name, MODELS)
    call = zoo.entry("toy-latte").call
    options = dict(num_calls=call["num_inference_steps"], guidance_scale=call["guidance_scale"])
    if name == "toy-latte":
        return Bench(name, zoo.load(name), **options)
    folder = zoo.MODELS / name / "transformer"
    if not (folder / "config.json").exists():
        checkout.require(f"caches.load({name!r})")
        raise FileNotFoundError(f"{folder.relative_to(zoo.ROOT)} is not there; `make model NAME={name}` trains it")
    return Bench(name, zoo.load("toy-latte"), CogVideoXTransformer3DModel.from_pretrained(folder, local_files_only=True), **options)


def count_flops() -> FlopCounterMode:
    """PyTorch's counter, which forgets the attention that runs on CPUs: with it, on every device the same numbers."""

    def attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention})


def fewer_steps(bench: Bench, num_steps: int) -> AbstractContextManager[None]:
    """The control without any cache: the same sampler with fewer steps, within `with`. Raises ValueError unless 1 <= num_steps <= N."""
    return _with_steps(_bench(bench), integer("num_steps", num_steps, low=1, high=bench.num_calls))


@contextmanager
def _with_steps(bench: Bench, num_steps: int) -> Iterator[None]:
    before, bench.steps = bench.steps, num_steps
    try:
        yield
    finally:
        bench.steps = before


def _bench(value: Any) -> Bench:
    return instance("bench", value, Bench, "a Bench, as caches.load makes it")


# ---------------------------------------------------------------------------------------------------------------------
# 2. Runs, and the check that something was skipped
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One clip under one method. clip: (T, 3, H, W) in [0, 1]. work: for each call its operations as a share of a full call, in [0, 1].
    executed: for each call whether the middle block ran. num_calls: N of the uncached loop. flops: operations in all."""

    method: str
    knob: float | None
    clip: Tensor = field(repr=False)
    work: list[float] = field(repr=False)
    executed: list[bool] = field(repr=False)
    num_calls: int
    flops: float

    @property
    def computed_calls(self) -> float:
        """The work of the run in full calls: 30 without a cache, and what the parts computed at skipped calls cost is in it."""
        return sum(self.work)


def record(bench: Bench, prompt: str, seed: int, *, method: str = "uncached", knob: float | None = None) -> Run:
    """One clip with whatever is switched on, its work counted."""
    bench, method = _bench(bench), instance("method", method, str, "the name of a method")
    prompt, seed, knob = _sentence("prompt", prompt), _seed(seed), knob if knob is None else real("knob", knob)
    text, flops = bench.encode(prompt), []
    latents = bench.denoise(text, seed, flops=flops)
    full = bench.full_flops(text)
    return Run(method, knob, bench.decode(latents), [f / full for f in flops], list(bench.executed), bench.num_calls, sum(flops))


def check_skipped(run: Run) -> Run:
    """The run itself. Raises NothingSkipped when less than one per cent of the uncached work was saved."""
    instance("run", run, Run, "a Run, as caches.record makes it")
    if run.computed_calls >= 0.99 * run.num_calls:
        raise NothingSkipped(
            f"{run.method} with its knob at {run.knob} did the work of {run.computed_calls:.2f} of {run.num_calls} calls: it skipped nothing, so it "
            "is either attached to no module of this model or never finds two calls alike"
        )
    return run


def measure(bench: Bench, method: "Method", knob: float, prompt: str, seed: int) -> Run:
    """One clip under a method, checked by `check_skipped`. Raises ValueError where the method cannot serve the model."""
    instance("method", method, Method, "a Method of caches.METHODS")
    prompt, seed = _sentence("prompt", prompt), _seed(seed)
    with method.enable(bench, knob):
        return check_skipped(record(bench, prompt, seed, method=method.name, knob=knob))


# ---------------------------------------------------------------------------------------------------------------------
# 3. What caches have to know beforehand
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Calibration:
    """From uncached clips: probes, one tuple of N probe residuals a clip; layout, window, pivot of MoReg, the pivot being the median motion
    score of the calls inside the window; mag_ratios, N mean ratios of MagCache, None where it cannot serve."""

    probes: list[tuple[Tensor, ...]]
    layout: motion_regularization.Layout
    window: tuple[int, int]
    pivot: float
    mag_ratios: list[float] | None
    codebooks: dict[tuple, Codebook] = field(default_factory=dict)

    def regulariser(self) -> motion_regularization.MotionRegulariser:
        return motion_regularization.MotionRegulariser(self.layout, pivot=self.pivot, window=self.window)


def calibrate(bench: Bench, prompts: Sequence[str], *, seed: int = 1000) -> Calibration:
    """Record uncached clips of a few prompts (8 are plenty; none that is judged later), and keep the result as `bench.calibration`."""
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a list of at least one prompt, got {prompts!r}")
    bench, prompts, seed = _bench(bench), [_sentence("prompts", prompt) for prompt in texts("prompts", prompts)], _seed(seed)
    probes, ratios = [], []
    for i, prompt in enumerate(prompts):
        text = bench.encode(prompt)
        with apply_adacache(bench.transformer, Codebook((), (1,)), bench.num_calls, record=True) as handle:
            bench.denoise(text, seed + i)
        probes.append(handle.last.probes)
        if bench.frames_first:
            ratios.append(mag_cache_ratios(bench, text, seed + i))
    _, frames, height, width = bench.latent_shape
    layout = motion_regularization.layout_of(bench.transformer, num_frames=frames, height=height, width=width, probe=handle.probe)
    window = motion_regularization.WINDOW_30 if bench.num_calls == 30 else motion_regularization.middle_window(bench.num_calls)
    inside = [motion_regularization.split_frames(p, layout) for clip in probes for p in clip[window[0] - 1 : window[1]]]
    pivot = float(np.median([float(motion_regularization.motion_score(p)) for p in inside]))
    bench.calibration = Calibration(probes, layout, window, pivot, np.mean(ratios, axis=0).tolist() if ratios else None)
    return bench.calibration


def mag_cache_ratios(bench: Bench, text: Tensor, seed: int) -> list[float]:
    """MagCache's own calibration: N magnitude ratios. It prints them and keeps nothing, so they are read from what it prints."""
    printed = io.StringIO()
    config = diffusers.MagCacheConfig(calibrate=True, num_inference_steps=bench.num_calls)
    with contextlib.redirect_stdout(printed), diffusers_cache(bench, config):
        bench.denoise(text, seed)
    return ast.literal_eval(next(line for line in printed.getvalue().splitlines() if line.startswith("[1.0")))


def codebook(bench: Bench, target_calls: float, *, motion: bool = False, expect: str = "hold") -> Codebook:
    """AdaCache's table for a wanted number of computed calls, from the calibration clips (open loop).

    motion: with MoReg in front of it. expect: see `CachingClock`. The rates lie around the mean gap N / target_calls, so that no reuse is much
    longer than it must be: 3, 2, 1 for 20 of 30 calls; 5, 4, 3, 2 for 10, and 4, 3, 2 with expect="linear", whose errors grow with the square
    of the gap. (Published tables reach 6 at every speed.)
    Raises ValueError before `calibrate`, and for a target out of 1..N.
    """
    target_calls = real("target_calls", target_calls, low=1, high=_bench(bench).num_calls)
    motion, expect, known = flag("motion", motion), choice("expect", expect, ("hold", "linear")), _calibration(bench)
    key = (target_calls, motion, expect)
    if key not in known.codebooks:
        gap = bench.num_calls / target_calls
        longest = round(gap) + 1 if expect == "linear" and gap >= SPARSE else math.ceil(gap) + 1
        rates = tuple(range(longest, max(1, math.floor(gap) - 1) - 1, -1))
        options = dict(expect=expect, start=start_rate(bench, target_calls, expect), regulariser=known.regulariser() if motion else None, last=FORCED_LAST)
        known.codebooks[key] = caching_schedules.calibrate(known.probes, bench.num_calls, target_calls, rates=rates, **options)
    return known.codebooks[key]


def start_rate(bench: Bench, target_calls: float, expect: str) -> int:
    """The rate after call 1. With expect="linear" and few calls in all it is the mean gap: two calls side by side make a poor line."""
    gap = bench.num_calls / target_calls
    return round(gap) if expect == "linear" and gap >= SPARSE else 1


def _calibration(bench: Bench) -> Calibration:
    if bench.calibration is None:
        raise ValueError("bench.calibration is missing: call caches.calibrate(bench, prompts) first")
    return bench.calibration


# ---------------------------------------------------------------------------------------------------------------------
# 4. The methods
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """One way to spend fewer calls. knob: what its number means. values: the sweep from careful to bold, for each model that it can serve.
    refuses: for the others one sentence why. level: "stack" (all blocks or none at a call), "module" (some modules), "steps"."""

    name: str
    knob: str
    level: str
    attach: Callable[[Bench, Any], AbstractContextManager]
    values: dict[str, tuple]
    refuses: dict[str, str] = field(default_factory=dict)

    def enable(self, bench: Bench, knob: float) -> AbstractContextManager[None]:
        """On within `with`, gone without a trace after it. Raises ValueError for a knob <= 0 and a model that the method cannot serve."""
        if _bench(bench).name in self.refuses:
            raise ValueError(f"{self.name} cannot serve {bench.name}: {self.refuses[bench.name]}")
        real(f"knob of {self.name} ({self.knob})", knob, low=0, above=True)
        try:
            return self.attach(bench, knob)
        except (ValueError, TypeError) as error:
            raise type(error)(f"knob of {self.name} ({self.knob}) at {knob}: {error}") from error


def diffusers_cache(bench: Bench, config: Any) -> AbstractContextManager[None]:
    """A cache of diffusers, by its own configuration, on within `with`. Its chatter is silenced: `check_skipped` sees what it would report."""
    if not type(config).__module__.startswith("diffusers."):
        raise TypeError(f"config must be a cache's configuration of diffusers, such as FirstBlockCacheConfig, got {got(config)}")
    return _switched_on(_bench(bench), config)


@contextmanager
def _switched_on(bench: Bench, config: Any) -> Iterator[None]:
    level = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity(diffusers.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid")  # FasterCache calls it without indexing=
            bench.transformer.enable_cache(config)
            try:
                yield
            finally:
                bench.transformer.disable_cache()
    finally:
        diffusers.logging.set_verbosity(level)


def pyramid_attention_broadcast(bench: Bench, every: int) -> AbstractContextManager:
    """Attention outputs kept for `every` calls, temporal ones 1.5 and cross-attention 3 times as long, in the default range of timesteps.

    The default patterns search "transformer_blocks" anywhere in a name, which gives Latte's temporal blocks the spatial range: hence the "^".
    """
    every = integer("every", every, low=1)
    options = dict(temporal_attention_block_skip_range=round(1.5 * every), cross_attention_block_skip_range=3 * every)
    config = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=every, spatial_attention_block_identifiers=("^transformer_blocks",),
        current_timestep_callback=lambda: bench.timestep, **({} if bench.frames_first else options),
    )  # fmt: skip
    return diffusers_cache(bench, config)


def faster_cache(bench: Bench, every: int) -> AbstractContextManager:
    """The half without text computed at one call in `every`, below timestep 641; attention of the other half at every second call."""
    every = integer("every", every, low=1)
    config = diffusers.FasterCacheConfig(
        spatial_attention_block_skip_range=2, temporal_attention_block_skip_range=None if bench.frames_first else 2,
        unconditional_batch_skip_range=every, attention_weight_callback=lambda _: 0.5, current_timestep_callback=lambda: bench.timestep,
        tensor_format="BFCHW" if bench.frames_first else "BCFHW",
    )  # fmt: skip
    return diffusers_cache(bench, config)


def first_block_cache(bench: Bench, threshold: float) -> AbstractContextManager:
    """The first block always runs; the others where its residual changed by more than the threshold."""
    return diffusers_cache(bench, diffusers.FirstBlockCacheConfig(threshold=threshold))


def mag_cache(bench: Bench, threshold: float) -> AbstractContextManager:
    """Ratios from the calibration clips. Up to 5 calls are skipped in a row: its default of 3 could not save two thirds of the work."""
    ratios = _calibration(bench).mag_ratios
    return diffusers_cache(bench, diffusers.MagCacheConfig(threshold=threshold, max_skip_steps=5, num_inference_steps=bench.num_calls, mag_ratios=ratios))


def taylor_seer(bench: Bench, interval: int, *, lite: bool = False) -> AbstractContextManager:
    """Outputs of attention and feed-forward layers extrapolated from their last two values; lite: the output of the whole model instead.

    The default patterns must match a whole name that ends in "attn"; these models call theirs attn1 and attn2, so that nothing is hooked.
    """
    interval = integer("interval", interval, low=1)
    options = dict(use_lite_mode=True) if lite else dict(cache_identifiers=[r".*blocks\.\d+\.(attn\d|ff)"])
    return diffusers_cache(bench, diffusers.TaylorSeerCacheConfig(cache_interval=interval, taylor_factors_dtype=torch.float32, **options))


def sea_cache(bench: Bench, threshold: float, *, order: int = 1) -> AbstractContextManager:
    """Its clock looks at the filtered latents. order: of the reuse, 1 in a line (its default), 0 held.

    Without `raw_vision_callback` it knows the latents of two models only, and computes everything on all others. Its default of at most 2
    skipped calls in a row is lifted: it could not save two thirds of the work.
    """

    def latents(module: nn.Module, args: tuple, kwargs: dict) -> list[Tensor]:
        return [kwargs["hidden_states"][0].transpose(0, 1)]  # (C, T, H, W); both guidance halves are alike

    options = dict(residual_order=order, raw_vision_callback=latents, max_consecutive_cached=0)
    return diffusers_cache(bench, diffusers.SeaCacheConfig(threshold=threshold, **options))


def uniform(bench: Bench, calls: int, *, reuse: str = "hold") -> AbstractContextManager:
    """The clock that looks at nothing: evenly spaced calls, the last one among them."""
    plan = caching_schedules.uniform_calls(bench.num_calls, budget=calls, last=1)
    return apply_adacache(bench.transformer, clock=FixedClock(plan, bench.num_calls), reuse=reuse)


def adacache(bench: Bench, calls: float, *, motion: bool = False, reuse: str = "hold", expect: str = "hold") -> AbstractContextManager:
    """AdaCache with a codebook calibrated for a mean number of computed calls, with or without MoReg."""
    book = codebook(bench, calls, motion=motion, expect=expect)
    options = dict(last=FORCED_LAST, start=start_rate(bench, calls, expect), expect=expect, regulariser=bench.calibration.regulariser() if motion else None)
    return apply_adacache(bench.transformer, book, bench.num_calls, reuse=reuse, **options)


def _both(*values: float) -> dict[str, tuple]:
    return dict.fromkeys(MODELS, values)


_BLOCKS = "it takes the block lists to run one after the other in one layout; Latte alternates two lists and reshapes between them."
_LATTE = {"toy-latte": _BLOCKS}
_CALLS = "computed calls wanted"
_BUDGETS = _both(20, 14, 10, 8)

_METHODS = (
    Method("fewer steps", "sampling steps", "steps", fewer_steps, _BUDGETS),
    Method("uniform caching", "computed calls", "stack", uniform, _BUDGETS),
    Method("uniform caching, linear", "computed calls", "stack", partial(uniform, reuse="linear"), _BUDGETS),
    Method("AdaCache", _CALLS, "stack", adacache, _BUDGETS),
    Method("AdaCache, linear", _CALLS, "stack", partial(adacache, reuse="linear"), _BUDGETS),
    Method("AdaCache, linear clock", _CALLS, "stack", partial(adacache, reuse="linear", expect="linear"), _BUDGETS),
    # with MoReg, clips that move take more calls than the calibration clips did on average
    Method("AdaCache + MoReg", _CALLS, "stack", partial(adacache, motion=True), _both(16, 12, 8)),
    Method("AdaCache + MoReg, linear", _CALLS, "stack", partial(adacache, motion=True, reuse="linear"), _both(16, 12, 8)),
    Method("PAB", "calls that attention is kept for", "module", pyramid_attention_broadcast, _both(2, 4, 8)),
    Method("FasterCache", "calls from one unconditional half to the next", "module", faster_cache, _both(2, 5, 10)),
    Method("FirstBlockCache", "threshold", "stack", first_block_cache, {"toy-cogvideox": (0.07, 0.1, 0.2, 0.4)}, _LATTE),
    Method("MagCache", "threshold", "stack", mag_cache, {"toy-cogvideox": (0.03, 0.05, 0.15, 0.5)}, _LATTE),
    Method("TaylorSeer", "interval", "module", taylor_seer, _both(2, 3, 5)),
    Method("TaylorSeer lite", "interval", "stack", partial(taylor_seer, lite=True), _both(2, 3, 4, 6)),
    Method("SeaCache", "threshold", "stack", sea_cache, {"toy-cogvideox": (0.1, 0.2, 0.35, 0.55)}, _LATTE),
    Method("SeaCache, hold", "threshold", "stack", partial(sea_cache, order=0), {"toy-cogvideox": (0.1, 0.2, 0.35, 0.55)}, _LATTE),
)
METHODS = {method.name: method for method in _METHODS}
ADACACHE = tuple(name for name in METHODS if name.startswith("AdaCache"))


def methods_for(model: str) -> list[Method]:
    """The methods that can serve a model, in the order of METHODS. Raises ValueError for another model than those of MODELS."""
    model = choice("model", model, MODELS)
    return [method for method in _METHODS if model in method.values]
