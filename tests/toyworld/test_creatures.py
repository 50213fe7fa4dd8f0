"""The family *creatures and things*: parts, keypoints, poses, captions, clips with exact flow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.toyworld.creatures import BACKGROUNDS, FACINGS, STYLES, creature_clips, creatures, creatures_of, parse_creature_caption
from helpers.toyworld.render import TEXTURES, Parts, plain_background, render
from helpers.toyworld.shapes import COLOUR_TABLE, COLOURS, DIRECTIONS, FAST_ABOVE, MOTIONS, STILL_BELOW
from helpers.toyworld.skeletons import ANCHORS, CATEGORIES, CATEGORY_PARTS, KEYPOINTS, PARTS

TENSORS = ("image", "mask", "part_id", "uv", "box", "visible", "category", "colour", "texture", "style", "background", "facing", "angle", "traits")
CLIP_TENSORS = ("category", "colour", "texture", "style", "facing", "position", "unit", "angle", "swing", "wag", "roll", "traits", "camera", "motion", "ground")


def same(a, b):
    """Bit for bit, NaN equal to NaN."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) if a.is_floating_point() else torch.equal(a, b)


@pytest.fixture(scope="module")
def many():
    return creatures(3, range(400))


@pytest.fixture(scope="module")
def films():
    c = creature_clips(5, range(32))
    return c, c.render()


# ------------------------------------------------------------------------------------------------------------------------- pictures


def test_a_picture_is_the_same_alone_and_in_any_batch(many):
    for batch in ([0], [399], [64, 63, 65], [7, 7], range(100, 131), np.random.default_rng(1).permutation(400)[:90]):
        part, rows = creatures(3, batch), torch.as_tensor(list(batch))
        for field in (*TENSORS, "keypoints"):
            assert same(getattr(part, field), getattr(many, field)[rows]), field
        assert part.captions == [many.captions[i] for i in rows] and part.full_captions == [many.full_captions[i] for i in rows]
    assert not torch.equal(creatures(4, [0]).image, many.image[:1])


def test_shapes_and_types(many):
    assert many.image.shape == (400, 3, 64, 64) and many.image.dtype == torch.float32 and many.image.min() >= 0 and many.image.max() <= 1
    assert many.keypoints.shape == (400, 11, 2) and many.visible.shape == (400, 11) and many.uv.shape == (400, 2, 64, 64) and len(many) == 400
    assert creatures(3, [0], size=48).image.shape == (1, 3, 48, 48)
    assert torch.equal(many.mask, many.part_id > 0)
    for i in range(0, 400, 9):
        rows, columns = many.mask[i].nonzero().unbind(1)
        assert many.box[i].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_everything_occurs_and_choices_are_kept(many):
    tables = {"category": CATEGORIES, "colour": COLOURS, "texture": TEXTURES, "style": STYLES, "background": BACKGROUNDS, "facing": FACINGS}
    for field, table in tables.items():
        assert set(getattr(many, field).tolist()) == set(range(len(table))), field
    assert 0.08 < float(many.style.double().mean()) < 0.22
    assert torch.equal(many.style == 1, many.background == list(BACKGROUNDS).index("paper"))
    some = creatures(1, range(60), categories=("fox", "car"), colours="red", textures=("dotted",), styles="sketch")
    assert {CATEGORIES[c] for c in some.category} == {"fox", "car"} and set(some.colour.tolist()) == {0} and set(some.style.tolist()) == {1}


def test_turned_pictures_differ_in_facing_only():
    drawn, turned = creatures(4, range(24)), creatures(4, range(24), turned=True)
    assert torch.equal(turned.facing, 1 - drawn.facing)
    assert all(torch.equal(getattr(drawn, name), getattr(turned, name)) for name in ("category", "colour", "texture", "style", "background"))
    assert [c.replace("left", "right") for c in drawn.full_captions] == [c.replace("left", "right") for c in turned.full_captions]
    middle = [(p.image - p.image.median(-1, keepdim=True)[0]).abs().mean((1, 2)) for p in (drawn, turned)]  # what stands out, column by column
    places = [(m * torch.arange(64)).sum(1) / m.sum(1) for m in middle]
    assert (places[0] - places[1]).abs().mean() < 6 < (places[0] - (63 - places[0])).abs().mean()  # turned about its own place, not mirrored in the picture


