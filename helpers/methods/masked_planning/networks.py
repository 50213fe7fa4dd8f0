"""Masked planning: the two networks on diffusers' `ModelMixin`, and their losses.

Liu, Liu, Zhou et al., "MarDini: Masked Autoregressive Diffusion for Video Generation at Scale", 2024, arXiv 2410.20280. What the text leaves open and is
decided here says "(ours)". Read from top to bottom: attention, frames as tokens, planner, generator, losses.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, apply_rotary_emb, get_1d_rotary_pos_embed
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ._arguments import _clip, _finite, _flag, _instance, _integer, _known, _like, _number, _option, _place, _random, _tensor, _timestep
from .planning import IDENTITIES, _attended, _masked_error

__all__ = [
    "PUBLISHED_GENERATOR", "PUBLISHED_PARAMETERS", "PUBLISHED_PLANNERS", "Generator", "Planner", "Readout", "drop_plans", "generator_loss",
    "make_scheduler", "noised", "planner_loss",
]  # fmt: skip

MIXERS = ("temporal", "space-time")  # how the generator mixes frames: the paper's T and ST
POSITIONS = ("table", "rope+next")

# The published sizes (section 4.1): latents of 16 channels at an eighth of the side; 256 px here.
PUBLISHED_PLANNERS = {
    "S": dict(in_channels=16, height=32, width=32, patch=1, frames=17, dim=4096, depth=8, heads=32, mlp_dim=4096),
    "L": dict(in_channels=16, height=32, width=32, patch=1, frames=17, dim=4096, depth=16, heads=32, mlp_dim=8192),
}
PUBLISHED_GENERATOR = dict(
    in_channels=16, height=32, width=32, patch=1, frames=17, dim=1024, depth=8, heads=16, mlp_dim=4096, plan_dim=4096, plan_tokens=1024,
)  # fmt: skip
PUBLISHED_PARAMETERS = {"planner S": 1.3e9, "planner L": 3.1e9, "generator": 288e6}


# -------------------------------------------------------------------------------------------------------------------------------- attention


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


# ------------------------------------------------------------------------------------------------------------------------- frames as tokens


class Frames(nn.Module):
    """Frames to tokens and back, with a position code: `patch` x `patch` places are one token, row by row.

    position "table": learned vectors for the places and for the frames are added. "rope+next": a learned token [NEXT] follows every row (ours: after
    every row), the rows make one sequence, and attention turns queries and keys by place and frame; other sizes of frames then need no new table.
    """

    def __init__(self, in_channels: int, height: int, width: int, patch: int, frames: int, dim: int, heads: int, position: str):
        super().__init__()
        if height % patch or width % patch:
            raise ValueError(f"height and width must be multiples of patch, got {height} x {width} and {patch}")
        if position != "table" and dim // heads % 4:
            raise ValueError(f"dim must be a multiple of 4 heads for two rotary axes, got {dim} and {heads} heads")
        self.position, self.patch, self.head_dim = position, patch, dim // heads
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

    def forward(self, tokens: Tensor) -> Tensor:
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


# ---------------------------------------------------------------------------------------------------------------------------------- planner


def _check_sizes(**sizes: Any) -> None:
    for name, value in sizes.items():
        _integer(name, value, 1)


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
        _check_sizes(in_channels=in_channels, height=height, width=width, patch=patch, frames=frames, dim=dim, depth=depth, heads=heads, mlp_dim=mlp_dim)
        _option("identity", identity, IDENTITIES)
        self.layout = Frames(in_channels, height, width, patch, frames, dim, heads, _option("position", position, POSITIONS))
        self.mask = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = nn.ModuleList(PlannerBlock(dim, heads, mlp_dim) for _ in range(depth))
        self.norm = nn.RMSNorm(dim)

    def forward(self, clip: Tensor, is_ref: Tensor) -> Tensor:
        """clip (B, K, C, h, w), of which masked frames are not looked at (they may hold NaN); is_ref (B, K) or (K,) -> plan (B, K, tokens, dim)."""
        c = self.config
        clip = _clip("clip", clip, c.in_channels, c.height, c.width, frames=c.frames).to(self.dtype)
        is_ref = _known(is_ref, *clip.shape[:2]).to(clip.device)
        shown = is_ref[:, :, None, None]
        clip = _finite("clip", torch.where(shown[..., None], clip, 0), " in its reference frames")
        tokens = self.layout.embed(self.layout.patches(clip))
        x = self.layout(torch.where(shown, tokens, self.mask))
        mask, rotary = _attended(is_ref, self.layout.tokens, c.identity), self.layout.rotary(clip.shape[1], clip.device)
        for block in self.blocks:
            x = block(x, mask, rotary)
        return self.layout.pick(self.norm(x))


class Readout(nn.Module):
    """What turns a plan back into low-resolution frames for the planner's own loss (f of section 3.3); thrown away after that stage."""

    def __init__(self, planner: Planner):
        super().__init__()
        c = _instance("planner", planner, Planner).config
        self.out = nn.Linear(c.dim, c.in_channels * c.patch**2)

    def forward(self, plan: Tensor, planner: Planner) -> Tensor:
        """(B, K, tokens, dim) -> (B, K, C, h, w)."""
        return planner.layout.picture(self.out(plan))


