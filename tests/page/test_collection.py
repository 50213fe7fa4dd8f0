"""The map and README's minutes, on a small collection made here."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.page import collection, ledger

README = "# Toy\n\n| | page | paper | minutes | what |\n| --- | --- | --- | --- | --- |\n"


def row(number, name, minutes):
    return f"| {number} | [Page {name}](notebooks/{number}_{name}.ipynb) | A 2020 | {minutes} | shows {name} |\n"


def write_page(folder, number, name, *, claim="", verdicts=(), seconds=None, cells=()):
    entries = [new_output("display_data", data={}, metadata={"stepwise": {"id": f"{name}.{i}", "verdict": v, "measured": {}}}) for i, v in enumerate(verdicts)]
    opening = f"# {number} - Page {name}\n\n" + (f"**The claim, and it could be false:** {claim}\n\nPaper: A.\n" if claim else "one two three")
    metadata = {} if seconds is None else {"stepwise": {"processor_seconds": seconds}}
    notebook = new_notebook(cells=[new_markdown_cell(opening), new_code_cell("1", outputs=entries), *cells], metadata=metadata)
    nbformat.write(notebook, folder / f"{number}_{name}.ipynb")


@pytest.fixture
def small(tmp_path):
    """A folder of notebooks and a README: page 00 with both cells of the map, a measured page, and one that is not."""
    (tmp_path / "notebooks").mkdir()
    cells = [new_code_cell(f"from helpers.page import collection\ncollection.{name}()", metadata={"tags": ["map"]}) for name in ("show_claims", "show_map")]
    write_page(tmp_path / "notebooks", "00", "start_here", seconds=19, cells=cells)
    write_page(tmp_path / "notebooks", "01", "a", claim="it is\none | two.", verdicts=["partly", "holds", "partly"], seconds=95)
    write_page(tmp_path / "notebooks", "02", "b", claim="no.", verdicts=["holds"])
    (tmp_path / "README.md").write_text(README + row("00", "start_here", "?") + row("01", "a", "about 7") + row("02", "b", "8") + "\nend\n")
    return tmp_path / "notebooks", tmp_path / "README.md"


def test_what_a_page_says_of_itself(small):
    start, a, b = collection.read_pages(small[0])
    assert (a.title, a.claim, a.verdicts, a.seconds, a.minutes, a.cells) == ("Page a", "It is one | two.", {"holds": 1, "partly": 2}, 95, 2, 2)
    assert (b.minutes, start.minutes, start.claim, start.words) == (None, 1, "", 8)


def test_the_map_has_a_row_for_each_page(small):
    lines = collection.map_text(collection.read_pages(small[0])).splitlines()
    assert lines[3] == "| [01 - Page a](01_a.ipynb) | It is one \\| two. | holds 1, partly 2 | 2 |"
    assert lines[4].endswith("| No. | holds 1 | not measured yet |") and len(lines) == 5


def test_the_counts_are_those_of_claims_and_pages(small):
    claims = {id: ledger.Claim(id, notebook, "m", "c", "k") for id, notebook in [("a.0", "01_a"), ("b.0", "02_b"), ("z.1", "09_z")]}
    assert collection.claims_text(collection.read_pages(small[0]), claims).startswith("3 claims are listed, 2 of them on pages that exist: holds 2, partly 2.")


def rebuilding(*names):
    return new_code_cell("draw()", metadata={"stepwise": {"rebuilds": list(names)}})


def test_the_index_names_each_figure_of_a_paper_and_where_it_is_rebuilt(small):
    cells = [
        new_markdown_cell("## 1. Begin"),
        rebuilding("table 1"),
        new_markdown_cell("## 2. A clip (3 minutes)\n\ntext"),
        rebuilding("figure 4", "table 2 (right)"),
        new_code_cell("1"),
        new_markdown_cell("more"),
        rebuilding("figure A.1"),
        new_markdown_cell("### Two, and more"),
        rebuilding("figure 4"),
        new_markdown_cell("## What $n$ does"),
        rebuilding("table 3"),
    ]
    write_page(small[0], "01", "a", claim="it is.", cells=cells)
    path = small[0] / "01_a.ipynb"
    path.write_text(path.read_text().replace("Paper: A.", "Paper: A, B, *Of Things* (OT), 2020."))
    assert collection.index_text(collection.read_pages(small[0])).splitlines()[2:] == [
        "| Of Things | table 1 | [page 01, section 1. Begin](01_a.ipynb#heading=1.-Begin) |",
        "| Of Things | figure 4, table 2 (right), figure A.1 | [page 01, section 2. A clip](01_a.ipynb#heading=2.-A-clip-(3-minutes)) |",
        "| Of Things | figure 4 | [page 01, section Two, and more](01_a.ipynb#heading=Two,-and-more) |",
        "| Of Things | table 3 | [page 01, section What $n$ does](01_a.ipynb) |",
    ]
    write_page(small[0], "02", "b", claim="no.", cells=[rebuilding("fig. 3")])
    with pytest.raises(ValueError, match="rebuilds must name things like 'figure 4' or 'table 2 \\(right\\)', got 'fig. 3'"):
        collection.read_pages(small[0])


def test_a_new_page_makes_the_map_old_until_it_is_refreshed(small):
    assert len(collection.stale(*small)) == 2
    collection.refresh(*small)
    assert collection.stale(*small) == []
    text = small[1].read_text()
    assert row("00", "start_here", "1") in text and row("01", "a", "2") in text and row("02", "b", "8") in text and text.endswith("\nend\n")
    small[1].write_text(text.replace("\nend\n", row("03", "c", "5") + "\nend\n"))
    write_page(small[0], "03", "c", claim="new.", seconds=10)
    faults = collection.stale(*small)
    assert len(faults) == 2 and all("run make map" in fault for fault in faults)
    collection.refresh(*small)
    assert collection.stale(*small) == [] and row("03", "c", "1") in small[1].read_text()
    shown = nbformat.read(small[0] / "00_start_here.ipynb", as_version=4).cells[-1].outputs
    assert len(shown) == 1 and "[03 - Page c](03_c.ipynb) | New." in shown[0].data["text/markdown"]


def test_a_refresh_of_what_is_fresh_writes_nothing(small):
    collection.refresh(*small)
    files = [*small[0].iterdir(), small[1]]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    collection.refresh(*small)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


def test_faults_are_named_and_nothing_is_half_written(small):
    write_page(small[0], "03", "c", claim="new.")
    before = (small[0] / "00_start_here.ipynb").read_bytes()
    with pytest.raises(ValueError, match=r"no row \| 03 \| \[title\]\(notebooks/03_c.ipynb\)"):
        collection.refresh(*small)
    assert (small[0] / "00_start_here.ipynb").read_bytes() == before
    write_page(small[0], "02", "c", claim="new.")
    with pytest.raises(ValueError, match="02_b.ipynb and 02_c.ipynb have one number"):
        collection.read_pages(small[0])
    nbformat.write(new_notebook(cells=[new_markdown_cell("Page c")]), small[0] / "02_c.ipynb")
    with pytest.raises(ValueError, match="02_c.ipynb must begin with a line like `# 02 - Its title`, it begins with 'Page c'"):
        collection.read_page(small[0] / "02_c.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("print(1)", metadata={"tags": ["map"]})]), small[0] / "04_d.ipynb")
    with pytest.raises(ValueError, match="a cell tagged map must end with"):
        collection.refreshed(small[0] / "04_d.ipynb")
