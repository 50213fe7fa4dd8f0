"""Page 01: what is set before anything is judged. AdaCache's codebooks and the best fixed schedules, from twelve uncached clips of each model.

Codebooks are calibrated along the recorded clips (open loop). A cached run leaves the recorded path and may compute a quarter of a call fewer; so
AdaCache gets two codebooks around the budget that decides, and a mix of both costs exactly what its rivals cost.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from ..measures import caches
from ..methods import caching_schedules as ada
from ..recipes import toy_latte
from .runner import TABLES, Study

__all__ = ["KINDS", "STUDY", "codebook", "fixed_calls"]

KINDS = ("still", "slow", "fast", "growing", "camera", "two objects")
ADAPTIVE = ("AdaCache", "AdaCache, narrow rates")
BUDGETS = {  # computed calls of 30
    "toy-latte": {"AdaCache": (8.0, 10.0, 11.5, 12.5), "AdaCache, narrow rates": (11.5, 12.5), "best fixed schedule": (8.0, 10.0, 12.0)},
    "toy-cogvideox": {"AdaCache": (11.5, 12.5), "AdaCache, narrow rates": (11.5, 12.5), "best fixed schedule": (12.0,)},
}
CALIBRATION_SEED, FIRST_NOISE = 11, 1000  # of the prompts, of the clips


class Recorded(NamedTuple):
    """An uncached clip. clip: (T, 3, H, W) in [0, 1]; probes: one tensor a call; changes, true_changes: [N, N] relative L1 changes of the probe and
    of what all blocks add; prices: [N, N], the L1 norms of the latter."""

    clip: Tensor
    probes: tuple[Tensor, ...]
    changes: np.ndarray
    true_changes: np.ndarray
    prices: np.ndarray


@lru_cache
def bench(model: str) -> caches.Bench:
    return caches.load(model)


def record(model: str, prompt: str, seed: int) -> Recorded:
    """The clip of all calls, and what its run tells about every possible schedule."""
    here = bench(model)
    with ada.apply_adacache(here.transformer, ada.Codebook((), (1,)), here.num_calls, record=True) as handle:
        clip = here.decode(here.denoise(here.encode(prompt), seed))
    run = handle.last
    true = [ada.pairwise_distances(run.residuals, relative=relative) for relative in (True, False)]
    return Recorded(clip, run.probes, ada.pairwise_distances(run.probes), *true)


def prompts() -> list[str]:
    """Two of each kind."""
    return [prompt for kind in KINDS for prompt in toy_latte.prompts(kind, 2, seed=CALIBRATION_SEED)]


@lru_cache
def recordings(model: str) -> tuple[Recorded, ...]:
    return tuple(record(model, prompt, FIRST_NOISE + i) for i, prompt in enumerate(prompts()))


def adacache_options(method: str, budget: float, num_calls: int = 30) -> dict:
    """Rates and forced last calls. As published: rates 6 to 1, two calls. Narrow: rates around the mean gap, one call, so that fewer calls are
    spent before anything was measured."""
    if method == "AdaCache":
        return dict(rates=ada.FAST_30.rates, last=2)
    gap = num_calls / budget
    return dict(rates=tuple(range(int(np.ceil(gap)) + 1, max(1, int(gap) - 1) - 1, -1)), last=1)


def cases() -> list[dict]:
    return [dict(model=model, method=method, budget=budget) for model, methods in BUDGETS.items() for method, budgets in methods.items() for budget in budgets]


def measure(case: dict) -> dict:
    """calls: mean number of computed calls along the recorded clips. threshold_1 ...: of the codebook; call_1 ...: of the fixed schedule."""
    method, budget, runs = case["method"], case["budget"], recordings(case["model"])
    row = dict(calls=budget) | {f"threshold_{i}": np.nan for i in range(1, 6)} | {f"call_{i}": np.nan for i in range(1, 13)}
    if method == "best fixed schedule":
        plan = ada.best_fixed_calls([run.prices for run in runs], int(budget))
        return row | {f"call_{i}": float(call) for i, call in enumerate(plan, 1)}
    options = adacache_options(method, budget)
    book = ada.calibrate([run.probes for run in runs], len(runs[0].probes), budget, **options)
    predicted = [len(ada.replay_calls(run.probes, ada.CachingClock(book, len(run.probes), last=options["last"]))) for run in runs]
    return row | dict(calls=float(np.mean(predicted))) | {f"threshold_{i}": threshold for i, threshold in enumerate(book.thresholds, 1)}


def table() -> pd.DataFrame:
    return pd.read_csv(TABLES / "caching_calibration.csv")


@lru_cache
def row_of(model: str, method: str, budget: float) -> dict:
    found = table().query("model == @model and method == @method and budget == @budget")
    if found.empty:
        raise ValueError(f"model, method and budget must be those of a recorded row, got {model!r}, {method!r} and {budget!r}")
    return found.iloc[0].to_dict()


def codebook(model: str, method: str, budget: float) -> ada.Codebook:
    """The recorded codebook of an adaptive method."""
    rates = adacache_options(method, budget)["rates"]
    return ada.Codebook([row_of(model, method, budget)[f"threshold_{i}"] for i in range(1, len(rates))], rates)


def fixed_calls(model: str, budget: float) -> list[int]:
    """The recorded best fixed schedule: computed calls from 1 to 30."""
    found = row_of(model, "best fixed schedule", budget)
    return [int(found[f"call_{i}"]) for i in range(1, int(budget) + 1)]


STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={"calls": 0} | {f"threshold_{i}": (0, 1e-3) for i in range(1, 6)} | {f"call_{i}": 0 for i in range(1, 13)},
    models=("toy-latte", "toy-cogvideox"),
    sample_seconds=0,  # one case: what the cases share takes longer than they do
)
