"""The hooks of adaptive caching on six small random transformers, and in a whole pipeline that is stopped, repeated and read."""

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.methods.caching_schedules import FAST_30, Codebook, FixedClock, _runs, apply_adacache, distance, pairwise_distances, predict_calls
from helpers.models import small as small_models

torch.set_num_threads(1)

N = 12
RATE_1 = Codebook((), (1,))
RATE_3 = Codebook((), (3,))
EVERY_3RD = [1, 2, 5, 8, 11, 12]  # what RATE_3 computes of 12 calls


class Factor:
    """A regulariser that notes how it was called."""

    def __init__(self, answer=lambda call: 1.0):
        self.answer, self.seen, self.resets = answer, [], 0

    def factor(self, probe, call, rate):
        self.seen.append((call, rate, tuple(probe.shape)))
        return self.answer(call)

    def reset(self):
        self.resets += 1
        self.seen = []


# -- hooks on six architectures ----------------------------------------------------------------------------------------

B, T, TEXT = small_models.BATCH, small_models.FRAMES, small_models.TEXT
BLOCKS = {
    "Latte": {"transformer_blocks": 3, "temporal_transformer_blocks": 3},
    "CogVideoX": {"transformer_blocks": 3},
    "Wan": {"blocks": 3},
    "LTX": {"transformer_blocks": 3},
    "Mochi": {"transformer_blocks": 3},
    "HunyuanVideo": {"transformer_blocks": 3, "single_transformer_blocks": 2},
}
PROBES = {
    "Latte": "temporal_transformer_blocks.1.attn1",
    "CogVideoX": "transformer_blocks.1.attn1",
    "Wan": "blocks.1.attn1",
    "LTX": "transformer_blocks.1.attn1",
    "Mochi": "transformer_blocks.1.attn1",
    "HunyuanVideo": "transformer_blocks.1.attn",
}
TEXT_STREAM = ("CogVideoX", "Mochi", "HunyuanVideo")


@pytest.fixture(scope="module")
def nets():
    built = {}

    def get(name):
        if name not in built:
            net = small_models.video_transformer(name, N)
            built[name] = net, net.sample()
        return built[name]

    return get


architectures = pytest.mark.parametrize("name", small_models.VIDEO_TRANSFORMERS)


@architectures
def test_rate_1_is_the_uncached_model(nets, name):
    net, plain = nets(name)
    handle = apply_adacache(net.model, RATE_1, N)
    try:
        assert torch.equal(net.sample(), plain)
        assert (handle.groups, handle.probe) == (BLOCKS[name], PROBES[name])
        assert handle.last.computed == tuple(range(1, N + 1)) and handle.last.complete and handle.last.context == "inference"
        assert handle.last.distances[0] is None and all(d > 0 for d in handle.last.distances[1:])
    finally:
        handle.remove()
    assert torch.equal(net.sample(), plain)
    assert len(handle.report) == 1


@architectures
def test_storages_agree_runs_repeat_and_remove_restores(nets, name):
    net, plain = nets(name)
    outputs = {}
    for storage in ("group", "block"):
        with apply_adacache(net.model, RATE_3, N, storage=storage) as handle:
            outputs[storage] = net.sample()
            again = net.sample()
        assert torch.equal(outputs[storage], again)
        assert [report.computed for report in handle.report] == [tuple(EVERY_3RD)] * 2
        assert handle.report[0] == handle.report[1]
        assert torch.equal(net.sample(), plain)
    torch.testing.assert_close(outputs["group"], outputs["block"], rtol=0, atol=1e-5)
    assert (outputs["group"] - plain).abs().max() > 1e-4


@architectures
def test_blocks_run_at_computed_calls_only(nets, name):
    net, _ = nets(name)
    counts = []
    blocks = [block for group in BLOCKS[name] for block in getattr(net.model, group)]
    attentions = [getattr(block, "attn1", None) or block.attn for block in blocks]
    removers = [a.register_forward_hook(lambda *_: counts.append(1)) for a in attentions]
    try:
        with apply_adacache(net.model, RATE_3, N) as handle:
            net.sample()
        assert len(counts) == len(handle.last.computed) * len(blocks)
    finally:
        for remover in removers:
            remover.remove()


