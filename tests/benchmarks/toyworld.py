"""How fast the toy world draws: textured shape pictures of 32x32 with their masks and part ids, beside Pillow drawing the same pictures.

    python tests/benchmarks/toyworld.py [--json]

Ours: `shapes(seed, indices)`, everything included: random numbers, pictures, masks, part ids, boxes. The peer: Pillow's ImageDraw on a canvas four
times as large, a numpy texture painted only inside the object's box, both reduced by a box filter; it is handed the finished description of each
picture (its random numbers cost it nothing) and returns the same ground truth. Both run on one thread, take turns in one process, and are timed
in seconds of processor time, so that a busy machine does not matter; every number is a median. That both draw the same is checked first.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from time import process_time

import numpy as np
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from helpers.toyworld.draws import Draws
from helpers.toyworld.shapes import COLOUR_TABLE, SHAPES, ShapePictures, shapes

SIZE, OVER, COUNT, ROUNDS = 32, 4, 1024, 7
# half sizes at radius 1 and the shape number of each outline
HALF = {
    "disc": (0.95, 0.95, 0), "square": (0.84, 0.84, 0), "triangle": (1.02, 0.88, 0), "star": (1.15, 1.15, 0.42), "ring": (1.02, 1.02, 0.52),
    "cross": (1.02, 1.02, 0.34),
}  # fmt: skip
STAR = [(math.sin(k * math.pi / 5), -math.cos(k * math.pi / 5), k % 2) for k in range(10)]


def descriptions(seed: int, count: int, pictures: ShapePictures) -> list[tuple]:
    """What the peer needs of each picture: outline, centre, half sizes, angle and period (in large pixels), colours, texture, ground grey."""
    d = Draws(seed, range(count))
    drawn = [d.uniform() for _ in range(10)]  # in the order of `shapes`: ..., grey, tone, period
    grey, tone, period = 0.08 + 0.37 * drawn[7], 0.30 + 0.20 * drawn[8], 0.55 + 0.30 * drawn[9]
    rgb = COLOUR_TABLE[pictures.colour].double()
    colours = (rgb * 255).round().int().tolist(), (rgb * tone[:, None] * 255).tolist()
    out = []
    for i in range(count):
        name = SHAPES[pictures.shape[i]]
        a, b, number = HALF[name]
        scale = float(pictures.radius[i]) * OVER
        x, y = (pictures.position[i] * OVER).tolist()
        out.append((name, x, y, a * scale, b * scale, number, float(pictures.angle[i]), int(pictures.texture[i]), float(period[i]),
                    tuple(colours[0][i]), np.array(colours[1][i], np.float32), round(float(grey[i]) * 255)))  # fmt: skip
    return out


def outline(draw: ImageDraw.ImageDraw, name: str, x: float, y: float, a: float, b: float, number: float, cos: float, sin: float) -> None:
    """The shape in white on a large black canvas; Pillow counts from pixel centres and fills every pixel that an edge touches, hence the halves."""
    if name in ("disc", "ring"):
        draw.ellipse((x - a, y - b, x + a - 1, y + b - 1), fill=255)
        if name == "ring":
            hole = a * number
            draw.ellipse((x - hole, y - hole, x + hole - 1, y + hole - 1), fill=0)
        return
    a, b = a - 0.5, b - 0.5
    if name == "square":
        corners = ((-a, -b), (a, -b), (a, b), (-a, b))
    elif name == "triangle":
        corners = ((0, -b), (a, b), (-a, b))
    elif name == "cross":
        arm = a * number
        corners = ((-arm, -b), (arm, -b), (arm, -arm), (a, -arm), (a, arm), (arm, arm), (arm, b), (-arm, b), (-arm, arm), (-a, arm), (-a, -arm), (-arm, -arm))
    else:
        corners = [(sx * a * (number if inner else 1), sy * a * (number if inner else 1)) for sx, sy, inner in STAR]
    draw.polygon([(x + u * cos - v * sin - 0.5, y + u * sin + v * cos - 0.5) for u, v in corners], fill=255)


LINE = np.arange(SIZE * OVER, dtype=np.float32) + np.float32(0.5)


def texture(kind: int, x: float, y: float, a: float, b: float, period: float, cos: float, sin: float, box: tuple) -> np.ndarray:
    """Share of the second colour inside the box, as `render._pattern` defines it."""
    dx, dy = LINE[box[0] : box[2]] - np.float32(x), (LINE[box[1] : box[3]] - np.float32(y))[:, None]
    u = dx * np.float32(cos / (a * period)) + dy * np.float32(sin / (a * period))
    u -= np.floor(u) + np.float32(0.5)
    if kind == 1:
        value = np.abs(u) * np.float32(8) - np.float32(1.5)
    else:
        v = dy * np.float32(cos / (b * period)) - dx * np.float32(sin / (b * period))
        v -= np.floor(v) + np.float32(0.5)
        value = np.float32(3.3) - (u * u + v * v) * np.float32(20) if kind == 2 else u * v * np.float32(-32) + np.float32(0.5)
    return np.clip(value, 0, 1, out=value)


def pillow_pictures(listed: list[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (B, S, S, 3) uint8, masks (B, S, S) bool and part ids (B, S, S) int64 of the described pictures."""
    large = SIZE * OVER
    images, covers = np.empty((len(listed), SIZE, SIZE, 3), np.uint8), np.empty((len(listed), SIZE, SIZE), np.uint8)
    for i, (name, x, y, a, b, number, angle, kind, period, first, second, grey) in enumerate(listed):
        cos, sin = math.cos(angle), math.sin(angle)
        cover = Image.new("L", (large, large))
        outline(ImageDraw.Draw(cover), name, x, y, a, b, number, cos, sin)
        canvas = Image.new("RGB", (large, large), (grey, grey, grey))
        if kind == 0:
            canvas.paste(first, mask=cover)
        else:
            box = cover.getbbox()
            share = texture(kind, x, y, a, b, period, cos, sin, box)
            paint = np.array(first, np.float32)
            pattern = (share[..., None] * (second - paint) + (paint + np.float32(0.5))).astype(np.uint8)
            canvas.paste(Image.fromarray(pattern), box, cover.crop(box))
        images[i], covers[i] = canvas.reduce(OVER), cover.reduce(OVER)
    masks = covers > 127
    return images, masks, masks.astype(np.int64)


