"""Which pages changed last, in small repositories made here; and what the expression selects."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.latest import expression, latest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("00_start_here", "01_a", "02_b", "03_c"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text("first")
    return tmp_path


def git(folder, *arguments):
    names = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, env=os.environ | names)


def commit(folder, *names):
    for name in names:
        path = folder / "notebooks" / f"{name}.ipynb"
        path.write_text(path.read_text() + " again") if path.exists() else path.write_text("new")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_two_pages_that_changed_last(folder):
    git(folder, "init", "-q")
    for names in (["01_a", "02_b", "03_c"], ["03_c"], ["01_a"], ["00_start_here"]):
        commit(folder, *names)
    assert latest(folder) == ["01_a", "03_c"]
    (folder / "notebooks" / "01_a.ipynb").unlink()
    assert latest(folder) == ["03_c", "02_b"]
    git(folder, "checkout", "-q", "--", ".")
    git(folder.parent, "clone", "-q", "--depth", "1", folder.as_uri(), str(folder / "shallow"))
    assert latest(folder / "shallow") == ["03_c", "02_b"]


def test_without_git_the_last_pages_by_number(folder, monkeypatch):
    assert latest(folder) == ["03_c", "02_b"]
    monkeypatch.setenv("PATH", "")
    assert latest(folder) == ["03_c", "02_b"]


def test_the_expression_selects_the_fixture_page_and_three_pages():
    pages = latest()
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "browser", "-k", expression(pages), "tests/browser"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    whole = [line.split("[")[1].rstrip("]") for line in done.stdout.splitlines() if "test_notebook_runs" in line]
    assert sorted(whole) == sorted(["00_start_here", *pages]), done.stdout
    assert sum("test_controls" in line for line in done.stdout.splitlines()) >= 5 and "test_make_lab" in done.stdout
