"""Odd and wrong inputs for every public function of token_labeling."""

import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from helpers.methods import token_labeling as tl
from tests.inputs.harness import (
    EITHER,
    SAME,
    WRONG,
    Kind,
    Odd,
    Thing,
    Trial,
    array,
    check,
    choice,
    coverage,
    flag,
    generator,
    instance,
    integer,
    optional,
    real,
    text,
)

RNG = np.random.default_rng(0)
PICTURES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SIZES = dict(image_size=8, patch_size=4, width=6, depth=1, heads=2, classes=3, stem_width=2)
MAPS = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
TOKENS = RNG.normal(size=(2, 6, 3)).astype(np.float32)
SHARES = np.array([[0.1, 0.2, 0.8, 0.9], [0.0, 0.3, 0.5, 1.0]], np.float32)
CELLS = np.array([[0.5, -1.0, 3.5, 2.5], [0.0, 0.0, 5.0, 4.0]], np.float32)
LOGITS, LABELS = RNG.normal(size=(2, 3)).astype(np.float32), np.array([[0.75, 0.25, 0.0], [0.125, 0.375, 0.5]], np.float32)
TOKEN_LABELS = np.abs(TOKENS) / np.abs(TOKENS).sum(2, keepdims=True)
MASKS, NAMED = np.array([[[0, 1, 1, 1], [0, 2, 1, 1]], [[0, 0, 1, 1], [0, 0, 0, 1]]]), np.array([[2, 0], [1, -1]])


def several(value: tuple, *, low: float | None = None, wrong=(), either=()) -> Kind:
    """A tuple of numbers; low: the least that each may be."""
    last = value[-1]
    bad = [None, "text", 2.5, Thing(), {}, {1: 2}, b"12", set(value), (), (*value[:-1], None), (*value[:-1], "1"), (*value[:-1], float("nan")),
           (*value[:-1], 1j), (*value[:-1], [last]), len, (one for one in value), value + (last,), value[:-1], *wrong]  # fmt: skip
    bad += [] if low is None else [(*value[:-1], low - 1), (low - 5, *value[1:])]
    odd = [Odd(one, repr(one)[:60], WRONG) for one in bad] + [Odd(one, repr(one), EITHER) for one in (np.array(value, dtype=object), *either)]
    odd += [Odd(list(value), "a list", SAME)]
    if all(isinstance(one, int) for one in value):
        odd += [Odd(tuple(np.int64(one) for one in value), "of numpy integers", SAME), Odd((*value[:-1], last + 0.5), "a fraction among them", WRONG)]
    return Kind(lambda: value, lambda: st.sampled_from(odd))


def logits(**options):
    return tl.LVViT(**SIZES | options).eval()(PICTURES).detach()


@lru_cache
def model():
    torch.manual_seed(0)
    return tl.LVViT(**SIZES).eval()


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.front = nn.Conv2d(3, 6, 4, 4), nn.Parameter(torch.ones(1, 2, 6))

    def forward(self, pictures):
        return torch.cat([self.front.expand(len(pictures), -1, -1), self.patches(pictures).flatten(2).transpose(1, 2)], 1)


def encoder():
    torch.manual_seed(0)
    return Encoder()


def two_heads(encoder, width, classes, grid, patches, prefix, **options):
    made = tl.WithTokenHead(encoder, width, classes, grid, patches=patches, prefix=prefix, **options).eval()
    return [made(PICTURES).detach(), made.outputs(PICTURES, (0, 0, 1, 1)).token_logits.detach()]


def mixed(patches, box, grid):
    module = patches
    with tl.mixing_patches(module, box, grid=grid):
        return module(torch.from_numpy(TOKENS))


def annotator():
    torch.manual_seed(0)
    return tl.Annotator(3, 2).eval()


def state():
    source = model()
    return {there: source.state_dict()[here] for here, there in tl.official_names(source).items()}


def stored(**changes):
    made = tl.store_maps(torch.from_numpy(MAPS), 2)
    return tl.StoredMaps(**made._asdict() | changes)


def numbers_of(found):
    return list(found[:2])  # a result without its number of classes


