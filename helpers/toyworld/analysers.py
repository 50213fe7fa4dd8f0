"""Read pictures and clips of the family *shapes* back: which shape, which colour, where, moving where and how fast.

Written for generated pictures too: nothing is learned, every step is geometry. The grounds of the family are grey and its objects
saturated, so the colour opponent part of a pixel, RGB minus its mean, tells how much of which object it shows.

Confidences lie in [0, 1]: colour, the share of the coloured matter that has this hue; shape, a softmax over the fit of each outline;
direction and speed, the probability that the true value lies in the class that was read, if positions err as the track's own scatter says.
"""

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import got, integer, like, numbers, texts
from .render import plain_background, render
from .shapes import COLOUR_TABLE, DIRECTIONS, FAST_ABOVE, SHAPES, STILL_BELOW, parse, shape_parts, symmetry

__all__ = ["ClipReading", "Judgement", "PictureReading", "analyse_clips", "analyse_pictures", "analyse_two_objects", "camera_motion", "judge"]

_CANON, _WINDOW = 20, 2.1  # outlines are compared on a 20x20 grid reaching 2.1 r.m.s. radii from the centre
_TEMPERATURE = 0.02
_LEAST_MASS = 4.0  # px of coloured matter under which a frame counts as empty
_ITERATIONS = 8  # of the search for the camera's motion
_POSITION_ERROR = 0.08  # px: what a centroid errs by even on a clean render


@dataclass
class PictureReading:
    """What B pictures show: shape, colour (B,) indices into SHAPES, COLOURS; position (B, 2) x, y in px; radius (B,) r.m.s. radius in px;
    found (B,) bool; shape_confidence, colour_confidence, position_confidence (B,)."""

    shape: Tensor
    colour: Tensor
    position: Tensor
    radius: Tensor
    found: Tensor
    shape_confidence: Tensor
    colour_confidence: Tensor
    position_confidence: Tensor


@dataclass
class ClipReading:
    """What B clips show of one object: shape, colour (B,); position (B, T, 2) px (NaN where not found); radius (B, T); velocity (B, 2) px a frame;
    direction (B,) index into DIRECTIONS; speed (B,) index into SPEEDS: 0 still, 1 slow, 2 fast; growth (B,) relative change of the radius a frame;
    found (B,) share of frames that show the object; scatter (B,) r.m.s. distance (px) of the track from a straight one; confidences (B,)."""

    shape: Tensor
    colour: Tensor
    position: Tensor
    radius: Tensor
    velocity: Tensor
    direction: Tensor
    speed: Tensor
    growth: Tensor
    found: Tensor
    scatter: Tensor
    shape_confidence: Tensor
    colour_confidence: Tensor
    direction_confidence: Tensor
    speed_confidence: Tensor


def _check(name: str, images, shape: str) -> Tensor:
    """Pictures or clips in [0, 1] as a float32 tensor on the CPU, which is where they are read."""
    found = numbers(name, images, shape, low=-1e-3, high=1 + 1e-3)
    if not found.is_floating_point():
        raise TypeError(f"{name} must be floating point in [0, 1], got {got(images)}")
    return found.float().cpu()


def _check_video(video) -> Tensor:
    found = _check("video", video, "B T 3 H W")
    if found.shape[1] < 2:
        raise ValueError(f"video must hold at least 2 frames, got {found.shape[1]}")
    return found


def _as_came(value, result):
    """A result whose every field is of the kind that `value` is: tensors on its device, numpy arrays for all else."""
    return type(result)(**{field.name: like(value, getattr(result, field.name)) for field in fields(result)})


def _opponent(rgb: Tensor, dim: int) -> Tensor:
    return rgb - rgb.mean(dim, keepdim=True)


def _hues() -> tuple[Tensor, Tensor]:
    """Unit opponent vectors (8, 3) of the palette, and their lengths (8,)."""
    vectors = _opponent(COLOUR_TABLE, 1)
    length = vectors.norm(dim=1)
    return vectors / length[:, None], length


