"""The recipe on a few steps (it runs, stops, continues), the text treatment against the pipeline's own, and the finished model."""

import copy
import json

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from helpers.models import zoo
from helpers.recipes import autoencoders, training
from helpers.recipes import toy_sd as recipe
from helpers.toyworld import creatures as world

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """The recipe at a thousandth of its size: few steps, few pictures, narrow networks."""
    for name, value in {"VAE_STEPS": 3, "CROP_STEPS": 2, "VAE_BATCH": 8, "BANK": 70, "DECODER_STEPS": 3, "STATISTICS": 64, "STEPS": 4,
                        "PLAIN_STEPS": 3, "BATCH": 6, "PAIRS": 70, "PAIR_STEPS": 3, "APART_STEPS": 20, "APART_BATCH": 8,
                        "VAE_WIDTHS": (4, 4, 8), "UNET_WIDTHS": (16,) * 4}.items():  # fmt: skip
        monkeypatch.setattr(recipe, name, value)


def turned(caption):
    """The caption of the same picture with its object facing the other way."""
    return " ".join({"left": "right", "right": "left"}.get(word, word) for word in caption.split())


def test_a_few_steps_from_nothing_and_again_after_a_stop(small, tmp_path):
    def run(work, stops):
        for stop in stops:
            vae = recipe.train_vae(work, CPU, stop_at=stop)
        latents = autoencoders.encode(vae, recipe.sample(1, range(3)).image)
        for stop in stops:
            vae = recipe.tune_decoder(vae, work, CPU, stop_at=stop)
        assert torch.equal(autoencoders.encode(vae, recipe.sample(1, range(3)).image), latents)
        recipe.standardise(vae)
        bank, captions = recipe.make_bank(vae, work)
        for stop in stops:
            model = recipe.train_image(work, bank, captions, CPU, stop_at=stop)
        pairs, both = recipe.make_pairs(vae, work)
        for stop in stops:
            model = recipe.train_facing(model, pairs, both, work, CPU, stop_at=stop)
        return vae, model, bank, captions, pairs, both

    vae, model, bank, captions, pairs, both = run(tmp_path / "whole", (None,))
    _, again, other_bank, _, other_pairs, _ = run(tmp_path / "parts", (1, 2, None))
    assert len(pairs) == len(both) > 40 and torch.equal(pairs, other_pairs) and pairs.shape[1:] == (2, 4, 16, 16)
    assert not any(recipe.held_out(c) for some in both for c in some)
    assert all(turned(some[0]) == some[1] and turned(some[2]) == some[3] for some in both)
    assert torch.load(tmp_path / "whole" / "image.pt", weights_only=True)["step"] == 3
    assert len(bank) == len(captions) < 70 and not any(recipe.held_out(c) for both in captions for c in both)
    said, full = zip(*captions)
    assert any(a != b for a, b in captions) and sum("facing" in c for c in full) > 1.3 * sum("facing" in c for c in said)
    assert bank.shape[1:] == (4, 16, 16) and torch.equal(bank, other_bank)
    assert bank.float().std().item() == pytest.approx(1, abs=0.15) and abs(bank.float().mean()) < 0.15
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    training.write_folder(recipe.assemble(vae, model), tmp_path / "out" / "toy-sd")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out" / "toy-sd", local_files_only=True)
    assert type(pipe) is StableDiffusionPipeline and pipe.vae.config.scaling_factor == pytest.approx(vae.config.scaling_factor)
    assert recipe.pictures(pipe, ["cat", "dog"], 0, num_inference_steps=2, guidance_scale=3.0, height=64, width=64).shape == (2, 3, 64, 64)
    quality = {"held-out prompts": {"category": (50.0, 2), "all": (0.0, 2)}}
    card = recipe.card(quality, 30.0, 1.5, vae, model, CPU)
    assert "| category | 50.0 % (n = 2) |" in card and "stable" not in card.split("\n")[0].lower()


def test_errors_count_as_those_of_the_velocity_would():
    kept = recipe.make_scheduler().alphas_cumprod[[0, 261, 500, 999]]
    x0, noise, guess = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    for a, weight in zip(kept, recipe.weight_of(kept)):
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        estimate = (x - (1 - a).sqrt() * guess) / a.sqrt()
        velocity, guessed = a.sqrt() * noise - (1 - a).sqrt() * x0, a.sqrt() * guess - (1 - a).sqrt() * estimate
        wanted = (guessed - velocity).square().mean() if 1 / a < recipe.LARGEST_WEIGHT else recipe.LARGEST_WEIGHT * (guess - noise).square().mean()
        assert torch.allclose(weight * (guess - noise).square().mean(), wanted, rtol=1e-4)


