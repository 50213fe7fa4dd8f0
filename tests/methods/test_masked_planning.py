"""Masked planning: what the paper's section 3 says must hold, by hand or by slow loops, and bad arguments."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, HeunDiscreteScheduler, PNDMScheduler

from helpers.methods import masked_planning as mp
from helpers.methods.masked_planning import networks, planning
from tests.accelerator import DEVICE, Accelerator, near, offloads

torch.set_num_threads(1)
FRAMES = 5


def small(position="table", mixer="temporal", identity="token", vae=None, seed=0, **options):
    """A pipeline of two tiny networks whose zero-initialised parts are shaken, so that every path carries something."""
    torch.manual_seed(seed)
    planner = mp.Planner(in_channels=3, height=4, width=4, patch=2, frames=FRAMES, dim=16, depth=2, heads=2, mlp_dim=24, identity=identity, position=position)
    generator = mp.Generator(in_channels=3, height=8, width=8, patch=2, frames=FRAMES, dim=16, depth=2, heads=2, mlp_dim=24, plan_dim=16, plan_tokens=4,
                             mixer=mixer, identity=identity, position=position, **options)  # fmt: skip
    for p in generator.parameters():
        if p.abs().sum() == 0:
            torch.nn.init.normal_(p, std=0.2)
    return mp.MarDiniPipeline(planner.eval(), generator.eval(), mp.make_scheduler(), vae)


def video(clips=2, frames=FRAMES, seed=0, side=8):
    return torch.rand(clips, frames, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------- references and curriculum


def test_references_of_every_task():
    assert mp.references("interpolation", 5).tolist() == [True, False, False, False, True]
    assert mp.references("image-to-video", 4).tolist() == [True, False, False, False]
    assert mp.references("last frame", 3).tolist() == [False, False, True]
    assert mp.references("middle frame", 9).nonzero().tolist() == [[4]]
    assert mp.references("expansion", 5, count=3).tolist() == [True, True, True, False, False]
    assert mp.chosen([3, 0], 5).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(("frames", "ratios", "counts"), [(17, (0.06, 0.3), (1, 5)), (9, (0.15, 0.6), (1, 5)), (9, (0.35, 1), (3, 8)), (4, (0.65, 1), (3, 3))])
def test_reference_counts_of_the_curriculum(frames, ratios, counts):
    drawn = mp.draw_references(10_000, frames, ratios, torch.Generator().manual_seed(0)).sum(1)
    assert (int(drawn.min()), int(drawn.max())) == counts
    assert (planning.reference_count(ratios[0], frames), planning.reference_count(ratios[1], frames)) == counts


def test_two_frames_are_enough():
    assert planning.reference_count(0.0, 2) == planning.reference_count(1.0, 2) == 1 and mp.draw_references(3, 2, (0, 1)).sum(1).tolist() == [1, 1, 1]
    assert mp.references("image-to-video", 2).tolist() == [True, False]


def test_references_are_drawn_evenly():
    drawn = mp.draw_references(20_000, 10, (0.2, 0.6), torch.Generator().manual_seed(0)).double()
    assert drawn.mean().item() == pytest.approx(0.4, abs=0.004) and (drawn.mean(0) - 0.4).abs().max() < 0.02
    assert torch.equal(mp.draw_references(8, 9, (0.3, 0.3), torch.Generator().manual_seed(3)).sum(1), torch.full((8,), 3))


def test_the_curriculum_goes_from_easy_to_hard():
    stages = list(mp.CURRICULUM.values())
    assert [s.trained for s in stages] == ["planner", "generator", "generator", "generator", "both", "both", "both"]
    lows = [s.ratios[0] for s in stages]
    assert lows == sorted(lows, reverse=True) and stages[-1].mixer == "temporal" and sum(s.clips for s in stages) == 495e6


# ----------------------------------------------------------------------------------------------------------------- identity attention


def test_identity_mask_by_hand():
    is_ref = torch.tensor([[True, False, False]])
    assert mp.identity_mask(is_ref).int().tolist() == [[[1, 0, 0], [1, 1, 1], [1, 1, 1]]]
    two = torch.tensor([[True, False]])
    assert mp.identity_mask(two, 2, "token").int().tolist() == [[[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]]
    assert mp.identity_mask(two, 2, "frame").int().tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]]
    assert mp.identity_mask(two, 2, None) is None
    assert mp.identity_mask(torch.zeros(1, 3, dtype=torch.bool)).all()


def test_a_reference_token_returns_its_own_value():
    torch.manual_seed(0)
    attention, x = networks.Attention(8, 2), torch.randn(1, 4, 8)
    mask = mp.identity_mask(torch.tensor([[False, True, False, False]]))
    out = attention(x, mask=mask)
    assert torch.allclose(out[0, 1], attention.to_out(attention.to_v(x)[0, 1]), atol=1e-6)
    other = x.clone()
    other[0, [0, 2, 3]] += 1
    moved = attention(other, mask=mask)
    assert torch.equal(moved[0, 1], out[0, 1]) and not torch.allclose(moved[0, 0], out[0, 0])
    nothing_known = mp.identity_mask(torch.zeros(1, 4, dtype=torch.bool))
    assert torch.allclose(attention(x, mask=nothing_known), attention(x), atol=1e-6)


@pytest.mark.parametrize("position", networks.POSITIONS)
def test_the_plan_of_a_reference_depends_on_that_frame_alone(position):
    pipe, clip, is_ref = small(position), video(side=4), mp.references("interpolation", FRAMES)
    plan = pipe.planner(clip, is_ref)
    other = clip.clone()
    other[:, 4] = 0.3  # the other reference
    moved = pipe.planner(other, is_ref)
    assert torch.equal(moved[:, 0], plan[:, 0]) and not torch.allclose(moved[:, 2], plan[:, 2])
    plain = small(position, identity=None).planner
    assert not torch.allclose(plain(clip, is_ref)[:, 0], plain(other, is_ref)[:, 0])


@pytest.mark.parametrize("mixer", networks.MIXERS)
@pytest.mark.parametrize("position", networks.POSITIONS)
def test_no_masked_content_enters_a_reference_token(mixer, position):
    pipe, clip, is_ref = small(position, mixer), video(), mp.chosen([1], FRAMES)
    out = pipe.generator(clip, torch.tensor(500), is_ref)
    other = clip.clone()
    other[:, [0, 2, 3, 4]] += 1
    moved = pipe.generator(other, torch.tensor(500), is_ref)
    assert torch.equal(moved[:, 1], out[:, 1]) and not torch.allclose(moved[:, 2], out[:, 2])


# ------------------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("position", networks.POSITIONS)
def test_patches_and_back(position):
    layout = networks.Frames(3, 6, 4, 2, FRAMES, 8, 2, position)
    clip = video(side=6)[..., :4]
    patches = layout.patches(clip)
    assert patches.shape == (2, FRAMES, 6, 12) and torch.equal(layout.picture(patches), clip)
    assert torch.equal(patches[0, 1, 3], clip[0, 1, :, 2:4, 2:4].flatten())  # second row, second column
    tokens = torch.randn(2, FRAMES, 6, 8)
    laid = layout(tokens)
    assert laid.shape[2] == layout.tokens == (6 if position == "table" else 9)
    if position == "rope+next":
        assert torch.equal(layout.pick(laid), tokens) and torch.equal(laid[0, 0, 2], layout.next) and torch.equal(laid[0, 0, 3], tokens[0, 0, 2])


def test_rotary_attention_sees_distances_only():
    """Scores between tokens depend on differences of place and of frame."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(place, frame, other_place, other_frame):
        tables = [networks.rotary_table(torch.tensor([p]), torch.tensor([f]), 8) for p, f in ((place, frame), (other_place, other_frame))]
        return float((networks.apply_rotary_emb(q, tables[0]) * networks.apply_rotary_emb(k, tables[1])).sum())

    assert score(3, 1, 7, 4) == pytest.approx(score(10, 5, 14, 8), abs=1e-4)
    assert score(3, 1, 7, 4) != pytest.approx(score(3, 1, 8, 4), abs=1e-3) and score(3, 1, 7, 4) != pytest.approx(score(3, 1, 7, 5), abs=1e-3)


