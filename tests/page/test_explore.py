"""The control's logic without a browser; the live face is driven in tests/browser."""

import base64
import json
import re
import time
import zlib
from io import BytesIO

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.page.explore import as_content, control, pick

VIEW = "application/vnd.jupyter.widget-view+json"


def shown(screen):
    """The PNG and the alt text that a live control shows."""
    alt, data = re.fullmatch(r'<img alt="([^"]*)" .* src="data:image/png;base64,([^"]*)">', screen.html.value).groups()
    assert screen.html.layout.display is None
    return base64.b64decode(data), alt


def shade(level=0.2, name="left"):
    buffer = BytesIO()
    Image.new("RGB", (40, 20), (int(level * 255), 0, 255 if name == "left" else 0)).save(buffer, format="png")
    return buffer.getvalue()


def test_default_state_is_drawn_and_a_move_changes_it():
    c = control(shade, title="shade", level=(0.0, 1.0, 0.1))
    assert c.values == {"level": 0.2} and shown(c.picture) == (shade(0.2), "shade: level = 0.2")
    c.inputs["level"].value = 0.7
    assert shown(c.picture)[0] == shade(0.7)


@pytest.mark.parametrize(
    "spec, states",
    [((0, 4, 2), [0, 2, 4]), ((0.0, 0.3, 0.1), [0.0, 0.1, 0.2, 0.3]), ((1, 4, 2), [1, 3]), ([1, 5, 9], [1, 5, 9]), (True, [False, True]), ("a", None)],
)
def test_states_of_a_slider(spec, states):
    assert control(lambda x: "html", title="t", x=spec).states["x"] == states


def test_switches_are_a_tuple_of_bools():
    asked = []

    def draw(on, note="a"):
        asked.append(on)
        return f"<i>{on}</i>"

    c = control(draw, title="t", on=(True, False, True), note="a", precompute=True, strip=[{}, {"on": (False,) * 3}])
    assert c.values == {"on": (True, False, True), "note": "a"} and c.states["on"] is None
    c.inputs["on"].switches[1].value = True
    assert c.values["on"] == (True, True, True) and c.picture.html.value == "<i>(True, True, True)</i>"
    c.inputs["on"].switches[1].value = False
    assert [switch.tooltip for switch in c.inputs["on"].switches] == ["on 1", "on 2", "on 3"]
    assert asked == [(True, False, True), (True, True, True)]  # a state that was seen is not drawn again
    assert "on = 1 and 3" in c.film_strip() and "on = none" in c.film_strip()


def test_defaults_come_from_signature_then_argument_then_first_state():
    assert control(shade, title="t", level=[0.1, 0.2]).values == {"level": 0.2}
    assert control(lambda level: "h", title="t", level=(0.0, 1.0, 0.1), defaults={"level": 0.5}).values == {"level": 0.5}
    assert control(shade, title="t", level=(0.0, 1.0, 0.1), defaults={"level": 0.1 + 0.1}).values == {"level": 0.2}
    assert control(lambda x: "h", title="t", x=[3, 4]).values == {"x": 3}


