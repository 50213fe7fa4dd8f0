"""The shipped models draw and read as well as their cards say: the studies' tables against the cards and against the least that pages rest on.

Nothing is measured here. That the tables are those of the shipped weights, the studies' samples say.
"""

import math
import re

import numpy as np
import pandas as pd
import pytest

from helpers import studies
from helpers.models import zoo
from helpers.recipes import toy_contrast, toy_judge
from helpers.studies import toy_latte, toy_sd
from helpers.toyworld.creatures import parse_creature_caption


def card(name: str) -> dict[tuple[str, str], tuple[float, int | None]]:
    """{(row, column): (percent, how many it is the share of, where the card says so)} of every table in a model's card."""
    found, head = {}, None
    for line in (zoo.MODELS / name / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells is None or set(cells[-1]) <= {"-", " "}:
            head = head if cells else None
        elif head is None:
            head = cells[1:]
        else:
            for column, cell in zip(head, cells[1:], strict=True):
                if m := re.fullmatch(r"([\d.]+) %(?: \(n = (\d+)\))?", cell):
                    found[cells[0], column] = float(m[1]), m[2] and int(m[2])
    return found


def decibels_of(name: str) -> float:
    return float(re.search(r"\*\*Autoencoder\*\*: ([\d.]+) dB", (zoo.MODELS / name / "README.md").read_text())[1])


def decibels(squared_error: pd.Series) -> float:
    return -10 * math.log10(squared_error.dropna().mean())


def shares(table: pd.DataFrame, kind: str, columns) -> dict[str, tuple[float, int]]:
    """(percent above 0, number of rows that are judged) by column."""
    rows = table[table["kind"] == kind]
    return {name: (100 * (rows[name].dropna() > 0).mean(), rows[name].notna().sum()) for name in columns}


def assert_near(own: tuple[float, int], said: tuple[float, int]) -> None:
    """Whether a share of n rows, drawn without putting back from the card's, could be the card's: within three standard errors and two rows."""
    (percent, n), (p, count) = own, said
    error = math.sqrt(p * (100 - p) * max(0, 1 / n - 1 / count))
    assert abs(percent - p) <= 3 * error + 200 / n, f"{percent:.1f} % of {n}, and the card says {p} % of {count}"


def test_a_share_that_is_not_the_cards_is_seen():
    assert_near((88.0, 50), (91.3, 300))
    assert_near((100.0, 30), (96.7, 90))
    for own in ((70.0, 50), (60.0, 60)):
        with pytest.raises(AssertionError, match="and the card says 91.3 %"):
            assert_near(own, (91.3, 300))


@pytest.mark.parametrize("name, kinds", [("toy_latte", 3), ("toy_cogvideox", 2), ("toy_sd", 2)])
def test_generators_are_as_their_cards_say(name, kinds):
    table, said = studies.load(name), card(name.replace("_", "-"))
    if name == "toy_sd":
        table["all"] = table[list(toy_sd.SAYS)].min(axis=1)  # everything that the prompt says is right
    columns = (*toy_sd.SAYS, "all") if name == "toy_sd" else toy_latte.SAYS
    named = [kind for kind in table["kind"].unique() if kind != "autoencoder"]
    assert len(named) == kinds
    for kind in named:
        for column, own in shares(table, kind, columns).items():
            if own[1] > 0:
                assert_near(own, said[column, kind])


def test_toy_latte_draws_what_prompts_say():
    table = studies.load("toy_latte")
    held_out = shares(table, "held-out prompts", toy_latte.SAYS)
    for column, least in {"colour": 90, "shape": 80, "direction": 80, "speed": 70}.items():
        assert held_out[column][0] >= least
    still = table[table["prompt"].str.endswith("stays still") & ~table["prompt"].str.contains(" and ") & (table["kind"] != "autoencoder")]
    assert len(still) > 5 and still["motion"].mean() > 0.9
    assert decibels(table["squared_error"]) == pytest.approx(decibels_of("toy-latte"), abs=0.1)


def test_toy_cogvideox_draws_what_prompts_say():
    held_out = shares(studies.load("toy_cogvideox"), "held-out prompts", toy_latte.SAYS)
    assert held_out["colour"][0] >= 90 and held_out["shape"][0] >= 60 and held_out["direction"][0] >= 70


def test_toy_sd_draws_what_prompts_say():
    table = studies.load("toy_sd")
    held_out = shares(table, "held-out prompts", toy_sd.SAYS)
    assert held_out["category"][0] > 80 and held_out["colour"][0] > 85 and held_out["facing"][0] > 70
    assert decibels(table["squared_error"]) == pytest.approx(decibels_of("toy-sd"), abs=0.1)
    for _, row in table[table["kind"] != "autoencoder"].iterrows():
        said = parse_creature_caption(row["prompt"])
        assert all(said[name] is not None for name in toy_sd.SAYS if not np.isnan(row[name]))  # nothing is judged that the prompt does not say
        assert not np.isnan(row["category"])


def test_toy_judge_reads_as_its_card_says():
    table, said = studies.load("toy_judge"), card("toy-judge")
    for view, column in (("clean", "photos and sketches"), ("reconstructed", "photos and sketches, reconstructed")):
        rows = table[table["view"] == view]
        assert 50 * len(rows) == toy_judge.HELD_OUT
        for name in ("category", "facing", "texture", "colour", "all"):
            count = rows["facing_judged"].sum() if name == "facing" else 50 * len(rows)
            percent, n = said[name, column]
            better = 100 * rows[name].sum() / count - percent
            assert count == n and -0.05 - 200 / n <= better <= (2 if view == "reconstructed" else 0.05 + 200 / n)  # the autoencoder has got better since
        better = 100 * rows["overlap"].mean() - said["mask, intersection over union", column][0]
        assert -0.1 <= better <= (1 if view == "reconstructed" else 0.1)


def test_toy_vit_tells_classes_apart_as_its_card_says():
    table = studies.load("toy_vit")
    text = (zoo.MODELS / "toy-vit" / "README.md").read_text()
    photos, sketches = (table[table["style"] == style] for style in ("photo", "sketch"))
    own = {"class": (table["right"].sum(), 50 * len(table)), "class, photos": (photos["right"].sum(), 50 * len(photos)),
           "class, sketches": (sketches["right"].sum(), 50 * len(sketches)), "category": (table["category"].sum(), 50 * len(table)),
           "texture, photos": (photos["texture"].sum(), photos["texture_judged"].sum())}  # fmt: skip
    for row, (right, count) in own.items():
        percent, n = re.search(rf"^\| {row} \| ([\d.]+) % \| (\d+) \|$", text, re.M).groups()
        assert abs(count - int(n)) <= 2 and 100 * right / count == pytest.approx(float(percent), abs=0.05 + 200 / count)
    assert own["class"][0] > 0.92 * own["class"][1] and own["category"][0] > 0.97 * own["category"][1]


def test_toy_contrast_sees_more_than_an_untrained_transformer_and_pixels():
    table, said = studies.load("toy_contrast"), card("toy-contrast")
    counts = table.groupby(["asked", "way"])[["asked_of", "within_0.1", "within_0.2", "right"]].sum()
    points, pictures = counts.loc["keypoints"], counts.loc["category"]
    for way in points.index:
        for column, head in (("within_0.1", "PCK at 0.1"), ("within_0.2", "PCK at 0.2")):
            assert 100 * points.loc[way, column] / points.loc[way, "asked_of"] == pytest.approx(said[way, head][0], abs=0.15)
    ours = toy_contrast.NAME
    for other in ("untrained", "pixels"):
        assert all(points.loc[ours, column] > points.loc[other, column] for column in ("within_0.1", "within_0.2"))
        assert pictures.loc[ours, "right"] > pictures.loc[other, "right"]
