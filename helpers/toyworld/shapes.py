"""The family *shapes*: six outlines, eight colours, four textures; still pictures and clips with exact motion and captions.

The pictures and clips are described first (`ShapePictures`, `Clips`: numbers only) and painted by `render.render`. A clip is painted as
frames of its own description, so position, flow and direction are known exactly, not measured.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arguments import got, instance, integer, real, texts
from .draws import Draws
from .render import PRIMITIVES, TEXTURES, Parts, plain_background, render, waved_background

__all__ = [
    "COLOURS", "COLOUR_TABLE", "DIRECTIONS", "FAST_ABOVE", "MOTIONS", "SHAPES", "SPEEDS", "SPEED_RANGES", "STILL_BELOW", "ClipRendering", "Clips",
    "ShapePictures", "clips", "clips_of", "parse_caption", "shapes", "with_article",
]  # fmt: skip

SHAPES = ("disc", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (0.90, 0.16, 0.16),
    "orange": (0.96, 0.55, 0.08),
    "yellow": (0.93, 0.89, 0.12),
    "green": (0.15, 0.72, 0.22),
    "cyan": (0.12, 0.80, 0.86),
    "blue": (0.18, 0.30, 0.95),
    "purple": (0.58, 0.20, 0.86),
    "pink": (0.97, 0.42, 0.72),
}
DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")  # every 45 degrees, clockwise on the screen
SPEEDS = ("still", "slow", "fast")
MOTIONS = ("still", "move", "turn", "grow", "shrink", "pan", "two")
SPEED_RANGES = {"slow": (0.6, 1.0), "fast": (1.9, 2.3)}  # px per frame at 32 px
STILL_BELOW, FAST_ABOVE = 0.3, 1.45  # px per frame at 32 px: the analysers' borders between the classes

# SHAPES -> primitive, (half width, half height) at radius 1, primitive number, quarter turns after which it looks the same
_PRIMITIVE = {
    "disc": ("ellipse", 0.95, 0.95, 0.0),
    "square": ("box", 0.84, 0.84, 0.0),
    "triangle": ("trapezoid", 1.02, 0.88, 0.0),
    "star": ("star", 1.15, 1.15, 0.42),
    "ring": ("ring", 1.02, 1.02, 0.52),
    "cross": ("cross", 1.02, 1.02, 0.34),
}
_SYMMETRY = {"disc": None, "square": 4, "triangle": 3, "star": 5, "ring": None, "cross": 4}
COLOUR_TABLE = torch.tensor(list(COLOURS.values()))
_PRIMITIVE_KIND = torch.tensor([PRIMITIVES.index(_PRIMITIVE[s][0]) for s in SHAPES])
_PRIMITIVE_SIZE = torch.tensor([_PRIMITIVE[s][1:] for s in SHAPES], dtype=torch.float64)


def symmetry(shape: str) -> int | None:
    """After how many equal turns a full circle brings `shape` back onto itself; None where any turn does."""
    return _SYMMETRY[shape]


def positions(argument: str, names, allowed) -> list[int]:
    """Positions in `allowed` of one name or several; ValueError or TypeError for anything else."""
    allowed = list(allowed)
    return [allowed.index(n) for n in texts(argument, list(names) if isinstance(names, Mapping) else names, options=allowed)]


def excluded(exclude, firsts, seconds) -> set[tuple[int, int]]:
    """The pairs of names, e.g. (colour, shape), that never occur, as positions; ValueError or TypeError for anything else."""
    expected = "exclude must hold pairs of names"
    if not isinstance(exclude, (list, tuple, set, frozenset)):
        raise TypeError(f"{expected}, got {got(exclude)}")
    for pair in exclude:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"{expected}, got {got(pair)} in it")
    return {(positions("exclude", [first], firsts)[0], positions("exclude", [second], seconds)[0]) for first, second in exclude}


def motion_shares(motions, default: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Which motions, as positions in MOTIONS, and the upper edges (M,) of their shares in [0, 1]; of a {motion: share} or of names with equal shares."""
    shares = default if motions is None else motions
    if not isinstance(shares, Mapping):
        shares = dict.fromkeys(texts("motions", shares), 1.0)
    wanted = positions("motions", shares, MOTIONS)
    shares = [real(f"motions[{name!r}]", share, low=0) for name, share in shares.items()]
    if not 0 < sum(shares) < float("inf"):
        raise ValueError(f"motions must have shares that do not all vanish and have a sum, got {shares}")
    edges = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    return torch.tensor(wanted), edges / edges[-1]


