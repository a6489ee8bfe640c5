"""Sampling grids [N, S, S, 2] of (x, y) in [-1, 1]: where each output pixel reads its input, with ``align_corners=False``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Guarded warps keep at least this share of every cell's area.
LEAST_DETERMINANT = 0.1


def pixel_lattice(size: int, *, mode: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the (x, y) of every pixel, rows first: [size^2, 2].

    `published`: 2 i / (size - 1) - 1, the corners of the image are -1 and 1; `exact`: (2 i + 1) / size - 1, pixel centres.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return _lattice(size, mode, dtype)
    return _kept_lattice(size, mode, dtype)


def _lattice(size: int, mode: str, dtype: torch.dtype) -> Tensor:
    steps = torch.arange(size, dtype=dtype, device="cpu")
    ticks = steps * 2 / (size - 1) - 1 if mode == "published" else (2 * steps + 1) / size - 1
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x.reshape(-1), y.reshape(-1)], dim=1)  # [size, size] x 2 -> [size^2, 2]


@lru_cache(maxsize=32)
def _kept_lattice(size: int, mode: str, dtype: torch.dtype) -> Tensor:
    # Small ones are asked for many times a face.
    return _lattice(size, mode, dtype)


def unfolded(grid: Tensor, *, least: float = LEAST_DETERMINANT) -> Tensor:
    """Return a sampling grid [N, S, S, 2] that folds nowhere: its displacement scaled down as far as that needs.

    With g = rest + s d, the determinant of the Jacobian in a corner of a cell is 1 + s (a + d') + s^2 (a d' - b c), with
    (a, b; c, d') the differences of d in units of the cell. s in (0, 1], one per sample, is the largest that keeps all of
    them at ``least`` or above; where that is 1 the grid comes back as it is, to the bit.
    """
    size, cell = grid.shape[1], 2.0 / grid.shape[1]
    rest = pixel_lattice(size, mode="exact", dtype=grid.dtype).to(grid.device).reshape(1, size, size, 2)
    offsets = grid - rest
    with torch.no_grad():
        across = (offsets[:, :, 1:] - offsets[:, :, :-1]) / cell  # [N, S, S-1, 2]
        down = (offsets[:, 1:] - offsets[:, :-1]) / cell  # [N, S-1, S, 2]
        # Corners of a cell have one of its two differences across and one of those down, [2, 2, N, S-1, S-1].
        across, down = torch.stack([across[:, :-1], across[:, 1:]])[:, None], torch.stack([down[:, :, :-1], down[:, :, 1:]])
        trace = across[..., 0] + down[..., 1]
        determinant = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
        # The smallest positive root of 1 - least + s trace + s^2 determinant.
        inside = trace.square() - 4.0 * (1.0 - least) * determinant
        divisor = inside.clamp_min(0.0).sqrt() - trace
        is_root = (inside >= 0.0) & (divisor > 1e-12)
        root = torch.where(is_root, 2.0 * (1.0 - least) / divisor.clamp_min(1e-12), 1.0)
        smallest = root.amin(dim=(0, 1, 3, 4)).clamp(max=1.0)
    scale = smallest[:, None, None, None]
    return torch.where(scale < 1.0, rest + scale * offsets, grid)


def halved(grid: Tensor) -> Tensor:
    """Return a sampling grid [N, S, S, 2] at half its side: means of 2 x 2 places, which lie in the larger pixels' centres."""
    return F.avg_pool2d(grid.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)  # [N, S, S, 2] -> [N, S/2, S/2, 2]


def composed(grids: Sequence[Tensor], size: int) -> Tensor:
    """Return the one sampling grid [N, size, size, 2] that reads what sampling by each of several, in turn, reads."""
    first, *others = (enlarged(grid, size) for grid in grids)
    for grid in others:
        first = F.grid_sample(first.permute(0, 3, 1, 2), grid, mode="bilinear", padding_mode="border",
                              align_corners=False).permute(0, 2, 3, 1)
    return first


def moved_places(places: Tensor, grid: Tensor, *, steps: int = 6) -> Tensor:
    """Return where sampling by a grid [N, S, S, 2] puts what lies at ``places`` [N, K, 2], fractions of the side.

    The place y that reads x, y + d(y) = x with the displacement d, is found by iterating y = x - d(y), which converges where the
    displacement changes by less than a pixel per pixel.
    """
    size = grid.shape[1]
    rest = pixel_lattice(size, mode="exact").to(grid).reshape(1, size, size, 2)
    offsets = (grid - rest).permute(0, 3, 1, 2)  # [N, S, S, 2] -> [N, 2, S, S]
    wanted = moved = 2.0 * places.to(grid) - 1.0
    for _ in range(steps):
        read = F.grid_sample(offsets, moved[:, :, None], mode="bilinear", padding_mode="border", align_corners=False)
        moved = wanted - read[..., 0].transpose(1, 2)
    return moved / 2.0 + 0.5


def enlarged(grid: Tensor, size: int) -> Tensor:
    """Return a sampling grid [N, S, S, 2] at ``size`` px, [N, size, size, 2]: its displacement, interpolated."""
    def rest(side: int) -> Tensor:
        return pixel_lattice(side, mode="exact", dtype=grid.dtype).to(grid.device).reshape(1, side, side, 2)

    offsets = (grid - rest(grid.shape[1])).permute(0, 3, 1, 2)  # [N, S, S, 2] -> [N, 2, S, S]
    offsets = F.interpolate(offsets, size=(size, size), mode="bilinear", align_corners=False)
    return rest(size) + offsets.permute(0, 2, 3, 1)
