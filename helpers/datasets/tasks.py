"""A bench of small classification tasks behind one interface: the toy world's questions, handwritten digits, faces, patches of real photographs.

    task = load("touching")                         # task.train, task.validation, task.test: images (N, 3, S, S) in [0, 1] and labels (N,)
    few = task.train.few(5, seed=0)                 # five examples of every class

Splits never share a picture. A task is looked up by its name and a seed; pictures are the same whatever sizes are asked for, as long as priors are equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import choice, integer
from ..toyworld import creatures, scenes, shapes
from ..toyworld.render import TEXTURES
from ..toyworld.shapes import COLOURS, SHAPES
from ..toyworld.skeletons import CATEGORIES
from . import real

__all__ = ["FURTHER", "NAMES", "Pictures", "SURFACES", "TEXTURE_PHOTOGRAPHS", "Task", "VIEWS", "load"]

_FIRST = {"train": 0, "validation": 10**7, "test": 2 * 10**7}  # where a split begins in a seed's endless lists
_LAST_SEED = 10**11  # the noise of a picture is drawn by a million times its seed, and 64 bits must hold that
_CHUNK = 512


@dataclass
class Pictures:
    """images (N, 3, S, S) float32 in [0, 1]; labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def few(self, per_class: int, seed: int = 0) -> "Pictures":
        """`per_class` examples of every class, drawn by `seed`; ValueError where a class has fewer."""
        per_class, generator = integer("per_class", per_class, low=1), np.random.default_rng(integer("seed", seed, low=0))
        rows = []
        for c in self.labels.unique().tolist():
            members = (self.labels == c).nonzero()[:, 0].numpy()
            if len(members) < per_class:
                raise ValueError(f"per_class must be at most {len(members)}, the examples of class {c}, got {per_class}")
            rows += generator.permutation(members)[:per_class].tolist()
        return Pictures(self.images[sorted(rows)], self.labels[sorted(rows)])


@dataclass
class Task:
    """One classification task: its name, the names of its classes, three disjoint splits."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    validation: Pictures
    test: Pictures


# ------------------------------------------------------------------------------------------------------------------------ the questions


def _family(draw: Callable):
    """What turns a way to draw pictures and a way to read their label into a task's `draw(seed, rows, size) -> (images, labels)`."""

    def of(label: Callable, **options) -> Callable:
        def drawn(seed, rows, size):
            pictures = draw(seed, rows, size=size, **options)
            return pictures.image, label(pictures)

        return drawn

    return of


_of_shapes, _of_crowds, _of_pairs, _of_creatures = map(_family, (shapes.shapes, scenes.crowds, scenes.pairs, creatures.creatures))


def _noisy(draw: Callable, sigma: float):
    """The same pictures with Gaussian noise of its own in every picture."""

    def drawn(seed, rows, size):
        images, labels = draw(seed, rows, size)
        noise = [torch.randn(image.shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + int(row))) for image, row in zip(images, rows)]
        return (images + sigma * torch.stack(noise)).clamp(0, 1), labels

    return drawn


def _dark(draw: Callable, gain: float):
    def drawn(seed, rows, size):
        images, labels = draw(seed, rows, size)
        return gain * images, labels

    return drawn


def _coarse(draw: Callable, cells: int):
    """Seen with few pixels only: averaged to cells x cells, enlarged again."""

    def drawn(seed, rows, size):
        images, labels = draw(seed, rows, size)
        return F.interpolate(F.interpolate(images, size=(cells, cells), mode="area"), size=(size, size), mode="bilinear"), labels

    return drawn


def _hidden(draw: Callable, share: float):
    """A grey square over a part of every picture, at a place of its own."""

    def drawn(seed, rows, size):
        images, labels = draw(seed, rows, size)
        images, side = images.clone(), round(share * size)
        for image, row in zip(images, rows):
            x, y = np.random.default_rng([seed, int(row)]).integers(0, size - side + 1, 2)
            image[:, y : y + side, x : x + side] = 0.5
        return images, labels

    return drawn


def _smaller(what: str):
    return lambda p: getattr(p, what).gather(1, p.radius[:, :2].argmin(1, keepdim=True))[:, 0]


