"""Adaptive caching inside whole pipelines of diffusers: six small random ones, from the prompt to the video."""

import contextlib
import copy
import warnings

import diffusers
import pytest
import torch

from helpers.methods.caching_schedules import FAST_30, Codebook, _runs, apply_adacache
from helpers.models import small as small_models
from tests.accelerator import DEVICE, Accelerator, near, offloads

torch.set_num_threads(1)

N = 10
RATE_1 = Codebook((), (1,))
RATE_3 = Codebook((), (3,))
EVERY_3RD = (1, 2, 5, 8, 9, 10)  # what RATE_3 computes of 10 calls
BLOCKS = {"Latte": 6, "CogVideoX": 3, "Wan": 3, "LTX": 3, "Mochi": 3, "HunyuanVideo": 5}
TEXT_STREAM = ("CogVideoX", "Mochi", "HunyuanVideo")
TWO_CONTEXTS = ("Wan", "HunyuanVideo")
CONTEXTS = {name: 2 if name in TWO_CONTEXTS else 1 for name in BLOCKS}

each = pytest.mark.parametrize("name", small_models.VIDEO_PIPELINES)


@pytest.fixture(scope="module")
def pipelines():
    """name -> (pipeline, latents that it makes without a cache)."""
    made = {}

    def get(name):
        if name not in made:
            small = small_models.video_pipeline(name, N)
            made[name] = small, small.call()
        return made[name]

    return get


def block_lists(transformer):
    return [getattr(transformer, name) for name in ("transformer_blocks", "temporal_transformer_blocks", "single_transformer_blocks", "blocks")
            if hasattr(transformer, name)]  # fmt: skip


@contextlib.contextmanager
def counted(transformer):
    """Counts {"calls": of the transformer, "blocks": executions of a block's self-attention} while it is open."""
    counts = {"calls": 0, "blocks": 0}

    def count(what):
        return lambda *_: counts.update({what: counts[what] + 1})

    removers = [transformer.register_forward_hook(count("calls"))]
    for blocks in block_lists(transformer):
        removers += [(getattr(block, "attn1", None) or block.attn).register_forward_hook(count("blocks")) for block in blocks]
    try:
        yield counts
    finally:
        for remover in removers:
            remover.remove()


class Stop(Exception):
    pass


def stop_after(step, error=Stop):
    """A callback that raises when a step (0-based) ends."""

    def callback(pipe, i, t, values):
        if i == step:
            raise error
        return values

    return callback


def assert_close(a, b, share):
    """Equal to a share of the largest value: Latte's untrained latents grow to hundreds."""
    torch.testing.assert_close(a, b, rtol=0, atol=share * b.abs().max().item())


# -- the small pipelines themselves ------------------------------------------------------------------------------------


@each
def test_a_small_pipeline_is_seeded_and_reads_its_prompt(pipelines, name):
    small, plain = pipelines(name)
    other = small_models.video_pipeline(name, N)
    assert torch.equal(other.call(), plain) and plain.isfinite().all()
    assert not torch.equal(small.call(seed=1), plain)
    assert not torch.equal(small.call(prompt="blue disc moves left"), plain)
    assert not torch.equal(small.call(guidance_scale=2.0), plain)  # the unconditional half, or the guidance embedding
    assert type(small.pipe).__name__ == f"{name}Pipeline" and small.pipe.transformer is small.transformer


def test_an_unknown_pipeline_is_refused():
    with pytest.raises(ValueError, match="name must be one of .Latte., .*got 'Sora'"):
        small_models.video_pipeline("Sora")


# -- what is computed, and what comes out ------------------------------------------------------------------------------


@each
def test_rate_1_is_the_uncached_pipeline_to_the_bit(pipelines, name):
    small, plain = pipelines(name)
    video = small.call(output_type="pt")
    with apply_adacache(small.transformer, RATE_1, N) as handle:
        with counted(small.transformer) as counts:
            assert torch.equal(small.call(), plain)
        assert counts["calls"] == small.num_calls * CONTEXTS[name] and counts["blocks"] == counts["calls"] * BLOCKS[name]
        assert torch.equal(small.call(output_type="pt"), video)
    assert [r.computed for r in handle.report] == [tuple(range(1, N + 1))] * 2
    assert {r.context for r in handle.report} == {(small.contexts or ("inference",))[0]}
    assert video.ndim == 5 and 0 <= video.min() < video.max() <= 1


