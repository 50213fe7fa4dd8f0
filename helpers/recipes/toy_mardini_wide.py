"""Recipe of data/models/toy-mardini-wide: toy-mardini, widened from rebounding objects to windows that move over photographs.

Autoencoder and pair go on from toy-mardini's. The autoencoder learns from toy frames and crops of photographs, with toy latents pulled to where they were,
at the end its decoder alone; then planner and generator learn together from clips of both kinds, in two rounds. Some photographs are kept out of all of it.
`python -m helpers.recipes.toy_mardini_wide` runs it; checkpoints lie under .recipes/toy-mardini-wide.
"""

import copy
import shutil
from functools import cache, partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..datasets import photo_crops
from ..measures import filling, metrics, statistics
from ..methods import masked_planning as mp
from ..models import zoo
from . import autoencoders, training
from . import toy_mardini as toy

NAME = "toy-mardini-wide"
SEED = 2203
SIZE, FRAMES, LATENT = toy.SIZE, toy.FRAMES, toy.LATENT
VAE_STEPS, VAE_BATCH = (800, 350, 250), 64  # rounds, the last of the decoder alone; half toy frames, half crops of photographs
BATCH, RATE = 64, 8e-4
TOYS, PHOTOS = 6000, 8000  # clips that the pair learns from
MOVES = ("pan",) * 4 + ("zoom in", "zoom out", "shake")  # of the photographs' clips, each as often as the next
# of a round: steps, decay of the averaged weights, and from each step on the share of toys; of the toys and of the photographs, the share whose two ends
# are known: hard masks for the others
ROUNDS = (
    (2800, 0.995, {0: (0.5, 0.15, 0.6), 1613: (0.25, 0.15, 0.9)}),
    (6000, 0.998, {0: (0.4, 0.15, 0.8)}),
)
HELD_OUT_SEED = 40  # of the clips over kept-out photographs that the card measures; moves, and how many clips of each
HELD_OUT = {"fast pan": 60, "slow pan": 24, "zoom in": 12, "zoom out": 12, "shake": 12}
RIVALS = "nearest frame", "cross-fade", "optical flow"
ENDS = toy.TASKS["interpolation"]


