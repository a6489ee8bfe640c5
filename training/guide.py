"""Landmark term of fine-tuning: a face's landmarks move as the drawing moves those of the pair's real face."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.landmarks68 import EYES, MIRROR
from drawing.warp import symmetric_displacement, turned
from models.landmarks import surest

# Above this disagreement with the mirrored image, as a share of the eye distance, landmarks are no guide.
MOST_DOUBT = 0.12


def eye_axis(points: Tensor) -> Tensor:
    """Return the vectors between the eye centres of landmarks [N, 68, 2], [N, 1, 2]."""
    first, second = (points[:, eye].mean(dim=1, keepdim=True) for eye in EYES)
    return second - first


class LandmarkGuide:
    """Where landmarks should go, learned from one pair.

    The displacement of each landmark from source to target is kept in units of the source's eye distance and turned
    with the line through the eyes, so that it fits faces of any size and roll. Only the part that is the same on both
    sides of the face is kept: the rest is mostly the pose in which the head was drawn, which is no shape. Half of the
    term's weight is shared evenly, half by how far the drawing moves each landmark: eyes are 12 points of 68, and large
    eyes would otherwise count little beside all that stays in place.

    Args:
        net: maps images [N, 3, S, S] to something with ``points`` [N, 68, 2], see ``models.landmarks``; frozen.
        source: real reference [1, 3, S, S] in [-1, 1].
        target: style reference [1, 3, S, S].
        points: landmarks of both where they are known, [2, 68, 2] as fractions of the side.

    Attributes:
        points: landmarks [2, 68, 2] of source and target as fractions of the side.
        doubt: how far the landmarks of the pair are from those of its mirrored images, as a share of the eye distance.
    """

    def __init__(self, net: nn.Module, *, source: Tensor, target: Tensor, points: Tensor | None = None) -> None:
        self.net = net
        with torch.no_grad():
            doubt = torch.zeros(1)
            if points is None:
                points, doubt = surest(self._read, torch.cat([source, target]))
            self.points, self.doubt = points.to(source), float(doubt.max())  # [2, 68, 2], fractions
            points = self.points
            self.displacement = symmetric_displacement(
                points[:1], points[1:], axis=eye_axis(points[:1]), mirror=torch.from_numpy(MIRROR))  # [1, 68, 2]
            far = self.displacement.norm(dim=2)
            self.weights = (1.0 / far.numel() + far / (far.sum() + 1e-8)) / 2.0  # [1, 68]

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return landmarks [N, 68, 2] of images and their mirrored images, and their doubt [N]."""
        points, mirrored = (self.net(x).points for x in (images, images.flip(3)))
        mirrored = mirrored[:, torch.from_numpy(MIRROR)] * points.new_tensor([-1.0, 1.0]) + points.new_tensor([1.0, 0.0])
        doubt = (points - mirrored).norm(dim=2).mean(dim=1) / eye_axis(points).norm(dim=2)[:, 0]
        return (points + mirrored) / 2.0, doubt

    @property
    def is_sure(self) -> bool:
        """True where the landmarks of the pair can be relied upon."""
        return self.doubt <= MOST_DOUBT

    def goal(self, points: Tensor) -> Tensor:
        """Return where landmarks [N, 68, 2] should be in the style, [N, 68, 2]."""
        return points + turned(self.displacement, eye_axis(points))

    def term(self, base: Tensor, stylized: Tensor) -> Tensor:
        """Return the weighted mean distance of the stylized faces' landmarks from their goals, in eye distances.

        Args:
            base: undeformed images [N, 3, S, S].
            stylized: [N, 3, S, S].
        """
        with torch.no_grad():
            points = self.net(base).points
            goal = self.goal(points)
        squared = (self.net(stylized).points - goal).square().sum(dim=2)  # [N, 68]
        distance = (squared + 1e-8).sqrt() / eye_axis(points).norm(dim=2)
        return (distance * self.weights).sum(dim=1).mean()
