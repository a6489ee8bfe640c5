"""Training of an e4e encoder: progressive offsets, the latent discriminator, resuming, the command line."""

from __future__ import annotations

import math

import pytest
import torch
from modify_worker import CHANNELS, ENCODER, JUDGES, source, tiny_images

import train_encoder
from checkpoints import save_model
from checkpoints.features import load_encoder
from data.images import save_image
from models.e4e import E4EEncoder
from models.latent_discriminator import LatentDiscriminator, LatentPool
from models.stylegan2 import Generator, GeneratorConfig
from training.e4e import E4ETrainingConfig, EncoderTraining

SHAPE = GeneratorConfig(size=32, style_dim=16, n_mlp=1, channels=CHANNELS)


def trainer(**settings) -> EncoderTraining:  # noqa: ANN003
    torch.manual_seed(4)
    config = E4ETrainingConfig(**{"steps": 6, "batch": 2, "lr": 1e-3, "progressive_start": 2, "progressive_every": 1, **settings})
    generator, encoder = Generator(SHAPE), E4EEncoder(ENCODER)
    return EncoderTraining(encoder, generator, torch.zeros(16), config=config, perceptual=JUDGES.perceptual,
                           embed=JUDGES.recogniser, source=source(tiny_images(), 2), preview=tiny_images(2))


def test_rows_come_in_one_by_one() -> None:
    config = E4ETrainingConfig()
    assert [config.rows(step, 18) for step in (0, 19_999, 20_000, 21_999, 22_000, 52_000, 200_000)] == [1, 1, 2, 2, 3, 18, 18]
    stage = trainer()
    image = tiny_images(2)
    with torch.no_grad():
        for rows in (1, 3, 8):
            w_plus, deltas = stage.codes(image, rows)
            assert deltas.shape == (2, rows - 1, 16)
            assert torch.equal(w_plus[:, rows:], w_plus[:, :1].expand(-1, 8 - rows, -1))
        stage.encoder.eval()
        assert torch.allclose(stage.codes(image, 8)[0], stage.encoder(image), atol=1e-5)
    assert [trained["rows"] for trained in (stage.step() for _ in range(5))] == [1, 1, 2, 3, 4]
    assert math.isnan(stage.history[0]["delta"]) and stage.history[-1]["delta"] > 0


def test_only_rows_that_are_free_are_trained() -> None:
    stage = trainer(progressive_start=100)
    before = {name: value.clone() for name, value in stage.encoder.named_parameters()}
    stage.step()
    moved = {name.split(".")[1] for name, value in stage.encoder.named_parameters()
             if name.startswith("styles.") and not torch.equal(value, before[name])}
    assert moved == {"0"}


def test_the_discriminator_learns_what_the_mapping_makes() -> None:
    stage = trainer(w_discriminator_lr=1e-2, steps=40, lr=0.0)
    values = [stage.step() for _ in range(40)]
    assert values[-1]["w_critic"] < values[0]["w_critic"]
    assert values[0]["w_r1"] > 0 and math.isnan(values[1]["w_r1"]) and values[16]["w_r1"] == values[16]["w_r1"]
    assert [layer.weight.shape[0] for layer in LatentDiscriminator(16).mlp if hasattr(layer, "weight")] == [16, 16, 16, 1]
    assert math.isnan(trainer(w_discriminator_lambda=0.0).step()["w_adv"])


def test_the_pool_gives_older_latents() -> None:
    pool, rng = LatentPool(4), torch.Generator().manual_seed(0)
    first = torch.arange(4.0)[:, None]
    assert torch.equal(pool.mixed(first, rng=rng), first)
    seen = torch.cat([pool.mixed(torch.full((4, 1), 10.0 + step), rng=rng) for step in range(8)])
    older = sum(float(value) != 10.0 + index // 4 for index, value in enumerate(seen))
    assert 8 < older < 24 and len(pool.kept) == 4
    assert torch.equal(LatentPool(0).mixed(first, rng=rng), first)


def test_a_resumed_run_is_the_run() -> None:
    whole = trainer()
    for _ in range(4):
        whole.step()
    first = trainer()
    for _ in range(2):
        first.step()
    again = trainer()
    again.load_state(first.state())
    for _ in range(2):
        again.step()
    assert again.history[-1]["total"] == pytest.approx(whole.history[-1]["total"], rel=1e-6)
    with pytest.raises(ValueError, match="other values of lr"):
        trainer(lr=0.5).load_state(first.state())


def test_command_line(tmp_path, capsys) -> None:  # noqa: ANN001
    torch.manual_seed(4)
    generator = Generator(SHAPE)
    save_model(tmp_path / "g.safetensors", {**generator.state_dict(), "w_avg": torch.ones(16)},
               {"kind": "generator", "generator": SHAPE.to_dict()})
    save_model(tmp_path / "e.safetensors", {**E4EEncoder(ENCODER).state_dict(), "latent_avg": torch.zeros(8, 16)},
               {"kind": "encoder", "encoder": ENCODER.to_dict()})
    for index, image in enumerate(tiny_images(3)):
        save_image(tmp_path / "photos" / f"{index}.png", image)
    argv = [str(tmp_path / "photos"), "--base", str(tmp_path / "g.safetensors"), "--start", str(tmp_path / "e.safetensors"),
            "--output", str(tmp_path / "mine.safetensors"), "--outdir", str(tmp_path / "run"), "--batch_size", "2",
            "--progressive_start", "1", "--max_steps", "3"]
    assert train_encoder.main(argv) == 0
    loaded = load_encoder(tmp_path / "mine.safetensors")
    assert torch.equal(loaded.latent_avg, torch.ones(8, 16)) and loaded.module.config == ENCODER
    assert (tmp_path / "run" / "sheet_00003.png").is_file()
    assert train_encoder.main(argv) == 2 and "exists; go on with --resume" in capsys.readouterr().err
    assert train_encoder.main([*argv, "--resume", "--learning_rate", "0.3"]) == 2
    assert "other values of lr" in capsys.readouterr().err
    assert train_encoder.main([*argv[:-2], "--resume", "--max_steps", "3"]) == 0
    assert train_encoder.main([*argv, "--overwrite", "--start", "starter"]) == 2
    assert "makes rows [12, 512]" in capsys.readouterr().err