@pytest.mark.parametrize("storage, skipped", [("group", 1), ("block", 3)])
def test_with_one_sum_a_list_a_skipped_call_enters_one_block_of_it(nets, storage, skipped):
    net, _ = nets("Wan")
    entered = []
    removers = [net.model.register_forward_pre_hook(lambda *_: entered.append([]))]
    removers += [block.register_forward_pre_hook(lambda block, _: entered[-1].append(block)) for block in net.model.blocks]
    try:
        with apply_adacache(net.model, RATE_3, N, storage=storage):
            net.sample()
    finally:
        for remover in removers:
            remover.remove()
    assert [len(blocks) for blocks in entered] == [3 if n in EVERY_3RD else skipped for n in range(1, N + 1)]
    assert all(blocks[-1] is net.model.blocks[-1] for blocks in entered)


def stack_ends(model, blocks):
    """Record, call by call, the (hidden, text) that enters the first block that is run and leaves the last one."""
    calls = []

    def enter(module, args, kwargs):
        names = ("hidden_states", "encoder_hidden_states")
        given = tuple(kwargs[n] if n in kwargs else args[i] if i < len(args) else None for i, n in enumerate(names))
        calls[-1].setdefault("in", given)

    def leave(module, args, output):
        calls[-1]["out"] = output if isinstance(output, tuple) else (output, None)

    removers = [model.register_forward_pre_hook(lambda m, a: calls.append({}))]
    removers += [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    removers += [block.register_forward_hook(leave) for block in blocks]
    return calls, removers


@pytest.mark.parametrize("name", [n for n in small_models.VIDEO_TRANSFORMERS if n != "Latte"])
@pytest.mark.parametrize("storage", ["group", "block"])
def test_a_skipped_call_adds_the_last_total_residual_to_both_streams(nets, name, storage):
    net, _ = nets(name)
    calls, removers = stack_ends(net.model, getattr(net.model, next(iter(BLOCKS[name]))))
    try:
        with apply_adacache(net.model, RATE_3, N, storage=storage):
            net.sample()
    finally:
        for remover in removers:
            remover.remove()
    for stream in (0, 1) if name in TEXT_STREAM else (0,):
        residual = [call["out"][stream] - call["in"][stream] for call in calls]
        assert residual[1].abs().max() > 1e-3
        for n in range(2, N + 1):
            if n not in EVERY_3RD:
                torch.testing.assert_close(residual[n - 1], residual[n - 2], rtol=0, atol=2e-6)
        assert (residual[4] - residual[1]).abs().max() > 1e-5  # computed anew at call 5


@pytest.mark.parametrize("name", [n for n in small_models.VIDEO_TRANSFORMERS if n != "Latte"])
@pytest.mark.parametrize("storage", ["group", "block"])
def test_linear_reuse_carries_both_streams_on_in_a_line(nets, name, storage):
    net, plain = nets(name)
    calls, removers = stack_ends(net.model, getattr(net.model, next(iter(BLOCKS[name]))))
    try:
        with apply_adacache(net.model, RATE_3, N, storage=storage, reuse="linear") as handle:
            net.sample()
    finally:
        for remover in removers:
            remover.remove()
    assert handle.last.computed == tuple(EVERY_3RD)
    for stream in (0, 1) if name in TEXT_STREAM else (0,):
        residual = [None] + [call["out"][stream] - call["in"][stream] for call in calls]
        for earlier, newest, skipped in ((1, 2, 3), (1, 2, 4), (2, 5, 6), (2, 5, 7), (5, 8, 10)):
            slope = (residual[newest] - residual[earlier]) / (newest - earlier)
            torch.testing.assert_close(residual[skipped], residual[newest] + (skipped - newest) * slope, rtol=0, atol=1e-5)
    assert torch.equal(net.sample(), plain)


@architectures
def test_linear_reuse_runs_repeat_and_storages_agree(nets, name):
    net, _ = nets(name)
    outputs = {}
    for storage in ("group", "block"):
        with apply_adacache(net.model, RATE_3, N, storage=storage, reuse="linear", record=True) as handle:
            outputs[storage] = net.sample()
            assert torch.equal(outputs[storage], net.sample())  # the slope of the last run is forgotten
        totals = [total[0] for total in handle.last.residuals]
        torch.testing.assert_close(totals[3], totals[1] + 2 * (totals[1] - totals[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs["group"], outputs["block"], rtol=0, atol=1e-5)
    with apply_adacache(net.model, RATE_3, N):
        assert (net.sample() - outputs["group"]).abs().max() > 1e-4


def test_latte_hidden_state_after_a_skipped_call(nets):
    """Spatial and temporal blocks alternate and reshape: the total difference across the whole stack must still repeat."""
    net, _ = nets("Latte")
    calls, removers = stack_ends(net.model, net.model.transformer_blocks)
    removers.append(net.model.norm_out.register_forward_pre_hook(lambda m, a: calls[-1].update(out=a)))
    try:
        with apply_adacache(net.model, RATE_3, N):
            net.sample()
    finally:
        for remover in removers:
            remover.remove()
    total = [call["out"][0] - call["in"][0] for call in calls]
    torch.testing.assert_close(total[2], total[1], rtol=0, atol=2e-6)
    torch.testing.assert_close(total[3], total[1], rtol=0, atol=2e-6)
    assert (total[4] - total[1]).abs().max() > 1e-4


@architectures
@pytest.mark.parametrize("decide", ["shared", "each"])
def test_contexts_never_share_residuals(nets, name, decide):
    net, _ = nets(name)
    other = -net.text.flip(1)

    @torch.no_grad()
    def both(contexts):
        x, y = net.start, net.start
        for n in range(1, N + 1):
            for context in contexts:
                with net.model.cache_context(context):
                    z, text = (x, net.text) if context == "cond" else (y, other)
                    v = net.call(z, n, text)
                v = v.chunk(2, dim=1)[0] if v.shape != z.shape else v
                if context == "cond":
                    x = x - 0.1 * v
                else:
                    y = y - 0.1 * v
        return x, y

    with apply_adacache(net.model, RATE_3, N, decide=decide) as handle:
        x, y = both(["cond", "uncond"])
        if decide == "shared":
            assert [(r.context, r.computed) for r in handle.report] == [("cond", tuple(EVERY_3RD))]
        else:
            assert [(r.context, r.computed) for r in handle.report] == [(c, tuple(EVERY_3RD)) for c in ("cond", "uncond")]
        net.model._reset_stateful_cache()
        alone, _ = both(["cond"])
        net.model._reset_stateful_cache()
        _, alone_too = both(["uncond"])
    assert torch.equal(x, alone) and torch.equal(y, alone_too)


def test_each_context_has_its_own_clock_and_the_first_decides_when_shared(nets):
    net, _ = nets("Wan")
    low = Codebook((0.5,), (4, 1))

    @torch.no_grad()
    def run():
        for n in range(1, N + 1):
            for context in ("cond", "uncond"):
                with net.model.cache_context(context):
                    # the unconditional branch sees an input that changes wildly, the other one a constant
                    x = net.start if context == "cond" else net.start * (-1) ** n * n
                    net.model(x, torch.full((B,), 1000.0 - n), net.text * (1 if context == "cond" else n), return_dict=False)

    regulariser = Factor()
    with apply_adacache(net.model, low, N, decide="each", regulariser=regulariser) as handle:
        run()
        cond, uncond = handle.report
    assert (cond.context, uncond.context) == ("cond", "uncond")
    assert cond.computed == (1, 2, 6, 10, 11, 12) and len(uncond.computed) > len(cond.computed)
    assert [call for call, *_ in regulariser.seen] == []  # handed back reset; the second context worked on a copy
    with apply_adacache(net.model, low, N) as handle:
        run()
        assert [(r.context, r.computed) for r in handle.report] == [("cond", (1, 2, 6, 10, 11, 12))]


def test_a_follower_that_starts_late_computes_first(nets):
    """Guidance that begins in the middle of the run: nothing is stored for that context yet."""
    net, _ = nets("Wan")
    counts = []
    remover = net.model.blocks[0].attn1.register_forward_hook(lambda *_: counts.append(1))
    try:
        with torch.no_grad(), apply_adacache(net.model, RATE_3, N):
            for n in range(1, N + 1):
                for context in ("cond", "uncond")[: 1 + (n >= 3)]:
                    with net.model.cache_context(context):
                        net.call(net.start, n)
    finally:
        remover.remove()
    assert len(counts) == len(EVERY_3RD) + 1 + len([n for n in EVERY_3RD if n > 3])


# -- options of the hooks ----------------------------------------------------------------------------------------------


def test_the_probe_of_latte_is_gated(nets):
    net, _ = nets("Latte")
    block = net.model.temporal_transformer_blocks[1]
    seen = []

    def gated(module, args, output):  # what the block really adds: everything before cross-attention and MLP
        gate = (block.scale_shift_table[None] + timesteps[-1].reshape(len(output), 6, -1)).chunk(6, dim=1)[2]
        seen.append(gate * output)

    timesteps = []
    removers = [
        block.register_forward_pre_hook(lambda m, a: timesteps.append(a[4])),
        block.attn1.register_forward_hook(gated),
    ]
    try:
        with apply_adacache(net.model, RATE_3, N, record=True) as handle:
            net.sample()
    finally:
        for remover in removers:
            remover.remove()
    report = handle.last
    kept = [p for p in report.probes if p is not None]
    assert [n for n, p in enumerate(report.probes, 1) if p is not None] == EVERY_3RD
    assert all(torch.equal(a, b) for a, b in zip(kept, seen, strict=True))
    assert kept[0].shape == (B * 6, T, 16)
    assert report.distances[1] == pytest.approx(distance(kept[0], kept[1]))
    assert report.distances[4] == pytest.approx(distance(kept[1], kept[2], rate=3))
    assert report.distances[11] == pytest.approx(distance(kept[4], kept[5], rate=3))  # the planned rate, not the gap of 1


@architectures
@pytest.mark.parametrize("storage", ["group", "block"])
def test_recording_a_run(nets, name, storage):
    net, plain = nets(name)
    with apply_adacache(net.model, RATE_1, N, record=True, storage=storage) as handle:
        assert torch.equal(net.sample(), plain)
    report = handle.last
    matrix = pairwise_distances(report.probes)
    assert np.diagonal(matrix, 1) == pytest.approx(np.array(report.distances[1:]), rel=1e-4)
    assert pairwise_distances(report.residuals).shape == (N, N)
    assert len(report.residuals[0]) == len(BLOCKS[name])
    assert predict_calls(matrix, RATE_3) == EVERY_3RD


def test_block_and_named_probes(nets):
    net, _ = nets("Latte")
    with apply_adacache(net.model, RATE_3, N, probe="block", record=True) as handle:
        net.sample()
        assert handle.probe == "temporal_transformer_blocks.1" and handle.last.probes[0].shape == (B * 6, T, 16)
    for probe, shape in (
        ("transformer_blocks.0.attn2", (B * T, 6, 16)),
        ("transformer_blocks.2.ff", (B * T, 6, 16)),
        ("temporal_transformer_blocks.0.attn1", (B * 6, T, 16)),
        ("transformer_blocks.1", (B * T, 6, 16)),
    ):
        with apply_adacache(net.model, RATE_3, N, probe=probe, record=True) as handle:
            net.sample()
        assert handle.last.probes[0].shape == shape and handle.last.distances[1] > 0
    for probe in ("nothing", "", "transformer_blocks", "transformer_blocks.9", "proj_out", 3):
        with pytest.raises(ValueError, match="probe"):
            apply_adacache(net.model, RATE_3, N, probe=probe)


def test_the_probe_of_a_block_is_what_it_adds(nets):
    net, _ = nets("Wan")
    added = []
    remover = net.model.blocks[1].register_forward_hook(lambda block, args, output: added.append(output - args[0]))
    try:
        with apply_adacache(net.model, RATE_1, N, probe="block", record=True) as handle:
            net.sample()
    finally:
        remover.remove()
    assert len(added) == N and all(torch.equal(a, b) for a, b in zip(handle.last.probes, added, strict=True))


def test_a_fixed_clock_and_positional_inputs(nets):
    net, plain = nets("Latte")
    with apply_adacache(net.model, clock=FixedClock(range(1, N + 1), N)) as handle:
        assert torch.equal(net.sample(), plain)
    with apply_adacache(net.model, clock=FixedClock([1, 4, 9], N)) as handle, torch.no_grad():
        for n in range(1, N + 1):
            net.model(net.start, net.times[n - 1].expand(B), net.text)
    assert handle.last.computed == (1, 4, 9) and handle.last.distances == (None,) * N
    assert "3 of 12" in str(handle.last)


def test_a_regulariser_on_a_model(nets):
    net, _ = nets("Latte")
    regulariser = Factor(lambda call: 1000.0)
    with apply_adacache(net.model, Codebook((1.0,), (4, 1)), N, regulariser=regulariser) as handle:
        net.sample()
        assert handle.last.computed == tuple(range(1, N + 1)) and handle.last.factors == (1.0, *[1000.0] * (N - 1))


# -- runs that end early, late or wrongly ------------------------------------------------------------------------------


@architectures
@pytest.mark.parametrize("stopped_after", [1, 2, 3, 7])
def test_an_interrupted_run_leaves_nothing_behind(nets, name, stopped_after):
    net, _ = nets(name)
    with apply_adacache(net.model, RATE_3, N) as handle:
        full = net.sample()
        net.sample(calls=stopped_after, text=net.text.clone())
        assert torch.equal(net.sample(text=net.text.clone()), full)  # a pipeline brings a new embedding tensor
    assert [r.complete for r in handle.report] == [True, False, True]
    assert handle.report[1].computed == tuple(n for n in EVERY_3RD if n <= stopped_after)
    assert len(handle.report[1].distances) == stopped_after


def test_an_interruption_is_seen_by_the_timesteps_alone(nets):
    net, _ = nets("Mochi")
    with apply_adacache(net.model, RATE_3, N) as handle:
        full = net.sample()
        net.sample(calls=6)
        assert torch.equal(net.sample(), full)
        assert [r.complete for r in handle.report] == [True, False, True]


def test_an_exception_inside_a_call_ends_the_run(nets):
    net, _ = nets("Latte")
    with apply_adacache(net.model, RATE_3, N) as handle:
        full = net.sample()
        net.sample(calls=4)

        def stop(*_):
            raise KeyboardInterrupt

        remover = net.model.temporal_transformer_blocks[0].attn1.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt), torch.no_grad():
            net.call(net.start, 5)
        remover.remove()
        assert torch.equal(net.sample(), full)
    assert [len(r.rates) for r in handle.report] == [N, 5, N]


def test_more_calls_than_planned_are_refused_in_pipelines_direction(nets):
    net, _ = nets("LTX")
    with torch.no_grad(), apply_adacache(net.model, RATE_3, N - 2) as handle:
        with pytest.raises(ValueError, match="call 11 .*num_calls=10"):
            net.sample()
        handle.reset()
        net.sample(calls=N - 2)
        assert [r.complete for r in handle.report] == [True, True]


def test_changed_inputs_are_refused_until_reset(nets):
    net, _ = nets("Latte")
    bigger = torch.cat([net.start] * 2, dim=-1)
    with torch.no_grad(), apply_adacache(net.model, RATE_3, N) as handle:
        for changed in (bigger, net.start.double(), net.start[:1]):
            net.sample(calls=3)
            with pytest.raises(ValueError, match="inputs changed inside a run"):
                net.call(changed, 4)
            handle.reset()
        net.sample(calls=3)
        with pytest.raises(ValueError, match="inputs changed"):
            net.call(net.start[:1], 4)
        net.call(net.start, 4)  # the refused call did not happen
        assert handle.clock.call == 4
        net.call(bigger, 1)  # timesteps turn back: a new run may have another size
        assert handle.clock.call == 1
        handle.reset()
        net.sample(calls=3, context="cond")
        with pytest.raises(ValueError, match="inputs changed"), net.model.cache_context("cond"):
            net.call(net.start, 4, net.text[:, :3])
        handle.reset()


def test_gradients_are_refused(nets):
    net, _ = nets("Latte")
    with apply_adacache(net.model, RATE_3, N) as handle:
        with pytest.raises(RuntimeError, match="no_grad"):
            net.call(net.start, 1)
        assert handle.clock.call == 0
        with torch.inference_mode():
            net.call(net.start, 1)
        handle.reset()
    x = net.start.clone().requires_grad_()
    net.call(x, 1).sum().backward()  # works again without the cache
    assert x.grad is not None
    net.model.zero_grad()


def test_a_probe_that_never_runs(nets):
    net, _ = nets("Latte")
    with torch.no_grad(), apply_adacache(net.model, RATE_3, N):
        with pytest.raises(ValueError, match="probe never ran"):
            net.model(net.start, net.times[0].expand(B), net.text, enable_temporal_attentions=False)
    with torch.no_grad(), apply_adacache(net.model, RATE_3, N, probe="transformer_blocks.0.attn1"):
        for n in (1, 2):
            net.model(net.start, net.times[n].expand(B), net.text, enable_temporal_attentions=False)
        with pytest.raises(ValueError, match="hold nothing"):
            net.call(net.start, 4)


def test_apply_refusals(nets):
    net, plain = nets("CogVideoX")
    model = net.model
    for options, kind, message in (
        ({}, ValueError, "codebook and num_calls"),
        ({"codebook": FAST_30}, ValueError, "num_calls"),
        ({"codebook": FAST_30, "num_calls": 0}, ValueError, "num_calls"),
        ({"codebook": FAST_30, "num_calls": 9, "storage": "disk"}, ValueError, "storage"),
        ({"codebook": FAST_30, "num_calls": 9, "reuse": "line"}, ValueError, "reuse"),
        ({"codebook": FAST_30, "num_calls": 9, "decide": "none"}, ValueError, "decide"),
        ({"codebook": FAST_30, "num_calls": 9, "regulariser": object()}, TypeError, "regulariser"),
        ({"clock": FixedClock([1], 9), "num_calls": 9}, ValueError, "clock already"),
        ({"clock": FixedClock([1], 9), "metric": "l2"}, ValueError, "clock already"),
        ({"clock": object()}, TypeError, "clock must be"),
    ):
        with pytest.raises(kind, match=message):
            apply_adacache(model, **options)
    with pytest.raises(TypeError, match="transformer must be a torch module, got str$"):
        apply_adacache("model", FAST_30, 9)
    with pytest.raises(TypeError, match=r"transformer must be a torch module, got SimpleNamespace \(give pipe.transformer\)$"):
        apply_adacache(SimpleNamespace(transformer=model), FAST_30, 9)
    with pytest.raises(ValueError, match="Linear has no list of transformer blocks"):
        apply_adacache(torch.nn.Linear(2, 2), FAST_30, 9)
    single = torch.nn.Module()
    single.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="Module has no list of transformer blocks that diffusers knows .found {'layers': 'Linear'}"):
        apply_adacache(single, FAST_30, 9)
    with apply_adacache(model, RATE_3, N) as handle, pytest.raises(ValueError, match="already has AdaCache"):
        apply_adacache(model, RATE_3, N)
    handle.remove()  # a second time is harmless

    from diffusers import FirstBlockCacheConfig

    model.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="disable_cache"):
        apply_adacache(model, RATE_3, N)
    model.disable_cache()
    assert torch.equal(net.sample(), plain)


