"""Scales and shifts: worked numbers, both ways to put them in, the merge against the live model on four kinds of networks, counts of the published ones."""

import copy
import io
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from helpers.methods import scale_and_shift as ssf
from helpers.methods.scale_and_shift import add_scale_shift, insertion_points

TOY = dict(image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, num_labels=32)


class Mixer(nn.Module):
    """A block of MLP-Mixer: one MLP over the tokens, one over the channels."""

    def __init__(self, tokens, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_tokens = nn.Sequential(nn.Linear(tokens, 7), nn.GELU(), nn.Linear(7, tokens))
        self.over_channels = nn.Sequential(nn.Linear(width, 11), nn.GELU(), nn.Linear(11, width))

    def forward(self, x):
        x = x + self.over_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


def vit(**options):
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
                                               intermediate_size=20, num_labels=5, **options))  # fmt: skip


def swin():
    return SwinForImageClassification(SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[2, 4], window_size=4, num_labels=5))


def convnext():
    config = ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 2], num_stages=2, num_labels=5, layer_scale_init_value=0.7, patch_size=2)
    return ConvNextForImageClassification(config)


def clip():
    config = CLIPVisionConfig(image_size=8, patch_size=4, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, projection_dim=6)
    return CLIPVisionModelWithProjection(config)


def mixer():
    embed = nn.Sequential(nn.Conv2d(3, 10, 4, 4), nn.Flatten(2))
    return nn.Sequential(embed, Transposed(), Mixer(4, 10), Mixer(4, 10), nn.LayerNorm(10), nn.Linear(10, 5))


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def cnn():
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2, padding=1),
                         nn.GroupNorm(4, 8), nn.ReLU(), nn.BatchNorm2d(8, affine=False), nn.GroupNorm(2, 8, affine=False), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 5))  # fmt: skip


MODELS = {"vit": (vit, 8), "swin": (swin, 16), "convnext": (convnext, 16), "clip": (clip, 8), "mixer": (mixer, 8), "cnn": (cnn, 9)}
HEAD = {"mixer": "5", "cnn": "11"}


def made(name, dtype=torch.float64):
    """A model with random weights everywhere, its pictures and its head's name."""
    torch.manual_seed(0)
    build, size = MODELS[name]
    model = build().to(dtype).eval()
    with torch.no_grad():
        for key, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                value.copy_(0.3 * torch.randn(value.shape) if "running_var" not in key else torch.rand(value.shape) + 0.5)
    return model, torch.randn(2, 3, size, size, dtype=dtype), HEAD.get(name, "auto")


def outputs(model, pixels):
    with torch.no_grad():
        found = model(pixels)
    return found if isinstance(found, torch.Tensor) else found.logits if "logits" in found else found.image_embeds


def randomise(pairs, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, pair in pairs.named_pairs():
            pair.scale.copy_(1 + 0.5 * torch.randn(pair.scale.shape, generator=generator))
            pair.shift.copy_(0.5 * torch.randn(pair.shift.shape, generator=generator))
    return pairs


# ---------------------------------------------------------------------------------------------------------------- one pair, by hand


def test_a_linear_layer_by_hand():
    weight, bias, x, scale, shift = [[2.0, 0], [1, -1]], [1.0, 0], [3.0, 2], [0.5, -2], [1.0, 3]
    plain = torch.tensor(weight) @ torch.tensor(x) + torch.tensor(bias)
    assert plain.tolist() == [7, 1]
    assert ssf.scale_and_shift(plain, scale, shift, channel_dim=-1).tolist() == [4.5, 1]
    merged, offset = ssf.merge_weights(weight, bias, scale, shift)
    assert merged.tolist() == [[1, 0], [-2, 2]] and offset.tolist() == [1.5, 3]
    assert (torch.from_numpy(merged) @ torch.tensor(x).double() + torch.from_numpy(offset)).tolist() == [4.5, 1]
    back = ssf.unmerge_weights(merged, offset, scale, shift)
    assert back[0].tolist() == weight and back[1].tolist() == bias


def test_a_layer_norm_by_hand():
    norm = nn.LayerNorm(2, eps=0)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    x, scale, shift = torch.tensor([1.0, 3.0]), [2.0, 0.5], [0.5, -1.0]
    assert norm(x).tolist() == [-1, 3] and ssf.scale_and_shift(norm(x), scale, shift, channel_dim=-1).tolist() == [-1.5, 0.5]
    norm.weight.data, norm.bias.data = ssf.merge_weights(norm.weight, norm.bias, scale, shift)
    assert norm.weight.tolist() == [2, 1] and norm.bias.tolist() == [0.5, -0.5] and norm(x).tolist() == [-1.5, 0.5]


def test_what_is_missing_stands_for_ones_and_zeros():
    weight, bias = ssf.merge_weights(None, None, [2.0, 3.0], [4.0, 5.0])
    assert weight.tolist() == [2, 3] and bias.tolist() == [4, 5]
    kernel = torch.randn(4, 3, 2, 5)
    merged, bias = ssf.merge_weights(kernel, None, torch.arange(4.0), torch.ones(4))
    assert torch.equal(merged, torch.stack([i * kernel[i] for i in range(4)])) and bias.tolist() == [1] * 4


def test_the_channel_axis_is_said_and_not_guessed():
    maps = torch.ones(2, 3, 4, 3)  # three channels, and as wide
    scale, shift = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)
    meant = ssf.scale_and_shift(maps, scale, shift, channel_dim=1)
    assert meant[0, :, 0, 0].tolist() == [1, 2, 3] and meant[0, 0, 0].tolist() == [1, 1, 1]
    guessed = ssf.scale_and_shift(maps, scale, shift, channel_dim="guess")
    assert guessed[0, 0, 0].tolist() == [1, 2, 3] and guessed[0, :, 0, 0].tolist() == [1, 1, 1]
    assert torch.equal(ssf.scale_and_shift(maps[..., :2], scale, shift, channel_dim="guess"), meant[..., :2])  # as wide as nothing: axis 1
    with pytest.raises(ValueError, match="channel_dim must be an axis with the 3 channels of scale, got 'guess' for x of shape"):
        ssf.scale_and_shift(torch.ones(2, 4, 5), scale, shift, channel_dim="guess")


