"""From full style files to small ones, see ``styles.difference``."""

from __future__ import annotations

from pathlib import Path

from checkpoints.io import CheckpointError, load_model, save_model
from checkpoints.packed import PACKED
from styles.difference import FORM, LEVELS, deflated, packed
from styles.registry import kind_of


def pack_style(source: Path, output: Path) -> int:
    """Write the small form of a style; returns its size in bytes.

    Raises:
        CheckpointError: if ``source`` is no full style, its kind has no small form, or its base is not here.
    """
    tensors, config = load_model(source, kind="style")
    if config.get("form") == FORM:
        raise CheckpointError(f"{source}: is a difference already; copy the file instead")
    kind = kind_of(source, config)
    if not kind.levels:
        raise CheckpointError(f"{source}: is a style of the kind {kind.kind!r}, which has no smaller form; copy the file")
    known = kind.known(source, config)
    # Where the full form holds everything, what is missing would be filled in from the base unasked.
    missing = sorted(set(known) - set(tensors)) if kind.whole_files else []
    if missing:
        raise CheckpointError(f"{source}: does not fit its base: missing {', '.join(missing[:3])}; train the style anew")
    small, config = packed(tensors, known, levels=kind.levels), {**config, "form": FORM}
    if kind.levels < LEVELS:
        small, config[PACKED] = deflated(small)
    save_model(output, small, config)
    return output.stat().st_size
