"""Honest measures for pictures that mix two concepts: how much of the layout stayed, how much of the content came in.

The papers on mixing show pictures. Here a *case* is a picture of a known thing, the word of another one, and one noise that every method gets:

    todo = cases(["a photo of a cat", "a photo of a car"], [["rabbit", "teapot"], ["lamp"]], seed=4)     # three cases of two sources
    images = mix(pipe, todo.image * 2 - 1, todo.words, noise=todo.noise, ...).images / 2 + 0.5
    found = measure(judges.load(), images, todo)                                                         # found.layout, found.content, ...

Knobs trade one for the other, so methods are compared at the same layout: `gain` interpolates their curves and resamples the sources.
Pictures and tables may be tensors, numpy arrays or lists; numbers come back as numpy float64. Bad arguments raise ValueError or TypeError that names the
argument.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter
from torch import Tensor

from ..arguments import choice, got, instance, integer, numbers, real, texts
from ..models.judges import Judges, Reading, overlap
from ..toyworld import CATEGORIES
from ..toyworld.creatures import BACKGROUNDS, CreaturePictures, creatures_of
from . import statistics
from .statistics import Estimate

__all__ = [
    "ENOUGH_LAYOUT", "TRACE", "Cases", "Measures", "cases", "gain", "halves", "luminance_correlation", "measure", "mixed_share", "other_words", "probability",
    "sketched", "survives", "survives_longer",
]  # fmt: skip

FAMILIES = (("cat", "dog", "rabbit", "fox"), ("bird", "fish"), ("car", "teapot", "lamp"))
LATENT = (4, 16, 16)  # of toy-sd
BLUR = 4.0  # px, standard deviation of the second opinion on layout
MARGIN = 3  # px around the source's mask that do not count as background
ENOUGH_LAYOUT = 0.5  # intersection over union from which on a layout counts as kept
TRACE = 0.002  # the judge is nearly always sure; a picture shows both when content and source keep this probability each, see `halves`
PAPER = torch.tensor(BACKGROUNDS["paper"])
SKETCHED_FROM = 0.15  # share of paper in an object from which on it counts as sketched

# ------------------------------------------------------------------------------------------------------------------------------ cases


@dataclass(frozen=True)
class Cases:
    """n cases. image (n, 3, 64, 64) in [0, 1]; mask (n, 64, 64) bool, exact; sources, words: n categories each, what the picture shows and what is
    to come in; row (n,) int: which source picture; noise (n, 4, 16, 16): the case's own, the same for every method; pictures: the sources, once each."""

    image: Tensor
    mask: Tensor
    sources: list[str]
    words: list[str]
    row: np.ndarray
    noise: Tensor
    pictures: CreaturePictures

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Sequence[int]) -> "Cases":
        """Some of the cases, in the order given."""
        try:
            chosen = np.arange(len(self))[rows.tolist() if isinstance(rows, Tensor) else rows]
        except (IndexError, TypeError, ValueError):
            raise ValueError(f"rows must choose among {len(self)} cases: places, a mask or a slice, got {got(rows)}") from None
        if chosen.ndim != 1 or not len(chosen):
            raise ValueError(f"rows must choose at least one of {len(self)} cases, in a list, a mask or a slice, got {got(rows)}")
        rows = chosen.tolist()
        words, sources = ([many[r] for r in rows] for many in (self.words, self.sources))
        return Cases(self.image[rows], self.mask[rows], sources, words, self.row[rows], self.noise[rows], self.pictures)


def cases(captions: Sequence[str], contents: Sequence[Sequence[str]], *, seed: int, latent: tuple[int, int, int] = LATENT) -> Cases:
    """One case for each content word of each source: captions (m texts that the toy world can draw), contents (m lists of category names).

    What a caption leaves open, and the noise of every case, follow from `seed`. Raises ValueError for lists of unequal length, an unknown category,
    none at all.
    """
    captions, seed = texts("captions", captions), integer("seed", seed, low=0)
    latent = tuple(integer("latent", size, low=1) for size in instance("latent", latent, (tuple, list), "a tuple of three sizes"))
    if len(latent) != 3:
        raise ValueError(f"latent must be a tuple of three sizes, got {latent}")
    instance("contents", contents, (list, tuple), "a list of lists of words")
    contents = [
        texts("contents", some, options=CATEGORIES) if len(instance("contents", some, (list, tuple), "a list of lists of words")) else [] for some in contents
    ]
    if len(captions) != len(contents):
        raise ValueError(f"contents must hold one list for each of the {len(captions)} captions, got {len(contents)}")
    words = [word for some in contents for word in some]
    if not words:
        raise ValueError("contents must hold at least one word, got none")
    drawn = creatures_of(captions, seed)
    row = np.repeat(np.arange(len(captions)), [len(some) for some in contents])
    noise = torch.randn(len(row), *latent, generator=torch.Generator().manual_seed(seed))
    shown = [CATEGORIES[drawn.category[r]] for r in row]
    return Cases(drawn.image[row], drawn.mask[row], shown, words, row, noise, drawn)


