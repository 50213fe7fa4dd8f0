"""What the closed form of alternating normalization saves: all undecided rows at once against one row after the other.

    python tests/benchmarks/alternating_normalization.py [--json]

10 000 rows of 100 probabilities, all undecided, and 1000 decided ones as reference; one round, exponent 1. The peer follows the paper's procedure:
stack the reference and one row, divide the columns by their sums, multiply by the prior, divide the lines by theirs, keep the last line; 100 of
the rows are timed and the time is scaled. On one thread, in turns in one process; medians.
"""

import statistics
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.methods.alternating_normalization import iterate
from tests.benchmarks._script import start

ROWS, CLASSES, REFERENCE, TIMED = 10_000, 100, 1000, 100


def one_by_one(rows, reference, prior):
    """The procedure as it is written, a row at a time."""
    out = np.empty_like(rows)
    for i, row in enumerate(rows):
        stack = np.vstack([reference, row])
        stack = stack / stack.sum(0) * prior
        out[i] = (stack / stack.sum(1, keepdims=True))[-1]
    return out


def measure(repeats):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64).softmax(1)
    reference = (6 * torch.randn(REFERENCE, CLASSES, generator=generator, dtype=torch.float64)).softmax(1)
    prior = torch.rand(CLASSES, generator=generator, dtype=torch.float64) + 0.1
    prior = prior / prior.sum()
    arrays = rows.numpy(), reference.numpy(), prior.numpy()
    seconds = {"ours": [], "one by one": []}
    for _ in range(repeats):
        began = perf_counter()
        ours = iterate(rows, reference, prior)
        seconds["ours"].append(perf_counter() - began)
        began = perf_counter()
        theirs = one_by_one(arrays[0][:TIMED], *arrays[1:])
        seconds["one by one"].append((perf_counter() - began) * ROWS / TIMED)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "repeats": repeats, "seconds": medians["ours"], "seconds_one_by_one": medians["one by one"],
        "speedup": medians["one by one"] / medians["ours"], "max_abs_difference": float(np.abs(ours[:TIMED].numpy() - theirs).max()),
    }  # fmt: skip


def table(result):
    print(f"{ROWS} rows of {CLASSES} probabilities, {REFERENCE} reference rows, one thread, median of {result['repeats']}")
    print(f"all at once {result['seconds']:.4f} s, one by one {result['seconds_one_by_one']:.1f} s: {result['speedup']:.0f} x")
    print(f"largest difference {result['max_abs_difference']:.1e}")


if __name__ == "__main__":
    start(__doc__, measure, table)