@pytest.mark.parametrize("position", networks.POSITIONS)
def test_masked_frames_know_their_time(position):
    plan = small(position).planner(video(side=4), mp.references("interpolation", FRAMES))
    assert (plan[:, 1] - plan[:, 2]).abs().max() > 1e-3  # the same learned token stands in both


def test_the_planner_does_not_see_masked_frames():
    pipe, clip, is_ref = small(), video(side=4), mp.references("expansion", FRAMES, 2)
    hidden = clip.clone()
    hidden[:, 2:] = torch.nan
    assert torch.equal(pipe.planner(clip, is_ref), pipe.planner(hidden, is_ref))


def test_the_generator_does_not_see_masked_frames_at_zero_signal():
    pipe, is_ref, t = small(), mp.references("image-to-video", FRAMES), torch.tensor([999, 999])
    a, b, eps = video(seed=1), video(seed=2), noise(2, FRAMES, 3, 8, 8)
    b[:, 0] = a[:, 0]
    noisy = [mp.noised(pipe.scheduler, clip, eps, t, is_ref.expand(2, -1)) for clip in (a, b)]
    assert float(pipe.scheduler.alphas_cumprod[999]) == 0 and torch.equal(*noisy)


@pytest.mark.parametrize("mixer", networks.MIXERS)
@pytest.mark.parametrize("position", networks.POSITIONS)
def test_a_cached_plan_is_the_plan(mixer, position):
    pipe, clip, is_ref = small(position, mixer), video(), mp.references("image-to-video", FRAMES)
    plan = pipe.make_plan(clip, is_ref)
    direct, cached = (pipe.generator(clip, torch.tensor([400, 10]), is_ref, p) for p in (plan, pipe.generator.read_plan(plan)))
    assert torch.equal(direct, cached) and direct.shape == clip.shape
    stand_in = pipe.generator(clip, torch.tensor(400), is_ref, pipe.generator.without_plan(2, FRAMES))
    assert torch.equal(pipe.generator(clip, torch.tensor(400), is_ref), stand_in)
    assert not torch.allclose(direct[0], stand_in[0], atol=1e-4)


def test_a_new_generator_predicts_zero():
    """So its first loss is the mean square of v, alpha^2 + sigma^2 mean(z^2) in expectation."""
    torch.manual_seed(0)
    generator, scheduler, clean, is_ref = mp.Generator(in_channels=3, plan_tokens=16), mp.make_scheduler(), video(64, 9), mp.references("image-to-video", 9)
    t = torch.full((64,), 500)
    loss = mp.generator_loss(generator, scheduler, clean, is_ref, t, noise(*clean.shape))
    kept = float(scheduler.alphas_cumprod[500])
    expected = kept + (1 - kept) * float(clean[:, 1:].square().mean())
    assert loss.item() == pytest.approx(expected, rel=0.01)
    assert generator(clean, t, is_ref).abs().max() == 0


