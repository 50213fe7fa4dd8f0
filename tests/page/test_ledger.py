"""The ledger's rules, its refusals, and that LEDGER.md says what the notebooks say."""

import math
from dataclasses import asdict, replace
from itertools import product

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats

from helpers.measures import statistics
from helpers.page import ledger
from helpers.page.ledger import Claim, Entry, Measured

TOY = {
    "toy.1": Claim(
        "toy.1",
        "01_toy",
        "Toy",
        "Toys roll.",
        "A cube.",
        "table 9",
        "2x",
        "gain > gain.spread and count >= 2",
        "gain > 0",
        {"gain": "of speed", "count": "of toys"},
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
    + ["a ** 9 > 1", "a // 2 == 0", "'x' == 'x'", "a in b", "a is b", "a", "a + 1", "True", "", "a >", "a < 1e400"],
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


@pytest.mark.parametrize(
    "bad", [math.nan, math.inf, -math.inf, Measured(1.0, math.nan), Measured(1.0, -1.0), Measured(1.0, 1.0, 0), Measured(1.0, 1.0, 2.7), 10**400]
)
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
    with pytest.raises(ValueError, match="reason must be a sentence"):
        ledger.out_of_reach("caching.1", "no")
    with pytest.raises(TypeError, match="reason must be a sentence, got 3"):
        ledger.out_of_reach("caching.1", 3)


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.float16])
def test_numbers_of_every_width_are_taken_without_a_warning(kind):
    """A warning would stand in the page, and a page that prints to stderr is red."""
    assert ledger.judge("toy.1", claims=TOY, gain=Measured(kind(3.0), kind(1.0), 24), count=2).measured["gain"]["value"] == 3.0


def test_a_page_without_its_entry_ends_make_ledger_in_one_sentence(monkeypatch, capsys):
    def refuse():
        raise ValueError("08_mixup.ipynb must hold one ledger entry for each of ['mixup.1'], it holds []")

    monkeypatch.setattr(ledger, "collect", refuse)
    monkeypatch.setattr("sys.argv", ["ledger"])
    with pytest.raises(SystemExit) as stopped:
        ledger.main()
    assert stopped.value.code == 1 and capsys.readouterr().err == "08_mixup.ipynb must hold one ledger entry for each of ['mixup.1'], it holds []\n"


def test_claims_file_refuses_doubles_and_half_rules(tmp_path):
    row = '[[claim]]\nid = "a.1"\nnotebook = "n"\nmethod = "m"\nclaim = "c"\ncontrol = "k"\n'
    full = row + 'where = "w"\npublished = "p"\n'
    both = 'holds = "x > 1", partly = "x > 0"'
    path = tmp_path / "claims.toml"
    for text in (
        row + row,
        '[[claim]]\nid = "a.1"\n',
        full + 'rule = { holds = "x > 1", names = { x = "m" } }\n',
        full + 'rule = { holds = "open(x)", partly = "x > 0" }\n',
        full + f"rule = {{ {both} }}\n",
        full + f'rule = {{ {both}, names = {{ x = "m", y = "m" }} }}\n',
        full + 'rule = { holds = "1 > 0", partly = "x > 0", names = { x = "m" } }\n',
        full + 'rule = { holds = "id > 1", partly = "id > 0", names = { id = "m" } }\n',
        full + 'rule = { holds = "x > 1", partly = "claims > 0", names = { x = "m", claims = "m" } }\n',
        full + f'rule = {{ {both}, text = "t", names = {{ x = "m" }} }}\n',
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match="a.1"):
            ledger.load_claims(path)
    path.write_text(full + f'rule = {{ {both}, names = {{ x = "metres" }} }}\n')
    assert ledger.load_claims(path)["a.1"].rule == "holds if x > 1; partly if x > 0. Here x: metres"


# --- intervals ---

