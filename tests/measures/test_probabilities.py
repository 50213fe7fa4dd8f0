"""Peers of alternating normalization against hand examples, limits and each other."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from helpers.measures import metrics
from helpers.measures import probabilities as peers
from helpers.methods import alternating_normalization as can
from tests.accelerator import DEVICE, Accelerator


def example(count=300, classes=4, seed=0, prior=None, bias=1.0):
    """Probabilities that are right about the labels but for a bias towards class 0."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, count, p=prior)
    logits = 2 * np.eye(classes)[labels] + rng.normal(size=(count, classes))
    logits[:, 0] += bias
    out = np.exp(logits)
    return out / out.sum(1, keepdims=True), labels


def test_prior_correction_by_hand():
    out = peers.prior_correction([[0.5, 0.5]], [0.8, 0.2], mean=[0.4, 0.6])
    assert out == pytest.approx(np.array([[2.0, 1 / 3]]) / (7 / 3))
    p, labels = example()
    own = peers.prior_correction(p, np.ones(4))
    assert (own.argmax(1) == labels).mean() > (p.argmax(1) == labels).mean()
    assert np.allclose(peers.prior_correction(p, p.mean(0)), p)


def test_prior_correction_is_what_many_reference_rows_do():
    p, _ = example()
    one = can.one_step(p[:5], np.repeat(p, 400, 0), np.ones(4))
    assert np.allclose(one, peers.prior_correction(p[:5], np.ones(4), mean=p.mean(0)), atol=1e-4)


def test_temperature():
    p, labels = example(4000, bias=0)
    assert np.allclose(peers.with_temperature(p, 1), p)
    sharp = peers.with_temperature(p, 0.5)
    assert np.allclose(sharp, p**2 / (p**2).sum(1, keepdims=True)) and (sharp.argmax(1) == p.argmax(1)).all()
    found = peers.fit_temperature(sharp, labels)
    assert found == pytest.approx(2 * peers.fit_temperature(p, labels), rel=0.01)
    assert metrics.calibration_error(peers.with_temperature(sharp, found), labels) < metrics.calibration_error(sharp, labels)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-7, 1e-3])
def test_cold_softmax_does_not_underflow(temperature):
    rows = np.vstack([np.full(1000, 1e-3), np.r_[0.5, np.full(999, 0.5 / 999)], np.r_[1.0, np.zeros(999)]])
    out = peers.with_temperature(rows, temperature)
    assert np.allclose(out[0], 1e-3) and np.allclose(out[1:, 0], 1) and np.allclose(out.sum(1), 1)
    out = peers.with_bias(rows, temperature, np.r_[0.0, 800.0, np.zeros(998)])
    assert np.allclose(out[0], np.r_[0, 1.0, np.zeros(998)]) and np.allclose(out[1:, 0], 1) and np.allclose(out.sum(1), 1)


def test_the_temperature_stays_between_its_bounds():
    p, labels = example(400, bias=0)
    sure, vague = peers.with_temperature(p, 0.02), np.full((400, 4), 0.25) + np.eye(4)[labels] * 0.004 - 0.001
    assert peers.fit_temperature(vague, labels) == pytest.approx(0.05, rel=1e-3)  # it would be colder
    wrong = (labels + 1) % 4
    assert peers.fit_temperature(sure, wrong) == pytest.approx(20, rel=1e-3)  # it would be warmer
    assert 0.05 < peers.fit_temperature(p, labels) < 20
    assert peers.with_temperature(p, 0.05).max() > peers.with_temperature(p, 20).max()


def test_a_bias_beyond_the_range_of_floats():
    out = peers.with_bias(np.array([[1.0, 0.0], [0.5, 0.5]]), 1.0, [0.0, 2000.0])
    assert np.allclose(out, [[0, 1], [0, 1]])
    assert np.allclose(peers.with_bias(np.array([[1.0, 0.0]]), 0.01, [-700.0, 100.0]), [[1, 0]])


