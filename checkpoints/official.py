"""Key names and shapes of the released files, so that a damaged one is told by the key that is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.io import CheckpointError

NEARLY = 5


@cache
def official_keys() -> dict[str, dict[str, dict[str, list[int]]]]:
    """Return file -> part -> key -> shape of the released base and style files."""
    return json.loads((Path(__file__).parent / "official_keys.json").read_text())


def misfits(state: Any, expected: Mapping[str, list[int]]) -> list[str]:
    """Return what differs between a state dict and the expected keys and shapes, one phrase per key."""
    if not isinstance(state, Mapping):
        return ["no state dict"]
    found = [f"missing {key}" for key in sorted(set(expected) - set(state))]
    found += [f"unexpected {key}" for key in sorted(set(map(str, state)) - set(expected))]
    for key, shape in expected.items():
        if key in state:
            got = list(state[key].shape) if isinstance(state[key], Tensor) else type(state[key]).__name__
            if got != list(shape):
                found.append(f"misshapen {key}: got {got}, expected {list(shape)}")
    return found


def check_official(path: Path, file: str, state: Mapping[str, Any], *, exact: bool) -> None:
    """Compare all parts of a loaded file with the released ``file``.

    Networks of other sizes, and parts that are not asked for, are legitimate unless ``exact``; a file that differs in
    only a few keys is a released one that is damaged.

    Raises:
        CheckpointError: naming the keys.
    """
    found = [f"part {part}: {phrase}" for part, expected in official_keys()[file].items()
             if exact or part in state for phrase in misfits(state.get(part), expected)]
    if found and (exact or len(found) <= NEARLY):
        raise CheckpointError(f"{path}: does not fit: {'; '.join(found[:NEARLY])}; get the file again")


def recognise(state: Any) -> str | None:
    """Return the kind of a loaded ``.pt`` or ``.pth``: base, style, encoder, lpips, alexnet, vit, or None."""
    if not isinstance(state, Mapping):
        return None
    names = set(map(str, state))
    if {"g_ema", "d"} <= names:
        return "base"
    if names == {"g", "stns", "rtstn"}:
        return "style"
    if {"state_dict", "latent_avg", "opts"} <= names:
        return "encoder"
    if "lin0.model.1.weight" in names:
        return "lpips"
    if {"features.0.weight", "classifier.1.weight"} <= names:
        return "alexnet"
    inner = state.get("teacher", state)
    if isinstance(inner, Mapping) and any(str(key).endswith("patch_embed.proj.weight") for key in inner):
        return "vit"
    return None


def describe_parts(state: Any) -> str:
    """Say in a few words what a loaded file holds, for messages."""
    known = {"base": "a base generator", "style": "a fine-tuned style", "encoder": "an e4e encoder",
             "lpips": "the heads of LPIPS", "alexnet": "AlexNet", "vit": "a vision transformer"}.get(recognise(state) or "")
    if known:
        return known
    if not isinstance(state, Mapping):
        return f"a {type(state).__name__}"
    names = sorted(map(str, state))
    return f"other content ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else "nothing"
