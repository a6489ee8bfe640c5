"""The term of fine-tuning that the pair's landmarks supervise."""

from __future__ import annotations

import torch
from torch import Tensor

from models.deformable import DeformableGenerator
from models.face import Face
from models.spatial_transformer import resting_points
from models.spline import reading_offsets
from training.guide import LandmarkGuide


def control_goals(points: Tensor, moved: Tensor, *, grid_size: int, extent: float = 0.95) -> Tensor:
    """Return control points [N, grid_size^2, 2] of the spline that carries ``points`` [N, K, 2] to ``moved``."""
    rest = resting_points(grid_size, extent)
    return rest + 2.0 * reading_offsets(points, moved, rest / 2.0 + 0.5).float()


def control_term(
    deformable: DeformableGenerator, guide: LandmarkGuide, *, images: Tensor, w_plus: Tensor, source: Face,
) -> Tensor:
    """Return how far the first TPS block's control points are from those of the landmarks' spline, a scalar.

    The mean square distance in units of the control points' spacing: over faces that move as the pair's sides have in
    common, and the pair's own face, which moves as it was drawn.

    Args:
        deformable: the style; gradients reach its first TPS block alone.
        guide: of the pair.
        images: undeformed faces [N, 3, S, S].
        w_plus: their latents as the style draws them, [N, L, D].
        source: the pair's real face in the drawing's rows.
    """
    block, side = deformable.tps.stns[0], deformable.config.grid_size
    with torch.no_grad():
        own = guide.points.float()
        points = torch.cat([guide.net(images).points, own[:1]])
        moved = torch.cat([guide.goal(points[:-1]), own[1:]])
        goal = control_goals(points, moved, grid_size=side, extent=deformable.config.extent).to(w_plus)
        features = deformable.features(torch.cat([w_plus, source.w_plus]), noise=deformable.generator.fixed_noise())
    spacing = 2.0 * deformable.config.extent / (side - 1)
    return ((block.loc_net(features) - goal) / spacing).square().sum(dim=2).mean()
