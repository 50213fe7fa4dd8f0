"""The recipe on a few steps: it runs, stops and continues through all its stages; its measures against hand examples."""

import pytest
import torch
from diffusers import AutoencoderKL

from helpers.methods import masked_planning as mp
from helpers.recipes import toy_mardini as recipe
from helpers.recipes import training
from helpers.toyworld import analysers

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    changes = {"BANK": 40, "BATCH": 6, "VAE_STEPS": 2, "VAE_BATCH": 8, "STANDARD": 40, "HELD_OUT": 8,
               "PLANNER_STEPS": 3, "GENERATOR_STEPS": 2, "JOINT_STEPS": 3, "HARD_STEPS": 2, "AGAIN_STEPS": 2, "BESIDE_STEPS": 3, "FRESH_STEPS": 2, "STEPS": 2,
               "PLANNER": recipe.PLANNER | dict(dim=16, depth=1, heads=2, mlp_dim=16),
               "FIRST_GENERATOR": recipe.FIRST_GENERATOR | dict(dim=16, depth=1, heads=2, mlp_dim=16, plan_dim=16),
               "GENERATOR": recipe.GENERATOR | dict(dim=16, depth=2, heads=2, mlp_dim=16, plan_dim=16)}  # fmt: skip
    for name, value in changes.items():
        monkeypatch.setattr(recipe, name, value)


@pytest.fixture
def vae(monkeypatch, tmp_path):
    """A tiny autoencoder in toy-latte's place, with its sizes of pictures and latents."""
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, norm_num_groups=2)
    tiny = AutoencoderKL(block_out_channels=(4, 4, 8), latent_channels=4, sample_size=32, scaling_factor=1.0, mid_block_add_attention=False, **blocks)
    tiny.save_pretrained(tmp_path / "toy-latte" / "vae")
    monkeypatch.setattr(recipe.zoo, "folder", lambda name: tmp_path / name)
    return tiny.eval()


@pytest.fixture
def pipe(small, vae):
    torch.manual_seed(0)
    pair = recipe.Pair()
    torch.nn.init.normal_(pair.generator.out.weight)
    return recipe.make_pipeline(pair, vae)


def test_a_few_steps_from_nothing_and_again_after_a_stop(small, vae, tmp_path):
    vae = recipe.train_vae(tmp_path, CPU)
    recipe.train_vae(tmp_path / "parts", CPU, stop_at=1)
    again = recipe.train_vae(tmp_path / "parts", CPU)
    assert all(torch.equal(a, b) for a, b in zip(vae.state_dict().values(), again.state_dict().values(), strict=True))
    bank = recipe.make_bank(vae, tmp_path)
    assert bank.shape == (40, 9, 4, 8, 8) and bank.dtype == torch.float16 and torch.equal(recipe.make_bank(vae, tmp_path), bank)
    assert abs(bank.float().mean()) < 0.2 and 0.8 < bank.float().std() < 1.2
    fresh = recipe.make_bank(vae, tmp_path, "fresh", range(40, 110))
    assert fresh.shape == (70, 9, 4, 8, 8) and not torch.equal(fresh[:40], bank)
    assert torch.allclose(fresh[-1].float(), recipe.encode(vae, recipe.sample(recipe.TRAIN_SEED, [109]).render().video)[0], atol=0.01)
    whole = recipe.train(bank, fresh, tmp_path / "whole", CPU)
    for stop in ({"planner": 2}, {"generator": 1}, {"joint": 1}, {"hard": 1}, {"again": 1}, {"beside": 1}, {"fresh": 1}, None):
        again = recipe.train(bank, fresh, tmp_path / "parts", CPU, stop_at=stop)
    assert set(whole.seconds) == {"planner", "generator", "joint", "hard", "again", "beside", "fresh"} and whole.generator.config.depth == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))

    training.write_folder(recipe.make_pipeline(whole, vae), tmp_path / "out")
    pipe = mp.MarDiniPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    quality = recipe.measure(pipe, count=3)
    assert {"interpolation", "random masks", "image-to-video, no plan", "interpolation, cross-fade"} <= set(quality)
    assert all(0 <= q["error"] <= 40 and 0 <= q["kept"] <= 100 for q in quality.values())
    assert "| interpolation, cross-fade |" in recipe.card(quality, whole, CPU)


