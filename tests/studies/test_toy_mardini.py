"""The finished toy-mardini, by its study: it fills in, needs its plan, and its card says what was measured."""

import re

import numpy as np
import pytest

from helpers import studies
from helpers.models import zoo
from helpers.recipes import toy_mardini as recipe
from helpers.studies.toy_mardini import BATCH, FEW, WHOLE


@pytest.fixture(scope="module")
def table():
    return studies.load("toy_mardini")


def rows(table, name, clips=recipe.HELD_OUT):
    """The batches of a row of the card, over the first `clips` at most."""
    return table[(table.answer == name) & (table["first"] < clips)].to_dict("records")


def quality(table, name, clips=recipe.HELD_OUT):
    parts = rows(table, name, clips)
    assert len(parts) == clips // BATCH
    return recipe.pooled(parts, [BATCH] * len(parts))


def test_between_two_frames_it_is_far_better_than_a_cross_fade(table):
    error = quality(table, "interpolation")["error"]
    assert error <= 1.5 and error <= quality(table, "interpolation, cross-fade")["error"] / 2


def test_animated_pictures_keep_their_object_and_move_plausibly(table):
    found = quality(table, "image-to-video")
    assert found["kept"] >= 90 and found["plausible"] >= 80


def test_another_plan_or_none_loses_the_way(table):
    own = quality(table, "image-to-video", FEW)["error"]
    for way in ("another clip's plan", "no plan"):
        assert quality(table, f"image-to-video, {way}", FEW)["error"] >= 1.25 * own


def near(found, said, slack, parts, name):
    """Whether the card's figure over all clips and that of the table, over some of them, can be of one model: within three standard errors and `slack`."""
    left_out = 1 - len(parts) * BATCH / recipe.HELD_OUT
    error = (left_out / len(parts)) ** 0.5 * np.std([part[name] for part in parts], ddof=1)
    return abs(found - said) <= 3 * error + slack


def test_the_card_says_what_was_measured(table):
    """The recipe measured in larger batches and on its own machine: a clip may fall on the other side of a close decision."""
    lines = re.findall(r"^\| (.+) \| ([\d.]+) px \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$", (zoo.MODELS / recipe.NAME / "README.md").read_text(), re.M)
    assert [name for name, *_ in lines] == list(recipe.ANSWERS)
    for answer, *said in lines:
        parts = rows(table, answer)
        assert len(parts) * BATCH == (recipe.HELD_OUT if answer in WHOLE else FEW)
        found, slack = recipe.pooled(parts, [BATCH] * len(parts)), 100 / (len(parts) * BATCH) + 0.06
        for column, figure in zip(("error", "kept", "plausible", "direction"), said, strict=True):
            assert near(found[column], float(figure), 0.03 if column == "error" else slack, parts, column), (answer, column, found[column], figure)


def test_a_figure_of_another_model_is_seen(table):
    parts = rows(table, "image-to-video")
    found = recipe.pooled(parts, [BATCH] * len(parts))
    assert near(found["kept"], found["kept"] + 0.5, 0.56, parts, "kept") and not near(found["kept"], found["kept"] - 2, 0.56, parts, "kept")