def test_an_unknown_block_class_works_once_registered():
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)

        def forward(self, hidden_states):
            return hidden_states + self.linear(hidden_states).tanh()

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([Block(), Block()])

        def forward(self, hidden_states, timestep):
            for layer in self.layers:
                hidden_states = layer(hidden_states)
            return hidden_states

    model = Model()
    with pytest.raises(ValueError, match="'layers': 'Block'"):
        apply_adacache(model, RATE_3, 4, probe="block")
    TransformerBlockRegistry.register(Block, TransformerBlockMetadata(return_hidden_states_index=0))
    try:
        with pytest.raises(ValueError, match='use "block"'):
            apply_adacache(model, RATE_3, 4)
        x = torch.randn(2, 5, 3)
        with torch.no_grad(), apply_adacache(model, RATE_3, 6, probe="block", last=0) as handle:
            outputs = [model(x * n, 10 - n) for n in range(1, 7)]
        assert handle.last.computed == (1, 2, 5)
        with torch.no_grad():
            torch.testing.assert_close(outputs[3] - 4 * x, model(2 * x, 0) - 2 * x)
    finally:
        TransformerBlockRegistry._registry.pop(Block)


class OnDevice(torch.Tensor):
    """A CPU tensor that claims to live on an accelerator and refuses to be read by the host."""

    device = torch.device("cuda")

    def __float__(self):
        raise AssertionError("the host waited for the device")

    item = tolist = __float__


