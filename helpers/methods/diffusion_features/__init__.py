"""DIFT (Tang et al. 2023, arXiv 2306.03881): features of a frozen image diffusion model as descriptors, and what they match.

`features` takes maps out of a diffusers pipeline; `matches` says what maps match, and needs neither model nor diffusers. Names
of both are found here. Copy this folder, under any name, and it works.

    source, target = dift(pipe, images, "a photo of a cat", t=261, n=1, generator=generator)
    found = match(source, target, points, source_size=(512, 512), target_size=(512, 512))
"""

from typing import TYPE_CHECKING, Any

from .matches import (
    Pair,
    boundary_accuracy,
    corner_error,
    describe,
    feature_colours,
    first_mask_to_labels,
    fit_homography,
    homography_accuracy,
    labels_to_masks,
    match,
    mutual_matches,
    nearest,
    pck,
    pck_table,
    propagate_edit,
    propagate_labels,
    region_similarity,
    similarity_map,
)

if TYPE_CHECKING:
    from .features import block_layers, dift, dift_blocks, dift_grid, dift_layers, layer_names, noise_to_signal

__all__ = [
    "Pair", "block_layers", "boundary_accuracy", "corner_error", "describe", "dift", "dift_blocks", "dift_grid", "dift_layers", "feature_colours",
    "first_mask_to_labels", "fit_homography", "homography_accuracy", "labels_to_masks", "layer_names", "match", "mutual_matches", "nearest",
    "noise_to_signal", "pck", "pck_table", "propagate_edit", "propagate_labels", "region_similarity", "similarity_map",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:  # the rest of them needs diffusers: imported when first asked for
        from . import features

        return getattr(features, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
