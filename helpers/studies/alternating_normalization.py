"""Page 07: alternating normalization (CAN) beside what else can be done to a finished classifier's rows, where a prior can help and where not.

Four benches. "digits": handwritten digits, 16 random splits, four classifiers trained on sharp pictures and asked about blurred ones. "toy-vit": the toy
world's nine categories in noise, 16 seeds of fresh pictures, told by the trained transformer. "tasks": 16 tasks (15 of the toy world, one of patches of
photographs), a linear head on the transformer's features, trained on clean pictures and asked about noisy, dark and blurred ones. "skewed digits": blurred
digits of which some are rarer in the test set than in training; the method's name says which prior it is told and which rows it learns its habit from.

Validation pictures are degraded like the test pictures and have labels, by which "CAN, tuned", the temperature and the fitted bias are chosen. All other
methods use none of these labels. The prior is the classes' share among the training labels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import ViTForImageClassification

from ..datasets import real, tasks
from ..measures import metrics
from ..measures import probabilities as peers
from ..methods import alternating_normalization as can
from ..models import classifiers, zoo
from ..recipes import toy_vit
from .runner import Study, has_columns, known

__all__ = [
    "ASKED", "BLURS", "CLASSIFIERS", "CONDITIONS", "GRID", "MAIN", "SEEDS", "SKEWS", "STUDY", "adjust", "at", "blurred", "categories", "class_shares",
    "column", "digits", "published", "skewed", "toy_categories",
]  # fmt: skip

SEEDS = 16
THRESHOLD = 0.75  # of CAN at fixed settings, with k = 2 and 3, alpha = 1, d = 1; rows at or above it are called undecided in every row of the table
BLURS = (0.0, 0.5, 0.7, 0.9, 1.1, 1.4)  # px
CLASSIFIERS = ("linear", "k-NN", "forest", "naive Bayes")
TASKS = (
    "shape", "colour", "texture", "which quarter", "how many", "more than two", "colour of the smaller", "shape of the smaller", "same colour",
    "category", "kind", "facing", "tilt", "a creature's colour", "a creature's texture", "real textures",
)  # fmt: skip
CONDITIONS = ("noise", "dark", "blur")
SKEWS = (0.0, 0.1, 0.2, 0.35, 0.5)
MAIN = ("as they are", "CAN", "CAN, tuned", "prior correction", "Sinkhorn", "fitted bias")
ALL = (
    *MAIN, "CAN, test rows", "CAN, sharp rows", "CAN, any rows", "CAN, all together", "prior correction, undecided rows", "Sinkhorn, true shares",
    "label-shift EM", "temperature",
)  # fmt: skip
GRID = [can.Setting(threshold, alpha, depth) for threshold in (0.25, 0.5, 0.75, 0.9) for alpha in (0.3, 0.5, 1.0, 2.0) for depth in (1, 2, 3)]  # of `tune`
ASKED = ("validation rows", "test rows", "sharp rows")  # where the habit is learnt from
TOLD = [(prior, rows) for rows in ASKED for prior in ("the truth", "training's")] + [("estimated", "validation rows"), ("estimated", "test rows")]


@dataclass(frozen=True)
class Rows:
    """Probabilities of one classifier: prior (C,), rows (N, C) and labels (N,) of validation and test, and the validation rows of undegraded pictures."""

    prior: Tensor
    validation: Tensor
    validation_labels: Tensor
    test: Tensor
    test_labels: Tensor
    sharp: Tensor


def cases() -> list[dict]:
    def all_of(bench, task, seed, condition, methods):
        return [dict(bench=bench, task=task, seed=seed, condition=condition, method=method) for method in methods]

    found = [row for task in TASKS for condition in CONDITIONS for row in all_of("tasks", task, 0, condition, MAIN)]
    for seed in range(SEEDS):
        for blur in BLURS:
            found += all_of("digits", "linear", seed, f"blur {blur}", ALL)
        found += all_of("digits", "linear", seed, "blur 0.9", [at(setting) for setting in GRID])
        for classifier in CLASSIFIERS[1:]:
            found += all_of("digits", classifier, seed, "blur 0.9", MAIN)
        found += all_of("toy-vit", "category", seed, "noise", MAIN)
        for skew in SKEWS:
            told = [f"{method}, {prior}, {rows}" for method in ("CAN", "prior correction") for prior, rows in TOLD]
            found += all_of("skewed digits", "linear", seed, f"skew {skew}", ["as they are", *told])
    return found


def at(setting: can.Setting) -> str:
    """The name of CAN at a setting of GRID."""
    return f"CAN at {setting.threshold}, {setting.alpha}, {setting.depth}"


# --- predictions ---


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """How often each class occurs, half a label added to each, so that none is zero."""
    counts = torch.bincount(labels, minlength=classes).double() + 0.5
    return counts / counts.sum()


def classifier(name: str):
    return {
        "linear": LogisticRegression(max_iter=2000, C=30),
        "k-NN": KNeighborsClassifier(20),
        "forest": RandomForestClassifier(100, random_state=0),
        "naive Bayes": GaussianNB(var_smoothing=1e-2),
    }[name]


@lru_cache(maxsize=2)
def fitted(name: str, seed: int):
    """A classifier of digits, trained on the sharp training pictures of a split."""
    train = real.digits(seed).train
    return classifier(name).fit(train.images.flatten(1).numpy(), train.labels.numpy())


def predict(model, pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(model.predict_proba(pictures), dtype=np.float64))


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Pictures (N, C, H, W), blurred by a Gaussian of `sigma` px."""
    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))


