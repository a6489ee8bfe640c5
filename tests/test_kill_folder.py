"""Folder runs under SIGKILL, on a full or read-only disk, and two at once; NIGHTLY=1 kills 20 times instead of 3."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from folder_worker import Inverter
from PIL import Image
from skimage.data import astronaut

from pipeline.batch import Ledger, Report, folder_photos, run_all

ROOT = Path(__file__).resolve().parent.parent
KILLS = 20 if os.environ.get("NIGHTLY") else 3
PHOTOS = 5
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX system")


class Runs:
    """Starts runs of inference.py as children of one process that has loaded the networks."""

    def __init__(self, folder: Path, styles: Path) -> None:
        self.errors, self.photos = folder / "errors.txt", folder / "photos"
        self.server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "folder_worker.py"), "toy"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={**os.environ, "CHECKPOINTS_DIR": str(styles), "OMP_NUM_THREADS": "1"})
        assert self.server.stdout.readline() == "ready\n"

    def ask(self, question) -> int:
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, output: Path) -> int:
        """Return the process id of a run over all photos."""
        argv = ["--style", "toy", "--input_image", str(self.photos), "--recursive", "--inversion", "e4e",
                "--paste-back", "--output", str(output)]
        return self.ask([str(self.errors), argv])

    def run(self, output: Path) -> tuple[int, str]:
        """Return exit code and standard error without the progress bar."""
        code = self.ask(self.start(output))
        lines = self.errors.read_text().replace("\r", "\n").split("\n")
        return code, "\n".join(line for line in lines if line.strip() and not line.startswith("photos:"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Five photos with a face, one of them in a sub-folder, and the process that restyles them."""
    from checkpoints.builders import load_base
    from models.deformable import DeformableGenerator
    from styles.deformable import save_style

    folder, base = tmp_path_factory.mktemp("kill"), load_base("starter")
    save_style(folder / "styles" / "toy.safetensors", DeformableGenerator.for_generator(base.generator),
               w_avg=base.w_avg, base={"name": "starter", "fingerprint": base.fingerprint}, training={})
    face = Image.fromarray(astronaut()).crop((110, 0, 340, 230))
    (folder / "photos" / "sub").mkdir(parents=True)
    for number in range(PHOTOS):
        face.rotate(number).save(folder / "photos" / f"{'sub/' if number == 2 else ''}{number}.png")
    made = Runs(folder, folder / "styles")
    yield made
    made.server.stdin.close()
    made.server.wait()


def recorded(output: Path) -> dict[Path, int]:
    """Return the pictures that records name, each proven to be whole, and when they were written."""
    found = {}
    for record in (output / ".records").rglob("*.json"):
        if not record.name.startswith("."):
            for name in json.loads(record.read_text())["outputs"].split(";"):
                found[output / name] = (output / name).stat().st_mtime_ns
    for path in found:
        Image.open(path).load()
    return found


