"""Odd and wrong inputs for alternating normalization."""

import numpy as np
import pytest

from helpers.methods import alternating_normalization as can
from tests.inputs.harness import Trial, array, check, coverage, fixed, flag, integer, optional, real

RNG = np.random.default_rng(0)
ROWS, KNOWN = (np.exp(2 * RNG.normal(size=(n, 3))) for n in (14, 20))
ROWS, KNOWN = ROWS / ROWS.sum(1, keepdims=True), KNOWN / KNOWN.sum(1, keepdims=True)
PRIOR, LABELS = np.array([0.2, 0.3, 0.5]), np.arange(14) % 3
NOTHING = ("nothing in it",)  # no rows in, no rows out: lawful, and tested elsewhere


def rows(value=ROWS, **options):
    return array(value, low=0, high=1, free=(0,), grow=(0,), **options)


def prior(value=PRIOR, **options):
    return array(value, low=0, wrong=([0.2, 0.3, 0.0], [0.2], {"cat": 0.2, "dog": 0.3, "fox": 0.5}, {0: 0.3}), either=({0: 0.2, 1: 0.3, 2: 0.5},))


def grid(value, **options):
    return array(value, free=(0,), grow=(0,), either=(value[0],), **options)


def estimated(X, y, **options):
    model = can.AlternatingNormalizer(**options).fit(X, y)
    return model.prior_, model.reference_, model.transform(ROWS), model.predict(ROWS)


def transformed(X):
    return can.AlternatingNormalizer().fit(ROWS, LABELS).transform(X)


SETTINGS = dict(threshold=real(0.8, low=0, high=1), alpha=real(1.3, low=0, above=True), depth=integer(2, low=0), seed=integer(0, low=0))
MORE = dict(
    k=optional(array(np.array([2, 3]), low=2, free=(0,), either=(3, (2,), [7, 2], {2, 3}), wrong=(1, 4, (4, 5), 2.5, [2.0]))),
    cap=optional(integer(9, low=1)),
)
CLASSES = array(LABELS, low=0, high=2, skip=("texts",))  # texts are names of classes
TRIALS = [
    Trial(can.top_k_entropy, probabilities=rows(skip=NOTHING), k=integer(2, low=2, high=3), renormalise=flag(False), follows="probabilities"),
    Trial(can.is_ambiguous, probabilities=rows(skip=NOTHING), threshold=SETTINGS["threshold"], k=MORE["k"], follows="probabilities"),
    Trial(can.choose_reference, probabilities=rows(skip=NOTHING), cap=MORE["cap"], seed=SETTINGS["seed"], follows="probabilities"),
    Trial(can.one_step, rows=rows(skip=NOTHING), reference=rows(KNOWN), prior=prior(), alpha=SETTINGS["alpha"], follows="rows"),
    Trial(can.iterate, rows=rows(skip=NOTHING), reference=rows(KNOWN), prior=prior(), alpha=SETTINGS["alpha"], depth=SETTINGS["depth"], follows="rows"),
    Trial(can.iterate, trial_id="iterate, traced", rows=rows(skip=NOTHING), reference=rows(KNOWN), prior=prior(),
          trace=flag(True), follows="rows"),
    Trial(can.iterate, trial_id="iterate, traced by halves", rows=rows(skip=NOTHING), reference=rows(KNOWN), prior=prior(), trace=fixed("half"),
          follows="rows"),
    Trial(can.alternating_normalization, probabilities=rows(skip=NOTHING), prior=prior(), reference=optional(rows(KNOWN)), **SETTINGS, **MORE,
          identity=flag(False), follows="probabilities"),
    Trial(can.binary_threshold, reference=rows(KNOWN[:, :2] / KNOWN[:, :2].sum(1, keepdims=True)), prior=prior(np.array([0.3, 0.7])), alpha=SETTINGS["alpha"]),
    Trial(can.tune, slow=0.3, probabilities=rows(), labels=array(LABELS, low=0, high=2), prior=prior(), reference=optional(rows(KNOWN)),
          thresholds=grid(np.array([0.5, 0.8]), low=0, high=1), alphas=grid(np.array([0.5, 1.0]), low=0), depths=grid(np.array([0, 2]), low=0), **MORE,
          seed=SETTINGS["seed"]),
    Trial(estimated, public="AlternatingNormalizer", slow=0.5, X=array(ROWS, low=0, high=1), y=optional(CLASSES), **SETTINGS, **MORE,
          prior=optional(prior()), identity=flag(False)),
    Trial(transformed, public="AlternatingNormalizer", trial_id="AlternatingNormalizer.transform", X=rows(skip=NOTHING)),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(can, TRIALS) == set()
