"""Shunted attention against slow loops, torch's and transformers' own layers, worked and published counts, limits and symmetries."""

import argparse
import copy
import math
from functools import lru_cache

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.methods import shunted_attention as sh
from helpers.methods.shunted_attention import SIZES, FeedForward, Pyramid, Shunted, ShuntedAttention
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
GRID = (4, 6)
SMALL = dict(image_size=32, widths=(8, 12), depths=(1, 2), heads=(2, 2), rates=((4, 2), (2, 1)), classes=5, mlp_ratios=2, num_conv=0, drop_path=0.0)
PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def seed(value=0):
    return torch.Generator().manual_seed(value)


def normal(*shape, number=0):
    return torch.randn(*shape, generator=seed(number))


def moved(module):
    """With weights large enough that every part matters, norms and biases too."""
    generator = seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    return module.eval()


def small(kind=Shunted, **changes):
    return moved(kind(**SMALL | changes))


def without_local_terms(kind=Shunted, **changes):
    return small(kind, local="none", detail="none", **changes)


# --------------------------------------------------------------------------------------------------------------------- slow references


def slow_conv(image, weight, bias, rate):
    """image (H, W, C), weight (D, C, r, r): cells beyond the border count as zero."""
    rows, columns = -(-image.shape[0] // rate), -(-image.shape[1] // rate)
    out = np.zeros((rows, columns, len(weight)))
    for i, j, d in np.ndindex(*out.shape):
        out[i, j, d] = bias[d]
        for a, b in np.ndindex(rate, rate):
            if i * rate + a < image.shape[0] and j * rate + b < image.shape[1]:
                out[i, j, d] += image[i * rate + a, j * rate + b] @ weight[d, :, a, b]
    return out


def slow_depthwise(image, weight, bias):
    """image (H, W, C), weight (C, 1, 3, 3), zeros around."""
    around, out = np.pad(image, ((1, 1), (1, 1), (0, 0))), np.zeros_like(image)
    for i, j, c in np.ndindex(*image.shape):
        out[i, j, c] = (around[i : i + 3, j : j + 3, c] * weight[c, 0]).sum() + bias[c]
    return out


def slow_layer_norm(x, weight, bias, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def slow_gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def slow_attention(layer, tokens, grid):
    """One picture (N, C), head by head, from the layer's numbers by name."""
    p = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    image, width, d = tokens.reshape(*grid, -1), layer.dim // len(layer.rates), layer.dim // layer.heads
    queries, heads = tokens @ p["q.weight"].T + p["q.bias"], []
    for g, rate in enumerate(layer.rates):
        name, seen = f"groups.{g}.", image
        if name + "conv.weight" in p:
            seen = slow_conv(image, p[name + "conv.weight"], p[name + "conv.bias"], rate)
            seen = slow_gelu(slow_layer_norm(seen, p[name + "norm.weight"], p[name + "norm.bias"], 1e-5))
        keys, values = np.split(seen @ p[name + "kv.weight"].T + p[name + "kv.bias"], [width], -1)
        local = slow_depthwise(values, p[name + "local.weight"], p[name + "local.bias"]) if name + "local.weight" in p else np.zeros_like(values)
        values = values + local if layer.local == "value" else values
        for h in range(width // d):
            part = slice(h * d, h * d + d)
            scores = queries[:, g * width :][:, part] @ keys[..., part].reshape(-1, d).T / math.sqrt(d)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ values[..., part].reshape(-1, d))
            heads[-1] = heads[-1] + local[..., part].reshape(-1, d) if layer.local == "output" else heads[-1]
    return np.concatenate(heads, 1) @ p["proj.weight"].T + p["proj.bias"]


# ------------------------------------------------------------------------------------------------------------------------- aggregation


def test_aggregation_by_hand():
    tokens, mean = torch.arange(1.0, 17).view(1, 16, 1), torch.full((1, 1, 2, 2), 0.25)
    assert sh.aggregate(tokens, mean, grid=(4, 4)).flatten().tolist() == [3.5, 5.5, 11.5, 13.5]


def test_aggregation_completes_the_border_with_zeros():
    tokens, weight, bias = normal(2, 35, 3), normal(4, 3, 2, 2), normal(4)
    found = sh.aggregate(tokens, weight, bias, grid=(5, 7))
    for one, image in zip(found, tokens):
        slow = slow_conv(image.view(5, 7, 3).numpy(), weight.numpy(), bias.numpy(), 2)
        np.testing.assert_allclose(one.numpy(), slow.reshape(12, 4), atol=1e-5)
    assert sh.reduced_grid((5, 7), 2) == (3, 4) and sh.reduced_grid((5, 7), 2, border="drop") == (2, 3)


def test_the_border_that_is_dropped_enters_no_key_and_is_told():
    tokens, weight = normal(1, 35, 3), normal(4, 3, 2, 2)
    other = tokens.view(1, 5, 7, 3).clone()
    other[:, 4], other[:, :, 6] = 9.0, -9.0
    with pytest.warns(UserWarning, match="the last 1 of 5 rows and 1 of 7 columns enter no key at rate 2"):
        dropped = [sh.aggregate(x.reshape(1, 35, 3), weight, grid=(5, 7), border="drop") for x in (tokens, other)]
    padded = [sh.aggregate(x.reshape(1, 35, 3), weight, grid=(5, 7)) for x in (tokens, other)]
    assert torch.equal(*dropped) and not torch.allclose(*padded)
    assert dropped[0].shape == (1, 6, 4) and padded[0].shape == (1, 12, 4)
    torch.testing.assert_close(dropped[0].view(2, 3, 4), padded[0].view(3, 4, 4)[:2, :3])


def test_the_official_border_in_a_layer():
    tokens = normal(1, 42, 4)
    layers = [moved(ShuntedAttention(4, 2, (4, 2), border=border)) for border in ("drop", "pad")]
    with pytest.warns(UserWarning) as told:
        assert [grid for *_, grid in layers[0].keys_values(tokens, (6, 7))] == [(1, 1), (3, 3)]
    assert [str(one.message).partition(";")[0] for one in told] == [
        "the last 2 of 6 rows and 3 of 7 columns enter no key at rate 4", "the last 0 of 6 rows and 1 of 7 columns enter no key at rate 2",
    ]  # fmt: skip
    assert [grid for *_, grid in layers[1].keys_values(tokens, (6, 7))] == [(2, 2), (3, 4)]


def test_the_local_term_is_a_depthwise_convolution():
    tokens, weight, bias = normal(2, 15, 4), normal(4, 1, 3, 3), normal(4)
    found = sh.depthwise(tokens, weight, bias, grid=(3, 5))
    for one, image in zip(found, tokens):
        np.testing.assert_allclose(one.numpy(), slow_depthwise(image.view(3, 5, 4).numpy(), weight.numpy(), bias.numpy()).reshape(15, 4), atol=1e-5)


# --------------------------------------------------------------------------------------------------------------------------- attention


def test_attention_is_torchs_own_and_rows_sum_to_1():
    q, k, v = normal(2, 3, 5, 4), normal(2, 3, 7, 4, number=1), normal(2, 3, 7, 6, number=2)
    found, maps = sh.attend(q, k, v)
    torch.testing.assert_close(found, torch.nn.functional.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 5))
    assert maps.shape == (2, 3, 5, 7) and maps.min() >= 0


@pytest.mark.parametrize("number", range(5))
def test_repeating_each_key_changes_nothing(number):
    q, k, v = normal(3, 4, number=number), normal(7, 4, number=number + 10), normal(7, 2, number=number + 20)
    once, twice = sh.attend(q, k, v), sh.attend(q, k.repeat_interleave(2, 0), v.repeat_interleave(2, 0))
    torch.testing.assert_close(once[0], twice[0])
    torch.testing.assert_close(once[1], twice[1].view(3, 7, 2).sum(2))


LAYERS = {
    "two rates": dict(rates=(2, 1)), "three rates": dict(rates=(4, 2, 1)), "a pyramid": dict(rates=(2,)), "the last stage": dict(rates=(1,)),
    "no local term": dict(rates=(4, 2), local="none"), "values at rate 1": dict(rates=(1,), local="value"), "tokens": dict(rates=(2, 1), rate_one="tokens"),
    "outputs in two groups": dict(rates=(1, 1), local="output"), "convolved alone": dict(rates=(1,), rate_one="conv"), "a border": dict(rates=(3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_head_by_head(name):
    layer, tokens = moved(ShuntedAttention(12, 6, **LAYERS[name])).double(), normal(2, 24, 12).double()
    found = layer(tokens, GRID).detach().numpy()
    for one, image in zip(found, tokens.numpy()):
        np.testing.assert_allclose(one, slow_attention(layer, image, GRID), atol=1e-10)
    maps, read = layer.maps(tokens, GRID), layer.keys_values(tokens, GRID)
    sizes = [math.prod(sh.reduced_grid(GRID, rate)) for rate in layer.rates]
    assert [m.shape for m in maps] == [(2, 6 // len(sizes), 24, size) for size in sizes] == [(*k.shape[:2], 24, k.shape[2]) for k, _, _ in read]
    torch.testing.assert_close(torch.cat([m.sum(-1) for m in maps], 1), torch.ones(2, 6, 24).double())
    if layer.local != "output":
        heads = torch.cat([m @ v for m, (_, v, _) in zip(maps, read)], 1)
        torch.testing.assert_close(layer.mix(tokens, GRID), heads.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("rate_one", ["conv", "tokens"])
def test_at_rate_1_without_extras_it_is_plain_attention(rate_one):
    layer = moved(ShuntedAttention(12, 3, (1,), local="none", rate_one=rate_one, norm=False, activation=False)).double()
    plain = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        if rate_one == "conv":
            layer.groups[0].conv.weight.copy_(torch.eye(12)[..., None, None]), layer.groups[0].conv.bias.zero_()
        plain.in_proj_weight.copy_(torch.cat([layer.q.weight, layer.groups[0].kv.weight]))
        plain.in_proj_bias.copy_(torch.cat([layer.q.bias, layer.groups[0].kv.bias]))
        plain.out_proj.load_state_dict(layer.proj.state_dict())
    tokens = normal(2, 24, 12).double()
    expected, weights = plain(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(layer(tokens, GRID), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.maps(tokens, GRID)[0], weights, rtol=0, atol=1e-6)


def test_a_constant_field():
    """Equal tokens give equal outputs: everywhere where the local term went through attention, in the interior where it did not."""
    tokens = normal(1, 1, 8).expand(2, 64, 8)
    inside, outside = (moved(ShuntedAttention(8, 2, rates))(tokens, (8, 8)).detach().view(2, 8, 8, 8) for rates in ((4, 2), (1,)))
    torch.testing.assert_close(inside, inside[:, :1, :1].expand_as(inside))
    torch.testing.assert_close(outside[:, 1:7, 1:7], outside[:, 1:2, 1:2].expand(-1, 6, 6, -1))
    assert not torch.allclose(outside[:, 0, 0], outside[:, 1, 1], atol=1e-3)


def test_where_the_local_term_goes():
    """With attention that is even: before it, every place gets the mean of V + DW(V); after it, the mean of V and its own DW(V)."""
    tokens, found = normal(1, 24, 8), {}
    for local in ("value", "output", "none"):
        layer = moved(ShuntedAttention(8, 2, (1,), local=local))
        with torch.no_grad():
            layer.q.weight.zero_(), layer.q.bias.zero_()
        v = layer.groups[0].kv(tokens).chunk(2, -1)[1]
        extra = 0 if local == "none" else layer.groups[0].local(v, GRID)
        expected = (v + extra).mean(1, keepdim=True).expand_as(v) if local == "value" else v.mean(1, keepdim=True) + extra
        torch.testing.assert_close(layer.mix(tokens, GRID), expected.expand_as(v), rtol=1e-4, atol=1e-4)
        found[local] = layer.mix(tokens, GRID)
    assert not torch.allclose(found["value"], found["output"], atol=1e-2) and not torch.allclose(found["value"], found["none"], atol=1e-2)


def test_official_placement_is_by_the_rates():
    assert [ShuntedAttention(4, 2, rates).local for rates in ((8, 4), (2, 1), (4,), (1,))] == ["value", "value", "value", "output"]


def test_shapes_of_the_first_stage():
    layer, tokens = ShuntedAttention(64, 2, (8, 4)), normal(2, 3136, 64)
    (k8, v8, coarse), (k4, v4, fine) = layer.keys_values(tokens, (56, 56))
    assert (coarse, fine) == ((7, 7), (14, 14))
    assert k8.shape == v8.shape == (2, 1, 49, 32) and k4.shape == v4.shape == (2, 1, 196, 32)
    assert layer(tokens, (56, 56)).shape == (2, 3136, 64)


def test_worked_count_of_parameters():
    layer = ShuntedAttention(64, 2, (8, 4))
    counts = {
        name: sh.parameters(layer.get_submodule(name)) for name in ("q", "proj", *(f"groups.{g}.{p}" for g in (0, 1) for p in ("conv", "norm", "kv", "local")))
    }
    assert counts == {
        "q": 4160, "proj": 4160, "groups.0.conv": 262_208, "groups.0.norm": 128, "groups.0.kv": 4160, "groups.0.local": 320,
        "groups.1.conv": 65_600, "groups.1.norm": 128, "groups.1.kv": 4160, "groups.1.local": 320,
    }  # fmt: skip
    assert sh.parameters(layer) == sum(counts.values()) == 345_344
    assert round(100 * (counts["groups.0.conv"] + counts["groups.1.conv"]) / 345_344) == 95


def test_swapping_groups_permutes_heads_before_the_projection_only():
    layer, tokens = moved(ShuntedAttention(8, 4, (2, 1))), normal(2, 24, 8)
    swapped = moved(ShuntedAttention(8, 4, (1, 2)))
    state, order = layer.state_dict(), [*range(4, 8), *range(4)]
    other = {name.replace("groups.0", "groups.x").replace("groups.1", "groups.0").replace("groups.x", "groups.1"): value for name, value in state.items()}
    other |= {name: value[order] for name, value in state.items() if name.startswith("q.")}
    swapped.load_state_dict(other)
    torch.testing.assert_close(swapped.mix(tokens, GRID), layer.mix(tokens, GRID)[..., order])
    assert not torch.allclose(swapped(tokens, GRID), layer(tokens, GRID)[..., order], atol=1e-2)
    assert not torch.allclose(swapped(tokens, GRID), layer(tokens, GRID), atol=1e-2)
    with torch.no_grad():
        swapped.proj.weight.copy_(layer.proj.weight[:, order])
    torch.testing.assert_close(swapped(tokens, GRID), layer(tokens, GRID))


def test_at_rate_1_in_company_keys_are_not_the_plain_tokens():
    tokens, layer = normal(1, 24, 8), moved(ShuntedAttention(8, 2, (2, 1), local="none"))
    fine = layer.groups[1]
    assert fine.conv.kernel_size == (1, 1) and layer.groups[0].conv.kernel_size == (2, 2)
    plain = fine.kv(tokens)[..., :4]
    assert not torch.allclose(layer.keys_values(tokens, GRID)[1][0][:, 0], plain, atol=1e-2)
    bare = moved(ShuntedAttention(8, 2, (2, 1), local="none", rate_one="tokens"))
    assert bare.groups[1].conv is None and bare.groups[0].conv is not None
    torch.testing.assert_close(bare.keys_values(tokens, GRID)[1][0][:, 0], bare.groups[1].kv(tokens)[..., :4])


def test_keys_are_made_of_what_gelu_leaves():
    """What is below -0.17 never enters keys and values."""
    tokens, layer = 5 * normal(1, 24, 8), moved(ShuntedAttention(8, 2, (2, 1)))
    seen = []
    for group in layer.groups:
        group.kv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    layer(tokens, GRID)
    assert len(seen) == 2 and all(-0.1701 < x.min() < -0.01 and x.max() > 0.5 for x in seen)
    linear = moved(ShuntedAttention(8, 2, (2, 1), activation=False))
    assert not torch.allclose(linear(tokens, GRID), layer(tokens, GRID), atol=1e-2)


def test_a_layer_knows_no_places_beside_its_cells_but_by_the_local_term():
    """Whole 4 x 4 cells in another order: outputs follow, unless a local term sees the neighbours of a cell."""
    tokens, order = normal(1, 8, 12, 8), [4, 0, 5, 2, 1, 3]
    cells = lambda x: x.unflatten(1, (2, 4)).unflatten(3, (3, 4)).transpose(2, 3).flatten(1, 2)  # noqa: E731  (B, 6 cells, 4, 4, C)
    back = lambda x: x.unflatten(1, (2, 3)).transpose(2, 3).flatten(1, 2).flatten(2, 3)  # noqa: E731
    torch.testing.assert_close(back(cells(tokens)), tokens)
    other = back(cells(tokens)[:, order])
    for local, follows in (("none", True), ("value", False)):
        layer = moved(ShuntedAttention(8, 2, (4, 2), local=local))
        one, two = (layer(x.flatten(1, 2), (8, 12)).view(1, 8, 12, 8) for x in (tokens, other))
        assert torch.allclose(back(cells(one)[:, order]), two, atol=1e-4) == follows


@pytest.mark.parametrize(
    "arguments, options, text",
    [
        ((12, 3), {}, "heads must be a multiple of the number of rates, 2, got 3"), ((10, 4), {}, "dim must be a multiple of the number of heads, 4, got 10"),
        ((8, 2), dict(rates=()), "rates must be one or more integers >= 1"), ((8, 2), dict(rates=(2, 0)), "rates must be one or more integers >= 1"),
        ((8, 2), dict(rates=(2, 1), local="output"), "local must be value or none where a rate is above 1"),
        ((8, 2), dict(local="values"), "local must be one of official, value, output, none"), ((8, 2), dict(border="crop"), "border must be one of pad, drop"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be(arguments, options, text):
    with pytest.raises(ValueError, match=text):
        ShuntedAttention(*arguments, **options)


@pytest.mark.parametrize(
    "shape, grid, text",
    [
        ((1, 25, 8), (4, 6), r"tokens must be \(B, 24, C\) on a grid of 4 x 6, got shape \(1, 25, 8\)"), ((1, 24, 7), (4, 6), "tokens must have 8 channels"),
        ((1, 18, 8), (3, 6), "grid must have 4 rows and columns or more, the largest rate, got 3 x 6"),
        ((1, 18, 8), (6, 3), "grid must have 4 rows and columns or more, the largest rate, got 6 x 3"),
    ],
)  # fmt: skip
def test_tokens_that_do_not_fit(shape, grid, text):
    with pytest.raises(ValueError, match=text):
        ShuntedAttention(8, 2, (4, 2))(torch.zeros(shape), grid)


# ------------------------------------------------------------------------------------------------------------------------ feed-forward


def test_the_detail_layer_by_hand_and_without_detail():
    tokens, detail, alone, plain = normal(2, 24, 5), *(moved(FeedForward(5, 7, detail=kind)).double() for kind in ("added", "alone", "none"))
    tokens = tokens.double()
    for layer in (detail, alone):
        p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
        for one, image in zip(layer(tokens, GRID), tokens.numpy()):
            u = (image @ p["fc1.weight"].T + p["fc1.bias"]).reshape(*GRID, 7)
            inner = slow_depthwise(u, p["local.weight"], p["local.bias"]) + (u if layer is detail else 0)
            np.testing.assert_allclose(one.detach().numpy(), slow_gelu(inner).reshape(24, 7) @ p["fc2.weight"].T + p["fc2.bias"], atol=1e-10)
    plain.load_state_dict({name: value for name, value in detail.state_dict().items() if not name.startswith("local")})
    assert not torch.allclose(detail(tokens, GRID), plain(tokens, GRID), atol=1e-2)
    with torch.no_grad():
        detail.local.weight.zero_(), detail.local.bias.zero_()
        alone.load_state_dict(detail.state_dict())
        alone.local.weight[:, 0, 1, 1] = 1
    torch.testing.assert_close(detail(tokens, GRID), plain(tokens, GRID), rtol=0, atol=1e-12)
    torch.testing.assert_close(alone(tokens, GRID), plain(tokens, GRID), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------------------ whole models


@lru_cache
def hollow(size, **changes):
    with torch.device("meta"):
        return Shunted(**SIZES[size] | changes)


@pytest.mark.parametrize("size, millions, gmacs", [("T", 11.55, 2.15), ("S", 22.40, 4.99), ("B", 39.61, 8.15)])
def test_published_parameters_and_multiply_adds(size, millions, gmacs):
    model = hollow(size)
    assert round(sh.parameters(model) / 1e6, 2) == millions
    assert sh.macs(model) / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_grids_and_keys_at_paper_size():
    for stage, (side, keys) in zip(hollow("T").stages, ((56, [49, 196]), (28, [49, 196]), (14, [49, 196]), (7, [49]))):
        rates = stage.blocks[0].attention.rates
        assert [math.prod(sh.reduced_grid((side, side), rate)) for rate in rates] == keys
        assert all(block.attention.dim // block.attention.heads == 32 for block in stage.blocks)
    assert [stage.blocks[0].ffn.fc1.out_features for stage in hollow("T").stages] == [512, 1024, 1024, 2048]
    shapes = [m.shape[1:] for m in hollow("T").eval().maps(torch.zeros(1, 3, 224, 224, device="meta"))]
    assert shapes == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


def test_cost_of_a_layer_part_by_part():
    cost = sh.attention_macs(64, (56, 56), (8, 4))
    square = 3136 * 64**2
    assert cost["queries"] == cost["projection"] == square and cost["aggregation"] == 2 * square
    assert cost["keys and values"] == (49 + 196) * 64**2 and cost["scores and sums"] == 2 * 3136 * 64 * 122.5
    for rates in ((4, 2), (2, 1), (8, 8)):
        assert sh.attention_macs(64, (56, 56), rates)["aggregation"] == 2 * square
    assert sh.attention_macs(64, (56, 56), (4,))["scores and sums"] == 2 * 3136 * 196 * 64


@pytest.mark.parametrize("rates, grid", [((4, 2), (8, 12)), ((1,), (5, 3)), ((3, 2), (7, 5)), ((2, 1), (4, 6)), ((4,), (4, 8))])
def test_cost_of_a_layer_is_what_the_flop_counter_counts(rates, grid):
    layer, tokens = ShuntedAttention(8, 2, rates), torch.zeros(1, math.prod(grid), 8)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        layer(tokens, grid)
    assert counter.get_total_flops() == 2 * sum(sh.attention_macs(8, grid, rates).values())


@pytest.mark.parametrize("size", ["toy-64", "toy-32"])
def test_toy_sizes(size):
    model, side = Shunted(**SIZES[size], classes=7).eval(), SIZES[size]["image_size"]
    pictures = torch.rand(2, 3, side, side, generator=seed())
    logits, features = model(pictures), model.features(pictures)
    assert logits.shape == (2, 7) and features.shape == (2, 128) and 0.6e6 < sh.parameters(model) < 0.9e6
    assert [m.shape[2:] for m in model.maps(pictures)] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    torch.testing.assert_close(model.classifier(features), logits)
    torch.testing.assert_close(model(pictures[1:]), logits[1:], rtol=1e-4, atol=1e-5)


def test_the_pyramid_has_one_rate_and_nothing_else_differs():
    pyramid = small(Pyramid, rates=(4, 2))
    assert torch.equal(pyramid(PICTURES), small(rates=((4,), (2,)))(PICTURES))
    assert [stage.blocks[0].attention.rates for stage in pyramid.stages] == [(4,), (2,)]
    own, other = ({name.partition("groups")[0] for name in m.state_dict()} for m in (pyramid, small()))
    assert own == other and pyramid(PICTURES).shape == (2, 5)


@pytest.mark.parametrize("kind, rates", [(Shunted, SMALL["rates"]), (Pyramid, (4, 2))])
def test_local_terms_can_be_turned_off_in_both(kind, rates):
    deep = lambda model: [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]  # noqa: E731
    model = without_local_terms(kind, rates=rates)
    assert len(deep(small(kind, rates=rates))) == (9 if kind is Shunted else 6) and deep(model) == []
    assert model(PICTURES).shape == (2, 5)


@pytest.mark.parametrize("options", [{}, dict(stem="patch"), dict(stem="overlap", detail="alone"), dict(local="none", detail="none"), dict(rate_one="tokens")])
def test_every_number_learns(options):
    model = Shunted(**SMALL | options).train()
    model(PICTURES).square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in still if not name.endswith("kv.bias")] == []


@pytest.mark.parametrize("stem", ["conv", "overlap", "patch"])
def test_stems_have_the_stride_and_only_convolutions_know_places(stem):
    """Exchanging the halves of the picture: without any convolution that overlaps, the mean of the features is the same."""
    options = dict(widths=(8,), depths=(1,), heads=(2,), rates=((2, 1),), stem=stem)
    model = without_local_terms(**options)
    assert model.maps(PICTURES)[0].shape == (2, 8, 8, 8)
    same = torch.allclose(model(PICTURES), model(PICTURES.roll(16, 3)), atol=1e-4)
    assert same == (stem == "patch")
    assert not torch.allclose(small(**options)(PICTURES), small(**options)(PICTURES.roll(16, 3)), atol=1e-4)


def test_other_sizes_of_pictures():
    model = small()
    found = model.maps(torch.rand(1, 3, 24, 52, generator=seed()))
    assert [m.shape[2:] for m in found] == [(6, 13), (3, 7)]
    with pytest.raises(ValueError, match=r"pictures must have sides that are multiples of 4, got \(30, 32\)"):
        model(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match="grid must have 4 rows and columns or more, the largest rate, got 3 x 8"):
        model(torch.zeros(1, 3, 12, 32))
    with pytest.raises(ValueError, match="pictures must lie where the model does, on cpu, got meta"):
        model(torch.zeros(1, 3, 32, 32, device="meta"))


@pytest.mark.parametrize(
    "changes, error, text",
    [
        (dict(rates=(4, 2)), TypeError, r"rates must be 2 tuples of rates, one for each of widths, such as \(\(8, 4\), \(1,\)\), got \(4, 2\)"),
        (dict(rates=((4, 2),)), ValueError, r"rates must be 2 tuples of rates, one for each of widths, .* got \(\(4, 2\),\)"),
        (dict(image_size=8), ValueError, r"rates must be at most the side of the stage's grid, 2 in stage 1 at image_size 8, got \(4, 2\)"),
        (dict(rates=((4, 2), (8, 4))), ValueError, r"4 in stage 2 at image_size 32, got \(8, 4\)"),
        (dict(image_size=30), ValueError, "image_size must be a multiple of stem_stride, 4, got 30"),
        (dict(heads=(2, 3)), ValueError, "heads must be a multiple of the number of rates, 2, got 3"),
        (dict(widths=(8, 11)), ValueError, "widths must be a multiple of the number of heads, 2, got 11"),
        (dict(stem_stride=3), ValueError, "stem_stride must be one of 2, 4, got 3"),
        (dict(drop_path=1.0), ValueError, r"drop_path must be a finite number in \[0, 1\), got 1"),
    ],
)  # fmt: skip
def test_models_that_cannot_be(changes, error, text):
    with pytest.raises(error, match=text):
        Shunted(**SMALL | changes)


def test_the_start_is_the_official_one():
    model = Shunted(**SIZES["toy-64"], generator=seed(3))
    linear = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Linear)])
    assert linear.std().item() == pytest.approx(0.02, rel=0.01) and linear.mean().abs() < 1e-3
    conv, deep = model.stages[1].embedding.conv, model.stages[2].blocks[0].ffn.local
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
    assert deep.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and m.bias is not None)
    again, other = (Shunted(**SIZES["toy-64"], generator=seed(number)) for number in (3, 4))
    assert torch.equal(again.classifier.weight, model.classifier.weight) and not torch.equal(other.classifier.weight, model.classifier.weight)


def test_norms_inside_attention_have_another_epsilon():
    inside = {m.eps for name, m in hollow("T").named_modules() if isinstance(m, nn.LayerNorm) and ".groups." in name}
    outside = {m.eps for name, m in hollow("T").named_modules() if isinstance(m, nn.LayerNorm) and ".groups." not in name}
    assert (inside, outside) == ({1e-5}, {1e-6})


def test_stochastic_depth_rises_linearly_and_keeps_the_mean():
    model = Shunted(**SMALL | dict(depths=(2, 3), drop_path=0.4))
    assert [block.drop_path for stage in model.stages for block in stage.blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    block, ones = model.stages[1].blocks[2], torch.ones(4000, 1, 1)
    torch.manual_seed(0)
    kept = block.train()._kept(ones)
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()} and kept.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(block.eval()._kept(ones), ones)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    model = Shunted(**SMALL).eval()
    found = copy.deepcopy(model).to(dtype)(PICTURES.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), model(PICTURES), rtol=0.1, atol=2e-3)


def test_on_an_accelerator():
    model = small(depths=(1, 1))
    expected, place = model(PICTURES), (2, 3)
    rows = [sh.lay_back(g.maps, key_grid=g.key_grid, cell=g.cell, size=(32, 32)) for g in sh.attention_maps(model, PICTURES)]
    with Accelerator():
        far = copy.deepcopy(model).to(DEVICE)
        found = far(PICTURES.to(DEVICE))
        laid = [sh.lay_back(g.maps, key_grid=g.key_grid, cell=g.cell, size=(32, 32)) for g in sh.attention_maps(far, PICTURES.to(DEVICE))]
        distance = sh.mean_distance(laid[0], place)
    torch.testing.assert_close(near(found), expected)
    for one, other in zip(laid, rows):
        torch.testing.assert_close(near(one), other)
    torch.testing.assert_close(near(distance), sh.mean_distance(rows[0], place))


# --------------------------------------------------------------------------------------------------------------------------------- peers


def as_pvt(twin, model):
    """The weights of a `Peer` of PVTv2 under the names of a `Shunted` with one rate a stage."""
    state, out = twin.network.state_dict(), {}
    for name in model.state_dict():
        stage = int(name.split(".")[1]) if name.startswith("stages.") else None
        there = name.replace(f"stages.{stage}.", f"pvt_v2.encoder.layers.{stage}.").replace("embedding.conv", "patch_embedding.proj")
        there = there.replace("embedding.norm", "patch_embedding.layer_norm").replace(".norm1", ".layer_norm_1").replace(".norm2", ".layer_norm_2")
        there = there.replace("groups.0.conv", "spatial_reduction").replace("groups.0.norm", "layer_norm").replace("attention.q.", "attention.query.")
        there = there.replace("ffn.fc1", "mlp.dense1").replace("ffn.fc2", "mlp.dense2").replace("ffn.local", "mlp.dwconv.dwconv")
        there = there.replace(f"layers.{stage}.norm", f"layers.{stage}.layer_norm")
        kv = [there.replace("groups.0.kv", one) for one in ("key", "value")]
        out[name] = torch.cat([state[one] for one in kv]) if kv[0] != kv[1] else state[there]
    return out


def test_with_one_rate_it_can_be_the_published_pvt_v2():
    sizes = dict(image_size=32, widths=(8, 12, 16), depths=(1, 2, 1), heads=(1, 2, 4), rates=(4, 2, 1), classes=5, mlp_ratios=(3, 2, 2))
    twin = moved(sh.pvt_v2(**sizes))
    model = Pyramid(**sizes, stem="overlap", local="none", activation=False, detail="alone", drop_path=0.0).eval()
    model.load_state_dict(as_pvt(twin, model))
    for module in model.modules():
        module.eps = 1e-6 if isinstance(module, nn.LayerNorm) else None
    assert sh.parameters(twin) == sh.parameters(model)
    with torch.no_grad():
        expected = twin.network(PICTURES).logits
    torch.testing.assert_close(model(PICTURES), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(twin(PICTURES), expected)
    torch.testing.assert_close(twin.features(PICTURES), model.features(PICTURES), rtol=1e-4, atol=1e-4)
    assert isinstance(twin.network, transformers.PvtV2ForImageClassification) and twin.features(PICTURES).shape == (2, 16)


def test_the_twin_refuses_grids_whose_border_it_would_drop():
    with pytest.raises(ValueError, match=r"rates must divide the sides of the grids, \[10, 5\] at image_size 40, got \(4, 1\)"):
        sh.pvt_v2(40, (8, 12), (1, 1), (1, 2), (4, 1), 5, mlp_ratios=2)


def test_peers_are_drawn_from_a_generator_and_leave_torchs_own_alone():
    sizes = (
        dict(image_size=16, classes=3, depth=1, heads=2),
        dict(image_size=16, widths=(4, 6), depths=(1, 1), heads=(2, 2), rates=(2, 1), classes=3, mlp_ratios=2),
    )
    for make in (lambda g: sh.plain_vit(patch_size=4, width=8, generator=g, **sizes[0]), lambda g: sh.pvt_v2(generator=g, **sizes[1])):
        before = torch.get_rng_state()
        one, same, other = (make(seed(number)).eval()(PICTURES[..., :16, :16]) for number in (3, 3, 4))
        assert torch.equal(one, same) and not torch.allclose(one, other) and torch.equal(torch.get_rng_state(), before)


def test_a_plain_vit_of_equal_size():
    sizes = dict(image_size=32, patch_size=8, depth=2, heads=3, classes=5, mlp_ratio=3)
    vit = sh.plain_vit(width=24, **sizes).eval()
    assert isinstance(vit.network, transformers.ViTForImageClassification) and vit.features(PICTURES).shape == (2, 24)
    torch.testing.assert_close(vit(PICTURES), vit.network(PICTURES).logits)
    count, cost = sh.parameters(vit), sh.macs(vit)
    for of, target in (("parameters", count), ("macs", cost)):
        assert sh.vit_width(target, of=of, **sizes) == 24 == sh.vit_width(1.04 * target, of=of, **sizes)
        assert sh.vit_width(1.5 * target, of=of, **sizes) > 24 > sh.vit_width(0.7 * target, of=of, **sizes)
    for width in (21, 27):
        assert abs(sh.parameters(sh.plain_vit(width=width, **sizes)) - 1.04 * count) > abs(count - 1.04 * count)


# ---------------------------------------------------------------------------------------------------------------- the authors' weights


def official_shapes(widths, depths, heads, ratios, rates, num_conv, classes):
    """Names and shapes of the official model file, written out; a linear layer or a convolution is (weight, bias)."""
    shapes = {}

    def put(name, *weight, bias=True, batch=False):
        shapes[f"{name}.weight"] = weight
        shapes.update({f"{name}.bias": weight[:1]} if bias else {})
        shapes.update({f"{name}.running_mean": weight, f"{name}.running_var": weight, f"{name}.num_batches_tracked": ()} if batch else {})

    put("patch_embed1.conv.0", widths[0], 3, 7, 7, bias=False), put("patch_embed1.conv.1", widths[0], batch=True)
    for k in range(num_conv):
        put(f"patch_embed1.conv.{3 * k + 3}", widths[0], widths[0], 3, 3, bias=False), put(f"patch_embed1.conv.{3 * k + 4}", widths[0], batch=True)
    put(f"patch_embed1.conv.{3 * num_conv + 3}", widths[0], widths[0], 2, 2)
    for i, (c, depth, ratio, rate) in enumerate(zip(widths, depths, ratios, rates), 1):
        if i > 1:
            put(f"patch_embed{i}.proj", c, widths[i - 2], 3, 3)
        put(f"patch_embed{i}.norm", c), put(f"norm{i}", c)
        for j in range(depth):
            block = f"block{i}.{j}"
            put(f"{block}.norm1", c), put(f"{block}.norm2", c), put(f"{block}.attn.q", c, c), put(f"{block}.attn.proj", c, c)
            if rate == 1:
                put(f"{block}.attn.kv", 2 * c, c), put(f"{block}.attn.local_conv", c, 1, 3, 3)
            for g, r in ((1, rate), (2, rate // 2)) if rate > 1 else ():
                put(f"{block}.attn.sr{g}", c, c, r, r), put(f"{block}.attn.norm{g}", c)
                put(f"{block}.attn.kv{g}", c, c), put(f"{block}.attn.local_conv{g}", c // 2, 1, 3, 3)
            put(f"{block}.mlp.fc1", ratio * c, c), put(f"{block}.mlp.dwconv.dwconv", ratio * c, 1, 3, 3), put(f"{block}.mlp.fc2", c, ratio * c)
    put("head", classes, widths[-1])
    return shapes


@pytest.mark.parametrize("size", "TSB")
def test_names_and_shapes_of_the_official_files(size):
    s = SIZES[size]
    expected = official_shapes(s["widths"], s["depths"], s["heads"], s["mlp_ratios"], (8, 4, 2, 1), s["num_conv"], 1000)
    model = hollow(size)
    names, state = sh.official_names(model), model.state_dict()
    assert {official: tuple(state[name].shape) for name, official in names.items()} == expected


OFFICIAL = dict(SMALL, rates=((4, 2), (1,)))


def official_state(model):
    return {there: model.state_dict()[here] for here, there in sh.official_names(model).items()}


@pytest.mark.parametrize("form", ["plain", "in a checkpoint", "of several processes"])
def test_weights_from_a_local_file(form, tmp_path):
    source, target = small(rates=OFFICIAL["rates"]), Shunted(**OFFICIAL).eval()
    state = official_state(source)
    forms = {"plain": state, "in a checkpoint": {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3)},
             "of several processes": {"state_dict": {f"module.{name}": value for name, value in state.items()}}}  # fmt: skip
    torch.save(forms[form], tmp_path / "ckpt_s.pth")
    assert sh.load_official(target, tmp_path / "ckpt_s.pth") is target
    assert torch.equal(target(PICTURES), source(PICTURES))


def test_files_that_are_absent_or_do_not_fit(tmp_path):
    model = Shunted(**OFFICIAL)
    with pytest.raises(ValueError, match="path must be a local file of the official weights, which the authors keep on Google Drive and Baidu only, got"):
        sh.load_official(model, tmp_path / "ckpt_s.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="path must be a file of weights that torch.load can read safely, got text.pth"):
        sh.load_official(model, tmp_path / "text.pth")
    before, state = copy.deepcopy(model.state_dict()), official_state(small(rates=OFFICIAL["rates"]))
    short = {name: value for name, value in state.items() if name != "head.bias"}
    for wrong, text in (
        (short, r"got 1 \(head.bias\) too few and none too many"),
        (short | {"head.bias": torch.zeros(4)}, r"state must have head.bias of shape \(5,\), got \(4,\)"),
        (state | {"pos_embed": torch.zeros(1)}, r"got none too few and 1 \(pos_embed\) too many"),
    ):
        with pytest.raises(ValueError, match=text):
            sh.from_official(wrong, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "changes, text",
    [
        (dict(local="none"), "model must have local='official'"), (dict(detail="none"), "detail='added'"), (dict(stem="patch"), "model must have stem='conv'"),
        (dict(rates=((4,), (1,))), r"two groups with norm and activation, or rates \(1,\), got rates \(4,\) in stage 1"),
        (dict(activation=False), "two groups"), (dict(stem_stride=2), "of stride 4"), (dict(rate_one="conv"), "model must read the tokens"),
    ],
)  # fmt: skip
def test_models_that_have_no_official_names(changes, text):
    with pytest.raises(ValueError, match=text):
        sh.official_names(Shunted(**OFFICIAL | changes))


# -------------------------------------------------------------------------------------------------------------- what a layer looks at


def test_attention_is_laid_back_by_hand():
    maps = torch.tensor([[0.5, 0.25, 0.25, 0.0, 0.0, 0.0]])
    laid = sh.lay_back(maps, key_grid=(2, 3), cell=2, size=(4, 6))
    expected = torch.tensor([[4.0, 4, 2, 2, 2, 2]] * 2 + [[0.0] * 6] * 2) / 32
    torch.testing.assert_close(laid[0], expected)


def test_cells_at_the_border_are_cut_and_what_no_key_reads_gets_nothing():
    shares = normal(2, 3, 12).softmax(-1)
    cut = sh.lay_back(shares, key_grid=(3, 4), cell=4, size=(10, 13))
    torch.testing.assert_close(cut.sum((-2, -1)), torch.ones(2, 3))
    torch.testing.assert_close(cut[..., 8:, 12:].sum((-2, -1)), shares[..., 11])
    torch.testing.assert_close(cut[..., 9, 12], shares[..., 11] / 2)
    left = sh.lay_back(shares, key_grid=(3, 4), cell=2, size=(7, 9))
    torch.testing.assert_close(left.sum((-2, -1)), torch.ones(2, 3))
    assert left.shape == (2, 3, 7, 9) and not left[..., 6, :].any() and not left[..., :, 8].any()
    with pytest.raises(ValueError, match=r"size must reach into every cell, 3 x 4 of 4 px, got \(8, 13\)"):
        sh.lay_back(shares, key_grid=(3, 4), cell=4, size=(8, 13))


def test_maps_of_each_group_of_a_model():
    model = small()
    for stage, block in ((0, 0), (1, 1)):
        found, layer, seen = sh.attention_maps(model, PICTURES, stage=stage, block=block), model.stages[stage].blocks[block].attention, []
        with torch.no_grad():
            handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args))
            model(PICTURES)
            handle.remove()
        for one, expected in zip(found, layer.maps(*seen[0])):
            torch.testing.assert_close(one.maps, expected)
        assert [(g.rate, g.cell, g.grid, g.key_grid) for g in found] == [
            [(4, 16, (8, 8), (2, 2)), (2, 8, (8, 8), (4, 4))], [(2, 16, (4, 4), (2, 2)), (1, 8, (4, 4), (4, 4))]
        ][stage]  # fmt: skip


def test_the_field_of_a_key_is_its_cell():
    """With patches that do not overlap, a key of rate r sees exactly r x r patches: one scale a group."""
    model = small(stem="patch", heads=(4, 2))
    field = sh.receptive_field(model, PICTURES[:1], (3, 6), of="key")
    rows, columns = torch.arange(32)[:, None], torch.arange(32)
    for head, (cell, top, left) in enumerate([(16, 0, 16), (16, 0, 16), (8, 8, 24), (8, 8, 24)]):
        inside = (rows >= top) & (rows < top + cell) & (columns >= left) & (columns < left + cell)
        assert torch.equal(field[0, head] > 0, inside)
    area = sh.effective_area(field)[0]
    assert area[:2].max() <= 256 and area[2:].max() <= 64 and area[:2].min() > area[2:].max()
    value = sh.receptive_field(model, PICTURES[:1], (3, 6), of="value")[0] > 0
    assert value[2].sum() > 64 and (value[2] | (field[0, 2] > 0)).equal(value[2])  # the local term reaches the cells around


@pytest.mark.parametrize("of, stage, block", [("output", 1, 1), ("key", 1, 0), ("value", 0, 0)])
def test_fields_are_norms_of_the_jacobian(of, stage, block):
    options = dict(image_size=16, widths=(4, 4), heads=(2, 2), rates=((2, 1), (1,)))
    model = small(**options).double()
    picture, layer = PICTURES[:1, :, :16, :16].double(), model.stages[stage].blocks[block].attention

    def outputs(x):
        seen, handle = [], layer.register_forward_pre_hook(lambda _, args: seen.append(args))
        model(x)
        handle.remove()
        tokens, grid = seen[0]
        if of == "output":
            return layer.mix(tokens, grid)[0, 1 * grid[1] + 1].view(2, 2)
        read = layer.keys_values(tokens, grid)
        return torch.cat([pair[of == "value"][0, :, (1 // rate) * reduced[1] + 1 // rate] for rate, (*pair, reduced) in zip(layer.rates, read)])

    jacobian = torch.autograd.functional.jacobian(outputs, picture)  # (heads, d, 1, 3, H, W)
    expected = jacobian.square().sum((1, 2, 3)).sqrt()
    found = sh.receptive_field(model, picture, (1, 1), stage=stage, block=block, of=of)
    torch.testing.assert_close(found[0], expected)
    assert found.shape == (1, 2, 16, 16) and all(p.grad is None for p in model.parameters())


def test_how_wide_a_map_is():
    even, one = torch.ones(2, 6, 5), torch.zeros(6, 5)
    one[2, 3] = 7.0
    torch.testing.assert_close(sh.effective_area(even), torch.tensor([30.0, 30.0]))
    assert sh.effective_area(one).item() == 1 and sh.mean_distance(one, (2.5, 3.5)).item() == 0
    assert sh.mean_distance(one, (2.5 + 3, 3.5 - 4)).item() == 5
    line = np.array([[1.0, 0.0, 3.0]])
    assert sh.effective_area(line) == pytest.approx(16 / 10) and sh.mean_distance(line, (0.5, 0.5)) == pytest.approx(1.5)


def test_models_are_looked_at_in_eval_mode_and_places_are_on_the_grid():
    with pytest.raises(ValueError, match="model must be in eval mode"):
        sh.attention_maps(Shunted(**SMALL), PICTURES)
    with pytest.raises(ValueError, match=r"place must be on the grid of the stage, 4 x 4, got \(4, 0\)"):
        sh.receptive_field(small(), PICTURES, (4, 0), stage=1)
