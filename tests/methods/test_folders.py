"""A method that is a folder works alone: copied under another name it runs in a fresh interpreter, and its maths run without diffusers."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

METHODS = Path(__file__).resolve().parents[2] / "helpers" / "methods"
FOLDERS = sorted(path.parent.name for path in METHODS.glob("*/__init__.py"))

# what each folder does in a fresh interpreter as the package `copied`, with what it prints: first where diffusers cannot be imported, then on a model
WITHOUT_DIFFUSERS = {
    "attention_refiner": ("""
from copied import attend_locally, convolve
from copied.refining import mix_heads

maps, values, kernel = torch.eye(3), torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3, 3)
kernel[1, 2] = 1
print((convolve(maps, kernel) @ values).flatten().tolist(), attend_locally(maps, values, kernel).flatten().tolist())
print(mix_heads(torch.eye(2)[:, None], [[0.5, 0.5]]).tolist())
""", ["[0.0, 1.0, 2.0] [0.0, 1.0, 2.0]", "[[[0.5, 0.5]]]"]),  # each query takes what lies one key to the left
    "caching_schedules": ("""
from copied import Codebook, oracle_calls, replay_calls
from copied.schedules import CachingClock

print(replay_calls([torch.ones(4)] * 8, CachingClock(Codebook((0.5,), (3, 1)), 8)), oracle_calls(torch.zeros(8, 8), 3))
try:
    copied.apply_adacache
except ImportError as error:
    print("diffusers" in str(error))
""", ["[1, 2, 5, 7, 8] [1, 7, 8]", "True"]),  # rate 3 from call 2 on, and the last two; three calls are just those that are always computed
    "diffusion_features": ("""
from copied import match
from copied.matches import pck

cells = torch.eye(6).reshape(6, 2, 3)
points = torch.tensor([[0, 0], [2, 1]])
found = match(cells, cells.flip(2), points, source_size=(2, 3), target_size=(2, 3))
print(found.points.tolist(), pck(found.points, points, (0, 0, 2, 1), alpha=0.5).tolist())
try:
    copied.dift
except ImportError as error:
    print("diffusers" in str(error))
""", ["[[2, 0], [0, 1]] [False, False]", "True"]),  # the mirrored cells, each two pixels from where it was
    "fully_attentional": ("""
from copied import channel_gate, group_scores, group_tokens
from copied.bottleneck import soft_assignment

print([round(channel_gate(torch.ones(1, 1, n, 2), torch.ones(1, 1, n, 2), temperature=2).mean().item(), 4) for n in (1, 4)])
print(group_scores(group_tokens(torch.eye(2).kron(torch.ones(3, 3)), 2), torch.tensor([1, 1, 1, 0, 0, 0])).ari)
print(soft_assignment(torch.zeros(1, 2), torch.eye(2)).tolist())
""", ["[1.4621, 1.1244]", "1.0", "[[0.5, 0.5]]"]),  # the gate of one token and of four that are alike, twice
    "knn_augmentation": ("""
from copied import Datastore, interpolate, knn_loss

near = Datastore(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([0, 0, 1]), norm="none").distribution(torch.tensor([[8.0]]), k=1)
print(near.tolist(), interpolate(torch.tensor([[0.5, 0.5]]), near, 0.5).tolist(), knn_loss(near, torch.tensor([1])).abs().tolist())
""", ["[[0.0, 1.0]] [[0.25, 0.75]] [0.0]"]),  # the nearest is of class 1
    "masked_planning": ("""
from copied import identity_mask, masked_error, references

known = references("interpolation", 3)
print(known.tolist(), identity_mask(known[None]).int().tolist(), masked_error(torch.zeros(1, 3, 1, 2, 2), torch.full((1, 3, 1, 2, 2), 2.0), known).item())
try:
    copied.MarDiniPipeline
except ImportError as error:
    print("diffusers" in str(error))
""", ["[True, False, True] [[[1, 0, 0], [1, 1, 1], [0, 0, 1]]] 4.0", "True"]),  # a reference attends to itself, the missing frame to all
    "scale_and_shift": ("""
from copied import compose, merge_weights
from copied.maths import vit_scalars

print([v.tolist() for v in merge_weights(torch.tensor([[2.0, 1.0]]), None, [3.0], [0.5])], vit_scalars(width=2, depth=1))
print([v.tolist() for v in compose(torch.tensor([2.0]), [1.0], [3.0], [-1.0])])
""", ["[[[6.0, 3.0]], [0.5]] 52", "[[6.0], [2.0]]"]),  # 3 (2 x + 1) - 1
    "semantic_mixing": ("""
