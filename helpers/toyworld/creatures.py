"""The family *creatures and things*: nine categories built of named parts, with named keypoints, textures, poses, styles and captions.

A creature is a list of pieces in its own frame (see `skeletons`). It is mirrored, scaled, turned, placed and painted by `render.render`, so every
pixel knows its part and its place in the part's own frame (`uv`): the same part and the same uv is the same point of any two animals of one kind.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arguments import flag, instance, integer, texts
from .draws import Draws
from .render import PRIMITIVES, TEXTURES, Parts, plain_background, render, waved_background
from .shapes import COLOUR_TABLE, COLOURS, MOTIONS, SPEED_RANGES, Captioned, excluded, mask_boxes, motion_shares, positions, with_article
from .skeletons import ANCHORS, CATEGORIES, KEYPOINTS, PART_INDEX, POINTS, SKELETONS, SLOTS, TRAITS, Piece, Pose

__all__ = [
    "BACKGROUNDS", "CATEGORIES", "COLOURS", "FACINGS", "KEYPOINTS", "STYLES", "TEXTURES", "CreatureClipRendering", "CreatureClips", "CreaturePictures",
    "creature_clips", "creatures", "creatures_of", "parse_creature_caption",
]  # fmt: skip

STYLES = ("photo", "sketch")
FACINGS = ("right", "left")
BACKGROUNDS = {  # plain tints, then the two patterned grounds, then what sketches are drawn on
    "white": (0.93, 0.93, 0.91),
    "grey": (0.55, 0.55, 0.57),
    "black": (0.10, 0.10, 0.11),
    "beige": (0.84, 0.77, 0.64),
    "navy": (0.13, 0.16, 0.33),
    "olive": (0.36, 0.38, 0.22),
    "gradient": None,
    "noise": None,
    "paper": (0.96, 0.95, 0.91),
}
PHOTO_SHARE = 0.85
DEFAULT_SHARES = {"still": 0.15, "move": 0.45, "turn": 0.04, "grow": 0.04, "shrink": 0.04, "pan": 0.10, "two": 0.18}

_FIXED_PAINT = {"ink": (0.07, 0.07, 0.09), "white": (0.95, 0.94, 0.92), "glass": (0.70, 0.86, 0.94), "steel": (0.66, 0.67, 0.70),
                "gold": (0.96, 0.66, 0.16), "lamp": (1.00, 0.95, 0.62), "blush": (0.93, 0.68, 0.66)}  # fmt: skip
_TONE = {"dark": 0.72, "deep": 0.48}  # times the creature's colour
_PAPER = BACKGROUNDS["paper"]


def _paint(tint: str, base: Tensor, sketch: Tensor) -> Tensor:
    """RGB (N, 3) of a named paint for creatures of colour `base` (N, 3); in a sketch everything but ink stays paper."""
    if tint in _FIXED_PAINT:
        rgb = torch.tensor(_FIXED_PAINT[tint]).expand_as(base)
    elif tint == "light":
        rgb = base + (1 - base) * 0.68
    else:
        rgb = base * _TONE.get(tint, 1.0)
    return rgb if tint == "ink" else torch.where(sketch[:, None], torch.tensor(_PAPER), rgb)


@dataclass
class _Cast:
    """N creatures ready to be painted. category, colour, texture (N,); sketch (N,) bool; pose: traits and joints, each (N,); x, y (N,): where the
    origin of the own frame lies (px); unit (N,): px per unit; angle (N,) radians; mirror (N,): 1 faces right, -1 left; tone, period (N,): texture."""

    category: Tensor
    colour: Tensor
    texture: Tensor
    sketch: Tensor
    pose: Pose
    x: Tensor
    y: Tensor
    unit: Tensor
    angle: Tensor
    mirror: Tensor
    tone: Tensor
    period: Tensor


def _pose_rows(pose: Pose, rows: Tensor) -> Pose:
    return Pose(**{name: value[rows] for name, value in vars(pose).items()})


def _pieces(category: Tensor, pose: Pose):
    """For each category that occurs: its index, the rows that show it, and its pieces with every number as (rows,) tensors."""
    for index in category[category >= 0].unique().tolist():
        rows = (category == index).nonzero()[:, 0]
        pieces = SKELETONS[CATEGORIES[index]](_pose_rows(pose, rows))
        for piece in pieces:
            for name in ("x", "y", "a", "b", "angle", "shape"):
                value = torch.as_tensor(getattr(piece, name), dtype=torch.float64)
                setattr(piece, name, value.expand(len(rows)))
        yield index, rows, pieces


def _half_extent(piece: Piece, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Half width and half height of a piece turned by `turn` (exact for ellipses and boxes, generous for the rest)."""
    cos, sin = (piece.angle + turn).cos().abs(), (piece.angle + turn).sin().abs()
    if piece.kind in ("ellipse", "ring"):
        return ((piece.a * cos) ** 2 + (piece.b * sin) ** 2).sqrt(), ((piece.a * sin) ** 2 + (piece.b * cos) ** 2).sqrt()
    b = piece.b + piece.shape.abs() * piece.a if piece.kind in ("bow", "strap") else piece.b
    return piece.a * cos + b * sin, piece.a * sin + b * cos


