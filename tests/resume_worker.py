"""Server of the kill test: trains tiny networks in forked children, kills them, and compares what is left.

Run as ``python resume_worker.py FOLDER KILLS``; prints one JSON line. A process of its own, because a fork is only safe
before any thread pool has started.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import torch  # noqa: E402
from tuner_worker import tiny_tuner  # noqa: E402

from training.session import Session  # noqa: E402
from training.state import read_state, restore  # noqa: E402

ITERATIONS = 8
FACTS = {"style": "tiny", "base": "tiny", "fingerprint": "0", "run": "0"}


def train(folder: Path) -> None:
    """Train to the end, from the saved state where there is one."""
    session = Session(folder, FACTS, save_every=1, sheet_every=3, quiet=True)
    tuner = tiny_tuner(iterations=ITERATIONS)
    if session.state_path.exists():
        restore(tuner, read_state(session.state_path))
    session.train(tuner)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(mode: str, skip: int) -> None:
    """Make this process kill itself at a chosen moment of its save number ``skip``."""
    save, replace, left = torch.save, os.replace, [skip]

    def dying_save(payload, path):  # noqa: ANN001, ANN202
        save(payload, path)
        left[0] -= 1
        if left[0] < 0 and mode == "half written":
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def dying_replace(source, target):  # noqa: ANN001, ANN202
        due = left[0] < 0 and str(target).endswith("state.pt")
        if due and mode == "before replace":
            die()
        replace(source, target)
        if due and mode == "after replace":
            die()

    torch.save, os.replace = dying_save, dying_replace


def run_child(folder: Path, mode: str, rng: random.Random) -> bool:
    """Fork a training child and let it be killed; return whether it was."""
    skip, delay = rng.randrange(3), rng.uniform(0.0, 0.8)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if mode != "any moment":
                arm(mode, skip)
            train(folder)
            code = 0
        finally:
            os._exit(code)
    if mode == "any moment":
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError("a child failed by itself")
    return os.WIFSIGNALED(status)


def same(a: object, b: object) -> bool:
    """Tell whether two nested states are equal to the last bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(torch.nan_to_num(a, 0.125), torch.nan_to_num(b, 0.125))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def compare(folder: Path, whole: Path) -> bool:
    """Tell whether a resumed run left the state and the table of an uninterrupted one, and nothing half-written."""
    states = [read_state(path / "state.pt")["tuner"] for path in (folder, whole)]
    tables = [(path / "losses.csv").read_text() for path in (folder, whole)]
    return same(*states) and tables[0] == tables[1] and states[0]["step"] == ITERATIONS


def main(root: Path, kills: int) -> dict[str, object]:
    """Kill ``kills`` times, chain by chain."""
    torch.set_num_threads(1)
    rng, modes = random.Random(3), ("any moment", "half written", "any moment", "before replace", "any moment", "after replace")
    child = os.fork()  # the uninterrupted run is a child as well, so that this process stays without threads
    if child == 0:
        train(root / "whole")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    done, chains, equal, corrupt = 0, 0, 0, 0
    folder = root / "chain0"
    while done < kills:
        if run_child(folder, modes[done % len(modes)], rng):
            done += 1
            if (folder / "state.pt").exists():
                try:
                    read_state(folder / "state.pt")
                except ValueError:
                    corrupt += 1
        if (folder / "state.pt").exists() and read_state(folder / "state.pt")["tuner"]["step"] == ITERATIONS:
            done, chains, equal, folder = finish(root, folder, done, chains, equal)
    done, chains, equal, folder = finish(root, folder, done, chains, equal)
    return {"kills": done, "chains": chains, "equal": equal, "corrupt": corrupt,
            "leftovers": len(list(root.glob("*/.state.pt.*")))}


def finish(root: Path, folder: Path, done: int, chains: int, equal: int) -> tuple[int, int, int, Path]:
    """Let a chain run to its end, compare it and start the next one."""
    child = os.fork()
    if child == 0:
        train(folder)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    equal += compare(folder, root / "whole")
    return done, chains + 1, equal, root / f"chain{chains + 1}"


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
