"""What lies in a folder: photos, clips, and everything else with the reason why it is passed over; in natural order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm",
                  ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif"}
CLIP_SUFFIXES = {".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".3gp",
                 ".3g2", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".mxf"}


def natural_key(name: str | Path) -> tuple:
    """Return what sorts names as people count: ``2.png`` before ``10.png``, folder by folder."""
    parts = []
    for part in Path(name).parts:
        words = re.split("([0-9]+)", part.casefold())
        parts.append([(0, int(word), "") if place % 2 else (1, 0, word) for place, word in enumerate(words) if word])
    return parts, os.fsencode(name)


def is_clip(path: Path) -> bool:
    """Tell by the suffix whether a file is a clip; a GIF is one when it moves."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in CLIP_SUFFIXES
    try:
        with Image.open(path, formats=("GIF",)) as image:
            image.seek(1)
            return True
    except (OSError, ValueError, SyntaxError, EOFError):
        return False  # the photo reader says what is wrong with it


@dataclass
class Listing:
    """The entries of a folder in natural order.

    Attributes:
        images: what has the suffix of an image.
        clips: what has the suffix of a clip, and GIFs that move.
        others: everything else, with the reason why it is none of them.
    """

    images: list[Path] = field(default_factory=list)
    clips: list[Path] = field(default_factory=list)
    others: list[tuple[Path, str]] = field(default_factory=list)


def _entries(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """Yield what lies in a folder; with ``recursive`` what lies in its sub-folders instead of these.

    Links to folders are not followed, for they may lead in circles.
    """
    for entry in folder.iterdir():
        if recursive and entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            try:
                yield from _entries(entry, recursive=True)
            except OSError:
                yield entry  # cannot be read, of which the listing tells
        else:
            yield entry


def _reason(path: Path, *, recursive: bool) -> str:
    """Return why an entry of a folder is no file that could be drawn; empty where it may be one."""
    try:
        if path.name.startswith("."):
            return "hidden"
        if path.is_symlink() and not path.exists():
            return "a link to nothing"
        if path.is_dir():
            return ("a link to a folder" if path.is_symlink() else "a folder that cannot be read" if recursive
                    else "a folder; --recursive does its photos too")
        return "" if path.is_file() else "no regular file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def list_folder(folder: Path, *, recursive: bool = False, without: Path | None = None) -> Listing:
    """Return everything that lies in a folder.

    Args:
        folder: the folder.
        recursive: sub-folders too.
        without: a folder that is left out with all that lies in it.

    Raises:
        OSError: if the folder cannot be read.
    """
    found = Listing()
    apart = without.resolve() if without is not None else None
    for path in in_order(_entries(folder, recursive=recursive)):
        if apart is not None and (path.resolve() == apart or apart in path.resolve().parents):
            continue
        reason = _reason(path, recursive=recursive)
        if reason:
            found.others.append((path, reason))
        elif is_clip(path):
            found.clips.append(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            found.images.append(path)
        else:
            found.others.append((path, "neither a photo nor a clip by its name"))
    return found


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Return paths in natural order."""
    return sorted(paths, key=natural_key)
