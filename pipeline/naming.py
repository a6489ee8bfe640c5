"""What the photos of a run are, and how their pictures are called."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from data.images import ImageError, list_images, listed
from data.listing import Listing, in_order, is_clip
from pipeline.cli import UserError

# What is added to a stem to name its pictures: a photo whose name ends so may meet the picture of another.
PICTURE = re.compile(r"(_face\d+)?(_side|_photo)?$")
# File systems allow 255 bytes; the style's name and endings come on top.
MAX_STEM_BYTES = 120


@dataclass(frozen=True)
class Photo:
    """One input: its file, and the unique stem of its outputs relative to the output folder."""

    path: str
    stem: str

    def named(self, prefix: str) -> Photo:
        """Return the same photo with ``prefix`` before its outputs' name."""
        stem = Path(self.stem)
        return replace(self, stem=stem.with_name(prefix + stem.name).as_posix())


@dataclass(frozen=True)
class Inputs:
    """What a run finds in a folder: photos and clips to draw, and what is passed over with the reason."""

    photos: list[Photo]
    clips: list[Photo]
    others: list[tuple[Path, str]]


def folder_photos(source: Path, *, recursive: bool = False, output: Path | None = None) -> list[Photo]:
    """Return the photos of a folder in natural order, or the one file; stems mirror the sub-folders.

    Args, Raises: see ``folder_inputs``; also ImageError where there is no image.
    """
    if not source.is_dir():
        return _named(list_images(source), root=source.parent)
    photos = _named(_listing(source, recursive, output).images, root=source)
    if not photos:
        raise ImageError(f"{source}: holds no images{f' outside {output}' if output else ''}; check the folder")
    return photos


def folder_inputs(source: Path, *, recursive: bool = False, output: Path | None = None) -> Inputs:
    """Return everything that lies in a folder, or the one file; names as of ``folder_photos``.

    Files of one folder whose pictures would have one name keep their suffix in the stem, so none overwrites another;
    stems are at most 120 bytes and hold no semicolon, which parts names in the report.

    Args:
        source: the folder or file.
        recursive: sub-folders too.
        output: where pictures will go; a folder of its own inside ``source`` is passed over.

    Raises:
        ImageError: if there is nothing, or neither image nor clip.
        UserError: if ``output`` is ``source``, for the next run would take the pictures for photos.
    """
    if not source.is_dir():
        photos = _named(list_images(source), root=source.parent)
        return Inputs([], photos, []) if is_clip(source) else Inputs(photos, [], [])
    found = _listing(source, recursive, output)
    if not found.images and not found.clips:
        raise ImageError(f"{source}: holds neither images nor clips{f' outside {output}' if output else ''}; check the folder")
    named = _named(in_order([*found.images, *found.clips]), root=source)
    clips = {str(path) for path in found.clips}
    return Inputs([one for one in named if one.path not in clips], [one for one in named if one.path in clips], found.others)


def _listing(source: Path, recursive: bool, output: Path | None) -> Listing:
    if output is not None and source.resolve() == output.resolve():
        raise UserError(f"{output}: is the folder of the photos itself; choose another --output")
    return listed(source, recursive=recursive, without=output)


def _named(paths: list[Path], *, root: Path) -> list[Photo]:
    """Return files of ``root`` with their stems."""
    bare = [_key(path.with_suffix("")) for path in paths]
    counts, photos, taken = Counter(bare), [], set()
    for path, key in zip(paths, bare, strict=True):
        meets = PICTURE.sub("", key)
        name = path.stem if counts[key] == 1 and (meets == key or meets not in counts) else path.name.replace(".", "_")
        stem = Path(*map(_short, path.relative_to(root).parent.parts), _short(name))
        while _key(stem) in taken:
            stem = stem.with_name(f"{stem.name}_")
        taken.add(_key(stem))
        photos.append(Photo(str(path), stem.as_posix()))
    return photos


def _key(path: Path) -> str:
    """Return a path such that two that some file system takes for one are equal."""
    return str(path).casefold()


def _short(name: str) -> str:
    """Return a name without semicolons and broken characters, and of bounded length."""
    clean = os.fsencode(name).decode("utf-8", "replace").replace(";", "_")
    if len(clean.encode()) <= MAX_STEM_BYTES:
        return clean
    return clean.encode()[:MAX_STEM_BYTES - 9].decode("utf-8", "ignore") + "_" + text_hash(name)[:8]


def text_hash(text: str) -> str:
    """Return the SHA-256 of a name, which may hold bytes that are no text."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()
