"""PSNR and SSIM against closed forms, and their refusals."""

import math

import pytest
import torch

from helpers.measures.metrics import psnr, ssim


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
