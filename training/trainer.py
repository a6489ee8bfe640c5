"""What a session knows of what it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Trainer(Protocol):
    """Everything that a run changes, advanced by ``step``; each system has its own.

    Attributes:
        terms: names of what ``step`` returns, in the order of the table.
        total: steps of the whole run.
        step_count: steps that are done.
        history: what every step returned.
    """

    terms: tuple[str, ...]
    total: int
    step_count: int
    history: list[dict[str, float]]

    def step(self) -> dict[str, float]:
        """Train once and return the terms, NaN for those that this step does not compute; appends them to ``history``.

        Raises:
            ArithmeticError: if something is not finite; the last saved state stays good.
        """

    def sheet(self) -> Mapping[str, Tensor]:
        """Return labelled rows [N, 3, S, S] in [-1, 1] of a contact sheet, the same samples every time."""

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as tensors and plain values."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()`` of a trainer with the same settings and data.

        Raises:
            RuntimeError, KeyError, ValueError, TypeError: if the state does not fit.
        """
