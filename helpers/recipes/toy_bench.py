"""Recipe of data/models/toy-bench: networks of the recognition bench, trained as the study `recognition` trains them, with the seed 0.

`python -m helpers.recipes.toy_bench` runs it; each network that is finished lies under .recipes/toy-bench, and one that was cut short begins anew.
"""

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from ..measures import recognition
from ..models import backbones
from . import training

__all__ = ["card", "main", "train"]

NAME = "toy-bench"
SEED = 0


def train(work: Path, steps: int | None = None) -> list[str]:
    """Trains each network of `backbones.TRAINED` whose file is not yet in `work`, and writes it in half precision: the files written. steps: None for those of
    the bench."""
    work.mkdir(parents=True, exist_ok=True)
    written = []
    for data, names in backbones.TRAINED.items():
        missing = [name for name in names if not (work / backbones.file_of(name, data)).exists()]
        pictures = recognition.pictures(data, seed=SEED) if missing else None
        for name in missing:
            model = backbones.make(name, size=pictures.test.images.shape[-1], classes=len(pictures.classes), seed=SEED)
            _save(recognition.fit(model, pictures, seed=SEED, steps=steps), work / backbones.file_of(name, data))
            written.append(backbones.file_of(name, data))
    return written


def _save(model: nn.Module, file: Path) -> None:
    """Beside its place first, then in one move."""
    partial = file.with_suffix(".partial")
    save_file({key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}, partial)
    partial.replace(file)


def card(folder: Path) -> str:
    """The model card, as text: what the networks in `folder`, read again, say of the test pictures."""
    rows = ["| pictures | network | parameters | right |", "| --- " * 4 + "|"]
    for data, names in backbones.TRAINED.items():
        test = recognition.pictures(data, seed=SEED).test
        for name in names:
            model = backbones.load(name, data=data, folder=folder)
            right = float((recognition.predict(model, test.images) == test.labels).double().mean())
            rows.append(f"| {data} | {name} | {sum(p.numel() for p in model.parameters()):,} | {100 * right:.1f} % of {len(test):,} |")
    table = "\n".join(rows)
    return f"""# {NAME}

Small networks of the recognition bench (half-precision weights), which say what creature stands in a scene of the toy world. They load by
`helpers.models.backbones.load("FAN", data="scenes 32")`, and are those of the study `recognition` with the seed {SEED}, trained by
`helpers.measures.recognition.fit`. Made by `make model NAME={NAME}`, a minute or two a network on one core.

- **Call**: pictures (B, 3, S, S) in [0, 1] -> logits (B, 6) of {", ".join(recognition.CREATURES)}.
- **Limits**: six creatures on dark grounds and one drawing hand; none has seen a corrupted picture.

{table}
"""


def main() -> None:
    work, out, rank, _ = training.begin(NAME, __doc__)
    if rank > 0:
        return
    train(work)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for data, names in backbones.TRAINED.items():
        for name in names:
            shutil.copy(work / backbones.file_of(name, data), partial)
    (partial / "config.json").write_text(json.dumps({data: list(names) for data, names in backbones.TRAINED.items()}, indent=1) + "\n")
    (partial / "README.md").write_text(card(partial))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
