"""Simple ways to fill in frames: against slow loops, exact motions, and what bad input must say."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.measures import filling
from tests.accelerator import DEVICE, Accelerator, near

SHADES = torch.rand(5, 3, 20, 24, generator=torch.Generator().manual_seed(0))
KNOWN = torch.tensor([False, True, False, False, True])


def blob(shifts, size=40):
    """A smooth blob moved by (x, y) px in each frame: (T, 3, size, size)."""
    y, x = torch.meshgrid(torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64), indexing="ij")
    frames = [(-((x - 18 - dx) ** 2 + (y - 20 - dy) ** 2) / 60).exp() for dx, dy in shifts]
    return torch.stack(frames)[:, None].expand(-1, 3, -1, -1).float().contiguous()


@pytest.mark.parametrize("way", [filling.nearest, filling.cross_fade, filling.along_flow])
def test_known_frames_stay_and_missing_ones_are_not_looked_at(way):
    hidden = SHADES.clone()
    hidden[~KNOWN] = math.nan
    made = way(hidden, KNOWN)
    assert torch.equal(made[KNOWN], SHADES[KNOWN]) and made.dtype == SHADES.dtype and torch.isfinite(made).all()
    assert torch.equal(made, way(SHADES, KNOWN))


def test_nearest_by_a_slow_loop():
    made = filling.nearest(SHADES, KNOWN)
    for t, source in enumerate((1, 1, 1, 4, 4)):
        assert torch.equal(made[t], SHADES[source])
    tie = filling.nearest(SHADES, torch.tensor([True, False, True, False, False]))
    assert torch.equal(tie[1], SHADES[0])  # the earlier of two


def test_cross_fade_by_hand():
    made = filling.cross_fade(SHADES, KNOWN)
    assert torch.allclose(made[2], (2 * SHADES[1] + SHADES[4]) / 3, atol=1e-6) and torch.allclose(made[3], (SHADES[1] + 2 * SHADES[4]) / 3, atol=1e-6)
    assert torch.equal(made[0], SHADES[1])


def test_flow_follows_a_moving_blob_and_carries_on():
    true = blob([(1.5 * t, -t) for t in range(7)])
    known = torch.tensor([False, False, True, False, True, False, False])
    made, held = filling.along_flow(true, known), filling.along_flow(true, known, carry_on=False)
    error = {name: (x - true).square().mean((1, 2, 3)) for name, x in (("flow", made), ("fade", filling.cross_fade(true, known)))}
    for t in (1, 3, 5):
        assert error["flow"][t] < 0.3 * error["fade"][t]
    assert torch.equal(held[6], true[4]) and torch.equal(held[0], true[2]) and torch.allclose(held[3], made[3])


def test_flow_of_a_still_clip_and_of_one_known_frame():
    still = blob([(0, 0)] * 4)
    assert torch.allclose(filling.along_flow(still, torch.tensor([True, False, False, True])), still, atol=1e-3)
    one = torch.tensor([False, True, False, False])
    assert torch.equal(filling.along_flow(blob([(t, 0) for t in range(4)]), one), blob([(1, 0)] * 4))


def test_straight_line_is_exact_for_constant_velocity():
    times = torch.arange(6.0)[:, None]
    true = torch.tensor([[3.0, 10.0]]) + times * torch.tensor([[1.5, -2.0]])
    for known in ([1, 2], [0, 5], [2, 4, 5], [0, 1, 2, 3, 4]):
        is_ref = torch.zeros(6, dtype=torch.bool)
        is_ref[known] = True
        given = torch.where(is_ref[:, None], true, math.nan)
        assert torch.allclose(filling.straight_line(given, is_ref), true)


def test_straight_line_uses_its_neighbours():
    places = torch.tensor([[0.0], [0], [4], [9], [0], [0]])
    is_ref = torch.tensor([True, False, True, True, False, False])
    assert filling.straight_line(places, is_ref)[:, 0].tolist() == [0, 2, 4, 9, 14, 19]
    alone = filling.straight_line(places, torch.tensor([False, False, False, True, False, False]))
    assert (alone == 9).all()


@pytest.mark.parametrize("way", [filling.nearest, filling.cross_fade, filling.along_flow])
def test_bad_input_is_refused(way):
    with pytest.raises(TypeError, match="clip must be floating-point numbers .*, got int64 tensor"):
        way(torch.zeros(5, 3, 20, 24, dtype=torch.int64), KNOWN)
    with pytest.raises(ValueError, match=r"clip must be numbers \(K, C, H, W\), got shape \(5, 20, 24\)"):
        way(SHADES[:, 0], KNOWN)
    with pytest.raises(TypeError, match="is_ref must be True and False .*, got float32 tensor"):
        way(SHADES, KNOWN.float())
    with pytest.raises(ValueError, match=r"is_ref must be .* \(K,\) with K = 5, got shape \(4,\)"):
        way(SHADES, KNOWN[:4])
    with pytest.raises(ValueError, match="is_ref must hold a known frame, got 5 times False"):
        way(SHADES, KNOWN & False)
    broken = SHADES.clone()
    broken[1, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="clip must be finite in its known frames"):
        way(broken, KNOWN)


WAYS = {filling.nearest: SHADES, filling.cross_fade: SHADES, filling.along_flow: SHADES, filling.straight_line: SHADES[:, :, 0, 0]}


@pytest.mark.parametrize("way", WAYS)
def test_arrays_and_tensors_of_any_kind(way):
    clip = WAYS[way]
    right, known = way(clip, KNOWN), KNOWN.tolist()
    turned = np.ascontiguousarray(clip.numpy()[::-1])[::-1]
    for one in (clip.numpy(), turned, clip.numpy().astype(">f4"), clip.tolist(), clip.double().numpy()):
        made = way(one, np.array(known)[::-1].copy()[::-1])
        assert isinstance(made, np.ndarray) and np.allclose(made, right, atol=1e-6) and (made[KNOWN] == np.asarray(one)[KNOWN]).all()
    for one in (clip.requires_grad_(False).clone().requires_grad_(), clip.mT.contiguous().mT if clip.ndim > 2 else clip):
        assert torch.equal(way(one, pd.Series(known, index=range(9, 14))), right)
    for dtype, off in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2), (torch.float64, 1e-6)):
        made = way(clip.to(dtype), known)
        assert made.dtype == dtype and torch.allclose(made.float(), right, atol=2 * off) and torch.equal(made[KNOWN], clip.to(dtype)[KNOWN])
    with Accelerator():
        for mask in (KNOWN, KNOWN.to(DEVICE)):
            made = way(clip.to(DEVICE), mask)
            assert made.device == DEVICE and torch.equal(near(made), right)
        assert torch.equal(way(clip, KNOWN.to(DEVICE)), right)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_given_is_left_as_it_is(way):
    clip, kept = WAYS[way].clone(), WAYS[way].clone()
    way(clip, KNOWN).fill_(0)
    assert torch.equal(clip, kept)
    assert torch.equal(way(clip, torch.ones(5, dtype=torch.bool)), clip)


def test_other_refusals():
    for wrong in (1, "yes", None):
        with pytest.raises(TypeError, match="carry_on must be True or False"):
            filling.along_flow(SHADES, KNOWN, carry_on=wrong)
    for wrong in (None, "text", torch.zeros(5, 3, 20, 24, device="meta")):
        with pytest.raises(TypeError, match="clip must be numbers"):
            filling.nearest(wrong, KNOWN)
    with pytest.raises(ValueError, match=r"at least 16 x 16 px for optical flow, got \(12, 24\)"):
        filling.along_flow(SHADES[:, :, :12], KNOWN)
    with pytest.raises(ValueError, match=r"places must be numbers \(K, D\)"):
        filling.straight_line(SHADES, KNOWN)
