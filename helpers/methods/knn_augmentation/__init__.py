"""k-NN augmentation of a classifier: neighbours re-weight its training loss and are mixed into its predictions.

Jia, Chen, Wu, Cardie, Belongie and Lim, "Rethinking Nearest Neighbors for Visual Classification", 2021, arXiv 2112.08459. Where the paper and the official
code differ, this follows the code's functions, with one exception: the released leave-one-out search labels neighbours wrongly (`slipped_labels` shows
how), and ours does not.

    store = Datastore(train_features, train_labels)
    mixed = interpolate(classifier_probabilities, store.distribution(features, k=20, temperature=0.1), 0.3)

or, around any scikit-learn classifier, `KNNAugmentedClassifier(LogisticRegression()).fit(X, y)`. Features are (N, D), labels (N,) whole numbers 0 .. C - 1:
tensors, arrays, lists, pandas (by position). A result is of the kind of the first argument, tensor or array, and lies where that lies; only `search` gives
tensors always, since the store holds tensors. Bad arguments raise ValueError or TypeError that names the argument, before any work is done.

`neighbours` holds the training examples and finds the nearest, `augmentation` has the losses, the mixture and its tuning, and `classifier` puts these
around a classifier of scikit-learn. Names of all three are found here. Copy this folder, under any name, and it works.
"""

from .augmentation import Tuned, focal_like_loss, interpolate, knn_loss, reweighted_loss, tune
from .classifier import KNNAugmentedClassifier
from .neighbours import Datastore, Neighbours, build_index, knn_distribution, normalise, sharded_index, slipped_labels

__all__ = [
    "Datastore", "KNNAugmentedClassifier", "Neighbours", "Tuned", "build_index", "focal_like_loss", "interpolate", "knn_distribution", "knn_loss",
    "normalise", "reweighted_loss", "sharded_index", "slipped_labels", "tune",
]  # fmt: skip
