"""PSNR, SSIM and the calibration error against closed forms, slow loops and a library, and their refusals."""

import math
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import structural_similarity

from helpers.measures.metrics import calibration_error, psnr, ssim
from tests.accelerator import DEVICE, Accelerator


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


def test_ssim_of_clips_with_five_axes_and_its_data_range():
    g = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 2, 3, 1, 9, 8, generator=g)  # (B, T, C, H, W)
    each = [structural_similarity(x[0].numpy(), y[0].numpy(), data_range=1) for x, y in zip(a.double().flatten(0, 1), b.double().flatten(0, 1), strict=True)]
    assert ssim(a, b) == pytest.approx(np.mean(each), rel=1e-9)
    assert ssim(a[0, 0], b[0, 0]) == pytest.approx(each[0], rel=1e-9) and ssim(a[1], b[1]) == pytest.approx(np.mean(each[3:]), rel=1e-9)
    assert psnr(a, b) == pytest.approx(-10 * math.log10(float((a - b).double().square().mean())))
    # two flat pictures have no structure, and the constant of the data range decides: (2 m n + c) / (m^2 + n^2 + c) with c = 0.01^2
    m, n = 0.2, 0.5
    expected = (2 * m * n + 1e-4) / (m**2 + n**2 + 1e-4)
    assert ssim(torch.full((3, 7, 7), m), torch.full((3, 7, 7), n)) == pytest.approx(expected, rel=1e-5)


def test_any_pictures_in_their_own_precision():
    g = torch.Generator().manual_seed(2)
    a, b = (torch.rand(2, 3, 8, 9, generator=g) * 16).round() / 16  # which every dtype holds
    for metric in (psnr, ssim):
        right = metric(a, b)
        turned = a.numpy()[:, :, ::-1].copy()[:, :, ::-1]
        others = [a.half(), a.bfloat16(), a.clone().requires_grad_(), a.permute(1, 2, 0).contiguous().permute(2, 0, 1)]
        for one in (a.numpy(), turned, a.numpy().astype(">f8"), a.tolist(), *others):
            assert metric(one, b) == metric(b, one) == right and type(metric(one, b)) is float
        with Accelerator():
            assert metric(a.to(DEVICE), b.to(DEVICE)) == metric(a, b.to(DEVICE)) == right
    one = torch.ones(3, 8, 8, dtype=torch.float64)
    for excess, fits in ((9e-7, True), (1.5e-6, False)):
        for wide in (one + excess, -excess * one):
            if fits:
                assert psnr(wide, wide) == math.inf
            else:
                with pytest.raises(ValueError, match="a must be pictures in"):
                    psnr(wide, wide)
    white, step = torch.ones(1, 7, 7).bfloat16(), torch.finfo(torch.bfloat16).eps  # four steps are rounding, five are not
    for wide, fits in ((white + 4 * step, True), (white + 5 * step, False), (-4 * step * white, True), (-5 * step * white, False)):
        with nullcontext() if fits else pytest.raises(ValueError, match="a must be pictures in"):
            assert psnr(wide, wide) == math.inf
    over = torch.full((3, 8, 8), 1 + 2e-7)  # a fade or a 16-bit sum may end a rounding above 1
    assert psnr(over, torch.ones(3, 8, 8)) > 120 and psnr(torch.full((3, 8, 8), 1.0078125, dtype=torch.bfloat16), torch.ones(3, 8, 8)) > 40


BROKEN = torch.zeros(3, 8, 8)
BROKEN[1, 2, 3] = math.nan


