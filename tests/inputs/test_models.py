"""Every public function of the zoo, the encoders, the classifiers, the judges and the mixers with odd and wrong inputs, one argument at a time."""

from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTModel

from helpers.models import classifiers, encoders, judges, mixers, zoo
from tests.inputs.harness import Kind, Trial, array, check, choice, coverage, instance, integer, optional, real, text, texts

torch.set_num_threads(1)
draw = np.random.default_rng(0)
IMAGES = draw.random((2, 3, 64, 64)).astype(np.float32)
MASKS = draw.random((2, 5, 6)).astype(np.float32)
PROMPTS = ["a striped red cat facing left", "a blue dog"]
FACINGS = texts(["lamp", "teapot"], options=True)
FACINGS = Kind(FACINGS.make, lambda odd=FACINGS.odd: odd().filter(lambda it: it.words != "an empty list"))  # all facings may be judged


def published_classifier(name, classes):
    """The weights are not there: whatever is lawful ends in one sentence."""
    with mock.patch.object(encoders, "missing", lambda name: f"{name} is not here."), pytest.raises(RuntimeError, match="is not here") as refused:
        encoders.classifier(name, classes=classes)
    return str(refused.value)


def shares(count):
    return draw.dirichlet(np.ones(count), 2).astype(np.float32)


torch.manual_seed(0)
JUDGES = judges.Judges(tuple(judges.Judge().eval() for _ in range(2)), ("lamp",))
READING = judges.Reading(**{name: shares(count) for name, count in judges.CLASSES.items()}, mask=np.zeros((2, 64, 64), np.float32),
                         features=np.zeros((2, 3), np.float32))  # fmt: skip
VIT = ViTConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=64, patch_size=32)
ENCODER = encoders.Encoder("toy-vit", ViTModel(VIT, add_pooling_layer=False).eval(), *encoders.HALF)
RESNET = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)).eval()
PUBLISHED, SMALL = "microsoft/resnet-50", "facebook/dino-vits16"


