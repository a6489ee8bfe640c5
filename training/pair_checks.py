"""What is wrong with the images of a pair, told before minutes of training go into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from data.images import squeezed, to_tensor
from data.landmarks68 import EYES
from drawing.context import aligned_mesh
from drawing.reading import LEAST_SCORE
from drawing.style import FRAME
from faces.align import ffhq_quad

# Above these a pair teaches something else than a style; the bundled and the published pairs lie below half of them.
MAX_ROLL = 25.0  # degrees of the line of the eyes
MAX_ROLL_APART, MAX_YAW_APART = 15.0, 0.35
MAX_OFF = 0.15  # distance of the aligned crop's corners from the image's, in sides
MIN_APART = 1.0  # mean difference of source and target, of 255, at this side in px:
SMALL = 64


class Found(Protocol):
    """A face as finders give it: landmarks [68, 2] in px of the image."""

    landmarks: np.ndarray


Find = Callable[[Image.Image], Sequence[Found]]


def roll_of(landmarks: np.ndarray) -> float:
    """Return the angle of the line of the eyes in degrees, 0 upright, positive clockwise, 180 upside down."""
    left, right = (landmarks[eye].mean(axis=0) for eye in EYES)
    return float(np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0])))


def yaw_of(landmarks: np.ndarray) -> float:
    """Return how far a head is turned to a side: the nose's place between the cheeks, 0 in the middle, -1 and 1 at them."""
    across = landmarks[16] - landmarks[0]
    return float(2.0 * ((landmarks[30] - landmarks[0]) @ across) / max(across @ across, 1e-9) - 1.0)


def off_of(landmarks: np.ndarray, size: tuple[int, int]) -> float:
    """Return how far a face is from its place in an aligned image: mean distance of corners, in sides of the image."""
    corners = np.array([(0, 0), (0, size[1]), size, (size[0], 0)], float)
    return float(np.hypot(*(ffhq_quad(landmarks) - corners).T).mean() / max(size))


def face_problems(name: str, image: Image.Image, faces: Sequence[Found], *, align: bool) -> list[str]:
    """Return what is wrong with one image of a pair, a line each.

    Args:
        name: for the lines.
        image: as it was read.
        faces: found in it, the best first.
        align: its face is cut out before training, so that its place and shape do not matter.
    """
    if not faces:
        return [f"{name}: no face found; the style would be made of what is not one"]
    problems = []
    if not align and (line := squeezed(name, image.size)):
        problems.append(line)
    roll = roll_of(faces[0].landmarks)
    if abs(roll) > MAX_ROLL and not (align and abs(roll) < 90.0):
        problems.append(f"{name}: the face is turned by {roll:.0f} degrees; turn the image upright")
    elif not problems and not align and off_of(faces[0].landmarks, image.size) > MAX_OFF:
        problems.append(f"{name}: the face is not where it is in aligned images; use --align")
    return problems


def drawing_problems(name: str, image: Image.Image, find: Find, *, align: bool) -> list[str]:
    """Return what is wrong with a drawing that comes without a photo, see ``face_problems``.

    A drawn face that the finder misses will do where the mesh network, by which the style is read, sees it in its place.
    """
    faces = find(image)
    if not faces and not align and not squeezed(name, image.size) and aligned_mesh(to_tensor(image, FRAME))[1] >= LEAST_SCORE:
        return []
    return face_problems(name, image, faces, align=align)


def is_same(first: Image.Image, second: Image.Image) -> bool:
    """Tell whether two images are one picture, of whatever size and file format."""
    small = [np.asarray(image.convert("RGB").resize((SMALL, SMALL), Image.Resampling.BOX), float) for image in (first, second)]
    return bool(np.abs(small[0] - small[1]).mean() < MIN_APART)


def pair_problems(images: Sequence[tuple[str, Image.Image]], find: Find, *, align: bool) -> list[str]:
    """Return what is wrong with a pair, a line each; nothing where all is well.

    Args:
        images: name and image, as it was read, of source and target.
        find: the face finder, the best face first.
        align: faces are cut out before training.
    """
    (source, first), (target, second) = images
    if is_same(first, second):
        return [f"{target}: is the same picture as {source}; the style would change nothing"]
    found = [find(image) for _, image in images]
    problems = [line for (name, image), faces in zip(images, found, strict=True)
                for line in face_problems(name, image, faces, align=align)]
    if not problems:
        marks = [faces[0].landmarks for faces in found]
        rolls, yaws = [roll_of(points) for points in marks], [yaw_of(points) for points in marks]
        # Alignment takes the roll out, but no turn to a side.
        if abs(yaws[0] - yaws[1]) > MAX_YAW_APART or (not align and abs(rolls[0] - rolls[1]) > MAX_ROLL_APART):
            problems.append(f"{target}: the head is turned another way than in {source}; the style would turn heads")
    return problems
