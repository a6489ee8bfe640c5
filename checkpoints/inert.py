"""Pickles that name classes and functions, read as inert data: nothing that a file names is ever imported or called.

PyTorch's own restricted reader knows tensors only. Pickled networks carry more: the class of every module, with its
source where stylegan2-ada-pytorch wrote it. Here each name that such a file may use stands for a harmless holder of ours,
and every other name is refused before anything is built.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from checkpoints.io import CheckpointError, check_file

# The first pickle of a file of torch.save's old form is a number that tells it; NVIDIA's files are plain pickles.
PICKLE, OLD_TORCH = b"\x80", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
DTYPES = {"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
          "LongStorage": torch.int64, "IntStorage": torch.int32, "BoolStorage": torch.bool, "ByteStorage": torch.uint8}


class RefusedError(pickle.UnpicklingError):
    """The file names something that it has no business with."""


def _refuse(*_: Any) -> None:
    raise RefusedError("a change of something that must stay as it is")


class Maker:
    """Stands for a function of a file: called with its arguments it returns a holder."""

    __slots__ = ("make",)
    __setstate__ = _refuse

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)


class Record:
    """Stands for an object: the name of its class and its attributes."""

    __slots__ = ("name", "state")
    __setstate__ = _refuse

    def __init__(self, name: str = "", state: Any = None) -> None:
        self.name, self.state = name, state


class Scripted:
    """Stands for an object of a TorchScript archive, whose attributes follow."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Numbers:
    """Stands for a numpy dtype or scalar; its value is not needed."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Take nothing."""


class PlainDict(dict):
    """Stands for a dictionary class."""

    __slots__ = ()
    __setstate__ = _refuse