def test_a_fitted_bias_takes_out_what_was_put_in():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4000, 3))
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    labels = (p.cumsum(1) > rng.random((4000, 1))).argmax(1)  # drawn from the rows: nothing to correct
    bias = np.array([1.5, -0.5, -1.0])
    wrong = np.exp(2 * x + 2 * bias)
    wrong = wrong / wrong.sum(1, keepdims=True)  # twice too sure, and biased
    temperature, found = peers.fit_bias(wrong, labels)
    assert temperature == pytest.approx(2, rel=0.1) and found == pytest.approx(-bias, abs=0.15) and found.sum() == pytest.approx(0, abs=1e-9)
    assert np.abs(peers.with_bias(wrong, temperature, found) - p).mean() < 0.02
    assert np.allclose(peers.with_bias(p, 2.0, np.zeros(3)), peers.with_temperature(p, 2.0))
    assert np.allclose(peers.with_bias(p, 1.0, np.full(3, 7.0)), p)  # a constant changes nothing


def test_the_fit_agrees_with_logistic_regression_on_two_classes():
    p, labels = example(2000, classes=2, bias=1.0)
    temperature, bias = peers.fit_bias(p, labels)
    odds = np.log(p[:, 1] / p[:, 0])[:, None]
    known = LogisticRegression(C=1e6, tol=1e-8).fit(odds, labels)  # log odds after = slope * log odds before + intercept
    assert 1 / temperature == pytest.approx(float(known.coef_[0, 0]), rel=0.04)  # the penalty of the bias draws the slope along
    assert bias[1] - bias[0] == pytest.approx(float(known.intercept_[0]), rel=0.06)


def test_a_class_without_labels_still_has_an_end():
    p, _ = example(50)
    temperature, bias = peers.fit_bias(p, np.arange(50) % 3)  # class 3 never
    assert np.isfinite(bias).all() and bias.argmin() == 3 and 0.05 <= temperature <= 20


def test_sinkhorn_balances_and_agrees_with_many_rounds():
    p, _ = example(40, bias=2)
    out = peers.sinkhorn(p, [0.4, 0.3, 0.2, 0.1])
    assert np.allclose(out.mean(0), [0.4, 0.3, 0.2, 0.1], atol=1e-6) and np.allclose(out.sum(1), 1)
    rounds = can.iterate(p[-1:], p[:-1], [0.4, 0.3, 0.2, 0.1], depth=300)  # the stack of all rows, the last one read
    assert np.allclose(rounds[0], out[-1], atol=1e-5)


def test_em_finds_the_prior_of_a_classifier_that_may_be_believed():
    prior = np.array([0.55, 0.25, 0.15, 0.05])
    rng = np.random.default_rng(3)
    labels = rng.choice(4, 20_000, p=prior)
    x = 1.5 * np.eye(4)[labels] + rng.normal(size=(20_000, 4))
    logits = 1.5 * x  # the posterior under equal priors
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    out, found = peers.label_shift_em(p, np.ones(4))
    assert found == pytest.approx(prior, abs=0.02) and (out.argmax(1) == labels).mean() > (p.argmax(1) == labels).mean()


def test_no_step_of_em_moves_nothing():
    p, _ = example(40)
    out, prior = peers.label_shift_em(p, [1, 2, 3, 4], steps=0)
    assert np.array_equal(out, p) and out is not p and prior == pytest.approx([0.1, 0.2, 0.3, 0.4])
    once = peers.label_shift_em(p, [1, 2, 3, 4], steps=1)
    assert np.allclose(once[0], p) and once[1] == pytest.approx(p.mean(0))  # the first step learns what is said on average
    assert np.allclose(peers.label_shift_em(p, [1, 2, 3, 4], steps=2)[0], peers.prior_correction(p, p.mean(0), mean=[1, 2, 3, 4]))


