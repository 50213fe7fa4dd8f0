"""k-NN augmentation against hand examples, scikit-learn's neighbours, limits and symmetries."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from helpers.methods import knn_augmentation as knn
from helpers.methods.knn_augmentation import augmentation, neighbours
from tests.accelerator import DEVICE, Accelerator, near

torch.set_num_threads(1)


def example(count=60, width=7, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    labels[:classes] = torch.arange(classes)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) + labels[:, None] * 0.4, labels


def cut(store, queries, k, temperature, **options):
    return store.distribution(queries, k=k, temperature=temperature, **options)


# ------------------------------------------------------------------------------------------------------------------ the distribution


@pytest.mark.parametrize("temperature", [1e-4, 1e-2, 1.0, 50.0])
def test_rows_are_probabilities_of_at_most_k_classes(temperature):
    features, labels = example(classes=5)
    p = cut(knn.Datastore(features, labels), example(20, seed=1)[0], 4, temperature)
    assert p.shape == (20, 5) and torch.isfinite(p).all() and (p >= 0).all()
    assert torch.allclose(p.sum(1), torch.ones(20, dtype=p.dtype)) and ((p > 0).sum(1) <= 4).all()


def test_limits_in_k_and_temperature():
    features, labels = example()
    queries = example(15, seed=1)[0]
    store = knn.Datastore(features, labels)
    nearest = labels[store.search(queries, 1).rows[:, 0]]
    one_hot = torch.nn.functional.one_hot(nearest, 3).double()
    for temperature in (1e-4, 1.0, 100.0):
        assert torch.allclose(cut(store, queries, 1, temperature), one_hot)
    assert torch.allclose(cut(store, queries, 9, 1e-6), one_hot)
    votes = torch.stack([torch.bincount(labels[rows], minlength=3) for rows in store.search(queries, 9).rows]).double() / 9
    assert torch.allclose(cut(store, queries, 9, 1e9), votes, atol=1e-6)


def test_worked_example():
    distances, labels = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64), torch.tensor([[0, 1, 1]])
    p = knn.knn_distribution(distances, labels, 2)
    assert torch.allclose(p, torch.tensor([[0.66524, 0.33476]], dtype=torch.float64), atol=1e-5)
    assert knn.knn_distribution(distances, labels, 2, temperature=0.1)[0, 0].item() == pytest.approx(0.999955, abs=1e-6)
    mixed = knn.interpolate(torch.tensor([[0.3, 0.7]], dtype=torch.float64), p, 0.25)
    assert torch.allclose(mixed, torch.tensor([[0.39131, 0.60869]], dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize("k, temperature", [(1, 1.0), (5, 0.1), (12, 0.7)])
def test_against_scikit_learn(k, temperature):
    features, labels = example()
    queries = example(25, seed=2)[0]
    store = knn.Datastore(features, labels)
    centred, _ = knn.normalise(queries, mean=store.mean)
    peer = KNeighborsClassifier(k, weights=lambda d: np.exp(-(d**2) / temperature), algorithm="brute").fit(store.features.numpy(), labels.numpy())
    assert np.allclose(cut(store, queries, k, temperature).numpy(), peer.predict_proba(centred.numpy()), atol=1e-9)


def test_l2_at_twice_the_temperature_is_cosine():
    features, labels = example()
    queries = example(25, seed=3)[0]
    for norm in ("centre", "l2"):
        store = knn.Datastore(features, labels, norm=norm)
        assert torch.allclose(cut(store, queries, 6, 0.4), cut(store, queries, 6, 0.2, similarity="cosine"))


def test_cosine_of_features_as_they_are_is_their_product():
    features, labels = example()
    queries = example(9, seed=3)[0]
    store, own = knn.Datastore(20 * features, labels, norm="none"), torch.arange(9)
    for options, struck in ((dict(), False), (dict(exclude=own), True)):
        products = 20 * queries @ features.T
        products = products.scatter(1, own[:, None], -torch.inf) if struck else products
        best, rows = products.topk(6)
        wanted = torch.zeros(9, 3, dtype=torch.float64).scatter_add(1, labels[rows], (best / 0.5).softmax(1))
        assert torch.allclose(cut(store, queries, 6, 0.5, similarity="cosine", **options), wanted)
    unit = knn.normalise(features, norm="l2")[0]
    assert torch.allclose(
        cut(knn.Datastore(unit, labels, norm="none"), unit[:5], 6, 0.2, similarity="cosine"),
        cut(knn.Datastore(unit, labels, norm="l2"), unit[:5], 6, 0.2, similarity="cosine"),
    )
    assert cut(store, queries[:0], 6, 0.5, similarity="cosine").shape == (0, 3)


def test_centring_makes_shift_and_scale_invisible():
    features, labels = example()
    queries, shift = example(25, seed=4)[0], torch.arange(7.0, dtype=torch.float64)
    plain = cut(knn.Datastore(features, labels), queries, 6, 0.2)
    assert torch.allclose(cut(knn.Datastore(5 * features + shift, labels), 5 * queries + shift, 6, 0.2), plain)
    assert not torch.allclose(cut(knn.Datastore(features + shift, labels, norm="l2"), queries + shift, 6, 0.2), plain)
    store = knn.Datastore(features, labels)
    assert torch.allclose(store.mean, features.mean(0)) and torch.allclose(store.features.norm(dim=1), torch.ones(60, dtype=torch.float64))
    assert torch.allclose(cut(store, queries[:1], 6, 0.2), plain[:1])  # the mean is the store's, not the queries'


def test_order_of_store_and_classes():
    features, labels = example()
    queries, order = example(25, seed=5)[0], torch.randperm(60, generator=torch.Generator().manual_seed(6))
    plain = cut(knn.Datastore(features, labels), queries, 6, 0.2)
    assert torch.allclose(cut(knn.Datastore(features[order], labels[order]), queries, 6, 0.2), plain)
    names = torch.tensor([2, 0, 1])
    assert torch.allclose(cut(knn.Datastore(features, names[labels]), queries, 6, 0.2)[:, names], plain)


# ------------------------------------------------------------------------------------------------------------------ without cancellation


def exactly(features, queries, norm):
    """Squared distances in double precision, as differences."""
    stored, asked = features.double(), queries.double()
    if norm != "none":
        mean = stored.mean(0) if norm == "centre" else 0
        stored, asked = (torch.nn.functional.normalize(rows - mean) for rows in (stored, asked))
    return torch.from_numpy(cdist(asked.numpy(), stored.numpy(), "sqeuclidean"))


@pytest.mark.parametrize("index", [None, "faiss"])
@pytest.mark.parametrize("norm", ["centre", "l2", "none"])
@pytest.mark.parametrize("dtype, offset", [(torch.float32, 1.0), (torch.float32, 1e3), (torch.float64, 1.0), (torch.float64, 1e7)])
def test_features_far_from_zero(dtype, offset, norm, index):
    generator = torch.Generator().manual_seed(3)
    features = (torch.randn(300, 6, generator=generator, dtype=torch.float64) + offset).to(dtype)
    queries = (features[:40].double() + 0.1 * torch.randn(40, 6, generator=generator, dtype=torch.float64)).to(dtype)
    truth = exactly(features, queries, norm).sort(stable=True)
    store = knn.Datastore(features, torch.arange(300) % 3, norm=norm, index=index)
    found = store.search(queries, 4)
    assert torch.equal(found.rows, truth.indices[:, :4])
    assert torch.allclose(found.distances.double(), truth.values[:, :4], rtol=1e-3 if norm != "none" and offset > 1 else 1e-5, atol=0)
    scale = float(truth.values[:, 3].median())
    weights = torch.zeros(40, 3, dtype=torch.float64).scatter_add(1, truth.indices[:, :4] % 3, (-truth.values[:, :4] / scale).softmax(1))
    votes = store.distribution(queries, k=4, temperature=scale).double()
    assert torch.allclose(votes, weights, atol=1e-3)
    labels = torch.arange(40) % 3
    ours, wanted = (knn.focal_like_loss(torch.zeros(40, 3, dtype=torch.float64), labels, p, gamma=2) for p in (votes, weights))
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-3)
    assert knn.knn_loss(votes, labels).clamp(max=5).numpy() == pytest.approx(knn.knn_loss(weights, labels).clamp(max=5).numpy(), abs=0.05)


@pytest.mark.parametrize("index", [None, "faiss"])
def test_tight_clusters_far_apart(index):
    generator = torch.Generator().manual_seed(4)
    centres = 1e5 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    features = centres.repeat_interleave(30, 0) + 1e-3 * torch.randn(150, 3, generator=generator, dtype=torch.float64)
    queries = features[::7] + 1e-4 * torch.randn(22, 3, generator=generator, dtype=torch.float64)
    truth = exactly(features, queries, "none").sort(stable=True)
    found = knn.Datastore(features, torch.arange(150) % 2, norm="none", index=index).search(queries, 12)
    assert torch.equal(found.rows, truth.indices[:, :12]) and torch.allclose(found.distances.double(), truth.values[:, :12], rtol=1e-6, atol=0)


def test_single_precision_votes_as_double_does_at_the_lowest_temperature():
    features, labels = example(400, 32)
    features, queries = features.float(), example(30, 32, seed=1)[0].float()
    single, double = (cut(knn.Datastore(rows, labels), asked, 20, 1e-4) for rows, asked in ((features, queries), (features.double(), queries.double())))
    assert single.dtype == torch.float32 and torch.allclose(single.double(), double, atol=2e-3)


def test_an_autocast_around_the_search_changes_nothing():
    features, labels = example(300)
    store, queries = knn.Datastore(features.float(), labels), example(20, seed=1)[0].float()
    plain = store.search(queries, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = store.search(queries, 5)
    assert torch.equal(plain.rows, within.rows) and torch.equal(plain.distances, within.distances)


def test_huge_and_tiny_features():
    features, labels = example(50)
    queries = example(9, seed=1)[0]
    truth = exactly(features, queries, "none").sort(stable=True).indices[:, :3]
    for dtype, scale in ((torch.float32, 1e30), (torch.float32, 1e-30), (torch.float64, 1e120)):
        found = knn.Datastore((features * scale).to(dtype), labels, norm="none").search((queries * scale).to(dtype), 3)
        assert torch.equal(found.rows, truth) and torch.isfinite(found.distances).all()
    with pytest.raises(ValueError, match="features must be numbers .* of at most 1e\\+150 in size"):
        knn.Datastore(features * 1e200, labels)
    long = torch.tensor([[2**40 + 1], [2**40 + 2], [2**40 + 4]])  # whole numbers that single precision cannot tell apart
    assert knn.Datastore(long, [0, 1, 2], norm="none").search(long + 1, 1).rows.tolist() == [[1], [1], [2]]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_temperature(temperature, dtype):
    distances, labels = torch.tensor([[0.5, 0.5, 2.0], [3.0, 1.0, 1e6]], dtype=dtype), torch.tensor([[0, 1, 2], [0, 1, 2]])
    p = knn.knn_distribution(distances, labels, 3, temperature=temperature)
    wanted = torch.full((2, 3), 1 / 3) if temperature > 1 else torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    assert torch.allclose(p, wanted.to(dtype)) and p.dtype == dtype
    features, y = example(40)
    votes = knn.Datastore(features.to(dtype), y).distribution(features[:5].to(dtype), k=3, temperature=temperature, similarity="cosine")
    assert torch.isfinite(votes).all() and torch.allclose(votes.sum(1), torch.ones(5, dtype=dtype))


def test_a_missing_neighbour_has_no_vote():
    p = knn.knn_distribution(torch.tensor([[0.5, torch.inf]]), torch.tensor([[1, 0]]), 2)
    assert p.tolist() == [[0.0, 1.0]]


# ------------------------------------------------------------------------------------------------------------------ leave-one-out


@pytest.mark.parametrize("index", [None, "faiss"])
def test_leaving_one_out_is_a_store_without_it(index):
    features, labels = example()
    store = knn.Datastore(features, labels, index=index)
    p = cut(store, features, 5, 0.3, exclude=torch.arange(60))
    for i in (0, 17, 59):
        rest = torch.arange(60) != i
        other = knn.Datastore(features[rest], labels[rest], num_classes=3)
        other.features, other.mean = store.features[rest], store.mean  # the same mean
        other._squares = other.features.square().sum(1)
        assert torch.allclose(cut(other, features[i : i + 1], 5, 0.3)[0].double(), p[i].double(), atol=1e-5)


@pytest.mark.parametrize("index", [None, "faiss"])
def test_leaving_one_out_does_not_depend_on_the_order(index):
    features, labels = example()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(7))
    ids = 1000 + torch.arange(60)
    plain = cut(knn.Datastore(features, labels, ids=ids, index=index), features, 5, 0.3, exclude=ids)
    mixed = cut(knn.Datastore(features[order], labels[order], ids=ids[order], index=index), features, 5, 0.3, exclude=ids)
    assert torch.allclose(plain, mixed, atol=1e-6)

    def slipped(features, labels, ids):
        found = knn.slipped_labels(knn.Datastore(features, labels, ids=ids), features, 5, ids)
        return knn.knn_distribution(found.distances, found.labels, 3, temperature=0.3)

    assert not torch.allclose(slipped(features, labels, ids)[order], slipped(features[order], labels[order], ids[order]), atol=1e-2)


def test_duplicates_are_neighbours_and_the_own_row_is_not():
    features, labels = example(8)
    doubled, ids = torch.cat([features, features]), torch.arange(16)
    for index in (None, "faiss"):
        found = knn.Datastore(doubled, torch.cat([labels, labels]), ids=ids, index=index).search(doubled, 3, exclude=ids)
        assert not (found.rows == ids[:, None]).any()
        assert torch.equal(found.rows[:, 0], (ids + 8) % 16) and found.distances[:, 0].max() < 1e-5


@pytest.mark.parametrize(("stored", "k"), [(1, 1), (5, 3), (127, 127), (128, 4), (129, 129), (700, 20), (3000, 1), (3000, 30), (1000, 1000)])
@pytest.mark.parametrize("levels", [1, 4, 10**6])
def test_of_equally_near_ones_the_earlier_stored(stored, k, levels):
    generator = torch.Generator().manual_seed(stored + k)
    values = torch.randint(levels, (7, stored), generator=generator).double()
    values[:, stored // 2] = torch.inf
    expected = values.sort(stable=True)
    found, rows = neighbours._smallest(values, k)
    assert torch.equal(rows, expected.indices[:, :k]) and torch.equal(found, expected.values[:, :k])


def test_ties_in_a_search_go_to_the_earlier_stored():
    found = knn.Datastore(torch.eye(4).repeat(100, 1), torch.arange(4).repeat(100), norm="none").search(torch.eye(4), 5)
    assert found.rows.tolist() == [[c, c + 4, c + 8, c + 12, c + 16] for c in range(4)]


def test_faiss_and_torch_agree():
    features, labels = example(200, 16, 4)
    queries = example(30, 16, 4, seed=8)[0]
    exact, other = (knn.Datastore(features, labels, index=index).search(queries, 10) for index in (None, "faiss"))
    assert torch.equal(exact.rows, other.rows) and torch.allclose(exact.distances.float(), other.distances, atol=1e-5)


def test_large_indexes_find_most_neighbours():
    generator = torch.Generator().manual_seed(9)
    centres = torch.randn(50, 12, generator=generator)
    features = (centres[torch.randint(50, (5000,), generator=generator)] + 0.3 * torch.randn(5000, 12, generator=generator)).float()
    queries = features[:200] + 0.01
    exact = knn.build_index(features, "Flat").search(queries.numpy(), 10)[1]
    lists = knn.build_index(features, "IVF64,Flat").search(queries.numpy(), 10)[1]
    shards = knn.sharded_index(features, 3).search(queries.numpy(), 10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, lists)])
    assert recall > 0.9 and np.array_equal(np.sort(exact, 1), np.sort(shards, 1))


def test_how_many_lists_are_searched(monkeypatch):
    features, labels = example(2000, 4)
    features = features.float()
    assert knn.build_index(features, "IVF40,Flat").nprobe == 5 and knn.build_index(features, "IVF4,Flat").nprobe == 1
    within = knn.build_index(features, "PCA2,IVF16,Flat")
    assert neighbours.faiss.extract_index_ivf(within).nprobe == 2
    assert type(knn.build_index(features)).__name__ == "IndexFlat"
    monkeypatch.setattr(neighbours, "_EXACT_UP_TO", 1999)
    found = knn.build_index(features)
    assert (found.nlist, found.nprobe) == (int(4 * 2000**0.5), int(4 * 2000**0.5) // 8)
    assert neighbours.faiss.extract_index_ivf(knn.sharded_index(features, 2, "IVF24,Flat").at(1)).nprobe == 3
    assert knn.Datastore(features, labels, index="IVF40,Flat").index.nprobe == 5


def test_where_lists_hold_too_few_all_are_asked():
    features, labels = example(200, 2)
    store = knn.Datastore(features, labels, index="IVF50,Flat")
    store.index.nprobe = 1
    found = store.search(features[:30], 40)
    exact = knn.Datastore(features, labels).search(features[:30], 40)
    lacking = (found.rows != exact.rows).any(1)
    assert torch.isfinite(found.distances).all() and lacking.float().mean() < 0.2  # a list of four points cannot serve forty


def test_faiss_says_where_single_precision_is_too_coarse():
    features, _ = example(50)
    with pytest.warns(UserWarning, match="single precision"):
        knn.build_index(features + 1e4)
    with pytest.warns(UserWarning, match="single precision"):
        knn.sharded_index(features + 1e4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        knn.build_index(features + 1), knn.Datastore(features + 1e4, example(50)[1], norm="none", index="faiss")


def test_without_faiss_the_exact_search_is_left(monkeypatch):
    monkeypatch.setattr(neighbours, "faiss", None)
    features, labels = example(30)
    assert knn.Datastore(features, labels).search(features, 1).rows[:, 0].tolist() == list(range(30))
    for call in (lambda: knn.build_index(features), lambda: knn.sharded_index(features, 2), lambda: knn.Datastore(features, labels, index="faiss")):
        with pytest.raises(ImportError, match="pip install faiss-cpu"):
            call()


@pytest.mark.parametrize("kind", ["flat", "IVF5000,Flat", "PQ5"])
def test_indexes_that_faiss_cannot_make(kind):
    features, labels = example(60)
    for call, name in ((lambda: knn.build_index(features, kind), "kind"), (lambda: knn.Datastore(features, labels, index=kind), "index")):
        with pytest.raises(ValueError, match=f'{name} must be "auto" or a factory string of faiss'):
            call()


# ------------------------------------------------------------------------------------------------------------------ what goes in, what comes out


def test_arrays_for_arrays_and_tensors_for_tensors():
    features, labels = example()
    queries = example(9, seed=1)[0]
    p = cut(knn.Datastore(features, labels), queries, 5, 0.3)
    for given in (queries.numpy(), queries.tolist(), pd.DataFrame(queries.numpy(), index=range(50, 59)), queries.numpy()[::-1].copy()[::-1]):
        for stored, known in ((features, labels), (features.numpy(), labels.numpy()), (pd.DataFrame(features.numpy()), pd.Series(labels.numpy()))):
            found = cut(knn.Datastore(stored, known), given, 5, 0.3)
            assert isinstance(found, np.ndarray) and np.array_equal(found, p.numpy())
    assert isinstance(knn.Datastore(features.numpy(), labels).search(queries.numpy(), 3).rows, torch.Tensor)
    logits, hardness = queries[:, :3], knn.knn_loss(p, torch.arange(9) % 3)
    for call in (
        lambda kind: knn.normalise(kind(queries))[0], lambda kind: knn.normalise(kind(queries))[1], lambda kind: knn.knn_loss(kind(p), np.arange(9) % 3),
        lambda kind: knn.interpolate(kind(p), p, 0.3), lambda kind: knn.interpolate(kind(p), p.numpy(), 1),
        lambda kind: knn.reweighted_loss(kind(logits), np.arange(9) % 3, hardness), lambda kind: knn.focal_like_loss(kind(logits), np.arange(9) % 3, p),
        lambda kind: knn.knn_distribution(kind(queries.abs()), np.ones((9, 7), int), 2),
    ):  # fmt: skip
        ours, theirs = call(lambda x: x), call(lambda x: x.numpy())
        assert isinstance(ours, torch.Tensor) and isinstance(theirs, np.ndarray) and np.array_equal(ours.numpy(), theirs)


def test_half_precision_and_what_wants_a_gradient():
    features, labels = example()
    store = knn.Datastore(features.to(torch.bfloat16), labels)
    found = store.distribution(features[:9].half().requires_grad_(), k=5, temperature=0.3)
    assert found.dtype == torch.float32 and not found.requires_grad
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).half().requires_grad_()
    loss = knn.reweighted_loss(logits, [0, 1, 2, 0], torch.ones(4).half())
    loss.backward()
    assert loss.dtype == torch.float32 and logits.grad.abs().sum() > 0
    p = logits.detach().softmax(1)
    assert torch.allclose(knn.interpolate(p, p, 0.4), p, atol=1e-3) and knn.interpolate(p, p, 0.4).dtype == torch.float16
    leaf = torch.full((2, 2), 0.5, requires_grad=True)
    knn.interpolate(leaf, leaf.detach(), 0.25).sum().backward()
    assert torch.equal(leaf.grad, torch.full((2, 2), 0.75))


@pytest.mark.parametrize("index", [None, "faiss"])
def test_features_on_an_accelerator(index):
    features, labels = example()
    queries, ids = example(9, seed=1)[0], torch.arange(60)
    plain = knn.Datastore(features, labels, index=index)
    p = plain.distribution(queries, k=5, temperature=0.3)
    with Accelerator():
        far = [x.to(DEVICE) for x in (features, labels, queries)]
        store = knn.Datastore(far[0], labels, index=index)
        found = store.distribution(far[2], k=5, temperature=0.3)
        assert found.device == DEVICE and torch.equal(near(found), p)
        assert torch.equal(store.distribution(queries, k=5, temperature=0.3), p)  # queries of the CPU are answered there
        assert torch.equal(near(plain.distribution(far[2], k=5, temperature=0.3)), p)
        assert torch.equal(near(store.search(far[0], 3, exclude=ids).rows), plain.search(features, 3, exclude=ids).rows)
        truth, hard = far[1][:9], knn.knn_loss(found, far[1][:9])
        for weights in (None, [1.0, 2.0, 3.0]):
            losses = [
                knn.reweighted_loss(z, y, h, class_weights=weights) for z, y, h in ((far[2][:, :3], truth, hard), (queries[:, :3], labels[:9], near(hard)))
            ]
            assert torch.equal(near(losses[0]), losses[1])
        assert torch.equal(near(knn.focal_like_loss(far[2][:, :3], labels[:9], p)), knn.focal_like_loss(queries[:, :3], labels[:9], p))
        assert torch.equal(near(knn.interpolate(found, p, 0.3)), knn.interpolate(p, p, 0.3))
        assert np.array_equal(knn.knn_loss(list(found), labels[:9]), knn.knn_loss(p, labels[:9]).numpy())  # a list of rows
        grids = dict(ks=[1, 4], temperatures=[0.3], weights=[0.0, 0.5])
        assert knn.tune(store, far[2], found, truth, **grids) == knn.tune(plain, queries, p, labels[:9], **grids)
        assert torch.equal(near(knn.slipped_labels(store, far[0], 3, ids).labels), knn.slipped_labels(plain, features, 3, ids).labels)


def test_the_store_keeps_what_it_was_given():
    features, labels = (x.numpy().copy() for x in example())
    ids = np.arange(60) + 7
    store = knn.Datastore(features, labels, norm="none", ids=ids)
    before = store.features.clone(), store.labels.clone()
    features[:] = labels[:] = ids[:] = 0
    assert store.ids.tolist() == list(range(7, 67))
    assert torch.equal(store.features, before[0]) and torch.equal(store.labels, before[1])


def test_labels_that_number_too_many_classes():
    features, labels = example()
    with pytest.raises(ValueError, match="labels must number the classes from 0 on, at most 1048576 of them, got 1099511627776"):
        knn.Datastore(features, labels * 2**39)
    with pytest.raises(ValueError, match="num_classes must be an integer in 1..1048576"):
        knn.Datastore(features, labels, num_classes=2**40)
    assert knn.Datastore(features, labels, ids=torch.arange(60) - 2**40).search(features[:1], 1, exclude=[-(2**40)]).rows.item() > 0
    names = np.array([2**40, 7, -3])[labels]
    model = knn.KNNAugmentedClassifier(k=3, temperature=0.5, weight=1.0).fit(features.numpy(), names)
    assert set(model.predict(features.numpy())) == set(names)


def test_the_lines_of_the_readme():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    block = next(code for code in re.findall(r"^```python\n(.*?)^```", readme, re.S | re.M) if "KNNAugmentedClassifier(my_classifier)" in code)
    features, labels = (x.numpy() for x in example(150))
    others, y = (x.numpy() for x in example(40, seed=1))
    said = dict(my_classifier=LogisticRegression(), features=features, labels=labels, others=others, y=y)
    exec(block, said)
    assert isinstance(said["after"], np.ndarray) and 0.4 < (said["after"].argmax(1) == y).mean() <= 1


# ------------------------------------------------------------------------------------------------------------------ the losses


def two_rows():
    logits = torch.tensor([[0.2, 1.0, -0.5], [0.3, 0.1, 0.0]], dtype=torch.float64, requires_grad=True)
    return logits, torch.tensor([2, 0])


def test_worked_loss():
    probabilities = torch.tensor([[0.25, 0.75], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    hardness = knn.knn_loss(probabilities, torch.tensor([0, 0, 0]))
    assert hardness.tolist() == pytest.approx([1.386294, 100, 0], abs=1e-6)
    p = np.exp(-0.5)
    logits = torch.log(torch.tensor([[p, 1 - p]], dtype=torch.float64))  # its cross-entropy is 0.5
    for k, wanted in ((0, 0.569315), (1, 0.5 * 11), (2, 0.5)):
        assert knn.reweighted_loss(logits, [0], hardness[k : k + 1], alpha=0.1).item() == pytest.approx(wanted, abs=1e-6)
    assert knn.reweighted_loss(logits, [0], hardness[1:2]).item() == pytest.approx(1.0)  # alpha = 0.01: twice


def test_alpha_zero_is_cross_entropy_bit_for_bit():
    logits, labels = two_rows()
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.equal(knn.reweighted_loss(logits, labels, torch.tensor([3.0, 100.0], dtype=torch.float64), alpha=0), plain)


def test_gradient_is_a_learning_rate_for_each_example():
    logits, labels = two_rows()
    near = torch.tensor([[0.1, 0.2, 0.7], [0.05, 0.9, 0.05]], dtype=torch.float64, requires_grad=True)
    hardness = knn.knn_loss(near, labels)
    (ours,) = torch.autograd.grad(knn.reweighted_loss(logits, labels, hardness, alpha=0.3), logits)
    (plain,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), logits)
    assert torch.allclose(ours, (1 + 0.3 * hardness)[:, None] * plain)
    assert not hardness.requires_grad and near.grad is None
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    weighted = knn.reweighted_loss(logits, labels, hardness, alpha=0.3, class_weights=weights)
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    w = weights[labels]
    assert weighted.item() == pytest.approx(((1 + 0.3 * w * hardness) * w * ce).mean().item())


def test_focal_like_loss():
    logits, labels = two_rows()
    sure = torch.nn.functional.one_hot(labels, 3).double()
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.allclose(knn.focal_like_loss(logits, labels, sure, gamma=0), plain)
    loss = knn.focal_like_loss(logits, labels, sure * (1 + 1e-12), gamma=2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and gradient.abs().max() == 0
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    near = torch.tensor([[0.1, 0.2, 0.7], [0.05, 0.9, 0.05]], dtype=torch.float64)
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    wanted = (3 * 0.3**1.5 * ce[0] + 1 * 0.95**1.5 * ce[1]) / 2  # once each, and the mean over the examples
    for given in (weights, {2: 3.0, 0: 1.0, 1: 2.0}, pd.Series([2.0, 1.0, 3.0], index=[1, 0, 2]), pd.Series([1.0, 2.0, 3.0], index=list("abc"))):
        assert knn.focal_like_loss(logits, labels, near, gamma=1.5, class_weights=given).item() == pytest.approx(wanted.item())
    half = torch.full((2, 3), 0.5, dtype=torch.float64)
    assert torch.allclose(knn.focal_like_loss(logits, labels, half, gamma=2), plain / 4)


# ------------------------------------------------------------------------------------------------------------------ mixing and tuning


def test_ends_of_the_mixture_and_the_choice_never_loses_on_validation():
    features, labels = example(80)
    held, truth = example(60, seed=10)
    classifier = LogisticRegression().fit(features[:20].numpy(), labels[:20].numpy())
    p = torch.from_numpy(classifier.predict_proba(held.numpy()))
    store = knn.Datastore(features, labels)
    near = cut(store, held, 5, 0.2)
    assert torch.equal(knn.interpolate(p, near, 0), p) and torch.equal(knn.interpolate(p, near, 1), near)
    best = knn.tune(store, held, p, truth)
    again = cut(store, held, best.k, best.temperature)
    assert best.accuracy == pytest.approx(float((knn.interpolate(p, again, best.weight).argmax(1) == truth).double().mean()))
    assert best.accuracy >= max(best.knn_accuracy, best.classifier_accuracy)
    assert best.knn_accuracy == pytest.approx(float((again.argmax(1) == truth).double().mean()))


def test_a_choice_on_the_stored_examples_leaves_each_out():
    features, labels = example(60)
    ids = torch.arange(60) + 500
    store = knn.Datastore(features, labels, ids=ids)
    p = torch.full((60, 3), 1 / 3, dtype=torch.float64)
    grids = dict(ks=[1, 5], temperatures=[0.3], weights=[1.0])
    with_itself, without = knn.tune(store, features, p, labels, **grids), knn.tune(store, features, p, labels, exclude=ids, **grids)
    assert with_itself.k == 1 and with_itself.knn_accuracy == 1  # each finds itself
    alone = {k: float((store.distribution(features, k=k, temperature=0.3, exclude=ids).argmax(1) == labels).double().mean()) for k in (1, 5)}
    assert without.knn_accuracy == max(alone.values()) < 0.9 and alone[without.k] == without.knn_accuracy
    assert max(k for k in (knn.tune(store, features, p, labels, exclude=ids, ks=[59]).k,)) == 59
    with pytest.raises(ValueError, match="ks must be an integer in 1..59"):
        knn.tune(store, features, p, labels, exclude=ids, ks=[60])


def test_grids_are_read_once_and_one_hot_integers_are_probabilities():
    features, labels = example(80)
    held, truth = example(60, seed=10)
    store, sure = knn.Datastore(features, labels), torch.nn.functional.one_hot(truth.roll(1), 3)
    plain = knn.tune(store, held, sure.double(), truth)
    assert knn.tune(store, held, sure, truth) == plain == knn.tune(store, held.numpy(), sure.numpy(), truth.tolist())
    assert plain.accuracy > plain.classifier_accuracy
    grids = dict(ks=(1, 4), temperatures=(0.1, 1.0), weights=(0.0, 0.5, 1.0))
    once = {name: (value for value in values) for name, values in grids.items()}
    assert knn.tune(store, held, sure, truth, **once) == knn.tune(store, held, sure, truth, **grids)
    for name in grids:
        with pytest.raises(ValueError, match=f"{name} must hold a number or more, got none"):
            knn.tune(store, held, sure, truth, **{name: []})


def test_ties_go_to_the_better_neighbours_then_to_the_earlier():
    features = torch.tensor([[0.0, 1.0], [0.1, 1.0], [0.2, 1.0], [1.0, 0.0], [1.0, 0.1]], dtype=torch.float64)
    store = knn.Datastore(features, [0, 0, 0, 1, 1], norm="none")
    classifier, held = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64), torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    best = knn.tune(store, held, classifier, [0, 1], ks=[5, 1, 3], temperatures=[1e6, 0.1])
    assert (best.k, best.temperature, best.weight) == (5, 0.1, 0.0)  # all weights are right: better neighbours first, then the first weight
    assert best.knn_accuracy == 1


def test_estimator():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        failed = [result for result in check_estimator(knn.KNNAugmentedClassifier(), on_fail=None) if result["status"] == "failed"]
    assert [(result["check_name"], str(result["exception"])) for result in failed] == []
    features, labels = example(150)
    names = np.array(["ant", "bee", "cow"])[labels]
    model = knn.KNNAugmentedClassifier(weight=0.4, k=7, temperature=0.3).fit(features.numpy(), names)
    assert model.predict(features.numpy()).shape == (150,) and set(model.classes_) == {"ant", "bee", "cow"}
    assert clone(model).get_params() == model.get_params() and (model.k_, model.weight_) == (7, 0.4)
    p = model.predict_proba(features.numpy())
    head = LogisticRegression(max_iter=1000).fit(features.numpy(), labels.numpy()).predict_proba(features.numpy())
    assert np.allclose(p, 0.6 * head + 0.4 * cut(knn.Datastore(features, labels), features, 7, 0.3).numpy(), atol=1e-6)


@pytest.mark.parametrize("options, error, message", [
    (dict(weight=2.0), ValueError, r"weight must be a finite number in \[0, 1\], got 2.0"), (dict(weight=np.nan), ValueError, "weight must be"),
    (dict(temperature=0.0), ValueError, "temperature must be a finite number > 0"), (dict(k=0), ValueError, "k must be an integer >= 1"),
    (dict(k=61), ValueError, "k must be an integer in 1..60, got 61"), (dict(k=2.5), TypeError, "k must be an integer"),
    (dict(norm="L2"), ValueError, "norm must be one of"), (dict(validation=1.0), ValueError, "validation must be a share"),
    (dict(validation=60), ValueError, "validation must be an integer in 1..59"), (dict(validation="a"), TypeError, "validation must be"),
    (dict(random_state="a"), ValueError, "random_state must be"), (dict(estimator=LinearSVC()), TypeError, "predict_proba, got LinearSVC"),
    (dict(estimator=LogisticRegression), TypeError, "got the class LogisticRegression"), (dict(estimator=3), TypeError, "estimator must be a classifier"),
    (dict(estimator=SVC()), TypeError, "estimator must .* predict_proba"),
])  # fmt: skip
@pytest.mark.parametrize("given", [{}, dict(k=3, temperature=0.5, weight=0.5)])
def test_fit_refuses_what_predict_would_fail_at(options, error, message, given):
    features, labels = example()
    with pytest.raises(error, match=message):
        knn.KNNAugmentedClassifier(**given | options).fit(features.numpy(), labels.numpy())


def test_estimator_in_its_other_uses():
    features, labels = example(90)
    names = pd.Series(np.array(["ant", "bee", "cow"])[labels], index=range(90, 180))
    table = pd.DataFrame(features.numpy(), columns=list("abcdefg"), index=range(90, 180))
    chosen = dict(temperature=0.3, weight=0.5)
    plain = knn.KNNAugmentedClassifier(**chosen).fit(features.numpy(), labels.numpy())
    for X, y in ((table, names), (features, labels), (features.tolist(), labels.tolist()), (features.numpy()[::-1].copy()[::-1], names)):
        assert np.allclose(knn.KNNAugmentedClassifier(**chosen).fit(X, y).predict_proba(X), plain.predict_proba(features.numpy()))
    fitted = knn.KNNAugmentedClassifier(validation=30, **chosen).fit(table, names)
    assert fitted.n_features_in_ == 7 and fitted.feature_names_in_.tolist() == list("abcdefg") and fitted.classes_.tolist() == ["ant", "bee", "cow"]
    with pytest.raises(ValueError, match="X has 6 features"):
        plain.predict(features[:, :6].numpy())
    with pytest.raises(NotFittedError):
        knn.KNNAugmentedClassifier().predict(features.numpy())
    with pytest.warns(UserWarning, match="nothing to choose on: 90 of the 90 rows .* for 3 classes; taken are k, temperature, weight = "):
        few = knn.KNNAugmentedClassifier(validation=0.99).fit(features.numpy(), labels.numpy())
    assert (few.k_, few.temperature_, few.weight_) == (1, 1.0, 0.5)
    assert knn.KNNAugmentedClassifier(k=90).fit(features.numpy(), labels.numpy()).k_ == 90
    with Accelerator():
        assert np.allclose(knn.KNNAugmentedClassifier(**chosen).fit(features.to(DEVICE), labels.to(DEVICE)).predict_proba(features.to(DEVICE)),
                           plain.predict_proba(features.numpy()))  # fmt: skip


def test_columns_in_another_order_are_refused():
    p, near = np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([[0.5, 0.5], [1.0, 0.0]])
    for names in (["ant", "bee"], [0, 1]):
        said, other = pd.DataFrame(p, columns=names), pd.DataFrame(near, columns=names)
        assert np.array_equal(knn.interpolate(said, other, 0.3), knn.interpolate(p, near, 0.3))
        assert np.array_equal(knn.interpolate(said, pd.DataFrame(near, columns=["x", "y"]), 0.3), knn.interpolate(p, near, 0.3))
        with pytest.raises(ValueError, match="neighbours must have the columns of classifier in their order"):
            knn.interpolate(said, other[names[::-1]], 0.3)
        assert knn.focal_like_loss(said, [0, 1], other) == knn.focal_like_loss(p, [0, 1], near)
        with pytest.raises(ValueError, match="probabilities must have the columns of logits in their order"):
            knn.focal_like_loss(said, [0, 1], other[names[::-1]])


def test_the_estimator_gets_a_table_where_one_came():
    features, labels = (part.numpy() for part in example(90))
    table = pd.DataFrame(features, columns=list("abcdefg"), index=range(90, 180))
    scaled = make_pipeline(make_column_transformer((StandardScaler(), ["b", "a"])), LogisticRegression())
    model = knn.KNNAugmentedClassifier(scaled, k=3, temperature=0.5, weight=0).fit(table, labels)
    assert np.array_equal(model.predict_proba(table), clone(scaled).fit(table, labels).predict_proba(table))
    assert 0 <= knn.KNNAugmentedClassifier(scaled).fit(table, labels).weight_ <= 1
    with pytest.warns(UserWarning, match="X does not have valid feature names") as caught:
        assert np.array_equal(model.predict_proba(features), model.predict_proba(table))
    assert len(caught) == 1
    for given in (table, pd.DataFrame(features), table.astype(np.float32).astype(np.float64)):
        plain, named = (knn.KNNAugmentedClassifier().fit(X, labels) for X in (given.to_numpy(), given))
        assert np.array_equal(plain.predict_proba(given.to_numpy()), named.predict_proba(given))


@pytest.mark.parametrize("y, error, message", [
    (np.array([0, "bee", "cow"] * 20, object), TypeError, "all numbers or all texts, got 0 in row 0 and 'bee' in row 1"),
    (np.array([None, "bee", "cow"] * 20, object), ValueError, "none of them missing, got None in row 0: leave such rows out"),
    (np.array(["ant", np.nan, "cow"] * 20, object), ValueError, "none of them missing, got nan in row 1"),
    (pd.Series(["ant", "bee", None] * 20, dtype="string"), ValueError, "none of them missing, got .* in row 2"),
    (np.arange(60) + 0.5, ValueError, "whole numbers or texts: Unknown label type: continuous"),
])  # fmt: skip
def test_labels_that_are_none_are_refused_by_name(y, error, message):
    with pytest.raises(error, match=rf"^y must be labels \(N,\), {message}"):
        knn.KNNAugmentedClassifier().fit(example(60)[0].numpy(), y)


@pytest.mark.parametrize("names", [np.array([1, 2, 3]), np.array(["ant", "bee", "cow"])])
def test_the_estimator_sees_the_labels_that_came(names):
    features, labels = (part.numpy() for part in example(150))
    codes = LogisticRegression(class_weight={0: 50, 1: 1, 2: 1})
    named = LogisticRegression(class_weight=dict(zip(names.tolist(), (50, 1, 1), strict=True)))
    for options in ({}, dict(k=3, temperature=0.5, weight=0)):
        plain, model = (knn.KNNAugmentedClassifier(one, **options).fit(features, y) for one, y in ((codes, labels), (named, names[labels])))
        assert np.array_equal(model.predict_proba(features), plain.predict_proba(features)) and np.array_equal(model.estimator_.classes_, names)
        assert np.array_equal(model.predict(features), names[plain.predict(features)])
    assert np.array_equal(model.predict_proba(features), named.fit(features, names[labels]).predict_proba(features))


class Backwards(LogisticRegression):
    """An estimator whose classes do not ascend."""

    def fit(self, X, y):
        super().fit(X, y)
        self.classes_ = self.classes_[::-1]
        return self

    def predict_proba(self, X):
        self.classes_ = self.classes_[::-1]
        found = super().predict_proba(X)[:, ::-1]
        self.classes_ = self.classes_[::-1]
        return found


def test_columns_of_the_estimator_go_to_their_classes():
    features, labels = (part.numpy() for part in example(90))
    wanted, found = (knn.KNNAugmentedClassifier(one).fit(features, labels).predict_proba(features) for one in (LogisticRegression(), Backwards()))
    assert np.array_equal(found, wanted)


def test_a_refused_fit_leaves_the_model_as_it_was():
    features, labels = (part.numpy() for part in example(90))
    names = np.array(["ant", "bee", "cow"])[labels]
    model = knn.KNNAugmentedClassifier(k=50, temperature=0.1, weight=0.5).fit(pd.DataFrame(features, columns=list("abcdefg")), names)
    before, state = model.predict(pd.DataFrame(features, columns=list("abcdefg"))), dict(vars(model))
    for X, y in ((features[:20], labels[:20]), (features[:, :3], 0 * labels), (features[:, :3], labels + 0.5), (features * np.nan, labels)):
        with pytest.raises(ValueError):
            model.fit(X, y)
        assert vars(model) == state and np.array_equal(model.predict(pd.DataFrame(features, columns=list("abcdefg"))), before)
    assert not hasattr(model.fit(features[:, :3], labels), "feature_names_in_") and model.n_features_in_ == 3
    fresh = knn.KNNAugmentedClassifier(SVC())
    with pytest.raises(TypeError, match="predict_proba"):
        fresh.fit(features, labels)
    with pytest.raises(NotFittedError):
        fresh.predict(features)


@pytest.mark.parametrize("validation", [0.25, 50])
def test_classes_of_one_row_leave_the_choice_alone(validation):
    features, labels = (part.numpy() for part in example(200, seed=2))
    far = features[:4] + 1e3 * np.eye(4, features.shape[1])  # nobody's neighbours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = knn.KNNAugmentedClassifier(norm="none", validation=validation).fit(features, labels)
        more = knn.KNNAugmentedClassifier(norm="none", validation=validation).fit(np.vstack([far, features]), np.r_[3:7, labels])
        assert more.classes_.tolist() == list(range(7)) and np.array_equal(more.predict(far), np.arange(3, 7))
        assert (more.k_, more.temperature_, more.weight_) != (1, 1.0, 0.5)
        assert more.score(features, labels) >= plain.score(features, labels) - 0.1


def test_where_nothing_can_be_chosen_it_warns():
    features, _ = example(12)
    for labels, options in ((np.arange(12), {}), (np.arange(12) // 2, dict(validation=0.9)), (np.r_[:10, 10, 10], dict(validation=5))):
        with pytest.warns(UserWarning, match="nothing to choose on") as caught:
            model = knn.KNNAugmentedClassifier(temperature=0.2, **options).fit(features.numpy(), labels)
        assert (model.k_, model.temperature_, model.weight_) == (1, 0.2, 0.5) and caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            knn.KNNAugmentedClassifier(k=1, temperature=0.2, weight=0.5, **options).fit(features.numpy(), labels)


# ------------------------------------------------------------------------------------------------------------------ refusals

X, Y = example(6, 4)
STORE = knn.Datastore(X, Y)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: STORE.search(X, 0), ValueError, "k must be an integer in 1..6, got 0"),
        (lambda: STORE.search(X, 7), ValueError, "k must be an integer in 1..6"),
        (lambda: STORE.search(X, 6, exclude=torch.arange(6)), ValueError, "k must be an integer in 1..5"),
        (lambda: STORE.search(X, 2.0), TypeError, "k must be an integer"),
        (lambda: STORE.search(X[:, :2], 2), ValueError, r"queries must be numbers \(N, 4\)"),
        (lambda: STORE.search(X * torch.nan, 2), ValueError, "queries must be finite numbers .* got nan in row 0"),
        (lambda: STORE.search(X, 2, exclude=torch.full((6,), 77)), ValueError, "77 is not stored"),
        (lambda: STORE.search(X, 2, exclude=[0, 1]), ValueError, r"exclude must be whole numbers \(6,\), one for each row of queries"),
        (lambda: STORE.distribution(X, k=2, temperature=0), ValueError, "temperature must be a finite number > 0"),
        (lambda: STORE.distribution(X, k=2, temperature="warm"), TypeError, "temperature must be a finite number > 0"),
        (lambda: STORE.distribution(X, k=2, similarity="dot"), ValueError, "similarity must be one of"),
        (lambda: knn.Datastore(X[:0], Y[:0]), ValueError, "features must hold an example"),
        (lambda: knn.Datastore(X, Y[:3]), ValueError, r"labels must be whole numbers \(6,\), one for each row of features"),
        (lambda: knn.Datastore(X, Y, num_classes=2), ValueError, "labels must be in 0 .. 2 - 1"),
        (lambda: knn.Datastore(X, Y - 1), ValueError, "labels must be in"),
        (lambda: knn.Datastore(X, Y.double()), TypeError, "labels must be whole numbers"),
        (lambda: knn.Datastore(X, Y, ids=[0, 0, 1, 2, 3, 4]), ValueError, "ids must all differ"),
        (lambda: knn.Datastore("features", Y), TypeError, "features must be numbers"),
        (lambda: knn.Datastore(X, Y, norm="max"), ValueError, "norm must be one of"),
        (lambda: knn.interpolate(torch.ones(1, 2), torch.ones(1, 2), 1.1), ValueError, r"weight must be a finite number in \[0, 1\]"),
        (lambda: knn.interpolate(torch.ones(1, 2), torch.ones(1, 3), 0.1), ValueError, "one shape"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [0], torch.ones(1), alpha=-0.1), ValueError, "alpha must be a finite number >= 0"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [2], torch.ones(1)), ValueError, "labels must be in 0 .. 2 - 1"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [1], torch.ones(2)), ValueError, "hardness must be"),
        (lambda: knn.focal_like_loss(torch.ones(1, 2), [1], torch.ones(1, 2), gamma=-1), ValueError, "gamma must be a finite number >= 0"),
        (lambda: knn.tune(STORE, X, torch.ones(6, 5) / 5, Y), ValueError, "classifier must have the store's 3 classes"),
        (lambda: knn.tune(STORE, X[:0], torch.ones(0, 3), Y[:0]), ValueError, "labels must hold a validation row"),
        (lambda: knn.tune(STORE, X[:1], torch.ones(6, 3) / 3, Y), ValueError, r"features must be \(6, 4\), a row for each"),
        (lambda: knn.tune(STORE, X, X[:, :3], Y), ValueError, "classifier must be probabilities .* For logits, apply softmax first"),
        (lambda: knn.interpolate(X, X, 0.5), ValueError, "classifier must be probabilities"),
        (lambda: knn.interpolate(torch.ones(1, 2) / 2, torch.ones(1, 2), 0.5), ValueError, "neighbours must be probabilities .* row 0 sums to 2"),
        (lambda: knn.knn_loss(torch.tensor([[0.5, torch.nan]]), [0]), ValueError, "probabilities must be probabilities"),
        (lambda: knn.knn_loss(torch.tensor([[0.9, 0.9]]), [0]), ValueError, "sum to 1 at most"),
        (lambda: knn.knn_distribution(torch.tensor([[torch.nan, 1.0]]), torch.tensor([[0, 1]]), 2), ValueError, "distances must .* got NaN"),
        (lambda: knn.knn_distribution(torch.tensor([[-1.0, 1.0]]), torch.tensor([[0, 1]]), 2), ValueError, "distances must .* got -1 in them"),
        (lambda: knn.knn_distribution(torch.tensor([[torch.inf]]), torch.tensor([[0]]), 2), ValueError, "nothing but infinities"),
        (lambda: knn.knn_distribution(torch.ones(1, 2), torch.tensor([[0, 2]]), 2), ValueError, r"labels must be in 0 .. 2 - 1 \(num_classes\)"),
        (lambda: knn.knn_distribution(torch.ones(2, 2), torch.ones(1, 2).long(), 2), ValueError, "distances and labels must both be"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [1], torch.tensor([torch.nan])), ValueError, "hardness must be finite"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [1], torch.tensor([-1.0])), ValueError, "hardness must be finite"),
        (lambda: knn.reweighted_loss(torch.tensor([[torch.nan, 1.0]]), [1], torch.ones(1)), ValueError, "logits must be finite"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [1], torch.ones(1), class_weights=[1.0, -1.0]), ValueError, "class_weights must be finite"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [1], torch.ones(1), class_weights=[1.0]), ValueError, r"class_weights must be \(2,\)"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [1], torch.ones(1), class_weights={"a": 1, "b": 2}), TypeError, "class_weights must be plain"),
        (lambda: knn.focal_like_loss(torch.ones(1, 2), [1], torch.ones(2, 2)), ValueError, r"probabilities must be probabilities \(1, 2\) as logits are"),
        (lambda: knn.reweighted_loss(torch.ones(0, 2), [], torch.ones(0)), ValueError, r"logits must be numbers \(B, C\) and not empty"),
        (lambda: knn.focal_like_loss(torch.ones(2), [0, 1], torch.ones(2, 2) / 2), ValueError, r"logits must be numbers \(B, C\) and not empty"),
        (lambda: knn.Datastore(X + 1j, Y), TypeError, "features must be numbers"),
        (lambda: knn.Datastore(X, np.array(["a"] * 6)), TypeError, "labels must be whole numbers"),
        (lambda: knn.Datastore(X.numpy(), np.ma.masked_equal(Y.numpy(), 1)), TypeError, "labels must be whole numbers"),
        (lambda: knn.Datastore(X, Y, index=3), TypeError, "index must be None"),
        (lambda: knn.Datastore(X, Y, num_classes=0), ValueError, "num_classes must be an integer"),
        (lambda: knn.slipped_labels(STORE, X, 2, None), TypeError, "exclude must be ids"),
        (lambda: knn.slipped_labels(X, X, 2, Y), TypeError, "store must be a Datastore"),
        (lambda: knn.normalise(X[:0]), ValueError, "features must hold an example"),
        (lambda: knn.normalise(X, mean=torch.ones(3)), ValueError, "mean must be"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_is_masked_is_refused_by_name():
    features, labels = (part.numpy() for part in example(60))
    hidden = np.arange(60) < 20
    X, y = np.ma.masked_array(features, np.repeat(hidden[:, None], 7, 1)), np.ma.masked_array(labels, hidden)
    made = knn.KNNAugmentedClassifier(k=3, temperature=0.5, weight=0.5)
    refused = (
        (lambda: made.fit(X, labels), "X"), (lambda: made.fit(features, y), "y"), (lambda: made.fit(list(X), labels), "X"),
        (lambda: made.fit(features, list(y)), "y"), (lambda: made.fit(features, labels).predict(X), "X"), (lambda: knn.Datastore(X, labels), "features"),
        (lambda: knn.Datastore(features, y), "labels"), (lambda: knn.Datastore(features, labels).search(X, 2), "queries"),
    )  # fmt: skip
    for call, name in refused:
        with pytest.raises(TypeError, match=rf"^{name} must be .*, got masked entries: leave their rows out, or .* with .filled\(value\)$"):
            call()
    whole = clone(made).fit(np.ma.masked_array(features), np.ma.masked_array(labels))  # nothing is masked
    assert np.array_equal(whole.predict_proba(features), made.fit(features, labels).predict_proba(features))


def test_rare_dtypes_are_taken_as_numbers_or_named():
    right = STORE.search(X, 2)
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        store = knn.Datastore(X, Y.to(dtype), ids=torch.arange(6).to(dtype))
        assert all(torch.equal(one, other) for one, other in zip(store.search(X, 2), right, strict=True))
        whole = torch.tensor([[1], [500], [3]])
        assert torch.equal(knn.normalise(whole.to(dtype), norm="none")[0], knn.normalise(whole, norm="none")[0])
    with pytest.raises(ValueError, match=r"labels must be whole numbers .* below 2\*\*63, got uint64 tensor of shape \(6,\) with more in it"):
        knn.Datastore(X, torch.full((6,), -1).view(torch.uint64))
    with pytest.raises(TypeError, match=r"features must be numbers \(N, D\) of 16 bits or more, got float8_e4m3fn tensor of shape"):
        knn.Datastore(X.to(torch.float8_e4m3fn), Y)


def test_a_row_at_the_mean_warns():
    with pytest.warns(UserWarning, match="1 rows are all zero"):
        knn.Datastore(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]), [0, 1, 1])


def test_no_queries_no_rows():
    assert STORE.distribution(X[:0], k=2).shape == (0, 3)


def test_the_grids_that_settings_are_chosen_from():
    assert augmentation.K_GRID == tuple(2**i for i in range(10))
    decades = [*range(2, 10)], [*range(1, 10)]
    steps = [0.0001, 0.001, 0.01, *(i / 100 for i in decades[0]), *(i / 10 for i in decades[1]), 1, 10]
    assert augmentation.TEMPERATURE_GRID == pytest.approx(steps) and augmentation.WEIGHT_GRID == pytest.approx([i / 20 for i in range(21)])


def test_one_row_of_each_class_left_is_enough_to_choose_on_and_one_less_is_not():
    X, y = np.repeat(np.eye(3), 2, axis=0) + 0.01 * np.arange(18).reshape(6, 3), np.repeat([0, 1, 2], 2)
    classifier = knn.KNNAugmentedClassifier(LogisticRegression(), validation=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.fit(X, y)
    with pytest.warns(UserWarning, match="4 of the 6 rows that could be held back leave too few for 3 classes"):
        clone(classifier).set_params(validation=4).fit(X, y)
