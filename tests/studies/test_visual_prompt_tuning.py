"""The study of page 09: every way can be prompted and trained on a small network, what is trained is what is counted, and the table is read by its knobs."""

import pandas as pd
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from helpers.studies import visual_prompt_tuning as study

CONFIG = ViTConfig(image_size=32, patch_size=8, hidden_size=8, num_hidden_layers=study.LAYERS, num_attention_heads=2, intermediate_size=8, num_labels=4)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    torch.manual_seed(0)
    model = ViTForImageClassification(CONFIG).eval()
    monkeypatch.setattr(study, "backbone", lambda: model)
    monkeypatch.setattr(study.tuning, "STEPS", 2)
    return model


def test_every_case_once_and_the_base_among_them():
    cases = study.cases()
    assert len({tuple(case.values()) for case in cases}) == len(cases) == 2 * 28
    assert all(study.BASE | dict(task=task) in cases for task in study.TASKS)


@pytest.mark.parametrize("way", study.ways(), ids=lambda way: " ".join(str(v) for v in way.values()))
def test_every_way_trains_what_it_says(way, small):
    before = {name: p.clone() for name, p in small.named_parameters()}
    images, labels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])
    tuned = study.train(way, images, labels, classes=3, rate=0.01)
    p, blocks = way["prompts"], way["first"] or way["last"] or study.LAYERS
    wanted = {"add": 17 * 8, "add-1": 8, "prepend-pixel": 3 * 8 * 8 * p, "concat-channel": 32 * 32 * p + 8 * (3 + p) * 64 + 8}
    wanted |= {"pad": 3 * (2 * p) * (32 + 2 * p) + 3 * 32 * (2 * p), "prepend": (blocks if way["mode"] == "deep" else 1) * p * 8}
    assert tuned.count_without_head == wanted[way["location"]] and tuned.count == wanted[way["location"]] + 3 * 9
    again = study.train(way, images, labels, classes=3, rate=0.01)
    assert all(torch.equal(tuned.trained[name], value) for name, value in again.trained.items())
    assert all(torch.equal(p, before[name]) for name, p in small.named_parameters())
    shares = study._attention(tuned, images)
    assert shares.shape == (study.LAYERS,) and 0 <= shares.min() and shares.max() <= 100
    if way["location"] == "prepend" and way["at_first"] == "insert":
        assert (shares > 0).tolist() == [way["last"] == 0 or block >= study.LAYERS - way["last"] for block in range(study.LAYERS)]


def test_the_table_is_read_by_its_knobs():
    rows = []
    for k, case in enumerate(study.cases()):
        results = {name: 50 + k + seed for seed, name in enumerate(study.ACCURACIES)} | {f"attention_{i + 1}": k + i for i in range(study.LAYERS)}
        rows.append(case | results | dict(rate=0.01 * (k + 1), validation=80.0 + 5 * (case["prompts"] in (4, 16))))
    table = pd.DataFrame(rows)
    at = {(row["task"], row["prompts"]): k for k, row in enumerate(rows) if row["mode"] == "deep" and study.BASE | dict(prompts=row["prompts"]) == {
        name: row[name] for name in study.BASE}}  # fmt: skip
    k, base = at["mnist", 2], at["mnist", 8]
    assert study.accuracies(table, "mnist", prompts=2) == [50 + k + seed for seed in range(5)]
    assert study.attention(table, "mnist", prompts=2) == [k + i for i in range(6)] and study.rate(table, "mnist", prompts=2) == pytest.approx(0.01 * (k + 1))
    gain = study.gain(table, "mnist", dict(prompts=2), {})
    assert gain.value == k - base and gain.n == 5
    assert study.chosen_length(table, "mnist") == study.chosen_length(table, "mnist", mode="shallow") == 4
    for call, sentence in (
        (lambda: study.accuracies(table, "nmist"), "task must be one of .*, got 'nmist'"),
        (lambda: study.accuracies(table, "mnist", prompt=2), "way must be told by mode, location, .*, got prompt"),
        (lambda: study.accuracies(table, "mnist", prompts=3), "table must hold .* on mnist once, got 0 rows"),
        (lambda: study.place("nowhere"), "location must be one of 'add'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