def test_timesteps_on_an_accelerator_are_not_read_while_the_embedding_stays():
    cache = _runs._Cache(torch.nn.Identity(), FixedClock([1], 9), True, False, True, False)
    state, hidden = _runs._State(), torch.ones(1)
    t = torch.tensor([5.0, 5.0]).as_subclass(OnDevice)
    for _ in range(3):
        assert not cache._is_new_run(state, t, True, hidden)
        state.timesteps = [*state.timesteps[:1], t.max()]
        state.calls += 1
    with pytest.raises(AssertionError, match="waited"):
        cache._is_new_run(state, t, False, hidden)


def test_the_names_taken_from_diffusers_are_where_they_were():
    """diffusers promises none of these; a release that moves one must fail here and not in a reader's notebook."""
    from diffusers.hooks import _helpers, hooks

    for owner, names in (
        (hooks.HookRegistry, ("register_hook", "remove_hook", "get_hook", "invalidate_child_registries_cache")),
        (hooks.HookRegistry, ("check_if_exists_or_initialize", "reset_stateful_hooks")),
        (hooks.ModelHook, ("initialize_hook", "post_forward", "reset_state", "_is_stateful")),
        (hooks.StateManager, ("get_state", "set_context", "reset", "context")),
        (hooks.BaseState, ("reset",)),
        (_helpers.TransformerBlockRegistry, ("get", "register")),
        (_helpers.TransformerBlockMetadata, ("_get_parameter_from_args_kwargs",)),
    ):
        assert [n for n in names if not hasattr(owner, n)] == []
    assert {"_state_cache", "_context"} <= set(vars(hooks.StateManager(hooks.BaseState)))
    assert hooks.CacheContext("cond").name == "cond"
    fields = {"return_hidden_states_index", "return_encoder_hidden_states_index"}
    fields |= {"hidden_states_argument_name", "encoder_hidden_states_argument_name"}
    assert fields <= set(_helpers.TransformerBlockMetadata.__dataclass_fields__)


