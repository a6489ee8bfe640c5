"""Which expression a projection aims at: landmark files, bundled expressions by name, and photos."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from checkpoints.builders import load_base
from data.images import to_pil
from faces.align import crop_map, ffhq_quad
from faces.landmark_files import read_landmarks
from pipeline.cli import UserError
from pipeline.sampling import base_images
from training.projection import Expression, Projector

BUNDLED = Path(__file__).resolve().parent.parent / "data" / "expressions.json"
# Points that no expression moves much: corners of the eyes, bridge and base of the nose, temples.
RIGID = [36, 39, 42, 45, 27, 28, 29, 30, 33, 0, 16]
# Where the tip of the nose lies between the eyes, as a share, when a face looks at the camera: 0.5.
LEAST_TURN, MOST_TURN = 0.02, 0.98
# Landmarks whose eye distance is a smaller share of the crop belong to no face.
SMALLEST_EYES = 0.05


@cache
def bundled() -> dict[str, dict]:
    """Return the bundled expressions by name, see ``data/make_expressions.py``."""
    return json.loads(BUNDLED.read_text())


def expression_names() -> tuple[str, ...]:
    """Return the names of the bundled expressions."""
    return tuple(bundled())


def named(text: str) -> str | None:
    """Return the bundled expression that a text names, in any spelling of its spaces, or None."""
    plain = text.lower().replace("_", " ").replace("-", " ").strip()
    return plain if plain in bundled() else None


def aligned_points(points: np.ndarray, *, name: str) -> Tensor:
    """Return landmarks [68, 2] of any picture as fractions of the side of its FFHQ crop.

    Raises:
        UserError: where they span no face, or one that is turned too far to the side.
    """
    try:
        corners = ffhq_quad(points)
        aligned = torch.from_numpy(points @ crop_map(corners)[:, :2].T + crop_map(corners)[:, 2]).float()
    except (ValueError, np.linalg.LinAlgError) as error:
        raise UserError(f"{name}: its landmarks span no face ({error}); give those of a face") from error
    check_pose(aligned, name=name)
    return aligned


def check_pose(points: Tensor, *, name: str) -> None:
    """Raise UserError where landmarks [68, 2], fractions of an aligned face's side, are those of a face in profile."""
    first, second = points[36:42].mean(dim=0), points[42:48].mean(dim=0)
    across = second - first
    distance = float(across.norm())
    turn = float(((points[30] - first) * across).sum()) / max(distance, 1e-9) ** 2
    if not math.isfinite(turn) or distance < SMALLEST_EYES or not LEAST_TURN < turn < MOST_TURN:
        raise UserError(f"{name}: the face is turned too far to the side; use one that looks more at the camera")


def fitted(points: Tensor, person: Tensor) -> Tensor:
    """Return landmarks [68, 2] with the proportions of another face: the affine map of the points that no expression moves."""
    with_one = torch.cat([points, points.new_ones(len(points), 1)], dim=1)
    return with_one @ torch.linalg.lstsq(with_one[RIGID], person[RIGID].to(points)).solution


def bundled_expression(name: str, projector: Projector, person: Tensor) -> Expression:
    """Return a bundled expression in the proportions of a person's landmarks [68, 2]."""
    entry = bundled()[name]
    points = fitted(torch.tensor(entry["landmarks"]), person)
    return Expression(points, *_donor(entry["donor"], projector))


def file_expression(path: Path, projector: Projector) -> Expression:
    """Return the expression of a landmark file; the bundled face with the most similar mouth lends the inside of it.

    Raises:
        UserError: see ``read_landmarks`` and ``aligned_points``.
    """
    points = aligned_points(read_landmarks(path), name=str(path))
    lenders = {name: torch.tensor(entry["landmarks"]) for name, entry in bundled().items() if entry["donor"]}
    best = min(lenders, key=lambda name: float((_mouth(lenders[name]) - _mouth(points)).norm()))
    return Expression(points, *_donor(bundled()[best]["donor"], projector))


def _mouth(points: Tensor) -> Tensor:
    return points[48:68] - points[48:68].mean(dim=0)


def _donor(face: dict | None, projector: Projector) -> tuple[Tensor | None, Tensor | None]:
    """Return the picture of a sampled face of the starter and its landmarks, or nothing."""
    if face is None:
        return None, None
    image = _sampled(face["seed"], face["index"], face["truncation_psi"]).to(projector.deviation.device)
    return image, projector.points(image)


@cache
def _sampled(seed: int, index: int, psi: float) -> Tensor:
    return base_images(load_base("starter"), seed, [index], truncation_psi=psi)


def photo_expression(image: Tensor, projector: Projector, *, name: str) -> Expression:
    """Return the expression of an aligned photo [1, 3, S, S], which lends the inside of its mouth.

    Raises:
        UserError: where the face is turned too far to the side.
    """
    points = projector.points(image)
    check_pose(points, name=name)
    return Expression(points, image, points)


def with_landmarks(picture: Image.Image | Tensor | None, points: Tensor, *, size: int = 256) -> Image.Image:
    """Return a picture with landmarks [68, 2] drawn on it as dots; a grey ground where there is none."""
    image = Image.new("RGB", (size, size), (96, 96, 96)) if picture is None else (
        picture if isinstance(picture, Image.Image) else to_pil(picture)).resize((size, size), Image.Resampling.LANCZOS)
    pen, radius = ImageDraw.Draw(image), max(1.0, size / 160)
    for x, y in (points * size).tolist():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(80, 255, 120))
    return image
