"""Page 01: one budget of computed calls, spent by AdaCache and by four rivals, on two models.

48 prompts (eight of each of six kinds, as different as the models can draw) and 8 seeds of each, 4 on toy-cogvideox; every method makes the same clip
from the same noise, and is compared with the clip of all 30 calls. Codebooks and fixed schedules come from the twelve clips of `caching_calibration`.
"""

import time
from functools import lru_cache

import numpy as np
import pandas as pd

from ..arguments import real
from ..measures import caches, metrics
from ..methods import caching_schedules as ada
from ..recipes import toy_latte
from ..toyworld import analysers
from . import caching_calibration as calibration
from .runner import Study, has_columns, known

__all__ = ["STUDY", "at_cost"]

PROMPTS, TEST_SEED = 8, 12  # prompts of each kind, seed of the toy world
SEEDS = {"toy-latte": 8, "toy-cogvideox": 4}
BUDGETS = {  # computed calls of 30; AdaCache's stand around the others'
    "toy-latte": calibration.BUDGETS["toy-latte"] | {"fewer steps": (8.0, 10.0, 12.0), "uniform caching": (8.0, 10.0, 12.0), "oracle": (12.0,)},
    "toy-cogvideox": calibration.BUDGETS["toy-cogvideox"] | {"fewer steps": (12.0,), "uniform caching": (12.0,), "oracle": (12.0,)},
}


def prompts(kind: str) -> list[str]:
    """Eight prompts of a kind that calibrated nothing."""
    others = [prompt for prompt in toy_latte.prompts(kind, 3 * PROMPTS, seed=TEST_SEED) if prompt not in calibration.prompts()]
    return others[:PROMPTS]


@lru_cache(maxsize=2)
def recorded(model: str, prompt: str, seed: int) -> calibration.Recorded:
    return calibration.record(model, prompt, seed)


def options(case: dict, num_calls: int) -> dict:
    """The arguments of `apply_adacache` for a case."""
    model, method, budget = case["model"], case["method"], case["budget"]
    if method in calibration.ADAPTIVE:
        last = calibration.adacache_options(method, budget)["last"]
        return dict(codebook=calibration.codebook(model, method, budget), num_calls=num_calls, last=last)
    calls = {
        "uniform caching": lambda: ada.uniform_calls(num_calls, budget=int(budget)),
        "best fixed schedule": lambda: calibration.fixed_calls(model, budget),
        "oracle": lambda: ada.oracle_calls(recorded(model, case["prompt"], case["seed"]).prices, int(budget)),
    }
    return dict(clock=ada.FixedClock(calls[method](), num_calls))


def cases() -> list[dict]:
    by_kind = {kind: prompts(kind) for kind in calibration.KINDS}
    return [
        dict(model=model, kind=kind, prompt=prompt, seed=seed, method=method, budget=budget)
        for seed in range(max(SEEDS.values()))
        for model, methods in BUDGETS.items()
        if seed < SEEDS[model]
        for kind, these in by_kind.items()
        for prompt in these
        for method, budgets in ({"uncached": (30.0,)} | methods).items()
        for budget in budgets
    ]


def measure(case: dict) -> dict:
    """calls: computed ones. psnr (dB), ssim: to the uncached clip. right: 1 when everything that the prompt says is right. cpu: processor seconds of
    the denoising loop. probe_change, true_change: of an uncached clip, mean relative change from call to call in the middle half of the calls."""
    here, seed = calibration.bench(case["model"]), case["seed"]
    found = recorded(case["model"], case["prompt"], seed)
    row = dict(calls=int(case["budget"]), psnr=np.nan, ssim=np.nan, right=np.nan, cpu=np.nan, probe_change=np.nan, true_change=np.nan)
    if case["method"] == "uncached":
        clip, middle = found.clip, slice(here.num_calls // 4, 3 * here.num_calls // 4)
        row |= {name: float(np.diagonal(m, 1)[middle].mean()) for name, m in (("probe_change", found.changes), ("true_change", found.true_changes))}
    else:
        fewer = case["method"] == "fewer steps"
        text, given = here.encode(case["prompt"]), {} if fewer else options(case, here.num_calls)
        started = time.process_time()
        if fewer:
            with caches.fewer_steps(here, int(case["budget"])):
                latents = here.denoise(text, seed)
        else:
            with ada.apply_adacache(here.transformer, **given) as handle:
                latents = here.denoise(text, seed)
            row["calls"] = len(handle.last.computed)
        row["cpu"] = time.process_time() - started
        clip = here.decode(latents)
        row |= dict(psnr=metrics.psnr(found.clip, clip), ssim=metrics.ssim(found.clip, clip))
    return row | dict(right=float(analysers.judge(clip[None], [case["prompt"]]).all[0]))


STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={"calls": 0, "psnr": 0.05, "ssim": 0.002, "right": 0, "cpu": None, "probe_change": (0, 1e-3), "true_change": (0, 1e-3)},
    models=("toy-latte", "toy-cogvideox"),
    files=("studies/caching_calibration.csv",),
    sample_seconds=3,
)


def at_cost(table: pd.DataFrame, method: str, cost: float, column: str = "psnr", *, model: str = "toy-latte", by: str = "calls") -> np.ndarray:
    """A column of a method at a mean cost, as (prompts, seeds), prompts in alphabetical order.

    Between two recorded budgets each clip counts with a mix of both, in the proportion that makes the mean of column `by` exactly `cost`: what a coin
    tossed for every clip gives on average. Raises ValueError for a method without rows, budgets of other clips than its others, a column that the table
    does not have, and a cost outside of what was recorded.
    """
    has_columns(table, (column, by, "model", "method", "prompt", "seed", "budget"))
    known("model", model, table.model)
    cost = real("cost", cost)
    if not isinstance(method, str):
        raise TypeError(f"method must be the name of a method, got {method!r}")
    rows = table[(table.model == model) & (table.method == method)]
    if rows.empty:
        raise ValueError(f"method {method!r} has no rows for {model!r}; there are {', '.join(table[table.model == model].method.unique())}")

    clips = rows[["prompt", "seed"]].drop_duplicates()
    counts = rows.groupby("budget").size()
    if rows.duplicated(["budget", "prompt", "seed"]).any() or set(counts) != {clips.prompt.nunique() * clips.seed.nunique()} or rows[by].isna().any():
        raise ValueError(f"every budget of {method!r} must have each prompt with each seed once and a number in {by!r}, it has {counts.to_dict()} rows")

    def grid(budget: float, name: str) -> np.ndarray:
        return rows[rows.budget == budget].pivot(index="prompt", columns="seed", values=name).to_numpy(float)

    spent = sorted((grid(budget, by).mean(), budget) for budget in rows.budget.unique())
    # a mean that was summed in another order is the recorded one all the same
    cost = next((end for end in (spent[0][0], spent[-1][0]) if np.isclose(cost, end, rtol=1e-9, atol=0)), cost)
    below, above = [s for s in spent if s[0] <= cost], [s for s in spent if s[0] >= cost]
    if not below or not above:
        raise ValueError(f"cost must lie in what {method} spent in column {by!r}, {spent[0][0]:.4g} to {spent[-1][0]:.4g}, got {cost}")
    (low, first), (high, second) = below[-1], above[0]
    share = (cost - low) / (high - low) if high > low else 0.0
    return (1 - share) * grid(first, column) + share * grid(second, column)
