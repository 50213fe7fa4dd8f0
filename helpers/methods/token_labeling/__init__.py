"""Token labeling: every patch token gets its own soft label, read from the score map of an annotator at the place that the token looks at.

Jiang, Hou, Yuan, Zhou, Shi, Jin, Wang and Feng, "All Tokens Matter: Token Labeling for Training Better Vision Transformers", NeurIPS 2021, arXiv 2104.10858.

    maps = store_maps(annotate(annotator, pictures))                  # once, of whole pictures
    boxes = random_crops(len(pictures))                               # at each step: the same box for pictures and labels
    labels = crop_labels(maps, boxes, size=14)
    model, box = LVViT(**SIZES["S"]), draw_box((14, 14))              # or WithTokenHead(ViTModel(...), ...), or any model that gives both logits
    outputs = model.outputs(crop(pictures, boxes, 224), box)          # MixToken, and token logits put back
    class_labels = mix_class_labels(labels.class_labels, kept_share(box, grid=(14, 14)))
    token_labeling_loss(*outputs, class_labels, labels.token_labels).total.backward()

`objective` has the loss, `labels` RoIAlign and the labels of crops, `storage` maps on disk, `annotators` where maps come from, `mixing` MixToken, `models`
LV-ViT, `checkpoint` the authors' weights. Copy this folder, under any name, and it works.
"""

from .annotators import Annotator, annotate, labels_from_masks, shuffled_maps, token_maps
from .checkpoint import from_official, load_official, official_names
from .labels import Labels, blend_truth, crop, crop_labels, image_labels, random_crops, roi_align, smooth
from .mixing import draw_box, impure_patches, kept_share, mix_box, mix_class_labels, mix_tokens, mixing_patches
from .models import PLAIN, SIZES, TRICKS, LVViT, Outputs, WithTokenHead, macs, parameters
from .objective import Losses, combine, token_labeling_loss
from .storage import StoredMaps, dense_maps, load_maps, official_maps, save_maps, store_maps

__all__ = [
    "PLAIN", "SIZES", "TRICKS", "Annotator", "LVViT", "Labels", "Losses", "Outputs", "StoredMaps", "WithTokenHead", "annotate", "blend_truth", "combine",
    "crop", "crop_labels", "dense_maps", "draw_box", "from_official", "image_labels", "impure_patches", "kept_share", "labels_from_masks", "load_maps",
    "load_official", "macs", "mix_box", "mix_class_labels", "mix_tokens", "mixing_patches", "official_maps", "official_names", "parameters",
    "random_crops", "roi_align", "save_maps", "shuffled_maps", "smooth", "store_maps", "token_labeling_loss", "token_maps",
]  # fmt: skip
