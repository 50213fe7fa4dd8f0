"""Odd, equal and wrong inputs for public functions, one argument at a time.

A trial is one valid call of a function; each argument has a kind, which knows three sorts of other values:

- `same`: another form of the same value (a reversed view, pandas, float64, a list): the result must be the same, in numbers;
- `wrong`: the function must refuse with a ValueError or TypeError that names the argument, before any work;
- `either`: lawful or not as the function likes, but never somebody else's error and never NaN.

    TRIALS = [
        Trial(one_step, rows=array(ROWS, low=0), reference=array(KNOWN, low=0), prior=array(PRIOR, low=0), alpha=real(1.0, low=0)),
        Trial(choose_reference, rows=array(ROWS), cap=optional(integer(3, low=1)), seed=integer(0)),
    ]

    @pytest.mark.parametrize("trial", TRIALS, ids=str)
    def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
        check(trial)

hypothesis draws the values, the same ones at every run; STEPWISE_TRIES=1000 draws more. `coverage(module, TRIALS)` names the public functions that no
trial calls.
"""

import copy
import dataclasses
import inspect
import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

TRIES = int(os.environ.get("STEPWISE_TRIES", "25"))
SAME, WRONG, EITHER = "same", "wrong", "either"


class Thing:
    """An object of no use to anyone."""

    def __repr__(self):
        return "Thing()"


@dataclasses.dataclass(frozen=True)
class Odd:
    """A value, what it is in words, and what must happen; `tolerance` for equal results (of the precision that the form has)."""

    value: Any
    words: str
    must: str
    tolerance: float = 1e-5


@dataclasses.dataclass(frozen=True)
class Kind:
    """make() gives the valid value afresh; odd() a strategy of Odd values."""

    make: Callable[[], Any]
    odd: Callable[[], Any]


def _sampled(pairs, must) -> list:
    return [Odd(value, words, must) for value, words in pairs]


def fixed(value, *, fresh: bool = False) -> Kind:
    """An argument that is left alone; fresh: `value` is a function that makes it for each call."""
    return Kind(value if fresh else lambda: value, None)


def optional(kind: Kind) -> Kind:
    """None is a lawful value."""
    return Kind(kind.make, lambda: kind.odd().filter(lambda odd: odd.value is not None))


def _no_numbers(*, callables: bool = True):
    return [(None, "None"), ("text", "a text"), (Thing(), "an object"), ({}, "an empty dict"), ({"a": 1}, "a dict"), (b"1", "bytes"), ({1, 2}, "a set")] + (
        [(len, "a function")] if callables else []
    )


def _any_of(pairs, wrong, same, odd, either):
    own = lambda values: [(value, repr(value)) for value in values]  # noqa: E731
    return st.sampled_from(_sampled([*pairs, *own(wrong)], WRONG) + _sampled(same, SAME) + _sampled([*odd, *own(either)], EITHER))


def integer(value: int, *, low: int | None = None, high: int | None = None, wrong=(), either=()) -> Kind:
    """low, high: what is outside must be refused."""
    pairs = [*_no_numbers(), (value + 0.5, "a fraction"), (float("nan"), "nan"), (float("inf"), "inf"), (str(value), "a text of digits"), (1j, "complex"),
             ([value], "a list"), (np.array([value, value]), "an array of two"),
             (torch.tensor([[value, value]]), "a tensor of two"), ((), "an empty tuple")]  # fmt: skip
    same = [(np.int64(value), "numpy int64"), (np.int32(value), "numpy int32")]
    odd = [
        (float(value), "a whole float"),
        (True, "True"),
        (torch.tensor(value), "a tensor of no axes"),
        (np.array(value), "an array of no axes"),
    ]
    strategies = [_any_of(pairs, wrong, same, odd, either)]
    if low is not None:
        strategies.append(st.integers(-(10**12), low - 1).map(lambda v: Odd(v, f"{v}, too low", WRONG)))
        strategies.append(st.just(Odd(low - 1, f"{low - 1}, just too low", WRONG)))
    if high is not None:
        strategies.append(st.integers(high + 1, 10**12).map(lambda v: Odd(v, f"{v}, too high", WRONG)))
        strategies.append(st.just(Odd(high + 1, f"{high + 1}, just too high", WRONG)))
    return Kind(lambda: value, lambda: st.one_of(*strategies))


