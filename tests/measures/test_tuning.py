"""The bench of tunings, on a tiny random backbone: who trains what, what all share, what is chosen, what it costs."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from helpers.measures import tuning

CLASSES, LAYERS, WIDTH, HIDDEN, PATCH, SIZE = 3, 3, 16, 40, 4, 8
HEAD = CLASSES * (WIDTH + 1)


def tiny(**options) -> ViTForImageClassification:
    torch.manual_seed(0)
    config = dict(image_size=SIZE, patch_size=PATCH, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=HIDDEN, num_labels=7)
    model = ViTForImageClassification(ViTConfig(**config | options))
    for parameter in model.parameters():  # biases that are not 0, norms that are not 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def easy(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures whose colour says the class, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = 0.3 * torch.rand(count, 3, SIZE, SIZE, generator=generator) + 0.5 * nn.functional.one_hot(labels, 3)[:, :, None, None]
    return images, labels


@pytest.fixture(scope="module")
def backbone() -> ViTForImageClassification:
    return tiny()


BLOCK_BIASES = 4 * WIDTH + HIDDEN + WIDTH + 2 * WIDTH
ADAPTER = WIDTH // tuning.REDUCTION
COUNTS = {
    "linear": 0,
    "full": None,
    "partial-1": 4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN + BLOCK_BIASES + 2 * WIDTH + 2 * WIDTH,
    "MLP-3": 2 * (WIDTH * (WIDTH + 1) + 2 * WIDTH),
    "bias": LAYERS * BLOCK_BIASES + 2 * WIDTH,
    "LayerNorm": 2 * WIDTH * (2 * LAYERS + 1),
    "adapter": LAYERS * (2 * WIDTH * ADAPTER + ADAPTER + WIDTH),
    "adapter (official)": LAYERS * (2 * WIDTH * ADAPTER + ADAPTER + WIDTH),
    "LoRA": LAYERS * 2 * 2 * WIDTH * tuning.RANK,
    "IA3": LAYERS * (2 * WIDTH + HIDDEN),
    "DoRA": LAYERS * 2 * (2 * WIDTH * tuning.RANK + WIDTH),
    "VPT-shallow": tuning.NUM_PROMPTS * WIDTH,
    "VPT-deep": LAYERS * tuning.NUM_PROMPTS * WIDTH,
    "SSF": 2 * (LAYERS * (7 * WIDTH + HIDDEN) + 2 * WIDTH),
    "SSF + VPT": 2 * (LAYERS * (7 * WIDTH + HIDDEN) + 2 * WIDTH) + LAYERS * tuning.NUM_PROMPTS * WIDTH,
}
TRAINED = {  # a part of the name of every backbone's parameter that may move
    "full": "", "partial-1": (f"vit.layers.{LAYERS - 1}.", "vit.layernorm."), "bias": "bias",
}  # fmt: skip


@pytest.mark.parametrize("method", tuning.METHODS)
def test_each_method_trains_what_it_says_and_nothing_else(backbone, method):
    tuned = tuning.prepare(backbone, method, classes=CLASSES, seed=1)
    expected = COUNTS[method] if COUNTS[method] is not None else sum(p.numel() for p in backbone.vit.parameters())
    assert tuned.count_without_head == expected and tuned.count == expected + HEAD
    before = {name: p.detach().clone() for name, p in tuned.model.named_parameters()}
    images, labels = easy(12)
    tuning._train(tuned, tuning._inputs(tuned.model, tuning.METHODS[method].reads, images), labels, 0.01, 0.1, 3, 6, 0)
    moved = {name for name, p in tuned.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= set(tuned.trained) | {"classifier.weight", "classifier.bias"}
    known = dict(backbone.named_parameters())
    old = {name for name in moved if name in known and not name.startswith("classifier")}
    allowed = TRAINED.get(method)
    if allowed is None:
        assert not old
    else:
        parts = (allowed,) if isinstance(allowed, str) else allowed
        assert old and all(any(part in name for part in parts) for name in old)


@pytest.mark.parametrize("method", tuning.METHODS)
def test_the_backbone_itself_is_left_as_it_was(backbone, method):
    before, asked = copy.deepcopy(backbone.state_dict()), [p.requires_grad for p in backbone.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in backbone.modules()]
    images, labels = easy(12)
    tuning.fit(backbone, method, images, labels, classes=CLASSES, rate=0.01, steps=2)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert asked == [p.requires_grad for p in backbone.parameters()] and all(p.grad is None for p in backbone.parameters())
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in backbone.modules()]


def test_all_start_from_one_head_and_most_from_the_frozen_function(backbone):
    images, _ = easy(4)
    linear = tuning.prepare(backbone, "linear", classes=CLASSES, seed=5)
    expected = tuning.logits(linear, images)
    assert linear.model.classifier.weight.std().item() == pytest.approx(0.02, rel=0.4) and not linear.model.classifier.bias.any()
    for method in tuning.METHODS:
        tuned = tuning.prepare(backbone, method, classes=CLASSES, seed=5)
        head = tuned.model.classifier[-1] if method == "MLP-3" else tuned.model.classifier
        assert torch.equal(head.weight, linear.model.classifier.weight)
        if method not in ("MLP-3", "VPT-shallow", "VPT-deep", "SSF + VPT"):  # prompts are tokens that were not there, MLP-3 has layers of its own
            torch.testing.assert_close(tuning.logits(tuned, images), expected, rtol=0, atol=1e-6)
        elif method != "MLP-3":
            assert not torch.allclose(tuning.logits(tuned, images), expected, rtol=0, atol=1e-6)
    other = tuning.prepare(backbone, "linear", classes=CLASSES, seed=6)
    assert not torch.equal(other.model.classifier.weight, linear.model.classifier.weight)


@pytest.mark.parametrize("method", ["linear", "partial-1", "MLP-3"])
def test_what_is_computed_once_is_what_the_whole_model_computes(backbone, method):
    images, labels = easy(12)
    tuned = tuning.fit(backbone, method, images, labels, classes=CLASSES, rate=0.01, steps=4)
    with torch.no_grad():
        whole = tuned.model(pixel_values=2 * images - 1).logits
    torch.testing.assert_close(tuning.logits(tuned, images), whole, rtol=1e-5, atol=1e-5)


def test_training_on_cached_features_is_training_the_whole_model(backbone, monkeypatch):
    images, labels = easy(15)
    options = dict(classes=CLASSES, rate=0.01, decay=0.1, steps=6, batch=4, seed=2)
    for method in ("linear", "partial-1"):
        fast = tuning.fit(backbone, method, images, labels, **options)
        way = tuning.METHODS[method]
        monkeypatch.setitem(tuning.METHODS, method, tuning.Way(way.attach, way.rates, "pixels"))
        slow = tuning.fit(backbone, method, images, labels, **options)
        for name in fast.trained:
            torch.testing.assert_close(fast.trained[name], slow.trained[name], rtol=1e-3, atol=1e-5)


def test_training_is_adamw_with_its_schedule_written_out(backbone):
    images, labels = easy(10)
    tuned = tuning.fit(backbone, "linear", images, labels, classes=CLASSES, rate=0.02, decay=0.3, steps=5, batch=4, seed=3)
    start = tuning.prepare(backbone, "linear", classes=CLASSES, seed=3).model.classifier
    weight, bias = (p.detach().double() for p in (start.weight, start.bias))
    features = backbone.vit(2 * images - 1).last_hidden_state[:, 0].detach().double()
    moments = {name: (0.0, 0.0) for name in ("weight", "bias")}
    for step, rows in enumerate(tuning.batches(10, steps=5, batch=4, seed=3)):
        rate = 0.02 * tuning.rate_factor(step, steps=5)
        gap = (features[rows] @ weight.T + bias).softmax(1) - nn.functional.one_hot(labels[rows], CLASSES)
        gradients = {"weight": gap.T @ features[rows] / len(rows), "bias": gap.mean(0)}
        weight = weight * (1 - rate * 0.3)  # the bias, of one axis, does not decay
        for name, gradient in gradients.items():
            m, v = moments[name]
            moments[name] = m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            change = rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            weight, bias = (weight - change, bias) if name == "weight" else (weight, bias - change)
    torch.testing.assert_close(tuned.model.classifier.weight.double(), weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(tuned.model.classifier.bias.double(), bias, rtol=1e-3, atol=1e-5)


def test_batches_are_whole_orders_one_after_another():
    rows = tuning.batches(7, steps=5, batch=4, seed=1)
    assert rows.shape == (5, 4) and sorted(rows.flatten()[:7].tolist()) == sorted(rows.flatten()[7:14].tolist()) == list(range(7))
    assert torch.equal(rows, tuning.batches(7, steps=5, batch=4, seed=1)) and not torch.equal(rows, tuning.batches(7, steps=5, batch=4, seed=2))
    assert tuning.batches(3, steps=2, batch=32).shape == (2, 3)


def test_the_rate_rises_then_falls_along_half_a_cosine():
    factors = [tuning.rate_factor(step, steps=50) for step in range(50)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and max(factors) == 1 and factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[27] == pytest.approx(0.5) and 0 < factors[-1] < 0.01
    assert tuning.rate_factor(0, steps=1) == 1


@pytest.mark.parametrize("method", tuning.METHODS)
def test_tuning_learns_and_repeats_itself(backbone, method):
    images, labels = easy(30)
    fits = [tuning.fit(backbone, method, images, labels, classes=CLASSES, rate=tuning.METHODS[method].rates[-1], steps=15, seed=4) for _ in range(2)]
    assert torch.equal(*(tuning.logits(tuned, images) for tuned in fits))
    untrained = tuning.prepare(backbone, method, classes=CLASSES, seed=4)
    losses = [float(nn.functional.cross_entropy(tuning.logits(tuned, images), labels)) for tuned in (untrained, fits[0])]
    assert losses[1] < losses[0] - 0.02


def test_the_official_adapter_moves_one_bias_a_block_only(backbone):
    images, labels = easy(20)
    start, after = (tuning.prepare(backbone, "adapter (official)", classes=CLASSES), None)
    after = tuning.fit(backbone, "adapter (official)", images, labels, classes=CLASSES, rate=0.03, steps=20)
    added = {name: p for name, p in after.trained.items() if not name.startswith("classifier")}
    moved = {name for name, p in added.items() if not torch.equal(p, start.trained[name])}
    assert not any(start.trained[name].any() for name in added)  # all begin at 0
    assert len(moved) == LAYERS and all(added[name].shape == (WIDTH,) for name in moved)
    proper = tuning.fit(backbone, "adapter", images, labels, classes=CLASSES, rate=0.03, steps=20)
    assert all(p.any() for name, p in proper.trained.items())


def test_the_head_has_a_rate_of_its_own(backbone):
    images, labels = easy(12)
    for method, options in (("SSF", {}), ("full", dict(head_rate=0.02)), ("MLP-3", {})):
        start = tuning.prepare(backbone, method, classes=CLASSES, seed=1).trained
        tuned = tuning.fit(backbone, method, images, labels, classes=CLASSES, rate=1e-5, steps=1, seed=1, **options)
        head = {id(p) for p in tuned.head.parameters()}
        for name, p in tuned.trained.items():  # Adam's first step is as long as the rate
            moved = float((p - start[name]).detach().abs().max())
            dead = "k_proj" in name and p.ndim == 1  # softmax does not see what is added to all keys
            assert dead or moved == pytest.approx(options.get("head_rate", tuning.HEAD_RATE) if id(p) in head else 1e-5, rel=0.1), name


def test_groups_are_the_head_and_the_rest():
    head, other, scale = nn.Linear(2, 3), nn.Linear(2, 2), nn.Parameter(torch.ones(2, 1))
    named = {"w": other.weight, "b": other.bias, "head.w": head.weight, "head.b": head.bias, "ia3_l": scale}
    found = {(group["lr"], group["weight_decay"]): [id(p) for p in group["params"]] for group in tuning.groups(named, head, rate=0.5, decay=0.1)}
    assert found == {(0.5, 0.1): [id(other.weight)], (0.5, 0.0): [id(other.bias), id(scale)], (tuning.HEAD_RATE, 0.1): [id(head.weight)],
                     (tuning.HEAD_RATE, 0.0): [id(head.bias)]}  # fmt: skip
    alone = tuning.groups({"w": head.weight, "b": head.bias}, head, rate=0.5)
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in alone] == [(0.5, 0.0, 2)]
    with pytest.raises(ValueError, match="trained must hold at least one parameter, got none"):
        tuning.groups({}, head, rate=0.5)


def test_decay_leaves_vectors_and_scales_near_one_alone(backbone):
    for method, free in (("SSF", 1), ("LayerNorm", 1), ("IA3", 2), ("bias", 1)):
        tuned = tuning.prepare(backbone, method, classes=CLASSES)
        images, labels = easy(12)
        before = {name: p.detach().clone() for name, p in tuned.trained.items()}
        inputs = 0 * tuning._inputs(tuned.model, "pixels", images) + 0.5  # one picture under all labels
        tuning._train(tuned, inputs[:3], torch.zeros(3, dtype=torch.long), 1e-9, 1e6, 2, 3, 0, 1e-9)  # hardly any learning, and a decay that shrinks to nothing
        for name, p in tuned.trained.items():
            shrunk = p.norm() < 0.999 * before[name].norm()
            assert shrunk == (name == "classifier.weight"), f"{method} {name}"
            assert name == "classifier.weight" or p.ndim <= free


def test_the_backbones_dropout_stays_off_and_the_heads_is_on():
    model = tiny(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    images, _ = easy(6)
    for method in ("full", "SSF", "VPT-deep", "LoRA"):
        tuned = tuning.prepare(model, method, classes=CLASSES)
        tuned.train()
        pixels = tuning._inputs(tuned.model, "pixels", images)
        assert torch.equal(tuning._forward(tuned, pixels), tuning._forward(tuned, pixels))
    mlp = tuning.prepare(model, "MLP-3", classes=CLASSES)
    mlp.train()
    features = tuning._inputs(mlp.model, "features", images)
    assert not torch.equal(tuning._forward(mlp, features), tuning._forward(mlp, features))
    assert torch.equal(tuning.logits(mlp, images), tuning.logits(mlp, images))


@pytest.mark.parametrize("method", ["linear", "MLP-3", "partial-1"])
def test_a_backbone_that_is_in_training_is_read_as_at_inference(method):
    model = tiny(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    images, labels = easy(12)
    options = dict(classes=CLASSES, steps=3, seed=1)
    expected = tuning.logits(tuning.fit(model, method, images, labels, rate=0.1, **options), images)
    best = tuning.search(model, method, images, labels, images, labels, rates=(0.1, 0.3), **options)
    model.train()
    assert torch.equal(tuning.logits(tuning.fit(model, method, images, labels, rate=0.1, **options), images), expected)
    monitored = []
    handle = model.vit.layers[0].register_forward_hook(lambda block, args, output: monitored.append(block.training))
    assert tuning.search(model, method, images, labels, images, labels, rates=(0.1, 0.3), **options) == best
    handle.remove()
    assert monitored and not any(monitored) and all(module.training for module in model.modules())


def test_pictures_of_a_backbone_whose_config_has_two_sides():
    config = dict(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=HIDDEN, patch_size=PATCH)
    model = ViTForImageClassification(ViTConfig(image_size=(SIZE, 2 * SIZE), **config)).eval()
    images = torch.rand(6, 3, SIZE, 2 * SIZE)
    tuned = tuning.fit(model, "linear", images, torch.arange(6) % 2, classes=2, rate=0.1, steps=2)
    assert tuning.logits(tuned, images).shape == (6, 2)
    with pytest.raises(ValueError, match=r"images must be numbers \(N, 3, 8, 16\), got shape \(6, 3, 16, 8\)"):
        tuning.logits(tuned, images.transpose(2, 3))


def test_a_tuned_model_with_pairs_is_pickled(backbone, tmp_path):
    images, labels = easy(12)
    tuned = tuning.fit(backbone, "SSF", images, labels, classes=CLASSES, rate=0.01, steps=2)
    torch.save(tuned, tmp_path / "tuned.pt")
    again = torch.load(tmp_path / "tuned.pt", weights_only=False)
    assert torch.equal(tuning.logits(again, images), tuning.logits(tuned, images)) and again.count == tuned.count


def test_the_head_depends_on_the_seed_alone_and_takes_no_random_numbers(backbone):
    before = torch.get_rng_state()
    head = tuning.prepare(backbone, "SSF", classes=CLASSES, seed=3).model.classifier
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_default_dtype(torch.float64)
    try:
        other = tuning.prepare(backbone, "linear", classes=CLASSES, seed=3).model.classifier
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(other.weight, head.weight) and other.weight.dtype == torch.float32


# --- choosing ---


@pytest.fixture
def told(backbone, monkeypatch):
    """A search whose accuracies are given, by (rate, decay, prompts); `seen`: what it tried, in its order."""
    known, seen, prepare = {}, [], tuning.prepare

    def prepared(*args, num_prompts=None, **options):
        seen.append((num_prompts,))
        return prepare(*args, num_prompts=num_prompts, **options)

    def train(tuned, inputs, labels, rate, decay, *rest):
        seen[-1] = (rate, decay, *seen[-1])

    monkeypatch.setattr(tuning, "prepare", prepared)
    monkeypatch.setattr(tuning, "_train", train)
    monkeypatch.setattr(tuning, "_share_right", lambda said, labels: known[seen[-1]])
    images, labels = easy(12)
    return known, seen, lambda method, **options: tuning.search(backbone, method, images, labels, images, labels, classes=CLASSES, **options)


def test_of_equals_the_smaller_rate_and_the_smaller_decay(told):
    known, seen, search = told
    known |= {(0.1, 0.0, None): 70, (0.2, 0.0, None): 80, (0.4, 0.0, None): 80, (0.2, 0.5, None): 80, (0.2, 0.9, None): 79}
    options = dict(rates=(0.4, 0.1, 0.2), decays=(0.9, 0.5, 0.0))
    found = search("linear", **options)
    assert found[:4] == (0.2, 0.0, None, 80) and found.tried == known and seen == list(known)
    known[0.2, 0.9, None] = 81
    assert search("linear", **options)[:4] == (0.2, 0.9, None, 81)


def test_of_equals_the_fewest_prompts(told):
    known, seen, search = told
    known |= {(0.1, 0.0, 1): 60, (0.2, 0.0, 1): 61, (0.4, 0.0, 1): 61, (0.2, 0.0, 4): 62, (0.2, 0.0, 8): 62, (0.2, 0.5, 4): 62}
    found = search("VPT-deep", rates=(0.4, 0.1, 0.2), decays=(0.5, 0.0))
    assert tuning.PROMPTS == (1, 4, 8) and found[:4] == (0.2, 0.0, 4, 62) and found.tried == known and seen == list(known)
    known |= {(0.2, 0.0, 1): 62, (0.2, 0.5, 1): 71}
    assert search("VPT-deep", rates=(0.4, 0.1, 0.2), decays=(0.5, 0.0))[:4] == (0.2, 0.5, 1, 71)


@pytest.mark.parametrize("method, trained", [("bias", 5), ("VPT-shallow", 7)])
def test_a_search_tells_what_a_fit_reaches(backbone, method, trained):
    (images, labels), held = easy(15), easy(9, seed=1)
    found = tuning.search(backbone, method, images, labels, *held, classes=CLASSES, steps=8, seed=2)
    assert [rate for rate, decay, p in found.tried if decay == 0][:4] == list(tuning.METHODS[method].rates) and len(found.tried) == trained
    for (rate, decay, num_prompts), accuracy in found.tried.items():
        tuned = tuning.fit(backbone, method, images, labels, classes=CLASSES, rate=rate, decay=decay, num_prompts=num_prompts, steps=8, seed=2)
        assert tuning.accuracy(tuned, *held) == pytest.approx(accuracy)
    assert found.accuracy == max(found.tried.values())


def test_as_many_prompts_as_asked_for(backbone):
    for method, layers in (("VPT-shallow", 1), ("VPT-deep", LAYERS)):
        assert tuning.prepare(backbone, method, classes=CLASSES, num_prompts=5).count_without_head == 5 * layers * WIDTH
    images, labels = easy(12)
    options = dict(classes=CLASSES, num_prompts=4)
    for call in (lambda: tuning.prepare(backbone, "SSF", **options), lambda: tuning.fit(backbone, "SSF", images, labels, rate=0.1, **options)):
        with pytest.raises(ValueError, match="num_prompts must be None for SSF, which has no prompts, got 4"):
            call()
    with pytest.raises(ValueError, match="num_prompts must be a whole number >= 1, got 0"):
        tuning.fit(backbone, "VPT-deep", images, labels, rate=0.1, classes=CLASSES, num_prompts=0)


def test_every_method_has_as_many_rates():
    assert {len(way.rates) for way in tuning.METHODS.values()} == {4} and all(list(way.rates) == sorted(set(way.rates)) for way in tuning.METHODS.values())


def test_held_out_rows_are_so_many_of_every_class():
    labels = torch.tensor([0, 1, 1, 0, 2, 2, 1, 0, 2, 1])
    train, held = tuning.held_out(labels, 2, seed=3)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(10))
    assert torch.bincount(labels[held]).tolist() == [2, 2, 2] and torch.bincount(labels[train]).tolist() == [1, 2, 1]
    assert any(tuning.held_out(labels, 2, seed=seed)[1].tolist() != held.tolist() for seed in range(5))


def test_accuracy_is_the_share_of_right_answers(backbone):
    images, labels = easy(12)
    tuned = tuning.prepare(backbone, "linear", classes=CLASSES)
    said = tuning.logits(tuned, images).argmax(1)
    assert tuning.accuracy(tuned, images, said) == 100
    wrong = said.clone()
    wrong[:3] = (wrong[:3] + 1) % CLASSES
    assert tuning.accuracy(tuned, images.numpy(), wrong.numpy()) == 75


# --- what it costs ---


@pytest.mark.parametrize("method", tuning.METHODS)
def test_bytes_are_those_of_a_file_that_brings_the_task_back(backbone, method, tmp_path):
    images, labels = easy(12)
    tuned = tuning.fit(backbone, method, images, labels, classes=CLASSES, rate=0.01, steps=3)
    path = tmp_path / "task.safetensors"
    tuning.save_file(tuning._stored(tuned), path)
    assert tuning.bytes_a_task(tuned) == path.stat().st_size >= 4 * tuned.count
    again, kept = tuning.prepare(backbone, method, classes=CLASSES, seed=9), load_file(path)
    there = again.trained | {f"classifier.{name}": buffer for name, buffer in again.model.classifier.named_buffers()}
    assert set(kept) == set(there)
    for name, value in kept.items():
        there[name].data.copy_(value)
    torch.testing.assert_close(tuning.logits(again, images), tuning.logits(tuned, images))


def test_storage_is_one_backbone_and_the_tasks():
    assert tuning.storage(np.array([0, 1, 10]), a_task=5, backbone=100).tolist() == [100, 105, 150]


def test_time_ratio_counts_what_is_slower(backbone):
    images, _ = easy(4)
    tuned = tuning.prepare(backbone, "linear", classes=CLASSES)
    handle = tuned.model.register_forward_hook(lambda *_: torch.randn(1500, 1500).sum() and None)
    assert tuning.time_ratio(tuned, backbone, images) > 1.5
    handle.remove()
