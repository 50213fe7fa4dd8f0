"""The ledger: what a paper claims, what this collection measures, and a verdict that a rule computes.

The rules stand in `data/claims.toml`, written before anything is measured. A notebook calls `claim("caching.3", ...)` with its
measurements; `python -m helpers.page.ledger` collects the entries of the executed notebooks into LEDGER.md.
"""

import argparse
import ast
import math
import operator
import tomllib
from collections import Counter
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path

import nbformat
from IPython import get_ipython
from IPython.display import publish_display_data

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = ROOT / "data" / "claims.toml"
VERDICTS = ("holds", "partly", "does not hold", "out of reach here")

OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.USub: operator.neg, ast.UAdd: operator.pos,
    ast.Not: operator.not_, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A measured quantity: its value, its spread (say over what in `note`), the number of runs, a unit."""

    value: float
    spread: float | None = None
    n: int | None = None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper. `holds` and `partly` are the rule's two expressions; a claim without a page has no rule yet."""

    id: str
    notebook: str
    method: str
    claim: str
    control: str
    where: str = ""
    published: str = ""
    rule: str = ""
    holds: str = ""
    partly: str = ""

    @property
    def names(self) -> set[str]:
        """The quantities that the rule speaks of."""
        return rule_names(self.holds) | rule_names(self.partly)


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. `measured` maps a name to value, spread, n, unit, note and `exact` (a count, not a measurement)."""

    id: str
    verdict: str
    measured: dict[str, dict]
    reason: str = ""


# --- the list of claims ---


def load_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """Read claims.toml. Raises ValueError for a repeated id, a missing field or a rule that cannot be evaluated."""
    claims = {}
    for row in tomllib.loads(Path(path).read_text(encoding="utf-8"))["claim"]:
        row = dict(row)
        rule = row.pop("rule", {})
        try:
            item = Claim(**row, rule=rule.get("text", ""), holds=rule.get("holds", ""), partly=rule.get("partly", ""))
            parsed = [parse_rule(text) for text in (item.holds, item.partly) if text]
        except (TypeError, ValueError) as error:
            raise ValueError(f"claim {row.get('id')!r} in {Path(path).name}: {error}") from None
        if item.id in claims:
            raise ValueError(f"claim id {item.id!r} stands twice in {Path(path).name}")
        if parsed and not (item.holds and item.partly and item.rule and item.where and item.published):
            raise ValueError(f"claim {item.id!r}: a claim with a rule needs where, published, rule.text, rule.holds and rule.partly")
        claims[item.id] = item
    return claims


# --- rules: arithmetic, comparisons, and/or/not over measured names ---


def parse_rule(text: str) -> ast.expr:
    """Parse a rule and refuse everything but numbers, names, `name.spread`, `name.n`, + - * /, comparisons, and, or, not."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"rule {text!r} is not an expression") from error
    for node in ast.walk(tree):
        allowed = isinstance(node, (ast.BoolOp, ast.And, ast.Or, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Name, ast.Load)) or type(node) in OPERATORS
        allowed |= isinstance(node, ast.Constant) and type(node.value) in (int, float)
        allowed |= isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in ("spread", "n")
        if not allowed:
            raise ValueError(f"rule {text!r} may not contain {type(node).__name__}; expected numbers, names, + - * /, comparisons, and, or, not")
    if not (isinstance(tree, (ast.Compare, ast.BoolOp)) or (isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not))):
        raise ValueError(f"rule {text!r} must be a comparison, or several joined by and, or, not")
    return tree


def rule_names(text: str) -> set[str]:
    """The measured names in a rule (none for an empty one)."""
    return {node.id for node in ast.walk(parse_rule(text)) if isinstance(node, ast.Name)} if text else set()


def evaluate_rule(text: str, measured: dict[str, Measured]) -> bool:
    """Decide a rule for measured quantities. Raises ValueError for an unknown name, an absent spread or n, or a division by zero."""

    def value(node):
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                if node.id not in measured:
                    raise ValueError(f"rule {text!r} needs {node.id!r}; measured: {sorted(measured)}")
                return measured[node.id].value
            case ast.Attribute():
                value(node.value)
                found = getattr(measured[node.value.id], node.attr)
                if found is None:
                    raise ValueError(f"rule {text!r} needs the {node.attr} of {node.value.id!r}; give Measured(value, {node.attr}=...)")
                return found
            case ast.UnaryOp():
                return OPERATORS[type(node.op)](value(node.operand))
            case ast.BinOp():
                return OPERATORS[type(node.op)](value(node.left), value(node.right))
            case ast.BoolOp():
                return (all if isinstance(node.op, ast.And) else any)(value(part) for part in node.values)
            case ast.Compare():
                sides = [value(side) for side in (node.left, *node.comparators)]
                return all(OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, sides, sides[1:], strict=False))

    try:
        return bool(value(parse_rule(text)))
    except ZeroDivisionError:
        raise ValueError(f"rule {text!r} divides by zero for {measured}") from None


