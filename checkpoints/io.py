"""Safe readers and atomic writers of weights."""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CONFIG_KEY = "config"
WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")
# What the restricted unpickler says of a pickle that names a function or class; other messages tell of damage.
CODE_PHRASES = ("GLOBAL", "Unsupported class", "call reduce", "Can only create", "Can only build")

Module = TypeVar("Module", bound=nn.Module)
Config = TypeVar("Config")


class CheckpointError(ValueError):
    """A weights file cannot be used; the message is one line that names the file and the remedy."""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends well and vanishes when it does not.

    Raises:
        CheckpointError: if the folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}); free space or choose another folder"
                              ) from error
    except RuntimeError as error:
        if not any(word in str(error) for word in ("PytorchStreamWriter", "inline_container")):
            raise  # those two are torch.save's words for a full disk
        raise CheckpointError(f"{path}: cannot be written (the disk is full or failing); free space or choose another "
                              "folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: tensor {name!r} holds NaN or infinity; the weights are damaged, get the "
                                  "file again or train anew")


def save_model(path: str | Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, half: bool = False) -> None:
    """Write one safetensors file with its config inside, atomically.

    Args:
        path: the file.
        tensors: state by name, any device.
        config: JSON-ready dictionary with a "kind".
        half: store floating tensors as float16 where its range holds them.

    Raises:
        CheckpointError: for NaN or infinity, or an unwritable folder.
    """
    ready = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        small = tensor.half() if half and tensor.is_floating_point() else tensor
        fits = small is tensor or bool(torch.isfinite(small).all())
        ready[name] = (small if fits else tensor).contiguous().clone()
    check_finite(path, ready)
    with atomic_write(path) as temporary:
        try:
            save_file(ready, temporary, metadata={CONFIG_KEY: json.dumps(config)})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error


def describe(path: Path) -> str | None:
    """Return what is wrong with a file at first sight (missing, empty, a web page, a Git LFS pointer), or None."""
    try:
        if path.is_dir():
            return "is a folder; name a file in it"
        if not path.is_file():
            return "not found; check the name, or see `python -m checkpoints list`"
        with open(path, "rb") as file:
            head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    except OSError as error:
        return f"cannot be read ({error.strerror}); check the name and the permissions"
    if not head:
        return "is empty; download or copy it again"
    if head.startswith(WEB_PAGE):
        return "is a web page, not weights; download it again: open the link in a browser and save the file itself"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not weights; fetch the file itself with `git lfs pull`"
    return None


def check_file(path: Path, *, name: object = None) -> None:
    """Raise CheckpointError with what ``describe`` says is wrong with a file, called ``name`` or by its path."""
    problem = describe(path)
    if problem:
        raise CheckpointError(f"{name or path}: {problem}")


def is_text(path: Path) -> bool:
    """Tell whether a file begins as plain text."""
    with open(path, "rb") as file:
        head = file.read(512)
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def load_model(path: str | Path, *, kind: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file written by ``save_model``.

    Args:
        path: the file.
        kind: the kind that its config must name.

    Returns:
        (tensors, floating ones as float32; config).

    Raises:
        CheckpointError: for anything but an intact file of that kind.
    """
    path = Path(path)
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get(CONFIG_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: not an intact safetensors file ({error}); get it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: has no config inside, so it was not written by this project; use a file made "
                              "by train.py or `python -m checkpoints import`")
    if kind is not None and config.get("kind") != kind:
        held, needed = (f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in (str(config.get("kind") or "thing"), kind))
        raise CheckpointError(f"{path}: holds {held}, but {needed} is needed here; name a file of that kind")
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    check_finite(path, tensors)
    return tensors, config


def has_config(path: Path) -> bool:
    """Tell whether an intact safetensors file carries a config of this project."""
    try:
        with safe_open(path, framework="pt") as file:
            return CONFIG_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_config(path: Path, config: Mapping[str, Any], name: str, make: Callable[[Any], Config]) -> Config:
    """Build one config dataclass from a file's config; raises CheckpointError where that does not describe it."""
    try:
        return make(config[name])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: its config does not describe a {name} ({' '.join(str(error).split())[:160]}); "
                              "get the file again or train it anew") from error


def take_vector(path: Path, tensors: dict[str, Tensor], name: str, width: int) -> Tensor:
    """Take a vector [width] out of a file's tensors; raises CheckpointError where it is absent or misshapen."""
    vector = tensors.pop(name, None)
    if not isinstance(vector, Tensor) or vector.numel() != width:
        got = "missing" if vector is None else f"{getattr(vector, 'shape', type(vector).__name__)}, expected [{width}]"
        raise CheckpointError(f"{path}: {name} does not fit: {got}; get the file again or train it anew")
    check_finite(path, {name: vector})
    return vector.float().reshape(-1)


