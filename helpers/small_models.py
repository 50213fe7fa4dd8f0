"""Small random video transformers of six published classes, each with its inputs and a twelve-call sampling loop.

What a method must do on any architecture (change nothing, skip what it should, leave no trace) can be seen on random weights in a
second. Sizes are small and unequal, so that swapped axes fail.
"""

import warnings

import diffusers
import torch
from torch import Tensor, nn

BATCH, FRAMES, TEXT = 2, 3, 5

# class of diffusers, its configuration, shape of the latents, width of the text embedding
VIDEO_TRANSFORMERS = {
    "Latte": ("LatteTransformer3DModel", dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, cross_attention_dim=16, attention_bias=True,
        sample_size=4, patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=6, video_length=FRAMES), (BATCH, 4, FRAMES, 4, 6), 6),
    "CogVideoX": ("CogVideoXTransformer3DModel", dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=6, num_layers=3,
        sample_width=6, sample_height=4, sample_frames=9, patch_size=2, max_text_seq_length=TEXT), (BATCH, FRAMES, 4, 4, 6), 6),
    "Wan": ("WanTransformer3DModel", dict(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=6, freq_dim=16, ffn_dim=32,
        num_layers=3, rope_max_seq_len=32), (BATCH, 4, FRAMES, 4, 6), 6),
    "LTX": ("LTXVideoTransformer3DModel", dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=3,
        caption_channels=6), (BATCH, FRAMES * 6, 4), 6),
    "Mochi": ("MochiTransformer3DModel", dict(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=3, pooled_projection_dim=16, in_channels=4, text_embed_dim=8,
        time_embed_dim=4, max_sequence_length=TEXT), (BATCH, 4, FRAMES, 4, 6), 8),
    "HunyuanVideo": ("HunyuanVideoTransformer3DModel", dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=3, num_single_layers=2, num_refiner_layers=1,
        patch_size=2, patch_size_t=1, guidance_embeds=True, text_embed_dim=6, pooled_projection_dim=7,
        rope_axes_dim=(2, 4, 4)), (BATCH, 4, FRAMES, 4, 6), 6),
}  # fmt: skip


def _extra_inputs(name: str) -> dict:
    """What a class wants besides latents, text and timestep."""
    if name == "LTX":
        return {"encoder_attention_mask": torch.ones(BATCH, TEXT, dtype=torch.long), "num_frames": FRAMES, "height": 2, "width": 3}
    if name == "Mochi":
        return {"encoder_attention_mask": torch.ones(BATCH, TEXT, dtype=torch.bool)}
    if name == "HunyuanVideo":
        pooled = torch.linspace(-1, 1, BATCH * 7).reshape(BATCH, 7)
        return {"encoder_attention_mask": torch.ones(BATCH, TEXT, dtype=torch.long), "pooled_projections": pooled, "guidance": torch.full((BATCH,), 6000.0)}
    return {}


class SmallVideoTransformer:
    """A random model of one class. model: the transformer; start: its first latents; text: (2, 5, width); times: one timestep per call."""

    def __init__(self, name: str, calls: int = 12):
        if name not in VIDEO_TRANSFORMERS:
            raise ValueError(f"name must be one of {', '.join(VIDEO_TRANSFORMERS)}, got {name!r}")
        class_name, config, shape, width = VIDEO_TRANSFORMERS[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: nn.Module = getattr(diffusers, class_name)(**config).eval()
            for parameter in self.model.parameters():  # zero-initialised gates and tables would hide errors
                if parameter.abs().max() == 0:
                    nn.init.normal_(parameter, std=0.3)
        generator = torch.Generator().manual_seed(1)
        self.start = torch.randn(shape, generator=generator)
        self.text = torch.randn(BATCH, TEXT, width, generator=generator)
        self.calls, self.extra = calls, _extra_inputs(name)
        times = torch.linspace(980, 20, calls).round()
        self.times = 1000 - times if name == "Mochi" else times  # Mochi's rise

    def call(self, latents: Tensor, n: int, text: Tensor | None = None) -> Tensor:
        """The model's output at call n (1-based)."""
        text = self.text if text is None else text
        timestep = self.times[n - 1].expand(BATCH)
        with warnings.catch_warnings():  # Mochi asks for a float32 autocast, which CPUs do not have; it computes in float32 all the same
            warnings.filterwarnings("ignore", "In CPU autocast")
            return self.model(hidden_states=latents, timestep=timestep, encoder_hidden_states=text, return_dict=False, **self.extra)[0]

    @torch.no_grad()
    def sample(self, calls: int | None = None, *, text: Tensor | None = None, context: str | None = None) -> Tensor:
        """Latents after the first `calls` calls of the loop x <- x - 0.1 model(x); `context`: a cache context to call in."""
        latents = self.start
        for n in range(1, (calls or self.calls) + 1):
            if context is None:
                out = self.call(latents, n, text)
            else:
                with self.model.cache_context(context):
                    out = self.call(latents, n, text)
            out = out.chunk(2, dim=1)[0] if out.shape != latents.shape else out
            latents = latents - 0.1 * out
        return latents


def video_transformer(name: str, calls: int = 12) -> SmallVideoTransformer:
    """A small random transformer by the name of its architecture. Raises ValueError for an unknown name."""
    return SmallVideoTransformer(name, calls)
