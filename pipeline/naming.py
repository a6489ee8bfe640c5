"""What the photos of a run are, and how their pictures are called."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from data.images import ImageError, list_images
from pipeline.cli import UserError
from pipeline.video_io import is_clip

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


def folder_photos(source: Path, *, recursive: bool = False, output: Path | None = None, clips: bool = False) -> list[Photo]:
    """Return the photos of a folder, or the one file; stems mirror the sub-folders.

    Photos of one folder whose pictures would have one name keep their suffix in the stem, so none overwrites another;
    stems are at most 120 bytes and hold no semicolon, which parts names in the report.

    Args:
        source: the folder or file.
        recursive: sub-folders too.
        output: where pictures will go; a folder of its own inside ``source`` is passed over.
        clips: clips too.

    Raises:
        ImageError: if there is nothing, or no image.
        UserError: if ``output`` is ``source``, for the next run would take the pictures for photos.
    """
    paths = _media(source, recursive=recursive) if clips else list_images(source, recursive=recursive)
    root = source if source.is_dir() else source.parent
    if output is not None and source.is_dir():
        here, there = source.resolve(), output.resolve()
        if here == there:
            raise UserError(f"{output}: is the folder of the photos itself; choose another --output")
        if here in there.parents:
            paths = [path for path in paths if there not in path.resolve().parents]
    if not paths:
        raise ImageError(f"{source}: holds no images outside {output}; check the folder")
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


def _media(source: Path, *, recursive: bool) -> list[Path]:
    """Return the photos and clips of a folder, or the one file; raises ImageError where there is none."""
    found = []
    if source.is_dir():
        entries = source.rglob("*") if recursive else source.iterdir()
        found = [path for path in entries
                 if is_clip(path) and not any(part.startswith(".") for part in path.relative_to(source).parts)]
    try:
        return sorted({*found, *list_images(source, recursive=recursive)})
    except ImageError:
        if not found:
            raise
        return sorted(found)


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
