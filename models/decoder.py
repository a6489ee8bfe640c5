"""The two-times decoder: from the generator's image to a photo of twice its side, with the detail that it lacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config
from models.residual_encoder import SLOPE, space_to_depth

SKETCH_SIDE = 16  # cells of a sketch along a side, whatever the image's
SKETCH_CHANNELS = 5
COLOURS, DETAIL, FACE = slice(0, 3), 3, slice(4, 5)  # its channels
# Place of the square of half the side that the channel FACE shows, brows to chin of an aligned face, in sixteenths of the side.
FACE_TOP, FACE_LEFT = 5, 4
FAINT = 0.02  # of detail, in the units of images: less counts as none


@dataclass(frozen=True)
class DecoderConfig(Config):
    """Shape of the network.

    Attributes:
        widths: channels at half, a quarter and an eighth of the image's side.
        fine: channels at the image's side.
        blocks: residual blocks at half of the side (after the others), a quarter and an eighth.
    """

    widths: tuple[int, int, int] = (64, 96, 144)
    fine: int = 32
    blocks: tuple[int, int, int] = (1, 2, 3)

    def __post_init__(self) -> None:
        for name in ("widths", "blocks"):
            object.__setattr__(self, name, tuple(int(value) for value in getattr(self, name)))
        if len(self.widths) != 3 or len(self.blocks) != 3 or min(*self.widths, self.fine) < 1 or min(self.blocks) < 0:
            raise ValueError(f"expected three widths of at least 1 and three numbers of blocks, got {self.widths}, "
                             f"{self.fine} and {self.blocks}")


class ResidualBlock(nn.Module):
    """x + conv(leaky(conv(leaky(x)))), x at first; [N, C, H, W] -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, SLOPE)), SLOPE))


def blocks(count: int, width: int) -> nn.Sequential:
    """Return a row of residual blocks."""
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))


