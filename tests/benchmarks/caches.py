"""AdaCache beside every cache that diffusers ships: the same models, prompts and seeds, in the same run.

    python tests/benchmarks/caches.py [--json] [--prompts 10] [--repeats 1] [--quick] [--model toy-latte]

For every method and every value of its knob: work (operations as full calls of the transformer), seconds of the denoising loop, likeness to
the uncached clip of the same prompt and seed (PSNR, SSIM), and the share of clips that show what their prompt says. Prompts are held out of
training; thresholds come from other prompts. Text encoder and decoder are in no number: no cache can help there.

A turn is one prompt: the uncached loop first, then every row, so that a slow moment of the machine meets all alike. Seconds are processor
time on one thread, `speedup` is the median over turns of uncached / own seconds of the same turn. Operations are counted on one clip,
separately for calls at which the middle block ran and for the others; on all clips these calls are counted.

PSNR beyond 60 dB counts as 60: in 8 bits such clips are equal. The summary takes the curve of each method over its knob and asks for its PSNR
at 1.5, 2 and 3 times less work (and less time). `front`: the best method there and those that are not clearly worse, their deficit over
the clips being less than two standard errors.
"""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean, median
from time import process_time

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from helpers.measures import caches, metrics
from helpers.recipes import toy_latte
from helpers.toyworld import analysers

TARGETS = (1.5, 2.0, 3.0)
PSNR_CAP = 60.0
CALIBRATION_PROMPTS = 8


def calibration_prompts(count=CALIBRATION_PROMPTS):
    """Prompts of every kind in turn, none of them held out."""
    kinds = [[p for p in toy_latte.prompts(kind, 3 * count, seed=11) if not toy_latte.held_out(p)] for kind in toy_latte.PROMPT_KINDS]
    return [prompt for row in zip(*kinds) for prompt in row][:count]


class Row:
    """One method at one value of its knob, filled prompt by prompt."""

    def __init__(self, bench, method=None, knob=None):
        self.bench, self.method, self.knob = bench, method, knob
        self.name = method.name if method else "uncached"
        self.seconds, self.speedups, self.psnr, self.ssim, self.clips, self.work, self.flops = [], [], [], [], [], [], []

    def enable(self):
        return self.method.enable(self.bench, self.knob) if self.method else nullcontext()

    def count(self, prompts):
        """Mean share of a full call's operations where the middle block ran, and where it did not, from the first clip that has both."""
        self.share = {True: 1.0, False: 0.0}
        for seed, prompt in enumerate(prompts):
            with self.enable():
                run = caches.record(self.bench, prompt, seed, method=self.name, knob=self.knob)
            for ran in set(run.executed):
                self.share[ran] = fmean(work for work, executed in zip(run.work, run.executed, strict=True) if executed == ran)
            if len(set(run.executed)) == 2 or not self.method or self.method.level != "stack":
                return

    def turn(self, text, seed, repeats, reference=None):
        """Denoise, time, decode and compare; reference: the uncached row, whose newest clip and seconds are of this turn."""
        times = []
        with self.enable():
            for _ in range(repeats):
                started = process_time()
                latents = self.bench.denoise(text, seed)
                times.append(process_time() - started)
        clip = self.bench.decode(latents)
        self.work.append(sum(self.share[ran] for ran in self.bench.executed))
        self.flops.append(self.work[-1] * self.bench.full_flops(text))
        self.seconds.append(median(times))
        self.clips.append(clip)
        if reference is not None:
            self.speedups.append(reference.seconds[-1] / self.seconds[-1])
            self.psnr.append(min(PSNR_CAP, metrics.psnr(clip, reference.clips[-1])))
            self.ssim.append(metrics.ssim(clip, reference.clips[-1]))

    def result(self, prompts):
        """The row as plain numbers. Raises NothingSkipped for a cache that saved nothing on any clip."""
        computed, full = fmean(self.work), self.bench.num_calls
        if self.method and computed >= 0.99 * full:
            raise caches.NothingSkipped(f"{self.name} with {self.method.knob} {self.knob} skipped nothing on {self.bench.name}")
        row = {"model": self.bench.name, "method": self.name, "knob": self.knob, "computed_calls": computed, "flops": fmean(self.flops)}
        row |= {"seconds": median(self.seconds), "speedup": median(self.speedups) if self.speedups else 1.0}
        row |= dict.fromkeys(("psnr", "psnr_worst", "ssim"))
        if self.psnr:
            row |= {"psnr": fmean(self.psnr), "psnr_worst": min(self.psnr), "ssim": fmean(self.ssim)}
        row["correct"] = float(analysers.judge(torch.stack(self.clips).clamp(0, 1), prompts).all.mean())
        row["skipped_something"] = computed < 0.99 * full
        return row


