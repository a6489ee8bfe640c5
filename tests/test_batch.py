"""Folder runs: what is done stays done, whatever stops the run; NIGHTLY=1 kills the real script 20 times."""

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

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

import inference
from data.images import ImageError, WriteError, read_image, save_image
from pipeline.batch import Drawn, Ledger, Photo, folder_photos, run_all, settings_digest, write_report

ROOT = Path(__file__).resolve().parent.parent
KILLS = 20 if os.environ.get("NIGHTLY") else 2
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX system")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six small aligned faces in two folders, two of which differ in their suffix only."""
    folder = tmp_path_factory.mktemp("photos")
    face = Image.fromarray(astronaut()).crop((140, 10, 310, 180)).resize((128, 128))
    (folder / "sub").mkdir()
    for number, name in enumerate(("a.png", "a.jpg", "b.png", "c.png", "sub/a.png", "sub/d.png")):
        face.rotate(number).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """A folder of weights with one style, the undeformed starter."""
    from checkpoints.builders import load_base, save_style
    from models.deformable import DeformableGenerator

    path, base = tmp_path_factory.mktemp("styles"), load_base("starter")
    save_style(path / "toy.safetensors", DeformableGenerator.for_generator(base.generator), w_avg=base.w_avg,
               base={"name": "starter", "fingerprint": base.fingerprint}, training={})
    return path


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def invert_colours(output, *, pause=0.0):
    """Return a drawing function without networks: two pictures per photo."""
    def draw(photo: Photo) -> Drawn:
        image = read_image(photo.path)
        files = [output / f"{photo.stem}.png", output / f"{photo.stem}_side.png"]
        for path in files:
            save_image(path, Image.eval(image, lambda value: 255 - value))
            time.sleep(pause)
        return Drawn(1, files)

    return draw


def run_fake(photos, output, *, digest="x", pause=0.0):
    ledger = Ledger(output, digest)
    return list(run_all(folder_photos(photos, recursive=True), ledger, make=lambda _: invert_colours(output, pause=pause),
                        settings=None))


def test_stems_are_unique_and_mirror_folders(photos):
    found = {photo.stem for photo in folder_photos(photos, recursive=True)}
    assert found == {"a_png", "a_jpg", "b", "c", "sub/a", "sub/d"}
    assert Photo("x", "sub/a").named("toy_").stem == "sub/toy_a"
    assert len(folder_photos(photos)) == 4 and folder_photos(photos / "b.png")[0].stem == "b"


