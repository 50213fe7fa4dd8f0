"""Small models with random weights: video transformers of six published classes (alone with a sampling loop, and inside their pipelines), and
two image pipelines.

What a method must do on any architecture (change nothing, skip what it should, leave no trace) can be seen on random weights in a
second. Sizes are small and unequal, so that swapped axes fail.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import torch
import transformers
from torch import Tensor, nn

from ..arguments import choice, got, instance, integer, numbers, texts

__all__ = [
    "BATCH", "FRAMES", "TEXT", "VIDEO_PIPELINES", "VIDEO_TRANSFORMERS", "SmallVideoPipeline", "SmallVideoTransformer", "clip_tokenizer", "image_pipeline",
    "pixel_pipeline", "video_pipeline", "video_transformer",
]  # fmt: skip

BATCH, FRAMES, TEXT = 2, 3, 5

# class of diffusers, its configuration, shape of the latents, width of the text embedding
VIDEO_TRANSFORMERS = {
    "Latte": ("LatteTransformer3DModel", dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, cross_attention_dim=16, attention_bias=True,
        sample_size=4, patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=6, video_length=FRAMES), (BATCH, 4, FRAMES, 4, 6), 6),
    "CogVideoX": ("CogVideoXTransformer3DModel", dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=6, num_layers=3,
        sample_width=6, sample_height=4, sample_frames=9, patch_size=2, max_text_seq_length=TEXT), (BATCH, FRAMES, 4, 4, 6), 6),
    "Wan": ("WanTransformer3DModel", dict(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=6, freq_dim=16, ffn_dim=32,
        num_layers=3, rope_max_seq_len=32), (BATCH, 4, FRAMES, 4, 6), 6),
    "LTX": ("LTXVideoTransformer3DModel", dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=3,
        caption_channels=6), (BATCH, FRAMES * 6, 4), 6),
    "Mochi": ("MochiTransformer3DModel", dict(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=3, pooled_projection_dim=16, in_channels=4, text_embed_dim=8,
        time_embed_dim=4, max_sequence_length=TEXT), (BATCH, 4, FRAMES, 4, 6), 8),
    "HunyuanVideo": ("HunyuanVideoTransformer3DModel", dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=3, num_single_layers=2, num_refiner_layers=1,
        patch_size=2, patch_size_t=1, guidance_embeds=True, text_embed_dim=6, pooled_projection_dim=7,
        rope_axes_dim=(2, 4, 4)), (BATCH, 4, FRAMES, 4, 6), 6),
}  # fmt: skip


def _extra_inputs(name: str) -> dict:
    """What a class wants besides latents, text and timestep."""
    if name == "LTX":
        return {"encoder_attention_mask": torch.ones(BATCH, TEXT, dtype=torch.long), "num_frames": FRAMES, "height": 2, "width": 3}
    if name == "Mochi":
        return {"encoder_attention_mask": torch.ones(BATCH, TEXT, dtype=torch.bool)}
    if name == "HunyuanVideo":
        pooled = torch.linspace(-1, 1, BATCH * 7).reshape(BATCH, 7)
        return {"encoder_attention_mask": torch.ones(BATCH, TEXT, dtype=torch.long), "pooled_projections": pooled, "guidance": torch.full((BATCH,), 6000.0)}
    return {}


def _random_transformer(name: str) -> nn.Module:
    class_name, config, _, _ = VIDEO_TRANSFORMERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = getattr(diffusers, class_name)(**config).eval()
        for parameter in model.parameters():  # zero-initialised gates and tables would hide errors
            if parameter.abs().max() == 0:
                nn.init.normal_(parameter, std=0.3)
    return model


@contextmanager
def _no_autocast_warning() -> Iterator[None]:
    """Mochi asks for a float32 autocast, which CPUs do not have; it computes in float32 all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In CPU autocast")
        yield


