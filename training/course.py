"""Runs that leave their course: noticing it, going back, and going on more slowly."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Protocol, runtime_checkable

from training.trainer import Trainer

KEEP_EVERY = 10
MOST_RETURNS = 3
SLOWER = 0.5
# A term counts as running away where its median over the last steps is this many times its best such median: of a few faces
# in a batch one whose landmarks are not found makes a term jump for a step.
RUNAWAY = 2.0
WINDOW = 5


@runtime_checkable
class Slowable(Protocol):
    """A trainer whose rates can be lowered."""

    def slow_down(self, factor: float) -> None:
        """Multiply every learning rate; part of the trainer's state from then on."""


def runaway(
    history: Sequence[Mapping[str, float]], names: Sequence[str], *, calm: Mapping[str, float] | None = None
) -> str | None:
    """Return the name of a term that has grown to twice its best median over five steps, or None.

    Args:
        history: terms by step.
        names: of the terms that are watched.
        calm: values up to which a term may grow as it likes, by name.
    """
    for name in names:
        values = [row[name] for row in history if row[name] == row[name]]
        middle = [median(values[i - WINDOW:i]) for i in range(WINDOW, len(values) + 1)]
        most = max((calm or {}).get(name, 0.0), RUNAWAY * min(middle, default=0.0), *middle[:1])
        if len(middle) > 1 and middle[-1] > most:
            return name
    return None


class Course:
    """The last good state of a run, to which it returns when a step fails; only for trainers that can be slowed down.

    Args:
        trainer: the run.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.returns = trainer, 0
        self.good: dict[str, Any] | None = None
        self.keep()

    def keep(self) -> None:
        """Remember the present state."""
        if isinstance(self.trainer, Slowable):
            self.good = copy.deepcopy(self.trainer.state())

    def kept_regularly(self) -> None:
        """Remember the state after every tenth step."""
        if self.trainer.step_count % KEEP_EVERY == 0:
            self.keep()

    def go_back(self, error: ArithmeticError) -> None:
        """Return to the last good state with half the rates, and say so.

        Raises:
            ArithmeticError: the given one, with the trainer back in its last good state, after three returns in one run or
                where the trainer cannot be slowed down.
        """
        if self.good is None:
            raise error
        self.trainer.load_state(copy.deepcopy(self.good))
        self.returns += 1
        if self.returns > MOST_RETURNS:
            raise error
        self.trainer.slow_down(SLOWER)
        self.keep()  # with the lower rates, so that another return lowers them again
        print(f"\n{' '.join(str(error).split())}; going back to step {self.trainer.step_count} with {SLOWER:g} of the rates",
              file=sys.stderr)