def shape_parts(
    shape: Tensor, cx: Tensor, cy: Tensor, radius: Tensor, angle: Tensor, colour: Tensor, *,
    second=None, texture=None, period=None, label=None, owner=None,
) -> Parts:  # fmt: skip
    """One part per shape; all arguments (B, P): shape an index into SHAPES (-1: nothing), radius in px, colour (B, P, 3)."""
    safe = shape.clamp_min(0)
    numbers = _PRIMITIVE_SIZE[safe]
    kind = torch.where(shape < 0, -1, _PRIMITIVE_KIND[safe])
    order = torch.arange(1, shape.shape[1] + 1).expand_as(shape)
    zero = torch.zeros_like(shape)
    return Parts(
        kind=kind, cx=cx, cy=cy, a=radius * numbers[..., 0], b=radius * numbers[..., 1], angle=angle, shape=numbers[..., 2],
        texture=zero if texture is None else texture, period=torch.ones_like(cx) if period is None else period,
        colour=colour, second=colour if second is None else second, label=order if label is None else label, owner=order if owner is None else owner,
    )  # fmt: skip


@dataclass
class ShapePictures:
    """image (B, 3, S, S) in [0, 1]; mask (B, S, S) bool; part_id (B, S, S): 1 where the shape shows its first colour's part, 0 background;
    box (B, 4): x0, y0, x1, y1 of the mask in px; position (B, 2): x, y of the centre; the rest (B,) indices into SHAPES, COLOURS, TEXTURES."""

    image: Tensor
    mask: Tensor
    part_id: Tensor
    box: Tensor
    position: Tensor
    radius: Tensor
    angle: Tensor
    shape: Tensor
    colour: Tensor
    texture: Tensor

    @property
    def captions(self) -> list[str]:
        words = []
        for s, c, t in zip(self.shape.tolist(), self.colour.tolist(), self.texture.tolist(), strict=True):
            texture = "" if t == 0 else TEXTURES[t] + " "
            words.append(with_article(f"{texture}{list(COLOURS)[c]} {SHAPES[s]}"))
        return words

    def __len__(self) -> int:
        return len(self.image)


def with_article(words: str) -> str:
    """The words behind "a" or "an"."""
    if not instance("words", words, str, "a text"):
        raise ValueError("words must be a text, got an empty one")
    return ("an " if words[0] in "aeiou" else "a ") + words


def mask_boxes(mask: Tensor) -> Tensor:
    """Boxes (B, 4) as x0, y0, x1, y1 in pixel edges around masks (B, H, W); all zero for an empty mask."""
    height, width = mask.shape[-2:]
    columns, rows = mask.any(-2), mask.any(-1)
    x0, y0 = columns.int().argmax(-1), rows.int().argmax(-1)
    x1, y1 = width - columns.flip(-1).int().argmax(-1), height - rows.flip(-1).int().argmax(-1)
    return torch.stack([x0, y0, x1, y1], -1) * mask.flatten(-2).any(-1)[..., None]


