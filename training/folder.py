"""A folder of images in memory, and random batches of it; what a folder or tar of aligned faces must be."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import torch
from PIL import Image
from torch import Tensor

from data.images import FORMATS, ImageError, aligned_tensor, list_images, read_image, squeezed, to_tensor

MAX_BYTES = 8 << 30
# Endings of the images that are packed.
PACKED = (".jpg", ".jpeg", ".png", ".webp")

Align = Callable[[Image.Image, str], Image.Image]


class FolderImages:
    """Images of one size as bytes.

    Args:
        pixels: [N, 3, S, S] uint8.
        names: of the images.
        device: where batches are wanted.

    Raises:
        ValueError: for another shape, or no images.
    """

    def __init__(self, pixels: Tensor, names: Sequence[str], *, device: torch.device | str = "cpu") -> None:
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels) or len(pixels) != len(names):
            raise ValueError(f"expected images [N, 3, S, S] and as many names, got {list(pixels.shape)} and {len(names)}")
        self.pixels, self.names, self.device = pixels, tuple(names), torch.device(device)

    @classmethod
    def read(cls, folder: str | Path, *, size: int, align: Align | None = None, device: torch.device | str = "cpu"
             ) -> FolderImages:
        """Read the images of a folder, or one image, at ``size`` px.

        Args:
            folder: is read without its sub-folders.
            size: side in px.
            align: turns a photo and its name into the aligned face; None takes images as aligned.
            device: where batches are wanted.

        Raises:
            ImageError: naming the file, for images that are missing, cannot be read, are taken as aligned and not square, or are
                too many for the memory.
        """
        paths = list_images(folder)
        if len(paths) * 3 * size * size > MAX_BYTES:
            raise ImageError(f"{folder}: holds {len(paths)} images, too many to keep at {size} px; give at most "
                             f"{MAX_BYTES // (3 * size * size)}")
        pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
        for index, path in enumerate(paths):
            image = read_image(path)
            shown = to_tensor(align(image, str(path)), size) if align else aligned_tensor(image, size, name=path)
            pixels[index] = ((shown[0] + 1.0) * 127.5).round().to(torch.uint8)
        return cls(pixels, [path.name for path in paths], device=device)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> int:
        """Side in px."""
        return self.pixels.shape[3]

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels, 32 hex digits."""
        return hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()[:32]

    def batch(self, index: Tensor | Sequence[int], *, flip: Tensor | None = None) -> Tensor:
        """Return images [N, 3, S, S] in [-1, 1]; those whose ``flip`` [N] is true mirrored."""
        images = self.pixels[torch.as_tensor(index)].float() / 127.5 - 1.0
        if flip is not None:
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    def random(self, count: int, *, mirror: bool, rng: torch.Generator) -> Tensor:
        """Return random images [count, 3, S, S], half of them mirrored where ``mirror``."""
        index = torch.randint(len(self), (count,), generator=rng)
        flip = torch.rand(count, generator=rng) < 0.5
        return self.batch(index, flip=flip if mirror else None)


def check_aligned(source: Path) -> None:
    """Check that the images of a folder with its sub-folders, or of a tar, can be read and are square, before they are packed.

    Raises:
        ImageError: naming the file and what to do, where one is not square or no image, or there is none.
    """
    name = None
    try:
        for name, file in _packed_files(source):
            with file, Image.open(file, formats=FORMATS) as image:
                size = image.size
                image.draft("RGB", (64, 64))  # JPEG files are read at a fraction of their size
                image.load()
            if line := squeezed(name, size, remedy="cut it to a square, as face_align.py does"):
                raise ImageError(line)
    except tarfile.TarError as error:
        raise ImageError(f"{source}: is neither a folder nor a tar that can be read ({error}); name a folder") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name or source}: is no image that can be read; take it away, or get it again") from error
    if name is None:
        raise ImageError(f"{source}: holds no images; supported are {', '.join(PACKED)}")


def _packed_files(source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and open file of every image of a folder or tar."""
    if source.is_dir():
        for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in PACKED):
            yield str(path), path.open("rb")
        return
    with tarfile.open(source) as archive:
        for member in archive:
            if member.isfile() and Path(member.name).suffix.lower() in PACKED:
                yield f"{source}: {member.name}", archive.extractfile(member)
