"""Visual prompts against a slow forward pass written out, published counts, worked numbers, limits and symmetries."""

import copy
import math

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from helpers.methods import visual_prompt_tuning as vpt
from helpers.methods.visual_prompt_tuning import add_adapters, add_prompts, class_attention
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
N, WIDTH, PATCHES, CLASSES, P = 3, 12, 6, 5, 4
SIZES = dict(hidden_size=WIDTH, num_hidden_layers=N, num_attention_heads=2, intermediate_size=20, image_size=(8, 12), patch_size=4)
DROPS = dict(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
IMAGES = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(3)) * 2 - 1
SQUARE = dict(hidden_size=WIDTH, num_hidden_layers=N, num_attention_heads=2, intermediate_size=20, image_size=8, patch_size=4)
SQUARES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def seeded(make):
    """A model with weights large enough that every part matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return model


def vit(**changes):
    return seeded(lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES | dict(num_labels=CLASSES) | changes)))


def swin(**changes):
    config = dict(image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=2, num_labels=CLASSES, mlp_ratio=2.0)
    return seeded(lambda: transformers.SwinForImageClassification(transformers.SwinConfig(**config | changes)))


SQUARE_MODELS = {
    "ViT": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SQUARE)),
    "ViT without head": lambda: transformers.ViTModel(transformers.ViTConfig(**SQUARE)),
    "DeiT": lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig(**SQUARE)),
    "DINOv2": lambda: transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**SQUARE)),
    "MSN": lambda: transformers.ViTMSNForImageClassification(transformers.ViTMSNConfig(**SQUARE)),
    "CLIP's tower": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SQUARE)),
    "CLIP's tower with projection": lambda: transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**SQUARE, projection_dim=7)),
    "CLIP's classifier": lambda: transformers.CLIPForImageClassification(transformers.CLIPConfig(vision_config=SQUARE)),
}


def said(model, images):
    """What a model says of pictures, whatever it calls it."""
    out = model(pixel_values=images)
    return next(out[key] for key in ("logits", "image_embeds", "pooler_output", "last_hidden_state") if out.get(key) is not None)


def by_hand(model, images, prompts, *, deep):
    """The paper's equations, token by token: 4 to 6 for shallow prompts (1, p, d), 7 and 8 for deep ones (N, p, d)."""
    tokens = model.vit.embeddings(images)
    x, z, e = tokens[:, :1], None, tokens[:, 1:]
    for i, layer in enumerate(model.vit.layers):
        if deep or i == 0:
            z = prompts[i].expand(len(images), -1, -1)
        out = layer(torch.cat([x, z, e], 1))
        x, z, e = out[:, :1], out[:, 1 : 1 + z.shape[1]], out[:, 1 + z.shape[1] :]
    return model.classifier(model.vit.layernorm(x[:, 0]))


def lengths(model, images):
    """Tokens that each block sees."""
    found = []
    handles = [block.register_forward_hook(lambda _, args, __: found.append(args[0].shape[1])) for block in vpt.transformer_blocks(model)]
    model(images)
    for handle in handles:
        handle.remove()
    return found


def seed(value=0):
    return torch.Generator().manual_seed(value)


# ---------------------------------------------------------------------------------------------------------------------------- equations


@pytest.mark.parametrize("mode", ["shallow", "deep"])
def test_the_equations_written_out(mode):
    model = vit().double()
    plain = copy.deepcopy(model)
    prompts = add_prompts(model, num_prompts=P, mode=mode, generator=seed())
    assert prompts.values.shape == ((N if mode == "deep" else 1), P, WIDTH) and prompts.values.dtype == torch.float64
    torch.testing.assert_close(said(model, IMAGES.double()), by_hand(plain, IMAGES.double(), prompts.values, deep=mode == "deep"), rtol=1e-12, atol=1e-12)


def test_shared_prompts_are_deep_ones_that_are_equal():
    model = vit()
    shared = add_prompts(model, num_prompts=P, mode="shared", generator=seed())
    values, found = shared.values.detach().clone(), said(model, IMAGES)
    shared.remove()
    deep = add_prompts(model, num_prompts=P, mode="deep", init=values[0])
    torch.testing.assert_close(found, said(model, IMAGES))
    assert shared.values.numel() == P * WIDTH and deep.values.numel() == N * P * WIDTH


