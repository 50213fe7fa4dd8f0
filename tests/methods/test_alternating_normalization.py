"""Alternating normalization against hand examples, closed forms, limits, a slow loop and Sinkhorn's balance."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import entropy
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from helpers.methods import alternating_normalization as can
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
EVEN = (0.5, 0.5)


def rows_of(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_rows(count, classes, seed=0, low=0.05, high=0.95):
    rows = low + (high - low) * torch.rand(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.sum(1, keepdim=True)


def slow(row, reference, prior, alpha, depth):
    """The paper's procedure for one row, number by number."""
    stack = [list(map(float, r)) for r in reference] + [list(map(float, row))]
    classes = len(prior)
    for _ in range(depth):
        sums = [sum(r[c] ** alpha for r in stack) for c in range(classes)]
        stack = [[r[c] ** alpha / sums[c] * prior[c] if sums[c] else 0.0 for c in range(classes)] for r in stack]
        stack = [[v / sum(r) for v in r] for r in stack]
    return stack[-1]


# ------------------------------------------------------------------------------------------------------------------ must hold


def test_rows_stay_probabilities_and_zeros_stay_zeros():
    b = random_rows(6, 4)
    b[0, 1] = b[2, 3] = 0
    b = b / b.sum(1, keepdim=True)
    for depth in (0, 1, 2, 5):
        out = can.iterate(b, random_rows(7, 4, 1), (1, 2, 3, 4), alpha=1.7, depth=depth)
        assert (out >= 0).all() and torch.allclose(out.sum(1), torch.ones(6, dtype=torch.float64))
        assert out[0, 1] == 0 and out[2, 3] == 0
    assert torch.allclose(can.iterate(b, random_rows(7, 4, 1), (1, 1, 1, 1), depth=0), b)


def test_decided_rows_come_back_bit_by_bit():
    b = torch.softmax(torch.randn(50, 5, generator=torch.Generator().manual_seed(2)) * 4, 1)
    found = can.alternating_normalization(b, torch.ones(5), threshold=0.6)
    assert found.probabilities.dtype == torch.float32 and 0 < found.ambiguous.sum() < 50
    assert torch.equal(found.probabilities[~found.ambiguous], b[~found.ambiguous])
    assert not torch.equal(found.probabilities[found.ambiguous], b[found.ambiguous])
    assert torch.equal(can.alternating_normalization(b, torch.ones(5), threshold=0.6, depth=0).probabilities, b)


@pytest.mark.parametrize("depth, first", [(0, 0.5), (1, 0.75), (2, 0.8333333333), (3, 0.875)])
def test_the_teaser(depth, first):
    out = can.iterate(rows_of(EVEN), rows_of((0.0, 1.0)), EVEN, depth=depth)
    assert out[0, 0].item() == pytest.approx(first) == pytest.approx(1 - 1 / (2 * (depth + 1)), abs=1e-9)


def test_one_step_maps_a_to_a_fraction():
    for a in (0.2, 0.5, 0.9):
        out = can.one_step(rows_of((a, 1 - a)), rows_of((0.0, 1.0)), EVEN)
        assert out[0, 0].item() == pytest.approx((2 - a) / (3 - 2 * a))


def test_two_reference_rows_and_the_threshold():
    reference = rows_of((0.9, 0.1), (0.8, 0.2))
    out = can.one_step(rows_of((0.55, 0.45)), reference, EVEN)
    assert torch.allclose(out, rows_of((0.28947, 0.71053)), atol=1e-5)
    assert can.binary_threshold(reference, EVEN) == pytest.approx(0.85)
    above, below = can.one_step(rows_of((0.851, 0.149), (0.849, 0.151)), reference, EVEN)[:, 0].tolist()
    assert above > 0.5 > below


def test_identity_as_reference_by_hand():
    out = can.one_step(rows_of((0.4, 0.2, 0.4)), torch.eye(3), (0.5, 0.3, 0.2))
    assert torch.allclose(out, rows_of((0.57143, 0.2, 0.22857)), atol=1e-5)


@pytest.mark.parametrize("alpha", [0.3, 1, 4])
@pytest.mark.parametrize("depth", [1, 3])
def test_identity_and_equal_priors_never_move_the_best_class(alpha, depth):
    b = random_rows(40, 5, 3)
    assert torch.equal(can.iterate(b, torch.eye(5), torch.ones(5), alpha=alpha, depth=depth).argmax(1), b.argmax(1))


@pytest.mark.parametrize("alpha", [0.2, 1, 3])
def test_rows_like_the_reference_become_the_prior(alpha):
    b, prior = random_rows(1, 4, 4), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    for depth in (1, 2, 4):
        assert torch.allclose(can.iterate(b, b.expand(6, -1), prior, alpha=alpha, depth=depth)[0], prior, atol=1e-9)


def test_small_exponents_give_the_prior_on_the_support():
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    out = can.one_step(rows_of((0.9, 0.1, 0.0)), random_rows(5, 3, 5), prior, alpha=1e-6)
    assert torch.allclose(out, rows_of((0.4, 0.6, 0.0)), atol=1e-4)
    assert torch.allclose(can.one_step(rows_of(EVEN), rows_of((0.0, 1.0)), EVEN, alpha=1e-6), rows_of((2 / 3, 1 / 3)), atol=1e-4)
    for alpha in (1e-3, 1, 9):
        assert torch.equal(can.one_step(rows_of((0.0, 1.0, 0.0)), random_rows(5, 3, 6), prior, alpha=alpha), rows_of((0.0, 1.0, 0.0)))