@lru_cache(maxsize=8)
def digits(name: str, seed: int, blur: float) -> Rows:
    data, model = real.digits(seed), fitted(name, seed)
    seen = [predict(model, blurred(part.images, sigma).flatten(1).numpy()) for part, sigma in ((data.val, blur), (data.test, blur), (data.val, 0.0))]
    return Rows(class_shares(data.train.labels, 10), seen[0], data.val.labels, seen[1], data.test.labels, seen[2])


@lru_cache(maxsize=1)
def vit() -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(zoo.folder("toy-vit"), dtype=torch.float32, local_files_only=True).eval()


@torch.no_grad()
def categories(images: Tensor) -> Tensor:
    """Probabilities of the nine categories, sums over the transformer's 45 classes (N, 9)."""
    p = torch.cat([vit()(toy_vit.pixel_values(some.float())).logits.double().softmax(1) for some in images.split(100)])
    return p[:, :36].unflatten(1, (9, 4)).sum(2) + p[:, 36:]


@lru_cache(maxsize=2)
def toy_categories(seed: int) -> Rows:
    noisy = tasks.load("category in noise", train=1, validation=200, test=200, seed=100 + seed)
    validation, test = categories(noisy.validation.images), categories(noisy.test.images)
    return Rows(torch.ones(9, dtype=torch.float64) / 9, validation, noisy.validation.labels, test, noisy.test.labels, validation)


def degraded(images: Tensor, condition: str, seed: int) -> Tensor:
    """Pictures in [0, 1] in noise of 0.15, at 0.55 of their light, or blurred by 2 px."""
    if condition == "noise":
        return (images + 0.15 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)
    return {"dark": lambda: 0.55 * images, "blur": lambda: blurred(images, 2.0)}[condition]()


@lru_cache(maxsize=1)
@torch.no_grad()
def headed(task: str):
    """A task's pictures and a linear head on the transformer's features, trained on the clean ones; every task has pictures of its own."""
    pictures = tasks.load(task, train=400, validation=300, test=300, seed=200 + TASKS.index(task))
    features = toy_vit.features_of(vit(), pictures.train.images).double().numpy()
    return pictures, make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(features, pictures.train.labels.numpy())


@lru_cache(maxsize=1)
@torch.no_grad()
def toy_task(task: str, condition: str) -> Rows:
    pictures, head = headed(task)
    parts = [pictures.validation, pictures.test]
    seen = [degraded(part.images, condition, number) for number, part in enumerate(parts)]
    validation, test = (predict(head, toy_vit.features_of(vit(), images).double().numpy()) for images in seen)
    prior = class_shares(pictures.train.labels, len(pictures.classes))
    return Rows(prior, validation, parts[0].labels, test, parts[1].labels, validation)


def skewed(rows: Rows, strength: float, seed: int) -> Rows:
    """Test rows, some classes rarer: they get a random order, and the k-th one is kept with probability (1 - strength) ** k."""
    rng = np.random.default_rng([0, seed])
    rank = torch.from_numpy(rng.permutation(rows.test.shape[1])).double()
    kept = torch.from_numpy(rng.random(len(rows.test))) < (1 - strength) ** rank[rows.test_labels]
    return Rows(rows.prior, rows.validation, rows.validation_labels, rows.test[kept], rows.test_labels[kept], rows.sharp)


