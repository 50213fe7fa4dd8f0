"""Networks of the recognition bench: what stands in them, what they cost, where their tokens come from."""

import pytest
import torch
from torch import nn

from helpers.methods import shunted_attention
from helpers.methods.fully_attentional import FAN
from helpers.methods.shunted_attention import macs, parameters
from helpers.models import backbones

torch.set_num_threads(1)
ALL = [(size, name) for size in backbones.SIZES for name in backbones.NAMES[size]]


def made(name, size=32, seed=0):
    return backbones.make(name, size=size, classes=5, seed=seed).eval()


@pytest.mark.parametrize(("size", "name"), ALL)
def test_every_network_has_a_face(size, name):
    model, images = made(name, size), torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    logits, tokens = model(images), model.tokens(images)
    assert logits.shape == (3, 5) and tokens.shape[:2] == (3, 64) and logits.isfinite().all()
    assert torch.allclose(model(images[1:2]), logits[1:2], atol=1e-5) and torch.allclose(model.tokens(images[1:2]), tokens[1:2], atol=1e-5)
    model.train()(images).square().sum().backward()  # a gate that is the same for all pictures is a number after training
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in idle if not name.endswith(("key.bias", "query.bias", "q.bias", "k_proj.bias", "kv.bias", "conv.bias"))]


