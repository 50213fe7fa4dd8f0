"""Recipe of data/models/toy-mardini: masked planning on rebounding objects, in the latents of an autoencoder that goes on from toy-latte's.

The curriculum of the paper, shortened: a large planner learns alone to paint masked frames at low resolution, from clips that are nearly complete to
clips that are nearly empty; a light generator learns alone; then both learn together, from easy masks to hard ones, and go on with the hard ones, twice
with a learning rate that starts anew. The planner is finished then, and stays; a deeper generator of the same size learns from nothing beside it (ours),
at the end from clips that nothing was trained on. The planner holds most of the parameters: a generator that works motion out by itself would ignore
the plan.
`python -m helpers.recipes.toy_mardini` runs it; checkpoints lie under .recipes/toy-mardini.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..methods import masked_planning as mp
from ..models import zoo
from ..toyworld import analysers
from ..toyworld.rebounds import SPEED_RANGE, Rebounds, rebounds
from . import autoencoders, training

NAME = "toy-mardini"
SEED = 2203
SIZE, FRAMES, LATENT = 32, 9, 8
SHAPES, COLOURS = ("disc", "square", "triangle", "ring"), ("red", "yellow", "green", "blue")
BANK, FRESH = 48_000, range(48_000, 112_000)  # clips that all stages but the last learn from; those of the last
VAE_STEPS, VAE_BATCH, STANDARD = 1200, 64, 512  # the last: clips whose latents get zero mean and unit variance
TRAIN_SEED, HELD_OUT_SEED, HELD_OUT = 8, 30, 200  # of the family rebounds; clips that the card measures
PLANNER = dict(in_channels=4, height=4, width=4, patch=2, frames=FRAMES, dim=160, depth=6, heads=5, mlp_dim=640)
GENERATOR = dict(
    in_channels=4, height=LATENT, width=LATENT, patch=2, frames=FRAMES, dim=64, depth=3, heads=4, mlp_dim=192, plan_dim=160, plan_tokens=4, mixer="space-time"
)  # fmt: skip
FIRST_GENERATOR = GENERATOR | dict(dim=80, depth=2, mlp_dim=160)  # the planner's partner until it is finished
BATCH = 64
PLANNER_STEPS, GENERATOR_STEPS, JOINT_STEPS, HARD_STEPS, AGAIN_STEPS, BESIDE_STEPS, FRESH_STEPS = 10_000, 300, 9000, 7000, 4000, 20_000, 7000
# the range of the share of reference frames, from each step on
PLANNER_RATIOS = {0: (0.65, 1.0), 500: (0.35, 1.0), 1500: (0.06, 0.6)}
GENERATOR_RATIOS = {0: (0.35, 1.0)}
JOINT_RATIOS = {0: (0.35, 1.0), 1500: (0.15, 0.6), 4000: (0.06, 0.3)}
HARD_RATIOS = {0: (0.06, 0.3)}
BESIDE_RATIOS = {0: (0.15, 0.6), 2000: (0.06, 0.45), 6000: (0.06, 0.3)}
HARD_SHIFT = 3.0  # how far the last stages' timesteps lean to noise, where place and shape are decided; 1 is not at all
PLAN_DROPOUT = 0.1
STEPS = 25  # denoising steps when measured
GUIDANCE = {1: 2.5}  # guidance scale by the number of references when measured, as in the paper; 1, none, for all others
TASKS = {"interpolation": mp.references("interpolation", FRAMES), "image-to-video": mp.references("image-to-video", FRAMES),
         "last frame": mp.references("last frame", FRAMES), "middle frame": mp.references("middle frame", FRAMES),
         "expansion of 3": mp.references("expansion", FRAMES, 3)}  # fmt: skip


def sample(seed: int, indices) -> Rebounds:
    return rebounds(seed, indices, size=SIZE, frames=FRAMES, shapes=SHAPES, colours=COLOURS)


def train_vae(work: Path, device: torch.device, stop_at: int | None = None) -> AutoencoderKL:
    """toy-latte's autoencoder, trained further on frames of these clips: it has never seen a tail. Latents get zero mean and unit variance."""

    def frames(step: int, generator: torch.Generator, mine: slice) -> Tensor:
        video = sample(TRAIN_SEED, range(step * VAE_BATCH // 4, (step + 1) * VAE_BATCH // 4)).render().video
        pick = torch.rand(len(video), FRAMES, generator=generator).argsort(1)[:, :4]  # 4 of the 9 frames of each clip
        return video[torch.arange(len(video))[:, None], pick].flatten(0, 1)[mine]

    vae = AutoencoderKL.from_pretrained(zoo.folder("toy-latte") / "vae", local_files_only=True)
    vae = autoencoders.train(vae, frames, seed=SEED, steps=VAE_STEPS, checkpoint=work / "vae.pt", device=device, stop_at=stop_at)
    first = autoencoders.encode(vae, sample(TRAIN_SEED, range(STANDARD)).render().video.flatten(0, 1))
    autoencoders.standardise(vae, first.mean((0, 2, 3)), first.std((0, 2, 3)))
    return vae.to(memory_format=torch.contiguous_format).eval()


def training_videos(indices: range) -> Tensor:
    """Clips (B, FRAMES, 3, SIZE, SIZE) in [0, 1] of the training seed."""
    return sample(TRAIN_SEED, indices).render().video


def make_bank(
    vae: AutoencoderKL, work: Path, name: str = "bank", clips: range | None = None, videos: Callable[[range], Tensor] = training_videos
) -> Tensor:  # fmt: skip
    """Latents of the `clips` of `videos`, the first BANK by default: (clips, FRAMES, 4, 8, 8) in half precision; encoded once, kept as `name`."""
    rank, world_size = training.join_processes()
    paths, clips = [work / f"{name}_{r}_of_{world_size}.pt" for r in range(world_size)], range(BANK) if clips is None else clips
    if not paths[rank].exists():
        pieces = []
        for start in tqdm(range(64 * rank, len(clips), 64 * world_size), desc=f"encoding {name}", mininterval=5, disable=rank > 0):
            pieces.append(encode(vae, videos(clips[start : start + 64])).half().cpu())
        training.save_atomically(torch.cat(pieces), paths[rank])
    training.wait_for_all()
    return torch.cat([torch.load(path, weights_only=True) for path in paths])


def encode(vae: AutoencoderKL, video: Tensor) -> Tensor:
    """Clips (B, T, 3, 32, 32) in [0, 1] -> latent means (B, T, 4, 8, 8)."""
    return autoencoders.encode(vae, video.flatten(0, 1)).unflatten(0, video.shape[:2])


# ----------------------------------------------------------------------------------------------------------------------- seven stages


class Pair(nn.Module):
    """The planner, its first generator, and the readout that only the planner's own stage uses."""

    def __init__(self):
        super().__init__()
        self.planner, self.generator = mp.Planner(**PLANNER), mp.Generator(**FIRST_GENERATOR)
        self.readout = mp.Readout(self.planner)


def batch_of(
    bank: Tensor, seed: int, step: int, ratios: dict, mine: slice, device: torch.device, shift: float = 1.0, batch: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """(latents, references, timesteps, noise, numbers that decide on dropped plans), drawn for the whole batch (BATCH by default) and cut to `mine`.

    shift: timesteps u, uniform in [0, 1), become shift u / (1 + (shift - 1) u) (Esser et al. 2024, eq. 23)."""
    generator, batch = training.step_generator(seed, step), batch or BATCH
    clean = bank[torch.randint(len(bank), (batch,), generator=generator)][mine].float()
    is_ref = mp.draw_references(batch, FRAMES, training.value_at(ratios, step), generator)[mine]
    uniform = training.stratified(batch, generator)[mine]
    timestep = (1000 * shift * uniform / (1 + (shift - 1) * uniform)).long().clamp(max=999)
    noise = torch.randn(batch, *clean.shape[1:], generator=generator)[mine]
    dropped = torch.rand(batch, generator=generator)[mine] < PLAN_DROPOUT
    return tuple(part.to(device) for part in (clean, is_ref, timestep, noise, dropped))


def joint_loss(pair: Pair, scheduler, clean: Tensor, is_ref: Tensor, timestep: Tensor, noise: Tensor, dropped: Tensor) -> Tensor:
    plan = pair.planner(mp.low_resolution(clean, LATENT // PLANNER["height"]), is_ref)
    return mp.generator_loss(pair.generator, scheduler, clean, is_ref, timestep, noise, pair.generator.replace_plans(plan, dropped))


def train(bank: Tensor, fresh: Tensor, work: Path, device: torch.device, stop_at: dict[str, int] | None = None, compiled: bool = False) -> Pair:
    """The averaged weights after all seven stages; `seconds` says how long each took. fresh: the last stage's clips. stop_at: {stage: step} ends
    there, to be continued.

    compiled: both networks go through torch.compile, which is faster on a CPU too and needs a C++ compiler."""
    torch.manual_seed(SEED)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    pair, scheduler = Pair().to(device), mp.make_scheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)

    def planner_loss(pair: Pair, step: int) -> Tensor:
        clean, is_ref, *_ = batch_of(bank, SEED, step, PLANNER_RATIOS, mine, device)
        with training.autocast_with_attention(device):
            return mp.planner_loss(pair.planner, pair.readout, mp.low_resolution(clean, LATENT // PLANNER["height"]), is_ref)

    def generator_loss(pair: Pair, step: int) -> Tensor:
        clean, is_ref, timestep, noise, _ = batch_of(bank, SEED + 1, step, GENERATOR_RATIOS, mine, device)
        with training.autocast_with_attention(device):
            return mp.generator_loss(pair.generator, scheduler, clean, is_ref, timestep, noise)

    def both_loss(pair: Pair, step: int) -> Tensor:
        with training.autocast_with_attention(device):
            return joint_loss(pair, scheduler, *batch_of(bank, SEED + 2, step, JOINT_RATIOS, mine, device))

    def hard_loss(pair: Pair, step: int, seed: int = SEED + 3) -> Tensor:
        with training.autocast_with_attention(device):
            return joint_loss(pair, scheduler, *batch_of(bank, seed, step, HARD_RATIOS, mine, device, HARD_SHIFT))

    seconds = {}
    for stage, loss, steps, rate in (("planner", planner_loss, PLANNER_STEPS, 1e-3), ("generator", generator_loss, GENERATOR_STEPS, 1.5e-3),
                                     ("joint", both_loss, JOINT_STEPS, 1e-3), ("hard", hard_loss, HARD_STEPS, 1e-3),
                                     ("again", partial(hard_loss, seed=SEED + 4), AGAIN_STEPS, 7e-4)):  # fmt: skip
        end = (stop_at or {}).get(stage)
        if compiled:
            pair.planner.compile(dynamic=False)
            pair.generator.compile(dynamic=False)
        average = training.train(pair, loss, steps=steps, checkpoint=work / f"{stage}.pt", learning_rate=rate, warmup=100, decay=0.995, label=stage,
                                 stop_at=end)  # fmt: skip
        seconds[stage] = average.seconds
        if end is not None and end < steps:
            return pair
        pair = average.requires_grad_(True).train()

    pair.generator, beside = train_beside(pair.planner, bank, fresh, work, device, stop_at, compiled)
    pair.seconds = seconds | beside
    return pair.eval()


def train_beside(
    planner: mp.Planner, bank: Tensor, fresh: Tensor, work: Path, device: torch.device, stop_at: dict[str, int] | None = None, compiled: bool = False,
) -> tuple[mp.Generator, dict[str, float]]:  # fmt: skip
    """The last two stages of `train`: the averaged weights of a generator that learns from nothing beside a finished planner, which stays, and the
    seconds of both."""
    torch.manual_seed(SEED)
    rank, world_size = training.join_processes()
    planner, generator, scheduler = planner.eval().requires_grad_(False), mp.Generator(**GENERATOR).to(device), mp.make_scheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    if compiled:
        planner.compile(dynamic=False)

    def loss(generator: mp.Generator, step: int, clips: Tensor, seed: int, ratios: dict) -> Tensor:
        clean, is_ref, timestep, noise, dropped = batch_of(clips, seed, step, ratios, slice(rank, None, world_size), device, HARD_SHIFT)
        with training.autocast_with_attention(device):
            with torch.no_grad():
                plan = planner(mp.low_resolution(clean, LATENT // PLANNER["height"]), is_ref)
            return mp.generator_loss(generator, scheduler, clean, is_ref, timestep, noise, generator.replace_plans(plan, dropped))

    seconds = {}
    for stage, clips, seed, ratios, steps, rate in (("beside", bank, SEED + 5, BESIDE_RATIOS, BESIDE_STEPS, 1.5e-3),
                                                    ("fresh", fresh, SEED + 6, HARD_RATIOS, FRESH_STEPS, 1e-3)):  # fmt: skip
        end = (stop_at or {}).get(stage)
        if compiled:
            generator.compile(dynamic=False)
        average = training.train(generator, partial(loss, clips=clips, seed=seed, ratios=ratios), steps=steps, checkpoint=work / f"{stage}.pt",
                                 learning_rate=rate, warmup=200, decay=0.998, label=stage, stop_at=end)  # fmt: skip
        seconds[stage] = average.seconds
        generator = average.requires_grad_(True).train()
        if end is not None and end < steps:
            break
    return generator.eval(), seconds


def make_pipeline(pair: Pair, vae: AutoencoderKL) -> mp.MarDiniPipeline:
    return mp.MarDiniPipeline(pair.planner.eval(), pair.generator.eval(), mp.make_scheduler(), vae)


# ------------------------------------------------------------------------------------------------------------------- measured quality


def centre_error(read: analysers.ClipReading, truth: analysers.ClipReading, frames: Tensor) -> float:
    """Mean distance in px of the object's centre from the true clip's, over `frames` (N, T) bool; half a picture where nothing was found."""
    return (read.position - truth.position).norm(dim=2).nan_to_num(SIZE / 2)[frames].mean().item()


def kept(read: analysers.ClipReading, clips: Rebounds) -> Tensor:
    """(N,) whether shape and colour are the clip's own, and the object is there in every frame."""
    return (read.shape == clips.shape) & (read.colour == clips.colour) & (read.found == 1)


def moves_plausibly(read: analysers.ClipReading) -> Tensor:
    """(N,) whether the median step from frame to frame lies in the trained range of speeds, with a tenth of it to spare on both sides."""
    steps = (read.position[:, 1:] - read.position[:, :-1]).norm(dim=2).nan_to_num(0).median(1).values
    return (steps >= 0.9 * SPEED_RANGE[0]) & (steps <= 1.1 * SPEED_RANGE[1])


def sets_out_right(read: analysers.ClipReading, clips: Rebounds) -> Tensor:
    """(N,) whether the first two steps from frame 0 point within 45 degrees of where the true object goes."""
    step, true = (p[:, 2] - p[:, 0] for p in (read.position.double(), clips.position))
    cosine = (step * true).sum(1) / (step.norm(dim=1) * true.norm(dim=1)).clamp_min(1e-6)
    return cosine.nan_to_num(-1) > 0.5**0.5


def noise_of(first: int, count: int, frames: int, seed: int) -> Tensor:
    """Noise (count, frames, 4, LATENT, LATENT) of the clips from number `first` on: a clip's own, whatever is drawn beside it."""
    return torch.randn(first + count, frames, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(seed))[first:]


def filled(
    pipe: mp.MarDiniPipeline, video: Tensor, is_ref: Tensor, plan: Tensor | None = None, steps: int | None = None, scale: float | None = None, seed: int = SEED,
    first: int = 0,
) -> Tensor:  # fmt: skip
    """Clips (N, T, 3, S, S) in [0, 1] with the masked frames generated, in `STEPS` steps unless `steps` says otherwise. scale: of the guidance;
    `GUIDANCE`'s by default, none for clips whose numbers of references differ. The noise of clip i depends on `seed` alone, not on what else is asked;
    first: the number of `video`'s first clip."""
    count, frames, parts = *video.shape[:2], []
    noise, is_ref = noise_of(first, count, frames, seed), is_ref.expand(count, -1)
    if scale is None:
        known = is_ref.sum(1).unique().tolist()
        scale = GUIDANCE.get(known[0], 1.0) if len(known) == 1 else 1.0
    for rows in torch.arange(count).split(50):
        call = dict(num_inference_steps=steps or STEPS, noise=noise[rows], plan=None if plan is None else plan[rows], guidance_scale=scale)
        made = pipe(2 * video[rows] - 1, is_ref[rows], **call).frames / 2 + 0.5
        parts.append(torch.where(is_ref[rows][:, :, None, None, None], video[rows], made))  # no rounding on the way to [-1, 1] and back
    return torch.cat(parts)


# the rows of the card: a task, and what it is answered with
ANSWERS = {**{task: (task, "own plan") for task in (*TASKS, "random masks")},
           **{f"{task}, {way}": (task, way) for task in ("image-to-video", "interpolation") for way in ("another clip's plan", "no plan")},
           "interpolation, cross-fade": ("interpolation", "cross-fade")}  # fmt: skip


def masks_of(task: str, first: int, count: int) -> Tensor:
    """References (count, FRAMES) bool of the held-out clips from number `first` on."""
    if task == "random masks":
        return mp.draw_references(HELD_OUT, FRAMES, (0.06, 0.6), torch.Generator().manual_seed(SEED))[first : first + count]
    return TASKS[task].expand(count, -1)


def answer(
    pipe: mp.MarDiniPipeline, task: str, way: str, first: int, count: int, steps: int | None = None, seed: int = SEED, held_out: int = HELD_OUT,
) -> Tensor:  # fmt: skip
    """What `way` makes of `count` held-out clips from number `first` on: clips (count, FRAMES, 3, SIZE, SIZE).

    way: "own plan"; "another clip's plan", that of the clip before, the last of all `held_out` clips for clip 0; "no plan"; "cross-fade", of both ends."""
    video, is_ref, plan = sample(HELD_OUT_SEED, range(first, first + count)).render().video, masks_of(task, first, count), None
    if way == "cross-fade":
        share = torch.linspace(0, 1, FRAMES)[:, None, None, None]
        return (1 - share) * video[:, :1] + share * video[:, -1:]
    if way == "another clip's plan":
        before = [(i - 1) % held_out for i in range(first, first + count)]
        plan = pipe.make_plan(2 * sample(HELD_OUT_SEED, before).render().video - 1, is_ref)
    elif way == "no plan":
        plan = pipe.generator.without_plan(count, FRAMES)
    return filled(pipe, video, is_ref, plan, steps, seed=seed, first=first)


def quality_of(made: Tensor, task: str, first: int) -> dict[str, float]:
    """By the analysers: clips `made` (N, FRAMES, 3, SIZE, SIZE) against the held-out ones from number `first` on. "error" in px of the "masked" frames, whose
    number stands beside it; the rest in percent of the clips."""
    clips = sample(HELD_OUT_SEED, range(first, first + len(made)))
    read, masked = analysers.analyse_clips(made.clamp(0, 1)), ~masks_of(task, first, len(made))
    shares = {"kept": kept(read, clips), "plausible": moves_plausibly(read), "direction": sets_out_right(read, clips)}
    error = centre_error(read, analysers.analyse_clips(clips.render().video), masked)
    return {"error": error, "masked": int(masked.sum())} | {name: 100 * share.double().mean().item() for name, share in shares.items()}


def pooled(parts: list[dict[str, float]], clips: list[int]) -> dict[str, float]:
    """The quality of all clips, from that of parts of so many `clips`."""
    masked = sum(part["masked"] for part in parts)
    shares = {name: sum(part[name] * n for part, n in zip(parts, clips, strict=True)) / sum(clips) for name in ("kept", "plausible", "direction")}
    return {"error": sum(part["error"] * part["masked"] for part in parts) / masked, "masked": masked} | shares


def measure(pipe: mp.MarDiniPipeline, count: int = HELD_OUT) -> dict[str, dict[str, float]]:
    """`quality_of` the first `count` held-out clips, for all `ANSWERS`: every task with the clip's own plan; image-to-video and interpolation also without
    a plan and with another clip's; and the linear cross-fade. Guidance as in `GUIDANCE`."""
    parts = {first: min(50, count - first) for first in range(0, count, 50)}
    return {name: pooled([quality_of(answer(pipe, task, way, first, n), task, first) for first, n in parts.items()], list(parts.values()))
            for name, (task, way) in ANSWERS.items()}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------------------- the folder


def card(quality: dict[str, dict[str, float]], pair: Pair, device: torch.device) -> str:
    """The model card, as text."""
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in (("planner", pair.planner), ("generator", pair.generator))}
    minutes = ", ".join(f"{stage} {seconds / 60:.0f}" for stage, seconds in pair.seconds.items())
    rows = "\n".join(f"| {name} | {q['error']:.2f} px | {q['kept']:.1f} % | {q['plausible']:.1f} % | {q['direction']:.1f} % |" for name, q in quality.items())
    low = PLANNER["height"]
    return f"""# {NAME}

A small `MarDiniPipeline` ({FRAMES} frames of {SIZE}x{SIZE}): a planner of {millions["planner"]:.2f} M parameters at {low}x{low} places a frame, a generator of
{millions["generator"]:.2f} M at {LATENT}x{LATENT}, in the latents of an autoencoder that goes on from toy-latte's. It loads by
`helpers.methods.masked_planning.MarDiniPipeline.from_pretrained`. Made by `make model NAME={NAME}`.

- **Call**: `pipe(video, is_ref)`, video (B, {FRAMES}, 3, {SIZE}, {SIZE}) in [-1, 1], is_ref bool: which frames are known. Any mask will do.
- **Data**: the first {BANK:,} clips of rebounding objects, for the last stage the next {len(FRESH):,}, seed {TRAIN_SEED}; shapes
  {", ".join(SHAPES)}; colours {", ".join(COLOURS)}.
- **Training**: {PLANNER_STEPS} steps of the planner alone, {GENERATOR_STEPS} of a first generator alone, {JOINT_STEPS} of both, {HARD_STEPS} and then
  {AGAIN_STEPS} more of both on hard masks with timesteps that lean to noise; then a deeper generator, from nothing, beside the planner, which stays:
  {BESIDE_STEPS} steps on the same clips and {FRESH_STEPS} on {len(FRESH):,} further ones. {BATCH} clips each; minutes: {minutes};
  {training.machine_kind(device)}. v-prediction, AdamW, averaged weights; one plan in ten dropped.

Measured by the toy world's analysers on {HELD_OUT} clips of seed {HELD_OUT_SEED}, {STEPS} steps, none chosen. Guidance 2.5 where one frame is known, none
elsewhere, as in the paper. "error": distance of the object's centre from the true one, masked frames only (one frame does not say how fast the object
flies). "kept": shape and colour right in a clip that shows the object in every frame. "plausible": speed within the trained range. "direction": sets out
from frame 0 within 45 degrees of the truth.

| task | error | kept | plausible | direction |
| --- | --- | --- | --- | --- |
{rows}
"""


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    vae = train_vae(work, device)
    banks = make_bank(vae, work), make_bank(vae, work, "fresh", FRESH)
    pair, vae = train(*banks, work, device, compiled=shutil.which("c++") is not None).cpu(), vae.cpu()
    if rank > 0:
        return
    training.write_folder(make_pipeline(pair, vae).to(torch.float16), out)
    pipe = mp.MarDiniPipeline.from_pretrained(out, local_files_only=True)
    (out / "README.md").write_text(card(measure(pipe), pair, device))
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
