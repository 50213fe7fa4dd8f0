"""Three families, taught by one recipe: each runs, stops, continues, and is loaded again as it was; the finished models."""

import dataclasses
import json

import pytest
import torch

from helpers.models import zoo
from helpers.recipes import toy_vit_wide as wide
from helpers.recipes import training, wide_families

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", wide_families.FAMILIES)
def test_a_few_steps_from_nothing_and_again_after_a_stop(name, tmp_path, monkeypatch):
    monkeypatch.setattr(wide_families, "PROBES", ("shape", "faces"))
    monkeypatch.setattr(wide_families, "PROBE_SEEDS", 2)
    monkeypatch.setattr(wide, "BATCH", 16)
    monkeypatch.setattr(wide, "PROBE_SIZES", {"other": dict(train=30, validation=10, test=20)})
    family = dataclasses.replace(wide_families.FAMILIES[name], steps=3)
    monkeypatch.setitem(wide_families.FAMILIES, name, family)
    bank = wide.draw(3, dict.fromkeys(wide.BANK, 6), "test")
    before = family.make()
    assert sum(p.numel() for p in before.parameters()) <= 400_000
    model = wide_families.train(name, bank, tmp_path / "whole", CPU)
    for stop in (1, None):
        again = wide_families.train(name, bank, tmp_path / "parts", CPU, stop_at=stop)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    training.write_folder(model.eval().half(), tmp_path / "out" / name)
    loaded = family.kind.from_pretrained(tmp_path / "out" / name, dtype=torch.float32).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = wide.features_of(loaded, images, family.features)
    assert torch.allclose(loaded.classifier(features), loaded(wide.pixel_values(images)).logits, atol=1e-5)  # the classifier reads these features
    assert loaded.config.id2label[0] == wide.ANSWERS[0]
    probed = wide.all_probes(loaded, ("shape", "faces"), 2, fresh=family.make, features=family.features)
    text = wide_families.card(name, wide.held_out_accuracy(loaded, 5), probed, 1.0, model, CPU)
    assert f'from_pretrained("data/models/{name}"' in text and "mean of 2 tasks" in text and max(map(len, text.splitlines())) < 250


@pytest.mark.parametrize("name", wide_families.FAMILIES)
def test_the_finished_models(name):
    if not (training.DATA / "models" / name).exists():
        pytest.skip(f"data/models/{name} is not there; `make model NAME={name}` trains it")
    folder, family = zoo.folder(name), wide_families.FAMILIES[name]
    assert json.loads((folder / "config.json").read_text())["architectures"] == [family.kind.__name__]
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 1e6
    model = family.kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    quality = wide.held_out_accuracy(model, 30)
    assert quality["family"][0] > 60 and quality["colour"][0] > 80
    mnist = wide.probe(model, "mnist", 11, fresh=family.make, features=family.features)
    assert mnist["trained"] > mnist["untrained"]
