"""Groups near and far, tilted heads and photos on their side: every face is found where it is, and cut out upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faces.align import align_face
from faces.find import FaceFinder
from faces.tracking import FaceTracker

CASES = Path(__file__).resolve().parent / "fixtures" / "cases"


@pytest.fixture(scope="module")
def finder():
    return FaceFinder()


def test_all_seven_of_a_group_are_found_in_photos_and_clips(finder):
    group = Image.open(CASES / "group.jpg").convert("RGB")
    faces = finder.told(group, name="group.jpg")
    assert len(faces) == 7 and faces[0].width > 250
    assert sorted(round(face.box[0] / 320) for face in faces[1:]) == [0, 1, 2, 3, 4, 5]
    assert len(FaceTracker(finder, smooth=0.5, faces="all").update(group, seconds=0.04)) == 7
    side = finder.find(group.transpose(Image.Transpose.ROTATE_90))
    assert len(side) == 7 and all(abs(face.roll + 87) < 8 for face in side)


@pytest.mark.parametrize(("name", "roll", "middle"), [("tilt45.png", -42, (198, 248)), ("turned90.png", -87, (123, 235))])
def test_the_face_and_not_the_badge_is_cut_out_upright(finder, name, roll, middle):
    photo = Image.open(CASES / name).convert("RGB")
    (face,) = finder.told(photo, name=name)
    assert face.score > 0.9 and abs(face.roll - roll) < 8
    assert np.abs(np.array(face.box).reshape(2, 2).mean(axis=0) - middle).max() < 15
    (again,) = finder.find(align_face(photo, face.landmarks, output_size=256))
    assert abs(again.roll) < 8
