"""Faces drawn at random: in one of the looks of ``data.looks``, deformed and recoloured, by a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.looks import LOOKS, DrawnLook
from data.warps import Caricature, backward_grid, least_area

# The filters are made for 512 px; at this side they take a quarter of the time and look alike once they are shrunk.
DRAWN_SIDE = 256
LEAST_AREA = 0.05
# Chance of other colours than the look's own.
RECOLOURED = 0.7


def taught_looks() -> dict[str, DrawnLook]:
    """Return the looks that may be trained on."""
    return {name: look for name, look in LOOKS.items() if not look.held_out}


def random_caricature(rng: torch.Generator) -> Caricature:
    """Return random factors that cover what styles do to faces."""
    low = torch.tensor([0.6, 0.7, 0.7, 0.7, 0.85])
    high = torch.tensor([1.9, 1.25, 1.5, 1.7, 1.2])
    return Caricature(*(torch.rand(5, generator=rng) * (high - low) + low).tolist())


def recoloured_at_random(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a drawing [S, S, 3] in 0..1 with its colours turned about the grey axis, and its tones bent."""
    angle = rng.uniform(-math.pi, math.pi) * 0.5
    axis = np.full(3, 1.0 / math.sqrt(3.0))
    cross = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
    turn = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * np.outer(axis, axis)
    grey = picture.mean(axis=2, keepdims=True)
    chroma = (picture - grey) @ turn.T * rng.uniform(0.4, 1.4)
    return np.clip(np.clip(grey, 0.0, 1.0) ** rng.uniform(0.7, 1.5) + chroma, 0.0, 1.0)


def drawing(image: Tensor, points: np.ndarray, look: DrawnLook, *, seed: int, recoloured: float = 0.5, own_warp: bool = False,
            least_warp: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Deform a face by a random caricature, or by the look's own, and draw it.

    Args:
        image: [1, 3, S, S] in [-1, 1].
        points: landmarks [68, 2] as fractions of the side.
        look: how to draw.
        seed: of all that is random.
        recoloured: chance of other colours.
        own_warp: deform as the look says.
        least_warp: least strength of a random caricature; the most is 1.

    Returns:
        The drawing [S, S, 3] in 0..1 and its landmarks [68, 2].
    """
    rng, chance = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    side, points = image.shape[3], points.astype(np.float64)
    caricature = look.warp if own_warp else random_caricature(chance)
    # A warp that folds is tried more gently.
    for strength in (look.strength if own_warp else rng.uniform(least_warp, 1.0), 0.6, 0.4, 0.0):
        moved = caricature.scaled(strength).displace(points)
        grid = backward_grid(points, moved, side)
        if least_area(grid) > LEAST_AREA:
            break
    bent = F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    picture = bent[0].permute(1, 2, 0).double().numpy() / 2.0 + 0.5  # [1, 3, S, S] -> [S, S, 3]
    made = np.clip(look.draw(np.clip(picture, 0.0, 1.0), moved, seed=seed, **look.options), 0.0, 1.0)
    return (recoloured_at_random(made, rng) if rng.random() < recoloured else made), moved


def random_drawing(face: Tensor, points: np.ndarray, *, seed: int, looks: Mapping[str, DrawnLook] | None = None) -> np.ndarray:
    """Return a face drawn in a random look, [S, S, 3] in 0..1 with S = ``DRAWN_SIDE``; a seed means one look.

    Args:
        face: [1, 3, H, W] in [-1, 1].
        points: landmarks [68, 2] as fractions of the side.
        seed: of look, deformation and colours.
        looks: to choose from; all that may be taught where None.
    """
    looks = looks or taught_looks()
    look = looks[sorted(looks)[int(np.random.default_rng(seed).integers(len(looks)))]]
    image = F.interpolate(face, size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic", align_corners=False).clamp(-1.0, 1.0)
    return drawing(image, points, look, seed=seed, recoloured=RECOLOURED)[0]
