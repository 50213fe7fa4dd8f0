"""The authors' weights: which name there is which name here, and loading them from a local file.

The official files are release files of zihangJiang/TokenLabeling (lvvit_s-26M-224-83.3.pth.tar and others); nothing is fetched.
"""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._arguments import _got, _hollow, _instance
from .models import LVViT

__all__ = ["from_official", "load_official", "official_names"]

_WHOLE = {"class_token": "cls_token", "positions": "pos_embed"}
_PARTS = {"head": "head", "token_head": "aux_head", "norm": "norm"}
_STEM = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3", "9": "proj"}
_INSIDE = {"norm1": "norm1", "attention.qkv": "attn.qkv", "attention.proj": "attn.proj", "norm2": "norm2", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def official_names(model: LVViT) -> dict[str, str]:
    """{name in model.state_dict(): name in the official file}, for a model that is built as the official ones are.

    ValueError for another one: it must have the convolutional stem, a token head and no bias of queries, keys and values.
    """
    _instance("model", model, LVViT, "an LVViT")
    if not isinstance(model.stem, torch.nn.Sequential):
        raise ValueError("model must have stem='conv', got 'patch'")
    if model.token_head is None:
        raise ValueError("model must have a token head, got token_head=False")
    if model.blocks[0].attention.qkv.bias is not None:
        raise ValueError("model must have queries, keys and values without a bias, got qkv_bias=True")
    return {name: _official(name) for name in model.state_dict()}


def _official(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    part, _, leaf = name.rpartition(".")
    if block := _BLOCK.fullmatch(part):
        return f"blocks.{block[1]}.{_INSIDE[block[2]]}.{leaf}"
    if part.startswith("stem."):
        return f"patch_embed.{_STEM[part.removeprefix('stem.')]}.{leaf}"
    return f"{_PARTS[part]}.{leaf}"


def from_official(state: Mapping[str, Tensor], model: LVViT) -> LVViT:
    """Put weights under their official names into a model, which is returned. ValueError, with the model as it was, unless each name, shape and kind of
    number fits."""
    if not isinstance(state, Mapping) or any(not isinstance(key, str) or not isinstance(value, Tensor) for key, value in state.items()):
        raise TypeError(f"state must be a mapping of names to tensors, got {_got(state) if not isinstance(state, Mapping) else 'one with other things in it'}")
    names, own = official_names(model), model.state_dict()
    given = {key.removeprefix("module."): value for key, value in state.items()}
    if len(given) < len(state):
        raise ValueError("state must hold each name once, got one with and without 'module.' in front")
    absent, unknown = sorted(set(names.values()) - set(given)), sorted(set(given) - set(names.values()))
    if absent or unknown:
        text = lambda some: f"{len(some)} ({', '.join(some[:2])}{', ...' if len(some) > 2 else ''})" if some else "none"  # noqa: E731
        raise ValueError(f"state must hold the {len(names)} names of the model, got {text(absent)} too few and {text(unknown)} too many")
    for name, official in names.items():
        if given[official].shape != own[name].shape:
            raise ValueError(f"state must have {official} of shape {tuple(own[name].shape)}, got {tuple(given[official].shape)}")
        if given[official].layout != torch.strided or _hollow(given[official]) or given[official].is_floating_point() != own[name].is_floating_point():
            raise ValueError(f"state must have {official} in {str(own[name].dtype).removeprefix('torch.')} or the like, got {_got(given[official])}")
    model.load_state_dict({name: given[official] for name, official in names.items()})
    return model


def load_official(model: LVViT, path: str | Path) -> LVViT:
    """`from_official` of a local file: a state dict, or one under "state_dict_ema", "state_dict" or "model". ValueError, one sentence, where it is absent."""
    _instance("model", model, LVViT, "an LVViT")
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be the path of a file, got {_got(path)}")
    if not Path(path).is_file():
        expected = "a local file of the official weights, such as lvvit_s-26M-224-83.3.pth.tar of the authors' releases"
        raise ValueError(f"path must be {expected}, got {_got(str(path))}")
    return from_official(_read(Path(path)), model)


def _read(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):  # the training's options lie beside the weights
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch makes of another file
            raise ValueError(f"path must be a file of weights that torch.load can read safely, got {path.name}: {str(error).splitlines()[0][:80]}") from error
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return found[key]
    return found
