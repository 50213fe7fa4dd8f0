"""Masked planning for video (MarDini): a large planner reads the clip once at low resolution, a light generator denoises the missing frames.

Liu, Liu, Zhou et al., "MarDini: Masked Autoregressive Diffusion for Video Generation at Scale", 2024, arXiv 2410.20280. Neither code nor weights are
public, so this follows the text; what the text leaves open and is decided here says "(ours)".

    pipe = MarDiniPipeline(planner, generator, scheduler)              # or MarDiniPipeline.from_pretrained(folder)
    is_ref = references("interpolation", frames=9)                     # which frames are known: the first and the last
    clip = pipe(video, is_ref, num_inference_steps=25).frames          # (B, 9, C, H, W); the known frames come back bit for bit

A clip is (B, K, C, H, W), K frames; `is_ref` is bool, (K,) or (B, K), True where a frame is known (a *reference*). Bad arguments raise ValueError or
TypeError that names the argument, before any work is done.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, apply_rotary_emb, get_1d_rotary_pos_embed
from diffusers.utils import BaseOutput
from torch import Tensor, nn

IDENTITIES = ("token", "frame", None)  # what a reference token attends to: itself, its frame, everything
MIXERS = ("temporal", "space-time")  # how the generator mixes frames: the paper's T and ST
POSITIONS = ("table", "rope+next")
TASKS = ("interpolation", "image-to-video", "last frame", "middle frame", "expansion")

# The published sizes (section 4.1): latents of 16 channels at an eighth of the side; 256 px here.
PUBLISHED_PLANNERS = {
    "S": dict(in_channels=16, height=32, width=32, patch=1, frames=17, dim=4096, depth=8, heads=32, mlp_dim=4096),
    "L": dict(in_channels=16, height=32, width=32, patch=1, frames=17, dim=4096, depth=16, heads=32, mlp_dim=8192),
}
PUBLISHED_GENERATOR = dict(
    in_channels=16, height=32, width=32, patch=1, frames=17, dim=1024, depth=8, heads=16, mlp_dim=4096, plan_dim=4096, plan_tokens=1024,
)  # fmt: skip
PUBLISHED_PARAMETERS = {"planner S": 1.3e9, "planner L": 3.1e9, "generator": 288e6}


# ------------------------------------------------------------------------------------------------------------------------- arguments


# --- checks of arguments: the same text in every method that checks so, since a method is copied alone ---


def _integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    expected = "an integer" + (f" in {least}..{most}" if None not in (least, most) else "" if least is None else f" >= {least}")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return int(value)


def _number(name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> float:
    expected = "a finite number" + (f" in [{least:g}, {most:g}]" if most < math.inf else f" >= {least:g}" if least > -math.inf else "")
    expected += f" > {above:g}" if above > -math.inf else ""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if not (math.isfinite(value) and least <= value <= most and value > above):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return float(value)


def _choice(name: str, value: Any, choices: Sequence) -> Any:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    return value


# --- end of the checks ---


def _known(is_ref, clips: int, frames: int) -> Tensor:
    """`is_ref` as (clips, frames) bool, with a reference and a masked frame in every row."""
    if not isinstance(is_ref, Tensor):
        raise TypeError(f"is_ref must be a bool tensor, got {type(is_ref).__name__}")
    if is_ref.dtype != torch.bool:
        raise TypeError(f"is_ref must be bool, got {is_ref.dtype}")
    if is_ref.shape not in ((frames,), (clips, frames)):
        raise ValueError(f"is_ref must be ({frames},) or ({clips}, {frames}), got {tuple(is_ref.shape)}")
    is_ref = is_ref.expand(clips, frames)
    if not is_ref.any(1).all():
        raise ValueError("is_ref must have a reference frame in every clip, got a clip with none")
    if is_ref.all(1).any():
        raise ValueError("is_ref must have a masked frame in every clip, got a clip with none")
    return is_ref


def _clip(name: str, value, *shape) -> Tensor:
    """A floating tensor (B, K, *shape); sizes that are None may be anything."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor, got {value.dtype if isinstance(value, Tensor) else type(value).__name__}")
    wanted = " x ".join("any" if s is None else str(s) for s in shape)
    if value.ndim != 2 + len(shape) or any(s not in (None, found) for s, found in zip(shape, value.shape[2:], strict=False)) or 0 in value.shape:
        raise ValueError(f"{name} must be (clips, frames, {wanted}), got {tuple(value.shape)}")
    return value


# ------------------------------------------------------------------------------------------------------------- references, curriculum