def test_many_reference_rows_are_the_prior_correction():
    b, reference, prior = random_rows(3, 4, 7), random_rows(5, 4, 8), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    for alpha in (0.5, 1, 2):
        wanted = prior * b**alpha / (reference**alpha).sum(0)
        wanted = wanted / wanted.sum(1, keepdim=True)
        assert torch.allclose(can.one_step(b, reference.repeat(20_000, 1), prior, alpha=alpha), wanted, atol=1e-4)
    assert torch.allclose(can.one_step(b, reference, prior), can.one_step(b, reference, 7 * prior))


def test_classes_and_reference_rows_have_no_order():
    b, reference, prior = random_rows(4, 5, 9), random_rows(6, 5, 10), torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=torch.float64)
    order, mixed = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    for depth in (1, 3):
        plain = can.iterate(b, reference, prior, alpha=1.3, depth=depth)
        assert torch.allclose(can.iterate(b[:, order], reference[:, order], prior[order], alpha=1.3, depth=depth), plain[:, order])
        assert torch.allclose(can.iterate(b, reference[mixed], prior, alpha=1.3, depth=depth), plain)


def test_many_rounds_balance_the_stack():
    b, reference, prior = random_rows(1, 4, 11), random_rows(9, 4, 12), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    stack = can.iterate(b, reference, prior, depth=200, trace=True)
    assert stack.shape == (201, 1, 10, 4)
    assert torch.allclose(stack[0, 0], torch.cat([reference, b])) and torch.allclose(stack[1:].sum(-1), torch.ones(200, 1, 10, dtype=torch.float64))
    assert torch.allclose(stack[-1, 0].mean(0), prior, atol=1e-6)  # Sinkhorn: the columns have the prior as their mean


@pytest.mark.parametrize("alpha", [0.5, 1, 2])
def test_half_rounds_divide_the_columns(alpha):
    b, reference, prior = random_rows(3, 4, 11), random_rows(5, 4, 12), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    whole, halves = (can.iterate(b, reference, prior, alpha=alpha, depth=2, trace=trace) for trace in (True, "half"))
    assert halves.shape == (5, 3, 6, 4) and torch.equal(halves[::2], whole)
    for before, half, after in ((0, 1, 2), (2, 3, 4)):
        powered = halves[before] ** alpha
        columns = powered / powered.sum(1, keepdim=True)
        assert torch.allclose(halves[half], columns)
        assert torch.allclose(halves[after], columns * prior / (columns * prior).sum(2, keepdim=True))
    page = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45]], dtype=torch.float64)  # the figure of page 07
    shown = can.iterate(page[2:], page[:2], EVEN, trace="half")[1, 0]
    assert torch.allclose(shown, page / page.sum(0)) and can.iterate(b, reference, prior, depth=0, trace="half").shape == (1, 3, 6, 4)


def test_two_classes_are_one_rising_map():
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    for alpha in (0.3, 1, 5):
        out = can.one_step(torch.stack([p, 1 - p], 1), random_rows(8, 2, 13), (0.3, 0.7), alpha=alpha)[:, 0]
        assert (out.diff() > 0).all()
        t = can.binary_threshold(random_rows(8, 2, 13), (0.3, 0.7), alpha=alpha)
        assert torch.equal(out > 0.5, p > t)


@pytest.mark.parametrize("alpha", [0.3, 1, 2.5])
def test_closed_form_and_rounds_against_the_slow_loop(alpha):
    b, reference, prior = random_rows(5, 4, 14), random_rows(6, 4, 15), [0.4, 0.1, 0.2, 0.3]
    b[1, 2], reference[:, 3] = 0, 0  # a zero in a row, and a class that no reference row uses
    b, reference = b / b.sum(1, keepdim=True), reference / reference.sum(1, keepdim=True)
    for depth in (1, 2, 3):
        wanted = torch.tensor([slow(row, reference, prior, alpha, depth) for row in b], dtype=torch.float64)
        assert torch.allclose(can.iterate(b, reference, prior, alpha=alpha, depth=depth), wanted, atol=1e-12)
    once = torch.tensor([slow(row, reference, prior, alpha, 1) for row in b], dtype=torch.float64)
    assert torch.allclose(can.one_step(b, reference, prior, alpha=alpha), once, atol=1e-12)
    assert torch.allclose(can.iterate(b, reference, prior, alpha=alpha, depth=1, trace=True)[-1, :, -1], once, atol=1e-12)


def test_large_exponents_and_many_classes_do_not_underflow():
    b = torch.softmax(20 * torch.randn(3, 1000, generator=torch.Generator().manual_seed(16), dtype=torch.float64), 1)
    reference = torch.softmax(20 * torch.randn(4, 1000, generator=torch.Generator().manual_seed(17), dtype=torch.float64), 1)
    out = can.iterate(b, reference, torch.ones(1000), alpha=9.0, depth=2)
    assert torch.isfinite(out).all() and torch.allclose(out.sum(1), torch.ones(3, dtype=torch.float64))


def test_batches_of_stacks_change_nothing(monkeypatch):
    b, reference = random_rows(7, 4, 41), random_rows(5, 4, 42)
    whole = [can.iterate(b, reference, (1, 2, 3, 4), depth=2, trace=trace) for trace in (False, True, "half")]
    monkeypatch.setattr(can, "_CHUNK", 2 * 6 * 4)  # two stacks at once
    assert can._batch(reference) == 2
    parts = [can.iterate(b, reference, (1, 2, 3, 4), depth=2, trace=trace) for trace in (False, True, "half")]
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 30.0, 1e6, 1e290])
def test_extreme_exponents(alpha):
    b, reference = rows_of((0.6, 0.3, 0.1), (0.2, 0.0, 0.8)), random_rows(6, 3, 31)
    for depth in (1, 3):
        out = can.iterate(b, reference, (1, 2, 3), alpha=alpha, depth=depth)
        assert torch.isfinite(out).all() and torch.allclose(out.sum(1), torch.ones(2, dtype=torch.float64)) and out[1, 1] == 0


