"""Where faces are at every angle and size: MediaPipe's detector over tiles, each find confirmed by its mesh network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from faces.face import SURE_SCORE, Face, distinct
from faces.mesh import cut, landmarks_of, read_mesh, square
from faces.nets import DETECTOR, WORKERS, net
from faces.refine import refined

# The detector sees faces from about a tenth of its input on; faces up to a quarter of a tile lie whole in one of the tiles.
LEAST_SHARE, OVERLAP = 0.1, 0.25
# Tiles of more than this share of the photo show nothing new.
ALIKE = 0.8
# Score of the detector from which on a place is looked at, and that which no face gets that is taken to be upside down (of 675
# finds at six angles, 288 got it, none of them wrongly turned): it needs no second look.
CANDIDATE, PLAIN = 0.4, 0.9
# Score of the detector, at the better of both looks, below which no face is sure: rings, a cat and folds that the mesh takes
# for faces get at most 0.64, artworks 0.68 and more.
DETECTED = 0.65
# Score of the mesh below which nothing comes of a place (71 of 101 places without a face, none of 186 with one).
HOPELESS = 0.002
# Score of the detector below which such a place gets no second look (48 of 101 places without a face, 1 of 186 with one).
FAINT = 0.55
# Side of the square of a second look over that of the first, and how far from its middle the face may lie as a share.
WIDER, NEAR = 1.8, 0.25
# Side of the square that the mesh network looks at over that of the detector's box, of the mesh and of the landmarks.
AROUND, AROUND_LANDMARKS = 1.5, 1.7


@dataclass(frozen=True)
class Region:
    """A square that frames a face: centre (x, y) and side in px of the photo, and the roll in degrees, clockwise."""

    centre: np.ndarray
    side: float
    roll: float


class MeshSearch:
    """Finds faces by MediaPipe's networks.

    Args:
        min_face: width in px of the smallest faces to look for.
    """

    def __init__(self, min_face: float) -> None:
        self.min_face = min_face

    def candidates(self, image: Image.Image) -> list[Face]:
        """Return whatever may be a face in an RGB photo, the surest first, each once."""
        with ThreadPoolExecutor(WORKERS) as pool:
            places = np.concatenate(list(pool.map(detections, views(image, self.min_face))))
            places = places[distinct(places[:, 1:5], places[:, 0])]
            found = list(pool.map(partial(face_at, image), places))
            if not found:
                return []
            kept = distinct(np.array([face.box for face in found]), np.array([face.score for face in found]))
            return list(pool.map(partial(with_fine_landmarks, image), (found[index] for index in kept)))

    def near(self, image: Image.Image, face: Face | tuple[float, float, float, float]) -> Face:
        """Return the face that was at a place, or is upright within a box of landmarks, without detection."""
        if isinstance(face, Face):
            return with_fine_landmarks(image, read_face(image, region_of_mesh(face.mesh), passes=1))
        low, high = np.array(face[:2]), np.array(face[2:])
        region = Region((low + high) / 2.0, AROUND_LANDMARKS * float(max(high - low)), 0.0)
        return with_fine_landmarks(image, read_face(image, region))


@dataclass(frozen=True)
class View:
    """Pixels [128, 128, 3] in 0..255 and how its detections [17] become px of the photo: times ``unit`` plus ``origin``."""

    pixels: np.ndarray
    unit: np.ndarray
    origin: np.ndarray


def views(image: Image.Image, min_face: float) -> Iterator[View]:
    """Yield tiles of ten times ``min_face``, twice as much and so on, the whole photo, and the photo with a wide border."""
    side = net(DETECTOR).side
    whole, tile = float(max(image.size)), min_face / LEAST_SHARE
    tiles = [whole, 2.0 * whole]
    while tile < ALIKE * whole:
        tiles.append(tile)
        tile *= 2.0
    for tile in sorted(tiles):
        scale = side / tile
        size = [max(1, round(s * scale)) for s in image.size]
        small = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        unit = np.array([image.size[0] / size[0], image.size[1] / size[1]])
        for top in starts(size[1], side):
            for left in starts(size[0], side):
                pixels = np.zeros((side, side, 3), np.uint8)
                part = small[max(0, top):top + side, max(0, left):left + side]
                at = (max(0, -top), max(0, -left))
                pixels[at[0]:at[0] + part.shape[0], at[1]:at[1] + part.shape[1]] = part
                yield View(pixels, np.array([1.0, *np.tile(side * unit, 8)]), np.array([0.0, *np.tile((left, top) * unit, 8)]))


def detections(view: View) -> np.ndarray:
    """Return the detections [K, 17] in a view in px of the photo, see ``decode``."""
    boxes, scores = net(DETECTOR)(view.pixels[None] / np.float32(127.5) - np.float32(1.0))
    return decode(boxes[0], scores[0, :, 0]) * view.unit + view.origin


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


def region_of_detection(place: np.ndarray) -> Region:
    """Return the square that the mesh network wants around a detection [17] in px of the photo."""
    box, points = place[1:5], place[5:].reshape(6, 2)
    along = points[1] - points[0]
    return Region((box[:2] + box[2:]) / 2.0, AROUND * float(max(box[2:] - box[:2])), math.degrees(math.atan2(along[1], along[0])))


def region_of_mesh(mesh: np.ndarray) -> Region:
    """Return the square around a mesh [468, 3], upright along its eyes."""
    along = mesh[263, :2] - mesh[33, :2]
    roll = math.atan2(along[1], along[0])
    axes = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    upright = mesh[:, :2] @ axes.T
    low, high = upright.min(axis=0), upright.max(axis=0)
    return Region((low + high) / 2.0 @ axes, AROUND * float(max(high - low)), math.degrees(roll))


def looked_at(image: Image.Image, region: Region) -> tuple[Region, float]:
    """Return a region as the detector sees it best, of four quarter turns, and its score there, at least ``CANDIDATE``.

    The keypoints of faces upside down are wrong. The first turn in which it is plain is taken.
    """
    size = net(DETECTOR).side
    best, better = region, CANDIDATE
    for quarter in (0, 2, 1, 3):
        corner, across, down = square(region.centre, WIDER * region.side, region.roll + 90.0 * quarter, size)
        pixels = np.asarray(cut(image, corner, across, down, size), np.float32) / 127.5 - 1.0
        boxes, logits = net(DETECTOR)(pixels[None])
        for place in decode(boxes[0], logits[0, :, 0]):
            middle = (place[1:3] + place[3:5]) / 2.0
            if place[0] > better and np.abs(middle - 0.5).max() < NEAR:
                points = corner + place[5:].reshape(6, 2) * size @ np.stack([across, down])
                along, side = points[1] - points[0], (place[3:5] - place[1:3]).max() * WIDER * region.side
                better = place[0]
                best = Region(corner + middle * size @ np.stack([across, down]), AROUND * side,
                              math.degrees(math.atan2(along[1], along[0])))
        if better >= PLAIN:
            break
    return best, float(better)


def face_at(image: Image.Image, place: np.ndarray) -> Face:
    """Return the face at a detection [17]: where that is not plain, as a second look at it says, or else as the first one did."""
    region, seen = region_of_detection(place), float(place[0])
    if seen < FAINT and (face := read_face(image, region)).score < HOPELESS:
        return face
    better, again = (region, seen) if seen >= PLAIN else looked_at(image, region)
    face = read_face(image, better)
    if better is not region and HOPELESS <= face.score < SURE_SCORE:
        face = max(face, read_face(image, region), key=lambda one: one.score)
    seen = max(seen, again)
    return face if seen >= DETECTED else replace(face, score=min(face.score, SURE_SCORE * seen / DETECTED))


def with_fine_landmarks(image: Image.Image, face: Face) -> Face:
    """Return a sure face with its landmarks refined, another as it is."""
    return replace(face, landmarks=refined(image, face.landmarks)) if face.score >= SURE_SCORE else face


def read_face(image: Image.Image, region: Region, *, passes: int = 2) -> Face:
    """Return the face in a region; each further pass looks at the region that the mesh of the last one says."""
    for _ in range(passes):
        mesh, score = read_mesh(image, region.centre, region.side, region.roll)
        region = region_of_mesh(mesh)
        if score < HOPELESS:
            break
    low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
    across = mesh[454] - mesh[234]
    yaw = math.degrees(math.atan2(across[2], float(np.hypot(across[0], across[1]))))
    return Face((*low.tolist(), *high.tolist()), score, mesh, landmarks_of(mesh), region.roll, yaw)
