"""The 68-point face annotation of iBUG 300-W in dlib's order."""

from __future__ import annotations

import numpy as np

# Point i of a mirrored face is point MIRROR[i] of the face.
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37,
     36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)
EYES = (slice(36, 42), slice(42, 48))


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    """Return the distance between the eye centres of landmarks [..., 68, 2], in their unit."""
    first, second = (landmarks[..., eye, :].mean(axis=-2) for eye in EYES)
    return np.linalg.norm(second - first, axis=-1)
