"""Mixtures of styles, and colours taken from the drawing."""

from __future__ import annotations

import pytest
import torch
from drawn_styles import drawn_style

import generate_samples
from checkpoints import CheckpointError
from models.deformable import DeformableGenerator
from models.stylegan2 import Generator, GeneratorConfig
from styles.deformable import save_style
from styles.registry import load_style, mix_styles, parse_recipe

CONFIG = GeneratorConfig(size=64, style_dim=16, n_mlp=1, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 8})
BASE = {"name": "toy", "fingerprint": "0"}


def make(seed, **settings):
    torch.manual_seed(seed)
    made = DeformableGenerator.for_generator(Generator(CONFIG), **settings)
    with torch.no_grad():
        for block in made.tps.stns:
            block.loc_net.fc[2].bias.mul_(1.0 - 0.1 * seed)
            block.loc_net.fc[2].weight.normal_(std=0.01)
        for block in made.affine.stns:
            block.fc_loc[2].bias[2] += 0.05 * seed
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("styles")
    rng = torch.Generator().manual_seed(7)
    for seed, name in ((1, "a"), (2, "b")):
        save_style(path / f"{name}.safetensors", make(seed), w_avg=torch.randn(16, generator=rng), base=BASE, training={},
                   target_latent=torch.randn(CONFIG.n_latent, 16, generator=rng))
    save_style(path / "bare.safetensors", make(3), w_avg=torch.zeros(16), base=BASE, training={})
    save_style(path / "other.safetensors", make(1), w_avg=torch.zeros(16), base={"name": "x", "fingerprint": "1"},
               training={})
    save_style(path / "old.safetensors", make(1, mode="published"), w_avg=torch.zeros(16), base=BASE, training={})
    return path


@pytest.fixture(autouse=True)
def weights(folder, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))


def picture(style, alpha=1.0):
    w_plus = torch.randn(2, CONFIG.n_latent, 16, generator=torch.Generator().manual_seed(3))
    return style.deformable.synthesis(w_plus, alpha=alpha, noise=style.deformable.generator.zero_noise())


def same(one, other):
    return torch.allclose(one.image, other.image, atol=1e-5 * float(one.image.abs().max()))


def test_a_whole_part_is_the_style_itself():
    a, b = load_style("a"), load_style("b")
    assert same(picture(load_style("a:1,b:0")), picture(a)) and same(picture(load_style("a:0,b:3")), picture(b))
    assert same(picture(load_style("a:0.5,a:0.5")), picture(a))
    assert not same(picture(load_style("a:0.5,b:0.5")), picture(a))


def test_weights_are_scaled_and_latents_mixed():
    a, b, mixed = load_style("a"), load_style("b"), load_style("a:3,b:1")
    assert torch.allclose(mixed.w_avg, 0.75 * a.w_avg + 0.25 * b.w_avg, atol=1e-6)
    assert torch.allclose(mixed.target_latent, 0.75 * a.target_latent + 0.25 * b.target_latent, atol=1e-6)
    assert mixed.name == "a75-b25" and mixed.fingerprint != load_style("a:1,b:1").fingerprint
    assert load_style("a:1,bare:1").target_latent is None


def test_halfway_warp_lies_halfway_for_the_same_features():
    a, b, mixed = (load_style(name).deformable for name in ("a", "b", "a:0.5,b:0.5"))
    features = torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    grids = [part.tps.stns[0].grid(features) for part in (a, b, mixed)]
    thetas = [part.affine.stns[0].theta(features) for part in (a, b, mixed)]
    assert torch.allclose((grids[0] + grids[1]) / 2, grids[2], atol=1e-5)
    assert torch.allclose((thetas[0] + thetas[1]) / 2, thetas[2], atol=1e-6)
    assert not torch.allclose(grids[0], grids[1], atol=1e-3)


