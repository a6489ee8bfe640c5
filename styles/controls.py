"""Named controls of a style, their values, and the look that is asked for."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.landmarks68 import REGIONS as LANDMARKS

REGIONS = (*LANDMARKS, "rest")
TYPES = ("number", "choice", "file")
PARTS = (None, "region", "row")
# Choices of what is either so or not; the option alone means the second.
SWITCH = ("no", "yes")
# Choices that a message lists.
LISTED = 12


@dataclass(frozen=True)
class ByRegion:
    """A number per region of the face, as pairs (region, number); regions without one take ``default``."""

    default: float = 1.0
    degrees: tuple[tuple[str, float], ...] = field(default=())

    def __post_init__(self) -> None:
        names = [name for name, _ in self.degrees]
        unknown = [name for name in names if name not in REGIONS]
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"regions must be different ones of {REGIONS}, got {names}")
        if not all(math.isfinite(value) for value in (self.default, *(value for _, value in self.degrees))):
            raise ValueError(f"degrees must be finite, got {self}")

    def degree(self, region: str) -> float:
        """Return the number of one region."""
        return dict(self.degrees).get(region, self.default)

    def __str__(self) -> str:
        return ",".join([f"{self.default:g}", *(f"{name}={value:g}" for name, value in self.degrees)])


@dataclass(frozen=True)
class FileValue:
    """A file that a control names, and the SHA-256 of its content, so that a changed file counts as another value."""

    path: str
    digest: str

    @classmethod
    def read(cls, path: str | Path) -> FileValue:
        """Return the value of an existing file; raises OSError."""
        return cls(str(path), hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32])


@dataclass(frozen=True)
class Control:
    """One thing that a user can set when a style draws.

    Attributes:
        name: in snake_case; the key in a ``Look`` and the option ``--name``.
        help: one line.
        default: its value where none is given; None leaves it out.
        low, high: ends of a slider; values beyond are allowed.
        sweep: first and last value of a sweep; the slider's ends where None.
        type: "number", "choice" or "file".
        per: numbers may also be given per "region" of the face or per "row" of the latents; None allows one only.
        choices: values of a choice.
        files: a choice may also name a file, beside its choices.
        numbered: a choice may also be given by its number, from 0.
        samples: default for random faces, where it is another than for photos.
        label: title on the page; made from the name where empty.
    """

    name: str
    help: str
    default: Any = None
    low: float = 0.0
    high: float = 1.0
    sweep: tuple[float, float] | None = None
    type: str = "number"
    per: str | None = None
    choices: tuple[str, ...] = ()
    samples: Any = None
    label: str = ""
    files: bool = False
    numbered: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.type not in TYPES or self.per not in PARTS:
            raise ValueError(f"a control needs an identifier as name, a type of {TYPES} and a part of {PARTS}, got {self}")
        if (self.type == "choice") != bool(self.choices) or not self.low < self.high:
            raise ValueError(f"a control needs choices exactly if it is a choice, and low < high, got {self}")

    @property
    def option(self) -> str:
        """The command-line option."""
        return f"--{self.name}"

    @property
    def title(self) -> str:
        """The title on the page."""
        return self.label or self.name.replace("_", " ").capitalize()

    @property
    def range(self) -> tuple[float, float]:
        """First and last value of a sweep."""
        return self.sweep or (self.low, self.high)

    def default_for(self, *, samples: bool) -> Any:
        """Return the default for random faces or for photos."""
        return self.samples if samples and self.samples is not None else self.default

    def parse(self, text: str) -> Any:
        """Turn a text into a value.

        Raises:
            argparse.ArgumentTypeError: with one line on what is wrong.
        """
        if self.type == "choice":
            if text in self.choices:
                return text
            if self.numbered and text.isdecimal() and int(text) < len(self.choices):
                return self.choices[int(text)]
            if not (self.files and Path(text[:255]).is_file()):
                known = ", ".join(self.choices[:LISTED]) + (", ..." if len(self.choices) > LISTED else "")
                raise argparse.ArgumentTypeError(f"expected {'a file or ' * self.files}one of {known}, got {text!r}")
        if self.type in ("choice", "file"):
            try:
                return FileValue.read(text)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise argparse.ArgumentTypeError(f"{text}: cannot be read ({reason}); check the path") from error
        if self.per == "region":
            return parse_regions(text)
        numbers = tuple(_number(part) for part in (text.split(",") if self.per == "row" else [text]))
        if any(math.isnan(number) for number in numbers):
            several = ", or numbers separated by commas, one per row" if self.per == "row" else ""
            raise argparse.ArgumentTypeError(f"expected a number{several}, got {text!r}")
        return numbers[0] if len(numbers) == 1 else numbers


def _number(text: str) -> float:
    """Return a finite number, or NaN."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def parse_regions(text: str) -> float | ByRegion:
    """Parse a number, or ``eyes=1.2,mouth=0.4``, with the other regions' as a bare number.

    Regions that are not named, without a bare number, keep 1.

    Raises:
        argparse.ArgumentTypeError: with one line on what is wrong.
    """
    default, degrees = None, []
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        value = _number(number)
        if math.isnan(value) or (equals and name.strip() not in REGIONS) or (not equals and default is not None):
            raise argparse.ArgumentTypeError(
                f"expected a number, or REGION=NUMBER,... with regions {', '.join(REGIONS)}, got {text!r}")
        if equals:
            degrees.append((name.strip(), value))
        else:
            default = value
    if len({name for name, _ in degrees}) != len(degrees):
        raise argparse.ArgumentTypeError(f"names a region twice: {text!r}")
    if not degrees:
        return default
    return ByRegion(1.0 if default is None else default, tuple(degrees))


class Look(Mapping[str, Any]):
    """How a face is drawn: values of a style's controls by name; what is None or not given is left to the style.

    Values are numbers, ``ByRegion``, tuples of numbers per row, texts of choices, or ``FileValue``.
    """

    def __init__(self, **values: Any) -> None:
        self._values = {name: values[name] for name in sorted(values) if values[name] is not None}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return f"Look({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def __reduce__(self) -> tuple:
        return _look, (self._values,)

    def changed(self, **values: Any) -> Look:
        """Return the look with some values replaced."""
        return Look(**{**self._values, **values})

    @property
    def has_regions(self) -> bool:
        """True where a value differs between regions, so that the face's landmarks matter."""
        return any(isinstance(value, ByRegion) for value in self._values.values())


def _look(values: dict[str, Any]) -> Look:
    return Look(**values)
