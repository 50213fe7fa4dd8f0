"""Pictures of several shapes: what they say of themselves is what they show, and items do not depend on each other."""

import pytest
import torch

from helpers.toyworld import scenes
from helpers.toyworld.shapes import COLOURS, SHAPES

torch.set_num_threads(1)


@pytest.mark.parametrize("make", [scenes.crowds, scenes.pairs])
def test_an_item_is_the_same_alone_and_among_many(make):
    many, alone = make(4, range(20, 40), size=48), make(4, [27], size=48)
    assert many.image.shape == (20, 3, 48, 48) and 0 <= many.image.min() and many.image.max() <= 1
    for name in ("image", "object_id", "count", "shape", "colour", "radius"):
        assert torch.equal(getattr(many, name)[7:8], getattr(alone, name))
    assert not torch.equal(make(5, [27], size=48).image, alone.image)


def test_crowds_show_as_many_objects_as_they_say_and_none_touch():
    p = scenes.crowds(0, range(300))
    assert torch.bincount(p.count, minlength=5)[1:].min() > 50 and not p.touching.any()
    for i in range(0, 300, 7):
        seen = p.object_id[i].unique().tolist()
        assert seen == list(range(p.count[i] + 1))
        assert (p.shape[i] >= 0).sum() == p.count[i] == (p.colour[i] >= 0).sum()
    n, k = (p.shape >= 0).nonzero().T
    at, r = p.position[n, k], p.radius[n, k, None]
    assert (at - r > 0).all() and (at + r < 64).all()
    both = p.count >= 2
    assert ((p.position[both, 0] - p.position[both, 1]).norm(dim=1) > p.radius[both, :2].sum(1)).all()
    assert len({tuple(v) for v in (at > 32).tolist()}) == 4  # every quarter is used


def test_pairs_touch_or_do_not_and_differ_in_size():
    p = scenes.pairs(1, range(300), shapes=("disc",), size=64)
    distance, reach = (p.position[:, 0] - p.position[:, 1]).norm(dim=1), p.radius[:, :2].sum(1)
    assert 0.4 < p.touching.float().mean() < 0.6
    assert (distance[p.touching] < 0.8 * reach[p.touching]).all() and (distance[~p.touching] > 1.2 * reach[~p.touching]).all()
    ratio = p.radius[:, :2].amax(1) / p.radius[:, :2].amin(1)
    assert ratio.min() > 1.24 and ratio.max() < 1.56 and 0.4 < (p.radius[:, 0] > p.radius[:, 1]).float().mean() < 0.6
    at, r = p.position[:, :2], p.radius[:, :2, None]
    assert (at - r > -0.5).all() and (at + r < 64.5).all()


def test_half_of_the_pairs_share_shape_and_half_their_colour():
    p = scenes.pairs(2, range(600))
    for values in (p.shape, p.colour):
        assert 0.44 < (values[:, 0] == values[:, 1]).float().mean() < 0.56
    assert p.shape[:, 0].unique().tolist() == list(range(len(SHAPES))) and p.colour[:, 1].unique().tolist() == list(range(len(COLOURS)))


@pytest.mark.parametrize("options, error, message", [
    ({"size": 10}, ValueError, "size must be a whole number >= 24"), ({"size": "64"}, TypeError, "size must be a whole number"),
    ({"shapes": ["blob"]}, ValueError, "shapes must be one of"), ({"colours": []}, ValueError, "colours must be a text or a list of texts, got 0"),
])  # fmt: skip
def test_bad_arguments_are_named(options, error, message):
    for make in (scenes.crowds, scenes.pairs):
        with pytest.raises(error, match=message):
            make(0, range(2), **options)
