"""Odd and wrong inputs of the correspondence tasks, of the peers that describe pictures, and of the bench that matches and scores."""

from dataclasses import replace

import diffusers
import pytest
import torch
import transformers

from helpers.datasets.real import StereoPair, photographs
from helpers.measures import correspondence as tasks
from helpers.measures import matching as bench
from tests.inputs.harness import Trial, array, check, choice, coverage, fixed, flag, function, instance, integer, optional, real, text, texts

torch.set_num_threads(1)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


SEED = integer(3, low=0, wrong=[2**64], either=[2**63])
PAIRS = tasks.semantic_pairs(5, 1, categories=("cat", "lamp"), size=32)
VIEWS = tasks.homography_pairs(3, scenes=1, per_scene=1, size=32)
IMAGES, PICTURE = rand(2, 3, 16, 24), photographs("coins", size=48)["coins"]
LEFT, RIGHT, DISPARITY = rand(3, 40, 64), rand(3, 40, 64, seed=1), torch.full((40, 64), 2.0)
PAIR = StereoPair(LEFT, RIGHT, DISPARITY)
BAD_EYES = [StereoPair(LEFT, RIGHT[:, :, :9], DISPARITY), StereoPair(LEFT * 9, RIGHT, DISPARITY), StereoPair(LEFT, RIGHT, DISPARITY[:9]),
            StereoPair(None, RIGHT, DISPARITY), StereoPair(LEFT, RIGHT, None)]  # fmt: skip
EYES = instance(lambda: PAIR, wrong=BAD_EYES)
COUNT, IMAGE = integer(5, low=1), array(PICTURE, low=0, high=1, free=(1, 2), grow=(1, 2), tolerance=5e-3)
POINTS = array([[10.0, 20], [30, 5]], low=-0.4, high=47.4, free=(0,), grow=(0,), tolerance=5e-3)
torch.manual_seed(0)
VAE = diffusers.AutoencoderKL(
    block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4,
).eval()  # fmt: skip
VIT = transformers.ViTModel(transformers.ViTConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
)).eval()  # fmt: skip
PIXELS = array(IMAGES, low=0, high=1, free=(0,), grow=(0,), tolerance=1e-4)
FOUND = [points + 1 for points in PAIRS.target_points]
MAPS, OTHER = randn(2, 6, 8, 8), randn(2, 6, 8, 8, seed=1)
BOTH = dict(source_maps=array(MAPS, free=(2, 3), grow=(2, 3)), target_maps=array(OTHER, free=(2, 3), grow=(2, 3)))
CORNERS = bench.view_points(VIEWS, 30)
MATCHES = bench.match_views(MAPS, OTHER, VIEWS, CORNERS)
SEMANTIC, FLAT = instance(lambda: PAIRS, wrong=[VIEWS]), instance(lambda: VIEWS, wrong=[PAIRS])
LABELS = torch.zeros(3, 8, 8, dtype=torch.long)
LABELS[:, :4, :4], LABELS[:, 5:, 5:] = 1, 2
PATCHES = function(lambda images, captions: tasks.raw_patches(images, 4, 4))