def _hue_mass(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 8): how many pixels' worth of each palette hue a picture holds."""
    unit, length = _hues()
    opponent = _opponent(images, 1).flatten(2)
    along = torch.einsum("kc,ncp->nkp", unit, opponent)
    best, hue = along.max(1)
    amount = (best / length[hue] - 0.25).clamp(0, 0.75) / 0.75
    return torch.zeros(len(images), len(unit)).scatter_add_(1, hue, amount)


def _matter(images: Tensor, colour: Tensor, other: Tensor | None = None) -> Tensor:
    """(N, H, W) in [0, 1]: coverage by the object of this colour; darker texture counts in full; `other` is the second object's colour."""
    unit, length = _hues()
    opponent = _opponent(images, 1)
    along = torch.einsum("nc,nchw->nhw", unit[colour], opponent)
    amount = along / length[colour][:, None, None]
    alike = along > 0.7 * opponent.norm(dim=1)
    if other is not None:
        alike &= along >= torch.einsum("nc,nchw->nhw", unit[other], opponent)
    amount = ((amount - 0.12) / 0.28).clamp(0, 1) * alike
    around = F.avg_pool2d(amount[:, None], 3, stride=1, padding=1)[:, 0]
    return amount * (around > 0.3)  # lone noisy pixels are dropped


