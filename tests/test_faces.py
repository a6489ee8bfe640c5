"""Faces are found at every angle and size, what is left out is told, and their landmarks and parts are where they are."""

from __future__ import annotations

import json
import math
import os

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage.data import astronaut, coffee

import face_align
from data.landmarks68 import MIRROR, eye_distance
from faces.face import Face, distinct, face_state, load_face, overlap
from faces.find import FaceFinder, FinderSettings, judged
from faces.landmark_files import read_landmarks
from faces.mesh import VERTEX_MIRROR, VERTICES, landmarks_of, read_mesh
from faces.parts import BACKGROUND, HAIR, REST, SKIN, face_parts, with_hands
from faces.search import ANCHORS, decode, region_of_mesh, starts
from pipeline.cli import UserError


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(astronaut())


@pytest.fixture(scope="module")
def finder():
    return FaceFinder()


@pytest.fixture(scope="module")
def face(photo, finder):
    return finder.find(photo)[0]


def test_a_face_is_found_at_every_angle(photo, finder, face):
    head = photo.crop((80, 0, 370, 290))
    canvas = Image.new("RGB", (560, 560), (90, 110, 120))
    canvas.paste(head, (135, 135))
    upright = face.landmarks + [135 - 80, 135]
    for angle in (30, 45, 90, 135, 180, 225, 300):
        turned = finder.find(canvas.rotate(angle, Image.Resampling.BILINEAR, fillcolor=(90, 110, 120)))
        assert len(turned) == 1, angle
        turn = math.radians(-angle)
        matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        expected = (upright - 279.5) @ matrix.T + 279.5
        away = np.linalg.norm(turned[0].landmarks - expected, axis=1).mean() / eye_distance(expected)
        assert away < 0.08, (angle, away)
        assert abs((turned[0].roll - face.roll + angle + 180) % 360 - 180) < 8


def test_all_faces_of_a_group_are_found_near_and_far(photo, finder):
    head = photo.crop((120, 0, 330, 210))
    canvas = Image.new("RGB", (2000, 1500), (120, 130, 140))
    places = [(60 + 320 * column, 150) for column in range(6)]
    for place in places:
        canvas.paste(head.resize((190, 190), Image.Resampling.LANCZOS), place)  # a face of about 60 px
    canvas.paste(head.resize((900, 900), Image.Resampling.LANCZOS), (600, 500))
    found = finder.find(canvas)
    assert len(found) == 7 and found[0].width > 200
    assert sorted(round(one.box[0] / 320) for one in found[1:]) == [0, 1, 2, 3, 4, 5]
    assert len(FaceFinder(max_faces=2).find(canvas)) == 2
    assert len(FaceFinder(min_face=200).find(canvas)) == 1


def test_things_have_no_face(finder):
    faces, notes = finder.read(Image.fromarray(coffee()))
    assert faces == [] and len(notes) == 1
    with pytest.raises(UserError, match="cup.png: "):
        finder.told(Image.fromarray(coffee()), name="cup.png")


def test_dlib_finds_the_same_face(photo, face):
    found = FaceFinder("dlib").find(photo)
    assert len(found) == 1 and found[0].mesh is None and found[0].score > 0.9
    away = np.linalg.norm(found[0].landmarks - face.landmarks, axis=1).mean() / eye_distance(face.landmarks)
    assert away < 0.12


