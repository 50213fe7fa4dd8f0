"""What people do with a cached model: stop it, begin again further down, copy it, change its blocks, swap the scheduler, run windows, threads and compilers."""

import contextlib
import copy
import io
import pickle
import threading
import warnings

import diffusers
import numpy as np
import pytest
import torch

from helpers.methods import caching_schedules as ada
from helpers.methods.caching_schedules import Codebook, FixedClock, apply_adacache
from helpers.models import small as small_models
from tests.accelerator import DEVICE, Accelerator

torch.set_num_threads(1)

N = 12
RATE_3 = Codebook((), (3,))
LATER = 6  # the call of a run of N at which the second run begins: a lower timestep


def wan(calls=N):
    return small_models.video_transformer("Wan", calls)


def random_like(x, seed):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(net, first, last, *, text=None, context=None, seed=1):
    """Calls first .. last of the loop of `net`, from latents of their own."""
    x = random_like(net.start, seed)
    for n in range(first, last + 1):
        with net.model.cache_context(context) if context else contextlib.nullcontext():
            out = net.call(x, n, text)
        x = x - 0.1 * (out.chunk(2, dim=1)[0] if out.shape != x.shape else out)
    return x


def schedules(handle):
    return [(r.context, r.computed, len(r.rates)) for r in handle.report]


# -- a run that was stopped, and one that begins at a lower timestep ---------------------------------------------------


@pytest.mark.parametrize("name", ["CogVideoX", "Wan", "Mochi"])
@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_another_text_in_a_context_begins_a_new_run(name, stopped_after):
    net = small_models.video_transformer(name, N)
    other = random_like(net.text, 8)
    book = Codebook((0.02, 0.2), (4, 3, 1))
    with apply_adacache(net.model, book, N) as handle:
        right = run(net, LATER, N, text=other, context="cond")
        handle.reset()
        run(net, 1, stopped_after, context="cond")
        assert torch.equal(run(net, LATER, N, text=other, context="cond"), right)
        handle.reset()
    fresh, stopped, again = handle.report
    assert len(stopped.rates) == stopped_after and (again.computed, again.distances) == (fresh.computed, fresh.distances)


@pytest.mark.parametrize("context", [None, "cond"])
@pytest.mark.parametrize("stopped_after", [2, 3, 5])
def test_text_tensors_that_give_way_to_equal_ones_begin_a_new_run(context, stopped_after):
    """The same prompt once more: a pipeline encodes it anew."""
    net = wan()
    with apply_adacache(net.model, RATE_3, N) as handle:
        right = run(net, LATER, N, context=context)
        handle.reset()
        run(net, 1, stopped_after, context=context)
        assert torch.equal(run(net, LATER, N, text=net.text.clone(), context=context), right)
        handle.reset()
    assert [len(r.rates) for r in handle.report] == [N - LATER + 1, stopped_after, N - LATER + 1]


@pytest.mark.parametrize("context", [None, "cond"])
def test_a_loop_that_brings_a_copy_of_its_text_at_every_call_is_one_run(context):
    net = wan()
    x = net.start
    with torch.no_grad(), apply_adacache(net.model, RATE_3, N) as handle:
        for n in range(1, N + 1):
            with net.model.cache_context(context) if context else contextlib.nullcontext():
                x = x - 0.1 * net.call(x, n, net.text.clone())
    with apply_adacache(net.model, RATE_3, N):
        assert torch.equal(x, net.sample())
    assert schedules(handle) == [(context or "inference", (1, 2, 5, 8, 11, 12), N)]