def shapes(seed: int, indices, *, size: int = 32, shapes=SHAPES, colours=tuple(COLOURS), textures=TEXTURES) -> ShapePictures:
    """Pictures `indices` of the seed's endless list: one textured shape each, on a grey ground.

    size: side in px (>= 16). shapes, colours, textures: names to choose among. Raises ValueError or TypeError for anything else.
    """
    size = integer("size", size, low=16)
    kinds = torch.tensor(positions("shapes", shapes, SHAPES))
    hues = torch.tensor(positions("colours", colours, COLOURS))
    patterns = torch.tensor(positions("textures", textures, TEXTURES))
    d = Draws(seed, indices)
    shape, colour, texture = kinds[d.integer(len(kinds))], hues[d.integer(len(hues))], patterns[d.integer(len(patterns))]
    radius = d.uniform(0.16, 0.30) * size
    slack = size / 2 - 1.1 * radius
    cx, cy = size / 2 + slack * d.uniform(-1, 1), size / 2 + slack * d.uniform(-1, 1)
    angle = d.uniform(-np.pi, np.pi)
    grey = d.uniform(0.08, 0.45)
    tone, period = d.uniform(0.30, 0.50), d.uniform(0.55, 0.85)
    rgb = COLOUR_TABLE[colour]
    parts = shape_parts(
        shape[:, None], cx[:, None], cy[:, None], radius[:, None], angle[:, None], rgb[:, None],
        second=(rgb * tone[:, None].float())[:, None], texture=texture[:, None], period=period[:, None],
    )  # fmt: skip
    out = render(parts, plain_background(grey[:, None].expand(-1, 3), size))
    mask = out.object_id > 0
    return ShapePictures(out.image, mask, out.part_id, mask_boxes(mask), torch.stack([cx, cy], 1), radius, angle, shape, colour, texture)


# ---------------------------------------------------------------------------------------------------------------- clips


_ADVERB = {"slow": "slowly", "fast": "fast"}


class Captioned:
    """What clips of every family say of themselves: fields position, motion, direction, speed, and a method _name(clip, slot)."""

    def __len__(self) -> int:
        return len(self.motion)

    @property
    def frames(self) -> int:
        return self.position.shape[1]

    @property
    def captions(self) -> list[str]:
        return [self._caption(i) for i in range(len(self))]

    def _moves(self, i: int, slot: int) -> str:
        if self.speed[i, slot] == 0:
            return "stays still"
        return f"moves {DIRECTIONS[self.direction[i, slot]]} {_ADVERB[SPEEDS[self.speed[i, slot]]]}"

    def _caption(self, i: int) -> str:
        motion = MOTIONS[self.motion[i]]
        if motion in ("turn", "grow", "shrink"):
            return f"{self._name(i, 0)} {motion}s"
        if motion == "pan":
            return f"the camera pans {DIRECTIONS[self.direction[i, 0]]} {_ADVERB[SPEEDS[self.speed[i, 0]]]} over {self._name(i, 0)}"
        first = f"{self._name(i, 0)} {self._moves(i, 0)}"
        return first if motion != "two" else f"{first} and {self._name(i, 1)} {self._moves(i, 1)}"


