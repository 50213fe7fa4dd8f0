"""Interactive controls with two faces: live widgets in JupyterLab, a film strip of the same states where there is no kernel.

`control(draw, title=..., threshold=(0.05, 0.4, 0.05))` is the last line of a cell. JupyterLab shows the sliders; a stored page shows the PNG.
`pick(source, targets, matches, title=...)` is one too: the reader points at a pixel, and its best matches appear in the other pictures.
"""

import base64
import inspect
import itertools
import json
import uuid
import zlib
from collections.abc import Callable
from io import BytesIO
from math import isqrt
from numbers import Integral, Real

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

from helpers.arguments import flag, got, instance

__all__ = ["control", "pick"]

PNG = b"\x89PNG\r\n\x1a\n"


def control(
    draw: Callable | None, *, title: str, buttons: dict[str, Callable] | None = None, defaults: dict | None = None,
    strip: list[dict] | None = None, precompute: bool = False, **sliders,
) -> "Control":  # fmt: skip
    """Make a control. Put it on the last line of a cell.

    draw(**values) returns a matplotlib Figure, PNG bytes or an HTML string, or a tuple that begins with one of them (so the function that drew the
        figure above serves as it is); each state is drawn once and kept.
    sliders: name = (min, max, step) | list of states (strings make a dropdown) | bool (checkbox) | str (text box) | tuple of two bools or more (a row of
        numbered buttons to switch on and off).
    buttons: label -> callback(**values) for slow work; its picture appears below. draw may be None when there is a button.
    defaults: starting values that draw's signature does not name; otherwise the slider's first state.
    strip: the states on the film strip (dicts of values), otherwise the default and up to three others of the first slider.
    precompute: draw all states at once (at most 500; a text box and a row of buttons keep their default).
    Raises ValueError or TypeError for a specification that cannot be shown, or that would start in another state than draw's own defaults.
    """
    return Control(draw, title, {} if buttons is None else buttons, {} if defaults is None else defaults, strip, precompute, sliders)


