"""k-NN augmentation around any scikit-learn classifier.

Jia, Chen, Wu, Cardie, Belongie and Lim, "Rethinking Nearest Neighbors for Visual Classification", 2021, arXiv 2112.08459.
"""

import copy
import math
import warnings
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ._arguments import _got, _integer, _masked, _number, _option, _tensor
from .augmentation import _mixed, tune
from .neighbours import NORMS, Datastore

__all__ = ["KNNAugmentedClassifier"]


def _plain(value: Any) -> Any:
    """What scikit-learn reads: a tensor as an array, wherever it lies; everything else as it is."""
    if not isinstance(value, Tensor):
        return value
    found = _tensor("X and y", value, "arrays or tensors of numbers")
    return (found.float() if found.dtype == torch.bfloat16 else found).cpu().numpy()


def _missing(value: Any) -> bool:
    try:
        return value is None or not value == value
    except (TypeError, ValueError):  # pandas.NA is neither
        return True


def _comparable(y: Any) -> None:
    """Refuse labels some of which are missing, or which are of several kinds and have no order."""
    try:
        found = np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else y) if y is not None and not isinstance(y, Tensor) else np.empty(0)
    except Exception:  # no array: scikit-learn says what it is
        return
    if found.dtype != object:
        return
    found = found.ravel().tolist()
    for row, label in enumerate(found):
        if _missing(label):
            raise ValueError(f"y must be labels (N,), none of them missing, got {label!r} in row {row}: leave such rows out")
        if isinstance(label, str) != isinstance(found[0], str):
            raise TypeError(f"y must be labels (N,), all numbers or all texts, got {_got(found[0])} in row 0 and {_got(label)} in row {row}")


