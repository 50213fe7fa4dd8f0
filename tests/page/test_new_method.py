"""Stubs of a new method, written into a small copy of the repository: they fail one by one, with a sentence."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.page import collection, new_method
from helpers.page.ledger import load_claims
from tests.notebooks import guards

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path):
    """The package, the rules, README, and two pages."""
    for folder in ("helpers", "tests/benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("00_start_here", "01_caching_schedules"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / "notebooks")
    for name in ("README.md", "data/claims.toml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_all_files_of_one_name_with_the_first_free_number(copy):
    before = contents(copy)
    new_method.write(new_method.plan("mixup", copy))
    new = {str(path.relative_to(copy)) for path in contents(copy).keys() - before.keys()}
    assert new == set(new_method.files_of("mixup", "02_mixup")) and "notebooks/02_mixup.ipynb" in new
    changed = {str(path.relative_to(copy)) for path, data in before.items() if path.read_bytes() != data}
    assert changed == {"README.md", "data/claims.toml"}
    assert all(re.search(r"^__all__ = \[", (copy / path).read_text(), re.M) for path in new if path.startswith("helpers/"))  # says what is public
    claims = load_claims(copy / "data" / "claims.toml")
    assert claims["mixup.1"].notebook == "02_mixup" and len(claims) == len(load_claims()) + 1
    rows = [line for line in (copy / "README.md").read_text().splitlines() if re.match(r"\| \d\d \| \[", line)]
    assert [row[2:4] for row in rows][:4] == ["00", "01", "02", "02"] and "(notebooks/02_mixup.ipynb)" in "".join(rows[2:4])
    (copy / "README.md").write_text("\n".join(row for row in rows if re.search("/(00|01)_|mixup", row)) + "\n")
    assert [page.title for page in collection.read_pages(copy / "notebooks")][-1] == "FILL IN the title"
    assert new_method.stub("method.py.txt", "mixup", "02_mixup", copy).count("# --- checks of arguments") == 1


def test_a_page_that_the_list_of_claims_foresees_gets_its_number_and_no_second_rows(copy):
    claims = copy / "data" / "claims.toml"
    told = claims.read_text(encoding="utf-8")
    block = re.search(r"^\[\[claim\]\]\nid = .*\nnotebook = .*\n", told, re.M)[0]
    block = re.sub("id = .*", 'id = "foreseen.1"', re.sub("notebook = .*", 'notebook = "98_foreseen"', block))
    claims.write_text(f'{told}\n{block}method = "F"\nclaim = "It helps."\ncontrol = "Without it."\n', encoding="utf-8")
    texts = new_method.plan("foreseen", copy)
    assert copy / "notebooks" / "98_foreseen.ipynb" in texts and claims not in texts


def test_names_that_cannot_be_are_refused_and_nothing_is_written(copy):
    (copy / "helpers" / "methods" / "folded").mkdir()
    shutil.copy(copy / "notebooks" / "01_caching_schedules.ipynb", copy / "notebooks" / "02_seen.ipynb")
    before = contents(copy)
    for name, sentence in [
        ("toy-latte", "NAME must be a lower-case Python identifier of at most 60 letters, as in NAME=mixup, got 'toy-latte'"),
        ("Mixup", "identifier"), ("", "identifier"),
        ("lambda", "identifier"), ("2x", "identifier"), ("../x", "identifier"), ("mixup\n", "identifier"), ("x" * 300, "at most 60 letters"),
        ("caching_schedules", "is taken: .*caching_schedules"),
        ("folded", "NAME=folded is taken: helpers/methods/folded"), ("seen", "NAME=seen is taken: notebooks/02_seen.ipynb"),
        ("caching", r"data/claims.toml has claims with the ids caching\.\*"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            new_method.plan(name, copy)
    assert contents(copy) == before


def test_when_a_file_cannot_be_written_none_is(copy):
    texts = new_method.plan("mixup", copy)
    before = contents(copy)
    with pytest.raises(TypeError):
        new_method.write(texts | {copy / "data" / "last": None})
    assert contents(copy) == before


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(copy, monkeypatch, capsys):
    monkeypatch.setattr(new_method, "plan", lambda name: {copy / "README.md" / "under a file": "text"})
    monkeypatch.setattr(sys, "argv", ["method", "mixup"])
    before = contents(copy)
    with pytest.raises(SystemExit, match="1"):
        new_method.main()
    assert capsys.readouterr().err.startswith("nothing is written: ") and contents(copy) == before


def test_each_stub_fails_with_its_sentence(copy):
    new_method.write(new_method.plan("mixup", copy))
    environment = os.environ | {"PYTHONPATH": str(copy)}

    def run(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/methods/test_mixup.py", "tests/studies/test_mixup.py")
    assert "3 failed" in said and {"tests/methods/test_mixup.py", "tests/studies/test_mixup.py"} <= set(re.findall(r"FILL IN ([\w/]+\.py):", said))
    assert "NotImplementedError: FILL IN tests/benchmarks/mixup.py: ours and a peer" in run("tests/benchmarks/mixup.py", "--json")
    assert "NotImplementedError: FILL IN helpers/methods/mixup.py" in run("-c", "from helpers.methods.mixup import mixup; mixup(None)")


def test_the_guards_refuse_the_page_and_name_each_cell(copy):
    new_method.write(new_method.plan("mixup", copy))
    path = copy / "notebooks" / "02_mixup.ipynb"
    page = nbformat.read(path, as_version=4)
    nbformat.validate(page)
    assert json.loads(path.read_text())["nbformat_minor"] == 5
    left = list(guards.unfilled(page))
    assert len(left) == sum("FILL IN" in cell.source for cell in page.cells) >= 10
    assert list(guards.counts(page)) and list(guards.figures(page)) and list(guards.claims(page, stem=path.stem, known=load_claims(copy / "data/claims.toml")))
    assert list(guards.known_tags(page)) == [] == list(guards.parameters(page))
    assert list(guards.minimum(page, stem=path.stem)) == ["the page has no ledger entry"]  # the skeleton has the rest


def test_a_page_is_read_from_its_readable_form():
    text = "# %% [markdown]\n# # Title\n#\n# text\n\n# %% tags=solution,hide-cell\nx = 1  # %% no cell\n\n\n# %%\ny = 2\n"
    cells = new_method.as_notebook(text).cells
    assert [(cell.cell_type, cell.source) for cell in cells] == [("markdown", "# Title\n\ntext"), ("code", "x = 1  # %% no cell"), ("code", "y = 2")]
    assert cells[1].metadata == {"tags": ["solution", "hide-cell"], "jupyter": {"source_hidden": True}} and cells[2].metadata == {}
