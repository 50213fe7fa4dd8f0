"""Rebounds: exact paths between the walls, a tail that points back, and analysers that read them."""

import pytest
import torch

from helpers.toyworld import analysers
from helpers.toyworld.rebounds import RADIUS_RANGE, SPEED_RANGE, rebounds, reflect
from helpers.toyworld.shapes import COLOURS, SHAPES

torch.set_num_threads(1)


def test_reflect_by_hand():
    place = torch.tensor([0.5, 1.5, 2.5, 3.5, -0.5, -1.5])
    inside, met = reflect(place, torch.tensor(0.0), torch.tensor(1.0))
    assert inside.tolist() == [0.5, 0.5, 0.5, 0.5, 0.5, 0.5] and met.tolist() == [0, 1, 2, 3, 1, 2]
    inside, met = reflect(torch.tensor([4.5, 2.0]), torch.tensor(3.0), torch.tensor(4.0))
    assert inside.tolist() == [3.5, 4.0] and met.tolist() == [1, 1]


def test_paths_are_straight_between_walls_and_mirrored_at_them():
    """Against a slow loop that turns the velocity round at a wall, in small steps."""
    c = rebounds(3, range(40))
    assert c.position.shape == (40, 9, 2) and c.bounces[:, 0].max() == 0 and c.bounces[:, -1].max() >= 2
    parts = 2000
    for i in range(40):
        low, high = 1.15 * float(c.radius[i]), 32 - 1.15 * float(c.radius[i])
        place, velocity = c.position[i, 0].clone(), c.heading[i, 0] * c.speed[i]
        for k in range(1, 9):
            for _ in range(parts // 9):
                place = place + velocity / (parts // 9)
                velocity = torch.where((place < low) & (velocity < 0) | (place > high) & (velocity > 0), -velocity, velocity)
            assert (place - c.position[i, k]).abs().max() < 0.08
            assert torch.allclose(velocity / c.speed[i], c.heading[i, k], atol=1e-6)


def test_ranges_and_repeats():
    c = rebounds(5, range(500))
    assert (c.heading.norm(dim=2) - 1).abs().max() < 1e-9
    for value, (low, high) in ((c.speed, SPEED_RANGE), (c.radius, RADIUS_RANGE)):
        assert low <= value.min() < low + 0.1 and high - 0.1 < value.max() <= high
    assert (c.position > c.radius[:, None, None]).all() and (c.position < 32 - c.radius[:, None, None]).all()
    assert set(c.shape.tolist()) == set(range(len(SHAPES))) and set(c.colour.tolist()) == set(range(len(COLOURS)))
    assert 0.3 < (c.bounces[:, -1] > 0).double().mean() < 0.9
    again = rebounds(5, [7, 3])
    assert torch.equal(again.position, c.position[[7, 3]]) and torch.equal(again.render().video[1], rebounds(5, [3]).render().video[0])
    assert torch.allclose(rebounds(5, range(9), size=64).position, 2 * c.position[:9])


def test_the_tail_is_behind():
    c = rebounds(1, range(12), shapes="ring", colours="red")
    out = c.render()
    line = torch.arange(32) + 0.5
    bright = (out.video.amin(2) > 0.6).double()  # nothing else is nearly white
    mass = bright.sum((2, 3))
    assert mass.min() > 2
    tail = torch.stack([(bright * line).sum((2, 3)), (bright * line[:, None]).sum((2, 3))], 2) / mass[..., None]
    ahead = (tail - c.position) / c.radius[:, None, None]
    behind = (ahead * c.heading).sum(2)
    assert behind.max() < 0 and (behind / ahead.norm(dim=2)).max() < -0.9  # whatever the object and the picture's edge leave of it


def test_the_mask_is_the_object_alone():
    c = rebounds(1, range(12), shapes="disc", colours="red")
    out = c.render()
    assert out.mask.shape == (12, 9, 32, 32)
    area = out.mask.sum((2, 3)) / (torch.pi * c.radius[:, None] ** 2)
    assert (area - 1).abs().max() < 0.15
    assert (out.video[:, :, 0] - out.video[:, :, 1])[out.mask].min() > 0.2 and (out.video.amax(2) - out.video.amin(2))[~out.mask].median() < 0.05


def test_analysers_read_them():
    c = rebounds(2, range(60))
    read = analysers.analyse_clips(c.render().video)
    assert (read.colour == c.colour).all() and (read.shape == c.shape).double().mean() > 0.95
    off = read.position - c.position  # a triangle's mass lies below its centre
    assert (off - off.mean(1, keepdim=True)).norm(dim=2).max() < 1.0 and off[c.shape != SHAPES.index("triangle")].norm(dim=2).max() < 0.7


@pytest.mark.parametrize(("options", "error", "message"), [
    (dict(size=16), ValueError, "size must be a whole number >= 24"), (dict(frames=1), ValueError, "frames must be a whole number >= 2"),
    (dict(frames=2.5), TypeError, "frames must be a whole number"), (dict(shapes=["cube"]), ValueError, "shapes must be one of"),
    (dict(colours=()), ValueError, "colours must be a text or a list of texts, got 0"),
])  # fmt: skip
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        rebounds(0, [1], **options)


@pytest.mark.parametrize("change, error, message", [
    ({"place": torch.tensor([float("nan")])}, ValueError, "place must be finite"), ({"low": torch.tensor(1.0)}, ValueError, "low must lie below high"),
    ({"low": torch.zeros(3)}, ValueError, r"low must be one wall for each place \(2,\), got shape \(3,\)"),
    ({"high": torch.ones(4, 2)}, ValueError, r"high must be one wall for each place \(2,\)"), ({"high": "far"}, TypeError, "high must be numbers"),
])  # fmt: skip
def test_what_has_no_reflection_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        reflect(**{"place": torch.tensor([0.5, 2.0]), "low": torch.tensor(0.0), "high": torch.tensor(1.0)} | change)
