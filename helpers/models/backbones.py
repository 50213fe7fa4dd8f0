"""Small networks of one size for the recognition bench: a vision transformer, a CNN, fully attentional and shunted networks, and twins of these.

    model = make("FAN", size=32, classes=6, seed=0)  # pictures (B, 3, S, S) in [0, 1] -> logits (B, classes)
    model.tokens(pictures)                           # (B, 64, C) on a grid of 8 x 8, behind the last block
    load("FAN", data="scenes 32")                    # one of TRAINED, as the recipe toy-bench has trained it

NAMES are those of pictures of 32 px, and of 64 px, most of them with about 0.15 and 0.45 million parameters. Twins start alike: what they share by name and
shape has the same numbers at first (TWIN_OF). What a network needs in order to learn at all in the bench's steps goes with its family: `Backbone.rate` is its
learning rate; linear maps and patches start with deviation 1 / sqrt(inputs), since the usual 0.02 is made for widths of several hundred, but for the pyramids,
which learn with their authors' start and hardly with this one.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from .. import checkout
from ..arguments import choice, got, instance, integer
from ..methods import fully_attentional, shunted_attention

__all__ = ["NAMES", "RATES", "SIZES", "TRAINED", "TWIN_OF", "Backbone", "file_of", "load", "make"]

SIZES = (32, 64)
RATES = {"pyramid": 1.5e-3, "other": 3e-3}
GRID = 8  # places a side of what `tokens` gives
FOLDER = checkout.ROOT / "data" / "models" / "toy-bench"
TRAINED = {"scenes 32": ("ViT", "CNN", "FAN", "FAN, no gate")}  # by the data of the bench: the networks whose weights are kept, all with the seed 0


# ------------------------------------------------------------------------------------------------------------------------ references


class CNN(nn.Module):
    """Six 3x3 convolutions with BatchNorm and ReLU, those that keep the width around a shortcut; the mean over places; a linear map.

    stride: the first one's; three of the others halve the map, the last of them behind `tokens`.
    """

    def __init__(self, widths: tuple[int, int, int, int], classes: int, stride: int = 1):
        super().__init__()
        a, b, c, d = widths
        steps = ((3, a, stride), (a, b, 2), (b, b, 1), (b, c, 2), (c, c, 1), (c, d, 2))
        self.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()) for i, o, s in steps)
        self.head = nn.Linear(d, classes)

    def maps(self, images: Tensor) -> Tensor:
        """(B, C, H, W) before the last halving."""
        for layer in self.layers[:-1]:
            found = layer(images)
            images = images + found if found.shape == images.shape else found
        return images

    def tokens(self, images: Tensor) -> Tensor:
        return self.maps(images).flatten(2).mT

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers[-1](self.maps(images)).mean((2, 3)))


class ViT(nn.Module):
    """transformers' `ViTModel` without dropout, the mean over the patches' tokens, a linear map. local: a depthwise 3x3 convolution in every MLP."""

    def __init__(self, size: int, classes: int, *, patch: int, width: int, depth: int, heads: int, local: bool = False):
        super().__init__()
        config = ViTConfig(
            image_size=size, patch_size=patch, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.network, self.head = ViTModel(config, add_pooling_layer=False), nn.Linear(width, classes)
        if local:
            for layer in self.network.layers:
                layer.mlp = LocalMLP(width, 4 * width, size // patch)

    def tokens(self, images: Tensor) -> Tensor:
        return self.network(images).last_hidden_state[:, 1:]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tokens(images).mean(1))


class LocalMLP(nn.Module):
    """fc2(GELU(u + depthwise 3x3(u))) with u = fc1(x), the convolution on the grid of the patches; the class token, which is first, has none."""

    def __init__(self, width: int, hidden: int, grid: int):
        super().__init__()
        self.fc1, self.fc2, self.grid = nn.Linear(width, hidden), nn.Linear(hidden, width), grid
        self.local = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        u = self.fc1(x)
        near = self.local(u[:, 1:].mT.unflatten(2, (self.grid, self.grid))).flatten(2).mT
        return self.fc2(F.gelu(u + F.pad(near, (0, 0, 1, 0))))


# -------------------------------------------------------------------------------------------------------------------------- networks

_FAN = dict(width=48, depth=3, heads=2, class_blocks=1)
_SHUNTED = dict(widths=(32, 48, 64, 96), heads=(2, 2, 4, 4), depths=(1, 1, 2, 1), num_conv=0, drop_path=0.0, image_size=64, stem_stride=4)
_TWO = dict(rates=((4, 2), (2, 1), (2, 1), (1,)), mlp_ratios=4)
_COARSE, _FINE = dict(rates=(4, 2, 2, 1), mlp_ratios=(6, 5, 4, 4)), dict(rates=(2, 1, 1, 1), mlp_ratios=(4, 4, 4, 8))  # what makes their costs that of _TWO
_BARE = dict(local="none", detail="none")


def _fan(**options) -> Callable[[int, int], nn.Module]:
    return lambda size, classes: fully_attentional.FAN(image_size=size, patch_size=size // GRID, classes=classes, **_FAN, **options)


def _shunted(layout: dict, **options) -> Callable[[int, int], nn.Module]:
    kind = shunted_attention.Shunted if layout is _TWO else shunted_attention.Pyramid
    return lambda size, classes: kind(**_SHUNTED, **layout, classes=classes, **options)


NAMES: dict[int, dict[str, Callable[[int, int], nn.Module]]] = {
    32: {
        "ViT": lambda size, classes: ViT(size, classes, patch=4, width=48, depth=5, heads=2),
        "ViT, depthwise": lambda size, classes: ViT(size, classes, patch=4, width=48, depth=5, heads=2, local=True),
        "CNN": lambda size, classes: CNN((28, 40, 72, 80), classes),
        "FAN": _fan(),
        "FAN, no gate": _fan(channel="mlp"),
        "FAN, mean gate": _fan(gate="mean"),
        "FAN, SE": _fan(channel="se"),
        "FAN, plain MLP": _fan(channel="mlp", value="plain"),
    },
    64: {
        "ViT": lambda size, classes: ViT(size, classes, patch=8, width=76, depth=6, heads=2),
        "ViT, equal cost": lambda size, classes: ViT(size, classes, patch=8, width=52, depth=6, heads=2),
        "CNN": lambda size, classes: CNN((40, 60, 124, 160), classes, 2),
        "shunted": _shunted(_TWO),
        "one rate, coarse": _shunted(_COARSE),
        "one rate, fine": _shunted(_FINE),
        "shunted, bare": _shunted(_TWO, **_BARE),
        "one rate, coarse, bare": _shunted(_COARSE, **_BARE),
        "one rate, fine, bare": _shunted(_FINE, **_BARE),
    },
}


TWIN_OF = dict.fromkeys(("FAN, no gate", "FAN, mean gate", "FAN, SE", "FAN, plain MLP"), "FAN") | {"ViT, depthwise": "ViT"}
TWIN_OF |= dict.fromkeys(("one rate, coarse", "one rate, fine", "shunted, bare", "one rate, coarse, bare", "one rate, fine, bare"), "shunted")


class Backbone(nn.Module):
    """A network of NAMES for pictures (B, 3, S, S) in [0, 1], which it is given as 4 x - 2. image_size: S; rate: the learning rate of its family."""

    def __init__(self, body: nn.Module, image_size: int):
        super().__init__()
        self.body, self.image_size = body, image_size
        self.rate = RATES["pyramid" if isinstance(body, shunted_attention.Shunted) else "other"]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.body(self._scaled(images))

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 64, C) on a grid of 8 x 8: behind the last block, of a pyramid behind the stage that has such a grid, of the CNN before its last halving."""
        scaled = self._scaled(images)
        if isinstance(self.body, shunted_attention.Shunted):
            return next(maps for maps in self.body.maps(scaled) if maps.shape[-1] == GRID).flatten(2).mT
        return self.body.features(scaled) if isinstance(self.body, fully_attentional.FAN) else self.body.tokens(scaled)

    @property
    def classes(self) -> int:
        """How many logits it gives."""
        return (self.body.classifier if isinstance(self.body, shunted_attention.Shunted) else self.body.head).out_features

    @property
    def first_middle(self) -> float:
        """Where the middle of token (0, 0) lies, in px down and to the right of the middle of px (0, 0). Patches lie on their cells; convolutions of stride 2
        with a border of 1 px (3 px of 7 x 7) stay on the first px, and the stem of a pyramid ends with one of 2 x 2, which has none."""
        if isinstance(self.body, ViT):
            return (self.image_size / GRID - 1) / 2
        return 1.0 if isinstance(self.body, shunted_attention.Shunted) else 0.0

    def of(self, method: str, images: Tensor):
        """What a method of the network itself, such as `attention_maps`, makes of pictures in [0, 1]; a network that it gives is a Backbone too."""
        if not isinstance(method, str) or not callable(getattr(self.body, method, None)):
            raise (ValueError if isinstance(method, str) else TypeError)(f"method must be one of the network's own, got {got(method)}")
        found = getattr(self.body, method)(self._scaled(images))
        return Backbone(found, self.image_size).train(found.training) if isinstance(found, nn.Module) else found

    def _scaled(self, images: Tensor) -> Tensor:
        expected = f"a floating-point tensor (B, 3, {self.image_size}, {self.image_size})"
        if not isinstance(images, Tensor) or not images.is_floating_point():
            raise TypeError(f"images must be {expected}, got {got(images)}")
        if images.ndim != 4 or images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(f"images must be {expected}, got shape {tuple(images.shape)}")
        return 4 * images.to(next(self.parameters())) - 2