class Control:
    """What `control` returns: `widget` (the live face), `film_strip()` (the stored one), `values`, `inputs` and `draw_buttons`."""

    def __init__(self, draw, title, buttons, defaults, strip, precompute, sliders):
        instance("title", title, str, "a text")
        instance("buttons", buttons, dict, "{label: function}")
        instance("defaults", defaults, dict, "{slider: value}")
        precompute = flag("precompute", precompute)
        if strip is not None and (not isinstance(strip, (list, tuple)) or not strip or not all(isinstance(state, dict) for state in strip)):
            raise TypeError(f"strip must be a list of states {{slider: value}}, got {got(strip)}")
        if draw is None and not buttons:
            raise ValueError("draw must be a function unless there are buttons, got None")
        for name, function in {"draw": draw, **{f"buttons[{label!r}]": button for label, button in buttons.items()}}.items():
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, got {type(function).__name__}")
        if not sliders:
            raise ValueError("a control needs at least one slider, got none")
        if unknown := set(defaults) - set(sliders):
            raise ValueError(f"defaults name {sorted(unknown)}, which are no sliders of this control: {sorted(sliders)}")
        self.draw, self.title, self.buttons, self.cache, self.places = draw, title, buttons, {}, []
        self.states = {name: _states(name, spec) for name, spec in sliders.items()}
        own = _signature_defaults(draw or next(iter(buttons.values())))
        for name, value in defaults.items():
            if name in own and not _same(value, own[name]):
                raise ValueError(f"defaults says {name} = {value!r}, and draw's own default is {own[name]!r}; a control starts as the figure above it")
        start = own | defaults
        self.inputs = {name: _input(name, spec, self.states[name], start.get(name), precompute) for name, spec in sliders.items()}
        self.strip = strip if strip is not None else self._strip()
        for state in self.strip:
            if set(state) - set(sliders):
                raise ValueError(f"strip names {sorted(set(state) - set(sliders))}, which are no sliders of this control: {sorted(sliders)}")
        self.picture, self.result = _Screen("stepwise-picture"), _Screen("stepwise-result")
        self.message = widgets.HTML().add_class("stepwise-message")
        self.draw_buttons = {label: self._button(label, callback) for label, callback in buttons.items()}
        if precompute:
            self._precompute()
        if draw:
            self.picture.show(self.state(**self.values), self._alt())  # an error here is the page's error, so it is not caught
        for box in self.inputs.values():
            for part in box.switches if isinstance(box, _Switches) else [box]:
                part.observe(self._moved, names="value")
        parts = [widgets.HTML(f"<b>{title}</b>"), *self.inputs.values(), widgets.HBox(list(self.draw_buttons.values())), self.message]
        self.widget = widgets.VBox([*parts, self.picture.html, self.result.html]).add_class("stepwise-control")

    @property
    def values(self) -> dict:
        """The values that the inputs show now."""
        return {name: box.value for name, box in self.inputs.items()}

    def state(self, **values) -> bytes | str:
        """The picture of one state as PNG bytes, or its HTML; drawn at the first request."""
        key = tuple(sorted((name, round(v, 10) if isinstance(v, float) else v) for name, v in values.items()))
        if key not in self.cache:
            drawn = _first(self.draw(**values))
            if isinstance(drawn, Figure):
                self._settle(drawn)
            self.cache[key] = as_content(drawn)
        return self.cache[key]

    def _settle(self, figure: Figure) -> None:
        """Axes stay where the first state has them: the picture does not jump, and the slow search for a layout is done once."""
        if len(figure.axes) == len(self.places):
            figure.set_layout_engine("none")
            for ax, place in zip(figure.axes, self.places, strict=True):
                ax.set_position(place, which="original")
        elif figure.get_layout_engine():
            figure.draw_without_rendering()
            self.places = [ax.get_position(original=True) for ax in figure.axes]

    def captions(self) -> list[str]:
        """What stands above each state on the film strip: its values, of many sliders only those that were moved."""
        states = [self.values | state if len(self.states) <= 3 else state or {"start": "as in the figure above"} for state in self.strip]
        return [_named(state) for state in states]

    def film_strip(self) -> bytes | str:
        """The strip's states in one PNG with a caption each (or in one HTML string where draw returns HTML)."""
        shown = []
        for caption, state in zip(self.captions(), self.strip, strict=True):
            values = self.values | state
            shown.append((caption, self.state(**values) if self.draw else as_content(next(iter(self.buttons.values()))(**values))))
        if all(isinstance(content, bytes) for _, content in shown):
            return _join(shown)
        return "".join(f"<p><b>{caption}</b></p>{content if isinstance(content, str) else ''}" for caption, content in shown)

    def _repr_mimebundle_(self, include=None, exclude=None):
        static = self.film_strip()
        kind = "image/png" if isinstance(static, bytes) else "text/html"
        text = f"control: {self.title} ({', '.join(self.inputs)})"
        live = {key: value for key, value in self.widget._repr_mimebundle_().items() if key == "application/vnd.jupyter.widget-view+json"}
        alt = f"Control {self.title!r}, drawn in {len(self.strip)} of its states: {'; '.join(self.captions())}."
        return {"text/plain": text, kind: static} | live, {"image/png": {"alt": alt}} if kind == "image/png" else {}

    def _alt(self, label=None) -> str:
        return f"{self.title}{f', {label}' if label else ''}: {_named(self.values)}"

    def _strip(self):
        name = next(iter(self.inputs))
        states, now = self.states[name], self.inputs[name].value
        if states is None:
            return [{name: now}]
        picks = [states[i] for i in np.unique(np.linspace(0, len(states) - 1, 4).round().astype(int))]
        others = (
            [value for value in picks if value != now][:3] if now in picks else sorted(picks, key=lambda v: abs(states.index(v) - _nearest(states, now)))[1:]
        )
        return [{name: now}] + [{name: value} for value in sorted(others, key=states.index)]

    def _precompute(self):
        lists = [[box.value] if self.states[name] is None else self.states[name] for name, box in self.inputs.items()]
        count = int(np.prod([len(states) for states in lists]))
        if count > 500:
            raise ValueError(f"precompute would draw {count} states, expected at most 500; give fewer states or precompute=False")
        if self.draw:
            for values in itertools.product(*lists):
                self.state(**dict(zip(self.inputs, values, strict=True)))

    def _button(self, label, callback):
        button = widgets.Button(description=label, layout={"width": "max-content"})
        button.add_class("stepwise-button").add_class(f"stepwise-button-{label.replace(' ', '-')}")
        button.on_click(lambda _: self._pressed(label, callback))
        return button

    def _moved(self, _):
        if self.draw:
            self._guarded(lambda: self.picture.show(self.state(**self.values), self._alt()))

    def _pressed(self, label, callback):
        buttons = self.draw_buttons.values()
        for button in buttons:
            button.disabled = True
        self.message.value = "working…"
        self._guarded(lambda: self.result.show(as_content(callback(**self.values)), self._alt(label)))
        for button in buttons:
            button.disabled = False

    def _guarded(self, work):
        """Do the work of a live control; an error becomes one sentence below the sliders."""
        try:
            work()
            self.message.value = ""
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
            self.message.value = f"<span style='color:#b00020'>This did not work: {_escape(kind + first)}</span>"


class _Screen:
    """Shows PNG bytes with their description, or HTML, whichever comes; hidden until then."""

    def __init__(self, name):
        self.html = widgets.HTML(layout={"display": "none", "align_self": "flex-start", "max_width": "100%"}).add_class(name)

    def show(self, content, alt):
        self.html.value, self.html.layout.display = _image(content, alt) if isinstance(content, bytes) else content, None


