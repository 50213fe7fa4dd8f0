"""Whole networks: pictures in, logits out; the published sizes; weights from a file of the official code."""

import argparse
import copy
import pickle
import re
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._arguments import _flag, _got, _integer, _like, _number, _numbers, _option
from .blocks import EPS, Block, ClassBlock, ConvStem, FourierPositions, _check_heads, _check_parts

__all__ = ["CHECKPOINTS", "FAN", "PUBLISHED", "PUBLISHED_PARAMETERS", "from_official", "load"]

PATCHES = (2, 4, 8, 16)
RESIDUALS = ("normalised", "plain")
_SIZES = dict(image_size=224, patch_size=16, classes=1000)
PUBLISHED = {
    "FAN-T-ViT": dict(width=192, depth=12, heads=4, drop_path=0.0, **_SIZES),
    "FAN-S-ViT": dict(width=384, depth=12, heads=8, drop_path=0.2, **_SIZES),
    "FAN-B-ViT": dict(width=448, depth=18, heads=8, drop_path=0.35, **_SIZES),
    "FAN-L-ViT": dict(width=480, depth=24, heads=10, drop_path=0.3, **_SIZES),
}
# counted from the official code; its README says 7.3, 28.0, 54.0 and 80.5 million
PUBLISHED_PARAMETERS = {"FAN-T-ViT": 7.32e6, "FAN-S-ViT": 28.35e6, "FAN-B-ViT": 54.35e6, "FAN-L-ViT": 80.57e6}
# release files of zhoudaquan/fully_attentional_network_ckpt, v1.0.0; there is none of FAN-L-ViT
CHECKPOINTS = {"FAN-T-ViT": "fan_vit_tiny.pth.tar", "FAN-S-ViT": "fan_vit_small.pth.tar", "FAN-B-ViT": "fan_vit_base.pth.tar"}


