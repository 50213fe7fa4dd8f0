"""What prompts cost at inference, and what a task stores: a frozen vision transformer with 0 to 32 prompts in every block beside the untouched model.

    python tests/benchmarks/visual_prompt_tuning.py [--json] [--repeats 9]

toy-vit-wide's architecture (17 tokens of width 128, six blocks, random weights: speed does not depend on them), 64 pictures of 32 px, no gradients. On one
thread, in turns in one process; medians. latency_ratio: time with prompts over time of the untouched model; bytes_a_task: a safetensors file with the prompts
and a head of ten classes, in single precision. Both without a suffix for 8 prompts; by_length has all lengths, and prompts as long as the sequence, 17.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from transformers import ViTConfig, ViTForImageClassification

from helpers.methods.visual_prompt_tuning import add_prompts
from tests.benchmarks._script import start

LENGTHS, USUAL = (0, 1, 2, 4, 8, 16, 17, 32), 8
CONFIG = dict(image_size=32, patch_size=8, hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=256, num_labels=10)


def model():
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**CONFIG)).eval()


def stored(tensors):
    with tempfile.TemporaryDirectory() as folder:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, Path(folder) / "task.safetensors")
        return (Path(folder) / "task.safetensors").stat().st_size


@torch.no_grad()
def measure(repeats):
    torch.set_num_threads(1)
    images, plain, prompted, files = torch.rand(64, 3, 32, 32) * 2 - 1, model(), {}, {}
    for length in LENGTHS:
        prompted[length] = model()
        prompts = add_prompts(prompted[length], num_prompts=length)
        head = {f"classifier.{name}": p for name, p in prompted[length].classifier.named_parameters()}
        files[length] = stored({f"prompts.{name}": p for name, p in prompts.named_parameters()} | head)
    ways, seconds = {"untouched": plain, **prompted}, {name: [] for name in ("untouched", *LENGTHS)}
    for _ in range(repeats + 1):  # the first round warms up
        for name, network in ways.items():
            began = perf_counter()
            network(images)
            seconds[name].append(perf_counter() - began)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    rows = [
        {"prompts": length, "tokens": 17 + length, "latency_ratio": medians[length] / medians["untouched"], "bytes_a_task": files[length]} for length in LENGTHS
    ]
    usual = next(row for row in rows if row["prompts"] == USUAL)
    backbone = stored({name: p for name, p in plain.vit.named_parameters()})
    return {
        "repeats": repeats, "seconds_untouched": medians["untouched"], "latency_ratio": usual["latency_ratio"], "bytes_a_task": usual["bytes_a_task"],
        "bytes_backbone": backbone, "by_length": rows,
    }  # fmt: skip


def table(result):
    print(f"64 pictures of 32 px on one thread, median of {result['repeats']}; untouched {1000 * result['seconds_untouched']:.1f} ms")
    for row in result["by_length"]:
        share = row["bytes_a_task"] / result["bytes_backbone"]
        print(f"{row['prompts']:3} prompts, {row['tokens']:3} tokens: {row['latency_ratio']:.2f} x the time, {row['bytes_a_task']:7} bytes ({share:.1%})")


if __name__ == "__main__":
    start(__doc__, measure, table, repeats=9)
