"""Any picture as a style: files of both forms, controls, pictures good and bad, the command line."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import deformation_control
import generate_samples
import inference
from checkpoints import CheckpointError, save_model
from checkpoints import __main__ as zoo
from checkpoints.features import load_encoder
from checkpoints.io import check_fit
from checkpoints.manifest import import_file
from checkpoints.official import official_keys
from data.images import ImageError, read_image
from models.blending import COLOR_ROW, BlendGenerator
from models.e4e import E4EConfig, E4EEncoder
from models.face import Face
from models.psp import PSPEncoder
from models.style_encoder import StyleEncoder, StyleEncoderConfig
from models.stylegan2 import GeneratorConfig, generator_config_from_state
from styles.blend import BlendStyle, save_blend
from styles.controls import FileValue, Look
from styles.registry import controls_of, load_style

CONFIG = GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 4})
ENCODER = StyleEncoderConfig((4, 6), (1, 2), hidden=8, style_dim=16)
PHOTO_ENCODER = E4EConfig(input_size=64, n_styles=10, style_dim=16, stem=4, widths=(4, 4, 4, 8), units=(1, 1, 1, 1),
                          base_width=8, delta_width=8)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(5)
    generator, encoder = BlendGenerator(CONFIG), StyleEncoder(ENCODER)
    with torch.no_grad():
        generator.add_weight.copy_(torch.linspace(-0.2, 1.2, CONFIG.n_latent)[None, :, None])
    return generator, encoder


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def style(weights, networks):
    save_blend(weights / "any.safetensors", *networks, w_avg=torch.zeros(16), base={"name": "toy", "fingerprint": "0"},
               training={}, photo_encoder=str(weights / "photos.safetensors"))
    save_model(weights / "photos.safetensors", {"latent_avg": torch.zeros(10, 16), **PSPEncoder(PHOTO_ENCODER).state_dict()},
               {"kind": "encoder", "network": "psp", "encoder": PHOTO_ENCODER.to_dict()})
    return load_style("any")


def released(networks, **changes):
    generator, encoder = networks
    state = {**generator.state_dict(), **{f"embedder.{key}": value for key, value in encoder.state_dict().items()}}
    return {"g_ema": {key: value for key, value in {**state, **changes}.items() if value is not None}}


def picture(path, *, seed=0, size=(70, 50)):
    Image.effect_noise(size, 40 + 60 * seed).convert("RGB").save(path)
    return FileValue.read(path)


@pytest.fixture
def face():
    return Face(torch.randn(2, CONFIG.n_latent, 16, generator=torch.Generator().manual_seed(2)))


def plain(style, face):
    return style.generator.synthesis(face.w_plus, noise=style.generator.fixed_noise(), feature_transforms=face.transforms())


# ------------------------------------------------------------------------------------------------------------- drawing
def test_blend_by_the_equation(style, face):
    look = Look(style_seed=3.0, add_weight_index=4.0)
    a = style.generator.add_weight.clamp(0, 1).expand(2, -1, -1).clone()
    a[:, :4] = 1.0
    code = torch.randn(1, 16, generator=torch.Generator().manual_seed(3))
    w_plus = a * face.w_plus + (1 - a) * style.generator.embedding(code)[:, None]
    assert torch.allclose(style.draw(face, look), plain(style, Face(w_plus)), atol=1e-6)


@pytest.mark.parametrize("values", [{"strength": 0.0}, {"add_weight_index": 10.0},
                                    {"strength": 0.0, "color_strength": 0.0, "add_weight_index": 2.5}])
def test_face_itself_with_its_residual_where_no_row_is_styled(style, face, values):
    face = Face(face.w_plus, torch.randn(2, 8, 32, 32))
    assert torch.allclose(style.draw(face, Look(**values)), plain(style, face), atol=1e-6)


def test_each_control_moves_its_own_rows(style):
    shares = style.generator.face_shares
    whole = shares(4)[0, :, 0]
    assert torch.all(whole[:4] == 1.0) and torch.all(whole[4:8] < 1.0)
    half = shares(4.5)[0, :, 0]
    assert half[4] == pytest.approx((1.0 + float(whole[4])) / 2) and torch.equal(half[5:], whole[5:])
    colour = shares(4, strength=0.5, color_strength=0.0)[0, :, 0]
    assert torch.all(colour[COLOR_ROW:] == 1.0) and torch.allclose(1 - colour[4:8], 0.5 * (1 - whole[4:8]))
    batch = shares(torch.tensor([4.0, 10.0]), strength=torch.tensor([1.0, 1.0]))
    assert torch.equal(batch[0, :, 0], whole) and torch.all(batch[1] == 1.0)


def test_strength_moves_the_picture_steadily(style, face):
    base = plain(style, face)
    moved = [float((style.draw(face, Look(strength=s)) - base).square().mean()) for s in (0.0, 0.25, 0.5, 1.0)]
    assert moved == sorted(moved) and moved[0] < 1e-9 < moved[1]


def test_pictures_and_seeds_give_their_own_styles_and_are_kept(style, face, tmp_path, monkeypatch):
    looks = [Look(style_image=picture(tmp_path / f"{seed}.png", seed=seed)) for seed in (0, 1)]
    looks += [Look(style_seed=1.0), Look()]
    images = [style.draw(face, look) for look in looks]
    for number, image in enumerate(images):
        assert all(float((image - other).abs().max()) > 1e-4 for other in images[:number])
    monkeypatch.setattr(style.encoder, "forward", lambda image: pytest.fail("encoded twice"))
    assert torch.equal(style.draw(face, looks[0]), images[0])
    assert torch.equal(style.draw(face, looks[0].changed(style_image=str(tmp_path / "0.png"))), images[0])


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (256, 256)])
def test_any_size_of_picture_works(style, tmp_path, size):
    assert torch.isfinite(style.style_w(Look(style_image=picture(tmp_path / "x.png", size=size)))).all()


def test_grey_picture_and_mode_work(style, tmp_path):
    Image.new("L", (30, 30), 128).save(tmp_path / "grey.png")
    assert torch.isfinite(style.style_w(Look(style_image=FileValue.read(tmp_path / "grey.png")))).all()


@pytest.mark.parametrize(("values", "error"), [({"style_seed": 1.5}, CheckpointError), ({"style_seed": -1.0}, CheckpointError),
                                               ({"style_image": "absent.png"}, ImageError)])
def test_what_cannot_be_drawn_is_one_line(style, values, error):
    with pytest.raises(error) as found:
        style.prepare(Look(**values))
    assert "\n" not in str(found.value)


def test_graph_draws_what_draw_draws(style, face):
    graph = style.graph()
    assert [control.name for control in graph.inputs] == ["strength", "add_weight_index"]
    ours = graph(face.w_plus, None, None, torch.tensor([0.7, 0.7]), torch.tensor([3.0, 3.0]))
    assert torch.allclose(ours, style.draw(face, Look(strength=0.7, add_weight_index=3.0)), atol=1e-6)


# --------------------------------------------------------------------------------------------------------------- files
def test_own_file_of_another_form_is_named(weights, networks):
    generator, encoder = networks
    tensors = {"w_avg": torch.zeros(16), **{f"g.{k}": v for k, v in generator.state_dict().items()}, "x": torch.zeros(1)}
    config = {"kind": "style", "style_kind": "blend", "generator": CONFIG.to_dict(), "style_encoder": ENCODER.to_dict()}
    save_model(weights / "bad.safetensors", tensors, config)
    with pytest.raises(CheckpointError, match="unexpected x"):
        load_style("bad")
    del tensors["x"]
    save_model(weights / "bad.safetensors", tensors, config)
    with pytest.raises(CheckpointError, match="part e: does not fit: missing embedder"):
        load_style("bad")


@pytest.mark.parametrize("extra", [{}, {"latent_avg": torch.ones(16)}, {"latent_avg": None, "truncation": torch.ones(16)}])
def test_released_file_loads_strictly(weights, networks, face, extra):
    torch.save({**released(networks), **extra}, weights / "blendgan.pt")
    style = load_style("blendgan")
    assert isinstance(style, BlendStyle) and style.encoder_name == "psp" and style.name == "blendgan"
    assert [c.name for c in controls_of("blendgan")] == [c.name for c in style.controls]
    assert style.latent_shape == (10, 16) and style.draw(face, Look()).shape == (2, 3, 64, 64)
    if extra.get("latent_avg") is not None:
        assert torch.equal(style.random(torch.zeros(1, 16), truncation_psi=0.0).w_plus[0, 0], torch.ones(16))


@pytest.mark.parametrize(("key", "value", "words"), [
    ("add_weight", torch.zeros(1, 9, 1), "misshapen add_weight"), ("embedding.2.bias", None, "missing embedding.2.bias"),
    ("embedder.embedder_mlp.1.bias", None, "missing embedder_mlp.1.bias"), ("surplus", torch.zeros(1), "unexpected surplus"),
    ("embedder.embedder.feature_extractor.vgg_layers.3.weight", torch.zeros(2, 3), "misshapen .*vgg_layers.3.weight"),
    ("conv1.conv.weight", None, "conv1.conv.weight"), ("style.1.bias", torch.full((16,), torch.nan), "holds NaN"),
])
def test_misfits_of_released_files_name_the_key(weights, networks, key, value, words):
    torch.save(released(networks, **{key: value}), weights / "blendgan.pt")
    with pytest.raises(CheckpointError, match=words) as error:
        load_style("blendgan")
    assert "\n" not in str(error.value)


def test_style_encoder_of_its_own_file(weights, networks):
    generator, encoder = networks
    torch.save({"g_ema": generator.state_dict()}, weights / "blendgan.pt")
    with pytest.raises(CheckpointError, match=r"put style_encoder.pt into"):
        load_style("blendgan")
    torch.save(encoder.state_dict(), weights / "style_encoder.pt")
    assert torch.equal(load_style("blendgan").encoder.embedder_mlp[0].weight, encoder.embedder_mlp[0].weight)


def test_keys_of_the_released_file_are_ours():
    table = official_keys()["blendgan.pt"]["g_ema"]
    parts = {"": {}, "embedder.": {}}
    for key, shape in table.items():
        part = "embedder." if key.startswith("embedder.") else ""
        parts[part][key.removeprefix(part)] = torch.zeros(()).expand(shape)
    config = generator_config_from_state(parts[""])
    assert config == GeneratorConfig.official(1024)
    with torch.device("meta"):
        check_fit(BlendGenerator(config), parts[""], what="g_ema")
        check_fit(StyleEncoder(StyleEncoderConfig()), parts["embedder."], what="embedder")


def test_released_file_is_imported_listed_and_verified(weights, networks, tmp_path, capsys):
    folder = tmp_path / "downloads"
    folder.mkdir()
    torch.save(released(networks), folder / "blendgan.pt")
    assert import_file(folder / "blendgan.pt") == weights / "blendgan.pt"
    assert zoo.main(["verify"]) == 0 and zoo.main(["list"]) == 0
    assert any(line.split()[:2] == ["present", "blendgan"] for line in capsys.readouterr().out.splitlines())
    torch.save(released(networks, add_weight=torch.zeros(1, 3, 1)), weights / "blendgan.pt")
    assert zoo.main(["verify"]) == 2 and "misshapen add_weight" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- photos' encoder
@pytest.fixture(scope="module")
def psp_state():
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in PSPEncoder(E4EConfig()).state_dict().items()}
    state = {f"encoder.{key}": torch.tensor(0.01).expand(shape) for key, shape in shapes.items()}
    return {key: torch.tensor(0) if key.endswith("num_batches_tracked") else t for key, t in state.items()}


def test_psp_files_are_told_from_e4e(weights, psp_state, monkeypatch):
    small = {key: t for key, t in psp_state.items() if not key.startswith(("encoder.body", "encoder.styles"))}
    made = []
    monkeypatch.setattr("checkpoints.features.build_strict", lambda make, state, **names: made.append(make) or make())
    monkeypatch.setattr("checkpoints.features.fingerprint", lambda state: "0")
    average = torch.zeros(18, 512)
    with torch.device("meta"):
        for state, kind in (({"state_dict": small}, PSPEncoder), (small, PSPEncoder),
                            ({"state_dict": small, "opts": {"encoder_type": "GradualStyleEncoder"}}, PSPEncoder),
                            ({"state_dict": small, "opts": {"encoder_type": "Encoder4Editing"}}, E4EEncoder)):
            torch.save({**state, "latent_avg": average}, weights / "psp_encoder.pt")
            assert type(load_encoder("psp", device="meta").module) is kind


def test_psp_file_is_imported_under_its_name_and_misfits_are_named(weights, psp_state, tmp_path):
    torch.save({"state_dict": psp_state, "latent_avg": torch.zeros(18, 512)}, tmp_path / "x.pt")
    assert import_file(tmp_path / "x.pt") == weights / "psp_encoder.pt"
    broken = {key: t for key, t in psp_state.items() if key != "encoder.styles.17.linear.bias"}
    torch.save({"state_dict": broken, "latent_avg": torch.zeros(18, 512)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"missing styles\.17\.linear\.bias"):
        load_encoder(tmp_path / "x.pt")


# -------------------------------------------------------------------------------------------------------- command line
def test_photo_in_the_style_of_a_picture(style, tmp_path, capsys):
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "photo.png")
    picture(tmp_path / "style.png", seed=1)
    argv = ["--style", "any", "--input_image", str(tmp_path / "photo.png"), "--align", "false", "--inversion", "e4e",
            "--output", str(tmp_path / "out")]
    assert inference.main([*argv, "--style_image", str(tmp_path / "style.png")]) == 0
    path = tmp_path / "out" / "any_photo.png"
    assert read_image(path).size == (64, 64)
    first = path.read_bytes()
    assert inference.main([*argv, "--style-image", str(tmp_path / "style.png"), "--strength", "0.2"]) == 0
    assert path.read_bytes() != first
    (tmp_path / "style.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert inference.main([*argv, "--style_image", str(tmp_path / "style.png")]) == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0 and "style.png" in message
    assert inference.main([*argv, "--style_image", str(tmp_path / "absent.png")]) == 2
    assert "absent.png" in capsys.readouterr().err


def test_random_faces_and_sweeps(style, tmp_path):
    assert generate_samples.main(["--style", "any", "--n_each", "2", "--style_seed", "4", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "any_2023_2_0000.png").is_file()
    assert deformation_control.main(["--style", "any", "--split", "2", "--output", str(tmp_path / "sweep")]) == 0
    assert len(list((tmp_path / "sweep").iterdir())) == 1
