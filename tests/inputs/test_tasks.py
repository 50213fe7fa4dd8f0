"""Odd and wrong inputs for the bench of tasks."""

import pytest

from helpers.datasets import tasks
from tests.inputs.harness import Trial, check, choice, coverage, integer

SMALL = dict(train=3, validation=2, test=2, size=32)


def few(**options):
    return tasks.load("digits", **SMALL | {"train": 60}).train.few(**options)


TRIALS = [
    Trial(tasks.load, trial_id="load, drawn", slow=0.3, name=choice("shape in noise"), train=integer(3, low=1, high=10**7),
          validation=integer(2, low=1, high=10**7), test=integer(2, low=1, high=10**7), seed=integer(3, low=0, high=10**11), size=integer(32, low=32)),
    Trial(lambda **options: tasks.load("digits", **options), public="load", trial_id="load, digits", slow=0.3, train=integer(3, low=1, high=1078),
          validation=integer(2, low=1, high=360), test=integer(2, low=1, high=359), seed=integer(3, low=0, high=10**11)),
    Trial(lambda **options: tasks.load("mnist", **options), public="load", trial_id="load, mnist", slow=0.3, train=integer(3, low=1, high=3000),
          validation=integer(2, low=1, high=1000), test=integer(2, low=1, high=1000), seed=integer(3, low=0, high=10**11), size=integer(32, low=32)),
    Trial(lambda **options: tasks.load("grey surfaces", **options), public="load", trial_id="load, patches", slow=0.3, train=integer(3, low=1, high=10**7),
          validation=integer(2, low=1, high=10**7), test=integer(2, low=1, high=10**7), seed=integer(3, low=0, high=10**11), size=integer(32, low=32)),
    Trial(few, public="Pictures", trial_id="Pictures.few", slow=0.3, per_class=integer(2, low=1, high=30), seed=integer(1, low=0)),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(tasks, TRIALS) == set()
