"""The bench of tasks: one interface, disjoint splits, labels that are true, budgets and priors."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from helpers.datasets import real, tasks
from helpers.toyworld import analyse_pictures, creatures, scenes

torch.set_num_threads(1)
SMALL = dict(train=24, validation=12, test=12, size=32)


@pytest.mark.parametrize("name", (*tasks.NAMES, *tasks.FURTHER))
def test_every_task_has_the_interface(name):
    task = tasks.load(name, **SMALL)
    assert task.name == name and len(set(task.classes)) == len(task.classes) >= 2
    for split, count in (("train", 24), ("validation", 12), ("test", 12)):
        part = getattr(task, split)
        assert part.images.shape == (count, 3, 32, 32) and part.images.dtype == torch.float32 and part.labels.shape == (count,)
        assert torch.isfinite(part.images).all() and 0 <= part.images.min() and part.images.max() <= 1
        assert part.labels.dtype == torch.int64 and 0 <= part.labels.min() and part.labels.max() < len(task.classes)
    assert len(task.train.labels.unique()) > 1
    again = tasks.load(name, **SMALL)
    assert torch.equal(task.test.images, again.test.images) and torch.equal(task.train.labels, again.train.labels)
    assert not torch.equal(task.train.images[:12], task.test.images)


def test_there_are_enough_of_them():
    assert len(tasks.NAMES) == 47 and len({*tasks.NAMES, *tasks.FURTHER}) == 51  # a recorded study rests on the 47


def test_pictures_do_not_depend_on_how_many_are_asked_for():
    for name in ("shape in noise", "category behind a square", "how many"):
        few, many = tasks.load(name, **SMALL), tasks.load(name, **SMALL | {"train": 30, "test": 20})
        assert torch.equal(few.train.images, many.train.images[:24]) and torch.equal(few.test.labels, many.test.labels[:12])
        assert not torch.equal(few.train.images, tasks.load(name, **SMALL, seed=1).train.images)


def test_labels_are_what_the_world_says():
    shown = tasks.load("shape", train=100, validation=1, test=1, size=32)
    assert (analyse_pictures(shown.train.images).shape == shown.train.labels).float().mean() > 0.9
    pair = tasks.load("triangle or star", train=40, validation=1, test=1, size=32)
    read = analyse_pictures(pair.train.images).shape
    assert (read == torch.tensor([2, 3])[pair.train.labels]).float().mean() > 0.85
    p, task = scenes.pairs(0, range(50), size=64), tasks.load("where is the larger", train=50, validation=1, test=1)
    left_is_larger = (p.radius[:, 0] > p.radius[:, 1]) == (p.position[:, 0, 0] < p.position[:, 1, 0])
    assert torch.equal(task.train.labels, (~left_is_larger).long())
    smaller = tasks.load("colour of the smaller", train=50, validation=1, test=1).train.labels
    assert all(smaller[i] == p.colour[i, int(p.radius[i, 1] < p.radius[i, 0])] for i in range(50))
    kinds = tasks.load("kind", train=30, validation=1, test=1)
    category = creatures.creatures(0, range(30), size=64).category
    wanted = 4 * ["animal on four legs"] + 2 * ["animal"] + 3 * ["thing"]
    assert [kinds.classes[label] for label in kinds.train.labels] == [wanted[c] for c in category]


def test_budgets():
    train = tasks.load("colour", train=300, validation=1, test=1, size=32).train
    few = train.few(3, seed=1)
    assert torch.bincount(few.labels).tolist() == [3] * 8
    assert torch.equal(few.images, train.few(3, seed=1).images) and not torch.equal(few.images, train.few(3, seed=2).images)
    for image, label in zip(few.images, few.labels):
        assert any(torch.equal(image, other) for other in train.images[train.labels == label])
    with pytest.raises(ValueError, match="per_class must be at most"):
        train.few(200)
    with pytest.raises(TypeError, match="per_class must be a whole number"):
        train.few(2.5)


def test_priors():
    tail = tasks.load("category, long tail", train=200, validation=60, test=90, size=32)
    counts = torch.bincount(tail.train.labels, minlength=9)
    assert counts.sum() == 200 and (counts.diff() <= 0).all() and counts[0] > 8 * counts[-1] and counts.min() >= 1
    assert torch.bincount(tail.test.labels, minlength=9).float().std() < 6
    assert len(tasks.load("category, long tail", train=1, validation=3, test=1, size=32).validation) == 3  # fewer pictures than classes
    shifted = tasks.load("shape, shifted", train=120, validation=1, test=170, size=32)
    assert torch.bincount(shifted.test.labels).tolist() == [80, 40, 20, 10, 10, 10]
    assert torch.bincount(shifted.train.labels, minlength=6).min() > 8


def test_real_textures_come_from_places_of_their_own():
    task = tasks.load("real textures", train=120, validation=8, test=80)
    assert torch.bincount(task.train.labels).tolist() == [30] * 4

    def described(images):
        return torch.cat([images.flatten(2).mean(2), images.flatten(2).std(2), (images[..., 1:] - images[..., :-1]).abs().mean((2, 3))], 1).numpy()

    head = LogisticRegression(max_iter=5000).fit(100 * described(task.train.images), task.train.labels)
    assert head.score(100 * described(task.test.images), task.test.labels) > 0.7  # real, and learnable


def test_digits_are_the_real_ones():
    task = tasks.load("digits", train=1000, validation=100, test=300, size=32)
    head = LogisticRegression(max_iter=2000).fit(task.train.images[:, 0].flatten(1)[:, ::4], task.train.labels)
    assert head.score(task.test.images[:, 0].flatten(1)[:, ::4], task.test.labels) > 0.9


def test_mnist_is_the_real_one_and_larger():
    task = tasks.load("mnist", train=1000, validation=100, test=500, size=32, seed=2)
    assert (task.train.images[:, :1] == task.train.images).all()
    pictures = torch.nn.functional.interpolate(real.mnist(2).test.images[:500], size=(32, 32), mode="bilinear")
    assert torch.equal(task.test.images[:, :1], pictures)
    head = LogisticRegression(max_iter=2000, C=0.01).fit(task.train.images[:, 0].flatten(1), task.train.labels)
    assert head.score(task.test.images[:, 0].flatten(1), task.test.labels) > 0.8


def test_faces_are_told_from_other_things():
    task = tasks.load("faces", train=120, validation=40, test=40, size=32)
    head = LogisticRegression(max_iter=2000, C=0.01).fit(task.train.images[:, 0].flatten(1), task.train.labels)
    assert head.score(task.test.images[:, 0].flatten(1), task.test.labels) > 0.8 and task.classes[1] == "face"


def test_patches_come_from_strips_of_their_own(monkeypatch):
    """Photographs are replaced by ramps that say where a pixel came from."""

    def ramps(names):
        return {n: torch.stack([torch.full((60, 400), i / 20), torch.arange(400.0).expand(60, -1) / 400, torch.zeros(60, 400)]) for i, n in enumerate(names)}

    monkeypatch.setattr(tasks.real, "photographs", ramps)
    task = tasks.load("photographs", train=200, validation=200, test=200, size=44)  # as large as they are cut: px are not mixed
    strips = {}
    for split in ("train", "validation", "test"):
        part = getattr(task, split)
        assert torch.allclose(part.images[:, 0, 0, 0], part.labels / 20) and torch.bincount(part.labels).tolist() == [20] * 10
        column = (part.images[:, 1, 0] * 400).round()
        assert (column.diff(dim=1).abs() - 1).abs().max() < 1e-3 and 0 < (column[:, 0] > column[:, -1]).float().mean() < 1  # some mirrored
        strips[split] = set((column / 50).floor().unique().long().tolist())
    assert strips == {"train": {0, 2, 4, 6}, "validation": {1, 5}, "test": {3, 7}}


def test_surfaces_tell_nothing_by_brightness_or_colour():
    task = tasks.load("grey surfaces", train=160, validation=8, test=80, size=32)
    images = task.train.images
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
    assert (images.mean((1, 2, 3)) - 0.5).abs().max() < 0.03 and images.std((2, 3)).max() < 0.19

    def rough(images):
        steps = images[:, 0, :, 1:] - images[:, 0, :, :-1]
        return torch.stack([steps.abs().mean((1, 2)), steps.square().mean((1, 2)), (steps[:, :, 1:] - steps[:, :, :-1]).abs().mean((1, 2))], 1).numpy()

    head = LogisticRegression(max_iter=5000).fit(100 * rough(images), task.train.labels)
    assert head.score(100 * rough(task.test.images), task.test.labels) > 2 / 8  # real, and learnable


@pytest.mark.parametrize("options, error, message", [
    ({"name": "cat or god"}, ValueError, "name must be one of .*, got 'cat or god'"),
    ({"train": 0}, ValueError, r"train must be a whole number in \[1, 1e\+07\], got 0"), ({"name": 3}, TypeError, "name must be one of .*, got 3"),
    ({"name": "shape in noise", "seed": 10**13}, ValueError, "seed must be"), ({"test": 10**7 + 1}, ValueError, "test must be a whole number"),
    ({"test": 2.0}, TypeError, "test must be a whole number"), ({"size": 8}, ValueError, "size must be a whole number >= 32, got 8"),
    ({"name": "digits", "train": 5000}, ValueError, "train must be at most 1078 for digits, got 5000"),
    ({"name": "mnist", "validation": 1001}, ValueError, "validation must be at most 1000 for mnist, got 1001"),
    ({"name": "faces", "train": 3, "validation": 3, "test": 41}, ValueError, "test must be at most 40 for faces, got 41"),
    ({"seed": -1}, ValueError, "seed must be a whole number in"),
])  # fmt: skip
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        tasks.load(**{"name": "shape"} | options)


def test_noise_is_the_pictures_own():
    clean, noisy = tasks.load("shape", **SMALL), tasks.load("shape in noise", **SMALL)
    assert torch.equal(clean.train.labels, noisy.train.labels)
    difference = (noisy.train.images - clean.train.images).flatten(1).numpy()
    assert difference.std() > 0.1 and abs(np.corrcoef(difference)[0, 1]) < 0.2
