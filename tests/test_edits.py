"""Editing directions: parsing, rows and features that move, photos that follow, files, SeFa, and how directions are found."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from drawn_styles import save_drawn
from PIL import Image
from skimage.data import astronaut

import deformation_control
import generate_samples
from checkpoints import CheckpointError
from checkpoints.builders import Base, load_base
from checkpoints.edits import bundled_directions, load_directions, read_direction
from data.landmarks68 import MEAN_FACE
from data.make_edits import LABELS, TOLD, directions, from_landmarks, read_labels
from models.edits import Direction, Edit, edited, features_moved, moved, parse_edits, sefa
from models.face import Face
from models.stylegan2 import Generator, GeneratorConfig
from pipeline.stylize import InversionSettings, build_stylizer

CONFIG = GeneratorConfig(size=32, style_dim=16, n_mlp=1, channels={4: 8, 8: 8, 16: 8, 32: 8})


@pytest.fixture
def base() -> Base:
    generator = Generator(CONFIG).eval().requires_grad_(False)
    return Base(generator, None, torch.zeros(16), "tiny", "digest")


def test_edits_are_parsed() -> None:
    assert parse_edits("smile=1.5, age@0-7=-1") == (Edit("smile", 1.5), Edit("age", -1.0, (0, 7)))
    assert parse_edits("a/b-c.npy=2") == (Edit("a/b-c.npy", 2.0),)
    for bad in ("", "smile", "smile=", "smile=x", "smile=nan", "age@7-0=1", "=1", "smile=1,"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=NUMBER"):
            parse_edits(bad)


def test_rows_and_features_move(base) -> None:  # noqa: ANN001
    w, wide, thin = torch.randn(2, 8, 16), torch.randn(8, 16), torch.randn(16)
    known = {"wide": Direction(wide, torch.ones(8, 32, 32)), "thin": Direction(thin)}
    found = moved(w, [Edit("wide", 2.0), Edit("thin", -1.0, (2, 3))], known)
    wanted = w + 2.0 * wide
    wanted[:, 2:4] -= thin
    assert torch.allclose(found, wanted, atol=1e-6)
    with pytest.raises(ValueError, match="rows 0 to 7 only"):
        moved(w, [Edit("thin", 1.0, (0, 8))], known)
    face = Face(w, torch.zeros(2, 8, 32, 32))
    assert float(features_moved(face, [Edit("wide", 2.0)], known).mean()) == 2.0
    assert float(features_moved(Face(w), [Edit("wide", 2.0)], known).mean()) == 2.0, "random faces get them too"
    assert features_moved(Face(w), [Edit("thin", 2.0), Edit("wide", 1.0, (0, 3))], known) is None
    with pytest.raises(ValueError, match="changes features"):
        features_moved(Face(w, torch.zeros(2, 8, 16, 16)), [Edit("wide", 2.0)], known)


def test_a_photo_changes_by_what_the_generator_changes(base) -> None:  # noqa: ANN001
    generator, w = base.generator, torch.randn(1, 8, 16)
    known = {"d": Direction(torch.randn(8, 16))}
    with torch.no_grad():
        noise = generator.fixed_noise()
        before, after = (generator.synthesis(rows, noise=noise) for rows in (w, w + 0.05 * known["d"].rows))
    photo = torch.rand(1, 3, 32, 32) * 0.4 - 0.2
    found = edited(Face(w, photo=photo), [Edit("d", 0.05)], known, generator)
    assert torch.allclose(found.photo, (photo + after - before).clamp(-1, 1), atol=1e-5)
    large = edited(Face(w, photo=torch.zeros(1, 3, 64, 64)), [Edit("d", 0.05)], known, generator)
    assert large.photo.shape == (1, 3, 64, 64) and large.photo.abs().max() > 0
    face = Face(w, photo=photo)
    assert edited(face, [], known, generator) is face
    assert torch.allclose(edited(face, [Edit("d", 0.0)], known, generator).photo, photo, atol=1e-6)


def test_sefa_finds_what_the_modulation_hears_most(base) -> None:  # noqa: ANN001
    found = sefa(base.generator, 16)
    assert torch.allclose(found @ found.T, torch.eye(16) * 16 / 64, atol=1e-5)
    loud = torch.nn.functional.normalize(torch.randn(1, 16), dim=1)
    for name, parameter in base.generator.named_parameters():
        if name.endswith("modulation.weight"):
            parameter.data.copy_(torch.randn(len(parameter), 1) @ loud + 0.01 * torch.randn_like(parameter))
    assert torch.cosine_similarity(sefa(base.generator, 1), loud).abs() > 0.99
    assert torch.equal(load_directions([Edit("sefa2", 1.0)], load_base())["sefa2"].rows, sefa(load_base().generator, 3)[2])


@pytest.mark.parametrize(("shape", "rows"), [([16], [16]), ([1, 16], [16]), ([8, 16], [8, 16]), ([1, 8, 16], [8, 16]),
                                             ([1, 1, 16], [16])])
def test_files_of_directions(base, tmp_path, monkeypatch, shape, rows) -> None:  # noqa: ANN001
    value = torch.randn(shape)
    np.save(tmp_path / "smile.npy", value.double().numpy())
    torch.save(value, tmp_path / "old.pt")
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    found = load_directions([Edit("smile", 1.0), Edit(str(tmp_path / "old.pt"), 1.0)], base)
    assert all(list(direction.rows.shape) == rows for direction in found.values())
    assert torch.allclose(found["smile"].rows.flatten(), value.flatten())


def test_directions_that_cannot_be_had_are_one_line(base, tmp_path) -> None:  # noqa: ANN001
    np.save(tmp_path / "a.npy", np.zeros((3, 5)))
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    torch.save(torch.full((16,), float("nan")), tmp_path / "n.pt")
    torch.save({"x": 1}, tmp_path / "d.pt")
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match=path.name):
            read_direction(path, base)
    for name in ("smile", "nothing.npy", "sefa999"):
        with pytest.raises(CheckpointError, match="no such direction"):
            load_directions([Edit(name, 1.0)], base)
    with pytest.raises(CheckpointError, match="rows 0 to 7"):
        load_directions([Edit("sefa0", 1.0, (0, 12))], base)


def test_the_bundled_ones_are_the_starters() -> None:
    base = load_base()
    found = bundled_directions(base)
    assert set(found) == {*TOLD, "pose", "nod", "smile", "mouth"}
    assert all(list(d.rows.shape) == [12, 512] and d.features.shape[1:] == (32, 32) for d in found.values())
    assert bundled_directions(Base(base.generator, None, base.w_avg, "other", "0")) == {}


def test_regression_tells_attributes_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    points = torch.from_numpy(MEAN_FACE).float() + 0.003 * torch.randn(400, 68, 2, generator=rng)
    truth = {"pose": torch.randn(8, 16, generator=rng), "smile": torch.randn(8, 16, generator=rng)}
    drawn = torch.randn(400, 2, generator=rng)
    points[:, 30, 0] += 0.05 * drawn[:, 0]
    points[:, [48, 54], 0] += 0.02 * drawn[:, 1:] * torch.tensor([-1.0, 1.0])
    rows = drawn[:, 0, None, None] * truth["pose"] + drawn[:, 1, None, None] * truth["smile"]
    rows = rows + 0.1 * torch.randn(400, 8, 16, generator=rng)
    names = [row.split(",")[0] for row in LABELS.read_text().splitlines()[1:]]
    names += [f"face{i}" for i in range(400 - len(names))]
    seen = {"rows": rows, "points": points, "identity": torch.randn(400, 128, generator=rng),
            "colours": torch.randn(400, 6, generator=rng), "features": torch.randn(400, 4, 32, 32, generator=rng).half()}
    tensors, found = directions(seen, names, labels=LABELS)
    for name, direction in truth.items():
        assert torch.cosine_similarity(tensors[f"{name}.rows"].flatten(), direction.flatten(), dim=0) > 0.97
    assert found == [*TOLD, "pose", "nod", "smile", "mouth"] and tensors["smile.maps"].shape[1:] == (32, 32)
    wide = from_landmarks(points)["smile"]
    assert torch.corrcoef(torch.stack([wide, drawn[:, 1]]))[0, 1] > 0.9
    labels = read_labels(LABELS, ["nobody", names[0]])
    assert bool(labels["age"][0].isnan()) and not bool(labels["age"][1].isnan())


def test_samples_and_sweeps_are_edited(tmp_path) -> None:  # noqa: ANN001
    style = str(save_drawn(tmp_path / "drawn.safetensors"))
    argv = ["--style", style, "--n_each", "1", "--output", str(tmp_path), "--style_only"]
    pictures = []
    for options in ([], ["--edit", "smile=2"]):
        assert generate_samples.main([*argv, *options]) == 0
        pictures.append(np.asarray(Image.open(next(tmp_path.glob("drawn_*.png")))).astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.5
    sweep = ["--style", style, "--sweep_edit", "age", "--split", "2", "--size", "128", "--output", str(tmp_path / "sweep")]
    assert deformation_control.main(sweep) == 0
    strip = np.asarray(Image.open(next((tmp_path / "sweep").glob("*.png")))).astype(int)
    cells = [strip[-128:, 130 * i:130 * i + 128] for i in range(1, 4)]
    assert np.abs(cells[0] - cells[2]).mean() > np.abs(cells[0] - cells[1]).mean() > 0.3


def test_edits_of_a_photo_are_seen_where_its_face_is_drawn(tmp_path) -> None:  # noqa: ANN001
    photo = Image.fromarray(astronaut()).crop((60, 0, 400, 340))
    style = str(save_drawn(tmp_path / "drawn.safetensors"))
    plain, smiling = (build_stylizer(style, inversion=InversionSettings(edits=edits)) for edits in ((), parse_edits("smile=2")))
    look = plain.style.default_look().changed(alpha=0.0, tone_strength=0.0, stroke_strength=0.0)
    crops = plain.crops(photo, name="astronaut")
    whole = [(stylizer.draw_frame(photo, crops, look=look)).mean(dim=1)[0] for stylizer in (plain, smiling)]
    change = (whole[0] - whole[1]).abs()
    left, top = crops[0].corners.min(axis=0).clip(0).astype(int)
    right, bottom = crops[0].corners.max(axis=0).clip(0).astype(int) + 1
    face = change[top:bottom, left:right].mean()
    change[top:bottom, left:right] = 0.0
    assert face > 0.005 and change.max() < 1e-5
    aligned = [stylizer.stylize(crops[0], look=look).result for stylizer in (plain, smiling)]
    assert (aligned[0] - aligned[1]).abs().mean() > 0.005
