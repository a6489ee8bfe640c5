"""Compose: the stages put together, for one aligned face and for a whole picture with any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from drawing.context import FaceContext
from drawing.pyramids import enlarged
from drawing.strokes import feature_map
from drawing.style import DrawnStyle
from drawing.tone import toned
from drawing.warp import GRID, fading, goals, sampled, warp_grid, warped
from faces.parts import BACKGROUND
from models.sampling_grids import enlarged as enlarged_grid
from models.sampling_grids import pixel_lattice

# Side in px of the cells in which displacements of a whole picture are told, and the side of maps of what the drawing has where.
CELL, PLACES = 8, 64


@dataclass(frozen=True)
class Strengths:
    """How far each stage goes: ``alpha`` the deformation, a number or one per point [1, K, 1]; ``tone`` and ``strokes`` 0..1."""

    alpha: float | Tensor = 1.0
    tone: float = 1.0
    strokes: float = 1.0


@dataclass(frozen=True)
class PlacedFace:
    """A face in a picture.

    Attributes:
        points: [1, K, 2] as fractions of its aligned frame's side.
        grids: of the spatial transformers for it, see ``drawing.warp.warp_grid``.
        corners: top left, top right and bottom left corner of that frame in px of the picture, [3, 2].
    """

    points: Tensor
    grids: Sequence[Tensor]
    corners: Tensor


def normalised(parts: Tensor) -> Tensor:
    """Return soft maps [1, K, H, W] in 0..1 of sum 1, which sampling may have left a little outside."""
    parts = parts.clamp(0.0, 1.0)
    return parts / parts.sum(dim=1, keepdim=True).clamp_min(1e-6)


@torch.no_grad()
def draw_aligned(image: Tensor, context: FaceContext, style: DrawnStyle, strengths: Strengths, *,
                 grids: Sequence[Tensor] = ()) -> Tensor:
    """Return an aligned face [1, 3, S, S] drawn in a style.

    Args:
        image: in [-1, 1].
        context: what is known of it.
        style: how to draw.
        strengths: how far.
        grids: of the spatial transformers for this face, in turn.
    """
    grid, placed = maps_of(context.points, style, strengths, grids=grids)
    return draw_mapped(image, context.parts, grid, placed, style, strengths)


def maps_of(points: Tensor, style: DrawnStyle, strengths: Strengths, *, grids: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
    """Return the sampling grid [1, GRID, GRID, 2] of a face's warp, and what its places are in the drawing.

    The latter is [1, 3 K + 3, PLACES, PLACES]: the placed tones of the drawing's K parts, where in the drawing's frame the place
    is, x and y in -1..1, and how far it is an eye, brow, nostril or lip of the face.

    Args:
        points: of the face, [1, K, 2] as fractions of the frame's side.
        style, strengths, grids: see ``draw_aligned``.
    """
    wanted = goals(points, style.source, style.moved, strengths.alpha)
    there = enlarged_grid(warp_grid((), style.shape, wanted, size=PLACES // 2), PLACES)  # smooth, so half of the spline will do
    tones = sampled(style.tone.placed.flatten(0, 1)[None], there)  # [1, 3 K, PLACES, PLACES]
    return warp_grid(grids, points, wanted), torch.cat(
        [tones, there.permute(0, 3, 1, 2), feature_map(wanted, PLACES).to(tones)], dim=1)


def draw_mapped(image: Tensor, parts: Tensor, grid: Tensor, placed: Tensor, style: DrawnStyle, strengths: Strengths) -> Tensor:
    """Return an aligned face [1, 3, S, S] drawn by its ``maps_of``, its parts being [1, K, S, S]."""
    moved, parts = warped(image, grid), normalised(warped(parts, grid))
    return _drawn(moved, parts, placed, style, strengths, frame=image.shape[3])


def _drawn(image: Tensor, parts: Tensor, placed: Tensor, style: DrawnStyle, strengths: Strengths, *, frame: float) -> Tensor:
    """Return a deformed picture with tone and strokes; ``placed`` as of ``maps_of``, frame: side of the face's in px."""
    tones, told = placed.split([placed.shape[1] - 3, 3], dim=1)
    made = toned(image, parts, style.tone, frame=frame, placed=tones, strength=strengths.tone)
    return style.draw(made, parts, told, frame=frame, strength=strengths.strokes).clamp(-1.0, 1.0)


