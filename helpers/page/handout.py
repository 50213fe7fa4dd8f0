"""An exercise sheet of one page, without its solutions (`make handout NB=04_`): the opening, the cells that the exercises need, and the exercises.

handouts/04_diffusion_features.ipynb
"""

import argparse
import ast
import builtins
import re
import symtable
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from helpers import checkout
from helpers.page.execute import tidy

__all__ = ["main"]

PAGE_LINK = re.compile(r"\]\((?=\d\d_\w+\.ipynb)")
PREPARATION = "## Preparation\n\nRun these cells first; the page itself explains them."
EXERCISES = "## Exercises\n\nFill in the `...`, then run the cell and the check below it. The check says what is wrong."


def sheet(notebook: NotebookNode) -> NotebookNode:
    """The exercise sheet of a page, a new notebook without outputs, solutions and hints.

    Of the other cells it has those that bind, directly or not, a global name that an exercise or its check reads. Raises ValueError for a page without
    exercises, and where nothing binds such a name.
    """
    cells = notebook.cells
    ours = [i for i, cell in enumerate(cells) if {"exercise", "check"} & _tags(cell)]
    if not ours:
        raise ValueError("the page must have cells tagged exercise, it has none")
    needed, wanted = [], set()
    for i in reversed(range(len(cells))):
        if cells[i].cell_type != "code" or "solution" in _tags(cells[i]):
            continue
        reads, binds = _names(cells[i].source)
        if i in ours or binds & wanted:
            wanted = (wanted - binds) | reads
            needed += [i] if i not in ours else []
    if wanted := wanted - set(dir(builtins)):
        raise ValueError(f"nothing on the page binds {', '.join(sorted(wanted))}, which its exercises need")
    chosen = [cells[0], new_markdown_cell(PREPARATION), *(cells[i] for i in reversed(needed)), new_markdown_cell(EXERCISES)]
    for i in ours:
        if "exercise" in _tags(cells[i]) and i and cells[i - 1].cell_type == "markdown":
            text = cells[i - 1].source
            chosen.append(new_markdown_cell(text[max(0, text.find("**Exercise")) :]))  # what the page says before it may tell its results
        chosen.append(cells[i])
    new = nbformat.from_dict({**notebook, "cells": [nbformat.from_dict(cell) for cell in chosen]})
    new.metadata.pop("stepwise", None)
    for cell in new.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = PAGE_LINK.sub(r"](../notebooks/", cell.source)
    return tidy(new)


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", ()))


class _Generators(ast.NodeTransformer):
    """Comprehensions as generators, whose names stay their own in every Python: from 3.12 on, those of the others stand among the names around them."""

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)


def _names(source: str) -> tuple[set[str], set[str]]:
    """(global names that a cell needs from before it, those that it binds)."""
    needs, bound = set(), set()
    for statement in _Generators().visit(ast.parse(source)).body:
        top = symtable.symtable(ast.unparse(statement), "cell", "exec")
        reads = {node.target.id for node in ast.walk(statement) if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)}
        binds, own, todo = set(), set(), [top]
        while todo:
            table = todo.pop()
            todo += table.get_children()
            for symbol in table.get_symbols():
                if table is top or symbol.is_global():
                    own |= {symbol.get_name()} if symbol.is_referenced() else set()
                    binds |= {symbol.get_name()} if symbol.is_assigned() or symbol.is_imported() else set()
        if not isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            own -= binds  # a loop's variable, a function that calls itself, :=
        needs |= (reads | own) - bound
        bound |= binds
    return needs, bound


def main() -> None:
    parser = argparse.ArgumentParser(prog="make handout NB=04_", description=__doc__.splitlines()[0])
    parser.add_argument("page", help="a page's number or name, as in 04_ or 04_diffusion_features")
    parser.add_argument("--out", type=Path, default=Path("handouts"), help="the folder")
    given = parser.parse_args()
    try:
        checkout.require("make handout", "notebooks")
        pages = sorted((checkout.ROOT / "notebooks").glob("*.ipynb"))
        name = Path(given.page).name.removesuffix(".ipynb")
        found = [path for path in pages if name and path.stem.startswith(name)]
        if len(found) != 1:
            there = ", ".join(path.stem for path in found or pages)
            raise ValueError(f"NB must name one page, as in NB=04_; NB={given.page} names {len(found)}: {there if found else f'there are {there}'}")
        new = sheet(nbformat.read(found[0], as_version=4))
        given.out.mkdir(parents=True, exist_ok=True)
        nbformat.write(new, given.out / found[0].name)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    count = sum("exercise" in _tags(cell) for cell in new.cells)
    print(f"{given.out / found[0].name}: {count} exercises without their solutions; JupyterLab of make lab opens it")


if __name__ == "__main__":
    main()
