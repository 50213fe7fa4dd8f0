"""Page 06: a linear classifier, its neighbours and their mixture, and training re-weighted by the neighbours, over 47 tasks and on digits.

A case is a task in a world of its own (seed: other pictures in all three splits), so many labels a class, and a share of labels that were replaced by
wrong ones. 47 tasks read features of `toy-vit`; "digits, pixels" reads the 64 pixels of scikit-learn's digits; "3 against 3 digits" are two classes,
each made of three digits, drawn by the seed. Whatever a method has to choose it chooses on the validation pictures.
"""

from functools import lru_cache

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from torch import Tensor
from transformers import ViTForImageClassification

from ..datasets import real, tasks
from ..measures import metrics, probabilities
from ..methods import knn_augmentation as knn
from ..models import zoo
from ..recipes import toy_vit
from .runner import Study

__all__ = [
    "DIGIT_LABELS", "HARDNESS", "ISLANDS", "LABELS", "PIXELS", "SIZES", "STUDY", "TEMPERATURES", "corrupted", "described", "fitted", "labelled", "says",
    "share_right",
]  # fmt: skip

SIZES = dict(train=240, validation=100, test=200)
SEEDS, DIGIT_SEEDS, GROUPINGS = 2, 8, 12
LABELS, DIGIT_LABELS, ISLANDS = (2, 5, 20), (1, 2, 5, 10, 20, 50), (1, 2, 3, 4, 5)
PIXELS = "digits, pixels"
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C of the logistic regression: the larger, the less regularised
TEMPERATURES = (1e-4, 0.01, 0.03, 0.1, 0.3, 1.0)
ALPHAS = (0.001, 0.01, 0.1)
DEFAULTS = dict(k=8, temperature=0.1, weight=0.5)  # of the mixture that chooses nothing
HARDNESS = dict(k=16, temperature=0.2)  # the neighbours that say how hard a training example is
FOLDS, FEWEST = 5, 3  # an area needs so many examples on either side


def cases() -> list[dict]:
    bench = [(name, n, noise, seed) for seed in range(SEEDS) for name in tasks.NAMES for n, noise in (*((n, 0.0) for n in LABELS), (LABELS[-1], 0.2))]
    pixels = [(PIXELS, n, noise, seed) for seed in range(DIGIT_SEEDS) for n, noise in (*((n, 0.0) for n in DIGIT_LABELS), (50, 0.1), (50, 0.3))]
    islands = [(f"{m} against {m} digits", 40, 0.0, seed) for m in ISLANDS for seed in range(GROUPINGS)]
    return [dict(task=task, labels=n, noise=noise, seed=seed) for task, n, noise, seed in (*pixels, *islands, *bench)]


# ------------------------------------------------------------------------------------------------------------------ pictures and labels


@lru_cache(maxsize=1)
def encoder() -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(zoo.folder(toy_vit.NAME), dtype=torch.float32).eval()