class KNNAugmentedClassifier(ClassifierMixin, BaseEstimator):
    """Any scikit-learn classifier with `predict_proba`, its probabilities mixed with those of the k nearest training examples.

    fit holds `validation` of the examples back (a share, or how many; stratified where every class allows it; the row of a class that has no other stays
    in training), chooses k, temperature and weight on them, then fits the classifier, on the labels as they are, and the store on everything. It warns
    where there is too little to choose on. k, temperature, weight: numbers are taken as they are instead of being chosen. Labels may be numbers or texts.
    Where X is a pandas table whose columns have texts for names, the estimator gets a table too, in double precision. Whatever predict would
    fail at is refused by fit.
    """

    def __init__(self, estimator=None, *, k=None, temperature=None, weight=None, norm="centre", validation=0.25, random_state=0):
        self.estimator, self.k, self.temperature, self.weight = estimator, k, temperature, weight
        self.norm, self.validation, self.random_state = norm, validation, random_state

    def fit(self, X, y):
        made = copy.copy(self)  # a refusal leaves the model as it was
        made._fit(X, y)
        self.__dict__ = vars(made)
        return self

    def _fit(self, X, y):
        self._check_parameters()
        frame = type(X) if hasattr(X, "iloc") else None
        X, y = self._validated(X, y)
        self._frame = frame if hasattr(self, "feature_names_in_") else None
        try:
            check_classification_targets(y)
        except ValueError as error:
            raise ValueError(f"y must be labels (N,), whole numbers or texts: {error}") from error
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold two classes or more, got one class: {self.classes_[0]}")
        if self.k is not None:
            _integer("k", self.k, 1, len(X))
        if isinstance(self.validation, Integral):
            _integer("validation", self.validation, 1, len(X) - 1)
        given = (self.k, self.temperature, self.weight)
        self.k_, self.temperature_, self.weight_ = given if None not in given else self._choose(X, codes)
        self.estimator_ = self._new().fit(self._handed(X), y)
        self._probabilities_of(self.estimator_, X[:1])
        self.store_ = self._store(X, codes)

    def _check_parameters(self):
        if self.k is not None:
            _integer("k", self.k, 1)
        if self.temperature is not None:
            _number("temperature", self.temperature, above=0)
        if self.weight is not None:
            _number("weight", self.weight, 0, 1)
        _option("norm", self.norm, NORMS)
        if isinstance(self.validation, Integral):
            _integer("validation", self.validation, 1)
        elif _number("validation", self.validation, 0, 1, above=0) == 1:
            raise ValueError(f"validation must be a share in (0, 1) or a whole number of examples, got {self.validation}")
        try:
            check_random_state(self.random_state)
        except ValueError as error:
            raise ValueError(f"random_state must be None, a whole number or a numpy RandomState, got {_got(self.random_state)}") from error
        estimator = self.estimator
        if estimator is not None and (isinstance(estimator, type) or not hasattr(estimator, "fit") or not hasattr(type(estimator), "predict_proba")):
            raise TypeError(f"estimator must be a classifier, made, with fit and predict_proba, got {_named(estimator)}")

    def _validated(self, *rows, reset: bool = True):
        """X, or X and y, as scikit-learn checks them; what it says gets the arguments' names."""
        for name, value, expected in zip("Xy", rows, ("finite numbers (N, D)", "labels (N,)"), strict=False):
            if _masked(value):
                raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        if reset:
            _comparable(rows[1])
        try:
            return validate_data(self, *map(_plain, rows), dtype=np.float64, reset=reset)
        except (TypeError, ValueError) as error:
            sentence = f"X must be finite numbers (N, D){', y labels (N,)' if reset else ''}: {error}"
            raise (TypeError if isinstance(error, TypeError) else ValueError)(sentence) from error

    def _new(self):
        return clone(self.estimator) if self.estimator is not None else LogisticRegression(max_iter=1000)

    def _store(self, X, codes) -> Datastore:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a row at the very mean is no mistake of the caller's
            return Datastore(X, codes, num_classes=len(self.classes_), norm=self.norm)

    def _choose(self, X, codes) -> tuple[int, float, float]:
        alone = np.bincount(codes)[codes] == 1  # the only rows of their classes: they stay in training
        rest = codes[~alone]
        held_back = self.validation if isinstance(self.validation, Integral) else math.ceil(self.validation * len(rest))
        classes, left = len(np.unique(rest)), len(rest) - held_back
        if left < max(classes, 1):
            return self._without_choice(f"{held_back} of the {len(rest)} rows that could be held back leave too few for {classes} classes")
        stratify = rest if min(held_back, left) >= classes else None
        parts = train_test_split(X[~alone] if alone.any() else X, rest, test_size=self.validation, random_state=self.random_state, stratify=stratify)
        kept, held, kept_codes, held_codes = parts
        if alone.any():
            kept, kept_codes = np.concatenate([kept, X[alone]]), np.concatenate([kept_codes, codes[alone]])
        if len(np.unique(kept_codes)) < len(self.classes_):
            return self._without_choice("classes are so small that all of their rows are held back")
        probabilities = self._probabilities_of(self._new().fit(self._handed(kept), self.classes_[kept_codes]), held)
        k = None if self.k is None else min(self.k, len(kept))
        grids = {name: [value] for name, value in (("ks", k), ("temperatures", self.temperature), ("weights", self.weight)) if value is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            best = tune(self._store(kept, kept_codes), held, probabilities, held_codes, **grids)
        return best.k if self.k is None else self.k, best.temperature, best.weight

    def _handed(self, rows: np.ndarray) -> Any:
        """Rows as the estimator gets them: in a table with the names of the columns where fit was given one."""
        return rows if self._frame is None else self._frame(rows, columns=self.feature_names_in_, copy=False)

    def _without_choice(self, why: str) -> tuple[int, float, float]:
        taken = self.k or 1, self.temperature or 1.0, 0.5 if self.weight is None else self.weight
        warnings.warn(f"nothing to choose on: {why}; taken are k, temperature, weight = {taken}", stacklevel=5)
        return taken

    def _probabilities_of(self, fitted, X) -> Tensor:
        if not hasattr(fitted, "predict_proba"):
            raise TypeError(f"estimator must have predict_proba, got {_named(self.estimator)}, which has none as it was made")
        said = np.asarray(fitted.predict_proba(self._handed(X)), dtype=np.float64)
        if said.shape != (len(X), len(self.classes_)):
            raise ValueError(f"estimator must give probabilities ({len(X)}, {len(self.classes_)}), got {said.shape} from {_named(self.estimator)}")
        if (named := getattr(fitted, "classes_", None)) is not None and (order := list(named)) != (ours := list(self.classes_)):
            if set(order) != set(ours):
                raise ValueError(f"estimator must know the classes {_got(ours)}, got {_got(order)} from {_named(self.estimator)}")
            said = said[:, [order.index(one) for one in ours]]
        return torch.from_numpy(said)

    def predict_proba(self, X) -> np.ndarray:
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            near = self.store_.distribution(X, k=self.k_, temperature=self.temperature_)
        return _mixed(self._probabilities_of(self.estimator_, X), torch.from_numpy(near).double(), self.weight_).numpy()

    def predict(self, X) -> np.ndarray:
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]


def _named(estimator: Any) -> str:
    return f"the class {estimator.__name__}" if isinstance(estimator, type) else type(estimator).__name__
