"""What the pages say of themselves. From it come the map and the index of figures on page 00 and the minutes in README, so that none is kept by hand.

A cell tagged `map` ends with `collection.show_claims()`, `collection.show_map()` or `collection.show_index()`. `python -m helpers.page.collection` (the end of
`make notebooks`; alone `make map`) writes the outputs of these cells and README's minutes anew, and runs nothing. A code cell that rebuilds a figure or a
table of its page's paper says so in its metadata, `"stepwise": {"rebuilds": ["figure 4", "table 2"]}`; the index is made of these.
"""

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.display import publish_display_data
from nbformat.v4 import new_output

from helpers import checkout
from helpers.arguments import instance
from helpers.page import ledger

__all__ = ["Page", "read_pages", "refresh", "show_claims", "show_index", "show_map", "stale"]

NOTEBOOKS, README = checkout.ROOT / "notebooks", checkout.ROOT / "README.md"
CLAIM = re.compile(r"\*\*The claim\b[^*]*\*\*\s*(.+?)\s*(?:\n\n|\Z)", re.S)
PAPER = re.compile(r"^Paper: [^*]*\*([^*]+)\*", re.M)
HEADING = re.compile(r"^#{2,4} (.+?)\s*$", re.M)
REBUILT = re.compile(r"(figure|table) (?:[A-Z]\.?)?\d+\S*( \(.+\))?")
PLAIN = re.compile(r"[A-Za-z0-9 .,:?!()'-]*")  # a heading that JupyterLab finds by its text; `#heading=` finds it also where it is not drawn yet
SHOWN = ("show_claims", "show_map", "show_index")


@dataclass(frozen=True)
class Page:
    """One notebook: its title, the claim of its opening lines, how many of its claims got which verdict, and what it takes to run and to read.

    `seconds` are processor seconds, None while `make notebooks` has not measured them; `words` are those of its text cells. `paper` is the title of its paper;
    `rebuilt` are the paper's figures and tables that it rebuilds, each with the heading under which they stand.
    """

    path: Path
    title: str
    claim: str
    verdicts: dict[str, int]
    seconds: int | None
    cells: int
    words: int
    paper: str = ""
    rebuilt: tuple[tuple[str, str], ...] = ()

    @property
    def minutes(self) -> int | None:
        return None if self.seconds is None else max(1, round(self.seconds / 60))


def read_page(path: Path) -> Page:
    """What one notebook says of itself. Raises ValueError when its first line is no title like `# 07 - Some title`."""
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    title = re.match(r"# \d\d - (.+)", texts[0] if texts else "")
    if not title:
        raise ValueError(f"{path.name} must begin with a line like `# {path.stem[:2]} - Its title`, it begins with {(texts or [''])[0][:40]!r}")
    claim = CLAIM.search("\n\n".join(texts[:2]))
    found = Counter(entry.verdict for entry in ledger.entries_of(path))
    sentence = claim[1][0].upper() + claim[1][1:].replace("\n", " ") if claim else ""
    verdicts = {verdict: found[verdict] for verdict in ledger.VERDICTS if found[verdict]}
    seconds = notebook.metadata.get("stepwise", {}).get("processor_seconds")
    paper = PAPER.search("\n\n".join(texts[:2]))
    words = sum(len(text.split()) for text in texts)
    return Page(path, title[1], sentence, verdicts, seconds, len(notebook.cells), words, paper[1] if paper else "", tuple(_rebuilt(notebook, path)))


def _rebuilt(notebook: nbformat.NotebookNode, path: Path) -> Iterator[tuple[str, str]]:
    """(figure or table, heading above it) for each that a cell rebuilds. Raises ValueError for names that are not like `figure 4` or `table 2 (right)`."""
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (HEADING.findall(cell.source) or [heading])[-1]
        for name in cell.metadata.get("stepwise", {}).get("rebuilds", ()):
            if not REBUILT.fullmatch(name):
                raise ValueError(f"{path.name}: a cell's metadata.stepwise.rebuilds must name things like 'figure 4' or 'table 2 (right)', got {name!r}")
            yield name, heading


def read_pages(folder: Path = NOTEBOOKS) -> list[Page]:
    """All pages by number. Raises ValueError when two notebooks have one number."""
    if Path(instance("folder", folder, (str, os.PathLike), "the name of a folder")) == NOTEBOOKS:
        checkout.require("the map", "notebooks")
    if not Path(folder).is_dir():
        raise ValueError(f"folder must be a folder of pages, got {str(folder)!r}, which is none")
    paths = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    for first, second in zip(paths, paths[1:]):
        if first.name[:2] == second.name[:2]:
            raise ValueError(f"{first.name} and {second.name} have one number; give the later page the next free one")
    return [read_page(path) for path in paths]


def claims_text(pages: Sequence[Page], claims: dict[str, ledger.Claim]) -> str:
    """How many claims are listed, how many are on these pages, and with which verdicts."""
    stems = {page.path.stem for page in pages}
    here = sum(claim.notebook in stems for claim in claims.values())
    verdicts = Counter()
    for page in pages:
        verdicts.update(page.verdicts)
    counts = ", ".join(f"{verdict} {verdicts[verdict]}" for verdict in ledger.VERDICTS if verdicts[verdict])
    return f"{len(claims)} claims are listed, {here} of them on pages that exist: {counts or 'none measured'}. The others wait for their page."


