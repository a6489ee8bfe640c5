"""Finding faces by dlib's detector and a 68-point predictor, as the published alignment does; faces must be nearly upright."""

from __future__ import annotations

import math
from pathlib import Path

import dlib
import numpy as np
from PIL import Image

from checkpoints.builders import landmarks_path
from data.landmarks68 import EYES
from faces.face import Face, distinct
from pipeline.cli import UserError

DETECTION_SIDE = 1000
LARGE_SIDE = 2000
SMALL_SIDE = 400
# dlib also reports folds of cloth and the like, at scores up to about 0.37 beside a face of 1.6: where a score becomes a half,
# and how fast.
SURE, SLOPE = 0.4, 4.0


class DlibSearch:
    """Finds faces by dlib.

    Detection runs on a copy of at most 1000 px, so that its time and memory do not grow with the photo; small photos
    are enlarged. Where no face is sure the photo is tried again with a reflected border, which tight crops need, and a large
    photo on a copy of at most 2000 px.

    Args:
        predictor: a dlib shape predictor; the official one where present, else the starter's.

    Raises:
        CheckpointError: if there is no predictor.
        UserError: if the named one is missing or damaged.
    """

    def __init__(self, predictor: Path | None = None) -> None:
        path = predictor or landmarks_path()
        if not Path(path).is_file():
            raise UserError(f"{path}: not found; leave --predictor out to use the bundled one")
        self.detector = dlib.get_frontal_face_detector()
        try:
            self.predictor = dlib.shape_predictor(str(path))
        except RuntimeError as error:
            raise UserError(f"{path}: is no dlib shape predictor ({error}); get it again") from error

    def candidates(self, image: Image.Image) -> list[Face]:
        """Return whatever may be a face in an RGB photo, the surest first, each once."""
        # Faces of 80 px show only once the copy is enlarged. Smaller ones of a large photo cost most and so come last.
        rounds = [((0.0, 0, DETECTION_SIDE), (0.0, 1, DETECTION_SIDE)), ((0.25, 1, DETECTION_SIDE),)]
        if max(image.size) > DETECTION_SIDE:
            rounds.append(((0.0, 1, LARGE_SIDE),))
        found: list[Face] = []
        for tries in rounds:
            for border, upsample, limit in tries:
                found += self._detect(image, border=border, upsample=upsample, limit=limit)
            if any(face.score >= 0.5 for face in found):
                break
        if not found:
            return []
        return [found[index] for index in distinct(np.array([face.box for face in found]),
                                                   np.array([face.score for face in found]))]

    def near(self, image: Image.Image, face: Face | tuple[float, float, float, float]) -> Face:
        """Return the landmarks in a box, or near to where a face was; its box goes with them."""
        box, score = (face.box, face.score) if isinstance(face, Face) else (face, 1.0)
        scale = min(1.0, DETECTION_SIDE / max(image.size))
        copy = image if scale == 1.0 else image.resize([max(1, round(s * scale)) for s in image.size])
        pixels = np.ascontiguousarray(np.asarray(copy))
        parts = self.predictor(pixels, dlib.rectangle(*(round(float(side) * scale) for side in box))).parts()
        points = np.array([(part.x, part.y) for part in parts], dtype=np.float64) / scale
        if isinstance(face, Face):
            (centre, size), (now, after) = _place(face.landmarks), _place(points)
            corners = (np.array(box).reshape(2, 2) - centre) * (after / size) + now
            box = tuple(corners.ravel().tolist())
        return _face(box, score, points)

    def _detect(self, image: Image.Image, *, border: float, upsample: int, limit: int) -> list[Face]:
        side = max(image.size)
        scale = min(1.0, limit / side) if side > SMALL_SIDE else SMALL_SIDE / side
        copy = image.resize([max(1, round(s * scale)) for s in image.size], Image.Resampling.BILINEAR)
        pixels = np.asarray(copy)
        pad = [int(border * s) for s in pixels.shape[:2]]
        pixels = np.ascontiguousarray(np.pad(pixels, ((pad[0],) * 2, (pad[1],) * 2, (0, 0)), "reflect"))
        boxes, scores, _ = self.detector.run(pixels, upsample, 0.0)
        offset, faces = np.array([pad[1], pad[0]]), []
        for box, score in zip(boxes, scores, strict=True):
            parts = self.predictor(pixels, box).parts()
            points = np.array([(part.x, part.y) for part in parts], dtype=np.float64)
            corners = (np.array([[box.left(), box.top()], [box.right(), box.bottom()]]) - offset) / scale
            sure = 1.0 / (1.0 + math.exp(-SLOPE * (float(score) - SURE)))
            faces.append(_face(tuple(corners.ravel().tolist()), sure, (points - offset) / scale))
        return faces


def _face(box: tuple[float, ...], score: float, landmarks: np.ndarray) -> Face:
    first, second = (landmarks[eye].mean(axis=0) for eye in EYES)
    along = second - first
    return Face(box, score, None, landmarks, math.degrees(math.atan2(along[1], along[0])), 0.0)


def _place(landmarks: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the middle of landmarks and their mean distance from it."""
    centre = landmarks.mean(axis=0)
    return centre, float(np.linalg.norm(landmarks - centre, axis=1).mean())
