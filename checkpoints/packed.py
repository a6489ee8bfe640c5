"""Weights whose values repeat, compressed without loss into one tensor of bytes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints.io import CheckpointError

PACKED = "packed"


def _reversed(tensor: Tensor) -> Tensor:
    """Return a tensor [A, ..., Z] as [Z, ..., A], contiguous."""
    return tensor.permute(*reversed(range(tensor.ndim))).contiguous()


def pack_half(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return tensors as bytes [n], uint8: float16 values in the order of their names, deflated.

    Dimensions are reversed, since what repeats in a filter is then found nearer to each other.

    Raises:
        ValueError: where float16 does not hold a value exactly.
    """
    parts = []
    for name in sorted(tensors):
        value = _reversed(tensors[name].detach().cpu())
        half = value.half()
        if not torch.equal(half.to(value.dtype), value):
            raise ValueError(f"{name} holds values that float16 rounds, so it cannot be packed without loss")
        parts.append(half.numpy().astype("<f2").tobytes())
    packed = zlib.compress(b"".join(parts), level=9)
    return torch.from_numpy(np.frombuffer(packed, dtype=np.uint8).copy())


def unpack_half(path: Path, packed: Tensor | None, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``pack_half`` packed, as float32.

    Args:
        path: the file, for messages.
        packed: its bytes [n].
        like: tensors of the names and shapes that are expected; they may be on the meta device.

    Raises:
        CheckpointError: if the bytes are absent, damaged, or of other tensors.
    """
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or packed.ndim != 1:
        raise CheckpointError(f"{path}: has no packed weights inside; get the file again")
    expected = 2 * sum(tensor.numel() for tensor in like.values())
    reader = zlib.decompressobj()
    try:
        # Bounded, since a file of a few bytes must not fill the memory while it is opened.
        data = reader.decompress(packed.numpy().tobytes(), expected + 1)
    except zlib.error as error:
        raise CheckpointError(f"{path}: its packed weights are damaged ({error}); get the file again") from error
    if len(data) != expected or not reader.eof:
        got = "more" if len(data) > expected else f"{len(data)}"
        raise CheckpointError(f"{path}: its packed weights do not fit: got {got}, expected {expected} bytes; get the file again")
    values = torch.from_numpy(np.frombuffer(data, dtype="<f2").astype(np.float32))
    tensors, start = {}, 0
    for name in sorted(like):
        count = like[name].numel()
        tensors[name] = _reversed(values[start:start + count].reshape(like[name].shape[::-1]))
        start += count
    return tensors
