"""Random faces by seed: image i of seed S is one face, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from checkpoints.builders import Base, Style, load_base


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
