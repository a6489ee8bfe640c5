"""Which part of a picture each pixel is: labels by colours, the network's shape and file, and its stage."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import pretrain
from checkpoints import CheckpointError
from checkpoints.builders import load_base
from checkpoints.features import load_landmark_net, load_network, load_parts
from data.images import to_pil
from data.part_labels import part_labels
from models.parts import BACKGROUND, HAIR, REST, SKIN, PartsConfig, PartsNetwork, face_frame, parts_of
from pipeline.sampling import base_images
from training.pretrain.common import load_state
from training.pretrain.faces import FacePack, jpeg_bytes, write_pack
from training.pretrain.parts import Labelled, PartsTrainingConfig


@pytest.fixture(scope="module")
def faces():  # noqa: ANN201
    """Four faces of the starter [4, 3, 128, 128], and their landmarks."""
    images = base_images(load_base("starter"), 12, [0, 1, 2, 3], truncation_psi=0.7).clamp(-1.0, 1.0)
    with torch.no_grad():
        return images, load_landmark_net().module(images).points


def painted_head() -> tuple[np.ndarray, np.ndarray]:
    """Return a head of four plain colours [128, 128, 3], and landmarks that fit it."""
    from data.landmarks68 import MEAN_FACE

    y, x = (np.indices((128, 128)) + 0.5) / 128
    points = MEAN_FACE.astype(np.float64)
    picture = np.full((128, 128, 3), (0.3, 0.6, 0.9))
    picture[(np.abs(x - 0.5) < 0.45) & (y > 0.93)] = (0.1, 0.5, 0.2)
    picture[((x - 0.5) / 0.33) ** 2 + ((y - 0.5) / 0.42) ** 2 < 1.0] = (0.2, 0.1, 0.05)
    picture[((x - 0.5) / 0.26) ** 2 + ((y - 0.62) / 0.34) ** 2 < 1.0] = (0.9, 0.7, 0.6)
    return picture, points


def test_labels_tell_plain_colours_apart() -> None:
    picture, points = painted_head()
    label = part_labels(picture, points)
    np.testing.assert_allclose(label.sum(axis=0), 1.0)
    assert label[BACKGROUND, 5, 5] > 0.9 and label[SKIN, 75, 64] > 0.9
    assert label[HAIR, 20, 64] > 0.6 > 0.3 > label[BACKGROUND, 20, 64]
    assert label[REST, 126, 40] == label[:, 126, 40].max()


def test_bundled_network_agrees_with_labels(faces) -> None:  # noqa: ANN001
    images, points = faces
    with torch.no_grad():
        share = parts_of(load_parts(), images, points)
    agree = []
    for one, image, places in zip(share, images, points, strict=True):
        label = part_labels(image.permute(1, 2, 0).double().numpy() / 2.0 + 0.5, places.double().numpy())
        agree.append(float((one.argmax(dim=0).numpy() == label.argmax(axis=0)).mean()))
    assert np.mean(agree) > 0.75
    # It looks at the picture: another one has other parts.
    assert (share[0] - share[1]).abs().mean() > 0.03


def test_pictures_and_labels_move_together(faces) -> None:  # noqa: ANN001
    images, points = faces
    pictures = ((images + 1.0) * 127.5).to(torch.uint8).numpy()
    # Labels that say whether a pixel lies inside of the face's own frame.
    x, y = face_frame(points, 128)
    inside = ((x.square() + y.square()).sqrt() < 0.9).float()
    labels = (torch.cat([inside, 1.0 - inside, 0 * inside, 0 * inside], dim=1) * 255.0).to(torch.uint8).numpy()
    drawn, moved, places = Labelled(pictures, labels, points.numpy()).batch(6, torch.Generator().manual_seed(1))
    assert drawn.shape == (6, 3, 128, 128) and moved.shape == (6, 4, 128, 128) and places.shape == (6, 68, 2)
    x, y = face_frame(places, 128)
    wanted = ((x.square() + y.square()).sqrt() < 0.9).float()[:, 0]
    assert ((moved[:, SKIN] > 0.5).float() - wanted).abs().mean() < 0.03


@pytest.mark.parametrize("wrong", [{"size": 100}, {"widths": (8, 8, 8)}, {"edge": 0}])
def test_wrong_shapes_are_refused(wrong) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match="expected a multiple"):
        PartsConfig(**wrong)
    with pytest.raises(ValueError, match="unknown settings"):
        PartsConfig.from_dict({"depth": 3})


def test_a_wrong_file_is_one_line(tmp_path) -> None:  # noqa: ANN001
    path = tmp_path / "page.safetensors"
    for text in (None, b"<!DOCTYPE html><html></html>"):
        if text is not None:
            path.write_bytes(text)
        with pytest.raises(CheckpointError) as caught:
            load_network("parts", path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_stage_labels_trains_resumes_and_is_exported(faces, tmp_path, capsys, monkeypatch) -> None:  # noqa: ANN001
    import training.pretrain.parts as parts

    images, points = faces
    names = [f"photo_{number}" for number in range(4)]
    blobs = [jpeg_bytes(Image.fromarray(np.asarray(to_pil(image[None])))) for image in images]
    write_pack(tmp_path / "pack.npz", names, blobs, size=128, landmarks=points.numpy(), doubt=np.zeros(4, np.float32))
    assert len(FacePack.load(tmp_path / "pack.npz").names) == 4
    monkeypatch.setattr(parts, "PartsTrainingConfig", partial(PartsTrainingConfig, faces=2, drawn=1.0, batch=2))
    argv = ["parts", "--data", str(tmp_path / "pack.npz"), "--state", str(tmp_path), "--minutes", "0.001"]
    assert pretrain.main(argv) == 0
    first = load_state(tmp_path / "parts.pt")["seen"]
    with np.load(tmp_path / "part_labels.npz") as table:
        # Each face, and a drawing of it with the same label, moved.
        assert table["pictures"].shape == (4, 3, 128, 128) and table["labels"].shape == (4, 4, 128, 128)
        assert np.abs(table["pictures"][0].astype(int) - table["pictures"][1]).mean() > 5
        skin = table["labels"][:, SKIN].mean(axis=(1, 2)) / 255.0
        assert 0.1 < skin.min() and skin.max() < 0.8
    assert pretrain.main(argv) == 0
    assert load_state(tmp_path / "parts.pt")["seen"] > first > 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["images"] > first
    assert pretrain.main(["export", "--state", str(tmp_path), "--output", str(tmp_path / "starter")]) == 0
    loaded = load_network("parts", tmp_path / "starter" / "parts.safetensors").module
    assert isinstance(loaded, PartsNetwork) and not loaded.training
