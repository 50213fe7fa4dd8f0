"""Correspondence tasks: their answers against pictures, cameras and slow loops; the peers against hand examples and tiny models."""

import math

import accelerate
import numpy as np
import pytest
import torch
from skimage.transform import ProjectiveTransform, warp

from helpers.datasets.real import StereoPair, marked_heads, photo_clips, photographs, stereo_pair
from helpers.measures import correspondence
from helpers.measures.correspondence import (
    SemanticPairs,
    confusion,
    head_pairs,
    homography_pairs,
    interest_points,
    label_clips,
    raw_patches,
    relatives,
    semantic_pairs,
    sift_features,
    sift_matches,
    sift_transfer,
    stereo_points,
    stereo_view,
    vae_latents,
    vit_features,
    warp_points,
)
from helpers.toyworld.shapes import COLOURS, DIRECTIONS
from helpers.toyworld.skeletons import CATEGORIES, KEYPOINTS
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)


def bilinear(image, points):
    """(N, 3) colours of an image (3, H, W) at points (N, 2), one by one; the top left pixel's centre is (0, 0)."""
    out = []
    for x, y in points.tolist():
        x, y = min(max(x, 0), image.shape[2] - 1.001), min(max(y, 0), image.shape[1] - 1.001)
        j, i = int(x), int(y)
        a, b = x - j, y - i
        out.append((image[:, i, j] * (1 - a) + image[:, i, j + 1] * a) * (1 - b) + (image[:, i + 1, j] * (1 - a) + image[:, i + 1, j + 1] * a) * b)
    return torch.stack(out)


def same(a, b, i, j):
    """Item i of a is item j of b, field by field."""
    for name, value in vars(a).items():
        x, y = value[i], getattr(b, name)[j]
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, name


# ------------------------------------------------------------------------------------------------------------------- semantic pairs


@pytest.fixture(scope="module")
def pairs():
    return semantic_pairs(7, 8, size=96)


def test_pairs_come_in_order_and_hold_what_they_say(pairs):
    assert pairs.source.shape == pairs.target.shape == (72, 3, 96, 96) and pairs.source_box.shape == pairs.target_box.shape == (72, 4)
    assert pairs.source_category == pairs.target_category == [c for c in CATEGORIES for _ in range(8)]
    assert pairs.source.min() >= 0 and pairs.target.max() <= 1
    for i in range(len(pairs)):
        every = KEYPOINTS[pairs.source_category[i]]
        assert pairs.names[i] and list(pairs.names[i]) == [n for n in every if n in pairs.names[i]]
        assert pairs.source_points[i].shape == pairs.target_points[i].shape == (len(pairs.names[i]), 2)
        where = dict(zip(pairs.seen_names[i], pairs.seen_points[i].tolist(), strict=True))
        assert [where[n] for n in pairs.names[i]] == pairs.target_points[i].tolist() and set(where) <= set(every)
        for points, box in ((pairs.source_points[i], pairs.source_box[i]), (pairs.seen_points[i], pairs.target_box[i])):
            assert (points >= box[:2]).all() and (points <= box[2:]).all()


def test_eyes_are_dark_and_the_grounds_corner_is_not_the_creature(pairs):
    at_eye = []
    for i, names in enumerate(pairs.names):
        if "eye" in names:
            at_eye += [float(bilinear(p[i], q[i][names.index("eye")][None]).mean())
                       for p, q in ((pairs.source, pairs.source_points), (pairs.target, pairs.target_points))]  # fmt: skip
    assert len(at_eye) > 60 and np.mean(np.array(at_eye) < 0.3) > 0.9


def test_a_pair_is_the_same_alone_and_among_many(pairs):
    few = semantic_pairs(7, 3, size=96, categories=("fish", "cat"))
    for k in range(3):
        same(few, pairs, k, CATEGORIES.index("fish") * 8 + k)
        same(few, pairs, 3 + k, CATEGORIES.index("cat") * 8 + k)
    assert not torch.equal(semantic_pairs(8, 1, size=96).source, pairs.source[::8])


def test_across_pairs_relatives_only():
    assert relatives("fox") == ("cat", "dog", "rabbit") and relatives("fish") == ("bird",) and relatives("lamp") == ()
    p = semantic_pairs(1, 6, across=True, size=32)
    assert p.source_category == [c for c in CATEGORIES[:6] for _ in range(6)]
    assert all(t in relatives(s) for s, t in zip(p.source_category, p.target_category, strict=True))
    assert len(set(p.target_category[:6])) > 1
    two = semantic_pairs(1, 2, across=True, size=32, categories=("dog", "cat", "car"))
    assert list(zip(two.source_category, two.target_category, strict=True)) == [("dog", "cat")] * 2 + [("cat", "dog")] * 2


