"""A folder of portraits, aligned, as images of one size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data.images import ImageError, aligned_tensor, list_images, read_image, to_tensor
from faces.align import align_face
from faces.find import FinderSettings
from pipeline.cli import UserError, report

FEWEST = 2


def read_portraits(folder: Path, *, size: int, align: bool = True, recursive: bool = False,
                   finder: FinderSettings = FinderSettings()) -> tuple[list[str], Tensor]:
    """Return names and images [K, 3, size, size] in [-1, 1] of a folder's portraits.

    Files that cannot be read, show no face, or are taken as aligned and not square are left out, with a line on stderr that
    says so.

    Args:
        folder: of the portraits.
        size: side of the images in px.
        align: find and align the largest face of each; portraits are taken as aligned otherwise.
        recursive: sub-folders too.
        finder: how faces are found.

    Raises:
        ImageError: if there is no such folder, or no image in it.
        UserError: if fewer than two portraits are left.
    """
    paths, search = list_images(folder, recursive=recursive), finder.make() if align else None
    stems, names, images = output_stems(paths), [], []
    for path in paths:
        try:
            image = read_image(path)
            if search:
                landmarks = search.told(image, name=str(path))[0].landmarks
                images.append(to_tensor(align_face(image, landmarks, output_size=size), size))
            else:
                images.append(aligned_tensor(image, size, name=path))
        except (ImageError, UserError) as error:
            report(error)
            continue
        names.append(stems[path])
    if len(images) < FEWEST:
        raise UserError(f"{folder}: holds {len(images)} usable portraits, at least {FEWEST} are needed; add some")
    return names, torch.cat(images)


def output_stems(paths: list[Path]) -> dict[Path, str]:
    """Return an output stem per input; inputs that differ only in their suffix keep it, so none overwrites another."""
    stems = [path.stem for path in paths]
    return {path: path.stem if stems.count(path.stem) == 1 else path.name.replace(".", "_") for path in paths}
