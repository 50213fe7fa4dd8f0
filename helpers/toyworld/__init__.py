"""The procedural world: pictures and clips whose every quantity has an exact answer. Imports nothing else of the package.

`shapes` and `creatures` are modules here; the pictures come from `shapes.shapes(...)` and `creatures.creatures(...)`.
"""

from . import creatures, shapes
from .analysers import ClipReading, Judgement, PictureReading, analyse_clips, analyse_pictures, analyse_two_objects, camera_motion, judge
from .creatures import (
    BACKGROUNDS,
    FACINGS,
    STYLES,
    CreatureClipRendering,
    CreatureClips,
    CreaturePictures,
    creature_clips,
    creatures_of,
    parse_creature_caption,
)
from .render import TEXTURES
from .shapes import COLOURS, DIRECTIONS, MOTIONS, SHAPES, SPEEDS, ClipRendering, Clips, ShapePictures, clips, clips_of, parse_caption
from .skeletons import CATEGORIES, CATEGORY_PARTS, KEYPOINTS, PARTS, TRAITS

__all__ = [
    "BACKGROUNDS", "CATEGORIES", "CATEGORY_PARTS", "COLOURS", "DIRECTIONS", "FACINGS", "KEYPOINTS", "MOTIONS", "PARTS", "SHAPES", "SPEEDS", "STYLES",
    "TEXTURES", "TRAITS", "ClipReading", "ClipRendering", "Clips", "CreatureClipRendering", "CreatureClips", "CreaturePictures", "Judgement", "PictureReading",
    "ShapePictures", "analyse_clips", "analyse_pictures", "analyse_two_objects", "camera_motion", "clips", "clips_of", "creature_clips", "creatures",
    "creatures_of", "judge", "parse_caption", "parse_creature_caption", "shapes",
]  # fmt: skip
