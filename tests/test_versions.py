"""Versions of a photo by an encapsulated style, files without a critic, and the best networks of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from modify_worker import JUDGES, source, tiny_encapsulator, tiny_images, tiny_parts
from PIL import Image
from test_modify_style import face, folder, run_encapsulate, style, style_path  # noqa: F401 - fixtures
from test_video import decoded

import versions
from checkpoints import CheckpointError, load_model
from styles.controls import Look
from styles.registry import controls_of, load_style
from training.modify import Adapter, Encapsulator
from training.modify_config import AdaptationConfig, EncapsulationConfig


# ------------------------------------------------------------------------------------------------------------- versions
def run_versions(folder: Path, out: Path, *options: str) -> int:  # noqa: F811
    return versions.main(["--style", "tiny", "--input_image", str(folder / "photos"), "--align", "false",
                          "--output", str(out), "--dtype", "float32", *options])


def test_versions_of_a_folder(folder, style, tmp_path) -> None:  # noqa: ANN001, F811
    out = tmp_path / "out"
    assert run_versions(folder, out, "--num_style", "3", "--interpolate", "4", "--mix_alpha", "30") == 0
    results = sorted(path.name for path in (out / "inference_results").iterdir())
    assert results == [f"secret{i}_{k}.png" for i in range(2) for k in (1, 2, 3)]
    # The networks are random, so that their versions differ little at the usual strength.
    pictures = [np.asarray(Image.open(out / "inference_results" / name)).astype(int) for name in results[:3]]
    assert all(np.abs(a - b).max() > 2 for a, b in zip(pictures, pictures[1:]))
    assert Image.open(out / "inference_coupled" / results[0]).size == (64, 32)
    strip = np.asarray(Image.open(out / "secret0_strip.png")).astype(int)
    assert strip.shape[0] == 2 * 34 - 2 and strip.shape[1] == 5 * 34 - 2, "two intervals of five pictures"
    assert np.array_equal(strip[:32, :32], pictures[0]) and np.array_equal(strip[:32, -32:], pictures[1])
    assert np.array_equal(strip[-32:, -32:], pictures[2]), "the second end is reached"
    assert len(decoded(out / "secret0.mp4")) == 2 * 9


def test_masked_rows_alone_change(style) -> None:  # noqa: ANN001, F811
    seen, decode = [], style.model.decode
    style.model.decode = lambda codes, residual: seen.append(codes) or decode(codes, residual)
    for strength in (0.0, 1.0, (0.0, 0.5, 0.0)):
        style.draw(face(), Look(version=1.0, strength=strength))
    style.model.decode = decode
    own, theirs, mixed = (codes[:, 5:] for codes in seen)
    assert torch.equal(mixed[:, [0, 2]], own[:, [0, 2]])
    assert torch.allclose(mixed[:, 1], (own[:, 1] + theirs[:, 1]) / 2, atol=1e-6)
    with pytest.raises(CheckpointError, match="has 3 style rows, got 2"):
        style.draw(face(), Look(version=1.0, strength=(1.0, 1.0)))
    strength = next(control for control in controls_of("tiny") if control.name == "strength")
    assert strength.parse("0,0.5,1") == (0.0, 0.5, 1.0)


@pytest.mark.parametrize(("options", "message"), [
    (["--latent_mask", "4,6"], "makes the rows 5 to 7, so 4"), (["--num_style", "1", "--interpolate", "3"], "2 or more"),
    (["--style", "any"], "only encapsulated ones"),
])
def test_wrong_options_are_one_line(folder, style, tmp_path, capsys, options, message) -> None:  # noqa: ANN001, F811
    assert run_versions(folder, tmp_path / "out", *options) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


# -------------------------------------------------------------------------------------------------------- the critic
def test_a_file_without_its_critic_draws_and_adapts(folder, style, tmp_path, monkeypatch) -> None:  # noqa: ANN001, F811
    with_critic = style.draw(face(), Look(version=1.0))
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "styles"))
    assert run_encapsulate(folder, "--resume", "--without_critic") == 0
    tensors, config = load_model(style_path(), kind="style")
    assert not any(name.startswith("c.") for name in tensors) and config["critic"] is None and "critic" not in config["card"]
    alone = load_style("tiny")
    alone._judges = JUDGES
    assert alone.critic is None and torch.equal(alone.draw(face(), Look(version=1.0)), with_critic)
    assert alone.adaptation().adv_weight == 0.0
    assert not torch.equal(alone.draw(face(), Look(test_time=2.0)), alone.draw(face(), Look()))
    model, _ = tiny_parts()
    with pytest.raises(ValueError, match="no critic"):
        Adapter(model, None, config=AdaptationConfig(adv_weight=0.1), judges=JUDGES, source=None, preview=tiny_images(1))


# -------------------------------------------------------------------------------------------------- the best networks
def test_the_first_phase_ends_with_the_networks_nearest_to_held_out_images() -> None:
    model, critic = tiny_parts()
    config = EncapsulationConfig(steps=6, swap_steps=1, batch=2, rows=3, n_mlp=2, lr=0.05, adv_r_weight=0.0, val_every=1)
    stage = Encapsulator(model, critic, config=config, judges=JUDGES, source=source(tiny_images(), 2),
                         preview=tiny_images(1), held_out=tiny_images(3, seed=44))
    values = [stage.step()["validation"] for _ in range(6)]
    assert stage.best_value == min(values) and float(stage._validate()) == pytest.approx(min(values), rel=1e-5)
    assert values[-1] > min(values), "the rate is too low for this test to tell the best from the last"
    state = stage.state()
    again = Encapsulator(tiny_parts()[0], critic, config=config, judges=JUDGES, source=source(tiny_images(), 2),
                         preview=tiny_images(1), held_out=tiny_images(3, seed=44))
    again.load_state(state)
    assert again.best_value == stage.best_value
    assert np.isnan(stage.step()["validation"]), "the second phase does not look"
    assert tiny_encapsulator().terms[-1] == "total"


def test_a_share_of_the_images_is_held_out(folder, style, tmp_path, monkeypatch, capsys) -> None:  # noqa: ANN001, F811
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "styles"))
    options = ["--steps", "2", "--swap_steps", "1", "--batch", "2", "--rows", "3", "--n-mlp", "2",
               "--outdir", str(tmp_path / "run")]
    assert run_encapsulate(folder, *options, "--validation", "0.1") == 2
    assert "too few" in capsys.readouterr().err
    assert run_encapsulate(folder, *options, "--validation", "0.34", "--val_every", "1") == 0
    header, *rows = (tmp_path / "run" / "losses.csv").read_text().splitlines()
    column = header.split(",").index("validation")
    assert [row.split(",")[column] not in ("", "nan") for row in rows] == [True, True, False]
