"""Page 16's study: its cases, what one measures on a few pictures, and what is read from the table."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.datasets.corruptions import KINDS, SEVERITIES, corrupt
from helpers.measures import recognition as bench
from helpers.measures.robustness import retention
from helpers.models import backbones
from helpers.studies import recognition as study

torch.set_num_threads(1)


def test_every_network_is_trained_with_every_seed_and_three_have_untrained_twins():
    cases = [case for case in study.cases() if case["data"] == "scenes 32"]
    assert len(cases) == study.SEEDS * (len(backbones.NAMES[32]) + 3) == len({tuple(case.values()) for case in cases})
    assert {case["architecture"] for case in cases if case["recipe"] == "plain"} == set(backbones.NAMES[32])
    assert {case["architecture"] for case in cases if case["recipe"] == "untrained"} == {"ViT", "CNN", "FAN"}
    digits = [case for case in study.cases() if case["data"] == "digits"]
    assert len(digits) == study.SEEDS * len(study.ON_DIGITS) and {case["recipe"] for case in digits} == {"plain"}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setitem(bench.DATA, "scenes 32", bench.DATA["scenes 32"] | dict(train=40, test=30))
    monkeypatch.setitem(bench.LENGTHS, "scenes 32", dict(steps=3, batch=8))
    monkeypatch.setattr(study, "ASKED", 20)
    monkeypatch.setattr(study, "GROUPED", 4)
    study.pictures.cache_clear()
    yield
    study.pictures.cache_clear()


def case_of(architecture, recipe="plain", seed=3):
    return dict(data="scenes 32", architecture=architecture, recipe=recipe, seed=seed)


@pytest.mark.parametrize("architecture", ["FAN", "CNN"])
def test_a_case_measures_what_its_columns_say(few, architecture):
    found = study.measure(case_of(architecture))
    assert set(found) == set(study.TOLERANCE) and all(np.isfinite(value) for value in found.values())
    data = bench.pictures("scenes 32", seed=3)
    model = bench.fit(backbones.make(architecture, size=32, classes=6, seed=3), data, seed=3)
    right = (bench.predict(model, data.test.images) == data.test.labels).double()
    assert found["accuracy"] == pytest.approx(100 * right.mean()) and found["asked"] == pytest.approx(100 * right[:20].mean())
    said = bench.predict(model, data.train.images[:30]) == data.train.labels[:30]
    assert found["learned"] == pytest.approx(100 * said.double().mean())
    worse = corrupt(data.test.images[:20], "fog", 4)
    assert found["fog_4"] == pytest.approx(100 * (bench.predict(model, worse) == data.test.labels[:20]).double().mean())
    noisy = corrupt(data.test.images[:4], "noise", 2)
    assert found["ari_2"] == pytest.approx(np.nanmean(bench.grouping(model, noisy, data.test.masks[:4])))
    assert found["parameters"] == sum(p.numel() for p in model.parameters()) and found["macs"] > found["parameters"] and found["train_seconds"] > 0
    if architecture == "FAN":
        assert 0.4 < found["gate_low"] < found["gate_high"] < 1 and found["gate_spread"] > 0 and found["accuracy_mean_gate"] > 0
    else:
        assert found["gate_low"] == found["gate_high"] == found["gate_spread"] == found["accuracy_mean_gate"] == 0


def test_untrained_networks_are_left_as_they_start(few):
    found = study.measure(case_of("ViT", "untrained"))
    data = bench.pictures("scenes 32", seed=3)
    start = backbones.make("ViT", size=32, classes=6, seed=3).eval()
    assert found["accuracy"] == pytest.approx(100 * (bench.predict(start, data.test.images) == data.test.labels).double().mean())


def table_of(**changed):
    rows = []
    for seed in (1, 0):
        for name, accuracy in (("ViT", 80.0 + seed), ("FAN", 90.0 + seed)):
            kept = {column: accuracy / 2 for column in study.WORSE}
            rows.append(dict(data="scenes 32", architecture=name, recipe="plain", seed=seed, accuracy=accuracy, asked=accuracy) | kept | changed)
    return pd.DataFrame(rows)


def test_rows_and_errors_follow_the_seeds():
    table = table_of()
    assert study.rows(table, "FAN").accuracy.tolist() == [90, 91] and study.rows(table, "ViT").index.tolist() == [0, 1]
    errors = study.errors(table, "ViT")
    np.testing.assert_allclose(errors.clean, [0.2, 0.19])
    np.testing.assert_allclose(errors.corrupted["jpeg"], np.array([[0.6], [0.595]]) * np.ones(len(SEVERITIES) - 1))
    np.testing.assert_allclose(retention(errors), [0.5, 0.5])
    assert tuple(errors.corrupted) == KINDS


@pytest.mark.parametrize(
    "change, message", [(lambda t: t.drop(columns="recipe"), "no column recipe"), (lambda t: pd.concat([t, t]), "once a seed"),
                        (lambda t: t[t.architecture != "FAN"], "architecture must be one of 'ViT', got 'FAN'")],
)  # fmt: skip
def test_rows_refuse_other_tables(change, message):
    with pytest.raises(ValueError, match=message):
        study.rows(change(table_of()), "FAN")
    with pytest.raises(ValueError, match="recipe must be one of 'plain', got 'untrained'"):
        study.rows(table_of(), "FAN", recipe="untrained")
