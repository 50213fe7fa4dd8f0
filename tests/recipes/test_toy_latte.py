"""The recipe on a few steps (it runs, stops, continues), the text treatment against LattePipeline's own, and the finished model."""

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LattePipeline

from helpers.models import zoo
from helpers.recipes import autoencoders, training
from helpers.recipes import toy_latte as recipe
from helpers.toyworld import analysers, shapes

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """The recipe at a thousandth of its size: few steps, few clips, narrow networks."""
    for name, value in {"VAE_STEPS": 3, "VAE_BATCH": 8, "STATISTICS": 32, "BANK": 40, "STEPS": 4, "BATCH": 6, "VAE_WIDTHS": (8, 8, 8), "LAYERS": 1,
                        "HEADS": 2, "HEAD_WIDTH": 8}.items():  # fmt: skip
        monkeypatch.setattr(recipe, name, value)


def test_a_few_steps_from_nothing_and_again_after_a_stop(small, tmp_path):
    def run(work, stops):
        for stop in stops:
            vae = recipe.train_vae(work, CPU, stop_at=stop)
        bank, captions = recipe.make_bank(vae, work)
        for stop in stops:
            model = recipe.train_video(work, bank, captions, CPU, stop_at=stop)
        return vae, model, bank, captions

    vae, model, bank, captions = run(tmp_path / "whole", (None,))
    _, again, other_bank, _ = run(tmp_path / "parts", (1, 2, None))
    assert len(bank) == len(captions) < 40 and not any(recipe.held_out(c) for c in captions)
    assert torch.equal(bank, other_bank)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    training.write_folder(recipe.assemble(vae, model), tmp_path / "out" / "toy-latte")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out" / "toy-latte", local_files_only=True)
    quality = recipe.measure(pipe, ["a red ring stays still", "a blue disc moves up fast"], "test")
    assert quality["colour"][1] == 2 and quality["direction"][1] == 1 and quality["still prompts still"][1] == 1
    card = recipe.card({"held-out prompts": quality}, recipe.reconstruction_psnr(pipe), vae, model, CPU)
    assert "| colour |" in card and "(n = 2)" in card


