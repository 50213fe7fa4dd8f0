"""Pictures of pen strokes: lines, arcs, waves, corners, rings and curls in every direction and width; free drawings and letters of invented alphabets.

    p = strokes(seed, range(64))                    # one to three strokes each; how they cross, what they enclose, which way they run
    p = letters(seed, range(64), alphabet=3)        # letter p.letter[i] of alphabet 3, written anew by an unsteady hand in every picture

A stroke goes through seven knots, straight from one to the next or in a smooth curve (Catmull & Rom 1974), and is painted as a chain of thirty short
segments of one width. A drawing is a plane graph: what it says of crossings, free ends and enclosed areas is counted on these segments, exactly.
Nothing here is a digit or a letter of any script; everything is looked up by (seed, item number): an item is the same alone and among many.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..arguments import integer
from .draws import Draws
from .shapes import COLOUR_TABLE

__all__ = ["KINDS", "MOST", "Strokes", "letters", "strokes"]

KINDS = ("line", "arc", "wave", "corner", "ring", "curl")
MOST = 3  # strokes of a drawing
_KNOTS, _SPANS, _EACH = 7, 6, 5  # of a stroke: its knots, the spans between them, the segments of a span
_CHUNK = 64
_SHARES = (0.20, 0.29, 0.13, 0.20, 0.10, 0.08)  # of KINDS
_AWAY = 1e4  # where points of strokes lie that are not there


@dataclass
class Strokes:
    """image (B, 3, S, S) in [0, 1]; mask (B, S, S) bool: the pixel's centre is inked. count (B,): strokes; kind (B, 3): indices into KINDS, -1 where there
    is no stroke; points (B, 3, 31, 2): x, y in px along each stroke, NaN where there is none; width (B,): of the pen (px); soft (B,): px over which its edge
    fades. crossings, ends, loops (B,): where a stroke crosses another or itself, free ends, enclosed areas. direction (B, 4): shares of the length that
    run nearest to 0, 45, 90 and 135 degrees (clockwise from the right on the screen, either way along the stroke). letter (B,): which letter of the
    alphabet, -1 in free drawings. ink, paper (B, 3): RGB."""

    image: Tensor
    mask: Tensor
    count: Tensor
    kind: Tensor
    points: Tensor
    width: Tensor
    soft: Tensor
    crossings: Tensor
    ends: Tensor
    loops: Tensor
    direction: Tensor
    letter: Tensor
    ink: Tensor
    paper: Tensor

    def __len__(self) -> int:
        return len(self.image)


def strokes(seed: int, indices, *, size: int = 32) -> Strokes:
    """Drawings `indices` of the seed's endless list, size x size px (>= 16): one to three strokes each."""
    size = integer("size", size, low=16)
    d = Draws(seed, indices)
    return _drawn(d, _plan(d), torch.full((len(d),), -1), size, hand=0.0)


def letters(seed: int, indices, *, alphabet: int = 0, count: int = 500, size: int = 32) -> Strokes:
    """Letters `indices` of the seed's endless list: each one of the `count` (>= 1) letters of an invented alphabet, size x size px (>= 16).

    A letter is a free drawing's plan; the hand that writes it moves its knots, slants, turns and stretches it and takes a pen of its own.
    """
    size, count = integer("size", size, low=16), integer("count", count, low=1)
    d = Draws(seed, indices)
    letter = d.integer(count)
    return _drawn(d, _plan(Draws(integer("alphabet", alphabet, low=0), letter)), letter, size, hand=1.0)


# ---------------------------------------------------------------------------------------------------------------- what is drawn


@dataclass
class _Plan:
    """knots (B, 3, 7, 2) about 0, one unit large; offset (B, 3, 2): where a stroke's middle lies; joined (B, 3): it
    begins at point `anchor` of the one before."""

    count: Tensor
    kind: Tensor
    knots: Tensor
    offset: Tensor
    joined: Tensor
    anchor: Tensor