TRIALS = [
    Trial(tasks.semantic_pairs, seed=SEED, pairs_per_category=integer(1, low=1), categories=texts(["cat", "dog"], options=True), across=flag(True),
          size=integer(32, low=32), styles=optional(choice("photo", either=[("photo", None)])), facing=optional(choice("same")),
          textures=texts(["plain", "striped"], options=True), exclude=fixed(()), slow=0.3),
    Trial(tasks.head_pairs, size=integer(32, low=16), slow=0.1),
    Trial(tasks.confusion, predicted=instance(lambda: FOUND, wrong=[FOUND[:1], [*FOUND, FOUND[0]], [FOUND[0][:1], FOUND[1]], [None, FOUND[1]],
          [FOUND[0] / 0, FOUND[1]]]), pairs=SEMANTIC),
    Trial(tasks.homography_pairs, seed=SEED, source=choice("toy", either=["photographs"]), kinds=texts(["illumination"], options=True),
          scenes=optional(integer(1, low=1)), per_scene=integer(1, low=1, high=1000), size=integer(32, low=32, wrong=[33]),
          jitter=real(0.2, low=0, above=True, high=0.25), slow=0.05),
    Trial(tasks.warp_points, homography=array([[1.1, 0.1, 5], [-0.05, 0.9, 8], [1e-3, -5e-4, 1]], wrong=[torch.zeros(3, 3)]),
          points=array([[10.0, 20], [30, 5]], free=(0,), grow=(0,)), follows="points"),
    Trial(tasks.interest_points, image=IMAGE, count=COUNT, min_distance=integer(2, low=1), follows="image"),
    Trial(tasks.stereo_view, pair=EYES, window=array([4, 2, 36, 34], low=0, wrong=[(40, 2, 36, 34), "4444", 4]), shift=integer(2),
          size=array([32, 64], low=32, wrong=[(33, 64), 32])),
    Trial(tasks.stereo_points, pair=EYES, count=COUNT, seed=SEED),
    Trial(tasks.label_clips, seed=SEED, kind=choice("shapes"), count=integer(1, low=1), frames=integer(2, low=2), size=integer(32, low=32), slow=0.2),
    Trial(tasks.raw_patches, images=PIXELS, patch=integer(4, low=1, wrong=[5, 10**7]), stride=integer(2, low=1, wrong=[3]), follows="images"),
    Trial(tasks.vae_latents, vae=instance(lambda: VAE, wrong=[VIT]), images=PIXELS, slow=0.3, follows="images"),
    Trial(tasks.vit_features, model=instance(lambda: VIT, wrong=[VAE]), images=PIXELS, layer=integer(-1, low=-3, high=2), mean=array([0.5, 0.4, 0.3]),
          std=array([0.5, 0.4, 0.3], low=1e-6), slow=0.3, follows="images"),
    Trial(tasks.sift_matches, a=IMAGE, b=IMAGE, slow=0.02, follows="a"),
    Trial(tasks.sift_transfer, a=IMAGE, b=IMAGE, points=POINTS, slow=0.02, follows="a"),
    Trial(bench.pair_maps, maps=PATCHES, pairs=SEMANTIC, caption=text("a photo of a {}", wrong=["{x}", "{", "{0} {1}"], either=["", "no place"])),
    Trial(bench.find, **BOTH, pairs=SEMANTIC, follows="source_maps"),
    Trial(bench.results, found=instance(lambda: FOUND, wrong=[FOUND[:1], [FOUND[0][:1], FOUND[1]], [None, FOUND[1]], [FOUND[0] / 0, FOUND[1]]]),
          pairs=SEMANTIC),
    Trial(bench.view_maps, maps=PATCHES, pairs=FLAT),
    Trial(bench.view_points, pairs=FLAT, count=COUNT, slow=0.3),
    Trial(bench.match_views, **BOTH, pairs=FLAT, points=instance(lambda: CORNERS, wrong=[CORNERS[:1], (CORNERS[0][:1], CORNERS[1]), ([None] * 2, CORNERS[1]),
          ([p + 99 for p in CORNERS[0]], CORNERS[1])]), convention=choice("paper"), follows="source_maps"),
    Trial(bench.score_views, matches=instance(lambda: MATCHES, wrong=[MATCHES[:1], [None] * 2, [replace(MATCHES[0], source=MATCHES[0].source[:1])] * 2,
          [replace(MATCHES[0], source=MATCHES[0].source / 0)] * 2]), pairs=FLAT, within=real(3.0, low=0), method=optional(choice("lmeds"))),
    Trial(bench.score_masks, masks=array(LABELS.roll(1, 1)), labels=array(LABELS, low=0), follows="masks"),
    Trial(bench.carry, features=array(randn(3, 5, 4, 4), free=(1,), grow=(1,)), labels=array(LABELS, low=0), window=fixed(2), top_k=integer(5, low=1, high=16),
          temperature=real(0.2, low=0, above=True), follows="features"),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


@pytest.mark.parametrize("module", [tasks, bench], ids=lambda module: module.__name__)
def test_every_public_function_is_tried(module):
    assert coverage(module, TRIALS) == set()
