"""What a session asks of the runs that it trains, saves and resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Trainer(Protocol):
    """A run that can stop, save and go on at any step.

    Attributes:
        terms: names of the loss terms, in the order of the table.
        step_count: steps that are done.
        total: steps of the whole run.
        history: the terms of every step so far; NaN where a step did not compute one.
    """

    terms: Sequence[str]
    step_count: int
    history: list[dict[str, float]]

    @property
    def total(self) -> int: ...

    def step(self) -> dict[str, float]:
        """Do one step and return its terms; raises ``DivergedError``, before a weight changed, for what is not finite."""

    def sheet(self) -> dict[str, Tensor]:
        """Return labelled rows of images [N, 3, S, S] that show where the run is."""

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as tensors and plain values."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``; raises RuntimeError, KeyError, ValueError or TypeError where it does not fit."""
