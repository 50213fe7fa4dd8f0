"""Corrupted pictures: severity 0 is the identity, more is worse, and what each kind does by a formula of its own."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from helpers.datasets import corruptions
from helpers.datasets.corruptions import KINDS, LEVELS, corrupt

PICTURES = torch.rand(3, 3, 16, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5 + 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_severity_none_is_the_identity_and_more_is_worse(kind):
    assert torch.equal(corrupt(PICTURES, kind, 0), PICTURES) and corrupt(PICTURES, kind, 0) is not PICTURES
    away = [float((corrupt(PICTURES, kind, severity) - PICTURES).abs().mean()) for severity in corruptions.SEVERITIES]
    assert away == sorted(away) and away[1] > 0.002 and len(set(away)) == 6 == len(LEVELS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_stay_pictures_and_the_same_for_a_seed_alone_or_in_a_crowd(kind):
    kept = PICTURES.clone()
    worse = corrupt(PICTURES, kind, 5, seed=3)
    assert worse.shape == PICTURES.shape and 0 <= worse.min() and worse.max() <= 1 and torch.equal(PICTURES, kept)
    assert torch.equal(worse[2:], corrupt(PICTURES[2:], kind, 5, seed=3, first=2)) and torch.equal(worse, corrupt(PICTURES, kind, 5, seed=3))
    assert torch.equal(worse, corrupt(PICTURES, kind, 5, seed=4)) is (kind != "noise")
    assert corrupt(PICTURES.half(), kind, 3).dtype == torch.float16


def test_noise_has_its_deviation_and_is_new_for_each_picture():
    grey = torch.full((2, 3, 64, 64), 0.5)
    noise = corrupt(grey, "noise", 2) - 0.5
    assert abs(noise.std() - 0.12) < 0.002 and abs(noise.mean()) < 0.002 and not torch.equal(noise[0], noise[1]) and not torch.equal(noise[0, 0], noise[0, 1])


def test_blur_is_scipys():
    for severity in (1, 4):
        sigma = LEVELS["blur"][severity] * 20 / 32
        expected = gaussian_filter(PICTURES.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, *2 * (-int(-3 * sigma // 1),)))
        torch.testing.assert_close(corrupt(PICTURES, "blur", severity), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_contrast_keeps_each_mean_and_darkness_scales():
    worse = corrupt(PICTURES, "contrast", 3)
    torch.testing.assert_close(worse.mean((1, 2, 3)), PICTURES.mean((1, 2, 3)))
    torch.testing.assert_close(worse.flatten(1).std(1), 0.2 * PICTURES.flatten(1).std(1))
    torch.testing.assert_close(corrupt(PICTURES, "darkness", 2), 0.5 * PICTURES)


def test_bytes_are_refused_as_what_they_are():
    with pytest.raises(TypeError, match=r"images must be floating-point numbers \(N, C, H, W\) in \[0, 1\], got whole numbers of dtype uint8"):
        corrupt((PICTURES * 255).to(torch.uint8), "noise", 1)
    with pytest.raises(ValueError, match=r"images must be numbers \(N, C, H, W\) in \[0, 1\], got values from "):
        corrupt(PICTURES * 255, "noise", 1)
