"""The recipe on a few steps (it runs, stops, continues), its losses and views against hand examples, and the finished model."""

import json
import math

import pytest
import torch
from transformers import Dinov2Model

from helpers.models import zoo
from helpers.recipes import toy_contrast as recipe
from helpers.recipes import toy_sd, training

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    changes = {"STEPS": 4, "BATCH": 6, "GROUP": 3, "POINTS": 5, "VIEW_SIZE": {0: 16, 2: 24}, "WIDTH": 16, "LAYERS": 2, "HEADS": 2, "HIDDEN": 10,
               "PROJECTED": 5}  # fmt: skip
    for name, value in changes.items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr(toy_sd, "BANK", 50)


def test_a_few_steps_from_nothing_and_again_after_a_stop(small, tmp_path):
    model = recipe.train(tmp_path / "whole", CPU)
    for stop in (1, 3, None):
        again = recipe.train(tmp_path / "parts", CPU, stop_at=stop)
    state, other = model.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    kept, started = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(kept["module"][name], started["module"][name]) for name in state)
    assert len(kept["optimizer"]["state"]) == len(list(model.parameters())) - 1  # all but the token for masked patches, which never occur

    folder = tmp_path / "out" / recipe.NAME
    training.write_folder(model.vit, folder)
    loaded = Dinov2Model.from_pretrained(folder, local_files_only=True)
    assert loaded.dtype == torch.float32 and loaded.config.patch_size == recipe.PATCH
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.vit.parameters(), strict=True))
    quality = recipe.measure(loaded, count=1)
    assert set(quality) == {recipe.NAME, "untrained", "pixels"} and all(0 <= v <= 100 for values in quality.values() for v in values)
    assert "| pixels | 9.0 % | 20.5 % | 14.0 % |" in recipe.card({"pixels": (9.0, 20.5, 14.0)}, model, CPU)


def test_processes_together_are_one_alone(small, monkeypatch):
    """Two halves of a batch: their mean loss and mean gradient are those of the whole batch, up to float32 rounding (bfloat16's would hide a fault)."""
    monkeypatch.setattr(training, "has_bfloat16", lambda device: False)
    torch.manual_seed(0)
    model = recipe.Contrast()

    def loss_and_gradients(mine):
        model.zero_grad()
        loss = recipe.contrast_loss(model, *recipe.batch_of(1, mine))
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    loss, gradients = loss_and_gradients(slice(0, 6))
    (first, one), (second, two) = (loss_and_gradients(slice(start, start + 3)) for start in (0, 3))
    assert torch.allclose((first + second) / 2, loss, atol=1e-5) and first != second
    assert all(torch.allclose((a + b) / 2, whole, atol=1e-5) for a, b, whole in zip(one, two, gradients, strict=True))


# ----------------------------------------------------------------------------------------------------------------------------- losses


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def cross_entropy(own, others):
    """-log of the share of exp(own / T) among it and exp(others / T), in plain numbers."""
    total = sum(math.exp(x / recipe.TEMPERATURE) for x in [own, *others])
    return math.log(total) - own / recipe.TEMPERATURE


def test_whole_loss_against_a_slow_loop():
    a, b = unit(4, 3, seed=1), unit(4, 3, seed=2)
    both, partner = [*a, *b], [4, 5, 6, 7, 0, 1, 2, 3]
    slow = [cross_entropy((x @ both[partner[i]]).item(), [(x @ y).item() for j, y in enumerate(both) if j not in (i, partner[i])])
            for i, x in enumerate(both)]  # fmt: skip
    assert recipe.whole_loss(a, b).item() == pytest.approx(sum(slow) / 8, rel=1e-5)
    eye = torch.eye(4, dtype=torch.float64)  # the loss is small, a difference of large numbers: too small for float32
    same = recipe.whole_loss(eye, eye).item()  # partners at cosine 1, six others at 0
    assert same == pytest.approx(math.log(1 + 6 * math.exp(-1 / recipe.TEMPERATURE)), rel=1e-4)