def references(task: str, frames: int, count: int = 1) -> Tensor:
    """Which frames are known in a task, (frames,) bool (section 3.4).

    "interpolation": the first and the last; "image-to-video": the first; "last frame"; "middle frame": frame frames // 2; "expansion": the first `count`.
    """
    _choice("task", task, TASKS)
    frames = _integer("frames", frames, 2)
    known = {"interpolation": [0, frames - 1], "image-to-video": [0], "last frame": [frames - 1], "middle frame": [frames // 2],
             "expansion": range(_integer("count", count, 1, frames - 1))}[task]  # fmt: skip
    return chosen(known, frames)


def chosen(known, frames: int) -> Tensor:
    """(frames,) bool, True at the frames of `known`. Raises ValueError for a frame outside 0 .. frames - 1, one named twice, none, or all of them."""
    frames = _integer("frames", frames, 2)
    places = [_integer("known", k, 0, frames - 1) for k in known]
    if len(set(places)) != len(places) or not 0 < len(places) < frames:
        raise ValueError(f"known must hold 1 to {frames - 1} different frames, got {places}")
    is_ref = torch.zeros(frames, dtype=torch.bool)
    is_ref[places] = True
    return is_ref


def reference_count(ratio: float, frames: int) -> int:
    """How many of the frames are references at a share `ratio` in [0, 1]: rounded, at least one and not all (ours; section 3.3 names shares only).

    The paper calls this share the "mask ratio", though it is the share that is *kept*; in MAR a mask ratio is the share that is hidden."""
    return min(max(round(_number("ratio", ratio, 0, 1) * frames), 1), _integer("frames", frames, 2) - 1)


def draw_references(clips: int, frames: int, ratios: tuple[float, float], generator: torch.Generator | None = None) -> Tensor:
    """Random references for training, (clips, frames) bool: a share uniform in `ratios` for each clip, places uniform."""
    clips, frames = _integer("clips", clips, 1), _integer("frames", frames, 2)
    low, high = (_number("ratios", r, 0, 1) for r in ratios)
    if low > high:
        raise ValueError(f"ratios must be (lowest, highest), got {ratios}")
    shares = low + (high - low) * torch.rand(clips, generator=generator, dtype=torch.float64)
    counts = torch.tensor([reference_count(s, frames) for s in shares.tolist()])
    order = torch.rand(clips, frames, generator=generator).argsort(1).argsort(1)
    return order < counts[:, None]


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum (fig. 4): the range of the share of reference frames, frames, how frames are mixed, what is trained, clips seen."""

    ratios: tuple[float, float]
    frames: int
    mixer: str
    trained: str
    clips: float


CURRICULUM = {
    "planner alone": Stage((0.65, 1.0), 4, "space-time", "planner", 200e6),
    "generator alone, 4 frames, 8 fps": Stage((0.45, 1.0), 4, "space-time", "generator", 20e6),
    "generator alone, 4 frames, 4 fps": Stage((0.35, 1.0), 4, "space-time", "generator", 80e6),
    "generator alone, 9 frames": Stage((0.35, 1.0), 9, "space-time", "generator", 40e6),
    "joint model": Stage((0.35, 1.0), 9, "space-time", "both", 75e6),
    "joint task, ST": Stage((0.15, 0.6), 9, "space-time", "both", 40e6),
    "joint task, T": Stage((0.06, 0.3), 17, "temporal", "both", 40e6),
}


# ------------------------------------------------------------------------------------------------------------------------- attention


def identity_mask(is_ref: Tensor, tokens: int = 1, identity: str | None = "token") -> Tensor | None:
    """Who may attend to whom (section 3.2, fig. 3): (B, K * tokens, K * tokens) bool, rows ask, columns answer; None where everyone may.

    A masked frame's token attends to all. A reference frame's token attends to itself ("token"), to its own frame ("frame"), or to all (None). The paper
    draws frames; "token" follows its words "identity projection". With one token a frame, as in temporal attention, both are the same.
    """
    if _choice("identity", identity, IDENTITIES) is None:
        return None
    is_ref = is_ref.repeat_interleave(_integer("tokens", tokens, 1), 1)
    count = is_ref.shape[1]
    own = torch.arange(count, device=is_ref.device) // (tokens if identity == "frame" else 1)
    return ~is_ref[:, :, None] | (own[:, None] == own)


def token_pairs(frames: int, tokens: int, mixer: str) -> int:
    """Pairs of tokens that one layer compares: "spatial" K N^2, "temporal" N K^2, "space-time" (K N)^2."""
    k, n = _integer("frames", frames, 1), _integer("tokens", tokens, 1)
    return {"spatial": k * n * n, "temporal": n * k * k, "space-time": (k * n) ** 2}[_choice("mixer", mixer, ("spatial", *MIXERS))]


class Attention(nn.Module):
    """Multi-head attention with a LayerNorm on queries and keys; keys and values from `context_dim` features where that is given."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got {dim} and {heads}")
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k, self.to_v = (nn.Linear(context_dim or dim, dim, bias=False) for _ in range(2))
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.norm_q, self.norm_k = nn.LayerNorm(dim // heads), nn.LayerNorm(dim // heads)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, context_dim) -> keys and values (B, heads, S, dim / heads)."""
        return self.norm_k(self.split(self.to_k(context))), self.split(self.to_v(context))

    def forward(self, x: Tensor, mask: Tensor | None = None, rotary=None, keys_values: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x (B, T, dim); mask (B, T, S) bool, True where a row may attend; rotary: (cos, sin) of `rotary_table`; keys_values instead of x's own."""
        q = self.norm_q(self.split(self.to_q(x)))
        k, v = self.keys_values(x) if keys_values is None else keys_values
        if rotary is not None:
            q, k = apply_rotary_emb(q, rotary), apply_rotary_emb(k, rotary)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None])
        return self.to_out(found.transpose(1, 2).flatten(2))


