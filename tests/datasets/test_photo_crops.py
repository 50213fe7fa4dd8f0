"""Windows that move over photographs: the same in any batch, moved as they say, kept-out photographs never among those that are learned from."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.datasets import photo_crops
from helpers.datasets.photo_crops import KEPT_OUT, MOVES, TRAINED, crops


def test_nothing_kept_out_is_trained_on():
    assert not set(TRAINED) & set(KEPT_OUT) and len(set(TRAINED)) == len(TRAINED)


@pytest.mark.parametrize("vary", [False, True])
def test_a_clip_is_the_same_alone_and_in_any_batch(vary):
    whole = crops(4, range(8), vary=vary)
    for batch in ([7], [3, 2], [5, 5], np.array([6, 0, 4])):
        part, rows = crops(4, batch, vary=vary), torch.as_tensor(list(batch))
        for field in ("video", "photograph", "move", "shift"):
            assert torch.equal(getattr(part, field), getattr(whole, field)[rows]), field
    assert not torch.equal(crops(5, [0], vary=vary).video, whole.video[:1])


def test_every_photograph_and_move_can_be_had():
    for name in (*TRAINED, *KEPT_OUT):
        c = crops(1, [0], names=name, moves="pan", frames=2)
        assert c.names == (name,) and c.video.shape == (1, 2, 3, 32, 32) and c.video.std() > 0.01 and 0 <= c.video.min() <= c.video.max() <= 1
    c = crops(1, range(40))
    assert set(c.move.tolist()) == set(range(len(MOVES))) and set(c.photograph.tolist()) == set(range(len(KEPT_OUT)))
    often = crops(1, range(40), moves=("pan", "pan", "pan", "shake"), frames=2)
    assert 0.5 < (often.move == MOVES.index("pan")).double().mean() < 0.95


def test_pans_have_the_speeds_of_the_toy_world():
    for speed, (low, high) in {"slow": (0.6, 1.0), "fast": (1.9, 2.3)}.items():
        steps = crops(2, range(8), moves="pan", speeds=speed).shift.norm(dim=2)
        assert low * 7 / 8 - 1e-4 <= steps.min() and steps.max() <= high * 7 / 8 + 1e-4  # nine frames go as far as eight


@pytest.mark.parametrize("vary", [False, True])
def test_a_pan_moves_the_picture_against_the_camera(vary):
    c = crops(2, range(12), moves="pan", names=("cat", "coffee"), vary=vary)
    line = torch.arange(32) + 0.5
    way = -c.shift.flatten(0, 1)[..., None, None].expand(-1, -1, 32, 32)  # where a point of a frame lies in the next one
    grid = torch.stack([line + way[:, 0], line[:, None] + way[:, 1]], -1) / 32 * 2 - 1
    back = F.grid_sample(c.video[:, 1:].flatten(0, 1), grid, align_corners=False, padding_mode="border").view_as(c.video[:, 1:])
    inner = (slice(None), slice(None), slice(None), slice(4, -4), slice(4, -4))
    error, blind = ((x - c.video[:, :-1])[inner].abs().mean() for x in (back, c.video[:, 1:]))
    assert error < 0.02 and error < 0.5 * blind


def test_a_window_shows_a_fifth_of_the_photograph():
    """Against the photograph scaled by hand: a frame lies somewhere in it, pixel for pixel."""
    frame = crops(3, [0], names="coffee", moves="pan").video[0, 4]
    photo = photo_crops._photograph("coffee", 160)
    assert min(photo.shape[1:]) == 160
    small = F.avg_pool2d(frame[None], 32).flatten()
    places = F.avg_pool2d(photo[None], 32, stride=4)[0].flatten(1)
    assert (places - small[:, None]).abs().mean(0).min() < 0.05


def test_varied_clips_have_other_colours_and_views():
    plain, varied = (crops(6, range(12), names="china", vary=vary).video for vary in (False, True))
    assert (plain - varied).abs().mean((1, 2, 3, 4)).min() > 0.01


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: crops(-1, [0]), ValueError, "seed must be a whole number >= 0"),
        (lambda: crops(0, []), ValueError, "indices must be whole numbers"),
        (lambda: crops(0, [0.5]), TypeError, "indices must be whole numbers"),
        (lambda: crops(0, 3), ValueError, "indices must be whole numbers"),
        (lambda: crops(0, [0], size=8), ValueError, "size must be a whole number >= 16"),
        (lambda: crops(0, [0], frames=1), ValueError, "frames must be a whole number >= 2"),
        (lambda: crops(0, [0], moves="still"), ValueError, "moves must be one of"),
        (lambda: crops(0, [0], speeds="still"), ValueError, "speeds must be one of"),
        (lambda: crops(0, [0], names="dog"), ValueError, "names must be one of .*dog"),
        (lambda: crops(0, [0], vary=1), TypeError, "vary must be True or False, got 1"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