def _image(png: bytes, alt: str) -> str:
    """A PNG as HTML in its own size: written down, so that the page does not jump while the browser decodes it."""
    width, height = (int.from_bytes(png[place : place + 4], "big") for place in (16, 20))
    size = f'width="{width}" height="{height}" style="max-width: 100%; height: auto"'
    return f'<img alt="{_escape(alt)}" {size} src="data:image/png;base64,{_base64(png)}">'


def as_content(drawn: Figure | bytes | str) -> bytes | str:
    """A Figure as PNG bytes (and closed, so that it is not shown twice); PNG bytes and HTML as they are; of a tuple the first. TypeError for anything else."""
    drawn = _first(drawn)
    if isinstance(drawn, Figure):
        buffer = BytesIO()
        drawn.savefig(buffer, format="png", bbox_inches=None if drawn.get_layout_engine() else "tight")
        plt.close(drawn)
        return buffer.getvalue()
    if isinstance(drawn, str) or (isinstance(drawn, bytes) and drawn.startswith(PNG)):
        return drawn
    raise TypeError(f"draw must return a matplotlib Figure, PNG bytes, an HTML string or a tuple that begins with one, got {type(drawn).__name__}")


def _first(drawn):
    return drawn[0] if isinstance(drawn, tuple) and drawn else drawn


def _states(name, spec):
    """The list of states of a slider, or None for a text box."""
    if isinstance(spec, str) or _is_switches(spec):
        return None
    if isinstance(spec, bool):
        return [False, True]
    if isinstance(spec, tuple) and len(spec) == 3 and all(isinstance(v, Real) for v in spec):
        low, high, step = spec
        if not (np.isfinite(spec).all() and low < high and 0 < step <= high - low):
            raise ValueError(f"slider {name!r} must be (min, max, step) with min < max and 0 < step <= max - min, got {spec}")
        count = int(np.floor((high - low) / step + 1e-9)) + 1
        whole = all(isinstance(v, int) for v in spec)
        return [low + i * step if whole else round(low + i * step, 10) for i in range(count)]
    if isinstance(spec, list) and len(spec) >= 2:
        return spec
    raise TypeError(f"slider {name!r} must be (min, max, step), a list of at least two states, a bool, a str or a tuple of bools, got {spec!r}")


class _Switches(widgets.VBox):
    """Numbered buttons in a row, below their name; `value` is a tuple of bool."""

    def __init__(self, name, value):
        self.switches = [
            widgets.ToggleButton(value=on, description=str(i + 1), tooltip=f"{name} {i + 1}", layout={"width": "44px"}) for i, on in enumerate(value)
        ]
        super().__init__([widgets.HTML(_escape(name)), widgets.HBox(self.switches)])

    @property
    def value(self):
        return tuple(switch.value for switch in self.switches)


def _is_switches(spec):
    return isinstance(spec, tuple) and len(spec) >= 2 and all(isinstance(v, bool) for v in spec)


def _input(name, spec, states, start, precompute):
    words = name.replace("_", " ")
    label = {"description": words, "tooltip": words, "style": {"description_width": "initial"}}
    valued = isinstance(spec, (bool, str)) or (_is_switches(spec) and _is_switches(start) and len(start) == len(spec))  # the spec is a value too
    if valued and type(start) is type(spec) and start != spec:
        raise ValueError(f"slider {name!r} says {spec!r}, and the default is {start!r}; a control starts as the figure above it")
    if _is_switches(spec):
        value = spec if start is None else start
        if not _is_switches(value) or len(value) != len(spec):
            raise ValueError(f"the default of {name!r} must be {len(spec)} bools, got {value!r}")
        box = _Switches(label["description"], value)
    elif states is None:
        if start is not None and not isinstance(start, str):
            raise TypeError(f"slider {name!r} is a text box, and the default must be a text, got {got(start)}")
        box = widgets.Text(value=spec if start is None else start, continuous_update=False, layout={"width": "95%"}, **label)
    else:
        value = (spec if isinstance(spec, bool) else states[0]) if start is None else start
        if isinstance(spec, tuple):
            if not states[0] <= value <= states[-1]:
                raise ValueError(f"the default of {name!r} must lie in [{states[0]}, {states[-1]}], got {value}")
            nearest = states[_nearest(states, value)]
            if not _same(nearest, value):
                raise ValueError(f"the default of {name!r} must be a state of its slider {spec}, got {value}; the nearest is {nearest}")
            value = nearest
        elif value not in states:
            raise ValueError(f"the default of {name!r} must be one of {states}, got {value!r}")
        if isinstance(spec, bool):
            box = widgets.Checkbox(value=value, **label)
        elif isinstance(spec, tuple) or all(isinstance(state, Real) for state in states):
            box = widgets.SelectionSlider(
                options=[(_text(state), state) for state in states], value=value, continuous_update=precompute, layout={"width": "95%"}, **label
            )
        else:
            box = widgets.Dropdown(options=states, value=value, **label)
    return box.add_class("stepwise-input").add_class(f"stepwise-{name}")


