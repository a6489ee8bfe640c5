"""A folder of images in memory, and random batches of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.images import ImageError, list_images, read_image, to_tensor

MAX_BYTES = 8 << 30

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
            ImageError: naming the file, for images that are missing, cannot be read, or are too many for the memory.
        """
        paths = list_images(folder)
        if len(paths) * 3 * size * size > MAX_BYTES:
            raise ImageError(f"{folder}: holds {len(paths)} images, too many to keep at {size} px; give at most "
                             f"{MAX_BYTES // (3 * size * size)}")
        pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
        for index, path in enumerate(paths):
            image = read_image(path)
            shown = to_tensor(align(image, str(path)) if align else image, size)
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
