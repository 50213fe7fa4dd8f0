"""The runner of the benchmarks, on small scripts made here."""

import pytest

from tests.benchmarks.__main__ import run, table


def script(tmp_path, text):
    path = tmp_path / "toy.py"
    path.write_text(text)
    return path


def test_one_json_object_becomes_rows(tmp_path):
    measured, seconds = run(script(tmp_path, "import json, sys; assert sys.argv[1:] == ['--json']; print(json.dumps({'rate': 1.23456, 'count': 3}))"))
    assert measured == {"rate": 1.23456, "count": 3} and seconds > 0
    lines = [line.split() for line in table({"toy": (measured, 0.5)}).splitlines()]
    assert lines == [["benchmark", "measured", "value"], ["toy", "rate", "1.235"], ["toy", "count", "3"], ["toy", "seconds", "in", "all", "0.5"]]


@pytest.mark.parametrize(
    "text, reason", [("print('words')", "one JSON object"), ("print([1])", "one JSON object"), ("raise RuntimeError('broken')", "RuntimeError: broken")]
)
def test_other_output_is_refused(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        run(script(tmp_path, text))
