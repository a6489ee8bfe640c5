"""Pasting back: the inverse of the alignment, soft inside, untouched outside."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from data.landmarks68 import MEAN_FACE, REGIONS
from faces.align import align_face, crop_map, ffhq_quad, photo_corners, shrink_factor
from faces.find import FaceFinder
from pipeline.paste import feather, harmonised, matched_colours, outline_weight, paste_back


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


@pytest.mark.parametrize(("scale", "size"), [(1, 128), (3, 512), (4, 128)])
def test_a_crop_pasted_as_it_is_gives_the_photo(photo, landmarks, scale, size):
    """At scale 1 the crop is finer or as fine as the photo, at scale 4 it is cut from a smaller copy of it."""
    large = photo.resize((512 * scale, 512 * scale), Image.Resampling.BICUBIC)
    points = (landmarks + 0.5) * scale - 0.5
    crop, corners = align_face(large, points, output_size=size), photo_corners(points, large.size, output_size=size)
    assert (shrink_factor(ffhq_quad(points), size) > 1) == (scale == 4)
    inside = weights(large, corners) > 0.99

    def error(dx: float, dy: float) -> np.ndarray:
        return (difference(large, paste_back(large, crop, corners + (dx, dy)))[inside] ** 2).mean()

    least = error(0, 0)
    assert least < 40.0
    # The parabola through the errors half a pixel (of the crop or the photo, whichever is coarser) to either side has its
    # lowest point where the crop belongs; half a pixel of the photo, or of the smaller copy, would be seen.
    step = 0.5 * max(1.0, np.hypot(*(corners[3] - corners[0])) / size)
    for before, after in (((-step, 0), (step, 0)), ((0, -step), (0, step))):
        low, high = error(*before), error(*after)
        assert abs(step * (low - high) / (2 * (low + high - 2 * least))) < 0.1


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


def test_only_what_the_outlines_enclose_is_blended(photo, landmarks):
    """Between the face and the crop's border, where hair and background are, the photo stays to the bit."""
    corners = photo_corners(landmarks, photo.size, output_size=128)
    matrix = crop_map(corners)
    places = (landmarks + 0.5) @ matrix[:, :2].T + matrix[:, 2]
    green = Image.new("RGB", (128, 128), (0, 255, 0))
    changed = difference(photo, paste_back(photo, green, corners, outlines=[places])).max(axis=2) > 0
    assert changed[weights(photo, corners) == 0.0].sum() == 0
    inside = np.round(landmarks[17:]).astype(int)
    assert changed[inside[:, 1], inside[:, 0]].all()
    whole = difference(photo, paste_back(photo, green, corners)).max(axis=2) > 0
    assert changed.sum() < 0.75 * whole.sum() and not (changed & ~whole).any()


def test_outlines_of_both_faces_are_covered():
    """A jaw that grew is blended and one that shrank is covered; nothing at the crop's border is."""
    grown = MEAN_FACE.copy()
    grown[REGIONS["jaw"]] = 0.5 + (grown[REGIONS["jaw"]] - 0.5) * (1.25, 1.05)
    place = tuple(np.round((grown[4] * 0.8 + MEAN_FACE[4] * 0.2) * 200).astype(int)[::-1])
    alone, both = outline_weight([MEAN_FACE], 200), outline_weight([MEAN_FACE, grown], 200)
    assert both[place] == 1.0 > alone[place] and (both >= alone).all()
    assert alone.dtype == np.float32 and alone.min() == 0.0 and alone[:2].max() == alone[:, :2].max() == 0.0
    points = np.round(MEAN_FACE * 200).astype(int)
    assert (alone[points[:, 1], points[:, 0]] == 1.0).all()


def test_background_of_the_drawing_is_no_halo(photo, landmarks):
    """Around the face what is background in the drawing stays the photo's to the bit; on the face it hides what was there."""
    background = np.ones((64, 64), np.float32)
    background[:, :32] = 0.0
    plain, weight = outline_weight([MEAN_FACE], 200), outline_weight([MEAN_FACE], 200, background=background)
    assert (weight[:, :96] == plain[:, :96]).all() and (weight[plain == 0.0] == 0.0).all()
    points = np.round(MEAN_FACE[17:] * 200).astype(int)
    assert (weight[points[:, 1], points[:, 0]] == 1.0).all()
    around = (plain < 0.9) & (np.arange(200) > 104)
    assert plain[around].max() > 0.5 and weight[around].max() == 0.0
    corners, green = photo_corners(landmarks, photo.size, output_size=128), Image.new("RGB", (128, 128), (0, 255, 0))
    places = (landmarks + 0.5) @ crop_map(corners)[:, :2].T + crop_map(corners)[:, 2]
    changed = [(difference(photo, paste_back(photo, green, corners, outlines=[places], background=one)).max(axis=2) > 0).sum()
               for one in (None, 0.0 * background, 0.0 * background + 1.0)]
    assert changed[0] == changed[1] > 1.15 * changed[2] > 0


def test_in_place_changes_the_photo_itself(photo, landmarks):
    corners, face = photo_corners(landmarks, photo.size), Image.new("RGB", (32, 32))
    copy = photo.copy()
    assert paste_back(copy, face, corners, in_place=True) is copy
    assert difference(copy, paste_back(photo, face, corners)).max() == 0 and difference(copy, photo).max() > 0
    with pytest.raises(ValueError, match="in place"):
        paste_back(photo.convert("L"), face, corners, in_place=True)


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
    with pytest.raises(ValueError, match="original"):
        paste_back(photo, photo, np.zeros((4, 2)), colour="photo")
