"""Photos in the style of any picture by the starter: features of the picture, every pair, resume, bad pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import any_style
from checkpoints.builders import load_base
from data.images import read_image, to_tensor
from models.style_encoder import StyleEncoder, StyleEncoderConfig
from pipeline.sampling import random_faces
from pipeline.stylize import InversionSettings, build_stylizer
from styles.blend import BlendStyle, save_blend
from styles.controls import FileValue, Look
from styles.registry import load_style
from training.blend.generator import blend_generator_from

ROOT = Path(__file__).resolve().parent.parent
FACE, DRAWING = (ROOT / "data" / "style_images_aligned" / f"{name}_sample.png" for name in ("source", "target"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of weights with the style ``any``, whose second mapping is not trained."""
    base, path = load_base("starter"), tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    encoder = StyleEncoder(StyleEncoderConfig((4, 6), (1, 1), hidden=8))
    save_blend(path / "any.safetensors", blend_generator_from(base.generator), encoder, w_avg=base.w_avg,
               base={"name": base.name, "fingerprint": base.fingerprint}, training={}, half=True, features=True,
               shared=base.generator.state_dict())
    return path


@pytest.fixture(autouse=True)
def weights(folder, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))


@pytest.fixture()
def style() -> BlendStyle:
    return load_style("any")


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().mean())


def detail(images: torch.Tensor) -> torch.Tensor:
    """Return the light of images [N, 3, S, S] without its slow changes, [N, S^2 / 16]."""
    light = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
    return (light - torch.nn.functional.avg_pool2d(light, 9, 1, 4, count_include_pad=False)).flatten(1)


def test_file_leaves_out_what_the_base_has(folder, style):
    assert (folder / "any.safetensors").stat().st_size < 6e6
    base = load_base("starter").generator.state_dict()
    assert all(torch.equal(tensor, style.generator.state_dict()[name]) for name, tensor in base.items())


def test_photos_and_samples_come_as_the_encoders_give_them(style):
    # Features of optimised faces, and none at all, have other statistics: eyes went dark and random faces were all one.
    assert build_stylizer("any", inversion=InversionSettings("e4e+optimize"), align=False).settings.mode == "e4e"
    face = style.random(torch.randn(1, 512, generator=torch.Generator().manual_seed(1)), truncation_psi=0.7)
    assert face.residual is not None
    drawn = style.generator.synthesis(face.w_plus, noise=style.generator.fixed_noise(), feature_transforms=face.transforms())
    base = super(BlendStyle, style).random(torch.randn(1, 512, generator=torch.Generator().manual_seed(1)), truncation_psi=0.7)
    wanted = style.generator.synthesis(base.w_plus, noise=style.generator.fixed_noise())
    assert distance(drawn, wanted) < 0.2


def test_faces_take_the_pictures_colours_and_keep_their_own_shape(style, tmp_path):
    faces = random_faces(style, 3, [0, 1], truncation_psi=0.7)
    look = Look(style_image=FileValue.read(DRAWING), detail=1.0)
    style.prepare(look)
    still, drawn = (style.draw(faces, look.changed(strength=strength, color_strength=strength)) for strength in (0.0, 1.0))
    seen = style.generator.synthesis(faces.w_plus, noise=style.generator.fixed_noise(), feature_transforms=faces.transforms())
    unseen, plain = style.draw(faces, look.changed(strength=0.0, color_strength=0.0, detail=0.0)), faces.photo
    assert distance(unseen, seen) < 1e-4 and distance(still, plain) < 1e-4 and distance(drawn, plain) > 0.05
    picture = torch.from_numpy(np.array(read_image(DRAWING).resize((128, 128)))).float().permute(2, 0, 1) / 127.5 - 1.0
    mean = picture.mean(dim=(1, 2))
    assert (drawn.mean(dim=(2, 3)) - mean).norm(dim=1).mean() < (plain.mean(dim=(2, 3)) - mean).norm(dim=1).mean()
    half = style.draw(faces, look.changed(strength=0.5, color_strength=0.5))
    assert distance(half, plain) < distance(drawn, plain)
    # What is drawn stays each face's own: its pattern is its own and not the other face's.
    likeness = torch.corrcoef(torch.cat([detail(images) for images in (drawn, plain)]))[:2, 2:]
    assert likeness.diagonal().min() > 0.6 and likeness[0, 0] > likeness[0, 1] and likeness[1, 1] > likeness[1, 0]


