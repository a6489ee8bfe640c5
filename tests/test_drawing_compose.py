"""Compose: aligned faces and whole pictures."""

from __future__ import annotations

import pytest
import torch
from drawn_styles import context_of, drawn_style, mean_mesh, parts_of, photo_of

from drawing.compose import PlacedFace, Strengths, around_faces, draw_aligned, draw_picture, normalised
from drawing.context import aligned_mesh, read_context
from drawing.warp import with_rings
from faces.parts import BACKGROUND

STILL = Strengths(1.0, 0.0, 0.0)


def placed(left: float, top: float, side: float) -> PlacedFace:
    corners = torch.tensor([[left, top], [left + side, top], [left, top + side]])
    return PlacedFace(with_rings(mean_mesh()), (), corners)


def test_nothing_asked_for_is_the_photo():
    image, context = photo_of(128), context_of(128)
    made = draw_aligned(image, context, drawn_style(), Strengths(0.0, 0.0, 0.0))
    torch.testing.assert_close(made, image, atol=0.02, rtol=0.0)


@pytest.mark.parametrize("stage", ["alpha", "tone", "strokes"])
def test_every_stage_does_something(stage):
    image, context, style = photo_of(128), context_of(128), drawn_style()
    one = draw_aligned(image, context, style, Strengths(**{"alpha": 0.0, "tone": 0.0, "strokes": 0.0, stage: 1.0}))
    assert (one - image).abs().mean() > 0.005 and one.shape == image.shape and one.abs().max() <= 1.0


def test_a_picture_that_is_one_frame_is_an_aligned_face():
    image, context, style = photo_of(256), context_of(256), drawn_style()
    for how in (STILL, Strengths()):
        aligned = draw_aligned(image, context, style, how)
        whole = draw_picture(image, context.parts, [placed(0.0, 0.0, 256.0)], style, [how])
        assert (aligned - whole)[..., 32:-32, 32:-32].abs().mean() < 0.02


def test_every_face_of_a_picture_moves_by_its_own_degree():
    image = torch.cat([photo_of(128, 3), photo_of(128, 4)], dim=3)
    parts = torch.cat([parts_of(128)] * 2, dim=3)
    faces, style = [placed(0.0, 0.0, 128.0), placed(128.0, 0.0, 128.0)], drawn_style()
    halves = {}
    for degrees in ((1.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        made = draw_picture(image, parts, faces, style, [Strengths(alpha, 0.0, 0.0) for alpha in degrees])
        halves[degrees] = [(made - image)[..., :128].abs().mean(), (made - image)[..., 128:].abs().mean()]
    assert min(halves[1.0, 1.0]) > 0.002 and max(halves[0.0, 0.0]) < 1e-4
    assert halves[1.0, 0.0][0] > 0.002 > 1e-4 > halves[1.0, 0.0][1]


def test_pictures_without_a_face_are_refused():
    with pytest.raises(ValueError, match="without a face"):
        draw_picture(photo_of(64), parts_of(64), [], drawn_style(), [])
    with pytest.raises(ValueError, match=r"expected an image \[1, 3, S, S\]"):
        read_context(torch.zeros(1, 3, 32, 64))


def test_surroundings_stay():
    image, parts, face = photo_of(256), parts_of(256), placed(32.0, 48.0, 96.0)
    inside = around_faces([face], image)
    assert inside.shape == (1, 1, 256, 256) and inside[..., 96, 80] > 0.99
    assert inside[..., :, 140:].max() == 0.0 and inside[..., 156:, :].max() == 0.0
    made = draw_picture(image, parts, [face], drawn_style(), [Strengths()], inside=inside)
    torch.testing.assert_close(made[..., :, 145:], image[..., :, 145:], atol=1e-5, rtol=0.0)
    assert (made - image)[..., 60:130, 40:120].abs().mean() > 0.02
    empty = torch.zeros_like(parts)
    empty[:, BACKGROUND] = 1.0
    drawn = draw_picture(image, empty, [face], drawn_style(by=0.0), [Strengths()], inside=inside)
    torch.testing.assert_close(drawn, image, atol=1e-4, rtol=0.0)


def test_parts_sum_to_one():
    parts = normalised(torch.randn(1, 4, 8, 8))
    assert parts.min() >= 0.0 and parts.sum(dim=1).max() <= 1.0 + 1e-5


def test_a_flat_picture_shows_no_face():
    assert aligned_mesh(torch.zeros(1, 3, 128, 128))[1] < 0.5
