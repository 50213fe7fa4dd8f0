"""Odd and wrong inputs for every public function of shunted_attention."""

import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from helpers.methods import shunted_attention as sh
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
    fixed,
    flag,
    generator,
    instance,
    integer,
    optional,
    real,
    text,
)

RNG = np.random.default_rng(0)
PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SIZES = dict(image_size=16, widths=(4, 6), depths=(1, 1), heads=(2, 2), rates=((2, 1), (1,)), classes=3, mlp_ratios=2, num_conv=0)
TOKENS, MAPS = RNG.normal(size=(2, 12, 3)).astype(np.float32), RNG.random((2, 3, 6)).astype(np.float32)
QUERIES, KEYS, VALUES = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 5, 4), (2, 6, 4), (2, 6, 3)))


def several(value: tuple, *, low: float | None = None, length: bool = True, wrong=(), either=()) -> Kind:
    """A tuple of numbers; low: the least that each may be; length: one more or fewer is wrong."""
    last = value[-1]
    bad = [None, "text", 3, 2.5, Thing(), {}, {1: 2}, b"12", set(value), (), (*value[:-1], None), (*value[:-1], "1"), (*value[:-1], float("nan")),
           (*value[:-1], 1j), (*value[:-1], [last]), len, (one for one in value), *wrong]  # fmt: skip
    bad += [value + (last,), value[:-1]] if length else []
    bad += [] if low is None else [(*value[:-1], low - 1), (low - 5, *value[1:])]
    odd = [Odd(one, repr(one)[:60], WRONG) for one in bad] + [Odd(one, repr(one), EITHER) for one in (np.array(value, dtype=object), *either)]
    odd += [Odd(list(value), "a list", SAME)]
    if all(isinstance(one, int) for one in value):
        odd += [Odd(tuple(np.int64(one) for one in value), "of numpy integers", SAME), Odd((*value[:-1], last + 0.5), "a fraction among them", WRONG)]
    return Kind(lambda: value, lambda: st.sampled_from(odd))


def model(kind=sh.Shunted, **options):
    torch.manual_seed(0)
    return kind(**SIZES | options).eval()


def logits(kind, **options):
    return kind(**SIZES | options).eval()(PICTURES).detach()


def layer(dim=4, heads=2, grid=(3, 4), **options):
    return sh.ShuntedAttention(dim, heads, **options)(torch.ones(2, 12, 4), grid).detach()


def feed(grid=(3, 4), **options):
    return sh.FeedForward(**options)(torch.linspace(-1, 1, 96).view(2, 12, 4), grid).detach()


def twin(**options):
    sizes = dict(image_size=16, widths=(4, 6), depths=(1, 1), heads=(2, 2), rates=(2, 1), classes=3, mlp_ratios=2)
    return sh.pvt_v2(**sizes | options).eval()(PICTURES).detach()


def vit(**options):
    sizes = dict(image_size=16, patch_size=4, width=8, depth=1, heads=2, classes=3)
    return sh.plain_vit(**sizes | options).eval()(PICTURES).detach()


kept = lru_cache(model)
peers = lru_cache(lambda: [sh.plain_vit(16, 4, 8, 1, 2, 3).eval(), sh.pvt_v2(16, (4, 6), (1, 1), (2, 2), (2, 1), 3, mlp_ratios=2).eval()])


def state():
    source = model()
    return {there: source.state_dict()[here] for here, there in sh.official_names(source).items()}


