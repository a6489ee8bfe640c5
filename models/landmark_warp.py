"""Moving a face by its landmarks: a smoothing thin-plate spline through them, and masks of parts of the face."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from models.sampling_grids import pixel_lattice
from models.spline import spline_values

# Points along each border of the picture that stay where they are.
BORDER_POINTS = 5
BORDER_STIFFNESS = 1e-4


def border_points(count: int = BORDER_POINTS) -> Tensor:
    """Return evenly spaced points [4 (count - 1), 2] on the border of the square [-1, 1]."""
    ticks = torch.linspace(-1.0, 1.0, count, dtype=torch.float64)
    lattice = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), dim=2).reshape(-1, 2)  # [c, c, 2] -> [c^2, 2]
    return lattice[lattice.abs().amax(dim=1) == 1.0]


def landmark_grid(source: Tensor, target: Tensor, size: int, *, smoothing: Tensor) -> Tensor:
    """Return the sampling grid that carries points of a picture to other places.

    The smoothing thin-plate spline f of the targets that minimises sum_k |f(t_k) - s_k|^2 / m_k + bending energy, which
    solves [[K + diag(m), P], [P^T, 0]] c = [s - t, 0] with K_jk = U(|t_j - t_k|) (Bookstein 1989; Wahba 1990). The border
    of the picture stays. Computed in float64: the matrix is badly conditioned where lips meet.

    Args:
        source: [K, 2] where the points are, (x, y) as fractions of the side.
        target: [K, 2] where they shall be.
        size: side of the grid in px.
        smoothing: m [K]; 0 moves a point exactly, larger numbers let it give way.

    Returns:
        [1, size, size, 2], coordinates in [-1, 1] for ``align_corners=False``.

    Raises:
        ValueError: for other shapes, or numbers that are not finite.
    """
    if source.ndim != 2 or source.shape[1] != 2 or target.shape != source.shape or smoothing.shape != source.shape[:1]:
        raise ValueError(f"expected two [K, 2] and smoothing [K], got {list(source.shape)}, {list(target.shape)} and "
                         f"{list(smoothing.shape)}")
    if not bool(torch.isfinite(source).all() and torch.isfinite(target).all()):
        raise ValueError("landmarks must be finite")
    border = border_points()
    before, after = (torch.cat([points.detach().cpu().double() * 2.0 - 1.0, border]) for points in (source, target))
    stiffness = torch.cat([smoothing.detach().cpu().double(), border.new_full((len(border),), BORDER_STIFFNESS)])
    lattice = pixel_lattice(size, mode="exact", dtype=torch.float64)
    grid = lattice + spline_values(after[None], (before - after)[None], lattice, smoothing=stiffness)[0]  # [size^2, 2]
    return grid.to(source.device, torch.float32).reshape(1, size, size, 2)


def sample_image(image: Tensor, grid: Tensor) -> Tensor:
    """Sample images [N, C, H, W] bicubically at a grid [N, h, w, 2], mirrored at the border."""
    return F.grid_sample(image, grid.to(image), mode="bicubic", padding_mode="reflection", align_corners=False)


def polygon_mask(points: Tensor, size: int, *, grow: int = 0, fine: int = 4) -> Tensor:
    """Return the share of each pixel that lies in a polygon.

    Args:
        points: corners [K, 2] as fractions of the side.
        size: side of the mask in px.
        grow: px by which the polygon grows on all sides.
        fine: subdivisions of a pixel along each side.

    Returns:
        [1, 1, size, size] in [0, 1].
    """
    canvas = Image.new("L", (size * fine, size * fine))
    ImageDraw.Draw(canvas).polygon([(x * size * fine, y * size * fine) for x, y in points.tolist()], fill=255)
    mask = F.avg_pool2d(torch.from_numpy(np.array(canvas, np.float32))[None, None] / 255.0, fine)
    return F.max_pool2d(mask, 2 * grow + 1, 1, grow) if grow else mask


def softened(mask: Tensor) -> Tensor:
    """Blur a mask [N, 1, H, W] by the binomial filter [1, 4, 6, 4, 1] in both directions."""
    taps = mask.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    padded = F.pad(mask, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, 5)), taps.view(1, 1, 5, 1))