def train_vae(vae: AutoencoderKL, work: Path, device: torch.device, stop_at: dict[int, int] | None = None) -> AutoencoderKL:
    """`vae` trained further in rounds of VAE_STEPS; the latents of toy frames are pulled to where it puts them now. stop_at: {round: step} ends there, to
    be continued."""
    half = VAE_BATCH // 2

    def frames(step: int, generator: torch.Generator, mine: slice, before: int) -> Tensor:
        step += before
        toys = toy.training_videos(range(step * half // 4, (step + 1) * half // 4))
        toys = toys[torch.arange(len(toys))[:, None], torch.rand(len(toys), FRAMES, generator=generator).argsort(1)[:, :4]].flatten(0, 1)
        crops = photo_crops.crops(SEED, range(step * half, (step + 1) * half), size=SIZE, frames=2, names=photo_crops.TRAINED, vary=True).video[:, 0]
        return torch.cat([toys[mine], crops[mine]])

    keep, wide, seconds = vae.requires_grad_(False), copy.deepcopy(vae), 0.0
    for turn, steps in enumerate(VAE_STEPS):
        end, last = (stop_at or {}).get(turn), turn == len(VAE_STEPS) - 1
        learn = autoencoders.tune_decoder if last else partial(autoencoders.train, keep=keep)
        wide.seconds = 0.0  # of this round alone
        wide = learn(wide.requires_grad_(not last).train(not last), partial(frames, before=sum(VAE_STEPS[:turn])), seed=SEED + 7 + 10 * turn, steps=steps,
                     checkpoint=work / f"vae-{turn}.pt", device=device, stop_at=end)  # fmt: skip
        seconds += wide.seconds
        if end is not None and end < steps:
            break
    wide.seconds = seconds
    return wide.to(memory_format=torch.contiguous_format).eval()


def photo_videos(indices: range) -> Tensor:
    return photo_crops.crops(SEED + 1, indices, size=SIZE, frames=FRAMES, names=photo_crops.TRAINED, moves=MOVES, vary=True).video


def batch_of(toys: Tensor, photos: Tensor, mix: dict[int, tuple], seed: int, step: int, mine: slice, device: torch.device) -> tuple[Tensor, ...]:
    """`toy_mardini.batch_of` toys and of photographs, as many as the mix of ROUNDS says; every other clip of a photograph runs backwards, as chance has it."""
    generator, parts = training.step_generator(seed + 2, step), []
    toy_share, *known = training.value_at(mix, step)
    count = round(toy_share * BATCH)
    for bank, own, size, share in ((toys, seed, count, known[0]), (photos, seed + 1, BATCH - count, known[1])):
        clean, is_ref, *rest = toy.batch_of(bank, own, step, toy.HARD_RATIOS, mine, device, toy.HARD_SHIFT, size)
        ends, backwards = (torch.rand(size, generator=generator)[mine].to(device) < chance for chance in (share, 0.5))
        is_ref = torch.where(ends[:, None], ENDS.to(device), is_ref)
        if bank is photos:
            clean = torch.where(backwards[:, None, None, None, None], clean.flip(1), clean)
        parts.append((clean, is_ref, *rest))
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


class Pair(torch.nn.Module):
    """A planner and its generator, both of which learn."""

    def __init__(self, planner: mp.Planner, generator: mp.Generator):
        super().__init__()
        self.planner, self.generator = planner, generator


def train(pair: Pair, toys: Tensor, photos: Tensor, work: Path, device: torch.device, stop_at: dict[int, int] | None = None, compiled: bool = False) -> Pair:
    """The averaged weights of a finished pair that went on learning from both banks, in ROUNDS, each from the weights of the one before in half precision;
    `seconds` says how long. stop_at: {round: step} ends there, to be continued; compiled: as in `toy_mardini.train`."""
    rank, world_size = training.join_processes()
    scheduler, seconds = mp.make_scheduler(), 0.0
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)
    for turn, (steps, decay, mix) in enumerate(ROUNDS):
        end = (stop_at or {}).get(turn)

        def loss(pair: Pair, step: int, seed: int = SEED + 8 + 10 * turn, mix: dict = mix) -> Tensor:
            with training.autocast_with_attention(device):
                return toy.joint_loss(pair, scheduler, *batch_of(toys, photos, mix, seed, step, slice(rank, None, world_size), device))

        pair = pair.to(device).requires_grad_(True).train()
        if compiled and turn == 0:
            pair.planner.compile(dynamic=False)
            pair.generator.compile(dynamic=False)
        pair = training.train(pair, loss, steps=steps, checkpoint=work / f"pair-{turn}.pt", learning_rate=RATE, warmup=100, decay=decay,
                              label=f"pair, round {turn + 1}", stop_at=end)  # fmt: skip
        seconds += pair.seconds
        if end is not None and end < steps:
            break
        if turn < len(ROUNDS) - 1:
            pair = pair.half().float()
    pair.seconds = seconds
    return pair.eval()


# ------------------------------------------------------------------------------------------------------------- measured on photographs


@cache
def clip_of(move: str, clip: int) -> Tensor:
    """(1, FRAMES, 3, SIZE, SIZE): held-out clip number `clip` of a move of HELD_OUT, over photographs that nothing was trained on."""
    speed, kind = move.split() if move.endswith("pan") else ("slow", move)
    return photo_crops.crops(HELD_OUT_SEED, [clip], size=SIZE, frames=FRAMES, names=photo_crops.KEPT_OUT, moves=kind, speeds=speed).video


def answers(pipe: mp.MarDiniPipeline, move: str, clip: int) -> dict[str, Tensor]:
    """The frames between the two ends of `clip_of`: by the pair in toy_mardini.STEPS steps; by its first guess of the clean clip alone, one step, which
    is a mean of what it holds possible; by what needs no training; and, as the pair can be no better, the true frames once through the autoencoder.
    Clips (1, FRAMES, 3, SIZE, SIZE)."""
    video = clip_of(move, clip)
    noise = torch.randn(1, FRAMES, 4, LATENT, LATENT, generator=training.step_generator(HELD_OUT_SEED, clip))
    made = {name: (pipe(2 * video - 1, ENDS, num_inference_steps=steps, noise=noise).frames / 2 + 0.5).clamp(0, 1)
            for name, steps in (("pair", toy.STEPS), ("pair, one step", 1))}  # fmt: skip
    fills = filling.nearest, filling.cross_fade, filling.along_flow
    rivals = {name: fill(video[0], ENDS)[None] for name, fill in zip(RIVALS, fills, strict=True)}
    return made | rivals | {"autoencoder": (pipe.decode(pipe.encode(2 * video - 1)) / 2 + 0.5).clamp(0, 1)}


WAYS = "pair", "pair, one step", *RIVALS, "autoencoder"


def quality_of(pipe: mp.MarDiniPipeline, move: str, clip: int) -> dict[str, float]:
    """PSNR in dB and SSIM of the frames between, for all of WAYS."""
    true, made = clip_of(move, clip)[:, 1:-1], answers(pipe, move, clip)
    return {f"{score}, {way}": of(made[way][:, 1:-1], true) for score, of in (("PSNR", metrics.psnr), ("SSIM", metrics.ssim)) for way in WAYS}


def measure(pipe: mp.MarDiniPipeline) -> dict[str, list[dict[str, float]]]:
    """`quality_of` all held-out clips, by move."""
    return {move: [quality_of(pipe, move, clip) for clip in range(count)] for move, count in HELD_OUT.items()}


@torch.no_grad()
def autoencoder_psnr(pipe: mp.MarDiniPipeline, name: str, count: int = 48) -> float:
    """dB, a mean over `count` crops of one photograph, once through the autoencoder."""
    crops = photo_crops.crops(HELD_OUT_SEED, range(count), size=SIZE, frames=2, names=name).video[:, :1]
    made = (pipe.decode(pipe.encode(2 * crops - 1)) / 2 + 0.5).clamp(0, 1)
    return sum(metrics.psnr(a, b) for a, b in zip(made, crops, strict=True)) / count


# -------------------------------------------------------------------------------------------------------------------------- the folder

TOY_ROWS = "interpolation", "image-to-video"


SCORES = {"PSNR": 1, "SSIM": 3}  # and the digits that the card shows


def photo_rows(table: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: the means of `measure`'s table, a row for a move and a score."""
    lines = []
    for move, clips in table.items():
        for score, digits in SCORES.items():
            means = " | ".join(f"{sum(clip[f'{score}, {way}'] for clip in clips) / len(clips):.{digits}f}" for way in WAYS)
            lines.append(f"| {move}, {score} | {len(clips)} | {means} |")
    return "\n".join(lines)


def gain_rows(table: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: how far the pair, drawing or guessing once, lies above each rival, clip by clip, with 95 % intervals."""
    lines = []
    for move, clips in table.items():
        for score in SCORES:
            columns = {way: [clip[f"{score}, {way}"] for clip in clips] for way in WAYS}
            for way in WAYS[:2]:
                gains = " | ".join(str(statistics.paired(columns[way], columns[rival], of="clips")) for rival in RIVALS)
                lines.append(f"| {move}, {score}, {way} | {gains} |")
    return "\n".join(lines)


def card(photos: dict[str, list[dict[str, float]]], toys: dict[str, dict[str, float]], psnr: dict[str, float], minutes: dict[str, float], machine: str) -> str:
    """The model card, as text."""
    rows = "\n".join(f"| {name} | {q['error']:.2f} px | {q['kept']:.1f} % | {q['plausible']:.1f} % | {q['direction']:.1f} % |" for name, q in toys.items())
    shares = "; ".join(f"round {turn + 1}, from step {step} on {100 * share:.0f} % toys, both ends known in {100 * own:.0f} % of them and {100 * real:.0f} % "
                       f"of the photographs" for turn, (_, _, mix) in enumerate(ROUNDS) for step, (share, own, real) in mix.items())  # fmt: skip
    return f"""# {NAME}

[toy-mardini](../toy-mardini/README.md) widened to windows that move over photographs: the same networks and sizes, the same call. Made by
`make model NAME={NAME}`, which goes on from toy-mardini's folder, in half precision as it is.

- **Data**: half frames of toy-mardini's clips, half crops of photographs ({", ".join(photo_crops.TRAINED)}), a window a sixth to two
  sevenths of the shorter side, also mirrored, turned and in other colours; the pair from {TOYS:,} toy clips and {PHOTOS:,} of photographs.
- **Kept out of all training**: {", ".join(photo_crops.KEPT_OUT)}. What stands below is measured on them, a window a fifth of the shorter side.
- **Training**: autoencoder {" + ".join(map(str, VAE_STEPS))} steps, the last ones of the decoder alone, toy latents pulled to where they were; planner and
  generator together {" + ".join(str(steps) for steps, *_ in ROUNDS)} steps of {BATCH} clips, timesteps leaning to noise; {shares}. Hard masks for the others.
  Minutes: {", ".join(f"{name} {value:.0f}" for name, value in minutes.items())}; {machine}.
- **Autoencoder** on crops of kept-out photographs: {", ".join(f"{name} {value:.1f}" for name, value in psnr.items())} dB, on average
  {sum(psnr.values()) / len(psnr):.1f} dB.

Frames between two known ones, kept-out photographs, clips of seed {HELD_OUT_SEED}, none chosen: means over the clips' seven frames between. "one step": the
pair's first guess of the clean clip, a mean of what it holds possible, where "pair" draws one of them in {toy.STEPS} steps. "autoencoder": the true frames
once through it; the pair can be no better. Between the ends of a slow pan or a zoom little is left to be found out, and a cross-fade lies above what the
autoencoder can show; where a shake goes between its ends nobody can know. Fast pans are the test.

| clips | n | {" | ".join(WAYS)} |
| --- | --- |{" --- |" * len(WAYS)}
{photo_rows(photos)}

The pair minus each rival, mean over the clips with its 95 % interval (three photographs in all: other photographs may lie elsewhere):

| clips | {" | ".join(RIVALS)} |
| --- |{" --- |" * len(RIVALS)}
{gain_rows(photos)}

Of the toy world, measured as on toy-mardini's card, on the same {toy.HELD_OUT} clips:

| task | error | kept | plausible | direction |
| --- | --- | --- | --- | --- |
{rows}
"""


def toy_quality(pipe: mp.MarDiniPipeline, count: int = toy.HELD_OUT) -> dict[str, dict[str, float]]:
    """`toy_mardini.quality_of` its first `count` held-out clips, for TOY_ROWS."""
    parts = {first: min(50, count - first) for first in range(0, count, 50)}
    return {task: toy.pooled([toy.quality_of(toy.answer(pipe, task, "own plan", first, n), task, first) for first, n in parts.items()], list(parts.values()))
            for task in TOY_ROWS}  # fmt: skip


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    narrow = mp.MarDiniPipeline.from_pretrained(zoo.folder(toy.NAME), local_files_only=True).to(torch.float32)
    vae = train_vae(narrow.vae, work, device)
    banks = toy.make_bank(vae, work, "toys", range(TOYS)), toy.make_bank(vae, work, "photos", range(PHOTOS), photo_videos)
    pair = train(Pair(narrow.planner, narrow.generator), *banks, work, device, compiled=shutil.which("c++") is not None).cpu()
    if rank > 0:
        return
    finish(pair, vae.cpu(), out, {"autoencoder": vae.seconds / 60, "pair": pair.seconds / 60}, training.machine_kind(device))


def finish(pair: Pair, vae: AutoencoderKL, out: Path, minutes: dict[str, float], machine: str) -> None:
    """Write the folder and its card."""
    training.write_folder(toy.make_pipeline(pair, vae).to(torch.float16), out)
    pipe = mp.MarDiniPipeline.from_pretrained(out, local_files_only=True)
    psnr = {name: autoencoder_psnr(pipe, name) for name in photo_crops.KEPT_OUT}
    (out / "README.md").write_text(card(measure(pipe), toy_quality(pipe), psnr, minutes, machine))
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