def test_the_mlp_is_shifted_scaled_and_gated_by_timestep_and_plan():
    torch.manual_seed(0)
    block, tokens, time, vector, plan = (
        networks.GeneratorBlock(8, 2, 12, 6),
        torch.randn(2, 3, 4, 8),
        torch.randn(2, 8),
        torch.randn(2, 3, 8),
        torch.randn(2, 3, 5, 6),
    )
    for module in (block.modulate_space, block.modulate_mlp):
        torch.nn.init.normal_(module.outer.weight)
    seen = {}
    for name in ("norm_mlp", "norm_space", "mlp", "space", "modulate_mlp", "modulate_space"):
        getattr(block, name).register_forward_hook(lambda module, given, out, name=name: seen.update({name: (given[0], out)}))
    rotary = dict.fromkeys(("spatial", *networks.MIXERS))
    found, kept = block(tokens, time, vector, plan, None, "temporal", None, rotary)
    assert torch.equal(found, block(tokens, time, vector, None, kept, "temporal", None, rotary)[0])
    shift, scale, gate = (part[:, :, None] for part in seen["modulate_mlp"][1])
    assert torch.equal(seen["modulate_mlp"][0], time[:, None] + vector) and torch.equal(seen["modulate_space"][0], time)
    torch.testing.assert_close(seen["mlp"][0], seen["norm_mlp"][1] * (1 + scale) + shift)
    torch.testing.assert_close(found, seen["norm_mlp"][0] + gate * seen["mlp"][1])
    shift, scale, gate = (part[:, None, None] for part in seen["modulate_space"][1])
    torch.testing.assert_close(seen["space"][0], (seen["norm_space"][1] * (1 + scale) + shift).flatten(0, 1))


def test_networks_that_fit_by_default():
    pipe = mp.MarDiniPipeline(mp.Planner(), mp.Generator(), mp.make_scheduler())
    assert pipe.generator.role.shape == (2, 96) and mp.Generator(roles=False).role is None


def test_published_sizes():
    with torch.device("meta"):
        counts = {f"planner {size}": sum(p.numel() for p in mp.Planner(**config).parameters()) for size, config in mp.PUBLISHED_PLANNERS.items()}
        counts["generator"] = sum(p.numel() for p in mp.Generator(**mp.PUBLISHED_GENERATOR).parameters())
    for name, published in mp.PUBLISHED_PARAMETERS.items():
        assert counts[name] == pytest.approx(published, rel=0.05), (name, counts[name])


def test_token_pairs():
    assert mp.token_pairs(9, 36, "spatial") + mp.token_pairs(9, 36, "temporal") == 14_580
    assert mp.token_pairs(9, 36, "space-time") == 104_976 and mp.token_pairs(9, 9, "space-time") == 6_561
    assert mp.token_pairs(1, 1, "space-time") == 1
    assert 104_976 / 14_580 == pytest.approx(9 * 36 / (36 + 9))


# ---------------------------------------------------------------------------------------------------------------------------- losses


def test_velocity_by_hand():
    scheduler = mp.make_scheduler()
    scheduler.alphas_cumprod[7] = 0.64
    z, eps, t = torch.tensor([[1.0]]), torch.tensor([[-0.5]]), torch.tensor([7])
    z_t, v = scheduler.add_noise(z, eps, t), scheduler.get_velocity(z, eps, t)
    assert z_t.item() == pytest.approx(0.5) and v.item() == pytest.approx(-1.0)
    assert 0.8 * z_t.item() - 0.6 * v.item() == pytest.approx(1.0) and 0.6 * z_t.item() + 0.8 * v.item() == pytest.approx(-0.5)


def test_masked_error_against_a_slow_loop():
    a, b = video(3, seed=1), video(3, seed=2)
    is_ref = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [0, 1, 0, 1, 0]]).bool()
    frames = [[float((a[i, k] - b[i, k]).square().mean()) for k in range(FRAMES) if not is_ref[i, k]] for i in range(3)]
    assert mp.masked_error(a, b, is_ref).item() == pytest.approx(sum(map(sum, frames)) / 8, rel=1e-5)
    assert mp.masked_error(a, b, is_ref, per="clip").item() == pytest.approx(sum(sum(f) / len(f) for f in frames) / 3, rel=1e-5)


def test_references_count_for_nothing_in_the_loss():
    is_ref, target = mp.references("interpolation", FRAMES), video(seed=2)
    prediction = video(seed=1).requires_grad_()
    loss = mp.masked_error(prediction, target, is_ref)
    loss.backward()
    assert prediction.grad[:, is_ref].abs().max() == 0 < prediction.grad[:, ~is_ref].abs().max()
    other = prediction.detach().clone()
    other[:, is_ref] = torch.nan  # not even a broken prediction there is seen
    assert torch.equal(mp.masked_error(other, target, is_ref), loss)
    for name, pair in (("prediction", (other.flip(1).roll(1, 1), target)), ("target", (target, other.roll(1, 1)))):
        with pytest.raises(ValueError, match=f"{name} must be finite in its masked frames"):
            mp.masked_error(*pair, is_ref)

    pipe, clean, eps = small(), video(), noise(2, FRAMES, 3, 8, 8)
    t, changed = torch.tensor([300, 700]), eps.clone()
    changed[:, is_ref] += 1
    assert torch.equal(*(mp.generator_loss(pipe.generator, pipe.scheduler, clean, is_ref, t, e) for e in (eps, changed)))


def test_where_gradients_go():
    torch.manual_seed(0)
    planner = mp.Planner(in_channels=3, height=4, width=4, patch=2, frames=FRAMES, dim=16, depth=1, heads=2, mlp_dim=16)
    generator = mp.Generator(in_channels=3, frames=FRAMES, dim=16, depth=1, heads=2, mlp_dim=16, plan_dim=16, plan_tokens=4)
    clean, is_ref, scheduler = video(), mp.references("image-to-video", FRAMES), mp.make_scheduler()

    def planner_gradient(dropped):
        planner.zero_grad(), generator.zero_grad()
        plan = mp.drop_plans(generator, planner(mp.low_resolution(clean, 2), is_ref), dropped, torch.Generator().manual_seed(0))
        mp.generator_loss(generator, scheduler, clean, is_ref, torch.tensor([300, 700]), noise(*clean.shape), plan).backward()
        return sum(p.grad.abs().sum().item() for p in planner.parameters() if p.grad is not None)

    assert planner_gradient(0.0) == 0  # the last layer starts at zero
    torch.optim.SGD(generator.parameters(), 0.1).step()
    assert planner_gradient(0.0) > 0 and generator.no_plan.grad.abs().sum() == 0
    assert planner_gradient(1.0) == 0 and generator.no_plan.grad.abs().sum() > 0

    readout = mp.Readout(planner)
    assert readout(planner(mp.low_resolution(clean, 2), is_ref), planner).shape == (2, FRAMES, 3, 4, 4)
    mp.planner_loss(planner, readout, mp.low_resolution(clean, 2), is_ref).backward()
    assert all(p.grad is not None for p in readout.parameters())


