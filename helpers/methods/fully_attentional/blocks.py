"""The parts of a fully attentional network: tokens compete in self-attention, channels in a gate behind the MLP. Numbers are those of the official code.

Tokens are (B, N, C): N = H * W places of a grid, row by row, and C channels in h heads of d = C / h.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._arguments import _flag, _grid, _integer, _like, _number, _numbers, _option, _tokens

__all__ = ["CHANNELS", "GATES", "VALUES", "ChannelBlock", "TokenMixing", "channel_attention", "channel_gate", "fourier_features"]

CHANNELS = ("eca", "ca", "se", "mlp")  # what channels do to each other behind the MLP
GATES = ("picture", "mean")  # whose gate a picture gets
VALUES = ("depthwise", "plain")  # the MLP
EPS = 1e-6  # of the norms of a block; the one behind the MLP has torch's 1e-5


# ---------------------------------------------------------------------------------------------------------------------------- the maths


def channel_gate(query, key, *, temperature=1.0):
    """How much of every channel a picture lets through: queries and keys (B, h, N, d) -> gates (B, h, d) in (T / 2, 0.7311 T].

        g_c = T * sigmoid(sum_n Q_nc k_n),    Q = softmax over the tokens of `query`,    k = mean over the channels of (softmax over the tokens of `key`)

    (efficient channel attention as the official code has it). The sum is at most 1, and that only for N = 1; where queries or keys do not differ between
    tokens it is 1 / N. temperature: T, a number or one a head (h,). Returns gates like query, through which gradients flow.
    """
    q = _numbers("query", query, "B h N d", detach=False)
    k = _numbers("key", key, " ".join(map(str, q.shape)), like="query", detach=False)
    try:
        scale = torch.tensor([_number("temperature", temperature)])
    except TypeError:
        scale = _numbers("temperature", temperature, str(q.shape[1]), like="query", detach=False)
    return _like(query, (_open(q, k.to(q)) * scale.to(q)[:, None]))


def _open(query: Tensor, key: Tensor) -> Tensor:
    """The gate without its temperature: (B, h, N, d) twice -> (B, h, d)."""
    prototype = key.softmax(-2).mean(-1, keepdim=True)  # (B, h, N, 1): a distribution over the tokens
    return torch.sigmoid(query.softmax(-2).mT @ prototype)[..., 0]


def channel_attention(query, key):
    """Full attention between channels: queries and keys (B, N, C) -> weights (B, C, C) whose rows sum to 1, softmax over c' of (Q^T K)_cc' / sqrt(N).

    The paper's CA, which the released code does not have. Returns weights like query, through which gradients flow.
    """
    q = _numbers("query", query, "B N C", detach=False)
    k = _numbers("key", key, " ".join(map(str, q.shape)), like="query", detach=False)
    return _like(query, _between_channels(q, k.to(q)))


def _between_channels(query: Tensor, key: Tensor) -> Tensor:
    return (query.mT @ key / math.sqrt(query.shape[1])).softmax(-1)


def fourier_features(height: int, width: int, *, hidden: int = 32, temperature: float = 10000.0) -> Tensor:
    """Fixed sines and cosines of the places of a grid: (2 * hidden, height, width), those of the row first, then those of the column.

    Places 1 .. H become angles in (0, 2 pi], divided by temperature^(2 floor(k / 2) / hidden) for feature k; even features are sines, odd ones cosines.
    """
    sizes = [_integer(name, value, 1) for name, value in (("height", height), ("width", width))]
    hidden = _integer("hidden", hidden, 2)
    if hidden % 2:
        raise ValueError(f"hidden must be even, half of it sines and half cosines, got {hidden}")
    return _features(*sizes, hidden, _number("temperature", temperature, above=0), torch.device("cpu"))


def _features(height: int, width: int, hidden: int, temperature: float, device: torch.device) -> Tensor:
    slowness = temperature ** (2 * (torch.arange(hidden, device=device) // 2) / hidden)
    axes = []
    for size in (height, width):
        angle = torch.arange(1, size + 1, device=device)[:, None] / (size + 1e-6) * 2 * math.pi / slowness  # (size, hidden)
        axes.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1).T)  # (hidden, size)
    return torch.cat([axes[0][:, :, None].expand(-1, -1, width), axes[1][:, None].expand(-1, height, -1)])


# ------------------------------------------------------------------------------------------------------------------------ into tokens


class ConvStem(nn.Module):
    """Pictures (B, 3, H, W) to tokens (B, N, C): 3x3 convolutions of stride 2 with BatchNorm, GELU between them, each twice as wide as the one before."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        steps = int(math.log2(patch_size))
        widths = [3, *(width // 2 ** (steps - 1 - i) for i in range(steps))]
        layers = []
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after)), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens and their grid."""
        maps = self.layers(images)
        if maps.requires_grad:  # for a single picture BatchNorm's backward (torch 2.13) takes the layout of transposed gradients for another
            maps.register_hook(lambda gradient: gradient.contiguous())
        return maps.flatten(2).mT, tuple(maps.shape[2:])


class FourierPositions(nn.Module):
    """`fourier_features` through a learned 1x1 convolution: (N, C) to be added to the tokens."""

    def __init__(self, width: int, hidden: int = 32):
        super().__init__()
        self.hidden, self.project = hidden, nn.Conv2d(2 * hidden, width, 1)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        features = _features(*grid, self.hidden, 10000.0, self.project.weight.device)
        return self.project(features[None].to(self.project.weight.dtype))[0].flatten(1).T


# ------------------------------------------------------------------------------------------------------------------------ token mixing


def _check_heads(width: Any, heads: Any) -> tuple[int, int]:
    width, heads = _integer("width", width, 1), _integer("heads", heads, 1)
    if width % heads:
        raise ValueError(f"heads must divide width, {width}, got {heads}")
    return width, heads


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, h, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class TokenMixing(nn.Module):
    """Multi-head self-attention between the tokens: (B, N, C) -> (B, N, C). Softmax over the keys, queries scaled by d^-1/2, an output projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        width, self.heads = _check_heads(width, heads)
        self.query, self.key_value, self.project = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def attention(self, x: Tensor) -> Tensor:
        """The weights (B, h, N, N); row i says what token i takes from each token and sums to 1."""
        x = _tokens("x", x, self.query.weight)
        q, k = _split(self.query(x), self.heads), _split(self.key_value(x).chunk(2, -1)[0], self.heads)
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        x = _tokens("x", x, self.query.weight)
        q, (k, v) = _split(self.query(x), self.heads), (_split(part, self.heads) for part in self.key_value(x).chunk(2, -1))
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


