"""The reader's copies: nothing written is ever lost, what was not written in follows its page, and the pages themselves are never touched."""

import base64
import io
import shutil

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from traitlets.config import Config

from helpers.page import lab

VIEW = "application/vnd.jupyter.widget-view+json"


def write(path, text, *, output=None):
    outputs = [] if output is None else [new_output("stream", text=output)]
    cell = new_code_cell(text, outputs=outputs)
    cell.id = "cell-000"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[cell]), path)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "notebooks" / "00_a.ipynb", "a = 1")
    write(tmp_path / "notebooks" / "01_b.ipynb", "b = 1")
    assert lab.refresh(tmp_path) == []
    return tmp_path


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def visible(root):
    return {name: data for name, data in files(root / "my_notebooks").items() if not name.startswith(".")}


def test_copies_are_the_pages(root):
    assert visible(root) == files(root / "notebooks")
    (root / "my_notebooks" / "01_b.ipynb").unlink()
    assert lab.refresh(root) == []
    assert visible(root) == files(root / "notebooks")


def test_what_was_written_stays_and_the_page_is_untouched(root):
    before = files(root / "notebooks")
    mine = root / "my_notebooks" / "00_a.ipynb"
    write(mine, "a = 2")
    mine.with_name("08_own.ipynb").write_text("{}")
    after = files(root)
    assert lab.refresh(root) == []
    assert files(root) == after and files(root / "notebooks") == before


def test_a_page_that_was_not_written_in_follows_its_original(root):
    write(root / "notebooks" / "00_a.ipynb", "a = 3")
    said = lab.refresh(root)
    assert said == ["my_notebooks/00_a.ipynb is the new version of its page."]
    assert visible(root) == files(root / "notebooks")
    assert lab.refresh(root) == []


def test_a_page_that_was_only_run_follows_too_and_its_outputs_are_kept(root):
    mine = root / "my_notebooks" / "00_a.ipynb"
    write(mine, "a = 1", output="hours of work")
    ran = mine.read_bytes()
    assert lab.refresh(root) == [] and mine.read_bytes() == ran
    write(root / "notebooks" / "00_a.ipynb", "a = 3")
    assert len(lab.refresh(root)) == 1
    assert visible(root) == files(root / "notebooks") | {"old/00_a.ipynb": ran}


@pytest.mark.parametrize("mine", [b"", b"not a notebook", b'{"cells": []}'])
def test_a_written_page_is_kept_when_its_original_changes(root, mine):
    copy = root / "my_notebooks" / "00_a.ipynb"
    copy.write_bytes(mine)
    write(root / "notebooks" / "00_a.ipynb", "a = 3")
    for _ in range(2):
        (said,) = lab.refresh(root)
        assert "stays as you wrote it" in said and "make fresh PAGES=00_a" in said
        assert copy.read_bytes() == mine
    (said,) = lab.fresh(root, ["00_a"])
    assert said.endswith("what it was is my_notebooks/old/00_a.ipynb.")
    assert visible(root) == files(root / "notebooks") | {"old/00_a.ipynb": mine}
    assert lab.refresh(root) == []


def test_without_the_originals_nothing_is_taken_for_untouched(root):
    (root / "my_notebooks" / ".originals" / "00_a.ipynb").unlink()
    assert lab.refresh(root) == []  # the copy is its page
    (root / "my_notebooks" / ".originals" / "00_a.ipynb").unlink()
    write(root / "my_notebooks" / "00_a.ipynb", "a = 2")
    (said,) = lab.refresh(root)
    assert "stays as you wrote it" in said


def test_starting_over_never_overwrites_what_was_kept(root):
    texts = []
    for value in range(3):
        write(root / "my_notebooks" / "00_a.ipynb", f"a = 'mine {value}'")
        texts.append((root / "my_notebooks" / "00_a.ipynb").read_bytes())
        lab.fresh(root)
    old = {f"old/00_a{suffix}.ipynb": text for suffix, text in zip(("", "-2", "-3"), texts)}
    assert visible(root) == files(root / "notebooks") | old
    assert lab.fresh(root) == []