def test_excluded_pairs_never_occur():
    banned = {("rabbit", "striped"), ("car", "dotted")}
    c = creatures(2, range(300), size=32, exclude=banned)
    pairs = {(CATEGORIES[a], TEXTURES[b]) for a, b in zip(c.category, c.texture, strict=True)}
    assert not pairs & banned and len(pairs) == 34
    f = creature_clips(2, range(600), exclude=banned)
    assert not {(CATEGORIES[a], TEXTURES[b]) for a, b in zip(f.category.flatten(), f.texture.flatten(), strict=True) if a >= 0} & banned


def test_part_ids_are_those_of_the_category(many):
    for index, name in enumerate(CATEGORIES):
        shown = {PARTS[i] for i in many.part_id[many.category == index].unique().tolist()} - {"background"}
        assert shown <= set(CATEGORY_PARTS[name]) and len(set(CATEGORY_PARTS[name])) == len(CATEGORY_PARTS[name])
        assert len(shown) >= len(CATEGORY_PARTS[name]) - 2, name
    assert PARTS[0] == "background"


def test_poses_stay_in_their_ranges(many):
    assert many.angle.abs().max() <= np.radians(25) + 1e-9 and many.traits.min() >= 0 and many.traits.max() < 1
    side = torch.maximum(many.box[:, 2] - many.box[:, 0], many.box[:, 3] - many.box[:, 1])
    assert side.min() >= 0.45 * 64 * 0.85 and side.max() <= 0.85 * 64 + 2  # the box of a skeleton is a little generous


def test_at_least_nine_tenths_of_every_creature_is_on_the_canvas(monkeypatch):
    """The same parts painted on a canvas with a wide margin."""
    import helpers.toyworld.creatures as module

    seen = {}

    def wider(parts, background, *, uv=False):
        moved = Parts(**{**vars(parts), "cx": parts.cx + 32, "cy": parts.cy + 32})
        seen["whole"] = (render(moved, plain_background(torch.zeros(len(parts), 3), 128)).object_id > 0).sum((1, 2))
        return render(parts, background, uv=uv)

    monkeypatch.setattr(module, "render", wider)
    inside = module.creatures(11, range(150)).mask.sum((1, 2)) / seen["whole"]
    assert inside.min() >= 0.90 and inside.min() < 1


def test_keypoints_are_visible_exactly_where_their_part_is_on_top(many):
    for i in range(0, 400, 3):
        name = CATEGORIES[many.category[i]]
        points = KEYPOINTS[name]
        assert many.keypoints[i, len(points) :].isnan().all() and not many.visible[i, len(points) :].any()
        for k, point in enumerate(points):
            x, y = many.keypoints[i, k].tolist()
            on_canvas = 0 <= x < 64 and 0 <= y < 64
            top = PARTS[many.part_id[i, int(y), int(x)]] if on_canvas else None
            assert bool(many.visible[i, k]) == (top == ANCHORS[name][point][0])
    named = torch.stack([~many.keypoints[..., 0].isnan() & (many.category == c)[:, None] for c in range(9)])
    for c, points in enumerate(KEYPOINTS.values()):
        share = many.visible[many.category == c].double().mean(0)[: len(points)]
        assert share.min() > 0.5, dict(zip(points, share.tolist(), strict=True))  # every keypoint of every category is usually seen
    assert float(many.visible[named.any(0)].double().mean()) > 0.88


def test_uv_at_a_visible_keypoint_is_the_keypoints_own_place(many):
    errors = []
    for i in range(400):
        name = CATEGORIES[many.category[i]]
        for k, point in enumerate(KEYPOINTS[name]):
            if many.visible[i, k] and ANCHORS[name][point][0] == "body":
                x, y = many.keypoints[i, k].tolist()
                errors.append((many.uv[i, :, int(y), int(x)] - torch.tensor(ANCHORS[name][point][1:])).abs().max())
    assert len(errors) > 300 and torch.stack(errors).max() < 0.25  # half a pixel of a body that is at least 6 px thick


