"""What one picture alone says of a style: its tone by part, and its shape beside the mean face; no photo, no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from data.images import to_tensor
from drawing.compose import look_up
from drawing.context import FaceContext, aligned_mesh, landmarks_in, read_context
from drawing.pyramids import resized
from drawing.strokes import CELL, Strokes
from drawing.style import FRAME, DrawnStyle
from drawing.tone import OCTAVES, matched_octaves, read_tone
from drawing.warp import warp_grid, warped, with_rings
from faces.align import align_face, ffhq_quad
from faces.find import FaceFinder
from faces.parts import PARTS
from faces.topology import OVAL

MEAN_MESH = Path(__file__).parent.parent / "checkpoints" / "faces" / "mean_mesh.safetensors"
# Below this score of the mesh network a picture shows no face that could be drawn after.
LEAST_SCORE = 0.5
# How far the rings around the face move beside its outline, where no photo tells: what is farther out, hair and ears, less.
RING_SHARES = (1.0, 0.5)
# Rounds in which a drawing is brought to a natural shape and read again.
ROUNDS = 3
# A picture whose face would be cut out with its corners and sides nearly where they are is an aligned face as it is.
MOST_AWAY = 0.12
UNIT_SQUARE = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
# Least side in px that a picture's tone is read at.
LEAST_SIDE = 128


@lru_cache(maxsize=1)
def mean_mesh() -> Tensor:
    """Return the mesh of the mean face, [1, 468, 2] as fractions of an aligned frame's side."""
    return load_file(MEAN_MESH)["mean"][None, :, :2]


def mesh_of(image: Tensor, name: str) -> Tensor:
    """Return the mesh [1, 468, 3] of an aligned picture, read once.

    Raises:
        ValueError: naming it, if there is no face where one should be.
    """
    mesh, score = aligned_mesh(image)
    if score < LEAST_SCORE:
        raise ValueError(f"{name}: shows no face where an aligned picture has it (score {score:.2f}); use --align, or another "
                         "picture")
    return mesh


def drawn_mesh(image: Tensor, mesh: Tensor) -> Tensor:
    """Return the mesh [1, 468, 3] of an aligned drawing, found from a first reading.

    The network that reads meshes has seen photos, and takes a drawn face for a more natural one than it is. So the drawing is
    moved to where what was read would be the mean face, read again, and the reading moved back, a few times.

    Args:
        image: [1, 3, S, S] in [-1, 1].
        mesh: what ``aligned_mesh`` reads in it, [1, 468, 3].
    """
    for _ in range(ROUNDS):
        mean = in_frame_of(mean_mesh().to(image), mesh[..., :2])
        grid = warp_grid((), with_rings(mesh), with_rings(mean))
        found, score = aligned_mesh(warped(image, grid))
        if score < LEAST_SCORE:
            break
        back = look_up(grid.permute(0, 3, 1, 2), 2.0 * found[:, :, None, :2] - 1.0)[..., 0].transpose(1, 2)
        mesh = torch.cat([back / 2.0 + 0.5, found[..., 2:]], dim=2)
    return mesh


def in_frame_of(points: Tensor, reference: Tensor) -> Tensor:
    """Return points [1, K, 2] turned, scaled and moved onto others by the similarity of least squares (Umeyama 1991)."""
    middles = [each.mean(dim=1, keepdim=True) for each in (points, reference)]
    first, second = (torch.view_as_complex((each - middle).contiguous()) for each, middle in
                     zip((points, reference), middles, strict=True))
    turn = (first.conj() * second).sum() / first.abs().square().sum()
    return torch.view_as_real(first * turn) + middles[1]


def style_of_drawing(image: Tensor, context: FaceContext) -> DrawnStyle:
    """Return what an aligned drawing [1, 3, S, S] says of its style: it is held against the mean face.

    The drawing's face is laid over the mean one by the similarity that fits best; what then differs is the deformation.
    """
    mean = mean_mesh().to(image)
    moved = in_frame_of(context.mesh[..., :2], mean) - mean
    oval = moved[:, list(OVAL)]
    before = with_rings(mean)
    after = before + torch.cat([moved, *(share * oval for share in RING_SHARES)], dim=1)
    style = DrawnStyle.of_points(before, after, read_tone(image, context.parts, None, None))
    return style.with_strokes(image, context.parts)


