"""Recipe of data/models/toy-dino: a small self-supervised vision transformer, trained without labels on the pictures of toy-sd.

Self-distillation as in DINO (Caron et al. 2021) on whole views, and as in iBOT (Zhou et al. 2022) on masked patches, which DINOv2 joins. The
class is DINOv2's, `Dinov2Model`: unlike `ViTModel` it takes a mask of patches and pictures of any size, and both are needed here. Pictures are
rendered while training, none are kept. `python -m helpers.recipes.toy_dino` trains it; checkpoints lie under .recipes/toy-dino.
"""

import copy
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from .. import correspondence, matching_bench
from ..methods.diffusion_features import pck_table
from ..toyworld import creatures as world
from . import toy_sd, training

NAME = "toy-dino"
SEED = 2104
SIZE, PATCH, WIDTH, LAYERS, HEADS = toy_sd.SIZE, 4, 128, 6, 4
STEPS, BATCH, LEARNING_RATE = 3600, 32, 5e-4
GLOBAL_SIZE = {0: 48, 3200: 64}  # side of a global view in px, from each step on: small first, at the pictures' own size in the end
GLOBAL_VIEWS, GLOBAL_AREA = 2, (0.35, 1.0)  # share of the picture that a view shows
LOCAL_VIEWS, LOCAL_AREA, LOCAL_SIZE = 4, (0.1, 0.35), 24
MASK_SHARE = (0.1, 0.5)  # of the patches of a masked view; one of the two global views of a picture is masked
PROTOTYPES, HIDDEN, BOTTLENECK = 512, 256, 64
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, TEMPERATURE_STEPS = 0.1, (0.04, 0.07), 600
TEACHER_MOMENTUM, CENTRE_MOMENTUM = 0.99, 0.9
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


def draw_masks(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Which patches of each picture's global views are hidden: (GLOBAL_VIEWS, count, side * side) bool, in blocks of 2x2 and one block or more in
    every other view, so that each picture has one masked view of its two."""
    blocks = torch.rand(GLOBAL_VIEWS, count, side // 2, side // 2, generator=generator)
    share = MASK_SHARE[0] + (MASK_SHARE[1] - MASK_SHARE[0]) * torch.rand(GLOBAL_VIEWS, count, 1, 1, generator=generator)
    hidden = blocks <= torch.maximum(share, blocks.amin((2, 3), keepdim=True))
    hidden &= (torch.arange(GLOBAL_VIEWS)[:, None] + torch.arange(count) + 1)[..., None, None] % 2 == 1
    return hidden.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2)


# ------------------------------------------------------------------------------------------------------------------- student and teacher


class Head(nn.Module):
    """Projection of DINO: three layers, then the cosine to each of PROTOTYPES directions. (..., WIDTH) -> (..., PROTOTYPES) in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, BOTTLENECK))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.prototypes, dim=-1))


class Branch(nn.Module):
    """The transformer with a head for whole views and one for patches."""

    def __init__(self):
        super().__init__()
        self.vit, self.view_head, self.patch_head = make_vit(), Head(), Head()


class SelfDistillation(nn.Module):
    """Student, teacher (the student's moving average, no gradients) and the teacher's centres; its state_dict is all there is to continue from."""

    def __init__(self):
        super().__init__()
        self.student = Branch()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("view_centre", torch.zeros(PROTOTYPES))
        self.register_buffer("patch_centre", torch.zeros(PROTOTYPES))

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student."""
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)


def teacher_momentum(step: int) -> float:
    """From TEACHER_MOMENTUM to 1 in a half cosine."""
    return 1 - (1 - TEACHER_MOMENTUM) * (1 + math.cos(math.pi * step / STEPS)) / 2


def teacher_temperature(step: int) -> float:
    """Sharp first, then less so."""
    low, high = TEACHER_TEMPERATURE
    return low + (high - low) * min(1.0, step / TEMPERATURE_STEPS)


def targets(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """The teacher's distribution over prototypes: centred, then sharpened. logits (..., K), centre (K,)."""
    return ((logits - centre) / temperature).softmax(-1)


@torch.no_grad()
def move_centre(centre: Tensor, logits: Tensor) -> None:
    """centre <- CENTRE_MOMENTUM * centre + (1 - CENTRE_MOMENTUM) * mean of logits (..., K), in place; the mean is taken over all processes."""
    mean = logits.flatten(0, -2).mean(0)
    if dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    centre.lerp_(mean, 1 - CENTRE_MOMENTUM)