def test_any_array_goes_in_and_arrays_come_out():
    p, labels = example(60)
    q, calls = [0.1, 0.2, 0.3, 0.4], {}
    calls["correction"], calls["sinkhorn"] = (lambda p, y, q: peers.prior_correction(p, q, mean=q)), (lambda p, y, q: peers.sinkhorn(p, q))
    calls["em"], calls["estimate"] = (lambda p, y, q: peers.label_shift_em(p, q)), (lambda p, y, q: peers.estimate_prior(p, p, y))
    calls["temperature"], calls["bias"] = (lambda p, y, q: peers.fit_temperature(p, y)), (lambda p, y, q: peers.with_bias(p, 0.7, q))
    calls["fit"] = lambda p, y, q: peers.fit_bias(p, y)[1]
    others = [
        (p[::-1].copy()[::-1], labels[::-1].copy()[::-1], np.array(q, ">f8")),
        (torch.from_numpy(p).requires_grad_(), torch.from_numpy(labels), torch.tensor(q)),
        (pd.DataFrame(p, index=range(7, 67)), pd.Series(labels, index=range(7, 67)), pd.Series(q)),
        (p.tolist(), labels.tolist(), {3: 0.4, 2: 0.3, 1: 0.2, 0: 0.1}),
    ]  # fmt: skip

    def first(result):
        return result[0] if isinstance(result, tuple) else result

    for name, call in calls.items():
        wanted = call(p, labels, q)
        for given in others:
            assert np.allclose(first(call(*given)), first(wanted)) and not isinstance(call(*given), torch.Tensor), name
        with Accelerator():
            far = call(torch.from_numpy(p).to(DEVICE), torch.from_numpy(labels).to(DEVICE), torch.tensor(q).to(DEVICE))
        assert np.allclose(first(far), first(wanted)), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_half_precision_are_divided_by_their_sums(dtype):
    p = torch.from_numpy(example(30, classes=500)[0]).to(dtype)
    exact = (p.double() / p.double().sum(1, keepdim=True)).numpy()
    assert np.array_equal(peers.with_temperature(p, 0.8), peers.with_temperature(exact, 0.8))
    with pytest.raises(ValueError, match="rows sum to 1"):
        peers.with_temperature(p * 0.9, 0.8)
    step = torch.finfo(dtype).eps  # eight steps are rounding, nine are not
    rows = torch.tensor([[0.5, 0.5 + 8 * step]]).to(dtype)
    assert np.array_equal(peers.with_bias(rows, 1.0, [0, 0]), peers.with_bias((rows.double() / rows.double().sum()).numpy(), 1.0, [0, 0]))
    with pytest.raises(ValueError, match="rows sum to 1"):
        peers.with_temperature(torch.tensor([[0.5, 0.5 + 9 * step]]).to(dtype), 0.8)


def test_rows_of_whole_numbers():
    for rows in (np.eye(3, dtype=int), np.eye(3, dtype=int).tolist(), torch.eye(3, dtype=torch.uint8)):
        assert np.allclose(peers.with_temperature(rows, 2.0), peers.with_temperature(np.eye(3), 2.0))
    with pytest.raises(ValueError, match="row 1 sums to 2 with"):
        peers.with_temperature(np.array([[1, 0], [1, 1]]), 2.0)


def test_only_the_shares_of_a_prior_count():
    p, _ = example(20)
    for scale in (1e-250, 3.0, 1e250):
        assert np.allclose(peers.prior_correction(p, scale * np.array([1, 2, 3, 4])), peers.prior_correction(p, [0.1, 0.2, 0.3, 0.4]))
    for prior in ([1e150, 1, 1, 1e-100], [1e-50, 1, 1, 1e-250], [0, 0, 0, 0]):
        with pytest.raises(ValueError, match="prior must hold 4 positive"):
            peers.sinkhorn(p, prior)


def test_names_of_columns():
    p, _ = example(30)
    table, q = pd.DataFrame(p, columns=list("dacb")), pd.Series([0.2, 0.3, 0.4, 0.1], index=list("acbd"))
    assert np.array_equal(peers.prior_correction(table, q), peers.prior_correction(p, [0.1, 0.2, 0.3, 0.4]))
    assert np.array_equal(peers.sinkhorn(table, q), peers.sinkhorn(p, [0.1, 0.2, 0.3, 0.4]))


def test_columns_in_another_order_are_refused():
    p, labels = example(60)
    table = pd.DataFrame(p, columns=list("dacb"))
    assert np.array_equal(peers.estimate_prior(table, table, labels), peers.estimate_prior(p, p, labels))
    with pytest.raises(ValueError, match="validation must have the columns of probabilities in their order, .'d', 'a', 'c', 'b'., got .'a', 'b', 'c', 'd'."):
        peers.estimate_prior(table, table[list("abcd")], labels)


def test_estimated_prior():
    validation, labels = example(5000)
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    shifted, _ = example(20_000, seed=1, prior=prior)
    assert peers.estimate_prior(shifted, validation, labels) == pytest.approx(prior, abs=0.03)


