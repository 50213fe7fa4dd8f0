"""Descriptors and what they match against explicit upsampling, slow loops written from the formulas, worked numbers and closed forms."""

import math
import resource

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from helpers.methods.diffusion_features import (
    Pair,
    boundary_accuracy,
    corner_error,
    describe,
    feature_colours,
    first_mask_to_labels,
    fit_homography,
    homography_accuracy,
    labels_to_masks,
    match,
    matches,
    mutual_matches,
    nearest,
    pck,
    pck_table,
    propagate_edit,
    propagate_labels,
    region_similarity,
    similarity_map,
)
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
CONVENTIONS = ("paper", "consistent", "official")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


# ------------------------------------------------------------------------------------------------- descriptors and matches


def upsampled(maps, size, convention):
    """The whole map at the size of the image, by the definition of each convention; (B, C, H, W)."""
    if convention != "official":
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=convention == "consistent")
    y, x = torch.meshgrid(*(torch.arange(n, dtype=maps.dtype) for n in size), indexing="ij")
    cy, cx = (size[0] - 1) / 2, (size[1] - 1) / 2
    grid = torch.stack([(x - cx) / cx, (y - cy) / cy], -1)
    return F.grid_sample(maps, grid.expand(len(maps), -1, -1, -1), align_corners=False)


def cosines_the_long_way(source, targets, points, source_size, target_size, convention):
    wanted = upsampled(source[None], source_size, convention)[0][:, points[:, 1], points[:, 0]].T
    return F.cosine_similarity(wanted[None, :, :, None, None], upsampled(targets, target_size, convention)[:, None], dim=2)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [(20, 33), (7, 9), (5, 4), (2, 2)])
def test_descriptors_are_pixels_of_the_upsampled_map(convention, size):
    maps = randn(2, 6, 5, 4).double()
    points = torch.cartesian_prod(torch.arange(size[1]), torch.arange(size[0]))
    wanted = upsampled(maps, size, convention)[:, :, points[:, 1], points[:, 0]].mT
    torch.testing.assert_close(describe(maps, points, size=size, convention=convention), wanted)
    torch.testing.assert_close(describe(maps[1], points, size=size, convention=convention), wanted[1])


def test_conventions_at_the_border_by_hand():
    ramp = torch.arange(4.0).expand(1, 1, 4)  # (C, h, w) whose value is the cell's column
    ends = torch.tensor([[0.0, 0], [15, 0]])
    assert describe(ramp, ends, size=(2, 16), convention="paper").flatten().tolist() == [0, 3]
    assert describe(ramp, ends, size=(2, 16), convention="consistent").flatten().tolist() == [0, 3]
    far = describe(ramp + 1, ends, size=(2, 16), convention="official").flatten()
    assert torch.allclose(far, torch.tensor([0.5, 2.0]) * 0.5)  # half a cell outside along both axes: half of it is padding
    half = describe(torch.ones(1, 5, 4), torch.tensor([[0.0, 4]]), size=(9, 16), convention="official")
    assert float(half) == pytest.approx(0.5)


