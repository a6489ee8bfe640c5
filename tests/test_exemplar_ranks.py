"""Exemplar training under torchrun, augmentation of its critics, and paths that others trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_dual_style import network, parts, weights  # noqa: F401 - fixtures
from test_dual_files import release

import train_exemplars
from checkpoints.builders import Base
from pipeline import cli
from training.augment import EVERY, AdaptiveProbability, augment

ROOT = Path(__file__).resolve().parent


@pytest.mark.nightly
def test_processes_draw_different_images_and_end_with_equal_weights(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(ROOT / "exemplar_ranks_worker.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT.parent)})
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["networks"] == second["networks"] != first["start"]
    assert all(a != b for a, b in zip(first["drawn"], second["drawn"], strict=True))


def test_stages_of_one_process_refuse_torchrun(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    assert train_exemplars.main([str(tmp_path), "--style", "x", "--stages", "tune,destylize"]) == 2
    assert "--stages: destylize runs in one process" in capsys.readouterr().err


def test_augmentation_leaks_nothing_at_zero_and_keeps_what_it_should():
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(4, 3, 16, 16, generator=rng) - 0.5
    before = rng.get_state()
    assert augment(image, 0.0, rng) is image and torch.equal(rng.get_state(), before)
    changed = augment(image.requires_grad_(True), 1.0, rng)
    assert changed.shape == image.shape and float((changed - image).detach().abs().mean()) > 0.1
    changed.square().sum().backward()
    assert torch.isfinite(image.grad).all() and float(image.grad.abs().sum()) > 0
    # A chance so small that nothing is drawn leaves the pixels where they are.
    assert torch.allclose(augment(image, 1e-9, rng), image, atol=1e-5)
    # Grey stays grey: colours turn about the grey axis.
    grey = torch.full((8, 3, 16, 16), 0.3)
    found = augment(grey, 1.0, rng)
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-5) and float(found.std()) > 0.05


def test_probability_follows_the_critic():
    p = AdaptiveProbability(0.6, 1000)
    for _ in range(EVERY):
        p.see(1.0, 4)
    assert p.p == pytest.approx(EVERY * 4 / 1000)
    for _ in range(5 * EVERY):
        p.see(0.2, 4)
    assert p.p == 0.0
    fixed = AdaptiveProbability(0.0, 1000, p=0.3)
    for _ in range(EVERY):
        fixed.see(1.0, 4)
    assert fixed.p == 0.3


def test_options_of_augmentation_reach_two_stages():
    args = train_exemplars.parse(["a", "--style", "b", "--augment", "--ada_target", "0.5", "--ada_length", "900"])
    config = train_exemplars.settings(args, size=1024)
    for stage in (config.tune, config.finetune):
        assert (stage.ada_target, stage.ada_length, stage.augment_p) == (0.5, 900, 0.0)
    assert config.pretrain.ada_target == 0.0
    fixed = train_exemplars.settings(train_exemplars.parse(["a", "--style", "b", "--augment", "--augment_p", "0.2"]), size=1024)
    assert (fixed.finetune.augment_p, fixed.finetune.ada_target) == (0.2, 0.0)
    with pytest.raises(cli.UserError, match="--augment_p"):
        train_exemplars.settings(train_exemplars.parse(["a", "--style", "b", "--augment_p", "2"]), size=1024)


def test_a_released_path_is_taken_with_its_own_generator_alone(weights, parts):  # noqa: F811
    path = release(weights / "cartoon", parts)
    args = train_exemplars.parse(["a", "--style", "b", "--ckpt", str(path)])
    base = Base(parts.network.generator, None, torch.zeros(16), "toy", "0")
    found = train_exemplars.read_path(args, base)
    assert found and all(torch.equal(value, parts.network.state_dict()[name]) for name, value in found.items())
    assert {name.split(".")[0] for name in found} == {"style", "res"}
    other = release(weights / "other", parts, **{"generator.conv1.conv.modulation.bias": torch.full((8,), 3.0)})
    with pytest.raises(cli.UserError, match="belongs to another generator than toy"):
        train_exemplars.read_path(train_exemplars.parse(["a", "--style", "b", "--ckpt", str(other)]), base)