def map_text(pages: Sequence[Page]) -> str:
    """The map as a table in markdown: page, claim, verdicts, minutes."""
    rows = ["| page | the claim, and it could be false | verdicts | minutes |", "| --- | --- | --- | --- |"]
    for page in pages:
        verdicts = ", ".join(f"{verdict} {count}" for verdict, count in page.verdicts.items())
        minutes = "not measured yet" if page.minutes is None else str(page.minutes)
        cells = (f"[{page.path.stem[:2]} - {page.title}]({page.path.name})", page.claim, verdicts, minutes)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def index_text(pages: Sequence[Page]) -> str:
    """The index of figures as a table in markdown: the paper, its figure or table, the page and section where it is rebuilt."""
    rows = ["| paper | figure or table | rebuilt in |", "| --- | --- | --- |"]
    for page in pages:
        for heading in dict.fromkeys(heading for _, heading in page.rebuilt):
            names = ", ".join(dict.fromkeys(name for name, where in page.rebuilt if where == heading))
            anchor = f"#heading={heading.replace(' ', '-')}" if PLAIN.fullmatch(heading) else ""
            where = f"[page {page.path.stem[:2]}, section {re.sub(r' [(][^()]*minutes?[)]$', '', heading)}]({page.path.name}{anchor})"
            rows.append(f"| {page.paper} | {names} | {where} |")
    return "\n".join(rows)


def show_claims() -> None:
    """Show `claims_text` of the collection in a notebook."""
    publish_display_data(_output("show_claims", NOTEBOOKS))


def show_map() -> None:
    """Show `map_text` of the collection in a notebook."""
    publish_display_data(_output("show_map", NOTEBOOKS))


def show_index() -> None:
    """Show `index_text` of the collection in a notebook."""
    publish_display_data(_output("show_index", NOTEBOOKS))


def _output(name: str, folder: Path) -> dict[str, str]:
    pages = read_pages(folder)
    text = claims_text(pages, ledger.load_claims()) if name == "show_claims" else {"show_map": map_text, "show_index": index_text}[name](pages)
    return {"text/plain": text, "text/markdown": text}


def refreshed(path: Path, folder: Path | None = None) -> nbformat.NotebookNode:
    """The notebook with new outputs in its cells tagged `map`. Raises ValueError for such a cell that ends with none of these functions."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "map" in cell.metadata.get("tags", []):
            call = re.search(rf"\bcollection\.({'|'.join(SHOWN)})\(\)\s*\Z", cell.source)
            if not call:
                known = ", ".join(f"collection.{name}()" for name in SHOWN)
                raise ValueError(f"{path.name}: a cell tagged map must end with one of {known}, got {cell.source[-40:]!r}")
            cell.outputs = [new_output("display_data", data=_output(call[1], folder or path.parent))]
    return notebook


def readme_with_minutes(text: str, pages: Sequence[Page]) -> str:
    """README with the measured minutes in its table; a page that is not measured yet keeps what stands there. Raises ValueError for a page without a row."""
    for page in pages:
        row = re.compile(rf"^(\| {page.path.name[:2]} \| \[[^\]]*\]\(notebooks/{re.escape(page.path.name)}\) \|[^|]*\|)([^|]*)(\|)", re.M)
        if not row.search(text):
            raise ValueError(f"README.md has no row | {page.path.name[:2]} | [title](notebooks/{page.path.name}) | paper | minutes | what it shows |")
        if page.minutes is not None:
            text = row.sub(rf"\g<1> {page.minutes} \g<3>", text)
    return text


def stale(folder: Path = NOTEBOOKS, readme: Path = README) -> list[str]:
    """One sentence for the map and one for README where they are older than the pages."""
    pages, readme = read_pages(folder), _readme(readme)
    start = Path(folder) / "00_start_here.ipynb"
    faults = []
    if start.exists() and nbformat.read(start, as_version=4) != refreshed(start):
        faults.append(f"the map of {start.name} is older than the pages or data/claims.toml; run make map")
    text = Path(readme).read_text(encoding="utf-8")
    if text != readme_with_minutes(text, pages):
        faults.append(f"the minutes in {Path(readme).name} are not those that the pages took; run make map")
    return faults


def refresh(folder: Path = NOTEBOOKS, readme: Path = README) -> None:
    """Write the map of page 00 and README's minutes from the pages as they are stored."""
    pages, readme = read_pages(folder), _readme(readme)
    start, text = Path(folder) / "00_start_here.ipynb", readme.read_text(encoding="utf-8")
    new, notebook = readme_with_minutes(text, pages), refreshed(start)
    if nbformat.read(start, as_version=4) != notebook:
        nbformat.write(notebook, start)
    if new != text:
        Path(readme).write_text(new, encoding="utf-8")


def _readme(readme) -> Path:
    found = Path(instance("readme", readme, (str, os.PathLike), "the name of a file"))
    if not found.is_file():
        raise ValueError(f"readme must be a file, got {str(readme)!r}, which is none")
    return found


def main() -> None:
    argparse.ArgumentParser(prog="python -m helpers.page.collection", description="Write page 00's map and README's minutes from the pages.").parse_args()
    try:
        checkout.require("the map", "notebooks")
        refresh()
    except FileNotFoundError as error:
        sys.exit(str(error))
    pages = read_pages()
    unmeasured = [page.path.stem[:2] for page in pages if page.seconds is None]
    print(f"{len(pages)} pages on the map" + (f"; their minutes not measured yet: {', '.join(unmeasured)}" if unmeasured else ""))


if __name__ == "__main__":
    main()
