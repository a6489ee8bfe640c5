"""Drawn faces with known landmarks: training faces in the looks of ``data.looks``, deformed and recoloured at random."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from checkpoints import atomic_write
from data.images import save_image
from data.looks import LOOKS, DrawnLook
from data.warps import backward_grid, least_area
from training.pretrain.common import MissingStageError
from training.pretrain.faces import FacePack, jpeg_bytes, write_pack
from training.pretrain.landmark_network import random_caricature

# The filters are made for 512 px; at this side they take a quarter of the time and look alike once they are shrunk.
DRAWN_SIDE = 256
LEAST_AREA = 0.05
SAVE_EVERY = 200
MAX_DOUBT = 0.075


def taught_looks() -> dict[str, DrawnLook]:
    """Return the looks that may be trained on."""
    return {name: look for name, look in LOOKS.items() if not look.held_out}


def recoloured_at_random(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a drawing [S, S, 3] in 0..1 with its colours turned about the grey axis, and its tones bent."""
    angle = rng.uniform(-math.pi, math.pi) * 0.5
    axis = np.full(3, 1.0 / math.sqrt(3.0))
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    turn = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * np.outer(axis, axis)
    grey = picture.mean(axis=2, keepdims=True)
    chroma = (picture - grey) @ turn.T * rng.uniform(0.4, 1.4)
    return np.clip(np.clip(grey, 0.0, 1.0) ** rng.uniform(0.7, 1.5) + chroma, 0.0, 1.0)


def drawing(image: Tensor, points: np.ndarray, look: DrawnLook, *, seed: int, recoloured: float = 0.5
            ) -> tuple[np.ndarray, np.ndarray]:
    """Deform a face by a random caricature and draw it.

    Args:
        image: [1, 3, S, S] in [-1, 1].
        points: landmarks [68, 2] as fractions of the side.
        look: how to draw.
        seed: of all that is random.
        recoloured: chance of other colours.

    Returns:
        The drawing [S, S, 3] in 0..1 and its landmarks [68, 2].
    """
    rng, chance = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    side, points = image.shape[3], points.astype(np.float64)
    caricature = random_caricature(chance)
    for strength in (rng.uniform(0.0, 1.0), 0.4, 0.0):  # a warp that folds is tried more gently
        moved = caricature.scaled(strength).displace(points)
        grid = backward_grid(points, moved, side)
        if least_area(grid) > LEAST_AREA:
            break
    bent = F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    picture = bent[0].permute(1, 2, 0).double().numpy() / 2.0 + 0.5  # [1, 3, S, S] -> [S, S, 3]
    made = np.clip(look.draw(np.clip(picture, 0.0, 1.0), moved, seed=seed, **look.options), 0.0, 1.0)
    return (recoloured_at_random(made, rng) if rng.random() < recoloured else made), moved


def labelled(pack: FacePack) -> Tensor:
    """Return the numbers of a pack's training faces whose landmarks are sure.

    Raises:
        MissingStageError: where there are none.
    """
    train, _ = pack.split()
    train = train[pack.doubt[train] <= MAX_DOUBT]  # NaN, no label, compares as false
    if len(train) == 0:
        raise MissingStageError("the pack has no labelled training faces; run the pack stage with --landmarks")
    return train


def drawn_face(pack: FacePack, index: Tensor, look: DrawnLook, *, seed: int, size: int, recoloured: float = 0.5
               ) -> tuple[Image.Image, np.ndarray]:
    """Return one face of a pack as a drawing of ``size`` px, and its landmarks [68, 2]; see ``drawing``."""
    face = F.interpolate(pack.batch(index[None]), size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic").clamp(-1.0, 1.0)
    made, moved = drawing(face, pack.landmarks[index].numpy(), look, seed=seed, recoloured=recoloured)
    return Image.fromarray((made * 255.0).round().astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS), moved


def draw_folder(pack: FacePack, folder: Path, *, looks: Mapping[str, DrawnLook], count: int, size: int, recoloured: float,
                seed: int = 0) -> dict[str, int]:
    """Write ``count`` drawings of different training faces as PNG files of a folder, and what is true of them.

    ``truth.npz`` holds, in the files' order, ``names``, ``faces`` (names of the photos), ``looks``, and the landmarks
    [K, 68, 2] before and after the deformation, ``points`` and ``moved``.

    Raises:
        MissingStageError: where the pack has fewer labelled training faces.
    """
    train, rng = labelled(pack), np.random.default_rng(seed)
    if len(train) < count:
        raise MissingStageError(f"the pack has {len(train)} labelled training faces; {count} drawings need as many")
    folder.mkdir(parents=True, exist_ok=True)
    truth: dict[str, list] = {name: [] for name in ("names", "faces", "looks", "points", "moved")}
    for number, index in enumerate(tqdm(train[rng.permutation(len(train))[:count]], desc="drawings")):
        look = list(looks)[number % len(looks)]
        image, moved = drawn_face(pack, index, looks[look], seed=seed * count + number, size=size, recoloured=recoloured)
        name = f"{number:04d}.png"
        save_image(folder / name, image)
        facts = (name, pack.names[index], look, pack.landmarks[index].numpy(), moved)
        for values, value in zip(truth.values(), facts, strict=True):
            values.append(value)
    with atomic_write(folder / "truth.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **{name: np.array(values) for name, values in truth.items()})
    return {"drawings": count}


def draw_pack(pack: FacePack, output: Path, *, count: int, size: int, looks: Mapping[str, DrawnLook] | None = None,
              recoloured: float = 0.5) -> dict[str, int]:
    """Write a pack of ``count`` drawings of training faces, ``LOOK_NUMBER`` by name; an interrupted run goes on.

    Raises:
        MissingStageError: where the pack has no labelled training faces.
    """
    train, looks = labelled(pack), looks or taught_looks()
    names, blobs, points = [], [], []
    partial = output.with_suffix(".partial.npz")
    if partial.exists():
        table = np.load(partial)
        names, points = [str(name) for name in table["names"]][:count], list(table["landmarks"])[:count]
        blobs = np.split(table["data"], table["ends"][:-1])[:count]

    def save(path: Path) -> None:
        write_pack(path, names, list(blobs), size=size, landmarks=np.stack(points).astype(np.float32),
                   doubt=np.zeros(len(names), np.float32))

    for number in tqdm(range(len(names), count), desc="drawings", initial=len(names), total=count):
        rng = np.random.default_rng([number, count])
        index, name = train[rng.integers(len(train))], list(looks)[rng.integers(len(looks))]
        image, moved = drawn_face(pack, index, looks[name], seed=number, size=size, recoloured=recoloured)
        names.append(f"{name}_{number:05d}"), blobs.append(jpeg_bytes(image)), points.append(moved)
        if len(names) % SAVE_EVERY == 0:
            save(partial)
    save(output)
    partial.unlink(missing_ok=True)
    return {"drawings": len(names)}
