"""VTAB-1k: nineteen tasks with their published numbers of classes, read from a folder by the library `datasets`, or refused in one sentence."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.datasets import vtab


class Table:
    """What is used of `datasets.Dataset`, where that library is not installed."""

    def __init__(self, paths, labels):
        self.paths, self.labels = paths, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, rows):
        return {"image": [Image.open(path) for path in self.paths[rows]], "label": self.labels[rows]}


@pytest.fixture(autouse=True)
def library(monkeypatch):
    if importlib.util.find_spec("datasets") is None:
        monkeypatch.setattr(vtab, "_table", Table)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: "here")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A task of three pictures a list, and six to learn from."""
    monkeypatch.setattr(vtab, "COUNTS", {"train": 3, "validation": 3, "both": 6})
    rng, task = np.random.default_rng(0), tmp_path / "kitti"
    (task / "images").mkdir(parents=True)
    for part, name in vtab.LISTS.items():
        lines = []
        for i in range(6 if part == "both" else 3):
            Image.fromarray(rng.integers(0, 256, (20, 31 + i, 3), dtype=np.uint8)).save(task / "images" / f"{part}{i}.png")
            lines.append(f"images/{part}{i}.png {i % 3 + 1}")
        (task / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_nineteen_tasks_in_three_groups():
    assert [len(names) for names in vtab.GROUPS.values()] == [7, 4, 8] and len(vtab.TASKS) == 19
    assert sum(vtab.TASKS.values()) == 100 + 102 + 47 + 102 + 37 + 10 + 397 + 2 + 10 + 45 + 5 + 8 + 6 + 6 + 4 + 16 + 16 + 18 + 9


def test_a_task_is_read(folder):
    task = vtab.load("kitti", folder)
    assert (task.name, task.group, task.classes) == ("kitti", "structured", 4) and vtab.missing("kitti", folder) == ""
    assert [len(part) for part in (task.train, task.validation, task.both, task.test)] == [3, 3, 6, 3]
    rows = task.test[:2]
    pixels = vtab.pixels(rows["image"], size=20)
    assert list(rows["label"]) == [1, 2] and pixels.shape == (2, 3, 20, 20) and 0 <= pixels.min() and pixels.max() <= 1
    first = Image.open(folder / "kitti" / "images" / "test0.png")
    assert torch.equal(pixels[0], torch.from_numpy(np.asarray(first.resize((20, 20), Image.Resampling.BILINEAR)).astype(np.float32) / 255).permute(2, 0, 1))
    assert torch.equal(vtab.pixels([first.convert("L")])[0, 0], vtab.pixels([first.convert("L")])[0, 2])


def test_what_is_missing_is_one_sentence(folder, monkeypatch):
    assert "data/vtab-1k/svhn, where train800.txt, val200.txt, train800val200.txt, test.txt are not." in vtab.missing("svhn").replace("\\", "/")
    (folder / "kitti" / "test.txt").unlink()
    with pytest.raises(RuntimeError, match=r"task kitti needs its pictures and lists in .*kitti, where test.txt is not\.$"):
        vtab.load("kitti", folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"^VTAB-1k is read by the library datasets, which is not installed; .*\.$"):
        vtab.load("kitti", folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/test0.png", r"line 1 of test.txt must be a path and a label in 0..3, got 'images/test0.png'"),
        ("images/test0.png 4", r"must be a path and a label in 0..3, got 'images/test0.png 4'"),
        ("images/test0.png -1", r"must be a path and a label in 0..3"),
        ("images/test9.png 1", r"line 1 of test.txt names images/test9.png, which is not there"),
        ("", r"test.txt must list at least one picture, got none"),
        ("images/test0.png 1\nimages/test1.png 2\nimages/test0.png 2", "line 3 of test.txt must give images/test0.png the label that it has before, 1, got 2"),
        ("/etc/hosts 1", "line 1 of test.txt must name a picture in the folder of its task, got '/etc/hosts'"),
        ("images/../../kitti/images/test0.png 1", "line 1 of test.txt must name a picture in the folder of its task"),
    ],
)
def test_lists_that_are_wrong(folder, line, message):
    (folder / "kitti" / "test.txt").write_text(line)
    with pytest.raises(ValueError, match=message):
        vtab.load("kitti", folder)


def test_lists_of_another_size_or_of_other_labels(folder):
    task = folder / "kitti"
    lines = (task / "train800val200.txt").read_text().splitlines()
    (task / "train800val200.txt").write_text("\n".join([*lines[:-1], "images/both5.png 1"]))
    with pytest.raises(ValueError, match="train800val200.txt must list the pictures of train800.txt and val200.txt, got other labels"):
        vtab.load("kitti", folder)
    (task / "train800val200.txt").write_text("\n".join(reversed(lines)))  # in another order they are the same
    assert len(vtab.load("kitti", folder).both) == 6
    for name, count in (("train800.txt", 3), ("val200.txt", 3), ("train800val200.txt", 6)):
        whole = (task / name).read_text()
        (task / name).write_text("\n".join(whole.splitlines()[:-1]))
        with pytest.raises(ValueError, match=f"pictures: {name} must list {count} pictures, got {count - 1}"):
            vtab.load("kitti", folder)
        (task / name).write_text(whole)


def test_the_published_sizes():
    assert vtab.COUNTS == {"train": 800, "validation": 200, "both": 1000}


def test_a_list_in_other_letters(folder):
    (folder / "kitti" / "test.txt").write_bytes("images/b\u00e4ume.png 1".encode("latin-1"))
    with pytest.raises(ValueError, match="pictures: test.txt must be text in UTF-8, got other bytes at position 8"):
        vtab.load("kitti", folder)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_keep_their_greys(mode):
    values = np.array([[0, 40000], [65535, 20000]], dtype=np.uint16)
    image = Image.frombytes(mode, (2, 2), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    found = vtab.pixels([image], size=2)
    assert found.dtype == torch.float32 and found.shape == (1, 3, 2, 2) and found.is_contiguous()
    torch.testing.assert_close(found, torch.from_numpy(values / 65535).float().expand(1, 3, 2, 2))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pictures_without_a_white_are_refused(mode):
    with pytest.raises(ValueError, match=f"images must be pictures of 8 bits a channel or of mode I;16, got mode {mode} in number 1"):
        vtab.pixels([Image.new("L", (2, 2)), Image.new(mode, (2, 2))])


def test_a_picture_that_ends_too_early(folder, tmp_path):
    whole = (folder / "kitti" / "images" / "test0.png").read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="images must be pictures that Pillow can turn into RGB, got mode RGB in number 0: "):
        vtab.pixels([Image.open(tmp_path / "short.png")])
