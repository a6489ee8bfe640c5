"""Any picture as a style: read at once, mixed, without a face, at random; every pair, resume, bad pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import any_style
from checkpoints import CheckpointError, save_model
from data.images import read_image, to_tensor
from drawing.context import read_context
from drawing.reading import mean_mesh, mean_style, style_of_picture, style_of_portrait, style_without_face
from drawing.tone import OCTAVES
from drawing.warp import with_rings
from faces.find import FaceFinder
from models.face import Face
from styles.controls import FileValue, Look
from styles.picture import PictureStyle, save_picture_style
from styles.registry import controls_of, load_style

ROOT = Path(__file__).resolve().parent.parent
FACE, DRAWING = (ROOT / "data" / "style_images_aligned" / f"{name}_sample.png" for name in ("source", "target"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of weights with the style ``any``."""
    path = tmp_path_factory.mktemp("weights")
    save_picture_style(path / "any.safetensors")
    return path


@pytest.fixture(autouse=True)
def weights(folder, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))


@pytest.fixture(scope="module")
def style(folder) -> PictureStyle:
    return load_style(folder / "any.safetensors")


@pytest.fixture(scope="module")
def photo() -> Face:
    """A photo of 512 px and what is known of it; its latents are not looked at."""
    image = to_tensor(read_image(FACE), 512)
    return Face(torch.zeros(1, 12, 512), None, image, known=(read_context(image),))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().mean())


def test_the_file_weighs_nothing_and_older_forms_are_refused(folder, tmp_path):
    assert (folder / "any.safetensors").stat().st_size < 1000
    save_model(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, {"kind": "style", "style_kind": "picture"})
    with pytest.raises(CheckpointError, match="unexpected x"):
        load_style(tmp_path / "a.safetensors")
    save_model(tmp_path / "b.safetensors", {"x": torch.zeros(2)}, {"kind": "style", "style_kind": "blend", "features": True})
    with pytest.raises(CheckpointError, match="older form"):
        load_style(tmp_path / "b.safetensors")
    assert [control.name for control in controls_of("any")][:3] == ["style_image", "alpha", "tone_strength"]


def test_photos_take_the_pictures_tones_by_strength_at_their_own_size(style, photo):
    look = Look(style_image=FileValue.read(DRAWING))
    look = look.changed(alpha=0.0, stroke_strength=0.0)
    whole, half, none = (style.draw(photo, look.changed(tone_strength=share)) for share in (1.0, 0.5, 0.0))
    assert whole.shape == (1, 3, 512, 512) and distance(none, photo.photo) < 0.01
    picture = to_tensor(read_image(DRAWING), 512)
    away = [float((image.mean(dim=(2, 3)) - picture.mean(dim=(2, 3))).norm()) for image in (none, half, whole)]
    assert away[0] > away[1] > away[2]


def test_the_deformation_goes_by_alpha(style, photo):
    look = Look(style_image=FileValue.read(DRAWING), tone_strength=0.0, stroke_strength=0.0)
    still, some, more = (style.draw(photo, look.changed(alpha=alpha)) for alpha in (0.0, 0.5, 1.0))
    assert distance(still, photo.photo) < distance(some, photo.photo) < distance(more, photo.photo)


def test_a_portrait_of_the_mean_face_deforms_nothing():
    context = read_context(to_tensor(read_image(FACE), 512))
    found = style_of_portrait(to_tensor(read_image(FACE), 512))
    # The points of the mean face, moved as the portrait's own differ from it: laid over each other they agree.
    assert torch.allclose(found.source, with_rings(mean_mesh()))
    assert found.shape.shape == context.points.shape and float(found.moved.abs().mean()) < 0.3


def test_two_pictures_are_mixed(style, photo):
    first, second = FileValue.read(DRAWING), FileValue.read(FACE)
    mixture = Look(style_image=first, second_style_image=second)
    one, other = style.drawn_in(Look(style_image=first)), style.drawn_in(Look(style_image=second))
    for share in (0.0, 0.25, 1.0):
        found = style.drawn_in(mixture.changed(second_share=share))
        assert torch.allclose(found.tone.mean, (1.0 - share) * one.tone.mean + share * other.tone.mean, atol=1e-6)
        assert torch.allclose(found.moved, (1.0 - share) * one.moved + share * other.moved, atol=1e-6)
    assert distance(style.draw(photo, mixture), style.draw(photo, Look(style_image=first))) > 0.01


def test_pictures_of_other_sizes_can_be_mixed():
    image = to_tensor(read_image(DRAWING), 512)
    styles = [style_of_portrait(image, side=512), style_of_portrait(image, side=200), style_without_face(image[:, :, :90])]
    assert all(len(each.tone.energy) == OCTAVES for each in styles)
    mean = mean_style(styles)
    assert torch.allclose(mean.tone.mean, sum(each.tone.mean for each in styles) / 3.0)
    assert float(styles[2].moved.abs().max()) == 0.0 and float(styles[2].tone.placed.abs().max()) == 0.0