@torch.no_grad()
def draw_picture(image: Tensor, parts: Tensor, faces: Sequence[PlacedFace], style: DrawnStyle, strengths: Sequence[Strengths], *,
                 inside: Tensor | None = None) -> Tensor:
    """Return a whole picture drawn in a style: every face moves by its own warp, tone and strokes act on all of it.

    Warps die out before their face's frame ends, so nothing is cut out and there is no seam.

    Args:
        image: [1, 3, H, W] in [-1, 1].
        parts: of it, [1, K, H, W].
        faces: in it; at least one.
        style: how to draw.
        strengths: for each face; tone and strokes of the first count for the picture.
        inside: weights [1, 1, H, W] of where people are drawn; all else, and the background there too, stays as it is. None
            draws everything.

    Raises:
        ValueError: without a face.
    """
    if not faces:
        raise ValueError("a picture without a face cannot be drawn")
    height, width = image.shape[2:]
    small = (max(1, -(-height // CELL)), max(1, -(-width // CELL)))
    shift = image.new_zeros(1, 2, *small)
    placed, weight = image.new_zeros(1, 3 * parts.shape[1] + 3, *small), image.new_zeros(1, 1, *small)
    for face, how in zip(faces, strengths, strict=True):
        grid, own = maps_of(face.points, style, how, grids=face.grids)
        rest = pixel_lattice(GRID, mode="exact").reshape(1, GRID, GRID, 2).to(grid)
        there, window = frame_lookup(face.corners.to(image), small, (height, width))
        offsets = look_up((grid - rest).permute(0, 3, 1, 2), there)  # in units of half the frame's side
        across, down = (face.corners[1] - face.corners[0]) / 2.0, (face.corners[2] - face.corners[0]) / 2.0
        turn = torch.stack([across, down], dim=1).to(image)  # [2, 2]
        shift += window * torch.einsum("ij,njhw->nihw", turn, offsets)
        placed += window * look_up(own, there)
        weight += window
    crowded = weight.clamp_min(1.0)
    reading = reading_grid(shift / crowded, (height, width))
    moved, parts = sampled(image, reading), normalised(sampled(parts, reading))
    frame = float(max((face.corners[1] - face.corners[0]).norm() for face in faces))
    made = _drawn(moved, parts, placed / crowded, style, strengths[0], frame=frame)
    return made if inside is None else torch.lerp(moved, made, inside * (1.0 - parts[:, BACKGROUND:BACKGROUND + 1]))


def frame_lookup(corners: Tensor, small: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return where cells of a picture lie in a face's frame, [1, h, w, 2] in -1..1 inside of it, and how far they belong to it.

    Args:
        corners: of the frame in px of the picture, see ``PlacedFace``.
        small: number of cells (h, w).
        size: (H, W) of the picture in px.
    """
    y, x = ((torch.arange(count, dtype=torch.float32, device=corners.device) + 0.5) * side / count
            for count, side in zip(small, size, strict=True))
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)  # [h, w, 2]
    turn = torch.stack([corners[1] - corners[0], corners[2] - corners[0]], dim=1)
    there = (pixels - corners[0]) @ torch.linalg.inv(turn).T * 2.0 - 1.0
    window = look_up(fading(GRID).permute(0, 3, 1, 2).to(corners), there[None])
    return there[None], window * (there.abs() <= 1.0).all(dim=2)[None, None]


def look_up(maps: Tensor, there: Tensor) -> Tensor:
    """Return maps [1, C, h, w] of a frame read at places [1, H, W, 2] of it."""
    return F.grid_sample(maps, there.to(maps), mode="bilinear", padding_mode="border", align_corners=False)


def reading_grid(shift: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the sampling grid [1, H, W, 2] of displacements [1, 2, h, w] in px of a picture of ``size`` (H, W)."""
    height, width = size
    shift = enlarged(shift, size)
    y, x = ((torch.arange(side, dtype=torch.float32, device=shift.device) + 0.5) for side in size)
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)  # [H, W, 2]
    return 2.0 * (pixels[None] + shift.permute(0, 2, 3, 1)) / shift.new_tensor([width, height]) - 1.0


def around_faces(faces: Sequence[PlacedFace], image: Tensor) -> Tensor:
    """Return weights [1, 1, H, W] that are 1 at the faces of a picture [1, 3, H, W] and fall to 0 where their frames end."""
    height, width = image.shape[2:]
    small = (max(1, -(-height // CELL)), max(1, -(-width // CELL)))
    windows = [frame_lookup(face.corners.to(image), small, (height, width))[1] for face in faces]
    return enlarged(torch.stack(windows).amax(dim=0), (height, width))


def changed(image: Tensor, change: Tensor, corners: Tensor) -> Tensor:
    """Return a picture [1, 3, H, W] with a difference [1, 3, S, S] of a face's aligned frame added, which dies out at its border.

    Args:
        image: in [-1, 1].
        change: what the aligned face has more.
        corners: of the frame in px of the picture, see ``PlacedFace``.
    """
    size = (image.shape[2], image.shape[3])
    there, window = frame_lookup(corners.to(image), size, size)
    return (image + window * look_up(change.to(image), there)).clamp(-1.0, 1.0)
