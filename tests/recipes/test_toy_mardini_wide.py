"""The recipe on a few steps: it runs, stops and continues; what it learns from and what it is measured by."""

import pytest
import torch
from diffusers import AutoencoderKL

from helpers.datasets import photo_crops
from helpers.measures import filling, metrics
from helpers.methods import masked_planning as mp
from helpers.recipes import toy_mardini as toy
from helpers.recipes import toy_mardini_wide as recipe
from helpers.recipes import training

torch.set_num_threads(1)
CPU = torch.device("cpu")
TINY = dict(dim=16, depth=1, heads=2, mlp_dim=16)


@pytest.fixture
def small(monkeypatch):
    changes = {"VAE_STEPS": (2, 2, 2), "VAE_BATCH": 8, "BATCH": 8, "TOYS": 20, "PHOTOS": 10,
               "ROUNDS": ((4, 0.9, {0: (0.5, 0.2, 0.6), 2: (0.25, 0.2, 1.0)}), (2, 0.5, {0: (0.5, 0.2, 0.6)})),
               "HELD_OUT": {"fast pan": 2, "shake": 2}}  # fmt: skip
    for name, value in changes.items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr(toy, "STEPS", 2)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, norm_num_groups=2)
    return AutoencoderKL(block_out_channels=(4, 4, 8), latent_channels=4, sample_size=32, scaling_factor=1.0, mid_block_add_attention=False, **blocks).eval()


def a_pair() -> recipe.Pair:
    torch.manual_seed(0)
    pair = recipe.Pair(mp.Planner(**toy.PLANNER | TINY), mp.Generator(**toy.GENERATOR | TINY | dict(plan_dim=16)))
    torch.nn.init.normal_(pair.generator.out.weight, std=0.1)
    return pair


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_autoencoder_is_the_same_after_a_stop(small, vae, tmp_path):
    before = [p.clone() for p in vae.parameters()]
    whole = recipe.train_vae(vae, tmp_path / "whole", CPU)
    for stop in ({0: 1}, {1: 1}, {2: 1}, None):
        again = recipe.train_vae(vae, tmp_path / "parts", CPU, stop_at=stop)
    assert same(whole, again) and whole.seconds > 0 and not same(whole, vae)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))  # what it goes on from stays


def test_the_last_round_leaves_the_latents(small, vae, tmp_path):
    first = recipe.train_vae(vae, tmp_path, CPU, stop_at={2: 0})
    last = recipe.train_vae(vae, tmp_path, CPU)
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.equal(toy.autoencoders.encode(first, pictures), toy.autoencoders.encode(last, pictures))
    assert not torch.equal(first.decoder.conv_in.weight, last.decoder.conv_in.weight)


def test_a_pull_keeps_toy_latents_nearer(small, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "VAE_STEPS", (40, 1))
    pictures, off = toy.training_videos(range(4)).flatten(0, 1), {}
    for weight in (0.0, 5.0):
        monkeypatch.setattr(toy.autoencoders, "KEEP", weight)
        wide = recipe.train_vae(vae, tmp_path / str(weight), CPU)
        off[weight] = (toy.autoencoders.encode(wide, pictures) - toy.autoencoders.encode(vae, pictures)).square().mean()
    assert off[5.0] < 0.5 * off[0.0]


def test_the_pair_is_the_same_after_a_stop_and_its_folder_is_measured(small, vae, tmp_path):
    toys, photos = toy.make_bank(vae, tmp_path, "toys", range(70)), toy.make_bank(vae, tmp_path, "photos", range(10), recipe.photo_videos)
    assert toys.shape == (70, 9, 4, 8, 8) and photos.shape == (10, 9, 4, 8, 8) and toys.dtype == torch.float16
    assert torch.allclose(toys[69].float(), toy.encode(vae, toy.training_videos(range(69, 70)))[0], atol=0.01)
    whole = recipe.train(a_pair(), toys, photos, tmp_path / "whole", CPU)
    for stop in ({0: 1}, {0: 3}, {1: 1}, None):
        again = recipe.train(a_pair(), toys, photos, tmp_path / "parts", CPU, stop_at=stop)
    assert same(whole, again) and not same(whole, a_pair())
    first = recipe.train(a_pair(), toys, photos, tmp_path / "first", CPU, stop_at={1: 0})
    assert not same(whole, first) and same(first, first.half().float()) and whole.seconds > 0 < first.seconds  # the second round begins at half precision

    recipe.finish(whole, vae, tmp_path / "out", {"pair": 1.0}, "one core")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| fast pan, PSNR | 2 |" in text and "| shake, SSIM | 2 |" in text and "| image-to-video |" in text and "cat, coffee, flower" in text