# -- a whole pipeline --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(0)
    words = {w: i for i, w in enumerate("<pad> </s> <unk> a red ring moves up".split())}
    tokens = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    text_encoder = T5EncoderModel(T5Config(vocab_size=8, d_model=6, d_kv=3, d_ff=8, num_layers=1, num_heads=2)).eval()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8), norm_num_groups=4
    ).eval()
    pipe = LattePipeline(tokenizer, text_encoder, vae, copy.deepcopy(small_models.video_transformer("Latte").model), DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)

    def sample(**options):
        generator = torch.Generator().manual_seed(3)
        settings = dict(num_inference_steps=N, video_length=T, height=8, width=16, output_type="latent", generator=generator)
        return pipe("a red ring moves up", mask_feature=False, clean_caption=False, **{**settings, **options}).frames

    return pipe, sample


def test_latte_pipeline_end_to_end(pipeline):
    pipe, sample = pipeline
    plain = sample()
    with apply_adacache(pipe.transformer, RATE_1, N) as handle:
        assert torch.equal(sample(), plain)
        assert handle.last.computed == tuple(range(1, N + 1))  # survives the pipeline's own reset
    with apply_adacache(pipe.transformer, RATE_3, N) as handle:
        cached = sample()
        assert torch.equal(sample(), cached)
        video = sample(output_type="pt")
    assert not torch.equal(cached, plain) and video.shape[1] == T
    assert [r.computed for r in handle.report] == [tuple(EVERY_3RD)] * 3
    assert torch.equal(sample(), plain)


