"""Encoders by name: the small one reads as its recipe does, a published one says in one sentence what is missing."""

import numpy as np
import pytest
import torch
from transformers import SwinConfig, SwinForImageClassification, SwinModel, ViTConfig, ViTForImageClassification, ViTModel

from helpers.models import encoders, zoo
from helpers.recipes import toy_vit
from tests.accelerator import DEVICE, Accelerator, near

NAME = "facebook/dino-vits16"


def test_the_small_one_reads_as_its_recipe_does():
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    encode = encoders.load("toy-vit")
    model = ViTForImageClassification.from_pretrained(zoo.folder("toy-vit"), dtype=torch.float32).eval()
    torch.testing.assert_close(encode(images), toy_vit.features_of(model, images))
    torch.testing.assert_close(encode(images, batch=2), encode(images), rtol=1e-4, atol=1e-5)
    assert encode(images[:0]).shape == (0, 160) and encoders.missing("toy-vit") == "" and "laptop" in encoders.needs("toy-vit")


def test_the_published_architecture_has_its_published_size():
    model = encoders.blank(NAME)
    assert sum(p.numel() for p in model.parameters()) == 21_665_664 and len(model.encoder.layer if hasattr(model, "encoder") else model.layers) == 12
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert 4 * 21_665_664 / 1e9 == pytest.approx(encoders.GIGABYTES[NAME], abs=0.01) and "21.7 million" in encoders.needs(NAME)


# name -> numbers without head or pooler; those of the head; gigabytes of what is downloaded beside the encoder
SIZES = {
    "google/vit-base-patch16-224-in21k": (85_798_656, 768, 768 * 769), "google/vit-large-patch16-224-in21k": (303_301_632, 1024, 1024 * 1025),
    "google/vit-huge-patch14-224-in21k": (630_764_800, 1280, 1280 * 1281), "facebook/vit-mae-base": (85_798_656, 768, 26_100_000),
    "microsoft/swin-base-patch4-window7-224-in22k": (86_743_224, 1024, 1025 * 21_841),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_published_backbones_of_the_tuning_papers(name):
    numbers, width, beside = SIZES[name]
    assert sum(p.numel() for p in encoders.blank(name).parameters()) == numbers
    model = encoders.blank_classifier(name, classes=100)
    assert sum(p.numel() for p in model.classifier.parameters()) == 100 * (width + 1) and {p.device.type for p in model.parameters()} == {"meta"}
    assert 4 * (numbers + beside) / 1e9 == pytest.approx(encoders.GIGABYTES[name], abs=0.01)
    assert not model.training


@pytest.mark.parametrize("name", ["google/vit-base-patch16-224-in21k", "microsoft/swin-base-patch4-window7-224-in22k"])
def test_a_published_classifier_is_pinned_and_has_a_new_head(name, monkeypatch):
    config = dict(num_labels=7, image_size=32)
    vit = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, patch_size=16)
    swin = dict(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, patch_size=4)
    kinds = {ViTForImageClassification: ViTConfig(**vit | config), SwinForImageClassification: SwinConfig(**swin | config)}
    asked = {}
    monkeypatch.setattr(encoders, "try_to_load_from_cache", lambda *_: "a path")
    monkeypatch.setattr(zoo, "pinned_revision", lambda name: "c0ffee")
    for kind, small in kinds.items():
        make = lambda name, kind=kind, small=small, **options: asked.update({name: (kind, options)}) or kind(small)  # noqa: E731
        monkeypatch.setattr(kind, "from_pretrained", make)
    model = encoders.classifier(name, classes=7)
    kind, options = asked[name]
    assert options == {"revision": "c0ffee", "num_labels": 7, "ignore_mismatched_sizes": True} and type(model) is kind and not model.training
    assert ("swin" in name) == (kind is SwinForImageClassification)

    def broken(name, **options):
        raise OSError("cut off")

    monkeypatch.setattr(kind, "from_pretrained", broken)
    with pytest.raises(RuntimeError, match=r"^\S+ needs a download of its weights \([0-9.]+ GB\), and it failed \(OSError\)\.$"):
        encoders.classifier(name, classes=7)


