"""Page 02's appendix: the methods it shows, and the mix that makes two of them do the same work."""

import pandas as pd
import pytest

from helpers.measures import caches
from helpers.studies import all_caches as study
from helpers.studies import caching_calibration as calibration


def test_every_method_serves_the_model_and_a_figure_shows_six_at_most():
    assert {m.name for m in caches.methods_for(study.MODEL)} >= set(study.KNOBS) == {*study.HOLD, *study.LINE}
    assert max(len(study.HOLD), len(study.LINE)) <= 6
    for method, knobs in study.KNOBS.items():
        assert set(knobs) <= set(caches.METHODS[method].values[study.MODEL])


def test_nothing_is_judged_on_what_calibrated_it():
    judged = [prompt for _, prompt in study.prompts()]
    assert len(set(judged)) == 8 and not set(judged) & {*calibration.prompts(), *study.calibrating()}
    assert len(study.cases()) == 8 * sum(map(len, study.KNOBS.values()))


def test_equal_work_is_a_mix_of_both_knobs():
    rows = [
        dict(method=m, prompt=p, knob=k, work=w + i, psnr=level + w + i)
        for m, level in (("AdaCache", 20), ("MagCache", 23)) for k, w in ((1.0, 10), (2.0, 14)) for i, p in enumerate("abcdefgh")
    ]  # fmt: skip
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)
    assert study.at_work(table, "AdaCache", 14.5) == pytest.approx([20 + 11 + i for i in range(8)])  # mean work 13.5 to 17.5: a quarter of the way
    found = study.against(table, "MagCache", 15.0)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3)) and found.n == 8
    assert study.against(table, "MagCache", 9.0) is None