def test_two_pictures_are_mixed(style):
    faces = random_faces(style, 3, [0], truncation_psi=0.7)
    first, second = FileValue.read(DRAWING), FileValue.read(FACE)
    one = style.draw(faces, Look(style_image=first))
    mixture = Look(style_image=first, second_style_image=second)
    both = {share: style.draw(faces, mixture.changed(second_share=share)) for share in (0.0, 0.5, 1.0)}
    assert torch.allclose(both[0.0], one, atol=1e-4)
    assert torch.allclose(both[1.0], style.draw(faces, Look(style_image=second)), atol=1e-4)
    assert distance(both[0.5], one) > 0.003


def test_random_styles_are_drawings_by_their_seed(style, tmp_path):
    faces = random_faces(style, 3, [0], truncation_psi=0.7)
    drawn = {seed: style.draw(faces, Look(style_seed=float(seed))) for seed in (4, 5)}
    style.random_picture(4).save(tmp_path / "four.png")
    assert torch.equal(drawn[4], style.draw(faces, Look(style_seed=4.0))) and distance(drawn[4], drawn[5]) > 0.05
    # The same as naming that picture; its face is found there anew.
    named = style.draw(faces, Look(style_image=FileValue.read(tmp_path / "four.png")))
    assert distance(named, drawn[4]) < 1e-5
    assert style.random_picture(5).tobytes() != style.random_picture(4).tobytes()


def test_without_a_face_the_picture_counts_and_a_line_says_so(style, tmp_path, capsys):
    for name, picture in (("noise", Image.effect_noise((90, 60), 80).convert("RGB")), ("dot", Image.new("RGB", (1, 1), "red"))):
        picture.save(tmp_path / f"{name}.png")
        look = Look(style_image=FileValue.read(tmp_path / f"{name}.png"))
        drawn = style.draw(random_faces(style, 3, [0], truncation_psi=0.7), look)
        assert torch.isfinite(drawn).all()
        assert "no face found in the style picture" in capsys.readouterr().err


def test_an_aligned_face_that_no_detector_finds_is_one_all_the_same(style, tmp_path, monkeypatch, capsys):
    faces = random_faces(style, 3, [0], truncation_psi=0.7)
    monkeypatch.setattr(style.reader._finder, "find", lambda picture: [])
    path = tmp_path / "drawn.png"
    read_image(DRAWING).save(path)
    look = style.picture_look(Look(style_image=FileValue.read(path)))
    assert look.places is not None and look.patches is not None and not capsys.readouterr().err
    read_image(DRAWING).rotate(180).save(path)  # upside down is none
    drawn = style.draw(faces, Look(style_image=FileValue.read(path)))
    assert torch.isfinite(drawn).all() and "no face found" in capsys.readouterr().err