@pytest.mark.parametrize(
    "draw, options, sentence",
    [
        (shade, dict(level=(0.0, 1.0, 0.1), defaults={"level": 0.5}), "defaults says level = 0.5, and draw's own default is 0.2"),
        (shade, dict(level=(0.0, 0.9, 0.15)), "the default of 'level' must be a state of its slider .* got 0.2; the nearest is 0.15"),
        (shade, dict(level=[0.1, 0.3]), "the default of 'level' must be one of"),
        (lambda x=True: "h", dict(x=False), "slider 'x' says False, and the default is True"),
        (lambda x="a": "h", dict(x="b"), "slider 'x' says 'b', and the default is 'a'"),
        (lambda x=(True, False): "h", dict(x=(True, True)), "slider 'x' says"),
    ],
)
def test_a_control_refuses_to_start_in_another_state_than_its_defaults(draw, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        control(draw, title="t", **options)


def test_draw_may_return_a_tuple_that_begins_with_the_figure():
    def draw(n=2):
        figure, ax = plt.subplots(figsize=(2, 1))
        ax.plot([0, n])
        return figure, n

    plain = control(lambda n=2: draw(n)[0], title="t", n=[1, 2, 3])
    c = control(draw, title="t", n=[1, 2, 3], buttons={"again": draw})
    assert shown(c.picture) == shown(plain.picture) and c.film_strip() == plain.film_strip()
    c.draw_buttons["again"].click()
    assert c.message.value == "" and shown(c.result)[0].startswith(b"\x89PNG") and shown(c.result)[1] == "t, again: n = 2" and not plt.get_fignums()
    with pytest.raises(TypeError, match="tuple that begins with one, got int"):
        control(lambda n=2: (n, n), title="t", n=[1, 2])


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
        (lambda: control(lambda level: "h", title="t", level=[0.1, 0.2], defaults={"level": 0.9}), "default of 'level'"),
        (lambda: control(shade, title="t", level=(0.0, 1.0, 0.001), precompute=True), "1001"),
        (lambda: control(lambda x: 3, title="t", x=[1, 2]), "int"),
        (lambda: control(lambda x: "h", title="t", x=(True, False), defaults={"x": (True,)}), "default of 'x' must be 2 bools"),
    ]:
        with pytest.raises((ValueError, TypeError), match=word):
            make()


def test_bundle_holds_both_faces_and_the_strip_shows_the_states():
    c = control(shade, title="shade", level=(0.0, 1.0, 0.1), name=["left", "right"])
    bundle, metadata = c._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png", VIEW}
    assert bundle["text/plain"] == "control: shade (level, name)"
    strip = np.asarray(Image.open(BytesIO(bundle["image/png"])))
    alt = "Control 'shade', drawn in 4 of its states: level = 0.2, name = left; level = 0, name = left; level = 0.7, name = left; level = 1, name = left."
    assert metadata == {"image/png": {"alt": alt}}
    reds = {int(r) for r in np.unique(strip[..., 0][strip[..., 2] == 255]) if r != 255}
    assert int(0.2 * 255) in reds and len(c.strip) == 4 and c.strip[0] == {"level": 0.2}


def test_html_states_make_an_html_face():
    bundle, metadata = control(lambda n: f"<i>{n}</i>", title="t", n=[1, 2])._repr_mimebundle_()
    assert metadata == {}
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
    assert len(calls) == 5 and shown(c.picture)[0] == shade(0.4)


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
    assert c.message.value == "" and shown(c.result)[0] == shade(0.9)


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
    assert c.message.value == "" and shown(c.picture)[0] == shade(0.3)
    with pytest.raises(ValueError, match="odd"):
        control(draw, title="t", n=[2, 3])


def a_pick(seed=0, size=(6, 8), sides=((4, 6), (5, 3)), grids=((2, 3), (5, 3)), **changes):
    """A pick with pictures, matches and heat of unequal sizes: source 6 x 8 px in 3 x 4 cells."""
    rng = np.random.default_rng(seed)
    arguments = {
        "source": rng.random((3, *size)), "targets": [rng.random((3, *side)) for side in sides],
        "matches": [np.stack([rng.integers(0, side[1], size), rng.integers(0, side[0], size)], -1) for side in sides],
        "heat": [rng.uniform(-0.4, 1, (12, *grid)) for grid in grids], "titles": ["one", "two"], "title": "points", "start": (5, 1),
    } | changes  # fmt: skip
    return arguments, pick(arguments.pop("source"), arguments.pop("targets"), arguments.pop("matches"), **arguments)


def values_of(html):
    """What the script is called with, and its unpacked bytes."""
    values = json.loads(re.search(r"\}\)\((\{.*\})\);</script>", html)[1])
    return values, zlib.decompress(base64.b64decode(values["data"]))


