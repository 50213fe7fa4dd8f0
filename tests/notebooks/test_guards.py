"""Each guard is seen to pass a good page and to fail a bad one."""

import base64
import io

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from helpers.page.execute import PALETTE_ERROR, compact, execute, overview, tidy
from helpers.page.ledger import Claim
from tests.notebooks import guards

_dot = io.BytesIO()
Image.new("RGB", (1, 1)).save(_dot, "PNG", optimize=True)
PNG = base64.b64encode(_dot.getvalue()).decode() + "\n"


def code(source="1", tags=(), outputs=(), count=1, **metadata):
    return new_code_cell(source, outputs=list(outputs), execution_count=count, metadata={"tags": list(tags), **metadata})


def picture(**data):
    return new_output("display_data", data=data or {"image/png": PNG})


def out(text, name="stdout"):
    return new_output("stream", text=text, name=name)


def entry(id):
    return new_output("display_data", data={"text/plain": "x"}, metadata={"stepwise": {"id": id}})


HIDDEN = {"jupyter": {"source_hidden": True}}
VIEW = {guards.WIDGET_VIEW: {"model_id": "x"}, "image/png": PNG}
ERROR = new_output("error", ename="E", evalue="e", traceback=[])

GOOD = {
    "counts": [code(count=1), new_markdown_cell("text"), code(count=2)],
    "errors": [code(outputs=[ERROR], tags=["raises-exception"]), code(outputs=[out("fine")])],
    "figures": [
        code(tags=["figure"], outputs=[picture(), out("first line\ndigest: gain ≈ 3 dB\n")]),
        code(tags=["control"], outputs=[picture()]),
        code(outputs=[out("plain")]),
    ],
    "images": [code(outputs=[picture(), picture(**{"text/html": "<b>x</b>"})])],
    "widgets": [code(outputs=[picture()])],
    "exercises": [code(tags=["exercise"]), code(tags=["check"]), code(tags=["solution", "hide-cell"], **HIDDEN)],
    "parameters": [code('SCALE = "desk"\nSEED = 0', tags=["parameters"])],
    "source": [code("\n".join(["x = 1"] * 25 + ["", ""])), code('load("data/models/toy")  # a / b')],
}
BAD = [
    ("counts", [code(count=2), code(count=1)]),
    ("counts", [code(count=1), code(count=3)]),
    ("counts", [code(count=None)]),
    ("errors", [code(outputs=[ERROR])]),
    ("errors", [code(outputs=[out("UserWarning", "stderr")])]),
    ("figures", [code(tags=["figure"], outputs=[out("digest: 3")])]),
    ("figures", [code(tags=["figure"], outputs=[picture(), out("digest: 3\nmore")])]),
    ("figures", [code(tags=["figure"], outputs=[picture()])]),
    ("figures", [code(outputs=[picture(), out("digest: 3")])]),
    ("figures", [code(tags=["control"], outputs=[out("x")])]),
    ("images", [code(outputs=[picture(**{"image/svg+xml": "<svg/>"})])]),
    ("images", [code(outputs=[picture(**{"image/jpeg": PNG})])]),
    ("images", [code(outputs=[picture(**{"video/mp4": PNG})])]),
    ("images", [code(outputs=[picture(**{"text/html": "<video src='x'>"})])]),
    ("images", [code(outputs=[picture(**{"text/html": "<img src='data:image/gif;base64,x'>"})])]),
    ("widgets", [code(outputs=[picture(**VIEW)])]),
    ("exercises", [code(tags=["exercise"]), code(tags=["solution", "hide-cell"], **HIDDEN)]),
    ("exercises", [code(tags=["exercise"]), code(tags=["check"])]),
    ("exercises", [code(tags=["exercise"]), code(tags=["exercise"]), code(tags=["check"]), code(tags=["solution", "hide-cell"], **HIDDEN)]),
    ("exercises", [code(tags=["exercise"]), code(tags=["check"]), code(tags=["solution"], **HIDDEN)]),
    ("exercises", [code(tags=["exercise"]), code(tags=["check"]), code(tags=["solution", "hide-cell"])]),
    ("exercises", [code(tags=["exercise"]), code(tags=["check"]), code(tags=["solution", "hide-cell"], count=None, **HIDDEN)]),
    ("parameters", [code('SCALE = "paper"', tags=["parameters"])]),
    ("parameters", [code('SCALE = "desk"')]),
    ("source", [code("\n".join(["x = 1"] * 26))]),
    ("source", [code("!pip install x")]),
    ("source", [code("%pip install x")]),
    ("source", [code('open("/home/me/x")')]),
    ("source", [code(r"open('C:\\x')")]),
]


@pytest.mark.parametrize("guard", GOOD)
def test_good_pages_pass(guard):
    assert list(getattr(guards, guard)(new_notebook(cells=GOOD[guard]))) == []


@pytest.mark.parametrize("guard, cells", BAD, ids=[f"{guard}-{i}" for i, (guard, _) in enumerate(BAD)])
def test_bad_pages_fail(guard, cells):
    assert list(getattr(guards, guard)(new_notebook(cells=cells))) != []


def test_every_guard_has_a_good_and_a_bad_page():
    assert {guard.__name__ for guard in guards.PAGE_GUARDS} == set(GOOD) == {guard for guard, _ in BAD}


def test_widget_state_fails():
    assert len(list(guards.widgets(new_notebook(metadata={"widgets": {}})))) == 1


def test_size_of_the_file():
    assert list(guards.size(b"x" * 999_999)) == [] and len(list(guards.size(b"x" * 1_000_001))) == 1