@each
@pytest.mark.parametrize("storage", ["group", "block"])
def test_a_published_codebook_skips_blocks(pipelines, name, storage):
    small, plain = pipelines(name)
    with apply_adacache(small.transformer, FAST_30, N, storage=storage) as handle, counted(small.transformer) as counts:
        cached = small.call()
    report = handle.last
    assert report.complete and len(report.rates) == N and {1, 2, N - 1, N} <= set(report.computed)
    assert len(report.computed) < N
    assert counts == {"calls": N * CONTEXTS[name], "blocks": len(report.computed) * BLOCKS[name] * CONTEXTS[name]}
    assert cached.isfinite().all() and (cached - plain).abs().max() > 1e-4 * plain.abs().max()


@each
def test_storages_agree_runs_repeat_and_remove_restores(pipelines, name):
    small, plain = pipelines(name)
    outputs = []
    for storage in ("group", "block"):
        with apply_adacache(small.transformer, FAST_30, N, storage=storage, record=True) as handle:
            outputs.append(small.call())
            assert torch.equal(small.call(), outputs[-1])
        first, second = handle.report
        assert (first.computed, first.distances, first.rates) == (second.computed, second.distances, second.rates)
        assert all(torch.equal(a, b) for a, b in zip(first.probes, second.probes, strict=True) if a is not None)
        assert torch.equal(small.call(), plain)
    assert_close(outputs[0], outputs[1], 1e-5)


def stack_residuals(transformer):
    """A list that gets, at each call, what the whole stack of blocks adds to (hidden, text), and what takes the recorders off again."""
    calls = []

    def enter(module, args, kwargs):
        names = ("hidden_states", "encoder_hidden_states")
        given = [kwargs[n] if n in kwargs else args[i] if i < len(args) else None for i, n in enumerate(names)]
        calls[-1].setdefault("in", given)

    def leave(module, args, output):
        calls[-1]["out"] = output if isinstance(output, tuple) else (output, None)

    blocks = [block for group in block_lists(transformer) for block in group]
    removers = [transformer.register_forward_pre_hook(lambda *_: calls.append({}))]
    removers += [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    removers += [block.register_forward_hook(leave) for block in blocks]
    return calls, lambda: [remover.remove() for remover in removers]


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "Latte"])  # Latte's blocks do not share one layout
@pytest.mark.parametrize("storage", ["group", "block"])
def test_each_stream_and_each_guidance_branch_gets_its_own_residual(pipelines, name, storage):
    small, _ = pipelines(name)
    calls, remove = stack_residuals(small.transformer)
    try:
        with apply_adacache(small.transformer, RATE_3, N, storage=storage):
            small.call()
    finally:
        remove()
    branches = CONTEXTS[name]
    for stream in (0, 1) if name in TEXT_STREAM else (0,):
        added = [call["out"][stream] - call["in"][stream] for call in calls]
        assert added[0].abs().max() > 1e-2
        for n in range(1, N):
            for b in range(branches):
                now, before = added[n * branches + b], added[(n - 1) * branches + b]
                if n + 1 in EVERY_3RD:
                    assert (now - before).abs().max() > 1e-4
                else:
                    torch.testing.assert_close(now, before, rtol=0, atol=1e-5)
        if branches == 2:
            assert all((added[2 * n] - added[2 * n + 1]).abs().max() > 1e-3 for n in range(N))


