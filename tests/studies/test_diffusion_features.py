"""Page 04's studies: cases that share nothing with those that chose the settings, settings that the grids chose, and sums over points."""

import numpy as np
import pandas as pd
import pytest

from helpers.measures.correspondence import raw_patches, semantic_pairs
from helpers.methods import diffusion_features as dift
from helpers.studies import diffusion_features as study
from helpers.studies import diffusion_features_grids as grids
from helpers.toyworld.skeletons import CATEGORIES


def test_the_pictures_that_choose_are_not_those_that_test():
    assert grids.SEED != study.SEED
    units = {(case["task"], case["unit"]) for case in grids.cases()}
    assert {task: sum(t == task for t, _ in units) for task in ("semantic", "geometric", "temporal")} == {"semantic": 54, "geometric": 8, "temporal": 6}
    cases = pd.DataFrame(study.cases())
    assert cases.groupby("part").unit.nunique().to_dict() == dict(
        pairs=108, heads=6, views=10, photographs=6, stereo=24, clips=12, prompt=54, facing=27, noises=54, told=54
    )


def test_the_first_units_hold_one_pair_of_each_category():
    places = [grids.unit_number("semantic", unit) for unit in range(2 * len(CATEGORIES))]
    assert [p // grids.PAIRS for p in places] == 2 * list(range(len(CATEGORIES))) and len(set(places)) == len(places)
    assert grids.unit_number("temporal", 5) == 5 and study.place(10, 12) == 13


def tiny(task="semantic"):
    rows = [
        dict(task=task, descriptor=name, t=t, unit=unit) | {f"{which}_{k}": np.nan for which in ("at", "loose") for k in range(grids.LAYERS)}
        | {"at_2": 10 + unit, "at_5": t + unit, "at_6": 2 * t + unit, "loose_5": 99.0}
        for name in (grids.DIFT, grids.UNTRAINED) for t in (0, 60) for unit in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_grids_are_units_by_settings():
    keys, scores = grids.grid(tiny(), "semantic")
    assert keys == [(0, 2), (0, 5), (0, 6), (60, 2), (60, 5), (60, 6)]
    assert scores.tolist() == [[10, 0, 0, 10, 60, 120], [11, 1, 1, 11, 61, 121], [12, 2, 2, 12, 62, 122]]
    assert grids.grid(tiny(), "semantic", which="loose")[0] == [(0, 5), (60, 5)]


def test_the_best_mean_is_chosen_among_the_layers_that_are_allowed(monkeypatch):
    monkeypatch.setattr(grids, "table", tiny)
    grids.chosen.cache_clear()
    assert grids.chosen("semantic") == (60, 6) and grids.chosen_block("semantic") == (60, 5) and grids.chosen("semantic", layers=(2,)) == (0, 2)
    grids.chosen.cache_clear()


def test_recorded_choices_are_readings_that_there_are():
    for task in ("semantic", "geometric", "temporal"):
        t, layer = grids.chosen_block(task)
        assert t in grids.TIMES and layer in grids.BLOCKS
        assert grids.chosen(task, grids.PATCHES)[1] in grids.READINGS[grids.PATCHES][task]
        assert grids.chosen(task, grids.CONTRAST)[1] in grids.READINGS[grids.CONTRAST][task]


def test_noise_that_is_told_apart_is_that_of_the_other_timestep():
    pipe = grids.pipeline(True)
    assert dift.noise_to_signal(grids.told(pipe, 261).scheduler, 5) == pytest.approx(dift.noise_to_signal(pipe.scheduler, 261))
    assert dift.noise_to_signal(grids.told(pipe, None).scheduler, 999) == 0


def test_sums_over_points_weigh_pairs_by_their_points():
    rows = [dict(part="pairs", descriptor=name, unit=u, score=s, loose=100.0, points=p) for name, add in (("a", 0), ("b", 10))
            for u, (s, p) in enumerate(zip((0, 50, 20, 0, 40, 80, 30, 60), (1, 2, 5, 9, 5, 3, 10, 6), strict=True)) for s in [s + add]]  # fmt: skip
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)
    assert study.scores(table, "pairs", "b").tolist() == [10, 60, 30, 10, 50, 90, 40, 70]
    assert study.per_point(table, "pairs", "a").value == pytest.approx((100 + 100 + 200 + 240 + 300 + 360) / 41)
    assert study.per_point(table, "pairs", "b", minus="a").value == pytest.approx(10)
    with pytest.raises(ValueError, match="no rows of 'c' in 'pairs'; there are"):
        study.scores(table, "pairs", "c")


def test_one_case_by_hand():
    """Raw patches on one pair, without the study's own helpers."""
    case = next(c for c in study.cases() if c["part"] == "pairs" and c["descriptor"] == study.PATCHES and c["unit"] == 9)
    pairs, patch = semantic_pairs(study.SEED, study.PAIRS), grids.chosen("semantic", grids.PATCHES)[1]
    i = 1  # the second pair of the first category
    maps = [raw_patches(side[i : i + 1], patch, 2)[0] for side in (pairs.source, pairs.target)]
    found = dift.match(*maps, pairs.source_points[i], source_size=(64, 64), target_size=(64, 64)).points
    miss = (found - pairs.target_points[i]).norm(dim=1)
    side = (pairs.target_box[i, 2:] - pairs.target_box[i, :2]).max()
    now = study.measure(case)
    shares = [100 * float((miss <= allowed * side).double().mean()) for allowed in (0.1, 0.2)]
    assert now["points"] == len(miss) and [now["score"], now["loose"]] == pytest.approx(shares)