def test_pick_bundle_holds_the_widget_and_the_strip():
    _, p = a_pick()
    bundle, metadata = p._repr_mimebundle_()
    alt = metadata["image/png"]["alt"]
    assert alt.startswith("Control 'points': pixels of a picture and their best matches in one, two. source (5, 1) -> one (") and alt.count("-> two") == 4
    assert set(bundle) == {"text/plain", "image/png", VIEW}
    assert bundle["text/plain"] == "pick: points (source -> one, two)" and p.strip[0] == (5, 1) and len(p.strip) == 4
    assert Image.open(BytesIO(bundle["image/png"])).height > 4 * 6 * 3
    html = p.widget.children[1].outputs[0]["data"]["text/html"]
    assert "<script>" in html and "http" not in html.replace("data:image/png", "")
    assert {"stepwise-control", "stepwise-pick-control"} <= set(p.widget._dom_classes)


def test_pick_packs_matches_and_heat_so_that_they_decode_to_the_arrays():
    rng = np.random.default_rng(1)
    match = np.stack([rng.integers(0, 6, (6, 8)), rng.integers(0, 4, (6, 8))], -1)
    heat = [rng.uniform(-0.4, 1, (12, 1, 3)), rng.uniform(-0.4, 1, (12, 5, 3))]  # an odd number of cells, too
    other = np.stack([rng.integers(0, 3, (6, 8)), rng.integers(0, 5, (6, 8))], -1)
    _, p = a_pick(matches=[torch.tensor(match), other.astype(np.uint8)], heat=heat, sides=((4, 6), (5, 3)))
    values, data = values_of(p.html())
    low, high, at = values["low"], values["high"], 0
    assert low == min(h.min() for h in heat) and high == max(h.max() for h in heat)
    for i, (wanted, h, sides) in enumerate(zip((match, other), heat, ((4, 6), (5, 3)))):
        place, cells = values["targets"][i], h.reshape(3, 4, *h.shape[1:])
        assert place["at"] == at and place["heat"] == at + 3 * 48
        for y in range(6):
            for x in range(8):
                k = at + 8 * y + x
                assert (data[k], data[k + 48]) == tuple(wanted[y, x])
                exact = cells[y // 2, x // 2, wanted[y, x, 1] * h.shape[1] // sides[0], wanted[y, x, 0] * h.shape[2] // sides[1]]
                assert low + (high - low) * data[k + 96] / 255 == pytest.approx(exact, abs=(high - low) / 510 + 1e-9)
                said = re.fullmatch(rf"source \({x}, {y}\) -> (.*) \((\d+), (\d+)\), similarity (-?\d\.\d\d)", p.text(x, y).split("\n")[i])
                assert (said[1], int(said[2]), int(said[3])) == (("one", "two")[i], *wanted[y, x]) and abs(float(said[4]) - exact) < 0.009
        packed = data[place["heat"] : place["heat"] + (h.size + 1) // 2]
        levels = np.array([[byte & 15, byte >> 4] for byte in packed]).ravel()[: h.size]
        np.testing.assert_allclose(low + (high - low) * levels / 15, h.ravel(), atol=(high - low) / 30 + 1e-9)
        at = place["heat"] + len(packed)
    assert at == len(data)


def test_pick_without_heat_names_no_similarity():
    _, p = a_pick(heat=None, titles=None)
    values, data = values_of(p.html())
    assert "similarity" not in p.text(0, 0) and p.text(0, 0).startswith("source (0, 0) -> target 1 (")
    assert len(data) == 2 * 2 * 48 and "<canvas" not in p.html() and "low" not in values


def test_pick_keeps_the_pictures_and_puts_the_start_markers_without_a_script():
    arguments, p = a_pick(heat=None)
    source = np.random.default_rng(0).random((3, 6, 8))
    html = p.html()
    images = [np.asarray(Image.open(BytesIO(base64.b64decode(found)))) for found in re.findall(r'pick-image"[^>]*base64,([^"]*)"', html)]
    np.testing.assert_allclose(images[0] / 255, source.transpose(1, 2, 0), atol=0.5 / 255 + 1e-9)
    assert [image.shape for image in images] == [(6, 8, 3), (4, 6, 3), (5, 3, 3)]
    x, y = p.matches[1][1, 5]
    left, top = re.findall(r"left: ([\d.]+)%; top: ([\d.]+)%", html)[2]
    assert (float(left), float(top)) == pytest.approx((100 * (x + 0.5) / 3, 100 * (y + 0.5) / 5), abs=0.01)


def test_every_pick_has_an_id_of_its_own_and_titles_cannot_end_the_script():
    _, a = a_pick(titles=["</script><script>alert(1)", "&amp;"], title="<i>")
    _, b = a_pick()
    ids = [re.search(r' id="([^"]*)"', html)[1] for html in (a.html(), a.html(), b.html())]
    assert len(set(ids)) == 3
    assert a.html().count("<script>") == a.html().count("</script>") == 1 and "&amp;amp;" in a.html()
    assert values_of(a.html())[0]["targets"][0]["title"] == "</script><script>alert(1)"
    assert a.widget.children[0].value == "<b>&lt;i&gt;</b>"


def test_a_state_marks_the_source_and_its_matches():
    source, target, match = np.full((3, 6, 8), 0.5), np.full((3, 6, 8), 0.5), np.zeros((6, 8, 2), int)
    match[2, 6] = (1, 4)
    p = pick(source, [target], [match], title="t", scale=16)
    picture = np.asarray(Image.open(BytesIO(p.state(6, 2))).convert("RGB")).astype(int)
    white, yellow = (np.abs(picture - colour).sum(-1) < 150 for colour in ((255, 255, 255), (240, 228, 66)))
    pixels = np.zeros_like(white)
    pixels[20:116, 10:138] = True  # inside the source picture: 10 px of rim, 10 more for the label
    y, x = np.argwhere(white & pixels).mean(0)
    assert (x, y) == pytest.approx((10 + 6.5 * 16, 20 + 2.5 * 16), abs=1.5)
    y, x = np.argwhere(yellow).mean(0)
    assert (x, y) == pytest.approx((148 + 10 + 1.5 * 16, 20 + 4.5 * 16), abs=1.5)


def test_size_of_a_pick_with_four_targets():
    """Smooth pictures, matches that turn the picture, similarities that fall off with the distance: below 200 kB; the film strip too."""
    y, x = np.mgrid[:64, :64] / 63
    match = np.stack(np.broadcast_arrays(63 - np.arange(64), np.arange(64)[:, None]), -1)
    i, j = (v.ravel() for v in np.mgrid[:16, :16])
    heat = np.exp(-((i[:, None] - i) ** 2 + (j[:, None] + j - 15) ** 2) / 20).reshape(256, 16, 16)
    p = pick(np.stack([x, y, x * y]), [np.stack([1 - x, y, x])] * 4, [match] * 4, heat=[heat] * 4, title="t")
    assert len(p.html()) < 200_000 and len(p.film_strip()) < 150_000
    assert Image.open(BytesIO(p.film_strip())).width < 1100
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="600,000"):
        pick(rng.random((3, 256, 256)), list(rng.random((3, 3, 64, 64))), [rng.integers(0, 64, (256, 256, 2))] * 3, title="t")


def test_cells_of_a_source_that_is_not_square():
    heat = np.linspace(-1, 1, 2 * 5 * 3 * 2).reshape(2, 5, 3, 2)
    arguments = {"sides": ((4, 6),), "titles": ["one"]}
    _, p = a_pick(heat=[heat], **arguments)
    assert p.heat[0].shape == (2, 5, 3, 2)
    _, square = a_pick(heat=[np.zeros((48, 2, 2))], **arguments)
    assert square.heat[0].shape == (6, 8, 2, 2) and "similarity 0.00" in square.text(0, 0)
    with pytest.raises(ValueError, match=r"heat\[0\].*square cells"):
        a_pick(heat=[heat.reshape(10, 3, 2)], **arguments)


@pytest.mark.parametrize(
    "changes, kind, word",
    [
        ({"source": np.zeros((6, 8, 3))}, ValueError, r"source must be \(3, H, W\)"),
        ({"source": np.full((3, 6, 8), 2.0)}, ValueError, r"source must lie in \[0, 1\]"),
        ({"source": np.full((3, 6, 8), np.nan)}, ValueError, "source must lie in"),
        ({"source": np.zeros((3, 300, 8))}, ValueError, "256 px"),
        ({"source": np.full((3, 6, 8), "a")}, TypeError, "source must hold numbers"),
        ({"targets": []}, ValueError, "targets must hold at least one"),
        ({"targets": "ab"}, TypeError, "targets must be a list, got str"),
        ({"targets": [np.zeros((3, 4, 6)), np.zeros((5, 3))]}, ValueError, r"targets\[1\]"),
        ({"matches": [np.zeros((6, 8, 2), int)]}, ValueError, "each of the 2 targets, got 1"),
        ({"matches": [np.zeros((6, 8, 2))] * 2}, TypeError, r"matches\[0\] must hold whole numbers"),
        ({"matches": [np.zeros((8, 6, 2), int)] * 2}, ValueError, r"matches\[0\] must be"),
        ({"matches": [np.full((6, 8, 2), 3)] * 2}, ValueError, r"matches\[1\] must lie in a target of 3 x 5 px"),
        ({"matches": [np.full((6, 8, 2), -1)] * 2}, ValueError, "x from -1 to -1"),
        ({"heat": [np.zeros((12, 2, 3))]}, ValueError, "heat must hold one item"),
        ({"heat": [np.zeros((12, 2, 3)), np.full((12, 2, 3), 1.1)]}, ValueError, r"heat\[1\] must lie in \[-1, 1\]"),
        ({"heat": [np.zeros((12, 6))] * 2}, ValueError, r"heat\[0\] must be \(Hc Wc, hc, wc\)"),
        ({"titles": ["one"]}, ValueError, "titles must hold one item"),
        ({"titles": [1, 2]}, TypeError, "titles must hold str"),
        ({"title": 3}, TypeError, "title must be a str"),
        ({"start": (8, 0)}, ValueError, "start must lie in the source of 8 x 6 px"),
        ({"start": (1.5, 0)}, TypeError, "start must be"),
        ({"strip": [(0, 6)]}, ValueError, "strip must lie"),
        ({"scale": 0}, ValueError, "scale must lie in 1 to 16, got 0"),
        ({"scale": 2.0}, TypeError, "scale must be a whole number"),
    ],
)
def test_bad_picks_are_refused(changes, kind, word):
    with pytest.raises(kind, match=word):
        a_pick(**changes)


def test_axes_stay_where_the_first_state_has_them():
    places = []

    def draw(size=1):
        fig, ax = plt.subplots(figsize=(4, 2), layout="constrained")
        ax.plot([0, 10**size])
        ax.ticklabel_format(style="plain")  # whatever style was in use before
        places.append(ax)
        return fig

    shown = control(draw, title="t", size=[1, 6])
    shown.state(size=6)
    first, second = (ax.get_position() for ax in places[:2])
    assert first.bounds == pytest.approx(second.bounds) and first.width < 0.95
    fig = draw(6)
    fig.draw_without_rendering()
    assert fig.axes[0].get_position().x0 != pytest.approx(first.x0, abs=1e-3)  # alone, wider tick labels would have moved it
