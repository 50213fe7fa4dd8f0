"""Masked planning for video (MarDini): a large planner reads the clip once at low resolution, a light generator denoises the missing frames.

Liu, Liu, Zhou et al., "MarDini: Masked Autoregressive Diffusion for Video Generation at Scale", 2024, arXiv 2410.20280. Neither code nor weights are
public, so this follows the text; what the text leaves open and is decided here says "(ours)".

    pipe = MarDiniPipeline(planner, generator, scheduler)              # or MarDiniPipeline.from_pretrained(folder)
    is_ref = references("interpolation", frames=9)                     # which frames are known: the first and the last
    clip = pipe(video, is_ref, num_inference_steps=25).frames          # (B, 9, C, H, W); the known frames come back bit for bit

A clip is (B, K, C, H, W), K frames of floating-point numbers; `is_ref` is bool, (K,) or (B, K), True where a frame is known (a *reference*). Tensors,
numpy arrays, lists and pandas are taken; tensors of any device give tensors there, all else gives numpy. Bad arguments raise ValueError or TypeError that
names the argument, before any work is done.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, apply_rotary_emb, get_1d_rotary_pos_embed
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

__all__ = [
    "CURRICULUM", "PUBLISHED_GENERATOR", "PUBLISHED_PARAMETERS", "PUBLISHED_PLANNERS", "TASKS", "Generator", "MarDiniOutput", "MarDiniPipeline", "Planner",
    "Readout", "chosen", "draw_references", "drop_plans", "generator_loss", "identity_mask", "low_resolution", "make_scheduler", "masked_error", "noised",
    "planner_loss", "references", "roll_forward", "slow_motion", "token_pairs",
]  # fmt: skip

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


def _got(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        place = f" on {value.device.type}" if isinstance(value, Tensor) and value.device.type != "cpu" else ""
        return f"{str(value.dtype).removeprefix('torch.')} {'tensor' if isinstance(value, Tensor) else 'array'} of shape {tuple(value.shape)}{place}"
    return repr(value) if value is None or isinstance(value, (str, bytes, Real)) else f"a {type(value).__name__}"


def _option(name: str, value: Any, options: Sequence) -> Any:
    if not isinstance(value, str) and not (value is None and None in options):
        raise TypeError(f"{name} must be one of {', '.join(map(str, options))}, got {_got(value)}")
    return _choice(name, value, options)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {_got(value)}")
    return bool(value)


def _instance(name: str, value: Any, kind: type) -> Any:
    if not isinstance(getattr(value, "_orig_mod", value), kind):  # what torch.compile wraps is there under this name
        inner = "module" if isinstance(getattr(value, "module", None), kind) else "get_base_model()" if hasattr(value, "get_base_model") else None
        raise TypeError(f"{name} must be a {kind.__name__}, got {_got(value)}{'' if inner is None else f'; give what it wraps, its .{inner}'}")
    return value


def _items(name: str, value: Any, expected: str) -> list:
    """The entries of a list, tuple, range, array, Series or tensor of one axis; each is still to be checked."""
    found = value.tolist() if hasattr(value, "tolist") and not (isinstance(value, Tensor) and _hollow(value)) else value
    if not isinstance(found, (list, tuple, range)):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    return list(found)


def _hollow(value: Tensor) -> bool:
    """A shape without numbers, on the meta device; a subclass of Tensor that names this device holds numbers of its own."""
    return value.is_meta and type(value) in (Tensor, nn.Parameter)


def _tensor(name: str, value: Any, expected: str, kinds: str = "f") -> Tensor:
    """Any array-like of floating-point numbers ("b": of booleans, "i": of whole numbers) as a tensor, on the device it came on, with its gradient."""
    if isinstance(value, Tensor):
        found = "f" if value.is_floating_point() else "b" if value.dtype == torch.bool else "c" if value.is_complex() else "i"
        if found not in kinds or value.layout != torch.strided or _hollow(value):
            raise TypeError(f"{name} must be {expected}, got {_got(value)}")
        return value
    if value is None or isinstance(value, (str, bytes, Mapping, Set)) or not (isinstance(value, (list, tuple, int, float)) or hasattr(value, "__array__")):
        raise TypeError(f"{name} must be {expected}, got {_got(value)}")
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
            value = torch.stack(list(value)).detach().cpu()
        array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
    except Exception as error:  # ragged lists, what only looks like an array: whatever numpy makes of it, the argument is named
        raise ValueError(f"{name} must be {expected}, got {_got(value)}, which makes no array") from error
    if array.dtype.kind.replace("u", "i") not in kinds:
        raise TypeError(f"{name} must be {expected}, got {_got(array)}")
    wanted = np.int64 if array.dtype.kind in "iu" else np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    array = array.astype(wanted, copy=False)
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def _like(given: Any, result: Tensor):
    """`result` as the kind that `given` is: a tensor on its device; for numpy, lists and pandas a numpy array."""
    if isinstance(given, Tensor):
        return result.to(given.device)
    return (result.float() if result.dtype == torch.bfloat16 else result).detach().cpu().numpy()  # numpy has no bfloat16


def _finite(name: str, values: Tensor, where: str = "") -> Tensor:
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} must be finite{where}, got NaN or infinity")
    return values


def _clip(name: str, value: Any, *shape: int | None, frames: int | None = None, like: Tensor | None = None, of: str = "clip") -> Tensor:
    """Floating-point numbers (B, K, *shape), K at most `frames`; sizes that are None may be anything. like: a clip, named `of`, of as many clips and frames."""
    wanted = f"(clips, frames, {' x '.join('any' if s is None else str(s) for s in shape)})"
    wanted += "" if like is None else f" as {of} has them"
    value = _tensor(name, value, f"floating-point numbers {wanted}")
    if value.ndim != 2 + len(shape) or any(s not in (None, found) for s, found in zip(shape, value.shape[2:], strict=False)) or 0 in value.shape:
        raise ValueError(f"{name} must be {wanted}, got {tuple(value.shape)}")
    if frames is not None and value.shape[1] > frames:
        raise ValueError(f"{name} must have at most {frames} frames, got {value.shape[1]}")
    if like is not None and value.shape[:2] != like.shape[:2]:
        raise ValueError(f"{name} must be for {like.shape[0]} clips of {like.shape[1]} frames, got {value.shape[0]} of {value.shape[1]} (unlike {of})")
    return value


def _known(is_ref: Any, clips: int, frames: int, of: str = "clip") -> Tensor:
    """`is_ref` as (clips, frames) bool, with a reference and a masked frame in every row. of: whose clips and frames they are."""
    wanted = f"({frames},) or ({clips}, {frames}), as {of} has frames and clips"
    is_ref = _tensor("is_ref", is_ref, f"booleans {wanted}", "b")
    if is_ref.shape not in ((frames,), (clips, frames)):
        raise ValueError(f"is_ref must be {wanted}; got {tuple(is_ref.shape)}")
    is_ref = is_ref.expand(clips, frames)
    if not is_ref.any(1).all():
        raise ValueError("is_ref must have a reference frame in every clip, got a clip with none")
    if is_ref.all(1).any():
        raise ValueError("is_ref must have a masked frame in every clip, got a clip with none")
    return is_ref


def _timestep(timestep: Any, clips: int, count: int | None = None) -> Tensor:
    """One number >= 0 or one for each clip; count: whole numbers below it."""
    expected = f"{'a number' if count is None else 'a whole number'} {'>= 0' if count is None else f'in 0..{count - 1}'}, or one for each of {clips} clips"
    timestep = _tensor("timestep", timestep, expected, "if" if count is None else "i")
    if timestep.shape not in ((), (clips,)):
        raise ValueError(f"timestep must be {expected}, got shape {tuple(timestep.shape)}")
    if not (torch.isfinite(timestep) & (timestep >= 0) & (timestep < (math.inf if count is None else count))).all():
        raise ValueError(f"timestep must be {expected}, got {timestep.tolist()}")
    return timestep


def _random(name: str, generator: Any, count: int | None = None) -> Any:
    """None, a torch.Generator, or a list or tuple of `count` of them."""
    expected = "a torch.Generator" + ("" if count is None else f" or a list of {count}, one a clip")
    if isinstance(generator, (list, tuple)) and count is not None and all(isinstance(g, torch.Generator) for g in generator):
        if len(generator) != count:
            raise ValueError(f"{name} must be {expected}, got {len(generator)}")
    elif generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"{name} must be {expected}, got {_got(generator)}")
    return generator


def _place(generator: torch.Generator | None) -> torch.device:
    """Where a generator draws."""
    return torch.device("cpu") if generator is None else generator.device


# ------------------------------------------------------------------------------------------------------------- references, curriculum


def references(task: str, frames: int, count: int = 1) -> Tensor:
    """Which frames are known in a task, (frames,) bool (section 3.4).

    "interpolation": the first and the last; "image-to-video": the first; "last frame"; "middle frame": frame frames // 2; "expansion": the first `count`.
    """
    _option("task", task, TASKS)
    frames = _integer("frames", frames, 2)
    known = {"interpolation": [0, frames - 1], "image-to-video": [0], "last frame": [frames - 1], "middle frame": [frames // 2],
             "expansion": range(_integer("count", count, 1, frames - 1))}[task]  # fmt: skip
    return chosen(known, frames)


def chosen(known, frames: int) -> Tensor:
    """(frames,) bool, True at the frames of `known`. Raises ValueError for a frame outside 0 .. frames - 1, one named twice, none, or all of them."""
    frames = _integer("frames", frames, 2)
    places = [_integer("known", k) for k in _items("known", known, f"a list of frames in 0..{frames - 1}")]
    for place in places:
        if not 0 <= place < frames:
            raise ValueError(f"known must be an integer in 0..{frames - 1}, got {place} where frames is {frames}")
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
    bounds = [_number("ratios", r, 0, 1) for r in _items("ratios", ratios, "(lowest, highest)")]
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"ratios must be (lowest, highest), got {ratios}")
    (low, high), device = bounds, _place(_random("generator", generator))
    shares = low + (high - low) * torch.rand(clips, generator=generator, dtype=torch.float64, device=device).cpu()
    counts = torch.tensor([reference_count(s, frames) for s in shares.tolist()])
    order = torch.rand(clips, frames, generator=generator, device=device).cpu().argsort(1).argsort(1)
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
    found = _tensor("is_ref", is_ref, "booleans (clips, frames)", "b")
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"is_ref must be booleans (clips, frames), got shape {tuple(found.shape)}")
    mask = _attended(found, _integer("tokens", tokens, 1), _option("identity", identity, IDENTITIES))
    return None if mask is None else _like(is_ref, mask)


def _attended(is_ref: Tensor, tokens: int, identity: str | None) -> Tensor | None:
    if identity is None:
        return None
    is_ref = is_ref.repeat_interleave(tokens, 1)
    count = is_ref.shape[1]
    own = torch.arange(count, device=is_ref.device) // (tokens if identity == "frame" else 1)
    return ~is_ref[:, :, None] | (own[:, None] == own)


def token_pairs(frames: int, tokens: int, mixer: str) -> int:
    """Pairs of tokens that one layer compares: "spatial" K N^2, "temporal" N K^2, "space-time" (K N)^2."""
    k, n = _integer("frames", frames, 1), _integer("tokens", tokens, 1)
    pairs = {"spatial": k * n * n, "temporal": n * k * k, "space-time": (k * n) ** 2}
    return pairs[_option("mixer", mixer, tuple(pairs))]


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


# --------------------------------------------------------------------------------------------------------------------------- planner


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


# ------------------------------------------------------------------------------------------------------------------------- generator


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


# ---------------------------------------------------------------------------------------------------------------------------- losses


def make_scheduler() -> DDIMScheduler:
    """Velocity prediction on a cosine schedule that ends at pure noise (ours: the paper names no schedule)."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip


