"""Files of landmarks: 68 points of one face in dlib's order."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.io import atomic_write
from pipeline.cli import UserError

SUFFIXES = (".npy", ".json", ".csv", ".pts")
COUNT = 68


def write_landmarks(path: Path, points: np.ndarray, **facts: Any) -> None:
    """Write landmarks [68, 2] as JSON that ``read_landmarks`` reads, with further plain facts, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"landmarks": np.round(points, 3).tolist(), **facts}), encoding="utf-8")


def read_landmarks(path: Path) -> np.ndarray:
    """Read 68 landmarks [68, 2] in dlib's order from a file.

    ``.npy`` [68, 2], ``.json`` (pairs, or an object with them under "landmarks"), ``.csv`` (a row x,y per point, perhaps
    below a header) or ``.pts`` of 300-W.

    Raises:
        UserError: in one line naming the file, for another length, numbers that are not finite, or a damaged file.
    """
    try:
        values = _READERS[path.suffix.lower()](path)
        points = np.asarray(values, np.float64)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found; check the path") from error
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, RecursionError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:80]
        raise UserError(f"{path}: holds no landmarks that can be read ({reason}); give 68 points x, y as npy, json, csv or "
                        "pts") from error
    if points.shape != (COUNT, 2):
        raise UserError(f"{path}: holds an array of shape {list(points.shape)}, expected 68 points x, y in dlib's order; "
                        "write the landmarks of one face")
    if not np.isfinite(points).all():
        raise UserError(f"{path}: point {int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])} is not finite; find the "
                        "landmarks again")
    return points


def _npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _json(path: Path) -> list:
    found = json.loads(path.read_text())
    return found["landmarks"] if isinstance(found, dict) else found


def _csv(path: Path) -> list[list[float]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    return [[float(value) for value in row] for row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pts(path: Path) -> list[list[float]]:
    text = path.read_text()
    body = text[text.index("{") + 1:text.index("}")]
    return [[float(value) for value in line.split()] for line in body.splitlines() if line.strip()]


_READERS = {".npy": _npy, ".json": _json, ".csv": _csv, ".pts": _pts}
