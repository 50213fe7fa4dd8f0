"""SAF, MESA, SAM's kin and measures of sharpness against worked numbers, slow loops, torch's and transformers' own, limits and identities."""

import copy
import math
import multiprocessing
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from helpers.methods import sharpness_aware_free as saf
from helpers.methods.sharpness_aware_free import ASAM, ESAM, MESA, METHODS, SAF, SAM, Frozen, IndexedDataset, LookSAM, OutputStore, Plain, Uniform
from helpers.methods.sharpness_aware_free._nearby import orthogonal
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)
LN3, N, C = math.log(3), 12, 3


def seed(value=0):
    return torch.Generator().manual_seed(value)


def normal(*shape, number=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seed(number), dtype=dtype)


IMAGES, LABELS = normal(N, 5), torch.arange(N) % C
FOUR = nn.Linear(5, 4).double()


def network(*, norm=False, dropout=0.0, number=0):
    torch.manual_seed(number)
    middle = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(5, 6), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, C)).double()


def descent(model, **options):
    return torch.optim.SGD(model.parameters(), **dict(lr=0.1, momentum=0.9, weight_decay=1e-3) | options)


def batches(epoch, size=4):
    """All samples once, in an order of the epoch's own."""
    for rows in torch.randperm(N, generator=seed(100 + epoch)).split(size):
        yield IMAGES[rows], LABELS[rows], rows


def train(method, epochs, start=0):
    return [[method.step(batch, epoch) for batch in batches(epoch)] for epoch in range(start, epochs)]


def made(name, model, **options):
    """A method by its name, with what it cannot do without."""
    needed = {"SAF": dict(store=OutputStore(N, C, lag=2).double(), start=1), "ESAM": dict(generator=seed())}
    return METHODS[name](model, descent(model), **needed.get(name, {}) | options)


def same(one, other):
    """Whether two models have the same numbers to the bit, batch norm's too."""
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def close(one, other):
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------------------- the pull


@pytest.mark.parametrize(
    "past, tau, squared, expected",
    [
        ((LN3, 0), 1, True, 0.1308120), ((LN3, 0), 5, True, 0.1499630), ((LN3, 0), 5, False, 0.1499630 / 25), ((LN3, 0), 1e4, True, 0.1508686),
        ((5 * LN3, 0), 5, True, 3.2703009), ((0, 0), 5, True, 0.0), ((7, 7), 1, True, 0.0),
    ],
)  # fmt: skip
def test_worked_numbers(past, tau, squared, expected):
    found = saf.trajectory_loss(torch.zeros(1, 2).double(), torch.tensor([past], dtype=torch.float64), temperature=tau, scale_tau2=squared)
    assert found.item() == pytest.approx(expected, abs=6e-8)


def test_worked_gradient():
    now = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    saf.trajectory_loss(now, [[5 * LN3, 0.0]], temperature=5).backward()
    torch.testing.assert_close(now.grad, torch.tensor([[-1.25, 1.25]]).double())


@pytest.mark.parametrize("number", range(4))
def test_the_pull_in_general(number):
    now, past, tau = normal(7, 4, number=number).requires_grad_(), (3 * normal(7, 4, number=number + 10)).requires_grad_(), 0.5 + number
    each = saf.trajectory_loss(now, past, temperature=tau, reduction="none")
    p, q = (np.exp(x / tau) / np.exp(x / tau).sum(1, keepdims=True) for x in (past.detach().numpy(), now.detach().numpy()))
    np.testing.assert_allclose(each.detach(), tau**2 * (p * np.log(p / q)).sum(1))
    assert each.min() > 0
    loss = saf.trajectory_loss(now, past, temperature=tau)
    torch.testing.assert_close(loss, each.mean())
    loss.backward()
    np.testing.assert_allclose(now.grad, tau / 7 * (q - p), atol=1e-14)
    np.testing.assert_allclose(now.grad.sum(1), 0, atol=1e-15)
    assert past.grad is None
    shift = normal(7, 1, number=number + 20)
    torch.testing.assert_close(saf.trajectory_loss(now + shift, past - 2 * shift, temperature=tau), loss)


def test_it_is_at_rest_where_nothing_moved():
    now = normal(5, 4).requires_grad_()
    loss = saf.trajectory_loss(now, now, temperature=3)
    loss.backward()
    assert loss.item() == 0 and now.grad.abs().max() < 1e-16


def test_at_high_temperature_it_is_the_squared_distance_of_centred_logits():
    now, past = normal(6, 4), normal(6, 4, number=1)
    moved = (past - now) - (past - now).mean(1, keepdim=True)
    limit = moved.square().sum(1).mean() / (2 * 4)
    gaps = [abs(saf.trajectory_loss(now, past, temperature=tau) / limit - 1).item() for tau in (1, 10, 100, 1000)]
    assert gaps == sorted(gaps, reverse=True) and gaps[1] < 0.05 and gaps[-1] < 1e-3


@pytest.mark.parametrize("tau, within", [(5, 1e-6), (100, 1e-5), (1e4, 1e-3)])
def test_rounding_in_float32_stays_below_what_is_measured(tau, within):
    """Shares at a high temperature are all but equal: of sums of their differences float32 would keep the rounding only."""
    now, past = normal(5, 3, number=1), normal(5, 3, number=2)
    expected = tau**2 * F.kl_div((now / tau).log_softmax(1), (past / tau).log_softmax(1), log_target=True, reduction="batchmean")
    assert saf.trajectory_loss(now.float(), past.float(), temperature=tau).item() == pytest.approx(expected.item(), rel=within)
    close_by = saf.trajectory_loss(now.float(), (now + 1e-4 * past).float(), reduction="none")
    torch.testing.assert_close(close_by.double(), saf.trajectory_loss(now, now + 1e-4 * past, reduction="none"), rtol=1e-2, atol=0)
    assert (saf.trajectory_loss(now.float() + 1e3, now.float(), reduction="none") >= 0).all()


def test_half_precision_and_extreme_logits():
    """softmax first and log afterwards is log 0 here."""
    now, past = torch.tensor([[400.0, 0.0, -30.0]], dtype=torch.float16), torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float16)
    assert torch.isinf(now.softmax(1).log()).any()
    found = saf.trajectory_loss(now, past, temperature=1)
    assert found.dtype == torch.float32 and found.item() == pytest.approx(-LN3 + (400 + 430) / 3, rel=1e-5)


def test_the_kind_follows_now():
    now, past = normal(2, 3).numpy(), normal(2, 3, number=1)
    found = saf.trajectory_loss(now, past)
    assert isinstance(found, np.ndarray) and found == pytest.approx(saf.trajectory_loss(torch.tensor(now), past.tolist()).item())


# ---------------------------------------------------------------------------------------------------------------------------- the store


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_the_ring_gives_what_was_written_lag_epochs_ago(lag):
    store, written = OutputStore(N, C, lag=lag), {}
    for epoch in range(4 * lag + 3):
        for _, _, rows in batches(epoch):
            logits = torch.randn(len(rows), C, generator=seed(1000 * epoch + int(rows[0])))
            store.write(rows, logits, epoch)
            written |= {(epoch, int(i)): one for i, one in zip(rows, logits)}
            if epoch >= lag:
                found, there = store.read(rows, epoch)
                assert torch.equal(found, torch.stack([written[epoch - lag, int(i)] for i in rows])) and there.all()
    assert store.logits.shape == (lag + 1, N, C)


