"""Finding faces at every angle and size: MediaPipe's detector over a pyramid of tiles, each find confirmed by its mesh network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from faces.mesh import landmarks_of, read_mesh
from faces.nets import DETECTOR, net

# The detector sees faces from about a tenth of its input on; faces up to a quarter of a tile lie whole in one of the tiles.
LEAST_SHARE, OVERLAP = 0.1, 0.25
# Scores of the detector from which on a place is looked at, and of the mesh from which on a face is sure.
CANDIDATE, SURE_SCORE = 0.4, 0.5
MIN_FACE = 60.0
MIN_SIDE = 32
SAME_FACE = 0.3


@dataclass(frozen=True)
class Face:
    """One face of a photo.

    Attributes:
        box: left, top, right, bottom in px of the photo.
        score: how sure it is a face, 0..1.
        mesh: [468, 3] x, y in px of the photo, z in the same unit and smaller towards the camera; None with dlib.
        landmarks: [68, 2] in px of the photo, dlib's order.
        roll: degrees by which the face is turned clockwise in the picture, -180..180.
        yaw: degrees by which the face looks to the picture's right as seen upright, -90..90.
    """

    box: tuple[float, float, float, float]
    score: float
    mesh: np.ndarray | None
    landmarks: np.ndarray
    roll: float
    yaw: float

    @property
    def area(self) -> float:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True)
class Region:
    """A square that frames a face: centre (x, y) and side in px of the photo, and the roll in degrees, clockwise."""

    centre: np.ndarray
    side: float
    roll: float


class FaceFinder:
    """Find faces and their landmarks.

    Args:
        kind: "mesh" (MediaPipe's networks).
        min_face: width in px of the smallest faces to look for.
        max_faces: at most so many, the largest.
    """

    def __init__(self, kind: str = "mesh", *, min_face: float = MIN_FACE, max_faces: int | None = None,
                 predictor: Path | None = None) -> None:
        self.min_face, self.max_faces = min_face, max_faces

    def find(self, image: Image.Image) -> list[Face]:
        """Return the sure faces of an RGB photo, the largest first."""
        sure = [face for face in self.look(image) if face.score >= SURE_SCORE]
        return sorted(sure, key=lambda face: face.area, reverse=True)[:self.max_faces]

    def look(self, image: Image.Image) -> list[Face]:
        """Return whatever may be a face, the surest first, each once."""
        if min(image.size) < MIN_SIDE:
            return []
        image = image.convert("RGB")
        places = np.concatenate([self._detect(view) for view in views(image, self.min_face)])
        regions = [region_of_detection(place) for place in places[distinct(places[:, 1:5], places[:, 0])]]
        found = [read_face(image, region) for region in regions]
        if not found:
            return []
        keep = distinct(np.array([face.box for face in found]), np.array([face.score for face in found]))
        return [found[index] for index in keep]

    def follow(self, image: Image.Image, faces: Sequence[Face]) -> list[Face]:
        """Return faces of the last frame where they are in this one; no detection, so they are near."""
        image = image.convert("RGB")
        return [read_face(image, region_of_mesh(face.mesh), passes=1) for face in faces]

    def _detect(self, view: View) -> np.ndarray:
        boxes, scores = net(DETECTOR)(view.pixels[None])
        return decode(boxes[0], scores[0, :, 0]) * view.unit + view.origin


@dataclass(frozen=True)
class View:
    """Pixels [128, 128, 3] in [-1, 1] and how its detections [17] become px of the photo: times ``unit`` plus ``origin``."""

    pixels: np.ndarray
    unit: np.ndarray
    origin: np.ndarray


def views(image: Image.Image, min_face: float) -> Iterator[View]:
    """Yield the whole photo with a wide border, the photo, and tiles that halve in side down to ten times ``min_face``."""
    side = net(DETECTOR).side
    whole = float(max(image.size))
    tiles = [2.0 * whole, whole]
    while tiles[-1] > min_face / LEAST_SHARE:
        tiles.append(max(tiles[-1] / 2.0, min_face / LEAST_SHARE))
    for tile in tiles:
        scale = side / tile
        size = [max(1, round(s * scale)) for s in image.size]
        small = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), np.float32) / 127.5 - 1.0
        unit = np.array([image.size[0] / size[0], image.size[1] / size[1]])
        for top in starts(size[1], side):
            for left in starts(size[0], side):
                pixels = np.full((side, side, 3), -1.0, np.float32)
                part = small[max(0, top):top + side, max(0, left):left + side]
                at = (max(0, -top), max(0, -left))
                pixels[at[0]:at[0] + part.shape[0], at[1]:at[1] + part.shape[1]] = part
                yield View(pixels, np.array([1.0, *np.tile(side * unit, 8)]), np.array([0.0, *np.tile((left, top) * unit, 8)]))


def starts(length: int, side: int) -> list[int]:
    """Return where tiles of ``side`` begin along ``length``; a shorter length lies in the middle of its tile."""
    if length <= side:
        return [-((side - length) // 2)]
    count = math.ceil((length - side) / (side * (1.0 - OVERLAP))) + 1
    return [round(start) for start in np.linspace(0, length - side, count)]


def decode(boxes: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return detections [K, 17]: score, left, top, right, bottom, then eyes, nose, mouth, ears (x, y), fractions of the input.

    Args:
        boxes: [896, 16] centre, width, height and six points in px of the input, relative to the anchor's centre.
        logits: [896].
    """
    side = net(DETECTOR).side
    keep = logits >= math.log(CANDIDATE / (1.0 - CANDIDATE))
    boxes = boxes[keep].astype(np.float64) / side
    anchors = ANCHORS[keep]
    centre, half = boxes[:, :2] + anchors, boxes[:, 2:4] / 2.0
    points = boxes[:, 4:] + np.tile(anchors, 6)
    scores = 1.0 / (1.0 + np.exp(-logits[keep].astype(np.float64)))
    return np.concatenate([scores[:, None], centre - half, centre + half, points], axis=1)


def _anchors() -> np.ndarray:
    """Return the centres [896, 2] of the detector's anchors: two in each cell of 16 x 16, six in each of 8 x 8."""
    parts = []
    for cells, count in ((16, 2), (8, 6)):
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], axis=2).reshape(-1, 2) + 0.5) / cells  # [cells, cells, 2] -> [cells^2, 2]
        parts.append(np.repeat(centres, count, axis=0))
    return np.concatenate(parts)


