"""Pipelines that call the model once per guidance branch and open no cache context: each branch keeps its own residuals, or the call is refused."""

import contextlib
import gc
import itertools
import warnings

import diffusers
import pytest
import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from PIL import Image

from helpers.methods.caching_schedules import Codebook, FixedClock, apply_adacache
from helpers.models import small as small_models

torch.set_num_threads(1)

N = 8
RATE_3 = Codebook((), (3,))
EVERY_3RD = (1, 2, 5, 7, 8)  # what RATE_3 computes of 8 calls
architectures = pytest.mark.parametrize("name", small_models.VIDEO_TRANSFORMERS)


@pytest.fixture(scope="module")
def nets():
    made = {}
    return lambda name: made.setdefault(name, None) or made.update({name: small_models.video_transformer(name, N)}) or made[name]


@torch.no_grad()
def guided(net, contexts, *, order=("cond", "uncond"), fresh=False, late=0, calls=N, texts=None):
    """A sampling loop with guidance. fresh: a new text tensor at every call; late: steps at the beginning without guidance."""
    texts = texts or {"cond": net.text, "uncond": -net.text.flip(1)}
    x = net.start
    for n in range(1, calls + 1):
        out = {}
        for branch in order:
            if branch == "cond" or n > late:
                with net.model.cache_context(branch) if contexts else contextlib.nullcontext():
                    out[branch] = net.call(x, n, texts[branch].clone() if fresh else texts[branch])
        v = out["cond"] + 2 * (out["cond"] - out.get("uncond", out["cond"]))
        x = x - 0.1 * (v.chunk(2, dim=1)[0] if v.shape != x.shape else v)
    return x


@architectures
@pytest.mark.parametrize("decide", ["shared", "each"])
def test_branches_are_told_apart_by_their_text(nets, name, decide):
    """Right is what a context around the calls of each branch gives."""
    net = nets(name)
    for how in ({}, {"fresh": True}, {"late": 3}, {"order": ("uncond", "cond")})[: 4 if name in ("Wan", "Latte") else 1]:
        with apply_adacache(net.model, RATE_3, N, decide=decide) as handle:
            right = guided(net, True, **how)
        with apply_adacache(net.model, RATE_3, N, decide=decide) as other:
            assert torch.equal(guided(net, False, **how), right)
            assert torch.equal(guided(net, False, **how), right)  # a second run begins with its own texts
        assert [r.computed for r in other.report[: len(handle.report)]] == [r.computed for r in handle.report]
        assert other.report[0].context == "inference"
    if decide == "each":
        assert [r.context for r in other.report] == ["inference", "inference 2"] * 2


def test_guidance_that_begins_late_and_first_in_its_step_follows_the_step(nets):
    net = nets("Wan")
    blocks = []
    remover = net.model.blocks[0].attn1.register_forward_hook(lambda *_: blocks.append(1))
    with apply_adacache(net.model, RATE_3, N) as handle:
        guided(net, False, order=("uncond", "cond"), late=3)
    remover.remove()
    assert handle.last.computed == EVERY_3RD and handle.last.complete
    assert len(blocks) == 2 + 1 + 2 * 3  # calls 1 and 2; the branch that is new at call 4; both at 5, 7 and 8


def test_a_text_that_changes_on_the_way_is_computed_and_goes_on(nets):
    """Prompt travel: what was stored belongs to another text."""
    net = nets("Wan")
    blocks = []
    remover = net.model.blocks[0].attn1.register_forward_hook(lambda *_: blocks.append(1))
    with torch.no_grad(), apply_adacache(net.model, RATE_3, N) as handle:
        for n in range(1, N + 1):
            net.call(net.start, n, net.text if n < 4 else net.text * 2)
    remover.remove()
    assert handle.last.complete and handle.last.computed == EVERY_3RD and len(blocks) == len(EVERY_3RD) + 1


def test_a_stopped_run_is_forgotten(nets):
    net = nets("Wan")
    with apply_adacache(net.model, RATE_3, N) as handle:
        fresh = guided(net, False)
        for calls, texts in ((1, None), (3, None), (5, {"cond": net.text * 2, "uncond": net.text * 3})):
            guided(net, False, calls=calls, texts=texts)
            assert torch.equal(guided(net, False), fresh)
    assert [len(r.rates) for r in handle.report] == [N, 1, N, 3, N, 5, N]


