"""Frozen encoders by name: pictures in, feature vectors out, the same call for the small one of this repository and for a published one.

encode = encoders.load("toy-vit")                 # offline
encode = encoders.load("facebook/dino-vits16")    # the same class of transformers at full size; a download of 0.09 GB at its first use
features = encode(images)                         # (N, 3, S, S) in [0, 1] -> (N, D)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from ..arguments import choice, integer, like, numbers
from . import zoo

__all__ = ["Encoder", "blank", "load", "missing", "needs"]

# published configurations: a ViT-S/16 (Dosovitskiy et al. 2021) trained by DINO (Caron et al. 2021); the paper's list of encoders has it
CONFIGS = {"facebook/dino-vits16": dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=224, patch_size=16)}
GIGABYTES = {"facebook/dino-vits16": 0.09}  # single precision
LOCAL = ("toy-vit",)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that the published weights expect
HALF = ((0.5,) * 3, (0.5,) * 3)


@dataclass
class Encoder:
    """A vision transformer that reads pictures: the class token after the last norm is the feature."""

    name: str
    model: ViTModel
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @torch.no_grad()
    def __call__(self, images: Tensor, *, batch: int = 100) -> Tensor:
        """Pictures (N, 3, S, S) in [0, 1] -> features (N, D); other sizes than the model's are scaled to it.

        A tensor of features lies where the pictures lie; for numpy and lists it is numpy. ValueError for other shapes, NaN and another range (0.001 beyond
        it is rounding), TypeError for what are no numbers.
        """
        found = numbers("images", images, "N 3 S S", empty=True, low=-1e-3, high=1 + 1e-3)
        batch, side = integer("batch", batch, low=1), self.model.config.image_size
        weight, features = next(self.model.parameters()), [torch.zeros(0, self.model.config.hidden_size)]
        mean, deviation = (torch.tensor(values, device=found.device)[:, None, None] for values in (self.mean, self.deviation))
        for some in found.float().split(batch) if len(found) else ():
            some = some if some.shape[-1] == side else F.interpolate(some, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
            features.append(self.model(((some - mean) / deviation).to(weight)).last_hidden_state[:, 0].float().cpu())
        return like(images, torch.cat(features))


def _known(name: str) -> str:
    return choice("name", name, (*LOCAL, *CONFIGS))


def blank(name: str) -> ViTModel:
    """A published encoder without weights, on the meta device: names, shapes and numbers of parameters, no values."""
    choice("name", name, CONFIGS)
    with torch.device("meta"):
        return ViTModel(ViTConfig(**CONFIGS[name]), add_pooling_layer=False).eval()


def needs(name: str) -> str:
    """One sentence on what running an encoder takes."""
    if _known(name) in LOCAL:
        return f"{name} lies in data/models and runs on a laptop."
    millions = sum(p.numel() for p in blank(name).parameters()) / 1e6
    return f"{name} has {millions:.1f} million parameters, is downloaded once ({GIGABYTES[name]} GB) and runs on a laptop, faster with a GPU."


def missing(name: str) -> str:
    """One sentence on what this machine lacks to run an encoder, empty when nothing is missing. Downloads nothing; asks the hub for the commit of weights
    that are not here."""
    if _known(name) in LOCAL:
        return ""
    if any(isinstance(try_to_load_from_cache(name, file), str) for file in ("model.safetensors", "pytorch_model.bin")):
        return ""
    try:
        zoo.pinned_revision(name)
    except Exception as error:  # of a dozen kinds, according to what is between here and the hub
        why = f"which are not on this machine, and the hub does not answer ({type(error).__name__})."
        return f"{name} needs a download of its weights ({GIGABYTES[name]} GB), {why}"
    return ""


def load(name: str) -> Encoder:
    """An encoder with its weights, a published one on the GPU where there is one.

    ValueError for an unknown name, FileNotFoundError where a trained one is not there, RuntimeError, one sentence, where a published one cannot be had.
    """
    if _known(name) in LOCAL:
        model = ViTForImageClassification.from_pretrained(zoo.folder(name), dtype=torch.float32, local_files_only=True).vit
        return Encoder(name, model.eval(), *HALF)
    if lack := missing(name):
        raise RuntimeError(lack)
    try:
        model = ViTModel.from_pretrained(name, revision=zoo.pinned_revision(name), add_pooling_layer=False)
    except OSError as error:
        raise RuntimeError(f"{name} needs a download of its weights ({GIGABYTES[name]} GB), and it failed ({type(error).__name__}).") from error
    return Encoder(name, model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), *IMAGENET)
