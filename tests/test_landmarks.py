"""Landmarks: the heat-map network, its training data and terms, and the predictor's annotations."""

from __future__ import annotations

import json
from pathlib import Path

import dlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import pretrain
from checkpoints import CheckpointError
from checkpoints.features import load_landmark_net
from checkpoints.io import save_model
from data.images import read_image, to_tensor
from data.landmarks68 import MIRROR
from data.looks import LOOKS
from models.landmarks import LandmarkConfig, LandmarkNet, Landmarks, soft_argmax
from training.pretrain import drawings, export
from training.pretrain import landmark_network as training
from training.pretrain.common import RandomFaces, load_state
from training.pretrain.dlib_file import shrink_predictor
from training.pretrain.faces import FacePack
from training.pretrain.landmark_predictor import annotation, rotated

FACE = Path(__file__).resolve().parent.parent / "data" / "style_images_aligned" / "source_sample.png"
TINY = LandmarkConfig(widths=(8, 8, 8))


def face_points() -> torch.Tensor:
    """A symmetric face [68, 2] in fractions, in which every part has an extent."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0.0, 1.0, (68, 2)) * 0.06
    centres = {(0, 17): (0.5, 0.6), (17, 22): (0.35, 0.36), (22, 27): (0.6, 0.36), (27, 36): (0.48, 0.55),
               (36, 42): (0.35, 0.44), (42, 48): (0.6, 0.44), (48, 68): (0.48, 0.7)}
    for (first, last), centre in centres.items():
        points[first:last] += centre
    angle = np.linspace(np.pi, 0.0, 17)
    points[:17] = np.stack([0.5 + 0.25 * np.cos(angle), 0.5 + 0.35 * np.sin(angle)], 1)
    return torch.from_numpy((points + points[MIRROR] * [-1.0, 1.0] + [1.0, 0.0]) / 2.0).float()


def test_config_survives_json_and_names_what_is_wrong():
    assert LandmarkConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    with pytest.raises(ValueError, match="unknown settings"):
        LandmarkConfig.from_dict({"depth": 3})
    with pytest.raises(ValueError, match="multiple of 16"):
        LandmarkConfig(input_size=100)


def test_soft_argmax_is_the_mean_of_cell_centres():
    log_maps = torch.full((1, 2, 4, 8), -1e4)
    log_maps[0, 0, 1, 5] = 0.0
    log_maps[0, 1, 3, 0] = log_maps[0, 1, 3, 1] = np.log(0.5)
    expected = torch.tensor([[[5.5 / 8, 1.5 / 4], [1.0 / 8, 3.5 / 4]]])
    assert torch.allclose(soft_argmax(log_maps), expected, atol=1e-5)


def test_any_size_gives_the_same_fractions():
    network = LandmarkNet(TINY).eval()
    small = F.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, size=(128, 128), mode="bilinear")
    large = F.interpolate(small, size=(256, 256), mode="bilinear")
    with torch.no_grad():
        a, b = network(small), network(large)
    assert a.points.shape == (2, 68, 2) and a.log_maps.shape == (2, 68, 32, 32)
    assert torch.allclose(a.log_maps.exp().sum((2, 3)), torch.ones(2, 68), atol=1e-4)
    assert torch.allclose(a.points, b.points, atol=5e-3)


def test_points_have_gradients_and_bad_shapes_are_named():
    network = LandmarkNet(TINY).eval()
    image = torch.zeros(1, 3, 64, 64).uniform_(-1, 1).requires_grad_(True)
    network(image).points.sum().backward()
    assert float(image.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="expected square images"):
        network(torch.zeros(1, 3, 64, 32))


def test_starter_shape_is_small():
    size = sum(p.numel() for p in LandmarkNet(training.STARTER_LANDMARKS).parameters()) * 2
    assert size <= 3_000_000


def test_file_holds_the_network(tmp_path):
    network = LandmarkNet(TINY).eval()
    path = tmp_path / "net.safetensors"
    save_model(path, network.state_dict(), {"kind": "landmarks", "landmarks": TINY.to_dict()}, half=True)
    loaded = load_landmark_net(path)
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.allclose(loaded.module(image).points, network(image).points, atol=1e-2)
    assert not any(p.requires_grad for p in loaded.module.parameters())
    with pytest.raises(CheckpointError, match="nothing.safetensors: not found"):
        load_landmark_net(tmp_path / "nothing.safetensors")


@pytest.fixture()
def marked_pack() -> FacePack:
    """Twelve images with a white dot at every eye corner; one label is doubtful, one missing."""
    points = face_points()
    images = torch.zeros(12, 3, 128, 128, dtype=torch.uint8)
    for x, y in (points[[36, 45]] * 128).tolist():
        images[:, :, int(y) - 2:int(y) + 3, int(x) - 2:int(x) + 3] = 255
    landmarks, doubt = points.expand(12, 68, 2).clone(), torch.full((12,), 0.02)
    doubt[3], doubt[4], landmarks[4] = 0.5, float("nan"), float("nan")
    names = [f"photo_{i}" for i in range(4)] + [f"synthetic_{i}" for i in range(8)]
    return FacePack(names, images, landmarks, doubt)


@pytest.mark.parametrize(("share", "least", "most"), [(None, 0.1, 0.4), (0.5, 0.4, 0.6), (1.0, 1.0, 1.0)])
def test_share_of_photos_among_random_faces(marked_pack, share, least, most):
    marked_pack.images[:] = torch.arange(12, dtype=torch.uint8)[:, None, None, None]
    faces = RandomFaces(marked_pack, seed=0, photo_share=share)
    drawn = ((faces(400)[:, 0, 0, 0] + 1.0) * 127.5).round().long()
    is_photo = torch.tensor([name.startswith("photo_") for name in marked_pack.names])[drawn]
    assert least <= is_photo.float().mean() <= most
    assert set(drawn[is_photo].tolist()) == set(faces.photos.tolist())  # nothing held out


def test_doubtful_and_missing_labels_are_left_out(marked_pack):
    index = training.LandmarkBatches(marked_pack, training.LandmarkTrainingConfig(), seed=0).index.tolist()
    assert 3 not in index and 4 not in index and len(index) >= 8
    marked_pack.doubt[:] = float("nan")
    with pytest.raises(ValueError, match="no labelled training faces"):
        training.LandmarkBatches(marked_pack, training.LandmarkTrainingConfig(), seed=0)


def test_labels_move_with_the_pixels(marked_pack):
    config = training.LandmarkTrainingConfig(batch=8, drawn=0.0, negative=0.0, caricatured=0.5)
    images, points = training.LandmarkBatches(marked_pack, config, seed=3)()
    light = images.amax(dim=1)
    for image, marks in zip(light, points, strict=True):
        dark = float(image.median())
        for x, y in (marks[[36, 45]] * 128).tolist():
            around = image[max(int(y) - 2, 0):int(y) + 3, max(int(x) - 2, 0):int(x) + 3]
            assert float(around.max()) > dark + 0.3, (x, y)


def test_perfect_points_have_no_distance_and_a_large_eye_is_seen():
    points = face_points()[None]
    maps = torch.full((1, 68, 32, 32), -np.log(1024.0))
    perfect = training.landmark_terms(Landmarks(points, maps), points)
    assert float(perfect["distance"]) == pytest.approx(0.0, abs=1e-6) and float(perfect["shape"]) < 1e-5
    grown = points.clone()
    middle = points[:, 36:42].mean(dim=1, keepdim=True)
    grown[:, 36:42] = middle + (points[:, 36:42] - middle) * 2.0
    # Points at their own distance from the centre off, one of six parts.
    assert float(training.landmark_terms(Landmarks(grown, maps), points)["shape"]) == pytest.approx(1 / 6, rel=1e-3)


def test_stage_saves_and_resumes(marked_pack, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "STARTER_LANDMARKS", TINY)
    config = training.LandmarkTrainingConfig(batch=4)
    monkeypatch.setattr(training, "LandmarkTrainingConfig", lambda: config)
    first = training.train_landmark_network(marked_pack, tmp_path, minutes=0.0005)
    again = training.train_landmark_network(marked_pack, tmp_path, minutes=0.0005)
    assert again["images"] > first["images"] > 0 and np.isfinite(again["held_out_percent"])
    assert load_state(tmp_path / "landmarks_net.pt")["seen"] == again["images"]
    monkeypatch.setattr(export, "STARTER_LANDMARKS", TINY)
    assert set(export.export_starter(tmp_path, tmp_path / "starter")) == {"landmarks_net.safetensors"}
    assert load_landmark_net(tmp_path / "starter" / "landmarks_net.safetensors").module.config == TINY


@pytest.fixture()
def face_pack(tmp_path) -> FacePack:
    """One generated face, four times, with the landmarks that the bundled network finds."""
    face = to_tensor(read_image(FACE), 128)
    with torch.no_grad():
        points = load_landmark_net().module(face).points
    images = ((face + 1.0) * 127.5).round().to(torch.uint8).expand(4, -1, -1, -1).clone()
    return FacePack([f"synthetic_{i}" for i in range(4)], images, points.expand(4, -1, -1).clone(), torch.zeros(4))


def test_drawings_are_labelled_repeatable_and_resumable(face_pack, tmp_path, monkeypatch):
    looks = {name: LOOKS[name] for name in ("ink", "cartoon")}
    monkeypatch.setattr(drawings, "SAVE_EVERY", 1)
    output, whole = tmp_path / "drawings.npz", tmp_path / "whole.npz"
    drawn, make = [], drawings.drawing

    def stops(*args, **given):
        if len(drawn) == 1:
            raise KeyboardInterrupt
        drawn.append(make(*args, **given))
        return drawn[-1]

    monkeypatch.setattr(drawings, "drawing", stops)
    with pytest.raises(KeyboardInterrupt):
        drawings.draw_pack(face_pack, output, count=2, size=64, looks=looks)
    assert not output.exists()
    monkeypatch.setattr(drawings, "drawing", make)
    assert drawings.draw_pack(face_pack, output, count=2, size=64, looks=looks) == {"drawings": 2}
    drawings.draw_pack(face_pack, whole, count=2, size=64, looks=looks)
    one, other = FacePack.load(output), FacePack.load(whole)
    assert torch.equal(one.images, other.images) and torch.equal(one.landmarks, other.landmarks)
    assert one.images.shape == (2, 3, 64, 64) and {name.partition("_")[0] for name in one.names} <= set(looks)
    moved = (one.landmarks - face_pack.landmarks[:2]).norm(dim=2).mean(dim=1)
    assert (moved < 0.2).all() and moved.max() > 0.001
    face_pack.landmarks[:], face_pack.doubt[:] = float("nan"), float("nan")
    with pytest.raises(ValueError, match="no labelled training faces"):
        drawings.draw_pack(face_pack, output, count=1, size=64)


def test_batches_hold_their_share_of_drawings(marked_pack):
    marked = FacePack(["ink_00000"], torch.full((1, 3, 128, 128), 200, dtype=torch.uint8), face_points()[None], torch.zeros(1))
    config = training.LandmarkTrainingConfig(batch=10, drawn=0.0, caricatured=0.0, negative=0.0)
    images, points = training.LandmarkBatches(marked_pack, config, seed=0, drawings=marked)()
    light = images.flatten(1).median(dim=1).values > 0.0
    assert light.tolist() == [False] * 6 + [True] * 4 and points.shape == (10, 68, 2)


def test_rotation_turns_points_with_the_picture():
    picture = Image.new("L", (64, 64), 0)
    picture.putpixel((50, 20), 255)
    pixels, points = rotated(picture, np.array([[50.5, 20.5]]), 20.0)
    y, x = np.unravel_index(int(np.argmax(pixels)), pixels.shape)
    assert abs(x + 0.5 - points[0, 0]) <= 1.0 and abs(y + 0.5 - points[0, 1]) <= 1.0


def test_pack_without_landmarks_is_one_line(tmp_path, capsys):
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(folder / f"photo_{i}.png")
    pack = tmp_path / "pack.npz"
    assert pretrain.main(["pack", "--data", str(folder), "--size", "32", "--output", str(pack)]) == 0
    for part in ("predictor", "network"):
        argv = ["landmarks", "--data", str(pack), "--part", part, "--state", str(tmp_path), "--minutes", "0.001",
                "--output", str(tmp_path / "l.dat")]
        assert pretrain.main(argv) == 2
        assert "run the pack stage with --landmarks" in capsys.readouterr().err


@pytest.fixture(scope="module")
def small_predictor(tmp_path_factory):
    """A dlib predictor of few trees, trained on bright crosses, and one of its images."""
    rng, images, shapes = np.random.default_rng(0), [], []
    for _ in range(12):
        image = np.zeros((64, 64), np.uint8)
        x, y = rng.integers(20, 44, 2)
        image[y - 6:y + 7, x], image[y, x - 6:x + 7] = 200, 255
        images.append(image)
        shapes.append([annotation(dlib.rectangle(8, 8, 56, 56), np.array([[x - 6.0, y], [x, y - 6.0], [x + 6.0, y]]))])
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.num_trees_per_cascade_level, options.tree_depth = 3, 20, 3
    options.oversampling_amount, options.random_seed = 20, "0"
    path = tmp_path_factory.mktemp("dlib") / "p.dat"
    dlib.train_shape_predictor(images, shapes, options).save(str(path))
    return path, images


def test_rounded_predictor_is_smaller_and_finds_the_same_points(small_predictor, tmp_path):
    path, images = small_predictor
    small = tmp_path / "small.dat"
    small.write_bytes(path.read_bytes())
    shrink_predictor(small)
    assert small.stat().st_size < 0.9 * path.stat().st_size
    before, after = dlib.shape_predictor(str(path)), dlib.shape_predictor(str(small))
    box = dlib.rectangle(8, 8, 56, 56)
    for image in images:
        a, b = ([(p.x, p.y) for p in predictor(image, box).parts()] for predictor in (before, after))
        assert np.abs(np.array(a) - np.array(b)).max() <= 1
    again = small.read_bytes()
    shrink_predictor(small)
    assert small.read_bytes() == again


def test_other_files_are_not_rounded(small_predictor, tmp_path):
    path = tmp_path / "other.dat"
    for data in (b"no predictor", small_predictor[0].read_bytes()[:500]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="other.dat: is no shape predictor"):
            shrink_predictor(path)
        assert path.read_bytes() == data
