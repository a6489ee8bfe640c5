"""How far the deformation of a portrait moved its landmarks, by the linear map that a training found."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows and columns of the map: 68 points and a constant, to 68 points.
SHAPE = (137, 136)


def moves_of(points: Tensor, shape: Tensor) -> Tensor:
    """Return how far a deformation moved landmarks [N, 68, 2], by the map [137, 136] of ``training.exemplar_shape``."""
    flat = points.flatten(1)
    return (torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1) @ shape.to(flat)).unflatten(1, (68, 2))
