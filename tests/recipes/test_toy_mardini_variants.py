"""The recipe on a few steps: what learns and what does not, the same after a stop, and the finished folder."""

import json

import pytest
import torch

from helpers.methods import masked_planning as mp
from helpers.recipes import toy_mardini as pair_recipe
from helpers.recipes import toy_mardini_variants as recipe
from helpers.recipes import training

torch.set_num_threads(1)
CPU = torch.device("cpu")
TINY = dict(dim=16, depth=1, heads=2, mlp_dim=16)


@pytest.fixture
def small(monkeypatch):
    generator, planner = pair_recipe.FIRST_GENERATOR | TINY | dict(plan_dim=16), pair_recipe.PLANNER | TINY
    monkeypatch.setattr(recipe, "BATCH", 4)
    monkeypatch.setattr(pair_recipe, "FIRST_GENERATOR", generator)
    for name, value in {"PLAIN": recipe.PLAIN | TINY, "PLAIN_STEPS": 3, "WIDTHS": (8,), "WIDTH_STEPS": 3, "SMALL_PLANNER": planner,
                        "SMALL_GENERATOR": generator, "SEEDS": 1, "SMALL_STEPS": 3, "IDENTITY_STEPS": 4, "LOOKS": 2}.items():  # fmt: skip
        monkeypatch.setattr(recipe, name, value)


@pytest.fixture
def bank():
    return torch.randn(12, 9, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def finished():
    torch.manual_seed(0)
    return mp.Planner(**pair_recipe.PLANNER | TINY).eval()


@pytest.mark.parametrize("name", ["generator-8", "alone-8", "curriculum-0", "identity-none-0", "plain"])
def test_the_same_after_a_stop(small, bank, finished, tmp_path, name):
    whole, losses = recipe.train(name, bank, bank[:5], finished, tmp_path / "whole", CPU)
    recipe.train(name, bank, bank[:5], finished, tmp_path / "parts", CPU, stop_at=2)
    again, losses_again = recipe.train(name, bank, bank[:5], finished, tmp_path / "parts", CPU)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert losses == losses_again and list(losses) == ([2, 4] if name.startswith("identity") else [])
    assert all(0 < loss < 5 for loss in losses.values())
    assert whole.generator.config.identity == (None if "none" in name else "token")


def test_the_finished_planner_stays_and_is_read(small, bank, finished, tmp_path):
    before = [p.clone() for p in finished.parameters()]
    parts, _ = recipe.train("generator-8", bank, bank, finished, tmp_path, CPU)
    assert all(torch.equal(a, b) for a, b in zip(before, finished.parameters(), strict=True)) and parts.planner is None

    read, batch = [], pair_recipe.batch_of(bank, 1, 0, recipe.HARD, slice(None), CPU, batch=4)
    finished.register_forward_hook(lambda *_: read.append(1))
    recipe.loss_of(parts, finished, mp.make_scheduler(), *batch)
    assert read == [1]
    recipe.train("alone-8", bank, bank, finished, tmp_path, CPU)
    recipe.train("curriculum-0", bank, bank, finished, tmp_path, CPU)
    assert read == [1]


def test_the_plain_model_has_the_pairs_size():
    planner, generator = mp.Planner(**pair_recipe.PLANNER), mp.Generator(**pair_recipe.GENERATOR)
    sizes = [sum(p.numel() for p in parts) for parts in ([*planner.parameters(), *generator.parameters()], recipe.Parts(recipe.PLAIN).parameters())]
    assert abs(sizes[1] / sizes[0] - 1) < 0.1


# ------------------------------------------------------------------------------------------------------------------ the finished folder

FOLDER = training.DATA / "models" / recipe.NAME


@pytest.mark.skipif(not FOLDER.exists(), reason=f"data/models/{recipe.NAME} is not there; `make model NAME={recipe.NAME}` trains it")
def test_the_finished_folder_is_whole():
    losses = json.loads((FOLDER / "losses.json").read_text())
    for name, variant in recipe.variants().items():
        if variant.looks:
            assert len(losses[name]) == variant.looks and list(losses[name].values())[-1] < list(losses[name].values())[0] < 2
        else:
            generator = mp.Generator.from_pretrained(FOLDER / name / "generator", local_files_only=True)
            assert generator.config.dim == variant.generator["dim"] and (FOLDER / name / "planner").exists() == isinstance(variant.planner, dict)
    assert set(json.loads((FOLDER / "seconds.json").read_text())) == set(recipe.variants())
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 25e6
