"""The drawing stages one by one: pyramids, warp, strokes, and what a style's file holds of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from drawn_styles import drawn_style, mean_mesh, parts_of, photo_of
from torch.nn import functional as F

from drawing.pyramids import collapsed, filled, from_opponent, laplacian, opponent, resized
from drawing.style import DrawnStyle
from drawing.warp import GRID, eye_axis, fading, goals, mirror_of_points, sampled, turned, warp_grid, warped, with_rings
from faces.topology import LOWER_INNER, LOWER_LIP, UPPER_INNER
from models.sampling_grids import pixel_lattice

REST = pixel_lattice(GRID, mode="exact").reshape(1, GRID, GRID, 2)


def determinants(grid: torch.Tensor) -> torch.Tensor:
    """Determinants of a sampling grid's Jacobian in the corners of its cells, in units of a resting cell."""
    cell = 2.0 / grid.shape[1]
    across, down = (grid[:, :, 1:] - grid[:, :, :-1]) / cell, (grid[:, 1:] - grid[:, :-1]) / cell
    return torch.stack([x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
                        for x in (across[:, :-1], across[:, 1:]) for y in (down[:, :, :-1], down[:, :, 1:])])


@pytest.mark.parametrize(("size", "levels"), [((64, 64), 3), ((37, 50), 4), ((5, 9), 2)])
def test_collapse_inverts_the_pyramid(size, levels):
    image = torch.rand(2, 3, *size)
    bands, low = laplacian(image, levels)
    assert len(bands) == levels and tuple(bands[0].shape[2:]) == size
    torch.testing.assert_close(collapsed(bands, low), image)
    torch.testing.assert_close(from_opponent(opponent(image)), image)
    assert torch.equal(resized(image, size), image)


def test_filled_keeps_pixels_of_weight_and_takes_the_rest_from_around():
    image = torch.rand(1, 3, 45, 70)
    weight = torch.zeros(1, 1, 45, 70)
    weight[..., :20] = 1.0
    image[..., :20] = 0.25 + 0.01 * image[..., :20]
    made = filled(image, weight)
    torch.testing.assert_close(made[..., :20], image[..., :20])
    assert (made - 0.255).abs().max() < 0.02  # nothing of the other pixels, which go up to 1
    assert torch.isfinite(filled(image, torch.zeros_like(weight))).all()


def test_no_degree_moves_nothing_and_shapes_are_symmetric():
    style, points = drawn_style(), with_rings(mean_mesh())
    assert torch.equal(goals(points, style.source, style.moved, 0.0), points)
    assert torch.allclose(style.moved, style.moved[:, mirror_of_points()] * torch.tensor([-1.0, 1.0]), atol=1e-6)
    half, whole = (goals(points, style.source, style.moved, alpha) - points for alpha in (0.5, 1.0))
    torch.testing.assert_close(half * 2.0, whole)


def test_goals_turn_and_grow_with_the_face():
    style, points = drawn_style(), with_rings(mean_mesh())
    turn = torch.tensor([[0.0, 0.6], [-0.6, 0.0]])
    other = (points - 0.5) @ turn + 0.5
    one, two = (goals(face, style.source, style.moved, 1.0) - face for face in (points, other))
    torch.testing.assert_close(two, one @ turn, atol=1e-5, rtol=0.0)


def test_lips_that_are_shut_stay_shut_and_open_ones_open():
    source = with_rings(mean_mesh())
    target = source.clone()
    target[:, list(LOWER_LIP), 1] += 0.05
    style = DrawnStyle.of_points(source, target, drawn_style().tone)

    def gap(points: torch.Tensor) -> float:
        level = turned(points, eye_axis(points), back=True)
        return float((level[:, list(LOWER_INNER)] - level[:, list(UPPER_INNER)])[..., 1].mean())

    shut, open_ = source.clone(), source.clone()
    shut[:, list(LOWER_INNER)] = shut[:, list(UPPER_INNER)]
    open_[:, list(LOWER_LIP), 1] += 0.03
    assert abs(gap(goals(shut, source, style.moved, 1.0))) < 1e-5
    assert gap(goals(open_, source, style.moved, 1.0)) > gap(open_) + 0.05


