"""Measures of mixing: against renders whose answer is known, closed forms and slow loops."""

import numpy as np
import pytest
import torch

from helpers.measures import mixing as bench
from helpers.measures import statistics
from helpers.models.judges import Judges, Reading
from helpers.toyworld import CATEGORIES, creatures, parse_creature_caption
from tests.accelerator import DEVICE, Accelerator

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def todo():
    return bench.cases(["a photo of a red cat", "a photo of a car", "a sketch of a bird"], [["rabbit", "teapot"], ["lamp"], ["fish", "dog", "car"]], seed=5)


def reading(masks, category):
    n = len(masks)
    return Reading(category, torch.full((n, 2), 0.5), torch.full((n, 4), 0.25), torch.full((n, 8), 0.125), masks, torch.zeros(n, 3))


def test_one_case_a_word(todo):
    assert todo.words == ["rabbit", "teapot", "lamp", "fish", "dog", "car"] and todo.sources == ["cat", "cat", "car", "bird", "bird", "bird"]
    assert todo.row.tolist() == [0, 0, 1, 2, 2, 2] and len(todo) == 6 and len(todo.pictures) == 3
    assert torch.equal(todo.image[0], todo.image[1]) and not torch.equal(todo.noise[0], todo.noise[1])
    assert todo.noise.shape == (6, 4, 16, 16) and torch.equal(todo.mask[3], todo.pictures.mask[2])


def test_cases_follow_from_their_seed(todo):
    again = bench.cases(["a photo of a red cat"], [["rabbit", "teapot"]], seed=5)
    assert torch.equal(again.image, todo.image[:2]) and torch.equal(again.noise, todo.noise[:2])
    assert not torch.equal(bench.cases(["a photo of a red cat"], [["rabbit"]], seed=6).image[0], todo.image[0])


def test_some_of_the_cases(todo):
    some = todo.take([4, 2])
    assert some.words == ["dog", "lamp"] and some.row.tolist() == [2, 1] and torch.equal(some.noise[0], todo.noise[4])
    assert todo.take(todo.row == 0).words == ["rabbit", "teapot"] and len(todo.take(slice(1, 4))) == 3


@pytest.mark.parametrize("category", CATEGORIES)
def test_three_words_of_three_families(category):
    families = [next(i for i, f in enumerate(bench.FAMILIES) if word in f) for word in (category, *bench.other_words(category))]
    assert families[0] == families[1] and sorted(families[1:]) == [0, 1, 2]
    assert all(category not in bench.other_words(category, turn) for turn in range(5))
    assert len({tuple(bench.other_words(category, turn)) for turn in range(12)}) > 1


def test_families_are_the_worlds():
    assert sorted(word for family in bench.FAMILIES for word in family) == sorted(CATEGORIES)


def test_measures_by_hand(todo):
    category = torch.full((6, 9), 0.05)
    for i, (word, source) in enumerate(zip(todo.words, todo.sources)):
        category[i, CATEGORIES.index(word)], category[i, CATEGORIES.index(source)] = 0.6, 0.3
    masks = todo.mask.float().clone()
    masks[1] = 0  # nothing seen: no overlap
    masks[2] = 1 - masks[2]
    images = todo.image.clone()
    images[3] = (images[3] + 0.25 * (~todo.mask[3])).clamp(0, 1)
    found = bench.measure(None, images, todo, reading(masks, category))
    assert found.layout.tolist() == [1, 0, 0, 1, 1, 1]
    assert np.allclose(found.content, 0.6) and np.allclose(found.source, 0.3)
    assert found.place.tolist()[:2] == [1, 0] and 0 < found.place[2] < 1  # a mask's complement lies all around it
    assert found.score[0] == pytest.approx(2 * 0.6 / 1.6) and found.score[1] == 0
    assert found.background[0] == 0 and found.background[3] > 0.02
    assert found.luminance[0] == pytest.approx(1)
    assert all(part.shape == (6,) and part.dtype == np.float64 for part in found)