def _extents(category: Tensor, pose: Pose, angle: Tensor, mirror: Tensor) -> Tensor:
    """Boxes (N, 4) x0, y0, x1, y1 around the mirrored, turned creatures, in units, the frame's origin at (0, 0)."""
    out = torch.zeros(len(category), 4, dtype=torch.float64)
    for _, rows, pieces in _pieces(category, pose):
        turn, side = angle[rows], mirror[rows]
        boxes = []
        for piece in pieces:
            px, py = piece.x * side * turn.cos() - piece.y * turn.sin(), piece.x * side * turn.sin() + piece.y * turn.cos()
            w, h = _half_extent(piece, turn * side)
            boxes.append(torch.stack([px - w, py - h, px + w, py + h], 1))
        boxes = torch.stack(boxes)
        out[rows] = torch.cat([boxes[..., :2].amin(0), boxes[..., 2:].amax(0)], 1)
    return out


def _assemble(cast: _Cast, owner: int, size: int) -> tuple[Parts, Tensor]:
    """Parts (N, slots), each labelled by its slot + 1 (use `PART_INDEX` for names), and keypoints (N, K, 3): x, y in px and slot; NaN where none."""
    n = len(cast.category)
    numbers = {name: torch.zeros(n, SLOTS, dtype=torch.float64) for name in ("cx", "cy", "angle", "shape", "outline")}
    numbers |= {name: torch.ones(n, SLOTS, dtype=torch.float64) for name in ("a", "b", "period")}
    kind, texture = torch.full((n, SLOTS), -1), torch.zeros(n, SLOTS, dtype=torch.long)
    colour, second = torch.zeros(n, SLOTS, 3), torch.zeros(n, SLOTS, 3)
    points = torch.full((n, POINTS, 3), torch.nan, dtype=torch.float64)
    base_colour = COLOUR_TABLE[cast.colour]
    pen = torch.where(cast.sketch, 1.15 * size / 64, 0.0).double()
    for index, rows, pieces in _pieces(cast.category, cast.pose):
        unit, side, turn = cast.unit[rows], cast.mirror[rows], cast.angle[rows]
        cos, sin, base, sketch = turn.cos(), turn.sin(), base_colour[rows], cast.sketch[rows]
        at = {}
        for slot, piece in enumerate(pieces):
            kind[rows, slot] = PRIMITIVES.index(piece.kind)
            x, y = piece.x * side * unit, piece.y * unit
            length = unit if piece.kind == "box" else 1.0  # a box's corner radius is a length, other shape numbers are ratios
            values = {"cx": cast.x[rows] + x * cos - y * sin, "cy": cast.y[rows] + x * sin + y * cos, "a": piece.a * unit, "b": piece.b * unit,
                      "angle": turn + side * piece.angle, "shape": piece.shape * length}  # fmt: skip
            for name, value in values.items():
                numbers[name][rows, slot] = value
            colour[rows, slot] = second[rows, slot] = paint = _paint(piece.tint, base, sketch)
            if piece.tint != "ink":
                numbers["outline"][rows, slot] = pen[rows]
            if piece.textured:
                texture[rows, slot] = cast.texture[rows]
                numbers["period"][rows, slot] = cast.period[rows] / (piece.a * piece.b).sqrt()
                tone = cast.tone[rows, None].float()
                second[rows, slot] = torch.where(sketch[:, None], paint + (base - paint) * 0.45, paint * tone)
            at[piece.name] = (slot, piece, values)
        for k, name in enumerate(KEYPOINTS[CATEGORIES[index]]):
            part, u, v = ANCHORS[CATEGORIES[index]][name]
            slot, piece, values = at[part]
            x, y = _unfold(piece.kind, torch.full_like(unit, u), torch.full_like(unit, v), values["a"], values["b"], values["shape"])
            c, s = values["angle"].cos(), values["angle"].sin()
            points[rows, k] = torch.stack([values["cx"] + side * x * c - y * s, values["cy"] + side * x * s + y * c, torch.full_like(unit, slot)], 1)
    labels = torch.arange(1, SLOTS + 1).expand(n, -1)
    parts = Parts(
        kind=kind, cx=numbers["cx"], cy=numbers["cy"], a=numbers["a"], b=numbers["b"], angle=numbers["angle"], shape=numbers["shape"], texture=texture,
        period=numbers["period"], colour=colour, second=second, label=labels, owner=torch.full_like(labels, owner),
        mirror=cast.mirror[:, None].expand(-1, SLOTS), outline=numbers["outline"], ink=(base_colour * 0.55)[:, None].expand(-1, SLOTS, -1),
    )  # fmt: skip
    return parts, points


