"""The identity figure: its means and limits, and a run on a few faces that goes on where it was."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from benchmarks import quality, quality_common, quality_identity
from checkpoints.builders import load_base
from models.deformable import DeformableGenerator
from pipeline.sampling import base_images
from styles.deformable import save_style
from training.pretrain.faces import FacePack


def row(identity: float, result: float) -> dict:
    way = {"identity": identity, "l1": 0.04, "seconds": 2.0}
    return {"ways": {"e4e": way, "optimised": way}, "results": {"a": {"identity": result, "seconds": 0.1},
                                                               "b": {"identity": 0.6, "seconds": 0.1}}}


def test_means_are_over_photos_and_styles() -> None:
    found = quality_identity.summary([row(0.2, 0.3), row(0.4, 0.1)])
    assert found["photos"] == 2 and found["results"]["a"]["identity"] == pytest.approx(0.2)
    assert found["e4e"]["identity"] == {"value": 0.3, "most": 0.42, "met": True}
    assert not found["optimised"]["identity"]["met"] and found["optimised"]["l1"]["met"]
    assert found["results_mean"] == {"value": 0.4, "most": 0.45, "met": True}


def test_names_of_styles_are_parsed() -> None:
    assert quality.style_list("a, b,a") == ("a", "b")
    with pytest.raises(Exception, match="got none"):
        quality.style_list(",")


def test_figure_is_made_once_and_grows(tmp_path, monkeypatch, capsys) -> None:
    base = load_base("starter")
    faces = ((base_images(base, 3, list(range(16)), truncation_psi=0.7).clamp(-1, 1) + 1) * 127.5).round().byte()
    nothing = torch.full((16, 68, 2), float("nan"))
    pack = FacePack([f"photo_{i}" for i in range(16)], faces, nothing, torch.full((16,), float("nan")))
    monkeypatch.setattr(FacePack, "load", classmethod(lambda cls, path: pack))
    monkeypatch.setattr(quality_common, "weights_digest", lambda names, base: dict.fromkeys(names, "0"))
    path, data = tmp_path / "still.safetensors", tmp_path / "faces.npz"
    save_style(path, DeformableGenerator.for_generator(base.generator), w_avg=base.w_avg,
               base={"name": "starter", "fingerprint": base.fingerprint}, training={})
    data.write_bytes(b"faces")
    argv = ["--only", "identity", "--data", str(data), "--teacher", str(data), "--outdir", str(tmp_path / "out"),
            "--styles", str(path), "--inversion-steps", "0", "--device", "cpu", "--photos"]
    seen = []
    measured = quality_identity.IdentityBench.measure
    monkeypatch.setattr(quality_identity.IdentityBench, "measure",
                        lambda self, photo: seen.append(1) or measured(self, photo))
    assert quality.main([*argv, "2"]) == 0
    first = json.loads(capsys.readouterr().out)["identity"]
    assert len(seen) == 2 and first["photos"] == 2 and "optimised" not in first
    # A style that is at rest draws the inversion itself.
    assert first["results"][str(path)]["identity"] == pytest.approx(first["e4e"]["identity"]["value"], abs=2e-3)
    assert 0.1 < first["e4e"]["identity"]["value"] < first["strangers"] + 0.3
    assert quality.main([*argv, "3"]) == 0
    assert len(seen) == 3 and json.loads(capsys.readouterr().out)["identity"]["photos"] == 3
    with Image.open(tmp_path / "out" / "identity.png") as sheet:
        assert sheet.height == 3 * 128 + 2 * 2  # photo, inversion, result
    assert quality.main([*argv[:8], "--styles", "nowhere"]) == 2
    assert "no such style 'nowhere'" in capsys.readouterr().err