def test_two_pairs_in_a_row_are_one():
    x, (a, b, c, d) = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    twice = ssf.scale_and_shift(ssf.scale_and_shift(x, a, b, channel_dim=-1), c, d, channel_dim=-1)
    torch.testing.assert_close(ssf.scale_and_shift(x, *ssf.compose(a, b, c, d), channel_dim=-1), twice)


def test_strength_runs_from_frozen_to_over_driven():
    scale, shift = torch.tensor([3.0, 0.5]), torch.tensor([1.0, -2.0])
    found = [[v.tolist() for v in ssf.interpolate(scale, shift, t)] for t in (0, 1, 2)]
    assert found == [[[1, 1], [0, 0]], [[3, 0.5], [1, -2]], [[5, 0], [2, -4]]]


def test_gradients_are_sums_over_pictures_and_tokens():
    x, weights = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    pair = ssf.Pair(3, channel_dim=-1, init="official", dtype=torch.float64)
    (pair(x).tanh() * weights).sum().backward()
    dy = (1 - pair(x).tanh() ** 2) * weights  # dL/dy
    torch.testing.assert_close(pair.shift.grad, dy.sum((0, 1)))
    torch.testing.assert_close(pair.scale.grad, (x * dy).sum((0, 1)))


def test_a_gain_of_zero_gives_the_offset_and_cannot_be_undone():
    y = ssf.scale_and_shift(torch.randn(4, 3), [0.0, 0, 0], [1.0, 2, 3], channel_dim=-1)
    assert y.tolist() == [[1, 2, 3]] * 4
    with pytest.raises(ValueError, match="scale must not be 0 anywhere: .* channel 1 is 0"):
        ssf.unmerge_weights(torch.ones(2, 3), None, [1.0, 0.0], [0.0, 0.0])


def test_starts():
    same = ssf.Pair(400, channel_dim=-1)
    assert (same.scale == 1).all() and (same.shift == 0).all()
    one, other = (ssf.Pair(4000, channel_dim=-1, init="official", generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.scale, other.scale) and torch.equal(one.shift, other.shift)
    for values, centre in ((one.scale, 1), (one.shift, 0)):
        assert abs(values.mean() - centre) < 0.002 and abs(values.std() - 0.02) < 0.001
    shift = ssf.Pair(4000, channel_dim=-1, init="official", what="shift")
    assert [name for name, _ in shift.named_parameters()] == ["shift"] and (shift.scale == 1).all() and shift.shift.std() > 0
    assert list(shift.state_dict()) == ["shift"]


# ---------------------------------------------------------------------------------------------------------------- where pairs go


def test_a_vit_has_eight_pairs_a_block():
    model, *_ = made("vit")
    points = insertion_points(model)
    block = [p for p in points if p.block == "vit.layers.1"]
    assert sorted((p.name.removeprefix("vit.layers.1."), p.group, p.channels) for p in block) == [
        ("attention.k_proj", "qkv", 12), ("attention.o_proj", "proj", 12), ("attention.q_proj", "qkv", 12), ("attention.v_proj", "qkv", 12),
        ("layernorm_after", "norm", 12), ("layernorm_before", "norm", 12), ("mlp.fc1", "mlp", 20), ("mlp.fc2", "mlp", 12),
    ]  # fmt: skip
    outside = [(p.name, p.group, p.channel_dim) for p in points if p.block == ""]
    assert outside == [("vit.embeddings.patch_embeddings.projection", "patch", -3), ("vit.layernorm", "norm", -1)]
    assert all(p.channel_dim == -1 for p in block) and len(points) == 2 * 8 + 2


def test_poolers_projections_and_heads_are_left_out():
    names = [p.name for p in insertion_points(ViTModel(ViTConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=20)))]
    assert "layernorm" in names and not any("pooler" in name for name in names)
    names = [p.name for p in insertion_points(made("clip")[0])]
    assert "visual_projection" not in names and "vision_model.pre_layrnorm" in names and "vision_model.encoder.layers.0.self_attn.out_proj" in names
    assert [p.name for p in insertion_points(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)), head="2")] == ["0"]
    assert [p.name for p in insertion_points(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))] == ["0", "2"]


