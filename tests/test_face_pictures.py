"""The pictures that finding faces is measured on: things without one, outlines by hand, drawings with known parts, floors."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from skimage.data import astronaut

from benchmarks.face_pictures import CONTOURS, drawn_contours, things
from benchmarks.faces import floors
from data.landmarks68 import MEAN_FACE
from faces.parts import BACKGROUND, PARTS, SKIN


def test_there_are_fifty_things():
    pictures = things()
    assert len(pictures) == 50 and all(picture.mode == "RGB" and min(picture.size) >= 120 for picture in pictures)


def test_outlines_lie_in_their_pictures():
    outlined = json.loads(CONTOURS.read_text())
    assert len(outlined) == 20
    for polygons in outlined.values():
        assert {part for part, _ in polygons} <= set(PARTS)
        assert all(len(points) >= 6 and min(points) >= -1 and max(points) <= 512 for _, points in polygons)


def test_parts_move_with_what_is_drawn():
    y, x = np.indices((512, 512)) / 512
    parts = np.where(np.hypot(x - 0.5, y - 0.5) < 0.3, SKIN, BACKGROUND).astype(np.uint8)
    photo = Image.fromarray(astronaut())
    ((picture, moved),) = drawn_contours([(photo, parts, MEAN_FACE * 512.0 - 0.5)], 1)
    assert picture.size == photo.size and set(np.unique(moved)) == {SKIN, BACKGROUND}
    assert moved[256, 256] == SKIN and moved[4, 4] == BACKGROUND and 0.001 < (moved != parts).mean() < 0.2


def test_floors_are_those_of_the_mesh_finder():
    figures = [{"finder": "mesh", "angle": 0, "found": 0.99, "far": 0.0},
               {"finder": "dlib", "angle": 0, "found": 0.1, "far": 0.9},
               {"finder": "mesh", "share": 0.1, "width": 40, "found": 0.0, "far": None}, {"finder": "mesh", "false_faces": 1}]
    assert floors(figures)["found >= .98, far <= .02"] and not floors(figures)["no false face"]
