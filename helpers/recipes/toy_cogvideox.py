"""Recipe of data/models/toy-cogvideox: a second small video transformer, of the class of CogVideoX, in the latents of toy-latte.

Full attention over all frames and the text at once, where Latte alternates between space and time. Autoencoder, text encoder, tokenizer
and scheduler are those of toy-latte, as they are; only the transformer is trained. `python -m helpers.recipes.toy_cogvideox` trains it;
checkpoints lie under .recipes/toy-cogvideox.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import CogVideoXTransformer3DModel, LattePipeline
from torch import Tensor
from tqdm.auto import tqdm

from ..measures import caches
from ..models import zoo
from . import toy_latte, training

NAME = "toy-cogvideox"
SEED = 2408
LAYERS, HEADS, HEAD_WIDTH = 6, 4, 32
STEPS, BATCH, CAPTION_DROPOUT = 7000, 48, 0.1
# Colour and outline are decided at lower noise than place and motion. Share of the timesteps that are drawn as if toy-latte's schedule had
# not been shifted towards noise, from each step on; the others are drawn from the noisy end.
APPEARANCE_SHARE = {0: 1.0, 2400: 0.0, 4000: 0.5}


def make_transformer() -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_WIDTH, num_layers=LAYERS, in_channels=4, out_channels=4, time_embed_dim=128, text_embed_dim=64,
        sample_width=toy_latte.SIZE // 4, sample_height=toy_latte.SIZE // 4, sample_frames=toy_latte.FRAMES, temporal_compression_ratio=1,
        patch_size=2, max_text_seq_length=toy_latte.TEXT_LENGTH, attention_bias=True, use_rotary_positional_embeddings=False,
    )  # fmt: skip


@torch.no_grad()
def encode_text(pipe: LattePipeline, captions: list[str]) -> Tensor:
    """Captions -> (N, 18, 64) text embeddings, zero at padding. The empty caption stands for "no text"."""
    tokens = pipe.tokenizer(captions, padding="max_length", max_length=toy_latte.TEXT_LENGTH, truncation=True, return_tensors="pt")
    out = pipe.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    return out * tokens.attention_mask[..., None]


def encode_bank(pipe: LattePipeline, work: Path) -> tuple[Tensor, list[str]]:
    """The clips of toy-latte's training in its latents: (N, T, 4, 8, 8) in half precision, and their captions."""
    rank, world_size = training.join_processes()
    captions = toy_latte.sample(toy_latte.TRAIN_SEED, range(toy_latte.BANK)).captions
    rows = [i for i, caption in enumerate(captions) if not toy_latte.held_out(caption)]
    path = work / "bank.pt"
    if rank == 0 and not path.exists():
        pieces = []
        for start in tqdm(range(0, len(rows), 64), desc="encoding clips", mininterval=5):
            video = toy_latte.sample(toy_latte.TRAIN_SEED, rows[start : start + 64]).render().video
            pieces.append(toy_latte.encode(pipe.vae, video).transpose(1, 2).half())
        training.save_atomically(torch.cat(pieces), path)
    training.wait_for_all()
    return torch.load(path, weights_only=True), [captions[i] for i in rows]


def draw_timesteps(count: int, step: int, generator: torch.Generator) -> Tensor:
    """`count` timesteps, one from each equal slice of the wanted distribution."""
    place = training.stratified(count, generator)
    share = training.value_at(APPEARANCE_SHARE, step)
    unshifted, shifted = toy_latte.alphas_bar(1.0), toy_latte.alphas_bar(toy_latte.SHIFT)
    wanted = unshifted[(1000 * place / max(share, 1e-9)).long().clamp(max=999)]
    appearance = torch.searchsorted(-shifted, -wanted)  # where the shifted schedule has that signal-to-noise ratio
    motion = 1000 * (1 - ((1 - place) / max(1 - share, 1e-9)).square())
    return torch.where(place < share, appearance, motion.long()).clamp(0, 999)