@pytest.mark.parametrize("facing", ["same", "opposite"])
def test_facing_is_read_from_the_keypoints(facing):
    p = semantic_pairs(2, 3, facing=facing, size=48, categories=("cat", "fox", "car"))
    front, back = {"nose", "front_foot", "hood", "front_wheel"}, {"tail_base", "tail_tip", "hind_foot", "trunk", "rear_wheel"}
    checked = 0
    for names, a, b in zip(p.names, p.source_points, p.target_points, strict=True):
        f, r = [k for k, n in enumerate(names) if n in front], [k for k, n in enumerate(names) if n in back]
        if f and r:
            sides = [bool(x[f, 0].mean() > x[r, 0].mean()) for x in (a, b)]
            assert (sides[0] == sides[1]) == (facing == "same")
            checked += 1
    assert checked >= 7


def test_styles_are_those_of_each_side():
    p = semantic_pairs(3, 2, styles=("photo", "sketch"), size=48)
    paper = torch.tensor([0.96, 0.95, 0.91])
    on_paper = [(x.flatten(2) - paper[:, None]).abs().amax(1).lt(0.01).float().mean(1) for x in (p.source, p.target)]
    assert on_paper[0].max() < 0.2 and on_paper[1].min() > 0.4
    assert torch.equal(semantic_pairs(3, 2, styles="sketch", size=48).target, p.target)


def test_a_pair_without_a_common_keypoint_is_drawn_again(monkeypatch):
    calls, draw = [], correspondence.creatures

    def blind_at_first(seed, items, **options):
        out = draw(seed, items, **options)
        calls.append(len(items))
        if len(calls) <= 2:
            out.visible[1] = False
        return out

    monkeypatch.setattr(correspondence, "creatures", blind_at_first)
    p, q = semantic_pairs(4, 3, categories="dog", size=32), semantic_pairs(4, 3, categories="dog", size=32)
    assert calls == [3, 3, 1, 1, 3, 3]
    assert torch.equal(p.source[[0, 2]], q.source[[0, 2]]) and not torch.equal(p.source[1], q.source[1]) and len(p.names[1]) > 0


def test_confusion_by_hand():
    blank = torch.zeros(1, 3, 8, 8)
    p = SemanticPairs(
        blank, blank, ["lamp"], ["lamp"], [("top", "neck")], [torch.zeros(2, 2)], [torch.tensor([[1.0, 1], [1, 5]])],
        [("top", "neck", "base_left")], [torch.tensor([[1.0, 1], [1, 5], [6, 7]])], torch.zeros(1, 4), torch.zeros(1, 4),
    )  # fmt: skip
    names, matrix = confusion([torch.tensor([[5.0, 6], [1.2, 3.1]])], p)
    assert names == KEYPOINTS["lamp"]
    expected = torch.zeros(6, 6, dtype=torch.long)
    expected[names.index("top"), names.index("base_left")] = expected[names.index("neck"), names.index("neck")] = 1
    assert torch.equal(matrix, expected)
    assert int(confusion([torch.tensor([[math.nan, math.nan], [1.0, 1]])], p)[1].sum()) == 1
    with pytest.raises(ValueError, match=r"predicted\[0\] must be numbers \(2, 2\), got shape \(3, 2\)"):
        confusion([torch.zeros(3, 2)], p)
    with pytest.raises(ValueError, match="predicted must hold one entry for each of the 1 pairs, got 2"):
        confusion([torch.zeros(2, 2)] * 2, p)


def test_perfect_answers_are_the_diagonal(pairs):
    names, matrix = confusion(pairs.target_points, pairs)
    assert int(matrix.sum()) == int(matrix.diag().sum()) == sum(map(len, pairs.names)) and len(names) == len(set(names)) == matrix.shape[0]


# ----------------------------------------------------------------------------------------------------------------- homography pairs


@pytest.fixture(scope="module")
def views():
    return homography_pairs(5, scenes=2, per_scene=3, size=64)


def test_views_are_what_they_say(views):
    assert len(views) == 12 and views.kind == (["viewpoint"] * 3 + ["illumination"] * 3) * 2 and views.scene == ["toy 0"] * 6 + ["toy 1"] * 6
    assert views.source.shape == views.target.shape == (12, 3, 64, 64) and views.homography.dtype == torch.float64
    assert views.source.min() >= 0 and views.target.max() <= 1 and views.valid.dtype == torch.bool
    lit = [i for i, kind in enumerate(views.kind) if kind == "illumination"]
    assert torch.equal(views.homography[lit], torch.eye(3, dtype=torch.float64).expand(6, 3, 3)) and views.valid[lit].all()
    for i in lit:  # another picture, the same structure
        a, b = (x[i].mean(0).flatten() for x in (views.source, views.target))
        assert (a - b).abs().mean() > 0.01 and torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.8


def test_a_view_is_the_same_alone_and_among_many(views):
    alone = homography_pairs(5, kinds="illumination", scenes=1, per_scene=2, size=64)
    for k in range(2):
        same(alone, views, k, 3 + k)


