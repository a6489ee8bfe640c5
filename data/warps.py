"""Known caricature deformations: landmark displacements turned into dense thin-plate-spline warps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor

RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)
RIGHT_BROW, LEFT_BROW = slice(17, 22), slice(22, 27)
JAW, NOSE, MOUTH = slice(0, 17), slice(27, 36), slice(48, 68)


@dataclass(frozen=True)
class Caricature:
    """Factors of an exaggeration; 1 leaves the part as it is.

    Attributes:
        eyes: size of each eye about its centre.
        jaw: width of the lower jaw about the face's axis.
        mouth: width of the mouth.
        nose: width of the nose.
        length: height of the face below the eyes.
        lift: share of what the face gains in length that goes upwards, so that a long chin stays in the picture.
    """

    eyes: float = 1.0
    jaw: float = 1.0
    mouth: float = 1.0
    nose: float = 1.0
    length: float = 1.0
    lift: float = 0.0

    def scaled(self, strength: float) -> Caricature:
        """Return the exaggeration with every factor f as f ** strength: 0 leaves the face, 2 is twice as strong."""
        factors = {name: getattr(self, name) ** strength for name in ("eyes", "jaw", "mouth", "nose", "length")}
        return Caricature(**factors, lift=self.lift)

    def displace(self, points: np.ndarray) -> np.ndarray:
        """Return the exaggerated positions of 68 landmarks [68, 2] (x, y)."""
        moved = points.astype(np.float64).copy()
        eyes = (points[RIGHT_EYE].mean(axis=0) + points[LEFT_EYE].mean(axis=0)) / 2.0
        centre_x = (eyes[0] + points[8, 0]) / 2.0
        for eye, brow in ((RIGHT_EYE, RIGHT_BROW), (LEFT_EYE, LEFT_BROW)):
            middle = points[eye].mean(axis=0)
            moved[eye] = middle + (points[eye] - middle) * self.eyes
            top = points[eye, 1].min() - moved[eye, 1].min()
            moved[brow, 1] -= 0.6 * top
        # The jaw narrows fully at the chin and not at all at the temples.
        depth = np.clip((points[JAW, 1] - eyes[1]) / (points[8, 1] - eyes[1] + 1e-6), 0.0, 1.0)
        moved[JAW, 0] = centre_x + (points[JAW, 0] - centre_x) * (1.0 + (self.jaw - 1.0) * depth**0.5)
        for part, factor in ((MOUTH, self.mouth), (slice(31, 36), self.nose)):
            middle_x = points[part, 0].mean()
            moved[part, 0] = middle_x + (points[part, 0] - middle_x) * factor
        below = moved[:, 1] > eyes[1]
        moved[below, 1] = eyes[1] + (moved[below, 1] - eyes[1]) * self.length
        moved[:, 1] -= self.lift * (self.length - 1.0) * (points[8, 1] - eyes[1])
        return moved


def backward_grid(source: np.ndarray, target: np.ndarray, size: int, *, smoothing: float = 1e-4) -> Tensor:
    """Return the sampling grid [1, size, size, 2] that carries ``source`` points to ``target``.

    A thin-plate spline through the displacements target -> source, with the image border held still.

    Args:
        source, target: [K, 2] as fractions of the side, (x, y).
        size: side of the grid in px.
        smoothing: regularisation of the spline.
    """
    edge = np.linspace(0.0, 1.0, 9)
    border = np.unique(np.concatenate([
        np.stack([edge, np.zeros(9)], 1), np.stack([edge, np.ones(9)], 1),
        np.stack([np.zeros(9), edge], 1), np.stack([np.ones(9), edge], 1)]), axis=0)
    knots = np.concatenate([target, border])
    offsets = np.concatenate([source - target, np.zeros_like(border)])
    spline = RBFInterpolator(knots, offsets, kernel="thin_plate_spline", smoothing=smoothing)
    centres = (np.arange(size) + 0.5) / size
    lattice = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)  # [S, S, 2] -> [S*S, 2], (x, y)
    where = (lattice + spline(lattice)).reshape(1, size, size, 2)
    return torch.from_numpy(where * 2.0 - 1.0).float()


def least_area(grid: Tensor) -> float:
    """Return the least Jacobian determinant of a sampling grid [1, S, S, 2]; at 0 or less the picture folds."""
    grid, size = grid.double(), grid.shape[1]
    across, down = (grid[:, :-1].diff(dim=2) * size / 2.0, grid[:, :, :-1].diff(dim=1) * size / 2.0)  # both [1, S-1, S-1, 2]
    return float((across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]).min())