@pytest.mark.parametrize("name", TWO_CONTEXTS)
@pytest.mark.parametrize("decide", ["shared", "each"])
def test_guidance_branches_have_one_clock_or_two(pipelines, name, decide):
    small, plain = pipelines(name)
    outputs = []
    recorder = small.transformer.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    try:
        with apply_adacache(small.transformer, FAST_30, N, decide=decide) as handle, counted(small.transformer) as counts:
            cached = small.call()
            computed = counts["blocks"]
            assert torch.equal(small.call(), cached)
    finally:
        recorder.remove()
    runs = handle.report[: len(handle.report) // 2]
    assert [r.context for r in runs] == (["cond"] if decide == "shared" else ["cond", "uncond"])
    assert sum(len(r.computed) for r in runs) * BLOCKS[name] * (2 if decide == "shared" else 1) == computed < 2 * N * BLOCKS[name]
    if decide == "each":
        assert runs[0].distances != runs[1].distances
    guidance = [(cond - uncond).abs().max() for cond, uncond in zip(outputs[::2], outputs[1::2], strict=True)]
    assert len(guidance) == 2 * N and min(guidance) > 1e-3  # at skipped calls too
    assert not torch.equal(cached, plain)


def test_without_guidance_there_is_one_branch(pipelines):
    for name, off in (("Wan", {"guidance_scale": 1.0}), ("HunyuanVideo", {"negative_prompt": None}), ("LTX", {"guidance_scale": 1.0})):
        small, _ = pipelines(name)
        plain = small.call(**off)
        with apply_adacache(small.transformer, RATE_3, N) as handle, counted(small.transformer) as counts:
            assert not torch.equal(small.call(**off), plain)
        assert handle.last.computed == EVERY_3RD and counts == {"calls": N, "blocks": len(EVERY_3RD) * BLOCKS[name]}


@each
def test_a_batch_is_its_videos_one_by_one(pipelines, name):
    """At a fixed rate nothing couples the videos of a batch. (A codebook looks at all of them: one schedule for the batch.)"""
    small, _ = pipelines(name)
    prompts, options = ["red ring moves up", "blue disc moves left"], {}
    if name == "Latte":
        options = {"mask_feature": False}  # with masks, one prompt is cut to its words and two are padded
    if name == "HunyuanVideo":
        options = {"negative_prompt": ["a disc", "a ring"]}

    def of(value, i):
        return value[i] if isinstance(value, list) else value

    with apply_adacache(small.transformer, RATE_3, N) as handle:
        both = small.call(prompt=prompts, generator=[torch.Generator().manual_seed(s) for s in (4, 5)], **options)
        for i, prompt in enumerate(prompts):
            one = small.call(seed=4 + i, prompt=prompt, **{k: of(v, i) for k, v in options.items()})
            assert_close(both[i : i + 1], one, 1e-4)
    assert both.shape[0] == 2 and [r.computed for r in handle.report] == [EVERY_3RD] * 3


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "CogVideoX"])  # its pipeline makes one video a prompt, whatever is asked
def test_several_videos_of_one_prompt(pipelines, name):
    small, _ = pipelines(name)
    several = {"num_images_per_prompt" if name == "Latte" else "num_videos_per_prompt": 2}
    plain = small.call(**several)
    with apply_adacache(small.transformer, RATE_1, N):
        assert torch.equal(small.call(**several), plain)
    with apply_adacache(small.transformer, FAST_30, N) as handle:
        cached = small.call(**several)
    assert cached.shape == plain.shape and len(cached) == 2 and len(handle.last.computed) < N
    assert all(not torch.equal(a, b) for a, b in zip(cached, plain, strict=True))


# -- runs that end early, and numbers of calls -------------------------------------------------------------------------


@each
@pytest.mark.parametrize("step", [0, 1, 4, N - 1])
def test_a_run_stopped_by_its_callback_leaves_nothing_behind(pipelines, name, step):
    small, _ = pipelines(name)
    with apply_adacache(small.transformer, FAST_30, N) as handle:
        fresh = small.call()
        with pytest.raises(KeyboardInterrupt):
            small.call(seed=7, prompt="blue disc", callback_on_step_end=stop_after(step, KeyboardInterrupt))
        assert torch.equal(small.call(), fresh)
    first, stopped, second = handle.report
    assert len(stopped.rates) == step + 1 and first.computed == second.computed and first.distances == second.distances


def given_embeddings(small, name):
    """Arguments that hand over the same embedding tensors at every run."""
    if name == "Wan":
        text, negative = small.pipe.encode_prompt("red ring", "blue disc", max_sequence_length=5)
        return {"prompt": None, "prompt_embeds": text, "negative_prompt_embeds": negative}
    options = {"prompt_template": {"template": "a {}", "crop_start": 1}, "max_sequence_length": 5}
    text, pooled, mask = small.pipe.encode_prompt("red ring", **options)
    text_2, pooled_2, mask_2 = small.pipe.encode_prompt("blue disc", **options)
    return {
        "prompt": None, "prompt_embeds": text, "pooled_prompt_embeds": pooled, "prompt_attention_mask": mask, "negative_prompt": None,
        "negative_prompt_embeds": text_2, "negative_pooled_prompt_embeds": pooled_2, "negative_prompt_attention_mask": mask_2,
    }  # fmt: skip


