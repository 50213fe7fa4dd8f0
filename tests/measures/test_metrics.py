"""PSNR, SSIM and the Frechet distance against closed forms, and their refusals."""

import math

import numpy as np
import pytest
import torch

from helpers.measures.metrics import frechet_distance, psnr, ssim


def test_psnr_by_hand():
    a = torch.zeros(2, 3, 4, 5)
    assert psnr(a, a + 0.1) == pytest.approx(20)
    assert psnr(a, a + 1) == pytest.approx(0)
    assert psnr(a, a) == math.inf
    b = a.clone()
    b[0, 0, 0, 0] = 1
    assert psnr(a, b) == pytest.approx(10 * math.log10(a.numel()))


def test_ssim_limits_and_mean_over_frames():
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 3, 12, 10, generator=g)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, b) < 0.3
    assert ssim(a, b) == pytest.approx(sum(ssim(x, y) for x, y in zip(a, b, strict=True)) / 3)
    near = (a + 0.05 * torch.randn(a.shape, generator=g)).clamp(0, 1)
    assert ssim(a, b) < ssim(a, near) < 1


@pytest.mark.parametrize("a, b, error, message", [
    (torch.zeros(3, 4, 4), torch.zeros(3, 4, 5), ValueError, "one shape"),
    (torch.zeros(4, 4), torch.zeros(4, 4), ValueError, "a must be"),
    (torch.zeros(0, 3, 8, 8), torch.zeros(0, 3, 8, 8), ValueError, "not empty"),
    (torch.full((3, 8, 8), float("nan")), torch.zeros(3, 8, 8), ValueError, "a holds NaN"),
    ([1.0], torch.zeros(3, 8, 8), TypeError, "a must be a torch tensor, got list"),
])  # fmt: skip
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_refusals(metric, a, b, error, message):
    with pytest.raises(error, match=message):
        metric(a, b)


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="7x7"):
        ssim(torch.zeros(3, 6, 9), torch.zeros(3, 6, 9))


def test_frechet_distance_of_known_gaussians():
    """One dimension: (difference of means)^2 + (difference of deviations)^2; a shift costs its square; turning both sets changes nothing."""
    g = np.random.default_rng(0)
    x = g.normal(size=(400, 1))
    x = (x - x.mean()) / x.std(ddof=1)
    assert frechet_distance(x, 3 * x + 2) == pytest.approx(4 + 4)
    a, shift = g.normal(size=(50, 3)), np.array([1.0, -2.0, 0.5])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + shift) == pytest.approx((shift**2).sum())
    b, turn = g.normal(size=(40, 3)) * [1, 2, 3], np.linalg.qr(g.normal(size=(3, 3)))[0]
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a)) == pytest.approx(frechet_distance(a @ turn, b @ turn))


@pytest.mark.parametrize("a, b, message", [
    (np.zeros(3), np.zeros((3, 1)), "a must be"), (np.zeros((3, 1)), np.zeros((1, 1)), "b must be"), (np.zeros((3, 2)), np.zeros((3, 1)), "columns"),
    (np.full((3, 2), np.nan), np.zeros((3, 2)), "a holds NaN"),
])  # fmt: skip
def test_frechet_distance_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)
