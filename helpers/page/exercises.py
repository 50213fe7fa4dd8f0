"""Checks for a page's exercises: they take the reader's function, try it, and explain the first mistake.

An unsolved exercise returns `...` (its unfinished body); a check of one prints a line and lets the page run on.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch


def same(got, expected, tolerance: float = 1e-6) -> bool:
    """Equal, or numerically close: numbers, sequences, arrays and tensors of one shape."""
    got = got.item() if isinstance(got, np.generic) else got
    if isinstance(expected, torch.Tensor | np.ndarray | float) or isinstance(expected, Sequence) and not isinstance(expected, str):
        try:
            a, b = (np.asarray(v.detach() if isinstance(v, torch.Tensor) else v, dtype=float) for v in (got, expected))
        except (TypeError, ValueError):
            return False
        return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    return type(got) is type(expected) and got == expected or isinstance(got, int | float) and isinstance(expected, int | float) and got == expected


def _short(value) -> str:
    text = f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else repr(value)
    return text if len(text) <= 160 else text[:157] + "..."


def check(function: Callable, cases: Sequence[tuple], *, tolerance: float = 1e-6) -> None:
    """Try `function` on cases (arguments, expected, lesson); print what is wrong with the first that fails, and why it matters.

    arguments: a tuple. A function that still returns `...` counts as not tried. Raises TypeError for what is no function.
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    for arguments, expected, lesson in cases:
        asked = f"{function.__name__}({', '.join(_short(a) for a in arguments)})"
        try:
            got = function(*arguments)
        except Exception as error:
            print(f"{asked} raised {type(error).__name__}: {error}. Expected {_short(expected)}. {lesson}")
            return
        if got is ...:
            print(f"{function.__name__}: not solved yet; replace the `...` and run this cell again.")
            return
        if not same(got, expected, tolerance):
            print(f"{asked} gave {_short(got)}, expected {_short(expected)}. {lesson}")
            return
    print(f"{function.__name__}: solved, {len(cases)} of {len(cases)} cases.")
