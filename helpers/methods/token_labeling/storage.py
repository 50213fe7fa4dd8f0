"""Score maps on disk: of each cell only the k highest class scores and which classes they are.

The official files keep both as float16, in which class numbers above 2048 are not exact; here class numbers are whole numbers of 16 bits (32 for more classes
than those hold), at the same size on disk.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._arguments import _got, _instance, _integer, _like, _number, _numbers

__all__ = ["StoredMaps", "dense_maps", "load_maps", "official_maps", "save_maps", "store_maps"]

HALF = torch.finfo(torch.float16).max


class StoredMaps(NamedTuple):
    """scores (B, k, h, w) float16, highest first; classes (B, k, h, w), int16 or int32; num_classes: K."""

    scores: Any
    classes: Any
    num_classes: int

    def rows(self, index) -> "StoredMaps":
        """The maps of some of the pictures."""
        return StoredMaps(self.scores[index], self.classes[index], self.num_classes)


def store_maps(maps, k: int = 5) -> StoredMaps:
    """The k highest of the scores (B, K, h, w) of each cell, as `StoredMaps`, like maps. Scores are logits within float16's range, +-65504."""
    given = _numbers("maps", maps, "B K h w", low=-HALF, high=HALF)
    scores, classes = given.topk(_integer("k", k, 1, given.shape[1]), 1)
    return StoredMaps(_like(maps, scores.half()), _like(maps, classes.to(_class_dtype(given.shape[1]))), given.shape[1])


def _class_dtype(num_classes: int) -> torch.dtype:
    return torch.int16 if num_classes <= 2**15 else torch.int32


def dense_maps(stored: StoredMaps, *, missing: float = 0.0):
    """Scores (B, K, h, w) in float32, like the stored ones; classes that were not kept have the score `missing`, in the method 0."""
    given = _stored(stored)
    return _like(stored.scores, _dense(given, _number("missing", missing, -HALF, HALF)))


def _dense(stored: StoredMaps, missing: float = 0.0) -> Tensor:
    scores = stored.scores.float()
    shape = (len(scores), stored.num_classes, *scores.shape[2:])
    return torch.full(shape, missing, device=scores.device).scatter(1, stored.classes, scores)


def _stored(stored: Any) -> StoredMaps:
    """With tensors on one device, once scores and classes have one shape, each class number is below K and none stands twice in a cell."""
    _instance("stored", stored, StoredMaps, "StoredMaps")
    count = _integer("num_classes", stored.num_classes, 1)
    scores = _numbers("scores", stored.scores, "B k h w")
    shape = " ".join(map(str, scores.shape))
    classes = _numbers("classes", stored.classes, shape, like="scores", whole=True, low=0, high=count - 1).to(scores.device).long()
    ordered = classes.sort(1).values
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("classes must be different ones within a cell, got one twice")
    return StoredMaps(scores, classes, count)


def official_maps(stack, num_classes: int = 1000) -> StoredMaps:
    """Maps as the official label files hold them, float16 (2, k, h, w) of one picture or (B, 2, k, h, w), scores before class numbers, as `StoredMaps`.

    They are like stack. Class numbers above 2048 were rounded when they were written.
    """
    given, count = _numbers("stack", stack, "... 2 k h w"), _integer("num_classes", num_classes, 1)
    if given.ndim not in (4, 5):
        raise ValueError(f"stack must be (2, k, h, w) or (B, 2, k, h, w), got shape {tuple(given.shape)}")
    scores, classes = (given if given.ndim == 5 else given[None]).unbind(1)
    if (classes != classes.round()).any() or classes.min() < 0 or classes.max() >= count:
        raise ValueError(f"stack must hold whole class numbers below {count} behind the scores, got {float(classes.min()):g} to {float(classes.max()):g}")
    if scores.abs().max() > HALF:
        raise ValueError(f"stack must have scores within float16's range, got {float(scores.abs().max()):g}")
    found = _stored(StoredMaps(scores.half(), classes.long(), count))
    return StoredMaps(_like(stack, found.scores), _like(stack, found.classes.to(_class_dtype(count))), count)


def save_maps(stored: StoredMaps, path: str | Path) -> None:
    """Into one file (safetensors), which is written anew. ValueError where its folder is absent."""
    given = _stored(stored)
    if Path(_path(path)).is_dir() or not Path(path).parent.is_dir():
        raise ValueError(f"path must be a file in a folder that is there, got {_got(str(path))}")
    if given.scores.abs().max() > HALF:
        raise ValueError(f"scores must be within float16's range, got {float(given.scores.abs().max()):g}")
    classes = given.classes.to(_class_dtype(given.num_classes))
    save_file({"scores": given.scores.half().contiguous().cpu(), "classes": classes.contiguous().cpu()}, _path(path), {"num_classes": str(given.num_classes)})


def load_maps(path: str | Path) -> StoredMaps:
    """From such a file. ValueError, one sentence, where the file is absent or another one."""
    if not Path(_path(path)).is_file():
        raise ValueError(f"path must be a local file that save_maps has written, got {_got(str(path))}")
    try:
        with safe_open(_path(path), "pt") as file:
            found = StoredMaps(file.get_tensor("scores"), file.get_tensor("classes"), int(file.metadata()["num_classes"]))
        _stored(found)
    except Exception as error:  # whatever safetensors, or the check, makes of another file
        raise ValueError(f"path must be a file that save_maps has written, got {Path(path).name}: {str(error).splitlines()[0][:80]}") from error
    return found


def _path(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be the path of a file, got {_got(path)}")
    return str(path)
