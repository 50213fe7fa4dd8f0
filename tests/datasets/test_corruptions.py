"""Corrupted pictures: severity 0 is the identity, more is worse, and what each kind does by a formula or a library of its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import hsv2rgb, rgb2hsv

from helpers.datasets import corruptions
from helpers.datasets.corruptions import KINDS, LEVELS, corrupt
from helpers.toyworld.creatures import creatures
from tests.accelerator import DEVICE, Accelerator, near

PICTURES = torch.rand(3, 3, 28, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5 + 0.25
DRAWN = ("noise", "shot", "impulse", "fog", "occlusion")
SCALED = ("blur", "defocus", "pixelate", "fog", "occlusion")


@pytest.fixture(scope="module")
def scenes():
    """Eight toy scenes by size."""
    return {size: creatures(3, range(8), size=size).image for size in (32, 64)}


@pytest.mark.parametrize("kind", KINDS)
def test_severity_none_is_the_identity_and_more_is_worse(kind):
    assert torch.equal(corrupt(PICTURES, kind, 0), PICTURES) and corrupt(PICTURES, kind, 0) is not PICTURES
    away = [float((corrupt(PICTURES, kind, severity) - PICTURES).abs().mean()) for severity in corruptions.SEVERITIES]
    assert away == sorted(away) and away[1] > 0.002 and len(set(away)) == 6 == len(LEVELS[kind])


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_more_is_worse_on_toy_scenes_of_both_sizes(scenes, kind, size):
    away = [float((corrupt(scenes[size], kind, severity) - scenes[size]).abs().mean()) for severity in corruptions.SEVERITIES]
    assert away == sorted(away) and len(set(away)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_stay_pictures_and_the_same_for_a_seed_alone_or_in_a_crowd(kind):
    kept, state = PICTURES.clone(), torch.get_rng_state()
    worse = corrupt(PICTURES, kind, 5, seed=3)
    assert worse.shape == PICTURES.shape and 0 <= worse.min() and worse.max() <= 1 and torch.equal(PICTURES, kept)
    assert torch.equal(worse[2:], corrupt(PICTURES[2:], kind, 5, seed=3, first=2)) and torch.equal(worse, corrupt(PICTURES, kind, 5, seed=3))
    assert torch.equal(worse, corrupt(PICTURES, kind, 5, seed=4)) is (kind not in DRAWN)
    assert corrupt(PICTURES.half(), kind, 3).dtype == torch.float16 and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_crowd_of_another_size_changes_no_bit(kind, channels):
    crowd = torch.rand(40, channels, 32, 32, generator=torch.Generator().manual_seed(1))
    worse = corrupt(crowd, kind, 3, seed=2)
    some = slice(0, 1), slice(17, 18), slice(5, 25), slice(39, 40)
    apart = [float((worse[rows] - corrupt(crowd[rows], kind, 3, seed=2, first=rows.start)).abs().max()) for rows in some]
    assert max(apart) <= (1e-6 if (kind, channels) == ("blur", 1) else 0)  # torch rounds the convolution of many grey pictures in another way


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_an_accelerator_come_back_there(kind):
    with Accelerator():
        far = corrupt(PICTURES.to(DEVICE), kind, 4)
        assert far.device == DEVICE
    assert torch.equal(near(far), corrupt(PICTURES, kind, 4))


@pytest.mark.parametrize("kind, entries, total", [
    ("noise", [0.030130185, 0.591287454, 0.387834651], 4540.378923),
    ("blur", [0.5061239, 0.499245587, 0.489558116], 4552.479813),
    ("contrast", [0.479616518, 0.511006474, 0.497683203], 4551.436133),
    ("darkness", [0.073072701, 0.151547592, 0.118239415], 1137.859033),
])  # fmt: skip
def test_the_kinds_that_measurements_were_recorded_with_give_what_they_gave(kind, entries, total):
    worse = corrupt(PICTURES, kind, 4, seed=5, first=2)
    assert worse[1, 2, 7, 3:6].tolist() == pytest.approx(entries, abs=1e-7) and float(worse.sum()) == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("kind", SCALED)
def test_a_scene_is_harmed_alike_at_32_and_64_pixels(scenes, kind):
    """Corrupted and then made smaller, it is nearest to the small one at that severity."""
    small = F.avg_pool2d(scenes[64], 2)
    for severity in range(1, 6):
        made_smaller = F.avg_pool2d(corrupt(scenes[64], kind, severity, seed=1), 2)
        apart = [float((made_smaller - corrupt(small, kind, other, seed=1)).abs().mean()) for other in range(6)]
        assert np.argmin(apart) == severity and apart[severity] < 0.5 * apart[0]


# --- noises ---


def test_noise_has_its_deviation_and_is_new_for_each_picture():
    grey = torch.full((2, 3, 64, 64), 0.5)
    noise = corrupt(grey, "noise", 2) - 0.5
    assert abs(noise.std() - 0.12) < 0.002 and abs(noise.mean()) < 0.002 and not torch.equal(noise[0], noise[1]) and not torch.equal(noise[0, 0], noise[0, 1])


@pytest.mark.parametrize("severity", [1, 3])
def test_shot_noise_counts_photons(severity):
    photons, light = LEVELS["shot"][severity], torch.tensor([0.0, 0.25, 0.5])
    worse = corrupt(light[:, None, None, None].expand(3, 3, 64, 64), "shot", severity, seed=1)
    counts = worse * photons
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-4)
    assert not worse[0].any() and not torch.equal(worse[1, 0], worse[1, 1])
    torch.testing.assert_close(worse.mean((1, 2, 3)), light, rtol=0, atol=0.01)
    torch.testing.assert_close(worse[1].var(), light[1] / photons, rtol=0.06, atol=0)  # Poisson's variance is its mean


def test_impulse_noise_hits_its_share_half_with_light_and_more_at_higher_severities():
    grey = torch.full((2, 3, 64, 64), 0.4)
    before = torch.zeros_like(grey, dtype=torch.bool)
    for severity in range(1, 6):
        worse, share = corrupt(grey, "impulse", severity), LEVELS["impulse"][severity]
        hit = worse != 0.4
        assert set(worse[hit].tolist()) == {0.0, 1.0} and (hit | ~before).all()
        for value in (0, 1):
            assert abs((worse == value).double().mean() - share / 2) < 4 * (share / 2 / grey.numel()) ** 0.5
        before = hit
    assert not torch.equal(hit[0], hit[1]) and not torch.equal(hit[0, 0], hit[0, 1])


# --- blurs ---


def test_blur_is_scipys():
    for severity in (1, 4):
        sigma = LEVELS["blur"][severity] * 36 / 32
        expected = gaussian_filter(PICTURES.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, *2 * (-int(-3 * sigma // 1),)))
        torch.testing.assert_close(corrupt(PICTURES, "blur", severity), torch.from_numpy(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [32, 64])
def test_defocus_makes_a_disc_of_a_point(size):
    point = torch.zeros(1, 2, size, size, dtype=torch.float64)
    point[0, :, 15, 17] = 1
    y, x = np.indices((size, size))
    away = torch.from_numpy(np.hypot(y - 15, x - 17))
    for severity in range(1, 6):
        radius = LEVELS["defocus"][severity] * size / 32
        disc = corrupt(point, "defocus", severity)[0]
        assert torch.equal(disc[0], disc[1]) and float(disc[0].sum()) == pytest.approx(1)
        inside, outside = disc[0][away <= radius - 0.5], disc[0][away >= radius + 0.5]
        assert inside.min() == inside.max() and not outside.any() and disc[0][away < radius + 0.5].min() > 0
        width, blurred = (float((one * torch.from_numpy((y - 15) ** 2)).sum() ** 0.5) for one in (disc[0], corrupt(point, "blur", severity)[0, 0]))
        assert width == pytest.approx(blurred, abs=0.2)  # deviation in pixels


def test_defocus_keeps_plain_pictures_and_their_edges():
    plain = torch.full((1, 3, 32, 40), 0.7, dtype=torch.float64)
    torch.testing.assert_close(corrupt(plain, "defocus", 5), plain)


# --- light ---


def test_contrast_keeps_each_mean_and_darkness_scales():
    worse = corrupt(PICTURES, "contrast", 3)
    torch.testing.assert_close(worse.mean((1, 2, 3)), PICTURES.mean((1, 2, 3)))
    torch.testing.assert_close(worse.flatten(1).std(1), 0.2 * PICTURES.flatten(1).std(1))
    torch.testing.assert_close(corrupt(PICTURES, "darkness", 2), 0.5 * PICTURES)


def test_brightness_is_the_value_of_hsv():
    hsv = rgb2hsv(PICTURES.numpy(), channel_axis=1)
    hsv[:, 2] = np.minimum(hsv[:, 2] + 0.3, 1)
    torch.testing.assert_close(corrupt(PICTURES, "brightness", 3), torch.from_numpy(hsv2rgb(hsv, channel_axis=1)), rtol=0, atol=1e-12)
    black = torch.zeros(1, 3, 4, 4)
    black[0, 0, 0, 0] = 1e-44  # too small to be divided by
    worse = corrupt(black, "brightness", 2)
    assert torch.equal(worse[0, :, 1:], torch.full((3, 3, 4), 0.2)) and worse.isfinite().all()


def test_fog_is_a_blend_with_clouds_of_one_colour_that_thicken():
    pictures = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    clouds = []
    for severity in range(1, 6):
        share = LEVELS["fog"][severity]
        black, white = (corrupt(one[None], "fog", severity, seed=4)[0] for one in pictures)
        torch.testing.assert_close(white - black, torch.full_like(white, 1 - share))
        clouds.append(black / share)
        c = share / (1 - share)  # as ImageNet-C has it, for pictures whose largest entry is 1
        torch.testing.assert_close(white, (1 + c * clouds[0]) / (1 + c))
    for one in clouds:
        torch.testing.assert_close(one, clouds[0][:1].expand(3, -1, -1))
    assert clouds[0].min() == 0 and clouds[0].max() == pytest.approx(1) and 0.1 < clouds[0].std() < 0.4
    steps = (clouds[0][:, 1:] - clouds[0][:, :-1]).abs().mean()
    assert steps < 0.3 * clouds[0].std()  # smooth: neighbours are alike
    assert not torch.equal(*corrupt(torch.zeros(2, 1, 32, 32), "fog", 3))


# --- detail ---


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_pixelate_is_pillows_boxes(severity):
    picture = (creatures(1, [0], size=40).image[0] * 255).round().to(torch.uint8)
    cells = int(LEVELS["pixelate"][severity])
    assert 40 % cells == 0
    boxes = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((cells, cells), Image.Resampling.BOX).resize((40, 40), Image.Resampling.NEAREST)
    worse = corrupt(picture[None].double() / 255, "pixelate", severity)[0].permute(1, 2, 0)
    assert np.abs(worse.numpy() * 255 - np.asarray(boxes)).max() <= 1.01  # rounded to bytes twice, along each side


def test_pixelate_has_square_cells_on_any_picture():
    worse = corrupt(torch.rand(1, 1, 16, 40, generator=torch.Generator().manual_seed(0)), "pixelate", 5)[0, 0]
    assert len(worse.unique()) == 2 * 5 and torch.equal(worse, worse[::8, ::8].repeat_interleave(8, 0).repeat_interleave(8, 1))
    tiny = torch.rand(1, 2, 5, 4)
    assert torch.equal(corrupt(tiny, "pixelate", 5), tiny)  # fewer pixels than cells


def test_jpeg_keeps_multiples_of_its_table():
    """The mean of a block of 8 x 8 px is stored in steps of an eighth of the table's first entry, 16, scaled by 5000 / quality % (libjpeg)."""
    grey = 0.4 + 0.2 * torch.rand(4, 1, 32, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for severity in (3, 4):
        scale = 5000 // LEVELS["jpeg"][severity]
        step = (16 * scale + 50) // 100 / 8
        steps = (F.avg_pool2d(corrupt(grey, "jpeg", severity), 8) * 255 - 128) / step
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=0.05)
        assert len(steps.round().unique()) > 1
        off = (F.avg_pool2d(grey, 8) * 255 - 128) / step
        assert (off - off.round()).abs().max() > 0.2  # they were no multiples before