from copied import WordWeights, blend, levels

print(blend(torch.ones(2), torch.zeros(2), 0.25).tolist(), levels(10, 0.3, 0.6).mixed)
print(WordWeights(torch.tensor([[1.0, -2.0]]), guided=False).reweight(torch.full((1, 1, 2), 0.5), 1).tolist())
try:
    copied.mix
except ImportError as error:
    print("diffusers" in str(error))
""", ["[0.25, 0.25] (5, 4)", "[[[0.5, -1.0]]]", "True"]),  # between 3 and 6 steps left
    "sharpness_aware_free": ("""
from copied import OutputStore, hessian_eigenvalue, store_bytes
from copied.outputs import trajectory_loss

store, x = OutputStore(2, 2, lag=1), torch.ones(3, dtype=torch.float64, requires_grad=True)
store.write([1], [[3.0, 4.0]], 0)
print(store.read([1], 1), store_bytes(50_000, 10, lag=3))
print(round(float(trajectory_loss([[0.0, 0.0]], [[1.0986123, 0.0]], temperature=1)), 6))
print(round(hessian_eigenvalue(lambda: (torch.tensor([1, 4, 9]) * x**2).sum() / 2, {"x": x}, method="lanczos").value, 9))
""", ["(tensor([[3., 4.]]), tensor([True])) 8800000", "0.130812", "9.0"]),  # 8 MB of logits, and a stamp for each output
    "shunted_attention": ("""
from copied import ShuntedAttention, aggregate, parameters
from copied.attention import attention_macs

print(aggregate(torch.arange(1.0, 17).view(1, 16, 1), torch.full((1, 1, 2, 2), 0.25), grid=(4, 4)).flatten().tolist())
print(parameters(ShuntedAttention(64, 2, (8, 4))), attention_macs(64, (56, 56), (8, 4))["scores and sums"])
""", ["[3.5, 5.5, 11.5, 13.5]", "345344 49172480"]),  # means of the corners; 3136 queries, 122.5 keys on average, 64 channels, scores and sums
    "token_labeling": ("""
from copied import kept_share, mix_box, roi_align, token_labeling_loss
from copied.labels import smooth

print(roi_align(torch.arange(49.0).view(1, 1, 7, 7), [[1.0, 0.0, 5.0, 2.0]], 2).flatten().tolist(), smooth([[1.0, 0.0]], 0.5).tolist())
print(mix_box((14, 14), 0.75, (6, 7)), round(kept_share((3, 4, 9, 10), grid=(14, 14)), 6))
print(round(token_labeling_loss(torch.zeros(1, 2), torch.zeros(1, 3, 2), torch.eye(2)[:1], torch.full((1, 3, 2), 0.5), beta=1.0).total.item(), 4))
""", ["[5.5, 7.5, 12.5, 14.5] [[0.75, 0.25]]", "(3, 4, 9, 10) 0.816327", "1.3863"]),  # 36 of 196 tokens are mixed; twice log 2
    "visual_prompt_tuning": ("""
import math
from copied import init_bound, trainable_numbers, with_one_prompt
from copied.prompts import warmup_cosine

print(init_bound(16, 768), trainable_numbers(12, 50, 768), warmup_cosine(0))
print(round(with_one_prompt(torch.zeros(2), torch.tensor([[1.0], [3.0]]), math.log(2), torch.tensor([8.0])).item(), 4))
""", ["0.0625 460800 0.0", "5.0"]),  # halfway from 2 to the prompt's 8
}  # fmt: skip
ON_A_MODEL = {
    "attention_refiner": ("""
from copied import SIZES, RefinerViT, parameters, refine_vit
from transformers import ViTConfig, ViTModel

torch.manual_seed(0)
config = ViTConfig(image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, attn_implementation="eager")
model, images = ViTModel(config, add_pooling_layer=False).eval(), torch.rand(2, 3, 8, 8)
before = model(images).last_hidden_state
refinement = refine_vit(model, layers=[1])
print(torch.equal(model(images).last_hidden_state, before), parameters(refinement.refiners), type(refinement.refiners[0]).__module__)
refinement.refiners[0].set_weights(kernels=torch.ones(3, 3))
changed = model(images).last_hidden_state
refinement.remove()
print(torch.equal(changed, before), torch.equal(model(images).last_hidden_state, before), RefinerViT(**SIZES["toy-32"])(torch.rand(1, 3, 32, 32)).shape)
""", ["True 26 copied.refining", "False True torch.Size([1, 10])"]),  # two mixes of 2 x 2 and two kernels
    "caching_schedules": ("""
