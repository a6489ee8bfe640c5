"""Runs over many photos: what is to be done, what is done already, one photo, the report.

A record is written after a photo's pictures are, so a run that was killed goes on where it stopped, and a run with
other settings, another style or a changed photo does that photo again. Two runs into one folder share the work: each
does the photos that the other is not at.
"""

from __future__ import annotations

import csv
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from checkpoints import CheckpointError, atomic_write
from data.images import WriteError
from data.listing import natural_key
from pipeline.cli import UserError
from pipeline.ledger import COLUMNS, Draw, Drawn, Ledger, content_digest, file_state, settings_digest
from pipeline.naming import Photo, folder_inputs, folder_photos

__all__ = ["COLUMNS", "Draw", "Drawn", "Ledger", "Photo", "Report", "content_digest", "file_state", "folder_inputs",
           "folder_photos", "run_all", "settings_digest", "write_report"]
REPORT_SECONDS = 2.0
PASSED_OVER = "passed over"


def write_report(path: Path, rows: Sequence[dict[str, Any]], *, columns: Sequence[str] = COLUMNS) -> None:
    """Write the rows in natural order of their files as CSV, atomically.

    Raises:
        WriteError: if it cannot be written.
    """
    try:
        with atomic_write(path) as temporary, \
                open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: natural_key(row["file"])))
    except (OSError, CheckpointError) as error:
        raise WriteError(f"{path}: cannot be written; free space or choose another folder") from error


class Report:
    """The ``report.csv`` of an output folder, written every 2 s and at the end, so that a killed run leaves one too.

    Rows of other photos stay as long as their pictures, or the photos that failed, are there; so runs over several
    folders into one, also at once, are all in it.

    Args:
        ledger: of the output folder.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.path = ledger, ledger.output / "report.csv"
        self.rows: list[dict[str, Any]] = []
        self._written = -REPORT_SECONDS

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        self.write()

    def add(self, row: dict[str, Any]) -> None:
        """Add the row of one input."""
        self.rows.append(row)
        if time.monotonic() - self._written >= REPORT_SECONDS:
            self.write()

    def pass_over(self, others: Iterable[tuple[Path, str]]) -> None:
        """Add what is not drawn, with the reasons."""
        self.rows += [{"file": str(path), "status": PASSED_OVER, "faces": 0, "seconds": 0.0, "outputs": "",
                       "error": f"passed over: {reason}"} for path, reason in others]

    def count(self, status: str) -> int:
        """Return how many rows of this run have a status."""
        return sum(row["status"] == status for row in self.rows)

    def write(self) -> None:
        """Write the report; raises WriteError."""
        with self.ledger.claim("report.csv"):
            write_report(self.path, self.rows + self._others())
        self._written = time.monotonic()

    def _others(self) -> list[dict[str, Any]]:
        """Return the rows of the present report that this run says nothing about."""
        try:
            with open(self.path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                reader = csv.DictReader(file)
                found = list(reader) if tuple(reader.fieldnames or ()) == COLUMNS else []
        except (OSError, ValueError, csv.Error):
            return []
        files = {os.path.realpath(row["file"]) for row in self.rows}
        made = {name for row in self.rows for name in row["outputs"].split(";") if name}
        others = []
        for row in found:
            if None in row or None in row.values() or os.path.realpath(row["file"]) in files:
                continue
            names = [name for name in row["outputs"].split(";") if name]
            there = (all((self.ledger.output / name).is_file() for name in names) if names
                     else os.path.lexists(row["file"]))
            if there and not made.intersection(names):
                others.append(row)
        return others


# The drawing function of a worker process, made once by its initialiser.
_worker: dict[str, Any] = {}


def _start_worker(
    make: Callable[..., Draw], settings: Any, ledger: Ledger, threads: int,
    alive: multiprocessing.connection.Connection,
) -> None:
    import torch

    # The parent alone answers an interrupt.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    torch.set_num_threads(threads)
    _worker["draw"], _worker["ledger"] = make(settings), ledger


def _end_with(alive: multiprocessing.connection.Connection) -> None:
    """End this process once the other end of the pipe is closed: the run was interrupted, or its parent was killed.

    That may be in the middle of a photo, which is as safe as it is for a run that is killed, and no wait for it.
    """
    multiprocessing.connection.wait([alive])
    os._exit(1)


def _work(photo: Photo, force: bool, wait: bool) -> dict[str, Any] | None:
    return _worker["ledger"].run(photo, _worker["draw"], force=force, wait=wait)


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
    ledger.tidy(photos)
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
        draw, busy = make(settings), []
        for photo in photos:
            row = ledger.run(photo, draw, force=force, wait=False)
            if row is None:
                busy.append(photo)
            else:
                yield row
        for photo in busy:
            yield ledger.run(photo, draw, force=force)
        return
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    alive, ended = multiprocessing.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(jobs, len(photos)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker,
        initargs=(make, settings, ledger, max(1, cpus // jobs), alive))
    with alive, ended:
        try:
            left = list(photos)
            for wait in (False, True):
                futures = {pool.submit(_work, photo, force, wait): photo for photo in left}
                left = []
                for future in as_completed(futures):
                    if future.result() is None:
                        left.append(futures[future])
                    else:
                        yield future.result()
            pool.shutdown(wait=True)
        except BrokenProcessPool as error:
            raise UserError("a process of the run died, most likely for lack of memory; use fewer --jobs and give the "
                            "same command again: it goes on where it stopped") from error
        finally:
            ended.close()
            pool.shutdown(wait=True, cancel_futures=True)
