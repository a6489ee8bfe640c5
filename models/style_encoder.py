"""From any image to a style code: Gram matrices of VGG19 and a mapping (BlendGAN; Liu et al. 2021), with its key names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, cat, nn
from torch.nn import functional as F

from models.config import Config
from models.layers import EqualLinear


@dataclass(frozen=True)
class StyleEncoderConfig(Config):
    """Shape of a style encoder; the defaults are VGG19 and the released mapping.

    Attributes:
        widths, units: channels and number of convolutions of every block; a block's last map is read.
        input_size: side in px that images are pooled to.
        hidden: width of the mapping.
        style_dim: width of the code.
        n_mlp: linear layers of the mapping.
        gram_gain: what the mapping multiplies the Gram vector by; 1 in the release. Equalised layers divide by the root of
            their inputs' number, so that without a gain a network that is trained anew sees next to nothing of it.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    units: tuple[int, ...] = (2, 2, 4, 4, 4)
    input_size: int = 256
    hidden: int = 512
    style_dim: int = 512
    n_mlp: int = 4
    gram_gain: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "units", tuple(self.units))
        if not self.widths or len(self.widths) != len(self.units) or min(*self.widths, *self.units) < 1 or self.n_mlp < 2:
            raise ValueError(f"expected a width and a count of at least 1 per block and n_mlp >= 2, got {self}")
        if self.input_size % 2 ** (len(self.units) - 1):
            raise ValueError(f"input_size must be divisible by {2 ** (len(self.units) - 1)}, got {self.input_size}")

    @property
    def gram_size(self) -> int:
        """Number of entries of the Gram matrices (610,304 for VGG19)."""
        return sum(width**2 for width in self.widths)


class BlockFeatures(nn.Module):
    """Convolutions of VGG19 in blocks with max pooling between them, indexed as torchvision indexes them."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends: list[int] = []
        before = 3
        for width, count in zip(config.widths, config.units, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.ends.append(len(layers) - 1)
        self.vgg_layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image [N, 3, S, S] -> the last map of every block, block b being [N, C, S / 2^b, S / 2^b]."""
        maps, x = [], image
        for index, layer in enumerate(self.vgg_layers):
            x = layer(x)
            if index in self.ends:
                maps.append(x)
        return maps


def gram_matrix(features: Tensor) -> Tensor:
    """Return G = F F^T / (C H W) with F the map [C, H W] of a sample (Gatys et al. 2016); [N, C, H, W] -> [N, C, C]."""
    flat = features.flatten(2)  # [N, C, H, W] -> [N, C, H W]
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


class GramEmbedder(nn.Module):
    """All Gram matrices of an image in one vector."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.input_size = config.input_size
        self.feature_extractor = BlockFeatures(config)

    def forward(self, image: Tensor) -> Tensor:
        """image [N, 3, H, W] in [-1, 1], average-pooled (or repeated) to ``input_size`` px -> [N, gram_size]."""
        pooled = F.adaptive_avg_pool2d(image, self.input_size)
        return cat([gram_matrix(map_).flatten(1) for map_ in self.feature_extractor(pooled)], dim=1)


class StyleEncoder(nn.Module):
    """Style code of an image, standard normal over the styles it was trained on.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedder = GramEmbedder(config)
        dims = [config.gram_size] + [config.hidden] * (config.n_mlp - 1) + [config.style_dim]
        self.embedder_mlp = nn.Sequential(*(
            EqualLinear(before, after, activate=index < config.n_mlp - 1)
            for index, (before, after) in enumerate(zip(dims[:-1], dims[1:], strict=True))))

    def gram(self, image: Tensor) -> Tensor:
        """Return the Gram vector [N, gram_size] of images [N, 3, H, W] in [-1, 1] of any size.

        Raises:
            ValueError: for another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3 or not image.shape[2] * image.shape[3]:
            raise ValueError(f"expected images [N, 3, H, W], got {list(image.shape)}")
        return self.embedder(image)

    def forward(self, image: Tensor) -> Tensor:
        """Return style codes [N, style_dim] of images [N, 3, H, W] in [-1, 1] of any size."""
        return self.embedder_mlp(self.config.gram_gain * self.gram(image))


def style_encoder_config_from_state(state: Mapping[str, Tensor]) -> StyleEncoderConfig:
    """Read blocks, widths and depth of a released style encoder from its state dict; the input side is the released one.

    Raises:
        ValueError: where it is none.
    """
    layers, mlp = "embedder.feature_extractor.vgg_layers.", "embedder_mlp."
    convolutions = {int(key.removeprefix(layers).partition(".")[0]): value.shape[0] for key, value in state.items()
                    if key.startswith(layers) and key.endswith(".weight")}
    linear = {int(key.removeprefix(mlp).partition(".")[0]): value.shape for key, value in state.items()
              if key.startswith(mlp) and key.endswith(".weight")}
    if not convolutions or not linear:
        raise ValueError(f"the style encoder's state misses {layers}0.weight or {mlp}0.weight")
    widths: list[int] = []
    units: list[int] = []
    before = None
    for index in sorted(convolutions):
        if before is None or index != before + 2:  # a pooling layer lies between
            widths.append(convolutions[index])
            units.append(0)
        units[-1] += 1
        before = index
    return StyleEncoderConfig(tuple(widths), tuple(units), hidden=linear[min(linear)][0],
                              style_dim=linear[max(linear)][0], n_mlp=len(linear))
