"""The ledger: what a paper claims, what this collection measures, and a verdict that a rule computes.

The rules stand in `data/claims.toml`, written before anything is measured. A notebook calls `claim("caching.3", ...)` with its
measurements; `python -m helpers.page.ledger` collects the entries of the executed notebooks into LEDGER.md. Where a measurement's 95 %
interval covers both "the rule is met" and "it is not", nothing is decided, and the verdict says so.
"""

import argparse
import ast
import math
import operator
import os
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from pathlib import Path

import nbformat
import numpy as np
from IPython import get_ipython
from IPython.display import publish_display_data
from scipy import stats

from helpers import checkout
from helpers.arguments import flag, got, instance

__all__ = [
    "CLAIMS", "VERDICTS", "Claim", "Entry", "Measured", "as_text", "claim", "collect", "entries_of", "judge", "load_claims", "out_of_reach", "over",
]  # fmt: skip

ROOT = checkout.ROOT
CLAIMS = ROOT / "data" / "claims.toml"
VERDICTS = ("holds", "partly", "does not hold", "undecided here", "out of reach here")
FEW = 8  # values; below it a bootstrap interval is too narrow, and Student's t stands in
PARTS = ("spread", "n", "low", "high")  # of a quantity, besides its value

ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "×", ast.Div: "/", ast.USub: "-", ast.UAdd: "+",
    ast.Lt: "<", ast.LtE: "≤", ast.Gt: ">", ast.GtE: "≥", ast.Eq: "=", ast.NotEq: "≠",
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A measured quantity: its value, its spread, the number n of independent units, a unit of measure, a note.

    `spread` is the sample standard deviation (ddof = 1) over the n units, unless `note` says otherwise; `low` and `high` are the ends of the
    95 % interval of the value, `interval` says how it was made ("bootstrap over prompts"). `over` makes all of it from values.
    """

    value: float
    spread: float | None = None
    n: int | None = None
    unit: str = ""
    note: str = ""
    low: float | None = None
    high: float | None = None
    interval: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper. `holds` and `partly` are the rule, `meanings` says what its names mean; a claim without a page has no rule yet."""

    id: str
    notebook: str
    method: str
    claim: str
    control: str
    where: str = ""
    published: str = ""
    holds: str = ""
    partly: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def names(self) -> set[str]:
        """The quantities that the rule speaks of."""
        return rule_names(self.holds) | rule_names(self.partly)

    @property
    def rule(self) -> str:
        """The rule in words, made from its expressions and the meanings of their names ("" without a rule)."""
        if not self.holds:
            return ""
        meanings = "; ".join(f"{_label(name)}: {meaning}" for name, meaning in self.meanings.items())
        return f"holds if {rule_text(self.holds)}; partly if {rule_text(self.partly)}" + (f". Here {meanings}" if meanings else "")


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. `measured` maps a name to the fields of `Measured` and `exact` (a count, not a measurement)."""

    id: str
    verdict: str
    measured: dict[str, dict]
    reason: str = ""


# --- the list of claims ---


def load_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """Read claims.toml. Raises ValueError for a repeated id, a missing or misspelt field, a rule that cannot be evaluated or a name without a meaning,
    FileNotFoundError without the file."""
    instance("path", path, (str, os.PathLike), "the name of a file")
    if not Path(path).exists():
        checkout.require("the list of claims")
        raise FileNotFoundError(f"path must be a list of claims such as data/claims.toml, got {path}, which is not there")
    try:
        listed = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"path must be a list of claims in TOML, got {path}: {error}") from None
    rows = listed.get("claim")
    if set(listed) != {"claim"} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"path must be a list of claims, each under [[claim]], got {path} with {', '.join(listed) or 'nothing'}")
    claims = {}
    for row in rows:
        row = dict(row)
        rule = row.pop("rule", {})
        try:
            if not isinstance(rule, dict) or not isinstance(rule.get("names", {}), dict):
                raise TypeError(f"rule and its names must be tables like {{ holds = ... }}, got {rule!r}")
            if unknown := set(rule) - {"holds", "partly", "names"}:
                raise ValueError(f"rule may have holds, partly and names, got {sorted(unknown)}")
            if texts := [name for name, value in (row | rule | rule.get("names", {})).items() if name != "names" and not isinstance(value, str)]:
                raise TypeError(f"{', '.join(texts)} must be texts")
            item = Claim(**row, holds=rule.get("holds", ""), partly=rule.get("partly", ""), meanings=rule.get("names", {}))
            names = item.names
        except (TypeError, ValueError) as error:
            raise ValueError(f"claim {row.get('id')!r} in {Path(path).name}: {error}") from None
        if item.holds and not rule_names(item.holds):
            raise ValueError(f"claim {item.id!r}: rule.holds speaks of nothing measured, so it could not fail, or not pass: {item.holds!r}")
        if taken := names & {"id", "claims"}:
            raise ValueError(f"claim {item.id!r}: a rule cannot call a measurement {sorted(taken)}, which are arguments of `judge`")
        if item.id in claims:
            raise ValueError(f"claim id {item.id!r} stands twice in {Path(path).name}")
        if rule and not (item.holds and item.partly and item.where and item.published):
            raise ValueError(f"claim {item.id!r}: a claim with a rule needs where, published, rule.holds and rule.partly")
        if set(item.meanings) != names:
            raise ValueError(f"claim {item.id!r}: rule.names must say what {sorted(names)} mean, it has {sorted(item.meanings)}")
        claims[item.id] = item
    return claims


# --- rules: arithmetic, comparisons, and/or/not over measured names ---


def parse_rule(text: str) -> ast.expr:
    """Parse a rule and refuse everything but numbers, names, `name.spread` (.n, .low, .high), + - * /, comparisons, and, or, not."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"rule {text!r} is not an expression") from error
    for node in ast.walk(tree):
        allowed = isinstance(node, (ast.BoolOp, ast.And, ast.Or, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Name, ast.Load)) or type(node) in ARITHMETIC
        allowed |= isinstance(node, (ast.USub, ast.UAdd, ast.Not, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq))
        allowed |= isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value < math.inf
        allowed |= isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in PARTS
        if not allowed:
            raise ValueError(f"rule {text!r} may not contain {type(node).__name__}; expected finite numbers, names, + - * /, comparisons, and, or, not")
    if not (isinstance(tree, (ast.Compare, ast.BoolOp)) or (isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not))):
        raise ValueError(f"rule {text!r} must be a comparison, or several joined by and, or, not")
    return tree


