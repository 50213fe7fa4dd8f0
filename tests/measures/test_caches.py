"""The bench of caches: its loop is the pipeline's, every method skips and leaves no trace, and what does nothing is noticed."""

import math

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import CogVideoXTransformer3DModel

from helpers.measures import caches
from helpers.methods import caching_schedules
from helpers.models import zoo
from tests.accelerator import DEVICE, Accelerator, near, offloads
from tests.benchmarks import caches as benchmark

torch.set_num_threads(1)

CALLS, PROMPT, SEED = 8, "a red ring moves up fast", 3
# at eight calls and with one calibration clip, knobs that leave something to skip
KNOBS = {"FirstBlockCache": 0.6, "MagCache": 0.2, "SeaCache": 0.9, "SeaCache, hold": 0.9, "TaylorSeer": 3, "TaylorSeer lite": 3, "PAB": 3, "FasterCache": 3}
PAIRS = [(model, name) for model in caches.MODELS for name, method in caches.METHODS.items() if model in method.values]


def random_cogvideox():
    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=32, in_channels=4, out_channels=4, time_embed_dim=128, text_embed_dim=64, num_layers=6, sample_width=8,
        sample_height=8, sample_frames=8, temporal_compression_ratio=1, patch_size=2, max_text_seq_length=18, attention_bias=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def benches():
    pipe = zoo.load("toy-latte")
    made = {"toy-latte": caches.Bench("toy-latte", pipe, num_calls=CALLS)}
    made["toy-cogvideox"] = caches.Bench("toy-cogvideox", pipe, random_cogvideox(), num_calls=CALLS)
    for bench in made.values():
        caches.calibrate(bench, ["a blue disc moves left fast"])
    return made


@pytest.fixture(scope="module")
def uncached(benches):
    return {name: caches.record(bench, PROMPT, SEED) for name, bench in benches.items()}


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_the_loop_is_the_pipelines(benches, uncached):
    call = zoo.entry("toy-latte").call | {"num_inference_steps": CALLS}
    clip = zoo.clip(benches["toy-latte"].pipe, PROMPT, SEED, **call)
    assert clip.shape == (8, 3, 32, 32) and torch.equal(uncached["toy-latte"].clip, clip)


@pytest.mark.parametrize("name", caches.MODELS)
def test_an_uncached_run_is_full_work(uncached, name):
    run = uncached[name]
    assert run.work == [1.0] * CALLS and run.executed == [True] * CALLS and run.computed_calls == run.num_calls == CALLS
    assert run.clip.shape == (8, 3, 32, 32) and 0 <= run.clip.min() < run.clip.max() <= 1
    with pytest.raises(caches.NothingSkipped, match="8.00 of 8 calls"):
        caches.check_skipped(run)


def test_attention_on_a_cpu_is_counted():
    heads, queries, keys, width = 2, 5, 7, 4
    with caches.count_flops() as counter:
        F.scaled_dot_product_attention(torch.ones(1, heads, queries, width), torch.ones(1, heads, keys, width), torch.ones(1, heads, keys, width))
    assert counter.get_total_flops() == 2 * (2 * heads * queries * keys * width)  # scores and weighted sum, multiply and add


def test_operations_of_a_full_call_by_hand(benches):
    bench = benches["toy-cogvideox"]
    n, d, text, width = 8 * 4 * 4 + 18, 128, 18, 64
    block = 4 * n * d * d + 2 * n * n * d + 8 * n * d * d + 2 * 6 * d * d  # projections, attention, feed-forward, two modulations
    ends = 2 * d * d + 2 * d * d + (n - text) * 2 * (4 * 4 * d) + text * width * d  # timestep, last modulation, patches in and out, text
    assert bench.full_flops(bench.encode(PROMPT)) == 2 * 2 * (6 * block + ends)


def test_sigma_keeps_the_signal_to_noise_ratio(benches):
    bench = benches["toy-latte"]
    kept = bench.pipe.scheduler.alphas_cumprod[500].item()
    sigma = bench.sigma(torch.tensor(500))
    assert ((1 - sigma) / sigma) ** 2 == pytest.approx(kept / (1 - kept))


