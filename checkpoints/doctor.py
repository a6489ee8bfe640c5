"""What is here, what runs and what is missing, in one screen that can be pasted into a report of a fault."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path

from checkpoints.manifest import entries, status
from checkpoints.paths import checkpoints_dir, style_names

# Distribution -> what does not run without it.
NEEDED = {"torch": "anything", "torchvision": "training", "numpy": "anything", "pillow": "anything", "scipy": "anything",
          "scikit-image": "anything", "dlib-bin": "finding faces", "av": "clips", "safetensors": "anything", "timm": "the ViT",
          "tqdm": "anything"}
OPTIONAL = {"gradio": "the page", "pillow-heif": "HEIC photos", "onnx": "export", "lpips": "LPIPS", "ray": "stylize_dataset.py",
            "ninja": "compiled operators"}


def version_of(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def device_line() -> str:
    """Return what can be computed on."""
    import torch

    names = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    mps = getattr(torch.backends, "mps", None)
    names += ["mps"] if mps is not None and mps.is_available() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join([*names, f"cpu ({cores} cores, {torch.get_num_threads()} threads)"])


def operators_line() -> str:
    """Return which form of the operators is used on the processor."""
    from op import native

    try:
        path = native.library_path()
    except (OSError, RuntimeError, ValueError) as error:
        return f"plain PyTorch ({error})"
    if path.is_file():
        return f"compiled ({path.name})"
    return "plain PyTorch until they are compiled at first use" if shutil.which("c++") else "plain PyTorch (no compiler)"


def weights_lines() -> list[str]:
    """Return which weights are here, wrong or missing."""
    groups: dict[str, list[str]] = {"present": [], "missing": []}
    wrong = []
    for entry in entries():
        state, reason = status(entry, thorough=False)
        if state == "wrong":
            wrong.append(f"WRONG     {reason}")
        else:
            groups[state].append(entry.name)
    bundled = [name for name in groups["present"] if name.startswith(("starter/", "styles/"))]
    others = [name for name in groups["present"] if name not in bundled]
    missing = [name for name in groups["missing"] if not name.startswith("starter/")]
    lost = [name for name in groups["missing"] if name.startswith("starter/")]
    return [*wrong, *(f"MISSING   {name}: part of the project; get the project again" for name in lost),
            f"bundled   {len(bundled)} files", f"yours     {', '.join(others) or 'none'}",
            f"styles    {', '.join(style_names()) or 'none'}",
            f"not here  {', '.join(missing) or 'nothing'} (optional; python -m checkpoints download NAME)"]


def report() -> tuple[list[str], bool]:
    """Return the lines of the report, and whether all that is needed is there."""
    from PIL import features

    absent = [f"MISSING   {name}: without it {what} does not run; pip install -r requirements.txt"
              for name, what in NEEDED.items() if version_of(name) is None]
    packages = [f"{name} {version_of(name)}" for name in NEEDED if version_of(name)]
    optional = [f"{name} {version_of(name) or f'- (for {what})'}" for name, what in OPTIONAL.items()]
    lines = [f"system    {platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}"]
    if importlib.util.find_spec("torch"):
        lines += [f"device    {device_line()}", f"operators {operators_line()}"]
    folder = checkpoints_dir()
    free = shutil.disk_usage(folder if folder.is_dir() else Path()).free / 1e9
    lines += [f"packages  {', '.join(packages)}", f"optional  {', '.join(optional)}",
              f"formats   AVIF {'yes' if features.check('avif') else 'no'}, "
              f"HEIC {'yes' if version_of('pillow-heif') else 'no (pip install pillow-heif)'}, "
              f"colour profiles {'yes' if features.check('littlecms2') else 'no'}",
              f"folder    {folder} ({free:.0f} GB free, {'writable' if os.access(folder, os.W_OK) else 'NOT writable'})"]
    weights = weights_lines()
    bad = absent or any(line.startswith(("WRONG", "MISSING")) for line in weights)
    return [*absent, *lines, *weights], not bad
