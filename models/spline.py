"""Thin-plate splines through scattered places: what a displacement of landmarks does everywhere else."""

from __future__ import annotations

import torch
from torch import Tensor

from models.spatial_transformer import radial_basis

# Regularisation that lets landmarks close to each other disagree a little, where an exact spline would fold.
SMOOTHING = 1e-3
FRAME_POINTS = 9
# Places that are evaluated at once, so that their distances to all knots stay in the processor's cache.
AT_ONCE = 256


def frame_points(count: int = FRAME_POINTS) -> Tensor:
    """Return ``count`` places along each edge of the unit square, [4 count - 4, 2], float64."""
    ticks = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
    zero, one = torch.zeros_like(ticks), torch.ones_like(ticks)
    edges = [torch.stack(pair, dim=1) for pair in ((ticks, zero), (ticks, one), (zero, ticks), (one, ticks))]
    return torch.unique(torch.cat(edges), dim=0)


def spline_values(knots: Tensor, values: Tensor, places: Tensor, *, smoothing: float | Tensor = SMOOTHING) -> Tensor:
    """Evaluate the smoothing thin-plate spline through ``values`` at ``knots`` (Wahba 1990) at other places.

    (K + diag(smoothing)) c + P a = v, P^T c = 0, with K the kernel of ``radial_basis`` and P = [1, x, y].

    Args:
        knots: [N, K, 2].
        values: [N, K, D].
        places: [P, 2] or [N, P, 2].
        smoothing: one number, or [K]; a knot with 0 is met exactly.

    Returns:
        [N, P, D], float64.
    """
    knots, values = knots.double(), values.double()
    places = places.double().expand(len(knots), -1, -1)
    count = knots.shape[1]
    stiffness = torch.as_tensor(smoothing, dtype=torch.float64).expand(count)
    rows = []
    for own, value, where in zip(knots, values, places, strict=True):
        system = own.new_zeros(count + 3, count + 3)
        system[:count, :count] = radial_basis(own, own) + torch.diag(stiffness)
        system[:count, count] = system[count, :count] = 1.0
        system[:count, count + 1:], system[count + 1:, :count] = own, own.T
        right = torch.cat([value, value.new_zeros(3, value.shape[1])])
        solved = torch.linalg.solve(system, right)
        rows.append(torch.cat([radial_basis(some, own) @ solved[:count] + solved[count] + some @ solved[count + 1:]
                               for some in where.split(AT_ONCE)]))
    return torch.stack(rows)


def reading_offsets(points: Tensor, moved: Tensor, places: Tensor, *, smoothing: float = SMOOTHING) -> Tensor:
    """Return how far from each place to read so that what lies at ``points`` appears at ``moved``; the frame stays.

    Args:
        points, moved: [N, K, 2] as fractions of the side.
        places: [P, 2] or [N, P, 2], likewise.

    Returns:
        [N, P, 2] in fractions of the side, float64.

    Raises:
        ValueError: for shapes that do not fit.
    """
    if points.shape != moved.shape or points.ndim != 3 or points.shape[2] != 2:
        raise ValueError(f"expected points and moved [N, K, 2], got {list(points.shape)} and {list(moved.shape)}")
    points, moved = points.detach().cpu().double(), moved.detach().cpu().double()
    frame = frame_points().expand(len(points), -1, -1)
    knots, shifts = torch.cat([moved, frame], dim=1), torch.cat([points - moved, torch.zeros_like(frame)], dim=1)
    return spline_values(knots, shifts, places, smoothing=smoothing)
