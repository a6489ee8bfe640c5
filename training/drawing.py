"""What a pair, several pairs or one drawing alone say of a style before anything is trained, and what strokes are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from checkpoints.builders import Base
from checkpoints.features import load_squeezenet
from drawing.compose import Strengths, maps_of, normalised
from drawing.context import FaceContext, read_context
from drawing.reading import in_frame_of, mean_mesh, mean_style, mesh_of, style_of_drawing
from drawing.style import DrawnStyle, enlarged_picture
from drawing.tone import read_tone, toned
from drawing.warp import warped, with_rings
from faces.mesh import landmarks_of
from models.sampling_grids import moved_places
from training.registration import register
from training.strokes import Lesson

# Random faces that the strokes are kept clean on, and their seed.
OTHERS, OTHERS_SEED = 6, 77
# Radii in px of 512 of the filters that take a drawing's own strokes away, and the variance of colours that they keep.
SOFTENING, SOFT = (4, 6), 0.01


@dataclass(frozen=True)
class Example:
    """A pair told apart: the drawing, the photo brought to its shape with its parts, and the points of both.

    Attributes:
        drawing: [1, 3, S, S] in [-1, 1].
        photo: likewise, in the drawing's shape; the softened drawing where there is no photo.
        parts: of ``photo``, [1, K, S, S].
        style: without strokes.
        points: landmarks of photo, or of the mean face, and of the drawing, [2, 68, 2] as fractions of the side, for
            ``training.guide``.
        is_alone: whether there is no photo.
    """

    drawing: Tensor
    photo: Tensor
    parts: Tensor
    style: DrawnStyle
    points: Tensor
    is_alone: bool = False

    def lesson(self) -> Lesson:
        """Return what strokes are learned from."""
        tone = self.style.tone
        if self.is_alone:  # what stands for its photo has the drawing's own means
            tone = replace(tone, photo_mean=tone.mean)
        made = toned(self.photo, self.parts, tone, frame=self.photo.shape[3], placed=tone.placed.flatten(0, 1)[None])
        return Lesson(made.clamp(-1.0, 1.0), self.parts, self.drawing)


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
    parts = normalised(warped(own.parts, grid))
    agreed = parts * read_context(target, meshes[1]).parts  # what photo and drawing both say
    style = DrawnStyle.of_points(before, after, read_tone(target, agreed, photo, agreed))
    places = torch.from_numpy(landmarks_of(meshes[0][0].numpy()))[None].float()
    return Example(target, photo, parts, style, torch.cat([places, moved_places(places, grid, steps=12)]))


def example_of_drawing(target: Tensor, *, name: str = "target") -> Example:
    """Return what one drawing [1, 3, S, S] says without a photo: it is held against the mean face.

    See ``drawing.reading.style_of_drawing``. The photo that strokes are learned from is the drawing with its strokes softened by
    guided filters (He et al. 2010).

    Raises:
        ValueError: if it shows no face.
    """
    mesh = mesh_of(target, name)
    context = read_context(target, mesh)
    soft = target
    for radius in SOFTENING:
        soft = softened(soft, radius * target.shape[3] / 512.0)
    # The mean face has no depth of its own; the landmarks of both are told with the drawing's.
    mean = mean_mesh()
    places = [torch.from_numpy(landmarks_of(torch.cat([points, mesh[..., 2:]], dim=2)[0].numpy())).float()
              for points in (mean, in_frame_of(mesh[..., :2], mean))]
    return Example(target, soft, context.parts, style_of_drawing(target, context), torch.stack(places), True)


def softened(image: Tensor, radius: float) -> Tensor:
    """Return an image [1, 3, S, S] smoothed but for its edges: the guided filter with the image as its own guide.

    q = mean(a) I + mean(b) with a = var / (var + e), b = (1 - a) mean, in windows of ``radius`` px, in opponent colours.
    """
    size = 2 * max(1, round(radius)) + 1

    def mean(maps: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(maps, (size // 2,) * 4, mode="reflect")
        return torch.nn.functional.avg_pool2d(padded, size, 1)

    middle = mean(image)
    spread = (mean(image.square()) - middle.square()).clamp_min(0.0)
    share = spread / (spread + SOFT)
    return mean(share) * image + mean((1.0 - share) * middle)


def other_faces(base: Base, style: DrawnStyle, *, count: int = OTHERS, side: int = 512) -> list[tuple[Tensor, Tensor]]:
    """Return random faces of a base, warped and toned by a style, with their parts."""
    from pipeline.sampling import base_faces, shown

    found = []
    for index in range(count):
        image = enlarged_picture(shown(base, base_faces(base, OTHERS_SEED, [index], truncation_psi=0.8)), side)
        context = read_context(image.clamp(-1.0, 1.0))
        found.append(warped_and_toned(image, context, style))
    return found


@torch.no_grad()
def warped_and_toned(image: Tensor, context: FaceContext, style: DrawnStyle) -> tuple[Tensor, Tensor]:
    """Return what strokes are put on, [1, 3, S, S], and its parts, as ``drawing.compose.draw_aligned`` makes it."""
    grid, placed = maps_of(context.points, style, Strengths())
    parts = normalised(warped(context.parts, grid))
    tone = toned(warped(image, grid), parts, style.tone, frame=image.shape[3], placed=placed)
    return tone.clamp(-1.0, 1.0), parts


def style_of(examples: Sequence[Example]) -> DrawnStyle:
    """Return the style that several examples have in common, without strokes."""
    return mean_style([example.style for example in examples])