def test_standardised_latents_decode_as_before():
    torch.manual_seed(0)
    vae = recipe.make_vae().eval()
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        z = vae.encode(x).latent_dist
        before, mean, std = vae.decode(z.mean).sample, z.mean.mean((0, 2, 3)), z.mean.std((0, 2, 3))
        spread = z.std / std[:, None, None]
        autoencoders.standardise(vae, mean, std)
        new = vae.encode(x).latent_dist
        assert torch.allclose(new.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(new.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4)
        assert torch.allclose(new.std, spread, rtol=1e-3)
        assert torch.allclose(vae.decode(new.mean).sample, before, atol=1e-4)


def test_noise_schedule_is_the_cosine_with_a_shifted_ratio():
    plain = DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    assert torch.allclose(recipe.alphas_bar(1.0).float(), plain, atol=1e-5)
    moved = recipe.make_scheduler().alphas_cumprod.double()[:990]
    assert torch.allclose((moved / (1 - moved)) * recipe.SHIFT, (plain / (1 - plain)).double()[:990], rtol=2e-2)


def test_every_word_is_one_token_and_no_other_word_is_known():
    tokenizer = recipe.make_tokenizer()
    captions = recipe.sample(7, range(300)).captions
    ids = tokenizer(captions).input_ids
    assert all(len(row) == len(caption.split()) + 1 and tokenizer.unk_token_id not in row for row, caption in zip(ids, captions, strict=True))
    assert max(map(len, ids)) <= recipe.TEXT_LENGTH
    assert tokenizer.unk_token_id in tokenizer("a red zebra").input_ids


def test_text_is_masked_as_the_pipeline_masks_it():
    """One prompt: its own tokens; the empty prompt cut to that length. A list: padding zero behind the encoder, not for the empty prompt."""
    torch.manual_seed(0)
    model = recipe.TextToVideo(len(recipe.make_tokenizer()))
    pipe = LattePipeline(tokenizer=recipe.make_tokenizer(), text_encoder=model.text_encoder.eval(), vae=recipe.make_vae(), transformer=model.transformer,
                         scheduler=recipe.make_scheduler())  # fmt: skip
    prompts = ["a red ring stays still", "a red ring moves up fast and a blue disc stays still"]
    tokens = pipe.tokenizer(prompts * 2, padding="max_length", max_length=recipe.TEXT_LENGTH, return_tensors="pt")
    dropped = torch.tensor([False, False, True, True])
    ids, mask, visible = recipe.text_batch(tokens.input_ids, tokens.attention_mask, dropped, False)
    with torch.no_grad():
        text = model.text_encoder(ids, attention_mask=mask)[0]
        for i, prompt in enumerate(prompts):
            own, empty = pipe.encode_prompt(prompt, clean_caption=False)
            assert torch.allclose(text[i][visible[i].bool()][None], own, atol=1e-5)
            assert torch.allclose(text[i + 2][visible[i + 2].bool()][None], empty, atol=1e-5)


def test_held_out_prompts_and_pairs():
    prompts = recipe.held_out_prompts(120)
    assert len(prompts) == 120 and all(map(recipe.held_out, prompts)) and not any(" and " in p for p in prompts)
    assert all(" and " in p and recipe.held_out(p) for p in recipe.held_out_prompts(20, objects=2))
    assert not any(f" {c} {s} " in f" {p} " for p in prompts for c, s in recipe.HELD_OUT)
    unseen = recipe.unseen_pairs(30)
    assert len(unseen) == 30 and all(any(f"{c} {s}" in p for c, s in recipe.HELD_OUT) for p in unseen)


@pytest.mark.parametrize("kind", recipe.PROMPT_KINDS)
def test_prompts_of_a_kind(kind):
    prompts = recipe.prompts(kind, 6, seed=3)
    assert len(set(prompts)) == 6
    motion = {"still": "still", "slow": "move", "fast": "move", "two objects": "two", "camera": "pan", "growing": "grow"}[kind]
    assert all(shapes.parse_caption(p)["motion"] == motion for p in prompts)
    with pytest.raises(ValueError, match="kind must be one of"):
        recipe.prompts("dizzy", 1, seed=0)


# ------------------------------------------------------------------------------------------------------------ the finished model


@pytest.fixture(scope="module")
def pipe():
    return zoo.load("toy-latte")


def test_it_loads_without_network_and_without_this_package(tmp_path):
    """A fresh interpreter that may not import helpers, with sockets shut, loads the folder and makes a clip."""
    import subprocess
    import sys

    code = f"""
import socket, sys
def refuse(*a, **k): raise OSError("no network")
socket.socket.connect = refuse
sys.modules["helpers"] = None
import torch; torch.set_num_threads(1)
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(zoo.folder("toy-latte"))!r})
clip = pipe("a red ring moves up fast", num_inference_steps=3, height=32, width=32, video_length=8, clean_caption=False, output_type="pt").frames
assert type(pipe).__name__ == "LattePipeline" and tuple(clip.shape) == (1, 8, 3, 32, 32), clip.shape
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_it_is_small(pipe):
    weights = [p for p in zoo.folder("toy-latte").rglob("*.safetensors")]
    assert sum(p.stat().st_size for p in weights) < 16e6
    assert pipe.transformer.config.video_length >= 8 and pipe.transformer.config.out_channels == 2 * pipe.vae.config.latent_channels


def test_prompt_lists_work_too(pipe):
    prompts = ["a red disc moves right fast", "a blue square moves left fast", "a yellow ring stays still", "a green disc moves up fast"]
    generator = torch.Generator().manual_seed(0)
    video = pipe(prompts, generator=generator, output_type="pt", **zoo.entry("toy-latte").call | {"num_inference_steps": 12}).frames.float()
    assert analysers.judge(video, prompts).colour.mean() >= 0.75


def test_the_card_says_what_was_measured():
    card = (zoo.folder("toy-latte") / "README.md").read_text()
    for row in ("colour", "shape", "direction", "speed", "still prompts still"):
        assert f"| {row} |" in card
