"""Files of editing directions: those that come with the starter, InterFaceGAN's and e4e's, and SeFa's of any generator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints.builders import Base
from checkpoints.io import CheckpointError, load_model, read_torch
from checkpoints.paths import checkpoints_dir, starter_dir
from models.edits import Direction, Edit, sefa

SUFFIXES = (".pt", ".pth", ".npy")
SEFA = re.compile(r"sefa(\d{1,3})")


def bundled_directions(base: Base) -> dict[str, Direction]:
    """Return the directions that were found for a generator by name, see ``data/make_edits.py``; none for another one.

    The file keeps the features of each as two factors, [C, K] and [K, R, R].

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = starter_dir() / "edits.safetensors"
    tensors, config = load_model(path, kind="edits")
    if config.get("generator") != base.fingerprint:
        return {}
    try:
        return {name: Direction(tensors[f"{name}.rows"], torch.einsum("ck,kyx->cyx", tensors[f"{name}.channels"],
                                                                      tensors[f"{name}.maps"])) for name in config["names"]}
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: lacks a direction that it names ({' '.join(str(error).split())[:80]}); get it again"
                              ) from error


def load_directions(edits: Sequence[Edit], base: Base) -> dict[str, Direction]:
    """Return the direction of every edit: a bundled name, ``sefa0`` and on, or a file.

    A name that is not bundled for this generator may be that of a file NAME.pt or NAME.npy in ``checkpoints/``, as e4e and
    InterFaceGAN give theirs.

    Raises:
        CheckpointError: in one line naming the edit.
    """
    if not edits:
        return {}
    bundled, found, last = bundled_directions(base), {}, base.generator.config.n_latent - 1
    for edit in edits:
        if edit.rows and edit.rows[1] > last:
            raise CheckpointError(f"--edit {edit.name}@{edit.rows[0]}-{edit.rows[1]}: the generator {base.name} has rows 0 to "
                                  f"{last}")
        name, rank = edit.name, SEFA.fullmatch(edit.name)
        files = [Path(name), *(checkpoints_dir() / f"{name}{suffix}" for suffix in SUFFIXES)]
        if name in bundled:
            found[name] = bundled[name]
        elif rank and int(rank[1]) < base.generator.config.style_dim:
            found[name] = Direction(sefa(base.generator, int(rank[1]) + 1)[-1])
        else:
            path = next((path for path in files if path.suffix in SUFFIXES and path.is_file()), None)
            if path is None:
                known = ", ".join([*sorted(bundled), "sefa0, sefa1, ..."])
                raise CheckpointError(f"--edit {name}: no such direction for the generator {base.name}; it has {known}; or "
                                      "name a file, .pt or .npy")
            found[name] = Direction(read_direction(path, base))
    return found


def read_direction(path: Path, base: Base) -> Tensor:
    """Return the direction [D] or [L, D] of a file: an array or tensor of [D], [1, D], [L, D] or [1, L, D].

    Raises:
        CheckpointError: if it holds something else, or a direction of another generator.
    """
    if path.suffix == ".npy":
        try:
            value = torch.from_numpy(np.asarray(np.load(path, allow_pickle=False), np.float32))
        except (OSError, ValueError, TypeError, EOFError) as error:
            reason = " ".join(str(error).split())[:80]
            raise CheckpointError(f"{path}: holds no array of numbers ({reason}); get it again") from error
    else:
        value = read_torch(path)
    width, rows = base.generator.config.style_dim, base.generator.config.n_latent
    if isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isfinite(value).all()):
        flat = value.detach().float().reshape(-1, value.shape[-1]) if value.ndim else value
        if list(flat.shape) in ([1, width], [rows, width]):
            return flat[0] if len(flat) == 1 else flat
    got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise CheckpointError(f"{path}: holds {got}, expected a direction [{width}] or [{rows}, {width}] of finite numbers")