def rule_names(text: str) -> set[str]:
    """The measured names in a rule (none for an empty one)."""
    return {node.id for node in ast.walk(parse_rule(text)) if isinstance(node, ast.Name)} if text else set()


def rule_text(text: str) -> str:
    """A rule as it is printed: names with spaces, `gain.spread` as spread(gain), >= as ≥."""
    return _written(parse_rule(text))


def evaluate_rule(text: str, measured: Mapping[str, Measured]) -> bool | None:
    """Decide a rule: True or False where it is so for every value inside the 95 % intervals, else None (open).

    A quantity without an interval is a point, and so are .spread, .n, .low and .high. Arithmetic is that of intervals, and, or, not are Kleene's. Each
    mention of a name ranges over its interval by itself, so a rule that mentions one twice may stay open where it could be decided, never the other
    way round. Raises ValueError for an unknown name, an absent spread, n, low or high, or a division by exactly zero.
    """
    try:
        return _truth(_evaluate(parse_rule(text), text, measured))
    except ZeroDivisionError:
        raise ValueError(f"rule {text!r} divides by zero for {measured}") from None


def open_comparisons(text: str, measured: Mapping[str, Measured]) -> list[str]:
    """The comparisons of a rule that the intervals leave open, as they are printed."""
    nodes = [node for node in ast.walk(parse_rule(text)) if isinstance(node, ast.Compare)]
    return [_written(node) for node in nodes if _evaluate(node, text, measured) is None]


def _label(name):
    return name.replace("_", " ")


def _written(node, within=0):
    """An expression in words and signs, with brackets where its own operator binds less tightly than the one `within` which it stands."""
    match node:
        case ast.Constant():
            return repr(node.value)
        case ast.Name():
            return _label(node.id)
        case ast.Attribute():
            return f"{node.attr}({_label(node.value.id)})"
        case ast.BoolOp():
            word, binds = ("or", 1) if isinstance(node.op, ast.Or) else ("and", 2)
            text = f" {word} ".join(_written(part, 3) for part in node.values)  # brackets also where "and" would bind first: few readers know that
        case ast.UnaryOp():
            sign, binds = ("not ", 3) if isinstance(node.op, ast.Not) else (SIGNS[type(node.op)], 7)
            text = sign + _written(node.operand, binds)
        case ast.Compare():
            binds, text = 4, _written(node.left, 5)
            for op, side in zip(node.ops, node.comparators, strict=True):
                text += f" {SIGNS[type(op)]} {_written(side, 5)}"
        case ast.BinOp():
            binds = 5 if isinstance(node.op, (ast.Add, ast.Sub)) else 6
            text = f"{_written(node.left, binds)} {SIGNS[type(node.op)]} {_written(node.right, binds + 1)}"
    return f"({text})" if binds < within else text


