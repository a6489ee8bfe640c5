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

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.stylegan2 import Generator
from training.config import FineTuneConfig
from training.finetune import Pair
from training.inversion import invert
from training.report import LossTable, contact_sheet, plot_losses
from training.state import STATE_FILE, save_state
from training.trainer import Trainer

SHORT = {"adversarial": "adv", "directional": "dir", "reference": "ref"}


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


def invert_pair(
    pair: Pair, generator: Generator, *, config: FineTuneConfig, w_init: Tensor, objective: nn.Module,
    quiet: bool = False,
) -> Tensor:
    """Return w_plus [2, L, D] of source and target under the base, both optimised in one pass.

    Args:
        pair: the references.
        generator: the base.
        config: ``inversion_steps``, ``inversion_lr`` and ``seed`` are used.
        w_init: start [1 or 2, L, D], the mean latent in the published schedule.
        objective: see ``losses.InversionLoss``.
        quiet: show no progress bar.
    """
    with tqdm(total=config.inversion_steps, desc="inverting the pair", disable=quiet) as bar:
        def progress(step: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(1)

        return invert(torch.cat([pair.source, pair.target]), generator, w_init=w_init, objective=objective,
                      steps=config.inversion_steps, lr=config.inversion_lr,
                      noise=torch.Generator().manual_seed(config.seed), progress=progress).w_plus


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

    def save(self, tuner: Trainer) -> None:
        """Save the state."""
        save_state(self.state_path, tuner, run=self.run)

    def sheet(self, tuner: Trainer) -> None:
        """Save a contact sheet of where the run is."""
        contact_sheet(self.folder / f"sheet_{tuner.step_count:05d}.png", tuner.sheet())

    def train(self, tuner: Trainer, *, on_step: Callable[[Trainer], None] | None = None) -> None:
        """Run the steps that are left.

        Raises:
            Interrupted: after SIGINT, when the state is saved.
            DivergedError: see ``Trainer.step``; the last saved state stays.
        """
        table = LossTable(self.folder / "losses.csv", tuner.terms)
        table.rewrite(tuner.history)
        if tuner.step_count == 0:
            for stale in self.folder.glob("sheet_*.png"):
                stale.unlink()
            self.save(tuner)
            self.sheet(tuner)
        total = tuner.total
        with stop_on_sigint() as flag, tqdm(total=total, initial=tuner.step_count, desc=self.label,
                                            disable=self.quiet) as bar:
            while tuner.step_count < total:
                values = tuner.step()
                table.append(tuner.step_count - 1, values)
                bar.set_postfix_str(describe(tuner), refresh=False)
                bar.update(1)
                if on_step is not None:
                    on_step(tuner)
                if flag.raised:
                    self.save(tuner)
                    raise Interrupted(f"stopped after step {tuner.step_count} of {total}; state saved in {self.folder}. "
                                      f"Resume with: {self.resume_hint}")
                self._regular(tuner)
        self.save(tuner)
        self.sheet(tuner)
        plot_losses(self.folder / "losses.png", tuner.history)

    def _regular(self, tuner: Trainer) -> None:
        """Do what is due after a step that is not the last."""
        if tuner.step_count == tuner.total:
            return
        if self.save_every and tuner.step_count % self.save_every == 0:
            self.save(tuner)
        if self.sheet_every and tuner.step_count % self.sheet_every == 0:
            self.sheet(tuner)
            plot_losses(self.folder / "losses.png", tuner.history)


def describe(tuner: Trainer) -> str:
    """Return every loss term in one line; a term that is not computed in every step shows its last value."""
    parts = []
    for name in tuner.terms:
        known = [row[name] for row in tuner.history[-100:] if row[name] == row[name]]
        if known:
            parts.append(f"{SHORT.get(name, name)} {known[-1]:.3g}")
    return ", ".join(parts)
