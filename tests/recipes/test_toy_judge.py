"""The recipe on a few steps (it runs, stops, continues), its augmentation, its measures, and what it leaves."""

import json
import sys

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open

from helpers.models import judges
from helpers.recipes import toy_judge as recipe
from helpers.recipes import training
from helpers.toyworld import CATEGORIES, creatures

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 4, 4), norm_num_groups=2, latent_channels=4, layers_per_block=1, mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    ).eval()  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    for name, value in {"BANK": 12, "RECONSTRUCTED": 5, "STEPS": 4, "BATCH": 6, "HELD_OUT": 30, "VALIDATION": 2}.items():
        monkeypatch.setattr(recipe, name, value)


def test_a_few_steps_from_nothing_and_again_after_a_stop(small, vae, tmp_path):
    def run(work, stops):
        bank = recipe.make_bank(vae, work)
        for stop in stops:
            members = [recipe.train(k, bank, work, CPU, stop_at=stop) for k in range(judges.MEMBERS)]
        return members, bank

    members, bank = run(tmp_path / "whole", (None,))
    again, other = run(tmp_path / "parts", (1, 3, None))
    assert torch.equal(bank.images, other.images) and bank.images.shape == (12, 3, 64, 64) and bank.reconstructed.shape == (5, 3, 64, 64)
    for one, two in zip(members, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(members[0].mask.weight, members[1].mask.weight)
    out = tmp_path / "out" / recipe.NAME
    recipe.write_folder(members, out, vae)
    recipe.write_card(out, 0.5, vae, CPU)
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "config.json", "judge-0.safetensors", "judge-1.safetensors"]
    assert not out.with_name(out.name + ".partial").exists()
    pair = judges.load(out)
    for member, trained in zip(pair.members, members, strict=True):
        assert all(torch.equal(a, b.half().float()) for a, b in zip(member.parameters(), trained.parameters(), strict=True))
    config = json.loads((out / "config.json").read_text())
    assert pair.unjudged_facings == tuple(name for name in CATEGORIES if config["right_facings"][name] < recipe.LEAST_FACING)
    text = (out / "README.md").read_text()
    assert "| category |" in text and "(n = 30)" in text and max(map(len, text.splitlines())) < 250


def test_the_bank_is_made_once_and_holds_the_world(small, vae, tmp_path, monkeypatch):
    bank = recipe.make_bank(vae, tmp_path)
    monkeypatch.setattr(recipe, "draw", lambda *_: pytest.fail("rendered again"))
    monkeypatch.setattr(recipe, "reconstruct", lambda *_: pytest.fail("reconstructed again"))
    assert torch.equal(recipe.make_bank(vae, tmp_path).images, bank.images)
    drawn = creatures.creatures(recipe.TRAIN_SEED, range(12))
    assert (bank.images / 255 - drawn.image).abs().max() <= 0.5 / 255 + 1e-6
    for name in (*recipe.LABELS, "mask", "style"):
        assert torch.equal(getattr(bank, name), getattr(drawn, name))
    with torch.no_grad():
        again = vae.decode(vae.encode(bank.images[:5] / 127.5 - 1).latent_dist.mean).sample / 2 + 0.5
    assert (bank.reconstructed / 255 - again.clamp(0, 1)).abs().max() <= 1 / 255 + 1e-4


def test_mirrored_pictures_turn_their_facing_and_their_mask(small, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "augment", lambda images, generator: images)
    monkeypatch.setattr(recipe, "BATCH", 30)
    bank = recipe.make_bank(vae, tmp_path)
    images, said = recipe.batch_of(bank, torch.Generator().manual_seed(0))
    known = [*(bank.images / 255), *(bank.reconstructed / 255)]
    turned = 0
    for i, image in enumerate(images):
        straight = [k for k, other in enumerate(known) if torch.equal(image, other)]
        flipped = [k for k, other in enumerate(known) if torch.equal(image.flip(2), other)]
        row = (straight or flipped)[0] % 12
        turned += not straight
        assert (i >= 20) == ((straight or flipped)[0] >= 12)  # the last third of a batch is reconstructed
        assert torch.equal(said["mask"][i], (bank.mask[row] if straight else bank.mask[row].flip(1)).float())
        assert said["facing"][i] == (bank.facing[row] if straight else 1 - bank.facing[row])
        assert said["category"][i] == bank.category[row]
    assert 5 < turned < 25


def test_blur_is_the_binomial_kernel():
    spot = torch.zeros(1, 3, 9, 9)
    spot[0, :, 4, 4] = 1
    line = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    assert torch.allclose(recipe.blur(spot)[0, 1, 2:7, 2:7], line[:, None] * line)
    flat = torch.full((2, 3, 6, 7), 0.3)
    assert torch.allclose(recipe.blur(flat), flat)


def test_augmented_pictures_stay_near_and_in_range():
    images = torch.rand(40, 3, 16, 16)
    one, two, other = (recipe.augment(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert 0 <= one.min() and one.max() <= 1 and 0.01 < (one - images).abs().mean() < 0.15


def test_the_loss_falls_to_nothing_for_a_perfect_answer():
    said = {name: torch.tensor([1, 0]) for name in recipe.LABELS} | {"mask": (torch.rand(2, 64, 64) > 0.5).float()}
    out = {name: torch.nn.functional.one_hot(said[name], count) * 30.0 for name, count in judges.CLASSES.items()}
    assert recipe.loss_against(out | {"mask": said["mask"] * 60 - 30}, said) == pytest.approx(0, abs=1e-3)
    assert recipe.loss_against(out | {"mask": 30 - said["mask"] * 60}, said) > 50


def test_measures_count_what_is_judged():
    said = {"category": torch.tensor([8, 8, 0, 1]), "facing": torch.tensor([0, 1, 1, 0]), "texture": torch.tensor([0, 1, 2, 3]),
            "colour": torch.tensor([0, 1, 2, 3]), "mask": torch.ones(4, 64, 64, dtype=torch.bool)}  # fmt: skip
    seen = said | {"facing": torch.tensor([1, 0, 1, 1])}
    shares = {name: torch.nn.functional.one_hot(seen[name], count).float() for name, count in judges.CLASSES.items()}
    reading = judges.Reading(**shares, mask=said["mask"].float(), features=torch.zeros(4, 2))
    found = recipe.measure(reading, said, torch.ones(4, dtype=torch.bool), ("lamp",))
    assert found["category"] == (100, 4) and found["facing"] == (50, 2) and found["all"] == (75, 4)
    assert found["mask, intersection over union"] == (100, 4)
    assert recipe.measure(reading, said, torch.tensor([True, False, False, False]), ())["all"] == (0, 1)


def test_an_absent_autoencoder_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["toy_judge", "--vae", str(tmp_path), "--work", str(tmp_path / "work")])
    with pytest.raises(FileNotFoundError, match="make model NAME=toy-sd"):
        recipe.main()


def test_what_the_recipe_left():
    folder = training.DATA / "models" / recipe.NAME
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "judge-0.safetensors", "judge-1.safetensors"]
    with safe_open(folder / "judge-0.safetensors", "pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float16"}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2e6