@pytest.mark.parametrize("settings", [{"kind": "guess"}, {"predictor": "x.dat"}, {"min_face": 0}, {"max_faces": 0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        FinderSettings(**settings).make()


def _face(**changes):
    points = np.tile([[50.0, 50.0]], (68, 1))
    return Face(**{"box": (20.0, 20.0, 80.0, 90.0), "score": 0.9, "mesh": None, "landmarks": points, "roll": 0.0, "yaw": 0.0,
                   **changes})


@pytest.mark.parametrize(("changes", "kept", "said"), [
    ({}, True, ""),
    ({"score": 0.3}, False, "unsure (0.30"),
    ({"score": 0.02}, False, ""),
    ({"box": (40.0, 40.0, 60.0, 60.0)}, False, "--min_face 20"),
    ({"yaw": -71.0}, False, "turned by 71 degrees"),
    ({"landmarks": np.concatenate([np.full((17, 2), -3.0), np.full((51, 2), 50.0)])}, True,
     "cut off by the picture's border (25 %"),
])
def test_what_is_left_out_is_told(changes, kept, said):
    result, note = judged(_face(**changes), (100, 100), 40.0)
    assert result is kept and said in note and bool(note) == bool(said)


def test_detections_lie_where_their_anchors_say():
    logits = np.full(896, -10.0)
    logits[[3, 700]] = 2.0
    boxes = np.zeros((896, 16))
    boxes[700, :4] = 12.8, -25.6, 64.0, 32.0
    first, second = decode(boxes, logits)
    assert first[0] == pytest.approx(1 / (1 + math.exp(-2))) and np.allclose(first[1:3], ANCHORS[3])
    assert np.allclose(second[1:5], np.tile(ANCHORS[700] + [0.1, -0.2], 2) + [-0.25, -0.125, 0.25, 0.125])
    assert len(ANCHORS) == 896 and np.allclose(ANCHORS[3], [0.09375, 0.03125])


def test_tiles_cover_everything_with_overlap():
    assert starts(100, 128) == [-14]
    places = starts(500, 128)
    assert places[0] == 0 and places[-1] == 372 and max(np.diff(places)) <= 96


def test_each_face_is_kept_once():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]], float)
    assert distinct(boxes, np.array([0.5, 0.9, 0.6])) == [1, 2]


def test_faces_survive_being_saved(face):
    again = load_face(json.loads(json.dumps(face_state(face), default=np.ndarray.tolist)))
    assert (again.mesh == face.mesh).all() and (again.landmarks == face.landmarks).all()
    assert (again.box, again.score, again.roll, again.yaw) == (face.box, face.score, face.roll, face.yaw)


def test_a_face_is_followed_to_where_it_moves(photo, finder, face):
    moved = Image.new("RGB", photo.size)
    moved.paste(photo, (9, 5))
    (after,) = finder.follow(moved, [face])
    shift = (after.landmarks - face.landmarks).mean(axis=0)
    assert abs(shift - [9, 5]).max() < 1.5 and after.score > 0.9
    box = (*face.landmarks.min(axis=0).tolist(), *face.landmarks.max(axis=0).tolist())
    (boxed,) = finder.follow(photo, [box])
    assert np.linalg.norm(boxed.landmarks - face.landmarks, axis=1).mean() < 0.06 * eye_distance(face.landmarks)


def test_landmarks_turn_scale_and_mirror_with_the_mesh(face):
    mesh, turn = face.mesh, np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = np.concatenate([3.0 * mesh[:, :2] @ turn.T + 7.0, 3.0 * mesh[:, 2:]], axis=1)
    assert np.allclose(landmarks_of(turned), 3.0 * landmarks_of(mesh) @ turn.T + 7.0, atol=1e-6)
    mirrored = mesh.copy()
    mirrored[VERTICES] = mesh[VERTICES[VERTEX_MIRROR]] * [-1.0, 1.0, 1.0]
    assert np.allclose(landmarks_of(mirrored), landmarks_of(mesh)[MIRROR] * [-1.0, 1.0], atol=1e-3 * eye_distance(face.landmarks))


def test_mesh_of_nothing_is_no_face():
    region = region_of_mesh(np.random.default_rng(0).normal(size=(468, 3)))
    assert read_mesh(Image.new("RGB", (64, 64)), region.centre, 40.0, 0.0)[1] < 0.5
    assert read_mesh(Image.new("RGB", (64, 64)), np.array([900.0, 900.0]), 40.0, 0.0)[1] < 0.5


@pytest.fixture(scope="module")
def parts(photo, face):
    image = torch.from_numpy(astronaut().astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1)[None]
    return face_parts(image, [face.mesh])


@pytest.mark.parametrize(("place", "part"), [
    ((225, 95), SKIN), ((225, 130), SKIN), ((195, 115), SKIN), ((225, 18), HAIR), ((170, 75), HAIR), ((282, 100), HAIR),
    ((30, 30), BACKGROUND), ((150, 300), REST), ((300, 400), REST),
])
def test_parts_of_the_astronaut(parts, place, part):
    assert parts[0, :, place[1], place[0]].argmax() == part


def test_parts_are_shares_at_the_picture_s_own_size(parts, face):
    assert list(parts.shape) == [1, 4, 512, 512] and torch.allclose(parts.sum(dim=1), torch.ones(1), atol=1e-5)
    assert parts.min() >= 0.0
    wide = face_parts(torch.zeros(1, 3, 90, 333), [])
    assert list(wide.shape) == [1, 4, 90, 333] and wide[:, [SKIN, HAIR]].max() < 0.01