def test_equal_texts_that_change_places_are_known_by_their_tensors():
    """Two branches with equal numbers: the order of the calls may turn round without a new run."""
    net = wan()
    texts = {"cond": net.text, "uncond": net.text.clone()}
    outputs = []
    for contexts in (True, False):
        x = net.start
        with torch.no_grad(), apply_adacache(net.model, RATE_3, N) as handle:
            for n in range(1, N + 1):
                out = {}
                for branch in list(texts)[:: 1 if n < 4 else -1]:
                    with net.model.cache_context(branch) if contexts else contextlib.nullcontext():
                        out[branch] = net.call(x, n, texts[branch])
                x = x - 0.1 * (2 * out["cond"] - out["uncond"])
        outputs.append(x)
        assert [r.computed for r in handle.report] == [(1, 2, 5, 8, 11, 12)]
    assert torch.equal(*outputs)


class Times:
    """A scheduler that is set anew for every run and says nothing but its timesteps."""

    def __init__(self, net):
        self.net = net

    def set_timesteps(self, first):
        self.timesteps = self.net.times[first - 1 :].clone()


@pytest.mark.parametrize("name, context", [("Wan", None), ("Latte", None), ("CogVideoX", "cond_uncond")])
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_scheduler_that_was_set_anew_begins_a_new_run(name, context, stopped_after):
    """The same tensor as text: nothing else tells the runs apart."""
    net = small_models.video_transformer(name, N)
    scheduler = Times(net)

    def from_(first, last=N):
        scheduler.set_timesteps(first)
        return run(net, first, last, context=context)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with apply_adacache(net.model, RATE_3, scheduler) as handle:
            right = from_(LATER)
            from_(1, stopped_after)
            assert torch.equal(from_(LATER), right)
    assert [(r.num_calls, len(r.rates), r.complete) for r in handle.report] == [(7, 7, True), (N, stopped_after, False), (7, 7, True)]
    assert handle.report[0].distances == handle.report[2].distances


class Stop(Exception):
    pass


def stop_after(step):
    def callback(pipe, i, t, values):
        if i == step:
            raise Stop
        return values

    return callback


@pytest.mark.parametrize("prompt", ["red ring moves up", "blue disc"])
@pytest.mark.parametrize("step", [0, 2])
def test_fewer_steps_after_a_stopped_pipeline(prompt, step):
    """Leading timesteps: a run of fewer steps begins further down."""
    small = small_models.video_pipeline("Latte", 20)
    with apply_adacache(small.transformer, RATE_3, small.pipe.scheduler) as handle:
        fresh = small.call(seed=5, num_inference_steps=6, prompt=prompt)
        with pytest.raises(Stop):
            small.call(callback_on_step_end=stop_after(step))
        assert torch.equal(small.call(seed=5, num_inference_steps=6, prompt=prompt), fresh)
    assert [(r.num_calls, len(r.rates)) for r in handle.report] == [(6, 6), (20, step + 1), (6, 6)]


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("follow", [True, False])
def test_video_to_video_after_a_stopped_text_to_video(step, follow):
    """Wan: the one pipeline opens contexts and says its step, the other does not."""
    small = small_models.video_pipeline("Wan", 10)
    parts = {part: small.pipe.components[part] for part in ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")}
    other = diffusers.WanVideoToVideoPipeline(**parts)
    other.set_progress_bar_config(disable=True)
    text, empty = (torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(i)) for i in range(2))
    options = dict(prompt_embeds=text, negative_prompt_embeds=empty, guidance_scale=4.0, num_inference_steps=10, output_type="latent", height=32, width=48)
    video = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(3))

    def second():
        return other(video=video, strength=0.6, generator=torch.Generator().manual_seed(5), **options).frames

    with apply_adacache(small.transformer, RATE_3, small.pipe.scheduler if follow else 6) as handle:
        fresh = second()
        with pytest.raises(Stop):
            small.pipe(num_frames=9, callback_on_step_end=stop_after(step), generator=torch.Generator().manual_seed(0), **options)
        assert torch.equal(second(), fresh)
        with pytest.raises(Stop):  # and the other way round
            other(video=video, strength=0.6, callback_on_step_end=stop_after(step), generator=torch.Generator().manual_seed(5), **options)
        with pytest.raises(Stop):
            small.pipe(num_frames=9, callback_on_step_end=stop_after(3), generator=torch.Generator().manual_seed(0), **options)
        handle.reset()
    assert [(r.context, len(r.rates)) for r in handle.report] == [
        ("inference", 6), ("cond", step + 1), ("inference", 6), ("inference", step + 1), ("cond", 4)
    ]  # fmt: skip