def _plan(d: Draws) -> _Plan:
    count = 1 + (d.uniform() * 2.6).floor().long()  # three strokes are rarer
    columns = []
    for k in range(MOST):
        kind = torch.bucketize(d.uniform(), torch.tensor(_SHARES, dtype=torch.float64).cumsum(0)[:-1])
        knots = _knots(d, kind)
        middle = (knots.amax(1) + knots.amin(1)) / 2
        knots = (knots - middle[:, None]) / (knots.amax(1) - knots.amin(1)).amax(1)[:, None, None]
        long = d.uniform(0.35, 1.0)
        knots = knots * (torch.ones_like(long) if k == 0 else long)[:, None, None]
        offset = torch.stack([d.uniform(-0.5, 0.5), d.uniform(-0.5, 0.5)], 1)
        joined = d.chance(0.5) & (kind != KINDS.index("ring")) & (k > 0)
        anchor = 3 + d.integer(_SPANS * _EACH - 5)
        columns.append((kind, knots, offset * (k > 0), joined, anchor))
    kind, knots, offset, joined, anchor = (torch.stack(column, 1) for column in zip(*columns, strict=True))
    there = torch.arange(MOST) < count[:, None]
    return _Plan(count, torch.where(there, kind, -1), knots, offset, joined & there, anchor)


def _knots(d: Draws, kind: Tensor) -> Tensor:
    """(B, 7, 2): a walk of six steps. The kind says how it turns between them."""
    heading, way = d.uniform(0, 2 * np.pi), 1.0 - 2.0 * d.integer(2).double()
    bend, sharp, where, second = d.uniform(0.7, 5.2), d.uniform(0.9, 2.6), 1 + d.integer(4), d.chance(0.4)
    turns = torch.zeros(len(d), _SPANS, dtype=torch.float64)
    step = torch.arange(_SPANS)
    at = {name: (kind == i)[:, None] for i, name in enumerate(KINDS)}
    turns = torch.where(at["arc"], bend[:, None] / 5 * (step > 0), turns)
    turns = torch.where(at["wave"], (0.25 + bend[:, None] / 7) * torch.tensor([0, 1, 1, -1, -1, -1]), turns)
    first, other = step == where[:, None], second[:, None] & (step == where[:, None] + 2)
    turns = torch.where(at["corner"], sharp[:, None] * (first.double() - other.double()), turns)
    turns = torch.where(at["ring"], 2 * np.pi / _SPANS * (step > 0), turns)
    turns = torch.where(at["curl"], (1.25 + bend[:, None] / 40) * torch.tensor([0, 1, 1, 1, 1, 0]), turns)
    angle = heading[:, None] + way[:, None] * turns.cumsum(1)
    length = torch.stack([d.uniform(0.75, 1.25) for _ in range(_SPANS)], 1)
    length = torch.where(at["ring"], 1.0, torch.where(at["curl"], length * torch.tensor([2.2, 0.9, 0.8, 0.8, 0.9, 2.2]), length))
    steps = torch.stack([angle.cos(), angle.sin()], 2) * length[:, :, None]
    knots = torch.cat([torch.zeros(len(d), 1, 2, dtype=torch.float64), steps.cumsum(1)], 1)
    squeeze = torch.where(kind == KINDS.index("line"), 1.0, d.uniform(0.55, 1.0))  # along a direction of its own
    lean = d.uniform(0, np.pi)
    axis = torch.stack([lean.cos(), lean.sin()], 1)[:, None]
    return knots + (squeeze[:, None, None] - 1) * (knots * axis).sum(2, keepdim=True) * axis


def _along(knots: Tensor, kind: Tensor) -> Tensor:
    """(B, 31, 2): points along strokes through knots (B, 7, 2), straight for lines and corners, else by the curve of Catmull and Rom."""
    ring = (kind == KINDS.index("ring"))[:, None]
    before = torch.where(ring, knots[:, -2], 2 * knots[:, 0] - knots[:, 1])
    after = torch.where(ring, knots[:, 1], 2 * knots[:, -1] - knots[:, -2])
    k = torch.cat([before[:, None], knots, after[:, None]], 1)
    straight = torch.isin(kind, torch.tensor([KINDS.index("line"), KINDS.index("corner")]))[:, None, None]
    points = []
    for i in range(_SPANS * _EACH + 1):
        span, t = (i // _EACH, i % _EACH / _EACH) if i < _SPANS * _EACH else (_SPANS - 1, 1.0)
        a, b, c, e = (k[:, span + j] for j in range(4))
        smooth = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - e) * t**2 + (3 * b - a - 3 * c + e) * t**3)
        points.append(torch.where(straight[:, 0], b + (c - b) * t, smooth))
    return torch.stack(points, 1)