FOLDER = Path(tempfile.mkdtemp())
torch.save(state(), FOLDER / "weights.pth")
(FOLDER / "other.pth").write_text("no weights")
tl.save_maps(stored(), FOLDER / "maps.safetensors")
BAD_MAPS = [stored(num_classes=1), stored(num_classes="3"), stored(scores="text"), stored(classes=torch.zeros(2, 2, 4, 4, dtype=torch.int16)),
            stored(classes=stored().scores), stored(scores=stored().scores[:1]), stored(classes=torch.zeros_like(stored().classes))]  # fmt: skip
STORED_NAMES = ("scores", "classes", "num_classes")
MODEL = lambda: instance(model, wrong=[torch.nn.Linear(2, 2)])  # noqa: E731
GRID, BOX = several((2, 3), low=1, wrong=[(3, 3)]), several((0, 1, 2, 3), low=0, wrong=[(0, 1, 3, 3), (2, 1, 0, 3), (0, 3, 2, 1), (0, 0, 2, 4)])
SHAPE = dict(maps=array(MAPS, free=(1, 2, 3), grow=(1, 2, 3)), size=Kind(lambda: (2, 3), lambda: several((2, 3), low=1, either=[2]).odd()))
CROPS = dict(boxes=array(SHARES, low=0, high=1, wrong=([[0.5, 0.0, 0.4, 1.0]] * 2,)), **SHAPE)
SMALL = dict(low=0, high=1.5)
TRIALS = [
    Trial(tl.token_labeling_loss, class_logits=array(LOGITS), token_logits=array(TOKENS), class_labels=array(LABELS, **SMALL),
          token_labels=array(TOKEN_LABELS, **SMALL), beta=real(0.5, low=0), class_weight=real(1.0, low=0), follows="class_logits",
          names={"class_logits": ("token_logits", "class_labels"), "token_logits": ("token_labels",)}),
    Trial(tl.combine, class_logits=array(LOGITS), token_logits=array(TOKENS, free=(1,), grow=(1,)), weight=real(0.5, low=0), pool=choice("logsumexp"),
          follows="class_logits", names={"class_logits": ("token_logits",)}),
    Trial(tl.roi_align, boxes=array(CELLS, wrong=([[2.0, 0.0, 1.0, 1.0]] * 2, [[0.0, 0.0, 11.0, 1.0]] * 2)), **SHAPE, follows="maps",
          names={"maps": ("boxes",)}),
    Trial(tl.crop, **CROPS, follows="maps", names={"maps": ("boxes",)}),
    Trial(lambda maps, boxes, size, official_box_order: tl.crop_labels(maps, boxes, size, official_box_order=official_box_order), **CROPS,
          official_box_order=flag(True), follows="maps", public="crop_labels", names={"maps": ("boxes",)}),
    Trial(lambda maps: tl.crop_labels(maps, SHARES, 2), maps=instance(stored, wrong=BAD_MAPS), public="crop_labels", trial_id="stored maps",
          names={"maps": STORED_NAMES}),
    Trial(tl.random_crops, count=integer(3, low=1), scale=several((0.1, 0.9), wrong=[(0.0, 1.0), (0.9, 0.1), (0.5, 1.5), (0.5, float("inf"))]),
          ratio=several((0.5, 2.0), wrong=[(0.0, 1.0), (2.0, 0.5), (-1.0, 1.0), (0.5, float("inf"))]), generator=generator()),
    Trial(tl.smooth, labels=array(LABELS, low=0, free=(0, 1), grow=(0, 1), broadcast=True), smoothing=real(0.25, low=0, high=1), official=flag(True),
          follows="labels"),
    Trial(tl.blend_truth, class_labels=array(LABELS, low=0, grow=(1,), free=(1,)), truth=array(np.array([0, 2]), low=0, high=2),
          right=real(0.5, low=0, high=1), wrong=real(0.75, low=0, high=1), follows="class_labels", names={"class_labels": ("truth",)}),
    Trial(tl.image_labels, class_labels=array(LABELS, low=0, free=(0, 1), grow=(0, 1)), tokens=integer(2, low=1), follows="class_labels"),
    Trial(tl.store_maps, maps=array(MAPS, low=-65504, high=65504, free=(0, 1, 2, 3), grow=(0, 1, 2, 3), tolerance=2e-3), k=integer(2, low=1, high=3),
          follows="maps", after=numbers_of, names={"maps": ("k",)}),
    Trial(tl.dense_maps, stored=instance(stored, wrong=BAD_MAPS), missing=real(-1.0, low=-65504, high=65504), names={"stored": STORED_NAMES}),
    Trial(tl.official_maps, stack=array(torch.stack([stored().scores, stored().classes.half()], 1).numpy(), free=(0, 2, 3, 4), grow=(0, 3, 4),
          wrong=(np.full((2, 1, 2, 2), 7.0), np.full((2, 1, 2, 2), 0.5), np.full((2, 1, 2, 2), -1.0)), skip=("an axis fewer", "one more along axis 2")),
          num_classes=integer(3, low=1, wrong=(2,)), follows="stack", after=numbers_of,
          names={"stack": ("classes",), "num_classes": ("stack",)}),  # a picture alone is lawful; one score more is a class twice
    Trial(lambda stored, path: tl.save_maps(stored, path), stored=instance(stored, wrong=BAD_MAPS), names={"stored": STORED_NAMES},
          path=text(str(FOLDER / "again.safetensors"), either=(FOLDER / "again.safetensors",),
          wrong=("", str(FOLDER), str(FOLDER / "absent" / "maps"))), public="save_maps"),
    Trial(tl.load_maps, path=text(str(FOLDER / "maps.safetensors"), wrong=("", "absent", str(FOLDER), str(FOLDER / "other.pth")),
          either=(FOLDER / "maps.safetensors",))),
    Trial(tl.mix_box, grid=several((4, 6), low=1, wrong=[(1, 6)]), kept=real(0.25, low=0, high=1), centre=several((1, 5), low=0, wrong=[(4, 0), (0, 6)]),
          names={"grid": ("centre",)}),
    Trial(tl.draw_box, grid=several((4, 6), low=1), generator=generator()),
    Trial(tl.kept_share, box=BOX, grid=several((2, 3), low=1, wrong=[(2, 2)]), names={"grid": ("box",)}),
    Trial(tl.mix_tokens, tokens=array(TOKENS, free=(2,), grow=(0, 2), skip=("one fewer along axis 0",)), box=BOX, grid=GRID, follows="tokens",
          names={"grid": ("tokens", "box"), "tokens": ("grid",)}),  # the last but one picture fewer is one alone, told as such
    Trial(tl.mix_class_labels, class_labels=array(LABELS, low=0, free=(1,), grow=(0, 1)), kept=real(0.25, low=0, high=1), follows="class_labels"),
    Trial(mixed, patches=instance(nn.Identity, wrong=[nn.Flatten(), nn.Linear(3, 4)(torch.zeros(3))]), box=BOX, grid=GRID, public="mixing_patches",
          names={"grid": ("patches", "box")}),
    Trial(tl.impure_patches, box=several((1, 2, 7, 11), low=0, wrong=[(1, 2, 9, 11), (7, 2, 1, 11), (0, 0, 1, 13)]),
          grid=several((2, 3), low=1, wrong=[(1, 3)]), patch_size=integer(4, low=1, wrong=(3,)), names={"grid": ("box",), "patch_size": ("box",)}),
    Trial(lambda classes, width, generator: tl.Annotator(classes, width, generator=generator).eval()(PICTURES).detach(), classes=integer(3, low=1),
          width=integer(2, low=1), generator=generator(), public="Annotator"),
    Trial(lambda pictures: annotator()(pictures).detach(), pictures=array(PICTURES, free=(0, 2, 3), grow=(0, 2, 3), finite=False, torch_only=True),
          public="Annotator", trial_id="pictures of an annotator"),
    Trial(tl.annotate, model=instance(annotator, wrong=[annotator().train()]), features=text("features", wrong=("", "feature", "classifier")),
          head=text("classifier", wrong=("", "head", "features"), either=(("classifier",),)),
          pictures=array(PICTURES, free=(0, 2, 3), grow=(0, 2, 3), finite=False, torch_only=True, skip=("float64", "a float64", "a bfloat16", "a float16"))),
    Trial(tl.token_maps, tokens=array(TOKENS, free=(0, 2), grow=(0, 2)), grid=GRID, follows="tokens", names={"grid": ("tokens",)}),
    Trial(tl.labels_from_masks, masks=array(MASKS, low=0, high=2, free=(1,), grow=(1,)), object_classes=array(NAMED, low=-1, high=3, grow=(1,)),
          grid=several((1, 2), low=1, wrong=[(1, 3), (3, 2), (4, 8)]), classes=integer(4, low=1, wrong=(2,)), follows="masks",
          background=Kind(lambda: "nothing", lambda: choice("nothing", either=("even", 3), wrong=(4, -1)).odd().filter(lambda odd: odd.words != "3")),
          names={"masks": ("grid", "object_classes"), "object_classes": ("masks",), "classes": ("object_classes",)}),
    Trial(tl.shuffled_maps, maps=array(MAPS, free=(0, 1, 2, 3), grow=(0, 1, 2, 3)), over=choice("pictures", either=("places", "classes")),
          generator=generator(), follows="maps"),
    Trial(logits, image_size=integer(8, low=1, wrong=(9,)), patch_size=integer(4, low=1, wrong=(3,)), width=integer(6, low=1, wrong=(7,)),
          depth=integer(2, low=1), heads=integer(2, low=1, wrong=(4,)), classes=integer(3, low=1), mlp_ratio=real(2.0, low=0, above=True),
          stem=choice("conv", either=("patch",)), stem_width=integer(2, low=1), skip_lam=real(2.0, low=0, above=True), qkv_bias=flag(True),
          token_head=flag(True), drop_path=real(0.5, low=0, high=1, below=True), token_weight=real(0.5, low=0), generator=generator(), public="LVViT",
          names={"image_size": ("pictures",), "heads": ("width",), "patch_size": ("image_size",)}, slow=0.4),
    Trial(lambda pictures: model()(pictures).detach(), pictures=array(PICTURES, free=(0,), grow=(0,), finite=False, torch_only=True), public="LVViT",
          trial_id="pictures of a model"),
    Trial(lambda box: model().outputs(PICTURES, box), box=optional(several((0, 1, 2, 2), low=0, wrong=[(0, 1, 3, 2)])), public="LVViT", trial_id="a box"),
    Trial(two_heads, encoder=instance(encoder, wrong=[nn.Flatten(2)]), width=integer(6, low=1, wrong=(5,)), classes=integer(3, low=1),
          grid=several((2, 2), low=1, wrong=[(2, 3)], either=[(1, 4), (4, 1)]), patches=text("patches", wrong=("", "patch", "front")),
          prefix=integer(2, low=1, wrong=(1, 3)), token_weight=real(0.5, low=0), generator=generator(), public="WithTokenHead",
          names={"width": ("encoder",), "grid": ("encoder", "box", "patches"), "prefix": ("encoder",), "encoder": ("patches",)}, slow=0.4),
    Trial(tl.parameters, model=instance(model)),
    Trial(tl.macs, model=instance(model), image_size=optional(integer(8, low=1, wrong=(9, 12))), names={"image_size": ("pictures",)}, slow=0.2),
    Trial(tl.official_names, model=MODEL()),
    Trial(lambda state, model: tl.from_official(state, model)(PICTURES).detach(), state=instance(state, wrong=[{"head.bias": 3}, {3: torch.zeros(1)}]),
          model=MODEL(), public="from_official"),
    Trial(lambda model, path: tl.load_official(model, path)(PICTURES).detach(), model=MODEL(), public="load_official",
          path=text(str(FOLDER / "weights.pth"), wrong=("", "absent.pth", str(FOLDER), str(FOLDER / "other.pth")), either=(FOLDER / "weights.pth",))),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(tl, TRIALS) == set()
