"""Odd and wrong inputs for the toy world."""

import numpy as np
import pytest
from hypothesis import strategies as st

from helpers.toyworld import analysers, creatures, draws, gatherings, rebounds, render, scenes, shapes, skeletons, strokes, surfaces
from tests.inputs.harness import SAME, WRONG, Kind, Odd, Trial, array, check, coverage, flag, instance, integer, optional, real, text, texts

ITEMS = array(np.array([3, 1, 4]), low=0, free=(0,), grow=(0,), torch_only=False)
SHAPES, COLOURS = texts(["disc", "star"], options=True), texts(["red", "blue", "green"], options=True)
CAPTIONS = ["a red ring moves up fast", "a blue star stays still"]
VIDEO = shapes.clips_of(CAPTIONS, size=24, frames=3).render().video


def pictures(value, **options):
    return array(value, low=-1e-3, high=1 + 1e-3, free=(0, 1, 3, 4), grow=(0, 1, 3, 4), **options)


def described(clips):
    """Numbers of a description that tell it from another one."""
    return vars(clips) if not hasattr(clips, "captions") else vars(clips) | {"captions": clips.captions}


MOTIONS = instance(
    lambda: {"move": 1.0, "pan": 2.0},
    wrong=[
        {"move": -1.0},
        {"move": float("nan")},
        {"move": float("inf")},
        {"move": 0},
        {"moove": 1.0},
        {"move": "1"},
        {},
        {"move": 1j},
        ["moove"],
        [],
        "moove",
    ],
)


def excluded(first, second) -> Kind:
    """Pairs of names that are left out."""
    wrong = [
        "red disc",
        ["red disc"],
        [(first,)],
        [(second, first)],
        [3],
        [(1, 2)],
        {first: second},
        3,
        None,
        [(first, second, first)],
        [(first, second + "x")],
    ]
    same = [((first, second),), [[first, second]], {(first, second)}]
    odd = [Odd(value, repr(value), WRONG) for value in wrong] + [Odd(value, repr(value), SAME) for value in same]
    return Kind(lambda: [(first, second)], lambda: st.sampled_from(odd))


CAPTION = text("a red ring moves up fast", wrong=["a red", "a mauve ring turns", "", "a red ring moves upp fast"])
OF_CREATURE = text("a photo of a striped red cat facing left on white", wrong=["a photo of a mauve cat", "", "a paint of a cat"])
TRIALS = [
    Trial(draws.Draws, seed=integer(5, low=0), indices=ITEMS, after=lambda d: d.uniform()),
    Trial(shapes.shapes, seed=integer(5, low=0), indices=ITEMS, size=integer(16, low=16), shapes=SHAPES, colours=COLOURS,
          textures=texts(["plain", "dotted"], options=True), after=described),
    Trial(shapes.clips, seed=integer(5, low=0), indices=ITEMS, size=integer(24, low=24), frames=integer(3, low=2), shapes=SHAPES, colours=COLOURS,
          motions=optional(MOTIONS), exclude=excluded("red", "disc"), after=described),
    Trial(shapes.clips_of, captions=texts(CAPTIONS, options=True), seed=integer(5, low=0), size=integer(24, low=24), frames=integer(3, low=2),
          after=described),
    Trial(shapes.parse_caption, caption=CAPTION),
    Trial(shapes.with_article, words=text("orange disc")),
    Trial(rebounds.rebounds, seed=integer(5, low=0), indices=ITEMS, size=integer(24, low=24), frames=integer(3, low=2), shapes=SHAPES, colours=COLOURS,
          after=described),
    Trial(rebounds.reflect, place=array(np.array([0.5, 2.5, 3.5]), free=(0,), grow=(0,), broadcast=True), low=array(np.array([0.0]), free=(0,), broadcast=True),
          high=array(np.array([1.0]), free=(0,), broadcast=True), follows="place"),
    Trial(scenes.crowds, seed=integer(5, low=0), indices=ITEMS, size=integer(24, low=24), shapes=SHAPES, colours=COLOURS, after=described),
    Trial(scenes.pairs, seed=integer(5, low=0), indices=ITEMS, size=integer(24, low=24), shapes=SHAPES, colours=COLOURS, after=described),
    Trial(gatherings.gatherings, seed=integer(5, low=0), indices=ITEMS, size=integer(16, low=16), smallest=real(0.2, low=0.02, high=0.65),
          largest=real(0.65, low=0.2, high=0.8), categories=texts(["cat", "lamp"], options=True), textures=texts(["plain", "dotted"], options=True),
          backgrounds=texts(["black", "noise"], options=True), names={"smallest": ("largest",), "largest": ("smallest",)}, slow=0.5, after=described),
    Trial(strokes.strokes, seed=integer(5, low=0), indices=ITEMS, size=integer(16, low=16)),
    Trial(strokes.letters, seed=integer(5, low=0), indices=ITEMS, alphabet=integer(2, low=0), count=integer(9, low=1), size=integer(16, low=16)),
    Trial(surfaces.surfaces, seed=integer(5, low=0), indices=ITEMS, world=integer(2, low=0), count=integer(9, low=1), size=integer(16, low=16)),
    Trial(creatures.creatures, seed=integer(5, low=0), indices=ITEMS, size=integer(32, low=32), categories=texts(["cat", "dog"], options=True),
          colours=COLOURS, textures=texts(["plain", "dotted"], options=True), styles=optional(texts(["photo", "sketch"], options=True)),
          exclude=excluded("cat", "dotted"), turned=flag(False), slow=0.5),
    Trial(creatures.creatures_of, captions=texts(["a photo of a red cat", "a sketch of a dog"], options=True), seed=integer(5, low=0),
          size=integer(32, low=32), slow=0.5),
    Trial(creatures.parse_creature_caption, caption=OF_CREATURE),
    Trial(creatures.creature_clips, seed=integer(5, low=0), indices=ITEMS, size=integer(32, low=32), frames=integer(3, low=2),
          categories=texts(["cat", "dog"], options=True), colours=COLOURS, textures=texts(["plain", "dotted"], options=True),
          styles=texts(["photo", "sketch"], options=True), motions=optional(MOTIONS),
          exclude=excluded("cat", "dotted"), after=described),
    Trial(analysers.analyse_pictures, images=array(VIDEO[0], low=-1e-3, high=1.001, free=(0, 2, 3), grow=(0, 2, 3)), follows="images"),
    Trial(analysers.analyse_clips, video=pictures(VIDEO), follows="video"),
    Trial(analysers.analyse_two_objects, video=pictures(VIDEO), follows="video"),
    Trial(analysers.camera_motion, video=pictures(VIDEO), iterations=integer(2, low=1), follows="video"),
    Trial(analysers.judge, video=array(VIDEO, low=-1e-3, high=1.001, free=(1, 3, 4), grow=(1, 3, 4)), captions=texts(CAPTIONS, fixed_length=True, options=True),
          follows="video", names={"video": ("captions",)}),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_has_a_trial():
    for module in (analysers, creatures, draws, gatherings, rebounds, render, scenes, shapes, skeletons, strokes, surfaces):
        assert coverage(module, TRIALS) == set(), module.__name__
