"""The recognition bench: every network learns from the same pictures in the same order, and is asked the same afterwards.

    data = pictures("scenes 32", seed=0)
    model = fit(backbones.make("FAN", size=32, classes=6, seed=0), data, seed=0)
    predict(model, data.test.images)                # classes (N,)
    by_size(right, data.test.sides)                 # accuracy in % by fifths of the things' sizes
    grouping(model, data.test.images[:50], data.test.masks[:50])

Data are looked up by name and seed. Test pictures are the same for all seeds, so that what seeds differ in is training alone: its pictures (of scenes; the digits are
the same ones), their order, how far each is moved, and the start.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import choice, instance, integer, numbers, real
from ..datasets import real as real_pictures
from ..methods import fully_attentional
from ..toyworld.gatherings import gatherings

__all__ = ["BINS", "CREATURES", "DATA", "RECIPES", "Data", "Examples", "by_size", "fit", "grouping", "learning_rates", "moved", "order", "pictures", "predict"]

CREATURES = ("cat", "bird", "fish", "car", "teapot", "lamp")
_SCENES = dict(categories=CREATURES, textures="plain", backgrounds=("black", "navy"))
_TEST_SEED = 10**6
DATA = {  # name -> side of the pictures in px, how many to learn from and to be tested on, and of scenes the sizes of things
    "scenes 32": dict(size=32, train=16000, test=3000, smallest=0.3, largest=0.8),
    "scenes 64": dict(size=64, train=16000, test=3000, smallest=0.15, largest=0.7),
    "digits": dict(size=32, train=4000, test=1000),
}
RECIPES = {"plain": dict(batch=64, rate=3e-3, decay=0.05, warm_up=0.1, shift=2, clip=1.0)}
STEPS = {"scenes 32": 1200, "scenes 64": 1200, "digits": 600}
BINS = 5


@dataclass
class Examples:
    """images (N, 3, S, S) float32 in [0, 1]; labels (N,) int64; masks (N, S, S) int64: 0 background, 1 the thing that is asked for, 2 and 3 other things;
    sides (N,): the longer side in px of the square around that thing."""

    images: Tensor
    labels: Tensor
    masks: Tensor
    sides: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Data:
    """What a network learns from and what it is tested on."""

    name: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples


def pictures(name: str, *, seed: int) -> Data:
    """One of DATA: "scenes 32" and "scenes 64", scenes of one to three things of 32 and 64 px and the question which creature is among them (CREATURES); "digits",
    MNIST's in a black frame, where the ink is the mask. Raises ValueError or TypeError for another name or seed."""
    made, seed = DATA[choice("name", name, tuple(DATA))], integer("seed", seed, low=0, high=_TEST_SEED - 1)
    if name == "digits":
        return _digits(name)
    options = {key: made[key] for key in ("size", "smallest", "largest")} | _SCENES
    return Data(name, CREATURES, *(_scenes(first, made[part], options) for first, part in ((seed, "train"), (_TEST_SEED, "test"))))


def _scenes(seed: int, count: int, options: dict) -> Examples:
    drawn = gatherings(seed, range(count), **options)
    places = torch.tensor([list(real_categories()).index(name) for name in CREATURES])
    labels = (drawn.category[:, None] == places).int().argmax(1)
    return Examples(drawn.image, labels, drawn.object_id, drawn.side[:, 0].float())


def real_categories():
    from ..toyworld.skeletons import CATEGORIES

    return CATEGORIES


def _digits(name: str) -> Data:
    parts = real_pictures.mnist(0)
    halves = []
    for some in ((parts.train, parts.val), (parts.test,)):
        images = F.pad(torch.cat([part.images for part in some]), (2, 2, 2, 2))
        ink = images[:, 0] > 0.5
        sides = torch.maximum(*(ink.any(axis).sum(1) for axis in (1, 2))).float()
        halves.append(Examples(images.expand(-1, 3, -1, -1).contiguous(), torch.cat([part.labels for part in some]), ink.long(), sides))
    return Data(name, tuple(map(str, range(10))), *halves)


# -------------------------------------------------------------------------------------------------------------------------- training


