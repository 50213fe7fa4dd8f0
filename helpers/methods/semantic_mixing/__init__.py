"""MagicMix (Liew et al. 2022, arXiv 2210.16056): put the content of a prompt into the layout of an image.

`mixing` has the levels, the mixing and the weights of words, and needs torch and numpy only; `attach` runs a diffusers
pipeline with them. Names of both are found here. Copy this folder, under any name, and it works.

    result = mix(pipe, image, "coffee machine", k_min=0.3, k_max=0.6, nu=0.5, generator=torch.Generator().manual_seed(0))
"""

from typing import TYPE_CHECKING, Any

from .mixing import VARIANTS, WordWeights, blend, levels

if TYPE_CHECKING:
    from .attach import blend_prompts, decode, denoise, embed, encode, generate, img2img, mix, mix_text, noised_layout, reweight_words

__all__ = [
    "VARIANTS", "WordWeights", "blend", "blend_prompts", "decode", "denoise", "embed", "encode", "generate", "img2img", "levels", "mix", "mix_text",
    "noised_layout", "reweight_words",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:  # the rest of them needs diffusers: imported when first asked for
        from . import attach

        return getattr(attach, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
