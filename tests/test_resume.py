"""Saved states: a run that was cut off goes on as if nothing had happened."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tuner_worker import tiny_tuner

from checkpoints import CheckpointError
from training.prepare import run_parts
from training.report import LossTable
from training.session import Interrupted, Session
from training.state import read_state, refuse_existing, restore, save_state

KILLS = 20 if os.environ.get("NIGHTLY") else 3
WORKER = Path(__file__).parent / "resume_worker.py"
FACTS = {"style": "tiny", "base": "tiny", "fingerprint": "0", "run": "0"}


def test_killed_often_and_not_one_bit_lost(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, str(WORKER), str(tmp_path), str(KILLS)], capture_output=True, text=True,
                            timeout=300, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    assert found["kills"] == KILLS and found["corrupt"] == 0 and found["leftovers"] == 0
    assert found["chains"] == found["equal"] >= 1


def test_state_loads_without_code_and_continues_exactly(tmp_path):
    whole, first = tiny_tuner(), tiny_tuner()
    rows = [whole.step() for _ in range(4)]
    first.step(), first.step()
    save_state(tmp_path / "state.pt", first, run=FACTS)
    payload = torch.load(tmp_path / "state.pt", weights_only=True)
    assert payload["kind"] == "training-state" and payload["run"] == FACTS
    second = tiny_tuner()
    restore(second, read_state(tmp_path / "state.pt"))
    assert second.step_count == 2 and str(second.history) == str(rows[:2])
    assert str([second.step(), second.step()]) == str(rows[2:])
    for ours, theirs in zip(second.ema.state_dict().values(), whole.ema.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("content", "message"), [
    (None, "not found|missing|no such"), (b"", "empty"), (b"<!DOCTYPE html><html>", "web page|HTML"), (b"junk" * 99, "weights"),
])
def test_damaged_state_is_one_line(tmp_path, content, message):
    path = tmp_path / "state.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_other_files_and_other_networks_are_refused(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"g": {}}, path)
    with pytest.raises(CheckpointError, match="holds no training state"):
        read_state(path)
    torch.save({"kind": "training-state", "format": 9}, path)
    with pytest.raises(CheckpointError, match="has format 9"):
        read_state(path)
    torch.save({"kind": "training-state", "format": 1, "run": {}}, path)
    with pytest.raises(CheckpointError, match="no complete training state"):
        read_state(path)
    save_state(path, tiny_tuner(), run=FACTS)
    with pytest.raises(CheckpointError, match="does not fit this run"):
        restore(tiny_tuner(warp_resolutions=(32,)), read_state(path))


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, tiny_tuner(), run=FACTS)
    (tmp_path / ".state.pt.abc.part").write_bytes(b"half")
    read_state(path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_sigint_saves_and_says_how_to_go_on(tmp_path):
    tuner = tiny_tuner(iterations=50)
    session = Session(tmp_path, FACTS, save_every=0, sheet_every=0, resume_hint="train --resume", quiet=True)

    def interrupt(current) -> None:  # noqa: ANN001
        if current.step_count == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="after step 2 of 50.*Resume with: train --resume"):
        session.train(tuner, on_step=interrupt)
    assert read_state(tmp_path / "state.pt")["tuner"]["step"] == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_outside_the_main_thread(tmp_path):
    session = Session(tmp_path, FACTS, save_every=0, sheet_every=0, quiet=True)
    thread = threading.Thread(target=session.train, args=(tiny_tuner(iterations=1),))
    thread.start()
    thread.join(timeout=60)
    assert read_state(tmp_path / "state.pt")["tuner"]["step"] == 1


def test_reports_of_a_run(tmp_path):
    Session(tmp_path, FACTS, save_every=2, sheet_every=2, quiet=True).train(tiny_tuner(iterations=4))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"state.pt", "losses.csv", "losses.png", "sheet_00000.png", "sheet_00002.png", "sheet_00004.png"}
    rows = list(csv.DictReader((tmp_path / "losses.csv").open()))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["r1"] and not rows[1]["r1"] and float(rows[1]["total"]) > 0


def test_table_repeats_no_line_of_a_run_that_was_cut_off(tmp_path):
    table = LossTable(tmp_path / "losses.csv", ("a",))
    table.rewrite([{"a": 1.0}])
    table.append(1, {"a": 2.0})
    table.append(2, {"a": 3.0})
    table.rewrite([{"a": 1.0}, {"a": 2.0}])
    table.append(2, {"a": 4.0})
    assert (tmp_path / "losses.csv").read_text().split() == ["step,a", "0,1", "1,2", "2,4"]


def test_new_run_never_replaces_an_old_one(tmp_path):
    refuse_existing(tmp_path / "a.safetensors", tmp_path)
    (tmp_path / "state.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="--resume"):
        refuse_existing(tmp_path / "a.safetensors", tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="--overwrite"):
        refuse_existing(tmp_path / "a.safetensors", tmp_path)


class Counter:
    """A trainer that knows nothing of faces: one weight that grows by noise of its own."""

    terms, total = ("value", "every_other"), 5

    def __init__(self) -> None:
        self.step_count, self.history, self.weight = 0, [], torch.zeros(1)
        self.rng = torch.Generator().manual_seed(1)

    def step(self) -> dict[str, float]:
        self.weight = self.weight + torch.randn(1, generator=self.rng)
        row = {"value": float(self.weight), "every_other": 1.0 if self.step_count % 2 else float("nan")}
        self.step_count += 1
        self.history.append(row)
        return row

    def sheet(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight.clamp(-1, 1).expand(1, 3, 8, 8)}

    def state(self) -> dict:
        return {"step": self.step_count, "weight": self.weight, "rng": self.rng.get_state(), "history": self.history}

    def load_state(self, state) -> None:  # noqa: ANN001
        self.step_count, self.weight, self.history = state["step"], state["weight"], state["history"]
        self.rng.set_state(state["rng"])


def test_a_session_knows_nothing_of_what_it_trains(tmp_path):
    whole, cut = Counter(), Counter()
    Session(tmp_path / "a", FACTS, save_every=0, sheet_every=2, quiet=True).train(whole)

    def interrupt(current: Counter) -> None:
        if current.step_count == 3:
            os.kill(os.getpid(), signal.SIGINT)

    session = Session(tmp_path / "b", FACTS, save_every=2, sheet_every=2, quiet=True)
    with pytest.raises(Interrupted, match="after step 3 of 5"):
        session.train(cut, on_step=interrupt)
    again = Counter()
    restore(again, read_state(session.state_path))
    session.train(again)
    assert again.weight == whole.weight and again.step_count == 5
    tables = [(tmp_path / name / "losses.csv").read_text() for name in "ab"]
    assert tables[0] == tables[1] and tables[0].startswith("step,value,every_other")
    assert {path.name for path in (tmp_path / "b").iterdir()} == {path.name for path in (tmp_path / "a").iterdir()}


def test_fine_tuning_refuses_the_state_of_another_trainer(tmp_path):
    save_state(tmp_path / "state.pt", Counter(), run=FACTS)
    with pytest.raises(CheckpointError, match="no complete state of fine-tuning"):
        run_parts(read_state(tmp_path / "state.pt"))
