"""Pen strokes: what they say of themselves against an analyser of pixels, an independent count, known figures; items do not depend on each other."""

import numpy as np
import pytest
import torch
from skimage.measure import label

from helpers.toyworld import strokes as world
from helpers.toyworld.strokes import KINDS, letters, strokes

torch.set_num_threads(1)


@pytest.mark.parametrize("make", [strokes, letters])
def test_an_item_is_the_same_alone_and_among_many(make):
    many, alone = make(4, range(20, 100), size=24), make(4, [27], size=24)
    assert many.image.shape == (80, 3, 24, 24) and 0 <= many.image.min() and many.image.max() <= 1 and many.image.dtype == torch.float32
    for name, value in vars(many).items():
        assert torch.equal(value[7:8].nan_to_num(-9.0), getattr(alone, name).nan_to_num(-9.0)), name
    assert not torch.equal(make(5, [27], size=24).image, alone.image)


def test_every_kind_and_count_occurs_and_points_lie_in_the_picture():
    p = strokes(0, range(600), size=40)
    assert torch.bincount(p.count)[1:].min() > 80 and (p.letter == -1).all()
    assert torch.bincount(p.kind[p.kind >= 0], minlength=len(KINDS)).min() > 40
    assert torch.equal((p.kind >= 0).sum(1), p.count) and torch.equal(p.points.isnan().any(3).any(2), p.kind < 0)
    inside = p.points[p.kind >= 0]
    assert inside.min() > 0 and inside.max() < 40
    side = (inside.new_tensor([40 * 0.45]) - 1e-9, 40 * 0.85 + 1e-9)
    low, high = p.points.nan_to_num(1e9).amin((1, 2)), p.points.nan_to_num(-1e9).amax((1, 2))
    assert ((high - low).amax(1) >= side[0]).all() and ((high - low).amax(1) <= side[1]).all()


def test_the_mask_is_what_lies_within_half_a_width():
    p = strokes(3, range(12), size=32)
    y, x = np.mgrid[:32, :32] + 0.5
    for i in range(12):
        nearest = np.full((32, 32), np.inf)
        for k in range(p.count[i]):
            chain = p.points[i, k].numpy()
            for a, b in zip(chain[:-1], chain[1:]):  # a slow loop: the nearest of a thousand points of every segment
                for t in np.linspace(0, 1, 60):
                    nearest = np.minimum(nearest, np.hypot(x - (a + t * (b - a))[0], y - (a + t * (b - a))[1]))
        clear = np.abs(nearest - p.width[i].item() / 2) > 0.02
        assert np.array_equal((nearest < p.width[i].item() / 2)[clear], p.mask[i].numpy()[clear])
    sharp = p.soft == 1
    shown = ((p.image - p.paper[:, :, None, None]).abs().amax(1) > 0.5 * (p.ink - p.paper).abs().amax(1)[:, None, None])[sharp]
    assert (shown == p.mask[sharp]).float().mean() > 0.999


def test_loops_are_those_that_pixels_show():
    """A thin and large drawing of the same lines: scikit-image counts the pieces of paper, but for specks of a few pixels where lines nearly touch."""
    p, agree = strokes(7, range(150), size=32), 0
    for i in range(150):
        fine = world._distance((p.points[i : i + 1] * 16).nan_to_num(world._AWAY).float(), 512)[0].numpy() < 1.0
        areas = np.bincount(label(~fine, connectivity=1).ravel())[1:]
        agree += int((areas > 25).sum() - 1 == p.loops[i])
    assert agree > 0.9 * 150  # others enclose less than that


