"""The checks of arguments: one text in every method, and what it refuses. A method may import nothing of ours, so the text is repeated and compared."""

import math
import re
from pathlib import Path

import pytest

from helpers.methods import motion_regularization
from helpers.page.new_method import CHECKS

METHODS = Path(motion_regularization.__file__).parent
OWN = re.compile(r"^def (_integer|_whole|_number|_real|_positive|_choice|_one_of)\(", re.M)
TEXTS = {path.relative_to(METHODS): path.read_text(encoding="utf-8") for path in sorted(METHODS.rglob("*.py"))}
integer, number, choice = motion_regularization._integer, motion_regularization._number, motion_regularization._choice


def test_every_method_has_the_same_text():
    blocks = {path: found[0] for path, text in TEXTS.items() if (found := CHECKS.search(text))}
    assert len(blocks) >= 5 and len(set(blocks.values())) == 1, f"these differ: {[str(path) for path in blocks]}"


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_no_method_has_checks_of_its_own(path):
    assert OWN.findall(CHECKS.sub("", TEXTS[path])) == []


@pytest.mark.parametrize(
    "check, arguments, error, sentence",
    [
        (integer, (True,), TypeError, "size must be an integer, got True"), (integer, (2.0, 1), TypeError, "size must be an integer >= 1, got 2.0"),
        (integer, (0, 1), ValueError, "size must be an integer >= 1, got 0"), (integer, (0, 1, 5), ValueError, "size must be an integer in 1..5, got 0"),
        (integer, (6, 1, 5), ValueError, "size must be an integer in 1..5, got 6"), (number, ("2",), TypeError, "size must be a finite number, got '2'"),
        (number, (math.nan,), ValueError, "size must be a finite number, got nan"),
        (number, (math.inf, 0), ValueError, "size must be a finite number >= 0, got inf"),
        (number, (1.5, 0, 1), ValueError, r"size must be a finite number in \[0, 1\], got 1.5"), (number, (-0.1, 0, 1), ValueError, r"in \[0, 1\], got -0.1"),
        (choice, ("c", ("a", None)), ValueError, "size must be one of a, None, got 'c'"),
    ],
)  # fmt: skip
def test_what_is_refused(check, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        check("size", *arguments)


def test_bounds_belong_to_the_range_and_above_does_not():
    assert [integer("n", value, 1, 5) for value in (1, 5)] == [1, 5] and integer("n", -3) == -3
    assert [number("x", value, 0, 1) for value in (0, 1)] == [0.0, 1.0] and choice("c", None, ("a", None)) is None
    with pytest.raises(ValueError, match="x must be a finite number > 0, got 0"):
        number("x", 0, above=0)
    assert number("x", 1e-9, above=0) == 1e-9