def read_torch(path: str | Path) -> Any:
    """Read a ``.pt`` or ``.pth`` file of tensors and plain values without ever running code from it.

    Raises:
        CheckpointError: if the file is missing, empty, a web page, damaged, or a pickle that wants code.
    """
    return _read_torch(path)


def peek_torch(path: str | Path) -> Any:
    """Read such a file for its names and shapes: numbers of the modern form stay on the disk until they are looked at.

    Raises:
        CheckpointError: see ``read_torch``.
    """
    return _read_torch(path, mmap=zipfile.is_zipfile(path))


def _read_torch(path: str | Path, *, mmap: bool = False) -> Any:
    path = Path(path)
    check_file(path)
    try:
        # e4e's file keeps its options in a Namespace, which is data only.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, beside which the error would drown
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damaged files make the unpickler raise nearly anything
        raise CheckpointError(f"{path}: {_unreadable(path, error)}") from error


def _unreadable(path: Path, error: Exception) -> str:
    """Say why PyTorch could not read a file, and what to do."""
    if isinstance(error, pickle.UnpicklingError) and any(phrase in str(error) for phrase in CODE_PHRASES):
        return ("wants to run code when it is loaded, which is refused; use a file that holds only tensors, from a "
                "source you trust")
    if is_text(path):
        return "is a text file, not a weights file; download it again"
    reason = "no pickle" if isinstance(error, pickle.UnpicklingError) else str(error).split("\n")[0][:120]
    return f"is damaged or not a weights file ({reason}); get it again"


def check_state(what: str, state: object) -> None:
    """Raise CheckpointError unless ``state`` maps names to dense tensors; ``what`` names the file and part."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{what}: is {_article(state)}, not a state dict; get the file again")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{what}: entry {name!r} is {_article(tensor)}, not a tensor; get the file again")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(f"{what}: tensor {name!r} is sparse, quantized or complex; get the file again")


def _article(value: object) -> str:
    return f"of type {type(value).__name__}"


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Load a state dict strictly.

    Raises:
        CheckpointError: naming the missing, unexpected or misshapen keys; ``what`` names the file and part.
    """
    check_fit(module, tensors, what=what)
    check_finite(what, tensors)
    module.load_state_dict(dict(tensors), strict=True)


def check_network(make: Callable[[], Module], tensors: Mapping[str, Tensor], *, what: str) -> Module:
    """Return the network without memory for its weights, after checking that finite ``tensors`` fit it."""
    with torch.device("meta"):
        module = make()
    check_fit(module, tensors, what=what)
    check_finite(what, tensors)
    return module


def build_strict(make: Callable[[], Module], tensors: Mapping[str, Tensor], *, what: str) -> Module:
    """Make a network straight from its weights: no time, memory or random numbers go into initial values.

    Args:
        make: builds a network all of whose buffers are in its state dict.
        tensors: its state; floating tensors become float32.
        what: file and part for messages.

    Raises:
        CheckpointError: see ``load_strict``.
    """
    module = check_network(make, tensors, what=what)
    # Tensors of a file may share memory, which training in place would corrupt; contiguous() parts expanded ones.
    ready = {name: (t.float() if t.is_floating_point() else t).contiguous() for name, t in tensors.items()}
    module.load_state_dict(ready, strict=True, assign=True)
    return module


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Raise CheckpointError naming the keys by which ``tensors`` differ from the state dict of ``module``."""
    check_state(what, tensors)
    own = module.state_dict()
    problems = []
    for label, keys in (("missing", sorted(set(own) - set(tensors))), ("unexpected", sorted(set(tensors) - set(own)))):
        if keys:
            problems.append(f"{label} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}")
    for key in sorted(set(own) & set(tensors)):
        if tensors[key].shape != own[key].shape:
            problems.append(f"misshapen {key}: got {list(tensors[key].shape)}, expected {list(own[key].shape)}")
    if problems:
        raise CheckpointError(f"{what}: does not fit: {'; '.join(problems[:4])}; use the file this network was made for")


def fingerprint(*states: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names and contents of state dicts, 32 hex digits."""
    digest = hashlib.sha256()
    for state in states:
        for name in sorted(state):
            digest.update(name.encode())
            digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