SIDES = {"a": Measured(1.0, low=0.5, high=2.0), "b": Measured(3.0, low=2.0, high=4.0), "c": Measured(-1.0, low=-2.0, high=1.0), "p": Measured(2.0)}
RULES = [
    "a < b",
    "a <= b",
    "a < p",
    "p >= a",
    "b > 1",
    "b < 1",
    "a == p",
    "a != b",
    "b != 9",
    "p == 2",
    "a + b > 2",
    "a - b < 0",
    "b - a > 1",
    "a * b < 1",
    "a * c >= -4",
]
RULES += [
    "b / a > 0.9",
    "a / c > 0",
    "c / b < 1",
    "not a < 3",
    "not a < 1",
    "-c < 3",
    "-c < 2 < b + 1",
    "a < 1 < b",
    "c > 0 or b > 1",
    "c > 0 and b < 1",
    "c > 0 and b > 1",
]
RULES += [
    "c > 0 or b < 1",
    "(a > 0) + (b > 0) + (c > 0) >= 2",
    "(b > 0) + (c > 0) >= 2",
    "(a - c) * b > 12",
    "a.low > 0.4",
    "a.high - a.low > 1.4",
    "c.high < a",
]


def exact(part):
    class Quantity(float):
        """A number whose attributes Python's own eval can read."""

    value = Quantity(part.value)
    value.spread, value.n, value.low, value.high = part.spread, part.n, part.low, part.high
    return value


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_decided_where_every_value_in_the_intervals_agrees(rule):
    """Against a slow loop: Python's eval on a grid over the intervals, ends included, and zero where a quotient crosses it left out."""
    grids = [[replace(q, value=x) for x in ([q.value] if q.low is None else np.linspace(q.low, q.high, 7).tolist())] for q in SIDES.values()]
    seen = set()
    for point in product(*grids):
        if not ("/ c" in rule and point[2].value == 0):
            seen.add(bool(eval(rule, {name: exact(q) for name, q in zip(SIDES, point, strict=True)})))
    assert ledger.evaluate_rule(rule, SIDES) is (seen.pop() if len(seen) == 1 else None)


def test_a_name_mentioned_twice_is_left_open_rather_than_decided_wrongly():
    assert ledger.evaluate_rule("a > 2 * a", SIDES) is None  # false for every a > 0
    assert ledger.evaluate_rule("c / c < 2", SIDES) is None and ledger.evaluate_rule("0 * (1 / c) == 0", SIDES) is True


def test_division_by_zero_is_refused_for_a_point_and_open_for_an_interval():
    assert ledger.evaluate_rule("1 / a < 5", {"a": Measured(0.5, low=0.0, high=1.0)}) is None
    with pytest.raises(ValueError, match="zero"):
        ledger.evaluate_rule("1 / a > 1", {"a": Measured(0.0, low=0.0, high=0.0)})


@pytest.mark.parametrize(
    "low, high, verdict, left",
    [
        (1.2, 1.8, "holds", ""),
        (0.8, 1.8, "undecided here", "possible: holds, partly; the 95 % interval leaves open: gain ≥ 1)"),
        (-0.5, 1.8, "undecided here", "possible: holds, partly, does not hold; the 95 % interval leaves open: gain ≥ 1; gain > 0)"),
        (0.1, 0.9, "partly", ""),
        (-0.5, 0.9, "undecided here", "possible: partly, does not hold; the 95 % interval leaves open: gain > 0)"),
        (-0.5, 0.0, "does not hold", ""),
        (1.0, 1.5, "holds", ""),
        (0.0, 0.5, "undecided here", "possible: partly, does not hold; the 95 % interval leaves open: gain > 0)"),
    ],
)
def test_verdicts_of_intervals(low, high, verdict, left):
    claims = {"t.1": Claim("t.1", "01_toy", "Toy", "c", "k", "w", "p", "gain >= 1", "gain > 0", {"gain": "of speed"})}
    value = Measured((low + high) / 2, 0.5, 9, "dB", low=low, high=high, interval="bootstrap over prompts")
    entry = ledger.judge("t.1", claims=claims, gain=value)
    assert entry.verdict == verdict
    text = ledger.as_text(entry, claims=claims)
    assert "dB (n = 9, 95 % interval: bootstrap over prompts, spread ≈ 0.5)" in text
    assert text.endswith(f"Verdict: {verdict}" + (f" ({left}" if left else ""))


