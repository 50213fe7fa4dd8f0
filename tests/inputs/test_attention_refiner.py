"""Odd and wrong inputs for every public function of attention_refiner."""

import copy
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from transformers import ViTConfig, ViTForImageClassification

from helpers.methods import attention_refiner as ar
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
MAPS, VALUES = RNG.random((2, 3, 5, 7)).astype(np.float32), RNG.normal(size=(2, 3, 7, 4)).astype(np.float32)
EXPANSION, REDUCTION, KERNELS = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3, 4), (4, 3, 3)))
LAYERS, TOKENS = RNG.random((3, 2, 3, 4, 4)).astype(np.float32), RNG.normal(size=(3, 2, 4, 5)).astype(np.float32)
ROWS, OTHERS = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(6, 3)).astype(np.float32)
PICTURES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SIZES = dict(image_size=8, patch_size=4, width=4, depth=2, heads=2, classes=3, refine="inverted_residual", stem="conv", token_head=True)


def pair(value: tuple[int, int], wrong=()) -> Kind:
    """(rows, columns)."""
    bad = [None, "text", 3, 2.5, Thing(), {}, b"12", set(value), (), (2,), (*value, 1), (value[0], None), (value[0], "1"), (0, 2), (2, -1), (value[0], 1.5),
           len, (one for one in value), *wrong]  # fmt: skip
    odd = [Odd(one, repr(one)[:60], WRONG) for one in bad] + [Odd(np.array(value), "an array", EITHER)]
    odd += [Odd(list(value), "a list", SAME), Odd(tuple(np.int64(one) for one in value), "of numpy integers", SAME)]
    return Kind(lambda: value, lambda: st.sampled_from(odd))


def names(value: tuple[str, ...], wrong=(), either=()) -> Kind:
    bad = [None, "text", 3, Thing(), {}, (), (3,), (None,), ("plane",), b"plain", len, np.zeros(2), *wrong]
    odd = [Odd(one, repr(one)[:60], WRONG) for one in bad] + [Odd(one, repr(one), EITHER) for one in either]
    return Kind(lambda: value, lambda: st.sampled_from([*odd, Odd(list(value), "a list", SAME)]))


def numbers(value: list[int], either=()) -> Kind:
    """Which layers of two."""
    bad = [None, 1, 1.5, Thing(), {}, [], "last", [2], [-1], [0, 0], ["0"], [None], [0.5], len, b"0", np.zeros(2)]
    odd = [Odd(one, repr(one)[:60], WRONG) for one in bad] + [Odd(one, repr(one), EITHER) for one in (*either, [True])]
    return Kind(lambda: list(value), lambda: st.sampled_from([*odd, Odd(tuple(value), "a tuple", SAME), Odd([np.int64(i) for i in value], "numpy", SAME)]))


def switch(value: bool) -> Kind:
    return optional(flag(value))


@lru_cache
def seeded(kind, **options):
    torch.manual_seed(0)
    return kind(**options).eval()


def model(**options):
    return copy.deepcopy(seeded(ar.RefinerViT, **SIZES | options))


def logits(**options):
    return ar.RefinerViT(**SIZES | options).eval()(PICTURES).detach()


def refiner(heads=3, **options):
    return ar.MapRefiner(heads, **options).eval()(torch.from_numpy(MAPS)).detach()


def filled(**numbers):
    return ar.MapRefiner(3, kappa=4 / 3).set_weights(**numbers)(torch.from_numpy(MAPS)).detach()


def attention(dim=4, heads=2, **options):
    layer = ar.RefinedAttention(dim, heads, **options).eval()
    return [found.detach() for found in layer(torch.linspace(-1, 1, 40).view(2, 5, 4), torch.full((2, 2, 5, 5), 0.2))]


def vit():
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, patch_size=4, hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4, num_labels=3)
    return ViTForImageClassification(config).eval()


def refined(**options):
    return refined_of(vit(), **options)


def refined_of(model, **options):
    found = ar.refine_vit(model, **options)
    for one in found.refiners:
        one.set_weights(kernels=torch.full((one.kernel, one.kernel), 0.1))
    with torch.no_grad():
        return model(PICTURES).logits


def state():
    source = model()
    return {there: source.state_dict()[here] for here, there in ar.official_names(source).items()}


