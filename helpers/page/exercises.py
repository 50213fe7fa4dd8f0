"""Checks for a page's exercises: they take the reader's function, try it, and explain the first mistake.

An unsolved exercise returns `...` (its unfinished body); a check of one prints a line and lets the page run on.
"""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from helpers.arguments import function as a_function
from helpers.arguments import got as came
from helpers.arguments import real

__all__ = ["check", "same"]


def same(got, expected, tolerance: float = 1e-6) -> bool:
    """Equal, or numerically close: numbers, sequences, arrays and tensors of one shape, and mappings of these. Whole numbers are equal or not.

    tolerance: relative and absolute, 0 to below 1. Raises ValueError or TypeError for another one.
    """
    return _same(got, expected, real("tolerance", tolerance, low=0, high=1, below=True))


def _same(got, expected, tolerance: float) -> bool:
    got, expected = _plain(got), _plain(expected)
    if isinstance(expected, Mapping):
        return isinstance(got, Mapping) and got.keys() == expected.keys() and all(_same(got[key], expected[key], tolerance) for key in expected)
    a, b = _numbers(got), _numbers(expected)
    if b is not None and (b.ndim or b.dtype.kind == "f"):
        if a is None or a.shape != b.shape:
            return False
        whole = a.dtype.kind in "biu" and b.dtype.kind in "biu"
        return bool(np.array_equal(a, b)) if whole else np.allclose(a.astype(float), b.astype(float), rtol=tolerance, atol=tolerance, equal_nan=True)
    if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
        alike = isinstance(got, Sequence) and not isinstance(got, str | bytes) and len(got) == len(expected)
        return alike and all(_same(a, b, tolerance) for a, b in zip(got, expected, strict=True))
    number = isinstance(got, int | float) and isinstance(expected, int | float)
    try:
        return bool((number or type(got) is type(expected)) and got == expected)
    except (TypeError, ValueError, RuntimeError):  # what answers "equal" with no yes or no
        return False


def _plain(value):
    """A numpy number, or an array or tensor of one entry and no axes, as a Python number; tensors as arrays."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    return value.item() if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0) else value


def _numbers(value) -> np.ndarray | None:
    """What holds real numbers only, as an array; None for all else, texts of digits and complex numbers among them."""
    if isinstance(value, str | bytes | Mapping):
        return None
    try:
        array = np.asarray([_plain(v) for v in value] if isinstance(value, list | tuple) else value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _short(value) -> str:
    try:
        text = f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else repr(value)
    except Exception:  # an object that cannot say what it is
        text = f"a {type(value).__name__}"
    return text if len(text) <= 160 else text[:157] + "..."


def _copied(value):
    """A copy; the value itself where it has none, as a generator."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _name(function: Callable) -> str:
    """How a function is called; of a partial, the function in it."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def check(function: Callable, cases: Sequence[tuple], *, tolerance: float = 1e-6) -> None:
    """Try `function` on cases (arguments, expected, lesson); print what is wrong with the first that fails, and why it matters.

    arguments: a tuple; lesson: a sentence. A function that still returns `...` counts as not tried. tolerance: as in `same`.
    Raises TypeError or ValueError for what is no function, for no cases and cases of another form.
    """
    a_function("function", function, "the function that you wrote")
    tolerance = real("tolerance", tolerance, low=0, high=1, below=True)
    _check_cases(cases)
    name = _name(function)
    for case in cases:
        arguments, lesson = _copied(case[0]), case[2]
        asked = f"{name}({', '.join(_short(a) for a in arguments)})"
        expected = _copied(case[1])  # apart from the arguments, which a function may write into
        try:
            got = function(*arguments)
        except Exception as error:
            print(f"{asked} raised {type(error).__name__}: {error}. Expected {_short(expected)}. {lesson}")
            return
        if got is ...:
            print(f"{name}: not solved yet; replace the `...` and run both cells again.")
            return
        try:
            alike = _same(got, expected, tolerance)
        except Exception:  # a tensor without numbers to read, an object that compares with nothing
            alike = False
        if not alike:
            print(f"{asked} gave {_short(got)}, expected {_short(expected)}. {lesson}")
            return
    print(f"{name}: solved, {len(cases)} of {len(cases)} cases.")


def _check_cases(cases) -> None:
    expected = "a list of (arguments, expected, lesson)"
    if not isinstance(cases, list | tuple):
        raise TypeError(f"cases must be {expected}, got {came(cases)}")
    if not cases:
        raise ValueError(f"cases must be {expected} with one case at least, got none")
    for case in cases:
        if not (isinstance(case, list | tuple) and len(case) == 3 and isinstance(case[0], list | tuple) and isinstance(case[2], str)):
            raise TypeError(f"cases must be {expected}, arguments a tuple and the lesson a text, got {came(case)} in it")
