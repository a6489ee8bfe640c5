"""Faces and what they look like in random looks: from which the landmark network learns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from checkpoints.io import atomic_write
from data.random_drawings import DRAWN_SIDE, LEAST_AREA, random_caricature
from data.random_looks import random_look
from data.warps import backward_grid, least_area
from training.pretrain.common import MissingStageError
from training.pretrain.drawings import labelled
from training.pretrain.faces import FacePack

# Looks in a file, faces drawn in each look, and how many of these are deformed.
CHUNK, FACES, BENT = 10, 3, 1


def paint_folder(pack: FacePack, folder: Path, *, count: int, size: int, first: int = 0) -> dict[str, int]:
    """Draw faces in ``count`` random looks, ``first`` and up, into files of a folder; an interrupted run goes on.

    Raises:
        MissingStageError: where the pack has no labelled training faces.
    """
    train = labelled(pack)
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first, first + count, CHUNK)
    for start in tqdm(seeds, desc="paintings"):
        path = folder / f"looks_{start:05d}.npz"
        if path.exists():
            continue
        looks = [_drawn(pack, train, seed, size) for seed in range(start, min(start + CHUNK, first + count))]
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, plain=np.stack([plain for plain, _ in looks]), drawn=np.stack([drawn for _, drawn in looks]))
    return {"looks": count}


def _drawn(pack: FacePack, train: Tensor, seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the faces of one look, undrawn and drawn, uint8 [FACES, 3, S, S] each."""
    look, (faces, rng), chance = random_look(seed), _chosen(train, seed), torch.Generator().manual_seed(seed)
    pairs = []
    for number, index in enumerate(faces):
        image = F.interpolate(pack.batch(index[None]), size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic").clamp(-1.0, 1.0)
        points = pack.landmarks[index].double().numpy()
        if number >= FACES - BENT:
            moved = random_caricature(chance).scaled(rng.random()).displace(points)
            grid = backward_grid(points, moved, DRAWN_SIDE)
            if least_area(grid) > LEAST_AREA:
                image = F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
                points = moved
        picture = (image[0].permute(1, 2, 0).double().numpy() / 2.0 + 0.5).clip(0.0, 1.0)
        pairs.append([_shrunk(part, size) for part in (picture, look(picture, points, seed * FACES + number))])
    plain, drawn = zip(*pairs, strict=True)
    return np.stack(plain), np.stack(drawn)


def _chosen(train: Tensor, seed: int) -> tuple[Tensor, np.random.Generator]:
    """Return the numbers [FACES] of the faces that a look is shown on, and what random numbers go on with."""
    rng = np.random.default_rng([seed, 11])
    return train[rng.choice(len(train), FACES, replace=False)], rng


def _shrunk(picture: np.ndarray, size: int) -> np.ndarray:
    """Return a picture [S, S, 3] in 0..1 as uint8 [3, size, size]."""
    image = Image.fromarray((picture * 255.0).round().astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)


def labelled_paintings(pack: FacePack, folder: Path) -> FacePack:
    """Return the undeformed drawn faces of a folder with the landmarks of their photos, which come from ``pack``.

    Raises:
        MissingStageError: where there are none, or they are of another size than the pack's.
    """
    train, names, images, numbers = labelled(pack), [], [], []
    for path, part in _named_files(folder):
        for place, drawn in enumerate(part["drawn"]):
            seed = int(path.stem.removeprefix("looks_")) + place
            names += [f"{seed}_{number}" for number in range(FACES - BENT)]
            images.append(drawn[: FACES - BENT])
            numbers.append(_chosen(train, seed)[0][: FACES - BENT])
    if not names:
        raise MissingStageError(f"{folder}: holds no paintings; run the paintings stage first")
    drawings, index = torch.from_numpy(np.concatenate(images)), torch.cat(numbers)
    if drawings.shape[3] != pack.images.shape[3]:
        raise MissingStageError(f"{folder}: holds paintings of {drawings.shape[3]} px, the pack faces of "
                                f"{pack.images.shape[3]} px; run the pack stage with --size {drawings.shape[3]}")
    return FacePack(names, drawings, pack.landmarks[index], pack.doubt[index])


def _named_files(folder: Path) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
    for path in sorted(folder.glob("looks_*.npz")):
        with np.load(path) as table:
            yield path, {name: table[name] for name in ("plain", "drawn")}
