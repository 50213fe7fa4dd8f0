"""`make study`: measures the cases that are missing, keeps each as soon as it is finished, and publishes the table when all are there.

Finished cases stand in .studies/<name>/<fingerprint>.jsonl until then; a run that was killed goes on from there, and other code begins another file.
"""

import argparse
import csv
import datetime
import fcntl
import functools
import hashlib
import io
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path

import joblib
from tqdm.auto import tqdm

from .. import checkout
from ..recipes.manifest import write_manifest
from . import runner
from .runner import DATA, ROOT, TABLES, key

__all__ = ["again", "listing", "main", "make"]

UNFINISHED = ROOT / ".studies"
LIBRARIES = ("numpy", "torch", "diffusers", "transformers", "scikit-learn")


# ------------------------------------------------------------------------------------------------------------ finished cases


def unfinished(name: str, fingerprint: str) -> Path:
    return UNFINISHED / name / f"{fingerprint[:16]}.jsonl"


@contextmanager
def finished(path: Path) -> Iterator[tuple[dict, Callable[[dict], None]]]:
    """({case's key: entry}, append) of a file of finished cases, for one process at a time.

    A line is a checksum and an entry. From the first line on that a kill has torn, the file is cut off. Raises BlockingIOError while another
    process has the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"study {path.parent.name} is being measured by another process") from None
        file.seek(0)
        entries, sound = {}, 0
        for line in file:
            checksum, _, text = line.partition(b" ")
            if not text.endswith(b"\n") or hashlib.sha256(text[:-1]).hexdigest()[:12].encode() != checksum:
                break
            entry, sound = json.loads(text), sound + len(line)
            entries[key(entry["case"])] = entry
        file.truncate(sound)

        def append(entry: dict) -> None:
            text = json.dumps(entry).encode()
            file.write(hashlib.sha256(text).hexdigest()[:12].encode() + b" " + text + b"\n")
            file.flush()
            os.fsync(file.fileno())
            entries[key(entry["case"])] = entry

        yield entries, append


# ------------------------------------------------------------------------------------------------------------ measuring


@functools.cache
def own_fingerprint(name: str) -> str:
    """Of the code and the data as this process first saw them."""
    return runner.basis(name)[2]


def attempt(name: str, case: dict, fingerprint: str) -> dict:
    """One case in a worker: an error is carried home as text. A worker of a cluster may hold other code, or older, than the one who asks."""
    try:
        if own_fingerprint(name) != fingerprint:
            raise RuntimeError("this worker has other code or data than those of this study: bring it up to date and start it again")
        results, seconds = runner.measured(name, case)
        return {"case": case, "results": results, "seconds": round(seconds, 3)}
    except Exception:
        return {"case": case, "error": traceback.format_exc()}


def _end_with(parent: int) -> None:
    """A worker whose parent was killed ends too, instead of holding its memory for minutes more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def workers(processes: int, dask: str | None) -> Iterator[int]:
    """joblib's workers, in processes here or on a Dask cluster; gives the number to ask for."""
    if not dask:
        here = {"inner_max_num_threads": 1, "initializer": _end_with, "initargs": (os.getpid(),)}
        with joblib.parallel_config("loky", **here) if processes > 1 else nullcontext():
            yield processes
        return
    try:
        from distributed import Client
    except ImportError:
        raise ImportError('a Dask cluster needs the extra "scale": pip install -e ".[scale]"') from None
    with Client(dask) as client, joblib.parallel_config("dask", client=client):
        yield -1