def test_swin_as_meant_and_as_the_code_has_it():
    model, *_ = made("swin")
    meant, official = (insertion_points(model, layout=layout) for layout in ("paper", "official"))
    assert [(p.name, p.channels) for p in meant if p not in official] == [("swin.encoder.layers.0.downsample.norm", 32)]
    assert not any("reduction" in p.name for p in meant)


def test_convnext_as_meant_and_as_the_code_has_it():
    model, *_ = made("convnext")
    meant, official = (insertion_points(model, layout=layout) for layout in ("paper", "official"))
    assert [p.name for p in meant if p not in official] == [
        "convnext.encoder.stages.1.downsampling_layer.0", "convnext.encoder.stages.1.downsampling_layer.1", "convnext.layernorm",
    ]  # fmt: skip
    last = [p for p in official if p not in meant]
    assert [(p.name, p.channels, p.mergeable) for p in last] == [("convnext.encoder.stages.1.output", 12, False)]


def test_places_by_group_and_by_name():
    model, *_ = made("vit")
    groups = {group: {p.name for p in insertion_points(model, where=group)} for group in ("patch", "norm", "qkv", "proj", "mlp")}
    assert {k: len(v) for k, v in groups.items()} == {"patch": 1, "norm": 5, "qkv": 6, "proj": 2, "mlp": 4}
    assert {p.name for p in insertion_points(model, where=("norm", "patch"))} == groups["norm"] | groups["patch"]
    assert len(insertion_points(model, where="vit.layers.1")) == 8 and len(insertion_points(model, where=["vit.layers.1", "vit.layernorm"])) == 9
    with pytest.raises(ValueError, match=r"where must be 'all', a group of this model \(patch, norm, qkv, proj, mlp\) or the name of a layer such as .*'qvk'"):
        add_scale_shift(model, where=["norm", "qvk"])
    assert ssf.layers._pairs_of(model.vit.layernorm) == []  # refused before any work
    assert [p.group for p in insertion_points(made("cnn")[0], head="11")] == ["patch", "norm", "conv", "norm", "norm", "norm", "norm"]


# ----------------------------------------------------------------------------------------------------------------- published counts


def published(kind, config):
    with torch.device("meta"):
        return kind(config)


def scalars(points):
    return 2 * sum(point.channels for point in points)


@pytest.mark.parametrize("width, depth, heads, count", [(768, 12, 12, 205_824), (1024, 24, 16, 544_768), (1280, 32, 16, 906_240)])
def test_published_vits(width, depth, heads, count):
    config = ViTConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width, num_labels=100)
    model = published(ViTForImageClassification, config)
    pairs = add_scale_shift(model)
    trained = sum(p.numel() for p in pairs.trainable_parameters())
    assert sum(p.numel() for p in pairs.parameters()) == scalars(pairs.points) == ssf.vit_scalars(width=width, depth=depth) == count
    assert trained == count + 100 * (width + 1) and (width != 768 or trained == 282_724)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}


def test_the_toy_vit():
    model = published(ViTForImageClassification, ViTConfig(**TOY))
    assert scalars(insertion_points(model)) == ssf.vit_scalars(width=64, depth=4, mlp_ratio=2) == 4_864


def test_published_swin_b():
    model = published(SwinForImageClassification, SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=7))
    assert scalars(insertion_points(model, layout="official")) == 267_264
    assert scalars(insertion_points(model)) == 267_264 + 2 * 4 * (128 + 256 + 512)


