"""What creatures and things are built of: nine skeletons of named pieces, and where each named keypoint lies.

A skeleton turns a `Pose` (five traits, three joints) into pieces in the creature's own frame: it faces right, x to the right, y down,
the body about one unit long. Pieces are listed in painter's order. All numbers may be (N,) tensors: one skeleton builds N animals at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["ANCHORS", "CATEGORIES", "CATEGORY_PARTS", "KEYPOINTS", "PARTS", "TRAITS"]

CATEGORIES = ("cat", "dog", "rabbit", "fox", "bird", "fish", "car", "teapot", "lamp")
_QUADRUPED_POINTS = ("nose", "eye", "ear_tip", "ear_base", "neck", "back", "tail_base", "tail_tip", "belly", "front_foot", "hind_foot")
_FINNED_POINTS = ("mouth", "eye", "top_tip", "back", "belly", "tail_top", "tail_bottom")
KEYPOINTS = {  # left and right are named in the creature's own frame, so a mirrored one keeps its names
    **dict.fromkeys(("cat", "dog", "rabbit", "fox"), _QUADRUPED_POINTS),
    **dict.fromkeys(("bird", "fish"), _FINNED_POINTS),
    "car": ("hood", "roof_front", "roof_back", "trunk", "front_wheel", "rear_wheel", "window"),
    "teapot": ("spout_tip", "spout_base", "lid_knob", "handle_top", "handle_bottom", "base_left", "base_right"),
    "lamp": ("top", "shade_left", "shade_right", "neck", "base_left", "base_right"),
}
TRAITS = ("elongation", "legs", "head", "ears", "tail")  # each in [0, 1]; things use them for their own proportions


@dataclass
class Pose:
    """What the skeletons are built from: traits in [0, 1]; swing (radians) of limbs, wag (radians) of tails, roll (radians) of wheels. All (N,)."""

    elongation: Tensor
    legs: Tensor
    head: Tensor
    ears: Tensor
    tail: Tensor
    swing: Tensor
    wag: Tensor
    roll: Tensor


@dataclass
class Piece:
    """One part: centre, half sizes and angle in the creature's frame; `tint` names a paint, `textured` paints the creature's texture on it."""

    name: str
    kind: str
    x: Tensor | float
    y: Tensor | float
    a: Tensor | float
    b: Tensor | float
    angle: Tensor | float = 0.0
    shape: Tensor | float = 0.0
    tint: str = "main"
    textured: bool = False


def _mix(t: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * t


def _cos(angle):
    return angle.cos() if isinstance(angle, Tensor) else float(np.cos(angle))


def _sin(angle):
    return angle.sin() if isinstance(angle, Tensor) else float(np.sin(angle))


def _from_end(name: str, kind: str, x, y, a, b, angle, shape=0.0, tint="main", textured=True) -> Piece:
    """A long piece whose end lies at (x, y) and whose axis leaves it at `angle` (bent pieces: the straight line between the ends does)."""
    lift = shape * a if kind in ("bow", "strap") else 0.0
    cos, sin = _cos(angle), _sin(angle)
    return Piece(name, kind, x + a * cos - lift * sin, y + a * sin + lift * cos, a, b, angle, shape, tint, textured)


def _leg(name: str, x, y, length, width: float, swing, tint="main", textured=True) -> Piece:
    """A leg that hangs from its hip at (x, y), turned about it by `swing`."""
    return Piece(name, "box", x - length / 2 * _sin(swing), y + length / 2 * _cos(swing), width / 2, length / 2, swing, 0.45 * width, tint, textured)


def _four_legs(p: Pose, front, hind, y, length, width: float, tint: str = "main") -> tuple[list[Piece], list[Piece]]:
    """The two far legs (darker) and the two near legs of a walking quadruped."""
    shade = "dark" if tint == "main" else tint
    far = [
        _leg("far_front_leg", front + 0.10, y, length * 0.95, width, -p.swing, shade),
        _leg("far_hind_leg", hind + 0.13, y, length * 0.95, width, p.swing, shade),
    ]
    return far, [_leg("hind_leg", hind, y, length, width * 1.1, -p.swing, tint), _leg("front_leg", front, y, length, width, p.swing, tint)]


def _cat(p: Pose) -> list[Piece]:
    long, leg = _mix(p.elongation, 0.46, 0.60), _mix(p.legs, 0.34, 0.46)
    r, ear = _mix(p.head, 0.27, 0.34), _mix(p.ears, 0.15, 0.22)
    hx, hy = long * 0.95, -0.30 - 0.5 * r
    far, near = _four_legs(p, long * 0.62, -long * 0.78, 0.10, leg + 0.06, 0.14)
    return [
        *far,
        _from_end("tail", "strap", -long * 0.86, -0.06, _mix(p.tail, 0.36, 0.46), 0.062, -2.15 + p.wag, _mix(p.tail, 0.30, 0.55)),
        Piece("body", "ellipse", 0.0, 0.0, long, 0.25, 0.0, 0.0, "main", True),
        *near,
        Piece("far_ear", "trapezoid", hx - r * 0.55, hy - r * 0.62 - ear * 0.55, r * 0.40, ear, -0.32, 0.06),
        Piece("ear", "trapezoid", hx + r * 0.55, hy - r * 0.62 - ear * 0.55, r * 0.40, ear, 0.32, 0.06),
        Piece("inner_ear", "trapezoid", hx + r * 0.54, hy - r * 0.60 - ear * 0.45, r * 0.20, ear * 0.58, 0.32, 0.06, "blush"),
        Piece("head", "ellipse", hx, hy, r * 1.10, r * 0.95, 0.0),
        Piece("muzzle", "ellipse", hx + r * 0.32, hy + r * 0.42, r * 0.46, r * 0.34, 0.0, 0.0, "light"),
        Piece("far_eye", "ellipse", hx + r * 0.72, hy - r * 0.10, r * 0.14, r * 0.20, 0.0, 0.0, "ink"),
        Piece("eye", "ellipse", hx - r * 0.10, hy - r * 0.10, r * 0.15, r * 0.20, 0.0, 0.0, "ink"),
        Piece("nose", "trapezoid", hx + r * 0.34, hy + r * 0.26, r * 0.15, r * 0.12, np.pi, 0.2, "ink"),
    ]


def _dog(p: Pose) -> list[Piece]:
    long, leg = _mix(p.elongation, 0.46, 0.62), _mix(p.legs, 0.40, 0.56)
    r, ear = _mix(p.head, 0.20, 0.25), _mix(p.ears, 0.17, 0.25)
    hx, hy = long * 0.98, -0.38 - 0.4 * r
    far, near = _four_legs(p, long * 0.68, -long * 0.76, 0.06, leg + 0.12, 0.16)
    return [
        *far,
        _from_end("tail", "strap", -long * 0.88, -0.12, _mix(p.tail, 0.17, 0.25), 0.06, -2.25 + p.wag, _mix(p.tail, 0.1, 0.4)),
        Piece("neck", "box", long * 0.80, -0.24, 0.15, 0.27, 0.42, 0.10, "main", True),
        Piece("body", "box", 0.0, 0.0, long, 0.24, 0.0, 0.22, "main", True),
        *near,
        Piece("head", "ellipse", hx, hy, r * 1.05, r * 0.98, 0.0),
        Piece("muzzle", "box", hx + r * 1.15, hy + r * 0.32, r * 0.85, r * 0.46, 0.06, r * 0.34, "light"),
        Piece("ear", "ellipse", hx - r * 0.55, hy - r * 0.55 + ear * 0.85, r * 0.42, ear, 0.20, 0.0, "deep"),
        Piece("eye", "ellipse", hx + r * 0.38, hy - r * 0.22, r * 0.19, r * 0.21, 0.0, 0.0, "ink"),
        Piece("nose", "ellipse", hx + r * 1.92, hy + r * 0.10, r * 0.27, r * 0.24, 0.0, 0.0, "ink"),
    ]


def _rabbit(p: Pose) -> list[Piece]:
    long, leg = _mix(p.elongation, 0.42, 0.54), _mix(p.legs, 0.22, 0.30)
    r, ear = _mix(p.head, 0.22, 0.27), _mix(p.ears, 0.30, 0.42)
    hx, hy = long * 0.86, -0.32 - 0.5 * r
    top = hy - r * 0.62
    return [
        _leg("far_front_leg", long * 0.74, 0.16, leg, 0.13, -p.swing, "dark"),
        Piece("tail", "ellipse", -long * 1.02, 0.06, _mix(p.tail, 0.13, 0.17), _mix(p.tail, 0.13, 0.17), 0.0, 0.0, "white"),
        Piece("body", "ellipse", 0.0, 0.0, long, 0.33, -0.18, 0.0, "main", True),
        Piece("hind_foot", "box", -long * 0.34, 0.20 + leg, 0.25, 0.075, -p.swing * 0.5, 0.07, "main", True),
        Piece("hind_leg", "ellipse", -long * 0.48, 0.12 + leg * 0.35, 0.26, 0.24, -p.swing * 0.5, 0.0, "dark", True),
        _leg("front_leg", long * 0.60, 0.16, leg + 0.06, 0.13, p.swing),
        Piece("far_ear", "ellipse", hx - ear * 0.42 - r * 0.22, top - ear * 0.76, 0.085, ear, -0.46, 0.0, "dark"),
        Piece("ear", "ellipse", hx + ear * 0.02, top - ear * 0.84, 0.095, ear, 0.0, 0.0, "main", True),
        Piece("inner_ear", "ellipse", hx + ear * 0.02, top - ear * 0.80, 0.045, ear * 0.72, 0.0, 0.0, "blush"),
        Piece("head", "ellipse", hx, hy, r * 1.18, r * 0.95, 0.0),
        Piece("muzzle", "ellipse", hx + r * 0.78, hy + r * 0.30, r * 0.40, r * 0.36, 0.0, 0.0, "light"),
        Piece("eye", "ellipse", hx + r * 0.28, hy - r * 0.16, r * 0.19, r * 0.22, 0.0, 0.0, "ink"),
        Piece("nose", "ellipse", hx + r * 1.06, hy + r * 0.12, r * 0.17, r * 0.14, 0.0, 0.0, "ink"),
    ]


def _fox(p: Pose) -> list[Piece]:
    long, leg = _mix(p.elongation, 0.46, 0.60), _mix(p.legs, 0.32, 0.44)
    r, ear = _mix(p.head, 0.22, 0.27), _mix(p.ears, 0.15, 0.21)
    hx, hy = long * 0.98, -0.30 - 0.4 * r
    tail, fan, angle = _mix(p.tail, 0.42, 0.50), _mix(p.tail, 0.17, 0.21), np.pi + 0.42 + p.wag
    far, near = _four_legs(p, long * 0.66, -long * 0.76, 0.06, leg + 0.10, 0.12, "deep")
    bushy = _from_end("tail", "bow", -long * 0.74, -0.04, tail, fan, angle, 0.12)
    tip = Piece("tail_end", "ellipse", bushy.x + tail * 0.70 * angle.cos(), bushy.y + tail * 0.70 * angle.sin(), tail * 0.36, fan * 0.66, angle, 0.0, "white")
    return [
        *far,
        bushy,
        tip,
        Piece("body", "ellipse", 0.0, 0.0, long, 0.22, 0.0, 0.0, "main", True),
        *near,
        Piece("neck", "ellipse", long * 0.84, -0.16, 0.17, 0.24, 0.5, 0.0, "white"),
        Piece("far_ear", "trapezoid", hx - r * 0.62, hy - r * 0.62 - ear * 0.5, r * 0.36, ear, -0.30, 0.04, "deep"),
        Piece("ear", "trapezoid", hx + r * 0.10, hy - r * 0.70 - ear * 0.5, r * 0.44, ear, 0.05, 0.04, "main", True),
        Piece("inner_ear", "trapezoid", hx + r * 0.10, hy - r * 0.64 - ear * 0.5, r * 0.22, ear * 0.50, 0.05, 0.04, "deep"),
        Piece("head", "ellipse", hx, hy, r * 1.05, r * 0.85, 0.10),
        Piece("snout", "trapezoid", hx + r * 1.18, hy + r * 0.28, r * 0.62, r * 0.85, np.pi / 2 + 0.18, 0.24, "main"),
        Piece("muzzle", "trapezoid", hx + r * 1.02, hy + r * 0.58, r * 0.34, r * 0.95, np.pi / 2 + 0.02, 0.24, "white"),
        Piece("eye", "ellipse", hx + r * 0.36, hy - r * 0.10, r * 0.19, r * 0.18, 0.0, 0.0, "ink"),
        Piece("nose", "ellipse", hx + r * 1.98, hy + r * 0.40, r * 0.24, r * 0.21, 0.0, 0.0, "ink"),
    ]


def _bird(p: Pose) -> list[Piece]:
    long, leg = _mix(p.elongation, 0.40, 0.50), _mix(p.legs, 0.20, 0.34)
    r, wing = _mix(p.head, 0.19, 0.24), _mix(p.ears, 0.30, 0.38)
    hx, hy = long * 0.86, -0.26 - 0.5 * r
    lift = np.pi + 0.62 + p.swing  # the wing is raised backwards
    return [
        _leg("far_leg", 0.10, 0.22, leg, 0.065, -p.swing, "gold", False),
        _leg("leg", -0.04, 0.24, leg, 0.065, p.swing, "gold", False),
        Piece("tail", "trapezoid", -long * 1.16, 0.10, 0.17, _mix(p.tail, 0.22, 0.30), -np.pi / 2 - 0.25 + np.pi + p.wag, 0.45, "dark", True),
        Piece("body", "ellipse", 0.0, 0.0, long, 0.27, -0.24, 0.0, "main", True),
        Piece("breast", "ellipse", long * 0.40, 0.08, long * 0.44, 0.17, -0.34, 0.0, "light"),
        Piece("beak", "trapezoid", hx + r * 1.25, hy + r * 0.10, r * 0.42, r * 0.62, np.pi / 2 + 0.08, 0.05, "gold"),
        Piece("head", "ellipse", hx, hy, r, r, 0.0),
        _from_end("wing", "bow", 0.12, -0.05, wing * 1.15, wing * 0.42, lift, -0.16, "deep", True),
        Piece("eye", "ellipse", hx + r * 0.28, hy - r * 0.16, r * 0.22, r * 0.22, 0.0, 0.0, "ink"),
    ]


def _fish(p: Pose) -> list[Piece]:
    long, high = _mix(p.elongation, 0.56, 0.72), _mix(p.head, 0.30, 0.38)
    fin, tail = _mix(p.ears, 0.15, 0.22), _mix(p.tail, 0.26, 0.34)
    swish = p.wag
    return [
        Piece("dorsal_fin", "trapezoid", -0.06, -high - fin * 0.35, long * 0.46, fin, -0.18, 0.34, "deep", True),
        Piece("belly_fin", "trapezoid", -0.10, high + 0.04, long * 0.20, fin * 0.6, np.pi + 0.3, 0.4, "deep"),
        _from_end("tail_top", "bow", -long * 0.84, 0.0, tail, tail * 0.40, np.pi + 0.70 + swish, -0.18, "deep"),
        _from_end("tail_bottom", "bow", -long * 0.84, 0.0, tail, tail * 0.40, np.pi - 0.70 + swish, 0.18, "deep"),
        Piece("body", "ellipse", 0.0, 0.0, long, high, 0.0, 0.0, "main", True),
        Piece("gill", "strap", long * 0.42, 0.0, high * 0.52, 0.028, np.pi / 2, 0.30, "deep"),
        Piece("side_fin", "bow", long * 0.08, high * 0.28, 0.16, 0.075, -0.5 + swish, -0.2, "deep"),
        Piece("mouth", "box", long * 0.88, high * 0.26, long * 0.12, 0.028, -0.2, 0.02, "ink"),
        Piece("eye_white", "ellipse", long * 0.66, -high * 0.26, 0.095, 0.095, 0.0, 0.0, "white"),
        Piece("eye", "ellipse", long * 0.68, -high * 0.26, 0.055, 0.055, 0.0, 0.0, "ink"),
    ]


def _car(p: Pose) -> list[Piece]:
    long, high = _mix(p.elongation, 0.78, 0.96), _mix(p.legs, 0.16, 0.21)
    roof, cabin, wheel = _mix(p.head, 0.17, 0.23), _mix(p.ears, 0.42, 0.50), _mix(p.tail, 0.17, 0.21)
    top = -high - roof * 0.92
    return [
        Piece("cabin", "trapezoid", -long * 0.08, top, cabin * 1.12, roof, 0.0, 0.66, "main", True),
        Piece("window", "trapezoid", -long * 0.08 + cabin * 0.42, top + roof * 0.08, cabin * 0.38, roof * 0.66, 0.0, 0.60, "glass"),
        Piece("rear_window", "trapezoid", -long * 0.08 - cabin * 0.42, top + roof * 0.08, cabin * 0.38, roof * 0.66, 0.0, 0.60, "glass"),
        Piece("body", "box", 0.0, 0.0, long, high, 0.0, 0.10, "main", True),
        Piece("bumper", "box", 0.0, high * 0.82, long * 1.02, 0.05, 0.0, 0.04, "steel"),
        Piece("headlight", "ellipse", long * 0.90, -high * 0.30, 0.075, 0.075, 0.0, 0.0, "lamp"),
        Piece("rear_light", "box", -long * 0.93, -high * 0.30, 0.05, 0.07, 0.0, 0.02, "deep"),
        Piece("rear_wheel", "ellipse", -long * 0.56, high, wheel, wheel, p.roll, 0.0, "ink"),
        Piece("rear_hub", "cross", -long * 0.56, high, wheel * 0.55, wheel * 0.55, p.roll, 0.42, "steel"),
        Piece("front_wheel", "ellipse", long * 0.56, high, wheel, wheel, p.roll, 0.0, "ink"),
        Piece("front_hub", "cross", long * 0.56, high, wheel * 0.55, wheel * 0.55, p.roll, 0.42, "steel"),
    ]


def _teapot(p: Pose) -> list[Piece]:
    long, high = _mix(p.elongation, 0.46, 0.56), _mix(p.head, 0.38, 0.46)
    spout, ring = _mix(p.ears, 0.28, 0.36), _mix(p.tail, 0.24, 0.30)
    return [
        Piece("handle", "ring", -long * 0.98, -high * 0.06, ring, ring, 0.0, 0.62, "dark"),
        Piece("spout", "trapezoid", long * 0.98 + spout * 0.28, -high * 0.18, 0.18, spout, 0.72, 0.42, "dark"),
        Piece("spout_lip", "ellipse", long * 0.98 + spout * 0.28 + spout * 0.66, -high * 0.18 - spout * 0.75, 0.11, 0.05, 0.5, 0.0, "deep"),
        Piece("base", "box", 0.0, high * 0.92, long * 0.62, 0.08, 0.0, 0.05, "deep"),
        Piece("body", "ellipse", 0.0, 0.0, long, high, 0.0, 0.0, "main", True),
        Piece("lid", "ellipse", 0.0, -high * 0.92, long * 0.52, _mix(p.legs, 0.09, 0.14), 0.0, 0.0, "deep"),
        Piece("knob", "ellipse", 0.0, -high * 0.92 - _mix(p.legs, 0.15, 0.21), 0.09, 0.09, 0.0, 0.0, "light"),
    ]


def _lamp(p: Pose) -> list[Piece]:
    wide, high = _mix(p.elongation, 0.40, 0.52), _mix(p.head, 0.26, 0.34)
    stand, base = _mix(p.legs, 0.36, 0.50), _mix(p.tail, 0.28, 0.38)
    tilt = 0.10
    return [
        Piece("bulb", "ellipse", 0.0, high * 0.92, wide * 0.34, 0.13, 0.0, 0.0, "lamp"),
        Piece("cord", "box", wide * 0.62, high + 0.12, 0.020, 0.16, 0.0, 0.01, "ink"),
        Piece("cord_knob", "ellipse", wide * 0.62, high + 0.30, 0.055, 0.055, 0.0, 0.0, "gold"),
        Piece("stand", "box", 0.0, high * 0.8 + stand, 0.050, stand, 0.0, 0.03, "steel"),
        Piece("base", "trapezoid", 0.0, high * 0.8 + 2 * stand + 0.02, base, 0.085, 0.0, 0.62, "deep"),
        Piece("top", "ellipse", high * tilt, -high - 0.02, 0.07, 0.07, 0.0, 0.0, "steel"),
        Piece("shade", "trapezoid", 0.0, 0.0, wide, high, tilt, _mix(p.ears, 0.42, 0.56), "main", True),
    ]


SKELETONS: dict[str, Callable[[Pose], list[Piece]]] = {
    "cat": _cat, "dog": _dog, "rabbit": _rabbit, "fox": _fox, "bird": _bird, "fish": _fish, "car": _car, "teapot": _teapot, "lamp": _lamp,
}  # fmt: skip

# where each keypoint lies: its part and the place (u, v) in the part's own frame
_FEET = {"belly": ("body", -0.05, 0.78), "front_foot": ("front_leg", 0.0, 0.82), "hind_foot": ("hind_leg", 0.0, 0.82)}
ANCHORS = {
    "cat": {
        "nose": ("nose", 0.0, 0.0), "eye": ("eye", 0.0, 0.0), "ear_tip": ("ear", 0.0, -0.62), "ear_base": ("inner_ear", 0.0, -0.1),
        "neck": ("body", 0.5, -0.4), "back": ("body", -0.15, -0.78), "tail_base": ("tail", -0.72, 0.0), "tail_tip": ("tail", 0.9, 0.0), **_FEET,
    },
    "dog": {
        "nose": ("nose", 0.0, 0.0), "eye": ("eye", 0.0, 0.0), "ear_tip": ("ear", 0.0, 0.8), "ear_base": ("ear", 0.0, -0.75),
        "neck": ("neck", 0.55, 0.1), "back": ("body", -0.15, -0.78), "tail_base": ("tail", -0.55, 0.0), "tail_tip": ("tail", 0.85, 0.0), **_FEET,
    },
    "rabbit": {
        "nose": ("nose", 0.0, 0.0), "eye": ("eye", 0.0, 0.0), "ear_tip": ("ear", 0.0, -0.85), "ear_base": ("inner_ear", 0.0, 0.55),
        "neck": ("body", 0.62, -0.4), "back": ("body", -0.15, -0.8), "tail_base": ("tail", -0.25, 0.0), "tail_tip": ("tail", -0.78, 0.0),
        "belly": ("body", 0.3, 0.72), "front_foot": ("front_leg", 0.0, 0.8), "hind_foot": ("hind_foot", 0.65, 0.0),
    },
    "fox": {
        "nose": ("nose", 0.0, 0.0), "eye": ("eye", 0.0, 0.0), "ear_tip": ("ear", 0.0, -0.55), "ear_base": ("inner_ear", 0.0, 0.2),
        "neck": ("neck", 0.2, 0.1), "back": ("body", -0.15, -0.78), "tail_base": ("tail", -0.5, -0.1), "tail_tip": ("tail_end", 0.7, 0.0), **_FEET,
    },
    "bird": {
        "mouth": ("beak", 0.0, -0.45), "eye": ("eye", 0.0, 0.0), "top_tip": ("wing", 0.88, 0.0), "back": ("body", 0.45, -0.7),
        "belly": ("body", -0.1, 0.78), "tail_top": ("tail", -0.6, 0.72), "tail_bottom": ("tail", 0.6, 0.72),
    },
    "fish": {
        "mouth": ("mouth", 0.55, 0.0), "eye": ("eye", 0.0, 0.0), "top_tip": ("dorsal_fin", -0.26, -0.72), "back": ("body", -0.2, -0.8),
        "belly": ("body", 0.2, 0.8), "tail_top": ("tail_top", 0.85, 0.0), "tail_bottom": ("tail_bottom", 0.85, 0.0),
    },
    "car": {
        "hood": ("body", 0.68, -0.7), "roof_front": ("cabin", 0.55, -0.8), "roof_back": ("cabin", -0.55, -0.8), "trunk": ("body", -0.82, -0.7),
        "front_wheel": ("front_hub", 0.0, 0.0), "rear_wheel": ("rear_hub", 0.0, 0.0), "window": ("window", 0.0, 0.0),
    },
    "teapot": {
        "spout_tip": ("spout_lip", 0.0, 0.0), "spout_base": ("spout", 0.0, 0.2), "lid_knob": ("knob", 0.0, 0.0), "handle_top": ("handle", -0.4, -0.7),
        "handle_bottom": ("handle", -0.4, 0.7), "base_left": ("base", -0.8, 0.35), "base_right": ("base", 0.8, 0.35),
    },
    "lamp": {
        "top": ("top", 0.0, -0.3), "shade_left": ("shade", -0.86, 0.85), "shade_right": ("shade", 0.86, 0.85), "neck": ("stand", 0.0, -0.3),
        "base_left": ("base", -0.75, 0.4), "base_right": ("base", 0.75, 0.4),
    },
}  # fmt: skip


def _rest(count: int = 1, dtype=torch.float64) -> Pose:
    half, zero = torch.full((count,), 0.5, dtype=dtype), torch.zeros(count, dtype=dtype)
    return Pose(half, half, half, half, half, zero, zero, zero)


CATEGORY_PARTS = {name: tuple(piece.name for piece in build(_rest())) for name, build in SKELETONS.items()}  # in painter's order
PARTS = ("background", *dict.fromkeys(part for parts in CATEGORY_PARTS.values() for part in parts))  # part_id is an index into this
SLOTS = max(map(len, CATEGORY_PARTS.values()))
POINTS = max(map(len, KEYPOINTS.values()))
PART_INDEX = torch.zeros(len(CATEGORIES), SLOTS, dtype=torch.long)  # (category, slot) -> part id, 0 where the category has fewer parts
for _row, _name in enumerate(CATEGORIES):
    PART_INDEX[_row, : len(CATEGORY_PARTS[_name])] = torch.tensor([PARTS.index(part) for part in CATEGORY_PARTS[_name]])
