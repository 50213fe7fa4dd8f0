"""What a gate between channels costs: a block with the MLP of a vision transformer, with FAN's, with its gate, and with full attention between channels.

    python tests/benchmarks/fully_attentional.py [--json] [--repeats 9]

One channel block at a time, heads of 32 channels, random weights, float32 on one thread; tokens (2, 196, width), those of 224 px in patches of 16. "plain":
fc1, GELU, fc2; "depthwise": FAN's MLP with its convolutions and norms and no gate; "eca": the same with FAN's gate; "ca": with full channel attention.
Forward in eval mode without gradients, and a training step (forward and backward). The blocks take turns in one process, each repeat in another order; a
ratio is the median over the repeats of one block's time over another's in the same repeat. Memory: bytes that a forward pass in training keeps for the way
back, each storage once and weights left out, which is exact and does not depend on the batch. Without a suffix: width 192.
"""

import random
import statistics
import sys
from pathlib import Path
from time import perf_counter

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.methods.fully_attentional import ChannelBlock
from tests.benchmarks._script import start

WAYS = {"plain": dict(channel="mlp", value="plain"), "depthwise": dict(channel="mlp"), "eca": dict(channel="eca"), "ca": dict(channel="ca")}
WIDTHS, USUAL = (96, 192, 384, 768), 192
BATCH, GRID, HEAD = 2, (14, 14), 32


def kept_bytes(block, x):
    """Bytes of different storages that autograd keeps, without the block's own parameters and buffers."""
    own = {value.untyped_storage().data_ptr() for value in (*block.parameters(), *block.buffers())}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = block(x, GRID)
    made.sum().backward()
    return sum(storage.nbytes() for storage in storages.values())


def timed(block, x, training):
    began = perf_counter()
    if training:
        block(x, GRID).sum().backward()
    else:
        with torch.no_grad():
            block(x, GRID)
    return perf_counter() - began


def measure(repeats):
    torch.set_num_threads(1)
    rows, order = [], random.Random(0)
    for width in WIDTHS:
        torch.manual_seed(0)
        made = {way: ChannelBlock(width, width // HEAD, **options) for way, options in WAYS.items()}
        x = torch.randn(BATCH, GRID[0] * GRID[1], width)
        memory = {way: kept_bytes(block.train(), x.clone().requires_grad_()) for way, block in made.items()}
        for training in (False, True):
            seconds = {way: [] for way in made}
            for repeat in range(repeats + 1):  # the first round warms up
                for way in order.sample(list(made), len(made)):
                    taken = timed(made[way].train(training), x.clone().requires_grad_(training), training)
                    if repeat:
                        seconds[way].append(taken)
            ratio = lambda one, other, s=seconds: statistics.median(a / b for a, b in zip(s[one], s[other], strict=True))  # noqa: E731
            rows.append({
                "width": width, "pass": "training" if training else "inference", "ms_plain": 1e3 * statistics.median(seconds["plain"]),
                "eca_over_plain": ratio("eca", "plain"), "eca_over_depthwise": ratio("eca", "depthwise"), "ca_over_eca": ratio("ca", "eca"),
                "memory_eca_over_plain": memory["eca"] / memory["plain"], "memory_eca_over_depthwise": memory["eca"] / memory["depthwise"],
                "memory_ca_over_eca": memory["ca"] / memory["eca"],
            })  # fmt: skip
    usual = {row["pass"]: row for row in rows if row["width"] == USUAL}
    return {
        "repeats": repeats, "eca_time_ratio": usual["inference"]["eca_over_plain"], "gate_time_ratio": usual["inference"]["eca_over_depthwise"],
        "eca_training_time_ratio": usual["training"]["eca_over_plain"], "eca_memory_ratio": usual["training"]["memory_eca_over_plain"],
        "gate_memory_ratio": usual["training"]["memory_eca_over_depthwise"], "ca_time_ratio": usual["inference"]["ca_over_eca"],
        "ca_memory_ratio": usual["training"]["memory_ca_over_eca"], "by_width": rows,
    }  # fmt: skip


def table(result):
    print(f"{BATCH} pictures of {GRID[0] * GRID[1]} tokens, one thread, median of {result['repeats']}; times and, in brackets, memory for the way back")
    for row in result["by_width"]:
        ratios = (
            f"{name.replace('_', ' ')} {row[name]:.2f} x ({row[f'memory_{name}']:.2f} x)" for name in ("eca_over_plain", "eca_over_depthwise", "ca_over_eca")
        )
        print(f"width {row['width']:3}, {row['pass']:9} (plain {row['ms_plain']:6.1f} ms): {', '.join(ratios)}")


if __name__ == "__main__":
    start(__doc__, measure, table, repeats=9)
