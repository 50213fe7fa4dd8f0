"""Which browser tests a check of everything runs: all of the fixture notebook, and of the pages the start page and the two that changed last.

`python -m tests.browser.latest` prints them as an expression for pytest's -k.
"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def latest(root: Path = ROOT, count: int = 2) -> list[str]:
    """The pages that git saw change last, the newest first; without a whole history the last ones by number. The start page is not among them."""
    pages = sorted((path.stem for path in (root / "notebooks").glob("*.ipynb") if not path.stem.startswith("00_")), reverse=True)
    changed = []
    try:
        ask = ["git", "-C", str(root)]
        if subprocess.run([*ask, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True, check=True).stdout.strip() == "false":
            log = subprocess.run([*ask, "log", "--format=", "--name-only", "--relative", "--", "notebooks"], capture_output=True, text=True, check=True).stdout
            changed = [Path(line).stem for line in log.splitlines() if line.endswith(".ipynb")]
    except (OSError, subprocess.CalledProcessError):
        pass
    return list(dict.fromkeys([page for page in changed if page in pages] + pages))[:count]


def expression(pages: list[str]) -> str:
    """Everything but whole pages, and of these the start page and `pages`."""
    return " or ".join(["not test_notebook_runs", "00_start_here", *pages])


if __name__ == "__main__":
    print(expression(latest()))
