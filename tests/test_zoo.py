"""Models by name: refusals before any download, published configurations without weights, pinned revisions."""

import pytest
import torch
from diffusers import LatteTransformer3DModel

from helpers import zoo
from helpers.methods.caching_schedules import FAST_30, apply_adacache


def test_unknown_names_and_absent_folders(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no model 'toy-late' in the zoo"):
        zoo.load("toy-late")
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    monkeypatch.setattr(zoo, "MODELS", tmp_path / "models")
    with pytest.raises(FileNotFoundError, match="make model NAME=toy-latte"):
        zoo.load("toy-latte")


def test_a_published_model_without_a_gpu_is_one_sentence_and_no_download(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(zoo, "model_info", lambda *_: pytest.fail("asked the hub"))
    monkeypatch.setattr(zoo.DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(RuntimeError, match="needs a CUDA GPU with more than 12 GB"):
        zoo.load("maxin-cn/Latte-1")
    assert zoo.missing("toy-latte") == ""


def test_the_first_download_pins_the_commit_for_later_ones(monkeypatch, tmp_path):
    class Info:
        sha = "c0ffee"

    monkeypatch.setattr(zoo, "REVISIONS", tmp_path / "revisions.toml")
    monkeypatch.setattr(zoo, "model_info", lambda name: Info)
    assert zoo.pinned_revision("maxin-cn/Latte-1") == "c0ffee"
    Info.sha = "moved"
    assert zoo.pinned_revision("maxin-cn/Latte-1") == "c0ffee"
    assert zoo.pinned_revision("another/model") == "moved"
    assert zoo.pinned_revision("maxin-cn/Latte-1") == "c0ffee"


def test_published_architectures_without_weights():
    for entry in zoo.ENTRIES.values():
        if not entry.config:
            continue
        with torch.device("meta"):
            model = LatteTransformer3DModel(**entry.config)
        with apply_adacache(model, FAST_30, 30) as handle:
            assert sum(handle.groups.values()) == 2 * entry.config["num_layers"]
            assert handle.probe == "temporal_transformer_blocks.13.attn1"  # the paper's block 13 of 28
        weights = 2 * sum(p.numel() for p in model.parameters()) / 2**30
        assert weights < entry.gpu_gb


def test_clip_refuses_what_is_no_prompt():
    for prompt, error in ((None, TypeError), (3, TypeError), ("  ", ValueError)):
        with pytest.raises(error, match="prompt"):
            zoo.clip(None, prompt, 0)