def test_boxes_of_rectangles_are_the_rectangles():
    masks = torch.zeros(4, 20, 30)
    masks[0, 2:6, 3:9] = 1
    masks[1, 0, 0] = 1
    masks[2, 5:15, 10:25] = 0.6
    masks[2, 19, 0] = 0.4  # less than a half does not count
    assert np.allclose(bench.boxes(masks)[:3], [[3, 2, 9, 6], [0, 0, 1, 1], [10, 5, 25, 15]]) and np.isnan(bench.boxes(masks)[3]).all()
    masks[3, 2:6, 6:12] = 1  # the first one, moved by half its length
    assert bench.box_overlap(masks[:1], masks[3:]) == pytest.approx([1 / 3])
    assert bench.box_overlap(masks, masks) == pytest.approx(1) and bench.box_overlap(masks[:1], 0 * masks[:1]).tolist() == [0]


def test_a_stray_pixel_hardly_moves_a_box():
    mask = torch.zeros(1, 64, 64)
    mask[0, 20:40, 20:40] = 1
    stray = mask.clone()
    stray[0, 63, 63] = 1
    assert bench.box_overlap(stray, mask)[0] > 0.9


def test_halves_are_the_left_of_one_and_the_right_of_the_other():
    cat, car = (creatures.creatures_of([f"a photo of a {c}"] * 2, 5) for c in ("cat", "car"))
    made = bench.halves(cat, car)
    assert torch.equal(made[:, :, :, 0], cat.image[:, :, :, 0]) and torch.equal(made[:, :, :, -1], car.image[:, :, :, -1])
    from_cat, from_car = ((made == other.image).all(1) for other in (cat, car))
    assert (from_cat | from_car).all()
    for i in range(2):  # and both of them have a good part in it
        assert 0.2 < (from_cat & cat.mask)[i].sum() / cat.mask[i].sum() < 0.95 and 0.2 < (from_car & car.mask)[i].sum() / car.mask[i].sum() < 0.95


def test_an_empty_result_has_no_score(todo):
    found = bench.measure(None, todo.image, todo, reading(torch.zeros(6, 64, 64), torch.zeros(6, 9)))
    assert found.score.tolist() == [0] * 6


def test_measures_ask_the_judges(todo):
    class One(Judges):
        def read(self, images, batch=64):
            assert images.shape == (6, 3, 64, 64)
            return reading(todo.mask.float(), torch.eye(9)[[CATEGORIES.index(w) for w in todo.words]])

    assert bench.measure(One(()), todo.image, todo).content.tolist() == [1] * 6


def test_luminance_correlation_against_a_slow_loop():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.random((3, 3, 20, 24))).float() for _ in range(2))
    found = bench.luminance_correlation(a, b, blur=0.0)
    weights = np.array([0.299, 0.587, 0.114])
    for i in range(3):
        slow = np.corrcoef(*(np.tensordot(weights, v[i].double().numpy(), 1).ravel() for v in (a, b)))[0, 1]
        assert found[i] == pytest.approx(max(slow, 0), abs=1e-9)
    assert np.allclose(bench.luminance_correlation(a, a), 1) and np.allclose(bench.luminance_correlation(a, 1 - a), 0)
    assert bench.luminance_correlation(a[:1], torch.ones(1, 3, 20, 24)).tolist() == [0]


def test_sketches_show_their_paper():
    found = {}
    for style in ("photo", "sketch"):
        drawn = creatures.creatures(9, range(200), styles=(style,))
        found[style] = bench.sketched(drawn.image, drawn.mask.float())
    assert (found["sketch"].mean() + 1 - found["photo"].mean()) / 2 > 0.95
    assert not bench.sketched(drawn.image[:2], torch.zeros(2, 64, 64)).any()


def test_a_gain_that_is_known():
    rng = np.random.default_rng(0)
    layout = np.array([0.8, 0.5, 0.2])[:, None] + 0.01 * rng.normal(size=(3, 30))
    rival = layout, 1 - layout + 0.05 * rng.normal(size=(3, 30))
    ours = layout + 0.1, 1.1 - layout + 0.1  # the same line, and 0.3 above it
    found = bench.gain(ours, rival)
    assert found.value == pytest.approx(0.3, abs=0.02) and found.low < found.value < found.high and found.high - found.low < 0.1 and found.n == 30
    mirrored = bench.gain(rival, ours)
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((-found.value, -found.high, -found.low))
    same = bench.gain(ours, ours)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_order_of_the_settings_does_not_matter():
    rng = np.random.default_rng(1)
    ours, rival = ((rng.random((4, 12)), rng.random((4, 12))) for _ in range(2))
    turned = tuple(x[::-1] for x in ours)
    assert bench.gain(turned, rival) == bench.gain(ours, rival)


