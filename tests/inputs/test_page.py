"""Odd and wrong inputs for what pages show themselves with: figures and exercises."""

import matplotlib

matplotlib.use("agg")

import numpy as np
import pytest
from hypothesis import strategies as st
from matplotlib.figure import Figure

from helpers.page import exercises, figures
from tests.inputs.harness import EITHER, WRONG, Kind, Odd, Trial, array, check, choice, coverage, function, instance, integer, optional, real, text, texts

PICTURES = np.linspace(0, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)


def drawn(ax):
    """What stands in an axes: the result of a plotting function is compared by it."""
    return {
        "pictures": [np.asarray(image.get_array()) for image in ax.images], "extents": [image.get_extent() for image in ax.images],
        "lines": [line.get_xydata() for line in ax.lines], "bars": [patch.get_bbox().bounds for patch in ax.patches],
        "texts": [t.get_text() for t in [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]],
    }  # fmt: skip


def axes() -> Kind:
    return instance(lambda: Figure().add_subplot(), wrong=[Figure()])


def kind(value, wrong, either=()) -> Kind:
    return Kind(lambda: value, lambda: st.sampled_from([Odd(v, repr(v), WRONG) for v in wrong] + [Odd(v, repr(v), EITHER) for v in either]))


def words(*value) -> Kind:
    """One text or number for each thing."""
    few, many = list(value[:-1]), [*value, "z"]
    return kind(list(value), ["".join(value) + "!", few, many, None, 3, {}, {"a", "b"}, [*value[:-1], None], [*value[:-1], True], iter(value)],
                [value, np.array(value), [1.5] * len(value)])  # fmt: skip


CASES = [((1, 2), 3, "Adding is commutative."), ((2, 2), 4, "Both count.")]
BAD_CASES = [[], (), None, 3, "abc", {}, iter(CASES), [(1, 2)], [((1,), 2, 3)], [(1, 2, "x")], [((1,), 2, "x", 4)], [None]]
TRIALS = [
    Trial(figures.alt_text, figure=instance(lambda: Figure(), wrong=[Figure().add_subplot()])),
    Trial(figures.method_style, name=choice("AdaCache")),
    Trial(figures.as_pictures, pictures=array(PICTURES, low=-1e-3, high=1 + 1e-3, free=(0, 2, 3), grow=(0, 2, 3), masks=True, broadcast=True)),
    Trial(figures.image_grid, pictures=array(PICTURES, low=-1e-3, high=1 + 1e-3, free=(2, 3), grow=(2, 3), masks=True),
          titles=optional(words("a", "b")), ax=axes(),
          columns=optional(integer(2, low=1)), after=drawn, names={"pictures": ("titles",)}),
    Trial(figures.clip_strip, clips=array(PICTURES[:, None].repeat(2, 1), low=-1e-3, high=1 + 1e-3, free=(1, 3, 4), grow=(1, 3, 4), masks=True),
          titles=optional(words("a", "b")), ax=axes(), after=drawn, names={"clips": ("titles",)}),
    Trial(figures.picture_table, pictures=array(PICTURES[None], low=-1e-3, high=1 + 1e-3, free=(3, 4), grow=(3, 4)), rows=words("a"),
          columns=words("b", "c"), ax=axes(), xlabel=text("x"), ylabel=text("y"), gap=integer(2, low=0),
          levels=integer(32, low=2), after=drawn, names={"pictures": ("rows", "columns")}),
    Trial(figures.raster, schedules=array(np.array([[1, 0, 1], [0, 0, 1]]), low=0, high=1, free=(1,), grow=(1,), masks=True),
          labels=optional(words("a", "b")), ax=axes(), after=drawn, names={"schedules": ("labels",)}),
    Trial(figures.curves_with_band, x=array(np.array([1.0, 2.0, 4.0])), ys=array(np.arange(6.0).reshape(2, 3), free=(0,), grow=(0,)), ax=axes(),
          label=text("AdaCache"), color=kind("red", ["rde", 3, {}, object()]), after=drawn, names={"x": ("ys",), "color": ("style",)}),
    Trial(figures.bars, called=words("a", "b", "c"), values=array(np.array([1.0, 3.0, 2.0])), ax=axes(),
          spread=optional(array(np.array([0.1, 0.2, 0.1]), low=0)), colors=optional(texts(["red", "blue", "#00ff00"], fixed_length=True, options=True)),
          after=drawn, names={"called": ("names",), "values": ("names", "spread")}, public="bars"),
    Trial(exercises.same, got=kind(3.0, [], either=["3", None, [3.0], {}, 1j, object(), np.zeros(2)]),
          expected=kind(3.0, [], either=["3", None, [3.0], {}, 1j]),
          tolerance=real(1e-6, low=0, high=1, below=True)),
    Trial(exercises.check, function=function(lambda a, b: a + b), cases=kind(CASES, BAD_CASES), tolerance=real(1e-6, low=0, high=1, below=True)),
    Trial(figures.use_style, slow=0.1),
]  # fmt: skip


def bars(called, **others):
    """`figures.bars` with its argument `names` called otherwise: a trial has a word of that name."""
    return figures.bars(called, **others)


TRIALS[8].call = bars


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    with matplotlib.rc_context():
        check(trial)


def test_every_public_function_has_a_trial():
    assert coverage(figures, TRIALS) == set() and coverage(exercises, TRIALS) == set()
