"""Random faces by seed: image i of seed S is one face, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import Base, load_base
from data.images import to_pil
from data.landmarks68 import MEAN_FACE
from models.face import Face
from faces.find import FaceFinder
from styles.protocol import Style


def seeded_z(seed: int, index: int, dim: int) -> Tensor:
    """Return z [1, dim] of image ``index`` of ``seed``, drawn from a generator of its own."""
    rng = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    return torch.randn(1, dim, generator=rng)


def base_of(style: Style, *, name: str | None = None) -> Base:
    """Return the generator that faces of ``style`` are inverted into, or load the one called ``name``."""
    return load_base(name, device=style.device) if name else style.base


def random_faces(style: Style, seed: int, indices: list[int], *, truncation_psi: float) -> Face:
    """Return the faces ``indices`` of ``seed``, truncated towards the style's mean latent."""
    z = torch.cat([seeded_z(seed, i, style.latent_shape[1]) for i in indices])
    return style.random(z, truncation_psi=truncation_psi)


def random_face(base: Base, seed: int | Tensor, *, index: int = 0, truncation_psi: float = 1.0) -> Face:
    """Return random faces of a base: rows, and with a prior the photo and its residual beside them.

    Args:
        base: the generator, with its prior if it has one.
        seed: of one face, or z [N, style_dim].
        index: number of the face in ``seed``.
        truncation_psi: 1 for faces as they come, 0 for the mean face.

    Raises:
        ValueError: for z of a wrong shape.
    """
    z = seed if isinstance(seed, Tensor) else seeded_z(seed, index, base.generator.config.style_dim)
    return base.random(z, truncation_psi=truncation_psi)


def base_faces(base: Base, seed: int, indices: list[int], *, truncation_psi: float) -> Face:
    """Return the random faces ``indices`` of ``seed``."""
    z = torch.cat([seeded_z(seed, i, base.generator.config.style_dim) for i in indices])
    return random_face(base, z, truncation_psi=truncation_psi)


def base_images(base: Base, seed: int, indices: list[int], *, truncation_psi: float) -> Tensor:
    """Return the random faces ``indices`` of ``seed`` as images [N, 3, S, S] of the generator's side."""
    image = shown(base, base_faces(base, seed, indices, truncation_psi=truncation_psi))
    side = base.generator.config.size
    return F.interpolate(image, size=(side, side), mode="area") if image.shape[3] > side else image


def shown(base: Base, face: Face) -> Tensor:
    """Return faces undeformed, as they are shown: their photos if they have any, else the base's images [N, 3, S, S]."""
    return undeformed(base, face) if face.photo is None else face.photo


@torch.no_grad()
def undeformed(base: Base, face: Face) -> Tensor:
    """Return the base generator's images [N, 3, S, S] of faces, with the stored noise."""
    generator = base.generator
    return generator.synthesis(face.w_plus, noise=generator.fixed_noise(), feature_transforms=face.transforms())


def face_landmarks(images: Tensor, finder: FaceFinder) -> np.ndarray:
    """Return landmarks [N, 68, 2] as fractions of the side of aligned faces [N, 3, S, S]; the mean face where none is found."""
    rows = []
    for image in images:
        found = finder.find(to_pil(image))
        rows.append(found[0].landmarks / images.shape[3] if found else MEAN_FACE)
    return np.stack(rows)


def batches(count: int, size: int, *, start: int = 0) -> Iterator[list[int]]:
    """Yield the indices start..start + count - 1 in runs of at most ``size``."""
    for first in range(start, start + count, size):
        yield list(range(first, min(first + size, start + count)))


def fresh_path(path: Path) -> Path:
    """Return ``path``, or the first of NAME_2, NAME_3, ... that does not exist, so that nothing is overwritten."""
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
        number += 1
    return candidate
