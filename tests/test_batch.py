"""Folder runs: names, what is done already, the report, faces by number; see also test_kill_folder.py."""

from __future__ import annotations

import csv
import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folder_worker import Inverter
from PIL import Image
from skimage.data import astronaut

import inference
from data.images import ImageError, read_image, save_image
from pipeline.batch import Ledger, Photo, Report, folder_photos, run_all, settings_digest
from pipeline.photos import PhotoSettings, drawer
from pipeline.stylize import InversionSettings, Look

ROOT = Path(__file__).resolve().parent.parent


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
    from checkpoints.builders import load_base
    from models.deformable import DeformableGenerator
    from styles.deformable import save_style

    path, base = tmp_path_factory.mktemp("styles"), load_base("starter")
    save_style(path / "toy.safetensors", DeformableGenerator.for_generator(base.generator), w_avg=base.w_avg,
               base={"name": "starter", "fingerprint": base.fingerprint}, training={})
    return path


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run_fake(photos, output, *, digest="x"):
    ledger = Ledger(output, digest)
    return list(run_all(folder_photos(photos, recursive=True), ledger, make=Inverter(), settings=(str(output), 0.0)))


def test_stems_are_unique_and_mirror_folders(photos):
    found = {photo.stem for photo in folder_photos(photos, recursive=True)}
    assert found == {"a_png", "a_jpg", "b", "c", "sub/a", "sub/d"}
    assert Photo("x", "sub/a").named("toy_").stem == "sub/toy_a"
    assert len(folder_photos(photos)) == 4 and folder_photos(photos / "b.png")[0].stem == "b"


