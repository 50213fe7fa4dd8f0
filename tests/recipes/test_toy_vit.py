"""The recipe on a few steps (it runs, stops, continues), its data, its measures, and the finished model."""

import json

import pytest
import torch
from transformers import ViTForImageClassification

from helpers.recipes import toy_vit as recipe
from helpers.recipes import training
from helpers.toyworld import TEXTURES, creatures

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    changes = {"BANK": 30, "STEPS": 4, "BATCH": 6, "WIDTH": 20, "LAYERS": 2, "HEADS": 2, "HIDDEN": 24, "PROBES": ("shape",), "HELD_OUT": 20}
    for name, value in changes.items():
        monkeypatch.setattr(recipe, name, value)


def test_a_few_steps_from_nothing_and_again_after_a_stop(small, tmp_path):
    bank = recipe.make_bank(tmp_path / "whole")
    model = recipe.train(bank, tmp_path / "whole", CPU)
    other = recipe.make_bank(tmp_path / "parts")
    for stop in (1, 3, None):
        again = recipe.train(other, tmp_path / "parts", CPU, stop_at=stop)
    assert torch.equal(bank.images, other.images)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    out = tmp_path / "out" / recipe.NAME
    training.write_folder(model.half(), out)
    loaded = ViTForImageClassification.from_pretrained(out, dtype=torch.float32).eval()
    assert loaded.config.id2label[1] == recipe.CLASSES[1] and loaded.dtype == torch.float32
    probed = recipe.probes(loaded, train_count=40, test_count=20)
    assert set(probed["shape"]) == {recipe.NAME, "untrained", "pixels"} and all(0 <= v <= 100 for v in probed["shape"].values())
    text = recipe.card(recipe.held_out_accuracy(loaded, 20), probed, 1.0, model, CPU)
    assert "| class | " in text and max(map(len, text.splitlines())) < 250


def test_classes_are_the_worlds(small):
    assert len(recipe.CLASSES) == len(set(recipe.CLASSES)) == 45
    bank = recipe.draw(9, 25, "test")
    photos = creatures.creatures(9, range(20), size=64, styles=("photo",))
    names = [recipe.CLASSES[label] for label in bank.labels]
    said = [f"{TEXTURES[t]} {creatures.CATEGORIES[c]}" for t, c in zip(photos.texture, photos.category)]
    assert names[:20] == said and all(name.startswith("sketch of a ") for name in names[20:])
    assert (bank.images[:20] / 255 - photos.image).abs().max() <= 0.5 / 255 + 1e-6


def test_augmented_pictures_are_the_pictures_moved(monkeypatch):
    monkeypatch.setattr(recipe, "LARGEST_NOISE", 0.0)
    image = creatures.creatures(3, range(1), size=64).image
    out = recipe.augment(image.expand(40, -1, -1, -1), training.step_generator(1, 2))
    assert torch.equal(out, recipe.augment(image.expand(40, -1, -1, -1), training.step_generator(1, 2))) and out.shape == (40, 3, 64, 64)
    wide = torch.nn.functional.pad(image, (4,) * 4, mode="replicate")[0]
    for one in out[:10]:
        best = min(
            (one / one.mean() - moved / moved.mean()).abs().max().item()
            for y in range(9) for x in range(9) for moved in (wide[:, y : y + 64, x : x + 64], wide[:, y : y + 64, x : x + 64].flip(2))
        )  # fmt: skip
        assert best < 0.35  # the same picture, lighter or darker (bright pixels are cut at 1)


def test_held_out_accuracy_by_hand(small, monkeypatch):
    bank = recipe.draw(recipe.HELD_OUT_SEED, 20, "test")

    class Oracle:
        """Says the true class, but takes every first photo for a plain one of its category."""

        def __call__(self, pixels):
            said = bank.labels.clone()
            said[0] = said[0] // 4 * 4 + (said[0] + 1) % 4
            return type("Output", (), {"logits": torch.nn.functional.one_hot(said, 45).float()})

    quality = recipe.held_out_accuracy(Oracle(), 20)
    assert quality["class"] == (pytest.approx(95), 20) and quality["class, sketches"] == (100, 4)
    assert quality["category"] == (100, 20) and quality["texture, photos"] == (pytest.approx(100 * 15 / 16), 16)


# ------------------------------------------------------------------------------------------------------------------ the finished model

FOLDER = training.DATA / "models" / recipe.NAME


@pytest.mark.skipif(not FOLDER.exists(), reason=f"data/models/{recipe.NAME} is not there; `make model NAME={recipe.NAME}` trains it")
def test_the_finished_model():
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"] and len(config["id2label"]) == 45
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 4e6
    model = ViTForImageClassification.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True).eval()
    quality = recipe.held_out_accuracy(model, 50)
    assert quality["class"][0] > 80 and quality["category"][0] > 90
