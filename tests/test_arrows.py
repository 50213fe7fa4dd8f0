"""Imports run one way: methods stand alone, the toy world imports nothing of ours, and nothing reaches upwards."""

import ast
from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
# what each part may import of the package, besides itself
MAY = {
    "toyworld": set(),
    "realdata": set(),
    "metrics": set(),
    "probabilities": set(),
    "exercises": set(),
    "small_models": set(),
    "figures": set(),
    "explore": {"figures"},
    "ledger": set(),
    "pages": set(),
    "zoo": {"toyworld", "realdata"},
    "methods": set(),
    "correspondence": {"toyworld", "realdata"},
    "judges": {"toyworld"},
    "tasks": {"toyworld", "realdata"},
    "matching_bench": {"correspondence", "methods"},
    "mixing_bench": {"figures", "judges", "toyworld"},
    "caches": {"methods", "zoo", "metrics", "toyworld"},
    "recipes": {
        "zoo", "caches", "correspondence", "judges", "matching_bench", "small_models", "tasks", "metrics", "toyworld", "realdata", "methods", "figures",
    },
}


def imported(path: Path) -> set[str]:
    """First names below `helpers` that a file imports."""
    found = set()
    package = ("helpers", *path.relative_to(HELPERS).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            stem = base + (node.module.split(".") if node.module else [])
            names = [".".join([*stem, alias.name]) for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("helpers.")}
    return found


@pytest.mark.parametrize("path", sorted(HELPERS.rglob("*.py")), ids=lambda p: str(p.relative_to(HELPERS)))
def test_imports_run_one_way(path):
    part = path.relative_to(HELPERS).parts[0].removesuffix(".py")
    if part == "__init__":
        assert not imported(path)
        return
    assert part in MAY, f"helpers/{part} is new: say here what it may import"
    assert imported(path) - {part} <= MAY[part]


@pytest.mark.parametrize("path", sorted((HELPERS / "methods").glob("*.py")), ids=lambda p: p.name)
def test_a_method_is_one_file(path):
    assert not imported(path), "a reader copies this one file"


def test_the_reader_of_imports_sees_all_forms(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "HELPERS", tmp_path)
    (tmp_path / "methods").mkdir()
    file = tmp_path / "methods" / "x.py"
    lines = ["import helpers.zoo", "from helpers import figures", "from .. import metrics", "from ..toyworld.shapes import clips", "from .other import y"]
    file.write_text("\n".join([*lines, "import torch"]))
    assert imported(file) == {"zoo", "figures", "metrics", "toyworld", "methods"}