def test_an_empty_or_old_row_is_refused_or_left_out():
    store = OutputStore(4, 2, lag=2)
    for epoch in range(7):
        rows = [0, 1, 2] if epoch == 4 else [0, 1, 2, 3] if epoch else [0, 2]
        store.write(rows, np.full((len(rows), 2), float(epoch)), epoch)
    with pytest.raises(ValueError, match=r"kept in epoch 4, 2 before epoch 6, got 1 of 2 that were not, first sample 3, last in epoch 1; .*missing='skip'"):
        store.read([0, 3], 6)
    found, there = store.read([0, 3], 6, missing="skip")
    assert there.tolist() == [True, False] and found[0].tolist() == [4, 4]
    fresh = OutputStore(4, 2, lag=1)
    with pytest.raises(ValueError, match="kept in epoch -1, 1 before epoch 0, got 1 of 1 that were not, first sample 2, never"):
        fresh.read([2], 0)
    assert not fresh.read([2], 0, missing="skip")[1].any()


def test_a_store_for_each_process_is_found_out():
    """Two processes, each with a store of its own, whose sampler deals samples anew in every epoch: about half of what is read was never written there."""
    stores, shared = [OutputStore(64, 2, lag=1) for _ in range(2)], OutputStore(64, 2, lag=1)
    for epoch in range(2):
        for store, rows in zip(stores, torch.randperm(64, generator=seed(epoch)).chunk(2)):
            for one in (store, shared):
                one.write(rows, torch.ones(len(rows), 2), epoch)
            if epoch:
                assert 6 < store.read(rows, epoch, missing="skip")[1].sum() < 26
                with pytest.raises(ValueError, match="several processes want one store in shared memory"):
                    store.read(rows, epoch)
    assert shared.read(torch.arange(64), 1)[1].all()


def _write_elsewhere(store):
    store.write([1], torch.tensor([[5.0, 6.0]]), 0)


def test_one_store_in_shared_memory():
    store = OutputStore(3, 2, lag=1).share_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = multiprocessing.get_context("fork").Process(target=_write_elsewhere, args=(store,))
        other.start()
        other.join()
    assert other.exitcode == 0 and store.read([1], 1)[0].tolist() == [[5, 6]]


@pytest.mark.parametrize(
    "samples, classes, slots, logits, published",
    [
        (1_281_167, 1000, 4, 20.5e9, 20.5e9), (50_000, 10, 4, 8.0e6, 8e6), (1_281_167, 1000, 3, 14_662 * 2**20, 14_643 * 2**20),
        (50_000, 100, 3, 57.2 * 2**20, 57 * 2**20),
    ],
)  # fmt: skip
def test_memory(samples, classes, slots, logits, published):
    found = saf.store_bytes(samples, classes, lag=slots - 1) - 4 * slots * samples
    assert found == 4 * slots * samples * classes == pytest.approx(logits, rel=2e-3) == pytest.approx(published, rel=5e-3)


def test_memory_is_what_the_buffers_take():
    for dtype in (torch.float32, torch.float16):
        store = OutputStore(7, 5, lag=3, dtype=dtype)
        assert saf.store_bytes(7, 5, lag=3, dtype=dtype) == store.logits.nbytes + store.stamps.nbytes
    assert saf.store_bytes(14_197_122, 21_841, lag=1) / 2 == pytest.approx(1.24e12, rel=1e-3)


def test_a_store_in_half_precision():
    logits = 4 * normal(6, 5, dtype=torch.float32)
    store = OutputStore(6, 5, lag=1, dtype=torch.float16)
    store.write(range(6), logits, 0)
    found, _ = store.read(range(6), 1)
    assert found.dtype == torch.float32 and torch.equal(found, logits.half().float())
    assert 0 < saf.trajectory_loss(found.double(), logits.double()) < 1e-5
    with pytest.raises(ValueError, match="logits must be finite numbers in float16, got an infinity in it at epoch 1"):
        store.write([0], torch.full((1, 5), 7e4), 1)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda s: s.write([0], [[math.nan, 1.0]], 0), "logits must be finite .* got NaN"),
        (lambda s: s.write([4], [[0.0, 1.0]], 0), "indices must .* 0..3, got 4"),
        (lambda s: s.write([0], [[0.0, 1.0, 2.0]], 0), r"logits must be .* \(1, 2\), the classes of the store, got shape \(1, 3\)"),
        (lambda s: s.write([0, 1], [[0.0, 1.0]], 0), r"logits must be .* \(2, 2\)"), (lambda s: s.read([-1], 0), "indices must .*, got -1"),
        (lambda s: OutputStore(4, 2, lag=0), "lag must be an integer >= 1, got 0"), (lambda s: s.read([0], 3, missing="uniform"), "missing must be one of"),
        (lambda s: saf.trajectory_loss([[0.0, 1.0]], [[0.0, 1.0]], temperature=0), "temperature must be a finite number > 0, got 0"),
        (lambda s: saf.trajectory_loss([[0.0, 1.0]], [[0.0, 1.0, 2.0]]), r"past must be .* \(1, 2\), the shape of now, got shape \(1, 3\)"),
    ],
)  # fmt: skip
def test_the_store_and_the_pull_refuse(call, text):
    store = OutputStore(4, 2, lag=1)
    with pytest.raises(ValueError, match=text):
        call(store)
    assert (store.stamps == -1).all() and not store.logits.any()


# ------------------------------------------------------------------------------------------------------------------------------ loaders


def test_indices_name_the_samples_however_a_loader_shuffles():
    data = IndexedDataset(TensorDataset(IMAGES, LABELS))
    seen = []
    for images, labels, indices in DataLoader(data, batch_size=5, shuffle=True, generator=seed()):
        assert torch.equal(images, IMAGES[indices]) and torch.equal(labels, LABELS[indices])
        seen += indices.tolist()
    assert sorted(seen) == list(range(N)) != seen
    assert data[-1][2] == N - 1 and len(data) == N
    part = IndexedDataset(Subset(TensorDataset(IMAGES, LABELS), [7, 3]))
    assert part[1][2] == 1 and torch.equal(part[1][0], IMAGES[3])
    with pytest.raises(IndexError):
        data[N]


def test_a_loader_without_indices_is_refused_with_what_to_do():
    model = network()
    method = made("SAF", model)
    for batch in DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4):
        with pytest.raises(ValueError, match=r"batch must be \(images, labels, indices\), got no indices: make the loader of IndexedDataset\(dataset\)"):
            method.step(batch, 0)
    with pytest.raises(ValueError, match="labels must be in 0..2, .* is it"):  # (images, indices, labels)
        method.step((IMAGES[8:], torch.arange(8, 12), LABELS[8:]), 0)
    assert same(model, network())


def test_datasets_that_have_no_place_for_an_index():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(1, 2)])

    for bad in (Stream(), 3, {"a": 1}, iter([1])):
        with pytest.raises(TypeError, match="dataset must have a length and give"):
            IndexedDataset(bad)
    with pytest.raises(TypeError, match=r"dataset must give \(image, label\), got \{'image': 1\} at 0"):
        IndexedDataset([{"image": 1}])[0]


# ------------------------------------------------------------------------------------------------------------ training: naive references