def _nearest(states, value):
    return min(range(len(states)), key=lambda i: abs(states[i] - value)) if isinstance(value, Real) else states.index(value)


def _signature_defaults(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}


def _same(a, b):
    both = isinstance(a, Real) and isinstance(b, Real)
    return bool(np.isclose(a, b, rtol=1e-9, atol=1e-12)) if both else a == b


def _text(value):
    if _is_switches(value):
        return " and ".join(str(i + 1) for i, on in enumerate(value) if on) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _named(values):
    return ", ".join(f"{name} = {_text(value)}" for name, value in values.items())


def _escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _join(shown, columns=2, width=520):
    """Captioned pictures in two columns, as one PNG."""
    tiles = []
    for caption, content in shown:
        picture = Image.open(BytesIO(content)).convert("RGB")
        if picture.width > width:
            picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        tile = Image.new("RGB", (max(width if len(shown) > 1 else picture.width, picture.width), picture.height + 22), "white")
        tile.paste(picture, (0, 22))
        ImageDraw.Draw(tile).text((6, 3), caption, fill="black", font=ImageFont.load_default(13))
        tiles.append(tile)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    sheet = Image.new("RGB", (max(sum(t.width for t in row) for row in rows), sum(max(t.height for t in row) for row in rows)), "white")
    top = 0
    for row in rows:
        left = 0
        for tile in row:
            sheet.paste(tile, (left, top))
            left += tile.width
        top += max(tile.height for tile in row)
    buffer = BytesIO()
    sheet.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------------- pixels and their matches

LEVELS = 16  # shades of the heat map: 4 bits a cell
OPACITY = 0.55  # of the heat map over the picture
RIM = 10  # px around the pictures of a film strip, so that markers at an edge are whole
MAX_SIDE, MAX_HTML = 256, 600_000
_CSS = """<style>
.stepwise-pick figure { margin: 0; max-width: 100%; } .stepwise-pick figcaption { padding: 2px 0; }
.stepwise-pick-row { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-end; }
.stepwise-pick-picture { position: relative; max-width: 100%; }
.stepwise-pick-picture > * { position: absolute; pointer-events: none; }
.stepwise-pick-picture > .stepwise-pick-image { position: static; display: block; width: 100%; image-rendering: pixelated; }
.stepwise-pick-picture > canvas { inset: 0; width: 100%; height: 100%; image-rendering: pixelated; }
.stepwise-pick-picture > .stepwise-pick-mark { width: 19px; height: 19px; max-width: none; transform: translate(-50%, -50%); }
.stepwise-pick-source { cursor: crosshair; touch-action: none; user-select: none; }
.stepwise-pick-source:focus { outline: 3px solid #0072b2; outline-offset: 2px; }
.stepwise-pick-line { white-space: pre-line; padding: 6px 0; }
</style>"""
_SCRIPT = """(d => {
  const unpack = async () => {
    const packed = Uint8Array.from(atob(d.data), c => c.charCodeAt(0));
    return new Uint8Array(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'))).arrayBuffer());
  };
  const roots = () => document.querySelectorAll(`[id="${d.id}"]:not([data-ready])`);
  const wire = (root, bytes) => {
    const [source, ...targets] = root.querySelectorAll('.stepwise-pick-picture');
    const line = root.querySelector('.stepwise-pick-line'), heated = root.querySelector('.stepwise-pick-heat');
    const count = d.width * d.height;
    let at = d.start;
    const place = (box, x, y, width, height) => {
      const { style } = box.querySelector('.stepwise-pick-mark');
      style.left = `${100 * (x + 0.5) / width}%`;
      style.top = `${100 * (y + 0.5) / height}%`;
    };
    const paint = (canvas, t, cell) => {
      const context = canvas.getContext('2d'), image = context.createImageData(t.columns, t.rows), size = t.columns * t.rows;
      for (let i = 0; i < size; i++) {
        const k = cell * size + i, level = bytes[t.heat + (k >> 1)] >> 4 * (k & 1) & 15;
        image.data.set([...d.colours[level], 255], 4 * i);
      }
      context.putImageData(image, 0, 0);
    };
    const show = (x, y) => {
      at = [Math.min(Math.max(x, 0), d.width - 1), Math.min(Math.max(y, 0), d.height - 1)];
      place(source, ...at, d.width, d.height);
      const k = at[1] * d.width + at[0];
      line.textContent = d.targets.map((t, i) => {
        const u = bytes[t.at + k], v = bytes[t.at + count + k];
        place(targets[i], u, v, t.width, t.height);
        const text = `source (${at.join(', ')}) -> ${t.title} (${u}, ${v})`;
        if (!heated) return text;
        const row = Math.floor(at[1] * t.sourceRows / d.height), column = Math.floor(at[0] * t.sourceColumns / d.width);
        paint(targets[i].querySelector('canvas'), t, row * t.sourceColumns + column);
        return `${text}, similarity ${(d.low + (d.high - d.low) * bytes[t.at + 2 * count + k] / 255).toFixed(2)}`;
      }).join('\\n');
    };
    const point = e => {
      const box = source.getBoundingClientRect();
      show(Math.floor((e.clientX - box.left) / box.width * d.width), Math.floor((e.clientY - box.top) / box.height * d.height));
    };
    source.addEventListener('pointerdown', e => { source.setPointerCapture(e.pointerId); source.focus({ preventScroll: true }); point(e); });
    source.addEventListener('pointermove', e => { if (e.buttons) point(e); });
    source.addEventListener('keydown', e => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
      if (!step) return;
      e.preventDefault();
      e.stopPropagation();
      show(at[0] + step[0], at[1] + step[1]);
    });
    heated?.addEventListener('change', () => targets.forEach(t => { t.querySelector('canvas').hidden = !heated.checked; }));
    show(...at);
    root.dataset.ready = 'yes';
  };
  unpack().then(bytes => roots().forEach(root => wire(root, bytes))).catch(error => roots().forEach(root => {
    root.querySelector('.stepwise-pick-line').textContent = `This did not work: ${error}`;
  }));
})"""


