"""What is known of one face before it is drawn, computed once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.images import to_pil
from drawing.warp import with_rings
from faces.mesh import landmarks_of, read_mesh
from faces.parts import face_parts

# Where the face lies in an aligned frame: the middle of its mesh and the side of the square around it, as shares of the side.
CENTRE, SIDE = (0.5, 0.57), 0.9
# The square around a mesh over the mesh's larger extent, and rounds of reading: each begins at what the last one found.
AROUND, ROUNDS = 1.5, 3


@dataclass(frozen=True)
class FaceContext:
    """An aligned face as the drawing stages know it.

    Attributes:
        mesh: [1, 468, 3], x, y and depth as fractions of the frame's side.
        parts: how far each pixel is skin, hair, background or the rest, [1, 4, S, S].
    """

    mesh: Tensor
    parts: Tensor

    @property
    def points(self) -> Tensor:
        """The points that warps are told by, [1, ``drawing.warp.POINTS``, 2]."""
        return with_rings(self.mesh)

    @property
    def landmarks(self) -> np.ndarray:
        """The 68 landmarks [68, 2] in dlib's order, as fractions of the side."""
        return landmarks_in(self.mesh)


def landmarks_in(mesh: Tensor) -> np.ndarray:
    """Return the 68 landmarks [68, 2] in dlib's order of a mesh [1, 468, 3], in its unit."""
    return landmarks_of(mesh[0].cpu().numpy())


def aligned_mesh(image: Tensor) -> tuple[Tensor, float]:
    """Return the mesh [1, 468, 3] of an aligned face [1, 3, S, S] as fractions of the side, and its score from 0 to 1."""
    picture, side = to_pil(image), image.shape[3]
    centre, reach = np.array(CENTRE) * side, SIDE * side
    for _ in range(ROUNDS):
        mesh, score = read_mesh(picture, centre, reach, 0.0)
        low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
        centre, reach = (low + high) / 2.0, AROUND * float((high - low).max())
    return torch.from_numpy(mesh[None] / side).float().to(image.device), score


def read_context(image: Tensor, mesh: Tensor | None = None) -> FaceContext:
    """Return what is known of an aligned face.

    Args:
        image: [1, 3, S, S] in [-1, 1].
        mesh: [1, 468, 3] where it is known already.

    Raises:
        ValueError: unless the image is one square.
    """
    if image.ndim != 4 or len(image) != 1 or image.shape[2] != image.shape[3]:
        raise ValueError(f"expected an image [1, 3, S, S], got {list(image.shape)}")
    mesh = aligned_mesh(image)[0] if mesh is None else mesh
    parts = face_parts(image, [mesh[0].cpu().numpy() * image.shape[3]])
    return FaceContext(mesh, parts.to(image))