def other_words(category: str, turn: int = 0) -> list[str]:
    """Three content words for a source: one of its own family, then one of each of the two others; `turn` moves on through each family.

    Raises ValueError for an unknown category.
    """
    category, turn = choice("category", category, CATEGORIES), integer("turn", turn, low=0)
    own = next(family for family in FAMILIES if category in family)
    pools = [[word for word in own if word != category], *(family for family in FAMILIES if family is not own)]
    return [pool[turn % len(pool)] for pool in pools]


# ------------------------------------------------------------------------------------------------------------------------------ measures


class Measures(NamedTuple):
    """Of n pictures, (n,) each. layout L: overlap of the judge's mask with the source's exact one; place: overlap of the boxes of these masks; luminance:
    second opinion, correlation of blurred luminances, cut at 0; content S and source R: probabilities; score M = 2LS / (L + S); background: mean change
    of pixels away from the source."""

    layout: np.ndarray
    place: np.ndarray
    luminance: np.ndarray
    content: np.ndarray
    source: np.ndarray
    score: np.ndarray
    background: np.ndarray


def measure(judges: Judges, images: Tensor, todo: Cases, reading: Reading | None = None) -> Measures:
    """Read pictures (n, 3, 64, 64) in [0, 1], one a case. reading: of the same pictures, where there is one already.

    Raises ValueError when there are more or fewer pictures than cases.
    """
    instance("todo", todo, Cases, "cases")
    if reading is None:
        instance("judges", judges, Judges, "judges, as load() of models.judges gives them")
    images = _pictures("images", images, f"{len(todo)} 3 64 64")
    reading = judges.read(images) if reading is None else _read(reading, len(todo))
    layout = overlap(reading.mask.cpu(), todo.mask.float()).double().numpy()
    content, source = (probability(reading, names) for names in (todo.words, todo.sources))
    both = layout + content
    score = np.divide(2 * layout * content, both, out=np.zeros_like(both), where=both > 0)
    away = [binary_dilation(mask, iterations=MARGIN) for mask in todo.mask.numpy()]
    change = (images.cpu() - todo.image).abs().mean(1).double().numpy()
    background = np.array([c[~m].mean() if not m.all() else np.nan for c, m in zip(change, away)])
    place = box_overlap(reading.mask.cpu(), todo.mask)
    return Measures(layout, place, luminance_correlation(images, todo.image), content, source, score, background)


def probability(reading: Reading, names: Sequence[str]) -> np.ndarray:
    """(n,) the judge's probability that picture i shows a names[i]."""
    rows = [CATEGORIES.index(name) for name in texts("names", names, count=len(_read(reading)), options=CATEGORIES)]
    return reading.category.cpu().double().numpy()[np.arange(len(rows)), rows]


def _read(reading: Reading, count: int | None = None) -> Reading:
    instance("reading", reading, Reading, "a judges' reading")
    if count is not None and len(reading) != count:
        raise ValueError(f"reading must be of {count} pictures, got one of {len(reading)}")
    return reading


def _pictures(name: str, images, shape: str, sizes: dict | None = None) -> Tensor:
    """Floating-point pictures in [0, 1], but for rounding, as judges take them."""
    images = numbers(name, images, shape, sizes, low=-1e-3, high=1.001)
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating-point pictures in [0, 1], got {images.dtype}")
    return images


def boxes(masks: Tensor) -> np.ndarray:
    """(n, 4) x0, y0, x1, y1 of masks (n, H, W): the box of evenly spread pixels with the mask's centre and spread, which a stray pixel hardly moves.

    Probabilities count from 0.5; NaN for an empty mask.
    """
    masks = numbers("masks", masks, "n H W", masks=True).cpu()
    out = []
    for mask in (masks > 0.5).numpy():
        y, x = np.nonzero(mask)
        if not len(x):
            out.append([np.nan] * 4)
            continue
        # a row of m pixels has the variance (m^2 - 1) / 12, so its half length is sqrt(3 variance + 1/4)
        half = [np.sqrt(3 * v.var() + 0.25) for v in (x, y)]
        out.append([x.mean() - half[0], y.mean() - half[1], x.mean() + half[0], y.mean() + half[1]])
    return np.array(out) + 0.5