class FAN(nn.Module):
    """A fully attentional network: pictures (B, 3, S, S) -> logits (B, classes).

    image_size: S in px, a multiple of patch_size (2, 4, 8 or 16); nothing in the network depends on it, and `model.image_size = 384` lets the same weights
    see larger pictures. width: channels C, a multiple of heads and of patch_size / 2; depth: blocks, before `class_blocks` of class attention.

    channel, gate, value, batch_norm, mlp_ratio: of `ChannelBlock`. channel="eca" is FAN; its twins with "se", "mlp" or gate="mean" differ from it in the gate
    only, and channel="mlp", value="plain" has the blocks of an ordinary vision transformer. class_residual: of class attention, "normalised" as in the
    official code or "plain" as in CaiT. eta: LayerScale at first. drop_path: chance that a branch is left out for a picture, the same in all blocks.

    Parameters with one axis (gains, biases, temperatures, the class token) are those that take no weight decay.
    """

    def __init__(
        self, *, image_size: int = 32, patch_size: int = 4, width: int = 64, depth: int = 4, heads: int = 2, classes: int = 10, channel: str = "eca",
        gate: str = "picture", value: str = "depthwise", batch_norm: bool = True, mlp_ratio: float = 4.0, class_blocks: int = 2,
        class_residual: str = "normalised", eta: float = 1.0, drop_path: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.image_size, self.patch_size = _integer("image_size", image_size, 1), _patch(patch_size)
        width, heads = _check_heads(width, heads)
        depth, classes, class_blocks = _integer("depth", depth, 1), _integer("classes", classes, 1), _integer("class_blocks", class_blocks, 1)
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, {patch_size}, got {image_size}")
        if width % (self.patch_size // 2):
            raise ValueError(f"width must be a multiple of patch_size / 2, {patch_size // 2}, got {width}")
        shared = dict(mlp_ratio=_number("mlp_ratio", mlp_ratio, 1 / width), eta=_number("eta", eta), drop_path=_number("drop_path", drop_path, 0, 0.99))
        _option("class_residual", class_residual, RESIDUALS)
        _check_parts(channel, gate, value, batch_norm)
        self.stem, self.positions = ConvStem(self.patch_size, width), FourierPositions(width)
        self.blocks = nn.ModuleList(Block(width, heads, channel=channel, gate=gate, value=value, batch_norm=batch_norm, **shared) for _ in range(depth))
        self.class_token = nn.Parameter(torch.zeros(width))
        self.class_blocks = nn.ModuleList(ClassBlock(width, heads, residual=class_residual, **shared) for _ in range(class_blocks))
        self.norm, self.head = nn.LayerNorm(width, eps=EPS), nn.Linear(width, classes)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images):
        """Logits (B, classes) of pictures (B, 3, S, S); tensors for tensors, arrays for all else, in the dtype of the weights."""
        x = self._walk(images)[-1]
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1)
        for block in self.class_blocks:
            x = block(x)
        return _like(images, self.head(self.norm(x)[:, 0]))

    def features(self, images, *, every: bool = False):
        """The patches' tokens (B, N, C) behind the last block, before class attention. every=True: a list of depth + 1, what enters the first block first."""
        every, seen = _flag("every", every), self._walk(images)
        return [_like(images, x) for x in seen] if every else _like(images, seen[-1])

    def attention_maps(self, images):
        """What the tokens of every block take from each other: (B, depth, heads, N, N), rows sum to 1."""
        found = [block.token.attention(block.norm_token(x)) for block, x in zip(self.blocks, self._walk(images))]
        return _like(images, torch.stack(found, 1))

    def gates(self, images):
        """Each picture's own gates in every block, T included: (B, depth, heads, d). ValueError where `channel` has none."""
        return _like(images, torch.stack([block.gate(x, grid) for block, x, grid in self._places(images)], 1))

    @torch.no_grad()
    def with_mean_gates(self, images) -> "FAN":
        """A copy in which every gate is replaced by its mean over these pictures, and does not depend on the picture any more; in eval mode.

        What the copy says worse than the original is what the gates' content is worth.
        """
        model = copy.deepcopy(self).eval()
        pictures = self._pictures(images)
        parts = pictures.split(256)
        total = sum(torch.stack([block.gate(x, grid).sum(0) for block, x, grid in model._places(part)]) for part in parts)
        for block, mean in zip(model.blocks, total / len(pictures), strict=True):
            with_t, t = mean, block.channel.temperature.detach()[:, None]
            if (t == 0).any():
                raise ValueError("with_mean_gates needs temperatures that are not 0, which leave nothing of a gate to take the mean of")
            block.channel.register_buffer("mean_gate", with_t / t)
        return model

    def _pictures(self, images: Any) -> Tensor:
        weight = self.head.weight
        pictures = _numbers("images", images, f"B 3 {self.image_size} {self.image_size}", hollow=weight.is_meta, detach=False)
        if isinstance(images, Tensor) and images.device != weight.device:
            raise ValueError(f"images must lie where the network does, on {weight.device}, got {images.device}")
        return pictures.to(weight)

    def _walk(self, images: Any) -> list[Tensor]:
        """The tokens before the first block and behind each."""
        x, grid = self.stem(self._pictures(images))
        seen = [x + self.positions(grid)]
        for block in self.blocks:
            seen.append(block(seen[-1], grid))
        return seen

    def _places(self, images: Any) -> list[tuple[Block, Tensor, tuple[int, int]]]:
        """Every block with what comes into it."""
        grid = tuple(-(-side // self.patch_size) for side in self._pictures(images).shape[2:])
        return [(block, x, grid) for block, x in zip(self.blocks, self._walk(images))]


def _patch(value: Any) -> int:
    if _integer("patch_size", value, 1) not in PATCHES:
        raise ValueError(f"patch_size must be one of {', '.join(map(str, PATCHES))}, got {value}")
    return int(value)


# -------------------------------------------------------------------------------------------------------------------- official weights

_ROOT = {
    "patch_embed.proj": "stem.layers", "pos_embed.token_projection": "positions.project", "cls_token": "class_token", "norm": "norm", "head": "head",
}  # fmt: skip
_BLOCK = {
    "norm1": "norm_token", "attn.q": "token.query", "attn.kv": "token.key_value", "attn.proj": "token.project", "gamma1": "scale_token",
    "norm2": "norm_channel", "mlp.q": "channel.query", "mlp.temperature": "channel.temperature", "mlp.norm_v": "channel.norm", "gamma2": "scale_channel",
    "mlp.mlp_v.fc1": "channel.value.fc1", "mlp.mlp_v.fc2": "channel.value.fc2", "mlp.mlp_v.gamma": "channel.value.gamma",
    "mlp.mlp_v.dwconv.conv1": "channel.value.conv1", "mlp.mlp_v.dwconv.bn": "channel.value.norm", "mlp.mlp_v.dwconv.conv2": "channel.value.conv2",
}  # fmt: skip
_CLASS_BLOCK = {
    "norm1": "norm_attention", "attn.q": "attention.query", "attn.k": "attention.key", "attn.v": "attention.value", "attn.proj": "attention.project",
    "gamma1": "scale_attention", "norm2": "norm_mlp", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "gamma2": "scale_mlp",
}  # fmt: skip


def _renamed(name: str) -> str:
    place = re.fullmatch(r"(blocks|cls_attn_blocks)\.(\d+)\.(.+)", name)
    table, front, rest = _ROOT, "", name
    if place:
        table, front = (_BLOCK, f"blocks.{place[2]}.") if place[1] == "blocks" else (_CLASS_BLOCK, f"class_blocks.{place[2]}.")
        rest = place[3]
    for theirs, ours in table.items():
        if rest == theirs or rest.startswith(f"{theirs}."):
            return f"{front}{ours}{rest[len(theirs) :]}"
    raise ValueError(f"state must have the names of an official FAN-ViT, got {name!r}, which is none of them")


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an official FAN-ViT under the names that `FAN` has: what `load_state_dict` takes.

    state: names -> tensors, as the official code saves them; "module." in front is dropped. The class token and the temperatures lose their axes of size 1.
    Raises ValueError for a name that no FAN-ViT has, TypeError for what is no such mapping.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise TypeError(f"state must be a mapping from names to tensors, got {_got(state)}")
    if not state:
        raise ValueError("state must hold the weights of an official FAN-ViT, got none")
    found = {}
    for name, value in state.items():
        ours = _renamed(name.removeprefix("module."))
        found[ours] = value.flatten() if ours == "class_token" or ours.endswith("temperature") else value
    return found


def load(file: str | PathLike, name: str = "FAN-T-ViT", *, ema: bool = False) -> FAN:
    """A published network with the weights of an official file on this machine, in eval mode, on the CPU.

    file: a checkpoint as `CHECKPOINTS` names it; name: one of PUBLISHED; ema: the averaged weights, where the file has both. As many classes as the file's
    head has. Nothing is fetched. Raises FileNotFoundError where there is no such file, ValueError where it holds something else.
    """
    if not isinstance(file, (str, PathLike)) or not isinstance(fspath(file), str):
        raise TypeError(f"file must be a path, got {_got(file)}")
    name, ema, path = _option("name", name, tuple(PUBLISHED)), _flag("ema", ema), Path(file)
    if not path.is_file():
        from_where = f"{CHECKPOINTS[name]} is a release file of zhoudaquan/fully_attentional_network_ckpt, v1.0.0" if name in CHECKPOINTS else "none is public"
        raise FileNotFoundError(f"file must be a checkpoint of {name} on this machine, and there is none at {path}: {from_where}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of the training, which lie beside the weights
            held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"file must be a checkpoint that torch can read as weights only, got {path}") from error
    key = "state_dict_ema" if ema else "state_dict"
    if isinstance(held, Mapping) and key in held:
        held = held[key]
    elif ema:
        raise ValueError(f"ema must be False where the file has no averaged weights ({key}), and {path} has none")
    try:
        state = from_official(held)
    except (TypeError, ValueError) as error:
        raise ValueError(f"file must hold the weights of {name}, got {path}, where {error}") from error
    classes = {"classes": len(state["head.weight"])} if "head.weight" in state and state["head.weight"].ndim else {}
    with torch.device("meta"):
        model = FAN(**PUBLISHED[name] | classes)
    wanted = model.state_dict()
    counts = {name for name in wanted if name.endswith("num_batches_tracked")}  # how many batches were seen, which old files do not say
    if wrong := sorted((wanted.keys() ^ state.keys()) - counts) + sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape):
        raise ValueError(f"file must hold the weights of {name}, got {path}, where {len(wrong)} are missing, too many or of another shape, {wrong[0]} first")
    model.load_state_dict({name: torch.zeros(wanted[name].shape, dtype=wanted[name].dtype) for name in counts} | state, assign=True)
    return model.eval()
