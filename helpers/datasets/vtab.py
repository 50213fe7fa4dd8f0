"""VTAB-1k (Zhai et al. 2019, arXiv 1910.04867), the nineteen tasks of 1 000 labelled pictures that the papers on tuning report: what pages need at paper scale.

    vtab.missing("svhn")                       # one sentence on what is not here, empty when nothing is
    task = vtab.load("svhn")                   # task.train 800, task.validation 200, task.both, task.test: tables of the library `datasets`
    rows = task.train[:64]                     # {"image": [...], "label": [...]}
    pixels = vtab.pixels(rows["image"])        # (64, 3, 224, 224) in [0, 1]

The pictures cannot be fetched here. They are looked for in data/vtab-1k (a link will do), in the layout that is handed around since NOAH (Zhang et al. 2022,
arXiv 2206.04673): a folder a task, with train800.txt, val200.txt, train800val200.txt and test.txt, whose lines are a picture's path and its label.
Protocol of the papers: rates are chosen on 800 / 200, then one trains on all 1 000; pictures are brought to 224 px, nothing else.
"""

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import checkout
from ..arguments import choice, got, instance, integer

__all__ = ["GROUPS", "TASKS", "VtabTask", "load", "missing", "pixels"]

PICTURES = checkout.ROOT / "data" / "vtab-1k"
GROUPS = {  # name -> number of classes
    "natural": {"cifar": 100, "caltech101": 102, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37, "svhn": 10, "sun397": 397},
    "specialized": {"patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic_retinopathy": 5},
    "structured": {
        "clevr_count": 8, "clevr_dist": 6, "dmlab": 6, "kitti": 4, "dsprites_loc": 16, "dsprites_ori": 16, "smallnorb_azi": 18, "smallnorb_ele": 9,
    },
}  # fmt: skip
TASKS = {name: classes for group in GROUPS.values() for name, classes in group.items()}
LISTS = {"train": "train800.txt", "validation": "val200.txt", "both": "train800val200.txt", "test": "test.txt"}
COUNTS = {"train": 800, "validation": 200, "both": 1000}


@dataclass(frozen=True)
class VtabTask:
    """One task: its name, its group, the number of its classes, and four tables (`datasets.Dataset`) with the columns "image" and "label"."""

    name: str
    group: str
    classes: int
    train: Any
    validation: Any
    both: Any
    test: Any


def _folder(task: str, pictures: Path) -> Path:
    choice("task", task, TASKS)
    instance("pictures", pictures, (str, os.PathLike), "a path")
    if not str(pictures).strip() or "\0" in str(pictures):
        raise ValueError(f"pictures must be a path, got {got(str(pictures))}")
    return Path(pictures) / task


def missing(task: str, pictures: Path = PICTURES) -> str:
    """One sentence on what this machine lacks to load a task, empty when nothing is missing. Nothing is downloaded. ValueError for an unknown task."""
    folder = _folder(task, pictures)
    if importlib.util.find_spec("datasets") is None:
        return "VTAB-1k is read by the library datasets, which is not installed; the extra `paper` of this project has it."
    if absent := [name for name in LISTS.values() if not (folder / name).is_file()]:
        where = folder.relative_to(checkout.ROOT) if folder.is_relative_to(checkout.ROOT) else folder
        return f"VTAB-1k's task {task} needs its pictures and lists in {where}, where {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not."
    return ""