class View(NamedTuple):
    """Stands for a tensor: what gives its storage, and offset, size and stride in it."""

    storage: Callable[[], Tensor]
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """Return the tensor; raises ValueError where it would leave its storage."""
        flat = self.storage()
        shape = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError("a tensor of no valid shape")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        # A step of 0 would let a few bytes fill the memory.
        if math.prod(self.size) > flat.numel() or (math.prod(self.size) and last >= flat.numel()):
            raise ValueError("a tensor larger than its storage")
        return torch.as_strided(flat, self.size, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> View:
    if not isinstance(storage, Maker):
        raise RefusedError("a tensor without a storage")
    return View(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _stored_bytes(data: Any) -> Maker:
    """Return what reads the bytes of one storage, by PyTorch's reader of tensors alone."""
    if not isinstance(data, bytes):
        raise RefusedError("a storage that is no bytes")

    def load() -> Tensor:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(found, torch.storage.TypedStorage):
            raise ValueError(f"a storage that is of type {type(found).__name__}")
        return torch.tensor([], dtype=found.dtype).set_(found._untyped_storage)

    return Maker(load)


def _persistent(meta: Any) -> Record:
    """Stand for torch_utils.persistence: class name and state are kept, its source stays text."""
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise RefusedError("a persistent object of another form")
    return Record(str(meta.get("class_name")), meta.get("state"))


NAMES: Mapping[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Maker(_persistent),
    ("torch._utils", "_rebuild_tensor_v2"): Maker(_rebuilt),
    ("torch._utils", "_rebuild_parameter"): Maker(_parameter),
    ("torch.storage", "_load_from_bytes"): Maker(_stored_bytes),
    # Plain dictionaries keep their order and, unlike these classes, cannot be given attributes.
    ("collections", "OrderedDict"): Maker(lambda *pairs: dict(*pairs)),
    ("builtins", "set"): Maker(lambda *items: frozenset(*items)),
    ("dnnlib.util", "EasyDict"): PlainDict,
    ("numpy", "dtype"): Maker(lambda *_: Numbers()),
    ("numpy.core.multiarray", "scalar"): Maker(lambda *_: Numbers()),
    ("numpy._core.multiarray", "scalar"): Maker(lambda *_: Numbers()),
}


class InertUnpickler(pickle.Unpickler):
    """Reads a pickle whose names are in ``names``; raises RefusedError at any other."""

    names = NAMES

    def find_class(self, module: str, name: str) -> Any:
        found = self.names.get((module, name))
        if found is None:
            raise RefusedError(f"{module}.{name}"[:120])
        return found


class _ScriptUnpickler(InertUnpickler):
    """Reads data.pkl of a TorchScript archive; storages lie beside it."""

    def __init__(self, file: io.BytesIO, storage: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return Scripted
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Maker:
        if not isinstance(pid, tuple) or len(pid) < 3 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise RefusedError("a storage of another form")
        dtype, key = pid[1], str(pid[2])
        return Maker(lambda: torch.frombuffer(bytearray(self.storage(key)), dtype=dtype))


def is_plain_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle that torch.save did not write."""
    with open(path, "rb") as file:
        head = file.read(len(OLD_TORCH))
    return head[:1] == PICKLE and head != OLD_TORCH


def _guarded(path: Path, read: Callable[[], Any], form: str) -> Any:
    """Call ``read`` and turn what damaged and hostile files raise into one line."""
    check_file(path)
    try:
        return read()
    except RefusedError as error:
        raise CheckpointError(f"{path}: wants {error} when it is loaded, which is refused; use {form} from a source you trust"
                              ) from error
    except CheckpointError:
        raise
    except Exception as error:  # damaged pickles make any of them
        reason = str(error).split("\n")[0][:120]
        raise CheckpointError(f"{path}: is damaged or of another form ({type(error).__name__}: {reason}); get it again"
                              ) from error


def read_networks(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read a pickle of stylegan2-ada-pytorch.

    Returns:
        Name of each network ("G", "D", "G_ema") -> its state dict, with the multiplier of its mapping's learning rate as
        ``mapping.lr_multiplier`` where the file tells it.

    Raises:
        CheckpointError: in one line, for anything else.
    """
    def read() -> dict[str, dict[str, Tensor]]:
        with open(path, "rb") as file:
            found = InertUnpickler(file).load()
        if not isinstance(found, dict):
            raise ValueError(f"holds a {type(found).__name__}, no networks")
        return {str(name): flattened(value) for name, value in found.items() if isinstance(value, Record)
                and name in ("G", "D", "G_ema")}

    return _guarded(path, read, "a file that holds only networks of stylegan2-ada-pytorch,")


def flattened(network: Record, prefix: str = "") -> dict[str, Tensor]:
    """Return the state dict of a recorded module."""
    if not isinstance(network.state, dict):
        raise ValueError(f"the object {network.name} is no module")
    tensors: dict[str, Tensor] = {}
    for part in ("_parameters", "_buffers"):
        for name, view in network.state.get(part, {}).items():
            if isinstance(view, View):
                tensors[f"{prefix}{name}"] = view.tensor()
    for name, module in network.state.get("_modules", {}).items():
        if isinstance(module, Record):
            tensors.update(flattened(module, f"{prefix}{name}."))
    rate = network.state.get("bias_gain")
    if prefix == "mapping.fc0." and isinstance(rate, float):
        tensors["mapping.lr_multiplier"] = torch.tensor(rate, dtype=torch.float64)
    return tensors


def read_script(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a TorchScript archive without loading its program.

    Raises:
        CheckpointError: in one line, for anything else.
    """
    def read() -> dict[str, Tensor]:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            # Tensors are stored as they are; a packed entry could be of any size.
            if len(names) != 1 or any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()
                                      if "/data" in entry.filename):
                raise ValueError("no TorchScript archive")
            folder = names[0].removesuffix("data.pkl")
            root = _ScriptUnpickler(io.BytesIO(archive.read(names[0])), lambda key: archive.read(f"{folder}data/{key}")).load()
            return _attributes(root)

    return _guarded(path, read, "the file of face-alignment")


def _attributes(root: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of a scripted module by name."""
    if not isinstance(root, Scripted) or not isinstance(root.state, dict):
        raise ValueError("no scripted module")
    tensors: dict[str, Tensor] = {}
    for name, value in root.state.items():
        if isinstance(value, View):
            tensors[f"{prefix}{name}"] = value.tensor()
        elif isinstance(value, Scripted):
            tensors.update(_attributes(value, f"{prefix}{name}."))
    return tensors