@pytest.mark.parametrize("name", ["01_b", "01", "notebooks/01_b.ipynb", "my_notebooks/01_b.ipynb"])
def test_one_page_is_started_over(root, name):
    for page in ("00_a", "01_b"):
        write(root / "my_notebooks" / f"{page}.ipynb", "mine = True")
    assert len(lab.fresh(root, [name])) == 1
    assert sorted(visible(root)) == ["00_a.ipynb", "01_b.ipynb", "old/01_b.ipynb"]
    assert b"mine" in visible(root)["00_a.ipynb"] and visible(root)["01_b.ipynb"] == files(root / "notebooks")["01_b.ipynb"]


@pytest.mark.parametrize("name", ["02_c", "", "0", "a"])
def test_an_unknown_page_is_named_and_nothing_moves(root, name):
    write(root / "my_notebooks" / "00_a.ipynb", "mine = True")
    before = files(root)
    with pytest.raises(ValueError, match=f"pages must name pages of notebooks/, got '{name}'; there are 00_a, 01_b"):
        lab.fresh(root, ["00_a", name])
    assert files(root) == before


def test_killed_at_any_write_the_next_start_mends_it(root, monkeypatch):
    class Killed(BaseException):
        pass

    write(root / "notebooks" / "00_a.ipynb", "a = 3")
    write(root / "my_notebooks" / "01_b.ipynb", "b = 'mine'")
    write(root / "notebooks" / "01_b.ipynb", "b = 3")
    mine, whole, reached = (root / "my_notebooks" / "01_b.ipynb").read_bytes(), lab.write, []
    for last in range(9):
        left = iter(range(last))

        def mortal(data, path, left=left):
            if next(left, None) is None:
                raise Killed
            whole(data, path)

        monkeypatch.setattr(lab, "write", mortal)
        try:
            lab.fresh(root)
            reached.append(last)
        except Killed:
            pass
        monkeypatch.setattr(lab, "write", whole)
        lab.refresh(root)
        copies = visible(root)
        assert copies["00_a.ipynb"] == files(root / "notebooks")["00_a.ipynb"]
        assert mine in copies.values()
        assert not [name for name in files(root) if name.endswith(".half")]
    assert reached == list(range(4, 9))


def test_saving_keeps_the_picture_and_drops_the_widget():
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 30), (200, 30, 30, 255)).save(buffer, "PNG", compress_level=0)
    picture = base64.b64encode(buffer.getvalue()).decode()
    text = new_markdown_cell("![mine](attachment:a.png)", attachments={"a.png": {"image/png": picture}})
    shown = new_output("display_data", data={VIEW: {"model_id": "x"}, "image/png": picture, "text/plain": "w"})
    control = new_code_cell("1", execution_count=7, outputs=[shown], metadata={"collapsed": False})
    content = new_notebook(cells=[text, control], metadata={"widgets": {"state": {}}, "kernelspec": {"name": "own", "display_name": "Own"}})
    model = {"type": "notebook", "format": "json", "content": nbformat.from_dict(content)}
    ids = [cell.id for cell in content.cells]
    lab.before_save(model=model, path="my_notebooks/00_a.ipynb", contents_manager=None)
    saved = model["content"]
    nbformat.validate(saved)
    data = saved.cells[1].outputs[0].data
    assert set(data) == {"image/png", "text/plain"} and len(data["image/png"]) < len(picture) / 5
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB").getpixel((20, 15)) == (200, 30, 30)
    assert "widgets" not in saved.metadata and saved.metadata.kernelspec.name == "own"
    assert saved.cells[0].attachments == text.attachments and saved.cells[1].metadata == {"collapsed": False}
    assert [cell.id for cell in saved.cells] == ids and saved.cells[1].execution_count == 7


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_other_files_are_saved_as_they_are(kind):
    model = {"type": kind, "content": "text"}
    lab.before_save(model=model, path="notes.txt", contents_manager=None)
    assert model == {"type": kind, "content": "text"}


