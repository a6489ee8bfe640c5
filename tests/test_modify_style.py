"""Encapsulated styles: their files hold only networks, and both scripts and the common protocol use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from modify_worker import CHANNELS, ENCODER, JUDGES, tiny_images, tiny_parts
from safetensors import safe_open
from safetensors.torch import save_file

import adapt
import encapsulate
from checkpoints import CheckpointError, load_model, save_model
from checkpoints.__main__ import main as checkpoints_main
from checkpoints.manifest import entries, status
from checkpoints.paths import find_style
from data.images import read_image, save_image, to_tensor
from drawing.context import read_context
from drawing.reading import style_of_portrait
from models.dino import ViTConfig, build_vit
from models.face import Face
from models.stylegan2 import layer_at
from styles import modify
from styles.controls import Look
from styles.packing import pack_style
from styles.registry import controls_of, load_style

PAIR = Path(__file__).resolve().parent.parent / "data" / "style_images_aligned"
PHOTO, DRAWING = PAIR / "source_sample.png", PAIR / "target_sample.png"
SETTINGS = ["--steps", "2", "--swap_steps", "2", "--batch", "2", "--rows", "3", "--n-mlp", "2", "--lr", "1e-3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:  # noqa: ANN001
    """Folder with a tiny base, its encoder and transformer, style images, photos, and an encapsulated style."""
    root = tmp_path_factory.mktemp("modify")
    model, critic = tiny_parts()
    w_avg = model.generator.mean_w(64, generator=torch.Generator().manual_seed(0))
    save_model(root / "generator.safetensors", {**model.generator.state_dict(), "w_avg": w_avg},
               {"kind": "generator", "generator": model.generator.config.to_dict()})
    save_model(root / "discriminator.safetensors", critic.state_dict(),
               {"kind": "discriminator", "discriminator": {"size": 32, "channels": CHANNELS}})
    save_model(root / "encoder.safetensors", {**model.encoder.state_dict(), "latent_avg": model.latent_avg},
               {"kind": "encoder", "encoder": ENCODER.to_dict()})
    shape = ViTConfig(32, 8, 24, 12, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        save_model(root / "vit.safetensors", build_vit(shape).state_dict(), {"kind": "vit", "vit": shape.to_dict()})
    for name, seed, count in (("style", 30, 3), ("photos", 40, 2)):
        for index, image in enumerate(tiny_images(count, seed=seed)):
            save_image(root / name / f"secret{index}.png", image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHECKPOINTS_DIR", str(root / "styles"))
        assert run_encapsulate(root, *SETTINGS) == 0
    return root


@pytest.fixture()
def style(folder: Path, monkeypatch, tmp_path) -> modify.ModifyStyle:  # noqa: ANN001
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder / "styles"))
    monkeypatch.chdir(tmp_path)
    loaded = load_style("tiny")
    loaded._judges = JUDGES  # the starter's transformer is for larger images
    return loaded


def run_encapsulate(root: Path, *options: str) -> int:
    return encapsulate.main([str(root / "style"), "--style", "tiny", "--base", str(root / "generator.safetensors"),
                             "--encoder", str(root / "encoder.safetensors"), "--vit", str(root / "vit.safetensors"),
                             "--dtype", "float32", "--outdir", str(root / "run"), "--sheet_every", "0", *options])


def style_path() -> str:
    return str(find_style("tiny"))


def face(count: int = 1) -> Face:
    return Face(torch.randn(count, 8, 16, generator=torch.Generator().manual_seed(3)))


# ------------------------------------------------------------------------------------------------------------- the file
def test_the_file_holds_only_networks_and_says_so(folder: Path) -> None:
    path = folder / "styles" / "tiny.safetensors"
    tensors, config = load_model(path, kind="style")
    model, critic = tiny_parts()
    networks = {"e.": model.encoder, "g.": model.generator, "m.": model.remapping, "c.": critic}
    shapes = {prefix + name: tensor.shape for prefix, module in networks.items()
              for name, tensor in module.state_dict().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()}.items() <= shapes.items()
    assert not any(tensor.ndim >= 3 and 3 in tensor.shape[:2] and min(tensor.shape[-2:]) >= 16 for tensor in tensors.values())
    assert "no image, no latent of an image" in config["card"]
    with safe_open(path, framework="pt") as file:
        header = json.dumps(file.metadata())
    state = torch.load(folder / "run" / "state.pt", weights_only=True)
    assert "secret" not in header and state["run"]["folder of images"] not in header and "style/" not in header
    assert set(config) == {"kind", "style_kind", "card", "base", "encoder", "remapping", "critic", "training", "detail"}
    # The mapping network and the noise have no part in training: they are the base's and are not stored.
    assert not any(name.startswith(("g.style.", "g.noises.")) for name in tensors)


def test_a_tensor_of_no_network_is_refused(style, tmp_path) -> None:  # noqa: ANN001
    tensors, config = load_model(style_path(), kind="style")
    image = torch.zeros(1, 3, 32, 32)
    for extra in ({"image": image}, {"e.image": image}, {"latent": torch.zeros(8, 16)}):
        save_model(tmp_path / "odd.safetensors", {**tensors, **extra}, config)
        with pytest.raises(CheckpointError, match="unexpected"):
            load_style(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(("change", "message"), [
    ({"base": None}, "which base it was made from"), ({"encoder": {"name": "x"}}, "which encoder"),
    ({"remapping": {"rows": 40}}, "remapping"), ({"critic": {}}, "critic"),
])
def test_configs_that_do_not_fit_are_one_line(style, tmp_path, change, message) -> None:  # noqa: ANN001
    tensors, config = load_model(style_path(), kind="style")
    save_model(tmp_path / "odd.safetensors", tensors, {**config, **change})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_style(tmp_path / "odd.safetensors")
    assert "\n" not in str(caught.value) and "odd.safetensors" in str(caught.value)


def test_another_base_is_refused(style, tmp_path) -> None:  # noqa: ANN001
    tensors, config = load_model(style_path(), kind="style")
    save_model(tmp_path / "odd.safetensors", tensors, {**config, "base": {**config["base"], "fingerprint": "0"}})
    with pytest.raises(CheckpointError, match="another base"):
        load_style(tmp_path / "odd.safetensors")


def test_checkpoints_lists_verifies_and_imports_it(style, tmp_path, monkeypatch, capsys) -> None:  # noqa: ANN001
    path = Path(style_path())
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "others"))
    assert checkpoints_main(["import", str(path)]) == 0
    assert (tmp_path / "others" / "tiny.safetensors").read_bytes() == path.read_bytes()
    damaged = bytearray(path.read_bytes())
    (tmp_path / "cut.safetensors").write_bytes(damaged[:len(damaged) // 2])
    assert checkpoints_main(["import", str(tmp_path / "cut.safetensors")]) == 2
    assert "cut.safetensors" in capsys.readouterr().err
    entry = next(entry for entry in entries() if entry.name == "tiny")
    assert status(entry, thorough=True) == ("present", "")
    save_file({"x": torch.zeros(1)}, entry.path)
    assert status(entry, thorough=True)[0] == "wrong"


# -------------------------------------------------------------------------------------------------------------- drawing
def test_drawing_without_a_look_is_d_of_e_of_the_photo(style) -> None:  # noqa: ANN001
    faces = face(2)
    with torch.no_grad():
        photo = style.base.generator.synthesis(faces.w_plus, noise=style.base.generator.fixed_noise())
        assert torch.equal(style.draw(faces, Look(detail=0.0)), style.model(photo))
        torch.testing.assert_close(style.graph()(faces.w_plus, None, None), style.draw(faces, style.default_look()))
    names = ["version", "strength", "test_time", "detail"]
    assert [control.name for control in controls_of("tiny")] == names


def test_detail_is_what_the_rows_cannot_say_of_the_photo(style) -> None:  # noqa: ANN001
    generator, index = style.base.generator, layer_at(32)
    residual = torch.randn(2, CHANNELS[32], 32, 32, generator=torch.Generator().manual_seed(4))
    faces, seen = Face(face(2).w_plus, residual), []
    with torch.no_grad():
        codes = style.codes(faces, 0)
        for rows in (faces.w_plus, style.model.rows(codes)):
            generator.synthesis(rows, noise=generator.fixed_noise(),
                                feature_transforms={index: lambda x: seen.append(x) or x})
        wanted = 0.5 * (seen[0] + residual - seen[1])
        drawn = style.draw(faces, Look(detail=0.5))
        torch.testing.assert_close(drawn, style.model.decode(codes, wanted))
        torch.testing.assert_close(style.graph()(faces.w_plus, residual, None), style.draw(faces, style.default_look()))
    assert (drawn - style.draw(faces, Look(detail=0.0))).abs().mean() > 1e-3


def test_small_file_draws_what_the_full_one_draws(style, tmp_path, monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.setattr("styles.difference.SMALL", 64)
    size = pack_style(find_style("tiny"), tmp_path / "small.safetensors")
    assert size < find_style("tiny").stat().st_size
    loaded, faces = load_style(tmp_path / "small.safetensors"), face()
    wanted, found = (each.draw(faces, Look(version=1.0)) for each in (style, loaded))
    change = (wanted - style.photo(faces)).square().mean()
    assert (wanted - found).square().mean() < 0.01 * change


def test_versions_change_the_style_rows_alone(style) -> None:  # noqa: ANN001
    faces, seen = face(), {}
    decode = style.model.decode
    style.model.decode = lambda codes, residual: seen.setdefault(len(seen), codes)
    looks = [Look(), Look(version=1.0), Look(version=2.0), Look(version=1.5),
             Look(version=1.0, strength=0.0), Look(version=1.0)]
    for look in looks:
        style.draw(faces, look)
    style.model.decode = decode
    content = [codes[:, :5] for codes in seen.values()]
    assert all(torch.equal(content[0], other) for other in content[1:])
    rows = [codes[:, 5:] for codes in seen.values()]
    assert torch.equal(rows[0], rows[4]) and torch.equal(rows[1], rows[5])
    assert all(not torch.equal(rows[i], rows[j]) for i in range(4) for j in range(i))


def test_test_time_training_draws_closer_and_is_kept(style, monkeypatch) -> None:  # noqa: ANN001
    class Kept(dict):
        put = dict.__setitem__

    calls, adapt_to = [], modify.adapt_to
    monkeypatch.setattr(modify, "adapt_to", lambda *a, **k: calls.append(1) or adapt_to(*a, **k))
    style.cache, faces = Kept(), face(2)
    with torch.no_grad():
        photo = style.photo(faces).clamp(-1, 1)
        plain, drawn = style.draw(faces, Look()), style.draw(faces, Look(test_time=6.0))
    assert (drawn - photo).square().mean() < (plain - photo).square().mean()
    assert len(calls) == 2 and len(style.cache) == 2
    assert torch.equal(style.draw(faces, Look(test_time=6.0)), drawn)
    again = load_style("tiny")
    again.cache = style.cache
    assert torch.equal(again.draw(faces, Look(test_time=6.0)), drawn) and len(calls) == 2
    assert all(kept.w_plus.shape == (1, 8, 16) for kept in style.cache.values())


@pytest.mark.parametrize("look", [Look(test_time=-1.0), Look(test_time=2.5), Look(test_time=1e9), Look(version=1e12)])
def test_values_that_cannot_be_drawn_are_one_line(style, look) -> None:  # noqa: ANN001
    with pytest.raises(CheckpointError, match="give a") as caught:
        style.draw(face(), look)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- scripts
def test_a_run_resumes_and_is_not_overwritten(folder: Path, style, capsys) -> None:  # noqa: ANN001
    before = Path(style_path()).read_bytes()
    assert run_encapsulate(folder, *SETTINGS) == 2
    assert "choose another --style" in capsys.readouterr().err
    assert run_encapsulate(folder, "--resume") == 0
    assert Path(style_path()).read_bytes() == before
    assert run_encapsulate(folder, "--resume", "--lr", "0.5") == 2
    assert "other values of --lr" in capsys.readouterr().err
    save_image(folder / "style" / "new.png", tiny_images(1, seed=50))
    try:
        assert run_encapsulate(folder, "--resume") == 2
    finally:
        (folder / "style" / "new.png").unlink()
    assert "another folder of images" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--style", "a/b"], ["--style", "t", "--batch", "0"], ["--style", "t", "--base", "none"]])
def test_wrong_input_is_one_line(style, folder, options, capsys) -> None:  # noqa: ANN001
    assert encapsulate.main([str(folder / "style"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error


def test_an_adapted_style_is_small_and_needs_its_style(style, folder, tmp_path, monkeypatch, capsys) -> None:  # noqa: ANN001
    options = ["--photos", str(folder / "photos"), "--align", "false", "--vit", str(folder / "vit.safetensors"), "--dtype",
               "float32", "--sheet_every", "0"]
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "mine"))
    assert checkpoints_main(["import", str(folder / "styles" / "tiny.safetensors")]) == 0
    assert adapt.main(["--style", "tiny", "--steps", "2", "--outdir", "run", *options]) == 0
    assert adapt.main(["--style", "tiny", "--name", "one-by-one", "--mode", "online", "--outdir", "online", *options]) == 0
    assert {path.name for path in Path("online").glob("secret*.png")} == {"secret0_png.png", "secret1_png.png"}
    for name in ("tiny-adapted", "one-by-one"):
        tensors, config = load_model(tmp_path / "mine" / f"{name}.safetensors", kind="style")
        assert all(name.startswith(("e.styles.", "e.latlayer")) for name in tensors) and "adapts" in config
        adapted = load_style(name)
        assert not torch.equal(adapted.draw(face(), Look()), style.draw(face(), Look()))
        assert torch.equal(adapted.model.generator.conv1.conv.weight, style.model.generator.conv1.conv.weight)
    capsys.readouterr()
    assert adapt.main(["--style", "tiny-adapted", *options]) == 2
    assert "is adapted already" in capsys.readouterr().err
    (tmp_path / "mine" / "tiny.safetensors").unlink()
    with pytest.raises(CheckpointError, match="was adapted from the style 'tiny', which is not here"):
        load_style("tiny-adapted")


# --------------------------------------------------------------------------------------------------- the drawing stages
@pytest.fixture()
def drawn(style, folder, tmp_path, monkeypatch) -> modify.ModifyStyle:  # noqa: ANN001
    """The style with what two drawings of a face have in common."""
    for index, shift in enumerate((0.0, 0.2)):
        save_image(tmp_path / "faces" / f"{index}.png", to_tensor(read_image(DRAWING), 256) * (1.0 - shift) - shift)
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "mine"))
    assert encapsulate.main([str(tmp_path / "faces"), "--style", "drawn", "--network",
                             str(folder / "styles" / "tiny.safetensors")]) == 0
    return load_style("drawn")


def test_photos_are_drawn_by_what_the_images_have_in_common(drawn, style) -> None:  # noqa: ANN001
    assert drawn.draws_pictures and not style.draws_pictures and drawn.fingerprint != style.fingerprint
    assert drawn.drawn.strokes == ()  # which would hold an image
    names = [control.name for control in controls_of("drawn")]
    assert names == ["alpha", "tone_strength", "version", "strength"]
    photo = to_tensor(read_image(PHOTO), 512)
    known = Face(face().w_plus, None, photo, known=(read_context(photo),))
    made = drawn.draw(known, Look())
    assert made.shape == photo.shape and float((made - photo).abs().mean()) > 0.05
    still = drawn.draw(known, Look(alpha=0.0, tone_strength=0.0))
    assert float((still - photo).abs().mean()) < 0.01
    # Versions are the networks', of a photo as of its rows alone, and never passed over in silence.
    versions = [drawn.draw(known, Look(version=version)) for version in (1.0, 2.0)]
    assert not torch.equal(*versions) and torch.equal(versions[0], drawn.draw(face(), Look(version=1.0)))
    with pytest.raises(CheckpointError, match="--frame crop"):
        drawn.draw_frame(photo, known.known[0].parts, [], Look(version=1.0))
    samples = [drawn.draw(face(), Look(version=version)) for version in (1.0, 2.0)]
    assert samples[0].shape == (1, 3, 512, 512) and not torch.equal(*samples)


def test_what_is_in_common_is_a_mean(drawn, tmp_path) -> None:  # noqa: ANN001
    own = [style_of_portrait(to_tensor(read_image(tmp_path / "faces" / f"{index}.png"), 512), side=256) for index in range(2)]
    mean = sum(each.tone.mean for each in own) / 2.0
    assert torch.allclose(drawn.drawn.tone.mean, mean, atol=1e-2)


def test_an_older_form_is_refused_in_one_line(style, tmp_path) -> None:  # noqa: ANN001
    tensors, config = load_model(style_path(), kind="style")
    save_model(tmp_path / "old.safetensors", {**tensors, "manner": torch.zeros(1, 160, dtype=torch.int16)}, config)
    with pytest.raises(CheckpointError, match="older form; encapsulate the style anew"):
        load_style(tmp_path / "old.safetensors")