def test_text_shows_the_interval_and_collect_counts_the_undecided(tmp_path):
    gain = Measured(0.4587, 0.544, 48, "dB", "paired", 0.3121, 0.6188, "bootstrap over prompts")
    entry = ledger.judge("toy.1", claims=TOY, gain=gain, count=2)
    shown = "gain ≈ 0.46 [0.31, 0.62] dB (n = 48, 95 % interval: bootstrap over prompts, spread ≈ 0.54, paired)"
    verdict = "undecided here (possible: holds, partly; the 95 % interval leaves open: gain > spread(gain))"
    assert shown in ledger.as_text(entry, claims=TOY) and ledger.as_text(entry, claims=TOY).endswith(f"Verdict: {verdict}")
    write_page(tmp_path / "01_toy.ipynb", entry)
    text = ledger.collect(tmp_path, claims=TOY)
    assert shown in text and "1 claims: holds 0, partly 0, does not hold 0, undecided here 1, out of reach here 0." in text
    assert "| **undecided here** (possible: holds, partly; the 95 % interval leaves open: gain > spread(gain)) |" in text


@pytest.mark.parametrize(
    "bad, message",
    [
        (Measured(1.0, 1.0, low=0.0), "together"),
        (Measured(1.0, 1.0, low=2.0, high=3.0), "hold the value"),
        (Measured(1.0, 1.0, low=0.0, high=math.nan), "finite"),
        (Measured(1.0, 1.0, low=2.0, high=0.0), "hold the value"),
    ],
)
def test_intervals_without_sense_are_refused(bad, message):
    with pytest.raises(ValueError, match=f"gain.*{message}"):
        ledger.judge("toy.1", claims=TOY, gain=bad, count=2)


def test_entries_of_the_old_form_stay_readable(tmp_path):
    rows = {
        "gain": {"value": 3.0, "spread": 2.0, "n": 3, "unit": "", "note": "", "exact": False},
        "count": {"value": 2, "spread": None, "n": None, "unit": "", "note": "", "exact": True},
    }
    write_page(tmp_path / "01_toy.ipynb", Entry("toy.1", "holds", rows))
    assert "gain ≈ 3 ± 2 (n = 3); count = 2 | holds if gain > spread(gain)" in ledger.collect(tmp_path, claims=TOY)


# --- the printed rule ---


@pytest.mark.parametrize(
    "rule, text",
    [
        ("a_b >= 1 and (c > 0 or d.spread < 2)", "a b ≥ 1 and (c > 0 or spread(d) < 2)"),
        ("not (a > 1 and b > 1)", "not (a > 1 and b > 1)"),
        ("(a > 1 and b > 1) or c != 2", "(a > 1 and b > 1) or c ≠ 2"),
        ("a - (b - c) > 2 * (a + b)", "a - (b - c) > 2 × (a + b)"),
        ("a / (b / c) == -1", "a / (b / c) = -1"),
        ("(a > 0) + (b > 0) >= 2", "(a > 0) + (b > 0) ≥ 2"),
        ("0 < a.low <= a.high", "0 < low(a) ≤ high(a)"),
        ("-(a + b) < -a.n", "-(a + b) < -n(a)"),
    ],
)
def test_rules_are_printed(rule, text):
    assert ledger.rule_text(rule) == text


@pytest.mark.parametrize("rule", [*RULES, "a - (b - c) > 2 * (a + b)", "a / (b / c) > 1 or not (a > 1 and b > 1)", "(a > b) == (b > c)"])
def test_a_printed_rule_means_what_is_evaluated(rule):
    """Read back: the text without its typography parses to the same tree."""
    text = ledger.rule_text(rule).replace("≥", ">=").replace("≤", "<=").replace("≠", "!=").replace("×", "*").replace(" = ", " == ")
    for part in ledger.PARTS:
        for name in SIDES:
            text = text.replace(f"{part}({name})", f"{name}.{part}")
    assert ledger.ast.dump(ledger.parse_rule(text)) == ledger.ast.dump(ledger.parse_rule(rule))