def train(pipe: LattePipeline, bank: Tensor, captions: list[str], work: Path, device: torch.device, stop_at: int | None = None) -> CogVideoXTransformer3DModel:
    torch.manual_seed(SEED)
    rank, world_size = training.join_processes()
    mine = slice(rank, None, world_size)
    model = make_transformer().to(device)
    different = sorted({"", *captions})
    number = {caption: i for i, caption in enumerate(different)}
    texts = torch.cat([encode_text(pipe, different[i : i + 256]) for i in range(0, len(different), 256)])
    caption_of = torch.tensor([number[caption] for caption in captions])
    kept = pipe.scheduler.alphas_cumprod

    def loss_of(model: CogVideoXTransformer3DModel, step: int) -> Tensor:
        generator = training.step_generator(SEED, step)
        rows = torch.randint(len(bank), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, *bank.shape[1:], generator=generator)[mine].to(device)
        t = draw_timesteps(BATCH, step, generator)[mine]
        dropped = torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT
        text = texts[torch.where(dropped, number[""], caption_of[rows])[mine]].to(device)
        x0 = bank[rows[mine]].float().to(device)
        a = kept[t].to(device)[:, None, None, None, None]
        noisy, target = a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0
        with training.autocast_with_attention(device):
            out = model(noisy, text, t.to(device), return_dict=False)[0]
        return F.mse_loss(out.float(), target)

    return training.train(model, loss_of, steps=STEPS, checkpoint=work / "transformer.pt", learning_rate=2e-3, warmup=300, decay=0.9985,
                          label="CogVideoX transformer", stop_at=stop_at)  # fmt: skip


def write_folder(model: CogVideoXTransformer3DModel, folder: Path) -> None:
    """Write the transformer in half precision."""
    training.write_folder(model.cpu().eval().half(), folder, "transformer")


def card(quality: dict[str, dict], model: CogVideoXTransformer3DModel, device: torch.device) -> str:
    """The model card, as text."""
    first = next(iter(quality.values()))
    shares = ", ".join(f"{share:g} from {step}" for step, share in APPEARANCE_SHARE.items())
    return f"""# {NAME}

A small `CogVideoXTransformer3DModel` ({sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, half-precision weights): full attention
over the tokens of all frames and of the text at once. It works on the latents of `toy-latte`, and takes that model's text encoder,
autoencoder and scheduler; `helpers.measures.caches.load("{NAME}")` puts them together. It exists because most caches cannot serve Latte: here
they stand on one trained model. Alone it loads by `CogVideoXTransformer3DModel.from_pretrained("data/models/{NAME}/transformer")`.
Made by `make model NAME={NAME}`.

- **Call**: `hidden_states` (B, {toy_latte.FRAMES}, 4, 8, 8); `encoder_hidden_states` (B, {toy_latte.TEXT_LENGTH}, 64), prompts padded to
  {toy_latte.TEXT_LENGTH} tokens, embeddings zero at the padding; v-prediction, 30 steps, guidance 3.
- **Data**: the clips and captions that toy-latte was trained on, in its latents.
- **Training**: {STEPS} steps of {BATCH} clips, {model.seconds / 60:.0f} minutes; {training.machine_kind(device)}. AdamW, averaged weights; captions dropped in
  one clip of {round(1 / CAPTION_DROPOUT)}. Share of less noisy timesteps by step: {shares}.
- **Speed**: {first["seconds a clip"][0]:.2f} s a clip on one core.

Measured by the toy world's analysers, one clip a prompt, none chosen; rows as in toy-latte's card.

{training.quality_table(quality)}
"""


def write_card(folder: Path, model: CogVideoXTransformer3DModel, device: torch.device) -> None:
    """Measure the finished folder, as a reader would load it, and write its model card."""
    bench = caches.Bench(NAME, zoo.load("toy-latte"), CogVideoXTransformer3DModel.from_pretrained(folder / "transformer"))
    prompts = {"held-out prompts": toy_latte.held_out_prompts(200), "pairs never trained": toy_latte.unseen_pairs(60)}
    quality = {label: toy_latte.measure_clips(bench.sample, found, label) for label, found in prompts.items()}
    (folder / "README.md").write_text(card(quality, model, device))


def main() -> None:
    work, out, rank, device = training.begin(NAME, __doc__)
    pipe = zoo.load("toy-latte")
    bank, captions = encode_bank(pipe, work)
    model = train(pipe, bank, captions, work, device)
    if rank > 0:
        return
    write_folder(model, out)
    write_card(out, model, device)
    training.write_manifest_of(out)


if __name__ == "__main__":
    main()
