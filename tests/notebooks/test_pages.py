"""The guards over every committed notebook."""

from pathlib import Path

import nbformat
import pytest

from helpers.page import collection, execute, new_method
from helpers.page.ledger import load_claims
from tests.notebooks import guards

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("guard", guards.PAGE_GUARDS, ids=lambda guard: guard.__name__)
def test_page(path, guard):
    assert list(guard(nbformat.read(path, as_version=4))) == []


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_page_file(path):
    faults = list(guards.size(path.read_bytes()))
    faults += guards.claims(nbformat.read(path, as_version=4), stem=path.stem, known=load_claims())
    assert faults == []


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("guard", guards.FILE_GUARDS, ids=lambda guard: guard.__name__)
def test_page_by_name(path, guard):
    assert list(guard(nbformat.read(path, as_version=4), stem=path.stem)) == []


@pytest.mark.notebooks
def test_the_collection_is_numbered_notebooks_and_nothing_else():
    names = [path.name for path in NOTEBOOKS[:1]] and [path.name for path in sorted(NOTEBOOKS[0].parent.iterdir()) if not path.name.startswith(".")]
    assert names == [path.name for path in NOTEBOOKS] and names[0] == "00_start_here.ipynb"
    assert all(name[:2].isdigit() and name[2] == "_" for name in names)
    assert list(guards.numbers(names)) == []


@pytest.mark.notebooks
def test_map_and_minutes_are_those_of_the_collection():
    assert collection.stale() == []


@pytest.mark.notebooks
def test_the_picture_of_the_readme_is_the_one_on_the_page():
    tagged = [path for path in NOTEBOOKS if any("overview" in cell.metadata.get("tags", []) for cell in nbformat.read(path, as_version=4).cells)]
    assert len(tagged) == 1
    assert execute.OVERVIEW.read_bytes() == execute.overview(tagged[0]), f"run: make notebooks PAGES=notebooks/{tagged[0].name}"


@pytest.mark.notebooks
def test_the_readme_lists_the_collection():
    text = (execute.OVERVIEW.parents[1] / "README.md").read_text()
    assert [path.name for path in NOTEBOOKS if f"(notebooks/{path.name})" not in text] == []


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_its_name_is_left_to_fill_in(path):
    root, name = execute.OVERVIEW.parents[1], path.stem[3:]
    files = [root / file for file in new_method.files_of(name, path.stem) if file.endswith(".py")]
    left = [str(file.relative_to(root)) for file in files if file.exists() and "FILL IN" in file.read_text(encoding="utf-8")]
    left += [f"README.md, {line}" for line in (root / "README.md").read_text(encoding="utf-8").splitlines() if path.name in line and "FILL IN" in line]
    left += [f"data/claims.toml, {item.id}" for item in load_claims().values() if item.notebook == path.stem and "FILL IN" in repr(item)]
    assert left == []
