"""MagicMix against its limits (nu = 0, nu = 1, an ideal predictor), worked numbers, slow loops and the pipelines of diffusers."""

import math
import warnings

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch

from helpers.methods import semantic_mixing as sm
from helpers.methods.semantic_mixing import WordWeights, attach, blend, decode, denoise, encode, generate, img2img, levels, mix, mix_text, reweight_words
from helpers.methods.semantic_mixing.mixing import Levels
from helpers.models import small as small_models
from tests.accelerator import DEVICE, Accelerator, near, offloads

torch.set_num_threads(1)
N = 10


@pytest.fixture(scope="module")
def shared():
    return small_models.image_pipeline()


@pytest.fixture
def pipe(shared):
    """The small pipeline, which every test must leave as it was."""
    scheduler, processors, vae_scale = shared.scheduler, dict(shared.unet.attn_processors), shared.vae.config.scaling_factor
    yield shared
    shared.scheduler = scheduler
    shared.vae.register_to_config(scaling_factor=vae_scale)
    assert all(processors[name] is processor for name, processor in shared.unet.attn_processors.items())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def pictures(count=2, height=16, width=32, seed=5):
    return torch.rand(count, 3, height, width, generator=seeded(seed)) * 2 - 1


IMAGE, NOISE = pictures(), randn(2, 4, 8, 16, seed=7)
SHORT = dict(num_inference_steps=N, guidance_scale=3.0, noise=NOISE)


class Predictor:
    """Stands in for the U-Net's forward: counts its calls and answers with `answer(x)`."""

    def __init__(self, answer):
        self.answer, self.times, self.rows, self.inputs = answer, [], [], []

    def __call__(self, x, t, encoder_hidden_states=None, **kwargs):
        assert len(x) == len(encoder_hidden_states)
        self.times.append(int(t))
        self.rows.append(len(x))
        self.inputs.append(x)
        return (self.answer(x),)


