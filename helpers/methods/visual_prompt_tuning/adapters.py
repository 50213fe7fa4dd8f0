"""The rival of section 4: a small bottleneck behind each MLP of a frozen transformer, started so that it learns, or as the official code starts it."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._arguments import _generator, _integer, _option
from .frozen import Attached, _attached, _blocks, _unwrapped

__all__ = ["Adapters", "add_adapters"]


class Adapters(Attached):
    """One bottleneck a block: y + U gelu(D y) on what the block's MLP gives out, before the residual is added. `add_adapters` makes them.

    down, up: the linear layers D (d -> d / r) and U (d / r -> d) of each block.
    """

    def __init__(self, model, blocks, owner, *, reduction, init, generator):
        super().__init__(model)
        widths = [block.mlp.fc2.out_features for block in blocks]
        self.down = nn.ModuleList(nn.Linear(width, width // reduction) for width in widths)
        self.up = nn.ModuleList(nn.Linear(width // reduction, width) for width in widths)
        for down, up in zip(self.down, self.up):
            for number in (*up.parameters(), *down.parameters()):
                nn.init.zeros_(number)
            if init == "proper":
                nn.init.kaiming_normal_(down.weight, generator=generator)
        self.to(next(model.parameters()))
        self._freeze(model, owner)
        self._handles += [block.mlp.register_forward_hook(partial(self._behind, index)) for index, block in enumerate(blocks)]

    def _behind(self, index: int, mlp: nn.Module, args: tuple, output: Tensor) -> Tensor:
        down, up = self.down[index], self.up[index]
        hidden = F.gelu(F.linear(output, down.weight.to(output), down.bias.to(output)))
        return output + F.linear(hidden, up.weight.to(output), up.bias.to(output))


def add_adapters(model: nn.Module, *, reduction: int = 8, init: str = "proper", generator: torch.Generator | None = None) -> Adapters:
    """Freeze a vision transformer and put an adapter behind each MLP (Pfeiffer's place): 2 d d/r + d/r + d numbers a block; `model.classifier` stays free.

    reduction: r, with d / r >= 1; the paper's grid is 8, 64, 256. init: "proper" starts D at random and U at zero, so that the model is unchanged and
    everything learns; "official" starts both at zero, as the released code does: then U sees no hidden unit and D no U, so neither ever moves, and all that
    learns is U's bias. Returns Adapters, with remove(). ValueError or TypeError before anything is changed.
    """
    model = _unwrapped(model)
    _integer("reduction", reduction, 1), _option("init", init, ("proper", "official")), _generator(generator)
    blocks, owner = _blocks(model)
    for block in blocks:
        if not isinstance(getattr(getattr(block, "mlp", None), "fc2", None), nn.Linear):
            raise ValueError(f"model must have blocks with an .mlp that ends in .fc2, got {type(block).__name__}")
    least = min(block.mlp.fc2.out_features for block in blocks)
    _integer("reduction", reduction, 1, least)
    if _attached(model, Adapters):
        raise ValueError("model must be without adapters, got one that has some: remove() those first")
    return Adapters(model, blocks, owner, reduction=reduction, init=init, generator=generator)
