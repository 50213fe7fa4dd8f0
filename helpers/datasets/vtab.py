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
    label, a label outside of the task's classes, a picture that is not there.
    """
    folder = _folder(task, pictures)
    if lack := missing(task, pictures):
        raise RuntimeError(lack)
    tables = {part: _table(*_listed(folder, name, TASKS[task])) for part, name in LISTS.items()}
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
    for number, line in enumerate((folder / name).read_text(encoding="utf-8").splitlines(), 1):
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdecimal() or int(label) >= classes:
            raise ValueError(f"pictures: line {number} of {name} must be a path and a label in 0..{classes - 1}, got {got(line)}")
        if not (folder / path).is_file():
            raise ValueError(f"pictures: line {number} of {name} names {path}, which is not there")
        paths.append(str(folder / path))
        labels.append(int(label))
    if not paths:
        raise ValueError(f"pictures: {name} must list at least one picture, got none")
    return paths, labels


def pixels(images: list, *, size: int = 224) -> Tensor:
    """Pictures of PIL, of any size and mode, as (N, 3, size, size) in [0, 1]: brought to a square, bilinear, as the papers do it. TypeError for others."""
    size = integer("size", size, low=1)
    if not isinstance(images, (list, tuple)) or not all(isinstance(image, Image.Image) for image in images):
        raise TypeError(f"images must be a list of PIL's pictures, got {got(images)}")
    if not images:
        raise ValueError("images must be a list of PIL's pictures, one or more, got none")
    squares = [np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32) / 255 for image in images]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous()
