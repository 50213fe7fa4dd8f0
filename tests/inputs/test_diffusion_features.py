"""Odd and wrong inputs of DIFT: its features, and what they match."""

import pytest
import torch
from torch.nn import functional as F

from helpers.methods import diffusion_features as dift
from helpers.models import small
from tests.inputs.harness import Kind, Trial, array, check, choice, coverage, fixed, flag, generator, instance, integer, optional, real, texts

torch.set_num_threads(1)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PIPE, PIXELS = small.image_pipeline(), small.pixel_pipeline()
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(7)) * 2 - 1
NOISE, PIXEL_NOISE = randn(2, 4, 8, 8), randn(1, 3, 16, 16, seed=1)
PIPELINE = instance(lambda: PIPE, wrong=[torch.nn.Linear(2, 2)])
PICTURES = array(IMAGES, low=-1, high=1, free=(0,), grow=(0,), tolerance=1e-4)
TIME, BLOCK = integer(100, low=0, high=999), integer(1, low=0, high=3)
PROMPTS = texts(["a cat", "a dog"], fixed_length=True)
SEVERAL = dict(wrong=[(), "1", 1, [-1], [0.5], [None], iter(())], either=[[1, 1], (1,), {1: 2}])


_names = texts(["up_blocks.0.resnets.0", "down_blocks.0.attentions.0"], options=True)
# None means all layers, and a number among the names is a layer as well
NAMES = Kind(_names.make, lambda: _names.odd().filter(lambda odd: odd.value is not None and odd.words != "a 3 among them"))


def whole(values, **more):
    """A list of whole numbers."""
    return array(torch.tensor(values).numpy(), free=(0,), grow=(0,), **more)


SOURCE, TARGET, POINTS = randn(6, 5, 4), randn(6, 4, 7, seed=1), torch.tensor([[0.0, 0], [15, 19], [5, 11], [9, 3]])
MAPS = dict(source_map=array(SOURCE, free=(1, 2), grow=(1, 2)), target_map=array(TARGET, free=(1, 2), grow=(1, 2), broadcast=True))
PLACES = array(POINTS, low=-0.4, free=(0,), grow=(0,), wrong=["here", 3, [[16.0, 3]], [[1.0, 20]]])
SIZE = dict(wrong=[(20,), (20, 16, 3), (20, "16"), (20.5, 16), (0, 16), (-3, 16), {20, 16}, "2016", 20, None, (True, 16), (float("nan"), 16), (10**9, 16)])
SIZES = dict(source_size=array([20, 16], **SIZE), target_size=array([18, 25], **SIZE))
CONVENTION, MEMORY = choice("consistent"), real(1.0, low=0, above=True)
FEATURES, LABELS = randn(3, 6, 4, 5), F.one_hot(torch.arange(20).reshape(4, 5) % 3).permute(2, 0, 1).float()
HERE = torch.rand(12, 2, generator=torch.Generator().manual_seed(0)) * 100
THERE = HERE @ torch.tensor([[1.1, 0.1], [-0.05, 0.9]])
MASK = torch.arange(48).reshape(6, 8) % 5
STICKER, PICTURE = torch.zeros(4, 20, 16), torch.full((3, 18, 25), 0.5)
STICKER[1:, 4:12, 3:9] = 1
PAIR = dift.Pair(POINTS + 1, POINTS, (0, 0, 10, 12), "cat")
BAD_PAIRS = [[], [3], [(POINTS, POINTS)], [dift.Pair(POINTS, POINTS[:2], (0, 0, 1, 1))], [PAIR._replace(category=3)], PAIR, "pair", None, 5, {},
             [PAIR._replace(box=(0, 0, 0, 9))], [PAIR._replace(predicted=POINTS * float("nan"))]]  # fmt: skip
GENERATOR = generator(many=2)

