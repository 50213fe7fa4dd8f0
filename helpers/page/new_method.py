"""Start a method: stubs of all files of its name, which fail until they are filled in. `make method NAME=mixup`.

The stubs are the files of `stubs/`, where @name@, @number@ and @stem@ (number and name, as in 08_mixup) are put in. A stub says FILL IN wherever
something is missing; the guards of the pages refuse these words.
"""

import argparse
import keyword
import re
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.arguments import instance
from helpers.checkout import ROOT, require
from helpers.page.execute import KERNELSPEC

__all__ = ["plan", "write"]

STUBS = Path(__file__).parent / "stubs"
CHECKS = re.compile(r"^# --- checks of arguments.*?^# --- end of the checks ---$", re.S | re.M)
ROW = re.compile(r"^\| (\d\d) \| \[.*\n", re.M)


def files_of(name: str, stem: str) -> dict[str, str]:
    """The files of one name, each with its stub."""
    return {
        f"helpers/methods/{name}.py": "method.py.txt", f"tests/methods/test_{name}.py": "test.py.txt", f"helpers/studies/{name}.py": "study.py.txt",
        f"tests/studies/test_{name}.py": "test_study.py.txt", f"tests/benchmarks/{name}.py": "benchmark.py.txt", f"notebooks/{stem}.ipynb": "page.py.txt",
    }  # fmt: skip


def plan(name: str, root: Path = ROOT) -> dict[Path, str]:
    """What would be written: path -> whole text, for the new files, data/claims.toml and README.md. Writes nothing.

    The page gets the number under which data/claims.toml lists it, otherwise the first free one. Raises ValueError for a name that is no lower-case
    identifier or that some file has already.
    """
    instance("name", name, str, "a text")
    instance("root", root, Path, "a Path")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name) or keyword.iskeyword(name):
        raise ValueError(f"NAME must be a lower-case Python identifier of at most 60 letters, as in NAME=mixup, got {name!r}")
    claims, readme = root / "data" / "claims.toml", root / "README.md"
    claims_text, readme_text = claims.read_text(encoding="utf-8"), readme.read_text(encoding="utf-8")
    listed = tomllib.loads(claims_text)["claim"]
    taken = {path.name[:2] for path in (root / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    reserved = next((row["notebook"] for row in listed if row["notebook"][3:] == name), None)
    number = reserved[:2] if reserved else next((f"{i:02d}" for i in range(100) if f"{i:02d}" not in taken), None)
    stem = f"{number}_{name}"
    files = files_of(name, stem)
    there = [path for path in [*files, f"helpers/methods/{name}", f"tests/methods/{name}"] if (root / path).exists()]
    there += [f"notebooks/{path.name}" for path in (root / "notebooks").glob(f"[0-9][0-9]_{name}.ipynb") if f"notebooks/{path.name}" not in there]
    if there:
        raise ValueError(f"NAME={name} is taken: {', '.join(there)}")
    if number is None or number in taken:
        raise ValueError(f"no number is free for notebooks/{stem}.ipynb; taken are {', '.join(sorted(taken))}")
    if not reserved and any(row["id"].split(".")[0] == name for row in listed):
        raise ValueError(f"NAME={name} is taken: data/claims.toml has claims with the ids {name}.*")
    written = {root / path: stub(kind, name, stem, root) for path, kind in files.items()}
    if not reserved:
        written[claims] = claims_text + stub("claims.toml.txt", name, stem, root)
    before = [row for row in ROW.finditer(readme_text) if row[1] < number]
    if not before:
        raise ValueError("README.md has no table of pages whose rows begin with | 00 | [")
    end = before[-1].end()
    written[readme] = readme_text[:end] + stub("readme.md.txt", name, stem, root) + readme_text[end:]
    return written


def stub(kind: str, name: str, stem: str, root: Path) -> str:
    """The text of one stub with the names put in; of the page, its notebook as JSON."""
    text = (STUBS / kind).read_text(encoding="utf-8").replace("@name@", name).replace("@stem@", stem).replace("@number@", stem[:2])
    if "@checks@" in text:
        methods = sorted((root / "helpers" / "methods").rglob("*.py"))
        text = text.replace("@checks@", next(filter(None, (CHECKS.search(path.read_text(encoding="utf-8")) for path in methods)))[0])
    return nbformat.writes(as_notebook(text)) + "\n" if kind == "page.py.txt" else text


def as_notebook(text: str) -> nbformat.NotebookNode:
    """A page from its readable form: cells begin with `# %%`, `# %% [markdown]` (its lines behind `# `) or `# %% tags=one,two`."""
    notebook = new_notebook(metadata={"kernelspec": KERNELSPEC, "language_info": {"name": "python", "file_extension": ".py"}})
    for number, (head, body) in enumerate(re.findall(r"^# %%([^\n]*)\n(.*?)(?=^# %%|\Z)", text, re.S | re.M)):
        body = body.strip("\n")
        if "[markdown]" in head:
            cell = new_markdown_cell(re.sub(r"^# ?", "", body, flags=re.M))
        else:
            tags = head.strip().removeprefix("tags=").split(",") if "tags=" in head else []
            cell = new_code_cell(body, metadata=({"tags": tags} if tags else {}) | ({"jupyter": {"source_hidden": True}} if "solution" in tags else {}))
        cell.id = f"cell-{number:03d}"
        notebook.cells.append(cell)
    return notebook


def write(texts: dict[Path, str]) -> None:
    """Write all files or, when one cannot be written, none: what was there comes back, what was not goes."""
    if not isinstance(texts, dict) or not all(isinstance(path, Path) and isinstance(text, str) for path, text in texts.items()):
        raise TypeError("texts must be {path: text}, as plan() gives them")
    before = {path: path.read_bytes() if path.exists() else None for path in texts}
    begun = []
    try:
        for path, text in texts.items():
            begun.append(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except BaseException:
        for path in begun:
            path.unlink(missing_ok=True) if before[path] is None else path.write_bytes(before[path])
        raise


def main() -> None:
    parser = argparse.ArgumentParser(prog="make method NAME=...", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a lower-case Python identifier, as in mixup")
    name = parser.parse_args().name
    try:
        require("a new method", "tests")
        texts = plan(name)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    known = {path for path in texts if path.exists()}
    try:
        write(texts)
    except OSError as error:
        parser.exit(1, f"nothing is written: {error}\n")
    for path in texts:
        print(f"{'added to' if path in known else 'new     '} {path.relative_to(ROOT)}")
    number = next(path.stem[:2] for path in texts if path.suffix == ".ipynb")
    print(f"Each says FILL IN where something is missing. make test ONLY={number}_ says what is left.")


if __name__ == "__main__":
    main()
