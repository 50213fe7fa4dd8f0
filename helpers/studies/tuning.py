"""Pages 09 and 10: fifteen ways to tune one frozen transformer on twelve tasks, five training sets each; all with 20 labels a class, four with 5 and 100 too.

A case is a task, so many labels a class, and a method. Learning rate, weight decay and, where there are some, the number of prompts are chosen once a case, by
training on one half of the first training set (three of five labels a class) and looking at the other; then five networks are trained, each on a whole
training set of its own, and tested on 400 pictures of their own. Every method gets the same five sets, tests, orders of pictures and starts of the head:
methods are compared in pairs. The twelve tasks are five of real pictures, three of toy pictures that are hard to see, four of toy scenes whose answer is an
arrangement.
"""

from collections.abc import Sequence
from functools import lru_cache

import pandas as pd
import torch
from torch import Tensor
from transformers import ViTForImageClassification

from ..arguments import integer
from ..datasets import tasks
from ..measures import statistics, tuning
from ..measures.statistics import Estimate
from ..models import zoo
from .runner import Study, has_columns, known

__all__ = ["BACKBONE", "LABELS", "REAL", "SEEDS", "STUDY", "TASKS", "backbone", "by_parameters", "differences", "long", "pictures"]

BACKBONE = "toy-vit-wide"
REAL = ("digits", "mnist", "real textures", "photographs", "grey surfaces")
TASKS = (*REAL, "shape in noise", "category in noise", "category behind a square", "how many, in noise", "touching", "where is the larger", "tilt")
LABELS, SEEDS, SIZE, TEST = (5, 20, 100), 5, 32, 400
RULED = ("linear", "full", "VPT-deep", "SSF")  # measured with every number of labels; the others with 20
FEWER = {"digits": dict(train=1078, test=359), "mnist": dict(train=3000), "faces": dict(train=120, test=40)}  # all that there are


def cases() -> list[dict]:
    """In an order in which a part of them is already of use."""
    first = (*RULED, "bias", "adapter", "LoRA")
    parts = [((20,), first), ((5, 100), RULED), ((20,), [method for method in tuning.METHODS if method not in first])]
    return [dict(task=task, labels=n, method=method) for some, methods in parts for n in some for task in TASKS for method in methods]


@lru_cache(maxsize=1)
def backbone() -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(zoo.folder(BACKBONE), dtype=torch.float32, local_files_only=True).eval()