class Decoder(nn.Module):
    """U-Net that draws a photo of twice the side: d(x, s) = up(x) + u(x, s).

    Args:
        config: the network's shape.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        half, quarter, eighth = config.widths
        self.stem = nn.Conv2d(12 + SKETCH_CHANNELS, half, 3, padding=1)
        self.down = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.lower = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.sketch = nn.Conv2d(DETAIL + 1, eighth, 3, padding=1)
        self.deepest, self.deep, self.shallow = (
            blocks(count, width) for count, width in zip(config.blocks[::-1], config.widths[::-1], strict=True))
        self.rise = nn.Conv2d(eighth, quarter, 1)
        self.up = nn.Conv2d(quarter, half, 1)
        self.grow = nn.Conv2d(half, 4 * config.fine, 3, padding=1)
        self.join = nn.Conv2d(config.fine + 3, config.fine, 3, padding=1)
        self.last = blocks(1, config.fine)
        self.head = nn.Conv2d(config.fine, 12, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor, sketch: Tensor) -> Tensor:
        """Draw photos.

        Args:
            image: [N, 3, S, S] in about [-1, 1], S a multiple of 16.
            sketch: [N, 5, 16, 16] of ``sketch_of``: what the photo has that the image lacks; zeros draw what the image
                itself says.

        Returns:
            [N, 3, 2S, 2S] in about [-1, 1].

        Raises:
            ValueError: for other shapes.
        """
        side = image.shape[3] if image.ndim == 4 else 0
        if list(image.shape) != [len(sketch), 3, side, side] or not side or side % SKETCH_SIDE:
            raise ValueError(f"expected images [{len(sketch)}, 3, S, S], S a multiple of {SKETCH_SIDE}, got {list(image.shape)}")
        if list(sketch.shape[1:]) != [SKETCH_CHANNELS, SKETCH_SIDE, SKETCH_SIDE]:
            raise ValueError(f"expected sketches [N, {SKETCH_CHANNELS}, {SKETCH_SIDE}, {SKETCH_SIDE}], got {list(sketch.shape)}")
        rough = sketch[:, :DETAIL + 1]
        half = self.stem(torch.cat([space_to_depth(image, 2), resized(rough, side // 2), placed(sketch[:, FACE], side // 2)],
                                   dim=1))
        quarter = self.down(F.leaky_relu(half, SLOPE))
        eighth = self.lower(F.leaky_relu(quarter, SLOPE)) + self.sketch(resized(rough, side // 8))
        quarter = self.deep(quarter + doubled(self.rise(self.deepest(eighth))))
        half = self.shallow(half + doubled(self.up(F.leaky_relu(quarter, SLOPE))))
        fine = smoothed(F.pixel_shuffle(self.grow(F.leaky_relu(half, SLOPE)), 2))
        fine = self.last(self.join(torch.cat([F.leaky_relu(fine, SLOPE), image], dim=1)))
        return enlarged(image) + smoothed(F.pixel_shuffle(self.head(F.leaky_relu(fine, SLOPE)), 2))


def resized(sketch: Tensor, side: int) -> Tensor:
    """Return sketches at another side in cells, smoothly."""
    return F.interpolate(sketch, size=(side, side), mode="bilinear", align_corners=False)


def placed(sketch: Tensor, side: int) -> Tensor:
    """Return the channel FACE of sketches [N, 1, 16, 16] at its place in a square of ``side`` px, zeros round it."""
    top, left, half = FACE_TOP * side // 16, FACE_LEFT * side // 16, side // 2
    return F.pad(resized(sketch, half), (left, side - half - left, top, side - half - top))


def face_square(image: Tensor) -> Tensor:
    """Return the square of images [N, C, S, S] that the channel FACE shows, [N, C, S/2, S/2]."""
    side = image.shape[3]
    top, left = FACE_TOP * side // 16, FACE_LEFT * side // 16
    return image[:, :, top:top + side // 2, left:left + side // 2]


def doubled(x: Tensor) -> Tensor:
    """Return features [N, C, H, W] at twice the side, by repetition."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def smoothed(x: Tensor) -> Tensor:
    """Return features [N, C, H, W] filtered by [1, 2, 1] / 4 along both axes: patterns of 2 px, as sub-pixel convolutions
    leave them, vanish."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(x, 2, stride=1), 2, stride=1)


def enlarged(image: Tensor) -> Tensor:
    """Return images [N, 3, S, S] at twice the side, bicubic: what there is without a decoder."""
    return F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)


def no_sketch(count: int, like: Tensor) -> Tensor:
    """Return sketches [count, 5, 16, 16] of zeros: the decoder draws what the image itself says."""
    return like.new_zeros(count, SKETCH_CHANNELS, SKETCH_SIDE, SKETCH_SIDE)


def detail_of(image: Tensor) -> Tensor:
    """Return how much of images [N, 3, S, S] is finer than 3 px, as a logarithm by cell, [N, 1, 16, 16]."""
    grey = image.mean(dim=1, keepdim=True)
    fine = (grey - F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)).abs()
    return (cells(fine) + FAINT).log()


def cells(image: Tensor) -> Tensor:
    """Return the means of images [N, C, S, S] by cell, [N, C, 16, 16]."""
    return F.interpolate(image, size=(SKETCH_SIDE, SKETCH_SIDE), mode="area")


def sketch_of(photo: Tensor, image: Tensor) -> Tensor:
    """Return what photos have that images of them lack, [N, 5, 16, 16]: colour, the amount of detail, and, in cells half as
    large from the brows to the chin, grey values.

    Args:
        photo, image: [N, 3, S, S] in [-1, 1].

    Raises:
        ValueError: for shapes that differ.
    """
    if photo.shape != image.shape:
        raise ValueError(f"expected photos and images of one shape, got {list(photo.shape)} and {list(image.shape)}")
    lacks = photo - image
    return torch.cat([cells(lacks), detail_of(photo) - detail_of(image),
                      cells(face_square(lacks).mean(dim=1, keepdim=True))], dim=1)