def test_plans_are_dropped_clip_by_clip():
    generator = small().generator
    plan = torch.randn(4000, 1, 4, 16)
    dropped = (mp.drop_plans(generator, plan, 0.1, torch.Generator().manual_seed(0)) != plan).flatten(1)
    assert ((dropped.all(1)) | (~dropped.any(1))).all() and 0.08 < dropped.any(1).double().mean() < 0.12


def test_low_resolution_averages():
    clip = video()
    low = mp.low_resolution(clip, 2)
    assert low.shape == (2, FRAMES, 3, 4, 4) and torch.allclose(low[0, 1, 2, 1, 3], clip[0, 1, 2, 2:4, 6:8].mean())


# ------------------------------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("task", mp.TASKS)
@pytest.mark.parametrize(("steps", "scale"), [(1, 1.0), (3, 2.5), (4, 0.0)])
def test_references_come_back_bit_for_bit(task, steps, scale):
    pipe, clip, is_ref = small(), video(), mp.references(task, FRAMES, 2)
    out = pipe(clip, is_ref, num_inference_steps=steps, guidance_scale=scale, generator=torch.Generator().manual_seed(0)).frames
    assert torch.equal(out[:, is_ref], clip[:, is_ref]) and not torch.allclose(out[:, ~is_ref], clip[:, ~is_ref], atol=0.1)
    assert torch.isfinite(out).all() and out.shape == clip.shape


def counted(module, calls):
    module.register_forward_hook(lambda *_: calls.append(1))


@pytest.mark.parametrize(("steps", "scale", "expected"), [(1, 1.0, 1), (7, 1.0, 7), (5, 2.5, 10), (5, 0.0, 10)])
def test_the_planner_runs_once(steps, scale, expected):
    pipe, plans, calls = small(), [], []
    counted(pipe.planner, plans), counted(pipe.generator, calls)
    pipe(video(), mp.references("image-to-video", FRAMES), num_inference_steps=steps, guidance_scale=scale)
    assert (len(plans), len(calls)) == (1, expected)


def test_guidance():
    pipe, clip, is_ref = small(), video(), mp.references("image-to-video", FRAMES)
    options = dict(num_inference_steps=4, noise=noise(2, FRAMES, 3, 8, 8))
    plain = pipe(clip, is_ref, **options)
    nothing = pipe(clip, is_ref, guidance_scale=0.0, **options).frames
    assert torch.allclose(nothing, pipe(clip, is_ref, plan=pipe.generator.without_plan(2, FRAMES), **options).frames, atol=1e-5)
    assert not torch.allclose(nothing, plain.frames, atol=1e-3)
    twice = pipe(clip, is_ref, guidance_scale=2.0, **{**options, "num_inference_steps": 1}).frames
    once, none = (pipe(clip, is_ref, guidance_scale=s, **{**options, "num_inference_steps": 1}).frames for s in (1.0, 0.0))
    assert torch.allclose(twice, 2 * once - none, atol=1e-4)  # one step is linear in v
    assert torch.equal(pipe(clip, is_ref, plan=plain.plan, **options).frames, plain.frames)
    assert not torch.allclose(pipe(clip, is_ref, plan=plain.plan.flip(0), **options).frames, plain.frames, atol=1e-4)


def test_masked_frames_may_hold_anything():
    pipe, clip, is_ref = small(), video(), torch.tensor([[True, False, True, False, False], [False, False, False, True, False]])
    hidden = clip.clone()
    hidden[~is_ref] = torch.nan
    options = dict(num_inference_steps=2, noise=noise(2, FRAMES, 3, 8, 8))
    assert torch.equal(pipe(clip, is_ref, **options).frames, pipe(hidden, is_ref, **options).frames)


def test_trace_holds_a_guess_for_every_step():
    pipe, trace, is_ref = small(), [], mp.references("image-to-video", FRAMES)
    out = pipe(video(), is_ref, num_inference_steps=3, trace=trace).frames
    assert len(trace) == 3 and torch.allclose(trace[-1], out, atol=1e-5)


def autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                         latent_channels=3, norm_num_groups=4, layers_per_block=1).eval()  # fmt: skip


def test_with_an_autoencoder():
    pipe, clip, is_ref = small(vae=autoencoder()), video(side=16), mp.references("interpolation", FRAMES)
    out = pipe(clip, is_ref, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).frames
    assert pipe.scale == 2 and out.shape == clip.shape and torch.equal(out[:, is_ref], clip[:, is_ref]) and out.abs().max() <= 1
    assert pipe.encode(clip).shape == (2, FRAMES, 3, 8, 8)
    with pytest.raises(ValueError, match=r"video must lie in \[-1, 1\]"):
        pipe(2 * clip, is_ref)
    with pytest.raises(ValueError, match=r"start must lie in \[-1, 1\]"):
        mp.roll_forward(pipe, 2 * clip[:, :2], 2, 1)
    assert torch.isfinite(pipe.encode(torch.full_like(clip, 1 + 1e-6))).all()  # rounding


