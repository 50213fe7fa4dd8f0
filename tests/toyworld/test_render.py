"""The renderer against closed forms and against a slow, independent membership test with many samples a pixel."""

import math

import pytest
import torch

from helpers.toyworld.render import PRIMITIVES, TEXTURES, Parts, plain_background, render, waved_background

SIZE = 24


def one_part(kind, *, cx=12.0, cy=12.0, a=7.0, b=7.0, angle=0.0, shape=0.0, texture="plain", period=0.7, mirror=None, outline=None):
    def number(value):
        return torch.tensor([[float(value)]], dtype=torch.float64)

    white, black = torch.ones(1, 1, 3), torch.zeros(1, 1, 3)
    one = torch.ones(1, 1, dtype=torch.long)
    return Parts(
        kind=one * PRIMITIVES.index(kind), cx=number(cx), cy=number(cy), a=number(a), b=number(b), angle=number(angle), shape=number(shape),
        texture=one * TEXTURES.index(texture), period=number(period), colour=white, second=black, label=one, owner=one,
        mirror=None if mirror is None else number(mirror), outline=None if outline is None else number(outline), ink=black,
    )  # fmt: skip


def draw(parts, size=SIZE, **options):
    return render(parts, plain_background(torch.zeros(len(parts), 3), size), **options)


def inside(kind, x, y, a, b, shape):
    """Is (x, y) in the primitive? Written from the words of the documentation, one point at a time."""
    if kind == "ellipse":
        return (x / a) ** 2 + (y / b) ** 2 <= 1
    if kind == "box":  # rounded: within `shape` of the smaller box
        nearest_x, nearest_y = min(max(x, -(a - shape)), a - shape), min(max(y, -(b - shape)), b - shape)
        return math.hypot(x - nearest_x, y - nearest_y) <= shape if shape else abs(x) <= a and abs(y) <= b
    if kind == "trapezoid":
        return abs(y) <= b and abs(x) <= a * shape + (a - a * shape) * (y + b) / (2 * b)
    if kind == "ring":
        return a * shape <= math.hypot(x, y) <= a
    if kind == "cross":
        return (abs(x) <= a * shape and abs(y) <= b) or (abs(x) <= a and abs(y) <= b * shape)
    if kind == "star":  # even-odd rule on the ten corners
        corners = [(r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5)) for k in range(10) for r in [a * shape if k % 2 else a]]
        odd = False
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if (y0 > y) != (y1 > y) and x < x0 + (x1 - x0) * (y - y0) / (y1 - y0):
                odd = not odd
        return odd
    y = y + shape / a * x * x  # the bent ones
    if kind == "bow":
        return (x / a) ** 2 + (y / b) ** 2 <= 1
    return math.hypot(x - min(max(x, -(a - b)), a - b), y) <= b


