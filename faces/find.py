"""Finding the faces of a picture, photo or drawing, and saying what was left out and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from checkpoints.builders import landmarks_path
from faces.align import align_face
from faces.dlib_search import DlibSearch
from faces.face import SURE_SCORE, Face
from faces.mesh import LANDMARK_FILE
from faces.search import MeshSearch
from pipeline.cli import UserError, report

__all__ = ["KINDS", "MIN_FACE", "Face", "FaceFinder", "FinderSettings", "face_aligner"]
KINDS = ("mesh", "dlib")
MIN_FACE = 40.0
MIN_SIDE = 32
# Score below which nobody would call it a face.
NOTHING = 0.1
# Degrees beyond which half of a face is hidden, and share of the landmarks outside of the picture from which on it is cut off.
MOST_YAW, MOST_OUTSIDE = 60.0, 0.1


@dataclass(frozen=True)
class FinderSettings:
    """Arguments of a ``FaceFinder``, in values that travel to other processes."""

    kind: str = "mesh"
    min_face: float = MIN_FACE
    max_faces: int | None = None
    predictor: Path | None = None

    def make(self) -> FaceFinder:
        """Load the networks."""
        return FaceFinder(self.kind, min_face=self.min_face, max_faces=self.max_faces, predictor=self.predictor)

    def weights(self) -> Path:
        """Return the file that decides where landmarks are."""
        return LANDMARK_FILE if self.kind == "mesh" else self.predictor or landmarks_path()


class FaceFinder:
    """Find faces and their landmarks.

    Args:
        kind: "mesh" (MediaPipe's networks: every angle, drawings too) or "dlib" (nearly upright faces of photos).
        min_face: width in px of the smallest faces that are wanted.
        max_faces: at most so many, the largest; None for all.
        predictor: of dlib's 68 points; None takes the official one where present, else the starter's.

    Raises:
        CheckpointError, UserError: as ``DlibSearch`` does.
        ValueError: for another kind, or a predictor without dlib.
    """

    def __init__(self, kind: str = "mesh", *, min_face: float = MIN_FACE, max_faces: int | None = None,
                 predictor: Path | None = None) -> None:
        if kind not in KINDS or (predictor is not None and kind != "dlib"):
            raise ValueError(f"expected a finder of {KINDS}, and a predictor only with dlib, got {kind!r} and {predictor}")
        if min_face <= 0 or (max_faces is not None and max_faces < 1):
            raise ValueError(f"expected min_face above 0 and max_faces of at least 1, got {min_face} and {max_faces}")
        self.kind, self.min_face, self.max_faces = kind, min_face, max_faces
        self.search = MeshSearch(min_face) if kind == "mesh" else DlibSearch(predictor)

    def find(self, image: Image.Image) -> list[Face]:
        """Return the sure faces of a photo, the largest first."""
        return self.read(image)[0]

    def read(self, image: Image.Image) -> tuple[list[Face], list[str]]:
        """Return the sure faces of a photo, the largest first, and a line on each that is doubtful or left out."""
        if min(image.size) < MIN_SIDE:
            return [], [f"no face found; the picture of {image.width} x {image.height} px is too small"]
        faces, notes = [], []
        for face in self.search.candidates(image.convert("RGB")):
            kept, note = judged(face, image.size, self.min_face)
            if note:
                notes.append(note)
            if kept:
                faces.append(face)
        faces.sort(key=lambda face: face.area, reverse=True)
        if not faces and not notes:
            notes.append(f"no face found; use a picture with a face of at least {self.min_face:g} px (--min_face), or "
                         "--align false if it is aligned already")
        return faces[:self.max_faces], notes

    def told(self, image: Image.Image, *, name: str) -> list[Face]:
        """Do what ``find`` does, with the lines of ``read`` on standard error.

        Raises:
            UserError: naming the photo and the reason, where there is no sure face.
        """
        faces, notes = self.read(image)
        if not faces:
            raise UserError(f"{name}: {notes[0]}")
        for note in notes:
            report(f"{name}: {note}")
        return faces

    def follow(self, image: Image.Image, faces: Sequence[Face | tuple[float, float, float, float]]) -> list[Face]:
        """Return where faces of the last frame are in the next, without detection.

        Args:
            image: RGB.
            faces: of the last frame, or boxes (left, top, right, bottom) of the landmarks of upright faces, in px.
        """
        image = image.convert("RGB")
        return [self.search.near(image, face) for face in faces]


def judged(face: Face, size: tuple[int, int], min_face: float) -> tuple[bool, str]:
    """Return whether a face is used, and a line on what is wrong with it, or nothing.

    Args:
        face: a candidate.
        size: width and height of the photo.
        min_face: least width in px.
    """
    where = f"the face at ({(face.box[0] + face.box[2]) / 2:.0f}, {(face.box[1] + face.box[3]) / 2:.0f}) of {face.width:.0f} px"
    if face.score < SURE_SCORE:
        if face.score < NOTHING:
            return False, ""
        return False, (f"{where} is left out, it is unsure ({face.score:.2f}, {SURE_SCORE} is sure); use a sharper or larger "
                       "picture")
    if face.width < min_face:
        return False, f"{where} is left out, it is small; --min_face {int(face.width)} takes it"
    if abs(face.yaw) > MOST_YAW:
        return False, (f"{where} is left out, it is turned by {abs(face.yaw):.0f} degrees to the side; use a picture that shows "
                       "both eyes")
    outside = ((face.landmarks < 0) | (face.landmarks > np.array(size) - 1)).any(axis=1).mean()
    if outside > MOST_OUTSIDE:
        return True, (f"{where} is cut off by the picture's border ({100 * outside:.0f} % of it); use a wider picture for "
                      "better results")
    return True, ""


def face_aligner(size: int, finder: FaceFinder | None = None) -> Callable[[Image.Image, str], Image.Image]:
    """Return a function from a photo and its name to its largest face, aligned at ``size`` px.

    It raises UserError, naming the photo, where it finds no face.
    """
    finder = finder or FaceFinder()

    def align(image: Image.Image, name: str) -> Image.Image:
        return align_face(image, finder.told(image, name=name)[0].landmarks, output_size=size)

    return align