def test_jpeg_stores_colour_as_colour_and_other_channels_each_alone(scenes):
    colour = scenes[32][:2]
    worse = corrupt(colour, "jpeg", 2)
    grey = torch.cat([corrupt(colour[:, c : c + 1], "jpeg", 2) for c in range(3)], 1)
    assert not torch.equal(worse, grey)  # the file of a colour picture holds its colours coarsely
    two = corrupt(colour[:, :2], "jpeg", 2)
    assert torch.equal(two, grey[:, :2])
    plain = torch.full((1, 3, 16, 16), 128 / 255)
    torch.testing.assert_close(corrupt(plain, "jpeg", 5), plain)


def test_occlusion_is_one_grey_square_that_grows():
    light, before = torch.ones(20, 3, 32, 48), torch.zeros(20, 32, 48, dtype=torch.bool)
    for severity in range(1, 6):
        worse, side = corrupt(light, "occlusion", severity, seed=6), round(LEVELS["occlusion"][severity] * 48 / 32)
        hidden = (worse == 0.5).all(1)
        assert (hidden.sum((1, 2)) == side**2).all() and (worse[~hidden[:, None].expand_as(worse)] == 1).all() and (hidden | ~before).all()
        rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
        assert (rows == side).all() and (columns == side).all()
        before = hidden
    places = hidden.double().flatten(1).argmax(1)
    assert len(places.unique()) > 5