def pick(source, targets, matches, *, heat=None, titles=None, title: str, start=None, scale: int = 3, strip=None) -> "Pick":
    """Let the reader point at a pixel of a picture and see its best match in others. Put it on the last line of a cell.

    A click, a pressed mouse or finger that moves, and the arrow keys move the marker of the source; markers in the targets and a line of text follow at
    once, since all answers are in the page. Points are x then y in px, the top left pixel is (0, 0).
    source: (3, H, W) in [0, 1]; targets: list of (3, h, w) in [0, 1]; no side above 256 px, sizes may differ.
    matches: for each target an integer array (H, W, 2), x and y in the target of every source pixel's best match.
    heat: for each target the cosine similarities in [-1, 1] of all source cells to all target cells, (Hc, Wc, hc, wc), or (Hc Wc, hc, wc) where the
    cells are square; pixel (x, y) lies in cell (row y Hc // H, column x Wc // W). The map shows them in 16 shades between the lowest and the highest
    of all targets; the similarity of a match is that of its two cells, kept in 256 steps of that range.
    titles: a name for each target; start: (x, y), otherwise the middle; scale: screen px of a pixel, 1 to 16.
    strip: the points (x, y) on the film strip after the start, otherwise three.
    Bytes: 2 H W (3 H W with heat) and Hc Wc hc wc / 2 for each target, deflated, then 4/3 of it in base64. Four targets of 64x64 with
    heat maps of 16x16 to 16x16 cells make about 60 kB of HTML for drawn creatures and 330 kB for pure noise; a stored page keeps the film strip only.
    Raises ValueError or TypeError, naming the argument; ValueError also where the HTML would have more than 600,000 bytes.
    """
    return Pick(source, targets, matches, heat, titles, title, start, scale, strip)


