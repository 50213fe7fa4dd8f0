"""Two small pages that try helpers.explore in a browser: one to run, one as committed (executed and tidied, no kernel)."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from helpers.pages import execute

SOURCE = """
import time
import matplotlib.pyplot as plt
from helpers.explore import control


def draw(power=2, colour="red", mirrored=False):
    figure, ax = plt.subplots(figsize=(4, 2))
    ax.plot([(-1 if mirrored else 1) * (x / 10) ** power for x in range(11)], color=colour)
    return figure


def sample(text, **others):
    time.sleep(0.5)
    if text == "nothing":
        raise ValueError("text must name a thing, got 'nothing'")
    figure, ax = plt.subplots(figsize=(4, 1))
    ax.set_title(text)
    return figure


control(draw, title="powers", power=(1, 4, 1), colour=["red", "blue"], mirrored=False, precompute=True)
"""
BUTTON = 'control(None, title="words", buttons={"sample": sample}, text="a red ring")'


def write_samples(folder: Path) -> None:
    folder.mkdir(parents=True)
    cells = [new_code_cell(SOURCE.strip(), metadata={"tags": ["control"]}), new_code_cell(BUTTON, metadata={"tags": ["control"]})]
    for name in ("live.ipynb", "stored.ipynb"):
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}), folder / name)
    execute(folder / "stored.ipynb")
