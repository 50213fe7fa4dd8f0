"""What a training step of each method costs over plain SGD's, and what the store of outputs takes.

    python tests/benchmarks/sharpness_aware_free.py [--json]

transformers' ResNet of three stages (78 394 parameters), pictures of 16 x 16 (`rows`, first) and 32 x 32 pixels, batches of 64 in float32 on one thread, SGD
with momentum, all terms on. The methods take turns in one process, each repeat in another order. Times are the process's own (processor seconds); a ratio is
the median over the repeats of one method's time over plain SGD's in the same repeat. LookSAM climbs at every fifth step: its ratio is of sums over five.
`*_ratio` are those at 32 x 32. `store_mb`: float32 logits and stamps for CIFAR-10, with a lag of 3 epochs; `store_ms`: writing and reading a batch of outputs
of 1000 classes.
"""

import random
import statistics
import sys
from pathlib import Path
from time import process_time

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from transformers import ResNetConfig, ResNetForImageClassification

from helpers.methods.sharpness_aware_free import METHODS, OutputStore, store_bytes
from tests.benchmarks._script import start

CONFIG = dict(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", num_channels=1, num_labels=10)
SIDES, BATCH, SAMPLES, WARM_UP, PERIOD = (16, 32), 64, 1437, 2, 5
OPTIONS = {"MESA": dict(start=0), "uniform": dict(start=0), "frozen": dict(start=0), "LookSAM": dict(every=PERIOD)}


def methods():
    made = {}
    for name, method in METHODS.items():
        torch.manual_seed(0)
        model = ResNetForImageClassification(ResNetConfig(**CONFIG)).train()
        options = dict(store=OutputStore(SAMPLES, 10, lag=1), start=0) if name == "SAF" else OPTIONS.get(name, {})
        made[name] = method(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), **options)
    return made


def compared(side, repeats):
    """Milliseconds of a plain step at this side, and every other method's time over it."""
    made, generator, order = methods(), torch.Generator().manual_seed(1), random.Random(0)
    batch = torch.rand(BATCH, 1, side, side, generator=generator), torch.randint(10, (BATCH,), generator=generator), torch.arange(BATCH)
    seconds = {name: [] for name in made}
    for epoch in range(repeats + WARM_UP):
        for name in order.sample(list(made), len(made)):
            began = process_time()
            made[name].step(batch, epoch)
            if epoch >= WARM_UP:
                seconds[name].append(process_time() - began)
    plain = seconds.pop("plain")
    found = {"side": side, "ms_plain": 1e3 * statistics.median(plain)}
    for name, own in seconds.items():
        size = PERIOD if name == "LookSAM" and repeats >= PERIOD else 1
        sums = [[sum(times[i : i + size]) for i in range(0, repeats - size + 1, size)] for times in (own, plain)]
        found[f"{name}_ratio"] = statistics.median(s / base for s, base in zip(*sums, strict=True))
    return found


def store_ms(repeats):
    """Writing a batch of wide outputs and reading those of the epoch before."""
    store, rows, logits, seconds = OutputStore(SAMPLES, 1000, lag=1), torch.arange(BATCH), torch.randn(BATCH, 1000), []
    for epoch in range(repeats + WARM_UP):
        began = process_time()
        store.write(rows, logits, epoch)
        store.read(rows, epoch, missing="skip")
        seconds.append(process_time() - began)
    return 1e3 * statistics.median(seconds[WARM_UP:])


def measure(repeats):
    torch.set_num_threads(1)
    rows = [compared(side, repeats) for side in SIDES]
    ratios = {name: value for name, value in rows[-1].items() if name.endswith("_ratio")}
    return {"repeats": repeats, "rows": rows, **ratios, "store_mb": store_bytes(50_000, 10, lag=3) / 1e6, "store_ms": store_ms(repeats)}


def table(result):
    print(f"batches of {BATCH}, one thread, median of {result['repeats']}; time over a plain step's")
    print(f"{'side':10}" + "".join(f"{row['side']:>10}" for row in result["rows"]))
    for name in METHODS:
        if name != "plain":
            print(f"{name:10}" + "".join(f"{row[f'{name}_ratio']:10.3f}" for row in result["rows"]))
    print(f"{'plain, ms':10}" + "".join(f"{row['ms_plain']:10.2f}" for row in result["rows"]))
    print(f"a store for CIFAR-10 takes {result['store_mb']:.1f} MB; to write and read a batch of outputs of 1000 classes {result['store_ms']:.2f} ms")


if __name__ == "__main__":
    start(__doc__, measure, table, repeats=30)
