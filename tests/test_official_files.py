"""Files with the keys of the released ones load strictly, at 1024 px and at other sizes, or are told to be damaged."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch

from checkpoints import CheckpointError, features, save_model
from checkpoints.builders import load_base, load_encoder, load_vit
from checkpoints.manifest import entries, import_file, status
from checkpoints.official import official_keys
from models.dino import ViTConfig, build_vit
from models.e4e import E4EConfig, E4EEncoder
from models.stylegan2 import Generator, GeneratorConfig
from styles.registry import load_style

CONFIG = GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 4})
TINY_VIT = ViTConfig(img_size=16, patch_size=8, embed_dim=64, depth=2, num_heads=1)


def tensors(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that take no room: one number, expanded."""
    return {key: torch.tensor(0.01).expand(shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def base_state():
    return {part: tensors(shapes) for part, shapes in official_keys()["stylegan2-ffhq-config-f.pt"].items()}


@pytest.fixture(scope="module")
def style_state():
    return {part: tensors(shapes) for part, shapes in official_keys()["styleN.pt"].items()}


def test_base_loads_with_its_discriminator(tmp_path, base_state):
    torch.save(base_state, tmp_path / "base.pt")
    base = load_base(tmp_path / "base.pt", with_discriminator=True)
    assert base.generator.config.size == base.discriminator.config.size == 1024
    assert base.w_avg.shape == (512,) and base.generator.config.n_latent == 18


def test_style_loads_and_is_published_mode(tmp_path, style_state):
    torch.save(style_state, tmp_path / "style1.pt")
    style = load_style(tmp_path / "style1.pt")
    assert style.deformable.config.mode == "published" and style.deformable.generator.config.size == 1024


@pytest.mark.parametrize("part", ["g_ema", "d"])
@pytest.mark.parametrize(("damage", "word"), [("missing", "missing"), ("extra", "unexpected"), ("shape", "misshapen")])
def test_base_misfits_name_the_key(tmp_path, base_state, part, damage, word):
    state = {name: dict(values) for name, values in base_state.items()}
    # The generator's key also carries a width that the reader takes its config from.
    key = "convs.3.conv.weight" if part == "g_ema" else "final_linear.0.weight"
    if damage == "missing":
        del state[part][key]
    elif damage == "extra":
        key = "surplus.weight"
        state[part][key] = torch.zeros(1)
    else:
        state[part][key] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match=word) as error:
        load_base(tmp_path / "base.pt", with_discriminator=True)
    assert key in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("part", "key"), [("g", "to_rgb1.bias"), ("stns", "stns.0.loc_net.fc.2.bias"),
                                           ("rtstn", "stns.1.fc_loc.2.bias")])
@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_style_misfits_name_the_key(tmp_path, style_state, part, key, damage):
    state = {name: dict(values) for name, values in style_state.items()}
    if damage == "missing":
        del state[part][key]
    elif damage == "extra":
        key = "surplus.weight"
        state[part][key] = torch.zeros(1)
    else:
        state[part][key] = torch.zeros(7)
    torch.save(state, tmp_path / "style1.pt")
    with pytest.raises(CheckpointError) as error:
        load_style(tmp_path / "style1.pt")
    assert key in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("opts", [{"stylegan_size": 64}, Namespace(stylegan_size=64)])
def test_e4e_file_loads_with_either_form_of_options(tmp_path, opts):
    with torch.device("meta"):
        shapes = {k: list(v.shape) for k, v in E4EEncoder(E4EConfig(n_styles=10)).state_dict().items()}
    state = {f"encoder.{key}": tensor for key, tensor in tensors(shapes).items()}
    for key in shapes:
        if key.endswith("num_batches_tracked"):
            state[f"encoder.{key}"] = torch.tensor(0)
    torch.save({"state_dict": state, "latent_avg": torch.zeros(10, 512), "opts": opts}, tmp_path / "e4e.pt")
    encoder = load_encoder(tmp_path / "e4e.pt")
    assert encoder.latent_avg.shape == (10, 512) and encoder.input_size == 256
    del state["encoder.styles.3.linear.bias"]
    torch.save({"state_dict": state, "latent_avg": torch.zeros(10, 512), "opts": opts}, tmp_path / "e4e.pt")
    with pytest.raises(CheckpointError, match="missing styles.3.linear.bias"):
        load_encoder(tmp_path / "e4e.pt")


