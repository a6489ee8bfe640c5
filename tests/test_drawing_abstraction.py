"""Abstraction: directions, averages along them, and edges that become crisp where they are."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from drawing import abstraction
from drawing.abstraction import abstracted, averaged_along, directions, shocked

SIDE = 96


def stripes(angle: float, period: float = 20.0) -> torch.Tensor:
    """Stripes that run in a direction: 0 is along x, a quarter turn along y."""
    y, x = torch.meshgrid(torch.arange(SIDE) * 1.0, torch.arange(SIDE) * 1.0, indexing="ij")
    wave = torch.sin((y * math.cos(angle) - x * math.sin(angle)) * 2.0 * math.pi / period)
    return (0.5 * wave).expand(1, 3, SIDE, SIDE).contiguous()


def ramp(width: float) -> torch.Tensor:
    """Dark on the left, light on the right, with an edge of a width in px between."""
    step = torch.sigmoid((torch.arange(SIDE) - SIDE / 2 + 0.5) * 4.0 / width) * 1.2 - 0.6
    return step.expand(1, 3, SIDE, SIDE).contiguous()


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, math.pi / 2, 2.0, 3.0])
def test_directions_are_those_of_stripes(angle):
    along = directions(stripes(angle), 2.5)[0, :, 16:-16, 16:-16]
    assert ((along[0] * math.cos(angle) + along[1] * math.sin(angle)).abs() - 1.0).abs().max() < 0.01


def test_noise_goes_along_stripes_and_stripes_stay():
    clean, rng = stripes(0.4), torch.Generator().manual_seed(0)
    noisy = clean + 0.1 * torch.randn(1, 3, SIDE, SIDE, generator=rng)
    made = averaged_along(noisy, directions(noisy, 2.5), 2.0, 4, 3.0)
    inner = (..., slice(12, -12), slice(12, -12))
    assert (made - clean)[inner].std() < 0.45 * (noisy - clean)[inner].std()
    assert made[inner].std() > 0.9 * clean[inner].std()


def test_edges_become_crisp_where_they_are():
    soft = ramp(8.0)
    made = abstracted(soft, 512)
    assert made.diff(dim=3).max() > 1.6 * soft.diff(dim=3).max()
    crossing = (made[0, 0, SIDE // 2] > 0.0).nonzero().min()
    assert crossing == SIDE // 2
    assert made.max() <= soft.max() + 1e-5 and made.min() >= soft.min() - 1e-5


def test_what_is_flat_or_straight_stays():
    flat = torch.full((1, 3, SIDE, SIDE), 0.3)
    assert torch.allclose(abstracted(flat, 512), flat, atol=1e-6)
    slope = (torch.arange(SIDE) / SIDE).expand(1, 3, SIDE, SIDE).contiguous()
    made = shocked(slope, directions(slope, 2.5), 1.0)
    assert torch.allclose(made[..., 8:-8, 8:-8], slope[..., 8:-8, 8:-8], atol=1e-3)


def test_strips_are_as_the_whole(monkeypatch):
    image = F.avg_pool2d(torch.rand(1, 3, 400, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1, 5, 1, 2)
    whole = abstracted(image, 300)
    monkeypatch.setattr(abstraction, "ROWS", 128)
    assert (abstracted(image, 300) - whole).abs().max() < 1e-4


def test_sizes_go_with_the_face():
    small = ramp(6.0) * stripes(math.pi / 4).abs()
    large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    made = F.avg_pool2d(abstracted(large, 1024), 2)
    assert (made - abstracted(small, 512)).abs().mean() < 0.2 * (abstracted(small, 512) - small).abs().mean() + 0.01