class SmallVideoTransformer:
    """A random model of one class. model: the transformer; start: its first latents; text: (2, 5, width); times: one timestep per call."""

    def __init__(self, name: str, calls: int = 12):
        name, calls = choice("name", name, VIDEO_TRANSFORMERS), integer("calls", calls, low=1)
        _, _, shape, width = VIDEO_TRANSFORMERS[name]
        self.model = _random_transformer(name)
        generator = torch.Generator().manual_seed(1)
        self.start = torch.randn(shape, generator=generator)
        self.text = torch.randn(BATCH, TEXT, width, generator=generator)
        self.calls, self.extra = calls, _extra_inputs(name)
        times = torch.linspace(980, 20, calls).round()
        self.times = 1000 - times if name == "Mochi" else times  # Mochi's rise

    def call(self, latents: Tensor, n: int, text: Tensor | None = None) -> Tensor:
        """The model's output at call n (1-based, at most `calls`)."""
        n, latents = integer("n", n, low=1, high=self.calls), _floating("latents", latents, " ".join("BCTHW"[: self.start.ndim]))
        text = self.text if text is None else _floating("text", text, f"{BATCH} L {self.text.shape[-1]}")
        timestep = self.times[n - 1].expand(BATCH)
        with _no_autocast_warning():
            return self.model(hidden_states=latents, timestep=timestep, encoder_hidden_states=text, return_dict=False, **self.extra)[0]

    @torch.no_grad()
    def sample(self, calls: int | None = None, *, text: Tensor | None = None, context: str | None = None) -> Tensor:
        """Latents after the first `calls` calls of the loop x <- x - 0.1 model(x); `context`: a cache context to call in."""
        calls = self.calls if calls is None else integer("calls", calls, low=1, high=self.calls)
        context = None if context is None else instance("context", context, str, "a name or None")
        text = self.text if text is None else _floating("text", text, f"{BATCH} L {self.text.shape[-1]}")
        latents = self.start
        for n in range(1, calls + 1):
            if context is None:
                out = self.call(latents, n, text)
            else:
                with self.model.cache_context(context):
                    out = self.call(latents, n, text)
            out = out.chunk(2, dim=1)[0] if out.shape != latents.shape else out
            latents = latents - 0.1 * out
        return latents


def _floating(name: str, value, shape: str) -> Tensor:
    x = numbers(name, value, shape, detach=False)
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating-point numbers ({', '.join(shape.split())}), got {got(value)}")
    return x


def video_transformer(name: str, calls: int = 12) -> SmallVideoTransformer:
    """A small random transformer by the name of its architecture. Raises ValueError for an unknown name."""
    return SmallVideoTransformer(name, calls)


# -- whole pipelines ---------------------------------------------------------------------------------------------------

WORDS = ("a", "red", "blue", "ring", "disc", "moves", "up", "left")
_FOUR = (8, 8, 8, 8)  # channels of a VAE that halves the picture three times