def run_model(name, prompts, repeats, quick):
    """All rows of one model."""
    bench = caches.load(name)
    caches.calibrate(bench, calibration_prompts(2 if quick else CALIBRATION_PROMPTS))
    uncached = Row(bench)
    rows = [Row(bench, method, knob) for method in caches.methods_for(name) for knob in sweep(method, name, quick)]
    for row in (uncached, *rows):
        row.count(prompts)
    for seed, prompt in enumerate(prompts):
        text = bench.encode(prompt)
        uncached.turn(text, seed, repeats)
        for row in rows:
            row.turn(text, seed, repeats, uncached)
    return [uncached, *rows]


def sweep(method, model, quick):
    values = method.values[model]
    return (values[0], values[-1]) if quick else values


def at_speed(rows, axis, target):
    """PSNR (clips,) of one method at a speed-up, between the two settings around it; its slowest setting where all are faster, None where none is."""
    points = sorted((fmean(row.speedups) if axis == "seconds" else row.bench.num_calls / fmean(row.work), i) for i, row in enumerate(rows))
    speeds, curves = [speed for speed, _ in points], np.array([rows[i].psnr for _, i in points])
    if speeds[-1] < target:
        return None
    return np.array([np.interp(target, speeds, clip) for clip in curves.T])


def summary(rows):
    """For each speed-up, by operations and by seconds: PSNR of every method, the best of them, and those not clearly worse."""
    entries = []
    methods = {}
    for row in rows:
        if row.method:
            methods.setdefault(row.name, []).append(row)
    for axis in ("flops", "seconds"):
        for target in TARGETS:
            found = {name: at_speed(own, axis, target) for name, own in methods.items()}
            reached = {name: psnr for name, psnr in found.items() if psnr is not None}
            entry = {"model": rows[0].bench.name, "axis": axis, "speedup": target, "psnr": {name: round(float(p.mean()), 2) for name, p in reached.items()}}
            if reached:
                best = max(reached, key=lambda name: reached[name].mean())
                front = [name for name, psnr in reached.items() if name == best or not clearly_worse(psnr, reached[best])]
                entry |= {"best": best, "front": front, "adacache_on_front": any(name in caches.ADACACHE for name in front)}
            entries.append(entry | {"out_of_reach": [name for name in found if name not in reached]})
    return entries


def clearly_worse(psnr, best):
    deficit = best - psnr
    error = deficit.std(ddof=1) / len(deficit) ** 0.5 if len(deficit) > 1 else 0.0
    return deficit.mean() > 2 * error


def measure(models, count, repeats, quick):
    torch.set_num_threads(1)
    prompts = toy_latte.held_out_prompts(count)
    results, pareto = [], []
    for name in models:
        rows = run_model(name, prompts, repeats, quick)
        results += [row.result(prompts) for row in rows]
        pareto += summary(rows)
    refused = [{"model": model, "method": m.name, "why": why} for m in caches.METHODS.values() for model, why in m.refuses.items() if model in models]
    return {"prompts": count, "repeats": repeats, "rows": results, "pareto": pareto, "refused": refused}


def show(result):
    print(f"{result['prompts']} held-out prompts, one thread, processor seconds of the denoising loop")
    columns = (("method", "24"), ("knob", "6"), ("computed_calls", "6.2f"), ("flops", "6.2f"), ("seconds", "8.3f"), ("speedup", "8.2f"), ("psnr", "7.2f"),
               ("psnr_worst", "7.2f"), ("ssim", "7.3f"), ("correct", "8.2f"))  # fmt: skip
    heads = dict(computed_calls="calls", flops="GFLOP", speedup="faster", psnr_worst="worst")
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        print(f"\n{model}")
        print("".join(f"{heads.get(name, name):{'<' if name == 'method' else '>'}{form.split('.')[0]}} " for name, form in columns))
        for row in result["rows"]:
            if row["model"] == model:
                cells = [(row[name] / 1e9 if name == "flops" else row[name], form) for name, form in columns]
                print(" ".join(f"{'-':>{form.split('.')[0]}}" if cell is None else f"{cell:{form}}" for cell, form in cells))
    print()
    for entry in result["pareto"]:
        if "best" in entry:
            print(f"{entry['model']}, {entry['speedup']:g} times less {'work' if entry['axis'] == 'flops' else 'time'}: {'; '.join(entry['front'])}")
    for entry in result["refused"]:
        print("{method} on {model}: {why}".format(**entry))


def main():
    parser = argparse.ArgumentParser(prog="python tests/benchmarks/caches.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--prompts", type=int, default=10, help="held-out prompts, one clip each")
    parser.add_argument("--repeats", type=int, default=1, help="times that every clip is denoised, for the seconds")
    parser.add_argument("--quick", action="store_true", help="one prompt, and of every sweep the two ends")
    parser.add_argument("--model", choices=caches.MODELS, help="one model only")
    options = parser.parse_args()
    count = 1 if options.quick else options.prompts
    if count < 1 or options.repeats < 1:
        parser.error("--prompts and --repeats must be at least 1")
    result = measure([options.model] if options.model else list(caches.MODELS), count, options.repeats, options.quick)
    print(json.dumps(result)) if options.json else show(result)


if __name__ == "__main__":
    main()
