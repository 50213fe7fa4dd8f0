"""How much corruption takes from a network: the corruption errors of Hendrycks and Dietterich (2019, arXiv 1903.12261), and what is kept.

    model = errors_under(predict, images, labels)                  # one network; stack([...]) of several trainings
    mean_corruption_error(model, reference)                        # (n,), one a training; 1 is as bad as the reference network
    summary(stack(runs), reference)["mCE"]                         # with its interval over the trainings
    summary(stack(runs), reference, rival=stack(others))["mCE"]    # the paired difference to another network

The reference is a network of one's own, asked about the same pictures: ImageNet-C divides by AlexNet, and only of its pictures, kinds and levels, and with
AlexNet's errors on them (`ALEXNET`), may an mCE be called one of ImageNet-C. The reference is a yardstick and counts as known: intervals are over the
trainings of the model, all asked about one set of pictures, and hold neither the chance in the reference's own training nor that in the pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..arguments import flag, function, got, instance, integer, numbers, texts
from ..datasets.corruptions import KINDS, LAST_SEED, PICTURES, SEVERITIES, corrupt
from .statistics import Estimate, interval, paired

__all__ = ["ALEXNET", "Errors", "corruption_errors", "errors_under", "mean_corruption_error", "retention", "stack", "summary"]


@dataclass(frozen=True, eq=False)
class Errors:
    """The share of pictures that a network gets wrong, as they are and corrupted, all in [0, 1]; of one network or of n trainings of it.

    clean: a number, or (n,). corrupted: kind -> (severities,), or (n, severities), from the mildest on and of one length. Kept as float64 arrays (n,) and
    (n, severities), n = 1 for one network. Raises ValueError for percent, other shapes and no kinds, TypeError for what are no numbers or no mapping.
    """

    clean: np.ndarray
    corrupted: Mapping[str, np.ndarray]

    def __post_init__(self):
        clean = _rates("clean", self.clean, 0)
        if not isinstance(self.corrupted, Mapping) or not all(isinstance(kind, str) for kind in self.corrupted):
            raise TypeError(f"corrupted must be a mapping from kinds to errors, got {got(self.corrupted)}")
        if not self.corrupted:
            raise ValueError("corrupted must hold a kind or more, got none")
        corrupted = {kind: _rates(f"corrupted[{kind!r}]", errors, 1) for kind, errors in self.corrupted.items()}
        wanted = (len(clean), next(iter(corrupted.values())).shape[1])
        for kind, errors in corrupted.items():
            if errors.shape != wanted:
                raise ValueError(f"corrupted[{kind!r}] must be {wanted}, trainings as in clean and one number of severities, got {errors.shape}")
        object.__setattr__(self, "clean", clean)
        object.__setattr__(self, "corrupted", corrupted)

    def __len__(self) -> int:
        """How many trainings."""
        return len(self.clean)


def _rates(name: str, value, axes: int) -> np.ndarray:
    """Shares with so many axes and that of the trainings before them, which one network may leave out."""
    given = numbers(name, value, "...", low=0, high=1)
    if given.ndim not in (axes, axes + 1):
        raise ValueError(f"{name} must be {('a number or (n,)', '(severities,) or (n, severities)')[axes]}, got shape {tuple(given.shape)}")
    rates = given.cpu().double().numpy().copy()
    return rates if rates.ndim > axes else rates[None]


# AlexNet on ImageNet-C at 224 px, 43.5 % wrong on clean pictures (table 1), its mean error over the severities at each of them: the yardstick of the published
# mCE, and of ImageNet-C's pictures only
_ALEXNET = {
    "gaussian noise": 0.886428, "shot noise": 0.894468, "impulse noise": 0.922640, "defocus blur": 0.819880, "glass blur": 0.826268,
    "motion blur": 0.785948, "zoom blur": 0.798360, "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204,
    "elastic transform": 0.646056, "pixelate": 0.717840, "jpeg compression": 0.606500,
}  # fmt: skip
ALEXNET = Errors(0.435, {kind: (error,) * 5 for kind, error in _ALEXNET.items()})

_LEAST = 1e-9  # a difference of means below this is their rounding: one picture in a million weighs more


def _of_errors(name: str, value) -> Errors:
    return instance(name, value, Errors, "Errors")


def errors_under(predict: Callable, images, labels, *, kinds: Sequence[str] = KINDS, seed: int = 0, batch: int = 256) -> Errors:
    """The errors of one network on pictures as they are and under each kind of `corruptions` in five severities.

    predict: a function of a tensor (b, C, H, W) of pictures in [0, 1], in the dtype of `images`, that gives their class numbers (b,); it is called without
    gradients, on `batch` pictures at a time; putting its network into eval mode is the caller's. images (N, C, H, W) in [0, 1], N at most a million; labels
    (N,) whole numbers. seed: of what is drawn; how pictures are batched changes nothing in it.
    Raises ValueError for other shapes, values and kinds, TypeError for no floating-point pictures and for what predict gives that are no whole numbers.
    """
    function("predict", predict, "a function of pictures that gives class numbers")
    sizes = {}
    images = numbers("images", images, "N C H W", sizes)
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point numbers (N, C, H, W) in [0, 1], got whole numbers of dtype {str(images.dtype).removeprefix('torch.')}")
    images = numbers("images", images, "N C H W", low=0, high=1)
    if len(images) > PICTURES:
        raise ValueError(f"images must be {PICTURES:,} at most, got {len(images):,}")
    labels = numbers("labels", labels, "N", sizes, whole=True, low=0).cpu()
    kinds, seed, batch = texts("kinds", kinds, options=KINDS), integer("seed", seed, low=0, high=LAST_SEED), integer("batch", batch, low=1)
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds must be different ones, got {got(kinds)}")

    def wrong(kind: str, severity: int) -> float:
        count = 0
        for first in range(0, len(images), batch):
            worse = corrupt(images[first : first + batch], kind, severity, seed=seed, first=first)
            said = numbers("what predict gives", predict(worse), str(len(worse)), whole=True).cpu()
            count += int((said != labels[first : first + batch]).sum())
        return count / len(images)

    with torch.no_grad():
        return Errors(wrong(kinds[0], 0), {kind: [wrong(kind, severity) for severity in SEVERITIES[1:]] for kind in kinds})


def stack(runs: Sequence[Errors]) -> Errors:
    """Several trainings of one network as one, in their order; all with the same kinds and severities. Raises ValueError or TypeError."""
    if not isinstance(runs, (list, tuple)) or not runs:
        raise (ValueError if isinstance(runs, (list, tuple)) else TypeError)(f"runs must be a list of Errors, one or more, got {got(runs)}")
    for i, run in enumerate(runs):
        _alike(f"runs[{i}]", _of_errors(f"runs[{i}]", run), "runs[0]", runs[0])
    return Errors(np.concatenate([run.clean for run in runs]), {kind: np.concatenate([run.corrupted[kind] for run in runs]) for kind in runs[0].corrupted})


def _alike(name: str, errors: Errors, other_name: str, other: Errors):
    """Whether both are of the same kinds and severities: a mean over other kinds is another measure."""
    if errors.corrupted.keys() != other.corrupted.keys():
        odd = sorted(errors.corrupted.keys() ^ other.corrupted.keys())[0]
        without = other_name if odd in errors.corrupted else name
        raise ValueError(f"{name} and {other_name} must have the same kinds, got {odd!r} in one and not in {without}")
    sizes = [next(iter(one.corrupted.values())).shape[1] for one in (errors, other)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{name} and {other_name} must have the same severities, got {sizes[0]} and {sizes[1]}")


def corruption_errors(model: Errors, reference: Errors, *, relative: bool = False) -> dict[str, np.ndarray]:
    """CE of each kind c, kind -> (n,): the model's errors summed over severities, sum_s E_sc, over that sum of the reference; 1 is as bad as it, 0 perfect.

    relative: sum_s (E_sc - E_clean) over the same of the reference: what corruption adds. A kind that hardly harms the reference then rules a mean over kinds.
    The errors of a reference of several trainings are averaged first. Raises ValueError for other kinds or severities than the reference's and for a
    kind that the reference makes no errors under (relative: that does not add to them), TypeError for what are no Errors.
    """
    _alike("model", _of_errors("model", model), "reference", _of_errors("reference", reference))
    relative = flag("relative", relative)
    base = {kind: float(errors.mean(1).mean() - relative * reference.clean.mean()) for kind, errors in reference.corrupted.items()}
    if none := [kind for kind, value in base.items() if value < _LEAST]:
        must = "err more under every kind than on clean pictures" if relative else "make errors under every kind"
        raise ValueError(f"reference must {must}, which is divided by, got {base[none[0]]:.4g} for {none[0]!r}")
    return {kind: (errors.mean(1) - relative * model.clean) / base[kind] for kind, errors in model.corrupted.items()}


def mean_corruption_error(model: Errors, reference: Errors, *, relative: bool = False) -> np.ndarray:
    """mCE, or relative mCE, (n,), one a training: the mean over kinds of `corruption_errors`, lower is better. Arguments and errors as there."""
    return np.mean(list(corruption_errors(model, reference, relative=relative).values()), axis=0)


def retention(model: Errors) -> np.ndarray:
    """The share of its accuracy that a network keeps, (n,): mean accuracy over kinds and severities, over the clean accuracy.

    1 where corruption costs nothing; chance level too is kept, so a weak network keeps more of little. Raises ValueError where nothing clean is right.
    """
    if (_of_errors("model", model).clean >= 1).any():
        raise ValueError(f"model must be right on some clean pictures, got the clean error 1 in training {int(model.clean.argmax())}")
    return (1 - np.mean([errors.mean(1) for errors in model.corrupted.values()], axis=0)) / (1 - model.clean)


def summary(model: Errors, reference: Errors, *, rival: Errors | None = None, of: str = "seeds") -> dict[str, Estimate]:
    """ "mCE", "relative mCE" and "retention" of two trainings or more, with their 95 % intervals over them; `of` names them in the plural.

    rival: another network, trained with the same seeds in the same order; the estimates are then the paired differences, model - rival. What intervals leave
    out stands above. Raises as `corruption_errors` and `retention` do, and ValueError for one training alone or a rival of another number.
    """
    several = [("model", model)] + ([] if rival is None else [("rival", rival)])
    for name, errors in several:
        _alike(name, _of_errors(name, errors), "reference", _of_errors("reference", reference))
        if len(errors) < 2 or len(errors) != len(model):
            raise ValueError(f"{name} must have {'at least two trainings, for an interval' if len(model) < 2 else len(model)}, got {len(errors)}")
    instance("of", of, str, "the name of the trainings in the plural")
    measures = {
        "mCE": lambda errors: mean_corruption_error(errors, reference),
        "relative mCE": lambda errors: mean_corruption_error(errors, reference, relative=True),
        "retention": retention,
    }
    if rival is None:
        return {name: interval(measure(model), of=of) for name, measure in measures.items()}
    return {name: paired(measure(model), measure(rival), of=of) for name, measure in measures.items()}
