"""What every study shares: its cases, one case measured, its table read, and cases measured again to see that they agree.

    # helpers/studies/<name>.py
    def cases() -> list[dict]: ...          # plain values, the same keys in each
    def measure(case: dict) -> dict: ...    # numbers; the same for a case whenever, wherever and after whatever else it is measured
    STUDY = Study(cases=cases, measure=measure, tolerance={"psnr": 0.05, "calls": 0}, models=("toy-latte",))

`make study NAME=<name>` (see `making`) writes data/studies/<name>.csv, results to six significant digits and rows in the order of `cases`, and
beside it <name>.toml: what the numbers rest on (see `fingerprint`), how they were made, and the seconds that each case took.
"""

import csv
import hashlib
import importlib
import math
import random
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from .. import checkout
from . import fingerprint

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DATA", "ROOT", "TABLES", "Study", "check_sample", "find", "load", "names", "problem", "remeasure"]

ROOT = checkout.ROOT
DATA = ROOT / "data"
TABLES = DATA / "studies"
_PLAIN = (str, int, float, bool)
KINDS = {"bool": lambda text: text == "True", "int": int, "float": float, "str": str}


@dataclass(frozen=True, kw_only=True)
class Study:
    """One recorded experiment.

    cases: gives all cases, dicts of str, int, float or bool with the same keys. measure: from a case to a dict of numbers, the keys of
    `tolerance`; pure, but it may keep with functools.lru_cache what the cases of one process share. tolerance, by column: how far a result may
    lie from the recorded one, absolute, or a pair (absolute, relative), or None for what is recorded and never compared, like seconds.
    models: folders under data/models, and files: paths under data, whose bytes count. absent: further such folders, of models whose weights are
    not kept: while one is missing the table stands as a record that cannot be measured again; where it is there, its bytes count too. reaches:
    functions, classes and registries that `measure` finds by name at run time. sample_seconds: of recorded time, spent by `make test` on measuring
    cases again.
    """

    cases: Callable[[], list[dict]]
    measure: Callable[[dict], dict]
    tolerance: dict[str, float | tuple[float, float] | None]
    models: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    reaches: tuple = ()
    absent: tuple[str, ...] = ()
    sample_seconds: float = 20

    def __post_init__(self):
        for name in ("cases", "measure"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {getattr(self, name)!r}")
        for name in ("models", "files", "reaches", "absent"):
            if not isinstance(getattr(self, name), (tuple, list)):
                raise TypeError(f"{name} must be a tuple, got {getattr(self, name)!r}")
            if name != "reaches" and not all(isinstance(part, str) for part in getattr(self, name)):
                raise TypeError(f"{name} must be a tuple of texts, got {getattr(self, name)!r}")
        if not isinstance(self.tolerance, dict) or not all(isinstance(column, str) for column in self.tolerance):
            raise TypeError(f"tolerance must be a dict, a column's name to what it may be off by, got {self.tolerance!r}")
        if not self.tolerance:
            raise ValueError("tolerance must name at least one column")
        for column, allowed in self.tolerance.items():
            numbers = allowed if isinstance(allowed, (tuple, list)) and len(allowed) == 2 else (allowed,)
            if allowed is not None and not all(map(_at_least_zero, numbers)):
                raise ValueError(f"tolerance of {column!r} must be a finite number >= 0, a pair (absolute, relative) or None, got {allowed!r}")
        if not _at_least_zero(self.sample_seconds):
            raise ValueError(f"sample_seconds must be a finite number >= 0, got {self.sample_seconds!r}")


def _at_least_zero(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < math.inf


# ------------------------------------------------------------------------------------------------------------ studies and cases


def has_columns(table, columns: Iterable[str]) -> "pd.DataFrame":
    """`table` itself, a study's, with at least these columns. TypeError for another kind, ValueError for columns that it lacks."""
    if not (hasattr(table, "columns") and hasattr(table, "assign")):
        raise TypeError(f"table must be a study's, as studies.load gives it, got a {type(table).__name__}")
    if odd := [column for column in columns if not isinstance(column, str)]:
        raise TypeError(f"column must be the name of a column of the table, got {odd[0]!r}")
    if lacking := [column for column in dict.fromkeys(columns) if column not in table]:
        raise ValueError(f"the table has no column {', '.join(sorted(lacking))}; there are {', '.join(map(str, table.columns))}")
    return table


def known(name: str, value, values: Iterable):
    """`value` itself, one of `values`. TypeError for what is no text or number, ValueError that lists what there is."""
    if not isinstance(value, (*_PLAIN, type(None))) and not hasattr(value, "dtype"):
        raise TypeError(f"{name} must be a text or a number, got a {type(value).__name__}")
    there = list(dict.fromkeys(values))
    if getattr(value, "ndim", 0) or value not in there:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, there))}, got {value!r}")
    return value


