"""What token labels cost: at inference nothing, in training little, and on disk some kilobytes a picture.

    python tests/benchmarks/token_labeling.py [--json] [--repeats 9]

LV-ViT of the width of T (240 channels, 4 heads, 1000 classes) with 3 blocks, 224 px in patches of 16, 2 pictures, random weights, float32 on one thread. The
ways take turns in one process, each repeat in another order; a ratio is the median over the repeats of one way's processor time over another's in the same
repeat. Inference, with four times as many repeats: a model with a token head that is not asked (`token_weight` 0), and one that is asked, over the same model
without one; beside it the ratios of multiply-adds of whole LV-ViT-T. Training: one step (forward, backward) with token labels, and with MixToken as well, over
one with image labels. `labels_ms`: `crop_labels` of one picture's stored map of 18 x 18 cells, which is what NFNet-F6 gives at 576 px, to 14 x 14 tokens and
the class token. Bytes a picture: of a file of `save_maps` for such maps of 1000 classes, five scores a cell, and what float16 numbers of all classes would
take.
"""

import random
import statistics
import sys
import tempfile
from pathlib import Path
from time import process_time

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers.methods import token_labeling as tl
from tests.benchmarks._script import start

CLASSES, BATCH, CELLS, MAPS = 1000, 2, 18, 16
SIZE = tl.SIZES["T"] | dict(depth=3, classes=CLASSES, drop_path=0.0)
GRID, BOX = (14, 14), (3, 4, 9, 10)


def inference():
    """Each way as a function without arguments."""
    pictures = torch.rand(BATCH, 3, 224, 224)
    ways = {"without": dict(token_head=False), "unused": dict(token_weight=0.0), "used": {}}
    models = {name: tl.LVViT(**SIZE | options).eval() for name, options in ways.items()}

    def call(model):
        with torch.no_grad():
            model(pictures)

    return {name: lambda model=model: call(model) for name, model in models.items()}


def training():
    pictures, labels = torch.rand(BATCH, 3, 224, 224), torch.eye(CLASSES)[:BATCH]
    dense = tl.image_labels(labels, GRID[0] * GRID[1]).token_labels
    plain, model = tl.LVViT(**SIZE | dict(token_head=False)).train(), tl.LVViT(**SIZE).train()

    def of_tokens(box):
        target = labels if box is None else tl.mix_class_labels(labels, tl.kept_share(box, grid=GRID))
        tl.token_labeling_loss(*model.outputs(pictures, box), target, dense).total.backward()

    return {"image": lambda: F.cross_entropy(plain(pictures), labels).backward(), "tokens": lambda: of_tokens(None), "mixed": lambda: of_tokens(BOX)}


def timed(ways, repeats):
    """Seconds of each way at each repeat; the first round warms up."""
    seconds, order = {way: [] for way in ways}, random.Random(0)
    for repeat in range(repeats + 1):
        for way in order.sample(list(ways), len(ways)):
            began = process_time()
            ways[way]()
            if repeat:
                seconds[way].append(process_time() - began)
    return seconds


def ratio(seconds, one, other):
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def bytes_a_picture(stored):
    with tempfile.TemporaryDirectory() as folder:
        tl.save_maps(stored, Path(folder) / "maps.safetensors")
        return (Path(folder) / "maps.safetensors").stat().st_size / len(stored.scores)


def macs_ratios():
    """Of whole LV-ViT-T with a token head, not asked and asked, over the same without one."""
    with torch.device("meta"):
        unused, used, without = (tl.macs(tl.LVViT(**tl.SIZES["T"] | options)) for options in (dict(token_weight=0.0), {}, dict(token_head=False)))
    return unused / without, used / without


def measure(repeats):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    asked, learned = timed(inference(), 4 * repeats), timed(training(), repeats)
    unused, used = macs_ratios()
    stored = tl.store_maps(torch.randn(MAPS, CLASSES, CELLS, CELLS))
    boxes = tl.random_crops(MAPS)
    labels = timed({"labels": lambda: tl.crop_labels(stored, boxes)}, repeats)["labels"]
    return {
        "repeats": repeats, "inference_ms_without": 1e3 * statistics.median(asked["without"]), "unused_time_ratio": ratio(asked, "unused", "without"),
        "used_time_ratio": ratio(asked, "used", "without"), "unused_macs_ratio": unused, "used_macs_ratio": used,
        "training_time_ratio": ratio(learned, "tokens", "image"), "mixtoken_time_ratio": ratio(learned, "mixed", "image"),
        "labels_ms": 1e3 * statistics.median(labels) / MAPS, "bytes_a_picture": bytes_a_picture(stored), "bytes_of_all_classes": 2 * CLASSES * CELLS**2,
    }  # fmt: skip


def table(result):
    print(f"{BATCH} pictures, one thread, median of {result['repeats']}; a pass without token head takes {result['inference_ms_without']:.0f} ms")
    unused, used = (f"{result[f'{way}_time_ratio']:.3f} x the time ({result[f'{way}_macs_ratio']:.3f} x the multiply-adds)" for way in ("unused", "used"))
    print(f"at inference a token head that is not asked takes {unused}, one that is asked {used} of none")
    learned = [result[f"{way}_time_ratio"] for way in ("training", "mixtoken")]
    print(f"a training step with token labels takes {learned[0]:.3f} x one with image labels, with MixToken {learned[1]:.3f} x")
    print(f"labels of a crop take {result['labels_ms']:.1f} ms a picture")
    share = result["bytes_of_all_classes"] / result["bytes_a_picture"]
    print(f"a stored map takes {result['bytes_a_picture']:.0f} bytes a picture, all its scores in float16 {share:.0f} x as many")


if __name__ == "__main__":
    start(__doc__, measure, table, repeats=9)
