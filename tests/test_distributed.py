"""pretrain.py under torchrun: two processes on the CPU train as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

import pretrain
from training.pretrain.common import Clock, load_state
from training.pretrain.faces import pack_faces

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two ranks through four stages, the gan in both sizes; returns the folder, both records and what was printed."""
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    (folder / "faces").mkdir()
    for index in range(16):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "faces" / f"photo_{index}.png")
    pack_faces(folder / "faces", folder / "pack.npz", size=128)
    torch.manual_seed(0)
    features = squeezenet1_1(weights=None).features.state_dict()
    np.savez(folder / "teacher.npz", **{f"features.{name}": value.numpy() for name, value in features.items()})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(ROOT / "tests" / "pretrain_worker.py"), str(folder / "state"), str(folder / "pack.npz"),
               str(folder / "teacher.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    return folder, records, done.stdout


def test_ranks_draw_different_faces_and_end_with_equal_weights(run):
    _, (first, second), _ = run
    # Two steps per stage; the gan draws twice in each.
    assert len(first["faces"]) == len(second["faces"]) == 2 * (1 + 2 + 2 + 1 + 1)
    assert all(mine != other for mine, other in zip(first["faces"], second["faces"], strict=True))
    assert list(first["weights"]) == ["autoencoder", "gan 64", "gan 128", "encoder", "critic"]
    assert first["weights"] == second["weights"]
    assert len(set(first["weights"].values())) == 5


def test_only_the_first_rank_saves_and_prints(run):
    folder, (first, second), output = run
    assert first["saved"] == ["autoencoder.pt", "gan.pt", "gan.pt", "encoder.pt", "critic.pt"]
    assert second["saved"] == []
    tables = {f"{stage}{ending}" for stage in ("autoencoder", "critic", "encoder", "gan") for ending in (".csv", "_terms.png")}
    assert {path.name for path in (folder / "state").iterdir()} - tables == {
        "autoencoder.png", "autoencoder.pt", "critic.pt", "encoder.png", "encoder.pt", "gan.png", "gan.pt", "gan_start.png"}
    # Batches of 2, 2 + 2, 2 and 8 on each of two ranks; the gan goes on from its state.
    assert [json.loads(line)["images"] for line in output.splitlines()] == [8, 16, 32, 8, 32]


def test_all_ranks_read_the_clock_of_the_first(run):
    _, (first, second), _ = run
    assert first["fractions"] == second["fractions"] == [0.0, 0.5, 1.0] * 5


def test_state_counts_all_ranks_and_resumes_in_one_process(run):
    folder, _, _ = run
    state = load_state(folder / "state" / "gan.pt")
    assert state["seen"] == 32
    # The discriminator's optimiser has seen the steps of both sizes.
    assert {int(s["step"]) for s in state["d_optimizer"]["state"].values()} == {4}


def test_stages_of_one_process_refuse_torchrun(run, monkeypatch, capsys):
    folder, _, _ = run
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert pretrain.main(["vit", "--data", str(folder / "pack.npz"), "--state", str(folder / "state")]) == 2
    assert "vit stage runs in one process" in capsys.readouterr().err


def test_clock_of_one_process_runs_between_questions():
    clock = Clock(10.0)
    before = clock.fraction
    while clock.fraction == before:
        pass
    assert 0.0 <= before < clock.fraction < 0.1 and not clock.done()
