"""Drawn faces with known landmarks: training faces in the looks of ``data.looks``, deformed and recoloured at random."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

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


def drawing(image: Tensor, points: np.ndarray, look: DrawnLook, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Deform a face by a random caricature and draw it.

    Args:
        image: [1, 3, S, S] in [-1, 1].
        points: landmarks [68, 2] as fractions of the side.
        look: how to draw.
        seed: of all that is random.

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
    return (recoloured_at_random(made, rng) if rng.random() < 0.5 else made), moved


def draw_pack(pack: FacePack, output: Path, *, count: int, size: int) -> dict[str, int]:
    """Write a pack of ``count`` drawings of training faces, ``LOOK_NUMBER`` by name; an interrupted run goes on.

    Raises:
        MissingStageError: where the pack has no labelled training faces.
    """
    train, _ = pack.split()
    train = train[pack.doubt[train] <= MAX_DOUBT]  # NaN, no label, compares as false
    if len(train) == 0:
        raise MissingStageError("the pack has no labelled training faces; run the pack stage with --landmarks")
    names, blobs, points, looks = [], [], [], taught_looks()
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
        face = F.interpolate(pack.batch(index[None]), size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic").clamp(-1.0, 1.0)
        made, moved = drawing(face, pack.landmarks[index].numpy(), looks[name], seed=number)
        image = Image.fromarray((made * 255.0).round().astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)
        names.append(f"{name}_{number:05d}"), blobs.append(jpeg_bytes(image)), points.append(moved)
        if len(names) % SAVE_EVERY == 0:
            save(partial)
    save(output)
    partial.unlink(missing_ok=True)
    return {"drawings": len(names)}