def rotary_table(places: Tensor, frames: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin (T, head_dim) for tokens at `places` (T,) of their frame and in frames `frames` (T,): half of a head turns with each (section 3.2)."""
    if head_dim % 4:
        raise ValueError(f"head_dim must be a multiple of 4 for two rotary axes, got {head_dim}")
    tables = [get_1d_rotary_pos_embed(head_dim // 2, axis.float(), use_real=True) for axis in (places, frames)]
    return torch.cat([tables[0][0], tables[1][0]], 1), torch.cat([tables[0][1], tables[1][1]], 1)


# ------------------------------------------------------------------------------------------------------------------- frames as tokens


class Frames(nn.Module):
    """Frames to tokens and back, with a position code: `patch` x `patch` places are one token, row by row.

    position "table": learned vectors for the places and for the frames are added. "rope+next": a learned token [NEXT] follows every row (ours: after
    every row), the rows make one sequence, and attention turns queries and keys by place and frame; other sizes of frames then need no new table.
    """

    def __init__(self, in_channels: int, height: int, width: int, patch: int, frames: int, dim: int, heads: int, position: str):
        super().__init__()
        if height % patch or width % patch:
            raise ValueError(f"height and width must be multiples of patch, got {height} x {width} and {patch}")
        self.position, self.patch, self.head_dim = _choice("position", position, POSITIONS), patch, dim // heads
        self.rows, self.columns = height // patch, width // patch
        self.embed = nn.Linear(in_channels * patch * patch, dim)
        if position == "table":
            self.places = nn.Parameter(0.02 * torch.randn(self.rows * self.columns, dim))
            self.times = nn.Parameter(0.02 * torch.randn(frames, dim))
        else:
            self.next = nn.Parameter(0.02 * torch.randn(dim))

    @property
    def tokens(self) -> int:
        """Tokens of a frame, [NEXT] among them."""
        return self.rows * (self.columns + (self.position != "table"))

    def patches(self, clip: Tensor) -> Tensor:
        """(B, K, C, H, W) -> (B, K, rows * columns, C * patch^2)."""
        p = self.patch
        return clip.unflatten(4, (self.columns, p)).unflatten(3, (self.rows, p)).permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)

    def picture(self, patches: Tensor) -> Tensor:
        """The inverse of `patches`."""
        p = self.patch
        return patches.unflatten(3, (-1, p, p)).unflatten(2, (self.rows, self.columns)).permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)

    def lay_out(self, tokens: Tensor) -> Tensor:
        """Adds what says where a token is: (B, K, rows * columns, D) -> (B, K, tokens, D)."""
        if self.position == "table":
            return tokens + self.places + self.times[: tokens.shape[1], None]
        rows = tokens.unflatten(2, (self.rows, self.columns))
        return torch.cat([rows, self.next.expand(*rows.shape[:3], 1, -1)], 3).flatten(2, 3)

    def pick(self, tokens: Tensor) -> Tensor:
        """Without [NEXT]: (B, K, tokens, D) -> (B, K, rows * columns, D)."""
        return tokens if self.position == "table" else tokens.unflatten(2, (self.rows, -1))[:, :, :, :-1].flatten(2, 3)

    def rotary(self, frames: int, device) -> dict[str, tuple[Tensor, Tensor] | None]:
        """`rotary_table` for attention within a frame, over one place's frames, and over all tokens; None with tables."""
        if self.position == "table":
            return dict.fromkeys(("spatial", *MIXERS))
        place, frame = torch.arange(self.tokens, device=device), torch.arange(frames, device=device)
        axes = {"spatial": (place, torch.zeros_like(place)), "temporal": (torch.zeros_like(frame), frame),
                "space-time": (place.repeat(frames), frame.repeat_interleave(self.tokens))}  # fmt: skip
        return {kind: rotary_table(*both, self.head_dim) for kind, both in axes.items()}


def _within_frames(attention: Attention, x: Tensor, **options) -> Tensor:
    """Attention among the tokens of each frame: x (B, K, N, D)."""
    return attention(x.flatten(0, 1), **options).unflatten(0, x.shape[:2])


def _across_frames(attention: Attention, x: Tensor, mixer: str, mask: Tensor | None, rotary) -> Tensor:
    """Attention of each place over the frames ("temporal"), or among all tokens ("space-time"): x (B, K, N, D), mask as `identity_mask` gives it."""
    b, k, n, _ = x.shape
    if mixer == "space-time":
        return attention(x.flatten(1, 2), mask=mask, rotary=rotary).unflatten(1, (k, n))
    mask = None if mask is None else mask.repeat_interleave(n, 0)
    return attention(x.transpose(1, 2).flatten(0, 1), mask=mask, rotary=rotary).unflatten(0, (b, n)).transpose(1, 2)


# --------------------------------------------------------------------------------------------------------------------------- planner


class PlannerBlock(nn.Module):
    """Attention within frames, attention over the whole clip with identity attention, MLP; each after an RMSNorm and added (fig. 2, left)."""

    def __init__(self, dim: int, heads: int, mlp_dim: int):
        super().__init__()
        self.norm_space, self.norm_clip, self.norm_mlp = (nn.RMSNorm(dim) for _ in range(3))
        self.space, self.clip = Attention(dim, heads), Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None, rotary: dict) -> Tensor:
        x = x + _within_frames(self.space, self.norm_space(x), rotary=rotary["spatial"])
        x = x + _across_frames(self.clip, self.norm_clip(x), "space-time", mask, rotary["space-time"])
        return x + self.mlp(self.norm_mlp(x))