def low_resolution(clip: Tensor, factor: int) -> Tensor:
    """Frames averaged over squares of `factor`: (B, K, C, H, W) -> (B, K, C, H / factor, W / factor). Averages, since decimation loses small things."""
    factor = _integer("factor", factor, 1)
    found = _finite("clip", _clip("clip", clip, None, None, None))
    if found.shape[-1] % factor or found.shape[-2] % factor:
        raise ValueError(f"clip must have sides that are multiples of factor {factor}, got {tuple(found.shape[-2:])}")
    return _like(clip, F.avg_pool2d(found.flatten(0, 1), factor).unflatten(0, found.shape[:2]))


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


def masked_error(prediction: Tensor, target: Tensor, is_ref: Tensor, per: str = "element") -> Tensor:
    """Mean squared error over the masked frames (section 3.3 prints a sum; ours: a mean, so that the number of masked frames does not scale it).

    per: "element" gives every masked frame the same weight, "clip" every clip.
    """
    _option("per", per, ("element", "clip"))
    found = _clip("prediction", prediction, None, None, None)
    target = _clip("target", target, *found.shape[2:], like=found, of="prediction").to(found.device)
    is_ref = _known(is_ref, *found.shape[:2], "prediction").to(found.device)
    for name, frames in (("prediction", found), ("target", target)):
        _finite(name, torch.where(is_ref[:, :, None, None, None], 0, frames), " in its masked frames")
    return _like(prediction, _masked_error(found, target, is_ref, per))


