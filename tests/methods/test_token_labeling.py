"""Token labeling against slow loops, worked numbers, transformers' ViT and ResNet, published counts, limits and symmetries."""

import argparse
import copy
import itertools
import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from helpers.methods import token_labeling as tl
from helpers.methods.token_labeling import PLAIN, SIZES, TRICKS, LVViT, StoredMaps, WithTokenHead
from helpers.toyworld.gatherings import gatherings
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
SMALL = dict(image_size=16, patch_size=4, width=12, depth=2, heads=3, classes=5, stem_width=6, skip_lam=2, drop_path=0.0)
PICTURES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
WHOLE = [0.0, 0.0, 1.0, 1.0]


def seed(value=0):
    return torch.Generator().manual_seed(value)


def normal(*shape, number=0):
    return torch.randn(*shape, generator=seed(number), dtype=torch.float64)


def moved(module):
    """With weights large enough that every part matters, norms and biases too."""
    generator = seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    return module.eval()


def small(**changes):
    return moved(LVViT(**SMALL | changes))


def cross_entropy(logits, labels):
    """One row after another, in plain floats."""
    total = 0.0
    for row, wanted in zip(logits.tolist(), labels.tolist()):
        norm = math.log(sum(math.exp(x) for x in row))
        total -= sum(y * (x - norm) for x, y in zip(row, wanted))
    return total / len(logits)


# --------------------------------------------------------------------------------------------------------------------------- the loss


LN3 = math.log(3)
WORKED = dict(class_logits=[[0.0, 0.0]], token_logits=[[[LN3, 0.0], [0.0, 0.0]]], class_labels=[[1.0, 0.0]], token_labels=[[[1.0, 0.0], [0.5, 0.5]]])


def test_the_worked_loss():
    found = tl.token_labeling_loss(**WORKED)
    assert [float(one) for one in found] == pytest.approx([0.938354, 0.693147, 0.490415], abs=1e-6)
    assert float(tl.token_labeling_loss(**WORKED, beta=1.0).total) == pytest.approx(1.183562, abs=1e-6)
    assert float(tl.token_labeling_loss(**WORKED, beta=1.0, class_weight=0.0).total) == pytest.approx((-math.log(0.75) + math.log(2)) / 2, abs=1e-6)


def test_the_loss_is_a_mean_over_tokens_and_pictures():
    logits, tokens, labels, of_tokens = normal(2, 4), normal(2, 3, 4, number=1), normal(2, 4, number=2).softmax(1), normal(2, 3, 4, number=3).softmax(2)
    found = tl.token_labeling_loss(logits, tokens, labels, of_tokens, beta=0.7, class_weight=1.3)
    of_class, of_token = cross_entropy(logits, labels), cross_entropy(tokens.flatten(0, 1), of_tokens.flatten(0, 1))
    assert [one.item() for one in found] == pytest.approx([1.3 * of_class + 0.7 * of_token, of_class, of_token], abs=1e-12)


def test_equal_targets_and_outputs_give_one_cross_entropy():
    logits, target = normal(3, 5), normal(3, 5, number=1).softmax(1)
    labels = tl.image_labels(target, 7)
    assert labels.token_labels.shape == (3, 7, 5) and labels.class_labels.data_ptr() != target.data_ptr()
    found = tl.token_labeling_loss(logits, logits[:, None].expand(-1, 7, -1), *labels, beta=0.5).total
    torch.testing.assert_close(found, 1.5 * nn.functional.cross_entropy(logits, target))


def test_with_beta_0_the_token_head_learns_nothing():
    model, labels = small(), tl.image_labels(torch.eye(5)[:4], 16)
    for beta in (0.0, 0.5):
        model.zero_grad()
        tl.token_labeling_loss(*model.outputs(PICTURES), *labels, beta=beta).total.backward()
        assert model.token_head.weight.grad.abs().sum().item() == 0 if beta == 0 else model.token_head.weight.grad.abs().sum() > 0
        assert model.head.weight.grad.abs().sum() > 0


def test_labels_and_boxes_may_be_whole_numbers():
    whole = nn.functional.one_hot(torch.tensor([[0, 1]]), 2)
    assert torch.equal(*(tl.token_labeling_loss(*map(torch.tensor, list(WORKED.values())[:2]), w[:, 0], w).total for w in (whole, whole.float())))
    maps = normal(1, 2, 3, 3)
    assert torch.equal(tl.crop(maps, [[0, 0, 1, 1]], 2), tl.crop(maps, [WHOLE], 2))


def test_a_row_of_zeros_adds_nothing_and_halves_are_summed_in_float32():
    labels = torch.tensor(WORKED["token_labels"])
    labels[0, 1] = 0
    found = tl.token_labeling_loss(**WORKED | dict(token_labels=labels.tolist()))
    assert float(found.of_tokens) == pytest.approx(-math.log(0.75) / 2)
    half = tl.token_labeling_loss(*(torch.tensor(value, dtype=torch.bfloat16) for value in WORKED.values()))
    assert half.total.dtype == torch.float32 and half.total.item() == pytest.approx(0.938354, abs=2e-3)


@pytest.mark.parametrize(
    "changes, text",
    [
        (dict(token_labels=[[[1.0, 0.0]]]), r"token_labels must be numbers \(1, 2, 2\), as token_logits has them, got shape \(1, 1, 2\)"),
        (dict(class_labels=[[1.0, 0.0, 0.0]]), r"class_labels must be numbers \(1, 2\), as class_logits has them, got shape \(1, 3\)"),
        (dict(token_logits=[[[0.0, 0.0, 0.0]]]), r"token_logits must be floating-point numbers \(1, N, 2\), as class_logits has them"),
        (dict(class_labels=[[1.2, -0.2]]), "class_labels must be .* >= 0, got -0.2 to 1.2"),
        (dict(token_labels=[[[3.0, 0.0], [0.5, 0.5]]]), r"token_labels must have rows that sum to 1, or with official smoothing to at most 1 \+ 1 / K, got 3"),
    ],
)
def test_targets_that_do_not_fit(changes, text):
    with pytest.raises(ValueError, match=text):
        tl.token_labeling_loss(**WORKED | changes)


# -------------------------------------------------------------------------------------------------------------------------- inference


def test_logits_at_inference_by_hand():
    logits, tokens = [[1.0, 2.0]], [[[4.0, -3.0], [0.0, -1.0], [2.0, -2.0]]]
    assert tl.combine(logits, tokens).tolist() == [[3.0, 1.5]]
    assert tl.combine(logits, tokens, weight=0).tolist() == logits
    assert tl.combine(logits, tokens, weight=1, pool="mean").tolist() == [[3.0, 0.0]]
    exact = [1 + math.log(math.exp(4) + 1 + math.exp(2)), 2 + math.log(math.exp(-3) + math.exp(-1) + math.exp(-2))]
    assert tl.combine(logits, tokens, weight=1, pool="logsumexp")[0].tolist() == pytest.approx(exact)


def test_a_model_gives_logits_and_never_a_tuple():
    model = small()
    of_class, of_tokens = model.outputs(PICTURES)
    assert of_class.shape == (4, 5) and of_tokens.shape == (4, 16, 5)
    torch.testing.assert_close(model(PICTURES), of_class + 0.5 * of_tokens.max(1).values)
    torch.testing.assert_close(model(PICTURES), tl.combine(of_class, of_tokens))
    model.token_weight = 0
    assert torch.equal(model(PICTURES), of_class) and torch.equal(model.head(model.features(PICTURES)), of_class)
    assert torch.is_tensor(small().train()(PICTURES))


def test_without_its_weight_the_token_head_does_not_run():
    model, ran = small(token_weight=0.0), []
    model.token_head.register_forward_hook(lambda *_: ran.append(1))
    model(PICTURES)
    assert ran == []
    model.outputs(PICTURES)
    assert ran == [1]
    headless = LVViT(**SMALL | dict(token_head=False)).eval()
    assert headless(PICTURES).shape == (4, 5) and headless.outputs(PICTURES).token_logits is None


# --------------------------------------------------------------------------------------------------------------------------- RoIAlign