def test_a_swin_reads_by_the_mean_of_its_patches():
    small = SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, patch_size=4, image_size=32)
    encode = encoders.Encoder("swin", SwinModel(small).eval(), *encoders.HALF)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = encode.model(2 * images - 1).last_hidden_state.mean(1)
    torch.testing.assert_close(encode(images), wanted, atol=1e-5, rtol=1e-5)


def test_what_is_missing_is_one_sentence_and_no_download(monkeypatch):
    def unreachable(name):
        raise ConnectionError("a long story\nover several lines")

    monkeypatch.setattr(encoders, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(zoo, "pinned_revision", unreachable)
    monkeypatch.setattr(ViTModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(RuntimeError, match=r"^facebook/dino-vits16 needs a download .* does not answer \(ConnectionError\)\.$"):
        encoders.load(NAME)
    monkeypatch.setattr(zoo, "pinned_revision", lambda name: "c0ffee")
    assert encoders.missing(NAME) == ""


def test_a_published_one_is_pinned_scaled_and_standardised(monkeypatch):
    torch.manual_seed(0)
    small = ViTModel(
        ViTConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16), add_pooling_layer=False
    )
    asked = {}
    monkeypatch.setattr(encoders, "try_to_load_from_cache", lambda *_: "a path")
    monkeypatch.setattr(zoo, "pinned_revision", lambda name: "c0ffee")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ViTModel, "from_pretrained", lambda name, **options: asked.update({name: options}) or small)
    encode = encoders.load(NAME)
    assert asked == {NAME: {"revision": "c0ffee", "add_pooling_layer": False}} and not small.training
    mean, deviation = (torch.tensor(v)[None, :, None, None] for v in encoders.IMAGENET)
    flat = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None].expand(2, -1, 8, 8)
    with torch.no_grad():
        expected = small((flat[:, :, :1, :1].expand(-1, -1, 32, 32) - mean) / deviation).last_hidden_state[:, 0]
    torch.testing.assert_close(encode(flat), expected, rtol=1e-4, atol=1e-4)

    def broken(name, **options):
        raise OSError("cut off")

    monkeypatch.setattr(ViTModel, "from_pretrained", broken)
    with pytest.raises(RuntimeError, match=r"and it failed \(OSError\)\.$"):
        encoders.load(NAME)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encoders.load("dino"), "name must be one of 'toy-vit', 'facebook/dino-vits16', .*, got 'dino'"),
        (lambda: encoders.missing("dino"), "name must be one of .*, got 'dino'"),
        (lambda: encoders.blank("toy-vit"), "name must be one of 'facebook/dino-vits16', .*, got 'toy-vit'"),
        (lambda: encoders.load("toy-vit")(torch.zeros(3, 64, 64)), r"images must be numbers \(N, 3, S, S\), got shape \(3, 64, 64\)"),
        (lambda: encoders.load("toy-vit")(torch.zeros(1, 3, 64, 32)), r"images must be .* with S = 64, got shape \(1, 3, 64, 32\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_other_kinds_of_pictures():
    encode, images = encoders.load("toy-vit"), torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    right = encode(images)
    for same in (images.numpy(), np.ascontiguousarray(images.numpy()[::-1])[::-1], images.double().numpy()):
        assert isinstance(encode(same), np.ndarray) and np.allclose(encode(same), right, atol=1e-5)
    assert torch.equal(encode(images.requires_grad_()), right) and not right.requires_grad
    with pytest.raises(ValueError, match=r"images must be numbers .* in \[-0.001, 1.001\]"):
        encode(255 * images)
    with pytest.raises(ValueError, match="images must be finite"):
        encode(images * torch.nan)
    with pytest.raises(ValueError, match="batch must be a whole number >= 1, got 0"):
        encode(images, batch=0)
    with Accelerator():
        encode.model.to(DEVICE)
        for given in (images.detach().to(DEVICE), images.detach()):
            found = encode(given)
            assert found.device == given.device
            torch.testing.assert_close(near(found), right, atol=1e-4, rtol=1e-4)
