"""Recipe of data/models/toy-vit: a small `ViTForImageClassification`, trained on the toy world's creatures and things.

It tells 45 classes apart: nine categories in four textures as photos, and the nine categories as sketches (a texture hardly shows in a sketch). A bank
of pictures is rendered once. `python -m helpers.recipes.toy_vit` runs it; checkpoints lie under .recipes/toy-vit.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm.auto import tqdm
from transformers import ViTConfig, ViTForImageClassification

from ..datasets import tasks
from ..toyworld import creatures as world
from ..toyworld.render import TEXTURES
from . import training

NAME = "toy-vit"
SEED = 2010
SIZE, PATCH, WIDTH, LAYERS, HEADS, HIDDEN = 64, 8, 160, 6, 5, 480
CLASSES = tuple(f"{texture} {category}" for category in world.CATEGORIES for texture in TEXTURES) + tuple(f"sketch of a {c}" for c in world.CATEGORIES)
BANK, SKETCHES = 27_000, 0.2  # pictures, and the share of sketches among them
STEPS, BATCH, LEARNING_RATE = 10_000, 64, 1.5e-3
SHIFT, LARGEST_NOISE, SMOOTHING = 4, 0.03, 0.05  # px, share of the range, label smoothing
TRAIN_SEED, HELD_OUT_SEED, HELD_OUT = 6, 7, 2000  # of the toy world; held-out pictures that the card measures
PROBES = ("digits", "shape", "how many", "touching", "same colour", "facing", "real textures")  # tasks with other labels, for linear probes


def make_vit() -> ViTForImageClassification:
    return ViTForImageClassification(ViTConfig(
        image_size=SIZE, patch_size=PATCH, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=HIDDEN,
        id2label=dict(enumerate(CLASSES)), label2id={name: i for i, name in enumerate(CLASSES)},
    ))  # fmt: skip


def pixel_values(images: Tensor) -> Tensor:
    """Pictures in [0, 1] -> what the transformer reads, in [-1, 1]."""
    return 2 * images - 1


@dataclass
class Bank:
    """images (N, 3, 64, 64) uint8; labels (N,) int64, indices into CLASSES."""

    images: Tensor
    labels: Tensor


def draw(seed: int, count: int, label: str) -> Bank:
    """`count` pictures of a seed, SKETCHES of them sketches, with their classes."""
    images, labels = [], []
    sketches = round(SKETCHES * count)
    for style, first, total in (("photo", 0, count - sketches), ("sketch", 10**7, sketches)):
        for start in tqdm(range(0, total, 200), desc=f"{label}, {style}", mininterval=5):
            p = world.creatures(seed, range(first + start, first + min(start + 200, total)), size=SIZE, styles=(style,))
            images.append((p.image * 255).round().to(torch.uint8))
            photo = p.category * len(TEXTURES) + p.texture
            labels.append(photo if style == "photo" else len(TEXTURES) * len(world.CATEGORIES) + p.category)
    return Bank(torch.cat(images), torch.cat(labels))


def make_bank(work: Path) -> Bank:
    """Render once; later calls read what lies under `work`."""
    rank, _ = training.join_processes()
    path = work / "bank.pt"
    if rank == 0 and not path.exists():
        training.save_atomically(vars(draw(TRAIN_SEED, BANK, "rendering")), path)
    training.wait_for_all()
    return Bank(**torch.load(path, weights_only=True))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture of (B, 3, H, W) in [0, 1] is moved by up to SHIFT px (edges repeated), mirrored or not, made lighter or darker, and gets some noise."""
    b, _, height, width = images.shape
    wide = F.pad(images, (SHIFT,) * 4, mode="replicate")
    moves = torch.randint(2 * SHIFT + 1, (b, 2), generator=generator).tolist()
    images = torch.stack([one[:, y : y + height, x : x + width] for one, (y, x) in zip(wide, moves)])
    mirrored = torch.rand(b, 1, 1, 1, generator=generator) < 0.5
    gain = 0.85 + 0.3 * torch.rand(b, 1, 1, 1, generator=generator)
    sigma = LARGEST_NOISE * torch.rand(b, 1, 1, 1, generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    return (torch.where(mirrored, images.flip(3), images) * gain + sigma * noise).clamp(0, 1)


def train(bank: Bank, work: Path, device: torch.device, stop_at: int | None = None) -> ViTForImageClassification:
    torch.manual_seed(SEED)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    model = make_vit().to(device)

    def loss_of(model: ViTForImageClassification, step: int) -> Tensor:
        generator = training.step_generator(SEED, step)
        rows = torch.randint(len(bank.images), (BATCH,), generator=generator)
        images = augment(bank.images[rows] / 255, generator)[mine]
        with training.autocast(device):
            logits = model(pixel_values(images).to(device)).logits
        return F.cross_entropy(logits.float(), bank.labels[rows][mine].to(device), label_smoothing=SMOOTHING)

    return training.train(model, loss_of, steps=STEPS, checkpoint=work / "model.pt", learning_rate=LEARNING_RATE, warmup=300, decay=0.998,
                          weight_decay=0.05, label="classifier", stop_at=stop_at)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------- measured quality


@torch.no_grad()
def features_of(model: ViTForImageClassification, images: Tensor) -> Tensor:
    """The class token after the last norm, which the classifier reads: pictures (N, 3, 64, 64) in [0, 1] -> (N, WIDTH)."""
    return torch.cat([model.vit(pixel_values(some)).last_hidden_state[:, 0] for some in images.split(100)])


def held_out_accuracy(model: ViTForImageClassification, count: int) -> dict[str, tuple[float, int]]:
    """(percent right, number of pictures) on pictures that training never saw: of all, of photos, of sketches, and of categories and textures alone."""
    bank = draw(HELD_OUT_SEED, count, "held-out pictures")
    with torch.no_grad():
        said = torch.cat([model(pixel_values(some / 255)).logits.argmax(1) for some in bank.images.split(100)])
    photos = len(TEXTURES) * len(world.CATEGORIES)
    is_photo, both = bank.labels < photos, (bank.labels < photos) & (said < photos)

    def category(labels: Tensor) -> Tensor:
        return torch.where(labels < photos, labels // len(TEXTURES), labels - photos)

    same = said == bank.labels
    same_texture = (said % len(TEXTURES) == bank.labels % len(TEXTURES))[both]
    right = {"class": same, "class, photos": same[is_photo], "class, sketches": same[~is_photo], "category": category(said) == category(bank.labels),
             "texture, photos": same_texture}  # fmt: skip
    return {name: (100 * values.double().mean().item(), len(values)) for name, values in right.items()}


def probes(model: ViTForImageClassification, *, train_count: int = 400, test_count: int = 300) -> dict[str, dict[str, float]]:
    """Percent right of a linear classifier on frozen features, task by task: of this model, of an untrained one, and of bare pixels (16 x 16)."""
    torch.manual_seed(SEED)
    fresh = make_vit().eval()
    ways = {NAME: lambda x: features_of(model, x), "untrained": lambda x: features_of(fresh, x), "pixels": lambda x: F.avg_pool2d(x, SIZE // 16).flatten(1)}
    quality = {}
    for name in PROBES:
        task = tasks.load(name, train=train_count, validation=1, test=test_count, size=SIZE)
        quality[name] = {}
        for way, describe in ways.items():
            known, asked = describe(task.train.images), describe(task.test.images)
            mean, std = known.mean(0), known.std(0) + 1e-6
            head = LogisticRegression(max_iter=1000, C=0.1).fit(((known - mean) / std).numpy(), task.train.labels.numpy())
            quality[name][way] = 100 * head.score(((asked - mean) / std).numpy(), task.test.labels.numpy())
    return quality


# -------------------------------------------------------------------------------------------------------------------------- the folder


def milliseconds_a_picture(model: ViTForImageClassification) -> float:
    """On one core, a hundred at a time: the median of five."""
    images, seconds = torch.rand(100, 3, SIZE, SIZE), []
    for _ in range(5):
        start = time.monotonic()
        features_of(model, images)
        seconds.append(time.monotonic() - start)
    return 10 * sorted(seconds)[2]


def card(quality: dict, probed: dict[str, dict[str, float]], milliseconds: float, trained, device: torch.device) -> str:
    """The model card, as text."""
    millions = sum(p.numel() for p in trained.parameters()) / 1e6
    accuracy = "\n".join(f"| {name} | {value:.1f} % | {count} |" for name, (value, count) in quality.items())
    rows = "\n".join(f"| {name} | " + " | ".join(f"{value:.1f} %" for value in ways.values()) + " |" for name, ways in probed.items())
    return f"""# {NAME}

A small `ViTForImageClassification` ({millions:.2f} M parameters, half-precision weights) that tells {len(CLASSES)} classes of toy-world pictures apart:
{len(world.CATEGORIES)} categories in {len(TEXTURES)} textures as photos, and the categories as sketches. It loads by
`ViTForImageClassification.from_pretrained("data/models/{NAME}", dtype=torch.float32)` without this package. Made by `make model NAME={NAME}`.

- **Call**: `pixel_values` (B, 3, {SIZE}, {SIZE}), pictures in [0, 1] as 2 x - 1. `model.vit(...).last_hidden_state[:, 0]` are features (B, {WIDTH}).
- **Data**: {BANK:,} pictures of toy-world seed {TRAIN_SEED}, one in {round(1 / SKETCHES)} a sketch; moved by up to {SHIFT} px, mirrored, made
  lighter or darker, with a little noise.
- **Training**: {STEPS} steps of {BATCH} pictures, {trained.seconds / 60:.0f} minutes; {training.machine_kind(device)}. AdamW, averaged
  weights, labels smoothed by {SMOOTHING}.
- **Speed**: {milliseconds:.1f} ms a picture on one core.

Measured on held-out pictures of toy-world seed {HELD_OUT_SEED}:

| right | | pictures |
| --- | --- | --- |
{accuracy}

Linear probes: logistic regression on frozen features (400 training and 300 test pictures; tasks of `datasets.tasks`, whose labels it was not trained on):

| task | {NAME} | untrained | pixels |
| --- | --- | --- | --- |
{rows}
"""


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    model = train(make_bank(work), work, device)
    if rank > 0:
        return
    training.write_folder(model.cpu().eval().half(), out)
    loaded = ViTForImageClassification.from_pretrained(out, dtype=torch.float32).eval()
    (out / "README.md").write_text(card(held_out_accuracy(loaded, HELD_OUT), probes(loaded), milliseconds_a_picture(loaded), model, device))
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
