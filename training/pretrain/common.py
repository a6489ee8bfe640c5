"""What every pretraining stage shares: a clock, atomic resumable state, averages of weights, random faces."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from checkpoints.builders import load_base, load_encoder
from checkpoints.io import atomic_write, load_model
from training.ema import update_average as update_average
from training.mixed import training_dtype
from training.pretrain import parallel
from training.pretrain.faces import FacePack, is_photo_name
from training.report import plot_losses
from training.session import Interrupted, stop_on_sigint

# A running average of fewer images than that has forgotten its start.
WARM_IMAGES = 16.0


class MissingStageError(ValueError):
    """An earlier stage has not been run, or with other weights; the message names its file."""


class Clock:
    """Budget of wall-clock seconds that says when to save and when to stop.

    Several processes live by the clock of the first one, which they read in ``done``, once per step: all stop after the
    same step, and schedules over ``fraction`` agree.
    """

    def __init__(self, minutes: float, *, save_every: float = 180.0) -> None:
        self.start = self.saved = time.monotonic()
        self.budget, self.save_every = minutes * 60.0, save_every
        self._agreed = 0.0

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, capped at 1; among several processes as of the last ``done``."""
        return self._agreed if parallel.count() > 1 else self._spent()

    def _spent(self) -> float:
        return min((time.monotonic() - self.start) / self.budget, 1.0) if self.budget > 0.0 else 1.0

    def done(self) -> bool:
        """True when the budget is spent; every process must ask once per step."""
        self._agreed = parallel.first_value(self._spent())
        return self._agreed >= 1.0

    def stop(self) -> None:
        """Spend the rest of the budget at once; among several processes the first one's word counts."""
        self.budget = 0.0

    def should_save(self) -> bool:
        """True at most once per ``save_every`` seconds, and only in the first process."""
        if not parallel.leads() or time.monotonic() - self.saved < self.save_every:
            return False
        self.saved = time.monotonic()
        return True


class Resumable(Protocol):
    """What ``run_stage`` trains: it counts the images that it has seen, and gives and takes its state."""

    seen: int

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...


class PretrainStage:
    """A stage of one optimiser.

    Attributes:
        parts: names of the attributes, networks and the optimiser, that are saved.
        seen: images so far, of all processes.
    """

    parts: tuple[str, ...] = ("network", "average", "optimizer")
    optimizer: torch.optim.Optimizer
    seen = 0

    def state(self) -> dict[str, Any]:
        """Return what ``load`` takes."""
        return {name: getattr(self, name).state_dict() for name in self.parts} | {"seen": self.seen}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        self.seen = state["seen"]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def descend(self, loss: Tensor, *networks: nn.Module, images: int, most: float = math.inf) -> None:
        """Step along the gradient of a loss, averaged over all processes, and count the images.

        Args:
            loss: scalar.
            networks: all that is trained.
            images: in the batch of each process.
            most: length to which the last network's gradient is cut.
        """
        self.optimizer.zero_grad()
        loss.backward()
        parallel.average_step(*networks)
        if most < math.inf:
            nn.utils.clip_grad_norm_(networks[-1].parameters(), most)
        self.optimizer.step()
        self.seen += images * parallel.count()

    def warm(self, decay: float) -> float:
        """Return the decay of a running average, which is less while few images have been seen."""
        return min(decay, 1.0 - WARM_IMAGES / (self.seen + WARM_IMAGES))


def resume(trainer: Resumable, path: Path) -> bool:
    """Let a trainer take over the state at ``path``; returns whether there is one."""
    saved = load_state(path)
    if saved is not None:
        trainer.load(saved)
    return saved is not None


def run_stage(
    trainer: Resumable, step: Callable[[float], dict[str, float]], path: Path, *, clock: Clock,
    report: Callable[[], Any] | None = None, finish: Callable[[], Any] | None = None,
) -> dict[str, float]:
    """Step a trainer until the clock is done or SIGINT comes, saving its state now and then and at the end.

    With every save the smoothed terms go into a table beside the state, ``STAGE.csv``, and into a plot, ``STAGE_terms.png``.

    Args:
        trainer: what is trained.
        step: runs one iteration, given the share of the budget that is spent, and returns its terms.
        path: of the state; the stage is called as it.
        clock: the budget.
        report: called in the first process after every save but the last; what it returns is printed.
        finish: called in every process before the last save.

    Returns:
        The smoothed terms.

    Raises:
        Interrupted: after SIGINT, when the state is saved.
    """
    terms: dict[str, float] = {}
    kept = Terms(path)
    with stop_on_sigint() as flag, tqdm(desc=path.stem.replace("_", " "), unit="img", mininterval=1.0,
                                        disable=not parallel.leads()) as bar:
        while not clock.done():
            before = trainer.seen
            for name, value in step(clock.fraction).items():
                terms[name] = 0.95 * terms.get(name, value) + 0.05 * value
            bar.update(trainer.seen - before)
            bar.set_postfix({name: f"{value:.4f}" for name, value in terms.items()}, refresh=False, seen=trainer.seen)
            if flag.raised:
                clock.stop()
            elif clock.should_save():
                save_state(path, trainer.state())
                kept.add(trainer.seen, terms)
                found = None if report is None else report()
                if found is not None:
                    print(found, flush=True)
    if finish is not None and not flag.raised:
        finish()
    if parallel.leads():
        save_state(path, trainer.state())
        kept.add(trainer.seen, terms)
    if flag.raised:
        raise Interrupted(f"stopped after {trainer.seen} images; state saved in {path}; the same command goes on")
    return terms


