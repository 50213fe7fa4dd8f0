"""MLP-Mixer (Tolstikhin et al. 2021, arXiv:2105.01601), which transformers does not have: patches, and two perceptrons a block, one across the patches and
one across the channels. It is a model of that library all the same: `save_pretrained`, `from_pretrained`, logits as `output.logits`."""

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from ..arguments import instance, integer

__all__ = ["MixerConfig", "MixerForImageClassification"]


class MixerConfig(PretrainedConfig):
    """image_size and patch_size in px, the one a multiple of the other; hidden_size channels of a patch; tokens_mlp_dim and channels_mlp_dim: hidden units of
    the two perceptrons of each of num_hidden_layers blocks."""

    model_type = "stepwise-mixer"

    def __init__(self, image_size=32, patch_size=4, num_channels=3, hidden_size=96, num_hidden_layers=6, tokens_mlp_dim=48, channels_mlp_dim=192, **kwargs):
        sizes = dict(image_size=image_size, patch_size=patch_size, num_channels=num_channels, hidden_size=hidden_size, num_hidden_layers=num_hidden_layers,
                     tokens_mlp_dim=tokens_mlp_dim, channels_mlp_dim=channels_mlp_dim)  # fmt: skip
        for name, value in sizes.items():
            setattr(self, name, integer(name, value, low=1))
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size must divide image_size, {self.image_size}, got {self.patch_size}")
        super().__init__(**kwargs)


class Perceptron(nn.Module):
    """Two layers with GELU between, over the last axis."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class MixerLayer(nn.Module):
    """Eq. 1 of the paper; tokens (B, patches, channels)."""

    def __init__(self, patches: int, config: MixerConfig):
        super().__init__()
        self.norm1, self.mlp_tokens = nn.LayerNorm(config.hidden_size), Perceptron(patches, config.tokens_mlp_dim)
        self.norm2, self.mlp_channels = nn.LayerNorm(config.hidden_size), Perceptron(config.hidden_size, config.channels_mlp_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.mlp_tokens(self.norm1(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.mlp_channels(self.norm2(tokens))


class MixerForImageClassification(PreTrainedModel):
    """`model(pixel_values).logits` (B, labels); `features(pixel_values)` (B, hidden_size) is what `classifier` reads, the patches' mean after a last norm."""

    config_class = MixerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: MixerConfig):
        super().__init__(instance("config", config, MixerConfig, "a MixerConfig"))
        self.patches = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        count = (config.image_size // config.patch_size) ** 2
        self.layers = nn.ModuleList([MixerLayer(count, config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def features(self, pixel_values: Tensor) -> Tensor:
        size, channels = self.config.image_size, self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (channels, size, size):
            raise ValueError(f"pixel_values must be (N, {channels}, {size}, {size}), got {tuple(pixel_values.shape)}")
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens).mean(1)

    def forward(self, pixel_values: Tensor, **kwargs) -> ImageClassifierOutputWithNoAttention:
        return ImageClassifierOutputWithNoAttention(logits=self.classifier(self.features(pixel_values)))
