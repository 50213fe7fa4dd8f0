"""The runner of the benchmarks, on small scripts made here."""

import pytest

from tests.benchmarks.__main__ import run, table
from tests.benchmarks._script import peak_bytes


def script(tmp_path, text):
    path = tmp_path / "toy.py"
    path.write_text(text)
    return path


def test_one_json_object_becomes_rows(tmp_path):
    measured, seconds = run(script(tmp_path, "import json, sys; assert sys.argv[1:] == ['--json']; print(json.dumps({'rate': 1.23456, 'count': 3}))"))
    assert measured == {"rate": 1.23456, "count": 3} and seconds > 0
    lines = [line.split() for line in table({"toy": (measured, 0.5)}).splitlines()]
    assert lines == [["benchmark", "measured", "value"], ["toy", "rate", "1.235"], ["toy", "count", "3"], ["toy", "seconds", "in", "all", "0.5"]]


def test_rows_become_a_table_below():
    measured = {"count": 2, "rows": [{"name": "a", "psnr": 40.123456, "front": ["x", "y"]}, {"name": "long name", "psnr": None, "more": {"x": 1}}]}
    flat, below = table({"toy": (measured, 0.5)}).split("\n\n")
    assert ["toy", "rows", "2", "rows,", "below"] in [line.split() for line in flat.splitlines()] and "psnr" not in flat
    assert below.splitlines() == ["toy: rows", "name       psnr   front", "a          40.12  x; y", "long name  -      -"]


@pytest.mark.parametrize(
    "text, reason", [("print('words')", "one JSON object"), ("print([1])", "one JSON object"), ("raise RuntimeError('broken')", "RuntimeError: broken")]
)
def test_other_output_is_refused(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        run(script(tmp_path, text))


def test_peak_bytes_is_what_a_call_takes():
    peaks = [peak_bytes(lambda size=size: bytes(bytearray(b"x") * size)) for size in (2**20, 2**26)]
    if None in peaks:
        pytest.skip("this system does not tell a process's peak memory")
    assert peaks[0] < 2**25 and 2**26 <= peaks[1] < 2**28