def sample(image, y, x):
    """Bilinear, from the four cells around; 0 beyond one cell outside."""
    rows, columns = image.shape
    if y < -1 or y > rows or x < -1 or x > columns:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), rows - 1), min(int(x), columns - 1)
    y, x = (float(top) if top == rows - 1 else y), (float(left) if left == columns - 1 else x)
    down, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    b, a = y - top, x - left
    return (1 - b) * ((1 - a) * image[top, left] + a * image[top, right]) + b * ((1 - a) * image[down, left] + a * image[down, right])


def slow_roi_align(image, box, rows, columns):
    """image (h, w): every sample of every bin."""
    left, top, right, bottom = box
    width, height = max(right - left, 1.0), max(bottom - top, 1.0)
    across, down = math.ceil(width / columns), math.ceil(height / rows)
    out = np.zeros((rows, columns))
    for i, j in np.ndindex(rows, columns):
        for p, q in np.ndindex(down, across):
            y = top + (i + (p + 0.5) / down) * height / rows
            x = left + (j + (q + 0.5) / across) * width / columns
            out[i, j] += sample(image, y, x) / (down * across)
    return out


BOXES = [
    (1.0, 0.0, 5.0, 2.0), (-0.5, -0.5, 5.5, 4.5), (2.2, 1.7, 2.3, 3.9), (-3.0, 0.4, 1.1, 9.3), (0.3, -4.0, 11.7, 4.4), (3.0, 3.0, 3.0, 3.0),
    (5.9, 4.9, 8.0, 8.0),
]  # fmt: skip


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (7, 4), (5, 6)])
def test_roi_align_sample_by_sample(size):
    maps = normal(len(BOXES), 2, 5, 6)
    found = tl.roi_align(maps, torch.tensor(BOXES), size)
    for one, image, box in zip(found, maps, BOXES):
        for channel, plane in zip(one, image):
            np.testing.assert_allclose(channel, slow_roi_align(plane.numpy(), torch.tensor(box).double().tolist(), *size), atol=1e-6)


def test_the_worked_roi_align():
    maps = torch.arange(49.0).view(1, 1, 7, 7)
    assert tl.roi_align(maps, [[1.0, 0.0, 5.0, 2.0]], 2)[0, 0].tolist() == [[5.5, 7.5], [12.5, 14.5]]


def test_linear_maps_are_exact_inside():
    x, y = torch.arange(9.0).expand(1, 1, 8, 9).double(), torch.arange(8.0)[:, None].expand(1, 1, 8, 9).double()
    for left, top, right, bottom in ((1.3, 0.7, 6.1, 6.9), (0.0, 0.0, 8.0, 7.0), (2.0, 3.0, 3.7, 4.1)):
        box, middles = torch.tensor([[left, top, right, bottom]], dtype=torch.float64), (torch.arange(3.0, dtype=torch.float64) + 0.5) / 3
        across, down = left + (right - left) * middles, top + (bottom - top) * middles
        torch.testing.assert_close(tl.roi_align(x, box, 3)[0, 0], across.expand(3, 3))
        torch.testing.assert_close(tl.roi_align(y, box, 3)[0, 0], down[:, None].expand(3, 3))


def test_constants_stay_and_outside_counts_as_0():
    ones = torch.ones(1, 1, 4, 4)
    assert tl.roi_align(ones, [[0.0, 0.0, 3.0, 3.0]], 3).unique().tolist() == [1.0]
    far = tl.roi_align(ones, [[-4.0, 0.0, 0.0, 3.0]], (1, 4))[0, 0, 0]  # samples at -3.5, -2.5, -1.5, -0.5
    assert far.tolist() == [0.0, 0.0, 0.0, 1.0]


def exact_weights(start, stop, bins, cells):
    """What each bin takes of each cell along one axis, in fractions."""
    extent = max(stop - start, Fraction(1))
    count, found = math.ceil(extent / bins), np.zeros((bins, cells))
    for one, sample in itertools.product(range(bins), range(count)):
        at = start + extent / bins * (one + Fraction(2 * sample + 1, 2 * count))
        if -1 <= at <= cells:
            at = min(max(at, 0), cells - 1)
            found[one, int(at)] += float(1 - at % 1) / count
            found[one, min(int(at) + 1, cells - 1)] += float(at % 1) / count
    return found


@pytest.mark.parametrize("start, stop, bins", [("0", "10/3", 5), ("4/3", "7/3", 1), ("-7/5", "17/5", 2), ("-3", "9/5", 3)])
def test_samples_on_the_border_are_read(start, stop, bins):
    """At -1, at the map's size and as many as whole cells ask for, although floats miss these by a last digit."""
    start, stop, maps = Fraction(start), Fraction(stop), normal(1, 1, 3, 1)
    found = tl.roi_align(maps, [[0.0, float(start), 0.0, float(stop)]], (bins, 1))[0, 0]
    np.testing.assert_allclose(found, exact_weights(start, stop, bins, 3) @ maps[0, 0].numpy(), atol=1e-12)


def test_boxes_that_are_none():
    maps = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"boxes must be \(left, top, right, bottom\) with left <= right and top <= bottom"):
        tl.roi_align(maps, [[2.0, 0.0, 1.0, 3.0]], 2)
    with pytest.raises(ValueError, match="boxes must lie within the map's own size around it, -4 to 8, got 0 to 9"):
        tl.roi_align(maps, [[0.0, 0.0, 9.0, 3.0]], 2)
    with pytest.raises(ValueError, match=r"boxes must be numbers \(1, 4\), as maps has them, got shape \(2, 4\)"):
        tl.roi_align(maps, [[0.0, 0.0, 1.0, 1.0]] * 2, 2)
    with pytest.raises(ValueError, match=r"boxes must be shares of the sides in \[0, 1\], got 0 to 2"):
        tl.crop(maps, [[0.0, 0.0, 2.0, 2.0]], 2)


# ------------------------------------------------------------------------------------------------------------------------------ crops


def test_the_whole_picture_at_its_own_size_is_the_picture():
    maps = normal(2, 3, 5, 7)
    torch.testing.assert_close(tl.crop(maps, [WHOLE] * 2, (5, 7)), maps)


def test_half_a_picture_at_half_its_size_is_that_half():
    maps = normal(1, 3, 6, 8)
    torch.testing.assert_close(tl.crop(maps, [[0.5, 0.0, 1.0, 1.0]], (6, 4)), maps[..., 4:])
    torch.testing.assert_close(tl.crop(maps, [[0.0, 0.5, 1.0, 1.0]], (3, 8)), maps[..., 3:, :])


def test_mirroring_and_turning_go_with_pooling():
    maps, boxes = normal(3, 4, 5, 6), tl.random_crops(3, generator=seed(2))
    left, top, right, bottom = boxes.T
    one, other = tl.crop_labels(maps, boxes, (3, 4)), tl.crop_labels(maps.flip(3), torch.stack([1 - right, top, 1 - left, bottom], 1), (3, 4))
    torch.testing.assert_close(one.class_labels, other.class_labels)
    torch.testing.assert_close(one.token_labels.unflatten(1, (3, 4)).flip(2).flatten(1, 2), other.token_labels)
    torch.testing.assert_close(tl.crop(maps.transpose(2, 3), boxes[:, [1, 0, 3, 2]], (4, 3)), tl.crop(maps, boxes, (3, 4)).transpose(2, 3))


def test_a_box_of_seven_cells_has_seven_samples_although_its_floats_say_a_little_more():
    maps, (start, stop) = normal(1, 1, 14, 1), (Fraction(37, 10), Fraction(107, 10))
    for bins in (1, 7):
        expected = exact_weights(start, stop, bins, 14) @ maps[0, 0].numpy()
        np.testing.assert_allclose(tl.crop(maps, [[0.0, 0.3, 1.0, 0.8]], (bins, 1))[0, 0], expected, atol=1e-12)
    maps = normal(1, 2, 10, 10)
    found = tl.crop(maps.flip(3), [[1 - 0.8, 0.0, 1 - 0.5, 1.0]], (10, 3)).flip(3)
    torch.testing.assert_close(found, tl.crop(maps, [[0.5, 0.0, 0.8, 1.0]], (10, 3)))


def test_narrower_boxes_than_a_cell_grow_to_the_right():
    maps = torch.arange(1.0, 7.0).expand(1, 1, 6, 6)
    assert tl.crop(maps, [[0.0, 0.0, 0.05, 1.0]], (1, 4)).flatten().tolist() == [1, 1, 1.125, 1.375]
    assert tl.crop(maps, [[0.95, 0.0, 1.0, 1.0]], (1, 4)).flatten().tolist() == [6, 6, 6, 0]


