"""Worked verdicts, refusals, batches and averages of the judges, and what the finished ones see in fresh renders."""

import itertools

import pytest
import torch

from helpers.models import judges
from helpers.toyworld import CATEGORIES, COLOURS, FACINGS, TEXTURES, creatures

torch.set_num_threads(1)
TABLES = {"category": CATEGORIES, "facing": FACINGS, "texture": TEXTURES, "colour": tuple(COLOURS)}


def reading_of(*words: str) -> judges.Reading:
    """A reading that is sure of "striped red cat left", one a picture."""
    rows = [text.split() for text in words]
    shares = {}
    for k, name in enumerate(("texture", "colour", "category", "facing")):
        index = torch.tensor([TABLES[name].index(row[k]) for row in rows])
        shares[name] = torch.nn.functional.one_hot(index, len(TABLES[name])).float() * 0.9 + 0.01
    return judges.Reading(**shares, mask=torch.zeros(len(rows), 64, 64), features=torch.zeros(len(rows), 3))


@pytest.fixture
def fresh():
    """Two untrained judges."""
    torch.manual_seed(0)
    return judges.Judges((judges.Judge().eval(), judges.Judge().eval()), ("lamp",))


def test_worked_verdicts():
    reading = reading_of("striped red cat left", "plain blue dog right", "dotted pink car left", "checkered green lamp right")
    prompts = ["a photo of a striped red cat facing left on white", "a plain red dog facing right", "car", "a sketch of a green lamp facing left"]
    verdict = judges.compare(reading, prompts, unjudged_facings=("lamp",))
    nan = float("nan")
    wanted = {"category": [1, 1, 1, 1], "facing": [1, 1, nan, nan], "texture": [1, 1, nan, nan], "colour": [1, 0, nan, 1], "all": [1, 0, 1, 1]}
    assert list(verdict) == ["category", "facing", "texture", "colour", "all"]
    for name, values in wanted.items():
        assert torch.allclose(verdict[name], torch.tensor(values, dtype=torch.float32), equal_nan=True), name
    blind = judges.compare(reading, prompts)  # every facing counts where none is named
    assert blind["facing"][3] == 0 and blind["all"][3] == 0
    wrong = judges.compare(reading_of("striped red cat left"), ["a striped red fox facing left"])
    assert wrong["category"] == 0 and wrong["colour"] == 1 and wrong["all"] == 0


def test_a_verdict_is_the_reading_compared(fresh):
    images = torch.rand(3, 3, 64, 64)
    prompts = ["a red cat", "a lamp facing left", "fish"]
    verdict = judges.judge(images, prompts, fresh)
    expected = judges.compare(fresh.read(images), prompts, unjudged_facings=("lamp",))
    assert all(torch.equal(verdict[name].nan_to_num(7), expected[name].nan_to_num(7)) for name in expected)
    assert verdict["facing"].isnan().all()


def test_shapes_and_ranges(fresh):
    images = torch.rand(5, 3, 64, 64)
    one, two = fresh.read_each(images)
    both = fresh.read(images)
    assert len(both) == 5 and both.mask.shape == (5, 64, 64) and 0 <= both.mask.min() and both.mask.max() <= 1
    for name, table in TABLES.items():
        value = getattr(both, name)
        assert value.shape == (5, len(table)) and torch.allclose(value.sum(1), torch.ones(5), atol=1e-5)
        assert torch.allclose(value, (getattr(one, name) + getattr(two, name)) / 2, atol=1e-6)
    assert torch.allclose(both.mask, (one.mask + two.mask) / 2, atol=1e-6)
    assert torch.equal(both.features, torch.cat([one.features, two.features], 1)) and both.features.shape[1] == 2 * one.features.shape[1]
    assert sum(p.numel() for p in fresh.members[0].parameters()) < 0.4e6


def test_a_picture_reads_the_same_in_any_batch(fresh):
    images = torch.rand(7, 3, 64, 64)
    whole = fresh.read(images)
    for other in (fresh.read(images, batch=2), fresh.read(images.flip(0), batch=3)):
        turned = other if torch.allclose(other.category, whole.category, atol=1e-5) else judges.Reading(**{k: v.flip(0) for k, v in vars(other).items()})
        for name, value in vars(whole).items():
            assert torch.allclose(value, getattr(turned, name), atol=1e-4), name


def test_half_precision_is_read_as_float32(fresh):
    images = torch.rand(2, 3, 64, 64).half()
    assert torch.equal(fresh.read(images).category, fresh.read(images.float()).category)


def test_averages_refuse_what_does_not_belong_together():
    with pytest.raises(ValueError, match="readings must be one or more of the same pictures"):
        judges.average([])
    with pytest.raises(ValueError, match=r"got readings of \[1, 2\]"):
        judges.average([reading_of("striped red cat left"), reading_of("striped red cat left", "plain red cat left")])


GOOD = torch.full((2, 3, 64, 64), 0.5)


