"""Files of exemplar styles: small ones, whole ones, released folders, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from test_dual_style import CONFIG, ENCODER, ROWS, face, far, network, parts, plain, style, weights  # noqa: F401 - fixtures

import export
import inference
from checkpoints import CheckpointError, save_model
from checkpoints import __main__ as zoo
from checkpoints.features import Encoder
from checkpoints.io import check_fit, load_model
from checkpoints.manifest import import_file
from checkpoints.official import official_keys, recognise
from data.images import read_image, to_tensor
from models.dualstylegan import CodeSampler, DualStyleGAN
from models.psp import PSPEncoder
from models.stylegan2 import Generator, GeneratorConfig
from pipeline.stylize import InversionSettings, build_stylizer
from styles.controls import FileValue, Look
from styles.dualstyle import DualStyle, save_dual
from styles.dualstyle_files import DualParts, Gallery
from styles.packing import pack_style
from styles.registry import controls_of, load_style


def release(folder, parts, *, codes="refined_exstyle_code.npy", **changes):
    """Write the files of a released style."""
    folder.mkdir(exist_ok=True, parents=True)
    torch.save({"g_ema": {**parts.network.state_dict(), **changes}}, folder / "generator.pt")
    torch.save({name: sampler.state_dict() for name, sampler in parts.samplers.items()}, folder / "sampler.pt")
    if codes:
        named = zip(parts.gallery.names, parts.gallery.codes, strict=True)
        np.save(folder / codes, {f"{name}.jpg": code[None].numpy() for name, code in named})
    return folder / "generator.pt"


def test_small_file_draws_what_the_full_one_draws(style, weights, face):
    full, small = weights / "toons.safetensors", weights / "small.safetensors"
    assert pack_style(full, small) < 0.6 * full.stat().st_size
    loaded, look = load_style(small), Look(exemplar="bob", structure=1.0, color=1.0)
    assert controls_of(small) == controls_of(full) and loaded.gallery.names == style.gallery.names
    wanted, found = style.draw(face, look), loaded.draw(face, look)
    assert far(wanted, found) < 0.1 * far(wanted, style.draw(face, Look(structure=0.0, color=0.0)))
    tensors, config = load_model(small, kind="style")
    tensors["packed"] = tensors["packed"][:-9]
    save_model(small, tensors, config)
    with pytest.raises(CheckpointError, match="small.safetensors.*packed weights are"):
        load_style(small)


def test_own_file_without_its_generator_needs_the_same_base(weights, parts):
    from checkpoints.builders import load_base

    base = load_base("starter")
    network = DualStyleGAN(base.generator)
    gallery = Gallery(("one",), torch.zeros(1, 12, 512), None, "w+")
    made = DualParts(network, base.w_avg, gallery, {}, {"base": {"name": "starter", "fingerprint": base.fingerprint}})
    save_dual(weights / "a.safetensors", made)
    style = load_style("a")
    assert style.base.fingerprint == base.fingerprint and [c.name for c in style.controls] == [
        "exemplar", "structure", "color", "preserve_color", "color_exemplar", "second_exemplar", "second_share", "weight",
        "face_truncation"]
    save_model(weights / "a.safetensors", *_changed(weights / "a.safetensors", {"fingerprint": "x", "name": "starter"}))
    with pytest.raises(CheckpointError, match="another starter"):
        load_style("a")


def _changed(path, base):
    tensors, config = load_model(path)
    return tensors, {**config, "base": base}


@pytest.mark.parametrize(("change", "words"), [
    ({"codes": torch.zeros(3, ROWS, 16)}, "misshapen codes"), ({"x": torch.zeros(1)}, "unexpected x"),
    ({"n.res.9.bias": None}, r"missing res\.9\.bias"),
    ({"thumbs": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)}, "misshapen thumbs"),
    ({"structure.lin_out.weight": torch.zeros(5 * 16, 128)}, "makes 5 rows, expected 7"), ({"w_avg": None}, "w_avg"),
])
def test_own_file_that_does_not_fit_is_named(weights, style, change, words):
    tensors, config = load_model(weights / "toons.safetensors")
    tensors = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
    save_model(weights / "toons.safetensors", tensors, config)
    with pytest.raises(CheckpointError, match=words) as error:
        load_style("toons")
    assert "\n" not in str(error.value)


def test_released_folder_loads_with_its_codes_and_sampler(weights, parts, face):
    path = release(weights / "cartoon", parts)
    style = load_style(path)
    assert isinstance(style, DualStyle) and style.name == "cartoon" and style.gallery.names == ("ann.jpg", "bob.jpg")
    assert [c.name for c in controls_of(path)] == [c.name for c in style.controls]
    assert controls_of(path)[0].choices == ("ann.jpg", "bob.jpg", "random") and style.default_look()["face_truncation"] == 0.75
    wanted = style.network.synthesis(0.75 * face.w_plus, style.network.map_rows(parts.gallery.codes[:1]).expand(2, -1, -1),
                                     weights=[0.75] * 7 + [1.0] * (ROWS - 7), noise=style.network.generator.fixed_noise(),
                                     before=face.transforms())
    assert far(style.draw(face, style.default_look()), wanted) < 1e-4


def test_released_generator_alone_asks_for_a_portrait_and_its_encoder(weights, parts, tmp_path, monkeypatch):
    path = release(weights / "bare", parts, codes=None)
    (path.parent / "sampler.pt").unlink()
    style = load_style(path)
    with pytest.raises(CheckpointError, match="--exemplar FILE"):
        style.prepare(Look())
    Image.new("RGB", (9, 9), "red").save(tmp_path / "p.png")
    look = Look(exemplar=FileValue.read(tmp_path / "p.png"))
    with pytest.raises(CheckpointError, match=r"needs encoder\.pt"):
        style.prepare(look)
    (path.parent / "encoder.pt").touch()
    other = Encoder(torch.nn.Identity(), torch.zeros(2, 512), 64, "0")
    monkeypatch.setattr("styles.dualstyle_encoding.load_encoder", lambda name, device: other)
    with pytest.raises(CheckpointError, match=r"encoder\.pt: gives rows \[2, 512\]"):
        style.prepare(look)


def test_photos_of_a_released_style_are_encoded_in_z_plus(weights, parts, monkeypatch):
    path, asked = release(weights / "cartoon", parts), []
    with pytest.raises(CheckpointError, match=r"cartoon: a photo.* needs encoder\.pt.*--wplus"):
        build_stylizer(str(path), align=False)
    (path.parent / "encoder.pt").touch()
    torch.manual_seed(4)
    psp = PSPEncoder(ENCODER).eval().requires_grad_(False)

    def load(name, device):
        asked.append(name)
        return Encoder(psp, torch.ones(ROWS, 16), 64, "0")

    monkeypatch.setattr("styles.dualstyle_encoding.load_encoder", load)
    stylizer, photo = build_stylizer(str(path), inversion=InversionSettings(None), align=False), Image.effect_noise((64, 64), 90)
    assert asked == [path.parent / "encoder.pt"] and stylizer.settings.mode == "e4e"
    face = stylizer.invert(photo.convert("RGB"))
    with torch.no_grad():
        rows = psp(to_tensor(photo.convert("RGB"), 64))
        wanted = torch.stack([stylizer.style.network.generator.mapping(rows[:, row]) for row in range(ROWS)], dim=1)
    assert far(face.w_plus, wanted) < 1e-5 and far(face.w_plus, rows + 1.0) > 0.1
    # With an encoder of W+ its rows are those of the face, the mean latent added.
    monkeypatch.setattr("pipeline.stylize.load_encoder", load)
    assert inference.parse(["--wplus"]).encoder == export.parse(["--wplus"]).encoder == "official"
    plain = build_stylizer(str(path), encoder="official", align=False)
    assert asked[-1] == "official" and far(plain.invert(photo.convert("RGB")).w_plus, rows + 1.0) < 1e-5


@pytest.mark.parametrize(("key", "value", "words"), [
    ("res.3.norm2.style.weight", torch.zeros(2, 2), r"misshapen res\.3\.norm2\.style\.weight"),
    ("surplus", torch.zeros(1), "unexpected surplus"), ("style.1.bias", torch.full((16,), torch.nan), "holds NaN"),
    ("generator.conv1.conv.modulation.bias", "text", "modulation.bias"),
])
def test_misfits_of_released_files_name_the_key(weights, parts, key, value, words):
    path = release(weights / "cartoon", parts, **{key: value})
    with pytest.raises(CheckpointError, match=words) as error:
        load_style(path)
    assert "\n" not in str(error.value)


def test_keys_of_the_released_files_are_ours():
    tables = official_keys()
    with torch.device("meta"):
        network, color, structure = DualStyleGAN(Generator(GeneratorConfig.official(1024))), CodeSampler(11), CodeSampler(7)
    for module, table in ((network, tables["generator.pt"]["g_ema"]), (color, tables["sampler.pt"]["color"]),
                          (structure, tables["sampler.pt"]["structure"])):
        check_fit(module, {key: torch.zeros(()).expand(shape) for key, shape in table.items()}, what="released")
    assert recognise({"g_ema": tables["generator.pt"]["g_ema"], "g": {}, "d": {}}) == "dual"
    assert recognise({"color": {}, "structure": {}}) == "dual-sampler"


def test_released_folder_is_imported_as_one_file_listed_and_verified(weights, parts, face, tmp_path, capsys):
    path = release(tmp_path / "downloads" / "cartoon", parts)
    assert import_file(path) == weights / "cartoon.safetensors"
    assert zoo.main(["list"]) == 0 and zoo.main(["verify"]) == 0
    assert any(line.split()[:2] == ["present", "dualstylegan-cartoon"] for line in capsys.readouterr().out.splitlines())
    imported, released = load_style("cartoon"), load_style(path)
    assert imported.fingerprint == released.fingerprint
    assert torch.equal(imported.draw(face, imported.default_look()), released.draw(face, released.default_look()))
    with pytest.raises(CheckpointError, match="exists"):
        import_file(path)
    for name, words in (("sampler.pt", "import the generator.pt"), ("refined_exstyle_code.npy", "2 codes of exemplars")):
        with pytest.raises(CheckpointError, match=words):
            import_file(path.parent / name)


def test_photo_with_an_exemplar_of_a_released_file(style, weights, parts, tmp_path, capsys):
    path = release(weights / "cartoon", parts)
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "photo.png")
    argv = ["--style", str(path), "--input_image", str(tmp_path / "photo.png"), "--align", "false", "--inversion", "e4e",
            "--encoder", str(weights / "photos.safetensors"), "--output", str(tmp_path / "out")]
    result, seen = tmp_path / "out" / "cartoon_photo.png", set()
    for options in (["--structure", "0.75"], ["--structure", "0.75", "--exemplar", "bob.jpg"], ["--preserve-color"],
                    ["--weight", ",".join(["0.5"] * ROWS)], ["--exemplar", "random", "--style_seed", "3"]):
        assert inference.main([*argv, *options]) == 0
        assert read_image(result).size == (64, 64)
        seen.add(result.read_bytes())
    assert len(seen) == 5
    capsys.readouterr()
    for options, words in ((["--exemplar", "carl"], "one of ann.jpg, bob.jpg, random"),
                           (["--structure", "1,1"], "--structure"), (["--alpha", "1"], "no such control")):
        assert inference.main([*argv, *options]) == 2
        message = capsys.readouterr().err.strip()
        assert message.count("\n") == 0 and words in message