def test_import_copies_a_base_under_its_name(tmp_path, base_state, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "weights"))
    torch.save(base_state, tmp_path / "any.pt")
    assert import_file(tmp_path / "any.pt").name == "stylegan2-ffhq-config-f.pt"
    state = {**base_state, "d": {k: v for k, v in base_state["d"].items() if k != "final_conv.1.bias"}}
    torch.save(state, tmp_path / "any.pt")
    with pytest.raises(CheckpointError, match="final_conv.1.bias"):
        import_file(tmp_path / "any.pt")


def test_base_of_another_size_needs_no_discriminator_unless_asked(tmp_path):
    generator = Generator(CONFIG)
    half = {key: t.half() for key, t in generator.state_dict().items()}
    torch.save({"g_ema": half, "latent_avg": torch.ones(16)}, tmp_path / "base.pt")
    base = load_base(tmp_path / "base.pt")
    assert torch.equal(base.w_avg, torch.ones(16)) and base.generator.conv1.conv.weight.dtype == torch.float32
    with pytest.raises(CheckpointError, match="d and g_ema"):
        load_base(tmp_path / "base.pt", with_discriminator=True)
    torch.save({"g_ema": half}, tmp_path / "base.pt")
    assert torch.equal(load_base(tmp_path / "base.pt").w_avg, load_base(tmp_path / "base.pt").w_avg)


@pytest.mark.parametrize(("state", "words"), [
    ([1, 2], "holds a list"), ({}, "holds nothing"), ({"a": 1}, r"other content \(a\)"), ({"g_ema": 3}, "g_ema"),
    ({"g_ema": {1: 2}}, "g_ema"), ({"g_ema": {"x": 1}, "d": {}}, "entry 'x'"),
])
def test_strange_content_is_one_line(tmp_path, state, words):
    torch.save(state, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match=words) as error:
        load_base(tmp_path / "base.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("latent_avg", "words"), [(torch.zeros(3), "latent_avg does not fit"), ("x", "latent_avg"),
                                                   (torch.full((16,), torch.nan), "NaN")])
def test_wrong_latent_average_is_named(tmp_path, latent_avg, words):
    torch.save({"g_ema": Generator(CONFIG).state_dict(), "latent_avg": latent_avg}, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match=words):
        load_base(tmp_path / "base.pt")


def test_vit_files_of_every_form(tmp_path, monkeypatch):
    weights = tmp_path
    monkeypatch.setenv("CHECKPOINTS_DIR", str(weights))
    state = build_vit(TINY_VIT).state_dict()
    torch.save({"teacher": {f"backbone.{key}": t for key, t in state.items()}}, weights / "dino_vitb8.pth")
    assert load_vit(weights / "dino_vitb8.pth").image_size == load_vit("official").image_size == 16
    assert load_vit("official", image_size=32).image_size == 32
    save_model(weights / "own.safetensors", state, {"kind": "vit", "vit": TINY_VIT.to_dict()})
    assert load_vit(weights / "own.safetensors", image_size=32).image_size == 32
    monkeypatch.setattr(features, "vit_from_hub", lambda **settings: (build_vit(TINY_VIT), TINY_VIT))
    assert load_vit("hub").image_size == 16
    (weights / "dino_vitb8.pth").write_text("<html>")
    with pytest.raises(CheckpointError, match="web page"):
        load_vit("official")
    torch.save({**state, "norm.bias": torch.full_like(state["norm.bias"], torch.nan)}, weights / "dino_vitb8.pth")
    with pytest.raises(CheckpointError, match=r"norm\.bias.*NaN"):
        load_vit("official")
    torch.save({"a": torch.zeros(1)}, weights / "dino_vitb8.pth")
    with pytest.raises(CheckpointError, match="vision transformer"):
        load_vit("official")


