"""The mixer against slow loops, what its two perceptrons can and cannot see, and the library's own saving and loading."""

import pytest
import torch
import torch.nn.functional as F

from helpers.models.mixers import MixerConfig, MixerForImageClassification, MixerLayer

torch.set_num_threads(1)
SMALL = dict(image_size=12, patch_size=4, hidden_size=10, num_hidden_layers=2, tokens_mlp_dim=5, channels_mlp_dim=7, num_labels=3)


def model(**options) -> MixerForImageClassification:
    torch.manual_seed(0)
    return MixerForImageClassification(MixerConfig(**SMALL | options)).eval()


@torch.no_grad()
def test_a_layer_is_two_perceptrons_by_slow_loops():
    torch.manual_seed(1)
    layer, tokens = MixerLayer(6, MixerConfig(**SMALL)), torch.randn(2, 6, 10)
    expected = tokens.clone()
    normed = F.layer_norm(tokens, (10,), layer.norm1.weight, layer.norm1.bias)
    for b in range(2):
        for channel in range(10):
            hidden = F.gelu(layer.mlp_tokens.fc1.weight @ normed[b, :, channel] + layer.mlp_tokens.fc1.bias)
            expected[b, :, channel] += layer.mlp_tokens.fc2.weight @ hidden + layer.mlp_tokens.fc2.bias
    normed = F.layer_norm(expected, (10,), layer.norm2.weight, layer.norm2.bias)
    out = expected.clone()
    for b in range(2):
        for patch in range(6):
            hidden = F.gelu(layer.mlp_channels.fc1.weight @ normed[b, patch] + layer.mlp_channels.fc1.bias)
            out[b, patch] += layer.mlp_channels.fc2.weight @ hidden + layer.mlp_channels.fc2.bias
    assert torch.allclose(layer(tokens), out, atol=1e-5)


@torch.no_grad()
def test_shapes_counts_and_batches():
    m, x = model(), torch.randn(5, 3, 12, 12)
    assert m(x).logits.shape == (5, 3) and m.features(x).shape == (5, 10)
    assert torch.allclose(m(x).logits, torch.cat([m(x[i : i + 1]).logits for i in range(5)]), atol=1e-6)
    tokens, width, a, b = 9, 10, 5, 7
    layer = 4 * width + (2 * tokens * a + a + tokens) + (2 * width * b + b + width)
    assert sum(p.numel() for p in m.parameters()) == (48 * width + width) + 2 * layer + 2 * width + (width * 3 + 3)


@torch.no_grad()
def test_places_matter_through_the_perceptron_of_patches_alone():
    m, x = model(), torch.randn(2, 3, 12, 12)
    turned = torch.roll(x, 4, dims=3)  # patches change places
    assert not torch.allclose(m(x).logits, m(turned).logits, atol=1e-4)
    for layer in m.layers:
        layer.mlp_tokens.fc2.weight.zero_()
        layer.mlp_tokens.fc2.bias.zero_()
    assert torch.allclose(m(x).logits, m(turned).logits, atol=1e-5)


def test_saved_and_loaded_by_the_library(tmp_path):
    m, x = model(), torch.randn(2, 3, 12, 12)
    m.save_pretrained(tmp_path)
    again = MixerForImageClassification.from_pretrained(tmp_path).eval()
    assert (tmp_path / "model.safetensors").exists() and torch.equal(m(x).logits, again(x).logits) and again.config.tokens_mlp_dim == 5


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 12, 12), (3, 12, 12)])
def test_other_pictures_are_refused(shape):
    with pytest.raises(ValueError, match=r"pixel_values must be \(N, 3, 12, 12\), got"):
        model()(torch.zeros(shape))


@pytest.mark.parametrize("options, error, message", [
    ({"patch_size": 5}, ValueError, "patch_size must divide image_size, 12, got 5"),
    ({"hidden_size": 0}, ValueError, "hidden_size must be a whole number >= 1, got 0"),
    ({"num_hidden_layers": 1.5}, TypeError, "num_hidden_layers must be a whole number >= 1, got 1.5"),
])  # fmt: skip
def test_bad_configurations_are_named(options, error, message):
    with pytest.raises(error, match=message):
        MixerConfig(**SMALL | options)
