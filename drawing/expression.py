"""Expression: what a face does, as ten numbers of its mesh, and the mesh of a person who does it too.

The mesh is turned to look at the camera by the best 3-D similarity to the mean face. Numbers are read there in eye distances, and
a linear model fitted on many faces (``data.make_expressions``) says how every vertex follows them, so a face keeps its own
proportions: m' = m + sum_k B_k (wanted_k - own_k).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from faces.topology import EYES, LOWER_INNER, UPPER_INNER

PATH = Path(__file__).resolve().parent.parent / "data" / "expressions.safetensors"
# What is read of a face, left and right as in the picture. All but the eyes are in eye distances; eyes are open by their gap over
# their width.
MEASURES = ("open", "width", "corners", "tilt", "shift", "brow_left", "brow_right", "frown", "eye_left", "eye_right")
PARTS = {"mouth": ("open", "width", "corners", "tilt", "shift"), "brows": ("brow_left", "brow_right", "frown"),
         "eyes": ("eye_left", "eye_right")}
# Vertices of lids from one corner to the other, the left eye in the picture first: the upper edge, two rows above it, the lower
# edge, a row below it.
UPPER_LIDS = ((246, 161, 160, 159, 158, 157, 173), (398, 384, 385, 386, 387, 388, 466))
FOLDS = ((247, 30, 29, 27, 28, 56, 190), (414, 286, 258, 257, 259, 260, 467))
OVER_FOLDS = ((113, 225, 224, 223, 222, 221, 189), (413, 441, 442, 443, 444, 445, 342))
LOWER_LIDS = ((7, 163, 144, 145, 153, 154, 155), (382, 381, 380, 374, 373, 390, 249))
UNDER_LIDS = ((25, 110, 24, 23, 22, 26, 112), (341, 256, 252, 253, 254, 339, 255))
EYE_CORNERS = ((33, 133), (362, 263))
# Inner edges of the lips from left to right, without and with the corners they share.
UPPER_EDGE = (191, 80, 81, 82, 13, 312, 311, 310, 415)
LOWER_EDGE = (95, 88, 178, 87, 14, 317, 402, 318, 324)
INNER_CORNERS = (78, 308)
MOUTH_CORNERS = (61, 291)
BROWS = ((70, 63, 105, 66, 107, 46, 53, 52, 65, 55), (300, 293, 334, 296, 336, 276, 283, 282, 295, 285))
INNER_BROWS = (55, 285)
NOSE_TIP = 4
# Of a lid's way the upper edge goes this share, and rows of skin above and below follow.
UPPER_SHARE, FOLD_SHARE, OVER_SHARE, UNDER_SHARE = 0.85, 0.45, 0.15, 0.4
# Vertices that expressions move little, by which meshes are turned to the front: nose, bridge, forehead, temples, corners of
# eyes.
RIGID = (1, 4, 5, 195, 197, 6, 168, 8, 9, 10, 151, 109, 338, 67, 297, 33, 133, 263, 362, 127, 356, 234, 454, 93, 323, 98, 327, 2)
ROUNDS = 4
# Of the way that a jaw takes the lower lip, corners of the mouth go this share; what they do besides is their own.
CORNER = 0.35
# The gap that the mesh shows between lips that are shut.
SHUT = 0.045
# Least and most of each measure.
LEAST = np.array([0.0, 0.6, -0.04, -0.08, -0.08, 0.12, 0.12, 0.28, 0.0, 0.0])
MOST = np.array([0.5, 1.3, 0.2, 0.08, 0.08, 0.42, 0.42, 0.5, 0.45, 0.45])


@dataclass(frozen=True)
class ExpressionModel:
    """Mean mesh [468, 3], mean and deviation of the measures [10], and how vertices follow a measure [10, 468, 3].

    In eye distances of the mean mesh, which looks at the camera.
    """

    mean: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    basis: np.ndarray


@lru_cache(maxsize=1)
def model() -> ExpressionModel:
    """Return the bundled model."""
    return ExpressionModel(**{name: values.astype(np.float64) for name, values in load_file(PATH).items()})


def facing(mesh: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a mesh [468, 3] turned, scaled and shifted to a mean mesh, and the matrix A [3, 3] by which vectors came there, v A.

    The least-squares similarity of the ``RIGID`` vertices (Umeyama 1991).
    """
    rows = list(RIGID)
    here, there = mesh[rows].mean(axis=0), mean[rows].mean(axis=0)
    before, after = mesh[rows] - here, mean[rows] - there
    u, s, vt = np.linalg.svd(before.T @ after)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn = (u * sign) @ vt * ((s * sign).sum() / (before**2).sum())
    return (mesh - here) @ turn + there, turn