def naive(model, epochs, gradient, after=lambda: None):
    """A loop by hand: gradient(epoch, batch) gives the gradients, SGD with momentum and weight decay as in the paper's algorithm."""
    speed = [torch.zeros_like(p) for p in model.parameters()]
    for epoch in range(epochs):
        for batch in batches(epoch):
            found = gradient(epoch, *batch)
            with torch.no_grad():
                for p, v, g in zip(model.parameters(), speed, found):
                    v.mul_(0.9).add_(g + 1e-3 * p)
                    p.sub_(0.1 * v)
            after()
    return model


def slope(model, images, labels, weights=None):
    """The gradient of the cross-entropy, at other weights if there are any."""
    named = dict(model.named_parameters())
    weights = list(named.values()) if weights is None else [w.detach().requires_grad_() for w in weights]
    logits = torch.func.functional_call(model, dict(zip(named, weights)), images)
    picked = logits.log_softmax(1)[torch.arange(len(labels)), labels]
    return torch.autograd.grad(-picked.mean(), weights)


def length(parts):
    return math.sqrt(sum(p.detach().square().sum().item() for p in parts))


def test_saf_by_hand():
    model, other, kept = network(), network(), []

    def gradient(epoch, images, labels, rows):
        if len(kept) <= epoch:
            kept.append({})
        logits = other(images)
        kept[epoch] |= {int(i): one.detach() for i, one in zip(rows, logits)}
        loss = F.cross_entropy(logits, labels)
        if epoch > 2:
            past = torch.stack([kept[epoch - 2][int(i)] for i in rows])
            loss = loss + 0.7 * 16 * F.kl_div((logits / 4).log_softmax(1), (past / 4).softmax(1), reduction="batchmean")
        return torch.autograd.grad(loss, list(other.parameters()))

    seen = train(SAF(model, descent(model), OutputStore(N, C, lag=2).double(), start=2, coefficient=0.7, temperature=4), 6)
    close(model, naive(other, 6, gradient))
    assert [epoch[0].term is None for epoch in seen] == [True] * 3 + [False] * 3
    last = seen[-1][-1]
    torch.testing.assert_close(last.loss, last.cross_entropy + 0.7 * last.term)


def test_mesa_by_hand():
    model, other = network(), network()
    average = copy.deepcopy(other)

    def gradient(epoch, images, labels, rows):
        logits, past = other(images), average(images).detach()
        loss = F.cross_entropy(logits, labels)
        if epoch > 0:
            loss = loss + 0.8 * 25 * F.kl_div((logits / 5).log_softmax(1), (past / 5).softmax(1), reduction="batchmean")
        return torch.autograd.grad(loss, list(other.parameters()))

    def after():
        for v, p in zip(average.parameters(), other.parameters()):
            v.data = 0.9 * v.data + 0.1 * p.data

    method = MESA(model, descent(model), decay=0.9, start=0)
    train(method, 4)
    close(model, naive(other, 4, gradient, after))
    close(method.average, average)


def test_controls_by_hand():
    for name in ("uniform", "frozen"):
        model, other, teacher = network(), network(), network(number=7)

        def gradient(epoch, images, labels, rows, name=name, other=other, teacher=teacher):
            logits = other(images)
            past = teacher(images).detach() if name == "frozen" else torch.zeros(len(rows), C).double()
            pull = 4 * F.kl_div((logits / 2).log_softmax(1), (past / 2).softmax(1), reduction="batchmean")
            return torch.autograd.grad(F.cross_entropy(logits, labels) + (0.5 * pull if 0 < epoch < 3 else 0), list(other.parameters()))

        options = dict(teacher=teacher) if name == "frozen" else {}
        train(METHODS[name](model, descent(model), coefficient=0.5, temperature=2, start=0, end=3, **options), 4)
        close(model, naive(other, 4, gradient))


def test_sam_by_hand():
    model, other = network(), network()

    def gradient(epoch, images, labels, rows):
        g = slope(other, images, labels)
        return slope(other, images, labels, [p + 0.3 * e / length(g) for p, e in zip(other.parameters(), g)])

    train(SAM(model, descent(model), rho=0.3), 3)
    close(model, naive(other, 3, gradient))


def test_asam_by_hand():
    model, other = network(), network()

    def gradient(epoch, images, labels, rows):
        g = slope(other, images, labels)
        t = [p.abs() + 0.01 if "weight" in name else torch.ones_like(p) for name, p in other.named_parameters()]
        size = length([a * b for a, b in zip(t, g)])
        return slope(other, images, labels, [p + 0.5 * a**2 * b / size for p, a, b in zip(other.parameters(), t, g)])

    train(ASAM(model, descent(model)), 3)
    close(model, naive(other, 3, gradient))


def test_esam_by_hand():
    model, other, draws = network(), network(), seed(3)
    beta, gamma, kept = 0.5, 0.75, []

    def gradient(epoch, images, labels, rows):
        g, names = slope(other, images, labels), list(dict(other.named_parameters()))
        frozen = [float(one) >= beta for one in torch.rand(4, generator=draws)]
        g = [None if f else one for f, one in zip(frozen, g)]
        size = length([one for one in g if one is not None]) or 1.0
        there = [p if e is None else p + 0.2 / beta * e / size for p, e in zip(other.parameters(), g)]
        state = dict(zip(names, there))
        rise = [
            F.cross_entropy(torch.func.functional_call(other, state, x[None]), y[None]) - F.cross_entropy(other(x[None]), y[None])
            for x, y in zip(images, labels)
        ]
        bound = sorted(rise, reverse=True)[int(gamma * len(rows)) - 1]
        some = [i for i, one in enumerate(rise) if one > bound]
        kept.append(len(some))
        return slope(other, images[some], labels[some], there)

    train(ESAM(model, descent(model), rho=0.2, beta=beta, gamma=gamma, generator=seed(3)), 3)
    close(model, naive(other, 3, gradient))
    assert set(kept) == {2}  # one fewer than int(0.75 * 4)


def test_looksam_by_hand():
    model, other, state = network(), network(), {"steps": 0}

    def gradient(epoch, images, labels, rows):
        g = slope(other, images, labels)
        if state["steps"] % 2 == 0:
            there = slope(other, images, labels, [p + 0.1 * e / length(g) for p, e in zip(other.parameters(), g)])
            cosine = sum(float((a * b).sum()) for a, b in zip(g, there)) / length(g) / length(there)
            state["v"] = [b - length(there) * cosine * a / length(g) for a, b in zip(g, there)]
        else:
            there = [a + 0.7 * length(g) / length(state["v"]) * v for a, v in zip(g, state["v"])]
        state["steps"] += 1
        return there

    method = LookSAM(model, descent(model), rho=0.1, every=2)
    train(method, 3)
    close(model, naive(other, 3, gradient))
    assert method.steps == 9


# -------------------------------------------------------------------------------------------------------------------- training: identities


@pytest.mark.parametrize(
    "name, options",
    [
        ("SAF", dict(coefficient=0)), ("MESA", dict(coefficient=0, start=0)), ("uniform", dict(coefficient=0, start=0)),
        ("frozen", dict(coefficient=0, start=0)),
        ("SAM", dict(rho=0)), ("ASAM", dict(rho=0)), ("ESAM", dict(rho=0, gamma=1)), ("LookSAM", dict(rho=0, every=1)), ("SAF", dict(start=9)),
    ],
)  # fmt: skip
def test_without_its_part_each_is_plain_training_to_the_bit(name, options):
    """Batch norm's running statistics too: the second pass leaves them alone."""
    model, plain = network(norm=True), network(norm=True)
    train(made(name, model, **options), 4)
    train(made("plain", plain), 4)
    assert same(model, plain) and not same(model, network(norm=True))