@pytest.mark.parametrize("step", [0, 5])
def test_latte_pipeline_stopped_half_way(pipeline, step):
    pipe, sample = pipeline

    def stop(pipe, i, t, values):
        if i == step:
            raise KeyboardInterrupt
        return values

    with apply_adacache(pipe.transformer, RATE_3, N) as handle:
        cached = sample()
        with pytest.raises(KeyboardInterrupt):
            sample(callback_on_step_end=stop)
        assert torch.equal(sample(), cached)
    assert [len(r.rates) for r in handle.report] == [N, step + 1, N]


def test_a_pipeline_with_fewer_steps_reports_an_incomplete_run(pipeline):
    pipe, sample = pipeline
    with apply_adacache(pipe.transformer, RATE_3, N) as handle:
        with pytest.warns(UserWarning, match=r"after call 5 of the 12 .*\(num_calls=12\).*num_calls=pipe.scheduler"):
            sample(num_inference_steps=5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sample(num_inference_steps=5)  # once is enough
        assert not handle.last.complete and handle.last.computed == (1, 2, 5)
        assert handle.clock.call == 0


@pytest.mark.parametrize("name", [n for n in small_models.VIDEO_TRANSFORMERS if n != "Mochi"])  # Mochi's own attention reads its text mask
def test_nothing_is_read_from_the_device_at_skipped_calls(name):
    """Tensors on the meta device have no values: whoever reads one there fails. Only computed calls of a deciding clock do."""
    net = small_models.video_transformer(name, N)
    net.model.to("meta")
    extra = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in net.extra.items()}
    latents, text, times = (t.to("meta") for t in (net.start, net.text, net.times))

    def call(n):
        return net.model(hidden_states=latents, timestep=times[n - 1].expand(B), encoder_hidden_states=text, return_dict=False, **extra)[0]

    for reuse in ("hold", "linear"):
        with apply_adacache(net.model, clock=FixedClock([1, 2, 6], N), reuse=reuse) as handle, torch.no_grad():
            for n in range(1, N + 1):
                call(n)
        assert handle.last.computed == (1, 2, 6)
    with apply_adacache(net.model, RATE_3, N), torch.no_grad(), pytest.raises(TypeError, match="probe must be numbers, got .* on meta"):
        call(1)  # a deciding clock reads the probes of its computed calls


