"""Landmark projection: the published objective, landmark files, animations that survive being stopped, one-line errors."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_video import FakeFinder, decoded, make_clip, sound_of

import project_landmarks
from data.images import to_tensor
from data.landmarks68 import MEAN_FACE, REGIONS
from drawing.expression import model
from faces.landmark_files import read_landmarks
from losses.heat_maps import FAMILIES, GROUPS, LIBRARY_WEIGHTS, group_weights, heat_map_loss, named_weights
from losses.noise import renew_noise
from models.landmarks import LandmarkConfig, LandmarkNet
from models.stylegan2 import Generator, GeneratorConfig
from pipeline.cli import UserError
from pipeline.naming import Photo
from projection import crop_folder
from projection.expressions import aligned_points, check_pose, named
from projection.films import AnimationSettings, animate_clip, animate_photos
from projection.runs import frame_photos
from projection.stills import Studio
from training.published_projection import PublishedProjector, PublishedSettings

FACE = torch.from_numpy(MEAN_FACE).float()
CONFIG = GeneratorConfig(size=32, style_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8})


def test_losses_at_their_edges():
    heat = torch.rand(1, 68, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(heat_map_loss(heat, heat.detach().clone(), torch.ones(68)), heat)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    with pytest.raises(ValueError, match="9"):
        group_weights((1.0, 2.0))
    noise = [torch.rand(1, 1, 8, 8) * 5]
    renew_noise(noise)
    assert abs(float(noise[0].mean())) < 1e-6 and abs(float(noise[0].square().mean()) - 1) < 1e-5


def test_weights_by_name():
    found = dict(zip(GROUPS, named_weights([("mouth", 5.0), ("eyes", 0.2), ("jaw", 0.0)], default=LIBRARY_WEIGHTS), strict=True))
    assert found["outer_lip"] == found["inner_lip"] == 5.0 and found["left_eye"] == 0.2 and found["jaw"] == 0.0
    assert set(FAMILIES["mouth"]) == {"outer_lip", "inner_lip"} and REGIONS["mouth"] == slice(48, 68)
    with pytest.raises(ValueError, match="no group 'ear'"):
        named_weights([("ear", 1.0)], default=LIBRARY_WEIGHTS)


def test_published_projection_optimises_one_row_and_white_noise():
    torch.manual_seed(0)
    generator = Generator(CONFIG).requires_grad_(False).eval()
    network = LandmarkNet(LandmarkConfig(32, 68, (8, 8, 8))).requires_grad_(False).eval()
    settings = PublishedSettings(steps=4)
    published = PublishedProjector(generator, heat_maps=lambda image: network(image).log_maps.exp(),
                                   perceptual=torch.nn.MSELoss(), settings=settings)
    look, marks = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    one = published.project(look, marks, rng=torch.Generator().manual_seed(3))
    two = published.project(look, marks, rng=torch.Generator().manual_seed(3))
    assert torch.equal(one.image, two.image) and torch.equal(one.w_plus, one.w_plus[:, :1].expand_as(one.w_plus))
    assert all(abs(float(level.mean())) < 1e-5 for level in one.noise)
    after = published.project(look, marks, rng=torch.Generator().manual_seed(4), after=one)
    assert not torch.equal(after.w_plus, after.w_plus[:, :1].expand_as(after.w_plus))
    assert all(torch.equal(a, b) for a, b in zip(one.noise, after.noise, strict=True)), "noise changed after the first frame"
    with pytest.raises(ValueError, match="discriminator"):
        PublishedProjector(generator, heat_maps=None, perceptual=None, settings=PublishedSettings(d_weight=1.0))


# ------------------------------------------------------------------------------------------------------ landmark files
def written(folder: Path, suffix: str, points: np.ndarray) -> Path:
    path = folder / f"face{suffix}"
    rows = points.tolist()
    if suffix == ".npy":
        np.save(path, points)
    elif suffix == ".json":
        path.write_text(json.dumps({"landmarks": rows}))
    elif suffix == ".csv":
        path.write_text("x,y\n" + "\n".join(f"{x},{y}" for x, y in rows))
    else:
        path.write_text("version: 1\nn_points: 68\n{\n" + "\n".join(f"{x} {y}" for x, y in rows) + "\n}\n")
    return path


@pytest.mark.parametrize("suffix", [".npy", ".json", ".csv", ".pts"])
def test_landmark_files(tmp_path, suffix):
    points = MEAN_FACE * 400 + 30
    assert np.allclose(read_landmarks(written(tmp_path, suffix, points)), points)
    holed = np.where(np.arange(68)[:, None] == 5, np.nan, points)
    for bad, words in ((points[:67], "expected 68 points"), (holed, "not finite")):
        with pytest.raises(UserError, match=words):
            read_landmarks(written(tmp_path, suffix, bad))
    (tmp_path / f"x{suffix}").write_bytes(b"no landmarks \x00\xff")
    with pytest.raises(UserError, match="no landmarks that can be read"):
        read_landmarks(tmp_path / f"x{suffix}")
    with pytest.raises(UserError, match="not found"):
        read_landmarks(tmp_path / f"y{suffix}")


def test_landmarks_are_aligned_whatever_their_place_and_scale():
    one, other = aligned_points(MEAN_FACE, name="a"), aligned_points(MEAN_FACE @ [[0, 300], [-300, 0]] + 500, name="b")
    assert np.allclose(one, other, atol=1e-5)
    with pytest.raises(UserError, match="span no face"):
        aligned_points(np.zeros((68, 2)), name="c")
    profile = FACE.clone()
    profile[27:36, 0] -= 0.2
    with pytest.raises(UserError, match="turned too far"):
        check_pose(profile, name="d")


def test_expressions_are_found_in_any_spelling():
    assert named("Open_mouth") == "open mouth" and named("grin") is None


# --------------------------------------------------------------------------------------------------------- animations
@pytest.fixture
def studio(monkeypatch) -> Studio:
    """A studio that takes squares for faces, whose mouths are the wider the brighter they are."""
    def mesh_of(image):
        mesh = model().mean * 0.25 + 0.5
        mesh[[14, 87, 317], 1] += 0.02 * (1.0 + float(image.mean()))
        return mesh

    for name in ("stills", "films"):
        monkeypatch.setattr(f"projection.{name}.seen", lambda crop: (image := to_tensor(crop.image, 64), mesh_of(image)))
    monkeypatch.setattr("projection.films.aligned_mesh", lambda image: (torch.from_numpy(mesh_of(image))[None], 1.0))
    monkeypatch.setattr("drawing.expressed.GRID", 32)
    return Studio(FakeFinder())


def person_photo(folder: Path) -> Path:
    pixels = np.full((80, 80, 3), 90, np.uint8)
    pixels[20:50, 20:50] = (200, 60, 40)
    Image.fromarray(pixels).save(folder / "look.png")
    return folder / "look.png"


class StopError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("halfway", [False, True])
def test_clip_becomes_a_clip_with_its_sound_and_resumes_to_the_bit(tmp_path, studio, halfway):
    make_clip(tmp_path / "drive.mp4", frames=7)
    settings = AnimationSettings(halfway=halfway, segment=2)
    look = person_photo(tmp_path)
    done = animate_clip(studio, look, tmp_path / "drive.mp4", tmp_path / "whole.mp4", settings)
    assert (done.frames, done.faceless) == (7, 0)
    for stop_at in (1, 3, 6):
        count = [0]

        def stop(frames, *, count=count, stop_at=stop_at):
            count[0] += frames
            if count[0] >= stop_at:
                raise StopError

        with pytest.raises(StopError):
            animate_clip(studio, look, tmp_path / "drive.mp4", tmp_path / "out.mp4", settings, progress=stop)
    again = animate_clip(studio, look, tmp_path / "drive.mp4", tmp_path / "out.mp4", settings)
    one, other = decoded(tmp_path / "whole.mp4"), decoded(tmp_path / "out.mp4")
    assert len(one) == (13 if halfway else 7) and again == done
    assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True))
    times = [time for time, _ in one]
    assert np.allclose(np.diff(times), 0.02 if halfway else 0.04, atol=1e-3)
    assert np.allclose(sound_of(tmp_path / "drive.mp4"), sound_of(tmp_path / "out.mp4"), atol=1e-4)


def test_folder_gives_pictures_and_passes_over_photos_without_a_face(tmp_path, studio, capsys):
    look, photos = person_photo(tmp_path), []
    for index in range(3):
        image = Image.new("RGB", (80, 80), (90, 90, 90))
        if index != 1:
            image.paste((200, 60, 40), (10 + index, 20, 40 + index, 50))
        image.save(tmp_path / f"{index}.png")
        photos.append(Photo(str(tmp_path / f"{index}.png"), str(index)))
    settings = AnimationSettings(halfway=True)
    done = animate_photos(studio, look, photos, tmp_path / "out", settings, fps=5)
    assert (done.frames, done.faceless) == (3, 1) and "1.png: no face found" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "out" / "frames").glob("*.png"))
    assert names == ["0.png", "1.png", "1_halfway.png", "2.png", "2_halfway.png"]
    assert len(decoded(tmp_path / "out" / "proj.mp4")) == 5
    assert Fraction(1, 10) == Fraction(round(decoded(tmp_path / "out" / "proj.mp4")[1][0] * 1000), 1000)


def test_frames_come_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "b1.png", "1.png", "B10.png", "b2.PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = frame_photos(tmp_path, output=tmp_path / "out")
    assert [Path(photo.path).name for photo in found] == ["1.png", "2.png", "10.png", "b1.png", "b2.PNG", "B10.png"]


def test_crops_of_a_clip_are_numbered(tmp_path, monkeypatch, capsys):
    make_clip(tmp_path / "clip.mp4", frames=3)
    monkeypatch.setattr("faces.find.FaceFinder", lambda *words, **settings: FakeFinder())
    argv = ["--video_path", str(tmp_path / "clip.mp4"), "--outdir", str(tmp_path / "crops"), "--res", "64"]
    assert crop_folder.main(argv) == 0
    crops = sorted(path.name for path in (tmp_path / "crops").iterdir())
    assert crops == ["0.png", "1.png", "2.png"] and Image.open(tmp_path / "crops" / "0.png").size == (64, 64)
    monkeypatch.setattr(FakeFinder, "find", lambda self, image: [])
    assert crop_folder.main([*argv[:-1], "32"]) == 2 and "no face found" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- command line
@pytest.mark.parametrize(("extra", "words"), [
    ([], "say which expression"), (["--target_landmarks", "smile", "--smooth", "2"], "within 0 and 1"),
    (["--target_landmarks", "smile", "--landmark_weights", "ear=1"], "ear=1"),
    (["--target_landmarks", "smile", "--landmark_weights", "1,2,3"], "nine numbers"),
    (["--target_landmarks", "smile", "--landmark_weights=" + ",".join(["1"] * 9)], "published profile"),
    (["--target_landmarks", "smile", "--landmark_weights", "ear=1", "--profile", "published"], "no group 'ear'"),
    (["--target_landmarks", "smile", "--num_steps", "3"], "--profile published"),
])
def test_wrong_options_are_one_line(tmp_path, capsys, extra, words):
    look = person_photo(tmp_path)
    assert project_landmarks.main(["--target_look", str(look), "--outdir", str(tmp_path / "out"), *extra]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and words in printed


def test_unknown_expression_is_one_line(tmp_path, studio, capsys, monkeypatch):
    monkeypatch.setattr("faces.find.FaceFinder", lambda *words, **settings: FakeFinder())
    look = person_photo(tmp_path)
    arguments = ["--target_look", str(look), "--outdir", str(tmp_path / "out"), "--target_landmarks", "frown"]
    assert project_landmarks.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "frown: not found" in printed


def test_photo_without_a_face_is_one_line(tmp_path, capsys):
    Image.new("RGB", (200, 200), (90, 120, 90)).save(tmp_path / "grass.png")
    arguments = ["--target_look", str(tmp_path / "grass.png"), "--target_landmarks", "smile", "--outdir", str(tmp_path / "out")]
    assert project_landmarks.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "grass.png: no face found" in printed


# ---------------------------------------------------------------------------------------------------------- the page
def test_tab_moves_only_what_it_is_told_to(tmp_path, studio):
    pytest.importorskip("gradio", reason="gradio of requirements-app.txt is not installed")
    from projection.page import Expressions

    expressions, photo = Expressions("cpu"), person_photo(tmp_path)
    expressions.plain = studio
    pictures, whole = expressions.project(str(photo), "smile", [0.0, 1.0, 1.0])
    assert whole.size == (80, 80) and torch.equal(pictures[2], pictures[0]), "the mouth was to stay"
    pictures, _ = expressions.project(str(photo), "smile", [1.0, 1.0, 1.0])
    assert not torch.equal(pictures[2], pictures[0])
    with pytest.raises(UserError, match="not found"):
        expressions.project(str(photo), "frown", [1.0, 1.0, 1.0])
