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
    for mask, side in zip(digits.test.masks, digits.test.sides):  # some have a gap
        ink = mask.nonzero()
        assert side == (ink.amax(0) - ink.amin(0) + 1).max()


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


def test_equal_sizes_share_what_is_right_of_them():
    sides, right = torch.tensor([1.0, 2, 2, 2, 2, 2, 2, 2, 2, 3]), torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    expected = [100 * (1 + 0.25) / 2, 25, 25, 25, 100 * 0.25 / 2]
    for turn in (torch.arange(10), torch.arange(10).flip(0), torch.randperm(10, generator=torch.Generator().manual_seed(0))):
        assert bench.by_size(right[turn], sides[turn]).tolist() == expected


class Seen(backbones.Backbone):
    """Tokens that are the colours at their middles."""

    middle = 0

    @property
    def first_middle(self):
        return self.middle

    def tokens(self, images):
        at = (torch.arange(8) * (self.image_size // 8) + int(self.middle)).clamp(0, self.image_size - 1)
        return images[:, :, at[:, None], at].flatten(2).mT


def seen(middle):
    model = Seen(nn.Linear(1, 1), 32).eval()
    model.middle = middle
    return model


@pytest.mark.parametrize("middle", [0, 1, 2])
def test_tokens_that_are_the_things_group_as_the_things_wherever_their_middles_lie(middle):
    masks = torch.zeros(3, 32, 32, dtype=torch.int64)
    at = 4 * torch.arange(8) + middle
    edge = int(at[4]) - 2  # half-way between two middles
    masks[0, edge : edge + 12, edge - 8 : edge + 4], masks[1, :edge] = 1, 1
    masks[0, :8, :8] = 5
    colours = torch.eye(8)[:, :3][masks % 3].permute(0, 3, 1, 2)
    found = bench.grouping(seen(middle), colours, masks)
    assert found[1] == 1 and found[0] > 0.8 and np.isnan(found[2])
    assert bench.grouping(seen(middle), colours, masks.mT)[0] == pytest.approx(bench.grouping(seen(middle), colours.mT, masks)[0], abs=0.2)
    assert bench.grouping(seen(middle), colours, masks.flip(1))[0] < 0.5
    names = torch.tensor([3, 0, 1, 2, 4, 5, 6, 9])
    assert np.allclose(bench.grouping(seen(middle), colours, names[masks])[:2], found[:2])


def test_tokens_without_order_do_not_group_and_tokens_of_zeros_are_alike():
    masks = torch.zeros(1, 32, 32, dtype=torch.int64)
    masks[0, 8:20, 4:16] = 1
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert abs(bench.grouping(seen(2), noise, masks)[0]) < 0.3
    dark = torch.eye(3)[masks].permute(0, 3, 1, 2) * masks[:, None]  # the background's tokens are zeros
    assert bench.grouping(seen(2), dark, masks)[0] == 1


class Broken(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 3), torch.nan)


@pytest.mark.parametrize("call, error, message", [
    (lambda: bench.pictures("scenes", seed=0), ValueError, "name must be one of"),
    (lambda: bench.pictures("digits", seed=10**6), ValueError, "seed must be"),
    (lambda: bench.moved(torch.zeros(2, 3, 4, 4), [[0, 0]]), ValueError, "by must be"),
    (lambda: bench.by_size([1, 0], [1.0, 2.0]), ValueError, "right must be of 5 pictures or more, got 2"),
    (lambda: bench.fit(nn.Linear(1, 1), None, seed=0), TypeError, "model must be a Backbone"),
    (lambda: bench.fit(backbones.make("CNN", size=32, classes=3, seed=0), few(), seed=0), ValueError, "model must give as many logits as data has classes, 6"),
    (lambda: torch.no_grad()(bench.fit)(backbones.make("CNN", size=32, classes=6, seed=0), few(), seed=0), ValueError, "where gradients are on"),
    (lambda: bench.grouping(backbones.make("CNN", size=32, classes=6, seed=0), torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=int)), ValueError,
     "model must be in eval mode"),
    (lambda: bench.predict(lambda x: x, torch.zeros(1, 3, 4, 4)), TypeError, "model must be a torch.nn.Module"),
    (lambda: bench.predict(Broken(), torch.zeros(2, 3, 4, 4)), ValueError, "what model gives must be finite"),
    (lambda: bench.learning_rates(3, rate=-1, warm_up=0), ValueError, "rate must be"),
])  # fmt: skip
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
