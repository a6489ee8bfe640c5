"""Small style files: what a fine-tuned generator differs by from its base, in 8 bits.

A tensor that equals the base's is left out. Of the others the file holds d = t - base (or t itself, where the base has no
such tensor) as round(d / s) with s = max |d| / 127 for every output channel, and small ones as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.builders import Base, load_base
from checkpoints.io import CheckpointError, load_model, read_config, save_model
from models.spatial_transformer import SpatialTransformerConfig, build_affine, build_tps

FORM = "difference"
SCALE = "scale|"
# Below this many numbers a tensor is kept as it is: biases, last layers and the latent weigh little and count much.
SMALL = 8192
LEVELS = 127


def quantized(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values [1, O, ...] or [O, ...] as int8 of the same shape, and a float32 scale per output channel."""
    channel = 1 if values.shape[0] == 1 and values.ndim > 1 else 0
    others = [axis for axis in range(values.ndim) if axis != channel]
    scale = values.abs().amax(dim=others, keepdim=True) / LEVELS
    return torch.round(values / scale.clamp(min=1e-30)).to(torch.int8), scale


def known_tensors(base: Base, transformers: SpatialTransformerConfig) -> dict[str, Tensor]:
    """Return the tensors that a difference is taken from: the base's, its w_avg, and the transformers' fixed lattices."""
    known = {"w_avg": base.w_avg, **{f"g.{name}": tensor for name, tensor in base.generator.state_dict().items()}}
    for prefix, wanted, build in (("stns.", transformers.tps, build_tps), ("rtstn.", transformers.affine, build_affine)):
        if wanted:
            module = build(transformers)
            state = module.state_dict()
            known |= {prefix + name: state[name] for name, _ in module.named_buffers() if name in state}
    return {name: tensor.detach().cpu() for name, tensor in known.items()}


def packed(tensors: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the small form of a style's tensors, given those that every reader has; see ``unpacked``."""
    small: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        base = known.get(name)
        if base is not None and torch.equal(base, tensor):
            continue
        if tensor.numel() <= SMALL or not tensor.is_floating_point():
            small[name] = tensor
            continue
        whole = tensor if base is None else tensor - base
        small[name], small[SCALE + name] = quantized(whole)
    return small


def unpacked(small: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a style's tensors from their small form; raises ValueError where the two do not fit."""
    tensors = dict(known)
    for name, tensor in small.items():
        if name.startswith(SCALE):
            continue
        scale, base = small.get(SCALE + name), known.get(name)
        if scale is None:
            tensors[name] = tensor
            continue
        if base is not None and base.shape != tensor.shape:
            raise ValueError(f"{name} is {list(tensor.shape)}, the base has {list(base.shape)}")
        try:
            whole = tensor.float() * scale
        except RuntimeError as error:
            raise ValueError(f"the scale of {name} is {list(scale.shape)} for {list(tensor.shape)}") from error
        tensors[name] = whole if base is None else base + whole
    return tensors


def base_of_config(path: Path, config: Mapping[str, Any]) -> Base:
    """Return the base that a style was trained from, on the CPU.

    Raises:
        CheckpointError: if it is not here, or is not the same as then.
    """
    named = config.get("base") or {}
    if not isinstance(named, Mapping) or not named.get("name") or not named.get("fingerprint"):
        raise CheckpointError(f"{path}: does not say from which base it was trained; train the style anew")
    try:
        base = load_base(str(named["name"]))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: is a difference to the base {named['name']!r}, which cannot be read: {error}"
                              ) from error
    if base.fingerprint != named["fingerprint"]:
        raise CheckpointError(f"{path}: is a difference to a base {named['name']!r} of fingerprint {named['fingerprint']}, "
                              f"but the one here is {base.fingerprint}; get that base, or train the style anew")
    return base


def pack_style(source: Path, output: Path) -> int:
    """Write the small form of a style that ``train.py`` made; returns its size in bytes.

    Raises:
        CheckpointError: if ``source`` is no full style, or its base is not here.
    """
    tensors, config = load_model(source, kind="style")
    if config.get("form") == FORM:
        raise CheckpointError(f"{source}: is a difference already; copy the file instead")
    if config.get("style_kind", "deformable") != "deformable":
        raise CheckpointError(f"{source}: is a style of the kind {config['style_kind']!r}; only deformable ones can be packed")
    transformers = read_config(source, config, "transformers", lambda values: SpatialTransformerConfig(**values))
    known = known_tensors(base_of_config(source, config), transformers)
    # The full form holds everything, so what is missing would be filled in from the base unasked.
    missing = sorted(set(known) - set(tensors))
    if missing:
        raise CheckpointError(f"{source}: does not fit its base: missing {', '.join(missing[:3])}; train the style anew")
    save_model(output, packed(tensors, known), {**config, "form": FORM})
    return output.stat().st_size


def full_tensors(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return all tensors of a style file, whichever its form.

    Raises:
        CheckpointError: for another form, another base, or tensors that do not fit it.
    """
    form = config.get("form", "full")
    if form == "full":
        return dict(tensors)
    if form != FORM:
        raise CheckpointError(f"{path}: is a style of the form {form!r}, known are full and {FORM}; get a newer version of "
                              "this project")
    transformers = read_config(path, config, "transformers", lambda values: SpatialTransformerConfig(**values))
    try:
        return unpacked(tensors, known_tensors(base_of_config(path, config), transformers))
    except ValueError as error:
        raise CheckpointError(f"{path}: does not fit its base: {error}; get the file again") from error
