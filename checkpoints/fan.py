"""From face-alignment's files to the network of ``models.fan``."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from checkpoints.inert import read_script
from checkpoints.io import CheckpointError, build_strict, check_file, check_state, read_torch
from models.fan import FAN, FANConfig


def load_fan(path: str | Path, *, device: torch.device | str = "cpu") -> FAN:
    """Load a face alignment network strictly: face-alignment's state dict, or its TorchScript archive as data.

    Raises:
        CheckpointError: in one line, if the file is absent, damaged or of another kind.
    """
    path = Path(path)
    check_file(path)
    state = read_script(path) if _is_script(path) else read_torch(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    check_state(str(path), state)
    try:
        config = FANConfig.from_keys(state, points=len(state["l0.weight"]) if "l0.weight" in state else 68)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; use the 2DFAN4 file of face-alignment") from error
    network = build_strict(lambda: FAN(config), state, what=str(path))
    return network.requires_grad_(False).eval().to(device)


def _is_script(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive: those hold their program beside the data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
