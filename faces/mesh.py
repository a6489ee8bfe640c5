"""The mesh of a face, and the 68 landmarks that follow from it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from faces.nets import MESH, net


def read_mesh(image: Image.Image, centre: np.ndarray, side: float, roll: float) -> tuple[np.ndarray, float]:
    """Return the mesh [468, 3] in px of the photo and its score 0..1.

    Args:
        image: RGB photo.
        centre: (x, y) of the square to look at, in px of the photo.
        side: its side in px.
        roll: degrees by which it is turned clockwise.
    """
    size = net(MESH).side
    angle, scale = math.radians(roll), side / size
    across, down = np.array([math.cos(angle), math.sin(angle)]) * scale, np.array([-math.sin(angle), math.cos(angle)]) * scale
    corner = np.asarray(centre, dtype=np.float64) - (across + down) * size / 2.0
    pixels = cut(image, corner, across, down, size)
    points, score = net(MESH)(np.asarray(pixels, np.float32)[None] / 255.0)
    points = points.reshape(468, 3).astype(np.float64)
    flat = corner + points[:, :1] * across + points[:, 1:2] * down
    return np.concatenate([flat, points[:, 2:] * scale], axis=1), float(1.0 / (1.0 + np.exp(-score.item())))


def cut(image: Image.Image, corner: np.ndarray, across: np.ndarray, down: np.ndarray, size: int) -> Image.Image:
    """Return a square of ``size`` px cut out of a photo from ``corner`` on, a pixel being ``across`` and ``down`` of it.

    Photos much finer than the result are reduced first, so that nothing aliases.
    """
    reach = np.stack([corner, corner + across * size, corner + down * size, corner + (across + down) * size])
    low = np.clip(np.floor(reach.min(axis=0)) - 2, 0, image.size).astype(int)
    high = np.clip(np.ceil(reach.max(axis=0)) + 2, 0, image.size).astype(int)
    if (high <= low).any():
        return Image.new("RGB", (size, size))
    factor = max(1, int(np.hypot(*across)))
    part, corner = image.crop((*low, *high)), corner - low
    if factor > 1:
        part, corner, across, down = part.reduce(factor), corner / factor, across / factor, down / factor
    coefficients = (across[0], down[0], corner[0], across[1], down[1], corner[1])
    return part.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def landmarks_of(mesh: np.ndarray) -> np.ndarray:
    """Return the 68 landmarks [68, 2] of dlib's order that a mesh [468, 3] says, in its unit."""
    return mesh[NEAREST, :2]


# The vertex nearest to each of the 68 points.
NEAREST = np.array([
    127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87])
