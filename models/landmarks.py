"""Sixty-eight facial landmarks by heat maps, differentiable in the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config
from models.window import window_mean

# Doubt from which on landmarks are read from the softened image too, and the deviation of its window as a fraction of the side.
CLEAR, SOFTENED = 0.03, 0.008


@dataclass(frozen=True)
class LandmarkConfig(Config):
    """Shape of the network: input side in px, number of points, and widths at 1/4, 1/8 and 1/16 of the input side."""

    input_size: int = 128
    points: int = 68
    widths: tuple[int, ...] = (64, 96, 128)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(width) for width in self.widths))
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ValueError(f"widths must be three numbers of at least 1, got {self.widths}")
        if self.input_size < 32 or self.input_size % 16:
            raise ValueError(f"input_size must be a multiple of 16 and at least 32, got {self.input_size}")
        if self.points < 1:
            raise ValueError(f"points must be at least 1, got {self.points}")


class Landmarks(NamedTuple):
    """Points [N, K, 2] (x, y) as fractions of the image side and log heat maps [N, K, h, w] whose exp sums to 1."""

    points: Tensor
    log_maps: Tensor


def soft_argmax(log_maps: Tensor) -> Tensor:
    """Return the mean position under each heat map, p = sum_c exp(m_c) c over the cell centres c.

    Args:
        log_maps: [N, K, h, w], exp sums to 1 over h, w.

    Returns:
        [N, K, 2], (x, y) as fractions of the side: 0 is the left or upper edge of the image, 1 the other edge.
    """
    maps = log_maps.exp()
    height, width = maps.shape[2:]
    x = (torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5) / width
    y = (torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5) / height
    # Products instead of a matrix product, which autocast would round.
    return torch.stack([(maps.sum(dim=2) * x).sum(dim=2), (maps.sum(dim=3) * y).sum(dim=2)], dim=2)  # [N, K, 2]


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), batch-normalised, then ReLU; [N, C, H, W] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                                  nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _down(before: int, width: int) -> nn.Sequential:
    """Halve the side and change the width."""
    return nn.Sequential(nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class LandmarkNet(nn.Module):
    """One hourglass (Newell et al. 2016) with heat maps at a quarter of the input side.

    Positions are the means of the heat maps, so they have gradients and are finer than a cell.
    """

    def __init__(self, config: LandmarkConfig | None = None) -> None:
        super().__init__()
        self.config = config or LandmarkConfig()
        fine, middle, coarse = self.config.widths
        self.stem = nn.Sequential(_down(3, fine // 2), _down(fine // 2, fine))
        self.fine = ResidualBlock(fine)
        self.to_middle, self.middle = _down(fine, middle), ResidualBlock(middle)
        self.to_coarse = _down(middle, coarse)
        self.coarse = nn.Sequential(ResidualBlock(coarse), ResidualBlock(coarse))
        self.from_coarse, self.middle_out = nn.Conv2d(coarse, middle, 1), ResidualBlock(middle)
        self.from_middle, self.fine_out = nn.Conv2d(middle, fine, 1), ResidualBlock(fine)
        self.head = nn.Conv2d(fine, self.config.points, 1)

    def forward(self, image: Tensor) -> Landmarks:
        """Find the landmarks of aligned faces.

        Args:
            image: [N, 3, S, S] in [-1, 1] of any side S; it is resized to the network's own side.

        Returns:
            Landmarks(points, log_maps), float32; multiply the points by S for px.

        Raises:
            ValueError: for another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3]:
            raise ValueError(f"expected square images [N, 3, S, S], got {list(image.shape)}")
        side = self.config.input_size
        if image.shape[3] != side:
            image = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        fine = self.fine(self.stem(image.contiguous(memory_format=torch.channels_last)))  # [N, C, S/4, S/4]
        middle = self.middle(self.to_middle(fine))
        deep = self.coarse(self.to_coarse(middle))
        middle = self.middle_out(middle + F.interpolate(self.from_coarse(deep), scale_factor=2.0))
        fine = self.fine_out(fine + F.interpolate(self.from_middle(middle), scale_factor=2.0))
        logits = self.head(fine).float()
        log_maps = F.log_softmax(logits.flatten(2), dim=2).reshape(logits.shape)  # [N, K, h w] -> [N, K, h, w]
        return Landmarks(soft_argmax(log_maps), log_maps)


def surest(read: Callable[[Tensor], tuple[Tensor, Tensor]], image: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``read`` says of images [N, 3, S, S], points [N, 68, 2] and doubt [N], or of the softened images where it
    doubts and that is surer: screens, hatching and leads are not what a face is told by."""
    points, doubt = read(image)
    if (doubt <= CLEAR).all():
        return points, doubt
    softened, less = read(window_mean(image, SOFTENED * image.shape[3]))
    surer = (doubt > CLEAR) & (less < doubt)
    return torch.where(surer[:, None, None], softened, points), torch.where(surer, less, doubt)