def style_of_portrait(image: Tensor, *, side: int = FRAME) -> DrawnStyle | None:
    """Return the style of an aligned portrait [1, 3, S, S] in [-1, 1], or None where it shows no face.

    Args:
        image: the portrait.
        side: at which its frame was cut out of the picture, in px: what is finer than that was never in it.
    """
    image = resized(image, (FRAME, FRAME))
    mesh, score = aligned_mesh(image)
    if score < LEAST_SCORE:
        return None
    mesh, fine = drawn_mesh(image, mesh), _power_of_two(side)
    context = read_context(image, mesh)
    smaller = FaceContext(mesh, resized(context.parts, (fine, fine)))
    return comparable(style_of_drawing(resized(image, (fine, fine)), smaller))


def style_without_face(image: Tensor) -> DrawnStyle:
    """Return the style of a picture [1, 3, H, W] that shows no face: all parts take the tone of the whole, in no places, and
    nothing is deformed."""
    fine = _power_of_two(min(image.shape[2:]))
    image = resized(image, (fine, fine))
    even = image.new_full((1, len(PARTS), fine, fine), 1.0 / len(PARTS))
    tone, points = read_tone(image, even, None, None), with_rings(mean_mesh().to(image))
    tone = replace(tone, placed=torch.zeros_like(tone.placed))
    cells = fine // CELL
    strokes = Strokes(image, even[:, :, :cells, :cells], image.new_zeros(1, 1, fine, fine))
    return comparable(DrawnStyle(points, torch.zeros_like(points), tone, ((strokes, 1.0),)))


def style_of_picture(picture: Image.Image, finder: Callable[[], FaceFinder], *, device: torch.device | str = "cpu"
                     ) -> tuple[DrawnStyle, bool]:
    """Return the style of any RGB picture, and whether there is a face in it; without one the whole picture counts.

    A picture that is an aligned face stays as it is, for cutting it anew costs its finest strokes, and so does one in which the
    mesh network sees a face about there, but the finder sees none.
    """
    whole = to_tensor(picture, FRAME).to(device)
    mesh, score = aligned_mesh(whole)
    seen = score >= LEAST_SCORE and abs(picture.width / picture.height - 1.0) <= MOST_AWAY
    if seen and np.abs(ffhq_quad(landmarks_in(mesh)) - UNIT_SQUARE).max() <= MOST_AWAY:
        return style_of_portrait(whole, side=min(picture.size)), True
    faces = finder().find(picture)
    if faces:
        quad = ffhq_quad(faces[0].landmarks)
        cut = to_tensor(align_face(picture, faces[0].landmarks, output_size=FRAME), FRAME).to(device)
        found = style_of_portrait(cut, side=int(np.hypot(*(quad[3] - quad[0]))))
        if found is not None:
            return found, True
    if seen:
        return style_of_portrait(whole, side=min(picture.size)), True
    return style_without_face(to_tensor(picture, min(FRAME, max(LEAST_SIDE, *picture.size))).to(device)), False


def comparable(style: DrawnStyle) -> DrawnStyle:
    """Return a style whose tone has ``OCTAVES`` octaves, so that styles of larger and smaller pictures can be mixed."""
    tone = style.tone
    return replace(style, tone=replace(tone, energy=matched_octaves(tone.energy, OCTAVES),
                                       sparsity=matched_octaves(tone.sparsity, OCTAVES, fall=1.0)))


def mean_style(styles: Sequence[DrawnStyle]) -> DrawnStyle:
    """Return what several styles have in common: the mean of all that they say, and the strokes of the one whose tones are
    nearest to that, since a mean of strokes has none."""
    mean = DrawnStyle.mix(styles, [1.0 / len(styles)] * len(styles))
    nearest = min(styles, key=lambda style: float((style.tone.mean - mean.tone.mean).square().sum()))
    return replace(mean, strokes=nearest.strokes)


def _power_of_two(side: int) -> int:
    """Return the largest power of two up to a side, within ``LEAST_SIDE`` and ``FRAME``: octaves of detail then match."""
    return max(LEAST_SIDE, min(FRAME, 1 << (max(1, side).bit_length() - 1)))