def measured(face: np.ndarray) -> np.ndarray:
    """Return the ``MEASURES`` [..., 10] of meshes [..., 468, 3] that look at the camera, in their unit."""
    def place(vertices: tuple[int, ...], axis: int) -> np.ndarray:
        return face[..., list(vertices), axis].mean(axis=-1)

    left, right = MOUTH_CORNERS
    upper = place(UPPER_INNER, 1)
    eyes = [place(EYES[0], 1), place(EYES[1], 1)]
    lids = [(face[..., list(lower[2:5]), 1] - face[..., list(upper_lid[2:5]), 1]).mean(axis=-1)
            / np.linalg.norm(face[..., one, :2] - face[..., other, :2], axis=-1)
            for upper_lid, lower, (one, other) in zip(UPPER_LIDS, LOWER_LIDS, EYE_CORNERS, strict=True)]
    gap = place(LOWER_INNER, 1) - upper
    return np.stack([
        gap, face[..., right, 0] - face[..., left, 0], upper - place(MOUTH_CORNERS, 1) + CORNER * gap,
        face[..., left, 1] - face[..., right, 1], place((13, 14), 0) - face[..., NOSE_TIP, 0],
        eyes[0] - place(BROWS[0], 1), eyes[1] - place(BROWS[1], 1), face[..., INNER_BROWS[1], 0] - face[..., INNER_BROWS[0], 0],
        *lids], axis=-1)


def expression_of(mesh: np.ndarray) -> np.ndarray:
    """Return the ``MEASURES`` [10] of a face [468, 3] in any pose."""
    return measured(facing(mesh, model().mean)[0])


def shares_of(parts: Mapping[str, float]) -> np.ndarray:
    """Return how far each measure goes, [10]: 0 stays, 1 goes all of the way; parts that are not named go.

    Raises:
        ValueError: for a name that is none of ``PARTS`` or ``all``, or a share below 0.
    """
    unknown = set(parts) - {*PARTS, "all"}
    if unknown or any(not 0.0 <= share < 1e6 for share in parts.values()):
        raise ValueError(f"expected shares of at least 0 of all, {', '.join(PARTS)}, got "
                         f"{', '.join(f'{name}={share}' for name, share in parts.items())}")
    shares = {name: parts.get(part, parts.get("all", 1.0)) for part, names in PARTS.items() for name in names}
    return np.array([shares[name] for name in MEASURES])


def with_expression(mesh: np.ndarray, wanted: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """Return the mesh [468, 3] of a person with another's expression, in the person's pose.

    Args:
        mesh: the person's.
        wanted: measures [10].
        shares: how far to go, [10]; None goes all of the way.
    """
    fitted = model()
    face, turn = facing(mesh, fitted.mean)
    own = measured(face)
    goal = own + (1.0 if shares is None else shares) * (wanted - own)
    if wanted[0] < SHUT:
        goal[0] = own[0] if own[0] < SHUT else min(goal[0], own[0]) if goal[0] >= SHUT else 0.0
    # Nothing leaves what faces do, or what the person does already.
    goal = np.clip(goal, np.minimum(own, LEAST), np.maximum(own, MOST))
    result, lids = face.copy(), slice(8, 10)
    # Measures move each other a little, and the slopes fade with the distance: a few rounds bring all there.
    for _ in range(ROUNDS):
        change = goal - measured(result)
        change[lids] = 0.0
        result += np.einsum("k,kvc->vc", change, fitted.basis)
    _set_lips(result, own[0], goal[0], face)
    for eye in range(2):
        _set_lids(result, eye, goal[8 + eye])
    return mesh + (result - face) @ np.linalg.inv(turn)


def _set_lips(face: np.ndarray, own: float, goal: float, before: np.ndarray) -> None:
    """Keep inner edges of lips from crossing; where they shut, they meet all along."""
    upper, lower = list(UPPER_EDGE), list(LOWER_EDGE)
    gap = face[lower] - face[upper]
    wanted = np.maximum(gap[:, 1], 0.0)
    if goal < own:
        # A mouth that shuts does so along its whole length.
        wanted = np.minimum(wanted, np.maximum(before[lower, 1] - before[upper, 1], 0.0) * goal / max(own, 1e-6))
    less = gap[:, 1] - wanted
    face[upper, 1] += less / 2.0
    face[lower, 1] -= less / 2.0


def _set_lids(face: np.ndarray, eye: int, goal: float) -> None:
    """Open or shut an eye to a share of its width, every vertex of its lids by the same factor."""
    upper, lower = list(UPPER_LIDS[eye]), list(LOWER_LIDS[eye])
    gap = face[lower, 1] - face[upper, 1]
    way = gap * (1.0 - goal / max(measured(face)[8 + eye], 1e-3))
    for rows, share in ((UPPER_LIDS, UPPER_SHARE), (FOLDS, FOLD_SHARE), (OVER_FOLDS, OVER_SHARE)):
        face[list(rows[eye]), 1] += share * way
    for rows, share in ((LOWER_LIDS, 1.0), (UNDER_LIDS, UNDER_SHARE)):
        face[list(rows[eye]), 1] -= share * (1.0 - UPPER_SHARE) * way
