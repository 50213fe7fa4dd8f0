"""Two small classifiers that say what a 64x64 picture of one creature or thing shows: category, facing, texture, colour, and where it is.

They judge generated pictures and were trained on renders of the toy world only, never on a generated picture.

    reading = judges.load().read(images)        # probabilities, mask, features: the mean of two judges of different seeds
    verdict = judges.judge(images, prompts)     # {"category": (B,) 1 right, 0 wrong, NaN where the prompt does not say it, ...}

Indices are those of the toy world's CATEGORIES, FACINGS, TEXTURES and COLOURS.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import checkout
from ..arguments import choice, got, instance, integer, like, numbers, texts
from ..toyworld import CATEGORIES, COLOURS, FACINGS, TEXTURES, parse_creature_caption

__all__ = ["CLASSES", "MEMBERS", "SIZE", "Judge", "Judges", "Reading", "average", "compare", "judge", "load", "overlap"]

FOLDER = checkout.ROOT / "data" / "models" / "toy-judge"
SIZE = 64
MEMBERS = 2
CLASSES = {"category": len(CATEGORIES), "facing": len(FACINGS), "texture": len(TEXTURES), "colour": len(COLOURS)}
_WIDTHS, _FEATURES, _GROUPS = (24, 48, 80, 112), 96, 8


@dataclass
class Reading:
    """What B pictures show. category (B, 9), facing (B, 2), texture (B, 4), colour (B, 8): probabilities; mask (B, 64, 64) in [0, 1]: probability
    that a pixel belongs to the object; features (B, D): the layer below the answers, for nearest neighbours."""

    category: Tensor
    facing: Tensor
    texture: Tensor
    colour: Tensor
    mask: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.category)


class _Convolution(nn.Module):
    """Convolution, GroupNorm, ReLU; kernel 4 halves the picture, kernel 3 keeps its size."""

    def __init__(self, inside: int, outside: int, kernel: int = 3):
        super().__init__()
        self.convolution = nn.Conv2d(inside, outside, kernel, stride=2 if kernel == 4 else 1, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, outside)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(x)))


class Judge(nn.Module):
    """One judge: four stride-2 convolutions, four linear answers, and a light decoder of the mask with skips (0.35 M parameters)."""

    def __init__(self):
        super().__init__()
        one, two, three, four = _WIDTHS
        self.down = nn.ModuleList(_Convolution(i, o, 4) for i, o in zip((3, one, two, three), _WIDTHS))
        self.more = _Convolution(three, three)  # once more at 8x8, where an ear is still an ear
        self.hidden = nn.Linear(three + 2 * four, _FEATURES)
        self.answers = nn.ModuleDict({name: nn.Linear(_FEATURES, count) for name, count in CLASSES.items()})
        self.across = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in ((four, 48), (three, 48), (two, 24), (one, 24)))
        self.up = nn.ModuleList(_Convolution(i, o) for i, o in ((48, 24), (24, 24), (24, 24)))
        self.mask = nn.Conv2d(24, 4, 3, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, 64, 64) in [0, 1] -> logits of each answer (B, n), of the mask (B, 64, 64), and features (B, D)."""
        x, levels = images * 4 - 2, []
        for k, down in enumerate(self.down):
            x = down(x)
            if k == 2:
                x = x + self.more(x)
            levels.append(x)
        half, quarter, eighth, last = levels
        features = F.relu(self.hidden(torch.cat([eighth.mean((2, 3)), last.mean((2, 3)), last.amax((2, 3))], 1)))
        out = {name: answer(features) for name, answer in self.answers.items()}
        y = self.across[0](last)
        for level, across, up in zip((eighth, quarter, half), self.across[1:], self.up):
            y = up(F.interpolate(y, scale_factor=2.0) + across(level))
        out["mask"] = F.pixel_shuffle(self.mask(y), 2)[:, 0]  # four logits a cell of the 32x32 level: the four pixels it covers
        return out | {"features": features}


# ------------------------------------------------------------------------------------------------------------------------------ reading


