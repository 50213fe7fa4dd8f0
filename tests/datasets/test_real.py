"""Real data from installed packages: what it is, that it stays the same, and that nothing leaves the machine."""

import socket

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

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
    with pytest.raises(ValueError, match="size must be at least 16, got 8"):
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
        (lambda: photographs("cats"), ValueError, "names: unknown .*cats"),
        (lambda: photographs([]), ValueError, "names: empty"),
        (lambda: photographs("cat", size=4), ValueError, "size must be at least 8, got 4"),
        (lambda: photographs("cat", size="64"), TypeError, "size must be a whole number, got '64'"),
        (lambda: photographs("cat", size=float("nan")), TypeError, "size must be a whole number"),
        (lambda: digits(-1), ValueError, "seed must be at least 0, got -1"),
        (lambda: digits("0"), TypeError, "seed must be a whole number"),
        (lambda: photo_clips(-1, [0]), ValueError, "seed must be at least 0"),
        (lambda: photo_clips(0, []), ValueError, "indices must hold at least one"),
        (lambda: photo_clips(0, [-1]), ValueError, "indices must be at least 0"),
        (lambda: photo_clips(0, [0.5]), TypeError, "indices must be a whole number, got 0.5"),
        (lambda: photo_clips(0, 3), TypeError, "indices must be a sequence"),
        (lambda: photo_clips(0, "3"), TypeError, "indices must be a sequence"),
        (lambda: photo_clips(0, [0], frames=1), ValueError, "frames must be at least 2"),
        (lambda: photo_clips(0, [0], size=8), ValueError, "size must be at least 16"),
        (lambda: photo_clips(0, [0], moves="spin"), ValueError, "moves: unknown"),
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
    (tmp_path / "broken.png").write_bytes(b"nothing")
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
