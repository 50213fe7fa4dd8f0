"""A small run of pytest writes its times, in one process and in two."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.times import table

ROOT = Path(__file__).resolve().parents[1]
SPIN = "import time\nuntil = time.process_time() + {}\nwhile time.process_time() < until: pass"


@pytest.mark.parametrize("workers", [[], ["-n", "2", "--dist", "loadfile"]], ids=["one process", "two"])
def test_pages_have_processor_seconds_and_tests_seconds(tmp_path, workers):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_toy.py").write_text("import time\n\ndef test_sleeps():\n    time.sleep(0.5)\n\ndef test_fails():\n    assert False\n")
    for name, seconds in (("01_busy", 2), ("02_idle", 0)):
        nbformat.write(new_notebook(cells=[new_code_cell(SPIN.format(seconds)), new_code_cell("time.sleep(0.1)")]), tmp_path / f"{name}.ipynb")
    times = tmp_path / "times"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", *workers, "."]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"STEPWISE_TIMES": str(times)}, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1 and "1 failed, 5 passed" in done.stdout, done.stdout
    lines = [json.loads(line) for line in times.read_text().splitlines()]
    tests = {line["test"].split("::")[-1]: line["seconds"] for line in lines if "test" in line}
    pages = {line["page"]: line["seconds"] for line in lines if "page" in line}
    assert set(tests) == {"test_sleeps", "test_fails"} and tests["test_sleeps"] >= 0.5
    assert set(pages) == {"01_busy", "02_idle"} and pages["01_busy"] > 2 and pages["01_busy"] > pages["02_idle"] > 0


def test_the_table_lists_pages_and_the_slowest_tests():
    lines = [{"page": "02_b", "seconds": 91.0}, {"page": "01_a", "seconds": 30.4}] + [{"test": f"t{i}", "seconds": i / 2} for i in range(12)]
    rows = table(lines).splitlines()
    assert rows[:4] == ["processor seconds of each page", "      30  01_a", "      91  02_b  (more than 90)", "     121  all 2 pages"]
    assert rows[5] == "the 10 slowest tests, in seconds" and rows[6] == "     5.5  t11" and len(rows) == 16
