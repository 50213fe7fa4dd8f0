"""The recipe on a few steps (it runs, stops, continues), its questions against the toy world, its measures, and the finished model."""

import json

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import ViTForImageClassification

from helpers.recipes import toy_vit_wide as recipe
from helpers.recipes import training
from helpers.toyworld import creatures, scenes, shapes, strokes, surfaces

torch.set_num_threads(1)
CPU = torch.device("cpu")
QUESTIONS = list(recipe.QUESTIONS)


def asked(bank: recipe.Bank, question: str) -> torch.Tensor:
    return bank.labels[:, QUESTIONS.index(question)]


@pytest.fixture
def small(monkeypatch):
    changes = {"BANK": dict.fromkeys(recipe.BANK, 6), "STEPS": 4, "BATCH": 16, "WIDTH": 20, "LAYERS": 2, "HEADS": 2, "HIDDEN": 24,
               "PROBES": ("shape", "faces"), "PROBE_SIZES": {"other": dict(train=30, validation=10, test=20)}}  # fmt: skip
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
    assert loaded.config.id2label[0] == recipe.ANSWERS[0] and loaded.dtype == torch.float32
    quality = recipe.held_out_accuracy(loaded, 5)
    assert quality["family"][1:] == (pytest.approx(100 / 7), 35) and quality["grain"][2] == 5
    text = recipe.card(quality, recipe.all_probes(loaded, ("shape", "faces"), 2), 1.0, model, CPU)
    assert "| loops | " in text and "mean of 2 tasks" in text and max(map(len, text.splitlines())) < 250


def test_answers_are_what_the_world_says():
    bank = recipe.draw(9, dict.fromkeys(recipe.BANK, 40), "test")
    assert bank.images.shape == (280, 3, 32, 32) and bank.labels.shape == (280, len(QUESTIONS))
    rows = {family: slice(40 * i, 40 * i + 40) for i, family in enumerate(recipe.BANK)}
    drawn = (shapes.shapes(9, range(40), size=32), scenes.crowds(10, range(40), size=32), scenes.pairs(11, range(40), size=32),
             creatures.creatures(12, range(40), size=32), strokes.strokes(13, range(40), size=32),
             strokes.letters(14, range(40), alphabet=recipe.SEED, count=600, size=32),
             surfaces.surfaces(15, range(40), world=recipe.SEED, size=32))  # fmt: skip
    worlds = dict(zip(recipe.BANK, drawn))
    for i, (family, p) in enumerate(worlds.items()):
        assert (bank.images[rows[family]] / 255 - p.image).abs().max() <= 0.5 / 255 + 1e-6 and (asked(bank, "family")[rows[family]] == i).all()
    for question, family, label in (("shape", "shapes", "shape"), ("category", "creatures", "category"), ("letter", "letters", "letter"),
                                    ("material", "surfaces", "material"), ("ends", "strokes", "ends"), ("relief", "surfaces", "relief")):  # fmt: skip
        assert torch.equal(asked(bank, question)[rows[family]].long(), getattr(worlds[family], label))
    for i, scene in enumerate(range(40)):
        crowd, of = worlds["crowds"], bank.labels[rows["crowds"]][i]
        quarters = {name: -1 for name in ("top left", "top right", "bottom left", "bottom right")}
        for k in range(crowd.count[scene]):
            x, y = crowd.position[scene, k].tolist()
            quarters[f"{'top' if y < 16 else 'bottom'} {'left' if x < 16 else 'right'}"] = k
        for name, k in quarters.items():
            assert of[QUESTIONS.index(f"shape {name}")] == (0 if k < 0 else crowd.shape[i, k] + 1)
            assert of[QUESTIONS.index(f"colour {name}")] == (0 if k < 0 else crowd.colour[i, k] + 1)
        pair, of = worlds["pairs"], bank.labels[rows["pairs"]][i]
        left = int(pair.position[i, 1, 0] < pair.position[i, 0, 0])
        assert (
            of[QUESTIONS.index("shape of the left one")] == pair.shape[i, left] and of[QUESTIONS.index("colour of the right one")] == pair.colour[i, 1 - left]
        )
    assert (asked(bank, "letter")[rows["strokes"]] == -1).all() and (asked(bank, "shape")[rows["pairs"]] == -1).all()
    for question, count in recipe.QUESTIONS.items():
        assert -1 <= asked(bank, question).min() and asked(bank, question).max() < count
    upright = surfaces.surfaces(15, range(40), world=recipe.SEED, size=32)
    assert ((asked(bank, "grain")[rows["surfaces"]] == 4) == (upright.spread > 1)).all()


