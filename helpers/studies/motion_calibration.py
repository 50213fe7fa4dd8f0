"""Page 02: what is set before anything is judged. The pivots of MoReg's variants and the codebooks beside them, from page 01's twelve uncached clips.

Every variant is set, along the recorded clips (open loop), to compute EXTRA times as many calls as AdaCache does with the same codebook: the paper's own
extra cost for Latte. So variants differ in which calls they compute, not in how many.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ..methods import caching_schedules as ada
from ..methods import motion_regularization as moreg
from . import caching_calibration as calibration
from .runner import TABLES, Study

__all__ = ["BASE", "STUDY", "VARIANTS", "layout", "setting"]

BASE = 11.5  # calls that AdaCache computes without MoReg, by prediction; its codebook is page 01's
EXTRA = 17.3 / 14.7  # table 1 of the paper, Latte: computed calls with MoReg over those without, inferred from its FLOPs
FIRST = 6  # calls that "first calls too" always computes
PLAIN = {"toy-latte": (14.0, 20.0), "toy-cogvideox": (14.0,)}  # further codebooks of AdaCache, for equal costs
VARIANTS = {  # options of MotionRegulariser; "median" and "paper" get a codebook of their own, the others a pivot
    "MoReg": {},
    "without gradient": dict(mograd_mul=0),
    "strides 1 and 2": dict(strides=(1, 2)),
    "power 2": dict(power=2),
    "window: all calls": dict(window=None),
    "window: 10 to 20": dict(window=(10, 20)),
    "first calls too": {},
    "median pivot": {},
    "paper's formula": dict(form="paper", mean=True, window=None),
}
OWN_CODEBOOK = ("median pivot", "paper's formula")
METHODS = {"toy-latte": tuple(VARIANTS), "toy-cogvideox": ("MoReg",)}


class FirstCalls:
    """A regulariser that has the first `until` calls computed, and leaves the others to another one."""

    def __init__(self, inner: moreg.MotionRegulariser, until: int = FIRST) -> None:
        self.inner, self.until = inner, until

    def factor(self, probe: Tensor, call: int, rate: int) -> float:
        found = self.inner.factor(probe, call, rate)
        return 1e9 if call < self.until else found

    def reset(self) -> None:
        self.inner.reset()


@lru_cache
def layout(model: str) -> moreg.Layout:
    here = calibration.bench(model)
    _, frames, height, width = here.latent_shape
    return moreg.layout_of(here.transformer, num_frames=frames, height=height, width=width)


def regulariser(model: str, variant: str, pivot: float) -> Any:
    """A fresh regulariser of a variant; `pivot` is left out where the formula has none."""
    options = dict(window=moreg.WINDOW_30) | VARIANTS[variant]
    pivoted = {} if options.get("form") == "paper" else dict(pivot=pivot)
    found = moreg.MotionRegulariser(layout(model), **pivoted, **options)
    return FirstCalls(found) if variant == "first calls too" else found


def calls_of(runs: list, book: ada.Codebook, make: Callable[[], Any]) -> float:
    """Mean number of calls that a codebook with a regulariser computes along recorded runs."""
    return float(np.mean([len(ada.replay_calls(probes, ada.CachingClock(book, len(probes), regulariser=make()))) for probes in runs]))


def find_pivot(model: str, variant: str, runs: list, book: ada.Codebook, target: float) -> float:
    """The pivot with which the runs cost `target` calls on average; a larger pivot, fewer calls."""
    low, high = 0.01, 1.0
    for _ in range(20):
        middle = (low * high) ** 0.5
        spent = calls_of(runs, book, lambda at=middle: regulariser(model, variant, at))
        low, high = (middle, high) if spent > target else (low, middle)
    return middle


def median_score(model: str, runs: list) -> float:
    """The median over clips of the mean score of the calls inside the official window: half of the clips count as moving."""
    first, last = moreg.WINDOW_30
    scores = [[float(moreg.motion_score(moreg.split_frames(p, layout(model)))) for p in probes[first - 1 : last]] for probes in runs]
    return float(np.median(np.mean(scores, axis=1)))


def cases() -> list[dict]:
    plain = [dict(model=model, method="AdaCache", budget=budget) for model, budgets in PLAIN.items() for budget in budgets]
    return plain + [dict(model=model, method=variant, budget=round(BASE * EXTRA, 2)) for model, names in METHODS.items() for variant in names]


def measure(case: dict) -> dict:
    """pivot: of the variant, NaN where it has none. threshold_1 ...: of its codebook. calls: mean number of computed calls along the recorded clips."""
    model, method, budget = case["model"], case["method"], case["budget"]
    runs, pivot = [run.probes for run in calibration.recordings(model)], np.nan
    if method == "AdaCache":
        book = ada.calibrate(runs, len(runs[0]), budget)
        calls = calls_of(runs, book, lambda: None)
    elif method in OWN_CODEBOOK:
        pivot = np.nan if method == "paper's formula" else median_score(model, runs)
        book = ada.calibrate(runs, len(runs[0]), budget, regulariser=regulariser(model, method, pivot))
        calls = calls_of(runs, book, lambda: regulariser(model, method, pivot))
    else:
        book = calibration.codebook(model, "AdaCache", BASE)
        pivot = find_pivot(model, method, runs, book, budget)
        calls = calls_of(runs, book, lambda: regulariser(model, method, pivot))
    return dict(pivot=pivot, calls=calls) | {f"threshold_{i}": threshold for i, threshold in enumerate(book.thresholds, 1)}


def table() -> pd.DataFrame:
    return pd.read_csv(TABLES / "motion_calibration.csv")


@lru_cache
def setting(model: str, method: str, budget: float = round(BASE * EXTRA, 2)) -> tuple[ada.Codebook, Any]:
    """(codebook, regulariser or None) of a method as recorded; AdaCache's codebooks of 11.5 and 12.5 calls are page 01's."""
    if method == "AdaCache" and budget in (11.5, 12.5):
        return calibration.codebook(model, method, budget), None
    rows = table().query("model == @model and method == @method and budget == @budget")
    if rows.empty:
        raise ValueError(f"model, method and budget must be those of a recorded row, got {model!r}, {method!r} and {budget!r}")
    row = rows.iloc[0]
    book = ada.Codebook([row[f"threshold_{i}"] for i in range(1, 6)], ada.FAST_30.rates)
    return book, None if method == "AdaCache" else regulariser(model, method, float(row.pivot))


STUDY = Study(
    cases=cases,
    measure=measure,
    tolerance={"pivot": (0, 1e-3), "calls": 0} | {f"threshold_{i}": (0, 1e-3) for i in range(1, 6)},
    models=("toy-latte", "toy-cogvideox"),
    files=("studies/caching_calibration.csv",),
    sample_seconds=0,  # one case: what the cases share takes longer than they do
)
