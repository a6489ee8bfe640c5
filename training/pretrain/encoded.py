"""Packed faces as the starter's encoders see them, computed once: rows, and the images that rows and residuals give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import load_base, load_encoder
from checkpoints.features import load_residual_encoder
from checkpoints.io import atomic_write
from training.pretrain.faces import FacePack

PART = 128  # faces per file
STEP = 8  # faces computed at once
DIGEST = "generator.txt"  # beside the files: whose they are


@dataclass
class Encoded:
    """Faces of a pack.

    Attributes:
        generator: digest of the generator.
        index: [M] numbers of the faces in the pack.
        rows: w_plus [M, L, D] of the encoder.
        photo: [M, 3, S, S] uint8, the faces at the generator's side.
        plain: [M, 3, S, S] uint8, what the generator makes of the rows.
        inverted: [K, 3, S, S] uint8, and of rows and residual, for the first K faces.
    """

    generator: str
    index: Tensor
    rows: Tensor
    photo: Tensor
    plain: Tensor
    inverted: Tensor

    @classmethod
    def load(cls, folder: Path) -> Encoded:
        """Read all files that ``encode_pack`` has written so far; raises ValueError where there are none."""
        paths = sorted(folder.glob("part_*.npz"))
        if not paths:
            raise ValueError(f"{folder}: holds no encoded faces; run the encode stage first")
        parts = [np.load(path) for path in paths]
        return cls((folder / DIGEST).read_text(), *(torch.from_numpy(np.concatenate(
            [part[name] for part in parts if len(part[name])] or [parts[0][name]])) for name in ARRAYS))


ARRAYS = tuple(field.name for field in fields(Encoded) if field.name != "generator")


def to_bytes(image: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8."""
    return (image.clamp(-1.0, 1.0) * 127.5 + 127.5).round().to(torch.uint8)


def from_bytes(image: Tensor) -> Tensor:
    """Return uint8 images in [-1, 1], channels-last."""
    return (image.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def halved(image: Tensor, size: int) -> Tensor:
    """Return images [N, C, S, S] at ``size`` px, each pixel the mean of those it covers."""
    return F.interpolate(image, size=(size, size), mode="area") if image.shape[3] > size else image


def shuffled(count: int) -> Tensor:
    """Return the numbers below ``count`` in an order that is the same every time."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def encode_pack(pack: FacePack, folder: Path, *, start: Path, inversions: int = 1536) -> Iterator[int]:
    """Encode the faces of a pack by the starter files in ``start``, in files of ``PART`` faces; those there are kept.

    Args:
        pack: the faces, at the generator's side or larger.
        folder: of the files.
        start: folder of starter files: generator, encoder and residual encoder.
        inversions: for how many faces the residual is found too.

    Yields:
        The number of faces that are done.

    Raises:
        ValueError: if the folder holds faces of another generator.
    """
    base, encoder = load_base(start / "generator.safetensors"), load_encoder(start / "encoder.safetensors")
    residual = load_residual_encoder(start / "residual.safetensors")
    generator, noise, side = base.generator, base.generator.fixed_noise(), residual.module.config.resolution
    size = generator.config.size
    order = shuffled(len(pack.names))
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / DIGEST
    if known.exists() and known.read_text() != base.fingerprint:
        raise ValueError(f"{folder}: holds faces of another generator; remove it, or name another --state")
    with atomic_write(known) as temporary:
        temporary.write_text(base.fingerprint)
    for number, index in enumerate(order.split(PART)):
        path = folder / f"part_{number:04d}.npz"
        if not path.exists():
            found: dict[str, list[Tensor]] = {name: [] for name in ARRAYS}
            for few in index.split(STEP):
                photo = halved(pack.batch(few), size)
                rows = encoder.module(photo) + encoder.latent_avg
                half = generator.halfway(rows, noise=noise, resolution=side)
                plain = generator.finish(half, rows, noise=noise, resolution=side)
                inverted = plain[:0]
                if number * PART < inversions:
                    seen = half._replace(features=half.features + residual.module(photo, half.features, rows))
                    inverted = generator.finish(seen, rows, noise=noise, resolution=side)
                for name, value in zip(found, (few, rows.half(), *map(to_bytes, (photo, plain, inverted))), strict=True):
                    found[name].append(value)
            with atomic_write(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **{name: torch.cat(values).numpy() for name, values in found.items()})
        yield min((number + 1) * PART, len(order))
