"""Pages 16 and 17: networks of equal size learn the same pictures in the same order, and are asked the same: how often they are right, by the size of the
thing and under corruption, and whether their tokens group as the things do.

A case is data, an architecture, a training recipe and a seed. Two architectures of a seed differ in nothing else: pictures, their order, how far each is
moved and the number of steps are the same. Recipe "none" is the untrained network.
"""

import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from ..datasets.corruptions import KINDS, SEVERITIES, corrupt
from ..measures import recognition, robustness
from ..measures.recognition import BINS, DATA
from ..methods.fully_attentional import FAN
from ..methods.shunted_attention import macs, parameters
from ..models import backbones
from .runner import Study, has_columns, known

__all__ = ["ARCHITECTURES", "SEEDS", "STUDY", "errors", "rows"]

SEEDS, LEARNED, CORRUPTED, GROUPED = 5, 2000, 400, 100
ARCHITECTURES = {
    "scenes 32": tuple(backbones.NAMES[32]),
    "digits": ("ViT", "ViT, depthwise", "CNN", "FAN", "FAN, no gate", "FAN, mean gate", "FAN, plain MLP"),
    "scenes 64": tuple(backbones.NAMES[64]),
}
UNTRAINED = {"scenes 32": ("ViT", "CNN", "FAN"), "scenes 64": ("shunted",)}
SIZES = tuple(f"size_{k}" for k in range(1, BINS + 1))
GROUPS = tuple(f"ari_{severity}" for severity in SEVERITIES)
GATES = ("gate_low", "gate_high", "gate_spread", "accuracy_mean_gate")
WORSE = tuple(f"{kind}_{severity}" for kind in KINDS for severity in SEVERITIES[1:])


def cases() -> list[dict]:
    """In an order in which a part of them is already of use, and in which what one seed sees is drawn once."""
    found = []
    for data, names in ARCHITECTURES.items():
        for seed in range(SEEDS):
            found += [dict(data=data, architecture=name, recipe="plain", seed=seed) for name in names]
            found += [dict(data=data, architecture=name, recipe="none", seed=seed) for name in UNTRAINED.get(data, ())]
    return found


@lru_cache(maxsize=1)
def _data(name: str, seed: int) -> recognition.Data:
    return recognition.pictures(name, seed=seed)


def measure(case: dict) -> dict:
    """Accuracies in %: on all test pictures, on LEARNED pictures, by fifths of sizes, on CORRUPTED test pictures as they are (clean) and by kind and severity.
    Adjusted Rand indices of GROUPED pictures by severity of noise; costs; of gates over T the extremes, their spread over pictures, and the accuracy when
    each is its mean over pictures learned from."""
    data = _data(case["data"], case["seed"])
    size = DATA[data.name]["size"]
    model = backbones.make(case["architecture"], size=size, classes=len(data.classes), seed=case["seed"])
    started = time.process_time()
    recognition.fit(model, data, seed=case["seed"], steps=0 if case["recipe"] == "none" else None)
    found = dict(train_seconds=time.process_time() - started, parameters=parameters(model), macs=macs(model.body, size))
    test, some = data.test, slice(0, CORRUPTED)
    right = recognition.predict(model, test.images) == test.labels
    found |= dict(accuracy=_percent(right), learned=_percent(recognition.predict(model, data.train.images[:LEARNED]) == data.train.labels[:LEARNED]))
    found |= dict(zip(SIZES, recognition.by_size(right, test.sides).tolist(), strict=True))
    errors = robustness.errors_under(lambda images: recognition.predict(model, images), test.images[some], test.labels[some])
    found["clean"] = 100 * float(1 - errors.clean[0])
    found |= {f"{kind}_{severity}": 100 * (1 - error) for kind in KINDS for severity, error in zip(SEVERITIES[1:], errors.corrupted[kind][0], strict=True)}
    for severity, column in enumerate(GROUPS):
        noisy = corrupt(test.images[:GROUPED], "noise", severity)
        found[column] = float(np.nanmean(recognition.grouping(model, noisy, test.masks[:GROUPED])))
    return found | _gates(model, data)


def _percent(right) -> float:
    return 100 * float(right.double().mean())


@torch.no_grad()
def _gates(model: backbones.Backbone, data: recognition.Data) -> dict:
    """The smallest, the largest and the mean spread over pictures of gates over T, and the accuracy when each is its mean over pictures learned from."""
    found = dict.fromkeys(GATES, np.nan)
    if not isinstance(model.body, FAN) or model.body.blocks[0].channel.channel not in ("eca", "se") or model.body.blocks[0].channel.mean_gate is not None:
        return found
    gates = model.of("gates", data.test.images[:CORRUPTED]) / torch.stack([block.channel.temperature for block in model.body.blocks])[..., None]
    found |= dict(gate_low=float(gates.min()), gate_high=float(gates.max()), gate_spread=float(gates.std(0).mean()))
    same = backbones.Backbone(model.of("with_mean_gates", data.train.images[:LEARNED]), model.size).eval()
    return found | dict(accuracy_mean_gate=_percent(recognition.predict(same, data.test.images) == data.test.labels))


_LOOSE = (
    dict.fromkeys(("accuracy", "learned", "clean", "accuracy_mean_gate"), 4.0)
    | dict.fromkeys(SIZES, 6.0)
    | dict.fromkeys(WORSE, 10.0)
    | dict.fromkeys(GROUPS, 0.1)
)
TOLERANCE = dict(parameters=0, macs=0, train_seconds=None) | _LOOSE | dict(gate_low=0.1, gate_high=0.1, gate_spread=0.02)
STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, reaches=(backbones.NAMES, recognition.RECIPES), sample_seconds=20)


# ------------------------------------------------------------------------------------------------------------------- reading the table


def rows(table, data: str, architecture: str, *, recipe: str = "plain"):
    """The rows of one network, a row a seed, in the order of seeds. Raises ValueError for what the table does not have."""
    table = has_columns(table, ("data", "architecture", "recipe", "seed", "accuracy"))
    some = table[(table.data == known("data", data, table.data)) & (table.recipe == known("recipe", recipe, table.recipe))]
    return some[some.architecture == known("architecture", architecture, some.architecture)].sort_values("seed", ignore_index=True)


def errors(table, data: str, architecture: str, *, kinds: Sequence[str] = KINDS, recipe: str = "plain") -> robustness.Errors:
    """A network's errors by seed, of the same CORRUPTED test pictures clean and corrupted, for `robustness.summary`."""
    some = rows(table, data, architecture, recipe=recipe)
    kinds = [known("kinds", kind, KINDS) for kind in kinds]
    worse = {kind: 1 - some[[f"{kind}_{severity}" for severity in SEVERITIES[1:]]].to_numpy() / 100 for kind in kinds}
    return robustness.Errors(1 - some.clean.to_numpy() / 100, worse)
