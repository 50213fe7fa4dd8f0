"""Published transformers by name: as frozen encoders, pictures in, feature vectors out, and as classifiers with a new head, to be tuned.

encode = encoders.load("toy-vit")                 # offline
encode = encoders.load("facebook/dino-vits16")    # the same class of transformers at full size; a download of 0.09 GB at its first use
features = encode(images)                         # (N, 3, S, S) in [0, 1] -> (N, D)

model = encoders.classifier("google/vit-base-patch16-224-in21k", classes=100)   # what visual prompts and scale-and-shift are tuned on in their papers
model = encoders.blank_classifier("google/vit-base-patch16-224-in21k", classes=100)   # the same without weights, on the meta device: to be counted
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import PreTrainedModel, SwinConfig, SwinForImageClassification, SwinModel, ViTConfig, ViTForImageClassification, ViTModel

from ..arguments import choice, integer, like, numbers
from . import zoo

__all__ = ["Encoder", "blank", "blank_classifier", "classifier", "load", "missing", "needs"]


def _vit(width: int, layers: int, heads: int, patch: int = 16) -> dict:
    return dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width, image_size=224, patch_size=patch)


# published configurations. ViT-S/16 (Dosovitskiy et al. 2021) trained by DINO (Caron et al. 2021), on k-NN's list of encoders; ViT-B/16, L/16 and H/14 trained
# on ImageNet-21k, Swin-B (Liu et al. 2021) on ImageNet-22k and ViT-B/16 by MAE (He et al. 2022), which visual prompts and scale-and-shift were tuned on
CONFIGS = {
    "facebook/dino-vits16": _vit(384, 12, 6),
    "google/vit-base-patch16-224-in21k": _vit(768, 12, 12),
    "google/vit-large-patch16-224-in21k": _vit(1024, 24, 16),
    "google/vit-huge-patch14-224-in21k": _vit(1280, 32, 16, patch=14),
    "facebook/vit-mae-base": _vit(768, 12, 12),
    "microsoft/swin-base-patch4-window7-224-in22k": dict(
        embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=7, image_size=224, patch_size=4
    ),
}  # fmt: skip
GIGABYTES = {  # of the download, in single precision, with what it holds beside the encoder: a pooler, a head of 21 841 classes, a decoder
    "facebook/dino-vits16": 0.09, "google/vit-base-patch16-224-in21k": 0.35, "google/vit-large-patch16-224-in21k": 1.22,
    "google/vit-huge-patch14-224-in21k": 2.53, "facebook/vit-mae-base": 0.45, "microsoft/swin-base-patch4-window7-224-in22k": 0.44,
}  # fmt: skip
LOCAL = ("toy-vit",)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that most published weights expect
HALF = ((0.5,) * 3, (0.5,) * 3)


@dataclass
class Encoder:
    """A vision transformer that reads pictures: the class token after the last norm is the feature, for a Swin, which has none, the mean of the patches."""

    name: str
    model: PreTrainedModel
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
        swin = isinstance(self.model, SwinModel)
        mean, deviation = (torch.tensor(values, device=found.device)[:, None, None] for values in (self.mean, self.deviation))
        for some in found.float().split(batch) if len(found) else ():
            some = some if some.shape[-1] == side else F.interpolate(some, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
            out = self.model(((some - mean) / deviation).to(weight))
            features.append((out.pooler_output if swin else out.last_hidden_state[:, 0]).float().cpu())
        return like(images, torch.cat(features))


def _known(name: str) -> str:
    return choice("name", name, (*LOCAL, *CONFIGS))


def _swin(name: str) -> bool:
    return "depths" in CONFIGS[name]


def blank(name: str) -> PreTrainedModel:
    """A published encoder without weights, on the meta device: names, shapes and numbers of parameters, no values."""
    swin = _swin(choice("name", name, CONFIGS))
    with torch.device("meta"):
        return (SwinModel(SwinConfig(**CONFIGS[name])) if swin else ViTModel(ViTConfig(**CONFIGS[name]), add_pooling_layer=False)).eval()


def blank_classifier(name: str, *, classes: int) -> PreTrainedModel:
    """A published encoder with a new linear head, without weights, on the meta device."""
    swin, labels = _swin(choice("name", name, CONFIGS)), integer("classes", classes, low=1)
    with torch.device("meta"):
        model = SwinForImageClassification(SwinConfig(**CONFIGS[name], num_labels=labels)) if swin else None
        return (model or ViTForImageClassification(ViTConfig(**CONFIGS[name], num_labels=labels))).eval()


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
    model = _published(name, SwinModel if _swin(name) else ViTModel, **({} if _swin(name) else {"add_pooling_layer": False}))
    return Encoder(name, model, *(HALF if name.startswith("google/vit") else IMAGENET))


def classifier(name: str, *, classes: int) -> PreTrainedModel:
    """A published encoder with its weights and a new linear head for so many classes, in eval mode, on the GPU where there is one.

    It reads pixels that were standardised as its encoder's are (`load(name).mean`). Raises as `load` does.
    """
    swin, labels = _swin(choice("name", name, CONFIGS)), integer("classes", classes, low=1)
    return _published(name, SwinForImageClassification if swin else ViTForImageClassification, num_labels=labels, ignore_mismatched_sizes=True)


def _published(name: str, kind: type[PreTrainedModel], **options) -> PreTrainedModel:
    """A published model with its weights at the pinned revision, on the GPU where there is one. RuntimeError, one sentence, where it cannot be had."""
    if lack := missing(name):
        raise RuntimeError(lack)
    try:
        model = kind.from_pretrained(name, revision=zoo.pinned_revision(name), **options)
    except OSError as error:
        raise RuntimeError(f"{name} needs a download of its weights ({GIGABYTES[name]} GB), and it failed ({type(error).__name__}).") from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
