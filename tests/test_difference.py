"""Small style files, and the folder of bundled styles."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from checkpoints import CheckpointError, find, load_model, paths, save_model
from checkpoints import __main__ as zoo
from checkpoints.builders import load_base
from models.deformable import DeformableGenerator
from models.stylegan2 import layer_at
from pipeline.sampling import random_faces
from styles import __main__ as command
from styles.deformable import save_style
from styles.difference import quantized
from styles.packing import pack_style
from styles.registry import controls_of, load_style


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A style file as train.py would write it: the starter's fine layers and the transformers changed."""
    base = load_base()
    rng = torch.Generator().manual_seed(5)
    generator = copy.deepcopy(base.generator)
    deformable = DeformableGenerator.for_generator(generator, rng=rng)
    trained = [*generator.convs[layer_at(32):], *generator.to_rgbs[3:], deformable.tps, deformable.affine]
    with torch.no_grad():
        for parameter in (p for module in trained for p in module.parameters()):
            deviation = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            parameter += 0.1 * deviation * torch.randn(parameter.shape, generator=rng)
    path = tmp_path_factory.mktemp("full") / "bold.safetensors"
    latent = base.generator.broadcast(base.w_avg[None])[0]
    save_style(path, deformable, w_avg=base.w_avg, base={"name": "starter", "fingerprint": base.fingerprint},
               training={"steps": 1}, target_latent=latent)
    return path


@pytest.fixture()
def small(full, tmp_path, monkeypatch):
    """The packed file, in a folder of bundled styles; the user's folder is empty."""
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(paths, "bundled_styles_dir", lambda: tmp_path / "bundled")
    monkeypatch.setattr("checkpoints.manifest.bundled_styles_dir", lambda: tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    assert command.main(["pack", str(full), "--output", "bundled/bold.safetensors"]) == 0
    return tmp_path / "bundled" / "bold.safetensors"


def test_small_styles_draw_what_full_ones_draw(full, small):
    assert small.stat().st_size < 4e6 < full.stat().st_size
    whole, loaded = load_style(full), load_style(small)
    assert [c.name for c in controls_of(small)] == [c.name for c in whole.controls] == ["alpha", "color_strength"]
    look = whole.default_look().changed(alpha=1.0)
    face = random_faces(whole, 3, [0, 1, 2], truncation_psi=0.7)
    wanted, got = (style.draw(face, look).clamp(-1.0, 1.0) for style in (whole, loaded))
    plain = whole.draw(face, look.changed(alpha=0.0)).clamp(-1.0, 1.0)
    psnr = -10.0 * torch.log10(((wanted - got) / 2.0).square().mean(dim=(1, 2, 3)))
    assert psnr.min() > 45.0 and ((wanted - plain) / 2.0).square().mean() > 1e-4
    assert torch.equal(whole.deformable.generator.conv1.conv.weight, loaded.deformable.generator.conv1.conv.weight)
    assert torch.equal(whole.target_latent, loaded.target_latent)


def test_rounding_is_at_most_half_a_step_per_channel():
    values = torch.randn(1, 6, 40, 3, 3) * torch.logspace(-3, 1, 6)[None, :, None, None, None]
    whole, scale = quantized(values)
    assert whole.dtype == torch.int8 and scale.shape == (1, 6, 1, 1, 1)
    assert ((whole * scale - values).abs() <= 0.5001 * scale).all()
    assert not quantized(torch.zeros(4, 5))[0].any()


@pytest.mark.parametrize(("change", "words"), [
    (lambda t, c: c["base"].update(fingerprint="0" * 32), "difference to a base 'starter' of fingerprint 000"),
    (lambda t, c: c["base"].update(name="gone.safetensors"), "gone.safetensors.*cannot be read"),
    (lambda t, c: c.pop("base"), "does not say from which base"),
    (lambda t, c: c.update(form="folded"), "form 'folded'"),
    (lambda t, c: t.update({"scale|g.convs.7.conv.weight": torch.zeros(3, 7)}), "scale of g.convs.7.conv.weight"),
    (lambda t, c: t.pop("rtstn.stns.0.loc_net.0.weight"), "missing stns.0.loc_net.0.weight"),
    (lambda t, c: t.update({"strange": torch.zeros(1)}), "unexpected strange"),
])
def test_what_does_not_fit_is_told_in_one_line(small, change, words):
    tensors, config = load_model(small)
    change(tensors, config)
    save_model(small, tensors, config)
    with pytest.raises(CheckpointError, match=words) as error:
        load_style("bold")
    assert "\n" not in str(error.value) and "bold.safetensors" in str(error.value)


def test_bundled_styles_come_after_the_users_own(full, small, tmp_path, capsys):
    assert find("bold") == small and "bold" in paths.style_names()
    assert zoo.main(["verify"]) == 0 and "present  styles/bold" in capsys.readouterr().out
    shutil.copy(full, tmp_path / "own" / "bold.safetensors")
    assert find("bold") == tmp_path / "own" / "bold.safetensors" and paths.style_names().count("bold") == 1
    small.write_bytes(small.read_bytes()[:-100])
    assert zoo.main(["verify"]) == 2 and "wrong    styles/bold" in capsys.readouterr().out


def test_only_full_styles_are_packed(small, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="is a difference already"):
        pack_style(small, tmp_path / "twice.safetensors")
    assert command.main(["make", "nothing"]) == 2 and "no ready style 'nothing'" in capsys.readouterr().err
    assert command.main(["list"]) == 0 and "cartoon" in capsys.readouterr().out