def ideal(pipe, monkeypatch, eps=NOISE):
    predictor = Predictor(lambda x: eps.repeat(len(x) // len(eps), 1, 1, 1).to(x))
    monkeypatch.setattr(pipe.unet, "forward", predictor)
    return predictor


def ddim(**changes):
    config = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)
    return diffusers.DDIMScheduler(**{**config, **changes})


# ------------------------------------------------------------------------------------------------------------ the window


@pytest.mark.parametrize(
    ("arguments", "window", "mixes"),
    [
        ((50, 0.3, 0.6), (15, 30), 14), ((50, 0.3, 0.6, "community"), (15, 30), 14), ((20, 0.3, 0.6), (6, 12), 5),
        ((13, 0.3, 0.6, "community"), (3, 7), 3), ((13, 0.3, 0.6), (4, 8), 3), ((10, 0, 1), (0, 10), 9),
        ((100, 0.29, 0.6, "community"), (28, 60), 31), ((100, 0.29, 0.6), (29, 60), 30), ((10, 0.5, 0.5), (5, 5), 0),
        ((10, 0.4, 0.5), (4, 5), 0), ((1, 0, 1), (0, 1), 0),
    ],
)  # fmt: skip
def test_fractions_become_counts(arguments, window, mixes):
    found = levels(*arguments)
    assert tuple(found) == window and len(found.mixed) == mixes == max(0, window[1] - window[0] - 1)
    assert found.mixed == tuple(range(window[1] - 1, window[0], -1))


def test_the_window_of_the_published_settings():
    assert levels(50, 0.3, 0.6).mixed == tuple(range(29, 15, -1))


@pytest.mark.parametrize(
    ("steps", "variant", "offset", "first", "mixed"),
    [(50, "paper", 0, 580, (21, 34)), (50, "paper", 1, 581, (21, 34)), (20, "paper", 0, 550, (9, 13)), (13, "community", 0, 456, (7, 9))],
)
def test_timesteps_come_from_the_scheduler(pipe, monkeypatch, steps, variant, offset, first, mixed):
    """The sheet's table of indices, and the trap of steps_offset."""
    pipe.scheduler = ddim(steps_offset=offset)
    predictor = ideal(pipe, monkeypatch)
    run = mix(pipe, IMAGE, "cat", variant=variant, num_inference_steps=steps, noise=NOISE, trace=True)
    assert predictor.times[0] == run.trace[0].timestep == first
    assert (steps - run.levels.mixed[0], steps - run.levels.mixed[-1]) == mixed
    assert predictor.times == [k * (1000 // steps) + offset for k in reversed(range(run.levels.K_max))]
    assert [step.timestep for step in run.trace] == predictor.times


@pytest.mark.parametrize("guidance_scale", [1, 3.0])
def test_as_many_calls_as_levels(pipe, monkeypatch, guidance_scale):
    predictor, rows = ideal(pipe, monkeypatch), 2 if guidance_scale == 1 else 4
    options = dict(num_inference_steps=N, guidance_scale=guidance_scale)
    mix(pipe, IMAGE, "cat", noise=NOISE, **options)
    assert predictor.rows == [rows] * 6
    mix(pipe, IMAGE, "cat", layout="ddim_inversion", **options)
    assert predictor.rows == [rows] * 6 + [2] * 6 + [rows] * 6
    mix_text(pipe, "cat", "dog", noise=NOISE, **options)
    assert len(predictor.rows) == 18 + N + 6 and len(set(predictor.rows[18:])) == 1


# ---------------------------------------------------------------------------------------------------------- exact limits


@pytest.mark.parametrize("variant", sm.VARIANTS)
def test_nu_one_is_img2img_to_the_last_bit(pipe, variant):
    plain = img2img(pipe, IMAGE, "cat", level=6, **SHORT)
    for k_min in (0, 0.2, 0.6):
        mixed = mix(pipe, IMAGE, "cat", k_min=k_min, nu=1, variant=variant, **SHORT)
        assert torch.equal(mixed.latents, plain.latents) and torch.equal(mixed.images, plain.images)


def test_nu_zero_is_img2img_from_the_end_of_the_window(pipe):
    plain = img2img(pipe, IMAGE, "cat", level=4, **SHORT)
    for k_max in (0.6, 0.8):
        assert torch.equal(mix(pipe, IMAGE, "cat", k_min=0.3, k_max=k_max, nu=0, **SHORT).latents, plain.latents)
    other = mix(pipe, IMAGE, "cat", k_min=0.3, k_max=0.6, nu=0, variant="community", **SHORT)
    assert (other.latents - plain.latents).abs().max() > 0.05


def test_nu_zero_inverted_is_inversion_with_a_new_prompt(pipe):
    options = dict(num_inference_steps=N, guidance_scale=3.0, layout="ddim_inversion")
    plain = img2img(pipe, IMAGE, "cat", level=4, **options)
    assert torch.allclose(mix(pipe, IMAGE, "cat", k_min=0.3, k_max=0.6, nu=0, **options).latents, plain.latents, atol=1e-6)


@pytest.mark.parametrize("k_min", [0.5, 0.6])
def test_no_mix_without_a_window(pipe, k_min):
    runs = [mix(pipe, IMAGE, "cat", k_min=k_min, k_max=0.6, nu=nu, **SHORT).latents for nu in (0, 0.4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], mix(pipe, IMAGE, "cat", k_min=0.4, k_max=0.6, nu=0.4, **SHORT).latents)


def test_the_last_noise_level_still_shows_the_layout(pipe):
    """K_max = N, nu = 1: near text-to-image from the same noise, not equal, and nearer than any earlier start."""
    free = generate(pipe, "cat", **SHORT).latents
    gaps = [float((mix(pipe, IMAGE, "cat", k_min=0, k_max=k, nu=1, **SHORT).latents - free).norm() / free.norm()) for k in (1, 0.5)]
    assert 1e-4 < gaps[0] < 0.25 and gaps[0] < gaps[1]


def scalar_chain(variant, nu, layout=0.0):
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=2, trained_betas=[0.36, 1 - 0.25 / 0.64], clip_sample=False)
    scheduler.set_timesteps(2)
    assert scheduler.alphas_cumprod.tolist() == pytest.approx([0.64, 0.25])
    one, steps = torch.ones(1, 1, 1, 1), []
    denoise(
        Predictor(lambda x: x), scheduler, one, torch.zeros(1, 3, 2), level=2, guidance_scale=1, layout={2: layout * one}, nu={2: nu}, variant=variant,
        callback=steps.append,
    )  # fmt: skip
    return steps


def test_one_step_by_hand():
    paper, community = scalar_chain("paper", 0.5), scalar_chain("community", 0.5)
    for steps, state, estimate, after in ((paper, 0.5, 0.1340, 0.4072), (community, 1.0, 1.1340, 1.2072)):
        assert (float(steps[0].seen), float(steps[0].state), float(steps[0].content)) == (0.5, state, 1.0)
        assert float(steps[0].estimate) == pytest.approx(estimate, abs=1e-4)
        assert float(steps[1].content) == pytest.approx(after, abs=1e-4)
    for steps in (scalar_chain("paper", 0.25), scalar_chain("community", 0.25)):  # the exercise: eps = 0.25
        start = float(steps[0].state)
        assert float(steps[1].content) == pytest.approx(0.8 * (start - math.sqrt(0.75) * 0.25) / 0.5 + 0.6 * 0.25, abs=1e-6)


@pytest.mark.parametrize(("variant", "nu"), [(variant, nu) for variant in sm.VARIANTS for nu in (0.0, 0.5, 1.0)])
@pytest.mark.parametrize("one", [True, False])
def test_an_ideal_predictor_stays_on_the_layouts_chain(pipe, monkeypatch, variant, nu, one):
    pipe.scheduler = ddim(set_alpha_to_one=one, steps_offset=1)
    ideal(pipe, monkeypatch)
    x0 = encode(pipe, IMAGE)
    final = 1.0 if one else 1 - 0.00085
    for k_min, k_max in ((0.3, 0.6), (0, 1), (0.1, 0.2)):
        run = mix(pipe, IMAGE, "cat", k_min=k_min, k_max=k_max, nu=nu, variant=variant, trace=True, **SHORT)
        for step in run.trace:
            assert step.layout is None or torch.allclose(step.state, step.layout, atol=2e-5)
            assert torch.allclose(step.estimate, x0, atol=2e-4)
        assert torch.allclose(run.latents, math.sqrt(final) * x0 + math.sqrt(1 - final) * NOISE, atol=1e-4)


def test_the_last_step_of_stable_diffusion_leaves_a_little_noise():
    assert math.sqrt(float(ddim().final_alpha_cumprod)) == pytest.approx(0.99957, abs=1e-5)
    assert math.sqrt(1 - float(ddim().final_alpha_cumprod)) == pytest.approx(0.0292, abs=1e-4)


# --------------------------------------------------------------------------------------------------------------- mixing


def test_mixing_is_affine_and_keeps_the_noise():
    z, x = randn(2, 4, 3, 5).double(), randn(2, 4, 3, 5, seed=1).double()
    for nu in (0.0, 0.25, 0.5, 0.9, 1.0):
        assert torch.allclose(blend(z, x, nu), nu * z + (1 - nu) * x)
        assert torch.equal(blend(z, z, nu), z)
        eps, a, b = randn(2, 4, 3, 5, seed=2).double(), 0.6, 0.8
        assert torch.allclose(blend(a * z + b * eps, a * x + b * eps, nu), a * (nu * z + (1 - nu) * x) + b * eps)
    assert torch.equal(blend(z, x, 1.0), z) and torch.equal(blend(z, x, 0.0), x)


def test_independent_noises_would_be_too_clean():
    eps, other = randn(1, 1, 1, 200_000), randn(1, 1, 1, 200_000, seed=1)
    assert float(blend(eps, other, 0.5).std()) == pytest.approx(math.sqrt(0.5), abs=0.01)
    assert torch.equal(blend(eps, eps, 0.5), eps)


def test_the_noise_is_the_same_at_every_level(pipe):
    run = mix(pipe, IMAGE, "cat", k_min=0, k_max=1, num_inference_steps=N, noise=NOISE, trace=True)
    for step in run.trace:
        alpha_bar = pipe.scheduler.alphas_cumprod[step.timestep]
        assert torch.allclose((step.layout - alpha_bar.sqrt() * run.layout) / (1 - alpha_bar).sqrt(), NOISE, atol=1e-4)


def slow_mix(pipe, x0, prompt, *, K_min, K_max, nu, g, variant):
    """The method sheet's loop, one image and one branch at a time, with DDIM written out."""
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    text = [pipe.text_encoder(pipe.tokenizer(words, padding="max_length", return_tensors="pt").input_ids)[0] for words in ("", prompt)]
    finished = []
    for i in range(len(x0)):
        eps, z = NOISE[i : i + 1], x0[i : i + 1]

        def layout(k, z=z, eps=eps):
            a = alpha_bar[(k - 1) * (1000 // N) + 1]
            return a**0.5 * z + (1 - a) ** 0.5 * eps

        state = layout(K_max)
        for k in range(K_max, 0, -1):
            t = (k - 1) * (1000 // N) + 1
            seen = nu(k) * state + (1 - nu(k)) * layout(k) if variant == "community" and K_min < k < K_max else state
            without, with_prompt = (pipe.unet(seen, t, encoder_hidden_states=words).sample for words in text)
            noise = without + g * (with_prompt - without)
            a, b = alpha_bar[t], alpha_bar[max(0, t - 1000 // N)]
            state = b**0.5 * (state - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - b) ** 0.5 * noise
            if variant == "paper" and k - 1 > K_min:
                state = nu(k - 1) * state + (1 - nu(k - 1)) * layout(k - 1)
        finished.append(state)
    return torch.cat(finished)


@pytest.mark.parametrize("variant", sm.VARIANTS)
def test_against_a_slow_loop(pipe, variant):
    with torch.no_grad():
        x0 = pipe.vae.encode(IMAGE).latent_dist.mean * 0.7
        nu = lambda k: 0.2 + k / 12  # noqa: E731
        expected = slow_mix(pipe, x0, "blue cat", K_min=2, K_max=6, nu=nu, g=3.0, variant=variant)
        found = mix(pipe, IMAGE, "blue cat", k_min=0.2, k_max=0.6, nu=nu, variant=variant, **SHORT)
        assert torch.allclose(found.latents, expected, atol=1e-3, rtol=1e-3)
        assert torch.allclose(found.images, pipe.vae.decode(expected / 0.7).sample.clamp(-1, 1), atol=1e-3)


def test_img2img_against_the_pipeline_of_diffusers(pipe):
    parts = {**pipe.components, "scheduler": ddim(steps_offset=1)}
    theirs = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    options = dict(num_inference_steps=N, guidance_scale=3.0, negative_prompt=["red", ""])
    expected = theirs(["cat", "a dog"], IMAGE / 2 + 0.5, strength=0.6, generator=[seeded(1), seeded(2)], output_type="latent", **options).images
    options |= dict(latent="sample", generator=[seeded(1), seeded(2)])
    assert torch.allclose(img2img(pipe, IMAGE, ["cat", "a dog"], strength=0.6, **options).latents, expected, atol=1e-4)
    options["generator"] = [seeded(1), seeded(2)]
    assert torch.allclose(mix(pipe, IMAGE, ["cat", "a dog"], k_max=0.6, nu=1, **options).latents, expected, atol=1e-4)


def test_generate_against_the_pipeline_of_diffusers(pipe):
    expected = pipe(["cat", "a dog"], latents=NOISE, num_inference_steps=N, guidance_scale=3.0, output_type="latent", height=16, width=32).images
    pipe.scheduler = ddim(steps_offset=1)
    assert torch.allclose(generate(pipe, ["cat", "a dog"], **SHORT).latents, expected, atol=1e-4)
    expected = pipe(["cat"], generator=seeded(3), num_inference_steps=N, output_type="latent").images
    found = generate(pipe, "cat", generator=seeded(3), num_inference_steps=N)
    assert torch.allclose(found.latents, expected, atol=1e-4) and found.images.shape == (1, 3, 16, 16)


def test_nu_as_function_and_as_map(pipe):
    half = mix(pipe, IMAGE, "cat", nu=0.5, **SHORT).latents
    asked = []
    assert torch.equal(mix(pipe, IMAGE, "cat", nu=lambda k: asked.append(k) or 0.5, **SHORT).latents, half)
    assert asked == [5, 4]
    assert torch.allclose(mix(pipe, IMAGE, "cat", nu=torch.full((8, 16), 0.5), **SHORT).latents, half, atol=1e-6)
    each = mix(pipe, IMAGE, "cat", nu=torch.tensor([0.5, 1.0])[:, None, None, None], **SHORT).latents
    assert torch.allclose(each[0], half[0], atol=1e-5)
    assert torch.allclose(each[1], img2img(pipe, IMAGE, "cat", level=6, **SHORT).latents[1], atol=1e-5)
    left = torch.zeros(8, 16)
    left[:, 8:] = 1
    step = mix(pipe, IMAGE, "cat", nu=left, trace=True, **SHORT).trace[1]
    assert torch.equal(step.state[..., :8], step.layout[..., :8]) and torch.equal(step.state[..., 8:], step.content[..., 8:])


def test_nu_multiplies_the_content(pipe):
    step = mix(pipe, IMAGE, "cat", nu=0.9, trace=True, **SHORT).trace[1]
    assert torch.allclose(step.state, 0.9 * step.content + 0.1 * step.layout, atol=1e-5)


def test_the_trace_tells_every_level(pipe):
    for variant in sm.VARIANTS:
        run = mix(pipe, IMAGE, "cat", variant=variant, trace=True, **SHORT)
        assert [step.level for step in run.trace] == [6, 5, 4, 3, 2, 1]
        assert [step.layout is not None for step in run.trace] == [True, True, True, False, False, False]
        assert torch.equal(run.trace[0].state, run.trace[0].layout)
        for step in run.trace:
            assert torch.equal(step.seen, step.state) == (variant == "paper" or step.level not in (5, 4))
            assert torch.equal(step.content, step.state) == (variant == "community" or step.level not in (5, 4))
            assert decode(pipe, step.estimate).shape == (2, 3, 16, 32)
    assert mix(pipe, IMAGE, "cat", **SHORT).trace is None


# ------------------------------------------------------------------------------------------------------- DDIM inversion


@pytest.mark.parametrize("changes", [{}, {"set_alpha_to_one": True}, {"steps_offset": 0}, {"timestep_spacing": "trailing", "steps_offset": 0}])
def test_inversion_lines_up_with_the_sampler(pipe, monkeypatch, changes):
    """A predictor of constant noise goes up and comes down on one chain; both know the same timesteps."""
    pipe.scheduler = ddim(**{"steps_offset": 1, **changes})
    predictor = ideal(pipe, monkeypatch)
    run = mix(pipe, IMAGE, "cat", k_min=0.2, k_max=0.7, layout="ddim_inversion", num_inference_steps=N, trace=True)
    assert predictor.times[:7] == predictor.times[7:][::-1]
    final = pipe.scheduler.final_alpha_cumprod
    clean = (run.layout - (1 - final).sqrt() * NOISE) / final.sqrt()
    for step in run.trace:
        a = pipe.scheduler.alphas_cumprod[step.timestep]
        assert torch.allclose(step.state, a.sqrt() * clean + (1 - a).sqrt() * NOISE, atol=1e-4)
    assert torch.allclose(run.latents, run.layout, atol=1e-4)


def test_inversion_looks_from_below(pipe, monkeypatch):
    """x_k from x_{k-1}, with the noise predicted at t_k, and no guidance."""
    predictor = Predictor(lambda x: 0.5 * x)
    monkeypatch.setattr(pipe.unet, "forward", predictor)
    run = mix(pipe, IMAGE, "cat", k_min=0, k_max=0.3, layout="ddim_inversion", num_inference_steps=N, trace=True)
    state, alpha_bar = run.layout, pipe.scheduler.alphas_cumprod
    for k, t in enumerate((1, 101, 201)):
        assert predictor.times[k] == t and torch.allclose(predictor.inputs[k], state, atol=1e-5)
        a, b = (alpha_bar[t - 100] if t > 100 else pipe.scheduler.final_alpha_cumprod), alpha_bar[t]
        state = b.sqrt() * (state - (1 - a).sqrt() * 0.5 * state) / a.sqrt() + (1 - b).sqrt() * 0.5 * state
    assert torch.allclose(run.trace[0].state, state, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ text-text


@pytest.mark.parametrize("nu", [0, 0.3, 1])
def test_text_mixed_with_itself_is_the_layout(pipe, nu):
    run = mix_text(pipe, "cat", "cat", nu=nu, **SHORT)
    assert torch.allclose(run.latents, run.layout, atol=1e-4)
    assert torch.allclose(run.layout, generate(pipe, "cat", **SHORT).latents, atol=1e-6)


def test_text_mixing_uses_the_states_of_the_layouts_run(pipe):
    drawn = {step.level: step.state for step in generate(pipe, "cat", trace=True, **SHORT).trace}
    run = mix_text(pipe, "cat", "dog", trace=True, **SHORT)
    for step in run.trace[:3]:
        assert torch.equal(step.layout, drawn[step.level])
    assert not torch.allclose(run.latents, run.layout, atol=1e-2)


def test_text_mixing_by_renoising_is_image_text_mixing(pipe):
    eps = randn(2, 4, 8, 16, seed=9)
    run = mix_text(pipe, "cat", "dog", layout_states="renoise", renoise=eps, trace=True, **SHORT)
    for step in run.trace[:3]:
        a = pipe.scheduler.alphas_cumprod[step.timestep]
        assert torch.allclose(step.layout, a.sqrt() * run.layout + (1 - a).sqrt() * eps, atol=1e-5)
    options = dict(num_inference_steps=N, guidance_scale=3.0)
    drawn = mix_text(pipe, "cat", "dog", layout_states="renoise", generator=seeded(4), **options)
    source = seeded(4)
    first, second = (torch.randn(1, 4, 8, 8, generator=source) for _ in range(2))
    given = mix_text(pipe, "cat", "dog", layout_states="renoise", noise=first, renoise=second, **options)
    assert torch.equal(drawn.latents, given.latents)


# ------------------------------------------------------------------------------------------------------- words and maps


def test_weights_of_words_cover_all_their_tokens(pipe):
    def weight(prompt, weights):
        with reweight_words(pipe, prompt, weights) as words:
            return words.weights

    assert weight("a bee cat", {"bee": -1.0}).tolist() == [[1, 1, -1, -1, -1, 1, 1, 1, 1, 1]]
    assert weight("cat a cat", {"cat": 0.5, "a": 2}).tolist() == [[1, 0.5, 2, 0.5, 1, 1, 1, 1, 1, 1]]
    assert weight("a photo of a cat", {"photo of": 0.0}).tolist() == [[1, 1, 0, 0, 1, 1, 1, 1, 1, 1]]
    assert weight(["red cat", "cat"], {"CAT": 2}).tolist() == [[1, 1, 2] + [1] * 7, [1, 2] + [1] * 8]
    assert weight("red cat", [{"red": 2}, {"cat": 3}])[:, :3].tolist() == [[1, 2, 1], [1, 1, 3]]
    assert weight("cat", {}).tolist() == [[1] * 10]


def test_a_row_by_hand():
    words = WordWeights(torch.tensor([[1.0, -1, 1]]), guided=False)
    row = torch.tensor([[[0.2, 0.5, 0.3]]])
    assert words.reweight(row, 1).flatten().tolist() == pytest.approx([0.2, -0.5, 0.3])
    values = torch.tensor([[[1.0], [2], [3]]])
    assert float(row @ values) == pytest.approx(2.1) and float(words.reweight(row, 1) @ values) == pytest.approx(0.1)


def cross_attention(pipe):
    return pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2


def test_cross_attention_by_hand(pipe):
    attn = cross_attention(pipe)
    x, text = randn(4, 6, attn.to_q.in_features), randn(4, 10, 12, seed=1)
    s = torch.tensor([[1.0, -1, 0.5, 2, 0, 1, 1, 1, 1, 1], [1, 1, 1, -2, 1, 1, 3, 1, 1, 1]])
    expected = []
    with torch.no_grad():
        for i in range(4):
            q, k, v = (layer(y).unflatten(-1, (attn.heads, -1)) for layer, y in ((attn.to_q, x[i]), (attn.to_k, text[i]), (attn.to_v, text[i])))
            heads = []
            for h in range(attn.heads):
                scores = (q[:, h] @ k[:, h].T / math.sqrt(q.shape[-1])).exp()
                weighted = scores / scores.sum(-1, keepdim=True) * (s[i - 2] if i >= 2 else 1)
                heads.append(weighted @ v[:, h])
            expected.append(attn.to_out[0](torch.cat(heads, -1)))
        assert torch.allclose(WordWeights(s)(attn, x, text), torch.stack(expected), atol=1e-5)
        plain = attn(x, text)
        assert torch.allclose(plain[:2], torch.stack(expected[:2]), atol=1e-5)  # the unconditional half
        assert torch.allclose(WordWeights(torch.ones(1, 10), guided=False)(attn, x, text), plain, atol=1e-5)
        nothing = WordWeights(torch.zeros(1, 10), guided=False)(attn, x, text)
        assert torch.allclose(nothing, attn.to_out[0].bias.expand_as(nothing), atol=1e-6)
        image = randn(4, attn.to_q.in_features, 2, 3, seed=2)  # four axes
        assert torch.allclose(WordWeights(torch.ones(1, 10))(attn, image, text), attn(image, text), atol=1e-5)


def test_weight_one_changes_nothing_and_others_do(pipe):
    plain = mix(pipe, IMAGE, "red cat", **SHORT).latents
    assert torch.allclose(mix(pipe, IMAGE, "red cat", word_weights={"red": 1, "cat": 1}, **SHORT).latents, plain, atol=1e-4)
    for s in (-1, 0, 2):
        assert (mix(pipe, IMAGE, "red cat", word_weights={"cat": s}, **SHORT).latents - plain).abs().max() > 1e-3


def test_a_unet_call_with_unit_weights(pipe):
    x, text = randn(4, 4, 8, 8), randn(4, 10, 12, seed=1)
    with torch.no_grad():
        plain = pipe.unet(x, 500, encoder_hidden_states=text).sample
        with reweight_words(pipe, "red cat", {"red": 1, "cat": 1}):
            assert torch.allclose(pipe.unet(x, 500, encoder_hidden_states=text).sample, plain, atol=1e-5)
        with reweight_words(pipe, "red cat", {"cat": -1}):
            changed = pipe.unet(x, 500, encoder_hidden_states=text).sample
    assert torch.allclose(changed[:2], plain[:2], atol=1e-5) and (changed[2:] - plain[2:]).abs().max() > 1e-3


def test_only_cross_attention_is_touched_and_everything_comes_back(pipe):
    before = dict(pipe.unet.attn_processors)
    with reweight_words(pipe, "red cat", {"cat": -1}) as words:
        inside = pipe.unet.attn_processors
        for name in before:
            assert inside[name] is (words if "attn2" in name else before[name])
    with pytest.raises(RuntimeError, match="stop"), reweight_words(pipe, "red cat", {"cat": -1}):
        raise RuntimeError("stop")
    assert all(before[name] is processor for name, processor in pipe.unet.attn_processors.items())


def test_everything_comes_back_after_a_failing_run(pipe, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    before = dict(pipe.unet.attn_processors)
    monkeypatch.setattr(pipe.unet, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        mix(pipe, IMAGE, "cat", word_weights={"cat": 2}, **SHORT)
    assert all(before[name] is processor for name, processor in pipe.unet.attn_processors.items())


def test_the_manager_works_around_the_pipeline_itself(pipe):
    options = dict(num_inference_steps=4, guidance_scale=3.0, output_type="latent", latents=NOISE[:, :, :, :8])
    pipe.scheduler = ddim(steps_offset=1)
    with reweight_words(pipe, ["red cat", "cat"], [{"red": 2}, {"cat": -1}]):
        theirs = pipe(["red cat", "cat"], **options).images
    ours = generate(
        pipe, ["red cat", "cat"], word_weights=[{"red": 2}, {"cat": -1}], num_inference_steps=4, guidance_scale=3.0, noise=NOISE[:, :, :, :8]
    ).latents
    assert torch.allclose(theirs, ours, atol=1e-4)


@pytest.mark.parametrize(("guidance_scale", "images"), [(1.0, 2), (1.0, 1), (3.0, 2)])
def test_the_pipelines_call_says_whether_guidance_is_on(guidance_scale, images):
    own = small_models.image_pipeline()

    def drawn(**options):
        with reweight_words(own, "red cat", {"cat": -2}, **options):
            return own("red cat", num_images_per_prompt=images, guidance_scale=guidance_scale, **run).images

    run = dict(num_inference_steps=2, output_type="latent", latents=NOISE[:images, :, :, :8])
    text = dict(num_inference_steps=2, guidance_scale=guidance_scale, noise=NOISE[:images, :, :, :8])
    expected = generate(own, "red cat", word_weights={"cat": -2}, **text).latents
    assert (expected - generate(own, "red cat", **text).latents).abs().amax((1, 2, 3)).min() > 1e-3  # of every picture
    for _ in range(2):  # at the second time the pipeline remembers its first call
        assert torch.allclose(drawn(), expected, atol=1e-4) and torch.allclose(drawn(guided=guidance_scale > 1), expected, atol=1e-4)
    assert own.guidance_scale == guidance_scale
    sentence = f"guided must be {guidance_scale > 1} .or None. for this call of the pipeline, at guidance_scale={guidance_scale}, got {guidance_scale == 1}"
    with pytest.raises(ValueError, match=sentence):
        drawn(guided=guidance_scale == 1)
    x, text = randn(2, 4, 8, 8), randn(2, 10, 12, seed=1)
    with torch.no_grad(), reweight_words(own, "red cat", {"cat": -1}):  # a loop of the reader's own, after that call
        changed = own.unet(x, 500, encoder_hidden_states=text).sample
        with pytest.raises(ValueError, match="guided must be False where the batch has no unconditional half, got True with 1 rows"):
            own.unet(x[:1], 500, encoder_hidden_states=text[:1])
    different = (changed - own.unet(x, 500, encoder_hidden_states=text).sample).abs().amax((1, 2, 3))
    assert different[0] < 1e-5 and different[1] > 1e-3


def test_a_run_inside_the_manager_has_its_guidance_or_is_refused(pipe, monkeypatch):
    run = dict(num_inference_steps=2, noise=NOISE)
    for g, guided in ((3.0, True), (1, False)):
        expected = mix(pipe, IMAGE, "red cat", k_max=1, word_weights={"cat": -1}, guidance_scale=g, **run).latents
        with reweight_words(pipe, "red cat", {"cat": -1}, guided=guided):
            assert torch.allclose(mix(pipe, IMAGE, "red cat", k_max=1, guidance_scale=g, **run).latents, expected, atol=1e-5)
    predictor = ideal(pipe, monkeypatch)
    with reweight_words(pipe, "red cat", {"cat": -1}):
        for refused in (lambda: generate(pipe, "red cat", guidance_scale=1, **run), lambda: mix_text(pipe, "red cat", "cat", guidance_scale=1, **run)):
            with pytest.raises(ValueError, match="guided of reweight_words must be False around a run without guidance, got True: .* by word_weights"):
                refused()
        with pytest.raises(ValueError, match="guided of reweight_words must be False"):  # which the inversion is
            mix(pipe, IMAGE, "red cat", layout="ddim_inversion", num_inference_steps=2)
    with reweight_words(pipe, "red cat", {"cat": -1}, guided=False):
        with pytest.raises(ValueError, match="guided of reweight_words must be True around a run with guidance, got False: .* by word_weights"):
            img2img(pipe, IMAGE, "red cat", level=1, **run)
    assert not predictor.times


def test_words_can_be_weighted_at_some_levels(pipe):
    plain = mix(pipe, IMAGE, "red cat", trace=True, **SHORT)
    late = mix(pipe, IMAGE, "red cat", word_weights={"cat": -1}, word_levels=range(1, 4), trace=True, **SHORT)
    always = mix(pipe, IMAGE, "red cat", word_weights={"cat": -1}, word_levels=range(1, N + 1), **SHORT).latents
    assert torch.allclose(plain.trace[3].state, late.trace[3].state, atol=1e-4)
    assert (plain.latents - late.latents).abs().max() > 1e-3
    assert torch.allclose(always, mix(pipe, IMAGE, "red cat", word_weights={"cat": -1}, **SHORT).latents, atol=1e-6)


def test_removal_is_weight_minus_one(pipe):
    expected = mix(pipe, IMAGE, "a cat", word_weights={"cat": -1}, **SHORT).latents
    assert torch.equal(mix(pipe, IMAGE, "a cat", remove="cat", **SHORT).latents, expected)
    assert torch.equal(mix(pipe, IMAGE, "a", remove="cat", **SHORT).latents, expected)  # named at the end
    alone = mix(pipe, IMAGE, "bee", word_weights={"bee": -1}, **SHORT).latents
    assert torch.equal(mix(pipe, IMAGE, "", remove="bee", **SHORT).latents, alone)
    both = mix(pipe, IMAGE, "", remove=["bee", "cat"], **SHORT).latents
    assert torch.allclose(both[0], alone[0], atol=1e-4)
    assert torch.allclose(both[1], mix(pipe, IMAGE, "cat", word_weights={"cat": -1}, **SHORT).latents[1], atol=1e-4)
    expected = mix(pipe, IMAGE, "a cat", word_weights={"a": 2, "cat": -1}, **SHORT).latents
    assert torch.equal(mix(pipe, IMAGE, "a", remove="cat", word_weights={"a": 2}, **SHORT).latents, expected)


def test_long_prompts_are_cut_with_a_warning(pipe):
    long = "a photo of a red cat a blue dog"  # nine words, eight places
    with pytest.warns(UserWarning, match="longer than 10 tokens, cut off: 'dog"):
        found = mix(pipe, IMAGE, long, **SHORT).latents
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(found, mix(pipe, IMAGE, "a photo of a red cat a blue", **SHORT).latents)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="'dog', which is not a word"):
        mix(pipe, IMAGE, long, word_weights={"dog": 2}, **SHORT)


# ---------------------------------------------------------------------------------------------- batches, seeds, prompts


def test_a_batch_equals_single_runs(pipe):
    options = dict(num_inference_steps=N, guidance_scale=3.0)
    words = [{"cat": -1.0}, {"dog": 2.0}]
    both = mix(pipe, IMAGE, ["a cat", "dog"], word_weights=words, generator=[seeded(1), seeded(2)], latent="sample", **options)
    for i, prompt in enumerate(("a cat", "dog")):
        one = mix(pipe, IMAGE[i : i + 1], prompt, word_weights=words[i], generator=seeded(i + 1), latent="sample", **options)
        assert torch.allclose(both.latents[i], one.latents[0], atol=1e-4) and torch.allclose(both.images[i], one.images[0], atol=1e-4)
    fan = mix(pipe, IMAGE[:1], ["a cat", "dog"], negative_prompt=["", "red"], noise=NOISE[:1], **options)
    for i, (prompt, negative) in enumerate((("a cat", ""), ("dog", "red"))):
        one = mix(pipe, IMAGE[:1], prompt, negative_prompt=negative, noise=NOISE[:1], **options)
        assert torch.allclose(fan.latents[i], one.latents[0], atol=1e-4)
    texts = mix_text(pipe, ["cat", "red"], "dog", noise=NOISE, **options)
    assert torch.allclose(texts.latents[1], mix_text(pipe, "red", "dog", noise=NOISE[1:], **options).latents[0], atol=1e-4)


def test_sixty_images_at_once(pipe):
    run = mix(pipe, pictures(60, 16, 16), "cat", num_inference_steps=4, k_max=0.75, guidance_scale=3.0, generator=seeded())
    assert run.images.shape == (60, 3, 16, 16) and run.images.isfinite().all()


def test_same_seed_same_result_and_no_global_state(pipe):
    before, state, image = pipe.scheduler.timesteps.clone(), torch.get_rng_state(), IMAGE.clone()
    options = dict(num_inference_steps=N, guidance_scale=3.0)
    first, second, other = (mix(pipe, IMAGE, "cat", generator=seeded(seed), **options).latents for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.allclose(first, other, atol=1e-2)
    assert torch.equal(mix(pipe, IMAGE, "cat", noise=torch.randn(NOISE.shape, generator=seeded(1)), **options).latents, first)
    assert torch.equal(pipe.scheduler.timesteps, before) and torch.equal(torch.get_rng_state(), state) and torch.equal(image, IMAGE)


def test_the_scheduler_is_left_alone(pipe):
    pipe.scheduler = ddim(steps_offset=1)
    before = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in vars(pipe.scheduler).items()}
    mix(pipe, IMAGE, "cat", **SHORT)
    mix_text(pipe, "cat", "dog", **SHORT)
    mix(pipe, IMAGE, "cat", num_inference_steps=N, layout="ddim_inversion")
    for name, value in vars(pipe.scheduler).items():
        assert torch.equal(value, before[name]) if isinstance(value, torch.Tensor) else value == before[name]
    assert pipe.scheduler.num_inference_steps is None


def test_guidance_one_ignores_the_other_prompt(pipe):
    options = dict(num_inference_steps=N, noise=NOISE, guidance_scale=1)
    plain = mix(pipe, IMAGE, "cat", **options).latents
    assert torch.equal(mix(pipe, IMAGE, "cat", negative_prompt="blue teapot", **options).latents, plain)
    nearly = mix(pipe, IMAGE, "cat", negative_prompt="blue teapot", num_inference_steps=N, noise=NOISE, guidance_scale=1 + 1e-6).latents
    assert torch.allclose(nearly, plain, atol=1e-3)
    weighted = mix(pipe, IMAGE, "red cat", word_weights={"red": -1}, **options).latents  # without a second half
    assert (weighted - mix(pipe, IMAGE, "red cat", **options).latents).abs().max() > 1e-4
    zero = mix(pipe, IMAGE, "cat", num_inference_steps=N, noise=NOISE, guidance_scale=0).latents
    assert torch.allclose(zero, mix(pipe, IMAGE, "", **options).latents, atol=1e-4)


def test_a_negative_prompt_steers(pipe):
    plain, away = (mix(pipe, IMAGE, "cat", negative_prompt=text, **SHORT).latents for text in ("", "red"))
    assert (plain - away).abs().max() > 1e-3


def test_prompts_can_be_embeddings(pipe):
    plain = img2img(pipe, IMAGE, "cat", level=5, **SHORT).latents
    assert torch.allclose(img2img(pipe, IMAGE, sm.embed(pipe, "cat"), level=5, **SHORT).latents, plain, atol=1e-6)
    ends = [sm.blend_prompts(pipe, "cat", "dog", weight=w) for w in (0, 0.5, 1)]
    assert torch.equal(ends[0], sm.embed(pipe, "cat")) and torch.equal(ends[2], sm.embed(pipe, "dog"))
    assert torch.allclose(ends[1], (ends[0] + ends[2]) / 2, atol=1e-6)
    assert generate(pipe, torch.cat(ends), num_inference_steps=2, noise=NOISE[:1]).images.shape == (3, 3, 16, 32)


# -------------------------------------------------------------------------------------------------- latents and samplers


def test_latents_are_scaled_by_the_pipelines_own_factor(pipe):
    raw = pipe.vae.encode(IMAGE).latent_dist
    assert torch.allclose(encode(pipe, IMAGE), 0.7 * raw.mean, atol=1e-6) and encode(pipe, IMAGE).shape == (2, 4, 8, 16)
    assert torch.allclose(decode(pipe, NOISE), pipe.vae.decode(NOISE / 0.7).sample.clamp(-1, 1), atol=1e-6)
    sampled = encode(pipe, IMAGE, latent="sample", generator=seeded(3))
    assert torch.allclose(sampled, 0.7 * (raw.mean + raw.std * torch.randn(NOISE.shape, generator=seeded(3))), atol=1e-5)
    pipe.vae.register_to_config(scaling_factor=2.0)
    assert torch.allclose(encode(pipe, IMAGE), 2 * raw.mean, atol=1e-6)
    assert torch.allclose(decode(pipe, NOISE), pipe.vae.decode(NOISE / 2).sample.clamp(-1, 1), atol=1e-6)


def test_sizes_and_dtypes_follow(pipe):
    run = mix(pipe, IMAGE.double(), "cat", num_inference_steps=N, noise=NOISE.double())
    assert run.images.shape == IMAGE.shape and run.latents.shape == NOISE.shape and run.latents.dtype == torch.float32
    half = small_models.image_pipeline().to(torch.bfloat16)
    run = mix(half, IMAGE, "red cat", word_weights={"cat": -1}, nu=torch.tensor(0.5), num_inference_steps=4, noise=NOISE)
    assert run.images.dtype == run.latents.dtype == torch.bfloat16 and run.images.isfinite().all()


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", ["LMSDiscrete", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep"])
def test_samplers_with_memory_must_be_allowed(pipe, name):
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    for run in (lambda **options: mix(pipe, IMAGE, "cat", **SHORT, **options), lambda **options: mix_text(pipe, "cat", "dog", **SHORT, **options)):
        with pytest.raises(ValueError, match=f"memory.*{name}Scheduler.*allow_multistep"):
            run()
    allowed = mix(pipe, IMAGE, "cat", nu=1, allow_multistep=True, **SHORT).latents
    assert torch.equal(allowed, img2img(pipe, IMAGE, "cat", level=6, **SHORT).latents)
    assert mix(pipe, IMAGE, "cat", variant="community", **SHORT).latents.isfinite().all()
    with pytest.raises(ValueError, match="scheduler must be a DDIMScheduler"):
        mix(pipe, IMAGE, "cat", layout="ddim_inversion", allow_multistep=True)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", ["EulerDiscrete", "LMSDiscrete", "DPMSolverMultistep", "DEISMultistep", "UniPCMultistep"])
@pytest.mark.parametrize("variant", sm.VARIANTS)
def test_other_samplers_keep_the_chain_too(pipe, monkeypatch, name, variant):
    """With the ideal predictor all come back to x_0, and the U-Net sees the states of DDIM, also where the sampler counts in sigma units."""
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    predictor = ideal(pipe, monkeypatch)
    run = mix(pipe, IMAGE, "cat", nu=0.3, variant=variant, allow_multistep=True, **SHORT)
    left = 0.00085 if name == "DEISMultistep" else 0.0  # DEIS stops at the schedule's first noise level
    assert torch.allclose(run.latents, math.sqrt(1 - left) * run.layout + math.sqrt(left) * NOISE, atol=1e-3)
    for x, t in zip(predictor.inputs, predictor.times):
        a = pipe.scheduler.alphas_cumprod[t]
        assert torch.allclose(x[:2], a.sqrt() * run.layout + (1 - a).sqrt() * NOISE, atol=1e-3)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", ["PNDM", "DDPM", "EulerAncestralDiscrete", "FlowMatchEulerDiscrete", "HeunDiscrete", "LCM"])
def test_samplers_that_do_not_fit_are_refused(pipe, name):
    scheduler = getattr(diffusers, f"{name}Scheduler")
    pipe.scheduler = scheduler() if name == "FlowMatchEulerDiscrete" else scheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=f"scheduler must .*{name}Scheduler.*DDIMScheduler.from_config"):
        mix(pipe, IMAGE, "cat", allow_multistep=True, **SHORT)


def test_a_random_solver_is_refused(pipe):
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="sde-dpmsolver++")
    with pytest.raises(ValueError, match="draw none in a step"):
        mix(pipe, IMAGE, "cat", allow_multistep=True, **SHORT)
    pipe.scheduler = ddim(timestep_spacing="linspace")
    with pytest.raises(ValueError, match="'linspace'"):
        mix(pipe, IMAGE, "cat", layout="ddim_inversion", num_inference_steps=N)


# ------------------------------------------------------------------------------------------------------------ bad input


def broken(value):
    image = IMAGE.clone()
    image[0, 0, 0, 0] = value
    return image


NAN = math.nan
BAD_MIXES = [
    (dict(k_min=-0.1), ValueError, r"k_min must be .* in \[0, 1\], got -0.1"),
    (dict(k_max=1.1), ValueError, r"k_max must be .* in \[0, 1\], got 1.1"),
    (dict(k_min=0.7), ValueError, "k_min must be at most k_max, got k_min=0.7 and k_max=0.6"),
    (dict(k_min=NAN), ValueError, r"k_min must be a number in \[0, 1\], got nan"),
    (dict(k_max="0.6"), TypeError, r"k_max must be a number in \[0, 1\], got '0.6'"),
    (dict(k_min=0, k_max=0.04), ValueError, "k_max=0.04 of num_inference_steps=10 leaves no step"),
    (dict(k_min=0, k_max=0.09, variant="community"), ValueError, "leaves no step"),
    (dict(num_inference_steps=0), ValueError, "num_inference_steps must be a whole number >= 1, got 0"),
    (dict(num_inference_steps=10.0), TypeError, "num_inference_steps must be a whole number >= 1, got 10.0"),
    (dict(num_inference_steps=1001), ValueError, "at most the scheduler's 1000 timesteps, got 1001"),
    (dict(nu=1.01), ValueError, r"nu must be .* in \[0, 1\], got 1.01"),
    (dict(nu=-0.01), ValueError, "nu must be"),
    (dict(nu=NAN), ValueError, r"nu must be a number in \[0, 1\], got nan"),
    (dict(nu=True), TypeError, "nu must be"),
    (dict(nu="half"), TypeError, "nu must be"),
    (dict(nu=None), TypeError, "nu must be"),
    (dict(nu=lambda k: k), ValueError, r"nu\(5\) must be .*got 5"),
    (dict(nu=torch.full((8, 16), 2.0)), ValueError, r"nu must be floating-point numbers .* in \[0, 1\], got values from 2 to 2"),
    (dict(nu=torch.full((8, 16), NAN)), ValueError, "nu must be finite"),
    (dict(nu=torch.ones(8, 16, dtype=torch.long)), TypeError, "nu must be floating-point numbers .*, got int64 tensor"),
    (dict(nu=torch.ones(8, 8)), ValueError, r"nu must broadcast to \(2, 4, 8, 16\), got"),
    (dict(nu=torch.ones(3, 1, 1, 1)), ValueError, r"nu must broadcast to \(2, 4, 8, 16\), got"),
    (dict(nu=torch.ones(1, 2, 4, 8, 16)), ValueError, r"nu must broadcast to \(2, 4, 8, 16\), got"),
    (dict(guidance_scale=NAN), ValueError, "guidance_scale must be"),
    (dict(guidance_scale=-1), ValueError, "guidance_scale must be"),
    (dict(guidance_scale="7.5"), TypeError, "guidance_scale must be"),
    (dict(variant="official"), ValueError, "variant must be one of 'paper', 'community', got 'official'"),
    (dict(layout="image"), ValueError, "layout must be one of"),
    (dict(latent="mode"), ValueError, "latent must be one of"),
    (dict(latent="sample"), ValueError, "latent='sample' needs a generator"),
    (dict(layout="ddim_inversion"), ValueError, "noise has no part in layout='ddim_inversion'"),
    (dict(noise=None), ValueError, "noise needs a generator"),
    (dict(noise=None, generator=0), TypeError, "generator must be a torch.Generator"),
    (dict(noise=None, generator=[seeded()]), ValueError, "one torch.Generator or 2 of them, one an image, got 1"),
    (dict(noise=NOISE[:, :3]), ValueError, r"noise must be \(2, 4, 8, 16\)"),
    (dict(noise=torch.cat([NOISE, NOISE])), ValueError, "noise must be"),
    (dict(noise=NOISE * NAN), ValueError, "noise must be finite"),
    (dict(noise=NOISE.long()), TypeError, "noise must be floating-point numbers .*, got int64 tensor"),
    (dict(noise="random"), TypeError, "noise must be floating-point numbers .*, got 'random'"),
    (dict(image=broken(NAN)), ValueError, "image must be finite"),
    (dict(image=broken(1.5)), ValueError, r"image must be .* in \[-1, 1\], got values from .* to 1.5"),
    (dict(image=IMAGE[0]), ValueError, r"image must be .* \(B, 3, H, W\), got shape \(3, 16, 32\)"),
    (dict(image=IMAGE[:, :1]), ValueError, "image must be"),
    (dict(image=IMAGE[:0]), ValueError, "image must be .* not empty"),
    (dict(image=IMAGE.byte()), TypeError, "image must be floating-point numbers .*, got uint8 tensor"),
    (dict(image="cat.png"), TypeError, "image must be floating-point numbers .*, got 'cat.png'"),
    (dict(image=pictures(2, 16, 24)), ValueError, "image must have .* multiples of 16 pixels .*got 16 x 24"),
    (dict(prompt=3), TypeError, "prompt must be a text"),
    (dict(prompt=[]), ValueError, "prompt must be a text or a list of texts, got 0"),
    (dict(prompt=["cat", 3]), TypeError, "prompt must be a text"),
    (dict(prompt=["cat"] * 3), ValueError, "batch sizes must be 1 or equal, got 2 for image, 3 for prompt"),
    (dict(prompt=torch.zeros(1, 9, 12)), ValueError, r"prompt must be .* \(n, 10, 12\), got shape \(1, 9, 12\)"),
    (dict(prompt=torch.zeros(1, 10, 12), remove="cat"), ValueError, "need a prompt in words"),
    (dict(prompt=torch.full((1, 10, 12), NAN)), ValueError, "prompt must be finite"),
    (dict(negative_prompt=["", "", ""]), ValueError, "batch sizes"),
    (dict(negative_prompt=None), TypeError, "negative_prompt must be a text"),
    (dict(inversion_prompt=2), TypeError, "inversion_prompt must be a text"),
    (dict(word_weights={"dog": 2}), ValueError, "names 'dog', which is not a word .*prompt 'cat'"),
    (dict(prompt="bobcat", word_weights={"cat": 2}), ValueError, "names 'cat', which is not a word"),
    (dict(word_weights={"ca": 2}), ValueError, "names 'ca'"),
    (dict(word_weights={"": 2}), ValueError, "names ''"),
    (dict(word_weights={"cat": NAN}), ValueError, r"word_weights\['cat'\] must be a number, got"),
    (dict(word_weights={"cat": "-1"}), TypeError, r"word_weights\['cat'\] must be a number, got"),
    (dict(word_weights={3: 1.0}), TypeError, "word_weights must have words as text, got 3"),
    (dict(word_weights="cat"), TypeError, "word_weights must be"),
    (dict(word_weights=[{"cat": 1}] * 3), ValueError, "batch sizes"),
    (dict(word_weights="cat", remove="dog"), TypeError, "word_weights must be"),
    (dict(word_weights={"cat": 2}, remove="cat"), ValueError, "remove='cat' is a word that word_weights weights too"),
    (dict(remove=5), TypeError, "remove must be a text"),
    (dict(word_levels=range(3)), ValueError, "word_levels must come together with"),
    (dict(word_weights={"cat": 2}, word_levels=3), TypeError, "word_levels must be a collection of whole numbers >= 1, got 3"),
    (dict(pipe="sd"), TypeError, "pipe must be a StableDiffusionPipeline, got 'sd'"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_MIXES, ids=[",".join(changes) + f"-{i}" for i, (changes, _, _) in enumerate(BAD_MIXES)])
def test_bad_input_is_refused_before_any_work(pipe, monkeypatch, changes, error, message):
    def work(*args, **kwargs):
        raise AssertionError("worked")

    for part in (pipe.unet, pipe.vae.encoder, pipe.text_encoder):
        monkeypatch.setattr(part, "forward", work)
    with pytest.raises(error, match=message):
        mix(**{"pipe": pipe, "image": IMAGE, "prompt": "cat", **SHORT, **changes})


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda pipe: img2img(pipe, IMAGE, "cat", **SHORT), ValueError, "one of level and strength"),
        (lambda pipe: img2img(pipe, IMAGE, "cat", level=3, strength=0.3, **SHORT), ValueError, "one of level and strength"),
        (lambda pipe: img2img(pipe, IMAGE, "cat", level=11, **SHORT), ValueError, r"level must be a whole number in \[1, 10\], got 11"),
        (lambda pipe: img2img(pipe, IMAGE, "cat", level=0, **SHORT), ValueError, "level must be a whole number"),
        (lambda pipe: img2img(pipe, IMAGE, "cat", level=2.0, **SHORT), TypeError, "level must be a whole number"),
        (lambda pipe: img2img(pipe, IMAGE, "cat", strength=1.2, **SHORT), ValueError, "strength must be"),
        (lambda pipe: img2img(pipe, IMAGE, "cat", strength=0.01, **SHORT), ValueError, "strength=0.01 of num_inference_steps=10 leaves no step"),
        (lambda pipe: img2img(pipe, IMAGE, "cat", level=3, nu=0.5, **SHORT), TypeError, "nu"),
        (lambda pipe: generate(pipe, "cat", num_inference_steps=N), ValueError, "noise needs a generator"),
        (lambda pipe: generate(pipe, "cat", noise=NOISE[0]), ValueError, r"noise must be .* \(B, 4, h, w\), got shape \(4, 8, 16\)"),
        (lambda pipe: generate(pipe, "cat", noise=NOISE[:, :3]), ValueError, r"noise must be .* \(B, 4, h, w\), got shape"),
        (lambda pipe: generate(pipe, "cat", noise=NOISE[..., :6]), ValueError, "multiples of 16 pixels"),
        (lambda pipe: generate(pipe, ["cat"] * 3, noise=NOISE), ValueError, "batch sizes"),
        (lambda pipe: mix_text(pipe, "cat", "dog", layout_states="image", **SHORT), ValueError, "layout_states must be one of"),
        (lambda pipe: mix_text(pipe, "cat", "dog", renoise=NOISE, **SHORT), ValueError, "renoise belongs to"),
        (lambda pipe: mix_text(pipe, "cat", "dog", layout_states="renoise", **SHORT), ValueError, "renoise needs a generator"),
        (lambda pipe: mix_text(pipe, 1, "dog", **SHORT), TypeError, "layout_prompt must be a text"),
        (lambda pipe: mix_text(pipe, "cat", "dog", nu=2, **SHORT), ValueError, "nu must be"),
        (lambda pipe: mix_text(pipe, "cat", "dog", k_min=0.9, **SHORT), ValueError, "k_min must be at most"),
        (lambda pipe: encode(pipe, IMAGE, latent="sample"), ValueError, "latent='sample' needs a generator"),
        (lambda pipe: encode(pipe, IMAGE * 2), ValueError, "image must be .* in"),
        (lambda pipe: decode(pipe, NOISE[:, :3]), ValueError, r"latents must be .* \(B, 4, h, w\), got shape \(2, 3, 8, 16\)"),
        (lambda pipe: decode(pipe, NOISE * NAN), ValueError, "latents must be finite"),
        (lambda pipe: sm.blend_prompts(pipe, "cat", "dog", weight=1.5), ValueError, "weight must be"),
        (lambda pipe: sm.blend_prompts(pipe, ["cat", "a"], ["dog"] * 3), ValueError, "batch sizes"),
        (lambda pipe: reweight_words(pipe, "cat", {"dog": 1}), ValueError, "'dog', which is not a word"),
        (lambda pipe: reweight_words("sd", "cat", {"cat": 1}), TypeError, "pipe must be"),
    ],
)
def test_the_relatives_refuse_bad_input(pipe, run, error, message):
    with pytest.raises(error, match=message):
        run(pipe)


def test_weights_that_do_not_fit_the_batch_are_refused(pipe):
    with reweight_words(pipe, ["cat"] * 3, {"cat": 2}):
        with pytest.raises(ValueError, match=r"weights are \(3, 10\), expected \(a divisor of 2 prompts, 10 tokens\)"):
            pipe.unet(randn(4, 4, 8, 8), 500, encoder_hidden_states=randn(4, 10, 12))
        with pytest.raises(TypeError, match="plain cross-attention .* got WordWeights"), reweight_words(pipe, "cat", {"cat": 2}):
            pass


def test_levels_know_what_they_need():
    assert Levels(2, 5).needed == (5, 4, 3) and Levels(5, 5).needed == (5,)


# ------------------------------------------------------------------------------------------------ schedules and devices

LINEAR = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SPACED = {
    "DPMSolverMultistep": ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "euler_at_final"),
    "DEISMultistep": ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    "UniPCMultistep": ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "rescale_betas_zero_snr"),
    "EulerDiscrete": ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "rescale_betas_zero_snr"),
    "LMSDiscrete": ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    "DDIM": ("rescale_betas_zero_snr",),
}


