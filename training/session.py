"""A training run from its first to its last step: progress, saved states, reports, and a clean stop."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.course import Course
from training.report import LossTable, contact_sheet, plot_losses
from training.state import STATE_FILE, save_state
from training.trainer import Trainer

# Names of terms that are longer are cut to three letters in the line of progress.
LONG = 9


class Interrupted(KeyboardInterrupt):
    """The run was stopped by SIGINT; the message says what was saved and how to go on."""


@dataclass
class StopFlag:
    """Set by the first SIGINT; the second one ends the process the ordinary way."""

    raised: bool = field(default=False)

    def __call__(self, number: int, frame: Any) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
        print("\nstopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)


@contextmanager
def stop_on_sigint() -> Iterator[StopFlag]:
    """Turn SIGINT into a flag inside the block; only the main thread may, elsewhere the flag stays down."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.signal(signal.SIGINT, flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Session:
    """Where and how often a run saves.

    Attributes:
        folder: state, table, plot and sheets go here.
        run: facts kept in the state file, see ``save_state``.
        save_every, sheet_every: intervals in steps; 0 means only at the end.
        resume_hint: the command that continues the run.
        quiet: show no progress bar.
        label: what the progress bar calls the run.
    """

    folder: Path
    run: Mapping[str, Any]
    save_every: int = 50
    sheet_every: int = 50
    resume_hint: str = "the same command with --resume"
    quiet: bool = False
    label: str = "fine-tuning"

    @property
    def state_path(self) -> Path:
        """The state file."""
        return self.folder / STATE_FILE

    def save(self, trainer: Trainer) -> None:
        """Save the state."""
        save_state(self.state_path, trainer, run=self.run)

    def sheet(self, trainer: Trainer) -> None:
        """Save a contact sheet of what has been learned so far."""
        contact_sheet(self.folder / f"sheet_{trainer.step_count:05d}.png", trainer.sheet())

    def train(self, trainer: Trainer, *, on_step: Callable[[Trainer], None] | None = None) -> None:
        """Run the steps that are left.

        Raises:
            Interrupted: after SIGINT, when the state is saved.
            ArithmeticError: see ``Trainer.step``, if going back and slowing down did not help; a trainer that can be slowed
                down is in its last good state then.
        """
        table = LossTable(self.folder / "losses.csv", trainer.terms)
        table.rewrite(trainer.history)
        if trainer.step_count == 0:
            for stale in self.folder.glob("sheet_*.png"):
                stale.unlink()
            self.save(trainer)
            self.sheet(trainer)
        total = trainer.total
        with stop_on_sigint() as flag, tqdm(total=total, initial=trainer.step_count, desc=self.label,
                                            disable=self.quiet) as bar:
            course = Course(trainer)
            while trainer.step_count < total:
                try:
                    values = trainer.step()
                except ArithmeticError as error:
                    course.go_back(error)
                    table.rewrite(trainer.history)
                    bar.n = trainer.step_count
                    continue
                course.kept_regularly()
                table.append(trainer.step_count - 1, values)
                bar.set_postfix_str(describe(trainer), refresh=False)
                bar.update(1)
                if on_step is not None:
                    on_step(trainer)
                if flag.raised:
                    self.save(trainer)
                    raise Interrupted(f"stopped after step {trainer.step_count} of {total}; state saved in {self.folder}. "
                                      f"Resume with: {self.resume_hint}")
                self._regular(trainer)
        self.save(trainer)
        self.sheet(trainer)
        plot_losses(self.folder / "losses.png", trainer.history)

    def _regular(self, trainer: Trainer) -> None:
        """Do what is due after a step that is not the last."""
        if trainer.step_count == trainer.total:
            return
        if self.save_every and trainer.step_count % self.save_every == 0:
            self.save(trainer)
        if self.sheet_every and trainer.step_count % self.sheet_every == 0:
            self.sheet(trainer)
            plot_losses(self.folder / "losses.png", trainer.history)


def describe(trainer: Trainer) -> str:
    """Return every loss term in one line; a term that is not computed in every step shows its last value."""
    parts = []
    for name in trainer.terms:
        known = [row[name] for row in trainer.history[-100:] if row[name] == row[name]]
        if known:
            parts.append(f"{name[:3] if len(name) > LONG else name} {known[-1]:.3g}")
    return ", ".join(parts)