@pytest.fixture(scope="module")
def e4e_state(base_state):
    """The whole e4e file at 1024 px: encoder, decoder, mean latent and options."""
    with torch.device("meta"):
        shapes = {key: list(t.shape) for key, t in E4EEncoder(E4EConfig()).state_dict().items()}
    state = {f"encoder.{key}": t for key, t in tensors(shapes).items()}
    state |= {f"decoder.{key}": t for key, t in base_state["g_ema"].items()}
    return {"state_dict": state, "latent_avg": torch.zeros(18, 512), "opts": Namespace(stylegan_size=1024)}


def test_whole_e4e_file_fits_at_1024(tmp_path, e4e_state, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "weights"))
    torch.save(e4e_state, tmp_path / "any.pt")
    assert import_file(tmp_path / "any.pt").name == "e4e_ffhq_encode.pt"


@pytest.mark.parametrize(("key", "value", "words"), [
    ("encoder.styles.17.linear.bias", None, "part encoder: does not fit: missing styles.17.linear.bias"),
    ("decoder.to_rgb1.bias", None, "part decoder: does not fit: missing to_rgb1.bias"),
    ("decoder.conv1.conv.weight", None, "part decoder: .*conv1.conv.weight"),
    ("encoder.surplus", torch.zeros(1), "unexpected surplus"), ("other.weight", torch.zeros(1), "unexpected other.weight"),
    ("encoder.input_layer.0.weight", torch.zeros(3), "misshapen input_layer.0.weight"),
    ("decoder.to_rgb1.bias", torch.full((1, 3, 1, 1), torch.nan), "to_rgb1.bias' holds NaN"),
])
def test_e4e_misfits_name_the_key(tmp_path, e4e_state, key, value, words):
    state = {name: t for name, t in e4e_state["state_dict"].items() if name != key}
    if value is not None:
        state[key] = value
    torch.save({**e4e_state, "state_dict": state}, tmp_path / "e4e.pt")
    with pytest.raises(CheckpointError, match=words) as error:
        load_encoder(tmp_path / "e4e.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"opts": {"stylegan_size": 1000}}, {"opts": {"stylegan_size": "big"}},
                                    {"latent_avg": torch.zeros(4)}, {"state_dict": [1]}])
def test_e4e_facts_that_make_no_sense_are_one_line(tmp_path, e4e_state, change):
    small = {"encoder.x": torch.zeros(1)}
    torch.save({**e4e_state, "state_dict": small, **change}, tmp_path / "e4e.pt")
    with pytest.raises(CheckpointError) as error:
        load_encoder(tmp_path / "e4e.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("latent_avg", [torch.zeros(4), torch.full((18, 512), torch.nan)])
def test_import_checks_the_mean_latent_of_e4e(tmp_path, e4e_state, latent_avg, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "weights"))
    torch.save({**e4e_state, "latent_avg": latent_avg}, tmp_path / "any.pt")
    with pytest.raises(CheckpointError, match="latent_avg"):
        import_file(tmp_path / "any.pt")


@pytest.mark.parametrize("name", ["dino_vitb8.pth", "dino_vitbase8_pretrain.pth", "dino_vitb8.safetensors"])
def test_every_name_of_the_dino_file_is_seen(tmp_path, name, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    entry = next(entry for entry in entries() if entry.kind == "vit")
    assert status(entry, thorough=True)[0] == "missing"
    (tmp_path / name).write_text("<html>")
    state, reason = status(entry, thorough=True)
    assert state == "wrong" and name in reason and "web page" in reason