@pytest.mark.parametrize("seed", [0, 1])
def test_homographies_lead_each_dot_to_its_place(monkeypatch, seed):
    """Dots are found by their centres of mass in both pictures."""
    size = 64

    def dotted(seed, scene, side):
        line = torch.arange(side) + 0.5
        centres = torch.linspace(side * 0.25, side * 0.75, 4)
        x, y = line[None, :], line[:, None]
        rings = [torch.exp(-((x - a).square() + (y - b).square()) / (2 * 2.4**2)) for a in centres for b in centres]
        return torch.stack(rings).sum(0).clamp(0, 1).expand(3, -1, -1)

    monkeypatch.setattr(correspondence, "_toy_canvas", dotted)
    p = homography_pairs(seed, kinds="viewpoint", scenes=1, per_scene=8, size=size)
    line, errors = torch.arange(size).double(), []

    def centre(image, near):
        window = ((line[None, :] - near[0]).square() + (line[:, None] - near[1]).square()) < 5.5**2
        weight = image[0].double() * window
        return torch.stack([(weight * line[None, :]).sum(), (weight * line[:, None]).sum()]) / weight.sum()

    for i in range(8):
        dots = torch.linspace(0.25, 0.75, 4).double() * 96 - 16.5  # the source is the middle two thirds of the canvas, at half its resolution
        for a in dots:
            for b in dots:
                here = centre(p.source[i], (a, b))
                there = warp_points(p.homography[i], here[None])[0]
                if ((there > 6) & (there < size - 6)).all():
                    errors.append(torch.dist(centre(p.target[i], there), there).item())
    assert len(errors) > 70 and max(errors) < 0.4 and np.mean(errors) < 0.1


def test_a_view_reads_the_canvas_at_exact_places():
    ramp = torch.arange(96.0) / 96
    canvas = torch.stack([ramp.expand(96, 96), ramp[:, None].expand(96, 96), torch.zeros(96, 96)])  # x, y
    still, line = torch.eye(3, dtype=torch.float64), torch.arange(32)
    seen, valid = correspondence._view(canvas, still, 32)
    wanted = (16 + 2 * line + 0.5) / 96  # the middle two thirds, two canvas pixels to one
    torch.testing.assert_close(seen[0], wanted.expand(32, 32)), torch.testing.assert_close(seen[1], wanted[:, None].expand(32, 32))
    assert valid.all()
    moved = still.clone()
    moved[0, 2], moved[1, 2] = 3, -2  # what is at x in the source is at x + 3, y - 2
    there, valid = correspondence._view(canvas, moved, 32)
    torch.testing.assert_close(there[0, :, 3:], seen[0, :, :-3]), torch.testing.assert_close(there[1, :-2], seen[1, 2:])
    assert torch.equal(valid, (line >= 3) & (line[:, None] < 30))


def test_a_canvas_is_crowded_with_things_of_several_sizes(monkeypatch):
    asked, placed, paste = {"shapes": set(), "creatures": set()}, [], correspondence._paste
    for name in asked:
        draw = getattr(correspondence, name)
        monkeypatch.setattr(correspondence, name, lambda *a, size, name=name, draw=draw: asked[name].add(size) or draw(*a, size=size))
    monkeypatch.setattr(correspondence, "_paste", lambda c, p, mask, *at: placed.append((len(mask), *at)) or paste(c, p, mask, *at))
    canvas = correspondence._toy_canvas(1, 0, 288)
    assert asked == {"shapes": {35, 46}, "creatures": {49, 60, 75}} and canvas.shape == (3, 288, 288) and len(placed) == 98
    centres = [at + side / 2 for side, *places in placed for at in places]
    assert -5 <= min(centres) and max(centres) <= 293  # 0.6 of a cell from the middle of the outer ones
    assert placed[:3] == [(35, -5, 6), (35, 26, 7), (35, 125, -20)] and placed[49:51] == [(49, -10, 16), (49, 216, -4)]


def test_what_a_seed_gives_stays():
    pairs = semantic_pairs(7, 3, size=48, categories=("cat", "lamp"))
    assert [len(names) for names in pairs.names] == [9, 11, 11, 6, 6, 5] and set(pairs.names[0]).isdisjoint({"ear_tip", "ear_base"})
    across = semantic_pairs(1, 3, across=True, size=32, categories=("cat", "dog", "rabbit", "fox")).target_category
    assert across == ["dog", "dog", "rabbit", "fox", "rabbit", "rabbit", "dog", "cat", "dog", "cat", "cat", "rabbit"]
    views = homography_pairs(5, kinds="viewpoint", scenes=1, per_scene=2, size=32).homography
    wanted = [[[1.91, 0.25793, -12.695], [0.3377, 1.517, -1.3842]], [[0.6877, 0.0061291, 3.1759], [-0.054033, 0.85519, 1.2996]]]
    torch.testing.assert_close(views[:, :2], torch.tensor(wanted, dtype=torch.float64), rtol=1e-3, atol=1e-4)
    first, line = label_clips(3, "photographs", count=2, frames=3, size=32).labels[:, 0], torch.arange(32.0)
    centres = [[float((mask * axis).sum() / mask.sum()) for axis in (line, line[:, None])] for labels in first for mask in (labels == 1, labels == 2)]
    assert np.allclose(centres, [[16.9, 9.2], [14.3, 21.7], [9.5, 17.7], [21.5, 13.3]], atol=0.3)