def test_the_interval_of_a_difference_of_flat_curves_is_that_of_means():
    rng = np.random.default_rng(2)
    layout = np.tile([[0.2], [0.8]], 20)  # no spread, so the gain is the mean difference of content
    first, second = rng.normal(0.6, 0.1, 20), rng.normal(0.4, 0.1, 20)
    found = bench.gain((layout, np.tile(first, (2, 1))), (layout, np.tile(second, (2, 1))))
    known = statistics.paired(first, second)
    assert (found.value, found.low, found.high, found.spread) == pytest.approx((known.value, known.low, known.high, known.spread), abs=0.01)


def test_how_much_noise_things_survive():
    levels = np.linspace(0, 1, 11)
    jump = (levels < 0.45).astype(float)  # kept up to 0.4, gone from 0.5 on
    assert bench.survives(levels, jump) == pytest.approx(0.45)
    assert bench.survives(levels, 1 - levels) == pytest.approx(0.5)
    assert bench.survives(levels, 0.3 + 0.5 * jump) == pytest.approx(0.45)
    assert bench.survives(levels, np.stack([jump, 1 - levels], 1)) == pytest.approx(0.475)
    assert bench.survives([0, 0.1, 1], [1, 1, 0]) == pytest.approx(0.55)  # unequal levels count with their distance


def test_which_of_two_survives_longer():
    levels, rng = np.linspace(0, 1, 11), np.random.default_rng(0)
    late, early = ((levels[:, None] < at + 0.03 * rng.normal(size=12)).astype(float) for at in (0.7, 0.4))
    found = bench.survives_longer(levels, late, early)
    assert found.value == pytest.approx(0.3, abs=0.05) and 0.2 < found.low < found.value < found.high < 0.4
    assert bench.survives_longer(levels, early, late).value == pytest.approx(-found.value)


def test_the_share_of_mixtures_is_scaled_between_none_and_all():
    rng = np.random.default_rng(0)
    none, halves = rng.random(16) * 0.2, 0.5 + 0.2 * rng.random(16)
    assert bench.mixed_share(none, none, halves).value == 0 and bench.mixed_share(halves, none, halves).value == pytest.approx(1)
    assert bench.mixed_share(0.75 * none + 0.25 * halves, none, halves).value == pytest.approx(0.25)
    blind = bench.mixed_share(halves, none, none[::-1])  # true mixtures that score like none
    assert (blind.low, blind.value, blind.high) == (0, 0.5, 1)
    with pytest.raises(ValueError, match="at least 8 units"):
        bench.mixed_share(none[:5], none[:5], halves[:5])


