"""Odd and wrong inputs for every public function of visual_prompt_tuning."""

import numpy as np
import pytest
import torch
from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification

from helpers.methods import visual_prompt_tuning as vpt
from tests.inputs.harness import Kind, Trial, array, check, choice, coverage, fixed, generator, instance, integer, optional, real

RNG = np.random.default_rng(0)
IMAGES = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
TOKENS, LABELS = RNG.normal(size=(5, 7)).astype(np.float32), np.array([0, 2, 2, 1, 0])
SEQUENCE = RNG.normal(size=(2, 9, 5)).astype(np.float32)
COPIES = RNG.normal(size=(6, 3, 4)).astype(np.float32)


def vit(size=(8, 12)):
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=6, image_size=size, patch_size=4, num_labels=3)
    ).eval()


def swin():
    torch.manual_seed(0)
    return SwinForImageClassification(SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=3)).eval()


def prompted(**options):
    """What a model with prompts says: what is drawn at random is drawn by a seed of its own unless a generator is tried."""
    options = {"generator": torch.Generator().manual_seed(0), **options}
    model = options.pop("model") if "model" in options else vit()
    options |= {"after": options.pop("behind")} if "behind" in options else {}
    prompts = vpt.add_prompts(model, **options)
    if isinstance(prompts, vpt.Prompts):
        assert len(prompts.tokens(1 if options.get("last") else 0, 2)) == 2
    size = model.config.image_size if isinstance(model.config.image_size, tuple) else (model.config.image_size,) * 2
    return model(torch.linspace(-1, 1, 3 * size[0] * size[1]).view(1, 3, *size)).logits


def with_adapters(**options):
    model = options.pop("model")
    adapters = vpt.add_adapters(model, **options)
    return [p.detach() for p in adapters.parameters()], model(IMAGES).logits


def looked_at(**changes):
    model = vit()
    arguments = {"model": model, "prompts": vpt.add_prompts(model, num_prompts=3), "pixel_values": IMAGES} | changes
    return vpt.class_attention(**arguments)


def strong(tau):
    prompts = vpt.add_prompts(vit())
    prompts.strength = tau
    return prompts.strength


