"""Styles that draw photos themselves, from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_styles import save_drawn
from PIL import Image
from skimage.data import astronaut

import deformation_control
import generate_samples
import inference
from styles.registry import controls_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a style and a photo of 300 x 220 px."""
    path = tmp_path_factory.mktemp("drawn")
    save_drawn(path / "drawn.safetensors")
    Image.fromarray(astronaut()).crop((70, 0, 370, 220)).save(path / "photo.jpg", quality=95)
    return path


@pytest.fixture()
def draw(folder, tmp_path, monkeypatch):
    """Return a function that draws the photo with options, and returns the pictures by name."""
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))

    def run(*options: str) -> dict[str, np.ndarray]:
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        assert inference.main(["--style", "drawn", "--input_image", str(folder / "photo.jpg"), "--output", str(output),
                               *options]) == 0
        return {path.name: np.asarray(Image.open(path).convert("RGB")).astype(int) for path in sorted(output.glob("*.[pj]*g"))}

    return run


def test_the_whole_photo_is_drawn_at_its_own_size_or_another(folder, draw):
    photo = np.asarray(Image.open(folder / "photo.jpg").convert("RGB")).astype(int)
    whole = draw()
    assert list(whole) == ["drawn_photo.jpg"] and whole["drawn_photo.jpg"].shape == photo.shape
    corner = np.abs(whole["drawn_photo.jpg"] - photo)[-30:, -30:]
    assert corner.mean() > 3.0  # tone and strokes act on all of it
    assert draw("--size", "150")["drawn_photo.jpg"].shape == (110, 150, 3)


def test_faces_alone_and_aligned_ones(folder, draw):
    photo = np.asarray(Image.open(folder / "photo.jpg").convert("RGB")).astype(int)
    face = draw("--frame", "face")["drawn_photo.jpg"]
    change = np.abs(face - photo).mean(axis=2)
    assert change[-10:, :10].mean() < 4.0 < change[40:120, 110:180].mean()  # JPEG's own error is about 1
    crops = draw("--frame", "crop")
    assert {name: image.shape for name, image in crops.items()} == {
        "drawn_photo.png": (512, 512, 3), "drawn_photo_side.png": (512, 1024, 3)}


def test_nothing_asked_for_is_the_photo(folder, draw):
    photo = np.asarray(Image.open(folder / "photo.jpg").convert("RGB")).astype(int)
    same = draw("--alpha", "0", "--tone_strength", "0", "--stroke_strength", "0")["drawn_photo.jpg"]
    assert np.abs(same - photo).mean() < 3.0


def test_photos_without_a_face_and_frames_without_a_place_are_one_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))
    Image.new("RGB", (200, 200), (90, 120, 60)).save(tmp_path / "green.png")
    argv = ["--style", "drawn", "--input_image", str(tmp_path / "green.png"), "--output", str(tmp_path / "out")]
    assert inference.main(argv) == 2
    assert "green.png: no face" in capsys.readouterr().err
    assert inference.main([*argv, "--frame", "photo", "--align", "false"]) == 2
    assert "cannot go with --align false" in capsys.readouterr().err


def test_samples_and_sweeps_are_drawn_at_512_px(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))
    assert [control.name for control in controls_of("drawn")] == ["alpha", "tone_strength", "stroke_strength"]
    assert generate_samples.main(["--style", "drawn", "--n_each", "1", "--output", str(tmp_path / "g")]) == 0
    (sheet,) = (tmp_path / "g").glob("*.png")
    assert min(Image.open(sheet).size) >= 512
    assert deformation_control.main(["--style", "drawn", "--split", "2", "--size", "96", "--region", "mouth",
                                     "--output", str(tmp_path / "d")]) == 0
    (strip,) = Path(tmp_path / "d").glob("*.png")
    pixels = np.asarray(Image.open(strip).convert("RGB")).astype(int)[-96:]
    cells = [pixels[:, 98 * i:98 * i + 96] for i in range(1, 4)]
    upper, lower = (np.abs(cells[0] - cells[2])[rows].mean() for rows in (slice(0, 30), slice(50, 85)))
    assert lower > 2.0 * upper
