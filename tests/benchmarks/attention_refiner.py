"""What refining maps costs over plain attention, and how exactly convolving maps is averaging values.

    python tests/benchmarks/attention_refiner.py [--json]

Attention of one picture from queries, keys and values on, 12 heads of 32 channels, 65 and 197 tokens (S at 224 px), float32, one thread, no gradients. `plain`
is softmax(QK^T)V with its maps in memory, which is 1 in all ratios; `fused` torch's own, which cannot be refined; `mix only` kappa 3 with k = 1, `kernel only`
kappa 1 with k = 3 and heads left as they are, which `locally` computes from averaged values without a convolved map; `linear` kappa 3 with k = 3; `official`
that as an inverted residual block. The ways take turns, each repeat in another order, timed in processor seconds; `time_over_plain`: the median over the
repeats of one's time over plain's in the same repeat. `macs_over_plain`: what multiply-adds say. `peak_mb`: how far the process's memory rises during one
call, None where the system does not tell. `difference, ...`: the largest entry of |convolve(A) V - attend_locally(A, V)| over the largest entry, in both
precisions, and of the same with ReLU6 between a random expansion and the convolution (197 tokens).
"""

import random
import statistics
import sys
from pathlib import Path
from time import process_time

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.methods.attention_refiner import MapRefiner, attend_locally, convolve, mix_heads
from tests.benchmarks._script import peak_bytes, start

HEADS, WIDTH, TOKENS, WARM_UP = 12, 32, (65, 197), 1


def plain_maps(q, k):
    return (q @ k.mT * WIDTH**-0.5).softmax(-1)


def ways(tokens):
    """Each way as a function without arguments."""
    q, k, v = torch.randn(3, 1, HEADS, tokens, WIDTH, generator=torch.Generator().manual_seed(0))
    make = lambda **options: MapRefiner(HEADS, generator=torch.Generator().manual_seed(1), **options).eval()  # noqa: E731
    mix, linear, official, kernels = make(kernel=1), make(), make(refine="inverted_residual"), make(kappa=1).local.weight[:, 0].detach()
    return {
        "plain": lambda: plain_maps(q, k) @ v,
        "fused": lambda: F.scaled_dot_product_attention(q, k, v),
        "mix only": lambda: mix(plain_maps(q, k)) @ v,
        "kernel only": lambda: convolve(plain_maps(q, k), kernels) @ v,
        "locally": lambda: attend_locally(plain_maps(q, k), v, kernels),
        "linear": lambda: linear(plain_maps(q, k)) @ v,
        "official": lambda: official(plain_maps(q, k)) @ v,
    }


def macs(way):
    """Multiply-adds over those of plain attention, which are 2 H N^2 d; each way's further ones are so many a map entry."""
    extra = {"mix only": 6 * HEADS**2 + 3 * HEADS, "kernel only": 9 * HEADS, "locally": 2 * HEADS * WIDTH, "linear": 6 * HEADS**2 + 27 * HEADS}
    return 1 + extra.get("linear" if way == "official" else way, 0) / (2 * HEADS * WIDTH)


def timed(made, repeats):
    """Seconds of each way at each repeat."""
    seconds, order = {way: [] for way in made}, random.Random(0)
    for repeat in range(repeats + WARM_UP):
        for way in order.sample(list(made), len(made)):
            began = process_time()
            made[way]()
            if repeat >= WARM_UP:
                seconds[way].append(process_time() - began)
    return seconds


def differences(tokens=TOKENS[-1]):
    q, k, v = torch.randn(3, 1, HEADS, tokens, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    refiner = MapRefiner(HEADS, kappa=1, generator=torch.Generator().manual_seed(1)).double()
    maps, kernels = plain_maps(q, k), refiner.local.weight[:, 0].detach()
    apart = lambda one, other: ((one - other).abs().max() / other.abs().max()).item()  # noqa: E731
    half = [x.float() for x in (maps, v, kernels)]
    mixed = mix_heads(maps, refiner.expand.weight[..., 0, 0].detach())
    return {
        "float64": apart(convolve(maps, kernels) @ v, attend_locally(maps, v, kernels)),
        "float32": apart(convolve(half[0], half[2]) @ half[1], attend_locally(*half)),
        "with ReLU6": apart(convolve(F.relu6(mixed), kernels) @ v, attend_locally(mixed, v, kernels)),
    }


@torch.no_grad()
def measure(repeats):
    torch.set_num_threads(1)
    rows = []
    for tokens in TOKENS:
        made = ways(tokens)
        seconds = timed(made, repeats)
        for way, call in made.items():
            peak = peak_bytes(call)
            ratio = statistics.median(one / plain for one, plain in zip(seconds[way], seconds["plain"], strict=True))
            rows.append({
                "tokens": tokens, "way": way, "ms": 1e3 * statistics.median(seconds[way]), "time_over_plain": ratio, "macs_over_plain": macs(way),
                "peak_mb": None if peak is None else peak / 2**20,
            })  # fmt: skip
    return {"repeats": repeats, "rows": rows} | {f"difference, {name}": value for name, value in differences().items()}


def table(result):
    print(f"attention of {HEADS} heads of {WIDTH} channels, one picture, one thread, median of {result['repeats']}")
    print(f"{'tokens':>6}  {'way':<12}{'ms':>10}{'time over plain':>18}{'multiply-adds':>16}{'peak MB':>10}")
    for row in result["rows"]:
        peak = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.1f}"
        print(f"{row['tokens']:6}  {row['way']:<12}{row['ms']:10.3g}{row['time_over_plain']:18.2f}{row['macs_over_plain']:16.2f}{peak:>10}")
    for name in ("float64", "float32", "with ReLU6"):
        print(f"convolving maps against averaging values, {name}: {result[f'difference, {name}']:.1e} of the largest entry")


if __name__ == "__main__":
    start(__doc__, measure, table)
