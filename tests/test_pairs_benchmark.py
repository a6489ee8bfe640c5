"""The benchmark of many pairs: made ones are drawn, results are kept, a run that failed is counted."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import pairs
from checkpoints.paths import bundled_styles_dir
from data.images import read_image


def test_pairs_are_drawn_trained_measured_and_kept(tmp_path: Path, monkeypatch, capsys) -> None:  # noqa: ANN001
    asked: list[str] = []

    def trained(name, source, target, seed, args):  # noqa: ANN001, ANN202 - stands for train.py, whose style is a ready one
        asked.append(name)
        assert read_image(source).size == read_image(target).size == (512, 512) and seed in (0, 1)
        path = args.outdir / "styles" / f"{name}.safetensors"
        if name.endswith("_1"):
            return path, 2, ["it diverged"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((bundled_styles_dir() / "cartoon.safetensors").read_bytes())
        return path, 0, []

    monkeypatch.setattr(pairs, "trained", trained)
    argv = ["--made", "1", "--samples", "2", "--outdir", str(tmp_path)]
    assert pairs.main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert asked == ["00_flat_0", "00_flat_1"]
    assert found["runs"] == 2 and found["failed"] == 1 and found["faces"] == 2
    assert found["least_determinant"] > 0.05 and found["faces_found"]["1"] == 2
    assert 0.1 < found["roughest_to_drawing"] < 10.0
    sheet = read_image(tmp_path / "sheet_00_flat_0.png")
    assert sheet.height > 4 * 128 and not list((tmp_path / "styles").iterdir())
    # Again: everything is kept.
    assert pairs.main(argv) == 0 and len(asked) == 2
    assert json.loads(capsys.readouterr().out) == found


def test_a_source_needs_its_target(tmp_path: Path, capsys) -> None:  # noqa: ANN001
    source = bundled_styles_dir().parents[1] / "data" / "style_images_aligned" / "source_sample.png"
    (tmp_path / "source7.png").write_bytes(source.read_bytes())
    assert pairs.main(["--pairs", str(tmp_path), "--made", "0", "--outdir", str(tmp_path / "out")]) == 2
    assert "target7.png: not found" in capsys.readouterr().err