def _evaluate(node, text, measured):
    """A pair (low, high) for arithmetic, True, False or None for logic."""
    match node:
        case ast.Constant():
            return node.value, node.value
        case ast.Name():
            found = _known(node.id, text, measured)
            return (found.value, found.value) if found.low is None else (found.low, found.high)
        case ast.Attribute():
            found = getattr(_known(node.value.id, text, measured), node.attr)
            if found is None:
                raise ValueError(f"rule {text!r} needs the {node.attr} of {node.value.id!r}; give Measured(value, {node.attr}=...)")
            return found, found
        case ast.UnaryOp():
            operand = _evaluate(node.operand, text, measured)
            if isinstance(node.op, ast.Not):
                truth = _truth(operand)
                return None if truth is None else not truth
            low, high = _number(operand)
            return (-high, -low) if isinstance(node.op, ast.USub) else (low, high)
        case ast.BinOp():
            sides = [_number(_evaluate(side, text, measured)) for side in (node.left, node.right)]
            return _arithmetic(type(node.op), *sides)
        case ast.BoolOp():
            parts = [_truth(_evaluate(part, text, measured)) for part in node.values]
            decisive = isinstance(node.op, ast.Or)  # one true part decides an `or`, one false part an `and`
            return decisive if decisive in parts else None if None in parts else not decisive
        case ast.Compare():
            sides = [_number(_evaluate(side, text, measured)) for side in (node.left, *node.comparators)]
            parts = [_compare(op, a, b) for op, a, b in zip(node.ops, sides, sides[1:], strict=False)]
            return False if False in parts else None if None in parts else True


def _known(name, text, measured):
    if name not in measured:
        raise ValueError(f"rule {text!r} needs {name!r}; measured: {sorted(measured)}")
    return measured[name]


def _number(x):
    return x if isinstance(x, tuple) else {True: (1, 1), False: (0, 0), None: (0, 1)}[x]


def _truth(x):
    if not isinstance(x, tuple):
        return x
    return False if x == (0, 0) else None if x[0] <= 0 <= x[1] else True


def _arithmetic(op, a, b):
    if op is ast.Add:
        return a[0] + b[0], a[1] + b[1]
    if op is ast.Sub:
        return a[0] - b[1], a[1] - b[0]
    if op is ast.Div and b != (0, 0) and (b[0] <= 0 <= b[1] or not all(map(math.isfinite, (*a, *b)))):
        return -math.inf, math.inf
    # an end without limit times nothing is nothing: every value inside is finite
    ends = [0 if op is ast.Mult and 0 in (x, y) else ARITHMETIC[op](x, y) for x in a for y in b]
    return min(ends), max(ends)


def _compare(op, a, b):
    match op:
        case ast.Lt():
            return True if a[1] < b[0] else False if a[0] >= b[1] else None
        case ast.LtE():
            return True if a[1] <= b[0] else False if a[0] > b[1] else None
        case ast.Gt():
            return _compare(ast.Lt(), b, a)
        case ast.GtE():
            return _compare(ast.LtE(), b, a)
        case ast.Eq():
            return True if a[0] == a[1] == b[0] == b[1] else False if a[1] < b[0] or b[1] < a[0] else None
        case ast.NotEq():
            equal = _compare(ast.Eq(), a, b)
            return None if equal is None else not equal


# --- entries ---


