"""One renderer for the whole toy world: signed distance functions, anti-aliased, vectorised over pictures.

A picture is a stack of parts in painter's order on a background. A part is one of a few primitives, placed by centre, half sizes and angle,
and painted with one of four textures in its own frame, so that the texture turns and stretches with the part. Only +, -, *, /, sqrt, min,
max and floor touch the pixels: these round the same way at every position of a batch, so a picture is bit-identical alone and among thousands.

Units: pixels, x to the right, y down, pixel centres at half-integers (the top left pixel's centre is (0.5, 0.5)). Angles: radians,
positive turns clockwise on the screen.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["PRIMITIVES", "TEXTURES"]  # painting itself is the world's own

PRIMITIVES = ("ellipse", "box", "trapezoid", "star", "ring", "cross", "bow", "strap")
TEXTURES = ("plain", "striped", "dotted", "checkered")
CHUNK = 64  # pictures drawn at a time: small enough for temporaries to stay in the processor's cache

# unit normals of the two folding planes and of the edge of a five-pointed star
_COS36, _SIN36, _COS18, _SIN18 = 0.8090169943749475, 0.5877852522924731, 0.9510565162951535, 0.3090169943749474
_TAN18 = 0.3249196962329063


@dataclass
class Parts:
    """P parts of each of B pictures; every field is (B, P) but `colour` and `second` (B, P, 3).

    kind: index into PRIMITIVES, -1 = no part. cx, cy: centre (px). a, b: half sizes (px). angle: radians. shape: the primitive's own number
    (box: corner radius in px; trapezoid: top width / bottom width; star: inner / outer radius; ring: hole / outer radius; cross: arm width / size;
    bow and strap, an ellipse and a capsule bent along a parabola: rise of the ends above the middle / half length).
    texture: index into TEXTURES; period: texture period in units of the part's half size. colour, second: RGB in [0, 1].
    label: what `part_id` says where this part is on top (0 is background); owner: which object it belongs to (1, 2, ...).
    mirror: -1 where the part's frame is reflected (its x axis points left), else 1; outline: width of a pen line drawn just inside the edge (px);
    ink: the pen's RGB (B, P, 3). None: nothing is mirrored, nothing is outlined.
    """

    kind: Tensor
    cx: Tensor
    cy: Tensor
    a: Tensor
    b: Tensor
    angle: Tensor
    shape: Tensor
    texture: Tensor
    period: Tensor
    colour: Tensor
    second: Tensor
    label: Tensor
    owner: Tensor
    mirror: Tensor | None = None
    outline: Tensor | None = None
    ink: Tensor | None = None

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows) -> "Parts":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Parts(**{name: None if value is None else value[rows] for name, value in values.items()})


@dataclass
class Rendering:
    """image (B, 3, S, S) float32 in [0, 1]; part_id, object_id (B, S, S) int64, 0 = background; uv (B, 2, S, S) float32: where in its
    part's own frame the visible point lies, each axis in units of the part's half size, so in [-1, 1] (0 on background)."""

    image: Tensor
    part_id: Tensor
    object_id: Tensor
    uv: Tensor | None


def _distance(kind: int, x: Tensor, y: Tensor, a: Tensor, b: Tensor, shape: Tensor) -> Tensor:
    """Signed distance in pixels (negative inside) of points (N, S*S) to N primitives of one kind, sizes (N, 1)."""
    name = PRIMITIVES[kind]
    if name == "ellipse":  # first-order distance f / |grad f|, exact for a circle
        ux, uy = x / a, y / b
        near = (ux * ux + uy * uy).sqrt()
        vx, vy = ux / a, uy / b
        return near * (near - 1) / (vx * vx + vy * vy).sqrt().clamp_min(1e-6)
    if name == "box":
        dx, dy = x.abs() - (a - shape), y.abs() - (b - shape)
        ox, oy = dx.clamp_min(0), dy.clamp_min(0)
        return (ox * ox + oy * oy).sqrt() + torch.maximum(dx, dy).clamp_max(0) - shape
    if name == "trapezoid":  # three half-planes; top at y = -b with half width shape * a, bottom at y = +b with half width a
        run = a * (1 - shape)
        scale = 2 * b / (4 * b * b + run * run).sqrt()
        side = (x.abs() - a * shape - (y + b) * (run / (2 * b))) * scale
        return torch.maximum(side, y.abs() - b)
    if name == "star":  # fold the plane into half a point of the star, then the distance to one edge; stretched stars use the mean size
        r = a
        y = y * (a / b)
        x = x.abs()
        fold = 2 * torch.maximum(_COS36 * x - _SIN36 * -y, torch.zeros((), dtype=x.dtype))
        x, y = x - fold * _COS36, -y - fold * -_SIN36
        fold = 2 * torch.maximum(-_COS36 * x - _SIN36 * y, torch.zeros((), dtype=x.dtype))
        x, y = x - fold * -_COS36, y - fold * -_SIN36
        x = x.abs()
        inner = r * shape
        edge_x, edge_y = inner * _SIN36, inner * _COS36 - r
        length = (edge_x * edge_x + edge_y * edge_y).sqrt()
        return (x * -edge_y + (y - r) * edge_x) / length
    if name in ("bow", "strap"):
        return _bent_distance(name, x, y, a, b, shape)
    radius = (x * x + y * y).sqrt()
    if name == "ring":
        hole = a * shape
        return (radius - (a + hole) / 2).abs() - (a - hole) / 2
    x, y = x.abs(), y.abs()  # cross: a tall and a wide bar
    arm = a * shape
    return torch.minimum(torch.maximum(x - arm, y - b), torch.maximum(x - a, y - b * shape))


def _unbend(kind: int, x: Tensor, y: Tensor, a: Tensor, shape: Tensor) -> Tensor:
    """The part's own vertical coordinate: for bent primitives, measured from the parabola on which the middle line lies."""
    return y + shape / a * x * x if PRIMITIVES[kind] in ("bow", "strap") else y


