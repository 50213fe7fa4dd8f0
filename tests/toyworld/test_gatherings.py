"""Scenes of a creature among shapes: what they say of themselves is what they show, and sizes are uniform in their logarithm."""

import pytest
import torch

from helpers.toyworld.creatures import CATEGORIES
from helpers.toyworld.gatherings import GROUNDS, THINGS, gatherings
from helpers.toyworld.shapes import SHAPES

torch.set_num_threads(1)


def test_an_item_is_the_same_alone_and_among_many():
    many, alone = gatherings(4, range(20, 40)), gatherings(4, [27])
    assert many.image.shape == (20, 3, 32, 32) and 0 <= many.image.min() and many.image.max() <= 1
    for name, value in vars(many).items():
        assert torch.equal(value[7:8], getattr(alone, name)), name
    assert not torch.equal(gatherings(5, [27]).image, alone.image)


def test_a_scene_holds_as_many_things_as_it_says_and_the_creature_is_in_front():
    g = gatherings(0, range(300), smallest=0.2, largest=0.6)
    assert torch.bincount(g.count, minlength=4)[1:].min() > 70 and g.count.min() == 1
    assert torch.equal((g.side > 0).sum(1), g.count) and torch.equal((g.shape >= 0).sum(1), g.count - 1)
    seen = torch.stack([(g.object_id == k + 1).flatten(1).any(1) for k in range(THINGS)], 1)
    assert seen[:, 0].all() and not (seen & (g.side == 0)).any() and (seen | (g.side == 0)).float().mean() > 0.99  # a shape may be covered
    assert g.category.unique().tolist() == list(range(len(CATEGORIES))) and g.shape.unique().tolist() == list(range(-1, len(SHAPES)))


def test_sides_are_those_of_what_is_seen_and_uniform_in_their_logarithm():
    g = gatherings(1, range(800), size=64, smallest=0.15, largest=0.6)
    seen = (g.box[:, 0, 2:] - g.box[:, 0, :2]).amax(1)  # nothing covers the creature; the square is generous where parts are bent
    assert (seen <= g.side[:, 0] + 1).all() and (seen >= 0.8 * g.side[:, 0] - 2).all() and (g.box[:, 0] >= 0).all() and (g.box[:, 0] <= 64).all()
    place = (g.side[:, 0] / (0.15 * 64)).log() / torch.tensor(4.0).log()
    assert place.min() >= 0 and place.max() <= 1
    assert ((torch.histc(place, 5, 0, 1) / 160 - 1).abs() < 0.25).all()


def test_a_scene_looks_alike_at_every_size():
    small, large = gatherings(2, range(40)), gatherings(2, range(40), size=64)
    shrunk = torch.nn.functional.avg_pool2d(large.image, 2)
    assert (shrunk - small.image).abs().mean() < 0.02
    assert torch.equal(small.category, large.category) and torch.allclose(2 * small.side, large.side)


def test_things_keep_apart_where_they_can():
    g = gatherings(3, range(300), smallest=0.2, largest=0.3)
    box = g.box.float()
    both = g.count >= 2
    apart = (box[both, 0, :2] >= box[both, 1, 2:]) | (box[both, 1, :2] >= box[both, 0, 2:])
    assert apart.any(1).float().mean() > 0.99


def test_names_restrict_what_is_drawn():
    g = gatherings(0, range(60), categories=("lamp", "car"), textures="plain", backgrounds="white")
    assert {CATEGORIES[c] for c in g.category.tolist()} == {"lamp", "car"}
    corner = g.image[g.object_id[:, 0, 0] == 0][:, :, 0, 0]
    assert corner.mean() > 0.75
    assert "paper" not in GROUNDS


@pytest.mark.parametrize("options, error, message", [
    ({"size": 10}, ValueError, "size must be a whole number >= 16"), ({"size": "64"}, TypeError, "size must be a whole number"),
    ({"smallest": 0.7, "largest": 0.6}, ValueError, "largest must be"), ({"smallest": 0.0}, ValueError, "smallest must be"),
    ({"categories": ["whale"]}, ValueError, "categories must be one of"), ({"backgrounds": "paper"}, ValueError, "backgrounds must be one of"),
])  # fmt: skip
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        gatherings(0, [0], **options)