# -------------------------------------------------------------------------------------------------------------------------------- generator


@dataclass
class PlanCache:
    """A plan (None: the learned stand-in) and what the generator's layers take from it, which no denoising step changes: a vector a frame (B, K, dim), keys
    and values of every block. The generator fills in both when it first meets the plan, for its layers can be read only while it runs (offloading)."""

    plan: Tensor | None
    vector: Tensor | None = None
    keys_values: list[tuple[Tensor, Tensor] | None] = field(default_factory=list)


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

    def forward(self, x: Tensor, time: Tensor, vector: Tensor, plan: Tensor, keys_values, mixer: str, mask: Tensor | None, rotary: dict):
        """The tokens, and the plan's keys and values: `keys_values`, where that is not None."""
        keys_values = self.plan.keys_values(plan.flatten(0, 1)) if keys_values is None else keys_values
        shift, scale, gate = (part[:, None, None] for part in self.modulate_space(time))
        x = x + gate * _within_frames(self.space, self.norm_space(x) * (1 + scale) + shift, rotary=rotary["spatial"])
        x = x + _across_frames(self.across, self.norm_frames(x), mixer, mask, rotary[mixer])
        x = x + _within_frames(self.plan, self.norm_plan(x), keys_values=keys_values)
        shift, scale, gate = (part[:, :, None] for part in self.modulate_mlp(time[:, None] + vector))
        return x + gate * self.mlp(self.norm_mlp(x) * (1 + scale) + shift), keys_values


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
        _check_sizes(in_channels=in_channels, height=height, width=width, patch=patch, frames=frames, dim=dim, depth=depth, heads=heads, mlp_dim=mlp_dim,
                     plan_dim=plan_dim, plan_tokens=plan_tokens)  # fmt: skip
        _option("identity", identity, IDENTITIES)
        self.mixer = _option("mixer", mixer, MIXERS)
        self.layout = Frames(in_channels, height, width, patch, frames, dim, heads, _option("position", position, POSITIONS))
        self.role = nn.Parameter(0.02 * torch.randn(2, dim)) if _flag("roles", roles) else None
        self.sinusoids, self.time = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0), TimestepEmbedding(256, dim)
        self.no_plan = nn.Parameter(0.02 * torch.randn(plan_tokens, plan_dim))
        self.plan_vector = nn.Linear(plan_dim, dim)
        self.blocks = nn.ModuleList(GeneratorBlock(dim, heads, mlp_dim, plan_dim) for _ in range(depth))
        self.norm, self.out = nn.RMSNorm(dim), nn.Linear(dim, in_channels * patch * patch)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @apply_forward_hook
    def without_plan(self, clips: int, frames: int) -> Tensor:
        """The learned stand-in for a plan, (clips, frames, plan_tokens, plan_dim) (section 3.3: "a learnable token"; ours: one for each plan token)."""
        return self.no_plan.expand(_integer("clips", clips, 1), _integer("frames", frames, 1), -1, -1).clone()

    def replace_plans(self, plan: Tensor, dropped: Tensor) -> Tensor:
        """The stand-in where `dropped` (B,) bool says so, the plan elsewhere."""
        found = self._checked_plan(plan)
        expected = f"booleans ({len(found)},), one for each clip of plan"
        dropped = _tensor("dropped", dropped, expected, "b")
        if dropped.shape != found.shape[:1]:
            raise ValueError(f"dropped must be {expected}, got shape {tuple(dropped.shape)}")
        stand_in = self.without_plan(*found.shape[:2]).to(found)
        return _like(plan, torch.where(dropped.to(found.device)[:, None, None, None], stand_in, found))

    def read_plan(self, plan: Tensor | None) -> PlanCache:
        """For calls that share a plan (None: the stand-in): everything that depends on the plan alone is then computed once, at the first of them."""
        return PlanCache(None if plan is None else self._checked_plan(plan))

    def _checked_plan(self, plan: Any, like: Tensor | None = None, of: str = "clip") -> Tensor:
        return _finite("plan", _clip("plan", plan, self.config.plan_tokens, self.config.plan_dim, like=like, of=of))

    def forward(self, clip: Tensor, timestep: Tensor, is_ref: Tensor, plan: Tensor | PlanCache | None = None) -> Tensor:
        """The velocity (B, K, C, H, W) of a clip whose masked frames are noised to `timestep` (scalar or (B,)) and whose references are clean.

        plan: (B, K, plan_tokens, plan_dim), what `read_plan` made of it, or None for the learned stand-in. References get a prediction too; ignore it.
        """
        c = self.config
        clip = _finite("clip", _clip("clip", clip, c.in_channels, c.height, c.width, frames=c.frames).to(self.dtype))
        clips, frames = clip.shape[:2]
        is_ref, timestep = _known(is_ref, clips, frames).to(clip.device), _timestep(timestep, clips).to(clip.device)
        if not isinstance(plan, PlanCache):
            plan = PlanCache(None if plan is None else self._checked_plan(plan, clip))
        read = plan.plan if plan.vector is None else plan.vector
        if read is not None and read.shape[:2] != clip.shape[:2]:
            raise ValueError(f"plan must be for {clips} clips of {frames} frames, got {read.shape[0]} of {read.shape[1]}")
        if plan.vector is None:
            read = self.no_plan.expand(clips, frames, -1, -1) if read is None else read.to(clip)
            plan.vector, plan.keys_values = self.plan_vector(read.mean(2)), [None] * len(self.blocks)
        time = self.time(self.sinusoids(timestep.expand(clips)).to(clip.dtype))
        tokens = self.layout.embed(self.layout.patches(clip))
        if self.role is not None:
            tokens = tokens + self.role[is_ref.long()][:, :, None]
        x = self.layout(tokens)
        mask = _attended(is_ref, self.layout.tokens if self.mixer == "space-time" else 1, c.identity)
        rotary = self.layout.rotary(frames, clip.device)
        for i, block in enumerate(self.blocks):
            x, plan.keys_values[i] = block(x, time, plan.vector, read, plan.keys_values[i], self.mixer, mask, rotary)
        return self.layout.picture(self.out(self.norm(self.layout.pick(x))))


