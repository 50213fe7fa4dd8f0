"""Page 02's appendix: AdaCache beside every cache that diffusers ships, on the model that all of them can serve.

Eight prompts, two of each of four kinds, and for each method the two knobs of `caches.METHODS` between which it does about twelve full calls' work.
"""

from functools import lru_cache

import numpy as np
import pandas as pd

from ..arguments import real
from ..measures import caches, metrics, statistics
from ..recipes import toy_latte
from . import caching_calibration as calibration
from .runner import Study, has_columns, known

__all__ = ["HOLD", "KNOBS", "LINE", "STUDY", "against"]

MODEL = "toy-cogvideox"
KINDS = ("still", "slow", "fast", "camera")
KNOBS = {
    "fewer steps": (14.0, 10.0), "uniform caching": (14.0, 10.0), "AdaCache": (14.0, 10.0), "AdaCache + MoReg": (12.0, 8.0), "FirstBlockCache": (0.1, 0.2),
    "MagCache": (0.05, 0.15), "SeaCache, hold": (0.2, 0.35), "uniform caching, linear": (14.0, 10.0), "AdaCache, linear clock": (14.0, 10.0),
    "SeaCache": (0.2, 0.35), "TaylorSeer lite": (2.0, 3.0),
}  # fmt: skip
HOLD = ("AdaCache", "uniform caching", "AdaCache + MoReg", "FirstBlockCache", "MagCache", "SeaCache, hold")
LINE = ("AdaCache", "uniform caching, linear", "AdaCache, linear clock", "SeaCache", "TaylorSeer lite", "fewer steps")
CAP = 60.0  # dB


def prompts() -> list[tuple[str, str]]:
    """(kind, prompt); none of them calibrates anything."""
    known = {*calibration.prompts(), *calibrating()}
    return [(kind, prompt) for kind in KINDS for prompt in [p for p in toy_latte.prompts(kind, 12, seed=22) if p not in known][:2]]


def calibrating() -> list[str]:
    return [prompt for kind in KINDS for prompt in toy_latte.prompts(kind, 2, seed=calibration.CALIBRATION_SEED)]


@lru_cache
def bench() -> caches.Bench:
    here = caches.load(MODEL)
    caches.calibrate(here, calibrating())
    return here


@lru_cache(maxsize=2)
def uncached(prompt: str, seed: int):
    return bench().sample(prompt, seed)


def cases() -> list[dict]:
    return [
        dict(kind=kind, prompt=prompt, seed=seed, method=method, knob=knob)
        for seed, (kind, prompt) in enumerate(prompts())
        for method, knobs in KNOBS.items()
        for knob in knobs
    ]


def measure(case: dict) -> dict:
    """work: operations of the clip in full calls of the transformer, of 30. psnr (dB): to the uncached clip, at most CAP."""
    here, method = bench(), caches.METHODS[case["method"]]
    knob = int(case["knob"]) if case["knob"] >= 1 else case["knob"]
    run = caches.measure(here, method, knob, case["prompt"], case["seed"])
    return dict(work=run.computed_calls, psnr=min(CAP, metrics.psnr(uncached(case["prompt"], case["seed"]), run.clip)))


STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={"work": (0.02, 1e-3), "psnr": 0.05},
    models=("toy-latte", MODEL),
    reaches=(caches.METHODS,),
    sample_seconds=0,  # one case: what the cases share takes longer than they do
)


def at_work(table: pd.DataFrame, method: str, work: float) -> np.ndarray:
    """(prompts,) PSNR of a method where its mean work is exactly `work`: every clip counts with one mix of its two knobs. NaN out of their reach."""
    has_columns(table, ("method", "prompt", "knob", "work", "psnr"))
    known("method", method, table.method)
    work = real("work", work)
    rows = table[table.method == method].sort_values("prompt")
    grids = sorted(((g.work.mean(), g.psnr.to_numpy()) for _, g in rows.groupby("knob")), key=lambda g: g[0])
    (low, first), (high, second) = grids
    share = (work - low) / (high - low)
    return (1 - share) * first + share * second if 0 <= share <= 1 else np.full(len(first), np.nan)


def against(table: pd.DataFrame, method: str, work: float, rival: str = "AdaCache") -> statistics.Estimate | None:
    """PSNR of a method less that of its rival at the same mean work, paired by prompt; None where one of them does not reach that work."""
    known("rival", rival, has_columns(table, ("method",)).method)
    a, b = at_work(table, method, work), at_work(table, rival, work)
    return None if np.isnan(a).any() or np.isnan(b).any() else statistics.paired(a, b, of="prompts")