def test_autocast_takes_no_digits_of_pictures_and_labels():
    maps, boxes = normal(2, 3, 5, 7).float(), tl.random_crops(2, generator=seed())
    expected = tl.crop(maps, boxes, 4), *tl.crop_labels(maps, boxes, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tl.crop(maps, boxes, 4), *tl.crop_labels(maps, boxes, 4)
    assert all(one.dtype == torch.float32 and torch.equal(one, other) for one, other in zip(found, expected))


def test_boxes_stay_on_the_cpu_wherever_new_tensors_are_made():
    maps = normal(1, 2, 4, 4)
    expected = tl.crop(maps, [[0.1, 0.0, 0.9, 1.0]], 3)
    with torch.device("meta"):
        assert torch.equal(tl.crop(maps, [[0.1, 0.0, 0.9, 1.0]], 3), expected)
        assert torch.equal(tl.random_crops(3, generator=seed(1)), (boxes := tl.random_crops(3, generator=seed(1)))) and boxes.device.type == "cpu"


def test_pooled_labels_are_distributions_in_row_major_order():
    maps, boxes = 3 * normal(2, 5, 6, 6), torch.tensor([[0.1, 0.2, 0.9, 0.7]] * 2)
    labels = tl.crop_labels(maps, boxes, (2, 3))
    pooled = tl.crop(maps, boxes, (2, 3))
    for row, column in np.ndindex(2, 3):
        torch.testing.assert_close(labels.token_labels[:, row * 3 + column], pooled[:, :, row, column].softmax(1))
    torch.testing.assert_close(labels.class_labels, tl.crop(maps, boxes, 1)[:, :, 0, 0].softmax(1))
    for one in labels:
        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1], dtype=torch.float64))
    same = tl.crop_labels(maps[:1].expand(2, -1, -1, -1), boxes, 4)
    assert all(torch.equal(one[0], one[1]) for one in same)
    assert [one.shape for one in tl.crop_labels(maps[:1], boxes[:1])] == [(1, 5), (1, 196, 5)]  # a single picture keeps its axis


def halves():
    """Left half of class 0, right half of class 1, of three classes."""
    maps = torch.zeros(1, 3, 8, 8)
    maps[:, 0, :, :4] = maps[:, 1, :, 4:] = 6
    return maps


LEFT, TOP = [[0.0, 0.0, 0.5, 1.0]], [[0.0, 0.0, 1.0, 0.5]]


def test_the_official_order_of_a_box_exchanges_x_and_y():
    """The numbers that the official function gives for the left and for the top half."""
    official = [tl.crop_labels(halves(), box, 2, official_box_order=True).class_labels[0].tolist() for box in (LEFT, TOP)]
    assert official[0] == pytest.approx([0.488, 0.488, 0.024], abs=5e-4) and official[1] == pytest.approx([0.995, 0.0025, 0.0025], abs=5e-4)
    ours = [tl.crop_labels(halves(), box, 2).class_labels[0].tolist() for box in (LEFT, TOP)]
    assert ours == official[::-1]


def test_the_official_order_agrees_on_the_diagonal_only():
    maps, diagonal, beside = normal(1, 4, 6, 6), [[0.2, 0.2, 0.7, 0.7]], [[0.2, 0.4, 0.7, 0.9]]
    one, other = (tl.crop_labels(maps, diagonal, 3, official_box_order=order).token_labels for order in (False, True))
    assert torch.equal(one, other)
    wrong = tl.crop_labels(maps, beside, 3, official_box_order=True).token_labels
    assert not torch.allclose(tl.crop_labels(maps, beside, 3).token_labels, wrong, atol=1e-2)
    torch.testing.assert_close(wrong, tl.crop_labels(maps, [[0.4, 0.2, 0.9, 0.7]], 3).token_labels)


def test_missing_scores_are_0_and_not_absent():
    """K = 1000 with five scores of 6, 5, 4, 3, 2: the other 995 together outweigh the fifth; below 0 they win altogether."""
    scores = torch.full((1, 1000, 2, 2), -3.0)
    scores[:, :5] = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0]).view(1, 5, 1, 1)
    label = tl.crop_labels(tl.store_maps(scores), [WHOLE], 1).class_labels[0]
    norm = sum(math.exp(s) for s in (6, 5, 4, 3, 2)) + 995
    assert label[:5].tolist() == pytest.approx([math.exp(s) / norm for s in (6, 5, 4, 3, 2)], rel=1e-5)
    assert label[5:].sum() > label[1] > label[4]
    below = tl.crop_labels(tl.store_maps(scores - 10), [WHOLE], 1).class_labels[0]
    assert below[:5].max() < below[5:].min()
    absent = tl.crop_labels(tl.dense_maps(tl.store_maps(scores), missing=-1e4), [WHOLE], 1).class_labels[0]
    assert absent[5:].sum() == 0 and absent[4] > 2 * label[4]


def test_maps_of_one_row_are_refused():
    with pytest.raises(ValueError, match="maps must be 2 cells wide and high or more, got 1 x 4"):
        tl.crop_labels(torch.zeros(1, 3, 1, 4), [WHOLE])
    assert tl.crop_labels(torch.zeros(1, 3, 2, 2), [WHOLE]).token_labels.shape == (1, 196, 3)  # narrower than 6 cells


def test_random_crops_are_those_of_the_usual_transform():
    boxes = tl.random_crops(4000, generator=seed(1))
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    assert boxes.min() >= 0 and boxes.max() <= 1
    area, ratio = width * height, width / height
    assert 0.08 <= area.min() and area.max() <= 1 and 0.75 - 1e-9 <= ratio.min() and ratio.max() <= 4 / 3 + 1e-9
    assert ratio.log().mean().abs() < 0.01 and 0.45 < area.mean() < 0.54  # wide and high boxes of large area do not fit
    inner = boxes[width < 0.9]
    assert (inner[:, 0] / (1 - inner[:, 2] + inner[:, 0])).mean().item() == pytest.approx(0.5, abs=0.02)
    assert tl.random_crops(3, scale=(1.0, 1.0), ratio=(1.2, 1.3), generator=seed()).tolist() == [WHOLE] * 3
    assert torch.equal(tl.random_crops(5, generator=seed(3)), tl.random_crops(5, generator=seed(3)))


# -------------------------------------------------------------------------------------------------------------- what is made of labels


def test_smoothing_keeps_the_sum_and_the_official_one_does_not():
    labels = torch.eye(6, dtype=torch.float64)[[1, 4]]
    ours, official = tl.smooth(labels), tl.smooth(labels, official=True)
    torch.testing.assert_close(ours.sum(1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(official.sum(1), torch.full((2,), 1 + 0.1 / 6, dtype=torch.float64))
    torch.testing.assert_close(official[0, :2], torch.tensor([0.1 / 6, 1 - 0.1 + 0.2 / 6], dtype=torch.float64))
    assert ours[0, 1].item() == pytest.approx(0.9 + 0.1 / 6) and torch.equal(tl.smooth(labels, 0.0, official=True), labels)
    assert tl.smooth(torch.eye(1000)[:1], official=True).sum().item() == pytest.approx(1.0001, abs=1e-5)
    worst = tl.smooth(torch.eye(2), 1.0, official=True)  # sums to 1.5 and is still taken
    assert torch.isfinite(tl.token_labeling_loss(torch.zeros(2, 2), torch.zeros(2, 3, 2), *tl.image_labels(worst, 3)).total)


def test_the_truth_is_mixed_in_as_the_code_does_it():
    labels = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    found = tl.blend_truth(labels, [0, 2])
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.15, 0.05], [0.54, 0.27, 0.19]]))  # right: half; wrong: nine tenths stay
    assert torch.equal(tl.blend_truth(labels, [0, 2], right=0, wrong=0), torch.eye(3)[[0, 2]])
    with pytest.raises(ValueError, match=r"truth must be whole numbers \(2,\), as class_labels has them in \[0, 2\], got 0 to 3"):
        tl.blend_truth(labels, [0, 3])


# ------------------------------------------------------------------------------------------------------------------------- storage


