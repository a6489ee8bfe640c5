"""Faces drawn at random: in one of the looks of ``data.looks``, deformed and recoloured, by a seed."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.looks import LOOKS, DrawnLook
from data.warps import JAW, LEFT_BROW, LEFT_EYE, MOUTH, NOSE, RIGHT_BROW, RIGHT_EYE, Caricature, backward_grid, least_area

# The filters are made for 512 px; at this side they take a quarter of the time and look alike once they are shrunk.
DRAWN_SIDE = 256
LEAST_AREA = 0.05
# Chance of other colours than the look's own.
RECOLOURED = 0.7


def random_caricature(rng: torch.Generator) -> Caricature:
    """Return random factors that cover what styles do to faces."""
    low = torch.tensor([0.6, 0.7, 0.7, 0.7, 0.85])
    high = torch.tensor([1.9, 1.25, 1.5, 1.7, 1.2])
    return Caricature(*(torch.rand(5, generator=rng) * (high - low) + low).tolist())


def random_deformation(points: np.ndarray, rng: torch.Generator) -> np.ndarray:
    """Return landmarks [68, 2] deformed as freely as caricaturists do it: every part has a size and a place of its own.

    Both sides of a face change alike. Weaker where the warp would fold.
    """
    caricature, normal = random_caricature(rng), torch.randn(4, 4, generator=rng).numpy().astype(np.float64)
    strength = float(torch.rand(1, generator=rng)) * 1.6
    for degree in (strength, 0.6 * strength, 0.3 * strength):
        moved = _rearranged(caricature.scaled(degree).displace(points), normal * degree)
        if least_area(backward_grid(points, moved, 32)) > LEAST_AREA:
            return moved
    return points.astype(np.float64)


def _rearranged(points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return landmarks with outline, eyes with their brows, nose and mouth each scaled and shifted by normal numbers [4, 4]."""
    centres = [points[eye].mean(axis=0) for eye in (RIGHT_EYE, LEFT_EYE)]
    middle, unit = (centres[0] + centres[1]) / 2.0, np.linalg.norm(centres[1] - centres[0])
    parts = ((JAW, 0.12, 0.0), (None, 0.18, 0.05), (NOSE, 0.18, 0.07), (MOUTH, 0.25, 0.09))
    moved = points.copy()
    for (part, spread, reach), (wide, high, aside, down) in zip(parts, normal, strict=True):
        scale, shift = np.exp(spread * np.array([wide, high])), reach * unit * np.array([aside, down])
        if part is None:  # each eye about itself, both apart or together
            for eye, brow, sign in ((RIGHT_EYE, RIGHT_BROW, -1.0), (LEFT_EYE, LEFT_BROW, 1.0)):
                centre, away = points[eye].mean(axis=0), shift * np.array([sign, 1.0])
                moved[eye] = centre + (points[eye] - centre) * scale + away
                moved[brow] += away + np.array([0.0, (moved[eye, 1].min() - away[1] - points[eye, 1].min())])
            continue
        centre = middle if part is JAW else points[part].mean(axis=0)
        moved[part] = centre + (points[part] - centre) * scale + shift * np.array([0.3, 1.0])
    return moved


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


def random_drawing(face: Tensor, points: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a face drawn in a random look, [S, S, 3] in 0..1 with S = ``DRAWN_SIDE``; a seed means one look.

    Args:
        face: [1, 3, H, W] in [-1, 1].
        points: landmarks [68, 2] as fractions of the side.
        seed: of look, deformation and colours.
    """
    look = LOOKS[sorted(LOOKS)[int(np.random.default_rng(seed).integers(len(LOOKS)))]]
    image = F.interpolate(face, size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic", align_corners=False).clamp(-1.0, 1.0)
    return drawing(image, points, look, seed=seed, recoloured=RECOLOURED)[0]
