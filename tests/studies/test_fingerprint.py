"""A fingerprint follows what `measure` reaches and nothing else, and is the same wherever and by whichever Python it is taken."""

import ast
import os
import shutil
import subprocess
import textwrap

import pytest

from helpers.studies import fingerprint

TREE = {
    "helpers/__init__.py": "",
    "helpers/measures/__init__.py": "",
    "helpers/models/__init__.py": "from .zoo import load as open_model\n",
    "helpers/studies/__init__.py": "",
    "helpers/studies/waves.py": '''
        """Waves."""
        import numpy as np
        from ..measures import heights
        from ..models import open_model
        SEEDS = range(3)
        def cases():
            return [{"seed": seed} for seed in SEEDS]
        def measure(case: dict) -> dict:
            """Of one wave."""
            from ..measures.heights import Wave as W
            wave = W(case["seed"], open_model("toy"))
            return {"height": heights.height(wave), "mean": np.mean(wave.values)}
        STUDY = Study(cases=cases, measure=measure, tolerance={"height": 0}, reaches=(heights.METHODS,))
    ''',
    "helpers/measures/heights.py": '''
        import math
        from dataclasses import dataclass, field
        from functools import lru_cache, partial
        from typing import ClassVar
        try:
            import faiss
        except ImportError:
            faiss = None
        SCALE, OFFSET = 2.0, 1_000  # metres
        UNUSED = 5
        TABLE = [0] * 3
        for _i in range(3):
            TABLE[_i] = _i + OFFSET
        class Base:
            kind: ClassVar[str] = "é"
            rate: float = 0.5
        @dataclass(frozen=True)
        class Wave(Base):
            """A wave."""
            seed: int
            model: object
            values: list = field(default_factory=lambda: [x for row in TABLE for x in (row, -row) if x != 0])
            @property
            def name(self) -> str:
                return f"{self.kind!r}: {self.rate:>{len(self.kind)}.2f} {{}} " f"{'nested'} {self.seed=}"
        @lru_cache(maxsize=None)
        def height(wave: Wave, *rest, scale: float = SCALE, **options):
            match wave:
                case Wave(seed=0 | 1 as small):
                    found = small
                case _:
                    found = (y := math.sin(wave.seed)) and y
            return found * scale if faiss is None else -1.5e-7j
        def slow(wave):
            """Found by name at run time."""
            global SCALE
            unused = [UNUSED for UNUSED in wave.values]
            try:
                return sum(unused) / SCALE
            except* ValueError as error:
                raise error
        METHODS = {"slow": slow, "fast": partial(height, scale=1)}
        def other():
            return UNUSED
        if __name__ == "__main__":
            print(height(None))
    ''',
    "helpers/models/zoo.py": """
        ENTRIES = ("toy", b"toy", ..., None)
        FOLDER = "here"
        def load(name, folder=FOLDER):
            return [entry for entry in ENTRIES if entry == name]
        def published(name):
            return height(name)
        def height(name):
            return 3
    """,
}
HEIGHTS, ZOO, WAVES = "helpers/measures/heights.py", "helpers/models/zoo.py", "helpers/studies/waves.py"
GOLDEN = "23dcc7effc1bcc77bff57b67d1cd7b728672cdfb3caa5dffde7b14df54162883"


@pytest.fixture
def tree(tmp_path):
    for path, text in TREE.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    return tmp_path


def of(root):
    return fingerprint.definitions("waves", root=root)


def edit(root, path, *changes):
    text = (root / path).read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (root / path).write_text(text, encoding="utf-8")


def changed(root, path, *changes):
    """What is named when a file is edited."""
    before = of(root)
    edit(root, path, *changes)
    after = of(root)
    named = fingerprint.differences(before, after)
    assert bool(named) == (fingerprint.of(before, {}) != fingerprint.of(after, {}))
    return named


def test_what_is_reached(tree):
    assert list(of(tree)) == [f"{HEIGHTS}: {name}" for name in ("Base", "METHODS", "OFFSET", "SCALE", "TABLE", "Wave", "_i", "faiss", "height", "slow")] + [
        f"{ZOO}: {name}" for name in ("ENTRIES", "FOLDER", "load")
    ] + [f"{WAVES}: {name}" for name in ("STUDY", "measure")]  # fmt: skip


