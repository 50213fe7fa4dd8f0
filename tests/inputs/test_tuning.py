"""Odd and wrong inputs for the bench of tunings."""

import copy
import functools
import re

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from helpers.measures import tuning
from helpers.methods.scale_and_shift import add_scale_shift
from tests.inputs.harness import Trial, array, check, choice, coverage, instance, integer, optional, real


@functools.cache
def tiny() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    ).eval()


@functools.cache
def tuned() -> tuning.Tuned:
    return tuning.prepare(tiny(), "linear", classes=3)


IMAGES, LABELS = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3
MODEL = instance(tiny, wrong=(torch.nn.Linear(2, 2), ViTModel(tiny().config)))
TUNED = instance(tuned, wrong=(tiny(),))
FEW = dict(classes=integer(3, low=3), steps=integer(2, low=1), batch=integer(4, low=2), seed=integer(1, low=0))
TOLD = {"images": ("labels",), "labels": ("images",), "classes": ("labels",)}


def says(tuned: tuning.Tuned, images=IMAGES):
    return tuning.logits(tuned, images)


def searched(**arguments):
    return tuning.search(rates=(0.01,), **arguments)


def grouped(**arguments):
    head, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 2)
    named = {"head": head.weight, "other": other.weight}
    return [(group["lr"], group["weight_decay"]) for group in tuning.groups(named, head, **arguments)]


TRIALS = [
    Trial(tuning.prepare, slow=0.5, after=says, backbone=MODEL, method=choice("linear"), classes=integer(3, low=2, high=None, either=(10**9,)),
          seed=integer(1, low=0)),
    Trial(tuning.prepare, trial_id="prompts", slow=0.5, after=says, backbone=MODEL, method=choice("VPT-shallow"), seed=integer(1, low=0),
          classes=integer(3, low=2, high=None, either=(10**9,)), num_prompts=optional(integer(2, low=1))),
    Trial(tuning.fit, slow=0.5, after=says, backbone=MODEL, method=choice("linear"), rate=real(0.01, low=0, above=True), decay=real(0.1, low=0), **FEW,
          head_rate=real(0.01, low=0, above=True),
          images=array(IMAGES, low=0, high=1, tolerance=1e-4), labels=array(LABELS, low=0, high=2), names=TOLD),
    Trial(searched, public="search", trial_id="search", slow=0.5, backbone=MODEL, method=choice("linear"), **FEW,
          images=array(IMAGES, low=0, high=1, tolerance=1e-4), labels=array(LABELS, low=0, high=2),
          validation_images=array(IMAGES, low=0, high=1, tolerance=1e-4), validation_labels=array(LABELS, low=0, high=2),
          names=TOLD | {"validation_images": ("validation_labels",), "validation_labels": ("validation_images",), "classes": ("labels", "validation_labels")}),
    Trial(tuning.logits, tuned=TUNED, images=array(IMAGES, low=0, high=1, free=(0,), grow=(0,))),
    Trial(tuning.accuracy, tuned=TUNED, images=array(IMAGES, low=0, high=1), labels=array(LABELS, low=0, high=2), names=TOLD),
    Trial(tuning.batches, count=integer(7, low=1), steps=integer(3, low=1, either=(10**13,)), batch=integer(4, low=1), seed=integer(1, low=0)),
    Trial(grouped, public="groups", trial_id="groups", rate=real(0.1, low=0, above=True), decay=real(0.1, low=0),
          head_rate=real(0.2, low=0, above=True)),
    Trial(tuning.rate_factor, step=integer(3, low=0, high=9), steps=integer(10, low=4), warm_up=real(0.2, low=0, high=1, below=True),
          names={"steps": ("step",)}),
    Trial(tuning.held_out, labels=array(LABELS, low=0, free=(0,), grow=(0,)), count=integer(1, low=1, high=2), seed=integer(1, low=0)),
    Trial(tuning.bytes_a_task, tuned=TUNED),
    Trial(tuning.storage, follows="tasks", tasks=array(torch.tensor([1, 2, 5]), low=0, free=(0,), grow=(0,)), a_task=real(10.0, low=0),
          backbone=real(100.0, low=0)),
    Trial(tuning.time_ratio, trial_id="time_ratio", after=lambda ratio: None, tuned=TUNED, backbone=MODEL, rounds=integer(1, low=1),
          images=array(IMAGES, low=0, high=1, free=(0,), grow=(0,))),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(tuning, TRIALS) == set()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (dict(labels=torch.full((9,), 2)), "labels must show at least two classes to learn from, got class 2 alone"),
        (dict(labels=LABELS + 1), "labels must be whole numbers (N,) in [0, 2], got values from 1 to 3"),
        (dict(method="LoRa"), "method must be one of 'linear', "),
        (dict(images=2 * IMAGES - 1), "images must be numbers (N, 3, 8, 8) in [0, 1], got values from -"),
        (dict(images=IMAGES[:, :, :4]), "images must be numbers (N, 3, 8, 8), got shape (9, 3, 4, 8)"),
        (dict(classes=1), "classes must be a whole number >= 2, got 1"),
        (dict(rate=0), "rate must be a number > 0, got 0"),
    ],
)
def test_one_clear_sentence_before_any_training(changed, sentence, monkeypatch):
    monkeypatch.setattr(tuning, "_train", lambda *_: pytest.fail("trained"))
    arguments = dict(backbone=tiny(), method="SSF", images=IMAGES, labels=LABELS, classes=3, rate=0.01) | changed
    with pytest.raises(ValueError, match=re.escape(sentence)):
        tuning.fit(**arguments)


def changed(change) -> ViTForImageClassification:
    model = copy.deepcopy(tiny())
    change(model)
    return model


NARROW = dict(image_size=8, patch_size=4, hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)


@pytest.mark.parametrize(
    ("method", "backbone", "sentence"),
    [
        ("linear", lambda: copy.deepcopy(tiny()).to("meta"), "backbone must have values, got parameters on the meta device"),
        ("linear", lambda: changed(lambda m: setattr(m.config, "return_dict", False)), "backbone must give its outputs by name, got one whose config has"),
        (
            "adapter",
            lambda: ViTForImageClassification(ViTConfig(**NARROW)),
            "backbone must be a model that adapter can be put on, got one of which that says: ",
        ),
        ("SSF", lambda: changed(add_scale_shift), "backbone must be a model that SSF can be put on, got one of which that says: model must carry no pairs yet"),
    ],
)
def test_backbones_that_cannot_be_tuned_are_named(method, backbone, sentence, monkeypatch):
    monkeypatch.setattr(tuning, "_train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=re.escape(sentence)):
        tuning.fit(backbone(), method, IMAGES, LABELS, classes=3, rate=0.01)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_training_where_gradients_are_off(mode):
    with mode(), pytest.raises(ValueError, match="fit must be called where gradients are on, got torch.no_grad"):
        tuning.fit(tiny(), "linear", IMAGES, LABELS, classes=3, rate=0.01)
    with mode(), pytest.raises(ValueError, match="search must be called where gradients are on"):
        tuning.search(tiny(), "linear", IMAGES, LABELS, IMAGES, LABELS, classes=3)


@pytest.mark.parametrize(("rates", "error"), [((), ValueError), ("0.1", TypeError), (0.1, TypeError), ((0.1, -1), ValueError), ((0.1, None), TypeError)])
def test_a_grid_is_a_list_of_numbers_above_zero(rates, error):
    with pytest.raises(error, match="rates must "):
        tuning.search(tiny(), "linear", IMAGES, LABELS, IMAGES, LABELS, classes=3, rates=rates)
