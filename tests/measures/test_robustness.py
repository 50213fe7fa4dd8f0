"""Measures of robustness: the published worked numbers, slow loops, what is invariant, intervals by scipy; refusals."""

import numpy as np
import pytest
import torch
from scipy import stats

from helpers.datasets.corruptions import KINDS, corrupt
from helpers.measures.robustness import ALEXNET, Errors, corruption_errors, errors_under, mean_corruption_error, retention, stack, summary
from tests.accelerator import DEVICE, Accelerator

# AlexNet's mean errors at 224 px under the 15 kinds of ImageNet-C, by which its authors' code divides
PRINTED = {
    "gaussian noise": 0.886428, "shot noise": 0.894468, "impulse noise": 0.922640, "defocus blur": 0.819880, "glass blur": 0.826268,
    "motion blur": 0.785948, "zoom blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204,
    "elastic transform": 0.646056, "pixelate": 0.717840, "jpeg compression": 0.606500,
}  # fmt: skip


def everywhere(error: float, clean: float) -> Errors:
    return Errors(clean, {kind: [error] * 5 for kind in PRINTED})


REFERENCE = Errors(0.435, {kind: [error] * 5 for kind, error in PRINTED.items()})


def some(seeds: int = 3, seed: int = 0, kinds=("noise", "fog")) -> Errors:
    rng = np.random.default_rng(seed)
    return Errors(rng.uniform(0.05, 0.1, seeds), {kind: np.sort(rng.uniform(0.2, 0.9, (seeds, 4)), 1) for kind in kinds})


MODEL, OTHER = some(), some(2, seed=1)


# --- worked numbers ---


def test_the_worked_numbers_of_imagenet_c():
    assert np.mean(list(PRINTED.values())) == pytest.approx(0.788993, abs=5e-7)
    assert mean_corruption_error(everywhere(0.5, 0.3), REFERENCE) == pytest.approx([0.646726], abs=5e-7)
    assert mean_corruption_error(REFERENCE, REFERENCE) == [1] and mean_corruption_error(REFERENCE, REFERENCE, relative=True) == [1]
    assert mean_corruption_error(everywhere(0, 0), REFERENCE) == [0] and retention(everywhere(0, 0)) == [1]
    for kind, errors in REFERENCE.corrupted.items():
        assert (ALEXNET.corrupted[kind] == errors).all() and ALEXNET.corrupted.keys() == REFERENCE.corrupted.keys()


@pytest.mark.parametrize("clean, corrupted, kept", [
    (79.2, 57.5, 72.6), (82.5, 64.5, 78.2), (83.6, 67.0, 80.1), (83.9, 67.7, 80.7),  # FAN-T, S, B, L of the official README
    (79.0, 50.6, 64.1), (79.9, 58.1, 72.7), (81.3, 55.4, 68.1), (83.8, 63.0, 75.2),  # ResNet-50, DeiT-S, Swin-T, ConvNeXt-B of the follow-up paper
])  # fmt: skip
def test_published_retentions(clean, corrupted, kept):
    """Mean accuracies in %, to the digit that was printed: both are rounded, hence 0.11."""
    spread = np.linspace(-0.1, 0.1, 5)
    found = retention(Errors(1 - clean / 100, {"some": 1 - corrupted / 100 + spread, "others": 1 - corrupted / 100 - 2 * spread}))
    assert 100 * found == pytest.approx([kept], abs=0.11)


# --- against slow loops ---


@pytest.mark.parametrize("relative", [False, True])
def test_corruption_errors_against_a_slow_loop(relative):
    found = corruption_errors(MODEL, OTHER, relative=relative)
    assert list(found) == ["noise", "fog"] and len(MODEL) == 3
    for kind in found:
        below = above = 0
        for s in range(4):
            reference, clean = (sum(x) / 2 for x in (OTHER.corrupted[kind][:, s], OTHER.clean))
            below += reference - (clean if relative else 0)
            above = above + MODEL.corrupted[kind][:, s] - (MODEL.clean if relative else 0)
        assert found[kind] == pytest.approx(above / below)
    assert mean_corruption_error(MODEL, OTHER, relative=relative) == pytest.approx((found["noise"] + found["fog"]) / 2)