def test_a_coefficient_of_zero_draws_no_other_numbers():
    """Dropout is the same under one seed."""
    ends = []
    for name in ("SAF", "MESA", "plain"):
        model = network(dropout=0.5)
        method = made(name, model, **({} if name == "plain" else dict(coefficient=0, start=1)))
        torch.manual_seed(5)
        train(method, 4)
        ends.append(model)
    assert same(ends[0], ends[2]) and same(ends[1], ends[2])


def test_esam_with_all_of_the_weights_and_the_batch_is_sam():
    model, other = network(norm=True), network(norm=True)
    train(made("ESAM", model, beta=1, gamma=1), 3)
    train(made("SAM", other), 3)
    assert same(model, other) and not same(model, network(norm=True))


def test_looksam_at_every_step_is_sam():
    model, other = network(), network()
    train(made("LookSAM", model, every=1, rho=0.2), 3)
    train(made("SAM", other, rho=0.2), 3)
    assert same(model, other)


@pytest.mark.parametrize("dtype, scale", [(torch.float64, 1.0), (torch.float64, 1e-4), (torch.float32, 1e-3), (torch.float32, 1e-5)])
def test_looksam_without_a_radius_is_plain_however_small_the_gradient(dtype, scale):
    """Where SAM's gradient is the plain one nothing is across: a rest of it would be stretched to the length of the gradient."""
    models = [network().to(dtype) for _ in range(2)]
    for model, method in zip(models, (Plain, lambda *both: LookSAM(*both, rho=0, every=3))):
        model.forward = lambda x, model=model: scale * nn.Sequential.forward(model, x)
        train(method(model, descent(model, weight_decay=0)), 4)
    assert same(*models)


def test_in_half_precision_squares_of_small_gradients_are_not_lost():
    v, u = torch.tensor([1e-4, 2e-4], dtype=torch.float16), torch.tensor([1e-4, 1e-4], dtype=torch.float16)
    (left,) = orthogonal([v], [u])
    torch.testing.assert_close(left.float(), torch.tensor([-5e-5, 5e-5]), rtol=0.01, atol=0)


def test_weights_come_back_exactly_from_copies_and_not_by_subtraction():
    model = network().float()
    before = copy.deepcopy(model)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    for method in (SAM(model, still, rho=0.3), ASAM(model, still), ESAM(model, still, rho=0.3)):
        method.step((IMAGES.float(), LABELS), 0)
        assert same(model, before)
    weight = before[0].weight.detach()
    gradient = 0.3 * normal(*weight.shape, dtype=torch.float32)
    assert not torch.equal(weight + gradient - gradient, weight)


def test_weights_come_back_where_something_breaks_there():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = network(norm=True), 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("out of memory")
            return self.inner(x)

    model = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        SAM(model, descent(model)).step((IMAGES, LABELS), 0)
    assert [torch.equal(a, b) for a, b in zip(model.inner.parameters(), network(norm=True).parameters())] == [True] * 6
    assert model.inner[1].track_running_stats


def test_what_is_not_finite_moves_no_weight():
    for name in METHODS:
        model = network()
        images = IMAGES[:4].clone()
        images[1, 2] = math.nan
        method = made(name, model)
        with pytest.raises(ValueError, match="finite"):
            method.step((images, LABELS[:4], torch.arange(4)), 0)
        assert same(model, network()) and not method.optimiser.state


@pytest.mark.parametrize("name", METHODS)
def test_what_is_refused_leaves_no_trace(name):
    """An infinity that tanh flattens gives a finite loss and a gradient of NaN; running statistics would stay NaN for good."""
    flat, lost, labels = IMAGES.clone(), IMAGES.clone(), torch.full((N,), C)
    flat[1, 2], lost[1, 2] = math.inf, math.nan
    for norm, images, classes in ((False, flat, LABELS), (True, lost, LABELS), (True, IMAGES, labels)):
        model = network(norm=norm)
        method = made(name, model, **(dict(beta=1.0, gamma=1.0) if name == "ESAM" else {}))
        kept = copy.deepcopy(method.state_dict())
        with pytest.raises(ValueError, match="finite" if classes is LABELS else "labels must be in 0..2"):
            method.step((images, classes, torch.arange(N)), 0)
        assert same(model, network(norm=norm)) and not method.optimiser.state
        assert str(method.state_dict()) == str(kept)


def test_esam_refuses_what_is_not_finite_nearby():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = network(), 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x) + (torch.tensor([math.nan] + [0.0] * (N - 1))[:, None] if self.calls == 2 else 0)

    model = Once()
    with pytest.raises(ValueError, match="the loss of each sample must be finite nearby"):
        ESAM(model, descent(model), generator=seed()).step((IMAGES, LABELS), 0)
    assert same(model.inner, network())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_a_step_wherever_gradients_are_off(name):
    models = [network() for _ in range(3)]
    for model, place in zip(models, (torch.enable_grad, torch.no_grad, torch.inference_mode)):
        method = made(name, model)
        with place():
            train(method, 3)
    assert same(models[0], models[1]) and same(models[0], models[2])


@pytest.mark.parametrize("name", METHODS)
def test_autocast_does_not_go_on_with_weights_of_before(name):
    """It keeps what it made of the weights until it ends: SAM's climb would not be seen, nor the step."""
    seen = []
    for how in (False, True):
        model = network().float()
        method = made(name, model)
        with torch.autocast("cpu", torch.bfloat16, enabled=how):
            seen.append(torch.stack([method.step((IMAGES.float(), LABELS, torch.arange(N)), epoch).loss for epoch in (0, 1)]))
    torch.testing.assert_close(seen[1].float(), seen[0].float(), rtol=0, atol=0.004)
    assert abs(seen[0][0] - seen[0][1]) > 0.01
    loss = saf.loss_on(model, (IMAGES.float(), LABELS))
    expected = saf.sam_sharpness(loss, model, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(saf.sam_sharpness(loss, model, 0.5).float(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", METHODS)
def test_who_learns_is_looked_at_in_every_step(name):
    model = network()
    method = made(name, model)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="optimiser must be made of parameters of the model, got a SGD with none of them that learns"):
        method.step((IMAGES, LABELS, torch.arange(N)), 0)
    model = network()
    model.forward = lambda x: nn.Sequential.forward(model, x).detach()
    with pytest.raises(ValueError, match="model must give logits that depend on a parameter that learns"):
        made(name, model).step((IMAGES, LABELS, torch.arange(N)), 0)


@pytest.mark.parametrize("name", ["SAM", "ASAM", "ESAM", "LookSAM"])
def test_a_gradient_of_zeros_in_half_precision_moves_nothing(name):
    model = nn.Linear(5, C, dtype=torch.float16)
    first = model.weight.detach().clone()
    model.forward = lambda x: 0 * nn.Linear.forward(model, x)
    METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1)).step((IMAGES, LABELS), 0)
    assert torch.equal(model.weight, first)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_gets_no_gradient(name):
    images, shares = IMAGES.clone().requires_grad_(), torch.full((N, C), 1 / C).requires_grad_()
    method = made(name, network())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method.step((images, shares, torch.arange(N)), 0)
    assert images.grad is None and shares.grad is None


