"""Deformation by region of the face: a strength of its own for brows, eyes, nose, mouth, jaw and the rest."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from data.landmarks68 import REGIONS as LANDMARKS

if TYPE_CHECKING:
    from torch import Tensor

    from models.spatial_config import SpatialTransformerConfig

REGIONS = (*LANDMARKS, "rest")
# Width of the blending between regions and reach of a region, as fractions of the FFHQ crop's side.
BLEND = 0.04
REACH = 0.11


@dataclass(frozen=True)
class RegionAlpha:
    """A deformation degree per region, as pairs (region, degree); regions without one take ``default``."""

    default: float = 1.0
    degrees: tuple[tuple[str, float], ...] = field(default=())

    def __post_init__(self) -> None:
        names = [name for name, _ in self.degrees]
        unknown = [name for name in names if name not in REGIONS]
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"regions must be different ones of {REGIONS}, got {names}")
        if not all(math.isfinite(value) for value in (self.default, *(value for _, value in self.degrees))):
            raise ValueError(f"degrees must be finite, got {self}")

    def degree(self, region: str) -> float:
        """Return the degree of one region."""
        return dict(self.degrees).get(region, self.default)

    def __str__(self) -> str:
        return ",".join([f"{self.default:g}", *(f"{name}={value:g}" for name, value in self.degrees)])


def parse_alpha(text: str) -> float | RegionAlpha:
    """Parse a deformation degree: a number, or ``eyes=1.2,mouth=0.4``, with the other regions' degree as a bare number.

    Regions that are not named, without a bare number, keep 1, what was learned.

    Raises:
        argparse.ArgumentTypeError: with one line on what is wrong.
    """
    default, degrees = None, []
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (equals and name.strip() not in REGIONS) or (not equals and default is not None):
            raise argparse.ArgumentTypeError(
                f"expected a number, or REGION=NUMBER,... with regions {', '.join(REGIONS)}, got {text!r}")
        if equals:
            degrees.append((name.strip(), value))
        else:
            default = value
    if len({name for name, _ in degrees}) != len(degrees):
        raise argparse.ArgumentTypeError(f"names a region twice: {text!r}")
    if not degrees:
        return default
    return RegionAlpha(1.0 if default is None else default, tuple(degrees))


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
    alpha: float | RegionAlpha, landmarks: np.ndarray, config: SpatialTransformerConfig
) -> float | Tensor:
    """Turn a degree into what ``DeformableGenerator.synthesis`` takes as alpha.

    Args:
        alpha: one degree, returned as it is, or degrees by region.
        landmarks: [N, 68, 2] as fractions of the aligned face's side.
        config: of the spatial transformers.

    Returns:
        The number, or a tensor [N, grid_size^2] with a strength per control point.
    """
    if not isinstance(alpha, RegionAlpha):
        return alpha
    import torch

    from models.spatial_transformer import resting_points

    points = resting_points(config.grid_size, config.extent).numpy() * 0.5 + 0.5
    degrees = np.array([alpha.degree(name) for name in REGIONS])
    rows = [region_weights(points, face) @ degrees for face in np.asarray(landmarks, np.float64)]
    return torch.from_numpy(np.stack(rows)).float()