@pytest.mark.parametrize("found, faults", [(["a.1", "a.2"], 0), (["a.1"], 1), (["a.1", "a.2", "a.2"], 1), (["a.1", "a.2", "b.1"], 1)])
def test_claims_of_a_page(found, faults):
    known = {id: Claim(id, notebook, "m", "c", "k") for id, notebook in [("a.1", "01_a"), ("a.2", "01_a"), ("b.1", "02_b")]}
    page = new_notebook(cells=[code(outputs=[entry(id) for id in found])])
    assert len(list(guards.claims(page, stem="01_a", known=known))) == faults


def test_tidy_joins_streams_and_drops_live_widgets():
    cell = code(outputs=[out("a"), out("b"), out("c", "stderr"), picture(**VIEW)], tags=["control"], execution={"iopub.status.idle": "now"})
    page = tidy(new_notebook(cells=[cell], metadata={"widgets": {}, "kernelspec": {"name": "mine", "display_name": "mine"}}))
    assert [output.get("text") for output in page.cells[0].outputs] == ["ab", "c", None]
    assert set(page.cells[0].outputs[2].data) == {"image/png"}
    assert dict(page.cells[0].metadata) == {"tags": ["control"]}
    assert page.metadata.kernelspec.name == "python3" and "widgets" not in page.metadata


def test_an_executed_page_with_figure_control_and_claim_passes_all_guards(tmp_path):
    source = [
        ('SCALE = "desk"', ["parameters"]),
        ("import matplotlib.pyplot as plt\nfrom helpers.page.explore import control\nfrom helpers.page import ledger", []),
        ("plt.plot([1, 2])\nplt.show()\nprint('digest: slope = 1')", ["figure"]),
        (
            "def draw(n=2):\n    figure, ax = plt.subplots(figsize=(2, 1))\n    ax.plot([0, n])\n    return figure\n\ncontrol(draw, title='line', n=(1, 4, 1))",
            ["control"],
        ),
        ("ledger.claim('caching.2', spread_prompts=ledger.Measured(3.0, 1.0, 24), spread_seeds=1.0)", []),
    ]
    path = tmp_path / "01_toy.ipynb"
    nbformat.write(new_notebook(cells=[code(text, tags, count=None) for text, tags in source]), path)
    execute(path)
    page = nbformat.read(path, as_version=4)
    assert [fault for guard in guards.PAGE_GUARDS for fault in guard(page)] == []
    known = {"caching.2": Claim("caching.2", "01_toy", "m", "c", "k")}
    assert list(guards.claims(page, stem="01_toy", known=known)) == []
    assert len(page.cells[3].outputs) == 1 and "holds" in page.cells[4].outputs[0].data["text/plain"]
    first = path.read_bytes()
    execute(path)
    assert path.read_bytes() == first


def test_the_overview_is_the_one_tagged_picture(tmp_path):
    tagged = code("plot()", ["figure", "overview"], [picture()])
    nbformat.write(new_notebook(cells=[code("1"), tagged]), tmp_path / "one.ipynb")
    assert overview(tmp_path / "one.ipynb") == base64.b64decode(PNG)
    for cells in ([], [tagged, tagged], [code("plot()", ["figure", "overview"])]):
        nbformat.write(new_notebook(cells=cells), tmp_path / "other.ipynb")
        with pytest.raises(ValueError, match="one picture in a cell tagged overview"):
            overview(tmp_path / "other.ipynb")


def test_pictures_get_a_palette_where_it_cannot_be_seen():
    smooth = np.add.outer(np.arange(120), np.arange(160)) * 255 // 278
    grain = np.random.default_rng(0).integers(0, 4, (120, 160))
    plot = np.stack([smooth, 255 - smooth, smooth // 2 + grain, np.full_like(smooth, 255)], 2).astype(np.uint8)
    raw = io.BytesIO()
    Image.fromarray(plot).save(raw, "PNG")
    packed = compact(raw.getvalue())
    seen = np.asarray(Image.open(io.BytesIO(packed)).convert("RGB")).astype(float)
    assert Image.open(io.BytesIO(packed)).mode == "P" and compact(packed) == packed
    assert np.sqrt(((seen - plot[..., :3]) ** 2).mean()) <= PALETTE_ERROR


def test_a_thin_line_beside_a_photograph_keeps_its_colour():
    plot = np.stack([np.random.default_rng(0).integers(0, 256, (240, 480))] * 3, 2) // np.array([1, 2, 4])
    plot[:, 300:] = 255
    lines = {310: (0, 114, 178), 330: (222, 143, 5), 350: (2, 158, 115), 370: (204, 120, 188)}
    for column, colour in lines.items():
        plot[20:220, column] = colour
    raw = io.BytesIO()
    Image.fromarray(plot.astype(np.uint8)).save(raw, "PNG")
    packed = Image.open(io.BytesIO(compact(raw.getvalue())))
    seen = np.asarray(packed.convert("RGB")).astype(int)
    assert packed.mode == "P" and all(np.abs(seen[20:220, column] - colour).max() <= 24 for column, colour in lines.items())


def test_pictures_of_many_colours_are_packed_without_changing_a_pixel():
    noise = np.tile(np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8), (4, 5, 1))
    noise[..., 3] = 255
    for alpha in (255, 100):
        noise[0, 0, 3] = alpha
        raw = io.BytesIO()
        Image.fromarray(noise).save(raw, "PNG", compress_level=0)
        packed = compact(raw.getvalue())
        assert len(packed) < len(raw.getvalue()) and compact(packed) == packed
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(packed)).convert("RGBA")), noise)
