"""The recipe on a few steps (it runs, stops, continues), its losses and views against hand examples, and the finished model."""

import math

import pytest
import torch
from transformers import Dinov2Model

from helpers.recipes import toy_dino as recipe
from helpers.recipes import toy_sd, training

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    changes = {"STEPS": 4, "BATCH": 6, "GLOBAL_SIZE": {0: 16, 2: 24}, "LOCAL_SIZE": 8, "WIDTH": 16, "LAYERS": 2, "HEADS": 2,
               "PROTOTYPES": 12, "HIDDEN": 10, "BOTTLENECK": 5}  # fmt: skip
    for name, value in changes.items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr(toy_sd, "BANK", 50)


def test_a_few_steps_from_nothing_and_again_after_a_stop(small, tmp_path):
    model = recipe.train(tmp_path / "whole", CPU)
    for stop in (1, 3, None):
        again = recipe.train(tmp_path / "parts", CPU, stop_at=stop)
    state, other = model.state_dict(), again.state_dict()
    assert {"view_centre", "patch_centre"} < set(state) and any(name.startswith("teacher.") for name in state)
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert state["view_centre"].abs().sum() > 0 and state["patch_centre"].abs().sum() > 0
    kept, started = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(kept["module"][name], started["module"][name]) for name in state)

    ours, theirs = list(model.student.parameters()), list(model.teacher.parameters())
    assert not any(p.requires_grad for p in theirs) and all(p.requires_grad for p in ours)
    assert len(kept["optimizer"]["state"]) == len(ours)  # the optimizer has moved every part of the student and none of the teacher
    assert any(not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    folder = tmp_path / "out" / recipe.NAME
    training.write_folder(model.teacher.vit, folder)
    loaded = Dinov2Model.from_pretrained(folder, local_files_only=True)
    assert loaded.dtype == torch.float32 and loaded.config.patch_size == recipe.PATCH
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.teacher.vit.parameters(), strict=True))
    quality = recipe.measure(loaded, count=5)
    assert set(quality) == {recipe.NAME, "untrained", "pixels"} and all(0 <= v <= 100 for values in quality.values() for v in values)
    assert "| pixels | 9.0 % | 20.5 % | 14.0 % |" in recipe.card({"pixels": (9.0, 20.5, 14.0)}, model, CPU)