def test_an_entry_shows_the_note_of_its_claim():
    claims = {"toy.1": replace(TOY["toy.1"], note="The old rule was gain > 9.")}
    assert "\nNote: The old rule was gain > 9.\nVerdict" in ledger.as_text(
        ledger.judge("toy.1", claims=claims, gain=Measured(3.0, 2.0), count=2), claims=claims
    )


# --- over ---


def test_over_few_values_is_students_t():
    values = [1.0, 3.0, 2.0, 6.0]
    found = ledger.over(values, "dB", "mean over prompts", of="seeds")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found == Measured(
        3.0, pytest.approx(np.std(values, ddof=1)), 4, "dB", "mean over prompts", pytest.approx(low), pytest.approx(high), "Student's t over seeds"
    )


def test_over_many_normal_values_is_near_students_t_and_the_same_every_time():
    values = np.random.default_rng(0).normal(2, 3, 60)
    found = ledger.over(values, of="prompts")
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low)) and found.interval == "bootstrap over prompts"
    assert ledger.over(values, of="prompts") == found
    assert ledger.over(np.full(9, 2.5)).low == ledger.over([2.5] * 3).high == 2.5


@pytest.mark.parametrize(
    "bad, error",
    [
        ([1.0], ValueError),
        ([[1.0, 2.0]], ValueError),
        ([1.0, math.nan], ValueError),
        (3.0, ValueError),
        ("ab", TypeError),
        ([1.0, "x"], TypeError),
        (None, ValueError),
        (["1", "2"], TypeError),
        (np.array(["1", "2"], object), TypeError),
        (np.array([1 + 2j, 2]), TypeError),
        (np.array(["2020-01-01", "2021-01-01"], dtype="M8[D]"), TypeError),
        (torch.tensor([1j, 2j]), TypeError),
        ([10**400, 1], TypeError),
        ([1e308] * 9, ValueError),
        (np.ma.array([1.0, 2.0, 1e9], mask=[0, 0, 1]), ValueError),
    ],
)
def test_over_refuses(bad, error):
    with pytest.raises(error, match="values"):
        ledger.over(bad)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_over_reads_tensors_of_every_kind(kind):
    x = torch.tensor([0, 1, 1, 0, 1]).to(kind)
    assert ledger.over(x) == ledger.over(x.tolist())


@pytest.mark.parametrize("yes", [True, np.True_])
def test_a_truth_counts_as_one(yes):
    assert ledger.judge("toy.1", claims=TOY, gain=Measured(1.0, 0.5), count=yes).measured["count"]["value"] == 1


# --- the collection ---


def test_stored_entries_without_intervals_are_decided_as_python_does():
    """Kleene's logic changes nothing for points: every stored verdict against Python's own eval."""
    claims, looked = ledger.load_claims(), 0
    for path in (ledger.ROOT / "notebooks").glob("*.ipynb"):
        for entry in ledger.entries_of(path):
            if entry.measured and all(row.get("low") is None for row in entry.measured.values()):
                names = {name: exact(Measured(row["value"], row["spread"], row["n"])) for name, row in entry.measured.items()}
                rule = claims[entry.id]
                expected = "holds" if eval(rule.holds, dict(names)) else "partly" if eval(rule.partly, dict(names)) else "does not hold"
                assert entry.verdict == expected
                looked += 1
    assert looked


def test_every_existing_page_has_rules_for_its_claims():
    pages = {path.stem for path in (ledger.ROOT / "notebooks").glob("*.ipynb")}
    assert [item.id for item in ledger.load_claims().values() if item.notebook in pages and not item.holds] == []


def test_ledger_page_agrees_with_the_notebooks():
    assert (ledger.ROOT / "LEDGER.md").read_text(encoding="utf-8") == ledger.collect(), "run `make ledger`"


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^path must be a list of claims such as data/claims.toml, got .*claims.toml, which is not there$"):
        ledger.load_claims(tmp_path / "claims.toml")


