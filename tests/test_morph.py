"""Films of a photo through styles: pictures, random styles, style files; and settings of train_blend.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from test_video import decoded

import blend_pairs
import morph
import train_blend
from checkpoints.builders import load_base
from models.blending import interpolation_weights
from models.face import Face
from models.style_encoder import StyleEncoder, StyleEncoderConfig
from styles.blend import save_blend
from styles.controls import Look
from styles.registry import load_style
from training.blend.generator import BlendStageConfig, blend_generator_from


@pytest.fixture(scope="module")
def blend(tmp_path_factory):  # noqa: ANN001, ANN201
    """A folder with a style whose generator blends codes, as BlendGAN's."""
    base, path = load_base("starter"), tmp_path_factory.mktemp("morph")
    torch.manual_seed(0)
    generator = blend_generator_from(base.generator)
    for parameter in generator.embedding.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    save_blend(path / "blendy.safetensors", generator, StyleEncoder(StyleEncoderConfig((4, 6), (1, 1), hidden=8)),
               w_avg=base.w_avg, base={"name": base.name, "fingerprint": base.fingerprint}, training={}, half=True)
    for index, colour in enumerate(("red", "green")):
        Image.new("RGB", (64, 64), colour).save(path / f"{index}.png")
    return path


def test_the_view_slides_from_one_picture_to_the_next() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (32, 32), "blue")
    views = [np.asarray(morph.sliding(red, blue, share, 16))[0] for share in (0.0, 0.25, 1.0)]
    assert [int((view[:, 2] > 128).sum()) for view in views] == [0, 4, 16]


def test_two_styles_are_blended_between(blend, monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.setenv("CHECKPOINTS_DIR", str(blend))
    style = load_style("blendy")
    one, other = (style.style_w(Look(style_seed=float(seed))) for seed in (3, 4))
    between = style.style_w(Look(style_seed=3.0, second_style_seed=4.0, second_share=0.25))
    assert torch.allclose(between, torch.lerp(one, other, 0.25), atol=1e-6) and not torch.allclose(one, other)
    face = Face(style.base.generator.broadcast(style.base.w_avg[None]))
    ends = [style.draw(face, Look(style_seed=3.0, second_style_seed=4.0, second_share=share)) for share in (0.0, 1.0)]
    assert torch.allclose(ends[1], style.draw(face, Look(style_seed=4.0)), atol=1e-5) and not torch.equal(*ends)


@pytest.mark.parametrize("options", [["--random", "2"], ["--style_images", "0.png", "1.png"]])
def test_films(blend, tmp_path, monkeypatch, options) -> None:  # noqa: ANN001
    monkeypatch.setenv("CHECKPOINTS_DIR", str(blend))
    monkeypatch.chdir(blend)
    monkeypatch.setattr(morph, "FPS", 10)
    monkeypatch.setattr("models.blending.interpolation_weights", lambda: interpolation_weights()[[0, 10, 30]])
    from pipeline import stylize

    build = stylize.build_stylizer
    monkeypatch.setattr(stylize, "build_stylizer", lambda *a, **k: build(*a, encoder="starter", **k))
    argv = ["--style", "blendy", "--align", "false", "--size", "32", "--input_image", "0.png", "--output", str(tmp_path)]
    assert morph.main([*argv, *options, "--add_weight_index", "7"]) == 0
    frames = decoded(tmp_path / "0.mp4")
    assert len(frames) == 3 and frames[0][1].shape == (32, 96, 3)
    assert Image.open(tmp_path / "0_sheet.png").size[1] == 3 * 34 - 2


@pytest.mark.parametrize(("options", "message"), [
    (["--random", "1"], "at least 2"), (["--styles", "cartoon"], "at least 2 styles"),
    (["--style", "encapsulated", "--random", "2"], "takes no two style pictures"), ([], "required"),
])
def test_wrong_options_are_one_line(blend, tmp_path, capsys, options, message) -> None:  # noqa: ANN001
    assert morph.main(["--input_image", str(blend / "0.png"), "--align", "false", "--output", str(tmp_path), *options]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_settings_of_the_stages_are_options(capsys) -> None:  # noqa: ANN001
    args = train_blend.parse(["generator", "--faces", "a", "--styles", "b", "--lr", "0.001", "--path-every", "8"])
    assert train_blend.settings(args) == BlendStageConfig(lr=0.001, path_every=8)
    assert train_blend.main(["generator", "--faces", "a", "--styles", "b", "--batch", "0"]) == 2
    args = train_blend.parse(["photos", "--faces", "b", "--teacher", "c", "--lr", "-1"])
    with pytest.raises(train_blend.cli.UserError, match="--lr -1"):
        train_blend.settings(args)


# ------------------------------------------------------------------------------------------------------------------- pairs
def test_pairs_are_single_files(blend, tmp_path, monkeypatch, capsys) -> None:  # noqa: ANN001
    monkeypatch.setenv("CHECKPOINTS_DIR", str(blend))
    zs = torch.randn(2, 512)
    np.save(tmp_path / "z.npy", zs.numpy())
    torch.save(zs, tmp_path / "z.pt")
    argv = ["--style", "blendy", "--output", str(tmp_path / "out")]
    assert blend_pairs.main([*argv, "--sample_zs", str(tmp_path / "z.npy"), "--add_weight_index", "6"]) == 0
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert names == ["000000.png", "000001.png", "natural/000000.png", "natural/000001.png", "sheet.png",
                     "styled/000000.png", "styled/000001.png"]
    pair = np.asarray(Image.open(tmp_path / "out" / "000001.png"))
    parts = [np.asarray(Image.open(tmp_path / "out" / name / "000001.png")) for name in ("natural", "styled")]
    assert pair.shape == (128, 256, 3) and np.array_equal(pair, np.concatenate(parts, axis=1)) and (parts[0] != parts[1]).any()
    assert blend_pairs.main([*argv, "--sample_zs", str(tmp_path / "z.pt")]) == 0
    again = np.asarray(Image.open(tmp_path / "out" / "natural" / "000001.png"))
    assert np.array_equal(again, parts[0])
    np.save(tmp_path / "z.npy", np.zeros((2, 3)))
    capsys.readouterr()
    assert blend_pairs.main([*argv, "--sample_zs", str(tmp_path / "z.npy")]) == 2
    assert "expected finite z [N, 512]" in capsys.readouterr().err
    assert blend_pairs.main(["--style", "cartoon", "--output", str(tmp_path)]) == 2