class Planner(ModelMixin, ConfigMixin):
    """The large network (section 3.2): a clip at low resolution, its masked frames replaced by a learned token, becomes one plan a frame.

    height, width: of the low-resolution frames (pixels or latents); frames: the longest clip (of the position table).
    """

    @register_to_config
    def __init__(
        self, in_channels: int = 4, height: int = 4, width: int = 4, patch: int = 1, frames: int = 9, dim: int = 192, depth: int = 6, heads: int = 6,
        mlp_dim: int = 384, identity: str | None = "token", position: str = "table",
    ):  # fmt: skip
        super().__init__()
        _choice("identity", identity, IDENTITIES)
        self.layout = Frames(in_channels, height, width, patch, frames, dim, heads, position)
        self.mask = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = nn.ModuleList(PlannerBlock(dim, heads, mlp_dim) for _ in range(depth))
        self.norm = nn.RMSNorm(dim)

    def forward(self, clip: Tensor, is_ref: Tensor) -> Tensor:
        """clip (B, K, C, h, w), of which masked frames are not looked at (they may hold NaN); is_ref (B, K) or (K,) -> plan (B, K, tokens, dim)."""
        c = self.config
        clip = _clip("clip", clip, c.in_channels, c.height, c.width)
        if clip.shape[1] > c.frames:
            raise ValueError(f"clip must have at most {c.frames} frames, got {clip.shape[1]}")
        is_ref = _known(is_ref, *clip.shape[:2])
        shown = is_ref[:, :, None, None]
        tokens = self.layout.embed(self.layout.patches(torch.where(shown[..., None], clip, 0)))
        x = self.layout.lay_out(torch.where(shown, tokens, self.mask))
        mask, rotary = identity_mask(is_ref, self.layout.tokens, c.identity), self.layout.rotary(clip.shape[1], clip.device)
        for block in self.blocks:
            x = block(x, mask, rotary)
        return self.layout.pick(self.norm(x))


class Readout(nn.Module):
    """What turns a plan back into low-resolution frames for the planner's own loss (f of section 3.3); thrown away after that stage."""

    def __init__(self, planner: Planner):
        super().__init__()
        c = planner.config
        self.out = nn.Linear(c.dim, c.in_channels * c.patch**2)

    def forward(self, plan: Tensor, planner: Planner) -> Tensor:
        """(B, K, tokens, dim) -> (B, K, C, h, w)."""
        return planner.layout.picture(self.out(plan))


