"""What a pair, or a drawing alone, says of a style; the photo is scikit-image's astronaut, NASA's, in the public domain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from drawn_styles import mouth_moved
from PIL import Image
from skimage import data

from checkpoints.features import load_squeezenet
from data.images import read_image, to_tensor
from drawing.compose import Strengths, draw_aligned
from drawing.context import aligned_mesh, read_context
from drawing.pyramids import opponent
from drawing.reading import drawn_mesh
from drawing.style import DrawnStyle
from drawing.tone import PHOTO_MEANS
from drawing.warp import eye_axis, warp_grid, warped, with_rings
from faces.find import FaceFinder, face_aligner
from faces.topology import LOWER_LIP, UPPER_LIP
from models.sampling_grids import moved_places
from training.drawing import example_of_drawing, example_of_pair, in_frame_of, style_of
from training.registration import register

SIDE = 256
# Leonardo's Mona Lisa, of about 1503, in the public domain.
PAINTING = Path(__file__).parent / "fixtures" / "mona_lisa.jpg"


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    align = face_aligner(SIDE, FaceFinder())
    return to_tensor(align(Image.fromarray(data.astronaut()), "astronaut"), SIDE)


@pytest.fixture(scope="module")
def caricature(photo) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The photo with its mouth moved down by 3 % and its colours changed, the grid of that, and the points where they were."""
    points = with_rings(aligned_mesh(photo)[0])
    grid = warp_grid((), points, mouth_moved(points, 0.03))
    drawing = 0.6 * warped(photo, grid) + torch.tensor([0.2, 0.0, -0.2])[:, None, None]
    return drawing.clamp(-1.0, 1.0), grid, points


def test_a_known_warp_is_found_again(photo, caricature):
    drawing, grid, points = caricature
    meshes = (aligned_mesh(photo)[0], aligned_mesh(drawing)[0])
    found = register(photo, drawing, meshes, load_squeezenet())
    expected, got = (moved_places(points, each, steps=12) for each in (grid, found))
    apart = (got - expected).norm(dim=2)[0, :468]
    assert apart.mean() < 0.01 and apart.max() < 0.02
    lips = [*UPPER_LIP, *LOWER_LIP]
    assert ((expected - points)[0, lips, 1].mean()) > 0.02 > 0.01 > (got - expected)[0, lips, 1].mean().abs()


@pytest.mark.parametrize(("wide", "long"), [(0.85, 1.2), (0.75, 1.35), (1.2, 0.8)])
def test_faces_stretched_as_painters_do_are_read_where_they_are(photo, wide, long):
    """Read once, a face is taken for about half as long as it is."""
    points = with_rings(aligned_mesh(photo)[0])
    nose = points[:, 168:169]
    wanted = nose + (points - nose) * torch.tensor([wide, long])
    drawing = warped(photo, warp_grid((), points, wanted))
    once = aligned_mesh(drawing)[0]
    errors = [(found[..., :2] - wanted[:, :468]).norm(dim=2).mean() / eye_axis(points).norm()
              for found in (once, drawn_mesh(drawing, once))]
    assert errors[1] < 0.75 * errors[0] and errors[1] < 0.08


def test_a_pair_is_told_apart(photo, caricature):
    drawing = caricature[0]
    example = example_of_pair(photo, drawing)
    unit = float(eye_axis(example.style.source).norm())
    lips = example.style.moved[0, [*UPPER_LIP, *LOWER_LIP], 1].mean() * unit
    assert 0.02 < float(lips) < 0.04
    tone = example.style.tone
    shift = opponent(torch.tensor([0.2, 0.0, -0.2])[None, :, None, None])[0, :, 0, 0]
    torch.testing.assert_close(tone.mean[0], 0.6 * tone.photo_mean[0] + shift, atol=0.05, rtol=0.0)
    assert example.points.shape == (2, 68, 2) and torch.equal(example.drawing, drawing)
    # Drawn after the drawing, the photo comes near to it.
    made = draw_aligned(photo, read_context(photo), example.style, Strengths())
    assert (made - drawing).abs().mean() < 0.6 * (photo - drawing).abs().mean()
    both = style_of([example, example])
    assert isinstance(both, DrawnStyle) and torch.allclose(both.moved, example.style.moved)


def test_a_drawing_alone_is_held_against_the_mean_face():
    painting = to_tensor(read_image(PAINTING), SIDE)
    example = example_of_drawing(painting)
    assert example.style.moved.abs().max() > 0.01 and torch.allclose(example.style.tone.photo_mean, torch.tensor(PHOTO_MEANS))
    assert (example.style.strokes[0][0].drawing - painting).abs().max() < 0.005  # as bytes hold it
    apart = (example.points[0] - example.points[1]).norm(dim=1)
    assert 0.001 < apart.mean() < 0.1


def test_pictures_without_a_face_are_named(photo):
    cup = to_tensor(Image.fromarray(data.coffee()[:, 100:500]), SIDE)
    with pytest.raises(ValueError, match="cup: shows no face"):
        example_of_drawing(cup, name="cup")
    with pytest.raises(ValueError, match="cup: shows no face"):
        example_of_pair(photo, cup, names=("astronaut", "cup"))


def test_points_are_laid_over_others():
    points = torch.rand(1, 20, 2)
    turn = torch.tensor([[0.0, 2.0], [-2.0, 0.0]])
    torch.testing.assert_close(in_frame_of(points, points @ turn + 0.3), points @ turn + 0.3)

