"""Two small pages that try helpers.page.explore in a browser, the last control twice: one to run, one as committed (executed and tidied, no kernel)."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from helpers.page.execute import execute

SOURCE = """
import time
import matplotlib.pyplot as plt
from helpers.page.explore import control


def draw(power=2, colour="red", mirrored=False, marks=(False, True, False)):
    figure, ax = plt.subplots(figsize=(4, 2))
    ax.plot([(-1 if mirrored else 1) * (x / 10) ** power for x in range(11)], color=colour)
    ax.vlines([place for place, on in enumerate(marks) if on], 0, 1)
    return figure


def sample(text, **others):
    time.sleep(0.5)
    if text == "nothing":
        raise ValueError("text must name a thing, got 'nothing'")
    figure, ax = plt.subplots(figsize=(4, 1))
    ax.set_title(text)
    return figure


control(draw, title="powers", power=(1, 4, 1), colour=["red", "blue"], mirrored=False, marks=(False, True, False), precompute=True)
"""
BUTTON = 'control(None, title="words", buttons={"sample": sample}, text="a red ring")'


PICK = """
import numpy as np
from helpers.page.explore import pick

rng = np.random.default_rng(0)
source = np.stack(np.broadcast_arrays(np.linspace(0, 1, 16), np.linspace(0, 1, 12)[:, None], 0.4))
x, y = np.meshgrid(np.arange(16), np.arange(12))
turned = np.stack([15 - x, 11 - y], -1)
tall = np.stack([y // 2, x], -1)
heat = [rng.uniform(-1, 1, (12, 3, 4)), rng.uniform(-1, 1, (12, 8, 3))]
pick(source, [source[:, ::-1, ::-1], rng.random((3, 16, 6))], [turned, tall], heat=heat, titles=["turned", "<b>tall"], title="pixels", start=(3, 2), scale=8)
"""


def write_samples(folder: Path) -> None:
    folder.mkdir(parents=True)
    cells = [new_code_cell(source.strip(), metadata={"tags": ["control"]}) for source in (SOURCE, BUTTON, PICK, PICK)]
    for name in ("live.ipynb", "stored.ipynb"):
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}), folder / name)
    execute(folder / "stored.ipynb")