def names() -> list[str]:
    """The studies that there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if re.search(r"^STUDY\b", path.read_text(encoding="utf-8"), re.M))


def find(name: str) -> Study:
    """A study by its module's name. Raises ValueError with the names that there are, TypeError for what is no name."""
    if not isinstance(name, str):
        raise TypeError(f"name must be that of a study, got {name!r}; there are: {', '.join(names()) or 'none'}")
    if name not in names():
        raise ValueError(f"there is no study of the name {name!r}; there are: {', '.join(names()) or 'none'}")
    return importlib.import_module(f"{__package__}.{name}").STUDY


def all_cases(name: str) -> list[dict]:
    """A study's cases, checked. Raises ValueError for keys that differ, values that are not plain, kinds that are mixed, and a case listed twice."""
    study, cases = find(name), list(find(name).cases())
    keys = list(cases[0]) if cases else []
    if not keys or set(keys) & {*study.tolerance, "seconds"}:
        raise ValueError(f"study {name}: cases() must give at least one case with keys that are no result, got {len(cases)} with keys {keys}")
    for case in cases:
        if set(case) != set(keys):
            raise ValueError(f"study {name}: all cases must have the keys {keys}, got {case}")
    cases = [{k: case[k] for k in keys} for case in cases]
    for k in keys:
        kinds = {type(case[k]).__name__ for case in cases}
        if len(kinds) > 1 or not kinds <= set(KINDS):
            raise ValueError(f"study {name}: {k} must be one of {', '.join(KINDS)} in all cases, got {', '.join(sorted(kinds))}")
    if len({key(case) for case in cases}) < len(cases):
        twice = next(case for i, case in enumerate(cases) if key(case) in map(key, cases[:i]))
        raise ValueError(f"study {name}: cases() lists {twice} twice")
    return cases


def key(case: dict) -> tuple[str, ...]:
    """A case as it stands in the table."""
    return tuple(str(value) for value in case.values())


def rounded(value, column: str = "result") -> bool | int | float:
    """A result as it is kept: ints as they are, floats to six significant digits. Raises TypeError for anything but a number."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, (bool, Integral)):
        return value
    if not isinstance(value, Real):
        raise TypeError(f"{column} must be a number, got {value!r}")
    return float(f"{value:.6g}") + 0.0  # no -0.0


def measured(name: str, case: dict) -> tuple[dict, float]:
    """(results, processor seconds) of one case, measured now, by one torch thread.

    Raises ValueError where `tolerance` names other columns, FileNotFoundError where a model is `unkept`.
    """
    study = find(name)
    if gone := unkept(name):
        raise FileNotFoundError(gone)
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    started = time.process_time()
    try:
        if torch:
            torch.set_num_threads(1)
        results = study.measure(dict(case))
    finally:
        if torch:
            torch.set_num_threads(threads)
    if set(results) not in (set(study.tolerance), set(study.tolerance) - {"seconds"}):
        raise ValueError(f"measure gave {sorted(results)}, and tolerance speaks of {sorted(study.tolerance)}")
    return {column: rounded(results[column], column) for column in study.tolerance if column in results}, time.process_time() - started


def unkept(name: str) -> str | None:
    """One sentence on the study's `absent` models that are not here; None where all are, and its cases can be measured."""
    gone = [model for model in find(name).absent if not (DATA / "models" / model).is_dir()]
    make = " and ".join(f"make model NAME={model}" for model in gone)
    return f"study {name}: the weights of {', '.join(gone)} are not kept; {make} makes them again, then make study NAME={name} RECHECK=all" if gone else None


