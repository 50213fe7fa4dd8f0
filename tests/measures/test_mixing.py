"""Measures of mixing: against renders whose answer is known, closed forms and slow loops."""

import numpy as np
import pytest
import torch

from helpers.measures import mixing as bench
from helpers.models.judges import Judges, Reading
from helpers.toyworld import CATEGORIES, creatures, parse_creature_caption

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
    assert np.allclose(found.content, 0.6) and np.allclose(found.source, 0.3) and found.both.all()
    assert found.score[0] == pytest.approx(2 * 0.6 / 1.6) and found.score[1] == 0
    assert found.background[0] == 0 and found.background[3] > 0.02
    assert found.luminance[0] == pytest.approx(1)
    assert all(part.shape == (6,) and part.dtype == np.float64 for part in found)


def test_an_empty_result_has_no_score(todo):
    found = bench.measure(None, todo.image, todo, reading(torch.zeros(6, 64, 64), torch.zeros(6, 9)))
    assert found.score.tolist() == [0] * 6 and not found.both.any()


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


def test_groups_stay_together():
    groups = [3, 3, 5, 5, 5, 9]
    drawn = bench.resamples(groups, 50, seed=1)
    assert len(drawn) == 50
    for rows in drawn:
        counts = np.bincount(rows, minlength=6)
        assert counts[0] == counts[1] and counts[2] == counts[3] == counts[4] and counts[0] + counts[2] + counts[5] == 3
    assert all(np.array_equal(a, b) for a, b in zip(drawn, bench.resamples(groups, 50, seed=1)))


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(2, 3, 400)
    mean, low, high = bench.mean_interval(values, bench.resamples(np.arange(400), 2000))
    error = values.std() / 20
    assert mean == values.mean()
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)


def test_content_at_a_layout_is_read_off_the_line():
    layout = np.array([[0.8, 0.6], [0.4, 0.4], [0.1, 0.1]])  # means 0.7, 0.4, 0.1
    content = np.array([[0.0, 0.2], [0.5, 0.7], [1.0, 1.0]])  # means 0.1, 0.6, 1
    assert bench.at_layout(layout, content, [0.7, 0.55, 0.25, 0.05, 0.9]) == pytest.approx([0.1, 0.35, 0.8, 1.0, 0.1])
    assert bench.at_layout(layout[::-1], content[::-1], [0.55]) == pytest.approx([0.35])


def test_a_gain_that_is_known():
    rng = np.random.default_rng(0)
    layout = np.array([0.8, 0.5, 0.2])[:, None] + 0.01 * rng.normal(size=(3, 30))
    rival = layout, 1 - layout + 0.05 * rng.normal(size=(3, 30))
    ours = layout + 0.1, 1.1 - layout + 0.1  # the same line, and 0.2 above it
    found = bench.gain(ours, rival, bench.resamples(np.arange(30), 300))
    assert found.value == pytest.approx(0.3, abs=0.02) and found.low < found.value < found.high and 0 < found.spread < 0.02
    assert len(found.places) == 5 and 0.3 < found.places.min() < found.places.max() < 0.8
    mirrored = bench.gain(rival, ours, bench.resamples(np.arange(30), 300))
    assert mirrored.value == pytest.approx(-found.value) and mirrored.low == pytest.approx(-found.high)
    assert bench.gain(ours, ours, bench.resamples(np.arange(30), 20))[:2] == (0, 0)


def test_when_things_settle():
    jump = np.tile(np.r_[np.zeros(3), np.ones(8)], (2, 1))  # 10 intervals, up between the third and fourth value
    assert bench.settling(jump) == pytest.approx(0.25)
    assert bench.settling(np.linspace(0.2, 0.9, 11)[None]) == pytest.approx(0.5)
    assert bench.settling(0.5 * jump + 0.1) == pytest.approx(0.25)
    early, late = 1 - np.exp(-np.linspace(0, 8, 50)), np.linspace(0, 1, 50) ** 4
    assert bench.settling(np.ones((2, 5))) == bench.settling(-np.eye(1, 5, 4)) == 0
    assert bench.settling(early[None]) < 0.2 < 0.7 < bench.settling(late[None])


def test_captions_of_the_docstring_can_be_drawn():
    assert parse_creature_caption("a photo of a cat")["category"] == CATEGORIES.index("cat")


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda todo: bench.cases(["a photo of a cat"], [["rabbit"], ["dog"]], seed=1), "contents must hold one list"),
    (lambda todo: bench.cases(["a photo of a cat"], [["cow"]], seed=1), "'cow' is no category"),
    (lambda todo: bench.cases(["a photo of a cat"], [[]], seed=1), "contents must hold at least one word"),
    (lambda todo: bench.other_words("cow"), "category 'cow'"),
    (lambda todo: bench.measure(None, todo.image[:2], todo), "images must be one for each of the 6 cases, got 2"),
    (lambda todo: bench.luminance_correlation(todo.image, todo.image[:2]), "others"),
    (lambda todo: bench.sketched(todo.image, todo.mask[:2]), "masks must be"),
    (lambda todo: bench.resamples([]), "groups must be"),
    (lambda todo: bench.at_layout(np.zeros(3), np.zeros(3), [0.5]), "content must be"),
    (lambda todo: bench.gain((np.zeros((2, 3)), np.zeros((2, 3))), (np.ones((2, 3)), np.ones((2, 3))), []), "share a range of layouts"),
    (lambda todo: bench.settling(np.ones((2, 1))), "two steps or more"),
])  # fmt: skip
def test_bad_input_is_refused(todo, wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(todo)