ANCHORS = _anchors()


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


def region_of_detection(place: np.ndarray) -> Region:
    """Return the square that the mesh network wants around a detection [17] in px of the photo."""
    box, points = place[1:5], place[5:].reshape(6, 2)
    along = points[1] - points[0]
    return Region((box[:2] + box[2:]) / 2.0, 1.5 * float(max(box[2:] - box[:2])), math.degrees(math.atan2(along[1], along[0])))


def region_of_mesh(mesh: np.ndarray) -> Region:
    """Return the square around a mesh [468, 3], upright along its eyes."""
    along = mesh[263, :2] - mesh[33, :2]
    roll = math.atan2(along[1], along[0])
    axes = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    upright = mesh[:, :2] @ axes.T
    low, high = upright.min(axis=0), upright.max(axis=0)
    return Region((low + high) / 2.0 @ axes, 1.5 * float(max(high - low)), math.degrees(roll))


def read_face(image: Image.Image, region: Region, *, passes: int = 2) -> Face:
    """Return the face in a region; each further pass looks at the region that the mesh of the last one says."""
    for _ in range(passes):
        mesh, score = read_mesh(image, region.centre, region.side, region.roll)
        region = region_of_mesh(mesh)
    low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
    across = mesh[454] - mesh[234]
    yaw = math.degrees(math.atan2(across[2], float(np.hypot(across[0], across[1]))))
    return Face((*low.tolist(), *high.tolist()), score, mesh, landmarks_of(mesh), region.roll, yaw)