def test_targets_and_masks_agree_with_scikit_image(views):
    for i in (0, 1, 2, 8):
        back = np.linalg.inv(views.homography[i].numpy())  # scikit-image's pixel centres are whole numbers too
        picture = warp(views.source[i].permute(1, 2, 0).numpy(), ProjectiveTransform(back), order=1, mode="constant", cval=-1)
        known = torch.from_numpy((picture >= 0).all(-1))
        assert views.valid[i][known].all() and (views.valid[i] & ~known).float().mean() < 0.1
        away = (views.target[i].permute(1, 2, 0) - torch.from_numpy(picture)).abs().mean(-1)[known]
        assert away.mean() < 0.06 < (views.target[i] - views.source[i]).abs().mean()
        row, column = 17, 40
        back_there = warp_points(torch.linalg.inv(views.homography[i]), torch.tensor([[column, row]]))[0]
        assert bool(views.valid[i, row, column]) == bool(((back_there >= -0.5) & (back_there <= 63.5)).all())
    assert views.valid.flatten(1).float().mean(1).min() > 0.4


def test_target_corners_stay_within_the_jitter():
    p = homography_pairs(0, source="photographs", kinds="viewpoint", scenes=1, per_scene=12, size=32, jitter=0.2)
    corners = torch.tensor([[0, 0], [32, 0], [32, 32], [0, 32]]).double() - 0.5
    away = torch.stack([warp_points(torch.linalg.inv(h), corners) - corners for h in p.homography]).abs()
    assert away.max() <= 6.4 + 1e-6 and away.max() > 5


def test_photographs_are_photographs():
    p = homography_pairs(0, source="photographs", kinds="illumination", scenes=6, per_scene=1, size=32)
    assert p.scene == list(correspondence.TEXTURED_PHOTOGRAPHS)
    whole = photographs("astronaut", size=48)["astronaut"][:, 8:40, 8:40]
    assert (p.source[0] - whole).abs().mean() < 0.03


def test_interest_points_are_the_corners_of_a_square():
    image = torch.zeros(3, 40, 60)
    image[:, 10:25, 20:45] = 1
    points = interest_points(image, 10)
    assert len(points) == 4 and points.dtype == torch.float32
    expected = torch.tensor([[20.0, 10], [44, 10], [20, 24], [44, 24]])
    assert torch.cdist(expected, points).amin(1).max() < 1.5
    assert points.mean(0).tolist() == [32.0, 17.0]  # symmetric about the square's centre
    assert torch.equal(interest_points(image, 2), points[:2])
    assert interest_points(torch.full((3, 20, 20), 0.3), 5).shape == (0, 2)


# ---------------------------------------------------------------------------------------------------------------------------- stereo


def test_stereo_points_by_hand():
    disparity = torch.full((4, 6), torch.nan)
    disparity[1, 5], disparity[2, 0], disparity[3, 4] = 2.25, 1.0, 4.0  # the second one's match lies outside
    pair = StereoPair(torch.zeros(3, 4, 6), torch.zeros(3, 4, 6), disparity)
    points = stereo_points(pair, 9, 0)
    assert sorted(points.source.tolist()) == [[4, 3], [5, 1]] and sorted(points.target.tolist()) == [[0, 3], [2.75, 1]]
    edges = disparity.clone()
    edges[0, 5], edges[0, 0], edges[1, 5], edges[2, 0] = -0.5, 0.5, -0.75, 0.75  # the last two leave the picture, which spans -0.5 to 5.5
    assert sorted(stereo_points(StereoPair(pair.left, pair.right, edges), 9, 0).target.tolist()) == [[-0.5, 0], [0, 3], [5.5, 0]]
    assert torch.equal(stereo_points(pair, 1, 0).source, points.source[:1])
    with pytest.raises(ValueError, match="pair must have a measured disparity"):
        stereo_points(StereoPair(pair.left, pair.right, disparity * 0 + 100), 3, 0)


@pytest.mark.parametrize("view", [None, {"window": (160, 60, 416, 416), "size": (256, 256), "shift": 30}, {"window": (200, 100, 448, 256), "size": (64, 128)}])
def test_both_eyes_see_the_same_colour(view):
    pair = stereo_pair() if view is None else stereo_view(stereo_pair(), **view)
    points = stereo_points(pair, 500, 1)
    column, row = points.source.long().unbind(1)
    assert torch.allclose(points.source[:, 0] - points.target[:, 0], pair.disparity[row, column], atol=1e-4)
    assert torch.equal(points.source[:, 1], points.target[:, 1]) and len(points) == 500 == len(points.source.unique(dim=0))
    right, wrong = ((bilinear(pair.left, points.source) - bilinear(pair.right, t)).abs().mean(1).median() for t in (points.target, points.source))
    assert right < 0.035 and wrong > 2.5 * right


def test_a_stereo_view_is_a_window_at_another_size():
    pair = stereo_pair()
    view = stereo_view(pair, window=(100, 50, 128, 64), size=(64, 128), shift=10)
    assert torch.allclose(view.left, pair.left[:, 50:114, 100:228], atol=1e-6) and torch.allclose(view.right, pair.right[:, 50:114, 90:218], atol=1e-6)
    assert torch.allclose(view.disparity, pair.disparity[50:114, 100:228] - 10, equal_nan=True)
    half = stereo_view(pair, window=(100, 50, 128, 64), size=(32, 64), shift=10)
    assert torch.allclose(half.disparity, view.disparity[1::2, 1::2] / 2, equal_nan=True)


