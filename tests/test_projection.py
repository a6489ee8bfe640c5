"""Landmark projection: goals, spline, objective, landmark files, animations that survive being stopped, and one-line errors."""

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
from checkpoints.builders import Base
from data.landmarks68 import MEAN_FACE, REGIONS
from losses.heat_maps import FAMILIES, GROUPS, group_weights, heat_map_loss, point_loss
from losses.noise import renew_noise
from models.face import Face
from models.landmark_warp import landmark_grid, polygon_mask, sample_image
from models.landmarks import LandmarkConfig, LandmarkNet, Landmarks, soft_argmax
from models.stylegan2 import Generator, GeneratorConfig
from pipeline.cli import UserError
from faces.landmark_files import read_landmarks
from projection.expressions import aligned_points, bundled, check_pose, fitted, named
from pipeline.latents import LatentCache
from pipeline.naming import Photo
from projection import crop_folder
from projection.runs import frame_photos
from projection.stills import Plain, Studio
from projection.films import AnimationSettings, animate_clip, animate_photos
from pipeline.stylize import InversionSettings, Look, Stylizer
from training.projection import (
    EXPRESSIVE, STARTER_WEIGHTS, Expression, Person, ProjectionSettings, Projector, drawn_maps, eye_unit, goals, moved_photo,
    named_weights,
)
from training.published_projection import PublishedProjector, PublishedSettings

FACE = torch.from_numpy(MEAN_FACE).float()
CONFIG = GeneratorConfig(size=32, style_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8})


def tiny(settings: ProjectionSettings | None = None) -> Projector:
    """A projector of 32 px with random networks."""
    torch.manual_seed(0)
    generator = Generator(CONFIG).requires_grad_(False).eval()
    network = LandmarkNet(LandmarkConfig(32, 68, (8, 8, 8))).requires_grad_(False).eval()
    return Projector(generator, network, settings or ProjectionSettings(steps=8))


def somebody(projector: Projector) -> Person:
    torch.manual_seed(1)
    face = Face(torch.randn(1, CONFIG.n_latent, CONFIG.style_dim), 0.1 * torch.randn(1, 8, 32, 32))
    with torch.no_grad():
        photo = projector.draw(face).clamp(-1, 1)
    return Person(face, photo, FACE)


def smiling() -> torch.Tensor:
    points = FACE.clone()
    points[48:60, 0] = 0.5 + 1.3 * (points[48:60, 0] - 0.5)
    points[17:27, 1] -= 0.03
    return points


# ---------------------------------------------------------------------------------------------------------- geometry
def test_goals_go_their_share_and_jaw_and_nose_follow():
    target = smiling()
    assert torch.equal(goals(FACE, target, torch.ones(68))[EXPRESSIVE], target[EXPRESSIVE])
    mouth = group_weights(named_weights([("all", 0.0), ("mouth", 1.0)], default=STARTER_WEIGHTS))
    goal = goals(FACE, target, mouth)
    assert torch.equal(goal[17:27], FACE[17:27]) and torch.equal(goal[36:48], FACE[36:48])
    assert torch.allclose(goal[48:68], target[48:68])
    half = goals(FACE, target, torch.full((68,), 0.5))
    assert torch.allclose(half[48:68] - FACE[48:68], 0.5 * (target - FACE)[48:68], atol=1e-6)
    shifted = goals(FACE, FACE + torch.tensor([0.02, 0.0]), group_weights((0, 1, 1, 0, 0, 1, 1, 1, 1)))
    assert torch.allclose(shifted - FACE, torch.tensor([0.02, 0.0]).expand(68, 2), atol=1e-5), "jaw and nose stayed behind"


