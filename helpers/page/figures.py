"""The one plotting style. Small functions that take data and an `ax`, return the `ax`, and compute nothing."""

import os
import platform
from collections.abc import Sequence
from numbers import Real

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from threadpoolctl import threadpool_limits

from helpers.arguments import choice, got, instance, integer, numbers, texts

__all__ = [
    "GREY", "METHOD_STYLE", "PALETTE", "alt_text", "as_pictures", "bars", "clip_strip", "curves_with_band", "image_grid", "method_style", "picture_table",
    "raster", "use_style",
]  # fmt: skip

PALETTE = sns.color_palette("colorblind", 10).as_hex()
GREY = "#666666"

# One colour, marker and line for a method, everywhere.
METHOD_STYLE = {
    "uncached": (GREY, "none", "-"),
    "reference": (GREY, "none", "-"),
    "random": (GREY, "x", ":"),
    "oracle": ("#000000", "*", "-."),
    "AdaCache": (PALETTE[0], "o", "-"),
    "fewer steps": (PALETTE[1], "s", "--"),
    "uniform caching": (PALETTE[2], "^", "--"),
    "best fixed schedule": (PALETTE[3], "v", "-."),
    "AdaCache, narrow rates": (PALETTE[0], "D", "--"),
    "AdaCache, linear": (PALETTE[0], "X", "--"),
    "AdaCache, linear clock": ("#000000", "*", "-"),
    "AdaCache + MoReg": (PALETTE[9], "D", "-"),
    "AdaCache + MoReg, linear": (PALETTE[9], "d", "--"),
    "uniform caching, linear": (PALETTE[2], "v", "-"),
    "FirstBlockCache": (PALETTE[4], "P", ":"),
    "PAB": (PALETTE[5], "X", ":"),
    "FasterCache": (PALETTE[5], "p", "--"),
    "TaylorSeer": (PALETTE[6], "h", ":"),
    "TaylorSeer lite": (PALETTE[6], "H", "--"),
    "MagCache": (PALETTE[7], ">", ":"),
    "SeaCache": (PALETTE[3], "<", "--"),
    "SeaCache, hold": (PALETTE[3], "s", ":"),
    "MarDini": (PALETTE[0], "p", "-"),
    "DIFT": (PALETTE[1], "o", "-"),
    "MagicMix": (PALETTE[4], "o", "-"),
    "SDEdit": (PALETTE[7], "s", "--"),
    "k-NN": (PALETTE[2], "o", "-"),
    "linear": (GREY, "s", "--"),
    "fine-tuning": ("#000000", "^", "--"),
    "CAN": (PALETTE[3], "o", "-"),
    "CAN, tuned": (PALETTE[3], "s", "--"),
    "as they are": (GREY, "x", "--"),
    "prior correction": (PALETTE[0], "^", "--"),
    "Sinkhorn": (PALETTE[2], "D", "-."),
    "fitted bias": (PALETTE[1], "P", ":"),
    "VisE": (PALETTE[5], "o", "-"),
    "VPT": (PALETTE[0], "^", "-"),
    "VPT-shallow": (PALETTE[0], "v", "--"),
    "bias": (PALETTE[2], "P", "-."),
    "adapter": (PALETTE[3], "X", ":"),
    "SSF": (PALETTE[1], "v", "-"),
    "PromptFusion": (PALETTE[6], "o", "-"),
    "MA-LMM": (PALETTE[8], "o", "-"),
    "MagicVideo": (PALETTE[9], "o", "-"),
    "SAF": (PALETTE[2], "D", "-"),
    "FAN": (PALETTE[3], "D", "-"),
    "Shunted Transformer": (PALETTE[4], "D", "-"),
    "Refiner": (PALETTE[5], "D", "-"),
    "token labeling": (PALETTE[6], "D", "-"),
    "AutoSpace": (PALETTE[7], "D", "-"),
    "M2BEV": (PALETTE[8], "D", "-"),
}


