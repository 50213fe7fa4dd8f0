"""How a benchmark starts: with --json it prints one JSON object and nothing else, without it a table."""

import argparse
import json
from collections.abc import Callable


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
