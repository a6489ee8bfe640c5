"""stylize_dataset.py: lists of photos, resuming, failures as rows, and a run with two Ray workers."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import stylize_dataset
from checkpoints.builders import load_base
from models.deformable import DeformableGenerator
from pipeline import dataset
from pipeline.cli import UserError
from styles.controls import Look
from styles.deformable import save_style

FACE = Path(__file__).resolve().parent.parent / "data" / "style_images_aligned" / "source_sample.png"


@pytest.fixture(scope="module")
def style(tmp_path_factory):
    """A style file: the starter with a visible warp."""
    path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    base = load_base("starter")
    deformable = DeformableGenerator.for_generator(base.generator)
    with torch.no_grad():
        deformable.affine.stns[0].fc_loc[2].bias[2] += 0.1
    save_style(path, deformable, w_avg=base.w_avg, base={"name": "starter", "fingerprint": base.fingerprint},
               training={})
    return path


@pytest.fixture()
def photos(tmp_path):
    """A folder of aligned faces of 64 px in two subfolders with one name in common, and a file that is no image."""
    face = Image.open(FACE).convert("RGB").resize((64, 64))
    for name, degrees in (("a/face.png", 0), ("b/face.png", 10), ("b/face.jpg", 20), ("c.png", 30)):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        face.rotate(degrees).save(path)
    (tmp_path / "in" / "bad.png").write_text("no image")
    return tmp_path / "in"


def settings(style: Path, output: Path) -> dataset.DatasetSettings:
    return dataset.DatasetSettings(str(style), str(output), align=False)


def read_report(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {Path(row["file"]).name if "bad" in row["file"] else row["file"]: row for row in csv.DictReader(file)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.nightly
def test_two_workers_do_every_photo_once(style, photos, tmp_path, monkeypatch, capsys):
    ray = pytest.importorskip("ray", reason="ray of requirements-app.txt is not installed")
    pytest.importorskip("pyarrow", reason="ray[data] of requirements-app.txt is not installed")
    output = tmp_path / "out"
    argv = ["--style", str(style), "--input", str(photos), "--output", str(output), "--align", "false",
            "--workers", "2", "--batch-size", "1"]
    monkeypatch.setenv("PYTHONPATH", "")
    assert stylize_dataset.main(argv) == 2
    rows = read_report(output / "report.csv")
    assert [row["status"] for name, row in rows.items() if name != "bad.png"] == ["done"] * 4
    assert rows["bad.png"]["status"] == "failed" and "not an image" in rows["bad.png"]["error"]
    pictures = sorted(output.rglob("*.png"))
    assert sorted(output / row["outputs"] for row in rows.values() if row["outputs"]) == pictures
    assert len({row["worker"] for row in rows.values()}) == 2
    assert len(pictures) == 4 and all(Image.open(path).size == (128, 128) for path in pictures)
    assert "bad.png" in capsys.readouterr().err
    # Done again without the broken file, nothing is missing, so nothing may start Ray or touch a picture.
    (photos / "bad.png").unlink()
    before = [path.stat().st_mtime_ns for path in pictures]
    assert stylize_dataset.main(argv) == 0
    assert "0 done, 4 kept, 0 failed" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in pictures] == before and not ray.is_initialized()


def test_worker_restyles_as_the_pipeline_does_and_failures_are_rows(style, photos, tmp_path):
    given = settings(style, tmp_path / "out")
    worker = dataset.DatasetWorker(given, "digest", 1)
    found = {Path(photo.path).name: photo for photo in dataset.read_paths(photos)}
    batch = {"path": np.array([found["c.png"].path, found["bad.png"].path, "/no/such.png"]),
             "stem": np.array([found["c.png"].stem, found["bad.png"].stem, "such"])}
    columns = worker(batch)
    assert worker.look == given.look
    assert columns["status"] == ["done", "failed", "failed"] and "not found" in columns["error"][2]
    name, = [name for name in columns["outputs"] if name]
    item = worker.stylizer.stylize(Image.open(found["c.png"].path).convert("RGB"), look=worker.look)
    expected = ((item.result[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / name)), expected.astype(np.uint8))
    assert worker.ledger.earlier(found["c.png"])["status"] == "kept"
    assert worker.ledger.earlier(found["bad.png"]) is None


def test_digest_changes_with_all_that_changes_pictures(tmp_path):
    given = settings(Path("s"), tmp_path)
    others = [given.digest("two"), *(replace(given, **change).digest("one") for change in (
        {"look": Look(alpha=0.1)}, {"steps": 3}, {"inversion": "optimize"}, {"align": True}, {"faces": "all"}, {"base": "other"},
        {"encoder": "other"}))]
    assert len({given.digest("one"), *others}) == 1 + len(others)
    assert replace(given, output="elsewhere", device="cuda").digest("one") == given.digest("one")


def test_lists_name_photos_relative_to_themselves(photos):
    (photos / "list.txt").write_text("c.png\n\n b/face.png \nc.png\n")
    listed = dataset.read_paths(photos / "list.txt")
    assert [photo.path for photo in listed] == [str(photos / "c.png"), str(photos / "b" / "face.png")]
    folder = dataset.read_paths(photos)
    assert len({photo.stem for photo in folder}) == 5 and {photo.stem.split("/")[0] for photo in folder} >= {"a", "b"}
    # A list may name files anywhere, so its stems stay inside the output folder.
    (photos / "list.txt").write_text("../../../etc/face.png\n/else/where.png\n")
    assert all("/" not in photo.stem and ".." not in photo.stem for photo in dataset.read_paths(photos / "list.txt"))
    parquet = pytest.importorskip("pyarrow.parquet", reason="ray[data] of requirements-app.txt is not installed")
    import pyarrow

    parquet.write_table(pyarrow.table({"file": ["c.png", None]}), photos / "list.parquet")
    assert [p.path for p in dataset.read_paths(photos / "list.parquet", column="file")] == [str(photos / "c.png")]
    with pytest.raises(UserError, match="column 'path'"):
        dataset.read_paths(photos / "list.parquet")
    dataset.write_report(photos / "report.parquet", [dict.fromkeys(dataset.COLUMNS, "x")])
    assert parquet.read_table(photos / "report.parquet").column_names == list(dataset.COLUMNS)


def test_wrong_inputs_are_one_line(style, photos, tmp_path, monkeypatch, capsys):
    argv = ["--style", str(style), "--align", "false", "--output", str(tmp_path / "out")]
    (photos / "empty.txt").write_text("\n")
    (photos / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    for more, message in ((["--input", str(photos / "none")], "not found"),
                          (["--input", str(photos / "empty.txt")], "holds no paths"),
                          (["--input", str(photos / "binary.txt")], "no text file"),
                          (["--input", str(photos), "--report", "a.doc"], ".csv or .parquet"),
                          (["--input", str(photos), "--encoder", "nonesuch"], "nonesuch")):
        assert stylize_dataset.main([*argv, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "ray", None)
    assert stylize_dataset.main([*argv, "--input", str(photos)]) == 2
    error = capsys.readouterr().err
    assert error == "ray is not installed; pip install -r requirements-app.txt\n"
