"""The recipe on a few steps (it runs, stops, continues), and its timesteps. The finished transformer: the study toy_cogvideox."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from helpers.measures import caches
from helpers.models import zoo
from helpers.recipes import toy_cogvideox as recipe
from helpers.recipes import toy_latte

torch.set_num_threads(1)
CPU = torch.device("cpu")


def test_a_few_steps_from_nothing_and_again_after_a_stop(monkeypatch, tmp_path):
    for name, value in {"STEPS": 4, "BATCH": 6, "APPEARANCE_SHARE": {0: 1.0, 1: 0.0, 2: 0.5}, "LAYERS": 2, "HEADS": 2, "HEAD_WIDTH": 16}.items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr(toy_latte, "BANK", 40)
    pipe = zoo.load("toy-latte")

    def run(work, stops):
        bank, captions = recipe.encode_bank(pipe, work)
        for stop in stops:
            model = recipe.train(pipe, bank, captions, work, CPU, stop_at=stop)
        return model, bank, captions

    model, bank, captions = run(tmp_path / "whole", (None,))
    again, other_bank, _ = run(tmp_path / "parts", (1, 3, None))
    assert torch.equal(bank, other_bank) and bank.shape[1:] == (8, 4, 8, 8) and len(bank) == len(captions) < 40
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    recipe.write_folder(model, tmp_path / "out" / recipe.NAME)
    loaded = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "out" / recipe.NAME / "transformer", local_files_only=True)
    bench = caches.Bench(recipe.NAME, pipe, loaded, num_calls=2)
    quality = {"held-out prompts": toy_latte.measure_clips(bench.sample, ["a red ring stays still", "a blue disc moves up fast"], "test")}
    assert quality["held-out prompts"]["colour"][1] == 2
    assert "| colour |" in recipe.card(quality, model, CPU)


def test_the_text_is_encoded_as_the_bench_does():
    pipe = zoo.load("toy-latte")
    bench = caches.Bench(recipe.NAME, pipe, recipe.make_transformer())
    assert torch.equal(recipe.encode_text(pipe, ["", "a red ring stays still"]), bench.encode("a red ring stays still"))


def test_timesteps_follow_their_shares():
    generator = torch.Generator().manual_seed(0)
    early, late, mixed = (recipe.draw_timesteps(2000, step, generator) for step in recipe.APPEARANCE_SHARE)
    for t in (early, late, mixed):
        assert t.shape == (2000,) and 0 <= t.min() and t.max() <= 999
    kept, unshifted = (toy_latte.alphas_bar(shift) for shift in (toy_latte.SHIFT, 1.0))
    assert kept[early].sort().values[::2] == pytest.approx(unshifted.sort().values, abs=0.02)  # as if nothing had been shifted
    assert late.double().mean() == pytest.approx(1000 * 2 / 3, abs=5)
    assert mixed.double().mean() == pytest.approx((early.double().mean() + late.double().mean()) / 2, abs=5)
