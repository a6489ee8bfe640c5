"""Fit the 68 landmarks to meshes: python -m faces.fit --images FOLDER --labels landmarks68.npz.

Labels are a linear function of 68 vertices, both brought to a reference by a similarity: ridge regression on faces and their
mirror images, so the function is symmetric.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from checkpoints.io import atomic_write
from data.landmarks68 import MIRROR
from faces.find import FaceFinder
from faces.mesh import LANDMARK_FILE, VERTEX_MIRROR, VERTICES, canonical, moved
from pipeline import cli

RIDGE = 1.0


def fit(meshes: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tensors of ``LANDMARK_FILE``.

    Args:
        meshes: [N, 468, 3] in px.
        labels: [N, 68, 2] in px, dlib's order.
    """
    vertices = meshes[:, VERTICES]
    reference = vertices[0, :, :2] - vertices[0, :, :2].mean(axis=0)
    for _ in range(5):  # the mean shape (generalised Procrustes analysis), symmetric, of unit size
        shapes = np.stack([canonical(each, reference)[0][:, :2] for each in vertices])
        reference = shapes.mean(axis=0)
        reference = (reference + reference[VERTEX_MIRROR] * [-1.0, 1.0]) / 2.0
        reference = (reference - reference.mean(axis=0)) / reference.std()
    both = [canonical(each, reference) for each in vertices]
    given = np.stack([each for each, _ in both])  # [N, 68, 3]
    wanted = np.stack([moved(points, *turn) for points, (_, turn) in zip(labels, both, strict=True)])  # [N, 68, 2]
    given = np.concatenate([given, given[:, VERTEX_MIRROR] * [-1.0, 1.0, 1.0]]).reshape(-1, len(VERTICES) * 3)
    wanted = np.concatenate([wanted, wanted[:, MIRROR] * [-1.0, 1.0]]).reshape(-1, 136)
    middle, bias = given.mean(axis=0), wanted.mean(axis=0)
    given = given - middle
    weight = np.linalg.solve(given.T @ given + RIDGE * np.eye(given.shape[1]), given.T @ (wanted - bias))
    return {"reference": reference.astype(np.float32), "weight": weight.astype(np.float32),
            "bias": (bias - middle @ weight).astype(np.float32)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = cli.ArgumentParser(prog="faces.fit", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of the faces")
    parser.add_argument("--labels", type=Path, required=True, help="npz: names [N], landmarks [N, 68, 2] in px")
    parser.add_argument("--output", type=Path, default=LANDMARK_FILE, help="safetensors file to write")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Fit and write the file."""
    finder, meshes, labels = FaceFinder(max_faces=1), [], []
    with np.load(args.labels) as table:
        for name, points in zip(table["names"], table["landmarks"], strict=True):
            with Image.open(args.images / str(name)) as image:
                found = finder.find(image)
            if found:
                meshes.append(found[0].mesh)
                labels.append(points.astype(np.float64))
    with atomic_write(args.output) as temporary:
        save_file(fit(np.stack(meshes), np.stack(labels)), temporary)
    print(f"{len(labels)} faces -> {args.output}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
