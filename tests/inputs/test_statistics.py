"""Odd and wrong inputs for every public function of statistics."""

import numpy as np
import pytest

from helpers.measures import statistics
from tests.inputs.harness import Trial, array, check, coverage, flag, function, optional, real, text

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 9))
TABLE = RNG.normal(size=(9, 3))
UNITS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4])
XS = np.array([1.0, 2.0, 4.0])

# booleans are lawful values: a share is a mean of them; counts and bytes are numbers as well
values = dict(masks=True, free=(0,), grow=(0,))
one = lambda x, **more: array(x, masks=True, **more)  # noqa: E731
both = dict(of=text("prompts"), names={"a": ("b",), "b": ("a",)})
some = lambda: array(UNITS, masks=True, skip=["texts"], either=[list("aabbccdde"), UNITS.astype(str), UNITS + 0.5])  # names are lawful  # noqa: E731

# booleans of nine units are all True, and numbers of no variance, which some refuse under the name of either
TRIALS = [
    Trial(statistics.interval, values=array(A, **values), of=text("prompts"), statistic=function(np.median)),
    Trial(statistics.interval, values=one(TABLE, free=(1,), grow=(1,), broadcast=True), units=optional(some()), of=text("prompts"), trial_id="interval by unit",
          names={"values": ("units",), "units": ("values",)}),
    Trial(statistics.paired, a=one(A, broadcast=False), b=one(B), units=optional(some()), **both),
    Trial(statistics.ratio, a=one(A + 9), b=one(B + 9), **both),
    Trial(statistics.share, hits=array(np.array([True, False, True, True]), masks=True, free=(0,), grow=(0,), wrong=[[0, 2], [0.5, 1]]), of=text("prompts")),
    Trial(statistics.correlation, a=one(A), b=one(B), **both),
    Trial(statistics.slope, a=one(A), b=one(B), slow=0.2, **both),
    Trial(statistics.between_share, table=one(TABLE, free=(0, 1), grow=(0, 1)), of=text("prompts")),
    Trial(statistics.crossing, xs=array(XS), a=one(TABLE - [3, 0, -3]), b=one(TABLE[:, ::-1].copy() / 9), of=text("prompts"),
          names={"a": ("b", "xs"), "b": ("a", "xs"), "xs": ("a", "b")}, slow=0.5),
    Trial(statistics.plateau, xs=array(XS, finite=False, skip=["texts"], wrong=[[1, 1, 2], [1, float("nan"), 2], {1, 2, 3}], either=["abc", ["a", "b", "c"]]),
          table=one(TABLE, free=(0,), grow=(0,)), lower_is_better=flag(False), of=text("prompts"), names={"xs": ("table",), "table": ("xs",)}, slow=0.5),
    Trial(lambda smallest: statistics.Estimate(1.0, 0.5, 1.5, 9, 0.1, "").says(smallest), smallest=real(0.2, low=0), trial_id="Estimate.says"),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(statistics, TRIALS) == {"of_means"}  # tried with the measures of mixing