def test_left_is_right_mirrored_and_keeps_its_names():
    right, left = creatures_of("a photo of a plain red fox facing right on grey", 4), creatures_of("a photo of a plain red fox facing left on grey", 4)
    nose, tail = (KEYPOINTS["fox"].index(p) for p in ("nose", "tail_tip"))
    assert right.keypoints[0, nose, 0] > right.keypoints[0, tail, 0] and left.keypoints[0, nose, 0] < left.keypoints[0, tail, 0]
    assert PARTS[left.part_id[0, int(left.keypoints[0, nose, 1]), int(left.keypoints[0, nose, 0])]] == "nose"


def test_photos_show_their_colour_and_sketches_their_paper(many):
    plain = (many.texture == 0) & (many.style == 0)
    for i in plain.nonzero()[:, 0].tolist():
        name = CATEGORIES[many.category[i]]
        main = "shade" if name == "lamp" else "body"
        rgb = many.image[i][:, many.part_id[i] == PARTS.index(main)].median(1).values
        opponent = rgb - rgb.mean()
        table = COLOUR_TABLE - COLOUR_TABLE.mean(1, keepdim=True)
        assert int(F.cosine_similarity(table, opponent[None]).argmax()) == many.colour[i], many.full_captions[i]
    sketch = creatures(0, range(40), styles="sketch", textures="plain")
    light = (sketch.image.amin(1) > 0.88).double().mean((1, 2))
    assert light.min() > 0.6 and (sketch.image.amin((1, 2, 3)) < 0.6).all()


def test_captions_drop_attributes_with_the_stated_chances_and_tell_the_truth():
    c = creatures(9, range(900), size=32)
    bare = np.mean([caption in CATEGORIES for caption in c.captions])
    assert abs(bare - 0.10) < 0.04
    short = np.mean([caption.endswith(f" of a {CATEGORIES[k]}") for caption, k in zip(c.captions, c.category, strict=True)])
    assert abs(short - 0.25 - 0.65 * 0.3**4) < 0.045
    said = [parse_creature_caption(caption) for caption in c.captions]
    for i, attributes in enumerate(said):
        for name, value in attributes.items():
            assert value is None or value == getattr(c, name)[i], c.captions[i]
    assert abs(np.mean([s["colour"] is not None for s in said]) - 0.65 * 0.7) < 0.05
    for i, caption in enumerate(c.full_captions):
        assert parse_creature_caption(caption) == {name: int(getattr(c, name)[i]) for name in said[0]}
    assert len({word for caption in c.full_captions for word in caption.split()}) <= 45
    some = creatures(0, range(2), categories="cat", colours="orange", textures="striped", styles="photo")
    assert some.full_captions[0].startswith("a photo of a striped orange cat facing ")


def test_creatures_of_captions_show_what_was_asked():
    asked = [c for c in creatures(6, range(50)).full_captions]
    drawn = creatures_of(asked, 1)
    assert drawn.full_captions == asked
    free = creatures_of(["a sketch of a teapot", "dog"], 2)
    assert free.full_captions[0].startswith("a sketch of a ") and "teapot" in free.full_captions[0] and free.full_captions[0].endswith("on paper")
    assert CATEGORIES[free.category[1]] == "dog"


@pytest.mark.parametrize(
    "caption, message",
    [
        ("a photo of a red horse", "'horse' is not a category"),
        ("a painting of a red cat", "'painting' is not a style"),
        ("a photo of a furry cat", "'furry' is neither a texture nor a colour"),
        ("a photo of a red blue cat", "'blue' is neither"),
        ("a cat facing up", "'up' is not a facing"),
        ("a cat on mars", "'mars' is not a background"),
        ("", "not one the toy world can draw"),
    ],
)
def test_unknown_words_are_refused(caption, message):
    with pytest.raises(ValueError, match=message):
        parse_creature_caption(caption)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(size=31), ValueError, "size must be a whole number >= 32, got 31"),
        (dict(size="64"), TypeError, r"size must be a whole number >= \d+, got '64'"),
        (dict(size=float("nan")), TypeError, "size must be a whole number"),
        (dict(categories=("horse",)), ValueError, "categories must be one of .*horse"),
        (dict(categories=()), ValueError, "categories must be a text or a list of texts, got 0"),
        (dict(styles="oil"), ValueError, "styles must be one of"),
        (dict(categories="cat", textures="plain", exclude=[("cat", "plain")]), ValueError, "exclude leaves nothing"),
        (dict(exclude=[("horse", "plain")]), ValueError, "exclude must be one of"),
        (dict(indices=[]), ValueError, "indices"),
        (dict(indices="0"), TypeError, "indices"),
        (dict(seed=-1), ValueError, "seed must be a whole number >= 0, got -1"),
    ],
)
def test_bad_arguments(options, error, message):
    for draw in (creatures, creature_clips):
        with pytest.raises(error, match=message):
            draw(**{"seed": 0, "indices": [0], **options})


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(frames=1), "frames must be a whole number >= 2"),
        (dict(motions=("fly",)), "motions must be one of"),
        (dict(motions={"move": -1.0}), r"motions\['move'\] must be a number >= 0"),
        (dict(motions={"move": float("nan")}), r"motions\['move'\] must be a number >= 0"),
        (dict(colours="red"), "fewer than two colours"),
    ],
)
def test_bad_arguments_of_clips(options, message):
    with pytest.raises(ValueError, match=message):
        creature_clips(0, [0], **options)