def test_crossings_and_ends_of_known_figures():
    def graph(*chains, kinds, joined=(False, False, False), anchor=(0, 0, 0)):
        points = torch.full((1, 3, 31, 2), 1e4, dtype=torch.float64)
        for k, chain in enumerate(chains):
            points[0, k] = chain
        kind = torch.tensor([[KINDS.index(n) for n in kinds] + [-1] * (3 - len(kinds))])
        plan = world._Plan(torch.tensor([len(kinds)]), kind, None, None, torch.tensor([joined]), torch.tensor([anchor]))
        return tuple(int(value) for value in world._graph(points, plan))

    t = torch.linspace(0, 1, 31, dtype=torch.float64)[:, None]
    across, down = torch.cat([10 * t, 0 * t + 5.13], 1), torch.cat([0 * t + 4.71, 10 * t], 1)
    ring = torch.cat([5 + 3 * (2 * np.pi * t).cos(), 5 + 3 * (2 * np.pi * t).sin()], 1)
    assert graph(across, kinds=["line"]) == (0, 0)
    assert graph(across, down, kinds=["line", "line"]) == (1, 0)
    assert graph(ring, kinds=["ring"]) == (0, 1)
    assert graph(ring, across, kinds=["ring", "line"]) == (2, 2)  # a ring cut in two
    assert graph(ring, across, down, kinds=["ring", "line", "line"]) == (5, 4)
    start = across[10]
    tee = torch.cat([start[:1] + 0 * t, start[1] + 4 * t], 1)
    assert graph(across, tee, kinds=["line", "line"], joined=(False, True, False), anchor=(0, 10, 0)) == (0, 0)
    bow = torch.cat([(2 * np.pi * (0.9 * t + 0.05)).cos() * 3 * (1 + t), (2 * np.pi * (0.9 * t + 0.05)).sin() * 3], 1)
    curl = torch.cat([4 * t - 2 * (3 * np.pi * t - 0.3).sin(), (3 * np.pi * t - 0.3).cos()], 1)
    assert graph(bow, kinds=["arc"]) == (0, 0) and graph(curl, kinds=["curl"])[0] == graph(curl, kinds=["curl"])[1] > 0


def test_directions_of_lines():
    p = strokes(1, range(400), size=64)
    lines = (p.count == 1) & (p.kind[:, 0] == KINDS.index("line"))
    step = p.points[lines, 0, -1] - p.points[lines, 0, 0]
    which = (torch.atan2(step[:, 1], step[:, 0]) / (np.pi / 4)).round().long() % 4
    assert len(which.unique()) == 4 and torch.equal(p.direction[lines].argmax(1), which) and (p.direction[lines].amax(1) > 0.999).all()
    assert (p.direction.sum(1) - 1).abs().max() < 1e-6 and (p.direction.mean(0) - 0.25).abs().max() < 0.05


def test_ends_are_two_a_stroke_but_for_rings_and_joints():
    p = strokes(2, range(300))
    joined = [sum(bool(torch.isclose(p.points[i, k, 0], p.points[i, k - 1]).all(1).any()) for k in range(1, p.count[i])) for i in range(300)]
    open_strokes = ((p.kind >= 0) & (p.kind != KINDS.index("ring"))).sum(1)
    assert torch.equal(p.ends, 2 * open_strokes - torch.tensor(joined)) and sum(joined) > 50


def test_letters_are_the_same_letter_in_another_hand():
    p = letters(3, range(600), alphabet=8, count=12, size=32)
    assert torch.bincount(p.letter, minlength=12).min() > 25
    for c in range(12):
        mine = p.letter == c
        assert len(p.kind[mine].unique(dim=0)) == 1 and len(p.count[mine].unique()) == 1
    places = (p.points - p.points.nanmean((1, 2), keepdim=True)).nan_to_num()
    places = (places / places.flatten(1).norm(dim=1)[:, None, None, None]).flatten(1)
    near = (places @ places.T).fill_diagonal_(-1).argmax(1)
    assert (p.letter[near] == p.letter).float().mean() > 0.9 and not torch.equal(places[near], places)
    assert not torch.equal(letters(3, range(40), alphabet=9, count=12).kind, p.kind[:40])  # another alphabet


def test_rings_are_closed_and_bend_smoothly():
    for p in (strokes(5, range(200), size=100), letters(5, range(200), size=100)):
        ring = p.points[p.kind == KINDS.index("ring")]
        assert len(ring) > 10 and torch.allclose(ring[:, 0], ring[:, -1])


@pytest.mark.parametrize("options, error, message", [
    ({"size": 10}, ValueError, "size must be a whole number >= 16, got 10"), ({"seed": -1}, ValueError, "seed must be a whole number >= 0"),
    ({"count": 0}, ValueError, "count must be a whole number >= 1, got 0"), ({"alphabet": 1.5}, TypeError, "alphabet must be a whole number"),
])  # fmt: skip
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        letters(**{"seed": 0, "indices": [0]} | options)