def test_extreme_priors():
    out = can.one_step(rows_of((0.0, 1.0), (0.5, 0.5)), rows_of((0.4, 0.6)), (1.0, 5e-324))
    assert torch.allclose(out, rows_of((0.0, 1.0), (1.0, 0.0)))
    assert torch.allclose(can.one_step(rows_of(EVEN), rows_of((0.4, 0.6)), (1e300, 1e300)), can.one_step(rows_of(EVEN), rows_of((0.4, 0.6)), EVEN))


def test_a_class_that_nobody_uses_stays_empty():
    out = can.iterate(rows_of((0.5, 0.5, 0.0)), rows_of((0.9, 0.1, 0.0)), (1, 1, 1), depth=3)
    assert torch.isfinite(out).all() and out[0, 2] == 0


def test_top_k_entropy_by_hand_and_against_scipy():
    row = rows_of((0.5, 0.25, 0.25), (0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3))
    assert torch.allclose(can.top_k_entropy(row, 2), torch.tensor([0.918296, 1, 0, 1], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(can.top_k_entropy(row, 3), torch.tensor([0.946395, 0.630930, 0, 1], dtype=torch.float64), atol=1e-6)
    assert (can.top_k_entropy(row, 2)[1] > can.top_k_entropy(row, 2)[0]) and (can.top_k_entropy(row, 3)[1] < can.top_k_entropy(row, 3)[0])
    for classes in range(2, 40):  # rounding carries no entropy over 1
        even = torch.full((1, classes), 1 / classes, dtype=torch.float64)
        assert all(1 - 1e-12 < can.top_k_entropy(even, k)[0] <= 1 for k in range(2, classes + 1))
    rows = random_rows(9, 6, 18, low=0)
    assert np.allclose(can.top_k_entropy(rows, 6), entropy(rows.numpy(), base=6, axis=1))
    assert np.allclose(can.top_k_entropy(rows, 6, renormalise=False), entropy(rows.numpy(), base=6, axis=1))
    top = rows.sort(1, descending=True).values[:, :3].numpy()
    assert np.allclose(can.top_k_entropy(rows, 3, renormalise=False), -(top * np.log(top)).sum(1) / np.log(6))


def test_official_values_up_to_its_guards():
    """The code adds 1e-10 to both denominators: the difference shows only there."""
    b, reference, prior = random_rows(4, 3, 19), random_rows(5, 3, 20), np.array([0.2, 0.5, 0.3])
    for alpha, depth in ((1, 1), (1, 3), (5, 2)):
        for row, ours in zip(b.numpy(), can.iterate(b, reference, prior, alpha=alpha, depth=depth).numpy()):
            stack = np.vstack([reference.numpy(), row]).T  # classes x examples, as the code stores it
            for _ in range(depth):
                stack = np.exp(alpha * np.log(stack))
                stack = stack / (stack.sum(1, keepdims=True) + 1e-10) * prior[:, None]
                stack = stack / (stack.sum(0, keepdims=True) + 1e-10)
            assert np.allclose(stack[:, -1], ours, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------------ the whole


def test_undecided_for_any_k():
    rows = rows_of((0.5, 0.5, 0.0), (0.5, 0.25, 0.25), (0.98, 0.01, 0.01))
    assert can.is_ambiguous(rows, threshold=0.95).tolist() == [True, False, False]
    assert can.is_ambiguous(rows, threshold=0.94, k=None).tolist() == [True, True, False]
    assert can.is_ambiguous(rows, threshold=0.95, k=3).tolist() == [False, False, False]
    two = rows_of((0.6, 0.4), (0.99, 0.01))
    assert can.is_ambiguous(two).tolist() == [True, False]  # a k above the number of classes is left out
    assert can.is_ambiguous(rows, threshold=0).all() and not can.is_ambiguous(rows[2:], threshold=1).any()


def test_reference_is_stratified_and_small_classes_stay_whole():
    rows = torch.full((901, 3), 0.1, dtype=torch.float64)
    rows[:600, 0] = rows[600:900, 1] = rows[900:, 2] = 0.8
    kept = can.choose_reference(rows, cap=90)
    assert torch.bincount(kept.argmax(1)).tolist() == [60, 30, 1]
    assert torch.equal(kept, can.choose_reference(rows, cap=90)) and len(can.choose_reference(rows)) == 901
    assert len(can.choose_reference(rows[:600], cap=1)) == 1
    assert len(can.alternating_normalization(rows[:600], (1, 1, 1), threshold=0.99, cap=1).reference) == 1
    distinct = random_rows(2000, 4, 21)
    assert len(can.choose_reference(distinct)) == pytest.approx(1000, abs=3)
    assert not torch.equal(can.choose_reference(distinct, seed=1), can.choose_reference(distinct, seed=2))


def test_reference_from_validation_or_from_the_rows_themselves():
    test, validation = random_rows(30, 3, 22, low=0), random_rows(40, 3, 23, low=0)
    ours = can.alternating_normalization(test, torch.ones(3), threshold=0.9)
    other = can.alternating_normalization(test, torch.ones(3), threshold=0.9, reference=validation)
    decided = ~can.is_ambiguous(validation, threshold=0.9)
    assert torch.equal(other.reference, validation[decided]) and torch.equal(ours.reference, test[~ours.ambiguous])
    wanted = can.one_step(test[other.ambiguous], validation[decided], torch.ones(3))
    assert torch.allclose(other.probabilities[other.ambiguous], wanted)
    vague = torch.full((3, 3), 1 / 3)
    with pytest.raises(ValueError, match="reference must hold a decided row"):
        can.alternating_normalization(vague, torch.ones(3))
    found = can.alternating_normalization(vague, (1, 1, 2), identity=True)
    assert torch.equal(found.reference, torch.eye(3, dtype=torch.float64)) and found.probabilities.argmax(1).tolist() == [2, 2, 2]


def biased(seed, count=400):
    """Rows of a classifier that is too fond of class 0, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    scores = 2.5 * torch.nn.functional.one_hot(labels, 3) + torch.randn(count, 3, generator=generator) * 1.2
    scores[:, 0] += 2.5
    return scores.double().softmax(1), labels


def test_it_repairs_a_bias_and_the_choice_knows_when_to_leave_alone():
    validation, labels = biased(0)
    fresh, truth = biased(1)
    chosen = can.tune(validation, labels, torch.ones(3))
    best = chosen.best
    assert best.depth > 0 and len(chosen.accuracy) == 4 * 4 * 4
    options = dict(threshold=best.threshold, alpha=best.alpha, depth=best.depth, reference=validation)
    after = can.alternating_normalization(fresh, torch.ones(3), **options).probabilities
    before = (fresh.argmax(1) == truth).double().mean()
    assert (after.argmax(1) == truth).double().mean() > before + 0.03
    perfect = torch.eye(3, dtype=torch.float64)[labels] * 0.4 + 0.2
    assert can.tune(perfect, labels, torch.ones(3)).best.depth == 0  # nothing to gain: the first of equal scores does nothing


def test_face_of_scikit_learn():
    validation, labels = biased(0)
    fresh, _ = biased(1)
    model = can.AlternatingNormalizer(threshold=0.6, alpha=0.5).fit(validation.numpy(), labels.numpy())
    counts = torch.bincount(labels).double() + 1
    wanted = can.alternating_normalization(fresh, counts, reference=validation, threshold=0.6, alpha=0.5).probabilities
    assert np.allclose(model.transform(fresh.numpy()), wanted) and model.predict(fresh.numpy()).shape == (400,)
    assert clone(model).get_params() == model.get_params() and model.set_params(depth=0).transform(fresh.numpy()) == pytest.approx(fresh.numpy())
    own = can.AlternatingNormalizer(prior=[0.2, 0.3, 0.5]).fit(validation.numpy())
    assert own.prior_.tolist() == pytest.approx([0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="y must be"):
        can.AlternatingNormalizer().fit(validation.numpy())


def test_the_normaliser_falls_back_on_the_identity():
    vague, labels = np.full((6, 3), 1 / 3) + np.array([0.01, 0, -0.01]), np.array([0, 1, 2, 2, 2, 2])
    model = can.AlternatingNormalizer(threshold=0.5).fit(vague, labels)
    wanted = can.one_step(vague, np.eye(3), [2, 2, 5])
    assert np.allclose(model.transform(vague), wanted) and (model.predict(vague) == 2).all()
    with pytest.raises(ValueError, match="X must hold a decided row where identity is False"):
        can.AlternatingNormalizer(threshold=0.5, identity=False).fit(vague, labels)
    decided = np.vstack([vague, [0.98, 0.01, 0.01]])
    again = can.AlternatingNormalizer(threshold=0.5, identity=False).fit(decided, [*labels, 0])
    assert np.allclose(again.transform(vague), can.one_step(vague, decided[-1:], [3, 2, 5]))


def test_conventions_of_scikit_learn():
    validation, labels = (x.numpy() for x in biased(0, 60))
    fresh = biased(1, 20)[0].numpy()
    plain = can.AlternatingNormalizer()
    with pytest.raises(NotFittedError):
        plain.transform(fresh)
    assert plain.fit(validation, labels) is plain and plain.n_features_in_ == 3 and plain.classes_.tolist() == [0, 1, 2]
    assert np.array_equal(clone(plain).fit_transform(validation, labels), plain.transform(validation))
    with pytest.raises(ValueError, match="X has 2 features, but AlternatingNormalizer is expecting 3"):
        plain.transform(np.full((2, 2), 0.5))
    softmax = FunctionTransformer(lambda X: np.exp(X) / np.exp(X).sum(1, keepdims=True))
    piped = make_pipeline(softmax, can.AlternatingNormalizer()).fit(np.log(validation), labels)
    assert np.allclose(piped.transform(np.log(fresh)), plain.transform(fresh)) and np.array_equal(piped.predict(np.log(fresh)), plain.predict(fresh))
    table = pd.DataFrame(fresh, columns=["ant", "bee", "cow"], index=range(40, 60))
    model = can.AlternatingNormalizer().set_output(transform="pandas").fit(pd.DataFrame(validation, columns=table.columns), labels)
    assert model.transform(table).equals(pd.DataFrame(plain.transform(fresh), columns=table.columns, index=table.index))
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(table[["bee", "ant", "cow"]])
    with pytest.warns(UserWarning):
        check_estimator(plain)  # whose rows are no probabilities: it is left out
    single = can.AlternatingNormalizer().fit(validation.astype(np.float32), labels)
    assert single.transform(fresh.astype(np.float32)).dtype == np.float32


def test_a_refused_fit_leaves_the_model_as_it_was():
    validation, labels = (x.numpy() for x in biased(0, 60))
    model = can.AlternatingNormalizer().fit(pd.DataFrame(validation, columns=list("abc")), labels)
    state = dict(vars(model))
    two = np.stack([validation[:, 0], 1 - validation[:, 0]], 1)
    for X, y in ((two, labels), (two, None), (validation * 2, labels), (pd.DataFrame(two, columns=["a", 1]), labels > 0), (two[:5], [0, 1, 0, 1, -1])):
        with pytest.raises((TypeError, ValueError)):
            model.fit(X, y)
        assert vars(model) == state


@pytest.mark.parametrize("names", [np.array(["ant", "bee", "cow"]), np.array([1, 2, 3]), np.array([2**40, 2**41, 2**42]), np.array([-5, 0, 9])])
def test_labels_with_other_names(names):
    validation, labels = (x.numpy() for x in biased(0, 60))
    plain, model = can.AlternatingNormalizer().fit(validation, labels), can.AlternatingNormalizer().fit(validation, pd.Series(names[labels]))
    assert model.classes_.tolist() == names.tolist() and np.array_equal(model.prior_, plain.prior_)
    assert np.array_equal(model.predict(validation), names[plain.predict(validation)])
    with pytest.raises(ValueError, match="y must"):
        can.AlternatingNormalizer().fit(validation[labels > 0], names[labels[labels > 0]])  # which column is missing?


def test_names_of_columns_are_the_classes():
    validation, labels = (x.numpy() for x in biased(0, 60))
    table = pd.DataFrame(validation, columns=["dog", "cat", "fox"])
    names = np.array(["dog", "cat", "fox"])
    model = can.AlternatingNormalizer().fit(table, names[labels])
    plain = can.AlternatingNormalizer().fit(validation, labels)
    assert np.array_equal(model.prior_, plain.prior_) and np.array_equal(model.predict(table), names[plain.predict(validation)])
    some = labels < 2
    assert np.array_equal(can.AlternatingNormalizer().fit(table[some], names[labels[some]]).prior_,
                          can.AlternatingNormalizer().fit(validation[some], labels[some]).prior_)  # fmt: skip
    with pytest.raises(ValueError, match="y must hold the classes of X's 3 columns"):
        can.AlternatingNormalizer().fit(table, np.array(["dog", "cat", "owl"])[labels])


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 1, 2]])
@pytest.mark.parametrize("numbers", [np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([10, 20, 30]), np.array([-1, 0, 1])])
def test_numbers_among_the_columns_are_the_classes(numbers, order):
    validation, labels = (x.numpy() for x in biased(0, 60))
    plain, y = can.AlternatingNormalizer().fit(validation, labels), numbers[labels]
    table = pd.DataFrame(validation, columns=numbers).iloc[:, order]
    model = can.AlternatingNormalizer().fit(table, y)
    assert model.classes_.tolist() == numbers[order].tolist() and np.array_equal(model.prior_, plain.prior_[order])
    assert np.array_equal(model.predict(table), numbers[plain.predict(validation)])
    some = labels < 2
    few = can.AlternatingNormalizer().fit(table[some], y[some])
    assert np.array_equal(few.prior_, can.AlternatingNormalizer().fit(validation[some], labels[some]).prior_[order])
    with pytest.raises(ValueError, match="X must have the columns that fit saw in their order"):
        model.transform(table.iloc[:, ::-1])
    prior = dict(zip(numbers.tolist(), (0.5, 0.3, 0.2), strict=True))
    assert np.allclose(can.AlternatingNormalizer(prior=prior).fit(table, y).prior_, np.array([0.5, 0.3, 0.2])[order])
    assert np.allclose(can.AlternatingNormalizer(prior=prior).fit(validation, y).prior_, [0.5, 0.3, 0.2])
    other = pd.DataFrame(validation, columns=[1, 2, 3])
    assert can.AlternatingNormalizer().fit(other, labels).classes_.tolist() == [0, 1, 2]  # 0 is no column: these are class numbers


@pytest.mark.parametrize("names", [[-1, 1], [-2, -1], [0, 1], [1, 2], [False, True], ["no", "yes"], np.array([-1, 1], object), np.array([-1, 1], np.int8)])
def test_any_two_labels(names):
    validation, labels = (x.numpy() for x in biased(0, 60))
    two, binary = np.stack([validation[:, 0], 1 - validation[:, 0]], 1), (labels > 0).astype(int)
    plain, y = can.AlternatingNormalizer().fit(two, binary), np.array(names)[binary]
    for X in (two, pd.DataFrame(two, columns=["a", "b"]) if not isinstance(names[0], str) else two):
        model = can.AlternatingNormalizer().fit(X, y)
        assert model.classes_.tolist() == list(names) and np.array_equal(model.prior_, plain.prior_)
        assert np.array_equal(model.predict(X), np.array(names)[plain.predict(two)])


def test_a_prior_by_names():
    rows, q = biased(0, 40)[0].numpy(), [0.2, 0.5, 0.3]
    wanted = can.alternating_normalization(rows, q).probabilities
    table = pd.DataFrame(rows, columns=["dog", "cat", "fox"])
    by_name = pd.Series([0.3, 0.5, 0.2], index=["fox", "cat", "dog"])
    by_number = pd.Series([0.5, 0.3, 0.2], index=[1, 2, 0])  # value_counts: the most frequent class first
    for given, prior in ((table, by_name), (table, by_name.to_dict()), (rows, by_number), (table, by_number), (rows, by_number.to_dict()),
                         (rows, pd.Series(q, index=[7, 8, 9])), (rows, pd.Series(q, index=["a", "b", "c"])), (table, q)):  # fmt: skip
        assert np.array_equal(can.alternating_normalization(given, prior).probabilities, wanted)
        assert np.array_equal(can.one_step(given, rows, prior), can.one_step(rows, rows, q))
        labels = rows.argmax(1)
        assert can.tune(given, labels, prior, thresholds=[0.5], depths=[1]) == can.tune(rows, labels, q, thresholds=[0.5], depths=[1])
    assert np.array_equal(can.AlternatingNormalizer(prior=by_name).fit(table).prior_, q)
    assert np.allclose(can.AlternatingNormalizer(prior=by_name).fit(rows, np.array(["dog", "cat", "fox"])[labels]).prior_, [0.5, 0.2, 0.3])  # sorted
    for given, prior in (
        (rows, by_name),
        (rows, pd.Series(q, index=["a", "c", "b"])),
        (table, pd.Series(q, index=["a", "b", "c"])),
        (rows, by_name.to_dict()),
        (rows, {0: 0.5, 1: 0.5}),
    ):
        with pytest.raises((TypeError, ValueError), match="prior must"):
            can.alternating_normalization(given, prior)
    with pytest.raises(ValueError, match="reference must have the columns of probabilities in their order"):
        can.alternating_normalization(table, q, reference=table[["cat", "dog", "fox"]])
    with pytest.raises(ValueError, match="reference must have the columns of probabilities in their order"):
        can.tune(table, labels, q, reference=table[["cat", "dog", "fox"]])
    for function in (can.iterate, can.one_step):
        with pytest.raises(ValueError, match=r"reference must have the columns of rows in their order, \['dog', 'cat', 'fox'\], got \['cat', 'dog', 'fox'\]"):
            function(table, table[["cat", "dog", "fox"]], q)
        other = pd.DataFrame(rows, columns=["a", "b", "c"])  # other names: by their places
        assert np.array_equal(function(table, other, q), function(rows, rows, q))


# ------------------------------------------------------------------------------------------------------------------ what goes in, what comes out


def test_arrays_for_arrays_and_tensors_for_tensors():
    rows, labels = biased(0, 60)
    found = can.alternating_normalization(rows, torch.ones(3))
    calls = {
        "entropy": lambda p: can.top_k_entropy(p, 2), "ambiguous": can.is_ambiguous, "reference": lambda p: can.choose_reference(p, cap=20),
        "one step": lambda p: can.one_step(p, rows, [1, 1, 2]), "trace": lambda p: can.iterate(p, rows, [1, 1, 2], trace=True),
        "no round": lambda p: can.iterate(p, rows, [1, 1, 2], depth=0),
    }  # fmt: skip
    array = rows.numpy()
    for given in (array, array.tolist(), pd.DataFrame(array, index=range(9, 69)), array[::-1].copy()[::-1], array.astype(">f8")):
        same = can.alternating_normalization(given, [1, 1, 1])
        assert all(isinstance(part, np.ndarray) and np.array_equal(part, wanted.numpy()) for part, wanted in zip(same, found, strict=True))
        for call in calls.values():
            ours, theirs = call(rows), call(given)
            assert isinstance(ours, torch.Tensor) and isinstance(theirs, np.ndarray) and np.array_equal(theirs, ours.numpy())
        assert can.tune(given, labels.tolist(), [1, 1, 1], depths=[1]) == can.tune(rows, labels, torch.ones(3), depths=[1])
    assert (can.choose_reference(rows) is not rows) and can.choose_reference(rows).data_ptr() != rows.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [10, 1000])
def test_probabilities_of_half_precision(dtype, classes):
    p = (3 * torch.randn(40, classes, generator=torch.Generator().manual_seed(0))).softmax(1).to(dtype)
    exact = p.double() / p.double().sum(1, keepdim=True)
    wanted = can.alternating_normalization(exact, torch.ones(classes), identity=True)
    found = can.alternating_normalization(p, torch.ones(classes), identity=True)
    assert found.probabilities.dtype == dtype and torch.equal(found.ambiguous, wanted.ambiguous)
    assert torch.equal(found.probabilities[~found.ambiguous], p[~found.ambiguous])
    assert torch.equal(found.probabilities[found.ambiguous], wanted.probabilities[wanted.ambiguous].to(dtype))
    if dtype == torch.float16:
        assert can.alternating_normalization(p.numpy(), np.ones(classes), identity=True).probabilities.dtype == np.float16
    with pytest.raises(ValueError, match="whose rows sum to 1"):
        can.alternating_normalization(p * 0.9, torch.ones(classes))


def test_no_gradient_flows_through():
    rows = biased(0, 30)[0].requires_grad_()
    assert not can.alternating_normalization(rows, torch.ones(3)).probabilities.requires_grad
    assert isinstance(can.AlternatingNormalizer(prior=[1, 1, 1]).fit(rows).transform(rows), np.ndarray)


def test_rows_on_an_accelerator():
    rows, labels = biased(0, 60)
    prior = torch.tensor([0.2, 0.5, 0.3])
    calls = {
        "whole": lambda p, q: can.alternating_normalization(p, q).probabilities, "reference": lambda p, q: can.choose_reference(p, cap=20),
        "other reference": lambda p, q: can.alternating_normalization(p, prior, reference=rows, threshold=0.5).probabilities,
        "identity": lambda p, q: can.alternating_normalization(p, q, threshold=0, identity=True).reference,
        "rounds": lambda p, q: can.iterate(p, rows, q, depth=3), "trace": lambda p, q: can.iterate(p, p, prior, depth=2, trace="half"),
    }  # fmt: skip
    wanted = {name: call(rows, prior) for name, call in calls.items()}
    with Accelerator():
        far, q = rows.to(DEVICE), prior.to(DEVICE)
        for name, call in calls.items():
            found = call(far, q)
            assert found.device == DEVICE and torch.equal(near(found), wanted[name]), name
        assert can.tune(far, labels, q, depths=[0, 1]) == can.tune(rows, labels.to(DEVICE), prior, depths=[0, 1])
        assert can.binary_threshold(far[:, :2] / far[:, :2].sum(1, keepdim=True), q[:2]) == can.binary_threshold(
            rows[:, :2] / rows[:, :2].sum(1, keepdim=True), prior[:2]
        )
        model = can.AlternatingNormalizer().fit(far, labels.to(DEVICE))
        assert np.array_equal(model.transform(far), can.AlternatingNormalizer().fit(rows, labels).transform(rows.numpy()))


def test_grids_and_ranks_are_read_once():
    rows, labels = biased(0, 40)
    plain = can.tune(rows, labels, torch.ones(3), thresholds=(0.5, 0.75), alphas=(0.5, 1.0), depths=(0, 1), k=(2, 3))
    once = dict(thresholds=iter((0.5, 0.75)), alphas=np.array([0.5, 1.0]), depths=(d for d in (0, 1)), k=iter((2, 3)))
    assert can.tune(rows, labels, torch.ones(3), **once) == plain
    whole = can.alternating_normalization(rows, torch.ones(3), k=iter((2, 3)))
    assert torch.equal(whole.probabilities, can.alternating_normalization(rows, torch.ones(3)).probabilities)
    for name in ("thresholds", "alphas", "depths"):
        with pytest.raises(ValueError, match=f"{name} must hold a number or more, got none"):
            can.tune(rows, labels, torch.ones(3), **{name: ()})


# ------------------------------------------------------------------------------------------------------------------ refusals

GOOD = random_rows(4, 3, 30)


def one_nan(rows):
    spoilt = rows.clone()
    spoilt[2, 1] = np.nan
    return spoilt


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: can.alternating_normalization(torch.randn(4, 3), torch.ones(3)), ValueError, "apply softmax first"),
        (lambda: can.alternating_normalization(GOOD * 2, torch.ones(3)), ValueError, "row 0 sums to 2"),
        (lambda: can.alternating_normalization(rows_of((1.5, -0.5, 0)), torch.ones(3)), ValueError, "smallest entry -0.5"),
        (lambda: can.alternating_normalization(rows_of((np.nan, 0.5, 0.5)), torch.ones(3)), ValueError, "must be finite"),
        (lambda: can.alternating_normalization(torch.ones(4, 3, dtype=torch.long), torch.ones(3)), TypeError, "floating-point"),
        (lambda: can.alternating_normalization("rows", torch.ones(3)), TypeError, "probabilities must be probabilities"),
        (lambda: can.alternating_normalization(torch.ones(4, 1), torch.ones(1)), ValueError, "two classes or more"),
        (lambda: can.alternating_normalization(GOOD[0], torch.ones(3)), ValueError, r"must be probabilities \(N, C\)"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(4)), ValueError, "prior must hold 3"),
        (lambda: can.alternating_normalization(GOOD, (0.5, 0.5, 0)), ValueError, "prior must hold 3 positive"),
        (lambda: can.alternating_normalization(GOOD, (0.5, -0.5, 1)), ValueError, "positive"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), threshold=1.2), ValueError, r"threshold must be a finite number in \[0, 1\]"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), threshold="0.5"), TypeError, "threshold must be a finite number"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), k=1), ValueError, "k must be an integer >= 2"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), k=4), ValueError, "k must hold a number in 2 .. 3"),
        (lambda: can.top_k_entropy(GOOD, 4), ValueError, "k must be an integer in 2..3"),
        (lambda: can.one_step(GOOD, GOOD, torch.ones(3), alpha=0), ValueError, "alpha must be a finite number > 0"),
        (lambda: can.one_step(GOOD, GOOD, torch.ones(3), alpha=-1), ValueError, "alpha must be a finite number > 0"),
        (lambda: can.iterate(GOOD, GOOD, torch.ones(3), depth=-1), ValueError, "depth must be an integer >= 0"),
        (lambda: can.iterate(GOOD, GOOD, torch.ones(3), depth=1.5), TypeError, "depth must be an integer"),
        (lambda: can.one_step(GOOD, GOOD[:0], torch.ones(3)), ValueError, "reference must hold a row"),
        (lambda: can.one_step(GOOD, random_rows(4, 5), torch.ones(3)), ValueError, r"reference must be probabilities \(N, 3\)"),
        (lambda: can.choose_reference(GOOD, cap=0), ValueError, "cap must be an integer >= 1"),
        (lambda: can.tune(GOOD, [0, 1, 2], torch.ones(3)), ValueError, "labels must be 4"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), reference=one_nan(GOOD)), ValueError, "reference must be finite .* row 2 is not"),
        (lambda: can.one_step(GOOD, one_nan(GOOD), torch.ones(3)), ValueError, "reference must be finite .* row 2 is not"),
        (lambda: can.alternating_normalization(GOOD, (1, np.nan, 1)), ValueError, "prior must hold 3 positive numbers"),
        (lambda: can.alternating_normalization(GOOD, (1, np.inf, 1)), ValueError, "prior must hold 3 positive numbers"),
        (lambda: can.alternating_normalization(GOOD + 0j, torch.ones(3)), TypeError, "probabilities must be"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), identity=1), TypeError, "identity must be True or False, got 1"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), seed=-1), ValueError, "seed must be an integer >= 0"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), k=()), ValueError, "k must hold a number or more"),
        (lambda: can.alternating_normalization(GOOD, torch.ones(3), k="23"), TypeError, "k must be a sequence"),
        (lambda: can.top_k_entropy(GOOD, 2, renormalise="yes"), TypeError, "renormalise must be True or False"),
        (lambda: can.iterate(GOOD, GOOD, torch.ones(3), alpha=np.inf), ValueError, "alpha must be a finite number > 0"),
        (lambda: can.iterate(GOOD, GOOD, torch.ones(3), alpha=1e308), ValueError, "alpha must be a finite number > 0, at most"),
        (lambda: can.iterate(GOOD, GOOD, torch.ones(3), trace="whole"), ValueError, 'trace must be False, True or "half"'),
        (lambda: can.iterate(GOOD, GOOD, torch.ones(3), trace=2), TypeError, 'trace must be False, True or "half"'),
        (lambda: can.tune(GOOD, ["a", "b", "c", "a"], torch.ones(3)), TypeError, "labels must be whole numbers"),
        (lambda: can.tune(GOOD, [0.0, 1.0, 2.0, 0.0], torch.ones(3)), TypeError, "labels must be whole numbers"),
        (lambda: can.tune(GOOD[:0], [], torch.ones(3)), ValueError, "probabilities must hold a validation row"),
        (lambda: can.tune(GOOD, [0, 1, 2, 0], torch.ones(3), alphas=[1, 0]), ValueError, "alphas must be a finite number > 0"),
        (lambda: can.tune(GOOD, [0, 1, 2, 0], torch.ones(3), thresholds=0.5), TypeError, "thresholds must be a sequence"),
        (lambda: can.AlternatingNormalizer().fit(GOOD, [0, 1, 2]), ValueError, "y must be 4"),
        (lambda: can.AlternatingNormalizer(prior=[1, 1, 1]).fit(GOOD, [0, 1, 2]), ValueError, "y must be 4"),
        (lambda: can.AlternatingNormalizer().fit(GOOD, [0, 1, 2, 2**40]), ValueError, "y must be in 0 .. 2"),
        (lambda: can.AlternatingNormalizer().fit(GOOD, [0, 1, None, 2]), TypeError, "y must be whole numbers or texts"),
        (lambda: can.AlternatingNormalizer().fit(GOOD[:0], []), ValueError, "X must hold a row"),
        (lambda: can.AlternatingNormalizer(alpha=0).fit(GOOD, [0, 1, 2, 0]), ValueError, "alpha must be"),
        (lambda: can.AlternatingNormalizer(k=5).fit(GOOD, [0, 1, 2, 0]), ValueError, "k must hold a number in 2 .. 3"),
        (lambda: can.binary_threshold(GOOD[:0, :2], (1, 1)), ValueError, "reference must hold a row"),
        (lambda: can.tune(GOOD, [0, 1, 2, 3], torch.ones(3)), ValueError, r"labels must be in 0 \.\. 2"),
        (lambda: can.binary_threshold(GOOD, torch.ones(3)), ValueError, r"reference must be probabilities \(N, 2\)"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_rare_dtypes_are_taken_as_numbers_or_named():
    rows, labels = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.tensor([0, 1, 0])
    right = can.tune(rows, labels, torch.tensor([2, 1]), alphas=[1.0, 2.0])
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        assert can.tune(rows, labels.to(dtype), torch.tensor([2, 1]).to(dtype), alphas=[1.0, 2.0]) == right
    with pytest.raises(ValueError, match=r"labels must be .* below 2\*\*63, got uint64 tensor of shape \(3,\) with more in it"):
        can.tune(rows, torch.full((3,), -1).view(torch.uint64), torch.ones(2))
    with pytest.raises(TypeError, match="probabilities must be probabilities .* of 16 bits or more, got float8_e4m3fn tensor of shape"):
        can.is_ambiguous(rows.to(torch.float8_e4m3fn))


def test_what_is_masked_is_refused_by_name():
    validation, labels = (x.numpy() for x in biased(0, 60))
    hidden = np.arange(60) < 30
    rows, y = np.ma.masked_array(validation, np.repeat(hidden[:, None], 3, 1)), np.ma.masked_array(labels, hidden)
    refused = (
        (lambda: can.AlternatingNormalizer().fit(validation, y), "y"), (lambda: can.AlternatingNormalizer().fit(rows, labels), "X"),
        (lambda: can.AlternatingNormalizer().fit(validation, list(y)), "y"), (lambda: can.AlternatingNormalizer().fit(list(rows), labels), "X"),
        (lambda: can.AlternatingNormalizer().fit(validation, labels).transform(rows), "X"), (lambda: can.iterate(validation, rows, np.ones(3)), "reference"),
        (lambda: can.tune(validation, y, np.ones(3)), "labels"), (lambda: can.one_step(validation, validation, np.ma.masked_less([1, 2, 3], 2)), "prior"),
    )  # fmt: skip
    for call, name in refused:
        with pytest.raises(TypeError, match=rf"^{name} must be .*, got masked entries: leave their rows out, or .* with .filled\(value\)$"):
            call()
    whole = can.AlternatingNormalizer().fit(np.ma.masked_array(validation), np.ma.masked_array(labels))  # nothing is masked
    assert np.array_equal(whole.prior_, can.AlternatingNormalizer().fit(validation, labels).prior_)


def test_no_rows_are_no_rows():
    assert can.iterate(GOOD[:0], GOOD, torch.ones(3), depth=2).shape == (0, 3)
    assert can.alternating_normalization(GOOD[:0], torch.ones(3), reference=GOOD, threshold=1.0).probabilities.shape == (0, 3)
