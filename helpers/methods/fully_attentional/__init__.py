"""Fully attentional networks (FAN): tokens fall into groups by self-attention, channels compete in a gate, and accuracy holds under corruption.

Zhou, Yu, Xie, Xiao, Anandkumar, Feng and Alvarez, "Understanding The Robustness in Vision Transformers", ICML 2022, arXiv 2204.12451. Where the paper and the
official code differ, this follows the code, and options show the other.

    model = FAN(image_size=32, patch_size=4, width=64, depth=4, heads=2, classes=10)     # logits (B, 10) of pictures (B, 3, 32, 32)
    twin = FAN(..., channel="se")                                                        # the same network with another gate; "mlp" has none
    tokens = model.eval().features(images)                                               # (B, 64, 64): what the patches have become
    labels = group_tokens(token_affinity(tokens[0]), 3)                                  # which of them belong together
    score = group_scores(paint(labels, (8, 8), 4), masks)                                # and whether that is what is to be seen

`blocks` has the gate and the parts of a network, `network` the whole of it, the published sizes and official weights; `grouping` and `noise` measure;
`bottleneck` is attention as clustering. Tensors, arrays and lists are taken; bad arguments raise ValueError or TypeError that names the argument, before any
work is done. Copy this folder, under any name, and it works.
"""

from .blocks import CHANNELS, GATES, VALUES, ChannelBlock, TokenMixing, channel_attention, channel_gate, fourier_features
from .bottleneck import Clustering, soft_assignment, soft_clusters, updated_centres
from .grouping import Agreement, Spectrum, attention_affinity, group_scores, group_tokens, paint, significant_eigenvalues, token_affinity
from .network import CHECKPOINTS, FAN, PUBLISHED, PUBLISHED_PARAMETERS, from_official, load
from .noise import noise_decay

__all__ = [
    "CHANNELS", "CHECKPOINTS", "FAN", "GATES", "PUBLISHED", "PUBLISHED_PARAMETERS", "VALUES", "Agreement", "ChannelBlock", "Clustering",
    "Spectrum", "TokenMixing", "attention_affinity", "channel_attention", "channel_gate", "fourier_features", "from_official",
    "group_scores", "group_tokens", "load", "noise_decay", "paint", "significant_eigenvalues", "soft_assignment",
    "soft_clusters", "token_affinity", "updated_centres",
]  # fmt: skip
