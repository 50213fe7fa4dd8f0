"""Page 10's three studies: what their variants train, that their trainer is the bench's, and what is read from the table of corruptions."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from helpers.datasets.corruptions import KINDS
from helpers.measures import tuning
from helpers.studies import scale_and_shift as study
from helpers.studies import scale_and_shift_corruptions as worse
from helpers.studies import scale_and_shift_families as families
from helpers.studies import tuning as bench


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = ViTConfig(image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, num_labels=7)
    return ViTForImageClassification(config).eval()


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(80, 3, 16, 16, generator=generator), torch.arange(80) % 4


def test_training_sets_are_those_of_the_bench():
    assert set(study.TASKS) | set(worse.TASKS) | set(families.TASKS) <= set(bench.TASKS) and study.LABELS in bench.LABELS
    assert {(c["task"], c["variant"]) for c in study.cases()} == {(t, v) for t in study.TASKS for v in study.VARIANTS}
    assert len(worse.cases()) == len(worse.TASKS) * 4 and len(families.cases()) == 3 * len(families.TASKS) * 3 and set(worse.KINDS) <= set(KINDS)


def test_all_pairs_are_trained_as_the_bench_does(network, pictures, monkeypatch):
    monkeypatch.setattr(tuning, "STEPS", 5)
    ours = study.trained(network, study.pairs_of({}), *pictures, classes=4, rate=0.02, seed=3)
    theirs = tuning.fit(network, "SSF", *pictures, classes=4, rate=0.02, seed=3, steps=5)
    with torch.no_grad():
        torch.testing.assert_close(study.logits_of(ours, pictures[0]), tuning.logits(theirs, pictures[0]))
        assert study.share_right(ours, *pictures) == pytest.approx(tuning.accuracy(theirs, *pictures))


@pytest.mark.parametrize(
    "variant, numbers", [("all", 2 * 232), ("scales only", 232), ("shifts only", 232), ("norms only", 2 * 60), ("queries, keys, values only", 2 * 72),
                         ("MLPs only", 2 * 64), ("patches only", 2 * 12)],
)  # fmt: skip
def test_a_variant_trains_its_numbers_and_the_head_and_nothing_else(network, pictures, monkeypatch, variant, numbers):
    monkeypatch.setattr(tuning, "STEPS", 2)
    kept = {}

    def attach(model):
        kept["model"], kept["before"] = model, {name: value.clone() for name, value in model.state_dict().items()}
        kept["trained"] = study.pairs_of(study.VARIANTS[variant])(model)
        return kept["trained"]

    study.trained(network, attach, *pictures, classes=4, rate=0.02, seed=0)
    assert sum(p.numel() for p in kept["trained"]) == numbers + 12 * 4 + 4
    changed = {name for name, value in kept["model"].state_dict().items() if not torch.equal(value, kept["before"][name])}
    assert changed == {"classifier.weight", "classifier.bias"} and network.classifier.out_features == 7


def test_of_equal_rates_the_smallest_is_taken_and_held_out_pictures_are_not_learnt(network, pictures, monkeypatch):
    seen = []

    def trained(model, attach, images, labels, *, classes, rate, seed):
        seen.append((rate, len(labels)))
        return study.head_for(model, classes, seed)

    monkeypatch.setattr(study, "trained", trained)
    assert study.searched(network, None, *pictures, classes=4, rates=(0.3, 0.1, 0.2)) == 0.1
    assert seen == [(0.1, 40), (0.2, 40), (0.3, 40)]  # one half chooses


def test_heads_of_the_families(network):
    model = study.head_for(network, 4, 0)
    assert sum(p.numel() for p in families.head_only(model)) == 12 * 4 + 4
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]
    assert sum(p.numel() for p in families.everything(model)) == sum(p.numel() for p in model.parameters()) and all(p.requires_grad for p in model.parameters())


def test_accuracies_are_means_of_tasks_and_kinds():
    rows = [dict(task=task, method="SSF") | {c: 100.0 * i + int(c.split("_")[1]) for c in worse.COLUMNS} for i, task in enumerate(worse.TASKS)]
    table = pd.DataFrame(rows)
    np.testing.assert_allclose(worse.accuracies(table, "SSF", severities=(0, 2, 5)), [[50, 52, 55]] * 5)
    table["noise_2_3"] += 30.0
    np.testing.assert_allclose(worse.accuracies(table, "SSF", severities=[2])[:, 0], [52, 52, 52, 62, 52])
    np.testing.assert_allclose(worse.accuracies(table, "SSF", kinds=["blur"], severities=[2])[:, 0], 52)
    with pytest.raises(ValueError, match="method must be one of 'SSF', got 'full'"):
        worse.accuracies(table, "full")
    with pytest.raises(ValueError, match="kinds must be one of"):
        worse.accuracies(table, "SSF", kinds=["rain"])
