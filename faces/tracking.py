"""Following faces through a clip."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from data.landmarks68 import eye_distance
from faces.face import SURE_SCORE, Face, overlap
from faces.find import FaceFinder
from pipeline.smoothing import Jitter, OneEuro

MIN_OVERLAP = 0.2
CUT_DIFFERENCE = 0.18
MAX_MISSED = 1


@dataclass
class Track:
    """One face: its smoothed landmarks [68, 2], the face as it was found last, and the filters."""

    landmarks: np.ndarray
    face: Face
    points: OneEuro
    latent: OneEuro
    outline: OneEuro
    mesh: OneEuro
    missed: int = 0
    jitter: Jitter = field(default_factory=Jitter)
    drawn_jitter: Jitter = field(default_factory=Jitter)

    @property
    def raw(self) -> np.ndarray:
        """The landmarks [68, 2] as they were found."""
        return self.face.landmarks

    def smooth_mesh(self, *, seconds: float) -> np.ndarray | None:
        """Return the smoothed mesh [468, 3] in px of the frame, or None where the finder reads none."""
        if self.face.mesh is None:
            return None
        self.mesh.scale = self.points.scale
        return self.mesh(self.face.mesh, seconds=seconds)


class FaceTracker:
    """Landmarks of the faces of a clip, frame by frame.

    The detector runs on every ``every``-th frame and after a loss or a cut; between, the landmark predictor follows from
    the last place. A face that the detector misses twice in a row is dropped.

    Args:
        finder: finds and follows faces.
        smooth: strength of the smoothing, 0..1.
        faces: "largest", "all", or the number of one face, 0 the largest.
        every: frames between detections.
    """

    def __init__(self, finder: FaceFinder, *, smooth: float, faces: str | int = "largest", every: int = 5) -> None:
        self.finder, self.smooth, self.faces, self.every = finder, smooth, faces, every
        self.tracks: list[Track] = []
        self.since = 0
        self.small: np.ndarray | None = None
        self.cuts = 0

    def update(self, image: Image.Image, *, seconds: float) -> list[Track]:
        """Take the next frame, ``seconds`` after the last one, and return the faces in it."""
        small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float32) / 255.0
        if self.small is not None and np.abs(small - self.small).mean() > CUT_DIFFERENCE:
            self.tracks, self.cuts = [], self.cuts + 1
        self.small = small
        if not self.tracks or self.since >= self.every:
            self._detect(image)
            self.since = 0
        else:
            for track, face in zip(self.tracks, self.finder.follow(image, [t.face for t in self.tracks]), strict=True):
                track.face = face
            if any(track.face.score < SURE_SCORE for track in self.tracks):
                self._detect(image)
                self.since = 0
        self.since += 1
        for track in self.tracks:
            track.points.scale = float(eye_distance(track.raw))
            track.landmarks = track.points(track.raw, seconds=seconds)
        return self.tracks

    def _detect(self, image: Image.Image) -> None:
        found = self.finder.find(image)
        kept, free = [], list(found)
        for track in self.tracks:
            best = max(free, key=lambda face: overlap(face.box, track.face.box), default=None)
            if best is not None and overlap(best.box, track.face.box) >= MIN_OVERLAP:
                free = [face for face in free if face is not best]
                track.face, track.missed = best, 0
                kept.append(track)
            elif track.missed < MAX_MISSED:
                track.face = self.finder.follow(image, [track.face])[0]
                track.missed += 1
                kept.append(track)
        if self.faces == "all":
            new = free
        elif kept:
            new = []
        else:
            number = self.faces if isinstance(self.faces, int) else 0
            new = free[number:number + 1]
        self.tracks = kept + [
            Track(face.landmarks, face, *(OneEuro(self.smooth) for _ in range(4))) for face in new]