def test_captions_must_be_text():
    with pytest.raises(TypeError, match="caption must be a text, got 3"):
        parse_creature_caption(3)
    with pytest.raises(ValueError, match="captions must be a text or a list of texts, got 0"):
        creatures_of([])


# ---------------------------------------------------------------------------------------------------------------------------- clips


def test_a_clip_is_the_same_alone_and_in_any_batch(films):
    whole, painted = films
    for batch in ([31], [5, 4], np.random.default_rng(1).permutation(32)[:11]):
        part, rows = creature_clips(5, batch), torch.as_tensor(list(batch))
        for field in CLIP_TENSORS:
            assert same(getattr(part, field), getattr(whole, field)[rows]), field
        frames = part.render()
        for field in ("video", "mask", "object_id", "part_id", "keypoints", "visible", "flow"):
            assert same(getattr(frames, field), getattr(painted, field)[rows]), field
        assert part.captions == [whole.captions[i] for i in rows]


def test_clips_have_the_stated_shapes(films):
    c, r = films
    assert r.video.shape == (32, 8, 3, 64, 64) and r.flow.shape == (32, 7, 2, 64, 64) and r.keypoints.shape == (32, 8, 2, 11, 2)
    assert torch.equal(r.mask, r.object_id > 0) and torch.equal(r.mask, r.part_id > 0) and r.video.min() >= 0 and r.video.max() <= 1
    small = creature_clips(5, [0], size=32, frames=3).render()
    assert small.video.shape == (1, 3, 3, 32, 32) and len(c) == 32 and c.frames == 8


def test_direction_and_speed_are_those_of_the_positions():
    c = creature_clips(6, range(600))
    assert {MOTIONS[m] for m in c.motion.tolist()} == set(MOTIONS)
    scale, is_pan = 64 / 32, c.motion == MOTIONS.index("pan")
    velocity, camera = ((p[:, -1] - p[:, 0]) / 7 / scale for p in (c.position, c.camera))
    for slot in range(2):
        shown = c.category[:, slot] >= 0
        own = torch.where(is_pan[:, None] & (slot == 0), camera, velocity[:, slot])[shown]
        length = own.norm(dim=1)
        kind = (length > STILL_BELOW).long() + (length > FAST_ABOVE).long()
        assert torch.equal(kind, c.speed[shown, slot])
        read = (torch.atan2(own[:, 1], own[:, 0]) / (torch.pi / 4)).round().long() % len(DIRECTIONS)
        assert torch.equal(read[kind > 0], c.direction[shown, slot][kind > 0])
        sideways = (kind > 0) & (own[:, 0].abs() > 0.1) & ~is_pan[shown]
        assert torch.equal((own[:, 0] < 0)[sideways], (c.facing[shown, slot] == 1)[sideways])  # they walk the way they face
    assert (c.swing[c.motion == 0] == 0).all() and (c.swing[c.motion == MOTIONS.index("move")].abs().amax((1, 2)) > 0).all()


