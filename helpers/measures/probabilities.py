"""What is commonly done to a classifier's probabilities afterwards, without training it again: the peers of alternating normalization.

Everything takes probabilities (N, C), C >= 2, whose rows sum to 1 up to the rounding of their dtype, as arrays, tensors, lists or tables, and returns
float64 arrays, whatever came. Bad arguments raise ValueError or TypeError that names the argument, before any work is done.
"""

import numpy as np
import ot
import torch
from scipy.optimize import minimize, minimize_scalar

from ..arguments import by_class, got, integer, numbers, real

__all__ = [
    "estimate_prior", "fit_bias", "fit_temperature", "label_shift_em", "prior_correction", "sinkhorn", "with_bias", "with_temperature",
]  # fmt: skip

_TINY = 1e-12


def _rows(name: str, value, classes: str | int = "C") -> np.ndarray:
    """`value` as float64 (N, C), once it is seen to hold probabilities; rows of half precision are divided by their sums."""
    given = numbers(name, value, f"N {classes}")
    rows = given.cpu().double()
    if rows.shape[1] < 2:
        raise ValueError(f"{name} must be probabilities (N, C) of two classes or more, got shape {tuple(rows.shape)}")
    sums, slack = rows.sum(1), max(1e-4, 8 * torch.finfo(given.dtype).eps) if given.is_floating_point() else 0.0
    wrong = ((sums - 1).abs() > slack) | (rows.amin(1) < 0)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        about = f"row {row} sums to {sums[row]:.4g} with the smallest entry {rows[row].min():.4g}"
        raise ValueError(f"{name} must be probabilities (N, C) whose rows sum to 1; {about}. For logits, apply softmax first.")
    return (rows / sums[:, None] if given.dtype in (torch.float16, torch.bfloat16) else rows).numpy()


def _columns(table) -> list | None:
    """The names of a table's columns, None where it has none."""
    return list(table.columns) if hasattr(table, "to_numpy") and hasattr(table, "columns") else None


def _prior(name: str, value, classes: int, table=None) -> np.ndarray:
    """Positive numbers (C,), made to sum to 1; named ones by the names of the table's columns or the class numbers."""
    prior = numbers(name, by_class(name, value, _columns(table)), str(classes), low=0).cpu().double().numpy()
    if not np.isfinite(prior.sum()) or not (prior > 1e-200 * prior.sum()).all():  # less than that is lost in the products
        raise ValueError(f"{name} must hold {classes} positive numbers, got {np.array2string(prior, threshold=12)}")
    return prior / prior.sum()


def _labels(labels, rows: np.ndarray, of: str = "probabilities") -> np.ndarray:
    labels = numbers("labels", labels, "N", whole=True, low=0, high=rows.shape[1] - 1).cpu().numpy()
    if len(labels) != len(rows):
        raise ValueError(f"labels must be {len(rows)} class numbers, one for each row of {of}, got {len(labels)}")
    return labels


def prior_correction(probabilities, prior, *, mean=None) -> np.ndarray:
    """p_c * prior_c / mean_c, each row divided by its sum: what a classifier says on average is moved to what is there (Saerens et al. 2002, eq. 4).

    prior (C,): how often the classes occur. mean (C,): the classifier's own average prediction, best on validation data; None takes that of the rows.
    """
    rows = _rows("probabilities", probabilities)
    classes = rows.shape[1]
    names = _columns(probabilities)
    mean = rows.mean(0) if mean is None else numbers("mean", by_class("mean", mean, names), str(classes), low=0).cpu().double().numpy()
    if not mean.any():
        raise ValueError(f"mean must hold {classes} numbers >= 0, not all of them 0")
    return _corrected(rows, _prior("prior", prior, classes, probabilities), _prior("mean", np.maximum(mean, _TINY), classes))


def _corrected(rows: np.ndarray, prior: np.ndarray, mean: np.ndarray) -> np.ndarray:
    out = rows * prior / np.maximum(mean, _TINY)
    return out / out.sum(1, keepdims=True)