@pytest.mark.parametrize(
    "path, old, new, named",
    [
        (ZOO, '"here"', '"there"', ["FOLDER"]),
        (ZOO, "entry == name", "entry is name", ["load"]),
        (ZOO, 'b"toy"', '"toy"', ["ENTRIES"]),
        (HEIGHTS, "2.0, 1_000", "2.5, 1_000", ["OFFSET", "SCALE"]),  # one statement binds both
        (HEIGHTS, "_i + OFFSET", "_i - OFFSET", ["TABLE", "_i"]),  # a statement that changes a value
        (HEIGHTS, "[0] * 3", "[0] * 4", ["TABLE"]),
        (HEIGHTS, "x != 0", "x > 0", ["Wave"]),
        (HEIGHTS, "rate: float = 0.5", "rate: float = 0.25", ["Base"]),  # a base class
        (HEIGHTS, 'kind: ClassVar[str] = "é"', 'kind: str = "é"', ["Base"]),  # an annotation that makes another dataclass
        (HEIGHTS, ".2f", ".3f", ["Wave"]),
        (HEIGHTS, "!r", "!s", ["Wave"]),
        (HEIGHTS, "@lru_cache(maxsize=None)\n", "", ["height"]),
        (HEIGHTS, "wave: Wave, *rest", "wave: Wave, *more", ["height"]),
        (HEIGHTS, "0 | 1", "0 | 2", ["height"]),
        (HEIGHTS, "scale=1)", "scale=3)", ["METHODS"]),  # only through `reaches`
        (HEIGHTS, "sum(unused) / SCALE", "sum(unused) * SCALE", ["slow"]),
        (HEIGHTS, "import faiss", "import faiss.contrib as faiss", ["faiss"]),
        (HEIGHTS, "import math", "import cmath as math", ["height"]),  # another library's function under the same name
        (WAVES, "import numpy as np", "import cupy as np", ["measure"]),
        (WAVES, 'case["seed"]', 'case["knob"]', ["measure"]),
    ],
)
def test_a_change_of_what_is_reached_is_named(tree, path, old, new, named):
    found = changed(tree, path, (old, new))
    assert set(found) == {f"{path}: {name}" for name in named}


def test_another_measure_is_named(tree):
    edit(tree, WAVES, ("STUDY = ", "def other(case):\n    return {}\nSTUDY = "))
    assert {f"{WAVES}: STUDY", f"{WAVES}: other", f"{WAVES}: measure"} <= set(changed(tree, WAVES, ("measure=measure", "measure=other")))


@pytest.mark.parametrize(
    "path, old, new",
    [
        (HEIGHTS, "UNUSED = 5", "UNUSED = 6"),
        (HEIGHTS, "return UNUSED\n", "return UNUSED + 1\n"),
        (HEIGHTS, "print(height(None))", "print(height(1))"),  # the part for scripts
        (HEIGHTS, "# metres", "# kilometres"),
        (HEIGHTS, '"""A wave."""', '"""A wave, said otherwise."""'),
        (HEIGHTS, '"""A wave."""', ""),
        (HEIGHTS, "wave: Wave, *rest", "wave: 'Wave', *rest"),
        (HEIGHTS, "seed: int\n", "seed: float\n"),
        (HEIGHTS, "def name(self) -> str", "def name(self)"),
        (HEIGHTS, "2.0, 1_000", "(\n    2.0,\n    1000,\n)"),
        (HEIGHTS, '{"slow": slow', "{'slow':\n    slow"),
        (ZOO, "return height(name)", "return height(name) + 1"),  # another function of the module
        (ZOO, "return 3", "return 4"),  # which has the name of one that is reached
        (WAVES, "range(3)", "range(4)"),  # the cases are compared themselves
        (WAVES, '"height": 0', '"height": 1'),
        (WAVES, '"""Of one wave."""', "'Of a wave.'"),
    ],
)
def test_what_is_not_reached_and_what_is_only_said_does_not_count(tree, path, old, new):
    assert changed(tree, path, (old, new)) == []


def test_a_moved_file_changes_nothing(tree):
    before = of(tree)
    (tree / "helpers/measures/water").mkdir()
    (tree / "helpers/measures/water/__init__.py").write_text("from . import waves_of as heights\n")
    (tree / HEIGHTS).rename(tree / "helpers/measures/water/waves_of.py")
    moved = ("from ..measures import heights", "from ..measures.water import heights as tall"), ("measures.heights import", "measures.water.waves_of import")
    edit(tree, WAVES, *moved, ("heights.height(", "tall.height("), ("heights.METHODS", "tall.METHODS"))
    (tree / ZOO).rename(tree / "helpers/models/every.py")
    (tree / "helpers/models/__init__.py").write_text("from .every import load as open_model\n")
    after = of(tree)
    assert "helpers/measures/water/waves_of.py: height" in after and "helpers/models/every.py: load" in after
    assert fingerprint.differences(before, after) == [] and fingerprint.of(before, {}) == fingerprint.of(after, {})