@pytest.mark.parametrize("name", SQUARE_MODELS)
def test_without_prompts_the_frozen_model_exactly(name):
    model = seeded(SQUARE_MODELS[name])
    before, flags = said(model, SQUARES), [p.requires_grad for p in model.parameters()]
    for mode in ("shallow", "deep", "shared"):
        none = add_prompts(model, num_prompts=0, mode=mode)
        assert torch.equal(said(model, SQUARES), before) and sum(p.numel() for p in none.parameters()) == 0
        none.remove()
        some = add_prompts(model, num_prompts=P, mode=mode, generator=seed())
        assert not torch.allclose(said(model, SQUARES), before, atol=1e-4)
        some.remove()
        some.remove()
        assert torch.equal(said(model, SQUARES), before) and [p.requires_grad for p in model.parameters()] == flags
        assert not any(part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("name", SQUARE_MODELS)
@pytest.mark.parametrize("mode", ["shallow", "deep", "shared"])
def test_one_more_and_never_growing(name, mode):
    model = seeded(SQUARE_MODELS[name])
    tokens = lengths(model, SQUARES)
    add_prompts(model, num_prompts=P, mode=mode)
    assert lengths(model, SQUARES) == [n + P for n in tokens]


def test_tokens_behind_the_blocks_are_the_models_own():
    model = vit()
    before = model(IMAGES, output_hidden_states=True)
    add_prompts(model, num_prompts=P)
    found = model(IMAGES, output_hidden_states=True)
    assert [h.shape for h in found.hidden_states] == [h.shape for h in before.hidden_states] == [(2, 1 + PATCHES, WIDTH)] * (N + 1)
    assert model.vit(IMAGES).last_hidden_state.shape == model.vit(IMAGES, return_dict=False)[0].shape == (2, 1 + PATCHES, WIDTH)


@pytest.mark.parametrize("mode", ["shallow", "deep"])
def test_the_order_of_prompts_means_nothing(mode):
    model = vit()
    prompts = add_prompts(model, num_prompts=P, mode=mode, generator=seed())
    before = said(model, IMAGES)
    with torch.no_grad():
        prompts.values[0] = prompts.values[0, [2, 0, 3, 1]]
    torch.testing.assert_close(said(model, IMAGES), before, rtol=1e-5, atol=1e-6)


def test_deep_prompts_that_are_what_shallow_ones_became():
    model, image = vit(), IMAGES[:1]
    shallow, seen = add_prompts(model, num_prompts=P, mode="shallow", generator=seed()), []
    handles = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, 1 : 1 + P])) for block in vpt.transformer_blocks(model)]
    wanted = said(model, image)
    for handle in handles:
        handle.remove()
    shallow.remove()
    deep = add_prompts(model, num_prompts=P, init=torch.stack(seen).detach())
    torch.testing.assert_close(said(model, image), wanted)
    with torch.no_grad():
        deep.values[1, 0, :6] += 1  # the same for all channels would be taken out by the norm
    assert not torch.allclose(said(model, image), wanted, atol=1e-4)