@pytest.fixture(scope="module", autouse=True)
def no_network(tmp_path_factory):
    """Names are checked before anything is asked: the hub is not there at all, and one commit is known."""
    revisions = tmp_path_factory.mktemp("hub") / "revisions.toml"
    revisions.write_text('"maxin-cn/Latte-1" = "c0ffee"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "REVISIONS", revisions)
        patch.setattr(zoo, "model_info", lambda name: pytest.fail(f"asked the hub for {name!r}"))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("n01", "n02"):
        (folder / name).mkdir()
        Image.fromarray(draw.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(folder / name / "1.png")
    return folder


def clip(pipe, prompt, seed):
    return zoo.clip(pipe, prompt, seed, num_inference_steps=1)


class Pipe(DiffusionPipeline):
    def __call__(self, prompt, generator, **_):
        self.frames = torch.rand(1, 2, 3, 4, 4, generator=generator)
        return self


MIXER = dict(image_size=12, patch_size=4, num_channels=3, hidden_size=6, num_hidden_layers=1, tokens_mlp_dim=5, channels_mlp_dim=7)
TRIALS = {
    zoo: [
        Trial(zoo.entry, name=choice("toy-latte"), after=lambda entry: entry.name),
        Trial(zoo.folder, name=choice("toy-latte"), after=str),
        Trial(zoo.missing, name=choice("toy-latte")),
        Trial(zoo.load, name=choice("toy-sd"), after=lambda pipe: type(pipe).__name__, slow=0.5),
        Trial(zoo.blank_transformer, name=choice("maxin-cn/Latte-1"), after=lambda model: type(model).__name__, slow=0.5),
        Trial(zoo.pinned_revision, name=choice("maxin-cn/Latte-1")),
        Trial(clip, pipe=instance(Pipe, wrong=["pipe"]), prompt=text("a red ring", wrong=["", " "]), seed=integer(0, low=0), public="clip"),
    ],
    encoders: [
        Trial(encoders.load, name=choice("toy-vit"), after=lambda encode: encode.name, slow=0.5),
        Trial(encoders.missing, name=choice("toy-vit")),
        Trial(encoders.needs, name=choice("toy-vit")),
        Trial(encoders.blank, name=choice(SMALL), after=lambda model: type(model).__name__, slow=0.5),
        Trial(encoders.blank_classifier, name=choice(SMALL), classes=integer(3, low=1), after=lambda model: type(model).__name__, slow=0.5),
        Trial(published_classifier, name=choice(SMALL), classes=integer(3, low=1), public="classifier", slow=0.5),
        Trial(lambda images, batch: ENCODER(images, batch=batch), images=array(IMAGES, low=-0.001, high=1.001, free=(0,), grow=(0,), skip=("nothing in it",)),
              batch=integer(2, low=1), follows="images", public="Encoder.__call__"),
    ],
    judges: [
        Trial(lambda images, batch: JUDGES.read(images, batch), images=array(IMAGES, low=-0.001, high=1.001, free=(0,), grow=(0,)), batch=integer(2, low=1),
              follows="images", public="Judges.read"),
        Trial(lambda images, batch: JUDGES.read_each(images, batch), images=array(IMAGES, low=-0.001, high=1.001, free=(0,), grow=(0,)),
              batch=integer(2, low=1), follows="images", public="Judges.read_each"),
        Trial(judges.judge, images=array(IMAGES, low=-0.001, high=1.001), prompts=texts(PROMPTS, fixed_length=True, options=True),
              judges=optional(instance(lambda: JUDGES)), follows="images", names={"images": ("prompts",), "prompts": ("images",)}),
        Trial(judges.compare, reading=instance(lambda: READING), prompts=texts(PROMPTS, fixed_length=True, options=True),
              unjudged_facings=FACINGS),
        Trial(lambda category: judges.compare(judges.Reading(category, *list(vars(READING).values())[1:]), PROMPTS), public="compare", trial_id="a reading",
              category=array(READING.category, low=-0.001, high=1.001), names={"category": ("reading.category", "reading.facing", "reading")}),
        Trial(lambda readings: judges.average(readings), public="average", readings=instance(lambda: [READING, READING], wrong=[[READING, 3]])),
        Trial(judges.overlap, found=array(MASKS, low=0, high=1, masks=True), mask=array(MASKS > 0.5, masks=True), follows="found"),
        Trial(judges.load, device=choice("cpu"), after=lambda found: len(found.members), slow=0.5),
    ],
    classifiers: [
        Trial(classifiers.config, name=choice(PUBLISHED), after=lambda config: config.num_labels),
        Trial(classifiers.blank, name=choice(PUBLISHED), after=lambda model: type(model).__name__, slow=0.5),
        Trial(classifiers.missing, name=choice(PUBLISHED), pictures=text("nowhere")),
    ],
    mixers: [
        Trial(mixers.MixerConfig, after=lambda config: [getattr(config, name) for name in MIXER],
              **{name: integer(value, low=1, wrong=[5] if name == "patch_size" else []) for name, value in MIXER.items()}),
        Trial(mixers.MixerForImageClassification, config=instance(lambda: mixers.MixerConfig(**MIXER), wrong=[VIT]),
              after=lambda model: list(model.state_dict().values()), slow=0.5),
    ],
}  # fmt: skip


@pytest.mark.parametrize("trial", [trial for some in TRIALS.values() for trial in some], ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_pictures_in_folders(pictures):
    path, paths = pictures / "n01" / "1.png", [pictures / name / "1.png" for name in ("n01", "n02")]
    for trial in (
        Trial(classifiers.files, pictures=text(str(pictures), wrong=["", "nowhere"]), per_class=integer(1, low=1, high=1)),
        Trial(classifiers.read, path=text(str(path), wrong=["", "nowhere", str(pictures)]), blur=real(1.0, low=0)),
        Trial(classifiers.probabilities, model=instance(lambda: RESNET), paths=texts([str(p) for p in paths], wrong=[[""], "nowhere", ["nowhere"]]),
              blur=real(1.0, low=0), batch=integer(1, low=1), names={"paths": ("path",)}, slow=0.5),
    ):  # fmt: skip
        check(trial)


@pytest.mark.parametrize("module", TRIALS, ids=lambda module: module.__name__)
def test_every_public_function_has_a_trial(module):
    assert coverage(module, TRIALS[module]) <= {"Judge", "files", "probabilities", "read"} | ({"load"} if module is classifiers else set())