@pytest.mark.parametrize("name", METHODS)
def test_methods_can_be_pickled(name):
    method = made(name, network())
    train(method, 3)
    again = pickle.loads(pickle.dumps(method))
    for one in (method, again):
        torch.manual_seed(0)
        train(one, 5, start=3)
    assert same(method.model, again.model)


def test_label_smoothing_is_a_pull_to_uniform():
    """(1 - s) CE + s / C sum(-log p) = (1 - s) (CE + s / (1 - s) KL(uniform || p)) + s log C."""
    s = 0.2
    model, other = network(), network()
    smooth = Plain(model, descent(model, weight_decay=0, momentum=0, lr=0.1), label_smoothing=s)
    pulled = Uniform(other, descent(other, weight_decay=0, momentum=0, lr=0.1 * (1 - s)), coefficient=s / (1 - s), temperature=1, start=-1)
    for batch in batches(0):
        one, two = smooth.step(batch, 0), pulled.step(batch, 0)
        torch.testing.assert_close(one.loss, (1 - s) * two.loss + s * LN3)
    close(model, other)


def test_a_store_of_zeros_is_a_pull_to_uniform():
    """What the official script's stores become with several processes: this control, without a word."""
    model, other = network(), network()
    method = made("SAF", model)
    method.store.stamps[:] = torch.arange(3)[:, None]
    method.store._put = lambda *_: None
    seen = [method.step(batch, 2) for batch in batches(0)]
    expected = [made("uniform", other, start=1).step(batch, 2) for batch in batches(0)][0]
    torch.testing.assert_close(seen[0].term, expected.term)
    assert seen[0].term > 0


def test_the_average_after_equal_updates():
    model = network(norm=True)
    method = MESA(model, descent(model), decay=0.9)
    first = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(2)
    for t in range(1, 6):
        method._follow()
        for name, v in method.average.state_dict().items():
            theta = model.state_dict()[name]
            expected = theta + 0.9**t * (first[name] - theta) if v.is_floating_point() else theta
            torch.testing.assert_close(v, expected)


def test_the_average_of_a_model_in_half_precision():
    """In bfloat16 a step of 1 % of the way is rounded away, or up."""
    model = network(norm=True).bfloat16()
    method = MESA(model, descent(model), decay=0.99, start=-1)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for epoch in range(40):
        method.step((IMAGES, LABELS), epoch)
        expected = {name: 0.99 * expected[name] + 0.01 * value.double() for name, value in model.state_dict().items()}
    for name, v in method.average.state_dict().items():
        if v.is_floating_point():
            torch.testing.assert_close(v.double(), expected[name], rtol=1e-4, atol=1e-5)


def test_whole_numbers_among_the_buffers_are_copied():
    """torch's average of equal whole numbers is not always that number: Swin's places of relative positions would change."""
    model = nn.Sequential(nn.Linear(5, C)).double()
    model.register_buffer("places", torch.arange(200))
    method = MESA(model, descent(model), decay=0.9)
    train(method, 1)
    assert torch.equal(method.average.places, model.places)
    naive_average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(2):
        naive_average.update_parameters(model)
    assert not torch.equal(naive_average.module.places, model.places)


def test_the_average_of_no_memory_says_the_same_in_the_same_mode_only():
    """beta = 0: the model of now, in eval mode; batch norm that goes by the batch says something else."""
    for norm, mode, at_rest in ((False, True, True), (True, False, True), (True, True, False)):
        model = network(norm=norm).train(mode)
        method = MESA(model, descent(model), decay=0, start=-1)
        terms = [one.term for one in train(method, 2)[1]]
        assert (max(terms) < 1e-14) == at_rest, (norm, mode)
    assert not method.average.training and not any(p.requires_grad for p in method.average.parameters())


def test_the_term_has_a_floor_of_noise():
    """Weights that stay: without dropout outputs stay too; with it they are noise around, and the term sees it."""
    for dropout in (0.0, 0.5):
        model = network(dropout=dropout)
        method = SAF(model, descent(model, lr=0.0), OutputStore(N, C, lag=1).double(), start=0)
        floor = [one.term.item() for one in train(method, 2)[1]]
        assert min(floor) > 1e-3 if dropout else max(floor) == 0


def test_samples_that_were_left_out_are_not_pulled():
    model = network()
    method = made("SAF", model, missing="skip")
    for epoch in range(3):
        for images, labels, rows in batches(epoch):
            some = rows != 5 if epoch == 0 else rows >= 0
            seen = method.step((images[some], labels[some], rows[some]), epoch)
            if epoch == 2:
                past, there = method.store.read(rows, 2, missing="skip")
                each = saf.trajectory_loss(seen.logits, past, reduction="none")
                assert there.tolist() == [int(i) != 5 for i in rows]
                torch.testing.assert_close(seen.term, sum(one for one, i in zip(each, rows) if i != 5) / len(rows))


@pytest.mark.parametrize("start, end, expected", [(5, 9, [6, 7, 8]), (-1, 2, [0, 1]), (7, None, [8, 9, 10, 11])])
def test_epochs_with_a_term(start, end, expected):
    method = made("uniform", network(), start=start, end=end)
    assert [epoch for epoch in range(12) if method.active(epoch)] == expected
    assert [epoch for epoch in range(12) if method.step((IMAGES, LABELS), epoch).term is not None] == expected


def test_the_frozen_model_is_that_of_the_first_epoch_with_a_term():
    model = network(norm=True)
    method = made("frozen", model, start=1)
    train(method, 2)
    kept = copy.deepcopy(model)
    seen = train(method, 4, start=2)
    assert same(method.teacher, kept) and not same(model, kept)
    assert not method.teacher.training and seen[1][0].term > seen[0][1].term > 0
    method.load_state_dict({"teacher": None})  # of before it was there
    train(method, 5, start=4)
    assert not same(method.teacher, kept)


PASSES = {"plain": (1, 1), "SAF": (1, 1), "MESA": (2, 1), "uniform": (1, 1), "frozen": (2, 1), "SAM": (2, 2), "ASAM": (2, 2)}


@pytest.mark.parametrize("name", PASSES)
def test_what_a_step_costs(name):
    """Forward and backward passes over the batch, of all copies of the model."""
    calls, graphs = [0], [0]

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            calls[0] += 1
            out = self.inner(x)
            if out.requires_grad:
                out.register_hook(lambda _: graphs.__setitem__(0, graphs[0] + 1))
            return out

    model = Counted()
    method = made(name, model, **(dict(start=1) if name in ("MESA", "uniform", "frozen") else {}))
    train(method, 2)
    calls[0] = graphs[0] = 0
    method.step(next(batches(2)), 2)
    assert (calls[0], graphs[0]) == PASSES[name]


def test_esam_costs_two_passes_over_the_batch_and_one_over_a_part():
    sizes, model = [], network()
    model.register_forward_hook(lambda _, args, out: sizes.append((len(args[0]), out.requires_grad)))
    made("ESAM", model, gamma=0.5).step((IMAGES, LABELS), 0)
    assert sizes == [(12, True), (12, False), (5, True)]


@pytest.mark.parametrize("name", METHODS)
def test_training_goes_on_where_it_was_stopped(name):
    model, options = network(norm=True), dict(start=1) if name in ("MESA", "frozen", "uniform") else {}
    options |= dict(beta=1.0, gamma=0.8) if name == "ESAM" else {}
    method = made(name, model, **options)
    train(method, 4)
    state = copy.deepcopy((model.state_dict(), method.optimiser.state_dict(), method.state_dict()))
    train(method, 6, start=4)
    again = network(norm=True, number=9)
    other = made(name, again, **options)
    again.load_state_dict(state[0]), other.optimiser.load_state_dict(state[1]), other.load_state_dict(state[2])
    train(other, 6, start=4)
    assert same(model, again)
    with pytest.raises(ValueError, match="state must be a state_dict of"):
        other.load_state_dict({"else": 1})