@pytest.mark.parametrize(("text", "words"), [("a:1,other:1", "different bases"), ("a:1,old:1", "shapes or warp modes"),
                                             ("a:0,b:0", "not all 0"), ("a:-1,b:2", "0 or more"), ("a:nan", "0 or more"),
                                             ("a:1,none:1", "no such style 'none'")])
def test_wrong_mixtures_are_one_line(text, words):
    with pytest.raises(CheckpointError) as error:
        load_style(text)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_names_and_paths_are_no_recipes(folder):
    assert parse_recipe("a") is None and parse_recipe(r"C:\styles\a.pt") is None and parse_recipe("a,b") is None
    assert parse_recipe("a:0.7, b:0.3") == [("a", 0.7), ("b", 0.3)]
    assert load_style(folder / "a.safetensors").name == "a"


def test_mix_grid_is_written_and_needs_two_styles(tmp_path, capsys, monkeypatch):
    from checkpoints.builders import Base
    from pipeline import sampling

    base = Base(Generator(CONFIG).requires_grad_(False), None, torch.zeros(16), "toy", "0")
    monkeypatch.setattr(sampling, "base_of", lambda *args, **kwargs: base)
    argv = ["--mix-grid", "2", "--n_each", "2", "--output", str(tmp_path)]
    assert generate_samples.main(["--style", "a:1,b:1", *argv]) == 0
    assert (tmp_path / "a-b_2023_mix.png").is_file()
    assert generate_samples.main(["--style", "a", *argv]) == 2
    assert "--mix-grid: needs a mixture of two styles" in capsys.readouterr().err


def test_colours_move_from_the_face_to_the_drawing():
    style = load_style("a")
    style.config["training"] = {"settings": {"swap_layer": 4}}
    w_plus = torch.randn(3, CONFIG.n_latent, 16, generator=torch.Generator().manual_seed(0))
    assert style.colored(w_plus, None) is w_plus
    assert torch.equal(style.colored(w_plus, 0.0), w_plus)
    full, half = style.colored(w_plus, 1.0), style.colored(w_plus, 0.5)
    assert torch.equal(full[:, :4], w_plus[:, :4]) and torch.allclose(full[:, 4:], style.target_latent[4:].expand(3, -1, -1))
    assert torch.allclose(half, (full + w_plus) / 2, atol=1e-6)
    assert [control.name for control in style.controls] == ["alpha", "color_strength"]
    bare = load_style("bare")
    assert [control.name for control in bare.controls] == ["alpha"]
    with pytest.raises(CheckpointError, match="does not hold its drawing's latent"):
        bare.colored(w_plus, 0.5)


def test_same_style_mixed_in_memory_keeps_alpha():
    a = load_style("a")
    mixed = mix_styles([a, load_style("a")], [1, 3])
    assert same(picture(mixed, alpha=-0.5), picture(a, alpha=-0.5))


def test_drawing_stages_are_mixed_and_released_styles_refused(folder):
    for seed, name in ((1, "drawn_a"), (2, "drawn_b")):
        save_style(folder / f"{name}.safetensors", make(seed), w_avg=torch.zeros(16), base=BASE, training={},
                   drawn=drawn_style(seed))
    a, b, half = (load_style(name).drawn for name in ("drawn_a", "drawn_b", "drawn_a:0.5,drawn_b:0.5"))
    assert torch.allclose(half.moved, (a.moved + b.moved) / 2.0)
    assert torch.allclose(half.tone.mean, (a.tone.mean + b.tone.mean) / 2.0)
    image, parts = torch.rand(1, 3, 32, 32), torch.full((1, 4, 32, 32), 0.25)
    strokes = [style.draw(image, parts, None, frame=32, strength=1.0) for style in (a, b, half)]
    assert torch.allclose(strokes[2], (strokes[0] + strokes[1]) / 2.0, atol=1e-6)
    assert not torch.allclose(strokes[0], image, atol=1e-3)
    with pytest.raises(CheckpointError, match="cannot be mixed"):
        load_style("drawn_a:1,a:1")