# ----------------------------------------------------------------------------------------------------------------------------- clips


def test_head_pairs_are_all_that_share_two_names():
    pairs, heads = head_pairs(48), marked_heads(48)
    assert len(pairs) == 30 and set(zip(pairs.source_category, pairs.target_category, strict=True)) == {
        (a, b) for a in heads.names for b in heads.names if a != b
    }
    for i in range(len(pairs)):
        here, there = (heads.points[heads.names.index(side[i])] for side in (pairs.source_category, pairs.target_category))
        assert pairs.names[i] == tuple(n for n in here if n in there) and len(pairs.names[i]) >= 2
        torch.testing.assert_close(pairs.source_points[i], torch.tensor([here[n] for n in pairs.names[i]]))
        torch.testing.assert_close(pairs.target_points[i], torch.tensor([there[n] for n in pairs.names[i]]))
    assert pairs.target_box[0].tolist() == [11.5, 11.5, 35.5, 35.5]


def test_twins_are_alike_and_walk_through_each_other():
    clips = label_clips(5, "twins", count=4, frames=7, size=64)
    line = torch.arange(64) + 0.5
    for video, labels, caption in zip(clips.video, clips.labels, clips.captions, strict=True):
        areas = torch.stack([(labels == k).sum((1, 2)) for k in (1, 2)])
        rows = [float(((labels[0] == k) * line[:, None]).sum() / (labels[0] == k).sum()) for k in (1, 2)]
        assert rows[1] - rows[0] == pytest.approx(0.08 * 64, abs=0.6) and sum(rows) / 2 == pytest.approx(32, abs=3)
        assert areas[0, 0] == pytest.approx(int(areas[1, 0]), rel=0.1) and areas[0].min() < 0.8 * areas[0].max()  # one passes before the other
        first, last = ([float(((labels[t] == k) * line).sum() / (labels[t] == k).sum()) for k in (1, 2)] for t in (0, -1))
        assert first[0] < 28 < 36 < first[1] and last[1] < 28 < 36 < last[0]
        means = [video[0][:, labels[0] == k].mean(1) for k in (1, 2)]
        torch.testing.assert_close(means[0], means[1], atol=0.06, rtol=0)
        left, right = caption.split(" and ")
        assert " moves right" in left and " moves left" in right and left.split(" moves ")[0] == right.split(" moves ")[0]


@pytest.mark.parametrize("kind", ["shapes", "creatures", "twins", "photographs"])
def test_a_clip_is_the_same_alone_and_among_many(kind):
    few, more = label_clips(3, kind, count=1, frames=3, size=32), label_clips(3, kind, count=6, frames=3, size=32)
    same(few, more, 0, 0)
    assert more.video.shape == (6, 3, 3, 32, 32) and more.labels.shape == (6, 3, 32, 32) and more.labels.dtype == torch.int64
    assert all(set(first.unique().tolist()) == {0, 1, 2} for first in more.labels[:, 0])


@pytest.mark.parametrize("kind", ["shapes", "creatures"])
def test_labels_move_as_the_captions_say(kind):
    clips = label_clips(4, kind, count=8, frames=5, size=64)
    line, checked = torch.arange(64) + 0.5, 0
    for labels, caption in zip(clips.labels, clips.captions, strict=True):
        for label, phrase in enumerate(caption.split(" and "), start=1):
            centres = [torch.stack([(m * line).sum(), (m * line[:, None]).sum()]) / m.sum() for m in (labels[[0, -1]] == label).float()]
            step = centres[1] - centres[0]
            if (labels == 1).sum((1, 2)).min() < (labels == 1).sum((1, 2)).max() * 0.85:
                continue  # one passes before the other
            if "stays still" in phrase:
                assert step.abs().max() < 1.5
            else:
                angle = DIRECTIONS.index(phrase.split(" moves ")[1].split()[0]) * math.pi / 4
                assert (step[0] * math.cos(angle) + step[1] * math.sin(angle)) / step.norm() > 0.9
            checked += 1
    assert checked >= 8


def test_labelled_shapes_have_their_colour():
    clips = label_clips(6, "shapes", count=6, frames=3, size=48)
    for video, labels, caption in zip(clips.video, clips.labels, clips.captions, strict=True):
        second = torch.tensor(COLOURS[caption.split(" and ")[1].split()[1]])
        shown = (video.permute(0, 2, 3, 1) - second).abs().amax(-1) < 0.02
        assert (labels[shown] == 2).all() and shown.sum() > 0.6 * (labels == 2).sum()


