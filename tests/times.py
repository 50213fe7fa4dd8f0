"""What a run of the tests took: `python -m tests.times FILE`, where FILE is what STEPWISE_TIMES named during the run (see conftest.py)."""

import json
import sys
from pathlib import Path

BUDGET = 90  # processor seconds of a page


def table(lines: list[dict], slowest: int = 10) -> str:
    """The pages with their processor seconds, and the slowest tests with their seconds. A page that ran twice counts once, with its last run."""
    pages = {line["page"]: line["seconds"] for line in lines if "page" in line}
    tests = sorted(((line["seconds"], line["test"]) for line in lines if "test" in line), reverse=True)[:slowest]
    rows = [f"{seconds:8.0f}  {page}" + (f"  (more than {BUDGET})" if seconds > BUDGET else "") for page, seconds in sorted(pages.items())]
    rows = ["processor seconds of each page", *rows, f"{sum(pages.values()):8.0f}  all {len(pages)} pages", "", f"the {len(tests)} slowest tests, in seconds"]
    return "\n".join(rows + [f"{seconds:8.1f}  {test}" for seconds, test in tests])


if __name__ == "__main__":
    print(table([json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]))
