"""Visual prompts on models as readers have them: backbones, towers, wrappers, copies, other modes of training, other settings of attention."""

import copy

import pytest
import torch
import transformers
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMSNConfig,
    ViTMSNForImageClassification,
)  # fmt: skip

from helpers.methods.visual_prompt_tuning import add_adapters, add_prompts, attached, class_attention, class_tokens, init_bound, pooled, transformer_blocks

torch.set_num_threads(1)
N, WIDTH, PATCHES, CLASSES, P = 3, 12, 4, 5, 2
SIZES = dict(hidden_size=WIDTH, num_hidden_layers=N, num_attention_heads=2, intermediate_size=20, image_size=8, patch_size=4)
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def built(kind, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return model


def vit(**changes):
    return built(ViTForImageClassification, ViTConfig(**SIZES | dict(num_labels=CLASSES) | changes))


def deit():
    return built(DeiTForImageClassification, DeiTConfig(**SIZES, num_labels=CLASSES))


def tower():
    return built(CLIPVisionModel, CLIPVisionConfig(**SIZES))


def clip():
    return built(CLIPForImageClassification, CLIPConfig(vision_config=SIZES, text_config=dict(num_hidden_layers=1), num_labels=CLASSES))


def swin():
    config = dict(image_size=8, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, num_labels=CLASSES)
    return built(SwinForImageClassification, SwinConfig(**config))


def seed(value=0):
    return torch.Generator().manual_seed(value)


# --------------------------------------------------------------------------------------------------------- what is read behind the blocks


def test_a_backbone_gives_maps_of_patches():
    model = built(Dinov2Backbone, Dinov2Config(**SIZES, out_features=["stage1", "stage3"]))
    before = model(IMAGES).feature_maps
    prompts = add_prompts(model, num_prompts=P, init="zeros", mode="shallow")
    found = model(IMAGES).feature_maps
    assert [one.shape for one in found] == [one.shape for one in before] == [(2, WIDTH, 2, 2)] * 2
    prompts.strength = 0  # the frozen model, token by token
    for one, other in zip(model(IMAGES).feature_maps, before):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("make", [vit, tower, clip, lambda: built(CLIPVisionModelWithProjection, CLIPVisionConfig(**SIZES, projection_dim=7))])
@pytest.mark.parametrize("options", [dict(), dict(last=1), dict(first=1, after="drop")])
def test_hidden_states_have_no_prompts(make, options):
    model, seen = make(), []
    prompts = add_prompts(model, num_prompts=P, generator=seed(), **options)
    for block in transformer_blocks(model):
        block.register_forward_hook(lambda _, args, out: seen.append(out))
    states = model(pixel_values=IMAGES, output_hidden_states=True).hidden_states
    for one, whole, index in zip(states[1:], seen, range(N), strict=True):
        p = P if prompts._there(index) else 0
        assert whole.shape == (2, 1 + p + PATCHES, WIDTH)
        assert torch.equal(one, torch.cat([whole[:, :1], whole[:, 1 + p :]], 1))
    assert states[0].shape == (2, 1 + PATCHES, WIDTH)
    listed = model(pixel_values=IMAGES, output_hidden_states=True, return_dict=False)
    nested = [one for one in listed if isinstance(one, tuple)]
    assert len(nested) == 1 and all(torch.equal(one, other) for one, other in zip(nested[0], states, strict=True))


def test_a_block_that_comes_twice_is_refused():
    model = vit()
    model.vit.layers[2] = model.vit.layers[0]
    for attach in (add_prompts, add_adapters):
        with pytest.raises(ValueError, match="model must have each of its blocks once, got ViTForImageClassification, where one module is several of its 3"):
            attach(model)


def test_a_head_that_is_asked_alone_answers_what_it_is_asked():
    model = vit()
    prompts = add_prompts(model, num_prompts=P, pooling="patches", generator=seed())
    other = torch.randn(7, WIDTH, generator=seed(1))
    wanted = nn.functional.linear(other, model.classifier.weight, model.classifier.bias)
    model.vit(IMAGES)
    assert torch.equal(model.classifier(other), wanted)
    broken = model.vit.layernorm.register_forward_hook(lambda *_: 1 / 0)  # a call that ends before its head
    with pytest.raises(ZeroDivisionError):
        model(IMAGES)
    broken.remove()
    assert torch.equal(model.classifier(other), wanted)
    seen = []
    model.vit.layernorm.register_forward_hook(lambda _, args, out: seen.append(out))
    torch.testing.assert_close(model(IMAGES).logits, model.classifier(pooled(seen[0], P, "patches")))
    assert prompts._final is None


# ------------------------------------------------------------------------------------------------------------------- tokens that are special


def test_a_distillation_token_is_no_patch():
    model = deit()
    prompts = add_prompts(model, num_prompts=P, pooling="patches", generator=seed())
    seen = []
    handle = model.deit.layernorm.register_forward_hook(lambda _, args, out: seen.append(out))
    found = model(IMAGES).logits
    handle.remove()
    assert seen[0].shape == (2, 2 + P + PATCHES, WIDTH)
    torch.testing.assert_close(found, model.classifier(seen[0][:, -PATCHES:].mean(1)))
    shares = class_attention(model, prompts, IMAGES)
    assert shares.to_patches.shape == (2, N, PATCHES)
    model.set_attn_implementation("eager")
    rows = torch.stack([one[:, :, 0].mean(1) for one in model(IMAGES, output_attentions=True).attentions], 1)
    torch.testing.assert_close(shares.to_patches, rows[..., -PATCHES:])
    torch.testing.assert_close(shares.to_prompts, rows[..., 1 : 1 + P])
    prompts.remove()
    with pytest.raises(ValueError, match="at_first must be 'insert' for a model with a distillation token"):
        add_prompts(model, num_prompts=P, last=1, at_first="replace")
    added = add_prompts(model, location="add", init="zeros", mode="shallow")
    assert added.values.shape == (1, 2 + PATCHES, WIDTH) and model(IMAGES).logits.shape == (2, CLASSES)


@pytest.mark.parametrize(
    "make",
    [
        swin, lambda: swin().swin,
        lambda: transformers.ConvNextForImageClassification(transformers.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2)),
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES)),
    ],
)  # fmt: skip
def test_without_a_class_token_there_are_no_class_tokens(make):
    with pytest.raises(ValueError, match="model must have transformer blocks"):
        class_tokens(make(), IMAGES)


