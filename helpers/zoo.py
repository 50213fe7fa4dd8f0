"""Every model by name: the trained ones under data/models, the published ones by their hub id.

    pipe = zoo.load("toy-latte")             # offline, in this repository
    pipe = zoo.load("maxin-cn/Latte-1")      # the same class at full size: a download and a GPU

Published weights are pinned: the first download writes the commit it got to data/revisions.toml, every later one asks for that commit.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import model_info

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "data" / "models"
REVISIONS = ROOT / "data" / "revisions.toml"


@dataclass(frozen=True)
class Entry:
    """One model. `call`: the pipeline's arguments at this model's own scale. `gpu_gb`: the memory of a GPU that holds its weights in half
    precision (weights only, from their number; 0: a laptop will do). `config`: the published transformer's, for checks without weights."""

    name: str
    pipeline: str
    call: dict = field(default_factory=dict)
    gpu_gb: float = 0.0
    config: dict = field(default_factory=dict)

    @property
    def local(self) -> bool:
        return "/" not in self.name


_ENTRIES = (
    Entry(
        "toy-latte", "LattePipeline",
        call={"num_inference_steps": 30, "guidance_scale": 3.0, "video_length": 8, "height": 32, "width": 32, "clean_caption": False},
    ),
    Entry(
        "maxin-cn/Latte-1", "LattePipeline", gpu_gb=12.0,
        call={"num_inference_steps": 50, "guidance_scale": 7.5, "video_length": 16, "height": 512, "width": 512, "clean_caption": False},
        config={
            "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28, "cross_attention_dim": 1152,
            "attention_bias": True, "sample_size": 64, "patch_size": 2, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6, "caption_channels": 4096, "video_length": 16,
        },
    ),
)  # fmt: skip
ENTRIES = {entry.name: entry for entry in _ENTRIES}


def entry(name: str) -> Entry:
    """The entry of a model. Raises ValueError for an unknown name."""
    if name not in ENTRIES:
        raise ValueError(f"name: no model {name!r} in the zoo; there are {', '.join(ENTRIES)}")
    return ENTRIES[name]


def folder(name: str) -> Path:
    """Where a trained model of this repository lies. Raises FileNotFoundError, saying how to make it, when it is not there."""
    path = MODELS / name
    if not (path / "model_index.json").exists():
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
        pipe = DiffusionPipeline.from_pretrained(name, revision=pinned_revision(name), torch_dtype=torch.float16).to("cuda")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pinned_revision(name: str) -> str:
    """The hub commit of a published model: the one written down, or today's, which is then written down."""
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
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, generator=generator, output_type="pt", **call).frames[0].float().cpu()
