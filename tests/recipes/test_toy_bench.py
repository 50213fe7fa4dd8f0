"""The bench's networks: trained one by one, kept as they are finished, read again as they were; the finished ones are those of the study."""

import pytest
import torch
from safetensors.torch import load_file

from helpers import studies
from helpers.measures import recognition
from helpers.models import backbones
from helpers.recipes import toy_bench
from helpers.studies.recognition import rows

torch.set_num_threads(1)


@pytest.fixture
def few(monkeypatch):
    """Data of a few pictures, and two networks."""
    whole = recognition.DATA["scenes 32"]
    monkeypatch.setitem(recognition.DATA, "scenes 32", whole | dict(train=64, test=30))
    monkeypatch.setattr(backbones, "TRAINED", {"scenes 32": ("CNN", "FAN, no gate")})


def test_a_stop_between_two_networks_changes_nothing(few, tmp_path, monkeypatch):
    toy_bench.train(tmp_path / "whole", steps=2)
    real = recognition.fit

    def killed(model, *args, **options):
        if any(key.startswith("body.blocks") for key in model.state_dict()):
            raise KeyboardInterrupt
        return real(model, *args, **options)

    monkeypatch.setattr(recognition, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        toy_bench.train(tmp_path / "parts", steps=2)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["cnn-scenes-32.safetensors"]
    monkeypatch.setattr(recognition, "fit", real)
    assert toy_bench.train(tmp_path / "parts", steps=2) == ["fan-no-gate-scenes-32.safetensors"]
    for file in ("cnn-scenes-32.safetensors", "fan-no-gate-scenes-32.safetensors"):
        a, b = (load_file(tmp_path / folder / file) for folder in ("whole", "parts"))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_kept_is_what_was_trained(few, tmp_path):
    toy_bench.train(tmp_path, steps=2)
    data = recognition.pictures("scenes 32", seed=0)
    for name in backbones.TRAINED["scenes 32"]:
        trained = recognition.fit(backbones.make(name, size=32, classes=6, seed=0), data, seed=0, steps=2)
        loaded = backbones.load(name, data="scenes 32", folder=tmp_path)
        assert not loaded.training and all(p.dtype == torch.float32 for p in loaded.parameters())
        with torch.no_grad():
            torch.testing.assert_close(loaded(data.test.images), trained(data.test.images), atol=0.02, rtol=0.01)  # half precision
    assert "of 30 |" in toy_bench.card(tmp_path)


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="vit-scenes-32.safetensors of toy-bench is not there; `make model NAME=toy-bench`"):
        backbones.load("ViT", data="scenes 32", folder=tmp_path)
    with pytest.raises(ValueError, match="data must be one of 'scenes 32'.*got 'digits'"):
        backbones.load("ViT", data="digits")
    with pytest.raises(ValueError, match="name must be one of .*got 'ResNet'"):
        backbones.load("ResNet", data="scenes 32")


def test_the_finished_networks_are_those_of_the_study():
    data = recognition.pictures("scenes 32", seed=0)
    for name in backbones.TRAINED["scenes 32"]:
        right = recognition.predict(backbones.load(name, data="scenes 32"), data.test.images) == data.test.labels
        recorded = rows(studies.load("recognition"), name).accuracy[0]
        assert 100 * float(right.double().mean()) == pytest.approx(recorded, abs=1.0)
