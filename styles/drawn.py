"""Drawing faces by the stages of ``drawing``: what kinds of styles that know a drawing have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints.builders import Base
from drawing.compose import PlacedFace, Strengths, draw_aligned, draw_picture
from drawing.context import landmarks_in, read_context
from drawing.style import FRAME, DrawnStyle, enlarged_picture
from drawing.warp import with_rings
from models.face import Face
from styles.controls import REGIONS, ByRegion, Control
from styles.regions import region_weights

DEFORMATION = Control("alpha", "deformation degree, 0 undeformed, 1 as the drawing, or degrees by region: eyes=1.2,mouth=0.4",
                      default=1.0, low=-0.5, high=1.5, sweep=(-0.5, 1.2), per="region", label="Deformation")
TONE = Control("tone_strength", "how far colours, contrast and sharpness go to the drawing's: 0 leaves the photo's, 1 all the "
               "way", default=1.0, high=1.0, label="Tone of the drawing")
STROKES = Control("stroke_strength", "how far the picture is drawn with the drawing's strokes: 0 not at all, 1 wholly",
                  default=1.0, high=1.0, label="Strokes of the drawing")
CONTROLS = (DEFORMATION, TONE, STROKES)

Grids = Callable[[Face, float | ByRegion, np.ndarray], Sequence[Tensor]]


@dataclass(frozen=True)
class FramedFace:
    """A face of a whole picture: its inversion, its mesh [1, 468, 3] as fractions of its aligned frame's side, three corners of
    that frame in px of the picture, see ``drawing.compose.PlacedFace``, and what edits changed in that frame, [1, 3, S, S]."""

    face: Face
    mesh: Tensor
    corners: Tensor
    change: Tensor | None = None


def no_grids(face: Face, alpha: float | ByRegion, landmarks: np.ndarray) -> Sequence[Tensor]:
    """Return the grids of a style without spatial transformers: none."""
    return ()


def undeformed(base: Base, face: Face) -> Tensor:
    """Return faces [N, 3, S, S] as a base shows them."""
    generator = base.generator
    image = generator.synthesis(face.w_plus, noise=generator.fixed_noise(), feature_transforms=face.transforms())
    return base.enlarge(image).clamp(-1.0, 1.0)


def strengths(values: Mapping[str, Any], mesh: Tensor) -> Strengths:
    """Return how far the stages go for a face with a mesh [1, 468, 3], by values of ``CONTROLS``."""
    alpha = values[DEFORMATION.name]
    if isinstance(alpha, ByRegion):
        weights = region_weights(with_rings(mesh)[0].cpu().numpy().astype(np.float64), landmarks_in(mesh))
        degrees = weights @ np.array([alpha.degree(name) for name in REGIONS])
        alpha = torch.from_numpy(degrees).float()[None, :, None].to(mesh)
    return Strengths(alpha, values[TONE.name], values.get(STROKES.name, 1.0))


def draw_faces(drawn: DrawnStyle, face: Face, values: Mapping[str, Any], *, picture: Callable[[Face], Tensor],
               grids: Grids) -> Tensor:
    """Return aligned faces [N, 3, S, S] drawn in a style, S being ``FRAME`` or the photos' own side where that is larger.

    Args:
        drawn: the style.
        face: N faces; what is known of them is read from their photos where they do not bring it.
        values: of ``CONTROLS``.
        picture: draws faces that have no photo.
        grids: the spatial transformers' sampling grids for one face, a degree of deformation and its landmarks.
    """
    images, made = enlarged_picture(picture(face) if face.photo is None else face.photo, FRAME), []
    for index, image in enumerate(images.float().split(1)):
        context = face.known[index] if face.known else read_context(image)
        alpha = values[DEFORMATION.name]
        own = grids(face[index:index + 1], alpha, landmarks_in(context.mesh))
        made.append(draw_aligned(image, context, drawn, strengths(values, context.mesh), grids=own))
    return torch.cat(made)


def draw_frame(drawn: DrawnStyle, image: Tensor, parts: Tensor, faces: Sequence[FramedFace], values: Mapping[str, Any], *,
               grids: Grids, inside: Tensor | None = None) -> Tensor:
    """Return a whole picture [1, 3, H, W] drawn in a style, see ``drawing.compose.draw_picture``."""
    placed, degrees = [], []
    for one in faces:
        own = grids(one.face, values[DEFORMATION.name], landmarks_in(one.mesh))
        placed.append(PlacedFace(with_rings(one.mesh), own, one.corners))
        degrees.append(strengths(values, one.mesh))
    return draw_picture(image, parts, placed, drawn, degrees, inside=inside)
