"""The bench against pictures whose answers are known: identical pictures, shifted scenes, still clips, slow loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.measures.correspondence import HomographyPairs, PointPairs, homography_pairs, semantic_pairs
from helpers.measures.matching import carry, find, match_views, pair_maps, results, score_masks, score_views, view_maps, view_points
from helpers.methods.diffusion_features import pck_table
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pairs():
    return semantic_pairs(5, 2, categories=("cat", "lamp"))


def random_maps(count, channels, height, width, seed=0):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def views(names, homography, size=32):
    """Pairs of blank views of scenes `names`."""
    count = len(names)
    blank, valid = torch.zeros(count, 3, size, size), torch.ones(count, size, size, dtype=torch.bool)
    return HomographyPairs(blank, blank, homography.expand(count, 3, 3), valid, ["viewpoint"] * count, list(names))


def shift(x, y):
    return torch.tensor([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------------- semantic pairs


def test_each_side_is_described_with_its_own_pictures_and_captions(pairs):
    asked = []

    def maps(images, captions):
        asked.append((images, captions))
        return random_maps(len(images), 5, 4, 3)

    source, target = pair_maps(maps, pairs, caption="see a {}")
    assert source.shape == target.shape == (4, 5, 4, 3)
    assert [captions for _, captions in asked] == [["see a cat"] * 2 + ["see a lamp"] * 2] * 2
    assert torch.equal(asked[0][0], pairs.source) and torch.equal(asked[1][0], pairs.target)
    assert pair_maps(lambda images, captions: captions and maps(images, captions), pairs)[0].shape[0] == 4


def test_several_settings_come_back_under_their_keys(pairs):
    source, target = pair_maps(lambda images, captions: {(0, 1): random_maps(4, 2, 3, 3), "x": random_maps(4, 6, 2, 2)}, pairs)
    assert {key: one.shape for key, one in source.items()} == {key: one.shape for key, one in target.items()} == {(0, 1): (4, 2, 3, 3), "x": (4, 6, 2, 2)}


def test_a_picture_matched_with_itself_finds_every_pixel(pairs):
    points = [p.round() for p in pairs.source_points]
    maps = random_maps(4, 16, 64, 64)
    found = find(maps, maps, replace(pairs, source_points=points))
    assert all(torch.equal(f.float(), p.float()) for f, p in zip(found, points, strict=True))


def test_no_answer_is_a_wrong_answer(pairs):
    found = [p.clone() for p in pairs.target_points]
    table = pck_table(results(found, pairs))[0.1]
    assert table.per_point == table.per_image == table.macro == 100 and set(table.by_category) == {"cat", "lamp"}
    found[0][:] = torch.nan
    some, every = len(found[0]), sum(map(len, found))
    table = pck_table(results(found, pairs))[0.1]
    assert table.per_image == 75 and table.per_point == pytest.approx(100 * (every - some) / every)


@pytest.mark.parametrize("wrong", [lambda images, captions: images[:, 0], lambda images, captions: images[:1], lambda images, captions: {0: images[:1]}])
def test_maps_of_another_shape_are_refused(pairs, wrong):
    with pytest.raises(ValueError, match="maps must return"):
        pair_maps(wrong, pairs)


def test_counts_must_agree(pairs):
    maps = random_maps(3, 2, 4, 4)
    with pytest.raises(ValueError, match=r"source_maps must be numbers \(4, C, h, w\), got shape \(3, 2, 4, 4\)"):
        find(maps, maps, pairs)
    with pytest.raises(ValueError, match="source_maps must hold one entry for each of the 4 pairs, got 3"):
        find(list(maps), maps, pairs)
    with pytest.raises(ValueError, match="target_maps must have the 2 channels of source_maps, got 3"):
        find(random_maps(4, 2, 4, 4), random_maps(4, 3, 4, 4), pairs)
    with pytest.raises(ValueError, match="found"):
        results([], pairs)


# ------------------------------------------------------------------------------------------------------------------ views of a scene


def test_a_scene_is_described_once():
    seen = []

    def maps(images, captions):
        seen.append(len(images))
        assert captions == [""] * len(images)
        return random_maps(len(images), 2, 3, 4, seed=len(seen))

    source, target = view_maps(maps, views("aabba", shift(0, 0)))
    assert seen == [2, 5] and source.shape == target.shape == (5, 2, 3, 4)
    assert torch.equal(source[0], source[4]) and torch.equal(source[2], source[3]) and not torch.equal(source[0], source[2])
    source, target = view_maps(lambda images, captions: {1: maps(images, captions)}, views("ab", shift(0, 0)))
    assert source[1].shape == target[1].shape == (2, 2, 3, 4)


def test_a_shifted_scene_is_matched_and_its_homography_found():
    field = random_maps(1, 16, 32, 36)
    source, target = field[..., 4:], field[..., :32]  # what is at x in the source is at x + 4 in the target
    scene = views("a", shift(4, 0))
    here = torch.tensor([[2, 3], [20, 5], [9, 27], [25, 30], [14, 14], [6, 21]]).float()
    points = [here], [here + torch.tensor([4.0, 0])]
    for convention in ("paper", "consistent"):
        found = match_views(source, target, scene, points, convention=convention)
        assert torch.equal(found[0].target, found[0].source + torch.tensor([4.0, 0])) and len(found[0]) == 6
        scores = score_views(found, scene)
        assert scores.correct.tolist() == scores.found.tolist() == [6] and scores.corner_error[0] < 1e-6
    wrong = score_views(found, views("a", shift(1, 4)), within=4.9)
    assert wrong.correct.tolist() == [0] and wrong.corner_error[0] == pytest.approx(5)
    assert score_views(found, views("a", shift(1, 4)), within=5).correct.tolist() == [6]
    assert score_views(found, scene, method=None).corner_error.isinf().all()


def test_nothing_to_match_is_no_error():
    none, some = torch.zeros(0, 2), torch.ones(3, 2)
    scene, maps = views("ab", shift(0, 0)), random_maps(2, 3, 8, 8)
    found = match_views(maps, maps, scene, ([none, some], [some, none]))
    scores = score_views(found, scene)
    assert scores.correct.tolist() == scores.found.tolist() == [0, 0] and scores.corner_error.isinf().all()
    line = torch.stack([torch.arange(5.0), torch.arange(5.0)], 1)
    scores = score_views([PointPairs(line, line), PointPairs(line[:3], line[:3])], scene)
    assert scores.correct.tolist() == [5, 3] and scores.corner_error.isinf().all()


def test_corners_of_real_scenes():
    scenes = homography_pairs(3, scenes=1, per_scene=1, kinds=("illumination",), size=64)
    here, there = view_points(scenes, 30)
    assert 0 < len(here[0]) <= 30 and 0 < len(there[0]) <= 30


# ----------------------------------------------------------------------------------------------------------------------------- clips


def test_masks_are_scored_object_by_object():
    labels = torch.zeros(3, 8, 8, dtype=torch.long)
    labels[:, :4, :4], labels[:, 5:, 5:] = 1, 2
    perfect = score_masks(labels, labels)
    assert perfect.region.shape == perfect.boundary.shape == (2, 2) and (perfect.region == 1).all() and (perfect.boundary == 1).all()
    half = labels.clone()
    half[1, :2, :4] = 0  # half of object 1 is lost in frame 1
    assert score_masks(half, labels).region.tolist() == [[0.5, 1], [1, 1]]
    late = labels.clone()
    late[0][late[0] == 2] = 0
    assert score_masks(labels, late).region.shape == (2, 1)


def test_a_still_clip_keeps_its_mask():
    features = random_maps(1, 6, 4, 5).expand(3, -1, -1, -1)
    labels = torch.zeros(3, 8, 10, dtype=torch.long)
    labels[:, :4, 2:6] = 1
    found = carry(features, labels, window=0, context=1, top_k=1, temperature=0.1)
    cells = found.masks[:, 1::2, 1::2]  # one pixel of each cell: upsampling moves the edges by less
    assert torch.equal(cells, labels[:, 1::2, 1::2]) and found.masks.shape == (3, 8, 10) and (found.region > 0.6).all()


def test_arrays_come_back_as_arrays(pairs):
    maps, scene = random_maps(4, 5, 8, 8), views("ab", shift(0, 0))
    for right, found in zip(find(maps, maps, pairs), find(maps.numpy()[::-1].copy()[::-1], maps, pairs), strict=True):
        assert isinstance(found, np.ndarray) and np.array_equal(found, right)
    assert isinstance(find(list(maps.numpy()), list(maps), pairs)[0], np.ndarray)
    answers = [p.numpy() for p in pairs.target_points]
    assert isinstance(results(answers, pairs)[0].predicted, np.ndarray) and pck_table(results(answers, pairs))[0.1].per_point == 100
    there = [torch.tensor([[2, 3], [20, 5], [9, 27], [25, 30]]).float()] * 2
    matched = match_views(maps[:2].numpy(), maps[:2], scene, (there, there))
    scores = score_views(matched, scene)
    assert isinstance(matched[0].source, np.ndarray) and isinstance(scores.corner_error, np.ndarray) and scores.correct.tolist() == [4, 4]
    labels = torch.zeros(3, 8, 8, dtype=torch.long)
    labels[:, :4, :4] = 1
    carried = carry(random_maps(3, 5, 4, 4), labels, top_k=3)
    for found in (carry(random_maps(3, 5, 4, 4).numpy(), labels.numpy(), top_k=3), carry(random_maps(3, 5, 4, 4).tolist(), labels.tolist(), top_k=3)):
        assert all(isinstance(part, np.ndarray) and np.array_equal(part, right) for part, right in zip(found, carried, strict=True))


def test_maps_may_lie_on_an_accelerator(pairs):
    maps, scene = random_maps(4, 5, 8, 8), views("ab", shift(0, 0))
    there = [torch.tensor([[2, 3], [20, 5], [9, 27], [25, 30]]).float()] * 2
    labels = torch.zeros(3, 8, 8, dtype=torch.long)
    labels[:, :4, :4] = 1
    right = find(maps, maps, pairs), match_views(maps[:2], maps[:2], scene, (there, there)), carry(random_maps(3, 5, 4, 4), labels, top_k=3)
    with Accelerator():
        far = maps.to(DEVICE)
        found = find(far, far, pairs)
        assert all(one.device == DEVICE and torch.equal(near(one), wanted) for one, wanted in zip(found, right[0], strict=True))
        assert pck_table(results(found, pairs)) == pck_table(results(right[0], pairs))
        matched = match_views(far[:2], far[:2], scene, (there, there))
        assert torch.equal(near(matched[0].source), right[1][0].source)
        scores = score_views(matched, scene)
        assert near(scores.correct).tolist() == [4, 4]
        carried = carry(random_maps(3, 5, 4, 4).to(DEVICE), labels.to(DEVICE), top_k=3)
        assert all(torch.equal(near(one), wanted) for one, wanted in zip(carried, right[2], strict=True))


def test_clips_that_do_not_fit_are_refused():
    features, labels = random_maps(2, 3, 4, 4), torch.ones(2, 8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="labels must have the 1 frames of features, got 2"):
        carry(features[:1], labels)
    with pytest.raises(ValueError, match="one multiple"):
        carry(features, torch.ones(2, 8, 12, dtype=torch.long))
    with pytest.raises(ValueError, match="object in frame 0"):
        score_masks(labels * 0, labels * 0)
    with pytest.raises(ValueError, match=r"labels must have the shape of masks, \(1, 8, 8\), got \(2, 8, 8\)"):
        score_masks(labels[:1], labels)
