"""Recipe of data/models/toy-contrast: a small self-supervised vision transformer, trained without labels on the pictures of toy-sd.

Two views of a picture, cropped, flipped and recoloured, must be told from those of other pictures: as wholes, by SimCLR's loss (Chen et al.
2020), and point by point, since it is known which point of one view is which of the other (VADeR, Pinheiro et al. 2020). The class is
`Dinov2Model`, which takes pictures of any size. Pictures are rendered while training, none are kept.
`python -m helpers.recipes.toy_contrast` trains it; checkpoints lie under .recipes/toy-contrast.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from ..measures import correspondence, matching
from ..methods.diffusion_features import pck_table
from ..toyworld import creatures as world
from . import toy_sd, training

NAME = "toy-contrast"
SEED = 2105
SIZE, PATCH, WIDTH, LAYERS, HEADS = toy_sd.SIZE, 4, 128, 6, 4
STEPS, BATCH, LEARNING_RATE = 2400, 32, 1e-3
GROUP = 16  # pictures that are told from each other: half a batch, so that two processes compute what one alone would
VIEW_SIZE = {0: 48, 2100: 64}  # side of a view in px, from each step on: small first, at the pictures' own size in the end
AREA = (0.35, 1.0)  # share of the picture that a view shows; any two such views overlap in the middle
POINTS, NEAR = 32, 4.0  # points of a picture that are found in its other view; those nearer than so many px are not told apart
HIDDEN, PROJECTED, TEMPERATURE = 256, 64, 0.1
PAIRS = 34  # of each category, that the finished model's keypoints are measured on


def make_vit() -> Dinov2Model:
    return Dinov2Model(Dinov2Config(
        image_size=SIZE, patch_size=PATCH, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, mlp_ratio=4,
    ))  # fmt: skip


def pixel_values(images: Tensor) -> Tensor:
    """Pictures in [0, 1] -> what the transformer reads, in [-1, 1]."""
    return 2 * images - 1


# ------------------------------------------------------------------------------------------------------------------------------ views


@dataclass
class Views:
    """How N views are taken: theta (N, 2, 3), which part of the picture is seen, in `affine_grid`'s coordinates; colour (N, 3, 3), matrices on
    RGB; contrast, brightness, blur (N,)."""

    theta: Tensor
    colour: Tensor
    contrast: Tensor
    brightness: Tensor
    blur: Tensor

    def __getitem__(self, rows) -> "Views":
        return Views(*(value[rows] for value in vars(self).values()))


def draw_views(count: int, area: tuple[float, float], generator: torch.Generator) -> Views:
    """Random crops (share of the picture in `area`, sides 3:4 to 4:3), flips (1 in 2), colours (changed in 4 of 5, grey in 1 of 5), blur (1 in 2)."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    share, ratio = uniform(*area), uniform(math.log(3 / 4), math.log(4 / 3)).exp().sqrt()
    width, height = (share.sqrt() * ratio).clamp(max=1), (share.sqrt() / ratio).clamp(max=1)
    x, y = (1 - width) * uniform(-1, 1), (1 - height) * uniform(-1, 1)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    theta = torch.stack([width * flip, zero, x, zero, height, y], 1).view(count, 2, 3)
    changed = (uniform(0, 1) < 0.8).float()
    turn, saturation = changed * uniform(-0.6, 0.6), 1 + changed * uniform(-0.4, 0.4)
    saturation = torch.where(uniform(0, 1) < 0.2, 0.0, saturation)
    contrast, brightness = 1 + changed * uniform(-0.4, 0.4), changed * uniform(-0.2, 0.2)
    return Views(theta, turned_hue(turn, saturation), contrast, brightness, (uniform(0, 1) < 0.5) * uniform(0, 1))