def _checked(images) -> Tensor:
    """Pictures (B, 3, 64, 64) in [0, 1] as float32; up to 0.001 beyond the range is rounding and let through.

    Raises TypeError for anything but floating-point numbers, ValueError for another shape, none at all, NaN, or another range.
    """
    found = numbers("images", images, f"B 3 {SIZE} {SIZE}", low=-1e-3, high=1 + 1e-3)
    if not found.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {got(images)}")
    return found.float()


def _shares(reading: Reading, names: Sequence[str], argument: str) -> dict[str, Tensor]:
    """The probabilities of a reading, checked; all of as many pictures."""
    instance(argument, reading, Reading, "a Reading")
    shapes, sizes = {name: f"B {count}" for name, count in CLASSES.items()} | {"mask": f"B {SIZE} {SIZE}", "features": "B D"}, {}
    bounds = {name: (None, None) if name == "features" else (-1e-3, 1 + 1e-3) for name in names}
    return {name: numbers(f"{argument}.{name}", getattr(reading, name), shapes[name], sizes, low=bounds[name][0], high=bounds[name][1]) for name in names}


def average(readings: Sequence[Reading]) -> Reading:
    """One reading of several judges' readings of the same pictures: mean probabilities and masks, features side by side.

    Raises ValueError when there is none or when they are of different numbers of pictures, TypeError for what are no readings.
    """
    if not isinstance(readings, (list, tuple)):
        raise TypeError(f"readings must be a list of Readings, got {got(readings)}")
    parts = [_shares(reading, (*CLASSES, "mask", "features"), "readings") for reading in readings]
    if len({len(part["category"]) for part in parts}) != 1:
        raise ValueError(f"readings must be one or more of the same pictures, got readings of {[len(part['category']) for part in parts]} pictures")
    return _like(readings[0].category, _average(parts))


def _average(parts: Sequence[dict[str, Tensor]]) -> Reading:
    mean = {name: torch.stack([part[name] for part in parts]).mean(0) for name in (*CLASSES, "mask")}
    return Reading(**mean, features=torch.cat([part["features"] for part in parts], 1))


def _like(given, reading: Reading) -> Reading:
    """A reading of the kind that pictures came in."""
    return Reading(**{name: like(given, value) for name, value in vars(reading).items()})


@dataclass
class Judges:
    """Judges of different seeds. unjudged_facings: categories whose left and right look too much alike to be told apart."""

    members: tuple[Judge, ...]
    unjudged_facings: tuple[str, ...] = ()

    @torch.no_grad()
    def read_each(self, images: Tensor, batch: int = 64) -> tuple[Reading, ...]:
        """Every judge's own reading of pictures (B, 3, 64, 64) in [0, 1], `batch` at a time; tensors where the pictures lie, numpy for numpy.

        Up to 0.001 beyond the range is rounding and let through. Raises TypeError for anything but floating-point numbers and for a batch that is no whole
        number, ValueError for another shape, none at all, NaN, another range, and a batch below 1.
        """
        return tuple(_like(images, reading) for reading in self._read(_checked(images), integer("batch", batch, low=1)))

    def _read(self, images: Tensor, batch: int) -> list[Reading]:
        images = images.to(next(self.members[0].parameters()))
        readings = []
        for member in self.members:
            parts = [member(some) for some in images.split(batch)]
            out = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            shares = {name: out[name].softmax(1) for name in CLASSES}
            readings.append(Reading(**shares, mask=out["mask"].sigmoid(), features=out["features"]))
        return readings

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 64) -> Reading:
        """The mean of all judges' readings; arguments and errors as in `read_each`."""
        readings = self._read(_checked(images), integer("batch", batch, low=1))
        return _like(images, _average([vars(reading) for reading in readings]))


def load(folder: Path = FOLDER, device: str | torch.device = "cpu") -> Judges:
    """The two trained judges, float32. Raises FileNotFoundError when they are not there."""
    folder = Path(instance("folder", folder, (str, os.PathLike), "a path"))
    try:
        device = torch.device(instance("device", device, (str, torch.device), "a torch device"))
    except RuntimeError as error:
        raise ValueError(f"device must be a torch device such as 'cpu' or 'cuda', got {got(device)}") from error
    if not (folder / "config.json").exists():
        if folder == FOLDER:
            checkout.require("judges.load")
        raise FileNotFoundError(f"the judges are not in {folder}; make them with: make model NAME=toy-judge")
    members = []
    for k in range(MEMBERS):
        member = Judge()
        member.load_state_dict(load_file(folder / f"judge-{k}.safetensors"))  # half precision, copied into float32
        members.append(member.to(device).eval().requires_grad_(False))
    return Judges(tuple(members), tuple(json.loads((folder / "config.json").read_text())["unjudged_facings"]))


# ------------------------------------------------------------------------------------------------------------------------------ judging


def compare(reading: Reading, prompts: Sequence[str], *, unjudged_facings: Sequence[str] = ()) -> dict[str, Tensor]:
    """Whether B pictures, as read, show what their prompts say: category, facing, texture, colour and all, each (B,) float, of the reading's kind and place.

    1 right, 0 wrong, NaN where the prompt does not say it; `all`: everything judged is right. A facing is not judged where the prompt's
    category is among `unjudged_facings`. The style and the ground that a prompt names are not judged. Raises TypeError for prompts that
    are not texts, ValueError for one that the toy world cannot read and where there are more or fewer than pictures.
    """
    found = _shares(reading, tuple(CLASSES), "reading")
    said, blind = _said(prompts, len(found["category"])), _categories(unjudged_facings)
    return {name: like(reading.category, values) for name, values in _compare(found, said, blind).items()}


def _said(prompts: Sequence[str], count: int) -> list[dict]:
    """What every prompt says, one a picture."""
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a list of texts, one a picture, got the text {prompts!r}")
    listed = prompts.tolist() if hasattr(prompts, "tolist") else prompts
    if not isinstance(listed, (list, tuple)):
        raise TypeError(f"prompts must be a list of texts, one a picture, got {got(prompts)}")
    if len(listed) != count:
        raise ValueError(f"prompts: {len(listed)} for {count} images, expected one a picture of the reading")
    said = []
    for prompt in listed:
        try:
            said.append(parse_creature_caption(prompt))
        except (TypeError, ValueError) as error:
            raise type(error)(f"prompts must be texts that the toy world can draw: {error}") from error
    return said


def _categories(unjudged_facings: Sequence[str]) -> list[str]:
    if isinstance(unjudged_facings, str):
        raise TypeError(f"unjudged_facings must be a list of categories, got the text {unjudged_facings!r}")
    if isinstance(unjudged_facings, (list, tuple)) and not unjudged_facings:
        return []
    return [choice("unjudged_facings", name, CATEGORIES) for name in texts("unjudged_facings", unjudged_facings)]


def _compare(found: dict[str, Tensor], said: list[dict], blind: Sequence[str]) -> dict[str, Tensor]:
    seen = {name: found[name].argmax(1).tolist() for name in CLASSES}
    verdict = {name: torch.full((len(said),), torch.nan) for name in (*CLASSES, "all")}
    for i, words in enumerate(said):
        hidden = CATEGORIES[words["category"]] in blind
        judged = [name for name in CLASSES if words[name] is not None and not (name == "facing" and hidden)]
        for name in judged:
            verdict[name][i] = float(seen[name][i] == words[name])
        verdict["all"][i] = float(all(seen[name][i] == words[name] for name in judged))
    return verdict


def judge(images: Tensor, prompts: Sequence[str], judges: Judges | None = None) -> dict[str, Tensor]:
    """`compare` of pictures (B, 3, 64, 64) in [0, 1] with their prompts, by `judges` (None: the trained ones); errors as there and in `read_each`."""
    _said(prompts, len(_checked(images)))
    judges = load() if judges is None else instance("judges", judges, Judges, "Judges")
    return compare(judges.read(images), prompts, unjudged_facings=judges.unjudged_facings)


def overlap(found: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union (B,) of masks (B, H, W); probabilities count from 0.5. Two empty masks agree: 1. Raises ValueError if shapes differ."""
    a, b = (numbers(name, value, "B H W", low=0, high=1, masks=True) for name, value in (("found", found), ("mask", mask)))
    if a.shape != b.shape:
        raise ValueError(f"found {tuple(a.shape)} must match mask {tuple(b.shape)}")
    a, b = a > 0.5, b.to(a.device) > 0.5
    either = (a | b).sum((1, 2))
    return like(found, torch.where(either > 0, (a & b).sum((1, 2)) / either.clamp_min(1), 1.0))