for _network in (Planner, Generator):  # a saved pipeline names them by the package, as readers do, and not by this file
    _network.__module__ = __name__.rpartition(".")[0]


# ----------------------------------------------------------------------------------------------------------------------------------- losses


def make_scheduler() -> DDIMScheduler:
    """Velocity prediction on a cosine schedule that ends at pure noise (ours: the paper names no schedule)."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip


def noised(scheduler, clean: Tensor, noise: Tensor, timestep: Tensor, is_ref: Tensor) -> Tensor:
    """alpha_t z + sigma_t epsilon in masked frames, the clean frame in references: (B, K, C, H, W), timestep a whole number or (B,) of them."""
    found, noise, timestep, is_ref = _noising(scheduler, clean, noise, timestep, is_ref)
    return _like(clean, _noised(scheduler, found, noise, timestep, is_ref))


def _noising(scheduler, clean, noise, timestep, is_ref) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments of `noised` on the clip's device, checked."""
    _instance("scheduler", scheduler, DDIMScheduler)
    clean = _finite("clean", _clip("clean", clean, None, None, None))
    noise = _finite("noise", _clip("noise", noise, *clean.shape[2:], like=clean, of="clean")).to(clean)
    timestep = _timestep(timestep, len(clean), scheduler.config.num_train_timesteps).expand(len(clean))
    return clean, noise, timestep.to(clean.device), _known(is_ref, *clean.shape[:2], "clean").to(clean.device)


def _noised(scheduler, clean: Tensor, noise: Tensor, timestep: Tensor, is_ref: Tensor) -> Tensor:
    return torch.where(is_ref[:, :, None, None, None], clean, scheduler.add_noise(clean, noise, timestep))


def planner_loss(planner: Planner, readout: Readout, low: Tensor, is_ref: Tensor) -> Tensor:
    """L_MAR: the masked frames, read from the plan, against the true ones, at low resolution."""
    c = _instance("planner", planner, Planner).config
    _instance("readout", readout, Readout)
    low = _finite("low", _clip("low", low, c.in_channels, c.height, c.width, frames=c.frames))
    is_ref = _known(is_ref, *low.shape[:2], "low").to(low.device)
    return _masked_error(readout(planner(low, is_ref), planner), low, is_ref)


def generator_loss(generator: Generator, scheduler, clean: Tensor, is_ref: Tensor, timestep: Tensor, noise: Tensor, plan: Tensor | None = None) -> Tensor:
    """L_DM without a plan, L_MDiff with one: the velocity of the masked frames, v = alpha_t epsilon - sigma_t z."""
    c = _instance("generator", generator, Generator).config
    clean = _clip("clean", clean, c.in_channels, c.height, c.width, frames=c.frames)
    clean, noise, timestep, is_ref = _noising(scheduler, clean, noise, timestep, is_ref)
    found = generator(_noised(scheduler, clean, noise, timestep, is_ref), timestep, is_ref, plan)
    return _masked_error(found, scheduler.get_velocity(clean, noise, timestep), is_ref)


def drop_plans(generator: Generator, plan: Tensor, probability: float, random: torch.Generator | None = None) -> Tensor:
    """Each clip's plan is replaced by the learned stand-in with `probability` (0.1 in the paper), so that guidance has something to lean away from."""
    found, probability = _instance("generator", generator, Generator)._checked_plan(plan), _number("probability", probability, 0, 1)
    dropped = torch.rand(len(found), generator=_random("random", random), device=_place(random)) < probability
    return _like(plan, generator.replace_plans(found, dropped))
