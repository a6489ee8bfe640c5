"""Random faces by seed: image i of seed S is one face, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import Base, has_prior, load_base
from data.images import to_pil
from data.landmarks68 import MEAN_FACE
from faces.find import FaceFinder
from models.face import Face
from styles.protocol import Style

MAPPING_PSI, PRIOR_PSI = 0.7, 1.0


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


def default_truncation(drawn_by: Style | Base) -> float:
    """Return the truncation psi of random faces of a style or base where none is asked for.

    A prior draws faces as they are; of a mapping network the worst are cut off, as is usual (Karras et al. 2019).
    """
    if isinstance(drawn_by, Base):
        return MAPPING_PSI if drawn_by.prior is None else PRIOR_PSI
    return default_truncation(drawn_by.base) if has_prior(drawn_by.base_name) else MAPPING_PSI


def seed_faces(style: Style, seeds: Sequence[int], *, truncation_psi: float) -> Face:
    """Return the first face of each seed."""
    z = torch.cat([seeded_z(seed, 0, style.latent_shape[1]) for seed in seeds])
    return style.random(z, truncation_psi=truncation_psi)


def seed_path(seeds: Sequence[int], steps: int, dim: int) -> Tensor:
    """Return z [len(seeds) steps, dim] on the way from each seed's first face to the next and back to the first."""
    corners = [seeded_z(seed, 0, dim) for seed in seeds]
    return torch.cat([slerp(first, last, step / steps) for first, last in zip(corners, corners[1:] + corners[:1], strict=True)
                      for step in range(steps)])


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


def slerp(first: Tensor, last: Tensor, share: float) -> Tensor:
    """Return z [1, D] on the arc from ``first`` to ``last``, which stays as likely as they are (Shoemake 1985)."""
    cosine = F.cosine_similarity(first, last, dim=1).clamp(-1.0, 1.0)
    angle = torch.arccos(cosine)[:, None]
    if float(angle.sin().min()) < 1e-6:
        return torch.lerp(first, last, share)
    return (torch.sin((1.0 - share) * angle) * first + torch.sin(share * angle) * last) / torch.sin(angle)


def mixed_faces(style: Style, first: Tensor, second: Tensor, layers: Sequence[int], *, truncation_psi: float) -> Face:
    """Return a face per entry of ``layers``: rows before that layer of z ``first`` [1, D], the others of ``second`` [1, D].

    This is style mixing (Karras et al. 2019, section 3.1). With a prior the rest of a face, its sketch, is that of ``first``
    as long as half of the rows are.

    Raises:
        ValueError: for a layer outside of the rows.
    """
    rows = style.latent_shape[0]
    if not layers or min(layers) < 0 or max(layers) > rows:
        raise ValueError(f"expected layers from 0 to {rows}, got {list(layers)}")
    keep = torch.tensor([[row < layer for row in range(rows)] for layer in layers], device=style.device)[:, :, None]
    z = torch.cat([first, second]).to(style.device)
    base = style.base if has_prior(style.base_name) else None
    if base is None or base.prior is None:
        both = style.random(z, truncation_psi=truncation_psi).w_plus
        return Face(torch.where(keep, both[:1], both[1:]))
    both = base.prior.rows(z, truncation_psi=truncation_psi)
    chosen = torch.tensor([0 if 2 * layer >= rows else 1 for layer in layers])
    return base.sketched(torch.where(keep, both[:1], both[1:]), z[chosen], truncation_psi=truncation_psi)


def base_faces(base: Base, seed: int, indices: list[int], *, truncation_psi: float) -> Face:
    """Return the random faces ``indices`` of ``seed``."""
    z = torch.cat([seeded_z(seed, i, base.generator.config.style_dim) for i in indices])
    return random_face(base, z, truncation_psi=truncation_psi)


def base_images(base: Base, seed: int, indices: list[int], *, truncation_psi: float) -> Tensor:
    """Return the random faces ``indices`` of ``seed`` as images [N, 3, S, S] of the generator's side."""
    image = shown(base, base_faces(base, seed, indices, truncation_psi=truncation_psi))
    side = base.generator.config.size
    return F.interpolate(image, size=(side, side), mode="area") if image.shape[3] > side else image


def originals_of(base: Base, face: Face, seed: int, indices: list[int], *, truncation_psi: float) -> Tensor:
    """Return what is shown beside drawn random faces ``indices`` of ``seed``: their photos if they have any, else the base's
    images, which a style's own mapping may have moved away from."""
    return base_images(base, seed, indices, truncation_psi=truncation_psi) if face.photo is None else face.photo


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