def turned_hue(angle: Tensor, saturation: Tensor) -> Tensor:
    """Matrices (N, 3, 3) on RGB that turn the hue by `angle` (N,) radians about the grey axis and scale the distance from grey by `saturation` (N,)."""
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cos, sin = (saturation * angle.cos())[:, None, None], (saturation * angle.sin())[:, None, None]
    return grey + cos * (torch.eye(3) - grey) + sin * cross


def take(images: Tensor, views: Views, size: int) -> Tensor:
    """One view of each picture: (N, 3, H, W) in [0, 1] -> (N, 3, size, size) in [0, 1]."""
    grid = F.affine_grid(views.theta, (len(images), 3, size, size), align_corners=False)
    out = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    out = torch.einsum("ncd,ndhw->nchw", views.colour, out)
    mean = out.mean((1, 2, 3), keepdim=True)
    contrast, brightness, blur = (value[:, None, None, None] for value in (views.contrast, views.brightness, views.blur))
    out = (mean + contrast * (out - mean) + brightness).clamp(0, 1)
    kernel = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    soft = F.conv2d(F.pad(out, (2, 2, 2, 2), mode="replicate"), torch.outer(kernel, kernel).expand(3, 1, 5, 5), groups=3)
    return out + blur * (soft - out)


def draw_points(first: Views, second: Views, generator: torch.Generator) -> Tensor:
    """POINTS points that both views show, uniform in their overlap: (N, POINTS, 2) as (x, y) of the whole picture in [-1, 1]."""
    sides = [(views.theta[:, [0, 1], [0, 1]].abs(), views.theta[..., 2]) for views in (first, second)]
    low = torch.stack([centre - half for half, centre in sides]).amax(0)
    high = torch.stack([centre + half for half, centre in sides]).amin(0)
    return low[:, None] + (high - low)[:, None] * torch.rand(len(low), POINTS, 2, generator=generator)


def seen_at(views: Views, points: Tensor) -> Tensor:
    """Where a view shows points of the picture: (N, P, 2) -> (N, P, 2), both (x, y) in [-1, 1]."""
    return (points - views.theta[:, None, :, 2]) / views.theta[:, None, [0, 1], [0, 1]]


# ----------------------------------------------------------------------------------------------------------------------------- contrast


class Contrast(nn.Module):
    """The transformer and the two projections, one for whole views and one for points; only the transformer is kept."""

    def __init__(self):
        super().__init__()
        self.vit = make_vit()
        self.whole, self.point = (nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, PROJECTED)) for _ in range(2))

    def forward(self, views: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Views (N, 3, S, S) in [-1, 1] and points in them, (N, P, 2) in [-1, 1] -> unit vectors (N, D) and (N, P, D)."""
        tokens = self.vit(views).last_hidden_state
        side = views.shape[-1] // PATCH
        maps = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        points = F.grid_sample(maps, at[:, None], padding_mode="border", align_corners=False)[:, :, 0].transpose(1, 2)
        return F.normalize(self.whole(tokens[:, 0]).float(), dim=-1), F.normalize(self.point(points).float(), dim=-1)


def whole_loss(first: Tensor, second: Tensor) -> Tensor:
    """SimCLR's loss, NT-Xent: each of the 2 N views must find its partner among the other 2 N - 1. first, second (N, D), unit length."""
    both = torch.cat([first, second])
    logits = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(both), device=both.device).roll(len(first)))