@lru_cache(maxsize=2)
def described(task: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(features float64, labels) of training, validation and test pictures; features less their mean over their deviation, of the training pictures."""
    if task in tasks.NAMES:
        drawn = tasks.load(task, **SIZES, seed=seed)
        splits = [(toy_vit.features_of(encoder(), part.images).double(), part.labels) for part in (drawn.train, drawn.validation, drawn.test)]
        mean, deviation = splits[0][0].mean(0), splits[0][0].std(0) + 1e-6
    else:
        drawn = real.digits(seed)
        splits = [(part.images.flatten(1).double(), part.labels) for part in (drawn.train, drawn.val, drawn.test)]
        if task != PIXELS:
            splits = [grouped(features, labels, int(task.split()[0]), seed) for features, labels in splits]
        mean, deviation = splits[0][0].mean(0), splits[0][0].std()  # one deviation: border pixels are nearly constant
    return [((features - mean) / deviation, labels) for features, labels in splits]


def grouped(features: Tensor, digits: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """The rows of 2 x size digits, drawn by the seed, labelled 0 for the first half of them and 1 for the second."""
    side = torch.full((10,), -1)
    side[torch.from_numpy(np.random.default_rng(seed).permutation(10)[: 2 * size])] = torch.arange(2 * size) // size
    kept = side[digits] >= 0
    return features[kept], side[digits[kept]]


def labelled(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Rows of up to `per_class` examples of every class, drawn by the seed, in the order of the rows."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return torch.from_numpy(np.sort(np.concatenate([order[(labels.numpy() == c)[order]][:per_class] for c in labels.unique().tolist()])))


def corrupted(labels: Tensor, noise: float, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels of which a share `noise` was replaced by another class, and which they are."""
    rng = np.random.default_rng([seed, 1])
    planted = torch.from_numpy(rng.random(len(labels)) < noise)
    other = (labels + torch.from_numpy(rng.integers(1, classes, len(labels)))) % classes
    return torch.where(planted, other, labels), planted


# --------------------------------------------------------------------------------------------------------------------------- the parts


def says(head: LogisticRegression, features: Tensor, classes: int) -> Tensor:
    """Probabilities (N, C) of a fitted head; 0 for a class that it never saw."""
    out = torch.zeros(len(features), classes, dtype=torch.float64)
    out[:, head.classes_] = torch.from_numpy(head.predict_proba(features.numpy()))
    return out


def share_right(p: Tensor, labels: Tensor) -> float:
    return 100 * float((p.argmax(1) == labels).double().mean())


def fitted(x: Tensor, y: Tensor, validation: tuple[Tensor, Tensor], classes: int, weights: Tensor | None = None) -> tuple[LogisticRegression, float]:
    """(head, its accuracy on validation pictures): C chosen there, of equals the one with less cross-entropy. weights (N,): of the examples in the loss."""
    given, (held, truth) = None if weights is None else weights.numpy(), validation
    heads = [LogisticRegression(max_iter=1000, C=c).fit(x.numpy(), y.numpy(), sample_weight=given) for c in STRENGTHS]
    said = [says(head, held, classes) for head in heads]
    keys = [(share_right(p, truth), -float(knn.knn_loss(p, truth).mean())) for p in said]
    best = keys.index(max(keys))
    return heads[best], keys[best][0]


def held_out(x: Tensor, y: Tensor, strength: float, classes: int, seed: int) -> Tensor:
    """Probabilities (N, C) of each example by a head that was fitted without its fold."""
    out = torch.zeros(len(x), classes, dtype=torch.float64)
    for known, asked in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        if len(y[known].unique()) > 1:
            out[asked] = says(LogisticRegression(max_iter=1000, C=strength).fit(x[known].numpy(), y[known].numpy()), x[asked], classes)
    return out


def area(scores: Tensor, events: Tensor) -> float:
    """Area under the ROC curve with which scores find events; NaN where there are too few on either side."""
    count = int(events.sum())
    return float(roc_auc_score(events.numpy(), scores.numpy())) if FEWEST <= count <= len(events) - FEWEST else np.nan


def mixtures(x: Tensor, y: Tensor, validation: tuple, test: tuple, head: LogisticRegression, classes: int) -> dict:
    """Step two: accuracies (%) on the test pictures of every way to use the neighbours, which of the two parts is right, and calibration errors."""
    (held, held_y), (asked, truth) = validation, test
    before, after = (says(head, features, classes) for features in (held, asked))
    store = knn.Datastore(x, y, num_classes=classes)
    means = torch.stack([store.features[y == c].mean(0) if (y == c).any() else store.features.mean(0) for c in range(classes)])
    one_a_class = knn.Datastore(means, torch.arange(classes), norm="l2")

    def mixed(store, held, asked, before, after, **grids):
        best = knn.tune(store, held, before, held_y, temperatures=TEMPERATURES, **grids)
        near = store.distribution(asked, k=best.k, temperature=best.temperature).double()
        return best, near, knn.interpolate(after, near, best.weight)

    _, alone, _ = mixed(store, held, asked, before, after, weights=(1.0,))
    best, near, joint = mixed(store, held, asked, before, after)
    ours = [knn.normalise(features, mean=store.mean)[0] for features in (held, asked)]
    _, _, with_means = mixed(one_a_class, *ours, before, after, ks=(classes,))
    t = probabilities.fit_temperature(before, held_y.numpy())
    before_c, after_c = (torch.from_numpy(probabilities.with_temperature(p, t)) for p in (before, after))
    _, _, joint_c = mixed(store, held, asked, before_c, after_c)
    default = store.distribution(asked, k=min(DEFAULTS["k"], len(x)), temperature=DEFAULTS["temperature"]).double()
    untuned = knn.interpolate(after, default, DEFAULTS["weight"])
    hits, near_hits = after.argmax(1) == truth, alone.argmax(1) == truth
    ways = dict(classifier=after, neighbours=alone, mixture=joint, untuned=untuned, means=with_means, calibrated=joint_c)
    errors = dict(ece_classifier=after, ece_neighbours=near, ece_mixture=joint, ece_scaled=after_c, ece_calibrated=joint_c)
    return (
        {name: share_right(p, truth) for name, p in ways.items()}
        | {name: metrics.calibration_error(p, truth) for name, p in errors.items()}
        | dict(only_classifier=100 * float((hits & ~near_hits).double().mean()), only_neighbours=100 * float((~hits & near_hits).double().mean()))
        | dict(k=best.k, temperature=best.temperature, weight=best.weight)
    )


STEP_ONE = (*(f"up_{a}" for a in ALPHAS), *(f"down_{a}" for a in ALPHAS[1:]), "focal", "tuned")
AREAS = ("easy_area", "noise_area", "own_area")


def reweighted(x: Tensor, y: Tensor, planted: Tensor, validation: tuple, test: tuple, head: LogisticRegression, classes: int, seed: int) -> dict:
    """Step one: accuracies (%) of heads trained with weights 1 + alpha l ("up"), their inverse ("down") and (1 - p)^2 ("focal"); C chosen for each of them;
    "tuned": of the three "up" the best on validation pictures. Areas under the ROC curve: of l for mistakes of a held-out classifier and for planted labels,
    and of that classifier's own loss for planted labels."""
    k = min(HARDNESS["k"], len(x) - 1)
    p = knn.Datastore(x, y, num_classes=classes).distribution(x, k=k, temperature=HARDNESS["temperature"], exclude=torch.arange(len(x)))
    hardness = knn.knn_loss(p, y)
    weights = {f"up_{a}": 1 + a * hardness for a in ALPHAS} | {f"down_{a}": 1 / (1 + a * hardness) for a in ALPHAS[1:]}
    weights["focal"] = (1 - p[torch.arange(len(x)), y]).clamp(0, 1).square()
    heads = {name: fitted(x, y, validation, classes, w) for name, w in weights.items()}
    accuracies = {name: share_right(says(found, test[0], classes), test[1]) for name, (found, _) in heads.items()}
    best = max((f"up_{a}" for a in ALPHAS), key=lambda name: heads[name][1])  # of equals the smallest strength
    others = held_out(x, y, head.C, classes, seed)
    clean = not bool(planted.any())
    areas = dict(
        easy_area=area(hardness, others.argmax(1) != y) if clean else np.nan,
        noise_area=np.nan if clean else area(hardness, planted),
        own_area=np.nan if clean else area(knn.knn_loss(others, y), planted),
    )
    return accuracies | dict(tuned=accuracies[best]) | areas


def measure(case: dict) -> dict:
    """Accuracies in % on the test pictures. Step one only with twenty labels a class and more, NaN below."""
    (pool, pool_y), validation, test = described(case["task"], case["seed"])
    classes = int(max(labels.max() for labels in (pool_y, validation[1], test[1]))) + 1
    rows = labelled(pool_y, case["labels"], case["seed"])
    x, (y, planted) = pool[rows], corrupted(pool_y[rows], case["noise"], classes, case["seed"])
    head, _ = fitted(x, y, validation, classes)
    found = mixtures(x, y, validation, test, head, classes)
    if case["labels"] >= LABELS[-1]:
        return found | reweighted(x, y, planted, validation, test, head, classes, case["seed"])
    return found | dict.fromkeys((*STEP_ONE, *AREAS), np.nan)


ACCURACIES = ("classifier", "neighbours", "mixture", "untuned", "means", "calibrated", "only_classifier", "only_neighbours", *STEP_ONE)
ERRORS = ("ece_classifier", "ece_neighbours", "ece_mixture", "ece_scaled", "ece_calibrated")
# a few test pictures may fall on the other side of a border on another machine, and ties of a choice be broken otherwise
TOLERANCE = dict.fromkeys(ACCURACIES, 3.0) | dict.fromkeys(ERRORS, 0.04) | dict.fromkeys(AREAS, 0.03) | dict.fromkeys(("k", "temperature", "weight"), None)
STUDY = Study(cases=cases, measure=measure, tolerance=TOLERANCE, models=(toy_vit.NAME,), sample_seconds=4)
