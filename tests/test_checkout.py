"""The package as `pip install .` lays it down, without the clone: methods work, and what needs the clone's folders says so in one sentence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import checkout

ROOT = Path(__file__).resolve().parents[1]
SENTENCE = "which comes with a clone of the repository: installed without its checkout"
METHODS = """
import numpy as np
import torch

from helpers.methods import masked_planning
from helpers.methods.alternating_normalization import alternating_normalization
from helpers.methods.knn_augmentation import KNNAugmentedClassifier

import helpers

assert helpers.__file__.startswith(@site@), helpers.__file__
points = np.random.default_rng(0).normal(size=(40, 3))
model = KNNAugmentedClassifier(k=3).fit(points, (points[:, 0] > 0).astype(int))
after = alternating_normalization(model.predict_proba(points[:5]), prior=[0.5, 0.5]).probabilities
print("methods", tuple(after.shape), masked_planning.references("interpolation", 9).tolist())
"""
CALLS = {
    "claims": "from helpers.page import ledger; ledger.load_claims()",
    "map": "from helpers.page import collection; collection.show_map()",
    "model": "from helpers.models import zoo; zoo.load('toy-latte')",
    "judges": "from helpers.models import judges; judges.load()",
    "bench": "from helpers.measures import caches; caches.load('toy-cogvideox')",
    "study": "from helpers import studies; studies.load('caching_schedules')",
}
COMMANDS = {
    "page.lab open": "notebooks/",
    "page.lab fresh": "notebooks/",
    "page.ledger": "notebooks/",
    "page.collection": "notebooks/",
    "page.new_method mixup": "tests/",
    "studies caching_schedules": "data/",
    "recipes.toy_vit": "data/",
}
# each command in one process, its last line on stderr beside its name
ENDS = """
import contextlib, io, runpy, sys

for command in COMMANDS:
    module, *rest = command.split()
    sys.argv, said = [module, *rest], io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            runpy.run_module(f"helpers.{module}", run_name="__main__")
        sys.exit(f"{command} ended well")
    except SystemExit as ended:
        assert ended.code not in (0, None)
        text = ended.code if isinstance(ended.code, str) else said.getvalue()
        print(command, text.strip().splitlines()[-1], sep="|", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder into which pip has installed a copy of the sources, dependencies left out; a foreign folder `data` lies in it, as some packages bring one."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "helpers", source / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    install = ["pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target), "."]
    done = subprocess.run([sys.executable, "-m", *install], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (target / "data").mkdir()
    return target


def run(site, arguments, folder):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=inherited | {"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=900)


def contents(folder):
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_what_is_installed(site):
    assert (site / "helpers" / "py.typed").is_file()
    assert not any((site / folder).exists() for folder in ("tests", "notebooks", "claims.toml"))
    assert [path.name for path in site.glob("*.dist-info")] == ["stepwise_vision-0.1.0.dist-info"]


def test_methods_work_and_the_rest_says_what_it_lacks(site, tmp_path):
    tries = "".join(f"try:\n    {call}\nexcept FileNotFoundError as error:\n    print('{name}:', error)\n" for name, call in CALLS.items())
    done = run(site, ["-c", METHODS.replace("@site@", repr(str(site))) + tries], tmp_path)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == "methods (5, 2) [True, False, False, False, False, False, False, False, True]"
    assert [line.split(": ")[0] for line in others] == list(CALLS)
    assert [line for line in others if not line.endswith(SENTENCE) and not (line.startswith("model") and "its checkout" in line)] == []


def test_a_command_says_what_it_lacks_and_writes_nothing(site, tmp_path):
    before = contents(site)
    done = run(site, ["-c", f"COMMANDS = {list(COMMANDS)}" + ENDS], tmp_path)
    assert done.returncode == 0, done.stderr
    said = dict(line.split("|") for line in done.stderr.splitlines() if "|" in line)
    assert {command: text.endswith(f"needs {COMMANDS[command]}, {SENTENCE}") for command, text in said.items()} == dict.fromkeys(COMMANDS, True)
    assert contents(site) == before and not list(tmp_path.iterdir())


def test_a_clone_has_all_of_it():
    for folder in ("data", "notebooks", "tests"):
        checkout.require("this test", folder)


def test_other_folders_are_refused():
    for folder in ("models", "", None, 3, ["data"]):
        with pytest.raises(ValueError, match="^folder must be one of data, notebooks, tests, got "):
            checkout.require("this test", folder)
    with pytest.raises(TypeError, match="^what must be a text, got NoneType$"):
        checkout.require(None)


def test_the_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"^zoo\.load\('toy-latte'\) needs data/, which comes with a clone of the repository: installed without its checkout$"
    ):
        checkout.require("zoo.load('toy-latte')")