@lru_cache(maxsize=2 * SEEDS)
def pictures(task: str, labels: int, seed: int) -> tuple[int, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(classes, (images, labels) to learn from, (images, labels) to test on) in a world of the seed: of every class the first so many, or all there are."""
    classes = len(tasks.load(task, train=1, validation=1, test=1, size=SIZE).classes)
    counts = dict(train=(2 * labels + 20) * classes, validation=1, test=TEST) | FEWER.get(task, {})
    drawn = tasks.load(task, **counts, seed=seed, size=SIZE)
    rows = torch.cat([(drawn.train.labels == c).nonzero()[:labels, 0] for c in range(classes)]).sort().values
    return classes, (drawn.train.images[rows], drawn.train.labels[rows]), (drawn.test.images, drawn.test.labels)


def measure(case: dict) -> dict:
    """Accuracies in % on the test pictures, one a seed; what was chosen (num_prompts: 0 where there are none); the pictures of a training set; trained
    numbers; bytes; time over the frozen model's."""
    task, labels, method = case["task"], case["labels"], case["method"]
    classes, (images, truth), _ = pictures(task, labels, 0)
    learned, asked = tuning.held_out(truth, labels // 2, seed=0)
    options = dict(classes=classes)
    chosen = tuning.search(backbone(), method, images[learned], truth[learned], images[asked], truth[asked], **options)
    found = {}
    for seed in range(SEEDS):
        _, train, test = pictures(task, labels, seed)
        tuned = tuning.fit(backbone(), method, *train, **options, rate=chosen.rate, decay=chosen.decay, num_prompts=chosen.num_prompts, seed=seed)
        found[f"accuracy_{seed}"] = tuning.accuracy(tuned, *test)
    chosen_as = dict(rate=chosen.rate, decay=chosen.decay, num_prompts=chosen.num_prompts or 0, validation=chosen.accuracy)
    costs = dict(trained=tuned.count, without_head=tuned.count_without_head, bytes=tuning.bytes_a_task(tuned))
    time = tuning.time_ratio(tuned, backbone(), images[:32])
    return found | chosen_as | costs | dict(examples=len(truth), time_ratio=time)


ACCURACIES = tuple(f"accuracy_{seed}" for seed in range(SEEDS))
NEAR = dict.fromkeys(ACCURACIES, 5.0)
LEFT = dict.fromkeys(("rate", "decay", "num_prompts", "validation", "trained", "without_head", "bytes", "time_ratio"))  # what is chosen may flip, and its size
TOLERANCE = NEAR | LEFT | dict(examples=0)
STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, models=(BACKBONE,), sample_seconds=20)


# ------------------------------------------------------------------------------------------------------------------- reading the table


def long(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each task, labels, method and seed, with its `accuracy` in %; the other columns as they are."""
    has_columns(table, ("task", "labels", "method", *ACCURACIES))
    kept = [column for column in table.columns if column not in ACCURACIES]
    rows = table.melt(id_vars=kept, value_vars=list(ACCURACIES), var_name="seed", value_name="accuracy")
    return rows.assign(seed=rows.seed.str.removeprefix("accuracy_").astype(int))


def _some(table: pd.DataFrame, labels: int, method: str, which: Sequence[str]) -> pd.DataFrame:
    """The rows of a method by task, in the order of `which`."""
    some = table[(table.labels == labels) & (table.method == method)].set_index("task")
    if lacking := [task for task in which if task not in some.index]:
        raise ValueError(f"table must hold {method} on {', '.join(map(str, lacking))} with {labels} labels a class")
    return some.loc[list(which)]


def _asked(table, labels, methods: Sequence, which) -> tuple[pd.DataFrame, int, list[str]]:
    table, labels = has_columns(table, ("task", "labels", "method", *ACCURACIES)), integer("labels", labels, low=1)
    known("labels", labels, table.labels)
    for name, method in methods:
        known(name, method, table.method)
    which = list(dict.fromkeys(table.task[table.labels == labels])) if which is None else [known("tasks", task, table.task) for task in which]
    return table, labels, which


def by_parameters(table: pd.DataFrame, *, labels: int = 20, tasks: Sequence[str] | None = None) -> pd.DataFrame:
    """A row for each method that was measured with so many labels, fewest trained numbers first: `without_head`, `bytes` and `time_ratio` (medians over tasks),
    and its mean `accuracy` over the tasks (None: all) with `low` and `high`, a 95 % interval over tasks. Raises ValueError where one lacks one of the tasks."""
    table, labels, which = _asked(table, labels, (), tasks)
    rows = []
    for method in dict.fromkeys(table.method[table.labels == labels]):
        some = _some(table, labels, method, which)
        mean = statistics.interval(some[list(ACCURACIES)].to_numpy(), of="tasks")
        costs = some[["without_head", "bytes", "time_ratio"]].median().to_dict()
        rows.append(dict(method=method, **costs, accuracy=mean.value, low=mean.low, high=mean.high))
    return pd.DataFrame(rows).sort_values("without_head", kind="stable", ignore_index=True)


def differences(table: pd.DataFrame, method: str, rival: str, *, labels: int = 20, tasks: Sequence[str] | None = None) -> tuple[Estimate, dict[str, Estimate]]:
    """Points by which `method` is ahead of `rival`: (over tasks, {task: over its seeds}), paired by task and seed, with 95 % intervals."""
    table, labels, which = _asked(table, labels, (("method", method), ("rival", rival)), tasks)
    a, b = (_some(table, labels, name, which)[list(ACCURACIES)].to_numpy() for name in (method, rival))
    each = {task: statistics.paired(ours, theirs, of="seeds") for task, ours, theirs in zip(which, a, b, strict=True)}
    return statistics.paired(a, b, of="tasks"), each
