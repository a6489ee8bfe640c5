"""Sweeps and films of a face through values of a control: exemplars, versions, numbers; by the published weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from test_dual_style import face, network, parts, style, weights  # noqa: F401 - fixtures
from test_modify_style import folder  # noqa: F401 - a fixture
from test_video import decoded

import deformation_control
import morph
from models.blending import interpolation_weights
from pipeline.sweeps import Subject
from styles.controls import Look


def frames(words, style, face):  # noqa: F811
    """What a sweep of a face shows: labels, columns, and the frames of its animation."""
    args = deformation_control.parse(["--style", style.name, *words])
    subject = Subject("me", face, torch.zeros(len(face), 3, 64, 64), None)
    labels, columns, moving = deformation_control.value_frames(args, style, subject)
    return labels, columns, list(moving)


def test_exemplars_are_gone_through_by_the_published_weights(style, face):  # noqa: F811
    labels, columns, moving = frames(["--values", "ann,bob", "--published_weights"], style, face[:1])
    assert labels == ["ann", "bob"] and len(moving) == 31
    ends = [style.draw(face[:1], style.default_look(samples=True).changed(exemplar=name)) for name in labels]
    assert all(torch.equal(*pair) for pair in zip(columns, ends, strict=True))
    assert torch.equal(moving[0][1], ends[0]) and torch.equal(moving[-1][1], ends[1])
    share = float(interpolation_weights()[11])
    mixed = Look(exemplar="ann", second_exemplar="bob", second_share=share)
    assert share == 0.5 and torch.allclose(moving[11][1], style.draw(face[:1], style.default_look(samples=True).changed(**mixed)),
                                           atol=1e-5)
    assert moving[11][0] == "ann 0.50" and not torch.allclose(moving[11][1], ends[0], atol=1e-3)


def test_numbers_are_gone_through_evenly(style, face):  # noqa: F811
    labels, _, moving = frames(["--control", "structure", "--values", "0", "1", "0.5", "--frames", "3"], style, face[:1])
    assert labels == ["structure 0", "structure 1", "structure 0.5"]
    for (_, made), value in zip(moving, (0.0, 0.5, 1.0, 1.0, 0.75, 0.5), strict=True):
        assert torch.allclose(made, style.draw(face[:1], style.default_look(samples=True).changed(structure=value)), atol=1e-6)


def test_a_photo_goes_through_exemplars(style, tmp_path):  # noqa: F811
    Image.fromarray(astronaut()).save(tmp_path / "me.png")
    argv = ["--style", "toons", "--values", "ann,bob", "--input_image", str(tmp_path / "me.png"), "--animate", "gif",
            "--frames", "3", "--output", str(tmp_path / "out")]
    assert deformation_control.main(argv) == 0
    strip = np.asarray(Image.open(tmp_path / "out" / "toons_me.png"), int)[-64:]
    step = (strip.shape[1] - 64) // 2
    photo, ann, bob = (strip[:, i * step:i * step + 64] for i in range(3))
    assert abs(ann - bob).mean() > 1 and photo.std() > 20
    with Image.open(tmp_path / "out" / "toons_me.gif") as film:
        assert film.is_animated


@pytest.mark.parametrize(("words", "message"), [
    (["--values", "ann"], "at least two"), (["--values", "ann,carl"], "expected a file or one of"),
    (["--values", "ann,bob", "--styles", "a,b"], "goes without --styles"),
    (["--control", "preserve_color", "--values", "no,yes", "--animate", "gif"], "nothing lies between"),
    (["--control", "structure", "--values", "0,x"], "expected a number"),
    (["--control", "nose", "--values", "0,1"], "has no 'nose'"),
])
def test_wrong_values_are_one_line(style, tmp_path, capsys, words, message):  # noqa: F811
    assert deformation_control.main(["--style", "toons", "--output", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# --------------------------------------------------------------------------------------------------------------- films
@pytest.fixture()
def quick(monkeypatch):
    """Films of three weights."""
    monkeypatch.setattr("models.blending.interpolation_weights", lambda: interpolation_weights()[[0, 11, 30]])
    monkeypatch.setattr(morph, "FPS", 10)


def last(path, side=64):
    """The results of a film: the right third of every frame."""
    return [frame[1][:, -side:].astype(int) for frame in decoded(path)]


def test_a_film_through_exemplars(style, tmp_path, quick):  # noqa: F811
    Image.fromarray(astronaut()).save(tmp_path / "me.png")
    argv = ["--style", "toons", "--size", "64", "--input_image", str(tmp_path / "me.png"), "--output", str(tmp_path / "out")]
    assert morph.main([*argv, "--exemplars", "ann", "1", "ann"]) == 0
    shown = last(tmp_path / "out" / "me.mp4")
    assert len(shown) == 6 and abs(shown[0] - shown[2]).mean() > 2 and abs(shown[0] - shown[5]).mean() < 6
    assert Image.open(tmp_path / "out" / "me_sheet.png").size[1] == 3 * 66 - 2


def test_a_film_through_versions(folder, tmp_path, quick, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder / "styles"))
    photo = next(iter(sorted((folder / "photos").iterdir())))
    argv = ["--style", "tiny", "--size", "32", "--align", "false", "--input_image", str(photo), "--output", str(tmp_path)]
    assert morph.main([*argv, "--versions", "1-3"]) == 0
    assert len(decoded(tmp_path / f"{photo.stem}.mp4")) == 6
    assert morph.between({"version": 2.0}, {"version": 3.0}, 0.25) == {"version": 2.25}
    capsys.readouterr()
    for words, message in ((["--versions", "1,3"], "between two that do not follow"), (["--versions", "2"], "at least 2"),
                           (["--exemplars", "a"], "at least 2"), (["--exemplars", "a", "b"], "holds no exemplars")):
        assert morph.main([*argv, *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_styles_of_any_shape_are_shown_whole():
    wide = Image.new("RGB", (64, 32), "red")
    view = np.asarray(morph.squared(wide, 32))
    assert view.shape == (32, 32, 3) and (view[0] == 255).all() and (view[16] == (255, 0, 0)).all()
    assert ((view[:, 16] == (255, 0, 0)).all(axis=1)).sum() == 16
