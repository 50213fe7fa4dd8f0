"""What DIFT saves: the early exit, matching without upsampling, and label propagation in windows.

    python -m tests.benchmarks.diffusion_features [--json]

Extraction: features of one image with eight noises at up-block 1 against the same with the whole U-Net, and against one call of the whole
pipeline that generates an image (30 steps, guidance). On the trained toy-sd when it is there, else on random weights of the same size.
Matching: 64 points of one image in ten others (64 channels at 16 x 16, images of 128 x 128) against upsampling each target's map and taking
the cosines point by point (timed on two of the ten); the same again with the points in one product.
Label propagation: the second frame of a video (64 channels, four labels, window 4) against one affinity between all cells; memory is the
process's own peak, where Linux tells it.
All on one thread, in turns in one process; medians.
"""

import math
import statistics
import sys
from pathlib import Path
from time import perf_counter

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.methods.diffusion_features import dift, match, propagate_labels
from helpers.models import zoo
from helpers.recipes import toy_sd
from tests.benchmarks._script import peak_bytes, start

ENSEMBLE, BLOCK, T = 8, 1, 20
POINTS, TARGETS, SIZE = 64, 10, (128, 128)
SIDES, WINDOW = (16, 24, 32, 48, 64, 96), 4


def pipeline():
    """(pipeline, what it is)."""
    if (zoo.MODELS / "toy-sd" / "model_index.json").exists():
        return zoo.load("toy-sd"), "toy-sd"
    torch.manual_seed(0)
    pipe = toy_sd.assemble(toy_sd.make_vae(), toy_sd.TextToImage(len(toy_sd.make_tokenizer())))
    pipe.vae.float(), pipe.unet.float()
    pipe.set_progress_bar_config(disable=True)
    return pipe, "random weights of the same size"


def timed(function, *args, **options):
    start = perf_counter()
    function(*args, **options)
    return perf_counter() - start


def in_turns(functions, repeats):
    """Median seconds of each function; they take turns, so that a slow moment of the machine meets all alike."""
    seconds = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(timed(function))
    return {name: statistics.median(values) for name, values in seconds.items()}


