"""`make handout`: the exercises of a page and the cells that they need, and nothing that solves them."""

import ast
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.page import handout

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code(source, *tags):
    return new_code_cell(source, outputs=[new_output("stream", text="printed\n")], execution_count=7, metadata={"tags": list(tags)})


def page(*cells):
    return new_notebook(cells=[new_markdown_cell("# 09 - A\n\nSee [there](01_b.ipynb#heading=C) and [arXiv](https://x.invalid/01_b.ipynb)."), *cells])


EXERCISE = (new_markdown_cell("The answer is 3.\n\n**Exercise 1 (5 minutes, easy): add.**"), code("def mine(x):\n    return ...", "exercise"))
CHECK = code("cases = [(SEED, scale(2), 'hint')]\ncheck(mine, cases)", "check")
SOLUTION = code("def solved(x):\n    return secret\n\n\nSEED = solved(1)", "solution", "hide-cell")


def sources(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_it_has_what_the_exercises_need_and_no_solution():
    needed = ["SEED = 1", "import check", "factor = 2", "def scale(x):\n    return x * factor"]
    cells = [code(needed[0], "parameters"), code(needed[1]), code("unused = SEED"), code(needed[2]), code(needed[3]), code("fig = scale(1)", "figure")]
    made = handout.sheet(page(*cells, *EXERCISE, CHECK, SOLUTION, new_markdown_cell("<details><summary>Hint</summary>secret</details>")))
    assert sources(made) == [*needed, EXERCISE[1].source, CHECK.source]
    assert not any("secret" in cell.source or "The answer is 3" in cell.source for cell in made.cells)
    assert "](../notebooks/01_b.ipynb#heading=C)" in made.cells[0].source and "](https://x.invalid/01_b.ipynb)" in made.cells[0].source
    assert [cell.source[:14] for cell in made.cells if cell.cell_type == "markdown"] == [
        "# 09 - A\n\nSee ",
        "## Preparation",
        "## Exercises\n\n",
        "**Exercise 1 (",
    ]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in made.cells if cell.cell_type == "code")
    nbformat.validate(made)


def test_the_page_stays_as_it_is():
    given = page(code("SEED = 1; scale = check = abs"), *EXERCISE, CHECK, SOLUTION)
    before = nbformat.writes(given)
    handout.sheet(given)
    assert nbformat.writes(given) == before


@pytest.mark.parametrize(
    "source, needs, binds",
    [
        ("a = b + c; d = a", "bc", "ad"),
        ("a = a + 1", "a", "a"),
        ("a += b", "ab", "a"),
        ("for a in b:\n    c = a", "b", "ac"),
        ("print(f'{(a := b)}', a)", "print b", "a"),
        ("x = [a for a in b if c]", "bc", "x"),
        ("x = {a: [d for d in a] for a in b}, {e for e in c}", "bc", "x"),
        ("x = [(y := a) for a in b]", "b", "xy"),
        ("def f(a, b=c):\n    d = e\n    return f(d)", "ce", "f"),
        ("def f():\n    global g\n    g = h", "h", "fg"),
        ("import a.b as c, d.e", "", "cd"),
        ("with a as b:\n    b.c()", "a", "b"),
        ("a.b = c; d[e] = 1", "acde", ""),
        ("class A:\n    b = c", "c", "A"),
    ],
)
def test_names(source, needs, binds):
    def names(text):
        return set(text.split()) if " " in text else set(text)

    assert handout._names(source) == ({n for word in needs.split() for n in (names(word) if word != "print" else {"print"})}, names(binds))


def test_a_page_that_has_none_is_refused():
    with pytest.raises(ValueError, match="must have cells tagged exercise, it has none"):
        handout.sheet(page(code("a = 1")))
    with pytest.raises(ValueError, match="nothing on the page binds SEED, scale, which its exercises need"):
        handout.sheet(page(code("check = 1"), *EXERCISE, CHECK, SOLUTION))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["handout", *arguments])
    handout.main()


def test_the_command_says_where_it_wrote(monkeypatch, tmp_path, capsys):
    run(monkeypatch, "06_", "--out", str(tmp_path / "new"))
    (written,) = (tmp_path / "new").iterdir()
    assert capsys.readouterr().out.startswith(f"{written}: 3 exercises without their solutions")
    for wrong, said in (
        ("0", f"names {sum(Path(page).name.startswith('0') for page in PAGES)}: 00_start_here, "),
        ("", "names 0: there are 00_start_here, "),
        ("99", "names 0: there are 00_start_here, "),
    ):
        with pytest.raises(SystemExit, match="1"):
            run(monkeypatch, wrong, "--out", str(tmp_path / "other"))
        assert f"NB must name one page, as in NB=04_; NB={wrong} {said}" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_page_has_a_sheet(path):
    notebook = nbformat.read(path, as_version=4)
    made = handout.sheet(notebook)
    solutions = [cell.source for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]
    exercises = [cell for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])]
    assert solutions and not set(solutions) & set(sources(made)) and len(made.cells) <= 20
    assert [cell.source for cell in made.cells if "exercise" in cell.metadata.get("tags", [])] == [cell.source for cell in exercises]
    for source in sources(made):
        ast.parse(source)
    assert sum(cell.source.startswith("**Exercise") for cell in made.cells if cell.cell_type == "markdown") == len(exercises)
