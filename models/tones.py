"""Tones and textures of one picture for another: what no row of latents and no feature of 32 px carries.

A picture's Laplacian pyramid (Burt and Adelson 1983) is taken in three opponent colours. Another picture takes the deviation
of every band (Heeger and Bergen 1995), mean and deviation of the low rest, and, where both are faces, part of the colours
that lie at the same place of the face: skin on skin, lips on lips. Where the picture itself was read, not numbers of it,
mean and deviation of the logarithm of every band's magnitudes are taken too: they tell flat ground with a few strong lines
from even grain of the same deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.look import window_mean

# Luminance, red against blue, green against magenta, each row of norm 1.
OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
BANDS = 4
# Numbers that deviations, mean and spread are.
COUNT = 3 * BANDS + 6
LEAST, MOST = 0.4, 2.5
# Colours by place: side of a cell in px, deviation of the window in cells, shares of luminance and of the two colours.
CELL, REACH = 4, 2.0
LOCAL = (0.5, 0.8, 0.8)
SMALL = 1e-3
# Added to magnitudes before their logarithm is taken, about a step of 8 bits; what a magnitude may grow by; added to the
# deviation of logarithms that is divided by.
FAINT, MOST_GAIN, SOFT = 0.006, 3.0, 0.05


class Tones(NamedTuple):
    """What a picture gives.

    Attributes:
        bands: deviations [1, BANDS, 3, 1, 1], from fine to coarse.
        mean, spread: of the low rest, [1, 3, 1, 1].
        local: opponent colours in cells, [1, 3, S / CELL, S / CELL].
        logs: mean and deviation of the logarithms of magnitudes, [1, BANDS, 2, 3, 1, 1], or None.
    """

    bands: Tensor
    mean: Tensor
    spread: Tensor
    local: Tensor
    logs: Tensor | None = None

    @classmethod
    def from_numbers(cls, numbers: Tensor, small: Tensor, *, side: int) -> Tones:
        """Return the tones of a picture of ``side`` px from its ``numbers`` and a smaller copy [1, 3, s, s] in [-1, 1]."""
        bands, mean, spread = numbers.split((3 * BANDS, 3, 3))
        cells = F.interpolate(small, size=(side // CELL, side // CELL), mode="area")
        return cls(bands.reshape(1, BANDS, 3, 1, 1), mean.reshape(1, 3, 1, 1), spread.reshape(1, 3, 1, 1), opponent(cells))

    @classmethod
    def from_bands(cls, bands: Sequence[float], *, like: Tensor) -> Tones:
        """Return tones of which only the bands' deviations, 3 * BANDS numbers, say something: use them with colour 0."""
        return cls(like.new_tensor(bands).reshape(1, BANDS, 3, 1, 1), like.new_zeros(1, 3, 1, 1), like.new_ones(1, 3, 1, 1),
                   like.new_zeros(1, 3, 1, 1))

    def numbers(self) -> Tensor:
        """Return deviations, mean and spread as ``COUNT`` numbers."""
        return torch.cat([part.flatten() for part in (self.bands, self.mean, self.spread)])

    def mixed(self, other: Tones, share: float) -> Tones:
        """Return tones between two, ``share`` of them the other's."""
        return Tones(*(None if mine is None or theirs is None else torch.lerp(mine, theirs, share)
                       for mine, theirs in zip(self, other, strict=True)))


def opponent(image: Tensor, *, back: bool = False) -> Tensor:
    """Turn RGB [N, 3, H, W] into opponent colours, or back."""
    matrix = F.normalize(image.new_tensor(OPPONENT), dim=1)
    return torch.einsum("ji,njhw->nihw" if back else "ij,njhw->nihw", matrix, image)


