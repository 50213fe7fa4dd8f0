"""Recipe of data/models/toy-sd: a small text-to-image StableDiffusionPipeline, trained on pictures of the toy world's creatures and things.

Four stages, each resumable: an AutoencoderKL on pictures, a bank of encoded pictures, the UNet2DConditionModel together with its CLIP text
encoder, then the U-Net alone on pairs of pictures that differ in where the object faces. `python -m helpers.recipes.toy_sd` runs them all;
checkpoints lie under .recipes/toy-sd.
"""

import time
import zlib
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..models import judges, zoo
from ..models import small as small_models
from ..toyworld import creatures as world
from . import autoencoders, training

NAME = "toy-sd"
SEED = 1506
SIZE, LATENT = 64, 16
VAE_WIDTHS, UNET_WIDTHS = (16, 32, 64), (32, 64, 96, 96)  # channels level by level, finest first
HELD_OUT = (("rabbit", "striped"), ("car", "dotted"), ("fish", "checkered"))  # (category, texture) pairs that training never shows
VAE_STEPS, VAE_BATCH = 9500, 32
CROP_STEPS, CROP = 5700, 32  # the autoencoder sees crops first, and whole pictures, a quarter as many, at the end: steps of equal work
DECODER_STEPS = 3700  # then its decoder alone
STATISTICS = 1024  # pictures whose latents are centred and scaled
BANK = 40_000  # pictures that are looked at; those with a held-out caption are left out of the encoded bank
STEPS, BATCH, CAPTION_DROPOUT = 10_000, 48, 0.1
PLAIN_STEPS = 7656  # of STEPS, on which the learning rate's way down to 0 is laid out; the pairs follow
PAIRS = 9600  # pictures that are drawn once more, their object facing the other way
PAIR_STEPS, PAIR_FULL_CAPTIONS = 2000, 0.7
APART_STEPS, APART_BATCH = 600, 128  # of the fit that sets the words for facing apart
FACING_APART = 4.0  # distance of the text states of "left" and "right"; a state has length 8
FACING_TIMES, FACING_SHARE = (0.35, 0.8), 0.7  # of the schedule, where facing is decided; the share of timesteps that fall there
LARGEST_WEIGHT = 25.0  # of the error at one timestep
FULL_CAPTIONS = 0.5  # share of pictures whose caption says everything; the others' captions leave attributes out at random
TEXT_LENGTH = 16
TRAIN_SEED, HELD_OUT_SEED = 1, 2  # of the toy world: the second is never trained on


def sample(seed: int, indices, turned: bool = False) -> world.CreaturePictures:
    return world.creatures(seed, indices, size=SIZE, exclude=HELD_OUT, turned=turned)


def held_out(caption: str) -> bool:
    """One caption in five is never trained on, of those that say two things or more about their object; which ones depends on nothing but the words."""
    said = world.parse_creature_caption(caption)
    rich = sum(said[name] is not None for name in ("texture", "colour", "facing", "background")) >= 2
    return rich and zlib.crc32(caption.encode()) % 5 == 0


def vocabulary() -> list[str]:
    """Every word that a caption can hold."""
    words = set("a an of on facing".split())
    return sorted(words.union(world.STYLES, world.TEXTURES, world.COLOURS, world.CATEGORIES, world.FACINGS, world.BACKGROUNDS))


def make_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer whose byte pairs merge every word of the captions into one token."""
    return small_models.clip_tokenizer(vocabulary(), TEXT_LENGTH)


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=VAE_WIDTHS, layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False, sample_size=SIZE,
        scaling_factor=1.0,
    )  # fmt: skip


class TextToImage(nn.Module):
    """The two parts that learn together: text encoder and U-Net."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.text_encoder = CLIPTextModel(CLIPTextConfig(
            vocab_size=vocab_size, hidden_size=64, intermediate_size=256, projection_dim=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        ))  # fmt: skip
        self.unet = UNet2DConditionModel(
            sample_size=LATENT, in_channels=4, out_channels=4, block_out_channels=UNET_WIDTHS, layers_per_block=1, norm_num_groups=16,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=64, attention_head_dim=4,
        )  # fmt: skip


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own schedule."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)


# ----------------------------------------------------------------------------------------------------------------- the three stages


@lru_cache(maxsize=2)
def rendered(group: int, mine: tuple) -> Tensor:
    """This process's share of the pictures of 16 steps of the autoencoder, each used twice: many at once are drawn faster."""
    return sample(TRAIN_SEED, range(8 * group * VAE_BATCH, 8 * (group + 1) * VAE_BATCH)[slice(*mine)]).image