def compute(name: str, cases: list[dict], path: Path, fingerprint: str, *, processes: int = 1, dask: str | None = None) -> dict[tuple, dict]:
    """{case's key: entry} of these cases: those that are not in the file of finished cases are measured, and kept there one by one.

    Raises RuntimeError, after all others are measured, with each case that failed and its error.
    """
    failures = []
    if gone := runner.unkept(name):
        raise FileNotFoundError(gone)
    with finished(path) as (entries, append), workers(processes, dask) as count:
        missing = [case for case in cases if key(case) not in entries]
        with tqdm(total=len(cases), initial=len(cases) - len(missing), desc=name, unit="case") as bar:
            parallel = joblib.Parallel(n_jobs=count, batch_size=1, return_as="generator_unordered")
            for entry in parallel(joblib.delayed(attempt)(name, case, fingerprint) for case in missing):
                failures.append(entry) if "error" in entry else append(entry)
                bar.update()
        if failures:
            told = "\n".join(f"{failure['case']}\n{failure['error']}" for failure in failures)
            raise RuntimeError(f"{told}\n{len(failures)} of {len(cases)} cases of {name} failed, see above; the others are kept, and nothing is published")
        return {key(case): entries[key(case)] for case in cases}


# ------------------------------------------------------------------------------------------------------------ publishing


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _toml(about: dict) -> str:
    def value(x) -> str:
        return "[" + ", ".join(map(value, x)) + "]" if isinstance(x, list) else json.dumps(x)

    lines = [f"{k} = {value(x)}" for k, x in about.items() if not isinstance(x, dict)]
    for name, table in about.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{json.dumps(k)} = {value(x)}" for k, x in table.items())]
    return "\n".join(lines) + "\n"


def publish(name: str, rows: list[dict], seconds: list[float], *, processes: int, basis: tuple[dict, dict, str]) -> None:
    """Table, then toml, then manifest, each in one move. The toml holds the table's hash: a kill between the two is seen, and mended by the next run."""
    kinds = {column: {type(row[column]).__name__ for row in rows} for column in rows[0]}
    kinds = {column: found.pop() if len(found) == 1 else "float" for column, found in kinds.items()}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(kinds)
    results = set(rows[0]) - set(runner.all_cases(name)[0])
    for row in rows:
        writer.writerow([f"{row[c]:.6g}" if kind == "float" and c in results else str(row[c]) for c, kind in kinds.items()])
    reached, held, fingerprint = basis
    about = {
        "fingerprint": fingerprint, "table": hashlib.sha256(table.getvalue().encode()).hexdigest(), "cases": len(rows),
        "date": datetime.date.today().isoformat(), "accepted": 0, "accepted_on": "", "cores": processes, "total_seconds": round(sum(seconds), 1),
        "seconds": seconds, "columns": kinds, "versions": {"python": platform.python_version()} | {x: metadata.version(x) for x in LIBRARIES},
        "contents": held, "definitions": reached,
    }  # fmt: skip
    _write(TABLES / f"{name}.csv", table.getvalue())
    _write(TABLES / f"{name}.toml", _toml(about))
    write_manifest(DATA)


# ------------------------------------------------------------------------------------------------------------ what make study does


def _checked(processes: int = 1, dask: str | None = None) -> None:
    if not isinstance(processes, int) or isinstance(processes, bool):
        raise TypeError(f"processes must be a whole number >= 1, got {processes!r}")
    if processes < 1:
        raise ValueError(f"processes must be a whole number >= 1, got {processes}")
    if not isinstance(dask, (str, type(None))):
        raise TypeError(f"dask must be a cluster's address, as in tcp://host:port, got {dask!r}")


def make(name: str, **options) -> str:
    """Measure what is missing and publish; says what was done."""
    runner.find(name)
    _checked(**options)
    if runner.problem(name) is None:
        write_manifest(DATA)
        return f"study {name} is complete and fits"
    cases, basis = runner.all_cases(name), runner.basis(name)
    rows = {}
    try:  # of a table that fits but lists other cases, what it has is kept
        old, about = runner.read(name)
        if about["fingerprint"] == basis[2]:
            rows = {key({k: row[k] for k in cases[0]}): (row, s) for row, s in zip(old, about["seconds"]) if set(cases[0]) <= set(row)}
    except (FileNotFoundError, ValueError):
        pass
    path = unfinished(name, basis[2])
    entries = compute(name, [case for case in cases if key(case) not in rows], path, basis[2], **options)
    rows |= {k: (entry["case"] | entry["results"], entry["seconds"]) for k, entry in entries.items()}
    chosen = [rows[key(case)] for case in cases]
    publish(name, [row for row, _ in chosen], [seconds for _, seconds in chosen], processes=options.get("processes", 1), basis=basis)
    path.unlink()
    return f"study {name}: {len(entries)} cases measured, {len(cases)} published in data/studies/{name}.csv"