@pytest.mark.parametrize(("names", "stems"), [
    # The picture of one photo is never called like that of another.
    (["me.png", "me_side.png", "me_photo.jpg"], ["me", "me_photo_jpg", "me_side_png"]),
    (["me.png", "me_face0.png", "me_face0_side.png"], ["me", "me_face0_png", "me_face0_side_png"]),
    (["a.png", "a.jpg", "a_png.bmp"], ["a_jpg", "a_png", "a_png_"]),
    (["A.png", "a.jpg"], ["A_png", "a_jpg"]),
    (["other_side.png"], ["other_side"]),
    (["a;b.png", "d;e/a.png"], ["a_b", "d_e/a"]),
])
def test_pictures_never_share_a_name(names, stems, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(photo.stem for photo in folder_photos(tmp_path, recursive=True)) == stems


def test_odd_and_long_names(photos, tmp_path):
    """Names that are no text, hold semicolons or are as long as a name can be are done, kept and reported."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    names = [b"caf\xe9.png", b"a;b.png", b"n" * 251 + b".png", b"n" * 250 + b"m.png",
             "\u00e9\u732b".encode() * 40 + b".png"]
    for name in names:
        shutil.copy(photos / "b.png", os.fsencode(source) + b"/" + name)
    ledger = Ledger(output, "x")
    for status in ("done", "kept"):
        found = [photo.named("style_") for photo in folder_photos(source)]
        with Report(ledger) as report:
            for row in run_all(found, ledger, make=Inverter(), settings=(str(output), 0.0)):
                report.add(row)
                assert row["status"] == status, row
    assert len(list(output.glob("*.png"))) == 10
    with open(output / "report.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert {os.fsencode(row["file"]).rsplit(b"/", 1)[1] for row in csv.DictReader(file)} == set(names)


def test_pictures_are_never_taken_for_photos(photos, tmp_path, capsys):
    source = tmp_path / "in"
    shutil.copytree(photos, source)
    output = source / "out"
    for _ in range(2):
        found = folder_photos(source, recursive=True, output=output)
        assert len(found) == 6
        list(run_all(found, Ledger(output, "x"), make=Inverter(), settings=(str(output), 0.0)))
    assert inference.main(["--input_image", str(source), "--output", str(source / "sub" / "..")]) == 2
    assert "is the folder of the photos itself" in capsys.readouterr().err


def test_content_counts_not_the_date(photos, tmp_path):
    """A touched photo is done; another photo of the same size and date is not."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    pixels = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(source / "a.bmp")
    assert [row["status"] for row in run_fake(source, output)] == ["done"]
    os.utime(source / "a.bmp", (1, 1))
    assert [row["status"] for row in run_fake(source, output)] == ["kept"]
    Image.fromarray(pixels + 9).save(source / "a.bmp")
    os.utime(source / "a.bmp", (1, 1))
    assert [row["status"] for row in run_fake(source, output)] == ["done"]


def test_report_holds_earlier_runs_into_the_folder(photos, tmp_path):
    output = tmp_path / "out"

    def run(source, digest="x"):
        ledger = Ledger(output, digest)
        with Report(ledger) as report:
            for row in run_all(folder_photos(source), ledger, make=Inverter(), settings=(str(output), 0.0)):
                report.add(row)
        return {Path(row["file"]).name: row["status"] for row in rows_of(output / "report.csv")}

    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    assert run(photos / "b.png") == {"b.png": "done"}
    assert run(bad) == {"b.png": "done", "bad.png": "failed"}
    assert run(photos / "c.png") == {"b.png": "done", "bad.png": "failed", "c.png": "done"}
    bad.unlink()
    (output / "c.png").unlink()
    assert run(photos / "b.png") == {"b.png": "kept"}
    (output / "report.csv").write_bytes(b"\xff\x00,;\n")
    assert run(photos / "b.png") == {"b.png": "kept"}


def test_report_is_written_while_the_run_goes_on(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.batch.REPORT_SECONDS", 0.0)
    ledger = Ledger(tmp_path, "x")
    report = Report(ledger)
    done = run_all(folder_photos(photos), ledger, make=Inverter(), settings=(str(tmp_path), 0.0))
    for number, row in enumerate(done):
        report.add(row)
        assert len(rows_of(tmp_path / "report.csv")) == number + 1


def test_errors_name_the_photo(tmp_path):
    def fail(photo):
        raise MemoryError

    row = Ledger(tmp_path, "x").run(Photo(str(tmp_path / "p.png"), "p"), fail)
    assert row["status"] == "failed" and row["error"] == f"{tmp_path / 'p.png'}: MemoryError"


def test_without_locks_runs_go_on(photos, tmp_path, monkeypatch):
    """As on a network folder whose server has none."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert {row["status"] for row in run_fake(photos, tmp_path)} == {"done"}


def test_left_overs_of_killed_runs_are_removed(photos, tmp_path):
    old, fresh, other = tmp_path / ".b.png.abc.part", tmp_path / ".c.part", tmp_path / "film.part"
    for path in (old, fresh, other):
        path.touch()
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    run_fake(photos, tmp_path)
    assert not old.exists() and fresh.exists() and other.exists()


def test_unwritable_latents_stop_the_run_with_one_line(photos, styles, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    (tmp_path / "file").touch()
    assert inference.main(["--style", "toy", "--input_image", str(photos / "b.png"), "--align", "false", "--inversion",
                           "e4e", "--cache", str(tmp_path / "file" / "x"), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "file/x: cannot be written" in printed and printed.count("\n") == 1


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


@pytest.mark.nightly
def test_two_real_processes_do_the_same(photos, styles, tmp_path):
    argv = [sys.executable, "inference.py", "--style", "toy", "--input_image", str(photos), "--align", "false",
            "--inversion", "e4e", "--jobs", "2", "--output", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "CHECKPOINTS_DIR": str(styles)}, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in rows_of(tmp_path / "report.csv")} == {"done"}
    assert len(list(tmp_path.glob("*_side.png"))) == 4


def test_two_processes_do_every_photo_once(photos, tmp_path):
    """Without networks, which would cost seconds; what a worker needs of the real run can travel to it."""
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    found = [*folder_photos(photos, recursive=True), *folder_photos(bad)]
    rows = list(run_all(found, Ledger(tmp_path / "out", "x"), make=Inverter(), settings=(str(tmp_path / "out"), 0.0),
                        jobs=2))
    assert sorted(row["status"] for row in rows) == ["done"] * 6 + ["failed"]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 12
    networks = {"style": "toy", "inversion": InversionSettings("e4e"), "cache": tmp_path}
    settings = PhotoSettings(networks, tmp_path, Look(alpha=0.5))
    assert pickle.loads(pickle.dumps(settings)) == settings and pickle.loads(pickle.dumps(drawer)) is drawer


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
    from faces.align import crop_map, photo_corners
    from faces.find import FaceFinder
    from pipeline.paste import feather

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


def test_other_settings_and_damaged_records_mean_again(photos, tmp_path):
    assert {row["status"] for row in run_fake(photos, tmp_path)} == {"done"}
    assert {row["status"] for row in run_fake(photos, tmp_path, digest="y")} == {"done"}
    record = tmp_path / ".records" / "b.json"
    record.write_text(record.read_text()[:20])
    assert sorted(row["status"] for row in run_fake(photos, tmp_path, digest="y")) == ["done"] + ["kept"] * 5
    assert settings_digest(alpha=1.0) != settings_digest(alpha=0.9) and settings_digest(a=1) == settings_digest(a=1)


def test_unwritable_output_is_one_line(photos, styles, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    (tmp_path / "file").write_text("")
    assert inference.main(["--style", "toy", "--input_image", str(photos),
                           "--output", str(tmp_path / "file" / "x")]) == 2
    printed = capsys.readouterr().err
    assert "cannot be written" in printed and printed.count("\n") == 1


def test_rotation_is_applied_once(tmp_path):
    """The result of a photo with an EXIF rotation stands upright and asks for no further one."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "p.jpg", exif=exif, quality=95)
    save_image(tmp_path / "out.jpg", read_image(tmp_path / "p.jpg"))
    result = Image.open(tmp_path / "out.jpg")
    assert result.size == (40, 60) and result.getexif().get(0x0112, 1) == 1
    assert np.asarray(result)[:20].mean() > 250 and np.asarray(result)[40:].mean() < 5


def test_a_folder_as_photo_is_named(tmp_path):
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
