#!/usr/bin/env python3
"""Fit the model of expressions, ``drawing.expression``, on a folder of aligned faces: means and linear maps, no face is kept.

Meshes are turned to the front and scaled to their own mean, a few times over (generalised Procrustes analysis); each comes with
its mirror image. Vertices are regressed on the standardised measures, ridge 0.02 N, so that what a measure moves is what moves
with it in many people.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from checkpoints.io import atomic_write
from drawing.expression import (
    CORNER,
    INNER_CORNERS,
    LOWER_EDGE,
    MEASURES,
    MOUTH_CORNERS,
    PARTS,
    PATH,
    UPPER_EDGE,
    facing,
    measured,
)
from faces.topology import EYES, LOWER_LIP, MIRROR, UPPER_LIP

# Rounds of Procrustes analysis, and ridge as a share of the number of faces.
ROUNDS, RIDGE = 4, 0.02
# In eye distances below and above the eyes: where mouths and brows begin to move skin, and where they do so fully. And how far
# from its middle a mouth moves skin, as the deviation of a Gaussian.
BELOW, ABOVE, AROUND_MOUTH = (0.2, 0.65), (-0.05, 0.15), 0.5
# Of the lower lip's way, how far the chin goes.
CHIN = 0.85
# Meshes that are surely of a face, turned to the side by at most so much of their width.
LEAST_SCORE, MOST_TURN = 0.9, 0.25


def mirrored(meshes: np.ndarray) -> np.ndarray:
    """Return meshes [N, 468, 3] of the mirrored faces."""
    return meshes[:, list(MIRROR)] * [-1.0, 1.0, 1.0]


def frontal(mesh: np.ndarray) -> bool:
    """Tell whether a mesh [468, 3] looks about at the camera."""
    left, right = (mesh[list(eye)].mean(axis=0) for eye in EYES)
    return abs(float(right[2] - left[2])) < MOST_TURN * float(np.linalg.norm((right - left)[:2]))


def fit(meshes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of ``ExpressionModel`` fitted on meshes [N, 468, 3] in any unit."""
    meshes = np.concatenate([meshes, mirrored(meshes)])
    mean = meshes[0]
    for _ in range(ROUNDS):
        turned = np.stack([facing(mesh, mean)[0] for mesh in meshes])
        mean = turned.mean(axis=0)
        left, right = (mean[list(eye)].mean(axis=0) for eye in EYES)
        mean = (mean - (left + right) / 2.0) / np.linalg.norm(right - left)
        mean = (mean + mirrored(mean[None])[0]) / 2.0
    turned = np.stack([facing(mesh, mean)[0] for mesh in meshes])
    measures = measured(turned)
    centre, spread = np.median(measures, axis=0), measures.std(axis=0)
    x = (measures - measures.mean(axis=0)) / spread
    y = (turned - mean).reshape(len(turned), -1)
    y = y - y.mean(axis=0)
    slopes = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y) / spread[:, None]
    basis = slopes.reshape(-1, 468, 3) * reach(mean)
    basis[MEASURES.index("open")] = jaw(mean)
    return {"mean": mean, "centre": centre, "spread": spread, "basis": basis}


def jaw(mean: np.ndarray) -> np.ndarray:
    """Return how vertices of a mean mesh [468, 3] move as a jaw drops by 1, [468, 3].

    Told by anatomy: in photos, mouths that are open belong to heads that are thrown back. The lower lip goes with the jaw, less
    towards the corners; the chin goes most of its way; cheeks are drawn down beside the mouth.
    """
    left, right = (mean[v] for v in MOUTH_CORNERS)
    half, height = (right[0] - left[0]) / 2.0, (left[1] + right[1]) / 2.0
    across = np.abs(mean[:, 0] - (left[0] + right[0]) / 2.0) / half
    arch = np.clip(1.0 - across**2, 0.0, 1.0)
    down = CHIN * rising(mean[:, 1], height - 0.05, height + 0.2 + 0.25 * np.clip(across - 0.5, 0.0, 1.0))
    lower, upper = list({*LOWER_LIP, *LOWER_EDGE}), list({*UPPER_LIP, *UPPER_EDGE})
    down[lower] = CORNER + (1.0 - CORNER) * arch[lower] ** 0.7
    down[upper] = CORNER * (1.0 - arch[upper])
    down[[*MOUTH_CORNERS, *INNER_CORNERS]] = CORNER
    return np.stack([np.zeros_like(down), down, np.zeros_like(down)], axis=1)


def rising(values: np.ndarray, start: float, end: float | np.ndarray) -> np.ndarray:
    """Return 0 up to ``start``, 1 from ``end`` on, smooth between."""
    share = np.clip((values - start) / (end - start), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def reach(mean: np.ndarray) -> np.ndarray:
    """Return how far a measure moves each vertex of a mean mesh [468, 3], [10, 468, 3] in 0..1.

    What moves with a mouth elsewhere in the face is what kind of face it is, or how the head is turned: so is all depth.
    """
    below, above = rising(mean[:, 1], *BELOW), rising(-mean[:, 1], *ABOVE)
    away = np.linalg.norm((mean - mean[list(MOUTH_CORNERS)].mean(axis=0))[:, :2], axis=1)
    near = below * np.exp(-0.5 * (away / AROUND_MOUTH) ** 2)
    by_name = {**dict.fromkeys(PARTS["mouth"], near), **dict.fromkeys(PARTS["brows"], above),
               **dict.fromkeys(PARTS["eyes"], np.zeros_like(above))}
    return np.stack([by_name[name] for name in MEASURES])[:, :, None] * [1.0, 1.0, 0.0]


def main(argv: Sequence[str] | None = None) -> int:
    from data.images import list_images, read_image, to_tensor
    from drawing.context import aligned_mesh

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=Path, required=True, help="folder of aligned faces")
    parser.add_argument("--output", type=Path, default=PATH, help="safetensors file to write")
    args = parser.parse_args(argv)
    found = []
    for path in list_images(args.faces):
        image = read_image(path)
        mesh, score = aligned_mesh(to_tensor(image, image.width))
        mesh = mesh[0].numpy().astype(np.float64)
        if score > LEAST_SCORE and frontal(mesh):
            found.append(mesh)
    with atomic_write(args.output) as temporary:
        save_file({name: np.ascontiguousarray(values, np.float32) for name, values in fit(np.stack(found)).items()}, temporary)
    print(f"{len(found)} faces: {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
