"""Which photos of an output folder are done: a record per photo, and a lock for runs that work at once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import CheckpointError, atomic_write
from data.images import ImageError, WriteError
from pipeline.cli import UserError
from pipeline.naming import Photo, text_hash

RECORDS = ".records"
COLUMNS = ("file", "status", "faces", "seconds", "outputs", "error")
# What one photo can raise; anything else is a defect of the program and stops the run.
PHOTO_ERRORS = (ImageError, UserError, CheckpointError, OSError, ValueError, ArithmeticError, MemoryError)
# A file is written within seconds; what has been half written for an hour was left by a run that was killed.
LEFT_OVER = re.compile(r"\..*\.part")
LEFT_OVER_SECONDS = 3600.0


class Drawn(NamedTuple):
    """What became of one photo: the number of its faces, the files that were written, and what should be known of it."""

    faces: int
    files: list[Path]
    note: str = ""


Draw = Callable[[Photo], Drawn]


def settings_digest(**facts: Any) -> str:
    """Return what a record must agree with to count, of everything that changes the pictures."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_state(path: str) -> list[int]:
    """Return size and modification time of a file, by which a changed photo is noticed; empty if it is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns]


def content_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, by which a changed photo is noticed; empty if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()


class Ledger:
    """The records of an output folder: which photos are done, with which settings.

    Args:
        output: the folder.
        digest: of the settings, see ``settings_digest``.
    """

    def __init__(self, output: Path, digest: str) -> None:
        self.output, self.digest = Path(output), digest

    def record(self, photo: Photo) -> Path:
        """Return where the record of a photo lies."""
        return self.output / RECORDS / f"{photo.stem}.json"

    def earlier(self, photo: Photo) -> dict[str, Any] | None:
        """Return the row of a photo that was done with these settings and whose pictures are there, else None.

        It is the photo's content that counts, not its date: a copy or a download of the same photo is done already.
        """
        try:
            record = json.loads(self.record(photo).read_text())
            row = {name: record[name] for name in COLUMNS}
            same = record["digest"] == self.digest and all(
                (self.output / name).is_file() for name in row["outputs"].split(";"))
            content = record["content"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # an absent or damaged record means that the photo is to be done
        if not same or not content or content != content_digest(photo.path):
            return None
        return row | {"file": photo.path, "status": "kept"}

    def run(self, photo: Photo, draw: Draw, *, force: bool = False, wait: bool = True) -> dict[str, Any] | None:
        """Do one photo unless it is done, write its record, and return its row; an error of the photo is a row too.

        Args:
            photo: what to do.
            draw: writes the pictures into the output folder.
            force: do it even if it is done.
            wait: for another run that is at this photo; without it the result is None then.

        Raises:
            WriteError: if the output cannot be written; nothing more can be done then.
        """
        with self.claim(photo.stem, wait=wait) as mine:
            if not mine:
                return None
            row = None if force else self.earlier(photo)
            return row or self._draw(photo, draw)

    def tidy(self, photos: Sequence[Photo]) -> None:
        """Remove the half-written files that killed runs left where the pictures of these photos go."""
        places = {place.parent for photo in photos for place in (self.record(photo), self.output / photo.stem)}
        for place in places:
            with contextlib.suppress(OSError):  # the folder may be new, and another run may tidy it as well
                for path in place.iterdir():
                    if LEFT_OVER.fullmatch(path.name) and time.time() - path.stat().st_mtime > LEFT_OVER_SECONDS:
                        path.unlink()

    def _draw(self, photo: Photo, draw: Draw) -> dict[str, Any]:
        # The content is taken before the photo is read: if it changes meanwhile, the next run does it again.
        start, content = time.monotonic(), content_digest(photo.path)
        row = {"file": photo.path, "status": "done", "faces": 0, "seconds": 0.0, "outputs": "", "error": ""}
        try:
            drawn = draw(photo)
        except WriteError:
            raise
        except PHOTO_ERRORS as error:
            text = str(error) or type(error).__name__
            text = text if photo.path in text else f"{photo.path}: {text}"
            return row | {"status": "failed", "seconds": round(time.monotonic() - start, 3),
                          "error": " ".join(text.split())}
        names = ";".join(path.relative_to(self.output).as_posix() for path in drawn.files)
        note = f"{photo.path}: {drawn.note}" if drawn.note else ""
        row |= {"faces": drawn.faces, "seconds": round(time.monotonic() - start, 3), "outputs": names, "error": note}
        try:
            with atomic_write(self.record(photo)) as temporary:
                temporary.write_text(json.dumps(row | {"digest": self.digest, "content": content}))
        except (OSError, CheckpointError) as error:
            raise WriteError(f"{self.record(photo)}: cannot be written; free space or choose another folder"
                             ) from error
        return row

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold one name of this folder against other runs; yields whether it is held.

        Where the system or the file system knows no locks every run holds every name: photos may then be done twice,
        each time atomically.
        """
        try:
            import fcntl
        except ImportError:
            yield True
            return
        path = self.output / RECORDS / "lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "ab")
        except OSError as error:
            raise WriteError(f"{path.parent}: cannot be written ({error.strerror}); choose another folder") from error
        with handle:
            # One byte of the file stands for one name; the system lets go of it when the process ends, however it ends.
            place, held = int(text_hash(name)[:7], 16), True
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
            except (BlockingIOError, PermissionError):
                held = False
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise WriteError(f"{path}: cannot be locked ({error.strerror}); choose another folder") from error
            yield held