@pytest.mark.parametrize("name", TWO_CONTEXTS)
@pytest.mark.parametrize("step", [0, 1, 4])
def test_a_stopped_run_is_forgotten_when_the_next_one_brings_the_same_embeddings(pipelines, name, step):
    """These two pipelines pass the caller's tensor on to the transformer, so that it does not tell one run from the next."""
    small, _ = pipelines(name)
    embeddings = given_embeddings(small, name)
    with apply_adacache(small.transformer, RATE_3, N) as handle:
        fresh = small.call(**embeddings)
        with pytest.raises(Stop):
            small.call(callback_on_step_end=stop_after(step), **embeddings)
        assert torch.equal(small.call(**embeddings), fresh)
    assert [len(r.rates) for r in handle.report] == [N, step + 1, N]


@pytest.mark.parametrize("name", TWO_CONTEXTS)
def test_a_run_stopped_between_its_guidance_branches(pipelines, name):
    small, _ = pipelines(name)
    seen = []

    def stop(*_):
        seen.append(1)
        if len(seen) == 8:  # the unconditional call of step 4
            raise Stop

    with apply_adacache(small.transformer, FAST_30, N) as handle:
        fresh = small.call()
        remover = small.transformer.register_forward_pre_hook(stop)
        with pytest.raises(Stop):
            small.call()
        remover.remove()
        assert torch.equal(small.call(), fresh)
    assert [len(r.rates) for r in handle.report] == [N, 4, N]


@each
def test_a_pipeline_that_is_asked_to_stop_ends_the_run(pipelines, name):
    small, _ = pipelines(name)

    def interrupt(pipe, i, t, values):
        pipe._interrupt = i >= 3
        return values

    with apply_adacache(small.transformer, FAST_30, N) as handle:
        fresh = small.call()
        with pytest.warns(UserWarning, match="the run ended after call 4 of the 10"):
            small.call(callback_on_step_end=interrupt)
        assert handle.clock.call == 0  # filed by the pipeline's own end
        assert torch.equal(small.call(), fresh)
    assert [(len(r.rates), r.complete) for r in handle.report] == [(N, True), (4, False), (N, True)]


@each
def test_a_clock_for_fewer_calls_is_refused_and_serves_a_shorter_run(pipelines, name):
    small, _ = pipelines(name)
    with apply_adacache(small.transformer, FAST_30, N - 2) as handle:
        with pytest.raises(ValueError, match=f"call {N - 1} .*num_calls={N - 2}: num_calls counts denoiser calls, not steps"):
            small.call()
        short = small.call(num_inference_steps=N - 2)
        assert handle.last.complete and len(handle.last.rates) == N - 2
        assert torch.equal(small.call(num_inference_steps=N - 2), short)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in Heun's scheduler
@pytest.mark.parametrize(
    "name, scheduler", [("Latte", diffusers.HeunDiscreteScheduler), ("Latte", diffusers.PNDMScheduler), ("Wan", diffusers.FlowMatchHeunDiscreteScheduler)]
)
def test_a_second_order_sampler_calls_more_often_than_it_steps(name, scheduler):
    small = small_models.video_pipeline(name, 6)
    small.pipe.scheduler = scheduler()
    with counted(small.transformer) as counts:
        plain = small.call()
    calls = counts["calls"] // CONTEXTS[name]
    assert calls == (15 if scheduler is diffusers.PNDMScheduler else 2 * 6 - 1)
    with apply_adacache(small.transformer, RATE_3, 6), pytest.raises(ValueError, match="call 7 .*num_calls=6"):
        small.call()
    with apply_adacache(small.transformer, RATE_1, calls) as handle:
        assert torch.equal(small.call(), plain) and handle.last.complete
    with apply_adacache(small.transformer, RATE_3, calls) as handle:
        cached = small.call()
        assert torch.equal(small.call(), cached) and not torch.equal(cached, plain)
    assert all(r.complete and len(r.computed) < calls for r in handle.report)