class Pick:
    """What `pick` returns: `widget` (the live face), `film_strip()` (the stored one), `html()`, `text(x, y)` and `state(x, y)`."""

    def __init__(self, source, targets, matches, heat, titles, title, start, scale, strip):
        if not isinstance(title, str):
            raise TypeError(f"title must be a str, got {type(title).__name__}")
        if isinstance(scale, bool) or not isinstance(scale, Integral):
            raise TypeError(f"scale must be a whole number, got {scale!r}")
        if not 1 <= scale <= 16:
            raise ValueError(f"scale must lie in 1 to 16, got {scale}")
        self.title, self.scale, self.source = title, int(scale), _pixels("source", source)
        self.targets = [_pixels(f"targets[{i}]", target) for i, target in enumerate(_listed("targets", targets))]
        if not self.targets:
            raise ValueError("targets must hold at least one picture, got none")
        count, (height, width) = len(self.targets), self.source.shape[:2]
        self.matches = [_matches(f"matches[{i}]", m, (height, width), self.targets[i]) for i, m in enumerate(_listed("matches", matches, count))]
        self.titles = _listed("titles", titles if titles is not None else [f"target {i + 1}" for i in range(count)], count)
        if not all(isinstance(name, str) for name in self.titles):
            raise TypeError(f"titles must hold str only, got {self.titles!r}")
        self.start = _point("start", (width // 2, height // 2) if start is None else start, (height, width))
        default = [p for p in ((width // 4, height // 4), (3 * width // 4, height // 3), (width // 3, 3 * height // 4)) if p != self.start]
        self.strip = [self.start, *(_point("strip", p, (height, width)) for p in _listed("strip", default if strip is None else strip))]
        self.heat = self.similarity = None
        if heat is not None:
            self._quantise([_similarities(f"heat[{i}]", h, (height, width)) for i, h in enumerate(_listed("heat", heat, count))])
        html = self.html()
        if len(html) > MAX_HTML:
            raise ValueError(f"the pictures, matches and heat make {len(html):,} bytes of HTML, expected at most {MAX_HTML:,}; give fewer targets or cells")
        live = {"output_type": "display_data", "metadata": {}, "data": {"text/html": html, "text/plain": title}}
        self.widget = widgets.VBox([widgets.HTML(f"<b>{_escape(title)}</b>"), widgets.Output(outputs=(live,))])
        self.widget.add_class("stepwise-control").add_class("stepwise-pick-control")

    def _quantise(self, heat):
        self.low, self.high = float(min(h.min() for h in heat)), float(max(h.max() for h in heat))
        span, (height, width) = self.high - self.low or 1.0, self.source.shape[:2]
        self.heat = [np.rint((h - self.low) / span * (LEVELS - 1)).astype(np.uint8) for h in heat]
        self.similarity = []
        for h, match, target in zip(heat, self.matches, self.targets, strict=True):
            rows, columns = np.arange(height) * h.shape[0] // height, np.arange(width) * h.shape[1] // width
            there = match[..., 1] * h.shape[2] // target.shape[0], match[..., 0] * h.shape[3] // target.shape[1]
            self.similarity.append(np.rint((h[rows[:, None], columns, *there] - self.low) / span * 255).astype(np.uint8))

    def text(self, x: int, y: int) -> str:
        """The line for a pixel of the source, one row for each target: `source (x, y) -> name (x, y), similarity s`."""
        return "\n".join(f"source ({x}, {y}) -> {answer}" for answer in self._answers(x, y))

    def _answers(self, x, y):
        for i, (name, match) in enumerate(zip(self.titles, self.matches, strict=True)):
            s = "" if self.heat is None else f", similarity {self.low + (self.high - self.low) * int(self.similarity[i][y, x]) / 255:.2f}"
            yield f"{name} ({match[y, x, 0]}, {match[y, x, 1]}){s}"

    def state(self, x: int, y: int) -> bytes:
        """One state as PNG: the pictures with their markers (and the heat map over the targets), side by side, no wider than about 1000 px."""
        return _png(self._drawn(x, y))

    def film_strip(self) -> bytes:
        """The start and the other points of `strip`, one below the other, in one PNG of at most 256 colours."""
        rows = [self._drawn(x, y) for x, y in self.strip]
        rows += [] if self.heat is None else [_scale_bar(f"cosine similarity (unitless) {self.low:.2f}", f"{self.high:.2f}")]
        sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
        for i, row in enumerate(rows):
            sheet.paste(row, (0, sum(above.height for above in rows[:i])))
        return _png(sheet.quantize(256, dither=Image.Dither.NONE))

    def _drawn(self, x, y):
        pictures, points = [self.source, *self.targets], [(x, y), *(m[y, x] for m in self.matches)]
        labels = [f"source ({x}, {y})", *(answer.replace("), ", ")\n") for answer in self._answers(x, y))]
        heats = [None] * len(pictures) if self.heat is None else [None, *(self._cells(i, x, y) for i in range(len(self.targets)))]
        scale = max(1, min(self.scale, 1000 // sum(picture.shape[1] for picture in pictures)))
        tiles = [_marked(*parts, scale, i > 0) for i, parts in enumerate(zip(pictures, points, heats, strict=True))]
        font, top = ImageFont.load_default(12), 10 if self.heat is None else 26
        pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        texts = [round(max(pen.textlength(part, font) for part in label.split("\n"))) for label in labels]
        widths = [max(tile.width, text + 2 * RIM) for tile, text in zip(tiles, texts, strict=True)]
        sheet = Image.new("RGB", (sum(widths), max(tile.height for tile in tiles) + top), "white")
        for i, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
            left = sum(widths[:i])
            sheet.paste(tile, (left, top))
            ImageDraw.Draw(sheet).multiline_text((left + RIM, 2), label, fill="black", font=font, spacing=3)
        return sheet

    def _cells(self, i, x, y):
        rows, columns = self.heat[i].shape[:2]
        return self.heat[i][y * rows // self.source.shape[0], x * columns // self.source.shape[1]]

    def html(self) -> str:
        """The live face as HTML with its script, complete in itself; every call has an id of its own. Without scripts it shows the start state's markers."""
        x, y = self.start
        (height, width), mark = self.source.shape[:2], f"stepwise-pick-{uuid.uuid4().hex[:12]}"
        planes, places, at = [], [], 0
        for i, (name, match, target) in enumerate(zip(self.titles, self.matches, self.targets, strict=True)):
            place = {"title": name, "at": at, "width": target.shape[1], "height": target.shape[0]}
            parts = [match[..., 0].astype(np.uint8), match[..., 1].astype(np.uint8)]
            if self.heat is not None:
                cells = self.heat[i].ravel()
                cells = np.append(cells, np.zeros(len(cells) % 2, np.uint8)).reshape(-1, 2)
                parts += [self.similarity[i], cells[:, 0] | cells[:, 1] << 4]
                place |= dict(zip(("sourceRows", "sourceColumns", "rows", "columns"), self.heat[i].shape, strict=True), heat=at + 3 * width * height)
            planes += [part.tobytes() for part in parts]
            at += sum(part.size for part in parts)
            places.append(place)
        values = {"id": mark, "width": width, "height": height, "start": self.start, "targets": places, "data": _base64(zlib.compress(b"".join(planes), 9))}
        if self.heat is not None:
            values |= {"low": self.low, "high": self.high, "colours": _colours().tolist()}
        figures = self._figure("source", self.source, (x, y), None)
        figures += "".join(self._figure(*parts, i) for i, parts in enumerate(zip(self.titles, self.targets, (m[y, x] for m in self.matches), strict=True)))
        call = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")  # no title can end the script
        return (
            f'{_CSS}<div class="stepwise-pick" id="{mark}"><div class="stepwise-pick-row stepwise-picture">{figures}</div>'
            f'<div class="stepwise-pick-line" role="status" aria-live="polite">{_escape(self.text(x, y))}</div>{self._legend()}'
            f"<script>{_SCRIPT}({call});</script></div>"
        )

    def _figure(self, name, picture, point, target):
        height, width = picture.shape[:2]
        live = ' tabindex="0" role="application" aria-label="source picture: click, or move the marker with the arrow keys" data-lm-suppress-shortcuts="true"'
        canvas, alt = "", "source picture" if target is None else "target picture"
        if target is not None and self.heat is not None:
            rows, columns = self.heat[target].shape[2:]
            canvas = f'<canvas width="{columns}" height="{rows}" style="opacity: {OPACITY}"></canvas>'
        return (
            f'<figure><figcaption>{_escape(name)}</figcaption><div class="stepwise-pick-picture{" stepwise-pick-source" if target is None else ""}"'
            f' style="width: {width * self.scale}px"{live if target is None else ""}>'
            f'<img class="stepwise-pick-image" draggable="false" alt="{alt}" src="{_data(Image.fromarray(picture))}">'
            f'{canvas}<img class="stepwise-pick-mark" alt="marker" src="{_data(_marker(target is not None, 38))}"'
            f' style="left: {100 * (point[0] + 0.5) / width:.4g}%; top: {100 * (point[1] + 0.5) / height:.4g}%"></div></figure>'
        )

    def _legend(self):
        if self.heat is None:
            return ""
        shades = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in _colours())
        bar = f'<span style="display: inline-block; width: 120px; height: 10px; background: linear-gradient(to right, {shades})"></span>'
        return f'<label><input type="checkbox" class="stepwise-pick-heat" checked> cosine similarity (unitless)</label> {self.low:.2f} {bar} {self.high:.2f}'

    def _repr_mimebundle_(self, include=None, exclude=None):
        live = self.widget._repr_mimebundle_()["application/vnd.jupyter.widget-view+json"]
        text = f"pick: {self.title} (source -> {', '.join(self.titles)})"
        lines = [self.text(x, y).replace("\n", ", ") for x, y in self.strip]
        alt = f"Control {self.title!r}: pixels of a picture and their best matches in {', '.join(self.titles)}. {'; '.join(lines)}."
        return {"text/plain": text, "image/png": self.film_strip(), "application/vnd.jupyter.widget-view+json": live}, {"image/png": {"alt": alt}}


def _listed(argument, values, count=None):
    """`values` as a list of `count` items; a str is no list."""
    if isinstance(values, str | bytes | dict) or not hasattr(values, "__iter__"):
        raise TypeError(f"{argument} must be a list, got {type(values).__name__}")
    values = list(values)
    if count is not None and len(values) != count:
        raise ValueError(f"{argument} must hold one item for each of the {count} targets, got {len(values)}")
    return values


def _numbers(argument, values):
    values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{argument} must hold numbers, got dtype {values.dtype}")
    return values


def _ranged(argument, values, low, high):
    least, most = values.min(), values.max()
    if not (least >= low - 1e-4 and most <= high + 1e-4):
        raise ValueError(f"{argument} must lie in [{low}, {high}], got values from {least:.3g} to {most:.3g}")
    return values.clip(low, high)


def _pixels(argument, picture):
    """A picture (3, H, W) in [0, 1] as (H, W, 3) uint8."""
    picture = _numbers(argument, picture)
    if picture.ndim != 3 or picture.shape[0] != 3 or not 1 <= min(picture.shape[1:]) <= max(picture.shape[1:]) <= MAX_SIDE:
        raise ValueError(f"{argument} must be (3, H, W) with sides of 1 to {MAX_SIDE} px, got {picture.shape}")
    return np.rint(_ranged(argument, picture, 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)


def _matches(argument, match, size, target):
    match = _numbers(argument, match)
    if match.dtype.kind not in "iu":
        raise TypeError(f"{argument} must hold whole numbers, got dtype {match.dtype}")
    if match.shape != (*size, 2):
        raise ValueError(f"{argument} must be (H, W, 2) = {(*size, 2)}, got {match.shape}")
    limits = np.array(target.shape[1::-1])
    if (match < 0).any() or (match >= limits).any():
        low, high = match.min((0, 1)).tolist(), match.max((0, 1)).tolist()
        raise ValueError(f"{argument} must lie in a target of {limits[0]} x {limits[1]} px, got x from {low[0]} to {high[0]}, y from {low[1]} to {high[1]}")
    return match.astype(np.int64)


def _similarities(argument, heat, size):
    """Similarities as (Hc, Wc, hc, wc) in [-1, 1]; the grid of (Hc Wc, hc, wc) has square cells on a source of `size`."""
    heat = _numbers(argument, heat)
    if heat.ndim == 3:
        rows = isqrt(len(heat) * size[0] // size[1])
        if rows == 0 or len(heat) % rows or rows * size[1] != len(heat) // rows * size[0]:
            raise ValueError(f"{argument} {heat.shape} must have Hc Wc square cells on a source of {size[0]} x {size[1]} px; otherwise give (Hc, Wc, hc, wc)")
        heat = heat.reshape(rows, -1, *heat.shape[1:])
    if heat.ndim != 4 or heat.size == 0:
        raise ValueError(f"{argument} must be (Hc Wc, hc, wc) or (Hc, Wc, hc, wc), got {heat.shape}")
    return _ranged(argument, heat.astype(np.float64), -1, 1)


def _point(argument, point, size):
    point = tuple(_listed(argument, point))
    if len(point) != 2 or not all(isinstance(v, Integral) for v in point):
        raise TypeError(f"{argument} must be (x, y) in whole px, got {point!r}")
    if not (0 <= point[0] < size[1] and 0 <= point[1] < size[0]):
        raise ValueError(f"{argument} must lie in the source of {size[1]} x {size[0]} px, got {point}")
    return int(point[0]), int(point[1])


def _colours():
    """The heat map's shades, (16, 3) uint8."""
    return (plt.get_cmap("viridis")(np.linspace(0, 1, LEVELS))[:, :3] * 255).round().astype(np.uint8)


def _marker(target, size=19):
    """A ring with a cross for the source, a diamond with a dot for a target: bright with a black rim, `size` px."""
    sheet = Image.new("RGBA", (76, 76))
    pen = ImageDraw.Draw(sheet)
    for colour, width in (("black", 18), ("#f0e442" if target else "white", 9)):
        if target:
            radius = 27 + width // 2
            pen.polygon([(38, 38 - radius), (38 + radius, 38), (38, 38 + radius), (38 - radius, 38)], outline=colour, width=width)
            pen.ellipse((38 - width // 2, 38 - width // 2, 38 + width // 2, 38 + width // 2), fill=colour)
        else:
            grow = (width - 9) / 2
            pen.ellipse((14 - grow, 14 - grow, 62 + grow, 62 + grow), outline=colour, width=width)
            for ends in ((2, 38, 26, 38), (50, 38, 74, 38), (38, 2, 38, 26), (38, 50, 38, 74)):
                pen.line(ends, fill=colour, width=width)
    return sheet.resize((size, size), Image.Resampling.LANCZOS)


def _marked(picture, point, cells, scale, target):
    """One picture of a film strip: enlarged, under its heat map, with a white rim, and its marker."""
    size = picture.shape[1] * scale, picture.shape[0] * scale
    tile = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    if cells is not None:
        tile = Image.blend(tile, Image.fromarray(_colours()[cells]).resize(size, Image.Resampling.NEAREST), OPACITY)
    tile, marker = ImageOps.expand(tile, RIM, "white"), _marker(target)
    tile.paste(marker, tuple(round((int(v) + 0.5) * scale - 9.5) + RIM for v in point), marker)
    return tile


def _scale_bar(low, high):
    """The heat map's shades between two texts, as a line of a film strip."""
    bar, font = Image.fromarray(_colours()[None]).resize((160, 10), Image.Resampling.NEAREST), ImageFont.load_default(12)
    sheet = Image.new("RGB", (520, 22), "white")
    pen = ImageDraw.Draw(sheet)
    left = RIM + round(pen.textlength(low, font)) + 6
    pen.text((RIM, 2), low, fill="black", font=font)
    sheet.paste(bar, (left, 6))
    pen.text((left + 166, 2), high, fill="black", font=font)
    return sheet


def _png(picture):
    buffer = BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _base64(data):
    return base64.b64encode(data).decode()


def _data(picture):
    return f"data:image/png;base64,{_base64(_png(picture))}"
