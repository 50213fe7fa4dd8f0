"""JupyterLab on a copy of the pages that is the reader's own (`python -m helpers.page.lab open`). What is written there leaves the pages as they are.

    notebooks/      the pages, kept by git, compared by the tests; `author` opens these
    my_notebooks/   the reader's copies; a page that was not written in follows its original
    my_notebooks/old/         copies that were started over
    my_notebooks/.originals/  each page as it was copied: what differs from it is the reader's
"""  # fmt: skip

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat

from helpers.arguments import got, instance
from helpers.checkout import ROOT, require
from helpers.page.execute import tidy_outputs

__all__ = ["COPIES", "EXTENSIONS", "TEMPLATES", "before_save", "command", "fresh", "refresh"]

PAGES, COPIES = "notebooks", "my_notebooks"
EXTENSIONS = ROOT / ".jupyter" / "labextensions"
TEMPLATES = Path(__file__).with_name("templates")  # of nbconvert: `--template=stepwise --TemplateExporter.extra_template_basedirs=helpers/page/templates`
NOT_WRITTEN = f"{COPIES}/ could not be brought up to date, and what you wrote there is kept: {{error}}\n"


def refresh(root: Path) -> list[str]:
    """Bring the copies of all pages up to date and say what happened, a sentence for each page that asks for one.

    A missing copy is made. A copy whose cells are as they were copied becomes the new original when that has changed; run and saved, it is kept in
    old/ first. A copy that was written in stays.
    """
    _clone(root)
    said = []
    for page in sorted((root / PAGES).glob("*.ipynb")):
        copy, origin = root / COPIES / page.name, root / COPIES / ".originals" / page.name
        new = page.read_bytes()
        old = origin.read_bytes() if origin.exists() else None
        if old == new and copy.exists():
            continue
        if not copy.exists() or copy.read_bytes() == new:
            take(new, copy, origin)
        elif old is not None and (known := cells(origin)) is not None and cells(copy) == known:
            if copy.read_bytes() != old:
                put_aside(copy)
            take(new, copy, origin)
            said.append(f"{COPIES}/{page.name} is the new version of its page.")
        else:
            said.append(f"{COPIES}/{page.name} stays as you wrote it; its page has a new version (make fresh PAGES={page.stem} takes it).")
    return said


def fresh(root: Path, pages: Iterable[str] = ()) -> list[str]:
    """Start the copies of these pages over (all without any; a name, a path or a number such as "02"), and say what happened.

    What differs from the page is moved to old/, never overwritten. Raises ValueError for a page that does not exist, before anything is moved.
    """
    _clone(root)
    if not isinstance(pages, (list, tuple)) or not all(isinstance(name, (str, os.PathLike)) for name in pages):
        raise TypeError(f"pages must be a list of names of pages, got {got(pages)}")
    known = sorted((root / PAGES).glob("*.ipynb"))
    chosen = []
    for name in pages:
        stem = Path(name).name.removesuffix(".ipynb")
        found = [page for page in known if stem in (page.stem, page.stem.split("_")[0])]
        if not found:
            raise ValueError(f"pages must name pages of {PAGES}/, got {name!r}; there are {', '.join(page.stem for page in known)}")
        chosen += found
    said = []
    for page in chosen or known:
        copy = root / COPIES / page.name
        new = page.read_bytes()
        if copy.exists() and copy.read_bytes() != new:
            said.append(f"{COPIES}/{page.name} starts over; what it was is {put_aside(copy).relative_to(root)}.")
        take(new, copy, root / COPIES / ".originals" / page.name)
    return said


def _clone(root) -> None:
    if not (instance("root", root, Path, "a Path") / PAGES).is_dir():
        raise ValueError(f"root must be a folder with {PAGES}/ in it, got {str(root)!r}")


def take(data: bytes, copy: Path, origin: Path) -> None:
    write(data, copy)
    write(data, origin)  # last: killed before, `refresh` sees a copy that is its page


def write(data: bytes, path: Path) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.half")
    half.write_bytes(data)
    half.replace(path)


def put_aside(copy: Path) -> Path:
    """Move a copy to the first free name in old/."""
    folder = copy.parent / "old"
    folder.mkdir(exist_ok=True)
    names = (folder / f"{copy.stem}{suffix}.ipynb" for suffix in ("", *(f"-{number}" for number in range(2, 10_000))))
    return copy.rename(next(path for path in names if not os.path.lexists(path)))


def cells(path: Path) -> list | None:
    """Kind and text of each cell; None for a file that is no notebook (any more)."""
    try:
        return [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]
    except Exception:
        return None


def before_save(*, model: dict, **_) -> None:
    """Jupyter's pre_save_hook: a notebook is stored with the pictures of its controls and without the widgets, which show "model not found" once the kernel
    is gone, and its pictures are packed."""
    if instance("model", model, dict, "what Jupyter is about to store").get("type") == "notebook":
        notebook = nbformat.from_dict(model["content"])
        tidy_outputs(notebook)
        model["content"] = notebook


def command(root: Path, folder: str) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a JupyterLab that opens the start page in a folder of the repository."""
    instance("root", root, Path, "a Path")
    instance("folder", folder, str, "the name of a folder")
    where = [str(root / ".jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {"TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **threads, "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, where))}
    arguments = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{folder}/00_start_here.ipynb"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")
    return [sys.executable, "-m", "jupyterlab", *arguments], environment


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.page.lab", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["open", "author", "fresh"], help="open your copies, open the pages themselves, or start copies over")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="for open and author: options of JupyterLab; for fresh: pages")
    arguments = parser.parse_args()
    try:
        require("JupyterLab on the pages", PAGES)
    except FileNotFoundError as error:
        parser.exit(1, f"{error}\n")
    if arguments.what == "fresh":
        try:
            print("\n".join(fresh(ROOT, arguments.rest)) or "Your copies are as their pages.")
        except ValueError as error:
            parser.error(str(error))
        except OSError as error:
            parser.exit(1, NOT_WRITTEN.format(error=error))
        return
    if arguments.what == "open":
        try:
            said = refresh(ROOT)
        except OSError as error:
            parser.exit(1, NOT_WRITTEN.format(error=error))
        if said:
            print("\n".join(said), flush=True)
    line, environment = command(ROOT, COPIES if arguments.what == "open" else PAGES)
    os.execve(line[0], [*line, *arguments.rest], environment)


if __name__ == "__main__":
    main()