def _order(p, axis: int) -> Tensor:
    """0 where the larger of the two lies left of (axis 0) or above (axis 1) the smaller."""
    larger = p.radius[:, :2].argmax(1)
    at = p.position[torch.arange(len(p)), larger, axis]
    other = p.position[torch.arange(len(p)), 1 - larger, axis]
    return (at > other).long()


_HUES, _KINDS = tuple(COLOURS), {"animal on four legs": ("cat", "dog", "rabbit", "fox"), "animal": ("bird", "fish"), "thing": ("car", "teapot", "lamp")}
_KIND_OF = torch.tensor([next(i for i, members in enumerate(_KINDS.values()) if c in members) for c in CATEGORIES])
_SHAPE, _TEXTURE, _CATEGORY = (_of_shapes(lambda p: p.shape), _of_shapes(lambda p: p.texture), _of_creatures(lambda p: p.category))
_NUMBERS, _COUNT = ("one", "two", "three", "four"), _of_crowds(lambda p: p.count - 1)


def _between(names: Sequence[str], what: str, every: Sequence[str], family: Callable, **options):
    """A task between a few of the names: labels are positions in `names`."""
    position = torch.full((len(every),), -1)
    position[[every.index(n) for n in names]] = torch.arange(len(names))
    return tuple(names), family(lambda p: position[getattr(p, what)], **options)


_SHAPE_PAIRS = (("disc", "ring"), ("square", "cross"), ("triangle", "star"), ("disc", "square"), ("star", "cross"), ("triangle", "square"))
_CREATURE_SETS = (("cat", "dog"), ("rabbit", "fox"), ("bird", "fish"), ("car", "teapot", "lamp"), ("cat", "fox"), ("dog", "rabbit"))
_LONG_TAIL = tuple(0.6**i for i in range(len(CATEGORIES)))

# name -> (classes, draw(seed, rows, size) -> (images, labels), {split: relative frequency of every class})
_TOY: dict[str, tuple] = {
    **{f"{a} or {b}": (*_between((a, b), "shape", SHAPES, _of_shapes, shapes=(a, b)), {}) for a, b in _SHAPE_PAIRS},
    "shape": (SHAPES, _SHAPE, {}),
    "shape in noise": (SHAPES, _noisy(_SHAPE, 0.25), {}),
    "shape in the dark": (SHAPES, _dark(_SHAPE, 0.2), {}),
    "shape from afar": (SHAPES, _coarse(_SHAPE, 12), {}),
    "colour": (_HUES, _of_shapes(lambda p: p.colour), {}),
    "texture": (TEXTURES, _TEXTURE, {}),
    "texture in noise": (TEXTURES, _noisy(_TEXTURE, 0.2), {}),
    "large or small": (("small", "large"), _of_shapes(lambda p: (p.radius > 0.23 * p.image.shape[-1]).long()), {}),
    "which quarter": (("top left", "top right", "bottom left", "bottom right"),
                      _of_shapes(lambda p: ((p.position > p.image.shape[-1] / 2).long() * torch.tensor([1, 2])).sum(1)), {}),
    "how many": (_NUMBERS, _COUNT, {}),
    "how many, in noise": (_NUMBERS, _noisy(_COUNT, 0.25), {}),
    "more than two": (("one or two", "three or four"), _of_crowds(lambda p: (p.count > 2).long()), {}),
    "is there a star": (("no", "yes"), _of_crowds(lambda p: (p.shape == SHAPES.index("star")).any(1).long()), {}),
    "touching": (("apart", "touching"), _of_pairs(lambda p: p.touching.long()), {}),
    "same shape": (("different", "same"), _of_pairs(lambda p: (p.shape[:, 0] == p.shape[:, 1]).long()), {}),
    "same colour": (("different", "same"), _of_pairs(lambda p: (p.colour[:, 0] == p.colour[:, 1]).long()), {}),
    "colour of the smaller": (_HUES, _of_pairs(_smaller("colour")), {}),
    "shape of the smaller": (SHAPES, _of_pairs(_smaller("shape")), {}),
    "where is the larger": (("left", "right"), _of_pairs(lambda p: _order(p, 0)), {}),
    "larger above": (("above", "below"), _of_pairs(lambda p: _order(p, 1)), {}),
    **{" or ".join(names): (*_between(names, "category", CATEGORIES, _of_creatures, categories=names), {}) for names in _CREATURE_SETS},
    "category": (CATEGORIES, _CATEGORY, {}),
    "category in noise": (CATEGORIES, _noisy(_CATEGORY, 0.2), {}),
    "category behind a square": (CATEGORIES, _hidden(_CATEGORY, 0.45), {}),
    "kind": (tuple(_KINDS), _of_creatures(lambda p: _KIND_OF[p.category]), {}),
    "facing": (creatures.FACINGS, _of_creatures(lambda p: p.facing), {}),
    "photo or sketch": (creatures.STYLES, _of_creatures(lambda p: p.style, styles=creatures.STYLES), {}),
    "a creature's colour": (_HUES, _of_creatures(lambda p: p.colour), {}),
    "a creature's texture": (TEXTURES, _of_creatures(lambda p: p.texture), {}),
    "tilt": (("anticlockwise", "clockwise"), _of_creatures(lambda p: (p.angle > 0).long()), {}),
    "slim or stout": (("stout", "slim"), _of_creatures(lambda p: (p.traits[:, 0] > 0.5).long(), categories=_KINDS["animal on four legs"]), {}),
    "category, long tail": (CATEGORIES, _CATEGORY, {"train": _LONG_TAIL, "validation": _LONG_TAIL}),
    "category, shifted": (CATEGORIES, _CATEGORY, {"test": _LONG_TAIL[::-1]}),
    "shape, shifted": (SHAPES, _noisy(_SHAPE, 0.25), {"test": (8, 4, 2, 1, 1, 1)}),
}  # fmt: skip
TEXTURE_PHOTOGRAPHS = ("brick", "grass", "gravel", "tissue")
NAMES = (*_TOY, "digits", "real textures")  # a study's table rests on them: tasks that came later stand in FURTHER
VIEWS = ("astronaut", "camera", "cat", "coffee", "rocket", "coins", "clock", "galaxies", "retina", "tissue")
SURFACES = ("brick", "grass", "gravel", "moon", "galaxies", "retina", "tissue", "coins")
FURTHER = ("mnist", "faces", "photographs", "grey surfaces")  # real pictures too


