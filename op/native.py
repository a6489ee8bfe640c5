"""Compiles the operators of op/csrc and loads them; needs a C++ compiler, and nvcc for the CUDA kernels."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

SOURCES = Path(__file__).resolve().parent / "csrc"
CPU_FILES = ("binding.cpp", "filter_cpu.cpp", "activate_cpu.cpp")
CUDA_FILES = ("kernels.cu",)
# No -ffast-math: NaN and infinity must stay what they are, and results must not depend on the order of vector lanes.
HOST_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden")
CUDA_FLAGS = ("-O3", "--extended-lambda", "-DFACE_CUDA")


class BuildError(RuntimeError):
    """The operators could not be compiled or loaded; the message says why and what to do."""


def host_flags() -> tuple[str, ...]:
    """Return the C++ flags for this processor."""
    if sys.platform == "win32":
        return ("/O2",)
    tune = ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)
    # GCC stops at 256 bits on its own, which costs a tenth here.
    wide = ("-mprefer-vector-width=512",) if "avx512f" in _processor() else ()
    # Compiled for OpenMP but not linked with it: at::parallel_for is code in a header that runs on one thread without
    # the flag, and the runtime it needs is the one that torch has loaded; a second one would compete with it.
    threads = "-fopenmp-simd" if sys.platform == "darwin" else "-fopenmp"
    return (*HOST_FLAGS, threads, *tune, *wide)


def _processor() -> str:
    """Return what -march=native depends on, since a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def library_path(*, cuda: bool = False) -> Path:
    """Return where the library for these sources, flags, processor and torch lies once it is built."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".h", ".cpp", ".cu"):
            digest.update(path.name.encode() + path.read_bytes())
    facts = (torch.__version__, torch.version.cuda if cuda else None, host_flags(), CUDA_FLAGS, _processor(),
             _architectures() if cuda else None)
    digest.update(repr(facts).encode())
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root is None:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"
    return Path(root) / "face_ops" / f"face_ops_{'cuda' if cuda else 'cpu'}_{digest.hexdigest()[:20]}.so"


def _architectures() -> str:
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return os.environ["TORCH_CUDA_ARCH_LIST"]
    return ";".join(sorted({str(torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())}))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process build at a time; the lock dies with its process. Without file locks builds run side by side."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build(*, cuda: bool = False, verbose: bool = False) -> Path:
    """Compile the operators unless they are there, and load them.

    Args:
        cuda: compile the CUDA kernels too.
        verbose: show the compiler's output.

    Returns:
        The library's path in the user's cache (below TORCH_EXTENSIONS_DIR where that is set).

    Raises:
        BuildError: if there is no compiler or it fails.
    """
    target = library_path(cuda=cuda)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if not target.is_file():
                _compile(target, cuda=cuda, verbose=verbose)
    except BuildError:
        raise
    # Compilers, linkers and the loader fail in their own ways, and each must end in the plain path.
    except Exception as error:
        lines = str(error).splitlines()
        reason = next((line.strip() for line in lines if "error:" in line), lines[0][:200] if lines else "no reason given")
        raise BuildError(f"{type(error).__name__}: {reason}") from error
    load(target)
    return target


def _compile(target: Path, *, cuda: bool, verbose: bool) -> None:
    """Build into a folder of its own, then move the library to its place in one step."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its import tells of a toolkit without a GPU, which is no fault here
    try:
        from torch.utils import cpp_extension
    finally:
        logger.setLevel(level)
    # ninja comes as a package of Python, whose programs are not on the path of an environment that is not activated.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    for tool in (cpp_extension.get_cxx_compiler(), "ninja", *(["nvcc"] if cuda and "CUDA_HOME" not in os.environ else [])):
        if shutil.which(tool) is None:
            raise BuildError(f"no {tool} found; install it, or set OP_BACKEND=plain")
    folder = Path(tempfile.mkdtemp(prefix="build_", dir=target.parent))
    try:
        flags, links = list(host_flags()), []
        if cuda:
            flags += ["-DFACE_CUDA", *(f"-idirafter{path}" for path in cuda_includes())]
            links = cuda_links(folder)
        files = [str(SOURCES / name) for name in CPU_FILES + (CUDA_FILES if cuda else ())]
        built = cpp_extension.load(
            name="face_ops", sources=files, extra_cflags=flags, extra_cuda_cflags=list(CUDA_FLAGS),
            extra_ldflags=links, build_directory=str(folder), with_cuda=cuda, is_python_module=False, verbose=verbose)
        os.replace(built or folder / "face_ops.so", target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def toolkit() -> Path | None:
    """Return the folder of the CUDA toolkit as its compiler names it, which may be a wrapper in another folder."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = f"{home}/bin/nvcc" if home else shutil.which("nvcc")
    if nvcc is None:
        return None
    done = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    found = re.search(r"^#\$ TOP=(.+)$", done.stderr, flags=re.MULTILINE)
    return Path(found[1]).resolve() if found else None


def cuda_includes() -> list[Path]:
    """Return folders of CUDA headers: the toolkit's, then those of torch's wheels, which have some that it may lack."""
    home = toolkit()
    return [*([home / "include"] if home else []), *cuda_folders("include")]


def cuda_folders(kind: str) -> list[Path]:
    """Return the folders "include" or "lib" of the CUDA runtime that came with torch, of CUDA 13 or 12 wheels."""
    root = Path(torch.__file__).resolve().parents[1] / "nvidia"
    return [path for path in (*sorted(root.glob(f"cu[0-9]*/{kind}")), root / "cuda_runtime" / kind) if path.is_dir()]


def cuda_links(folder: Path) -> list[str]:
    """Return linker flags for libcudart; wheels hold only a name with a version, so a plain one is made in folder."""
    for lib in cuda_folders("lib"):
        for runtime in sorted(lib.glob("libcudart.so.*")):
            (folder / "libcudart.so").symlink_to(runtime)
            return [f"-L{folder}", f"-Wl,-rpath,{lib}"]
    return []


def load(path: Path) -> None:
    """Register the operators of a built library as torch.ops.face_ops; does nothing where that is done.

    Raises:
        BuildError: if the file does not load.
    """
    if is_loaded():
        return
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise BuildError(f"{path} does not load ({error}); delete it") from error


def is_loaded() -> bool:
    """Tell whether the operators are registered in this process."""
    return hasattr(torch.ops.face_ops, "filter")
