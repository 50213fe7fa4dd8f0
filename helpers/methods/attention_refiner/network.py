"""Whole networks: Refiner-ViT, whose blocks alternate between making attention maps and sharing refined ones, and plain vision transformers to compare with."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ._arguments import _batch, _flag, _generator, _got, _instance, _integer, _number, _option
from .refining import REFINE, MapRefiner, _drawn, _left_alone

__all__ = ["SIZES", "BlockTrace", "RefinedAttention", "RefinerViT", "macs", "parameters"]

BLOCKS, STEMS = ("plain", "share", "self"), ("conv", "patch")
EPS = 1e-6  # of every LayerNorm
_PAPER = dict(image_size=224, refine="inverted_residual", token_head=True)

# the paper's three models as their code builds them (S asks for kappa 6, but the argument reaches no block: all have 3), and one for a desk
SIZES = {
    "S": dict(_PAPER, width=384, depth=16, heads=12, drop_path=0.1),
    "M": dict(_PAPER, width=420, depth=32, heads=12, drop_path=0.2),
    "L": dict(_PAPER, width=512, depth=32, heads=16, drop_path=0.2),
    "toy-32": dict(image_size=32, patch_size=4, width=64, depth=6, heads=4, classes=10, stem="patch"),
}


class BlockTrace(NamedTuple):
    """What a block did: tokens (B, N, C) that it gives, maps (B, H, N, N) that its values were multiplied with, and those that it hands on, unrefined."""

    tokens: Tensor
    maps: Tensor
    carried: Tensor


# ------------------------------------------------------------------------------------------------------------------------- attention


class RefinedAttention(nn.Module):
    """Multi-head attention of one of three kinds: forward(tokens (B, N, C), carried maps (B, H, N, N) or None) -> tokens, maps to hand on.

    With d = C / H channels a head and s = 1 / sqrt(d): kind "plain" makes A = softmax(Q K^T s), adds s times the maps handed over where there are some
    (`accumulate`), attends with A and hands it on. "share" has values only: it attends with the refined maps of those handed over, and hands these on as they
    came. "self" makes A as plain does, attends with its refined maps and hands on A itself.
    refine, kappa, kernel, over, grid, start: of `MapRefiner`; generator: all weights are drawn from it. With refine="inverted_residual" a BatchNorm over heads
    follows it, and "share" multiplies with s once more, as the official code does (`rescale`); with "linear" neither is there. rescale: None as `refine` says,
    or a flag.
    """

    def __init__(
        self, dim: int, heads: int, *, kind: str = "self", accumulate: bool = True, rescale: bool | None = None, refine: str = "linear", kappa: float = 3,
        kernel: int = 3, over: str = "raster", grid: tuple[int, int] | None = None, start: str = "random", generator: torch.Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        dim, heads = _width("dim", dim, heads)
        self.dim, self.heads, self.kind = dim, heads, _option("kind", kind, BLOCKS)
        self.scale, self.accumulate = (dim // heads) ** -0.5, _flag("accumulate", accumulate)
        official = _option("refine", refine, REFINE) == "inverted_residual"
        self.rescale = (official if rescale is None else _flag("rescale", rescale)) and kind == "share"
        # made for every kind, so that what cannot be is refused in all
        refiner = MapRefiner(heads, refine=refine, kappa=kappa, kernel=kernel, over=over, grid=grid, start=start, generator=generator)
        with _left_alone(generator):
            self.qkv, self.proj = nn.Linear(dim, dim if kind == "share" else 3 * dim), nn.Linear(dim, dim)  # of "share" it gives values only
        if generator is not None:
            with torch.no_grad():
                for layer in (self.qkv, self.proj):
                    _drawn(layer, generator)
        self.refiner = None if kind == "plain" else refiner
        self.norm = nn.BatchNorm2d(heads) if official and kind != "plain" else nn.Identity()

    def forward(self, tokens: Tensor, carried: Tensor | None = None) -> tuple[Tensor, Tensor]:
        maps, handed = self.maps(tokens, carried)
        return self.attend(tokens, maps), handed

    def attend(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """The tokens' values summed with maps (B, H, N, N), head by head, and projected: (B, N, C)."""
        tokens = _batch("tokens", tokens, f"B N {self.dim}", self.qkv.weight)
        count, places, _ = tokens.shape
        maps = _batch("maps", maps, f"{count} {self.heads} {places} {places}", self.qkv.weight)
        values = self._project(tokens, slice(-self.dim, None))
        return self.proj((maps @ values).transpose(1, 2).flatten(2))

    def maps(self, tokens: Tensor, carried: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The maps that values are multiplied with, and those that are handed on, (B, H, N, N) each."""
        tokens = _batch("tokens", tokens, f"B N {self.dim}", self.qkv.weight)
        if carried is not None:
            count, places, _ = tokens.shape
            carried = _batch("carried", carried, f"{count} {self.heads} {places} {places}", self.qkv.weight)
        elif self.kind == "share":
            raise ValueError("carried must be the maps of a block before, since kind 'share' makes none, got None")
        if self.kind == "share":
            refined = self.norm(self.refiner(carried))
            return (self.scale * refined if self.rescale else refined), carried
        q, k = (self.scale**0.5 * self._project(tokens, slice(i * self.dim, (i + 1) * self.dim)) for i in (0, 1))
        made = (q @ k.mT).softmax(-1)
        if self.accumulate and carried is not None:
            made = made + self.scale * carried
        return (made if self.refiner is None else self.norm(self.refiner(made))), made

    def _project(self, tokens: Tensor, rows: slice) -> Tensor:
        """Queries, keys or values, those rows of `qkv`: (B, H, N, d)."""
        found = F.linear(tokens, self.qkv.weight[rows], self.qkv.bias[rows])
        return found.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _width(name: str, dim: Any, heads: Any) -> tuple[int, int]:
    dim, heads = _integer(name, dim, 1), _integer("heads", heads, 1)
    if dim % heads:
        raise ValueError(f"{name} must be a multiple of the number of heads, {heads}, got {dim}")
    return dim, heads


# ---------------------------------------------------------------------------------------------------------------------------- blocks


class MLP(nn.Module):
    """gain * W2 GELU(W1 x), with a gain for each channel where `layer_scale` is a number, its start."""

    def __init__(self, dim: int, hidden: int, layer_scale: float | None):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.gain = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.fc2(F.gelu(self.fc1(tokens)))
        return found if self.gain is None else found * self.gain


class Block(nn.Module):
    """x + r Attn(LN(x / r)), then x + r MLP(LN(x / r)) with r = branch_scale: forward(tokens, carried maps) -> BlockTrace.

    In training either branch is left out for a picture with probability `drop_path` (stochastic depth).
    """

    def __init__(self, attention: RefinedAttention, mlp: MLP, *, branch_scale: float, drop_path: float):
        super().__init__()
        self.branch_scale, self.drop_path = branch_scale, drop_path
        self.norm1, self.attention = nn.LayerNorm(attention.dim, eps=EPS), attention
        self.norm2, self.mlp = nn.LayerNorm(attention.dim, eps=EPS), mlp

    def forward(self, tokens: Tensor, carried: Tensor | None) -> BlockTrace:
        seen = self.norm1(tokens / self.branch_scale)
        maps, handed = self.attention.maps(seen, carried)
        tokens = tokens + self._kept(self.attention.attend(seen, maps))
        return BlockTrace(tokens + self._kept(self.mlp(self.norm2(tokens / self.branch_scale))), maps, handed)

    def _kept(self, branch: Tensor) -> Tensor:
        if self.training and self.drop_path:
            keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
            branch = branch * keep.to(branch.dtype) / (1 - self.drop_path)
        return self.branch_scale * branch


class Stem(nn.Module):
    """Pictures (B, 3, S, S) -> patches (B, N, C). "conv": 7 x 7 with stride 2, two 3 x 3, each with BatchNorm and ReLU, and a linear map of squares of P / 2;
    "patch": a linear map of squares of P px."""

    def __init__(self, kind: str, patch_size: int, width: int):
        super().__init__()
        self.convs, inner, side = nn.Sequential(), 3, patch_size
        if kind == "conv":
            for channels, size, stride in ((32, 7, 2), (64, 3, 1), (128, 3, 1)):
                self.convs.extend([nn.Conv2d(inner, channels, size, stride, size // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()])
                inner = channels
            side = patch_size // 2
        self.proj = nn.Conv2d(inner, width, side, side)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.proj(self.convs(pictures)).flatten(2).mT


# --------------------------------------------------------------------------------------------------------------------------- network


class RefinerViT(nn.Module):
    """Refiner-ViT: logits (B, classes) of pictures (B, 3, S, S). `RefinerViT(**SIZES["S"])` is the published S.

    image_size: S in px, a multiple of patch_size, which is even for the convolutional stem; width: channels C, a multiple of heads. blocks: kinds of
    `RefinedAttention` that are repeated until there are `depth`; ("plain", "share") is the paper's, ("self",) refines in every block, and ("plain",) with
    accumulate=False, branch_scale=1 and layer_scale=None is an ordinary vision transformer. refine, kappa, kernel, over, rescale, start: of the refiners; over
    the "grid" it is that of the patches. branch_scale r: each block works on x / r and multiplies what it adds by r; layer_scale: the gain of each MLP at
    first, or None for none. stem: "conv", the paper's, or "patch". token_head: a second linear head reads the tokens of the patches, and half of its
    largest logit over them, class by class, is added (token labelling; `class_and_token_logits` gives both to train with). drop_path: of the last
    block, falling linearly to 0 at the first. generator: of the start. A class token and learned positions are always there.
    """

    def __init__(
        self, *, image_size: int = 224, patch_size: int = 16, width: int = 384, depth: int = 16, heads: int = 12, classes: int = 1000,
        blocks: tuple[str, ...] = ("plain", "share"), mlp_ratio: float = 3, refine: str = "linear", kappa: float = 3, kernel: int = 3, over: str = "raster",
        accumulate: bool = True, rescale: bool | None = None, branch_scale: float = 2, layer_scale: float | None = 1e-5, stem: str = "conv",
        token_head: bool = False, drop_path: float = 0, start: str = "random", generator: torch.Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        (width, heads), stem, kinds = _width("width", width, heads), _option("stem", stem, STEMS), _kinds(blocks)
        depth, classes = _integer("depth", depth, 1), _integer("classes", classes, 1)
        self.image_size, self.patch_size = _integer("image_size", image_size, 1), _integer("patch_size", patch_size, 1)
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size must divide image_size, {self.image_size}, got {self.patch_size}")
        if stem == "conv" and self.patch_size % 2:
            raise ValueError(f"patch_size must be even for stem 'conv', got {self.patch_size}")
        hidden = round(_number("mlp_ratio", mlp_ratio, above=0) * width)
        if hidden < 1:
            raise ValueError(f"mlp_ratio must leave a hidden unit or more, got {mlp_ratio:g} for width {width}")
        ratio, scale = _number("branch_scale", branch_scale, above=0), None if layer_scale is None else _number("layer_scale", layer_scale)
        if _number("drop_path", drop_path, 0, 1) == 1:
            raise ValueError(f"drop_path must be a finite number in [0, 1), got {drop_path}")
        token_head, side = _flag("token_head", token_head), self.image_size // self.patch_size
        grid = (side, side) if _option("over", over, ("raster", "grid")) == "grid" else None
        options = dict(
            accumulate=accumulate, rescale=rescale, refine=refine, kappa=kappa, kernel=kernel, over=over, grid=grid, start=start, generator=generator
        )
        drops = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        with _left_alone(_generator(generator)):
            self.stem = Stem(stem, self.patch_size, width)
            self.class_token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, side**2 + 1, width))
            self.blocks = nn.ModuleList(
                Block(RefinedAttention(width, heads, kind=kinds[i % len(kinds)], **options), MLP(width, hidden, scale), branch_scale=ratio, drop_path=drop)
                for i, drop in enumerate(drops)
            )
            self.norm, self.head = nn.LayerNorm(width, eps=EPS), nn.Linear(width, classes)
            self.token_head = nn.Linear(width, classes) if token_head else None
        self._start(generator)

    def forward(self, pictures: Tensor) -> Tensor:
        of_class, of_tokens = self.class_and_token_logits(pictures)
        return of_class if of_tokens is None else of_class + 0.5 * of_tokens.amax(1)

    def class_and_token_logits(self, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the class token (B, classes), and of the patches (B, patches, classes) where there is a head for them."""
        tokens = self._last(pictures)
        return self.head(tokens[:, 0]), None if self.token_head is None else self.token_head(tokens[:, 1:])

    def features(self, pictures: Tensor) -> Tensor:
        """(B, C): the class token after the last norm."""
        return self._last(pictures)[:, 0]

    def trace(self, pictures: Tensor) -> list[BlockTrace]:
        """What each block did."""
        return list(self._walk(pictures))

    @torch.no_grad()
    def resized(self, image_size: int) -> "RefinerViT":
        """A copy for pictures of another side, its positions interpolated (bicubic). BatchNorm over maps keeps statistics of the old size, where entries were
        larger or smaller than they are now: torch.optim.swa_utils.update_bn measures them anew."""
        side, old = _integer("image_size", image_size, 1) // self.patch_size, self.image_size // self.patch_size
        if image_size % self.patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size, {self.patch_size}, got {image_size}")
        model = copy.deepcopy(self)
        model.image_size = side * self.patch_size
        first, rest = self.positions.tensor_split([1], 1)
        image = F.interpolate(rest.mT.unflatten(2, (old, old)), size=(side, side), mode="bicubic", align_corners=False)
        model.positions = nn.Parameter(torch.cat([first, image.flatten(2).mT], 1), requires_grad=self.positions.requires_grad)
        for module in model.modules():
            if isinstance(module, MapRefiner) and module.grid is not None:
                module.grid = (side, side)
        return model

    def _embedded(self, pictures: Any) -> Tensor:
        patches = self.stem(_batch("pictures", pictures, f"B 3 {self.image_size} {self.image_size}", self.head.weight))
        return torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1) + self.positions

    def _last(self, pictures: Any) -> Tensor:
        for step in self._walk(pictures):
            tokens = step.tokens
        return self.norm(tokens)

    def _walk(self, pictures: Any) -> Iterator[BlockTrace]:
        tokens, carried = self._embedded(pictures), None
        for block in self.blocks:
            step = block(tokens, carried)
            tokens, _, carried = step
            yield step

    @torch.no_grad()
    def _start(self, generator: torch.Generator | None) -> None:
        """Linear weights, class token and positions truncated normal of deviation 0.02, biases 0, the stem's convolutions as torch starts them."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
        for module in self.stem.modules():
            if isinstance(module, nn.Conv2d):
                _drawn(module, generator)
        for parameter in (self.class_token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)


def _kinds(blocks: Any) -> tuple[str, ...]:
    expected = f"one or more of {', '.join(BLOCKS)}, the first of which makes maps"
    if not isinstance(blocks, (tuple, list)) or any(not isinstance(kind, str) for kind in blocks):
        raise TypeError(f"blocks must be {expected}, got {_got(blocks)}")
    if not blocks or any(kind not in BLOCKS for kind in blocks) or blocks[0] == "share":
        raise ValueError(f"blocks must be {expected}, got {_got(blocks)}")
    return tuple(map(str, blocks))


# --------------------------------------------------------------------------------------------------------------------------- counts


def parameters(model: nn.Module) -> int:
    """How many numbers a model can learn, frozen ones too."""
    return sum(p.numel() for p in _instance("model", model, nn.Module, "a torch.nn.Module").parameters())


def macs(model: RefinerViT) -> int:
    """Multiply-adds of matrix products and convolutions for one picture, counted on the meta device; of both heads where there are two."""
    _instance("model", model, RefinerViT, "a RefinerViT")
    hollow = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hollow(torch.zeros(1, 3, model.image_size, model.image_size, device="meta"))
    return counter.get_total_flops() // 2
