"""The images of a pair: found, aligned where asked for, and turned into tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from data.images import ImageError, aligned_tensor, read_image, to_tensor
from training.finetune import Pair

PAIR_FOLDER = Path("data/style_images_aligned")
SUFFIXES = ("", ".png", ".jpg", ".jpeg")

Align = Callable[[Image.Image, str], Image.Image]
Check = Callable[[Sequence[tuple[str, Image.Image]]], None]


def find_image(name: str) -> Path:
    """Return the file of a path, or of a name under ``PAIR_FOLDER`` with or without its ending.

    Raises:
        ImageError: if there is none.
    """
    if Path(name).is_dir():
        raise ImageError(f"{name}: is a folder; name its images one by one")
    for folder in (Path(), PAIR_FOLDER):
        for suffix in SUFFIXES:
            path = folder / f"{name}{suffix}"
            if path.is_file():
                return path
    raise ImageError(f"{name}: no such image, neither as a path nor under {PAIR_FOLDER}")


def read_pair(
    source: str, target: str, style_ref: str | None, *, size: int, align: Align | None = None, check: Check | None = None,
) -> Pair:
    """Read a pair as tensors [1, 3, size, size].

    Args:
        source, target: paths or names.
        style_ref: real image of the adversarial term; the target where None.
        size: side in px.
        align: turns a photo and its name into the aligned face; None takes images as aligned.
        check: is given name and image of source and target before anything is made of them, and may raise.

    Raises:
        ImageError: for images that are missing or cannot be read, and a ``style_ref`` that is taken as aligned and not square.
    """
    images = {name: read_image(find_image(name)) for name in dict.fromkeys((source, target, style_ref or target))}
    if check is not None:
        check([(name, images[name]) for name in (source, target)])
    if style_ref not in (None, source, target) and align is None:
        aligned_tensor(images[style_ref], size, name=style_ref)
    tensors = {name: to_tensor(align(image, name) if align else image, size) for name, image in images.items()}
    return Pair(tensors[source], tensors[target], tensors[style_ref or target])