WHERE = {"moved": lambda pipe: pipe.to(DEVICE), **offloads}


@pytest.mark.parametrize("where", WHERE)
def test_the_bench_computes_where_its_pipeline_does(where):
    here = caches.Bench("toy-latte", zoo.load("toy-latte"), num_calls=2)
    right = caches.record(here, PROMPT, SEED)
    with Accelerator():
        bench = caches.Bench("toy-latte", WHERE[where](zoo.load("toy-latte")), num_calls=2)
        assert bench.device == DEVICE
        run = caches.record(bench, PROMPT, SEED)
    torch.testing.assert_close(near(run.clip), right.clip, atol=1e-4, rtol=0)
    assert run.work == right.work == [1.0, 1.0]


def test_the_bench_in_half_precision():
    pipe = zoo.load("toy-latte")
    right = caches.Bench("toy-latte", pipe, num_calls=3).sample(PROMPT, SEED)
    found = caches.Bench("toy-latte", pipe.to(torch.bfloat16), num_calls=3).sample(PROMPT, SEED)
    assert found.dtype == torch.float32 and (found - right).abs().mean() < 0.02


# -- every method ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, name", PAIRS)
def test_a_method_skips_and_leaves_no_trace(benches, uncached, model, name, capfd, recwarn):
    bench, method = benches[model], caches.METHODS[name]
    run = caches.measure(bench, method, KNOBS.get(name, 5), PROMPT, SEED)
    assert run.computed_calls < 0.99 * CALLS and run.flops < 0.99 * uncached[model].flops
    assert not torch.equal(run.clip, uncached[model].clip) and run.clip.shape == uncached[model].clip.shape
    assert len(run.work) == len(run.executed) == (5 if method.level == "steps" else CALLS) and run.work[0] == 1
    assert all(0 <= share <= 1 for share in run.work)
    if method.level == "stack":
        assert [share > 0.5 for share in run.work] == run.executed and not all(run.executed)
    assert torch.equal(bench.sample(PROMPT, SEED), uncached[model].clip)
    assert not bench.transformer.is_cache_enabled and bench.steps == CALLS and bench.timestep is None
    assert capfd.readouterr() == ("", "") and not recwarn.list


@pytest.mark.parametrize("model, name", [pair for pair in PAIRS if caches.METHODS[pair[1]].level != "steps"])
def test_one_clip_does_not_reach_into_the_next(benches, model, name):
    bench = benches[model]
    with caches.METHODS[name].enable(bench, KNOBS.get(name, 5)):
        first = bench.sample(PROMPT, SEED)
        assert torch.equal(bench.sample(PROMPT, SEED), first)


def test_an_interrupted_clip_leaves_nothing_behind(benches, uncached):
    bench = benches["toy-latte"]

    def stop(*_):
        if bench.timestep < 500:
            raise KeyboardInterrupt

    with caches.METHODS["PAB"].enable(bench, 3):
        whole = bench.sample(PROMPT, SEED)
        remover = bench.transformer.proj_out.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            bench.sample(PROMPT, SEED)
        remover.remove()
        assert torch.equal(bench.sample(PROMPT, SEED), whole)
    assert torch.equal(bench.sample(PROMPT, SEED), uncached["toy-latte"].clip)


def test_every_cache_of_diffusers_has_a_row():
    shipped = {name for name in dir(diffusers) if name.endswith("CacheConfig") or name == "PyramidAttentionBroadcastConfig"}
    ours = {"FasterCacheConfig", "FirstBlockCacheConfig", "MagCacheConfig", "PyramidAttentionBroadcastConfig", "SeaCacheConfig", "TaylorSeerCacheConfig"}
    assert shipped - {"TextKVCacheConfig"} == ours  # TextKVCache serves one image model


