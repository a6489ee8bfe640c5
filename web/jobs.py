"""Training from the page: one child process at a time, watched through the files it writes."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkpoints.paths import checkpoints_dir
from pipeline.cli import UserError

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
# Sent by service managers and containers, and by a terminal that closes.
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def check_name(name: str, *, overwrite: bool) -> str:
    """Return the name of a new style.

    Raises:
        UserError: if it is not made of letters, digits, - and _, or is taken.
    """
    name = (name or "").strip()
    if not NAME.fullmatch(name):
        raise UserError("a style's name is made of letters, digits, - and _, at most 64, and begins with a letter or digit")
    if not overwrite and any((checkpoints_dir() / f"{name}{suffix}").exists() for suffix in (".safetensors", ".pt")):
        raise UserError(f"there is a style {name!r} already; choose another name, or tick 'replace'")
    return name


@dataclass(frozen=True)
class Progress:
    """Where a training stands: a line to show, steps done, the newest contact sheet and the loss plot, and the end."""

    line: str
    steps: int
    sheet: Path | None
    done: bool = False
    failed: bool = False


@dataclass
class Trainer:
    """Runs ``train.py`` for the page.

    Args:
        folder: where runs keep their sheets and states.
        device: passed on.
        options: other words of its command line.
    """

    folder: Path
    device: str = "auto"
    options: Sequence[str] = ()
    process: subprocess.Popen | None = None
    cancelled: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def train(
        self, source: str | None, target: str | None, name: str, *, steps: int, align: bool, overwrite: bool,
        force: bool = False,
    ) -> Iterator[Progress]:
        """Train a style and yield its progress about once a second; closing the iterator cancels.

        Raises:
            UserError: for a missing image, a bad name, or a training that is under way.
        """
        if not source or not target:
            raise UserError("give both images: the real face and the same face as it is drawn")
        name = check_name(name, overwrite=overwrite)
        if not self.lock.acquire(blocking=False):
            raise UserError("a training is under way; wait for it or cancel it")
        try:
            yield from self._run(source, target, name, steps=steps, align=align, force=force)
        finally:
            self._stop()
            self.lock.release()

    def _run(
        self, source: str, target: str, name: str, *, steps: int, align: bool, force: bool,
    ) -> Iterator[Progress]:
        run = self.folder / name
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        command = [sys.executable, str(ROOT / "train.py"), "--style", name, "--source", str(source), "--target",
                   str(target), "--iterations", str(steps), "--align", str(align).lower(), "--outdir", str(run),
                   "--sheet_every", str(max(10, steps // 8)), "--device", self.device, "--overwrite",
                   *self.options, *(["--force"] if force else [])]
        self.cancelled = False
        with open(run / "log.txt", "wb") as log:
            # A session of its own, so that Ctrl-C in the page's terminal is passed on by the page alone.
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        while self.process.poll() is None:
            yield self._progress(run, steps)
            time.sleep(POLL_SECONDS)
        last = self._progress(run, steps)
        if self.cancelled:
            yield Progress(f"Cancelled after step {last.steps}.", last.steps, last.sheet, done=True, failed=True)
        elif self.process.returncode != 0:
            lines = (run / "log.txt").read_text(errors="replace").replace("\r", "\n").strip().splitlines()
            yield Progress(f"Failed: {lines[-1][:300] if lines else 'no output'}", last.steps, last.sheet, done=True,
                           failed=True)
        else:
            yield Progress(f"Done: {name} is in the list of styles.", steps, last.sheet, done=True)

    def _progress(self, run: Path, steps: int) -> Progress:
        rows = []
        if (run / "losses.csv").is_file():
            with open(run / "losses.csv", newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        sheets = sorted(run.glob("sheet_*.png"))
        if not rows:
            return Progress("Inverting the pair: finding its faces in the generator …", 0, sheets[-1] if sheets else None)
        total = next((row["total"] for row in reversed(rows) if row.get("total")), "")
        return Progress(f"Step {len(rows)} of {steps}, loss {float(total or 'nan'):.3f}", len(rows),
                        sheets[-1] if sheets else None)

    def cancel(self) -> bool:
        """Stop the training that is under way and return whether there was one."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.cancelled = True
        self._stop()
        return True

    def _stop(self) -> None:
        """Interrupt the child, which then saves its state and ends; kill it when it does not."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def ends_with_the_page(trainer: Trainer) -> Iterator[None]:
    """End the training with the block, however that ends: by itself, by Ctrl-C, or by SIGTERM or SIGHUP.

    The signals leave the block as SystemExit with the code of a process that they end, 128 + number; they wait while the
    training saves its state. One that is ignored, as under nohup, stays ignored. For the main thread.
    """
    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (*ENDINGS, signal.SIGINT)}
    for number in ENDINGS:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, leave)
    if before[signal.SIGINT] == signal.SIG_IGN:
        # As for commands that a script starts in the background. A training would inherit that, and could not be interrupted;
        # handlers it does not inherit.
        signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        trainer.cancel()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