def order(examples: int, *, steps: int, batch: int, seed: int) -> Tensor:
    """Which examples each step sees, (steps, batch): passes over all of them, each in an order of its own."""
    drawn = np.random.default_rng((seed, 0))
    rows = np.concatenate([drawn.permutation(examples) for _ in range(-(-steps * batch // examples))])
    return torch.from_numpy(rows[: steps * batch]).view(steps, batch)


def moved(images: Tensor, by: Tensor) -> Tensor:
    """Pictures (N, C, S, S), each moved by its own (rows, columns) of whole px (N, 2); what comes in repeats the border."""
    at = torch.arange(images.shape[-1])
    rows, columns = ((at - by[:, axis, None]).clamp(0, images.shape[-1] - 1) for axis in (0, 1))
    return images[torch.arange(len(images))[:, None, None, None], torch.arange(images.shape[1])[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def learning_rates(steps: int, *, rate: float, warm_up: float) -> np.ndarray:
    """The learning rate of each step: linear up to `rate` over a share `warm_up` of the steps, then down to nearly 0 along half a cosine."""
    n, warm = np.arange(steps), max(1, round(warm_up * steps))
    return rate * np.where(n < warm, (n + 1) / warm, 0.5 * (1 + np.cos(np.pi * (n - warm) / max(1, steps - warm))))


def fit(model: nn.Module, data: Data, *, seed: int, steps: int | None = None, recipe: str = "plain") -> nn.Module:
    """`model` itself, trained with AdamW and cross-entropy, and in eval mode. The order of the examples and their moves follow the seed alone.

    steps: None for those of the bench; 0 leaves the model as it was. Numbers with one axis take no weight decay. Raises ValueError or TypeError.
    """
    made = RECIPES[choice("recipe", recipe, tuple(RECIPES))]
    steps = STEPS[data.name] if steps is None else steps
    flat, rest = ([p for p in model.parameters() if (p.ndim < 2) is few] for few in (True, False))
    optimiser = torch.optim.AdamW([dict(params=rest, weight_decay=made["decay"]), dict(params=flat, weight_decay=0.0)], lr=made["rate"])
    rows = order(len(data.train), steps=steps, batch=made["batch"], seed=seed) if steps else ()
    moves = torch.from_numpy(np.random.default_rng((seed, 1)).integers(-made["shift"], made["shift"], (steps, made["batch"], 2), endpoint=True))
    model.train()
    for some, by, rate in zip(rows, moves, learning_rates(steps, rate=made["rate"], warm_up=made["warm_up"])):
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(model(moved(data.train.images[some], by)), data.train.labels[some])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), made["clip"])
        optimiser.step()
    return model.eval()


# ------------------------------------------------------------------------------------------------------------------------- questions


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, *, batch: int = 250) -> Tensor:
    """The classes (N,) that a network says of pictures (N, 3, S, S)."""
    return torch.cat([model(some).argmax(1) for some in images.split(batch)])


def by_size(right, sides) -> Tensor:
    """Accuracy in % by fifths of the things' sizes, smallest first: right (N,) bool, sides (N,) px -> (5,)."""
    ranks = sides.argsort(stable=True)
    return torch.stack([100 * right[some].float().mean() for some in ranks.tensor_split(BINS)])


@torch.no_grad()
def grouping(model: nn.Module, images: Tensor, masks: Tensor, *, seed: int = 0) -> np.ndarray:
    """Adjusted Rand index, (N,), of spectral clusters of a network's tokens against the true things: as many clusters as things are seen, background included.

    masks (N, S, S) of whole numbers; a token stands for the middle of its cell... 
    """
    found = []
    for tokens, mask in zip(model.tokens(images), masks, strict=True):
        side = int(len(tokens) ** 0.5)
        cell = mask.shape[-1] // side
        cells = mask.unflatten(0, (side, cell)).unflatten(2, (side, cell)).transpose(1, 2).flatten(2).flatten(0, 1)  # (N, cell * cell)
        true = cells.mode(1).values
        if len(true.unique()) < 2:
            found.append(np.nan)
            continue
        labels = fully_attentional.group_tokens(fully_attentional.token_affinity(tokens), len(true.unique()), seed=seed)
        found.append(fully_attentional.group_scores(labels, true).ari)
    return np.array(found)
