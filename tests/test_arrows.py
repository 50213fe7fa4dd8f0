"""Imports run one way between the rooms: methods stand alone, the toy world imports nothing of ours, and nothing reaches upwards."""

import ast
from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
# what each room may import of the package, besides itself
MAY = {
    "toyworld": set(),
    "methods": set(),
    "page": set(),
    "datasets": {"toyworld"},
    "models": {"toyworld", "datasets", "methods"},
    "measures": {"toyworld", "datasets", "models", "methods"},
    "recipes": {"toyworld", "datasets", "models", "methods", "measures"},
    "studies": {"toyworld", "datasets", "models", "methods", "measures", "recipes"},
}
COMMON = {"arguments", "checkout"}  # files beside the rooms, which import nothing of ours and which every room but methods may import
ROOMS = sorted(path for path in HELPERS.iterdir() if path.is_dir() and path.name != "__pycache__")


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
    room = path.relative_to(HELPERS).parts[0]
    if room.removesuffix(".py") in {"__init__", *COMMON}:
        assert not imported(path)
        return
    assert room in MAY, f"helpers/{room} is no room: put the file into one of {', '.join(MAY)}, or say here what a new room may import"
    assert imported(path) - {room} <= MAY[room] | (COMMON if room != "methods" else set())


METHODS = sorted(path for path in (HELPERS / "methods").iterdir() if path.name not in ("__init__.py", "__pycache__"))


@pytest.mark.parametrize("path", METHODS, ids=lambda p: p.stem)
def test_a_method_can_be_copied_alone(path):
    """A file imports nothing of ours; a folder only its own files, by relative imports that stay inside it."""
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        depth = len(file.relative_to(HELPERS / "methods").parts) - 1  # 0: the method is this one file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= depth, f"{file.name} line {node.lineno} leaves what a reader copies"
                assert node.level or not (node.module or "").startswith("helpers")
            elif isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "helpers" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: p.name)
def test_a_room_says_what_lives_there_and_what_it_may_import(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert len(text.splitlines()) >= 1
    said = {word.strip(".,:;`") for line in text.splitlines() if "import" in line.lower() for word in line.split()}
    assert MAY[room.name] <= said or (not MAY[room.name] and "nothing" in text), f"helpers/{room.name}/__init__.py must name {sorted(MAY[room.name])}"


def test_the_reader_of_imports_sees_all_forms(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "HELPERS", tmp_path)
    (tmp_path / "methods").mkdir()
    file = tmp_path / "methods" / "x.py"
    lines = ["import helpers.models.zoo", "from helpers import page", "from .. import measures", "from ..toyworld.shapes import clips", "from .other import y"]
    file.write_text("\n".join([*lines, "import torch"]))
    assert imported(file) == {"models", "page", "measures", "toyworld", "methods"}