# --------------------------------------------------------------------------------------------------------------- the model, alive


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("style", ["hooks", "parametrizations"])
def test_the_start_is_the_frozen_model_bit_for_bit(name, style):
    for dtype in (torch.float32, torch.float64):
        model, pixels, head = made(name, dtype)
        before = outputs(model, pixels)
        with add_scale_shift(model, style=style, head=head):
            after = outputs(model, pixels)
        if style == "hooks" and name in ("vit", "swin", "clip"):  # elsewhere a copy's strides may change the order of a sum
            assert torch.equal(before, after)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_both_styles_give_the_same_outputs_and_gradients(name):
    found = {}
    for style in ("hooks", "parametrizations"):
        model, pixels, head = made(name)
        pairs = randomise(add_scale_shift(model, style=style, head=head))
        out = model(pixels)
        out = out if isinstance(out, torch.Tensor) else out.logits if "logits" in out else out.image_embeds
        out.square().sum().backward()
        found[style] = out, [(p.scale.grad, p.shift.grad) for _, p in pairs.named_pairs()]
    torch.testing.assert_close(found["hooks"][0], found["parametrizations"][0], rtol=1e-10, atol=1e-10)
    for one, other in zip(found["hooks"][1], found["parametrizations"][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("style", ["hooks", "parametrizations"])
def test_merged_and_live_models_agree_and_unmerging_brings_all_back(name, style):
    model, pixels, head = made(name)
    state, plain = {k: v.clone() for k, v in model.state_dict().items()}, outputs(model, pixels)
    pairs = randomise(add_scale_shift(model, style=style, head=head))
    live = outputs(model, pixels)
    assert (live - plain).abs().max() > 0.01
    assert pairs.merge() is model
    torch.testing.assert_close(outputs(model, pixels), live, rtol=1e-10, atol=1e-10)
    new = set(model.state_dict()) - set(state)
    lacking = {"clip": {"vision_model.embeddings.patch_embedding.bias"}, "cnn": {"0.bias", *(f"{i}.{p}" for i in (6, 7, 10) for p in ("weight", "bias"))}}
    assert new == lacking.get(name, set()) and all(model.state_dict()[k].shape == v.shape for k, v in state.items())
    assert not any(ssf.layers._pairs_of(layer) or parametrize.is_parametrized(layer) for layer in model.modules())
    pairs.unmerge()
    torch.testing.assert_close(outputs(model, pixels), live, rtol=1e-10, atol=1e-10)
    pairs.remove()
    torch.testing.assert_close(outputs(model, pixels), plain, rtol=1e-10, atol=1e-10)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert all(p.requires_grad for p in model.parameters())


def test_merged_in_float32():
    for name in ("vit", "swin", "convnext"):
        model, pixels, head = made(name, torch.float32)
        pairs = randomise(add_scale_shift(model, head=head))
        live = outputs(model, pixels)
        pairs.merge()
        assert (outputs(model, pixels) - live).abs().max() <= 1e-4 * live.abs().max()


def test_half_precision_is_merged_in_float32():
    weight, scale = torch.randn(1, 500, generator=torch.Generator().manual_seed(0)).half(), torch.tensor([1.0012])  # a gain between two halves
    merged, bias = ssf.merge_weights(weight, None, scale, torch.tensor([0.1]))
    assert merged.dtype == bias.dtype == torch.float16 and torch.equal(merged, (weight.double() * scale.double()).half())
    assert (merged != weight * scale.half()).any()
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).half()
    pairs = add_scale_shift(model)
    assert all(p.dtype == torch.float32 for p in pairs.parameters()) and pairs.merge()[0].weight.dtype == torch.float16


def test_parametrizations_left_in_place_are_the_merge():
    (model, *_), (other, *_) = made("vit"), made("vit")
    merged = randomise(add_scale_shift(model, style="parametrizations", where="mlp")).merge().state_dict()
    randomise(add_scale_shift(other, style="parametrizations", where="mlp"))
    for layer in [layer for layer in other.modules() if parametrize.is_parametrized(layer)]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        parametrize.remove_parametrizations(layer, "bias", leave_parametrized=True)
    assert merged.keys() == other.state_dict().keys() and all(torch.equal(value, merged[name]) for name, value in other.state_dict().items())


def test_merging_into_another_copy_of_the_base_model():
    model, pixels, _ = made("vit")
    base = copy.deepcopy(model)
    pairs = randomise(add_scale_shift(model))
    live = outputs(model, pixels)
    assert pairs.merge(base) is base
    torch.testing.assert_close(outputs(base, pixels), live)
    assert torch.equal(outputs(model, pixels), live)
    with pytest.raises(ValueError, match=r"merge\(\) must be called once"):
        pairs.merge(base)
    pairs.unmerge(base)
    pairs.set_strength(0)
    torch.testing.assert_close(outputs(base, pixels), outputs(model, pixels))
    with pytest.raises(ValueError, match="model must have a layer of 12 channels at vit.embeddings.patch_embeddings.projection, got none"):
        pairs.merge(made("cnn")[0])


def test_merged_one_after_the_other_pairs_compose():
    model, pixels, _ = made("vit")
    first = randomise(add_scale_shift(model))
    first.merge()
    second = randomise(add_scale_shift(model), seed=2)
    live = outputs(model, pixels)
    second.merge()
    torch.testing.assert_close(outputs(model, pixels), live)
    with pytest.raises(ValueError, match=r"unmerge\(\) must find these pairs merged last into the model's weights, got pairs that were merged later"):
        first.unmerge()


def test_only_pairs_and_head_are_trained_and_the_rest_stays_as_at_inference():
    model, pixels, _ = made("vit")
    model.vit.layers[0].dropout.p = 0.5
    pairs = add_scale_shift(model)
    model.train()
    assert model.training and not model.vit.training and not model.vit.layers[0].dropout.training and model.classifier.training
    groups = ssf.parameter_groups(pairs, weight_decay=0.1)
    assert [(sum(p.numel() for p in g["params"]), g["weight_decay"]) for g in groups] == [(5 * 12, 0.1), (scalars(pairs.points) + 5, 0.0)]
    frozen = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("classifier")}
    optimiser = torch.optim.AdamW(groups, lr=0.1)
    nn.functional.cross_entropy(model(pixels).logits, torch.tensor([0, 3])).backward()
    optimiser.step()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in frozen.items())
    assert all((pair.scale != 1).any() for _, pair in pairs.named_pairs())
    pairs.remove()
    assert not model.training  # as it came
    assert model.train().vit.layers[0].dropout.training


def test_state_of_a_task_goes_from_hooks_to_parametrizations():
    model, pixels, _ = made("vit")
    pairs = randomise(add_scale_shift(model))
    live, file = outputs(model, pixels), io.BytesIO()
    torch.save(pairs.state_dict(), file)
    assert {name.split(".", 1)[1] for name in pairs.state_dict()} == {f"{p.name}.{part}" for p in pairs.points for part in ("scale", "shift")}
    pairs.remove()
    again = add_scale_shift(model, style="parametrizations")
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    torch.testing.assert_close(outputs(model, pixels), live)


