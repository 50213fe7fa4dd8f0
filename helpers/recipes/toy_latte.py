"""Recipe of data/models/toy-latte: a small text-to-video LattePipeline, trained on clips of the toy world.

Three stages, each resumable: an AutoencoderKL on single frames, a bank of encoded clips, then the LatteTransformer3DModel together with
its T5 text encoder. `python -m helpers.recipes.toy_latte` runs them all; checkpoints lie under .recipes/toy-latte.
"""

import time
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from ..models import zoo
from ..toyworld import analysers
from ..toyworld import shapes as world
from . import autoencoders, training

NAME = "toy-latte"
SEED = 2411
SHAPES = ("disc", "square", "triangle", "star", "ring")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
HELD_OUT = (("green", "star"), ("blue", "ring"), ("yellow", "triangle"))  # pairs that training never shows
MOTIONS = {"still": 0.17, "move": 0.53, "grow": 0.05, "shrink": 0.05, "pan": 0.07, "two": 0.13}
FRAMES, SIZE = 8, 32
VAE_WIDTHS = (24, 48, 64)  # channels level by level, finest first
LAYERS, HEADS, HEAD_WIDTH = 4, 4, 32  # of the transformer: pairs of a spatial and a temporal block, attention heads, channels a head
VAE_STEPS, VAE_BATCH = 2000, 64
STATISTICS = 512  # clips whose latents are centred and scaled
BANK = 30_000  # clips that are looked at; those with a held-out caption are left out of the encoded bank
STEPS, BATCH, CAPTION_DROPOUT = 7200, 64, 0.1
TEXT_LENGTH, LIST_LENGTH = 18, 120  # tokens of the longest caption; what LattePipeline pads a list of prompts to
LIST_SHARE = 0.06  # share of the batches that are padded like that
# Where an object is and where it goes shows through even strong noise, so that the text decides it only at the very noisiest timesteps.
# After APPEARANCE_STEPS, which learn colour and outline, the schedule is moved there: signal-to-noise ratios are divided by SHIFT, and
# noisy timesteps are drawn more often.
APPEARANCE_STEPS, SHIFT = 3438, 9.0

PROMPT_KINDS = {
    "still": ("still", "still"), "slow": ("move", "slowly"), "fast": ("move", "fast"), "two objects": ("two", "and"), "camera": ("pan", "camera"),
    "growing": ("grow", "grows"),
}  # fmt: skip
TRAIN_SEED, HELD_OUT_SEED = 1, 2  # of the toy world: the second is never trained on


def sample(seed: int, indices) -> world.Clips:
    return world.clips(seed, indices, size=SIZE, frames=FRAMES, shapes=SHAPES, colours=COLOURS, motions=MOTIONS, exclude=HELD_OUT)


def held_out(caption: str) -> bool:
    """One caption in five is never trained on; which ones depends on nothing but the words."""
    return zlib.crc32(caption.encode()) % 5 == 0


def vocabulary() -> list[str]:
    """Every word that a caption can hold."""
    return sorted(set("a an and the camera pans over stays still moves grows shrinks slowly fast".split()) | set(world.DIRECTIONS) | set(SHAPES) | set(COLOURS))


