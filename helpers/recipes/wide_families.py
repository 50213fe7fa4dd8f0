"""What the recipes of toy-convnext-wide, toy-swin-wide and toy-mixer-wide share: three families of networks taught as toy-vit-wide is, with its bank and its
questions, for methods that should serve every kind. `python -m helpers.recipes.toy_swin_wide` runs one of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextForImageClassification, SwinConfig, SwinForImageClassification

from ..models.mixers import MixerConfig, MixerForImageClassification
from . import toy_vit_wide as wide
from . import training

__all__ = ["FAMILIES", "Family", "card", "main", "make_convnext", "make_mixer", "make_swin", "train"]

LEARNING_RATE, SEED = 2e-3, 2210
PROBES, PROBE_SEEDS = (
    ("digits", "mnist", "grey surfaces", "real textures", "colour", "how many", "category", "same colour", "touching", "where is the larger"),
    3,
)
LABELS = {"id2label": dict(enumerate(wide.ANSWERS)), "label2id": {name: i for i, name in enumerate(wide.ANSWERS)}}


def make_convnext() -> ConvNextForImageClassification:
    return ConvNextForImageClassification(ConvNextConfig(patch_size=2, num_stages=3, hidden_sizes=[24, 48, 96], depths=[2, 2, 3], **LABELS))


def make_swin() -> SwinForImageClassification:
    return SwinForImageClassification(SwinConfig(image_size=wide.SIZE, patch_size=2, embed_dim=24, depths=[2, 2, 2], num_heads=[2, 4, 8], window_size=4,
                                                 mlp_ratio=4.0, drop_path_rate=0.0, **LABELS))  # fmt: skip


def make_mixer() -> MixerForImageClassification:
    return MixerForImageClassification(MixerConfig(image_size=wide.SIZE, **LABELS))


@dataclass(frozen=True)
class Family:
    """How a model is made, which class loads it, for how many steps it is taught, what its classifier reads, and what it is called."""

    make: Callable[[], nn.Module]
    kind: type
    steps: int
    features: Callable[[nn.Module, Tensor], Tensor]
    said: str
    call: str


FAMILIES = {
    "toy-convnext-wide": Family(make_convnext, ConvNextForImageClassification, 1_000, lambda model, pixels: model.convnext(pixels).pooler_output,
                                "a convolutional network", "model.convnext(...).pooler_output"),
    "toy-swin-wide": Family(make_swin, SwinForImageClassification, 2_500, lambda model, pixels: model.swin(pixels).pooler_output,
                            "a transformer with windows", "model.swin(...).pooler_output"),
    "toy-mixer-wide": Family(make_mixer, MixerForImageClassification, 1_200, lambda model, pixels: model.features(pixels),
                             "an MLP-Mixer of `helpers.models.mixers`", "model.features(...)"),
}  # fmt: skip


def train(name: str, bank: wide.Bank, work: Path, device: torch.device, stop_at: int | None = None) -> nn.Module:
    torch.manual_seed(SEED)
    pupil = wide.Pupil(FAMILIES[name].make(), FAMILIES[name].features)
    return wide.teach(pupil, bank, work, device, steps=FAMILIES[name].steps, learning_rate=LEARNING_RATE, seed=SEED, stop_at=stop_at)


def card(name: str, quality: dict, probed: pd.DataFrame, milliseconds: float, trained: nn.Module, device: torch.device) -> str:
    """The model card, as text."""
    family = FAMILIES[name]
    thousands = sum(p.numel() for p in trained.parameters()) / 1e3
    return f"""# {name}

A small `{family.kind.__name__}` ({thousands:.0f} k parameters, half-precision weights), {family.said}, taught as [{wide.NAME}](../{wide.NAME}/README.md) is:
the same pictures and questions. It loads by `{family.kind.__name__}.from_pretrained("data/models/{name}", dtype=torch.float32)`. Made by
`make model NAME={name}`.

- **Call**: `pixel_values` (B, 3, {wide.SIZE}, {wide.SIZE}), pictures in [0, 1] as 2 x - 1. `{family.call}` are features (B, {trained.classifier.in_features}).
- **Training**: {family.steps:,} steps of {wide.BATCH} pictures, {trained.seconds / 60:.0f} minutes; {training.machine_kind(device)}. AdamW, averaged weights.
  The minutes were counted on cores that did other work as well.
- **Speed**: {milliseconds:.2f} ms a picture on one core.

Linear probes as in that model's card, of {len(PROBES)} tasks and {PROBE_SEEDS} seeds:

{wide.probes_table(probed)}

Answers on held-out pictures:

{wide.answers_table(quality)}
"""


def main(name: str, description: str) -> None:
    work, out, rank, device = training.begin(name, description)
    family = FAMILIES[name]
    model = train(name, wide.make_bank(work.parent / wide.NAME), work, device)
    if rank > 0:
        return
    training.write_folder(model.cpu().eval().half(), out)
    loaded = family.kind.from_pretrained(out, dtype=torch.float32).eval()
    probed = wide.all_probes(loaded, PROBES, PROBE_SEEDS, fresh=family.make, features=family.features)
    text = card(name, wide.held_out_accuracy(loaded, wide.HELD_OUT), probed, wide.milliseconds_a_picture(loaded, family.features), model, device)
    (out / "README.md").write_text(text)
    training.write_manifest_of(out)
