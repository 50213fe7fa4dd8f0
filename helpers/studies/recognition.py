"""Page 16: eight small networks learn which creature stands in a scene of 32 px, five trainings each, and are asked what they see, group and keep. Five of
them learn MNIST's digits too.

A case is pictures, a network of `backbones`, a recipe and a seed. The seed draws the scenes that are learned from, their order and the start; tests are the
same for all, those of `measures.recognition`: the first 1,000 are asked again under twelve corruptions, and the first 200 for the groups that their tokens
make. So networks are compared in pairs, seed by seed. The recipe "untrained" leaves a network as it starts.
"""

import time
from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from ..datasets.corruptions import KINDS, SEVERITIES, corrupt
from ..measures import recognition as bench
from ..measures.robustness import Errors, errors_under, stack
from ..methods.shunted_attention import macs, parameters
from ..models import backbones
from .runner import Study, has_columns, known

__all__ = ["ASKED", "GROUPED", "SEEDS", "STUDY", "TOLERANCE", "UNTRAINED", "errors", "measure", "rows"]

SEEDS = 5
ASKED, GROUPED = 1000, 200  # test pictures, the first so many, that are corrupted, and whose tokens are clustered
UNTRAINED = ("ViT", "CNN", "FAN")
ON_DIGITS = ("ViT", "CNN", "FAN", "FAN, no gate", "FAN, mean gate")


def cases_of(data: str, trained, untrained) -> list[dict]:
    """Seed by seed, so that a part of them is already of use."""
    pairs = [("plain", name) for name in trained] + [("untrained", name) for name in untrained]
    return [dict(data=data, architecture=name, recipe=recipe, seed=seed) for seed in range(SEEDS) for recipe, name in pairs]


def cases() -> list[dict]:
    return cases_of("scenes 32", backbones.NAMES[32], UNTRAINED) + cases_of("digits", ON_DIGITS, ())


@lru_cache(maxsize=1)
def pictures(data: str, seed: int) -> bench.Data:
    return bench.pictures(data, seed=seed)


def column(kind: str, severity: int) -> str:
    return f"{kind}_{severity}"


def measure(case: dict) -> dict:
    """Accuracies in %: of the test pictures, of as many of those learned from (`learned`), by fifths of sizes (`size_1`, the smallest), of the ASKED first
    (`asked`) and these under each corruption (`noise_1` and so on). `ari_0` to `ari_5`: how well tokens group, at severities of noise. Of FANs with a gate:
    the smallest and largest, the mean over channels of their deviation from picture to picture (`gate_spread`), and the accuracy with each gate's mean
    (0 for other networks). Parameters, multiply-adds of one picture, and seconds of training."""
    data = pictures(case["data"], case["seed"])
    model = backbones.make(case["architecture"], size=data.test.images.shape[-1], classes=len(data.classes), seed=case["seed"]).eval()
    begun = time.process_time()
    if case["recipe"] != "untrained":
        bench.fit(model, data, seed=case["seed"], recipe=case["recipe"])
    seconds = time.process_time() - begun
    test, train = data.test, data.train
    right = bench.predict(model, test.images) == test.labels
    learned = bench.predict(model, train.images[: len(test)]) == train.labels[: len(test)]
    found = dict(accuracy=_percent(right), learned=_percent(learned), asked=_percent(right[:ASKED]))
    found |= {f"size_{i}": float(share) for i, share in enumerate(bench.by_size(right, test.sides), 1)}
    worse = errors_under(lambda images: bench.predict(model, images), test.images[:ASKED], test.labels[:ASKED])
    found |= {column(kind, s): 100 * (1 - worse.corrupted[kind][0, s - 1]) for kind in KINDS for s in SEVERITIES[1:]}
    for severity in SEVERITIES:
        noisy = corrupt(test.images[:GROUPED], "noise", severity)
        found[f"ari_{severity}"] = float(np.nanmean(bench.grouping(model, noisy, test.masks[:GROUPED])))
    return found | _gates(model, data) | dict(parameters=parameters(model), macs=macs(model), train_seconds=seconds)


def _percent(right: torch.Tensor) -> float:
    return 100 * float(right.double().mean())


@torch.no_grad()
def _gates(model: backbones.Backbone, data: bench.Data) -> dict:
    try:
        gates = torch.cat([model.of("gates", images) for images in data.test.images.split(250)])  # (N, depth, heads, d)
    except ValueError:  # the network has none
        return dict(gate_low=0.0, gate_high=0.0, gate_spread=0.0, accuracy_mean_gate=0.0)
    still = model.of("with_mean_gates", data.train.images[: len(data.test)])
    right = bench.predict(still, data.test.images) == data.test.labels
    return dict(gate_low=float(gates.min()), gate_high=float(gates.max()), gate_spread=float(gates.std(0).mean()), accuracy_mean_gate=_percent(right))


SIZES, ARIS = tuple(f"size_{i + 1}" for i in range(bench.BINS)), tuple(f"ari_{s}" for s in SEVERITIES)
WORSE = tuple(column(kind, s) for kind in KINDS for s in SEVERITIES[1:])
TOLERANCE = dict(accuracy=3.0, learned=3.0, asked=4.0) | dict.fromkeys(SIZES, 6.0) | dict.fromkeys(WORSE, 12.0) | dict.fromkeys(ARIS, 0.1)
TOLERANCE |= dict(gate_low=0.03, gate_high=0.05, gate_spread=0.01, accuracy_mean_gate=12.0, parameters=0, macs=0, train_seconds=None)
STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, sample_seconds=10)


# ------------------------------------------------------------------------------------------------------------------- reading the table


def rows(table: pd.DataFrame, architecture: str, *, data: str = "scenes 32", recipe: str = "plain") -> pd.DataFrame:
    """A network's rows, one a seed, in the order of the seeds, which is their index. Raises ValueError for what the table has not."""
    has_columns(table, ("data", "architecture", "recipe", "seed"))
    some = table
    for name, value in (("data", data), ("architecture", architecture), ("recipe", recipe)):
        known(name, value, some[name])
        some = some[some[name] == value]
    if some.seed.duplicated().any():
        raise ValueError(f"table must hold {architecture} once a seed, got the seeds {', '.join(map(str, some.seed))}")
    return some.set_index("seed").sort_index()


def errors(table: pd.DataFrame, architecture: str, *, data: str = "scenes 32", recipe: str = "plain") -> Errors:
    """A network's errors on the pictures that were corrupted, one training a seed. Raises as `rows` does."""
    has_columns(table, ("asked", *WORSE))
    some = rows(table, architecture, data=data, recipe=recipe)
    return stack([Errors(1 - row.asked / 100, {k: [1 - row[column(k, s)] / 100 for s in SEVERITIES[1:]] for k in KINDS}) for _, row in some.iterrows()])
