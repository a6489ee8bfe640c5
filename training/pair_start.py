"""What a pair says before any training: where the drawing moves the face, and what it adds to its features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.sampling_grids import pixel_lattice
from models.spatial_transformer import resting_points, sample
from models.spline import reading_offsets
from models.stylegan2 import Generator
from training.guide import LandmarkGuide
from training.inversion import Progress, ResidualSettings, invert

# As photos are inverted when they are restyled.
RATE, DECAY, BETA2 = 4.5e-2, 0.4, 0.99


class PairStart(NamedTuple):
    """The pair in the generator.

    Attributes:
        unwarped: the drawing brought to the real face's shape, [1, 3, S, S]; the drawing itself without a guide.
        residual: of the real face, [1, C, R, R].
        look: what the drawing adds to its features, [1, C, R, R].
    """

    unwarped: Tensor
    residual: Tensor
    look: Tensor


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


def invert_with_look(
    source: Tensor, target: Tensor, generator: Generator, *, w_init: Tensor, objective: nn.Module, guide: LandmarkGuide | None,
    side: int, first_row: int, steps: tuple[int, int], progress: Progress | None = None,
) -> tuple[Tensor, PairStart]:
    """Invert the real face, then the drawing brought to its shape in the same coarse rows.

    The drawing takes rows from ``first_row`` on and a residual of its own; the difference of the two residuals is the look.

    Args:
        source, target: references [1, 3, S, S].
        generator: the base.
        w_init: start [1 or 2, L, D] of both.
        objective: see ``losses.InversionLoss``.
        guide: knows the landmarks of both; None, or one that is not sure, leaves the drawing's shape as it is.
        side: of the residuals in px.
        first_row: first row that the drawing has of its own.
        steps: of the real face and of the drawing.
        progress: called with the number of steps done and the loss.

    Returns:
        w_plus [2, L, D] of both, and what the tuner starts from.
    """
    settings = ResidualSettings(side)
    schedule = {"objective": objective, "lr": RATE, "decay": DECAY, "beta2": BETA2, "residual": settings}
    face = invert(source, generator, w_init=w_init[:1], steps=steps[0], progress=progress, **schedule)
    sure = guide is not None and guide.is_sure
    unwarped = carried(target, guide.points[1:], guide.points[:1]).clamp(-1.0, 1.0) if sure else target
    start = torch.cat([face.w_plus[:, :first_row], w_init[-1:, first_row:]], dim=1)
    after = None if progress is None else lambda step, loss: progress(steps[0] + step, loss)
    drawn = invert(unwarped, generator, w_init=start, steps=steps[1], residual_init=face.residual, first_row=first_row,
                   progress=after, **schedule)
    return torch.cat([face.w_plus, drawn.w_plus]), PairStart(unwarped, face.residual, drawn.residual - face.residual)
