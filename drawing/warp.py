"""Warp: the photo itself, moved as the drawing moves its own face, at any resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from faces.topology import BRIDGE, EYES, LOWER_INNER, LOWER_LIP, MIRROR, OVAL, UPPER_INNER, UPPER_LIP
from models.sampling_grids import composed, enlarged, pixel_lattice, unfolded
from models.spline import frame_points, spline_values

# Rings around the face, which carry ears and hair along: the oval, this many times as large.
RINGS = (1.2, 1.45)
POINTS = 468 + len(RINGS) * len(OVAL)
# Side of sampling grids: warps are smooth, so finer ones say no more.
GRID = 64
# Regularisation of the spline through the mesh: vertices close to each other may disagree a little.
SMOOTHING = 1e-4
# A gap between lips below this share of the eye distance is a shut mouth.
SHUT = 0.05


def with_rings(mesh: Tensor) -> Tensor:
    """Return the points that a warp is told by: meshes [N, 468, 2 or 3] and rings around them, [N, POINTS, 2]."""
    mesh = mesh[..., :2]
    middle = mesh[:, list(BRIDGE)].mean(dim=1, keepdim=True)
    oval = mesh[:, list(OVAL)]
    return torch.cat([mesh, *(middle + size * (oval - middle) for size in RINGS)], dim=1)


def mirror_of_points() -> Tensor:
    """Return for each of the ``POINTS`` which one lies there on the other side of the face."""
    ring = [OVAL.index(MIRROR[vertex]) for vertex in OVAL]
    rings = [468 + len(OVAL) * i + place for i in range(len(RINGS)) for place in ring]
    return torch.tensor([*MIRROR, *rings])


def eye_axis(points: Tensor) -> Tensor:
    """Return the vectors between the middles of the eyes, [N, 1, 2]."""
    left, right = (points[:, list(eye)].mean(dim=1, keepdim=True) for eye in EYES)
    return right - left


def turned(vectors: Tensor, axis: Tensor, *, back: bool = False) -> Tensor:
    """Return vectors [N, K, 2] turned and scaled as ``axis`` [N, 1, 2] is to (1, 0), or back into its units."""
    x, y, along, across = vectors[..., :1], vectors[..., 1:], axis[..., :1], axis[..., 1:]
    if back:
        square = (along.square() + across.square()).clamp_min(1e-12)
        return torch.cat([x * along + y * across, y * along - x * across], dim=2) / square
    return torch.cat([x * along - y * across, x * across + y * along], dim=2)


def symmetric_displacement(source: Tensor, target: Tensor, *, axis: Tensor, mirror: Tensor) -> Tensor:
    """Return how points move from one place to another, in units of an axis and turned with it, as far as both sides do so.

    The rest is mostly the pose in which a head was drawn: (d + d mirrored) / 2 with d the displacement.

    Args:
        source, target: [1, K, 2].
        axis: from eye to eye, [1, 1, 2].
        mirror: for each point that on the other side of the face, [K].
    """
    moved = turned(target - source, axis, back=True)
    return (moved + moved[:, mirror.to(moved.device)] * moved.new_tensor([-1.0, 1.0])) / 2.0


def deformation(source: Tensor, target: Tensor) -> Tensor:
    """Return how a drawing moves the points [1, POINTS, 2] of a face, see ``symmetric_displacement``."""
    return symmetric_displacement(source, target, axis=eye_axis(source), mirror=mirror_of_points())


def goals(points: Tensor, source: Tensor, moved: Tensor, alpha: float | Tensor) -> Tensor:
    """Return where faces have their points in the style, [N, K, 2].

    Of how far the drawing opens or shuts the mouth, a face takes as much as its own is open beside that of the pair's photo:
    lips that are shut stay so.

    Args:
        points: of the faces, [N, K, 2].
        source: of the pair's photo, [1, K, 2].
        moved: what ``deformation`` says, [1, K, 2].
        alpha: degree of deformation, a number or [1 or N, K, 1].
    """
    open_by, theirs = (_gap(turned(face, eye_axis(face), back=True)) for face in (points, source))
    share = (open_by[..., 1:] / theirs[..., 1:].clamp_min(SHUT)).clamp(0.0, 1.0)
    less = (1.0 - share) * _gap(moved) / 2.0
    moved = moved.repeat(len(points), 1, 1)
    moved[:, list(UPPER_LIP)] += less
    moved[:, list(LOWER_LIP)] -= less
    return points + alpha * turned(moved, eye_axis(points))


def _gap(vectors: Tensor) -> Tensor:
    """Return how much vectors [N, K, 2] of the lower lip's inner edge differ from those of the upper, [N, 1, 2]."""
    return (vectors[:, list(LOWER_INNER)] - vectors[:, list(UPPER_INNER)]).mean(dim=1, keepdim=True)