def use_style() -> None:
    """Set the style for the page, keep it to one thread (unless OMP_NUM_THREADS or MKL_NUM_THREADS is set), and print the versions on one line.

    In a notebook every figure gets `alt_text` from then on.
    """
    sns.set_theme(style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({
        "figure.dpi": 80, "savefig.dpi": 80, "figure.figsize": (7.0, 3.2), "figure.constrained_layout.use": True, "image.cmap": "viridis",
        "image.interpolation": "nearest", "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium", "legend.frameon": False,
    })  # fmt: skip
    if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        torch.set_num_threads(1)
        threadpool_limits(1)
    if shell := get_ipython():
        shell.display_formatter.mimebundle_formatter.for_type(Figure, lambda figure: ({}, {"image/png": {"alt": alt_text(figure)}}))
    print(f"python {platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}, numpy {np.__version__}")


def alt_text(figure: Figure) -> str:
    """What a figure shows, in words, for those who do not see it: of each panel its title, axes, names, legend and number of pictures."""
    instance("figure", figure, Figure, "a matplotlib Figure")
    panels = [words for ax in figure.axes if (words := _panel(ax))]
    title = figure.get_suptitle()
    several = len(panels) > 1
    return ". ".join([f"Figure: {title}" if title else "Figure", *(f"Panel {i}: {words}" if several else words for i, words in enumerate(panels, 1))]) + "."


def _panel(ax: Axes) -> str:
    """One panel in words; nothing for one that shows nothing."""
    across, up, legend = ax.get_xlabel(), ax.get_ylabel(), ax.get_legend()
    if hasattr(ax, "_colorbar"):
        return f"colour bar, {up or across}" if up or across else "colour bar"
    texts = [text.get_text().strip() for text in [*(legend.get_texts() if legend else ()), *ax.texts]]
    parts = [
        ax.get_title() or ax.get_title("left"),
        f"{up} against {across}" if up and across else up or across,
        f"{len(ax.images)} pictures" if len(ax.images) > 1 else "a picture" if ax.images else "",
        f"from top to bottom {rows}" if (rows := _names(ax.yaxis)) else "",
        f"from left to right {columns}" if (columns := _names(ax.xaxis)) else "",
        f"with {', '.join(dict.fromkeys(filter(None, texts)))}" if any(texts) else "",
    ]
    return "; ".join(" ".join(part.split()) for part in parts if part)


def _names(axis: Axis) -> str:
    """The texts at an axis's ticks where they were set by hand, as those of rows and bars are; the order in which they are read."""
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return ""
    names = [label.get_text() for label in axis.get_ticklabels() if label.get_text()]
    return ", ".join(names if axis.axis_name == "x" or axis.get_inverted() else reversed(names))


def method_style(name: str) -> dict:
    """Colour, marker and linestyle of a method, as keywords for `plot`. Raises ValueError for an unknown name."""
    choice("name", name, METHOD_STYLE)
    color, marker, linestyle = METHOD_STYLE[name]
    return {"color": color, "marker": marker, "linestyle": linestyle, "label": name}


def as_pictures(pictures) -> np.ndarray:
    """Arrays or tensors (..., C, H, W) or (..., H, W, C) with C 1 or 3, uint8 or in [0, 1], as float (..., H, W, 3).

    The last axis is the channels when it has 1 or 3 entries, otherwise the third from the end must. Raises ValueError for other shapes and ranges.
    """
    return _pictures("pictures", pictures)


def _pictures(name: str, pictures) -> np.ndarray:
    """`as_pictures` of what the caller calls `name`."""
    x = numbers(name, pictures, "...", masks=True).cpu()
    x = (x.float() if isinstance(pictures, torch.Tensor) and x.is_floating_point() else x).numpy()
    if x.dtype == np.uint8:
        x = x / 255
    if x.ndim >= 3 and x.shape[-1] not in (1, 3):
        x = np.moveaxis(x, -3, -1)
    if x.ndim < 3 or x.shape[-1] not in (1, 3):
        raise ValueError(f"{name} must be (..., C, H, W) or (..., H, W, C) with 1 or 3 channels, got shape {x.shape}")
    if x.min() < -1e-3 or x.max() > 1 + 1e-3:
        raise ValueError(f"{name} must be uint8 or lie in [0, 1], got values from {x.min():.3g} to {x.max():.3g}")
    return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x


def image_grid(pictures, titles=None, *, ax: Axes, columns: int | None = None) -> Axes:
    """Draw pictures (N, C, H, W) or (N, H, W, C) side by side in one `ax`, each below its title; `columns` breaks the row."""
    _axes(ax)
    columns = None if columns is None else integer("columns", columns, low=1)
    x = as_pictures(pictures)
    if x.ndim != 4:
        raise ValueError(f"pictures must have one batch axis, (N, C, H, W) or (N, H, W, C), got {got(pictures)}")
    count, height, width = x.shape[:3]
    titles = None if titles is None else _words("titles", titles, count)
    columns = columns or count
    gap = max(1, width // 16)
    step_x, step_y = width + gap, height + (max(gap, height // 4) if titles is not None else gap)
    rows = -(-count // columns)
    for i, picture in enumerate(x):
        left, top = (i % columns) * step_x, (i // columns) * step_y
        ax.imshow(picture.clip(0, 1), extent=(left, left + width, top + height, top))
        if titles is not None:
            ax.text(left + width / 2, top - 0.03 * height, titles[i], ha="center", va="bottom", fontsize="small")
    ax.set(xlim=(0, columns * step_x - gap), ylim=(rows * step_y, -height // 5 if titles is not None else 0), xticks=[], yticks=[])
    ax.set_aspect("equal")
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def clip_strip(clips, titles=None, *, ax: Axes) -> Axes:
    """Draw clips (N, T, C, H, W) or (N, T, H, W, C) as rows of frames; titles name the rows."""
    _axes(ax)
    x = _pictures("clips", clips)
    if x.ndim != 5:
        raise ValueError(f"clips must be (N, T, C, H, W) or (N, T, H, W, C), got {got(clips)}")
    count, frames, height, width = x.shape[:4]
    titles = [str(row + 1) for row in range(count)] if titles is None else _words("titles", titles, count)
    gap = max(1, width // 16)
    for row, clip in enumerate(x):
        for t, frame in enumerate(clip):
            left, top = t * (width + gap), row * (height + gap)
            ax.imshow(frame.clip(0, 1), extent=(left, left + width, top + height, top))
    ax.set(xlim=(0, frames * (width + gap) - gap), ylim=(count * (height + gap) - gap, 0), xlabel="frame (number)")
    ax.set_xticks([t * (width + gap) + width / 2 for t in range(frames)], [str(t + 1) for t in range(frames)])
    ax.set_yticks([row * (height + gap) + height / 2 for row in range(count)], titles)
    ax.tick_params(length=0)
    ax.set_aspect("equal")
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def picture_table(
    pictures, rows: Sequence, columns: Sequence, *, ax: Axes, xlabel: str = "", ylabel: str = "", gap: int = 4, levels: int = 32
) -> Axes:  # fmt: skip
    """Draw pictures (R, C, 3, H, W) in [0, 1] as a table with a name for every row and column; a picture of NaN stays empty.

    levels: of each colour channel; generated pictures carry a faint noise that the eye does not see and a PNG must store (256: draw it all).
    Raises ValueError when the names do not fit, for less than two levels, and for a picture with NaN here and there.
    """
    _axes(ax)
    gap, levels = integer("gap", gap, low=0), integer("levels", levels, low=2)
    xlabel, ylabel = (instance(name, value, str, "a text") for name, value in (("xlabel", xlabel), ("ylabel", ylabel)))
    pictures = numbers("pictures", pictures, "R C 3 H W", finite=False).cpu()
    rows, columns = _words("rows", rows, len(pictures)), _words("columns", columns, pictures.shape[1])
    drawn = ~torch.isnan(pictures).flatten(2).all(2)
    if drawn.any():
        _pictures("pictures", pictures[drawn])
    height, width = pictures.shape[-2:]
    for r, line in enumerate(pictures):
        for c, picture in enumerate(line):
            if drawn[r, c]:
                left, top = c * (width + gap), r * (height + gap)
                shown = np.round(as_pictures(picture).clip(0, 1) * (levels - 1)) / (levels - 1)
                ax.imshow(shown, extent=(left, left + width, top + height, top))
    ax.set(xlim=(0, len(columns) * (width + gap) - gap), ylim=(len(rows) * (height + gap) - gap, 0), xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks([c * (width + gap) + width / 2 for c in range(len(columns))], columns)
    ax.set_yticks([r * (height + gap) + height / 2 for r in range(len(rows))], rows)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_aspect("equal")
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def raster(schedules, labels=None, *, ax: Axes) -> Axes:
    """Draw schedules (runs, calls), boolean: one row a run, one column a call, dark where the call is computed."""
    _axes(ax)
    x = numbers("schedules", schedules, "runs calls", masks=True).double().cpu().numpy()
    if not np.isin(x, (0, 1)).all():
        raise ValueError(f"schedules must be booleans (runs, calls), got {got(schedules)} with values from {x.min():.4g} to {x.max():.4g}")
    labels = [str(i + 1) for i in range(len(x))] if labels is None else _words("labels", labels, len(x))
    ax.imshow(x, cmap="Greys", vmin=-0.15, vmax=1.25, aspect="auto", extent=(0.5, x.shape[1] + 0.5, len(x) - 0.5, -0.5))
    ax.set_xticks(np.arange(0.5, x.shape[1] + 1), minor=True)
    ax.set_yticks(np.arange(-0.5, len(x)), minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="minor", length=0)
    ax.set_yticks(range(len(x)), labels)
    ax.set(xlabel="denoiser call (number), dark = computed")
    return ax


def curves_with_band(x, ys, *, ax: Axes, label: str, **style) -> Axes:
    """Draw the mean of ys (runs, points) over x with a band of one standard deviation; the label says over how many runs.

    Colour and marker are those of the method `label` when it has a style; keywords override them.
    """
    _axes(ax)
    sizes = {}
    x = numbers("x", x, "points", sizes, dtype=torch.float64).cpu().numpy()
    ys = numbers("ys", ys, "runs points", sizes, dtype=torch.float64).cpu().numpy()
    instance("label", label, str, "a text")
    try:
        Line2D([], [], **style)
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(f"style must hold keywords of matplotlib's plot: {error}") from None
    style = (method_style(label) if label in METHOD_STYLE else {}) | style | {"label": f"{label} (n = {len(ys)})"}
    mean, spread = ys.mean(0), ys.std(0)
    (line,) = ax.plot(x, mean, **style)
    ax.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.2, linewidth=0)
    return ax


def bars(names, values, *, ax: Axes, spread=None, colors=None) -> Axes:
    """Draw horizontal bars, the first name on top, with an error bar where `spread` is given. Methods keep their colour."""
    _axes(ax)
    sizes = {}
    values = numbers("values", values, "bars", sizes, dtype=torch.float64).cpu().numpy()
    spread = None if spread is None else numbers("spread", spread, "bars", sizes, low=0, dtype=torch.float64).cpu().numpy()
    names = _words("names", names, len(values))
    if colors is not None:
        colors = texts("colors", colors, count=len(values))
        if wrong := [color for color in colors if not is_color_like(color)]:
            raise ValueError(f"colors must be colours that matplotlib knows, got {wrong[0]!r}")
    colors = colors or [METHOD_STYLE.get(name, (PALETTE[0],))[0] for name in names]
    ax.barh(range(len(values)), values, xerr=spread, color=colors, height=0.7, error_kw={"ecolor": GREY, "elinewidth": 1.5, "capsize": 3})
    ax.set_yticks(range(len(values)), names)
    ax.invert_yaxis()
    return ax


def _axes(ax) -> None:
    instance("ax", ax, Axes, "a matplotlib Axes, as plt.subplots() gives one")


def _words(argument: str, words, count: int) -> list[str]:
    """One text (or number) for each of `count` things, as texts."""
    expected = f"a list of {count} texts, one for each row or picture"
    if not isinstance(words, (list, tuple)) and not (hasattr(words, "tolist") and not isinstance(words, torch.Tensor)):
        raise TypeError(f"{argument} must be {expected}, got {got(words)}")
    found = list(words.tolist() if hasattr(words, "tolist") else words)
    if wrong := [word for word in found if isinstance(word, bool) or not isinstance(word, (str, Real))]:
        raise TypeError(f"{argument} must be {expected}, got {got(wrong[0])} in it")
    if len(found) != count:
        raise ValueError(f"{argument} must be {expected}, got {len(found)}")
    return [str(word) for word in found]