def test_the_run_of_another_context_does_not_follow_a_clock_that_stands_still():
    net = wan()
    with apply_adacache(net.model, RATE_3, N) as handle:
        right = run(net, 1, N, context="cond", seed=4)
        run(net, 1, 7, context="cond_uncond")
        assert torch.equal(run(net, 1, N, context="cond", seed=4), right)
    assert schedules(handle) == [(c, (1, 2, 5, *rest), n) for c, rest, n in
                                 (("cond", (8, 11, 12), N), ("cond_uncond", (), 7), ("cond", (8, 11, 12), N))]  # fmt: skip


def test_guidance_that_ends_hands_the_clock_to_the_branch_that_goes_on():
    """The deciding context came first and is left out from some step on."""
    net, blocks = wan(), []
    net.model.blocks[0].attn1.register_forward_hook(lambda *_: blocks.append(1))
    other = random_like(net.text, 3)
    with torch.no_grad(), apply_adacache(net.model, RATE_3, N) as handle:
        for n in range(1, N + 1):
            for context, text in (("uncond", other), ("cond", net.text))[int(n > 6) :]:
                with net.model.cache_context(context):
                    net.call(net.start, n, text)
    assert schedules(handle) == [("cond", (1, 2, 5, 8, 11, 12), N)] and len(blocks) == 2 * 3 + 3


def test_two_texts_in_turn_within_one_context_are_refused():
    net = wan()
    with torch.no_grad(), apply_adacache(net.model, RATE_3, 2 * N) as handle:
        with net.model.cache_context("all"), pytest.raises(ValueError, match="two texts in turn within the cache context 'all': guidance branches"):
            for n in (1, 2):
                for text in (net.text, -net.text):
                    net.call(net.start * n, n, text)
        handle.reset()
        for text in (net.text, -net.text):  # the same seed with another prompt, after a run that was stopped at once
            with net.model.cache_context("all"):
                net.call(net.start, 1, text)
        with net.model.cache_context("all"):
            net.call(net.start, 2, -net.text)
        handle.reset()


# -- copies ------------------------------------------------------------------------------------------------------------

COPIES = {
    "deepcopy": copy.deepcopy, "deepcopy of a block": lambda model: copy.deepcopy(model.blocks[1]), "pickle": pickle.dumps,
    "torch.save": lambda model: torch.save(model, io.BytesIO()), "in a pipeline": lambda model: copy.deepcopy({"transformer": model}),
    "replica": lambda model: model._replicate_for_data_parallel(),
}  # fmt: skip


@pytest.mark.parametrize("how", COPIES)
def test_a_model_with_the_cache_on_it_is_not_copied(how):
    net = wan(6)
    plain = net.sample()
    with apply_adacache(net.model, clock=FixedClock([1, 3, 5], 6)):
        cached = net.sample()
        with pytest.raises(TypeError, match=r"has AdaCache applied.*original's weights.*disable_cache\(\), or remove\(\).*apply it again to each"):
            COPIES[how](net.model)
        assert torch.equal(net.sample(), cached)
    assert torch.equal(net.sample(), plain)
    COPIES[how](net.model)


def test_a_copy_that_is_made_without_the_cache_works_alone():
    net, other = wan(6), wan(6)
    handle = apply_adacache(net.model, clock=FixedClock([1, 3, 5], 6))
    right = net.sample()
    handle.remove()
    for twin in (copy.deepcopy(net.model), pickle.loads(pickle.dumps(net.model))):
        with torch.no_grad():
            [p.mul_(1.5) for p in twin.parameters()]
        other.model = twin
        with apply_adacache(twin, clock=FixedClock([1, 3, 5], 6)) as one, apply_adacache(net.model, clock=FixedClock([1, 3, 5], 6)) as two:
            found = other.sample()
            assert len(one.report) == 1 and two.report == [] and torch.equal(net.sample(), right) and not torch.equal(found, right)


