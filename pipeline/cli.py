"""Command-line habits that all scripts share: names, types, devices, one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from faces.find import FinderSettings
    from styles.controls import Control, Look

MAX_SIDE = 8192
MOST_NUMBERS = 10_000  # of a list such as 1-50,60
DEFAULT_STYLE = "cartoon"  # a bundled one
ROWS_ALONE = ("no residual encoder fits this base and --residual: faces are inverted by latents alone and look less like the "
              "person; --inversion e4e+optimize finds the rest")


class UserError(ValueError):
    """The user can mend this; the message is one line that names the input and the remedy."""


class ArgumentParser(argparse.ArgumentParser):
    """Parser that takes every long option in snake_case and kebab-case, shows defaults, and errs in one line.

    Attributes:
        style: name of the style whose controls are options, see ``add_controls``.
        controls: these controls.
    """

    style: str | None = None
    controls: tuple[Control, ...] = ()

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

    def knows(self, option: str) -> bool:
        """Tell whether an option such as ``--output`` has been added."""
        return option in self._option_string_actions

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        found, unknown = self.parse_known_args(args, namespace)
        strange = next((text.partition("=")[0] for text in unknown if text.startswith("--")), None)
        if strange and self.style is not None:
            own = ", ".join(control.option.replace("_", "-") for control in self.controls) or "none"
            self.error(f"{strange}: the style {self.style} has no such control, nor is there such an option; "
                       f"the style's own controls are {own}")
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

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


def device_name(text: str) -> str:
    """Parse auto, cpu, cuda, mps, or one of several GPUs such as cuda:1."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda, cuda:N or mps, got {text!r}")
    return text


def str2bool(text: str | bool) -> bool:
    """Parse true/false, yes/no, on/off, 1/0."""
    if isinstance(text, bool):
        return text
    if text.lower() in ("yes", "true", "t", "y", "1", "on"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def edits(text: str) -> tuple:
    """Return what ``models.edits.parse_edits`` does; torch is imported only when it is asked for."""
    from models.edits import parse_edits

    return parse_edits(text)


def int_list(text: str) -> tuple[int, ...]:
    """Parse whole numbers separated by commas."""
    return tuple(non_negative_int(part.strip()) for part in text.split(","))


def int_ranges(text: str) -> tuple[int, ...]:
    """Parse whole numbers and ranges of them separated by commas, such as 1-50,60; at most 10,000."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low = non_negative_int(first)
        high = non_negative_int(last) if dash else low
        if high < low or high - low >= MOST_NUMBERS - len(found):
            raise argparse.ArgumentTypeError(f"expected numbers and rising ranges such as 1-50,60, at most {MOST_NUMBERS} in "
                                             f"all, got {text!r}")
        found += range(low, high + 1)
    return tuple(found)


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which encoder photos are inverted by."""
    parser.add_argument("--encoder", default=None, help="encoder of photos; default is the one of the style")
    parser.add_argument("--wplus", dest="encoder", action="store_const", const="official",
                        help="for released styles whose codes lie in z+: rows of e4e, in w+; as --encoder official")


def add_common(parser: ArgumentParser, *, outdir: bool = True, seed: int = 0) -> None:
    """Add --device, --dtype, --seed and, unless the script has its own, --outdir with the spelling --output."""
    parser.add_argument("--device", type=device_name, default="auto", help="where to compute: auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
                        help="arithmetic of the networks")
    parser.add_argument("--seed", type=non_negative_int, default=seed, help="seed of all random numbers")
    if outdir:
        names = ("--outdir",) if parser.knows("--output") else ("--outdir", "--output")  # a script's own --output is a file
        parser.add_argument(*names, dest="outdir", type=Path, default=None, help="output folder")


def add_controls(
    parser: ArgumentParser, argv: Sequence[str] | None, *, default: str, samples: bool = False, **defaults: Any,
) -> None:
    """Add --style and an option per control of the style that it names in ``argv``.

    Args:
        parser: gets the options.
        argv: the command line; that of the process where None.
        default: style where none is named.
        samples: take the controls' defaults for random faces.
        defaults: other defaults of controls by name.

    Raises:
        CheckpointError: if there is no such style; with --help the controls of any style stand for it.
    """
    from checkpoints import CheckpointError
    from styles.controls import SWITCH
    from styles.registry import FIRST, controls_of, kind_named

    words = list(sys.argv[1:] if argv is None else argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--style", default=default)
    try:
        parser.style = first.parse_known_args(words)[0].style
    except argparse.ArgumentError:
        parser.style = default  # --style without a name, of which the parser itself tells
    try:
        parser.controls = controls_of(parser.style)
    except CheckpointError:
        if not {"-h", "--help"} & set(words):
            raise
        parser.controls = kind_named(FIRST).controls_of({}, ("target_latent",))
    parser.add_argument("--style", default=default, help="name of a style in checkpoints/, a file, or a mixture a:0.7,b:0.3")
    group = parser.add_argument_group("controls of the style")
    for control in parser.controls:
        value = defaults.get(control.name, control.default_for(samples=samples))
        names = dict.fromkeys((control.option, control.option.replace("_", "-")))
        bare = {"nargs": "?", "const": SWITCH[1]} if control.choices == SWITCH else {}
        group.add_argument(*names, dest=control.name, type=control.parse, default=value, help=control.help,
                           metavar=control.type.upper(), **bare)
    parser.set_defaults(controls=parser.controls)


def look_of(args: argparse.Namespace) -> Look:
    """Return the look that the options of ``add_controls`` ask for."""
    from styles.controls import Look

    return Look(**{control.name: getattr(args, control.name) for control in args.controls})


def resolve_device(name: str) -> Any:
    """Return the torch.device of ``--device``; raises UserError when it is not there."""
    import torch

    mps = getattr(torch.backends, "mps", None)
    has_mps = mps is not None and mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    kind, _, index = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no CUDA device; use --device cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s), the first is cuda:0")
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


def add_finder(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which faces are found."""
    parser.add_argument("--finder", choices=("mesh", "dlib"), default="mesh",
                        help="how faces are found: mesh at every angle and in drawings too, dlib as published")
    parser.add_argument("--min_face", type=positive_int, default=40, help="width in px of the smallest faces that are wanted")
    parser.add_argument("--max_faces", type=positive_int, default=None, help="at most so many faces of a picture, the largest")


def finder_of(args: argparse.Namespace) -> FinderSettings:
    """Return what the options of ``add_finder`` say."""
    from faces.find import FinderSettings

    return FinderSettings(args.finder, float(args.min_face), args.max_faces)


def finder_words(args: argparse.Namespace) -> list[str]:
    """Return the options of ``add_finder`` as words for another command."""
    most = [] if args.max_faces is None else ["--max_faces", str(args.max_faces)]
    return ["--finder", args.finder, "--min_face", str(args.min_face), *most]


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
    from checkpoints import CheckpointError
    from data.images import ImageError

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal's encoding lacks
    try:
        return work(parse())
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except (UserError, ImageError, CheckpointError) as error:
        report(error)
        return 2
    except KeyboardInterrupt as error:
        report(str(error) or "interrupted")
        return 130
    except BrokenPipeError:
        # The reader of a pipe has seen enough, as in `... | head`; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
