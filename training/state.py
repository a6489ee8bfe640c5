"""The saved state of a training run: one file, replaced as a whole, that holds only tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from checkpoints.io import CheckpointError, atomic_write, load_model, read_torch
from training.config import FineTuneConfig
from training.finetune import Pair
from training.trainer import Trainer

KIND, FORMAT = "training-state", 1
STATE_FILE = "state.pt"


def save_state(path: Path, tuner: Trainer, *, run: Mapping[str, Any]) -> None:
    """Write the tuner's state atomically.

    Whenever the process is killed, the file is the previous state or this one, never part of one.

    Args:
        path: the file.
        tuner: whose state is saved.
        run: facts of the run (names of style and base, digests) that a resumed run needs.

    Raises:
        CheckpointError: if the folder cannot be written to.
    """
    payload = {"kind": KIND, "format": FORMAT, "run": dict(run), "tuner": tuner.state()}
    with atomic_write(path) as temporary:
        torch.save(payload, temporary)


def read_run(path: Path) -> dict[str, Any]:
    """Read a state file of any trainer and remove what a killed save left beside it.

    Returns:
        {"run": facts, "tuner": state, "path": path}.

    Raises:
        CheckpointError: if the file is missing, damaged or of another kind.
    """
    payload = read_torch(path)
    if not isinstance(payload, dict) or payload.get("kind") != KIND:
        raise CheckpointError(f"{path}: holds no training state; start again without --resume")
    if payload.get("format") != FORMAT:
        raise CheckpointError(f"{path}: has format {payload.get('format')}, expected {FORMAT}; start again without --resume")
    if not isinstance(payload.get("tuner"), dict) or not isinstance(payload.get("run"), dict):
        raise CheckpointError(f"{path}: is no complete training state; start again without --resume")
    for leftover in path.parent.glob(f".{path.name}.*.part"):
        leftover.unlink(missing_ok=True)
    return {"run": payload["run"], "tuner": payload["tuner"], "path": path}


def read_state(path: Path) -> dict[str, Any]:
    """Read the state file of a fine-tuning run, see ``read_run``.

    Returns:
        {"run": facts, "tuner": state, "config": FineTuneConfig, "pair": Pair, "latents": [2, L, D], "path": path}.

    Raises:
        CheckpointError: if the file is missing, damaged or of another kind.
    """
    found = read_run(path)
    try:
        tuner = found["tuner"]
        return {**found, "config": FineTuneConfig.from_dict(tuner["config"]), "pair": Pair(**tuner["pair"]),
                "latents": tuner["latents"]}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is no complete training state ({error}); start again without --resume") from error


def restore(tuner: Trainer, state: Mapping[str, Any]) -> None:
    """Load the state of ``read_run`` or ``read_state`` into a trainer built for it.

    Raises:
        CheckpointError: if it does not fit the tuner's networks.
    """
    try:
        tuner.load_state(state["tuner"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{state['path']}: does not fit this run ({reason}); start again without --resume") from error


def refuse_existing(output: Path, folder: Path) -> None:
    """Raise CheckpointError if a style or a run lies where a new one would be written."""
    if output.exists():
        raise CheckpointError(f"{output}: this style exists; choose another --style, or --overwrite it")
    if (folder / STATE_FILE).exists():
        raise CheckpointError(f"{folder}: holds a run already; continue it with --resume, or --overwrite it")


def refuse_other_run(output: Path, digest: str) -> None:
    """Raise CheckpointError if a style file exists that comes from another run than the one with this digest."""
    if not output.exists():
        return
    _, config = load_model(output, kind="style")
    if config.get("training", {}).get("run") != digest:
        raise CheckpointError(f"{output}: comes from another run; choose another --style, or --overwrite it")