def test_the_flow_carries_the_labels_of_photographs():
    clips = label_clips(2, "photographs", count=8, frames=6, size=48)
    film = photo_clips(2, correspondence._PICTURES + np.arange(8), size=48, frames=6, moves=("pan", "zoom in", "zoom out", "shake"))
    assert torch.equal(film.video, clips.video)
    line = torch.arange(48) + 0.5
    first = clips.labels[:, 0]
    for label in (1, 2):  # a disc inside the canvas
        for mask in first == label:
            assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
            assert mask.any(0).sum() == pytest.approx(2 * math.sqrt(mask.sum() / math.pi), abs=1.5)
    for t in range(5):
        x, y = (line + film.flow[:, t, 0]).floor().long(), (line[:, None] + film.flow[:, t, 1]).floor().long()
        there = clips.labels[:, t + 1].flatten(1).gather(1, (y.clamp(0, 47) * 48 + x.clamp(0, 47)).flatten(1)).view(8, 48, 48)
        wrong = (there != clips.labels[:, t]) & film.inside[:, t]
        assert wrong.sum() < 0.12 * (clips.labels[:, t] > 0).sum()
        inner = torch.nn.functional.max_pool2d(torch.nn.functional.one_hot(clips.labels[:, t]).permute(0, 3, 1, 2).float(), 5, 1, 2).sum(1) == 1
        assert not (wrong & inner).any()  # they differ only along the edges


# ----------------------------------------------------------------------------------------------------------------------------- peers


def test_raw_patches_by_hand():
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0] = torch.tensor([[0.0, 1], [0, 0]])
    cells = raw_patches(images, 1)  # red minus its mean over the colours, length 1
    assert cells.shape == (1, 3, 2, 2)
    assert torch.allclose(cells[0, :, 0, 1], torch.tensor([2.0, -1, -1]) / math.sqrt(6)) and cells[0, :, 1, 0].abs().max() == 0
    patch = raw_patches(images, 3)[0, :9, 0, 0]  # the red channel around the top left pixel, edges repeated
    assert torch.allclose(patch > 0, torch.tensor([0, 0, 1, 0, 0, 1, 0, 0, 0]).bool())


