"""Where a drawing puts the landmarks of faces, and warps that put them there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data.landmarks68 import EYES, MIRROR, REGIONS
from models.look import landmark_grid
from models.sampling_grids import composed, moved_places, unfolded

# Mean distance of a face's landmarks from those of the pair's real face, in eye distances, at which it is no more that face by
# 1 / e: the same photo read again is below a third of that.
OWN = 0.05
# Root mean square of what landmarks of a part are read wrongly by in drawings, in eye distances: a part that moved by as much
# is completed by half.
READ = 0.03
# Landmarks of the inner lips, lower below upper, and all of both lips but their corners.
UPPER_INNER, LOWER_INNER = [61, 62, 63], [67, 66, 65]
UPPER_LIP, LOWER_LIP = [49, 50, 51, 52, 53, 61, 62, 63], [55, 56, 57, 58, 59, 65, 66, 67]
# How far lips of a mouth that is shut are read apart, in eye distances.
SHUT = 0.05
# Rounds of completing a warp; each brings landmarks nearer that lie close to others which move differently.
ROUNDS = 2


def eye_axis(points: Tensor) -> Tensor:
    """Return the vectors between the eye centres of landmarks [N, 68, 2], [N, 1, 2]."""
    first, second = (points[:, eye].mean(dim=1, keepdim=True) for eye in EYES)
    return second - first


def turned(vectors: Tensor, axis: Tensor, *, back: bool = False) -> Tensor:
    """Return vectors [N, K, 2] turned and scaled as ``axis`` [N, 1, 2] is to (1, 0), or back into its units."""
    along, across = axis[..., :1], axis[..., 1:]
    x, y = vectors[..., :1], vectors[..., 1:]
    if back:
        square = along.square() + across.square()
        return torch.cat([x * along + y * across, y * along - x * across], dim=2) / square
    return torch.cat([x * along - y * across, x * across + y * along], dim=2)


def common_displacement(source: Tensor, target: Tensor) -> Tensor:
    """Return how far landmarks move from ``source`` to ``target``, both [1, 68, 2], in units of the source's eye distance along
    the line through the eyes, [1, 68, 2].

    Only what both sides of the face have in common is kept: the rest is mostly the pose in which the head was drawn, which is
    no shape.
    """
    moved = turned(target - source, eye_axis(source), back=True)
    mirrored = moved[:, torch.from_numpy(MIRROR).to(moved.device)] * moved.new_tensor([-1.0, 1.0])
    return (moved + mirrored) / 2.0


def _as_open(moved: Tensor, points: Tensor, source: Tensor) -> Tensor:
    """Return displacements [N, 68, 2] for faces ``points`` of those [1, 68, 2] that landmarks ``source`` [1, 68, 2] have, all of
    ``common_displacement``'s kind."""
    open_by, theirs = (_between_lips(turned(face, eye_axis(face), back=True))[..., 1:] for face in (points, source))
    share = (open_by / theirs.clamp_min(SHUT)).clamp(0.0, 1.0)  # [N, 1, 1]
    less = (1.0 - share) * _between_lips(moved) / 2.0
    moved = moved.repeat(len(points), 1, 1)
    moved[:, UPPER_LIP] += less
    moved[:, LOWER_LIP] -= less
    return moved


def _between_lips(vectors: Tensor) -> Tensor:
    """Return how much those of the lower inner lip differ from those of the upper, of vectors [N, 68, 2], [N, 1, 2]."""
    return (vectors[:, LOWER_INNER] - vectors[:, UPPER_INNER]).mean(dim=1, keepdim=True)


def landmark_goals(points: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return where faces with landmarks ``points`` [N, 68, 2] have them in the style, [N, 68, 2].

    The pair's own real face goes where the drawing has it, with pose and all. Of how far the drawing opens or shuts the mouth
    others take as much as theirs is open beside that of the pair's: lips that are shut stay so.

    Args:
        points: as fractions of the side.
        source, target: landmarks [1, 68, 2] of the pair's real face and of its drawing.
    """
    goals = points + turned(_as_open(common_displacement(source, target), points, source), eye_axis(points))
    eyes = eye_axis(source).square().sum(dim=2).sqrt()
    away = (points - source).square().sum(dim=2).sqrt().mean(dim=1, keepdim=True) / eyes  # [N, 1]
    own = torch.exp(-(away / OWN).square())[:, :, None]
    return goals + own * (points + target - source - goals)


def trust(source: Tensor, target: Tensor) -> Tensor:
    """Return how far to believe in what landmarks say of each part, [1, 68, 1]: much where it moved by more than they err."""
    squares, shares = common_displacement(source, target).square().sum(dim=2, keepdim=True), []
    parts = sorted(REGIONS.values(), key=lambda part: part.start)
    for part in parts:
        square = squares[:, part].mean(dim=1, keepdim=True)
        shares.append((square / (square + READ**2)).expand(-1, part.stop - part.start, -1))
    return torch.cat(shares, dim=1)


def completed(grid: Tensor, before: Sequence[Tensor], points: Tensor, goals: Tensor, *,
              share: float | Tensor = 1.0) -> Tensor:
    """Return a sampling grid that, after those of the warps before it, carries landmarks to their goals, and folds nowhere.

    Control points are too far apart for what lies between them: an eye grows by half of what they are asked for.

    Args:
        grid: [N, S, S, 2].
        before: grids of the warps before it, in turn.
        points: landmarks [N, 68, 2] of the undeformed faces as fractions of the side.
        goals: where they shall be.
        share: of what is missing that is made good, [1 or N, 68, 1].
    """
    size = grid.shape[1]
    now = moved_places(points.to(grid), composed([*before, grid], size))
    goals = now + share * (goals.to(grid) - now)
    for _ in range(ROUNDS):
        grid = composed([grid, landmark_grid(goals, now, size)], size)
        now = moved_places(points.to(grid), composed([*before, grid], size))
    return unfolded(grid)
