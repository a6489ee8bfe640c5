"""What the stages share: networks and optimisers that stop, save and resume, on one machine or under torchrun."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.ema import update_average
from training.pretrain import common, parallel
from training.pretrain.common import WARM_IMAGES, Clock


class StageTrainer(ABC):
    """A stage: what it trains, by name, and one step of it.

    Attributes:
        networks, optimizers: all that is saved.
        averages: running averages, name of the network -> its average, which ``networks`` does not hold.
        facts: plain values that a resumed state must agree with.
        seen: images so far, of all processes.
        steps: iterations so far.
    """

    def __init__(self, *, facts: dict[str, Any], device: torch.device | str) -> None:
        self.device, self.facts = torch.device(device), facts
        self.networks: dict[str, nn.Module] = {}
        self.averages: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.seen = self.steps = 0

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Run one iteration and return its terms."""

    def advance(self, count: int, *, decay: float) -> None:
        """Count ``count`` images of every process and move the averages, fast at first."""
        self.seen, self.steps = self.seen + count * parallel.count(), self.steps + 1
        decay = min(decay, 1.0 - WARM_IMAGES / (self.seen + WARM_IMAGES))
        for name, average in self.averages.items():
            update_average(average, self.networks[name], decay)

    def update(self, loss: Tensor, optimizer: str, *modules: nn.Module) -> None:
        """Step an optimiser on the mean gradient of all processes.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the loss of {optimizer} is {float(loss)} after {self.seen} images; lower its rate")
        self.optimizers[optimizer].zero_grad(set_to_none=True)
        loss.backward()
        parallel.average_step(*modules)
        self.optimizers[optimizer].step()

    def state(self) -> dict[str, Any]:
        """Return all that resuming needs, as plain values and tensors."""
        parts = {"networks": self.networks, "averages": self.averages, "optimizers": self.optimizers}
        return {"facts": self.facts, "seen": self.seen, "steps": self.steps,
                **{part: {name: item.state_dict() for name, item in items.items()} for part, items in parts.items()}}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: if it was made with other networks or settings.
        """
        other = [name for name in sorted({*self.facts, *state["facts"]}) if self.facts.get(name) != state["facts"].get(name)]
        if other:
            raise ValueError(f"was trained with another {', '.join(other)}; begin in another folder, or delete it")
        for part in ("networks", "averages", "optimizers"):
            for name, item in getattr(self, part).items():
                item.load_state_dict(state[part][name])
        self.seen, self.steps = state["seen"], state["steps"]


class ResumeError(ValueError):
    """A saved state does not belong to this run; the message is one line that names its file."""


def resume(trainer: StageTrainer, path: Path) -> None:
    """Take over ``path`` where it is there, and give every process the weights of the first.

    Raises:
        ResumeError: if it was made with other settings.
    """
    try:
        common.resume(trainer, path)
    except ValueError as error:
        raise ResumeError(f"{path}: {error}") from error
    parallel.share(*trainer.networks.values(), *trainer.averages.values())


def run_stage(
    trainer: StageTrainer, path: Path, *, minutes: float, sheet: Callable[[], None] | None = None
) -> dict[str, float]:
    """Train on until ``minutes`` are over, saving now and then; returns images seen and smoothed terms.

    Args:
        trainer: as ``resume`` left it.
        path: of its state.
        minutes: wall-clock budget.
        sheet: draws pictures of the progress, called in the first process after every save.
    """
    terms = common.run_stage(trainer, lambda spent: trainer.step(), path, clock=Clock(minutes), report=sheet)
    if sheet is not None and parallel.leads():
        sheet()
    return {"images": trainer.seen, **terms}