def cross_entropy(wanted: Tensor, logits: Tensor) -> Tensor:
    """-sum_k wanted_k log softmax(logits / STUDENT_TEMPERATURE)_k: (..., K) and (..., K) -> (...)."""
    return -(wanted * (logits / STUDENT_TEMPERATURE).log_softmax(-1)).sum(-1)


def view_loss(wanted: Tensor, logits: Tensor) -> Tensor:
    """DINO's loss: mean over all pairs (teacher's view t, student's view s) with s != t. wanted (T, B, K), logits (S, B, K), the first T views shared."""
    pairs = [(t, s) for t in range(len(wanted)) for s in range(len(logits)) if s != t]
    return torch.stack([cross_entropy(wanted[t], logits[s]).mean() for t, s in pairs]).mean()


def patch_loss(wanted: Tensor, logits: Tensor, hidden: Tensor) -> Tensor:
    """iBOT's loss: mean over masked views of the mean over their masked patches. hidden (V, N) bool; wanted, logits (M, K): the M patches hidden."""
    weight = (1 / hidden.sum(1, keepdim=True).clamp(min=1)).expand_as(hidden)[hidden]
    return (cross_entropy(wanted, logits) * weight).sum() / weight.sum()


def distillation_loss(model: SelfDistillation, large: Tensor, small: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """Both losses, and the centres moved. large (2 B, 3, G, G), small (L B, 3, 24, 24): global and local views, one view of all pictures after
    the other, in [-1, 1]; hidden (2 B, N) bool: the patches that the student does not see."""
    student, teacher = model.student, model.teacher
    count = len(large) // GLOBAL_VIEWS
    with training.autocast(large.device):
        with torch.no_grad():
            seen = teacher.vit(large).last_hidden_state
            views, patches = teacher.view_head(seen[:, 0]).float(), teacher.patch_head(seen[:, 1:]).float()
        guessed = student.vit(large, bool_masked_pos=hidden).last_hidden_state
        tokens = torch.cat([guessed[:, 0], student.vit(small).last_hidden_state[:, 0]])
        logits = student.view_head(tokens).float()
        patch_logits = student.patch_head(guessed[:, 1:][hidden]).float()
    wanted = targets(views, model.view_centre, temperature).unflatten(0, (-1, count))
    loss = view_loss(wanted, logits.unflatten(0, (-1, count)))
    loss = loss + patch_loss(targets(patches[hidden], model.patch_centre, temperature), patch_logits, hidden)
    move_centre(model.view_centre, views)
    move_centre(model.patch_centre, patches)
    return loss


def batch_of(step: int, mine: slice) -> tuple[Tensor, Tensor, Tensor]:
    """What step `step` is trained on, of which a process takes the pictures `mine`: (large, small, hidden) of `distillation_loss`.

    Everything is drawn for the whole batch first, so that processes together see what one process alone would."""
    generator = training.step_generator(SEED, step)
    rows = torch.randint(toy_sd.BANK, (BATCH,), generator=generator)[mine]
    images = toy_sd.sample(toy_sd.TRAIN_SEED, rows.tolist()).image
    size = next(size for start, size in reversed(GLOBAL_SIZE.items()) if step >= start)

    def crops(views: int, area: tuple[float, float], side: int) -> Tensor:
        taken = [take(images, draw_views(BATCH, area, generator)[mine], side) for _ in range(views)]
        return pixel_values(torch.cat(taken))

    large, small = crops(GLOBAL_VIEWS, GLOBAL_AREA, size), crops(LOCAL_VIEWS, LOCAL_AREA, LOCAL_SIZE)
    hidden = draw_masks(BATCH, size // PATCH, generator)[:, mine].flatten(0, 1)
    return large, small, hidden


def train(work: Path, device: torch.device, stop_at: int | None = None) -> SelfDistillation:
    """Student, teacher and centres after training; `seconds` says how long it took."""
    torch.manual_seed(SEED)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    model = SelfDistillation().to(device)

    def loss_of(model: SelfDistillation, step: int) -> Tensor:
        model.follow(teacher_momentum(step))
        large, small, hidden = (part.to(device) for part in batch_of(step, mine))
        return distillation_loss(model, large, small, hidden, teacher_temperature(step))

    # the teacher is the average that is kept; that of `training.train` goes unused but for the time it notes
    average = training.train(model, loss_of, steps=STEPS, checkpoint=work / "model.pt", learning_rate=LEARNING_RATE, warmup=200, decay=0.99,
                             weight_decay=0.04, clip=3.0, label="self-distillation", stop_at=stop_at)  # fmt: skip
    model.seconds = average.seconds
    return model


# ------------------------------------------------------------------------------------------------------------------- measured quality


@torch.no_grad()
def whole_tokens(vit: Dinov2Model, images: Tensor) -> Tensor:
    """The token for the whole picture, (N, WIDTH), of pictures (N, 3, H, W) in [0, 1]."""
    return torch.cat([vit(pixel_values(some)).last_hidden_state[:, 0] for some in images.split(32)])


def patch_tokens(vit: Dinov2Model) -> matching_bench.Maps:
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


def measure(vit: Dinov2Model, count: int = PAIRS) -> dict[str, tuple[float, float, float]]:
    """Of the transformer, an untrained one and bare pixels: PCK at 0.1 and at 0.2 per point over `count` pairs of each category that training never
    saw, and the nearest-neighbour accuracy, in percent."""
    torch.manual_seed(SEED)
    models = {NAME: vit.eval(), "untrained": make_vit().eval()}
    ways = {name: (patch_tokens(model), partial(whole_tokens, model)) for name, model in models.items()}
    ways["pixels"] = (lambda images, captions: correspondence.raw_patches(images, PATCH, PATCH)), (lambda images: pixel_values(images).flatten(1))
    pairs = correspondence.semantic_pairs(toy_sd.HELD_OUT_SEED, count)
    fresh, bank = toy_sd.sample(toy_sd.HELD_OUT_SEED, range(25 * count)), toy_sd.sample(toy_sd.TRAIN_SEED, range(50 * count))
    quality = {}
    for name, (maps, whole) in ways.items():
        found = matching_bench.find(*matching_bench.pair_maps(maps, pairs), pairs)
        table = pck_table(matching_bench.results(found, pairs), alphas=(0.1, 0.2))
        near = category_accuracy(whole(bank.image), bank.category, whole(fresh.image), fresh.category)
        quality[name] = (table[0.1].per_point, table[0.2].per_point, near)
    return quality


# -------------------------------------------------------------------------------------------------------------------------- the folder


def card(quality: dict[str, tuple[float, float, float]], model: SelfDistillation, device: torch.device) -> str:
    """The model card, as text."""
    rows = "\n".join(f"| {name} | " + " | ".join(f"{value:.1f} %" for value in values) + " |" for name, values in quality.items())
    sizes = ", ".join(f"{size} px from step {step}" for step, size in GLOBAL_SIZE.items())
    millions, side = sum(p.numel() for p in model.teacher.vit.parameters()) / 1e6, SIZE // PATCH
    return f"""# {NAME}

A small self-supervised `Dinov2Model` ({millions:.2f} M parameters, single precision), trained without labels or captions on the pictures that
`toy-sd` learned from. It loads by `Dinov2Model.from_pretrained("data/models/{NAME}")` without this package.
Made by `make model NAME={NAME}`.

- **Call**: `pixel_values` (B, 3, {SIZE}, {SIZE}), pictures in [0, 1] as 2 x - 1; sides may be other multiples of {PATCH}. `last_hidden_state` is
  (B, {1 + side * side}, {WIDTH}): a token for the whole picture, then those of the {side}x{side} patches of {PATCH} px, row by row.
- **Data**: the first {toy_sd.BANK:,} pictures of toy-world seed {toy_sd.TRAIN_SEED}, drawn at random, those with a caption that toy-sd holds out among them,
  less the pairs {", ".join(f"{texture} {category}" for category, texture in toy_sd.HELD_OUT)}, which never occur.
- **Training**: {STEPS} steps of {BATCH} pictures, {model.seconds / 60:.0f} minutes; {training.machine_kind(device)}. Self-distillation with centring over
  {PROTOTYPES} prototypes (DINO): {GLOBAL_VIEWS} global views of a picture ({sizes}), {LOCAL_VIEWS} local ones ({LOCAL_SIZE} px);
  and over the masked patches of one global view (iBOT). AdamW; the teacher's weights are the ones kept.

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
    training.write_folder(model.teacher.vit.cpu().eval(), out)
    (out / "README.md").write_text(card(measure(Dinov2Model.from_pretrained(out)), model, device))
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