def test_a_copy_of_the_model_has_pairs_of_its_own():
    model, pixels, _ = made("vit")
    pairs = randomise(add_scale_shift(model))
    live, other = outputs(model, pixels), copy.deepcopy(model)
    pairs.set_strength(0)
    assert torch.equal(outputs(other, pixels), live) and not torch.equal(outputs(model, pixels), live)
    assert other.train().vit.training is False and other.classifier.training and not model.classifier.training


@pytest.mark.parametrize("style", ["hooks", "parametrizations"])
def test_strength_of_all_and_of_some_layers(style):
    model, pixels, _ = made("vit")
    plain = outputs(model, pixels)
    pairs = randomise(add_scale_shift(model, style=style))
    tuned = outputs(model, pixels)
    pairs.set_strength(0)
    torch.testing.assert_close(outputs(model, pixels), plain)
    pairs.set_strength(1, layers="vit.layers.0")
    pairs.set_strength(2, layers=["vit.layernorm"])
    mixed = outputs(model, pixels)
    with torch.no_grad():
        for name, pair in pairs.named_pairs():  # the same by other numbers and strength 1
            t = 1.0 if name.startswith("vit.layers.0.") else 2.0 if name == "vit.layernorm" else 0.0
            scale, shift = ssf.interpolate(pair.scale, pair.shift, t)
            pair.scale.copy_(scale), pair.shift.copy_(shift)
    pairs.set_strength(1)
    torch.testing.assert_close(outputs(model, pixels), mixed)
    assert (mixed - tuned).abs().max() > 1e-3
    with pytest.raises(ValueError, match="layers must be .*'vit.layers.7'"):
        pairs.set_strength(0, layers="vit.layers.7")


def test_a_merge_takes_the_strength_along():
    model, pixels, _ = made("vit")
    pairs = randomise(add_scale_shift(model))
    pairs.set_strength(0.3, layers="norm")
    live = outputs(model, pixels)
    pairs.merge()
    torch.testing.assert_close(outputs(model, pixels), live)
    with pytest.raises(ValueError, match=r"set_strength\(\) must find the pairs on the model, got pairs that are merged"):
        pairs.set_strength(1)


# -------------------------------------------------------------------------------------------------- parameters that do nothing


def test_queries_against_keys_is_a_redundant_direction():
    model, pixels, _ = made("vit")
    pairs = randomise(add_scale_shift(model))
    live = outputs(model, pixels)
    with torch.no_grad():
        for name, pair in pairs.named_pairs():
            factor = {"q_proj": 1 / 3, "k_proj": 3.0}.get(name.rpartition(".")[2], 1.0)
            pair.scale.mul_(factor), pair.shift.mul_(factor)
    torch.testing.assert_close(outputs(model, pixels), live, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_the_shifts_of_keys_are_dead(name):
    model, pixels, _ = made(name)
    pairs = randomise(add_scale_shift(model))
    nn.functional.cross_entropy(model(pixels).logits, torch.tensor([0, 3])).backward()
    largest = {name: pair.shift.grad.abs().max() for name, pair in pairs.named_pairs()}
    keys = [value for name, value in largest.items() if name.endswith("k_proj")]
    others = [value for name, value in largest.items() if not name.endswith("k_proj")]
    assert len(keys) in (2, 3) and max(keys) < 1e-15 and min(others) > 1e-9
    live = outputs(model, pixels)
    with torch.no_grad():
        for name, pair in pairs.named_pairs():
            pair.shift.add_(torch.randn_like(pair.shift) * name.endswith("k_proj"))
    torch.testing.assert_close(outputs(model, pixels), live, rtol=1e-10, atol=1e-10)


def test_tuned_norms_are_the_same_functions_with_another_slope():
    norm, x = nn.LayerNorm(3), torch.randn(4, 3)
    norm.weight.data = torch.tensor([2.0, -1.0, 0.5])
    pairs = add_scale_shift(wrapped := nn.Sequential(norm))
    wrapped(x).tanh().sum().backward()
    slope = pairs.pairs.get_submodule("0").scale.grad
    pairs.remove()
    wrapped(x).tanh().sum().backward()
    torch.testing.assert_close(slope, norm.weight.detach() * norm.weight.grad + norm.bias.detach() * norm.bias.grad)  # d/dgain = w d/dw' + c d/dc'


# ------------------------------------------------------------------------------------------------------------------- refused


def test_the_last_pair_of_convnext_is_refused_by_its_name():
    model, pixels, _ = made("convnext")
    state = {k: v.clone() for k, v in model.state_dict().items()}
    pairs = randomise(add_scale_shift(model, layout="official"))
    live = outputs(model, pixels)
    with pytest.raises(ValueError, match="got the pair at convnext.encoder.stages.1.output, which follows a residual sum"):
        pairs.merge()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items()) and torch.equal(outputs(model, pixels), live)
    pairs.remove()
    with pytest.raises(ValueError, match="style must be hooks for the pair at convnext.encoder.stages.1.output"):
        add_scale_shift(model, layout="official", style="parametrizations")


