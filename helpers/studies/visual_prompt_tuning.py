"""Page 09: how many prompts, in which blocks, at which place, and what the head reads; two tasks, 20 labels a class, five training sets each.

A case is a task and one way of prompting toy-vit-wide. As in the study `tuning`, whose pictures and protocol these are: the learning rate is chosen once, on a
fifth of the first training set; then five networks are trained, each on a training set of its own, and tested on 400 pictures of their own. All cases of a
task get the same sets, tests, orders of pictures and starts of the head, so ways are compared in pairs. No weight decay.
"""

from collections.abc import Mapping

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import choice
from ..measures import statistics, tuning
from ..measures.statistics import Estimate
from ..methods import visual_prompt_tuning as vpt
from .runner import Study, has_columns, known
from .tuning import ACCURACIES, BACKBONE, SEEDS, backbone, pictures

__all__ = [
    "BASE", "DEPTHS", "LABELS", "LAYERS", "LENGTHS", "LOCATIONS", "POOLINGS", "RATES", "STUDY", "TASKS", "accuracies", "attention", "chosen_length", "gain",
    "place", "rate", "train",
]  # fmt: skip

TASKS, LABELS, LAYERS = ("mnist", "category in noise"), 20, 6
LENGTHS, DEPTHS, POOLINGS = (1, 2, 4, 8, 16, 32), (1, 2, 4), ("patches", "prompts", "all")
LOCATIONS = ("add", "add-1", "prepend-pixel", "concat-channel", "pad")
RATES = tuning.METHODS["VPT-deep"].rates
LOOKED_AT = 64  # test pictures, of each seed, whose attention is measured
# eight prompts in front of every block; first, last: 0 for all blocks; pooling "model": the class token, as the model has it
BASE = dict(mode="deep", location="prepend", prompts=8, first=0, last=0, pooling="model", at_first="insert")


def ways() -> list[dict]:
    changes = [dict(mode=mode, prompts=length) for mode in ("deep", "shallow") for length in LENGTHS]
    changes += [{side: k} for side in ("first", "last") for k in DEPTHS] + [dict(mode="shared")]
    changes += [dict(last=2, at_first="replace")]  # the official slip: eight of sixteen patches are lost
    changes += [place(location) for location in LOCATIONS] + [dict(pooling=pooling) for pooling in POOLINGS]
    return [BASE | change for change in changes]


def place(location: str) -> dict:
    """Prompts at one of LOCATIONS, as a change of BASE: all come in once; 8 tokens of pixels, 1 channel, a border of 4 px; where vectors are added, no p."""
    return dict(location=location, mode="shallow", prompts={"prepend-pixel": 8, "concat-channel": 1, "pad": 4}.get(choice("location", location, LOCATIONS), 0))


def cases() -> list[dict]:
    return [dict(task=task) | way for way in ways() for task in TASKS]


