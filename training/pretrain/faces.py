"""Packed copies of a folder of aligned faces, with a fixed held-out split."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from checkpoints.io import atomic_write

HELD_OUT = 200


def is_photo_name(name: str) -> bool:
    """Return whether a face is a photo by its name, ``photo_*``; others are synthetic or not told apart."""
    return name.startswith("photo_")


def held_out_names(names: list[str]) -> set[str]:
    """Return the fixed test split: the 200 ``photo_*`` names with the smallest SHA-256, or a tenth of fewer photos."""
    photos = sorted(filter(is_photo_name, names), key=lambda n: hashlib.sha256(n.encode()).hexdigest())
    return set(photos[: min(HELD_OUT, len(photos) // 4)])


def _entries(source: Path) -> Iterator[tuple[str, bytes]]:
    suffixes = {".jpg", ".jpeg", ".png", ".webp"}
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in suffixes):
            yield path.stem, path.read_bytes()
        return
    with tarfile.open(source) as archive:
        for member in archive:
            handle = archive.extractfile(member) if Path(member.name).suffix.lower() in suffixes else None
            if handle is not None:
                yield Path(member.name).stem, handle.read()


def jpeg_bytes(image: Image.Image, *, quality: int = 95) -> np.ndarray:
    """Return an RGB image as JPEG bytes, uint8 [B]."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def write_pack(
    target: Path, names: list[str], blobs: list[np.ndarray], *, size: int, landmarks: np.ndarray, doubt: np.ndarray
) -> None:
    """Write a pack: JPEG bytes of images of ``size`` px, landmarks [M, 68, 2] as fractions of the side and doubts [M]."""
    with atomic_write(target) as path, open(path, "wb") as file:
        np.savez(file, names=np.array(names), data=np.concatenate(blobs), size=size, landmarks=landmarks, doubt=doubt,
                 ends=np.cumsum([len(b) for b in blobs]))


def pack_faces(source: Path, target: Path, *, size: int, landmarks: Path | None = None, quality: int = 95) -> int:
    """Write a folder or tar of aligned faces as one ``.npz`` of JPEG bytes at ``size`` px and return the count.

    ``landmarks`` names an ``.npz`` with ``names``, ``landmarks`` [M, 68, 2] in pixels of ``source_size`` (256 unless
    the file says otherwise) and ``flip_disagreement``; faces without a row get NaN.
    """
    names, blobs = [], []
    for name, data in _entries(source):
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        names.append(name)
        blobs.append(jpeg_bytes(image, quality=quality))
    if not names:
        raise ValueError(f"{source}: no images found")
    points = np.full((len(names), 68, 2), np.nan, np.float32)
    doubt = np.full(len(names), np.nan, np.float32)
    if landmarks is not None:
        table = np.load(landmarks)
        rows = {Path(str(n)).stem: i for i, n in enumerate(table["names"])}
        for index, name in enumerate(names):
            if name in rows:
                points[index] = table["landmarks"][rows[name]] / 256.0
                doubt[index] = table["flip_disagreement"][rows[name]]
    write_pack(target, names, blobs, size=size, landmarks=points, doubt=doubt)
    return len(names)


@dataclass
class FacePack:
    """Decoded faces: ``images`` uint8 [M, 3, S, S], ``landmarks`` [M, 68, 2] as fractions of the side, ``doubt`` [M]."""

    names: list[str]
    images: Tensor
    landmarks: Tensor
    doubt: Tensor

    @classmethod
    def load(cls, path: Path) -> FacePack:
        """Decode a pack written by ``pack_faces``."""
        table = np.load(path)
        ends = table["ends"]
        data = table["data"]
        images = torch.empty(len(ends), 3, int(table["size"]), int(table["size"]), dtype=torch.uint8)
        start = 0
        for index, end in enumerate(ends):
            pixels = np.array(Image.open(io.BytesIO(data[start:end].tobytes())))
            images[index] = torch.from_numpy(pixels).permute(2, 0, 1)  # [S, S, 3] -> [3, S, S]
            start = end
        return cls([str(n) for n in table["names"]], images, torch.from_numpy(table["landmarks"]),
                   torch.from_numpy(table["doubt"]))

    def split(self) -> tuple[Tensor, Tensor]:
        """Return the indices of the training faces and of the held-out faces."""
        held = held_out_names(self.names)
        mask = torch.tensor([name in held for name in self.names])
        return torch.nonzero(~mask)[:, 0], torch.nonzero(mask)[:, 0]

    def batch(self, index: Tensor, *, flip: Tensor | None = None) -> Tensor:
        """Return images [N, 3, S, S] in [-1, 1], channels-last; ``flip`` [N] bool mirrors them."""
        images = self.images[index].float() / 127.5 - 1.0
        images = images if flip is None else torch.where(flip[:, None, None, None], images.flip(3), images)
        return images.contiguous(memory_format=torch.channels_last)  # encoders on CPUs are twice as fast in it
