"""Published picture classifiers, asked about blurred ImageNet pictures: what page 07 needs at paper scale.

    classifiers.missing("microsoft/resnet-50")              # one sentence on what is not here, empty when nothing is
    found = classifiers.load("microsoft/resnet-50")         # a download of 0.1 GB, pinned like every published model
    rows = classifiers.probabilities(found, files, blur=8)  # (N, 1000)

ImageNet's validation pictures cannot be fetched without an account. They are looked for in data/imagenet/val (a link will do): 1000 folders, one a class,
whose names in alphabetical order are the classes in the order of the published weights.
"""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from ..arguments import choice, got, instance, integer, real
from . import zoo

__all__ = ["blank", "config", "files", "load", "missing", "probabilities", "read"]

CONFIGS = {"microsoft/resnet-50": dict(depths=[3, 4, 6, 3], hidden_sizes=[256, 512, 1024, 2048], layer_type="bottleneck", num_labels=1000)}
PICTURES = zoo.ROOT / "data" / "imagenet" / "val"
SIDE, CROP = 256, 224  # px: the shorter side, and the square cut from the middle
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SUFFIXES = (".jpeg", ".jpg", ".png")


def config(name: str) -> ResNetConfig:
    """The published configuration. Raises ValueError for an unknown name, TypeError for what is no text."""
    return ResNetConfig(**CONFIGS[choice("name", name, CONFIGS)])


def _path(name: str, value: str | os.PathLike) -> Path:
    """A path. Raises TypeError for anything else, ValueError for a blank one."""
    instance(name, value, (str, os.PathLike), "a path")
    if not str(value).strip() or "\0" in str(value):
        raise ValueError(f"{name} must be a path, got {got(str(value))}")
    return Path(value)


def blank(name: str) -> nn.Module:
    """A published classifier without weights, on the meta device: names, shapes and numbers of parameters, no values."""
    found = config(name)
    with torch.device("meta"):
        return ResNetForImageClassification(found).eval()


def missing(name: str, pictures: Path = PICTURES) -> str:
    """One sentence on what this machine lacks to run a classifier at paper scale, empty when nothing is missing. Nothing is downloaded."""
    classes, pictures = config(name).num_labels, _path("pictures", pictures)
    there = sum(path.is_dir() for path in pictures.iterdir()) if pictures.is_dir() else 0
    if there == classes:
        return ""
    where = pictures.relative_to(zoo.ROOT) if pictures.is_relative_to(zoo.ROOT) else pictures
    return f"{name} needs ImageNet's validation pictures in {where}, {classes} folders with one class each, and there are {there} folders."


def load(name: str, pictures: Path = PICTURES) -> nn.Module:
    """A published classifier with its weights, on the GPU where there is one. RuntimeError, one sentence, where pictures or weights are missing."""
    if lack := missing(name, pictures):
        raise RuntimeError(lack)
    try:
        found = ResNetForImageClassification.from_pretrained(name, revision=zoo.pinned_revision(name))
    except OSError as error:  # no connection, or nothing at the other end
        raise RuntimeError(f"the weights of {name} (0.1 GB) are neither here nor can they be downloaded: {type(error).__name__}.") from error
    return found.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def files(pictures: Path = PICTURES, *, per_class: int = 10) -> tuple[list[Path], Tensor]:
    """The first `per_class` pictures of each class folder, in alphabetical order, and their labels (N,). ValueError where a folder has fewer, or there is
    none."""
    found, labels, pictures, per_class = [], [], _path("pictures", pictures), integer("per_class", per_class, low=1)
    folders = sorted(path for path in pictures.iterdir() if path.is_dir()) if pictures.is_dir() else []
    if not folders:
        raise ValueError(f"pictures must be a folder of folders, one a class, got {str(pictures)!r}, which {'has' if pictures.is_dir() else 'is'} none")
    for label, folder in enumerate(folders):
        some = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:per_class]
        if len(some) < per_class:
            raise ValueError(f"per_class must be at most {len(some)}, the pictures in {folder.name}, got {per_class}")
        found += some
        labels += [label] * per_class
    return found, torch.tensor(labels)


def read(path: Path, blur: float = 0.0) -> Tensor:
    """A picture as the classifier reads it (3, 224, 224): shorter side 256 px, the middle 224 px, blurred by PIL's Gaussian of `blur` px, standardised.

    Raises ValueError for a file that is no picture.
    """
    path, blur = _path("path", path), real("blur", blur, low=0)
    try:
        picture = Image.open(path)
        if picture.mode == "I" or picture.mode.startswith("I;16"):  # sixteen bits: PIL's own conversion cuts off all above 255
            picture = Image.fromarray((np.asarray(picture).astype(np.float64).clip(0, 65535) / 257).round().astype(np.uint8))
        picture = picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"path must be a picture that can be read, got {str(path)!r} ({type(error).__name__})") from error
    scale = SIDE / min(picture.size)
    picture = picture.resize([max(SIDE, round(scale * side)) for side in picture.size], Image.Resampling.BICUBIC)
    left, top = ((side - CROP) // 2 for side in picture.size)
    picture = picture.crop((left, top, left + CROP, top + CROP)).filter(ImageFilter.GaussianBlur(blur))
    values = (np.asarray(picture, dtype=np.float32) / 255 - MEAN) / DEVIATION
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)


@torch.no_grad()
def probabilities(model: nn.Module, paths: list[Path], *, blur: float = 0.0, batch: int = 50) -> Tensor:
    """What a classifier says of pictures: (N, C) float64 on the CPU, rows that sum to 1. ValueError where a file is not there or no picture."""
    weight, found = next(instance("model", model, nn.Module, "a classifier, a torch.nn.Module").parameters()), []
    blur, batch = real("blur", blur, low=0), integer("batch", batch, low=1)
    listed = paths.tolist() if hasattr(paths, "tolist") and not isinstance(paths, Tensor) else paths
    if not isinstance(listed, (list, tuple)):
        raise TypeError(f"paths must be a list of paths, got {got(paths)}")
    paths = [_path("paths", path) for path in listed]
    if not paths:
        raise ValueError("paths must be a list of paths, one or more, got none")
    if absent := [path for path in paths if not path.is_file()]:
        raise ValueError(f"paths must be pictures that are there, got {str(absent[0])!r}")
    for start in range(0, len(paths), batch):
        images = torch.stack([read(path, blur) for path in paths[start : start + batch]])
        found.append(model(images.to(weight)).logits.double().softmax(1).cpu())
    return torch.cat(found)
