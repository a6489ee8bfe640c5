"""Numbers by region of the face turned into a strength per place: brows, eyes, nose, mouth, jaw and the rest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data.landmarks68 import REGIONS as LANDMARKS
from models.spatial_config import SpatialTransformerConfig
from models.spatial_transformer import resting_points
from styles.controls import REGIONS, ByRegion

# Width of the blending between regions and reach of a region, as fractions of the FFHQ crop's side.
BLEND = 0.04
REACH = 0.11


def region_weights(points: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Return how much of every region a place belongs to: exp(-d^2 / (2 b^2)) over distances d, normalised.

    ``rest`` counts as a region at the distance ``REACH`` everywhere.

    Args:
        points: [K, 2], fractions of the crop's side.
        landmarks: [68, 2], likewise.

    Returns:
        [K, 6] in the order of ``REGIONS``; rows sum to 1.
    """
    distances = [np.linalg.norm(points[:, None] - landmarks[None, part], axis=2).min(axis=1)
                 for part in LANDMARKS.values()]
    distances.append(np.full(len(points), REACH))
    exponents = -0.5 * (np.stack(distances, axis=1) / BLEND) ** 2
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def point_strengths(
    alpha: float | ByRegion, landmarks: np.ndarray, config: SpatialTransformerConfig
) -> float | Tensor:
    """Turn a degree into what ``DeformableGenerator.synthesis`` takes as alpha.

    Args:
        alpha: one degree, returned as it is, or degrees by region.
        landmarks: [N, 68, 2] as fractions of the aligned face's side.
        config: of the spatial transformers.

    Returns:
        The number, or a tensor [N, grid_size^2] with a strength per control point.
    """
    if not isinstance(alpha, ByRegion):
        return alpha
    points = resting_points(config.grid_size, config.extent).numpy() * 0.5 + 0.5
    degrees = np.array([alpha.degree(name) for name in REGIONS])
    rows = [region_weights(points, face) @ degrees for face in np.asarray(landmarks, np.float64)]
    return torch.from_numpy(np.stack(rows)).float()