def test_flow_leads_every_keypoint_to_its_next_place(films):
    c, r = films
    errors = []
    for b, t, slot, k in (r.visible[:, :-1] & r.visible[:, 1:]).nonzero().tolist():
        x, y = r.keypoints[b, t, slot, k].tolist()
        predicted = r.keypoints[b, t, slot, k] + r.flow[b, t, :, int(y), int(x)]
        errors.append(float((predicted - r.keypoints[b, t + 1, slot, k]).norm()))
    assert len(errors) > 1200 and np.median(errors) < 0.02
    assert max(errors) < 0.8  # the flow is that of the pixel's middle, up to 0.7 px away: a wheel turns by a radian a frame


def test_flow_of_the_analytic_cases():
    still = creature_clips(1, range(10), motions=("still",)).render()
    assert still.flow.abs().max() < 1e-4
    pan = creature_clips(1, range(10), motions=("pan",))
    assert torch.allclose(pan.render().flow, -pan.camera.diff(dim=1)[..., None, None].float().expand(-1, -1, -1, 64, 64), atol=1e-4)
    move = creature_clips(1, range(10), motions=("move",), categories=("teapot", "lamp"))  # nothing swings on these
    r, velocity = move.render(), move.position.diff(dim=1)[:, :, 0].float()[..., None, None]
    assert ((r.flow - velocity).abs() * r.mask[:, :-1, None]).max() < 1e-4 and (r.flow * ~r.mask[:, :-1, None]).abs().max() == 0
    turn = creature_clips(1, range(6), motions=("turn",), categories=("teapot",))
    flow, mask = turn.render().flow[:, 0], turn.render().mask[:, 0]
    for i in range(6):
        step, middle = float(turn.angle[i, 1, 0] - turn.angle[i, 0, 0]), turn.position[i, 0, 0]
        y, x = (mask[i].nonzero().double() + 0.5 - middle.flip(0)).unbind(1)
        assert torch.allclose(flow[i, 0][mask[i]].double(), x * np.cos(step) - y * np.sin(step) - x, atol=1e-3)


def test_warping_the_next_frame_by_the_flow_gives_this_frame(films):
    _, r = films
    back = warp(r.video[:, 1:].flatten(0, 1), r.flow.flatten(0, 1)).view_as(r.video[:, 1:])
    part = r.part_id[:, :-1]
    next_part = warp(r.part_id[:, 1:].flatten(0, 1)[:, None].float(), r.flow.flatten(0, 1)).view(part.shape)
    alone = -F.max_pool2d(-part.float(), 3, 1, 1) == F.max_pool2d(part.float(), 3, 1, 1)  # one part around the pixel, still on top afterwards
    kept = alone & (part > 0) & ((next_part - part).abs() < 1e-3)
    error = (back - r.video[:, :-1]).abs().amax(2)
    assert kept.sum() > 10000 and error[kept].mean() < 0.02
    blind = (r.video[:, 1:] - r.video[:, :-1]).abs().amax(2)
    assert error[kept].mean() < 0.35 * blind[kept].mean()


def test_two_creatures_have_masks_parts_and_keypoints_of_their_own():
    c = creature_clips(3, range(20), motions=("two",))
    r = c.render()
    assert set(r.object_id.unique().tolist()) == {0, 1, 2} and (c.colour[:, 0] != c.colour[:, 1]).all()
    for i in range(20):
        for slot in range(2):
            name = CATEGORIES[c.category[i, slot]]
            shown = {PARTS[p] for p in r.part_id[i][r.object_id[i] == slot + 1].unique().tolist()}
            assert shown <= set(CATEGORY_PARTS[name])
            assert not r.keypoints[i, :, slot, : len(KEYPOINTS[name])].isnan().any()
            x, y = r.keypoints[i, 0, slot][r.visible[i, 0, slot]].long().unbind(1)
            assert (r.object_id[i, 0, y, x] == slot + 1).all() and len(x) > 2
    single = creature_clips(3, range(5), motions="move").render()
    assert single.keypoints[:, :, 1].isnan().all() and not single.visible[:, :, 1].any() and single.object_id.max() == 1


def warp(frame, flow):
    """frame (B, C, S, S) of the next moment, read where flow (B, 2, S, S) points to."""
    size = frame.shape[-1]
    line = torch.arange(size) + 0.5
    x, y = line + flow[:, 0], line[:, None] + flow[:, 1]
    return F.grid_sample(frame, torch.stack([x, y], -1) / size * 2 - 1, align_corners=False, padding_mode="border")