@pytest.mark.parametrize("a, b, error, message", [
    (torch.zeros(3, 8, 8), torch.zeros(3, 8, 9), ValueError, r"b must be .* with W = 8, got shape \(3, 8, 9\)"),
    (torch.zeros(3, 8, 8), torch.zeros(1, 8, 8), ValueError, "b must be .* with C = 3"),
    (torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8), ValueError, r"a \(2, 3, 8, 8\) and b \(3, 8, 8\) must have one shape"),
    (torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8), ValueError, r"a \(2, 3, 8, 8\) and b \(1, 3, 8, 8\) must have one shape"),
    (torch.zeros(8, 8), torch.zeros(8, 8), ValueError, "a must be"),
    (torch.zeros(8, 8, 3), torch.zeros(8, 8, 3), ValueError, r"a must be \(..., 1 or 3, H, W\), got shape \(8, 8, 3\)"),
    (torch.zeros(2, 8, 8), torch.zeros(2, 8, 8), ValueError, "a must be"),
    (torch.zeros(0, 3, 8, 8), torch.zeros(0, 3, 8, 8), ValueError, "a must be .* not empty"),
    (BROKEN, torch.zeros(3, 8, 8), ValueError, "a must be finite"), (torch.zeros(3, 8, 8), BROKEN, ValueError, "b must be finite"),
    (torch.zeros(3, 8, 8), BROKEN.nan_to_num(math.inf), ValueError, "b must be finite"),
    (torch.full((3, 8, 8), 255.0), torch.zeros(3, 8, 8), ValueError, r"a must be pictures in \[0, 1\], got values from 255 to 255"),
    (torch.zeros(3, 8, 8), BROKEN.nan_to_num(1.01), ValueError, r"b must be pictures in \[0, 1\], got values from 0 to 1.01"),
    (torch.zeros(3, 8, 8), BROKEN.nan_to_num(-0.01), ValueError, r"b must be pictures in \[0, 1\], got values from -0.01 to 0"),
    (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), TypeError, "a must be floating-point pictures .* uint8 tensor .*divide by 255"),
    (torch.zeros(3, 8, 8, dtype=torch.bool), torch.zeros(3, 8, 8), TypeError, "a must be"),
    (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8) + 0j, TypeError, "b must be"), (None, torch.zeros(3, 8, 8), TypeError, "a must be numbers .*, got None"),
])  # fmt: skip
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_refusals(metric, a, b, error, message):
    with pytest.raises(error, match=message):
        metric(a, b)


@pytest.mark.parametrize("size", [(6, 9), (9, 6)])
def test_ssim_refuses_pictures_smaller_than_its_window(size):
    with pytest.raises(ValueError, match="7x7"):
        ssim(torch.zeros(3, *size), torch.zeros(3, *size))
    assert psnr(torch.zeros(3, *size), torch.zeros(3, *size)) == math.inf and ssim(torch.zeros(1, 7, 7), torch.zeros(1, 7, 7)) == 1


# --- calibration ---


def test_calibration_error_is_a_sum_over_bins():
    """By hand: bins of equal width, the one of confidence 1 being the last, each weighed by its rows, gaps of both signs."""
    confidences, right = [0.55, 0.59, 0.6, 0.75, 0.79, 1.0], [1, 0, 0, 1, 1, 1]
    p = np.array([[1 - c, c] for c in confidences])
    gaps = {10: [(0.57, 0.5, 2), (0.6, 0, 1), (0.77, 1, 2), (1, 1, 1)], 2: [(sum(confidences) / 6, 4 / 6, 6)], 4: [(0.58, 1 / 3, 3), (2.54 / 3, 1, 3)]}
    for bins, parts in gaps.items():
        assert calibration_error(p, right, bins=bins) == pytest.approx(sum(abs(c - a) * n / 6 for c, a, n in parts))
    assert calibration_error(p, right) == calibration_error(p, right, bins=10)
    assert calibration_error([[0.9, 0.1]] * 10, [0] * 9 + [1]) == pytest.approx(0)
    assert calibration_error([[1.0, 0.0], [0.95, 0.05]], [1, 0]) == pytest.approx(0.475)  # both in the last bin: |1.95 - 1| / 2
    assert calibration_error(p, right, bins=10**9) == pytest.approx(sum(abs(c - a) for c, a in zip(confidences, right, strict=True)) / 6)


