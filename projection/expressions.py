"""Which expression a face gets: a name, the landmarks of a file, or another's photo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from data.images import to_pil
from drawing.expression import CORNER, MEASURES, expression_of, model
from drawing.mouth import Inside
from faces.align import crop_map, ffhq_quad
from faces.landmark_files import read_landmarks
from faces.mesh import landmarks_of
from pipeline.cli import UserError

# Expressions by name: how each measure is told from the person's own, in deviations of the model from its mean ("at"), from the
# person's own ("by"), or as a number ("to"); "least" and "most" bound a number from one side and leave the person's beyond.
NAMED = {
    "neutral": {"open": ("to", 0.0), "width": ("at", -0.8), "corners": ("at", -0.8), "tilt": ("to", 0.0), "shift": ("to", 0.0)},
    "smile": {"open": ("least", 0.09), "width": ("least", 0.97), "corners": ("least", 0.08)},
    "open mouth": {"open": ("least", 0.32), "width": ("most", 0.92)},
    "raised brows": {"brow_left": ("by", 1.8), "brow_right": ("by", 1.8), "eye_left": ("by", 0.7), "eye_right": ("by", 0.7)},
    "wink": {"eye_right": ("to", 0.0), "brow_right": ("by", -0.4)},
}
# A face that has an expression already has a little more of it afterwards: so many deviations.
MORE = 0.4
# Where the tip of the nose lies between the eyes, as a share, when a face looks at the camera: 0.5.
LEAST_TURN, MOST_TURN = 0.02, 0.98
# Landmarks whose eye distance is a smaller share of the crop belong to no face.
SMALLEST_EYES = 0.05


@dataclass(frozen=True)
class Expression:
    """Measures [10] of ``drawing.expression`` that a face is to have, and whose mouth lends its inside."""

    measures: np.ndarray
    donor: Inside | None = None


def expression_names() -> tuple[str, ...]:
    """Return the names of the expressions."""
    return tuple(NAMED)


def named(text: str) -> str | None:
    """Return the expression that a text names, in any spelling of its spaces, or None."""
    plain = text.lower().replace("_", " ").replace("-", " ").strip()
    return plain if plain in NAMED else None


def named_expression(name: str, mesh: np.ndarray) -> Expression:
    """Return an expression of ``NAMED`` for the person of a mesh [468, 3]."""
    fitted, own = model(), expression_of(mesh)
    wanted = own.copy()
    for measure, (how, value) in NAMED[name].items():
        k = MEASURES.index(measure)
        more = MORE * fitted.spread[k]
        wanted[k] = {"to": value, "at": fitted.centre[k] + value * fitted.spread[k], "by": own[k] + value * fitted.spread[k],
                     "least": max(value, own[k] + more), "most": min(value, own[k] - more)}[how]
    return Expression(wanted)


def measured_landmarks(points: np.ndarray) -> np.ndarray:
    """Return the measures [10] of 68 landmarks [68, 2] of a face that looks at the camera, as ``expression_of`` tells them of
    meshes: by the same differences, and what these are for the mean mesh."""
    fitted = model()
    return fitted.centre + _differences(points) - _differences(landmarks_of(fitted.mean))


def _differences(points: np.ndarray) -> np.ndarray:
    eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    across = eyes[1] - eyes[0]
    # Turned upright, in eye distances.
    turn = np.array([[across[0], -across[1]], [across[1], across[0]]]) / (across @ across)
    x, y = ((points - (eyes[0] + eyes[1]) / 2.0) @ turn).T
    upper, lower = y[61:64].mean(), y[65:68].mean()
    lids = [(y[[k + 4, k + 5]].mean() - y[[k + 1, k + 2]].mean()) / math.hypot(x[k + 3] - x[k], y[k + 3] - y[k])
            for k in (36, 42)]
    return np.array([lower - upper, x[54] - x[48], upper - (y[48] + y[54]) / 2.0 + CORNER * (lower - upper), y[48] - y[54],
                     x[[62, 66]].mean() - x[30], -y[17:22].mean(), -y[22:27].mean(), x[22] - x[21], *lids])


def check_pose(points: Tensor | np.ndarray, *, name: str) -> None:
    """Raise UserError where landmarks [68, 2], fractions of an aligned face's side, are those of a face in profile."""
    points = np.asarray(points)
    first, second = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    across = second - first
    distance = float(np.hypot(*across))
    turn = float((points[30] - first) @ across) / max(distance, 1e-9) ** 2
    if not math.isfinite(turn) or distance < SMALLEST_EYES or not LEAST_TURN < turn < MOST_TURN:
        raise UserError(f"{name}: the face is turned too far to the side; use one that looks more at the camera")


def file_expression(path: Path) -> tuple[Expression, np.ndarray]:
    """Return the expression of a landmark file and its landmarks [68, 2] as fractions of the side of their FFHQ crop.

    Raises:
        UserError: see ``read_landmarks``; where they span no face, or one that is turned too far to the side.
    """
    points = aligned_points(read_landmarks(path), name=str(path))
    return Expression(measured_landmarks(points)), points


def aligned_points(points: np.ndarray, *, name: str) -> np.ndarray:
    """Return landmarks [68, 2] of any picture as fractions of the side of its FFHQ crop.

    Raises:
        UserError: where they span no face, or one that is turned too far to the side.
    """
    try:
        corners = ffhq_quad(points)
        aligned = points @ crop_map(corners)[:, :2].T + crop_map(corners)[:, 2]
    except (ValueError, np.linalg.LinAlgError) as error:
        raise UserError(f"{name}: its landmarks span no face ({error}); give those of a face") from error
    check_pose(aligned, name=name)
    return aligned


def photo_expression(image: Tensor, mesh: np.ndarray, *, name: str) -> Expression:
    """Return the expression of an aligned photo [1, 3, S, S] with a mesh [468, 3], which lends the inside of its mouth.

    Raises:
        UserError: where the face is turned too far to the side.
    """
    check_pose(landmarks_of(mesh), name=name)
    return Expression(expression_of(mesh), Inside(image, mesh[:, :2]))


def with_landmarks(picture: Image.Image | Tensor | None, points: Tensor | np.ndarray, *, size: int = 256) -> Image.Image:
    """Return a picture with landmarks [68, 2] drawn on it as dots; a grey ground where there is none."""
    image = Image.new("RGB", (size, size), (96, 96, 96)) if picture is None else (
        picture if isinstance(picture, Image.Image) else to_pil(picture)).resize((size, size), Image.Resampling.LANCZOS)
    pen, radius = ImageDraw.Draw(image), max(1.0, size / 160)
    for x, y in (torch.as_tensor(points) * size).tolist():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(80, 255, 120))
    return image
