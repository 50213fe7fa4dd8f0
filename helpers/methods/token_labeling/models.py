"""LV-ViT, its tricks one by one, and any encoder of tokens with two heads.

All of them: `model(pictures)` gives logits (B, K), never a tuple; `model.outputs(pictures, box=None)` class logits and token logits, for the loss.
"""

import abc
import copy
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ._arguments import _flag, _generator, _got, _grid, _instance, _integer, _number, _option, _pictures
from ._seeding import _seeded
from .mixing import _box, _mixed, _mixing
from .objective import _combine

__all__ = ["PLAIN", "SIZES", "TRICKS", "LVViT", "Outputs", "WithTokenHead", "macs", "parameters"]

STEMS = ("conv", "patch")

# the paper's models, and a small one whose grid is 8 places wide
SIZES = {
    "T": dict(image_size=224, patch_size=16, width=240, depth=12, heads=4, skip_lam=1, drop_path=0.1),  # the authors give no drop path for T
    "S": dict(image_size=224, patch_size=16, width=384, depth=16, heads=6, skip_lam=2, drop_path=0.1),
    "M": dict(image_size=224, patch_size=16, width=512, depth=20, heads=8, skip_lam=2, drop_path=0.2),
    "L": dict(image_size=448, patch_size=16, width=768, depth=24, heads=12, skip_lam=3, drop_path=0.3, stem_width=128),
    "toy-32": dict(image_size=32, patch_size=4, width=64, depth=4, heads=4, skip_lam=1, drop_path=0.0, stem="patch"),
}
# a plain vision transformer of 22 million, and what makes LV-ViT-S of it: `LVViT(**PLAIN | TRICKS["stem"])` has one of the tricks;
# token labels and MixToken are no part of the model, but of its training
PLAIN = dict(
    image_size=224, patch_size=16, width=384, depth=12, heads=6, mlp_ratio=4, stem="patch", skip_lam=1, qkv_bias=True, token_head=False, drop_path=0.1,
)  # fmt: skip
TRICKS = {
    "deeper": dict(depth=16), "narrower MLP": dict(mlp_ratio=3), "stem": dict(stem="conv"), "weaker branches": dict(skip_lam=2),
    "no bias of q, k, v": dict(qkv_bias=False), "token head": dict(token_head=True),
}  # fmt: skip


class Outputs(NamedTuple):
    """class_logits (B, K); token_logits (B, N, K), each of a token of its own picture, or None without a token head."""

    class_logits: Tensor
    token_logits: Tensor | None


# -------------------------------------------------------------------------------------------------------------------- parts of LV-ViT


