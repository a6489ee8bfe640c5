"""The looks that drawn training faces have: how a face is drawn and how it is deformed, one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import filters_drawn as drawn
from data.warps import Caricature, deform


@dataclass(frozen=True)
class DrawnLook:
    """One look.

    Attributes:
        about: what it looks like.
        draw: the filter, see ``data.filters_drawn``.
        warp: how the face is deformed before it is drawn.
        options: of the filter.
        strength: of the warp, see ``Caricature.scaled``.
        held_out: kept for testing; no style is made of it and nothing is tuned to it.
    """

    about: str
    draw: Callable[..., np.ndarray]
    warp: Caricature
    options: dict[str, Any] = field(default_factory=dict)
    strength: float = 1.0
    held_out: bool = False


BLUE, CREAM, CHALK, BOARD = (0.10, 0.17, 0.55), (0.98, 0.96, 0.88), (0.95, 0.94, 0.88), (0.13, 0.22, 0.18)
LOOKS: dict[str, DrawnLook] = {
    "flat": DrawnLook("few flat colours, dark contours, yellow ground, narrow jaw", drawn.flat,
                      Caricature(eyes=1.3, jaw=0.84, mouth=1.2)),
    "ink": DrawnLook("black pen on white paper, hatched shades, pointed chin", drawn.ink,
                     Caricature(eyes=1.15, jaw=0.8, nose=1.15, length=1.05)),
    "oil": DrawnLook("brush strokes in strong warm colours, broad jaw and nose", drawn.oil,
                     Caricature(jaw=1.13, nose=1.2, mouth=1.1)),
    "pastel": DrawnLook("soft pale chalk on rough paper, round face, small mouth", drawn.pastel,
                        Caricature(eyes=1.25, jaw=1.12, length=0.94, mouth=0.85)),
    "cartoon": DrawnLook("animated film: very big bright eyes, small nose and mouth, smooth skin", drawn.cartoon,
                         Caricature(eyes=1.65, jaw=0.85, mouth=0.85, nose=0.75)),
    "caricature": DrawnLook("long face with ruddy nose and cheeks, brown pencil on cream", drawn.caricature,
                            Caricature(eyes=0.9, jaw=0.9, nose=1.25, length=1.24, lift=0.5)),
    "comic": DrawnLook("printed comic: bold black, red dots, blue ground, square jaw", drawn.comic,
                       Caricature(eyes=1.2, jaw=1.12, mouth=1.2)),
    "bluepen": DrawnLook("blue ballpoint on cream paper, wide grin", drawn.ink,
                         Caricature(eyes=1.2, jaw=0.92, mouth=1.35), {"colour": BLUE, "paper": CREAM, "shade": 0.6}),
    "watercolour": DrawnLook("transparent washes on white paper, small eyes, wide nose", drawn.watercolour,
                             Caricature(eyes=0.75, nose=1.4), held_out=True),
    "chalkboard": DrawnLook("white chalk on a dark green board, short face, wide mouth", drawn.ink,
                            Caricature(eyes=1.1, length=0.92, mouth=1.3), {"colour": CHALK, "paper": BOARD, "shade": 0.5},
                            held_out=True),
}


def look_named(name: str) -> DrawnLook:
    """Return a look; raises ValueError where there is none of that name."""
    if name not in LOOKS:
        raise ValueError(f"no look {name!r}; there are {', '.join(LOOKS)}")
    return LOOKS[name]


def draw_look(name: str, image: Tensor, points: np.ndarray, *, seed: int = 0, strength: float | None = None) -> Tensor:
    """Deform and draw a face.

    Args:
        name: of the look.
        image: [1, 3, S, S] in [-1, 1]; the filters are made for about 512 px.
        points: landmarks [68, 2] as fractions of the side.
        seed: of what the filter draws by chance.
        strength: of the warp; the look's own where None.

    Returns:
        The drawing [1, 3, S, S] in [-1, 1].

    Raises:
        ValueError: for an unknown look or a wrong shape.
    """
    look = look_named(name)
    if image.ndim != 4 or image.shape[:2] != (1, 3) or image.shape[2] != image.shape[3] or points.shape != (68, 2):
        raise ValueError(f"expected an image [1, 3, S, S] and landmarks [68, 2], got {list(image.shape)}, {points.shape}")
    warp = look.warp.scaled(look.strength if strength is None else strength)
    bent = deform(image, points, warp).clamp(-1.0, 1.0)
    picture = bent[0].permute(1, 2, 0).double().cpu().numpy() / 2.0 + 0.5  # [1, 3, S, S] -> [S, S, 3]
    result = look.draw(np.clip(picture, 0.0, 1.0), warp.displace(points), seed=seed, **look.options)
    return torch.from_numpy(np.clip(result, 0.0, 1.0) * 2.0 - 1.0).permute(2, 0, 1)[None].to(image)