def test_processes_together_are_one_alone(small, monkeypatch):
    """Two halves of a batch: their mean loss and mean gradient are those of the whole batch, and so are the centres, averaged over processes."""
    torch.manual_seed(0)
    whole = recipe.SelfDistillation()
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    loss = recipe.distillation_loss(whole, *recipe.batch_of(1, slice(0, None, 1)), temperature=0.05)
    loss.backward()
    means, halves = [], []
    for rank in range(2):
        half = recipe.SelfDistillation()
        half.load_state_dict(start)
        batch = recipe.batch_of(1, slice(rank, None, 2))
        monkeypatch.setattr(recipe.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(recipe.dist, "get_world_size", lambda: 2)
        # the first process stands in for both while its means are noted; the second one receives what the first one had
        if rank == 0:
            monkeypatch.setattr(recipe.dist, "all_reduce", lambda mean: means.append(mean.clone()))
        else:
            monkeypatch.setattr(recipe.dist, "all_reduce", lambda mean: mean.add_(means.pop(0)))
        half_loss = recipe.distillation_loss(half, *batch, temperature=0.05)
        half_loss.backward()
        halves.append((half_loss, half))
    assert not means
    assert torch.allclose((halves[0][0] + halves[1][0]) / 2, loss, atol=1e-5)
    for name, p in whole.student.named_parameters():
        both = (halves[0][1].student.get_parameter(name).grad + halves[1][1].student.get_parameter(name).grad) / 2
        assert torch.allclose(both, p.grad, atol=1e-5), name
    for name in ("view_centre", "patch_centre"):
        assert torch.allclose(getattr(halves[1][1], name), getattr(whole, name), atol=1e-6)
    assert all(p.grad is None for p in whole.teacher.parameters())


# ------------------------------------------------------------------------------------------------------------ teacher, centre, losses


def test_the_teacher_follows_the_student(small):
    model = recipe.SelfDistillation()
    assert all(torch.equal(a, b) for a, b in zip(model.student.parameters(), model.teacher.parameters(), strict=True))
    for part, value in ((model.student, 3.0), (model.teacher, 1.0)):
        for p in part.parameters():
            torch.nn.init.constant_(p, value)
    model.follow(0.75)
    assert all(torch.allclose(p, torch.tensor(1.5)) for p in model.teacher.parameters())
    assert all(torch.equal(p, torch.full_like(p, 3.0)) for p in model.student.parameters())


def test_momentum_and_temperature():
    assert recipe.teacher_momentum(0) == pytest.approx(recipe.TEACHER_MOMENTUM)
    assert recipe.teacher_momentum(recipe.STEPS // 2) == pytest.approx((1 + recipe.TEACHER_MOMENTUM) / 2)
    assert recipe.teacher_momentum(recipe.STEPS) == pytest.approx(1)
    low, high = recipe.TEACHER_TEMPERATURE
    assert recipe.teacher_temperature(0) == low and recipe.teacher_temperature(recipe.STEPS) == pytest.approx(high)


def test_centre_by_hand():
    centre = torch.tensor([1.0, 0.0, -1.0])
    recipe.move_centre(centre, torch.tensor([[[1.0, 2.0, 3.0]], [[3.0, 4.0, 5.0]]]))  # mean 2, 3, 4
    assert torch.allclose(centre, torch.tensor([1.1, 0.3, -0.5]))


def test_targets_by_hand():
    logits, centre = torch.tensor([[0.3, 0.1]]), torch.tensor([0.2, 0.1])
    first = 1 / (1 + math.exp(-0.1 / 0.05))
    assert torch.allclose(recipe.targets(logits, centre, 0.05), torch.tensor([[first, 1 - first]]))
    assert torch.allclose(recipe.targets(centre.expand(3, 2), centre, 0.04), torch.full((3, 2), 0.5))  # what the centre takes away


def test_losses_against_slow_loops():
    g = torch.Generator().manual_seed(3)
    wanted, logits = torch.rand(2, 3, 5, generator=g).softmax(-1), torch.rand(4, 3, 5, generator=g)

    def cross_entropy(p, q):
        exp = [math.exp(x / recipe.STUDENT_TEMPERATURE) for x in q.tolist()]
        return -sum(a * math.log(e / sum(exp)) for a, e in zip(p.tolist(), exp))

    pairs = [(t, s) for t in range(2) for s in range(4) if t != s]
    slow = sum(cross_entropy(wanted[t, b], logits[s, b]) for t, s in pairs for b in range(3)) / (3 * len(pairs))
    assert len(pairs) == 6 and recipe.view_loss(wanted, logits).item() == pytest.approx(slow, rel=1e-5)

    hidden = torch.tensor([[True, True, False, True], [False] * 4, [False, False, True, False]])
    p, q = torch.rand(3, 4, 5, generator=g).softmax(-1), torch.rand(3, 4, 5, generator=g)
    views = [[cross_entropy(p[v, n], q[v, n]) for n in range(4) if hidden[v, n]] for v in range(3)]
    slow = sum(sum(v) / len(v) for v in views if v) / 2
    assert recipe.patch_loss(p[hidden], q[hidden], hidden).item() == pytest.approx(slow, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------------------------ views


def draws(count, step=5, area=(0.3, 0.8)):
    return recipe.draw_views(count, area, training.step_generator(recipe.SEED, step))


def test_views_repeat_and_differ_by_step():
    images = toy_sd.sample(7, range(5)).image
    first, again, other = (recipe.take(images, draws(5, step), 24) for step in (5, 5, 6))
    assert first.shape == (5, 3, 24, 24) and 0 <= first.min() and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.allclose(recipe.take(images[1::2], draws(5)[1::2], 24), first[1::2], atol=1e-6)


def plain_view(count, flip=1.0):
    return recipe.Views(torch.tensor([[flip, 0, 0], [0, 1, 0]]).expand(count, 2, 3), torch.eye(3).expand(count, 3, 3), torch.ones(count),
                        torch.zeros(count), torch.zeros(count))  # fmt: skip


def test_the_plain_view_is_the_picture_and_a_flip_its_mirror():
    images = toy_sd.sample(7, range(2)).image
    assert torch.allclose(recipe.take(images, plain_view(2), 64), images, atol=1e-4)
    assert torch.allclose(recipe.take(images, plain_view(2, -1.0), 64), images.flip(3), atol=1e-4)


def test_crops_stay_inside_and_have_the_wanted_area():
    views = draws(500)
    width, height = views.theta[:, 0, 0].abs(), views.theta[:, 1, 1]
    assert (views.theta[:, 0, 2].abs() + width <= 1 + 1e-5).all() and (views.theta[:, 1, 2].abs() + height <= 1 + 1e-5).all()
    area = width * height
    assert 0.25 < area.min() and area.max() <= 0.8 + 1e-5
    assert 0.4 < (views.theta[:, 0, 0] < 0).float().mean() < 0.6


def test_hue_matrices():
    turn = recipe.turned_hue(torch.tensor([0.0, 2 * math.pi / 3, 0.4]), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(turn[0], torch.eye(3), atol=1e-6)
    red = torch.tensor([1.0, 0, 0])
    assert torch.allclose(turn[1] @ red, torch.tensor([0.0, 1, 0]), atol=1e-6)  # a third of a turn: red becomes green
    assert torch.allclose(turn[2] @ red, torch.full((3,), 1 / 3), atol=1e-6)  # no saturation: grey
    assert torch.allclose(turn @ torch.ones(3), torch.ones(3, 3), atol=1e-6)  # white stays white


def test_masks_are_blocks_in_one_view_of_each_picture():
    hidden = recipe.draw_masks(31, 12, torch.Generator().manual_seed(0))
    assert hidden.shape == (2, 31, 144) and (hidden.any(2).sum(0) == 1).all()
    maps = hidden.view(2, 31, 12, 12)
    assert all(torch.equal(maps[..., ::2, ::2], maps[..., y::2, x::2]) for y in (0, 1) for x in (0, 1))
    share = hidden.float().mean(2)[hidden.any(2)]
    assert share.min() > 0 and 0.2 < share.mean() < 0.4 and share.max() < 0.75


# ------------------------------------------------------------------------------------------------------------------- measured quality


def test_category_accuracy_by_hand():
    bank, queries = torch.tensor([[1.0, 0.0], [3.0, 0.3], [0.9, 0.2], [0.0, 1.0], [0.1, 2.0]]), torch.tensor([[2.0, 0.1], [0.1, 5.0], [1.0, 0.2]])
    categories = torch.tensor([4, 4, 7, 7, 7])
    assert recipe.category_accuracy(bank, categories, queries, torch.tensor([4, 7, 7]), k=3) == pytest.approx(200 / 3)
    assert recipe.category_accuracy(bank, categories, queries, torch.tensor([7, 7, 7]), k=5) == pytest.approx(100)  # three of all five


def test_measure_tells_a_transformer_that_reads_from_one_that_does_not(small):
    vit = recipe.make_vit()
    quality = recipe.measure(vit, count=1)
    assert set(quality) == {recipe.NAME, "untrained", "pixels"}
    assert all(len(values) == 3 and all(0 <= v <= 100 for v in values) for values in quality.values())
    with torch.no_grad():
        for p in vit.parameters():
            p.zero_()  # every picture alike: the first pixel is the best match of all, and one category gets every vote
    blind = recipe.measure(vit, count=1)
    assert blind["pixels"] == quality["pixels"] and blind[recipe.NAME][0] < quality["pixels"][0]