def test_a_video_to_video_pipeline_calls_less_often_than_it_steps(pipelines):
    from PIL import Image

    small, _ = pipelines("CogVideoX")
    pipe = diffusers.CogVideoXVideoToVideoPipeline(**small.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    video = [Image.new("RGB", (48, 32), (20 * i, 90, 30)) for i in range(9)]

    def sample():
        options = dict(height=32, width=48, num_inference_steps=N, strength=0.6, max_sequence_length=5, output_type="latent")
        return pipe(prompt="red ring", video=video, generator=torch.Generator().manual_seed(0), **options).frames

    with counted(small.transformer) as counts:
        plain = sample()
    assert counts["calls"] == 6
    with apply_adacache(small.transformer, RATE_3, N) as handle, pytest.warns(UserWarning, match="after call 6 of the 10 .*num_calls=pipe.scheduler"):
        sample()
    assert not handle.last.complete and handle.last.computed == (1, 2, 5)  # the end was planned for call 10
    sample()
    with apply_adacache(small.transformer, RATE_3, 6) as handle:
        assert not torch.equal(sample(), plain)
    assert handle.last.complete and handle.last.computed == (1, 2, 5, 6)


def test_two_transformers_that_share_the_steps_have_a_handle_each():
    """As in Wan 2.2: one transformer for the noisy steps, another for the rest; neither sees all calls."""
    small = small_models.video_pipeline("Wan", 12)
    second = copy.deepcopy(small.transformer)
    small.pipe = diffusers.WanPipeline(**{**small.pipe.components, "transformer_2": second}, boundary_ratio=0.7)
    small.pipe.set_progress_bar_config(disable=True)
    with counted(small.transformer) as high, counted(second) as low:
        plain = small.call()
    calls = [counts["calls"] // 2 for counts in (high, low)]
    assert sum(calls) == 12 and min(calls) >= 4
    with apply_adacache(small.transformer, RATE_3, calls[0]) as one, apply_adacache(second, RATE_3, calls[1]) as two:
        cached = small.call()
        with pytest.raises(Stop):
            small.call(callback_on_step_end=stop_after(calls[0] + 1))
        assert torch.equal(small.call(), cached) and not torch.equal(cached, plain)
    assert [len(r.rates) for r in one.report] == [calls[0]] * 3 and [len(r.rates) for r in two.report] == [calls[1], 2, calls[1]]
    assert torch.equal(small.call(), plain)


# -- other caches, other models ----------------------------------------------------------------------------------------


def other_caches(pipe):
    return {
        "FirstBlockCache": diffusers.FirstBlockCacheConfig(threshold=0.2),
        "PyramidAttentionBroadcast": diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: pipe.current_timestep
        ),
        "TaylorSeer": diffusers.TaylorSeerCacheConfig(cache_interval=3, cache_identifiers=[r".*blocks\.\d+\.attn\d?"]),
    }


PAIRS = [(name, "FirstBlockCache") for name in BLOCKS] + [("Wan", "PyramidAttentionBroadcast"), ("HunyuanVideo", "TaylorSeer")]


@pytest.mark.parametrize("name, cache", PAIRS)
def test_a_second_cache_on_top_is_refused(pipelines, name, cache):
    """Its hooks would wrap ours: most pairs fail later, over a probe that never ran; some run and mix two caches."""
    small, plain = pipelines(name)
    config = other_caches(small.pipe)[cache]
    with apply_adacache(small.transformer, RATE_3, N):
        cached = small.call()
        try:
            with pytest.raises(ValueError, match="AdaCache"):
                small.transformer.enable_cache(config)
            assert torch.equal(small.call(), cached)
        finally:
            if getattr(small.transformer, "_cache_config", None) is config:
                small.transformer.disable_cache()
    assert torch.equal(small.call(), plain)
    small.transformer.enable_cache(config)  # afterwards it is welcome
    small.transformer.disable_cache()
    assert torch.equal(small.call(), plain)


def test_a_cache_that_was_applied_by_its_function_is_seen_too():
    """`apply_first_block_cache` sets no flag on the model; CogVideoX would run both, and never say so."""
    from diffusers.hooks import apply_first_block_cache

    config = diffusers.FirstBlockCacheConfig(threshold=0.2)
    small = small_models.video_pipeline("CogVideoX", N)
    apply_first_block_cache(small.transformer, config)
    with pytest.raises(ValueError, match="cache"):
        apply_adacache(small.transformer, RATE_3, N)
    small = small_models.video_pipeline("CogVideoX", N)
    with apply_adacache(small.transformer, RATE_3, N):
        apply_first_block_cache(small.transformer, config)
        with pytest.raises(ValueError, match="cache"):
            small.call()


UNSUPPORTED = {  # models whose blocks diffusers does not list, with the block that the refusal names
    "UNet3DConditionModel": ("CrossAttnDownBlock3D", dict(
        block_out_channels=(4, 8), norm_num_groups=2, cross_attention_dim=4, attention_head_dim=2, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"))),
    "AllegroTransformer3DModel": ("AllegroTransformerBlock", dict(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=48, sample_width=8,
        sample_height=8, sample_frames=3, caption_channels=8)),
    "EasyAnimateTransformer3DModel": ("EasyAnimateTransformerBlock", dict(
        attention_head_dim=16, num_attention_heads=2, in_channels=4, out_channels=4, num_layers=2, mmdit_layers=1, patch_size=2, text_embed_dim=16,
        time_embed_dim=8)),
    "CosmosTransformer3DModel": ("CosmosTransformerBlock", dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2, text_embed_dim=32,
        adaln_lora_dim=4, max_size=(4, 16, 16), patch_size=(1, 2, 2))),
    "HunyuanVideo15Transformer3DModel": ("HunyuanVideo15TransformerBlock", dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=2, num_refiner_layers=1, mlp_ratio=2.0,
        text_embed_dim=8, text_embed_2_dim=8, image_embed_dim=8, rope_axes_dim=(2, 4, 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_model_with_unknown_blocks_is_one_sentence(name):
    block, config = UNSUPPORTED[name]
    model = getattr(diffusers, name)(**config)
    with pytest.raises(ValueError, match=f"{name} has no list of transformer blocks that diffusers knows .*{block}.*TransformerBlockRegistry"):
        apply_adacache(model, FAST_30, N)


def run_any(model, inputs, steps=6):
    """A plain loop over a model that is not among the six."""
    with torch.no_grad():
        x = inputs["hidden_states"]
        for i in range(steps):
            out = model(**{**inputs, "hidden_states": x, "timestep": torch.tensor([900 - 100 * i])}, return_dict=False)[0]
            x = x - 0.1 * out.chunk(len(out[0]) // len(x[0]), dim=1)[0]
    return x


def seeded(model_class, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(**config).eval()
        for parameter in model.parameters():
            if parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


OTHERS = {  # models whose blocks diffusers lists, though nobody made them for this method
    "CogView4Transformer2DModel": (
        dict(patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=4, num_attention_heads=4, text_embed_dim=8,
             time_embed_dim=8, condition_dim=4),
        lambda randn: dict(hidden_states=randn(1, 4, 8, 6), encoder_hidden_states=randn(1, 5, 8), original_size=torch.tensor([[8, 6]]),
                           target_size=torch.tensor([[8, 6]]), crop_coords=torch.tensor([[0, 0]]))),
    "WanVACETransformer3DModel": (  # adds its control signal between the blocks
        dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=6, freq_dim=16,
             ffn_dim=32, num_layers=3, vace_layers=[0, 2], vace_in_channels=8, rope_max_seq_len=32),
        lambda randn: dict(hidden_states=randn(1, 4, 3, 4, 6), encoder_hidden_states=randn(1, 5, 6), control_hidden_states=randn(1, 8, 3, 4, 6),
                           control_hidden_states_scale=torch.ones(2))),
    "DiTTransformer2DModel": (  # reads the timestep embedding of its first block once more after the last
        dict(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, sample_size=8, patch_size=2,
             norm_num_groups=2, num_embeds_ada_norm=1000),
        lambda randn: dict(hidden_states=randn(1, 4, 8, 8), class_labels=torch.tensor([3]))),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_with_known_blocks_are_cached_rightly_or_refused(name):
    config, inputs = OTHERS[name]
    model = seeded(getattr(diffusers, name), config)
    generator = torch.Generator().manual_seed(2)
    inputs = inputs(lambda *shape: torch.randn(shape, generator=generator))
    plain = run_any(model, inputs)
    outputs = {}
    for storage in ("block", "group"):
        try:
            with apply_adacache(model, RATE_1, 6, storage=storage):
                assert torch.equal(run_any(model, inputs), plain)
            with apply_adacache(model, RATE_3, 6, storage=storage):
                outputs[storage] = run_any(model, inputs)
        except ValueError as error:
            assert storage == "group" and "storage='block'" in str(error)
            return
    assert not torch.equal(outputs["block"], plain)
    torch.testing.assert_close(outputs["group"], outputs["block"], rtol=0, atol=1e-5)


# -- a clock that follows the scheduler --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation", "ignore:__array_wrap__")  # in Heun's and KDPM2's schedulers
@pytest.mark.parametrize(
    "name, scheduler, steps, calls",
    [
        ("Latte", diffusers.DDIMScheduler, 6, 6), ("Latte", diffusers.HeunDiscreteScheduler, 6, 11), ("Latte", diffusers.PNDMScheduler, 6, 15),
        ("Latte", diffusers.KDPM2DiscreteScheduler, 6, 11), ("Latte", diffusers.DPMSolverMultistepScheduler, 7, 7), ("Wan", None, 7, 7),
        ("Wan", diffusers.FlowMatchHeunDiscreteScheduler, 6, 11), ("Mochi", None, 5, 5), ("HunyuanVideo", None, 5, 5), ("CogVideoX", None, 4, 4),
    ],
)  # fmt: skip
def test_a_clock_follows_the_scheduler(pipelines, name, scheduler, steps, calls):
    small = small_models.video_pipeline(name, steps) if scheduler is not None else pipelines(name)[0]
    if scheduler is not None:
        small.pipe.scheduler = scheduler()
    with apply_adacache(small.transformer, RATE_3, calls):
        right = small.call(num_inference_steps=steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*the run ended")
        with apply_adacache(small.transformer, RATE_3, small.pipe.scheduler) as handle:
            assert torch.equal(small.call(num_inference_steps=steps), right)
            small.call(num_inference_steps=steps + 1)
    assert [r.complete for r in handle.report] == [True] * 2 and [r.num_calls for r in handle.report][0] == calls < handle.last.num_calls


def test_a_clock_that_follows_the_scheduler_sees_where_a_run_begins(pipelines):
    from PIL import Image

    small, _ = pipelines("CogVideoX")
    pipe = diffusers.CogVideoXVideoToVideoPipeline(**small.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    video = [Image.new("RGB", (48, 32), (20 * i, 90, 30)) for i in range(9)]
    options = dict(prompt="red ring", video=video, height=32, width=48, num_inference_steps=N, max_sequence_length=5, output_type="latent")
    with apply_adacache(small.transformer, RATE_3, pipe.scheduler) as handle:
        for strength in (0.6, 1.0, 0.3):
            pipe(strength=strength, generator=torch.Generator().manual_seed(0), **options)
    assert [(r.num_calls, r.complete) for r in handle.report] == [(6, True), (10, True), (3, True)]


class Times:
    """A scheduler that says nothing but its timesteps."""

    def __init__(self, timesteps, **said):
        self.timesteps = torch.tensor(timesteps)
        vars(self).update(said)

    def set_timesteps(self):
        pass


@pytest.mark.parametrize(
    "scheduler, timestep, left",
    [
        (Times([900.0, 600.0, 300.0]), 900.0, 3), (Times([900.0, 600.0, 300.0]), torch.tensor([300.0, 300.0]), 1), (Times([900.0, 600.0]), None, 2),
        (Times([900.0, 600.0]), 12345.0, 2), (Times([1000.0, 500.5, 1.0]), 1.0, 3),  # a share of 1000 calls, and not the last of them
        (Times([1000.0, 500.0, 250.0]), 0.5, 2), (Times([967.74, 935.4, 700.0]), torch.tensor(968.0, dtype=torch.bfloat16), 3),
        (Times([900.0, 600.0, 600.0, 300.0]), 600.0, 3), (Times([900.0, 600.0, 300.0], begin_index=1), 1.0, 2),
        (Times([900.0, 600.0, 300.0], step_index=2, begin_index=0), 1.0, 1), (Times([1000.0, 600.0, 300.0]), 0.0, 3), (Times([900.0], step_index=5), 0.0, 1),
    ],
)  # fmt: skip
def test_calls_that_are_left(scheduler, timestep, left):
    assert _runs._calls_left(scheduler, timestep) == left


# -- wrappers, and a cache whose handle is lost ------------------------------------------------------------------------


class Wrapper(torch.nn.Module):
    """As peft's: a module that holds the model and hands calls on."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


WRAPPERS = {
    "peft": lambda model: Wrapper(Wrapper(model)),
    "DataParallel": lambda model: torch.nn.DataParallel(model),
    "compile": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_models_are_unwrapped(wrapper):
    net = small_models.video_transformer("Wan", 4)
    plain, model = net.sample(), net.model
    with apply_adacache(model, RATE_3, 4, last=0):
        right = net.sample()
    net.model = WRAPPERS[wrapper](model)
    with apply_adacache(net.model, RATE_3, 4, last=0) as handle:
        torch.testing.assert_close(net.sample(), right)
        assert handle.transformer is model and handle.last.computed == (1, 2)
    torch.testing.assert_close(net.sample(), plain)


def test_a_model_that_is_copied_to_several_devices_is_refused():
    parallel = torch.nn.DataParallel(small_models.video_transformer("Wan", 4).model)
    parallel.device_ids = [0, 1]
    with pytest.raises(ValueError, match="DataParallel over several devices.*DistributedDataParallel"):
        apply_adacache(parallel, RATE_3, 4)


def test_a_cache_whose_handle_is_lost_comes_off(pipelines):
    small, plain = pipelines("CogVideoX")
    model = small.transformer
    apply_adacache(model, RATE_3, N)
    assert model.is_cache_enabled and not torch.equal(small.call(), plain)
    with pytest.raises(ValueError, match=r"already has AdaCache applied; call transformer.disable_cache\(\)"):
        apply_adacache(model, RATE_3, N)
    with pytest.raises(ValueError, match="AdaCache"):
        model.enable_cache(diffusers.FirstBlockCacheConfig())
    model.disable_cache()
    assert not model.is_cache_enabled and torch.equal(small.call(), plain) and "disable_cache" not in vars(model)
    with apply_adacache(model, RATE_3, N):
        assert not torch.equal(small.call(), plain)
    model.enable_cache(diffusers.FirstBlockCacheConfig())  # the model's own method is back
    model.disable_cache()
    assert torch.equal(small.call(), plain)


def test_what_is_no_model_is_refused_in_words(pipelines):
    small, _ = pipelines("CogVideoX")
    with pytest.raises(TypeError, match=r"transformer must be a torch module, got CogVideoXPipeline \(give pipe.transformer\)"):
        apply_adacache(small.pipe, RATE_3, N)
    with pytest.raises(TypeError, match=r"num_calls must be an integer or a scheduler, got CogVideoXPipeline \(give pipe.scheduler\)"):
        apply_adacache(small.transformer, RATE_3, small.pipe)


# -- memory and precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", [None, *offloads])
@pytest.mark.parametrize("name, cache_first", [("Latte", False), ("Latte", True), ("Wan", False)])
def test_offloaded_pipelines(offload, cache_first, name):
    def prepare(small):
        return offloads[offload](small.pipe) if offload else small.pipe.to(DEVICE)

    with Accelerator():
        small = small_models.video_pipeline(name, 4)
        if not cache_first:
            prepare(small)
        handle = apply_adacache(small.transformer, RATE_1, 4)
        if cache_first:
            prepare(small)
        all_calls = near(small.call())
        kept = handle._cache.states._state_cache
        handle.remove()
        assert torch.equal(near(small.call()), all_calls)  # the offloading is still there
        with apply_adacache(small.transformer, RATE_3, 4, last=0, record=True) as handle:
            cached = near(small.call())
            assert torch.equal(near(small.call()), cached)
    assert kept == {} and handle.last.computed == (1, 2) and handle.last.probes[0].device.type == "cpu"
    here = small_models.video_pipeline(name, 4)
    assert_close(all_calls, here.call(), 1e-5)
    with apply_adacache(here.transformer, RATE_3, 4, last=0):
        assert_close(cached, here.call(), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("storage", ["group", "block"])
def test_half_precision(dtype, storage):
    net = small_models.video_transformer("Latte", 6)
    net.model, net.start, net.text = net.model.to(dtype), net.start.to(dtype), net.text.to(dtype)
    plain = net.sample()
    for expect, reuse in (("hold", "hold"), ("linear", "linear")):
        with apply_adacache(net.model, RATE_1, 6, storage=storage, expect=expect, reuse=reuse):
            assert torch.equal(net.sample(), plain)
        with apply_adacache(net.model, RATE_3, 6, storage=storage, expect=expect, reuse=reuse, record=True) as handle:
            found = net.sample()
        assert found.dtype == dtype and found.isfinite().all() and all(d is None or 0 < d < 10 for d in handle.last.distances)
        assert handle.last.residuals[0][0].dtype == dtype