def test_the_highest_scores_are_kept():
    maps = normal(2, 7, 3, 4)
    stored = tl.store_maps(maps, 3)
    dense = tl.dense_maps(stored)
    assert stored.scores.dtype == torch.float16 and stored.classes.dtype == torch.int16 and stored.num_classes == 7 and dense.shape == maps.shape
    for b, i, j in np.ndindex(2, 3, 4):
        order = sorted(range(7), key=lambda k: -maps[b, k, i, j].item())
        assert stored.classes[b, :, i, j].tolist() == order[:3] and not dense[b, order[3:], i, j].any()
        torch.testing.assert_close(dense[b, order[:3], i, j].double(), maps[b, order[:3], i, j], rtol=1e-3, atol=1e-3)
    assert torch.equal(tl.dense_maps(stored.rows([1])), dense[1:]) and torch.equal(tl.dense_maps(stored.rows(slice(1))), dense[:1])
    boxes = tl.random_crops(2, generator=seed())
    for one, other in zip(tl.crop_labels(stored, boxes, 3), tl.crop_labels(dense, boxes, 3)):
        assert torch.equal(one, other)


def test_class_numbers_above_2048_stay_what_they_are():
    maps = torch.zeros(1, 3000, 2, 2)
    maps[:, 2049] = 5
    ours = tl.store_maps(maps, 1)
    assert ours.classes.unique().tolist() == [2049]
    half = torch.stack([ours.scores[0], ours.classes[0].half()])  # as the official files have it
    assert tl.official_maps(half, 3000).classes.unique().tolist() == [2048]
    assert tl.store_maps(torch.rand(1, 2**15 + 1, 2, 2, generator=seed()), 2).classes.dtype == torch.int32


def test_official_files_are_read():
    stored = tl.store_maps(normal(2, 50, 3, 4))
    stack = torch.stack([stored.scores, stored.classes.half()], 1)
    for found, expected in ((tl.official_maps(stack, 50), stored), (tl.official_maps(stack[1], 50), stored.rows(slice(1, 2)))):
        assert torch.equal(found.scores, expected.scores) and torch.equal(found.classes, expected.classes) and found.num_classes == 50
    with pytest.raises(ValueError, match="stack must hold whole class numbers below 40 behind the scores"):
        tl.official_maps(stack, 40)
    with pytest.raises(ValueError, match="stack must hold whole class numbers below 50 behind the scores"):
        tl.official_maps(stack.flip(1), 50)