def test_latents_are_scaled_on_the_way_in_and_back_on_the_way_out():
    pipe, clip = small(vae=autoencoder()), video(side=16)
    factor = pipe.vae.config.scaling_factor
    assert factor not in (0, 1)
    latents = pipe.encode(clip)
    with torch.no_grad():
        mean = pipe.vae.encode(clip.flatten(0, 1)).latent_dist.mean
        shown = pipe.vae.decode(mean).sample.unflatten(0, clip.shape[:2]).clamp(-1, 1)
    torch.testing.assert_close(latents, factor * mean.unflatten(0, clip.shape[:2]))
    torch.testing.assert_close(pipe.decode(latents), shown)


@pytest.mark.parametrize("position", networks.POSITIONS)
def test_saved_and_loaded(position, tmp_path):
    pipe, clip, is_ref = small(position, "space-time"), video(), mp.references("interpolation", FRAMES)
    pipe.save_pretrained(tmp_path / "mardini")
    again = mp.MarDiniPipeline.from_pretrained(tmp_path / "mardini", local_files_only=True)
    assert again.generator.mixer == "space-time" and isinstance(again, DiffusionPipeline) and again.vae is None
    options = dict(num_inference_steps=2, noise=noise(2, FRAMES, 3, 8, 8))
    assert torch.equal(pipe(clip, is_ref, **options).frames, again(clip, is_ref, **options).frames)


@pytest.mark.parametrize(("windows", "keep"), [(1, 1), (3, 1), (4, 2)])
def test_roll_forward_counts_and_keeps(windows, keep):
    pipe, start = small(), video(1, 2)
    clip = mp.roll_forward(pipe, start, windows, keep, num_inference_steps=1)
    assert clip.shape[1] == FRAMES + (windows - 1) * (FRAMES - keep) and torch.equal(clip[:, :2], start)


class Still:
    """Stands in for a pipeline: every masked frame takes the value between its references, so that times can be read from the frames."""

    class generator:
        class config:
            frames = 32

    def __call__(self, video, is_ref):
        known = is_ref.nonzero()[:, 0].tolist()
        out = video.clone()
        for k in range(video.shape[1]):
            left, right = max([i for i in known if i <= k], default=known[0]), min([i for i in known if i >= k], default=known[-1])
            share = 0 if left == right else (k - left) / (right - left)
            out[:, k] = (1 - share) * video[:, left] + share * video[:, right]
        return mp.MarDiniOutput(out, None)


def test_slow_motion_arithmetic():
    def images(n):
        return torch.arange(float(n)).view(1, n, 1, 1, 1)

    assert mp.slow_motion(Still(), images(4), 8, 1).shape[1] == 32
    assert mp.slow_motion(Still(), images(4), 8, 2).shape[1] == 128
    clip = mp.slow_motion(Still(), images(3), 3, 2, overlap=True, frames=9)
    assert clip.shape[1] == 33 and torch.allclose(clip.flatten(), torch.linspace(0, 2, 33))  # time runs evenly
    assert mp.slow_motion(Still(), images(2), 2, 3, overlap=True, frames=5).shape[1] == 65
    assert mp.slow_motion(Still(), images(3), 5, 2, overlap=True, frames=9).shape[1] == 17
    assert mp.slow_motion(Still(), images(3), 3, 3, overlap=True, frames=5).shape[1] == 17
    assert planning.spread(3, 9) == [0, 4, 8] and planning.spread(4, 32) == [0, 10, 21, 31] and planning.spread(1, 9) == [0]


# --------------------------------------------------------------------------------------------------------- devices, precisions, kinds


CALL = dict(is_ref=mp.references("interpolation", FRAMES), num_inference_steps=2, guidance_scale=2.0)


def called(pipe, clip, **options):
    return pipe(clip, generator=torch.Generator().manual_seed(0), **CALL | options)