# ------------------------------------------------------------------------------------------------------------------------- generator


@dataclass
class PlanCache:
    """What the generator's layers take from a plan, which no denoising step changes: a vector a frame (B, K, dim), keys and values of every block."""

    vector: Tensor
    keys_values: list[tuple[Tensor, Tensor]]


class Modulation(nn.Module):
    """Shift, scale and gate from a condition by a two-layer MLP that starts at zero (AdaLN-zero; the paper's AdaIN)."""

    def __init__(self, dim: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, 3 * dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.outer(F.silu(self.inner(F.silu(condition)))).chunk(3, -1)


class GeneratorBlock(nn.Module):
    """Attention within frames, over frames, to the frame's own plan, and an MLP (fig. 2, right). The first and the last are modulated by the
    timestep, the last by the plan's mean as well (ours: the mean of the frame's plan tokens)."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, plan_dim: int):
        super().__init__()
        self.norm_space, self.norm_frames, self.norm_plan, self.norm_mlp = (nn.RMSNorm(dim) for _ in range(4))
        self.space, self.across, self.plan = Attention(dim, heads), Attention(dim, heads), Attention(dim, heads, plan_dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))
        self.modulate_space, self.modulate_mlp = Modulation(dim), Modulation(dim)

    def forward(self, x: Tensor, time: Tensor, cache_vector: Tensor, keys_values, mixer: str, mask: Tensor | None, rotary: dict) -> Tensor:
        shift, scale, gate = (part[:, None, None] for part in self.modulate_space(time))
        x = x + gate * _within_frames(self.space, self.norm_space(x) * (1 + scale) + shift, rotary=rotary["spatial"])
        x = x + _across_frames(self.across, self.norm_frames(x), mixer, mask, rotary[mixer])
        x = x + _within_frames(self.plan, self.norm_plan(x), keys_values=keys_values)
        shift, scale, gate = (part[:, :, None] for part in self.modulate_mlp(time[:, None] + cache_vector))
        return x + gate * self.mlp(self.norm_mlp(x) * (1 + scale) + shift)


class Generator(ModelMixin, ConfigMixin):
    """The light network (section 3.2): predicts the velocity of the masked frames from noised ones, clean references, the plan and the timestep.

    mixer: "temporal" (the paper's T) or "space-time" (ST); it may be changed after training, as the curriculum does. roles (ours): a learned vector
    says which frames are references, since at small t a clean frame and a noised one look alike.
    """

    @register_to_config
    def __init__(
        self, in_channels: int = 4, height: int = 8, width: int = 8, patch: int = 2, frames: int = 9, dim: int = 96, depth: int = 2, heads: int = 4,
        mlp_dim: int = 192, plan_dim: int = 192, plan_tokens: int = 16, mixer: str = "temporal", identity: str | None = "token",
        position: str = "table", roles: bool = True,
    ):  # fmt: skip
        super().__init__()
        _choice("identity", identity, IDENTITIES)
        self.mixer = _choice("mixer", mixer, MIXERS)
        self.layout = Frames(in_channels, height, width, patch, frames, dim, heads, position)
        self.role = nn.Parameter(0.02 * torch.randn(2, dim)) if roles else None
        self.sinusoids, self.time = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0), TimestepEmbedding(256, dim)
        self.no_plan = nn.Parameter(0.02 * torch.randn(plan_tokens, plan_dim))
        self.plan_vector = nn.Linear(plan_dim, dim)
        self.blocks = nn.ModuleList(GeneratorBlock(dim, heads, mlp_dim, plan_dim) for _ in range(depth))
        self.norm, self.out = nn.RMSNorm(dim), nn.Linear(dim, in_channels * patch * patch)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def without_plan(self, clips: int, frames: int) -> Tensor:
        """The learned stand-in for a plan, (clips, frames, plan_tokens, plan_dim) (section 3.3: "a learnable token"; ours: one for each plan token)."""
        return self.no_plan.expand(clips, frames, -1, -1)

    def replace_plans(self, plan: Tensor, dropped: Tensor) -> Tensor:
        """The stand-in where `dropped` (B,) bool says so, the plan elsewhere."""
        return torch.where(dropped.to(plan.device)[:, None, None, None], self.without_plan(*plan.shape[:2]).to(plan.dtype), plan)

    def read_plan(self, plan: Tensor) -> PlanCache:
        """Everything that depends on the plan alone, to be computed once a clip."""
        c = self.config
        plan = _clip("plan", plan, c.plan_tokens, c.plan_dim)
        return PlanCache(self.plan_vector(plan.mean(2)), [block.plan.keys_values(plan.flatten(0, 1)) for block in self.blocks])

    def forward(self, clip: Tensor, timestep: Tensor, is_ref: Tensor, plan: Tensor | PlanCache | None = None) -> Tensor:
        """The velocity (B, K, C, H, W) of a clip whose masked frames are noised to `timestep` (scalar or (B,)) and whose references are clean.

        plan: (B, K, plan_tokens, plan_dim), what `read_plan` made of it, or None for the learned stand-in. References get a prediction too; ignore it.
        """
        c = self.config
        clip = _clip("clip", clip, c.in_channels, c.height, c.width)
        clips, frames = clip.shape[:2]
        if frames > c.frames:
            raise ValueError(f"clip must have at most {c.frames} frames, got {frames}")
        is_ref = _known(is_ref, clips, frames)
        if not isinstance(plan, PlanCache):
            plan = self.read_plan(self.without_plan(clips, frames) if plan is None else plan)
        time = self.time(self.sinusoids(torch.as_tensor(timestep, device=clip.device).expand(clips)).to(clip.dtype))
        tokens = self.layout.embed(self.layout.patches(clip))
        if self.role is not None:
            tokens = tokens + self.role[is_ref.long()][:, :, None]
        x = self.layout.lay_out(tokens)
        mask = identity_mask(is_ref, self.layout.tokens if self.mixer == "space-time" else 1, c.identity)
        rotary = self.layout.rotary(frames, clip.device)
        for block, keys_values in zip(self.blocks, plan.keys_values, strict=True):
            x = block(x, time, plan.vector, keys_values, self.mixer, mask, rotary)
        return self.layout.picture(self.out(self.norm(self.layout.pick(x))))


# ---------------------------------------------------------------------------------------------------------------------------- losses


def make_scheduler() -> DDIMScheduler:
    """Velocity prediction on a cosine schedule that ends at pure noise (ours: the paper names no schedule)."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip


def low_resolution(clip: Tensor, factor: int) -> Tensor:
    """Frames averaged over squares of `factor`: (B, K, C, H, W) -> (B, K, C, H / factor, W / factor). Averages, since decimation loses small things."""
    factor = _integer("factor", factor, 1)
    clip = _clip("clip", clip, None, None, None)
    if clip.shape[-1] % factor or clip.shape[-2] % factor:
        raise ValueError(f"clip must have sides that are multiples of factor {factor}, got {tuple(clip.shape[-2:])}")
    return F.avg_pool2d(clip.flatten(0, 1), factor).unflatten(0, clip.shape[:2])


def noised(scheduler, clean: Tensor, noise: Tensor, timestep: Tensor, is_ref: Tensor) -> Tensor:
    """alpha_t z + sigma_t epsilon in masked frames, the clean frame in references: (B, K, C, H, W), timestep (B,)."""
    return torch.where(is_ref[:, :, None, None, None], clean, scheduler.add_noise(clean, noise, timestep))


def masked_error(prediction: Tensor, target: Tensor, is_ref: Tensor, per: str = "element") -> Tensor:
    """Mean squared error over the masked frames (section 3.3 prints a sum; ours: a mean, so that the number of masked frames does not scale it).

    per: "element" gives every masked frame the same weight, "clip" every clip.
    """
    _choice("per", per, ("element", "clip"))
    is_ref = _known(is_ref, *prediction.shape[:2])
    errors = (prediction - target).square().flatten(2).mean(2)
    masked = ~is_ref
    errors = torch.where(masked, errors, 0)
    return errors.sum() / masked.sum() if per == "element" else (errors.sum(1) / masked.sum(1)).mean()


def planner_loss(planner: Planner, readout: Readout, low: Tensor, is_ref: Tensor) -> Tensor:
    """L_MAR: the masked frames, read from the plan, against the true ones, at low resolution."""
    return masked_error(readout(planner(low, is_ref), planner), low, is_ref)


def generator_loss(generator: Generator, scheduler, clean: Tensor, is_ref: Tensor, timestep: Tensor, noise: Tensor, plan: Tensor | None = None) -> Tensor:
    """L_DM without a plan, L_MDiff with one: the velocity of the masked frames, v = alpha_t epsilon - sigma_t z."""
    is_ref = _known(is_ref, *clean.shape[:2])
    found = generator(noised(scheduler, clean, noise, timestep, is_ref), timestep, is_ref, plan)
    return masked_error(found, scheduler.get_velocity(clean, noise, timestep), is_ref)


def drop_plans(generator: Generator, plan: Tensor, probability: float, random: torch.Generator | None = None) -> Tensor:
    """Each clip's plan is replaced by the learned stand-in with `probability` (0.1 in the paper), so that guidance has something to lean away from."""
    return generator.replace_plans(plan, torch.rand(len(plan), generator=random) < _number("probability", probability, 0, 1))


# ------------------------------------------------------------------------------------------------------------------------- inference


@dataclass
class MarDiniOutput(BaseOutput):
    """frames (B, K, C, H, W), references bit for bit as given; plan (B, K, plan_tokens, plan_dim)."""

    frames: Tensor
    plan: Tensor


class MarDiniPipeline(DiffusionPipeline):
    """Fills the masked frames of a clip: the planner runs once, the generator once a denoising step (twice with guidance); section 3.4.

    vae: where given, clips are pixels in [-1, 1] and both networks work on its latents, standardised by its own scaling; otherwise on the pixels.
    """

    _optional_components = ["vae"]

    def __init__(self, planner: Planner, generator: Generator, scheduler: DDIMScheduler, vae: AutoencoderKL | None = None):
        super().__init__()
        low, high = planner.config, generator.config
        if high.height % low.height or high.height // low.height * low.width != high.width:
            raise ValueError(f"generator's frames must be a whole multiple of planner's, got {high.height} x {high.width} and {low.height} x {low.width}")
        if (high.plan_dim, high.plan_tokens) != (low.dim, low.height * low.width // low.patch**2):
            raise ValueError(f"generator must expect the planner's plan, got plan_dim {high.plan_dim} and plan_tokens {high.plan_tokens}")
        self.register_modules(planner=planner, generator=generator, scheduler=scheduler, vae=vae)

    @property
    def scale(self) -> int:
        """Pixels of a frame's side for one of the generator's."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixels (B, K, 3, H, W) in [-1, 1] -> what the networks work on (B, K, C, h, w)."""
        if self.vae is None:
            return video
        latents = self.vae.encode(video.flatten(0, 1).to(self.vae.dtype)).latent_dist.mean
        return (latents * self.vae.config.scaling_factor).unflatten(0, video.shape[:2]).to(self.generator.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, as far as the autoencoder is one."""
        if self.vae is None:
            return latents
        video = self.vae.decode(latents.flatten(0, 1).to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return video.unflatten(0, latents.shape[:2]).to(latents.dtype).clamp(-1, 1)

    @torch.no_grad()
    def make_plan(self, video: Tensor, is_ref: Tensor) -> Tensor:
        """The plan of a clip, from its references alone: (B, K, plan_tokens, plan_dim)."""
        video, is_ref = self._checked(video, is_ref)
        return self._plan(self.encode(video), is_ref)

    def _plan(self, clean: Tensor, is_ref: Tensor) -> Tensor:
        return self.planner(low_resolution(clean, self.generator.config.height // self.planner.config.height), is_ref)

    def _checked(self, video, is_ref) -> tuple[Tensor, Tensor]:
        c = self.generator.config
        channels = c.in_channels if self.vae is None else self.vae.config.in_channels
        video = _clip("video", video, channels, c.height * self.scale, c.width * self.scale)
        is_ref = _known(is_ref, *video.shape[:2])
        given = video[is_ref]
        if not torch.isfinite(given).all():
            raise ValueError("video must be finite in its reference frames, got NaN or infinity")
        if self.vae is not None and given.abs().max() > 1:
            raise ValueError(f"video must lie in [-1, 1], got {float(given.min()):.3g} to {float(given.max()):.3g}")
        return torch.where(is_ref[:, :, None, None, None], video, 0).to(self.generator.dtype), is_ref

    @torch.no_grad()
    def __call__(
        self, video: Tensor, is_ref: Tensor, num_inference_steps: int = 25, guidance_scale: float = 1.0, generator: torch.Generator | None = None,
        noise: Tensor | None = None, plan: Tensor | None = None, trace: list | None = None,
    ) -> MarDiniOutput:  # fmt: skip
        """Masked frames of `video` (B, K, C, H, W) are generated, whatever they hold; references stay.

        guidance_scale s: v = v_without_plan + s (v_with - v_without); 1 is none, 0 is without a plan (2.5 in the paper where one image is given, none for
        interpolation). generator draws the noise unless `noise` (B, K, C, h, w) is given. plan: another clip's, instead of the clip's own. trace: a list
        that gets the generator's guess of the clean clip, (B, K, C, h, w), after every step.
        """
        steps, scale = _integer("num_inference_steps", num_inference_steps, 1, 1000), _number("guidance_scale", guidance_scale, 0)
        given = video
        video, is_ref = self._checked(video, is_ref)
        clean = self.encode(video)
        if noise is None:
            noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        elif noise.shape != clean.shape:
            raise ValueError(f"noise must be {tuple(clean.shape)}, got {tuple(noise.shape)}")
        if plan is None:
            plan = self._plan(clean, is_ref)
        elif _clip("plan", plan, self.generator.config.plan_tokens, self.generator.config.plan_dim).shape[:2] != clean.shape[:2]:
            raise ValueError(f"plan must be for {clean.shape[0]} clips of {clean.shape[1]} frames, got {plan.shape[0]} of {plan.shape[1]}")
        with_plan = self.generator.read_plan(plan)
        without = None if scale == 1 else self.generator.read_plan(self.generator.without_plan(*clean.shape[:2]))
        keep = is_ref[:, :, None, None, None]
        x = torch.where(keep, clean, noise.to(clean))
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            v = self.generator(x, t, is_ref, with_plan)
            if without is not None:
                v_without = self.generator(x, t, is_ref, without)
                v = v_without + scale * (v - v_without)
            stepped = self.scheduler.step(v, t, x)
            x = torch.where(keep, clean, stepped.prev_sample)
            if trace is not None:
                trace.append(torch.where(keep, clean, stepped.pred_original_sample))
        return MarDiniOutput(torch.where(keep.to(given.device), given, self.decode(x).to(given)), plan)


def spread(count: int, frames: int) -> list[int]:
    """Where `count` images stand in a window of `frames`: evenly, the first and the last at its ends (ours)."""
    count, frames = _integer("count", count, 1), _integer("frames", frames, 2)
    if count >= frames:
        raise ValueError(f"count must be below frames, got {count} and {frames}")
    return [0] if count == 1 else [round(i * (frames - 1) / (count - 1)) for i in range(count)]


def _fill(pipe: MarDiniPipeline, known: Tensor, places: list[int], frames: int, **call) -> Tensor:
    window = known.new_zeros(len(known), frames, *known.shape[2:])
    window[:, places] = known
    return pipe(window, chosen(places, frames), **call).frames


def roll_forward(pipe: MarDiniPipeline, start: Tensor, windows: int, keep: int, frames: int | None = None, **call) -> Tensor:
    """A clip longer than a window: `start` (B, m, C, H, W) opens the first window, and the last `keep` frames of each open the next.

    Returns (B, K + (windows - 1)(K - keep), C, H, W) with K = frames (the generator's longest clip by default). call: `MarDiniPipeline`'s options.
    """
    frames = pipe.generator.config.frames if frames is None else _integer("frames", frames, 2, pipe.generator.config.frames)
    windows, keep = _integer("windows", windows, 1), _integer("keep", keep, 1, frames - 1)
    start = _clip("start", start, None, None, None)
    clip = _fill(pipe, start, list(range(_integer("the frames of start", start.shape[1], 1, frames - 1))), frames, **call)
    for _ in range(windows - 1):
        clip = torch.cat([clip, _fill(pipe, clip[:, -keep:], list(range(keep)), frames, **call)[:, keep:]], 1)
    return clip


def slow_motion(pipe: MarDiniPipeline, images: Tensor, segment: int, rounds: int = 2, *, overlap: bool = False, frames: int | None = None, **call) -> Tensor:
    """Images to a clip, the clip to a slower one, and so on (section 3.4, fig. 11).

    Round one spreads `images` (B, n, C, H, W) over a window of K frames; every further round cuts the clip into segments of `segment` frames and spreads
    each over a window. overlap False: n -> K -> (K / segment) K, as 4 -> 32 -> 128 with segments of 8. overlap True (ours): neighbouring segments share
    a frame, so that no time is missing between them, and frames grow as 3 -> 9 -> 33 with segments of 3.
    """
    frames = pipe.generator.config.frames if frames is None else _integer("frames", frames, 2, pipe.generator.config.frames)
    segment, rounds = _integer("segment", segment, 2, frames - 1), _integer("rounds", rounds, 1)
    images = _clip("images", images, None, None, None)
    clip, places = _fill(pipe, images, spread(images.shape[1], frames), frames, **call), spread(segment, frames)
    shared = int(overlap)
    for _ in range(rounds - 1):
        if (clip.shape[1] - shared) % (segment - shared):
            raise ValueError(f"segment must divide the clip's {clip.shape[1]} frames{' less one' if overlap else ''}, got {segment}")
        starts = range(0, clip.shape[1] - shared, segment - shared)
        parts = [_fill(pipe, clip[:, s : s + segment], places, frames, **call) for s in starts]
        clip = torch.cat([part[:, shared if i else 0 :] for i, part in enumerate(parts)], 1)
    return clip
