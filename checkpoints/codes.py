"""Dictionaries of codes as numpy saves them, a pickle inside of a ``.npy``: read as data, without running anything of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from checkpoints.inert import InertUnpickler, Maker, RefusedError
from checkpoints.io import CheckpointError, check_file, check_finite

MAGIC = b"\x93NUMPY"
TYPES = {name: np.dtype(name) for name in ("f2", "f4", "f8")}
# The array of one object that numpy puts round a dictionary.
OBJECT = "O8"
MODULES = {"numpy.core.multiarray", "numpy._core.multiarray"}
CODE = "wants to run code when it is read, which is refused; use a file that holds only arrays, from a source you trust"


class _Type:
    """Stands for a numpy dtype: its name, and its byte order as the state that follows."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in (*TYPES, OBJECT):
            raise ValueError("holds values that are no floating numbers")
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]
        if self.order not in ("<", ">", "=", "|"):
            raise ValueError("holds numbers of an unknown byte order")


class _Array:
    """Stands for an array: its shape, type, order and bytes come as the state that follows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if isinstance(kind, _Type) and kind.name == OBJECT:
            if shape != () or type(data) is not list or len(data) != 1:
                raise ValueError("holds several objects instead of a dictionary of codes")
            self.value = data[0]
            return
        if not isinstance(kind, _Type) or not isinstance(data, bytes) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("holds an array of no valid form")
        found = np.frombuffer(data, dtype=TYPES[kind.name].newbyteorder(kind.order))
        if math.prod(shape) != found.size:
            raise ValueError(f"holds {found.size} numbers for an array {list(shape)}")
        self.value = found.reshape(shape, order="F" if fortran else "C")


class _Reader(InertUnpickler):
    """Reads dictionaries of arrays; every name but those of arrays is refused before anything is made.

    Args:
        file: at the beginning of the pickle.
        limit: bytes that text may be turned into in all, so that a small file cannot fill the memory.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        super().__init__(file)
        self.left = limit
        kind = Maker(lambda *_: _refused("an array class"))
        self.names = {("numpy", "ndarray"): kind, ("numpy", "dtype"): Maker(_Type), ("_codecs", "encode"): Maker(self._encode)}
        self.names |= {(module, "_reconstruct"): Maker(lambda *_: _Array()) for module in MODULES}

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """Do what old pickles of bytes ask for."""
        self.left -= len(text)
        if not isinstance(text, str) or encoding != "latin1" or self.left < 0:
            raise ValueError("holds text where numbers belong")
        return text.encode("latin1")


def _refused(what: str) -> Any:
    raise RefusedError(what)


def read_codes(path: str | Path) -> dict[str, Tensor]:
    """Read a ``.npy`` that holds a dictionary name -> code [1, L, D] or [L, D].

    Returns:
        Codes [L, D] by name, float32, in the file's order, all of one shape.

    Raises:
        CheckpointError: in one line, for anything else; nothing that the file names is imported or called.
    """
    path = Path(path)
    check_file(path)
    try:
        found = _read(path)
    except RefusedError as error:
        raise CheckpointError(f"{path}: {CODE} ({str(error)[:80]!r})") from error
    except Exception as error:  # damaged pickles make the unpickler raise nearly anything
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: is damaged or holds no codes ({reason}); get it again") from error
    return _checked(path, found)


def _read(path: Path) -> Any:
    """Return what the pickle of the file holds."""
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("no .npy file")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if shape != () or dtype != np.dtype(object):
            raise ValueError(f"an array {list(shape)} instead of a dictionary of codes")
        found = _Reader(file, path.stat().st_size).load()
    return found.value if isinstance(found, _Array) else found


def _checked(path: Path, found: Any) -> dict[str, Tensor]:
    """Return the codes of what was read."""
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{path}: holds no dictionary of codes; get the file again")
    codes: dict[str, Tensor] = {}
    for name, array in found.items():
        value = array.value if isinstance(array, _Array) else None
        if not isinstance(name, str) or not name.isprintable() or not isinstance(value, np.ndarray):
            raise CheckpointError(f"{path}: entry {str(name)[:40]!r} is no code by the name of a picture; get the file again")
        if value.ndim == 3 and value.shape[0] == 1:
            value = value[0]
        if value.ndim != 2 or not value.size:
            raise CheckpointError(f"{path}: misshapen {name[:40]!r}: got {list(value.shape)}, expected [1, L, D]; get the "
                                  "file again")
        codes[name] = torch.from_numpy(value.astype(np.float32))
        if codes[name].shape != next(iter(codes.values())).shape:
            raise CheckpointError(f"{path}: its codes have different shapes; get the file again")
    check_finite(path, codes)
    return codes