def agrees(allowed, recorded: float, now: float) -> bool | None:
    """Whether a result lies within its tolerance of the recorded one; None where it is not compared. NaN agrees with NaN."""
    if allowed is None:
        return None
    absolute, relative = allowed if isinstance(allowed, (tuple, list)) else (allowed, 0.0)
    same = recorded == now or (math.isnan(recorded) and math.isnan(now))
    return same or (math.isfinite(recorded) and abs(recorded - now) <= absolute + relative * abs(recorded))


# ------------------------------------------------------------------------------------------------------------ what is kept


def read(name: str) -> tuple[list[dict], dict]:
    """(rows, what the toml says) of a published study. Raises FileNotFoundError, or ValueError where the table is not the one that was published."""
    table, about = TABLES / f"{name}.csv", TABLES / f"{name}.toml"
    if not (table.exists() and about.exists()):
        checkout.require(f"study {name}")
        raise FileNotFoundError(f"study {name} has not been measured; run make study NAME={name}")
    try:
        about = tomllib.loads(about.read_text(encoding="utf-8"))
        if lacking := {"fingerprint", "table", "cases", "date", "seconds", "columns", "contents", "definitions"} - set(about):
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    except ValueError as error:  # cut off, or with the marks of a merge that was not finished
        raise ValueError(f"study {name}: data/studies/{name}.toml is not what was written ({error}); bring it back, or run make study NAME={name}") from None
    if hashlib.sha256(table.read_bytes()).hexdigest() != about["table"]:
        raise ValueError(f"study {name}: data/studies/{name}.csv has other bytes than were written; bring it back, or run make study NAME={name}")
    with open(table, encoding="utf-8", newline="") as lines:
        return [{column: KINDS[about["columns"][column]](text) for column, text in row.items()} for row in csv.DictReader(lines)], about


def basis(name: str) -> tuple[dict[str, str], dict[str, str], str]:
    """(definitions, contents, fingerprint) of a study as the code and the data stand now; of `absent` models that are missing, as they were."""
    study = find(name)
    here = [model for model in study.absent if (DATA / "models" / model).is_dir()]
    reached, held = fingerprint.definitions(name), fingerprint.contents((*study.models, *here), study.files, data=DATA)
    if gone := {f"models/{model}" for model in study.absent if model not in here}:
        if not (TABLES / f"{name}.toml").exists():
            raise FileNotFoundError(unkept(name))
        held |= {path: digest for path, digest in read(name)[1]["contents"].items() if "/".join(path.split("/")[:2]) in gone}
    return reached, held, fingerprint.of(reached, held)


def problem(name: str) -> str | None:
    """One sentence on why a study's table cannot stand as it is; None where it can. Measures nothing."""
    run = f"run make study NAME={name}"
    try:
        rows, about = read(name)
        reached, held, now = basis(name)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    if other := sorted(path for path in held.keys() | about["contents"].keys() if held.get(path) != about["contents"].get(path)):
        return f"study {name}: {_listed([f'data/{path}' for path in other])} has other bytes than those it was measured with; {run}"
    if now != about["fingerprint"] and not unkept(name):  # a record that nothing can renew stands as it was made
        places = fingerprint.differences(about["definitions"], reached)
        return f"study {name} is older than {_listed(places)}; {run} (or, if no number can have moved, make study NAME={name} ACCEPT=20)"
    cases = all_cases(name)
    wanted, have = [key(case) for case in cases], [key({k: row.get(k) for k in cases[0]}) for row in rows]
    if wanted != have:
        missing, extra = len(set(wanted) - set(have)), len(set(have) - set(wanted))
        said = f"lacks {missing} of its {len(wanted)} cases and holds {extra} that it does not list" if missing or extra else "holds its cases in another order"
        return f"study {name}: the table {said}; {run}"
    if set(rows[0]) - set(cases[0]) - {"seconds"} != set(find(name).tolerance) - {"seconds"}:
        return f"study {name}: the table's results are not those that tolerance names; {run}"
    return None


def _listed(items: list[str], most: int = 4) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def choose(name: str, about: dict, key_of_choice: str, count: int | None = None) -> list[int]:
    """Rows to measure again, drawn by a fingerprint: `count` of them, or what fits into the study's `sample_seconds`, at least one."""
    order = list(range(len(about["seconds"])))
    random.Random(key_of_choice).shuffle(order)
    if count is not None:
        return order[:count]
    spent = [sum(about["seconds"][i] for i in order[: n + 1]) for n in range(len(order))]
    return order[: max(1, sum(s <= find(name).sample_seconds for s in spent))]


