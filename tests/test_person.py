"""Who is behind a drawing: the fit of the map, its file, and its stage."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import pretrain
from checkpoints import CheckpointError
from checkpoints.features import load_person
from data.images import save_image
from models.person import PersonGuess, fit_person
from training.exemplar_tools import load_tools
from training.pretrain.faces import FacePack, jpeg_bytes, write_pack


def test_fit_finds_the_map_and_shrinks_what_is_noise(rng):
    true = torch.randn(4000, 6, generator=rng) + 3.0
    seen = torch.cat([2.0 * true[:, :3] - 1.0, torch.randn(4000, 3, generator=rng)], dim=1)  # half of it tells nothing
    guess = fit_person(seen, true, ridge=1e-6)
    found = guess(seen)
    assert (found[:, :3] - true[:, :3]).abs().max() < 1e-3
    assert (found[:, 3:] - true[:, 3:].mean(dim=0)).abs().max() < 0.3 and not found.requires_grad
    # A great penalty leaves the mean of all persons.
    assert (fit_person(seen, true, ridge=1e6)(seen) - true.mean(dim=0)).abs().max() < 1e-4
    for shapes in ((1, 6), (4, 5)):
        with pytest.raises(ValueError, match="embeddings"):
            fit_person(torch.zeros(*shapes), torch.zeros(shapes[0], 6))


def test_bundled_guess_is_nearer_the_mean_than_what_is_seen():
    guess = load_person()
    assert guess.module.map.in_features == 128 and len(guess.fingerprint) > 8
    _, tools = load_tools("starter")
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    seen = (tools.identity.embed(images) + tools.identity.embed(images.flip(3))) / 2.0
    assert torch.allclose(tools.person.expected(images), guess.module(seen), atol=1e-5)
    assert guess.module.map.weight.norm() < PersonGuess().map.weight.new_ones(128).norm()  # the identity's


def test_a_wrong_file_is_one_line(tmp_path):
    for text, name in (("not found", "none"), ("web page", "page")):
        path = tmp_path / f"{name}.safetensors"
        if name == "page":
            path.write_bytes(b"<!DOCTYPE html><html></html>")
        with pytest.raises(CheckpointError) as caught:
            load_person(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), text


def test_stage_fits_known_drawings(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.exemplar_shape.FACES", 16)
    faces = [f"face{number}" for number in range(12)]
    images, rng = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8), np.random.default_rng(1)
    blobs = []
    for number, image in enumerate(images):
        large = image.repeat(8, axis=0).repeat(8, axis=1)
        save_image(tmp_path / "drawings" / f"{number:04d}.png", torch.from_numpy(large).permute(2, 0, 1)[None] / 127.5 - 1.0)
        blobs.append(jpeg_bytes(Image.fromarray(large)))
    write_pack(tmp_path / "faces.npz", faces, blobs, size=128, landmarks=rng.random((12, 68, 2)).astype(np.float32),
               doubt=np.zeros(12, np.float32))
    assert FacePack.load(tmp_path / "faces.npz").names == faces
    argv = ["person", "--data", str(tmp_path / "faces.npz"), "--drawings", str(tmp_path / "drawings"), "--output",
            str(tmp_path / "person.safetensors")]
    assert pretrain.main(argv) == 2 and "drawings stage" in capsys.readouterr().err
    truth = {"names": np.array([f"{number:04d}.png" for number in range(12)]), "faces": np.array(faces)}
    np.savez(tmp_path / "drawings" / "truth.npz", **truth)
    assert pretrain.main(argv) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["drawings"] == 12 and facts["guessed"] > 0
    assert isinstance(load_person(tmp_path / "person.safetensors").module, PersonGuess)
