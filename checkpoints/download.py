"""Fetching weights: what is broken off goes on, and what is not the right file is not put in its place."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from checkpoints.io import CheckpointError, check_file
from checkpoints.manifest import Entry, check_content, check_size, import_file
from checkpoints.paths import checkpoints_dir

BLOCK = 1 << 20
ATTEMPTS = 3
TIMEOUT = 30.0
# Files that are another form of what lies in the folder, so that they are imported.
PACKED = (".bz2", ".pkl")
# Words of a licence by which it may rule out some use; others are free.
FREE = ("MIT", "BSD", "Apache", "CC0")

Progress = Callable[[int, int | None], None]


def needs_consent(entry: Entry) -> bool:
    """Tell whether the licence of a file may rule out commercial use."""
    text = entry.licence
    return not text.startswith(FREE) or any(word in text for word in ("NC", "terms", "commercial"))


def address(entry: Entry, mirror: str | None = None) -> str:
    """Return where a file can be fetched.

    Args:
        entry: of the manifest.
        mirror: folder of files by their names in ``checkpoints/``; None for the maker's address.

    Raises:
        CheckpointError: if its maker gives no address that a program can fetch.
    """
    if mirror:
        return f"{mirror.rstrip('/')}/{urllib.parse.quote(entry.file)}"
    if not entry.url:
        raise CheckpointError(f"{entry.name}: its maker gives no address that a program can fetch; get it by hand from "
                              f"{entry.source}, then `python -m checkpoints import FILE`, or name a --mirror that has "
                              f"{entry.file}")
    return entry.url


def download(entry: Entry, *, mirror: str | None = None, progress: Progress | None = None) -> Path:
    """Fetch a file, check it, put it in its place, and return that.

    Args:
        entry: of the manifest.
        mirror: see ``address``.
        progress: called with the bytes that are here, and those of the whole where known.

    Raises:
        CheckpointError: in one line, if it cannot be fetched or is another file. What was fetched stays if the connection
            broke off, and the next call goes on.
    """
    url, folder = address(entry, mirror), checkpoints_dir() / ".downloads"
    name = Path(urllib.parse.unquote(urllib.parse.urlparse(url).path)).name
    part, whole = folder / f"{name}.part", folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        expected = None if name.endswith(PACKED) else entry.bytes
        for attempt in range(ATTEMPTS):
            try:
                _fetch(url, part, expected=expected, progress=progress)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError, EOFError, OSError) as error:
                fatal = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if attempt + 1 == ATTEMPTS or fatal or isinstance(error, (PermissionError, FileNotFoundError)):
                    raise CheckpointError(f"{url}: {_told(error, part)}") from error
        os.replace(part, whole)
        return _placed(entry, whole, url)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error.strerror}); free space or change its permissions") from error


def _told(error: Exception, part: Path) -> str:
    """Say what went wrong on the way, and what to do."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}; check the address, or name another --mirror"
    have = part.stat().st_size if part.is_file() else 0
    reason = getattr(error, "reason", None) or error
    return f"broke off after {have} bytes ({reason}); give the same command again, it goes on there"


def _fetch(url: str, part: Path, *, expected: int | None, progress: Progress | None) -> None:
    """Bring a partial file to its end; raises EOFError where the server ends early."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left, or what is here is of another file
            raise
        if have == _length_of(error):
            return
        part.unlink()
        return _fetch(url, part, expected=expected, progress=progress)
    with answer:
        goes_on = answer.status == 206
        left = answer.headers.get("Content-Length")
        total = None if left is None else int(left) + (have if goes_on else 0)
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise CheckpointError(f"{url}: gives a web page, not a file; open it in a browser, save the file, and "
                                  "`python -m checkpoints import FILE`")
        if expected is not None and total is not None and total != expected:
            part.unlink(missing_ok=True)
            raise CheckpointError(f"{url}: has {total} bytes, expected {expected}; it is another file, so name another --mirror")
        with open(part, "ab" if goes_on else "wb") as file:
            for block in _blocks(answer):
                file.write(block)
                if progress is not None:
                    progress(file.tell(), total)
            if total is not None and file.tell() < total:
                raise EOFError(f"{file.tell()} of {total} bytes")


def _blocks(answer: Any) -> Iterator[bytes]:
    while block := answer.read(BLOCK):
        yield block


def _length_of(error: urllib.error.HTTPError) -> int | None:
    """Return the length of the whole file that a refusal of a range tells of."""
    text = error.headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if text.isdigit() else None


def _placed(entry: Entry, file: Path, url: str) -> Path:
    """Check a fetched file and move it to its place; a wrong one is removed."""
    try:
        check_file(file, name=url)
        if file.name.endswith(PACKED):
            return import_file(file)
        check_size(file, entry)
        check_content(file, entry)
        place = checkpoints_dir() / entry.file
        shutil.move(file, place)
        return place
    finally:
        file.unlink(missing_ok=True)
