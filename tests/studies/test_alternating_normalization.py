"""Page 07's study: its rows and units, what is done to them, and what is counted."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.measures import probabilities as peers
from helpers.methods import alternating_normalization as can
from helpers.models import classifiers
from helpers.studies import alternating_normalization as study


@pytest.fixture(scope="module")
def rows():
    return study.digits("linear", 1, 0.9)


def test_cases_compare_all_methods_on_the_same_units():
    cases = pd.DataFrame(study.cases())
    digits = cases[(cases.bench == "digits") & (cases.task == "linear") & cases.method.isin(study.ALL)]
    assert digits.groupby(["method", "condition"]).seed.nunique().eq(study.SEEDS).all() and digits.condition.nunique() == 6
    assert cases[cases.bench == "tasks"].groupby(["method", "condition"]).task.nunique().eq(16).all()
    assert not any(cases.method.str.startswith("CAN at").groupby(cases.condition).any().drop("blur 0.9"))
    assert cases.method.str.startswith("CAN at").sum() == study.SEEDS * 48 and not cases.duplicated().any()


def test_a_split_shares_no_picture_and_degrades_validation_and_test_alike(rows):
    assert len(rows.validation) == len(rows.sharp) == 360 and len(rows.test) == 359
    right = [
        float((r.argmax(1) == y).double().mean())
        for r, y in ((rows.sharp, rows.validation_labels), (rows.validation, rows.validation_labels), (rows.test, rows.test_labels))
    ]
    assert right[0] > 0.9 > max(right[1:]) and abs(right[1] - right[2]) < 0.1
    assert float(rows.prior.sum()) == pytest.approx(1)


def test_fixed_settings_move_undecided_rows_only(rows):
    unsure = can.is_ambiguous(rows.test, threshold=study.THRESHOLD)
    for method in ("CAN", "CAN, test rows", "CAN, sharp rows", "CAN, any rows", "CAN, all together", "prior correction, undecided rows"):
        after, setting = study.adjust(rows, method)
        assert torch.equal(after[~unsure], rows.test[~unsure]) and setting is None, method
        assert torch.allclose(after.sum(1), torch.ones(359, dtype=torch.float64)) and not torch.allclose(after[unsure], rows.test[unsure])
    everywhere, _ = study.adjust(rows, "prior correction")
    assert np.allclose(everywhere, peers.prior_correction(rows.test, rows.prior, mean=rows.validation.mean(0)))


def test_many_reference_rows_make_it_the_prior_correction_of_undecided_rows(rows):
    sure = rows.validation[~can.is_ambiguous(rows.validation, threshold=study.THRESHOLD)]
    unsure = can.is_ambiguous(rows.test, threshold=study.THRESHOLD)
    limit = peers.prior_correction(rows.test[unsure], rows.prior, mean=sure.mean(0))
    assert np.allclose(study.adjust(rows, "CAN")[0][unsure], limit, atol=0.06)


def test_one_stack_for_all_rows_against_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    b, a = (torch.rand(n, 3, generator=generator, dtype=torch.float64) + 0.1 for n in (4, 5))
    b, a, q = b / b.sum(1, keepdim=True), a / a.sum(1, keepdim=True), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    stack = torch.cat([a, b])
    stack = stack / stack.sum(0) * q
    assert torch.allclose(study.together(b, a, q), (stack / stack.sum(1, keepdim=True))[5:])
    assert torch.allclose(study.together(b[:1], a, q), can.one_step(b[:1], a, q))


def test_skew_keeps_the_habit_and_drops_rows_of_the_test_only(rows):
    same = study.skewed(rows, 0.0, 1)
    assert torch.equal(same.test, rows.test)
    less = study.skewed(rows, 0.35, 1)
    counts = torch.bincount(less.test_labels, minlength=10)
    assert len(less.test) < 200 and counts.max() > 10 * max(1, counts.min()) and torch.equal(less.validation, rows.validation)


def test_the_prior_over_the_shares_of_the_rows_that_were_asked(rows):
    """What the page's table says: of the prior correction the formula is exact up to how well the habit is known."""
    rare = study.skewed(rows, 0.35, 1)
    truth = study.class_shares(rare.test_labels, 10).numpy()
    found = study.adjust_skewed(rare, "prior correction, the truth, validation rows")
    by_hand = rare.test.numpy() * truth / rows.validation.mean(0).numpy()
    assert np.allclose(found, by_hand / by_hand.sum(1, keepdims=True))
    own = study.adjust_skewed(rare, "prior correction, training's, test rows")
    by_hand = rare.test.numpy() * rows.prior.numpy() / rare.test.mean(0).numpy()
    assert np.allclose(own, by_hand / by_hand.sum(1, keepdims=True))


