"""A face that was found, and which of several finds are the same face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

# Intersection over union from which on two boxes are of one face.
SAME_FACE = 0.3
# Score from which on a face is sure.
SURE_SCORE = 0.5


@dataclass(frozen=True)
class Face:
    """One face of a photo.

    Attributes:
        box: left, top, right, bottom in px of the photo.
        score: how sure it is a face, 0..1; from a half on it is.
        mesh: [468, 3] x, y in px of the photo, z in the same unit and smaller towards the camera; None with dlib.
        landmarks: [68, 2] in px of the photo, dlib's order.
        roll: degrees by which the face is turned clockwise in the picture, -180..180.
        yaw: degrees by which the face, once upright, looks to the picture's right, -90..90; 0 with dlib, which does not tell.
    """

    box: tuple[float, float, float, float]
    score: float
    mesh: np.ndarray | None
    landmarks: np.ndarray
    roll: float
    yaw: float

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    @property
    def area(self) -> float:
        return self.width * (self.box[3] - self.box[1])


def distinct(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Return which boxes [K, 4] are kept, the best score first, if none may overlap a better one by more than SAME_FACE."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if all(overlap(boxes[index], boxes[other]) <= SAME_FACE for other in kept):
            kept.append(int(index))
    return kept


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return intersection over union of two boxes (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(width * height / (sum(areas) - width * height))


def face_state(face: Face) -> dict[str, Any]:
    """Return plain values and arrays from which ``load_face`` makes the same face."""
    return {field.name: getattr(face, field.name) for field in fields(face)}


def load_face(state: Mapping[str, Any]) -> Face:
    """Return the face of a state, which may have been JSON."""
    mesh = None if state["mesh"] is None else np.asarray(state["mesh"], np.float64)
    landmarks = np.asarray(state["landmarks"], np.float64)
    return Face(tuple(state["box"]), state["score"], mesh, landmarks, state["roll"], state["yaw"])