def test_a_model_with_the_cache_on_it_is_saved_by_its_own_means(tmp_path):
    net = wan(4)
    plain, weights = net.sample(), net.model.state_dict()
    with apply_adacache(net.model, RATE_3, 4):
        net.model.save_pretrained(tmp_path)
        assert net.model.state_dict().keys() == weights.keys()
    net.model = diffusers.WanTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(net.sample(), plain)


# -- blocks that change ------------------------------------------------------------------------------------------------


def fresh_block():
    return wan().model.blocks[2]


def _set(model, blocks):
    model.blocks = torch.nn.ModuleList(blocks)


CHANGES = {
    "replaced": (lambda m: m.blocks.__setitem__(2, fresh_block()), "some were replaced"),
    "the middle one replaced": (lambda m: m.blocks.__setitem__(1, fresh_block()), "some were replaced"),
    "order": (lambda m: _set(m, [m.blocks[0], m.blocks[2], m.blocks[1]]), "some were replaced"),
    "pruned": (lambda m: _set(m, m.blocks[:2]), "3 then, 2 now"),
    "appended": (lambda m: m.blocks.append(fresh_block()), "3 then, 4 now"),
    "removed": (lambda m: m.blocks.__delitem__(0), "3 then, 2 now"),
    "without a list": (lambda m: m._modules.pop("blocks"), "3 then, 0 now"),
}