# -- calibration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"motion": True}, {"expect": "linear"}], ids=str)
def test_a_codebook_meets_its_target_on_the_calibration_clips(benches, options):
    bench = benches["toy-cogvideox"]
    known, book = bench.calibration, caches.codebook(bench, 5, **options)
    regulariser = known.regulariser() if "motion" in options else None
    clock = caching_schedules.CachingClock(book, CALLS, last=caches.FORCED_LAST, regulariser=regulariser, expect=options.get("expect", "hold"))
    assert abs(len(caching_schedules.replay_calls(known.probes[0], clock)) - 5) <= 1
    assert book.rates == (3, 2, 1) and caches.codebook(bench, 5, **options) is book
    with pytest.raises(ValueError, match=r"target_calls must be a number in \[1, 8\], got 9"):
        caches.codebook(bench, 9)


def test_mag_ratios_are_those_of_the_residuals(benches):
    bench = benches["toy-cogvideox"]
    with caches.apply_adacache(bench.transformer, caches.Codebook((), (1,)), CALLS, record=True) as handle:
        bench.denoise(bench.encode("a blue disc moves left fast"), 1000)
    size = [residual[0].norm(dim=-1) for residual in handle.last.residuals]
    ratios = [1.0] + [float((b / a).mean()) for a, b in zip(size, size[1:], strict=False)]
    np.testing.assert_allclose(bench.calibration.mag_ratios, ratios, rtol=1e-4)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals(benches):
    latte = benches["toy-latte"]
    for name in ("FirstBlockCache", "MagCache", "SeaCache", "SeaCache, hold"):
        with pytest.raises(ValueError, match=f"{name} cannot serve toy-latte: .* alternates"):
            caches.measure(latte, caches.METHODS[name], 0.1, PROMPT, SEED)
    with pytest.raises(ValueError, match="name must be one of 'toy-latte', 'toy-cogvideox', got 'latte'"):
        caches.load("latte")
    with pytest.raises(ValueError, match="prompt must be a sentence"):
        latte.sample(" ", SEED)
    with pytest.raises(ValueError, match=r"num_steps must be a whole number in \[1, 8\], got 9"):
        latte.sample(PROMPT, SEED, num_steps=9)
    with pytest.raises(TypeError, match="prompts must be a list"):
        caches.calibrate(latte, "a red ring moves up fast")
    for knob in (0, -1, float("nan"), True, "2"):
        with pytest.raises((ValueError, TypeError), match="knob of PAB .* must be a number > 0"):
            caches.measure(latte, caches.METHODS["PAB"], knob, PROMPT, SEED)
    fresh = caches.Bench("toy-latte", latte.pipe, num_calls=CALLS)
    with pytest.raises(ValueError, match="calibrate"):
        caches.measure(fresh, caches.METHODS["AdaCache"], 5, PROMPT, SEED)
    with pytest.raises(ValueError, match="num_calls must be a whole number >= 1"):
        caches.Bench("toy-latte", latte.pipe, num_calls=0)