def test_a_folder_without_pages_is_refused(tmp_path):
    """An empty ledger would look like one that is in step."""
    for folder, words in ((tmp_path / "nowhere", "is not there"), (tmp_path, "has none")):
        with pytest.raises(ValueError, match=f"notebooks must be a folder of executed notebooks, got .*, which {words}"):
            ledger.collect(folder, claims=TOY)
    (tmp_path / "01_toy.ipynb").write_text("no notebook")
    with pytest.raises(ValueError, match="path must be an executed notebook, got .*01_toy"):
        ledger.collect(tmp_path, claims=TOY)
    for wrong in ({"toy.1": "Toys roll."}, [*TOY.values()], "toys"):
        with pytest.raises(TypeError, match=r"claims must be \{id: Claim\}"):
            ledger.collect(tmp_path, claims=wrong)
    with pytest.raises(TypeError, match="notebooks must be the name of a folder"):
        ledger.collect(None, claims=TOY)


FULL = '[[claim]]\nid = "a.1"\nnotebook = "n"\nmethod = "m"\nclaim = "c"\ncontrol = "k"\nwhere = "w"\npublished = "p"\n'
RULE = 'rule = { holds = "x > 1", partly = "x > 0", names = { x = "m" } }\n'


@pytest.mark.parametrize("text, words", [
    (FULL + RULE.replace("holds", "hold"), "a.1.*rule may have holds, partly and names, got .*hold"),
    (FULL + RULE.replace("names", "name"), "a.1.*rule may have holds, partly and names"), (FULL + RULE.replace("rule", "rules"), "a.1.*rules"),
    (FULL + 'rule = "x > 1"\n', "a.1.*must be tables"), (FULL + RULE.replace('{ x = "m" }', '"x"'), "a.1.*must be tables"),
    (FULL.replace('"a.1"', "3") + RULE, "id must be texts"), (FULL + RULE.replace('"m" }', "1 }"), "a.1.*x must be texts"),
    (FULL.replace("[[claim]]", "[[claims]]"), r"each under \[\[claim\]\], got .* with claims"), ("", "with nothing"), ('claim = "x"', "each under"),
    ("[[claim", "in TOML"), (FULL + RULE + "[extra]\n", "with claim, extra"), (FULL + RULE.replace("x > 1", "x > y"), r"a.1.*\['x', 'y'\] mean"),
])  # fmt: skip
def test_a_misspelt_list_of_claims_is_refused(tmp_path, text, words):
    path = tmp_path / "claims.toml"
    path.write_text(FULL + RULE)
    assert list(ledger.load_claims(path)) == ["a.1"]
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        ledger.load_claims(path)


def test_words_of_a_measurement_are_texts():
    for part in ("unit", "note", "interval"):
        with pytest.raises(TypeError, match=f"gain of claim 'toy.1': {part} must be a text, got 3"):
            ledger.judge("toy.1", claims=TOY, gain=replace(Measured(3.0, 1.0), **{part: 3}), count=2)
    for part in ("unit", "note", "of"):
        with pytest.raises(TypeError, match=f"{part} must be a text, got 3"):
            ledger.over([1.0, 2.0], **{part: 3})
    with pytest.raises(TypeError, match="id must be a text, got"):
        ledger.judge(["toy.1"], claims=TOY, gain=3.0, count=2)
    with pytest.raises(TypeError, match="entry must be an Entry"):
        ledger.as_text("toy.1", claims=TOY)


def test_a_number_counts_as_true_unless_it_is_nothing():
    for low, high, truth in ((0.0, 0.0, False), (2.0, 3.0, True), (-3.0, -2.0, True), (-1.0, 1.0, None), (0.0, 1.0, None)):
        measured = {"a": Measured((low + high) / 2, low=low, high=high), "b": Measured(1.0)}
        assert ledger.evaluate_rule("a and b > 0", measured) is truth
        assert ledger.evaluate_rule("not a", measured) is (None if truth is None else not truth)


def test_a_rule_names_what_was_not_measured():
    with pytest.raises(ValueError, match=r"rule 'a > b' needs 'b'; measured: \['a'\]"):
        ledger.evaluate_rule("a > b", {"a": Measured(1.0)})


def test_over_is_the_interval_of_the_statistics():
    values = np.random.default_rng(3).exponential(size=20)
    ours, theirs = ledger.over(values), statistics.interval(values)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02) and ours.value == pytest.approx(theirs.value)