# pipeline class; class and configuration of the VAE and of the scheduler (the class that the published model ships with); arguments of a call
VIDEO_PIPELINES = {
    "Latte": ("LattePipeline", ("AutoencoderKL", dict(
        latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False)),
        ("DDIMScheduler", dict(beta_start=0.0001, beta_end=0.02, clip_sample=False)),
        dict(video_length=FRAMES, height=16, width=24, clean_caption=False)),
    "CogVideoX": ("CogVideoXPipeline", ("AutoencoderKLCogVideoX", dict(
        latent_channels=4, block_out_channels=_FOUR, layers_per_block=1, norm_num_groups=2)),
        ("CogVideoXDDIMScheduler", dict(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)),
        dict(num_frames=9, height=32, width=48, max_sequence_length=TEXT)),
    "Wan": ("WanPipeline", ("AutoencoderKLWan", dict(
        z_dim=4, base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 2.0, 1.0, 1.2])),
        ("UniPCMultistepScheduler", dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)),
        dict(num_frames=9, height=32, width=48, max_sequence_length=TEXT)),
    "LTX": ("LTXPipeline", ("AutoencoderKLLTXVideo", dict(
        latent_channels=4, block_out_channels=_FOUR, decoder_block_out_channels=_FOUR, layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False), patch_size=4)),
        ("FlowMatchEulerDiscreteScheduler", dict(use_dynamic_shifting=True, shift_terminal=0.1)),
        dict(num_frames=9, height=64, width=96, max_sequence_length=TEXT)),
    "Mochi": ("MochiPipeline", ("AutoencoderKLMochi", dict(
        latent_channels=4, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5,
        latents_mean=None, latents_std=None)),
        ("FlowMatchEulerDiscreteScheduler", dict(invert_sigmas=True)),
        dict(num_frames=13, height=32, width=48, max_sequence_length=TEXT)),
    "HunyuanVideo": ("HunyuanVideoPipeline", ("AutoencoderKLHunyuanVideo", dict(
        latent_channels=4, block_out_channels=_FOUR, layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False)),
        ("FlowMatchEulerDiscreteScheduler", dict(shift=7.0)),
        dict(num_frames=9, height=32, width=48, max_sequence_length=TEXT, prompt_template={"template": "a {}", "crop_start": 1},
             negative_prompt="blue disc", true_cfg_scale=3.0)),
}  # fmt: skip