def vae_pictures(step: int, generator: torch.Generator, mine: slice) -> Tensor:
    """This process's share of the pictures of one step: VAE_BATCH crops until CROP_STEPS, then a quarter as many whole ones."""
    images = rendered(step // 16, (mine.start, mine.stop, mine.step))
    images = images[step % 8 * len(images) // 8 :][: len(images) // 8]
    if step >= CROP_STEPS:
        return images[: len(images) // 4]
    corners = torch.randint(SIZE - CROP + 1, (VAE_BATCH, 2), generator=generator)[mine].tolist()
    return torch.stack([image[:, y : y + CROP, x : x + CROP] for image, (x, y) in zip(images, corners)])


def train_vae(work: Path, device: torch.device, stop_at: int | None = None) -> AutoencoderKL:
    torch.manual_seed(SEED)
    return autoencoders.train(make_vae(), vae_pictures, seed=SEED, steps=VAE_STEPS, checkpoint=work / "vae.pt", device=device, stop_at=stop_at)


def tune_decoder(vae: AutoencoderKL, work: Path, device: torch.device, stop_at: int | None = None) -> AutoencoderKL:
    """Whole pictures only, further along the list."""

    def pictures(step: int, generator: torch.Generator, mine: slice) -> Tensor:
        return vae_pictures(VAE_STEPS + step, generator, mine)

    return autoencoders.tune_decoder(vae, pictures, seed=SEED + 2, steps=DECODER_STEPS, checkpoint=work / "decoder.pt", device=device, stop_at=stop_at)


def standardise(vae: AutoencoderKL) -> None:
    """Centre the latents and give their channels one common spread, in place; `scaling_factor` is one over it, as in Stable Diffusion."""
    z = autoencoders.encode(vae, sample(TRAIN_SEED, range(STATISTICS)).image)
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    common = std.log().mean().exp()
    autoencoders.standardise(vae, mean, std / common)
    vae.register_to_config(scaling_factor=1 / common.item())


def make_bank(vae: AutoencoderKL, work: Path) -> tuple[Tensor, list[tuple[str, str]]]:
    """Encode the bank once: scaled latents (N, 4, 16, 16) in half precision, and for each picture its caption and the one that says everything (the
    caption again where that is held out). Pictures whose caption is held out are left out. `vae` must be standardised."""
    rank, world_size = training.join_processes()
    paths = [work / f"encoded_{r}_of_{world_size}.pt" for r in range(world_size)]
    if not paths[rank].exists():
        latents, captions = [], []
        for start in tqdm(range(64 * rank, BANK, 64 * world_size), desc="encoding pictures", mininterval=5, disable=rank > 0):
            pictures = sample(TRAIN_SEED, range(start, min(start + 64, BANK)))
            z = autoencoders.encode(vae, pictures.image) * vae.config.scaling_factor
            rows = [i for i, caption in enumerate(pictures.captions) if not held_out(caption)]
            latents.append(z[rows].half().cpu())
            both = [(pictures.captions[i], pictures.full_captions[i]) for i in rows]
            captions += [(said, said if held_out(full) else full) for said, full in both]
        training.save_atomically({"latents": torch.cat(latents), "captions": captions}, paths[rank])
    training.wait_for_all()
    parts = [torch.load(path, weights_only=True) for path in paths]
    return torch.cat([part["latents"] for part in parts]), [caption for part in parts for caption in part["captions"]]


def weight_of(kept: Tensor) -> Tensor:
    """1 / alpha_bar, at most LARGEST_WEIGHT: the error of the noise counts as that of the velocity would (Salimans & Ho 2022).

    Counted plainly, it hardly feels where colour, place and facing are decided: under strong noise, a wrong picture is a small error of the noise.
    """
    return (1 / kept).clamp(max=LARGEST_WEIGHT)


def weighted_error(model: TextToImage, kept: Tensor, x0: Tensor, noise: Tensor, t: Tensor, ids: Tensor) -> Tensor:
    """Of the noise that `model` sees in x0 (B, 4, 16, 16) noised to timesteps t (B,), with captions ids (B, TEXT_LENGTH); kept: alpha_bar (1000,)."""
    a = kept[t][:, None, None, None].to(noise)
    with training.autocast(noise.device):
        text = model.text_encoder(ids)[0]
        out = model.unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t.to(noise.device), text, return_dict=False)[0]
    return (weight_of(a) * (out.float() - noise).square()).mean()


def tokens_of(captions: list[tuple[str, ...]]) -> tuple[Tensor, Tensor]:
    """(different captions, TEXT_LENGTH) token ids, the empty caption's first, and each caption's row in them, in the shape of `captions`."""
    different = sorted({"", *(caption for some in captions for caption in some)})
    row = {caption: i for i, caption in enumerate(different)}
    return make_tokenizer()(different, padding="max_length", return_tensors="pt").input_ids, torch.tensor([[row[c] for c in some] for some in captions])


def train_image(work: Path, bank: Tensor, captions: list[tuple[str, str]], device: torch.device, stop_at: int | None = None) -> TextToImage:
    torch.manual_seed(SEED + 1)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    model = TextToImage(len(make_tokenizer())).to(device)
    if device.type == "cpu":  # with so few channels a head, plain products are a tenth faster than the fused kernel
        model.unet.set_attn_processor(AttnProcessor())
    tokens, caption_of = tokens_of(captions)
    kept = make_scheduler().alphas_cumprod

    def loss_of(model: TextToImage, step: int) -> Tensor:
        generator = training.step_generator(SEED + 1, step)
        rows = torch.randint(len(bank), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *bank.shape[1:], generator=generator)
        share = training.stratified(BATCH, generator)
        dropped = torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT
        which = (torch.rand(BATCH, generator=generator) < FULL_CAPTIONS).long()
        ids = tokens[torch.where(dropped, 0, caption_of[rows, which])[mine]]
        t = (1000 * share[mine]).long().clamp(max=999)
        return weighted_error(model, kept, bank[rows[mine]].float().to(device), noise[mine].to(device), t, ids.to(device))

    return training.train(model, loss_of, steps=STEPS, checkpoint=work / "image.pt", learning_rate=1e-3, warmup=300, decay=0.9985,
                          label="U-Net", stop_at=PLAIN_STEPS if stop_at is None else stop_at)  # fmt: skip


def make_pairs(vae: AutoencoderKL, work: Path) -> tuple[Tensor, list[tuple[str, str, str, str]]]:
    """Encode pictures as drawn and with their object facing the other way: latents (N, 2, 4, 16, 16) in half precision, and for each pair the caption
    of either picture and the one that says everything (as in `make_bank`)."""
    rank, world_size = training.join_processes()
    paths = [work / f"pairs_{r}_of_{world_size}.pt" for r in range(world_size)]
    if not paths[rank].exists():
        latents, captions = [], []
        for start in tqdm(range(64 * rank, PAIRS, 64 * world_size), desc="encoding pairs", mininterval=5, disable=rank > 0):
            one, other = (sample(TRAIN_SEED, range(start, min(start + 64, PAIRS)), turned=turned) for turned in (False, True))
            said, full = (list(zip(*both)) for both in ((one.captions, other.captions), (one.full_captions, other.full_captions)))
            rows = [i for i in range(len(one)) if "facing" in full[i][0] and not any(map(held_out, said[i]))]
            z = autoencoders.encode(vae, torch.cat([one.image[rows], other.image[rows]])) * vae.config.scaling_factor
            latents.append(torch.stack(z.chunk(2), 1).half().cpu())
            captions += [said[i] + (said[i] if any(map(held_out, full[i])) else full[i]) for i in rows]
        training.save_atomically({"latents": torch.cat(latents), "captions": captions}, paths[rank])
    training.wait_for_all()
    parts = [torch.load(path, weights_only=True) for path in paths]
    return torch.cat([part["latents"] for part in parts]), [caption for part in parts for caption in part["captions"]]


def set_facings_apart(model: TextToImage, captions: list[tuple[str, ...]], steps: int) -> None:
    """Fit the text encoder to its own states, those of "left" and "right" FACING_APART from each other from the word on; in place.

    Trained together with the U-Net it draws the two words ever closer: as long as the U-Net cannot use their difference, it only disturbs. And a
    U-Net that is not told of a difference never learns to use it.
    """
    encoder, tokens, tokenizer = model.text_encoder, tokens_of(captions)[0].to(model.text_encoder.device), make_tokenizer()
    one, other = (tokenizer(word).input_ids[1] for word in world.FACINGS)
    side = ((tokens == one).float() - (tokens == other).float()).cumsum(1)
    swapped = torch.where(tokens == one, other, torch.where(tokens == other, one, tokens))
    generator = training.step_generator(SEED + 3, 0)
    direction = torch.nn.functional.normalize(torch.randn(encoder.config.hidden_size, generator=generator), dim=0).to(tokens.device)
    with torch.no_grad():
        middle = torch.cat([(encoder(some)[0] + encoder(same)[0]) / 2 for some, same in zip(tokens.split(512), swapped.split(512))])
    target = middle + FACING_APART / 2 * side[..., None] * direction
    optimizer = torch.optim.AdamW(encoder.parameters(), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        rows = torch.randint(len(tokens), (APART_BATCH,), generator=generator).to(tokens.device)
        (encoder(tokens[rows])[0] - target[rows]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def train_facing(model: TextToImage, pairs: Tensor, captions: list[tuple[str, ...]], work: Path, device: torch.device,
                 stop_at: int | None = None) -> TextToImage:  # fmt: skip
    """Teach the U-Net which way to face: each step shows pictures beside their turned twins, under the same noise, so that what the two gradients do not
    share is facing. The text encoder stays as it is; most timesteps fall where facing is open and the place of the object is not."""
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    model.requires_grad_(True)
    if not (work / "facing.pt").exists():
        set_facings_apart(model, captions, APART_STEPS)
    model.text_encoder.requires_grad_(False)
    tokens, caption_of = tokens_of(captions)
    kept, count, (early, late) = make_scheduler().alphas_cumprod, BATCH // 2, FACING_TIMES

    def loss_of(model: TextToImage, step: int) -> Tensor:
        generator = training.step_generator(SEED + 4, step)
        rows = torch.randint(len(pairs), (count,), generator=generator)[mine]
        noise = torch.randn(count, *pairs.shape[2:], generator=generator)[mine].repeat(2, 1, 1, 1).to(device)
        u = training.stratified(count, generator)[mine]
        share = torch.where(u < FACING_SHARE, early + (late - early) * u / FACING_SHARE, (u - FACING_SHARE) / (1 - FACING_SHARE))
        dropped = (torch.rand(count, generator=generator) < CAPTION_DROPOUT)[mine]
        which = 2 * (torch.rand(count, generator=generator) < PAIR_FULL_CAPTIONS).long()[mine]
        ids = torch.cat([tokens[torch.where(dropped, 0, caption_of[rows, which + twin])] for twin in (0, 1)])
        x0 = torch.cat([pairs[rows, 0], pairs[rows, 1]]).float()
        return weighted_error(model, kept, x0.to(device), noise, (1000 * share).long().clamp(max=999).repeat(2), ids.to(device))

    return training.train(model, loss_of, steps=PAIR_STEPS, checkpoint=work / "facing.pt", learning_rate=1e-3, warmup=50, decay=0.99,
                          label="facing", stop_at=stop_at)  # fmt: skip


# -------------------------------------------------------------------------------------------------------------------- the folder


def assemble(vae: AutoencoderKL, model: TextToImage) -> StableDiffusionPipeline:
    """The complete pipeline, on the CPU, weights rounded to half precision.

    The text encoder is stored in single precision all the same: transformers loads weights in the type that they are stored in, diffusers in
    single precision, and a pipeline cannot mix the two.
    """
    return StableDiffusionPipeline(
        vae=vae.cpu().to(memory_format=torch.contiguous_format).eval().half(), text_encoder=model.text_encoder.cpu().eval().half().float(),
        tokenizer=make_tokenizer(), unet=model.unet.cpu().eval().half(), scheduler=make_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def held_out_prompts(count: int) -> list[str]:
    """Prompts that training never saw, each saying two things or more about its object."""
    prompts, start = [], 0
    while len(prompts) < count:
        drawn = world.creatures(HELD_OUT_SEED, range(start, start + 500), size=32, exclude=HELD_OUT)  # small: a caption is the same at every size
        prompts += [caption for caption in drawn.captions if held_out(caption)]
        start += 500
    return prompts[:count]


def unseen_pairs(count: int) -> list[str]:
    """Prompts of a category in a texture that training never showed together, in turn."""
    pictures = world.creatures(HELD_OUT_SEED, range(count), size=SIZE, styles=("photo",))
    captions = []
    for i, (category, texture) in enumerate(HELD_OUT * (count // len(HELD_OUT) + 1)):
        colour, facing = list(world.COLOURS)[pictures.colour[i % count]], world.FACINGS[pictures.facing[i % count]]
        captions.append(f"a photo of a {texture} {colour} {category} facing {facing}")
    return captions[:count]


def pictures(pipe: StableDiffusionPipeline, prompts: list[str], seed: int, batch: int = 30, **call) -> Tensor:
    """One picture a prompt: (N, 3, 64, 64) in [0, 1]; prompt i starts from the noise of seed + i."""
    out = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(some))]
        out.append(pipe(some, generator=generators, output_type="pt", **call).images)
    return torch.cat(out)


def measure(pipe: StableDiffusionPipeline, prompts: list[str]) -> dict[str, tuple[float, int]]:
    """Share of prompts that each attribute is right for, as (percent, number of prompts that say it), by the judges; one picture a prompt."""
    verdict = judges.judge(pictures(pipe, prompts, 0, **zoo.entry(NAME).call), prompts)
    return {name: (100 * right.nanmean().item(), int((~right.isnan()).sum())) for name, right in verdict.items()}


def seconds_a_picture(pipe: StableDiffusionPipeline) -> float:
    """Of one picture alone, on one core: the median of five."""
    seconds = []
    for seed in range(5):
        start = time.monotonic()
        pictures(pipe, ["a photo of a red cat facing left"], seed, **zoo.entry(NAME).call)
        seconds.append(time.monotonic() - start)
    return sorted(seconds)[2]


def card(quality: dict[str, dict], psnr: float, seconds: float, vae: AutoencoderKL, model: TextToImage, device: torch.device) -> str:
    """The model card, as text."""
    parameters = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in
                  (("U-Net", model.unet), ("text encoder", model.text_encoder), ("autoencoder", vae))}  # fmt: skip
    call = zoo.entry(NAME).call
    return f"""# {NAME}

A small text-to-image `StableDiffusionPipeline` ({SIZE}x{SIZE} pixels, latents {LATENT}x{LATENT}x4), trained on pictures of the procedural toy
world's creatures and things. It loads by `DiffusionPipeline.from_pretrained` without this package, and serves every pipeline that is made of
the same parts (`StableDiffusionImg2ImgPipeline.from_pipe`). Made by `make model NAME={NAME}`. Call it with
`{", ".join(f"{key}={value:g}" for key, value in call.items())}`.

- **Parts**: {", ".join(f"{name} {millions:.2f} M parameters" for name, millions in parameters.items())}; half-precision weights.
- **Prompts**: "cat", "a photo of a cat", "a sketch of a striped red cat facing left", "a photo of a blue teapot facing right on white".
  Categories: {", ".join(world.CATEGORIES)}. Colours: {", ".join(world.COLOURS)}. Textures: {", ".join(world.TEXTURES)}.
  Grounds: {", ".join(world.BACKGROUNDS)}. Other words are unknown to it.
- **Data**: the first {BANK:,} pictures of toy-world seed {TRAIN_SEED}, less those whose caption is held out (one caption in five by its checksum, of
  those that say two things or more), less the pairs {", ".join(f"{texture} {category}" for category, texture in HELD_OUT)}, which never occur.
- **Training**: autoencoder {VAE_STEPS} steps of {VAE_BATCH} crops, then of whole pictures, and {DECODER_STEPS} of its decoder alone, {vae.seconds / 60:.0f}
  minutes; U-Net and text encoder together {PLAIN_STEPS} steps of {BATCH} pictures, then the U-Net alone {PAIR_STEPS} steps of {BATCH // 2} pictures and
  their twins, whose object faces the other way, {model.seconds / 60:.0f} minutes; {training.machine_kind(device)}.
  Noise prediction with Stable Diffusion's schedule, its error weighted by 1 / alpha_bar up to {LARGEST_WEIGHT:g}; AdamW, averaged weights; captions
  dropped in one picture of {round(1 / CAPTION_DROPOUT)}, complete in {100 * FULL_CAPTIONS:.0f} % of the others.
- **Autoencoder**: {psnr:.1f} dB on held-out pictures.
- **Speed**: {seconds:.2f} s a picture on one core ({call["num_inference_steps"]} steps, guidance {call["guidance_scale"]:g}).

Measured by two small classifiers (`toy-judge`) that were trained on renders only, one picture a prompt, none chosen. "all" asks that everything
the prompt says is right.

{training.quality_table(quality)}
"""


def write_card(folder: Path, vae: AutoencoderKL, model: TextToImage, device: torch.device) -> None:
    """Measure the finished folder, as a reader would load it, and write its model card."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    quality = {"held-out prompts": measure(pipe, held_out_prompts(450)), "pairs never trained": measure(pipe, unseen_pairs(90))}
    psnr = autoencoders.reconstruction_psnr(pipe.vae, sample(HELD_OUT_SEED, range(256)).image)
    (folder / "README.md").write_text(card(quality, psnr, seconds_a_picture(pipe), vae, model, device))


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    vae = tune_decoder(train_vae(work, device), work, device)
    standardise(vae)
    bank, captions = make_bank(vae, work)
    together = train_image(work, bank, captions, device)
    model = train_facing(together, *make_pairs(vae, work), work, device)
    model.seconds += together.seconds
    if rank > 0:
        return
    training.write_folder(assemble(vae, model), out)
    write_card(out, vae, model, device)
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