# -- blocks that write into their input --------------------------------------------------------------------------------


class InPlaceBlock(torch.nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.layer, self.in_place = torch.nn.Linear(4, 4), in_place

    def forward(self, hidden_states, encoder_hidden_states):
        added = self.layer(hidden_states)
        added = added.tanh_() if self.in_place else added.tanh()
        told = encoder_hidden_states.mean(1, keepdim=True)
        if self.in_place:
            hidden_states += added + told
            encoder_hidden_states *= 0.9
        else:
            hidden_states, encoder_hidden_states = hidden_states + (added + told), encoder_hidden_states * 0.9
        return hidden_states, encoder_hidden_states


class InPlaceModel(torch.nn.Module):
    """Two lists of blocks; in_place: blocks, and the model after each list, write into the hidden state. between: so does the model between two blocks."""

    def __init__(self, in_place, between=False):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.blocks = torch.nn.ModuleList(InPlaceBlock(in_place) for _ in range(3))
            self.more_blocks = torch.nn.ModuleList(InPlaceBlock(in_place) for _ in range(2))
        self.in_place, self.between = in_place, between

    def forward(self, hidden_states, encoder_hidden_states, timestep=None):
        hidden_states, encoder_hidden_states = hidden_states * 1.0, encoder_hidden_states * 1.0
        for blocks in (self.blocks, self.more_blocks):
            for block in blocks:
                hidden_states, encoder_hidden_states = block(hidden_states, encoder_hidden_states)
                if self.between:
                    hidden_states += 0.1
            if self.in_place:
                hidden_states += 1
            else:
                hidden_states = hidden_states + 1
        return hidden_states + encoder_hidden_states.sum(1, keepdim=True)


@pytest.fixture
def in_place_registered():
    from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

    TransformerBlockRegistry.register(InPlaceBlock, TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=1))
    yield
    TransformerBlockRegistry._registry.pop(InPlaceBlock)


