"""Pictures and seeds as values of controls, for kinds of styles that take a style from them."""

from __future__ import annotations

from pathlib import Path

from checkpoints.io import CheckpointError
from data.images import read_image
from styles.controls import Control, FileValue


def whole_seed(seed: float, control: Control) -> int:
    """Return the seed of a random style; raises CheckpointError, naming the control, for what is no seed."""
    if seed != int(seed) or not 0 <= seed < 2**63:
        raise CheckpointError(f"{control.option} {seed:g}: expected a whole number of at least 0")
    return int(seed)


def picture_value(path: str | Path) -> FileValue:
    """Return the value of a picture that a look names by its path; raises ImageError where it cannot be read."""
    read_image(path)
    return FileValue.read(path)
