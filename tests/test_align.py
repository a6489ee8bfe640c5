"""Faces are found in photos, aligned as FFHQ does, and reported when they are not."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

import face_align
from data.landmarks68 import MIRROR, eye_distance
from faces.align import align_face, ffhq_quad
from faces.find import FaceFinder
from pipeline.cli import UserError


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(astronaut())


@pytest.fixture(scope="module")
def finder():
    return FaceFinder()


def test_mirror_is_an_involution_over_all_points():
    assert sorted(MIRROR) == list(range(68)) and (MIRROR[MIRROR] == np.arange(68)).all()


def test_astronaut_has_one_face_where_it_is(photo, finder):
    faces = finder.find(photo)
    assert len(faces) == 1
    points = faces[0].landmarks
    # Pupils seen in the photo at about (204, 101) and (247, 103).
    assert abs(points[36:42].mean(axis=0) - [204, 101]).max() < 4
    assert abs(points[42:48].mean(axis=0) - [247, 103]).max() < 4
    assert 30 < eye_distance(points) < 50


def test_aligned_face_has_level_eyes_where_ffhq_puts_them(photo, finder):
    aligned = align_face(photo, finder.find(photo)[0].landmarks, output_size=256)
    again = finder.find(aligned)[0].landmarks / 256.0
    left, right = again[36:42].mean(axis=0), again[42:48].mean(axis=0)
    assert abs(left[1] - right[1]) < 0.03
    assert abs((left + right)[0] / 2 - 0.5) < 0.04 and 0.4 < left[1] < 0.53


def test_two_faces_largest_first(photo, finder):
    canvas = Image.new("RGB", (1100, 600), "grey")
    canvas.paste(photo.crop((100, 0, 400, 300)), (20, 100))
    canvas.paste(photo.crop((100, 0, 400, 300)).resize((550, 550)), (500, 20))
    faces = finder.find(canvas)
    assert len(faces) == 2 and faces[0].box[0] > 500 > faces[1].box[0]


def test_pictures_without_a_face_and_tiny_ones_find_nothing(finder):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    assert finder.find(Image.fromarray(noise)) == []
    assert finder.find(Image.new("RGB", (1, 1))) == []


def test_predictor_must_exist(tmp_path):
    with pytest.raises(UserError, match="not found"):
        FaceFinder("dlib", predictor=tmp_path / "nothing.dat")


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((68, 2), np.nan), np.zeros((68, 2))])
def test_landmarks_are_checked(points):
    with pytest.raises(ValueError):
        ffhq_quad(points)


def test_script_does_the_good_ones_and_reports_the_rest(tmp_path, photo, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    photo.save(folder / "good.png")
    photo.save(folder / "good.jpg")
    Image.new("RGB", (300, 300)).save(folder / "blank.png")
    (folder / "text.png").write_text("no image")
    assert face_align.main(["--path", str(folder), "--output", str(output), "--size", "128"]) == 2
    err = capsys.readouterr().err
    assert "blank.png: no face found" in err and "text.png: is not an image" in err
    assert sorted(p.name for p in output.glob("*.png")) == ["good_jpg.png", "good_png.png"]
    rows = list(csv.DictReader(open(output / "report.csv")))
    assert len(rows) == 4 and sum(bool(row["reason"]) for row in rows) == 2


def test_script_ends_0_when_all_is_well(tmp_path, photo):
    photo.save(tmp_path / "a.png")
    assert face_align.main(["--path", str(tmp_path / "a.png"), "--output", str(tmp_path / "o"), "--size", "64"]) == 0
    assert Image.open(tmp_path / "o" / "a.png").size == (64, 64)
    assert face_align.main(["--path", str(tmp_path / "none.png"), "--output", str(tmp_path / "o")]) == 2


def test_small_face_of_a_large_photo_is_found(photo, finder):
    canvas = Image.new("RGB", (4000, 3000), (90, 110, 120))
    canvas.paste(photo, (2000, 1000))
    faces = finder.find(canvas)
    assert len(faces) == 1
    assert abs(faces[0].landmarks[36:42].mean(axis=0) - [2204, 1101]).max() < 8


def test_size_beyond_all_measure_is_one_line(photo, tmp_path, capsys):
    assert face_align.main(["--path", str(tmp_path), "--size", "100000000"]) == 2
    printed = capsys.readouterr().err
    assert "--size" in printed and printed.count("\n") == 1
