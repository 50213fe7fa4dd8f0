"""Whole models: the shunted transformer, the same network with one rate a layer, and two peers of transformers.

All of them: `model(pictures)` gives logits (B, classes) of pictures (B, 3, S, S), `model.features(pictures)` what `model.classifier` reads, (B, D).
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ._arguments import _choice, _generator, _got, _instance, _integer, _integers, _number, _option, _pictures
from .attention import EPS, FeedForward, ShuntedAttention, _layout, _to_map, _to_tokens

__all__ = ["SIZES", "Pyramid", "Shunted", "macs", "parameters", "plain_vit", "pvt_v2", "vit_width"]

STEMS = ("conv", "overlap", "patch")
_PAPER = dict(image_size=224, widths=(64, 128, 256, 512), heads=(2, 4, 8, 16), rates=((8, 4), (4, 2), (2, 1), (1,)), mlp_ratios=(8, 8, 4, 4))
_TOY = dict(widths=(32, 64, 96, 128), heads=(2, 2, 4, 4), depths=(1, 1, 2, 1), rates=((4, 2), (2, 1), (2, 1), (1,)), mlp_ratios=4, num_conv=0, drop_path=0.0)

# the paper's three models, and small ones whose four grids are 16, 8, 4 and 2 places wide
SIZES = {
    "T": dict(_PAPER, depths=(1, 2, 4, 1), num_conv=0, drop_path=0.1),
    "S": dict(_PAPER, depths=(2, 4, 12, 1), num_conv=1, drop_path=0.2),
    "B": dict(_PAPER, depths=(3, 4, 24, 2), num_conv=2, drop_path=0.3),
    "toy-64": dict(_TOY, image_size=64, stem_stride=4),
    "toy-32": dict(_TOY, image_size=32, stem_stride=2),
}


# ------------------------------------------------------------------------------------------------------------------ patch embeddings


class Embedding(nn.Module):
    """Convolutions over a map, then LN over the channels of each place: (B, C, H, W) -> tokens (B, H' * W', width) and their grid (H', W')."""

    def __init__(self, conv: nn.Module, width: int):
        super().__init__()
        self.conv, self.norm = conv, nn.LayerNorm(width, eps=EPS)

    def forward(self, maps: Tensor) -> tuple[Tensor, tuple[int, int]]:
        found = self.conv(maps)
        return self.norm(_to_tokens(found)), tuple(found.shape[2:])


def _stem(kind: str, width: int, stride: int, num_conv: int) -> Embedding:
    """The first embedding. "conv", the paper's: 7 x 7 with half the stride, num_conv times 3 x 3, and 2 x 2 with stride 2; "overlap", PVTv2's: one 7 x 7
    convolution; "patch": a linear map of patches that do not overlap."""
    if kind != "conv":
        return Embedding(nn.Conv2d(3, width, 7, stride, padding=3) if kind == "overlap" else nn.Conv2d(3, width, stride, stride), width)
    unit = lambda *conv, **options: [nn.Conv2d(*conv, bias=False, **options), nn.BatchNorm2d(width), nn.ReLU()]  # noqa: E731
    layers = unit(3, width, 7, stride // 2, padding=3)
    for _ in range(num_conv):
        layers += unit(width, width, 3, padding=1)
    return Embedding(nn.Sequential(*layers, nn.Conv2d(width, width, 2, 2)), width)


# ----------------------------------------------------------------------------------------------------------------- blocks and stages


class Block(nn.Module):
    """X + Attn(LN X), then X + FFN(LN X); in training either branch is left out for a picture with probability `drop_path` (stochastic depth)."""

    def __init__(self, attention: ShuntedAttention, ffn: FeedForward, *, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.attention = nn.LayerNorm(attention.dim, eps=EPS), attention
        self.norm2, self.ffn = nn.LayerNorm(attention.dim, eps=EPS), ffn

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        tokens = tokens + self._kept(self.attention(self.norm1(tokens), grid))
        return tokens + self._kept(self.ffn(self.norm2(tokens), grid))

    def _kept(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * keep.to(branch.dtype) / (1 - self.drop_path)


class Stage(nn.Module):
    """An embedding, blocks on its grid, a last LN: (B, C, H, W) -> (B, width, H', W')."""

    def __init__(self, embedding: Embedding, blocks: list[Block]):
        super().__init__()
        self.embedding, self.blocks = embedding, nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embedding.norm.normalized_shape, eps=EPS)

    def forward(self, maps: Tensor) -> Tensor:
        tokens, grid = self.embedding(maps)
        for block in self.blocks:
            tokens = block(tokens, grid)
        return _to_map(self.norm(tokens), grid)


# ------------------------------------------------------------------------------------------------------------------------- networks


class Shunted(nn.Module):
    """The shunted transformer; without any option it is Shunted-S of the paper, `Shunted(**SIZES["T"])` is another size.

    image_size: the side S in px, for which rates are checked; other sides are taken as well, since no position is embedded. widths, depths, heads, rates,
    mlp_ratios: one entry a stage (mlp_ratios may be one number); an entry of rates is a tuple with a rate for each group of heads. stem: "conv", "overlap"
    (PVTv2's 7 x 7) or "patch"; stem_stride: px a place of the first grid, each further stage halves it; num_conv: 3 x 3 convolutions of the stem.
    drop_path: of the last block, falling linearly to 0 at the first. local, rate_one, norm, activation, border: of `ShuntedAttention`; detail: of
    `FeedForward`: local="none", detail="none" leaves no depthwise convolution. generator: of the start.
    """

    def __init__(
        self, image_size: int = 224, widths: tuple = (64, 128, 256, 512), depths: tuple = (2, 4, 12, 1), heads: tuple = (2, 4, 8, 16),
        rates: tuple = ((8, 4), (4, 2), (2, 1), (1,)), classes: int = 1000, *, mlp_ratios=(8, 8, 4, 4), num_conv: int = 1, drop_path: float = 0.2,
        stem: str = "conv", stem_stride: int = 4, local: str = "official", rate_one: str = "official", norm: bool = True, activation: bool = True,
        detail: str = "added", border: str = "pad", generator: torch.Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        widths, depths, heads, rates, ratios = _stages(widths, depths, heads, rates, mlp_ratios)
        image_size, stem_stride = _integer("image_size", image_size, 1), _choice("stem_stride", _integer("stem_stride", stem_stride), (2, 4))
        grids = _grids(image_size, stem_stride, len(widths))
        for number, (rate, side) in enumerate(zip(rates, grids), 1):
            if max(rate) > side:
                raise ValueError(f"rates must be at most the side of the stage's grid, {side} in stage {number} at image_size {image_size}, got {rate}")
        classes, num_conv, _ = _integer("classes", classes, 1), _integer("num_conv", num_conv, 0), _generator(generator)
        stem, last = _option("stem", stem, STEMS), _rate(drop_path)
        drops = iter(torch.linspace(0, last, sum(depths), device="cpu").tolist())
        options = dict(local=local, rate_one=rate_one, norm=norm, activation=activation, border=border)
        self.image_size, self.stem_stride, self.stages = image_size, stem_stride, nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths)):
            embedding = Embedding(nn.Conv2d(widths[i - 1], width, 3, 2, padding=1), width) if i else _stem(stem, width, stem_stride, num_conv)
            make = lambda i=i, width=width: Block(  # noqa: E731
                ShuntedAttention(width, heads[i], rates[i], **options), FeedForward(width, ratios[i] * width, detail=detail), drop_path=next(drops)
            )
            self.stages.append(Stage(embedding, [make() for _ in range(depth)]))
        self.classifier = nn.Linear(widths[-1], classes)
        _start(self, generator)

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """What each stage gives, (B, width, H, W)."""
        found = [_fit(pictures, self)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[1:]

    def features(self, pictures: Tensor) -> Tensor:
        """(B, widths[-1]): the mean over the last grid."""
        return self.maps(pictures)[-1].mean((2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.classifier(self.features(pictures))


class Pyramid(Shunted):
    """`Shunted` with one rate a stage, (8, 4, 2, 1) for instance: nothing else differs, and all its options are there. PVTv2 itself is `pvt_v2`."""

    def __init__(
        self, image_size: int = 224, widths: tuple = (64, 128, 256, 512), depths: tuple = (2, 4, 12, 1), heads: tuple = (2, 4, 8, 16),
        rates: tuple = (8, 4, 2, 1), classes: int = 1000, **options,
    ):  # fmt: skip
        single = tuple((rate,) for rate in _integers("rates", rates, 1))
        super().__init__(image_size, widths, depths, heads, single, classes, **options)


def _stages(widths, depths, heads, rates, ratios) -> tuple:
    """The five, checked, as tuples of one length."""
    widths = _integers("widths", widths, 1)
    count = len(widths)
    each = lambda name, value: _integers(name, value, 1, count, f"{count} integers >= 1, one for each of widths")  # noqa: E731
    depths, heads = each("depths", depths), each("heads", heads)
    expected = f"{count} tuples of rates, one for each of widths, such as ((8, 4), (1,))"
    if not isinstance(rates, (tuple, list)) or any(not isinstance(rate, (tuple, list)) for rate in rates):
        raise TypeError(f"rates must be {expected}, got {_got(rates)}")
    if len(rates) != count:
        raise ValueError(f"rates must be {expected}, got {_got(rates)}")
    rates = tuple(_integers("rates", rate, 1) for rate in rates)
    ratios = each("mlp_ratios", ratios) if isinstance(ratios, (tuple, list)) else (_integer("mlp_ratios", ratios, 1),) * count
    for width, number, rate in zip(widths, heads, rates):
        _layout("widths", width, "heads", number, rate)
    return widths, depths, heads, rates, ratios


def _rate(value: Any) -> float:
    if _number("drop_path", value, 0, 1) == 1:
        raise ValueError(f"drop_path must be a finite number in [0, 1), got {value}")
    return float(value)


def _grids(image_size: int, stride: int, stages: int) -> list[int]:
    if image_size % stride:
        raise ValueError(f"image_size must be a multiple of stem_stride, {stride}, got {image_size}")
    sides = [image_size // stride]
    for _ in range(stages - 1):
        sides.append(-(-sides[-1] // 2))
    return sides


def _fit(pictures: Any, model: Shunted) -> Tensor:
    """Pictures, once their sides are multiples of the stem's stride: its last convolution would leave out what is over."""
    given = _pictures(pictures, model.classifier.weight)
    if any(side % model.stem_stride for side in given.shape[2:]):
        raise ValueError(f"pictures must have sides that are multiples of {model.stem_stride}, got {tuple(given.shape[2:])}")
    return given


@torch.no_grad()
def _start(model: nn.Module, generator: torch.Generator | None) -> None:
    """Official start: linear weights truncated normal of deviation 0.02, convolutions normal of deviation sqrt(2 / (k k C_out / groups)), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, math.sqrt(2 * module.groups / (math.prod(module.kernel_size) * module.out_channels)), generator=generator)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)


# ------------------------------------------------------------------------------------------------------------- peers of transformers


class Peer(nn.Module):
    """A classifier of transformers with the face of `Shunted`; `network` is the model itself. pool: "class" token, or "mean" over the last grid."""

    def __init__(self, network: nn.Module, pool: str, image_size: int):
        super().__init__()
        self.network, self.pool, self.image_size = network, pool, image_size

    @property
    def classifier(self) -> nn.Module:
        return self.network.classifier

    def features(self, pictures: Tensor) -> Tensor:
        """(B, D): the class token after the last norm, or the mean over the last grid."""
        hidden = self.network.base_model(_pictures(pictures, self.classifier.weight)).last_hidden_state
        return hidden[:, 0] if self.pool == "class" else hidden.mean((2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.classifier(self.features(pictures))


def _drawn(make: Callable, generator: torch.Generator | None) -> nn.Module:
    """make(), which draws from torch's own generator; where another one is given, with a seed that is drawn from that."""
    if generator is None:
        return make()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return make()


def pvt_v2(
    image_size: int = 224, widths: tuple = (64, 128, 320, 512), depths: tuple = (2, 2, 2, 2), heads: tuple = (1, 2, 5, 8), rates: tuple = (8, 4, 2, 1),
    classes: int = 1000, *, mlp_ratios=(8, 8, 4, 4), drop_path: float = 0.1, stem_stride: int = 4, generator: torch.Generator | None = None,
) -> Peer:  # fmt: skip
    """The single-rate twin: transformers' `PvtV2ForImageClassification` of these sizes, by default PVTv2-B1, with random weights.

    It has the pyramid, overlapping patches and a depthwise convolution in the feed-forward layer, and one rate a layer; no GELU on aggregated tokens and no
    local term. Its grids must be multiples of their rates, since it drops the border otherwise.
    """
    from transformers import PvtV2Config, PvtV2ForImageClassification

    single = tuple((rate,) for rate in _integers("rates", rates, 1))
    widths, depths, heads, single, ratios = _stages(widths, depths, heads, single, mlp_ratios)
    image_size, stem_stride = _integer("image_size", image_size, 1), _choice("stem_stride", _integer("stem_stride", stem_stride), (2, 4))
    grids = _grids(image_size, stem_stride, len(widths))
    if any(side % rate for (rate,), side in zip(single, grids)):
        raise ValueError(f"rates must divide the sides of the grids, {grids} at image_size {image_size}, got {tuple(rate for (rate,) in single)}")
    config = PvtV2Config(
        image_size=image_size, num_encoder_blocks=len(widths), hidden_sizes=list(widths), depths=list(depths), num_attention_heads=list(heads),
        sr_ratios=[rate for (rate,) in single], mlp_ratios=list(ratios), drop_path_rate=_rate(drop_path), num_labels=_integer("classes", classes, 1),
        patch_sizes=[7] + [3] * (len(widths) - 1), strides=[stem_stride] + [2] * (len(widths) - 1),
    )  # fmt: skip
    return Peer(_drawn(lambda: PvtV2ForImageClassification(config), _generator(generator)), "mean", image_size)


def plain_vit(
    image_size: int = 224, patch_size: int = 16, width: int = 384, depth: int = 12, heads: int = 6, classes: int = 1000, *, mlp_ratio: int = 4,
    generator: torch.Generator | None = None,
) -> Peer:  # fmt: skip
    """transformers' `ViTForImageClassification` of these sizes, by default ViT-S/16, with random weights; `vit_width` finds the width of equal size."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = dict(image_size=image_size, patch_size=patch_size, depth=depth, heads=heads, classes=classes, mlp_ratio=mlp_ratio)
    image_size, patch_size, depth, heads, classes, mlp_ratio = _vit_sizes(**sizes).values()
    if (width := _integer("width", width, 1)) % heads:
        raise ValueError(f"width must be a multiple of the number of heads, {heads}, got {width}")
    config = ViTConfig(
        image_size=image_size, patch_size=patch_size, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
        intermediate_size=mlp_ratio * width, num_labels=classes, layer_norm_eps=EPS,
    )  # fmt: skip
    return Peer(_drawn(lambda: ViTForImageClassification(config), _generator(generator)), "class", image_size)


def vit_width(
    target: float, *, of: str = "parameters", image_size: int = 224, patch_size: int = 16, depth: int = 12, heads: int = 6, classes: int = 1000,
    mlp_ratio: int = 4,
) -> int:  # fmt: skip
    """The width, a multiple of `heads`, with which `plain_vit` comes nearest to so many parameters, or multiply-adds a picture (of="macs")."""
    target, of = _number("target", target, above=0), _option("of", of, ("parameters", "macs"))
    sizes = _vit_sizes(image_size=image_size, patch_size=patch_size, depth=depth, heads=heads, classes=classes, mlp_ratio=mlp_ratio)
    cost, width = _vit_parameters if of == "parameters" else _vit_macs, sizes["heads"]
    while cost(width + sizes["heads"], **sizes) <= target:
        width += sizes["heads"]
    return min(width, width + sizes["heads"], key=lambda w: abs(cost(w, **sizes) - target))


def _vit_sizes(**sizes: Any) -> dict[str, int]:
    sizes = {name: _integer(name, value, 1) for name, value in sizes.items()}
    if sizes["image_size"] % sizes["patch_size"]:
        raise ValueError(f"patch_size must divide image_size, {sizes['image_size']}, got {sizes['patch_size']}")
    return sizes


def _vit_parameters(w: int, *, image_size: int, patch_size: int, depth: int, heads: int, classes: int, mlp_ratio: int) -> int:
    block = 4 * (w * w + w) + 2 * mlp_ratio * w * w + (mlp_ratio + 1) * w + 4 * w
    places = (image_size // patch_size) ** 2
    return (3 * patch_size**2 + 1) * w + (places + 2) * w + depth * block + 2 * w + (w + 1) * classes


def _vit_macs(w: int, *, image_size: int, patch_size: int, depth: int, heads: int, classes: int, mlp_ratio: int) -> int:
    tokens = (image_size // patch_size) ** 2 + 1
    return 3 * image_size**2 * w + depth * ((4 + 2 * mlp_ratio) * tokens * w * w + 2 * tokens**2 * w) + w * classes


# --------------------------------------------------------------------------------------------------------------------------- counts


def parameters(model: nn.Module) -> int:
    """How many numbers a model has, those that are frozen too."""
    return sum(p.numel() for p in _instance("model", model, nn.Module, "a torch.nn.Module").parameters())


def macs(model: nn.Module, image_size: int | None = None) -> int:
    """Multiply-adds of matrix products and convolutions for one picture, counted on the meta device; image_size: `model.image_size` unless given."""
    _instance("model", model, nn.Module, "a torch.nn.Module")
    size = _integer("image_size", getattr(model, "image_size", None) if image_size is None else image_size, 1)
    hollow = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hollow(torch.zeros(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2