class Terms:
    """The table of a stage's smoothed terms, one row per save, and its plot; a stage that goes on adds to them.

    Args:
        path: of the stage's state.
    """

    def __init__(self, path: Path) -> None:
        self.table, self.plot = path.with_suffix(".csv"), path.with_name(f"{path.stem}_terms.png")

    def add(self, seen: int, terms: dict[str, float]) -> None:
        """Add a row; a stage that has done nothing adds none."""
        if not terms:
            return
        rows: list[dict[str, float]] = []
        if self.table.exists():
            with open(self.table, newline="") as file:
                rows = [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
        # What was done after the last saved state and then lost is done anew.
        rows = [*(row for row in rows if row["images"] < seen), {"images": float(seen), **terms}]
        names = dict.fromkeys(name for row in rows for name in row)
        rows = [{name: row.get(name, math.nan) for name in names} for row in rows]
        with atomic_write(self.table) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            writer.writerows(rows)
        plot_losses(self.plot, [{name: value for name, value in row.items() if name != "images"} for row in rows])


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Return the saved state on the CPU, or None where there is none."""
    return torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None


def require_state(path: Path) -> dict[str, Any]:
    """Return the state that an earlier stage saved; raises MissingStageError when there is none."""
    state = load_state(path)
    if state is None:
        raise MissingStageError(f"{path}: not found; run the {path.stem} stage first")
    return state


def starter_weights(folder: Path) -> dict[str, Any]:
    """Return generator and encoder of starter files as the gan stage's state names them, and the images seen."""
    path = folder / "generator.safetensors"
    _, config = load_model(path, kind="generator")
    return {"g_average": load_base(path).generator.state_dict(),
            "e_average": load_encoder(folder / "encoder.safetensors").module.state_dict(),
            "seen": int(config.get("images", 0))}


def half_precision(device: torch.device) -> torch.autocast:
    """Return autocast to bfloat16 where that is faster: on GPUs and on CPUs with matrix units."""
    enabled = device.type != "cpu" or training_dtype("auto", device) == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


class RandomFaces:
    """Endless random batches of the training split, mirrored half of the time; every process draws others.

    Args:
        pack: the faces.
        seed: of ``rng``, which lives on the CPU.
        photo_share: how many of the faces are photos, in [0, 1], where there are any; None draws all faces alike.
        device: where the batches are wanted.
    """

    def __init__(
        self, pack: FacePack, *, seed: int, photo_share: float | None = None, device: torch.device | str = "cpu",
    ) -> None:
        self.pack, self.device = pack, torch.device(device)
        self.train, self.held = pack.split()
        is_photo = torch.tensor([is_photo_name(pack.names[i]) for i in self.train.tolist()])
        mixed = photo_share is not None and 0 < int(is_photo.sum()) < len(is_photo)
        self.photo_share = photo_share if mixed else None
        self.photos, self.others = self.train[is_photo], self.train[~is_photo]
        self.rng = torch.Generator().manual_seed(seed + 1_000_000_007 * parallel.rank())

    def __call__(self, n: int) -> Tensor:
        """Return [n, 3, S, S] in [-1, 1]."""
        return self.images(*self.choose(n))

    def choose(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the numbers [n] of random faces in the pack, and whether each is mirrored, [n] bool."""
        index = self._draw(self.train, n)
        if self.photo_share is not None:
            chosen = torch.rand(n, generator=self.rng) < self.photo_share
            index = torch.where(chosen, self._draw(self.photos, n), self._draw(self.others, n))
        return index, torch.rand(n, generator=self.rng) < 0.5

    def images(self, index: Tensor, flip: Tensor) -> Tensor:
        """Return the faces [n, 3, S, S] in [-1, 1] that ``choose`` has drawn."""
        return self.pack.batch(index, flip=flip).to(self.device)

    def _draw(self, faces: Tensor, n: int) -> Tensor:
        return faces[torch.randint(len(faces), (n,), generator=self.rng)]

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, drawn on the CPU so that a seed means one run on every device."""
        return torch.randn(*shape, generator=self.rng).to(self.device)
