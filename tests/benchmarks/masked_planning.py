"""What the two asymmetries of masked planning save: seconds and peak memory of the four corners, beside the ratios of the paper's table 3.

    python tests/benchmarks/masked_planning.py [--json] [--repeats 3]

Timed is one call of the pipeline: a planner of 6.3 M parameters runs once, a generator of 0.9 M ten times, on one clip of 5, 9, 13 and 17 frames of
32 x 32 latents (256 tokens a frame), random weights, the first frame known. attention: "asymmetric" is the generator that mixes frames place by place
(T), "symmetric" the one that mixes all tokens (ST) as the planner does. resolution: "asymmetric" is a planner that sees 8 x 8 latents (64 tokens a frame),
"symmetric" one that sees what the generator sees. plan_cache_gain: how many times as long ten denoising steps take when every step
reads the plan anew. On one thread, in turns in one process; medians.
"""

import itertools
import statistics
import sys
from pathlib import Path
from time import perf_counter

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.methods import masked_planning as mp
from tests.benchmarks._script import peak_bytes, start

FRAMES, SIDE, STEPS = (5, 9, 13, 17), 32, 10
# table 3, one A100, 25 steps, 512 x 512: seconds and GB by frames, attention, resolution (None: out of memory)
PUBLISHED = {
    (9, "symmetric", "symmetric"): (25.09, 74.44), (9, "symmetric", "asymmetric"): (17.91, 41.03), (13, "symmetric", "symmetric"): None,
    (13, "symmetric", "asymmetric"): (34.58, 62.51), (13, "asymmetric", "symmetric"): None, (13, "asymmetric", "asymmetric"): (6.05, 42.57),
}  # fmt: skip


def corner(attention, resolution):
    """The pipeline of one corner; the same weights where shapes are the same."""
    torch.manual_seed(0)
    low = dict(height=8, width=8, patch=1) if resolution == "asymmetric" else dict(height=SIDE, width=SIDE, patch=2)
    planner = mp.Planner(frames=max(FRAMES), dim=256, depth=8, heads=8, mlp_dim=512, **low)
    tokens = (low["height"] // low["patch"]) ** 2
    generator = mp.Generator(height=SIDE, width=SIDE, frames=max(FRAMES), dim=96, depth=3, heads=4, mlp_dim=192, plan_dim=256, plan_tokens=tokens,
                             mixer="temporal" if attention == "asymmetric" else "space-time")  # fmt: skip
    return mp.MarDiniPipeline(planner.eval(), generator.eval(), mp.make_scheduler())


def clip(frames):
    return torch.randn(1, frames, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(frames)), mp.references("image-to-video", frames)


def seconds_of(function):
    began = perf_counter()
    function()
    return perf_counter() - began


def corners(repeats):
    kinds = ("symmetric", "asymmetric")
    pipes = {kind: corner(*kind) for kind in itertools.product(kinds, kinds)}
    rows = []
    for frames in FRAMES:
        video, known = clip(frames)
        noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(1))
        calls = {kind: lambda pipe=pipe: pipe(video, known, num_inference_steps=STEPS, noise=noise) for kind, pipe in pipes.items()}  # noqa: B023
        memory = {kind: peak_bytes(call) for kind, call in calls.items()}
        taken = {kind: [] for kind in calls}
        for _ in range(repeats):
            for kind, call in calls.items():
                taken[kind].append(seconds_of(call))
        rows += [{"frames": frames, "attention": kind[0], "resolution": kind[1], "seconds": statistics.median(taken[kind]), "peak_bytes": memory[kind]}
                 for kind in calls]  # fmt: skip
    return rows


@torch.no_grad()
def cache_gain(repeats):
    pipe = corner("asymmetric", "asymmetric")
    video, known = clip(9)
    plan = pipe.make_plan(video, known)
    generator, once = pipe.generator, pipe.generator.read_plan(plan)

    def steps(given):
        return [generator(video, t, known, given) for t in range(STEPS)]

    assert all(torch.equal(a, b) for a, b in zip(steps(plan), steps(once), strict=True))
    taken = [(seconds_of(lambda: steps(plan)), seconds_of(lambda: steps(once))) for _ in range(max(3, repeats))]
    return statistics.median(t[0] for t in taken) / statistics.median(t[1] for t in taken)


def measure(repeats):
    torch.set_num_threads(1)
    rows = corners(repeats)
    found = {(row["frames"], row["attention"], row["resolution"]): row for row in rows}

    def ratio(over, under, frames):
        return found[frames, *over]["seconds"] / found[frames, *under]["seconds"]

    def published(over, under, frames):
        return PUBLISHED[frames, *over][0] / PUBLISHED[frames, *under][0]

    neither, low, both = ("symmetric", "symmetric"), ("symmetric", "asymmetric"), ("asymmetric", "asymmetric")
    return {
        "repeats": repeats, "rows": rows, "plan_cache_gain": cache_gain(repeats), "resolution_share_at_9": ratio(low, neither, 9),
        "resolution_share_at_9_published": published(low, neither, 9), "attention_share_at_13": ratio(both, low, 13),
        "attention_share_at_13_published": published(both, low, 13),
    }  # fmt: skip


def table(result):
    print(f"{STEPS} steps, {SIDE} x {SIDE} latents, one thread, median of {result['repeats']}; published: one A100, 25 steps, 512 x 512 px")
    print(f"{'frames':>6} {'attention':>11} {'resolution':>11} {'seconds':>8} {'peak MB':>8}   published")
    for row in result["rows"]:
        key = (row["frames"], row["attention"], row["resolution"])
        there = "-" if key not in PUBLISHED else "out of memory" if PUBLISHED[key] is None else "{:.2f} s, {:.1f} GB".format(*PUBLISHED[key])
        memory = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
        print(f"{key[0]:>6} {key[1]:>11} {key[2]:>11} {row['seconds']:>8.2f} {memory:>8}   {there}")
    for name, text in (("resolution_share_at_9", "low-resolution planner, 9 frames"), ("attention_share_at_13", "T for ST, 13 frames")):
        print(f"{text}: {result[name]:.2f} of the time; published {result[name + '_published']:.2f}")
    print(f"a plan read at every step instead of once: {result['plan_cache_gain']:.2f} x as long")


if __name__ == "__main__":
    start(__doc__, measure, table, repeats=3)
