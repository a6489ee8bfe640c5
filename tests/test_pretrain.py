"""Pretraining: packs, the held-out split, resumable stages and the exact prior."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import squeezenet1_1

import pretrain
from data.landmarks68 import MIRROR
from models.stylegan2 import Generator
from training.pretrain.autoencoder import set_prior, starter_encoder_config, starter_generator_config
from training.pretrain.common import Clock, load_state
from training.pretrain.faces import FacePack, held_out_names
from training.pretrain.vit import landmark_targets, random_grids


@pytest.fixture(scope="module")
def pack_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    names = [f"photo_{i:03d}" for i in range(8)] + [f"synthetic_{i:03d}" for i in range(8)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    np.savez(folder / "marks.npz", names=np.array(names), landmarks=rng.uniform(60, 190, (16, 68, 2)),
             flip_disagreement=np.full(16, 0.02))
    target = folder / "out" / "pack.npz"
    assert pretrain.main(["pack", "--data", str(folder), "--landmarks", str(folder / "marks.npz"), "--size", "128",
                          "--output", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "squeezenet.npz"
    torch.manual_seed(0)
    np.savez(path, **{f"features.{k}": v.numpy() for k, v in squeezenet1_1(weights=None).features.state_dict().items()})
    return path


def test_pack_keeps_faces_and_landmarks(pack_path):
    pack = FacePack.load(pack_path)
    assert pack.images.shape == (16, 3, 128, 128) and pack.landmarks.shape == (16, 68, 2)
    assert 0 < pack.landmarks.min() and pack.landmarks.max() < 1
    train, held = pack.split()
    assert len(held) == 2 and len(train) == 14 and all(pack.names[i].startswith("photo") for i in held)


def test_split_is_fixed_and_of_photos():
    names = [f"photo_{i}" for i in range(950)] + [f"synthetic_{i}" for i in range(50)]
    held = held_out_names(names)
    assert len(held) == 200 and held == held_out_names(names[::-1]) and all(n.startswith("photo") for n in held)


def test_missing_input_is_one_line(capsys, tmp_path):
    assert pretrain.main(["vit", "--data", str(tmp_path / "none.npz")]) == 2
    assert "none.npz: not found" in capsys.readouterr().err


@pytest.mark.nightly
def test_vit_stage_runs_saves_and_resumes(pack_path, tmp_path, capsys):
    argv = ["vit", "--data", str(pack_path), "--state", str(tmp_path), "--minutes", "0.001"]
    assert pretrain.main(argv) == 0
    first = load_state(tmp_path / "vit.pt")["seen"]
    assert pretrain.main(argv) == 0
    assert load_state(tmp_path / "vit.pt")["seen"] > first
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["images"] > first


@pytest.mark.nightly
def test_base_stages_follow_each_other(pack_path, teacher_path, tmp_path, monkeypatch, capsys):
    import training.pretrain.autoencoder as autoencoder
    import training.pretrain.encoder as encoder
    import training.pretrain.gan as gan

    small = {"AutoencoderConfig": {"batch": 2}, "GanConfig": {"samples": 2, "reconstructions": 2},
             "EncoderTrainingConfig": {"batch": 2}}
    for module, name in ((autoencoder, "AutoencoderConfig"), (gan, "GanConfig"), (encoder, "EncoderTrainingConfig")):
        changed = partial(getattr(module, name), compile=False, **small[name])
        monkeypatch.setattr(module, name, changed)
    common = ["--data", str(pack_path), "--state", str(tmp_path), "--minutes", "0.001"]
    taught = [*common, "--teacher", str(teacher_path)]
    assert pretrain.main(["gan", *taught]) == 2
    assert "autoencoder.pt: not found; run the autoencoder stage first" in capsys.readouterr().err
    for stage in (["autoencoder", *taught, "--size", "64"], ["autoencoder", *taught, "--size", "128"], ["gan", *taught],
                  ["encoder", *taught], ["critic", *common]):
        assert pretrain.main(stage) == 0
    output = tmp_path / "starter"
    assert pretrain.main(["export", "--state", str(tmp_path), "--output", str(output)]) == 0
    files = json.loads((output / "manifest.json").read_text())["files"]
    assert set(files) == {"generator.safetensors", "encoder.safetensors", "discriminator.safetensors"}
    # Both stages also go on from the files, without the state of the stages before.
    seen = load_state(tmp_path / "gan.pt")["seen"]
    monkeypatch.setattr(gan, "GanConfig", partial(gan.GanConfig, warm_up=1))
    for stage in ("gan", "encoder"):
        assert pretrain.main([stage, *taught, "--start", str(output), "--state", str(tmp_path / f"more_{stage}")]) == 0
    assert load_state(tmp_path / "more_gan" / "gan.pt")["seen"] == seen + 4
    assert load_state(tmp_path / "more_encoder" / "encoder.pt")["seen"] == 2
    assert pretrain.main(["export", "--state", str(tmp_path / "more_encoder"), "--output", str(output)]) == 0
    written = json.loads((output / "manifest.json").read_text())["files"]
    assert {name for name in files if written[name] != files[name]} == {"encoder.safetensors"}


def test_prior_is_the_gaussian_of_the_codes_and_changes_no_image():
    torch.manual_seed(0)
    generator = Generator(starter_generator_config(64))
    encoder = nn.Module()
    encoder.styles = nn.ModuleList([nn.Module()])
    encoder.styles[0].linear = nn.Linear(512, 512)
    before_bias = encoder.styles[0].linear.bias.detach().clone()
    scale = torch.linspace(0.2, 2.0, 512)
    codes = torch.randn(2000, 512) * scale + 1.0
    w_plus = generator.broadcast(codes[:2])
    with torch.no_grad():
        image = generator.synthesis(w_plus, noise=generator.fixed_noise())
        w_avg = set_prior(generator, encoder, codes)
        shift = encoder.styles[0].linear.bias - before_bias
        again = generator.synthesis(w_plus + shift, noise=generator.fixed_noise())
        w = generator.mapping(torch.randn(4000, 512)) - shift
    assert torch.allclose(image, again, atol=2e-3 * float(image.abs().max()))
    assert torch.allclose(w.mean(0), codes.mean(0), atol=0.15)
    assert torch.allclose(w.std(0) / codes.std(0), torch.ones(512), atol=0.12)
    assert torch.allclose(w_avg - shift, codes.mean(0), atol=1e-4)


def test_landmark_targets_are_distributions_at_the_landmark():
    points = torch.zeros(1, 68, 2) + torch.tensor([0.26, -0.49])
    target = landmark_targets(points, 12)
    assert torch.allclose(target.sum(2), torch.ones(1, 68))
    index = int(target[0, 0].argmax())
    assert (index % 12, index // 12) == (7, 3)


def test_crop_maps_landmarks_with_pixels():
    rng = torch.Generator().manual_seed(0)
    grid, theta = random_grids(3, 96, rng, scale=(0.6, 1.0))
    centre = grid[:, 47:49, 47:49].mean(dim=(1, 2))
    assert torch.allclose(centre, theta[:, :, 2], atol=1e-4)


def test_clock_counts_down():
    clock = Clock(1e-9)
    assert clock.done() and clock.fraction == 1.0
    assert not Clock(10.0).done() and not Clock(10.0).should_save()


def test_starter_shapes_agree():
    assert starter_encoder_config().n_styles == starter_generator_config().n_latent
    assert len(MIRROR) == 68
