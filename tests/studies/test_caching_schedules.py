"""Page 01's studies: cases, plans, and the mix of two settings that makes two methods cost the same."""

import numpy as np
import pandas as pd
import pytest

from helpers.studies import caching_calibration as calibration
from helpers.studies import caching_schedules as study


def test_cases_hold_48_prompts_that_calibrated_nothing():
    cases = pd.DataFrame(study.cases())
    assert cases.groupby("model").prompt.nunique().tolist() == [48, 48] and not set(cases.prompt) & set(calibration.prompts())
    assert cases.groupby("kind").prompt.nunique().tolist() == [8] * 6
    assert cases.groupby("model").seed.nunique().to_dict() == study.SEEDS
    per_clip = cases.groupby(["model", "prompt", "seed"]).size()
    assert per_clip.groupby("model").nunique().tolist() == [1, 1]


def test_every_plan_costs_what_its_budget_says():
    for model, methods in study.BUDGETS.items():
        for budget in methods["best fixed schedule"]:
            calls = calibration.fixed_calls(model, budget)
            assert len(calls) == budget and calls == sorted(set(calls)) and calls[0] == 1 and calls[-2:] == [29, 30]
        for method in calibration.ADAPTIVE:
            low, high = (calibration.codebook(model, method, b) for b in (11.5, 12.5))
            assert all(a > b for a, b in zip(low.thresholds, high.thresholds, strict=True))  # larger thresholds, fewer calls
    given = study.options(dict(model="toy-latte", method="AdaCache, narrow rates", budget=11.5, prompt="", seed=0), 30)
    assert given["codebook"].rates == (4, 3, 2, 1) and given["last"] == 1


def tiny():
    rows = [
        dict(model="m", prompt=p, seed=s, method="a", budget=b, calls=b + s, psnr=10 * b + i + s / 4)
        for b in (2.0, 4.0, 9.0) for i, p in enumerate("xyz") for s in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_a_mix_costs_exactly_what_was_asked():
    table = tiny()
    for cost in (2.5, 3.1, 4.5, 7.0, 9.5):
        assert study.at_cost(table, "a", cost, "calls", model="m").mean() == pytest.approx(cost)
    assert study.at_cost(table, "a", 4.5, model="m") == pytest.approx(np.array([[40, 40.25], [41, 41.25], [42, 42.25]]))
    assert study.at_cost(table, "a", 3.5, model="m") == pytest.approx(np.array([[30, 30.25], [31, 31.25], [32, 32.25]]))


def test_the_last_recorded_cost_may_be_rounded_in_another_way():
    table = tiny()
    for end in (2.5, 9.5):
        found = [study.at_cost(table, "a", end * (1 + rounding), model="m") for rounding in (-1e-15, 0, 1e-15)]
        assert found[0] == pytest.approx(found[1]) and found[2] == pytest.approx(found[1])


def test_costs_that_nobody_spent_are_refused():
    with pytest.raises(ValueError, match="cost must lie in .* 2.5 to 9.5, got 10"):
        study.at_cost(tiny(), "a", 10, model="m")
    with pytest.raises(ValueError, match="method 'b' has no rows for 'm'; there are a"):
        study.at_cost(tiny(), "b", 3, model="m")


def test_what_cannot_be_mixed_clip_by_clip_is_refused():
    table = tiny()
    one_seed = table[(table.budget < 9) | (table.seed == 0)]  # numpy would count its clips for both seeds
    one_less = table.drop(table[(table.budget == 4) & (table.seed == 1) & (table.prompt == "y")].index)
    for wrong in (one_seed, one_less, pd.concat([table, table]), table.assign(calls=table.calls.where(table.budget != 4))):
        with pytest.raises(ValueError, match="every budget of 'a' must have each prompt with each seed once and a number in 'calls'"):
            study.at_cost(wrong, "a", 5.5, model="m")
    with pytest.raises(ValueError, match="the table has no column nothing; there are .*psnr"):
        study.at_cost(table, "a", 5.5, "nothing", model="m")