def _moments(matter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mass (N,), centre (N, 2) x, y and r.m.s. radius (N,) of coverage maps (N, H, W), in px."""
    height, width = matter.shape[-2:]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    mass = matter.sum((1, 2))
    safe = mass.clamp_min(1e-6)
    cx, cy = (matter * x).sum((1, 2)) / safe, (matter * y[:, None]).sum((1, 2)) / safe
    square = ((x - cx[:, None])[:, None, :] ** 2 + (y - cy[:, None])[:, :, None] ** 2) * matter
    return mass, torch.stack([cx, cy], 1), (square.sum((1, 2)) / safe).sqrt()


def _outline(matter: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """(N, 400) coverage on a grid that moves and scales with the object; zero mean, unit length."""
    height, width = matter.shape[-2:]
    line = (torch.arange(_CANON) + 0.5) / _CANON * 2 - 1
    reach = (radius * _WINDOW).clamp_min(1.0)[:, None, None]
    gx = (centre[:, 0, None, None] + reach * line[None, None, :]) / width * 2 - 1
    gy = (centre[:, 1, None, None] + reach * line[None, :, None]) / height * 2 - 1
    grid = torch.stack([gx.expand(-1, _CANON, -1), gy.expand(-1, -1, _CANON)], -1)
    flat = F.grid_sample(matter[:, None], grid, align_corners=False, padding_mode="zeros").flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-6)


@lru_cache(maxsize=1)
def _templates() -> tuple[Tensor, Tensor]:
    """Outlines (M, 400) of every shape at many angles, three sizes, three sub-pixel places, crisp and blurred; and which shape (M,) each is."""
    rows = []
    for index, name in enumerate(SHAPES):
        turns = symmetry(name)
        angles = [0.0] if turns is None else [2 * torch.pi / turns * k / 10 for k in range(10)]
        rows += [(index, angle, radius, place) for angle in angles for radius in (4.6, 6.0, 8.0) for place in (0.0, 0.3, 0.6)]
    shape, angle, radius, place = (torch.tensor(column, dtype=torch.float64)[:, None] for column in zip(*rows, strict=True))
    red = COLOUR_TABLE[0].expand(len(rows), 1, 3)
    parts = shape_parts(shape.long(), 16 + place, 16 + place * 0.7, radius, angle, red)
    images = render(parts, plain_background(torch.full((len(rows), 3), 0.2), 32)).image
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 2, stride=1)
    images = torch.cat([images, F.avg_pool2d(soft, 2, stride=1)])  # two means of 2x2: a binomial 3x3 blur
    matter = _matter(images, torch.zeros(len(images), dtype=torch.long))
    _, centre, size = _moments(matter)
    return _outline(matter, centre, size), shape[:, 0].long().repeat(2)


def _shape_scores(matter: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """(N, number of shapes): best cosine similarity between the outline and any template of each shape."""
    bank, owner = _templates()
    similarity = _outline(matter, centre, radius) @ bank.T
    return torch.stack([similarity[:, owner == k].amax(1) for k in range(len(SHAPES))], 1)


def analyse_pictures(images: Tensor) -> PictureReading:
    """Read B pictures (B, 3, H, W) in [0, 1] of one object each, tensor or numpy array; the reading is of the same kind. Raises TypeError or ValueError
    for anything else."""
    return _as_came(images, _read_pictures(_check("images", images, "B 3 H W")))


def _read_pictures(images: Tensor) -> PictureReading:
    hue = _hue_mass(images)
    colour = hue.argmax(1)
    matter = _matter(images, colour)
    mass, centre, radius = _moments(matter)
    likely = (_shape_scores(matter, centre, radius) / _TEMPERATURE).softmax(1)
    found = mass >= _LEAST_MASS
    share = hue.gather(1, colour[:, None])[:, 0] / hue.sum(1).clamp_min(1e-6)
    zero = torch.zeros_like(mass)
    solid = (matter.square().sum((1, 2)) / mass.clamp_min(1e-6)).clamp(0, 1)  # 1: crisp coverage, low: a haze without a place
    return PictureReading(
        likely.argmax(1), colour, torch.where(found[:, None], centre, torch.nan), radius, found,
        torch.where(found, likely.amax(1), zero), torch.where(found, share, zero), torch.where(found, solid, zero),
    )  # fmt: skip


def _line_fit(position: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares velocity (B, 2), its standard error per axis (B,) and the track's scatter (B,), over the frames that are seen."""
    time = torch.arange(position.shape[1], dtype=torch.float32).expand_as(seen)
    weight = seen.float()
    count = weight.sum(1).clamp_min(1)
    centred = (time - (time * weight).sum(1, keepdim=True) / count[:, None]) * weight
    spread = centred.square().sum(1).clamp_min(1e-6)
    place = torch.where(seen[..., None], position, torch.zeros(()))
    velocity = (centred[..., None] * place).sum(1) / spread[:, None]
    middle = place.sum(1) / count[:, None]
    rest = (place - middle[:, None] - centred[..., None] * velocity[:, None]) * weight[..., None]
    scatter = (rest.square().sum((1, 2)) / count).sqrt()
    noise = (rest.square().sum((1, 2)) / (2 * count - 4).clamp_min(1) + _POSITION_ERROR**2).sqrt()
    return velocity, noise / spread.sqrt(), scatter


def _within(value: Tensor, low: Tensor | float, high: Tensor | float, error: Tensor) -> Tensor:
    """Probability that a normal variable of this mean and standard deviation lies between low and high."""
    normal = torch.distributions.Normal(value, error.clamp_min(1e-6))
    return normal.cdf(torch.as_tensor(high, dtype=value.dtype).expand_as(value)) - normal.cdf(torch.as_tensor(low, dtype=value.dtype).expand_as(value))


def _read_clip(video: Tensor, colour: Tensor, other: Tensor | None, share: Tensor) -> ClipReading:
    b, t = video.shape[:2]
    per_frame = colour.repeat_interleave(t)
    matter = _matter(video.flatten(0, 1), per_frame, None if other is None else other.repeat_interleave(t))
    mass, centre, radius = _moments(matter)
    seen = (mass >= _LEAST_MASS).view(b, t)
    scores = _shape_scores(matter, centre, radius).view(b, t, -1)
    mean_score = (scores * seen[..., None]).sum(1) / seen.sum(1, keepdim=True).clamp_min(1)
    likely = (mean_score / _TEMPERATURE).softmax(1)
    centre, radius = centre.view(b, t, 2), radius.view(b, t)
    velocity, error, scatter = _line_fit(centre, seen)
    scale = video.shape[-1] / 32
    length = velocity.norm(dim=1) / scale
    speed = (length > STILL_BELOW).long() + (length > FAST_ABOVE).long()
    angle = torch.atan2(velocity[:, 1], velocity[:, 0])
    direction = (angle / (torch.pi / 4)).round().long() % len(DIRECTIONS)
    offset = (angle - direction * torch.pi / 4 + torch.pi) % (2 * torch.pi) - torch.pi
    turn_error = error / velocity.norm(dim=1).clamp_min(1e-6)
    low = torch.tensor([-1e9, STILL_BELOW, FAST_ABOVE])[speed]
    high = torch.tensor([STILL_BELOW, FAST_ABOVE, 1e9])[speed]
    log_radius = radius.clamp_min(1e-3).log()[..., None].expand(-1, -1, 2)
    growth, _, _ = _line_fit(log_radius, seen)
    found = seen.float().mean(1)
    certain = found > 0.5
    zero = torch.zeros(b)
    return ClipReading(
        likely.argmax(1), colour, torch.where(seen[..., None], centre, torch.nan), radius, velocity, direction, speed, growth[:, 0], found, scatter,
        torch.where(certain, likely.amax(1), zero), torch.where(certain, share, zero),
        torch.where(certain, _within(offset, -torch.pi / 8, torch.pi / 8, turn_error), zero),
        torch.where(certain, _within(length, low, high, error / scale), zero),
    )  # fmt: skip


def analyse_clips(video: Tensor) -> ClipReading:
    """Read the most prominent object of B clips (B, T, 3, H, W) in [0, 1], tensor or numpy array; T >= 2. The reading is of the same kind.
    Raises TypeError or ValueError for anything else."""
    return _as_came(video, _read_one(_check_video(video)))


def _read_one(video: Tensor) -> ClipReading:
    hue = _hue_mass(video.flatten(0, 1)).view(*video.shape[:2], -1).mean(1)
    colour = hue.argmax(1)
    return _read_clip(video, colour, None, hue.amax(1) / hue.sum(1).clamp_min(1e-6))


def analyse_two_objects(video: Tensor) -> tuple[ClipReading, ClipReading]:
    """Read clips (B, T, 3, H, W) of two objects of different colours; the one whose colour stands first in COLOURS comes first."""
    first, second = _read_two(_check_video(video))
    return _as_came(video, first), _as_came(video, second)


def _read_two(video: Tensor) -> tuple[ClipReading, ClipReading]:
    hue = _hue_mass(video.flatten(0, 1)).view(*video.shape[:2], -1).mean(1)
    pair = hue.topk(2, dim=1).indices.sort(1).values
    total = hue.sum(1).clamp_min(1e-6)
    first, second = (_read_clip(video, pair[:, k], pair[:, 1 - k], hue.gather(1, pair[:, k : k + 1])[:, 0] * 2 / total) for k in (0, 1))
    for reading in (first, second):
        reading.colour_confidence.clamp_(max=1)
    return first, second


def camera_motion(video: Tensor, *, iterations: int = _ITERATIONS) -> Tensor:
    """Velocity (B, 2) in px a frame of the camera over a patterned ground, seen in clips (B, T, 3, H, W); zero where the ground is plain.

    Least-squares translation (Lucas & Kanade 1981) of the grey ground between neighbouring frames, objects left out.
    """
    found = _check_video(video)
    return like(video, _camera(found, integer("iterations", iterations, low=1)))


def _camera(video: Tensor, iterations: int) -> Tensor:
    grey, coloured = video.mean(2), _opponent(video, 2).norm(dim=2) > 0.06
    coloured = F.max_pool2d(coloured.float(), 5, stride=1, padding=2) > 0
    first, second = grey[:, :-1].flatten(0, 1), grey[:, 1:].flatten(0, 1)
    use = ~(coloured[:, :-1] | coloured[:, 1:]).flatten(0, 1)
    n, height, width = first.shape
    x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
    clips, move = len(video), torch.zeros(len(video), 2)
    for _ in range(iterations):  # one velocity for all frame pairs of a clip
        shift = move.repeat_interleave(n // clips, 0)
        sx, sy = x + shift[:, 0, None, None], y + shift[:, 1, None, None]
        grid = torch.stack([sx / width * 2 - 1, sy / height * 2 - 1], -1)
        warped = F.grid_sample(second[:, None], grid, align_corners=False, padding_mode="border")[:, 0]
        inside = use & (sx > 1) & (sx < width - 1) & (sy > 1) & (sy < height - 1)
        dy, dx = torch.gradient(warped, dim=(1, 2))
        rest = (first - warped) * inside
        dx, dy = dx * inside, dy * inside
        a11, a12, a22, b1, b2 = ((u * v).view(clips, -1).sum(1) for u, v in ((dx, dx), (dx, dy), (dy, dy), (dx, rest), (dy, rest)))
        damping = 1e-3 + 1e-2 * (a11 + a22)
        determinant = (a11 + damping) * (a22 + damping) - a12 * a12
        step = torch.stack([(a22 + damping) * b1 - a12 * b2, (a11 + damping) * b2 - a12 * b1], 1) / determinant[:, None]
        move = move + step
    return -move  # the ground moves against the camera


@dataclass
class Judgement:
    """Whether B clips show what their captions say, each (B,) float: 1 right, 0 wrong, NaN where the caption does not say it.

    `motion`: still stays still, growing grows, and so on; `all`: everything that the caption says is right.
    """

    colour: Tensor
    shape: Tensor
    direction: Tensor
    speed: Tensor
    motion: Tensor
    all: Tensor


_GROWS = 0.03  # relative change of the radius a frame from which an object counts as growing


def judge(video: Tensor, captions) -> Judgement:
    """Compare clips (B, T, 3, H, W) in [0, 1] with their captions, one for each (one alone stands for all). Raises ValueError or TypeError."""
    found = _check_video(video)
    said = [parse(f"captions[{i}]", caption) for i, caption in enumerate(texts("captions", captions, count=len(found)))]
    return _as_came(video, _judge(found, said))


def _judge(video: Tensor, said_of: list[dict]) -> Judgement:
    one, (first, second), camera = _read_one(video), _read_two(video), _camera(video, _ITERATIONS)
    rows = []
    for i, said in enumerate(said_of):
        objects = sorted(said["objects"])  # by colour, the order of analyse_two_objects
        readings = (first, second) if len(objects) == 2 else (one,)
        right = {"colour": [], "shape": [], "direction": [], "speed": [], "motion": []}
        for (colour, shape, direction, speed), reading in zip(objects, readings, strict=True):
            seen = bool(reading.found[i] > 0.5)
            right["colour"].append(seen and reading.colour[i] == colour)
            right["shape"].append(seen and reading.shape[i] == shape)
            if said["motion"] in ("grow", "shrink"):
                grown = reading.growth[i] if said["motion"] == "grow" else -reading.growth[i]
                right["motion"].append(seen and grown > _GROWS and reading.speed[i] == 0)
                continue
            if said["motion"] == "turn":
                right["motion"].append(seen and reading.speed[i] == 0)
                continue
            right["speed"].append(seen and reading.speed[i] == speed)
            if said["motion"] == "still" or speed == 0:
                right["motion"].append(seen and reading.speed[i] == 0 and abs(reading.growth[i]) < _GROWS)
            else:
                heading = (direction + 4) % 8 if said["motion"] == "pan" else direction
                right["direction"].append(seen and reading.direction[i] == heading)
            if said["motion"] == "pan":
                angle = torch.atan2(camera[i, 1], camera[i, 0]) / (torch.pi / 4)
                right["motion"].append(camera[i].norm() * 32 / video.shape[-1] > STILL_BELOW and angle.round().long() % 8 == direction)
        share = {name: (float(all(v)) if v else float("nan")) for name, v in right.items()}
        rows.append([*share.values(), float(all(v != 0 for v in share.values()))])
    return Judgement(*torch.tensor(rows).unbind(1))
