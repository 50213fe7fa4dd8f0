"""Invented materials: pieces of one are alike and never the same, what is said of them shows in their spectrum, items do not depend on each other."""

import numpy as np
import pytest
import torch

from helpers.toyworld.surfaces import RELIEFS, surfaces

torch.set_num_threads(1)


def test_an_item_is_the_same_alone_and_among_many():
    many, alone = surfaces(4, range(20, 40), size=24), surfaces(4, [27], size=24)
    assert many.image.shape == (20, 3, 24, 24) and 0 <= many.image.min() and many.image.max() <= 1 and many.image.dtype == torch.float32
    for name, value in vars(many).items():
        assert torch.equal(value[7:8], getattr(alone, name)), name
    assert not torch.equal(surfaces(5, [27], size=24).image, alone.image)


def test_a_material_keeps_its_relief_and_changes_its_piece():
    p = surfaces(1, range(400), world=2, count=10)
    assert torch.bincount(p.material, minlength=10).min() > 20
    for c in range(10):
        mine = p.material == c
        assert len(p.relief[mine].unique()) == 1 == len(p.spread[mine].unique()) and p.period[mine].amax() / p.period[mine].amin() < 1.6
        assert (p.image[mine][1:] - p.image[mine][0]).abs().amax((1, 2, 3)).min() > 0.05
    assert len(surfaces(1, range(400), count=60).relief.unique()) == len(RELIEFS)
    assert not torch.equal(surfaces(1, range(40), world=3, count=10).image, p.image[:40])


def test_period_and_angle_are_the_spectrums():
    p = surfaces(3, range(600), count=300, size=64)
    narrow = (p.spread < 0.15) & (p.relief == RELIEFS.index("smooth")) & (p.period < 16)
    assert narrow.sum() > 5
    frequency = np.fft.fftfreq(64)
    for image, period, angle in zip(p.image[narrow], p.period[narrow], p.angle[narrow]):
        grey = (image.mean(0) - image.mean()).numpy() * np.hanning(64)[:, None] * np.hanning(64)
        power = np.abs(np.fft.fft2(grey)) ** 2
        power /= power.sum()
        fy, fx = np.meshgrid(frequency, frequency, indexing="ij")
        doubled = (power * np.exp(2j * np.arctan2(fy, fx))).sum()  # a direction and its opposite are one
        assert abs(np.angle(doubled * np.exp(-2j * float(angle)))) / 2 < 0.3
        assert 0.5 < (power * np.hypot(fx, fy)).sum() * float(period) < 2


@pytest.mark.parametrize("options, error, message", [
    ({"size": 10}, ValueError, "size must be a whole number >= 16, got 10"), ({"count": 0}, ValueError, "count must be a whole number >= 1, got 0"),
    ({"world": "a"}, TypeError, "world must be a whole number"), ({"seed": -1}, ValueError, "seed must be a whole number >= 0"),
])  # fmt: skip
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        surfaces(**{"seed": 0, "indices": [0]} | options)