def rows(output: Path) -> list[dict[str, str]]:
    with open(output / "report.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_all_pictures(output: Path) -> None:
    """Whether a record names it or not, no picture may be half-written."""
    for path in output.rglob("*.png"):
        Image.open(path).load()


def check_done(output: Path) -> None:
    check_all_pictures(output)
    assert len(recorded(output)) == 3 * PHOTOS
    assert len(rows(output)) == PHOTOS and not any(row["error"] for row in rows(output))


def test_killed_at_random_moments(runs, tmp_path):
    """What is done survives every kill and is never made again; the report is whole; the last run finishes."""
    seen: dict[Path, int] = {}
    rng, interrupted, output = random.Random(0), 0, tmp_path / "out"
    for number in range(KILLS):
        if len(seen) == 3 * PHOTOS:
            seen, output = {}, tmp_path / f"out{number}"
        child = runs.start(output)
        time.sleep(rng.uniform(0.1, 1.0))
        os.kill(child, signal.SIGKILL)
        interrupted += runs.ask(child) == -signal.SIGKILL
        now = recorded(output)
        assert {path: now.get(path) for path in seen} == seen, "a finished picture is gone or was made again"
        seen = now
        check_all_pictures(output)
        if (output / "report.csv").exists():
            assert all((output / name).is_file() for row in rows(output) for name in row["outputs"].split(";"))
    assert interrupted >= KILLS / 2
    assert runs.run(output)[0] == 0
    check_done(output)
    final = recorded(output)
    assert all(final[path] == when for path, when in seen.items())
    code, printed = runs.run(output)
    assert code == 0 and f"{PHOTOS} of {PHOTOS} were done already" in printed.split("\n")[-1] and recorded(output) == final


def test_two_runs_into_one_folder(runs, tmp_path):
    """Both end well, and the folder is as one run would have left it."""
    children = [runs.start(tmp_path), runs.start(tmp_path)]
    assert [runs.ask(child) for child in children] == [0, 0]
    check_done(tmp_path)
    made = recorded(tmp_path)
    assert runs.run(tmp_path)[0] == 0 and recorded(tmp_path) == made


def fork(work) -> int:
    """Run a function in a forked process and return its id; it uses no networks, so it needs none of their threads."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def statuses_of(photos: Path, output: Path) -> list[tuple[str, str]]:
    done = run_all(folder_photos(photos), Ledger(output, "x"), make=Inverter(), settings=(str(output), 0.03))
    return [(Path(row["file"]).name, row["status"]) for row in done]


def small_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def test_two_runs_share_the_work(tmp_path):
    """Every photo is done once, and both runs do some."""
    photos = small_photos(tmp_path / "photos", 12)

    def work(number: int) -> None:
        (tmp_path / f"{number}.json").write_text(json.dumps(statuses_of(photos, tmp_path / "out")))

    children = [fork(lambda number=number: work(number)) for number in range(2)]
    for child in children:
        os.waitpid(child, 0)
    both = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2)]
    done = [name for run in both for name, status in run if status == "done"]
    assert sorted(done) == sorted(path.name for path in photos.iterdir())
    assert all(len(run) == 12 and "done" in dict(run).values() for run in both)


def test_a_photo_that_another_run_is_at_comes_last(tmp_path):
    photos, output, flag = small_photos(tmp_path / "photos", 3), tmp_path / "out", tmp_path / "flag"

    def hold() -> None:
        with Ledger(output, "x").claim("0"):
            flag.touch()
            time.sleep(1.0)

    child = fork(hold)
    while not flag.exists():
        time.sleep(0.01)
    assert [name for name, _ in statuses_of(photos, output)] == ["1.png", "2.png", "0.png"]
    os.waitpid(child, 0)


@pytest.mark.parametrize("moment", ["half a picture", "before it has its name", "after it has its name"])
def test_killed_within_every_write(tmp_path, moment):
    """The n-th write of a run (picture, picture, record, report, ...) is its last; the runs after it finish."""
    photos, output = small_photos(tmp_path / "photos", 3), tmp_path / "out"
    left, replace, save = [0], os.replace, Image.Image.save

    def end_after(count: int) -> None:
        left[0] -= count
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def replace_or_die(source, target):
        end_after(moment == "before it has its name")
        replace(source, target)
        end_after(moment == "after it has its name")

    def save_or_die(self, file, *args, **options):
        if moment == "half a picture" and left[0] == 0:
            file.write(b"\x89PNG\r\n")
            file.flush()
        end_after(moment == "half a picture")
        save(self, file, *args, **options)

    def run(count: int) -> None:
        left[0] = count
        os.replace, Image.Image.save = replace_or_die, save_or_die
        ledger = Ledger(output, "x")
        with Report(ledger) as report:
            for row in run_all(folder_photos(photos), ledger, make=Inverter(), settings=(str(output), 0.0)):
                report.add(row)

    seen: dict[Path, int] = {}
    for count in (0, 1, 2, 3, 0, 1, 2):
        child = fork(lambda count=count: run(count))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, -signal.SIGKILL)
        now = recorded(output)
        assert {path: now.get(path) for path in seen} == seen
        seen = now
        check_all_pictures(output)
        assert not (output / "report.csv").exists() or rows(output)
    child = fork(lambda: run(1000))
    os.waitpid(child, 0)
    assert len(rows(output)) == 3 and len(recorded(output)) == 6


@pytest.fixture()
def disk(tmp_path):
    """A memory disk of 300 kB, and a function that changes its options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str) -> bool:
        return bool(shutil.which("mount")) and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)], capture_output=True).returncode == 0

    if not mount("size=300k"):
        pytest.skip("mounting a small disk needs root")
    yield place, mount
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk_then_room(runs, disk):
    """A full disk is one line; what fitted stays and is not made again when there is room."""
    place, mount = disk
    code, printed = runs.run(place / "out")
    assert code == 2 and printed.count("cannot be written") == 1 and "free space" in printed.split("\n")[-1]
    early = recorded(place / "out")
    assert 0 < len(early) < 3 * PHOTOS and not list(place.rglob("*.part"))
    check_all_pictures(place / "out")
    assert mount("remount", "size=8m") and runs.run(place / "out")[0] == 0
    check_done(place / "out")
    final = recorded(place / "out")
    assert {path: final[path] for path in early} == early


def test_read_only_output(runs, disk):
    place, mount = disk
    assert mount("remount", "size=8m") and runs.run(place / "out")[0] == 0
    before = recorded(place / "out")
    assert mount("remount", "ro")
    code, printed = runs.run(place / "out")
    assert code == 2 and "cannot be written" in printed and "\n" not in printed
    assert recorded(place / "out") == before
    check_done(place / "out")


def test_workers_end_with_their_parent(tmp_path):
    """A killed run with --jobs leaves no process behind."""
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    code = (f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
            "from folder_worker import Inverter\n"
            "from pathlib import Path\n"
            "from pipeline.batch import Ledger, Report, folder_photos, run_all\n"
            "if __name__ == '__main__':\n"
            "    out = Path(sys.argv[1]) / 'out'\n"
            "    for row in run_all(folder_photos(Path(sys.argv[1])), Ledger(out, 'x'), make=Inverter(),\n"
            "                       settings=(str(out), 0.2), jobs=2):\n"
            "        print(row['file'], flush=True)\n")
    script = tmp_path / "run.py"
    script.write_text(code)
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline()
    run.kill()
    run.wait()
    # The workers hold the other end of standard output, so it ends when they do.
    os.set_blocking(run.stdout.fileno(), False)
    deadline, ended = time.monotonic() + 20, False
    while not ended and time.monotonic() < deadline:
        try:
            ended = os.read(run.stdout.fileno(), 1000) == b""
        except BlockingIOError:
            time.sleep(0.05)
    assert ended
