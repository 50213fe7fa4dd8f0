"""The family *shapes*: pictures and clips, their ground truth, and their captions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.toyworld.render import TEXTURES, plain_background, render
from helpers.toyworld.shapes import (
    COLOUR_TABLE,
    COLOURS,
    DIRECTIONS,
    FAST_ABOVE,
    MOTIONS,
    SHAPES,
    SPEEDS,
    STILL_BELOW,
    clips,
    clips_of,
    mask_boxes,
    parse_caption,
    shape_parts,
    shapes,
    symmetry,
)

PICTURE_FIELDS = ("image", "mask", "part_id", "box", "position", "radius", "angle", "shape", "colour", "texture")
CLIP_FIELDS = ("shape", "colour", "position", "radius", "angle", "camera", "motion", "direction", "speed", "grey", "waves")


def warp(frame, flow):
    """frame (B, C, S, S) of the next moment, read where flow (B, 2, S, S) points to."""
    size = frame.shape[-1]
    line = torch.arange(size) + 0.5
    x, y = line + flow[:, 0], line[:, None] + flow[:, 1]
    return F.grid_sample(frame, torch.stack([x, y], -1) / size * 2 - 1, align_corners=False, padding_mode="border")


# ------------------------------------------------------------------------------------------------------------------------- pictures


def test_a_picture_is_the_same_alone_and_in_any_batch():
    whole = shapes(7, range(150))
    for batch in ([0], [149], [64, 63, 65], [3, 3], range(100, 130), np.random.default_rng(1).permutation(150)[:70]):
        part = shapes(7, batch)
        for field in PICTURE_FIELDS:
            assert torch.equal(getattr(part, field), getattr(whole, field)[torch.as_tensor(list(batch))]), field
        assert part.captions == [whole.captions[i] for i in batch]
    assert not torch.equal(shapes(8, [0]).image, whole.image[:1])


def test_masks_boxes_and_names_agree_with_the_picture():
    p = shapes(3, range(300))
    assert p.image.shape == (300, 3, 32, 32) and p.image.dtype == torch.float32 and p.image.min() >= 0 and p.image.max() <= 1 and len(p) == 300
    assert torch.equal(p.mask, p.part_id > 0) and p.mask.flatten(1).any(1).all()
    for i in range(300):
        rows, columns = p.mask[i].nonzero().unbind(1)
        assert p.box[i].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    x, y = torch.arange(32) + 0.5, torch.arange(32)[:, None] + 0.5
    count = p.mask.sum((1, 2))
    middle = torch.stack([(p.mask * x).sum((1, 2)) / count, (p.mask * y).sum((1, 2)) / count], 1)
    away = (middle - p.position).norm(dim=1)
    triangle = p.shape == SHAPES.index("triangle")  # its centroid lies a third of its height above its base, not half
    assert away[~triangle].max() < 0.5 and away[~triangle].median() < 0.1
    assert torch.allclose(away[triangle], (0.88 / 3 * p.radius)[triangle], atol=0.5)
    plain = p.texture == 0
    centre = p.image.flatten(2)[torch.arange(300), :, (p.position[:, 1].floor() * 32 + p.position[:, 0].floor()).long()]
    filled = plain & (p.shape != SHAPES.index("ring"))
    assert torch.allclose(centre[filled], COLOUR_TABLE[p.colour[filled]], atol=1e-6)


def test_the_area_of_a_disc_and_a_square_is_that_of_the_closed_form():
    for name, factor in (("disc", np.pi * 0.95**2), ("square", 4 * 0.84**2)):
        p = shapes(5, range(60), shapes=(name,), size=48)
        assert torch.allclose(p.mask.sum((1, 2)).double(), factor * p.radius**2, rtol=0.06)


def test_choices_are_kept_and_all_occur():
    p = shapes(1, range(400), shapes=("star", "disc"), colours=("green",), textures=("dotted", "plain"))
    assert set(p.shape.tolist()) == {SHAPES.index("star"), SHAPES.index("disc")} and set(p.colour.tolist()) == {list(COLOURS).index("green")}
    assert set(p.texture.tolist()) == {TEXTURES.index("dotted"), 0}
    every = shapes(1, range(400))
    assert len(set(every.shape.tolist())) == 6 and len(set(every.colour.tolist())) == 8 and len(set(every.texture.tolist())) == 4
    assert set(shapes(0, range(50), colours="orange", textures="plain", shapes="disc").captions) == {"an orange disc"}


@pytest.mark.parametrize("name", SHAPES)
def test_turning_by_a_symmetry_changes_nothing_but_rounding(name):
    one, turns = torch.ones(1, 1, dtype=torch.float64), symmetry(name)

    def at(angle):
        below = 9 * 0.88 / 3 if name == "triangle" else 0.0  # turn a triangle about its centroid, which lies below the middle of its box
        x, y = one * (16 + below * np.sin(angle)), one * (16 - below * np.cos(angle))
        parts = shape_parts(torch.full((1, 1), SHAPES.index(name)), x, y, one * 9, one * angle, COLOUR_TABLE[:1, None])
        return render(parts, plain_background(torch.zeros(1, 3), 32)).image

    step = 0.9 if turns is None else 2 * np.pi / turns
    same = (at(0.2 + step) - at(0.2)).abs()
    assert same.max() < (1e-4 if name != "triangle" else 0.15)  # its sides are equal to half a percent
    if turns:
        assert (at(0.2 + step / 2) - at(0.2)).abs().mean() > 0.02


def test_empty_masks_have_an_empty_box():
    assert mask_boxes(torch.zeros(2, 5, 4, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]] * 2


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(size=15), ValueError, "size must be a whole number >= 16, got 15"),
        (dict(size="32"), TypeError, r"size must be a whole number >= \d+, got '32'"),
        (dict(size=32.0), TypeError, "size must be a whole number"),
        (dict(shapes=("hexagon",)), ValueError, "shapes must be one of .*hexagon"),
        (dict(colours=()), ValueError, "colours must be a text or a list of texts, got 0"),
        (dict(textures="furry"), ValueError, "textures must be one of"),
        (dict(indices=[]), ValueError, "indices"),
        (dict(indices=[-3]), ValueError, "indices must be whole numbers .* >= 0"),
        (dict(seed=-1), ValueError, "seed must be a whole number >= 0"),
        (dict(seed="one"), TypeError, "seed must be a whole number"),
    ],
)
def test_bad_arguments_of_pictures(options, error, message):
    with pytest.raises(error, match=message):
        shapes(**{"seed": 0, "indices": [0], **options})


# ---------------------------------------------------------------------------------------------------------------------------- clips


def test_a_clip_is_the_same_alone_and_in_any_batch():
    whole = clips(7, range(70))
    painted = whole.render()
    for batch in ([69], [5, 4], np.random.default_rng(1).permutation(70)[:33]):
        part = clips(7, batch)
        rows = torch.as_tensor(list(batch))
        for field in CLIP_FIELDS:
            assert torch.equal(getattr(part, field), getattr(whole, field)[rows]), field
        frames = part.render()
        for field in ("video", "mask", "object_id", "flow"):
            assert torch.equal(getattr(frames, field), getattr(painted, field)[rows]), field


def test_captions_say_what_is_drawn_and_are_read_back():
    c = clips(2, range(500))
    assert {MOTIONS[m] for m in c.motion.tolist()} == set(MOTIONS)
    for i, caption in enumerate(c.captions):
        said = parse_caption(caption)
        assert said["motion"] == MOTIONS[c.motion[i]]
        for slot, (colour, shape, direction, speed) in enumerate(said["objects"]):
            assert (colour, shape, speed) == (c.colour[i, slot], c.shape[i, slot], c.speed[i, slot])
            if speed:
                assert direction == c.direction[i, slot]


def test_clips_of_captions_show_what_was_asked():
    asked = clips(4, range(120)).captions
    assert clips_of(asked, 9).captions == asked
    one = clips_of("A red  ring moves UP fast.", size=48, frames=12)
    assert one.captions == ["a red ring moves up fast"] and one.render().video.shape == (1, 12, 3, 48, 48)


@pytest.mark.parametrize(
    "caption, message",
    [
        ("a red hexagon moves up fast", "'hexagon' is not a shape"),
        ("a mauve ring stays still", "'mauve' is not a colour"),
        ("a red ring moves sideways fast", "'sideways' is not a direction"),
        ("a red ring moves up soon", "'soon' is not a speed"),
        ("the camera pans up soon over a red ring", "'soon' is not a speed"),
        ("a red ring", "not one the toy world can draw"),
        ("", "not one the toy world can draw"),
        ("a red ring stays still and a blue disc stays still and a green star stays still", "not one the toy world can draw"),
    ],
)
def test_unknown_words_are_refused(caption, message):
    with pytest.raises(ValueError, match=message):
        parse_caption(caption)
    with pytest.raises(ValueError, match=message):
        clips_of([caption])


@pytest.mark.parametrize("caption", [3, None, ["a red ring turns"]])
def test_captions_must_be_text(caption):
    with pytest.raises(TypeError, match="caption must be a text"):
        parse_caption(caption)


def test_excluded_pairs_never_occur():
    banned = [("green", "star"), ("red", "disc")]
    c = clips(3, range(1500), exclude=banned)
    shown = {(int(a), int(b)) for a, b in zip(c.colour.flatten(), c.shape.flatten(), strict=True) if b >= 0}
    names = {(list(COLOURS)[a], SHAPES[b]) for a, b in shown}
    assert not names & set(banned) and len(names) == 46
    assert clips_of("a green star turns").captions == ["a green star turns"]


def test_direction_and_speed_are_those_of_the_positions():
    c = clips(6, range(800))
    velocity = (c.position[:, -1] - c.position[:, 0]) / (c.frames - 1)
    camera = (c.camera[:, -1] - c.camera[:, 0]) / (c.frames - 1)
    is_pan = c.motion == MOTIONS.index("pan")
    for slot in range(2):
        shown = c.shape[:, slot] >= 0
        own = torch.where(is_pan[:, None] & (slot == 0), camera, velocity[:, slot])[shown]
        length = own.norm(dim=1)
        kind = (length > STILL_BELOW).long() + (length > FAST_ABOVE).long()
        assert torch.equal(kind, c.speed[shown, slot])
        moving = kind > 0
        angle = torch.atan2(own[:, 1], own[:, 0])
        read = (angle / (torch.pi / 4)).round().long() % len(DIRECTIONS)
        assert torch.equal(read[moving], c.direction[shown, slot][moving])
    assert torch.allclose((c.position[is_pan, :, 0] + c.camera[is_pan]).diff(dim=1), torch.zeros(1, dtype=torch.float64), atol=1e-9)
    assert len(SPEEDS) == 3


def test_longer_clips_move_as_far_in_all():
    short, long = (clips_of("a red ring moves up fast", 1, frames=t) for t in (8, 15))
    assert torch.allclose((short.position[:, -1] - short.position[:, 0]), (long.position[:, -1] - long.position[:, 0]))


def test_flow_of_pure_motion_is_the_velocity_and_of_a_pan_minus_the_camera():
    c = clips(3, range(40), motions=("move",))
    r = c.render()
    velocity = c.position.diff(dim=1)[:, :, 0]
    for i in range(40):
        for t in (0, 6):
            inside = r.mask[i, t]
            assert torch.allclose(r.flow[i, t][:, inside], velocity[i, t].float()[:, None].expand(-1, int(inside.sum())), atol=1e-5)
            assert (r.flow[i, t][:, ~inside] == 0).all()
    c = clips(3, range(20), motions=("pan",))
    r, camera = c.render(), c.camera.diff(dim=1)
    assert torch.allclose(r.flow, -camera[..., None, None].float().expand_as(r.flow), atol=1e-5)


def test_flow_of_turning_and_growing_has_the_closed_form():
    turn = clips_of("a red star turns", 3)
    flow, mask = turn.render().flow[0, 0], turn.render().mask[0, 0]
    step = float(turn.angle[0, 1, 0] - turn.angle[0, 0, 0])
    y, x = (mask.nonzero().double() + 0.5 - turn.position[0, 0, 0].flip(0)).unbind(1)
    assert torch.allclose(flow[0][mask].double(), x * np.cos(step) - y * np.sin(step) - x, atol=1e-5)
    assert torch.allclose(flow[1][mask].double(), x * np.sin(step) + y * np.cos(step) - y, atol=1e-5)
    grow = clips_of("a red star grows", 3)
    flow, mask = grow.render().flow[0, 0], grow.render().mask[0, 0]
    y, x = (mask.nonzero().double() + 0.5 - grow.position[0, 0, 0].flip(0)).unbind(1)
    ratio = float(grow.radius[0, 1, 0] / grow.radius[0, 0, 0])
    assert ratio > 1.05 and torch.allclose(flow[0][mask].double(), x * (ratio - 1), atol=1e-5)


def test_warping_the_next_frame_by_the_flow_gives_this_frame():
    for motion in ("move", "turn", "grow", "shrink", "pan", "two"):
        r = clips(8, range(24), motions=(motion,)).render()
        video, flow = r.video, r.flow
        back = warp(video[:, 1:].flatten(0, 1), flow.flatten(0, 1)).view_as(video[:, 1:])
        whole = F.max_pool2d((~r.mask[:, :-1]).float(), 3, 1, 1) == 0  # inside the object, away from its edge
        error = (back - video[:, :-1]).abs().amax(2)
        assert whole.sum() > 2000 and error[whole].mean() < 0.01, motion
        if motion == "pan":
            assert error[~F.max_pool2d(r.mask[:, :-1].float(), 5, 1, 2).bool()].mean() < 0.01


def test_objects_have_masks_of_their_own():
    c = clips(3, range(60), motions=("two",))
    r = c.render()
    assert set(r.object_id.unique().tolist()) == {0, 1, 2} and torch.equal(r.mask, r.object_id > 0)
    x, y = torch.arange(32) + 0.5, torch.arange(32)[:, None] + 0.5
    for slot in range(2):
        m = (r.object_id == slot + 1).float()
        count = m.sum((2, 3))
        place = torch.stack([(m * x).sum((2, 3)) / count, (m * y).sum((2, 3)) / count], -1)
        away = (place - c.position[:, :, slot]).norm(dim=-1)
        assert away.nanmedian() < 0.4
    assert (c.colour[:, 0] != c.colour[:, 1]).all()
    assert ((clips(3, range(60), motions=("move",)).shape[:, 1]) == -1).all()


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(size=23), ValueError, "size must be a whole number >= 24"),
        (dict(frames=1), ValueError, "frames must be a whole number >= 2, got 1"),
        (dict(frames="8"), TypeError, r"frames must be a whole number >= \d+, got '8'"),
        (dict(frames=float("nan")), TypeError, "frames must be a whole number"),
        (dict(motions={"still": 1, "move": -1}), ValueError, r"motions\['move'\] must be a number >= 0, got -1"),
        (dict(motions={"move": float("nan")}), ValueError, r"motions\['move'\] must be a number >= 0, got nan"),
        (dict(motions={"move": float("inf")}), ValueError, r"motions\['move'\] must be a number >= 0, got inf"),
        (dict(motions={"move": 0, "pan": 0}), ValueError, "motions must have shares that do not all vanish"),
        (dict(motions={"move": 1e308, "pan": 1e308}), ValueError, "motions must have shares that do not all vanish and have a sum"),
        (dict(motions={"move": "much"}), TypeError, r"motions\['move'\] must be a number >= 0, got 'much'"),
        (dict(motions={}), ValueError, "motions must be a text or a list of texts, got 0"),
        (dict(motions=("fly",)), ValueError, "motions must be one of"),
        (dict(exclude="green star"), TypeError, "exclude must hold pairs of names, got 'green star'"),
        (dict(exclude=["green star"]), TypeError, "exclude must hold pairs of names, got 'green star' in it"),
        (dict(exclude=[("green", "star", "red")]), TypeError, "exclude must hold pairs of names"),
        (dict(exclude=[("green", "hexagon")]), ValueError, "exclude must be one of"),
        (dict(colours=("red",)), ValueError, "fewer than two colours"),
        (dict(indices=[0.5]), TypeError, "indices must be whole numbers"),
        (dict(seed=-4), ValueError, "seed must be a whole number >= 0"),
    ],
)
def test_bad_arguments_of_clips(options, error, message):
    with pytest.raises(error, match=message):
        clips(**{"seed": 0, "indices": [0], **options})


def test_motions_of_one_name_and_shares_in_proportion():
    assert set(clips(0, range(20), motions="pan").motion.tolist()) == {MOTIONS.index("pan")}
    only = clips(0, range(300), motions={"still": 0, "move": 3, "grow": 1})
    counts = torch.bincount(only.motion, minlength=len(MOTIONS)).tolist()
    assert sum(counts) == counts[MOTIONS.index("move")] + counts[MOTIONS.index("grow")] and 190 < counts[MOTIONS.index("move")] < 260
    thrice = clips(0, range(300), motions={"still": 0, "move": 300, "grow": 100})
    assert torch.equal(only.motion, thrice.motion)


def test_every_caption_is_named_by_its_place():
    with pytest.raises(ValueError, match=r"captions\[1\]: 'mauve' is not a colour"):
        clips_of(["a red ring turns", "a mauve disc turns"])
    with pytest.raises(TypeError, match="captions must be a text or a list of texts, got 3 in it"):
        clips_of(["a red ring turns", 3])
    with pytest.raises(ValueError, match="captions must be a text or a list of texts, got 0"):
        clips_of([])
