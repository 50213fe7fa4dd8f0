"""The pages as a folder of HTML that needs no network and no Python (`make html`): figures inside, links kept, solutions folded, formulas drawn.

html/index.html          leads to page 00
html/01_caching_schedules.html, ..., html/LEDGER.html
html/mathjax/            of data/mathjax, without fonts
"""

import argparse
import html
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbconvert import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook

from helpers import checkout
from helpers.page.lab import TEMPLATES

__all__ = ["main"]

LINK = re.compile(r'(<a\b[^>]*?\bhref=")([^"]*)(")')
INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Stepwise</title><meta http-equiv="refresh" content="0; url={first}"></head>
<body><p><a href="{first}">Start here</a></p></body></html>
"""


def page_html(notebook: nbformat.NotebookNode, title: str) -> str:
    """A stored notebook as one HTML page, which asks no network for anything. Links between pages lead to .html files beside it."""
    exporter = HTMLExporter(template_name="stepwise", extra_template_basedirs=[str(TEMPLATES)], mathjax_url="mathjax/tex-svg-full.js")
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return LINK.sub(lambda found: found[1] + html.escape(_target(html.unescape(found[2]))) + found[3], body)


def _target(link: str) -> str:
    """Where a link of a page or of the ledger leads in the folder."""
    if link.startswith(("http:", "https:", "mailto:")):
        return link
    path, _, fragment = link.partition("#")
    name = Path(unquote(path)).name
    if name.endswith(".ipynb"):
        path = name.removesuffix(".ipynb") + ".html"
    elif name == "LEDGER.md":
        path = "LEDGER.html"
    return path + (f"#{unquote(fragment).removeprefix('heading=')}" if fragment else "")


def write_folder(notebooks: Iterable[Path], out: Path, *, ledger: Path | None = None) -> list[Path]:
    """Write the pages, the ledger, an index that leads to the first page, and MathJax; returns the pages written. Only these files of `out` are touched."""
    sources = sorted(Path(path) for path in notebooks)
    if not sources:
        raise ValueError("notebooks must name at least one page, got none")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(checkout.ROOT / "data" / "mathjax", out / "mathjax", dirs_exist_ok=True)
    written = []
    for path in sources:
        notebook = nbformat.read(path, as_version=4)
        heading = next((line.lstrip("# ") for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# ")), path.stem)
        written.append(out / f"{path.stem}.html")
        written[-1].write_text(page_html(notebook, heading), encoding="utf-8")
    if ledger is not None:
        notebook = new_notebook(cells=[new_markdown_cell(ledger.read_text(encoding="utf-8"))])
        written.append(out / "LEDGER.html")
        written[-1].write_text(page_html(notebook, "Ledger"), encoding="utf-8")
    (out / "index.html").write_text(INDEX.format(first=written[0].name), encoding="utf-8")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(prog="make html", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("html"), help="the folder")
    parser.add_argument("notebooks", nargs="*", type=Path, help="pages; all without any")
    given = parser.parse_args()
    try:
        checkout.require("make html", "notebooks")
        pages = given.notebooks or sorted((checkout.ROOT / "notebooks").glob("*.ipynb"))
        written = write_folder(pages, given.out, ledger=checkout.ROOT / "LEDGER.md")
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file()) / 1e6
    print(f"{len(written)} pages, {size:.0f} MB: open {given.out / 'index.html'}; the folder can be copied anywhere")


if __name__ == "__main__":
    main()