def test_clothes_with_the_colours_of_skin_are_hands():
    image, maps = torch.zeros(1, 3, 60, 60), torch.zeros(1, 4, 60, 60)
    image[:] = torch.tensor([-0.6, -0.4, 0.3])[None, :, None, None]
    maps[:, REST] = 1.0
    skin = torch.tensor([0.6, 0.2, 0.0])[None, :, None, None]
    image[:, :, :20, :20], image[:, :, 40:50, 40:50] = skin, skin
    maps[:, SKIN, :20, :20], maps[:, REST, :20, :20] = 1.0, 0.0
    told = with_hands(maps, image)[0].argmax(dim=0)
    assert (told[42:48, 42:48] == SKIN).all() and (told[:, 25:38] == REST).all() and (told[:18, :18] == SKIN).all()


@pytest.mark.parametrize("image", [torch.zeros(2, 3, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(3, 64, 64)])
def test_parts_want_one_picture(image):
    with pytest.raises(ValueError, match="expected an image"):
        face_parts(image, [])
    with pytest.raises(ValueError, match=r"\[68, 2\]"):
        face_parts(torch.zeros(1, 3, 64, 64), [np.zeros((68, 2))])


def test_clips_are_cut_by_their_sharpest_frames_or_every_so_many(photo, tmp_path):
    frames = [photo.filter(ImageFilter.GaussianBlur(radius)) for radius in (1.5, 0, 1.0, 1.2, 0.8, 0.3)]
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=3, options={"crf": "12"})
        stream.width = stream.height = 512
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "clip.mp4").rename(folder / "clip.mp4")
    assert face_align.main(["--path", str(folder), "--output", str(tmp_path / "a"), "--size", "64"]) == 0
    assert sorted(path.name for path in (tmp_path / "a").glob("*.png")) == ["clip_000001.png", "clip_000005.png"]
    assert face_align.main(["--path", str(folder / "clip.mp4"), "--output", str(tmp_path / "b"), "--size", "64", "--every",
                            "4"]) == 0
    assert sorted(path.name for path in (tmp_path / "b").glob("*.png")) == ["clip_000000.png", "clip_000004.png"]


def test_landmarks_are_written_beside_crops_and_read_in_place_of_finding(photo, face, tmp_path):
    photo.save(tmp_path / "a.png")
    assert face_align.main(["--path", str(tmp_path / "a.png"), "--output", str(tmp_path / "o"), "--size", "128",
                            "--landmarks"]) == 0
    crop, found = Image.open(tmp_path / "o" / "a.png"), read_landmarks(tmp_path / "o" / "a.json")
    again = FaceFinder().find(crop)[0].landmarks
    assert np.linalg.norm(again - found, axis=1).mean() < 0.06 * eye_distance(found)
    (tmp_path / "l").mkdir()
    np.save(tmp_path / "l" / "b.npy", face.landmarks + 40.0)
    Image.new("RGB", (400, 400), "grey").save(tmp_path / "b.png")
    options = ["--path", str(tmp_path / "b.png"), "--output", str(tmp_path / "p"), "--size", "32"]
    assert face_align.main(options) == 2
    assert face_align.main([*options, "--landmark_files", str(tmp_path / "l")]) == 0
    assert Image.open(tmp_path / "p" / "b.png").getpixel((16, 16)) == (128, 128, 128)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no names that are no text")
def test_names_that_are_no_utf8_or_beyond_latin_do_not_stop_it(photo, tmp_path, monkeypatch):
    import pathlib

    write = pathlib.Path.write_text
    monkeypatch.setattr(pathlib.Path, "write_text", lambda self, data, encoding=None, errors=None, newline=None: write(
        self, data, encoding=encoding or "cp1252", errors=errors, newline=newline))
    folder = tmp_path / "in"
    folder.mkdir()
    photo.save(folder / "写真é.png")
    photo.save(os.fsencode(folder) + b"/\xff\xfe.png")
    assert face_align.main(["--path", str(folder), "--output", str(tmp_path / "o"), "--size", "64", "--landmarks"]) == 0
    assert len(list((tmp_path / "o").glob("*.png"))) == 2
    assert "写真é" in (tmp_path / "o" / "report.csv").read_text(encoding="utf-8", errors="surrogateescape")