def _drawn(d: Draws, plan: _Plan, letter: Tensor, size: int, *, hand: float) -> Strokes:
    """The plan drawn by a hand that is steady (0) or not (1)."""
    shaken = torch.stack([d.uniform(-1, 1) for _ in range(MOST * _KNOTS * 2)], 1).reshape(len(d), MOST, _KNOTS, 2)
    shaken[:, :, -1] = torch.where((plan.kind == KINDS.index("ring"))[..., None], shaken[:, :, 0], shaken[:, :, -1])
    moved = torch.stack([d.uniform(-1, 1) for _ in range(MOST * 2)], 1).reshape(len(d), MOST, 2)
    strokes = []
    for k in range(MOST):
        points = _along(plan.knots[:, k] + 0.035 * hand * shaken[:, k], plan.kind[:, k]) + (plan.offset[:, k] + 0.06 * hand * moved[:, k])[:, None]
        if k > 0:
            start = strokes[-1][torch.arange(len(d)), plan.anchor[:, k]]
            points = torch.where(plan.joined[:, k, None, None], points - points[:, :1] + start[:, None], points)
        strokes.append(points)
    points = torch.stack(strokes, 1)
    turn, slant, narrow = d.uniform(-0.2, 0.2) * hand, d.uniform(-0.3, 0.3) * hand, d.uniform(0.75, 1.33)
    x, y = points[..., 0], points[..., 1]
    cos, sin, slant, narrow = (v[:, None, None] for v in (turn.cos(), turn.sin(), slant, 1 + hand * (narrow - 1)))
    points = torch.stack([narrow * (x * cos - y * sin + slant * y), x * sin + y * cos], 3)
    points = _fitted(d, points, plan.kind >= 0, size)
    width = d.uniform(0.045, 0.15) * size
    soft = torch.where(d.chance(0.5), 1.0, d.uniform(1.0, 4.0) * size / 32)
    ink, paper = _colours(d)
    distance = torch.cat([_distance(points[i : i + _CHUNK].float(), size) for i in range(0, len(d), _CHUNK)])
    cover = (0.5 - (distance - width.float()[:, None, None] / 2) / soft.float()[:, None, None]).clamp(0, 1)[:, None]
    image = paper[:, :, None, None] + (ink - paper)[:, :, None, None] * cover
    crossings, loops = _graph(points, plan)
    ends = 2 * ((plan.kind >= 0) & (plan.kind != KINDS.index("ring"))).sum(1) - plan.joined.sum(1)
    points = torch.where((plan.kind >= 0)[..., None, None], points, torch.nan)
    return Strokes(image, distance < width.float()[:, None, None] / 2, plan.count, plan.kind, points, width, soft, crossings, ends, loops,
                   _directions(points), letter, ink, paper)  # fmt: skip


def _fitted(d: Draws, points: Tensor, there: Tensor, size: int) -> Tensor:
    """Brought to px: the larger side takes 45 to 85 % of the picture, the middle lies where there is room."""
    far = there[..., None, None]
    low = torch.where(far, points, torch.inf).amin((1, 2))
    high = torch.where(far, points, -torch.inf).amax((1, 2))
    unit = d.uniform(0.45, 0.85) * size / (high - low).amax(1)
    room = (0.9 * size - (high - low) * unit[:, None]) / 2
    middle = size / 2 + room * torch.stack([d.uniform(-1, 1), d.uniform(-1, 1)], 1)
    return torch.where(far, (points - ((low + high) / 2)[:, None, None]) * unit[:, None, None, None] + middle[:, None, None], _AWAY)


def _colours(d: Draws) -> tuple[Tensor, Tensor]:
    """Ink and paper (B, 3): half of the pictures bright on black, a quarter dark on light, a quarter in colours."""
    way = d.uniform()
    dark, light = d.uniform(0.0, 0.12), d.uniform(0.65, 1.0)
    bright, grey = COLOUR_TABLE[d.integer(len(COLOUR_TABLE))], d.uniform(0.05, 0.4)[:, None].expand(-1, 3)
    dark, light = dark[:, None].expand(-1, 3), light[:, None].expand(-1, 3)
    dark = torch.where((way < 0.4)[:, None], 0.0, dark)
    ink = torch.where((way < 0.5)[:, None], light, torch.where((way < 0.75)[:, None], dark, bright.double()))
    paper = torch.where((way < 0.5)[:, None], dark, torch.where((way < 0.75)[:, None], light, grey))
    return ink.float(), paper.float()


