"""Runs over many photos: what is to be done, what is done already, one photo, the report.

A record is written after a photo's pictures are, so a run that was killed goes on where it stopped, and a run with
other settings, another style or a changed photo does that photo again. Two runs into one folder share the work.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import CheckpointError, atomic_write
from data.images import ImageError, WriteError, list_images
from pipeline.cli import UserError

RECORDS = ".records"
COLUMNS = ("file", "status", "faces", "seconds", "outputs", "error")
# What one photo can raise; anything else is a defect of the program and stops the run.
PHOTO_ERRORS = (ImageError, UserError, CheckpointError, OSError, ValueError, ArithmeticError)


@dataclass(frozen=True)
class Photo:
    """One input: its file, and the unique stem of its outputs relative to the output folder."""

    path: str
    stem: str

    def named(self, prefix: str) -> Photo:
        """Return the same photo with ``prefix`` before its outputs' name."""
        stem = Path(self.stem)
        return replace(self, stem=stem.with_name(prefix + stem.name).as_posix())


class Drawn(NamedTuple):
    """What became of one photo: the number of its faces, and the files that were written."""

    faces: int
    files: list[Path]


Draw = Callable[[Photo], Drawn]


def folder_photos(source: Path, *, recursive: bool = False) -> list[Photo]:
    """Return the photos of a folder, or the one file; stems mirror the sub-folders.

    Photos of one folder that differ only in their suffix keep it in the stem, so none overwrites another.

    Raises:
        ImageError: if there is nothing, or no image.
    """
    paths = list_images(source, recursive=recursive)
    root = source if source.is_dir() else source.parent
    bare = [path.with_suffix("") for path in paths]
    photos = []
    for path, stem in zip(paths, bare, strict=True):
        name = stem.name if bare.count(stem) == 1 else path.name.replace(".", "_")
        photos.append(Photo(str(path), (path.relative_to(root).parent / name).as_posix()))
    return photos


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
        """Return the row of a photo that was done with these settings and whose pictures are there, else None."""
        try:
            record = json.loads(self.record(photo).read_text())
            row = {name: record[name] for name in COLUMNS}
            same = record["digest"] == self.digest and record["state"] == file_state(photo.path) != []
            there = all((self.output / name).is_file() for name in row["outputs"].split(";"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # an absent or damaged record means that the photo is to be done
        return row | {"file": photo.path, "status": "kept"} if same and there else None

    def run(self, photo: Photo, draw: Draw, *, force: bool = False) -> dict[str, Any]:
        """Do one photo unless it is done, write its record, and return its row; an error of the photo is a row too.

        Args:
            photo: what to do.
            draw: writes the pictures into the output folder.
            force: do it even if it is done.

        Raises:
            WriteError: if the output cannot be written; nothing more can be done then.
        """
        with self._claim(photo):
            row = None if force else self.earlier(photo)
            if row is not None:
                return row
            start, state = time.monotonic(), file_state(photo.path)
            row = {"file": photo.path, "status": "done", "faces": 0, "seconds": 0.0, "outputs": "", "error": ""}
            try:
                drawn = draw(photo)
            except WriteError:
                raise
            except PHOTO_ERRORS as error:
                seconds = round(time.monotonic() - start, 3)
                return row | {"status": "failed", "seconds": seconds, "error": " ".join(str(error).split())}
            names = ";".join(path.relative_to(self.output).as_posix() for path in drawn.files)
            row |= {"faces": drawn.faces, "seconds": round(time.monotonic() - start, 3), "outputs": names}
            try:
                with atomic_write(self.record(photo)) as temporary:
                    temporary.write_text(json.dumps(row | {"digest": self.digest, "state": state}))
            except (OSError, CheckpointError) as error:
                raise WriteError(f"{self.record(photo)}: cannot be written; free space or choose another folder"
                                 ) from error
            return row

    @contextlib.contextmanager
    def _claim(self, photo: Photo) -> Iterator[None]:
        """Hold one photo of this folder, so that a second run waits for it and then finds it done."""
        try:
            import fcntl
        except ImportError:  # a system without POSIX locks: both runs then do the photo, and each writes atomically
            yield
            return
        path = self.output / RECORDS / "lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "ab")
        except OSError as error:
            raise WriteError(f"{path.parent}: cannot be written ({error.strerror}); choose another folder") from error
        with handle:
            # One byte of the file stands for one photo; the system lets go of it when the process ends, however it ends.
            place = int(hashlib.sha256(photo.stem.encode()).hexdigest()[:7], 16)
            fcntl.lockf(handle, fcntl.LOCK_EX, 1, place)
            yield


def write_report(path: Path, rows: Sequence[dict[str, Any]], *, columns: Sequence[str] = COLUMNS) -> None:
    """Write the rows by file name as CSV, atomically.

    Raises:
        WriteError: if it cannot be written.
    """
    try:
        with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: row["file"]))
    except (OSError, CheckpointError) as error:
        raise WriteError(f"{path}: cannot be written; free space or choose another folder") from error


# The drawing function of a worker process, made once by its initialiser.
_worker: dict[str, Any] = {}


def _start_worker(make: Callable[..., Draw], settings: Any, ledger: Ledger, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _worker["draw"], _worker["ledger"] = make(settings), ledger


def _work(photo: Photo, force: bool) -> dict[str, Any]:
    return _worker["ledger"].run(photo, _worker["draw"], force=force)


def run_all(
    photos: Sequence[Photo], ledger: Ledger, *, make: Callable[[Any], Draw], settings: Any, jobs: int = 1,
    force: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the row of every photo as it is finished.

    Args:
        photos: what to do.
        ledger: of the output folder.
        make: turns ``settings`` into the function that draws one photo; called once per process.
        settings: anything; must survive pickling when ``jobs`` is more than 1.
        jobs: processes; the processor's threads are shared out among them.
        force: do what is done again.

    Raises:
        WriteError: if the output cannot be written.
        UserError: if a process dies, say for lack of memory.
    """
    missing = []
    for photo in photos:
        row = None if force else ledger.earlier(photo)
        if row is None:
            missing.append(photo)
        else:
            yield row
    if missing:
        yield from _run_missing(missing, ledger, make=make, settings=settings, jobs=jobs, force=force)


def _run_missing(
    photos: Sequence[Photo], ledger: Ledger, *, make: Callable[[Any], Draw], settings: Any, jobs: int, force: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the row of every photo as it is finished, see ``run_all``."""
    if min(jobs, len(photos)) == 1:
        draw = make(settings)
        for photo in photos:
            yield ledger.run(photo, draw, force=force)
        return
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ProcessPoolExecutor(min(jobs, len(photos)), mp_context=multiprocessing.get_context("spawn"),
                               initializer=_start_worker, initargs=(make, settings, ledger, max(1, cpus // jobs)))
    try:
        for future in as_completed([pool.submit(_work, photo, force) for photo in photos]):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError("a process of the run died, most likely for lack of memory; use fewer --jobs and give the same "
                        "command again: it goes on where it stopped") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