@dataclass
class Clips(Captioned):
    """What B clips of T frames show: two object slots (the second empty, shape -1, but for `two`) and a camera.

    shape, colour (B, 2) indices; position (B, T, 2, 2): x, y in px of each slot; radius, angle (B, T, 2); camera (B, T, 2): window position in px;
    motion (B,) index into MOTIONS; direction (B, 2) index into DIRECTIONS, speed (B, 2) index into SPEEDS, of the slot's own motion
    (for `pan` slot 0 holds the camera's); grey (B, 2): the two background greys; waves (B, 3, 3): the background's pattern.
    """

    shape: Tensor
    colour: Tensor
    position: Tensor
    radius: Tensor
    angle: Tensor
    camera: Tensor
    motion: Tensor
    direction: Tensor
    speed: Tensor
    grey: Tensor
    waves: Tensor
    size: int

    def _name(self, i: int, slot: int) -> str:
        return with_article(f"{list(COLOURS)[self.colour[i, slot]]} {SHAPES[self.shape[i, slot]]}")

    def render(self) -> "ClipRendering":
        """Paint the frames; exact masks and forward flow come with them."""
        b, t = self.position.shape[:2]
        colour = COLOUR_TABLE[self.colour][:, None].expand(-1, t, -1, -1).flatten(0, 1)
        parts = shape_parts(
            self.shape[:, None].expand(-1, t, -1).flatten(0, 1), self.position[..., 0].flatten(0, 1), self.position[..., 1].flatten(0, 1),
            self.radius.flatten(0, 1), self.angle.flatten(0, 1), colour,
        )  # fmt: skip
        low, high = (self.grey[:, None, k, None].expand(-1, t, 3).flatten(0, 1) for k in (0, 1))
        ground = waved_background(
            low, high, self.waves[:, None].expand(-1, t, -1, -1).flatten(0, 1), self.size,
            shift_x=self.camera[..., 0].flatten(), shift_y=self.camera[..., 1].flatten(),
        )  # fmt: skip
        out = render(parts, ground)
        side = (self.size, self.size)
        objects = out.object_id.reshape(b, t, *side)
        return ClipRendering(out.image.reshape(b, t, 3, *side), objects > 0, objects, self._flow(objects))

    def _flow(self, objects: Tensor) -> Tensor:
        """(B, T-1, 2, S, S): where the point seen at each pixel of frame t lies in frame t+1, minus where it lies in frame t (px)."""
        b, t = objects.shape[:2]
        line = torch.arange(self.size, dtype=torch.float64) + 0.5
        grid = torch.stack([line.repeat(self.size, 1), line[:, None].repeat(1, self.size)])  # (2, S, S): x, y
        flow = (self.camera[:, :-1] - self.camera[:, 1:])[..., None, None].expand(-1, -1, -1, self.size, self.size).clone()
        for slot in range(2):
            here, there = self.position[:, :-1, slot, :, None, None], self.position[:, 1:, slot, :, None, None]
            turn = (self.angle[:, 1:, slot] - self.angle[:, :-1, slot])[..., None, None]
            scale = (self.radius[:, 1:, slot] / self.radius[:, :-1, slot])[..., None, None]
            x, y = (grid - here).unbind(2)
            moved = torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], 2) * scale[:, :, None]
            flow = torch.where((objects[:, :-1] == slot + 1)[:, :, None], moved + there - grid, flow)
        return flow.float()


@dataclass
class ClipRendering:
    """video (B, T, 3, S, S) in [0, 1]; mask (B, T, S, S) bool; object_id (B, T, S, S): 0 background, 1, 2; flow (B, T-1, 2, S, S) in px."""

    video: Tensor
    mask: Tensor
    object_id: Tensor
    flow: Tensor


_UNIT = torch.tensor([[np.cos(k * np.pi / 4), np.sin(k * np.pi / 4)] for k in range(8)], dtype=torch.float64)
DEFAULT_SHARES = {"still": 0.15, "move": 0.45, "turn": 0.04, "grow": 0.04, "shrink": 0.04, "pan": 0.10, "two": 0.18}
LAYOUTS = 6  # placements tried for two objects; the one that keeps them farthest apart is taken


def clips(
    seed: int, indices, *, size: int = 32, frames: int = 8, shapes=SHAPES, colours=tuple(COLOURS), motions=None, exclude=(),
) -> Clips:  # fmt: skip
    """Clips `indices` of the seed's endless list.

    size: side in px (>= 24). frames: T >= 2. shapes, colours: names to choose among. motions: {motion: share} or names with equal shares.
    exclude: (colour, shape) pairs that never occur, e.g. [("green", "star")]. Raises ValueError or TypeError for anything else.
    """
    size, frames = integer("size", size, low=24), integer("frames", frames, low=2)
    kinds, hues = positions("shapes", shapes, SHAPES), positions("colours", colours, COLOURS)
    wanted, edges = motion_shares(motions, DEFAULT_SHARES)
    banned = excluded(exclude, COLOURS, SHAPES)
    pairs = torch.tensor([(c, s) for c in hues for s in kinds if (c, s) not in banned])
    if len({c for c, _ in pairs.tolist()}) < 2:
        raise ValueError("colours and exclude leave fewer than two colours; two-object clips need two")
    d = Draws(seed, indices)
    motion = wanted[torch.searchsorted(edges, d.uniform(), right=True).clamp(max=len(wanted) - 1)]
    first = pairs[d.integer(len(pairs))]
    round_one = torch.tensor([symmetry(s) is None for s in SHAPES])[first[:, 1]]
    motion = torch.where(round_one & (motion == MOTIONS.index("turn")), MOTIONS.index("still"), motion)  # nobody sees a disc turn
    second = _other_colour(pairs, first, d)
    speed = torch.stack([1 + d.integer(2), d.integer(3)], 1)
    direction = torch.stack([d.integer(8), d.integer(8)], 1)
    return _build(d, motion, torch.stack([first[:, 1], second[:, 1]], 1), torch.stack([first[:, 0], second[:, 0]], 1), direction, speed, size, frames)


