"""Sharpness-aware training for free (SAF, MESA): flat minima by a pull towards what the network said some epochs ago, its peers, and how sharpness is measured.

Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", NeurIPS 2022, arXiv 2205.14083. Where paper and official code differ, this follows the code.

    loader = DataLoader(IndexedDataset(dataset), batch_size=64, shuffle=True)   # batches (images, labels, indices)
    method = SAF(model, optimiser, OutputStore(len(dataset), classes, lag=3))   # or MESA(model, optimiser), SAM(...), Uniform(...): METHODS has all
    for epoch in range(epochs):
        for batch in loader:
            seen = method.step(batch, epoch)                                    # forward, backward and the optimiser's step

    loss = loss_on(model, batch)
    sam_sharpness(loss, model, rho=[0.01, 0.05, 0.1]), hessian_eigenvalue(loss, model).value

Any model that gives logits, or something with .logits, and any optimiser. Bad arguments raise ValueError or TypeError that names the argument, before any work.

`outputs` has the pull and the store, `training` the methods, `sharpness` what is measured. Copy this folder, under any name, and it works.
"""

from .outputs import IndexedDataset, OutputStore, store_bytes, trajectory_loss
from .sharpness import Curvature, adaptive_sharpness, filter_normalised, hessian_eigenvalue, landscape, loss_on, random_sharpness, sam_sharpness
from .training import ASAM, ESAM, MESA, METHODS, SAF, SAM, Frozen, LookSAM, Plain, Step, Uniform, select_sharp

__all__ = [
    "ASAM", "ESAM", "MESA", "METHODS", "SAF", "SAM", "Curvature", "Frozen", "IndexedDataset", "LookSAM", "OutputStore", "Plain", "Step", "Uniform",
    "adaptive_sharpness", "filter_normalised", "hessian_eigenvalue", "landscape", "loss_on", "random_sharpness", "sam_sharpness", "select_sharp", "store_bytes",
    "trajectory_loss",
]  # fmt: skip
