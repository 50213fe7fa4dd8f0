"""Recipe of data/models/toy-sd: a small text-to-image StableDiffusionPipeline, trained on pictures of the toy world's creatures and things.

Three stages, each resumable: an AutoencoderKL on pictures, a bank of encoded pictures, then the UNet2DConditionModel together with its
CLIP text encoder. `python -m helpers.recipes.toy_sd` runs them all; checkpoints lie under .recipes/toy-sd.
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

from .. import judges, small_models, zoo
from ..toyworld import creatures as world
from . import autoencoders, training

NAME = "toy-sd"
SEED = 1506
SIZE, LATENT = 64, 16
HELD_OUT = (("rabbit", "striped"), ("car", "dotted"), ("fish", "checkered"))  # (category, texture) pairs that training never shows
VAE_STEPS, VAE_BATCH = 9500, 32
CROP_STEPS, CROP = 5700, 32  # the autoencoder sees crops first, and whole pictures, a quarter as many, at the end: steps of equal work
DECODER_STEPS = 3700  # then its decoder alone
BANK = 40_000  # pictures that are looked at; those with a held-out caption are left out of the encoded bank
STEPS, BATCH, CAPTION_DROPOUT = 10_000, 48, 0.1
LARGEST_WEIGHT = 25.0  # of the error at one timestep
FULL_CAPTIONS = 0.5  # share of pictures whose caption says everything; the others' captions leave attributes out at random
TEXT_LENGTH = 16
TRAIN_SEED, HELD_OUT_SEED = 1, 2  # of the toy world: the second is never trained on


def sample(seed: int, indices) -> world.CreaturePictures:
    return world.creatures(seed, indices, size=SIZE, exclude=HELD_OUT)


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
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32, 64), layers_per_block=1, norm_num_groups=4,
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
            sample_size=LATENT, in_channels=4, out_channels=4, block_out_channels=(32, 64, 96, 96), layers_per_block=1, norm_num_groups=16,
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
    z = autoencoders.encode(vae, sample(TRAIN_SEED, range(1024)).image)
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


def train_image(work: Path, bank: Tensor, captions: list[tuple[str, str]], device: torch.device, stop_at: int | None = None) -> TextToImage:
    torch.manual_seed(SEED + 1)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    tokenizer = make_tokenizer()
    model = TextToImage(len(tokenizer)).to(device)
    if device.type == "cpu":  # with so few channels a head, plain products are a tenth faster than the fused kernel
        model.unet.set_attn_processor(AttnProcessor())
    different = sorted({"", *(caption for both in captions for caption in both)})
    number = {caption: i for i, caption in enumerate(different)}
    tokens = tokenizer(different, padding="max_length", return_tensors="pt").input_ids
    caption_of = torch.tensor([[number[caption] for caption in both] for both in captions])
    kept = make_scheduler().alphas_cumprod

    def loss_of(model: TextToImage, step: int) -> Tensor:
        generator = training.step_generator(SEED + 1, step)
        rows = torch.randint(len(bank), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *bank.shape[1:], generator=generator)
        share = training.stratified(BATCH, generator)
        dropped = torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT
        which = (torch.rand(BATCH, generator=generator) < FULL_CAPTIONS).long()
        ids = tokens[torch.where(dropped, number[""], caption_of[rows, which])[mine]].to(device)
        t = (1000 * share[mine]).long().clamp(max=999)
        a = kept[t][:, None, None, None].to(device)
        noise, x0 = noise[mine].to(device), bank[rows[mine]].float().to(device)
        noisy = a.sqrt() * x0 + (1 - a).sqrt() * noise
        with training.autocast(device):
            text = model.text_encoder(ids)[0]
            out = model.unet(noisy, t.to(device), text, return_dict=False)[0]
        return (weight_of(a) * (out.float() - noise).square()).mean()

    return training.train(model, loss_of, steps=STEPS, checkpoint=work / "image.pt", learning_rate=1e-3, warmup=300, decay=0.9985,
                          label="U-Net", stop_at=stop_at)  # fmt: skip


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
        prompts += [caption for caption in sample(HELD_OUT_SEED, range(start, start + 500)).captions if held_out(caption)]
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
  minutes; U-Net and text encoder together {STEPS} steps of {BATCH} pictures, {model.seconds / 60:.0f} minutes; {training.machine_kind(device)}.
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
    model = train_image(work, bank, captions, device)
    if rank > 0:
        return
    training.write_folder(assemble(vae, model), out)
    write_card(out, vae, model, device)
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
