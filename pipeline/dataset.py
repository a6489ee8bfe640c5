"""The pipeline over many photos by Ray Data: every worker holds one Stylizer and keeps the ledger of ``batch``."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import atomic_write
from data.images import read_image, save_image
from faces.find import FinderSettings
from pipeline import batch
from pipeline.batch import Drawn, Ledger, Photo, folder_photos, settings_digest
from pipeline.cli import UserError
from styles.controls import Look
from styles.registry import PLUGINS

if TYPE_CHECKING:
    from pipeline.stylize import Stylizer

ROOT = Path(__file__).resolve().parent.parent
# Only paths and report rows pass through Ray's shared memory; pictures go straight to the disk.
STORE_BYTES = 80_000_000
COLUMNS = (*batch.COLUMNS, "worker")


@dataclass(frozen=True)
class DatasetSettings:
    """What is done to every photo, in values that travel to other processes.

    ``style``, ``base`` and ``encoder`` are names or absolute paths; ``output`` is an absolute folder that all workers
    share; ``device`` is cpu or cuda; the rest as in ``inference.py``.
    """

    style: str
    output: str
    look: Look = Look()
    inversion: str = "e4e"
    steps: int = 100
    align: bool = True
    faces: str = "largest"
    base: str | None = None
    encoder: str | None = None
    device: str = "cpu"
    residual: int = 32
    finder: FinderSettings = FinderSettings()

    def digest(self, *fingerprints: str) -> str:
        """Return what a record must agree with to count: all that changes pictures, and the content of style and networks."""
        return settings_digest(**vars(self) | {"style": fingerprints, "output": "", "device": "", "look": repr(self.look),
                                               "finder": repr(self.finder)})


def read_paths(source: Path, *, column: str = "path") -> list[Photo]:
    """Return the photos of a folder and its subfolders, of a text file with one path per line, or of a parquet column.

    Relative paths of a list are relative to it; the stems of its photos carry a digest, so that no two meet.

    Raises:
        UserError: if the list cannot be read or is empty.
        ImageError: if the folder holds no images.
    """
    if source.is_dir():
        # Workers have a folder of their own, so the paths must be absolute.
        return [replace(photo, path=str(Path(photo.path).resolve()))
                for photo in folder_photos(source, recursive=True)]
    if not source.is_file():
        raise UserError(f"{source}: not found; name a folder, a text file of paths or a parquet file")
    names = _parquet_column(source, column) if source.suffix == ".parquet" else _lines(source)
    paths = list(dict.fromkeys((source.parent / name).resolve() for name in names))
    if not paths:
        raise UserError(f"{source}: holds no paths; write one per line, or name the parquet column with --column")
    return [Photo(str(path), f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}") for path in paths]


def _lines(source: Path) -> list[str]:
    try:
        return [line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: is no text file of paths ({error}); write one path per line") from error


def _parquet_column(source: Path, column: str) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        values = pyarrow.parquet.read_table(source, columns=[column])[column].to_pylist()
        return [str(value) for value in values if value]
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{source}: has no readable column {column!r}; name it with --column") from error


class DatasetWorker:
    """Holds a Stylizer and turns batches of photos into report rows; one per process.

    Args:
        settings: what to do.
        digest: of the settings, kept in the records.
        threads: of the processor.
    """

    def __init__(self, settings: DatasetSettings, digest: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.look = settings.look
        self.ledger = Ledger(Path(settings.output), digest)
        self.stylizer = build_stylizer(settings)
        self.name = f"{platform.node()}:{os.getpid()}"

    def __call__(self, photos: dict[str, Any]) -> dict[str, list]:
        """Map columns ``path`` and ``stem`` to the columns of the report."""
        rows = [self.ledger.run(Photo(str(path), str(stem)), self.draw) | {"worker": self.name}
                for path, stem in zip(photos["path"], photos["stem"], strict=True)]
        return {name: [row[name] for row in rows] for name in COLUMNS}

    def draw(self, photo: Photo) -> Drawn:
        """Write the restyled faces of one photo."""
        files = []
        for number, crop in enumerate(self.stylizer.crops(read_image(photo.path), name=photo.path)):
            item = self.stylizer.stylize(crop, look=self.look)
            files.append(self.ledger.output / f"{photo.stem}{f'_face{number}' if number else ''}.png")
            save_image(files[-1], item.result)
        return Drawn(len(files), files)


def build_stylizer(settings: DatasetSettings) -> Stylizer:
    """Load everything that the settings name."""
    from pipeline import stylize

    return stylize.build_stylizer(
        settings.style, base=settings.base, encoder=settings.encoder, align=settings.align, faces=settings.faces,
        finder=settings.finder, device=settings.device,
        inversion=stylize.InversionSettings(settings.inversion, settings.steps, residual=settings.residual))


@contextlib.contextmanager
def ray_session(address: str | None, *, workers: int) -> Iterator[None]:
    """Connect to a cluster for the length of the block, or start Ray on this machine for as many workers.

    Ray is kept quiet, without dashboard and usage statistics.

    Raises:
        UserError: if Ray is not installed or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's core would print its own worries about restarting workers into the progress bar.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("ray is not installed; pip install -r requirements-app.txt") from error
    folders = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        passed = ("CHECKPOINTS_DIR", "GOMP_SPINCOUNT", "HF_HUB_OFFLINE", PLUGINS)
        given = {name: os.environ[name] for name in passed if name in os.environ}
        where: dict[str, Any] = {"address": address, "runtime_env": {"env_vars": {"PYTHONPATH": folders, **given}}}
    else:
        # Processes on this machine inherit the environment, which starts them sooner than a runtime_env.
        os.environ["PYTHONPATH"] = folders
        where = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        ray.init(**quiet, **where)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: Ray does not answer ({' '.join(str(error).split())[:200]}); check the "
                        "address, or leave it out to work on this machine") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def process(
    photos: Sequence[Photo], settings: DatasetSettings, *, digest: str, workers: int, batch_size: int, threads: int,
) -> Iterator[dict[str, Any]]:
    """Yield the report row of every photo as the workers finish it; inside a ``ray_session``.

    Args:
        photos: what to do.
        settings, digest, threads: see ``DatasetWorker``.
        workers: processes.
        batch_size: photos that a worker gets at once.

    Raises:
        UserError: if a worker dies for good or cannot begin; what is done stays done.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    blocks = max(1, -(-len(photos) // batch_size))
    rows = ray.data.from_items([asdict(photo) for photo in photos], override_num_blocks=blocks)
    done = rows.map_batches(
        DatasetWorker, fn_constructor_args=(settings, digest, threads), batch_size=batch_size, num_cpus=1,
        num_gpus=1 if settings.device == "cuda" else None,
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
    )
    try:
        for row in done.iter_rows():
            yield {name: row[name] for name in COLUMNS}
    except ray.exceptions.RayError as error:
        # Ray's text is a traceback of several processes; the first line that names an error is the worker's own.
        named = [line for line in str(error).splitlines() if re.match(r"[\w.]*(Error|Exception): ", line)]
        reason = (named or [type(error).__name__])[0][:300]
        raise UserError(f"{settings.output}: a worker failed ({reason}); mend that, or use fewer --workers if memory "
                        "ran out, and give the same command again: it goes on where it stopped") from error


def write_report(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows by file name as CSV, or as parquet by suffix, atomically."""
    if path.suffix != ".parquet":
        batch.write_report(path, rows, columns=COLUMNS)
        return
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(sorted(rows, key=lambda row: row["file"]))
    with atomic_write(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