def test_equal_texts_are_two_branches_while_both_are_there(nets):
    net = nets("Wan")
    texts = {"cond": net.text, "uncond": net.text.clone()}
    with apply_adacache(net.model, RATE_3, N) as handle:
        right = guided(net, True, texts=texts)
    with apply_adacache(net.model, RATE_3, N) as handle:
        assert torch.equal(guided(net, False, texts=texts), right)
    assert handle.last.computed == EVERY_3RD and handle.last.complete


@pytest.mark.parametrize("num_calls", [N, 2 * N])
def test_branches_that_nothing_tells_apart_are_refused(nets, num_calls):
    net = nets("Wan")
    with apply_adacache(net.model, RATE_3, num_calls) as handle:
        with pytest.raises(ValueError, match="guidance branches .*cache context around the calls of each branch"):
            guided(net, False, texts={"cond": net.text, "uncond": net.text})
        handle.reset()


def test_latents_may_be_written_in_place(nets):
    """One buffer for the latents of a second-order sampler, which repeats timesteps: they are others all the same."""
    net = nets("Wan")
    times = [0, 1, 1, 2, 2, 3, 3, 4]

    @torch.no_grad()
    def sample(contexts):
        x, texts = net.start.clone(), {"cond": net.text, "uncond": -net.text.flip(1)}
        for n in times:
            out = {}
            for branch in texts:
                with net.model.cache_context(branch) if contexts else contextlib.nullcontext():
                    out[branch] = net.call(x, n + 1, texts[branch])
            x -= 0.1 * (2 * out["cond"] - out["uncond"])
        return x

    with apply_adacache(net.model, RATE_3, len(times)):
        right = sample(True)
    with apply_adacache(net.model, RATE_3, len(times)) as handle:
        assert torch.equal(sample(False), right)
    assert handle.last.computed == EVERY_3RD


def test_branches_within_one_context_are_refused(nets):
    """One context for both would share their residuals."""
    net = nets("Wan")
    with torch.no_grad(), apply_adacache(net.model, RATE_3, 2 * N) as handle:
        with net.model.cache_context("all"), pytest.raises(ValueError, match="guidance branches"):
            for n in range(1, N + 1):
                for text in (net.text, -net.text):
                    net.call(net.start * n, n, text)
        handle.reset()


def test_text_of_another_length_is_a_branch_of_its_own(nets):
    net = nets("Wan")
    texts = {"cond": net.text, "uncond": net.text[:, :3]}
    with apply_adacache(net.model, RATE_3, N):
        right = guided(net, True, texts=texts)
    with apply_adacache(net.model, RATE_3, N) as handle:
        assert torch.equal(guided(net, False, texts=texts), right)
    assert handle.last.complete


