"""A study of models whose weights are not kept: it stands without them, says so, and is checked again where they are."""

import shutil

import pytest

from tests.studies.test_runner import Tree, done, first, tree  # noqa: F401

SAID = "study waves: the weights of toy are not kept; make model NAME=toy makes them again, then make study NAME=waves RECHECK=all"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The study of waves, its model declared as one that is not kept, measured while it was there."""
    made = tree.__wrapped__(tmp_path_factory.mktemp("absent"))
    made.edit('models=("toy",)', 'absent=("toy",)')
    made.make("waves")
    return made


@pytest.fixture
def alone(recorded, tmp_path):
    """The same without the model."""
    shutil.copytree(recorded.root, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "data/models/toy")
    return Tree(tmp_path)


def problem(some):
    return some.python("from helpers.studies import runner; print(runner.problem('waves'))").strip()


def test_the_bytes_of_the_model_are_recorded_and_checked_where_it_is_there(recorded, alone):
    assert '"models/toy/weights.bin" = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"' in recorded.about.read_text()
    assert problem(recorded) == "None" and recorded.make() == "waves: 24 cases, " + recorded.make().split("cases, ")[1]
    alone.weights.parent.mkdir()
    alone.weights.write_bytes(b"abd")
    assert problem(alone).startswith("study waves: data/models/toy/weights.bin has other bytes than those it was measured with")
    alone.weights.write_bytes(b"abc")
    assert problem(alone) == "None"
    alone.edit("SCALE = 2.0", "SCALE = 2.1")
    assert "is older than helpers/studies/waves.py: SCALE" in problem(alone)


def test_without_the_model_the_record_stands_as_it_was_made(alone):
    assert problem(alone) == "None" and alone.make("waves") == "study waves is complete and fits\n" and SAID in alone.make()
    alone.edit("SCALE = 2.0", "SCALE = 2.1")  # nothing could measure it again
    assert problem(alone) == "None"
    alone.table.write_text(alone.table.read_text().replace("0.199667", "0.199668"))
    assert "has other bytes than were written" in problem(alone)


def test_without_the_model_other_cases_are_missed(alone):
    alone.edit("range(6)", "range(7)")
    assert "lacks 4 of its 28 cases" in problem(alone)
    assert alone.make("waves", fails=True).strip() == SAID and not alone.unfinished()


def test_without_the_model_nothing_is_measured_and_a_page_is_told(alone):
    before = alone.measured()
    assert alone.make("waves", "--recheck", "all", fails=True).strip() == SAID
    out = alone.python("""
        from helpers import studies
        from helpers.studies import runner
        assert len(studies.load("waves")) == 24
        for call in (lambda: studies.remeasure("waves", kind="sin", seed=0, knob=0.1), lambda: runner.check_sample("waves")):
            try:
                call()
            except FileNotFoundError as error:
                print(error)
    """)
    assert "the weights of its models not kept" in out and out.count(SAID) == 2
    assert alone.measured() == before


def test_a_new_study_needs_its_models(tree):  # noqa: F811
    tree.edit('models=("toy",)', 'absent=("toy",)')
    shutil.rmtree(tree.weights.parent)
    assert tree.make("waves", fails=True).strip() == SAID and not tree.table.exists()


def test_absent_is_a_tuple(done):  # noqa: F811
    done.edit('models=("toy",)', 'absent="toy"')
    assert "absent must be a tuple" in done.start("-c", "from helpers.studies import waves").communicate()[1]