def test_captions_of_the_docstring_can_be_drawn():
    assert parse_creature_caption("a photo of a cat")["category"] == CATEGORIES.index("cat")


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda todo: bench.cases(["a photo of a cat"], [["rabbit"], ["dog"]], seed=1), "contents must hold one list"),
    (lambda todo: bench.cases(["a photo of a cat"], [["cow"]], seed=1), "contents must be one of 'cat', .*, got 'cow'"),
    (lambda todo: bench.cases(["a photo of a cat"], [[]], seed=1), "contents must hold at least one word"),
    (lambda todo: bench.other_words("cow"), "category must be one of 'cat', .*, got 'cow'"),
    (lambda todo: bench.measure(None, todo.image[:2], todo, reading(todo.mask.float(), torch.eye(9)[:6])),
          r"images must be numbers \(6, 3, 64, 64\), got shape \(2"),
    (lambda todo: bench.measure(None, todo.image, todo, reading(todo.mask.float()[:2], torch.eye(9)[:2])), "reading must be of 6 pictures, got one of 2"),
    (lambda todo: bench.measure(None, todo.image * 2, todo, reading(todo.mask.float(), torch.eye(9)[:6])), "images must be .* in .*, got values from"),
    (lambda todo: todo.take([9]), "rows must choose among 6 cases"),
    (lambda todo: todo.take([]), "rows must choose at least one of 6 cases"),
    (lambda todo: todo.take(3), "rows must choose at least one of 6 cases, in a list"),
    (lambda todo: bench.cases(["a photo of a cat"], [["dog"]], seed=-1), "seed must be a whole number >= 0, got -1"),
    (lambda todo: bench.cases(["a photo of a cat"], [["dog"]], seed=1, latent=(4, 16)), "latent must be a tuple of three sizes"),
    (lambda todo: bench.halves(todo.pictures, creatures.creatures_of(["a photo of a cat"] * 3, 1, size=32)), "second must be of the size of first"),
    (lambda todo: bench.gain((np.full((2, 9), np.nan), np.zeros((2, 9))), (np.ones((2, 9)), np.ones((2, 9)))), r"ours\[0\] must be finite"),
    (lambda todo: bench.gain((np.zeros((2, 9)),), (np.ones((2, 9)), np.ones((2, 9)))), "ours must be .layout, content., got 1 parts"),
    (lambda todo: bench.mixed_share(np.ones(9), np.ones(8), np.ones(9)), "none must be numbers .*with n = 9"),
    (lambda todo: bench.luminance_correlation(todo.image, todo.image[:2]), "others"),
    (lambda todo: bench.sketched(todo.image, todo.mask[:2]), "masks must be"),
    (lambda todo: bench.gain((np.zeros((2, 9)), np.zeros((2, 9))), (np.ones((2, 9)), np.ones((2, 9)))), "share a range of layouts"),
    (lambda todo: bench.gain((np.zeros((2, 9)), np.zeros((2, 8))), (np.ones((2, 9)), np.ones((2, 9)))), r"ours\[1\] must be .* with n = 9, got shape \(2, 8\)"),
    (lambda todo: bench.gain(*[(np.tile([[0.2], [0.8]], 7), np.ones((2, 7)))] * 2), "at least 8 sources"),
    (lambda todo: bench.boxes(todo.mask[0]), "masks must be"),
    (lambda todo: bench.box_overlap(todo.mask, todo.mask[:2]), "found"),
    (lambda todo: bench.halves(todo.pictures, creatures.creatures_of(["a photo of a cat"], 1)), "second must be one for each of the 3 pictures, got 1"),
    (lambda todo: bench.survives([0.1, 1], [1, 0]), "levels must rise from 0 to 1"),
    (lambda todo: bench.survives([0, 1], [1, 1]), "curve must end below its beginning"),
    (lambda todo: bench.survives_longer([0, 1], np.ones(2), np.ones(2)), r"first must be numbers \(K, n\), got shape \(2,\)"),
    (lambda todo: bench.survives_longer([0, 1], np.ones((2, 9)), np.ones((2, 9))), "first must end below its beginning"),
    (lambda todo: bench.survives([0, 1], np.ones((2, 1, 1))), r"curve must be \(levels,\) or \(levels, n\)"),
])  # fmt: skip
def test_bad_input_is_refused(todo, wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(todo)


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda todo: bench.measure(None, todo.image, todo), "judges must be judges"), (lambda todo: bench.measure(None, todo.image, [1]), "todo must be cases"),
    (lambda todo: bench.sketched((todo.image * 255).byte(), todo.mask), "images must be"), (lambda todo: bench.halves(todo.image, todo.pictures),
          "first must be pictures"),
    (lambda todo: bench.other_words("cat", 0.5), "turn must be a whole number"), (lambda todo: bench.cases("a photo of a cat", "dog", seed=1),
          "contents must be a list"),
    (lambda todo: bench.gain("ours", (1, 2)), "ours must be .layout, content."), (lambda todo: bench.probability(torch.ones(2, 9), ["cat", "dog"]),
          "reading must be"),
])  # fmt: skip
def test_other_kinds_are_refused(todo, wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        wrong(todo)


def test_pictures_may_be_arrays_and_lie_elsewhere(todo):
    masks, category = todo.mask.float(), torch.full((6, 9), 1 / 9)
    known = bench.measure(None, todo.image, todo, reading(masks, category))
    for images in (todo.image.numpy(), todo.image.double(), todo.image.clone().requires_grad_()):
        assert all(np.allclose(a, b, equal_nan=True) for a, b in zip(bench.measure(None, images, todo, reading(masks, category)), known))
    with Accelerator():
        far = bench.measure(None, todo.image.to(DEVICE), todo, reading(masks.to(DEVICE), category.to(DEVICE)))
        seen = bench.sketched(todo.image.to(DEVICE), masks), bench.sketched(todo.image, todo.mask.numpy())
    assert all(np.allclose(a, b, equal_nan=True) for a, b in zip(far, known)) and seen[0].tolist() == seen[1].tolist()
    assert todo.take(torch.tensor([4, 2])).words == ["dog", "lamp"]
