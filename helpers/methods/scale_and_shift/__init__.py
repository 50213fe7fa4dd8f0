"""Scaling and shifting your features (SSF): one gain and one offset for each channel behind the affine layers of a frozen network, and no trace of them after.

Lian, Zhou, Feng and Wang, "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022, arXiv 2210.08823. Where the paper and
the official code differ, options show both. For transformers' ViT (and what is built like it: CLIP's vision tower), Swin and ConvNeXt, for MLPs and CNNs:

    pairs = add_scale_shift(model)                            # freezes the model; pairs.parameters() and the head are what is trained
    optimiser = torch.optim.AdamW(parameter_groups(pairs), lr=1e-2)
    ...
    pairs.merge()                                             # the plain layers again, with other weights
    pairs.remove()                                            # no longer frozen; what is merged stays

Layers are found by their class (`insertion_points` says which). `style="hooks"` scales what a layer gives (to read); `style="parametrizations"` scales the
layer's weight and bias on the fly (to ship). The functions on arrays take tensors, arrays and lists; a result is of the kind and dtype of the first argument
and lies where that lies. Bad arguments raise ValueError or TypeError that names the argument, before any work is done.

`maths` has the arithmetic, `layers` one pair and what it goes behind, `places` finds the layers of a model, `attach` puts pairs on, merges them and takes
them off. Copy this folder, under any name, and it works.
"""

from .attach import ScaleShift, add_scale_shift, parameter_groups
from .layers import Pair
from .maths import compose, interpolate, merge_weights, scale_and_shift, unmerge_weights, vit_scalars
from .places import GROUPS, Point, insertion_points

__all__ = [
    "GROUPS", "Pair", "Point", "ScaleShift", "add_scale_shift", "compose", "insertion_points", "interpolate", "merge_weights", "parameter_groups",
    "scale_and_shift", "unmerge_weights", "vit_scalars",
]  # fmt: skip