@pytest.mark.parametrize(("patch", "stride"), [(5, 1), (4, 2), (8, 4), (4, 4)])
def test_raw_patches_against_a_slow_loop(patch, stride):
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    out = raw_patches(images, patch, stride)
    assert out.shape == (2, 3 * patch * patch, 8 // stride, 12 // stride)
    start = (stride - patch) // 2
    for i in range(8 // stride):
        for j in range(12 // stride):
            rows = [min(max(i * stride + start + k, 0), 7) for k in range(patch)]
            columns = [min(max(j * stride + start + k, 0), 11) for k in range(patch)]
            cut = images[:, :, rows][..., columns].flatten(1)
            cut = cut - cut.mean(1, keepdim=True)
            assert torch.allclose(out[:, :, i, j], cut / cut.norm(dim=1, keepdim=True), atol=1e-5)


def test_vae_latents_are_scaled_means():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        norm_num_groups=4, scaling_factor=0.5,
    ).eval()  # fmt: skip
    images = torch.rand(2, 3, 16, 24)
    out = vae_latents(vae, images)
    assert out.shape == (2, 4, 8, 12) and not out.requires_grad
    with torch.no_grad():
        assert torch.allclose(out, vae.quant_conv(vae.encoder(2 * images - 1))[:, :4] * 0.5, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT", "Dinov2", "Dinov2WithRegisters"])
def test_vit_features_are_a_grid_of_patch_tokens(name):
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    model = getattr(transformers, name + "Model")(getattr(transformers, name + "Config")(**sizes)).eval()
    a = torch.rand(1, 3, 24, 40)
    b = a.clone()
    b[:, :, 8:16, 24:32] = 1 - b[:, :, 8:16, 24:32]  # cell (1, 3)
    maps = vit_features(model, torch.cat([a, b]), 0)
    assert maps.shape == (2, 16, 3, 5)
    changed = (maps[0] - maps[1]).abs().amax(0) > 1e-5
    assert changed.nonzero().tolist() == [[1, 3]]
    last = vit_features(model, a)
    with torch.no_grad():
        normal = (a - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        tokens = model(normal, **({"interpolate_pos_encoding": True} if name == "ViT" else {})).last_hidden_state
        assert torch.allclose(model.layernorm(last.flatten(2).transpose(1, 2)), tokens[:, -15:], atol=1e-5)
    assert not last.requires_grad
    with pytest.raises(ValueError, match="multiples of the patch 8, got 24 x 36"):
        vit_features(model, a[..., :36])
    with pytest.raises(ValueError, match=r"layer must be a whole number in \[-3, 2\], got 5"):
        vit_features(model, a, 5)


def small_models():
    import diffusers
    import transformers

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        norm_num_groups=4,
    ).eval()  # fmt: skip
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8)
    return {vae_latents: vae, vit_features: transformers.ViTModel(config).eval()}


@pytest.mark.parametrize("describe", [vae_latents, vit_features])
def test_pictures_are_described_where_the_model_runs(describe):
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    right = describe(small_models()[describe], images)
    with Accelerator():
        model = small_models()[describe].to(DEVICE)
        for there in (images, images.to(DEVICE)):
            found = describe(model, there)
            assert found.device == there.device
            torch.testing.assert_close(near(found), right, atol=1e-5, rtol=1e-4)
    offloaded = small_models()[describe]
    accelerate.cpu_offload(offloaded, execution_device=torch.device("cpu"))  # its parameters are "meta" but while they are used
    assert torch.equal(describe(offloaded, images), right)
    half = describe(small_models()[describe].bfloat16(), images)
    assert half.dtype == torch.float32 and (half - right).abs().max() < 0.1
    numpy = describe(small_models()[describe], images.numpy()[:, :, ::-1].copy()[:, :, ::-1])
    assert isinstance(numpy, np.ndarray) and np.array_equal(numpy, right.numpy())
    if describe is vit_features:
        assert torch.equal(describe(torch.nn.DataParallel(small_models()[describe]), images), right)
        assert torch.equal(describe(torch.compile(small_models()[describe]), images), right)


def test_pictures_and_points_of_any_kind():
    picture, points, matrix = (
        photographs("coins", size=48)["coins"],
        torch.tensor([[10.0, 20], [30, 5]]),
        torch.tensor([[1, 0, 3.0], [0.1, 1, 4], [0, 1e-3, 1]]),
    )
    pair = StereoPair(picture, picture.flip(2), torch.full((48, 48), 2.0))
    eyes = StereoPair(*(value.numpy() for value in vars(pair).values()))
    view = dict(window=(4, 2, 40, 40), size=(32, 64), shift=1)
    for right, found in (
        (interest_points(picture, 9), interest_points(picture.numpy()[:, ::-1].copy()[:, ::-1], 9)),
        (warp_points(matrix, points), warp_points(matrix.numpy(), points.tolist())),
        (raw_patches(picture[None], 5), raw_patches(picture[None].numpy().astype(">f4"), 5)),
        (sift_transfer(picture, picture, points), sift_transfer(picture.tolist(), picture, points.numpy())),
        (stereo_view(pair, **view).left, stereo_view(eyes, **view).left), (stereo_view(pair, **view).disparity, stereo_view(eyes, **view).disparity),
        (stereo_points(pair, 20, 0).target, stereo_points(eyes, 20, 0).target),
    ):  # fmt: skip
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, right.numpy(), atol=1e-5)
    with Accelerator():
        far = picture.to(DEVICE)
        for right, found in (
            (interest_points(picture, 9), interest_points(far, 9)), (warp_points(matrix, points), warp_points(matrix.to(DEVICE), points.to(DEVICE))),
            (raw_patches(picture[None], 5), raw_patches(far[None], 5)), (sift_transfer(picture, picture, points), sift_transfer(far, picture, points)),
        ):  # fmt: skip
            assert found.device == DEVICE
            torch.testing.assert_close(near(found), right)
    assert raw_patches(picture[None].half(), 5).dtype == torch.float16


def test_models_that_do_not_fit_are_refused():
    vae, vit = small_models().values()
    images = torch.rand(1, 3, 16, 24)
    bad = ((vae_latents, vit, "vae"), (vae_latents, torch.nn.Linear(2, 2), "vae"), (vae_latents, None, "vae"), (vit_features, vae, "model"))
    for describe, model, name in bad:
        with pytest.raises(TypeError, match=f"{name} must be an? "):
            describe(model, images)
    with pytest.raises(ValueError, match=r"std must be > 0, got \[0.5, 0.0, 0.5\]"):
        vit_features(vit, images, std=(0.5, 0, 0.5))
    with pytest.raises(ValueError, match=r"images must have sides that are multiples of 2, got \(15, 24\)"):
        vae_latents(vae, images[:, :, 1:])


def test_points_at_infinity_are_refused():
    with pytest.raises(ValueError, match="homography must have an inverse"):
        warp_points(torch.zeros(3, 3), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="homography must keep the points at a finite distance"):
        warp_points(torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.5, 0, 1]]), torch.tensor([[2.0, 0]]))


def test_sift_finds_a_shifted_picture_and_admits_when_it_finds_nothing():
    picture = photographs("coins", size=80)["coins"]
    a, b = picture[:, 8:72, 8:72], picture[:, 12:76, 5:69]  # the scene moves by (+3, -4)
    found = sift_matches(a, b)
    off = (found.target - found.source - torch.tensor([3.0, -4.0])).norm(dim=1)
    assert len(found) > 30 and off.median() < 0.2
    points = torch.tensor([[30.5, 40.5], [50.5, 20.5], [41.25, 10.75]])
    assert torch.allclose(sift_transfer(a, a, points), points, atol=1e-4)
    line = torch.arange(64)
    blob = torch.exp(-((line - 30.25).square() + (line[:, None] - 40.5).square()) / 18).expand(3, -1, -1)
    assert (sift_features(blob)[0] - torch.tensor([30.25, 40.5])).norm(dim=1).min() < 0.15
    flat = torch.full((3, 40, 48), 0.5)
    assert sift_matches(flat, a).source.shape == (0, 2)
    assert sift_transfer(a, flat, points).isnan().all() and sift_transfer(flat, flat, points[1:2] - 10).shape == (1, 2)
    assert len(sift_transfer(flat, a, [[47.5, 39.5], [-0.5, -0.5]])) == 2
    for outside in ([[47.6, 3.0]], [[3.0, 39.6]], [[-0.6, 3.0]], [[3.0, -0.6]]):
        with pytest.raises(ValueError, match="points must lie in the picture of height 40 and width 48"):
            sift_transfer(flat, a, outside)
    with pytest.raises(ValueError, match="points must lie in the picture of height 40 and width 48$"):
        sift_transfer(flat, a, points)
    with pytest.raises(ValueError, match="points must lie in the picture of height 40 and width 48; as row, column they would: swap them"):
        sift_transfer(flat, a, [[30.0, 41.0]])


