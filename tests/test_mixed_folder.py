"""A folder of 500 files of every kind: killed five times, the report names every one, and the end is that of one run."""

from __future__ import annotations

import csv
import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest
from folder_worker import Inverter
from PIL import Image
from test_clip_colours import Blind
from test_kill_folder import fork
from test_video import make_clip

from pipeline.batch import Ledger, Report, folder_inputs, run_all
from pipeline.clip_drawer import VideoSettings
from pipeline.ledger import Drawn
from pipeline.video import stylize_video
from styles.controls import Look

FILES = 500


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Photos of all formats, clips, broken, empty, hidden and odd ones, links, in two levels."""
    folder, rng = tmp_path_factory.mktemp("mixed"), random.Random(0)
    picture = Image.effect_noise((24, 24), 60).convert("RGB")
    kinds = itertools.cycle(("png", "jpg", "jfif", "webp", "avif", "tif", "gif", "bmp"))
    saved = {}
    for number in range(FILES):
        place = folder / f"sub {number % 7}" if number % 3 == 0 else folder
        place.mkdir(exist_ok=True)
        kind = number % 10
        if kind == 0:
            (place / f"{number} odd;ä写.txt").write_text("x")
        elif kind == 1:
            (place / f"{number}.png").write_bytes(rng.randbytes(rng.choice((0, 300))))
        elif kind == 2:
            (place / f"link{number}.png").symlink_to(folder / rng.choice(("nothing", "sub 1")))
        elif kind == 3:
            (place / f".hidden{number}.png").write_bytes(b"x")
        elif kind == 4 and number % 100 == 4:
            make_clip(place / f"{number}.{rng.choice(('ts', 'mp4'))}", frames=2, size=(64, 48))
        elif kind == 5 and number % 50 == 5:
            picture.save(place / f"{number}.gif", save_all=True, append_images=[picture.rotate(90)])
        else:
            suffix = next(kinds)
            if suffix not in saved:
                picture.save(folder.parent / f"one.{suffix}", {"jfif": "JPEG"}.get(suffix))
                saved[suffix] = (folder.parent / f"one.{suffix}").read_bytes()
            (place / f"{number}.{suffix}").write_bytes(saved[suffix])
    (folder / os.fsdecode(b"broken name \xff.png")).write_bytes(saved["png"])
    return folder


def run(folder: Path, output: Path) -> None:
    """Do what ``inference.py --recursive`` does, with drawing that needs no networks."""
    found = folder_inputs(folder, recursive=True, output=output)

    def clips(_):  # noqa: ANN001, ANN202
        def draw(clip):  # noqa: ANN001, ANN202
            path = output / f"{clip.stem}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            report = stylize_video(Path(clip.path), Blind(), output=path, look=Look(alpha=1.0), settings=VideoSettings())
            return Drawn(0, [path], str(report))

        return draw

    with Report(Ledger(output, "x")) as report:
        report.pass_over(found.others)
        for row in run_all(found.photos, Ledger(output, "photos"), make=Inverter(), settings=(str(output), 0.001)):
            report.add(row)
        for row in run_all(found.clips, Ledger(output, "clips"), make=clips, settings=None):
            report.add(row)


def ended(output: Path) -> dict[str, tuple[str, str]]:
    """Return status and outputs by file, what was kept counting as done."""
    with open(output / "report.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows)
    return {row["file"]: (row["status"].replace("kept", "done"), row["outputs"]) for row in rows}


def test_nothing_is_missing_after_five_kills(mixed, tmp_path):
    rng, output = random.Random(1), tmp_path / "out"
    for _ in range(5):
        child = fork(lambda: run(mixed, output))
        time.sleep(rng.uniform(0.5, 2.0))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run(mixed, output)
    run(mixed, tmp_path / "once")
    found = ended(output)
    assert found == ended(tmp_path / "once")
    everything = {os.path.join(folder, name) for folder, folders, names in os.walk(mixed)
                  for name in (*names, *(n for n in folders if os.path.islink(os.path.join(folder, n))))}
    assert set(found) == everything and len(everything) >= FILES
    counts = {status: sum(one == status for one, _ in found.values()) for status in ("done", "failed", "passed over")}
    assert sum(counts.values()) == len(found) and min(counts.values()) >= 40, counts
    assert all((output / name).is_file() for status, names in found.values() if status == "done" for name in names.split(";"))
