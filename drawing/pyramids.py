"""Opponent colours and image pyramids, on images of any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Lightness, red against blue, green against both.
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, 0.0, -1 / 2), (-1 / 4, 1 / 2, -1 / 4))
# Its inverse.
FROM_OPPONENT = ((1.0, 1.0, -2 / 3), (1.0, 0.0, 4 / 3), (1.0, -1.0, -2 / 3))
# A pixel that belongs to a part by less than this counts as outside of it when parts are filled.
LEAST_WEIGHT = 1e-4


def opponent(image: Tensor) -> Tensor:
    """Return RGB images [N, 3, H, W] in opponent colours, see ``OPPONENT``."""
    return torch.einsum("ij,njhw->nihw", image.new_tensor(OPPONENT), image)


def from_opponent(image: Tensor) -> Tensor:
    """Return what ``opponent`` was given."""
    return torch.einsum("ij,njhw->nihw", image.new_tensor(FROM_OPPONENT), image)


def halved(image: Tensor) -> Tensor:
    """Return means of 2 x 2 pixels, [N, C, ceil(H / 2), ceil(W / 2)]."""
    return F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)


def enlarged(image: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Return images [N, C, h, w] at a larger size (H, W), bilinearly."""
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images [N, C, H, W] at another size (h, w), smoothed before they are made smaller."""
    if tuple(image.shape[2:]) == tuple(size):
        return image
    return F.interpolate(image, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)


def laplacian(image: Tensor, levels: int) -> tuple[list[Tensor], Tensor]:
    """Return the bands B_l = G_l - up(G_{l+1}), finest first, and G_levels, where G_{l+1} halves G_l (Burt and Adelson 1983)."""
    bands = []
    for _ in range(levels):
        low = halved(image)
        bands.append(image - enlarged(low, image.shape[2:]))
        image = low
    return bands, image


def collapsed(bands: list[Tensor], low: Tensor) -> Tensor:
    """Return the image of bands and low pass of ``laplacian``."""
    for band in reversed(bands):
        low = band + enlarged(low, band.shape[2:])
    return low


def filled(image: Tensor, weight: Tensor) -> Tensor:
    """Return images whose pixels of little weight are filled from their surroundings, coarser the farther those are.

    The pull-push pyramid (Gortler et al. 1996): going down, weighted means; going up, x_l = w_l x_l + (1 - w_l) up(x_{l+1}).

    Args:
        image: [N, C, H, W].
        weight: [N, 1, H, W] in 0..1.
    """
    pairs = [(image, weight)]
    while max(pairs[-1][0].shape[2:]) > 1:
        values, weights = pairs[-1]
        mass = halved(weights)
        pairs.append((halved(values * weights) / mass.clamp_min(LEAST_WEIGHT), (2.0 * mass).clamp(max=1.0)))
    found = pairs[-1][0]
    for values, weights in reversed(pairs[:-1]):
        around = enlarged(found, values.shape[2:])
        found = around + weights * (values - around)
    return found
