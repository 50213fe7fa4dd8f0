"""The recipes' own lines, run by make with stand-ins for the tools of .venv, in a folder with spaces in its path."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
TOOL = """#!/bin/sh
[ "$1" != -c ] || exit 0
echo "${0##*/} $* | PYTHONPATH $PYTHONPATH | LOG $STEPWISE_SOCKET_LOG" >>"@log@"
"""
# python -m venv FOLDER makes a folder whose python writes down what it is asked to do, and fails while a file `fail` is there
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exec "@real@" "$@"
mkdir -p "$3/bin" && cp "@tool@" "$3/bin/python"
"""
INSIDE = """#!/bin/sh
[ "$1" = -c ] && exec "@real@" "$@"
echo "$*" >>"@log@"
[ ! -e "@fail@" ]
"""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def script(path, text, **names):
    for name, value in names.items():
        text = text.replace(f"@{name}@", str(value))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make(folder, *arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON", "STEPWISE"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def place(tmp_path):
    """A checkout's Makefile and pins in `a b/c d/e`, and files of the same beginnings beside it, which nobody may touch."""
    root = tmp_path / "a b" / "c d" / "e"
    root.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    for bait in (tmp_path / "a", tmp_path / "a b" / "c", root.parent / "b", root / "b", root / "d"):
        bait.write_text("keep")
    return root


def outside(root, tmp_path):
    return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*") if root not in (path, *path.parents) and path.name != "log"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_recipe_stays_in_a_folder_with_spaces(place, tmp_path, target):
    for tool in ("python", "pytest", "jupyter", "ruff"):
        script(place / ".venv" / "bin" / tool, TOOL, log=tmp_path / "log")
    (place / "notebooks").mkdir()
    (place / "notebooks" / "00_start_here.ipynb").write_text("{}")
    (place / ".pytest_cache").mkdir()
    (place / ".pytest_cache" / "sockets.log").write_text("of the last run")
    (place / ".venv" / "stamp").write_text(f"{place}\n")
    before, inside = outside(place, tmp_path), sorted(place.iterdir())
    done = make(place, target)
    assert done.returncode == 0, done.stderr
    assert outside(place, tmp_path) == before and sorted(place.iterdir()) == inside and (place / "d").read_text() == "keep"
    ran = (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    assert bool(ran) == (target not in ("help", "env"))
    if target == "test":
        assert [line.split()[0] for line in ran] == ["pytest"] * 3
        assert f"| PYTHONPATH {place}/tests/notebooks/offline | LOG {place}/.pytest_cache/sockets.log" in ran[1]
        assert ran[2].endswith(f"| LOG {place}/.pytest_cache/sockets.log")
        assert not (place / ".pytest_cache" / "sockets.log").exists()


@pytest.mark.parametrize(
    "target, ran", [("study", "helpers.studies --processes 2"), ("method", "helpers.page.new_method "), ("model", "helpers.recipes.toy_latte")]
)
def test_the_name_of_the_machine_is_not_taken_for_an_argument(place, tmp_path, target, ran):
    script(place / ".venv" / "bin" / "python", TOOL, log=tmp_path / "log")
    (place / ".venv" / "stamp").write_text(f"{place}\n")
    assert make(place, target, NAME="DESKTOP-1").returncode == 0 and make(place, target, "NAME=mixup").returncode == 0
    without, given = (tmp_path / "log").read_text().splitlines()
    assert f"-m {ran} " in without and "DESKTOP-1" not in without and "mixup" in given


def test_a_sheet_and_pages_are_named_on_the_command_line(place, tmp_path):
    script(place / ".venv" / "bin" / "python", TOOL, log=tmp_path / "log")
    (place / ".venv" / "stamp").write_text(f"{place}\n")
    assert make(place, "handout", "NB=04_").returncode == make(place, "html", "PAGES=notebooks/00_start_here.ipynb").returncode == 0
    sheet, pages = (tmp_path / "log").read_text().splitlines()
    assert sheet.startswith("python -m helpers.page.handout 04_ |") and pages.startswith("python -m helpers.page.export notebooks/00_start_here.ipynb |")


def test_an_install_shows_its_progress(place, interpreter):
    said = make(place, "env", f"PYTHON={interpreter}")
    assert "2 to 6 GB (README says how to take the small build of torch)" in said.stdout
    line = next(line for line in (place / "Makefile").read_text().splitlines() if "-m pip install" in line)
    assert not {"-q", "--quiet", "--progress-bar=off"} & set(line.split())


@pytest.fixture
def interpreter(tmp_path):
    """Path of a stand-in for Python that really answers `-c`, and makes environments whose pip only writes down that it was asked."""
    script(tmp_path / "inside", INSIDE, real=sys.executable, log=tmp_path / "log", fail=tmp_path / "fail")
    script(tmp_path / "python right", PYTHON, real=sys.executable, tool=tmp_path / "inside")
    return tmp_path / "python right"


def installs(tmp_path):
    return (tmp_path / "log").read_text().count("pip install") if (tmp_path / "log").exists() else 0


def test_an_environment_is_made_once_and_brought_up_to_date_in_place(place, tmp_path, interpreter):
    for number in (1, 1, 2):
        if number == 2:
            later = (place / ".venv" / "stamp").stat().st_mtime + 10
            os.utime(place / "constraints.txt", (later, later))
        done = make(place, "env", f"PYTHON={interpreter}")
        assert done.returncode == 0 and installs(tmp_path) == number, done.stderr
        (place / ".venv" / "mine").touch()
    assert make(place, "env", PYTHON="absent").returncode == 2  # asked for and not there; what is there stays
    assert (place / ".venv" / "mine").exists()


def spoil_unfinished(venv):
    (venv / "stamp").unlink()


def spoil_killed_while_updating(venv):
    (venv / "stamp").rename(venv / "before")


def spoil_moved(venv):
    (venv / "stamp").write_text("/another/place\n")


def spoil_python_gone(venv):
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/nowhere/python3.11")


def spoil_without_pip(venv):
    script(venv / "bin" / "python", '#!/bin/sh\necho "No module named pip" >&2\nexit 1\n')


def spoil_other_version(venv):
    script(venv / "bin" / "python", '#!/bin/sh\ncase "$2" in *version_info*) echo "(3, 7)" ;; esac\n')


@pytest.mark.parametrize("spoil", [value for name, value in sorted(globals().items()) if name.startswith("spoil_")], ids=lambda spoil: spoil.__name__)
def test_a_wrong_environment_is_made_anew(place, tmp_path, interpreter, spoil):
    assert make(place, "env", f"PYTHON={interpreter}").returncode == 0
    (place / ".venv" / "left").touch()
    spoil(place / ".venv")
    done = make(place, "env", f"PYTHON={interpreter}")
    assert done.returncode == 0 and installs(tmp_path) == 2, done.stderr
    assert not (place / ".venv" / "left").exists() and (place / ".venv" / "stamp").read_text() == f"{place}\n"
    assert make(place, "env", f"PYTHON={interpreter}").returncode == 0 and installs(tmp_path) == 2


def test_a_failed_update_keeps_the_environment_and_is_tried_again(place, tmp_path, interpreter):
    assert make(place, "env", f"PYTHON={interpreter}").returncode == 0
    (place / ".venv" / "left").touch()
    later = (place / ".venv" / "stamp").stat().st_mtime + 10
    os.utime(place / "constraints.txt", (later, later))
    (tmp_path / "fail").touch()
    assert make(place, "env").returncode == 2
    (tmp_path / "fail").unlink()
    assert make(place, "env").returncode == 0
    assert installs(tmp_path) == 3 and (place / ".venv" / "left").exists()


def test_a_failed_first_install_is_not_taken_for_finished(place, tmp_path, interpreter):
    (tmp_path / "fail").touch()
    assert make(place, "env", f"PYTHON={interpreter}").returncode == 2
    (place / ".venv" / "left").touch()
    (tmp_path / "fail").unlink()
    assert make(place, "env", f"PYTHON={interpreter}").returncode == 0
    assert not (place / ".venv" / "left").exists()


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13), (3, 11, 0), (3, 13, 0), (3, 14, 1), (3, 15, 0)])
def test_the_version_is_checked_before_pip(place, tmp_path, interpreter, version):
    fine = version[0] == 3 and 11 <= version[1] <= 14
    text = ".".join(map(str, version))
    code = f"import sys\nsys.version_info, sys.version, sys.argv = {version}, {text!r}, sys.argv[1:]\nexec(sys.argv.pop(1))"
    (tmp_path / "aged.py").write_text(code)
    script(tmp_path / "aged", f'#!/bin/sh\n[ "$1" = -c ] && exec "{sys.executable}" "{tmp_path}/aged.py" "$@"\nexec "{interpreter}" "$@"\n')
    done = make(place, "env", f"PYTHON={tmp_path}/aged")
    assert (done.returncode == 0) == fine and (installs(tmp_path) == 1) == fine, done.stderr
    if not fine:
        assert f"Python 3.11 to 3.14, and {tmp_path}/aged is Python {text}: name another one, as in make env PYTHON=python3.12\n" in done.stderr
        assert not (place / ".venv").exists()


def test_a_python_that_is_not_there_is_named(place):
    done = make(place, "env", "PYTHON=python3.99")
    assert done.returncode != 0 and "There is no python3.99 here: install Python 3.11 to 3.14, or name one, as in make env PYTHON=python3.12\n" in done.stderr
    assert not (place / ".venv").exists()
