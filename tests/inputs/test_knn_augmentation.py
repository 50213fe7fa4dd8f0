"""Odd and wrong inputs for k-NN augmentation."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from helpers.methods import knn_augmentation as knn
from tests.inputs.harness import Trial, array, check, choice, coverage, instance, integer, optional, real, text

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
LABELS, TRUTH = np.arange(24) % 3, np.arange(9) % 3
X, Q = RNG.normal(size=(24, 4)) + LABELS[:, None], RNG.normal(size=(9, 4)) + TRUTH[:, None]
IDS, OWN = np.arange(24) * 3 - 10, np.arange(9) * 3 - 10
P, NEAR = (np.exp(RNG.normal(size=(9, 3))) for _ in range(2))
P, NEAR = P / P.sum(1, keepdims=True), NEAR / NEAR.sum(1, keepdims=True)
BOOLEANS = ("booleans", "texts")  # scikit-learn takes them as numbers
NOTHING = ("nothing in it",)  # no queries, no answers: lawful, and tested elsewhere
STORE = knn.Datastore(X, LABELS, ids=IDS)
WEIGHTS = np.array([1.0, 2.0, 0.5])


def made(**options):
    store = knn.Datastore(**options)
    return store.features, store.labels, store.mean, store.ids, store.distribution(Q, k=3, temperature=0.5)


def searched(**options):
    return STORE.search(**options)


def voted(**options):
    return STORE.distribution(**options)


def found(index):
    return index.search(np.float32(Q), 3)


def estimated(X, y, **options):
    model = knn.KNNAugmentedClassifier(**options).fit(X, y)
    return model.predict_proba(Q), model.k_, model.temperature_, model.weight_


def predicted(X):
    return knn.KNNAugmentedClassifier(k=3, temperature=0.5, weight=0.5).fit(Q, TRUTH).predict_proba(X)


def grid(value, **options):
    return array(value, free=(0,), grow=(0,), either=(value[0],), **options)


def labels(value, **options):
    return array(value, low=0, high=2, **options)


HARDNESS, LOGITS = array(np.linspace(0, 5, 9), low=0), array(torch.from_numpy(3 * P), free=())
BY_CLASS = optional(array(WEIGHTS, low=0, wrong=({"cat": 1.0, "dog": 2.0, "fox": 3.0}, [1.0]), either=({0: 1.0, 1: 2.0, 2: 0.5},)))
QUERIES, FEATURES = array(Q, free=(0,), skip=NOTHING), array(X, free=(1,))
K, T = integer(3, low=1, high=24), real(0.5, low=0, above=True)
ODD_INDEX = ("flat", "IVF", "PQ3", "IVF100000,Flat", 3, ["faiss"], 1.5, b"faiss")
TRIALS = [
    Trial(knn.normalise, features=array(X, free=(0,), skip=NOTHING), mean=optional(array(X.mean(0))), norm=choice("centre"), follows="features"),
    Trial(knn.knn_distribution, distances=array(np.linspace(0, 2, 27).reshape(9, 3), low=0, skip=("an infinity",)),  # a neighbour may be missing
          labels=labels(LABELS[:27 - 3].reshape(8, 3).repeat(2, 0)[:9]),
          num_classes=integer(3, low=3, high=2**20), temperature=T, follows="distances"),
    Trial(made, public="Datastore", features=FEATURES, labels=labels(LABELS), num_classes=optional(integer(3, low=3, high=2**20)), ids=optional(array(IDS)),
          norm=choice("l2")),
    Trial(made, public="Datastore", trial_id="Datastore through faiss", features=FEATURES, labels=array(LABELS, low=0),
          index=optional(text("faiss", wrong=ODD_INDEX[:4], either=("Flat",)))),
    Trial(searched, public="Datastore", trial_id="Datastore.search", queries=QUERIES, k=K),
    Trial(searched, public="Datastore", trial_id="Datastore.search, but oneself", queries=array(Q), k=integer(3, low=1, high=23),
          exclude=optional(array(OWN))),
    Trial(voted, public="Datastore", trial_id="Datastore.distribution", queries=QUERIES, k=K, temperature=T, similarity=choice("cosine"), follows="queries"),
    Trial(voted, public="Datastore", trial_id="Datastore.distribution, but oneself", queries=array(Q), k=integer(3, low=1, high=23),
          exclude=optional(array(OWN)), follows="queries"),
    Trial(knn.build_index, features=array(X, free=(0, 1)), kind=text("Flat", wrong=ODD_INDEX[:4], either=("auto",)), after=found),
    Trial(knn.sharded_index, features=array(X, free=(0, 1)), shards=integer(3, low=1, high=24), kind=text("Flat", wrong=ODD_INDEX[:4]), after=found),
    Trial(knn.slipped_labels, store=instance(lambda: STORE), queries=array(Q), k=integer(3, low=1, high=23), exclude=array(OWN)),
    Trial(knn.knn_loss, probabilities=array(P, low=0, high=1), labels=labels(TRUTH), follows="probabilities"),
    Trial(knn.reweighted_loss, logits=LOGITS, labels=labels(TRUTH), hardness=HARDNESS, alpha=real(0.3, low=0), class_weights=BY_CLASS, follows="logits"),
    Trial(knn.focal_like_loss, logits=LOGITS, labels=labels(TRUTH), probabilities=array(P, low=0, high=1), gamma=real(1.5, low=0), class_weights=BY_CLASS,
          follows="logits"),
    Trial(knn.interpolate, classifier=array(P, low=0, high=1), neighbours=array(NEAR, low=0, high=1), weight=real(0.3, low=0, high=1), follows="classifier"),
    Trial(knn.tune, store=instance(lambda: STORE), features=array(Q), classifier=array(P, low=0, high=1), labels=labels(TRUTH),
          ks=optional(grid(np.array([1, 3]), low=1, high=23)), temperatures=grid(np.array([0.5, 1.0]), low=0),
          weights=grid(np.array([0.0, 0.5]), low=0, high=1), exclude=optional(array(OWN))),
    Trial(estimated, public="KNNAugmentedClassifier", slow=0.1, X=array(X, free=(1,), skip=BOOLEANS),
          y=array(LABELS, skip=("texts", "booleans")),
          estimator=optional(instance(LogisticRegression, wrong=(LogisticRegression, LinearSVC()))), k=optional(integer(3, low=1, high=24)),
          temperature=optional(T), weight=optional(real(0.5, low=0, high=1)), norm=choice("centre"),
          validation=real(0.25, low=0, above=True, below=True, either=(8,), wrong=(24, 0)), random_state=optional(integer(3, low=0))),
    Trial(predicted, public="KNNAugmentedClassifier", trial_id="KNNAugmentedClassifier.predict_proba", X=array(Q, free=(0,), skip=BOOLEANS)),
]  # fmt: skip


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_wrong_inputs_are_refused_and_odd_ones_taken(trial):
    check(trial)


def test_every_public_function_is_tried():
    assert coverage(knn, TRIALS) == set()
