"""The analysers against renders whose answer is known: clean, noisy and blurred."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.toyworld.analysers import analyse_clips, analyse_pictures, analyse_two_objects, camera_motion, judge
from helpers.toyworld.shapes import MOTIONS, clips, clips_of, shapes

CONDITIONS = ("clean", "noisy", "blurred")


def disturb(images, condition):
    """images (..., 3, H, W): as they are, with noise of standard deviation 0.08, or blurred with (1, 2, 1) / 4 twice."""
    if condition == "noisy":
        return (images + 0.08 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    if condition == "clean":
        return images
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    flat = images.reshape(-1, *images.shape[-3:])
    return F.conv2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), kernel, groups=3).view(images.shape)


def share(hits):
    return float(hits.double().mean())


@pytest.fixture(scope="module")
def pictures():
    return shapes(5, range(500))


@pytest.fixture(scope="module")
def films():
    c = clips(5, range(160), motions=("still", "move", "grow", "shrink"))
    return c, c.render().video


@pytest.mark.parametrize("condition, shape_floor", zip(CONDITIONS, (0.99, 0.94, 0.94), strict=True))
def test_pictures_are_read_right(pictures, condition, shape_floor):
    r = analyse_pictures(disturb(pictures.image, condition))
    right = r.shape == pictures.shape
    assert share(right) >= shape_floor and share(r.colour == pictures.colour) >= 0.995 and r.found.all()
    assert float((r.position - pictures.position).norm(dim=1).median()) < 0.5
    for confidence in (r.shape_confidence, r.colour_confidence, r.position_confidence):
        assert confidence.min() >= 0 and confidence.max() <= 1 + 1e-6
    if condition != "clean":
        assert r.shape_confidence[right].mean() > r.shape_confidence[~right].mean() + 0.1


@pytest.mark.parametrize("condition, shape_floor", zip(CONDITIONS, (0.99, 0.92, 0.98), strict=True))
def test_clips_are_read_right(films, condition, shape_floor):
    c, video = films
    r = analyse_clips(disturb(video, condition))
    moves, still = c.motion == MOTIONS.index("move"), c.motion == MOTIONS.index("still")
    assert share(r.shape == c.shape[:, 0]) >= shape_floor and share(r.colour == c.colour[:, 0]) >= 0.995
    assert share((r.direction == c.direction[:, 0])[moves]) >= 0.99 and share((r.speed == c.speed[:, 0])[moves | still]) >= 0.99
    assert torch.allclose(r.velocity[moves], c.position.diff(dim=1)[moves, 0, 0].float(), atol=0.25)
    growth_floor = 0.9 if condition == "noisy" else 1.0  # noise around a small object makes its radius uncertain
    grows, shrinks = c.motion == MOTIONS.index("grow"), c.motion == MOTIONS.index("shrink")
    assert (r.found == 1).all() and share(r.growth[grows] > 0.03) >= growth_floor and share(r.growth[shrinks] < -0.03) >= growth_floor
    assert r.direction_confidence[moves].mean() > 0.9 and r.speed_confidence[moves | still].mean() > 0.9


def test_two_objects_are_read_in_the_order_of_their_colours():
    c = clips(6, range(80), motions=("two",))
    order, rows = c.colour.argsort(1), torch.arange(80)
    for k, r in enumerate(analyse_two_objects(c.render().video)):
        slot = order[:, k]
        moves = c.speed[rows, slot] > 0
        assert share(r.colour == c.colour[rows, slot]) >= 0.98 and share(r.shape == c.shape[rows, slot]) >= 0.93
        assert share((r.direction == c.direction[rows, slot])[moves]) >= 0.97 and share(r.speed == c.speed[rows, slot]) >= 0.97


def test_the_camera_is_read_from_the_ground():
    c = clips(5, range(40), motions=("pan",))
    error = (camera_motion(c.render().video) - c.camera.diff(dim=1)[:, 0].float()).norm(dim=1)
    assert error.median() < 0.05 and error.max() < 0.6
    assert camera_motion(clips(5, range(10), motions=("move",)).render().video).abs().max() < 0.05


def test_readings_scale_with_the_picture():
    c = clips_of(["a red ring moves up fast", "a blue star stays still", "a green disc moves left slowly"], 2, size=64)
    r = analyse_clips(c.render().video)
    assert r.speed.tolist() == [2, 0, 1] and torch.equal(r.shape, c.shape[:, 0]) and torch.equal(r.colour, c.colour[:, 0])


def test_an_empty_picture_is_not_found_and_claims_nothing():
    grey = torch.full((1, 3, 32, 32), 0.3)
    r = analyse_pictures(grey)
    assert not r.found.any() and r.position.isnan().all() and r.shape_confidence.max() == 0 and r.colour_confidence.max() == 0
    film = analyse_clips(grey[:, None].repeat(1, 4, 1, 1, 1))
    assert film.found.max() == 0 and film.position.isnan().all()
    assert max(float(v.max()) for v in (film.shape_confidence, film.colour_confidence, film.direction_confidence, film.speed_confidence)) == 0


def test_one_picture_reads_as_in_a_batch(pictures):
    one, many = analyse_pictures(pictures.image[7:8]), analyse_pictures(pictures.image[:20])
    assert one.shape[0] == many.shape[7] and torch.allclose(one.position[0], many.position[7], atol=1e-4)


GOOD = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize(
    "images, error, message",
    [
        (GOOD[:0], ValueError, "images must be .* not empty"),
        (GOOD[0], ValueError, r"images must be numbers \(B, 3, H, W\)"),
        (GOOD[:, :1], ValueError, "images must be"),
        (GOOD * float("nan"), ValueError, "images must be finite"),
        (GOOD - 1, ValueError, r"images must be numbers .* in \[-0.001, 1.001\]"),
        (GOOD * 0 + 255, ValueError, r"images must be numbers .* in \[-0.001, 1.001\]"),
        (GOOD.byte(), TypeError, "images must be floating point"),
        ("picture", TypeError, "images must be numbers"),
        (None, TypeError, "images must be numbers"),
    ],
)
def test_bad_pictures_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        analyse_pictures(images)


@pytest.mark.parametrize("read", [analyse_clips, analyse_two_objects, camera_motion])
def test_bad_clips_are_refused(read):
    with pytest.raises(ValueError, match=r"video must be numbers \(B, T, 3, H, W\)"):
        read(GOOD)
    with pytest.raises(ValueError, match="not empty"):
        read(torch.zeros(1, 0, 3, 32, 32))
    with pytest.raises(TypeError, match="video must be floating point"):
        read(torch.zeros(1, 2, 3, 32, 32, dtype=torch.long))
    if read is not camera_motion:
        with pytest.raises(ValueError, match="at least 2 frames"):
            read(torch.zeros(1, 1, 3, 32, 32))


def test_a_judge_agrees_with_true_captions_and_not_with_false_ones():
    c = clips(7, range(60))
    video, captions = c.render().video, c.captions
    assert share(judge(video, captions).all) >= 0.93
    ring = clips_of("a red ring moves up fast", 1).render().video.repeat(5, 1, 1, 1, 1)
    false = ["a red ring moves up fast", "a blue ring moves up fast", "a red disc moves up fast", "a red ring moves left fast", "a red ring moves up slowly"]
    verdict = judge(ring, false)
    assert verdict.all.tolist() == [1, 0, 0, 0, 0]
    for k, name in enumerate(("colour", "shape", "direction", "speed"), start=1):
        assert getattr(verdict, name).tolist() == [float(i != k) for i in range(5)]
    with pytest.raises(ValueError, match="captions must be a text or a list of texts, 5 of them, got 1"):
        judge(ring, false[:1])


def test_what_comes_as_numpy_goes_out_as_numpy():
    video = clips_of(["a red ring moves up fast"]).render().video
    for read, given in ((analyse_pictures, video[0]), (analyse_clips, video), (analyse_two_objects, video), (camera_motion, video)):
        for words, plain in zip(flat(read(given)), flat(read(given.double().numpy()[::-1].copy()[::-1])), strict=True):
            assert isinstance(words, torch.Tensor) and isinstance(plain, np.ndarray)
            assert np.array_equal(words.numpy(), plain, equal_nan=True)
    said = judge(video.numpy(), "a red ring moves up fast")
    assert isinstance(said.all, np.ndarray) and said.all.tolist() == [1.0]
    assert judge(torch.cat([video, video]), "a red ring moves up fast").all.tolist() == [1, 1]


def flat(reading):
    """The arrays of a reading, of a pair of readings, or the one array."""
    if isinstance(reading, tuple):
        return [array for part in reading for array in vars(part).values()]
    return list(vars(reading).values()) if hasattr(reading, "__dict__") and not isinstance(reading, torch.Tensor) else [reading]
