"""Reading the networks of deformable styles from files of either form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.io import CheckpointError, build_strict, check_finite, check_state, load_strict, read_config, take_vector
from checkpoints.official import check_official
from models.deformable import DeformableGenerator, configs_from_published
from models.spatial_transformer import SpatialTransformerConfig
from models.stylegan2 import Generator, GeneratorConfig


def own_deformable(path: Path, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> tuple[DeformableGenerator, Tensor]:
    """Return the network of a style's own file, and its w_avg [D]; CheckpointError for tensors that do not fit."""
    if (config.get("transformers") or {}).get("look"):
        raise CheckpointError(f"{path}: was trained by an older version, which drew otherwise; train the style anew")
    generator_config = read_config(path, config, "generator", GeneratorConfig.from_dict)
    transformers = read_config(path, config, "transformers", lambda values: SpatialTransformerConfig(**values))
    w_avg = take_vector(path, tensors, "w_avg", generator_config.style_dim)
    own = {name.removeprefix("g."): tensor for name, tensor in tensors.items() if name.startswith("g.")}
    generator = build_strict(lambda: Generator(generator_config), own, what=f"{path}: part g")
    deformable = _deform(path, generator, transformers)
    parts = {"stns.": deformable.tps, "rtstn.": deformable.affine}
    known = tuple(prefix for prefix, module in parts.items() if module is not None)
    strange = [name for name in tensors if not name.startswith(("g.", *known))]
    if strange:
        raise CheckpointError(f"{path}: does not fit: unexpected {', '.join(strange[:3])}; train the style anew")
    for prefix in known:
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        load_strict(parts[prefix], own, what=f"{path}: part {prefix[:-1]}")
    return deformable, w_avg


def _deform(path: Path, generator: Generator, transformers: SpatialTransformerConfig) -> DeformableGenerator:
    try:
        return DeformableGenerator(generator, transformers)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; get the file again or train the style anew") from error


def published_deformable(path: Path, state: Mapping[str, Mapping[str, Tensor]]) -> DeformableGenerator:
    """Return the network of a released file, ``{g, stns, rtstn}``; CheckpointError for one that is none."""
    check_official(path, "styleN.pt", state, exact=False)
    for part, tensors in state.items():
        check_state(f"{path}: part {part}", tensors)
        check_finite(f"{path}: part {part}", tensors)
    try:
        generator_config, transformer_config = configs_from_published(state)
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}; get the file again") from error
    generator = build_strict(lambda: Generator(generator_config), state["g"], what=f"{path}: part g")
    deformable = _deform(path, generator, transformer_config)
    for part, module in (("stns", deformable.tps), ("rtstn", deformable.affine)):
        load_strict(module, state[part], what=f"{path}: part {part}")
    return deformable
