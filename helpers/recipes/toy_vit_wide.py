"""Recipe of data/models/toy-vit-wide: a small `ViTForImageClassification` that knows many things about pictures of many kinds, to be frozen and tuned.

One bank holds seven families of the toy world at 32 px (shapes, crowds, pairs, creatures and things, strokes, letters of an invented alphabet, surfaces of
invented materials). Every picture is asked several questions; each has its answers in the classifier. The class token must also tell, by one linear map,
a grey thumbnail of the picture, which needs no label. `python -m helpers.recipes.toy_vit_wide` runs it; checkpoints lie under .recipes/toy-vit-wide.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import ViTConfig, ViTForImageClassification

from ..datasets import tasks
from ..measures.statistics import paired
from ..toyworld import COLOURS, SHAPES, TEXTURES, creatures, scenes, shapes, strokes, surfaces
from ..toyworld.creatures import FACINGS, STYLES
from ..toyworld.skeletons import CATEGORIES
from . import training

NAME = "toy-vit-wide"
SEED = 2209
SIZE, PATCH, WIDTH, LAYERS, HEADS, HIDDEN = 32, 8, 128, 6, 4, 256
BANK = {"shapes": 8_000, "crowds": 8_000, "pairs": 8_000, "creatures": 20_000, "strokes": 8_000, "letters": 26_000, "surfaces": 8_000}
LETTERS, MATERIALS = 600, 200
STEPS, BATCH, LEARNING_RATE = 12_000, 64, 1.5e-3
SHIFT, LARGEST_NOISE = 3, 0.12  # px, share of the range
THUMBNAIL, THUMBNAIL_WEIGHT = 12, 0.5  # px a side; of its squared error beside the answers' loss
TRAIN_SEED, HELD_OUT_SEED, HELD_OUT = 16, 30, 400  # of the toy world; held-out pictures of every family that the card measures

_QUARTERS = ("top left", "top right", "bottom left", "bottom right")
_HUES = tuple(COLOURS)
SHOWN = {  # question -> answers, in the order of the classifier's outputs
    "family": ("shapes", "crowds", "pairs", "creatures", "strokes", "letters", "surfaces"),
    "shape": SHAPES, "colour": _HUES, "texture": TEXTURES, "size": ("small", "middling", "large"),
    "column": ("1", "2", "3", "4"), "row": ("1", "2", "3", "4"), "how many": ("1", "2", "3", "4"),
    **{f"shape {q}": ("none", *SHAPES) for q in _QUARTERS}, **{f"colour {q}": ("none", *_HUES) for q in _QUARTERS},
    "shape of the left one": SHAPES, "shape of the right one": SHAPES, "colour of the left one": _HUES, "colour of the right one": _HUES,
    "category": CATEGORIES, "style": STYLES, "facing": FACINGS, "tilt": ("1", "2", "3", "4"),
    "strokes": ("1", "2", "3"), "crossings": ("0", "1", "2", "3", "more"), "loops": ("0", "1", "2", "more"), "ends": tuple("0123456"),
    "direction": ("across", "falling", "down", "rising"), "pen": ("fine", "middling", "broad"),
    "relief": surfaces.RELIEFS, "grain": ("across", "falling", "down", "rising", "none"), "period": ("fine", "middling", "coarse"),
}  # fmt: skip
HIDDEN_QUESTIONS = {"letter": LETTERS, "material": MATERIALS}  # asked in training; their answers are not kept
WEIGHTS = {"letter": 5.0, "category": 4.0, "material": 2.0}  # others 1
PROBES = (
    "digits", "mnist", "faces", "real textures", "photographs", "grey surfaces", "shape", "colour", "how many", "which quarter", "category", "facing", "tilt",
    "same shape", "same colour", "touching", "shape of the smaller", "colour of the smaller", "where is the larger", "is there a star",
)  # fmt: skip
ASKED = ("shape", "colour", "how many", "category", "facing")  # of them in training too
PROBE_SEEDS, STRENGTHS = 5, (0.001, 0.01, 0.1, 1.0)
PROBE_SIZES = {"other": dict(train=400, validation=200, test=400), "digits": dict(train=400, validation=200, test=359),
               "faces": dict(train=120, validation=40, test=40)}  # fmt: skip
ANSWERS = tuple(f"{question}: {answer}" for question, answers in SHOWN.items() for answer in answers)
QUESTIONS = {**{question: len(answers) for question, answers in SHOWN.items()}, **HIDDEN_QUESTIONS}


def make_vit() -> ViTForImageClassification:
    return ViTForImageClassification(ViTConfig(
        image_size=SIZE, patch_size=PATCH, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=HIDDEN,
        id2label=dict(enumerate(ANSWERS)), label2id={name: i for i, name in enumerate(ANSWERS)},
    ))  # fmt: skip


def pixel_values(images: Tensor) -> Tensor:
    """Pictures in [0, 1] -> what the transformer reads, in [-1, 1]."""
    return 2 * images - 1


# ------------------------------------------------------------------------------------------------------------------------- the bank


@dataclass
class Bank:
    """images (N, 3, 32, 32) uint8; labels (N, questions) int16: the answer to each of QUESTIONS, -1 where it is not asked."""

    images: Tensor
    labels: Tensor


def _bins(values: Tensor, *edges: float) -> Tensor:
    return torch.bucketize(values.double().contiguous(), torch.tensor(edges, dtype=torch.float64))


def _of_shapes(seed, rows):
    p = shapes.shapes(seed, rows, size=SIZE)
    at = {name: _bins(p.position[:, axis], *(SIZE * q / 4 for q in (1.4, 2, 2.6))) for axis, name in enumerate(("column", "row"))}
    return p.image, {"shape": p.shape, "colour": p.colour, "texture": p.texture, "size": _bins(p.radius / SIZE, 0.2, 0.255), **at}


def _of_crowds(seed, rows):
    p = scenes.crowds(seed, rows, size=SIZE)
    quarter = (p.position > SIZE / 2).long() @ torch.tensor([1, 2])
    asked = {"how many": p.count - 1}
    for what in ("shape", "colour"):
        shown = torch.zeros(len(p), 4, dtype=torch.long).scatter_reduce(1, quarter, getattr(p, what) + 1, "amax")
        asked |= {f"{what} {name}": shown[:, q] for q, name in enumerate(_QUARTERS)}
    return p.image, asked


def _of_pairs(seed, rows):
    p = scenes.pairs(seed, rows, size=SIZE)
    order = p.position[:, :2, 0].argsort(1)
    return p.image, {
        f"{what} of the {side} one": getattr(p, what).gather(1, order)[:, k] for what in ("shape", "colour") for k, side in enumerate(("left", "right"))
    }


def _of_creatures(seed, rows):
    p = creatures.creatures(seed, rows, size=SIZE)
    return p.image, {
        "category": p.category,
        "texture": p.texture,
        "colour": p.colour,
        "style": p.style,
        "facing": p.facing,
        "tilt": _bins(p.angle, -0.2, 0, 0.2),
    }


def _of_strokes(seed, rows, draw=strokes.strokes, **options):
    p = draw(seed, rows, size=SIZE, **options)
    asked = {"strokes": p.count - 1, "crossings": p.crossings.clamp_max(4), "loops": p.loops.clamp_max(3), "ends": p.ends,
             "direction": p.direction.argmax(1), "pen": _bins(p.width / SIZE, 0.075, 0.11)}  # fmt: skip
    return p.image, asked | ({"letter": p.letter} if options else {})


def _of_letters(seed, rows):
    return _of_strokes(seed, rows, strokes.letters, alphabet=SEED, count=LETTERS)


def _of_surfaces(seed, rows):
    p = surfaces.surfaces(seed, rows, world=SEED, count=MATERIALS, size=SIZE)
    grain = torch.where(p.spread > 1, 4, (p.angle / (torch.pi / 4)).round().long() % 4)
    return p.image, {"material": p.material, "relief": p.relief, "grain": grain, "period": _bins(p.period, 5, 10)}


_FAMILIES = dict(zip(SHOWN["family"], (_of_shapes, _of_crowds, _of_pairs, _of_creatures, _of_strokes, _of_letters, _of_surfaces)))


def draw(seed: int, counts: dict[str, int], label: str) -> Bank:
    """So many pictures of each family, with the answers to what they are asked."""
    images, labels = [], []
    for number, (family, count) in enumerate(counts.items()):
        for start in tqdm(range(0, count, 200), desc=f"{label}, {family}", mininterval=5):
            image, asked = _FAMILIES[family](seed + number, range(start, min(start + 200, count)))
            asked["family"] = torch.full((len(image),), SHOWN["family"].index(family))
            images.append((image * 255).round().to(torch.uint8))
            labels.append(torch.stack([asked.get(q, torch.full((len(image),), -1)) for q in QUESTIONS], 1).to(torch.int16))
    return Bank(torch.cat(images), torch.cat(labels))


def make_bank(work: Path) -> Bank:
    """Render once; later calls read what lies under `work`."""
    rank, _ = training.join_processes()
    path = work / "bank.pt"
    if rank == 0 and not path.exists():
        training.save_atomically(vars(draw(TRAIN_SEED, BANK, "rendering")), path)
    training.wait_for_all()
    return Bank(**torch.load(path, weights_only=True))


# ------------------------------------------------------------------------------------------------------------------------- training


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture of (B, 3, H, W) in [0, 1] is moved by up to SHIFT px (edges repeated), made lighter or darker, and half of them get noise; an eighth
    of a batch is seen with 8 px a side only, an eighth with 12, and an eighth behind a grey square."""
    b, _, height, width = images.shape
    wide = F.pad(images, (SHIFT,) * 4, mode="replicate")
    moves = torch.randint(2 * SHIFT + 1, (2, b, 1), generator=generator)
    y, x = (move + torch.arange(side) for move, side in zip(moves, (height, width)))
    images = wide[torch.arange(b)[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
    eighth = b // 8
    for k, cells in enumerate((8, 12)):
        some = slice(k * eighth, (k + 1) * eighth)
        images[some] = F.interpolate(F.interpolate(images[some], size=(cells, cells), mode="area"), size=(height, width), mode="bilinear")
    top, left = torch.randint(height - height // 3, (2, eighth), generator=generator)
    for image, t, s in zip(images[2 * eighth : 3 * eighth], top.tolist(), left.tolist()):
        image[:, t : t + height // 3, s : s + width // 3] = 0.5
    gain = 0.4 + 0.75 * torch.rand(b, 1, 1, 1, generator=generator)
    sigma = (LARGEST_NOISE * (2 * torch.rand(b, 1, 1, 1, generator=generator) - 1)).clamp_min(0)
    return (images * gain + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 1)


class Pupil(nn.Module):
    """A model with `classifier`, and what is only needed while it learns: the answers that are not kept, and the thumbnail. `features`: (model, pixel values)
    -> what the classifier reads."""

    def __init__(self, model: nn.Module, features: Callable):
        super().__init__()
        self.model, self.features, width = model, features, model.classifier.in_features
        self.hidden_answers = nn.Linear(width, sum(HIDDEN_QUESTIONS.values()))
        self.thumbnail = nn.Linear(width, THUMBNAIL**2)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.features(self.model, pixels)
        return torch.cat([self.model.classifier(feature), self.hidden_answers(feature)], 1), self.thumbnail(feature)


def class_token(model: ViTForImageClassification, pixels: Tensor) -> Tensor:
    """After the last norm: what the classifier reads."""
    return model.vit(pixels).last_hidden_state[:, 0]


def thumbnails(images: Tensor) -> Tensor:
    """(B, THUMBNAIL^2): grey, few pixels, each picture's mean taken off and its contrast brought to one."""
    small = F.interpolate(images.mean(1, keepdim=True), size=(THUMBNAIL, THUMBNAIL), mode="area").flatten(1)
    small = small - small.mean(1, keepdim=True)
    return small / small.std(1, keepdim=True).clamp_min(0.02)


def answers_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over pictures of the weighted mean over their questions of the cross entropy, in units of a blind guess's; logits (B, answers), labels
    (B, questions)."""
    total, asked = logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
    for (question, count), some, label in zip(QUESTIONS.items(), logits.split(list(QUESTIONS.values()), 1), labels.long().unbind(1)):
        weight = WEIGHTS.get(question, 1.0)
        total = total + weight * F.cross_entropy(some, label, ignore_index=-1, reduction="none") / torch.tensor(count).log()
        asked = asked + weight * (label >= 0)
    return (total / asked).mean()


def train(bank: Bank, work: Path, device: torch.device, stop_at: int | None = None) -> ViTForImageClassification:
    torch.manual_seed(SEED)
    return teach(Pupil(make_vit(), class_token), bank, work, device, steps=STEPS, learning_rate=LEARNING_RATE, seed=SEED, stop_at=stop_at)


def teach(pupil: Pupil, bank: Bank, work: Path, device: torch.device, *, steps: int, learning_rate: float, seed: int, stop_at: int | None = None) -> nn.Module:
    """The pupil's model after so many steps of BATCH pictures, its weights averaged; `.seconds` says how long they took."""
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)

    def loss_of(pupil: Pupil, step: int) -> Tensor:
        generator = training.step_generator(seed, step)
        rows = torch.randint(len(bank.images), (BATCH,), generator=generator)
        images = augment(bank.images[rows] / 255, generator)[mine].to(device)
        with training.autocast_with_attention(device):
            logits, thumbnail = pupil(pixel_values(images))
        told = answers_loss(logits.float(), bank.labels[rows][mine].to(device))
        return told + THUMBNAIL_WEIGHT * F.mse_loss(thumbnail.float(), thumbnails(images))

    taught = training.train(pupil.to(device), loss_of, steps=steps, checkpoint=work / "model.pt", learning_rate=learning_rate, warmup=300, decay=0.998,
                            weight_decay=0.05, label=work.name, stop_at=stop_at)  # fmt: skip
    taught.model.seconds = taught.seconds
    return taught.model


# ------------------------------------------------------------------------------------------------------------------- measured quality


@torch.no_grad()
def features_of(model: nn.Module, images: Tensor, features: Callable = class_token) -> Tensor:
    """What the classifier reads: pictures (N, 3, 32, 32) in [0, 1] -> (N, WIDTH)."""
    return torch.cat([features(model, pixel_values(some)) for some in images.split(100)])


@torch.no_grad()
def held_out_accuracy(model: nn.Module, count: int) -> dict[str, tuple[float, float, int]]:
    """Of every question that is kept: (percent right, percent for the answer that is commonest, pictures), `count` pictures a family that training never
    saw."""
    bank = draw(HELD_OUT_SEED, dict.fromkeys(BANK, count), "held-out pictures")
    logits = torch.cat([model(pixel_values(some / 255)).logits for some in bank.images.split(100)])
    quality = {}
    for (question, answers), some, label in zip(SHOWN.items(), logits.split([len(a) for a in SHOWN.values()], 1), bank.labels.long().unbind(1)):
        asked = label >= 0
        commonest = label[asked].bincount(minlength=len(answers)).max().item() / asked.sum().item()
        quality[question] = (100 * (some.argmax(1) == label)[asked].double().mean().item(), 100 * commonest, int(asked.sum()))
    return quality


def linear_probe(task: tasks.Task, describe: Callable) -> float:
    """Percent right of logistic regression on standardised features; its C of STRENGTHS is chosen on the validation pictures (ties: the smaller)."""
    (known, labels), (tried, tried_labels), (asked, asked_labels) = ((describe(p.images), p.labels.numpy()) for p in (task.train, task.validation, task.test))
    mean, std = known.mean(0), known.std(0) + 1e-6
    known, tried, asked = (((x - mean) / std).numpy() for x in (known, tried, asked))
    heads = [LogisticRegression(max_iter=400, C=c).fit(known, labels) for c in STRENGTHS]
    best = max(heads, key=lambda head: head.score(tried, tried_labels))
    return 100 * best.score(asked, asked_labels)


def pixels(images: Tensor) -> Tensor:
    """Bare pixels, two by two averaged: (N, 3 * 16 * 16)."""
    return F.avg_pool2d(images, 2).flatten(1)


def probe(model: nn.Module, name: str, seed: int, fresh: Callable = make_vit, features: Callable = class_token) -> dict[str, float]:
    """Percent right of linear probes on a task: of this model, of an untrained twin (another for every seed), of bare pixels."""
    task = tasks.load(name, seed=seed, size=SIZE, **PROBE_SIZES.get(name, PROBE_SIZES["other"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = fresh().eval()
    ways = {"trained": lambda x: features_of(model, x, features), "untrained": lambda x: features_of(twin, x, features), "pixels": pixels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties stop after 400 rounds
        return {way: linear_probe(task, describe) for way, describe in ways.items()}


# -------------------------------------------------------------------------------------------------------------------------- the folder


def probes_table(probed: pd.DataFrame) -> str:
    """Markdown: a row a task, means over seeds; the gain over the untrained twin is paired by seed, the last row's interval is over tasks."""
    by_task = probed.groupby("task", sort=False)
    means, rows = by_task[["trained", "untrained", "pixels"]].mean(), []
    for name, some in by_task:
        cells = [f"{means.loc[name, way]:.1f}" for way in means] + [
            str(paired(some.trained, some.untrained, of="seeds")),
            str(paired(some.trained, some.pixels, of="seeds")),
        ]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    gains = [str(paired(means.trained, means[other], of="tasks")) for other in ("untrained", "pixels")]
    rows.append(f"| mean of {len(means)} tasks | " + " | ".join(f"{means[way].mean():.1f}" for way in means) + f" | {gains[0]} | {gains[1]} |")
    return "| task | this model | untrained | pixels | gain over untrained | gain over pixels |\n| --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows)


def answers_table(quality: dict[str, tuple[float, float, int]]) -> str:
    rows = "\n".join(f"| {question} | {right:.1f} % | {commonest:.1f} % | {count} |" for question, (right, commonest, count) in quality.items())
    return f"| question | right | commonest answer | pictures |\n| --- | --- | --- | --- |\n{rows}"


def all_probes(model: nn.Module, names: Sequence[str], seeds: int, **options) -> pd.DataFrame:
    """A row for each task and seed: see `probe`."""
    rows = [(name, seed) for name in names for seed in range(seeds)]
    return pd.DataFrame([{"task": name, "seed": seed, **probe(model, name, seed, **options)} for name, seed in tqdm(rows, desc="probes", mininterval=5)])


def card(quality: dict, probed: pd.DataFrame, milliseconds: float, trained: nn.Module, device: torch.device) -> str:
    """The model card, as text."""
    thousands = sum(p.numel() for p in trained.parameters()) / 1e3
    means = probed.groupby("task")[["trained", "untrained", "pixels"]].mean()
    families = ", ".join(f"{count:,} {family}" for family, count in BANK.items())
    above = int((means.trained > means.pixels).sum())
    return f"""# {NAME}

A small `ViTForImageClassification` ({thousands:.0f} k parameters, half-precision weights) that knows many things about pictures of many kinds, to be frozen and
tuned. It loads by `ViTForImageClassification.from_pretrained("data/models/{NAME}", dtype=torch.float32)` without this package. Made by
`make model NAME={NAME}`.

- **Call**: `pixel_values` (B, 3, {SIZE}, {SIZE}), pictures in [0, 1] as 2 x - 1. `model.vit(...).last_hidden_state[:, 0]` are features (B, {WIDTH}). The
  {len(ANSWERS)} logits are answers to {len(SHOWN)} questions, a softmax for each; `config.id2label` names them ("loops: 2").
- **Data**: {sum(BANK.values()):,} pictures of toy-world seeds {TRAIN_SEED} to {TRAIN_SEED + len(BANK) - 1}:
  {families}. No digit and no photograph is among them.
  Letters are those of an invented alphabet of {LETTERS}, each written in many hands; surfaces are of {MATERIALS} invented materials. Pictures are
  moved by up to {SHIFT} px, made lighter or darker; half get noise, a quarter are seen with few pixels only, an eighth behind a grey square.
- **What is learnt**: the questions below, which letter, which material (answers that are not kept), and from the same class token, by one linear map, a grey
  thumbnail of {THUMBNAIL} x {THUMBNAIL} px, which needs no label.
- **Training**: {STEPS:,} steps of {BATCH} pictures, {trained.seconds / 60:.0f} minutes; {training.machine_kind(device)}. AdamW, averaged weights. The minutes
  were counted on cores that did other work as well.
- **Speed**: {milliseconds:.2f} ms a picture on one core.

Linear probes: logistic regression on frozen, standardised features; 400 training pictures, 200 to choose the strength of the penalty, 400 to test (faces: 120,
40, 40; digits: 359 to test); percent right, means over {PROBE_SEEDS} seeds, each with pictures and an untrained twin of its own. Pixels are averaged two by
two. Gains are in points, with 95 % intervals over seeds (last row: over tasks). Tasks of `datasets.tasks`; {", ".join(ASKED)} were asked
in training too, of other pictures. Above pixels in {above} of {len(PROBES)} tasks.

{probes_table(probed)}

Answers on held-out pictures of toy-world seeds {HELD_OUT_SEED} to {HELD_OUT_SEED + len(BANK) - 1}:

{answers_table(quality)}
"""


def milliseconds_a_picture(model: nn.Module, features: Callable = class_token) -> float:
    """On one core, a hundred at a time: the median of five."""
    images, seconds = torch.rand(100, 3, SIZE, SIZE), []
    for _ in range(5):
        start = time.monotonic()
        features_of(model, images, features)
        seconds.append(time.monotonic() - start)
    return 10 * sorted(seconds)[2]


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    model = train(make_bank(work), work, device)
    if rank > 0:
        return
    training.write_folder(model.cpu().eval().half(), out)
    loaded = ViTForImageClassification.from_pretrained(out, dtype=torch.float32).eval()
    text = card(held_out_accuracy(loaded, HELD_OUT), all_probes(loaded, PROBES, PROBE_SEEDS), milliseconds_a_picture(loaded), model, device)
    (out / "README.md").write_text(text)
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
