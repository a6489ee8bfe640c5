"""Feed-forward inversion into features: what a photo shows beyond its rows of latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config
from models.layers import normal
from models.stylegan2 import Generator, layer_at

PHOTO_STEP = 4  # px of the photo per pixel of the features
SLOPE = 0.2


@dataclass(frozen=True)
class ResidualEncoderConfig(Config):
    """Shape of the network.

    Attributes:
        resolution: side of the features in px; the photo is four times as large.
        channels: width of the generator's features.
        style_dim: width of the latents.
        stem: width at half of the photo's side.
        width, inner: width of the blocks at ``resolution`` px and at half of it.
        blocks: number of blocks at ``resolution`` px, before and after the others, and at half of it.
    """

    resolution: int = 32
    channels: int = 256
    style_dim: int = 512
    stem: int = 48
    width: int = 96
    inner: int = 160
    blocks: tuple[int, int, int] = (1, 2, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(int(count) for count in self.blocks))
        widths = (self.channels, self.style_dim, self.stem, self.width, self.inner)
        if min(widths) < 1 or len(self.blocks) != 3 or min(self.blocks) < 0:
            raise ValueError(f"expected widths of at least 1 and three numbers of blocks, got {widths} and {self.blocks}")
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution must be a power of two of at least 8, got {self.resolution}")

    @property
    def input_size(self) -> int:
        """Side of the photo in px."""
        return PHOTO_STEP * self.resolution


def space_to_depth(image: Tensor, step: int) -> Tensor:
    """Return squares of ``step`` px as channels, as ``F.pixel_unshuffle`` does, in operations that every exporter knows.

    Args:
        image: [N, C, H, W], H and W multiples of ``step``.
        step: side of a square in px.

    Returns:
        [N, C step^2, H / step, W / step].
    """
    count, channels, height, width = image.shape
    image = image.reshape(count, channels, height // step, step, width // step, step)
    image = image.permute(0, 1, 3, 5, 2, 4)  # [N, C, H', s, W', s] -> [N, C, s, s, H', W']
    return image.reshape(count, channels * step**2, height // step, width // step)


class StyledBlock(nn.Module):
    """x + conv(leaky(a conv(x) + b)), a - 1 and b linear in a latent and 0 at first; [N, C, H, W], [N, D] -> [N, C, H, W]."""

    def __init__(self, width: int, style_dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.style = nn.Linear(style_dim, 2 * width)
        nn.init.zeros_(self.style.weight)
        nn.init.zeros_(self.style.bias)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)  # [N, 2C, 1, 1] -> twice [N, C, 1, 1]
        return x + self.second(F.leaky_relu(self.first(x) * (1.0 + scale) + shift, SLOPE))


class ResidualEncoder(nn.Module):
    """Predict the features that must be added to those of a face's latents, so that the generator shows the photo.

    r = s (e(p, f / s, w) - g f / s): what the photo p says should be there, less a learned share g per channel of the
    features f that are there. In the notation of HFGI (Wang et al. 2022) e is the consultation encoder; it reads f itself
    in place of the image drawn from it, which would cost a pass through the larger half of the generator.

    Args:
        config: the network's shape.
    """

    deviation: Tensor

    def __init__(self, config: ResidualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        patch = 3 * PHOTO_STEP**2
        self.stem = nn.Conv2d(12, config.stem, 3, padding=1)
        self.down = nn.Conv2d(config.stem, 2 * config.stem, 3, stride=2, padding=1)
        self.merge = nn.Conv2d(patch + 2 * config.stem + config.channels, config.width, 1)
        self.shrink = nn.Conv2d(config.width, config.inner, 3, stride=2, padding=1)
        self.enlarge = nn.Conv2d(config.inner, config.width, 1)
        widths = (config.width, config.inner, config.width)
        self.before, self.inner, self.after = (
            nn.ModuleList(StyledBlock(width, config.style_dim) for _ in range(count))
            for width, count in zip(widths, config.blocks, strict=True))
        self.head = nn.Conv2d(config.width, config.channels, 1)
        self.share = nn.Parameter(torch.zeros(config.channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, config.channels, 1, 1))
        self.head.weight = nn.Parameter(normal(*self.head.weight.shape, over=10.0 * config.width**0.5))
        nn.init.zeros_(self.head.bias)

    def forward(self, photo: Tensor, features: Tensor, w_plus: Tensor) -> Tensor:
        """Predict residuals in the features' own units.

        Args:
            photo: [N, 3, 4R, 4R] in [-1, 1].
            features: [N, C, R, R] of the first inversion after ``layer_at(R)``, see ``Generator.halfway``. Both may be cut
                to the same square, of an even number of features.
            w_plus: [N, L, style_dim] of the first inversion.

        Returns:
            [N, C, R, R].

        Raises:
            ValueError: for other shapes.
        """
        config = self.config
        side = features.shape[3] if features.ndim == 4 else 0
        expected = [len(w_plus), 3, PHOTO_STEP * side, PHOTO_STEP * side], [len(w_plus), config.channels, side, side]
        got = list(photo.shape), list(features.shape)
        if got != expected or not side or side % 2 or w_plus.ndim != 3 or w_plus.shape[2] != config.style_dim:
            raise ValueError(f"expected photo and features of {expected[0]} and {expected[1]}, w_plus [N, L, "
                             f"{config.style_dim}], got {got[0]}, {got[1]} and {list(w_plus.shape)}")
        # Of the layers that will draw the features; of length about 1, so that no single step of training moves it far.
        style = w_plus[:, layer_at(config.resolution) + 1:].mean(dim=1) / config.style_dim**0.5
        there = features / self.deviation
        fine = F.leaky_relu(self.stem(space_to_depth(photo, 2)), SLOPE)
        fine = F.leaky_relu(self.down(fine), SLOPE)
        x = F.leaky_relu(self.merge(torch.cat([space_to_depth(photo, PHOTO_STEP), fine, there], dim=1)), SLOPE)
        for block in self.before:
            x = block(x, style)
        inner = self.shrink(F.leaky_relu(x, SLOPE))
        for block in self.inner:
            inner = block(inner, style)
        x = x + F.interpolate(self.enlarge(inner), scale_factor=2, mode="nearest")
        for block in self.after:
            x = block(x, style)
        return self.deviation * (self.head(F.leaky_relu(x, SLOPE)) - self.share * there)


def residual_of(encoder: ResidualEncoder, generator: Generator, photo: Tensor, w_plus: Tensor) -> Tensor:
    """Return the residual [N, C, R, R] of photos [N, 3, 4R, 4R] in [-1, 1] whose first inversion is ``w_plus`` [N, L, D].

    Raises:
        ValueError: for shapes that do not fit the networks.
    """
    half = generator.halfway(w_plus, noise=generator.fixed_noise(), resolution=encoder.config.resolution)
    return encoder(photo, half.features, w_plus)