def test_inference_does_what_is_missing(photos, styles, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(photos, source)
    (source / "sub" / "bad.png").write_text("no image")
    argv = ["--style", "toy", "--input_image", str(source), "--recursive", "--align", "false", "--inversion", "e4e",
            "--output", str(output)]
    assert inference.main(argv) == 2
    assert "bad.png: is not an image" in capsys.readouterr().err
    rows = rows_of(output / "report.csv")
    assert [row["status"] for row in rows].count("done") == 6 and sum(row["error"] != "" for row in rows) == 1
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    assert len(times) == 12 and (output / "sub" / "toy_d.png").is_file()
    (source / "sub" / "bad.png").unlink()
    (output / "toy_b.png").unlink()
    save_image(source / "c.png", Image.new("RGB", (64, 64), "blue"))
    assert inference.main(argv) == 0
    assert "4 of 6 were done already" in capsys.readouterr().err
    changed = {path.name for path, when in times.items() if path.stat().st_mtime_ns != when}
    assert changed == {"toy_b.png", "toy_b_side.png", "toy_c.png", "toy_c_side.png"}
    assert inference.main([*argv, "--alpha", "0.5", "--force"]) == 0
    assert {row["status"] for row in rows_of(output / "report.csv")} == {"done"}


def test_two_processes_do_the_same(photos, styles, tmp_path):
    argv = [sys.executable, "inference.py", "--style", "toy", "--input_image", str(photos), "--align", "false",
            "--inversion", "e4e", "--jobs", "2", "--output", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "CHECKPOINTS_DIR": str(styles)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in rows_of(tmp_path / "report.csv")} == {"done"}
    assert len(list(tmp_path.glob("*_side.png"))) == 4


def test_face_numbers_and_paste_back(styles, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    one = Image.fromarray(astronaut()).crop((100, 0, 400, 260))
    two = Image.new("RGB", (640, 300), (90, 90, 110))
    two.paste(one.resize((345, 299)), (0, 0))
    two.paste(one, (340, 20))
    path = tmp_path / "two.jpg"
    two.save(path, quality=95)
    argv = ["--style", "toy", "--input_image", str(path), "--inversion", "e4e", "--output", str(tmp_path / "out")]
    assert inference.main([*argv, "--paste-back", "--paste-color", "photo"]) == 0
    assert rows_of(tmp_path / "out" / "report.csv")[0]["faces"] == "2"
    assert Image.open(tmp_path / "out" / "toy_two_photo.jpg").size == (640, 300)
    assert inference.main([*argv, "--face", "1"]) == 0 and inference.main([*argv, "--face", "7"]) == 2
    assert "has 2 face(s), so there is no face 7" in capsys.readouterr().err
    assert inference.main([*argv, "--paste-back", "--align", "false"]) == 2
    assert inference.main([*argv, "--face", "1", "--largest"]) == 2


def test_outside_the_faces_the_photo_is_the_same_to_the_bit(styles, tmp_path, monkeypatch):
    from pipeline.align import photo_corners
    from pipeline.faces import FaceFinder
    from pipeline.paste import crop_map, feather

    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    assert inference.main(["--style", "toy", "--input_image", str(tmp_path / "photo.png"), "--inversion", "e4e",
                           "--paste-back", "--output", str(tmp_path)]) == 0
    result = np.asarray(Image.open(tmp_path / "toy_photo_photo.png"), int)
    landmarks = FaceFinder().find(Image.fromarray(astronaut()))[0].landmarks
    matrix = crop_map(photo_corners(landmarks, (512, 512), output_size=128))
    x, y = np.meshgrid(np.arange(512) + 0.5, np.arange(512) + 0.5)
    weight = feather(*(matrix[row, 0] * x + matrix[row, 1] * y + matrix[row, 2] for row in (0, 1)))
    difference = np.abs(result - astronaut())
    assert difference[weight == 0].max() == 0 and difference[weight > 0.9].mean() > 2


@needs_fork
def test_killed_at_20_moments_nothing_is_lost(photos, tmp_path):
    """Every picture that a record names is whole and never made again; the last run finishes."""
    output, rng = tmp_path / "out", random.Random(0)
    seen: dict[Path, int] = {}
    for _ in range(20):
        child = os.fork()
        if child == 0:
            run_fake(photos, output, pause=0.02)
            os._exit(0)
        time.sleep(rng.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for record in (output / ".records").rglob("*.json"):
            for name in json.loads(record.read_text())["outputs"].split(";"):
                Image.open(output / name).load()
                now = (output / name).stat().st_mtime_ns
                assert seen.setdefault(output / name, now) == now, "a finished picture was made again"
    run_fake(photos, output)
    done = run_fake(photos, output)
    assert {row["status"] for row in done} == {"kept"} and len(done) == 6
    assert all(path.stat().st_mtime_ns == when for path, when in seen.items())


def test_killed_script_goes_on(photos, styles, tmp_path):
    argv = [sys.executable, "inference.py", "--style", "toy", "--input_image", str(photos), "--recursive", "--align",
            "false", "--inversion", "e4e", "--output", str(tmp_path)]
    settings = {"cwd": ROOT, "env": {**os.environ, "CHECKPOINTS_DIR": str(styles)}}
    rng = random.Random(1)
    for number in range(KILLS):
        run = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
        before = len(list((tmp_path / ".records").rglob("*.json")))
        deadline = time.monotonic() + 60
        while run.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / ".records").rglob("*.json"))) > before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.2))
        run.kill()
        run.wait()
        if number % 6 == 5:
            shutil.rmtree(tmp_path / ".records")
    done = subprocess.run(argv, capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    assert len(rows_of(tmp_path / "report.csv")) == 6 and not any(row["error"] for row in rows_of(tmp_path / "report.csv"))
    for path in tmp_path.rglob("*.png"):
        Image.open(path).load()


@needs_fork
def test_two_runs_share_one_folder(photos, tmp_path):
    """Every photo is done once, by one of two runs at once."""
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            rows = run_fake(photos, tmp_path / "out", pause=0.05)
            (tmp_path / f"{number}.json").write_text(json.dumps([row["status"] for row in rows]))
            os._exit(0)
        children.append(child)
    assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
    statuses = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2)]
    assert sum(status.count("done") for status in statuses) == 6 and min(map(len, statuses)) == 6


def test_other_settings_and_damaged_records_mean_again(photos, tmp_path):
    assert {row["status"] for row in run_fake(photos, tmp_path)} == {"done"}
    assert {row["status"] for row in run_fake(photos, tmp_path, digest="y")} == {"done"}
    record = tmp_path / ".records" / "b.json"
    record.write_text(record.read_text()[:20])
    assert sorted(row["status"] for row in run_fake(photos, tmp_path, digest="y")) == ["done"] + ["kept"] * 5
    assert settings_digest(alpha=1.0) != settings_digest(alpha=0.9) and settings_digest(a=1) == settings_digest(a=1)


def test_full_disk_is_one_line_and_keeps_earlier_results(photos, tmp_path):
    """On a small memory disk; the pictures that fit stay whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    try:
        output = disk / "out"
        with pytest.raises(WriteError) as error:
            run_fake(photos, output)
        assert "cannot be written" in str(error.value) and "\n" not in str(error.value)
        records = list((output / ".records").rglob("*.json"))
        for record in records:
            for name in json.loads(record.read_text())["outputs"].split(";"):
                Image.open(output / name).load()
        assert not list(output.rglob("*.part")) and len(records) < 6
        with pytest.raises(WriteError):
            write_report(output / "report.csv", [{"file": "x" * 200_000}], columns=("file",))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_unwritable_output_is_one_line(photos, styles, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    (tmp_path / "file").write_text("")
    assert inference.main(["--style", "toy", "--input_image", str(photos), "--output", str(tmp_path / "file" / "x")]) == 2
    printed = capsys.readouterr().err
    assert "cannot be written" in printed and printed.count("\n") == 1


def test_colour_profile_survives(tmp_path):
    photo = Image.new("RGB", (16, 16), "red")
    photo.save(tmp_path / "p.png", icc_profile=b"a profile")
    for name in ("out.png", "out.jpg"):
        save_image(tmp_path / name, read_image(tmp_path / "p.png"))
        assert Image.open(tmp_path / name).info.get("icc_profile") == b"a profile"


def test_a_folder_as_photo_is_named(tmp_path):
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
