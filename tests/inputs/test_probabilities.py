"""Odd and wrong inputs for the peers of alternating normalization."""

import numpy as np
import pytest

from helpers.measures import probabilities as peers
from tests.inputs.harness import Trial, array, check, coverage, integer, optional, real

RNG = np.random.default_rng(0)
ROWS, KNOWN = (np.exp(RNG.normal(size=(n, 3)) + 2 * np.eye(3)[np.arange(n) % 3]) for n in (12, 15))
ROWS, KNOWN = ROWS / ROWS.sum(1, keepdims=True), KNOWN / KNOWN.sum(1, keepdims=True)


def rows(value=ROWS, free=(0,)):
    return array(value, low=0, high=1, free=free, grow=free)


def by_class(low=0, **options):
    return array(np.array([0.2, 0.3, 0.5]), low=low, wrong=([0.2], {"cat": 0.2, "dog": 0.3, "fox": 0.5}), either=({0: 0.2, 1: 0.3, 2: 0.5},), **options)


LABELS, T = array(np.arange(12) % 3, low=0, high=2), real(0.7, low=0, above=True)
TRIALS = [
    Trial(peers.prior_correction, probabilities=rows(), prior=by_class(), mean=optional(by_class())),
    Trial(peers.fit_temperature, slow=0.3, probabilities=rows(free=()), labels=LABELS),
    Trial(peers.with_temperature, probabilities=rows(), temperature=T),
    Trial(peers.fit_bias, slow=0.3, probabilities=rows(free=()), labels=LABELS),
    Trial(peers.with_bias, probabilities=rows(), temperature=T, bias=by_class(low=None)),
    Trial(peers.sinkhorn, slow=0.3, probabilities=rows(), prior=by_class()),
    Trial(peers.label_shift_em, probabilities=rows(), training_prior=by_class(), steps=integer(3, low=0)),
    Trial(peers.estimate_prior, probabilities=rows(), validation=rows(KNOWN[:12], free=()), labels=LABELS),
]


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(peers, TRIALS) == set()