def run_in_place(model, inference=False, **options):
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 5, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    with torch.inference_mode() if inference else torch.no_grad(), apply_adacache(model, RATE_3, 9, last=0, record=True, **options) as handle:
        out = torch.stack([model(x * (1 + 0.1 * n), text, timestep=10 - n) for n in range(9)])
    return out.clone(), handle.last


@pytest.mark.parametrize("storage", ["group", "block"])
@pytest.mark.parametrize("reuse", ["hold", "linear"])
@pytest.mark.parametrize("probe", ["block", "blocks.1.layer", "blocks.0", "more_blocks.1"])
def test_blocks_may_write_into_their_input(in_place_registered, storage, reuse, probe):
    right, said = run_in_place(InPlaceModel(False), storage=storage, reuse=reuse, probe=probe)
    for inference in (False, True):
        found, report = run_in_place(InPlaceModel(True), inference, storage=storage, reuse=reuse, probe=probe)
        torch.testing.assert_close(found, right)
        assert report.computed == said.computed == (1, 2, 5, 8)
        assert [d for d in report.distances if d] == pytest.approx([d for d in said.distances if d], rel=1e-4)
    group, _ = run_in_place(InPlaceModel(False), storage="group", reuse=reuse, probe=probe)
    torch.testing.assert_close(right, group)


def test_a_model_that_writes_between_its_blocks_needs_a_residual_a_block(in_place_registered):
    with pytest.raises(ValueError, match="between the blocks of 'blocks': use storage='block'"):
        run_in_place(InPlaceModel(True, between=True), probe="block")
    run_in_place(InPlaceModel(True, between=True), probe="block", storage="block")
