"""What a study's numbers rest on: the definitions of the package that its `measure` reaches, and the bytes of models and files.

    python helpers/studies/fingerprint.py caching_schedules      # lists them; any Python 3.11 to 3.13, no library, nothing is imported

A definition is what binds one top-level name of a module: a function, a class (whole), or every statement that assigns to a name or changes it.
From `measure` on, each name in its code is looked up in the module's source: other definitions of the module, and, through imports, those of
other modules (`zoo.load` reaches `load` of `zoo` and nothing else there; a module that is handed on as a value counts whole). What is found by
name at run time cannot be seen: a study declares it in `reaches`.

Each definition is written out by the walk below and hashed. Left out are comments, docstrings, formatting and annotations (but for the marks of
a dataclass's fields). A name of the package is written as that name alone, without its module, so that a file may move; a name of another
library is written in full, so that another library's function of the same name counts. The doors of arguments (`helpers/arguments.py`, a method's
own `_arguments.py`) and `helpers/checkout.py` refuse, or pass on what came: no number rests on them, and they are not followed.
"""

import ast
import functools
import hashlib
import sys
from collections import Counter
from pathlib import Path

__all__ = ["contents", "definitions", "differences", "of"]

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FIELD_MARKS = {"ClassVar", "InitVar", "KW_ONLY"}  # annotations that change what a dataclass does
NO_SPEC = "(f-string '')"
DOORS = {"arguments", "checkout"}  # files of the package itself, below no room
OWN_DOORS = "_arguments"  # of a method that is a folder
LEFT_OUT = {"ctx", "kind", "type_comment", "type_params", "annotation", "returns"}


class Module:
    """One file: `statements`, by the name that they bind or change, and `imports`, {name: (module, attribute or None)}."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self.statements: dict[str, list[ast.stmt]] = {}
        body = [s for s in ast.parse(path.read_bytes()).body if not _for_scripts(s)]
        self.imports = _imports_within(body, self)
        bound = _bound(body)
        for statement in body:
            for known in _bound([statement]) | _changed(statement) & bound:
                self.statements.setdefault(known, []).append(statement)

    def imported(self, node: ast.Import | ast.ImportFrom) -> dict[str, tuple]:
        if isinstance(node, ast.Import):
            return {a.asname or a.name.split(".")[0]: (a.name if a.asname else a.name.split(".")[0], None) for a in node.names}
        if any(a.name == "*" for a in node.names):
            raise ValueError(f"{self.path} line {node.lineno} imports *: name what it imports, so that its use can be followed")
        package = self.name.split(".")[: None if self.path.name == "__init__.py" else -1]
        stem = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join(stem + ([node.module] if node.module else []))
        return {a.asname or a.name: (base, a.name) for a in node.names}


def _for_scripts(statement: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__"`."""
    return isinstance(statement, ast.If) and isinstance(statement.test, ast.Compare) and getattr(statement.test.left, "id", "") == "__name__"


def _only_said(node) -> bool:
    """Whether it is a docstring or another bare constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _bound(nodes: list) -> set[str]:
    """Names that a scope of these statements binds itself: not in functions, classes and comprehensions within, and not by imports."""
    names, free, todo = set(), set(), list(nodes)
    while todo:
        node = todo.pop()
        if isinstance(node, COMPREHENSIONS):
            names |= {n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Global):
            free |= set(node.names)
        elif not isinstance(node, ast.Lambda):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                names.add(node.id)
            elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
                names.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest:
                names.add(node.rest)
            todo += ast.iter_child_nodes(node)
    return names - free


def _changed(statement: ast.stmt) -> set[str]:
    """Names whose value a top-level statement changes: `X[0] = 1`, `X.a = 1` within it, and every name in a bare call, as in `register(X)`."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom)):
        return set()
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        elif isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            while isinstance(node, (ast.Subscript, ast.Attribute)):
                node = node.value
            names |= {node.id} if isinstance(node, ast.Name) else set()
    return names


def _imports_within(nodes: list, module: Module) -> dict[str, tuple]:
    """Imports of a module or a function, and not of functions and classes within it."""
    found, todo = {}, list(nodes)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= module.imported(node)
        elif not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            todo += ast.iter_child_nodes(node)
    return found