def point_loss(first: Tensor, second: Tensor, points: Tensor) -> Tensor:
    """Each point of one view must find itself in the other, among the points of all pictures but its own picture's points within NEAR px; mean of
    both directions. first, second (N, P, D), unit length; points (N, P, 2), where they lie in the whole picture, in [-1, 1]."""
    count = points.shape[1]
    near = torch.cdist(points, points) * SIZE / 2 < NEAR
    near &= ~torch.eye(count, dtype=torch.bool, device=points.device)
    logits = first.flatten(0, 1) @ second.flatten(0, 1).T / TEMPERATURE
    logits = logits.masked_fill(torch.block_diag(*near), -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def contrast_loss(model: Contrast, first: Tensor, second: Tensor, at_first: Tensor, at_second: Tensor, points: Tensor) -> Tensor:
    """Both losses, within each GROUP pictures: two views of each picture, (N, 3, S, S) in [-1, 1], the places of its points in them and in the
    picture, (N, P, 2) in [-1, 1]."""
    with training.autocast(first.device):
        whole, found = model(torch.cat([first, second]), torch.cat([at_first, at_second]))
    groups = [part.split(GROUP) for part in (*whole.chunk(2), *found.chunk(2), points)]
    return torch.stack([whole_loss(a, b) + point_loss(p, q, where) for a, b, p, q, where in zip(*groups, strict=True)]).mean()


def batch_of(step: int, mine: slice) -> tuple[Tensor, ...]:
    """What step `step` is trained on, of which a process takes the pictures `mine`: the arguments of `contrast_loss`.

    Everything is drawn for the whole batch first, so that processes together see what one process alone would."""
    generator = training.step_generator(SEED, step)
    rows = torch.randint(toy_sd.BANK, (BATCH,), generator=generator)[mine]
    images = toy_sd.sample(toy_sd.TRAIN_SEED, rows.tolist()).image
    size = training.value_at(VIEW_SIZE, step)
    views = [draw_views(BATCH, AREA, generator) for _ in range(2)]
    points = draw_points(*views, generator)[mine]
    views = [view[mine] for view in views]
    return *(pixel_values(take(images, view, size)) for view in views), *(seen_at(view, points) for view in views), points


def train(work: Path, device: torch.device, stop_at: int | None = None) -> Contrast:
    """The averaged weights after training; `seconds` says how long it took."""
    torch.manual_seed(SEED)
    rank, world_size = training.join_processes()
    mine = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    model = Contrast().to(device)

    def loss_of(model: Contrast, step: int) -> Tensor:
        return contrast_loss(model, *(part.to(device) for part in batch_of(step, mine)))

    return training.train(model, loss_of, steps=STEPS, checkpoint=work / "model.pt", learning_rate=LEARNING_RATE, warmup=200, decay=0.998,
                          weight_decay=0.04, label="contrast", stop_at=stop_at)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------- measured quality


@torch.no_grad()
def whole_tokens(vit: Dinov2Model, images: Tensor) -> Tensor:
    """The token for the whole picture, (N, WIDTH), of pictures (N, 3, H, W) in [0, 1]."""
    return torch.cat([vit(pixel_values(some)).last_hidden_state[:, 0] for some in images.split(32)])


def patch_tokens(vit: Dinov2Model) -> matching.Maps:
    """The transformer's patches as a descriptor."""

    def maps(images: Tensor, captions: list[str]) -> Tensor:
        half = (0.5, 0.5, 0.5)
        return torch.cat([correspondence.vit_features(vit, some, mean=half, std=half) for some in images.split(32)])

    return maps


def category_accuracy(bank: Tensor, bank_category: Tensor, queries: Tensor, category: Tensor, k: int = 20) -> float:
    """Percentage of queries (N, D) whose category (N,) is that of most of their k nearest of the bank (M, D) by cosine."""
    nearest = (F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T).topk(k).indices
    votes = F.one_hot(bank_category[nearest], len(world.CATEGORIES)).sum(1)
    return 100 * (votes.argmax(1) == category).float().mean().item()


def ways_of(vit: Dinov2Model) -> dict[str, tuple[matching.Maps, Callable[[Tensor], Tensor]]]:
    """How the transformer, an untrained one and bare pixels describe a picture: its places, and the whole of it."""
    torch.manual_seed(SEED)
    models = {NAME: vit.eval(), "untrained": make_vit().eval()}
    ways = {name: (patch_tokens(model), partial(whole_tokens, model)) for name, model in models.items()}
    ways["pixels"] = (lambda images, captions: correspondence.raw_patches(images, PATCH, PATCH)), (lambda images: pixel_values(images).flatten(1))
    return ways


def measure(vit: Dinov2Model, count: int = PAIRS) -> dict[str, tuple[float, float, float]]:
    """Of the transformer, an untrained one and bare pixels: PCK at 0.1 and at 0.2 per point over `count` pairs of each category that training never
    saw, and the nearest-neighbour accuracy, in percent."""
    ways = ways_of(vit)
    pairs = correspondence.semantic_pairs(toy_sd.HELD_OUT_SEED, count)
    fresh, bank = toy_sd.sample(toy_sd.HELD_OUT_SEED, range(25 * count)), toy_sd.sample(toy_sd.TRAIN_SEED, range(50 * count))
    quality = {}
    for name, (maps, whole) in ways.items():
        found = matching.find(*matching.pair_maps(maps, pairs), pairs)
        table = pck_table(matching.results(found, pairs), alphas=(0.1, 0.2))
        near = category_accuracy(whole(bank.image), bank.category, whole(fresh.image), fresh.category)
        quality[name] = (table[0.1].per_point, table[0.2].per_point, near)
    return quality


# -------------------------------------------------------------------------------------------------------------------------- the folder


def card(quality: dict[str, tuple[float, float, float]], model: Contrast, device: torch.device) -> str:
    """The model card, as text."""
    rows = "\n".join(f"| {name} | " + " | ".join(f"{value:.1f} %" for value in values) + " |" for name, values in quality.items())
    sizes = ", ".join(f"{size} px from step {step}" for step, size in VIEW_SIZE.items())
    millions, side = sum(p.numel() for p in model.vit.parameters()) / 1e6, SIZE // PATCH
    return f"""# {NAME}

A small self-supervised `Dinov2Model` ({millions:.2f} M parameters, single precision), trained without labels or captions on the pictures that
`toy-sd` learned from. It loads by `Dinov2Model.from_pretrained("data/models/{NAME}")` without this package.
Made by `make model NAME={NAME}`.

- **Call**: `pixel_values` (B, 3, {SIZE}, {SIZE}), pictures in [0, 1] as 2 x - 1; sides may be other multiples of {PATCH}. `last_hidden_state` is
  (B, {1 + side * side}, {WIDTH}): a token for the whole picture, then those of the {side}x{side} patches of {PATCH} px, row by row.
- **Data**: the first {toy_sd.BANK:,} pictures of toy-world seed {toy_sd.TRAIN_SEED}, drawn at random, those with a caption that toy-sd holds out among them,
  less the pairs {", ".join(f"{texture} {category}" for category, texture in toy_sd.HELD_OUT)}, which never occur.
- **Training**: {STEPS} steps of {BATCH} pictures, {model.seconds / 60:.0f} minutes; {training.machine_kind(device)}. Two views of each picture, cropped,
  flipped and recoloured ({sizes}). As wholes they are told from the views of {GROUP - 1} other pictures (SimCLR's loss);
  {POINTS} points of each are told from all other points of these pictures (as in VADeR). Temperature {TEMPERATURE}; AdamW; the averaged weights are kept.

Measured on pictures of toy-world seed {toy_sd.HELD_OUT_SEED}. PCK, per point over {PAIRS} pairs of each category: keypoints found in another picture of the
same category by cosine, within 0.1 and 0.2 of the longer side of its box. Category: majority of the 20 nearest of {50 * PAIRS:,} training pictures by
the whole-picture token; labels serve nothing else.

| | PCK at 0.1 | PCK at 0.2 | category |
| --- | --- | --- | --- |
{rows}
"""


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    model = train(work, device)
    if rank > 0:
        return
    training.write_folder(model.vit.cpu().eval(), out)
    (out / "README.md").write_text(card(measure(Dinov2Model.from_pretrained(out)), model, device))
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
