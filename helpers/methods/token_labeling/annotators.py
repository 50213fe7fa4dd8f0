"""Where score maps and token labels come from: convolutional classifiers read cell by cell, true masks, and maps that are wrong on purpose."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _generator, _got, _grid, _instance, _integer, _like, _numbers, _option, _pictures
from ._seeding import _seeded
from .labels import Labels

__all__ = ["Annotator", "annotate", "labels_from_masks", "shuffled_maps", "token_maps"]

SHUFFLED, BACKGROUNDS = ("places", "pictures", "classes"), ("even", "nothing")


# ------------------------------------------------------------------------------------------------- classifiers read cell by cell


class Annotator(nn.Module):
    """A small convolutional classifier of pictures (B, 3, H, W) with a cell for each 4 px: it learns from labels of whole pictures only, and gives a map.

    Four 3 x 3 convolutions with BN and ReLU, the second and the third with stride 2, then the mean over cells and a linear layer. generator: of the start.
    """

    def __init__(self, classes: int, width: int = 32, *, generator: torch.Generator | None = None):
        super().__init__()
        classes, width = _integer("classes", classes, 1), _integer("width", width, 1)
        unit = lambda come, go, stride: [nn.Conv2d(come, go, 3, stride, 1, bias=False), nn.BatchNorm2d(go), nn.ReLU()]  # noqa: E731
        with _seeded(_generator(generator)):
            self.features = nn.Sequential(*unit(3, width, 1), *unit(width, 2 * width, 2), *unit(2 * width, 2 * width, 2), *unit(2 * width, 2 * width, 1))
            self.classifier = nn.Linear(2 * width, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.classifier(self.features(_pictures(pictures, self.classifier.weight)).mean((2, 3)))


@torch.no_grad()
def annotate(model: nn.Module, pictures: Tensor, *, features: str = "features", head: str | Sequence[str] = "classifier") -> Tensor:
    """The score map (B, K, h, w) of a classifier that averages a feature map: its head, which follows the mean, is applied to each cell instead.

    pictures: what the model takes, whole and not cropped. features: the name of the module that gives the map (B, C, h, w), a tensor or with a
    last_hidden_state; head: the name of the module behind the mean, or several in their order: "classifier" for the `Annotator`; of transformers
    features="resnet.encoder" for ResNet, and features="convnext.encoder", head=("convnext.layernorm", "classifier") for ConvNeXt.
    With a linear head the mean of the scores over the cells is what the classifier says of the picture. The model must be in eval mode.
    """
    if any(part.training for part in _instance("model", model, nn.Module, "a torch.nn.Module").modules()):
        raise ValueError("model must be in eval mode, got it or a part of it in training mode; call model.eval()")
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or not pictures.numel():
        raise (ValueError if isinstance(pictures, Tensor) else TypeError)(f"pictures must be a tensor (B, C, H, W) with pictures in it, got {_got(pictures)}")
    source = _submodule(model, "features", features)
    heads = [_submodule(model, "head", one) for one in (head if isinstance(head, (list, tuple)) else [head])]
    if not heads:
        raise ValueError(f"head must be the name of a module of the model or several, got {head!r}")
    seen = []
    handle = source.register_forward_hook(lambda _, __, found: seen.append(getattr(found, "last_hidden_state", found)))
    try:
        model(pictures)
    finally:
        handle.remove()
    if not seen or not isinstance(seen[-1], Tensor) or seen[-1].ndim != 4:
        raise ValueError(f"features must name a module that gives a map (B, C, h, w), got {_got(seen[-1]) if seen else 'one that was not called'}")
    cells = seen[-1].permute(0, 2, 3, 1)
    scores = cells.flatten(0, 2)
    try:
        for module in heads:
            scores = module(scores)
    except Exception as error:  # whatever a module makes of rows that are not for it
        expected = f"modules that read rows of {cells.shape[3]} channels, one for each cell"
        raise ValueError(f"head must name {expected}, got {_got(head)}: {' '.join(str(error).split())[:80]}") from error
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != cells[..., 0].numel():
        raise ValueError(f"head must name modules that give one row of scores for each cell, got {_got(scores)} for {cells[..., 0].numel()} cells")
    return scores.unflatten(0, cells.shape[:3]).permute(0, 3, 1, 2)


def _submodule(model: nn.Module, argument: str, name: Any) -> nn.Module:
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be the name of a module of the model, got {_got(name)}")
    found = dict(model.named_modules()).get(name) if name else None
    if found is None:
        raise ValueError(f"{argument} must be the name of a module of the model, such as {', '.join(n for n, _ in model.named_children())}; got {name!r}")
    return found


def token_maps(tokens, grid: tuple[int, int]):
    """What belongs to tokens, (B, N, K) on a grid (h, w), as maps (B, K, h, w): token logits of a ViT annotator, or token labels to look at. Like tokens."""
    rows, columns = _grid("grid", grid)
    given = _numbers("tokens", tokens, f"B {rows * columns} K", detach=False)
    return _like(tokens, given.transpose(1, 2).unflatten(2, (rows, columns)))


# --------------------------------------------------------------------------------------------------------------------- true masks


def labels_from_masks(masks, object_classes, grid: tuple[int, int], *, classes: int, background: int | str = "even") -> Labels:
    """Exact soft labels: the share of each token's area that each class covers, and the same for the whole picture. `Labels`, float32, like masks.

    masks (B, H, W): whole numbers, 0 background, m for object m; object_classes (B, M): the class of objects 1 to M, -1 where there is none; grid (rows,
    columns) of tokens, which divide H and W; classes: K. background: the number of a class of its own; "even": its share is spread evenly over all K classes;
    "nothing": it is left out, so that rows sum to the covered share.
    """
    given = _numbers("masks", masks, "B H W", whole=True, low=0)
    classes, (rows, columns) = _integer("classes", classes, 1), _grid("grid", grid)
    named = _numbers("object_classes", object_classes, f"{len(given)} M", like="masks", whole=True, low=-1, high=classes - 1).to(given.device).long()
    if given.shape[1] % rows or given.shape[2] % columns:
        raise ValueError(f"grid must divide the masks' sides, {given.shape[1]} x {given.shape[2]}, got {rows} x {columns}")
    if isinstance(background, str):
        behind = classes  # one more column, which is dealt out below
        _option("background", background, BACKGROUNDS)
    else:
        behind = _integer("background", background, 0, classes - 1)
    if given.max() > named.shape[1]:
        raise ValueError(f"masks must have objects up to {named.shape[1]}, the number of object_classes, got object {int(given.max())}")
    names = torch.cat([torch.full_like(named[:, :1], behind), named], 1)
    seen = names.gather(1, given.flatten(1).long())
    if seen.min() < 0:
        raise ValueError("object_classes must name a class for each object in masks, got -1 for one that is there")
    tokens = seen.view(len(given), rows, given.shape[1] // rows, columns, -1).transpose(2, 3).flatten(3).flatten(1, 2)  # (B, N, pixels of a token)
    counts = torch.zeros(*tokens.shape[:2], classes + 1, device=given.device).scatter_add_(2, tokens, torch.ones_like(tokens, dtype=torch.float32))
    shares = counts / tokens.shape[2]
    of_tokens = shares[..., :classes] + (shares[..., classes:] / classes if background == "even" else 0)
    return Labels(_like(masks, of_tokens.mean(1)), _like(masks, of_tokens))


# ---------------------------------------------------------------------------------------------------------------- wrong on purpose


def shuffled_maps(maps, over: str = "places", *, generator: torch.Generator | None = None):
    """Maps (B, K, h, w) of an annotator that is wrong, as a control. Like maps.

    over "places": the cells of each picture in an order of their own, so that what is there is right and where is not; "pictures": each picture has the map of
    another one; "classes": each class goes by the name of another one, the same in all pictures.
    """
    given, over, _ = _numbers("maps", maps, "B K h w", detach=False), _option("over", over, SHUFFLED), _generator(generator)
    place = "cpu" if generator is None else generator.device
    if over == "places":
        order = torch.rand(len(given), given[0, 0].numel(), generator=generator, device=place).argsort(1).to(given.device)
        return _like(maps, given.flatten(2).gather(2, order[:, None].expand(-1, given.shape[1], -1)).view_as(given))
    axis = 0 if over == "pictures" else 1
    if given.shape[axis] < 2:
        raise ValueError(f"maps must be of 2 {over} or more to be shuffled over them, got 1")
    ring = torch.randperm(given.shape[axis], generator=generator, device=place).to(given.device)
    order = torch.empty_like(ring).scatter_(0, ring, ring.roll(1))  # everyone gets that of the one before in the ring, nobody its own
    return _like(maps, given.index_select(axis, order))