def pyramid(image: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the bands of maps [N, C, S, S], from fine to coarse, and the low rest of S / 2^BANDS px."""
    bands = []
    for _ in range(BANDS):
        low = F.avg_pool2d(image, 2)
        bands.append(image - _enlarged(low))
        image = low
    return bands, image


def joined(bands: list[Tensor], low: Tensor) -> Tensor:
    """Return the maps of which ``pyramid`` gives these bands and this rest."""
    for band in reversed(bands):
        low = _enlarged(low) + band
    return low


def _enlarged(low: Tensor) -> Tensor:
    return F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)


def _deviation(maps: Tensor) -> Tensor:
    """Return the standard deviation of maps over places, [N, C, 1, 1], a little above 0."""
    return maps.std(dim=(2, 3), keepdim=True) + SMALL


def _logarithms(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logarithms of magnitudes [N, C, H, W], and their mean and deviation over places, [N, C, 1, 1]."""
    logs = (maps.abs() + FAINT).log()
    mean = logs.mean(dim=(2, 3), keepdim=True)
    return logs, mean, (logs - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()


def _in_band(band: Tensor, deviation: Tensor, logs: Tensor | None, strength: float | Tensor) -> Tensor:
    """Return a band [N, 3, H, W] with the deviation, and the spread of magnitudes, of another as far as ``strength`` says."""
    if logs is None:
        return band * (deviation / _deviation(band)).clamp(LEAST, MOST) ** strength
    own, mean, spread = _logarithms(band)
    theirs, their_spread = logs.unbind(dim=1)
    magnitude = ((own - mean) * (their_spread / (spread + SOFT)) + theirs).exp() - FAINT
    made = band * (magnitude / (band.abs() + FAINT)).clamp(0.0, MOST_GAIN)
    return torch.lerp(band, made * (deviation / _deviation(made)).clamp(LEAST, MOST), strength)


def read_tones(picture: Tensor) -> Tones:
    """Return the tones of a picture [1, 3, S, S] in [-1, 1], S a multiple of 2^BANDS.

    Raises:
        ValueError: for another shape.
    """
    _check(picture)
    colours = opponent(picture.float())
    bands, low = pyramid(colours)
    logs = torch.stack([torch.stack(_logarithms(band)[1:], dim=1) for band in bands], dim=1)
    return Tones(torch.stack([_deviation(band) for band in bands], dim=1), low.mean(dim=(2, 3), keepdim=True), _deviation(low),
                 F.avg_pool2d(colours, CELL), logs)


def in_tones(image: Tensor, tones: Tones, *, grid: Tensor | None = None, strength: float | Tensor = 1.0,
             colour: float | Tensor | None = None, local: float = 1.0) -> Tensor:
    """Return images in the tones of a picture.

    Args:
        image: [N, 3, S, S] in [-1, 1], S a multiple of 2^BANDS.
        tones: see there.
        grid: [N, S / CELL, S / CELL, 2], carries the picture's face to those of the images; without one no colours are taken
            by place.
        strength: 0 leaves the images, 1 takes the tones; one for all or [N, 1, 1, 1].
        colour: strength of the colours and their spread; ``strength`` where None.
        local: share of the colours by place.

    Returns:
        [N, 3, S, S], clamped to [-1, 1] but where nothing is taken.

    Raises:
        ValueError: for another shape.
    """
    _check(image)
    colour = strength if colour is None else colour
    if all(isinstance(share, (int, float)) and share == 0.0 for share in (strength, colour)):
        return image
    colours = opponent(image.float())
    if grid is not None and local and (isinstance(colour, Tensor) or colour):
        theirs = F.grid_sample(tones.local.expand(len(grid), -1, -1, -1), grid.to(colours), mode="bilinear",
                               padding_mode="reflection", align_corners=False)
        missing = window_mean(theirs - F.avg_pool2d(colours, CELL), REACH)
        shares = local * colour * colours.new_tensor(LOCAL).reshape(1, 3, 1, 1)
        colours = colours + shares * F.interpolate(missing, size=colours.shape[2:], mode="bilinear", align_corners=False)
        colours = opponent(opponent(colours, back=True).clamp(-1.0, 1.0))
    bands, low = pyramid(colours)
    logs = [None] * BANDS if tones.logs is None else tones.logs.unbind(dim=1)
    bands = [_in_band(*parts, strength) for parts in zip(bands, tones.bands.unbind(dim=1), logs, strict=True)]
    spread = (low - low.mean(dim=(2, 3), keepdim=True)) * (tones.spread / _deviation(low)) + tones.mean
    low = torch.lerp(low, spread, colour)
    return opponent(joined(bands, low), back=True).clamp(-1.0, 1.0).to(image.dtype)


def _check(image: Tensor) -> None:
    side = 2**BANDS
    if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3] or image.shape[2] % side:
        raise ValueError(f"expected images [N, 3, S, S] of a side that is a multiple of {side}, got {list(image.shape)}")