@pytest.mark.parametrize(("size", "name"), ALL)
def test_a_seed_gives_the_same_network_and_leaves_torch_as_it_was(size, name):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, again, other = made(name, size, 3), made(name, size, 3), made(name, size, 4)
    assert torch.equal(torch.rand(3), expected)
    pairs = list(zip(one.parameters(), again.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and any(not torch.equal(a, c) for a, _, c in pairs)


def test_sizes_are_near_each_other():
    counts = {key: parameters(made(key[1], key[0])) for key in ALL}
    for name in ("ViT", "ViT, depthwise", "CNN", "FAN, no gate", "FAN, mean gate", "FAN, SE"):
        assert abs(counts[32, name] / counts[32, "FAN"] - 1) < 0.06, name
    for name in ("ViT", "CNN", "one rate, coarse", "one rate, fine"):
        assert abs(counts[64, name] / counts[64, "shunted"] - 1) < 0.06, name


@pytest.mark.parametrize("ending", ["", ", bare"])
def test_one_rate_costs_what_two_cost(ending):
    ours, peers = made(f"shunted{ending}", 64), [made(f"one rate, {rate}{ending}", 64) for rate in ("coarse", "fine")]
    for peer in peers:
        assert abs(parameters(peer) / parameters(ours) - 1) < 0.025 and abs(macs(peer) / macs(ours) - 1) < 0.025


def test_the_plain_transformer_of_equal_cost_and_that_of_equal_size():
    ours = macs(made("shunted", 64))
    assert abs(macs(made("ViT, equal cost", 64)) / ours - 1) < 0.1 and 1.7 < macs(made("ViT", 64)) / ours < 2.1


def test_twins_differ_in_what_their_names_say():
    whole, none, mean, plain = (made(name).body for name in ("FAN", "FAN, no gate", "FAN, mean gate", "FAN, plain MLP"))
    assert all(isinstance(body, FAN) for body in (whole, none, mean, plain))
    names = {name for name, _ in whole.named_parameters()}
    gates = {name for name in names if ".channel.query" in name or ".temperature" in name}
    assert {name for name, _ in none.named_parameters()} == names - gates and {name for name, _ in mean.named_parameters()} == names
    assert {name for name, _ in plain.named_parameters()} < names
    bare = made("shunted, bare", 64).body
    assert not [m for m in bare.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [m for m in made("ViT, depthwise").modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert not [m for m in made("ViT").modules() if isinstance(m, nn.Conv2d) and m.groups > 1]


def test_the_depthwise_transformer_is_the_plain_one_where_its_convolutions_are_zero():
    plain, local = made("ViT"), made("ViT, depthwise")
    absent, unknown = local.load_state_dict(plain.state_dict(), strict=False)
    assert not unknown and all(".local." in name for name in absent)
    for module in local.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            nn.init.zeros_(module.weight), nn.init.zeros_(module.bias)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(plain(images), local(images), atol=1e-5)


def test_starts_and_rates_go_with_the_family():
    vit, pyramid = made("ViT"), made("shunted", 64)
    assert vit.rate == made("FAN").rate == made("CNN").rate == backbones.RATES["other"] and pyramid.rate == made("one rate, fine", 64).rate
    assert pyramid.rate == backbones.RATES["pyramid"]
    for model in (vit, made("FAN")):
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.weight.numel() > 2000:
                assert abs(float(module.weight.detach().std()) * module.in_features**0.5 - 1) < 0.1
    narrow = next(m for m in pyramid.modules() if isinstance(m, nn.Linear) and m.weight.numel() > 2000)
    assert abs(float(narrow.weight.detach().std()) - 0.02) < 0.003


def test_tokens_of_a_pyramid_are_those_of_the_grid_of_eight():
    model, images = made("shunted", 64), torch.rand(2, 3, 64, 64)
    assert torch.equal(model.tokens(images), model.body.maps(4 * images - 2)[1].flatten(2).mT)
    assert isinstance(model.body, shunted_attention.Shunted)


def test_what_a_method_of_the_network_gives():
    model, images = made("FAN"), torch.rand(2, 3, 32, 32)
    assert torch.equal(model.of("gates", images), model.body.gates(4 * images - 2))
    same = model.of("with_mean_gates", images)
    assert isinstance(same, backbones.Backbone) and not same.training and torch.allclose(same(images), same.body(4 * images - 2))
    with pytest.raises(ValueError, match="method must be one of the network's own, got 'nope'"):
        model.of("nope", images)


@pytest.mark.parametrize(("size", "name"), [key for key in ALL if key[1] in backbones.TWIN_OF])
def test_twins_start_alike(size, name):
    ours, theirs = made(name, size, 3).state_dict(), made(backbones.TWIN_OF[name], size, 3).state_dict()
    shared = [key for key in ours if key in theirs and ours[key].shape == theirs[key].shape]
    assert len(shared) > 0.5 * len(ours) and all(torch.equal(ours[key], theirs[key]) for key in shared)


def stem_of(model):
    """What the places of the grid of 8 see before tokens talk to each other."""
    if isinstance(model.body, backbones.ViT):
        return lambda x: model.body.network.embeddings.patch_embeddings(x)
    if isinstance(model.body, FAN):
        return lambda x: model.body.stem(x)[0]
    if isinstance(model.body, backbones.CNN):
        return model.body.tokens
    stages = model.body.stages
    return lambda x: stages[1].embedding.conv(stages[0].embedding.conv(x)).flatten(2).mT


@pytest.mark.parametrize(("size", "name"), [(32, "ViT"), (32, "FAN"), (32, "CNN"), (64, "ViT"), (64, "CNN"), (64, "shunted"), (64, "one rate, fine")])
def test_the_middle_of_the_first_token_is_that_of_what_it_sees(size, name):
    model, images = made(name, size), torch.rand(1, 3, size, size, requires_grad=True)
    place = 8 * 4 + 3
    stem_of(model)(images)[0, place].square().sum().backward()
    seen = images.grad[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    middle = torch.tensor([(some.min() + some.max()) / 2 for some in (rows, columns)])
    assert torch.equal(middle, torch.tensor([4.0, 3.0]) * size / 8 + model.first_middle)


def test_the_cnn_by_hand():
    model, images = made("CNN").body, torch.rand(2, 3, 32, 32)
    x = images
    for k, layer in enumerate(model.layers):
        conv, norm = layer[0], layer[1]
        found = torch.relu(norm(nn.functional.conv2d(x, conv.weight, None, conv.stride, 1)))
        x = x + found if k in (2, 4) else found
    assert x.shape == (2, 80, 4, 4) and torch.allclose(model.head(x.mean((2, 3))), model(images), atol=1e-5)


@pytest.mark.parametrize("call, error, message", [
    (lambda: backbones.make("FAN", size=48, classes=5, seed=0), ValueError, "size must be one of 32, 64, got 48"),
    (lambda: backbones.make("FAN", size=64, classes=5, seed=0), ValueError, "name must be one of"),
    (lambda: made("ViT")(torch.rand(2, 3, 16, 16)), ValueError, r"images must be a floating-point tensor \(B, 3, 32, 32\), got shape \(2, 3, 16, 16\)"),
    (lambda: made("ViT")([1.0]), TypeError, "images must be a floating-point tensor"),
])  # fmt: skip
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
