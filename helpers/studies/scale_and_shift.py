"""Page 10: which scales and shifts a network needs. The frozen transformer of the bench, pairs behind some of its layers or with one of their halves.

A case is a task and a variant. The learning rate is chosen once a case, between the halves of the first training set; then five networks are trained, each on a
training set of its own, those of the bench (see the study `tuning`): 20 labels a class, the same tests, orders of pictures and starts of the head.
"""

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..measures import tuning
from ..methods.scale_and_shift import add_scale_shift
from .runner import Study
from .tuning import BACKBONE, SEEDS, backbone, pictures

__all__ = ["LABELS", "STUDY", "TASKS", "VARIANTS", "head_for", "logits_of", "searched", "trained"]

LABELS = 20
TASKS = ("mnist", "grey surfaces", "category behind a square")
VARIANTS = {  # name -> options of add_scale_shift
    "all": {}, "norms only": dict(where="norm"), "queries, keys, values only": dict(where="qkv"), "MLPs only": dict(where="mlp"),
    "patches only": dict(where="patch"), "scales only": dict(what="scale"), "shifts only": dict(what="shift"),
}  # fmt: skip


def cases() -> list[dict]:
    return [dict(task=task, variant=variant) for task in TASKS for variant in VARIANTS]


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """What a classifier of transformers' manner says of pictures (N, 3, S, S) in [0, 1]."""
    return model(2 * images - 1).logits


def head_for(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """A frozen copy of a classifier with a new head, the one that `tuning.prepare` gives for the seed."""
    model = copy.deepcopy(model).requires_grad_(False).eval()
    head = nn.Linear(model.classifier.in_features, classes)
    nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(head.bias)
    model.classifier = head
    return model


def trained(model: nn.Module, attach: Callable[[nn.Module], Iterable[nn.Parameter]], images: Tensor, labels: Tensor, *, classes: int, rate: float,
            seed: int) -> nn.Module:  # fmt: skip
    """A copy of a classifier, tuned on pictures by the bench's protocol without weight decay. attach: from a frozen copy with its head to what is trained."""
    model = head_for(model, classes, seed)
    parameters = {str(i): parameter for i, parameter in enumerate(attach(model))}
    optimiser = torch.optim.AdamW(tuning.groups(parameters, model.classifier, rate=rate), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: tuning.rate_factor(min(step, tuning.STEPS - 1), steps=tuning.STEPS))
    for rows in tuning.batches(len(labels), steps=tuning.STEPS, batch=tuning.BATCH, seed=seed):
        optimiser.zero_grad()
        F.cross_entropy(logits_of(model, images[rows]), labels[rows]).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def share_right(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    said = torch.cat([logits_of(model, some).argmax(1) for some in images.split(tuning.AT_ONCE)])
    return 100 * float((said == labels).double().mean())


def searched(model: nn.Module, attach: Callable, images: Tensor, labels: Tensor, *, classes: int, rates: Iterable[float]) -> float:
    """The rate with the best accuracy on one half of the pictures, trained on the other; of equals the smallest."""
    learnt, asked = tuning.held_out(labels, LABELS // 2, seed=0)

    def tells(rate):
        return share_right(trained(model, attach, images[learnt], labels[learnt], classes=classes, rate=rate, seed=0), images[asked], labels[asked])

    return max(sorted(rates), key=tells)


def measured(model: nn.Module, attach: Callable, task: str, rates: Iterable[float]) -> dict:
    """The rate, the trained numbers without the head, and the accuracy on the test pictures of each of SEEDS training sets."""
    classes, train, _ = pictures(task, LABELS, 0)
    found = dict(rate=searched(model, attach, *train, classes=classes, rates=rates))
    for seed in range(SEEDS):
        _, train, test = pictures(task, LABELS, seed)
        found[f"accuracy_{seed}"] = share_right(trained(model, attach, *train, classes=classes, rate=found["rate"], seed=seed), *test)
    blank = head_for(model, classes, 0)
    return found | dict(trained=sum(p.numel() for p in attach(blank)) - sum(p.numel() for p in blank.classifier.parameters()))


def pairs_of(options: Mapping) -> Callable:
    return lambda model: add_scale_shift(model, **options).trainable_parameters()


def measure(case: dict) -> dict:
    """Accuracies in % of 400 test pictures, one a training set; the rate chosen; trained numbers, the head's not counted."""
    return measured(backbone(), pairs_of(VARIANTS[case["variant"]]), case["task"], tuning.METHODS["SSF"].rates)


TOLERANCE = {f"accuracy_{seed}": 5.0 for seed in range(SEEDS)} | dict(rate=None, trained=0)
STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, models=(BACKBONE,), sample_seconds=10)
