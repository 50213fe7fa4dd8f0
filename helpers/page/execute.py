"""Execute notebooks in place, so that what is committed can be compared: `python -m helpers.page.execute execute notebooks/01_x.ipynb ...`."""

import argparse
import base64
import io
import os
import re
import resource
import sys
from functools import lru_cache
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode, from_dict
from PIL import Image, ImageChops, ImageStat

from helpers.arguments import instance, integer
from helpers.checkout import ROOT

__all__ = ["KERNELSPEC", "OVERVIEW", "execute", "overview", "tidy", "tidy_outputs"]

OVERVIEW = ROOT / "data" / "overview.png"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PALETTE_ERROR = 4.0  # of 255
HEADING = re.compile(r"^#{1,4} (.+?)\s*$", re.M)
DIGEST, BEFORE_DIGEST = re.compile(r"^digest:\s*(.+?)\s*$", re.M), " In numbers: "
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path: Path, *, timeout: int = 1800) -> float:
    """Run a notebook from top to bottom in a fresh kernel, write it back tidied, and return the processor seconds that it took.

    The kernel is this environment's and has one thread. Its processor seconds, those of its child processes included, are kept in the notebook's metadata
    as `stepwise.processor_seconds`, whole. Raises nbclient's CellExecutionError for an error in a cell without the tag
    `raises-exception`; nothing is written then.
    """
    timeout = integer("timeout", timeout, low=1)
    notebook = _read(path)
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.update(threads)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(Path(path).parent)}},
        store_widget_state=False,
        record_timing=False,
    )
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable
    before = processor_seconds()
    client.execute()  # when it returns, the kernel has ended
    seconds = processor_seconds() - before
    notebook.metadata["stepwise"] = {"processor_seconds": max(1, round(seconds))}
    nbformat.write(tidy(notebook), path)
    return seconds


def _read(path) -> NotebookNode:
    """A notebook from its file. ValueError for a file that is none, TypeError for what names no file."""
    instance("path", path, (str, os.PathLike), "the name of a notebook")
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"path must be a notebook, got {str(path)!r}: {error}") from error


def processor_seconds() -> float:
    """Processor seconds that this process's ended children took, with their own children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Drop what changes from run to run: timestamps, widget state and model ids; join neighbouring stream outputs; name the plain kernel. What `execute`
    measured of the page stays.

    A control keeps its picture: a stored page has no kernel, and a widget without one shows an error in place of the picture. Pictures are
    stored as compactly as they can be without changing a pixel.
    """
    tidy_outputs(notebook)
    measured = {"stepwise": dict(notebook.metadata["stepwise"])} if "stepwise" in notebook.metadata else {}
    notebook.metadata = from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python", "file_extension": ".py"}} | measured)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata = NotebookNode({key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter", "slideshow", "stepwise")})
        if cell.cell_type != "code":
            cell.pop("attachments", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def tidy_outputs(notebook: NotebookNode) -> None:
    """The part of `tidy` that an open page can bear when it is saved: outputs and widget state, in place; text and metadata of the cells stay."""
    instance("notebook", notebook, NotebookNode, "an open notebook")
    notebook.metadata.pop("widgets", None)
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            heading = (HEADING.findall(cell.source) or [heading])[-1]
            continue
        outputs = []
        for output in cell.outputs:
            data = output.get("data", {})
            data.pop(WIDGET_VIEW, None)
            if "image/png" in data:
                data["image/png"] = base64.b64encode(compact(base64.b64decode(data["image/png"]))).decode() + "\n"
            last = outputs[-1] if outputs else None
            if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
                last.text += output.text
            else:
                outputs.append(output)
        cell.outputs = outputs
        describe(cell, heading)


def describe(cell: NotebookNode, heading: str) -> None:
    """Give every PNG of a cell a text for those who do not see it, in place: `{"image/png": {"alt": ...}}` in its output's metadata.

    It is what `figures.use_style` and the controls say of their picture, else the heading above it, and then the cell's digest.
    """
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")
    digest = " ".join(DIGEST.findall(printed)[-1:])
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            own = output.metadata.setdefault("image/png", NotebookNode())
            words = own.get("alt", "").partition(BEFORE_DIGEST)[0]
            words = words if words not in ("", "Figure.") else f"Figure of the section {heading!r}." if heading else "Figure."
            own["alt"] = words + (BEFORE_DIGEST + digest if digest else "")


@lru_cache(maxsize=512)  # an open page is saved again and again with the same pictures
def compact(png: bytes) -> bytes:
    """The same picture in fewer bytes: without a channel that says "opaque" everywhere, with a palette of 256 colours where these are so close that
    the eye sees no difference (root mean square at most PALETTE_ERROR), and packed as well as PNG can."""
    picture = Image.open(io.BytesIO(png))
    if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")
    if picture.mode == "RGB":
        # maximum coverage keeps the colours of thin lines, which a median cut gives away to the photograph beside them
        few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        squares = ImageStat.Stat(ImageChops.difference(picture, few.convert("RGB"))).sum2
        if sum(squares) / (3 * picture.width * picture.height) <= PALETTE_ERROR**2:
            picture = few
    packed = io.BytesIO()
    picture.save(packed, "PNG", optimize=True)
    return min(packed.getvalue(), png, key=len)


def overview(path: Path) -> bytes:
    """The PNG of the one cell tagged `overview`: the README's picture. Raises ValueError when there is not exactly one."""
    cells = [cell for cell in _read(path).cells if "overview" in cell.metadata.get("tags", [])]
    found = [output.data["image/png"] for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    if len(found) != 1:
        raise ValueError(f"{path} must hold one picture in a cell tagged overview, found {len(found)}")
    return base64.b64decode(found[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.page.execute", description=__doc__)
    parser.add_argument("command", choices=["execute", "tidy", "overview"], help="overview: write the tagged picture to data/overview.png")
    parser.add_argument("notebooks", nargs="+", type=Path)
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        if arguments.command == "tidy":
            nbformat.write(tidy(nbformat.read(path, as_version=4)), path)
        elif arguments.command == "overview":
            OVERVIEW.write_bytes(overview(path))
        else:
            seconds = execute(path)
            if any("overview" in cell.metadata.get("tags", []) for cell in nbformat.read(path, as_version=4).cells):
                OVERVIEW.write_bytes(overview(path))
            print(f"{path}: {seconds:.0f} processor seconds, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