FOLDER = Path(tempfile.mkdtemp())
torch.save(state(), FOLDER / "weights.pth")
(FOLDER / "other.pth").write_text("no weights")
MODEL = lambda: instance(model, wrong=[torch.nn.Linear(2, 2)])  # noqa: E731
IMAGES = lambda: array(PICTURES, free=(0,), grow=(0,), finite=False, torch_only=True)  # noqa: E731
STAGES = dict(
    widths=several((4, 6), low=1, wrong=[(4, 7)]), depths=several((1, 1), low=1), heads=several((2, 2), low=1, wrong=[(2, 4)]), classes=integer(3, low=1),
)  # fmt: skip
RATES = several(((2, 1), (1,)), wrong=[(2, 1), ((2, 1), (0,)), ((2, 1), ()), ((2, 1), (8,)), ((2, 1), "1"), ((16, 8), (1,))], either=[((2,), (1,))])
SINGLE = several((2, 1), low=1, wrong=[(2, 4), ((2, 1), (1,))])
RATIOS = Kind(lambda: (2, 3), lambda: several((2, 3), low=1, either=[2]).odd().filter(lambda one: one.words != "3"))  # one number for all stages is lawful
WHERE = dict(stage=integer(0, low=0, high=1), block=integer(0, low=0, high=0))
TRIALS = [
    Trial(layer, dim=integer(4, low=1, wrong=(5,)), heads=integer(2, low=1, wrong=(1, 3)),
          rates=several((2, 1), low=1, length=False, wrong=[(1, 1, 1), (4, 1)]),
          grid=several((3, 4), low=1, wrong=[(4, 4), (1, 12)], either=[(4, 3), (2, 6)]), local=choice("value", wrong=("output",)), rate_one=choice("tokens"),
          norm=flag(True), activation=flag(True), bias=flag(True), border=choice("drop"), public="ShuntedAttention",
          names={"dim": ("tokens", "heads", "embed_dim"), "rates": ("heads", "grid"), "grid": ("tokens",), "heads": ("dim",)}),
    Trial(feed, dim=integer(4, low=1), hidden=integer(5, low=1), detail=choice("added", either=("alone",)), grid=several((3, 4), low=1, wrong=[(4, 4)]),
          names={"grid": ("tokens",), "dim": ("tokens",)}, public="FeedForward"),
    Trial(logits, kind=fixed(sh.Shunted), image_size=integer(16, low=1, wrong=(17, 2)), rates=RATES, num_conv=integer(1, low=0),
          drop_path=real(0.1, low=0, high=1, below=True), stem=choice("conv"), stem_stride=integer(2, low=2, high=4, wrong=(3,)), local=choice("official"),
          rate_one=choice("conv"), norm=flag(True), activation=flag(True), detail=choice("alone"), border=choice("pad"), generator=generator(),
          mlp_ratios=RATIOS, **STAGES, names={"image_size": ("rates",), "heads": ("widths",), "widths": ("heads",),
          "rates": ("heads",), "mlp_ratios": ("mlp_ratios",)}, public="Shunted", slow=0.4),
    Trial(logits, kind=fixed(sh.Pyramid), rates=SINGLE, **STAGES, names={"heads": ("widths",), "widths": ("heads",)}, public="Pyramid", slow=0.4),
    Trial(lambda pictures: kept()(pictures).detach(), pictures=IMAGES(), public="Shunted", trial_id="pictures", slow=0.4),
    Trial(lambda pictures: [peer(pictures).detach() for peer in peers()], pictures=array(PICTURES, free=(0, 2), grow=(0,),
          finite=False, torch_only=True, skip=("one more along axis", "one fewer along axis 3")),
          public="pvt_v2", trial_id="pictures of peers", slow=0.4),  # their sizes are transformers' affair
    Trial(twin, image_size=integer(16, low=1, wrong=(18, 12)), rates=several((2, 1), low=1, wrong=[(3, 1)]), mlp_ratios=RATIOS,
          drop_path=real(0.1, low=0, high=1, below=True), stem_stride=integer(4, low=2, high=4, wrong=(3,)), generator=generator(), **STAGES,
          names={"image_size": ("rates",), "heads": ("widths",), "widths": ("heads",)}, public="pvt_v2", slow=0.4),
    Trial(vit, image_size=integer(16, low=1, wrong=(18,), either=(8, 32)), patch_size=integer(4, low=1, wrong=(5,)), width=integer(8, low=1, wrong=(9,)),
          depth=integer(1, low=1), heads=integer(2, low=1, wrong=(3,)), classes=integer(3, low=1), mlp_ratio=integer(2, low=1), generator=generator(),
          names={"heads": ("width",), "image_size": ("patch_size", "Input")}, public="plain_vit", slow=0.4),
    Trial(sh.vit_width, target=real(50_000, low=0, above=True), of=choice("macs"), image_size=integer(16, low=1, wrong=(18,)), patch_size=integer(4, low=1),
          depth=integer(2, low=1), heads=integer(3, low=1), classes=integer(3, low=1), mlp_ratio=integer(2, low=1), names={"image_size": ("patch_size",)}),
    Trial(sh.parameters, model=instance(model)),
    Trial(sh.macs, model=instance(model), image_size=optional(integer(32, low=1, wrong=(30, 4))), names={"image_size": ("pictures", "grid")}, slow=0.2),
    Trial(sh.reduced_grid, grid=several((5, 7), low=1), rate=integer(2, low=1, high=5), border=choice("drop")),
    Trial(sh.aggregate, tokens=array(TOKENS, free=(0,), grow=(0,)), weight=array(RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)),
          bias=array(RNG.normal(size=4).astype(np.float32), wrong=(0.5,), skip=("None",)), grid=several((3, 4), low=1, wrong=[(4, 4), (12, 1), (1, 12)]),
          border=choice("pad"), names={"tokens": ("weight",), "weight": ("bias",), "grid": ("tokens", "weight")}, follows="tokens"),
    Trial(sh.depthwise, tokens=array(TOKENS, free=(0,), grow=(0,)), weight=array(RNG.normal(size=(3, 1, 3, 3)).astype(np.float32)),
          bias=array(RNG.normal(size=3).astype(np.float32), skip=("None",)), grid=several((3, 4), low=1, wrong=[(4, 4)]),
          names={"tokens": ("weight",), "grid": ("tokens",)}, follows="tokens"),
    Trial(sh.attend, q=array(QUERIES, free=(1,), grow=(1,)), k=array(KEYS), v=array(VALUES, free=(2,), grow=(2,)),
          names={"q": ("k",), "k": ("v",)}, follows="q"),
    Trial(sh.attention_macs, dim=integer(8, low=1, wrong=(7,)), grid=several((4, 6), low=1), rates=several((4, 2), low=1, length=False, wrong=[(8, 4)]),
          local=choice("value", wrong=("output",)), names={"grid": ("rates",), "rates": ("dim",), "dim": ("rates",)}),
    Trial(lambda pictures, **where: [g._asdict() for g in sh.attention_maps(kept(), pictures, **where)], pictures=IMAGES(), public="attention_maps", **WHERE),
    Trial(lambda model: len(sh.attention_maps(model, PICTURES)), model=MODEL(), public="attention_maps", trial_id="a model's maps"),
    Trial(sh.lay_back, maps=array(MAPS, free=(0, 1), grow=(0, 1), broadcast=True), key_grid=several((2, 3), low=1, wrong=[(3, 3)], either=[(3, 2)]),
          cell=integer(4, low=1), size=several((7, 10), low=1, wrong=[(4, 12), (8, 8)]), follows="maps",
          names={"key_grid": ("maps", "size"), "cell": ("size",)}),
    Trial(lambda pictures, place, **options: sh.receptive_field(kept(), pictures, place, **options), pictures=IMAGES(), of=choice("key"),
          place=several((1, 2), low=0, wrong=[(4, 0), (0, 4)]), public="receptive_field", slow=0.4, **WHERE),
    Trial(lambda model: sh.receptive_field(model, PICTURES, (0, 0), of="key"), model=MODEL(), public="receptive_field", trial_id="a model's field"),
    Trial(sh.effective_area, maps=array(MAPS, free=(0, 1, 2), grow=(0, 1, 2), low=0, broadcast=True, wrong=(np.zeros((2, 3)), np.ones(3))), follows="maps"),
    Trial(sh.mean_distance, maps=array(MAPS, free=(0, 1, 2), grow=(0, 1, 2), low=0, broadcast=True, wrong=(np.zeros((2, 3)), np.ones(3))),
          point=several((1.5, 2.0)), follows="maps"),
    Trial(sh.official_names, model=MODEL()),
    Trial(lambda state, model: sh.from_official(state, model)(PICTURES).detach(), state=instance(state, wrong=[{"head.bias": 3}, {3: torch.zeros(1)}]),
          model=MODEL(), public="from_official"),
    Trial(lambda model, path: sh.load_official(model, path)(PICTURES).detach(), model=MODEL(), public="load_official",
          path=text(str(FOLDER / "weights.pth"), wrong=("", "absent.pth", str(FOLDER), str(FOLDER / "other.pth")), either=(FOLDER / "weights.pth",))),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(sh, TRIALS) == set()