def _bent_distance(name: str, x: Tensor, y: Tensor, a: Tensor, b: Tensor, shape: Tensor) -> Tensor:
    """First-order distance f / |grad f| to an ellipse (bow) or capsule (strap) whose ends are lifted by shape * a."""
    slope = 2 * shape / a * x
    y = y + shape / a * x * x
    if name == "bow":
        ux, uy = x / a, y / b
        near = (ux * ux + uy * uy).sqrt()
        vy = uy / b
        vx = ux / a + vy * slope
        return near * (near - 1) / (vx * vx + vy * vy).sqrt().clamp_min(1e-6)
    over = (x.abs() - (a - b).clamp_min(0)).clamp_min(0)
    away = (over * over + y * y).sqrt()
    gx = torch.where(x < 0, -over, over) + y * slope
    steep = (gx * gx + y * y).sqrt() / away.clamp_min(1e-6)
    return (away - b) / steep.clamp_min(0.5)


def _wave(t: Tensor) -> Tensor:
    """A smooth wave of period 1 from 0 (at whole t) to 1 (half-way), without a trigonometric function."""
    t = t - t.floor()
    t = 1 - (2 * t - 1).abs()
    return t * t * (3 - 2 * t)


def _pattern(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Share of the second colour at texture coordinates u, v (N, S*S), textures (N, 1): 0 everywhere for `plain`."""
    half_u, half_v = u - u.floor() - 0.5, v - v.floor() - 0.5
    stripes = half_u.abs() * 4 - 1
    dots = 1.4 - (half_u * half_u + half_v * half_v) * 10
    checks = half_u * half_v * -16
    value = torch.where(texture == 1, stripes, torch.where(texture == 2, dots, checks))
    value = (value * 2 + 0.5).clamp(0, 1)
    return value * (texture != 0)


def _paint(parts: Parts, background: Tensor, size: int, want_uv: bool) -> Rendering:
    count, slots = parts.kind.shape
    line = torch.arange(size, dtype=torch.float32) + 0.5
    px, py = line.repeat(size), line.repeat_interleave(size)
    image = background.reshape(count, 3, size * size).clone()
    part_id = torch.zeros(count, size * size, dtype=torch.int64)
    object_id = torch.zeros_like(part_id)
    uv = torch.zeros(count, 2, size * size) if want_uv else None
    turn_cos, turn_sin = parts.angle.double().cos().float(), parts.angle.double().sin().float()
    for slot in range(slots):
        kinds = parts.kind[:, slot]
        for kind in kinds.unique().tolist():
            if kind < 0:
                continue
            rows = (kinds == kind).nonzero()[:, 0]
            whole = len(rows) == count

            def column(field, rows=rows, slot=slot):
                return field[rows, slot, None].float()

            cos, sin = column(turn_cos), column(turn_sin)
            a, b = column(parts.a), column(parts.b)
            dx, dy = px - column(parts.cx), py - column(parts.cy)
            x, y = dx * cos + dy * sin, dy * cos - dx * sin
            if parts.mirror is not None:
                x = x * column(parts.mirror)
            distance = _distance(kind, x, y, a, b, column(parts.shape))
            cover = (0.5 - distance).clamp(0, 1)
            y = _unbend(kind, x, y, a, column(parts.shape))
            texture = parts.texture[rows, slot, None]
            first, second = parts.colour[rows, slot].float(), parts.second[rows, slot].float()
            paint = first[:, :, None].expand(-1, -1, size * size)
            if bool((texture != 0).any()):
                period = column(parts.period)
                mix = _pattern(texture, x / (a * period), y / (b * period))
                paint = first[:, :, None] + (second - first)[:, :, None] * mix[:, None]
            if parts.outline is not None:
                width, ink = column(parts.outline), parts.ink[rows, slot].float()[:, :, None]
                line_share = (0.5 + distance + width).clamp(0, 1) * (width > 0)
                paint = paint + (ink - paint) * line_share[:, None]
            old = image if whole else image[rows]
            new = old + (paint - old) * cover[:, None]
            on_top = cover > 0.5
            label, owner = parts.label[rows, slot, None], parts.owner[rows, slot, None]
            if whole:
                image = new
                part_id = torch.where(on_top, label, part_id)
                object_id = torch.where(on_top, owner, object_id)
            else:
                image[rows] = new
                part_id[rows] = torch.where(on_top, label, part_id[rows])
                object_id[rows] = torch.where(on_top, owner, object_id[rows])
            if want_uv:
                uv[rows] = torch.where(on_top[:, None], torch.stack([x / a, y / b], 1), uv[rows])
    shape = (count, size, size)
    return Rendering(
        image.reshape(count, 3, size, size), part_id.reshape(shape), object_id.reshape(shape), uv.reshape(count, 2, size, size) if want_uv else None
    )


def render(parts: Parts, background: Tensor, *, uv: bool = False) -> Rendering:
    """Paint parts over backgrounds (B, 3, S, S) in [0, 1]; returns a Rendering of B pictures.

    A part covers a pixel by clamp(1/2 - signed distance), the share of the pixel that a straight edge at this distance leaves inside.
    Raises ValueError if the number of pictures differs or the background is not square RGB.
    """
    if background.ndim != 4 or background.shape[1] != 3 or background.shape[2] != background.shape[3]:
        raise ValueError(f"background must be (B, 3, S, S), got {tuple(background.shape)}")
    if len(parts) != len(background):
        raise ValueError(f"parts describe {len(parts)} pictures but background holds {len(background)}")
    size = background.shape[-1]
    pieces = [_paint(parts[i : i + CHUNK], background[i : i + CHUNK], size, uv) for i in range(0, len(parts), CHUNK)]
    return Rendering(
        torch.cat([p.image for p in pieces]),
        torch.cat([p.part_id for p in pieces]),
        torch.cat([p.object_id for p in pieces]),
        torch.cat([p.uv for p in pieces]) if uv else None,
    )


def plain_background(colour: Tensor, size: int) -> Tensor:
    """(B, 3) RGB in [0, 1] -> (B, 3, S, S)."""
    return colour.float()[:, :, None, None].expand(-1, -1, size, size)


def waved_background(low: Tensor, high: Tensor, waves: Tensor, size: int, *, shift_x: Tensor | None = None, shift_y: Tensor | None = None) -> Tensor:
    """A soft endless pattern between two colours, seen through a window that can be moved.

    low, high: (B, 3) RGB. waves: (B, K, 3), each wave (cycles per px along x, along y, phase in cycles); shift_x, shift_y: (B,) window
    position in px. Returns (B, 3, S, S). Moving the window by one pixel moves every value by exactly one pixel, for ever.
    """
    line = torch.arange(size, dtype=torch.float32) + 0.5
    x = line.repeat(size)[None] + (0 if shift_x is None else shift_x.float()[:, None])
    y = line.repeat_interleave(size)[None] + (0 if shift_y is None else shift_y.float()[:, None])
    total = 0
    for k in range(waves.shape[1]):
        fx, fy, phase = waves[:, k].float().unbind(-1)
        total = total + _wave(x * fx[:, None] + y * fy[:, None] + phase[:, None])
    total = (total / waves.shape[1]).expand(len(low), -1)
    out = low.float()[:, :, None] + (high - low).float()[:, :, None] * total[:, None]
    return out.reshape(len(low), 3, size, size)