def extraction(repeats):
    pipe, model = pipeline()
    image = torch.rand(1, 3, toy_sd.SIZE, toy_sd.SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(ENSEMBLE, 4, toy_sd.LATENT, toy_sd.LATENT, generator=torch.Generator().manual_seed(1))

    def features():
        dift(pipe, image, "a photo of a cat", t=T, n=BLOCK, ensemble=ENSEMBLE, noise=noise, latent="mean")

    @torch.no_grad()
    def whole():
        """What a hook without early exit costs."""
        latents = pipe.vae.encode(image).latent_dist.mean * pipe.vae.config.scaling_factor
        x = pipe.scheduler.add_noise(latents.expand(ENSEMBLE, -1, -1, -1), noise, torch.full((ENSEMBLE,), T))
        text = pipe.encode_prompt(["a photo of a cat"], "cpu", 1, False)[0].expand(ENSEMBLE, -1, -1)
        kept = []
        handle = pipe.unet.up_blocks[BLOCK].register_forward_hook(lambda module, args, out: kept.append(out.mean(0)))
        pipe.unet(x, T, text)
        handle.remove()

    def call():
        pipe("a photo of a cat", num_inference_steps=30, guidance_scale=3.0, height=toy_sd.SIZE, width=toy_sd.SIZE, output_type="pt")

    seconds = in_turns({"features": features, "whole": whole}, repeats)
    seconds["call"] = statistics.median(timed(call) for _ in range(max(1, repeats // 5)))
    return {
        "model": model,
        "ms_features": 1e3 * seconds["features"],
        "early_exit_speedup": seconds["whole"] / seconds["features"],
        "pipeline_call_ratio": seconds["call"] / seconds["features"],
    }


def point_by_point(source, targets, points):
    """Upsamples each target once, and takes the cosines of one point at a time, as the official evaluation does."""
    large = F.interpolate(source[None], size=SIZE, mode="bilinear")[0]
    found = []
    for target in targets:
        there = F.interpolate(target[None], size=SIZE, mode="bilinear")[0]
        for x, y in points.tolist():
            place = int(F.cosine_similarity(large[:, y, x, None, None], there, dim=0).argmax())
            found.append((place % SIZE[1], place // SIZE[1]))
    return torch.tensor(found).view(len(targets), -1, 2)


def all_points(source, targets, points):
    """Upsamples each target and multiplies it with all points at once."""
    wanted = F.normalize(F.interpolate(source[None], size=SIZE, mode="bilinear")[0][:, points[:, 1], points[:, 0]], dim=0).T
    return [(wanted @ F.normalize(F.interpolate(target[None], size=SIZE, mode="bilinear")[0], dim=0).flatten(1)).argmax(1) for target in targets]


def matching(repeats):
    generator = torch.Generator().manual_seed(2)
    source, targets = torch.randn(64, 16, 16, generator=generator), torch.randn(TARGETS, 64, 16, 16, generator=generator)
    points = torch.randint(SIZE[0], (POINTS, 2), generator=generator)

    def ours():
        return match(source, targets, points, source_size=SIZE, target_size=SIZE)

    start = perf_counter()
    wanted = point_by_point(source, targets[:2], points)
    slow = (perf_counter() - start) * TARGETS / 2
    agree = (ours().points[:2] == wanted).all(-1).float().mean()
    fast = in_turns({"ours": ours, "product": lambda: all_points(source, targets, points)}, repeats)
    return {
        "matching_ms": 1e3 * fast["ours"],
        "matching_speedup": slow / fast["ours"],
        "matching_speedup_over_product": fast["product"] / fast["ours"],
        "matching_agreement": float(agree),
    }


def dense(features, first, *, window, top_k=15, temperature=0.2):
    """One step of label propagation with the whole affinity and mask of all cells in memory."""
    h, w = first.shape[1:]
    f, g = F.normalize(features, dim=1).flatten(2)
    y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
    mask = ((y[:, None] - y).abs() <= window) & ((x[:, None] - x).abs() <= window)
    weights = (g.T @ f / temperature).exp() * mask
    weights = weights * (weights >= weights.topk(top_k, dim=1).values[:, -1:])
    return (first.flatten(1) @ (weights / weights.sum(1, keepdim=True)).T).view_as(first)


def labels(repeats):
    rows = []
    for side in SIDES:
        generator = torch.Generator().manual_seed(side)
        features, first = torch.randn(2, 64, side, side, generator=generator), torch.rand(4, side, side, generator=generator)

        def windowed(features=features, first=first):
            return propagate_labels(features, first, window=WINDOW)

        def whole(features=features, first=first):
            return dense(features, first, window=WINDOW)

        memory, found = {}, {}
        for name, function in (("windowed", lambda: windowed()[1]), ("dense", whole)):
            taken = peak_bytes(lambda: found.update({name: function()}))  # noqa: B023
            memory[name] = None if taken is None else taken / 2**20
        assert torch.allclose(found["windowed"], found["dense"], atol=1e-5)
        few = max(1, repeats // (side // 16) ** 2)  # the dense form at 96 x 96 takes seconds
        seconds = {"windowed": statistics.median(timed(windowed) for _ in range(repeats)), "dense": statistics.median(timed(whole) for _ in range(few))}
        rows.append({"side": side, "ms_windowed": 1e3 * seconds["windowed"], "ms_dense": 1e3 * seconds["dense"],
                     "mb_windowed": memory["windowed"], "mb_dense": memory["dense"]})  # fmt: skip
    return {
        "labelprop_growth_exponent": exponent(rows, "ms_windowed"),
        "labelprop_growth_exponent_dense": exponent(rows, "ms_dense"),
        "labelprop_speedup_at_96": rows[-1]["ms_dense"] / rows[-1]["ms_windowed"],
        "labelprop": rows,
    }


def exponent(rows, key):
    """Slope of log time over log pixels, least squares."""
    x, y = [math.log(row["side"] ** 2) for row in rows], [math.log(row[key]) for row in rows]
    return statistics.linear_regression(x, y).slope


def measure(repeats):
    torch.set_num_threads(1)
    return {"repeats": repeats, **extraction(repeats), **matching(repeats), **labels(repeats)}


def table(result):
    print(f"{result['model']}, one thread, median of {result['repeats']}")
    print(f"features at block {BLOCK}, {ENSEMBLE} noises: {result['ms_features']:.1f} ms; the whole U-Net takes {result['early_exit_speedup']:.2f} x as long,")
    print(f"a call of the pipeline {result['pipeline_call_ratio']:.1f} x")
    print(f"matching {POINTS} points in {TARGETS} images: {result['matching_ms']:.1f} ms, {result['matching_speedup']:.1f} x faster than point by point,")
    print(f"{result['matching_speedup_over_product']:.2f} x than upsampling and one product; {result['matching_agreement']:.1%} the same pixel")
    print(f"label propagation: time grows as pixels ^ {result['labelprop_growth_exponent']:.2f} (dense: {result['labelprop_growth_exponent_dense']:.2f})")
    print(f"{'side':>6}{'ms':>10}{'ms dense':>12}{'MB':>10}{'MB dense':>12}")
    for row in result["labelprop"]:
        memory = ["-" if row[key] is None else f"{row[key]:.1f}" for key in ("mb_windowed", "mb_dense")]
        print(f"{row['side']:6d}{row['ms_windowed']:10.1f}{row['ms_dense']:12.1f}{memory[0]:>10}{memory[1]:>12}")


if __name__ == "__main__":
    start(__doc__, measure, table)
