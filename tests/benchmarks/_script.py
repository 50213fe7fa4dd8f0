"""How a benchmark starts: with --json it prints one JSON object and nothing else, without it a table. And what a call's memory is."""

import argparse
import ctypes
import json
from collections.abc import Callable
from pathlib import Path


def start(description: str, measure: Callable[[int], dict], table: Callable[[dict], None], repeats: int = 15) -> None:
    """`measure(repeats)` as the command line asks for it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--repeats", type=int, default=repeats, help="times that everything is timed; a number is the median")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    result = measure(options.repeats)
    print(json.dumps(result)) if options.json else table(result)


def peak_bytes(function: Callable[[], object]) -> int | None:
    """How far the process's memory rises above where it was while `function` runs, or None where the system does not tell (it takes Linux)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give back what is free, so that it does not hide what will be taken
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _resident("VmRSS")
    except (OSError, AttributeError):
        before = None
    function()
    return None if before is None else 1024 * (_resident("VmHWM") - before)


def _resident(name: str) -> int:
    """A line of the process's status, in kB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