def _tokenizer() -> transformers.T5Tokenizer:
    """One token a word, `</s>` at the end; four words fit into a text of 5 tokens."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0)] + [("▁" + word, -1.0) for word in WORDS]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0)


def _text_parts(name: str) -> dict:
    """Tokenizers and text encoders, of the width that the transformer wants."""
    width, vocab = VIDEO_TRANSFORMERS[name][3], len(WORDS) + 4
    if name == "HunyuanVideo":  # the published tokenizers cut words into pieces; here the encoders share one that does not
        llama = transformers.LlamaConfig(
            vocab_size=vocab, hidden_size=width, intermediate_size=8, num_hidden_layers=3, num_attention_heads=1, pad_token_id=0, eos_token_id=1
        )
        clip = transformers.CLIPTextConfig(
            vocab_size=vocab, hidden_size=7, intermediate_size=9, num_hidden_layers=1, num_attention_heads=1, projection_dim=7,
            pad_token_id=0, bos_token_id=None, eos_token_id=1,
        )  # fmt: skip
        return {
            "text_encoder": transformers.LlamaModel(llama), "tokenizer": _tokenizer(),
            "text_encoder_2": transformers.CLIPTextModel(clip), "tokenizer_2": _tokenizer(),
        }  # fmt: skip
    config, model = (transformers.UMT5Config, transformers.UMT5EncoderModel) if name == "Wan" else (transformers.T5Config, transformers.T5EncoderModel)
    return {
        "text_encoder": model(config(vocab_size=vocab, d_model=width, d_kv=3, d_ff=9, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1)),
        "tokenizer": _tokenizer(),
    }


class SmallVideoPipeline:
    """A pipeline of diffusers with small random parts, run from the prompt through tokenizer, text encoder, transformer and scheduler to the VAE.

    pipe: the pipeline; transformer: its transformer, the same as in `video_transformer`; num_calls: calls of the transformer in one run and
    one guidance branch; contexts: the cache contexts that one step opens (Latte opens none; Wan and HunyuanVideo call once per branch);
    latent: frames, height and width of the latents, before the transformer cuts them into patches.
    """

    def __init__(self, name: str, num_calls: int = 10):
        name, num_calls = choice("name", name, VIDEO_PIPELINES), integer("num_calls", num_calls, low=1)
        pipeline, (vae, vae_config), (scheduler, scheduler_config), arguments = VIDEO_PIPELINES[name]
        self.num_calls = num_calls
        self.latent = dict(num_frames=FRAMES, height=4, width=6)
        self.contexts = {"Latte": (), "Wan": ("cond", "uncond"), "HunyuanVideo": ("cond", "uncond")}.get(name, ("cond_uncond",))
        self.transformer = _random_transformer(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            parts = {"vae": getattr(diffusers, vae)(**vae_config).eval(), **_text_parts(name)}
        parts = {part: value.eval() if isinstance(value, nn.Module) else value for part, value in parts.items()}
        self.pipe = getattr(diffusers, pipeline)(transformer=self.transformer, scheduler=getattr(diffusers, scheduler)(**scheduler_config), **parts)
        self.pipe.set_progress_bar_config(disable=True)
        self._arguments = {"prompt": "red ring moves up", "guidance_scale": 4.0, "num_inference_steps": num_calls, "output_type": "latent", **arguments}

    def call(self, seed: int = 0, **changes) -> Tensor:
        """Run the pipeline; returns latents, or a video (B, T, 3, H, W) in [0, 1] with output_type="pt". changes: other arguments of the pipeline."""
        arguments = {**self._arguments, "generator": torch.Generator().manual_seed(_seed(seed)), **changes}
        with _no_autocast_warning():
            return self.pipe(**arguments).frames


def video_pipeline(name: str, num_calls: int = 10) -> SmallVideoPipeline:
    """A small random pipeline by the name of its architecture. Raises ValueError for an unknown name."""
    return SmallVideoPipeline(name, num_calls)


# ----------------------------------------------------------------------------------------------------------------------------- pictures


def _seed(seed) -> int:
    return integer("seed", seed, low=-(2**63), high=2**63 - 1)


IMAGE_WORDS = ("a", "photo", "of", "red", "blue", "cat", "dog", "rabbit", "teapot")


def clip_tokenizer(words, length: int) -> transformers.CLIPTokenizer:
    """A CLIPTokenizer of `length` >= 3 positions with each of `words` (small letters) as one token, and letters for everything else ("bee" is three tokens)."""
    words, length = texts("words", words), integer("length", length, low=3)
    if wrong := [word for word in words if not re.fullmatch("[a-z]+", word)]:
        raise ValueError(f"words must be of the letters a to z, got {wrong[0]!r}")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # from the end of the word, so that words share their endings
            if (pieces[-2], pieces[-1]) not in merges:
                merges.append((pieces[-2], pieces[-1]))
            pieces[-2:] = [pieces[-2] + pieces[-1]]
            if pieces[-1] not in vocab:
                vocab.append(pieces[-1])
    return transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=length)


def image_pipeline(seed: int = 0) -> diffusers.StableDiffusionPipeline:
    """A StableDiffusionPipeline with random weights and Stable Diffusion's schedule: four levels, VAE factor 2, 16x16 pixels, ten text tokens."""
    seed = _seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16, scaling_factor=0.7,
        )  # fmt: skip
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16, 24, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=12, attention_head_dim=2,
        )  # fmt: skip
        tokenizer = clip_tokenizer(IMAGE_WORDS, 10)
        text_encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=12, intermediate_size=24, projection_dim=12, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=10, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        ))  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    with _no_autocast_warning():
        pipe = diffusers.StableDiffusionPipeline(
            vae=vae.eval(), text_encoder=text_encoder.eval(), tokenizer=tokenizer, unet=unet.eval(), scheduler=scheduler, safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixel_pipeline(seed: int = 0) -> diffusers.DDPMPipeline:
    """A DDPMPipeline with random weights: an unconditional UNet2DModel on 16x16 pixels, four levels of two layers, no text and no VAE."""
    seed = _seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DModel(
            sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 8, 16, 16), layers_per_block=2, norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 3 + ("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 3, attention_head_dim=8,
        )  # fmt: skip
    pipe = diffusers.DDPMPipeline(unet=unet.eval(), scheduler=diffusers.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe
