"""Fully attentional networks against slow loops, libraries, worked numbers, published counts, limits and symmetries."""

import argparse
import copy
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit
from scipy.special import softmax as numpy_softmax
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.methods import fully_attentional as fan
from helpers.methods.fully_attentional import FAN, ChannelBlock, TokenMixing, blocks, channel_gate, network
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
B, HEADS, D, GRID = 2, 2, 3, (2, 4)
C, N = HEADS * D, GRID[0] * GRID[1]
TINY = dict(image_size=16, patch_size=4, width=12, depth=2, heads=3, classes=5)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def strong(module, std=0.5, seed=0):
    """The module in float64 and eval mode with weights large enough that every part matters."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.add_(torch.randn(norm.running_mean.shape, generator=generator, dtype=torch.float64))
                norm.running_var.mul_(2)
    return module


def tiny(**changes):
    torch.manual_seed(0)  # the same network at each call
    return strong(FAN(**TINY | changes), std=0.2)


def images(count=2, size=16, seed=1):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Q, K = drawn(B, N, C), drawn(B, HEADS, N, D, seed=1, scale=3), drawn(B, HEADS, N, D, seed=2, scale=3)
SIGMOID_1 = float(expit(1.0))


# ------------------------------------------------------------------------------------------------------------------------------- gate


def test_the_gate_is_that_of_a_slow_loop():
    gates = channel_gate(Q, K, temperature=torch.tensor([0.5, 2.0])).numpy()
    for b in range(B):
        for h, t in enumerate((0.5, 2.0)):
            prototype = sum(numpy_softmax(K[b, h, :, c].numpy()) for c in range(D)) / D
            for c in range(D):
                assert gates[b, h, c] == pytest.approx(t * expit(sum(numpy_softmax(Q[b, h, :, c].numpy()) * prototype)), abs=1e-12)


def test_the_gate_lies_above_one_half_and_reaches_its_top_for_one_token_only():
    for scale in (0.1, 1, 4):
        gates = channel_gate(scale * Q, scale * K)
        assert gates.min() > 0.5 and gates.max() < SIGMOID_1
    assert gates.max() > 0.58  # a peaked query has met a peaked key
    aligned = torch.zeros(1, 1, 4, 2).double()
    aligned[:, :, 2] = 100
    assert channel_gate(aligned, aligned).max() == pytest.approx(SIGMOID_1, abs=1e-9)  # all on one token: the bound
    for one in (Q[:, :, :1], -7 * Q[:, :, 2:3]):
        assert torch.allclose(channel_gate(one, K[:, :, :1]), torch.tensor(0.731059, dtype=torch.float64), atol=5e-7)


@pytest.mark.parametrize("tokens, published", [(4, 0.562177), (64, 0.503906), (196, 0.501276)])
def test_tokens_that_are_all_alike_leave_the_gate_where_it_begins(tokens, published):
    flat, other = drawn(2, 3, 1, 5).expand(-1, -1, tokens, -1), drawn(2, 3, tokens, 5, seed=3)
    for gates in (channel_gate(flat, flat), channel_gate(other, flat), channel_gate(flat, other)):
        assert torch.allclose(gates, torch.tensor(published, dtype=torch.float64), rtol=0, atol=5e-7)


def test_the_gate_sees_no_order_of_tokens_and_no_offset_of_queries():
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(channel_gate(Q[:, :, order], K[:, :, order]), channel_gate(Q, K), atol=1e-12)
    assert not torch.allclose(channel_gate(Q[:, :, order], K), channel_gate(Q, K), atol=1e-3)
    assert torch.allclose(channel_gate(Q + drawn(B, HEADS, 1, D, seed=4), K), channel_gate(Q, K), atol=1e-12)


def test_the_gate_of_a_head_is_of_that_head_alone():
    other = K.clone()
    other[:, 1] = drawn(B, N, D, seed=5)
    moved = channel_gate(Q, other) - channel_gate(Q, K)
    assert torch.equal(moved[:, 0], torch.zeros_like(moved[:, 0])) and (moved[:, 1].abs() > 1e-6).all()


def test_the_querys_bias_has_no_effect_and_no_gradient():
    block = strong(ChannelBlock(C, HEADS))
    before = block(X, GRID)
    (before * drawn(B, N, C, seed=6)).sum().backward()
    assert block.query.bias.grad.abs().max() < 1e-12 < 1e-3 < block.query.weight.grad.abs().max()
    with torch.no_grad():
        block.query.bias.add_(torch.arange(C))
    assert torch.allclose(block(X, GRID), before, atol=1e-12)


def test_the_answer_is_linear_in_the_temperature():
    block = strong(ChannelBlock(C, HEADS))
    whole = block(X, GRID)
    with torch.no_grad():
        block.temperature.mul_(2)
    assert torch.allclose(block(X, GRID), 2 * whole)
    with torch.no_grad():
        block.temperature[1] = 0
    answer = block(X, GRID)
    assert (answer[..., D:] == 0).all() and torch.allclose(answer[..., :D], 2 * whole[..., :D])  # a head's channels lie side by side


def test_full_channel_attention_is_that_of_a_slow_loop():
    q, k = Q.transpose(1, 2).flatten(2), K.transpose(1, 2).flatten(2)
    weights = fan.channel_attention(q, k)
    assert weights.shape == (B, C, C) and torch.allclose(weights.sum(-1), torch.ones(B, C, dtype=torch.float64))
    scores = [[sum(float(q[1, n, c] * k[1, n, other]) for n in range(N)) / math.sqrt(N) for other in range(C)] for c in range(C)]
    assert np.allclose(weights[1], numpy_softmax(np.array(scores), axis=1), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------------------ channel block


def by_hand(block, x):
    """U, the value branch, from its parameters: the depthwise convolutions as sums over shifted maps."""
    v = block.value

    def around(maps, conv):
        padded = F.pad(maps, (1, 1, 1, 1))
        shifts = (padded[:, :, i : i + GRID[0], j : j + GRID[1]] * conv.weight[:, 0, i, j, None, None] for i in range(3) for j in range(3))
        return sum(shifts) + conv.bias[:, None, None]

    a = x @ v.fc1.weight.T + v.fc1.bias
    maps = torch.stack([a[:, row * GRID[1] + column] for row in range(GRID[0]) for column in range(GRID[1])], -1).view(len(x), -1, *GRID)
    maps = around(maps, v.conv1)
    maps = maps * 0.5 * (1 + torch.erf(maps / math.sqrt(2)))
    maps = (maps - v.norm.running_mean[:, None, None]) / (v.norm.running_var[:, None, None] + 1e-5).sqrt()
    maps = around(maps * v.norm.weight[:, None, None] + v.norm.bias[:, None, None], v.conv2)
    made = (a + v.gamma * maps.flatten(2).transpose(1, 2)) @ v.fc2.weight.T + v.fc2.bias
    deviation = made - made.mean(-1, keepdim=True)
    return deviation / (deviation.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.norm.weight + block.norm.bias


@pytest.mark.parametrize("channel", fan.CHANNELS)
def test_a_channel_block_is_its_formula(channel):
    block = strong(ChannelBlock(C, HEADS, channel=channel))
    u = by_hand(block, X)
    if channel == "eca":
        heads = lambda x: x.view(B, N, HEADS, D).transpose(1, 2)  # noqa: E731
        gates = channel_gate(heads(X @ block.query.weight.T + block.query.bias), heads(X), temperature=block.temperature)
        u = u * gates.reshape(B, 1, C)
    elif channel == "se":
        inside = (u.mean(1) @ block.squeeze.weight.T + block.squeeze.bias).clamp(min=0)
        gates = 1 / (1 + (-(inside @ block.excite.weight.T + block.excite.bias)).exp())
        u = u * gates[:, None] * block.temperature.repeat_interleave(D)
    elif channel == "ca":
        weights = fan.channel_attention(block.query(X), block.key(X))
        u = torch.einsum("bce,bne->bnc", weights, u)
    assert torch.allclose(block(X, GRID), u, atol=1e-10)
    if channel in ("eca", "se"):
        assert torch.allclose(block.gate(X, GRID).flatten(1), gates.reshape(B, C) * (1 if channel == "eca" else block.temperature.repeat_interleave(D)))
    else:
        with pytest.raises(ValueError, match=f"channel must be eca or se where gates are asked for, got {channel}"):
            block.gate(X, GRID)


def test_the_main_path_of_the_depthwise_mlp_is_linear_and_the_plain_one_is_an_ordinary_mlp():
    block = strong(ChannelBlock(C, HEADS, channel="mlp"))
    with torch.no_grad():
        block.value.gamma.zero_()
    u = block.value(X, GRID)
    assert torch.allclose(u, block.value.fc2(block.value.fc1(X))) and torch.allclose(block(X, GRID), block.norm(u))
    plain = strong(ChannelBlock(C, HEADS, channel="mlp", value="plain"))
    assert torch.allclose(plain(X, GRID), plain.value.fc2(nn.GELU()(plain.value.fc1(X))))


def test_the_depthwise_branch_sees_the_order_of_tokens_and_token_mixing_does_not():
    order = torch.randperm(N, generator=torch.Generator().manual_seed(7))
    mixing = strong(TokenMixing(C, HEADS))
    assert torch.allclose(mixing(X[:, order]), mixing(X)[:, order], atol=1e-12)
    for channel, value, commutes in (("eca", "depthwise", False), ("eca", "plain", True), ("ca", "plain", True)):
        block = strong(ChannelBlock(C, HEADS, channel=channel, value=value))
        assert torch.allclose(block(X[:, order], GRID), block(X, GRID)[:, order], atol=1e-10) is commutes


def test_batch_statistics_are_used_in_training_only():
    """A trap: what a picture becomes depends on the pictures beside it in training, and on none after it."""
    for norm, alone in ((True, False), (False, True)):
        block = strong(ChannelBlock(C, HEADS, batch_norm=norm))
        assert torch.allclose(block(X, GRID)[:1], block(X[:1], GRID), atol=1e-12)
        block.train()
        assert torch.allclose(block(X, GRID)[:1], block(X[:1], GRID), atol=1e-6) is alone


def test_token_mixing_is_torchs_attention_and_its_rows_sum_to_one():
    mixing, theirs = strong(TokenMixing(C, HEADS)), nn.MultiheadAttention(C, HEADS, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([mixing.query.weight, mixing.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([mixing.query.bias, mixing.key_value.bias]))
        theirs.out_proj.load_state_dict(mixing.project.state_dict())
    expected, weights = theirs(X, X, X, average_attn_weights=False)
    assert torch.allclose(mixing(X), expected) and torch.allclose(mixing.attention(X), weights)
    assert torch.allclose(mixing.attention(X).sum(-1), torch.ones(B, HEADS, N, dtype=torch.float64))


# ----------------------------------------------------------------------------------------------------------------------------- network


def test_positions_are_sines_and_cosines_of_row_and_column():
    made = fan.fourier_features(3, 4, hidden=6, temperature=100.0)
    assert made.shape == (12, 3, 4)
    for row in range(3):
        for column in range(4):
            for k in range(6):
                for offset, place, size in ((0, row, 3), (6, column, 4)):
                    angle = (place + 1) / (size + 1e-6) * 2 * math.pi / 100 ** (2 * (k // 2) / 6)
                    assert made[offset + k, row, column] == pytest.approx(math.cos(angle) if k % 2 else math.sin(angle), abs=1e-5)


def test_the_stem_halves_the_picture_and_doubles_the_width_with_every_convolution():
    for patch, widths in ((16, (6, 12, 24, 48)), (8, (12, 24, 48)), (4, (24, 48)), (2, (48,))):
        stem = blocks.ConvStem(patch, 48)
        convs = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
        assert [c.out_channels for c in convs] == list(widths) and all(c.bias is None and c.stride == (2, 2) for c in convs)
        assert sum(isinstance(m, nn.GELU) for m in stem.modules()) == len(widths) - 1
    tokens, grid = blocks.ConvStem(4, 48).eval()(torch.rand(1, 3, 8, 12))
    assert grid == (2, 3) and tokens.shape == (1, 6, 48)


def test_class_attention_doubles_the_patches_as_the_official_code_does_or_leaves_them_alone():
    x = drawn(B, N + 1, C, seed=8)
    for residual in ("normalised", "plain"):
        block = strong(blocks.ClassBlock(C, HEADS, residual=residual))
        z, heads = block.norm_attention(x), lambda y: y.view(B, -1, HEADS, D).transpose(1, 2)
        q, k, v = (heads(layer(z)) for layer in (block.attention.query, block.attention.key, block.attention.value))
        weights = (q[:, :, :1] @ k.mT / math.sqrt(D)).softmax(-1)
        token = x[:, :1] + block.scale_attention * block.attention.project((weights @ v).transpose(1, 2).flatten(2))
        made = block(x)
        if residual == "plain":
            assert torch.equal(made[:, 1:], x[:, 1:])
            assert torch.allclose(made[:, :1], token + block.scale_mlp * block.mlp(block.norm_mlp(token)))
        else:
            assert torch.allclose(made[:, 1:], 2 * block.norm_mlp(x[:, 1:] + block.scale_attention * z[:, 1:]))
            normalised = block.norm_mlp(token)
            assert torch.allclose(made[:, :1], normalised + block.scale_mlp * block.mlp(normalised))


def test_a_network_is_stem_positions_blocks_class_blocks_and_head():
    model, pictures = tiny(), images()
    maps = model.stem.layers(pictures)
    x = maps.flatten(2).transpose(1, 2) + model.positions.project(fan.fourier_features(4, 4)[None].double()).flatten(2).transpose(1, 2)
    seen = [x]
    for block in model.blocks:
        x = x + block.scale_token * block.token(block.norm_token(x))
        x = x + block.scale_channel * block.channel(block.norm_channel(x), (4, 4))
        seen.append(x)
    made = model.features(pictures, every=True)
    assert len(made) == 3 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(made, seen, strict=True))
    assert torch.equal(model.features(pictures), made[-1])
    x = torch.cat([model.class_token.expand(2, 1, -1), made[-1]], 1)
    for block in model.class_blocks:
        x = block(x)
    assert torch.allclose(model(pictures), model.head(model.norm(x[:, 0])))
    assert {norm.eps for name, norm in model.named_modules() if isinstance(norm, nn.LayerNorm) and not name.endswith("channel.norm")} == {1e-6}
    assert {block.channel.norm.eps for block in model.blocks} == {1e-5}


def test_maps_and_gates_are_those_of_the_blocks():
    model, pictures = tiny(), images()
    entering = model.features(pictures, every=True)
    maps, gates = model.attention_maps(pictures), model.gates(pictures)
    assert maps.shape == (2, 2, 3, 16, 16) and gates.shape == (2, 2, 3, 4)
    for i, block in enumerate(model.blocks):
        assert torch.allclose(maps[:, i], block.token.attention(block.norm_token(entering[i])))
        seen = {}
        handle = block.channel.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(z=args[0]))
        model(pictures)
        handle.remove()
        assert torch.allclose(gates[:, i], block.channel.gate(seen["z"], (4, 4)))
    assert not torch.allclose(gates[0], gates[1], atol=1e-4)


@pytest.mark.parametrize("channel, value", [(c, v) for c in fan.CHANNELS for v in fan.VALUES])
@pytest.mark.parametrize("size, patch", [(32, 8), (64, 16)])
def test_every_kind_of_network_learns_in_all_its_parts(channel, value, size, patch):
    model = FAN(image_size=size, patch_size=patch, width=16, depth=1, heads=2, classes=3, channel=channel, value=value)
    pictures = torch.rand(4, 3, size, size)
    logits = model(pictures)
    assert logits.shape == (4, 3) and model.attention_maps(pictures).shape == (4, 1, 2, 16, 16) and model.features(pictures).shape == (4, 16, 16)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(name.endswith((".query.bias", ".key.bias")) for name in silent)  # a softmax does not see them: rounding, or nothing at all
    assert all(p.ndim == 1 for name, p in model.named_parameters() if name.endswith(("temperature", "class_token", "gamma")) or ".scale_" in name)


@pytest.mark.parametrize("options", [{}, {"gate": "mean"}, {"channel": "se"}, {"channel": "ca"}, {"channel": "mlp", "value": "plain"}], ids=str)
def test_a_network_learns_a_handful_of_pictures(options):
    model = FAN(**TINY | options)
    pictures, labels = images(8).float(), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        losses.append(F.cross_entropy(model(pictures), labels))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[0] > 1.4 and losses[-1] < 0.4


def test_stochastic_depth_leaves_out_whole_pictures_in_training_and_makes_up_for_them():
    x = torch.ones(4000, 2, 3)
    kept = blocks._dropped(x, 0.25, True)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3]) and (kept.amin((1, 2)) == kept.amax((1, 2))).all()
    assert abs(float(kept.mean()) - 1) < 0.03 and blocks._dropped(x, 0.25, False) is x and blocks._dropped(x, 0.0, True) is x
    model = tiny(drop_path=0.9)
    assert torch.equal(model(images()), tiny()(images()))
    model.train()
    assert not torch.allclose(model(images()), model(images()), atol=1e-3)


def test_other_sizes_of_pictures_are_refused_until_the_network_is_told():
    model = tiny()
    with pytest.raises(ValueError, match=r"images must be floating-point numbers \(B, 3, 16, 16\), got shape \(2, 3, 24, 24\)"):
        model(images(size=24))
    model.image_size = 24
    assert model(images(size=24)).shape == (2, 5) and model.gates(images(size=24)).shape == (2, 2, 3, 4)


def test_a_new_gate_is_nearly_a_constant():
    """The trap of the story of selected channels: FAN-S's blocks at 224 px (two of them here), before training."""
    model = FAN(**fan.PUBLISHED["FAN-S-ViT"] | dict(depth=2)).eval()
    with torch.no_grad():
        gates = model.gates(torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert 0.50125 < gates.min() and gates.max() < 0.50132 and gates.std() > 0


# ------------------------------------------------------------------------------------------------------------------------------- twins


def test_twins_differ_in_the_gate_only():
    states = {name: tiny(**options).state_dict() for name, options in dict(
        eca={}, mean=dict(gate="mean"), se=dict(channel="se"), mlp=dict(channel="mlp"), ca=dict(channel="ca"),
    ).items()}  # fmt: skip
    of_gates = lambda names: {name.split(".")[3] for name in names if ".channel." in name}  # noqa: E731
    assert of_gates(states["mean"].keys() ^ states["eca"].keys()) == {"mean_gate"}
    assert of_gates(states["mlp"].keys() ^ states["eca"].keys()) == {"query", "temperature"}
    assert of_gates(states["se"].keys() ^ states["eca"].keys()) == {"query", "squeeze", "excite"}
    assert of_gates(states["ca"].keys() ^ states["mlp"].keys()) == {"query", "key"}
    for twin in ("mean", "se", "mlp", "ca"):
        shared = states["eca"].keys() & states[twin].keys()
        assert len(shared) > 60 and all(states["eca"][name].shape == states[twin][name].shape for name in shared)
        assert all(".channel." in name for name in states["eca"].keys() ^ states[twin].keys())
    numbers = {channel: sum(p.numel() for p in ChannelBlock(64, 2, channel=channel).parameters()) for channel in fan.CHANNELS}
    assert abs(numbers["se"] - numbers["eca"]) == 32 and numbers["eca"] - numbers["mlp"] == 64 * 64 + 64 + 2


def test_the_mean_of_one_picture_is_its_own_gate_and_that_of_a_batch_the_mean():
    own, mean = (strong(ChannelBlock(C, HEADS, gate=gate, batch_norm=False)) for gate in ("picture", "mean"))
    mean.load_state_dict(own.state_dict(), strict=False)
    for block in (own, mean):
        block.train()
    assert torch.allclose(mean(X[:1], GRID), own(X[:1], GRID))
    assert not torch.allclose(mean(X, GRID), own(X, GRID), atol=1e-4)
    gates = (own.gate(X, GRID) / own.temperature[:, None]).detach()
    by_mean = own(X, GRID) / own.gate(X, GRID).flatten(1)[:, None] * own.gate(X, GRID).mean(0).flatten()
    assert torch.allclose(mean(X, GRID), by_mean)
    # three batches so far: a running mean with momentum 0.1 from 0.5 on
    expected = torch.full_like(gates[0], 0.5)
    for batch in (gates[:1], gates, gates):
        expected = 0.9 * expected + 0.1 * batch.mean(0)
    assert torch.allclose(mean.mean_gate, expected)
    mean.eval()
    answer = mean(X, GRID)
    assert torch.allclose(answer[:1], mean(X[:1], GRID)) and torch.allclose(mean.mean_gate, expected)
    assert torch.allclose(answer, mean.norm(mean.value(X, GRID)) * (expected * mean.temperature[:, None]).flatten())


@pytest.mark.parametrize("channel", ["eca", "se"])
def test_a_trained_networks_gates_can_be_replaced_by_their_mean(channel):
    model, pictures = tiny(channel=channel), images(5)
    before = copy.deepcopy(model.state_dict())
    same = model.with_mean_gates(pictures[:1])
    assert torch.allclose(same(pictures[:1]), model(pictures[:1])) and not torch.allclose(same(pictures[1:]), model(pictures[1:]), atol=1e-6)
    mean = model.with_mean_gates(pictures)
    wanted = model.gates(pictures).mean(0)
    found = torch.stack([block.channel.mean_gate * block.channel.temperature[:, None] for block in mean.blocks])
    assert torch.allclose(found, wanted) and all(block.channel.mean_gate is None for block in model.blocks)
    stored = tiny(channel=channel, gate="mean")
    stored.load_state_dict(mean.state_dict())
    assert torch.equal(stored(pictures), mean(pictures))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="channel must be eca or se"):
        tiny(channel="ca").with_mean_gates(pictures)


# ----------------------------------------------------------------------------------------------------------------- published networks


def on_meta(**options):
    with torch.device("meta"):
        return FAN(**options)


@pytest.mark.parametrize(
    "name, readme, gmacs", [("FAN-T-ViT", 7.3e6, 1.56), ("FAN-S-ViT", 28.0e6, 5.64), ("FAN-B-ViT", 54.0e6, 10.97), ("FAN-L-ViT", 80.5e6, 16.40)]
)
def test_published_networks_have_their_published_size_and_cost(name, readme, gmacs):
    model, sizes = on_meta(**fan.PUBLISHED[name]).eval(), fan.PUBLISHED[name]
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(fan.PUBLISHED_PARAMETERS[name], rel=1e-3) and count == pytest.approx(readme, rel=1.5e-2)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    once_more = sizes["depth"] * 196**2 * sizes["width"]  # what was counted of the official code holds the product of attention and values twice a block
    assert (counter.get_total_flops() / 2 + once_more) / 1e9 == pytest.approx(gmacs, rel=5e-3)


def official_shapes(width, depth, heads, classes, class_blocks=2):
    """Names and shapes of an official FAN-ViT of patch 16, written out."""
    c, hidden = width, 4 * width
    linear = lambda name, out, into: {f"{name}.weight": (out, into), f"{name}.bias": (out,)}  # noqa: E731
    norm = lambda name, size: {f"{name}.weight": (size,), f"{name}.bias": (size,)}  # noqa: E731
    batch_norm = lambda name, size: norm(name, size) | {  # noqa: E731
        f"{name}.running_mean": (size,), f"{name}.running_var": (size,), f"{name}.num_batches_tracked": (),
    }  # fmt: skip
    shapes = {"cls_token": (1, 1, c), "pos_embed.token_projection.weight": (c, 64, 1, 1), "pos_embed.token_projection.bias": (c,)}
    for i, (into, out) in enumerate(((3, c // 8), (c // 8, c // 4), (c // 4, c // 2), (c // 2, c))):
        shapes |= {f"patch_embed.proj.{2 * i}.0.weight": (out, into, 3, 3)} | batch_norm(f"patch_embed.proj.{2 * i}.1", out)
    for i in range(depth):
        b, v = f"blocks.{i}", f"blocks.{i}.mlp.mlp_v"
        shapes |= norm(f"{b}.norm1", c) | norm(f"{b}.norm2", c) | {f"{b}.gamma1": (c,), f"{b}.gamma2": (c,)}
        shapes |= linear(f"{b}.attn.q", c, c) | linear(f"{b}.attn.kv", 2 * c, c) | linear(f"{b}.attn.proj", c, c)
        shapes |= linear(f"{b}.mlp.q", c, c) | norm(f"{b}.mlp.norm_v", c) | {f"{b}.mlp.temperature": (heads, 1, 1), f"{v}.gamma": (hidden,)}
        shapes |= linear(f"{v}.fc1", hidden, c) | linear(f"{v}.fc2", c, hidden) | batch_norm(f"{v}.dwconv.bn", hidden)
        shapes |= {f"{v}.dwconv.conv{j}.weight": (hidden, 1, 3, 3) for j in (1, 2)} | {f"{v}.dwconv.conv{j}.bias": (hidden,) for j in (1, 2)}
    for i in range(class_blocks):
        b = f"cls_attn_blocks.{i}"
        shapes |= norm(f"{b}.norm1", c) | norm(f"{b}.norm2", c) | {f"{b}.gamma1": (c,), f"{b}.gamma2": (c,)}
        shapes |= {key: shape for part in "qkv" for key, shape in linear(f"{b}.attn.{part}", c, c).items()} | linear(f"{b}.attn.proj", c, c)
        shapes |= linear(f"{b}.mlp.fc1", hidden, c) | linear(f"{b}.mlp.fc2", c, hidden)
    return shapes | norm("norm", c) | linear("head", classes, c)


@pytest.mark.parametrize("name", ["FAN-T-ViT", "FAN-L-ViT"])
def test_official_names_become_ours_with_their_shapes(name):
    sizes = {key: fan.PUBLISHED[name][key] for key in ("width", "depth", "heads", "classes")}
    official = {key: torch.empty(shape, device="meta") for key, shape in official_shapes(**sizes).items()}
    ours = {key: tuple(value.shape) for key, value in fan.from_official(official).items()}
    assert len(ours) == len(official) and ours == {key: tuple(value.shape) for key, value in on_meta(**fan.PUBLISHED[name]).state_dict().items()}


SMALL = dict(width=16, depth=2, heads=2)


@pytest.fixture
def small(monkeypatch):
    """A FAN-T-ViT small enough for a test, and the official form of random weights for it."""
    monkeypatch.setitem(network.PUBLISHED, "FAN-T-ViT", SMALL | dict(image_size=32, patch_size=16, classes=1000))
    generator = torch.Generator().manual_seed(0)
    draw = lambda key, shape: torch.tensor(3) if key.endswith("tracked") else torch.rand(shape, generator=generator) + 0.1  # noqa: E731
    return {key: draw(key, shape) for key, shape in official_shapes(**SMALL, classes=7).items()}


def test_official_weights_are_read_from_a_file(small, tmp_path):
    later = {key: value + 1 for key, value in small.items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in small.items()}, "state_dict_ema": later, "args": argparse.Namespace(lr=1)}, tmp_path / "both.tar")
    torch.save(small, tmp_path / "bare.pth")
    model, averaged, bare = fan.load(tmp_path / "both.tar"), fan.load(str(tmp_path / "both.tar"), ema=True), fan.load(tmp_path / "bare.pth")
    assert torch.equal(model.blocks[1].token.key_value.weight, small["blocks.1.attn.kv.weight"]) and not model.training
    assert torch.equal(averaged.blocks[0].channel.temperature, small["blocks.0.mlp.temperature"].flatten() + 1)
    assert torch.equal(bare.class_blocks[1].scale_mlp, small["cls_attn_blocks.1.gamma2"]) and bare.stem.layers[0][1].num_batches_tracked == 3
    pictures = torch.rand(2, 3, 32, 32)
    assert model(pictures).shape == (2, 7) and torch.equal(model(pictures), bare(pictures)) and all(p.requires_grad for p in model.parameters())
    one, last = model.blocks[1], model.class_blocks[0]
    by_name = {  # those that a shape does not tell apart
        "blocks.1.attn.q": one.token.query, "blocks.1.attn.proj": one.token.project, "blocks.1.mlp.q": one.channel.query, "blocks.1.norm1": one.norm_token,
        "blocks.1.norm2": one.norm_channel, "blocks.1.mlp.norm_v": one.channel.norm, "blocks.1.mlp.mlp_v.dwconv.conv1": one.channel.value.conv1,
        "blocks.1.mlp.mlp_v.dwconv.conv2": one.channel.value.conv2, "cls_attn_blocks.0.attn.q": last.attention.query,
        "cls_attn_blocks.0.attn.k": last.attention.key, "cls_attn_blocks.0.attn.v": last.attention.value, "cls_attn_blocks.0.norm1": last.norm_attention,
        "cls_attn_blocks.0.attn.proj": last.attention.project, "cls_attn_blocks.0.norm2": last.norm_mlp, "norm": model.norm,
    }  # fmt: skip
    for name, part in by_name.items():
        assert torch.equal(part.weight, small[f"{name}.weight"]) and torch.equal(part.bias, small[f"{name}.bias"]), name
    for name, scale in {"blocks.1.gamma1": one.scale_token, "blocks.1.gamma2": one.scale_channel, "cls_attn_blocks.0.gamma1": last.scale_attention}.items():
        assert torch.equal(scale, small[name]), name
    torch.save({key: value for key, value in small.items() if not key.endswith("tracked")}, tmp_path / "old.pth")
    assert torch.equal(fan.load(tmp_path / "old.pth")(pictures), bare(pictures))


def test_what_is_no_official_file_is_refused_in_a_sentence(small, tmp_path):
    absent = "file must be a checkpoint of FAN-S-ViT on this machine, and there is none at nowhere.tar: fan_vit_small.pth.tar is a release file of"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(absent)}"):
        fan.load("nowhere.tar", "FAN-S-ViT")
    with pytest.raises(FileNotFoundError, match="at nowhere.tar: none is public$"):
        fan.load("nowhere.tar", "FAN-L-ViT")
    path = tmp_path / "weights.pth"

    def refused(held, message, **options):
        torch.save(held, path)
        with pytest.raises(ValueError, match=message):
            fan.load(path, **options)

    refused({"state_dict": small}, "ema must be False where the file has no averaged weights", ema=True)
    refused(
        {key: value for key, value in small.items() if key != "blocks.1.gamma2"}, "where 1 are missing, too many or of another shape, blocks.1.scale_channel"
    )
    refused(small | {"norm.weight": torch.ones(3)}, "1 are missing, too many or of another shape, norm.weight first")
    refused(small | {"blocks.0.attn.qkv.weight": torch.ones(3)}, "got 'blocks.0.attn.qkv.weight', which is none of them")
    refused([1, 2], "file must hold the weights of FAN-T-ViT")
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="file must be a checkpoint that torch can read as weights only"):
        fan.load(path)


# ----------------------------------------------------------------------------------------------------------------------------- grouping


def test_blocks_of_affinity_are_found_as_they_are():
    true = np.repeat([0, 1, 2], (5, 3, 6))
    order = np.random.default_rng(0).permutation(14)
    affinity = (true[:, None] == true[None])[order][:, order].astype(float)
    labels = fan.group_tokens(affinity, 3)
    assert fan.group_scores(labels, true[order]).ari == 1.0 and sorted(set(labels.tolist())) == [0, 1, 2]
    noisy = affinity * np.random.default_rng(1).uniform(0.5, 1, affinity.shape) + 0.02
    assert fan.group_scores(fan.group_tokens((noisy + noisy.T) / 2, 3, seed=5), true[order]).ari == 1.0


def test_affinities_are_cosines_and_mean_maps():
    tokens = drawn(2, 5, 3)
    made = fan.token_affinity(tokens)
    for i in range(5):
        for j in range(5):
            cosine = float(tokens[1, i] @ tokens[1, j] / tokens[1, i].norm() / tokens[1, j].norm())
            assert made[1, i, j] == pytest.approx(max(0, cosine), abs=1e-12)
    assert torch.equal(made, made.mT) and torch.allclose(fan.token_affinity(7 * tokens), made)
    maps = drawn(2, 3, 4, 4).softmax(-1)
    symmetric = fan.attention_affinity(maps)
    assert symmetric[0, 1, 2] == pytest.approx(float((maps[0, :, 1, 2] + maps[0, :, 2, 1]).sum() / 6)) and torch.equal(symmetric, symmetric.mT)


def test_labels_are_painted_row_by_row():
    painted = fan.paint(torch.arange(6), (2, 3), 2)
    assert painted.tolist() == [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [3, 3, 4, 4, 5, 5]]
    with pytest.raises(ValueError, match=r"grid must be \(H, W\) with H \* W = 6, the tokens of labels, got 2 \* 2 = 4"):
        fan.paint(torch.arange(6), (2, 2), 2)


def test_scores_do_not_ask_for_names_and_are_those_of_pairs():
    labels, masks = np.array([[0, 0, 1, 1], [1, 2, 2, 2]]), np.array([[5, 5, 3, 3], [5, 5, 7, 7]])
    found = fan.group_scores(labels, masks)
    assert fan.group_scores(9 - labels, masks).ari == pytest.approx(found.ari) and found.purity.tolist() == pytest.approx([1, 2 / 3, 2 / 3])
    a, b, pairs = labels.ravel(), masks.ravel(), [(i, j) for i in range(8) for j in range(i)]
    same = lambda x: np.array([x[i] == x[j] for i, j in pairs])  # noqa: E731
    both, first, second = (same(a) & same(b)).sum(), same(a).sum(), same(b).sum()
    chance = first * second / len(pairs)
    assert found.ari == pytest.approx((both - chance) / ((first + second) / 2 - chance))


def test_eigenvalues_count_the_directions_of_tokens():
    alike = torch.ones(4, 3).double() * drawn(4, 1).abs()  # one direction, several lengths
    count, values = fan.significant_eigenvalues(alike)
    assert count == 1 and torch.allclose(values, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), atol=1e-12)
    count, values = fan.significant_eigenvalues(torch.eye(5, 7)[None])
    assert count.tolist() == [5] and torch.allclose(values, torch.full((1, 5), 0.2, dtype=torch.float64))
    tokens = drawn(2, 6, 4)
    count, values = fan.significant_eigenvalues(tokens, threshold=0.3)
    singular = torch.linalg.svdvals(F.normalize(tokens, dim=-1)).square() / 6
    assert torch.allclose(values[:, :4], singular) and values[:, 4:].abs().max() < 1e-12 and torch.allclose(values.sum(1), torch.ones(2, dtype=torch.float64))
    assert count.tolist() == [int((s > 0.3 * s[0]).sum()) for s in singular]


# --------------------------------------------------------------------------------------------------------------------------- noise


def test_noise_decays_as_its_layers_say():
    pictures = drawn(2, 3, 4, 4)
    identity = lambda x: [x, 5 * x, x.mean((2, 3))]  # noqa: E731
    found = fan.noise_decay(identity, pictures, sigma=0.5, generator=torch.Generator().manual_seed(3))
    noise = 0.5 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    wanted = noise.flatten(1).norm(dim=1) / pictures.flatten(1).norm(dim=1)
    assert found.shape == (3, 2) and torch.allclose(found[0], wanted) and torch.allclose(found[1], wanted)
    assert torch.allclose(found[2], noise.mean((2, 3)).norm(dim=1) / pictures.mean((2, 3)).norm(dim=1))
    twice = fan.noise_decay(identity, pictures, sigma=1.0, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(twice, 2 * found)
    model = tiny()
    assert fan.noise_decay(lambda x: model.features(x, every=True), images(), generator=torch.Generator().manual_seed(0)).shape == (3, 2)


# ---------------------------------------------------------------------------------------------------------------------------- bottleneck

POINTS, CENTRES = drawn(7, 2, seed=9).numpy(), drawn(3, 2, seed=10).numpy()
COVARIANCE = np.array([[1.5, 0.4], [0.4, 0.8]])


def test_assignments_are_a_mixtures_where_the_norms_count():
    mixture = GaussianMixture(3, covariance_type="tied")
    mixture.weights_, mixture.means_, mixture.covariances_ = np.full(3, 1 / 3), CENTRES, COVARIANCE / 2
    mixture.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(COVARIANCE / 2))
    assert np.allclose(fan.soft_assignment(POINTS, CENTRES, covariance=COVARIANCE, norms=True), mixture.predict_proba(POINTS))


@pytest.mark.parametrize("over, axis", [("centres", 1), ("points", 0)])
def test_as_printed_the_scores_are_twice_an_inner_product(over, axis):
    scores = np.array([[2 * m @ np.linalg.inv(COVARIANCE) @ x for m in CENTRES] for x in POINTS])
    made = fan.soft_assignment(POINTS, CENTRES, covariance=COVARIANCE, over=over)
    assert np.allclose(made, numpy_softmax(scores, axis=axis)) and np.allclose(made.sum(axis), 1) and not np.allclose(made.sum(1 - axis), 1)


def test_new_centres_are_means_or_what_the_paper_prints():
    p = fan.soft_assignment(POINTS, CENTRES)
    made, printed = fan.updated_centres(POINTS, p), fan.updated_centres(POINTS, p, form="printed", covariance=COVARIANCE)
    for c in range(3):
        assert np.allclose(made[c], np.average(POINTS, axis=0, weights=p[:, c]))
        factor = np.log(p[:, c].sum() / 7) / (7 * np.linalg.det(COVARIANCE))
        assert factor < 0 and np.allclose(printed[c], factor * sum(p[i, c] * POINTS[i] for i in range(7)))
    with pytest.raises(ValueError, match="assignment must give each centre something, got a column of zeros, 1"):
        fan.updated_centres(POINTS, p * [1, 0, 1])


def test_slots_share_the_points_out_and_ordinary_attention_lets_centres_meet():
    random = np.random.default_rng(0)
    blobs = np.concatenate([centre + 0.3 * random.normal(size=(30, 2)) for centre in ((3, 0), (-3, 0), (0, 3))])
    start = np.array([[1.0, 0.2], [-1.0, 0.1], [0.1, 1.0]])
    slots, filled = (fan.soft_clusters(blobs, start, over=over, norms=over == "centres", steps=20) for over in ("centres", "points"))
    assert np.allclose(slots.centres, [blobs[i : i + 30].mean(0) for i in (0, 30, 60)], atol=1e-3)
    assert fan.group_scores(slots.assignment.argmax(1), np.repeat([0, 1, 2], 30)).ari == 1
    assert np.allclose(slots.assignment.sum(1), 1) and np.allclose(filled.assignment.sum(0), 1)
    assert slots.trace.shape == (21, 3, 2) and np.array_equal(slots.trace[0], start) and np.array_equal(slots.trace[-1], slots.centres)
    # a slot's way depends on the others; a query goes its own, whatever the others do
    fewer = {over: fan.soft_clusters(blobs, start[:2], over=over, steps=5).trace for over in ("centres", "points")}
    all_three = {over: fan.soft_clusters(blobs, start, over=over, steps=5).trace[:, :2] for over in ("centres", "points")}
    assert np.allclose(fewer["points"], all_three["points"]) and np.abs(fewer["centres"] - all_three["centres"]).max() > 0.1
    step = fan.soft_clusters(blobs, start, steps=1)
    assert np.allclose(step.centres, fan.updated_centres(blobs, fan.soft_assignment(blobs, start)))


def test_a_centre_that_nothing_belongs_to_stays():
    found = fan.soft_clusters(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[3.0, 0.0], [-3000.0, 0.0]]), steps=3)
    assert np.array_equal(found.centres[1], [-3000.0, 0.0]) and np.allclose(found.centres[0], [1.5, 0.0])


# ------------------------------------------------------------------------------------------------------------------- kinds and places


