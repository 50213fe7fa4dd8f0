"""What scales and shifts cost at inference: live, as parametrisations, and merged into the weights, against the network that they were put on.

    python tests/benchmarks/scale_and_shift.py [--json]

A ViT of 6 blocks, 128 wide, MLPs of 256, 32 x 32 pixels in patches of 8, random weights, pairs drawn far from the identity; batches of 32 pictures in
float32 on one thread. The four ways take turns in one process, each repeat in another order; a ratio is the median over the repeats of one way's time over the
base network's in the same repeat. `max_abs_difference`: largest difference between the logits of the live and the merged network; `logits`: their size.
"""

import random
import statistics
import sys
from pathlib import Path
from time import perf_counter

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from transformers import ViTConfig, ViTForImageClassification

from helpers.methods.scale_and_shift import add_scale_shift
from tests.benchmarks._script import start

CONFIG = dict(image_size=32, patch_size=8, hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=256, num_labels=10)
BATCH, WARM_UP = 32, 5


def networks():
    """The base network, the same one with live pairs in both styles, and merged; the live pairs."""
    made = {}
    for way in ("base", "hooks", "parametrizations", "merged"):
        torch.manual_seed(0)
        made[way] = ViTForImageClassification(ViTConfig(**CONFIG)).eval()
        if way == "base":
            continue
        pairs = add_scale_shift(made[way], style="hooks" if way == "merged" else way)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, pair in pairs.named_pairs():
                pair.scale.copy_(1 + 0.3 * torch.randn(pair.scale.shape, generator=generator))
                pair.shift.copy_(0.3 * torch.randn(pair.shift.shape, generator=generator))
        if way == "merged":
            pairs.merge()
    return made, pairs


@torch.no_grad()
def measure(repeats):
    torch.set_num_threads(1)
    made, pairs = networks()
    pixels = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    logits = {way: model(pixels).logits for way, model in made.items()}
    seconds, order = {way: [] for way in made}, random.Random(0)
    for repeat in range(repeats + WARM_UP):
        for way in order.sample(list(made), len(made)):
            began = perf_counter()
            made[way](pixels)
            if repeat >= WARM_UP:
                seconds[way].append(perf_counter() - began)
    ratio = {way: statistics.median(s / base for s, base in zip(seconds[way], seconds["base"], strict=True)) for way in made}
    return {
        "repeats": repeats, "ms_base": 1e3 * statistics.median(seconds["base"]),
        "merged_latency_ratio": ratio["merged"], "unmerged_latency_ratio": ratio["hooks"], "parametrizations_latency_ratio": ratio["parametrizations"],
        "max_abs_difference": float((logits["hooks"] - logits["merged"]).abs().max()), "logits": float(logits["hooks"].abs().max()),
        "moved_by_pairs": float((logits["hooks"] - logits["base"]).abs().max()), "scalars": sum(p.numel() for p in pairs.parameters()),
    }  # fmt: skip


def table(result):
    print(f"batches of {BATCH}, one thread, median of {result['repeats']}; the base network takes {result['ms_base']:.2f} ms")
    for way in ("merged", "unmerged", "parametrizations"):
        print(f"{way:18}{result[f'{way}_latency_ratio']:.3f} x")
    print(f"{result['scalars']} numbers move logits by {result['moved_by_pairs']:.2f}; live and merged differ by {result['max_abs_difference']:.1e}")


if __name__ == "__main__":
    start(__doc__, measure, table, repeats=300)
