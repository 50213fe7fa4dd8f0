"""The checks of exercises: a right answer passes, a wrong one is explained, an open one is left alone."""

import numpy as np
import pytest
import torch

from helpers.page.exercises import check, same

CASES = [((1, 2), 3, "Adding is commutative."), ((2, 2), 4, "Both arguments count.")]


def test_a_right_answer_passes(capsys):
    check(lambda a, b: a + b, CASES)
    assert "solved, 2 of 2" in capsys.readouterr().out


def test_a_wrong_answer_is_shown_with_its_lesson(capsys):
    def product(a, b):
        return a * b

    check(product, CASES)
    out = capsys.readouterr().out
    assert "product(1, 2) gave 2, expected 3" in out and "commutative" in out


def test_an_open_exercise_is_left_alone(capsys):
    def later(a, b): ...

    def open_one(a, b):
        return ...

    check(open_one, CASES)
    assert "not solved yet" in capsys.readouterr().out
    check(later, CASES)
    assert "gave None" in capsys.readouterr().out


def test_an_error_in_the_answer_is_reported_not_raised(capsys):
    def broken(a, b):
        raise KeyError("x")

    check(broken, CASES)
    out = capsys.readouterr().out
    assert "raised KeyError" in out and "solved" not in out


@pytest.mark.parametrize("got, expected, equal", [
    (0.1 + 0.2, 0.3, True), ([1, 2], [1, 2], True), ([1, 2], [2, 1], False), ([1], [1, 2], False), (torch.tensor([1.0]), np.array([1.0]), True),
    ("a", "a", True), ("a", "b", False), (None, 3, False), (None, [3], False), (3, 3.0, True), (float("nan"), float("nan"), True), ("x", 0.5, False),
    (np.True_, True, True), (np.float64(0.5), 0.5, True), (np.int64(2), 3, False),
])  # fmt: skip
def test_same(got, expected, equal):
    assert same(got, expected) is equal


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="function must be callable, got int"):
        check(3, CASES)
