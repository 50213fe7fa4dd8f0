"""Published classifiers: what is missing is said before any download, and pictures are read as the weights expect them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from helpers.models import classifiers, zoo

NAME = "microsoft/resnet-50"


@pytest.fixture
def pictures(tmp_path):
    """Three classes, two pictures each, of two shapes; the folders are not made in their order."""
    rng = np.random.default_rng(0)
    for folder in ("n03", "n01", "n02"):
        (tmp_path / folder).mkdir()
        for number, size in ((2, (300, 260, 3)), (1, (90, 120, 3))):
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / folder / f"{number}.PNG")
        (tmp_path / folder / "notes.txt").write_text("no picture")
    return tmp_path


def small(classes=3):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=classes)
    return ResNetForImageClassification(config).eval()


def test_the_published_architecture_has_its_published_size():
    model = classifiers.blank(NAME)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032 and model.config.num_labels == 1000  # He et al. 2016, 25.6 million
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_what_is_missing_is_one_sentence_and_no_download(monkeypatch, tmp_path, pictures):
    monkeypatch.setattr(zoo, "model_info", lambda *_: pytest.fail("asked the hub"))
    monkeypatch.setattr(ResNetForImageClassification, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    nowhere = zoo.ROOT / "data" / "imagenet" / "nowhere"
    expected = (
        r"microsoft/resnet-50 needs ImageNet's validation pictures in data/imagenet/nowhere, 1000 folders with one class each, and there are 0 folders\.$"
    )
    with pytest.raises(RuntimeError, match=expected):
        classifiers.load(NAME, nowhere)
    with pytest.raises(RuntimeError, match="and there are 3 folders"):
        classifiers.load(NAME, pictures)
    with pytest.raises(ValueError, match="name must be one of 'microsoft/resnet-50', got 'resnet'"):
        classifiers.missing("resnet")


def test_weights_that_cannot_be_had_are_one_sentence(monkeypatch, pictures):
    monkeypatch.setitem(classifiers.CONFIGS, NAME, classifiers.CONFIGS[NAME] | {"num_labels": 3})
    asked = {}

    def unreachable(name, revision):
        asked.update(name=name, revision=revision)
        raise OSError("a long story\nover several lines")

    monkeypatch.setattr(zoo, "pinned_revision", lambda name: "c0ffee")
    monkeypatch.setattr(ResNetForImageClassification, "from_pretrained", unreachable)
    assert classifiers.missing(NAME, pictures) == ""
    with pytest.raises(RuntimeError, match=r"^the weights of microsoft/resnet-50 \(0.1 GB\) are neither here nor can they be downloaded: OSError\.$"):
        classifiers.load(NAME, pictures)
    assert asked == {"name": NAME, "revision": "c0ffee"}


def test_pictures_come_in_the_order_of_the_classes(pictures):
    paths, labels = classifiers.files(pictures, per_class=2)
    assert [f"{p.parent.name}/{p.name}" for p in paths] == ["n01/1.PNG", "n01/2.PNG", "n02/1.PNG", "n02/2.PNG", "n03/1.PNG", "n03/2.PNG"]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="per_class must be at most 2, the pictures in n01, got 3"):
        classifiers.files(pictures, per_class=3)


def test_a_picture_is_cut_from_the_middle_and_blurred_before_it_is_standardised(tmp_path):
    half = np.zeros((256, 320, 3), dtype=np.uint8)
    half[:, 160:] = 255  # the border lies in the middle, and 256 px need no scaling
    Image.fromarray(half).save(tmp_path / "half.png")
    sharp, soft = (classifiers.read(tmp_path / "half.png", blur) for blur in (0, 8))
    assert sharp.shape == (3, 224, 224)
    values = sharp * torch.tensor(classifiers.DEVIATION)[:, None, None] + torch.tensor(classifiers.MEAN)[:, None, None]
    assert torch.allclose(values[:, :, :112], torch.zeros(()), atol=1e-6) and torch.allclose(values[:, :, 112:], torch.ones(()), atol=1e-6)
    middle = (soft * torch.tensor(classifiers.DEVIATION)[:, None, None] + torch.tensor(classifiers.MEAN)[:, None, None])[:, 112, 111:113].mean()
    assert middle == pytest.approx(0.5, abs=0.01) and soft.std() < sharp.std()


def test_probabilities_are_those_of_the_model_in_any_batch(pictures):
    paths, _ = classifiers.files(pictures, per_class=2)
    model = small()
    rows = classifiers.probabilities(model, paths, batch=4)
    assert rows.shape == (6, 3) and rows.dtype == torch.float64 and torch.allclose(rows.sum(1), torch.ones(6, dtype=torch.float64))
    with torch.no_grad():
        alone = model(classifiers.read(paths[3])[None]).logits.double().softmax(1)
    assert torch.allclose(rows[3], alone[0], atol=1e-6)
    assert not torch.allclose(rows, classifiers.probabilities(model, paths, blur=8), atol=1e-3)


def test_sixteen_bits_are_read_as_eight(tmp_path):
    values = np.tile(np.linspace(0, 255, 256).round(), (256, 1))
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((257 * values).astype(np.uint16)).save(tmp_path / "16.png")
    torch.testing.assert_close(classifiers.read(tmp_path / "16.png"), classifiers.read(str(tmp_path / "8.png")))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda folder: classifiers.files(folder / "nowhere"), ValueError, "pictures must be a folder of folders, one a class, got .*nowhere', which is none"),
        (lambda folder: classifiers.files(folder / "n01"), ValueError, "pictures must be a folder of folders, .*n01', which has none"),
        (lambda folder: classifiers.files(3), TypeError, "pictures must be a path, got 3"),
        (lambda folder: classifiers.missing(NAME, ""), ValueError, "pictures must be a path, got ''"),
        (lambda folder: classifiers.files(folder, per_class=0), ValueError, "per_class must be a whole number >= 1, got 0"),
        (lambda folder: classifiers.read(folder), ValueError, r"path must be a picture that can be read, got .* \(IsADirectoryError\)"),
        (lambda folder: classifiers.read(folder / "no.png"), ValueError, r"path must be a picture that can be read, got .*no.png' \(FileNotFoundError\)"),
        (lambda folder: classifiers.read(folder / "text.png"), ValueError, r"path must be .* \(UnidentifiedImageError\)"),
        (lambda folder: classifiers.read(folder / "n01" / "1.PNG", -1), ValueError, "blur must be a number >= 0, got -1"),
        (lambda folder: classifiers.probabilities(nn.Identity, [folder]), TypeError, "model must be a classifier, a torch.nn.Module"),
        (lambda folder: classifiers.probabilities(nn.Linear(1, 1), []), ValueError, "paths must be a list of paths, one or more, got"),
        (lambda folder: classifiers.probabilities(nn.Linear(1, 1), str(folder)), TypeError, "paths must be a list of paths"),
        (lambda folder: classifiers.probabilities(nn.Linear(1, 1), [folder / "n01" / "1.PNG", "gone.png"]), ValueError, "that are there, got 'gone.png'"),
        (lambda folder: classifiers.probabilities(nn.Linear(1, 1), [folder / "n01" / "1.PNG"], batch=0), ValueError, "batch must be a whole number >= 1"),
    ],
)
def test_bad_arguments_are_named(pictures, call, error, message):
    (pictures / "text.png").write_text("no picture")
    with pytest.raises(error, match=message):
        call(pictures)