def rows_of(case: dict) -> Rows:
    """The classifier's rows of a case."""
    if case["bench"] == "tasks":
        return toy_task(case["task"], case["condition"])
    if case["bench"] == "toy-vit":
        return toy_categories(case["seed"])
    kind, number = case["condition"].split()
    if kind == "skew":
        return skewed(digits(case["task"], case["seed"], 0.9), float(number), case["seed"])
    return digits(case["task"], case["seed"], float(number))


# --- what is done to them ---


def together(rows: Tensor, reference: Tensor, prior: Tensor) -> Tensor:
    """One round with all rows in one stack, instead of one row at a time."""
    return can.iterate(rows[-1:], torch.cat([reference, rows[:-1]]), prior, trace=True)[-1, 0, len(reference) :]


def adjust(rows: Rows, method: str, seed: int = 0) -> tuple[Tensor, can.Setting | None]:
    """Test rows after a method of ALL, or at a setting of GRID, and the setting where one was chosen."""
    prior, validation, test, labels = rows.prior, rows.validation, rows.test, rows.validation_labels
    unsure = can.is_ambiguous(test, threshold=THRESHOLD)
    sure = validation[~can.is_ambiguous(validation, threshold=THRESHOLD)]
    setting, out = None, test.clone()
    if method == "CAN, tuned" or method.startswith("CAN at "):
        setting = can.tune(validation, labels, prior).best if method == "CAN, tuned" else next(one for one in GRID if at(one) == method)
        out = can.alternating_normalization(test, prior, reference=validation, identity=True, **setting._asdict()).probabilities
    elif method in ("CAN", "CAN, test rows", "CAN, sharp rows"):
        reference = {"CAN": validation, "CAN, test rows": None, "CAN, sharp rows": rows.sharp}[method]
        out = can.alternating_normalization(test, prior, reference=reference, identity=True, threshold=THRESHOLD).probabilities
    elif method == "CAN, any rows":
        some = np.random.default_rng([1, seed]).permutation(len(validation))[: max(1, len(sure))]
        out[unsure] = can.one_step(test[unsure], validation[some], prior)
    elif method == "CAN, all together":
        out[unsure] = together(test[unsure], sure, prior)
    elif method == "prior correction, undecided rows":
        out[unsure] = torch.from_numpy(peers.prior_correction(test[unsure], prior, mean=validation.mean(0)))
    elif method != "as they are":
        out = {
            "prior correction": lambda: peers.prior_correction(test, prior, mean=validation.mean(0)),
            "Sinkhorn": lambda: peers.sinkhorn(test, prior),
            "Sinkhorn, true shares": lambda: peers.sinkhorn(test, class_shares(rows.test_labels, len(prior))),
            "label-shift EM": lambda: peers.label_shift_em(test, prior)[0],
            "temperature": lambda: peers.with_temperature(test, peers.fit_temperature(validation, labels.numpy())),
            "fitted bias": lambda: peers.with_bias(test, *peers.fit_bias(validation, labels.numpy())),
        }[method]()
    return torch.as_tensor(out), setting


def adjust_skewed(rows: Rows, method: str) -> Tensor:
    """Test rows after "<method>, <prior that it is told>, <rows that it learns the habit from>"."""
    method, told, asked = method.split(", ")
    if told == "the truth":
        prior = class_shares(rows.test_labels, len(rows.prior))
    else:
        prior = rows.prior if told == "training's" else torch.from_numpy(peers.estimate_prior(rows.test, rows.validation, rows.validation_labels.numpy()))
    reference = {"validation rows": rows.validation, "test rows": rows.test, "sharp rows": rows.sharp}[asked]
    if method == "CAN":
        return can.alternating_normalization(rows.test, prior, reference=reference, identity=True, threshold=THRESHOLD).probabilities
    return torch.from_numpy(peers.prior_correction(rows.test, prior, mean=reference.mean(0)))


# --- what is measured ---


