"""From style files to styles: which kind a file holds, and who loads that kind."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from checkpoints.io import CONFIG_KEY, CheckpointError, check_file, load_model, peek_torch, read_torch
from checkpoints.official import describe_parts, recognise
from checkpoints.paths import find_style
from styles.controls import Control
from styles.difference import full_tensors
from styles.protocol import Style

# Modules of further kinds, separated by commas; each calls ``register`` when it is imported.
PLUGINS = "STYLE_KINDS"
# Files of older versions do not name their kind: they hold the first.
KINDS: dict[str, str | type[Style]] = {"deformable": "styles.deformable:DeformableStyle", "blend": "styles.blend:BlendStyle",
                                       "picture": "styles.picture:PictureStyle",
                                       "dual": "styles.dualstyle:DualStyle", "modify": "styles.modify:ModifyStyle"}
FIRST = "deformable"
# Tabs of the page for what is no kind of style: title -> its maker.
TABS = {"Expression": "projection.page:expression_tab"}
# What a released file holds, by ``checkpoints.official.recognise`` -> the kind that reads it.
RELEASED = {"style": "deformable", "blend": "blend", "dual": "dual"}


def register(kind: type[Style]) -> type[Style]:
    """Make a kind known under ``kind.kind``; usable as a decorator."""
    KINDS[kind.kind] = kind
    return kind


def kind_named(name: str, *, path: str | Path = "") -> type[Style]:
    """Return the class of a kind; raises CheckpointError, naming the file, where it is not known."""
    if name not in KINDS:
        for module in filter(None, os.environ.get(PLUGINS, "").split(",")):
            try:
                importlib.import_module(module.strip())
            except ImportError as error:
                raise CheckpointError(f"${PLUGINS}: {module}: cannot be imported ({error}); correct the variable") from error
    found = KINDS.get(name)
    if found is None:
        raise CheckpointError(f"{path}: holds a style of the kind {name!r}, which is not known here; known are "
                              f"{', '.join(sorted(KINDS))}; get a newer version of this project")
    return named_function(found) if isinstance(found, str) else found


def named_function(text: str) -> Any:
    """Return what ``MODULE:NAME`` names."""
    module, _, attribute = text.partition(":")
    return getattr(importlib.import_module(module), attribute)


def kind_of(path: Path, config: dict[str, Any]) -> type[Style]:
    """Return the class that a style file's config names."""
    return kind_named(str(config.get("style_kind", FIRST)), path=path)


def load_style(text: str | Path, *, device: torch.device | str = "cpu") -> Style:
    """Load a style by name or path, or mix several by a recipe such as ``a:0.7,b:0.3``.

    Raises:
        CheckpointError: if a file is absent, damaged or of another kind, or the styles cannot be mixed.
    """
    recipe = None if Path(str(text)[:255]).is_file() else parse_recipe(str(text))
    if recipe is None:
        return _load(find_style(text), torch.device(device))
    return mix_styles([load_style(name, device=device) for name, _ in recipe], [weight for _, weight in recipe])


def _load(path: Path, device: torch.device) -> Style:
    if path.suffix == ".safetensors":
        tensors, config = load_model(path, kind="style")
        kind = kind_of(path, config)
        return kind.load(path, full_tensors(kind, path, tensors, config), config, device=device)
    state = read_torch(path)
    released = RELEASED.get(recognise(state) or "")
    if released is None:
        raise CheckpointError(f"{path}: holds {describe_parts(state)}, but a style is needed here; name a style file")
    return kind_named(released).load_released(path, state, device=device)


def controls_of(text: str | Path) -> tuple[Control, ...]:
    """Return the controls of the style that ``text`` names, of the first one of a mixture, without reading its numbers.

    Raises:
        CheckpointError: if there is no such style, or its file is damaged.
    """
    recipe = None if Path(str(text)[:255]).is_file() else parse_recipe(str(text))
    path = find_style(recipe[0][0] if recipe else text)
    if path.suffix != ".safetensors":
        return kind_named(RELEASED.get(recognise(peek_torch(path)) or "", FIRST)).released_controls(path)
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            config, names = json.loads((file.metadata() or {}).get(CONFIG_KEY, "null")), list(file.keys())
    except (SafetensorError, json.JSONDecodeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: not an intact safetensors file ({error}); get it again") from error
    if not isinstance(config, dict) or config.get("kind") != "style":
        load_model(path, kind="style")  # says what is wrong
    return kind_of(path, config).controls_of(config, names)


def parse_recipe(text: str) -> list[tuple[str, float]] | None:
    """Return the (style, weight) pairs of a recipe, or None where ``text`` is a plain name or path.

    Raises:
        CheckpointError: for weights that are negative or all 0.
    """
    pairs = []
    for part in text.split(","):
        name, colon, number = part.strip().rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            return None
        if not colon or not name:
            return None
        pairs.append((name, weight))
    if not all(math.isfinite(weight) and weight >= 0 for _, weight in pairs) or not any(weight for _, weight in pairs):
        raise CheckpointError(f"--style {text}: the weights of a mixture must be 0 or more and not all 0")
    return pairs


def mix_styles(styles: Sequence[Style], weights: Sequence[float]) -> Style:
    """Return a mixture of styles of one kind; weights are scaled to sum 1.

    Raises:
        CheckpointError: if they were not trained from one base, or are of different kinds or shapes.
    """
    names, total = ", ".join(style.name for style in styles), sum(weights)
    if len({(style.config.get("base") or {}).get("fingerprint") for style in styles}) > 1:
        raise CheckpointError(f"{names}: were trained from different bases, so they cannot be mixed")
    if len({style.kind for style in styles}) > 1:
        raise CheckpointError(f"{names}: are styles of different kinds, so they cannot be mixed")
    return type(styles[0]).mix(styles, [weight / total for weight in weights])