def _other_colour(pairs: Tensor, first: Tensor, d: Draws) -> Tensor:
    """A second (colour, shape) pair for each item, uniform among those of another colour."""
    position = d.uniform()
    out = torch.empty_like(first)
    for colour in first[:, 0].unique().tolist():
        others = pairs[pairs[:, 0] != colour]
        rows = first[:, 0] == colour
        out[rows] = others[(position[rows] * len(others)).long()]
    return out


def _build(d: Draws, motion: Tensor, shape: Tensor, colour: Tensor, direction: Tensor, speed: Tensor, size: int, frames: int) -> Clips:
    """Fill in where, how large and how fast; every number that a caption does not fix is looked up in `d`."""
    unit, scale = len(motion), size / 32
    is_two, is_pan = motion == MOTIONS.index("two"), motion == MOTIONS.index("pan")
    moves = (motion == MOTIONS.index("move")) | is_two | is_pan
    second_moves = is_two & (speed[:, 1] > 0)
    first_moves = moves & (speed[:, 0] > 0)
    speed = torch.stack([speed[:, 0] * moves, speed[:, 1] * is_two], 1)
    radius = torch.where(is_two[:, None], torch.stack([d.uniform(4.2, 5.0), d.uniform(4.2, 5.0)], 1), d.uniform(4.9, 6.3)[:, None]) * scale
    slow, fast = (torch.stack([d.uniform(*SPEED_RANGES[s]), d.uniform(*SPEED_RANGES[s])], 1) for s in ("slow", "fast"))
    length = torch.where(speed == 2, fast, slow) * scale * 7 / max(frames - 1, 7)
    velocity = _UNIT[direction] * (length * torch.stack([first_moves, second_moves], 1))[..., None]  # (B, 2, 2) px per frame
    angle0 = torch.stack([d.uniform(-0.3, 0.3), d.uniform(-0.3, 0.3)], 1)
    rate = torch.where(d.chance(0.5), 1.0, -1.0) * d.uniform(0.16, 0.30) * (motion == MOTIONS.index("turn"))
    growth = d.uniform(0.075, 0.095) * ((motion == MOTIONS.index("grow")).double() - (motion == MOTIONS.index("shrink")).double())
    time = torch.arange(frames, dtype=torch.float64) - (frames - 1) / 2
    step = 7 / max(frames - 1, 7)
    radii = radius[:, None] * (1 + growth * step)[:, None, None] ** time[None, :, None]
    angles = angle0[:, None] + torch.stack([rate, torch.zeros_like(rate)], 1)[:, None] * time[None, :, None]
    path = velocity[:, None] * time[None, :, None, None]  # (B, T, 2 slots, 2)
    camera = path[:, :, 0] * is_pan[:, None, None]
    path = path * ~is_pan[:, None, None, None] - camera[:, :, None] * torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None]
    reach = path.abs().amax(1) + 1.05 * radii.amax(1)[..., None]
    slack = (size / 2 - 0.4 - reach).clamp_min(0)
    best, gap = None, None
    for _ in range(LAYOUTS):
        jitter = torch.stack([torch.stack([d.uniform(-1, 1), d.uniform(-1, 1)], 1) for _ in range(2)], 1)
        position = size / 2 + path + (slack * jitter)[:, None]
        apart = (position[:, :, 0] - position[:, :, 1]).square().sum(-1).amin(1)
        if best is None:
            best, gap = position, apart
        better = is_two & (apart > gap)
        best, gap = torch.where(better[:, None, None, None], position, best), torch.where(better, apart, gap)
    grey = d.uniform(0.10, 0.26)
    contrast = torch.where(is_pan, d.uniform(0.22, 0.30), torch.zeros(unit, dtype=torch.float64))
    waves = torch.stack([torch.stack([d.uniform(0.03, 0.075) / scale, d.uniform(-0.075, 0.075) / scale, d.uniform()], 1) for _ in range(3)], 1)
    shape = torch.stack([shape[:, 0], torch.where(is_two, shape[:, 1], -1)], 1)
    return Clips(shape, colour, best, radii, angles, camera, motion, direction, speed, torch.stack([grey, grey + contrast], 1), waves, size)


