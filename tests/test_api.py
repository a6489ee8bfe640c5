"""From Python: photos, random faces and training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edge_kind import save_edges
from PIL import Image

from checkpoints import CheckpointError
from checkpoints.builders import load_base
from pipeline.api import Picture, Stylizer, train
from pipeline.cli import UserError

DATA = Path(__file__).resolve().parent.parent / "data"
SOURCE, TARGET = (DATA / "style_images_aligned" / f"{name}_sample.png" for name in ("source", "target"))
PHOTO = DATA / "test_inputs" / "001.png"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHECKPOINTS_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def lines(weights):
    """A style that draws aligned faces alone."""
    save_edges(weights / "lines.safetensors", load_base("starter"))
    made = Stylizer("lines", device="cpu")
    made._whole.settings = replace(made._whole.settings, steps=2)  # its own default refines for a minute
    return made


@pytest.fixture(scope="module")
def drawn(weights, tmp_path_factory):
    """A style of the sample pair, trained for a step."""
    return train(SOURCE, TARGET, "short", num_iter=1, inversion_steps=1, outdir=tmp_path_factory.mktemp("run"))


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(picture.image).astype(int)


def test_a_style_of_aligned_faces(lines, tmp_path):
    side = load_base("starter").generator.config.size
    picture = lines.photo(PHOTO, ink=0.0)
    assert picture.image.size == (side, side) and (pixels(picture) == 255).all() and picture.origin is None
    assert Image.open(picture.save(tmp_path / "face.png")).size == (side, side)
    assert (pixels(lines.photo(PHOTO, ink="0", paper="grey")) == 191).all()
    with pytest.raises(ValueError, match="draws aligned faces alone"):
        lines.photo(PHOTO, frame="photo")


def test_samples_are_told_by_their_seed(lines):
    first, both = lines.samples(1, seed=3), lines.samples(2, seed=3)
    assert (pixels(first[0]) == pixels(both[0])).all() and (pixels(both[0]) != pixels(both[1])).any()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        lines.samples(0)


def test_controls_that_the_style_has_not(lines):
    with pytest.raises(ValueError, match="no control 'alpha'; it has ink, paper"):
        lines.samples(1, alpha=1.0)
    with pytest.raises(ValueError, match="paper: expected one of white, grey"):
        lines.samples(1, paper="blue")
    with pytest.raises(ValueError, match="frame must be one of"):
        lines.photo(PHOTO, frame="half")


def test_a_photo_keeps_its_size_and_what_is_around_the_face(drawn, tmp_path):
    with Image.open(PHOTO) as opened:
        photo = opened.convert("RGB").resize((320, 320))
    wide = Image.new("RGB", (640, 320), (40, 90, 160))
    wide.paste(photo, (0, 0))
    wide.save(tmp_path / "wide.png")
    whole, face = drawn.photo(tmp_path / "wide.png"), drawn.photo(wide, frame="face", alpha="eyes=1.2,0.5")
    assert whole.image.size == face.image.size == (640, 320)
    assert (pixels(face)[:, 560:] == np.asarray(wide)[:, 560:]).all()
    assert (pixels(whole)[:, 560:] != np.asarray(wide)[:, 560:]).any()
    saved = whole.save(tmp_path / "out.jpg")
    assert Image.open(saved).format == "JPEG"
    undrawn = drawn.photo(wide, alpha=0.0, tone_strength=0.0, stroke_strength=0.0)
    assert abs(pixels(undrawn) - np.asarray(wide).astype(int)).max() <= 2


def test_no_face(drawn):
    with pytest.raises(UserError, match="photo: no face"):
        drawn.photo(Image.new("RGB", (64, 64)))


def test_training_says_what_is_wrong(weights, drawn, tmp_path):
    with pytest.raises(UserError, match="not understood"):
        train(SOURCE, TARGET, "other", strokes=3)
    with pytest.raises(UserError, match="--source, --target: got 2 photos and 1 drawings"):
        train([SOURCE, SOURCE], TARGET, "other", outdir=tmp_path)
    with pytest.raises(CheckpointError, match="short.safetensors: this style exists"):
        train(SOURCE, TARGET, "short", outdir=tmp_path / "again")