# ------------------------------------------------------------------------------------------------------------------------- loading


def load(name: str, *, train: int = 400, validation: int = 200, test: int = 400, seed: int = 0, size: int = 64) -> Task:
    """A task of NAMES or FURTHER with so many pictures in each split, size x size px. Of "digits" there are at most 1078, 360 and 359, of "mnist" 3000, 1000
    and 1000, of "faces" 120, 40 and 40.

    Raises ValueError for an unknown name or too many pictures, TypeError for what is no whole number.
    """
    name, apart = choice("name", name, (*NAMES, *FURTHER)), _FIRST["validation"]
    counts = {split: integer(split, count, low=1, high=apart) for split, count in (("train", train), ("validation", validation), ("test", test))}
    seed, size = integer("seed", seed, low=0, high=_LAST_SEED), integer("size", size, low=32)
    if name in _GREY:
        return _grey(name, counts, seed, size)
    if name == "real textures":
        return _real_textures(counts, seed, size)
    if name in _PATCHES:
        return _patches(name, counts, seed, size)
    classes, draw, priors = _TOY[name]
    return Task(name, classes, **{split: _drawn(draw, classes, priors.get(split), seed, _FIRST[split], n, size) for split, n in counts.items()})


def _drawn(draw: Callable, classes, prior, seed: int, first: int, count: int, size: int) -> Pictures:
    """`count` pictures from number `first` on; with a prior, the first ones of each class that make up its frequencies."""
    if prior is None:
        parts = [draw(seed, range(start, min(start + _CHUNK, first + count)), size) for start in range(first, first + count, _CHUNK)]
        return Pictures(*(torch.cat(column) for column in zip(*parts, strict=True)))
    share = np.array(prior) / np.sum(prior)
    wanted = np.floor(share * count).astype(int)
    wanted[share.argmax()] += count - wanted.sum()
    images, labels, start = [], [], first
    while wanted.sum() > 0:
        some, their = draw(seed, range(start, start + _CHUNK), size)
        for image, label in zip(some, their.tolist()):
            if wanted[label] > 0:
                wanted[label] -= 1
                images.append(image)
                labels.append(label)
        start += _CHUNK
    return Pictures(torch.stack(images), torch.tensor(labels))


