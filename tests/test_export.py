"""Exported files: equal to PyTorch, usable without it, never left wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_styles import save_drawn
from PIL import Image

import export
from checkpoints.builders import load_base, load_encoder
from checkpoints.features import load_residual_encoder
from data.images import read_image, to_pil, to_tensor
from drawing.compose import Strengths, draw_mapped
from models.deformable import DeformableGenerator
from models.face import Face
from models.residual_encoder import residual_of
from models.stylegan2 import Generator, GeneratorConfig
from pipeline import exporting
from styles.controls import Look
from styles.deformable import save_style
from styles.deformable_graph import DeformableGraph
from styles.registry import load_style

ROOT = Path(__file__).resolve().parent.parent
FACE = ROOT / "data" / "style_images_aligned" / "source_sample.png"
SCRIPT = ROOT / "docs" / "run_onnx.py"


def needs_onnx() -> None:
    for package in exporting.ONNX_PACKAGES:
        pytest.importorskip(package, reason=f"{package} of requirements-app.txt is not installed")


def warped(generator: Generator, **settings: object) -> DeformableGenerator:
    """Return the generator with a visible warp in every block."""
    deformable = DeformableGenerator.for_generator(generator, **settings)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for block in deformable.tps.stns:
            bias = block.loc_net.fc[2].bias
            bias.add_(torch.randn(bias.shape, generator=rng) * 0.02)
        for block in deformable.affine.stns:
            block.fc_loc[2].bias.add_(torch.tensor([0.0, 0.1, 0.1, 0.0, 0.0, 0.0]))
    return deformable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of weights: the starter with a warp, and two small random styles, one of each mode."""
    path = tmp_path_factory.mktemp("weights")
    base = load_base("starter")
    facts = {"base": {"name": "starter"}, "training": {}}
    save_style(path / "toy.safetensors", warped(base.generator), w_avg=base.w_avg, **facts)
    torch.manual_seed(4)
    small = Generator(GeneratorConfig(size=32, channels={4: 16, 8: 16, 16: 16, 32: 16}))
    for mode in ("exact", "published"):
        save_style(path / f"{mode}.safetensors", warped(small, mode=mode, resolutions=(16, 32)),
                   w_avg=torch.zeros(512), **facts)
    return path


@pytest.fixture(autouse=True)
def weights(folder, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))


def drawn(style, w_plus, alpha) -> torch.Tensor:
    """Return what the project draws, [N, 3, S, S]."""
    return style.draw(Face(w_plus), Look(alpha=alpha))


def expected_picture(alpha: float) -> np.ndarray:
    """Return what the project makes of the bundled face with the encoders alone, [S, S, 3]."""
    style, encoder = load_style("toy"), load_encoder("starter")
    photo = to_tensor(read_image(FACE), encoder.input_size)
    with torch.no_grad():
        w_plus = encoder.module(photo) + encoder.latent_avg
        residual = residual_of(load_residual_encoder().module, style.base.generator, photo, w_plus)
    return np.asarray(to_pil(style.draw(Face(w_plus, residual), Look(alpha=alpha)))).astype(int)


