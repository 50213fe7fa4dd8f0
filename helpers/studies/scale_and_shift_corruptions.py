"""Page 10: networks tuned on clean pictures, asked about corrupted ones. Three kinds in five severities, a linear head, full fine-tuning, SSF and VPT-deep.

A case is a task and a method, on the transformer of the bench of tunings with 20 labels a class: the same training sets and tests as in the study `tuning`,
and its search for learning rates and numbers of prompts (without weight decay), on clean pictures. Of each test set 200 pictures are corrupted.
"""

from collections.abc import Sequence

import numpy as np

from ..datasets.corruptions import corrupt
from ..measures import tuning
from .runner import Study, has_columns, known
from .tuning import BACKBONE, SEEDS, backbone, pictures

__all__ = ["KINDS", "METHODS", "STUDY", "TASKS", "accuracies"]

LABELS, TEST = 20, 200
TASKS = ("mnist", "category behind a square")
METHODS = ("linear", "SSF", "VPT-deep", "full")
KINDS, SEVERITIES = ("noise", "blur", "contrast"), (1, 2, 3, 4, 5)


def cases() -> list[dict]:
    return [dict(task=task, method=method) for task in TASKS for method in METHODS]


def measure(case: dict) -> dict:
    """Accuracies in % of the test pictures, clean, and by kind, severity and training set."""
    task, method = case["task"], case["method"]
    classes, (images, labels), _ = pictures(task, LABELS, 0)
    learnt, asked = tuning.held_out(labels, LABELS // 2, seed=0)
    options = dict(classes=classes)
    known_rows, held = (images[learnt], labels[learnt]), (images[asked], labels[asked])
    chosen = tuning.search(backbone(), method, *known_rows, *held, **options, decays=(0.0,))
    found = dict(rate=chosen.rate)
    for seed in range(SEEDS):
        _, train, (test, truth) = pictures(task, LABELS, seed)
        tuned = tuning.fit(backbone(), method, *train, **options, rate=chosen.rate, num_prompts=chosen.num_prompts, seed=seed)
        test, truth = test[:TEST], truth[:TEST]
        found[f"clean_0_{seed}"] = tuning.accuracy(tuned, test, truth)
        for kind in KINDS:
            for severity in SEVERITIES:
                found[f"{kind}_{severity}_{seed}"] = tuning.accuracy(tuned, corrupt(test, kind, severity, seed=seed), truth)
    return found


COLUMNS = [f"{kind}_{severity}_{seed}" for seed in range(SEEDS) for kind, severity in [("clean", 0), *((k, s) for k in KINDS for s in SEVERITIES)]]
STUDY = Study(cases=cases, measure=measure, tolerance=dict(rate=None) | dict.fromkeys(COLUMNS, 6.0), models=(BACKBONE,), sample_seconds=10)


# ------------------------------------------------------------------------------------------------------------------- reading the table


def accuracies(table, method: str, *, kinds: Sequence[str] = KINDS, severities: Sequence[int] = SEVERITIES) -> np.ndarray:
    """Accuracies of a method in % (training sets, severities), mean over the tasks and over kinds of KINDS; severity 0 is the clean pictures.

    Raises ValueError for an unknown method, kind or severity.
    """
    table = has_columns(table, ("task", "method", *COLUMNS))
    rows = table[table.method == known("method", method, table.method)]
    kinds = [known("kinds", kind, KINDS) for kind in kinds]
    severities = [known("severities", severity, (0, *SEVERITIES)) for severity in severities]
    columns = [[[f"{kind if s else 'clean'}_{s}_{seed}" for kind in kinds] for s in severities] for seed in range(SEEDS)]
    return np.array([[rows[some].to_numpy(float).mean() for some in each] for each in columns])
