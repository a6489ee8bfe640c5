"""Random faces by seed: image i of seed S is one face, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints.builders import Base, Style, load_base
from data.images import to_pil
from data.landmarks68 import MEAN_FACE
from pipeline.cli import UserError
from pipeline.faces import FaceFinder
from pipeline.regions import RegionAlpha, point_strengths


@dataclass(frozen=True)
class Look:
    """How a face is drawn.

    ``alpha`` is the deformation degree, 0 the undeformed face and 1 as learned, or one degree per region of the face;
    ``color_strength`` moves the colours towards the drawing's, see ``colored``.
    """

    alpha: float | RegionAlpha = 0.8
    color_strength: float | None = None


def seeded_z(seed: int, index: int, dim: int) -> Tensor:
    """Return z [1, dim] of image ``index`` of ``seed``, drawn from a generator of its own."""
    rng = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    return torch.randn(1, dim, generator=rng)


def base_of(style: Style, *, device: torch.device | str, name: str | None = None) -> Base:
    """Load the generator that ``style`` was fine-tuned from, or the one called ``name``."""
    default = style.config.get("base", {}).get("name")
    if not default:
        default = "starter" if style.deformable.generator.config.size <= 256 else "official"
    return load_base(name or default, device=device)


@torch.no_grad()
def sample_w_plus(style: Style, seed: int, indices: list[int], *, truncation_psi: float) -> Tensor:
    """Return w_plus [N, L, 512] of the images ``indices`` of ``seed``, truncated towards the style's w_avg."""
    generator = style.deformable.generator
    device = style.w_avg.device
    z = torch.cat([seeded_z(seed, i, generator.config.style_dim) for i in indices]).to(device)
    w = generator.mapping(z, truncation_psi=truncation_psi, w_avg=style.w_avg)
    return generator.broadcast(w)


@torch.no_grad()
def base_images(base: Base, seed: int, indices: list[int], *, truncation_psi: float) -> Tensor:
    """Return the undeformed originals [N, 3, S, S] of the images ``indices`` of ``seed``."""
    generator = base.generator
    z = torch.cat([seeded_z(seed, i, generator.config.style_dim) for i in indices]).to(base.w_avg.device)
    w = generator.mapping(z, truncation_psi=truncation_psi, w_avg=base.w_avg)
    return generator.synthesis(generator.broadcast(w), noise=generator.fixed_noise())


@torch.no_grad()
def stylized_images(style: Style, w_plus: Tensor, *, alpha: float | Tensor) -> Tensor:
    """Return deformed, stylized images [N, 3, S, S] of latents [N, L, 512], with the stored noise."""
    return style.deformable.synthesis(w_plus, alpha=alpha, noise=style.deformable.generator.fixed_noise()).image


def colored(style: Style, w_plus: Tensor, strength: float | None) -> Tensor:
    """Move the colours of latents [N, L, 512] towards those of the style's drawing.

    The fine rows, from the layer that training mixed at, become own + strength (drawing - own): 0 keeps the face's own
    colours, 1 takes the drawing's. None leaves the latents alone, as 0 does.

    Raises:
        UserError: if the style's file does not hold the drawing's latent.
    """
    if strength is None:
        return w_plus
    if style.target_latent is None:
        raise UserError(f"--color-strength: the style {style.name} does not hold its drawing's latent (released styles "
                        "and those of older versions lack it); train it again, or leave the option out")
    layer = style.config.get("training", {}).get("settings", {}).get("swap_layer", 8)
    fine = torch.lerp(w_plus[:, layer:], style.target_latent[layer:].to(w_plus).expand_as(w_plus[:, layer:]), strength)
    return torch.cat([w_plus[:, :layer], fine], dim=1)


def face_landmarks(images: Tensor, finder: FaceFinder) -> np.ndarray:
    """Return landmarks [N, 68, 2] as fractions of the side of aligned faces [N, 3, S, S]; the mean face where none is found."""
    rows = []
    for image in images:
        found = finder.find(to_pil(image))
        rows.append(found[0].landmarks / images.shape[3] if found else MEAN_FACE)
    return np.stack(rows)


def styled_images(style: Style, w_plus: Tensor, *, look: Look, landmarks: np.ndarray | None = None) -> Tensor:
    """Return stylized images [N, 3, S, S] of latents [N, L, 512].

    Args:
        style: the style.
        w_plus: latents of the faces.
        look: how to draw them.
        landmarks: [N, 68, 2] as fractions of the undeformed face's side, where degrees by region act; the mean face
            if None.

    Raises:
        UserError: as ``colored``.
    """
    places = np.repeat(MEAN_FACE[None], len(w_plus), axis=0) if landmarks is None else landmarks
    alpha = point_strengths(look.alpha, places, style.deformable.config)
    return stylized_images(style, colored(style, w_plus, look.color_strength), alpha=alpha)


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
