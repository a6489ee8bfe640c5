"""Faces and what they look like in random looks: from which the landmark network learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from checkpoints.io import atomic_write
from data.random_drawings import DRAWN_SIDE
from data.random_looks import random_look
from training.pretrain.common import MissingStageError
from training.pretrain.drawings import labelled
from training.pretrain.faces import FacePack

# Looks in a file, and faces drawn in each look.
CHUNK, FACES = 10, 2


def paint_folder(pack: FacePack, folder: Path, *, count: int, size: int) -> dict[str, int]:
    """Draw faces in ``count`` random looks into files of a folder; an interrupted run goes on.

    Raises:
        MissingStageError: where the pack has no labelled training faces.
    """
    train = labelled(pack)
    folder.mkdir(parents=True, exist_ok=True)
    for start in tqdm(range(0, count, CHUNK), desc="paintings"):
        path = folder / f"looks_{start:05d}.npz"
        if path.exists():
            continue
        looks = [_drawn(pack, train, seed, size) for seed in range(start, min(start + CHUNK, count))]
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, drawn=np.stack(looks))
    return {"looks": count}


def _drawn(pack: FacePack, train: Tensor, seed: int, size: int) -> np.ndarray:
    """Return the faces drawn in one look, uint8 [FACES, 3, size, size]."""
    look, pictures = random_look(seed), []
    for number, index in enumerate(_chosen(train, seed)):
        image = F.interpolate(pack.batch(index[None]), size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic").clamp(-1.0, 1.0)
        picture = (image[0].permute(1, 2, 0).double().numpy() / 2.0 + 0.5).clip(0.0, 1.0)
        drawn = look(picture, pack.landmarks[index].double().numpy(), seed * (FACES + 1) + number)
        small = Image.fromarray((drawn * 255.0).round().astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)
        pictures.append(np.asarray(small).transpose(2, 0, 1))
    return np.stack(pictures)


def _chosen(train: Tensor, seed: int) -> Tensor:
    """Return the numbers [FACES] of the faces that a look is shown on."""
    # One more is drawn than is taken, as when the bundled network was trained.
    return train[np.random.default_rng([seed, 11]).choice(len(train), FACES + 1, replace=False)[:FACES]]


def labelled_paintings(pack: FacePack, folder: Path) -> FacePack:
    """Return the undeformed drawn faces of a folder with the landmarks of their photos, which come from ``pack``.

    Raises:
        MissingStageError: where there are none, or they are of another size than the pack's.
    """
    train, names, images, numbers = labelled(pack), [], [], []
    for path in sorted(folder.glob("looks_*.npz")):
        with np.load(path) as table:
            looks = table["drawn"]
        for seed, drawn in enumerate(looks, int(path.stem.removeprefix("looks_"))):
            names += [f"{seed}_{number}" for number in range(FACES)]
            images.append(drawn[:FACES])
            numbers.append(_chosen(train, seed))
    if not names:
        raise MissingStageError(f"{folder}: holds no paintings; run the paintings stage first")
    drawings, index = torch.from_numpy(np.concatenate(images)), torch.cat(numbers)
    if drawings.shape[3] != pack.images.shape[3]:
        raise MissingStageError(f"{folder}: holds paintings of {drawings.shape[3]} px, the pack faces of "
                                f"{pack.images.shape[3]} px; run the pack stage with --size {drawings.shape[3]}")
    return FacePack(names, drawings, pack.landmarks[index], pack.doubt[index])