# ------------------------------------------------------------------------------------------------------------ what models and batches are


def small_resnet():
    torch.manual_seed(0)
    sizes = dict(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", num_channels=1, num_labels=C)
    return ResNetForImageClassification(ResNetConfig(**sizes))


def small_vit():
    torch.manual_seed(0)
    sizes = dict(image_size=8, patch_size=4, num_channels=1, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=C)
    return ViTForImageClassification(ViTConfig(**sizes))


@pytest.mark.parametrize("make", [small_resnet, small_vit])
def test_models_of_transformers_learn(make):
    pictures = 2 * F.one_hot(LABELS, 8).float()[:, None, None].expand(N, 1, 8, 8)  # a bright column for each class
    for name in ("SAF", "MESA", "SAM", "LookSAM"):
        model = make()
        options = {"SAF": dict(store=OutputStore(N, C, lag=1), start=0), "MESA": dict(start=0)}.get(name, {})
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.03)
        method = METHODS[name](model, optimiser, **options)
        seen = [method.step((pictures, LABELS, torch.arange(N)), epoch) for epoch in range(10)]
        assert seen[-1].cross_entropy < 0.8 * seen[0].cross_entropy and seen[-1].logits.shape == (N, C)
        assert not any(one.requires_grad for one in seen[-1] if one is not None)


def test_only_what_the_optimiser_has_is_moved():
    for name in ("SAM", "ASAM", "ESAM", "LookSAM", "SAF", "MESA"):
        model = network()
        model[0].requires_grad_(False)
        method = METHODS[name](model, torch.optim.SGD(model[3].parameters(), lr=0.1), **(dict(store=OutputStore(N, C)) if name == "SAF" else {}))
        train(method, 2)
        assert torch.equal(model[0].weight, network()[0].weight) and not torch.equal(model[3].weight, network()[3].weight)


def test_looksam_climbs_anew_where_more_begins_to_learn():
    model = network()
    model[0].requires_grad_(False)
    method = made("LookSAM", model)
    method.step((IMAGES, LABELS), 0)
    model[0].requires_grad_(True)
    assert len(method.across) == 2
    method.step((IMAGES, LABELS), 0)
    assert len(method.across) == 4


def test_looksam_climbs_anew_where_others_learn_than_before():
    """As many and as large as those of before, so that what is across would fit."""
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Tanh(), nn.Linear(5, 5, bias=False), nn.Tanh(), nn.Linear(5, C)).double()
    model[2].requires_grad_(False)
    method = LookSAM(model, descent(model))
    method.step((IMAGES, LABELS), 0)
    model[0].requires_grad_(False), model[2].requires_grad_(True)
    climbed = method.step((IMAGES, LABELS), 0)
    between = method.step((IMAGES, LABELS), 0)
    assert climbed.loss != climbed.cross_entropy and between.loss == between.cross_entropy
    with pytest.raises(ValueError, match="state must be of a method whose optimiser has the same parameters"):
        method.load_state_dict({"steps": 1, "across": [torch.zeros(2)]})


def test_parameters_that_the_loss_does_not_touch():
    for name in ("SAM", "ASAM", "ESAM", "LookSAM"):
        model = network()
        model.aside = nn.Linear(2, 2)
        model.forward = lambda x, model=model: nn.Sequential.forward(model[:4], x)
        train(made(name, model), 2)
        assert model.aside.weight.grad is None


def test_soft_labels_and_their_warning():
    shares = torch.eye(C).double()[LABELS] * 0.7 + 0.1
    for name in METHODS:
        model, other = network(), network()
        method, soft = made(name, model), made(name, other)
        hard = method.step((IMAGES, LABELS, torch.arange(N)), 0)
        if name == "SAF":
            with pytest.warns(UserWarning, match="another mixture"):
                soft.step((IMAGES, torch.eye(C)[LABELS], torch.arange(N)), 0)
        else:
            soft.step((IMAGES, torch.eye(C)[LABELS], torch.arange(N)), 0)
        close(model, other)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once
            assert soft.step((IMAGES, shares, torch.arange(N)), 1).loss != hard.loss


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda m: Plain(m, None), TypeError, "optimiser must be a torch.optim.Optimizer, got None"),
        (lambda m: Plain("m", descent(m)), TypeError, "model must be a torch.nn.Module, got 'm'"),
        (lambda m: Plain(m, descent(network())), ValueError, "optimiser must be made of parameters of the model, got a SGD with none of them"),
        (lambda m: Plain(m, torch.optim.LBFGS(m.parameters())), ValueError, "optimiser must be one that steps without a closure, got LBFGS"),
        (lambda m: SAF(m, descent(m), OutputStore(N, C, lag=3), start=1), ValueError, "start must be at least 2, the store's lag - 1, .* got 1"),
        (lambda m: SAF(m, descent(m), OutputStore(N, 4)).step(next(batches(0)), 0), ValueError, "logits of the 4 classes of the store, got 3"),
        (lambda m: SAF(m, descent(m), OutputStore(9, C)).step((IMAGES, LABELS, torch.arange(N)), 0), ValueError, "indices must .* in 0..8, got 11"),
        (lambda m: Uniform(m, descent(m), start=5, end=6), ValueError, "end must be an integer >= 7, got 6"),
        (lambda m: Uniform(m, descent(m), temperature=0), ValueError, "temperature must be a finite number > 0, got 0"),
        (lambda m: MESA(m, descent(m), decay=1.1), ValueError, r"decay must be a finite number in \[0, 1\], got 1.1"),
        (lambda m: Frozen(m, descent(m), teacher=3), TypeError, "teacher must be a torch.nn.Module or None, got 3"),
        (lambda m: Frozen(m, descent(m), teacher=FOUR, start=-1).step((IMAGES, LABELS), 0), ValueError, "teacher must .* model's 3 classes, got 4"),
        (lambda m: ESAM(m, descent(m), gamma=0), ValueError, "gamma must be .* > 0, got 0"),
        (lambda m: LookSAM(m, descent(m), every=0), ValueError, "every must be an integer >= 1, got 0"),
        (lambda m: SAM(m, descent(m), rho=-0.1), ValueError, "rho must be a finite number >= 0, got -0.1"),
        (lambda m: SAM(m, descent(m)).step((IMAGES, LABELS[:5]), 0), ValueError, r"labels must be whole numbers \(12,\) >= 0, got shape \(5,\)"),
        (lambda m: SAM(m, descent(m)).step((IMAGES, LABELS), -1), ValueError, "epoch must be an integer >= 0, got -1"),
        (lambda m: SAM(m, descent(m)).step({"images": IMAGES}, 0), TypeError, "batch must be"),
        (lambda m: SAM(nn.Sequential(m, nn.Flatten(0)), descent(m)).step((IMAGES, LABELS), 0), ValueError, r"logits \(12, C\), got shape \(36,\)"),
        (lambda m: SAM(m, descent(m)).step((IMAGES, torch.full((12, 3), 0.5)), 0), ValueError, "labels must be classes, or shares"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, error, text):
    model = network()
    with pytest.raises(error, match=text):
        call(model)
    assert same(model, network())