# --- entries ---


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
        exact = isinstance(given, Integral)
        m = given if isinstance(given, Measured) else Measured(given)
        for field in ("value", "spread", "n"):
            x = getattr(m, field)
            if x is None and field != "value":
                continue
            if not isinstance(x, Real):
                raise TypeError(f"{name} of claim {id!r}: {field} must be a number, got {type(x).__name__}")
            if not math.isfinite(x) or (field == "spread" and x < 0) or (field == "n" and x < 1):
                raise ValueError(f"{name} of claim {id!r}: {field} must be finite (a spread >= 0, n >= 1), got {x}")
        value = int(m.value) if exact else float(m.value)
        rows[name] = {
            "value": value, "spread": None if m.spread is None else float(m.spread), "n": None if m.n is None else int(m.n),
            "unit": m.unit, "note": m.note, "exact": exact,
        }  # fmt: skip
    return Entry(id, _verdict(item, rows), rows)


def claim(id: str, **measurements: Real | Measured) -> None:
    """Close a claim in a notebook: decide it by its rule and show the entry."""
    _show(judge(id, **measurements))


def out_of_reach(id: str, reason: str) -> None:
    """Close a claim that cannot be measured here, with the reason."""
    _find(id)
    if not isinstance(reason, str) or len(reason.split()) < 3:
        raise ValueError(f"reason must be a sentence, got {reason!r}")
    _show(Entry(id, "out of reach here", {}, reason))


def as_text(entry: Entry, *, markdown: bool = False, claims: dict[str, Claim] | None = None) -> str:
    """One entry as plain text or markdown. Measured values follow `≈`, exact counts `=`."""
    item = _find(entry.id, claims)
    lines = [
        ("Claim", f"{item.id} ({item.method}): {item.claim}"),
        ("Control", item.control),
        ("Where", item.where or "the paper's abstract"),
        ("Published", item.published or "no number"),
        ("Ours", "; ".join(_quantity(name, row) for name, row in entry.measured.items()) or f"not measured: {entry.reason}"),
        ("Rule", item.rule or "none"),
        ("Verdict", f"**{entry.verdict}**" if markdown else entry.verdict),
    ]
    return "\n".join(f"- **{key}:** {text}" if markdown else f"{key}: {text}" for key, text in lines)


def _find(id, claims=None):
    claims = load_claims() if claims is None else claims
    if id not in claims:
        raise ValueError(f"id {id!r} is no claim of claims.toml; known: {', '.join(sorted(claims))}")
    return claims[id]


def _verdict(item, rows):
    measured = {name: Measured(row["value"], row["spread"], row["n"]) for name, row in rows.items()}
    if evaluate_rule(item.holds, measured):
        return "holds"
    return "partly" if evaluate_rule(item.partly, measured) else "does not hold"


def _quantity(name, row):
    label = name.replace("_", " ")
    if row["exact"]:
        text = f"{label} = {row['value']}"
    else:
        text = f"{label} ≈ {row['value']:.3g}" + (f" ± {row['spread']:.2g}" if row["spread"] is not None else "")
    text += f" {row['unit']}" if row["unit"] else ""
    notes = [f"n = {row['n']}"] if row["n"] is not None else []
    notes += [row["note"]] if row["note"] else []
    return text + (f" ({', '.join(notes)})" if notes else "")


def _show(entry):
    text = as_text(entry)
    if get_ipython() is None:
        print(text)
    else:
        data = {"text/plain": text, "text/markdown": as_text(entry, markdown=True)}
        publish_display_data(data, metadata={"stepwise": asdict(entry)})


# --- the ledger page ---


def entries_of(path: Path) -> list[Entry]:
    """The ledger entries in a notebook's stored outputs."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return [Entry(**output.metadata["stepwise"]) for output in outputs if "stepwise" in output.get("metadata", {})]


def collect(notebooks: Path = ROOT / "notebooks", *, claims: dict[str, Claim] | None = None) -> str:
    """The text of LEDGER.md. Every verdict is computed again from the stored measurements.

    Raises ValueError when an existing notebook misses an entry, has one twice, or shows a verdict that its rule does not give.
    """
    claims = load_claims() if claims is None else claims
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
            ours = "; ".join(_quantity(name, row) for name, row in entry.measured.items()) or entry.reason
            published = f"{item.published} ({item.where})" if item.where else item.published
            cells = (f"{id}: {item.claim}", published, ours, item.rule, f"**{entry.verdict}**")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        sections.append(f"## [{path.stem}](notebooks/{path.name}): {claims[wanted[0]].method}\n\n" + "\n".join(rows))
    total = sum(counts.values())
    summary = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS)
    head = (
        "# Ledger\n\nWhat the papers claim, what the notebooks measure, and what follows. The rules stand in `data/claims.toml` written before measuring;\n"
        "the verdicts are computed. This page is collected from the executed notebooks by `make ledger`.\n\n"
        f"{total} claims: {summary}.\n"
    )
    return head + "".join(f"\n{section}\n" for section in sections)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.page.ledger", description="Collect LEDGER.md from the executed notebooks.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when LEDGER.md is not what the notebooks say")
    check = parser.parse_args().check
    page, text = ROOT / "LEDGER.md", collect()
    if not check:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        parser.exit(1, "LEDGER.md and the notebooks disagree; run `make ledger`\n")
    print(text.splitlines()[5])


if __name__ == "__main__":
    main()