P = lambda: integer(3, low=0, either=[1])  # noqa: E731
TRIALS = [
    Trial(prompted, model=instance(vit, wrong=[torch.nn.Linear(2, 2)]), num_prompts=optional(P()), mode=choice("deep"), location=choice("prepend"),
          dropout=real(0.1, low=0, high=1), projection=optional(integer(4, low=1)), generator=generator(), public="add_prompts", slow=0.4),
    Trial(prompted, num_prompts=optional(P()), first=optional(integer(1, low=1, high=2)), behind=choice("drop"),
          names={"behind": ("after",)},
          public="add_prompts", trial_id="the first", slow=0.4),
    Trial(prompted, num_prompts=optional(P()), last=optional(integer(1, low=1, high=2)), public="add_prompts", trial_id="the last", slow=0.4),
    Trial(prompted, num_prompts=fixed(3), last=fixed(1), at_first=choice("replace"), pooling=optional(choice("patches")), public="add_prompts",
          trial_id="the slip", slow=0.4),
    Trial(prompted, num_prompts=fixed(2), init=optional(array(RNG.normal(size=(2, 8)).astype(np.float32), grow=(0,))), public="add_prompts", trial_id="rows",
          slow=0.4),
    Trial(prompted, num_prompts=fixed(2), init=optional(choice("zeros")), public="add_prompts", trial_id="a named start", slow=0.4),
    Trial(prompted, num_prompts=optional(integer(2, low=0)), mode=fixed("shallow"), location=fixed("concat-channel"), init=optional(choice("gaussian")),
          public="add_prompts", trial_id="channels", slow=0.4),
    Trial(prompted, model=fixed(lambda: vit((8, 8)), fresh=True), num_prompts=optional(integer(2, low=0)), mode=choice("shallow"), location=fixed("pad"),
          init=optional(choice("imagenet")), public="add_prompts", trial_id="a border", slow=0.4),
    Trial(prompted, model=fixed(swin, fresh=True), num_prompts=optional(P()), mode=choice("shallow"), window_order=choice("official"), public="add_prompts",
          trial_id="a Swin", slow=0.4),
    Trial(with_adapters, model=instance(vit, wrong=[torch.nn.Linear(2, 2)]), reduction=integer(2, low=1, high=8), init=choice("proper"),
          generator=generator(), public="add_adapters", slow=0.4),
    Trial(lambda pixel_values: looked_at(pixel_values=pixel_values), pixel_values=array(IMAGES, free=(0, 2, 3), torch_only=True, grow=(0, 2, 3)),
          public="class_attention", slow=0.4),
    Trial(lambda pixel_values, which: vpt.class_tokens(vit(), pixel_values, which=which), pixel_values=array(IMAGES, free=(0, 2, 3), torch_only=True,
          grow=(0, 2, 3)), which=choice("inputs"), public="class_tokens", slow=0.4),
    Trial(lambda model: vpt.class_tokens(model, IMAGES), model=instance(vit, wrong=[torch.nn.Linear(2, 2)]), public="class_tokens", trial_id="whose tokens"),
    Trial(lambda model: len(vpt.transformer_blocks(model)), model=instance(vit, wrong=[torch.nn.Linear(2, 2)]), public="transformer_blocks"),
    Trial(lambda model: len(list(vpt.Attached(model).parameters())), model=instance(vit), public="Attached"),
    Trial(lambda model: len(vpt.attached(model)), model=instance(vit), public="attached"),
    Trial(strong, tau=real(1.5, low=0), names={"tau": ("strength",)}, public="Prompts"),
    Trial(vpt.init_bound, patch_size=integer(16, low=1), width=integer(768, low=1)),
    Trial(vpt.trainable_numbers, layers=integer(12, low=1), num_prompts=integer(50, low=0), width=integer(768, low=1), mode=choice("shallow"),
          classes=integer(6, low=0)),
    Trial(vpt.with_one_prompt, scores=array(TOKENS[0], free=()), values=array(RNG.normal(size=(7, 3)).astype(np.float32), free=(), grow=()),
          prompt_score=Kind(lambda: 0.5, lambda: real(0.5).odd().filter(lambda odd: odd.words != "-inf")),  # which is a lawful limit
          prompt_value=array(RNG.normal(size=3).astype(np.float32)), names={"scores": ("values",), "values": ("prompt_value",)}, follows="values"),
    Trial(vpt.pooled, tokens=array(SEQUENCE, free=(0, 1, 2), grow=(0, 1, 2)), num_prompts=integer(3, low=0, high=8), pooling=choice("all"), follows="tokens"),
    Trial(vpt.new_head, width=integer(7, low=1), classes=integer(3, low=1), generator=generator(), after=lambda head: [head.weight, head.bias]),
    Trial(vpt.warmup_cosine, epoch=real(12, low=0, high=100), warmup=real(10, low=0, high=100), epochs=real(100, low=0, above=True),
          names={"epochs": ("warmup", "epoch")}),
    Trial(vpt.scaled_rate, base=real(2.5, low=0), batch=integer(64, low=1)),
    Trial(vpt.class_rows, tokens=array(TOKENS, free=(1,), grow=(1,)), labels=array(LABELS), names={"tokens": ("labels",)}),
    Trial(vpt.into_windows, prompts=array(COPIES, free=(0, 1, 2), grow=(0, 1, 2)), windows=integer(2, low=1), order=choice("official"), follows="prompts"),
    Trial(vpt.out_of_windows, prompts=array(COPIES, free=(1, 2), grow=(1, 2)), windows=integer(2, low=1), order=choice("official"), follows="prompts",
          names={"prompts": ("windows",)}),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(vpt, TRIALS) == {"Adapters", "PixelPrompts", "SwinPrompts"}  # which the doors make


@pytest.mark.parametrize("prompts", [3, None, "text", torch.nn.Linear(2, 2), len])
def test_attention_is_of_prompts_on_the_model(prompts):
    with pytest.raises(ValueError, match="prompts must be what add_prompts gave for this model"):
        vpt.class_attention(vit(), prompts, IMAGES)