def test_stored_maps_that_cannot_be():
    scores, classes = torch.zeros(1, 2, 3, 3).half(), torch.tensor([0, 6]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    with pytest.raises(ValueError, match=r"classes must be whole numbers \(1, 2, 3, 3\), as scores has them in \[0, 5\], got 0 to 6"):
        tl.dense_maps(StoredMaps(scores, classes, 6))
    with pytest.raises(ValueError, match="classes must be different ones within a cell, got one twice"):
        tl.dense_maps(StoredMaps(scores, torch.ones_like(classes), 6))
    with pytest.raises(ValueError, match="k must be an integer in 1..4, got 5"):
        tl.store_maps(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="maps must be .* in .*65504.*, got 0 to 70000"):
        tl.store_maps(torch.tensor([0.0, 7e4]).view(1, 2, 1, 1), 1)


def test_maps_on_disk(tmp_path):
    stored = tl.store_maps(normal(3, 1000, 18, 18))
    tl.save_maps(stored, tmp_path / "maps.safetensors")
    found = tl.load_maps(tmp_path / "maps.safetensors")
    assert all(torch.equal(one, other) for one, other in zip(found[:2], stored[:2])) and found.num_classes == 1000
    content = 3 * 2 * 5 * 18 * 18 * 2  # three pictures, scores and classes, five a cell, two bytes each
    assert content < (tmp_path / "maps.safetensors").stat().st_size < content + 400
    with pytest.raises(ValueError, match="path must be a local file that save_maps has written, got"):
        tl.load_maps(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("no maps")
    save_file({"other": torch.zeros(1)}, tmp_path / "other")
    for name in ("text", "other"):
        with pytest.raises(ValueError, match=f"path must be a file that save_maps has written, got {name}"):
            tl.load_maps(tmp_path / name)


def test_maps_that_cannot_be_on_disk(tmp_path):
    path, classes = tmp_path / "maps", torch.zeros(1, 1, 2, 2, dtype=torch.int16)
    with pytest.raises(ValueError, match="scores must be within float16's range, got 100000"):
        tl.save_maps(StoredMaps(torch.full((1, 1, 2, 2), 1e5), classes, 3), path)
    assert not path.exists()
    for scores, named in ((classes + 0, classes), (classes.half(), classes + 7)):
        save_file({"scores": scores, "classes": named}, path, {"num_classes": "3"})
        with pytest.raises(ValueError, match="path must be a file that save_maps has written, got maps: (scores|classes) must be"):
            tl.load_maps(path)


# ------------------------------------------------------------------------------------------------------------------------- MixToken


def test_the_worked_boxes():
    assert tl.kept_share((2, 3, 7, 9), grid=(14, 14)) == pytest.approx(0.846939, abs=1e-6)
    box = tl.mix_box((14, 14), 0.75, (6, 7))
    assert box == (3, 4, 9, 10) and tl.kept_share(box, grid=(14, 14)) == pytest.approx(0.816327, abs=1e-6)
    for centre in itertools.product(range(14), repeat=2):
        r0, c0, r1, c1 = tl.mix_box((14, 14), 0.75, centre)
        assert r1 - r0 <= 6 and c1 - c0 <= 6 and tl.kept_share((r0, c0, r1, c1), grid=(14, 14)) >= 0.816326
    assert tl.mix_box((14, 14), 0.75, (0, 13)) == (0, 10, 3, 14) and tl.mix_box((4, 10), 0.0, (1, 5)) == (0, 0, 3, 10)
    assert tl.kept_share(tl.mix_box((14, 14), 1.0, (3, 3)), grid=(14, 14)) == 1


def exact_kept(side):
    """Mean of lambda' and chance of an empty box, in closed form: sqrt(1 - lambda) = u has the density 2 u, half sides are floor(floor(side u) / 2)."""
    mean, empty = 0.0, 0.0
    for half in range(side // 2 + 1):
        low, high = 2 * half / side, min((2 * half + 2) / side, 1.0)
        chance = high**2 - low**2
        lengths = [min(centre + half, side) - max(centre - half, 0) for centre in range(side)]
        mean += chance * (1 - (sum(lengths) / side**2) ** 2)
        empty += chance * (half == 0)
    return mean, empty


def test_less_is_mixed_than_lambda_says():
    mean, empty = exact_kept(14)
    assert mean == pytest.approx(0.730, abs=1e-3) and empty == pytest.approx(0.021, abs=1e-3)
    generator = seed(0)
    kept = [tl.kept_share(tl.draw_box((14, 14), generator=generator), grid=(14, 14)) for _ in range(4000)]
    assert np.mean(kept) == pytest.approx(mean, abs=4 * np.std(kept) / math.sqrt(4000)) and np.mean(np.equal(kept, 1)) == pytest.approx(empty, abs=0.01)


def test_mixing_twice_is_no_mixing():
    tokens, box = normal(5, 12, 2), (0, 1, 2, 3)
    mixed = tl.mix_tokens(tokens, box, grid=(3, 4))
    assert torch.equal(tl.mix_tokens(mixed, box, grid=(3, 4)), tokens)
    for b, row, column in np.ndindex(5, 3, 4):
        source = 4 - b if row < 2 and 1 <= column < 3 else b
        assert torch.equal(mixed[b, row * 4 + column], tokens[source, row * 4 + column])
    assert torch.equal(mixed[2], tokens[2]) and not torch.equal(mixed[1], tokens[1])  # the middle one is its own partner


def test_an_empty_box_and_one_over_everything():
    tokens, labels = normal(4, 6, 3), normal(4, 5, number=1).softmax(1)
    for box, kept, expected in (((1, 1, 1, 2), 1.0, tokens), ((0, 0, 2, 3), 0.0, tokens.flip(0))):
        assert tl.kept_share(box, grid=(2, 3)) == kept and torch.equal(tl.mix_tokens(tokens, box, grid=(2, 3)), expected)
        assert torch.equal(tl.mix_class_labels(labels, kept), labels if kept else labels.flip(0))
    odd = tl.mix_class_labels(labels[:3], 0.25)
    torch.testing.assert_close(odd[0], 0.25 * labels[0] + 0.75 * labels[2])
    torch.testing.assert_close(odd[1], labels[1])


def test_with_an_identity_network_outputs_are_the_tokens_that_came_in():
    tokens, identity, box = normal(4, 6, 3), nn.Identity(), (0, 0, 2, 2)
    with tl.mixing_patches(identity, box, grid=(2, 3)):
        mixed = identity(tokens)
    assert not torch.equal(mixed, tokens) and torch.equal(tl.mix_tokens(mixed, box, grid=(2, 3)), tokens)
    assert torch.equal(identity(tokens), tokens)  # closed again


def test_putting_logits_back_is_mixing_the_labels():
    """The paper mixes tokens and labels with one mask, the code puts outputs back: the loss is the same."""
    tokens, labels, box = normal(4, 6, 3), normal(4, 6, 3, number=1).softmax(2), (1, 0, 2, 2)
    logits, target = normal(4, 3, number=2), normal(4, 3, number=3).softmax(1)
    back = tl.token_labeling_loss(logits, tl.mix_tokens(tokens, box, grid=(2, 3)), target, labels).total
    paper = tl.token_labeling_loss(logits, tokens, target, tl.mix_tokens(labels, box, grid=(2, 3))).total
    torch.testing.assert_close(back, paper)


def test_tokens_that_cannot_be_mixed():
    with pytest.raises(ValueError, match="tokens must be of 2 pictures or more, since each is mixed with another one, got 1"):
        tl.mix_tokens(normal(1, 6, 3), (0, 0, 1, 1), grid=(2, 3))
    with pytest.raises(ValueError, match="class_labels must be of 2 pictures or more"):
        tl.mix_class_labels(torch.ones(1, 3), 0.5)
    with pytest.raises(ValueError, match=r"tokens must be floating-point numbers \(B, 9, C\), got shape \(2, 6, 3\)"):
        tl.mix_tokens(normal(2, 6, 3), (0, 0, 1, 1), grid=(3, 3))
    for box in ((0, 0, 3, 1), (1, 0, 0, 1), (0, 2, 1, 4)):
        with pytest.raises(ValueError, match=r"box must be \(r0, c0, r1, c1\), four integers >= 0, inside a grid of 2 x 3, got"):
            tl.mix_tokens(normal(2, 6, 3), box, grid=(2, 3))
    with pytest.raises(ValueError, match="centre must be on the grid, 2 x 3"):
        tl.mix_box((2, 3), 0.5, (2, 0))


def test_cutmix_cuts_through_patches_and_mixtoken_does_not():
    for box in ((4, 8, 12, 16), (0, 0, 16, 16), (5, 5, 5, 9)):
        assert not tl.impure_patches(box, grid=(4, 4), patch_size=4).any()
    found = tl.impure_patches((3, 4, 8, 9), grid=(4, 4), patch_size=4)
    assert found.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    box = (2, 5, 11, 13)
    owner = torch.zeros(16, 16)
    owner[2:11, 5:13] = 1
    mean = owner.view(4, 4, 4, 4).mean((1, 3))
    assert torch.equal(tl.impure_patches(box, grid=(4, 4), patch_size=4), (mean > 0) & (mean < 1))


# ------------------------------------------------------------------------------------------------------------------------ annotators


def test_the_mean_of_the_scores_is_what_the_classifier_says():
    model = moved(tl.Annotator(5, 4, generator=seed()))
    scores = tl.annotate(model, PICTURES)
    assert scores.shape == (4, 5, 4, 4) and not scores.requires_grad
    torch.testing.assert_close(scores.mean((2, 3)), model(PICTURES))
    cells = model.features(PICTURES)
    torch.testing.assert_close(scores[1, :, 2, 3], model.classifier(cells[1, :, 2, 3]))
    with pytest.raises(ValueError, match="model must be in eval mode"):
        tl.annotate(tl.Annotator(5), PICTURES)


def test_an_annotator_is_in_eval_mode_as_a_whole():
    model = tl.Annotator(5, 4, generator=seed()).eval()
    model.features[1].train()
    with pytest.raises(ValueError, match="model must be in eval mode, got it or a part of it in training mode"):
        tl.annotate(model, PICTURES)
    assert not model.features[1].num_batches_tracked


def test_classifiers_of_transformers_give_maps():
    options = dict(num_labels=5, hidden_sizes=[4, 6], depths=[1, 1])
    resnet = transformers.ResNetForImageClassification(transformers.ResNetConfig(embedding_size=4, layer_type="basic", **options)).eval()
    convnext = moved(transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_stages=2, **options)))
    pictures = torch.rand(2, 3, 32, 48, generator=seed())
    found = tl.annotate(resnet, pictures, features="resnet.encoder")
    torch.testing.assert_close(found.mean((2, 3)), resnet(pictures).logits, rtol=1e-4, atol=1e-5)
    maps = tl.annotate(convnext, pictures, features="convnext.encoder", head=("convnext.layernorm", "classifier"))
    cells = convnext.convnext.encoder(convnext.convnext.embeddings(pictures)).last_hidden_state
    torch.testing.assert_close(maps[1, :, 0, 2], convnext.classifier(convnext.convnext.layernorm(cells[1, :, 0, 2])))
    assert found.shape == (2, 5, 4, 6) and maps.shape == (2, 5, 4, 6)


@pytest.mark.parametrize(
    "options, text",
    [
        (dict(features="feature"), "features must be the name of a module of the model, such as features, classifier; got 'feature'"),
        (dict(head=""), "head must be the name of a module of the model"),
        (dict(features="classifier"), r"features must name a module that gives a map \(B, C, h, w\), got float32 tensor of shape \(4, 5\)"),
        (dict(head="features.1"), "head must name modules that read rows of 8 channels, one for each cell, got 'features.1': expected 4D input"),
    ],
)
def test_classifiers_that_give_no_map(options, text):
    with pytest.raises(ValueError, match=text):
        tl.annotate(moved(tl.Annotator(5, 4)), PICTURES, **options)


def test_tokens_become_maps():
    tokens = normal(2, 6, 4)
    maps = tl.token_maps(tokens, (2, 3))
    assert maps.shape == (2, 4, 2, 3) and torch.equal(maps[1, :, 1, 2], tokens[1, 5]) and torch.equal(maps.flatten(2).transpose(1, 2), tokens)


def test_exact_labels_by_hand():
    masks = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, 1]]])
    found = {background: tl.labels_from_masks(masks, [[2, 0]], (1, 2), classes=4, background=background) for background in ("nothing", "even", 3)}
    assert found["nothing"].token_labels.tolist() == [[[0.25, 0, 0, 0], [0, 0, 1, 0]]]
    assert found["even"].token_labels.tolist() == [[[0.4375, 0.1875, 0.1875, 0.1875], [0, 0, 1, 0]]]
    assert found[3].token_labels.tolist() == [[[0.25, 0, 0, 0.75], [0, 0, 1, 0]]]
    assert found[3].class_labels.tolist() == [[0.125, 0, 0.5, 0.375]]


def test_exact_labels_of_scenes_count_every_pixel():
    scenes = gatherings(3, range(6), size=32)
    named = torch.cat([scenes.category[:, None], torch.where(scenes.shape >= 0, scenes.shape + 9, -1)], 1)
    found = tl.labels_from_masks(scenes.object_id, named, (8, 4), classes=int(named.max()) + 2, background=int(named.max()) + 1)
    torch.testing.assert_close(found.token_labels.sum(2), torch.ones(6, 32))
    torch.testing.assert_close(found.token_labels.mean(1), found.class_labels)
    for b, row, column in itertools.product(range(6), range(8), range(4)):
        pixels = scenes.object_id[b, row * 4 : row * 4 + 4, column * 8 : column * 8 + 8].flatten().tolist()
        classes = [named.max() + 1 if pixel == 0 else named[b, pixel - 1] for pixel in pixels]
        expected = torch.bincount(torch.tensor(classes), minlength=found.class_labels.shape[1]) / 32
        torch.testing.assert_close(found.token_labels[b, row * 4 + column], expected)


