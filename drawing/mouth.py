"""The inside of a mouth: teeth, tongue and the dark behind them, in the light of a photo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from drawing.expression import INNER_CORNERS, LOWER_EDGE, LOWER_LIDS, UPPER_EDGE, UPPER_LIDS

if TYPE_CHECKING:
    from drawing.expressed import Seam, View

TEETH = Path(__file__).resolve().parent.parent / "data" / "teeth.png"
# In eye distances: gaps below which a mouth shows nothing of its inside, and the height of the upper teeth.
SHOWS, TEETH_HEIGHT = 0.035, 0.115
# A mouth whose gap grows by less than this factor keeps its own inside, stretched.
STRETCH = 1.5
# Colours of the dark and of the tongue over those of the lips, as light: red, green, blue.
DARK, TONGUE = (0.16, 0.10, 0.10), (0.62, 0.52, 0.52)
# Teeth over the whites of the eyes, in lightness.
TEETH_LIGHT = 1.0


@dataclass(frozen=True)
class Inside:
    """An open mouth that another photo lends: the aligned face [1, 3, S, S] and its mesh [468, 2] as fractions of the side."""

    image: Tensor
    mesh: np.ndarray


def gap_of(mesh: np.ndarray) -> float:
    """Return the height of an open mouth in a mesh [468, 2], in its unit."""
    return float(np.mean(mesh[list(LOWER_EDGE[3:6]), 1] - mesh[list(UPPER_EDGE[3:6]), 1]))


@lru_cache(maxsize=1)
def teeth() -> Tensor:
    """Return the bundled row of upper teeth, [1, 4, h, w]: colours and how opaque it is, in 0..1."""
    return torch.from_numpy(np.asarray(Image.open(TEETH), np.float32) / 255.0).permute(2, 0, 1)[None]


def colour_of(image: Tensor, view: View, polygon: np.ndarray, quantile: float) -> Tensor:
    """Return a colour [3] in 0..1 of what lies in the box of points [K, 2] of a frame: the mean of the pixels around a
    quantile of lightness."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    x, y = (torch.linspace(float(a), float(b), 24) for a, b in zip(low, high, strict=True))
    found = view.read(image, torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2))[0].flatten(1) / 2.0 + 0.5  # [3, 576]
    order = found.mean(dim=0).argsort()
    middle, reach = int(quantile * (len(order) - 1)), len(order) // 20
    return found[:, order[max(0, middle - reach):middle + reach + 1]].mean(dim=1).clamp(0.0, 1.0)


def white_of(image: Tensor, view: View, mesh: np.ndarray) -> Tensor:
    """Return the colour [3] of what is white in a face's light: of the eyes, and at least the light skin's lightness."""
    eyes = torch.stack([colour_of(image, view, mesh[[*UPPER_LIDS[i][1:-1], *LOWER_LIDS[i][1:-1]]], 0.95) for i in range(2)])
    eye = eyes[int(eyes.mean(dim=1).argmax())]
    skin = colour_of(image, view, mesh[[4, 50, 280, 9]], 0.9)
    white = torch.lerp(skin, skin.mean().expand(3), 0.75)
    return torch.maximum(eye, white)


def inside_of(image: Tensor, view: View, mesh: np.ndarray, wanted: np.ndarray, donor: Inside | None, lip: Seam,
              under_lip: Seam, unit: float) -> Tensor | None:
    """Return the inside of a mouth for the pixels of a view, [1, 3, h, w], or None where it is shut.

    A mouth that is open already keeps its own; the driving photo's comes next, then the bundled teeth.
    """
    own, goal = gap_of(mesh) / unit, gap_of(wanted) / unit
    if goal < max(SHOWS, STRETCH * own) and own < SHOWS:
        return None
    if goal < STRETCH * own:
        return _stretched(image, view, mesh, wanted, still=goal < own)
    if donor is not None and gap_of(donor.mesh) / unit > SHOWS:
        return _lent(image, view, mesh, wanted, donor)
    return _bundled(image, view, mesh, wanted, lip, under_lip, unit)


