"""Where the landmarks of a pair carry everything else, and the control points of a spline."""

from __future__ import annotations

import torch
from torch import Tensor

from models.sampling_grids import pixel_lattice
from models.spatial_transformer import resting_points, sample
from models.spline import reading_offsets


def carrying_grid(points: Tensor, moved: Tensor, size: int) -> Tensor:
    """Return the sampling grid [N, size, size, 2] that carries what lies at ``points`` [N, K, 2] to ``moved``."""
    places = pixel_lattice(size, mode="exact", dtype=torch.float64) / 2.0 + 0.5
    return ((places + reading_offsets(points, moved, places)) * 2.0 - 1.0).reshape(-1, size, size, 2)


def carried(image: Tensor, points: Tensor, moved: Tensor) -> Tensor:
    """Return maps [1, C, S, S] with what lies at ``points`` [1, K, 2] carried to ``moved``."""
    grid = carrying_grid(points, moved, image.shape[3]).to(image)
    return sample(image, grid, mode="exact").contiguous()


def control_goals(points: Tensor, moved: Tensor, *, grid_size: int, extent: float = 0.95) -> Tensor:
    """Return control points [N, grid_size^2, 2] of the spline that carries ``points`` [N, K, 2] to ``moved``."""
    rest = resting_points(grid_size, extent)
    return rest + 2.0 * reading_offsets(points, moved, rest / 2.0 + 0.5).float()