def _masked_error(prediction: Tensor, target: Tensor, is_ref: Tensor, per: str = "element") -> Tensor:
    errors = (prediction - target).square().flatten(2).mean(2)
    masked = ~is_ref
    errors = torch.where(masked, errors, 0)
    return errors.sum() / masked.sum() if per == "element" else (errors.sum(1) / masked.sum(1)).mean()


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
    model_cpu_offload_seq = "planner->generator->vae"

    def __init__(self, planner: Planner, generator: Generator, scheduler: DDIMScheduler, vae: AutoencoderKL | None = None):
        super().__init__()
        low, high = _instance("planner", planner, Planner).config, _instance("generator", generator, Generator).config
        if _instance("scheduler", scheduler, DDIMScheduler).config.prediction_type != "v_prediction":
            raise ValueError(f"scheduler must predict velocities (prediction_type 'v_prediction'), got {scheduler.config.prediction_type!r}")
        if high.height % low.height or high.height // low.height * low.width != high.width:
            raise ValueError(f"generator's frames must be a whole multiple of planner's, got {high.height} x {high.width} and {low.height} x {low.width}")
        if high.in_channels != low.in_channels:
            raise ValueError(f"generator must have the planner's in_channels, got {high.in_channels} and {low.in_channels}")
        if (high.plan_dim, high.plan_tokens) != (low.dim, low.height * low.width // low.patch**2):
            raise ValueError(f"generator must expect the planner's plan, got plan_dim {high.plan_dim} and plan_tokens {high.plan_tokens}")
        if vae is not None and _instance("vae", vae, AutoencoderKL).config.latent_channels != high.in_channels:
            raise ValueError(f"vae must have latents of the generator's {high.in_channels} channels, got {vae.config.latent_channels}")
        self.register_modules(planner=planner, generator=generator, scheduler=scheduler, vae=vae)

    @property
    def scale(self) -> int:
        """Pixels of a frame's side for one of the generator's."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixels (B, K, 3, H, W) in [-1, 1] -> what the networks work on (B, K, C, h, w)."""
        shown = self._shown("video", video)
        return video if self.vae is None else _like(video, self._encode(shown.to(self._execution_device)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, as far as the autoencoder is one."""
        c = self.generator.config
        found = _finite("latents", _clip("latents", latents, c.in_channels, c.height, c.width))
        return latents if self.vae is None else _like(latents, self._decode(found.to(self._execution_device)))

    @torch.no_grad()
    def make_plan(self, video: Tensor, is_ref: Tensor) -> Tensor:
        """The plan of a clip, from its references alone: (B, K, plan_tokens, plan_dim)."""
        _, shown, is_ref = self._checked(video, is_ref)
        plan = _like(video, self._plan(self._encode(shown), is_ref))
        self.maybe_free_model_hooks()
        return plan

    def _encode(self, video: Tensor) -> Tensor:
        if self.vae is None:
            return video
        latents = self.vae.encode(video.flatten(0, 1).to(self.vae.dtype)).latent_dist.mean
        return (latents * self.vae.config.scaling_factor).unflatten(0, video.shape[:2]).to(self.generator.dtype)

    def _decode(self, latents: Tensor) -> Tensor:
        if self.vae is None:
            return latents
        video = self.vae.decode(latents.flatten(0, 1).to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return video.unflatten(0, latents.shape[:2]).to(latents.dtype).clamp(-1, 1)

    def _plan(self, clean: Tensor, is_ref: Tensor) -> Tensor:
        return self.planner(low_resolution(clean, self.generator.config.height // self.planner.config.height), is_ref).to(clean.device)

    def _shown(self, name: str, video: Any, where: Tensor | None = None) -> Tensor:
        """Frames that the networks may look at; where: (B, K) bool, which those are (the others become 0); all by default."""
        c = self.generator.config
        channels = c.in_channels if self.vae is None else self.vae.config.in_channels
        video = _clip(name, video, channels, c.height * self.scale, c.width * self.scale)
        video = video if where is None else torch.where(where.to(video.device)[:, :, None, None, None], video, 0)
        _finite(name, video, "" if where is None else " in its reference frames")
        if self.vae is not None and video.abs().max() > 1 + 1e-3:  # less is rounding
            raise ValueError(f"{name} must lie in [-1, 1], got {float(video.min()):.3g} to {float(video.max()):.3g}")
        return video

    def _checked(self, video: Any, is_ref: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The clip as a tensor; and, where the networks will run, its references among zeros and which they are."""
        given = _clip("video", video, None, None, None, frames=min(self.planner.config.frames, self.generator.config.frames))
        is_ref, device, dtype = _known(is_ref, *given.shape[:2], "video"), self._execution_device, self.generator.dtype
        shown = _finite("video", self._shown("video", given, is_ref).to(device, dtype), f" in its reference frames as {dtype}")
        return given, shown, is_ref.to(device)

    @torch.no_grad()
    def __call__(
        self, video: Tensor, is_ref: Tensor, num_inference_steps: int = 25, guidance_scale: float = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None, noise: Tensor | None = None, plan: Tensor | None = None,
        trace: list | None = None,
    ) -> MarDiniOutput:  # fmt: skip
        """Masked frames of `video` (B, K, C, H, W) are generated, whatever they hold; references stay.

        guidance_scale s: v = v_without_plan + s (v_with - v_without); 1 is none, 0 is without a plan (2.5 in the paper where one image is given, none for
        interpolation). generator (one, or a list of one a clip) draws the noise unless `noise` (B, K, C, h, w) is given. plan: another clip's, instead of
        the clip's own. trace: a list that gets the generator's guess of the clean clip, (B, K, C, h, w), after every step.
        """
        c = self.generator.config
        steps = _integer("num_inference_steps", num_inference_steps, 1, self.scheduler.config.num_train_timesteps)
        scale = _number("guidance_scale", guidance_scale, 0)
        given, shown, is_ref = self._checked(video, is_ref)
        _random("generator", generator, len(given))
        if noise is not None:
            noise = _clip("noise", noise, c.in_channels, c.height, c.width, like=given, of="video").to(shown)
            _finite("noise", noise)
        if plan is not None:
            plan = self.generator._checked_plan(plan, given, "video")
        if trace is not None and not isinstance(trace, list):
            raise TypeError(f"trace must be a list, got {_got(trace)}")

        clean = self._encode(shown)
        if noise is None:
            noise = self._draw(clean, generator)
        plan = self._plan(clean, is_ref) if plan is None else plan.to(clean.device)
        with_plan, without = self.generator.read_plan(plan), None if scale == 1 else self.generator.read_plan(None)
        keep = is_ref[:, :, None, None, None]
        x = torch.where(keep, clean, noise.to(clean))
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps[:steps]:  # rounding makes the scheduler add one more, -1, to some numbers of steps
            v = self.generator(x, t, is_ref, with_plan).to(x.device)
            if without is not None:
                v_without = self.generator(x, t, is_ref, without).to(x.device)
                v = v_without + scale * (v - v_without)
            stepped = self.scheduler.step(v, t, x)
            x = torch.where(keep, clean, stepped.prev_sample)
            if trace is not None:
                trace.append(_like(video, torch.where(keep, clean, stepped.pred_original_sample)))
        frames = torch.where(keep.to(given.device), given, self._decode(x).to(given))
        self.maybe_free_model_hooks()
        return MarDiniOutput(_like(video, frames), _like(video, plan))

    @staticmethod
    def _draw(clean: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
        if isinstance(generator, (list, tuple)):
            return torch.cat([MarDiniPipeline._draw(clip[None], one) for clip, one in zip(clean, generator, strict=True)])
        return torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=_place(generator)).to(clean.device)


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


def _window(pipe: Any, name: str, clip: Any, frames: int | None) -> tuple[Tensor, int]:
    """Frames to be spread over windows, and how many a window has."""
    longest = getattr(getattr(getattr(pipe, "generator", None), "config", None), "frames", None)
    if not callable(pipe) or longest is None:
        raise TypeError(f"pipe must be a MarDiniPipeline, got {_got(pipe)}")
    frames = longest if frames is None else _integer("frames", frames, 2, longest)
    clip = pipe._shown(name, clip) if isinstance(pipe, MarDiniPipeline) else _finite(name, _clip(name, clip, None, None, None))
    if clip.shape[1] >= frames:
        raise ValueError(f"{name} must have 1 to {frames - 1} frames, fewer than a window, got {clip.shape[1]}")
    return clip, frames


def roll_forward(pipe: MarDiniPipeline, start: Tensor, windows: int, keep: int, frames: int | None = None, **call) -> Tensor:
    """A clip longer than a window: `start` (B, m, C, H, W) opens the first window, and the last `keep` frames of each open the next.

    Returns (B, K + (windows - 1)(K - keep), C, H, W) with K = frames (the generator's longest clip by default). call: `MarDiniPipeline`'s options.
    """
    first, frames = _window(pipe, "start", start, frames)
    windows, keep = _integer("windows", windows, 1), _integer("keep", keep, 1, frames - 1)
    clip = _fill(pipe, first, list(range(first.shape[1])), frames, **call)
    for _ in range(windows - 1):
        clip = torch.cat([clip, _fill(pipe, clip[:, -keep:], list(range(keep)), frames, **call)[:, keep:]], 1)
    return _like(start, clip)


def slow_motion(pipe: MarDiniPipeline, images: Tensor, segment: int, rounds: int = 2, *, overlap: bool = False, frames: int | None = None, **call) -> Tensor:
    """Images to a clip, the clip to a slower one, and so on (section 3.4, fig. 11).

    Round one spreads `images` (B, n, C, H, W) over a window of K frames; every further round cuts the clip into segments of `segment` frames and spreads
    each over a window. overlap False: n -> K -> (K / segment) K, as 4 -> 32 -> 128 with segments of 8. overlap True (ours): neighbouring segments share
    a frame, so that no time is missing between them, and frames grow as 3 -> 9 -> 33 with segments of 3.
    """
    first, frames = _window(pipe, "images", images, frames)
    segment, rounds, shared = _integer("segment", segment, 2, frames - 1), _integer("rounds", rounds, 1), int(_flag("overlap", overlap))
    length = frames
    for _ in range(rounds - 1):
        if (length - shared) % (segment - shared):
            raise ValueError(f"segment must divide the clip's {length} frames{' less one' if overlap else ''}, got {segment}")
        length = (length - shared) // (segment - shared) * (frames - shared) + shared
    clip, places = _fill(pipe, first, spread(first.shape[1], frames), frames, **call), spread(segment, frames)
    for _ in range(rounds - 1):
        starts = range(0, clip.shape[1] - shared, segment - shared)
        parts = [_fill(pipe, clip[:, s : s + segment], places, frames, **call) for s in starts]
        clip = torch.cat([part[:, shared if i else 0 :] for i, part in enumerate(parts)], 1)
    return _like(images, clip)
