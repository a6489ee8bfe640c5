"""What the scripts' processes do to others: threads that wait do not spin, and the page's training ends with the page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train", "inference", "generate_samples", "deformation_control", "face_align", "app", "export", "stylize_dataset",
           "pretrain", "demo", "benchmarks.bench", "benchmarks.samples", "benchmarks.video")
# Says what the variable is at the very moment at which torch would be imported, or after the script's own imports.
PROBE = """
import importlib, os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            tell()
def tell():
    print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
    os._exit(0)
sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
tell()
"""


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    return {**kept, **changes}


def at_torch(module: str, **changes: str) -> str:
    done = subprocess.run([sys.executable, "-c", PROBE, module], cwd=ROOT, env=environment(**changes), capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", SCRIPTS)
def test_waiting_threads_do_not_spin(module: str) -> None:
    assert at_torch(module) == "0"


def test_a_users_own_choice_wins() -> None:
    assert at_torch("train", GOMP_SPINCOUNT="1000") == "1000"
    assert at_torch("train", OMP_WAIT_POLICY="active") == "None"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's OpenMP runtime comes with torch on Linux alone")
def test_torchs_runtime_reads_it() -> None:
    done = subprocess.run([sys.executable, "-c", "import train, torch"], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env=environment(OMP_DISPLAY_ENV="VERBOSE"))
    assert "GOMP_SPINCOUNT = '0'" in done.stderr, done.stderr


def test_make_sets_it_for_its_commands() -> None:
    lines = "export-probe:\n\t@echo [$$GOMP_SPINCOUNT]\n"
    for changes, expected in (({}, "[0]"), ({"GOMP_SPINCOUNT": "7"}, "[7]"), ({"OMP_WAIT_POLICY": "active"}, "[]")):
        done = subprocess.run(["make", "-s", "-f", "Makefile", "-f", "-", "export-probe"], cwd=ROOT, input=lines, text=True,
                              capture_output=True, env=environment(**changes))
        assert done.stdout.strip() == expected, done.stderr


# ---------------------------------------------------------------------------------------------------------- the page
CHILD = """
import os, pathlib, sys, time
here = pathlib.Path(__file__).parent
try:
    (here / "pid").write_text(str(os.getpid()))
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    (here / "saved").touch()
"""
PAGE = """
import pathlib, sys, threading, time
from web import jobs
jobs.ROOT = pathlib.Path(sys.argv[1])
trainer = jobs.Trainer(jobs.ROOT / "runs")
def work():
    for _ in trainer.train("a.png", "b.png", "x", steps=10, align=False, overwrite=True):
        pass
with jobs.ends_with_the_page(trainer):
    threading.Thread(target=work, daemon=True).start()
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("ending", "background"), [(signal.SIGTERM, False), (signal.SIGHUP, True)])
def test_training_ends_with_the_page(tmp_path: Path, ending: signal.Signals, background: bool) -> None:
    """Also where the page was started in the background of a script, which ignores interrupts."""
    (tmp_path / "train.py").write_text(CHILD)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if background else None
    # Under nohup these tests ignore it, and so would the page.
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        page = subprocess.Popen([sys.executable, "-c", PAGE, str(tmp_path)], cwd=ROOT)
    finally:
        signal.signal(signal.SIGHUP, hangup)
        if background:
            signal.signal(signal.SIGINT, before)
    pid, deadline = tmp_path / "pid", time.monotonic() + 240
    try:
        while not pid.is_file() or not pid.read_text():
            assert page.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        child = int(pid.read_text())
        assert is_alive(child)
        page.send_signal(ending)
        time.sleep(0.1)
        page.send_signal(ending)  # an impatient second one must not keep the training from saving
        assert page.wait(120) == 128 + ending
        assert (tmp_path / "saved").is_file() and not is_alive(child)
    finally:
        page.kill()
        page.wait()