def test_merging_twice_and_at_the_wrong_moment():
    model, *_ = made("cnn")
    pairs = add_scale_shift(model, head="11")
    with pytest.raises(ValueError, match=r"unmerge\(\) must find these pairs merged last into the model's weights, got none"):
        pairs.unmerge()
    model[1].train()
    with pytest.raises(ValueError, match=r"merge\(\) must find the model in eval mode, got BatchNorm2d at 1 in training mode; call model.eval\(\)"):
        pairs.merge()
    model.eval()
    pairs.merge()
    with pytest.raises(ValueError, match=r"merge\(\) must be called once for a model, got one whose weights hold these pairs already; unmerge\(\) first"):
        pairs.merge()


def test_an_unmerge_over_a_gain_of_zero_is_refused_before_any_work():
    model, *_ = made("vit")
    pairs = randomise(add_scale_shift(model))
    with torch.no_grad():
        pairs.pairs.get_submodule("vit.layernorm").scale[4] = 0
    merged = {k: v.clone() for k, v in pairs.merge().state_dict().items()}
    with pytest.raises(ValueError, match="the scale at vit.layernorm must not be 0 anywhere: .* channel 4 is 0"):
        pairs.unmerge()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in merged.items())


def test_pairs_on_pairs_and_on_what_cannot_have_them():
    model, *_ = made("vit")
    pairs = add_scale_shift(model, where="mlp")
    with pytest.raises(ValueError, match=r"model must carry no pairs yet, got one at vit.layers.0.mlp.fc1; call remove\(\) or merge\(\)"):
        add_scale_shift(model)
    pairs.remove()
    shared = nn.Linear(4, 4)
    twice = nn.Sequential(shared, nn.ReLU(), nn.Linear(4, 4))
    twice[2].weight = shared.weight
    with pytest.raises(ValueError, match="model must not share the weights that a pair is merged into, got one that is used at 0 and 2"):
        add_scale_shift(twice).merge()
    with pytest.raises(ValueError, match="got a torch.nn.MultiheadAttention at self_attn"):
        add_scale_shift(nn.TransformerEncoderLayer(8, 2))
    with pytest.raises(ValueError, match=r"model must normalise one axis, got a LayerNorm over \(2, 3\) at 0"):
        add_scale_shift(nn.Sequential(nn.LayerNorm((2, 3))))
    with pytest.raises(ValueError, match="model must have linear layers, convolutions or normalisations that are not of its head, got none"):
        add_scale_shift(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="model must have plain weights where pairs go, got a parametrised layer at 0"):
        add_scale_shift(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))))
    with pytest.raises(ValueError, match="head must name modules of the model, got 'claserifier'"):
        add_scale_shift(model, head="claserifier")


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="shift must have the 3 channels of scale, got 2"):
        ssf.scale_and_shift(torch.ones(2, 3), [1.0] * 3, [0.0] * 2, channel_dim=-1)
    with pytest.raises(ValueError, match=r"x must have the 3 channels of scale along channel_dim -1, got shape \(2, 4\)"):
        ssf.scale_and_shift(torch.ones(2, 4), [1.0] * 3, [0.0] * 3, channel_dim=-1)
    with pytest.raises(ValueError, match="weight must have the 2 channels of scale along its first axis"):
        ssf.merge_weights(torch.ones(3, 2), None, [1.0, 2], [0.0, 0])
    with pytest.raises(ValueError, match=r"x must have 3 channels along axis 1, got shape \(2, 4, 3\)"):
        ssf.Pair(3, channel_dim=1)(torch.ones(2, 4, 3))


# ------------------------------------------------------------------------------------- other pairs, other layers, other hands on the model


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4)).double().eval(), torch.randn(5, 3, dtype=torch.float64)


def test_what_was_merged_is_divided_out_after_another_task_came_in():
    model, x = linear()
    plain = model(x)
    pairs = randomise(add_scale_shift(model))
    pairs.merge()
    pairs.load_state_dict({name: value + 1 for name, value in pairs.state_dict().items()})
    pairs.unmerge()
    assert (model(x) - plain).abs().max() > 0.1  # the other task is live
    pairs.remove()
    torch.testing.assert_close(model(x), plain)


@pytest.mark.parametrize("style", ["hooks", "parametrizations"])
def test_pairs_that_were_removed_do_nothing_any_more(style):
    model, x = linear()
    plain = model(x)
    first = randomise(add_scale_shift(model, style=style))
    first.remove()
    second = randomise(add_scale_shift(model, style=style), seed=2)
    live = model(x)
    for call in (first.merge, first.unmerge, lambda: first.merge(model)):
        with pytest.raises(ValueError, match=r"merge\(\) must find the pairs on the model, got pairs that were removed"):
            call()
    first.remove()  # a second time: nothing
    assert torch.equal(model(x), live) and len(ssf.layers._pairs_of(model[0])) == 1 and not model[0].training
    other = linear()[0]
    randomise(add_scale_shift(other))
    torch.testing.assert_close(first.merge(linear()[0])(x), other(x))  # into another copy they can still go
    second.merge()
    second.remove()
    torch.testing.assert_close(model(x), live)
    assert (live - plain).abs().max() > 0.1 and all(p.requires_grad for p in model.parameters())
    assert "train" not in vars(model) and ssf.attach._MARK not in vars(model)
    with pytest.raises(ValueError, match=r"unmerge\(\) must find the pairs on the model, got pairs that were removed"):
        second.unmerge()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_handles_go_in_any_order(order):
    model, _ = linear()
    model[0].weight.requires_grad_(False)
    both = [add_scale_shift(model)]
    both[0].merge()
    both.append(add_scale_shift(model))
    both[order[0]].remove()
    assert not model[2].weight.requires_grad and not model.train()[0].training
    both[order[1]].remove()
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True] and not model.training
    assert model.train()[0].training


