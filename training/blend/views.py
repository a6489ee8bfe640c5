"""Views of a picture that change what it shows but not its style: crops, mirroring, turns and smooth warps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ViewConfig:
    """How far views go.

    Attributes:
        size: side of the views in px.
        least_crop: least side of a crop as a fraction of the picture's; the most is the whole.
        turn: largest rotation in degrees.
        warp: standard deviation of the warp as a fraction of the side.
        knots: side of the lattice whose displacements the warp interpolates.
    """

    size: int = 128
    least_crop: float = 0.5
    turn: float = 15.0
    warp: float = 0.03
    knots: int = 4


def style_view(image: Tensor, config: ViewConfig, *, generator: torch.Generator) -> Tensor:
    """Return one random view of every picture.

    Sampled at g = R(angle) diag(+-s, s) p + c + d(p): a crop of side s about c, mirrored half of the time, turned by an
    angle, under a bicubic displacement d of normal numbers; what lies outside is mirrored in.

    Args:
        image: [N, 3, H, W] in [-1, 1].
        config: how far to go.
        generator: random numbers, on the CPU so that a seed means one run on every device.

    Returns:
        [N, 3, size, size] in [-1, 1].
    """
    count = len(image)
    side = config.least_crop + (1.0 - config.least_crop) * torch.rand(count, generator=generator)
    centre = (1.0 - side)[:, None] * (2.0 * torch.rand(count, 2, generator=generator) - 1.0)  # [N, 2], -1 to 1
    angle = math.radians(config.turn) * (2.0 * torch.rand(count, generator=generator) - 1.0)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    across = torch.stack([side * angle.cos() * mirror, -side * angle.sin(), centre[:, 0]], dim=1)
    down = torch.stack([side * angle.sin() * mirror, side * angle.cos(), centre[:, 1]], dim=1)
    theta = torch.stack([across, down], dim=1).to(image)  # [N, 2, 3]
    grid = F.affine_grid(theta, [count, 3, config.size, config.size], align_corners=False)
    # A fraction of the side is twice as much in the grid's units of half a side.
    knots = 2.0 * config.warp * torch.randn(count, 2, config.knots, config.knots, generator=generator)
    warp = F.interpolate(knots.to(image), size=(config.size, config.size), mode="bicubic", align_corners=False)
    return F.grid_sample(image, grid + warp.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)