TRIALS = [
    Trial(dift.dift, pipe=PIPELINE, images=PICTURES, prompt=fixed("a cat"), t=TIME, n=BLOCK, ensemble=integer(2, low=1), latent=choice("mean"),
          generator=GENERATOR, noise=fixed(None), batch=integer(2, low=1), slow=0.3, follows="images"),
    Trial(dift.dift, trial_id="dift, prompts and noise", pipe=fixed(PIPE), images=fixed(IMAGES), prompt=PROMPTS, t=fixed(5), n=fixed(0), ensemble=fixed(2),
          latent=choice("mean"), noise=array(NOISE, broadcast=True), slow=0.3),
    Trial(dift.dift, trial_id="dift, pixels", pipe=instance(lambda: PIXELS), images=PICTURES, t=TIME, n=fixed(0), ensemble=fixed(1),
          noise=array(PIXEL_NOISE, broadcast=True), slow=0.2, follows="images"),
    Trial(dift.dift_blocks, pipe=PIPELINE, images=PICTURES, t=TIME, blocks=whole([0, 1], low=0, high=3, **SEVERAL), ensemble=integer(1, low=1),
          generator=GENERATOR, batch=integer(8, low=1), slow=0.2, follows="images"),
    Trial(dift.dift_grid, pipe=PIPELINE, images=PICTURES, times=whole([5, 100], low=0, high=999, **SEVERAL), blocks=whole([0], low=0, high=3, **SEVERAL),
          ensemble=fixed(1), generator=GENERATOR, slow=0.2, follows="images"),
    Trial(dift.dift_layers, pipe=PIPELINE, images=PICTURES, t=TIME, layers=optional(whole([0, 3], low=0, high=10, **SEVERAL)),
          ensemble=fixed(1), generator=GENERATOR, slow=0.2, follows="images"),
    Trial(dift.dift_layers, trial_id="dift_layers by name", pipe=fixed(PIPE), images=fixed(IMAGES[:1]), t=fixed(5), ensemble=fixed(1), generator=GENERATOR,
          layers=NAMES, slow=0.2),
    Trial(dift.layer_names, unet=instance(lambda: PIPE.unet), merged=optional(flag(True))),
    Trial(dift.block_layers, unet=instance(lambda: PIPE.unet), merged=optional(flag(False))),
    Trial(dift.noise_to_signal, scheduler=instance(lambda: PIPE.scheduler), t=TIME),
    Trial(dift.describe, maps=array(SOURCE, free=(0, 1, 2), grow=(0, 1, 2), broadcast=True), points=PLACES, size=SIZES["source_size"], convention=CONVENTION,
          follows="maps"),
    Trial(dift.match, **MAPS, points=PLACES, **SIZES, convention=CONVENTION, memory_mb=MEMORY, follows="source_map"),
    Trial(dift.nearest, **MAPS | dict(target_map=array(TARGET, free=(1, 2), grow=(1, 2))), points=PLACES, **SIZES, convention=CONVENTION, memory_mb=MEMORY,
          follows="source_map"),
    Trial(dift.similarity_map, **MAPS, point=array(POINTS[2], low=-0.4), **SIZES, convention=CONVENTION, follows="source_map"),
    Trial(dift.mutual_matches, a=array(randn(9, 5), free=(0,), grow=(0,)), b=array(randn(12, 5, seed=1), free=(0,), grow=(0,)), similarity=choice("l2"),
          follows="a"),
    Trial(dift.pck, predicted=array(POINTS + 1), truth=array(POINTS), box=array([0.0, 0, 10, 12], wrong=[(0, 0, 0, 9), (5, 0, 1, 9)]),
          alpha=real(0.1, low=0, above=True), follows="predicted"),
    Trial(dift.pck_table, pairs=instance(lambda: [PAIR, PAIR._replace(truth=POINTS + 2)], wrong=BAD_PAIRS),
          alphas=array([0.05, 0.1], low=1e-9, free=(0,), grow=(0,), skip=("float32",))),  # whose 0.05 is another key
    Trial(dift.fit_homography, source=array(HERE), target=array(THERE), method=choice("lmeds"), threshold=real(3.0, low=0, above=True),
          trials=integer(20, low=1, high=10**6), rng=integer(0, low=0), follows="source"),
    Trial(dift.fit_homography, trial_id="fit_homography, ransac", source=array(HERE), target=array(THERE), method=choice("ransac"), trials=fixed(20),
          threshold=real(3.0, low=0, above=True), rng=integer(0, low=0), follows="source"),
    Trial(dift.homography_accuracy, errors=array([0.5, 2.9, 3, 9], low=0, finite=False, free=(0,), grow=(0,), wrong=[[float("nan")], 3.0, [-1]],
          either=[[float("inf")]]), thresholds=array([1.0, 3.0, 5.0], low=1e-9, free=(0,), grow=(0,))),
    Trial(dift.corner_error, matrix=array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]]), truth=array([[1.0, 0, 0], [0, 2, 0], [0, 1e-3, 1]]),
          size=SIZES["source_size"]),
    Trial(dift.propagate_labels, features=array(FEATURES, free=(0, 1), grow=(0, 1)), first_labels=array(LABELS, masks=True, free=(0,), grow=(0,)),
          window=integer(2, low=0), context=integer(2, low=0), top_k=integer(5, low=1, high=20), temperature=real(0.2, low=0, above=True), memory_mb=MEMORY,
          follows="features"),
    Trial(dift.first_mask_to_labels, mask=array(MASK, low=0, masks=True, free=(0, 1), grow=(0, 1), wrong=[[[2**40, 0]], [[-1, 0]]]),
          size=SIZES["source_size"], num_labels=optional(integer(6, low=5, wrong=[10**12])), follows="mask"),
    Trial(dift.labels_to_masks, labels=array(LABELS, masks=True, free=(0, 1, 2), grow=(0, 1, 2), broadcast=True), size=SIZES["source_size"],
          stride=integer(2, low=1, high=1024), follows="labels"),
    Trial(dift.region_similarity, mask=array(LABELS[0] > 0, masks=True), truth=array(LABELS[1] > 0, masks=True)),
    Trial(dift.boundary_accuracy, mask=array(LABELS[0] > 0, masks=True), truth=array(LABELS[1] > 0, masks=True), width=real(0.1, low=0, above=True)),
    Trial(dift.propagate_edit, source_map=array(SOURCE, free=(1, 2), grow=(1, 2)), target_map=array(SOURCE, free=(1, 2), grow=(1, 2)),
          sticker=array(STICKER, low=0, high=1, free=(1, 2), grow=(1, 2)), target_image=array(PICTURE, low=0, high=1, free=(1, 2), grow=(1, 2)),
          max_points=integer(50, low=4), threshold=real(30.0, low=0, above=True), rng=integer(0, low=0), convention=CONVENTION, similarity=choice("l2"),
          after=lambda edit: edit.image, slow=0.3, follows="source_map", names={"source_map": ("source",), "target_map": ("target",)}),
    Trial(dift.feature_colours, maps=instance(lambda: [SOURCE, TARGET], wrong=[[SOURCE, TARGET[:4]], [SOURCE * float("nan")], [SOURCE[0]], [[1.0]], [3]])),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(dift, TRIALS) == set()