def measure(case: dict) -> dict:
    """In percent of the test rows, or in points. accuracy; undecided: rows that are so before the method; unsure_accuracy: on these (NaN without any);
    sure_wrong: rows decided before, wrong after; repaired, broken: wrong before and right after, and the reverse; calibration: expected error; habit: half
    the summed differences between the shares of the classes that are said and that are there; bias: the same for the mean validation row before the method.
    threshold, alpha, depth: CAN's where chosen or on the grid, else NaN."""
    rows = rows_of(case)
    plain = case["bench"] != "skewed digits" or case["method"] == "as they are"
    after, setting = adjust(rows, case["method"], case["seed"]) if plain else (adjust_skewed(rows, case["method"]), None)
    unsure = can.is_ambiguous(rows.test, threshold=THRESHOLD)
    truth, classes = rows.test_labels, len(rows.prior)
    was, now = (values.argmax(1) == truth for values in (rows.test, after))

    def shares(labels):
        return torch.bincount(labels, minlength=classes).double() / len(labels)

    def percent(rows):
        return 100 * float(rows.double().mean()) if len(rows) else np.nan

    setting = setting or can.Setting(np.nan, np.nan, np.nan)
    return {
        "accuracy": percent(now), "undecided": percent(unsure), "unsure_accuracy": percent(now[unsure]), "sure_wrong": percent(~unsure & ~now),
        "repaired": percent(now & ~was), "broken": percent(was & ~now), "calibration": 100 * metrics.calibration_error(after, truth),
        "habit": 50 * float((shares(after.argmax(1)) - shares(truth)).abs().sum()),
        "bias": 50 * float((rows.validation.mean(0) - shares(rows.validation_labels)).abs().sum()),
        "threshold": float(setting.threshold), "alpha": float(setting.alpha), "depth": float(setting.depth),
    }  # fmt: skip


STUDY = Study(
    cases=cases,
    measure=measure,
    # one test picture of 72 to 360 may lie so near a border that another machine's rounding carries it over, and of two settings the chosen one
    # may change; a logistic regression stops elsewhere on another processor, which moved the bias of the mean row by up to 0.8
    tolerance={"accuracy": 2, "undecided": 2, "unsure_accuracy": 5, "sure_wrong": 2, "repaired": 2, "broken": 2, "calibration": 2, "habit": 3, "bias": 2}
    | dict.fromkeys(("threshold", "alpha", "depth")),
    models=("toy-vit",),
    sample_seconds=2,
)


# --- for the page ---


def published(name: str, blur: float, per_class: int = 10) -> Rows:
    """What a published classifier says of ImageNet's blurred validation pictures, every second one for validation, the others for the test.

    RuntimeError, one sentence, where pictures or weights are missing.
    """
    model = classifiers.load(name)
    paths, labels = classifiers.files(per_class=per_class)
    soft, sharp = classifiers.probabilities(model, paths, blur=blur), classifiers.probabilities(model, paths[::2])
    prior = torch.ones(soft.shape[1], dtype=torch.float64) / soft.shape[1]
    return Rows(prior, soft[::2], labels[::2], soft[1::2], labels[1::2], sharp)


def column(table, method: str, name: str = "accuracy", **where) -> np.ndarray:
    """A column of a method, one number for each unit: (seeds,), or (seeds, conditions) where several conditions are given; for "tasks" the units are tasks.

    where: bench ("digits" unless given), task, condition or conditions. Raises ValueError where no rows fit, or not one for each unit and condition.
    """
    if unknown := set(where) - {"bench", "task", "condition", "conditions"}:
        raise ValueError(f"where must be of bench, task, condition and conditions, got {', '.join(sorted(unknown))}")
    has_columns(table, ("bench", "task", "seed", "condition", "method", name))
    known("method", method, table.method)
    conditions = where.pop("conditions", None)
    wanted = {"bench": "digits", "method": method} | where
    if wanted["bench"] == "digits":
        wanted = {"task": "linear"} | wanted
    rows = table[np.logical_and.reduce([table[key] == value for key, value in wanted.items()])]
    unit = "task" if wanted["bench"] == "tasks" else "seed"
    conditions = list(conditions) if conditions is not None else list(dict.fromkeys(rows.condition))
    rows = rows[rows.condition.isin(conditions)]
    if rows.empty or rows.duplicated([unit, "condition"]).any() or len(rows) != rows[unit].nunique() * len(conditions):
        raise ValueError(f"there must be a row of {wanted} for each {unit} and each of {conditions}, there are {len(rows)}")
    found = rows.pivot(index=unit, columns="condition", values=name)[conditions].to_numpy(float)
    return found[:, 0] if len(conditions) == 1 else found
