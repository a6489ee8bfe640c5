"""Smoothness of sampling grids, so that the learned deformation does not fold or tear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def _check(grid: Tensor) -> None:
    if grid.ndim != 4 or grid.shape[3] != 2 or min(grid.shape[1:3]) < 2:
        raise ValueError(f"expected a grid [N, H, W, 2] with H, W >= 2, got {list(grid.shape)}")


def published_warp_loss(grids: Sequence[Tensor]) -> Tensor:
    """Warp smoothness as the published code computes it, summed over everything.

    The published code slices a grid [N, H, W, 2] as if it were [N, 2, H, W]: a = g[:, :, :-1, :-1],
    b = g[:, :, :-1, 1:], c = g[:, :, 1:, :-1] cut the width and the coordinate axis, and the cosine runs over the
    height. L = sum(1 - cos(a, b)) + sum(1 - cos(a, c)). So the first term compares the x and the y coordinate, which
    no deformation can bring together; it is a large constant (about 18 per sample and 32 px grid) plus a small pull,
    and the second compares whole columns of x. Released styles were trained with it at weight 1e-6, where it barely
    acts. `warp_smoothness` is what the formula in the paper says.

    Args:
        grids: sampling grids [N, H, W, 2], any number and sizes.

    Returns:
        Scalar >= 0, a sum that grows with batch and resolution.

    Raises:
        ValueError: for a wrong shape or no grids.
    """
    if not grids:
        raise ValueError("expected at least one grid, got none")
    total = grids[0].new_zeros(())
    for grid in grids:
        _check(grid)
        here, across, along = grid[:, :, :-1, :-1], grid[:, :, :-1, 1:], grid[:, :, 1:, :-1]  # [N, H, W - 1, 1]
        total = total + (1 - F.cosine_similarity(here, across, dim=1)).sum()
        total = total + (1 - F.cosine_similarity(here, along, dim=1)).sum()
    return total


def identity_grid(grid: Tensor) -> Tensor:
    """Return the pixel centres [1, H, W, 2] of a grid's shape: sampling there with align_corners=False changes nothing."""
    height, width = grid.shape[1:3]
    x = (2 * torch.arange(width, dtype=grid.dtype, device=grid.device) + 1) / width - 1
    y = (2 * torch.arange(height, dtype=grid.dtype, device=grid.device) + 1) / height - 1
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=2)[None]  # [H, W] x 2 -> [1, H, W, 2]


def warp_smoothness(grids: Sequence[Tensor]) -> Tensor:
    """Mean squared change of the displacement between neighbouring pixels, in feature pixels.

    d = (grid - identity) (W, H) / 2, L = mean |d(x+1, y) - d(x, y)|^2 + mean |d(x, y+1) - d(x, y)|^2, averaged over
    the grids: a first-order smoothness term. Unlike `published_warp_loss` it compares neighbours in space, vanishes
    for every translation, and neither batch nor resolution changes its scale: stretching by 1% costs 1e-4 per axis.
    It is far smaller than the published sum, so a weight is of the order of 1 to 100 rather than 1e-6.

    Args:
        grids: sampling grids [N, H, W, 2], any number and sizes.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: for a wrong shape or no grids.
    """
    if not grids:
        raise ValueError("expected at least one grid, got none")
    terms = []
    for grid in grids:
        _check(grid)
        pixels = grid.new_tensor([grid.shape[2] / 2, grid.shape[1] / 2])
        displacement = (grid - identity_grid(grid)) * pixels  # [N, H, W, 2]
        across = displacement[:, :, 1:] - displacement[:, :, :-1]
        down = displacement[:, 1:] - displacement[:, :-1]
        terms.append(across.square().sum(dim=3).mean() + down.square().sum(dim=3).mean())
    return torch.stack(terms).mean()