def _unfold(kind: str, u: Tensor, v: Tensor, a: Tensor, b: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """From a part's (u, v) to its own frame in px; bent parts follow their parabola."""
    x, y = u * a, v * b
    return x, y - shape / a * x * x if kind in ("bow", "strap") else y


# ---------------------------------------------------------------------------------------------------------------------------- pictures


@dataclass
class CreaturePictures:
    """B pictures and everything they show.

    image (B, 3, S, S) in [0, 1]; mask (B, S, S) bool; part_id (B, S, S) index into skeletons.PARTS, 0 background; uv (B, 2, S, S): place in the visible
    part's own frame, in [-1, 1] but for the ends of bent parts; box (B, 4): x0, y0, x1, y1 of the mask in px.
    keypoints (B, K, 2): x, y in px, named by KEYPOINTS[category] in order, NaN for the names a category lacks; visible (B, K) bool: the part on
    top at that pixel is the keypoint's own. category, colour, texture, style, background, facing (B,): indices into CATEGORIES, COLOURS, TEXTURES,
    STYLES, BACKGROUNDS, FACINGS. angle (B,) radians; traits (B, 5) in [0, 1], named by TRAITS; captions drop attributes at random, full_captions none.
    """

    image: Tensor
    mask: Tensor
    part_id: Tensor
    uv: Tensor
    box: Tensor
    keypoints: Tensor
    visible: Tensor
    category: Tensor
    colour: Tensor
    texture: Tensor
    style: Tensor
    background: Tensor
    facing: Tensor
    angle: Tensor
    traits: Tensor
    captions: list[str]
    full_captions: list[str]

    def __len__(self) -> int:
        return len(self.image)


def _allowed_pairs(categories, textures, exclude) -> Tensor:
    """(P, 2) the (category, texture) pairs to draw from; ValueError when none is left."""
    kinds, patterns = positions("categories", categories, CATEGORIES), positions("textures", textures, TEXTURES)
    banned = excluded(exclude, CATEGORIES, TEXTURES)
    pairs = [(c, t) for c in kinds for t in patterns if (c, t) not in banned]
    if not pairs:
        raise ValueError(f"exclude leaves nothing of categories {categories!r} and textures {textures!r}")
    return torch.tensor(pairs)


def _muted(d: Draws) -> Tensor:
    """(B, 3) a soft colour."""
    level = d.uniform(0.20, 0.75)
    return torch.stack([level + d.uniform(-0.12, 0.12) for _ in range(3)], 1).float()


def _waves(d: Draws, size: int) -> Tensor:
    """(B, 4, 3) four waves of 16 to 50 px at 64 px."""
    low, high = 0.02 * 64 / size, 0.055 * 64 / size
    return torch.stack([torch.stack([d.uniform(low, high), d.uniform(-high, high), d.uniform()], 1) for _ in range(4)], 1)


def _grounds(background: Tensor, low: Tensor, high: Tensor, slope: Tensor, waves: Tensor, size: int) -> Tensor:
    """Backgrounds (B, 3, S, S): a tint by name, a linear gradient from `low` to `high` along `slope` (B, 2), or soft waves between them."""
    names = list(BACKGROUNDS)
    tints = torch.tensor([BACKGROUNDS[n] or (0.0, 0.0, 0.0) for n in names])
    out = plain_background(tints[background], size).clone()
    line = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5
    rows = background == names.index("gradient")
    gx, gy = slope[rows].float().unbind(1)
    share = (line[None, None, :] * gx[:, None, None] + line[None, :, None] * gy[:, None, None] + 0.5).clamp(0, 1)
    out[rows] = low[rows, :, None, None] + (high - low)[rows, :, None, None] * share[:, None]
    rows = background == names.index("noise")
    if bool(rows.any()):
        out[rows] = waved_background(low[rows], high[rows], waves[rows], size)
    return out


def _rounded(image: Tensor, uv: Tensor, shaded: Tensor) -> Tensor:
    """Darken parts towards their rim, as if they were round; `shaded` (N, S, S) says where."""
    u, v = uv[:, 0].clamp(-1, 1), uv[:, 1].clamp(-1, 1)
    light = 1.06 - 0.16 * (u * u + v * v) - 0.05 * v
    return (image * torch.where(shaded, light, 1.0)[:, None]).clamp(0, 1)


def _develop(image: Tensor, gain: Tensor, curve: Tensor) -> Tensor:
    """Exposure and a quadratic tone curve x + c x (1 - x), which does what a gamma does with exact arithmetic."""
    image = (image * gain[:, None, None, None].float()).clamp(0, 1)
    return (image + curve[:, None, None, None].float() * image * (1 - image)).clamp(0, 1)


def _visible(points: Tensor, slot_map: Tensor) -> Tensor:
    """(N, K) bool: the keypoint is on the canvas and its own slot is on top there. points (N, K, 3), slot_map (N, S, S) slot + 1, 0 = none."""
    size = slot_map.shape[-1]
    known = ~points[..., 0].isnan()
    x, y = (torch.where(known, points[..., k], -1.0).floor().long() for k in (0, 1))
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    on_top = slot_map.flatten(1).gather(1, y.clamp(0, size - 1) * size + x.clamp(0, size - 1))
    return known & inside & (on_top == torch.where(known, points[..., 2], -1.0).long() + 1)


def _phrase(words: dict, keep: dict) -> str:
    thing = " ".join([words[k] for k in ("texture", "colour") if keep[k]] + [words["category"]])
    facing = f" facing {words['facing']}" if keep["facing"] else ""
    ground = "a gradient" if words["background"] == "gradient" else words["background"]
    return f"a {words['style']} of {with_article(thing)}{facing}" + (f" on {ground}" if keep["background"] else "")


_DROPPABLE = ("texture", "colour", "facing", "background")
_TABLES = {"style": STYLES, "texture": TEXTURES, "colour": tuple(COLOURS), "category": CATEGORIES, "facing": FACINGS, "background": tuple(BACKGROUNDS)}


def creatures(
    seed: int, indices, *, size: int = 64, categories=CATEGORIES, colours=tuple(COLOURS), textures=TEXTURES, styles=None, exclude=(),
    turned: bool = False,
) -> CreaturePictures:  # fmt: skip
    """Pictures `indices` of the seed's endless list: one creature or thing each.

    size: side in px (>= 32). categories, colours, textures: names to choose among; styles: names with equal shares (None: 85 % photos,
    15 % sketches). exclude: (category, texture) pairs that never occur, e.g. [("rabbit", "striped")]. turned: the same pictures, their
    objects facing the other way. ValueError or TypeError for anything else.
    """
    size, turned = integer("size", size, low=32), flag("turned", turned)
    pairs, hues = _allowed_pairs(categories, textures, exclude), torch.tensor(positions("colours", colours, COLOURS))
    looks = None if styles is None else torch.tensor(positions("styles", styles, STYLES))
    d = Draws(seed, indices)
    pair = pairs[d.integer(len(pairs))]
    chance = d.uniform()
    style = (chance >= PHOTO_SHARE).long() if looks is None else looks[(chance * len(looks)).long()]
    words = {"style": style, "category": pair[:, 0], "texture": pair[:, 1], "colour": hues[d.integer(len(hues))],
             "facing": d.integer(2), "background": d.integer(8)}  # fmt: skip
    words["background"] = torch.where(style == 1, list(BACKGROUNDS).index("paper"), words["background"])
    words["facing"] = 1 - words["facing"] if turned else words["facing"]
    return _draw_pictures(d, words, size)


def creatures_of(captions, seed: int = 0, *, size: int = 64) -> CreaturePictures:
    """Draw what the captions say (see `parse_creature_caption`); what a caption leaves open comes from item 0, 1, ... of the seed."""
    size = integer("size", size, low=32)
    said = [_parse(f"captions[{i}]", caption) for i, caption in enumerate(texts("captions", captions))]
    d = Draws(seed, range(len(said)))
    words = {"style": torch.zeros(len(said), dtype=torch.long)}
    words |= {name: d.integer(len(table) - (name == "background")) for name, table in _TABLES.items() if name != "style"}
    for i, attributes in enumerate(said):
        for name, value in attributes.items():
            if value is not None:
                words[name][i] = value
        if attributes["background"] is None and words["style"][i] == 1:
            words["background"][i] = list(BACKGROUNDS).index("paper")
    return _draw_pictures(d, words, size)


def _draw_pictures(d: Draws, words: dict, size: int) -> CreaturePictures:
    angle = d.uniform(-np.pi * 25 / 180, np.pi * 25 / 180)
    scale, jitter = d.uniform(0.45, 0.85), torch.stack([d.uniform(-1, 1), d.uniform(-1, 1)], 1)
    traits = torch.stack([d.uniform() for _ in TRAITS], 1)
    tone, period = d.uniform(0.36, 0.52), d.uniform(0.27, 0.38)
    low, high, waves = _muted(d), _muted(d), _waves(d, size)
    slope = torch.stack([d.uniform(-1, 1), d.uniform(-1, 1)], 1)
    gain, curve = d.uniform(0.86, 1.10), d.uniform(-0.30, 0.30)
    sketch, mirror, still = words["style"] == 1, 1.0 - 2.0 * words["facing"].double(), torch.zeros_like(angle)
    pose = Pose(*traits.unbind(1), still, still, still)
    extent = _extents(words["category"], pose, angle, mirror)
    side = extent[:, 2:] - extent[:, :2]
    unit = scale * size / side.amax(1)
    room = (size - side * unit[:, None]) / 2 + 0.03 * size
    place = size / 2 + room * jitter - (extent[:, :2] + extent[:, 2:]) / 2 * unit[:, None]
    cast = _Cast(words["category"], words["colour"], words["texture"], sketch, pose, place[:, 0], place[:, 1], unit, angle, mirror, tone, period)
    parts, points = _assemble(cast, 1, size)
    out = render(parts, _grounds(words["background"], low, high, slope, waves, size), uv=True)
    slots, mask = out.part_id, out.object_id > 0
    photo = _develop(_rounded(out.image, out.uv, mask), gain, curve)
    image = torch.where(sketch[:, None, None, None], out.image, photo)
    part_id = torch.cat([torch.zeros(len(CATEGORIES), 1, dtype=torch.long), PART_INDEX], 1)[words["category"]].gather(1, slots.flatten(1)).view_as(slots)
    captions, full = _captions(d, words)
    return CreaturePictures(
        image, mask, part_id, out.uv, mask_boxes(mask), points[..., :2].float(), _visible(points, slots), words["category"], words["colour"],
        words["texture"], words["style"], words["background"], words["facing"], angle, traits, captions, full,
    )  # fmt: skip


def _captions(d: Draws, words: dict) -> tuple[list[str], list[str]]:
    """Captions with attributes dropped (each with probability 0.3; bare forms with 0.1 and 0.25), and full ones."""
    form, dropped = d.uniform().tolist(), {name: d.chance(0.3).tolist() for name in _DROPPABLE}
    captions, full = [], []
    for i, u in enumerate(form):
        say = {name: table[int(words[name][i])] for name, table in _TABLES.items()}
        full.append(_phrase(say, dict.fromkeys(_DROPPABLE, True)))
        keep = {name: u >= 0.35 and not dropped[name][i] for name in _DROPPABLE}
        captions.append(say["category"] if u < 0.1 else _phrase(say, keep))
    return captions, full


_CAPTION = re.compile(r"(?:an? (?P<style>\S+) of )?(?:an? )?(?P<thing>.+?)(?: facing (?P<facing>\S+))?(?: on (?:an? )?(?P<background>\S+))?")


def parse_creature_caption(caption: str) -> dict:
    """Read a caption back: {"style", "texture", "colour", "category", "facing", "background"} as indices, None where nothing is said.

    Raises TypeError for anything but text, ValueError naming the word that the toy world does not know.
    """
    return _parse("caption", caption)


def _parse(argument: str, caption: str) -> dict:
    instance(argument, caption, str, "a text")
    match = _CAPTION.fullmatch(" ".join(caption.lower().split()).rstrip("."))
    if not match:
        raise ValueError(f"{argument} {caption!r} is not one the toy world can draw; example: 'a photo of a striped red cat facing left on white'")
    found = {name: match[name] for name in ("style", "facing", "background")}
    *adjectives, found["category"] = match["thing"].split()
    for word in adjectives:
        name = next((n for n in ("texture", "colour") if word in _TABLES[n] and n not in found), None)
        if name is None:
            open_ = f"{', '.join(TEXTURES)}; {', '.join(COLOURS)}"
            raise ValueError(f"{argument}: {word!r} is neither a texture nor a colour still open; choose from {open_}")
        found[name] = word
    out = {}
    for name, table in _TABLES.items():
        word = found.get(name)
        if word is not None and word not in table:
            raise ValueError(f"{argument}: {word!r} is not a {name} of the toy world; choose from {', '.join(table)}")
        out[name] = None if word is None else table.index(word)
    return out


# ------------------------------------------------------------------------------------------------------------------------------- clips

_UNIT = torch.tensor([[np.cos(k * np.pi / 4), np.sin(k * np.pi / 4)] for k in range(8)], dtype=torch.float64)
_LAYOUTS = 6  # placements tried for two creatures; the one that keeps them farthest apart is taken


@dataclass
class CreatureClips(Captioned):
    """What B clips of T frames show: two slots (the second empty, category -1, but for `two`) and a camera.

    category, colour, texture (B, 2) indices; style (B,); facing (B, 2); position (B, T, 2, 2): x, y in px of the middle of each creature at rest;
    unit (B, T, 2): px per unit of its frame; angle, swing, wag, roll (B, T, 2) radians; middle (B, 2, 2): where the frame's origin lies from the
    middle (units, turned and mirrored with the creature); traits (B, 2, 5); camera (B, T, 2): window position in px; motion (B,) index into MOTIONS;
    direction, speed (B, 2) indices into DIRECTIONS, SPEEDS of the slot's own motion (for `pan` slot 0 holds the camera's);
    ground (B, 2, 3): the background's two colours (equal: plain); waves (B, 4, 3): its pattern; tone, period (B, 2): the textures'.
    """

    category: Tensor
    colour: Tensor
    texture: Tensor
    style: Tensor
    facing: Tensor
    position: Tensor
    unit: Tensor
    angle: Tensor
    swing: Tensor
    wag: Tensor
    roll: Tensor
    middle: Tensor
    traits: Tensor
    camera: Tensor
    motion: Tensor
    direction: Tensor
    speed: Tensor
    ground: Tensor
    waves: Tensor
    tone: Tensor
    period: Tensor
    size: int

    def _name(self, i: int, slot: int) -> str:
        texture = "" if self.texture[i, slot] == 0 else TEXTURES[self.texture[i, slot]] + " "
        return with_article(f"{texture}{list(COLOURS)[self.colour[i, slot]]} {CATEGORIES[self.category[i, slot]]}")

    def _cast(self, slot: int) -> _Cast:
        """The creatures of one slot in all frames, (B * T) of them."""
        b, t = self.position.shape[:2]

        def still(field: Tensor) -> Tensor:
            return field[:, None].expand(b, t, *field.shape[1:]).flatten(0, 1)

        moving = {name: getattr(self, name)[:, :, slot].flatten() for name in ("unit", "angle", "swing", "wag", "roll")}
        mirror = still(1.0 - 2.0 * self.facing[:, slot].double())
        mx, my = still(self.middle[:, slot]).unbind(1)
        mx, cos, sin = mx * mirror, moving["angle"].cos(), moving["angle"].sin()
        px, py = self.position[:, :, slot].flatten(0, 1).unbind(1)
        pose = Pose(*still(self.traits[:, slot]).unbind(1), moving["swing"], moving["wag"], moving["roll"])
        return _Cast(
            still(self.category[:, slot]), still(self.colour[:, slot]), still(self.texture[:, slot]), still(self.style == 1), pose,
            px + (mx * cos - my * sin) * moving["unit"], py + (mx * sin + my * cos) * moving["unit"], moving["unit"], moving["angle"], mirror,
            still(self.tone[:, slot]), still(self.period[:, slot]),
        )  # fmt: skip

    def render(self) -> "CreatureClipRendering":
        """Paint the frames; exact masks, part ids, keypoints and forward flow come with them."""
        b, t = self.position.shape[:2]
        slots = [_assemble(self._cast(slot), slot + 1, self.size) for slot in range(2)]
        slots[1][0].label = slots[1][0].label + SLOTS
        slots[1][1][..., 2] += SLOTS
        parts = Parts(**{name: torch.cat([getattr(s[0], name) for s in slots], 1) for name in vars(slots[0][0])})
        low, high = (self.ground[:, None, k].expand(-1, t, -1).flatten(0, 1) for k in (0, 1))
        waves = self.waves[:, None].expand(-1, t, -1, -1).flatten(0, 1)
        shift_x, shift_y = self.camera[..., 0].flatten(), self.camera[..., 1].flatten()
        out = render(parts, waved_background(low, high, waves, self.size, shift_x=shift_x, shift_y=shift_y), uv=True)
        slot_map, mask = out.part_id, out.object_id > 0
        photo = (self.style == 0).repeat_interleave(t)[:, None, None]
        video = torch.where(photo[:, None], _rounded(out.image, out.uv, mask), out.image)
        table = torch.cat([torch.zeros(b, 1, dtype=torch.long), PART_INDEX[self.category.clamp_min(0)].flatten(1)], 1)
        part_id = table.repeat_interleave(t, 0).gather(1, slot_map.flatten(1))
        points = torch.stack([s[1] for s in slots], 1)  # (B * T, 2, K, 3)
        seen = torch.stack([_visible(points[:, k], slot_map) for k in range(2)], 1)
        frame = (b, t, self.size, self.size)
        flow = self._flow(parts, out.uv, slot_map)
        return CreatureClipRendering(
            video.reshape(b, t, 3, self.size, self.size), mask.reshape(frame), out.object_id.reshape(frame), part_id.reshape(frame),
            points[..., :2].float().reshape(b, t, 2, POINTS, 2), seen.reshape(b, t, 2, POINTS), flow,
        )  # fmt: skip

    def _flow(self, parts: Parts, uv: Tensor, slot_map: Tensor) -> Tensor:
        """(B, T-1, 2, S, S): the visible point keeps its part and its uv; where that lies in frame t+1 minus where it lies in frame t (px)."""
        b, t = self.position.shape[:2]
        here = torch.arange(b * t).view(b, t)[:, :-1].flatten()
        slot = (slot_map[here] - 1).clamp_min(0).flatten(1)

        def there(name: str) -> Tensor:
            return getattr(parts, name)[here + 1].double().gather(1, slot)

        u, v = uv[here].double().flatten(2).unbind(1)
        a, b_half, kind = there("a"), there("b"), parts.kind[here].gather(1, slot)
        bent = (kind == PRIMITIVES.index("bow")) | (kind == PRIMITIVES.index("strap"))
        x, y = u * a, v * b_half
        y = y - torch.where(bent, there("shape") / a, 0.0) * x * x
        x, cos, sin = x * there("mirror"), there("angle").cos(), there("angle").sin()
        line = torch.arange(self.size, dtype=torch.float64) + 0.5
        moved = torch.stack([there("cx") + x * cos - y * sin - line.repeat(self.size), there("cy") + x * sin + y * cos - line.repeat_interleave(self.size)], 1)
        pan = (self.camera[:, :-1] - self.camera[:, 1:]).flatten(0, 1)[..., None]
        flow = torch.where((slot_map[here] > 0).flatten(1)[:, None], moved, pan)
        return flow.float().reshape(b, t - 1, 2, self.size, self.size)


@dataclass
class CreatureClipRendering:
    """video (B, T, 3, S, S) in [0, 1]; mask (B, T, S, S) bool; object_id: 0 background, 1, 2; part_id: index into PARTS; keypoints (B, T, 2, K, 2)
    px of both slots, NaN where there is none; visible (B, T, 2, K) bool; flow (B, T-1, 2, S, S) in px."""

    video: Tensor
    mask: Tensor
    object_id: Tensor
    part_id: Tensor
    keypoints: Tensor
    visible: Tensor
    flow: Tensor


def creature_clips(
    seed: int, indices, *, size: int = 64, frames: int = 8, categories=CATEGORIES, colours=tuple(COLOURS), textures=TEXTURES, styles=("photo",),
    motions=None, exclude=(),
) -> CreatureClips:  # fmt: skip
    """Clips `indices` of the seed's endless list: walking, turning, growing creatures, two of them, or a panning camera.

    size: side in px (>= 32). frames: T >= 2. categories, colours, textures, styles: names to choose among. motions: {motion: share} or names with
    equal shares. exclude: (category, texture) pairs that never occur. Raises ValueError or TypeError for anything else.
    """
    size, frames = integer("size", size, low=32), integer("frames", frames, low=2)
    pairs, hues = _allowed_pairs(categories, textures, exclude), torch.tensor(positions("colours", colours, COLOURS))
    looks = torch.tensor(positions("styles", styles, STYLES))
    wanted, edges = motion_shares(motions, DEFAULT_SHARES)
    if len(hues) < 2 and MOTIONS.index("two") in wanted:
        raise ValueError("colours holds fewer than two colours; two-creature clips need two")
    d = Draws(seed, indices)
    motion = wanted[torch.searchsorted(edges, d.uniform(), right=True).clamp(max=len(wanted) - 1)]
    pair = torch.stack([pairs[d.integer(len(pairs))] for _ in range(2)], 1)
    first, step = d.integer(len(hues)), 1 + d.integer(max(len(hues) - 1, 1))
    colour = torch.stack([hues[first], hues[(first + step) % len(hues)]], 1)
    style = looks[d.integer(len(looks))]
    speed = torch.stack([1 + d.integer(2), d.integer(3)], 1)
    direction = torch.stack([d.integer(8), d.integer(8)], 1)
    return _stage(d, motion, pair[..., 0], pair[..., 1], colour, style, direction, speed, size, frames)


def _both(d: Draws, low: float, high: float) -> Tensor:
    """(B, 2) uniform numbers, one for each slot."""
    return torch.stack([d.uniform(low, high), d.uniform(low, high)], 1)


def _stage(d: Draws, motion, category, texture, colour, style, direction, speed, size: int, frames: int) -> CreatureClips:
    """Fill in where, how large and how fast; every number that a caption does not fix is looked up in `d`."""
    scale, slots = size / 32, torch.tensor([1.0, 0.0], dtype=torch.float64)
    is_two, is_pan = motion == MOTIONS.index("two"), motion == MOTIONS.index("pan")
    moves = (motion == MOTIONS.index("move")) | is_two | is_pan
    speed = torch.stack([speed[:, 0] * moves, speed[:, 1] * is_two], 1)
    slow, fast = _both(d, *SPEED_RANGES["slow"]), _both(d, *SPEED_RANGES["fast"])
    pace = 7 / max(frames - 1, 7)
    length = torch.where(speed == 2, fast, slow) * scale * pace * (speed > 0)
    velocity = _UNIT[direction] * length[..., None]  # (B, 2, 2) px per frame
    walks = (speed > 0) & ~is_pan[:, None]
    sideways = _UNIT[direction][..., 0]
    facing = torch.where(walks & (sideways.abs() > 0.1), (sideways < 0).long(), torch.stack([d.integer(2), d.integer(2)], 1))
    time = torch.arange(frames, dtype=torch.float64) - (frames - 1) / 2
    turning = motion == MOTIONS.index("turn")
    rate = torch.where(d.chance(0.5), 1.0, -1.0) * d.uniform(0.16, 0.30) * pace * turning
    angle = _both(d, -0.2, 0.2)[:, None] + (rate[:, None] * slots)[:, None] * time[None, :, None]
    growth = d.uniform(0.055, 0.075) * ((motion == MOTIONS.index("grow")).double() - (motion == MOTIONS.index("shrink")).double()) * pace
    traits = torch.stack([torch.stack([d.uniform() for _ in TRAITS], 1) for _ in range(2)], 1)
    zero = torch.zeros(len(motion), dtype=torch.float64)
    half, middle = [], []
    for slot in range(2):
        rest = _extents(category[:, slot], Pose(*traits[:, slot].unbind(1), zero, zero, zero), zero, zero + 1)
        half.append((rest[:, 2:] - rest[:, :2]) / 2)
        middle.append(-(rest[:, 2:] + rest[:, :2]) / 2)
    half, middle = torch.stack(half, 1), torch.stack(middle, 1)
    share = torch.where(is_two[:, None], _both(d, 0.32, 0.38), _both(d, 0.38, 0.48))
    unit = (share * size / (2 * half.amax(2)))[:, None] * _powers(1 + growth, time)[..., None]
    cycle, phase = _both(d, 0.14, 0.20) * torch.where(speed == 2, 1.0, 0.6), _both(d, 0.0, 1.0)
    stride = ((cycle[:, None] * pace * time[None, :, None] + phase[:, None]) * 2 * torch.pi).sin() * walks[:, None]
    path = velocity[:, None] * time[None, :, None, None]  # (B, T, 2 slots, 2)
    camera = path[:, :, 0] * is_pan[:, None, None]
    roll = path.square().sum(-1).sqrt() * time.sign()[None, :, None] / (0.19 * unit) * walks[:, None]
    path = path * ~is_pan[:, None, None, None] - camera[:, :, None] * slots[:, None]
    diagonal = half.square().sum(-1, keepdim=True).sqrt().expand(-1, -1, 2)
    reach = path.abs().amax(1) + torch.where(turning[:, None, None], diagonal, 1.1 * half) * unit.amax(1)[..., None]
    slack = (size / 2 - 0.4 - reach).clamp_min(0)
    best, gap = None, None
    for _ in range(_LAYOUTS):
        position = size / 2 + path + (slack * torch.stack([_both(d, -1, 1), _both(d, -1, 1)], 1))[:, None]
        apart = (position[:, :, 0] - position[:, :, 1]).square().sum(-1).amin(1)
        if best is None:
            best, gap = position, apart
        better = is_two & (apart > gap)
        best, gap = torch.where(better[:, None, None, None], position, best), torch.where(better, apart, gap)
    ground = _clip_grounds(d, is_pan, style)
    category = torch.stack([category[:, 0], torch.where(is_two, category[:, 1], -1)], 1)
    return CreatureClips(
        category, colour, texture, style, facing, best, unit, angle, 0.5 * stride, 0.25 * stride, roll, middle, traits, camera, motion, direction,
        speed, ground, _waves(d, size), _both(d, 0.36, 0.52), _both(d, 0.27, 0.38), size,
    )  # fmt: skip


def _powers(base: Tensor, time: Tensor) -> Tensor:
    """(B, T) base ** time for times in halves, by sqrt and products only, so that rounding does not depend on the place in a batch."""
    root = base.sqrt()
    columns = []
    for step in (2 * time).round().long().tolist():
        value = torch.ones_like(root)
        for _ in range(abs(step)):
            value = value * root
        columns.append(value if step >= 0 else 1 / value)
    return torch.stack(columns, 1)


def _clip_grounds(d: Draws, is_pan: Tensor, style: Tensor) -> Tensor:
    """(B, 2, 3) the two colours of the ground: a plain tint, or (half of the clips, and wherever the camera moves) two that make a pattern."""
    tints = torch.tensor([rgb for rgb in BACKGROUNDS.values() if rgb is not None])
    tint, low, high = tints[d.integer(6)], _muted(d), _muted(d)
    difference = high - low
    above = (difference[:, 0] + difference[:, 1] + difference[:, 2])[:, None]
    high = torch.where(above.abs() < 0.6, low + torch.where(above < 0, -0.2, 0.2), high)  # never a pattern too weak to see
    patterned = (d.chance(0.5) & (style == 0)) | is_pan
    tint = torch.where((style == 1)[:, None], torch.tensor(_PAPER), tint)
    pair = torch.stack([low, high], 1)
    return torch.where(patterned[:, None, None], pair, tint[:, None].expand(-1, 2, -1)).clamp(0, 1)