# -- whole pipelines ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video_to_video():
    """WanVideoToVideoPipeline: two calls a step, no context."""
    small = small_models.video_pipeline("Wan", N)
    parts = {part: small.pipe.components[part] for part in ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")}
    pipe = diffusers.WanVideoToVideoPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    video = [Image.new("RGB", (48, 32), (20 * i, 90, 30)) for i in range(9)]
    text, empty = (torch.randn(1, 5, pipe.transformer.config.text_dim, generator=torch.Generator().manual_seed(i)) for i in range(2))

    def sample(**changes):
        options = dict(height=32, width=48, num_inference_steps=N, strength=1.0, guidance_scale=4.0, output_type="latent")
        options |= {"prompt_embeds": text, "negative_prompt_embeds": empty}
        return pipe(video=video, generator=torch.Generator().manual_seed(0), **{**options, **changes}).frames

    return pipe, sample


def with_contexts(model, sample):
    """The same with a context opened by hand around the calls of each branch."""
    inner, names = model.forward, itertools.cycle(("cond", "uncond"))

    def forward(*args, **kwargs):
        with model.cache_context(next(names)):
            return inner(*args, **kwargs)

    model.forward = forward
    try:
        return sample()
    finally:
        model.forward = inner


def test_video_to_video_keeps_the_residuals_of_its_branches_apart(video_to_video):
    pipe, sample = video_to_video
    plain = sample()
    with apply_adacache(pipe.transformer, clock=FixedClock([1, 4, 7], N)):
        right = with_contexts(pipe.transformer, sample)
    with apply_adacache(pipe.transformer, clock=FixedClock([1, 4, 7], N)) as handle:
        found = sample()
        assert torch.equal(found, sample())
    assert torch.equal(found, right) and not torch.equal(found, plain)
    assert [str(r) for r in handle.report] == ["inference: 3 of 8 calls computed #..#..#."] * 2
    assert torch.equal(sample(), plain)


def test_the_calls_of_all_branches_are_no_number_of_calls(video_to_video):
    """Twice the calls, as an error about too few may suggest, would give the schedule of another video."""
    pipe, sample = video_to_video
    with apply_adacache(pipe.transformer, RATE_3, 2 * N) as handle:
        with pytest.raises(ValueError, match="num_calls=16 is the number of calls of all 2 guidance branches together.*give num_calls=8"):
            sample()
        assert handle.clock.call == 0 and not handle.last.complete
    with apply_adacache(pipe.transformer, RATE_3, N - 1), pytest.raises(ValueError, match="call 8 .*num_calls=7.* of one guidance branch.*cache_context"):
        sample()
    with pytest.warns(UserWarning, match="all 2 guidance branches"), apply_adacache(pipe.transformer, RATE_3, 2 * N):
        guided(small_models_like(pipe.transformer), False)


def small_models_like(model):
    net = small_models.video_transformer("Wan", N)
    net.model = model
    return net


@pytest.mark.parametrize("strength, calls", [(1.0, 8), (0.5, 4)])
def test_the_scheduler_says_how_many_calls_there_are(video_to_video, strength, calls):
    pipe, sample = video_to_video
    with apply_adacache(pipe.transformer, RATE_3, calls):
        right = sample(strength=strength)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with apply_adacache(pipe.transformer, RATE_3, pipe.scheduler) as handle:
            assert torch.equal(sample(strength=strength), right)
    assert handle.last.complete and handle.last.num_calls == calls


class LuminaLike:
    """Lumina2Transformer2DModel: lists of blocks that refine text and picture before the main one, and no caching of diffusers' own."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = diffusers.Lumina2Transformer2DModel(
                sample_size=4, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1, num_attention_heads=3, num_kv_heads=3,
                multiple_of=8, axes_dim_rope=(4, 2, 2), axes_lens=(30, 12, 12), cap_feat_dim=6,
            ).eval()  # fmt: skip
            self.start, self.cond, self.uncond = torch.randn(1, 4, 4, 6), torch.randn(1, 5, 6), torch.randn(1, 3, 6)

    @torch.no_grad()
    def sample(self, calls=N):
        x = self.start
        for n in range(calls):
            out = []
            for text in (self.cond, self.uncond):
                masks = dict(encoder_attention_mask=torch.ones(text.shape[:2]).bool())
                out += self.model(hidden_states=x, timestep=torch.tensor([n / N]), encoder_hidden_states=text, return_dict=False, **masks)
            x = x + 0.1 * (2 * out[0] - out[1])
        return x


def test_lumina_with_its_blocks_registered():
    from diffusers.models.transformers.transformer_lumina2 import Lumina2TransformerBlock

    net = LuminaLike()
    plain = net.sample()
    TransformerBlockRegistry.register(Lumina2TransformerBlock, TransformerBlockMetadata(return_hidden_states_index=0))
    try:
        outputs = []
        for storage in ("group", "block"):
            with apply_adacache(net.model, Codebook((), (1,)), N, storage=storage):
                assert torch.equal(net.sample(), plain)
            with apply_adacache(net.model, RATE_3, N, storage=storage, probe="layers.0.attn") as handle:
                outputs.append(net.sample())
                assert torch.equal(net.sample(), outputs[-1])
            assert [r.computed for r in handle.report] == [EVERY_3RD] * 2
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
        with apply_adacache(net.model, RATE_3, 2 * N), pytest.warns(UserWarning, match="all 2 guidance branches"):
            net.sample()
            net.model.disable_cache()
        assert torch.equal(net.sample(), plain)
    finally:
        TransformerBlockRegistry._registry.pop(Lumina2TransformerBlock)


def test_texts_are_not_kept_alive_by_name_only(nets):
    """A run that is over holds nothing of its texts."""
    net = nets("Wan")
    with apply_adacache(net.model, RATE_3, N) as handle:
        guided(net, False)
        handle.reset()
        gc.collect()
        assert not handle._cache.states._state_cache and handle._cache.latents is None