def _lips(mesh: np.ndarray) -> np.ndarray:
    return mesh[[INNER_CORNERS[0], *UPPER_EDGE, INNER_CORNERS[1], *LOWER_EDGE]]


def _stretched(image: Tensor, view: View, mesh: np.ndarray, wanted: np.ndarray, *, still: bool) -> Tensor:
    """Return a mouth's own inside: moved with the upper lip, or stretched where the mouth opens."""
    from drawing.expressed import offsets

    source, goal = _lips(mesh), _lips(wanted)
    if still:
        source = goal + (mesh - wanted)[list(UPPER_EDGE[3:6])].mean(axis=0)
    return view.read(image, view.places + offsets(source, goal, view.places))


def _lent(image: Tensor, view: View, mesh: np.ndarray, wanted: np.ndarray, donor: Inside) -> Tensor:
    """Return the inside of the driving photo's mouth, its lips laid on the wanted ones, in the person's light."""
    from drawing.expressed import View as Frame
    from drawing.expressed import offsets

    side = donor.image.shape[3]
    corners = np.array([[0.0, 0.0], [side, 0.0], [0.0, side]])
    frame = Frame.of((side, side), corners)
    found = frame.read(donor.image, view.places + offsets(_lips(donor.mesh), _lips(wanted), view.places))
    gain = white_of(image, view, mesh) / white_of(donor.image, frame, donor.mesh).clamp_min(0.05)
    return ((found / 2.0 + 0.5) * gain[None, :, None, None]).clamp(0.0, 1.0) * 2.0 - 1.0


def _bundled(image: Tensor, view: View, mesh: np.ndarray, wanted: np.ndarray, lip: Seam, under_lip: Seam, unit: float) -> Tensor:
    """Return upper teeth under the upper lip, the dark below them and a tongue, in the person's light."""
    places, goal = view.places, gap_of(wanted)
    lips = colour_of(image, view, mesh[[84, 314, 87, 317, 14, 17]], 0.5)
    (x0, _), (x1, _) = sorted(wanted[list(INNER_CORNERS)].tolist())
    along, down = (places[..., 0] - x0) / (x1 - x0), lip.below.clamp_min(0.0)
    depth = (down / (lip.below - under_lip.below).clamp_min(1e-4)).clamp(0.0, 1.0)
    dark, tongue = (lips * lips.new_tensor(c) for c in (DARK, TONGUE))
    around = (along - 0.5) / 0.36
    mound = torch.sigmoid((depth - 0.62 - 0.3 * around.square()) * 9.0) * min(1.0, max(0.0, goal / unit - 0.15) / 0.2)
    shade = 0.55 + 0.45 * torch.exp(-3.0 * around.square())
    made = torch.lerp(dark[:, None, None].expand(3, *along.shape), tongue[:, None, None] * shade, mound)
    # Teeth keep their height; they lie on a curve, so the row is drawn from the middle of the upper lip.
    height = min(TEETH_HEIGHT * unit, 1.05 * goal) if goal < 1.6 * TEETH_HEIGHT * unit else TEETH_HEIGHT * unit
    row = torch.stack([along * 2.0 - 1.0, down / height * 2.0 - 1.0], dim=2)[None]
    drawn = F.grid_sample(teeth(), row, mode="bicubic", padding_mode="zeros", align_corners=False)[0].clamp(0.0, 1.0)
    white = white_of(image, view, mesh) * TEETH_LIGHT
    corner = (1.0 - 0.55 * ((along - 0.5).abs() * 2.0).clamp(0.0, 1.0) ** 3)
    made = torch.lerp(made, drawn[:3] * white[:, None, None] * corner, drawn[3:])
    # The lip's shadow.
    made = made * (0.7 + 0.3 * (down / (0.04 * unit)).clamp(0.0, 1.0))
    return made[None] * 2.0 - 1.0
