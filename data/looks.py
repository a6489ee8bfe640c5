"""The looks that drawn training faces have: how a face is drawn and how it is deformed, one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data import filters_drawn as drawn
from data.warps import Caricature


@dataclass(frozen=True)
class DrawnLook:
    """One look.

    Attributes:
        about: what it looks like.
        draw: the filter, see ``data.filters_drawn``.
        warp: how the face is deformed before it is drawn.
        options: of the filter.
        strength: of the warp, see ``Caricature.scaled``.
    """

    about: str
    draw: Callable[..., np.ndarray]
    warp: Caricature
    options: dict[str, Any] = field(default_factory=dict)
    strength: float = 1.0


BLUE, CREAM = (0.10, 0.17, 0.55), (0.98, 0.96, 0.88)
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
}
