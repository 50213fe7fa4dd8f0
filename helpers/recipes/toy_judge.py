"""Recipe of data/models/toy-judge: two small classifiers that judge generated pictures, trained on renders of the toy world only.

A bank of pictures is rendered once, a third of it is passed through toy-sd's autoencoder (generated pictures carry its blur), and both judges
learn from it with different seeds. Nothing that a model has generated is ever shown. `python -m helpers.recipes.toy_judge --vae FOLDER` runs it,
the autoencoder being data/models/toy-sd/vae where nothing is said; checkpoints lie under .recipes/toy-judge.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..models import judges
from ..toyworld import creatures as world
from . import training

NAME = "toy-judge"
SEED = 2210
BANK, RECONSTRUCTED = 12_000, 4000  # pictures rendered, and how many of them (the first ones) are passed through the autoencoder too
STEPS, BATCH = 3000, 64
RECONSTRUCTED_SHARE = 1 / 3  # of a batch
TRAIN_SEED, HELD_OUT_SEED, VALIDATION_SEED = 3, 4, 5  # of the toy world; the validation pictures decide which facings are judged
HELD_OUT, VALIDATION = 1000, 150  # pictures the card measures; pictures of each category that decide
LEAST_FACING = 0.97  # share of right facings below which a category's facing is left unjudged
LABELS = tuple(judges.CLASSES)


@dataclass
class Bank:
    """N pictures and what they show: images (N, 3, 64, 64) uint8, mask (N, 64, 64) bool, category, facing, texture, colour, style (N,);
    reconstructed (M, 3, 64, 64) uint8: the first M of them, through the autoencoder."""

    images: Tensor
    mask: Tensor
    category: Tensor
    facing: Tensor
    texture: Tensor
    colour: Tensor
    style: Tensor
    reconstructed: Tensor


def to_bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor, label: str = "through the autoencoder") -> Tensor:
    """Pictures (N, 3, 64, 64) uint8 -> what the autoencoder makes of them, uint8; the latents are means, their scale does not matter."""
    device, out = next(vae.parameters()).device, []
    for some in tqdm(images.split(32), desc=label, mininterval=5):
        x = some.to(device, memory_format=training.memory_format(device)) / 127.5 - 1
        out.append(to_bytes(vae.decode(vae.encode(x).latent_dist.mean).sample.cpu() / 2 + 0.5))
    return torch.cat(out).contiguous()


def draw(seed: int, count: int, label: str, **chosen) -> dict[str, Tensor]:
    """The first `count` pictures of a seed, no pair of category and texture left out: the fields of Bank but for `reconstructed`."""
    parts = []
    for start in tqdm(range(0, count, 200), desc=label, mininterval=5):
        pictures = world.creatures(seed, range(start, min(start + 200, count)), size=judges.SIZE, **chosen)
        parts.append({"images": to_bytes(pictures.image)} | {name: getattr(pictures, name) for name in ("mask", *LABELS, "style")})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def make_bank(vae: AutoencoderKL, work: Path) -> Bank:
    """Render and reconstruct once; later calls read what lies under `work`."""
    rank, _ = training.join_processes()
    rendered, passed = work / "rendered.pt", work / "reconstructed.pt"
    if rank == 0 and not rendered.exists():
        training.save_atomically(draw(TRAIN_SEED, BANK, "rendering"), rendered)
    if rank == 0 and not passed.exists():
        training.save_atomically(reconstruct(vae, torch.load(rendered, weights_only=True)["images"][:RECONSTRUCTED]), passed)
    training.wait_for_all()
    return Bank(**torch.load(rendered, weights_only=True), reconstructed=torch.load(passed, weights_only=True))


def read_arguments() -> Path:
    """Take --vae from the command line; what is left is for `training.begin`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--vae", type=Path, default=training.DATA / "models" / "toy-sd" / "vae")
    found, sys.argv[1:] = parser.parse_known_args()
    return found.vae


# ------------------------------------------------------------------------------------------------------------------------------ training


def blur(images: Tensor) -> Tensor:
    """Two passes of the binomial 3x3 kernel over (B, C, H, W), edges repeated."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    channels = images.shape[1]
    x = F.pad(images, (2, 2, 2, 2), mode="replicate")
    x = F.conv2d(x, line.view(1, 1, 1, 5).expand(channels, -1, -1, -1), groups=channels)
    return F.conv2d(x, line.view(1, 1, 5, 1).expand(channels, -1, -1, -1), groups=channels)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture of (B, 3, H, W) in [0, 1] gets some blur (one in three), noise (one in two), and always its own gain and tint."""
    b = len(images)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(b, *shape, generator=generator)

    share = uniform(1, 1, 1) * (uniform(1, 1, 1) < 1 / 3)
    sigma = uniform(1, 1, 1, high=0.06) * (uniform(1, 1, 1) < 1 / 2)
    gain = uniform(1, 1, 1, low=0.9, high=1.1) * uniform(3, 1, 1, low=0.95, high=1.05)
    lift = uniform(1, 1, 1, low=-0.03, high=0.03)
    noise = torch.randn(images.shape, generator=generator)
    return (torch.lerp(images, blur(images), share) * gain + lift + sigma * noise).clamp(0, 1)