_GREY = {"digits": (tuple("0123456789"), real.digits), "mnist": (tuple("0123456789"), real.mnist), "faces": (("something else", "face"), real.faces)}


def _grey(name: str, counts: dict[str, int], seed: int, size: int) -> Task:
    """Small grey pictures, made larger, in three equal channels."""
    classes, of = _GREY[name]
    found = of(seed)
    splits, parts = {}, (found.train, found.val, found.test)
    for (split, count), part in zip(counts.items(), parts):
        if count > len(part):
            raise ValueError(f"{split} must be at most {len(part)} for {name}, got {count}")
    for (split, count), part in zip(counts.items(), parts):
        images = F.interpolate(part.images[:count], size=(size, size), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
        splits[split] = Pictures(images, part.labels[:count])
    return Task(name, classes, **splits)


def _real_textures(counts: dict[str, int], seed: int, size: int) -> Task:
    """Patches from the left half of each photograph (train), the third quarter (validation) and the last (test), turned by quarters and mirrored."""
    photos = real.photographs(TEXTURE_PHOTOGRAPHS)
    bounds, splits = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}, {}
    for number, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, number])
        labels, images = rng.permutation(np.arange(count) % len(photos)), []
        for label in labels:
            photo = photos[TEXTURE_PHOTOGRAPHS[label]]
            low, high = (int(bound * photo.shape[2]) for bound in bounds[split])
            side = min(size, high - low, photo.shape[1])
            x, y = rng.integers(low, high - side + 1), rng.integers(0, photo.shape[1] - side + 1)
            patch = torch.rot90(photo[:, y : y + side, x : x + side], int(rng.integers(4)), (1, 2))
            patch = patch.flip(2) if rng.random() < 0.5 else patch
            images.append(patch if side == size else F.interpolate(patch[None], size=(size, size), mode="bilinear")[0])
        splits[split] = Pictures(torch.stack(images), torch.from_numpy(labels).long())
    return Task("real textures", TEXTURE_PHOTOGRAPHS, **splits)


_PATCHES = {"photographs": VIEWS, "grey surfaces": SURFACES}
_STRIPS, _WIDEST = {"train": (0, 2, 4, 6), "validation": (1, 5), "test": (3, 7)}, 44  # of eight upright strips of a photograph; px of a patch


def _patches(name: str, counts: dict[str, int], seed: int, size: int) -> Task:
    """Which photograph a patch is cut from, every split from strips of its own; mirrored or not. Surfaces are turned by quarters as well, made grey, and
    brought to the same mean and contrast, so that brightness and colour tell nothing."""
    classes, splits = _PATCHES[name], {}
    photos = real.photographs(classes)
    for number, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, 10 + number])
        labels, images = rng.permutation(np.arange(count) % len(classes)), []
        for label in labels:
            photo = photos[classes[label]]
            strip, turns, mirrored = rng.choice(_STRIPS[split]), int(rng.integers(4)), rng.random() < 0.5
            low, high = (int(photo.shape[2] * edge / 8) for edge in (strip, strip + 1))
            side = min(_WIDEST, high - low)
            x, y = rng.integers(low, high - side + 1), rng.integers(0, photo.shape[1] - side + 1)
            patch = photo[:, y : y + side, x : x + side]
            patch = F.interpolate(patch[None], size=(size, size), mode="bilinear", antialias=True)[0]
            images.append(_surface(patch, turns) if name == "grey surfaces" else patch)
            images[-1] = images[-1].flip(2) if mirrored else images[-1]
        splits[split] = Pictures(torch.stack(images).clamp(0, 1), torch.from_numpy(labels).long())
    return Task(name, classes, **splits)


def _surface(patch: Tensor, turns: int) -> Tensor:
    grey = torch.rot90(patch.mean(0, keepdim=True), turns, (1, 2)).expand(3, -1, -1)
    return 0.5 + 0.18 * (grey - grey.mean()) / grey.std().clamp_min(0.01)
