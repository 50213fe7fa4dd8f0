"""The checks of exercises: a right answer passes, a wrong one is explained, an open one is left alone."""

import functools
import math

import numpy as np
import pandas as pd
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
    assert capsys.readouterr().out == "open_one: not solved yet; replace the `...` and run both cells again.\n"
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
    (np.True_, True, True), (np.float64(0.5), 0.5, True), (np.int64(2), 3, False), ("3", 3.0, False), ("3", 3, False), (["1"], [1.0], False),
    (np.array([1 + 1j]), np.array([1.0]), False), (1 + 1j, 1 + 1j, True), (10**7 + 1, 10**7, False), ([10**7 + 1], [10**7], False),
    (np.array([10**7 + 1.0]), [10**7], True), (torch.tensor(3), 3, True), (np.array(3), 3, True), (3, torch.tensor(3), True), (["a", "b"], ["a", "b"], True),
    (["a", "b"], ["a", "c"], False), (("a", 1.0 + 1e-9), ["a", 1.0], True), ("ab", ["a", "b"], False), ({"a": 1.0 + 1e-9}, {"a": 1.0}, True),
    ({"a": 1.0}, {"b": 1.0}, False), ([1.0], {"a": 1.0}, False), ({"a": torch.ones(2)}, {"a": np.ones(2)}, True), ([], [], True), ([], [1], False),
    (np.zeros((0, 2)), np.zeros((0, 2)), True),
    ([], np.zeros((0, 2)), False),
    (torch.tensor([0.5], dtype=torch.bfloat16), [0.5], True), (torch.tensor([0.5], requires_grad=True), [0.5], True), (float("inf"), float("inf"), True),
    (5.0, float("inf"), False), ([torch.tensor(1.0), 2], [1, 2], True), ({1, 2}, {2, 1}, True), (True, 1, True), (0.3 + 1e-8, 0.3, True),
    (0.3 + 1e-5, 0.3, False), ([[1, 2], [3]], [[1, 2], [3]], True), ([[1, 2], [3]], [[1, 2], [4]], False), (pd.Series([1.0, 2.0]), [1.0, 2.0], True),
    (pd.DataFrame({"a": [1]}), "a", False),
])  # fmt: skip
def test_same(got, expected, equal):
    assert same(got, expected) is equal


@pytest.mark.parametrize("wrong", [3, None, math, ...])
def test_what_is_no_function_is_refused(wrong):
    with pytest.raises(TypeError, match="function must be the function that you wrote, got "):
        check(wrong, CASES)


def test_whatever_can_be_called_is_tried(capsys):
    class Adder:
        def __call__(self, a, b):
            return a + b

    for function, name in (
        (functools.partial(functools.partial(lambda c, a, b: a + b), 0), "<lambda>"),
        (math.hypot, "hypot"),
        (Adder(), "Adder"),
        (max, "max"),
    ):
        check(function, CASES)
        assert name in capsys.readouterr().out
    check(functools.partial(sum_of, c=0), CASES)
    assert capsys.readouterr().out == "sum_of: solved, 2 of 2 cases.\n"


def sum_of(a, b, c):
    return a + b + c


@pytest.mark.parametrize("cases, error", [
    ([], ValueError), ((), ValueError), (None, TypeError), (iter(CASES), TypeError), ([(1, 2)], TypeError), ([(1, 3, "Arguments are a tuple.")], TypeError),
    ([((1, 2), 3, None)], TypeError), ("abc", TypeError), ({}, TypeError), ([((1, 2), 3, "x", 4)], TypeError),
])  # fmt: skip
def test_cases_of_another_form_are_refused(cases, error, capsys):
    with pytest.raises(error, match=r"cases must be a list of \(arguments, expected, lesson\)"):
        check(lambda a, b: a + b, cases)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("tolerance, error", [
    (float("inf"), ValueError), (float("nan"), ValueError), (-1e-6, ValueError), (1, ValueError), ("1e-6", TypeError), (None, TypeError), (True, TypeError),
])  # fmt: skip
def test_a_tolerance_that_lets_all_pass_is_refused(tolerance, error):
    for call in (lambda: check(lambda a, b: 0, CASES, tolerance=tolerance), lambda: same(1, 2, tolerance)):
        with pytest.raises(error, match=r"tolerance must be a number in \[0, 1\)"):
            call()
    assert same(1.0, 1.0, 0) and not same(1.0 + 1e-15, 1.0, 0) and same(1.09, 1.0, 0.05)


def test_long_values_are_shortened(capsys):
    check(lambda x: x, [((list(range(200)),), 0, "Long.")])
    out = capsys.readouterr().out
    assert "..." in out and len(out) < 450
    check(lambda x: x, [((0.123456789,), 2.0, "Digits.")])
    assert "<lambda>(0.1235) gave 0.1235, expected 2. Digits." in capsys.readouterr().out


def test_what_answers_equal_with_no_yes_or_no_is_not_the_same(capsys):
    class Odd:
        def __eq__(self, other):
            raise ValueError("neither")

    assert same(Odd(), Odd()) is False
    for off, words in ((3e-7, "solved"), (3e-6, "gave")):
        check(lambda x, off=off: x + off, [((1.0,), 1.0, "Close.")])
        assert words in capsys.readouterr().out


def test_answers_in_place_are_judged_as_any_other(capsys):
    x = [3, 1, 2]
    cases = [((x,), [1, 2, 3], "Sort."), ((x,), [1, 2, 3], "Again, of the same list.")]
    check(lambda a: a.sort() or a, cases)
    assert "solved, 2 of 2" in capsys.readouterr().out and x == [3, 1, 2]
    check(lambda a: a.sort() or a, [((x,), x, "Leave it as it is.")])
    assert "expected [3, 1, 2]" in capsys.readouterr().out


def test_answers_that_cannot_be_read_are_wrong_and_raise_nothing(capsys):
    class Dumb:
        def __repr__(self):
            raise RuntimeError

    for answer in (torch.eye(2).to_sparse(), torch.zeros(2, device="meta"), Dumb()):
        check(lambda answer=answer: answer, [((), torch.eye(2), "It is the identity.")])
        assert "It is the identity." in capsys.readouterr().out
    check(lambda g: 3, [(((i for i in range(3)),), 3, "A generator has no copy.")])
    assert "solved" in capsys.readouterr().out
