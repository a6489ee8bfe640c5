"""Chooses between the plain PyTorch definitions and the compiled operators.

The environment variable OP_BACKEND decides: "plain" never compiles; "native" compiles at first use and raises where that
fails; "auto", the default, takes the compiled operators where they are built. On CUDA devices auto builds them at first
use. On CPUs it does not: a short command must not wait for a compiler, and a build in the background would change the
last bits of results between a run and its continuation. `python -m op build` builds them there.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from op import native

CHOICES = ("auto", "plain", "native")
DTYPES = {"cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
          "cuda": (torch.float32, torch.bfloat16, torch.float16)}

_forced: list[str] = []
# Device type -> whether the compiled operators serve it; decided once, so that a process never changes its rounding.
_decided: dict[str, bool] = {}


def choice() -> str:
    """Return "auto", "plain" or "native".

    Raises:
        ValueError: if OP_BACKEND is something else.
    """
    name = _forced[-1] if _forced else os.environ.get("OP_BACKEND") or "auto"
    if name not in CHOICES:
        raise ValueError(f"OP_BACKEND must be one of {', '.join(CHOICES)}, got {name!r}")
    return name


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Force a backend inside a with block, for measurements and tests."""
    _forced.append(name)
    try:
        choice()
        yield
    finally:
        _forced.pop()


def native_ops(x: Tensor) -> Any | None:
    """Return the compiled operators where they are to be used for ``x``, else None.

    While torch.compile, torch.export or a tracer looks on, the plain definitions are used: those tools know them.

    Raises:
        native.BuildError: if OP_BACKEND is "native" and the operators cannot be built.
    """
    name = choice()
    if name == "plain" or x.dtype not in DTYPES.get(x.device.type, ()) or type(x) not in (Tensor, torch.nn.Parameter):
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.layout is not torch.strided:
        return None
    return torch.ops.face_ops if available(x.device.type, name) else None


def available(device: str, name: str) -> bool:
    """Load or build the operators for "cpu" or "cuda" as ``name`` asks; see the module's text."""
    if name == "auto" and device in _decided:
        return _decided[device]
    wants_cuda = torch.cuda.is_available()
    if native.is_loaded():
        usable = device == "cpu" or torch.ops.face_ops.has_cuda()
    else:
        usable = _load(wants_cuda, device, name)
    if name == "native" and not usable:
        raise native.BuildError("the compiled operators were loaded without their CUDA kernels; start a new process")
    return _decided.setdefault(device, usable) if name == "auto" else usable


def _load(cuda: bool, device: str, name: str) -> bool:
    """Load what is built; build where that is asked for. Both devices share one library, with CUDA kernels if needed."""
    for with_cuda in ((True, False) if device == "cpu" and cuda else (cuda,)):
        path = native.library_path(cuda=with_cuda)
        if path.is_file():
            native.load(path)
            return True
    if name == "auto" and device == "cpu":
        return False
    try:
        native.build(cuda=cuda)
    except native.BuildError as error:
        if name == "native":
            raise
        warnings.warn(f"the compiled operators could not be built, the plain ones are used: {error}", stacklevel=4)
        return False
    return True
