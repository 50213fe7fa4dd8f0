"""Interactive controls with two faces: live widgets in JupyterLab, a film strip of the same states where there is no kernel.

`control(draw, title=..., threshold=(0.05, 0.4, 0.05))` is the last line of a cell. JupyterLab shows the sliders; a stored page shows the PNG.
"""

import inspect
import itertools
from collections.abc import Callable
from io import BytesIO
from numbers import Real

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

PNG = b"\x89PNG\r\n\x1a\n"


def control(
    draw: Callable | None, *, title: str, buttons: dict[str, Callable] | None = None, defaults: dict | None = None,
    strip: list[dict] | None = None, precompute: bool = False, **sliders,
) -> "Control":  # fmt: skip
    """Make a control. Put it on the last line of a cell.

    draw(**values) returns a matplotlib Figure, PNG bytes or an HTML string; each state is drawn once and kept.
    sliders: name = (min, max, step) | list of states (strings make a dropdown) | bool (checkbox) | str (text box).
    buttons: label -> callback(**values) for slow work; its picture appears below. draw may be None when there is a button.
    defaults: starting values, otherwise those of draw's signature, otherwise the first state.
    strip: the states on the film strip (dicts of values), otherwise the default and up to three others of the first slider.
    precompute: draw all states at once (at most 500; a text box keeps its default).
    Raises ValueError or TypeError for a specification that cannot be shown.
    """
    return Control(draw, title, buttons or {}, defaults or {}, strip, precompute, sliders)


class Control:
    """What `control` returns: `widget` (the live face), `film_strip()` (the stored one), `values`, `inputs` and `draw_buttons`."""

    def __init__(self, draw, title, buttons, defaults, strip, precompute, sliders):
        if draw is None and not buttons:
            raise ValueError("draw must be a function unless there are buttons, got None")
        for name, function in {"draw": draw, **buttons}.items():
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, got {type(function).__name__}")
        if not sliders:
            raise ValueError("a control needs at least one slider, got none")
        if unknown := set(defaults) - set(sliders):
            raise ValueError(f"defaults name {sorted(unknown)}, which are no sliders of this control: {sorted(sliders)}")
        self.draw, self.title, self.buttons, self.cache = draw, title, buttons, {}
        self.states = {name: _states(name, spec) for name, spec in sliders.items()}
        start = _signature_defaults(draw or next(iter(buttons.values()))) | defaults
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
            self.picture.show(self.state(**self.values))  # an error here is the page's error, so it is not caught
        for box in self.inputs.values():
            box.observe(self._moved, names="value")
        parts = [widgets.HTML(f"<b>{title}</b>"), *self.inputs.values(), widgets.HBox(list(self.draw_buttons.values())), self.message]
        self.widget = widgets.VBox([*parts, self.picture.box, self.result.box]).add_class("stepwise-control")

    @property
    def values(self) -> dict:
        """The values that the inputs show now."""
        return {name: box.value for name, box in self.inputs.items()}

    def state(self, **values) -> bytes | str:
        """The picture of one state as PNG bytes, or its HTML; drawn at the first request."""
        key = tuple(sorted((name, round(v, 10) if isinstance(v, float) else v) for name, v in values.items()))
        if key not in self.cache:
            self.cache[key] = as_content(self.draw(**values))
        return self.cache[key]

    def film_strip(self) -> bytes | str:
        """The strip's states in one PNG with a caption each (or in one HTML string where draw returns HTML)."""
        shown = []
        for state in self.strip:
            values = self.values | state
            content = self.state(**values) if self.draw else as_content(next(iter(self.buttons.values()))(**values))
            named = values if len(values) <= 3 else state or {"start": "as in the figure above"}  # many sliders: only what was moved
            shown.append((", ".join(f"{name} = {_text(value)}" for name, value in named.items()), content))
        if all(isinstance(content, bytes) for _, content in shown):
            return _join(shown)
        return "".join(f"<p><b>{caption}</b></p>{content if isinstance(content, str) else ''}" for caption, content in shown)

    def _repr_mimebundle_(self, include=None, exclude=None):
        static = self.film_strip()
        kind = "image/png" if isinstance(static, bytes) else "text/html"
        text = f"control: {self.title} ({', '.join(self.inputs)})"
        return {"text/plain": text, kind: static} | {
            key: value for key, value in self.widget._repr_mimebundle_().items() if key == "application/vnd.jupyter.widget-view+json"
        }

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
        button = widgets.Button(description=label).add_class("stepwise-button").add_class(f"stepwise-button-{label.replace(' ', '-')}")
        button.on_click(lambda _: self._pressed(callback))
        return button

    def _moved(self, _):
        if self.draw:
            self._guarded(lambda: self.picture.show(self.state(**self.values)))

    def _pressed(self, callback):
        buttons = self.draw_buttons.values()
        for button in buttons:
            button.disabled = True
        self.message.value = "working…"
        self._guarded(lambda: self.result.show(as_content(callback(**self.values))))
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
    """Shows PNG bytes or HTML, whichever comes."""

    def __init__(self, name):
        self.image = widgets.Image(format="png", layout={"display": "none", "align_self": "flex-start", "max_width": "100%"}).add_class(name)
        self.html = widgets.HTML(layout={"display": "none"}).add_class(name)
        self.box = widgets.VBox([self.image, self.html])

    def show(self, content):
        shown, hidden = (self.image, self.html) if isinstance(content, bytes) else (self.html, self.image)
        shown.value, shown.layout.display, hidden.layout.display = content, None, "none"


def as_content(drawn: Figure | bytes | str) -> bytes | str:
    """A Figure as PNG bytes (and closed, so that it is not shown twice); PNG bytes and HTML as they are. Raises TypeError for anything else."""
    if isinstance(drawn, Figure):
        buffer = BytesIO()
        drawn.savefig(buffer, format="png", bbox_inches=None if drawn.get_layout_engine() else "tight")
        plt.close(drawn)
        return buffer.getvalue()
    if isinstance(drawn, str) or (isinstance(drawn, bytes) and drawn.startswith(PNG)):
        return drawn
    raise TypeError(f"draw must return a matplotlib Figure, PNG bytes or an HTML string, got {type(drawn).__name__}")


def _states(name, spec):
    """The list of states of a slider, or None for a text box."""
    if isinstance(spec, str):
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
    raise TypeError(f"slider {name!r} must be (min, max, step), a list of at least two states, a bool or a str, got {spec!r}")


def _input(name, spec, states, start, precompute):
    label = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
    if states is None:
        box = widgets.Text(value=spec if start is None else start, continuous_update=False, layout={"width": "95%"}, **label)
    else:
        value = (spec if isinstance(spec, bool) else states[0]) if start is None else start
        if isinstance(spec, tuple):
            if not states[0] <= value <= states[-1]:
                raise ValueError(f"the default of {name!r} must lie in [{states[0]}, {states[-1]}], got {value}")
            value = states[_nearest(states, value)]
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


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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