def make(name: str, *, size: int, classes: int, seed: int) -> Backbone:
    """A network with the random weights of a seed; torch's own generator is left as it was.

    name: one of NAMES[size]; size: 32 or 64, the side of the pictures in px. Raises ValueError or TypeError for anything else.
    """
    if (size := integer("size", size)) not in SIZES:
        raise ValueError(f"size must be one of {', '.join(map(str, SIZES))}, got {size}")
    name = choice("name", name, tuple(NAMES[size]))
    classes, seed = integer("classes", classes, low=2), integer("seed", seed, low=0, high=2**63 - 1)
    model = _drawn(name, size, classes, seed)
    if name in TWIN_OF:
        shared, own = _drawn(TWIN_OF[name], size, classes, seed).state_dict(), model.state_dict()
        model.load_state_dict({key: shared[key] if key in shared and shared[key].shape == value.shape else value for key, value in own.items()})
    return model


def _drawn(name: str, size: int, classes: int, seed: int) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Backbone(NAMES[size][name](size, classes), size)
        for module in () if isinstance(model.body, shunted_attention.Shunted) else model.modules():
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == module.stride != (1, 1)):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
    return model


def file_of(name: str, data: str) -> str:
    """The file of a trained network, one of TRAINED[data], within the folder of toy-bench. Raises ValueError or TypeError for another."""
    name = choice("name", name, TRAINED[choice("data", data, TRAINED)])
    return f"{name} {data}".lower().replace(",", "").replace(" ", "-") + ".safetensors"


def load(name: str, *, data: str, folder: str | Path = FOLDER) -> Backbone:
    """A network that the bench trained with the seed 0, in eval mode. name: one of TRAINED[data]; folder: where toy-bench lies.

    Raises ValueError or TypeError for another name, FileNotFoundError, saying how to make it, where its file is not there.
    """
    file = Path(instance("folder", folder, (str, Path), "a path")) / file_of(name, data)
    if not file.exists():
        checkout.require("toy-bench")
        raise FileNotFoundError(f"{file.name} of toy-bench is not there; `make model NAME=toy-bench` trains it")
    state = load_file(file)
    head = state["body.head.bias" if "body.head.bias" in state else "body.classifier.bias"]
    model = make(name, size=int(data.split()[-1]), classes=len(head), seed=0)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    return model.eval()
