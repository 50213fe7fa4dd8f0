"""Refiner: expand, convolve and reduce the attention maps themselves.

Zhou, Shi, Kang, Yu, Jiang, Li, Jin, Hou and Feng, "Refiner: Refining Self-attention for Vision Transformers", 2021, arXiv 2106.03714. What a block does
with its maps follows the official code, options show the paper's formula.

    steps = refine(maps, expansion, kernels, reduction)                # maps (B, H, N, N); steps.refined @ values is what the heads give
    convolve(maps, kernel) @ values, attend_locally(maps, values, kernel)  # equal: convolving a map is averaging values locally
    model = RefinerViT(**SIZES["toy-32"])                              # logits of pictures (B, 3, 32, 32)
    refinement = refine_vit(vit, layers=[4, 5])                        # refiners in a ViT of transformers, which begin as the identity
    refinement.refiners[0].set_weights(kernels=torch.full((3, 3), 1 / 9))

`refining` has the maths and the layer, `network` whole models, `checkpoint` the authors' weights, `vit` what attaches refiners to transformers' models,
`similarity` how alike maps and layers are. Tensors, arrays and lists are taken where numbers are data. Copy this folder, under any name, and it works.
"""

from .checkpoint import from_official, load_official, official_names
from .network import SIZES, BlockTrace, RefinedAttention, RefinerViT, macs, parameters
from .refining import MapRefiner, Steps, aggregate_values, attend_locally, convolve, mix_heads, refine
from .similarity import Evolution, feature_evolution, head_similarity, layer_similarity, linear_cka, neighbour_loss, similarity_by_layer
from .vit import Refinement, refine_vit

__all__ = [
    "SIZES", "BlockTrace", "Evolution", "MapRefiner", "RefinedAttention", "Refinement", "RefinerViT", "Steps", "aggregate_values", "attend_locally",
    "convolve", "feature_evolution", "from_official", "head_similarity", "layer_similarity", "linear_cka", "load_official", "macs", "mix_heads",
    "neighbour_loss", "official_names", "parameters", "refine", "refine_vit", "similarity_by_layer",
]  # fmt: skip