def test_spline_carries_points_exactly_and_keeps_border_and_rest():
    target, size = smiling(), 64
    places = (torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy"), 0)[None] + 0.5) / size
    warped = sample_image(places, landmark_grid(FACE, target, size, smoothing=torch.full((68,), 1e-7)))
    found = torch.nn.functional.grid_sample(warped, target[None, None] * 2 - 1, align_corners=False)[0, :, 0].T
    assert (found - FACE)[EXPRESSIVE].norm(dim=1).max() < 0.01
    assert (warped - places)[..., 0, :].abs().max() < 0.01
    still = landmark_grid(FACE, FACE, size, smoothing=torch.full((68,), 1e-4))
    assert (sample_image(places, still) - places)[:, :, 2:-2, 2:-2].abs().max() < 1e-5
    with pytest.raises(ValueError, match="finite"):
        landmark_grid(FACE * float("nan"), FACE, size, smoothing=torch.zeros(68))


def test_inside_of_the_mouth_is_the_donors_and_nothing_else():
    open_mouth = FACE.clone()
    open_mouth[65:68, 1] += 0.06
    open_mouth[55:60, 1] += 0.06
    person = Person(Face(torch.zeros(1, 1, 1)), torch.zeros(1, 3, 128, 128), FACE)
    donor = torch.full((1, 3, 128, 128), -1.0)
    donor[:, 0] = 1.0
    picture = moved_photo(person, Expression(open_mouth, donor, open_mouth), open_mouth)
    inside = polygon_mask(open_mouth[60:68], 128)
    assert inside.max() == 1.0 and picture[:, 0][inside[0] == 1].abs().min() > 0.25
    away = torch.ones(128, 128, dtype=torch.bool)
    away[85:110, 40:90] = False
    assert picture[0][:, away].abs().max() == 0.0


def test_losses_at_their_edges():
    heat = torch.rand(1, 68, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(heat_map_loss(heat, heat.detach().clone(), torch.ones(68)), heat)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    with pytest.raises(ValueError, match="0"):
        point_loss(FACE[None], FACE[None], torch.zeros(68), unit=torch.ones(1))
    with pytest.raises(ValueError, match="9"):
        group_weights((1.0, 2.0))
    maps = drawn_maps(FACE, torch.zeros(1, 68, 32, 32))
    assert torch.allclose(maps.sum(dim=(2, 3)), torch.ones(1, 68), atol=1e-5)
    noise = [torch.rand(1, 1, 8, 8) * 5]
    renew_noise(noise)
    assert abs(float(noise[0].mean())) < 1e-6 and abs(float(noise[0].square().mean()) - 1) < 1e-5


def test_weights_by_name():
    found = dict(zip(GROUPS, named_weights([("mouth", 5.0), ("eyes", 0.2), ("jaw", 0.0)], default=STARTER_WEIGHTS), strict=True))
    assert found["outer_lip"] == found["inner_lip"] == 5.0 and found["left_eye"] == 0.2 and found["jaw"] == 0.0
    assert set(FAMILIES["mouth"]) == {"outer_lip", "inner_lip"} and REGIONS["mouth"] == slice(48, 68)
    with pytest.raises(ValueError, match="no group 'ear'"):
        named_weights([("ear", 1.0)], default=STARTER_WEIGHTS)


# --------------------------------------------------------------------------------------------------------- projection
class Bright(torch.nn.Module):
    """Takes for every landmark the middle of what is bright."""

    def forward(self, image):
        maps = torch.nn.functional.avg_pool2d(image.mean(dim=1, keepdim=True), 4).expand(-1, 68, -1, -1) * 4.0
        log_maps = maps.flatten(2).log_softmax(dim=2).reshape(maps.shape)
        return Landmarks(soft_argmax(log_maps), log_maps)


def test_projection_nears_its_goal_and_is_repeatable():
    projector = tiny(ProjectionSettings(steps=12, landmark_weight=20.0))
    projector.network = Bright()
    person, expression = somebody(projector), Expression(smiling())
    one, other = (projector.project(person, expression) for _ in range(2))
    start = projector.project(person, expression, steps=0)
    assert torch.equal(one.image, other.image) and torch.equal(one.face.residual, other.face.residual)

    def distance(image):
        return point_loss(projector.network(image).points, one.goal[None], projector.settings.pulls, unit=eye_unit(one.goal))

    assert distance(one.image) < distance(start.image) - 0.002
    assert torch.equal(start.face.w_plus, person.face.w_plus)
    plain, whole = projector.features(person.face)
    assert torch.allclose(whole - plain, person.face.residual, atol=1e-5)
    assert torch.equal(start.face.residual, projector.start(person, start.goal))
    assert not any(parameter.requires_grad for parameter in projector.generator.parameters())
    after = projector.project(person, expression, steps=0, after=one)
    assert torch.equal(after.image, one.image), "a frame that does nothing leaves the last one's offsets"


def test_picture_nears_the_moved_photo():
    projector = tiny(ProjectionSettings(steps=12, landmark_weight=0.0, heat_weight=0.0, penalty=0.0))
    person, expression = somebody(projector), Expression(smiling())
    far, near = (projector.project(person, expression, steps=steps) for steps in (0, 12))
    assert (near.image - near.moved).abs().mean() < 0.9 * (far.image - far.moved).abs().mean()


def test_identity_term_is_asked_about_the_photo():
    projector, asked = tiny(), []

    def identity(photo):
        asked.append(photo)
        return lambda image: image.square().mean()

    projector.identity = identity
    person = somebody(projector)
    projector.project(person, Expression(smiling()), steps=1)
    assert asked[0] is person.photo


def test_published_projection_optimises_one_row_and_white_noise():
    projector = tiny()
    settings = PublishedSettings(steps=4)
    published = PublishedProjector(projector.generator, heat_maps=lambda image: projector.network(image).log_maps.exp(),
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
        PublishedProjector(projector.generator, heat_maps=None, perceptual=None, settings=PublishedSettings(d_weight=1.0))


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
    for bad, words in ((points[:67], "expected 68 points"), (np.where(np.arange(68)[:, None] == 5, np.nan, points), "not finite")):
        with pytest.raises(UserError, match=words):
            read_landmarks(written(tmp_path, suffix, bad))
    (tmp_path / f"x{suffix}").write_bytes(b"no landmarks \x00\xff")
    with pytest.raises(UserError, match="no landmarks that can be read"):
        read_landmarks(tmp_path / f"x{suffix}")
    with pytest.raises(UserError, match="not found"):
        read_landmarks(tmp_path / f"y{suffix}")


def test_landmarks_are_aligned_whatever_their_place_and_scale():
    one, other = aligned_points(MEAN_FACE, name="a"), aligned_points(MEAN_FACE @ [[0, 300], [-300, 0]] + 500, name="b")
    assert torch.allclose(one, other, atol=1e-5)
    with pytest.raises(UserError, match="span no face"):
        aligned_points(np.zeros((68, 2)), name="c")
    profile = FACE.clone()
    profile[27:36, 0] -= 0.2
    with pytest.raises(UserError, match="turned too far"):
        check_pose(profile, name="d")


def test_bundled_expressions_are_what_they_say():
    faces = {name: torch.tensor(entry["landmarks"]) for name, entry in bundled().items()}
    assert set(faces) == {"neutral", "smile", "open mouth", "raised brows", "wink"}
    neutral = faces["neutral"]
    assert all(list(points.shape) == [68, 2] for points in faces.values())
    assert faces["open mouth"][66, 1] - faces["open mouth"][62, 1] > neutral[66, 1] - neutral[62, 1] + 0.03
    assert faces["smile"][54, 0] - faces["smile"][48, 0] > neutral[54, 0] - neutral[48, 0] + 0.02
    assert (faces["raised brows"][17:27, 1] < neutral[17:27, 1]).all()
    assert faces["wink"][44, 1] > neutral[44, 1] and torch.equal(faces["wink"][:42], neutral[:42])
    assert named("Open_mouth") == "open mouth" and named("grin") is None
    assert torch.allclose(fitted(neutral, 0.9 * neutral + 0.05), 0.9 * neutral + 0.05, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- animations
class FakeStylizer(Stylizer):
    """Finds squares as faces and inverts to the same face."""

    def __init__(self, projector: Projector) -> None:
        base = Base(projector.generator, None, torch.zeros(CONFIG.style_dim), "tiny", "0")
        super().__init__(Plain(base), base, encoder=None, objective=lambda: None, settings=InversionSettings("optimize"),
                         cache=LatentCache(None), finder=FakeFinder())
        self.person = somebody(projector)

    def invert(self, aligned):
        return self.person.face


@pytest.fixture
def studio(monkeypatch) -> Studio:
    projector = tiny(ProjectionSettings(steps=2, identity_weight=0.0))
    monkeypatch.setattr(Projector, "points", lambda self, image: FACE + 0.02 * image.mean())
    return Studio(FakeStylizer(projector), projector, Look())


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
    settings = AnimationSettings(first_steps=2, steps=1, halfway=halfway, segment=2)
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
    settings = AnimationSettings(first_steps=2, steps=1, halfway=True)
    done = animate_photos(studio, look, photos, tmp_path / "out", settings, fps=5)
    assert (done.frames, done.faceless) == (3, 1) and "1.png: no face found" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "out" / "frames").glob("*.png"))
    assert names == ["0.png", "1.png", "1_halfway.png", "2.png", "2_halfway.png"]
    saved = [np.load((tmp_path / "out" / "frames" / name).with_suffix(".npz"))["w"] for name in names]
    assert np.allclose(saved[2], (saved[0] + saved[1]) / 2, atol=1e-6), "the halfway latents are not the frame's"
    assert len(decoded(tmp_path / "out" / "proj.mp4")) == 5
    assert Fraction(1, 10) == Fraction(round(decoded(tmp_path / "out" / "proj.mp4")[1][0] * 1000), 1000)


def test_frames_come_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "b1.png", "1.png", "B10.png", "b2.PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = frame_photos(tmp_path, output=tmp_path / "out")
    assert [Path(photo.path).name for photo in found] == ["1.png", "2.png", "10.png", "b1.png", "b2.PNG", "B10.png"]


def test_crops_of_a_clip_are_numbered(tmp_path, monkeypatch, capsys):
    from pipeline import faces

    make_clip(tmp_path / "clip.mp4", frames=3)
    monkeypatch.setattr(faces, "FaceFinder", FakeFinder)
    argv = ["--video_path", str(tmp_path / "clip.mp4"), "--outdir", str(tmp_path / "crops"), "--res", "64"]
    assert crop_folder.main(argv) == 0
    crops = sorted(path.name for path in (tmp_path / "crops").iterdir())
    assert crops == ["0.png", "1.png", "2.png"] and Image.open(tmp_path / "crops" / "0.png").size == (64, 64)
    monkeypatch.setattr(FakeFinder, "find", lambda self, image: [])
    assert crop_folder.main([*argv[:-1], "32"]) == 2 and "no face found" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- command line
@pytest.mark.parametrize(("extra", "words"), [
    ([], "say which expression"), (["--target_landmarks", "smile", "--smooth", "2"], "within 0 and 1"),
    (["--target_landmarks", "smile", "--landmark_weights", "ear=1"], "no group 'ear'"),
    (["--target_landmarks", "smile", "--landmark_weights", "1,2,3"], "nine numbers"),
    (["--target_landmarks", "smile", "--landmark_weights=" + ",".join(["-1"] * 9)], "at least 0"),
])
def test_wrong_options_are_one_line(tmp_path, capsys, extra, words):
    look = person_photo(tmp_path)
    assert project_landmarks.main(["--target_look", str(look), "--outdir", str(tmp_path / "out"), *extra]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and words in printed


def test_photo_without_a_face_is_one_line(tmp_path, capsys):
    Image.new("RGB", (200, 200), (90, 120, 90)).save(tmp_path / "grass.png")
    arguments = ["--target_look", str(tmp_path / "grass.png"), "--target_landmarks", "smile", "--outdir", str(tmp_path / "out")]
    assert project_landmarks.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "grass.png: no face found" in printed


# ---------------------------------------------------------------------------------------------------------- the page
def test_tab_shows_the_optimisation_and_moves_only_what_it_is_told_to(tmp_path, studio):
    pytest.importorskip("gradio", reason="gradio of requirements-app.txt is not installed")
    from projection.page import PARTS, Expressions

    expressions = Expressions("cpu")
    expressions.plain = studio
    whole = expressions.settings([1.0] * len(PARTS), 8)
    assert whole.weights == STARTER_WEIGHTS and whole.steps == 8
    mouth = expressions.settings([0.0, 0.0, 0.0, 2.0, 0.0], 4)
    assert mouth.weights == (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0)
    photo = person_photo(tmp_path)
    before = studio.projector.settings
    seen = list(expressions.project(str(photo), "smile", mouth))
    assert len(seen) == 5 and [done is None for _, done in seen] == [True] * 4 + [False]
    assert seen[0][0].size == (3 * 256, 256) and studio.projector.settings is before
    with pytest.raises(UserError, match="not found"):
        list(expressions.project(str(photo), "frown", mouth))
