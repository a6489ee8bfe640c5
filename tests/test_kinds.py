"""A kind of style that no file of the project knows goes through every script, the page, a clip and a folder run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edge_kind import INK, PAPER, save_edges
from PIL import Image
from test_video import make_clip

import deformation_control
import export
import generate_samples
import inference
import stylize_dataset
from checkpoints.builders import load_base
from pipeline import dataset
from styles.controls import Look

ROOT = Path(__file__).resolve().parent.parent
FACE = ROOT / "data" / "style_images_aligned" / "source_sample.png"


@pytest.fixture(autouse=True)
def weights(tmp_path, monkeypatch):
    """A folder of weights that holds one style, lines."""
    folder = tmp_path / "weights"
    save_edges(folder / "lines.safetensors", load_base("starter"))
    monkeypatch.setenv("CHECKPOINTS_DIR", str(folder))
    return folder


@pytest.fixture()
def photos(tmp_path):
    """A folder of two aligned faces of 64 px."""
    face, folder = Image.open(FACE).convert("RGB").resize((64, 64)), tmp_path / "photos"
    folder.mkdir()
    for name, degrees in (("one", 0), ("two", 20)):
        face.rotate(degrees).save(folder / f"{name}.png")
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_kind_is_short_and_found_by_its_module(weights):
    assert len((ROOT / "tests" / "edge_kind.py").read_text().splitlines()) < 60
    command = "from styles.registry import controls_of; print([c.name for c in controls_of('lines')])"
    known = {**os.environ, "STYLE_KINDS": "edge_kind", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    for environment, words in ((known, "['ink', 'paper']"), ({**known, "STYLE_KINDS": ""}, "kind 'edges', which is not known")):
        done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=False)
        assert words in done.stdout + done.stderr


def test_folder_run_and_its_own_options(photos, tmp_path, capsys):
    argv = ["--style", "lines", "--input_image", str(photos), "--inversion", "e4e", "--align", "false"]
    found = []
    for number, values in enumerate((["--ink", "0"], ["--ink", "2"], ["--ink", "0", "--paper", "grey"])):
        assert inference.main([*argv, "--output", str(tmp_path / str(number)), *values]) == 0
        assert len(list((tmp_path / str(number)).glob("lines_*.png"))) == 4  # two faces, each with its side-by-side
        found.append(pixels(tmp_path / str(number) / "lines_one.png"))
    assert (found[0] == 255).all() and (found[2] == 191).all() and found[1].min() < 128
    capsys.readouterr()
    assert inference.main([*argv, "--alpha", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the style's own controls are --ink, --paper" in said


def test_random_faces_and_a_sweep_of_its_own_slider(tmp_path):
    assert generate_samples.main(["--style", "lines", "--n_each", "2", "--seed", "3", "--ink", "0",
                                  "--output", str(tmp_path / "g")]) == 0
    (grid,) = (tmp_path / "g").glob("*.png")
    assert (pixels(grid)[140:250, 10:120] == 255).all()
    assert deformation_control.main(["--style", "lines", "--control", "ink", "--split", "2",
                                     "--output", str(tmp_path / "d")]) == 0
    (strip,) = (tmp_path / "d").glob("*.png")
    darkness = [255 - part.mean() for part in np.array_split(pixels(strip)[40:], 4, axis=1)[1:]]
    assert darkness[0] < darkness[1] < darkness[2]


def test_a_clip(tmp_path):
    make_clip(tmp_path / "clip.mp4", frames=3, size=(220, 220), face=True)
    assert inference.main(["--style", "lines", "--input_image", str(tmp_path / "clip.mp4"), "--ink", "2",
                           "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "lines_clip.mp4").stat().st_size > 500


@pytest.mark.nightly
def test_export(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="onnxruntime of requirements-app.txt is not installed")
    path = tmp_path / "lines.onnx"
    assert export.main(["--style", "lines", "--what", "generator", "--output", str(path)]) == 0
    import onnxruntime

    inputs = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
    assert [value.name for value in inputs] == ["w_plus", "ink"]


def test_many_photos(photos, tmp_path, monkeypatch):
    def in_this_process(photos, settings, *, digest, workers, batch_size, threads):
        worker = dataset.DatasetWorker(settings, digest, threads)
        for photo in photos:
            yield {name: values[0] for name, values in worker({"path": [photo.path], "stem": [photo.stem]}).items()}

    monkeypatch.setattr(dataset, "ray_session", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(dataset, "process", in_this_process)
    assert stylize_dataset.main(["--style", "lines", "--input", str(photos), "--align", "false", "--ink", "0",
                                 "--output", str(tmp_path / "out")]) == 0
    assert (pixels(tmp_path / "out" / "one.png") == 255).all() and len(list((tmp_path / "out").glob("*.png"))) == 2


def test_the_page(photos):
    pytest.importorskip("gradio", reason="gradio is not installed (requirements-app.txt)")
    import gradio as gr

    from web.controls import build_panel, look_of
    from web.jobs import Trainer
    from web.layout import build
    from web.studio import Studio, Wish

    studio = Studio()
    assert studio.controls("lines") == (INK, PAPER) and studio.pictures("lines") == {"paper": {}}
    with gr.Blocks():
        panel = build_panel(studio.controls("lines"), {}, samples=True, prefix="random", pictures={})
    assert [(type(w), w.value) for w in panel.inputs] == [(gr.Slider, 0.8), (gr.Radio, "white")]
    assert look_of(panel.controls, panel.rows([0.0, "grey"]), samples=True) == Look(ink=0.0, paper="grey")
    drawn = studio.random_faces("lines", Wish(Look(ink=0.0)), seed=1, count=1)
    assert (np.asarray(drawn)[-90:, 10:100] == 255).all()
    assert isinstance(build(studio, Trainer(photos)), gr.Blocks)