def test_under_later_pairs_earlier_ones_are_not_unmerged():
    model, x = linear()
    first = randomise(add_scale_shift(model))
    first.merge()
    randomise(add_scale_shift(model), seed=2)
    live = model(x)
    with pytest.raises(ValueError, match="model must carry no pairs of its own, got one at 0"):
        first.unmerge()
    assert torch.equal(model(x), live)
    with pytest.raises(ValueError, match="model must carry no pairs yet, got one at 0"):
        add_scale_shift(model, where="2")


def test_others_parametrisations_stay_when_pairs_go():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, x = linear()
    pairs = add_scale_shift(model, style="parametrizations")
    parametrize.register_parametrization(model[0], "weight", Double())
    live = model(x)
    with pytest.raises(ValueError, match="got a Linear whose weight is made from others"):
        pairs.merge()
    pairs.remove()
    torch.testing.assert_close(model(x), live)
    assert [type(part) for part in model[0].parametrizations.weight] == [Double] and not parametrize.is_parametrized(model[2])


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-6), self.bias)


class Halved(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight.tanh(), bias)


def patched(layer):
    layer.forward = lambda x: nn.functional.linear(x, layer.weight.tanh(), layer.bias)
    return layer


ODD = {
    "forward": lambda: Standardised(3, 4, 1), "inner forward": lambda: Halved(3, 4, 1), "own forward": lambda: patched(nn.Linear(3, 4)),
    "weight norm": lambda: nn.utils.weight_norm(nn.Linear(3, 4)), "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(3, 4)),
    "pruned bias": lambda: prune.random_unstructured(nn.Linear(3, 4), "bias", 0.5),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ODD)
def test_layers_whose_weights_are_not_what_they_do_are_not_merged(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1) if "forward" in kind and kind[0] != "o" else nn.Linear(3, 3), ODD[kind]()).eval()
    assert [p.mergeable for p in insertion_points(model)] == [True, False]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    asked = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match="style must be hooks for the pair at 1, which follows a "):
        add_scale_shift(model, style="parametrizations")
    assert "train" not in vars(model) and asked == [p.requires_grad for p in model.parameters()] and not parametrize.is_parametrized(model[0])
    pairs = add_scale_shift(model)
    with pytest.raises(ValueError, match=r"merge\(\) must find a plain affine layer before each pair, got a .* at 1"):
        pairs.merge()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items()) and ssf.layers._pairs_of(model[0])


def test_a_hook_between_layer_and_pair_is_refused_and_one_behind_is_not():
    model, x = linear()
    handle = model[0].register_forward_hook(lambda layer, args, output: output.tanh())
    with pytest.raises(ValueError, match="style must be hooks for the pair at 0, which follows a forward hook"):
        add_scale_shift(model, style="parametrizations")
    pairs = randomise(add_scale_shift(model))
    with pytest.raises(ValueError, match=r"merge\(\) must find no forward hook between a layer and its pair, got one at 0; remove it first"):
        pairs.merge()
    handle.remove()
    model[0].register_forward_hook(lambda layer, args, output: output.tanh())
    live = model(x)
    pairs.merge()
    torch.testing.assert_close(model(x), live)
    pairs.unmerge()  # back to its place before the hook
    torch.testing.assert_close(model(x), live)


@pytest.mark.parametrize("share", [lambda m: m[0].weight.data, lambda m: m[0].weight.data.view(16)[4:12].view(2, 4)])
def test_weights_in_the_same_memory_are_shared_ones(share):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    model[1].weight = nn.Parameter(share(model))
    if len(model[1].weight) == 2:
        model[1].bias, model[1].out_features = nn.Parameter(torch.zeros(2)), 2
    with pytest.raises(ValueError, match="model must not share the weights that a pair is merged into, got one that is used at 0 and 1"):
        add_scale_shift(model).merge()


def test_neighbours_in_one_block_of_memory_share_nothing():
    model, x = linear()
    block = torch.cat([model[0].weight.data.flatten(), model[2].weight.data.flatten()])
    model[0].weight, model[2].weight = nn.Parameter(block[:12].view(4, 3)), nn.Parameter(block[12:].view(4, 4))
    pairs = randomise(add_scale_shift(model))
    live = model(x)
    torch.testing.assert_close(pairs.merge()(x), live)


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize("wrap, prefix", [(nn.DataParallel, "module."), (torch.compile, "_orig_mod."), (Wrapper, "model."),
                                          (lambda m: nn.DataParallel(torch.compile(m)), "module._orig_mod.")])  # fmt: skip
def test_a_wrapped_model_keeps_its_head(wrap, prefix):
    model = wrap(vit())
    pairs = add_scale_shift(model)
    assert pairs.heads == (f"{prefix}classifier",) and len(pairs.points) == 18 and model.get_submodule(f"{prefix}classifier").weight.requires_grad
    assert model.train().get_submodule(f"{prefix}classifier").training and not model.get_submodule(f"{prefix}vit").training


