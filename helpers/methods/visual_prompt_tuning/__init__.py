"""Visual prompt tuning (VPT): a few tokens that are trained in front of a frozen vision transformer.

Jia, Tang, Chen, Cardie, Belongie, Hariharan and Lim, "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119.

    prompts = add_prompts(model, num_prompts=10, mode="deep")      # freezes the model; the prompts and model.classifier train
    optimiser = torch.optim.SGD([*prompts.parameters(), *model.classifier.parameters()], lr=1.0, momentum=0.9)
    ...
    torch.save({"prompts": prompts.state_dict(), "head": model.classifier.state_dict()}, "task.pt")  # all that a task stores
    prompts.remove()                                               # the model as it came

`prompts` has the arithmetic; `attach` is the door, `tokens`, `pixels` and `swin` are the places where prompts can go; `frozen` finds blocks and freezes
models; `adapters` has a rival that the paper compares with. Copy this folder, under any name, and it works.
"""

from .adapters import Adapters, add_adapters
from .attach import add_prompts
from .frozen import Attached, attached, transformer_blocks
from .pixels import PixelPrompts
from .prompts import class_rows, init_bound, new_head, pooled, scaled_rate, trainable_numbers, warmup_cosine, with_one_prompt
from .swin import SwinPrompts, into_windows, out_of_windows
from .tokens import Attention, Prompts, class_attention, class_tokens

__all__ = [
    "Adapters", "Attached", "Attention", "PixelPrompts", "Prompts", "SwinPrompts", "add_adapters", "add_prompts", "attached", "class_attention", "class_rows",
    "class_tokens", "init_bound", "into_windows", "new_head", "out_of_windows", "pooled", "scaled_rate", "trainable_numbers", "transformer_blocks",
    "warmup_cosine", "with_one_prompt",
]  # fmt: skip