def test_facings_are_set_apart_and_nothing_else_moves(monkeypatch):
    monkeypatch.setattr(recipe, "APART_BATCH", 16)
    torch.manual_seed(0)
    model = recipe.TextToImage(len(recipe.make_tokenizer()))
    captions = ["a cat", "a red cat facing left", "a red cat facing right on white", "a sketch of a dotted bird facing left on paper"]
    ids = recipe.make_tokenizer()(captions + [turned(c) for c in captions], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        before = model.text_encoder(ids)[0]
    recipe.set_facings_apart(model, [(c, turned(c)) for c in captions], steps=200)
    with torch.no_grad():
        after = model.text_encoder(ids)[0]
    distance = (after[:4] - after[4:]).norm(dim=-1)
    assert distance[0].max() == 0 and all(row[0] == 0 and row[-1] == pytest.approx(recipe.FACING_APART, rel=0.2) for row in distance[1:])
    middle = (after[:4] + after[4:] - before[:4] - before[4:]) / 2
    assert middle.norm(dim=-1).mean() < 0.15 * before.norm(dim=-1).mean()


def test_only_the_unet_learns_from_pairs(small, tmp_path):
    torch.manual_seed(0)
    model = recipe.TextToImage(len(recipe.make_tokenizer()))
    pairs, captions = torch.randn(4, 2, 4, 16, 16), [("a cat facing left", "a cat facing right") * 2] * 4
    learned = recipe.train_facing(copy.deepcopy(model), pairs, captions, tmp_path, CPU, stop_at=1)
    recipe.set_facings_apart(model, captions, recipe.APART_STEPS)

    def same(part):
        return [torch.equal(p, q) for p, q in zip(getattr(model, part).parameters(), getattr(learned, part).parameters(), strict=True)]

    assert all(same("text_encoder")) and not any(same("unet")[:10])


def test_crops_then_whole_pictures_and_two_processes_share_a_batch(small):
    seen = []
    for step in range(3):
        shares = slice(0, None, 1), slice(0, None, 2), slice(1, None, 2)
        whole, *halves = (recipe.vae_pictures(step, training.step_generator(5, step), mine) for mine in shares)
        assert all(torch.equal(whole[r::2], half) for r, half in enumerate(halves))
        seen.append(tuple(whole.shape))
    assert seen == [(8, 3, 32, 32), (8, 3, 32, 32), (2, 3, 64, 64)]


def test_every_word_is_one_token():
    tokenizer = recipe.make_tokenizer()
    words = recipe.vocabulary()
    ids = [tokenizer(word).input_ids for word in words]
    assert all(len(row) == 3 and row[0] == 0 and row[2] == 1 for row in ids)
    assert len({row[1] for row in ids}) == len(words)
    full = recipe.sample(7, range(200)).full_captions
    assert max(len(tokenizer(caption).input_ids) for caption in full) <= recipe.TEXT_LENGTH
    assert len(tokenizer("zebra").input_ids) > 3  # an unknown word falls into pieces


def test_captions_are_encoded_as_the_pipeline_does(small):
    torch.manual_seed(0)
    vae, model = recipe.make_vae(), recipe.TextToImage(len(recipe.make_tokenizer()))
    pipe = recipe.assemble(vae, model)
    captions = ["a photo of a cat", ""]
    ids = pipe.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        ours = model.text_encoder(ids)[0]
        own, empty = pipe.encode_prompt(captions[0], "cpu", 1, True)
    assert torch.allclose(ours[:1], own, atol=1e-5) and torch.allclose(ours[1:], empty, atol=1e-5)


def test_held_out_captions_say_two_things_or_more():
    captions = recipe.sample(5, range(600)).captions
    kept_out = [c for c in captions if recipe.held_out(c)]
    assert 0.06 < len(kept_out) / len(captions) < 0.2
    assert not any(recipe.held_out(c) for name in world.CATEGORIES for c in (name, f"a photo of a {name}", f"a sketch of a {name}"))
    prompts = recipe.held_out_prompts(40)
    assert len(prompts) == 40 and all(map(recipe.held_out, prompts))
    first = [c for c in recipe.sample(recipe.HELD_OUT_SEED, range(60)).captions if recipe.held_out(c)]
    assert first and prompts[: len(first)] == first
    assert not any(f"{texture} " in f"{p} " and f"{category} " in f"{p} " for p in prompts for category, texture in recipe.HELD_OUT)


def test_unseen_pairs_are_the_pairs_that_training_leaves_out():
    prompts = recipe.unseen_pairs(30)
    said = [world.parse_creature_caption(p) for p in prompts]
    named = {(world.CATEGORIES[s["category"]], world.TEXTURES[s["texture"]]) for s in said}
    assert len(prompts) == 30 and named == set(recipe.HELD_OUT)
    assert all(s["colour"] is not None and s["facing"] is not None for s in said)


# ------------------------------------------------------------------------------------------------------------ the finished model


@pytest.fixture(scope="module")
def pipe():
    return zoo.load(recipe.NAME)


def test_the_folder_is_a_plain_pipeline_and_small(pipe):
    folder = zoo.folder(recipe.NAME)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 12e6
    assert pipe.scheduler.config.beta_schedule == "scaled_linear" and pipe.scheduler.config.steps_offset == 1 and not pipe.scheduler.config.set_alpha_to_one
    assert pipe.unet.config.block_out_channels == [32, 64, 96, 96] and pipe.vae_scale_factor == 4
    assert pipe.vae.config.scaling_factor not in (1.0, 0.18215)


def test_autoencoder(pipe):
    fresh = recipe.sample(9, range(64)).image
    assert autoencoders.reconstruction_psnr(pipe.vae, fresh) > 30
    z = autoencoders.encode(pipe.vae, fresh) * pipe.vae.config.scaling_factor
    assert z.std().item() == pytest.approx(1, abs=0.1)


def test_it_serves_image_to_image(pipe):
    edit = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    edit.set_progress_bar_config(disable=True)
    start = recipe.sample(9, range(2)).image
    out = edit(["a photo of a cat"] * 2, image=start, strength=0.1, num_inference_steps=10, generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert out.shape == start.shape and (out - start).abs().mean() < 0.1