def test_samples_that_esam_takes():
    rises = torch.tensor([0.1, 0.5, -0.2, 0.9, 0.3, 0.4])
    assert saf.select_sharp(rises, 0.5).tolist() == [False, True, False, True, False, False]  # 2 of int(0.5 * 6) = 3
    assert saf.select_sharp(rises, 1).all() and saf.select_sharp(rises, 0.01).tolist() == [False] * 3 + [True] + [False] * 2
    assert saf.select_sharp(np.ones(4), 0.5).all()  # nobody rises by more than another


@pytest.mark.parametrize("name", ["SAF", "uniform", "LookSAM"])
def test_on_an_accelerator(name):
    ends = []
    for device in ("cpu", DEVICE):
        with Accelerator():
            model = network().to(device)
            options = dict(start=0, store=OutputStore(N, C, lag=1).double().to(device)) if name == "SAF" else {}
            method = METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1, foreach=False), **options)
            seen = [method.step(batch, epoch) for epoch in range(2) for batch in batches(epoch)]  # batches lie on the CPU
        ends.append([near(p) for p in model.parameters()] + [near(seen[-1].loss)])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)


# ---------------------------------------------------------------------------------------------------------------------------- sharpness


def bowl(*curvatures, at=(1.0, 1.0, 1.0)):
    """0.5 x^T diag(c) x, and its parameters."""
    x = torch.tensor(at, dtype=torch.float64)[: len(curvatures)].requires_grad_()
    c = torch.tensor(curvatures, dtype=torch.float64)
    return lambda: 0.5 * (c * x * x).sum(), {"weight": x}


@pytest.mark.parametrize("method", ["power", "lanczos"])
def test_the_top_eigenvalue_of_a_bowl(method):
    found = saf.hessian_eigenvalue(*bowl(1, 4, 9), method=method, tolerance=1e-12, iterations=60, generator=seed())
    assert found.value == pytest.approx(9, rel=1e-10) and found.converged and found.iterations == len(found.trace)
    assert found.iterations <= (3 if method == "lanczos" else 30)
    few = saf.hessian_eigenvalue(*bowl(1, 4, 9), method=method, tolerance=0, iterations=2, generator=seed())
    assert not few.converged and few.iterations == 2 and few.value < 9


def test_of_a_saddle_power_iteration_finds_the_largest_magnitude_and_lanczos_the_top():
    loss, x = bowl(1, 4, -9)
    assert saf.hessian_eigenvalue(loss, x, tolerance=1e-12, iterations=99).value == pytest.approx(-9)
    assert saf.hessian_eigenvalue(loss, x, method="lanczos").value == pytest.approx(4)


def test_power_iteration_does_not_settle_between_two_eigenvalues_of_one_size():
    """x y: 1 and -1. Its estimate stays what it was, and is neither."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    found = saf.hessian_eigenvalue(lambda: x.prod(), {"x": x}, generator=seed())
    assert not found.converged and found.iterations == 30
    top = saf.hessian_eigenvalue(lambda: x.prod(), {"x": x}, method="lanczos", generator=seed())
    assert top.converged and top.value == pytest.approx(1)


@pytest.mark.parametrize("method", ["power", "lanczos"])
@pytest.mark.parametrize("scale", [1e20, 1e-24])
def test_a_curvature_whose_square_float32_cannot_hold(method, scale):
    x = torch.zeros(3, requires_grad=True)
    found = saf.hessian_eigenvalue(lambda: scale * 0.5 * (torch.tensor([1.0, 4, 9]) * x * x).sum(), {"x": x}, method=method, generator=seed())
    assert found.converged and found.value == pytest.approx(9 * scale, rel=1e-2, abs=0)


@pytest.mark.parametrize("method", ["power", "lanczos"])
def test_second_derivatives_that_are_not_there(method):
    x = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="loss must have finite second derivatives"):
        saf.hessian_eigenvalue(lambda: (x.abs() ** 1.5).sum(), {"x": x}, method=method, generator=seed())


def test_measures_where_gradients_are_off():
    model = network()
    found = []
    for place in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with place():
            loss = saf.loss_on(model, (IMAGES.clone(), LABELS.clone()))
            found.append([saf.sam_sharpness(loss, model, 0.1), saf.adaptive_sharpness(loss, model, 0.1)])
            found[-1] += [saf.hessian_eigenvalue(loss, model, generator=seed()).value, saf.random_sharpness(loss, model, 0.1, generator=seed())]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("method", ["power", "lanczos"])
def test_against_the_exact_hessian(method):
    model = network(norm=True)
    names, weights = zip(*model.named_parameters())

    def at(*values):
        return F.cross_entropy(torch.func.functional_call(model.eval(), dict(zip(names, values)), IMAGES), LABELS)

    blocks = torch.autograd.functional.hessian(at, weights)
    sizes = [w.numel() for w in weights]
    matrix = torch.cat([torch.cat([b.reshape(n, m) for b, m in zip(row, sizes)], 1) for row, n in zip(blocks, sizes)])
    expected = torch.linalg.eigvalsh(matrix)
    assert expected[-1] > -expected[0]
    loss = saf.loss_on(model.train(), (IMAGES, LABELS))
    found = saf.hessian_eigenvalue(loss, model, method=method, tolerance=1e-9, iterations=500, generator=seed())
    assert found.value == pytest.approx(expected[-1].item(), rel=1e-4)
    assert model.training and all(p.grad is None for p in weights)


def test_a_transformer_can_be_differentiated_twice():
    """Fused attention cannot."""
    model = small_vit()
    loss = saf.loss_on(model, (torch.rand(N, 1, 8, 8, generator=seed()), LABELS))
    assert saf.hessian_eigenvalue(loss, model, method="lanczos", iterations=8, generator=seed()).value > 0


def test_a_plane_has_no_curvature():
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for method in ("power", "lanczos"):
        assert saf.hessian_eigenvalue(lambda: (x * torch.arange(3)).sum(), {"x": x}, method=method).value == 0
    one = torch.ones(1, dtype=torch.float64, requires_grad=True)
    assert saf.hessian_eigenvalue(lambda: 3 * (one**2).sum(), {"x": one}, method="lanczos") == (6.0, 1, True, (6.0,))


def test_sam_sharpness_of_a_bowl():
    loss, x = bowl(1, 4, 9)
    g = np.array([1.0, 4, 9])
    e = g / np.linalg.norm(g)
    expected = [0.5 * (g * (1 + rho * e) ** 2).sum() - 7 for rho in (0.01, 0.5, 2)]
    np.testing.assert_allclose(saf.sam_sharpness(loss, x, [0.01, 0.5, 2]), expected)
    assert saf.sam_sharpness(loss, x, 0.5).item() == pytest.approx(expected[1])
    assert saf.sam_sharpness(loss, x, 1e-6).item() == pytest.approx(1e-6 * np.linalg.norm(g), rel=1e-5)
    assert torch.equal(x["weight"], torch.ones(3).double()) and x["weight"].grad is None


def test_random_sharpness_of_a_bowl():
    """At the minimum its mean is rho^2 tr(H) / (2 P)."""
    loss, x = bowl(1, 4, 9, at=(0.0, 0.0, 0.0))
    each = saf.random_sharpness(loss, x, [0.1, 0.2], directions=400, each=True, generator=seed())
    spread = each[:, 0].std() / math.sqrt(400)
    assert each.shape == (400, 2) and abs(each[:, 0].mean() - 0.01 * 14 / 6) < 4 * spread < 0.01
    np.testing.assert_allclose(each[:, 1], 4 * each[:, 0])
    mean = saf.random_sharpness(loss, x, torch.tensor([0.1, 0.2]), directions=400, generator=seed())
    torch.testing.assert_close(mean, torch.as_tensor(each).mean(0))


def test_the_adaptive_measure_does_not_see_what_only_rescales():
    """Two layers without biases and a ReLU between: times 10 and divided by 10 is the same function. SAM's measure and the Hessian see another one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, C, bias=False)).double()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(10), other[2].weight.div_(10)
    losses = [saf.loss_on(one, (IMAGES, LABELS)) for one in (model, other)]
    torch.testing.assert_close(losses[0](), losses[1]())
    pairs = {name: [measure(loss, one) for loss, one in zip(losses, (model, other))] for name, measure in {
        "adaptive": lambda loss, one: saf.adaptive_sharpness(loss, one, 0.5, eta=0), "sam": lambda loss, one: saf.sam_sharpness(loss, one, 0.5),
        "hessian": lambda loss, one: torch.tensor(saf.hessian_eigenvalue(loss, one, method="lanczos").value),
    }.items()}  # fmt: skip
    torch.testing.assert_close(*pairs["adaptive"])
    assert all(max(pair) > 1.5 * min(pair) > 0 for name, pair in pairs.items() if name != "adaptive")


