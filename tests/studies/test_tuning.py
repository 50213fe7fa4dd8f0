"""The study of tunings: its cases, the pictures of a case, a case measured on a tiny backbone, and what pages read from the table."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from helpers.datasets import tasks
from helpers.measures import tuning
from helpers.studies import tuning as study


@pytest.fixture
def tiny(monkeypatch):
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, patch_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20)
    model = ViTForImageClassification(config).eval()
    monkeypatch.setattr(study, "backbone", lambda: model)
    return model


def test_cases_are_every_method_on_every_task_and_what_claims_need_comes_first():
    cases = pd.DataFrame(study.cases())
    assert len(cases) == len(study.TASKS) * (len(tuning.METHODS) + 2 * len(study.RULED)) and not cases.duplicated().any()
    assert len(study.TASKS) >= 12 and len(set(study.REAL) & set(study.TASKS)) >= 4 and set(study.TASKS) <= {*tasks.NAMES, *tasks.FURTHER}
    assert set(cases.method[cases.labels == 20]) == set(tuning.METHODS)
    for labels in (5, 100):
        assert set(cases.method[cases.labels == labels]) == set(study.RULED)
    first = cases[: 7 * len(study.TASKS)]
    assert set(first.method) == {*study.RULED, "bias", "adapter", "LoRA"} and set(first.labels) == {20}


@pytest.mark.parametrize("task", study.TASKS)
def test_every_task_has_its_labels_and_enough_to_be_tested_on(task):
    for labels in (5, 20):
        classes, (images, truth), (asked, said) = study.pictures(task, labels, 1)
        assert torch.bincount(truth, minlength=classes).tolist() == [labels] * classes and len(images) == len(truth) == labels * classes
        assert images.shape[1:] == (3, 32, 32) and len(asked) == len(said) == (359 if task == "digits" else 400) and said.max() < classes


def test_few_labels_are_among_the_many_and_seeds_are_worlds_of_their_own():
    (_, (few, _), test), (_, (many, truth), same) = (study.pictures("touching", labels, 3) for labels in (5, 20))
    assert all(any(torch.equal(one, other) for other in many) for one in few) and torch.equal(test[0], same[0])
    others = study.pictures("touching", 20, 4)[1][0]
    assert not any(torch.equal(one, other) for one in many for other in others)
    assert not any(torch.equal(one, other) for one in many for other in test[0])


def test_where_a_task_has_fewer_all_there_are_are_taken():
    _, (images, truth), _ = study.pictures("faces", 100, 0)
    assert 40 < len(images) <= 120 and torch.bincount(truth).min() < 100


def test_a_case_is_a_choice_and_five_paired_networks(tiny):
    case = dict(task="touching", labels=5, method="linear")
    row = study.measure(case)
    assert set(row) == set(study.TOLERANCE) and row["examples"] == 10 and row["without_head"] == 0 and row["trained"] == 2 * 17
    again = study.measure(case)
    assert all(row[name] == again[name] for name, allowed in study.TOLERANCE.items() if name != "time_ratio")
    _, train, test = study.pictures("touching", 5, 3)
    tuned = tuning.fit(tiny, "linear", *train, classes=2, rate=row["rate"], decay=row["decay"], seed=3)
    assert row["accuracy_3"] == pytest.approx(tuning.accuracy(tuned, *test)) and row["bytes"] == tuning.bytes_a_task(tuned)
    assert row["rate"] in tuning.METHODS["linear"].rates and row["decay"] in tuning.DECAYS and row["num_prompts"] == 0


def test_the_number_of_prompts_is_the_chosen_one(tiny, monkeypatch):
    monkeypatch.setattr(study.tuning, "search", lambda *args, **options: tuning.Choice(0.01, 0.0, 4, 50.0, {}))
    monkeypatch.setattr(study, "SEEDS", 1)
    row = study.measure(dict(task="touching", labels=5, method="VPT-deep"))
    assert row["num_prompts"] == 4 and row["without_head"] == 2 * 4 * 16


def test_validation_pictures_are_training_pictures_and_never_test_pictures(tiny, monkeypatch):
    asked = []

    def search(backbone, method, images, labels, validation_images, validation_labels, **options):
        asked.append((images, labels, validation_images, validation_labels))
        return tuning.Choice(0.01, 0.0, None, 50.0, {})

    monkeypatch.setattr(study.tuning, "search", search)
    monkeypatch.setattr(study, "SEEDS", 1)
    for labels, held in ((5, 2), (20, 10)):
        study.measure(dict(task="touching", labels=labels, method="linear"))
        images, _, others, truth = asked.pop()
        assert torch.bincount(truth).tolist() == [held] * 2 and len(images) == 2 * (labels - held)
        _, (whole, _), (test, _) = study.pictures("touching", labels, 0)
        assert sorted(torch.cat([images, others]).sum((1, 2, 3)).tolist()) == sorted(whole.sum((1, 2, 3)).tolist())
        assert not any(torch.equal(one, other) for one in others for other in test)


# --- reading the table ---


def made_up() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for t, task in enumerate(("a", "b", "c")):
        for labels in (5, 20):
            noise = rng.normal(0, 3, 5)
            for method, lead, size in (("full", 0, 900), ("SSF", 4 - 3 * t, 30), ("linear", -6, 0)):
                accuracies = {f"accuracy_{seed}": 60 + lead + noise[seed] + 0.1 * rng.normal() for seed in range(5)}
                rows.append(dict(task=task, labels=labels, method=method, **accuracies, without_head=size, bytes=4 * size + 100, time_ratio=1.0 + t))
    return pd.DataFrame(rows)


def test_the_long_table_has_a_row_for_each_seed():
    table = made_up()
    rows = study.long(table)
    assert len(rows) == 5 * len(table) and list(rows.columns)[-2:] == ["seed", "accuracy"]
    one = rows[(rows.task == "b") & (rows.labels == 5) & (rows.method == "SSF") & (rows.seed == 3)]
    assert one.accuracy.item() == table[(table.task == "b") & (table.labels == 5) & (table.method == "SSF")].accuracy_3.item()


def test_accuracy_by_parameters_is_the_mean_of_tasks():
    table = made_up()
    found = study.by_parameters(table, labels=20)
    assert list(found.method) == ["linear", "SSF", "full"] and list(found.without_head) == [0, 30, 900] and (found.time_ratio == 2).all()
    own = table[(table.labels == 20) & (table.method == "SSF")][list(study.ACCURACIES)].to_numpy().mean()
    assert found.accuracy[1] == pytest.approx(own) and (found.low < found.accuracy).all() and (found.accuracy < found.high).all()
    assert study.by_parameters(table, labels=20, tasks=["a", "b"]).accuracy[1] > own


def test_differences_are_paired_by_task_and_seed():
    over, each = study.differences(made_up(), "SSF", "full", labels=5)
    assert over.n == 3 and list(each) == ["a", "b", "c"] and each["a"].n == 5
    assert [estimate.says() for estimate in each.values()] == ["gain", "gain", "loss"] and over.says() == "no difference seen"
    assert each["a"].high - each["a"].low < 1  # the seeds' own ups and downs are shared
    reverse, _ = study.differences(made_up(), "full", "SSF", labels=5)
    assert reverse.value == pytest.approx(-over.value)


def test_a_partial_table_says_what_it_lacks():
    table = made_up()
    partial = table.drop(table.index[(table.task == "b") & (table.method == "SSF") & (table.labels == 20)])
    with pytest.raises(ValueError, match="table must hold SSF on b with 20 labels a class"):
        study.by_parameters(partial, labels=20)
    assert len(study.by_parameters(partial, labels=20, tasks=["a", "c"])) == 3
    for wrong, name in ((dict(labels=7), "labels"), (dict(method="LoRA"), "method"), (dict(rival="bias"), "rival"), (dict(tasks=["d"]), "tasks")):
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            study.differences(**dict(table=table, method="SSF", rival="full", labels=5) | wrong)
