"""The doors themselves: what passes, what is refused, and in which words."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import arguments
from helpers.arguments import by_class, choice, flag, function, generators, got, instance, integer, like, numbers, real, texts
from tests.accelerator import DEVICE, Accelerator, near
from tests.inputs.harness import Trial, array, check, coverage
from tests.inputs.harness import choice as an_option
from tests.inputs.harness import flag as a_flag
from tests.inputs.harness import function as a_function
from tests.inputs.harness import generator as a_generator
from tests.inputs.harness import integer as an_integer
from tests.inputs.harness import real as a_real
from tests.inputs.harness import texts as some_texts

TABLE = np.random.default_rng(0).random((12, 3))
TRIALS = [
    Trial(lambda x: like(x, numbers("x", x, "N 3", low=0, high=1) * 2), x=array(TABLE, low=0, high=1, free=(0,), grow=(0,)), trial_id="numbers", follows="x"),
    Trial(lambda y: numbers("y", y, "5", whole=True, low=0), y=array(np.arange(5), low=0), trial_id="whole numbers"),
    Trial(lambda k: integer("k", k, low=2, high=9), k=an_integer(3, low=2, high=9), trial_id="integer"),
    Trial(lambda t: real("t", t, low=0, above=True, high=1), t=a_real(0.5, low=0, above=True, high=1), trial_id="real"),
    Trial(lambda t: real("t", t, low=0, below=True, high=1), t=a_real(0.5, low=0, below=True, high=1), trial_id="real, open above"),
    Trial(lambda how: choice("how", how, ["nearest", "linear"]), how=an_option("nearest"), trial_id="choice"),
    Trial(lambda words: texts("words", words, options=["a", "b"], count=2), words=some_texts(["a", "b"], options=True, fixed_length=True), trial_id="texts"),
    Trial(lambda on: flag("on", on), on=a_flag(True), trial_id="flag"),
    Trial(lambda f: function("f", f).__name__, f=a_function(len), trial_id="function"),
    Trial(lambda g: generators("g", g, 3) is not None, g=a_generator(many=3), trial_id="generators"),
]


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_the_doors_refuse_what_is_wrong_and_take_what_is_odd(trial):
    check(trial, 100)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: numbers("x", [[1, 2], [3]], "N d"), "x must be numbers (N, d), got [[1, 2], [3]], which makes no array"),
        (lambda: numbers("x", np.array([1, np.nan]), "N"), "x must be finite numbers (N,), got NaN in it"),
        (lambda: numbers("x", torch.ones(3, 4), "N 3"), "x must be numbers (N, 3), got shape (3, 4)"),
        (lambda: numbers("x", [-1.0, 2], "N", low=0), "x must be numbers (N,) >= 0, got values from -1 to 2"),
        (lambda: numbers("y", [1, 2], "N", {"N": 3}), "y must be numbers (N,) with N = 3, got shape (2,)"),
        (lambda: numbers("y", [1.0, 2], "N", whole=True), "y must be whole numbers (N,), got [1.0, 2]"),
        (lambda: integer("k", 0, low=1), "k must be a whole number >= 1, got 0"),
        (lambda: real("t", float("nan"), low=0, above=True), "t must be a number > 0, got nan"),
        (lambda: real("t", 2, low=0, high=1, below=True), "t must be a number in [0, 1), got 2"),
        (lambda: choice("how", "neares", ["nearest", "linear"]), "how must be one of 'nearest', 'linear', got 'neares'"),
        (lambda: texts("words", ["a", 3]), "words must be a text or a list of texts, got 3 in it"),
        (lambda: flag("on", 1), "on must be True or False, got 1"),
        (lambda: instance("model", 3, torch.nn.Module, "a torch.nn.Module"), "model must be a torch.nn.Module, got 3"),
    ],
)
def test_a_refusal_is_one_sentence(call, words):
    with pytest.raises((ValueError, TypeError)) as refused:
        call()
    assert str(refused.value) == words


def test_sizes_are_shared_between_arguments():
    sizes = {}
    numbers("features", TABLE, "N d", sizes)
    assert sizes == {"N": 12, "d": 3}
    with pytest.raises(ValueError, match=r"labels must be whole numbers \(N,\) with N = 12, got shape \(11,\)"):
        numbers("labels", np.arange(11), "N", sizes, whole=True)


def test_leading_axes_are_free():
    assert numbers("x", torch.ones(2, 5, 4, 3), "... H 3").shape == (2, 5, 4, 3)
    assert numbers("x", torch.ones(4, 3), "... H 3").shape == (4, 3)
    with pytest.raises(ValueError, match=r"x must be numbers \(\.\.\., H, 3\), got shape \(3,\)"):
        numbers("x", torch.ones(3), "... H 3")


def test_memory_is_shared_and_gradients_are_kept_on_request():
    assert numbers("x", TABLE, "N d").data_ptr() == TABLE.__array_interface__["data"][0]
    leaf = torch.ones(3, requires_grad=True)
    assert numbers("x", leaf, "N", detach=False) is leaf and not numbers("x", leaf, "N").requires_grad


def test_pandas_goes_by_position_and_its_kind_is_numpy():
    frame = pd.DataFrame(TABLE, index=range(50, 62))
    assert torch.equal(numbers("x", frame, "N d"), torch.from_numpy(TABLE))
    assert isinstance(like(frame, torch.ones(2)), np.ndarray) and isinstance(like(torch.ones(1), torch.ones(2)), torch.Tensor)


def test_what_came_is_said_in_a_few_words():
    assert got(10**400) == "a whole number of more than fifty digits"
    assert got(x for x in ()) == "a generator"
    assert got(torch.ones(2, 3, device="meta")) == "float32 tensor of shape (2, 3) on meta"
    assert len(got(list(range(100)))) < 70 and len(got("x" * 100)) < 70


def test_the_harness_finds_faults():
    """A function that checks nothing is found out, argument by argument."""
    with pytest.raises(AssertionError, match="taken without a word"):
        check(Trial(lambda x: len(x), x=array(TABLE), trial_id="careless"))
    with pytest.raises(AssertionError, match="refused without its name"):
        check(Trial(lambda x: numbers("y", x, "12 3"), x=array(TABLE), trial_id="misnamed"))
    with pytest.raises(AssertionError, match="gives Tensor for ndarray"):
        check(Trial(lambda x: numbers("x", x, "12 3"), x=array(TABLE), trial_id="another kind", follows="x"))


def test_coverage_names_what_no_trial_calls():
    assert coverage(arguments, [Trial(numbers)]) == set(arguments.__all__) - {"numbers"}


def test_tensors_stay_on_their_accelerator():
    with Accelerator():
        far = torch.tensor([0.25, 1.0]).to(DEVICE)
        assert like(far, numbers("x", far, "N", low=0, high=1)) is not None and numbers("x", far, "2").device == DEVICE
        assert near(like(far, torch.ones(2))).tolist() == [1, 1] and like(far, torch.ones(2)).device == DEVICE and real("t", far[0]) == 0.25
        with pytest.raises(TypeError, match="x must be numbers"):
            numbers("x", torch.empty(2, device="meta"), "2")


def test_values_by_class_are_told_by_their_names():
    named = pd.Series([0.3, 0.5, 0.2], index=["fox", "cat", "dog"])
    assert by_class("q", [1, 2, 3]) == [1, 2, 3]
    assert by_class("q", named, ["dog", "cat", "fox"]) == by_class("q", named.to_dict(), ["dog", "cat", "fox"]) == [0.2, 0.5, 0.3]
    assert by_class("q", pd.Series([0.5, 0.3, 0.2], index=[1, 2, 0])) == by_class("q", {1: 0.5, 2: 0.3, 0: 0.2}, ["a", "b", "c"]) == [0.2, 0.5, 0.3]
    for index in (["cat", "dog", "fox"], [7, 8, 9]):
        assert list(by_class("q", pd.Series([1, 2, 3], index=index))) == [1, 2, 3]
    for value, names in ((named, None), (named.sort_index(), ["a", "b", "c"]), ({"a": 1}, None), ({0: 1, 2: 3}, None), (pd.Series([1, 2], index=[5, 5]), None)):
        with pytest.raises(TypeError, match="q must be plain numbers in the order of the classes, or named"):
            by_class("q", value, names)


def test_masked_entries_are_refused_and_pandas_own_numbers_are_taken():
    hidden = np.ma.masked_array(TABLE, TABLE > 0.9)
    with pytest.raises(ValueError, match="x must be numbers .* got an array with [0-9]+ masked entries: fill them, or leave their rows out"):
        numbers("x", hidden, "N 3")
    assert numbers("x", np.ma.masked_array(TABLE), "N 3").shape == (12, 3)
    for door in (real, integer):
        with pytest.raises(TypeError, match="x must be a"):
            door("x", np.ma.masked)
        assert door("x", np.ma.masked_array(3, mask=False)) == 3
    frame = pd.DataFrame(TABLE).astype("Float64")
    assert torch.equal(numbers("x", frame, "N 3"), torch.from_numpy(TABLE))
    frame.iloc[0, 0] = pd.NA
    with pytest.raises((ValueError, TypeError), match="^x must be"):
        numbers("x", frame, "N 3")


def test_tensors_of_rare_dtypes_are_converted_or_refused():
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        assert numbers("x", torch.tensor([1, 2, 3]).to(dtype), "N", low=0, whole=True).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"x must be numbers \(N,\) below 2\*\*63"):
        numbers("x", torch.tensor([-1]).view(torch.uint64), "N")
    with pytest.raises(TypeError, match="x must be numbers .* of 16 bits or more, got float8_e4m3fn tensor"):
        numbers("x", torch.ones(3).to(torch.float8_e4m3fn), "N")
