"""The finished toy-mardini-wide, by its studies: what it does with photographs that it has never seen, what it still knows of the toy world, and its card."""

import re

import pytest

from helpers import studies
from helpers.datasets import photo_crops
from helpers.measures import statistics
from helpers.models import zoo
from helpers.recipes import toy_mardini as toy
from helpers.recipes import toy_mardini_wide as recipe
from helpers.studies.toy_mardini import BATCH


@pytest.fixture(scope="module")
def photos():
    table = studies.load("toy_mardini_wide")
    return {move: table[table.move == move].to_dict("records") for move in recipe.HELD_OUT}


@pytest.fixture(scope="module")
def toys():
    table = studies.load("toy_mardini_wide_toys")
    return {task: toy.pooled(table[table.answer == task].to_dict("records"), [BATCH] * (toy.HELD_OUT // BATCH)) for task in recipe.TOY_ROWS}


@pytest.fixture(scope="module")
def card():
    return (zoo.MODELS / recipe.NAME / "README.md").read_text()


def above(clips, way, rival, score):
    return statistics.paired([clip[f"{score}, {way}"] for clip in clips], [clip[f"{score}, {rival}"] for clip in clips], of="clips")


@pytest.mark.parametrize("score", ["PSNR", "SSIM"])
def test_what_bounds_the_pair_leaves_room_on_fast_pans(photos, score):
    """There the autoencoder can show more than any rival does."""
    for rival in recipe.RIVALS:
        assert above(photos["fast pan"], "autoencoder", rival, score).says() == "gain"


def test_the_autoencoder_reaches_28_decibels_on_photographs_that_it_has_never_seen(card):
    line = re.search(r"\*\*Autoencoder\*\* on crops of kept-out photographs: (.+?) dB", card)[1]
    said = dict(re.findall(r"(\w+) ([\d.]+)", line))
    assert set(said) == set(photo_crops.KEPT_OUT) and sum(map(float, said.values())) / len(said) >= 28


def test_the_card_says_what_was_measured(photos, toys, card):
    """To the last digit on photographs: the recipe measures them clip by clip, as the study does; within a clip's weight on toys, which it batches."""
    for line in (recipe.photo_rows(photos) + "\n" + recipe.gain_rows(photos)).splitlines():
        assert line in card
    for task, found in toys.items():
        said = re.search(rf"^\| {task} \| ([\d.]+) px \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$", card, re.M).groups()
        for column, figure in zip(("error", "kept", "plausible", "direction"), map(float, said), strict=True):
            assert abs(found[column] - figure) <= (0.03 if column == "error" else 100 / toy.HELD_OUT + 0.06), (task, column)


def test_the_toy_world_is_still_known(toys):
    """toy-mardini's own bars, but for the objects that it keeps in image-to-video: 90 there."""
    assert toys["interpolation"]["error"] <= 1.5 and toys["image-to-video"]["kept"] >= 80 and toys["image-to-video"]["plausible"] >= 80


def test_where_a_frame_is_far_from_both_ends_the_first_guess_beats_the_nearest_one(photos):
    assert above(photos["fast pan"], "pair, one step", "nearest frame", "PSNR").says() == "gain"


def test_the_card_owns_up_to_what_is_not_reached(photos, card):
    """Drawing, the pair lies below a cross-fade; guessing, above it in SSIM and not below in PSNR: once that changes, the card's weakness must be rewritten."""
    assert above(photos["fast pan"], "pair", "cross-fade", "PSNR").says() == "loss"
    assert above(photos["fast pan"], "pair, one step", "cross-fade", "SSIM").says() == "gain"
    assert above(photos["fast pan"], "pair, one step", "cross-fade", "PSNR").says() != "loss"
    assert all(above(photos[move], "pair, one step", "cross-fade", "PSNR").says() == "loss" for move in ("slow pan", "zoom in", "zoom out", "shake"))
    assert "in PSNR the two cannot be told apart" in card and "lies below the fade there" in card and "on every other move a cross-fade is better" in card
