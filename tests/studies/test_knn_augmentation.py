"""Page 06's study: what a case draws, what is chosen on which pictures, and parts of a row that must fit together."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from helpers.datasets import tasks
from helpers.studies import knn_augmentation as study


def test_cases_are_every_task_in_every_world():
    cases = pd.DataFrame(study.cases())
    bench = cases[cases.task.isin(tasks.NAMES)]
    assert len(bench) == len(tasks.NAMES) * study.SEEDS * (len(study.LABELS) + 1) and bench.groupby("task").size().nunique() == 1
    assert set(cases.task) - set(tasks.NAMES) == {study.PIXELS, *(f"{m} against {m} digits" for m in study.ISLANDS)}
    assert set(bench[bench.noise > 0].labels) == {study.LABELS[-1]}


def test_labelled_rows_are_at_most_so_many_of_each_class():
    labels = torch.tensor([2, 0, 0, 1, 0, 2, 0, 1, 0, 0])
    rows = study.labelled(labels, 3, seed=4)
    assert torch.bincount(labels[rows]).tolist() == [3, 2, 2] and rows.tolist() == sorted(set(rows.tolist()))
    assert set(study.labelled(labels, 1, 4).tolist()) <= set(rows.tolist())  # more labels keep those that there were
    assert any(study.labelled(labels, 3, seed).tolist() != rows.tolist() for seed in range(5))


def test_corrupted_labels_are_wrong_and_as_many_as_asked():
    labels = torch.arange(4000) % 7
    noisy, planted = study.corrupted(labels, 0.2, 7, seed=0)
    assert torch.equal(noisy != labels, planted) and abs(float(planted.double().mean()) - 0.2) < 0.03
    assert torch.bincount((noisy - labels)[planted] % 7, minlength=7)[1:].min() > 70  # every other class
    clean, none = study.corrupted(labels, 0.0, 7, seed=0)
    assert torch.equal(clean, labels) and not none.any()


def test_grouped_digits_are_two_classes_of_so_many():
    digits = torch.arange(100) % 10
    features, side = study.grouped(digits[:, None].double(), digits, 3, seed=1)
    found = {c: set(features[side == c, 0].tolist()) for c in (0, 1)}
    assert [len(found[c]) for c in (0, 1)] == [3, 3] and not found[0] & found[1] and len(side) == 60
    assert study.grouped(digits[:, None].double(), digits, 3, seed=2)[0].tolist() != features.tolist()


def test_the_regularisation_is_the_best_on_validation_pictures():
    rng = np.random.default_rng(0)
    x, held = torch.from_numpy(rng.normal(size=(40, 6))), torch.from_numpy(rng.normal(size=(50, 6)))
    y, held_y = (torch.from_numpy((f[:, 0] + rng.normal(size=len(f)) > 0).astype(int)) for f in (x.numpy(), held.numpy()))
    head, accuracy = study.fitted(x, y, (held, held_y), 2)
    every = {c: 100 * LogisticRegression(max_iter=1000, C=c).fit(x.numpy(), y.numpy()).score(held.numpy(), held_y.numpy()) for c in study.STRENGTHS}
    assert accuracy == pytest.approx(max(every.values())) == pytest.approx(every[head.C])
    alone, _ = study.fitted(x, y, (held, held_y), 2, weights=torch.cat([torch.ones(20), torch.zeros(20)]))
    without = LogisticRegression(max_iter=1000, C=alone.C).fit(x[:20].numpy(), y[:20].numpy())
    np.testing.assert_allclose(alone.coef_, without.coef_, atol=1e-3)  # an example of weight 0 is not there


def test_held_out_predictions_never_saw_their_example():
    rng = np.random.default_rng(1)
    x, y = torch.from_numpy(rng.normal(size=(20, 40))), torch.arange(20) % 2
    others = study.held_out(x, y, 10.0, 2, seed=0)
    own = study.says(LogisticRegression(C=10.0).fit(x.numpy(), y.numpy()), x, 2)
    assert study.share_right(own, y) == 100 and study.share_right(others, y) < 90  # 40 directions fit 20 labels of chance
    torch.testing.assert_close(others.sum(1), torch.ones(20, dtype=torch.float64))


def test_a_class_that_was_never_seen_has_no_probability():
    head = LogisticRegression().fit([[0.0], [1.0], [5.0]], [0, 0, 2])
    p = study.says(head, torch.tensor([[4.0]], dtype=torch.float64), 4)
    assert p.shape == (1, 4) and p[0, 1] == p[0, 3] == 0 and float(p.sum()) == pytest.approx(1)


def test_areas_need_events_on_both_sides():
    scores = torch.arange(10.0)
    assert study.area(scores, scores > 6) == 1 and study.area(-scores, scores > 6) == 0
    assert np.isnan(study.area(scores, scores > 7)) and np.isnan(study.area(scores, scores > 1))


@pytest.fixture(scope="module")
def row():
    return study.measure(dict(task="2 against 2 digits", labels=40, noise=0.0, seed=3))


def test_parts_of_a_row_fit_together(row):
    assert set(row) == set(study.TOLERANCE)
    assert row["neighbours"] - row["classifier"] == pytest.approx(row["only_neighbours"] - row["only_classifier"])
    assert row["tuned"] in [row[f"up_{a}"] for a in study.ALPHAS] and np.isnan(row["noise_area"]) and 0.5 < row["easy_area"] <= 1
    assert 0 <= row["weight"] <= 1 and min(row[name] for name in ("classifier", "neighbours", "mixture")) > 80


def test_a_noisy_row_has_areas_of_its_planted_labels_and_few_labels_no_step_one():
    noisy = study.measure(dict(task="1 against 1 digits", labels=40, noise=0.2, seed=0))
    assert noisy["noise_area"] > 0.9 and noisy["own_area"] > 0.8 and np.isnan(noisy["easy_area"])
    few = study.measure(dict(task=study.PIXELS, labels=1, noise=0.0, seed=0))
    assert all(np.isnan(few[name]) for name in (*study.STEP_ONE, *study.AREAS)) and few["classifier"] > 30
