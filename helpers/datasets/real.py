"""Real pictures that installed libraries carry: handwritten digits, photographs, a stereo pair, and clips cut from photographs by known camera moves.

Everything here is read from the installed packages, and `read_clip` from the reader's own files; nothing is downloaded.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from skimage.transform import resize
from sklearn.datasets import load_digits
from torch import Tensor

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


def _whole(argument: str, value, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"{argument} must be at least {low}, got {value}")
    return int(value)


def _choose(argument: str, names, allowed) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    unknown = [n for n in names if n not in allowed]
    if unknown or not names:
        raise ValueError(f"{argument}: {'unknown ' + repr(unknown) if unknown else 'empty'}; choose from {', '.join(allowed)}")
    return names


# ------------------------------------------------------------------------------------------------------------------------------ digits


@dataclass
class LabelledPictures:
    """images (N, 1, 8, 8) float32 in [0, 1]; labels (N,) int64, 0 to 9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Digits:
    """1,797 handwritten digits in three disjoint parts: train 60 %, val 20 %, test 20 %."""

    train: LabelledPictures
    val: LabelledPictures
    test: LabelledPictures


def digits(seed: int = 0) -> Digits:
    """scikit-learn's 8x8 handwritten digits (Alpaydin & Kaynak 1998), shuffled and split by `seed`."""
    seed = _whole("seed", seed, 0)
    raw = load_digits()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(raw.target)))
    images = torch.from_numpy(raw.images).float().div(16)[:, None][order]
    labels = torch.from_numpy(raw.target).long()[order]
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
    names = list(PHOTOGRAPHS) if names is None else _choose("names", names, PHOTOGRAPHS)
    size = None if size is None else _whole("size", size, 8)
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
    size, images, points = _whole("size", size, 16), [], []
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
    seed, size, frames = _whole("seed", seed, 0), _whole("size", size, 16), _whole("frames", frames, 2)
    names, moves = _choose("names", names, PHOTOGRAPHS), _choose("moves", moves, CAMERA_MOVES)
    if isinstance(indices, (str, bytes)) or not hasattr(indices, "__iter__"):
        raise TypeError(f"indices must be a sequence of item numbers, got {indices!r}")
    items = [_whole("indices", i, 0) for i in (indices.tolist() if isinstance(indices, (Tensor, np.ndarray)) else indices)]
    if not items:
        raise ValueError("indices must hold at least one item number, got none")
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

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_clip(path: str | Path, *, size: int = 64, frames: int | None = None) -> Tensor:
    """A GIF (or another file of several pictures), or a folder of pictures in the order of their names, as a clip (T, 3, size, size) in [0, 1].

    Every frame is cut to its middle square and brought to size x size (>= 8), anti-aliased; frames: how many to keep, evenly from first to last, None
    for all. Raises FileNotFoundError where nothing is there, ValueError for fewer than two (or than `frames`) frames, frames of different sizes, a file
    that is no picture.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path must name a file or a folder, got {path!r}")
    size, frames = _whole("size", size, 8), None if frames is None else _whole("frames", frames, 2)
    if not str(path).strip() or not Path(path).exists():
        raise FileNotFoundError(f"path: no file or folder {str(path)!r}")
    path = Path(path)
    try:
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURE_ENDINGS)
            pictures = [np.asarray(Image.open(f).convert("RGB")) for f in files]
        else:
            with Image.open(path) as opened:
                pictures = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)]
    except UnidentifiedImageError as error:
        raise ValueError(f"path must hold pictures that Pillow can read: {error}") from error
    if len(pictures) < (frames or 2):
        raise ValueError(f"path must hold at least {frames or 2} frames, got {len(pictures)} in {str(path)!r}")
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"path must hold frames of one size, got {sorted({picture.shape[:2] for picture in pictures})}")
    if frames is not None:
        pictures = [pictures[i] for i in np.linspace(0, len(pictures) - 1, frames).round().astype(int)]
    return torch.stack([_square(picture, size) for picture in pictures])