def box_overlap(found: Tensor, masks: Tensor) -> np.ndarray:
    """(n,) intersection over union of the `boxes` of two masks (n, H, W): the place and size of an object, whatever its outline; 0 for an empty one."""
    if found.shape != masks.shape:
        raise ValueError(f"found {tuple(found.shape)} must match masks {tuple(masks.shape)}")
    a, b = boxes(found), boxes(masks)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.clip(sides, 0, None).prod(1)
    area = [(c[:, 2:] - c[:, :2]).prod(1) for c in (a, b)]
    return np.nan_to_num(common / (area[0] + area[1] - common))


def halves(first: CreaturePictures, second: CreaturePictures) -> Tensor:
    """(n, 3, H, W) true mixtures, to see whether a measure would notice one: the left half of one drawn picture beside the right half of another.

    Cut through the middle of both objects. Draw both with one seed and they share pose, colour and ground. Raises ValueError for other numbers.
    """
    for name, pictures in (("first", first), ("second", second)):
        instance(name, pictures, CreaturePictures, "pictures, as creatures_of of the toy world gives them")
    if len(first) != len(second):
        raise ValueError(f"second must be one for each of the {len(first)} pictures, got {len(second)}")
    if first.image.shape != second.image.shape:
        raise ValueError(f"second must be of the size of first, {tuple(first.image.shape)}, got {tuple(second.image.shape)}")
    columns = (first.mask | second.mask).double().sum(1)  # (n, W)
    middle = (columns @ torch.arange(columns.shape[1], dtype=torch.float64)) / columns.sum(1)
    left = torch.arange(columns.shape[1]) < middle[:, None]
    return torch.where(left[:, None, None], first.image, second.image)


def luminance_correlation(images: Tensor, others: Tensor, *, blur: float = BLUR) -> np.ndarray:
    """(n,) Pearson correlation of two pictures' luminances (n, 3, H, W), blurred by `blur` px, cut at 0; 0 where one is flat."""
    sizes = {}
    images, others = (numbers(name, pictures, "n 3 H W", sizes) for name, pictures in (("images", images), ("others", others)))
    blur = real("blur", blur, low=0)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    flat = []
    for pictures in (images, others):
        grey = torch.einsum("nchw,c->nhw", pictures.double().cpu(), weights).numpy()
        blurred = gaussian_filter(grey, (0, blur, blur)).reshape(len(grey), -1)
        flat.append(blurred - blurred.mean(1, keepdims=True))
    a, b = flat
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.clip(np.divide((a * b).sum(1), size, out=np.zeros(len(a)), where=size > 1e-9), 0, 1)


def sketched(images: Tensor, masks: Tensor, *, tolerance: float = 0.25) -> np.ndarray:
    """(n,) bool: whether enough of an object's pixels, images (n, 3, H, W) and masks (n, H, W), have the colour of the toy world's paper, which is what
    sketches are filled with. Right for more than 95 % of renders; False for an empty mask."""
    sizes, tolerance = {}, real("tolerance", tolerance, low=0)
    images = _pictures("images", images, "n 3 H W", sizes)
    masks = numbers("masks", masks, "n H W", sizes, low=0, high=1, masks=True).to(images.device)
    near = (images - PAPER.to(images)[:, None, None]).abs().amax(1) < tolerance
    inside = masks > 0.5
    return ((near & inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1) >= SKETCHED_FROM).cpu().numpy()


# ------------------------------------------------------------------------------------------------------------------------------ comparisons


