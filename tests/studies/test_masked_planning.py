"""Page 03's study: its cases, a row by hand, and what the pair is given in each of them."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.recipes import toy_mardini as recipe
from helpers.studies import masked_planning as study
from helpers.toyworld import analysers

torch.set_num_threads(1)


def case(**changes):
    return dict(task="interpolation", way="nearest", steps=0, scale=0.0, seed=0, clip=13) | changes


def test_cases_fill_whole_batches_and_every_comparison_is_paired():
    cases = pd.DataFrame(study.cases())
    groups = cases.groupby(["task", "way", "steps", "scale", "seed"])["clip"].apply(list)
    assert all(clips == list(range(len(clips))) and len(clips) % study.BATCH == 0 for clips in groups)
    assert all(part["clip"].is_monotonic_increasing for _, part in cases.groupby((cases["clip"] == 0).cumsum()))  # a batch in one piece
    assert set(cases.task) == set(study.TASKS) and all(set(study.ways(t)) <= set(cases[cases.task == t].way) for t in study.TASKS)
    assert len(groups["image-to-video", "own plan", 50, 2.5, recipe.SEED]) == study.CLIPS


def test_simple_rows_by_hand():
    clips = recipe.sample(recipe.HELD_OUT_SEED, [13])
    video, known = clips.render().video, recipe.TASKS["interpolation"]
    true = analysers.analyse_clips(video).position[0]
    row = study.measure(case())
    there = [0, 0, 0, 0, 0, 8, 8, 8, 8]
    assert row["off"] == pytest.approx(np.mean([math.dist(true[t], true[there[t]]) for t in range(1, 8)]), abs=0.02)
    assert row["kept"] == 1 and row["like_other"] == 0
    line = study.measure(case(way="straight line"))
    mean = np.mean([math.dist(true[t], true[0] + (true[8] - true[0]) * t / 8) for t in range(1, 8)])
    assert line["off"] == pytest.approx(mean, abs=1e-3) and math.isnan(line["kept"])
    held = study.measure(case(task="expansion of 3"))
    assert held["off"] == pytest.approx(np.mean([math.dist(true[t], true[2]) for t in range(3, 9)]), abs=0.02)
    seven = study.measure(case(task="window of 7", way="straight line"))
    assert seven["off"] == pytest.approx(np.mean([math.dist(true[t], true[0] + (true[6] - true[0]) * t / 6) for t in range(1, 6)]), abs=1e-3)
    assert not known[1:8].any()


def test_whoever_knows_the_rules_is_off_by_the_speed_alone():
    clips = recipe.sample(recipe.HELD_OUT_SEED, range(8))
    clips.speed = torch.full_like(clips.speed, study.MEAN_SPEED)
    free = clips.position[:, :1] + clips.heading[:, :1] * study.MEAN_SPEED * torch.arange(9)[:, None]
    low = (1.15 * clips.radius)[:, None, None]
    clips.position = study.reflect(free, low, 32 - low)[0]
    known = recipe.TASKS["image-to-video"].expand(8, -1)
    assert torch.allclose(study.rules_known(clips, known).double(), clips.position, atol=1e-6)
    row = study.measure(case(task="middle frame", way="rules known"))
    assert 0 < row["off"] < 2.5 and math.isnan(row["step"])


def test_a_clip_is_the_same_whoever_is_measured_first(monkeypatch):
    asked = case(way="own plan", steps=1, scale=1.0, seed=recipe.SEED)
    first = study.measure(asked)
    study.measured_together.cache_clear()
    study.measure(asked | {"clip": 17})
    assert study.measure(asked) == pytest.approx(first, nan_ok=True, abs=0)
    assert study.measure(asked | {"clip": 17})["off"] != first["off"]


def test_what_the_pair_is_given(monkeypatch):
    """The plan is the clip before's, or the stand-in; noise, guidance and steps are the case's."""
    seen = {}

    def filled(pipe, video, is_ref, plan, steps, scale, seed, first):
        seen.update(video=video, is_ref=is_ref, plan=plan, steps=steps, scale=scale, seed=seed, first=first)
        return video

    monkeypatch.setattr(recipe, "filled", filled)
    study.measured_together.cache_clear()
    row = study.measure(case(task="image-to-video", way="another clip's plan", steps=3, scale=2.5, seed=7, clip=4))
    video = recipe.sample(recipe.HELD_OUT_SEED, [study.CLIPS - 1, *range(9)]).render().video
    wanted = study.pair().make_plan(2 * video - 1, recipe.TASKS["image-to-video"])
    assert torch.allclose(seen["plan"], wanted, atol=1e-5) and (seen["steps"], seen["scale"], seed := seen["seed"], seen["first"]) == (3, 2.5, seed, 0)
    assert seen["seed"] == 7 and row["off"] == pytest.approx(0, abs=1e-6) and row["off_other"] > 1 and row["kept"] == 1
    study.measured_together.cache_clear()
    study.measure(case(way="no plan", steps=2, scale=1.0, seed=7, clip=12))
    assert torch.equal(seen["plan"], study.pair().generator.without_plan(10, 9)) and seen["first"] == 10
    study.measured_together.cache_clear()


def test_column_gives_one_number_a_clip_or_refuses():
    rows = [case(clip=c, off=float(c)) for c in (2, 0, 1)] + [case(way="own plan", steps=10, scale=1.0, seed=recipe.SEED, clip=c, off=5.0 + c) for c in (0, 1)]
    rows += [case(way="own plan", steps=50, scale=1.0, seed=recipe.SEED, clip=0, off=9.0)]
    table = pd.DataFrame(rows)
    assert study.column(table, "interpolation", "nearest").tolist() == [0, 1, 2] and study.column(table, "interpolation").tolist() == [5, 6]
    assert study.column(table, "interpolation", "nearest", clips=2).tolist() == [0, 1] and study.column(table, "interpolation", steps=50).tolist() == [9]
    for wrong in (dict(steps=3), dict(clips=3), dict(step=50), dict(scale=2.5)):
        with pytest.raises(ValueError, match="must be one row for each clip from 0 on"):
            study.column(table, "interpolation", **wrong)
    with pytest.raises(ValueError, match="got 6 rows"):
        study.column(pd.concat([table, table]), "interpolation", "nearest")
