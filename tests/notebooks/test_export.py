"""All pages as HTML: every link leads somewhere, and nothing is fetched but the MathJax beside them."""

from pathlib import Path

import pytest

from helpers.page import export
from tests.page.test_export import Reader, broken

pytestmark = pytest.mark.notebooks
ROOT = Path(__file__).resolve().parents[2]


def test_the_collection(tmp_path):
    pages = sorted((ROOT / "notebooks").glob("*.ipynb"))
    written = export.write_folder(pages, tmp_path, ledger=ROOT / "LEDGER.md")
    assert [path.stem for path in written] == [*(path.stem for path in pages), "LEDGER"]
    assert list(broken(tmp_path)) == []
    assert {name for path in written for name in Reader(path).fetched} == {"mathjax/tex-svg-full.js"}