# -------------------------------------------------------------------------------------------------------------------------- refusals

GOOD = torch.rand(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: semantic_pairs(0, 0), ValueError, r"pairs_per_category must be a whole number in \[1, 1e\+06\], got 0"),
        (lambda: semantic_pairs(0, 1.5), TypeError, "pairs_per_category must be a whole number .* got 1.5"),
        (lambda: semantic_pairs(0, 10**7), ValueError, "pairs_per_category must be a whole number .* got 10000000"),
        (lambda: semantic_pairs(-1, 1), ValueError, "seed must be a whole number >= 0, got -1"),
        (lambda: semantic_pairs(0, 1, categories=("cat", "cow")), ValueError, "categories must be one of 'cat', .* got 'cow'"),
        (lambda: semantic_pairs(0, 1, categories=("cat", "bird"), across=True), ValueError, "categories must hold two relatives"),
        (lambda: semantic_pairs(0, 1, styles=("photo", "oil")), ValueError, "styles must be one of 'photo', 'sketch', got 'oil'"),
        (lambda: semantic_pairs(0, 1, styles=("photo",)), ValueError, "styles must be None"),
        (lambda: semantic_pairs(0, 1, facing="left"), ValueError, "facing must be one of 'same', 'opposite', got 'left'"),
        (lambda: homography_pairs(0, source="hpatches"), ValueError, "source must be one of 'toy', 'photographs', got 'hpatches'"),
        (lambda: homography_pairs(0, size=100), ValueError, "size must be a multiple of 32, got 100"),
        (lambda: homography_pairs(0, source="photographs", scenes=7), ValueError, r"scenes must be a whole number in \[1, 6\], got 7"),
        (lambda: homography_pairs(0, kinds=("weather",)), ValueError, "kinds must be one of 'viewpoint', 'illumination', got 'weather'"),
        (lambda: homography_pairs(0, jitter=0.3), ValueError, r"jitter must be a number in \(0, 0.25\], got 0.3"),
        (lambda: warp_points(torch.eye(2), torch.zeros(1, 2)), ValueError, r"homography must be numbers \(3, 3\), got shape \(2, 2\)"),
        (lambda: warp_points(torch.eye(3), torch.zeros(1, 3)), ValueError, r"points must be numbers \(N, 2\), got shape \(1, 3\)"),
        (lambda: interest_points(GOOD, 3), ValueError, r"image must be numbers \(3, H, W\), got shape \(1, 3, 8, 8\)"),
        (lambda: interest_points(GOOD[0].mul(255), 3), ValueError, r"image must lie in \[0, 1\]"),
        (lambda: stereo_points(stereo_pair(), 0, 0), ValueError, "count must be a whole number >= 1, got 0"),
        (lambda: stereo_view(stereo_pair(), window=(700, 0, 64, 64), size=(64, 64)), ValueError, "must lie inside both pictures of 741 x 500 px"),
        (lambda: stereo_view(stereo_pair(), window=(9, 0, 64, 64), size=(64, 64), shift=10), ValueError, "window .* with shift 10"),
        (lambda: stereo_view(stereo_pair(), window=(0, 0, 64, 64), size=(60, 64)), ValueError, "size must be a multiple of 32, got 60"),
        (lambda: label_clips(0, "cartoons"), ValueError, "kind must be one of 'shapes', 'creatures', 'twins', 'photographs', got 'cartoons'"),
        (lambda: label_clips(0, frames=1), ValueError, "frames must be a whole number .* got 1"),
        (lambda: raw_patches(GOOD, 4, 1), ValueError, "patch must be stride plus an even number >= 0, got patch 4 and stride 1"),
        (lambda: raw_patches(GOOD, 3, 3), ValueError, "multiples of stride 3, got 8 x 8"),
        (lambda: raw_patches(GOOD.mul(255).byte(), 3), TypeError, r"images must be floating-point numbers in \[0, 1\], got uint8 tensor"),
        (lambda: raw_patches(GOOD[:, :1], 3), ValueError, r"images must be numbers \(B, 3, H, W\), got shape \(1, 1, 8, 8\)"),
        (lambda: sift_matches(GOOD[0], GOOD[0] * math.nan), ValueError, "b must be finite numbers"),
        (lambda: sift_transfer(GOOD[0], GOOD[0], torch.zeros(2)), ValueError, r"points must be numbers \(N, 2\), got shape \(2,\)"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
