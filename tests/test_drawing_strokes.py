"""Strokes: smoothing, features, and the quilt of the drawing's patches."""

from __future__ import annotations

import pytest
import torch
from drawn_styles import mean_mesh, parts_of, photo_of
from torch.nn import functional as F

from drawing.abstraction import abstracted
from drawing.strokes import CELL, PATCH, STEP, Strokes, drawn, feature_map, guides, lattice, quilted, smoothed

SIDE = 128


def parts_everywhere(part: int, side: int = SIDE) -> torch.Tensor:
    parts = torch.zeros(1, 4, side, side)
    parts[:, part] = 1.0
    return parts


def halves(side: int = SIDE) -> torch.Tensor:
    """Skin on the left, background on the right."""
    parts = torch.zeros(1, 4, side, side)
    parts[:, 0, :, :side // 2], parts[:, 2, :, side // 2:] = 1.0, 1.0
    return parts


def striped() -> Strokes:
    """A drawing with stripes across its skin, and along its background; no features."""
    stripes = 0.08 * torch.sin(torch.arange(SIDE) * 1.2)
    drawing = torch.where(torch.arange(SIDE) < SIDE // 2, stripes[:, None], stripes[None, :])
    return Strokes(drawing.expand(1, 3, SIDE, SIDE).contiguous(), F.avg_pool2d(halves(), CELL), torch.zeros(1, 1, SIDE, SIDE))


def test_smoothing_keeps_edges_and_takes_texture():
    rng = torch.Generator().manual_seed(0)
    image = torch.cat([torch.full((1, 3, 64, 32), -0.8), torch.full((1, 3, 64, 32), 0.8)], dim=3)
    soft = smoothed((image + 0.05 * torch.randn(1, 3, 64, 64, generator=rng)).clamp(-1.0, 1.0), 512)
    assert (soft - image)[..., :20].std() < 0.02 and (soft[..., 40:].mean() - soft[..., :24].mean()) > 1.5


def test_features_are_where_the_mesh_has_eyes_and_lips():
    mesh = mean_mesh()
    maps = feature_map(mesh, SIDE)[0, 0]
    for vertices in ((159, 145), (386, 374), (13, 14), (105,)):  # eyes, lips, a brow
        x, y = (mesh[0, list(vertices), :2].mean(dim=0) * SIDE).long().tolist()
        assert maps[y, x] > 0.7
    cheek = (mesh[0, 50, :2] * SIDE).long().tolist()
    assert maps[cheek[1], cheek[0]] < 0.05 and maps[0].max() == 0.0 and 0.05 < maps.mean() < 0.3


@pytest.mark.parametrize(("part", "axis"), [(0, 2), (2, 3)])
def test_patches_come_from_the_same_part(part, axis):
    """Stripes run across skin and along the background, so differences lie along one axis alone."""
    photo, parts = torch.zeros(1, 3, SIDE, SIDE), parts_everywhere(part)
    made = drawn(striped(), photo, parts, None, frame=SIDE)[0, 0, 8:-8, 8:-8]
    along, across = made.diff(dim=axis - 2).abs().mean(), made.diff(dim=3 - axis).abs().mean()
    assert along > 0.02 > 5.0 * across


def test_a_quilt_keeps_the_drawings_deviation_on_any_size():
    rng = torch.Generator().manual_seed(1)
    strokes = Strokes(0.05 * torch.randn(1, 3, SIDE, SIDE, generator=rng), F.avg_pool2d(parts_everywhere(0), CELL),
                      torch.zeros(1, 1, SIDE, SIDE))
    for height, width in ((PATCH - 9, 3 * STEP + 5), (200, 96), (SIDE, SIDE)):
        cells = (-(-height // CELL), -(-width // CELL))
        maps = guides(torch.zeros(1, 3, *cells), torch.eye(4)[0].view(1, 4, 1, 1).expand(1, 4, *cells), torch.zeros(1, 2, *cells))
        made = quilted(strokes, maps, SIDE, (height, width))
        assert made.shape == (1, 3, height, width)
        assert float(made.std() / strokes.detail.std()) == pytest.approx(1.0, abs=0.15)


def test_the_same_face_gets_the_same_strokes_and_features_keep_their_own():
    strokes, photo = striped(), photo_of(SIDE, 3)
    features = torch.zeros(1, 1, SIDE, SIDE)
    features[..., 40:80, 40:80] = 1.0
    told = torch.cat([lattice(SIDE), features], dim=1)
    first, second = (drawn(strokes, photo, parts_of(SIDE), told, frame=SIDE) for _ in range(2))
    assert torch.equal(first, second)
    inner = (..., slice(48, 72), slice(48, 72))
    own = torch.lerp(photo, abstracted(photo, SIDE), 0.5)  # no stroke of the drawing, and half of what abstraction takes
    assert torch.allclose(first[inner], own[inner], atol=0.02) and (first - photo)[..., :30].abs().mean() > 0.01


def test_strength_0_is_the_photo_and_half_lies_between():
    strokes, photo, parts = striped(), photo_of(SIDE), parts_of(SIDE)
    assert torch.equal(drawn(strokes, photo, parts, None, frame=SIDE, strength=0.0), photo)
    half, whole = (drawn(strokes, photo, parts, None, frame=SIDE, strength=strength) for strength in (0.5, 1.0))
    torch.testing.assert_close(2.0 * half - photo, whole)


def test_small_and_large_faces_are_drawn_too():
    for height, width, frame in ((50, 70, 40.0), (150, 170, 300.0), (300, 200, 900.0)):
        image = F.interpolate(photo_of(SIDE), size=(height, width))
        made = drawn(striped(), image, F.interpolate(parts_of(SIDE), size=(height, width)), None, frame=frame)
        assert made.shape == image.shape and torch.isfinite(made).all() and (made - image).abs().mean() > 0.001


def test_lines_much_stronger_than_is_usual_cost_more():
    rng = torch.Generator().manual_seed(2)
    drawing = 0.02 * torch.randn(1, 3, SIDE, SIDE, generator=rng)
    drawing[..., 100:104, :] = 0.15  # a contour on smooth skin
    strokes = Strokes(drawing, F.avg_pool2d(parts_everywhere(0), CELL), torch.zeros(1, 1, SIDE, SIDE))
    cost = strokes.at(SIDE)[2].reshape((SIDE - PATCH) // CELL + 1, -1)
    assert cost[:6].max() < 0.5 < 1.0 < cost[10].min()  # rows 80 to 120 hold the contour


def test_bytes_come_back():
    strokes = Strokes.of(photo_of(SIDE), parts_of(SIDE), mean_mesh())
    again = Strokes.of_bytes(*strokes.bytes_of(), mean_mesh())
    assert all(torch.equal(getattr(again, name), getattr(strokes, name)) for name in ("drawing", "parts", "features"))
    assert (strokes.drawing - photo_of(SIDE)).abs().max() <= 0.5 / 127.5 + 1e-6