@pytest.mark.parametrize("storage", ["group", "block"])
@pytest.mark.parametrize("when", [0, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_blocks_that_changed_after_applying_are_refused(change, when, storage):
    net = wan(6)
    alter, said = CHANGES[change]
    handle = apply_adacache(net.model, clock=FixedClock([1, 3, 5], 6), storage=storage)
    if when:
        run(net, 1, when)
    old = list(net.model.blocks)
    alter(net.model)
    now = list(getattr(net.model, "blocks", []))
    with pytest.raises(ValueError, match=rf"blocks of 'blocks' are not those.*\({said}\): call transformer.disable_cache\(\) and apply_adacache again"):
        net.sample()
    assert list(getattr(net.model, "blocks", [])) == now  # nothing is undone
    net.model.disable_cache()
    assert not any(block._diffusers_hook.hooks for block in old)
    if now:
        plain = net.sample()
        with apply_adacache(net.model, clock=FixedClock(range(1, 7), 6)) as handle:
            assert torch.equal(net.sample(), plain)
        assert handle.groups == {"blocks": len(now)}


def test_a_list_that_was_made_anew_of_the_same_blocks_is_followed():
    net = wan(6)
    with apply_adacache(net.model, clock=FixedClock([1, 3, 5], 6)) as handle:
        right = net.sample()
        _set(net.model, list(net.model.blocks))
        blocks = net.model.blocks
        assert torch.equal(net.sample(), right) and net.model.blocks is blocks
    assert len(handle.report) == 2


def test_an_old_handle_leaves_a_later_cache_on_a_moved_block_alone():
    one, two = wan(6), wan(6)
    old = apply_adacache(one.model, clock=FixedClock([1, 3, 5], 6))
    moved = one.model.blocks[2]
    moved._diffusers_hook.remove_hook("adacache_block", recurse=False)
    two.model.blocks[2] = moved
    with apply_adacache(two.model, clock=FixedClock([1, 3, 5], 6)) as handle:
        right = two.sample()
        old.remove()
        assert torch.equal(two.sample(), right)
    assert [r.computed for r in handle.report] == [(1, 3, 5)] * 2


# -- compilers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after a run", "new list", "once applied"])
def test_blocks_that_are_compiled_one_by_one(when):
    net = wan(6)
    plain = net.sample()
    with apply_adacache(net.model, clock=FixedClock([1, 3, 5], 6)):
        right = net.sample()

    def compiled():
        return [torch.compile(block, backend="eager") for block in net.model.blocks]

    if when != "once applied":
        _set(net.model, compiled())
    if when == "after a run":
        assert torch.equal(net.sample(), plain)
    with apply_adacache(net.model, RATE_3, 6, probe="blocks.0.attn1", record=True) as handle:
        if when == "once applied":
            for i, block in enumerate(compiled()):
                net.model.blocks[i] = block
        if when == "new list":
            _set(net.model, list(net.model.blocks))
        net.sample()
    assert handle.last.computed == (1, 2, 5, 6) and handle.last.probes[0].shape[-1] == 24
    with apply_adacache(net.model, clock=FixedClock([1, 3, 5], 6)) as handle:
        assert torch.equal(net.sample(), right)
    assert handle.probe == "blocks.1.attn1" and type(net.model.blocks[0]).__name__ == "OptimizedModule"
    assert torch.equal(net.sample(), plain)


# -- a scheduler that was swapped, and two transformers ----------------------------------------------------------------


@pytest.mark.parametrize("steps", [6, 14])
def test_a_scheduler_that_was_swapped_is_named(steps):
    small = small_models.video_pipeline("CogVideoX", 10)
    with apply_adacache(small.transformer, RATE_3, small.pipe.scheduler) as handle:
        small.call()
        small.pipe.scheduler = diffusers.CogVideoXDPMScheduler.from_config(small.pipe.scheduler.config)
        said = r"CogVideoXDDIMScheduler.* is not the scheduler of this run, which may have been replaced.*num_calls=pipe.scheduler\) anew"
        if steps > 10:
            with pytest.raises(ValueError, match=f"call 11 of a run for which {said}"):
                small.call(num_inference_steps=steps)
            handle.reset()
        else:
            with pytest.warns(UserWarning, match=f"after call 6 of the 10 that {said}"):
                small.call(num_inference_steps=steps)
    with apply_adacache(small.transformer, RATE_3, small.pipe.scheduler) as handle:
        small.call(num_inference_steps=steps)
    assert handle.last.complete and handle.last.num_calls == steps


def test_a_scheduler_whose_steps_are_over_does_not_count_one_call():
    small = small_models.video_pipeline("Wan", 10)
    with apply_adacache(small.transformer, RATE_3, small.pipe.scheduler) as handle:
        small.call()
        small.pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        with pytest.raises(ValueError, match="UniPCMultistepScheduler.*has made its 10 steps.*may have been replaced"):
            small.call()
    assert len(handle.report) == 1


def test_the_first_of_two_transformers_is_told_the_number_of_its_calls():
    small = small_models.video_pipeline("Wan", 12)
    second = copy.deepcopy(small.transformer)
    small.pipe = diffusers.WanPipeline(**{**small.pipe.components, "transformer_2": second}, boundary_ratio=0.7)
    small.pipe.set_progress_bar_config(disable=True)
    scheduler = small.pipe.scheduler
    with apply_adacache(small.transformer, RATE_3, scheduler) as one, apply_adacache(second, RATE_3, scheduler) as two:
        with pytest.warns(UserWarning, match="UniPC.* has made its 12 steps, and this transformer was called in [4-8] of them.*Give.* num_calls=") as said:
            small.call()
    assert not one.last.complete and two.last.complete and len(one.last.rates) + len(two.last.rates) == 12
    own = len(one.last.rates)
    assert [str(w.message).endswith(f"num_calls={own}") for w in said if "UniPC" in str(w.message)] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with apply_adacache(small.transformer, RATE_3, own) as one, apply_adacache(second, RATE_3, scheduler) as two:
            first = small.call()
            with pytest.raises(Stop):
                small.call(callback_on_step_end=stop_after(own + 1))
            assert torch.equal(small.call(), first)
    assert [(r.num_calls, len(r.rates)) for r in two.report] == [(12 - own, 12 - own), (12 - own, 2), (12 - own, 12 - own)]
    assert [r.complete for r in one.report] == [True] * 3


# -- windows of a long clip --------------------------------------------------------------------------------------------


def windows(net, contexts=(None, None), guidance=False, seeds=(1, 2)):
    xs = [random_like(net.start, seed) for seed in seeds]
    with torch.no_grad():
        for n in range(1, 7):
            for i, context in enumerate(contexts):
                with net.model.cache_context(context) if context else contextlib.nullcontext():
                    out = net.call(xs[i], n)
                if guidance:
                    net.call(xs[i], n, -net.text)
                xs[i] = xs[i] - 0.1 * (out.chunk(2, dim=1)[0] if out.shape != xs[i].shape else out)
    return xs


@pytest.mark.parametrize("name, context", [("Latte", None), ("Wan", None), ("CogVideoX", "cond_uncond"), ("Mochi", "cond_uncond")])
@pytest.mark.parametrize("count", [2, 3])
def test_windows_that_take_turns_without_contexts_are_refused(name, context, count):
    net = small_models.video_transformer(name, 6)
    with apply_adacache(net.model, RATE_3, 6 * count) as handle:
        with pytest.raises(ValueError, match="with other latents at timestep .*windows or clips that take turns and share a text.*cache_context"):
            windows(net, [context] * count, seeds=range(count))
        handle.reset()
    with apply_adacache(net.model, RATE_3, 6, decide="each") as handle:
        windows(net, [f"window {i}" for i in range(count)], seeds=range(count))
    assert [r.computed for r in handle.report] == [(1, 2, 5, 6)] * count


def test_windows_of_guided_loops_are_refused():
    with apply_adacache((net := wan(6)).model, RATE_3, 12) as handle:
        with pytest.raises(ValueError, match="windows or clips"):
            windows(net, guidance=True)
        handle.reset()


def test_windows_on_an_accelerator_are_refused():
    net = small_models.video_transformer("Latte", 6)
    with Accelerator():
        net.model.to(DEVICE)
        net.start, net.text, net.times = (t.to(DEVICE) for t in (net.start, net.text, net.times))
        xs = [random_like(torch.empty(net.start.shape), i).to(DEVICE) for i in range(2)]
        with apply_adacache(net.model, RATE_3, 12) as handle, torch.no_grad():
            with pytest.raises(ValueError, match="windows or clips"):
                for n in range(6):
                    for x in xs:
                        net.model(hidden_states=x, timestep=net.times[n].expand(2), encoder_hidden_states=net.text, return_dict=False)
            handle.reset()


def second_order(net, x, stopped_after=None):
    """Heun's timesteps: each but the first comes twice, with two estimates of one clip."""
    with torch.no_grad():
        for n in [1, 2, 2, 3, 3, 4, 4][:stopped_after]:
            x = x - 0.1 * net.call(x, n)
    return x


def test_a_second_order_sampler_that_was_stopped_at_once_makes_no_windows():
    net = wan()
    with apply_adacache(net.model, RATE_3, 7) as handle:
        right = second_order(net, random_like(net.start, 2))
        second_order(net, random_like(net.start, 1), 1)
        assert torch.equal(second_order(net, random_like(net.start, 2)), right)
    assert [len(r.rates) for r in handle.report] == [7, 1, 7]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_second_order_steps_in_place(mode):
    """torch does not count who writes into a tensor in inference mode."""
    net = wan(9)
    found = []
    with mode():
        for in_place in (False, True):
            x = net.start.clone()
            with apply_adacache(net.model, clock=FixedClock([1, 2, 3, 5, 8], 9)) as handle:
                for n in (1, 2, 2, 3, 3, 4, 4, 5, 5):
                    out = 0.1 * net.call(x, n)
                    x = x.sub_(out) if in_place else x - out
            found.append(x.clone())
            assert handle.last.complete
        with apply_adacache(net.model, RATE_3, 9) as handle:
            net.call(net.start, 1)
            net.call(net.start, 2)
            with pytest.raises(ValueError, match="again with the same latents"):
                net.call(net.start, 2)
            handle.reset()
    assert torch.equal(*found)


# -- threads -----------------------------------------------------------------------------------------------------------


def test_calls_at_the_same_time_are_refused():
    net = wan(6)
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        go_on.wait(20)

    with apply_adacache(net.model, clock=FixedClock([1, 3, 5], 6)) as handle:
        right = net.sample()
        remover = net.model.blocks[0].register_forward_pre_hook(wait)
        found = []
        thread = threading.Thread(target=lambda: found.append(net.sample()))
        thread.start()
        assert inside.wait(20)
        with pytest.raises(RuntimeError, match="while another of its calls was under way.*threads take turns with whole runs"):
            net.sample()
        go_on.set()
        thread.join()
        remover.remove()
        assert torch.equal(found[0], right) and torch.equal(net.sample(), right)
    assert [r.computed for r in handle.report] == [(1, 3, 5)] * 3


# -- numbers that are not read as they are meant -----------------------------------------------------------------------

MASKED = np.ma.array([0.1, 0.2, 0.4], mask=[0, 1, 0])
FLOAT8 = torch.ones(3).to(torch.float8_e4m3fn)
ASKED = {
    "distance": ("old", lambda x: ada.distance(x, x)), "pairwise_distances": ("residuals", lambda x: ada.pairwise_distances([x, x])),
    "Codebook": ("thresholds", lambda x: Codebook(x, (4, 3, 2, 1))), "predict_calls": ("distances", lambda x: ada.predict_calls(x, RATE_3)),
    "calibrate": ("distances", lambda x: ada.calibrate([x], 3, 3)), "FixedClock": ("computed_calls", lambda x: FixedClock(x, 9)),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_masked_entries_and_floats_of_a_byte_are_refused_by_name(name):
    argument, ask = ASKED[name]
    with pytest.raises(ValueError, match=f"{argument} must be .*, got an array with 1 masked entries: fill them, or leave their rows out"):
        ask(MASKED)
    with pytest.raises(TypeError, match=f"{argument} must be .* of 16 bits or more, got float8_e4m3fn tensor of shape"):
        ask(FLOAT8)


def test_a_mask_that_hides_nothing_is_no_mask():
    assert Codebook(np.ma.array([0.1, 0.2]), (3, 2, 1)) == Codebook((0.1, 0.2), (3, 2, 1))
    assert ada.distance(np.ma.array([1.0, 2.0]), np.ma.array([2.0, 2.0])) == pytest.approx(1 / 3)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_tensors_are_whole_numbers(dtype):
    old, new = torch.tensor([1, 2, 3], dtype=dtype), torch.tensor([3, 1, 3], dtype=dtype)
    assert ada.distance(old, new) == pytest.approx(0.5) and ada.distance(new, old) == pytest.approx(3 / 7)
    assert ada.pairwise_distances([old, new])[0, 1] == pytest.approx(0.5)
    assert FixedClock(old, 4).computed_calls == (1, 2, 3) and Codebook((0.1,), torch.tensor([2, 1], dtype=dtype)).rates == (2, 1)
    clock = ada.CachingClock(Codebook((0.4,), (2, 1)), 3)
    for probe in (old, new):
        clock.tick()
        clock.observe(probe)
    assert clock.trace[1].distance == pytest.approx(0.5)


def test_what_does_not_fit_a_whole_number_is_refused():
    with pytest.raises(ValueError, match=r"old must be numbers below 2\*\*63, got uint64 tensor of shape \(1,\).* with more in it"):
        ada.distance(torch.tensor([2**63 + 5], dtype=torch.uint64), torch.tensor([1.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match="new must be numbers, got quint8 tensor"):
        ada.distance(torch.ones(3), quantised)