def made(name, steps=None, **options):
    scheduler = getattr(diffusers, f"{name}Scheduler")(**LINEAR, **options)
    if steps:
        scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize(("name", "option"), [(name, option) for name, options in SPACED.items() for option in options])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_the_noise_of_a_level_is_that_of_its_place(name, option, spacing):
    """Rounded timesteps stand twice in some schedules; each place has its own noise, and its share adds up with that of the picture."""
    scheduler = made(name, 50, timestep_spacing=spacing, **{option: True})
    x0, eps = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    noise, kept = (sm.noised_layout(scheduler, *pair, range(1, 51)) for pair in ((x0, eps), (eps, x0)))
    for k in range(1, 51):
        place = 50 - k
        if name == "DDIM":
            sigma = ((1 - scheduler.alphas_cumprod[scheduler.timesteps[place]]) / scheduler.alphas_cumprod[scheduler.timesteps[place]]).sqrt()
        else:
            sigma = scheduler.sigmas[place]
        scale = 1 if name in ("EulerDiscrete", "LMSDiscrete") else (1 + sigma**2).sqrt() if sigma.isfinite() else torch.inf
        share, rest = (1.0 if sigma.isinf() else float(sigma / scale)), float(1 / scale)
        assert noise[k].flatten().tolist() == pytest.approx([share] * 8, abs=1e-5) and kept[k].flatten().tolist() == pytest.approx([rest] * 8, abs=1e-5)
    assert scheduler.num_inference_steps == 50 and getattr(scheduler, "begin_index", None) is None