@pytest.mark.parametrize("with_transformers", [False, True])
def test_a_warp_meets_its_points_rests_at_the_border_and_never_folds(with_transformers):
    style, points = drawn_style(by=0.04), with_rings(mean_mesh())
    bent = REST + 0.04 * torch.stack([torch.sin(3.0 * REST[..., 1]), torch.cos(2.0 * REST[..., 0])], dim=3)
    grids = [bent] if with_transformers else []
    for alpha in (-0.5, 0.0, 0.7, 1.0, 1.2):
        wanted = goals(points, style.source, style.moved, alpha)
        grid = warp_grid(grids, points, wanted)
        read = F.grid_sample(grid.permute(0, 3, 1, 2), 2.0 * wanted[:, :, None] - 1.0, align_corners=False)[..., 0]
        read = read.transpose(1, 2)
        inside = ((points > 0.01) & (points < 0.99)).all(dim=2)
        assert ((read / 2.0 + 0.5 - points).norm(dim=2)[inside]).max() < 0.01
        border = torch.cat([(grid - REST)[:, edge] for edge in (0, -1)] + [(grid - REST)[:, :, edge] for edge in (0, -1)], dim=1)
        assert border.abs().max() < 0.02 and determinants(grid).min() > 0.0
    assert fading(GRID)[0, 0].max() < 0.02 and fading(GRID)[0, GRID // 2, GRID // 2] == 1.0


def test_a_warp_is_told_apart_from_a_picture_only_where_it_moves():
    image = photo_of(64)
    torch.testing.assert_close(warped(image, REST), image, atol=1e-5, rtol=0.0)
    shifted = sampled(image, pixel_lattice(64, mode="exact").reshape(1, 64, 64, 2) + torch.tensor([2.0 / 32.0, 0.0]))
    torch.testing.assert_close(shifted[..., :-2], image[..., 2:], atol=1e-5, rtol=0.0)


def test_a_style_comes_back_from_its_tensors():
    style, image, parts = drawn_style(), photo_of(64), parts_of(64)
    again = DrawnStyle.of_tensors(style.tensors())
    assert all(torch.equal(one, again.tensors()[name]) for name, one in style.tensors().items())
    assert torch.equal(*(each.draw(image, parts, None, frame=64, strength=1.0) for each in (again, style)))
    assert torch.allclose(again.shape, style.shape)
    bare = DrawnStyle.of_tensors(replace(style, strokes=()).tensors())
    assert bare.strokes == () and torch.equal(bare.draw(image, parts, None, frame=64, strength=1.0), image)
    assert DrawnStyle.of_tensors({"g.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize(("change", "words"), [
    ({"drawing.source": None}, "holds no drawing.source"),
    ({"drawing.tone.mean": None}, "holds no drawing.tone.mean"),
    ({"drawing.moved": torch.zeros(1, 68, 2)}, r"drawing.moved is \[1, 68, 2\], expected \[1, 540, 2\]"),
    ({"drawing.tone.slope": torch.zeros(3, 3)}, r"drawing.tone.slope is \[3, 3\], expected \[4, 3\]"),
    ({"drawing.strokes.drawing": None}, "holds no drawing.strokes.drawing"),
    ({"drawing.strokes.drawing": torch.zeros(1, 3, 128, 128)}, r"is torch.float32 \[1, 3, 128, 128\], expected uint8"),
    ({"drawing.strokes.parts": torch.zeros(1, 4, 8, 8, dtype=torch.uint8)}, "expected squares, 8 px a cell"),
])
def test_tensors_that_do_not_fit_are_named(change, words):
    tensors = {**drawn_style().tensors(), **change}
    with pytest.raises(ValueError, match=words):
        DrawnStyle.of_tensors({name: tensor for name, tensor in tensors.items() if tensor is not None})


def test_mixtures_lie_between():
    a, b = drawn_style(1), drawn_style(2, by=0.01)
    mixed, image, parts = DrawnStyle.mix([a, b], [0.25, 0.75]), photo_of(32), parts_of(32)
    torch.testing.assert_close(mixed.moved, 0.25 * a.moved + 0.75 * b.moved)
    torch.testing.assert_close(mixed.tone.energy, 0.25 * a.tone.energy + 0.75 * b.tone.energy)
    assert [weight for _, weight in mixed.strokes] == [0.25, 0.75]
    one, other, both = (style.draw(image, parts, None, frame=32, strength=1.0) for style in (a, b, mixed))
    torch.testing.assert_close(both, 0.25 * one + 0.75 * other)