def test_the_settings_of_the_reader_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "theirs")
    line, environment = lab.command(tmp_path, "my_notebooks")
    assert environment["JUPYTER_CONFIG_PATH"].split(":") == [str(tmp_path / ".jupyter"), "theirs"]
    assert "--LabApp.default_url=/lab/tree/my_notebooks/00_start_here.ipynb" in line


@pytest.mark.parametrize("what, folder", [("open", "my_notebooks"), ("author", "notebooks")])
def test_options_are_handed_on_to_jupyterlab(root, monkeypatch, what, folder):
    started = []
    monkeypatch.setattr(lab, "ROOT", root)
    monkeypatch.setattr(lab.os, "execve", lambda *call: started.append(call))
    monkeypatch.setattr(lab.sys, "argv", ["lab", what, "--no-browser", "--port", "8899"])
    lab.main()
    ((program, line, environment),) = started
    assert line[:3] == [program, "-m", "jupyterlab"] and line[-3:] == ["--no-browser", "--port", "8899"]
    assert f"--LabApp.default_url=/lab/tree/{folder}/00_start_here.ipynb" in line and environment["OMP_NUM_THREADS"] == "1"


def test_what_is_no_notebook_is_not_taken_for_untouched(root):
    lab.refresh(root)
    copy = root / "my_notebooks" / "00_a.ipynb"
    for path in (copy, root / "my_notebooks" / ".originals" / "00_a.ipynb"):
        path.write_text(f"torn {path.parent.name}")
    assert "stays as you wrote it" in lab.refresh(root)[0] and copy.read_text() == "torn my_notebooks"


@pytest.mark.parametrize("what", ["open", "fresh"])
def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(root, monkeypatch, capsys, what):
    monkeypatch.setattr(lab, "ROOT", root)
    monkeypatch.setattr(lab.sys, "argv", ["lab", what])
    shutil.rmtree(root / "my_notebooks", ignore_errors=True)
    (root / "my_notebooks").write_text("a file of mine")
    with pytest.raises(SystemExit, match="1"):
        lab.main()
    assert capsys.readouterr().err.startswith("my_notebooks/ could not be brought up to date, and what you wrote there is kept: ")
    assert (root / "my_notebooks").read_text() == "a file of mine"


def test_starting_over_says_what_it_did(root, monkeypatch, capsys):
    monkeypatch.setattr(lab, "ROOT", root)
    write(root / "my_notebooks" / "00_a.ipynb", "mine = True")
    moved = "my_notebooks/00_a.ipynb starts over; what it was is my_notebooks/old/00_a.ipynb.\n"
    for rest, said in ((["00"], moved), ([], "Your copies are as their pages.\n")):
        monkeypatch.setattr(lab.sys, "argv", ["lab", "fresh", *rest])
        lab.main()
        assert capsys.readouterr().out == said
    monkeypatch.setattr(lab.sys, "argv", ["lab", "fresh", "99"])
    with pytest.raises(SystemExit):
        lab.main()
    assert "pages must name pages of notebooks/, got '99'" in capsys.readouterr().err


def test_exported_html_carries_the_text_of_each_picture(tmp_path):
    config = Config()
    exec((lab.ROOT / ".jupyter" / "jupyter_server_config.py").read_text(), {"c": config})  # what make lab gives to "Save and Export Notebook As: HTML"
    said = 'y against x, "a" <b>. In numbers: 3'
    outputs = [new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata=metadata) for metadata in ({"image/png": {"alt": said}}, {})]
    body, _ = HTMLExporter(config=config).from_notebook_node(new_notebook(cells=[new_code_cell("", outputs=outputs)]))
    assert [picture["alt"] for picture in BeautifulSoup(body, "html.parser").find_all("img")] == [said, "Figure"]