def test_timesteps_that_stand_twice(pipe):
    pipe.scheduler = made("DPMSolverMultistep", use_karras_sigmas=True)
    fresh = made("DPMSolverMultistep", 50, use_karras_sigmas=True)
    assert len(fresh.timesteps.unique()) < 50
    run = img2img(pipe, IMAGE, "cat", level=3, num_inference_steps=50, guidance_scale=1, noise=NOISE, trace=True)
    sigma = fresh.sigmas[47]
    assert torch.allclose(run.trace[0].state, (run.layout + sigma * NOISE) / (1 + sigma**2).sqrt(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["DDIM", "UniPCMultistep"])
def test_half_precision_keeps_the_noise_of_every_level(dtype, name):
    scheduler = made(name, 50, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    x0, eps = randn(1, 2, 3, 4), randn(1, 2, 3, 4, seed=1)
    exact, half = sm.noised_layout(scheduler, x0, eps, range(1, 51)), sm.noised_layout(scheduler, x0.to(dtype), eps.to(dtype), range(1, 51))
    for k in exact:
        assert half[k].dtype == dtype and torch.allclose(half[k].float(), exact[k], atol=0.02)


REFUSED = [
    ("DPMSolverMultistep", dict(use_flow_sigmas=True, prediction_type="flow_prediction"), 10, "without flow matching.*use_flow_sigmas=True"),
    ("UniPCMultistep", dict(use_flow_sigmas=True, prediction_type="flow_prediction"), 10, "without flow matching.*use_flow_sigmas=True"),
    ("UniPCMultistep", dict(use_dynamic_shifting=True), 10, "use_dynamic_shifting=True"),
    ("UniPCMultistep", dict(predict_x0=False), 10, "divides by zero"),
    ("DEISMultistep", dict(prediction_type="flow_prediction"), 10, "prediction_type='flow_prediction'"),
    ("LMSDiscrete", dict(prediction_type="sample"), 10, "prediction_type='sample'"),
    ("EulerDiscrete", dict(interpolation_type="log_linear"), 10, "steps of equal noise"),
    ("DPMSolverMultistep", dict(lambda_min_clipped=-2.0, timestep_spacing="trailing"), 10, "one timestep a step, got 9"),
    ("DDIM", dict(steps_offset=1), 1000, "num_inference_steps=1000 takes the scheduler to timestep 1000, beyond its last, 999"),
    ("EulerDiscrete", dict(steps_offset=1, timestep_spacing="leading"), 1000, "num_inference_steps=1000 .* timestep 1000"),
    ("DPMSolverMultistep", dict(timestep_spacing="leading"), 1000, "num_inference_steps=1000 gives the scheduler steps of equal noise"),
    ("DPMSolverMultistep", {}, 1000, "num_inference_steps=1000 gives the scheduler steps of equal noise"),
    ("DDIM", dict(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 10, "nothing but noise"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "steps", "message"), REFUSED)
def test_schedules_that_do_not_fit_are_refused_before_any_work(pipe, monkeypatch, name, options, steps, message):
    pipe.scheduler = made(name, **options)
    monkeypatch.setattr(pipe.text_encoder, "forward", None)
    with pytest.raises(ValueError, match=message):
        generate(pipe, "cat", num_inference_steps=steps, noise=NOISE)


def test_a_schedule_that_begins_in_pure_noise_serves_where_that_is_no_division(pipe):
    options = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False)
    pipe.scheduler = made("DDIM", **options)
    assert mix(pipe, IMAGE, "cat", **SHORT).latents.isfinite().all()  # from level 6 of 10
    pipe.scheduler = made("DDIM", prediction_type="v_prediction", **options)
    assert generate(pipe, "cat", **SHORT).latents.isfinite().all()


def test_as_many_steps_as_the_schedule_has(pipe, monkeypatch):
    ideal(pipe, monkeypatch)
    pipe.scheduler = ddim()
    assert len(generate(pipe, "cat", num_inference_steps=1000, noise=NOISE, guidance_scale=1, trace=True).trace) == 1000


def every_scheduler():
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    found = (getattr(diffusers, name, None) for name in dir(diffusers) if name.endswith("Scheduler"))
    return [one for one in found if isinstance(one, type) and issubclass(one, SchedulerMixin)]


@pytest.mark.filterwarnings("ignore")
def test_every_other_scheduler_is_refused_by_name(pipe):
    refused = [one for one in every_scheduler() if not issubclass(one, (*attach.ONE_STEP, *attach.MULTISTEP))]
    assert len(refused) >= 15
    for one in refused:
        try:
            pipe.scheduler = one()
        except (TypeError, ValueError, ImportError):
            continue
        with pytest.raises(ValueError, match=f"scheduler must .*{one.__name__}.*DDIMScheduler.from_config"):
            mix(pipe, IMAGE, "cat", allow_multistep=True, **SHORT)


def test_a_used_scheduler_is_refused():
    scheduler = made("EulerDiscrete", 5)
    start, text = randn(1, 1, 2, 2), torch.zeros(1, 3, 2)
    denoise(Predictor(lambda x: x), scheduler, start, text, level=2, guidance_scale=1)
    for run in (lambda: denoise(Predictor(lambda x: x), scheduler, start, text, level=2), lambda: sm.noised_layout(scheduler, start, start, [1])):
        with pytest.raises(ValueError, match="scheduler must be fresh, got a EulerDiscreteScheduler that has taken steps"):
            run()
    with pytest.raises(ValueError, match="timesteps set, got a EulerDiscreteScheduler before set_timesteps"):
        sm.noised_layout(made("EulerDiscrete"), start, start, [1])


TWO = dict(num_inference_steps=2)
EVERYTHING = {
    "mix": lambda pipe: mix(pipe, IMAGE, "red cat", k_min=0, k_max=1, generator=seeded(),
        latent="sample", word_weights={"cat": 2}, nu=torch.full((8, 16), 0.4), **TWO),
    "inversion": lambda pipe: mix(pipe, IMAGE, "cat", k_min=0, layout="ddim_inversion", **TWO),
    "img2img": lambda pipe: img2img(pipe, IMAGE, "cat", level=1, generator=[seeded(1), seeded(2)], **TWO),
    "generate": lambda pipe: generate(pipe, sm.blend_prompts(pipe, "cat", "dog"), generator=(seeded(1),), **TWO),
    "mix_text": lambda pipe: mix_text(pipe, "cat", "dog", layout_states="renoise", generator=seeded(), k_min=0, **TWO),
    "decode": lambda pipe: (decode(pipe, encode(pipe, IMAGE)),),
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(shared):
    return {name: call(shared)[0] for name, call in EVERYTHING.items()}


@pytest.mark.parametrize(("offload", "name"), [*(("model", name) for name in EVERYTHING), *((one, "mix") for one in ("all of it", *list(offloads)[1:]))])
def test_everything_works_where_the_pipeline_executes(expected, offload, name):
    pipe = small_models.image_pipeline()
    with Accelerator():
        pipe = pipe.to(DEVICE) if offload == "all of it" else offloads[offload](pipe)
        found = near(EVERYTHING[name](pipe)[0])
    assert torch.allclose(found, expected[name], atol=1e-4)


def test_tensors_may_lie_anywhere(pipe):
    far, known = small_models.image_pipeline(), mix(pipe, IMAGE, "cat", nu=0.3, k_min=0, k_max=1, noise=NOISE, **TWO).images
    with Accelerator():
        far = far.to(DEVICE)
        image, noise = IMAGE.to(DEVICE), NOISE.to(DEVICE)
        for nu in (torch.full((8, 16), 0.3), torch.full((8, 16), 0.3).to(DEVICE)):
            found = mix(far, image, sm.embed(far, "cat"), nu=nu, k_min=0, k_max=1, noise=noise, **TWO)
            assert torch.allclose(near(found.images), known, atol=1e-4)
        assert torch.allclose(near(mix(pipe, image, "cat", nu=0.3, k_min=0, k_max=1, noise=noise, **TWO).images), known, atol=1e-4)
        assert torch.equal(near(blend(noise, NOISE, 0.3)), NOISE)


def test_models_go_back_after_a_run(pipe, monkeypatch):
    calls = []
    monkeypatch.setattr(type(pipe), "maybe_free_model_hooks", lambda self: calls.append(1))
    mix(pipe, IMAGE, "cat", **SHORT)
    assert calls == [1]


RUNS = {
    "encode": lambda pipe: encode(pipe, IMAGE),
    "decode": lambda pipe: decode(pipe, NOISE),
    "embed": lambda pipe: sm.embed(pipe, "cat"),
    "blend_prompts": lambda pipe: sm.blend_prompts(pipe, "cat", "dog"),
    "generate": lambda pipe: generate(pipe, "cat", noise=NOISE, **TWO),
    "img2img": lambda pipe: img2img(pipe, IMAGE, "cat", level=1, noise=NOISE, **TWO),
    "mix_text": lambda pipe: mix_text(pipe, "cat", "dog", noise=NOISE, **TWO),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("fails", [False, True])
def test_no_part_stays_on_the_accelerator(name, fails):
    own = small_models.image_pipeline()
    with Accelerator():
        own = offloads["model"](own)
        if fails:  # what comes out of the U-Net, or out of the one part that is asked, is no number, or nothing
            part = {"encode": own.vae.encoder, "decode": own.vae.decoder, "embed": own.text_encoder, "blend_prompts": own.text_encoder}.get(name, own.unet)
            part.register_forward_hook(lambda module, args, found: (found[0] * NAN,) if module is own.unet else 1 / 0)
            with pytest.raises(ValueError if part is own.unet else ZeroDivisionError, match="latents must be finite|division by zero"):
                RUNS[name](own)
        else:
            RUNS[name](own)
        assert {str(p.device) for part in (own.vae, own.unet, own.text_encoder) for p in part.parameters()} == {"cpu"}


DEMANDING = {
    "time_cond_proj_dim": dict(time_cond_proj_dim=8), "in_channels=9 instead of 4": dict(in_channels=9), "in_channels=8 instead of 4": dict(in_channels=8),
    "num_class_embeds": dict(num_class_embeds=3), "class_embed_type": dict(class_embed_type="timestep"),
    "addition_embed_type": dict(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=24),
    "encoder_hid_dim_type": dict(encoder_hid_dim_type="text_proj", encoder_hid_dim=12),
}  # fmt: skip


@pytest.mark.parametrize("what", DEMANDING)
def test_unets_that_want_more_than_a_text_are_refused_before_any_work(what, monkeypatch):
    own, plain = small_models.image_pipeline(), small_models.image_pipeline()
    config = {key: value for key, value in own.unet.config.items() if not key.startswith("_")}
    own.register_modules(unet=diffusers.UNet2DConditionModel(**{**config, **DEMANDING[what]}).eval())
    assert torch.equal(decode(own, encode(own, IMAGE)), decode(plain, encode(plain, IMAGE)))  # the autoencoder's work alone
    with reweight_words(own, "red cat", {"cat": 2}) as words:  # the pipeline itself says how it is run
        assert words.weights[0, 2] == 2
    for part, name in ((own.text_encoder, "forward"), (own.vae, "encode"), (own.unet, "forward")):
        monkeypatch.setattr(part, name, lambda *args, **kwargs: pytest.fail("work was done"))
    for run in (
        lambda: mix(own, IMAGE, "cat", **SHORT), lambda: img2img(own, IMAGE, "cat", level=1, **SHORT), lambda: generate(own, "cat", **SHORT),
        lambda: mix_text(own, "cat", "dog", **SHORT),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^pipe must have a U-Net that takes latents, a timestep and a text, got one with {what}$"):
            run()
    with pytest.raises(ValueError, match=f"^unet must be a U-Net that takes latents, a timestep and a text, got one with {what}$"):
        denoise(own.unet, made("DDIM", 4), NOISE, torch.zeros(4, 10, 12), level=1)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_data_parallel_parts_are_refused_with_what_to_do(name):
    own = small_models.image_pipeline()
    setattr(own, name, torch.nn.DataParallel(getattr(own, name)))
    sentence = rf"^pipe must have its {name} without DataParallel; give what it wraps: pipe\.{name} = pipe\.{name}\.module$"
    for run in (*RUNS.values(), lambda pipe: mix(pipe, IMAGE, "cat", **SHORT), lambda pipe: reweight_words(pipe, "cat", {"cat": 2})):
        with pytest.raises(TypeError, match=sentence):
            run(own)
    setattr(own, name, getattr(own, name).module)
    assert torch.equal(RUNS["img2img"](own).images, RUNS["img2img"](small_models.image_pipeline()).images)


def test_a_generator_must_lie_where_it_can_draw(pipe, monkeypatch):
    class Elsewhere(torch.Generator):
        device = torch.device("cuda")

    for given in (Elsewhere(), [seeded(), Elsewhere()]):
        with pytest.raises(ValueError, match="generator must lie on the CPU or where the pipeline executes .cpu., got"):
            generate(pipe, ["cat", "dog"], generator=given, num_inference_steps=2)


def test_a_list_or_tuple_of_generators_is_one_an_image(pipe):
    options = dict(num_inference_steps=2, guidance_scale=1)
    found = [generate(pipe, ["cat", "dog"], generator=kind(seeded(k) for k in (1, 2)), **options).latents for kind in (list, tuple)]
    assert torch.equal(*found) and torch.allclose(found[0][1], generate(pipe, "dog", generator=seeded(2), **options).latents[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_from_end_to_end(expected, dtype):
    half = small_models.image_pipeline().to(dtype)
    for name, call in EVERYTHING.items():
        found = call(half)[0]
        assert found.dtype == dtype and torch.allclose(found.float(), expected[name], atol=0.3), name


def test_what_overflows_is_not_handed_on(pipe, monkeypatch):
    monkeypatch.setattr(pipe.unet, "forward", Predictor(lambda x: x * NAN))
    with pytest.raises(ValueError, match="latents must be finite .* got NaN"):
        generate(pipe, "cat", **SHORT)


# ---------------------------------------------------------------------------------------------------- kinds of arguments


def test_arrays_come_back_as_arrays(pipe):
    image, noise = IMAGE.numpy(), NOISE.numpy().astype(">f8")[::-1][::-1]
    found, known = (mix(pipe, x, "cat", nu=nu, num_inference_steps=4, noise=eps, trace=True) for x, eps, nu in ((image, noise, [[0.3]]), (IMAGE, NOISE, 0.3)))
    assert all(isinstance(part, np.ndarray) for part in (*found[:3], found.trace[0].state)) and isinstance(found.levels, Levels)
    assert np.allclose(found.images, known.images.numpy(), atol=1e-5) and found.trace[0].level == known.trace[0].level
    assert isinstance(mix(pipe, IMAGE, "cat", num_inference_steps=4, noise=noise).images, torch.Tensor)  # the image decides
    assert isinstance(generate(pipe, "cat", num_inference_steps=2, noise=noise).images, np.ndarray)
    assert isinstance(generate(pipe, sm.embed(pipe, "cat").numpy(), num_inference_steps=2, noise=NOISE).images, np.ndarray)
    text = sm.embed(pipe, ["cat", "dog"])
    for same in (text.numpy(), text.tolist(), list(text), text.double()):
        assert np.allclose(
            generate(pipe, same, num_inference_steps=2, noise=NOISE).images, generate(pipe, text, num_inference_steps=2, noise=NOISE).images, atol=1e-4
        )
    assert isinstance(blend(image, IMAGE, 0.5), np.ndarray) and blend(image.astype(np.float64), IMAGE, 0.5).dtype == np.float64
    half = small_models.image_pipeline().to(torch.bfloat16)
    assert encode(half, image).dtype == np.float32 and decode(half, encode(half, image)).shape == image.shape
    states = []
    steps = ddim(steps_offset=1)
    steps.set_timesteps(4)
    out = denoise(pipe.unet, steps, noise, text.numpy(), level=2, guidance_scale=1, layout={1: noise}, nu={1: 0.5}, callback=states.append)
    assert isinstance(out, np.ndarray) and isinstance(states[0].state, np.ndarray) and [step.level for step in states] == [2, 1]


def test_masked_arrays_are_refused_and_rare_dtypes_are_taken_or_named(pipe):
    hidden = np.ma.masked_less(IMAGE.numpy(), 0)
    for given in (hidden, list(hidden)):
        with pytest.raises(ValueError, match=rf"^image must be .*, got an array with {int((IMAGE < 0).sum())} masked entries: fill them, or leave"):
            encode(pipe, given)
    with pytest.raises(TypeError, match=r"nu must be a number in \[0, 1\]"):
        blend(IMAGE, IMAGE, np.ma.masked)
    assert np.array_equal(blend(np.ma.masked_array(IMAGE.numpy()), NOISE[:2, :3].numpy()[:, :, :1, :1] + 0 * IMAGE.numpy(), 1), IMAGE.numpy())
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        for weights in (torch.tensor([[1, 500]]).to(dtype), torch.tensor([[1, 500]]).to(dtype).numpy()):
            assert WordWeights(weights, guided=False).reweight(torch.ones(1, 1, 2), 1).tolist() == [[[1.0, 500.0]]]
    for weights in (torch.tensor([[1, -1]]).view(torch.uint64), np.array([[1, 2**64 - 1]], np.uint64)):
        with pytest.raises(ValueError, match=r"weights must be numbers \(n, L\) below 2\*\*63, got uint64 .* with more in it"):
            WordWeights(weights)
    with pytest.raises(TypeError, match="image must be floating-point numbers .* of 16 bits or more, got float8_e4m3fn tensor of shape"):
        encode(pipe, IMAGE.to(torch.float8_e4m3fn))


def test_texts_may_be_arrays_of_texts(pipe):
    known = mix(pipe, IMAGE, ["cat", "dog"], **SHORT).latents
    for texts in (("cat", "dog"), np.array(["cat", "dog"]), pd.Series(["cat", "dog"], index=[7, 9])):
        assert torch.equal(mix(pipe, IMAGE, texts, **SHORT).latents, known)


def test_no_gradient_and_no_change_comes_of_a_run(pipe):
    image, noise = IMAGE.clone().requires_grad_(), NOISE.clone().requires_grad_()
    run = mix(pipe, image, "cat", num_inference_steps=4, noise=noise, trace=True)
    assert not any(x.requires_grad for x in (*run[:3], run.trace[0].layout)) and torch.equal(image, IMAGE) and torch.equal(noise, NOISE)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda pipe: blend(NOISE, NOISE, 1.5), ValueError, r"nu must be a number in \[0, 1\], got 1.5"),
        (lambda pipe: blend(NOISE, NOISE[:1], 0.5), ValueError, r"layout must have the shape of content, \(2, 4, 8, 16\), got \(1, 4, 8, 16\)"),
        (lambda pipe: blend(NOISE.long(), NOISE, 0.5), TypeError, "content must be floating-point numbers"),
        (lambda pipe: blend(NOISE, NOISE * NAN, 0.5), ValueError, "layout must be finite .*, got NaN in it"),
        (lambda pipe: blend(NOISE.to("meta"), NOISE, 0.5), TypeError, "content must be .* without numbers"),
        (lambda pipe: blend(NOISE, NOISE.to_sparse(), 0.5), TypeError, "layout must be"),
        (lambda pipe: blend(NOISE, NOISE, torch.tensor(0.5, device="meta")), TypeError, "nu must be a number"),
        (lambda pipe: mix(pipe, IMAGE, "cat", word_weights={"cat": 2}, word_levels=[7, 8], **SHORT),
            ValueError, r"word_levels must hold a level that is run, 1 to 6, got \[7, 8\]"),
        (lambda pipe: mix(pipe, IMAGE, "cat", word_weights={"cat": 2}, word_levels=[0, 1], **SHORT),
            ValueError, "word_levels must be a whole number >= 1, got 0"),
        (lambda pipe: mix(pipe, IMAGE, "cat", word_weights={"cat": 2}, word_levels=[], **SHORT),
            ValueError, r"word_levels must be a collection of whole numbers >= 1, got \[\]"),
        (lambda pipe: mix(pipe, IMAGE, "cat", word_weights={"cat": 2}, word_levels=iter([1]), **SHORT), TypeError, "word_levels must be"),
        (lambda pipe: mix(pipe, IMAGE, "cat", remove="", **SHORT), ValueError, "remove must name a word, got ''"),
        (lambda pipe: mix(pipe, IMAGE, "a photo of a red cat a", remove="blue dog", **SHORT), ValueError, "remove='blue dog' has no place"),
        (lambda pipe: mix(pipe, IMAGE, "cat", trace="no", **SHORT), TypeError, "trace must be True or False, got 'no'"),
        (lambda pipe: mix(pipe, IMAGE, "cat", allow_multistep=1, **SHORT), TypeError, "allow_multistep must be True or False, got 1"),
        (lambda pipe: mix(pipe, IMAGE, {"cat": 1}, **SHORT), TypeError, "prompt must be a text or a list of texts"),
        (lambda pipe: generate(pipe, "cat", trace=None, **SHORT), TypeError, "trace must be"),
        (lambda pipe: generate(pipe, "cat", noise=NOISE, generator=(one for one in [seeded()])),
            TypeError, "generator must be a torch.Generator or a list of 2"),
        (lambda pipe: reweight_words(pipe, "cat", {"cat": 1}, guided="yes"), TypeError, "guided must be True or False, got 'yes'"),
        (lambda pipe: reweight_words(pipe, "cat", [3]), TypeError, r"weights must be \{word: weight\}"),
        (lambda pipe: sm.noised_layout(made("DDIM", 10), NOISE, NOISE, [0]), ValueError, r"wanted must be a whole number in \[1, 10\], got 0"),
        (lambda pipe: sm.noised_layout(made("DDIM", 10), NOISE, NOISE[:1], [1]), ValueError, r"noise must be .* \(2, 4, 8, 16\), got shape"),
        (lambda pipe: sm.noised_layout(made("DDIM", 10), NOISE.int(), NOISE, [1]), TypeError, "x0 must be floating-point"),
        (lambda pipe: sm.noised_layout("ddim", NOISE, NOISE, [1]), TypeError, "scheduler must .*, got 'ddim'"),
        (lambda pipe: encode(pipe, IMAGE, latent="Mean"), ValueError, "latent must be one of 'mean', 'sample', got 'Mean'"),
        (lambda pipe: encode(pipe, IMAGE, generator=3), TypeError, "generator must be"),
        (lambda pipe: sm.embed("sd", "cat"), TypeError, "pipe must be"),
        (lambda pipe: sm.blend_prompts(pipe, "cat", 3), TypeError, "second must be a text"),
        (lambda pipe: WordWeights(torch.ones(3)), ValueError, r"weights must be .* \(n, L\), got shape \(3,\)"),
    ],
)  # fmt: skip
def test_more_bad_input_is_refused_by_name(pipe, run, error, message):
    with pytest.raises(error, match=message):
        run(pipe)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(level=-2), ValueError, r"level must be a whole number in \[1, 10\], got -2"), (dict(level=11), ValueError, "level must be"),
        (dict(variant="papr"), ValueError, "variant must be one of 'paper', 'community', got 'papr'"), (dict(guidance_scale=-1), ValueError, "guidance_scale"),
        (dict(embeds=torch.zeros(1, 3, 2)), ValueError, r"embeds must be .* \(2, L, D\), got shape \(1, 3, 2\)"), (dict(unet=None), TypeError, "unet must be"),
        (dict(start=torch.zeros(2, 2)), ValueError, "start must be"), (dict(nu={2: 0.5}),
            ValueError, "layout must have a state for every level of nu, got none for 2"),
        (dict(nu={2: 1.5}, layout={2: torch.zeros(1, 1, 2, 2)}),
            ValueError, r"nu\[2\] must be a number in \[0, 1\]"), (dict(nu=0.5), TypeError, "nu must be a mapping"),
        (dict(nu={4: 0.5}, layout={4: torch.zeros(1, 1, 2, 2)}), ValueError, r"nu must be a whole number in \[1, 3\], got 4"),
        (dict(layout={2: torch.zeros(1, 1, 2, 3)}), ValueError, r"layout\[2\] must be"), (dict(layout={"2": 1}), TypeError, "layout must be a whole number"),
        (dict(words={"cat": 2}), TypeError, "words must be WordWeights or None"), (dict(callback=3), TypeError, "callback must be a function"),
        (dict(scheduler=diffusers.HeunDiscreteScheduler()), ValueError, "scheduler must .*HeunDiscreteScheduler"),
    ],
)  # fmt: skip
def test_the_loop_refuses_bad_input(changes, error, message):
    unet = Predictor(lambda x: x)
    valid = dict(unet=unet, scheduler=made("DDIM", 10), start=torch.zeros(1, 1, 2, 2), embeds=torch.zeros(2, 3, 2), level=3)
    denoise(**valid)
    calls = len(unet.times)
    with pytest.raises(error, match=message):
        denoise(**valid | changes)
    assert calls == 3 == len(unet.times)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 8), (2, 8, 3, 2)])
@pytest.mark.parametrize("text", [None, (2, 5, 4)])
def test_weights_of_one_leave_an_attention_layer_as_diffusers_computes_it(shape, text, residual):
    """Tokens and maps (B, C, h, w), with and without a text, group norm and residual."""
    torch.manual_seed(0)
    layer = diffusers.models.attention_processor.Attention(
        8, None if text is None else 4, heads=2, dim_head=4, norm_num_groups=2, residual_connection=residual, rescale_output_factor=1.5
    ).eval()
    states, words = torch.randn(shape), None if text is None else torch.randn(text)
    layer.set_processor(diffusers.models.attention_processor.AttnProcessor())
    plain = layer(states, words)
    layer.set_processor(WordWeights(torch.ones(2, 5), guided=False))
    assert torch.equal(layer(states, words), plain)
    layer.set_processor(WordWeights(torch.full((2, 5), 0.5), guided=False))
    assert torch.equal(layer(states, words), plain) == (text is None)