def make_tokenizer() -> T5Tokenizer:
    """A T5Tokenizer that knows the toy world's words, each as one token."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0)] + [("▁" + word, -1.0) for word in vocabulary()]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=LIST_LENGTH)


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=VAE_WIDTHS, layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False,
        sample_size=SIZE, scaling_factor=1.0,
    )  # fmt: skip


class TextToVideo(nn.Module):
    """The two parts that learn together: text encoder and transformer."""

    def __init__(self, vocab_size: int):
        super().__init__()
        width = 64
        self.text_encoder = T5EncoderModel(T5Config(
            vocab_size=vocab_size, d_model=width, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0, feed_forward_proj="gated-gelu",
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        ))  # fmt: skip
        self.transformer = LatteTransformer3DModel(
            num_attention_heads=HEADS, attention_head_dim=HEAD_WIDTH, in_channels=4, out_channels=8, num_layers=LAYERS, cross_attention_dim=HEADS * HEAD_WIDTH,
            attention_bias=True, sample_size=SIZE // 4, patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
            norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=width, video_length=FRAMES,
        )  # fmt: skip


def alphas_bar(shift: float) -> Tensor:
    """(1000,) share of signal variance per timestep: the cosine schedule (Nichol & Dhariwal 2021, eq. 17), signal-to-noise ratio over `shift`."""
    time = (torch.arange(1001, dtype=torch.float64) / 1000 + 0.008) / 1.008
    signal = (time * torch.pi / 2).cos().square()
    signal = (signal / signal[0]).clamp(1e-9, 1 - 1e-9)
    ratio = signal / (1 - signal) / shift
    kept = ratio / (1 + ratio)
    return (kept[1:] / kept[:-1]).clamp_min(1e-3).cumprod(0)


def make_scheduler() -> DDIMScheduler:
    kept = alphas_bar(SHIFT)
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]])
    return DDIMScheduler(
        num_train_timesteps=1000, trained_betas=[round(b, 9) for b in betas.tolist()], prediction_type="v_prediction", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="trailing",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- stage 1: pictures


def train_vae(work: Path, device: torch.device, stop_at: int | None = None) -> AutoencoderKL:
    torch.manual_seed(SEED)

    def frames(step: int, generator: torch.Generator, mine: slice) -> Tensor:
        video = sample(TRAIN_SEED, range(step * VAE_BATCH // 4, (step + 1) * VAE_BATCH // 4)).render().video
        pick = torch.rand(len(video), FRAMES, generator=generator).argsort(1)[:, :4]  # 4 of the 8 frames of each clip
        return video[torch.arange(len(video))[:, None], pick].flatten(0, 1)[mine]

    return autoencoders.train(make_vae(), frames, seed=SEED, steps=VAE_STEPS, checkpoint=work / "vae.pt", device=device, stop_at=stop_at)


def encode(vae: AutoencoderKL, video: Tensor) -> Tensor:
    """Clips (B, T, 3, 32, 32) in [0, 1] -> latent means (B, 4, T, 8, 8)."""
    return autoencoders.encode(vae, video.flatten(0, 1)).unflatten(0, video.shape[:2]).transpose(1, 2)


# ----------------------------------------------------------------------------------------------------------------- stage 2: bank


def make_bank(vae: AutoencoderKL, work: Path) -> tuple[Tensor, list[str]]:
    """Encode the bank once: latents (N, 4, T, 8, 8) in half precision, and captions. Standardises `vae` in place by the statistics of the first clips."""
    rank, world_size = training.join_processes()
    first = encode(vae, sample(TRAIN_SEED, range(STATISTICS)).render().video)
    autoencoders.standardise(vae, first.mean((0, 2, 3, 4)), first.std((0, 2, 3, 4)))
    captions = sample(TRAIN_SEED, range(BANK)).captions
    rows = [i for i, caption in enumerate(captions) if not held_out(caption)]
    paths = [work / f"bank_{r}_of_{world_size}.pt" for r in range(world_size)]
    if not paths[rank].exists():
        pieces = []
        for start in tqdm(range(64 * rank, len(rows), 64 * world_size), desc="encoding clips", mininterval=5, disable=rank > 0):
            pieces.append(encode(vae, sample(TRAIN_SEED, rows[start : start + 64]).render().video).half().cpu())
        training.save_atomically(torch.cat(pieces), paths[rank])
    training.wait_for_all()
    parts = [torch.load(path, weights_only=True).split(64) for path in paths]
    bank = [parts[i % world_size][i // world_size] for i in range(sum(len(p) for p in parts))]
    return torch.cat(bank), [captions[i] for i in rows]


# ---------------------------------------------------------------------------------------------------------------- stage 3: video


def text_batch(tokens: Tensor, padding: Tensor, dropped: Tensor, as_list: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids and masks (B, L), and which encoded tokens the transformer may see, just as LattePipeline treats them.

    One prompt: its own tokens only; an empty prompt is cut to the same length, its padding visible. A list: 120 tokens, padding set to
    zero behind the encoder, but not for the empty prompt.
    """
    ids, mask = tokens.clone(), padding.clone()
    ids[dropped], mask[dropped] = 0, 0
    ids[dropped, 0], mask[dropped, 0] = 1, 1
    visible = torch.ones_like(padding) if as_list else padding
    return ids, mask, visible