def test_retention_against_a_slow_loop():
    kept = [np.mean([1 - MODEL.corrupted[kind][i, s] for kind in ("noise", "fog") for s in range(4)]) / (1 - MODEL.clean[i]) for i in range(3)]
    assert retention(MODEL) == pytest.approx(kept)


# --- what is invariant ---


def test_every_kind_weighs_the_same_however_hard_it_is():
    easy, hard = [0.01, 0.02], [0.8, 0.9]
    reference, model = Errors(0, dict(a=easy, b=hard)), Errors(0, dict(a=[0.02, 0.04], b=hard))
    assert mean_corruption_error(model, reference) == pytest.approx([1.5])


def test_relative_errors_forget_the_clean_ones():
    """The same errors more, everywhere, are a worse network of the same robustness."""
    worse = Errors(MODEL.clean + 0.05, {kind: errors + 0.05 for kind, errors in MODEL.corrupted.items()})
    plain, relative = (mean_corruption_error(worse, OTHER, relative=r) - mean_corruption_error(MODEL, OTHER, relative=r) for r in (False, True))
    assert (plain > 0.05).all() and relative == pytest.approx(0)
    half = Errors(OTHER.clean, {kind: (errors + OTHER.clean[:, None]) / 2 for kind, errors in OTHER.corrupted.items()})  # half of what the reference loses
    assert mean_corruption_error(half, OTHER, relative=True).mean() == pytest.approx(0.5)


def test_kinds_go_by_name_and_seeds_by_place():
    turned = Errors(MODEL.clean, dict(reversed(MODEL.corrupted.items())))
    assert mean_corruption_error(turned, OTHER) == pytest.approx(mean_corruption_error(MODEL, OTHER))
    swapped = Errors(MODEL.clean, dict(zip(MODEL.corrupted, reversed(MODEL.corrupted.values()), strict=True)))
    assert abs(mean_corruption_error(swapped, OTHER) - mean_corruption_error(MODEL, OTHER)).max() > 1e-3
    alone = [Errors(MODEL.clean[i], {kind: errors[i] for kind, errors in MODEL.corrupted.items()}) for i in range(3)]
    assert [float(mean_corruption_error(one, OTHER)[0]) for one in alone] == pytest.approx(mean_corruption_error(MODEL, OTHER))
    together = stack(alone)
    assert (together.clean == MODEL.clean).all() and all((together.corrupted[kind] == MODEL.corrupted[kind]).all() for kind in MODEL.corrupted)


def test_errors_are_kept_as_a_copy():
    table = np.full((3, 4), 0.5)
    kept = Errors([0.1, 0.2, 0.3], {"fog": table})
    table[:] = 0.9
    assert (kept.corrupted["fog"] == 0.5).all() and kept.clean.dtype == np.float64


# --- intervals ---


def test_few_trainings_have_students_interval():
    found = summary(MODEL, OTHER, of="trainings")
    for name, values in (("mCE", mean_corruption_error(MODEL, OTHER)), ("relative mCE", mean_corruption_error(MODEL, OTHER, relative=True)),
                         ("retention", retention(MODEL))):  # fmt: skip
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found[name].value, found[name].low, found[name].high) == (pytest.approx(values.mean()), pytest.approx(low), pytest.approx(high))
        assert found[name].method == "Student's t over trainings" and found[name].n == 3


def test_a_difference_is_paired_by_the_seed():
    """Seeds share their luck: what a rival is worse by is seen, although the intervals of both overlap."""
    luck = np.array([0.0, 0.05, 0.1])[:, None]
    model = Errors([0.1] * 3, {kind: luck + [0.3, 0.4, 0.5, 0.6] for kind in OTHER.corrupted})
    rival = Errors([0.1] * 3, {kind: errors + 0.02 + 0.01 * luck for kind, errors in model.corrupted.items()})
    found, alone, other = summary(model, OTHER, rival=rival), summary(model, OTHER), summary(rival, OTHER)
    assert found["mCE"].says() == found["relative mCE"].says() == "loss" and found["retention"].says() == "gain"  # lower errors, more kept
    assert all(alone[name].low < other[name].value < alone[name].high for name in found)
    low, high = stats.ttest_rel(retention(model), retention(rival)).confidence_interval(0.95)
    assert (found["retention"].low, found["retention"].high) == (pytest.approx(low), pytest.approx(high))
    assert summary(model, OTHER, rival=model)["relative mCE"].says() == "no difference seen"


