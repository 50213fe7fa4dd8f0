"""The k-NN distribution beside scikit-learn's brute force and beside faiss called directly.

    python tests/benchmarks/knn_augmentation.py [--json] [--repeats 3]

10 000 queries against 50 000 stored examples of 256 features, 100 classes, k = 20, T = 0.1, features of length 1 on both sides. scikit-learn:
`KNeighborsClassifier` with algorithm "brute" and the same weights. faiss: its exact index searched for the same neighbours, which are then turned into
class probabilities by hand. On one thread, in turns in one process; medians. vs_sklearn and vs_faiss say how many times as long the peer takes.
"""

import statistics
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import faiss
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from helpers.methods.knn_augmentation import Datastore, knn_distribution
from tests.benchmarks._script import start

QUERIES, STORED, WIDTH, CLASSES, K, TEMPERATURE = 10_000, 50_000, 256, 100, 20, 0.1


def measure(repeats):
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (STORED,), generator=generator)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    features = centres[labels] + torch.randn(STORED, WIDTH, generator=generator)
    queries = centres[torch.randint(CLASSES, (QUERIES,), generator=generator)] + torch.randn(QUERIES, WIDTH, generator=generator)
    features, queries = (torch.nn.functional.normalize(rows) for rows in (features, queries))
    exact, through_faiss = Datastore(features, labels, norm="l2"), Datastore(features, labels, norm="l2", index="faiss")
    peer = KNeighborsClassifier(K, weights=lambda d: np.exp(-(d**2) / TEMPERATURE), algorithm="brute").fit(features.numpy(), labels.numpy())
    index = faiss.IndexFlatL2(WIDTH)
    index.add(features.numpy())

    def directly():
        distances, rows = index.search(queries.numpy(), K)
        return knn_distribution(torch.from_numpy(distances), labels[torch.from_numpy(rows)], CLASSES, temperature=TEMPERATURE)

    ways = {
        "ours": lambda: exact.distribution(queries, k=K, temperature=TEMPERATURE),
        "ours, faiss": lambda: through_faiss.distribution(queries, k=K, temperature=TEMPERATURE),
        "scikit-learn": lambda: torch.from_numpy(peer.predict_proba(queries.numpy())),
        "faiss": directly,
    }
    seconds, answers = {name: [] for name in ways}, {}
    with threadpool_limits(1):
        for _ in range(repeats):
            for name, way in ways.items():
                began = perf_counter()
                answers[name] = way()
                seconds[name].append(perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "repeats": repeats, "seconds": medians["ours"], "seconds_through_faiss": medians["ours, faiss"], "seconds_sklearn": medians["scikit-learn"],
        "seconds_faiss": medians["faiss"], "vs_sklearn": medians["scikit-learn"] / medians["ours"], "vs_faiss": medians["faiss"] / medians["ours, faiss"],
        "vs_sklearn_through_faiss": medians["scikit-learn"] / medians["ours, faiss"],
        "max_abs_difference": float((answers["ours"] - answers["scikit-learn"]).abs().max()),
    }  # fmt: skip


def table(result):
    print(f"{QUERIES} queries, {STORED} stored, {WIDTH} features, one thread, median of {result['repeats']}")
    print(f"ours {result['seconds']:.1f} s; scikit-learn takes {result['vs_sklearn']:.2f} x as long ({result['seconds_sklearn']:.1f} s)")
    print(f"through faiss {result['seconds_through_faiss']:.1f} s; faiss directly takes {result['vs_faiss']:.2f} x as long ({result['seconds_faiss']:.1f} s),")
    print(f"    scikit-learn {result['vs_sklearn_through_faiss']:.2f} x as long")
    print(f"largest difference of a probability {result['max_abs_difference']:.1e}")


if __name__ == "__main__":
    start(__doc__, measure, table, repeats=3)