from copied import Codebook, apply_adacache

net = small.video_transformer("Latte", 8)
plain = net.sample()
for rate in (1, 3):
    with apply_adacache(net.model, Codebook((), (rate,)), 8) as handle:
        print(torch.equal(net.sample(), plain), list(handle.last.computed))
print(torch.equal(net.sample(), plain), type(handle).__module__)
""", ["True [1, 2, 3, 4, 5, 6, 7, 8]", "False [1, 2, 5, 7, 8]", "True copied.attach"]),
    "diffusion_features": ("""
from copied import dift, match

pipe = small.image_pipeline()
image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
found = dift(pipe, image, t=50, n=3, ensemble=2, generator=torch.Generator().manual_seed(1))[0]
points = torch.tensor([[3, 5], [12, 9]])
print(match(found, found, points, source_size=(16, 16), target_size=(16, 16)).points.tolist(), dift.__module__)
""", ["[[3, 5], [12, 9]] copied.features"]),  # every pixel matches itself
    "fully_attentional": ("""
from copied import FAN

torch.manual_seed(0)
model, images = FAN(image_size=8, patch_size=4, width=8, depth=1).eval(), torch.rand(2, 3, 8, 8)
twin = model.with_mean_gates(images[:1])
print(model(images).shape, torch.allclose(twin(images[:1]), model(images[:1])), type(model).__module__, type(model.blocks[0]).__module__)
""", ["torch.Size([2, 10]) True copied.network copied.blocks"]),  # a picture's gates are their own mean
    "knn_augmentation": ("""
from copied import KNNAugmentedClassifier