def test_counts_add_up():
    where = dict(bench="digits", task="linear", seed=1, condition="blur 0.9")
    before, after = (study.measure(where | {"method": method}) for method in ("as they are", "CAN"))
    assert after["accuracy"] == pytest.approx(before["accuracy"] + after["repaired"] - after["broken"])
    assert after["sure_wrong"] == before["sure_wrong"] > 0  # a decided mistake stays
    share = before["undecided"] / 100
    assert share * (after["unsure_accuracy"] - before["unsure_accuracy"]) == pytest.approx(after["accuracy"] - before["accuracy"])
    assert before["repaired"] == before["broken"] == 0 and np.isnan(before["alpha"])
    grid = study.measure(where | {"method": study.at(can.Setting(0.75, 1.0, 1))})
    assert grid["accuracy"] == after["accuracy"] and (grid["threshold"], grid["alpha"], grid["depth"]) == (0.75, 1, 1)


def test_a_column_has_one_number_for_each_unit():
    digits = [dict(bench="digits", task="linear", seed=s, condition=f"blur {b}", accuracy=10 * s + b) for s in (1, 0) for b in (0.5, 0.0)]
    tasks = [dict(bench="tasks", task=t, seed=0, condition=c, accuracy=len(t) + len(c)) for t in ("shape", "kind") for c in ("noise", "dark")]
    table = pd.DataFrame([*digits, *tasks]).assign(method="CAN")
    assert study.column(table, "CAN", conditions=("blur 0.0", "blur 0.5")).tolist() == [[0, 0.5], [10, 10.5]]
    assert study.column(table, "CAN", conditions=["blur 0.5"]).tolist() == [0.5, 10.5]
    assert study.column(table, "CAN", bench="tasks", conditions=("noise", "dark")).tolist() == [[9, 8], [10, 9]]
    for wrong, message in (
        (dict(method="CAM"), "method must be one of 'CAN', got 'CAM'"), (dict(method="CAN", conditions=["blur 9"]), "there must be a row of"),
        (dict(method="CAN", task="forest"), "there must be a row of"), (dict(method="CAN", conditon="blur 0.0"), "got conditon"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            study.column(table, **wrong)


def test_a_published_classifier_stops_with_one_sentence(monkeypatch):
    monkeypatch.setattr(classifiers.missing, "__defaults__", (classifiers.zoo.ROOT / "data" / "imagenet" / "nowhere",))
    monkeypatch.setattr(classifiers.load, "__defaults__", (classifiers.zoo.ROOT / "data" / "imagenet" / "nowhere",))
    with pytest.raises(RuntimeError, match=r"needs ImageNet's validation pictures in .*, and there are 0 folders\.$"):
        study.published("microsoft/resnet-50", 8)


def test_a_published_classifier_is_asked_about_alternate_pictures(monkeypatch):
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    monkeypatch.setattr(classifiers, "load", lambda name: name)
    monkeypatch.setattr(classifiers, "files", lambda per_class: (list(range(3 * per_class)), labels))
    monkeypatch.setattr(classifiers, "probabilities", lambda model, paths, blur=0.0: torch.eye(3)[[p % 3 for p in paths]] * (1 - blur / 100) + blur / 300)
    rows = study.published("a", 30, per_class=2)
    assert rows.validation_labels.tolist() == rows.test_labels.tolist() == [0, 1, 2] and rows.prior.tolist() == [pytest.approx(1 / 3)] * 3
    assert rows.validation.argmax(1).tolist() == [0, 2, 1] and rows.test.argmax(1).tolist() == [1, 0, 2]
    assert rows.sharp.max() == 1 and rows.validation.max() < 1
