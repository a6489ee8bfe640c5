"""The mesh of a face, and the 68 landmarks that follow from it."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from faces.nets import FOLDER, MESH, net

LANDMARK_FILE = FOLDER / "landmarks68.safetensors"
# Vertices near to the 68 points, from which they are told, and which of them is which in a mirrored face.
VERTICES = np.array([
    0, 2, 4, 5, 13, 14, 17, 33, 37, 39, 58, 61, 63, 66, 70, 75, 78, 82, 84, 87, 93, 97, 105, 107, 127, 132, 133, 136, 144, 150,
    152, 153, 158, 160, 168, 176, 181, 197, 234, 263, 267, 269, 288, 291, 293, 296, 300, 305, 308, 312, 314, 317, 323, 326, 334,
    336, 356, 361, 362, 365, 373, 379, 380, 385, 387, 400, 405, 454])
VERTEX_MIRROR = np.array([
    *range(7), *range(39, 62), 30, *range(62, 64), 64, 34, 65, 66, 37, 67, *range(7, 30), *range(31, 34), 35, 36, 38])
Similarity = tuple[float, float, np.ndarray]


def read_mesh(image: Image.Image, centre: np.ndarray, side: float, roll: float) -> tuple[np.ndarray, float]:
    """Return the mesh [468, 3] in px of the photo and its score 0..1.

    Args:
        image: RGB photo.
        centre: (x, y) of the square to look at, in px of the photo.
        side: its side in px.
        roll: degrees by which it is turned clockwise.
    """
    size = net(MESH).side
    corner, across, down = square(np.asarray(centre) + 0.5, side, roll, size)
    points, score = net(MESH)(np.asarray(cut(image, corner, across, down, size), np.float32)[None] / 255.0)
    points = points.reshape(468, 3).astype(np.float64)
    flat = corner + points[:, :1] * across + points[:, 1:2] * down - 0.5
    return np.concatenate([flat, points[:, 2:] * (side / size)], axis=1), float(1.0 / (1.0 + np.exp(-score.item())))


def square(centre: np.ndarray, side: float, roll: float, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the corner of a turned square of ``size`` pixels, and their steps across and down, in px of the photo."""
    angle, scale = math.radians(roll), side / size
    across, down = np.array([math.cos(angle), math.sin(angle)]) * scale, np.array([-math.sin(angle), math.cos(angle)]) * scale
    return np.asarray(centre, dtype=np.float64) - (across + down) * size / 2.0, across, down


def cut(image: Image.Image, corner: np.ndarray, across: np.ndarray, down: np.ndarray, size: int) -> Image.Image:
    """Return a square of ``size`` px cut out of a photo from ``corner`` on, a pixel being ``across`` and ``down`` of it.

    The corner is in continuous px, pixel i covers i to i + 1.

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
    """Return the 68 landmarks [68, 2] of dlib's order that a mesh [468, 3] says, in its unit; see ``faces.fit``."""
    fitted = _fitted()
    given, (scale, turn, centre) = canonical(mesh[VERTICES], fitted["reference"])
    points = (given.ravel() @ fitted["weight"] + fitted["bias"]).reshape(68, 2)
    size = scale * scale + turn * turn
    return moved(points, scale / size, -turn / size, np.zeros(2)) + centre


def canonical(vertices: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, Similarity]:
    """Return vertices [K, 3] brought to a reference [K, 2] of zero mean by the best similarity, z scaled alike, and that."""
    centre = vertices[:, :2].mean(axis=0)
    x, y = (vertices[:, :2] - centre).T
    size = float((x * x + y * y).sum())
    scale = float((x * reference[:, 0] + y * reference[:, 1]).sum()) / size
    turn = float((x * reference[:, 1] - y * reference[:, 0]).sum()) / size
    depth = vertices[:, 2:] * np.hypot(scale, turn)
    return np.concatenate([moved(vertices[:, :2], scale, turn, centre), depth], axis=1), (scale, turn, centre)


def moved(points: np.ndarray, scale: float, turn: float, centre: np.ndarray) -> np.ndarray:
    """Return points [K, 2], less their centre, times the complex number scale + i turn."""
    x, y = (points - centre).T
    return np.stack([scale * x - turn * y, turn * x + scale * y], axis=1)


@lru_cache(maxsize=1)
def _fitted() -> dict[str, np.ndarray]:
    return {name: values.astype(np.float64) for name, values in load_file(LANDMARK_FILE).items()}