@pytest.mark.parametrize("options", [dict(mode="shallow"), dict(mode="deep"), dict(location="add-1"), dict(mode="shallow", location="prepend-pixel")])
def test_an_image_does_not_see_the_others(options):
    model = vit()
    add_prompts(model, **options, generator=seed())
    torch.testing.assert_close(said(model, IMAGES), torch.cat([said(model, IMAGES[i : i + 1]) for i in (0, 1)]), rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- one prompt in attention


def test_one_prompt_moves_the_output_along_a_line():
    two = vpt.with_one_prompt(torch.zeros(2), torch.tensor([[1.0], [3.0]]), math.log(2), torch.tensor([8.0]))
    assert two.item() == pytest.approx(5.0, abs=1e-6)  # 2/4 of what was read, 2, and 2/4 of the prompt's 8
    scores, values, prompt = (torch.randn(shape, generator=seed(i), dtype=torch.float64) for i, shape in enumerate([(5,), (5, 3), (3,)]))
    before = scores.softmax(0) @ values
    for s in (-3.0, 0.0, 2.5):
        whole = torch.cat([scores, torch.tensor([s])]).softmax(0) @ torch.cat([values, prompt[None]])
        found = vpt.with_one_prompt(scores, values, s, prompt)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(torch.linalg.cross(found - before, prompt - before), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(vpt.with_one_prompt(scores, values, -math.inf, prompt), before)
    torch.testing.assert_close(vpt.with_one_prompt(scores, values, 1e4, prompt), prompt)
    assert isinstance(vpt.with_one_prompt([0.0, 0.0], [[1.0], [3.0]], 0, [2.0]), np.ndarray)


@pytest.mark.parametrize("options", [dict(mode="shallow"), dict(mode="deep"), dict(mode="deep", last=1), dict(mode="deep", first=1)])
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_strength_is_a_weight_on_the_prompts_keys(options, kind):
    model = vit()
    model.set_attn_implementation(kind)
    before = said(model, IMAGES)
    prompts = add_prompts(model, num_prompts=1, **options, generator=seed())
    whole = said(model, IMAGES)
    prompts.strength = 0
    torch.testing.assert_close(said(model, IMAGES), before, rtol=1e-5, atol=1e-6)
    prompts.strength = 1
    assert torch.equal(said(model, IMAGES), whole)
    prompts.strength = 2.0
    double = said(model, IMAGES)
    twin = prompts.values.detach().repeat(1, 2, 1)
    prompts.remove()
    add_prompts(model, **options, num_prompts=2, init=twin if options["mode"] == "deep" else twin[0])  # the same prompt twice weighs twice
    torch.testing.assert_close(said(model, IMAGES), double, rtol=1e-4, atol=1e-5)


def test_masks_of_the_model_still_hold():
    model = vit()
    mask = torch.ones(2, 1 + PATCHES, dtype=torch.bool)
    mask[:, -2:] = False
    add_prompts(model, num_prompts=P, generator=seed())
    changed = IMAGES.clone()
    changed[:, :, 4:, 4:] = 7.0  # the last two patches
    assert not torch.allclose(said(model, changed), said(model, IMAGES), atol=1e-3)
    torch.testing.assert_close(model(changed, attention_mask=mask).logits, model(IMAGES, attention_mask=mask).logits)


def test_attention_of_the_class_token():
    model = vit()
    prompts = add_prompts(model, num_prompts=P, first=2, after="drop", generator=seed())
    found = class_attention(model, prompts, IMAGES)
    assert found.to_cls.shape == (2, N) and found.to_prompts.shape == (2, N, P) and found.to_patches.shape == (2, N, PATCHES)
    torch.testing.assert_close(found.to_cls + found.to_prompts.sum(-1) + found.to_patches.sum(-1), torch.ones(2, N))
    assert (found.to_prompts[:, :2] > 0).all() and (found.to_prompts[:, 2] == 0).all() and model.config._attn_implementation == "sdpa"
    layer, x = model.vit.layers[0], model.vit.embeddings(IMAGES)
    tokens = layer.layernorm_before(torch.cat([x[:, :1], prompts.tokens(0, 2), x[:, 1:]], 1))
    q, k = (part(tokens).view(2, -1, 2, WIDTH // 2).transpose(1, 2) for part in (layer.attention.q_proj, layer.attention.k_proj))
    rows = (q[:, :, :1] @ k.transpose(2, 3) / math.sqrt(WIDTH // 2)).softmax(-1)[:, :, 0].mean(1)
    torch.testing.assert_close(torch.cat([found.to_cls[:, :1], found.to_prompts[:, 0], found.to_patches[:, 0]], 1), rows)


# ----------------------------------------------------------------------------------------------------------------------- what is trained


def test_gradients_reach_prompts_and_head_only():
    model = vit()
    prompts = add_prompts(model, num_prompts=P, generator=seed())
    seen = []
    model.vit.layers[1].register_forward_hook(lambda _, __, out: seen.append(out.detach().clone()))
    said(model, IMAGES).square().sum().backward()
    assert all((p.grad is not None) == name.startswith("classifier.") for name, p in model.named_parameters())
    assert (prompts.values.grad.abs().amax((1, 2)) > 0).all()  # the last block's too: they are keys and values for the class token
    before = said(model, IMAGES)
    with torch.no_grad():
        prompts.values[2, 0, :6] += 1
    assert not torch.allclose(said(model, IMAGES), before, atol=1e-3) and torch.equal(seen[-1], seen[0])


def test_some_steps_change_prompts_and_leave_the_backbone():
    model = vit(**DROPS)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not name.startswith("classifier.")}
    prompts = add_prompts(model, num_prompts=P, dropout=0.1, projection=7, generator=seed())
    start = {name: p.detach().clone() for name, p in prompts.named_parameters()}
    optimizer = torch.optim.SGD([*prompts.parameters(), *model.classifier.parameters()], lr=0.5, momentum=0.9)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(said(model, IMAGES), torch.tensor([0, 3])).backward()
        optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert not any(torch.equal(p, start[name]) for name, p in prompts.named_parameters())


def test_published_counts():
    assert vpt.trainable_numbers(12, 50, 768) == 460_800 and vpt.trainable_numbers(12, 50, 768, mode="shallow") == 38_400
    assert vpt.trainable_numbers(12, 100, 768, classes=6) == 926_214 and vpt.trainable_numbers(4, 8, 64, classes=10) == 2_698
    assert vpt.trainable_numbers(12, 100, 768, classes=10) == 929_290  # eurosat in the released notebook
    assert vpt.trainable_numbers(12, 5, 768, classes=397) == 351_373  # sun397
    assert vpt.trainable_numbers(12, 50, 768, mode="shared") == 38_400
    model = vit()
    for mode in ("deep", "shallow", "shared"):
        prompts = add_prompts(model, num_prompts=P, mode=mode)
        count = sum(p.numel() for p in [*prompts.parameters(), *model.classifier.parameters()])
        assert count == vpt.trainable_numbers(N, P, WIDTH, mode=mode, classes=CLASSES)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == CLASSES * (WIDTH + 1)
        prompts.remove()


PUBLISHED = {"B/16": (768, 12, 12, 3072, 16, 85_798_656), "L/16": (1024, 24, 16, 4096, 16, 303_301_632), "H/14": (1280, 32, 16, 5120, 14, 630_764_800)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_vits_without_weights(name):
    width, layers, heads, inner, patch, total = PUBLISHED[name]
    config = transformers.ViTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner, patch_size=patch, image_size=224, num_labels=100
    )
    with torch.device("meta"):
        model = transformers.ViTForImageClassification(config)
    prompts = add_prompts(model, num_prompts=50)
    trained = sum(p.numel() for p in prompts.parameters())
    assert trained == layers * 50 * width and sum(p.numel() for p in model.vit.parameters()) == total and prompts.values.is_meta
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 100 * (width + 1)
    assert trained / total < 0.01
    if name == "B/16":
        assert trained == 460_800 and f"{trained / total:.2%}" == "0.54%"


def test_published_swin_without_weights():
    config = transformers.SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=7, image_size=224)
    with torch.device("meta"):
        model = transformers.SwinModel(config)
    prompts = add_prompts(model, num_prompts=50)
    assert sum(p.numel() for p in model.parameters()) == 86_743_224
    assert [tuple(v.shape) for v in prompts.values][::23] == [(50, 128), (50, 1024)]
    assert sum(p.numel() for p in prompts.parameters()) == 50 * (2 * 128 + 2 * 256 + 18 * 512 + 2 * 1024)


def test_where_prompts_start():
    assert vpt.init_bound(16, 768) == 0.0625 and vpt.init_bound(8, 64) == pytest.approx(0.153, abs=5e-4)
    assert vpt.init_bound(16, 1024) == pytest.approx(0.05786, abs=5e-6) and vpt.init_bound(14, 1280) == pytest.approx(0.05667, abs=5e-5)
    bound = vpt.init_bound(4, WIDTH)
    values = add_prompts(vit(), num_prompts=200, generator=seed()).values.detach()
    assert bound * 0.99 < values.abs().max().item() <= bound and abs(values.mean().item()) < 0.01
    assert torch.equal(values, add_prompts(vit(), num_prompts=200, generator=seed()).values)
    narrow = add_prompts(vit(), num_prompts=50, projection=2, generator=seed())
    assert narrow.values.abs().max() > 0.98 * vpt.init_bound(4, 2) > bound and narrow.values.shape == (N, 50, 2)


def test_rows_to_start_from():
    model, labels = vit(), torch.tensor([1, 0, 1, 0, 2])
    images = torch.rand(5, 3, 8, 12, generator=seed())
    final, inputs, outputs = (vpt.class_tokens(model, images, which=which) for which in ("final", "inputs", "outputs"))
    assert final.shape == (5, WIDTH) and inputs.shape == outputs.shape == (N, 5, WIDTH)
    torch.testing.assert_close(inputs[1:], outputs[:-1])
    torch.testing.assert_close(model.classifier(final), said(model, images))
    torch.testing.assert_close(inputs[0, 0], inputs[0, 1])  # before the first block the class token has seen nothing
    torch.testing.assert_close(model.vit.layernorm(outputs[-1]), final)
    rows = vpt.class_rows(inputs, labels)
    torch.testing.assert_close(rows[:, 1], (inputs[:, 0] + inputs[:, 2]) / 2)
    deep = add_prompts(model, num_prompts=3, init=rows)
    assert torch.equal(deep.values.detach(), rows)
    deep.remove()
    same = add_prompts(model, num_prompts=2, init=vpt.class_rows(final, labels))
    torch.testing.assert_close(same.values.detach(), final[labels.argsort(stable=True)][:4].view(2, 2, -1).mean(1).expand(N, -1, -1))


def test_the_head_and_its_schedule():
    head = vpt.new_head(768, 100, generator=seed())
    assert torch.equal(head.bias, torch.full((100,), -math.log(99))) and vpt.new_head(3, 2).bias[0].item() == pytest.approx(-4.595, abs=5e-4)
    assert head.weight.std().item() == pytest.approx(math.sqrt(2 / 100), rel=0.02)  # fan-out
    assert [vpt.warmup_cosine(epoch) for epoch in (0, 10, 100)] == [0.0, 1.0, 0.0] and vpt.warmup_cosine(55) == pytest.approx(0.5)
    assert vpt.warmup_cosine(5) == 0.5 and vpt.warmup_cosine(2, warmup=0, epochs=8) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert vpt.warmup_cosine(3, warmup=3, epochs=3) == 1.0 and vpt.scaled_rate(50, 64) == 12.5


def test_projection_and_dropout():
    model = vit(**DROPS)
    prompts = add_prompts(model, num_prompts=P, dropout=0.25, projection=7, generator=seed())
    torch.testing.assert_close(prompts.eval().tokens(1)[0], prompts.values[1] @ prompts.project.weight.T + prompts.project.bias)
    assert prompts.project.weight.std().item() == pytest.approx(math.sqrt(2 / WIDTH), rel=0.25)
    model.train()
    torch.manual_seed(0)
    said(model, IMAGES)
    assert prompts.training and not any(part.training for part in model.vit.modules())
    tokens = prompts.tokens(0, 40)
    plain = prompts.project(prompts.values[0]).expand(40, -1, -1)
    off = tokens == 0
    assert abs(float(off.double().mean()) - 0.25) < 0.05 and not torch.equal(off[0], off[1])  # another mask for each image
    torch.testing.assert_close(tokens[~off], (plain / 0.75)[~off])
    model.eval()
    assert torch.equal(said(model, IMAGES), said(model, IMAGES)) and not prompts.training


def test_train_mode_changes_nothing_but_prompt_dropout():
    model = vit(**DROPS)
    prompts = add_prompts(model, num_prompts=P, generator=seed())
    still = said(model, IMAGES)
    model.train()
    assert torch.equal(said(model, IMAGES), still) and model.training and model.classifier.training
    model.vit.train()
    assert torch.equal(model.vit(IMAGES).last_hidden_state, model.vit(IMAGES).last_hidden_state)
    prompts.remove()
    model.train()
    assert not torch.equal(said(model, IMAGES), said(model, IMAGES))  # a plain model again, with its dropout


# ------------------------------------------------------------------------------------------------------------------ depth and locations


def test_first_and_last_blocks():
    model, whole = vit(), 1 + P + PATCHES
    for options, wanted in (
        (dict(first=2), [whole, whole, whole]), (dict(first=2, after="drop"), [whole, whole, 1 + PATCHES]), (dict(last=2), [1 + PATCHES, whole, whole]),
        (dict(last=N), [whole] * N), (dict(first=N, after="drop"), [whole] * N),
    ):  # fmt: skip
        prompts = add_prompts(model, num_prompts=P, **options)
        assert lengths(model, IMAGES) == wanted and len(prompts.values) == options.get("first", options.get("last"))
        prompts.remove()
    every = add_prompts(model, num_prompts=P, generator=seed())
    wanted = said(model, IMAGES)
    every.remove()
    for options in (dict(first=N), dict(last=N)):
        prompts = add_prompts(model, num_prompts=P, **options, generator=seed())
        assert torch.equal(said(model, IMAGES), wanted)
        prompts.remove()
    one = add_prompts(model, num_prompts=P, first=1, generator=seed())
    flowing = said(model, IMAGES)
    one.remove()
    add_prompts(model, num_prompts=P, mode="shallow", generator=seed())
    assert torch.equal(said(model, IMAGES), flowing)  # in the first block only and flowing on is shallow


def test_the_official_slip_deletes_patches():
    model = vit()
    wrong = add_prompts(model, num_prompts=P, last=2, at_first="replace", generator=seed())
    assert lengths(model, IMAGES) == [1 + PATCHES] * N  # no longer by the prompts
    changed = IMAGES.clone()
    changed[:, :, 4:, :4] = 5.0  # patch 4 of 6, which is deleted behind the first block
    model.vit.layers[0].forward = _Same().forward  # with the first block out of the way, nothing of it was seen before
    seen = said(model, IMAGES)
    assert torch.equal(said(model, changed), seen)
    wrong.remove()


class _Same(nn.Module):
    def forward(self, hidden_states, *_, **__):
        return hidden_states


def test_added_vectors():
    model = vit()
    before = said(model, IMAGES)
    for mode in ("shallow", "deep"):
        for location, rows in (("add", 1 + PATCHES), ("add-1", 1)):
            prompts = add_prompts(model, location=location, mode=mode, init="zeros")
            assert torch.equal(said(model, IMAGES), before) and prompts.values.shape == (N if mode == "deep" else 1, rows, WIDTH)
            assert lengths(model, IMAGES) == [1 + PATCHES] * N
            prompts.remove()
    zeros = add_prompts(model, num_prompts=P, init="zeros")  # a zero token still has a norm's bias, a key and a value
    assert not torch.allclose(said(model, IMAGES), before, atol=1e-4)
    zeros.remove()
    added = add_prompts(model, location="add", mode="shallow", generator=seed())
    with torch.no_grad():
        model.vit.embeddings.position_embeddings += added.values  # adding to the first block's input is moving the positions
    found = said(model, IMAGES)
    added.remove()
    with torch.no_grad():
        model.vit.embeddings.position_embeddings += added.values
    torch.testing.assert_close(said(model, IMAGES), found)


def test_prompts_of_pixels_pass_the_patch_embedding():
    model = vit()
    prompts = add_prompts(model, num_prompts=P, mode="shallow", location="prepend-pixel", generator=seed())
    assert prompts.values.shape == (1, 3, 4, 4 * P)
    conv = model.vit.embeddings.patch_embeddings.projection
    for i in range(P):
        torch.testing.assert_close(prompts.tokens(0)[0, i], conv(prompts.values[..., 4 * i : 4 * i + 4])[0, :, 0, 0])
    found, latent = said(model, IMAGES), prompts.tokens(0)[0].detach()
    prompts.remove()
    add_prompts(model, num_prompts=P, mode="shallow", init=latent)
    torch.testing.assert_close(said(model, IMAGES), found)


@pytest.mark.parametrize(("init", "mean", "deviation"), [("gaussian", 0.0, 1.0), ("imagenet", (0.5 - 0.449) / 0.226, 12**-0.5 / 0.226), ("zeros", 0.0, 0.0)])
def test_pixels_may_start_otherwise(init, mean, deviation):
    values = add_prompts(vit(), num_prompts=60, mode="shallow", location="prepend-pixel", init=init, generator=seed()).values.detach()
    assert float(values.mean()) == pytest.approx(mean, abs=0.05) and float(values.std()) == pytest.approx(deviation, abs=0.05)


def test_channels_beside_the_picture():
    model = vit()
    before, conv = said(model, IMAGES), model.vit.embeddings.patch_embeddings.projection
    prompts = add_prompts(model, num_prompts=2, mode="shallow", location="concat-channel", generator=seed())
    assert prompts.values.shape == (1, 2, 8, 12) and prompts.weight.shape == (WIDTH, 5, 4, 4) and torch.equal(prompts.weight[:, :3], conv.weight)
    wide = nn.Conv2d(5, WIDTH, 4, 4)
    wide.load_state_dict({"weight": prompts.weight, "bias": prompts.bias})
    seen = []
    conv.register_forward_hook(lambda _, __, out: seen.append(out))
    said(model, IMAGES)
    torch.testing.assert_close(seen[0], wide(torch.cat([IMAGES, prompts.values.expand(2, -1, -1, -1)], 1)))
    with torch.no_grad():
        prompts.values.zero_()
    torch.testing.assert_close(said(model, IMAGES), before)
    said(model, IMAGES).sum().backward()
    assert prompts.weight.grad.abs().max() > 0 and conv.weight.grad is None


def test_a_border_around_the_picture():
    model = seeded(lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SQUARE, num_labels=CLASSES)))
    plain = copy.deepcopy(model)
    prompts = add_prompts(model, num_prompts=2, mode="shallow", location="pad", generator=seed())
    assert prompts.rows.shape == (1, 3, 4, 12) and prompts.columns.shape == (1, 3, 8, 4)
    found = said(model, SQUARES)
    whole = torch.zeros(2, 3, 12, 12)
    whole[:, :, :2], whole[:, :, -2:] = prompts.rows[:, :, :2], prompts.rows[:, :, 2:]
    whole[:, :, 2:-2, :2], whole[:, :, 2:-2, -2:], whole[:, :, 2:-2, 2:-2] = prompts.columns[..., :2], prompts.columns[..., 2:], SQUARES
    torch.testing.assert_close(found, plain(whole, interpolate_pos_encoding=True).logits)
    assert lengths(model, SQUARES) == [10] * N
    with pytest.raises(ValueError, match=r"pixel_values must be \(B, 3, 8, 8\), got shape \(2, 3, 8, 12\)"):
        said(model, IMAGES)


@pytest.mark.parametrize("location", ["pad", "concat-channel"])
def test_convnets_have_prompts_in_the_picture(location):
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[8, 12], depths=[1, 1], num_labels=CLASSES)
    model = seeded(lambda: transformers.ResNetForImageClassification(config))
    model.config.image_size = 16
    images = torch.rand(2, 3, 16, 16, generator=seed())
    before = model(images).logits
    prompts = add_prompts(model, num_prompts=3, mode="shallow", location=location, generator=seed())
    model.train()
    assert model(images).logits.shape == (2, CLASSES) and not torch.allclose(model(images).logits, before)
    assert torch.equal(model(images).logits, model(images).logits)  # batch norm stays as it is
    prompts.remove()
    model.eval()
    torch.testing.assert_close(model(images).logits, before)


def test_what_the_head_reads():
    model = vit()
    head, tokens = model.classifier, torch.arange(2 * 11 * WIDTH, dtype=torch.float32).view(2, 11, WIDTH)
    torch.testing.assert_close(vpt.pooled(tokens, P, "all"), tokens[:, 1:].mean(1))
    torch.testing.assert_close(vpt.pooled(tokens, P, "prompts"), tokens[:, 1:5].mean(1))
    assert torch.equal(vpt.pooled(tokens, P), tokens[:, 0]) and isinstance(vpt.pooled(tokens.numpy(), P, "patches"), np.ndarray)
    for pooling in ("cls", "patches", "prompts", "all"):
        prompts = add_prompts(model, num_prompts=P, pooling=pooling, generator=seed())
        seen = []
        handle = model.vit.layernorm.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        found = said(model, IMAGES)
        handle.remove()
        torch.testing.assert_close(found, head(vpt.pooled(seen[0], P, pooling)))
        prompts.remove()


# ------------------------------------------------------------------------------------------------------------------------------ Swin


@pytest.mark.parametrize("mode", ["shallow", "deep"])
@torch.no_grad()  # with gradients, torch picks its way through attention by what asks for them, and rounds otherwise
def test_every_window_sees_its_own_pictures_prompts(mode):
    model, images = swin(), torch.rand(3, 3, 16, 16, generator=seed())
    before = said(model, images)
    for order, alone in (("image", True), ("official", False)):  # deep ones are mixed only in what the last block gives out, which counts in the final mean
        prompts = add_prompts(model, num_prompts=P, mode=mode, window_order=order, generator=seed())
        together, one = said(model, images), torch.cat([said(model, images[i : i + 1]) for i in range(3)])
        assert torch.allclose(together, one, atol=1e-5) == alone and not torch.allclose(together, before, atol=1e-3)
        assert model.swin(images).last_hidden_state.shape == (3, 16, 16)
        prompts.remove()
        assert torch.equal(said(model, images), before)
    none = add_prompts(model, num_prompts=0, mode=mode)
    assert torch.equal(said(model, images), before)
    none.remove()


def test_windows_in_and_out():
    prompts = torch.arange(6.0).view(3, 2, 1)
    assert vpt.into_windows(prompts, 2)[:, 0, 0].tolist() == [0, 0, 2, 2, 4, 4] and vpt.into_windows(prompts, 2, "official")[:, 0, 0].tolist() == [0, 2, 4] * 2
    for order in ("image", "official"):
        assert torch.equal(vpt.out_of_windows(vpt.into_windows(prompts, 4, order), 4, order), prompts)
    assert vpt.out_of_windows(torch.tensor([1.0, 3.0, 10.0, 20.0]).view(4, 1, 1), 2)[:, 0, 0].tolist() == [2, 15]


def test_a_swin_of_one_window_is_a_transformer_with_prompts():
    """One window and no shift: the block is plain attention over [prompts, patches] with a bias between patches, which is here written out."""
    model = swin(depths=[1], num_heads=[2], window_size=8)
    images, block = torch.rand(2, 3, 16, 16, generator=seed()), model.swin.encoder.layers[0].blocks[0]
    prompts = add_prompts(model, num_prompts=P, mode="shallow", generator=seed())
    found = said(model, images)
    prompts.remove()
    x = torch.cat([prompts.values[0].expand(2, -1, -1), model.swin.embeddings(images)[0]], 1)
    y, attention = block.layernorm_before(x), block.attention
    q, k, v = (part(y).view(2, -1, 2, 4).transpose(1, 2) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    bias = torch.zeros(1, 2, P + 64, P + 64)
    bias[:, :, P:, P:] = attention.relative_position_bias()
    mixed = ((q @ k.transpose(2, 3) / 2 + bias).softmax(-1) @ v).transpose(1, 2).reshape(2, -1, 8)
    x = x + attention.o_proj(mixed)
    x = x + block.mlp(block.layernorm_after(x))
    torch.testing.assert_close(found, model.classifier(model.swin.layernorm(x).mean(1)))


def test_merging_repeats_prompts_four_times():
    model = swin()
    prompts = add_prompts(model, num_prompts=P, mode="shallow", generator=seed())
    merging, seen = model.swin.encoder.layers[0].downsample, []
    merging.reduction.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    said(model, torch.rand(2, 3, 16, 16, generator=seed()))
    patches, tiled = seen
    assert patches[0].shape == (2, 16, 32) and tiled[0].shape == (2, P, 32) and tiled[1].shape == (2, P, 16)
    normed = tiled[0].view(2, P, 4, 8)
    assert (normed - merging.norm.bias.view(4, 8)).std(2).max() < 1e-5  # four equal parts, up to the norm's own weights
    assert len(prompts.values) == 1


def test_gradients_in_a_swin():
    model = swin(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    prompts = add_prompts(model, num_prompts=P, generator=seed())
    model.train()
    images = torch.rand(2, 3, 16, 16, generator=seed())
    assert torch.equal(said(model, images), said(model, images))
    said(model, images).square().sum().backward()
    assert all(value.grad.abs().max() > 0 for value in prompts.values) and all(p.grad is None for p in model.swin.parameters())


# --------------------------------------------------------------------------------------------------------------------------- adapters


def test_adapters_behind_each_mlp():
    model = vit()
    before = said(model, IMAGES)
    adapters = add_adapters(model, reduction=3, generator=seed())
    assert torch.equal(said(model, IMAGES), before)
    assert sum(p.numel() for p in adapters.parameters()) == N * (2 * WIDTH * 4 + 4 + WIDTH)
    with torch.no_grad():
        for up in adapters.up:
            nn.init.normal_(up.weight, generator=seed(1))
    block, seen = model.vit.layers[0], []
    block.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    said(model, IMAGES)
    x = seen[0][0]
    x = x + block.attention(block.layernorm_before(x))[0]
    y = block.mlp.fc2(block.mlp.activation_fn(block.mlp.fc1(block.layernorm_after(x))))
    y = y + adapters.up[0](nn.functional.gelu(adapters.down[0](y)))
    torch.testing.assert_close(seen[0][1], x + y)


@pytest.mark.parametrize("init", ["proper", "official"])
def test_the_official_adapter_learns_one_bias(init):
    model = vit()
    adapters = add_adapters(model, reduction=3, init=init, generator=seed())
    start = copy.deepcopy(adapters.state_dict())
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=0.01, weight_decay=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(said(model, IMAGES), torch.tensor([0, 3])).backward()
        optimizer.step()
    moved = {name for name, value in adapters.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == ({f"up.{i}.bias" for i in range(N)} if init == "official" else set(start))


# ------------------------------------------------------------------------------------------------------------------ living with others


def test_a_copy_has_prompts_of_its_own():
    model = vit()
    prompts = add_prompts(model, num_prompts=P, generator=seed())
    twin = copy.deepcopy(model)
    before = said(twin, IMAGES)
    with torch.no_grad():
        prompts.values.zero_()
    assert torch.equal(said(twin, IMAGES), before) and not torch.allclose(said(model, IMAGES), before)


def test_tasks_are_swapped_by_their_state():
    model = vit()
    prompts, states = add_prompts(model, num_prompts=P), {}
    for task in range(2):
        nn.init.normal_(prompts.values, generator=seed(task))
        states[task] = (copy.deepcopy(prompts.state_dict()), said(model, IMAGES))
    for task in (0, 1, 0):
        prompts.load_state_dict(states[task][0])
        assert torch.equal(said(model, IMAGES), states[task][1])
    assert set(states[0][0]) == {"values"}


@pytest.mark.parametrize("options", [dict(mode="deep", dropout=0.1, projection=7), dict(mode="shallow", location="prepend-pixel"), dict(location="add-1")])
def test_on_an_accelerator(options):
    model = vit()
    prompts = add_prompts(model, **options, generator=seed())
    if isinstance(prompts, vpt.Prompts) and prompts.num_prompts:
        prompts.strength = 0.5
    wanted = said(model, IMAGES).detach()
    with Accelerator():
        model.to(DEVICE), prompts.to(DEVICE)
        found = near(said(model, IMAGES.to(DEVICE)).detach())
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_half_precision_and_checkpointing():
    model = vit().bfloat16()
    prompts = add_prompts(model, num_prompts=P)
    assert prompts.values.dtype == torch.bfloat16 and said(model, IMAGES.bfloat16()).dtype == torch.bfloat16
    prompts.float()  # master weights
    said(model, IMAGES.bfloat16()).float().sum().backward()
    assert prompts.values.grad.dtype == torch.float32 and prompts.values.grad.abs().max() > 0
    prompts.remove()
    model = vit()
    prompts = add_prompts(model, num_prompts=P, generator=seed())
    said(model, IMAGES).sum().backward()
    wanted, prompts.values.grad = prompts.values.grad.clone(), None
    model.activation_checkpointing_enable()
    model.train()
    said(model, IMAGES).sum().backward()
    torch.testing.assert_close(prompts.values.grad, wanted)


def test_beside_adapters_and_parametrisations():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, weight):
            return self.scale * weight

    model = vit()
    nn.utils.parametrize.register_parametrization(model.vit.layers[0].mlp.fc1, "weight", Twice())
    adapters, prompts = add_adapters(model, reduction=3), add_prompts(model, num_prompts=P)
    said(model, IMAGES).sum().backward()
    scale = model.vit.layers[0].mlp.fc1.parametrizations.weight
    assert scale[0].scale.grad.abs() > 0 and scale.original.grad is None
    assert prompts.values.grad.abs().max() > 0 and adapters.up[0].weight.grad.abs().max() > 0
    adapters.remove()
    assert not model.vit.layers[1].mlp.fc1.weight.requires_grad  # the prompts are still there
    prompts.remove()
    assert all(p.requires_grad for p in model.parameters())


# ---------------------------------------------------------------------------------------------------------------------------- refusals


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)


REFUSED = {
    "no blocks": (lambda: add_prompts(Plain()), r"model must have transformer blocks \(ViTLayer.*\), got Plain, which has none of these"),
    "no blocks for adapters": (lambda: add_adapters(Plain()), "model must have transformer blocks"),
    "no convolution": (lambda: add_prompts(Plain(), mode="shallow", location="pad"), "model must begin with a convolution over pictures, got Plain"),
    "negative": (lambda: add_prompts(vit(), num_prompts=-1), "num_prompts must be an integer >= 0, got -1"),
    "too few rows": (lambda: add_prompts(vit(), num_prompts=3, init=np.zeros((2, WIDTH))), "init must have a row for each of num_prompts = 3, got 2 rows"),
    "another width": (lambda: add_prompts(vit(), num_prompts=2, init=np.zeros((2, 5))), r"init must be .* numbers \(rows, 12\), got shape \(2, 5\)"),
    "another depth": (lambda: add_prompts(vit(), num_prompts=2, init=np.zeros((2, 2, WIDTH))), r"init must be .* \(3, rows, 12\), got shape \(2, 2, 12\)"),
    "NaN": (lambda: add_prompts(vit(), num_prompts=1, init=np.full((1, WIDTH), np.nan)), "init must be finite .*, got NaN in it"),
    "deep pixels": (lambda: add_prompts(vit(), location="prepend-pixel"), "mode must be 'shallow' for location 'prepend-pixel': pixels come in once"),
    "deep border": (lambda: add_prompts(vit(), location="pad"), "mode must be 'shallow' for location 'pad'"),
    "not divisible": (
        lambda: add_prompts(vit(image_size=8), num_prompts=1, location="pad", mode="shallow"),
        "num_prompts must make H \\+ 2 p a multiple of the patch size 4, got 1 for pictures of 8 x 8",
    ),
    "not square": (lambda: add_prompts(vit(), location="pad", mode="shallow"), "model must read square pictures for location 'pad'"),
    "last of too many": (lambda: add_prompts(vit(), last=N + 1), "last must be an integer in 1..3, got 4"),
    "first and last": (lambda: add_prompts(vit(), first=1, last=1), "last must be None for prompts in the first blocks only, got 1"),
    "first of shallow": (lambda: add_prompts(vit(), mode="shallow", first=1), "first must be None for shallow prompts, which come in once, got 1"),
    "drop what stays": (lambda: add_prompts(vit(), after="drop"), "after must be 'flow' for prompts that are not in the first blocks only, got 'drop'"),
    "slip elsewhere": (lambda: add_prompts(vit(), at_first="replace"), "at_first must be 'insert' for prompts that are not in the last blocks only"),
    "counted vectors": (lambda: add_prompts(vit(), location="add", num_prompts=3), "num_prompts must be None for location 'add', which itself says how many"),
    "nothing to pool": (lambda: add_prompts(vit(), num_prompts=0, pooling="prompts"), "pooling must be 'cls', 'patches' or None where no prompts are"),
    "no head": (lambda: add_prompts(vit().vit, pooling="all"), "pooling must be None for a model without .classifier, got 'all' for ViTModel"),
    "another head": (
        lambda: add_prompts(seeded(SQUARE_MODELS["DINOv2"]), pooling="cls"), "pooling must be None for a head that reads 24 numbers, not the width 12",
    ),
    "two towers": (
        lambda: add_prompts(transformers.CLIPModel(transformers.CLIPConfig(vision_config=SQUARE, text_config=dict(num_hidden_layers=1)))),
        "model must have one list of blocks, got CLIPModel with 2: give the tower that sees",
    ),
    "shared in a Swin": (lambda: add_prompts(swin(), mode="shared"), "mode must be 'shallow' or 'deep' for a Swin"),
    "added in a Swin": (lambda: add_prompts(swin(), location="add"), "location must be 'prepend' for a Swin, got 'add'"),
    "windows in a ViT": (lambda: add_prompts(vit(), window_order="official"), "window_order must be 'image' for a model without windows"),
    "a wide adapter": (lambda: add_adapters(vit(), reduction=13), "reduction must be an integer in 1..12, got 13"),
    "epoch": (lambda: vpt.warmup_cosine(101), r"epoch must be a finite number in \[0, 100\], got 101"),
    "strength": (lambda: setattr(add_prompts(vit()), "strength", -0.1), "strength must be a finite number >= 0, got -0.1"),
    "a copy's prompts": (lambda: class_attention(vit(), add_prompts(vit()), IMAGES), "prompts must be what add_prompts gave for this model"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name):
    call, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("location", ["prepend", "concat-channel"])
def test_a_second_set_is_refused_and_a_refusal_changes_nothing(location):
    model = vit()
    mode = "deep" if location == "prepend" else "shallow"
    prompts = add_prompts(model, location=location, mode=mode)
    with pytest.raises(ValueError, match="model must be without prompts, got one that has some"):
        add_prompts(model)
    prompts.remove()
    before = said(model, IMAGES)
    with pytest.raises(ValueError, match="init must"):
        add_prompts(model, init=np.zeros((1, 1)))
    assert torch.equal(said(model, IMAGES), before) and all(p.requires_grad for p in model.parameters())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())