def test_processes_together_are_one_alone(small, tmp_path):
    """Halves of a batch see the same clips, masks, timesteps and noise as the whole."""
    bank = torch.randn(20, 9, 4, 8, 8)
    whole = recipe.batch_of(bank, 1, 5, {0: (0.2, 0.6)}, slice(0, None, 1), CPU)
    halves = [recipe.batch_of(bank, 1, 5, {0: (0.2, 0.6)}, slice(rank, None, 2), CPU) for rank in range(2)]
    for k, part in enumerate(whole):
        assert torch.equal(part[0::2], halves[0][k]) and torch.equal(part[1::2], halves[1][k])


def test_shifted_timesteps_lean_to_noise(monkeypatch):
    """Shift 3 sends u to 3u / (1 + 2u): a half to three quarters; the rest of the batch stays."""
    monkeypatch.setattr(recipe, "BATCH", 400)
    bank = torch.randn(20, 9, 4, 8, 8)
    plain, leaning = (recipe.batch_of(bank, 1, 5, {0: (0.2, 0.6)}, slice(None), CPU, shift) for shift in (1.0, 3.0))
    u = plain[2].double() / 1000
    assert (leaning[2] - 3000 * u / (1 + 2 * u)).abs().max() <= 3.01 and leaning[2].max() <= 999
    assert abs(plain[2].double().median() - 500) < 10 and abs(leaning[2].double().median() - 750) < 10
    assert all(torch.equal(a, b) for k, (a, b) in enumerate(zip(plain, leaning, strict=True)) if k != 2)


def test_clips_are_filled_alike_alone_and_among_others(pipe):
    """Noise by clip and seed; guidance 2.5 where one frame is known, none elsewhere."""
    video = recipe.sample(31, range(3)).render().video
    one, two = recipe.TASKS["image-to-video"], recipe.TASKS["interpolation"]
    together = recipe.filled(pipe, video, one)
    assert torch.allclose(together[:1], recipe.filled(pipe, video[:1], one), atol=1e-4)
    assert torch.allclose(together[1:], recipe.filled(pipe, video[1:], one, first=1), atol=1e-4)
    assert not torch.allclose(together[1:], recipe.filled(pipe, video[1:], one), atol=1e-2)
    assert not torch.equal(together, recipe.filled(pipe, video, one, seed=5))
    assert torch.equal(together, recipe.filled(pipe, video, one, scale=2.5)) and not torch.equal(together, recipe.filled(pipe, video, one, scale=1.0))
    assert torch.equal(recipe.filled(pipe, video, two), recipe.filled(pipe, video, two, scale=1.0))
    mixed = torch.stack([one, two, two])
    assert torch.equal(recipe.filled(pipe, video, mixed), recipe.filled(pipe, video, mixed, scale=1.0))
    assert recipe.filled(pipe, video[:, :5], one[:5]).shape == (3, 5, 3, 32, 32)


def test_answers_of_a_clip_are_the_same_in_any_batch(pipe):
    """Against `filled` with plans made and shifted by hand; the first clip's other plan is the last one's."""
    video = recipe.sample(recipe.HELD_OUT_SEED, range(8)).render().video
    plans = pipe.make_plan(2 * video - 1, recipe.TASKS["image-to-video"])
    by_hand = {"own plan": plans, "another clip's plan": plans.roll(1, 0), "no plan": pipe.generator.without_plan(8, 9)}
    for way, plan in by_hand.items():
        whole = recipe.filled(pipe, video, recipe.TASKS["image-to-video"], plan)
        for first, count in ((0, 3), (3, 5)):
            assert torch.allclose(recipe.answer(pipe, "image-to-video", way, first, count, held_out=8), whole[first : first + count], atol=1e-4), way
    faded = recipe.answer(pipe, "interpolation", "cross-fade", 2, 2)
    assert torch.allclose(faded[:, 4], (video[2:4, 0] + video[2:4, 8]) / 2) and torch.equal(faded[:, [0, 8]], video[2:4, [0, 8]])