_OBJECT = r"an? (\S+) (\S+)"
_PATTERNS = {
    "turn": re.compile(f"{_OBJECT} turns"),
    "grow": re.compile(f"{_OBJECT} grows"),
    "shrink": re.compile(f"{_OBJECT} shrinks"),
    "pan": re.compile(rf"the camera pans (\S+) (\S+) over {_OBJECT}"),
    "object": re.compile(rf"{_OBJECT} (?:(stays still)|moves (\S+) (\S+))"),
}
_SPEED_OF = {"slowly": 1, "fast": 2}


def _object(argument: str, groups) -> tuple[int, int, int, int]:
    colour, shape, still, direction, adverb = groups
    what = _index(argument, "colour", colour, COLOURS), _index(argument, "shape", shape, SHAPES)
    if still:
        return *what, 0, 0
    return *what, _index(argument, "direction", direction, DIRECTIONS), _SPEED_OF[_word(argument, "speed", adverb, _SPEED_OF)]


def _word(argument: str, what: str, word: str, allowed) -> str:
    if word not in allowed:
        raise ValueError(f"{argument}: {word!r} is not a {what} of the toy world; choose from {', '.join(allowed)}")
    return word


def _index(argument: str, what: str, word: str, allowed) -> int:
    return list(allowed).index(_word(argument, what, word, allowed))


def parse_caption(caption: str) -> dict:
    """Read a caption back: {"motion", "objects": [(colour, shape, direction, speed), ...]} as indices; ValueError says which word is unknown."""
    return parse("caption", caption)


def parse(argument: str, caption: str) -> dict:
    """`parse_caption` of what the caller calls `argument`."""
    instance(argument, caption, str, "a text")
    text = " ".join(caption.lower().split()).rstrip(".")
    for motion in ("turn", "grow", "shrink"):
        if m := _PATTERNS[motion].fullmatch(text):
            return {"motion": motion, "objects": [(_index(argument, "colour", m[1], COLOURS), _index(argument, "shape", m[2], SHAPES), 0, 0)]}
    if m := _PATTERNS["pan"].fullmatch(text):
        direction, speed = _index(argument, "direction", m[1], DIRECTIONS), _SPEED_OF[_word(argument, "speed", m[2], _SPEED_OF)]
        return {"motion": "pan", "objects": [(_index(argument, "colour", m[3], COLOURS), _index(argument, "shape", m[4], SHAPES), direction, speed)]}
    found = [_PATTERNS["object"].fullmatch(piece) for piece in text.split(" and ")]
    if not all(found) or len(found) > 2:
        raise ValueError(f"{argument} {caption!r} is not one the toy world can draw; examples: 'a red ring moves up fast', 'a blue star stays still', "
                         "'the camera pans left slowly over a green disc', 'a red ring moves up fast and a blue disc stays still'")  # fmt: skip
    objects = [_object(argument, m.groups()) for m in found]
    if len(objects) == 2:
        return {"motion": "two", "objects": objects}
    return {"motion": "move" if objects[0][3] else "still", "objects": objects}


def clips_of(captions, seed: int = 0, *, size: int = 32, frames: int = 8) -> Clips:
    """Draw what the captions say: everything that a caption leaves open comes from item 0, 1, ... of the seed."""
    size, frames = integer("size", size, low=24), integer("frames", frames, low=2)
    parsed = [parse(f"captions[{i}]", caption) for i, caption in enumerate(texts("captions", captions))]
    d = Draws(seed, range(len(parsed)))
    objects = torch.tensor([(p["objects"] * 2)[:2] for p in parsed])  # (B, 2, 4)
    motion = torch.tensor([MOTIONS.index(p["motion"]) for p in parsed])
    return _build(d, motion, objects[..., 1], objects[..., 0], objects[..., 2], objects[..., 3], size, frames)