def disagreements(name: str, case: dict, recorded: dict, now: dict) -> list[str]:
    """A line for every result that does not lie within its tolerance."""
    tolerance = find(name).tolerance
    wrong = [column for column in now if agrees(tolerance[column], recorded[column], now[column]) is False]
    return [f"{case}: {column} is {now[column]}, recorded {recorded[column]}, tolerance {tolerance[column]}" for column in wrong]


def check_sample(name: str) -> list[str]:
    """Measure the sample again, here and now; a line for every result that does not agree."""
    rows, about = read(name)
    cases = all_cases(name)
    return [line for i in choose(name, about, about["fingerprint"]) for line in disagreements(name, cases[i], rows[i], measured(name, cases[i])[0])]


# ------------------------------------------------------------------------------------------------------------ for a page


def load(name: str) -> "pd.DataFrame":
    """The table of a study: a column for each key of its cases, each result, and the seconds that a case took. Prints one line on how it was made.

    Raises ValueError for an unknown name and for a table whose bytes have changed, FileNotFoundError for one that was never measured.
    """
    import pandas as pd  # not above: measuring does without it

    find(name)
    rows, about = read(name)
    table = pd.DataFrame(rows)
    kept = ", the weights of its models not kept" if unkept(name) else ""
    seeds = f" ({table['seed'].nunique()} seeds)" if "seed" in table else ""
    again = f"{about['accepted']} of them looked at again on {about['accepted_on']}" if about["accepted"] else "none looked at again since"
    print(f"{name}: {len(table)} cases{seeds}, measured on {about['date']} in {sum(about['seconds']) / 60:.1f} minutes of one core, {again}{kept}")
    return table if "seconds" in table else table.assign(seconds=about["seconds"])


def remeasure(name: str, **wanted) -> "pd.DataFrame":
    """Measure one recorded case again, here and now, and print it beside the table: remeasure("caching_schedules", method="AdaCache", seed=3).

    Returns what it prints: for each result `recorded`, `now` and `agrees` (None: not compared). What another machine may round otherwise is
    printed after the sign for "about". Raises ValueError, listing what there is, for an unknown key and where not exactly one case fits.
    """
    import pandas as pd

    cases = all_cases(name)
    wanted = {k: value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value for k, value in wanted.items()}
    if odd := [k for k, value in wanted.items() if not isinstance(value, _PLAIN)]:
        raise TypeError(f"{odd[0]} must be one of the table's values, a text or a number, got a {type(wanted[odd[0]]).__name__}")
    values = {k: list(dict.fromkeys(case[k] for case in cases)) for k in cases[0]}
    there = "; ".join(f"{k}: {', '.join(map(repr, some[:12]))}{f' and {len(some) - 12} more' if len(some) > 12 else ''}" for k, some in values.items())
    if unknown := [k for k in wanted if k not in values]:
        raise ValueError(f"cases of {name} have no {', '.join(unknown)}; there are: {there}")
    fit = [case for case in cases if all(case[k] == value for k, value in wanted.items())]
    if len(fit) != 1:
        raise ValueError(f"{len(fit) or 'no'} cases of {name} fit {wanted}, one must; there are: {there}")
    recorded = next((row for row in read(name)[0] if key({k: row.get(k) for k in values}) == key(fit[0])), None)
    if recorded is None:
        raise ValueError(f"{fit[0]} is not in the table of {name}; run make study NAME={name}")
    tolerance, (results, _) = find(name).tolerance, measured(name, fit[0])
    table = pd.DataFrame(
        {"recorded": [recorded[c] for c in results], "now": list(results.values()), "agrees": [agrees(tolerance[c], recorded[c], results[c]) for c in results]},
        index=pd.Index(results, name="column"), dtype=object,
    )  # fmt: skip
    width = max(map(len, [*results, "column"]))
    print(f"{'column':{width}}  {'recorded':>13}  {'now':>13}  agrees")
    for column, row in table.iterrows():
        sign = " " if tolerance[column] == 0 else "≈"
        said = {True: "yes", False: "no", None: "not compared"}[row["agrees"]]
        old, now = (format(x, ".6g" if isinstance(x, float) else "") for x in (row["recorded"], row["now"]))
        print(f"{column:{width}}  {sign} {old:>11}  {sign} {now:>11}  {said}")
    return table
