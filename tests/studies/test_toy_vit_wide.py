"""The finished toy-vit-wide, by its study: it knows more than an untrained twin and bare pixels, of real handwriting too, and its card says so."""

import re

import pytest

from helpers import studies
from helpers.measures.statistics import paired
from helpers.models import zoo
from helpers.recipes import toy_vit_wide as recipe


@pytest.fixture(scope="module")
def table():
    return studies.load("toy_vit_wide")


def test_it_knows_more_than_an_untrained_twin_and_pixels(table):
    means = table.groupby("task")[["trained", "untrained", "pixels"]].mean()
    assert len(means) == 20 and len(table) == 100
    assert paired(means.trained, means.untrained, of="tasks").value > 12
    assert (means.trained > means.pixels).mean() >= 0.75
    for name in ("digits", "mnist"):
        some = table[table.task == name]
        assert paired(some.trained, some.untrained, of="seeds").value > 15


def test_the_card_says_what_the_study_measured(table):
    text, means = (zoo.MODELS / recipe.NAME / "README.md").read_text(), table.groupby("task")[["trained", "untrained", "pixels"]].mean()
    for name, row in means.iterrows():
        said = re.search(rf"^\| {name} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", text, re.M).groups()
        assert [float(value) for value in said] == pytest.approx(row.tolist(), abs=0.6), name
    above = int(re.search(r"Above pixels in (\d+) of 20 tasks", text)[1])
    assert abs(above - (means.trained > means.pixels).sum()) <= 1
