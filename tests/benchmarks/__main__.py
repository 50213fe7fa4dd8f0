"""Run every benchmark of this folder with --json and print one table: `python -m tests.benchmarks [name ...]`."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def run(path: Path) -> tuple[dict, float]:
    """Run one benchmark in its own process; its JSON object and the seconds it took. Raises ValueError for any other output or a failure."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, str(path), "--json"], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{path.name} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    try:
        measured = json.loads(done.stdout)
    except json.JSONDecodeError:
        measured = None
    if not isinstance(measured, dict):
        raise ValueError(f"{path.name} must print one JSON object with --json and nothing else, got {done.stdout[:80]!r}")
    return measured, time.perf_counter() - started


def table(results: dict[str, tuple[dict, float]]) -> str:
    """All measurements in one table, four significant digits; below it a table of its own for every measured list of rows."""
    rows, below = [("benchmark", "measured", "value")], []
    for name, (measured, seconds) in results.items():
        for key, value in measured.items():
            if is_rows(value):
                rows.append((name, key, f"{len(value)} rows, below"))
                below.append(f"{name}: {key}\n{aligned(listed(value))}")
            else:
                rows.append((name, key, text(value)))
        rows.append((name, "seconds in all", f"{seconds:.1f}"))
    return "\n\n".join([aligned(rows), *below])


def is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def listed(rows: list[dict]) -> list[tuple[str, ...]]:
    """Rows of one benchmark as cells under their names; what is itself a table inside a row is left to --json."""
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if not any(isinstance(row.get(name), dict) for row in rows)]
    return [tuple(names), *(tuple(text(row.get(name)) for name in names) for row in rows)]


def text(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(text, value))
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="benchmarks to run, all without one")
    names = parser.parse_args().names or sorted(path.stem for path in HERE.glob("*.py") if not path.name.startswith("_"))
    results, failed = {}, []
    for name in names:
        try:
            results[name] = run(HERE / f"{name}.py")
        except ValueError as error:
            failed.append(str(error))
    print(table(results))
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