@pytest.mark.parametrize(
    "images, error, match",
    [
        (None, TypeError, r"images must be numbers \(B, 3, 64, 64\), got None"),
        ((GOOD * 255).to(torch.uint8), ValueError, r"images must be numbers .* got values from 127 to 127"),
        ((GOOD * 2).to(torch.uint8), TypeError, r"floating point in \[0, 1\], got uint8 tensor"),
        (GOOD[0], ValueError, r"images must be numbers \(B, 3, 64, 64\), got shape \(3, 64, 64\)"),
        (GOOD[:, :1], ValueError, r"got shape \(2, 1, 64, 64\)"),
        (GOOD[..., :32], ValueError, r"got shape \(2, 3, 64, 32\)"),
        (GOOD[:0], ValueError, r"not empty, got shape \(0, 3, 64, 64\)"),
        (GOOD * float("nan"), ValueError, "images must be finite .* got NaN"),
        (GOOD / 0, ValueError, "images must be finite .* got an infinity"),
        (GOOD * 2 - 1.5, ValueError, r"images must be numbers .* got values from -0.5 to -0.5"),
        (GOOD * 255, ValueError, r"images must be numbers .* got values from 127.5 to 127.5"),
    ],
)
def test_pictures_that_are_refused(fresh, images, error, match):
    for call in (fresh.read, fresh.read_each, lambda x: judges.judge(x, ["cat", "dog"], fresh)):
        with pytest.raises(error, match=match):
            call(images)


@pytest.mark.parametrize("batch, error", [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError), (None, TypeError)])
def test_batches_that_are_refused(fresh, batch, error):
    with pytest.raises(error, match="batch must be"):
        fresh.read(GOOD, batch=batch)


@pytest.mark.parametrize(
    "prompts, error, match",
    [
        ("cat", TypeError, "prompts must be a list of texts, one a picture, got the text 'cat'"),
        (["cat"], ValueError, "prompts: 1 for 2 images"),
        ([], ValueError, "prompts: 0 for 2 images"),
        (["cat", 3], TypeError, "prompts must be texts .*: caption must be a text, got 3"),
        (["cat", "zebra"], ValueError, "'zebra' is not a category"),
        (["cat", "a purple-ish dog"], ValueError, "'purple-ish' is neither"),
    ],
)
def test_prompts_that_are_refused(fresh, prompts, error, match):
    with pytest.raises(error, match=match):
        judges.judge(GOOD, prompts, fresh)


def test_absent_judges_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="make model NAME=toy-judge"):
        judges.load(tmp_path)


def test_overlap_against_sets():
    torch.manual_seed(1)
    found, mask = torch.rand(4, 5, 6), torch.rand(4, 5, 6) > 0.6
    found[3], mask[3] = 0, False
    got = judges.overlap(found, mask)
    for i in range(3):
        cells = list(itertools.product(range(5), range(6)))
        a, b = ({c for c in cells if table[i][c] > 0.5} for table in (found, mask))
        assert got[i].item() == pytest.approx(len(a & b) / len(a | b))
    assert got[3] == 1
    with pytest.raises(ValueError, match=r"found \(4, 5, 6\) must match mask \(4, 5, 5\)"):
        judges.overlap(found, mask[..., :5])


# ---------------------------------------------------------------------------------------------------------------- the finished judges


@pytest.fixture(scope="module")
def pair():
    return judges.load()


def test_finished_judges_see_what_fresh_renders_show(pair):
    drawn = creatures.creatures(6, range(200))
    reading = pair.read(drawn.image)
    right = {name: (getattr(reading, name).argmax(1) == getattr(drawn, name)).float() for name in TABLES}
    seen = torch.tensor([CATEGORIES[k] not in pair.unjudged_facings for k in drawn.category])
    assert right["category"].mean() >= 0.97 and right["facing"][seen].mean() >= 0.97
    assert right["colour"].mean() >= 0.95 and right["texture"].mean() >= 0.8
    assert judges.overlap(reading.mask, drawn.mask).mean() >= 0.9
    verdict = judges.judge(drawn.image, drawn.full_captions, pair)
    assert torch.equal(verdict["category"], right["category"])
    assert torch.equal(verdict["facing"].isnan(), ~seen) and torch.equal(verdict["facing"][seen], right["facing"][seen])


def test_a_mirrored_picture_faces_the_other_way(pair):
    drawn = creatures.creatures(7, range(40), categories=["cat", "dog", "fish"], styles=["photo"])
    plain, mirrored = pair.read(drawn.image), pair.read(drawn.image.flip(3))
    assert (plain.facing.argmax(1) != mirrored.facing.argmax(1)).float().mean() >= 0.95
    assert (plain.category.argmax(1) == mirrored.category.argmax(1)).float().mean() >= 0.95


def test_the_two_judges_are_different(pair):
    one, two = (dict(member.named_parameters()) for member in pair.members)
    assert not any(torch.equal(one[name], two[name]) for name in one if "convolution" in name)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in one.values())