def test_point_loss_against_a_slow_loop_and_leaves_out_what_is_near():
    a, b = unit(2, 4, 3, seed=3), unit(2, 4, 3, seed=4)
    points = torch.tensor([[[0.0, 0.0], [0.1, 0.0], [0.5, 0.5], [-0.5, 0.2]], [[0.0, 0.0], [0.9, 0.9], [0.5, 0.5], [0.5, 0.59]]])
    near = {(0, 0, 1), (0, 1, 0), (1, 2, 3), (1, 3, 2)}  # 3.2 and 2.9 px of 64 apart; the same places in another picture are not near
    slow = []
    for one, other in ((a, b), (b, a)):
        for n in range(2):
            for p in range(4):
                others = [(one[n, p] @ other[m, q]).item() for m in range(2) for q in range(4)
                          if (m, q) != (n, p) and not (m == n and (n, p, q) in near)]  # fmt: skip
                assert len(others) == (6 if any(k[:2] == (n, p) for k in near) else 7)
                slow.append(cross_entropy((one[n, p] @ other[n, p]).item(), others))
    assert recipe.point_loss(a, b, points).item() == pytest.approx(sum(slow) / 16, rel=1e-5)


def test_vectors_come_from_the_places_asked_for(small):
    """The vectors of a point are those of its patch when it lies in the middle of the patch."""
    torch.manual_seed(1)
    model, views = recipe.Contrast().eval(), torch.rand(2, 3, 24, 24)
    at = torch.tensor([[[-5 / 6, -5 / 6], [5 / 6, -5 / 6], [-1 / 6, 0.5]]]).expand(2, 3, 2)  # patches (0, 0), (0, 5), (4, 2) of 6x6
    with torch.no_grad():
        whole, points = model(views, at)
        tokens = model.vit(views).last_hidden_state
        wanted = torch.nn.functional.normalize(model.point(tokens[:, [1, 6, 1 + 4 * 6 + 2]]), dim=-1)
    assert torch.allclose(points, wanted, atol=1e-5)
    assert whole.shape == (2, recipe.PROJECTED) and torch.allclose(whole.norm(dim=1), torch.ones(2))


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


def test_points_lie_in_both_views_and_are_found_again():
    """A picture whose colour is its coordinates: what the two views show at a point's places is the point."""
    g = training.step_generator(recipe.SEED, 9)
    first, second = (recipe.draw_views(60, recipe.AREA, g) for _ in range(2))
    points = recipe.draw_points(first, second, g)
    assert points.shape == (60, recipe.POINTS, 2) and points.abs().max() <= 1
    ramp = torch.linspace(-1 + 1 / 64, 1 - 1 / 64, 64)
    picture = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)]).expand(60, 3, 64, 64) / 2 + 0.5
    for views in (first, second):
        at = recipe.seen_at(views, points)
        assert at.abs().max() <= 1 + 1e-5
        plain = plain_view(60)
        plain.theta = views.theta
        shown = recipe.take(picture, plain, 64)
        read = torch.nn.functional.grid_sample(shown, at[:, None], padding_mode="border", align_corners=False)[:, :2, 0].transpose(1, 2)
        assert (2 * read - 1 - points).abs().max() < 0.04
    assert (first.theta != second.theta).any(2).any(1).all()


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


# ------------------------------------------------------------------------------------------------------------------ the finished model


def test_the_shipped_model():
    folder = zoo.folder(recipe.NAME)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Dinov2Model"]
    assert sum(p.stat().st_size for p in folder.iterdir()) < 8e6
    vit = Dinov2Model.from_pretrained(folder, local_files_only=True).eval()
    assert recipe.patch_tokens(vit)(torch.rand(1, 3, 64, 64), [""]).shape == (1, recipe.WIDTH, 16, 16)