def test_a_print_is_done_to_the_photo_and_keeps_what_it_shows(style, tmp_path):
    face, path = random_faces(style, 3, [0], truncation_psi=0.7), tmp_path / "print.png"
    picture = Image.fromarray((np.array(read_image(FACE).resize((128, 128)).convert("L"), dtype=np.float32)).astype(np.uint8))
    dots = np.add.outer(*[np.cos(2.0 * np.pi * np.arange(128) / 3.0)] * 2) * 64.0 + 128.0
    Image.fromarray(np.where(np.array(picture) > dots, 240, 15).astype(np.uint8)).convert("RGB").save(path)
    look = Look(style_image=FileValue.read(path), detail=1.0)
    assert style.picture_look(look).grain.share > 0.9
    drawn, plain = style.draw(face, look), face.photo
    assert torch.corrcoef(torch.cat([detail(drawn), detail(plain)]))[0, 1] > 0.65
    fine = [(image - torch.nn.functional.avg_pool2d(image, 3, 1, 1)).std() for image in (drawn, plain)]
    assert fine[0] > 3.0 * fine[1]
    coloured, grey = (style.draw(face, look.changed(color_strength=share)) for share in (0.0, 1.0))
    hues = [float((image - image.mean(dim=1, keepdim=True)).abs().mean()) for image in (plain, coloured, grey)]
    assert hues[1] > 0.5 * hues[0] and hues[2] < 0.6 * hues[1]


def test_colours_stay_the_faces_where_none_are_asked_for(style):
    face, look = random_faces(style, 3, [0], truncation_psi=0.7), Look(style_image=FileValue.read(DRAWING), detail=1.0)
    none, all_of_it = (style.draw(face, look.changed(color_strength=share)) for share in (0.0, 1.0))

    def hues(image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(image - image.mean(dim=1, keepdim=True), 8)

    assert distance(hues(none), hues(face.photo)) < 0.5 * distance(hues(all_of_it), hues(face.photo))


def test_an_aligned_drawing_is_not_cut_where_a_detector_thinks_it_sees_a_face(style, monkeypatch):
    image = read_image(DRAWING)
    monkeypatch.setattr(style.reader._finder, "find", lambda picture: pytest.fail("asked for faces"))
    seen, places = style.reader._aligned(image)
    assert torch.equal(seen.cpu(), to_tensor(image, 128)) and places is not None
    monkeypatch.undo()
    wide = Image.new("RGB", (3 * image.width, 2 * image.height), "white")
    wide.paste(image, (image.width, image.height // 2))
    cut, places = style.reader._aligned(wide)
    assert places is not None and distance(cut, seen) < 0.5 * distance(to_tensor(wide, 128), seen)


def test_every_pair_once_with_a_sheet(tmp_path, capsys):
    photos, pictures, output = tmp_path / "photos", tmp_path / "pictures", tmp_path / "out"
    for place, name, picture in ((photos, "a", read_image(FACE)), (photos, "b", read_image(FACE).rotate(15)),
                                 (pictures, "x", read_image(DRAWING))):
        place.mkdir(exist_ok=True)
        picture.resize((128, 128)).save(place / f"{name}.png")
    (pictures / "bad.png").write_bytes(b"no picture")
    argv = ["--input_image", str(photos), "--style_images", str(pictures), "--align", "false", "--output", str(output)]
    assert any_style.main(argv) == 2
    assert "bad.png" in capsys.readouterr().err
    made = sorted(path.name for path in output.glob("*.png") if not path.stem.endswith("_side"))
    assert made == ["a_v_x.png", "b_v_x.png", "sheet.png"]
    assert read_image(output / "sheet.png").size == (3 * any_style.CELL, 2 * any_style.CELL)
    (pictures / "bad.png").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*_v_*.png")}
    (output / "b_v_x.png").unlink()
    assert any_style.main(argv) == 0
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("*_v_*.png")}
    assert after["a_v_x.png"] == before["a_v_x.png"] and after["b_v_x.png"] > before["b_v_x.png"]


@pytest.mark.parametrize(("extra", "words"), [
    ([], "name the style"), (["--style_image", str(DRAWING), "--style_images", str(DRAWING)], "name the style"),
    (["--style", "flat", "--style_images", str(DRAWING)], "takes no style picture")])
def test_wrong_options_are_one_line(tmp_path, capsys, extra, words):
    assert any_style.main([*extra, "--input_image", str(FACE), "--align", "false", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said