def test_calibration_error_of_any_rows_in_their_own_precision():
    rows = np.random.default_rng(0).dirichlet(np.ones(1000) / 20, 50)
    labels = rows.argmax(1) * (np.arange(50) % 2)
    right = calibration_error(rows, labels)
    for form, off in ((rows[::-1].copy()[::-1], 0), (pd.DataFrame(rows, index=range(7, 57)), 0), (torch.from_numpy(rows).requires_grad_(), 0),
                      (rows.tolist(), 0),
                      (rows.astype(np.float32), 1e-6), (rows.astype(np.float16), 1e-2), (torch.from_numpy(rows).bfloat16(), 2e-2)):  # fmt: skip
        assert calibration_error(form, labels) == pytest.approx(right, abs=off)
    assert calibration_error([[1, 0], [0, 1]], [0, 0]) == 0.5  # whole numbers
    step = torch.finfo(torch.bfloat16).eps  # eight steps are rounding, nine are not: of a sum, and of an entry above 1 or below 0
    for row, fits in (((0.5, 0.5 + 8 * step), True), ((0.5, 0.5 + 9 * step), False), ((1 + 8 * step, -8 * step), True),
                      ((1 + 9 * step, -8 * step), False), ((1 + 8 * step, -9 * step), False)):  # fmt: skip
        with nullcontext() if fits else pytest.raises(ValueError, match="probabilities must be rows"):
            calibration_error(torch.tensor([row]).bfloat16(), [0])
    assert calibration_error([[0.5, 0.50005]], [1]) == pytest.approx(0.49995) and calibration_error([[1.00005, 0.0]], [0]) == pytest.approx(5e-5)
    for form in (labels.astype(np.uint16), torch.from_numpy(labels), pd.Series(labels, index=range(9, 59)), labels[::-1].copy()[::-1], labels.tolist()):
        assert calibration_error(rows, form) == right
    with Accelerator():
        assert calibration_error(torch.from_numpy(rows).to(DEVICE), torch.from_numpy(labels).to(DEVICE)) == right


@pytest.mark.parametrize("p, y, error, message", [
    ([[2.0, -1.0], [0.5, 0.5]], [0, 1], ValueError, r"probabilities must be rows in \[0, 1\], got values from -1 to 2"),
    ([[1.1, -0.1], [0.5, 0.5]], [0, 1], ValueError, r"probabilities must be rows in \[0, 1\]"),
    ([[0.5, 0.5], [0.5, 0.49]], [0, 1], ValueError, "probabilities must be rows that sum to 1, got 0.99 in row 1"),
    ([[0.5, 0.6], [0.5, 0.5]], [0, 1], ValueError, "probabilities must be rows that sum to 1, got 1.1 in row 0"),
    ([[0.5, 0.5], [math.nan, 0.5]], [0, 1], ValueError, "probabilities must be finite .*, got NaN"), ([[90.0, 10.0]], [0], ValueError, "probabilities must be"),
    ([[1.0], [1.0]], [0, 0], ValueError, "probabilities must be .* at least two classes"),
    ([0.5, 0.5], [0, 1], ValueError, r"probabilities must be numbers \(N, C\)"),
    (np.zeros((0, 2)), [], ValueError, "probabilities must be .* not empty"), ([[0.5, 0.5]] * 2, ["cat", "dog"], TypeError, "labels must be"),
    ([[0.5, 0.5]] * 2, [0.0, 1.0], TypeError, "labels must be whole numbers"),
    ([[0.5, 0.5]] * 2, [0, 2], ValueError, r"labels must be .* in \[0, 1\], got values from 0 to 2"),
    ([[0.5, 0.5]] * 2, [-1, 1], ValueError, "labels must be"), ([[0.5, 0.5]] * 2, [[1, 0], [0, 1]], ValueError, r"labels must be whole numbers \(N,\)"),
    ([[0.5, 0.5]] * 2, [0], ValueError, "labels must be .* with N = 2"), ([[0.5, 0.5]] * 2, [True, False], TypeError, "labels must be"),
])  # fmt: skip
def test_what_is_no_probability_or_label_is_refused(p, y, error, message):
    with pytest.raises(error, match=message):
        calibration_error(p, y)


@pytest.mark.parametrize("bins, error", [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("10", TypeError), (None, TypeError), (True, TypeError)])
def test_what_is_no_number_of_bins_is_refused(bins, error):
    with pytest.raises(error, match="bins must be a whole number >= 1, got"):
        calibration_error([[0.5, 0.5]], [0], bins=bins)