def supersampled(kind, samples=5, *, cx=12.0, cy=12.0, a=7.0, b=7.0, angle=0.0, shape=0.0, mirror=1.0):
    cover = torch.zeros(SIZE, SIZE)
    for row in range(SIZE):
        for column in range(SIZE):
            hits = 0
            for i in range(samples * samples):
                dx, dy = column + (i % samples + 0.5) / samples - cx, row + (i // samples + 0.5) / samples - cy
                x, y = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
                hits += inside(kind, x * mirror, y, a, b, shape)
            cover[row, column] = hits / samples**2
    return cover


@pytest.mark.parametrize(
    "kind, options",
    [
        ("ellipse", dict(a=8.3, b=4.6, angle=0.4)),
        ("box", dict(a=7.4, b=4.1, shape=2.0, angle=-0.7)),
        ("box", dict(a=6.0, b=6.0, angle=0.3)),
        ("trapezoid", dict(a=7.5, b=5.5, shape=0.4, angle=0.5)),
        ("trapezoid", dict(a=7.0, b=6.0, shape=0.0)),
        ("star", dict(a=9.0, b=9.0, shape=0.42, angle=0.2)),
        ("ring", dict(a=8.0, b=8.0, shape=0.52)),
        ("cross", dict(a=8.0, b=8.0, shape=0.34, angle=0.25)),
        ("bow", dict(a=8.0, b=3.0, shape=0.4, angle=0.6)),
        ("strap", dict(a=8.0, b=2.0, shape=0.5, angle=-0.4, mirror=-1.0)),
        ("trapezoid", dict(a=6.0, b=7.0, shape=0.2, angle=1.2, mirror=-1.0, cx=11.3, cy=12.6)),
    ],
)
def test_primitives_cover_what_a_slow_membership_test_says(kind, options):
    slow = supersampled(kind, **options)
    fast = draw(one_part(kind, **options))
    difference = (fast.image[0, 0] - slow).abs()
    assert difference.mean() < 0.006
    assert difference.max() < 0.42  # corners: the distance to an edge is not the covered share there
    assert torch.equal(fast.part_id[0][(slow == 0) | (slow == 1)] == 1, slow[(slow == 0) | (slow == 1)] == 1)


@pytest.mark.parametrize(
    "kind, options, area",
    [
        ("ellipse", dict(a=7.3, b=7.3), math.pi * 7.3**2),
        ("ellipse", dict(a=9.0, b=5.0, angle=0.4), math.pi * 45),
        ("box", dict(a=6.2, b=6.2, angle=0.3), 4 * 6.2**2),
        ("box", dict(a=8.0, b=5.0, shape=2.0), 160 - (4 - math.pi) * 4),
        ("trapezoid", dict(a=8.0, b=6.0, shape=0.0), 0.5 * 16 * 12),
        ("trapezoid", dict(a=8.0, b=6.0, shape=0.5), 0.5 * (16 + 8) * 12),
        ("ring", dict(a=8.0, shape=0.5), math.pi * (64 - 16)),
        ("cross", dict(a=8.0, b=8.0, shape=0.25), 2 * 16 * 4 - 16),
        ("star", dict(a=9.0, b=9.0, shape=0.42), 5 * 9 * 9 * 0.42 * math.sin(math.pi / 5)),
        ("bow", dict(a=8.0, b=3.0, shape=0.4), math.pi * 24),  # bending keeps the area
        ("strap", dict(a=8.0, b=2.0, shape=0.0), 4 * 12 + math.pi * 4),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5])
def test_areas_are_those_of_the_closed_forms(kind, options, area, shift):
    drawn = float(draw(one_part(kind, cx=12 + shift, cy=12 - shift / 2, **options)).image[0, 0].sum())
    assert drawn == pytest.approx(area, rel=0.012 if kind != "star" else 0.03)


def test_edges_are_anti_aliased():
    edge = draw(one_part("box", a=7.25, b=7.25)).image[0, 0]
    row = edge[12]
    assert row[4] == pytest.approx(0.25, abs=1e-6) and row[19] == pytest.approx(0.25, abs=1e-6)  # the box reaches from 4.75 to 19.25
    assert torch.equal(row[5:19], torch.ones(14)) and row[3] == 0
    disc = draw(one_part("ellipse")).image
    assert 20 < int(((disc > 0.02) & (disc < 0.98)).sum()) / 3 < 60
    line = torch.arange(SIZE) + 0.5
    columns = [draw(one_part("ellipse", cx=12 + s)).image[0, 0].sum(0) for s in (0.0, 0.1, 0.2)]
    centres = [float((c * line).sum() / c.sum()) for c in columns]
    assert centres == pytest.approx([12.0, 12.1, 12.2], abs=0.01)


def test_uv_is_the_place_in_the_parts_own_frame():
    options = dict(a=8.0, b=5.0, angle=0.6, cx=11.0, cy=13.0)
    out = draw(one_part("ellipse", **options), uv=True)
    for row, column in ((13, 11), (11, 9), (14, 14)):
        dx, dy = column + 0.5 - 11, row + 0.5 - 13
        u, v = (dx * math.cos(0.6) + dy * math.sin(0.6)) / 8, (dy * math.cos(0.6) - dx * math.sin(0.6)) / 5
        assert out.uv[0, :, row, column].tolist() == pytest.approx([u, v], abs=1e-5)
    assert (out.uv[0].square().sum(0)[out.part_id[0] == 1] < 1.01).all() and (out.uv[0][:, out.part_id[0] == 0] == 0).all()


def test_a_mirrored_part_is_the_mirrored_picture_with_the_same_uv():
    options = dict(a=8.0, b=5.0, shape=0.3, texture="checkered", cy=12.4)
    plain = draw(one_part("bow", cx=10.2, angle=0.5, mirror=1.0, **options), uv=True)
    mirrored = draw(one_part("bow", cx=SIZE - 10.2, angle=-0.5, mirror=-1.0, **options), uv=True)
    assert torch.allclose(mirrored.image.flip(-1), plain.image, atol=1e-4)
    assert torch.allclose(mirrored.uv.flip(-1), plain.uv, atol=1e-5)


def test_textures_are_periodic_and_turn_with_the_part():
    for texture in TEXTURES[1:]:
        image = draw(one_part("box", a=10.0, b=10.0, texture=texture, period=0.4)).image[0, 0]
        assert torch.allclose(image[4:20, 4:16], image[4:20, 8:20], atol=1e-5)  # period 0.4 of 10 px = 4 px
        assert image[3:21, 3:21].std() > 0.2
        turned = draw(one_part("box", a=10.0, b=10.0, texture=texture, period=0.4, angle=math.pi / 2)).image[0, 0]
        assert torch.allclose(turned, image.rot90(-1), atol=1e-4)
    assert draw(one_part("box", a=10.0, b=10.0)).image[0, 0, 3:21, 3:21].min() == 1


def test_an_outline_runs_just_inside_the_edge():
    out = draw(one_part("box", a=8.0, b=8.0, outline=2.0)).image[0, 0]
    assert (out[4:20, 4:6] == 0).all() and (out[6:18, 6:18] == 1).all()
    assert torch.equal(draw(one_part("box", a=8.0, b=8.0, outline=0.0)).image, draw(one_part("box", a=8.0, b=8.0)).image)


def test_later_parts_hide_earlier_ones_and_none_paints_nothing():
    two = Parts(**{k: None if v is None else torch.cat([v, v], 1) for k, v in vars(one_part("ellipse", a=8, b=8)).items()})
    two.a[0, 1] = two.b[0, 1] = 4.0
    two.label = torch.tensor([[3, 9]])
    two.owner = torch.tensor([[1, 2]])
    out = draw(two)
    assert out.part_id[0, 12, 12] == 9 and out.object_id[0, 12, 12] == 2 and out.part_id[0, 12, 5] == 3 and out.part_id[0, 0, 0] == 0
    two.kind = torch.tensor([[-1, -1]])
    nothing = draw(two)
    assert (nothing.image == 0).all() and (nothing.part_id == 0).all()


def test_a_moving_window_moves_the_ground_by_whole_pixels():
    low, high = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.8, 0.7, 0.6]])
    waves = torch.tensor([[[0.04, 0.01, 0.3], [-0.02, 0.05, 0.7]]])
    here = waved_background(low, high, waves, 20)
    moved = waved_background(low, high, waves, 20, shift_x=torch.tensor([3.0]), shift_y=torch.tensor([2.0]))
    assert torch.allclose(moved[..., :-2, :-3], here[..., 2:, 3:], atol=1e-5)
    assert here.min() >= 0.1 - 1e-6 and here.max() <= 0.8 + 1e-6 and here.std() > 0.02


def test_bad_shapes_are_refused():
    part = one_part("ellipse")
    with pytest.raises(ValueError, match=r"background must be \(B, 3, S, S\), got \(1, 3, 8, 9\)"):
        render(part, torch.zeros(1, 3, 8, 9))
    with pytest.raises(ValueError, match="parts describe 1 pictures but background holds 2"):
        render(part, torch.zeros(2, 3, 8, 8))