def train_video(work: Path, bank: Tensor, captions: list[str], device: torch.device, stop_at: int | None = None) -> TextToVideo:
    torch.manual_seed(SEED + 1)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    tokenizer = make_tokenizer()
    model = TextToVideo(len(tokenizer)).to(device)
    encoded = tokenizer(captions, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
    if (encoded.input_ids == tokenizer.unk_token_id).any():
        raise ValueError("a caption holds a word that the tokenizer does not know")
    early, late = (alphas_bar(shift).float().to(device) for shift in (1.0, SHIFT))

    def loss_of(model: TextToVideo, step: int) -> Tensor:
        generator = training.step_generator(SEED + 1, step)
        rows = torch.randint(len(bank), (BATCH,), generator=generator)
        x0 = bank[rows].float().to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        share = training.stratified(BATCH, generator)
        moved = step >= APPEARANCE_STEPS
        t = (1000 * (1 - (1 - share).square() if moved else share)).long().clamp(max=999).to(device)
        dropped = torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT
        as_list = bool(torch.rand((), generator=generator) < LIST_SHARE)
        length = LIST_LENGTH if as_list else TEXT_LENGTH
        tokens = F.pad(encoded.input_ids[rows], (0, length - TEXT_LENGTH))
        padding = F.pad(encoded.attention_mask[rows], (0, length - TEXT_LENGTH))
        x0, noise, t, dropped = x0[mine], noise[mine], t[mine], dropped[mine]
        ids, mask, visible = (v.to(device) for v in text_batch(tokens[mine], padding[mine], dropped, as_list))
        a = (late if moved else early)[t][:, None, None, None, None]
        noisy, target = a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0
        bias = ((1 - visible.float()) * -1e4).repeat_interleave(FRAMES, 0)[:, None] if not as_list else None
        with training.autocast_with_attention(device):
            text = model.text_encoder(ids, attention_mask=mask)[0]
            if as_list:
                text = torch.where((dropped.to(device)[:, None] | mask.bool())[..., None], text, torch.zeros_like(text))
            out = model.transformer(noisy, t, text, encoder_attention_mask=bias, return_dict=False)[0][:, :4]
        return F.mse_loss(out.float(), target)

    return training.train(model, loss_of, steps=STEPS, checkpoint=work / "video.pt", learning_rate=2e-3, warmup=300, decay=0.9985,
                          label="video transformer", stop_at=stop_at)  # fmt: skip


# -------------------------------------------------------------------------------------------------------------------- the folder


def assemble(vae: AutoencoderKL, model: TextToVideo) -> LattePipeline:
    """The complete pipeline, on the CPU, weights rounded to half precision.

    The text encoder is stored in single precision all the same: transformers loads weights in the type that they are stored in, diffusers in
    single precision, and a pipeline cannot mix the two.
    """
    return LattePipeline(
        tokenizer=make_tokenizer(), text_encoder=model.text_encoder.cpu().eval().half().float(),
        vae=vae.cpu().to(memory_format=torch.contiguous_format).eval().half(), transformer=model.transformer.cpu().eval().half(), scheduler=make_scheduler(),
    )  # fmt: skip


def held_out_prompts(count: int, *, objects: int = 1) -> list[str]:
    """Prompts of one or two objects that training never saw, in the mix of motions that it did see."""
    prompts, start = [], 0
    while len(prompts) < count:
        prompts += [c for c in sample(HELD_OUT_SEED, range(start, start + 1000)).captions if held_out(c) and c.count(" and ") == objects - 1]
        start += 1000
    return prompts[:count]


def prompts(kind: str, count: int, *, seed: int) -> list[str]:
    """Different prompts of one kind: "still", "slow", "fast", "two objects" or "camera". Raises ValueError for another kind."""
    if kind not in PROMPT_KINDS:
        raise ValueError(f"kind must be one of {', '.join(PROMPT_KINDS)}, got {kind!r}")
    motion, word = PROMPT_KINDS[kind]
    clips = world.clips(seed, range(20 * count + 60), size=SIZE, frames=FRAMES, shapes=SHAPES, colours=COLOURS, motions=[motion], exclude=HELD_OUT)
    return list(dict.fromkeys(caption for caption in clips.captions if word in caption.split()))[:count]


def unseen_pairs(count: int) -> list[str]:
    """Prompts of one object in a colour and shape that training never showed together."""
    clips = world.clips(HELD_OUT_SEED, range(40 * count), size=SIZE, frames=FRAMES, shapes=SHAPES, colours=COLOURS, motions=("still", "move"))
    named = [(f"{colour} {shape}", caption) for caption in clips.captions for colour, shape in HELD_OUT]
    return [caption for pair, caption in named if pair in caption][:count]


def measure(pipe: LattePipeline, prompts: list[str], label: str) -> dict[str, tuple[float, int]]:
    """Share of prompts that each attribute is right for, as (percent, number of prompts that say it), by `analysers.judge`; and seconds a clip."""
    pipe.set_progress_bar_config(disable=True)
    return measure_clips(lambda prompt, seed: zoo.clip(pipe, prompt, seed, **zoo.entry(NAME).call), prompts, label)


def measure_clips(make: Callable[[str, int], Tensor], prompts: list[str], label: str) -> dict[str, tuple[float, int]]:
    """`measure` for whatever makes a clip (T, 3, H, W) from a prompt and a seed."""
    start = time.monotonic()
    video = torch.stack([make(prompt, seed) for seed, prompt in enumerate(tqdm(prompts, desc=label, mininterval=5))])
    seconds = (time.monotonic() - start) / len(prompts)
    verdict = analysers.judge(video, prompts)
    still = torch.tensor([" and " not in p and p.endswith("stays still") for p in prompts])
    quality = {name: getattr(verdict, name) for name in ("colour", "shape", "direction", "speed", "motion", "all")}
    quality["still prompts still"] = torch.where(still, verdict.motion, torch.nan)
    out = {name: (100 * values.nanmean().item(), int((~values.isnan()).sum())) for name, values in quality.items()}
    return out | {"seconds a clip": (seconds, len(prompts))}


def reconstruction_psnr(pipe: LattePipeline) -> float:
    """dB between 64 held-out clips and what the autoencoder makes of them."""
    return autoencoders.reconstruction_psnr(pipe.vae, sample(HELD_OUT_SEED, range(64)).render().video.flatten(0, 1))


def card(quality: dict[str, dict], psnr: float, vae: AutoencoderKL, model: TextToVideo, device: torch.device) -> str:
    """The model card, as text."""
    columns = list(quality)
    parameters = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in
                  (("transformer", model.transformer), ("text encoder", model.text_encoder), ("autoencoder", vae))}  # fmt: skip
    call = zoo.entry(NAME).call
    return f"""# {NAME}

A small text-to-video `LattePipeline` ({FRAMES} frames of {SIZE}x{SIZE}), trained on clips of the procedural toy world. It loads by
`DiffusionPipeline.from_pretrained` without this package. Made by `make model NAME={NAME}`. Call it with
`{", ".join(f"{key}={value:g}" for key, value in call.items() if value is not False)}`.

- **Parts**: {", ".join(f"{name} {millions:.2f} M parameters" for name, millions in parameters.items())}; half-precision weights.
- **Prompts**: "a red ring moves up fast", "a blue star stays still", "a green disc grows", "the camera pans left slowly over a red ring",
  "a red ring moves up fast and a blue disc stays still" (see the last column). Shapes: {", ".join(SHAPES)}. Colours: {", ".join(COLOURS)}.
  Directions: {", ".join(world.DIRECTIONS)}. Other words are unknown to it.
- **Data**: the first {BANK:,} clips of toy-world seed {TRAIN_SEED}, less those whose caption is held out (one caption in five, by its checksum), less the
  pairs {", ".join(" ".join(pair) for pair in HELD_OUT)}, which never occur.
- **Training**: autoencoder {VAE_STEPS} steps of {VAE_BATCH} frames, {vae.seconds / 60:.0f} minutes; transformer and text encoder together
  {STEPS} steps of {BATCH} clips, {model.seconds / 60:.0f} minutes; {training.machine_kind(device)}. v-prediction, AdamW, averaged weights;
  cosine noise schedule, its signal-to-noise ratios divided by {SHIFT:g} from step {APPEARANCE_STEPS} on and in the scheduler.
- **Autoencoder**: {psnr:.1f} dB on held-out clips.
- **Speed**: {quality[columns[0]]["seconds a clip"][0]:.2f} s a clip on one core ({call["num_inference_steps"]} steps, guidance {call["guidance_scale"]:g}).

Measured by the toy world's analysers, one clip a prompt, none chosen. "motion" is what the other rows do not say: still stays still, growing
grows, the ground moves under a panning camera. "all" asks that everything the prompt says is right. The first two columns are prompts of one
object. Prompts of two objects stand apart: mind their column before you rely on them.

{training.quality_table(quality)}
"""


def write_card(folder: Path, vae: AutoencoderKL, model: TextToVideo, device: torch.device) -> None:
    """Measure the finished folder, as a reader would load it, and write its model card."""
    pipe = LattePipeline.from_pretrained(folder)
    quality = {
        "held-out prompts": measure(pipe, held_out_prompts(300), "held-out prompts"),
        "pairs never trained": measure(pipe, unseen_pairs(90), "pairs never trained"),
        "two objects, held out": measure(pipe, held_out_prompts(60, objects=2), "two objects"),
    }
    (folder / "README.md").write_text(card(quality, reconstruction_psnr(pipe), vae, model, device))


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    vae = train_vae(work, device)
    bank, captions = make_bank(vae, work)
    model = train_video(work, bank, captions, device)
    if rank > 0:
        return
    training.write_folder(assemble(vae, model), out)
    write_card(out, vae, model, device)
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