def fit_temperature(probabilities, labels) -> float:
    """The temperature T in [0.05, 20] whose softmax(log p / T) has the least cross-entropy with the labels (Guo et al. 2017, section 4.2)."""
    rows = _rows("probabilities", probabilities)
    labels = _labels(labels, rows)

    def loss(log_t: float) -> float:
        scaled = _scaled(rows, float(np.exp(log_t)))
        return float(-np.log(np.maximum(scaled[np.arange(len(rows)), labels], _TINY)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def with_temperature(probabilities, temperature: float) -> np.ndarray:
    """softmax(log p / T): the order of the classes stays, the confidence changes."""
    temperature = real("temperature", temperature, low=0, above=True)
    return _scaled(_rows("probabilities", probabilities), temperature)


def _scaled(rows: np.ndarray, temperature: float) -> np.ndarray:
    logits = np.log(np.maximum(rows, _TINY))
    with np.errstate(over="ignore"):  # far below the largest one: their share is 0
        logits = logits / temperature if temperature > 1e-6 else (logits - logits.max(1, keepdims=True)) / temperature
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
    rows = _rows("probabilities", probabilities)
    temperature = real("temperature", temperature, low=0, above=True)
    bias = numbers("bias", by_class("bias", bias, _columns(probabilities)), str(rows.shape[1])).cpu().double().numpy()
    out = _scaled(rows, temperature) * np.exp(bias - bias.max())
    if (lost := ~out.any(1)).any():  # too much for products: in logarithms
        logits = np.log(np.maximum(rows[lost], _TINY))
        with np.errstate(over="ignore"):
            scores = (logits - logits.max(1, keepdims=True)) / temperature + bias
        out[lost] = np.exp(scores - scores.max(1, keepdims=True))
    return out / out.sum(1, keepdims=True)


def sinkhorn(probabilities, prior) -> np.ndarray:
    """All rows together, scaled until their column means are the prior: the entropic transport plan between examples and classes at cost -log p."""
    rows = _rows("probabilities", probabilities)
    cost = -np.log(np.maximum(rows, _TINY))
    each, wanted = np.full(len(rows), 1 / len(rows)), _prior("prior", prior, rows.shape[1], probabilities)
    plan = ot.bregman.sinkhorn_log(each, wanted, cost, 1.0, numItermax=5000, stopThr=1e-10, warn=False)
    return plan / plan.sum(1, keepdims=True)


def label_shift_em(probabilities, training_prior, *, steps: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Adjusted rows, and their own prior (C,), by expectation-maximisation (Saerens et al. 2002): the classifier is believed, the prior moves.

    steps: 0 leaves both as they are.
    """
    rows, steps = _rows("probabilities", probabilities), integer("steps", steps, low=0)
    start = prior = _prior("training_prior", training_prior, rows.shape[1], probabilities)
    out, mean = rows.copy(), np.maximum(start, _TINY)
    for _ in range(steps):
        out = _corrected(rows, prior / prior.sum(), mean / mean.sum())
        prior = np.maximum(out.mean(0), _TINY)
    return out, prior / prior.sum()


def estimate_prior(probabilities, validation, labels) -> np.ndarray:
    """How often each class occurs among `probabilities`, by black-box shift estimation (Lipton et al. 2018): validation's confusion matrix, inverted.

    Labels of the validation rows are needed, those of `probabilities` are not. Classes that come out negative get a hundredth of an equal share.
    """
    rows = _rows("probabilities", probabilities)
    known, classes = _rows("validation", validation, rows.shape[1]), rows.shape[1]
    if (ours := _columns(probabilities)) is not None and (theirs := _columns(validation)) is not None and ours != theirs and set(ours) == set(theirs):
        raise ValueError(f"validation must have the columns of probabilities in their order, {got(ours)}, got {got(theirs)}")
    labels = _labels(labels, known, "validation")
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (known.argmax(1), labels), 1 / len(labels))
    said = np.bincount(rows.argmax(1), minlength=classes) / len(rows)
    ratio = np.linalg.lstsq(confusion, said, rcond=1e-3)[0]
    prior = np.maximum(ratio * np.bincount(labels, minlength=classes) / len(labels), 0.01 / classes)
    return prior / prior.sum()