class Walk:
    """Follows definitions through one package, `root`/`package`; `found`: {(module, name): hash}."""

    def __init__(self, root: Path, package: str):
        self.root, self.package, self.todo, self.found = root, package, [], {}
        self.module = functools.cache(self._module)

    def _module(self, name: str) -> Module | None:
        stem = self.root.joinpath(*name.split("."))
        path = next((p for p in (stem.with_name(stem.name + ".py"), stem / "__init__.py") if p.is_file()), None)
        return path and Module(path, name)

    def run(self) -> None:
        while self.todo:
            module, name = self.todo.pop()
            if (module, name) not in self.found:
                self.found[module, name] = ""  # known: a function may call itself
                text = self.write(self.module(module).statements[name], {}, self.module(module))
                self.found[module, name] = hashlib.sha256(text.encode()).hexdigest()

    def follow(self, module: str, name: str | None) -> tuple[str, str, str]:
        """("definition", module, name), ("module", module, "") or ("external", full name, "") of what an import means."""
        full = f"{module}.{name}" if name else module
        if module.split(".")[0] != self.package:
            return "external", full, ""
        known = self.module(module)
        if name is None:
            return "module", module, ""
        if known and name in known.statements:
            return "definition", module, name
        if known and known.imports.get(name, (module, name)) != (module, name):
            return self.follow(*known.imports[name])
        return ("module" if self.module(full) else "external"), full, ""

    def reach(self, kind: str, module: str, name: str) -> str:
        """Remember a definition, or all of a module that is handed on as a value; returns how it is written."""
        door = module in {f"{self.package}.{name}" for name in DOORS} or module.endswith(f".{OWN_DOORS}")
        if door and kind != "external":
            return f"@{name or module.split('.')[-1]}"
        if kind == "definition":
            self.todo.append((module, name))
            return f"@{name}"
        if kind == "module" and (known := self.module(module)):
            self.todo += [(module, n) for n in known.statements]
            return "@" + module.split(".")[-1]
        return module

    def write_reference(self, node: ast.Name | ast.Attribute, scope: dict, module: Module) -> str:
        attributes = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ".".join([self.write(node, scope, module), *attributes])
        if node.id in scope:
            target = scope[node.id] and self.follow(*scope[node.id])
        elif node.id in module.statements:
            target = ("definition", module.name, node.id)
        else:
            target = node.id in module.imports and self.follow(*module.imports[node.id])
        while target and target[0] == "module" and attributes:
            target = self.follow(target[1], attributes.pop(0))
        return ".".join([self.reach(*target) if target else node.id, *attributes])

    def write(self, node, scope: dict, module: Module) -> str:
        """A tree as text. scope: the local names here, each with None, or with what a local import means."""

        def write(part, names=scope):
            return self.write(part, names, module)

        if isinstance(node, list):
            return "[" + " ".join(write(n) for n in node if not _only_said(n)) + "]"
        if not isinstance(node, ast.AST):
            return ascii(node)
        if isinstance(node, ast.Constant):
            return ascii(node.value)
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self.write_reference(node, scope, module)
        if isinstance(node, (ast.Import, ast.ImportFrom)):  # what is imported is written where it is used; here, what may be missing
            targets = {name: self.follow(*target) for name, target in module.imported(node).items()}
            return " ".join(f"(import {name} {full})" for name, (kind, full, _) in sorted(targets.items()) if kind == "external")
        if isinstance(node, ast.JoinedStr):  # as one text: Python versions split the constant parts of an f-string in their own ways
            parts = [part.value.replace("{", "{{") if isinstance(part, ast.Constant) else "{" + write(part) + "}" for part in node.values]
            return f"(f-string {ascii(''.join(parts))})"
        if isinstance(node, ast.FormattedValue):
            spec = write(node.format_spec) if node.format_spec else ""
            return f"{write(node.value)} {node.conversion} {spec.removesuffix(NO_SPEC)}"
        if isinstance(node, COMPREHENSIONS):
            inner = scope | dict.fromkeys(_bound([g.target for g in node.generators]))
            first, *others = node.generators
            sources = [write(first.iter), *(write(g.iter, inner) for g in others)]
            loops = [f"for {write(g.target, inner)} {source} {write(g.ifs, inner)} {g.is_async}" for g, source in zip(node.generators, sources)]
            results = [write(getattr(node, field), inner) for field in node._fields if field != "generators"]
            return f"({type(node).__name__} {' '.join(results + loops)})"
        if isinstance(node, FUNCTIONS):
            return self.write_function(node, scope, scope, module)
        if isinstance(node, ast.ClassDef):
            inner = scope | dict.fromkeys(_bound(node.body)) | _imports_within(node.body, module)
            body = []
            for part in node.body:
                if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    body.append(self.write_function(part, inner, scope, module))
                elif isinstance(part, ast.AnnAssign):
                    marks = {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(part.annotation)} & FIELD_MARKS
                    body.append(f"(field {write(part.target, inner)} {sorted(marks)} {write(part.value, inner)})")
                else:
                    body.append("" if _only_said(part) else write(part, inner))
            return f"(class {node.name} {write(node.bases)} {write(node.keywords)} {write(node.decorator_list)} {' '.join(filter(None, body))})"
        if isinstance(node, ast.AnnAssign):
            return write(ast.Assign(targets=[node.target], value=node.value)) if node.value else ""
        return f"({type(node).__name__} {' '.join(f'{f}={write(getattr(node, f, None))}' for f in node._fields if f not in LEFT_OUT)})"

    def write_function(self, node, around: dict, scope: dict, module: Module) -> str:
        """around: the names that its defaults and decorators see; scope: those that its body sees, which are not a class's."""
        a, body = node.args, node.body if isinstance(node.body, list) else [node.body]
        groups = [a.posonlyargs, a.args, [a.vararg] if a.vararg else [], a.kwonlyargs, [a.kwarg] if a.kwarg else []]
        inner = scope | dict.fromkeys(_bound(body)) | _imports_within(body, module) | {p.arg: None for group in groups for p in group}
        for name in (n for part in body for s in ast.walk(part) if isinstance(s, ast.Global) for n in s.names):
            inner.pop(name, None)
        head = [getattr(node, "name", "lambda"), ascii([[p.arg for p in group] for group in groups])]
        head += [self.write(part, around, module) for part in (a.defaults, a.kw_defaults, getattr(node, "decorator_list", []))]
        return f"({type(node).__name__} {' '.join(head)} {self.write(body, inner, module)})"


def definitions(name: str, *, root: Path = ROOT, package: str = "helpers", room: str = "studies") -> dict[str, str]:
    """{"helpers/methods/x.py: distance": hash of its text} for all that a study reaches from `measure` and `reaches`. Imports nothing.

    Raises ValueError where the module has no `STUDY = Study(..., measure=..., ...)`.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be that of a study, got {name!r}")
    walk = Walk(root, package)
    module = walk.module(f"{package}.{room}.{name}")
    calls = [s.value for s in module.statements.get("STUDY", []) if isinstance(s, (ast.Assign, ast.AnnAssign))] if module else []
    given = {k.arg: k.value for k in calls[0].keywords} if calls and isinstance(calls[0], ast.Call) else {}
    if "measure" not in given:
        raise ValueError(f"{package}/{room}/{name}.py must hold STUDY = Study(cases=..., measure=..., tolerance=...)")
    text = walk.write(given["measure"], {}, module)
    if "reaches" in given:
        walk.write(given["reaches"], {}, module)
    walk.run()
    found = {(module.name, "STUDY"): hashlib.sha256(text.encode()).hexdigest()} | walk.found
    return {f"{walk.module(m).path.relative_to(root).as_posix()}: {n}": digest[:16] for (m, n), digest in sorted(found.items())}


def contents(models: tuple[str, ...], files: tuple[str, ...], *, data: Path = ROOT / "data") -> dict[str, str]:
    """{path below `data`: SHA-256} of the models' files, their cards (README.md) left out, and of the further files.

    Raises FileNotFoundError that names what is not there.
    """
    for name, value in (("models", models), ("files", files)):
        if not isinstance(value, (tuple, list)) or not all(isinstance(part, str) for part in value):
            raise TypeError(f"{name} must be a tuple of texts, got {value!r}")
    paths = [data / file for file in files]
    for model in models:
        inside = [p for p in (data / "models" / model).rglob("*") if p.is_file() and p.name != "README.md" and ".partial" not in str(p)]
        paths += inside or [data / "models" / model]
    if missing := [str(p.relative_to(data)) for p in paths if not p.is_file()]:
        raise FileNotFoundError(f"a study rests on {', '.join(missing)} under {data.name}/, which is not there")
    return {p.relative_to(data).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


def of(reached: dict[str, str], held: dict[str, str]) -> str:
    """One hash of `definitions` and `contents`. Where a definition stands does not count: only its name and text."""
    lines = sorted(f"{place.split(': ')[1]} {digest}" for place, digest in reached.items()) + [f"{path} {digest}" for path, digest in sorted(held.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Places of the definitions that are new or have another text, then of those that are no longer reached; a moved one is in neither."""

    def not_in(some: dict[str, str], others: dict[str, str]) -> list[str]:
        left = Counter((place.split(": ")[1], digest) for place, digest in others.items())
        extra = []
        for place, digest in some.items():
            key = (place.split(": ")[1], digest)
            left[key] -= 1
            extra += [place] if left[key] < 0 else []
        return extra

    changed = not_in(new, old)
    names = {place.split(": ")[1] for place in changed}
    return changed + [place for place in not_in(old, new) if place.split(": ")[1] not in names]


if __name__ == "__main__":
    reached = definitions(sys.argv[1])
    print("\n".join(f"{digest}  {place}" for place, digest in reached.items()))
    print(f"{of(reached, {})[:16]}  all, without the bytes of models and files")
