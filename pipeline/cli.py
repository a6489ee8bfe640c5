"""Command-line habits that all scripts share: names, types, devices, one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

MAX_SIDE = 8192


class UserError(ValueError):
    """The user can mend this; the message is one line that names the input and the remedy."""


class ArgumentParser(argparse.ArgumentParser):
    """Parser that takes every long option in snake_case and kebab-case, shows defaults, and errs in one line."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        both = list(names)
        for name in names:
            if name.startswith("--"):
                stem = name[2:]
                both += [f"--{other}" for other in (stem.replace("_", "-"), stem.replace("-", "_"))
                         if f"--{other}" not in both]
        if settings.get("action") != "help" and not settings.get("help"):
            settings["help"] = " "  # the formatter adds the default only to a help text
        return super().add_argument(*both, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def positive_int(text: str) -> int:
    """Parse an integer >= 1."""
    return _whole(text, 1)


def non_negative_int(text: str) -> int:
    """Parse an integer >= 0."""
    return _whole(text, 0)


def image_side(text: str) -> int:
    """Parse the side of an output image in px, at most 8192: the memory for one grows with its square."""
    side = _whole(text, 1)
    if side > MAX_SIDE:
        raise argparse.ArgumentTypeError(f"expected at most {MAX_SIDE}, got {text!r}")
    return side


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return value


def finite_float(text: str) -> float:
    """Parse a number that is neither NaN nor infinite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def str2bool(text: str | bool) -> bool:
    """Parse true/false, yes/no, on/off, 1/0."""
    if isinstance(text, bool):
        return text
    if text.lower() in ("yes", "true", "t", "y", "1", "on"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def int_list(text: str) -> tuple[int, ...]:
    """Parse whole numbers separated by commas."""
    return tuple(non_negative_int(part.strip()) for part in text.split(","))


def add_common(parser: ArgumentParser, *, outdir: bool = True, seed: int = 0) -> None:
    """Add --device, --dtype, --seed and, unless the script has --output, --outdir."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
                        help="arithmetic of the networks")
    parser.add_argument("--seed", type=non_negative_int, default=seed, help="seed of all random numbers")
    if outdir:
        parser.add_argument("--outdir", type=Path, default=None, help="output folder")


def resolve_device(name: str) -> Any:
    """Return the torch.device of ``--device``; raises UserError when it is not there."""
    import torch

    mps = getattr(torch.backends, "mps", None)
    has_mps = mps is not None and mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; use --device cpu")
    if name == "mps" and not has_mps:
        raise UserError("--device mps: this machine has no Metal device; use --device cpu")
    return torch.device(name)


def resolve_dtype(name: str, device: Any) -> Any:
    """Return the torch.dtype of ``--dtype``; auto is float32.

    Raises:
        UserError: for float16 on a CPU, which its convolutions do not support well.
    """
    import torch

    if name == "float16" and device.type == "cpu":
        raise UserError("--dtype float16 needs a GPU; use bfloat16 or float32 on a CPU")
    return torch.float32 if name == "auto" else getattr(torch, name)


def autocast(device: Any, dtype: Any) -> contextlib.AbstractContextManager:
    """Return autocast to ``dtype``, or nothing for float32."""
    import torch

    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def ensure_dir(path: Path) -> None:
    """Make a folder and prove that it can be written to; raises UserError naming it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error


def report(error: object) -> None:
    """Print one line on stderr."""
    print(" ".join(str(error).split()), file=sys.stderr)


def run(work: Callable[[argparse.Namespace], int], parse: Callable[[], argparse.Namespace]) -> int:
    """Parse, work, and turn the errors a user can mend into one line on stderr and exit code 2.

    Returns:
        The exit code: what ``work`` returns, 2 for such an error, 130 when interrupted.
    """
    try:
        args = parse()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    from checkpoints import CheckpointError
    from data.images import ImageError

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        return work(args)
    except (UserError, ImageError, CheckpointError) as error:
        report(error)
        return 2
    except KeyboardInterrupt:
        report("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of a pipe has seen enough, as in `... | head`; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