def test_quality_of_parts_pools_to_that_of_the_whole(pipe):
    for task in ("random masks", "interpolation"):
        made = recipe.answer(pipe, task, "own plan", 0, 8)
        whole, parts = recipe.quality_of(made, task, 0), [recipe.quality_of(made[:3], task, 0), recipe.quality_of(made[3:], task, 3)]
        assert recipe.pooled(parts, [3, 5]) == pytest.approx(whole) and whole["masked"] == (~recipe.masks_of(task, 0, 8)).sum()
    true = recipe.sample(recipe.HELD_OUT_SEED, range(8)).render().video
    quality = recipe.quality_of(true, "last frame", 0)
    assert quality["error"] == 0 and quality["masked"] == 64 and quality["kept"] >= 75


def test_measures_on_true_and_on_still_clips():
    clips = recipe.sample(31, range(30))
    video = clips.render().video
    truth = analysers.analyse_clips(video)
    still = analysers.analyse_clips(video[:, :1].expand_as(video))
    masked = ~recipe.TASKS["image-to-video"].expand(30, -1)
    assert recipe.centre_error(truth, truth, masked) == 0
    assert all(recipe.centre_error(still, truth, masked & (torch.arange(30) == i)[:, None]) > 0.5 for i in range(30))
    assert recipe.kept(truth, clips).double().mean() > 0.9 and recipe.moves_plausibly(truth).double().mean() > 0.9
    assert not recipe.moves_plausibly(still).any() and not recipe.sets_out_right(still, clips).any()
    assert recipe.sets_out_right(truth, clips).double().mean() > 0.95
    backwards = analysers.analyse_clips(video.flip(1))
    assert recipe.sets_out_right(backwards, clips).double().mean() < 0.5


def test_the_last_stages_leave_the_planner_as_it_is(small, tmp_path):
    """Only the new generator learns, and from the fresh clips at the end."""
    bank, fresh = torch.randn(2, 20, 9, 4, 8, 8)
    torch.manual_seed(0)
    planner = mp.Planner(**recipe.PLANNER)
    before = [p.clone() for p in planner.parameters()]
    (once, _), (again, _), (other, _) = (recipe.train_beside(planner, bank, f, tmp_path / n, CPU) for n, f in (("a", fresh), ("b", fresh), ("c", fresh + 1)))
    assert all(torch.equal(a, b) for a, b in zip(before, planner.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))
    assert once.out.weight.abs().max() > 0 and not torch.equal(once.out.weight, other.out.weight)


def test_the_planner_holds_most_of_the_parameters():
    planner, *generators = mp.Planner(**recipe.PLANNER), mp.Generator(**recipe.FIRST_GENERATOR), mp.Generator(**recipe.GENERATOR)
    planner, *generators = (sum(p.numel() for p in part.parameters()) for part in (planner, *generators))
    assert 2e6 < planner < 4e6 and max(generators) < 0.4e6


# ------------------------------------------------------------------------------------------------------------------ the finished model

FOLDER = training.DATA / "models" / recipe.NAME


@pytest.mark.skipif(not FOLDER.exists(), reason=f"data/models/{recipe.NAME} is not there; `make model NAME={recipe.NAME}` trains it")
def test_the_finished_model_returns_known_frames_bit_for_bit():
    pipe = mp.MarDiniPipeline.from_pretrained(FOLDER, local_files_only=True)
    video = recipe.sample(recipe.HELD_OUT_SEED, range(2)).render().video
    for task, is_ref in recipe.TASKS.items():
        for scale in (1.0, 2.5):
            made = pipe(2 * video - 1, is_ref, num_inference_steps=2, guidance_scale=scale).frames
            assert torch.equal(made[:, is_ref], 2 * video[:, is_ref] - 1), task