# ----------------------------------------------------------------------------------------------------------------------- channel block


class DepthwiseMLP(nn.Module):
    """a = fc1(x); fc2(a + gamma * conv2(BatchNorm(GELU(conv1(a))))), both convolutions 3x3 and depthwise, on the grid. The main path has no
    non-linearity. BatchNorm sees a batch in training and its running statistics after it; batch_norm=False leaves it out."""

    def __init__(self, width: int, hidden: int, batch_norm: bool = True):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.conv1, self.conv2 = (nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) for _ in range(2))
        self.norm = nn.BatchNorm2d(hidden) if batch_norm else nn.Identity()
        self.gamma = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        a = self.fc1(x)
        maps = self.conv2(self.norm(F.gelu(self.conv1(a.mT.unflatten(2, grid)))))
        return self.fc2(a + self.gamma * maps.flatten(2).mT)


class PlainMLP(nn.Module):
    """fc2(GELU(fc1(x))), that of an ordinary vision transformer."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _check_parts(channel: Any, gate: Any, value: Any, batch_norm: Any) -> tuple[str, str, bool, bool]:
    """The options of `ChannelBlock`; of value, whether it is plain."""
    channel, gate, value = _option("channel", channel, CHANNELS), _option("gate", gate, GATES), _option("value", value, VALUES)
    if gate == "mean" and channel not in ("eca", "se"):
        raise ValueError(f'gate must be "picture" where there is no gate to take the mean of (channel is {channel!r}), got {gate!r}')
    return channel, gate, value == "plain", _flag("batch_norm", batch_norm)


class ChannelBlock(nn.Module):
    """What stands in the MLP's place: an MLP, and then channels that compete. Tokens (B, N, C) on a grid -> (B, N, C).

    With U = LayerNorm(MLP(x)), the depthwise MLP of the paper (value="depthwise"), the answer is, by `channel`:

    - "eca": g U, g one number a channel and picture from `channel_gate(query(x), x, temperature=T)`; there is no key projection;
    - "se":  g U, g = T sigmoid(w2 ReLU(w1 mean of U over the tokens)), squeeze and excitation, C / 2 wide inside: C / 2 numbers more than "eca" (ours);
    - "ca":  U A^T, A (C, C) of `channel_attention(query(x), key(x))`;
    - "mlp": U, without any gate.

    gate="mean" gives every picture the gate's mean over pictures: over the batch in training, and a running mean of it afterwards (as BatchNorm does, with
    momentum 0.1), `mean_gate` (h, d), without T; only the content is gone. value="plain": U is an ordinary MLP's, without convolutions and LayerNorm.
    """

    def __init__(
        self, width: int, heads: int, *, channel: str = "eca", gate: str = "picture", value: str = "depthwise", mlp_ratio: float = 4.0, batch_norm: bool = True,
    ):  # fmt: skip
        super().__init__()
        width, self.heads = _check_heads(width, heads)
        self.channel, gate, plain, batch_norm = _check_parts(channel, gate, value, batch_norm)
        hidden = int(width * _number("mlp_ratio", mlp_ratio, 1 / width))
        self.value = PlainMLP(width, hidden) if plain else DepthwiseMLP(width, hidden, batch_norm)
        self.norm = nn.Identity() if plain else nn.LayerNorm(width)
        if self.channel in ("eca", "ca"):
            self.query = nn.Linear(width, width)
        if self.channel == "ca":
            self.key = nn.Linear(width, width)
        if self.channel == "se":
            self.squeeze, self.excite = nn.Linear(width, max(1, width // 2)), nn.Linear(max(1, width // 2), width)
        if self.channel in ("eca", "se"):
            self.temperature = nn.Parameter(torch.ones(self.heads))
            # until a batch was seen: what a gate is when pictures say nothing and tokens are many
            self.register_buffer("mean_gate", torch.full((self.heads, width // self.heads), 0.5) if gate == "mean" else None)

    def gate(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Each picture's own gates (B, h, d), T included. ValueError where `channel` has none."""
        x, grid = self._checked(x, grid)
        if self.channel not in ("eca", "se"):
            raise ValueError(f"channel must be eca or se where gates are asked for, got {self.channel}")
        return self._own(x, self.norm(self.value(x, grid))) * self.temperature[:, None]

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x, grid = self._checked(x, grid)
        u = self.norm(self.value(x, grid))
        if self.channel == "mlp":
            return u
        if self.channel == "ca":
            return u @ _between_channels(self.query(x), self.key(x)).mT
        return u * (self._shared(x, u) * self.temperature[:, None]).flatten(1)[:, None]

    def _checked(self, x: Any, grid: Any) -> tuple[Tensor, tuple[int, int]]:
        x = _tokens("x", x, self.value.fc1.weight)
        return x, _grid(grid, x.shape[1], "x")

    def _own(self, x: Tensor, u: Tensor) -> Tensor:
        if self.channel == "eca":
            return _open(_split(self.query(x), self.heads), _split(x, self.heads))
        return torch.sigmoid(self.excite(F.relu(self.squeeze(u.mean(1))))).unflatten(1, (self.heads, -1))

    def _shared(self, x: Tensor, u: Tensor) -> Tensor:
        """The gates that are used, without T: (B, h, d), or (1, h, d) where all pictures share one."""
        if self.mean_gate is None:
            return self._own(x, u)
        if not self.training:
            return self.mean_gate[None]
        mean = self._own(x, u).mean(0)
        self.mean_gate.lerp_(mean.detach().to(self.mean_gate.dtype), 0.1)
        return mean[None]