def load(task: str, pictures: Path = PICTURES) -> VtabTask:
    """A task of VTAB-1k; pictures are read when they are asked for.

    RuntimeError, one sentence, where something is missing; ValueError for an unknown task and for lists that are not what they should be: a line without a
    label, a label outside of the task's classes, a picture that is not there or not in the task's folder, a picture with two labels, other than 800, 200 and
    1 000 pictures to learn from, or labels of the 1 000 that are not those of the 800 and the 200 together. What no reader of pictures can read is found
    when it is asked for, with the error of that reader.
    """
    folder = _folder(task, pictures)
    if lack := missing(task, pictures):
        raise RuntimeError(lack)
    listed = {part: _listed(folder, name, TASKS[task]) for part, name in LISTS.items()}
    for part, count in COUNTS.items():
        if len(listed[part][0]) != count:
            raise ValueError(f"pictures: {LISTS[part]} must list {count} pictures, got {len(listed[part][0])}")
    if sorted(listed["both"][1]) != sorted(listed["train"][1] + listed["validation"][1]):
        raise ValueError(f"pictures: {LISTS['both']} must list the pictures of {LISTS['train']} and {LISTS['validation']}, got other labels")
    tables = {part: _table(*rows) for part, rows in listed.items()}
    group = next(group for group, names in GROUPS.items() if task in names)
    return VtabTask(task, group, TASKS[task], **tables)


def _table(paths: list[str], labels: list[int]) -> Any:
    """A table of the library `datasets` that reads its pictures when they are asked for."""
    import datasets  # of the extra `paper`, which brings pyarrow too
    import pyarrow

    rows = pyarrow.table({"image": paths, "label": labels})
    # a name of our own: the library would make one by pickling the table, which some builds of pyarrow do not let it
    name = hashlib.sha256(repr((paths, labels)).encode()).hexdigest()[:16]
    return datasets.Dataset(datasets.table.InMemoryTable(rows), fingerprint=name).cast_column("image", datasets.Image())


def _listed(folder: Path, name: str, classes: int) -> tuple[list[str], list[int]]:
    """Paths and labels of a list of pictures."""
    paths, labels = [], []
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"pictures: {name} must be text in UTF-8, got other bytes at position {error.start}") from error
    known: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdecimal() or int(label) >= classes:
            raise ValueError(f"pictures: line {number} of {name} must be a path and a label in 0..{classes - 1}, got {got(line)}")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError(f"pictures: line {number} of {name} must name a picture in the folder of its task, got {got(path)}")
        if known.setdefault(path, label) != label:
            raise ValueError(f"pictures: line {number} of {name} must give {path} the label that it has before, {known[path]}, got {label}")
        if not (folder / path).is_file():
            raise ValueError(f"pictures: line {number} of {name} names {path}, which is not there")
        paths.append(str(folder / path))
        labels.append(int(label))
    if not paths:
        raise ValueError(f"pictures: {name} must list at least one picture, got none")
    return paths, labels


def pixels(images: list, *, size: int = 224) -> Tensor:
    """Pictures of PIL, of any size, as (N, 3, size, size) in [0, 1]: brought to a square, bilinear, as the papers do it.

    Any mode of 8 bits a channel, and I;16, where 65 535 is white. Transparency is left out. TypeError for what are no pictures; ValueError for modes I and F,
    of which nothing says what white is, and for pictures that Pillow cannot read or turn into colours.
    """
    size = integer("size", size, low=1)
    if not isinstance(images, (list, tuple)) or not all(isinstance(image, Image.Image) for image in images):
        raise TypeError(f"images must be a list of PIL's pictures, got {got(images)}")
    if not images:
        raise ValueError("images must be a list of PIL's pictures, one or more, got none")
    for number, image in enumerate(images):
        if image.mode in ("I", "F"):
            raise ValueError(f"images must be pictures of 8 bits a channel or of mode I;16, got mode {image.mode} in number {number}")
    return torch.from_numpy(np.stack([_square(number, image, size) for number, image in enumerate(images)])).permute(0, 3, 1, 2).contiguous()


def _square(number: int, image: Image.Image, size: int) -> np.ndarray:
    """A picture brought to (size, size, 3), in [0, 1]."""
    try:
        if image.mode.startswith("I;16"):
            grey = Image.fromarray(np.asarray(image).astype(np.float32) / 65535).resize((size, size), Image.Resampling.BILINEAR)
            return np.repeat(np.asarray(grey)[..., None], 3, 2).clip(0, 1)
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    except (OSError, SyntaxError, ValueError) as error:  # a file that ends too early, a mode without a way to colours
        raise ValueError(f"images must be pictures that Pillow can turn into RGB, got mode {image.mode} in number {number}: {error}") from error