def over(values, unit: str = "", note: str = "", *, of: str = "units") -> Measured:
    """The mean of values over independent units, with all that a verdict needs.

    values (n,), one for each independent unit (prompt, picture, clip, task, seed; `of` names them in the plural), or an estimate of
    `helpers.measures.statistics`, taken as it is. `spread` is the sample standard deviation (ddof = 1) over the units: how far one unit lies from
    another, not how sure the mean is; that is the 95 % interval: percentile bootstrap, expanded for small samples (Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789), and Student's t below 8 units, as `statistics.interval` does it. Raises TypeError for what is no
    list of numbers, ValueError for other shapes, fewer than two values and values that are not finite.
    """
    for name, text in (("unit", unit), ("note", note), ("of", of)):
        instance(name, text, str, "a text")
    if all(hasattr(values, name) for name in ("value", "low", "high", "spread", "n", "method")):
        return Measured(values.value, values.spread, values.n, unit, note, values.low, values.high, values.method)
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            values = values if values.is_complex() else values.double()
        x = np.asarray(values)
        # numbers only: numpy would also read the text "3", count the days of a date and drop the imaginary part
        if x.dtype.kind not in "biufO" or (x.dtype.kind == "O" and any(isinstance(one, (str, bytes)) for one in x.flat)):
            raise TypeError
        x = x.astype(np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"values must be numbers, one for each unit, or an estimate, got {type(values).__name__}") from None
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"values must be (n,) with at least two values, one for each unit, got {x.shape}")
    if not np.isfinite(x).all() or np.ma.is_masked(values) or np.abs(x).max() >= 1e150:  # whose square is no number any more
        raise ValueError("values must be finite and below 1e150, got NaN, masked, infinite or larger ones")
    n, mean, spread = len(x), float(x.mean()), float(x.std(ddof=1))
    t = stats.t.ppf(0.975, n - 1)
    if n < FEW:
        half = float(t * spread / math.sqrt(n))
        return Measured(mean, spread, n, unit, note, mean - half, mean + half, f"Student's t over {of}")
    level = 1 - 2 * stats.norm.sf(t * math.sqrt(n / (n - 1)))
    drawn = stats.bootstrap((x,), np.mean, confidence_level=level, method="percentile", batch=max(1, 2**22 // n), rng=np.random.default_rng(0))
    low, high = map(float, drawn.confidence_interval)
    return Measured(mean, spread, n, unit, note, min(low, mean), max(high, mean), f"bootstrap over {of}")


def judge(id: str, *, claims: dict[str, Claim] | None = None, **measurements: Real | Measured) -> Entry:
    """Apply the rule of a claim to measurements: numbers (an int is a count and exact) or `Measured`. Pure; `claim` also shows it.

    Raises ValueError for an unknown id, a claim without a rule, missing or extra names and values that are not finite, TypeError for what is no number.
    """
    item = _find(id, claims)
    if not item.holds:
        raise ValueError(f"claim {id!r} has no rule in claims.toml yet; write it there before measuring")
    if set(measurements) != item.names:
        raise ValueError(f"claim {id!r} needs the measurements {sorted(item.names)}, got {sorted(measurements)}")
    rows = {}
    for name, given in measurements.items():
        given = bool(given) if isinstance(given, np.bool_) else given  # `True` counts as 1, and so does numpy's
        exact = isinstance(given, Integral)
        m = given if isinstance(given, Measured) else Measured(given)
        for part in ("unit", "note", "interval"):
            instance(f"{name} of claim {id!r}: {part}", getattr(m, part), str, "a text")
        for part in ("value", *PARTS):
            x = getattr(m, part)
            if x is None and part != "value":
                continue
            if not isinstance(x, Real):
                raise TypeError(f"{name} of claim {id!r}: {part} must be a number, got {type(x).__name__}")
            x = _float(x)
            if not math.isfinite(x) or (part == "spread" and x < 0) or (part == "n" and (x < 1 or x % 1)):
                raise ValueError(f"{name} of claim {id!r}: {part} must be finite (a spread >= 0, n >= 1 and whole), got {x}")
        if (m.low is None) != (m.high is None):
            raise ValueError(f"{name} of claim {id!r}: low and high come together, got low={m.low}, high={m.high}")
        if m.low is not None and not m.low <= m.value <= m.high:
            raise ValueError(f"{name} of claim {id!r}: the interval must hold the value, got {m.value} and [{m.low}, {m.high}]")
        rows[name] = {
            "value": int(m.value) if exact else float(m.value), "n": None if m.n is None else int(m.n), "unit": m.unit, "note": m.note, "exact": exact,
            **{part: None if getattr(m, part) is None else float(getattr(m, part)) for part in ("spread", "low", "high")}, "interval": m.interval,
        }  # fmt: skip
    return Entry(id, _verdict(item, rows), rows)


def claim(id: str, **measurements: Real | Measured) -> None:
    """Close a claim in a notebook: decide it by its rule and show the entry."""
    _show(judge(id, **measurements))


def out_of_reach(id: str, reason: str) -> None:
    """Close a claim that cannot be measured here, with the reason."""
    _find(id)
    if len(instance("reason", reason, str, "a sentence").split()) < 3:
        raise ValueError(f"reason must be a sentence, got {reason!r}")
    _show(Entry(id, "out of reach here", {}, reason))


def as_text(entry: Entry, *, markdown: bool = False, claims: dict[str, Claim] | None = None) -> str:
    """One entry as plain text or markdown. Measured values follow `≈`, exact counts `=`; [low, high] is a 95 % interval."""
    instance("entry", entry, Entry, "an Entry of the ledger")
    markdown = flag("markdown", markdown)
    item = _find(entry.id, claims)
    verdict = f"**{entry.verdict}**" if markdown else entry.verdict
    lines = [
        ("Claim", f"{item.id} ({item.method}): {item.claim}"),
        ("Control", item.control),
        ("Where", item.where or "the paper's abstract"),
        ("Published", item.published or "no number"),
        ("Ours", _ours(item, entry) or f"not measured: {entry.reason}"),
        ("Rule", item.rule or "none"),
        *([("Note", item.note)] if item.note else []),
        ("Verdict", verdict + _left_open(item, entry)),
    ]
    return "\n".join(f"- **{key}:** {text}" if markdown else f"{key}: {text}" for key, text in lines)


def _find(id, claims=None):
    instance("id", id, str, "a text")
    claims = load_claims() if claims is None else _checked(claims)
    if id not in claims:
        raise ValueError(f"id {id!r} is no claim of claims.toml; known: {', '.join(sorted(claims))}")
    return claims[id]


def _checked(claims) -> Mapping[str, Claim]:
    if not isinstance(claims, Mapping) or not all(isinstance(item, Claim) for item in claims.values()):
        raise TypeError(f"claims must be {{id: Claim}}, as load_claims() gives them, got {got(claims)}")
    return claims


def _verdict(item, rows):
    measured = _measured(rows)
    for verdict, rule in (("holds", item.holds), ("partly", item.partly)):
        truth = evaluate_rule(rule, measured)
        if truth is None:
            return "undecided here"
        if truth:
            return verdict
    return "does not hold"


def _measured(rows):
    # entries that older pages stored have no interval
    return {name: Measured(row["value"], row["spread"], row["n"], low=row.get("low"), high=row.get("high")) for name, row in rows.items()}


def _left_open(item, entry):
    """Which verdicts an undecided entry may still get, and the comparisons on which that hangs."""
    if entry.verdict != "undecided here":
        return ""
    measured = _measured(entry.measured)
    rules = {"holds": item.holds, "partly": item.partly}
    truths = {verdict: evaluate_rule(rule, measured) for verdict, rule in rules.items()}
    possible = [verdict for verdict, truth in truths.items() if truth is not False] + ["does not hold"] * (truths["partly"] is not True)
    left = dict.fromkeys(text for verdict, rule in rules.items() if truths[verdict] is None for text in open_comparisons(rule, measured))
    return f" (possible: {', '.join(possible)}; the 95 % interval leaves open: {'; '.join(left)})"


def _ours(item, entry):
    # in the order of the rule's names: a stored notebook sorts its metadata
    order = list(item.meanings)
    names = sorted(entry.measured, key=lambda name: (order.index(name) if name in order else len(order), name))
    return "; ".join(_quantity(name, entry.measured[name]) for name in names)


def _quantity(name, row):
    low, high = row.get("low"), row.get("high")
    notes = [f"n = {row['n']}"] if row["n"] is not None else []
    if row["exact"]:
        text = f"{_label(name)} = {row['value']}"
    elif low is None:
        text = f"{_label(name)} ≈ {row['value']:.3g}" + (f" ± {row['spread']:.2g}" if row["spread"] is not None else "")
    else:
        text = f"{_label(name)} ≈ {_with_interval(row['value'], low, high)}"
        notes += ["95 % interval" + (f": {row['interval']}" if row.get("interval") else "")]
        notes += [f"spread ≈ {row['spread']:.2g}"] if row["spread"] is not None else []
    text += f" {row['unit']}" if row["unit"] else ""
    notes += [row["note"]] if row["note"] else []
    return text + (f" ({', '.join(notes)})" if notes else "")


def _with_interval(value, low, high):
    """Two digits of the interval's width decide how many decimals are shown: 0.46 [0.31, 0.62]."""
    form = f".{max(0, 1 - math.floor(math.log10(high - low)))}f" if high > low else ".3g"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _float(x):
    """A number as a float; an integer beyond all floats is infinite."""
    try:
        return float(x)
    except OverflowError:
        return math.inf


def _show(entry):
    text = as_text(entry)
    if get_ipython() is None:
        print(text)
    else:
        data = {"text/plain": text, "text/markdown": as_text(entry, markdown=True)}
        publish_display_data(data, metadata={"stepwise": asdict(entry)})


# --- the ledger page ---


def entries_of(path: Path) -> list[Entry]:
    """The ledger entries in a notebook's stored outputs. Raises ValueError for a file that is no notebook, or that holds other things as entries."""
    instance("path", path, (str, os.PathLike), "the name of a notebook")
    try:
        cells = nbformat.read(path, as_version=4).cells
        outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
        return [Entry(**output.metadata["stepwise"]) for output in outputs if "stepwise" in output.get("metadata", {})]
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"path must be an executed notebook, got {path}: {error}") from error


def collect(notebooks: Path = ROOT / "notebooks", *, claims: dict[str, Claim] | None = None) -> str:
    """The text of LEDGER.md. Every verdict is computed again from the stored measurements.

    Raises ValueError when there is no notebook, or one misses an entry, has one twice, or shows a verdict that its rule does not give.
    """
    instance("notebooks", notebooks, (str, os.PathLike), "the name of a folder")
    claims = load_claims() if claims is None else _checked(claims)
    if not any(Path(notebooks).glob("*.ipynb")):
        raise ValueError(
            f"notebooks must be a folder of executed notebooks, got {str(notebooks)!r}, which {'has none' if Path(notebooks).is_dir() else 'is not there'}"
        )
    counts, sections = Counter(), []
    for path in sorted(Path(notebooks).glob("*.ipynb")):
        wanted = [item.id for item in claims.values() if item.notebook == path.stem]
        entries = {entry.id: entry for entry in entries_of(path)}
        if sorted(entry.id for entry in entries_of(path)) != sorted(wanted):
            raise ValueError(f"{path.name} must hold one ledger entry for each of {wanted}, it holds {[e.id for e in entries_of(path)]}")
        if not wanted:
            continue
        rows = ["| claim | published | ours | rule | verdict |", "| --- | --- | --- | --- | --- |"]
        for id in wanted:
            entry, item = entries[id], claims[id]
            by_rule = _verdict(item, entry.measured) if entry.measured else "out of reach here"
            if entry.verdict != by_rule:
                raise ValueError(f"{path.name}: claim {id} says {entry.verdict!r}, its rule gives {by_rule!r}; run the notebook again")
            counts[entry.verdict] += 1
            ours = _ours(item, entry) or entry.reason
            published = f"{item.published} ({item.where})" if item.where else item.published
            rule = item.rule + (f". Note: {item.note}" if item.note else "")
            cells = (f"{id}: {item.claim}", published, ours, rule, f"**{entry.verdict}**{_left_open(item, entry)}")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        sections.append(f"## [{path.stem}](notebooks/{path.name}): {claims[wanted[0]].method}\n\n" + "\n".join(rows))
    head = (
        "# Ledger\n\nWhat the papers claim, what the notebooks measure, and what follows. The rules stand in `data/claims.toml`, written before measuring;\n"
        "the verdicts are computed, and a rule is printed from the expression that decides. `[low, high]` is the 95 % interval of a value over the n\n"
        "independent units, `±` the spread: the standard deviation over them, where the note says nothing else. A verdict is `undecided here` where an\n"
        "interval leaves the rule open; a value without an interval counts as exact. This page is collected from the executed notebooks by `make ledger`.\n\n"
        f"{_summary(counts)}\n"
    )
    return head + "".join(f"\n{section}\n" for section in sections)


def _summary(counts):
    return f"{sum(counts.values())} claims: {', '.join(f'{verdict} {counts[verdict]}' for verdict in VERDICTS)}."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.page.ledger", description="Collect LEDGER.md from the executed notebooks.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when LEDGER.md is not what the notebooks say")
    check = parser.parse_args().check
    try:
        checkout.require("the ledger", "notebooks")
        page, text = ROOT / "LEDGER.md", collect()
    except (FileNotFoundError, ValueError) as error:  # a page without an entry, or with a verdict that its rule does not give
        parser.exit(1, f"{error}\n")
    if not check:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        parser.exit(1, "LEDGER.md and the notebooks disagree; run `make ledger`\n")
    print(next(line for line in text.splitlines() if " claims: " in line))


if __name__ == "__main__":
    main()