def measure(count: int = COUNT, rounds: int = ROUNDS) -> dict:
    """Pictures per second of both, their ratio, and how far their pictures differ. Raises ValueError where they are not the same pictures."""
    torch.set_num_threads(1)
    ours = shapes(0, range(count), size=SIZE)
    listed = descriptions(0, count, ours)
    images, masks, _ = pillow_pictures(listed)
    difference = float((torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - ours.image).abs().mean())
    disagree = float((torch.from_numpy(masks) != ours.mask).double().mean())
    if difference > 0.006 or disagree > 0.01:
        raise ValueError(f"the peer draws other pictures: mean difference {difference:.4f}, {disagree:.2%} of the mask pixels")
    seconds = {"ours": [], "pillow": []}
    for _ in range(rounds):
        for name, draw in (("ours", lambda: shapes(0, range(count), size=SIZE)), ("pillow", lambda: pillow_pictures(listed))):
            started = process_time()
            draw()
            seconds[name].append(process_time() - started)
    rate = {name: count / statistics.median(values) for name, values in seconds.items()}
    return {
        "pictures_per_second": rate["ours"],
        "vs_pillow": rate["ours"] / rate["pillow"],
        "pillow_pictures_per_second": rate["pillow"],
        "mean_difference": difference,
        "mask_disagreement": disagree,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/benchmarks/toyworld.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    measured = measure()
    if parser.parse_args().json:
        print(json.dumps(measured))
        return 0
    print(f"{COUNT} textured shapes of {SIZE}x{SIZE} with masks and part ids, one thread, median of {ROUNDS}")
    print(f"  ours                        {measured['pictures_per_second']:8.0f} pictures a second")
    print(f"  Pillow at {OVER}x supersampling {measured['pillow_pictures_per_second']:10.0f} pictures a second")
    print(f"  ours / Pillow               {measured['vs_pillow']:8.2f}")
    print(f"  mean difference of pixels   {measured['mean_difference']:8.4f}, mask pixels that differ {measured['mask_disagreement']:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