def test_a_class_that_nothing_speaks_for_gets_a_hundredth_of_an_equal_share():
    known, labels = np.eye(2)[[0, 0, 0, 1]], [0, 0, 0, 1]  # never wrong
    assert peers.estimate_prior(np.eye(2)[[0, 0, 0]], known, labels) == pytest.approx(np.array([1, 0.005]) / 1.005)
    assert peers.estimate_prior(np.eye(2)[[0, 1, 1, 1, 1]], known, labels) == pytest.approx([0.2, 0.8])
    # of class 1, half is taken for class 0: said [1, 0] = [[1/2, 1/4], [0, 1/4]] @ [2, 0]; and said [0, 1] asks for [-2, 4], shares [-1, 2]
    known, labels = np.eye(2)[[0, 0, 0, 1]], [0, 0, 1, 1]
    assert peers.estimate_prior(np.eye(2)[[1, 1, 1]], known, labels) == pytest.approx(np.array([0.005, 2]) / 2.005)


@pytest.mark.parametrize("call", [peers.fit_temperature, peers.fit_bias, lambda p, y: peers.estimate_prior(p, p, y)])
def test_labels_that_are_no_whole_numbers_are_refused(call):
    p, labels = example(20)
    for wrong in (labels + 0.5, labels.astype(float), labels.astype(str)):
        with pytest.raises(TypeError, match="labels must be"):
            call(p, wrong)


def test_calibration_error_by_hand():
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.35, 0.65]])
    assert metrics.calibration_error(p, np.array([0, 1, 1, 1])) == pytest.approx(0.5 * 0.45 + 0.5 * 0.35)
    assert metrics.calibration_error(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2])) == 0


@pytest.mark.parametrize("call, message", [
    (lambda p, y: peers.prior_correction(p * 2, np.ones(4)), "probabilities must be"),
    (lambda p, y: peers.prior_correction(p, np.ones(3)), r"prior must be numbers \(4,\)"),
    (lambda p, y: peers.with_temperature(p, 0), "temperature must be a number > 0"), (lambda p, y: peers.fit_temperature(p, y[:3]), "labels must be"),
    (lambda p, y: peers.sinkhorn(p, [1, 0, 1, 1]), "prior must hold 4 positive"), (lambda p, y: peers.estimate_prior(p, p, y + 1), "labels must be"),
    (lambda p, y: peers.fit_bias(p, y - 1), "labels must be"), (lambda p, y: peers.with_bias(p, 1.0, [0, 0, 0]), r"bias must be numbers \(4,\)"),
    (lambda p, y: peers.with_bias(p, 0.0, np.zeros(4)), "temperature must be a number > 0"),
    (lambda p, y: peers.with_temperature(p, np.nan), "temperature must be a number > 0, got nan"),
    (lambda p, y: peers.with_temperature(p, np.inf), "temperature must be"), (lambda p, y: peers.label_shift_em(p, np.ones(4), steps=-1), "steps must be"),
    (lambda p, y: peers.estimate_prior(p, p[:, :3] / p[:, :3].sum(1, keepdims=True), y), r"validation must be numbers \(N, 4\)"),
    (lambda p, y: peers.estimate_prior(p, p[:9], y), "labels must be 9 class numbers, one for each row of validation, got 20"),
    (lambda p, y: peers.prior_correction(p, np.ones(4), mean=[-1, 1, 1, 1]), "mean must be numbers"),
    (lambda p, y: peers.prior_correction(p, np.ones(4), mean=np.zeros(4)), "mean must hold"),
    (lambda p, y: peers.sinkhorn(p, [1, np.nan, 1, 1]), "prior must be finite"), (lambda p, y: peers.sinkhorn(np.log(p), np.ones(4)), "apply softmax first"),
    (lambda p, y: peers.sinkhorn(p[:, :1] / p[:, :1], [1]), "two classes or more"), (lambda p, y: peers.sinkhorn(p, [1, 1, 1, 1e-250]), "positive"),
    (lambda p, y: peers.fit_temperature(np.where(p == p[3, 1], np.nan, p), y), "probabilities must be finite"),
    (lambda p, y: metrics.calibration_error(p, y[:2]), "labels must be"), (lambda p, y: metrics.calibration_error(p, y, bins=0), "bins must be"),
])  # fmt: skip
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*example(20))