def test_a_batch_holds_both_kinds_as_its_mix_says(small):
    """Toys are made of zeros here, photographs of the numbers of their frames."""
    toys, photos = torch.zeros(20, 9, 4, 8, 8), torch.arange(1.0, 10)[None, :, None, None, None].expand(20, 9, 4, 8, 8)
    for step, count in ((0, 4), (1, 4), (2, 2), (3, 2)):
        clean, is_ref, timestep, noise, dropped = recipe.batch_of(toys, photos, recipe.ROUNDS[0][2], 1, step, slice(None), CPU)
        assert (clean[:count] == 0).all() and (clean[count:] > 0).all() and len(clean) == len(is_ref) == len(timestep) == len(noise) == len(dropped) == 8
        if step >= 2:
            assert (is_ref[count:] == recipe.ENDS).all()
    firsts = [float(clip[0].mean()) for step in range(30) for clip in recipe.batch_of(toys, photos, recipe.ROUNDS[0][2], 1, step, slice(None), CPU)[0][4:]]
    assert set(firsts) == {1.0, 9.0} and 0.3 < sum(f == 9 for f in firsts) / len(firsts) < 0.7
    whole, halves = (recipe.batch_of(toys, photos, recipe.ROUNDS[0][2], 1, 0, mine, CPU) for mine in (slice(None), slice(1, None, 2)))
    assert torch.equal(whole[3][1:4:2], halves[3][:2]) and torch.equal(whole[1][5:8:2], halves[1][2:])


def test_answers_between_two_frames(small, vae):
    pipe = toy.make_pipeline(a_pair(), vae)
    video, made = recipe.clip_of("fast pan", 1), recipe.answers(pipe, "fast pan", 1)
    assert set(made) == set(recipe.WAYS) and all(clip.shape == video.shape and 0 <= clip.min() <= clip.max() <= 1 for clip in made.values())
    assert torch.equal(made["cross-fade"], filling.cross_fade(video[0], recipe.ENDS)[None]) and not torch.equal(made["pair"], made["pair, one step"])
    other = recipe.clip_of.__wrapped__("fast pan", 1)
    assert torch.equal(other, video)
    quality = recipe.quality_of(pipe, "fast pan", 1)
    assert quality["PSNR, cross-fade"] == pytest.approx(metrics.psnr(filling.cross_fade(video[0], recipe.ENDS)[None, 1:-1], video[:, 1:-1]))
    assert quality["SSIM, pair"] == pytest.approx(metrics.ssim(made["pair"][:, 1:-1], video[:, 1:-1]))


def test_held_out_clips_are_what_they_are_called():
    for move in recipe.HELD_OUT:
        assert recipe.clip_of(move, 0).shape == (1, 9, 3, 32, 32)
    fast, slow = (photo_crops.crops(recipe.HELD_OUT_SEED, [0], moves="pan", speeds=speed).video for speed in ("fast", "slow"))
    assert torch.equal(recipe.clip_of("fast pan", 0), fast) and torch.equal(recipe.clip_of("slow pan", 0), slow) and not torch.equal(fast, slow)


def test_rows_of_the_card_by_hand():
    clips = [{f"{score}, {way}": value + i for score in ("PSNR", "SSIM") for way, value in zip(recipe.WAYS, (5, 4, 3, 2, 1, 9), strict=True)} for i in (0, 2)]
    assert recipe.photo_rows({"fast pan": clips}).splitlines()[0] == "| fast pan, PSNR | 2 | 6.0 | 5.0 | 4.0 | 3.0 | 2.0 | 10.0 |"
    gains = recipe.gain_rows({"fast pan": clips}).splitlines()
    assert gains[0] == "| fast pan, PSNR, pair | 2 [2, 2] | 3 [3, 3] | 4 [4, 4] |"
    assert gains[3] == "| fast pan, SSIM, pair, one step | 1 [1, 1] | 2 [2, 2] | 3 [3, 3] |"


# ------------------------------------------------------------------------------------------------------------------ the finished model

FOLDER = training.DATA / "models" / recipe.NAME


@pytest.mark.skipif(not FOLDER.exists(), reason=f"data/models/{recipe.NAME} is not there; `make model NAME={recipe.NAME}` trains it")
def test_the_finished_autoencoder_shows_photographs_that_it_has_never_seen():
    pipe = mp.MarDiniPipeline.from_pretrained(FOLDER, local_files_only=True)
    assert sum(recipe.autoencoder_psnr(pipe, name) for name in photo_crops.KEPT_OUT) / len(photo_crops.KEPT_OUT) >= 28