def batch_of(bank: Bank, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """BATCH augmented pictures in [0, 1], and their labels and masks; half of them mirrored, which turns the facing too."""
    passed = round(BATCH * RECONSTRUCTED_SHARE)
    plain_rows = torch.randint(len(bank.images), (BATCH - passed,), generator=generator)
    passed_rows = torch.randint(len(bank.reconstructed), (passed,), generator=generator)
    images = torch.cat([bank.images[plain_rows], bank.reconstructed[passed_rows]]) / 255
    rows = torch.cat([plain_rows, passed_rows])
    said = {name: getattr(bank, name)[rows] for name in (*LABELS, "mask")}
    mirrored = torch.rand(BATCH, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    said["mask"] = torch.where(mirrored[:, None, None], said["mask"].flip(2), said["mask"]).float()
    said["facing"] = torch.where(mirrored, 1 - said["facing"], said["facing"])
    return augment(images, generator), said


def loss_against(out: dict[str, Tensor], said: dict[str, Tensor]) -> Tensor:
    """Cross-entropies of the four answers, and of the mask its cross-entropy and 1 - its overlap (Rahman & Wang 2016)."""
    answers = sum(F.cross_entropy(out[name].float(), said[name]) for name in LABELS)
    logits, mask = out["mask"].float(), said["mask"]
    found = logits.sigmoid()
    both = (found * mask).sum((1, 2))
    overlap = both / (found.sum((1, 2)) + mask.sum((1, 2)) - both + 1)
    return answers + 3 * F.binary_cross_entropy_with_logits(logits, mask) + (1 - overlap).mean()


def train(member: int, bank: Bank, work: Path, device: torch.device, stop_at: int | None = None) -> judges.Judge:
    """Judge number `member`: its own beginning, its own batches."""
    seed = SEED + member
    torch.manual_seed(seed)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    model = judges.Judge().to(device, memory_format=training.memory_format(device))

    def loss_of(model: judges.Judge, step: int) -> Tensor:
        images, said = batch_of(bank, training.step_generator(seed, step))
        said = {name: value[mine].to(device) for name, value in said.items()}
        with training.autocast(device):
            out = model(images[mine].to(device, memory_format=training.memory_format(device)))
        return loss_against(out, said)

    return training.train(model, loss_of, steps=STEPS, checkpoint=work / f"judge-{member}.pt", learning_rate=4e-3, warmup=60, decay=0.99,
                          label=f"judge {member}", stop_at=stop_at)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------------ what is left


def facing_shares(pair: judges.Judges, vae: AutoencoderKL) -> dict[str, float]:
    """Share of right facings by category, on validation pictures, the lower one of clean and reconstructed ones."""
    shares = {}
    for category in world.CATEGORIES:
        drawn = draw(VALIDATION_SEED, VALIDATION, f"validation: {category}", categories=[category])
        views = (drawn["images"], reconstruct(vae, drawn["images"], f"{category} through the autoencoder"))
        shares[category] = min((pair.read(view / 255).facing.argmax(1) == drawn["facing"]).float().mean().item() for view in views)
    return shares


def write_folder(members: list[judges.Judge], folder: Path, vae: AutoencoderKL) -> None:
    """Write both judges in half precision, and which facings they cannot see, as a whole: beside its place first, then in one move."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for k, member in enumerate(members):
        save_file({name: value.half().cpu().contiguous() for name, value in member.state_dict().items()}, partial / f"judge-{k}.safetensors")
    (partial / "config.json").write_text('{"unjudged_facings": []}')
    shares = facing_shares(judges.load(partial), vae)
    config = {"unjudged_facings": [category for category, share in shares.items() if share < LEAST_FACING],
              "right_facings": {category: round(share, 3) for category, share in shares.items()}}  # fmt: skip
    (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def measure(reading: judges.Reading, said: dict[str, Tensor], rows: Tensor, unjudged: tuple[str, ...]) -> dict[str, tuple[float, int]]:
    """(percent right, number judged) of each answer, of all of them together, and the mean overlap of the masks, on `rows` (B,) bool."""
    right = {name: (getattr(reading, name).argmax(1) == said[name])[rows] for name in LABELS}
    sighted = ~torch.isin(said["category"], torch.tensor([world.CATEGORIES.index(name) for name in unjudged], dtype=torch.long))[rows]
    together = right["category"] & right["texture"] & right["colour"] & (right["facing"] | ~sighted)
    right["facing"] = right["facing"][sighted]
    right |= {"all": together, "mask, intersection over union": judges.overlap(reading.mask, said["mask"])[rows]}
    return {name: (100 * value.float().mean().item() if len(value) else float("nan"), len(value)) for name, value in right.items()}


def held_out_quality(pair: judges.Judges, vae: AutoencoderKL) -> tuple[dict[str, dict], list[float]]:
    """`measure` on held-out pictures by style, clean and reconstructed; and the categories' percent right of each judge alone, clean."""
    said = draw(HELD_OUT_SEED, HELD_OUT, "held-out pictures")
    quality, unjudged = {}, pair.unjudged_facings
    for label, view in (("", said["images"]), (", reconstructed", reconstruct(vae, said["images"], "held-out pictures through the autoencoder"))):
        reading = pair.read(view / 255)
        everything = torch.ones(HELD_OUT, dtype=torch.bool)
        for style, rows in (("photos and sketches", everything), *((name, said["style"] == k) for k, name in enumerate(("photos", "sketches")))):
            quality[style + label] = measure(reading, said, rows, unjudged)
    alone = [measure(reading, said, everything, unjudged)["category"][0] for reading in pair.read_each(said["images"] / 255)]
    return quality, alone


def seconds_a_hundred(pair: judges.Judges) -> float:
    """To read 100 pictures with both judges: the median of five."""
    images, seconds = torch.rand(100, 3, judges.SIZE, judges.SIZE), []
    for _ in range(5):
        start = time.monotonic()
        pair.read(images)
        seconds.append(time.monotonic() - start)
    return sorted(seconds)[2]


def card(quality: dict[str, dict], alone: list[float], shares: dict[str, float], minutes: float, seconds: float, pair: judges.Judges, device) -> str:
    """The model card, as text."""
    parameters = sum(p.numel() for p in pair.members[0].parameters()) / 1e6
    says = ", ".join(f"{name} ({count})" for name, count in judges.CLASSES.items())
    blind = " and ".join(pair.unjudged_facings) or "no category"
    return f"""# {NAME}

Two small convolutional classifiers ({parameters:.2f} M parameters each, half-precision weights, different seeds) that look at a picture of one
creature or thing, {judges.SIZE}x{judges.SIZE} pixels, and say its {says} and where it is (mask). They judge generated
pictures and have never seen one: they are trained on renders of the procedural toy world. `helpers.judges.load()` loads both and averages
their probabilities; `helpers.models.judges.judge(images, prompts)` says what of each prompt a picture shows. Made by `make model NAME={NAME}`.

- **Data**: {BANK:,} pictures of toy-world seed {TRAIN_SEED}, photos and sketches, every pair of category and texture; a third of each batch passed through
  toy-sd's autoencoder. Half are mirrored (their facing with them); blur in one of three, noise in one of two, gain and tint in all.
- **Training**: {STEPS} steps of {BATCH} pictures each, {minutes:.0f} minutes for both; {training.machine_kind(device)}. AdamW, averaged weights.
- **Speed**: {seconds:.2f} s for 100 pictures with both judges on one core.
- **Facing** is not judged for {blind}: fewer than {100 * LEAST_FACING:g} % are told apart among {VALIDATION} validation pictures of each category
  (the lower of clean and reconstructed: {", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())}).
- **Limits**: few categories and one drawing hand; a picture of none of the nine still gets an answer. A sketch shows its colour only
  in its lines and its texture's marks.

Measured on {HELD_OUT} held-out renders of toy-world seed {HELD_OUT_SEED}, none chosen, and on the same ones passed through the autoencoder; facing where it is
judged. Category of each judge alone, clean: {", ".join(f"{value:.1f} %" for value in alone)}.

{training.quality_table(quality)}
"""


def write_card(folder: Path, minutes: float, vae: AutoencoderKL, device: torch.device) -> None:
    """Measure the finished folder, as a reader would load it, and write its model card."""
    pair = judges.load(folder)
    quality, alone = held_out_quality(pair, vae)
    shares = json.loads((folder / "config.json").read_text())["right_facings"]
    (folder / "README.md").write_text(card(quality, alone, shares, minutes, seconds_a_hundred(pair), pair, device))


def main() -> None:
    source = read_arguments()
    if not (source / "config.json").exists():
        raise FileNotFoundError(f"--vae: no autoencoder in {source}; make it with: make model NAME=toy-sd")
    work, out, rank, device = training.begin(NAME, __doc__)
    vae = AutoencoderKL.from_pretrained(source, torch_dtype=torch.float32).to(device, memory_format=training.memory_format(device)).eval()
    bank = make_bank(vae, work)
    members = [train(k, bank, work, device) for k in range(judges.MEMBERS)]
    if rank > 0:
        return
    write_folder(members, out, vae)
    write_card(out, sum(member.seconds for member in members) / 60, vae, device)
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
