"""The authors' weights: which name there is which name here, and loading them from a local file.

One file has a public link, that of L at 448 px, on Google Drive; nothing is fetched. Shapes and counts are those of the authors' code; the names below have not
been compared with that file. Where it says otherwise the refusal begins to list what differs, and `names` takes another map.
"""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._arguments import _got, _instance
from .network import RefinerViT

__all__ = ["from_official", "load_official", "official_names"]

# here -> there
_ROOT = {
    "class_token": "cls_token", "positions": "pos_embed", "stem.proj": "patch_embed.proj", "norm": "norm", "head": "head", "token_head": "aux_head",
    **{f"stem.convs.{3 * i}": f"patch_embed.conv{i + 1}" for i in range(3)}, **{f"stem.convs.{3 * i + 1}": f"patch_embed.bn{i + 1}" for i in range(3)},
}  # fmt: skip
_BLOCK = {
    "norm1": "norm1", "attention.qkv": "attn.qkv", "attention.proj": "attn.proj", "attention.norm": "attn.adapt_bn",
    "attention.refiner.expand": "attn.DLA.conv_exp", "attention.refiner.local": "attn.DLA.depth_sep_conv", "attention.refiner.reduce": "attn.DLA.conv_pro",
    **{f"attention.refiner.norms.{i}": f"attn.DLA.bn{i + 1}" for i in range(3)},
    "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "mlp.gain": "mlp.gamma",
}  # fmt: skip
_BLOCKS = re.compile(r"(blocks\.\d+\.)(.+)")
WHERE = "the authors keep one on Google Drive only, that of L at 448 px"


def official_names(model: RefinerViT) -> dict[str, str]:
    """{name in model.state_dict(): name in the official file}, for a model that is built as the official ones are.

    ValueError for another one: it must have the convolutional stem, no block of kind "self", refine="inverted_residual" over the raster, accumulate, rescale
    and branch_scale as they are by default, and a gain in each MLP.
    """
    _instance("model", model, RefinerViT, "a RefinerViT")
    _built_as_official(model)
    return {name: _official(name) for name in model.state_dict()}


def _built_as_official(model: RefinerViT) -> None:
    if len(model.stem.convs) == 0:
        raise ValueError("model must have stem='conv', got 'patch'")
    for i, block in enumerate(model.blocks):
        attention = block.attention
        if attention.kind == "self":
            raise ValueError(f"model must have blocks of kinds plain and share, got 'self' in block {i}")
        if attention.kind == "share" and not isinstance(attention.norm, torch.nn.BatchNorm2d):
            raise ValueError(f"model must have refine='inverted_residual', got 'linear' in block {i}")
        # these show in no shape: the weights would fit and mean something else
        if attention.kind == "share" and attention.refiner.grid is not None:
            raise ValueError(f"model must have over='raster', got 'grid' in block {i}")
        if attention.kind == "share" and not attention.rescale:
            raise ValueError(f"model must have rescale=True, got False in block {i}")
        if attention.kind == "plain" and not attention.accumulate:
            raise ValueError(f"model must have accumulate=True, got False in block {i}")
        if block.branch_scale != 2:
            raise ValueError(f"model must have branch_scale=2, got {block.branch_scale:g} in block {i}")
        if block.mlp.gain is None:
            raise ValueError("model must have a gain in each MLP, got layer_scale=None")


def _official(name: str) -> str:
    place = _BLOCKS.fullmatch(name)
    front, rest, table = (*place.groups(), _BLOCK) if place else ("", name, _ROOT)
    if rest in table:
        return f"{front}{table[rest]}"
    part, _, leaf = rest.rpartition(".")
    return f"{front}{table[part]}.{leaf}"


def from_official(state: Mapping[str, Tensor], model: RefinerViT, *, names: Mapping[str, str] | None = None) -> RefinerViT:
    """Put weights under their official names into a model, which is returned; names: another map than `official_names(model)`, of the same form.

    ValueError, with the model as it was, unless every name and shape fits and all numbers are finite in the model's dtype: positions are of one picture size
    (`RefinerViT.resized` makes them of another).
    """
    if not isinstance(state, Mapping) or any(not isinstance(key, str) or not isinstance(value, Tensor) for key, value in state.items()):
        raise TypeError(f"state must be a mapping of names to tensors, got {_got(state) if not isinstance(state, Mapping) else 'one with other things in it'}")
    own, names = _instance("model", model, RefinerViT, "a RefinerViT").state_dict(), official_names(model) if names is None else _map(names, model)
    given = {key.removeprefix("module."): value for key, value in state.items()}
    absent, unknown = sorted(set(names.values()) - set(given)), sorted(set(given) - set(names.values()))
    if absent or unknown:
        text = lambda some: f"{len(some)} ({', '.join(some[:2])}{', ...' if len(some) > 2 else ''})" if some else "none"  # noqa: E731
        raise ValueError(f"state must hold the {len(names)} names of the model, got {text(absent)} too few and {text(unknown)} too many")
    for name, official in names.items():
        value, mine = given[official], own[name]
        if value.shape != mine.shape:
            raise ValueError(f"state must have {official} of shape {tuple(mine.shape)}, got {tuple(value.shape)}")
        hollow = value.is_meta and not mine.is_meta  # a shape without numbers
        if value.is_floating_point() != mine.is_floating_point() or value.is_complex() or value.layout != torch.strided or hollow:
            raise ValueError(f"state must have {official} as a {str(mine.dtype).removeprefix('torch.')} tensor or one like it, got {_got(value)}")
        if not value.is_meta and not value.to(mine.dtype).isfinite().all():
            raise ValueError(f"state must have finite numbers in {official}, got others, or some beyond {str(mine.dtype).removeprefix('torch.')}")
    model.load_state_dict({name: given[official] for name, official in names.items()})
    return model


def _map(names: Any, model: RefinerViT) -> dict[str, str]:
    if not isinstance(names, Mapping) or any(not isinstance(name, str) for name in names.values()):
        raise TypeError(f"names must be a mapping of names to names or None, got {_got(names)}")
    if set(names) != set(model.state_dict()) or len(set(names.values())) < len(names):
        raise ValueError("names must give each entry of model.state_dict() a name of its own, got other entries or the same name twice")
    return dict(names)


def load_official(model: RefinerViT, path: str | os.PathLike, *, names: Mapping[str, str] | None = None) -> RefinerViT:
    """`from_official` of a local file: a state dict, or one under "model" or "state_dict". ValueError, one sentence, where the file is absent.

    The public file is that of RefinerViT(**SIZES["L"] | dict(image_size=448)).
    """
    _instance("model", model, RefinerViT, "a RefinerViT")
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be the path of a file, got {_got(path)}")
    if not Path(path).is_file():
        raise ValueError(f"path must be a local file of the official weights ({WHERE}), got {_got(str(path))}")
    return from_official(_read(Path(path)), model, names=names)


def _read(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):  # the training's options lie beside the weights
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch makes of another file
            raise ValueError(
                f"path must be a file of weights that torch.load can read safely, got {path.name}: {(str(error) or type(error).__name__).splitlines()[0][:80]}"
            ) from error
    for key in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return found[key]
    return found