def test_random_styles_are_drawings_by_their_seed(style, photo):
    drawn = {seed: style.draw(photo, Look(style_seed=float(seed))) for seed in (4, 5)}
    assert distance(drawn[4], drawn[5]) > 0.02
    assert style.random_picture(4).tobytes() == style.random_picture(4).tobytes() != style.random_picture(5).tobytes()
    with pytest.raises(CheckpointError, match="--style_seed -1: expected a whole number"):
        style.draw(photo, Look(style_seed=-1.0))


@pytest.mark.parametrize("name", ["noise", "dot"])
def test_without_a_face_the_picture_counts_and_a_line_says_so(style, photo, tmp_path, capsys, name):
    pictures = {"noise": Image.effect_noise((90, 60), 80).convert("RGB"), "dot": Image.new("RGB", (1, 1), "red")}
    pictures[name].save(tmp_path / "picture.png")
    look = Look(style_image=FileValue.read(tmp_path / "picture.png"))
    drawn = style.draw(photo, look)
    assert torch.isfinite(drawn).all() and "no face found in the style picture" in capsys.readouterr().err
    still = style.draw(photo, look.changed(tone_strength=0.0, stroke_strength=0.0))
    assert distance(still, photo.photo) < 0.01  # nothing is deformed


def test_an_aligned_picture_is_not_cut_and_others_are():
    image = read_image(DRAWING)
    asked = []

    def finder() -> FaceFinder:
        asked.append(1)
        return FaceFinder()

    whole, has_face = style_of_picture(image, finder)
    assert has_face and not asked
    wide = Image.new("RGB", (3 * image.width, 2 * image.height), "white")
    wide.paste(image, (image.width, image.height // 2))
    cut, has_face = style_of_picture(wide, finder)
    assert has_face and asked == [1]
    assert float((cut.tone.mean - whole.tone.mean).abs().max()) < 0.2


def test_a_face_that_the_finder_misses_is_taken_where_it_is_about_in_place():
    class Blind:
        def find(self, picture: Image.Image) -> list:
            return []

    image = read_image(DRAWING)
    side = image.width
    aside = image.crop((side // 5, 0, side + side // 5, side))  # the face a fifth of the side to the left
    found, has_face = style_of_picture(aside, Blind)
    assert has_face and float(found.moved.abs().max()) > 0.0
    wide = image.resize((3 * side // 2, side))
    assert not style_of_picture(wide, Blind)[1]  # what is squeezed into a square is no face in place


def test_random_faces_are_drawn_too(style):
    face = style.random(torch.randn(1, 512, generator=torch.Generator().manual_seed(1)), truncation_psi=0.7)
    drawn = style.draw(face, Look(style_image=FileValue.read(DRAWING)))
    assert drawn.shape == (1, 3, 512, 512) and torch.isfinite(drawn).all()


def test_every_pair_once_with_a_sheet(tmp_path, capsys):
    photos, pictures, output = tmp_path / "photos", tmp_path / "pictures", tmp_path / "out"
    for place, name, picture in ((photos, "a", read_image(FACE)), (pictures, "x", read_image(DRAWING))):
        place.mkdir(exist_ok=True)
        picture.resize((128, 128)).save(place / f"{name}.png")
    (pictures / "bad.png").write_bytes(b"no picture")
    argv = ["--input_image", str(photos), "--style_images", str(pictures), "--align", "false", "--output", str(output)]
    assert any_style.main(argv) == 2
    assert "bad.png" in capsys.readouterr().err
    made = sorted(path.name for path in output.glob("*.png") if not path.stem.endswith("_side"))
    assert made == ["a_v_x.png", "sheet.png"]
    assert read_image(output / "sheet.png").size == (2 * any_style.CELL, 2 * any_style.CELL)
    assert np.asarray(read_image(output / "a_v_x.png")).shape == (512, 512, 3)
    (pictures / "bad.png").unlink()
    before = (output / "a_v_x.png").stat().st_mtime_ns
    assert any_style.main(argv) == 0 and (output / "a_v_x.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(("extra", "words"), [
    ([], "name the style"), (["--style_image", str(DRAWING), "--style_images", str(DRAWING)], "name the style"),
    (["--style", "encapsulated", "--style_images", str(DRAWING)], "takes no style picture")])
def test_wrong_options_are_one_line(tmp_path, capsys, extra, words):
    assert any_style.main([*extra, "--input_image", str(FACE), "--align", "false", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said