def test_half_precision_maps_are_described_in_float32():
    assert describe(randn(6, 5, 4).half(), [[1, 2]], size=(10, 8)).dtype == torch.float32


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_matches_are_the_argmax_over_the_upsampled_map(convention):
    source, targets = randn(6, 5, 4).double(), randn(3, 6, 4, 7, seed=1).double()
    points = torch.tensor([[0, 0], [32, 19], [5, 11], [17, 3]])
    wanted = cosines_the_long_way(source, targets, points, (20, 33), (18, 25), convention).nan_to_num()
    for memory_mb in (256, 0.001):  # one band, and one point and row at a time
        found = match(source, targets, points, source_size=(20, 33), target_size=(18, 25), convention=convention, memory_mb=memory_mb)
        best = wanted.flatten(2).argmax(2)
        assert torch.equal(found.points, torch.stack([best % 25, best // 25], -1))
        torch.testing.assert_close(found.similarity, wanted.flatten(2).amax(2))
    one = match(source, targets[1], points, source_size=(20, 33), target_size=(18, 25), convention=convention)
    assert torch.equal(one.points, found.points[1]) and torch.allclose(one.similarity, found.similarity[1])
    heat = similarity_map(source, targets, (5, 11), source_size=(20, 33), target_size=(18, 25), convention=convention)
    torch.testing.assert_close(heat, wanted[:, 2])
    torch.testing.assert_close(similarity_map(source, targets[2], [5, 11], source_size=(20, 33), target_size=(18, 25), convention=convention), wanted[2, 2])


@pytest.mark.parametrize("find", [match, nearest])
def test_a_picture_that_is_not_square_finds_itself_everywhere(find):
    maps, (height, width) = randn(6, 5, 9), (23, 41)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)
    sizes = dict(source_size=(height, width), target_size=(height, width), convention="consistent")
    assert torch.equal(find(maps, maps, points, **sizes).points, points)
    inner = points[x.flatten() < height]  # swapped, these still lie inside, and only the diagonal finds itself
    swapped = (find(maps, maps, inner.flip(1), **sizes).points == inner).all(1)
    assert torch.equal(swapped, inner[:, 0] == inner[:, 1])
    with pytest.raises(ValueError, match="points must lie in the image of height 23 and width 41"):
        find(maps, maps, points.flip(1), **sizes)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_nearest_is_the_least_distance_of_unit_cells_that_were_sampled(convention):
    source, target, points = randn(4, 3, 5), randn(4, 6, 4, seed=1), torch.tensor([[0, 0], [6, 3], [9, 7], [4, 6]])
    sizes = dict(source_size=(8, 10), target_size=(13, 9), convention=convention)
    source_pixels, target_pixels = (upsampled(F.normalize(m, dim=0)[None], size, convention)[0] for m, size in ((source, (8, 10)), (target, (13, 9))))
    found = nearest(source, target, points, **sizes)
    for (x, y), answer, value in zip(points.tolist(), found.points.tolist(), found.similarity, strict=True):
        distance = (target_pixels - source_pixels[:, y, x][:, None, None]).norm(dim=0)
        assert answer == [int(distance.argmin()) % 9, int(distance.argmin()) // 9] and float(value) == pytest.approx(-float(distance.min()), abs=1e-5)
    assert torch.equal(nearest(source, target, points, **sizes, memory_mb=1e-4).points, found.points)
    assert torch.equal(nearest(5 * source, 0.1 * target, points, **sizes).points, found.points)


def test_an_edit_is_matched_as_the_official_code_does():
    source, target = torch.ones(2, 2, 2), torch.tensor([[10.0, 0.0], [0.0, 1.0]])[:, None].expand(2, 2, 2)  # cells (10, 0) left, (0, 1) right
    options = dict(source_size=(5, 5), target_size=(5, 5), convention="consistent")
    assert nearest(source, target, torch.tensor([[0, 0]]), **options).points.tolist() == [[2, 0]]  # (0.5, 0.5) lies nearest to (0.71, 0.71)
    assert match(source, target, torch.tensor([[0, 0]]), **options).points.tolist() == [[3, 0]]  # (2.5, 0.75) points most nearly that way
    sticker = torch.zeros(4, 5, 5)
    sticker[3] = 1
    maps = coordinates(5, 5)
    options = dict(max_points=25, threshold=1.0)
    by = {similarity: propagate_edit(maps, maps, sticker, torch.zeros(3, 5, 5), similarity=similarity, **options) for similarity in ("l2", "cosine")}
    assert torch.equal(by["l2"].matches.points, by["l2"].source) and torch.equal(by["cosine"].matches.points, by["cosine"].source)
    assert torch.equal(propagate_edit(maps, maps, sticker, torch.zeros(3, 5, 5), **options).matches.similarity, by["l2"].matches.similarity)
    with pytest.raises(ValueError, match="similarity must be one of l2, cosine"):
        propagate_edit(maps, maps, sticker, torch.zeros(3, 5, 5), similarity="dot")


def test_nearest_refuses():
    maps, points, sizes = randn(3, 4, 5), torch.zeros(1, 2), dict(source_size=(8, 8), target_size=(8, 8))
    for change, text in (
        (dict(target_map=maps[:2]), "target_map must have the 3 channels"), (dict(points=points + 9), "points must lie in the image"),
        (dict(memory_mb=0), "memory_mb must be"), (dict(target_size=(8,)), "target_size must be"),
        (dict(source_map=maps * math.nan), "source_map must be finite"),
        (dict(convention="half"), "convention must be one of"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            nearest(**{**dict(source_map=maps, target_map=maps, points=points), **sizes, **change})


def test_the_norm_survives_neighbours_that_cancel():
    f = randn(4, 1, 2)
    f = torch.cat([f[..., :1], -f[..., :1]], -1).expand(-1, 3, -1)  # opposite neighbours: zero half-way
    heat = similarity_map(f, f, (0, 0), source_size=(3, 9), target_size=(3, 9), convention="consistent")
    assert heat.isfinite().all() and heat.abs().max() < 1.001 and abs(float(heat[1, 4])) < 0.01
    assert similarity_map(f, torch.zeros(4, 3, 2), (0, 0), source_size=(3, 9), target_size=(3, 9)).eq(0).all()


def test_large_maps_are_never_upsampled():
    """1280 channels at 768 x 768 would be 3 GB."""
    source, target = (randn(1280, 48, 48, seed=seed) for seed in (0, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = match(source, target, torch.tensor([[0, 0], [400, 300], [767, 767]]), source_size=(768, 768), target_size=(768, 768))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # kB
    at = [describe(target, found.points[i : i + 1], size=(768, 768))[0] for i in range(3)]
    wanted = describe(source, torch.tensor([[0, 0], [400, 300], [767, 767]]), size=(768, 768))
    for i in range(3):
        assert float(F.cosine_similarity(at[i], wanted[i], dim=0)) == pytest.approx(float(found.similarity[i]), abs=1e-5)


def test_match_refuses():
    f, p, sizes = randn(6, 5, 4), [[1, 2]], dict(source_size=(20, 16), target_size=(20, 16))
    for bad, text in (
        (torch.zeros(0, 2), "points must be numbers .* and not empty"), ([], "points must be"), ([[16, 2]], "points must lie in the image"),
        ([[1, -1]], "must lie"), ([[math.nan, 2]], "points must be finite"), ([[1, 2, 3]], "points must be"),
        ([[17, 2]], "as row, column they would: swap them"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            match(f, f, bad, **sizes)
        with pytest.raises(ValueError, match=text):
            describe(f, bad, size=(20, 16))
    for bad in ("here", [[True, False]], [["1", "2"]], {"x": 1}, [[1j, 2]], torch.zeros(1, 2, device="meta"), (row for row in ())):
        with pytest.raises(TypeError, match=r"points must be numbers \(K, 2\) as x, y, got"):
            match(f, f, bad, **sizes)
    with pytest.raises(ValueError, match="target_map must have the 6 channels"):
        match(f, f[:5], p, **sizes)
    with pytest.raises(ValueError, match="source_map must be finite"):
        match(f * math.nan, f, p, **sizes)
    with pytest.raises(TypeError, match="target_map must be numbers .* got bool tensor"):
        match(f, f > 0, p, **sizes)
    with pytest.raises(ValueError, match="source_map must be"):
        match(f[None], f, p, **sizes)
    with pytest.raises(ValueError, match="convention must be one of paper, consistent, official"):
        match(f, f, p, **sizes, convention="dift")
    with pytest.raises(ValueError, match=r"target_size must be an integer in 2\.\.65536, got 1"):
        match(f, f, p, source_size=(20, 16), target_size=(1, 16))
    with pytest.raises(ValueError, match=r"target_size must be an integer in 2\.\.65536, got 1000000000"):
        match(f, f, p, source_size=(20, 16), target_size=(20, 10**9))
    with pytest.raises(ValueError, match=r"source_size must be \(height, width\), got \(20,\)"):
        match(f, f, p, source_size=(20,), target_size=(20, 16))
    for bad in (20, np.array(20), torch.ones(2, dtype=torch.long, device="meta"), "2016", {20: 16}):
        with pytest.raises(TypeError, match="source_size must be a sequence, got"):
            match(f, f, p, source_size=bad, target_size=(20, 16))
    with pytest.raises(ValueError, match="memory_mb must be"):
        match(f, f, p, **sizes, memory_mb=0)
    with pytest.raises(TypeError, match="memory_mb must be"):
        match(f, f, p, **sizes, memory_mb="1")
    with pytest.raises(TypeError, match="point must be"):
        similarity_map(f, f, 3, **sizes)
    with pytest.raises(ValueError, match="point must lie in the image"):
        similarity_map(f, f, (16, 2), **sizes)


def test_mutual_neighbours_by_hand():
    a, b = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [0.9, 0.1], [-1, 0]])
    assert float(F.cosine_similarity(a[1], b[1], dim=0)) == pytest.approx(0.110, abs=5e-4)
    assert mutual_matches(a, b).tolist() == [[0, 0]]


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
def test_mutual_neighbours_against_a_loop_and_swapped(similarity):
    a, b = randn(9, 5).double(), randn(12, 5, seed=1).double()

    def score(x, y):
        return float(x @ y / x.norm() / y.norm()) if similarity == "cosine" else -float((x - y).square().sum())

    table = [[score(x, y) for y in b] for x in a]
    wanted = [[i, j] for i in range(9) for j in range(12) if table[i][j] == max(table[i]) and table[i][j] == max(row[j] for row in table)]
    found = mutual_matches(a, b, similarity=similarity)
    assert found.tolist() == wanted and wanted
    assert sorted(mutual_matches(b, a, similarity=similarity).flip(1).tolist()) == wanted
    for bad, text in (((a, b[:, :4]), "b must have the 5 channels"), ((a[:0], b), "a must be"), ((a, b * math.nan), "b must be finite")):
        with pytest.raises(ValueError, match=text):
            mutual_matches(*bad)
    with pytest.raises(ValueError, match="similarity must be one of cosine, l2"):
        mutual_matches(a, b, similarity="l1")


# -------------------------------------------------------------------------------------------- array-likes and accelerators

MAPS, OTHER, PLACES = randn(6, 5, 4), randn(2, 6, 4, 7, seed=1), torch.tensor([[0, 0], [15, 19], [5, 11], [9, 3]])
SIZES = dict(source_size=(20, 16), target_size=(18, 25))
FRAMES, FIRST = randn(3, 6, 4, 5), F.one_hot(torch.arange(20).reshape(4, 5) % 3).permute(2, 0, 1).float()
HERE = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 100
STICKER, PICTURE = torch.zeros(4, 20, 16), torch.full((3, 18, 25), 0.5)
STICKER[1:, 4:12, 3:9] = 1
# each: a call, and its arguments that are tensors, the one first whose kind the result has
CALLS = {
    "describe": (lambda maps, points: describe(maps, points, size=(20, 16)), MAPS, PLACES),
    "match": (lambda a, b, points: match(a, b, points, **SIZES), MAPS, OTHER, PLACES),
    "nearest": (lambda a, b, points: nearest(a, b, points, **SIZES), MAPS, OTHER[0], PLACES),
    "similarity_map": (lambda a, b, point: similarity_map(a, b, point, **SIZES), MAPS, OTHER, PLACES[2]),
    "mutual_matches": (mutual_matches, randn(9, 5), randn(12, 5, seed=1)),
    "mutual_matches, l2": (lambda a, b: mutual_matches(a, b, similarity="l2"), randn(9, 5), randn(12, 5, seed=1)),
    "pck": (pck, PLACES.float() + 1, PLACES, torch.tensor([0, 0, 10, 12])),
    "pck_table": (lambda p, q, box: pck_table([(p, q, box)]), PLACES.float() + 1, PLACES, torch.tensor([0, 0, 10, 12])),
    "fit_homography": (fit_homography, HERE, HERE @ torch.tensor([[1.1, 0.1], [-0.05, 0.9]])),
    "corner_error": (lambda a, b: corner_error(a, b, (48, 64)), torch.tensor([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]]), torch.eye(3)),
    "homography_accuracy": (homography_accuracy, torch.tensor([0.5, 2.9, 3, 9])),
    "propagate_labels": (lambda features, first: propagate_labels(features, first, top_k=5), FRAMES, FIRST),
    "first_mask_to_labels": (lambda mask: first_mask_to_labels(mask, (3, 4)), torch.arange(48).reshape(6, 8) % 5),
    "labels_to_masks": (lambda labels: labels_to_masks(labels, (9, 10), stride=2), FIRST),
    "region_similarity": (region_similarity, FIRST[0] > 0, FIRST[1] > 0),
    "boundary_accuracy": (boundary_accuracy, FIRST[0] > 0, FIRST[1] > 0),
    "propagate_edit": (lambda a, b, s, t: propagate_edit(a, b, s, t, threshold=30), MAPS, MAPS, STICKER, PICTURE),
    "feature_colours": (lambda a, b: feature_colours([a, b]), MAPS, OTHER[0]),
}
FORMS = {
    "reversed": lambda x: x.numpy()[::-1].copy()[::-1],
    "big-endian": lambda x: x.numpy().astype(x.numpy().dtype.newbyteorder(">")),
    "read-only": lambda x: np.frombuffer(x.numpy().tobytes(), x.numpy().dtype).reshape(x.shape),
    "a list": lambda x: x.tolist(),
    "pandas": lambda x: pd.DataFrame(x.numpy(), index=range(50, 50 + len(x))) if x.ndim == 2 else x.numpy(),
    "a list of tensors": list,
    "a gradient": lambda x: x.clone().requires_grad_() if x.is_floating_point() else x,
}


def parts(found):
    """All that a result holds."""
    if isinstance(found, dict):
        return [part for key, value in found.items() for part in (key, *parts(value))]
    return [part for value in found for part in parts(value)] if isinstance(found, list | tuple) else [found]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", CALLS)
def test_any_array_is_taken_and_its_kind_comes_back(call, form):
    function, *arguments = CALLS[call]
    right = parts(function(*arguments))
    kind = torch.Tensor if form == "a gradient" else np.ndarray
    for changed in ([FORMS[form](one) for one in arguments], [FORMS[form](arguments[0]), *arguments[1:]]):
        if call == "feature_colours" and len({type(one) for one in changed}) > 1:
            continue  # each map comes back as its own kind
        for wanted, found in zip(right, parts(function(*changed)), strict=True):
            if isinstance(wanted, torch.Tensor):
                assert isinstance(found, kind), type(found)
                wanted, found = wanted.numpy(), found.detach().numpy() if kind is torch.Tensor else found
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
            else:
                assert found == pytest.approx(wanted)


@pytest.mark.parametrize("call", CALLS)
def test_tensors_may_lie_on_an_accelerator(call):
    function, *arguments = CALLS[call]
    right = parts(function(*arguments))
    with Accelerator():
        for where in (0, None):  # the first alone there, or all
            found = parts(function(*(one.to(DEVICE) if where in (i, None) else one for i, one in enumerate(arguments))))
            for wanted, one in zip(right, found, strict=True):
                if isinstance(wanted, torch.Tensor):
                    assert one.device == DEVICE or call in ("propagate_edit", "feature_colours")
                    torch.testing.assert_close(near(one), wanted, rtol=1e-5, atol=1e-5)
                else:
                    assert one == pytest.approx(wanted)


def test_whole_numbers_are_features_too():
    maps, labels = torch.randint(256, (6, 5, 4), generator=seeded()).byte(), FIRST.bool()
    found = match(maps, maps.long(), PLACES, source_size=(20, 16), target_size=(20, 16))
    right = match(maps.float(), maps.float(), PLACES, source_size=(20, 16), target_size=(20, 16))
    assert torch.equal(found.points, right.points) and torch.equal(found.similarity, right.similarity)
    assert torch.equal(propagate_labels(FRAMES, labels, top_k=5), propagate_labels(FRAMES, FIRST, top_k=5))
    for dtype in (np.uint16, np.uint32, np.uint64, np.int8):
        assert np.array_equal(first_mask_to_labels(labels[1].numpy().astype(dtype), (4, 5)), [~labels[1].numpy(), labels[1].numpy()])


def test_unsigned_numbers_of_any_size():
    mask = np.array([[0, 200]], dtype=np.uint64)
    assert first_mask_to_labels(mask, (1, 2)).shape == (201, 1, 2)
    assert np.array_equal(describe(np.full((2, 3, 4), 2**63, dtype=np.uint64), [[1, 1]], size=(3, 4)), np.full((1, 2), 2.0**63))


def test_unsigned_tensors_are_whole_numbers():
    places, mask = torch.tensor([[1, 2], [3, 0]]), torch.tensor([[0, 200]])
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        assert torch.equal(describe(MAPS, places.to(dtype), size=(20, 16)), describe(MAPS, places, size=(20, 16)))
        assert torch.equal(first_mask_to_labels(mask.to(dtype), (1, 2)), first_mask_to_labels(mask, (1, 2)))
    huge = torch.full((2, 3, 4), -(2**63)).view(torch.uint64)
    assert torch.equal(describe(huge, [[1, 1]], size=(3, 4)).double(), torch.full((1, 2), 2.0**63, dtype=torch.float64))
    with pytest.raises(TypeError, match="maps must be numbers .* of 16 bits or more, got float8_e4m3fn tensor of shape"):
        describe(MAPS.to(torch.float8_e4m3fn), places, size=(20, 16))


def test_masked_entries_are_refused_by_name():
    hidden = np.ma.masked_less(MAPS.numpy(), 0)
    for given in (hidden, list(hidden)):
        with pytest.raises(ValueError, match=rf"^maps must be .*, got an array with {int((MAPS < 0).sum())} masked entries: fill them, or leave"):
            describe(given, [[1, 2]], size=(20, 16))
    assert np.array_equal(describe(np.ma.masked_array(MAPS.numpy()), [[1, 2]], size=(20, 16)), describe(MAPS.numpy(), [[1, 2]], size=(20, 16)))


def test_points_in_pandas_are_x_and_y():
    points = pd.DataFrame({"x": [1.0, 3], "y": [2.0, 0]}, index=[5, 9])
    assert np.array_equal(describe(MAPS.numpy(), points, size=(20, 16)), describe(MAPS, points.to_numpy(), size=(20, 16)))
    for columns in (["y", "x"], ["row", "col"], ["Row", "Column"]):
        with pytest.raises(ValueError, match=r"points must be \(K, 2\) as x, y, got columns .*: swap them"):
            describe(MAPS, points.set_axis(columns, axis=1), size=(20, 16))
    assert describe(MAPS, points.set_axis(["a", "b"], axis=1), size=(20, 16)).shape == (2, 6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_features_whose_squares_leave_the_range_match_as_others_do(scale):
    for find, target in ((match, OTHER), (nearest, OTHER[0])):
        right, found = (find(s * MAPS, s * target, PLACES, **SIZES) for s in (1, scale))
        assert torch.equal(found.points, right.points) and torch.allclose(found.similarity, right.similarity, atol=1e-5)
    a, b = randn(9, 5), randn(12, 5, seed=1)
    for similarity in ("cosine", "l2"):
        assert torch.equal(mutual_matches(scale * a, scale * b, similarity=similarity), mutual_matches(a, b, similarity=similarity))
    assert torch.equal(mutual_matches(scale * a, 100 * b), mutual_matches(a, b))
    torch.testing.assert_close(propagate_labels(scale * FRAMES, FIRST, top_k=5), propagate_labels(FRAMES, FIRST, top_k=5))


def test_a_descriptor_of_zeros_has_the_cosine_zero():
    maps = torch.zeros(3, 4, 5)
    maps[:, :, 2:] = 1
    found = match(maps, maps, [[0, 0], [4, 3]], source_size=(4, 5), target_size=(4, 5))
    assert found.similarity.tolist() == [0, pytest.approx(1)] and found.points.tolist()[0] == [0, 0]


# ------------------------------------------------------------------------------------------------------------------ PCK


def off_by(*errors):
    truth = torch.full((len(errors), 2), 30.0)
    return truth + torch.tensor([[error, 0] for error in errors]), truth


def test_pck_by_hand():
    predicted, truth = off_by(7.9, 8.0, 8.1)
    assert pck(predicted, truth, (10, 20, 50, 100)).tolist() == [True, True, False]  # max(40, 80) * 0.1 = 8, bound included
    assert pck(*off_by(29.0), (0, 0, 100, 20), alpha=0.29).tolist() == [True]  # though 0.29 * 100 is 28.999999999999996
    right, wrong = off_by(0), off_by(*[99] * 9)
    pairs = [Pair(*right, (0, 0, 10, 10), "cat"), Pair(*wrong, (0, 0, 10, 10), "cat")]
    assert list(pck_table(pairs)) == [0.05, 0.1]
    table = pck_table(pairs, alphas=(0.1, 50))
    assert table[0.1][:3] == (pytest.approx(10), pytest.approx(50), pytest.approx(10))
    assert table[50][:3] == (100, 100, 100)


def test_the_three_aggregates_of_pck_against_loops():
    generator, pairs = seeded(), []
    for k, category in ((3, "cat"), (1, "dog"), (7, "cat"), (2, "fish"), (5, "dog")):
        truth = torch.rand(k, 2, generator=generator) * 50
        pairs.append(Pair(truth + 4 * torch.randn(k, 2, generator=generator), truth, (0, 0, 30, 40), category))
    before = 0
    for alpha, found in pck_table(pairs, alphas=(0.02, 0.05, 0.1, 0.2, 10)).items():
        flags = [[math.dist(p, q) <= alpha * 40 for p, q in zip(pair.predicted.tolist(), pair.truth.tolist())] for pair in pairs]
        assert found.per_point == pytest.approx(100 * sum(map(sum, flags)) / 18)
        assert found.per_image == pytest.approx(100 * sum(sum(f) / len(f) for f in flags) / 5)
        for name in ("cat", "dog", "fish"):
            mine = [x for f, pair in zip(flags, pairs) if pair.category == name for x in f]
            assert found.by_category[name] == pytest.approx(100 * sum(mine) / len(mine))
        assert found.macro == pytest.approx(sum(found.by_category.values()) / 3)
        assert found.per_point >= before
        before = found.per_point
    assert before == 100


def test_pck_refuses():
    good = off_by(1.0, 2.0)
    for box in ((10, 20, 10, 100), (10, 20, 50, 20), (0, 0, -5, 5), (0, 0, math.nan, 5), (1, 2, 3)):
        with pytest.raises(ValueError, match="box must be"):
            pck(*good, box)
    for alpha in (0, -1, math.inf):
        with pytest.raises(ValueError, match="alpha must be"):
            pck(*good, (0, 0, 9, 9), alpha=alpha)
    with pytest.raises(TypeError, match="alpha must be"):
        pck(*good, (0, 0, 9, 9), alpha="0.1")
    with pytest.raises(ValueError, match="predicted must be numbers .* and not empty"):
        pck(torch.zeros(0, 2), torch.zeros(0, 2), (0, 0, 9, 9))
    with pytest.raises(ValueError, match="must have the shape of truth"):
        pck(good[0][:1], good[1], (0, 0, 9, 9))
    with pytest.raises(ValueError, match="truth must be finite"):
        pck(good[0], good[1] * math.nan, (0, 0, 9, 9))
    with pytest.raises(ValueError, match="pairs must be"):
        pck_table([])
    with pytest.raises(ValueError, match="alphas must be"):
        pck_table([Pair(*good, (0, 0, 9, 9))], alphas=())
    for bad, error, text in (
        ([3], TypeError, r"pairs must hold Pair\(predicted, truth, box, category\), got 3 in it"), ([good], TypeError, "pairs must hold Pair"),
        ([Pair(*good, (0, 0, 9, 9), 5)], TypeError, "pairs must have categories that are texts, got 5"), ({}, TypeError, "pairs must be a sequence"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            pck_table(bad)


# ---------------------------------------------------------------------------------------------------------- homographies

TRUE = torch.tensor([[1.1, 0.1, 5], [-0.05, 0.9, 8], [1e-3, -5e-4, 1]], dtype=torch.float64)


def warped(points, matrix=TRUE):
    moved = torch.cat([points.double(), torch.ones(len(points), 1)], 1) @ matrix.T
    return moved[:, :2] / moved[:, 2:]


@pytest.mark.parametrize("method", ["lmeds", "ransac"])
def test_exact_matches_give_the_exact_homography(method):
    points = torch.rand(30, 2, generator=seeded()).double() * 100
    for count in (4, 5, 30):
        fit = fit_homography(points[:count], warped(points[:count]), method=method)
        assert corner_error(fit.matrix, TRUE, (100, 120)) < 1e-6 and fit.inliers.all()


@pytest.mark.parametrize("method", ["lmeds", "ransac"])
def test_outliers_are_found_and_seeds_repeat(method):
    points = torch.rand(60, 2, generator=seeded()).double() * 100
    target = warped(points) + 0.2 * randn(60, 2).double()
    target[:20] = torch.rand(20, 2, generator=seeded(1)).double() * 100
    fit = fit_homography(points, target, method=method, trials=300, rng=3)
    assert corner_error(fit.matrix, TRUE, (100, 100)) < 1.5
    assert fit.inliers[20:].float().mean() > 0.9 and fit.inliers[:20].float().mean() < 0.2
    again = fit_homography(points, target, method=method, trials=300, rng=np.random.default_rng(3))
    assert torch.equal(again.matrix, fit.matrix)
    twice = fit_homography(torch.cat([points, points[:5]]), torch.cat([target, target[:5]]), method=method, trials=300, rng=3)
    assert torch.equal(twice.matrix, fit.matrix) and torch.equal(twice.inliers, torch.cat([fit.inliers, fit.inliers[:5]]))


def test_ransac_bears_what_lmeds_does_not():
    """Beyond half of the matches the median is wrong; RANSAC counts only those that agree."""
    points = torch.rand(40, 2, generator=seeded()).double() * 100
    target = warped(points)
    target[:24] = torch.rand(24, 2, generator=seeded(1)).double() * 100
    ransac, lmeds, plain = (fit_homography(points, target, **options) for options in (dict(method="ransac"), dict(method="lmeds"), {}))
    assert corner_error(ransac.matrix, TRUE, (100, 100)) < 1e-6 and ransac.inliers.tolist() == [False] * 24 + [True] * 16
    assert corner_error(lmeds.matrix, TRUE, (100, 100)) > 5 and torch.equal(plain.matrix, lmeds.matrix)
    # and what counts as an inlier: a threshold in px for one, the median's own spread for the other
    target = warped(points) + 0.2 * randn(40, 2).double()
    few, many = (fit_homography(points, target, method=method, threshold=0.05).inliers.sum() for method in ("ransac", "lmeds"))
    assert few < 20 < 35 < many
    assert fit_homography(points, target, method="ransac").inliers.all()  # 3 px


def test_four_points_fix_a_homography():
    p, q = (torch.rand(3, 4, 2, generator=seeded(s)).double() * 100 for s in (0, 1))
    found = matches._through_four(p, q)
    for i in range(3):
        torch.testing.assert_close(warped(p[i], found[i]), q[i])
    p[0, 2] = (p[0, 0] + p[0, 1]) / 2
    assert not torch.allclose(torch.nan_to_num(warped(p[0], matches._through_four(p, q)[0])), q[0])


def test_corner_errors_by_hand():
    shift = torch.tensor([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    error = corner_error(shift, torch.eye(3), (48, 64))
    assert error == pytest.approx(5) and corner_error(2.5 * shift, shift, (48, 64)) == pytest.approx(0, abs=1e-12)
    assert homography_accuracy([error]) == {1: 0, 3: 0, 5: 100}
    assert homography_accuracy([0.5, 2.9, 3, math.inf]) == {1: 25, 3: 75, 5: 75}
    error, (h, w) = 0, (48, 64)
    for corner in ((0, 0), (w - 1, 0), (0, h - 1), (w - 1, h - 1)):  # each moves by another distance
        (x, y, z) = (TRUE @ torch.tensor([*corner, 1.0], dtype=torch.float64)).tolist()
        error += math.dist((x / z, y / z), corner) / 4
    assert corner_error(TRUE, torch.eye(3), (h, w)) == pytest.approx(error) != corner_error(TRUE, torch.eye(3), (h + 1, w))
    away = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1 / 64, 0, 1]])  # takes the corners at x = 64 to infinity
    assert corner_error(away, torch.eye(3), (48, 65)) == math.inf
    with pytest.raises(ValueError, match="truth must be a homography that keeps the corners"):
        corner_error(torch.eye(3), away, (48, 65))
    scale = torch.diag(torch.tensor([2.0, 1, 1]))  # only the corners at x = w - 1 move, by w - 1
    assert corner_error(scale, torch.eye(3), (48, 64)) == pytest.approx(63 / 2)


def test_homographies_refuse():
    points = torch.rand(5, 2, generator=seeded()) * 100
    with pytest.raises(ValueError, match="at least 4 different matches, got 3"):
        fit_homography(points[:3], points[:3])
    with pytest.raises(ValueError, match="at least 4 different matches, got 3"):
        fit_homography(points[[0, 1, 2, 0, 1]], points[[0, 1, 2, 0, 1]])
    with pytest.raises(ValueError, match="must have the shape"):
        fit_homography(points, points[:4])
    with pytest.raises(ValueError, match="source must be numbers .* and not empty"):
        fit_homography(points[:0], points[:0])
    with pytest.raises(ValueError, match="target must be finite"):
        fit_homography(points, points * math.nan)
    with pytest.raises(ValueError, match="method must be one of lmeds, ransac"):
        fit_homography(points, points, method="magsac")
    for bad in (None, 1.5, True, "0"):
        with pytest.raises(TypeError, match="rng must be an integer >= 0, the seed, or a numpy Generator"):
            fit_homography(points, points, rng=bad)
    for bad in (dict(threshold=0), dict(trials=0), dict(trials=10**12), dict(rng=-1)):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            fit_homography(points, points, **bad)
    line = torch.arange(8.0)[:, None] * torch.tensor([1.0, 2.0])
    for method in ("lmeds", "ransac"):
        for count in (4, 8):
            with pytest.raises(ValueError, match="fit no homography"):
                fit_homography(line[:count], line[:count], method=method, trials=20)
    with pytest.raises(ValueError, match=r"matrix must be numbers \(3, 3\), got shape \(2, 2\)"):
        corner_error(torch.eye(2), torch.eye(3), (9, 9))
    with pytest.raises(ValueError, match="errors must be"):
        homography_accuracy([])
    with pytest.raises(ValueError, match="errors must be"):
        homography_accuracy([math.nan])
    with pytest.raises(ValueError, match="thresholds must be"):
        homography_accuracy([1.0], thresholds=(-1,))


# ------------------------------------------------------------------------------------------------------- label propagation


def propagated_by_loops(features, first, r, m, k, tau):
    """Steps 1 to 5 as they are written, one target cell at a time."""
    count, _, h, w = features.shape
    units = features / features.norm(dim=1, keepdim=True)
    labels = [first]
    for t in range(1, count):
        sources = [0, *range(max(1, t - m), t)]
        out = torch.zeros_like(first)
        for y in range(h):
            for x in range(w):
                weights, values = [], []
                for s in sources:
                    for v in range(h):
                        for u in range(w):
                            affinity = math.exp(float(units[t, :, y, x] @ units[s, :, v, u]) / tau)
                            inside = r == 0 or (abs(y - v) <= r and abs(x - u) <= r)
                            weights.append(affinity * inside)
                            values.append(labels[s][:, v, u])
                kth = sorted(weights, reverse=True)[k - 1]
                weights = [weight if weight >= kth else 0 for weight in weights]
                out[:, y, x] = sum(weight * value for weight, value in zip(weights, values)) / sum(weights)
        labels.append(out)
    return torch.stack(labels)


def soft_labels(k, h, w, seed=5):
    return torch.rand(k, h, w, generator=seeded(seed)).double().softmax(0)


@pytest.mark.parametrize("r, m, k, tau", [(0, 2, 5, 0.1), (1, 2, 5, 0.2), (2, 0, 3, 0.1), (1, 1, 20, 0.5), (9, 3, 1, 0.1)])
def test_propagation_is_the_loop_over_the_formulas(r, m, k, tau):
    features, first = randn(4, 6, 4, 5).double(), soft_labels(3, 4, 5)
    found = propagate_labels(features, first, window=r, context=m, top_k=k, temperature=tau)
    torch.testing.assert_close(found, propagated_by_loops(features, first, r, m, k, tau))
    torch.testing.assert_close(found.sum(1), torch.ones(4, 4, 5).double())
    assert torch.equal(found[0], first)


def test_tiles_change_nothing():
    """A frame of several tiles against one affinity with all cells, masked, in one piece."""
    features, first = randn(3, 6, 21, 18).double(), soft_labels(2, 21, 18)
    units = F.normalize(features, dim=1).flatten(2)
    row, column = torch.arange(21 * 18) // 18, torch.arange(21 * 18) % 18
    for r in (0, 3):
        mask = ((row[:, None] - row).abs() <= r) & ((column[:, None] - column).abs() <= r) if r else torch.ones(21 * 18, 21 * 18, dtype=torch.bool)
        labels = [first.flatten(1)]
        for t in (1, 2):
            weights = torch.cat([(units[t].T @ units[s] / 0.2).exp() * mask for s in range(t)], 1)
            weights = weights * (weights >= weights.topk(15, dim=1).values[:, -1:])
            labels.append(torch.cat(labels, 1) @ (weights / weights.sum(1, keepdim=True)).T)
        for memory_mb in (256, 0.2):
            found = propagate_labels(features, first, window=r, memory_mb=memory_mb)
            torch.testing.assert_close(found, torch.stack(labels).unflatten(2, (21, 18)))


def test_a_window_beyond_the_frame_is_no_window():
    features, first = randn(3, 6, 7, 9).double(), soft_labels(2, 7, 9)
    none = propagate_labels(features, first, window=0)
    torch.testing.assert_close(propagate_labels(features, first, window=9), none)
    assert not torch.allclose(propagate_labels(features, first, window=2), none)


def test_the_window_holds_25_cells_inside_and_9_in_a_corner():
    whole = (slice(0, 7), slice(0, 9))
    counts = matches._mask(whole, whole, 2).sum(1).view(7, 9)
    assert counts[2:5, 2:7].eq(25).all() and counts[0, 0] == counts[6, 8] == 9
    uniform = torch.ones(2, 3, 7, 9)  # all cosines 1: the mean of the labels in the window, at any temperature
    first = torch.zeros(1, 7, 9)
    first[0, 3, 4] = 1
    found = propagate_labels(uniform, first, window=2, top_k=1)[1, 0]
    assert torch.allclose(found.reciprocal()[found > 0], counts[found > 0].float()) and int((found > 0).sum()) == 25
    first = soft_labels(2, 7, 9).float()
    hot = propagate_labels(randn(2, 3, 7, 9), first, window=2, top_k=63, temperature=1e6)[1]
    means = F.avg_pool2d(first, 5, stride=1, padding=2, count_include_pad=False)
    torch.testing.assert_close(hot, means, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tau, weight", [(0.1, 0.99995), (0.2, 0.99331)])
def test_two_sources_by_hand(tau, weight):
    features = torch.tensor([[[1.0, 0]], [[0, 1]]]).expand(2, 2, 1, 2).clone()  # (T, C, 1, 2): cosines 1 and 0
    first = torch.tensor([[[1.0, 0]], [[0, 1]]])
    assert float(propagate_labels(features, first, window=0, top_k=2, temperature=tau)[1, 0, 0, 0]) == pytest.approx(weight, abs=5e-6)
    assert propagate_labels(features, first, window=0, top_k=1, temperature=tau)[1].tolist() == first.tolist()  # the best source's label


def test_ties_at_the_last_kept_weight_are_all_kept():
    features, first = torch.ones(2, 2, 1, 3), torch.tensor([[[1.0, 2, 6]]])
    assert torch.allclose(propagate_labels(features, first, window=0, top_k=1)[1], torch.tensor(3.0))


def test_a_still_video_keeps_its_mask():
    one = randn(1, 8, 6, 5)
    first = first_mask_to_labels(torch.randint(3, (6, 5), generator=seeded()), (6, 5))
    found = propagate_labels(one.expand(5, -1, -1, -1), first, window=2, context=3, top_k=1)
    assert torch.allclose(found, first.expand(5, -1, -1, -1)) and torch.equal(found.argmax(1), first.argmax(0).expand(5, -1, -1))


def test_contexts_are_the_first_frame_and_the_last_few():
    for m in (0, 1, 3, 28):
        assert [len(matches._contexts(t, m)) for t in range(1, 12)] == [min(t, m + 1) for t in range(1, 12)]
    assert matches._contexts(1, 3) == [0] and matches._contexts(3, 2) == [0, 1, 2] and matches._contexts(9, 2) == [0, 7, 8]


def test_cold_temperatures_do_not_overflow():
    found = propagate_labels(randn(3, 8, 6, 5), soft_labels(2, 6, 5).float(), window=2, temperature=1e-3)
    assert found.isfinite().all() and torch.allclose(found.sum(1), torch.ones(()))


def test_propagation_refuses():
    features, first = randn(3, 6, 4, 5), soft_labels(2, 4, 5)
    for change, text in (
        (dict(first_labels=soft_labels(2, 5, 4)), r"first_labels must be \(4, 5\)"), (dict(first_labels=first * math.nan), "first_labels must be finite"),
        (dict(features=features[0]), "features must be"), (dict(features=features[:0]), "features must be"), (dict(top_k=21), "at most the 20 cells"),
        (dict(top_k=10**9), "at most the 20 cells"), (dict(top_k=0), "top_k must be"),
        (dict(window=-1), "window must be"), (dict(context=-1), "context must be"),
        (dict(temperature=0), "temperature must be"), (dict(temperature=math.nan), "temperature must be"),
        (dict(memory_mb=-1), "memory_mb must be"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            propagate_labels(**{**dict(features=features, first_labels=first, top_k=5), **change})
    for change in (dict(features=features > 0), dict(first_labels=[["1"]]), dict(temperature="warm"), dict(window=1.5)):
        with pytest.raises(TypeError, match=f"{next(iter(change))} must be"):
            propagate_labels(**{**dict(features=features, first_labels=first, top_k=5), **change})


def test_masks_become_labels_and_labels_masks():
    mask = torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0], [2, 2, 0, 0]])
    labels = first_mask_to_labels(mask, (2, 2))
    assert labels.shape == (3, 2, 2) and labels.argmax(0).tolist() == [[0, 2], [2, 0]] or labels.argmax(0).tolist() == [[0, 2], [0, 0]]
    assert torch.equal(labels.sum(0), torch.ones(2, 2)) and first_mask_to_labels(mask, (4, 4), num_labels=5).shape == (5, 4, 4)
    assert torch.equal(labels_to_masks(first_mask_to_labels(mask, (4, 4)), (4, 4), stride=1), mask)
    blocks = torch.kron(torch.tensor([[0, 1, 1], [2, 2, 0]]), torch.ones(8, 8, dtype=torch.long))
    found = labels_to_masks(first_mask_to_labels(blocks, (2, 3)), (16, 24), stride=8)
    assert (found == blocks).float().mean() > 0.85 and found[4, 4] == 0 and found[4, 20] == 1 and found[12, 4] == 2
    other = labels_to_masks(first_mask_to_labels(blocks, (2, 3)).expand(4, -1, -1, -1), (17, 31), stride=8)  # a frame that is no multiple of the stride
    assert other.shape == (4, 17, 31) and other.dtype == torch.int64 and torch.equal(other[0], other[3])


def test_min_max_by_hand():
    stretched = matches._min_max(torch.tensor([[[1.0, 2.0]], [[0, 0]], [[-2, -1]], [[3, 3]], [[0.25, 0.5]]]))
    assert stretched.tolist() == [[[0, 1]], [[0, 0]], [[-2, -1]], [[0, 0]], [[0, 1]]]


def test_masks_and_labels_refuse():
    mask = torch.zeros(4, 4, dtype=torch.long)
    for call, error, text in (
        (lambda: first_mask_to_labels(mask.float(), (2, 2)), TypeError, "mask must be integers"),
        (lambda: first_mask_to_labels(mask - 1, (2, 2)), ValueError, "mask must hold integers in 0..65535, got -1"),
        (lambda: first_mask_to_labels(mask[None], (2, 2)), ValueError, "mask must be"),
        (lambda: first_mask_to_labels(mask[:0], (2, 2)), ValueError, "mask must be"),
        (lambda: first_mask_to_labels(mask + 3, (2, 2), num_labels=3), ValueError, "num_labels must be an integer in 4..65536"),
        (lambda: first_mask_to_labels(mask, (0, 2)), ValueError, "size must be"),
        (lambda: labels_to_masks(mask, (4, 4), stride=1), ValueError, "labels must be"),
        (lambda: first_mask_to_labels(mask + 2**40, (2, 2)), ValueError, "mask must hold integers in 0..65535, got 1099511627776"),
        (lambda: labels_to_masks(mask.float(), (4, 4), stride=1), ValueError, "labels must be"),
        (lambda: labels_to_masks(torch.ones(2, 4, 4), (4, 4), stride=0), ValueError, "stride must be"),
        (lambda: labels_to_masks(torch.ones(2, 4, 4), 4, stride=1), TypeError, "size must be"),
    ):
        with pytest.raises(error, match=text):
            call()


def test_region_similarity_by_hand():
    a, b = torch.zeros(4, 5, dtype=torch.bool), torch.zeros(4, 5, dtype=torch.bool)
    assert region_similarity(a, b) == 1
    a[:2, :2], b[1:3, :2] = True, True
    assert region_similarity(a, b) == pytest.approx(2 / 6) and region_similarity(a, a) == 1 and region_similarity(a, ~a) == 0


def boundary_by_loops(mask):
    h, w = mask.shape
    out = torch.zeros_like(mask)
    for y in range(h):
        for x in range(w):
            right, below = min(x + 1, w - 1), min(y + 1, h - 1)
            out[y, x] = mask[y, right] != mask[y, x] or mask[below, x] != mask[y, x] or mask[below, right] != mask[y, x]
    return out


def test_boundary_accuracy_against_distances():
    masks = [F.avg_pool2d(randn(1, 20, 27, seed=s), 5, stride=1, padding=2)[0] > 0.02 for s in (0, 0, 1)]
    masks[1] = masks[1].roll((1, 2), (0, 1))
    for other in masks[1:]:
        a, b = boundary_by_loops(masks[0]).nonzero().double(), boundary_by_loops(other).nonzero().double()
        for width in (0.008, 0.05):
            near = torch.cdist(a, b) <= math.ceil(width * math.hypot(20, 27))
            precision, recall = (float(near.any(d).double().mean()) for d in (1, 0))
            assert boundary_accuracy(masks[0], other, width=width) == pytest.approx(2 * precision * recall / (precision + recall))
    nothing = torch.zeros_like(masks[0])
    assert boundary_accuracy(masks[0], masks[0]) == 1 and boundary_accuracy(nothing, nothing) == 1 and boundary_accuracy(masks[0], nothing) == 0
    far, wide = nothing.clone(), nothing.clone()
    far[2, 2], wide[15:18, 20:25] = True, True
    assert boundary_accuracy(far, wide) == 0


def test_mask_scores_refuse():
    mask = torch.zeros(4, 5, dtype=torch.bool)
    for score in (region_similarity, boundary_accuracy):
        with pytest.raises(TypeError, match="mask must be booleans"):
            score(mask.float(), mask)
        with pytest.raises(ValueError, match=r"truth must be numbers \(H, W\)"):
            score(mask, mask[None])
        with pytest.raises(ValueError, match="must have the shape of truth"):
            score(mask, mask.T)
    with pytest.raises(ValueError, match="width must be"):
        boundary_accuracy(mask, mask, width=0)


# -------------------------------------------------------------------------------------------------------- edits and colours


def coordinates(height, width):
    """A map whose cosines know the place: a point on a sphere for each cell."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).double()


def test_an_edit_moves_with_its_part():
    source = coordinates(32, 40)
    target = source.roll(5, -1)  # everything five pixels to the right
    sticker = torch.zeros(4, 32, 40)
    sticker[0, 8:20, 10:22], sticker[3, 8:20, 10:22] = 1, 0.5
    grey = torch.full((3, 32, 40), 0.25)
    edit = propagate_edit(source, target, sticker, grey)
    shift = torch.tensor([[1.0, 0, 5], [0, 1, 0], [0, 0, 1]])
    assert corner_error(edit.fit.matrix, shift, (32, 40)) < 1e-3 and edit.fit.inliers.all() and len(edit.source) == 144
    torch.testing.assert_close(edit.sticker, sticker.roll(5, -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(edit.image[:, 14, 20], torch.tensor([0.625, 0.125, 0.125]))  # half of red over grey
    assert edit.image.dtype == torch.float32 and torch.equal(edit.image[:, :, :10], grey[:, :, :10])
    assert torch.equal(edit.image, propagate_edit(source, target, sticker, grey).image)
    assert len(propagate_edit(source, target, sticker, grey, max_points=50).source) == 50


def test_an_edit_keeps_its_place_between_images_of_other_sizes():
    sticker = torch.zeros(4, 64, 80)
    sticker[1, 20:40, 30:60], sticker[3, 20:40, 30:60] = 1, 1
    edit = propagate_edit(coordinates(16, 20), coordinates(16, 20), sticker, torch.zeros(3, 32, 40))
    y, x = edit.image[1].gt(0.5).nonzero().T
    assert abs(int(y.min()) - 10) <= 1 and abs(int(y.max()) - 19) <= 1 and abs(int(x.min()) - 15) <= 1 and abs(int(x.max()) - 29) <= 1


def test_an_edit_is_fitted_by_ransac_within_its_threshold():
    source = coordinates(16, 16)
    target = source.roll(2, -1) + 0.05 * randn(3, 16, 16).double()
    sticker = torch.zeros(4, 32, 32)
    sticker[3, 6:22, 6:22] = 1
    for threshold in (1.5, 5.0):
        edit = propagate_edit(source, target, sticker, torch.zeros(3, 32, 32), max_points=80, threshold=threshold, rng=4)
        rng = np.random.default_rng(4)
        rng.choice(256, 80, replace=False)
        fits = {m: fit_homography(edit.source, edit.matches.points, method=m, threshold=threshold, rng=rng) for m in ("ransac", "lmeds")}
        assert torch.equal(edit.fit.matrix, fits["ransac"].matrix) and not torch.equal(edit.fit.matrix, fits["lmeds"].matrix)
    assert torch.equal(propagate_edit(source, target, sticker, torch.zeros(3, 32, 32), max_points=80, rng=4).fit.matrix, edit.fit.matrix)  # 5 px


def test_edits_refuse():
    f, sticker, image = coordinates(8, 8), torch.ones(4, 16, 16), torch.ones(3, 16, 16)
    for change, text in (
        (dict(sticker=torch.zeros(4, 16, 16)), "sticker must have at least 4 pixels"),
        (dict(sticker=image), r"sticker must be numbers \(4, H, W\) in \[0, 1\]"),
        (dict(sticker=2 * sticker), "sticker must be"), (dict(target_image=-image), "target_image must be"), (dict(max_points=3), "max_points must be"),
        (dict(threshold=0), "threshold must be"), (dict(target_map=f[:2]), "target_map must have the 3 channels"),
        (dict(target_map=torch.zeros(3, 8, 8)), "fit no homography: are all points on a line"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            propagate_edit(**{**dict(source_map=f, target_map=f, sticker=sticker, target_image=image), **change})
    with pytest.raises(TypeError, match="sticker must be"):
        propagate_edit(f, f, sticker.byte(), image)


def test_colours_are_joint_principal_components():
    maps = [randn(7, 5, 4) * torch.linspace(3, 0.1, 7)[:, None, None], randn(7, 3, 6, seed=1) + 2]
    found = feature_colours(maps)
    assert [tuple(one.shape) for one in found] == [(3, 5, 4), (3, 3, 6)]
    cells = torch.cat([one.flatten(1).T for one in maps]).double()
    centred = cells - cells.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :3]
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    scores = centred @ directions
    wanted = (scores - scores.amin(0)) / (scores.amax(0) - scores.amin(0))
    torch.testing.assert_close(torch.cat([one.flatten(1).T for one in found]).double(), wanted, atol=1e-5, rtol=0)
    both = torch.cat([one.flatten(1) for one in found], 1)
    assert both.min() == 0 and both.max() == 1
    three = feature_colours([randn(4, 1, 3)])[0]  # the fewest cells that span three components
    assert three.shape == (3, 1, 3) and three.isfinite().all()
    ramp = feature_colours([torch.arange(24.0).reshape(1, 4, 6).expand(5, -1, -1)])[0]  # one component only
    torch.testing.assert_close(ramp[0], torch.linspace(0, 1, 24).reshape(4, 6))
    for bad, text in (
        ([torch.ones(4, 2, 3)], "must not be constant"), ([], "maps must be"), ([maps[0], maps[1][:5]], "same channels"),
        ([maps[0][:2]], "at least three"), ([maps[0] * math.nan], "finite"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            feature_colours(bad)