FINAL = {
    "CLIP's tower": (tower, lambda model: model(IMAGES).pooler_output), "CLIP": (clip, lambda model: model.vision_model(IMAGES).pooler_output),
    "ViT": (vit, lambda model: model.vit(IMAGES).last_hidden_state[:, 0]),
    "DINOv2": (lambda: built(Dinov2Backbone, Dinov2Config(**SIZES, reshape_hidden_states=False)), lambda model: model(IMAGES).feature_maps[-1][:, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", FINAL)
def test_the_final_class_token_is_behind_the_last_norm(name):
    make, of = FINAL[name]
    model = make()
    torch.testing.assert_close(class_tokens(model, IMAGES), of(model))
    assert class_tokens(model, IMAGES, which="inputs").shape == (N, 2, WIDTH)


def test_looking_at_a_model_in_training_mode_is_without_dropout():
    model = vit(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    wanted = class_tokens(model, IMAGES)
    prompts = add_prompts(model, num_prompts=P, dropout=0.5, generator=seed())
    shares = class_attention(model, prompts, IMAGES)
    prompts.remove()
    model.train()
    model.vit.layers[1].eval()
    modes = [part.training for part in model.modules()]
    assert torch.equal(class_tokens(model, IMAGES), wanted) and [part.training for part in model.modules()] == modes
    prompts = add_prompts(model, num_prompts=P, dropout=0.5, init=prompts.values.detach())
    assert all(torch.equal(one, other) for one, other in zip(class_attention(model, prompts, IMAGES), shares))
    assert [part.training for part in model.modules()] == modes


def test_settings_of_attention_come_back_one_by_one():
    model = clip()
    model.set_attn_implementation({"": "sdpa", "vision_config": "eager", "text_config": "sdpa"})
    prompts = add_prompts(model, num_prompts=P)
    configs = [model.config, model.config.vision_config, model.config.text_config, model.vision_model.config]
    before = [config._attn_implementation for config in configs]
    assert "eager" in before and "sdpa" in before
    class_attention(model, prompts, IMAGES)
    assert [config._attn_implementation for config in configs] == before


def test_deleted_patches_get_no_attention():
    model = vit()
    prompts = add_prompts(model, num_prompts=P, last=1, at_first="replace", generator=seed())
    found = class_attention(model, prompts, IMAGES)
    assert found.to_patches.shape == (2, N, PATCHES) and (found.to_patches[:, 2, :P] == 0).all() and (found.to_patches[:, 2, P:] > 0).all()
    torch.testing.assert_close(found.to_cls + found.to_prompts.sum(-1) + found.to_patches.sum(-1), torch.ones(2, N))


# --------------------------------------------------------------------------------------------------------------------- prompts in the picture


def test_how_a_border_starts():
    options = dict(mode="shallow", location="pad", num_prompts=4)
    default, named = (add_prompts(vit(), generator=seed(), **options, **more).rows for more in ({}, dict(init="imagenet")))
    assert torch.equal(default, named) and default.abs().max() > 1
    uniform, bound = add_prompts(vit(), generator=seed(), init="uniform", **options).rows.abs().max(), init_bound(4, WIDTH)
    assert 0.95 * bound < uniform <= bound


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_no_more_channels_are_the_frozen_model(padding):
    model = vit(image_size=16)
    old, images = model.vit.embeddings.patch_embeddings.projection, torch.rand(2, 3, 16, 16, generator=seed())
    conv = nn.Conv2d(3, WIDTH, 5, 4, padding=2, padding_mode=padding)
    conv.load_state_dict({"weight": nn.functional.pad(old.weight.detach(), (0, 1, 0, 1), value=0.1), "bias": old.bias.detach()})
    model.vit.embeddings.patch_embeddings.projection = conv
    conv.register_forward_hook(lambda _, args, out: 2 * out)
    before = model(images).logits
    add_prompts(model, num_prompts=0, mode="shallow", location="concat-channel")
    torch.testing.assert_close(model(images).logits, before)


def test_channels_that_are_refused():
    model, options = vit(), dict(mode="shallow", location="concat-channel")
    for p in (0, 1, 2):
        with pytest.raises(ValueError, match=f"init must be 'uniform', 'zeros' or 'gaussian' for {p} channels, got 'imagenet'"):
            add_prompts(model, init="imagenet", num_prompts=p, **options)
    assert add_prompts(vit(), init="imagenet", num_prompts=3, **options).values.shape == (1, 3, 8, 8)
    model.vit.embeddings.patch_embeddings.projection = nn.Conv2d(3, WIDTH, 4, 4, groups=3)
    with pytest.raises(ValueError, match="model must begin with a convolution of one group for location 'concat-channel', got one of 3 groups"):
        add_prompts(model, **options)


@pytest.mark.parametrize("location", ["add", "concat-channel", "pad"])
def test_pictures_of_another_size_are_refused(location):
    model = vit()
    add_prompts(model, mode="shallow", location=location, **({"num_prompts": 2} if location != "add" else {}))
    with pytest.raises(ValueError, match=r"^pixel_values must .*(location 'add'|\(B, 3, 8, 8\)), got (shape \(2, 3, 16, 16\)|pictures of another size)"):
        model(torch.rand(2, 3, 16, 16), interpolate_pos_encoding=True)


PADDED = {
    "ViT": vit, "DeiT": deit, "CLIP": clip, "CLIP's tower": tower, "Swin": swin,
    "MSN": lambda: built(ViTMSNForImageClassification, ViTMSNConfig(**SIZES)),
    "DINOv2": lambda: built(Dinov2ForImageClassification, Dinov2Config(**SIZES)),
}  # fmt: skip


@pytest.mark.parametrize("name", PADDED)
def test_a_border_on_every_model(name):
    model = PADDED[name]()
    plain, step = copy.deepcopy(model), 1 if name == "DINOv2" else 0
    prompts = add_prompts(model, num_prompts=2, mode="shallow", location="pad", generator=seed())
    rows, columns = prompts.rows.detach(), prompts.columns.detach()
    middle = torch.cat([columns[..., :2].expand(2, -1, -1, -1), IMAGES, columns[..., 2:].expand(2, -1, -1, -1)], -1)
    whole = torch.cat([rows[..., :2, :].expand(2, -1, -1, -1), middle, rows[..., 2:, :].expand(2, -1, -1, -1)], -2)
    wanted = plain(pixel_values=whole, **({} if step else {"interpolate_pos_encoding": True}))[0]
    torch.testing.assert_close(model(pixel_values=IMAGES)[0], wanted)


def test_inside_of_peft():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(vit(), peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["classifier"]))
    before = class_tokens(model, IMAGES)
    assert torch.equal(before, class_tokens(model.get_base_model(), IMAGES))
    prompts = add_prompts(model, num_prompts=P, generator=seed())
    assert class_attention(model, prompts, IMAGES).to_prompts.shape == (2, N, P) and model.config._attn_implementation == "sdpa"
    asking = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(asking) == 2 and all(".classifier.modules_to_save." in name for name in asking)
    prompts.remove()
    add_prompts(model, num_prompts=2, mode="shallow", location="pad", generator=seed())
    assert before.shape == (2, WIDTH) and model(pixel_values=IMAGES).logits.shape == (2, CLASSES)


def test_a_model_of_one_size_has_no_border():
    config = transformers.HieraConfig(image_size=(64, 64), embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    with torch.device("meta"):
        model = transformers.HieraForImageClassification(config)
    with pytest.raises(ValueError, match="model must take pictures of other sizes for location 'pad', got HieraForImageClassification"):
        add_prompts(model, num_prompts=4, mode="shallow", location="pad")


def test_no_pixels_are_the_frozen_model():
    model = vit()
    before = model(IMAGES).logits
    prompts = add_prompts(model, num_prompts=0, mode="shallow", location="prepend-pixel")
    assert torch.equal(model(IMAGES).logits, before) and prompts.tokens(0, 3).shape == (3, 0, WIDTH)


# ------------------------------------------------------------------------------------------------------------------------ attach and remove


@pytest.mark.parametrize(
    "attach",
    [
        add_prompts, add_adapters, lambda m: add_prompts(m, location="add"),
        lambda m: add_prompts(m, mode="shallow", location="pad", num_prompts=2), lambda m: add_prompts(m, mode="shallow", location="concat-channel"),
    ],
)  # fmt: skip
def test_a_model_in_training_mode_comes_back_in_it(attach):
    model = vit().train()
    model.vit.layers[1].mlp.eval()
    modes = [part.training for part in model.modules()]
    one = attach(model)
    model(IMAGES)
    assert not model.vit.training
    one.remove()
    assert [part.training for part in model.modules()] == modes
    one = attach(model)
    model(IMAGES)
    model.eval()
    one.remove()
    assert not any(part.training for part in model.modules())


def test_of_two_the_last_gives_the_mode_back():
    model = vit().train()
    adapters, prompts = add_adapters(model), add_prompts(model)
    model(IMAGES)
    adapters.remove()
    assert not model.vit.training
    prompts.remove()
    assert all(part.training for part in model.modules()) and all(p.requires_grad for p in model.parameters())


def test_numbers_that_were_loaded_since_ask_for_gradients_again():
    model = vit()
    model.vit.embeddings.cls_token.requires_grad_(False)
    prompts = add_prompts(model)
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    assert not model.vit.layers[0].mlp.fc1.weight.requires_grad
    prompts.remove()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["vit.embeddings.cls_token"]


def test_both_parts_of_a_normed_weight_are_frozen():
    model = vit()
    nn.utils.parametrizations.weight_norm(model.vit.layers[0].mlp.fc1)
    prompts = add_prompts(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    prompts.remove()
    assert all(p.requires_grad for p in model.parameters())


def test_gradients_of_before_are_forgotten():
    model = vit()
    older = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(IMAGES).logits.sum().backward()
    prompts = add_prompts(model, generator=seed())
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    older.step()
    assert len(frozen) > 10 and all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert model.classifier.weight.grad is not None and prompts.values.grad is None


@pytest.mark.parametrize("attach", [add_prompts, add_adapters])
def test_wrappers(attach):
    model = vit()
    one = attach(nn.DataParallel(model))
    assert one._model[0] is model and {name for name, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    one.remove()
    with pytest.raises(ValueError, match="model must be what has the .classifier, got Sequential around a ViTForImageClassification: give that one"):
        attach(nn.Sequential(nn.Identity(), model))
    with pytest.raises(ValueError, match="model must be as it was before torch.compile, got a compiled one"):
        attach(torch.compile(model))
    model.requires_grad_(False)
    attach(model)
    assert not any(p.requires_grad for p in model.parameters())


def test_what_is_on_a_copy_can_be_found():
    model = vit()
    before = model(IMAGES).logits
    prompts, adapters = add_prompts(model, generator=seed()), add_adapters(model)
    assert set(attached(model)) == {prompts, adapters} and len(attached(model)) == 2
    twin = copy.deepcopy(model)
    found = attached(twin)
    assert len(found) == 2 and not set(found) & {prompts, adapters} and sorted(type(one).__name__ for one in found) == ["Adapters", "Prompts"]
    for one in found:
        one.remove()
    assert torch.equal(twin(IMAGES).logits, before) and attached(twin) == [] and all(p.requires_grad for p in twin.parameters())
    assert len(attached(model)) == 2 and not torch.allclose(model(IMAGES).logits, before)


def test_a_model_without_numbers_can_only_be_counted():
    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(**SIZES))
    prompts = add_prompts(model)
    assert prompts.values.numel() == N * 10 * WIDTH
    model.to_empty(device="cpu")
    with pytest.raises(ValueError, match="model must have its numbers when something is attached, got one that was on the meta device then"):
        model(IMAGES)


def test_a_head_that_the_model_asks_itself_is_not_fed():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            inner = vit()
            self.embeddings, self.layers, self.classifier = inner.vit.embeddings, inner.vit.layers, inner.classifier

    with pytest.raises(ValueError, match="pooling must be None for a model that holds its blocks itself, got 'cls' for Flat"):
        add_prompts(Flat(), pooling="cls")
