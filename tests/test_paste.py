"""Pasting back: the inverse of the alignment, soft inside, untouched outside."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from pipeline.align import align_face, photo_corners
from pipeline.faces import FaceFinder
from pipeline.paste import crop_map, feather, harmonised, matched_colours, paste_back


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(astronaut())


@pytest.fixture(scope="module")
def landmarks(photo):
    return FaceFinder().find(photo)[0].landmarks


def weights(photo, corners):
    """Return the blending weight of every pixel of a photo."""
    x, y = np.meshgrid(np.arange(photo.width) + 0.5, np.arange(photo.height) + 0.5)
    matrix = crop_map(corners)
    return feather(*(matrix[row, 0] * x + matrix[row, 1] * y + matrix[row, 2] for row in (0, 1)))


def difference(one, other):
    return np.abs(np.asarray(one, int) - np.asarray(other, int))


@pytest.mark.parametrize("size", [128, 512])
@pytest.mark.parametrize("scale", [1, 3, 8])
def test_a_crop_pasted_as_it_is_gives_the_photo(photo, landmarks, scale, size):
    """At scale 8 the crop is cut from a smaller copy of the photo, at size 512 it is finer than the photo."""
    large = photo.resize((512 * scale, 512 * scale), Image.Resampling.BICUBIC)
    points = (landmarks + 0.5) * scale - 0.5
    crop, corners = align_face(large, points, output_size=size), photo_corners(points, large.size, output_size=size)
    back = paste_back(large, crop, corners)
    inside = weights(large, corners) > 0.99
    error = difference(large, back)[inside].mean()
    assert error < 4.0
    # Half a pixel of the crop or of the photo, whichever is coarser, must be worse in both directions.
    step = 0.5 * max(1.0, np.hypot(*(corners[3] - corners[0])) / size)
    for shift in ((step, 0), (-step, 0), (0, step), (0, -step)):
        assert difference(large, paste_back(large, crop, corners + shift))[inside].mean() > error


def test_outside_nothing_changes(photo, landmarks):
    corners = photo_corners(landmarks, photo.size, output_size=128)
    result = paste_back(photo, Image.new("RGB", (128, 128), (0, 255, 0)), corners,
                        original=align_face(photo, landmarks, output_size=128))
    outside = weights(photo, corners) == 0.0
    assert outside.mean() > 0.8 and difference(photo, result)[outside].max() == 0
    assert difference(photo, result)[~outside].mean() > 20
    # The border of the crop itself is outside, so no edge of it can show.
    line = np.linspace(0, 1, 50)
    assert feather(line, np.zeros(50)).max() == 0 and feather(np.ones(50), line).max() == 0
    assert feather(np.array([0.5]), np.array([0.5])) == 1.0


@pytest.mark.parametrize("corner", [(-60, -50), (440, 380)])
def test_a_face_that_leaves_the_photo(photo, corner):
    square = np.array([[0, 0], [0, 150], [150, 150], [150, 0]], float) + corner
    result = paste_back(photo, Image.new("RGB", (64, 64), (255, 0, 0)), square)
    assert result.size == photo.size and difference(photo, result).max() > 50


def test_photo_is_not_changed_in_place(photo, landmarks):
    before = np.array(photo)
    paste_back(photo, Image.new("RGB", (32, 32)), photo_corners(landmarks, photo.size))
    assert (np.asarray(photo) == before).all()


def test_border_takes_the_tones_of_the_photo():
    face, original = Image.new("RGB", (64, 64), (200, 40, 40)), Image.new("RGB", (64, 64), (40, 90, 200))
    mixed = np.asarray(harmonised(face, original), int)
    assert np.abs(mixed[32, 32] - (200, 40, 40)).max() <= 2
    assert np.abs(mixed[32, 1] - (40, 90, 200)).max() <= 3


def test_matched_colours_have_the_original_mean():
    rng = np.random.default_rng(0)
    face, original = rng.uniform(0.3, 0.6, (32, 32, 3)), rng.uniform(0.4, 0.5, (32, 32, 3)) + (0.1, 0.0, -0.1)
    same = matched_colours(face, original, np.ones((32, 32)))
    assert np.allclose(same.mean((0, 1)), original.mean((0, 1)), atol=0.02)
    assert np.abs(face.mean((0, 1)) - original.mean((0, 1))).max() > 0.05


def test_bad_arguments_are_named(photo):
    with pytest.raises(ValueError, match="corners"):
        paste_back(photo, photo, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="colour"):
        paste_back(photo, photo, np.zeros((4, 2)), colour="other")
