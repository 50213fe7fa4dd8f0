"""The recognition bench: pictures and their order, the trainer, and what is asked of a network."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.measures import recognition as bench
from helpers.models import backbones

torch.set_num_threads(1)


def few(name="scenes 32", train=64, test=40, seed=0):
    """Data of a bench with few pictures."""
    held = bench.DATA[name]
    try:
        bench.DATA[name] = held | dict(train=train, test=test)
        return bench.pictures(name, seed=seed)
    finally:
        bench.DATA[name] = held


def test_seeds_differ_in_what_is_learned_from_and_not_in_what_is_asked():
    one, other = few(seed=0), few(seed=1)
    assert not torch.equal(one.train.images, other.train.images) and torch.equal(one.test.images, other.test.images)
    assert not torch.equal(one.train.images[:40], one.test.images)
    assert one.classes == bench.CREATURES and one.train.images.shape == (64, 3, 32, 32) and set(one.train.labels.tolist()) <= set(range(6))
    assert few("scenes 64").test.images.shape == (40, 3, 64, 64)


def test_masks_and_sides_are_of_the_creature():
    test = few(test=200).test
    area = (test.masks == 1).flatten(1).sum(1).double()
    assert area.min() > 0 and np.corrcoef(area.sqrt(), test.sides)[0, 1] > 0.8
    assert 0.3 * 32 <= test.sides.min() and test.sides.max() <= 0.8 * 32


def test_digits_are_all_there_once_and_their_mask_is_ink():
    digits = bench.pictures("digits", seed=3)
    assert (len(digits.train), len(digits.test), digits.classes) == (4000, 1000, tuple("0123456789"))
    whole = torch.cat([digits.train.images, digits.test.images])[:, 0].flatten(1)
    assert len(whole.unique(dim=0)) > 4990 and torch.bincount(torch.cat([digits.train.labels, digits.test.labels])).tolist() == [500] * 10
    assert torch.equal(digits.test.masks == 1, digits.test.images[:, 0] > 0.5)
    first = digits.test.masks[0].nonzero()
    assert digits.test.sides[0] == (first.amax(0) - first.amin(0) + 1).max()


def test_every_pass_sees_every_example_once():
    rows = bench.order(10, steps=7, batch=5, seed=0)
    assert rows.shape == (7, 5)
    assert all(sorted(some.tolist()) == list(range(10)) for some in rows[:6].reshape(3, 10))
    assert torch.equal(rows, bench.order(10, steps=7, batch=5, seed=0)) and not torch.equal(rows, bench.order(10, steps=7, batch=5, seed=1))
    assert not torch.equal(rows[:2], rows[2:4]) and bench.order(10, steps=0, batch=5, seed=0).shape == (0, 5)


def test_pictures_move_down_and_to_the_right_and_repeat_their_border():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    assert bench.moved(image, [[1, 2]]).tolist() == [[[[0, 0, 0, 1], [0, 0, 0, 1], [4, 4, 4, 5]]]]
    assert bench.moved(image, [[-1, -1]]).tolist() == [[[[5, 6, 7, 7], [9, 10, 11, 11], [9, 10, 11, 11]]]]
    both = bench.moved(image.expand(2, 2, -1, -1), torch.tensor([[0, 0], [0, 1]]))
    assert torch.equal(both[0], image[0].expand(2, -1, -1)) and both[1, 1].tolist() == [[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10]]


def test_learning_rates_rise_and_fall():
    rates = bench.learning_rates(100, rate=2.0, warm_up=0.1)
    assert np.allclose(rates[:10], 0.2 * np.arange(1, 11)) and rates[10] == 2.0 and np.isclose(rates[55], 1.0)
    assert (np.diff(rates[10:]) < 0).all() and 0 < rates[-1] < 0.01 and len(bench.learning_rates(0, rate=1.0, warm_up=0.1)) == 0


@pytest.mark.parametrize("name", ["ViT", "CNN", "FAN"])
def test_a_network_learns_a_few_pictures_by_heart_and_the_same_way_twice(name):
    data = few(train=32, test=32)
    data.test = data.train
    models = [bench.fit(backbones.make(name, size=32, classes=6, seed=1), data, seed=1, steps=60) for _ in range(2)]
    untrained = bench.fit(backbones.make(name, size=32, classes=6, seed=1), data, seed=1, steps=0)
    said = [(bench.predict(m, data.test.images) == data.test.labels).double().mean() for m in (*models, untrained)]
    assert said[0] > 0.6 > 0.45 > said[2]
    for ours, again in zip(models[0].parameters(), models[1].parameters()):
        assert torch.equal(ours, again) and not models[0].training
    assert any(not torch.equal(a, b) for a, b in zip(models[0].parameters(), untrained.parameters()))


def test_steps_of_zero_change_nothing():
    data, model = few(train=8, test=8), backbones.make("CNN", size=32, classes=6, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bench.fit(model, data, seed=0, steps=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_accuracy_by_size():
    sides, right = torch.arange(10.0).flip(0), torch.tensor([1, 1, 1, 1, 0, 1, 0, 0, 0, 0])
    assert bench.by_size(right, sides).tolist() == [0, 0, 50, 100, 100]
    assert isinstance(bench.by_size(right.numpy() == 1, sides.numpy()), np.ndarray)


class Seen(backbones.Backbone):
    """Tokens that are the colours of their cells."""

    def tokens(self, images):
        return nn.functional.avg_pool2d(images, self.size // 8).flatten(2).mT + 1e-3


def test_tokens_that_are_the_things_group_as_the_things():
    masks = torch.zeros(3, 32, 32, dtype=torch.int64)
    masks[0, 8:20, 4:16], masks[0, 24:, 16:], masks[1, :16] = 1, 2, 1
    colours = torch.eye(3)[masks].permute(0, 3, 1, 2)
    found = bench.grouping(Seen(nn.Linear(1, 1), 32), colours, masks)
    assert found[:2].tolist() == [1, 1] and np.isnan(found[2])
    shuffled = colours[:2].flatten(2)[..., torch.randperm(1024, generator=torch.Generator().manual_seed(0))].view(2, 3, 32, 32)
    assert (np.abs(bench.grouping(Seen(nn.Linear(1, 1), 32), shuffled, masks[:2])) < 0.2).all()


@pytest.mark.parametrize("call, error, message", [
    (lambda: bench.pictures("scenes", seed=0), ValueError, "name must be one of"),
    (lambda: bench.pictures("digits", seed=10**6), ValueError, "seed must be"),
    (lambda: bench.moved(torch.zeros(2, 3, 4, 4), [[0, 0]]), ValueError, "by must be"),
    (lambda: bench.by_size([1, 0], [1.0, 2.0]), ValueError, "right must be of 5 pictures or more, got 2"),
    (lambda: bench.fit(nn.Linear(1, 1), None, seed=0), TypeError, "model must be a Backbone"),
    (lambda: bench.learning_rates(3, rate=-1, warm_up=0), ValueError, "rate must be"),
])  # fmt: skip
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