def real(value: float, *, low: float | None = None, high: float | None = None, above: bool = False, below: bool = False, wrong=(), either=()) -> Kind:
    """low, high: outside must be refused; above, below: the bound too."""
    pairs = [*_no_numbers(), (float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf"), (str(value), "a text of a number"), (1j, "complex"),
             ([value], "a list"), (np.array([value, value]), "an array of two"),
             (torch.tensor([[value, value]]), "a tensor of two"), (np.float64("nan"), "numpy nan")]  # fmt: skip
    same = [(np.float64(value), "numpy float64"), *([(int(value), "an int")] if value == int(value) else [])]
    odd = [(True, "True"), (torch.tensor(float(value), dtype=torch.float64), "a tensor of no axes"), (np.array(value), "an array of no axes")]
    strategies = [_any_of(pairs, wrong, same, odd, either)]
    if low is not None:
        bound = -float(10**9)
        strategies.append(st.floats(bound, low, exclude_max=not above, allow_subnormal=False).map(lambda v: Odd(v, f"{v}, too low", WRONG)))
        strategies.append(st.just(Odd(low if above else low - 1e-3, "at the lower bound", WRONG)))
    if high is not None:
        strategies.append(st.floats(high, float(10**9), exclude_min=not below, allow_subnormal=False).map(lambda v: Odd(v, f"{v}, too high", WRONG)))
        strategies.append(st.just(Odd(high if below else high + 1e-3, "at the upper bound", WRONG)))
    return Kind(lambda: value, lambda: st.one_of(*strategies))


def choice(value: str, *, wrong=(), either=()) -> Kind:
    typos = [
        value[:-1] + value[-1] * 2,
        value.upper() if value.upper() != value else value.lower(),
        f" {value}",
        value[1:],
        value.replace(value[len(value) // 2], "", 1),
        "",
    ]
    pairs = [
        (3, "3"),
        (1.5, "1.5"),
        (None, "None"),
        (True, "True"),
        ([value], "a list of it"),
        (Thing(), "an object"),
        ({}, "a dict"),
        (np.zeros(2), "an array"),
        (b"", "bytes"),
    ]
    odd = _sampled([(t, f"misspelt {t!r}") for t in typos] + pairs + [(w, repr(w)) for w in wrong], WRONG) + _sampled([(e, repr(e)) for e in either], EITHER)
    return Kind(lambda: value, lambda: st.sampled_from(odd))


def text(value: str, *, either=(), wrong=()) -> Kind:
    """One free text."""
    pairs = [
        (3, "3"),
        (None, "None"),
        (1.5, "1.5"),
        (Thing(), "an object"),
        ({}, "a dict"),
        (np.zeros(2), "an array"),
        (b"a", "bytes"),
        ([3], "a list of 3"),
        ([None], "a list of None"),
    ]
    odd = (
        _sampled(pairs + [(w, repr(w)) for w in wrong], WRONG)
        + _sampled([(np.str_(value), "numpy text")], SAME)
        + _sampled([(e, repr(e)) for e in either], EITHER)
    )
    return Kind(lambda: value, lambda: st.sampled_from(odd))


def texts(value: list, *, fixed_length: bool = False, options: bool = False, either=(), wrong=()) -> Kind:
    """A list of texts; fixed_length: one fewer or more is wrong; options: unknown ones are wrong."""
    pairs = [(3, "3"), (None, "None"), (Thing(), "an object"), ([], "an empty list"), ([*value[:-1], 3], "a 3 among them"),
             ([*value[:-1], None], "None among them"),
             (np.zeros(2), "an array of numbers"), ({}, "an empty dict"), (iter(()), "an exhausted generator")]  # fmt: skip
    pairs += [([*value, value[0]], "one too many"), (value[:-1], "one too few")] if fixed_length else []
    pairs += [([*value[:-1], value[-1] + "x"], "a misspelt one"), ([*value[:-1], ""], "an empty text")] if options else []
    same = [(tuple(value), "a tuple"), (np.array(value), "an array of texts"), (pd.Series(value, index=range(7, 7 + len(value))), "a Series")]
    odd = _sampled(pairs + [(w, repr(w)) for w in wrong], WRONG) + _sampled(same, SAME) + _sampled([(e, repr(e)) for e in either], EITHER)
    return Kind(lambda: list(value), lambda: st.sampled_from(odd))


def flag(value: bool) -> Kind:
    pairs = [
        ("yes", "a text"),
        ("False", "the text False"),
        (2, "2"),
        (0.5, "0.5"),
        (Thing(), "an object"),
        (np.zeros(2), "an array"),
        ([], "an empty list"),
        (None, "None"),
    ]
    odd = _sampled(pairs, WRONG) + _sampled([(np.bool_(value), "numpy bool")], SAME) + _sampled([(int(value), "0 or 1")], EITHER)
    return Kind(lambda: value, lambda: st.sampled_from(odd))


def function(value: Callable) -> Kind:
    pairs = [(3, "3"), ("text", "a text"), (None, "None"), (Thing(), "an object"), ([], "a list"), (np.zeros(2), "an array")]
    return Kind(lambda: value, lambda: st.sampled_from(_sampled(pairs, WRONG)))


def instance(make: Callable[[], Any], *, wrong=()) -> Kind:
    """An object of a class (a pipeline, a model, a table): anything else is wrong. make() builds it for each call."""
    pairs = [
        (3, "3"),
        ("text", "a text"),
        (None, "None"),
        (Thing(), "an object"),
        ([], "a list"),
        (np.zeros(2), "an array"),
        ({}, "a dict"),
        (len, "a function"),
    ]
    odd = _sampled(pairs + [(w, repr(w)) for w in wrong], WRONG)
    return Kind(make, lambda: st.sampled_from(odd))


def generator(seed: int = 0, *, many: int | None = None) -> Kind:
    """A torch.Generator, made anew for each call; many: a list of so many is lawful (and may give another result), of another length is wrong."""
    new = lambda k=0: torch.Generator().manual_seed(seed + k)  # noqa: E731
    pairs = [
        ("seed", "a text"),
        (Thing(), "an object"),
        (np.random.default_rng(0), "numpy's generator"),
        (1.5, "1.5"),
        ([3], "a list of 3"),
        ({}, "a dict"),
        ((x for x in ()), "an exhausted generator"),
    ]
    odd = _sampled(pairs, WRONG) + _sampled([(None, "None"), (3, "a seed"), ([], "an empty list")], EITHER)
    strategies = [st.sampled_from(odd)]
    if many is not None:
        strategies.append(
            st.builds(lambda kind: Odd(kind(new(k) for k in range(many)), f"a {kind.__name__} of {many}", EITHER), st.sampled_from([list, tuple]))
        )
        strategies.append(
            st.builds(lambda kind: Odd(kind(new(k) for k in range(many + 1)), f"a {kind.__name__} of one too many", WRONG), st.sampled_from([list, tuple]))
        )
    return Kind(lambda: new(), lambda: st.one_of(*strategies))


def _put(array: np.ndarray, position: int, value) -> np.ndarray:
    changed = array.copy()
    changed.flat[position % max(array.size, 1)] = value
    return changed


def array(
    value, *, low: float | None = None, high: float | None = None, free=(), finite: bool = True, masks: bool = False,
    torch_only: bool = False,
    grow=(), broadcast: bool = False, tolerance: float = 1e-5, wrong=(), either=(), skip=(),
) -> Kind:  # fmt: skip
    """Numbers with axes (numpy or torch; the valid call uses it as it is given here).

    low, high: entries outside must be refused (also one alone). free: axes whose size may differ (one entry fewer
    there is not tried); all other axes must agree with something. finite: NaN and infinities are wrong. masks: bool is lawful. torch_only: forms that are no
    tensors may be refused by name. grow: axes along which one entry more is lawful too. broadcast: a missing or
    an additional axis is lawful. skip: words of forms to leave out (say in a comment why).
    """
    is_tensor = isinstance(value, torch.Tensor)
    plain = value.detach().cpu().numpy() if is_tensor else np.asarray(value)
    kind = plain.dtype.kind
    back = (lambda a: torch.from_numpy(np.ascontiguousarray(a))) if is_tensor else (lambda a: a)
    half = 4e-3 if tolerance < 4e-3 else tolerance

    def forms():
        """(value, words, tolerance or None where refusing is lawful as well)"""
        yield plain.copy(), "numpy", tolerance
        yield plain[::-1].copy()[::-1] if plain.ndim else plain, "a reversed view", tolerance
        if plain.ndim > 1:
            yield plain[:, ::-1].copy()[:, ::-1], "reversed columns", tolerance
            yield np.asfortranarray(plain), "Fortran order", tolerance
        yield np.repeat(plain, 2, axis=0)[::2] if plain.ndim else plain, "a strided view", tolerance
        yield plain.astype(plain.dtype.newbyteorder(">")), "big-endian", tolerance
        frozen = plain.copy()
        frozen.flags.writeable = False
        yield frozen, "read-only", tolerance
        if plain.size <= 4000:
            yield plain.tolist(), "a list", tolerance
        if plain.ndim == 1:
            yield pd.Series(plain, index=range(100, 100 + len(plain))), "a Series with another index", tolerance
        if plain.ndim == 2:
            yield pd.DataFrame(plain, index=range(100, 100 + len(plain))), "a DataFrame with another index", tolerance
        yield torch.from_numpy(plain.copy()), "a tensor", tolerance
        if plain.ndim > 1:
            yield torch.from_numpy(np.repeat(plain, 2, axis=-1))[..., ::2], "a strided tensor", tolerance
        if kind == "f":
            yield plain.astype(np.float64), "float64", max(tolerance, 1e-5)
            yield torch.from_numpy(plain.copy()).requires_grad_(), "a tensor that wants a gradient", tolerance
            yield torch.from_numpy(plain.astype(np.float64)), "a float64 tensor", max(tolerance, 1e-5)
            if np.allclose(plain.astype(np.float32), plain, rtol=1e-6):
                yield plain.astype(np.float32), "float32", max(tolerance, 1e-3)
        elif kind in "iu":
            low_, high_ = (plain.min(), plain.max()) if plain.size else (0, 0)
            for dtype in (np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint16, np.uint32, np.uint64):
                if np.iinfo(dtype).min <= low_ and high_ <= np.iinfo(dtype).max:
                    yield plain.astype(dtype), np.dtype(dtype).name, tolerance

    def halves():
        if kind == "f":
            yield plain.astype(np.float16), "float16"
            yield torch.from_numpy(plain.copy()).to(torch.bfloat16), "a bfloat16 tensor"
            yield torch.from_numpy(plain.copy()).to(torch.float16), "a float16 tensor"
        elif kind in "iu":
            yield plain.astype(float), "whole floats"

    def bad():
        if kind == "f" and finite:
            for odd_value, words in ((np.nan, "a NaN"), (np.inf, "an infinity"), (-np.inf, "a negative infinity")):
                yield st.integers(0, max(plain.size - 1, 0)).map(lambda at, v=odd_value, w=words: (back(_put(plain, at, v)), f"{w} at {at}"))
        for bound, side in ((low, -1), (high, 1)):
            if bound is not None:
                step = 1 if kind in "iu" else 0.5
                smallest = np.iinfo(plain.dtype).min if kind in "iu" else -np.inf
                if bound + side * step >= smallest:
                    yield st.integers(0, max(plain.size - 1, 0)).map(lambda at, v=bound + side * step: (back(_put(plain, at, v)), f"{v} at {at}"))
        yield st.just((back(plain.astype(np.complex64)), "complex"))
        yield st.just((plain.astype(str), "texts"))
        yield st.just((plain.astype(object).tolist()[:-1] + [None] if plain.ndim == 1 and len(plain) else [None], "None among them"))
        yield st.just(((x for x in ()), "an exhausted generator"))
        yield st.just((torch.from_numpy(plain.copy()).to("meta"), "a meta tensor"))
        if not masks and kind != "b":
            yield st.just((back(plain.astype(bool)), "booleans"))
        if plain.ndim >= 1 and len(plain) > 1 and plain.ndim <= 2:
            ragged = [row.tolist() for row in plain[:-1]] + [[0.5]] if plain.ndim == 2 else [*plain.tolist()[:-1], [0.5, 0.5]]
            if plain.ndim == 1 or plain.shape[1] != 1:
                yield st.just((ragged, "a ragged list"))
        for axis in range(plain.ndim):
            if axis not in free and plain.shape[axis] > 1:
                yield st.just((back(np.delete(plain, -1, axis)), f"one fewer along axis {axis}"))
            if axis not in free and axis not in grow and plain.shape[axis] >= 1:
                yield st.just((back(np.concatenate([plain, plain.take([-1], axis)], axis)), f"one more along axis {axis}"))
        if plain.ndim and not broadcast:
            yield st.just((back(plain[None, None]), "two axes more"))
            if plain.ndim >= 2:
                yield st.just((back(plain[0] if plain.ndim > 2 else plain[0].copy()), "an axis fewer"))
        yield st.just((back(plain[:0] if plain.ndim else plain), "nothing in it"))
        for odd_value, words in [*_no_numbers(), *[(w, repr(w)) for w in wrong]]:
            yield st.just((odd_value, words))

    def odd():
        found = [Odd(v, w, SAME, t) for v, w, t in forms() if w not in skip]
        if torch_only:
            found = [dataclasses.replace(o, must=EITHER) if not isinstance(o.value, torch.Tensor) else o for o in found]
        strategies = [st.sampled_from(found)]
        loose = [Odd(v, w, EITHER, half) for v, w in halves() if w not in skip] + _sampled([(e, repr(e)) for e in either], EITHER)
        if kind == "f":
            loose.append(Odd(back(np.ones_like(plain, dtype=np.int64)), "integers", EITHER))
        if plain.ndim and broadcast:
            loose.append(Odd(back(plain[None]), "an axis more", EITHER))
        if loose:
            strategies.append(st.sampled_from(loose))
        wrongs = [s.map(lambda pair: Odd(pair[0], pair[1], WRONG)).filter(lambda o: not any(o.words.startswith(w) for w in skip)) for s in bad()]
        return st.one_of(*strategies, *strategies, st.one_of(*wrongs), st.one_of(*wrongs))

    return Kind((lambda: value.clone()) if is_tensor else (lambda: copy.deepcopy(value)), odd)


class Trial:
    """One valid call. `name`: what is shown and, with `method`, whose method; `tries` scales the number of draws down for slow calls; `after(result)` turns
    the result into what is compared; `names`: other words by which an argument may be named in a refusal, {"x": ("points",)}.
    `follows`: the argument whose kind the result has: tensors
    for tensors, numpy for all else."""

    def __init__(self, call: Callable, /, *, trial_id: str | None = None, slow: float = 1.0, after: Callable | None = None, names: Mapping | None = None,
                 public: str | None = None, follows: str | None = None, **kinds: Kind):  # fmt: skip
        self.call, self.kinds, self.slow, self.after, self.names = call, kinds, slow, after or (lambda x: x), names or {}
        self.follows = follows
        self.public = public or getattr(call, "__qualname__", str(call))
        self.id = trial_id or self.public

    def __str__(self):
        return self.id

    def run(self, **changed):
        arguments = {name: kind.make() for name, kind in self.kinds.items() if name not in changed} | changed
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return self.after(self.call(**arguments))


def flat(value, path: str = "") -> dict[str, np.ndarray | str]:
    """Every number and text in a result, whatever holds it."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return {path: (value.float() if value.is_floating_point() else value).numpy()}
    if isinstance(value, (pd.DataFrame, pd.Series)):
        value = value.to_numpy()
    if isinstance(value, (np.ndarray, bool, int, float, complex, np.generic)):
        value = np.asarray(value)
        return {path: value} if value.dtype != object else flat(value.tolist(), path)
    if isinstance(value, str) or value is None:
        return {path: str(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {k: v for f in dataclasses.fields(value) for k, v in flat(getattr(value, f.name), f"{path}.{f.name}").items()}
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{path}[{key!r}]").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{path}[{i}]").items()}
    return {path: type(value).__name__}


def _differ(one, other, tolerance) -> str | None:
    first, second = flat(one), flat(other)
    if first.keys() != second.keys():
        return f"parts {sorted(first)} became {sorted(second)}"
    for path, a in first.items():
        b = second[path]
        if isinstance(a, str) or isinstance(b, str):
            if str(a) != str(b):
                return f"{path or 'the result'}: {a} became {b}"
        elif a.shape != b.shape:
            return f"{path or 'the result'}: shape {a.shape} became {b.shape}"
        elif a.size and a.dtype.kind in "fc":
            if not np.allclose(a.astype(complex), b.astype(complex), rtol=tolerance, atol=tolerance * max(1.0, float(np.nanmax(np.abs(a)))), equal_nan=True):
                return f"{path or 'the result'}: off by {np.nanmax(np.abs(a.astype(complex) - b)):.3g}"
        elif not np.array_equal(a, b):
            return f"{path or 'the result'}: {a.dtype} {a.ravel()[:4]} became {b.ravel()[:4]}"
    return None


def _kinds(value) -> set[type]:
    """Which of Tensor and ndarray a result holds."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return {torch.Tensor if isinstance(value, torch.Tensor) else np.ndarray}
    parts = [getattr(value, f.name) for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) and not isinstance(value, type) else []
    parts = list(value.values()) if isinstance(value, Mapping) else list(value) if isinstance(value, (list, tuple)) else parts
    return set().union(*map(_kinds, parts))


def _nan(result) -> bool:
    return any(v.dtype.kind == "f" and bool(np.isnan(v).any()) for v in flat(result).values() if isinstance(v, np.ndarray))


def verdict(trial: Trial, name: str, odd: Odd, baseline) -> str | None:
    """What is wrong with the outcome, in words; None if nothing."""
    said = "|".join(re.escape(word) for word in (name, *trial.names.get(name, ())))
    try:
        result = trial.run(**{name: odd.value})
    except (ValueError, TypeError) as error:
        if not re.search(rf"(?<![A-Za-z0-9_])({said})(?![A-Za-z0-9_])", str(error)) or str(error).startswith(("unsupported", "can't convert", "'")):
            return f"refused without its name: {type(error).__name__}: {error}"
        return f"refused although lawful: {error}" if odd.must == SAME else None
    except Exception as error:
        return f"somebody else's error: {type(error).__name__}: {str(error)[:200]}"
    if odd.must == WRONG:
        return "taken without a word"
    if odd.must == EITHER:
        return "NaN comes out" if _nan(result) and not _nan(baseline) else None
    wanted = torch.Tensor if isinstance(odd.value, torch.Tensor) else np.ndarray
    if name == trial.follows and _kinds(result) - {wanted}:
        return f"gives {', '.join(k.__name__ for k in _kinds(result) - {wanted})} for {wanted.__name__}"
    return _differ(baseline, result, odd.tolerance)


def check(trial: Trial, tries: int | None = None):
    """Draw odd values for every argument of the trial; AssertionError lists what went wrong, worst first."""
    baseline = trial.run()
    assert _differ(baseline, trial.run(), 1e-6) is None, "the valid call itself gives two results"
    found = {}
    names = [name for name, kind in trial.kinds.items() if kind.odd is not None]
    if not names:
        return
    count = max(5 * len(names), round((TRIES if tries is None else tries) * trial.slow * (1 if TRIES >= 1000 else len(names))))

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def draw(data):
        name = data.draw(st.sampled_from(names))
        odd = data.draw(trial.kinds[name].odd())
        wrong = verdict(trial, name, odd, baseline)
        if wrong is not None:
            found[(name, odd.words, odd.must)] = wrong

    draw()
    lines = [f"{name}: {words} ({must}): {wrong}" for (name, words, must), wrong in sorted(found.items())]
    assert not lines, f"{trial}: {len(lines)} odd inputs end badly\n  " + "\n  ".join(lines)


def coverage(module, trials) -> set[str]:
    """Public functions of `module`, and classes other than results and errors, that no trial calls ("Datastore.search" calls Datastore too)."""
    called = {trial.public.split(".")[0] for trial in trials}
    holds = lambda c: dataclasses.is_dataclass(c) or issubclass(c, (tuple, BaseException))  # noqa: E731
    public = {n: getattr(module, n) for n in module.__all__}
    return {n for n, it in public.items() if (inspect.isfunction(it) or (inspect.isclass(it) and not holds(it))) and n not in called}