def fading(size: int, *, width: float = 0.1) -> Tensor:
    """Return weights [1, size, size, 1] that are 1 inside of a frame and fall to 0 at its border, over a share ``width``."""
    lattice = pixel_lattice(size, mode="exact").reshape(1, size, size, 2)
    inside = ((1.0 - lattice.abs().amax(dim=3, keepdim=True)) / (2.0 * width)).clamp(0.0, 1.0)
    return inside * inside * (3.0 - 2.0 * inside)


def warp_grid(grids: Sequence[Tensor], points: Tensor, wanted: Tensor, *, size: int = GRID) -> Tensor:
    """Return the sampling grid of the style's warp, [1, size, size, 2].

    The transformers' grids are composed into one, which a smoothing spline through the points completes: where the face has its
    points in the style, the grid reads where they were. It dies out towards the frame and folds nowhere.

    Args:
        grids: of the spatial transformers, [1, R, R, 2] each, in turn; none where there are none.
        points: of the face, [1, K, 2] as fractions of the frame's side.
        wanted: where the style has them.
        size: of the grid.
    """
    rest = pixel_lattice(size, mode="exact").reshape(1, size, size, 2).to(points)
    grid = composed(list(grids), size).to(points) if grids else rest
    grid = rest + fading(size).to(points) * (grid - rest)
    inside = ((points[0] > 0.01) & (points[0] < 0.99) & (wanted[0] > 0.01) & (wanted[0] < 0.99)).all(dim=1)
    before, after = points[:, inside], wanted[:, inside]
    read = F.grid_sample(grid.permute(0, 3, 1, 2), 2.0 * after[:, :, None] - 1.0, mode="bilinear", padding_mode="border",
                         align_corners=False)[..., 0].transpose(1, 2)
    frame = frame_points().to(points.device).expand(len(points), -1, -1)
    knots = torch.cat([after.double(), frame], dim=1).cpu()
    missing = torch.cat([(2.0 * before - 1.0 - read).double(), torch.zeros_like(frame)], dim=1).cpu()
    offsets = spline_values(knots, missing, (rest.reshape(-1, 2) / 2.0 + 0.5).cpu(), smoothing=SMOOTHING)
    return unfolded(grid + offsets.reshape(1, size, size, 2).to(points))


def sampled(image: Tensor, grid: Tensor) -> Tensor:
    """Return images [N, C, h, w] read at a sampling grid [N, H, W, 2], bicubically, mirrored at the border."""
    if image.device.type == "mps":  # Metal has no bicubic sampling at given places
        return sampled(image.cpu(), grid.cpu()).to(image.device)
    return F.grid_sample(image, grid.to(image), mode="bicubic", padding_mode="reflection", align_corners=False)


def warped(image: Tensor, grid: Tensor) -> Tensor:
    """Return square images [N, C, S, S] moved by a sampling grid [N, R, R, 2], each pixel read once."""
    return sampled(image, enlarged(grid, image.shape[3]))
