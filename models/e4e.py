"""e4e encoder: images to rows of w_plus (Tov et al. 2021, "Designing an Encoder for StyleGAN Image Manipulation")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config
from models.irse import irse_body, irse_stem
from models.layers import EqualLinear


@dataclass(frozen=True)
class E4EConfig(Config):
    """Shape of an encoder; the defaults are IR-SE50 with 18 heads, as released for 1024 px.

    Attributes:
        input_size: side of the input in px; the body divides it by 16.
        n_styles: rows of w_plus.
        style_dim: width of w.
        stem, widths, units: width of the input layer, width and number of units of the four stages.
        base_width: channels of the head that predicts the common w.
        delta_width: channels of the heads that predict each row's offset.
        coarse, middle: first row read from the middle and from the fine level of the feature pyramid.
    """

    input_size: int = 256
    n_styles: int = 18
    style_dim: int = 512
    stem: int = 64
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    units: tuple[int, int, int, int] = (3, 4, 14, 3)
    base_width: int = 512
    delta_width: int = 512
    coarse: int = 3
    middle: int = 7

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "units", tuple(self.units))
        if self.input_size % 16 or self.input_size & (self.input_size - 1):
            raise ValueError(f"input_size must be a power of two and a multiple of 16, got {self.input_size}")


class MapToStyle(nn.Module):
    """Strided convolutions down to one pixel, then a linear layer: one row of w_plus.

    Args:
        in_channels, width, out_dim: of the map, of the convolutions and of the row.
        size: side of the map in px, a power of two.
    """

    def __init__(self, in_channels: int, width: int, out_dim: int, *, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(int(math.log2(size))):
            layers += [nn.Conv2d(in_channels if index == 0 else width, width, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(width, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, size, size] -> [N, out_dim]."""
        return self.linear(self.convs(x).flatten(1))  # [N, width, 1, 1] -> [N, width]


def upsample_add(coarse: Tensor, fine: Tensor) -> Tensor:
    """Resize ``coarse`` bilinearly (corners aligned) to the size of ``fine`` and add it."""
    return F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=True) + fine


class E4EEncoder(nn.Module):
    """Predict one w and an offset for each further row from a feature pyramid.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: E4EConfig) -> None:
        super().__init__()
        self.config = config
        top = config.widths[3]
        self.input_layer = irse_stem(config.stem)
        self.body = irse_body(config.stem, config.widths, config.units)
        self.styles = nn.ModuleList()
        for row in range(config.n_styles):
            shrink = 16 if row < config.coarse else 8 if row < config.middle else 4
            width = config.base_width if row == 0 else config.delta_width
            self.styles.append(MapToStyle(top, width, config.style_dim, size=config.input_size // shrink))
        self.latlayer1 = nn.Conv2d(config.widths[2], top, 1)
        self.latlayer2 = nn.Conv2d(config.widths[1], top, 1)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Return the maps after stages 2, 3 and 4: [N, C, S/4, S/4], [N, C, S/8, S/8], [N, C, S/16, S/16]."""
        size = self.config.input_size
        if image.ndim != 4 or list(image.shape[1:]) != [3, size, size]:
            raise ValueError(f"expected images [N, 3, {size}, {size}], got {list(image.shape)}")
        ends = [end - 1 for end in accumulate(self.config.units)][1:]
        x, maps = self.input_layer(image), []
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in ends:
                maps.append(x)
        return maps

    def levels(self, image: Tensor) -> list[Tensor]:
        """Return the map that each row's head reads: the coarse, middle or fine one, the coarser added to the finer."""
        fine, middle, coarse = self.pyramid(image)
        middle = upsample_add(coarse, self.latlayer1(middle))
        fine = upsample_add(middle, self.latlayer2(fine))
        return [coarse if row < self.config.coarse else middle if row < self.config.middle else fine
                for row in range(self.config.n_styles)]

    def base(self, image: Tensor) -> Tensor:
        """Return only the common row [N, style_dim], before the mean latent is added."""
        return self.styles[0](self.pyramid(image)[2])

    def forward(self, image: Tensor) -> Tensor:
        """Encode images.

        Args:
            image: [N, 3, input_size, input_size] in [-1, 1].

        Returns:
            Codes [N, n_styles, style_dim] to which the mean latent is yet to be added.

        Raises:
            ValueError: for a wrong input size.
        """
        levels = self.levels(image)
        base = self.styles[0](levels[0])
        rows = [base, *(base + self.styles[row](levels[row]) for row in range(1, len(levels)))]
        return torch.stack(rows, dim=1)  # L x [N, D] -> [N, L, D]
