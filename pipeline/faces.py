"""Finding faces: dlib's detector and a 68-point predictor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dlib
import numpy as np
from PIL import Image

from checkpoints.builders import landmarks_path
from faces.align import align_face
from pipeline.cli import UserError

DETECTION_SIDE = 1000
LARGE_SIDE = 2000
SMALL_SIDE = 400
MIN_SIDE = 32
# dlib also reports folds of cloth and the like, at scores up to about 0.37 beside a face of 1.6.
SURE_SCORE = 0.4


@dataclass(frozen=True)
class Face:
    """One face in px of the photo: box (left, top, right, bottom), landmarks [68, 2], detector score."""

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    score: float

    @property
    def area(self) -> float:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


class FaceFinder:
    """Find faces and their landmarks.

    Detection runs on a copy of at most 1000 px, so that its time and memory do not grow with the photo; small photos
    are enlarged. Where no face is sure (a score of 0.4) the photo is tried again with a reflected border, which tight
    crops need, and a large photo on a copy of at most 2000 px.

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

    def find(self, image: Image.Image) -> list[Face]:
        """Return the sure faces of an RGB photo, the largest first; without one the best guess, or nothing."""
        if min(image.size) < MIN_SIDE:
            return []
        # Small faces of a large photo show only on a larger copy, which costs most and so comes last.
        tries = ((0.0, 0, DETECTION_SIDE), (0.0, 1, DETECTION_SIDE), (0.25, 1, DETECTION_SIDE), (0.0, 1, LARGE_SIDE))
        guesses: list[Face] = []
        for border, upsample, limit in tries[:3] if max(image.size) <= DETECTION_SIDE else tries:
            found = self._detect(image, border=border, upsample=upsample, limit=limit)
            sure = [face for face in found if face.score >= SURE_SCORE]
            if sure:
                return sorted(sure, key=lambda face: face.area, reverse=True)
            guesses += found
        return sorted(guesses, key=lambda face: face.score, reverse=True)[:1]

    def follow(self, image: Image.Image, boxes: Sequence[tuple[float, float, float, float]]) -> list[np.ndarray]:
        """Return landmarks [68, 2] in px of an RGB photo for boxes that are known already; no detection."""
        scale = min(1.0, DETECTION_SIDE / max(image.size))
        copy = image if scale == 1.0 else image.resize([max(1, round(s * scale)) for s in image.size])
        pixels = np.ascontiguousarray(np.asarray(copy.convert("RGB")))
        found = []
        for box in boxes:
            parts = self.predictor(pixels, dlib.rectangle(*(round(float(side) * scale) for side in box))).parts()
            found.append(np.array([(part.x, part.y) for part in parts], dtype=np.float64) / scale)
        return found

    def _detect(self, image: Image.Image, *, border: float, upsample: int, limit: int) -> list[Face]:
        side = max(image.size)
        scale = min(1.0, limit / side) if side > SMALL_SIDE else SMALL_SIDE / side
        copy = image.resize([max(1, round(s * scale)) for s in image.size], Image.Resampling.BILINEAR)
        pixels = np.asarray(copy.convert("RGB"))
        pad = [int(border * s) for s in pixels.shape[:2]]
        pixels = np.ascontiguousarray(np.pad(pixels, ((pad[0],) * 2, (pad[1],) * 2, (0, 0)), "reflect"))
        boxes, scores, _ = self.detector.run(pixels, upsample, 0.0)
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            parts = self.predictor(pixels, box).parts()
            points = np.array([(part.x, part.y) for part in parts], dtype=np.float64)
            offset = np.array([pad[1], pad[0]])
            corners = np.array([[box.left(), box.top()], [box.right(), box.bottom()]]) - offset
            left, top, right, bottom = (corners / scale).flatten()
            faces.append(Face((left, top, right, bottom), (points - offset) / scale, float(score)))
        return faces


def face_aligner(size: int) -> Callable[[Image.Image, str], Image.Image]:
    """Return a function from a photo and its name to its largest face, aligned at ``size`` px.

    It raises UserError, naming the photo, where it finds no face.
    """
    finder = FaceFinder()

    def align(image: Image.Image, name: str) -> Image.Image:
        faces = finder.find(image)
        if not faces:
            raise UserError(f"{name}: no face found; give an aligned image and leave out --align")
        return align_face(image, faces[0].landmarks, output_size=size)

    return align