def test_the_loss_by_hand(monkeypatch):
    monkeypatch.setattr(recipe, "QUESTIONS", {"shape": 2, "letter": 3})
    monkeypatch.setattr(recipe, "WEIGHTS", {"letter": 5.0})
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, -1], [1, 2], [-1, 0], [0, 1]], dtype=torch.int16)
    a, b = (
        F.cross_entropy(logits[:, :2], labels[:, 0].long().clamp_min(0), reduction="none"),
        F.cross_entropy(logits[:, 2:], labels[:, 1].long().clamp_min(0), reduction="none"),
    )
    a, b = a / torch.tensor(2.0).log(), b / torch.tensor(3.0).log()
    expected = (a[0] + (a[1] + 5 * b[1]) / 6 + b[2] + (a[3] + 5 * b[3]) / 6) / 4
    assert recipe.answers_loss(logits, labels) == pytest.approx(expected.item())
    assert recipe.answers_loss(torch.zeros(4, 5), labels) == pytest.approx(1)  # a blind guess


def test_thumbnails_are_grey_and_of_one_contrast():
    images = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    small = recipe.thumbnails(images)
    assert small.shape == (5, 144) and torch.allclose(small.mean(1), torch.zeros(5), atol=1e-5) and torch.allclose(small.std(1), torch.ones(5))
    grey = images.mean(1).reshape(5, 12, 2, 12, 2).mean((2, 4)).flatten(1)
    assert torch.corrcoef(torch.stack([small[3], grey[3]]))[0, 1] > 0.9999
    assert torch.allclose(recipe.thumbnails(0.5 * images + 0.2), small, atol=1e-4)


def test_augmented_pictures_are_the_pictures_moved(monkeypatch):
    monkeypatch.setattr(recipe, "LARGEST_NOISE", 0.0)
    image = creatures.creatures(3, range(1), size=32).image
    out = recipe.augment(image.expand(40, -1, -1, -1), training.step_generator(1, 2))
    assert torch.equal(out, recipe.augment(image.expand(40, -1, -1, -1), training.step_generator(1, 2))) and out.shape == (40, 3, 32, 32)
    wide = F.pad(image, (recipe.SHIFT,) * 4, mode="replicate")[0]
    moved = torch.stack([wide[:, y : y + 32, x : x + 32] for y in range(7) for x in range(7)])
    moved = moved / moved.mean((1, 2, 3), keepdim=True)
    nearest = [(one / one.mean() - moved).abs().amax((1, 2, 3)).min().item() for one in out]
    assert max(nearest[15:]) < 0.35 and len({tuple(one.flatten().tolist()) for one in out}) > 30  # bright pixels are cut at 1
    blocks = out[10:15].unfold(2, 10, 1).unfold(3, 10, 1).flatten(4)
    flat = (blocks.amax(4) - blocks.amin(4)).amax(1).amin((1, 2))
    assert (flat == 0).all()  # behind a grey square
    across = (out[..., 1:] - out[..., :-1]).abs().amax((1, 2, 3))
    assert across[:5].max() < across[15:].min()  # seen with few pixels: no sharp edge


def test_probes_see_what_is_there(small):
    task = recipe.tasks.load("colour", train=200, validation=60, test=100, size=32)
    assert recipe.linear_probe(task, lambda x: x.amax((2, 3)) - x.amin((2, 3))) > 80 > 40 > recipe.linear_probe(task, lambda x: x[:, :1, 0, 0])
    model = recipe.make_vit().eval()
    a, b = recipe.probe(model, "shape", 0), recipe.probe(model, "shape", 0)
    assert a == b and set(a) == {"trained", "untrained", "pixels"} and all(0 <= value <= 100 for value in a.values())
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    recipe.probe(model, "shape", 0)
    assert torch.equal(torch.rand(1), before)  # the caller's random numbers stay


def test_the_table_of_probes_by_hand():
    rows = [(name, seed, 80 + seed + i, 60 + seed, 85.0) for i, name in enumerate(("a", "b")) for seed in range(2)]
    text = recipe.probes_table(pd.DataFrame(rows, columns=["task", "seed", "trained", "untrained", "pixels"]))
    assert "| a | 80.5 | 60.5 | 85.0 | 20 [20, 20] | -4 [-11, 2] |" in text
    # the tasks' gains are 20 and 21: Student's t of one degree of freedom, 12.7, times the standard error of a half
    assert text.endswith("| mean of 2 tasks | 81.0 | 60.5 | 85.0 | 20 [14, 27] | -4 [-10, 2] |")


# ------------------------------------------------------------------------------------------------------------------ the finished model

FOLDER = training.DATA / "models" / recipe.NAME


@pytest.mark.skipif(not FOLDER.exists(), reason=f"data/models/{recipe.NAME} is not there; `make model NAME={recipe.NAME}` trains it")
def test_the_finished_model():
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"] and len(config["id2label"]) == len(recipe.ANSWERS)
    sizes = ("image_size", 32), ("patch_size", 8), ("hidden_size", 128), ("num_hidden_layers", 6), ("num_attention_heads", 4), ("intermediate_size", 256)
    assert all(config[name] == value for name, value in sizes)
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 4e6
    model = ViTForImageClassification.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True).eval()
    assert sum(p.numel() for p in model.vit.parameters()) == 822_144
    quality = recipe.held_out_accuracy(model, 30)
    assert quality["family"][0] > 65 and quality["colour"][0] > 90 and quality["how many"][0] > 70
    mnist = recipe.probe(model, "mnist", 11)
    assert mnist["trained"] > mnist["untrained"] + 20
