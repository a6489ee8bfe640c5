"""Painterly filters and known warps."""

from __future__ import annotations

import numpy as np
import torch

from data.filters import edge_strength, hatch, ink, kuwahara, match_colour, posterize
from data.warps import Caricature, backward_grid

SAMPLE = Caricature(eyes=1.45, jaw=0.78, mouth=1.3)


def face_points() -> np.ndarray:
    """A schematic face: 68 landmarks as fractions of the side."""
    points = np.zeros((68, 2))
    angle = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([0.5 + 0.25 * np.cos(angle), 0.45 + 0.35 * np.sin(angle)], 1)
    for start, x in ((17, 0.33), (22, 0.57)):
        points[start:start + 5] = np.stack([np.linspace(x, x + 0.12, 5), np.full(5, 0.37)], 1)
    points[27:31] = np.stack([np.full(4, 0.5), np.linspace(0.45, 0.55, 4)], 1)
    points[31:36] = np.stack([np.linspace(0.46, 0.54, 5), np.full(5, 0.57)], 1)
    ring = np.linspace(0, 2 * np.pi, 7)[:6]
    for start, x in ((36, 0.4), (42, 0.6)):
        points[start:start + 6] = np.stack([x + 0.04 * np.cos(ring), 0.45 + 0.015 * np.sin(ring)], 1)
    ring = np.linspace(0, 2 * np.pi, 21)[:20]
    points[48:68] = np.stack([0.5 + 0.09 * np.cos(ring), 0.68 + 0.03 * np.sin(ring)], 1)
    return points


def test_filters_keep_shape_and_range():
    image = torch.rand(2, 3, 32, 40) * 2 - 1
    one = torch.ones(2, 1, 1, 1)
    for result in (kuwahara(image), posterize(image, 4), ink(image), match_colour(image, image.flip(0)),
                   hatch(image, period=4 * one, angle=one, amount=0.5 * one)):
        assert result.shape == image.shape and result.min() >= -1.01 and result.max() <= 1.01
    assert len(posterize(image, 4).unique()) == 4


def test_kuwahara_smooths_noise_and_keeps_edges():
    image = torch.full((1, 3, 32, 32), -0.5)
    image[..., 16:] = 0.5
    noisy = image + 0.1 * torch.randn(image.shape)
    smooth = kuwahara(noisy, 3)
    assert (smooth - image).abs().mean() < 0.5 * (noisy - image).abs().mean()
    assert (smooth[..., 15] < 0).all() and (smooth[..., 16] > 0).all()


def test_edges_are_where_the_step_is():
    image = torch.full((1, 3, 8, 8), -1.0)
    image[..., 4:] = 1.0
    strength = edge_strength(image)
    assert strength[..., 3:5].min() > 0.9 and strength[..., :3].max() == 0


def test_caricature_moves_parts_as_named():
    points = face_points()
    assert np.allclose(Caricature().displace(points), points)
    moved = SAMPLE.displace(points)

    def width(p: np.ndarray, part: slice) -> float:
        return float(np.ptp(p[part, 0]))

    assert np.isclose(width(moved, slice(36, 42)) / width(points, slice(36, 42)), SAMPLE.eyes)
    assert np.isclose(width(moved, slice(48, 68)) / width(points, slice(48, 68)), SAMPLE.mouth)
    assert width(moved, slice(4, 13)) < width(points, slice(4, 13))
    long = Caricature(length=1.2).displace(points)
    assert long[8, 1] > points[8, 1] and np.allclose(long[36:48], points[36:48], atol=0.01)


def test_grid_carries_landmarks_to_their_places_and_holds_the_border():
    points = face_points()
    target = SAMPLE.displace(points)
    size = 128
    grid = backward_grid(points, target, size)[0].numpy()
    where = np.clip((target * size).astype(int), 0, size - 1)
    read = (grid[where[:, 1], where[:, 0]] + 1) / 2
    assert np.linalg.norm(read - points, axis=1).max() < 2.5 / size
    identity = backward_grid(points, points, size)[0].numpy()
    centres = (np.arange(size) + 0.5) / size * 2 - 1
    assert abs(identity[..., 0] - centres[None]).max() < 1e-3
    assert abs(grid[0, :, 1] + 1).max() < 0.03
