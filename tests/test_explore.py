"""The control's logic without a browser; the live face is driven in tests/browser."""

import time
from io import BytesIO

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers.explore import as_content, control

VIEW = "application/vnd.jupyter.widget-view+json"


def shade(level=0.2, name="left"):
    buffer = BytesIO()
    Image.new("RGB", (40, 20), (int(level * 255), 0, 255 if name == "left" else 0)).save(buffer, format="png")
    return buffer.getvalue()


def test_default_state_is_drawn_and_a_move_changes_it():
    c = control(shade, title="shade", level=(0.0, 1.0, 0.1))
    assert c.values == {"level": 0.2} and c.picture.image.value == shade(0.2)
    c.inputs["level"].value = 0.7
    assert c.picture.image.value == shade(0.7)


@pytest.mark.parametrize(
    "spec, states",
    [((0, 4, 2), [0, 2, 4]), ((0.0, 0.3, 0.1), [0.0, 0.1, 0.2, 0.3]), ((1, 4, 2), [1, 3]), ([1, 5, 9], [1, 5, 9]), (True, [False, True]), ("a", None)],
)
def test_states_of_a_slider(spec, states):
    assert control(lambda x: "html", title="t", x=spec).states["x"] == states


def test_defaults_come_from_argument_then_signature_then_first_state():
    assert control(shade, title="t", level=(0.0, 1.0, 0.1), defaults={"level": 0.5}).values == {"level": 0.5}
    assert control(shade, title="t", level=[0.1, 0.2]).values == {"level": 0.2}
    assert control(lambda x: "h", title="t", x=[3, 4]).values == {"x": 3}


@pytest.mark.parametrize("spec", [(1, 0, 1), (0, 1, 0), (0, 1, 2), (0, np.nan, 1), (0, 1), [1], 3, None])
def test_bad_sliders_are_refused(spec):
    with pytest.raises((ValueError, TypeError), match="slider 'x'"):
        control(lambda x: "h", title="t", x=spec)


def test_bad_controls_are_refused():
    for make, word in [
        (lambda: control(None, title="t", x=[1, 2]), "draw"),
        (lambda: control("no", title="t", x=[1, 2]), "draw"),
        (lambda: control(shade, title="t"), "slider"),
        (lambda: control(shade, title="t", level=[0.1, 0.2], defaults={"levle": 1}), "levle"),
        (lambda: control(shade, title="t", level=[0.1, 0.2], strip=[{"levle": 1}]), "levle"),
        (lambda: control(shade, title="t", level=[0.1, 0.2], defaults={"level": 0.9}), "default of 'level'"),
        (lambda: control(shade, title="t", level=(0.0, 1.0, 0.001), precompute=True), "1001"),
        (lambda: control(lambda x: 3, title="t", x=[1, 2]), "int"),
    ]:
        with pytest.raises((ValueError, TypeError), match=word):
            make()


def test_bundle_holds_both_faces_and_the_strip_shows_the_states():
    c = control(shade, title="shade", level=(0.0, 1.0, 0.1), name=["left", "right"])
    bundle = c._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png", VIEW}
    assert bundle["text/plain"] == "control: shade (level, name)"
    strip = np.asarray(Image.open(BytesIO(bundle["image/png"])))
    reds = {int(r) for r in np.unique(strip[..., 0][strip[..., 2] == 255]) if r != 255}
    assert int(0.2 * 255) in reds and len(c.strip) == 4 and c.strip[0] == {"level": 0.2}


def test_html_states_make_an_html_face():
    bundle = control(lambda n: f"<i>{n}</i>", title="t", n=[1, 2])._repr_mimebundle_()
    assert "<i>1</i>" in bundle["text/html"] and "<i>2</i>" in bundle["text/html"] and "image/png" not in bundle


def test_every_state_is_drawn_once_and_a_cached_move_is_fast():
    calls = []

    def slow(n):
        calls.append(n)
        time.sleep(0.05)
        return shade(n / 10)

    c = control(slow, title="t", n=(0, 4, 1), precompute=True)
    assert sorted(calls) == [0, 1, 2, 3, 4]
    started = time.perf_counter()
    for n in (1, 2, 3, 4):
        c.inputs["n"].value = n
    assert (time.perf_counter() - started) / 4 < 0.15
    assert len(calls) == 5 and c.picture.image.value == shade(0.4)


def test_figures_are_closed_and_become_png():
    figure = plt.figure()
    assert as_content(figure).startswith(b"\x89PNG") and not plt.fignum_exists(figure.number)


def test_button_shows_its_picture_and_says_that_it_works():
    seen = []

    def sample(text):
        seen.append((c.message.value, c.draw_buttons["sample"].disabled))
        return shade(0.9)

    c = control(None, title="t", buttons={"sample": sample}, text="a red ring")
    c.inputs["text"].value = "a blue disc"
    c.draw_buttons["sample"].click()
    assert seen == [("working…", True)] and not c.draw_buttons["sample"].disabled
    assert c.message.value == "" and c.result.image.value == shade(0.9)


def test_errors_of_a_live_control_are_one_sentence():
    def draw(n):
        if n == 2:
            raise ValueError("n must be odd, got <2>\nmore")
        return shade(n / 10)

    c = control(draw, title="t", n=[1, 2, 3])
    c.strip = [{"n": 1}]
    c.inputs["n"].value = 2
    assert "n must be odd, got &lt;2&gt;" in c.message.value and "more" not in c.message.value and "Traceback" not in c.message.value
    c.inputs["n"].value = 3
    assert c.message.value == "" and c.picture.image.value == shade(0.3)
    with pytest.raises(ValueError, match="odd"):
        control(draw, title="t", n=[2, 3])
