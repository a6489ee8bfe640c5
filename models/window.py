"""Means in a Gaussian window, as products with a matrix where that is faster."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Side in px up to which windows are products with a matrix on CPUs.
MOST_BY_MATRIX = 512


def window_mean(x: Tensor, sigma: float) -> Tensor:
    """Return the mean of maps [N, C, H, W] in a Gaussian window of ``sigma`` px; beyond the frame they go on as at it."""
    channels, (height, width) = x.shape[1], (int(side) for side in x.shape[2:])
    if x.device.type == "cpu" and max(height, width) <= MOST_BY_MATRIX:
        # Convolutions by channel are slow there: as products it takes a sixth of the time.
        kind = "float64" if x.dtype == torch.float64 else "float32"
        down, across = (torch.from_numpy(_window_matrix(side, sigma, kind)).to(x.dtype) for side in (height, width))
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            rows = down @ x.permute(0, 2, 3, 1).flatten(2)  # [N, C, H, W] -> [N, H, W C]
            return (across @ rows.reshape(len(x), height, width, channels)).permute(0, 3, 1, 2)
        return down @ x @ across.t()
    reach = int(3 * sigma + 1)
    ticks = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-ticks.square() / (2.0 * sigma * sigma))
    weights = weights / weights.sum()
    x = F.pad(x, (reach,) * 4, mode="replicate")
    for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
        kernel = weights.reshape(shape)
        x = F.conv2d(x, kernel.expand(channels, 1, *kernel.shape[2:]), groups=channels)
    return x


@lru_cache(maxsize=64)
def _window_matrix(side: int, sigma: float, kind: str) -> np.ndarray:
    """Return the matrix [side, side] by which a row of pixels becomes its ``window_mean``."""
    reach = int(3 * sigma + 1)
    ticks = np.arange(-reach, reach + 1)
    weights = np.exp(-ticks**2 / (2.0 * sigma * sigma))
    matrix = np.zeros((side, side))
    for row in range(side):
        np.add.at(matrix[row], (row + ticks).clip(0, side - 1), weights / weights.sum())
    return matrix.astype(kind)
