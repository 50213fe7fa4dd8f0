"""Studies in a small copy of the package: killed and resumed, in processes and on a cluster, changed, broken, and asked for by a page."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import pytest

from helpers.studies import Study, making, runner

PACKAGE = Path(runner.__file__).resolve().parents[1]
STUDIES = ("__init__", "__main__", "runner", "making", "fingerprint")
COPIED = ("__init__.py", "checkout.py", "recipes/__init__.py", "recipes/manifest.py", *(f"studies/{name}.py" for name in STUDIES))
WAVES = '''
    """Waves. Each case that is measured leaves a mark in `log`, outside of the data, for the tests to count."""
    import math
    import os
    import time
    from pathlib import Path

    from .runner import Study

    SCALE = 2.0
    UNUSED = 1
    LOG = Path(__file__).parents[2] / "log"


    def cases():
        return [{"kind": kind, "seed": seed, "knob": 0.1 * knob} for kind in ("sin", "cos") for seed in range(6) for knob in (1, 3)]


    def busy(seconds):
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass


    def measure(case):
        with open(LOG, "a") as log:
            log.write("x")
        busy(0.02)
        height = SCALE * getattr(math, case["kind"])(case["seed"] + case["knob"])
        gap = math.nan if case["seed"] == 3 else case["seed"] / 7
        return {"height": height, "count": case["seed"] * 1000003, "gap": gap, "ms": 1.5}


    STUDY = Study(
        cases=cases, measure=measure, tolerance={"height": (0, 1e-3), "count": 0, "gap": 1e-3, "ms": None}, models=("toy",), reaches=(LOG,), sample_seconds=0.2
    )
'''


class Tree:
    """A copy of the runner with one study, in a folder of its own, run as `make study` runs it."""

    def __init__(self, root: Path):
        self.root, self.table, self.about = root, root / "data/studies/waves.csv", root / "data/studies/waves.toml"
        self.study, self.log, self.weights = root / "helpers/studies/waves.py", root / "log", root / "data/models/toy/weights.bin"

    @property
    def environment(self):
        return os.environ | {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}

    def start(self, *arguments):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, *arguments], env=self.environment, cwd=self.root, **pipes)

    def make(self, *arguments, fails=False):
        """What make study prints; with `fails`, what it says on stderr."""
        process = self.start("-m", "helpers.studies", *map(str, arguments))
        out, err = process.communicate(timeout=120)
        assert process.returncode == (1 if fails else 0), out + err
        return err if fails else out

    def python(self, code):
        process = self.start("-c", textwrap.dedent(code))
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    def edit(self, old, new):
        text = self.study.read_text()
        assert old in text
        self.study.write_text(text.replace(old, new))

    def unfinished(self):
        return sorted((self.root / ".studies").rglob("*.jsonl"))

    def lines(self):
        return sum(path.read_bytes().count(b"\n") for path in self.unfinished())

    def measured(self):
        return len(self.log.read_text()) if self.log.exists() else 0


@pytest.fixture
def tree(tmp_path):
    for name in COPIED:
        (tmp_path / "helpers" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / name, tmp_path / "helpers" / name)
    tree = Tree(tmp_path)
    tree.study.write_text(textwrap.dedent(WAVES).lstrip())
    tree.weights.parent.mkdir(parents=True)
    tree.weights.write_bytes(b"abc")
    (tmp_path / "data" / "claims.toml").touch()
    return tree


@pytest.fixture(scope="session")
def first(tmp_path_factory):
    """A tree whose study has been measured, undisturbed, in this one process."""
    tree = globals()["tree"].__wrapped__(tmp_path_factory.mktemp("first"))
    tree.make("waves")
    return tree


@pytest.fixture
def done(first, tmp_path):
    shutil.copytree(first.root, tmp_path, dirs_exist_ok=True)
    return Tree(tmp_path)


# ------------------------------------------------------------------------------------------------------------ what is written


def test_table(first):
    lines = first.table.read_text().splitlines()
    assert lines[0] == "kind,seed,knob,height,count,gap,ms" and len(lines) == 25
    assert lines[1] == "sin,0,0.1,0.199667,0,0,1.5"  # 2 sin 0.1 = 0.19966683...
    assert lines[2] == "sin,0,0.30000000000000004,0.59104,0,0,1.5"  # a case stands as it is; 2 sin 0.3 = 0.5910404...
    assert lines[24] == "cos,5,0.30000000000000004,1.10875,5000015,0.714286,1.5"  # 2 cos 5.3 = 1.1087484...; an int keeps its seven digits
    assert sum(",nan," in line for line in lines) == 4
    assert first.measured() == 24 and not first.unfinished()


def test_what_stands_beside_the_table(first):
    about = tomllib.loads(first.about.read_text())
    assert about["table"] == hashlib.sha256(first.table.read_bytes()).hexdigest()
    assert about["cases"] == len(about["seconds"]) == 24 and 0.02 * 24 <= about["total_seconds"] == pytest.approx(sum(about["seconds"]), abs=0.06)
    assert set(about["definitions"]) == {f"helpers/studies/waves.py: {name}" for name in ("LOG", "SCALE", "STUDY", "busy", "measure")}
    assert list(about["contents"]) == ["models/toy/weights.bin"] and about["accepted"] == 0 and about["cores"] == 1
    assert about["columns"] == {"kind": "str", "seed": "int", "knob": "float", "height": "float", "count": "int", "gap": "float", "ms": "float"}
    assert {"python", "torch", "diffusers", "numpy"} <= set(about["versions"])
    manifest = json.loads((first.root / "data/manifest.json").read_text())
    assert list(manifest) == ["models/toy/weights.bin", "studies/waves.csv", "studies/waves.toml"]
    assert manifest["studies/waves.csv"]["sha256"] == about["table"]


def test_a_complete_study_is_not_measured_again(done):
    assert done.make("waves") == "study waves is complete and fits\n" and done.measured() == 24


# ------------------------------------------------------------------------------------------------------------ killed, in processes, on a cluster


def kill_while_measuring(tree, processes, more, wait):
    """SIGKILL once `more` further cases are kept, after another moment."""
    process = tree.start("-m", "helpers.studies", "waves", "--processes", str(processes))
    wanted = tree.lines() + more
    while tree.lines() < wanted and process.poll() is None:
        time.sleep(0.02)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, "it was finished before it could be killed"


def test_killed_ten_times_and_resumed(first, tree):
    moments = random.Random(7)
    tree.edit("busy(0.02)", "busy(0.1)")
    for number in range(10):
        kill_while_measuring(tree, 2 if number == 5 else 1, moments.choice((0, 1, 1, 2)) if number else 1, moments.random() * 0.12)
        assert not tree.table.exists() and not tree.about.exists()
    kept = tree.lines()
    assert 0 < kept < 24
    before = tree.measured()
    assert before <= kept + 12  # a kill loses at most the running cases
    tree.make("waves")
    assert tree.table.read_bytes() == first.table.read_bytes()
    assert tree.measured() - before == 24 - kept  # and what was kept is not measured again


@pytest.mark.parametrize("torn", [b"0123456789ab {", b"\n", b"first half", b"without its end", b"other digit"])
def test_a_torn_line_is_dropped(tmp_path, torn):
    path = tmp_path / "waves" / "f.jsonl"
    cases = [{"kind": "é", "seed": seed} for seed in range(4)]
    with making.finished(path) as (_, append):
        for case in cases[:3]:
            append({"case": case, "results": {"x": float("nan")}, "seconds": 1.5})
    sound = path.read_bytes()
    line = sound.splitlines(keepends=True)[2]
    extra = {b"first half": line[:40], b"without its end": line[:-1], b"other digit": line.replace(b"1.5", b"1.6")}.get(torn, torn)
    path.write_bytes(sound + extra + (line if torn == b"other digit" else b""))  # what follows is not trusted either
    with making.finished(path) as (entries, append):
        assert list(entries) == [("é", "0"), ("é", "1"), ("é", "2")] and path.read_bytes() == sound
        append({"case": cases[3], "results": {"x": 1}, "seconds": 0.5})
    with making.finished(path) as (entries, _):
        assert [entry["case"] for entry in entries.values()] == cases and path.read_bytes().startswith(sound)


def test_two_runs_at_once_are_refused(tmp_path):
    path = tmp_path / "waves" / "f.jsonl"
    with making.finished(path):
        with pytest.raises(BlockingIOError, match="study waves is being measured by another process"):
            with making.finished(path):
                pass
    with making.finished(path):
        pass


@pytest.mark.parametrize("write", [1, 2, 3])
def test_killed_while_publishing(first, tree, write):
    """Before the table is moved to its place, between table and toml, and between toml and manifest."""
    code = f"""
        import os, signal
        from helpers.studies import making
        moves, replace = 0, os.replace
        def replaced(*paths):
            global moves
            moves += 1
            if moves == {write}:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*paths)
        os.replace = replaced
        making.make("waves")
    """
    process = tree.start("-c", textwrap.dedent(code))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert tree.table.exists() == (write > 1) and tree.about.exists() == (write > 2)
    tree.make("waves")
    assert tree.measured() == 24  # nothing was lost
    assert tree.table.read_bytes() == first.table.read_bytes()
    assert set(json.loads((tree.root / "data/manifest.json").read_text())) == {"models/toy/weights.bin", "studies/waves.csv", "studies/waves.toml"}
    assert tree.make("waves") == "study waves is complete and fits\n" and not list(tree.table.parent.glob("*.partial"))


def test_two_processes_give_the_same_bytes(first, tree):
    tree.make("waves", "--processes", 2)
    assert tree.table.read_bytes() == first.table.read_bytes() and tree.measured() == 24


def test_a_dask_cluster_gives_the_same_bytes(first, tree):
    code = """
        import subprocess, sys
        from distributed import LocalCluster
        if __name__ == "__main__":
            with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
                study = [sys.executable, "-m", "helpers.studies", "waves", "--dask", cluster.scheduler_address]
                sys.exit(subprocess.run(study).returncode)
    """
    (tree.root / "cluster.py").write_text(textwrap.dedent(code))
    process = tree.start("cluster.py")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert tree.table.read_bytes() == first.table.read_bytes() and tree.measured() == 24


def test_a_worker_with_other_code_is_refused(tree):
    said = tree.python("""
        from helpers.studies import making
        print(making.attempt("waves", {"kind": "sin", "seed": 0, "knob": 0.1}, "another fingerprint")["error"])
    """)
    assert "this worker has other code or data" in said and tree.measured() == 0


# ------------------------------------------------------------------------------------------------------------ errors and unknown names


def test_an_error_in_a_case_is_told_at_the_end_and_the_others_are_kept(tree):
    tree.edit("    gap = ", '    if case["seed"] == 2 and case["kind"] == "cos":\n        raise ZeroDivisionError("no such wave")\n    gap = ')
    for expected in (24, 26):  # the second time only what failed is tried
        said = tree.make("waves", fails=True)
        assert said.count("ZeroDivisionError: no such wave") == 2 and "{'kind': 'cos', 'seed': 2, 'knob': 0.1}" in said
        assert "2 of 24 cases of waves failed, see above; the others are kept, and nothing is published" in said
        assert tree.lines() == 22 and tree.measured() == expected
        assert not tree.table.exists() and not tree.about.exists() and not (tree.root / "data/manifest.json").exists()
    tree.edit('case["seed"] == 2 and', "False and")  # other code: what the old code has measured is not mixed in
    tree.make("waves")
    assert tree.measured() == 50


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('"ms": 1.5}', '"ms": "fast"}', "ms must be a number, got 'fast'"),
        (', "ms": 1.5}', "}", "measure gave ['count', 'gap', 'height'], and tolerance speaks of ['count', 'gap', 'height', 'ms']"),
        ('"seed": seed', '"seed": seed or None', "seed must be one of bool, int, float, str in all cases, got NoneType, int"),
        ("(1, 3)]", "(1, 1)]", "lists {'kind': 'sin', 'seed': 0, 'knob': 0.1} twice"),
        ("0.1 * knob}", "float('nan')}", "lists {'kind': 'sin', 'seed': 0, 'knob': nan} twice"),
        ('{"kind": kind, "seed"', '{"kind": kind, "ms"', "keys that are no result"),
        ("for seed in range(6)", "for seed in ()", "at least one case"),
    ],
)
def test_meaningless_studies_are_refused(tree, old, new, said):
    tree.edit(old, new)
    assert said in tree.make("waves", fails=True)
    assert not tree.table.exists()


@pytest.mark.parametrize("name, wrong", [
    ("tolerance", {"x": -1}), ("tolerance", {"x": (1, 2, 3)}), ("tolerance", {"x": "small"}), ("tolerance", {"x": float("inf")}),
    ("tolerance", {"x": float("nan")}), ("tolerance", {"x": (0, float("inf"))}), ("tolerance", {"x": True}),
    ("tolerance", {}), ("tolerance", [0.1]), ("tolerance", {3: 0.1}), ("models", "toy"),
    ("models", (3,)), ("files", None), ("absent", [None]), ("reaches", {}), ("cases", []), ("measure", None), ("sample_seconds", -1), ("sample_seconds", "20"),
    ("sample_seconds", float("inf")),
])  # fmt: skip
def test_meaningless_declarations_are_refused(name, wrong):
    Study(cases=list, measure=dict, tolerance={"x": 0.1})
    with pytest.raises((ValueError, TypeError), match=name):
        Study(**({"cases": list, "measure": dict, "tolerance": {"x": 0.1}} | {name: wrong}))


def test_unknown_names_are_answered_with_the_list(tree):
    tree.study.with_name("ripples.py").write_text(tree.study.read_text())
    assert tree.make("wave", fails=True).strip() == "there is no study of the name 'wave'; there are: ripples, waves"
    assert tree.make("runner", fails=True).strip() == "there is no study of the name 'runner'; there are: ripples, waves"
    assert tree.make().splitlines() == [f"{n}: study {n} has not been measured; run make study NAME={n}" for n in ("ripples", "waves")]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["waves", "--processes", "0"], "--processes: must be at least 1, got '0'"),
        (["waves", "--processes", "-2"], "--processes: must be at least 1, got '-2'"),
        (["waves", "--accept", "²"], "--accept: must be a number of cases or all, got '²'"),
        (["--accept", "3"], "--accept and --recheck need a study"),
        (["--recheck", "all"], "--accept and --recheck need a study"),
    ],
)
def test_meaningless_arguments_are_refused_before_anything_is_measured(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["study", *arguments])
    monkeypatch.setattr(making, "listing", lambda: "")
    with pytest.raises(SystemExit) as end:
        making.main()
    assert end.value.code == 2 and said in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ what no longer fits


@pytest.mark.parametrize("spoil", [lambda text: "", lambda text: text[: text.index("seconds =") + 20], lambda text: "<<<<<<< HEAD\n" + text,
                                   lambda text: text[: text.index("[contents]")]], ids=["empty", "cut", "merge", "half"])  # fmt: skip
def test_a_spoilt_toml_is_named_and_mended_by_the_next_run(done, spoil):
    done.about.write_text(spoil(done.about.read_text()))
    said = "study waves: data/studies/waves.toml is not what was written ("
    assert done.make().startswith(f"waves: {said}") and done.make("waves", "--recheck", 1, fails=True).startswith(said)
    assert "24 cases measured" in done.make("waves") and done.make().endswith("fits\n")


def test_a_changed_constant_is_named_and_an_unused_one_is_not(done):
    done.edit("UNUSED = 1", "UNUSED = 2  # never used")
    done.edit('"""Waves.', '"""Small waves.')
    assert re.fullmatch(r"waves: 24 cases, \d{4}-\d\d-\d\d, fits\n", done.make())
    done.edit("SCALE = 2.0", "SCALE = 2.5")
    sentence = "study waves is older than helpers/studies/waves.py: SCALE; run make study NAME=waves"
    assert done.make().strip().endswith(f"{sentence} (or, if no number can have moved, make study NAME=waves ACCEPT=20)")
    assert done.measured() == 24
    done.make("waves")
    assert done.measured() == 48 and "sin,0,0.1,0.249584," in done.table.read_text()


def test_a_model_with_other_bytes_is_named(done):
    done.weights.write_bytes(b"abd")
    assert "study waves: data/models/toy/weights.bin has other bytes than those it was measured with; run make study NAME=waves" in done.make()
    done.weights.unlink()
    assert "models/toy" in done.make("waves", fails=True)


def test_a_changed_digit_is_caught(done):
    done.table.write_text(done.table.read_text().replace("0.199667", "0.199668"))
    assert "study waves: data/studies/waves.csv has other bytes than were written" in done.make()
    assert "has other bytes than were written" in done.make("waves", "--recheck", "all", fails=True)
    before = done.measured()
    done.make("waves")
    assert "0.199667" in done.table.read_text() and done.measured() == before + 24


def test_cases_that_are_added_are_measured_alone(done):
    old = done.table.read_text().splitlines()
    done.edit("range(6)", "range(7)")
    assert "the table lacks 4 of its 28 cases and holds 0 that it does not list; run make study NAME=waves" in done.make()
    done.make("waves")
    assert done.measured() == 28
    new = done.table.read_text().splitlines()
    assert len(new) == 29 and set(old) < set(new)
    done.edit("range(7)", "range(5, 0, -1)")
    assert "holds 8 that it does not list" in done.make()
    done.make("waves")
    assert done.measured() == 28 and set(done.table.read_text().splitlines()) < set(new)
    done.edit("range(5, 0, -1)", "range(1, 6)")
    assert "holds its cases in another order" in done.make()


# ------------------------------------------------------------------------------------------------------------ measured again


def test_accept_renews_the_fingerprint_where_all_agree(done):
    done.edit("SCALE = 2.0", "SCALE = 2.00001")  # within the tolerance
    table = done.table.read_bytes()
    assert done.make("waves", "--accept", 5) == "study waves: 5 cases measured again, all agree; the fingerprint is renewed\n"
    assert done.measured() == 29 and done.table.read_bytes() == table and not done.unfinished()
    about = tomllib.loads(done.about.read_text())
    assert about["accepted"] == 5 and "fits" in done.make()
    assert json.loads((done.root / "data/manifest.json").read_text())["studies/waves.toml"]["sha256"] == hashlib.sha256(done.about.read_bytes()).hexdigest()
    assert "nothing to accept" in done.make("waves", "--accept", 5)


def test_accept_changes_nothing_where_a_case_disagrees(done):
    done.edit("SCALE = 2.0", "SCALE = 2.1")
    about = done.about.read_bytes()
    said = done.make("waves", "--accept", 5, fails=True)
    assert "5 results of 5 cases measured again do not agree" in said and "tolerance (0, 0.001)" in said
    assert done.about.read_bytes() == about
    done.make("waves")
    assert done.measured() == 24 + 24  # the five are the first of the new table's cases


def test_recheck_measures_every_case(done):
    about = done.about.read_bytes()
    assert done.make("waves", "--recheck", "all") == "study waves: 24 cases measured again, all agree\n"
    assert done.make("waves", "--recheck", "3") == "study waves: 3 cases measured again, all agree\n"
    assert done.measured() == 24 + 27 and done.about.read_bytes() == about and not done.unfinished()
    tamper(done, "0.199667", "0.190000")
    said = done.make("waves", "--recheck", "all", fails=True)
    assert "{'kind': 'sin', 'seed': 0, 'knob': 0.1}: height is 0.199667, recorded 0.19, tolerance (0, 0.001)" in said
    assert "must be a number of cases or all, got 'some'" in done.start("-m", "helpers.studies", "waves", "--recheck", "some").communicate()[1]


def tamper(tree, old, new):
    """A table that says something else, with a toml that says that it does."""
    sha = hashlib.sha256(tree.table.read_bytes()).hexdigest()
    tree.table.write_text(tree.table.read_text().replace(old, new))
    tree.about.write_text(tree.about.read_text().replace(sha, hashlib.sha256(tree.table.read_bytes()).hexdigest()))


def test_the_sample_of_make_test(done):
    """Within its seconds, another one for another fingerprint, and it sees a number that has moved."""
    assert done.python("from helpers.studies import runner; print(runner.problem('waves'), runner.check_sample('waves'))") == "None []\n"
    taken = done.measured() - 24
    assert 1 <= taken <= 10  # of 0.02 s at least each, within 0.2 s
    done.edit("sample_seconds=0.2", "sample_seconds=0")
    assert done.python("from helpers.studies import runner; print(runner.check_sample('waves'))") == "[]\n" and done.measured() == 24 + taken + 1
    done.edit("sample_seconds=0", "sample_seconds=1000")
    tamper(done, "-0.", "-0.1")
    lines = done.python("from helpers.studies import runner; print(*runner.check_sample('waves'), sep='\\n')")
    assert lines.count("height is -0.") == done.table.read_text().count("-0.1") > 0
    drawn = [runner.choose("waves", {"seconds": [1.0] * 50}, fingerprint, 5) for fingerprint in "abca"]
    assert drawn[0] == drawn[3] and len({tuple(rows) for rows in drawn}) == 3


@pytest.mark.parametrize(
    "allowed, recorded, now, expected",
    [
        (0, 3, 3, True), (0, 3, 4, False), (0.5, 3, 3.5, True), (0.5, 3, 3.6, False), ((0, 0.1), 100, 109, True), ((0, 0.1), 100, 111, False),
        ((1, 0.1), 100, 111, True),
        ((0, 0.1), -100, -109, True), (None, 1, 2, None), (0, float("nan"), float("nan"), True), (9, float("nan"), 1.0, False), (9, 1.0, float("nan"), False),
        (0, float("inf"), float("inf"), True), (9, float("inf"), 1.0, False),
        ((0, 0.1), float("inf"), 1.0, False), ((0, 0.1), float("inf"), float("-inf"), False), ((0, 0.1), 1.0, float("inf"), False),
    ],
)  # fmt: skip
def test_tolerance(allowed, recorded, now, expected):
    assert runner.agrees(allowed, recorded, now) is expected


@pytest.mark.parametrize("value, kept", [(1 / 3, 0.333333), (1234567, 1234567), (1234567.0, 1234570.0), (-0.0, 0.0), (1e-30, 1e-30), (True, True)])
def test_rounding(value, kept):
    assert runner.rounded(value) == kept and type(runner.rounded(value)) is type(kept) and str(runner.rounded(value)) == str(kept)


# ------------------------------------------------------------------------------------------------------------ for a page


def test_load(done):
    out = done.python("""
        import pandas as pd
        from helpers import studies
        table = studies.load("waves")
        assert len(table) == 24 and list(table) == ["kind", "seed", "knob", "height", "count", "gap", "ms", "seconds"]
        assert table["count"].dtype == table.seed.dtype == "int64" and table.height.dtype == "float64" and pd.api.types.is_string_dtype(table.kind)
        assert table.gap.isna().sum() == 4 and (table.seconds >= 0.02).all() and table.knob[1] == 0.1 * 3
    """)
    assert re.fullmatch(r"waves: 24 cases \(6 seeds\), measured on \d{4}-\d\d-\d\d in 0\.0 minutes of one core, none looked at again since\n", out)


def test_remeasure(done):
    out = done.python("""
        from helpers import studies
        table = studies.remeasure("waves", kind="cos", seed=3, knob=0.1)
        assert table.agrees.tolist() == [True, True, True, None] and table.now["count"] == 3000009 and table.recorded["height"] == table.now["height"]
    """)
    assert [line.split() for line in out.splitlines()] == [
        ["column", "recorded", "now", "agrees"], ["height", "≈", "-1.99827", "≈", "-1.99827", "yes"], ["count", "3000009", "3000009", "yes"],
        ["gap", "≈", "nan", "≈", "nan", "yes"], ["ms", "≈", "1.5", "≈", "1.5", "not", "compared"],
    ]  # fmt: skip
    tamper(done, "-1.99827", "-1.9")
    assert "no" in done.python("from helpers import studies; studies.remeasure('waves', kind='cos', seed=3, knob=0.1)").splitlines()[1].split()


def test_remeasure_asks_for_one_case(done):
    out = done.python("""
        from helpers import studies
        for wanted in ({"kind": "tan", "seed": 3}, {"seed": 3}, {"seeed": 3}):
            try:
                studies.remeasure("waves", **wanted)
            except ValueError as error:
                print(error)
        for call in (studies.load, studies.remeasure):
            try:
                call("wave")
            except ValueError as error:
                print(error)
    """).splitlines()
    there = "there are: kind: 'sin', 'cos'; seed: 0, 1, 2, 3, 4, 5; knob: 0.1, 0.30000000000000004"
    assert out[:3] == [f"no cases of waves fit {{'kind': 'tan', 'seed': 3}}, one must; {there}", f"4 cases of waves fit {{'seed': 3}}, one must; {there}",
                       f"cases of waves have no seeed; {there}"]  # fmt: skip
    assert out[3:] == ["there is no study of the name 'wave'; there are: waves"] * 2