X = torch.tensor([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
model = KNNAugmentedClassifier(k=1, temperature=1.0, weight=0.5).fit(X, ["low"] * 3 + ["high"] * 3)
print(model.predict(torch.tensor([[1.4], [7.4]])).tolist(), type(model).__module__, type(model.store_).__module__)
""", ["['low', 'high'] copied.classifier copied.neighbours"]),
    "masked_planning": ("""
import json
from copied import Generator, MarDiniPipeline, Planner, make_scheduler, references

planner, generator = Planner(3, 4, 4, 2, 5, 16, 1, 2, 24), Generator(3, 8, 8, 2, 5, 16, 1, 2, 24, plan_dim=16, plan_tokens=4)
pipe = MarDiniPipeline(planner.eval(), generator.eval(), make_scheduler())
pipe.set_progress_bar_config(disable=True)
video, known = torch.rand(1, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, references("interpolation", 5)
pipe.save_pretrained("saved")
again = MarDiniPipeline.from_pretrained("saved", local_files_only=True)
one, other = (p(video, known, num_inference_steps=2, generator=torch.Generator().manual_seed(1)).frames for p in (pipe, again))
print(torch.equal(one, other), torch.equal(one[:, known], video[:, known]), torch.equal(one, video))
print(json.load(open("saved/model_index.json"))["planner"], MarDiniPipeline.__module__)
""", ["True True False", "['copied', 'Planner'] copied.pipeline"]),  # what is saved names the folder, and not a file in it
    "scale_and_shift": ("""
from copied import add_scale_shift

torch.manual_seed(0)
model, x = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).double().eval(), torch.randn(5, 3, dtype=torch.float64)
before = model(x)
pairs = add_scale_shift(model, where="0")
pairs.set_strength(2), pairs.load_state_dict({k: v + 1 for k, v in pairs.state_dict().items()})
live = model(x)
print(torch.equal(live, before), torch.allclose(pairs.merge()(x), live), type(pairs).__module__)
pairs.unmerge(), pairs.remove()
print(torch.allclose(model(x), before))
""", ["False True copied.attach", "True"]),
    "semantic_mixing": ("""
from copied import mix

pipe = small.image_pipeline()
noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
image = torch.zeros(1, 3, 16, 16)
free = mix(pipe, image, "cat", k_max=1, nu=1, num_inference_steps=4, noise=noise)
mixed = mix(pipe, image, "cat", k_max=1, nu=0.5, num_inference_steps=4, noise=noise)
plain = mix(pipe, image, "cat", k_min=1, k_max=1, num_inference_steps=4, noise=noise)
print(torch.equal(free.images, plain.images), torch.equal(mixed.images, plain.images), mix.__module__, type(mixed).__module__)
""", ["True False copied.attach copied.mixing"]),  # with nothing of the layout kept, mixing is plain denoising
    "sharpness_aware_free": ("""
from copied import SAF, SAM, OutputStore, loss_on, sam_sharpness

torch.manual_seed(0)
model, images, labels = torch.nn.Linear(3, 2), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
saf = SAF(model, optimiser, OutputStore(4, 2, lag=1), start=0)
seen = [saf.step((images, labels, torch.arange(4)), epoch) for epoch in range(3)]
print([one.term is None for one in seen], bool(seen[2].term > 0), type(saf).__module__)
sam = SAM(model, optimiser).step((images, labels), 0)
print(bool(sam.loss > sam.cross_entropy), bool(sam_sharpness(loss_on(model, (images, labels)), model, 0.05) > 0))
""", ["[True, False, False] True copied.training", "True True"]),
    "shunted_attention": ("""
from copied import SIZES, Shunted, attention_maps, from_official, official_names

model = Shunted(**SIZES["toy-64"], classes=3).eval()
images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
names, state = official_names(model), model.state_dict()
again = from_official({there: state[here] for here, there in names.items()}, Shunted(**SIZES["toy-64"], classes=3)).eval()
print(torch.equal(again(images), model(images)), names["stages.1.blocks.0.attention.groups.1.conv.weight"], Shunted.__module__)
print([tuple(group.maps.shape) for group in attention_maps(model, images)])
""", ["True block2.0.attn.sr2.weight copied.models", "[(1, 1, 256, 16), (1, 1, 256, 64)]"]),
    "token_labeling": ("""
from copied import SIZES, LVViT, WithTokenHead
from transformers import ViTConfig, ViTModel

torch.manual_seed(0)
model, images = LVViT(**SIZES["toy-32"], classes=3).eval(), torch.rand(2, 3, 32, 32)
print(model(images).shape, model.outputs(images, (0, 0, 8, 8)).token_logits.shape, LVViT.__module__)
config = ViTConfig(image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
twin = WithTokenHead(ViTModel(config, add_pooling_layer=False), 8, 3, (2, 2)).eval()
plain, mixed = (twin.outputs(images[..., :8, :8], box) for box in (None, (0, 0, 2, 2)))
print(torch.allclose(plain.token_logits, mixed.token_logits), torch.allclose(plain.class_logits, mixed.class_logits.flip(0)))
""", ["torch.Size([2, 3]) torch.Size([2, 64, 3]) copied.models", "True True"]),  # a box over everything exchanges the pictures
    "visual_prompt_tuning": ("""
from copied import add_prompts
from transformers import ViTConfig, ViTModel

torch.manual_seed(0)
config = ViTConfig(image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
model, images = ViTModel(config, add_pooling_layer=False).eval(), torch.rand(2, 3, 8, 8)
before = model(images).last_hidden_state
prompts = add_prompts(model, num_prompts=3)
print(torch.equal(model(images).last_hidden_state, before), sum(p.numel() for p in prompts.parameters()), type(prompts).__module__)
prompts.remove()
print(torch.equal(model(images).last_hidden_state, before))
""", ["False 48 copied.tokens", "True"]),
}  # fmt: skip


def run(method, tmp_path, program):
    """The lines that a program prints in a fresh interpreter that finds the folder as `copied`, and nothing of ours."""
    shutil.copytree(METHODS / method, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("method", FOLDERS)
def test_the_maths_run_without_diffusers(method, tmp_path):
    program, printed = WITHOUT_DIFFUSERS[method]
    assert run(method, tmp_path, "import sys\nsys.modules['diffusers'] = None  # any import of it fails\nimport copied, torch" + program) == printed


@pytest.mark.parametrize("method", FOLDERS)
def test_a_copied_folder_works_on_a_model(method, tmp_path):
    program, printed = ON_A_MODEL[method]
    opening = f"""
import sys
import copied, torch
assert not any(name.startswith("helpers") for name in sys.modules)
sys.path.insert(0, {str(METHODS.parents[1])!r})  # for the small models only
from helpers.models import small
"""
    assert run(method, tmp_path, opening + program + "assert not any(name.startswith('helpers.methods') for name in sys.modules)") == printed


@pytest.mark.parametrize("method", FOLDERS)
def test_names_of_all_files_are_found_in_one_place(method):
    package = importlib.import_module(f"helpers.methods.{method}")
    files = [importlib.import_module(f"helpers.methods.{method}.{path.stem}") for path in (METHODS / method).glob("[!_]*.py")]
    assert sorted(package.__all__) == sorted(name for file in files for name in file.__all__)
    assert [name for file in files for name in file.__all__ if getattr(package, name) is not getattr(file, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        package.no_such_name  # noqa: B018