def _distance(points: Tensor, size: int) -> Tensor:
    """(B, S, S): px from each pixel's centre to the nearest stroke of points (B, 3, 31, 2)."""
    line = torch.arange(size, dtype=torch.float32) + 0.5
    px, py = line.repeat(size), line.repeat_interleave(size)
    nearest = torch.full((len(points), size * size), torch.inf)
    for k in range(MOST):
        rows = (points[:, k, 0, 0] < _AWAY / 2).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        squared = torch.full((len(rows), size * size), torch.inf)
        for start, stop in zip(points[rows, k, :-1].unbind(1), points[rows, k, 1:].unbind(1)):
            (ax, ay), (ux, uy) = start.split(1, 1), (stop - start).split(1, 1)
            dx, dy = px - ax, py - ay
            t = ((dx * ux + dy * uy) / (ux * ux + uy * uy).clamp_min(1e-12)).clamp(0, 1)
            dx, dy = dx - t * ux, dy - t * uy
            squared = torch.minimum(squared, dx * dx + dy * dy)
        nearest[rows] = torch.minimum(nearest[rows], squared)
    return nearest.sqrt().reshape(-1, size, size)


# ------------------------------------------------------------------------------------------------------------ what is known of it


def _graph(points: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Crossings and enclosed areas of each drawing, by Euler's formula: areas = crossings + joints - open strokes + connected pieces."""
    n, last = points.shape[2] - 1, points.shape[2] - 2
    crossed = torch.zeros(len(points), MOST, MOST, dtype=torch.long)
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    ring = plan.kind == KINDS.index("ring")
    for a in range(MOST):
        for b in range(a, MOST):
            hit = _cross(points[:, a], points[:, b])
            if a == b:
                hit &= (j > i + 1) & ~(ring[:, a, None, None] & (i == 0) & (j == last))
            if b == a + 1:  # where b begins on a it does not cross
                near = (i - plan.anchor[:, b, None, None] + 0.5).abs() < 1
                hit &= ~(plan.joined[:, b, None, None] & near & (j == 0))
            crossed[:, a, b] = hit.sum((1, 2)) * ((plan.kind[:, a] >= 0) & (plan.kind[:, b] >= 0))
    linked = crossed + torch.stack([torch.diag(joined[1:].long(), 1) for joined in plan.joined]) > 0
    linked = linked | linked.transpose(1, 2) | torch.eye(MOST, dtype=torch.bool)
    linked = (linked.long() @ linked.long() @ linked.long()) > 0  # three strokes: two steps reach everything
    there = plan.kind >= 0
    pieces = (there & ~(linked & there[:, None] & (torch.arange(MOST) < torch.arange(MOST)[:, None])).any(2)).sum(1)
    crossings = crossed.sum((1, 2))
    return crossings, crossings + plan.joined.sum(1) - (there & ~ring).sum(1) + pieces


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """(B, n, n) bool: segment i of the chain a (B, n + 1, 2) properly crosses segment j of b."""
    p, q, r, s = a[:, :-1, None], a[:, 1:, None], b[:, None, :-1], b[:, None, 1:]

    def side(u, v, w):
        return (v[..., 0] - u[..., 0]) * (w[..., 1] - u[..., 1]) - (v[..., 1] - u[..., 1]) * (w[..., 0] - u[..., 0])

    return (side(p, q, r) * side(p, q, s) < 0) & (side(r, s, p) * side(r, s, q) < 0)


def _directions(points: Tensor) -> Tensor:
    step = points.diff(dim=2).nan_to_num().flatten(1, 2)
    length = step.square().sum(2).sqrt()
    x, y = step.unbind(2)
    steep, diagonal = y.abs() > 2.414213562373095 * x.abs(), 2.414213562373095 * y.abs() > x.abs()  # the tangent of 67.5 degrees
    which = torch.where(steep, 2, torch.where(diagonal, torch.where(x * y > 0, 1, 3), 0))
    share = torch.stack([(length * (which == k)).sum(1) for k in range(4)], 1)
    return (share / share.sum(1, keepdim=True)).float()
