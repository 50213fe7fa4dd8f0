"""The guards over every committed notebook."""

from pathlib import Path

import nbformat
import pytest

from helpers.page import execute
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
def test_the_folder_holds_numbered_notebooks_and_nothing_else():
    names = [path.name for path in NOTEBOOKS[:1]] and [path.name for path in sorted(NOTEBOOKS[0].parent.iterdir()) if not path.name.startswith(".")]
    assert names == [path.name for path in NOTEBOOKS] and names[0] == "00_start_here.ipynb"
    assert all(name[:2].isdigit() and name[2] == "_" for name in names)


@pytest.mark.notebooks
def test_the_picture_of_the_readme_is_the_one_on_the_page():
    tagged = [path for path in NOTEBOOKS if any("overview" in cell.metadata.get("tags", []) for cell in nbformat.read(path, as_version=4).cells)]
    assert len(tagged) == 1
    assert execute.OVERVIEW.read_bytes() == execute.overview(tagged[0]), f"run: make notebooks PAGES=notebooks/{tagged[0].name}"


@pytest.mark.notebooks
def test_the_readme_lists_every_page():
    text = (execute.OVERVIEW.parents[1] / "README.md").read_text()
    assert [path.name for path in NOTEBOOKS if f"(notebooks/{path.name})" not in text] == []