@pytest.mark.parametrize("position", networks.POSITIONS)
@pytest.mark.parametrize("there", ["everything", "clip", "nothing"])
def test_on_an_accelerator(there, position):
    clip, right = video(side=16), called(small(position, vae=autoencoder()), video(side=16))
    with Accelerator():
        pipe = small(position, vae=autoencoder()).to(DEVICE)
        given = clip if there == "nothing" else clip.to(DEVICE)
        found = called(pipe, given, is_ref=CALL["is_ref"].to(DEVICE if there == "everything" else "cpu"))
        again = called(pipe, given, plan=right.plan, noise=noise(2, FRAMES, 3, 8, 8).to(DEVICE if there == "clip" else "cpu"), trace=(trace := []))
    assert found.frames.device == found.plan.device == again.frames.device == trace[-1].device == given.device
    torch.testing.assert_close(near(found.frames), right.frames, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(near(found.plan), right.plan, atol=1e-4, rtol=1e-4)
    assert torch.equal(near(found.frames)[:, [0, -1]], clip[:, [0, -1]])


@pytest.mark.parametrize("offload", offloads)
def test_offloaded(offload):
    clip, right = video(side=16), called(small(vae=autoencoder()), video(side=16))
    with Accelerator():
        pipe = offloads[offload](small(vae=autoencoder()))
        for given in (clip.to(DEVICE), clip):  # the second time after the hooks were put back
            found = called(pipe, given)
            assert found.frames.device == found.plan.device == given.device
            torch.testing.assert_close(near(found.frames), right.frames, atol=1e-4, rtol=1e-4)
        plan = pipe.make_plan(clip, CALL["is_ref"])
        none = called(pipe, clip, plan=pipe.generator.without_plan(2, FRAMES)).frames
        through = pipe.decode(pipe.encode(clip))
    assert plan.device == through.device == clip.device
    torch.testing.assert_close(plan, right.plan, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(none, called(small(vae=autoencoder()), clip, guidance_scale=0.0).frames, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["encode", "decode", "make_plan", "call"])
@pytest.mark.parametrize("fails", [False, True])
def test_no_part_stays_on_the_accelerator(name, fails):
    clip = video(side=16)
    with Accelerator():
        pipe = offloads["model"](small(vae=autoencoder()))
        run = {"encode": lambda: pipe.encode(clip), "decode": lambda: pipe.decode(video()), "make_plan": lambda: pipe.make_plan(clip, CALL["is_ref"]),
               "call": lambda: called(pipe, clip)}[name]  # fmt: skip
        if fails:
            part = {"encode": pipe.vae.encoder, "decode": pipe.vae.decoder, "make_plan": pipe.planner.norm, "call": pipe.generator.norm}[name]
            part.register_forward_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run()
        else:
            run()
        assert {str(p.device) for part in (pipe.planner, pipe.generator, pipe.vae) for p in part.parameters()} == {"cpu"}


SWAPPED = {
    "Heun": (HeunDiscreteScheduler, dict(), TypeError, "scheduler must be a DDIMScheduler, got a HeunDiscreteScheduler"),
    "PNDM": (PNDMScheduler, dict(), TypeError, "scheduler must be a DDIMScheduler, got a PNDMScheduler"),
    "epsilon": (DDIMScheduler, dict(prediction_type="epsilon"), ValueError, "scheduler must predict velocities .*, got 'epsilon'"),
    "clipped": (DDIMScheduler, dict(clip_sample=True), ValueError, "scheduler must not cut what it guesses of the clean clip .*, got clip_sample=True"),
    "thresholded": (DDIMScheduler, dict(thresholding=True), ValueError, "scheduler must not cut .*, got thresholding=True"),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_a_scheduler_that_does_not_fit_is_refused_at_the_call_too(name):
    kind, changes, error, message = SWAPPED[name]
    pipe, clip, calls = small(), video(), []
    plan = pipe.make_plan(clip, CALL["is_ref"])
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **changes)
    counted(pipe.generator, calls), counted(pipe.planner, calls)
    for refused in (lambda: called(pipe, clip), lambda: mp.roll_forward(pipe, clip[:, :1], 2, 1), lambda: mp.slow_motion(pipe, clip[:, :2], 3, 1),
                    lambda: mp.MarDiniPipeline(pipe.planner, pipe.generator, pipe.scheduler)):  # fmt: skip
        with pytest.raises(error, match=f"^{message}$"):
            refused()
    assert not calls and torch.equal(pipe.make_plan(clip, CALL["is_ref"]), plan)  # for which nothing is denoised


@pytest.mark.parametrize("name", ["planner", "generator", "vae"])
def test_data_parallel_parts_are_refused_with_what_to_do(name):
    pipe, clip = small(vae=autoencoder()), video(side=16)
    right, bare = called(pipe, clip).frames, getattr(pipe, name)
    setattr(pipe, name, torch.nn.DataParallel(bare))
    for refused in (lambda: called(pipe, clip), lambda: pipe.make_plan(clip, CALL["is_ref"]), lambda: pipe.encode(clip), lambda: pipe.decode(video()),
                    lambda: mp.roll_forward(pipe, clip[:, :1], 2, 1)):  # fmt: skip
        with pytest.raises(TypeError, match=rf"^{name} must be a {type(bare).__name__}, got a DataParallel; give what it wraps, its \.module$"):
            refused()
    setattr(pipe, name, getattr(pipe, name).module)
    assert torch.equal(called(pipe, clip).frames, right)


def test_losses_on_an_accelerator():
    pipe, clean, is_ref, eps = small(), video(), mp.references("image-to-video", FRAMES), noise(2, FRAMES, 3, 8, 8)

    def losses(pipe, clean, eps):
        readout = mp.Readout(pipe.planner).to(clean.device)
        low = mp.low_resolution(clean, 2)
        plan = mp.drop_plans(pipe.generator, pipe.planner(low, is_ref), 0.5, torch.Generator().manual_seed(0))
        torch.nn.init.constant_(readout.out.weight, 0.1), torch.nn.init.zeros_(readout.out.bias)
        return [mp.planner_loss(pipe.planner, readout, low, is_ref),
                mp.generator_loss(pipe.generator, pipe.scheduler, clean, is_ref, torch.tensor([300, 700]), eps, plan)]  # fmt: skip

    right = losses(pipe, clean, eps)
    with Accelerator():
        found = losses(pipe.to(DEVICE), clean.to(DEVICE), eps)
    torch.testing.assert_close([near(x) for x in found], [x.detach() for x in right], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("position", networks.POSITIONS)
def test_half_precision(dtype, position):
    clip, pipe = video(side=16), small(position, vae=autoencoder()).to(dtype)
    for given in (clip, clip.to(dtype)):
        found = pipe(given, noise=noise(2, FRAMES, 3, 8, 8), **CALL).frames
        assert found.dtype == given.dtype and torch.equal(found[:, 0], given[:, 0])
    other = small(position, vae=autoencoder())
    mixed = mp.MarDiniPipeline(other.planner, other.generator.to(dtype), other.scheduler, other.vae)  # the planner in single precision
    torch.testing.assert_close(called(mixed, clip).frames, called(pipe, clip).frames, atol=0.2, rtol=0)


def test_arrays_in_arrays_out():
    pipe, clip, is_ref = small(), video(), mp.references("image-to-video", FRAMES)
    options = dict(num_inference_steps=2, noise=noise(2, FRAMES, 3, 8, 8))
    right, trace = pipe(clip, is_ref, **options), []
    backwards = np.ascontiguousarray(clip.numpy()[:, ::-1])[:, ::-1]
    for given, known in ((backwards, is_ref.numpy()), (clip.numpy().astype(">f4"), is_ref.tolist()), (clip.tolist(), pd.Series(is_ref.numpy()))):
        found = pipe(given, known, num_inference_steps=2, noise=options["noise"].numpy(), trace=trace)
        assert isinstance(found.frames, np.ndarray) and isinstance(found.plan, np.ndarray) and isinstance(trace[0], np.ndarray)
        np.testing.assert_allclose(found.frames, right.frames, atol=1e-5)
    assert isinstance(mp.low_resolution(clip.numpy(), 2), np.ndarray) and isinstance(pipe.make_plan(clip.numpy(), is_ref), np.ndarray)
    assert isinstance(mp.roll_forward(pipe, clip[:, :2].numpy(), 2, 1, num_inference_steps=1), np.ndarray)
    assert torch.equal(pipe(clip.requires_grad_(), is_ref, **options).frames, right.frames)


def test_masked_arrays_are_refused_and_rare_dtypes_are_taken_or_named():
    pipe, clip, is_ref = small(), video(), mp.references("image-to-video", FRAMES)
    hidden = np.ma.masked_less(clip.numpy(), 0)
    for given in (hidden, list(hidden)):
        with pytest.raises(ValueError, match=rf"^video must be .*, got an array with {int((clip < 0).sum())} masked entries: fill them, or leave"):
            pipe(given, is_ref, 1)
    with pytest.raises(ValueError, match="is_ref must be booleans .*, got an array with 1 masked entries"):
        pipe(clip, np.ma.masked_array(is_ref.numpy(), [0, 0, 1, 0, 0]), 1)
    whole = np.ma.masked_array(clip.numpy())  # nothing is masked
    assert np.array_equal(mp.low_resolution(whole, 2), mp.low_resolution(clip.numpy(), 2))
    clean, eps = video(), noise(2, FRAMES, 3, 8, 8)
    right = mp.noised(pipe.scheduler, clean, eps, torch.tensor([3, 500]), is_ref)
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        for timestep in (torch.tensor([3, 500]).to(dtype), torch.tensor([3, 500]).to(dtype).numpy()):
            assert torch.equal(mp.noised(pipe.scheduler, clean, eps, timestep, is_ref), right)
    for timestep in (torch.tensor(-1).view(torch.uint64), np.array(2**64 - 1, np.uint64)):
        with pytest.raises(ValueError, match=r"timestep must be a whole number .* below 2\*\*63, got uint64 tensor of shape \(\) with more in it"):
            mp.noised(pipe.scheduler, clean, eps, timestep, is_ref)
    with pytest.raises(TypeError, match="clip must be floating-point numbers .* of 16 bits or more, got float8_e4m3fn tensor of shape"):
        mp.low_resolution(clip.to(torch.float8_e4m3fn), 2)


def test_a_list_of_generators_is_one_a_clip():
    pipe, clip, is_ref = small(), video(), CALL["is_ref"]
    seeds = lambda *which: [torch.Generator().manual_seed(k) for k in which]  # noqa: E731
    both = pipe(clip, is_ref, num_inference_steps=2, generator=seeds(3, 4)).frames
    alone = pipe(clip[1:], is_ref, num_inference_steps=2, generator=tuple(seeds(4))).frames
    assert torch.allclose(both[1:], alone, atol=1e-5) and not torch.allclose(both[0], pipe(clip[:1], is_ref, num_inference_steps=2, generator=seeds(4)).frames)


@pytest.mark.parametrize("steps", [61, 1000])
def test_every_number_of_steps_ends_at_the_clean_clip(steps):
    """61 is one of the numbers to which the scheduler's rounding adds a step at timestep -1, and with it the noise that this stands for."""
    pipe, calls, trace = small(), [], []
    counted(pipe.generator, calls)
    out = pipe(video(1), CALL["is_ref"], num_inference_steps=steps, trace=trace).frames
    assert len(calls) == len(trace) == steps and torch.allclose(out, trace[-1], atol=1e-3)


def test_compiled_networks():
    pipe, clip = small(), video()
    right = called(pipe, clip).frames
    pipe.planner, pipe.generator = (torch.compile(part, backend="eager") for part in (pipe.planner, pipe.generator))
    again = mp.MarDiniPipeline(pipe.planner, pipe.generator, pipe.scheduler)
    with torch.compiler.set_stance("force_eager"):  # compiling takes half a minute
        assert torch.equal(called(pipe, clip).frames, right) and torch.equal(called(again, clip).frames, right)
    with pytest.raises(TypeError, match=r"generator must be a Generator, got a DataParallel; give what it wraps, its \.module"):
        mp.drop_plans(torch.nn.DataParallel(small().generator), torch.zeros(1, 1, 4, 16), 0.5)

    class Adapted:
        get_base_model = small

    for wrong, end in ((Adapted(), r"got a Adapted; give what it wraps, its \.get_base_model\(\)$"), (3, "got 3$")):
        with pytest.raises(TypeError, match=end):
            mp.drop_plans(wrong, torch.zeros(1, 1, 4, 16), 0.5)


@pytest.mark.parametrize("mixer", networks.MIXERS)
def test_the_generator_mixes_frames(mixer):
    """Another masked frame, other than the one that is looked at, and the same references: what is predicted changes through the mixing of frames alone."""
    pipe, clip, is_ref = small(mixer=mixer), video(), mp.references("image-to-video", FRAMES)
    other = clip.clone()
    other[:, 3] += 1
    out, moved = (pipe.generator(x, torch.tensor(500), is_ref) for x in (clip, other))
    assert (moved - out)[:, 2].abs().max() > 1e-3 and (moved - out)[:, 4].abs().max() > 1e-3
    assert torch.equal(moved[:, 0], out[:, 0])


# --------------------------------------------------------------------------------------------------------------------- bad arguments

IS_REF = mp.references("image-to-video", FRAMES)
BAD_CALLS = {
    "no reference": (dict(is_ref=torch.zeros(FRAMES, dtype=torch.bool)), ValueError, "is_ref must have a reference frame"),
    "nothing masked": (dict(is_ref=torch.ones(FRAMES, dtype=torch.bool)), ValueError, "is_ref must have a masked frame"),
    "is_ref of numbers": (dict(is_ref=torch.ones(FRAMES)), TypeError, "is_ref must be booleans .*, got float32 tensor"),
    "is_ref a list": (dict(is_ref=[True, False]), ValueError, r"is_ref must be \(5,\) or \(2, 5\), as video has frames and clips; got \(2,\)"),
    "is_ref too short": (dict(is_ref=IS_REF[:3]), ValueError, r"is_ref must be \(5,\) or \(2, 5\), as video has frames and clips; got \(3,\)"),
    "NaN in a reference": (dict(video=torch.full((2, FRAMES, 3, 8, 8), math.nan)), ValueError, "video must be finite in its reference frames"),
    "another size": (dict(video=torch.zeros(2, FRAMES, 3, 8, 6)), ValueError, r"video must be \(clips, frames, 3 x 8 x 8\)"),
    "one dimension less": (dict(video=torch.zeros(FRAMES, 3, 8, 8)), ValueError, "video must be"),
    "whole numbers": (dict(video=torch.zeros(2, FRAMES, 3, 8, 8, dtype=torch.long)), TypeError, "video must be floating-point numbers .*, got int64 tensor"),
    "too many frames": (dict(video=torch.zeros(2, 6, 3, 8, 8), is_ref=mp.references("image-to-video", 6)), ValueError, "at most 5 frames, got 6"),
    "no steps": (dict(num_inference_steps=0), ValueError, "num_inference_steps must be an integer in 1..1000, got 0"),
    "1001 steps": (dict(num_inference_steps=1001), ValueError, "num_inference_steps must be an integer in 1..1000, got 1001"),
    "steps in text": (dict(num_inference_steps="many"), TypeError, "num_inference_steps must be an integer in 1..1000, got 'many'"),
    "negative guidance": (dict(guidance_scale=-1), ValueError, "guidance_scale must be a finite number >= 0, got -1"),
    "guidance NaN": (dict(guidance_scale=math.nan), ValueError, "guidance_scale"),
    "a plan for other clips": (dict(plan=torch.zeros(3, FRAMES, 4, 16)), ValueError, "plan must be for 2 clips of 5 frames, got 3 of 5"),
    "a plan of other tokens": (dict(plan=torch.zeros(2, FRAMES, 5, 16)), ValueError, r"plan must be \(clips, frames, 4 x 16\)"),
    "noise of another shape": (dict(noise=torch.zeros(2, FRAMES, 3, 4, 4)), ValueError, "noise must be"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_refused_before_any_work(case):
    options, error, message = BAD_CALLS[case]
    pipe, calls = small(), []
    counted(pipe.generator, calls)
    with pytest.raises(error, match=message):
        pipe(**dict(video=video(), is_ref=IS_REF) | options)
    assert not calls


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: mp.references("inpainting", 9), ValueError, "task must be one of interpolation"),
    (lambda: mp.references("expansion", 5, 5), ValueError, "count must be an integer in 1..4, got 5"),
    (lambda: mp.references("interpolation", "9"), TypeError, "frames must be an integer >= 2, got '9'"),
    (lambda: mp.chosen([0, 0], 5), ValueError, "known must hold 1 to 4 different frames"),
    (lambda: mp.chosen([5], 5), ValueError, "known must be an integer in 0..4, got 5"),
    (lambda: mp.chosen([], 5), ValueError, "known must hold 1 to 4 different frames, got"),
    (lambda: mp.draw_references(2, 9, (0.6, 0.2)), ValueError, r"ratios must be \(lowest, highest\)"),
    (lambda: planning.reference_count(1.2, 9), ValueError, r"ratio must be a finite number in \[0, 1\], got 1.2"),
    (lambda: mp.identity_mask(torch.tensor([[True, False]]), identity="clip"), ValueError, "identity must be one of token, frame, None"),
    (lambda: mp.Planner(patch=3), ValueError, "height and width must be multiples of patch, got 4 x 4 and 3"),
    (lambda: mp.Planner(heads=5), ValueError, "dim must be a multiple of heads"),
    (lambda: mp.Planner(position="sinusoid"), ValueError, "position must be one of"),
    (lambda: mp.Generator(mixer="spatial"), ValueError, "mixer must be one of"),
    (lambda: mp.MarDiniPipeline(mp.Planner(height=3, width=3), mp.Generator(), mp.make_scheduler()), ValueError, "a whole multiple of planner's"),
    (lambda: mp.MarDiniPipeline(mp.Planner(dim=96), mp.Generator(), mp.make_scheduler()), ValueError, "must expect the planner's plan, got plan_dim 192"),
    (lambda: mp.low_resolution(video(), 3), ValueError, "multiples of factor 3"),
    (lambda: mp.masked_error(video(), video(), IS_REF, per="frame"), ValueError, "per must be one of"),
    (lambda: mp.drop_plans(small().generator, torch.zeros(1, 1, 4, 16), 1.5), ValueError, r"probability must be a finite number in \[0, 1\], got 1.5"),
    (lambda: planning.spread(9, 9), ValueError, "count must be below frames"),
    (lambda: mp.roll_forward(small(), video(1, 2), 0, 1), ValueError, "windows must be an integer >= 1"),
    (lambda: mp.roll_forward(small(), video(1, 2), 2, 5), ValueError, "keep must be an integer in 1..4, got 5"),
    (lambda: mp.roll_forward(small(), video(1, 5), 1, 1), ValueError, "start must have 1 to 4 frames, fewer than a window, got 5"),
    (lambda: mp.slow_motion(Still(), video(1, 4), 7, 2), ValueError, "segment must divide the clip's 32 frames, got 7"),
    (lambda: small().generator(video(), torch.tensor(3), IS_REF, torch.zeros(2, FRAMES, 4, 9)), ValueError, r"plan must be \(clips, frames, 4 x 16\)"),
])  # fmt: skip
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
