"""Numbers by counter: uniform, independent of the batch, and deaf to bad input."""

import numpy as np
import pytest
import torch

from helpers.toyworld.draws import Draws, check_indices


def columns(seed, indices):
    d = Draws(seed, indices)
    return torch.stack([d.uniform(), d.uniform(-2, 3), d.integer(7).double(), d.choice([1.5, 2.5, 4.0]), d.chance(0.3).double()], 1)


def test_an_item_is_the_same_alone_and_in_any_batch():
    whole = columns(5, range(1000))
    assert torch.equal(columns(5, [741])[0], whole[741])
    picked = np.random.default_rng(0).permutation(1000)[:37]
    assert torch.equal(columns(5, picked), whole[torch.from_numpy(picked)])
    assert torch.equal(columns(5, torch.arange(1000).numpy()), whole)
    assert torch.equal(columns(np.int64(5), [3, 3])[0], whole[3])


def test_seeds_slots_and_items_are_unrelated():
    n = 20000
    d, other = Draws(0, range(n)), Draws(1, range(n))
    a, b, c = d.uniform(), d.uniform(), other.uniform()
    for x in (a, b, c):
        assert x.min() >= 0 and x.max() < 1
        assert abs(float(x.mean()) - 0.5) < 0.01 and abs(float(x.var()) - 1 / 12) < 0.002
    for x, y in ((a, b), (a, c), (a[:-1], a[1:])):
        assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 0.03


def test_ranges_and_shares():
    d = Draws(2, range(20000))
    counts = torch.bincount(d.integer(5), minlength=5)
    assert counts.min() > 3700 and counts.max() < 4300 and len(counts) == 5
    assert abs(float(d.chance(0.3).double().mean()) - 0.3) < 0.015
    low_high = d.uniform(-3, 7)
    assert low_high.min() >= -3 and low_high.max() < 7
    assert set(d.choice([2, 9]).tolist()) == {2, 9}


@pytest.mark.parametrize("indices", [[], [[1, 2]], [-1], np.zeros((0,), int)])
def test_bad_indices_are_refused(indices):
    with pytest.raises(ValueError, match="indices must be"):
        Draws(0, indices)


@pytest.mark.parametrize("indices", [3, "3", ["a"], [0.5], [float("nan")], [True, False]])
def test_indices_of_another_type_are_refused(indices):
    with pytest.raises((TypeError, ValueError), match="indices must be"):
        check_indices(indices)


@pytest.mark.parametrize("seed, error", [(-1, ValueError), (1.0, TypeError), ("1", TypeError), (True, TypeError), (None, TypeError)])
def test_bad_seeds_are_refused(seed, error):
    with pytest.raises(error, match="seed must be"):
        Draws(seed, [0])