def test_two_definitions_of_one_name_both_count(tree):
    edit(tree, HEIGHTS, ("import math\n", "import math\nfrom ..models import zoo\n"), ("found * scale if", "found * scale + zoo.height(1) if"))
    assert {f"{HEIGHTS}: height", f"{ZOO}: height"} <= set(of(tree))
    assert changed(tree, ZOO, ("return 3", "return 4")) == [f"{ZOO}: height"]
    assert changed(tree, HEIGHTS, ("found = small", "found = -small")) == [f"{HEIGHTS}: height"]


def test_a_local_name_hides_a_definition_and_only_where_it_is_local(tree):
    assert f"{HEIGHTS}: UNUSED" not in of(tree)  # in `slow` it is a comprehension's own
    edit(tree, HEIGHTS, ("return sum(unused) / SCALE", "return sum(unused) / SCALE + UNUSED"))
    assert f"{HEIGHTS}: UNUSED" in of(tree)
    edit(tree, HEIGHTS, ("def slow(wave):", "def slow(wave, UNUSED=1):"))
    assert f"{HEIGHTS}: UNUSED" not in of(tree)


def test_what_is_no_longer_reached_is_named(tree):
    named = changed(tree, WAVES, (', "mean": np.mean(wave.values)', ""), ("wave = W(case", "wave = tuple(case"), ('"], open_model("toy"))', '"])'))
    assert f"{ZOO}: load" in named and f"{WAVES}: measure" in named and f"{HEIGHTS}: height" not in named


def test_a_module_that_is_handed_on_counts_whole(tree):
    edit(tree, WAVES, ("reaches=(heights.METHODS,)", "reaches=(heights,)"))
    assert f"{HEIGHTS}: other" in of(tree) and f"{HEIGHTS}: UNUSED" in of(tree)


@pytest.mark.parametrize(
    "door, imports", [("helpers/arguments.py", "from .. import arguments\nfrom ..arguments import integer\n"),
                      ("helpers/measures/_arguments.py", "from . import _arguments as arguments\nfrom ._arguments import integer\n")]
)  # fmt: skip
def test_the_doors_of_arguments_are_not_followed(tree, door, imports):
    (tree / door).write_text("def integer(name, value):\n    return value\n")
    edit(tree, HEIGHTS, ("import math\n", f"import math\n{imports}"))
    edit(tree, HEIGHTS, ("found * scale if", "integer('x', found) * arguments.integer('scale', scale) if"))
    before = of(tree)
    assert not any("arguments" in place for place in before)
    (tree / door).write_text("def integer(name, value):\n    return int(value)\n")
    assert of(tree) == before
    edit(tree, HEIGHTS, ("integer('x', found)", "integer('y', found)"))
    assert fingerprint.differences(before, of(tree)) == [f"{HEIGHTS}: height"]


def test_refusals(tree):
    with pytest.raises(ValueError, match=r"helpers/studies/ripples.py must hold STUDY"):
        fingerprint.definitions("ripples", root=tree)
    edit(tree, WAVES, ("measure=measure, ", ""))
    with pytest.raises(ValueError, match=r"helpers/studies/waves.py must hold STUDY"):
        of(tree)
    edit(tree, WAVES, ("tolerance=", "measure=measure, tolerance="), ("import numpy as np", "from numpy import *"))
    with pytest.raises(ValueError, match=r"waves.py line 2 imports \*"):
        of(tree)


def test_bytes_of_models_and_files(tmp_path):
    files = {"models/toy/w.bin": "a", "models/toy/part/config.json": "b", "models/toy/README.md": "c", "studies/x.csv": "d", "models/else/w.bin": "e"}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    held = fingerprint.contents(("toy",), ("studies/x.csv",), data=tmp_path)
    assert list(held) == ["models/toy/part/config.json", "models/toy/w.bin", "studies/x.csv"]
    assert held["models/toy/w.bin"] == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # SHA-256 of "a"
    (tmp_path / "models/toy/README.md").write_text("a card, said otherwise")
    assert fingerprint.contents(("toy",), ("studies/x.csv",), data=tmp_path) == held
    (tmp_path / "models/toy/w.bin").write_text("A")
    other = fingerprint.contents(("toy",), ("studies/x.csv",), data=tmp_path)
    assert fingerprint.of({}, other) != fingerprint.of({}, held)
    with pytest.raises(FileNotFoundError, match="models/gone"):
        fingerprint.contents(("toy", "gone"), (), data=tmp_path)


# ------------------------------------------------------------------------------------------------------------ the same by every Python


def test_golden(tree):
    assert fingerprint.of(of(tree), {}) == GOLDEN


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_golden_by_other_pythons(tree, version):
    shutil.copy(fingerprint.__file__, tree / "helpers/studies/fingerprint.py")
    python, environment = shutil.which(f"python{version}"), os.environ | {"PYENV_VERSION": version}
    if python is None or subprocess.run([python, "-V"], env=environment, capture_output=True).returncode:
        pytest.skip(f"Python {version} is not on this machine")
    printed = subprocess.run([python, tree / "helpers/studies/fingerprint.py", "waves"], env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].split()[0] == GOLDEN[:16]
    assert [line.split("  ")[::-1] for line in printed.splitlines()[:-1]] == [list(pair) for pair in of(tree).items()]


OTHER = [
    ("a + b", "a - b"), ("not a", "~a"), ("a < b", "a <= b"), ("a[1:2]", "a[1:3]"), ("a[:1]", "a[1:]"), ("f(*a)", "f(a)"), ("f(**a)", "f(*a)"),
    ("f(x=a)", "f(y=a)"), ("{**a}", "{a: a}"), ("{a: 1, **b}", "{**b, a: 1}"), ("lambda x: x", "lambda y=1: x"), ("lambda x, /: x", "lambda x: x"),
    ("lambda *, x: x", "lambda x: x"), ("[x for x in a if x]", "[x for x in a]"), ("[x for x in a]", "(x for x in a)"),
    ("{x: y for x in a}", "{y: x for x in a}"), ("a if b else c", "c if b else a"), ("z = 1", "z = 1.0"), ("z = 1", "z = True"), ("z = '1'", "z = 1"),
    ("z = b'1'", "z = '1'"), ("z = f'{a}'", "z = '{a}'"), ("f'{{a}}'", "f'{a}'"), ("f'{a:1}'", "f'{a:2}'"), ("f'{a}b'", "f'b{a}'"), ("a.b", "a.c"),
    ("await a", "a"), ("yield a", "yield"), ("yield from a", "yield a"), ("(a := 1)", "(a == 1)"), ("a is b", "a is not b"), ("a and b", "a or b"),
    ("{a}", "(a,)"), ("[a]", "(a,)"), ("[*a]", "[a]"), ("z = 0", "z = -0"), ("a if b else c", "b if a else c"), ("del a", "a"), ("a = b", "b = a"),
    ("a += 1", "a -= 1"), ("return a", "return"), ("raise a from b", "raise a"), ("for x in a: b", "for x in b: a"), ("while a: b", "if a: b"),
    ("with a as b: c", "with a: c"), ("assert a", "assert a, b"), ("break", "continue"), ("global a", "nonlocal a"),
    ("try: a\nexcept B: c", "try: a\nexcept C: c"), ("try: a\nfinally: c", "try: a\nexcept: c"), ("async def f(): a", "def f(): a"),
    ("class A(B): x = 1", "class A(C): x = 1"), ("class A(k=B): x = 1", "class A(B): x = 1"), ("match a:\n case [b, *_]: c", "match a:\n case [b, _]: c"),
    ("match a:\n case {'x': b, **r}: c", "match a:\n case {'x': b}: c"), ("match a:\n case b if c: d", "match a:\n case b: d"),
    ("match a:\n case A(b): d", "match a:\n case A(x=b): d"), ("for x in a: b\nelse: c", "for x in a: b"),
    ("class A:\n x: InitVar[int] = 1", "class A:\n x: int = 1"), ("import a", "import b as a"),
]  # fmt: skip
SAME = [
    ("f'{a}' f'b'", "f'{a}b'"), ("f'{a:}'", "f'{a}'"), ("z = 'a' 'b'", "z = 'ab'"), ("x: int = 1", "x = 1"), ("z = 1_0", "z = 10"), ("(a)", "a"),
    ("def f(): 'x'; return 1", "def f(): return 1"),
]  # fmt: skip


def test_the_walk_knows_every_kind_of_node():
    """Each field of each kind of node is written or left out on purpose: two trees that differ anywhere are written differently."""
    walk, module = fingerprint.Walk(fingerprint.ROOT, "helpers"), fingerprint.Module(fingerprint.ROOT / "helpers/__init__.py", "helpers")
    written = {text: walk.write(ast.parse(text).body, {}, module) for pair in OTHER for text in pair}
    for one, other in OTHER:
        assert written[one] != written[other], (one, other)
    for one, other in SAME:
        assert walk.write(ast.parse(one).body, {}, module) == walk.write(ast.parse(other).body, {}, module), (one, other)