def test_nothing_is_made_before_all_is_checked(benches, monkeypatch):
    bench, uniform = benches["toy-latte"], caches.METHODS["uniform caching"]
    monkeypatch.setattr(bench.pipe, "encode_prompt", None)  # a call would be a TypeError without the argument's name
    run, known = caches.Run("uncached", None, torch.zeros(1), [1.0], [True], 1, 1.0), bench.calibration
    text = torch.zeros(2, 3, bench.transformer.config.caption_channels)
    for call, error, message in (
        (lambda: caches.measure(bench, uniform, 4, PROMPT, -1), ValueError, "seed must be"),
        (lambda: caches.measure(bench, uniform, 4, 3, 0), TypeError, "prompt must be"),
        (lambda: caches.measure(bench, "uniform caching", 4, PROMPT, 0), TypeError, "method must be a Method of caches.METHODS, got 'uniform caching'"),
        (lambda: caches.measure(None, uniform, 4, PROMPT, 0), TypeError, "bench must be a Bench"),
        (lambda: caches.record(bench, PROMPT, 0.5), TypeError, "seed must be"),
        (lambda: caches.record(bench, PROMPT, 0, method=3), TypeError, "method must be"),
        (lambda: caches.record(bench, PROMPT, 0, knob="2"), TypeError, "knob must be"),
        (lambda: caches.calibrate(bench, []), ValueError, "prompts must be"),
        (lambda: caches.calibrate(bench, [PROMPT, ""]), ValueError, "prompts must be a sentence"),
        (lambda: caches.calibrate(bench, [PROMPT], seed="0"), TypeError, "seed must be"),
        (lambda: caches.codebook(bench, math.nan), ValueError, "target_calls must be"),
        (lambda: caches.codebook(bench, 5, motion=1), TypeError, "motion must be"),
        (lambda: caches.codebook(bench, 5, expect="line"), ValueError, "expect must be one of"),
        (lambda: caches.check_skipped(None), TypeError, "run must be a Run"), (lambda: caches.fewer_steps(bench, 2.0), TypeError, "num_steps must be"),
        (lambda: caches.diffusers_cache(bench, "PAB"), TypeError, "config must be"), (lambda: caches.methods_for("latte"), ValueError, "model must be one of"),
        (lambda: uniform.enable(bench, 9), ValueError, r"knob of uniform caching \(computed calls\) at 9: budget must lie in"),
        (lambda: caches.METHODS["PAB"].enable(bench, 2.5), TypeError, "knob of PAB .* at 2.5: every must be a whole number"),
        (lambda: bench.denoise(text[:1], 0), ValueError, "text must be"), (lambda: bench.denoise(text[..., 1:], 0), ValueError, "text must be"),
        (lambda: bench.denoise(text.long(), 0), TypeError, "text must be"), (lambda: bench.denoise(text, None), TypeError, "seed must be"),
        (lambda: bench.denoise(text, 0, flops=()), TypeError, "flops must be"), (lambda: bench.decode(text), ValueError, "latents must be"),
        (lambda: bench.sigma(1000), ValueError, "t must be"), (lambda: caches.Bench("toy-cogvideox", bench.pipe), TypeError, "transformer must be a CogVideoX"),
        (lambda: caches.Bench("toy-latte", None), TypeError, "pipe must be a LattePipeline"),
        (lambda: caches.Bench("toy-latte", bench.pipe, guidance_scale=math.nan), ValueError, "guidance_scale must be"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    assert bench.calibration is known and bench.steps == CALLS
    with pytest.raises(caches.NothingSkipped):
        caches.check_skipped(run)


def test_a_missing_model_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    monkeypatch.setattr(zoo, "MODELS", tmp_path / "models")
    with pytest.raises(FileNotFoundError, match="make model NAME=toy-cogvideox"):
        caches.load("toy-cogvideox")


# -- what does nothing, or something else, by default ------------------------------------------------------------------


def run_with(bench, config):
    with caches.diffusers_cache(bench, config):
        return caches.record(bench, PROMPT, SEED, method=type(config).__name__)


@pytest.mark.parametrize("model", caches.MODELS)
@pytest.mark.parametrize("config", [diffusers.TaylorSeerCacheConfig(), diffusers.SeaCacheConfig()], ids=lambda config: type(config).__name__)
def test_defaults_that_do_nothing_are_noticed(benches, uncached, model, config):
    run = run_with(benches[model], config)
    assert torch.equal(run.clip, uncached[model].clip)
    with pytest.raises(caches.NothingSkipped, match=type(config).__name__):
        caches.check_skipped(run)


def test_a_clock_that_computes_everything_is_noticed(benches):
    with pytest.raises(caches.NothingSkipped, match="uniform caching with its knob at 8"):
        caches.measure(benches["toy-latte"], caches.METHODS["uniform caching"], CALLS, PROMPT, SEED)


@pytest.mark.parametrize("config", [diffusers.FirstBlockCacheConfig(threshold=9.0), diffusers.MagCacheConfig(threshold=9.0, mag_ratios=[1.0] * 28)])
def test_one_residual_for_two_alternating_lists_breaks(benches, uncached, config):
    bench = benches["toy-latte"]
    try:
        wrong = run_with(bench, config).clip  # MagCache goes on without any residual
        assert (wrong - uncached["toy-latte"].clip).abs().max() > 0.1
    except RuntimeError as error:
        assert "size of tensor" in str(error)
    assert torch.equal(bench.sample(PROMPT, SEED), uncached["toy-latte"].clip)


def test_the_default_pattern_of_pab_takes_temporal_blocks_for_spatial_ones(benches):
    bench = benches["toy-latte"]
    options = dict(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: bench.timestep)
    loose = run_with(bench, diffusers.PyramidAttentionBroadcastConfig(**options))
    strict = run_with(bench, diffusers.PyramidAttentionBroadcastConfig(**options, spatial_attention_block_identifiers=("^transformer_blocks",)))
    assert loose.flops < strict.flops < 0.99 * CALLS * bench.full_flops(bench.encode(PROMPT))


@pytest.mark.parametrize("model", caches.MODELS)
def test_the_tensor_format_of_faster_cache_changes_nothing(benches, model):
    bench = benches[model]
    runs = [run_with(bench, diffusers.FasterCacheConfig(tensor_format=f, current_timestep_callback=lambda: bench.timestep)) for f in ("BCFHW", "BFCHW")]
    assert runs[0].computed_calls < CALLS and torch.equal(runs[0].clip, runs[1].clip)  # frames or channels: both are transformed one by one


def test_the_pipeline_of_latte_opens_no_context(benches):
    bench = benches["toy-latte"]
    config = diffusers.TaylorSeerCacheConfig(cache_identifiers=[r".*blocks\.\d+\.attn\d"])
    with caches.diffusers_cache(bench, config), pytest.raises(ValueError, match="No (cache )?context is set"):
        zoo.clip(bench.pipe, PROMPT, SEED, **zoo.entry("toy-latte").call | {"num_inference_steps": 2})


# -- the benchmark's summary -------------------------------------------------------------------------------------------


class FakeBench:
    name, num_calls = "toy-latte", 30


def fake(name, work, psnr):
    row = benchmark.Row(FakeBench, caches.METHODS[name], 1)
    row.work, row.speedups, row.psnr = [work] * len(psnr), [30 / work] * len(psnr), psnr
    return row


def test_curves_are_read_between_settings():
    rows = [fake("AdaCache", 20, [50.0, 52.0]), fake("AdaCache", 12, [40.0, 44.0])]
    np.testing.assert_allclose(benchmark.at_speed(rows, "flops", 2.0), [45.0, 48.0])
    np.testing.assert_allclose(benchmark.at_speed(rows, "seconds", 1.2), [50.0, 52.0])  # faster than asked for is fast enough
    assert benchmark.at_speed(rows, "flops", 3.0) is None


def test_the_front_holds_the_best_and_what_is_not_clearly_worse():
    rows = [fake("AdaCache", 15, [40.0, 44.0, 42.0]), fake("uniform caching", 15, [41.0, 43.5, 41.0]), fake("fewer steps", 15, [35.0, 39.2, 37.1])]
    entry = next(e for e in benchmark.summary(rows) if e["axis"] == "flops" and e["speedup"] == 2.0)
    assert entry["best"] == "AdaCache" and entry["front"] == ["AdaCache", "uniform caching"] and entry["adacache_on_front"]
    nobody = next(e for e in benchmark.summary(rows) if e["speedup"] == 3.0)
    assert "best" not in nobody and nobody["out_of_reach"] == ["AdaCache", "uniform caching", "fewer steps"]


def test_calibration_prompts_are_not_judged():
    assert not set(benchmark.calibration_prompts()) & set(benchmark.toy_latte.held_out_prompts(20))
    assert len(set(benchmark.calibration_prompts(5))) == 5


def test_a_row_of_the_benchmark(benches):
    bench, prompts = benches["toy-latte"], [PROMPT, "a blue disc stays still"]
    reference, row = benchmark.Row(bench), benchmark.Row(bench, caches.METHODS["uniform caching"], 4)
    for one in (reference, row):
        one.count(prompts)
        for seed, prompt in enumerate(prompts):
            one.turn(bench.encode(prompt), seed, 1, reference if one is row else None)
    full, own = reference.result(prompts), row.result(prompts)
    assert full["computed_calls"] == CALLS and full["psnr"] is None and not full["skipped_something"]
    assert 4 < own["computed_calls"] < 4.1 and own["skipped_something"] and 10 < own["psnr_worst"] <= own["psnr"] < 60 and 0 <= own["correct"] <= 1
    assert own["flops"] == pytest.approx(full["flops"] * own["computed_calls"] / CALLS)