FOLDER = Path(tempfile.mkdtemp())
torch.save(state(), FOLDER / "weights.pth")
(FOLDER / "other.pth").write_text("no weights")
OTHER = torch.nn.Linear(2, 2)
NAMES = ar.official_names(model())
MODEL = lambda: instance(model, wrong=[OTHER])  # noqa: E731
KERNEL = lambda value: array(value, wrong=(np.ones((2, 2)), np.ones((3, 5)), np.ones(3), np.ones((1, 4, 3, 3))), skip=("an axis fewer",))  # noqa: E731
OVER, GRID = fixed("grid"), pair((2, 3), wrong=[(3, 3), (8, 1)])
HEADS = dict(kappa=real(1.5, low=0, above=True, wrong=(0.01,)), kernel=integer(3, low=1, wrong=(2, 4)), refine=choice("linear", either=("inverted_residual",)),
             over=choice("raster", wrong=("grid",)), start=choice("random", either=("identity",)), generator=generator())  # fmt: skip
TRIALS = [
    Trial(ar.mix_heads, maps=array(MAPS, free=(0, 2, 3), grow=(0, 2, 3), broadcast=True), weight=array(EXPANSION, free=(0,), grow=(0,)),
          names={"maps": ("weight",)}, follows="maps"),
    Trial(ar.convolve, maps=array(MAPS, free=(0, 2, 3), grow=(0, 2, 3), broadcast=True), kernels=KERNEL(KERNELS[:3]), over=choice("raster", wrong=("grid",)),
          names={"maps": ("kernels",), "over": ("grid",)}, follows="maps"),
    Trial(ar.convolve, maps=array(MAPS, free=(0, 2, 3), grow=(0, 2, 3), broadcast=True), kernels=KERNEL(KERNELS[:3]), over=OVER, grid=GRID,
          names={"maps": ("kernels",), "grid": ("maps",)}, follows="maps", trial_id="convolve over the grid"),
    Trial(ar.refine, maps=array(MAPS, free=(0, 2, 3), grow=(0, 2, 3), broadcast=True), expansion=array(EXPANSION), kernels=KERNEL(KERNELS),
          reduction=array(REDUCTION), over=OVER, grid=GRID, names={"maps": ("expansion",), "expansion": ("reduction", "kernels"), "grid": ("maps",)},
          follows="maps"),
    Trial(ar.aggregate_values, values=array(VALUES, free=(0, 2, 3), grow=(0, 2, 3), broadcast=True), kernels=KERNEL(KERNELS[:3]),
          over=choice("raster", wrong=("grid",)), names={"values": ("kernels",), "over": ("grid",)}, follows="values"),
    Trial(ar.aggregate_values, values=array(VALUES, free=(0, 2, 3), grow=(0, 2, 3), broadcast=True), kernels=KERNEL(KERNELS[:3]), over=OVER, grid=GRID,
          names={"values": ("kernels",), "grid": ("values",)}, follows="values", trial_id="aggregate_values over the grid"),
    Trial(ar.attend_locally, maps=array(MAPS, free=(2,), grow=(2,)), values=array(VALUES, free=(3,), grow=(3,)), kernels=KERNEL(KERNELS[:3]),
          over=OVER, grid=GRID, names={"maps": ("values",), "grid": ("maps",)}, follows="maps"),
    Trial(refiner, heads=integer(3, low=1, wrong=(2, 4)), norm=switch(False), activation=switch(False), residual=switch(False), **HEADS,
          names={"heads": ("maps",), "over": ("grid",)}, public="MapRefiner"),
    Trial(refiner, heads=fixed(3), over=OVER, grid=GRID, names={"grid": ("maps",)}, public="MapRefiner", trial_id="MapRefiner over the grid"),
    Trial(filled, expansion=array(EXPANSION, skip=("None",)), kernels=array(KERNELS, skip=("None", "an axis fewer")),
          reduction=array(REDUCTION, skip=("None",)), public="MapRefiner.set_weights"),
    Trial(lambda maps: seeded(ar.MapRefiner, heads=3)(maps).detach(), maps=array(torch.from_numpy(MAPS), free=(0, 2, 3), grow=(0, 2, 3), finite=False,
          torch_only=True, skip=("float64", "a float64 tensor", "nothing in it", "complex", "booleans")), public="MapRefiner", trial_id="maps of a layer"),
    Trial(attention, dim=integer(4, low=1, wrong=(5, 3)), heads=integer(2, low=1, wrong=(3,)), kind=choice("share", either=("plain", "self")),
          accumulate=flag(True), rescale=switch(True), **HEADS, names={"dim": ("tokens",), "heads": ("dim", "carried"), "over": ("grid",)},
          public="RefinedAttention"),
    Trial(logits, image_size=integer(8, low=1, wrong=(9, 12)), patch_size=integer(4, low=1, wrong=(3, 1), either=(8, 2)), width=integer(4, low=1, wrong=(5,)),
          depth=integer(2, low=1), heads=integer(2, low=1, wrong=(3,)), classes=integer(3, low=1), blocks=names(("plain", "share"), wrong=[("share", "plain")]),
          mlp_ratio=real(3, low=0, above=True, wrong=(0.01,)), kappa=real(1.5, low=0, above=True, wrong=(0.01,)), kernel=integer(3, low=1, wrong=(2,)),
          refine=choice("inverted_residual"), over=choice("raster", either=("grid",)), accumulate=flag(True), rescale=switch(True),
          branch_scale=real(2, low=0, above=True), layer_scale=optional(real(1e-5)), stem=choice("conv"), token_head=flag(True),
          drop_path=real(0.1, low=0, high=1, below=True), start=choice("random", either=("identity",)), generator=generator(),
          names={"image_size": ("patch_size", "pictures"), "heads": ("width",)}, public="RefinerViT", slow=0.4),
    Trial(lambda pictures: model()(pictures).detach(), pictures=array(PICTURES, free=(0,), grow=(0,), finite=False, torch_only=True), public="RefinerViT",
          trial_id="pictures", slow=0.4),
    Trial(lambda image_size: model().resized(image_size).positions.detach(), image_size=integer(12, low=1, wrong=(14,)), public="RefinerViT.resized"),
    Trial(ar.parameters, model=instance(model)),
    Trial(ar.macs, model=MODEL(), slow=0.2),
    Trial(ar.head_similarity, maps=array(MAPS, free=(0, 1, 2, 3), grow=(0, 1, 2, 3), broadcast=True, wrong=(MAPS[:, :1],)), follows="maps"),
    Trial(ar.layer_similarity, one=array(MAPS), other=array(MAPS[::-1].copy()), along=choice("heads"), names={"one": ("other",)}, follows="one"),
    Trial(ar.similarity_by_layer, maps=array(LAYERS, free=(0, 1, 2, 3, 4), grow=(0, 1, 2, 3, 4), skip=("a list",)), of=choice("neighbours"), follows="maps"),
    Trial(lambda maps: ar.similarity_by_layer(list(maps)), maps=fixed(LAYERS), public="similarity_by_layer", trial_id="a list of layers"),
    Trial(ar.neighbour_loss, maps=array(LAYERS, free=(0, 1, 2, 3, 4), grow=(0, 1, 2, 3, 4), skip=("a list",)), weight=real(0.1), along=choice("heads"),
          follows="maps"),
    Trial(ar.linear_cka, x=array(ROWS, free=(1,), grow=(1,), wrong=(np.ones((6, 2)),)), y=array(OTHERS, free=(1,), grow=(1,), wrong=(np.ones((6, 2)),)),
          names={"x": ("y",)}),
    Trial(ar.feature_evolution, tokens=array(TOKENS, free=(0, 1, 2, 3), grow=(0, 1, 2, 3), wrong=(np.ones((2, 2, 3, 4)),), skip=("a list",)),
          follows="tokens"),
    Trial(refined, layers=numbers([1]), norm=switch(False), activation=switch(False), residual=switch(False),
          kappa=real(1.5, low=0, above=True, wrong=(0.1, 0.5)), kernel=integer(3, low=1, wrong=(2,)), refine=choice("linear"),
          over=choice("raster", wrong=("grid",)), start=choice("identity"), generator=generator(), public="refine_vit", slow=0.4,
          names={"over": ("grid",), "norm": ("start",), "kappa": ("start",)}),
    Trial(refined, over=OVER, grid=pair((2, 2), wrong=[(3, 2)]), names={"grid": ("maps",)}, public="refine_vit", trial_id="refine_vit over the grid"),
    Trial(refined_of, model=instance(vit, wrong=[OTHER]), public="refine_vit", trial_id="a model's refiners"),
    Trial(lambda pixel_values: ar.refine_vit(vit()).maps(pixel_values), pixel_values=instance(lambda: PICTURES), public="Refinement.maps"),
    Trial(ar.official_names, model=MODEL()),
    Trial(lambda state, model, table: ar.from_official(state, model, names=table)(PICTURES).detach(), model=MODEL(), public="from_official",
          state=instance(state, wrong=[{"head.bias": 3}, {3: torch.zeros(1)}, {}]),
          table=optional(instance(lambda: dict(NAMES), wrong=[{"a": "b"}, {"a": 3}, dict.fromkeys(NAMES, "x")])), names={"table": ("names",)}),
    Trial(lambda model, path: ar.load_official(model, path)(PICTURES).detach(), model=MODEL(), public="load_official",
          path=text(str(FOLDER / "weights.pth"), wrong=("", "absent.pth", str(FOLDER), str(FOLDER / "other.pth")), either=(FOLDER / "weights.pth",))),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(ar, TRIALS) == set()
