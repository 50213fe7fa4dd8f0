"""Every recorded study stands: measured by this code with these models, its cases those that it lists, and a sample, measured again, agrees.

Of a study whose models are not kept there is no sample.
"""

import pytest

from helpers.studies import runner


@pytest.mark.parametrize("name", runner.names())
def test_study_stands_and_a_sample_measured_again_agrees(name):
    if trouble := runner.problem(name):
        pytest.fail(trouble, pytrace=False)
    if gone := runner.unkept(name):
        pytest.skip(gone)
    assert runner.check_sample(name) == []