def test_adaptive_sharpness_by_hand():
    loss, x = bowl(1, 4, 9, at=(1.0, -2.0, 0.5))
    value, g = np.array([1.0, -2, 0.5]), np.array([1.0, -8, 4.5])
    for name, t in (("weight", np.abs(value) + 0.01), ("bias", np.ones(3))):
        there = value + 0.3 * t**2 * g / np.linalg.norm(t * g)
        expected = 0.5 * (np.array([1, 4, 9]) * there**2).sum() - loss().item()
        assert saf.adaptive_sharpness(loss, {name: x["weight"]}, 0.3).item() == pytest.approx(expected)


def test_the_mode_of_a_loss():
    model = network(norm=True)
    model[1].eval()
    before = copy.deepcopy(model)
    values = {mode: saf.loss_on(model, (IMAGES, LABELS, torch.arange(N)), mode=mode)() for mode in ("eval", "train")}
    assert same(model, before) and [m.training for m in model] == [True, False, True, True, True]
    torch.testing.assert_close(values["eval"], F.cross_entropy(copy.deepcopy(model).eval()(IMAGES), LABELS))
    torch.testing.assert_close(values["train"], F.cross_entropy(copy.deepcopy(model).train()(IMAGES), LABELS))
    assert values["eval"] != values["train"]
    smooth = saf.loss_on(model, (IMAGES, LABELS), label_smoothing=0.3)()
    torch.testing.assert_close(smooth, F.cross_entropy(copy.deepcopy(model).eval()(IMAGES), LABELS, label_smoothing=0.3))


@pytest.mark.parametrize("make", [lambda: nn.InstanceNorm2d(3, track_running_stats=True), lambda: spectral_norm(nn.Conv2d(3, 3, 1))])
def test_whatever_a_model_notes_follows_the_first_pass_only(make):
    """Not batch norm alone has buffers that a pass in train mode changes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), make(), nn.Flatten(), nn.Linear(3 * 4 * 5, C))
    pictures, first = torch.randn(N, 1, 6, 7, generator=seed()), copy.deepcopy(model)
    saf.loss_on(model, (pictures, LABELS), mode="train")()
    assert same(model, first)
    other = copy.deepcopy(model)
    for one, method in ((model, Plain), (other, SAM)):
        method(one, descent(one)).step((pictures, LABELS), 0)
    notes = [dict(one.named_buffers()) for one in (first, model, other)]
    for name in notes[0]:
        assert torch.equal(notes[1][name], notes[2][name]) and (name.endswith("tracked") or not torch.equal(notes[1][name], notes[0][name])), name


def test_filters_of_a_direction_are_as_long_as_those_of_the_weights():
    model = small_resnet()
    way = saf.filter_normalised(model, generator=seed())
    for name, p in model.named_parameters():
        if p.ndim < 2:
            assert not way[name].any()
        else:
            torch.testing.assert_close(way[name].flatten(1).norm(dim=1), p.detach().flatten(1).norm(dim=1))
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).mul_(3)
    assert torch.allclose(next(iter(saf.filter_normalised(other, generator=seed()).values())), 3 * next(iter(way.values())))


def test_the_landscape_of_a_bowl():
    loss, x = bowl(1, 4, 9)
    first, second = ({"weight": torch.tensor(way).double()} for way in ([1.0, 0, 0], [0, 2.0, 0]))
    a, b = np.linspace(-1, 1, 3), torch.tensor([0.0, 0.5])
    found = saf.landscape(loss, x, first, second, a, b)
    expected = [[0.5 * ((1 + i) ** 2 + 4 * (1 + 2 * j) ** 2 + 9) for j in (0, 0.5)] for i in a]
    np.testing.assert_allclose(found, expected)
    assert isinstance(found, np.ndarray) and found.shape == (3, 2) and torch.equal(x["weight"], torch.ones(3).double())
    assert torch.is_tensor(saf.landscape(loss, x, first, second, b, a))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda loss, x: saf.sam_sharpness(3, x, 0.1), TypeError, "loss must be a function without arguments, got 3"),
        (lambda loss, x: saf.sam_sharpness(lambda: 3.0, x, 0.1), TypeError, "loss must give a tensor with one floating-point number, got 3.0"),
        (lambda loss, x: saf.sam_sharpness(lambda: torch.tensor(math.nan), x, 0.1), ValueError, "loss must give a finite number, got nan"),
        (lambda loss, x: saf.sam_sharpness(lambda: torch.tensor(1.0), x, 0.1), ValueError, "loss must depend on parameters"),
        (lambda loss, x: saf.sam_sharpness(loss, [x["weight"]], 0.1), TypeError, "parameters must be a torch.nn.Module, or .* by their names, got"),
        (lambda loss, x: saf.sam_sharpness(loss, {"w": torch.ones(3)}, 0.1), TypeError, "parameters must be .* got float32 tensor of shape .* for 'w'"),
        (lambda loss, x: saf.sam_sharpness(loss, nn.Linear(2, 2).requires_grad_(False), 0.1), ValueError, "parameters must be .*, got none"),
        (lambda loss, x: saf.sam_sharpness(loss, x, math.inf), ValueError, "rho must be a finite number, got inf"),
        (lambda loss, x: saf.hessian_eigenvalue(loss, x, iterations=0), ValueError, "iterations must be an integer >= 1, got 0"),
        (lambda loss, x: saf.landscape(loss, x, {}, {}, [0.0], [0.0]), ValueError, "first must have a tensor for each of the 1 parameters .* at weight"),
        (lambda loss, x: saf.landscape(loss, x, x, {"weight": torch.ones(2)}, [0.0], [0.0]), ValueError, r"second\['weight'\] must be .* \(3,\), got shape"),
        (lambda loss, x: saf.loss_on(network(), [IMAGES]), ValueError, "batch must be"),
    ],
)  # fmt: skip
def test_what_measures_refuse(call, error, text):
    loss, x = bowl(1, 4, 9)
    with pytest.raises(error, match=text):
        call(loss, x)
