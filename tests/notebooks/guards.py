"""What must hold for a committed page and a re-run cannot see. Each guard yields one sentence per fault."""

import ast
import re
import symtable
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from nbformat import NotebookNode

from helpers.page.ledger import Claim

MAX_BYTES = 1_000_000
MAX_LINES, MAX_COLUMNS = 25, 110  # of a code cell: what a laptop shows beside its figure
CURE = "run make notebooks PAGES=notebooks/<page>"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MAX = {"processor seconds": 90, "cells": 70, "words": 3000}  # of one page: what it takes to run it, and what there is to read
TAGS = {
    "parameters", "figure", "overview", "control", "exercise", "check", "solution", "hide-cell", "map", "nbval-ignore-output", "raises-exception",
}  # fmt: skip
ABSOLUTE_PATH = re.compile(r"""["'](?:/(?:home|root|tmp|work|usr|mnt|data|Users|opt|var)\b|[A-Za-z]:\\\\?|~/)""")


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def code_cells(page) -> list:
    return [cell for cell in page.cells if cell.cell_type == "code"]


def bundles(cell) -> list[dict]:
    """The mimebundles among a cell's outputs."""
    return [output["data"] for output in cell.outputs if "data" in output]


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def name(cell) -> str:
    first = (cell.source.strip().splitlines() or ["(empty)"])[0]
    return f"cell [{cell.get('execution_count')}] {first[:60]!r}"


def counts(page: NotebookNode) -> Iterator[str]:
    found = [cell.execution_count for cell in code_cells(page)]
    if found != list(range(1, len(found) + 1)):
        yield f"execution counts are {found}, expected 1 to {len(found)} in order; {CURE}"


def errors(page: NotebookNode) -> Iterator[str]:
    for cell in code_cells(page):
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed and "raises-exception" not in tags(cell):
            yield f"{name(cell)} ends in an error without the tag raises-exception"
        if any(output.output_type == "stream" and output.name == "stderr" for output in cell.outputs) and "nbval-ignore-output" not in tags(cell):
            yield f"{name(cell)} prints to stderr (a warning?); cure it at its source"


def figures(page: NotebookNode) -> Iterator[str]:
    for cell in code_cells(page):
        has_png = any("image/png" in bundle for bundle in bundles(cell))
        if "figure" in tags(cell):
            if not has_png:
                yield f"{name(cell)} is tagged figure and holds no PNG"
            if not (printed(cell).strip().splitlines() or [""])[-1].startswith("digest:"):
                yield f"{name(cell)} is tagged figure and its print does not end with a line beginning 'digest:'"
        elif has_png and "control" not in tags(cell):
            yield f"{name(cell)} holds a PNG and is tagged neither figure nor control"
        if "control" in tags(cell) and not any({"image/png", "text/html"} & set(bundle) for bundle in bundles(cell)):
            yield f"{name(cell)} is tagged control and holds no film strip"


def images(page: NotebookNode) -> Iterator[str]:
    for cell in code_cells(page):
        for bundle in bundles(cell):
            for kind in bundle:
                if kind.startswith(("image/", "video/", "audio/")) and kind != "image/png":
                    yield f"{name(cell)} holds {kind}, expected PNG only"
            html = "".join(bundle.get("text/html", ""))
            if re.search(r"<(svg|video|iframe|script)\b|data:image/(?!png)|data:video", html):
                yield f"{name(cell)} holds a picture other than PNG, a video or a script in its HTML"


def alternatives(page: NotebookNode) -> Iterator[str]:
    for cell in code_cells(page):
        for output in cell.outputs:
            said = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            if "image/png" in output.get("data", {}) and said.strip(" .") in ("", "Figure"):
                yield f"{name(cell)} holds a PNG without a text for those who do not see it (metadata image/png: alt); {CURE}"


def widgets(page: NotebookNode) -> Iterator[str]:
    if "widgets" in page.metadata:
        yield f"the page stores widget state in metadata.widgets; {CURE}"
    for cell in code_cells(page):
        if any(WIDGET_VIEW in bundle for bundle in bundles(cell)):
            yield f"{name(cell)} stores a live widget, which shows an error without a kernel; {CURE}"


def claims(page: NotebookNode, *, stem: str, known: dict[str, Claim]) -> Iterator[str]:
    wanted = sorted(item.id for item in known.values() if item.notebook == stem)
    found = sorted(output.metadata["stepwise"]["id"] for cell in code_cells(page) for output in cell.outputs if "stepwise" in output.get("metadata", {}))
    if found != wanted:
        yield f"ledger entries are {found}, expected exactly {wanted}"
    elif not wanted and not stem.startswith("00_"):
        yield f"data/claims.toml lists no claim whose notebook is {stem}"


def exercises(page: NotebookNode) -> Iterator[str]:
    cells = code_cells(page)
    for i, cell in enumerate(cells):
        if "exercise" not in tags(cell):
            continue
        rest = cells[i + 1 :]
        end = next((k for k, other in enumerate(rest) if "exercise" in tags(other)), len(rest))
        following = rest[:end]
        solution = next((other for other in following if "solution" in tags(other)), None)
        if not any("check" in tags(other) for other in following):
            yield f"exercise {name(cell)} has no cell tagged check after it"
        if solution is None:
            yield f"exercise {name(cell)} has no cell tagged solution after it"
        elif "hide-cell" not in tags(solution) or not solution.metadata.get("jupyter", {}).get("source_hidden"):
            yield f"solution {name(solution)} needs the tag hide-cell and jupyter.source_hidden"
        elif not solution.execution_count:
            yield f"solution {name(solution)} was not executed"


