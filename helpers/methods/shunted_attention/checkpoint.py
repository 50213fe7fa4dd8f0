"""The authors' weights: which name there is which name here, and loading them from a local file.

The official files lie on Google Drive and Baidu only (S is called ckpt_s.pth); nothing is fetched.
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
from .models import Shunted

__all__ = ["from_official", "load_official", "official_names"]

# inside a block: here -> there; {g} is the number of the group, empty where there is one group
_INSIDE = {
    "attention.q": "attn.q", "attention.proj": "attn.proj", "conv": "attn.sr{g}", "norm": "attn.norm{g}", "kv": "attn.kv{g}", "local": "attn.local_conv{g}",
    "ffn.fc1": "mlp.fc1", "ffn.local": "mlp.dwconv.dwconv", "ffn.fc2": "mlp.fc2", "norm1": "norm1", "norm2": "norm2",
}  # fmt: skip
_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)\.(\w+)")
_GROUP = re.compile(r"attention\.groups\.(\d+)\.(\w+)")
_STAGE = re.compile(r"stages\.(\d+)\.(embedding\.(?:conv|norm)|norm)(?:\.(\d+))?\.(\w+)")


def official_names(model: Shunted) -> dict[str, str]:
    """{name in model.state_dict(): name in the official file}, for a model that is built as the official ones are.

    ValueError for another one: each stage must have two groups, or rates (1,), local terms and the detail-specific layer where the paper has them, and the
    convolutional stem with stride 4.
    """
    _instance("model", model, Shunted, "a Shunted")
    _built_as_official(model)
    return {name: _official(name, model) for name in model.state_dict()}


def _built_as_official(model: Shunted) -> None:
    for number, stage in enumerate(model.stages, 1):
        attention, ffn = stage.blocks[0].attention, stage.blocks[0].ffn
        last = attention.rates == (1,)
        normed = all(isinstance(group.norm, torch.nn.LayerNorm) and isinstance(group.activation, torch.nn.GELU) for group in attention.groups)
        if attention.local != ("output" if last else "value") or ffn.detail != "added":
            raise ValueError(f"model must have local='official' and detail='added', got {attention.local!r} and {ffn.detail!r} in stage {number}")
        if last and attention.groups[0].conv is not None:
            raise ValueError(f"model must read the tokens themselves at rates (1,), got rate_one='conv' in stage {number}")
        if not last and (len(attention.rates) != 2 or not normed):
            raise ValueError(f"model must have two groups with norm and activation, or rates (1,), got rates {attention.rates} in stage {number}")
    if not isinstance(model.stages[0].embedding.conv, torch.nn.Sequential) or model.stem_stride != 4:
        raise ValueError(f"model must have stem='conv' of stride 4, got {type(model.stages[0].embedding.conv).__name__} of stride {model.stem_stride}")


def _official(name: str, model: Shunted) -> str:
    if name.startswith("classifier."):
        return name.replace("classifier", "head")
    if block := _BLOCK.fullmatch(name):
        stage, number, inside, leaf = block.groups()
        group = _GROUP.fullmatch(inside)
        several = len(model.stages[int(stage)].blocks[0].attention.groups) > 1
        part = _INSIDE[group[2] if group else inside].format(g=int(group[1]) + 1 if group and several else "")
        return f"block{int(stage) + 1}.{number}.{part}.{leaf}"
    stage, part, place, leaf = _STAGE.fullmatch(name).groups()
    if part == "norm":
        return f"norm{int(stage) + 1}.{leaf}"
    inside = {"embedding.norm": "norm", "embedding.conv": "proj" if place is None else f"conv.{place}"}[part]
    return f"patch_embed{int(stage) + 1}.{inside}.{leaf}"


def from_official(state: Mapping[str, Tensor], model: Shunted) -> Shunted:
    """Put weights under their official names into a model, which is returned. ValueError, with the model as it was, unless every name and shape fits."""
    if not isinstance(state, Mapping) or any(not isinstance(key, str) or not isinstance(value, Tensor) for key, value in state.items()):
        raise TypeError(f"state must be a mapping of names to tensors, got {_got(state) if not isinstance(state, Mapping) else 'one with other things in it'}")
    names, own = official_names(model), model.state_dict()
    given = {key.removeprefix("module."): value for key, value in state.items()}
    absent, unknown = sorted(set(names.values()) - set(given)), sorted(set(given) - set(names.values()))
    if absent or unknown:
        text = lambda some: f"{len(some)} ({', '.join(some[:2])}{', ...' if len(some) > 2 else ''})" if some else "none"  # noqa: E731
        raise ValueError(f"state must hold the {len(names)} names of the model, got {text(absent)} too few and {text(unknown)} too many")
    for name, official in names.items():
        if given[official].shape != own[name].shape:
            raise ValueError(f"state must have {official} of shape {tuple(own[name].shape)}, got {tuple(given[official].shape)}")
    model.load_state_dict({name: given[official] for name, official in names.items()})
    return model


def load_official(model: Shunted, path: str | Path) -> Shunted:
    """`from_official` of a local file: a state dict, or one under "model" or "state_dict". ValueError, one sentence, where the file is absent.

    The official code drops what is over at the border of a grid; for pictures whose grids are no multiples of the rates build the model with border="drop".
    """
    _instance("model", model, Shunted, "a Shunted")
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be the path of a file, got {_got(path)}")
    if not Path(path).is_file():
        raise ValueError(f"path must be a local file of the official weights, which the authors keep on Google Drive and Baidu only, got {_got(str(path))}")
    return from_official(_read(Path(path)), model)


def _read(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):  # the training's options lie beside the weights
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch makes of another file
            raise ValueError(f"path must be a file of weights that torch.load can read safely, got {path.name}: {str(error).splitlines()[0][:80]}") from error
    for key in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return found[key]
    return found
