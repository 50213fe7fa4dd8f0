"""pyproject.toml, environment.yml and constraints.txt say the same."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = PROJECT["dependencies"] + [name for names in EXTRAS.values() for name in names]
PINS = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
CONDA = (ROOT / "environment.yml").read_text(encoding="utf-8")
PIP_LINES = re.findall(r"^      - (.*)$", CONDA, re.M)


def normal(name):
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", name)[0]).lower()


def test_every_pin_is_one_exact_public_version():
    assert [pin for pin in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin)] == []
    names = [normal(pin) for pin in PINS]
    assert sorted(set(names)) == sorted(names)
    assert "torch==2.13.0" in PINS


@pytest.mark.parametrize("name", DIRECT)
def test_direct_dependency_is_pinned_and_explained(name):
    assert normal(name) in {normal(pin) for pin in PINS}
    lines = [line for line in PIP_LINES if normal(line) == normal(name)]
    assert len(lines) == 1, f"{name} must stand once in environment.yml"
    assert re.fullmatch(r"\S+  # \S.{8,}", lines[0]), f"{name} needs a comment saying who needs it: {lines[0]!r}"


@pytest.mark.parametrize("line", DIRECT)
def test_the_bound_of_a_dependency_is_met_by_its_pin(line):
    asked = Requirement(line)
    pin = next(pin.split("==")[1] for pin in PINS if normal(pin) == normal(asked.name))
    assert [bound.operator for bound in asked.specifier] == [">="], f"{line} needs a lower bound and no other"
    assert asked.specifier.contains(pin), f"{line} is not met by the pinned {pin}"


def test_what_the_index_shows_of_the_project_is_true():
    shown = PROJECT["classifiers"]
    assert {"Framework :: Jupyter", "Typing :: Typed"} <= set(shown) and not any("License" in line for line in shown)  # the licence is a field of its own
    assert {"Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3.13"} <= set(shown)
    assert PROJECT["name"] not in ("stepwise", "helpers") and "urls" not in PROJECT
    assert (ROOT / "helpers" / "py.typed").read_bytes() == b"" and (ROOT / PROJECT["readme"]).is_file()


def test_environment_lists_nothing_else():
    listed = {normal(line) for line in PIP_LINES if not line.startswith("-")}
    assert listed == {normal(name) for name in DIRECT}
    assert PIP_LINES[:2] == ["-c constraints.txt", "-e .  # the package `helpers`"]


def test_pins_repeated_in_the_environment_are_the_same():
    repeated = [line.split()[0] for line in PIP_LINES if "==" in line] + [name for name in DIRECT if "==" in name]
    assert [pin for pin in repeated if pin not in PINS] == []


def test_python_versions_agree():
    assert PROJECT["requires-python"] == ">=3.11" and "- python=3.11 " in CONDA


def test_packages_without_a_cpu_build_are_nowhere():
    assert {"torchvision", "timm", "torchaudio"}.isdisjoint({normal(name) for name in [*DIRECT, *PINS, *PIP_LINES]})