# ------------------------------------------------------------------------------------------------------------------------------ blocks


def _dropped(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: a picture's branch is left out with this probability in training, and made up for by those that stay."""
    if not training or rate == 0:
        return x
    return x * torch.empty(len(x), 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - rate) / (1 - rate)


class Block(nn.Module):
    """x + scale * token(norm(x)), then x + scale * channel(norm(x)); the scales (C,) are LayerScale, eta at first."""

    def __init__(self, width: int, heads: int, *, eta: float = 1.0, drop_path: float = 0.0, **options: Any):
        super().__init__()
        self.norm_token, self.norm_channel = (nn.LayerNorm(width, eps=EPS) for _ in range(2))
        self.token, self.channel = TokenMixing(width, heads), ChannelBlock(width, heads, **options)
        self.scale_token, self.scale_channel = (nn.Parameter(torch.full((width,), eta)) for _ in range(2))
        self.drop_path = drop_path

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = x + _dropped(self.scale_token * self.token(self.norm_token(x)), self.drop_path, self.training)
        return x + _dropped(self.scale_channel * self.channel(self.norm_channel(x), grid), self.drop_path, self.training)

    def gate(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The gates (B, h, d) of tokens that come into the block."""
        return self.channel.gate(self.norm_channel(x + self.scale_token * self.token(self.norm_token(x))), grid)


class ClassAttention(nn.Module):
    """The first token asks, all answer: (B, 1 + N, C) -> (B, 1, C)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_split(part, self.heads) for part in (self.query(x[:, :1]), self.key(x), self.value(x)))
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ClassBlock(nn.Module):
    """A block of class attention: tokens (B, 1 + N, C) with the class token first -> the same.

    residual="normalised" is the official code's, of all published numbers: the patches' tokens are added to themselves in both halves, and what the second
    half is added to has been normalised. "plain" is CaiT's, where only the class token changes.
    """

    def __init__(self, width: int, heads: int, *, mlp_ratio: float = 4.0, eta: float = 1.0, drop_path: float = 0.0, residual: str = "normalised"):
        super().__init__()
        self.norm_attention, self.norm_mlp = (nn.LayerNorm(width, eps=EPS) for _ in range(2))
        self.attention, self.mlp = ClassAttention(width, heads), PlainMLP(width, int(width * mlp_ratio))
        self.scale_attention, self.scale_mlp = (nn.Parameter(torch.full((width,), eta)) for _ in range(2))
        self.drop_path, self.residual = drop_path, residual

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm_attention(x)
        if self.residual == "plain":
            token = x[:, :1] + _dropped(self.scale_attention * self.attention(z), self.drop_path, self.training)
            token = token + _dropped(self.scale_mlp * self.mlp(self.norm_mlp(token)), self.drop_path, self.training)
            return torch.cat([token, x[:, 1:]], 1)
        x = x + _dropped(self.scale_attention * torch.cat([self.attention(z), z[:, 1:]], 1), self.drop_path, self.training)
        x = self.norm_mlp(x)
        return x + _dropped(torch.cat([self.scale_mlp * self.mlp(x[:, :1]), x[:, 1:]], 1), self.drop_path, self.training)
