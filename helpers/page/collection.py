"""What the pages say of themselves. From it come the map on page 00 and the minutes in README, so that neither is kept by hand.

A cell tagged `map` ends with `collection.show_claims()` or `collection.show_map()`. `python -m helpers.page.collection` (the end of `make notebooks`; alone
`make map`) writes the outputs of these cells and README's minutes anew, and runs nothing.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.display import publish_display_data
from nbformat.v4 import new_output

from helpers.page import ledger

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS, README = ROOT / "notebooks", ROOT / "README.md"
CLAIM = re.compile(r"\*\*The claim\b[^*]*\*\*\s*(.+?)\s*(?:\n\n|\Z)", re.S)


@dataclass(frozen=True)
class Page:
    """One notebook: its title, the claim of its opening lines, how many of its claims got which verdict, and what it takes to run and to read.

    `seconds` are processor seconds, None while `make notebooks` has not measured them; `words` are those of its text cells.
    """

    path: Path
    title: str
    claim: str
    verdicts: dict[str, int]
    seconds: int | None
    cells: int
    words: int

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
    return Page(path, title[1], sentence, verdicts, seconds, len(notebook.cells), sum(len(text.split()) for text in texts))


def read_pages(folder: Path = NOTEBOOKS) -> list[Page]:
    """All pages by number. Raises ValueError when two notebooks have one number."""
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


def show_claims() -> None:
    """Show `claims_text` of the collection in a notebook."""
    publish_display_data(_output("show_claims", NOTEBOOKS))


def show_map() -> None:
    """Show `map_text` of the collection in a notebook."""
    publish_display_data(_output("show_map", NOTEBOOKS))


def _output(name: str, folder: Path) -> dict[str, str]:
    pages = read_pages(folder)
    text = {"show_claims": lambda: claims_text(pages, ledger.load_claims()), "show_map": lambda: map_text(pages)}[name]()
    return {"text/plain": text, "text/markdown": text}


def refreshed(path: Path, folder: Path | None = None) -> nbformat.NotebookNode:
    """The notebook with new outputs in its cells tagged `map`. Raises ValueError for such a cell that ends with neither function."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "map" in cell.metadata.get("tags", []):
            call = re.search(r"\bcollection\.(show_claims|show_map)\(\)\s*\Z", cell.source)
            if not call:
                raise ValueError(f"{path.name}: a cell tagged map must end with collection.show_claims() or collection.show_map(), got {cell.source[-40:]!r}")
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
    start, pages = Path(folder) / "00_start_here.ipynb", read_pages(folder)
    faults = []
    if start.exists() and nbformat.read(start, as_version=4) != refreshed(start):
        faults.append(f"the map of {start.name} is older than the pages or data/claims.toml; run make map")
    text = Path(readme).read_text(encoding="utf-8")
    if text != readme_with_minutes(text, pages):
        faults.append(f"the minutes in {Path(readme).name} are not those that the pages took; run make map")
    return faults


def refresh(folder: Path = NOTEBOOKS, readme: Path = README) -> None:
    """Write the map of page 00 and README's minutes from the pages as they are stored."""
    start, text = Path(folder) / "00_start_here.ipynb", Path(readme).read_text(encoding="utf-8")
    new, notebook = readme_with_minutes(text, read_pages(folder)), refreshed(start)
    if nbformat.read(start, as_version=4) != notebook:
        nbformat.write(notebook, start)
    if new != text:
        Path(readme).write_text(new, encoding="utf-8")


def main() -> None:
    argparse.ArgumentParser(prog="python -m helpers.page.collection", description="Write page 00's map and README's minutes from the pages.").parse_args()
    refresh()
    pages = read_pages()
    unmeasured = [page.path.stem[:2] for page in pages if page.seconds is None]
    print(f"{len(pages)} pages on the map" + (f"; their minutes not measured yet: {', '.join(unmeasured)}" if unmeasured else ""))


if __name__ == "__main__":
    main()
