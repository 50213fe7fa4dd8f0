"""What is commonly done to a classifier's probabilities afterwards, without training it again: the peers of alternating normalization.

Everything takes and returns probabilities, float64 (N, C) arrays whose rows sum to 1. Bad arguments raise ValueError that names the argument.
"""

import numpy as np
import ot
from scipy.optimize import minimize, minimize_scalar

_TINY = 1e-12


def _rows(name: str, value) -> np.ndarray:
    rows = np.asarray(value, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2 or len(rows) == 0 or not (rows >= 0).all() or not np.allclose(rows.sum(1), 1, atol=1e-4):
        raise ValueError(f"{name} must be (N, C) probabilities, N >= 1 and C >= 2, rows that sum to 1; got shape {rows.shape}")
    return rows


def _prior(name: str, value, classes: int) -> np.ndarray:
    prior = np.asarray(value, dtype=np.float64)
    if prior.shape != (classes,) or not (prior > 0).all() or not np.isfinite(prior).all():
        raise ValueError(f"{name} must hold {classes} positive numbers, got {np.array2string(prior, threshold=12)}")
    return prior / prior.sum()


def _labels(labels, rows: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (len(rows),) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= rows.shape[1]:
        raise ValueError(f"labels must be {len(rows)} class numbers in 0 .. {rows.shape[1] - 1}, got shape {labels.shape} of {labels.dtype}")
    return labels


def prior_correction(probabilities, prior, *, mean=None) -> np.ndarray:
    """p_c * prior_c / mean_c, each row divided by its sum: what a classifier says on average is moved to what is there (Saerens et al. 2002, eq. 4).

    prior (C,): how often the classes occur. mean (C,): the classifier's own average prediction, best on validation data; None takes that of the rows.
    """
    rows = _rows("probabilities", probabilities)
    mean = rows.mean(0) if mean is None else np.asarray(mean, dtype=np.float64)
    out = rows * _prior("prior", prior, rows.shape[1]) / np.maximum(_prior("mean", np.maximum(mean, _TINY), rows.shape[1]), _TINY)
    return out / out.sum(1, keepdims=True)


def fit_temperature(probabilities, labels) -> float:
    """The temperature T in [0.05, 20] whose softmax(log p / T) has the least cross-entropy with the labels (Guo et al. 2017, section 4.2)."""
    rows = _rows("probabilities", probabilities)
    labels = _labels(labels, rows)

    def loss(log_t: float) -> float:
        scaled = with_temperature(rows, float(np.exp(log_t)))
        return float(-np.log(np.maximum(scaled[np.arange(len(rows)), labels], _TINY)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def with_temperature(probabilities, temperature: float) -> np.ndarray:
    """softmax(log p / T): the order of the classes stays, the confidence changes."""
    rows = _rows("probabilities", probabilities)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    logits = np.log(np.maximum(rows, _TINY)) / temperature
    out = np.exp(logits - logits.max(1, keepdims=True))
    return out / out.sum(1, keepdims=True)


def fit_bias(probabilities, labels) -> tuple[float, np.ndarray]:
    """(T, bias (C,)) whose softmax(log p / T + bias) has the least cross-entropy with the labels: bias-corrected temperature scaling (Alexandari et al. 2020).

    The biases sum to 0. Each is drawn towards 0 by a penalty of a thousandth of its square, so that a class without labels has an end as well.
    """
    rows = _rows("probabilities", probabilities)
    labels, classes = _labels(labels, rows), rows.shape[1]
    logs, truth = np.log(np.maximum(rows, _TINY)), np.eye(rows.shape[1])[labels]

    def loss(parameters):
        slope, bias = parameters[0], parameters[1:]
        scores = slope * logs + bias
        scores = scores - scores.max(1, keepdims=True)
        normaliser = np.log(np.exp(scores).sum(1, keepdims=True))
        error = (np.exp(scores - normaliser) - truth) / len(rows)
        value = -((scores - normaliser) * truth).sum() / len(rows) + 1e-3 * (bias**2).sum()
        return value, np.concatenate([[(error * logs).sum()], error.sum(0) + 2e-3 * bias])

    bounds = [(0.05, 20), *[(None, None)] * classes]
    found = minimize(loss, np.concatenate([[1.0], np.zeros(classes)]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return 1 / float(found[0]), found[1:] - found[1:].mean()


def with_bias(probabilities, temperature: float, bias) -> np.ndarray:
    """softmax(log p / T + bias), as `fit_bias` finds them."""
    rows, bias = with_temperature(probabilities, temperature), np.asarray(bias, dtype=np.float64)
    if bias.shape != (rows.shape[1],) or not np.isfinite(bias).all():
        raise ValueError(f"bias must hold {rows.shape[1]} finite numbers, got {np.array2string(bias, threshold=12)}")
    out = rows * np.exp(bias - bias.max())
    return out / out.sum(1, keepdims=True)


def sinkhorn(probabilities, prior) -> np.ndarray:
    """All rows together, scaled until their column means are the prior: the entropic transport plan between examples and classes at cost -log p."""
    rows = _rows("probabilities", probabilities)
    cost = -np.log(np.maximum(rows, _TINY))
    each, wanted = np.full(len(rows), 1 / len(rows)), _prior("prior", prior, rows.shape[1])
    plan = ot.bregman.sinkhorn_log(each, wanted, cost, 1.0, numItermax=5000, stopThr=1e-10, warn=False)
    return plan / plan.sum(1, keepdims=True)


def label_shift_em(probabilities, training_prior, *, steps: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Adjusted rows, and their own prior (C,), by expectation-maximisation (Saerens et al. 2002): the classifier is believed, the prior moves."""
    rows = _rows("probabilities", probabilities)
    start = prior = _prior("training_prior", training_prior, rows.shape[1])
    for _ in range(steps):
        out = prior_correction(rows, prior, mean=start)
        prior = np.maximum(out.mean(0), _TINY)
    return out, prior / prior.sum()


def estimate_prior(probabilities, validation, labels) -> np.ndarray:
    """How often each class occurs among `probabilities`, by black-box shift estimation (Lipton et al. 2018): validation's confusion matrix, inverted.

    Labels of the validation rows are needed, those of `probabilities` are not. Classes that come out negative get a hundredth of an equal share.
    """
    rows, known = _rows("probabilities", probabilities), _rows("validation", validation)
    labels, classes = _labels(labels, known), rows.shape[1]
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (known.argmax(1), labels), 1 / len(labels))
    said = np.bincount(rows.argmax(1), minlength=classes) / len(rows)
    ratio = np.linalg.lstsq(confusion, said, rcond=1e-3)[0]
    prior = np.maximum(ratio * np.bincount(labels, minlength=classes) / len(labels), 0.01 / classes)
    return prior / prior.sum()