@pytest.mark.parametrize(
    "changes, text",
    [
        (dict(grid=(2, 3)), "grid must divide the masks' sides, 2 x 4, got 2 x 3"), (dict(masks=[[[0, 0, 1, 1], [0, 3, 1, 1]]]), "got object 3"),
        (dict(object_classes=[[2, -1]]), "object_classes must name a class for each object in masks"),
        (dict(object_classes=[[2, 4]]), "object_classes must be"),
        (dict(background=4), "background must be an integer in 0..3, got 4"), (dict(background="none"), "background must be one of even, nothing"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(changes, text):
    valid = dict(masks=[[[0, 0, 1, 1], [0, 2, 1, 1]]], object_classes=[[2, 0]], grid=(1, 2), classes=4)
    with pytest.raises(ValueError, match=text):
        tl.labels_from_masks(**valid | changes)


def test_wrong_maps_keep_what_they_say_they_keep():
    maps = normal(5, 4, 3, 6)
    places, pictures, classes = (tl.shuffled_maps(maps, over, generator=seed(1)) for over in ("places", "pictures", "classes"))
    cells = lambda x: sorted(map(tuple, x.flatten(1).T.tolist()))  # noqa: E731
    assert all(cells(one) == cells(other) and not torch.equal(one, other) for one, other in zip(places, maps))
    order = [places[b, 0].flatten().argsort().argsort().tolist() != places[0, 0].flatten().argsort().argsort().tolist() for b in range(1, 5)]
    assert all(order)
    for found, axis in ((pictures, 0), (classes, 1)):
        source = [next(j for j, old in enumerate(maps.unbind(axis)) if torch.equal(new, old)) for new in found.unbind(axis)]
        assert sorted(source) == list(range(maps.shape[axis])) and all(i != j for i, j in enumerate(source))
    with pytest.raises(ValueError, match="maps must be of 2 pictures or more to be shuffled over them, got 1"):
        tl.shuffled_maps(maps[:1], "pictures")


def test_image_labels_alone_give_a_map_that_knows_where():
    """The annotator learns whether a picture has a light or a dark square, never where, and its map says where."""
    generator = seed(4)
    labels, at = torch.randint(2, (256,), generator=generator), torch.randint(0, 3, (256, 2), generator=generator)
    pictures, masks = 0.5 + 0.05 * torch.randn(256, 3, 16, 16, generator=generator), torch.zeros(256, 16, 16, dtype=torch.long)
    for picture, mask, label, (row, column) in zip(pictures, masks, labels, (4 * at).tolist()):
        picture[:, row : row + 8, column : column + 8] += 0.8 * label - 0.4
        mask[row : row + 8, column : column + 8] = 1
    model = tl.Annotator(2, 8, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(30):
        batch = slice(64 * (step % 3), 64 * (step % 3) + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures[batch]), labels[batch]).backward()
        optimizer.step()
    scores = tl.annotate(model.eval(), pictures[192:])
    assert (model(pictures[192:]).argmax(1) == labels[192:]).float().mean() > 0.95
    margin = scores.gather(1, labels[192:, None, None, None].expand(-1, 1, 4, 4)) - scores.gather(1, 1 - labels[192:, None, None, None].expand(-1, 1, 4, 4))
    truth = tl.labels_from_masks(masks[192:], labels[192:, None], (4, 4), classes=2, background="nothing").token_labels.sum(2).view(64, 4, 4)
    inside, outside = ((margin[:, 0] * weight).sum((1, 2)) / weight.sum((1, 2)) for weight in (truth, 1 - truth))
    assert (inside > outside + 0.5).float().mean() > 0.9


# ---------------------------------------------------------------------------------------------------------------------------- models


@lru_cache
def hollow(**options):
    with torch.device("meta"):
        return LVViT(**options)


@pytest.mark.parametrize("size, millions, gmacs", [("T", 8.53, 2.87), ("S", 26.15, 6.55), ("M", 55.83, 12.68), ("L", 150.47, 34.64)])
def test_published_parameters_and_multiply_adds(size, millions, gmacs):
    assert round(tl.parameters(hollow(**SIZES[size])) / 1e6, 2) == millions  # the authors print 8.53, 26.15, 55.83 and 150.5
    small_pictures = hollow(**SIZES[size] | dict(image_size=224))
    assert round(tl.macs(small_pictures) / 1e9, 2) == gmacs
    assert hollow(**SIZES[size]).grid == ((28, 28) if size == "L" else (14, 14))


def test_what_the_token_head_costs():
    with_head, without = hollow(**SIZES["S"]), hollow(**SIZES["S"] | dict(token_weight=0.0))
    assert tl.macs(with_head) - tl.macs(without) == 196 * 384 * 1000
    assert tl.parameters(with_head) - tl.parameters(hollow(**SIZES["S"] | dict(token_head=False))) == 385 * 1000


def test_tricks_one_at_a_time_lead_from_a_plain_transformer_to_lv_vit():
    plain = hollow(**PLAIN)
    assert round(tl.parameters(plain) / 1e6, 2) == 22.05  # as DeiT-S
    counts = {name: tl.parameters(hollow(**PLAIN | trick)) - tl.parameters(plain) for name, trick in TRICKS.items()}
    block = 4 * (384**2 + 384) + 2 * 4 * 384**2 + 5 * 384 + 4 * 384
    stem = 64 * (3 * 49 + 2 * 64 * 9) + 3 * 2 * 64 + (64 * 64 * 384 + 384) - (3 * 256 * 384 + 384)
    assert counts == {
        "deeper": 4 * block, "narrower MLP": -12 * (2 * 384**2 + 384), "stem": stem, "weaker branches": 0, "no bias of q, k, v": -12 * 3 * 384,
        "token head": 385 * 1000,
    }  # fmt: skip
    merged = PLAIN | {key: value for trick in TRICKS.values() for key, value in trick.items()}
    one, other = hollow(**merged), hollow(**SIZES["S"])
    shapes = lambda model: {name: value.shape for name, value in model.state_dict().items()}  # noqa: E731
    assert shapes(one) == shapes(other) and one.blocks[0].skip_lam == other.blocks[0].skip_lam == 2
    assert shapes(hollow()) == shapes(other) and hollow().blocks[-1].drop_path == pytest.approx(0.1)


def vit(**options):
    config = dict(image_size=16, patch_size=4, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=36, layer_norm_eps=1e-5)
    return transformers.ViTModel(transformers.ViTConfig(**config | options), add_pooling_layer=False).eval()


def twins():
    """LV-ViT without its tricks, and transformers' ViT with the same numbers and two heads."""
    model = small(stem="patch", skip_lam=1, qkv_bias=True)
    twin = WithTokenHead(vit(), 12, 5, (4, 4)).eval()
    there = {"class_token": "embeddings.cls_token", "positions": "embeddings.position_embeddings", "stem": "embeddings.patch_embeddings.projection",
             "blocks": "layers", "attention.proj": "attention.o_proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2", "norm1": "layernorm_before",
             "norm2": "layernorm_after"}  # fmt: skip
    encoder = {}
    for name, value in model.state_dict().items():
        new = "layer" + name if name.startswith("norm.") else name
        for old, other in there.items():
            new = new.replace(old, other)
        for part, share in zip("qkv", value.chunk(3)) if "qkv" in name else (("", value),):
            encoder[new.replace("qkv", f"{part}_proj")] = share
    heads = {name: encoder.pop(name) for name in list(encoder) if "head." in name}
    twin.encoder.load_state_dict(encoder)
    twin.load_state_dict(heads, strict=False)
    return model, twin


@pytest.mark.parametrize("box", [None, (0, 1, 3, 3), (0, 0, 4, 4), (2, 2, 2, 2)])
def test_without_tricks_it_is_the_vit_of_transformers_with_mixing_too(box):
    model, twin = twins()
    for one, other in zip(model.outputs(PICTURES, box), twin.outputs(PICTURES, box)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(PICTURES), twin(PICTURES), rtol=1e-4, atol=1e-4)
    assert twin(PICTURES).shape == (4, 5) and not twin.encoder.embeddings.patch_embeddings._forward_hooks


def test_branches_are_divided():
    tokens = torch.randn(2, 5, 12, generator=seed())
    block, weak = (small(skip_lam=lam).blocks[0] for lam in (1.0, 4.0))
    first = block.attention(block.norm1(tokens))
    torch.testing.assert_close(block(tokens), tokens + first + block.mlp(block.norm2(tokens + first)))
    torch.testing.assert_close(weak(tokens), tokens + first / 4 + block.mlp(block.norm2(tokens + first / 4)) / 4)


def test_attention_is_torchs_own():
    ours = small(qkv_bias=True).blocks[0].attention.double()
    plain = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        plain.in_proj_weight.copy_(ours.qkv.weight), plain.in_proj_bias.copy_(ours.qkv.bias)
        plain.out_proj.load_state_dict(ours.proj.state_dict())
    tokens = normal(2, 5, 12)
    torch.testing.assert_close(ours(tokens), plain(tokens, tokens, tokens, need_weights=False)[0])


def test_mixing_comes_before_positions_and_logits_are_put_back():
    """Without blocks a token's logits are of its own content and of the place where it was: a pasted one has the position where it lands, which is its own."""
    model, box = small(depth=1, token_weight=1.0), (1, 0, 3, 2)
    with torch.no_grad():
        for name in ("attention.proj", "mlp.2"):
            layer = model.blocks[0].get_submodule(name)
            layer.weight.zero_(), layer.bias.zero_()
    plain, mixed = model.outputs(PICTURES), model.outputs(PICTURES, box)
    torch.testing.assert_close(mixed.token_logits, plain.token_logits)  # nothing but the token itself is read
    other = small()
    plain, mixed = other.outputs(PICTURES), other.outputs(PICTURES, box)
    assert not torch.allclose(mixed.token_logits, plain.token_logits, atol=1e-3) and not torch.allclose(mixed.class_logits, plain.class_logits, atol=1e-3)
    torch.testing.assert_close(other.outputs(PICTURES, (1, 1, 1, 1)), plain)
    swapped = other.outputs(PICTURES, (0, 0, 4, 4))
    torch.testing.assert_close(swapped.token_logits, plain.token_logits)
    torch.testing.assert_close(swapped.class_logits, plain.class_logits.flip(0))


def test_any_encoder_of_tokens_takes_two_heads():
    class Encoder(nn.Module):
        """Class token and a register, then the patches."""

        def __init__(self):
            super().__init__()
            self.patches, self.front = nn.Conv2d(3, 6, 8, 8), nn.Parameter(torch.ones(1, 2, 6))

        def forward(self, pictures):
            return torch.cat([self.front.expand(len(pictures), -1, -1), self.patches(pictures).flatten(2).transpose(1, 2)], 1)

    encoder, box = Encoder(), (0, 1, 2, 2)
    model = WithTokenHead(encoder, 6, 5, (2, 2), patches="patches", prefix=2, generator=seed())
    plain, mixed = model.outputs(PICTURES), model.outputs(PICTURES, box)
    tokens = encoder(PICTURES)
    torch.testing.assert_close(plain, (model.head(tokens[:, 0]), model.token_head(tokens[:, 2:])))
    torch.testing.assert_close(mixed.token_logits, plain.token_logits)
    with tl.mixing_patches(encoder.patches, box, grid=(2, 2)):
        torch.testing.assert_close(encoder(PICTURES)[:, 2:], tl.mix_tokens(tokens[:, 2:], box, grid=(2, 2)))
    with pytest.raises(ValueError, match=r"encoder must give normed tokens \(4, 5, 6\), got float32 tensor of shape \(4, 6, 6\)"):
        WithTokenHead(encoder, 6, 5, (2, 2), patches="patches")(PICTURES)
    with pytest.raises(ValueError, match="patches must be the name of a module of the encoder, for MixToken, got 'patch'"):
        WithTokenHead(encoder, 6, 5, (2, 2), patches="patch", prefix=2).outputs(PICTURES, box)


class Rows(nn.Module):
    """Tokens of 8 x 8 patches, some pictures at a time."""

    def __init__(self, at_once=4):
        super().__init__()
        self.patches, self.spare, self.front, self.at_once = nn.Conv2d(3, 6, 8, 8), nn.Linear(2, 2), nn.Parameter(torch.ones(1, 1, 6)), at_once

    def forward(self, pictures):
        found = torch.cat([self.patches(some).flatten(2).transpose(1, 2) for some in pictures.split(self.at_once)])
        return torch.cat([self.front.expand(len(found), -1, -1), found], 1)


def test_what_was_not_mixed_is_not_put_back():
    """Otherwise token logits of the one picture would meet the labels of the other."""
    box, asked = (0, 1, 2, 2), "patches must name a module that the encoder calls once with all 4 pictures, got"
    for encoder, patches, text in ((Rows(), "spare", "one that was not called"), (Rows(2), "patches", "it with 2 and 2")):
        with pytest.raises(ValueError, match=f"{asked} {text}"):
            WithTokenHead(encoder, 6, 5, (2, 2), patches=patches).outputs(PICTURES, box)
    with pytest.raises(ValueError, match="patches must be a module that is called while it is mixed, got one that was not called"):
        with tl.mixing_patches(encoder.spare, box, grid=(2, 2)):
            encoder(PICTURES)
    torch._dynamo.reset()
    model = WithTokenHead(Rows(), 6, 5, (2, 2), patches="_orig_mod.patches").eval()
    plain, compiled = WithTokenHead(model.encoder, 6, 5, (2, 2), patches="patches"), torch.compile(model.encoder, backend="eager")
    plain.head, plain.token_head, model.encoder = model.head, model.token_head, compiled
    torch.testing.assert_close(model.outputs(PICTURES), plain.outputs(PICTURES))
    with pytest.raises(ValueError, match=f"{asked} one that was not called"):  # what was compiled knows of no mixing
        model.outputs(PICTURES, box)
    torch._dynamo.reset()
    whole = torch.compile(plain.outputs, backend="eager")
    for one in (None, box):
        torch.testing.assert_close(whole(PICTURES, one), plain.outputs(PICTURES, one))


@pytest.mark.parametrize("options", [{}, dict(stem="patch"), dict(qkv_bias=True, skip_lam=1)])
def test_every_number_learns(options):
    model = LVViT(**SMALL | options, generator=seed()).train()
    labels = tl.image_labels(torch.eye(5)[:4], 16)
    tl.token_labeling_loss(*model.outputs(PICTURES, (0, 0, 2, 3)), *labels).total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_the_start_and_stochastic_depth():
    model = LVViT(**SIZES["toy-32"] | dict(depth=5, drop_path=0.4, classes=9), generator=seed(3))
    linear = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Linear)])
    assert linear.std().item() == pytest.approx(0.02, rel=0.01) and model.positions.std().item() == pytest.approx(0.02, rel=0.05)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None)
    assert [block.drop_path for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    torch.manual_seed(0)
    kept = model.blocks[4].train()._kept(torch.ones(4000, 1, 1))
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()} and kept.mean().item() == pytest.approx(1, abs=0.05)
    before = torch.get_rng_state()
    again, other = (LVViT(**SMALL, generator=seed(number)) for number in (3, 4))
    same = LVViT(**SMALL, generator=seed(3))
    assert torch.equal(again(PICTURES), same(PICTURES)) and not torch.equal(again.stem[0].weight, other.stem[0].weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert 0.16e6 < tl.parameters(LVViT(**SIZES["toy-32"], classes=9)) < 0.19e6


def test_a_start_of_its_own_leaves_the_generators_of_accelerators_alone(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    tl.Annotator(5, generator=seed())
    assert seeds == []


@pytest.mark.parametrize(
    "changes, text",
    [
        (dict(image_size=18), "image_size must be a multiple of patch_size, 4, got 18"), (dict(heads=5), "width must be a multiple of the number of heads, 5"),
        (dict(patch_size=1), "patch_size must be even for stem='conv', got 1"), (dict(stem="4_2"), "stem must be one of conv, patch, got '4_2'"),
        (dict(skip_lam=0), "skip_lam must be a finite number > 0, got 0"), (dict(drop_path=1.0), r"drop_path must be a finite number in \[0, 1\), got 1"),
    ],
)  # fmt: skip
def test_models_that_cannot_be(changes, text):
    with pytest.raises(ValueError, match=text):
        LVViT(**SMALL | changes)


def test_pictures_that_do_not_fit():
    with pytest.raises(ValueError, match=r"pictures must be 16 px wide and high, got \(16, 20\)"):
        small()(torch.zeros(1, 3, 16, 20))


def test_pictures_that_cannot_be_mixed_leave_the_model_as_it_was():
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    for one in (model, WithTokenHead(Rows(), 6, 5, (2, 2), patches="patches")):
        with pytest.raises(ValueError, match="pictures must be 2 or more with a box, since each is mixed with another one, got 1"):
            one.outputs(PICTURES[:1], (0, 0, 1, 1))
    with pytest.raises(ValueError, match="box must be"):
        model.encode(PICTURES, (0, 0, 9, 9))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    model = LVViT(**SMALL, generator=seed()).eval()
    found = copy.deepcopy(model).to(dtype)(PICTURES.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), model(PICTURES), rtol=0.1, atol=1e-2)


def test_on_an_accelerator():
    model, box = small(), (0, 1, 2, 3)
    maps, boxes = normal(4, 5, 6, 6).float(), tl.random_crops(4, generator=seed())
    masks, named = torch.tensor([[[0, 1], [2, 1]]] * 4), torch.tensor([[1, 3]] * 4)

    def everything(model, pictures, maps, boxes, masks, named):
        labels = tl.crop_labels(tl.store_maps(maps, 3), boxes, 4)
        blended = tl.mix_class_labels(tl.blend_truth(tl.smooth(labels.class_labels), torch.tensor([0, 1, 2, 3])), tl.kept_share(box, grid=(4, 4)))
        loss = tl.token_labeling_loss(*model.outputs(pictures, box), blended, labels.token_labels)
        exact = tl.labels_from_masks(masks, named, (1, 2), classes=5)
        return [loss.total, model(pictures), exact.token_labels, tl.shuffled_maps(maps, "places", generator=seed()), tl.crop(pictures, boxes, 8)]

    expected = everything(model, PICTURES, maps, boxes, masks, named)
    with Accelerator():
        far = copy.deepcopy(model).to(DEVICE)
        found = everything(far, *(one.to(DEVICE) for one in (PICTURES, maps, boxes, masks, named)))
    for one, other in zip(found, expected):
        torch.testing.assert_close(near(one), other)


# ---------------------------------------------------------------------------------------------------------------- the authors' weights


def official_shapes(image_size, patch_size, width, depth, classes, filters):
    """Names and shapes of the official model file, written out; a linear layer or a convolution is (weight, bias)."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + (image_size // patch_size) ** 2, width)}

    def put(name, *weight, bias=True):
        shapes[f"{name}.weight"] = weight
        shapes.update({f"{name}.bias": weight[:1]} if bias else {})

    for k, (come, side) in enumerate(((3, 7), (filters, 3), (filters, 3)), 1):
        put(f"patch_embed.conv{k}", filters, come, side, side, bias=False), put(f"patch_embed.bn{k}", filters)
        shapes.update({f"patch_embed.bn{k}.running_mean": (filters,), f"patch_embed.bn{k}.running_var": (filters,)})
        shapes[f"patch_embed.bn{k}.num_batches_tracked"] = ()
    put("patch_embed.proj", width, filters, patch_size // 2, patch_size // 2)
    for j in range(depth):
        put(f"blocks.{j}.norm1", width), put(f"blocks.{j}.attn.qkv", 3 * width, width, bias=False), put(f"blocks.{j}.attn.proj", width, width)
        put(f"blocks.{j}.norm2", width), put(f"blocks.{j}.mlp.fc1", 3 * width, width), put(f"blocks.{j}.mlp.fc2", width, 3 * width)
    put("norm", width), put("head", classes, width), put("aux_head", classes, width)
    return shapes


@pytest.mark.parametrize("size, filters", [("T", 64), ("S", 64), ("M", 64), ("L", 128)])
def test_names_and_shapes_of_the_official_files(size, filters):
    model, sizes = hollow(**SIZES[size]), SIZES[size]
    state = model.state_dict()
    found = {there: tuple(state[here].shape) for here, there in tl.official_names(model).items()}
    assert found == official_shapes(sizes["image_size"], 16, sizes["width"], sizes["depth"], 1000, filters)


def official_state(model):
    return {there: model.state_dict()[here] for here, there in tl.official_names(model).items()}


@pytest.mark.parametrize("form", ["plain", "in a checkpoint", "of several processes", "averaged"])
def test_weights_from_a_local_file(form, tmp_path):
    source, target = small(), LVViT(**SMALL).eval()
    state = official_state(source)
    forms = {"plain": state, "in a checkpoint": {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3)},
             "of several processes": {"model": {f"module.{name}": value for name, value in state.items()}},
             "averaged": {"state_dict": official_state(LVViT(**SMALL)), "state_dict_ema": state}}  # fmt: skip
    torch.save(forms[form], tmp_path / "lvvit.pth.tar")
    assert tl.load_official(target, tmp_path / "lvvit.pth.tar") is target
    assert torch.equal(target(PICTURES), source(PICTURES))


def test_files_that_are_absent_or_do_not_fit(tmp_path):
    model = LVViT(**SMALL)
    with pytest.raises(
        ValueError, match="path must be a local file of the official weights, such as lvvit_s-26M-224-83.3.pth.tar of the authors' releases, got"
    ):
        tl.load_official(model, tmp_path / "lvvit_s.pth.tar")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="path must be a file of weights that torch.load can read safely, got text.pth"):
        tl.load_official(model, tmp_path / "text.pth")
    before, state = copy.deepcopy(model.state_dict()), official_state(small())
    for wrong, text in (
        ({name: value for name, value in state.items() if name != "aux_head.bias"}, r"got 1 \(aux_head.bias\) too few and none too many"),
        (state | {"head.bias": torch.zeros(4)}, r"state must have head.bias of shape \(5,\), got \(4,\)"),
        (state | {"dist_token": torch.zeros(1)}, r"got none too few and 1 \(dist_token\) too many"),
        (state | {"module.head.bias": torch.zeros(5)}, "state must hold each name once, got one with and without 'module.' in front"),
        (state | {"head.bias": torch.zeros(5, device="meta")}, r"state must have head.bias in float32 or the like, got float32 tensor of shape \(5,\) on meta"),
        (state | {"head.bias": torch.zeros(5).to_sparse()}, "state must have head.bias in float32 or the like"),
        (state | {"head.bias": torch.zeros(5) + 1j}, r"state must have head.bias in float32 or the like, got complex64 tensor of shape \(5,\)"),
    ):
        with pytest.raises(ValueError, match=text):
            tl.from_official(wrong, model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "changes, text",
    [(dict(stem="patch"), "stem='conv'"), (dict(token_head=False), "a token head"), (dict(qkv_bias=True), "without a bias, got qkv_bias=True")],
)
def test_models_that_have_no_official_names(changes, text):
    with pytest.raises(ValueError, match=f"model must have .*{text}"):
        tl.official_names(LVViT(**SMALL | changes))


# ----------------------------------------------------------------------------------------------------------------------- all together


def test_a_few_steps_teach_tokens_their_own_labels():
    """Pictures of four coloured quarters: with exact labels the token head learns to tell which patch has which colour."""
    generator = seed(0)
    colours = torch.rand(4, 3, generator=generator)
    quarters = torch.stack([torch.randperm(4, generator=generator) for _ in range(96)])
    classes = quarters.view(-1, 2, 2).repeat_interleave(8, 1).repeat_interleave(8, 2)
    pictures, masks = colours[classes].permute(0, 3, 1, 2), classes + 1
    labels = tl.labels_from_masks(masks, torch.arange(4).expand(96, 4), (4, 4), classes=4)
    assert torch.equal(labels.token_labels.argmax(2), classes[:, ::4, ::4].flatten(1))
    model = LVViT(**SMALL | dict(classes=4, stem="patch", width=24, heads=2), generator=generator).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(40):
        batch, box = torch.arange(16) + 16 * (step % 5), tl.draw_box((4, 4), generator=generator)
        outputs = model.outputs(pictures[batch], box)
        target = tl.mix_class_labels(labels.class_labels[batch], tl.kept_share(box, grid=(4, 4)))
        optimizer.zero_grad()
        tl.token_labeling_loss(*outputs, target, labels.token_labels[batch]).total.backward()
        optimizer.step()
    found = model.eval().outputs(pictures[80:]).token_logits.argmax(2)
    assert (found == labels.token_labels[80:].argmax(2)).float().mean() > 0.95
