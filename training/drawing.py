"""What a pair, several pairs or one drawing alone say of a style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from checkpoints.features import load_squeezenet
from drawing.compose import normalised
from drawing.context import read_context
from drawing.reading import drawn_mesh, in_frame_of, mean_mesh, mean_style, mesh_of, style_of_drawing
from drawing.style import DrawnStyle
from drawing.tone import read_tone
from drawing.warp import warped, with_rings
from faces.mesh import landmarks_of
from models.sampling_grids import moved_places
from training.registration import register


@dataclass(frozen=True)
class Example:
    """What a drawing says, with its photo or alone.

    Attributes:
        drawing: [1, 3, S, S] in [-1, 1].
        style: what the drawing stages take from it.
        points: landmarks of photo, or of the mean face, and of the drawing, [2, 68, 2] as fractions of the side, for
            ``training.guide``.
    """

    drawing: Tensor
    style: DrawnStyle
    points: Tensor


def example_of_pair(source: Tensor, target: Tensor, *, names: tuple[str, str] = ("source", "target")) -> Example:
    """Return what a pair [1, 3, S, S] each says.

    Raises:
        ValueError: if one of them shows no face.
    """
    meshes = tuple(mesh_of(image, name) for image, name in zip((source, target), names, strict=True))
    grid = register(source, target, meshes, load_squeezenet())
    before = with_rings(meshes[0])
    after = moved_places(before, grid, steps=12)
    photo, own = warped(source, grid), read_context(source, meshes[0])
    # What photo and drawing both say.
    agreed = normalised(warped(own.parts, grid)) * read_context(target, meshes[1]).parts
    style = DrawnStyle.of_points(before, after, read_tone(target, agreed, photo, agreed)).with_strokes(target, agreed)
    places = torch.from_numpy(landmarks_of(meshes[0][0].numpy()))[None].float()
    return Example(target, style, torch.cat([places, moved_places(places, grid, steps=12)]))


def example_of_drawing(target: Tensor, *, name: str = "target") -> Example:
    """Return what one drawing [1, 3, S, S] says without a photo: it is held against the mean face, see
    ``drawing.reading.style_of_drawing``.

    Raises:
        ValueError: if it shows no face.
    """
    mesh, mean = drawn_mesh(target, mesh_of(target, name)), mean_mesh()
    # The mean face has no depth of its own; the landmarks of both are told with the drawing's.
    places = [torch.from_numpy(landmarks_of(torch.cat([points, mesh[..., 2:]], dim=2)[0].numpy())).float()
              for points in (mean, in_frame_of(mesh[..., :2], mean))]
    return Example(target, style_of_drawing(target, read_context(target, mesh)), torch.stack(places))


def style_of(examples: Sequence[Example]) -> DrawnStyle:
    """Return the style that several examples have in common."""
    return mean_style([example.style for example in examples])
