"""A vision transformer, frozen: its blocks found by their class, and what everything that is trained beside it shares."""

import re

from torch import nn

from ._arguments import _module

__all__ = ["Attached", "attached", "transformer_blocks"]

# classes of blocks that take (B, tokens, d) with the class token first
VIT_BLOCKS = ("ViTLayer", "CLIPEncoderLayer", "DeiTLayer", "Dinov2Layer", "ViTMSNLayer")
SWIN_BLOCKS = ("SwinLayer",)


# ----------------------------------------------------------------------------------------------------------------- finding things


def _is(module: nn.Module, names: tuple[str, ...]) -> bool:
    return any(cls.__name__ in names for cls in type(module).__mro__)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, out of torch's DataParallel or DistributedDataParallel, and refused where its hooks or its head would be missed."""
    while isinstance(_module("model", model), (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        raise ValueError("model must be as it was before torch.compile, got a compiled one, which may pass by hooks: give ._orig_mod, and compile that")
    if not isinstance(getattr(model, "classifier", None), nn.Module):
        for part in model.modules():
            if isinstance(getattr(part, "classifier", None), nn.Module):
                raise ValueError(f"model must be what has the .classifier, got {type(model).__name__} around a {type(part).__name__}: give that one")
    return model


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a vision transformer in their order, found by their class, wherever they lie.

    Raises ValueError for a model without any, for one with two towers (of which the one that sees must be given alone), and where a block comes twice.
    """
    return _blocks(model)[0]


def _blocks(model: nn.Module, names: tuple[str, ...] = VIT_BLOCKS + SWIN_BLOCKS) -> tuple[list[nn.Module], nn.Module]:
    """The blocks and the module that owns the list of them."""
    _module("model", model)
    owners, found = [], []
    for owner in model.modules():
        for child in owner.children():
            if isinstance(child, nn.ModuleList) and len(child) > 0 and all(_is(block, names) for block in child):
                owners.append(owner)
                found += child
    if not found:
        raise ValueError(f"model must have transformer blocks ({', '.join(names)}), got {type(model).__name__}, which has none of these")
    if len(owners) > 1 and not all(_is(block, SWIN_BLOCKS) for block in found):
        raise ValueError(f"model must have one list of blocks, got {type(model).__name__} with {len(owners)}: give the tower that sees, such as .vision_model")
    if len({id(block) for block in found}) < len(found):
        raise ValueError(f"model must have each of its blocks once, got {type(model).__name__}, where one module is several of its {len(found)} blocks")
    return found, owners[0]


def _patch_conv(model: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """The convolution that cuts a picture into patches, and its owner: the first one whose stride is its kernel."""
    for owner in model.modules():
        for child in owner.children():
            if isinstance(child, nn.Conv2d) and child.kernel_size == child.stride:
                return child, owner
    raise ValueError(f"model must have a patch embedding (a Conv2d whose stride is its kernel), got {type(model).__name__} without one")


def _first_conv(model: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    for owner in model.modules():
        for child in owner.children():
            if isinstance(child, nn.Conv2d):
                return child, owner
    raise ValueError(f"model must begin with a convolution over pictures, got {type(model).__name__} without one")


def _image_size(model: nn.Module, owner: nn.Module) -> tuple[int, int]:
    size = getattr(owner, "image_size", None) or getattr(getattr(model, "config", None), "image_size", None)
    if size is None:
        raise ValueError(f"model must say its image_size, in its patch embedding or its config, got {type(model).__name__} without one")
    return (size, size) if isinstance(size, int) else tuple(size)


# -------------------------------------------------------------------------------------------------------------- what all share


class Attached(nn.Module):
    """Something small that is trained on a frozen model. Its parameters() are what it trains beside the model's own head, its state_dict() what a task
    stores beside that head; remove() gives the model back as it came.

    It is no part of the model (`model.parameters()` does not show it), follows the model's train() and eval() from the model's next call on, and brings its
    numbers to the device and dtype of what they meet. The frozen part stays in eval mode whatever the model's mode is; gradient checkpointing, which
    transformers do in training mode only, is therefore off. What is frozen loses the gradients that it has: an optimiser of before would go on with them.

    It holds the model, so that a copy or a pickle of this object is one of the whole model: store state_dict(), and to have a copy of both, copy the model
    and ask `attached` for what is on the copy.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._model, self._handles, self._thawed, self._stilled = (_module("model", model),), [], {}, {}

    def _freeze(self, model: nn.Module, owner: nn.Module) -> None:
        """No gradient and no dropout in the backbone; the head stays free, and what a parametrisation adds to a weight stays as it is."""
        head = {id(p) for p in self._head().parameters()} if self._head() is not None else set()
        added = lambda name: ".parametrizations." in f".{name}" and not re.search(r"\.original\d*$", name)  # noqa: E731
        frozen = {n: p for n, p in model.named_parameters() if id(p) not in head and not added(n)}
        self._thawed = {n: p for n, p in frozen.items() if p.requires_grad}
        for parameter in frozen.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        inside = set() if self._head() is None else set(self._head().modules())
        self._backbone = tuple(m for m in model.modules() if m is not model and m not in inside)
        for module in dict.fromkeys((model, owner)):
            self._handles.append(module.register_forward_pre_hook(self._follow, prepend=True))

    def _head(self) -> nn.Module | None:
        head = getattr(self._model[0], "classifier", None)
        return head if isinstance(head, nn.Module) else None

    def _follow(self, module: nn.Module, args: tuple) -> None:
        if module is self._model[0]:
            self.train(module.training)
        if any(p.is_meta for p in self.parameters()) and not any(p.is_meta for p in self._model[0].parameters()):
            raise ValueError("model must have its numbers when something is attached, got one that was on the meta device then: remove() that and attach again")
        for part in self._backbone:
            if part.training:
                part.training = False
                self._stilled[part] = True

    def remove(self) -> None:
        """Take the hooks away, let the model's parameters ask for gradients again as they did before, also those that were loaded in their place since, and
        put a model in training mode back into it as a whole. A second call does nothing."""
        for handle in self._handles:
            handle.remove()
        others = _attached(self._model[0])
        if others:  # the model is still frozen for them
            others[0]._thawed |= self._thawed
            others[0]._stilled |= self._stilled
        else:
            known = {id(p) for p in self._thawed.values()}
            for name, parameter in self._model[0].named_parameters():
                if name in self._thawed or id(parameter) in known:
                    parameter.requires_grad_(True)
            for part in self._stilled if self._model[0].training else ():
                part.training = True
        self._handles, self._thawed, self._stilled = [], {}, {}


def attached(model: nn.Module) -> list[Attached]:
    """What is attached to a model, each once: the prompts and adapters of a deep copy too, which are other ones than those of the model it was made from.
    An empty list where nothing is. TypeError for what is no module."""
    return list(dict.fromkeys(_attached(_module("model", model))))


def _attached(model: nn.Module, kind: type = Attached) -> list[Attached]:
    """What is attached to a model or to parts of it."""
    hooks = (hook for part in model.modules() for hook in part._forward_pre_hooks.values())
    return [owner for hook in hooks if isinstance(owner := getattr(getattr(hook, "func", hook), "__self__", None), kind)]