def parameters(page: NotebookNode) -> Iterator[str]:
    found = [cell for cell in code_cells(page) if "parameters" in tags(cell)]
    if len(found) != 1 or not re.search(r'^SCALE = "desk"', found[0].source, re.M):
        yield 'there must be one cell tagged parameters with SCALE = "desk"'


def source(page: NotebookNode) -> Iterator[str]:
    for cell in code_cells(page):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if len(lines) > MAX_LINES:
            yield f"{name(cell)} has {len(lines)} lines, expected at most {MAX_LINES}"
        longest = max(lines, key=len, default="")
        if len(longest) > MAX_COLUMNS:
            yield f"{name(cell)} has a line of {len(longest)} columns, expected at most {MAX_COLUMNS}: {longest.strip()[:60]}"
        if re.search(r"^\s*[!%]\s*(pip|conda)\b", cell.source, re.M):
            yield f"{name(cell)} installs something"
        if ABSOLUTE_PATH.search(cell.source):
            yield f"{name(cell)} names an absolute path"


def size(data: bytes) -> Iterator[str]:
    if len(data) > MAX_BYTES:
        yield f"the file has {len(data):,} bytes, expected at most {MAX_BYTES:,}; {CURE}, which packs its pictures"


def known_tags(page: NotebookNode) -> Iterator[str]:
    for cell in page.cells:
        for tag in sorted(tags(cell) - TAGS):
            nearest = get_close_matches(tag, TAGS, 1)
            yield f"{name(cell)} has the unknown tag {tag!r}; " + (f"the nearest is {nearest[0]!r}" if nearest else f"known are {sorted(TAGS)}")


def ledger_compared(page: NotebookNode) -> Iterator[str]:
    for cell in code_cells(page):
        if "nbval-ignore-output" in tags(cell) and any("stepwise" in output.get("metadata", {}) for output in cell.outputs):
            yield f"{name(cell)} closes a claim and is tagged nbval-ignore-output, so that nothing compares its verdict"


def unfilled(page: NotebookNode) -> Iterator[str]:
    for cell in page.cells:
        if "FILL IN" in cell.source:
            yield f"{name(cell)} still says FILL IN"


def minimum(page: NotebookNode, *, stem: str) -> Iterator[str]:
    has = {tag: any(tag in tags(cell) for cell in code_cells(page)) for tag in ("figure", "control", "exercise", "check")}
    if not stem.startswith("00_"):
        has["ledger entry"] = any("stepwise" in output.get("metadata", {}) for cell in code_cells(page) for output in cell.outputs)
        has["claim (**The claim, and it could be false:** ...)"] = any("**The claim" in cell.source for cell in page.cells[:2])
    for part, there in has.items():
        if not there:
            yield f"the page has no {part}"


def controls(page: NotebookNode) -> Iterator[str]:
    """A control is moved when the whole page has run: what its functions read must not have been bound anew by then."""
    cells = code_cells(page)
    tables = [symtable.symtable(plain(cell), "cell", "exec") for cell in cells]
    bound = [binds(ast.parse(plain(cell))) for cell in cells]
    for i, cell in enumerate(cells):
        if "control" not in tags(cell):
            continue
        functions = {child.get_name(): child for table in tables[: i + 1] for child in table.get_children()}
        used = [functions[read] for read in reads(tables[i]) if read in functions]  # what the cell itself reads it has read by then
        todo, seen = set().union(*map(reads, [*tables[i].get_children(), *used])), set()
        while todo - seen:
            seen.add(read := min(todo - seen))
            todo |= reads(functions[read]) if read in functions else set()
        for read in sorted(seen):
            if any(read in names for names in bound[: i + 1]) and (later := [name(cells[k]) for k in range(i + 1, len(cells)) if read in bound[k]]):
                yield f"{name(cell)} draws with {read!r}, which {later[0]} binds anew: a control that is moved afterwards would draw something else"


def plain(cell) -> str:
    return "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))


def binds(node: ast.AST) -> set[str]:
    """Names that a cell binds for the page: not those of functions, classes and comprehensions within, whose tables differ between Pythons."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return set()
    if isinstance(node, ast.alias):
        return {node.asname or node.name.partition(".")[0]}
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    return own.union(*map(binds, ast.iter_child_nodes(node)))


def reads(table: symtable.SymbolTable) -> set[str]:
    """Names of the page that a cell or a function reads, and all that is defined within."""
    own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module")}
    return own.union(*map(reads, table.get_children()))


def scale(page: NotebookNode) -> Iterator[str]:
    code = "\n".join(map(plain, code_cells(page)))
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name) and node.id == "SCALE"]
    stored, read = (any(isinstance(node.ctx, kind) for node in names) for kind in (ast.Store, ast.Load))
    if stored and not read:
        yield "SCALE is declared and no cell reads it, so that setting it to paper changes nothing"


def budget(page: NotebookNode, *, stem: str) -> Iterator[str]:
    found = {
        "processor seconds": page.metadata.get("stepwise", {}).get("processor_seconds"),
        "cells": len(page.cells),
        "words": sum(len(cell.source.split()) for cell in page.cells if cell.cell_type == "markdown"),
    }
    if found["processor seconds"] is None:
        yield f"the page's processor seconds were not measured: make notebooks PAGES=notebooks/{stem}.ipynb"
    for kind, count in found.items():
        if count is not None and count > MAX[kind]:
            yield f"the page has {count} {kind}, expected at most {MAX[kind]}"


def numbers(names: Iterable[str]) -> Iterator[str]:
    names = sorted(names)
    for first, second in zip(names, names[1:]):
        if first[:2] == second[:2]:
            yield f"{first} and {second} have one number; give the later page the next free one"


PAGE_GUARDS = (counts, errors, figures, images, alternatives, widgets, exercises, parameters, source, known_tags, ledger_compared, unfilled, scale, controls)
FILE_GUARDS = (minimum, budget)  # these know the page's name
