"""What a pair, several pairs or one drawing alone say of a style before anything is trained, and what strokes are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from checkpoints.builders import Base
from checkpoints.features import load_squeezenet
from checkpoints.paths import starter_dir
from drawing.compose import Strengths, maps_of, normalised
from drawing.context import FaceContext, aligned_mesh, identity_grid, read_context
from drawing.style import DrawnStyle, enlarged_picture
from drawing.tone import read_tone, toned
from drawing.warp import sampled, warped, with_rings
from faces.mesh import landmarks_of
from models.sampling_grids import moved_places
from training.registration import register
from training.strokes import Lesson

MEAN_MESH = "faces/mean_mesh.safetensors"
# Below this score of the mesh network a picture shows no face that could be drawn after.
LEAST_SCORE = 0.5
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
    """

    drawing: Tensor
    photo: Tensor
    parts: Tensor
    style: DrawnStyle
    points: Tensor

    def lesson(self) -> Lesson:
        """Return what strokes are learned from."""
        placed = sampled(self.style.tone.placed, identity_grid(32))
        tone = toned(self.photo, self.parts, self.style.tone, frame=self.photo.shape[3], placed=placed)
        return Lesson(tone.clamp(-1.0, 1.0), self.parts, self.drawing)


def mesh_of(image: Tensor, name: str) -> Tensor:
    """Return the mesh [1, 468, 3] of an aligned picture.

    Raises:
        ValueError: naming it, if there is no face where one should be.
    """
    mesh, score = aligned_mesh(image)
    if score < LEAST_SCORE:
        raise ValueError(f"{name}: shows no face where an aligned picture has it (score {score:.2f}); use --align, or another "
                         "picture")
    return mesh


def example_of_pair(source: Tensor, target: Tensor, *, names: tuple[str, str] = ("source", "target")) -> Example:
    """Return what a pair [1, 3, S, S] each says.

    Raises:
        ValueError: if one of them shows no face.
    """
    meshes = tuple(mesh_of(image, name) for image, name in zip((source, target), names, strict=True))
    grid = register(source, target, meshes, load_squeezenet())
    before = with_rings(meshes[0])
    after = moved_places(before, grid, steps=12)
    photo, own, drawn = warped(source, grid), read_context(source, meshes[0]), read_context(target, meshes[1])
    parts = normalised(warped(own.parts, grid))
    style = DrawnStyle.of_points(before, after, read_tone(target, drawn.parts, photo, parts))
    places = torch.from_numpy(landmarks_of(meshes[0][0].numpy()))[None].float()
    return Example(target, photo, parts, style, torch.cat([places, moved_places(places, grid, steps=12)]))


def example_of_drawing(target: Tensor, *, name: str = "target") -> Example:
    """Return what one drawing [1, 3, S, S] says without a photo: it is held against the mean face.

    The mean face is laid over the drawing's by the similarity that fits best; what it then lacks is the deformation. The photo that
    strokes are learned from is the drawing with its strokes softened by guided filters (He et al. 2010).

    Raises:
        ValueError: if it shows no face.
    """
    mesh = mesh_of(target, name)
    mean = load_file(starter_dir().parent / MEAN_MESH)["mean"][None]
    fitted = in_frame_of(mesh[..., :2], mean)
    context = read_context(target, mesh)
    soft = target
    for radius in SOFTENING:
        soft = softened(soft, radius * target.shape[3] / 512.0)
    style = DrawnStyle.of_points(with_rings(mean), with_rings(fitted), read_tone(target, context.parts, None, None))
    # The mean face has no depth of its own; the landmarks of both are told with the drawing's.
    places = [torch.from_numpy(landmarks_of(torch.cat([points, mesh[..., 2:]], dim=2)[0].numpy())).float()
              for points in (mean, fitted)]
    return Example(target, soft, context.parts, style, torch.stack(places))


def in_frame_of(points: Tensor, reference: Tensor) -> Tensor:
    """Return points [1, K, 2] turned, scaled and moved onto others by the similarity of least squares (Umeyama 1991)."""
    middles = [each.mean(dim=1, keepdim=True) for each in (points, reference)]
    first, second = (torch.view_as_complex((each - middle).contiguous()) for each, middle in
                     zip((points, reference), middles, strict=True))
    turn = (first.conj() * second).sum() / first.abs().square().sum()
    return torch.view_as_real(first * turn) + middles[1]


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
    return DrawnStyle.mix([example.style for example in examples], [1.0 / len(examples)] * len(examples))