def _stem(kind: str, width: int, patch_size: int, stem_width: int) -> nn.Module:
    """(B, 3, S, S) -> (B, width, S / patch, S / patch). "conv", the paper's: 7 x 7 with stride 2 and two 3 x 3, each with BN and ReLU, then half patches;
    "patch": a linear map of patches."""
    if kind == "patch":
        return nn.Conv2d(3, width, patch_size, patch_size)
    unit = lambda come, side, stride: [nn.Conv2d(come, stem_width, side, stride, side // 2, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU()]  # noqa: E731
    layers = [*unit(3, 7, 2), *unit(stem_width, 3, 1), *unit(stem_width, 3, 1)]
    return nn.Sequential(*layers, nn.Conv2d(stem_width, width, patch_size // 2, patch_size // 2))


class Attention(nn.Module):
    """Multi-head self-attention of tokens (B, N, C)."""

    def __init__(self, width: int, heads: int, *, bias: bool):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, d) each
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """X + Attn(LN X) / lambda, then X + MLP(LN X) / lambda; in training either branch is left out for a picture with probability `drop_path`."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, qkv_bias: bool, skip_lam: float, drop_path: float):
        super().__init__()
        self.skip_lam, self.drop_path = skip_lam, drop_path
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, bias=qkv_bias)
        hidden = int(mlp_ratio * width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._kept(self.attention(self.norm1(tokens))) / self.skip_lam
        return tokens + self._kept(self.mlp(self.norm2(tokens))) / self.skip_lam

    def _kept(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * keep.to(branch.dtype) / (1 - self.drop_path)


# ------------------------------------------------------------------------------------------------------------------------ two heads


class TwoHeads(nn.Module, abc.ABC):
    """A head for the class token and one for all other tokens. `encode(pictures, box)` gives normed tokens (B, 1 + N, C), the class token first.

    head, token_head (or None): linear layers; grid (rows, columns) of the N tokens; token_weight: of `combine` at inference, may be changed at any time.
    """

    head: nn.Linear
    token_head: nn.Linear | None
    grid: tuple[int, int]
    token_weight: float

    @abc.abstractmethod
    def encode(self, pictures: Tensor, box: tuple[int, int, int, int] | None) -> Tensor:
        """Normed tokens (B, 1 + N, C); box: that of MixToken, None for none."""

    def features(self, pictures: Tensor) -> Tensor:
        """(B, C): the class token, which `head` reads."""
        return self.encode(pictures, None)[:, 0]

    def outputs(self, pictures: Tensor, box: tuple[int, int, int, int] | None = None) -> Outputs:
        """Class logits and token logits. box (r0, c0, r1, c1): MixToken on the grid; token logits are put back to the pictures that the tokens are of, class
        logits are of the mixed pictures."""
        box = None if box is None else _box(box, self.grid)
        tokens = self.encode(pictures, box)
        of_tokens = None if self.token_head is None else self.token_head(tokens[:, 1:])
        if box is not None and of_tokens is not None:
            of_tokens = _mixed(of_tokens, box, self.grid)
        return Outputs(self.head(tokens[:, 0]), of_tokens)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, K): the class head's + token_weight * the largest of the token head's over the tokens. With weight 0 the token head does not run."""
        weight = _number("token_weight", self.token_weight, 0)
        if weight == 0 or self.token_head is None:
            return self.head(self.features(pictures))
        return _combine(*self.outputs(pictures), weight, "max")


class LVViT(TwoHeads):
    """The paper's vision transformer; without any option it is LV-ViT-S, `LVViT(**SIZES["T"])` is another size.

    image_size, patch_size: sides in px; stem: "conv", of stem_width filters, or "patch"; skip_lam: lambda, by which residual branches are divided; qkv_bias:
    of queries, keys and values; token_head: whether there is one; drop_path: of the last block, falling linearly to 0 at the first; token_weight: of the token
    head at inference. generator: of the start (linear weights, class token and positions truncated normal of deviation 0.02).
    """

    def __init__(
        self, image_size: int = 224, patch_size: int = 16, width: int = 384, depth: int = 16, heads: int = 6, classes: int = 1000, *, mlp_ratio: float = 3,
        stem: str = "conv", stem_width: int = 64, skip_lam: float = 2, qkv_bias: bool = False, token_head: bool = True, drop_path: float = 0.1,
        token_weight: float = 0.5, generator: torch.Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        sizes = dict(image_size=image_size, patch_size=patch_size, width=width, depth=depth, heads=heads, classes=classes, stem_width=stem_width)
        image_size, patch_size, width, depth, heads, classes, stem_width = (_integer(name, value, 1) for name, value in sizes.items())
        stem, side = _option("stem", stem, STEMS), _layout(image_size, patch_size, width, heads, stem)
        last = _number("drop_path", drop_path, 0, 1)
        if last == 1:
            raise ValueError(f"drop_path must be a finite number in [0, 1), got {drop_path}")
        mlp_ratio = _number("mlp_ratio", mlp_ratio, 1 / width)
        options = dict(mlp_ratio=mlp_ratio, qkv_bias=_flag("qkv_bias", qkv_bias), skip_lam=_number("skip_lam", skip_lam, above=0))
        self.image_size, self.grid, self.token_weight = image_size, (side, side), _number("token_weight", token_weight, 0)
        with _seeded(_generator(generator)):
            self.stem = _stem(stem, width, patch_size, stem_width)
            self.class_token, self.positions = nn.Parameter(torch.empty(1, 1, width)), nn.Parameter(torch.empty(1, 1 + side**2, width))
            drops = torch.linspace(0, last, depth, device="cpu").tolist()
            self.blocks = nn.ModuleList(Block(width, heads, drop_path=drop, **options) for drop in drops)
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
            self.token_head = nn.Linear(width, classes) if _flag("token_head", token_head) else None
            _start(self)

    def encode(self, pictures: Tensor, box: tuple[int, int, int, int] | None = None) -> Tensor:
        """Normed tokens (B, 1 + N, C). Mixing comes before positions: a token that moves to another picture has the position where it lands."""
        given = _pictures(pictures, self.head.weight)
        if given.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(f"pictures must be {self.image_size} px wide and high, got {tuple(given.shape[2:])}")
        box = None if box is None else _mixable(given, box, self.grid)
        tokens = self.stem(given).flatten(2).transpose(1, 2)
        tokens = tokens if box is None else _mixed(tokens, box, self.grid)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def _mixable(pictures: Tensor, box: Any, grid: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box, before anything has run, since what runs in training counts a batch even if it is refused behind it."""
    if len(pictures) < 2:
        raise ValueError(f"pictures must be 2 or more with a box, since each is mixed with another one, got {len(pictures)}")
    return _box(box, grid)


def _layout(image_size: int, patch_size: int, width: int, heads: int, stem: str) -> int:
    """The side of the grid."""
    if image_size % patch_size:
        raise ValueError(f"image_size must be a multiple of patch_size, {patch_size}, got {image_size}")
    if stem == "conv" and patch_size % 2:
        raise ValueError(f"patch_size must be even for stem='conv', got {patch_size}")
    if width % heads:
        raise ValueError(f"width must be a multiple of the number of heads, {heads}, got {width}")
    return image_size // patch_size


@torch.no_grad()
def _start(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.Linear) and name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif isinstance(owner, nn.Linear) or owner is model:
            nn.init.trunc_normal_(parameter, std=0.02)


class WithTokenHead(TwoHeads):
    """Any encoder of tokens with two new heads: a `ViTModel` of transformers, or a module that gives normed tokens (B, prefix + N, width) of pictures.

    grid (rows, columns) of the N tokens, row by row; prefix: how many tokens stand in front of them, the class token first (register tokens next);
    patches: the name of the encoder's patch embedding, for MixToken: "embeddings.patch_embeddings" for a `ViTModel`. It is to run once with the whole batch,
    which it may not where the encoder alone is compiled: compile `outputs` instead. generator: of the heads.
    """

    def __init__(
        self, encoder: nn.Module, width: int, classes: int, grid: tuple[int, int], *, patches: str = "embeddings.patch_embeddings", prefix: int = 1,
        token_weight: float = 0.5, generator: torch.Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        self.encoder = _instance("encoder", encoder, nn.Module, "a torch.nn.Module")
        width, classes = _integer("width", width, 1), _integer("classes", classes, 1)
        self.grid, self.prefix, self.token_weight = _grid("grid", grid), _integer("prefix", prefix, 1), _number("token_weight", token_weight, 0)
        if not isinstance(patches, str):
            raise TypeError(f"patches must be the name of a module of the encoder, got {_got(patches)}")
        self.patches = patches
        with _seeded(_generator(generator)):
            self.head, self.token_head = nn.Linear(width, classes), nn.Linear(width, classes)
            for head in (self.head, self.token_head):
                _start(head)

    def encode(self, pictures: Tensor, box: tuple[int, int, int, int] | None = None) -> Tensor:
        """Normed tokens (B, 1 + N, C)."""
        _instance("pictures", pictures, Tensor, "a tensor (B, C, H, W)")
        if box is None:
            found = self.encoder(pictures)
        else:
            with _mixing(self._patches(), _mixable(pictures, box, self.grid), self.grid) as seen:
                found = self.encoder(pictures)
            if seen != [len(pictures)]:
                ran = f"it with {' and '.join(map(str, seen))}" if seen else "one that was not called (is the encoder compiled? compile `outputs` instead)"
                raise ValueError(f"patches must name a module that the encoder calls once with all {len(pictures)} pictures, got {ran}")
        tokens = getattr(found, "last_hidden_state", found)
        expected = (len(pictures), self.prefix + math.prod(self.grid), self.head.in_features)
        if not isinstance(tokens, Tensor) or tokens.shape != expected:
            raise ValueError(f"encoder must give normed tokens {expected}, got {_got(tokens)}")
        return torch.cat([tokens[:, :1], tokens[:, self.prefix :]], 1) if self.prefix > 1 else tokens

    def _patches(self) -> nn.Module:
        found = dict(self.encoder.named_modules()).get(self.patches)
        if found is None:
            raise ValueError(f"patches must be the name of a module of the encoder, for MixToken, got {self.patches!r}")
        return found


# --------------------------------------------------------------------------------------------------------------------------- counts


def parameters(model: nn.Module) -> int:
    """How many numbers a model learns, frozen ones among them."""
    return sum(p.numel() for p in _instance("model", model, nn.Module, "a torch.nn.Module").parameters())


def macs(model: nn.Module, image_size: int | None = None) -> int:
    """Multiply-adds of matrix products and convolutions for one picture, counted on the meta device; image_size: `model.image_size` unless given."""
    _instance("model", model, nn.Module, "a torch.nn.Module")
    size = _integer("image_size", getattr(model, "image_size", None) if image_size is None else image_size, 1)
    hollow = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hollow(torch.zeros(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2