def again(name: str, count: int | None, *, accept: bool, **options) -> str:
    """Measure `count` cases again, None: all, and compare; with `accept`, renew the fingerprint when they agree. Raises RuntimeError when not."""
    runner.find(name)
    _checked(**options)
    if count is not None and (not isinstance(count, int) or isinstance(count, bool)):
        raise TypeError(f"count must be a whole number >= 1 or None, got {count!r}")
    if count is not None and count < 1:
        raise ValueError(f"count must be a whole number >= 1 or None, got {count!r}")
    if not isinstance(accept, bool):
        raise TypeError(f"accept must be True or False, got {accept!r}")
    rows, about = runner.read(name)
    cases, (reached, held, fingerprint) = runner.all_cases(name), runner.basis(name)
    if [key(case) for case in cases] != [key({k: row.get(k) for k in cases[0]}) for row in rows]:
        raise RuntimeError(f"study {name} lists other cases than its table; run make study NAME={name}")
    if accept and runner.problem(name) is None:
        return f"study {name} is complete and fits; there is nothing to accept"
    chosen = runner.choose(name, about, fingerprint, len(rows) if count is None else count)
    path = unfinished(name, fingerprint if accept else f"again-{fingerprint}")
    entries = compute(name, [cases[i] for i in chosen], path, fingerprint, **options)
    wrong = [line for i in chosen for line in runner.disagreements(name, cases[i], rows[i], entries[key(cases[i])]["results"])]
    if not accept:
        path.unlink()
    if wrong:
        told = "\n".join(wrong)
        raise RuntimeError(f"{told}\nstudy {name}: {len(wrong)} results of {len(chosen)} cases measured again do not agree, see above; nothing is changed")
    if not accept:
        return f"study {name}: {len(chosen)} cases measured again, all agree"
    about |= {"fingerprint": fingerprint, "contents": held, "definitions": reached}
    about |= {"accepted": len(chosen), "accepted_on": datetime.date.today().isoformat()}
    _write(TABLES / f"{name}.toml", _toml(about))
    write_manifest(DATA)
    path.unlink()
    return f"study {name}: {len(chosen)} cases measured again, all agree; the fingerprint is renewed"


def listing() -> str:
    """A line for each study: cases, date, whether it fits."""
    lines = []
    for name in runner.names():
        trouble = runner.problem(name)
        try:
            about = runner.read(name)[1]
            told = f"{about['cases']} cases, {about['date']}, "
        except (FileNotFoundError, ValueError):
            told = ""
        lines.append(f"{name}: {told}{trouble or runner.unkept(name) or 'fits'}")
    return "\n".join(lines) or "there is no study yet"


def count_or_all(text: str) -> int | None:
    if text != "all" and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a number of cases or all, got {text!r}")
    return None if text == "all" else int(text)


def number_of_processes(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make study", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="the study; without it, all are listed")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--accept", type=count_or_all, default=0, metavar="COUNT", help="measure COUNT cases again and renew the fingerprint when they agree")
    which.add_argument("--recheck", type=count_or_all, default=0, metavar="COUNT", help="measure COUNT cases, or all, again and compare")
    parser.add_argument("--processes", type=number_of_processes, default=1)
    parser.add_argument("--dask", metavar="tcp://HOST:PORT", help="measure on this Dask cluster")
    given = parser.parse_args()
    if given.name is None:
        if given.accept != 0 or given.recheck != 0:
            parser.error("--accept and --recheck need a study: make study NAME=<name>")
        print(listing())
        return
    options = {"processes": given.processes, "dask": given.dask}
    try:
        checkout.require("make study")
        runner.find(given.name)
        if given.accept != 0 or given.recheck != 0:
            accept = given.accept != 0
            print(again(given.name, given.accept if accept else given.recheck, accept=accept, **options))
        else:
            print(make(given.name, **options))
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(str(error))
