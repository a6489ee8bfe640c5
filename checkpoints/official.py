"""Key names and shapes of the released files, so that a damaged one is told by the key that is wrong."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.io import CheckpointError

NEARLY = 5
PSP_TYPE = "GradualStyleEncoder"


@cache
def official_keys() -> dict[str, dict[str, dict[str, list[int]]]]:
    """Return file -> part -> key -> shape of the released base and style files, of all ``official_keys*.json``."""
    tables = sorted(Path(__file__).parent.glob("official_keys*.json"))
    return {file: parts for table in tables for file, parts in json.loads(table.read_text()).items()}


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


# What ``recognise`` tells -> in words.
CONTENTS = {
    "base": "a base generator", "style": "a fine-tuned style", "blend": "a generator that blends styles (BlendGAN)",
    "dual": "a generator of exemplar styles (DualStyleGAN)", "dual-sampler": "a sampler of exemplars (DualStyleGAN)",
    "style-encoder": "a style encoder (BlendGAN)", "encoder": "an e4e encoder", "psp": "a pSp encoder",
    "lpips": "the heads of LPIPS", "alexnet": "AlexNet", "vgg16": "VGG16", "vgg19": "VGG19", "arcface": "ArcFace's IR-SE50",
    "vit": "a vision transformer",
}


def recognise(state: Any) -> str | None:
    """Return the kind of a loaded ``.pt`` or ``.pth``, one of ``CONTENTS``, or None."""
    if not isinstance(state, Mapping):
        return None
    names = set(map(str, state))
    average = state.get("g_ema")
    if isinstance(average, Mapping) and {"add_weight", "embedding.1.weight"} & set(map(str, average)):
        return "blend"
    if isinstance(average, Mapping) and {"res.0.conv.0.weight", "generator.conv1.conv.weight"} <= set(map(str, average)):
        return "dual"
    if names == {"color", "structure"}:
        return "dual-sampler"
    if {"g_ema", "d"} <= names:
        return "base"
    if names == {"g", "stns", "rtstn"}:
        return "style"
    if "latent_avg" in names and ({"state_dict"} & names or "encoder.input_layer.0.weight" in names):
        return "encoder" if "opts" in names and encoder_type(state) != PSP_TYPE else "psp"
    if "embedder_mlp.0.weight" in names:
        return "style-encoder"
    if "lin0.model.1.weight" in names:
        return "lpips"
    if {"features.0.weight", "classifier.1.weight"} <= names:
        return "alexnet"
    if {"features.28.weight", "classifier.0.weight"} <= names:
        return "vgg19" if "features.34.weight" in names else "vgg16"
    if {"input_layer.0.weight", "output_layer.3.weight"} <= names:
        return "arcface"
    inner = state.get("teacher", state)
    if isinstance(inner, Mapping) and any(str(key).endswith("patch_embed.proj.weight") for key in inner):
        return "vit"
    return None


def options_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options that a released encoder's file holds as a mapping; empty where it holds none."""
    opts = state.get("opts")
    return vars(opts) if isinstance(opts, Namespace) else opts if isinstance(opts, Mapping) else {}


def encoder_type(state: Mapping[str, Any]) -> str:
    """Return the class that the options name; the keys of pSp and e4e are the same, so that they do not tell."""
    return str(options_of(state).get("encoder_type", ""))


def describe_parts(state: Any) -> str:
    """Say in a few words what a loaded file holds, for messages."""
    known = CONTENTS.get(recognise(state) or "")
    if known:
        return known
    if not isinstance(state, Mapping):
        return f"a {type(state).__name__}"
    names = sorted(map(str, state))
    return f"other content ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else "nothing"