# --- measured ---

IMAGES = torch.rand(23, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(23) % 2


def bright(pictures):
    """Class 1 where the upper half is lighter than the lower."""
    return (pictures[:, :, :8].mean((1, 2, 3)) > pictures[:, :, 8:].mean((1, 2, 3))).long()


def test_errors_are_counted_picture_by_picture_in_batches_of_any_size():
    found = errors_under(bright, IMAGES, LABELS, seed=3, batch=7)
    assert list(found.corrupted) == list(KINDS) and found.corrupted["fog"].shape == (1, 5) and len(found) == 1
    assert found.clean == [np.mean([int(bright(one[None])) != int(label) for one, label in zip(IMAGES, LABELS, strict=True)])]
    for kind, severity in (("noise", 5), ("occlusion", 4), ("fog", 2)):
        wrong = [int(bright(corrupt(IMAGES[i : i + 1], kind, severity, seed=3, first=i))) != int(LABELS[i]) for i in range(23)]
        assert found.corrupted[kind][0, severity - 1] == np.mean(wrong)
    again = errors_under(bright, IMAGES.numpy(), LABELS.tolist(), kinds=("occlusion", "fog"), seed=3)
    assert list(again.corrupted) == ["occlusion", "fog"] and (again.corrupted["occlusion"] == found.corrupted["occlusion"]).all()
    other = errors_under(bright, IMAGES, LABELS, kinds="occlusion", seed=4)
    assert (other.corrupted["occlusion"] != found.corrupted["occlusion"]).any()


def test_who_does_not_look_loses_nothing():
    blind = errors_under(lambda pictures: torch.ones(len(pictures), dtype=torch.long), IMAGES, LABELS, kinds=KINDS[:2])
    assert blind.clean == 12 / 23 and retention(blind) == pytest.approx([1])
    with pytest.raises(ValueError, match="reference must err more under every kind than on clean pictures, .* got 0 for 'noise'"):
        mean_corruption_error(blind, blind, relative=True)


def test_a_network_is_asked_without_gradients_on_the_pictures_device():
    layer = torch.nn.Linear(3 * 16 * 16, 2)
    seen = []

    def predict(pictures):
        said = layer(pictures.flatten(1))
        seen.append((said.requires_grad, pictures.device))
        return said.argmax(1)

    near = errors_under(predict, IMAGES, LABELS, kinds=["noise"])
    assert not any(wanted for wanted, _ in seen)
    with Accelerator():
        layer.to(DEVICE)
        far = errors_under(predict, IMAGES.to(DEVICE), LABELS, kinds=["noise"])
    assert seen[-1] == (False, DEVICE) and (far.corrupted["noise"] == near.corrupted["noise"]).all()


# --- refusals ---


@pytest.mark.parametrize("call, error, message", [
    (lambda: Errors(20.0, {"fog": [30.0]}), ValueError, r"clean must be numbers .* in \[0, 1\], got values from 20 to 20"),
    (lambda: Errors(0.2, {"fog": [0.3, np.nan]}), ValueError, r"corrupted\['fog'\] must be finite"),
    (lambda: Errors(0.2, [[0.3, 0.4]]), TypeError, "corrupted must be a mapping from kinds to errors"),
    (lambda: Errors(0.2, {}), ValueError, "corrupted must hold"),
    (lambda: Errors(0.2, {3: [0.3]}), TypeError, "corrupted must be a mapping"),
    (lambda: Errors([0.2, 0.3], {"fog": [0.3, 0.4]}), ValueError, r"corrupted\['fog'\] must be \(2, 2\), .* got \(1, 2\)"),
    (lambda: Errors(0.2, {"fog": [0.3, 0.4], "blur": [0.3]}), ValueError, r"corrupted\['blur'\] must be \(1, 2\), .* got \(1, 1\)"),
    (lambda: Errors(0.2, {"fog": 0.3}), ValueError, r"corrupted\['fog'\] must be \(severities,\) or \(n, severities\), got shape \(\)"),
    (lambda: mean_corruption_error(MODEL, some(kinds=["noise"])), ValueError, "model and reference must have the same kinds, got 'fog' .* not in reference"),
    (lambda: mean_corruption_error(some(kinds=["noise"]), MODEL), ValueError, "got 'fog' in one and not in model"),
    (lambda: mean_corruption_error(Errors(0.1, dict(noise=[0.2], fog=[0.3])), MODEL), ValueError, "the same severities, got 1 and 4"),
    (lambda: mean_corruption_error(MODEL, everywhere(0, 0)), ValueError, "the same kinds"),
    (lambda: mean_corruption_error(everywhere(0, 0), everywhere(0, 0)), ValueError, "reference must make errors under every kind, .* got 0 for 'gauss"),
    (lambda: mean_corruption_error(MODEL.corrupted, OTHER), TypeError, "model must be Errors"),
    (lambda: mean_corruption_error(MODEL, OTHER, relative=1), TypeError, "relative must be True or False"),
    (lambda: retention(Errors([0.5, 1.0], {"fog": [[1.0], [1.0]]})), ValueError, "model must be right on some clean pictures, .* 1 in training 1"),
    (lambda: summary(some(1), OTHER), ValueError, "model must have at least two trainings, for an interval, got 1"),
    (lambda: summary(MODEL, OTHER, rival=some(4)), ValueError, "rival must have 3, got 4"),
    (lambda: summary(MODEL, OTHER, rival=3), TypeError, "rival must be Errors"),
    (lambda: summary(MODEL, OTHER, of=3), TypeError, "of must be"),
    (lambda: stack([MODEL, some(kinds=["noise"])]), ValueError, r"runs\[1\] and runs\[0\] must have the same kinds"),
    (lambda: stack([]), ValueError, "runs must be"),
    (lambda: stack([3]), TypeError, r"runs\[0\] must be Errors"), (lambda: stack(MODEL), TypeError, "runs must be a list"),
    (lambda: errors_under(bright, IMAGES, LABELS[:3]), ValueError, "labels must be"),
    (lambda: errors_under(bright, IMAGES * 255, LABELS), ValueError, "images must be"),
    (lambda: errors_under(bright, (IMAGES * 255).to(torch.uint8), LABELS), TypeError, "images must be floating-point"),
    (lambda: errors_under(bright, IMAGES, LABELS, kinds=["rain"]), ValueError, "kinds must be one of 'noise'"),
    (lambda: errors_under(bright, IMAGES, LABELS, kinds=["fog", "fog"]), ValueError, "kinds must be different ones"),
    (lambda: errors_under(lambda x: x.flatten(1).long(), IMAGES, LABELS), ValueError, r"what predict gives must be whole numbers \(23,\)"),
    (lambda: errors_under(lambda x: x[:, 0, 0, 0], IMAGES, LABELS), TypeError, "what predict gives must be whole numbers"),
])  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_a_network_gives_may_lie_in_one_place_for_all_batches():
    """Output buffers that are used again hold the last batch's answers only."""
    images, labels, held = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 4, 4) / 8, torch.arange(8), torch.zeros(4, dtype=torch.long)

    def predict(pictures):
        return held.copy_((8 * pictures.mean((1, 2, 3))).round().long())

    assert errors_under(predict, images, labels, kinds=["blur"], batch=4).clean == [0]


@pytest.mark.parametrize("clean, corrupted", [(0.11, [0.11] * 5), (0.29, [0.20, 0.38, 0.29, 0.25, 0.33])])
def test_the_rounding_of_a_mean_is_no_error_to_divide_by(clean, corrupted):
    reference = Errors(clean, {"noise": corrupted})
    with pytest.raises(ValueError, match="reference must err more under every kind than on clean pictures"):
        corruption_errors(Errors(0.1, {"noise": [0.2] * 5}), reference, relative=True)


def test_a_million_pictures_and_no_more():
    with pytest.raises(ValueError, match="images must be 1,000,000 at most, got 1,000,001"):
        errors_under(lambda x: x, torch.zeros(1, 1, 1, 1).expand(1_000_001, 1, 1, 1), [0])