def test_results_are_of_the_kind_and_dtype_that_came():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        gates = channel_gate(Q.to(dtype), K.to(dtype))
        assert gates.dtype == dtype and torch.allclose(gates.double(), channel_gate(Q, K), atol=2e-2)
    assert isinstance(channel_gate(Q.numpy(), K.numpy()), np.ndarray)
    model, pictures = tiny().float(), images()
    made = model(pictures.numpy().astype(np.float32))
    assert isinstance(made, np.ndarray) and np.allclose(made, model(pictures.float()).detach(), atol=1e-5)
    assert model.bfloat16()(pictures.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(tiny().float()(pictures.float()).float(), tiny()(pictures).float(), atol=0.5)


def test_a_gradient_flows_to_pictures_queries_and_keys():
    q, k = Q.clone().requires_grad_(), K.clone().requires_grad_()
    channel_gate(q, k).sum().backward()
    assert q.grad.abs().max() > 1e-4 < k.grad.abs().max()
    pictures = images().requires_grad_()
    tiny()(pictures).sum().backward()
    assert pictures.grad.abs().max() > 0


def test_everything_runs_where_its_numbers_lie():
    model, pictures = tiny().float(), images().float()
    wanted = {"logits": model(pictures), "gates": model.gates(pictures), "maps": model.attention_maps(pictures)}
    tokens = model.features(pictures)
    with Accelerator():
        far, there = model.to(DEVICE), pictures.to(DEVICE)
        found = {"logits": far(there), "gates": far.gates(there), "maps": far.attention_maps(there)}
        for name, value in found.items():
            assert value.device == DEVICE and torch.allclose(near(value), wanted[name], atol=1e-6), name
        affinity = fan.token_affinity(tokens.detach().to(DEVICE)[0])
        labels = fan.group_tokens(affinity, 2)
        assert labels.device == DEVICE and torch.equal(near(labels), fan.group_tokens(fan.token_affinity(tokens.detach()[0]), 2))
        assert far.with_mean_gates(there)(there).device == DEVICE
        with pytest.raises(ValueError, match="images must lie where the network does, on meta:0, got cpu"):
            far(pictures)


# ------------------------------------------------------------------------------------------------------------------------------ refusals


def test_gradients_of_a_picture_are_the_same_alone_and_in_a_batch():
    torch.manual_seed(0)
    model = fan.FAN(image_size=16, width=16, depth=2).eval()
    two = torch.rand(2, 3, 16, 16, requires_grad=True)
    alone = two[:1].detach().clone().requires_grad_()
    for x in (two, alone):
        model(x)[0, 3].backward()
    assert torch.allclose(two.grad[:1], alone.grad, atol=1e-6)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: FAN(width=64, heads=3), ValueError, "heads must divide width, 64, got 3"),
        (lambda: ChannelBlock(10, 4), ValueError, "heads must divide width, 10, got 4"),
        (lambda: FAN(image_size=30), ValueError, "image_size must be a multiple of patch_size, 4, got 30"),
        (lambda: FAN(patch_size=3), ValueError, "patch_size must be one of 2, 4, 8, 16, got 3"),
        (lambda: FAN(width=20, patch_size=16), ValueError, "width must be a multiple of patch_size / 2, 8, got 20"),
        (lambda: FAN(channel="gelu"), ValueError, "channel must be one of eca, ca, se, mlp, got 'gelu'"),
        (lambda: FAN(channel="mlp", gate="mean"), ValueError, 'gate must be "picture" where there is no gate to take the mean of'),
        (lambda: FAN(drop_path=1.0), ValueError, r"drop_path must be a finite number in \[0, 0.99\], got 1.0"),
        (lambda: FAN(classes=0), ValueError, "classes must be an integer >= 1, got 0"),
        (lambda: strong(ChannelBlock(C, HEADS))(X, (3, 3)), ValueError, r"grid must be \(H, W\) with H \* W = 8, the tokens of x, got 3 \* 3 = 9"),
        (lambda: strong(ChannelBlock(C, HEADS))(X[..., :5], GRID), ValueError, r"x must be a floating-point tensor \(B, N, 6\), got shape \(2, 8, 5\)"),
        (lambda: tiny()(images() * float("nan")), ValueError, "images must be finite"),
        (lambda: channel_gate(Q, K[:, :, :3]), ValueError, r"key must be floating-point numbers \(2, 2, 8, 3\), as query has them, got shape \(2, 2, 3, 3\)"),
        (lambda: channel_gate(Q, K, temperature=[1.0]), ValueError, r"temperature must be floating-point numbers \(2,\), as query has them, got shape \(1,\)"),
        (lambda: fan.fourier_features(2, 2, hidden=3), ValueError, "hidden must be even"),
        (lambda: fan.token_affinity(torch.zeros(2, 3)), ValueError, "features must have no token of zeros, which has no direction, got 2 of them"),
        (lambda: fan.group_tokens(torch.tensor([[1.0, 0.9], [0.1, 1.0]]), 2), ValueError, "affinity must be symmetric"),
        (lambda: fan.group_tokens(torch.eye(3), 3), ValueError, r"groups must be an integer in 2\.\.2, got 3"),
        (lambda: fan.soft_assignment(POINTS, CENTRES, covariance=-COVARIANCE), ValueError, "covariance must be symmetric and positive definite"),
        (
            lambda: fan.soft_assignment(POINTS, CENTRES[:, :1]),
            ValueError,
            r"centres must be floating-point numbers \(K, 2\), as points has them, got shape \(3, 1\)",
        ),
        (lambda: fan.noise_decay(lambda x: x, images()), TypeError, "features must give a list of tensors, each of 2 pictures"),
        (lambda: fan.noise_decay(lambda x: [0 * x], images()), ValueError, "features must give layers that are not all zeros, got zeros in layer 0"),
        (lambda: fan.from_official({"blocks.0.nothing": torch.ones(1)}), ValueError, "got 'blocks.0.nothing', which is none of them"),
        (lambda: fan.load(3), TypeError, "file must be a path, got 3"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
