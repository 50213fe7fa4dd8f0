"""Shunted self-attention: several rates of down-sampling inside one attention layer, each for a group of heads.

Ren, Zhou, He, Feng and Wang, "Shunted Self-Attention via Multi-Scale Token Aggregation", CVPR 2022, arXiv 2111.15193.

    layer = ShuntedAttention(64, 2, rates=(8, 4))                     # keys of 8 x 8 places for one half of the heads, of 4 x 4 for the other
    model = Shunted(**SIZES["toy-64"], classes=10)                    # logits of pictures (B, 3, 64, 64)
    peer = Pyramid(**SIZES["toy-64"] | dict(rates=(4, 2, 2, 1)), classes=10)  # the same network with one rate a layer

`attention` has the maths, `models` whole networks and their peers, `checkpoint` the authors' weights, `looking` what a layer looks at. Copy this folder, under
any name, and it works.
"""

from .attention import FeedForward, ShuntedAttention, aggregate, attend, attention_macs, depthwise, reduced_grid
from .checkpoint import from_official, load_official, official_names
from .looking import GroupMaps, attention_maps, effective_area, lay_back, mean_distance, receptive_field
from .models import SIZES, Pyramid, Shunted, macs, parameters, plain_vit, pvt_v2, vit_width

__all__ = [
    "SIZES", "FeedForward", "GroupMaps", "Pyramid", "Shunted", "ShuntedAttention", "aggregate", "attend", "attention_macs", "attention_maps", "depthwise",
    "effective_area", "from_official", "lay_back", "load_official", "macs", "mean_distance", "official_names", "parameters", "plain_vit", "pvt_v2",
    "receptive_field", "reduced_grid", "vit_width",
]  # fmt: skip
