"""What attention costs as the grid grows, shunted against plain, and what two groups cost against one at equal rates.

    python tests/benchmarks/shunted_attention.py [--json]

One layer of 32 channels and two heads on square grids of 14 to 112 places, one picture, float32, one thread, no gradients. `shunted` has rates (8, 4), `plain`
is the same layer at rate (1,) without a local term, both by torch's fused attention; `maps` marks the plain layer as it is written out, softmax(QK^T)V with its
maps in memory, on grids up to 56. The ways take turns, each repeat in another order. `seconds`: medians; `peak_mb`: how far the process's memory rises during
one call, None where the system does not tell. `exponent`: slope of log time (memory) over log side from 28 to the largest; 2 is linear in the number of tokens,
4 quadratic. `equal_rates_time_ratio`: rates (4, 4), which is two groups of one head, over the pyramid's rate (4,), on a grid of 56: the median over the repeats
of one's time over the other's in the same repeat; `expected_macs_ratio` is what the multiply-adds say.
"""

import math
import random
import statistics
import sys
from pathlib import Path
from time import perf_counter

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.methods.shunted_attention import ShuntedAttention, attend, attention_macs
from tests.benchmarks._script import peak_bytes, start

DIM, HEADS, SIDES, LARGEST_MAPS, WARM_UP = 32, 2, (14, 28, 56, 112), 56, 1
LAYERS = {"shunted": dict(rates=(8, 4)), "plain": dict(rates=(1,), local="none")}
EQUAL = {"two groups": dict(rates=(4, 4)), "one group": dict(rates=(4,))}


def written_out(layer, tokens, grid):
    """The plain layer with its maps in memory."""
    split = lambda x: x.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
    k, v = layer.groups[0].kv(tokens).chunk(2, -1)
    found, _ = attend(split(layer.q(tokens)), split(k), split(v))
    return layer.proj(found.transpose(1, 2).flatten(2))


def calls(side):
    """Each way as a function without arguments."""
    torch.manual_seed(0)
    tokens, grid = torch.randn(1, side**2, DIM), (side, side)
    layers = {name: ShuntedAttention(DIM, HEADS, **options).eval() for name, options in LAYERS.items()}
    made = {name: lambda layer=layer: layer(tokens, grid) for name, layer in layers.items()}
    return made | ({"maps": lambda: written_out(layers["plain"], tokens, grid)} if side <= LARGEST_MAPS else {})


def timed(made, repeats):
    """Seconds of each way at each repeat."""
    seconds, order = {way: [] for way in made}, random.Random(0)
    for repeat in range(repeats + WARM_UP):
        for way in order.sample(list(made), len(made)):
            began = perf_counter()
            made[way]()
            if repeat >= WARM_UP:
                seconds[way].append(perf_counter() - began)
    return seconds


def exponent(rows, way, what):
    """The least-squares slope of logarithms over the sides from 28 on where the way was measured."""
    points = [(math.log(row["side"]), math.log(row[f"{what}_{way}"])) for row in rows if row["side"] >= 28 and row[f"{what}_{way}"]]
    if len(points) < 2:
        return None
    return statistics.linear_regression(*zip(*points)).slope


def at_equal_rates(repeats):
    torch.manual_seed(0)
    tokens = torch.randn(1, 56**2, DIM)
    made = {name: ShuntedAttention(DIM, HEADS, **options).eval() for name, options in EQUAL.items()}
    seconds = timed({name: lambda layer=layer: layer(tokens, (56, 56)) for name, layer in made.items()}, repeats)
    macs = [sum(attention_macs(DIM, (56, 56), options["rates"]).values()) for options in EQUAL.values()]
    return statistics.median(two / one for two, one in zip(*seconds.values(), strict=True)), macs[0] / macs[1]


@torch.no_grad()
def measure(repeats):
    torch.set_num_threads(1)
    rows = []
    for side in SIDES:
        made = calls(side)
        seconds = timed(made, repeats)
        row = {"side": side}
        for way in (*LAYERS, "maps"):
            row[f"seconds_{way}"] = statistics.median(seconds[way]) if way in made else None
            peak = peak_bytes(made[way]) if way in made else None
            row[f"peak_mb_{way}"] = None if peak is None else peak / 2**20
        rows.append(row)
    ratio, expected = at_equal_rates(max(repeats, 5))
    exponents = {f"{what}_exponent_{way}": exponent(rows, way, what) for what in ("seconds", "peak_mb") for way in (*LAYERS, "maps")}
    largest = rows[-1]
    return {
        "repeats": repeats, "rows": rows, **exponents, "plain_over_shunted_time_at_112": largest["seconds_plain"] / largest["seconds_shunted"],
        "equal_rates_time_ratio": ratio, "expected_macs_ratio": expected,
    }  # fmt: skip


def table(result):
    shown = lambda value, width: f"{'-':>{width}}" if value is None else f"{value:{width}.4g}"  # noqa: E731
    print(f"one layer, {DIM} channels, {HEADS} heads, one picture, one thread, median of {result['repeats']}")
    ways = (*LAYERS, "maps")
    print(f"{'side':>8}" + "".join(f"{f'ms {way}':>14}" for way in ways) + "".join(f"{f'MB {way}':>14}" for way in ways))
    for row in result["rows"]:
        times = [row[f"seconds_{way}"] for way in ways]
        print(f"{row['side']:8}" + "".join(shown(t and 1e3 * t, 14) for t in times) + "".join(shown(row[f"peak_mb_{way}"], 14) for way in ways))
    print("exponent" + "".join(shown(result[f"{what}_exponent_{way}"], 14) for what in ("seconds", "peak_mb") for way in ways))
    print(f"at a side of {SIDES[-1]}, plain attention takes {result['plain_over_shunted_time_at_112']:.1f} x the time of shunted attention")
    print(f"at equal rates two groups take {result['equal_rates_time_ratio']:.2f} x the time of one, {result['expected_macs_ratio']:.2f} x its multiply-adds")


if __name__ == "__main__":
    start(__doc__, measure, table, repeats=5)
