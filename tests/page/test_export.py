"""`make html`: what a browser would open without a network and without the repository."""

import base64
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.page import export as pages
from helpers.page.execute import tidy

ROOT = Path(__file__).resolve().parents[2]
PNG = base64.b64encode(b"\x89PNG picture").decode()
FETCHING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Reader(HTMLParser):
    """What a page would fetch, its links, its ids, its pictures' texts, and what stands in a folded solution."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.links, self.ids, self.alts, self.text, self.folded, self.inside = [], [], set(), [], "", "", False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.inside |= tag == "details" and attributes.get("class") == "solution" and "open" not in attributes
        self.ids.add(attributes.get("id"))
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "img":
            self.alts.append(attributes.get("alt"))
        address = attributes.get(FETCHING.get(tag), "")
        if address and not address.startswith("data:"):
            self.fetched.append(address)

    def handle_endtag(self, tag):
        self.inside &= tag != "details"

    def handle_data(self, data):
        if self.inside:
            self.folded += data
        else:
            self.text += data


def broken(folder):
    """(page, link) for every link inside the folder that leads nowhere."""
    read = {path.name: Reader(path) for path in folder.glob("*.html")}
    for name, page in read.items():
        for link in page.links:
            path, _, fragment = unquote(link).partition("#")
            if not link.startswith("http") and ((path or name) not in read or (fragment and fragment not in read[path or name].ids)):
                yield name, link


@pytest.fixture
def folder(tmp_path):
    picture = new_output("display_data", data={"image/png": PNG}, metadata={"image/png": {"alt": 'Two "curves" & a <line>'}})
    bare = new_output("display_data", data={"image/png": PNG})
    solution = new_code_cell("riddle = 42", outputs=[new_output("stream", text="solved by 42\n")], metadata={"tags": ["solution"], "jupyter": {}})
    one = [
        new_markdown_cell("# 01 - One & two\n\n$a < b$ and $$\\sum_i x_i$$ see [there](02_b.ipynb#heading=1.-What,-where?-(5-minutes)), [L](../LEDGER.md)"),
        new_code_cell("plt.show()", outputs=[picture, bare]),
        solution,
    ]
    two = [
        new_markdown_cell(
            "# 02 - B\n\n[back](01_a.ipynb) [up](#1.-What,-where?-(5-minutes)) [arXiv](https://example.invalid/x.ipynb)\n\n## 1. What, where? (5 minutes)"
        )
    ]
    for name, cells in (("01_a", one), ("02_b", two)):
        notebook = new_notebook(cells=cells)
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "LEDGER.md").write_text("# Ledger\n\n## [01_a](notebooks/01_a.ipynb): x\n\n| a | b |\n| --- | --- |\n| ≤ 1 | 2 |\n")
    pages.write_folder([tmp_path / "02_b.ipynb", tmp_path / "01_a.ipynb"], tmp_path / "out", ledger=tmp_path / "LEDGER.md")
    for path in tmp_path.glob("*.*"):
        path.unlink()
    return shutil.move(tmp_path / "out", tmp_path / "else where")


def test_a_page_fetches_nothing_from_outside_its_folder(folder):
    for path in folder.glob("*.html"):
        fetched = Reader(path).fetched
        assert fetched == ([] if path.name == "index.html" else ["mathjax/tex-svg-full.js"])
        assert all((folder / name).is_file() for name in fetched)
        assert not re.search(r"url\((?!['\"]?data:)|@import|\bimport\(|from ['\"]http", path.read_text())


def test_links_lead_to_pages_of_the_folder(folder):
    assert list(broken(folder)) == []
    assert Reader(folder / "index.html").links == ["01_a.html"] and 'url=01_a.html"' in (folder / "index.html").read_text()
    assert [unquote(link) for link in Reader(folder / "01_a.html").links if ".html" in link] == ["02_b.html#1.-What,-where?-(5-minutes)", "LEDGER.html"]
    assert "https://example.invalid/x.ipynb" in Reader(folder / "02_b.html").links


def test_a_link_that_leads_nowhere_is_seen(folder):
    (folder / "02_b.html").unlink()
    assert ("01_a.html", "02_b.html#1.-What,-where?-(5-minutes)") in [(name, unquote(link)) for name, link in broken(folder)]


def test_solutions_are_folded_with_what_they_print(folder):
    page = Reader(folder / "01_a.html")
    assert "riddle" in page.folded and "solved by 42" in page.folded and "Solution" in page.folded
    assert "riddle" not in page.text and "solved by 42" not in page.text and "plt" in page.text


def test_pictures_are_inside_and_carry_their_text(folder):
    page = (folder / "01_a.html").read_text()
    assert Reader(folder / "01_a.html").alts == ['Two "curves" & a <line>', "Figure"] and page.count(PNG) == 2
    assert "<title>01 - One &amp; two</title>" in page


def test_formulas_reach_mathjax_as_they_are(folder):
    text = html.unescape((folder / "01_a.html").read_text())
    assert "$a < b$" in text and "$$\\sum_i x_i$$" in text and 'inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]]' in text


def test_mathjax_asks_no_other_machine():
    text = (ROOT / "data" / "mathjax" / "tex-svg-full.js").read_text(encoding="utf-8")
    hosts = set(re.findall(r"https?://([a-z0-9.]+)", text))
    assert hosts <= {"www.apache.org", "www.w3.org", "github.com", "www.mathjax.org"}  # a licence, names of XML, two mentions


def test_an_export_from_jupyterlab_folds_solutions_too(monkeypatch):
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    cell = new_code_cell("riddle = 42", metadata={"tags": ["solution"]})
    for name in ("jupyter_server_config.py", "jupyter_nbconvert_config.py"):
        path = ROOT / ".jupyter" / name
        config = Config()
        exec(compile(path.read_text(), path, "exec"), {"c": config, "__file__": str(path)})
        body, _ = HTMLExporter(config=config).from_notebook_node(new_notebook(cells=[cell]))
        assert '<details class="solution"><summary>Solution</summary>' in body and "mathjax/2.7" in body


def test_a_page_exported_as_a_script_is_a_python_file():
    from nbconvert import ScriptExporter

    notebook = tidy(nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4))
    body, resources = ScriptExporter().from_notebook_node(notebook)
    assert resources["output_extension"] == ".py"
    compile(body, "page", "exec")


def test_lab_asks_no_question_about_news():
    config = SimpleNamespace(ContentsManager=SimpleNamespace(), LabApp=SimpleNamespace(), HTMLExporter=SimpleNamespace())
    path = ROOT / ".jupyter" / "jupyter_server_config.py"
    exec(compile(path.read_text(), path, "exec"), {"c": config, "__file__": str(path)})
    assert config.LabApp.news_url is None
    from jupyterlab.handlers import announcements

    assert issubclass(getattr(announcements, config.LabApp.check_for_updates_class.rsplit(".", 1)[1]), announcements.CheckForUpdateABC)


def test_no_page_is_refused(tmp_path):
    with pytest.raises(ValueError, match="notebooks must name at least one page, got none"):
        pages.write_folder([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