def test_a_model_of_peft_keeps_its_head():
    pairs = add_scale_shift(model := get_peft_model(vit(), LoraConfig(r=2, target_modules=["q_proj"])))
    assert pairs.heads == ("base_model.model.classifier",) and model.base_model.model.classifier.weight.requires_grad
    assert not any("classifier" in point.name for point in pairs.points)


def test_two_heads_and_a_pooler_that_is_called_head():
    small = dict(image_size=8, patch_size=4, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=20)
    pairs = add_scale_shift(DeiTForImageClassificationWithTeacher(DeiTConfig(**small)))
    assert pairs.heads == ("cls_classifier", "distillation_classifier") and not any("classifier" in p.name for p in pairs.points)
    model = SiglipVisionModel(SiglipVisionConfig(**small))
    pairs = add_scale_shift(model)
    assert pairs.heads == () and not any("head" in p.name for p in pairs.points) and not any(p.requires_grad for p in model.parameters())
    assert len(insertion_points(model, where="qkv")) == 3
    with pytest.raises(ValueError, match=r"got a torch.nn.MultiheadAttention at 1, which calls none; head=\['1'\] leaves it out"):
        insertion_points(both := nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2)))
    assert [p.name for p in insertion_points(both, head=["1"])] == ["0"]


def test_a_model_with_pairs_is_pickled():
    model, pixels, _ = made("vit")
    pairs = randomise(add_scale_shift(model))
    live, file = outputs(model, pixels), io.BytesIO()
    torch.save(pairs, file)  # carrier and pairs
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(outputs(again.model, pixels), live) and not again.model.train().vit.training
    again.model.eval(), again.merge()
    torch.testing.assert_close(outputs(pickle.loads(pickle.dumps(again.model)), pixels), live)
    again.remove()
    assert again.model.train().vit.training and all(p.requires_grad for p in again.model.parameters())


def test_a_failure_on_the_way_leaves_the_model_as_it_was(monkeypatch):
    model, x = linear()
    plain, register, calls = model(x), parametrize.register_parametrization, []

    def fails(*args, **options):
        calls.append(args)
        return register(*args, **options) if len(calls) < 4 else 1 / 0

    monkeypatch.setattr(parametrize, "register_parametrization", fails)
    with pytest.raises(ZeroDivisionError):
        add_scale_shift(model, style="parametrizations")
    assert torch.equal(model(x), plain) and not any(parametrize.is_parametrized(layer) for layer in model)
    assert all(p.requires_grad for p in model.parameters()) and "train" not in vars(model)


@pytest.mark.parametrize("style", ["hooks", "parametrizations"])
def test_pairs_come_off_layers_that_are_gone_from_the_model(style):
    model, *_ = made("vit")
    gone = model.vit.layers[1]
    pairs = add_scale_shift(model, style=style)
    model.vit.layers = model.vit.layers[:1]
    with pytest.raises(ValueError, match="model must have a layer of 12 channels at vit.layers.1.*, got none"):
        pairs.merge()
    pairs.remove()
    assert not any(ssf.layers._pairs_of(layer) for part in (model, gone) for layer in part.modules())
    assert all(p.requires_grad for part in (model, gone) for p in part.parameters())


def test_another_layer_in_the_place_of_one_with_a_pair():
    model, _ = linear()
    pairs = add_scale_shift(model)
    model[2] = nn.Linear(4, 4).double().eval()
    with pytest.raises(ValueError, match="model must keep the layers that pairs were put behind, got another one at 2"):
        pairs.merge()


def test_a_deeper_model_and_gains_that_are_no_numbers_are_not_merged():
    model, _ = linear()
    pairs = add_scale_shift(model)
    deeper = nn.Sequential(*copy.deepcopy(linear()[0]), nn.Linear(4, 4)).eval()
    with pytest.raises(ValueError, match="model must have the layers of the pairs' own model and no others, got a difference at 3"):
        pairs.merge(deeper)
    with torch.no_grad():
        pairs.pairs.get_submodule("2").scale[1] = torch.nan
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="the pair at 2 must be finite numbers to be merged, got some that are not"):
        pairs.merge()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_what_gets_no_pair_and_what_a_pair_does_not_take():
    others = nn.Sequential(nn.Linear(2, 3), nn.InstanceNorm1d(3), nn.RMSNorm(3), nn.ConvTranspose1d(3, 3, 1))
    assert [p.name for p in insertion_points(others)] == ["0"]
    with pytest.raises(ValueError, match="model must have weights, got a lazy layer at 0"):
        add_scale_shift(nn.Sequential(nn.LazyLinear(3)))
    for given in (torch.ones(2, 3, dtype=torch.int64), (torch.ones(2, 3),)):
        with pytest.raises(TypeError, match="x must be a floating-point tensor, got "):
            ssf.Pair(3, channel_dim=-1)(given)
    with pytest.raises(TypeError, match="dtype must be a floating-point dtype of torch, got torch.int32"):
        ssf.Pair(3, channel_dim=-1, dtype=torch.int32)
    with pytest.raises(ValueError, match="device must be a device of this machine, got 'nope'"):
        ssf.Pair(3, channel_dim=-1, device="nope")