@pytest.mark.nightly
def test_onnx_generator_equals_pytorch_at_latents_the_export_has_not_seen(tmp_path):
    needs_onnx()
    name, count = "exact", 2
    import onnxruntime

    style, path = load_style(name), tmp_path / "style.onnx"
    assert export.main(["--style", name, "--what", "generator", "--batch", str(count), "--output", str(path)]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    w_plus = exporting.random_latents(style, count, seed=99)
    alpha = torch.tensor([-0.5, 1.3])
    found, = session.run(["image"], {"w_plus": w_plus.numpy(), "alpha": alpha.numpy()})
    expected = drawn(style, w_plus, alpha)
    assert np.abs(found - expected.numpy()).max() < 1e-3
    assert float((expected - drawn(style, w_plus, 0.0)).abs().max()) > 0.1
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["style"] == name and "NC" in facts["licence"] and facts["version"]
    assert f"[{count}, 8, 512]" in json.loads(facts["inputs"])["w_plus"]
    assert str(ROOT).encode() not in path.read_bytes()


@pytest.mark.nightly
def test_onnx_photo_runs_in_a_process_without_torch(tmp_path):
    needs_onnx()
    path, picture = tmp_path / "toy.onnx", tmp_path / "restyled.png"
    assert export.main(["--style", "toy", "--output", str(path)]) == 0
    # A module that is None in sys.modules raises ImportError when it is imported.
    start = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    subprocess.run([sys.executable, "-c", start, str(SCRIPT), str(path), str(FACE), str(picture)], check=True,
                   cwd=tmp_path)
    found = np.asarray(Image.open(picture)).astype(int)
    assert np.abs(found - expected_picture(0.8)).max() <= 1
    assert np.abs(found - expected_picture(0.0)).mean() > 1.0


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_of_both_parts_equals_pytorch(tmp_path, capsys):
    style = load_style("published")
    for part, name in (("generator", "published"), ("photo", "toy")):
        assert export.main(["--style", name, "--format", "torchscript", "--what", part,
                            "--output", str(tmp_path / part)]) == 0
    assert "differs from PyTorch by at most" in capsys.readouterr().out
    facts = {"metadata.json": ""}
    graph = torch.jit.load(tmp_path / "generator", _extra_files=facts)
    w_plus = exporting.random_latents(style, 1, seed=5)
    for alpha in (0.3, -0.7):
        expected = drawn(style, w_plus, alpha)
        assert torch.allclose(graph(w_plus, torch.tensor([alpha])), expected, atol=1e-3)
    assert json.loads(facts["metadata.json"])["style"] == "published"
    photo = to_tensor(read_image(FACE), 128)
    with torch.no_grad():
        found = torch.jit.load(tmp_path / "photo")(photo, torch.tensor([0.8]))
    assert np.abs(np.asarray(to_pil(found)).astype(int) - expected_picture(0.8)).max() <= 1


def test_a_wrong_file_is_not_left_behind(tmp_path, monkeypatch, capsys):
    path = tmp_path / "toy.ts"
    path.write_bytes(b"what was there before")
    deform = DeformableGraph._transform
    monkeypatch.setattr(DeformableGraph, "_transform",
                        lambda self, x, **given: deform(self, x, **(given | {"alpha": given["alpha"] * 0.9})))
    argv = ["--style", "exact", "--format", "torchscript", "--what", "generator", "--output", str(path)]
    assert export.main(argv) == 2
    error = capsys.readouterr().err
    assert str(path) in error and "differs from PyTorch" in error and error.count("\n") == 1
    assert path.read_bytes() == b"what was there before" and list(tmp_path.iterdir()) == [path]


def test_missing_packages_and_wrong_sizes_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, type(sys)(package))
    assert export.main(["--style", "toy", "--output", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert "onnxruntime is not installed" in error and "requirements-app.txt" in error and error.count("\n") == 1
    ts = ["--style", "toy", "--format", "torchscript", "--output", str(tmp_path / "a.ts")]
    assert export.main([*ts, "--size", "200"]) == 2
    assert "128 px" in capsys.readouterr().err
    assert export.main([*ts, "--size", "256", "--what", "generator"]) == 2
    assert "--size" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_larger_photos_are_averaged_in_the_graph():
    style, encoder = load_style("toy"), load_encoder("starter")
    beside = load_residual_encoder(), style.base

    def graph(size: int) -> exporting.PhotoGraph:
        return exporting.PhotoGraph(style.graph(), exporting.Inverter(encoder, beside, size=size)).eval()

    photo = to_tensor(read_image(FACE), 128)
    with torch.no_grad():
        doubled = graph(256)(photo.repeat_interleave(2, 2).repeat_interleave(2, 3), torch.ones(1))
        plain = graph(128)(photo, torch.ones(1))
    assert torch.allclose(doubled, plain, atol=1e-4)


def test_readme_shows_the_tested_script():
    readme = (ROOT / "README.md").read_text()
    if "onnxruntime" not in readme:
        pytest.skip("README.md does not show the script")
    assert SCRIPT.read_text().strip() in readme


@pytest.fixture()
def drawn_file(folder):
    return save_drawn(folder / "drawn.safetensors")


def test_drawing_stages_run_in_a_process_without_torch(drawn_file, tmp_path):
    """At 128 px, where they are quick."""
    needs_onnx()
    path, picture, photo = tmp_path / "drawn.onnx", tmp_path / "restyled.png", tmp_path / "face.png"
    Image.open(FACE).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS).save(photo)
    assert export.main(["--style", "drawn", "--size", "128", "--output", str(path), "--face", str(photo)]) == 0
    start = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    subprocess.run([sys.executable, "-c", start, str(SCRIPT), str(path), str(photo), str(picture), str(tmp_path / "face.npz")],
                   check=True, cwd=tmp_path)
    style, image = load_style("drawn"), to_tensor(read_image(photo), 128)
    known = {name: torch.from_numpy(value) for name, value in np.load(tmp_path / "face.npz").items()}
    assert {name: list(value.shape) for name, value in known.items()} == {
        "parts": [1, 4, 128, 128], "grid": [1, 64, 64, 2], "placed": [1, 15, 64, 64]}
    expected = draw_mapped(image, known["parts"], known["grid"], known["placed"], style.drawn, Strengths())
    found = np.asarray(Image.open(picture)).astype(int)
    assert np.abs(found - np.asarray(to_pil(expected)).astype(int)).max() <= 1
    assert np.abs(found - np.asarray(to_pil(image)).astype(int)).mean() > 3.0


@pytest.mark.parametrize(("argv", "words"), [
    (["--style", "drawn", "--what", "photo"], "draws photos"), (["--style", "toy", "--what", "drawing"], "draws no photos"),
    (["--style", "drawn", "--size", "100"], "multiple of 32"), (["--style", "drawn", "--batch", "2"], "one face at a time"),
    (["--style", "toy", "--face", "a.png"], "--face"),
])
def test_what_does_not_go_with_a_style_is_one_line(drawn_file, tmp_path, capsys, argv, words):
    assert export.main([*argv, "--output", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []
