"""The ledger's rules, its refusals, and that LEDGER.md says what the notebooks say."""

import math
from dataclasses import asdict

import nbformat
import pytest

from helpers.page import ledger
from helpers.page.ledger import Claim, Entry, Measured

TOY = {
    "toy.1": Claim(
        "toy.1", "01_toy", "Toy", "Toys roll.", "A cube.", "table 9", "2x", "holds: gain above spread", "gain > gain.spread and count >= 2", "gain > 0"
    ),
    "toy.2": Claim("toy.2", "02_other", "Toy", "Cubes roll.", "A ball."),
}


def write_page(path, *entries):
    outputs = [nbformat.v4.new_output("display_data", data={"text/plain": "x"}, metadata={"stepwise": asdict(entry)}) for entry in entries]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=outputs, execution_count=1)]), path)


@pytest.mark.parametrize("gain, verdict", [(3.0, "holds"), (1.0, "partly"), (2.0, "partly"), (0.0, "does not hold"), (-5.0, "does not hold")])
def test_verdict_follows_the_rule(gain, verdict):
    assert ledger.judge("toy.1", claims=TOY, gain=Measured(gain, 2.0, 6, "dB"), count=2).verdict == verdict


@pytest.mark.parametrize(
    "rule, expected",
    [
        ("a + b * 2 == 7", True),
        ("1 < a < b", False),
        ("not a > b", True),
        ("a / b == 1 / 3 or a > 9", True),
        ("-a < 0 and b - a == 2", True),
        ("a < b < 2 * a", False),
    ],
)
def test_rules_agree_with_python(rule, expected):
    assert ledger.evaluate_rule(rule, {"a": Measured(1.0), "b": Measured(3.0)}) is expected
    assert eval(rule, {"a": 1.0, "b": 3.0}) is expected


@pytest.mark.parametrize(
    "rule",
    ["__import__('os').system('true') == 0", "a.__class__ == 1", "a.spread.n > 1", "(lambda: 1)() == 1", "[1][0] == 1", "(a := 2) > 1", "a if a else a"]
    + ["a ** 9 > 1", "a // 2 == 0", "'x' == 'x'", "a in b", "a is b", "a", "a + 1", "True", "", "a >"],
)
def test_rules_refuse_everything_else(rule):
    with pytest.raises(ValueError, match="rule"):
        ledger.parse_rule(rule)


def test_rule_refuses_absent_spread_and_division_by_zero():
    with pytest.raises(ValueError, match="spread"):
        ledger.judge("toy.1", claims=TOY, gain=1.0, count=2)
    with pytest.raises(ValueError, match="zero"):
        ledger.evaluate_rule("1 / a > 1", {"a": Measured(0.0)})


@pytest.mark.parametrize("names", [{}, {"gain": 1.0}, {"gain": 1.0, "count": 2, "extra": 3}])
def test_missing_or_extra_measurements_are_refused(names):
    with pytest.raises(ValueError, match="needs the measurements"):
        ledger.judge("toy.1", claims=TOY, **names)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, Measured(1.0, math.nan), Measured(1.0, -1.0), Measured(1.0, 1.0, 0)])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        ledger.judge("toy.1", claims=TOY, gain=bad, count=2)


def test_unknown_id_missing_rule_and_wrong_type_are_refused():
    with pytest.raises(ValueError, match="no claim"):
        ledger.judge("toy.9", claims=TOY, gain=1.0)
    with pytest.raises(ValueError, match="no rule"):
        ledger.judge("toy.2", claims=TOY)
    with pytest.raises(TypeError, match="number"):
        ledger.judge("toy.1", claims=TOY, gain="3", count=2)
    with pytest.raises(ValueError, match="sentence"):
        ledger.out_of_reach("caching.1", "no")


def test_text_masks_measurements_but_not_counts_or_verdict():
    text = ledger.as_text(ledger.judge("toy.1", claims=TOY, gain=Measured(3.14159, 0.5, 6, "dB"), count=2), claims=TOY)
    assert "gain ≈ 3.14 ± 0.5 dB (n = 6)" in text and "count = 2" in text and text.endswith("Verdict: holds")


def test_collect_lists_existing_pages_only(tmp_path):
    entry = ledger.judge("toy.1", claims=TOY, gain=Measured(3.0, 2.0), count=2)
    write_page(tmp_path / "01_toy.ipynb", entry)
    text = ledger.collect(tmp_path, claims=TOY)
    assert "1 claims: holds 1, partly 0" in text and "| **holds** |" in text and "toy.2" not in text


@pytest.mark.parametrize("case", ["missing", "twice", "typed"])
def test_collect_refuses_missing_doubled_and_typed_verdicts(tmp_path, case):
    good = ledger.judge("toy.1", claims=TOY, gain=Measured(1.0, 2.0), count=2)
    typed = Entry(good.id, "holds", good.measured)
    write_page(tmp_path / "01_toy.ipynb", *{"missing": [], "twice": [good, good], "typed": [typed]}[case])
    with pytest.raises(ValueError, match="01_toy"):
        ledger.collect(tmp_path, claims=TOY)


def test_claims_file_refuses_doubles_and_half_rules(tmp_path):
    row = '[[claim]]\nid = "a.1"\nnotebook = "n"\nmethod = "m"\nclaim = "c"\ncontrol = "k"\n'
    for text in (row + row, row + 'rule = { text = "t", holds = "x > 1" }\n', row + 'rule = { holds = "open(x)" }\n', '[[claim]]\nid = "a.1"\n'):
        path = tmp_path / "claims.toml"
        path.write_text(text)
        with pytest.raises(ValueError, match="a.1"):
            ledger.load_claims(path)


def test_every_existing_page_has_rules_for_its_claims():
    pages = {path.stem for path in (ledger.ROOT / "notebooks").glob("*.ipynb")}
    assert [item.id for item in ledger.load_claims().values() if item.notebook in pages and not item.holds] == []


def test_ledger_page_agrees_with_the_notebooks():
    assert (ledger.ROOT / "LEDGER.md").read_text(encoding="utf-8") == ledger.collect(), "run `make ledger`"