def _prompted(way: Mapping, classes: int, seed: int) -> tuning.Tuned:
    """The backbone with a new head and prompts, ready to be trained."""
    bare = tuning.prepare(backbone(), "linear", classes=classes, seed=seed)
    prompts = vpt.add_prompts(
        bare.model, num_prompts=way["prompts"] or None, mode=way["mode"], location=way["location"], first=way["first"] or None, last=way["last"] or None,
        pooling=None if way["pooling"] == "model" else way["pooling"], at_first=way["at_first"], generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    trained = bare.trained | {f"added.0.{name}": p for name, p in prompts.named_parameters()}
    return tuning.Tuned("VPT-deep", classes, bare.model, [prompts], trained)


def train(way: Mapping, images: Tensor, labels: Tensor, *, classes: int, rate: float, seed: int = 0) -> tuning.Tuned:
    """Prompts and head trained on pictures (N, 3, S, S) in [0, 1] with labels (N,): AdamW, warm-up and half a cosine, the steps and batches of the bench."""
    tuned = _prompted(way, classes, seed)
    optimizer = torch.optim.AdamW(tuning.groups(tuned.trained, tuned.head, rate=rate), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: tuning.rate_factor(min(step, tuning.STEPS - 1), steps=tuning.STEPS))
    tuned.train()
    for rows in tuning.batches(len(labels), seed=seed):
        optimizer.zero_grad()
        F.cross_entropy(tuned.model(pixel_values=2 * images[rows] - 1).logits, labels[rows]).backward()
        optimizer.step()
        schedule.step()
    tuned.train(False)
    return tuned


def _attention(tuned: tuning.Tuned, images: Tensor) -> Tensor:
    """Percent of the class token's attention on prompts, in each block; 0 where there are none."""
    prompts = tuned.added[0]
    if not getattr(prompts, "num_prompts", 0) or prompts.location not in ("prepend", "prepend-pixel") or prompts.at_first == "replace":
        return torch.zeros(LAYERS)
    return 100 * vpt.class_attention(tuned.model, prompts, 2 * images - 1).to_prompts.sum(2).mean(0)


def measure(case: dict) -> dict:
    """Accuracies in % on the test pictures, one a seed; the rate that was chosen, and its accuracy on the held-out pictures; trained numbers without the head;
    the share of attention on prompts in %."""
    classes, (images, truth), _ = pictures(case["task"], LABELS, 0)
    rows, asked = tuning.held_out(truth, max(2, LABELS // 5), seed=0)
    tells = {}
    for rate in RATES:
        tried = train(case, images[rows], truth[rows], classes=classes, rate=rate)
        tells[rate] = tuning.accuracy(tried, images[asked], truth[asked])
    rate = max(RATES, key=tells.get)  # the first of equals: the smallest
    found, shares = {}, []
    for seed in range(SEEDS):
        _, learnt, test = pictures(case["task"], LABELS, seed)
        tuned = train(case, *learnt, classes=classes, rate=rate, seed=seed)
        found[ACCURACIES[seed]] = tuning.accuracy(tuned, *test)
        shares.append(_attention(tuned, test[0][:LOOKED_AT]))
    shares = torch.stack(shares).mean(0).tolist()
    costs = dict(rate=rate, validation=tells[rate], without_head=tuned.count_without_head)
    return found | costs | {f"attention_{layer + 1}": share for layer, share in enumerate(shares)}


TOLERANCE = dict.fromkeys(ACCURACIES, 5.0) | dict(rate=None, validation=None, without_head=0)
TOLERANCE |= {f"attention_{layer + 1}": (3.0, 0.2) for layer in range(LAYERS)}
STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, models=(BACKBONE,), sample_seconds=20)


# ------------------------------------------------------------------------------------------------------------------- reading the table


def _row(table: pd.DataFrame, task: str, way: Mapping) -> pd.Series:
    has_columns(table, ("task", *BASE, *ACCURACIES))
    known("task", task, table.task)
    if unknown := sorted(set(way) - set(BASE)):
        raise ValueError(f"way must be told by {', '.join(BASE)}, got {', '.join(unknown)}")
    rows = table[(table.task == task) & (table[list(BASE)] == pd.Series(BASE | dict(way))).all(axis=1)]
    if len(rows) != 1:
        raise ValueError(f"table must hold {BASE | dict(way)} on {task} once, got {len(rows)} rows")
    return rows.iloc[0]


def accuracies(table: pd.DataFrame, task: str, **way) -> list[float]:
    """Accuracies in %, one a seed, of one way (what differs from BASE) on one task. ValueError where the table does not hold it."""
    return [float(value) for value in _row(table, task, way)[list(ACCURACIES)]]


def attention(table: pd.DataFrame, task: str, **way) -> list[float]:
    """Percent of the class token's attention on prompts, a number a block. ValueError where the table does not hold it."""
    return [float(value) for value in _row(table, task, way)[[f"attention_{layer + 1}" for layer in range(LAYERS)]]]


def chosen_length(table: pd.DataFrame, task: str, **way) -> int:
    """The number of prompts, of LENGTHS, with the best accuracy on the held-out training pictures, as the paper chooses it; of equals the smallest."""
    return max(LENGTHS, key=lambda length: _row(table, task, way | dict(prompts=length))["validation"])


def rate(table: pd.DataFrame, task: str, **way) -> float:
    """The learning rate that was chosen for one way on one task."""
    return float(_row(table, task, way)["rate"])


def gain(table: pd.DataFrame, task: str, way: Mapping, over: Mapping) -> Estimate:
    """Points by which one way is ahead of another on a task, paired by seed, with a 95 % interval."""
    return statistics.paired(accuracies(table, task, **way), accuracies(table, task, **over), of="seeds")
