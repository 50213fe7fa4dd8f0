"""The plotting helpers: what they draw is read back from the axes."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from helpers.page import figures


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_use_style_prints_versions_on_one_line(capsys):
    threads = torch.get_num_threads()
    with matplotlib.rc_context():
        figures.use_style()
        assert plt.rcParams["savefig.dpi"] <= 100
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and np.__version__ in lines[0] and torch.__version__ in lines[0]


def test_a_figure_is_told_in_words():
    figure, (left, middle, right) = plt.subplots(1, 3)
    figures.image_grid(np.zeros((2, 3, 4, 4)), ["cat", "dog"], ax=left)
    figures.curves_with_band([1, 2], np.zeros((3, 2)), ax=middle, label="AdaCache")
    middle.set(xlabel="calls (number)", ylabel="PSNR (dB)", title="quality")
    middle.legend()
    figures.bars(["first", "second"], [1, 2], ax=right)
    figure.colorbar(middle.imshow(np.zeros((2, 2))), ax=middle, label="cosine (unitless)")
    panels = [
        "Panel 1: 2 pictures; with cat, dog", "Panel 2: quality; PSNR (dB) against calls (number); a picture; with AdaCache (n = 3)",
        "Panel 3: from top to bottom first, second", "Panel 4: colour bar, cosine (unitless)",
    ]  # fmt: skip
    assert figures.alt_text(figure) == ". ".join(["Figure", *panels]) + "."
    plt.close(figure)
    figure, ax = plt.subplots()
    assert figures.alt_text(figure) == "Figure."
    figure.suptitle("All of it")
    figures.clip_strip(np.zeros((2, 3, 3, 4, 4)), ["a", "b"], ax=ax)
    assert figures.alt_text(figure) == "Figure: All of it. frame (number); 6 pictures; from top to bottom a, b; from left to right 1, 2, 3."
    plt.close(figure)


def test_from_use_style_on_a_notebook_stores_the_words_with_each_figure(monkeypatch, capsys):
    from IPython.core.formatters import DisplayFormatter

    class Shell:
        display_formatter = DisplayFormatter()

    monkeypatch.setattr(figures, "get_ipython", lambda: Shell)
    Shell.display_formatter.formatters["image/png"].for_type(Figure, lambda figure: "png")
    with matplotlib.rc_context():
        figures.use_style()
    figure, ax = plt.subplots()
    ax.set_xlabel("time (s)")
    data, metadata = Shell.display_formatter.format(figure)
    assert data["image/png"] == "png" and metadata == {"image/png": {"alt": "Figure. time (s)."}}
    plt.close(figure)


def colliding(styles):
    """A sentence for every two methods with the same colour, marker and line; `uncached` and `reference` are one thing."""
    names = [name for name in styles if name != "reference"]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if styles[a] == styles[b]]
    return [f"{a!r} and {b!r} have one style, {styles[a]}: give one of them another marker or line in METHOD_STYLE" for a, b in pairs]


def test_a_colliding_style_names_both_methods():
    assert colliding(figures.METHOD_STYLE) == []
    (fault,) = colliding({"A": ("#000000", "o", "-"), "B": ("#000000", "s", "-"), "C": ("#000000", "o", "-")})
    assert "'A' and 'C'" in fault


def test_the_style_of_a_method_by_name():
    assert figures.method_style("AdaCache")["marker"] == "o"
    with pytest.raises(ValueError, match="NoSuch"):
        figures.method_style("NoSuch")


def test_as_pictures_moves_the_channels():
    x = torch.rand(2, 3, 4, 5)
    assert np.array_equal(figures.as_pictures(x), x.permute(0, 2, 3, 1).numpy())
    assert figures.as_pictures(np.zeros((4, 5, 1))).shape == (4, 5, 3)
    assert figures.as_pictures(np.full((4, 5, 3), 255, np.uint8)).max() == 1.0


@pytest.mark.parametrize("bad", [np.zeros((2, 4, 5)), np.full((3, 4, 5), 1.5), np.full((3, 4, 5), -0.5), np.full((3, 4, 5), np.nan), np.zeros(3)])
def test_as_pictures_refuses_shapes_and_ranges(bad):
    with pytest.raises(ValueError, match="pictures"):
        figures.as_pictures(bad)


def test_image_grid_puts_every_picture_in_its_place(ax):
    pictures = np.arange(5)[:, None, None, None] / 5 * np.ones((5, 3, 6, 8))
    assert figures.image_grid(pictures, list("abcde"), ax=ax, columns=3) is ax
    assert [image.get_array()[0, 0, 0] for image in ax.images] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [text.get_text() for text in ax.texts] == list("abcde")
    assert ax.images[3].get_extent()[0] == ax.images[0].get_extent()[0] and ax.images[3].get_extent()[3] > ax.images[0].get_extent()[3]
    with pytest.raises(ValueError, match="titles must be a list of 5 texts"):
        figures.image_grid(pictures, ["a"], ax=ax)


def test_clip_strip_draws_rows_of_frames(ax):
    clips = torch.rand(2, 4, 3, 6, 8)
    assert figures.clip_strip(clips, ["first", "second"], ax=ax) is ax
    assert len(ax.images) == 8
    assert np.allclose(ax.images[5].get_array(), clips[1, 1].permute(1, 2, 0).numpy())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]
    with pytest.raises(ValueError, match="clips"):
        figures.clip_strip(clips[0], ax=ax)


def test_raster_is_dark_where_computed(ax):
    schedules = np.array([[1, 0, 1, 0], [1, 1, 0, 0]], bool)
    assert figures.raster(schedules, ["a", "b"], ax=ax) is ax
    image = ax.images[0]
    shade = image.cmap(image.norm(image.get_array()))[..., :3].mean(-1)
    assert (shade[schedules] < 0.4).all() and (shade[~schedules] > 0.9).all()
    assert image.get_extent()[0] == 0.5
    for bad in (np.zeros(3), np.full((2, 3), 0.5)):
        with pytest.raises(ValueError, match="schedules"):
            figures.raster(bad, ax=ax)


def test_curves_show_mean_and_one_standard_deviation(ax):
    ys = np.array([[0.0, 2.0, 4.0], [2.0, 2.0, 8.0]])
    assert figures.curves_with_band([1, 2, 3], ys, ax=ax, label="AdaCache") is ax
    assert ax.lines[0].get_ydata() == pytest.approx([1, 2, 6])
    corners = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.min() == pytest.approx(0) and corners.max() == pytest.approx(8)
    assert "n = 2" in ax.lines[0].get_label() and ax.lines[0].get_color() == figures.METHOD_STYLE["AdaCache"][0]
    with pytest.raises(ValueError, match="ys"):
        figures.curves_with_band([1, 2], ys, ax=ax, label="x")


def test_bars_have_the_lengths_of_the_values(ax):
    assert figures.bars(["AdaCache", "other"], [3.0, 1.0], ax=ax, spread=[0.5, 0.1]) is ax
    assert [patch.get_width() for patch in ax.patches] == [3.0, 1.0]
    assert ax.yaxis_inverted()
    with pytest.raises(ValueError, match="names must be a list of 2 texts"):
        figures.bars(["a"], [1.0, 2.0], ax=ax)


def test_the_table_of_pictures(ax):
    pictures = torch.rand(2, 3, 3, 8, 10)
    pictures[1, 2] = torch.nan
    assert figures.picture_table(pictures, ["a", "b"], [0.1, 0.2, 0.3], ax=ax, xlabel="x (unitless)") is ax
    assert all(len(np.unique(image.get_array())) <= 32 and abs(image.get_array() - p.movedim(0, -1).numpy()).max() < 0.017
               for image, p in zip(ax.images, pictures.flatten(0, 1)))  # fmt: skip
    assert len(ax.images) == 5 and [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "0.2", "0.3"] and ax.get_xlabel() == "x (unitless)"


@pytest.mark.parametrize(("shape", "columns", "options", "message"), [
    ((2, 2, 3, 4, 4), ["b", "c"], {}, "rows must be a list of 2 texts, .* got 1"),
    ((1, 1, 3, 4, 4), ["b"], {"levels": 1}, "levels must be a whole number >= 2"),
])  # fmt: skip
def test_the_table_of_pictures_refuses(ax, shape, columns, options, message):
    with pytest.raises(ValueError, match=message):
        figures.picture_table(torch.zeros(shape), ["a"], columns, ax=ax, **options)


def test_a_table_keeps_its_first_picture_whole_or_empty(ax):
    pictures = torch.rand(1, 2, 3, 4, 4)
    pictures[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="pictures must be finite"):
        figures.picture_table(pictures, ["a"], ["b", "c"], ax=ax)
    figures.picture_table(torch.full((1, 2, 3, 4, 4), torch.nan), ["a"], ["b", "c"], ax=ax)
    assert not ax.images


def test_misspelt_styles_and_colours_are_refused_before_anything_is_drawn(ax):
    with pytest.raises(TypeError, match="style must hold keywords of matplotlib's plot: .*colour"):
        figures.curves_with_band([1, 2], np.zeros((3, 2)), ax=ax, label="AdaCache", colour="red")
    with pytest.raises(ValueError, match="colors must be colours that matplotlib knows, got 'rde'"):
        figures.bars(["a"], [1.0], ax=ax, colors=["rde"])
    assert not ax.lines and not ax.patches
    figures.curves_with_band([1, 2], np.zeros((3, 2)), ax=ax, label="own", c="red", lw=2)
    assert ax.lines[0].get_color() == "red" and ax.lines[0].get_linewidth() == 2
