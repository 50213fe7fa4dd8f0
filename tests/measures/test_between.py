"""Frames between two known ones, by hand examples and by clips that move as is known."""

import pytest
import torch

from helpers.datasets import photo_crops
from helpers.measures import between, metrics


def test_nearest_and_cross_fade_by_hand():
    video = torch.stack([torch.full((1, 2, 2), value) for value in (0.0, 9.0, 9.0, 9.0, 1.0)])[None]
    assert between.nearest(video)[0, :, 0, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert between.cross_fade(video)[0, :, 0, 0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert between.nearest(video[:, :4])[0, :, 0, 0, 0].tolist() == [0, 0, 9, 9]


def test_flow_follows_a_slow_pan():
    """Better than a cross-fade where things move by a few pixels; the ends stay bit for bit."""
    clips = photo_crops.crops(3, range(6), moves="pan", names="coffee", frames=4)
    moved, faded = between.flow(clips.video), between.cross_fade(clips.video)
    assert torch.equal(moved[:, [0, -1]], clips.video[:, [0, -1]]) and 0 <= moved.min() <= moved.max() <= 1
    assert metrics.psnr(moved[:, 1:-1], clips.video[:, 1:-1]) > metrics.psnr(faded[:, 1:-1], clips.video[:, 1:-1]) + 1


def test_flow_leaves_a_still_clip_as_it_is():
    still = photo_crops.crops(3, [0], names="cat").video[:, :1].expand(1, 5, 3, 32, 32)
    assert (between.flow(still) - still).abs().max() < 1e-3


def test_only_the_ends_are_read():
    video = photo_crops.crops(3, [0], names="cat").video
    other = video.clone()
    other[:, 1:-1] = torch.rand(1, 7, 3, 32, 32)
    for fill in (between.nearest, between.cross_fade, between.flow):
        assert torch.equal(fill(video), fill(other))


@pytest.mark.parametrize("fill", [between.nearest, between.cross_fade, between.flow])
@pytest.mark.parametrize(
    "video, error, message",
    [
        ([[0.0]], TypeError, "video must be a torch tensor, got list"),
        (torch.zeros(3, 3, 8, 8), ValueError, r"video must be \(B, T, C, H, W\) .* got \(3, 3, 8, 8\)"),
        (torch.zeros(1, 1, 3, 8, 8), ValueError, "at least two frames"),
        (torch.full((1, 2, 3, 8, 8), float("nan")), ValueError, "video holds NaN"),
    ],
)
def test_bad_clips(fill, video, error, message):
    with pytest.raises(error, match=message):
        fill(video)
