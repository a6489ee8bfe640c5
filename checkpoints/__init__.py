"""Weights: safe readers and writers, the manifest of official files, and the bundled starter."""

from checkpoints.io import CheckpointError, atomic_write, load_model, load_strict, read_torch, save_model
from checkpoints.paths import checkpoints_dir, starter_dir
from checkpoints.paths import find_style as find

__all__ = ["CheckpointError", "atomic_write", "checkpoints_dir", "find", "load_model", "load_strict", "read_torch",
           "save_model", "starter_dir"]
