"""Small style files: what a trained style differs by from networks that every reader has, in 8 bits or fewer.

A tensor that equals the known one is left out. Of the others the file holds d = t - known (or t itself, where there is no
known one) as round(d / s) with s = max |d| / levels for every output channel, and small ones as they are. With fewer levels
than 8 bits give, the rounded numbers of all tensors are deflated into one tensor of bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints.builders import Base, load_base
from checkpoints.io import CheckpointError
from checkpoints.packed import PACKED
from styles.protocol import Style

FORM = "difference"
SCALE = "scale|"
# Below this many numbers a tensor is kept as it is: biases, last layers and the latent weigh little and count much.
SMALL = 8192
LEVELS = 127


def quantized(values: Tensor, levels: int = LEVELS) -> tuple[Tensor, Tensor]:
    """Return values [1, O, ...] or [O, ...] as int8 of the same shape, and a float32 scale per output channel."""
    channel = 1 if values.shape[0] == 1 and values.ndim > 1 else 0
    others = [axis for axis in range(values.ndim) if axis != channel]
    scale = values.abs().amax(dim=others, keepdim=True) / levels
    return torch.round(values / scale.clamp(min=1e-30)).to(torch.int8), scale


def packed(tensors: Mapping[str, Tensor], known: Mapping[str, Tensor], *, levels: int = LEVELS) -> dict[str, Tensor]:
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
        small[name], small[SCALE + name] = quantized(whole, levels)
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


def deflated(small: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return a small form whose rounded tensors are one tensor of bytes, ``PACKED``, and their shapes by name."""
    names = sorted(name for name, tensor in small.items() if tensor.dtype == torch.int8)
    # Rounded weights repeat in no order: their frequencies are all that there is to gain from.
    coder = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    data = b"".join(coder.compress(small[name].contiguous().numpy().tobytes()) for name in names) + coder.flush()
    others = {name: tensor for name, tensor in small.items() if name not in names}
    shapes = {name: list(small[name].shape) for name in names}
    return {**others, PACKED: torch.from_numpy(np.frombuffer(data, np.uint8).copy())}, shapes


def inflated(small: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Return the small form that ``deflated`` had; raises ValueError where the bytes are damaged or of other shapes."""
    tensors, expected = dict(small), sum(prod(shape) for shape in shapes.values())
    data, reader = tensors.pop(PACKED, torch.empty(0)), zlib.decompressobj()
    if data.dtype != torch.uint8:
        raise ValueError("its packed weights are missing")
    try:
        # Bounded, since a file of a few bytes must not fill the memory while it is opened.
        raw = reader.decompress(data.numpy().tobytes(), expected + 1)
    except zlib.error as error:
        raise ValueError(f"its packed weights are damaged ({error})") from error
    if len(raw) != expected or not reader.eof:
        raise ValueError("its packed weights are of another length")
    start, values = 0, torch.frombuffer(bytearray(raw), dtype=torch.int8)
    for name in sorted(shapes):
        count = prod(shapes[name])
        tensors[name], start = values[start:start + count].reshape(shapes[name]), start + count
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


def full_tensors(kind: type[Style], path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return all tensors of a style file of a kind, whichever its form.

    Raises:
        CheckpointError: for another form, another base, or tensors that do not fit it.
    """
    form = config.get("form", "full")
    if form == "full":
        return dict(tensors)
    if form != FORM:
        raise CheckpointError(f"{path}: is a style of the form {form!r}, known are full and {FORM}; get a newer version of "
                              "this project")
    known = kind.known(path, config)
    try:
        if PACKED in config:
            tensors = inflated(tensors, config[PACKED])
        return unpacked(tensors, known)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: does not fit its base: {error}; get the file again") from error
