"""AdaCache (Kahatapitiya et al. 2024, arXiv 2411.02397): how many denoiser calls does this particular video need?

`schedules` decides which calls are computed, and needs torch and numpy only; `attach` puts such a schedule on a diffusers
transformer. Names of both are found here. Copy this folder, under any name, and it works.
"""

from typing import TYPE_CHECKING, Any

from .schedules import (
    FAST_30,
    FAST_100,
    SLOW_30,
    CachingClock,
    Codebook,
    FixedClock,
    best_fixed_calls,
    calibrate,
    distance,
    oracle_calls,
    pairwise_distances,
    predict_calls,
    replay_calls,
    uniform_calls,
)

if TYPE_CHECKING:
    from .attach import apply_adacache

__all__ = [
    "FAST_30", "FAST_100", "SLOW_30", "CachingClock", "Codebook", "FixedClock", "apply_adacache", "best_fixed_calls", "calibrate", "distance",
    "oracle_calls", "pairwise_distances", "predict_calls", "replay_calls", "uniform_calls",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "apply_adacache":  # needs diffusers: imported when first asked for
        from .attach import apply_adacache

        return apply_adacache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
