"""k-NN augmentation against hand examples, scikit-learn's neighbours, limits and symmetries."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import check_estimator

from helpers.methods import knn_augmentation as knn

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
    with pytest.raises(ValueError, match="length 1"):
        cut(knn.Datastore(features, labels, norm="none"), queries, 6, 0.2, similarity="cosine")


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
    found, rows = knn._smallest(values, k)
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
        (lambda: STORE.search(X[:, :2], 2), ValueError, r"queries must be \(N, 4\)"),
        (lambda: STORE.search(X * torch.nan, 2), ValueError, "queries must be finite"),
        (lambda: STORE.search(X, 2, exclude=torch.full((6,), 77)), ValueError, "77 is not stored"),
        (lambda: STORE.search(X, 2, exclude=[0, 1]), ValueError, r"exclude must be \(6,\)"),
        (lambda: STORE.distribution(X, k=2, temperature=0), ValueError, "temperature must be a finite number > 0"),
        (lambda: STORE.distribution(X, k=2, temperature="warm"), TypeError, "temperature must be a finite number > 0"),
        (lambda: STORE.distribution(X, k=2, similarity="dot"), ValueError, "similarity must be one of"),
        (lambda: knn.Datastore(X[:0], Y[:0]), ValueError, "features must hold an example"),
        (lambda: knn.Datastore(X, Y[:3]), ValueError, r"labels must be \(6,\)"),
        (lambda: knn.Datastore(X, Y, num_classes=2), ValueError, "labels must be in 0 .. 2 - 1"),
        (lambda: knn.Datastore(X, Y - 1), ValueError, "labels must be in"),
        (lambda: knn.Datastore(X, Y.double()), TypeError, "labels must be whole numbers"),
        (lambda: knn.Datastore(X, Y, ids=[0, 0, 1, 2, 3, 4]), ValueError, "ids must all differ"),
        (lambda: knn.Datastore("features", Y), TypeError, "features must be an array"),
        (lambda: knn.Datastore(X, Y, norm="max"), ValueError, "norm must be one of"),
        (lambda: knn.interpolate(torch.ones(1, 2), torch.ones(1, 2), 1.1), ValueError, r"weight must be a finite number in \[0, 1\]"),
        (lambda: knn.interpolate(torch.ones(1, 2), torch.ones(1, 3), 0.1), ValueError, "one shape"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [0], torch.ones(1), alpha=-0.1), ValueError, "alpha must be a finite number >= 0"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [2], torch.ones(1)), ValueError, "labels must be in 0 .. 2 - 1"),
        (lambda: knn.reweighted_loss(torch.ones(1, 2), [1], torch.ones(2)), ValueError, "hardness must be"),
        (lambda: knn.focal_like_loss(torch.ones(1, 2), [1], torch.ones(1, 2), gamma=-1), ValueError, "gamma must be a finite number >= 0"),
        (lambda: knn.tune(STORE, X, torch.ones(6, 5) / 5, Y), ValueError, "classifier must have the store's 3 classes"),
        (lambda: knn.tune(STORE, X[:0], torch.ones(0, 3), Y[:0]), ValueError, "labels must hold a validation row"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_row_at_the_mean_warns():
    with pytest.warns(UserWarning, match="1 rows are all zero"):
        knn.Datastore(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]), [0, 1, 1])


def test_no_queries_no_rows():
    assert STORE.distribution(X[:0], k=2).shape == (0, 3)