def gain(ours: tuple, rival: tuple, *, points: int = 5, of: str = "sources") -> Estimate:
    """How much more content `ours` injects than `rival` at the same layout, with a 95 % interval: bootstrap over sources, paired.

    Both are (layout, content), (settings, n) each, on the same n >= 8 sources. A method's mean content at a mean layout lies on straight lines between
    its settings. Compared at `points` layouts inside the range that both curves cover (its two ends left out), averaged. Raises ValueError when the
    ranges do not overlap, for other shapes and for fewer sources.
    """
    points, of, tables, sizes = integer("points", points, low=1), _units(of), [], {}
    for name, pair in (("ours", ours), ("rival", rival)):
        if len(instance(name, pair, (tuple, list), "(layout, content)")) != 2:
            raise ValueError(f"{name} must be (layout, content), got {len(pair)} parts")
        tables += [_table(f"{name}[{i}]", part, f"{name} n", sizes) for i, part in enumerate(pair)]
    ends = [x.mean(1) for x in tables[::2]]
    low, high = max(x.min() for x in ends), min(x.max() for x in ends)
    if not low < high:
        raise ValueError(f"ours and rival must share a range of layouts, got {[(round(x.min(), 3), round(x.max(), 3)) for x in ends]}")
    places = np.linspace(low, high, points + 2)[1:-1]

    def difference(means) -> float:
        curves = [(x[order], y[order]) for x, y in zip(means[::2], means[1::2]) for order in [np.argsort(x)]]
        return float(np.mean(np.interp(places, *curves[0]) - np.interp(places, *curves[1])))

    return statistics.of_means(difference, tables, of=of)


def survives(levels: Sequence[float], curve: np.ndarray) -> float:
    """How much noise a quantity survives: the area under its curve over levels from 0 to 1, scaled to begin at 1 and to end at 0.

    curve (levels,) or (levels, n), averaged: agreement with the original after noise of each level. What is kept up to 0.4 and lost from there on survives
    0.4; what is lost evenly, 0.5. Raises ValueError for levels that do not rise from 0 to 1, another number of values, and a curve that does not fall.
    """
    levels, curve = (numbers(name, x, "...").cpu().double().numpy() for name, x in (("levels", levels), ("curve", curve)))
    if curve.ndim not in (1, 2):
        raise ValueError(f"curve must be (levels,) or (levels, n), got shape {curve.shape}")
    mean = curve if curve.ndim == 1 else curve.mean(1)
    if levels.ndim != 1 or len(levels) < 2 or levels[0] != 0 or levels[-1] != 1 or not (np.diff(levels) > 0).all() or len(mean) != len(levels):
        raise ValueError(f"levels must rise from 0 to 1, one for each of the {len(mean)} values of the curve, got {levels.tolist()}")
    if not mean[0] > mean[-1]:
        raise ValueError(f"curve must end below its beginning, got {mean[0]:.3g} to {mean[-1]:.3g}")
    left = np.clip((mean - mean[-1]) / (mean[0] - mean[-1]), 0, 1)
    return float(np.trapezoid(left, levels))


def survives_longer(levels: Sequence[float], first: np.ndarray, second: np.ndarray, *, scale: float = 1, of: str = "sources") -> Estimate:
    """`survives` of the first curve minus that of the second, times `scale` (100: percent), with its 95 % interval, paired; (levels, n) each, n >= 8."""
    scale, of, sizes = real("scale", scale), _units(of), {}
    levels = numbers("levels", levels, "K", sizes)
    tables = [_table(name, x, "K n", sizes) for name, x in (("first", first), ("second", second))]
    for name, table in zip(("first", "second"), tables):
        if not table[0].mean() > table[-1].mean():
            raise ValueError(f"{name} must end below its beginning, got {table[0].mean():.3g} to {table[-1].mean():.3g}")
    return statistics.of_means(lambda means: scale * (survives(levels, means[0]) - survives(levels, means[1])), tables, of=of)


def mixed_share(seen, none, halves, *, of: str = "sources") -> Estimate:
    """How often both concepts are seen: 0 where no more often than in pictures that know nothing of the source (`none`), 1 as often as in true mixtures.

    (n,) each, the share of a source's pictures that show both. A measure that sees both in true mixtures no more often than in none cannot say: the
    interval is then all of [0, 1], and the value its middle. Other errors of `statistics.ratio`.
    """
    of, sizes = _units(of), {}
    seen, none, halves = (_table(name, x, "n", sizes) for name, x in (("seen", seen), ("none", none), ("halves", halves)))
    if len(none) < statistics.FEW or statistics.paired(halves, none, of=of).low > 0:
        return statistics.ratio(seen - none, halves - none, of=of)
    return Estimate(0.5, 0.0, 1.0, len(none), 0.0, "nothing is told: true mixtures score like none")


def _table(name: str, values, shape: str, sizes: dict) -> np.ndarray:
    return numbers(name, values, shape, sizes).cpu().double().numpy()


def _units(of: str) -> str:
    return instance("of", of, str, "the name of the units in the plural")