# --- refusals ---


def test_bytes_are_refused_as_what_they_are():
    with pytest.raises(TypeError, match=r"images must be floating-point numbers \(N, C, H, W\) in \[0, 1\], got whole numbers of dtype uint8"):
        corrupt((PICTURES * 255).to(torch.uint8), "noise", 1)
    with pytest.raises(ValueError, match=r"images must be numbers \(N, C, H, W\) in \[0, 1\], got values from "):
        corrupt(PICTURES * 255, "noise", 1)


# --- what is drawn ---


@pytest.mark.parametrize("kind", DRAWN)
def test_what_is_drawn_does_not_follow_torchs_defaults(kind):
    worse = corrupt(PICTURES, kind, 4, seed=1)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        again = corrupt(PICTURES, kind, 4, seed=1)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(worse, again)


def test_no_two_pictures_of_any_two_seeds_are_drawn_by_one_number():
    """Of a seed torch's generator takes 32 bits, which is why seeds end where they do."""
    first, wrapped = (torch.rand(4, generator=torch.Generator().manual_seed(number)) for number in (7, 7 + 2**32))
    assert torch.equal(first, wrapped)
    last = corruptions.LAST_SEED * 1_000_003 + corruptions.PICTURES - 1
    assert last < 2**32 <= last + 1_000_003 and corruptions.PICTURES <= 1_000_003
    one = PICTURES[:1]
    assert not torch.equal(corrupt(one, "noise", 1, seed=0, first=999_999), corrupt(one, "noise", 1, seed=1))
    with pytest.raises(ValueError, match="first must be at most 999998 with 2 images, got 999999"):
        corrupt(PICTURES[:2], "noise", 1, first=999_999)


@pytest.mark.parametrize("kind", ["blur", "defocus"])
def test_autocast_changes_nothing(kind):
    with torch.autocast("cpu", torch.bfloat16):
        worse = corrupt(PICTURES, kind, 3)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(worse, corrupt(PICTURES, kind, 3))
