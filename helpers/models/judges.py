"""Two small classifiers that say what a 64x64 picture of one creature or thing shows: category, facing, texture, colour, and where it is.

They judge generated pictures and were trained on renders of the toy world only, never on a generated picture.

    reading = judges.load().read(images)        # probabilities, mask, features: the mean of two judges of different seeds
    verdict = judges.judge(images, prompts)     # {"category": (B,) 1 right, 0 wrong, NaN where the prompt does not say it, ...}

Indices are those of the toy world's CATEGORIES, FACINGS, TEXTURES and COLOURS.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import checkout
from ..toyworld import CATEGORIES, COLOURS, FACINGS, TEXTURES, parse_creature_caption

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


def check_images(images: Tensor) -> Tensor:
    """Pictures (B, 3, 64, 64) in [0, 1] as float32; up to 0.001 beyond the range is rounding and let through.

    Raises TypeError for anything but a floating-point tensor, ValueError for another shape, none at all, NaN, or another range.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch tensor (B, 3, {SIZE}, {SIZE}), got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}")
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIZE, SIZE) or not len(images):
        raise ValueError(f"images must be (B, 3, {SIZE}, {SIZE}) and not empty, got {tuple(images.shape)}")
    if not torch.isfinite(images).all():
        raise ValueError("images hold NaN or infinite values, expected [0, 1]")
    if images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise ValueError(f"images must lie in [0, 1], got {images.min():.3g} to {images.max():.3g}")
    return images.detach().float()


def average(readings: Sequence[Reading]) -> Reading:
    """One reading of several judges' readings of the same pictures: mean probabilities and masks, features side by side.

    Raises ValueError when there is none or when they are of different numbers of pictures.
    """
    if len({len(reading) for reading in readings}) != 1:
        raise ValueError(f"readings must be one or more of the same pictures, got readings of {[len(reading) for reading in readings]} pictures")
    mean = {name: torch.stack([getattr(reading, name) for reading in readings]).mean(0) for name in (*CLASSES, "mask")}
    return Reading(**mean, features=torch.cat([reading.features for reading in readings], 1))


@dataclass
class Judges:
    """Judges of different seeds. unjudged_facings: categories whose left and right look too much alike to be told apart."""

    members: tuple[Judge, ...]
    unjudged_facings: tuple[str, ...] = ()

    @torch.no_grad()
    def read_each(self, images: Tensor, batch: int = 64) -> tuple[Reading, ...]:
        """Every judge's own reading of pictures (B, 3, 64, 64) in [0, 1], `batch` at a time, on the judges' device.

        Raises what `check_images` raises; TypeError or ValueError for a batch that is no whole number above 0.
        """
        if isinstance(batch, bool) or not isinstance(batch, int):
            raise TypeError(f"batch must be a whole number, got {batch!r}")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        images = check_images(images).to(next(self.members[0].parameters()).device)
        readings = []
        for member in self.members:
            parts = [member(some) for some in images.split(batch)]
            out = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            shares = {name: out[name].softmax(1) for name in CLASSES}
            readings.append(Reading(**shares, mask=out["mask"].sigmoid(), features=out["features"]))
        return tuple(readings)

    def read(self, images: Tensor, batch: int = 64) -> Reading:
        """The mean of all judges' readings; arguments and errors as in `read_each`."""
        return average(self.read_each(images, batch))


def load(folder: Path = FOLDER, device: str | torch.device = "cpu") -> Judges:
    """The two trained judges, float32. Raises FileNotFoundError when they are not there."""
    folder = Path(folder)
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
    """Whether B pictures, as read, show what their prompts say: category, facing, texture, colour and all, each (B,) float on the CPU.

    1 right, 0 wrong, NaN where the prompt does not say it; `all`: everything judged is right. A facing is not judged where the prompt's
    category is among `unjudged_facings`. The style and the ground that a prompt names are not judged. Raises TypeError for prompts that
    are not texts, ValueError for one that the toy world cannot read and where there are more or fewer than pictures.
    """
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a list of texts, one a picture, got the text {prompts!r}")
    prompts = list(prompts)
    if len(prompts) != len(reading):
        raise ValueError(f"prompts: {len(prompts)} for {len(reading)} images, expected one a picture")
    seen = {name: getattr(reading, name).argmax(1).tolist() for name in CLASSES}
    verdict = {name: torch.full((len(prompts),), torch.nan) for name in (*CLASSES, "all")}
    for i, prompt in enumerate(prompts):
        said = parse_creature_caption(prompt)
        hidden = CATEGORIES[said["category"]] in unjudged_facings
        judged = [name for name in CLASSES if said[name] is not None and not (name == "facing" and hidden)]
        for name in judged:
            verdict[name][i] = float(seen[name][i] == said[name])
        verdict["all"][i] = float(all(seen[name][i] == said[name] for name in judged))
    return verdict


def judge(images: Tensor, prompts: Sequence[str], judges: Judges | None = None) -> dict[str, Tensor]:
    """`compare` of pictures (B, 3, 64, 64) in [0, 1] with their prompts, by `judges` (None: the trained ones); errors as there and in `read_each`."""
    judges = load() if judges is None else judges
    return compare(judges.read(images), prompts, unjudged_facings=judges.unjudged_facings)


def overlap(found: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union (B,) of masks (B, H, W); probabilities count from 0.5. Two empty masks agree: 1. Raises ValueError if shapes differ."""
    if found.shape != mask.shape:
        raise ValueError(f"found {tuple(found.shape)} must match mask {tuple(mask.shape)}")
    a, b = found > 0.5, mask > 0.5
    either = (a | b).sum((1, 2))
    return torch.where(either > 0, (a & b).sum((1, 2)) / either.clamp_min(1), 1.0)
